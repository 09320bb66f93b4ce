"""The caution of choices: a factor on all spreads by which what is chosen keeps its limits as often as it says.

Separate from the spreads, which are right for all candidates and so too narrow for the chosen one, which was chosen
for having been predicted too well.

A case is a task of the corpus with limits, and the cheapest candidate that seems to keep every one is taken. A rate is
asked for at a multiple of itself: candidates are the methods times a number of replicas, and the corpus knows the
highest rate at which each method truly keeps its promises. Closed loops with promises and batches with deadlines are
known under their own load alone: candidates are the methods on one replica, and what is predicted to do most counts as
the cheapest.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from metainf.corpus.task import Task, TrafficKind
from metainf.evaluation.calibration import CalibrationCase, Inflation, cheapest_with, fit_inflation
from metainf.measurements import Purpose, Source
from metainf.meta_features.answers import slo_bounds
from metainf.meta_features.questions import QuestionFeatures
from metainf.methods import portfolio
from metainf.predictors.base_answers import CAPACITY, LATENCIES, MAKESPAN, THROUGHPUT
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS
from metainf.predictors.corrections import Corrections, responses
from metainf.training.predicted_spreads import Spreads
from metainf.training.rows import BLOCK, TrainingRows, inputs_of
from metainf.workload import BatchLoad, ConcurrencyLoad, RateLoad

__all__ = ["CAUTIONS", "CONFIDENCE", "caution_of", "decision_cases", "false_refusals"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

CONFIDENCE = 0.9
CAUTIONS = (0.25, 4.0)
"""Least and largest factor. Where even the largest does not do, what is left is said in the figures."""
_RATE_FACTOR = 4.0
_RATE_REPLICAS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
_TOLERANCE = 1.01  # the width of the corpus's last bracket
_MOST_TASKS = 3000
_LATENCY_COLUMNS = tuple(f"{metric}_{statistic}_s" for metric in LATENCY_METRICS for statistic in STATISTICS)


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """p (task, method) pairs of one kind of traffic with the truth, at each of r numbers of replicas."""

    case: IntArray
    lane: IntArray
    complexity: FloatArray
    load: FloatArray
    """Of one replica, shape (p, r): requests per second, clients or requests."""
    kept: BoolArray
    """Shape (p, r)."""
    bounds_s: FloatArray
    """Shape (p, 12)."""
    deadline_s: FloatArray
    """Shape (p,), infinite for others than batches."""


def decision_cases(
    table: pa.Table,
    tasks: Mapping[str, Task],
    rows: TrainingRows,
    found: Corrections,
    spreads: Spreads,
    *,
    groups: StringArray,
    kind: TrafficKind = TrafficKind.RATE,
) -> CalibrationCase | None:
    """The cases of one split and kind of traffic; None where the corpus has no such tasks.

    Parameters
    ----------
    found : what trees that never saw a lane's group say of it
    groups : array of shape (m,), of the lanes
    """
    pairs = _pairs(table, tasks, rows, kind)
    if not len(pairs.case):
        return None
    margin, work = _margins(pairs, rows, found, spreads)
    names, of = np.unique(pairs.case, return_inverse=True)
    of = of.ravel()
    width, place, each = int(np.bincount(of).max()), _place_within(of), pairs.load.shape[1]
    shape = len(names), width, each
    margins, costs, kept = np.full(shape, -np.inf), np.full(shape, np.inf), np.zeros(shape, dtype=np.bool_)
    margins[of, place] = margin
    cost = np.array(_RATE_REPLICAS, dtype=np.float64)[None] if kind is TrafficKind.RATE else work
    costs[of, place] = cost + 1e-3 * pairs.complexity[:, None]
    kept[of, place] = pairs.kept
    case_groups = np.empty(len(names), dtype=groups.dtype)
    case_groups[of] = groups[pairs.lane]
    flat = len(names), width * each
    return CalibrationCase(margins.reshape(flat), kept.reshape(flat), costs.reshape(flat), case_groups)


def caution_of(case: CalibrationCase) -> tuple[float, Inflation]:
    """The factor for one split's cases, and how it was found."""
    inflation = fit_inflation(case, CONFIDENCE)
    low, high = CAUTIONS
    return (float(np.clip(inflation.value, low, high)) if math.isfinite(inflation.value) else high), inflation


def false_refusals(case: CalibrationCase, caution: float) -> float:
    """Share of the tasks that some candidate truly serves for which none is taken; 0 where no task can be served."""
    servable = case.kept.any(axis=1)
    refused = servable & (cheapest_with(case, caution) < 0)
    return float(refused.sum() / servable.sum()) if servable.any() else 0.0


def _pairs(table: pa.Table, tasks: Mapping[str, Task], rows: TrainingRows, kind: TrafficKind) -> _Pairs:
    """Of tasks with limits, in one world and repeat each."""
    keep = pc.and_(
        pc.equal(table.column("source"), Source.SIMULATION.value),
        pc.and_(pc.equal(table.column("purpose"), Purpose.SCORE.value), pc.equal(table.column("kind"), kind.value)),
    )
    names = ["task", "method", "world", "seed", "performance", "makespan_s", *_LATENCY_COLUMNS]
    scores = table.filter(keep).select(names).to_pylist()
    lanes = {key: lane for lane, key in reversed(list(enumerate(rows.key))) if tasks[key[0]].kind is kind}
    complexity = {method.name: float(method.complexity) for method in portfolio()}
    cases: dict[tuple[str, str, int], int] = {}
    found: list[tuple[int, int, float]] = []
    loads, kept, slos, deadlines = [], [], [], []
    for score in scores:
        task = tasks.get(score["task"])
        lane = lanes.get((score["task"], score["method"]))
        if task is None or lane is None or not (task.slo.bounds or isinstance(task.traffic.load, BatchLoad)):
            continue
        case = cases.setdefault((score["task"], score["world"], score["seed"]), len(cases))
        if case >= _MOST_TASKS:
            continue
        load, keeps = _truth(task, score)
        found.append((case, lane, complexity.get(score["method"], 99.0)))
        loads.append(load)
        kept.append(keeps)
        slos.append(task.slo)
        deadlines.append(task.traffic.load.deadline_s if isinstance(task.traffic.load, BatchLoad) else math.inf)
    columns = np.array(found, dtype=np.float64).reshape(-1, 3).T
    each = len(_RATE_REPLICAS) if kind is TrafficKind.RATE else 1
    return _Pairs(
        case=columns[0].astype(np.intp),
        lane=columns[1].astype(np.intp),
        complexity=columns[2],
        load=np.array(loads, dtype=np.float64).reshape(-1, each),
        kept=np.array(kept, dtype=np.bool_).reshape(-1, each),
        bounds_s=slo_bounds(slos).reshape(-1, LATENCIES),
        deadline_s=np.array(deadlines, dtype=np.float64),
    )


def _truth(task: Task, score: Mapping[str, Any]) -> tuple[FloatArray, BoolArray]:
    """Loads of one replica, shape (r,), and whether it keeps every limit under each."""
    load = task.traffic.load
    if isinstance(load, RateLoad):
        wanted = _RATE_FACTOR * load.requests_per_second / np.array(_RATE_REPLICAS)
        return wanted, score["performance"] * task.layout.accelerators * _TOLERANCE >= wanted
    if isinstance(load, BatchLoad):
        makespan_s = score["makespan_s"]
        return np.array([load.requests]), np.array([bool(makespan_s) and makespan_s <= load.deadline_s])
    assert isinstance(load, ConcurrencyLoad), "there are three kinds of load"
    latency_s = np.array([score[name] for name in _LATENCY_COLUMNS], dtype=np.float64)
    bounds_s = slo_bounds([task.slo]).ravel()
    keeps = bool(np.all((latency_s <= bounds_s) | np.isinf(bounds_s)))
    return np.array([load.concurrency]), np.array([keeps])


def _place_within(of: IntArray) -> IntArray:
    """Number of each entry among those of equal value."""
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], of[order], side="left")
    place = np.empty_like(of)
    place[order] = np.arange(len(of)) - starts
    return place


def _margins(pairs: _Pairs, rows: TrainingRows, found: Corrections, spreads: Spreads) -> tuple[FloatArray, FloatArray]:
    """How far the nearest limit is, in what the confidence asks for, and seconds of work as predicted; (p, r) each."""
    margin, work = np.empty(pairs.load.shape), np.empty(pairs.load.shape)
    known = QuestionFeatures()
    is_batch = np.isfinite(pairs.deadline_s)
    is_open = np.array([isinstance(rows.questions[lane].traffic.load, RateLoad) for lane in pairs.lane.tolist()])
    limits = np.isfinite(pairs.bounds_s).sum(axis=1) + is_open + is_batch
    normal = NormalDist()
    z = np.array([normal.inv_cdf(1.0 - (1.0 - CONFIDENCE) / count) for count in limits.tolist()])
    for start in range(0, len(pairs.case), BLOCK):
        part = slice(start, start + BLOCK)
        inputs, numbers = inputs_of(rows.questions, pairs.lane[part], known)
        own = Corrections(found.residual[numbers], found.distance[numbers], found.fade[numbers])
        distance = own.distance[inputs.lanes.of]
        for column in range(pairs.load.shape[1]):
            load = pairs.load[part, column] / inputs.lanes.lanes
            load = np.where(is_batch[part], np.ceil(load), load)
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                answer = responses(inputs, own, load)
                sd = spreads(answer, distance, pairs.lane[part])
                room = np.log(pairs.bounds_s[part]) - answer.answer[:, :LATENCIES]
                nearest = np.where(np.isfinite(pairs.bounds_s[part]), room / sd[:, :LATENCIES], np.inf).min(axis=1)
                carried = (answer.answer[:, CAPACITY] - np.log(load)) / sd[:, CAPACITY]
                early = (np.log(pairs.deadline_s[part]) - answer.answer[:, MAKESPAN]) / sd[:, MAKESPAN]
            nearest = np.minimum(nearest, np.where(is_open[part], carried, np.inf))
            nearest = np.minimum(nearest, np.where(is_batch[part], early, np.inf))
            margin[part, column] = np.where(inputs.lanes.feasible[inputs.lanes.of], nearest / z[part], -np.inf)
            work[part, column] = np.where(
                is_batch[part], answer.answer[:, MAKESPAN], -answer.answer[:, THROUGHPUT] - np.log(inputs.lanes.lanes)
            )
    return np.nan_to_num(margin, nan=-np.inf, posinf=np.inf, neginf=-np.inf), work
