"""Selectors of methods: the published baselines, simple ones, and MetaInf's own, under one contract."""
