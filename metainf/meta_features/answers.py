"""What the analytical predictor says of many (task, method) pairs at once, at the loads that selection cares about.

Separate from the tables because this is arithmetic on lanes: an empty replica, half of the default's capacity, the
declared load, and the highest rate that keeps every SLO. The contract's `predict` would need a question object for
each rate that the search tries; here the lanes are made once and only their load moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.predictors.analytical import predictions_of
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, Predictions
from metainf.predictors.lanes import LaneSet
from metainf.predictors.latencies import steady_latencies
from metainf.queueing import at, solve
from metainf.workload import LatencyMetric, Slo, Statistic

__all__ = [
    "LoadedLanes",
    "declared",
    "goodput_share",
    "normal_share",
    "slo_bounds",
    "slo_excess",
    "slo_ratios",
    "sustained_rate",
]

FloatArray = NDArray[np.float64]

_EMPTY_SHARE = 1e-4
"""Of the largest load: nobody would call a replica useful that keeps its SLO only below this share of its capacity."""
_BISECTIONS = 14  # of four decades: rates within 0.06 %
_QUANTILES = {Statistic.P50: 0.0, Statistic.P95: 1.6448536269514722, Statistic.P99: 2.3263478740408408}
_FURTHEST = 4.0
"""Standard deviations beyond which a share of requests is not told apart: 3e-5 of them."""
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class LoadedLanes:
    """n questions' lanes with arrivals of their own, whatever load was declared; arrays of shape (n,) per lane."""

    rows: LaneSet
    full_y: FloatArray
    """Requests per step of the fullest state."""
    most: FloatArray
    """Most requests per second."""

    @classmethod
    def of(cls, lanes: LaneSet) -> "LoadedLanes":
        """The lanes of a set, one row per question."""
        rows = lanes.per_question()
        is_open = np.ones_like(rows.lane.slots)
        rows = replace(rows, lane=replace(rows.lane, open_loop=is_open))
        _, full_y, most = solve(rows.lane, np.zeros_like(is_open), rows.of)
        return cls(rows, full_y, most)

    @property
    def capacity(self) -> FloatArray:
        """Most requests per second of all lanes of a question together."""
        return self.most * self.rows.lanes

    def empty_latency_s(self) -> FloatArray:
        """Latencies at next to no load, shape (n, 3, 4), seconds."""
        return self.latency_s(self.full_y * _EMPTY_SHARE)

    def latency_s(self, requests_per_step: FloatArray) -> FloatArray:
        """Latencies with so many requests per step, shape (n, 3, 4), seconds; infinite at the fullest state."""
        point = at(self.rows.lane, requests_per_step)
        return steady_latencies(self.rows, point, point.requests_per_second, self.most, self.full_y)

    def latency_at_rate_s(self, requests_per_second: FloatArray) -> FloatArray:
        """Latencies with so many requests per second for all lanes of a question, shape (n, 3, 4), seconds."""
        load = requests_per_second / self.rows.lanes
        y, _, _ = solve(self.rows.lane, load, self.rows.of)
        return steady_latencies(self.rows, at(self.rows.lane, y), load, self.most, self.full_y)


def slo_bounds(slos: Sequence[Slo]) -> FloatArray:
    """The promises as a table, shape (n, 3, 4), seconds: as LATENCY_METRICS and STATISTICS go, infinite for none."""
    table = np.full((len(slos), len(LATENCY_METRICS), len(STATISTICS)), np.inf)
    for row, slo in enumerate(slos):
        for bound in slo.bounds:
            place = row, LATENCY_METRICS.index(bound.metric), STATISTICS.index(bound.statistic)
            table[place] = min(table[place], bound.bound_s)
    return table


def slo_ratios(latency_s: FloatArray, bounds_s: FloatArray) -> FloatArray:
    """The worst promised statistic of each metric over its bound, shape (n, 3): at most 1 where kept, 0 without any."""
    with np.errstate(invalid="ignore"):
        ratios = np.where(np.isinf(bounds_s), 0.0, latency_s / bounds_s)
    return np.asarray(ratios.max(axis=2))


def slo_excess(latency_s: FloatArray, bounds_s: FloatArray) -> FloatArray:
    """The worst latency over its bound, shape (n,): at most 1 where every SLO holds, 0 without any."""
    return np.asarray(slo_ratios(latency_s, bounds_s).max(axis=1))


def sustained_rate(loaded: LoadedLanes, bounds_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Highest requests per second at which every SLO holds, and how far an empty replica exceeds them.

    Both of shape (n,). Where even an empty replica breaks a promise (an excess above 1) the rate is the lowest tried.
    Without a promise it is the capacity.
    """
    excess = slo_excess(loaded.empty_latency_s(), bounds_s)
    low, high = loaded.full_y * _EMPTY_SHARE, loaded.full_y.copy()
    for _ in range(_BISECTIONS):
        middle = np.sqrt(low * high)
        holds = slo_excess(loaded.latency_s(middle), bounds_s) <= 1.0
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    rate = at(loaded.rows.lane, low).requests_per_second
    unlimited = np.isinf(bounds_s).all(axis=(1, 2))
    return np.where(unlimited, loaded.most, np.minimum(rate, loaded.most)) * loaded.rows.lanes, excess


def goodput_share(predictions: Predictions, bounds_s: FloatArray) -> FloatArray:
    """Share of the requests that keep every promise, shape (n,); a promise on a statistic counts for each request.

    Latencies lie on lines between their predicted quantiles, in logarithms over normal quantiles, and the metrics
    count as independent. Below 3e-5 shares are not told apart.
    """
    share = np.ones(len(bounds_s))
    for place, metric in enumerate(LATENCY_METRICS):
        bound = bounds_s[:, place].min(axis=1)
        share = share * np.where(np.isinf(bound), 1.0, _share_within(predictions.latency_s, metric, bound))
    return share


def _share_within(latency_s: FloatArray, metric: LatencyMetric, bound_s: FloatArray) -> FloatArray:
    place = LATENCY_METRICS.index(metric)
    p50, p95, p99 = (np.log(latency_s[:, place, STATISTICS.index(name)]) for name in _QUANTILES)
    z95, z99 = _QUANTILES[Statistic.P95], _QUANTILES[Statistic.P99]
    bound = np.log(np.maximum(bound_s, _SMALLEST))
    with np.errstate(invalid="ignore"):
        body = (bound - p50) / np.maximum((p95 - p50) / z95, 1e-6)
        tail = z95 + (bound - p95) / np.maximum((p99 - p95) / (z99 - z95), 1e-6)
        z = np.where(bound <= p95, body, tail)
    z = np.where(np.isfinite(p50), np.clip(np.nan_to_num(z, nan=-_FURTHEST), -_FURTHEST, _FURTHEST), -_FURTHEST)
    return normal_share(z)


def normal_share(z: FloatArray) -> FloatArray:
    """Share of a normal distribution below so many standard deviations, within 3e-4; beyond 4 not told apart.

    Source: Page, Applied Statistics 26 (1977).
    """
    z = np.clip(z, -_FURTHEST, _FURTHEST)
    return np.asarray(0.5 * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (z + 0.044715 * z**3))))


def declared(lanes: LaneSet, penalties: FloatArray) -> Predictions:
    """The analytical predictor's answers at the declared loads."""
    with np.errstate(over="ignore"):
        return predictions_of(lanes, penalties)
