"""Loads and promises for a shape of traffic, where a person would put them for one replica.

Separate from the shapes: what load is sensible and what latency can be promised depends on the place, and is asked of
a predictor that knows datasheet and declaration alone, never of the truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from metainf.corpus.task import TrafficKind
from metainf.corpus.workloads import Point, Shape, log_between, significant
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, Predictions
from metainf.workload import (
    BatchLoad,
    ConcurrencyLoad,
    LatencyMetric,
    Load,
    RateLoad,
    Slo,
    SloBound,
    Statistic,
    Traffic,
)

__all__ = ["loaded", "unloaded_traffic"]

T = TypeVar("T")

_KINDS = ((TrafficKind.RATE, 0.30), (TrafficKind.CONCURRENCY, 0.40), (TrafficKind.BATCH, 0.30))
_MOST_CLIENTS = 1024.0
_MOST_BATCH = 4096.0
_UTILIZATION = (0.2, 1.0)
_IDLE_RATIO = 0.05  # of the capacity: a load at which nothing queues
_GOODPUT_SHARE = 1 / 3  # of the closed loops have promises
_STATISTICS = ((Statistic.P95, 0.75), (Statistic.P50, 0.15), (Statistic.P99, 0.10))
_TIGHTNESS = {
    LatencyMetric.TTFT: (0.7, 15.0),
    LatencyMetric.TPOT: (0.5, 5.0),
    LatencyMetric.E2E: (0.5, 5.0),
}
"""Bounds over what the default is predicted to have when idle; prompts may queue, tokens should flow.

The lows are below what the default reaches at any load, by what drafts and FP8 can gain: such promises are asked for
too. Assumed. A task whose promises no method keeps at all is drawn as any other and stays in the corpus with scores of
0; `metainf.corpus.tables` leaves it out of what is learnt and judged.
"""
_CLOSED_TIGHTNESS = (0.9, 2.5)
"""The same for closed loops, over what it is predicted to have under that load."""
_DEADLINE_RATIO = (0.6, 5.0)
"""Of batches, over what the default is predicted to need: from what only a faster method keeps to what all do.

Assumed."""
_LEAST_BOUND_S = 1e-3  # manifests count milliseconds
_LEAST_RATE, _MOST_RATE = 1e-6, 1e5
_BUNDLES = (
    ((LatencyMetric.TTFT, LatencyMetric.TPOT), 0.5),
    ((LatencyMetric.TTFT,), 0.2),
    ((LatencyMetric.E2E,), 0.2),
    ((LatencyMetric.TPOT,), 0.1),
)

Predict = Callable[[Traffic], Predictions]


def unloaded_traffic(shape: Shape) -> Traffic:
    """The shape with some rate, for questions that no load enters."""
    return _traffic(shape, RateLoad(1.0))


def loaded(shape: Shape, point: Point, predict: Predict) -> tuple[Traffic, Slo] | None:
    """The shape under a load, with its promises; None where the predictor says that nothing can be served."""
    kind = _by_share(_KINDS, point["kind"])
    if kind is TrafficKind.BATCH:
        requests = round(significant(_MOST_BATCH ** point["load"], 2))
        makespan_s = float(predict(_traffic(shape, BatchLoad(requests, 1e6))).makespan_s[0])
        if not np.isfinite(makespan_s):
            return None
        ratio = log_between(_DEADLINE_RATIO, point["slo_rest"])
        deadline_s = max(1.0, round(significant(ratio * makespan_s), 3))
        return _traffic(shape, BatchLoad(requests, deadline_s)), Slo()
    if kind is TrafficKind.CONCURRENCY:
        traffic = _traffic(shape, ConcurrencyLoad(round(significant(_MOST_CLIENTS ** point["load"], 2))))
        if point["slo_kind"] >= _GOODPUT_SHARE:
            return traffic, Slo()
        kind_point = {**point, "slo_kind": point["slo_kind"] / _GOODPUT_SHARE}
        steady = replace(shape, burstiness=1.0)
        return traffic, _slo(kind_point, steady, predict(traffic), dict.fromkeys(LATENCY_METRICS, _CLOSED_TIGHTNESS))
    return _with_rate(shape, point, predict)


def _with_rate(shape: Shape, point: Point, predict: Predict) -> tuple[Traffic, Slo] | None:
    capacity = float(predict(_traffic(shape, RateLoad(1.0))).capacity_requests_per_second[0])
    if not capacity > 0.0:
        return None
    low, high = _UTILIZATION
    rate = _rate(capacity * (low + (high - low) * point["load"]))
    idle = predict(_traffic(shape, RateLoad(capacity * _IDLE_RATIO)))
    return _traffic(shape, RateLoad(rate)), _slo(point, shape, idle, _TIGHTNESS)


def _traffic(shape: Shape, load: Load) -> Traffic:
    return Traffic(
        load=load,
        input_tokens=shape.input_tokens,
        output_tokens=shape.output_tokens,
        shared_prefix=shape.shared_prefix,
        repetitiveness=shape.repetitiveness,
        burstiness=shape.burstiness if isinstance(load, RateLoad) else 1.0,  # other loads have no gaps
    )


def _rate(value: float) -> float:
    """Three digits, and no more than the six decimals of a manifest."""
    return min(max(round(significant(value), 6), _LEAST_RATE), _MOST_RATE)


def _slo(point: Point, shape: Shape, expected: Predictions, tightness: dict[LatencyMetric, tuple[float, float]]) -> Slo:
    """Bounds over what is expected, by the point's tightness."""
    statistic = _by_share(_STATISTICS, point["slo_statistic"])
    asked = _by_share(_BUNDLES, point["slo_kind"])
    if shape.output_tokens.mean_tokens < _LEAST_ANSWER_TOKENS:
        asked = tuple(metric for metric in asked if metric is not LatencyMetric.TPOT) or (LatencyMetric.TTFT,)
    bounds = []
    for metric in asked:
        axis = "slo_ttft" if metric is LatencyMetric.TTFT else "slo_rest"
        ratio = log_between(tightness[metric], point[axis]) * _burst_factor(shape, metric)
        latency_s = expected.latency_s[0, LATENCY_METRICS.index(metric), STATISTICS.index(statistic)]
        bound_s = max(_LEAST_BOUND_S, round(significant(float(latency_s) * ratio), 3))
        bounds.append(SloBound(metric, statistic, bound_s))
    return Slo(tuple(bounds)) if all(np.isfinite(bound.bound_s) for bound in bounds) else Slo()


def _burst_factor(shape: Shape, metric: LatencyMetric) -> float:
    """How much looser promises are where requests come in clumps, which are as dense at any rate.

    Kingman's (ca^2 + cs^2) / 2 for prompts that wait for each other; its root for what clumps slow down.
    """
    factor = max(1.0, (1.0 + shape.burstiness**2) / 2.0)
    return factor if metric is LatencyMetric.TTFT else factor**0.5


_LEAST_ANSWER_TOKENS = 8.0  # of shorter answers most have one token, and no gap


def _by_share(choices: Sequence[tuple[T, float]], share: float) -> T:
    """The choice whose part of 0 to 1 the share falls into."""
    reached = 0.0
    for choice, part in choices:
        reached += part
        if share < reached:
            return choice
    return choices[-1][0]
