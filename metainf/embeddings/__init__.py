"""Texts about models, hardware and traffic as vectors: what the papers call embeddings, and their control.

Separate from the meta-features, which are physics: here the question is what a description alone is worth. `texts` says
what is described and how, `encoders` turn strings into vectors, `embeddings` put both together in scikit-learn's
conventions, `reduction` is the SVD that is fitted on train.
"""
