"""The meta-dataset: tasks, and how every method of the portfolio did on them."""
