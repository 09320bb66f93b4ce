"""The caution of choices: a factor on all spreads by which what is chosen keeps its limits as often as it says.

Separate from the spreads, which are right for all candidates and so too narrow for the chosen one, which was chosen
for having been predicted too well.

A case is a task of the corpus with a rate and promises, asked for a multiple of its rate: candidates are the methods
times a number of replicas, the cheapest that seems to keep every limit is taken, and the corpus knows the highest rate
at which each method truly keeps them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

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
from metainf.predictors.base_answers import CAPACITY, LATENCIES
from metainf.predictors.corrections import Corrections, near_full, responses, spreads_at
from metainf.training.rows import BLOCK, TrainingRows, inputs_of
from metainf.training.spreads import SplitSpread

__all__ = ["CAUTIONS", "caution_of", "decision_cases", "false_refusals"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

CONFIDENCE = 0.9
CAUTIONS = (0.25, 4.0)
"""Least and largest factor. Where even the largest does not do, what is left is said in the figures."""
_RATE_FACTOR = 4.0
_REPLICAS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
_TOLERANCE = 1.01  # the width of the corpus's last bracket
_MOST_TASKS = 3000


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """p (task, method) pairs with their true highest rate."""

    task: IntArray
    lane: IntArray
    rate: FloatArray
    complexity: FloatArray
    wanted: FloatArray
    bounds_s: FloatArray
    """Shape (p, 12)."""


def decision_cases(
    table: pa.Table,
    tasks: Mapping[str, Task],
    rows: TrainingRows,
    found: Corrections,
    spread: SplitSpread,
    *,
    groups: StringArray,
) -> CalibrationCase | None:
    """The cases of one split; None where the corpus has no such tasks.

    Parameters
    ----------
    found : what trees that never saw a lane's group say of it
    groups : array of shape (m,), of the lanes
    """
    pairs = _pairs(table, tasks, rows)
    if not len(pairs.task):
        return None
    margin = _margins(pairs, rows, found, spread)
    names, of = np.unique(pairs.task, return_inverse=True)
    of = of.ravel()
    width = int(np.bincount(of).max())
    place = _place_within(of)
    shape = len(names), width, len(_REPLICAS)
    margins, costs, kept = np.full(shape, -np.inf), np.full(shape, np.inf), np.zeros(shape, dtype=np.bool_)
    margins[of, place] = margin
    replicas = np.array(_REPLICAS, dtype=np.float64)
    costs[of, place] = replicas + 1e-3 * pairs.complexity[:, None]
    kept[of, place] = pairs.rate[:, None] * replicas * _TOLERANCE >= pairs.wanted[:, None]
    case_groups = np.empty(len(names), dtype=groups.dtype)
    case_groups[of] = groups[pairs.lane]
    flat = len(names), width * len(_REPLICAS)
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


def _pairs(table: pa.Table, tasks: Mapping[str, Task], rows: TrainingRows) -> _Pairs:
    """Of tasks with promises, in one world and repeat each."""
    keep = pc.and_(
        pc.equal(table.column("source"), Source.SIMULATION.value),
        pc.and_(
            pc.equal(table.column("purpose"), Purpose.SCORE.value),
            pc.equal(table.column("kind"), TrafficKind.RATE.value),
        ),
    )
    scores = table.filter(keep).select(["task", "method", "world", "seed", "performance"]).to_pylist()
    lanes = {key: lane for lane, key in reversed(list(enumerate(rows.key))) if tasks[key[0]].kind is TrafficKind.RATE}
    complexity = {method.name: float(method.complexity) for method in portfolio()}
    cases: dict[tuple[str, str, int], int] = {}
    found: list[tuple[int, int, float, float, float]] = []
    bounds = []
    for score in scores:
        task = tasks.get(score["task"])
        lane = lanes.get((score["task"], score["method"]))
        if task is None or lane is None or not task.slo.bounds:
            continue
        case = cases.setdefault((score["task"], score["world"], score["seed"]), len(cases))
        if case >= _MOST_TASKS:
            continue
        rate = score["performance"] * task.layout.accelerators
        wanted = _RATE_FACTOR * task.traffic.load.requests_per_second  # type: ignore[union-attr]
        found.append((case, lane, rate, complexity.get(score["method"], 99.0), wanted))
        bounds.append(task.slo)
    columns = np.array(found, dtype=np.float64).reshape(-1, 5).T
    return _Pairs(
        task=columns[0].astype(np.intp),
        lane=columns[1].astype(np.intp),
        rate=columns[2],
        complexity=columns[3],
        wanted=columns[4],
        bounds_s=slo_bounds(bounds).reshape(-1, LATENCIES),
    )


def _place_within(of: IntArray) -> IntArray:
    """Number of each entry among those of equal value."""
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], of[order], side="left")
    place = np.empty_like(of)
    place[order] = np.arange(len(of)) - starts
    return place


def _margins(pairs: _Pairs, rows: TrainingRows, found: Corrections, spread: SplitSpread) -> FloatArray:
    """How far the nearest limit is at each number of replicas, in what the confidence asks for; (p, replicas)."""
    margin = np.empty((len(pairs.task), len(_REPLICAS)))
    known = QuestionFeatures()
    limits = 1 + np.isfinite(pairs.bounds_s).sum(axis=1)
    normal = NormalDist()
    z = np.array([normal.inv_cdf(1.0 - (1.0 - CONFIDENCE) / count) for count in limits.tolist()])
    for start in range(0, len(pairs.task), BLOCK):
        part = slice(start, start + BLOCK)
        inputs, numbers = inputs_of(rows.questions, pairs.lane[part], known)
        own = Corrections(found.residual[numbers], found.distance[numbers], found.fade[numbers])
        lanes = inputs.lanes.lanes
        model = spread.log_sd[None], np.array([spread.growth]), np.zeros(len(lanes), dtype=np.intp)
        for column, replicas in enumerate(_REPLICAS):
            load = pairs.wanted[part] / replicas / lanes
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                answer = responses(inputs, own, load)
                sd = spreads_at(*model, own.distance[inputs.lanes.of], answer.coordinate)
                capacity_sd = sd[:, CAPACITY]
                latency_sd = np.hypot(sd[:, :LATENCIES], near_full(capacity_sd, answer.utilization))
                room = np.log(pairs.bounds_s[part]) - answer.answer[:, :LATENCIES]
                nearest = np.where(np.isfinite(pairs.bounds_s[part]), room / latency_sd, np.inf).min(axis=1)
                carried = (answer.answer[:, CAPACITY] - np.log(load)) / capacity_sd
            margin[part, column] = np.where(
                inputs.lanes.feasible[inputs.lanes.of], np.minimum(nearest, carried) / z[part], -np.inf
            )
    return np.nan_to_num(margin, nan=-np.inf, neginf=-np.inf)
