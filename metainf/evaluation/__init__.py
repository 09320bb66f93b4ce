"""How good a selector is: metrics, splits that do not flatter, intervals, tables and plots."""
