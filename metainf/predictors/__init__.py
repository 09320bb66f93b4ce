"""Predictors, all under one contract.

Separate from selection, which depends on the contract alone. `analytical` is imported by name where it is used: the
contract must stay importable by what `analytical` itself is built on.
"""

from metainf.predictors.contract import (
    LATENCY_METRICS,
    STATISTICS,
    Predictions,
    Predictor,
    PredictorIdentity,
    Question,
    ReplicaSpec,
)

__all__ = [
    "LATENCY_METRICS",
    "STATISTICS",
    "Predictions",
    "Predictor",
    "PredictorIdentity",
    "Question",
    "ReplicaSpec",
]
