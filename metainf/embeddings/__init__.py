"""Texts about models, hardware and traffic as vectors: what the papers call embeddings, and their control."""
