"""Rows of a corpus as a regression problem: which lane, under what load, and how far truth is from the base.

Separate from the fitting: this decides what is learnt from which row, the boosting knows matrices alone.

What rows teach. Open loops: latencies at their true utilisation, against the base at the same utilisation, so that an
error of the capacity is not learnt twice; one client alone stands for an empty open lane too. Saturated runs: the
capacity. Closed loops: latencies, and the throughput by Little's law, since a row's own counts goodput where there is
a promise. Batches: latencies and the makespan. A rate's score row repeats one of its load rows and is left to the
calibration of decisions.

What of a lane no correction changes, its inputs and its coefficients, is worked out once and kept as arrays: it is
asked for again by every error and every decision that is judged, and describing a replica costs more than all of those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import Task, TrafficKind, twin_groups
from metainf.measurements import Purpose, Source
from metainf.meta_features.questions import QuestionFeatures
from metainf.methods import Method, portfolio
from metainf.predictors.base_answers import (
    CAPACITY,
    KNOTS,
    LATENCIES,
    MAKESPAN,
    TARGETS,
    THROUGHPUT,
    base_answers,
    coordinates,
    knot_loads,
)
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, Question
from metainf.predictors.inputs import INPUTS, LaneInputs, lane_inputs
from metainf.predictors.lanes import LaneSet
from metainf.predictors.step_factors import StepFactors
from metainf.workload import ConcurrencyLoad

__all__ = ["ALONE", "BLOCK", "TrainingRows", "inputs_of", "merged", "training_rows"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

BLOCK = 4096
"""Lanes that are worked out together, to bound the memory."""
ALONE = -1
"""In place of a number of twins: the lane's task has none."""
_LATENCY_COLUMNS = tuple(f"{metric}_{statistic}_s" for metric in LATENCY_METRICS for statistic in STATISTICS)
_COLUMNS = (
    *("task", "method", "kind", "purpose", "stable", "clients", "batch_requests", "utilization", "makespan_s"),
    *("offered_requests_per_second", "requests_per_second"),
)
_E2E_MEAN = _LATENCY_COLUMNS.index("e2e_mean_s")
_BUSIEST = 0.98
"""Beyond that utilisation a run of any length is mostly noise."""
_MOST_RESIDUAL = 4.0
_EMPTY = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRows:
    """n rows about m lanes, one question each.

    Attributes
    ----------
    lanes : LaneSet of one row for each question
    lane : array of shape (n,)
    load : array of shape (n,)
        Per lane: requests per second, clients, or requests of a batch; NaN for a saturated run.
    utilization : array of shape (n,)
        True utilisation of open loops; NaN for others.
    truth : array of shape (n, targets), logarithms; NaN where the row does not say
    inputs : array of shape (m, d)
    capacity : array of shape (m,), requests/s
        Of one lane, as the features have it.
    coordinate : array of shape (n,)
        Of the load between its lane's knots, at the true utilisation.
    residual : array of shape (n, targets)
        log(truth / base).
    weight : array of shape (n,)
    model, accelerator : arrays of shape (m,)
        Names of the lanes' models and accelerators.
    task : array of shape (m,)
        A number for each task, which the lanes of its methods share.
    twins : array of shape (m,)
        A number that tasks share which are one workload on several places, ALONE for others.
    key : tuple of m (task, method) keys
    features : QuestionFeatures
        Which remembers the questions' replicas.
    """

    questions: Sequence[Question]
    lanes: LaneSet
    lane: IntArray
    load: FloatArray
    utilization: FloatArray
    truth: FloatArray
    inputs: FloatArray
    capacity: FloatArray
    coordinate: FloatArray
    residual: FloatArray
    weight: FloatArray
    model: NDArray[np.str_]
    accelerator: NDArray[np.str_]
    task: IntArray
    twins: IntArray
    key: Sequence[tuple[str, str]]
    features: QuestionFeatures

    def __len__(self) -> int:
        return len(self.lane)

    def under(self, factors: StepFactors) -> "TrainingRows":
        """The same rows over steps under these factors, and no others: lanes, inputs, coordinates and residuals."""
        lanes, inputs, capacity = _described(self.questions, self.features.under(factors))
        return _with_residuals(replace(self, lanes=lanes, inputs=inputs, capacity=capacity))


class _Collector:
    """Gathers rows by lane."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks
        self.questions: list[Question] = []
        self.keys: list[tuple[str, str]] = []
        self.lane: list[int] = []
        self.load: list[float] = []
        self.utilization: list[float] = []
        self.truth: list[FloatArray] = []
        self._numbers: dict[tuple[str, str, bool], int | None] = {}
        self._methods: dict[str, dict[str, Method]] = {}

    def lane_of(self, task: str, method: str, *, alone: bool) -> int | None:
        """The lane's number; None where the task is not known or cannot be served."""
        key = (task, method, alone)
        if key not in self._numbers:
            self._numbers[key] = self._made(key)
        return self._numbers[key]

    def _made(self, key: tuple[str, str, bool]) -> int | None:
        task = self.tasks.get(key[0])
        method = None if task is None else self._method(task.engine_version, key[1])
        if task is None or method is None:
            return None
        replica = replica_of(task, method)
        if isinstance(replica, Infeasible):
            return None
        traffic = replace(task.traffic, load=ConcurrencyLoad(1)) if key[2] else task.traffic
        self.questions.append(Question(replica, traffic))
        self.keys.append(key[:2])
        return len(self.questions) - 1

    def _method(self, version: str, name: str) -> Method | None:
        if version not in self._methods:
            self._methods[version] = {each.name: each for each in portfolio(version)}
        return self._methods[version].get(name)

    def add(self, lane: int, load: float, utilization: float, truth: FloatArray) -> None:
        """One row."""
        self.lane.append(lane)
        self.load.append(load)
        self.utilization.append(utilization)
        self.truth.append(truth)


def training_rows(table: pa.Table, tasks: Mapping[str, Task]) -> TrainingRows:
    """The rows of a measurement table that teach something; only simulated ones, in their order.

    Parameters
    ----------
    table : pyarrow.Table, as `metainf.measurements` has it
    tasks : by their keys; rows of others are passed over
    """
    simulated = pc.equal(table.column("source"), Source.SIMULATION.value)
    table = table.select([*_COLUMNS, *_LATENCY_COLUMNS]).filter(simulated)  # of all columns it would be a second table
    collected = _Collector(tasks)
    columns = _columns(table)
    for row in range(table.num_rows):
        _add(collected, {name: values[row] for name, values in columns.items()})
    return _made(collected)


def _columns(table: pa.Table) -> dict[str, Any]:
    columns = {name: table.column(name).to_pylist() for name in _COLUMNS}
    latency = [table.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for name in _LATENCY_COLUMNS]
    columns["latency"] = np.stack(latency, axis=1) if table.num_rows else np.empty((0, LATENCIES))
    return columns


def _add(to: _Collector, row: Mapping[str, Any]) -> None:
    purpose, kind = row["purpose"], row["kind"]
    lane = to.lane_of(row["task"], row["method"], alone=False)
    if lane is None:
        return
    per_lane = _lanes(to.questions[lane])
    truth = np.full(len(TARGETS), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        truth[:LATENCIES] = np.where(np.isfinite(row["latency"]), np.log(row["latency"]), np.nan)
    if purpose == Purpose.CAPACITY:
        if row["requests_per_second"]:
            saturated = np.full(len(TARGETS), np.nan)
            saturated[CAPACITY] = np.log(row["requests_per_second"] / per_lane)
            to.add(lane, np.nan, np.nan, saturated)
    elif purpose == Purpose.IDLE:
        to.add(lane, 0.0, 0.0, truth.copy())
        alone = to.lane_of(row["task"], row["method"], alone=True)
        if alone is not None:
            to.add(alone, 1.0 / per_lane, np.nan, _with_throughput(truth, 1.0 / per_lane))
    elif kind == TrafficKind.RATE:
        if purpose == Purpose.LOAD and row["stable"] and row["utilization"] and row["utilization"] < _BUSIEST:
            to.add(lane, row["offered_requests_per_second"] / per_lane, row["utilization"], truth)
    elif kind == TrafficKind.CONCURRENCY and row["clients"]:
        to.add(lane, row["clients"] / per_lane, np.nan, _with_throughput(truth, row["clients"] / per_lane))
    elif kind == TrafficKind.BATCH and row["batch_requests"] and row["makespan_s"]:
        truth[MAKESPAN] = np.log(row["makespan_s"])
        to.add(lane, float(np.ceil(row["batch_requests"] / per_lane)), np.nan, truth)


def _lanes(question: Question) -> float:
    layout = question.replica.layout
    return float(layout.data_parallel * layout.pipeline_parallel)


def _with_throughput(truth: FloatArray, clients: float) -> FloatArray:
    """With requests per second of the lane by Little's law."""
    found = truth.copy()
    found[THROUGHPUT] = np.log(clients) - truth[_E2E_MEAN]
    return found


def inputs_of(rows: TrainingRows, lanes: IntArray) -> tuple[LaneInputs, IntArray]:
    """The inputs of the lanes with these numbers, each once, for one answer to each entry; and the number of each."""
    numbers, first, of = np.unique(lanes, return_index=True, return_inverse=True)
    own = replace(_picked(rows.lanes, numbers), of=of.ravel(), lanes=rows.lanes.lanes[lanes])
    return LaneInputs(own, rows.inputs[numbers], rows.capacity[numbers], first), numbers


def _picked(values: Any, places: IntArray) -> Any:
    """Rows of arrays, also of those in dataclasses within dataclasses."""
    if isinstance(values, np.ndarray):
        return values[places]
    return type(values)(*(_picked(getattr(values, each.name), places) for each in fields(values)))


def _joined(parts: Sequence[Any]) -> Any:
    """Arrays end to end, also those in dataclasses within dataclasses."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    columns = ([getattr(part, each.name) for part in parts] for each in fields(parts[0]))
    return type(parts[0])(*(_joined(column) for column in columns))


def merged(parts: Sequence[tuple[IntArray, TrainingRows]]) -> TrainingRows:
    """The same rows with each lane as it stands in one part; a part is numbers of lanes, and the rows to take it from.

    Every lane has to be in one part.
    """
    rows = parts[0][1]
    order = np.argsort(np.concatenate([numbers for numbers, _ in parts]), kind="stable")
    lanes = _picked(_joined([_picked(each.lanes, numbers) for numbers, each in parts]), order)
    part_of = np.empty(len(rows.questions), dtype=np.intp)
    for place, (numbers, _) in enumerate(parts):
        part_of[numbers] = place
    every, part = np.arange(len(rows)), part_of[rows.lane]
    return replace(
        rows,
        lanes=replace(lanes, of=np.arange(len(order))),
        inputs=np.concatenate([each.inputs[numbers] for numbers, each in parts])[order],
        capacity=np.concatenate([each.capacity[numbers] for numbers, each in parts])[order],
        coordinate=np.stack([each.coordinate for _, each in parts])[part, every],
        residual=np.stack([each.residual for _, each in parts])[part, every],
    )


def _described(questions: Sequence[Question], known: QuestionFeatures) -> tuple[LaneSet, FloatArray, FloatArray]:
    """Lanes, inputs and capacities, one row for each question."""
    blocks = [questions[start : start + BLOCK] for start in range(0, max(len(questions), 1), BLOCK)]
    parts: list[LaneSet] = []
    inputs, capacity = np.empty((len(questions), len(INPUTS))), np.empty(len(questions))
    for number, block in enumerate(blocks):
        made = lane_inputs(known, block)
        own = slice(number * BLOCK, number * BLOCK + len(block))
        parts.append(made.lanes.per_question())
        inputs[own], capacity[own] = made.rows[made.lanes.of], made.capacity[made.lanes.of]
    return _joined(parts), inputs, capacity


def _made(collected: _Collector) -> TrainingRows:
    features = QuestionFeatures(remembered=len(collected.questions) + 1)
    lanes, inputs, capacity = _described(collected.questions, features)
    lane = np.array(collected.lane, dtype=np.intp)
    truth = np.array(collected.truth, dtype=np.float64).reshape(-1, len(TARGETS))
    every = TrainingRows(
        questions=collected.questions,
        lanes=lanes,
        lane=lane,
        load=np.array(collected.load, dtype=np.float64),
        utilization=np.array(collected.utilization, dtype=np.float64),
        truth=truth,
        inputs=inputs,
        capacity=capacity,
        coordinate=np.empty(len(lane)),
        residual=np.full(truth.shape, np.nan),
        weight=np.empty(0),
        model=np.array([collected.tasks[task].model for task, _ in collected.keys], dtype=np.str_),
        accelerator=np.array([each.replica.accelerator.name for each in collected.questions], dtype=np.str_),
        task=_numbered([task for task, _ in collected.keys]),
        twins=_twins(collected),
        key=collected.keys,
        features=features,
    )
    return _taught(_with_residuals(every))


def _with_residuals(rows: TrainingRows) -> TrainingRows:
    """The rows with coordinates and residuals as their lanes have them."""
    coordinate, residual = np.empty(len(rows)), np.full(rows.truth.shape, np.nan)
    order = np.argsort(rows.lane, kind="stable")
    starts = np.searchsorted(rows.lane[order], np.arange(0, len(rows.questions) + BLOCK, BLOCK))
    for first, last in pairwise(starts.tolist()):
        places = order[first:last]
        if len(places):
            own, _ = inputs_of(rows, rows.lane[places])
            coordinate[places], base = _base(own, rows.load[places], rows.utilization[places])
            residual[places] = np.clip(rows.truth[places] - base, -_MOST_RESIDUAL, _MOST_RESIDUAL)
    return replace(rows, coordinate=coordinate, residual=residual)


def _taught(every: TrainingRows) -> TrainingRows:
    """Without rows that say nothing, and with weights."""
    told = ~np.isnan(every.residual).all(axis=1)
    names = ("lane", "load", "utilization", "truth", "coordinate", "residual")
    kept = replace(every, **{name: getattr(every, name)[told] for name in names})
    return replace(kept, weight=_weights(kept))


def _numbered(names: Sequence[str]) -> IntArray:
    """A number for each distinct name, in the order in which they come."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)


def _twins(collected: _Collector) -> IntArray:
    """Of each lane the number of the twins that its task is one of."""
    number = {
        task.key: place for place, group in enumerate(twin_groups(list(collected.tasks.values()))) for task in group
    }
    return np.array([number.get(task, ALONE) for task, _ in collected.keys], dtype=np.intp)


def _base(inputs: LaneInputs, load: FloatArray, utilization: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coordinates and base answers of rows; saturated ones are at the last knot."""
    of = inputs.lanes.of
    capacity = inputs.capacity[of]
    saturated = np.isnan(load)
    own = np.where(np.isnan(utilization), load, np.maximum(utilization, _EMPTY) * capacity)
    own = np.where(saturated, _EMPTY * capacity, own)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        base = base_answers(inputs.lanes, own, capacity)
        coordinate = coordinates(inputs.lanes, knot_loads(inputs.lanes, inputs.capacity), own, capacity)
    base[~inputs.lanes.feasible[of]] = np.nan
    return np.where(saturated, KNOTS - 1.0, np.minimum(coordinate, KNOTS - 1.0)), base


def _weights(rows: TrainingRows) -> FloatArray:
    """A lane whose load was searched with many probes must not count for many lanes."""
    kind = np.isnan(rows.load).astype(np.intp)
    _, of, counts = np.unique(rows.lane * 2 + kind, return_inverse=True, return_counts=True)
    weights: FloatArray = 1.0 / np.sqrt(counts[of.ravel()])
    return weights
