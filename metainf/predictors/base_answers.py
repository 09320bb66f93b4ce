"""What the analytical model says under a load, and at the knots of the load between which answers are interpolated.

Separate from `analytical`, which answers questions, and from `corrections`, which adds what was learnt: training and
run time must correct exactly the same figures.

A lane's knots are loads of its own: next to nothing, and shares of what it can do. Answers are corrected there and made
to rise along the load; between knots they follow the analytical answer, stretched to meet both. So more load is never
faster, whatever was learnt. Where a load lies between its knots is its coordinate: 0 at the first, 1 at the second.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metainf.batches import batch_makespan_s
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, FloatArray
from metainf.predictors.lanes import LaneSet
from metainf.predictors.latencies import batch_latencies, steady_latencies
from metainf.queueing import at, solve

__all__ = [
    "CAPACITY",
    "KNOTS",
    "LATENCIES",
    "MAKESPAN",
    "TARGETS",
    "THROUGHPUT",
    "base_answers",
    "coordinates",
    "knot_answers",
    "knot_loads",
]

TARGETS: tuple[str, ...] = (
    *(f"{metric}_{statistic}" for metric in LATENCY_METRICS for statistic in STATISTICS),
    "capacity",
    "throughput",
    "makespan",
)
"""What is answered and corrected, as natural logarithms; throughput is that of closed loops."""
LATENCIES = len(LATENCY_METRICS) * len(STATISTICS)
CAPACITY, THROUGHPUT, MAKESPAN = range(LATENCIES, LATENCIES + 3)

_UTILIZATIONS = np.array([1e-6, 0.5, 0.8, 0.95])
"""Of open loops at the knots; the corpus measures the default at 0.3, 0.5, 0.7, 0.85 and 0.95."""
_SLOT_RATIOS = np.array([0.0, 0.1, 0.5, 2.0])
"""Clients or requests over slots at the knots; the first is one client."""
_LEAST_STEP = 1.05  # between the loads of two knots
KNOTS = len(_UTILIZATIONS)

_LEAST, _MOST = 1e-9, 1e9  # seconds or rates; infinite ones are very long


def knot_loads(lanes: LaneSet, capacity: FloatArray) -> FloatArray:
    """Loads of m lanes at their knots, rising, shape (m, KNOTS): requests per second, or clients or requests."""
    requests = np.maximum(lanes.lane.slots[:, None] * _SLOT_RATIOS, 1.0)
    for knot in range(1, KNOTS):
        requests[:, knot] = np.maximum(requests[:, knot], requests[:, knot - 1] * _LEAST_STEP)
    return np.asarray(np.where(lanes.lane.open_loop[:, None] > 0, capacity[:, None] * _UTILIZATIONS, requests))


def coordinates(lanes: LaneSet, loads: FloatArray, load: FloatArray, capacity: FloatArray) -> FloatArray:
    """Where n loads lie between the knots of their lanes, shape (n,), from 0 to KNOTS - 1.

    Parameters
    ----------
    loads : array of shape (m, KNOTS)
    load, capacity : arrays of shape (n,)
        Per lane; the load that a knot means follows the capacity.
    """
    of = lanes.of
    is_open = lanes.lane.open_loop[of] > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        idle = -np.log1p(-np.minimum(load / capacity, 1.0))  # waits go as 1 / (1 - utilisation)
        rising = np.where(is_open, idle, np.log(np.maximum(load, 1.0)))
    scale = np.where(is_open[:, None], -np.log1p(-_UTILIZATIONS), np.log(np.maximum(loads[of], _LEAST)))
    below = np.clip((scale <= rising[:, None]).sum(axis=1) - 1, 0, KNOTS - 2)
    rows = np.arange(len(load))
    low, high = scale[rows, below], scale[rows, below + 1]
    return np.asarray(below + np.clip((rising - low) / (high - low), 0.0, 1.0))


def knot_answers(distinct: LaneSet, capacity: FloatArray) -> FloatArray:
    """The answers at the knots of m lanes, shape (m, KNOTS, targets); `capacity` has shape (m,).

    Of batches alone nobody asks: zeros.
    """
    count = len(capacity)
    if not np.isnan(np.asarray(distinct.traffic.requests)).any():
        return np.zeros((count, KNOTS, len(TARGETS)))
    of = np.repeat(np.arange(count), KNOTS)
    every = replace(distinct, of=of, lanes=np.ones(len(of)))
    found = base_answers(every, knot_loads(distinct, capacity).ravel(), capacity[of])
    return found.reshape(count, KNOTS, len(TARGETS))


def base_answers(distinct: LaneSet, load: FloatArray, capacity: FloatArray) -> FloatArray:
    """The answers at n loads, shape (n, targets).

    Parameters
    ----------
    distinct : LaneSet of m lanes and n questions
    load : array of shape (n,)
        Per lane: requests per second, clients, or requests of a batch.
    capacity : array of shape (n,), requests/s
        Of a lane: what an open loop's utilisation is taken against.
    """
    rows = distinct.per_question()
    lane, traffic = rows.lane, _any(rows.traffic)
    is_batch = ~np.isnan(traffic.requests)
    y, full_y, most = solve(distinct.lane, load, distinct.of, refined=False)
    point = at(lane, y)
    found = np.empty((len(load), len(TARGETS)))
    if is_batch.all():
        latency = np.empty((len(load), len(LATENCY_METRICS), len(STATISTICS)))
    else:
        latency = steady_latencies(rows, point, load, capacity, full_y)
    makespan = np.ones_like(load)
    if is_batch.any():
        size = np.where(is_batch, load, 1.0)
        makespan = np.where(is_batch, batch_makespan_s(lane, size, most, traffic.output_log_sd, traffic.requests), 1.0)
        latency = np.where(is_batch[:, None, None], batch_latencies(rows, point, size, makespan), latency)
    found[:, :LATENCIES] = latency.reshape(len(load), LATENCIES)
    found[:, CAPACITY], found[:, THROUGHPUT], found[:, MAKESPAN] = capacity, point.requests_per_second, makespan
    known = np.clip(np.nan_to_num(found, nan=_MOST, posinf=_MOST), _LEAST, _MOST)
    logs: NDArray[np.float64] = np.log(known)
    return logs


def _any(value: object) -> Any:
    """The value for arithmetic on its fields, which hold arrays here."""
    return value
