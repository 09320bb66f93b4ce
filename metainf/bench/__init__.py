"""Measures methods on real servers: a matrix of methods, traffics and repeats under `vllm bench serve`.

Separate from the rest of `metainf`, which is pure: here processes are started, servers are spoken to and clocks are
read. vLLM itself is never imported: its interpreter runs the programs of `programs/`.
"""
