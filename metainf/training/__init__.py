"""Training of the predictor: from the rows of a corpus to an artifact. Needs the `train` extra.

Separate from the predictors, which the operator imports without any of these libraries.
"""
