"""Meta-features: numbers with physics that describe a task, a method and the two together; never an id.

Separate from selectors and predictors, which learn from these and must all see the same. Import what is needed from
the modules: `questions` (run time), `tasks` (tables for selectors), `observed` (traffic as it was seen).
"""
