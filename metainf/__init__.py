"""Chooses how to serve an open-weight language model: which accelerators, which vLLM method, which layout.

A library without a cluster: it selects, `metainf_operator` acts.
"""

__version__ = "0.1.0"
