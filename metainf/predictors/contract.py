"""The one contract of every predictor: questions in, a table of predictions with intervals out.

Separate so that selection, the CLI and the operator depend on this and on no particular predictor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metainf.accelerators import Accelerator
from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.layouts import Layout
from metainf.settings import EffectiveSettings
from metainf.workload import LatencyMetric, Statistic, Traffic

__all__ = [
    "LATENCY_METRICS",
    "STATISTICS",
    "BoolArray",
    "FloatArray",
    "Predictions",
    "Predictor",
    "PredictorIdentity",
    "Question",
    "ReplicaSpec",
]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LATENCY_METRICS = (LatencyMetric.TTFT, LatencyMetric.TPOT, LatencyMetric.E2E)
STATISTICS = (Statistic.MEAN, Statistic.P50, Statistic.P95, Statistic.P99)


@dataclass(frozen=True, slots=True, eq=False)
class ReplicaSpec:
    """One replica of the engine: the model on its accelerators, laid out, with its settings resolved.

    Compared by identity: selection makes each once and asks about it many times.
    """

    architecture: ModelArchitecture
    accelerator: Accelerator
    layout: Layout
    settings: EffectiveSettings
    cpu_cores: float | None = None  # cores of one replica, where it runs on the CPU itself

    @property
    def narrows_weights(self) -> bool:
        """Whether weights are quantised to FP8 while they are loaded."""
        return self.settings.weight_dtype is DType.FP8

    @property
    def narrows_cache(self) -> bool:
        """Whether the cache is kept in FP8 and the checkpoint does not say so."""
        return self.settings.kv_cache_dtype is DType.FP8 and self.architecture.kv_cache_dtype is not DType.FP8


@dataclass(frozen=True, slots=True)
class Question:
    """How would `replicas` equal replicas do, together, under this traffic?"""

    replica: ReplicaSpec
    traffic: Traffic
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class PredictorIdentity:
    """Name and digest of a predictor, as decisions and metrics show them."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Answers to n questions; errors are lognormal around the medians given here.

    Attributes
    ----------
    latency_s : array of shape (n, 3, 4), seconds
        Median prediction per LATENCY_METRICS and STATISTICS; infinite where the load exceeds the capacity.
    latency_log_sd : array of shape (n, 3, 4)
        Standard deviation of the logarithm of truth / prediction.
    output_tokens_per_second, requests_per_second : arrays of shape (n,)
        Delivered by all replicas together.
    throughput_log_sd : array of shape (n,)
        Of the delivered throughput: small where what is offered fits, since it is then delivered.
    capacity_log_sd : array of shape (n,)
        Of `capacity_requests_per_second`, whatever is offered.
    capacity_requests_per_second : array of shape (n,)
        The most that all replicas together could deliver.
    makespan_s : array of shape (n,), seconds
        Of a batch; NaN for other loads.
    utilization : array of shape (n,)
        Offered load over capacity; at least 1 where it does not fit.
    out_of_distribution : array of shape (n,), bool
        The question is outside what the predictor knows; its intervals are already widened.
    caution : float or array of shape (n,)
        Factor on all standard deviations where a choice is made by them, see `for_choosing`; 1 where none was measured.
        Choosing prefers what is predicted too well, so the chosen one's errors are not those of all. Below 1 where
        limits that break together need less room than the confidence of each of them asks for.
    """

    latency_s: FloatArray
    latency_log_sd: FloatArray
    output_tokens_per_second: FloatArray
    requests_per_second: FloatArray
    throughput_log_sd: FloatArray
    capacity_log_sd: FloatArray
    capacity_requests_per_second: FloatArray
    makespan_s: FloatArray
    utilization: FloatArray
    out_of_distribution: BoolArray
    caution: FloatArray | float = 1.0

    def latency_at(self, z: float) -> FloatArray:
        """Latencies that truth stays below with the normal quantile `z`; shape (n, 3, 4), seconds."""
        return self.latency_s * np.exp(z * self.latency_log_sd)

    def output_tokens_per_second_at(self, z: float) -> FloatArray:
        """Delivered output tokens per second that truth stays below with quantile `z`; shape (n,)."""
        return self.output_tokens_per_second * np.exp(z * self.throughput_log_sd)

    def for_choosing(self) -> "Predictions":
        """The same with the spreads by which a choice is made: times the caution, which is then 1."""
        caution = self._cautions()
        return replace(
            self,
            latency_log_sd=self.latency_log_sd * caution[:, None, None],
            throughput_log_sd=self.throughput_log_sd * caution,
            capacity_log_sd=self.capacity_log_sd * caution,
            caution=1.0,
        )

    def followed_by(self, other: "Predictions") -> "Predictions":
        """These answers with another table's of the same predictor after them."""
        names = (field.name for field in fields(Predictions) if field.name != "caution")
        columns = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names}
        return replace(self, caution=np.concatenate([self._cautions(), other._cautions()]), **columns)

    def _cautions(self) -> FloatArray:
        """The caution of each answer, shape (n,)."""
        return np.broadcast_to(np.asarray(self.caution, dtype=np.float64), self.utilization.shape)

    def makespan_at(self, z: float) -> FloatArray:
        """Makespans that truth stays below with quantile `z`; shape (n,), seconds."""
        return self.makespan_s * np.exp(z * self.throughput_log_sd)


class Predictor(Protocol):
    """Answers questions about replicas under traffic. Same questions, same answers."""

    @property
    def identity(self) -> PredictorIdentity:
        """Name and digest."""

    def predict(self, questions: Sequence[Question]) -> Predictions:
        """Predictions for all questions at once, in their order."""
