"""What a run of the simulator says once its warm-up is discarded, and how sure that is.

Separate from the search for a rate and from the kinds of traffic, which all read runs in this one way.

Intervals are by batch means: the requests after the warm-up are cut into ten runs of neighbours, the statistic is taken
of each, and their spread gives the interval of their mean. Neighbours wait in the same queue, so an interval from
single requests would be far too narrow.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.predictors.contract import LATENCY_METRICS, STATISTICS
from metainf.simulator.contract import IntArray, SimulationResult
from metainf.workload import LatencyMetric, Slo, Statistic

__all__ = ["Latencies", "kept", "latencies", "margin_of", "request_latencies"]

FloatArray = NDArray[np.float64]

_BATCHES = 10
_T_95 = 2.2621571627982049  # Student's t of 9 degrees of freedom at 0.975
_LEAST_PER_BATCH = 20
_QUANTILES = {Statistic.P50: 0.5, Statistic.P95: 0.95, Statistic.P99: 0.99}


@dataclass(frozen=True, slots=True, eq=False)
class Latencies:
    """Latencies of the counted requests of one run, each array of shape (3, 4) as LATENCY_METRICS and STATISTICS.

    `interval_ratio` is half of the 95 % interval over the value; NaN where too few requests say nothing of it.
    """

    value_s: FloatArray
    interval_ratio: FloatArray
    requests: int

    @classmethod
    def unstable(cls, requests: int) -> "Latencies":
        """Of a load above the capacity: infinite, whatever a run of finite length shows."""
        shape = (len(LATENCY_METRICS), len(STATISTICS))
        return cls(np.full(shape, np.inf), np.zeros(shape), requests)


def request_latencies(result: SimulationResult, output_tokens: IntArray) -> FloatArray:
    """Shape (3, n): TTFT, TPOT and E2E of each request, seconds; NaN where refused, and TPOT of one-token answers."""
    by_metric = {
        LatencyMetric.TTFT: result.ttft_s,
        LatencyMetric.TPOT: result.tpot_s(output_tokens),
        LatencyMetric.E2E: result.e2e_s,
    }
    return np.stack([by_metric[metric] for metric in LATENCY_METRICS])


def latencies(per_request_s: FloatArray, first: int = 0) -> Latencies:
    """Statistics over the requests from the `first` on; `per_request_s` as `request_latencies` gives it."""
    counted = per_request_s[:, first:]
    shape = (len(LATENCY_METRICS), len(STATISTICS))
    value, interval = np.full(shape, np.nan), np.full(shape, np.nan)
    for row, values in enumerate(counted):
        known = values[~np.isnan(values)]
        if len(known) == 0:
            continue
        value[row] = _statistics(known)
        if len(known) >= _BATCHES * _LEAST_PER_BATCH:
            batches = np.array([_statistics(batch) for batch in np.array_split(known, _BATCHES)])
            half = _T_95 * batches.std(axis=0, ddof=1) / np.sqrt(_BATCHES)
            interval[row] = half / np.maximum(batches.mean(axis=0), 1e-12)
    return Latencies(value, interval, counted.shape[1])


def _statistics(values: FloatArray) -> FloatArray:
    ordered = np.quantile(values, list(_QUANTILES.values()))
    by_statistic = dict(zip(_QUANTILES, ordered, strict=True)) | {Statistic.MEAN: values.mean()}
    return np.array([by_statistic[statistic] for statistic in STATISTICS])


def margin_of(found: Latencies, slo: Slo) -> tuple[float, float]:
    """By how much the worst promise is kept or broken, as log(latency / bound), and half the interval of that latency.

    Below 0 every promise holds. Without any, -inf. A latency that no request has, as TPOT of answers of one token,
    breaks nothing.
    """
    worst, interval = -np.inf, 0.0
    for bound in slo.bounds:
        at = LATENCY_METRICS.index(bound.metric), STATISTICS.index(bound.statistic)
        value = found.value_s[at]
        if np.isnan(value):
            continue
        margin = np.inf if np.isinf(value) else np.log(max(value, 1e-12) / bound.bound_s)
        if margin > worst:
            worst, interval = margin, found.interval_ratio[at]
    return float(worst), float(np.inf if np.isnan(interval) else interval)


def kept(per_request_s: FloatArray, slo: Slo) -> NDArray[np.bool_]:
    """Shape (n,): the requests that met every bound themselves; those refused did not."""
    met = ~np.isnan(per_request_s[LATENCY_METRICS.index(LatencyMetric.TTFT)])
    for bound in slo.bounds:
        values = per_request_s[LATENCY_METRICS.index(bound.metric)]
        met = met & (np.isnan(values) | (values <= bound.bound_s))
    return np.asarray(met, dtype=np.bool_)
