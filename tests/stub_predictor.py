"""A predictor whose answers follow from two figures, so that a test can say beforehand what will be chosen."""

from collections.abc import Callable, Sequence

import numpy as np

from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, Predictions, PredictorIdentity, Question
from metainf.workload import BatchLoad, ConcurrencyLoad, RateLoad

Capacity = Callable[[Question], float]
"""Requests per second that one replica carries at most."""


def equal_capacity(rps: float = 10.0) -> Capacity:
    return lambda question: rps


def capacity_by_accelerator(**rps: float) -> Capacity:
    """By the accelerator's family, times the accelerators of the replica."""

    def capacity(question: Question) -> float:
        replica = question.replica
        return rps.get(replica.accelerator.family, 1.0) * replica.layout.accelerators

    return capacity


class StubPredictor:
    """A replica that carries c requests/s answers a share r of them within 1 / (c - r) s, tokens alike."""

    def __init__(self, capacity: Capacity | None = None, *, log_sd: float = 0.0, name: str = "stub") -> None:
        self._capacity = capacity or equal_capacity()
        self._log_sd = log_sd
        self.identity = PredictorIdentity(name, "sha256:" + "0" * 64)
        self.asked = 0

    def predict(self, questions: Sequence[Question]) -> Predictions:
        self.asked += 1
        count = len(questions)
        each = np.array([self._capacity(q) for q in questions], dtype=np.float64)
        replicas = np.array([q.replicas for q in questions], dtype=np.float64)
        whole = each * replicas
        offered = np.array([_offered(q, c) for q, c in zip(questions, whole, strict=True)], dtype=np.float64)
        served = np.minimum(offered, whole)
        left = np.maximum(0.0, each - offered / np.maximum(replicas, 1))
        with np.errstate(divide="ignore"):
            wait_s = 1.0 / left
        latency = np.repeat(wait_s[:, None], len(LATENCY_METRICS) * len(STATISTICS), axis=1)
        latency = latency.reshape(count, len(LATENCY_METRICS), len(STATISTICS)) * np.array([1.0, 0.1, 10.0])[:, None]
        tokens = np.array([q.traffic.output_tokens.mean_tokens for q in questions], dtype=np.float64)
        makespan = [q.traffic.load.requests if isinstance(q.traffic.load, BatchLoad) else np.nan for q in questions]
        return Predictions(
            latency_s=latency,
            latency_log_sd=np.full_like(latency, self._log_sd),
            output_tokens_per_second=served * tokens,
            requests_per_second=served,
            throughput_log_sd=np.full(count, self._log_sd),
            capacity_log_sd=np.full(count, self._log_sd),
            capacity_requests_per_second=whole,
            makespan_s=np.array(makespan, dtype=np.float64) / whole,
            utilization=offered / whole,
            out_of_distribution=np.zeros(count, dtype=bool),
        )


def _offered(question: Question, whole: float) -> float:
    load = question.traffic.load
    if isinstance(load, RateLoad):
        return load.requests_per_second
    # Closed loops and batches keep the server as busy as they can without drowning it.
    return whole / 2 if isinstance(load, ConcurrencyLoad) else whole
