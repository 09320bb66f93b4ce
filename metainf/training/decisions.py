"""The caution of choices: a factor on all spreads by which what is chosen keeps its limits as often as it says.

Separate from the spreads, which are right for all candidates and so not for the chosen one, which was chosen for having
been predicted too well.

A case is a task of the corpus with limits, and the cheapest candidate that seems to keep every one is taken. A rate is
asked for at a multiple of itself: candidates are the methods times a number of replicas, and the corpus knows the
highest rate at which each method truly keeps its promises. Closed loops with promises and batches with deadlines are
known under their own load alone: candidates are the methods on one replica, and the cheapest is that which is predicted
to do most for the money.

An operator chooses among places too, whose errors have less in common than those of methods on one place, so that the
chosen one is more often one that was predicted too well. The corpus has twins for that: one workload on several places,
which together are a case as well. Where accelerators are held out, the places of a case are those of one generation: a
guarantee is about a group that was not seen, and all of a case has to be of one.

A caution is one for each kind of traffic, and for generations of accelerators that were trained on (from held-out model
families) and for others (from held-out generations): a workload is promised its confidence whatever its kind, and one
kind that needs much of it is no reason to refuse another. What each promises:

Let L_g(c) be the share of the picks in group g that break a limit where spreads are multiplied by c, 0 where nothing is
picked: between 0 and 1. Of G held-out groups and the next one, all exchangeable, the next is as likely to be any of the
G + 1. Let c be the least factor from which on (L_1 + ... + L_G + 1) / (G + 1) <= 1 - confidence. Whatever the next
group's loss is, it is at most the 1 in that sum; so the factor that would be found with that group among the others is
no larger than c, and by exchangeability the expected loss of the next group is at most 1 - confidence.
Source: Angelopoulos, Bates, Fisch, Lei and Schuster, Conformal risk control, ICLR 2024 (arXiv 2208.02814), theorem 1.
With 14 groups the mean over those may then be 3.6 % and not 10 %, with 40 7.8 %, and with fewer than 9 there is none.
The theorem takes losses that never rise with c. Those of choices may, since another candidate is picked; "from which
on" bounds their mean for all larger factors as well, which makes the guarantee one for many groups and not for any
number. It is a mean over groups, and says nothing of a workload whose model and whose generation are both unknown, or
of one choice among places of both categories.

Nothing in it asks for c >= 1. Each limit is judged at 1 - (1 - confidence) / limits (Bonferroni), which is right for
limits that break apart and too wide for those that break together, as TTFT, TPOT and E2E of one lane do: where n limits
are all one, the quantile of one of them does, that is a factor of 0.78 for two, 0.70 for three, 0.62 for five and 0.53
for thirteen, all statistics and the load. So a factor below 1 is believed where the guarantee holds and the groups with
picks bear it out, down to what that explains (`CAUTIONS`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from metainf.corpus.task import Task, TrafficKind, twin_groups
from metainf.evaluation.calibration import CalibrationCase, Guarantee, Inflation, cheapest_with, fit_inflation
from metainf.evaluation.prices import assumed_usd_per_hour
from metainf.measurements import Purpose, Source
from metainf.meta_features.answers import slo_bounds
from metainf.methods import portfolio
from metainf.predictors.base_answers import CAPACITY, LATENCIES, MAKESPAN, THROUGHPUT
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS
from metainf.predictors.corrections import Corrections, responses
from metainf.training.predicted_spreads import Spreads
from metainf.training.rows import BLOCK, TrainingRows, inputs_of
from metainf.workload import BatchLoad, ConcurrencyLoad, RateLoad

__all__ = [
    "CAUTIONS",
    "CONFIDENCE",
    "Decided",
    "caution_of",
    "decided",
    "decision_cases",
    "every_case",
]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

CONFIDENCE = 0.9
CAUTIONS = (0.5, 4.0)
"""Least and largest factor. Limits that all break together explain a factor of 0.53, were there thirteen of them; what
seems to do with less does so by the luck of few cases, whose next best candidate was far off. Where even the largest
does not do, what is left is said in the figures."""
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
    usd_per_hour: FloatArray
    """Of one replica, shape (p,)."""
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
    twins: bool = False,
) -> CalibrationCase | None:
    """The cases of one split and kind of traffic; None where the corpus has no such tasks.

    Parameters
    ----------
    found : what trees that never saw a lane's group say of it
    groups : array of shape (m,), of the lanes
    twins : whether a case is a workload on all of its places, and not a task on its own
    """
    pairs = _pairs(table, tasks, rows, kind, groups if twins else None)
    if not len(pairs.case):
        return None
    margin, work = _margins(pairs, rows, found, spreads)
    names, of = np.unique(pairs.case, return_inverse=True)
    of = of.ravel()
    width, place, each = int(np.bincount(of).max()), _place_within(of), pairs.load.shape[1]
    shape = len(names), width, each
    margins, costs, kept = np.full(shape, -np.inf), np.full(shape, np.inf), np.zeros(shape, dtype=np.bool_)
    margins[of, place] = margin
    # Logarithms: so many replicas, or hours for the work and their price; of equal ones the simpler.
    amount = np.log(_RATE_REPLICAS)[None] if kind is TrafficKind.RATE else work
    costs[of, place] = np.log(pairs.usd_per_hour)[:, None] + amount + 1e-3 * pairs.complexity[:, None]
    kept[of, place] = pairs.kept
    case_groups = np.empty(len(names), dtype=groups.dtype)
    case_groups[of] = groups[pairs.lane]
    flat = len(names), width * each
    return CalibrationCase(margins.reshape(flat), kept.reshape(flat), costs.reshape(flat), case_groups)


def every_case(
    table: pa.Table,
    tasks: Mapping[str, Task],
    rows: TrainingRows,
    found: Corrections,
    spreads: Spreads,
    *,
    groups: StringArray,
    kind: TrafficKind,
) -> Sequence[CalibrationCase]:
    """The cases of one split and kind of traffic: tasks on their own first, then workloads over several places."""
    each = [
        decision_cases(table, tasks, rows, found, spreads, groups=groups, kind=kind, twins=twins)
        for twins in (False, True)
    ]
    return [case for case in each if case is not None]


def caution_of(cases: Sequence[CalibrationCase]) -> tuple[float, Inflation]:
    """The factor for one split's cases of one kind of traffic, and how it was found.

    Below 1 only where the guarantee exists and, among the groups with picks alone, no more of the picks break a limit
    than may: groups that refuse everything must not make the picks of others look safe.
    """
    inflation = fit_inflation(cases, CONFIDENCE)
    kept = inflation.violation_rate <= 1.0 - CONFIDENCE + 1e-12
    least = CAUTIONS[0] if inflation.guarantee is Guarantee.UNSEEN_GROUPS and kept else 1.0
    most = CAUTIONS[1]
    return (float(np.clip(inflation.value, least, most)) if math.isfinite(inflation.value) else most), inflation


@dataclass(frozen=True, slots=True)
class Decided:
    """What a caution comes to: shares of picks and tasks.

    Attributes
    ----------
    violations : float
        Of picks, mean over the groups with picks; NaN without any.
    refusals : float
        Of tasks.
    false_refusals : float
        Of the tasks that some candidate truly serves; 0 where there are none.
    """

    violations: float
    refusals: float
    false_refusals: float


def decided(cases: Sequence[CalibrationCase], caution: float) -> Decided:
    """What is picked and refused under a caution."""
    picks = [cheapest_with(case, caution) for case in cases]
    picked = np.concatenate(picks) >= 0
    kept = np.concatenate(
        [case.kept[np.arange(len(pick)), np.maximum(pick, 0)] for case, pick in zip(cases, picks, strict=True)]
    )
    servable = np.concatenate([case.kept.any(axis=1) for case in cases])
    groups = np.concatenate([case.groups for case in cases])
    broken = [float(np.mean(~kept[picked & (groups == name)])) for name in np.unique(groups[picked]).tolist()]
    return Decided(
        violations=float(np.mean(broken)) if broken else math.nan,
        refusals=float(np.mean(~picked)),
        false_refusals=float(np.mean(~picked[servable])) if servable.any() else 0.0,
    )


_CaseKey = tuple[object, ...]


def _pairs(
    table: pa.Table, tasks: Mapping[str, Task], rows: TrainingRows, kind: TrafficKind, groups: StringArray | None
) -> _Pairs:
    """Of tasks with limits, in one repeat each, in one world; with `groups` the twins of one group under one repeat."""
    keep = pc.and_(
        pc.equal(table.column("source"), Source.SIMULATION.value),
        pc.and_(pc.equal(table.column("purpose"), Purpose.SCORE.value), pc.equal(table.column("kind"), kind.value)),
    )
    names = ["task", "method", "world", "seed", "performance", "makespan_s", *_LATENCY_COLUMNS]
    scores = table.filter(keep).select(names).to_pylist()
    lanes = {key: lane for lane, key in reversed(list(enumerate(rows.key))) if tasks[key[0]].kind is kind}
    complexity = {method.name: float(method.complexity) for method in portfolio()}
    twin_of = {} if groups is None else _twins(tasks, kind)
    cases: dict[_CaseKey, int] = {}
    found: list[tuple[int, int, float, float]] = []
    loads, kept, slos, deadlines = [], [], [], []
    for score in scores:
        task = tasks.get(score["task"])
        lane = lanes.get((score["task"], score["method"]))
        if task is None or lane is None or not (task.slo.bounds or isinstance(task.traffic.load, BatchLoad)):
            continue
        key: _CaseKey = (score["task"], score["world"], score["seed"])
        if groups is not None:
            if task.key not in twin_of:
                continue
            key = (twin_of[task.key], score["seed"], str(groups[lane]))
        case = cases.setdefault(key, len(cases))
        if case >= _MOST_TASKS:
            continue
        load, keeps = _truth(task, score)
        usd = assumed_usd_per_hour(task.accelerator) * task.layout.accelerators
        found.append((case, lane, complexity.get(score["method"], 99.0), usd))
        loads.append(load)
        kept.append(keeps)
        slos.append(task.slo)
        deadlines.append(task.traffic.load.deadline_s if isinstance(task.traffic.load, BatchLoad) else math.inf)
    columns = np.array(found, dtype=np.float64).reshape(-1, 4).T
    each = len(_RATE_REPLICAS) if kind is TrafficKind.RATE else 1
    pairs = _Pairs(
        case=columns[0].astype(np.intp),
        lane=columns[1].astype(np.intp),
        complexity=columns[2],
        usd_per_hour=columns[3],
        load=np.array(loads, dtype=np.float64).reshape(-1, each),
        kept=np.array(kept, dtype=np.bool_).reshape(-1, each),
        bounds_s=slo_bounds(slos).reshape(-1, LATENCIES),
        deadline_s=np.array(deadlines, dtype=np.float64),
    )
    return pairs if groups is None else _on_several_places(pairs, rows)


def _twins(tasks: Mapping[str, Task], kind: TrafficKind) -> Mapping[str, int]:
    """The number of the group of each task of that kind that has twins."""
    every = twin_groups([task for task in tasks.values() if task.kind is kind])
    return {task.key: number for number, group in enumerate(every) for task in group}


def _on_several_places(pairs: _Pairs, rows: TrainingRows) -> _Pairs:
    """Without cases of which one place alone is left, and without what stands twice because two worlds know it."""
    if not len(pairs.case):
        return pairs
    _, first = np.unique(np.stack([pairs.case, pairs.lane], axis=1), axis=0, return_index=True)
    task_of = np.array([rows.key[lane][0] for lane in pairs.lane.tolist()], dtype=np.str_)
    places = {case: len(set(task_of[pairs.case == case].tolist())) for case in np.unique(pairs.case).tolist()}
    several = np.array([places[case] > 1 for case in pairs.case.tolist()], dtype=np.bool_)
    kept = np.sort(first[several[first]])
    return _Pairs(*(getattr(pairs, each.name)[kept] for each in fields(_Pairs)))


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
    """How far the nearest limit is, in what the confidence asks for, and seconds of work as predicted; (p, r) each.

    Where the analytical model has a part in an answer the caution is at least 1 (see `predictors.trained`): what is
    nearer than that cannot be chosen there.
    """
    margin, work = np.empty(pairs.load.shape), np.empty(pairs.load.shape)
    is_batch = np.isfinite(pairs.deadline_s)
    is_open = ~np.isnan(np.asarray(rows.lanes.traffic.rate))[pairs.lane]
    limits = np.isfinite(pairs.bounds_s).sum(axis=1) + is_open + is_batch
    normal = NormalDist()
    z = np.array([normal.inv_cdf(1.0 - (1.0 - CONFIDENCE) / count) for count in limits.tolist()])
    for start in range(0, len(pairs.case), BLOCK):
        part = slice(start, start + BLOCK)
        inputs, numbers = inputs_of(rows, pairs.lane[part])
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
            nearest = np.where(inputs.lanes.feasible[inputs.lanes.of], nearest / z[part], -np.inf)
            margin[part, column] = np.where((distance > 1.0) & (nearest < 1.0), -np.inf, nearest)
            work[part, column] = np.where(
                is_batch[part], answer.answer[:, MAKESPAN], -answer.answer[:, THROUGHPUT] - np.log(inputs.lanes.lanes)
            )
    return np.nan_to_num(margin, nan=-np.inf, posinf=np.inf, neginf=-np.inf), work
