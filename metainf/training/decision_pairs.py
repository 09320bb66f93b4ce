"""What is true of the choices that cautions are fitted on: pairs of tasks and methods, their loads, limits and costs.

Separate from the decisions, which hold predictions against it: nothing here has been predicted.

A rate is asked for at `_RATE_FACTOR` times itself, under numbers of replicas that surround what methods need. Every
task has a budget, drawn around what it costs under the default (`evaluation.budgets`): of a rate per hour, with the
fewest of those replicas; of clients per million output tokens; of a batch in total. So a task without promises is a
choice as well.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metainf.corpus.task import Task, TrafficKind, twin_groups
from metainf.evaluation.budgets import (
    COST_COLUMNS,
    budget_factor,
    expected_costs,
    replica_usd_per_hour,
    score_rows,
    usd_of,
)
from metainf.evaluation.promises import PROMISE_COLUMNS, headroom
from metainf.meta_features.answers import slo_bounds
from metainf.methods import portfolio
from metainf.predictors.base_answers import LATENCIES
from metainf.training.rows import TrainingRows
from metainf.workload import BatchLoad, ConcurrencyLoad, RateLoad

__all__ = ["RATE_REPLICAS", "Pairs", "pairs_of"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

RATE_REPLICAS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
"""How many replicas may share a rate."""
_RATE_FACTOR = 4.0
_TOLERANCE = 1.01  # the width of the corpus's last bracket
_MOST_TASKS = 3000
_COLUMNS = tuple(dict.fromkeys((*COST_COLUMNS, "world", *PROMISE_COLUMNS)))
_UNKNOWN_COMPLEXITY = 99.0


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """p (task, method) pairs of one kind of traffic with the truth, at each of r numbers of replicas.

    Attributes
    ----------
    case, lane : arrays of shape (p,)
        Numbers of the choice that the pair is a candidate of, and of its lane.
    complexity : array of shape (p,)
    usd_per_hour : array of shape (p,)
        Of one replica.
    load : array of shape (p, r)
        Of one replica: requests per second, clients or requests.
    usd : array of shape (p, r)
        What the pair truly costs, in the unit of its budget.
    budget_usd : array of shape (p,)
        Infinite where there is none; the same for all pairs of a case.
    slack : array of shape (p, r)
        Logarithm of what is allowed over what is truly needed, the least over the limits. A rate's is that of the load
        it can carry over the load it gets, and infinitely little where its known price is over the budget.
    bounds_s : array of shape (p, 12)
    deadline_s : array of shape (p,)
        Infinite for others than batches.
    """

    case: IntArray
    lane: IntArray
    complexity: FloatArray
    usd_per_hour: FloatArray
    load: FloatArray
    usd: FloatArray
    budget_usd: FloatArray
    slack: FloatArray
    bounds_s: FloatArray
    deadline_s: FloatArray

    @property
    def kept(self) -> BoolArray:
        """Whether every limit is, shape (p, r)."""
        held: BoolArray = self.slack >= 0.0
        return held


_CaseKey = tuple[object, ...]


def pairs_of(
    table: pa.Table, tasks: Mapping[str, Task], rows: TrainingRows, kind: TrafficKind, groups: StringArray | None
) -> Pairs:
    """The pairs of tasks with limits, in one repeat each, in one world.

    With `groups`, which are the lanes', a choice is among the twins of one group under one repeat.
    """
    mine = {key: task for key, task in tasks.items() if task.kind is kind}
    scores = score_rows(table, mine, _COLUMNS)
    expected = expected_costs((each["task"], each["method"], _usd(mine[each["task"]], each)) for each in scores)
    lanes = {key: lane for lane, key in reversed(list(enumerate(rows.key))) if key[0] in mine}
    complexity = {method.name: float(method.complexity) for method in portfolio()}
    twin_of = {} if groups is None else _twins(mine)
    cases: dict[_CaseKey, int] = {}
    found: list[tuple[int, int, float, float, float]] = []
    truths: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    asked: list[Task] = []
    for score in scores:
        task, lane = mine[score["task"]], lanes.get((score["task"], score["method"]))
        if lane is None or not (_has_promises(task) or task.key in expected):
            continue
        key: _CaseKey = (score["task"], score["world"], score["seed"])
        if groups is not None:
            if task.key not in twin_of:
                continue
            key = (twin_of[task.key], score["seed"], str(groups[lane]))
        case = cases.setdefault(key, len(cases))
        if case >= _MOST_TASKS:
            continue
        budget_usd = budget_factor(task) * expected.get(task.key, math.inf)
        simpler = complexity.get(score["method"], _UNKNOWN_COMPLEXITY)
        found.append((case, lane, simpler, replica_usd_per_hour(task), budget_usd))
        truths.append(_truth(task, score))
        asked.append(task)
    columns = np.array(found, dtype=np.float64).reshape(-1, 5).T
    each = len(RATE_REPLICAS) if kind is TrafficKind.RATE else 1
    pairs = Pairs(
        case=columns[0].astype(np.intp),
        lane=columns[1].astype(np.intp),
        complexity=columns[2],
        usd_per_hour=columns[3],
        load=np.array([load for load, _, _ in truths], dtype=np.float64).reshape(-1, each),
        usd=np.array([usd for _, usd, _ in truths], dtype=np.float64).reshape(-1, each),
        budget_usd=columns[4],
        slack=np.array([slack for _, _, slack in truths], dtype=np.float64).reshape(-1, each),
        bounds_s=slo_bounds([task.slo for task in asked]).reshape(-1, LATENCIES),
        deadline_s=np.array([task.deadline_s for task in asked], dtype=np.float64),
    )
    pairs = pairs if groups is None else _on_several_places(pairs, rows)
    return _within_budgets(pairs, is_known=kind is TrafficKind.RATE)


def _has_promises(task: Task) -> bool:
    return bool(task.slo.bounds) or isinstance(task.traffic.load, BatchLoad)


def _usd(task: Task, score: Mapping[str, Any]) -> float:
    """What the method truly costs; of a rate with the fewest replicas of those asked about that carry it."""
    if not isinstance(task.traffic.load, RateLoad):
        return usd_of(task, score)
    _, usd, slack = _truth(task, score)
    return float(usd[slack >= 0.0].min(initial=math.inf))


def _truth(task: Task, score: Mapping[str, Any]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Loads of one replica, what these cost, and their slack under every limit but the budget; shape (r,) each."""
    load = task.traffic.load
    if isinstance(load, RateLoad):
        replicas = np.array(RATE_REPLICAS, dtype=np.float64)
        wanted = _RATE_FACTOR * load.requests_per_second / replicas
        carried = np.asarray(score["performance"] * task.layout.accelerators * _TOLERANCE)
        return wanted, replica_usd_per_hour(task) * replicas, _log_ratio(carried, wanted)
    together = load.concurrency if isinstance(load, ConcurrencyLoad) else load.requests
    return (
        np.array([float(together)]),
        np.array([usd_of(task, score)]),
        _log_ratio(np.array([headroom(task, score)]), 1.0),
    )


def _log_ratio(allowed: FloatArray, needed: FloatArray | float) -> FloatArray:
    """Not negative exactly where what is needed is allowed; -inf where nothing is, NaN of infinite over infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(allowed / needed))


def _twins(tasks: Mapping[str, Task]) -> Mapping[str, int]:
    """The number of the group of each task that has twins."""
    every = twin_groups(list(tasks.values()))
    return {task.key: number for number, group in enumerate(every) for task in group}


def _on_several_places(pairs: Pairs, rows: TrainingRows) -> Pairs:
    """Without cases of which one place alone is left, and without what stands twice because two worlds know it."""
    if not len(pairs.case):
        return pairs
    _, first = np.unique(np.stack([pairs.case, pairs.lane], axis=1), axis=0, return_index=True)
    task_of = np.array([rows.key[lane][0] for lane in pairs.lane.tolist()], dtype=np.str_)
    places = {case: len(set(task_of[pairs.case == case].tolist())) for case in np.unique(pairs.case).tolist()}
    several = np.array([places[case] > 1 for case in pairs.case.tolist()], dtype=np.bool_)
    kept = np.sort(first[several[first]])
    return Pairs(*(getattr(pairs, each.name)[kept] for each in fields(Pairs)))


def _within_budgets(pairs: Pairs, *, is_known: bool) -> Pairs:
    """With one budget for each case, that of its cheapest place, as one more limit; `is_known` of what pairs cost."""
    if not len(pairs.case):
        return pairs
    least = np.full(int(pairs.case.max()) + 1, np.inf)
    np.minimum.at(least, pairs.case, pairs.budget_usd)
    budget_usd = least[pairs.case]
    spare = np.where(np.isinf(budget_usd)[:, None], np.inf, _log_ratio(budget_usd[:, None], pairs.usd))
    if is_known:
        spare = np.where(spare >= 0.0, np.inf, -np.inf)
    return replace(pairs, budget_usd=budget_usd, slack=np.minimum(pairs.slack, spare))
