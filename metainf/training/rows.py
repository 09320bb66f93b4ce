"""Rows of a corpus as a regression problem: which lane, under what load, and how far truth is from the base.

Separate from the fitting: this decides what is learnt from which row, the boosting knows matrices alone.

What rows teach. Open loops: latencies at their true utilisation, against the base at the same utilisation, so that an
error of the capacity is not learnt twice; one client alone stands for an empty open lane too. Saturated runs: the
capacity. Closed loops: latencies, and the throughput by Little's law, since a row's own counts goodput where there is
a promise. Batches: latencies and the makespan. A rate's score row repeats one of its load rows and is left to the
calibration of decisions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import Task, TrafficKind
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
from metainf.predictors.inputs import LaneInputs, lane_inputs
from metainf.workload import ConcurrencyLoad

__all__ = ["BLOCK", "TrainingRows", "inputs_of", "training_rows"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

BLOCK = 4096
"""Lanes that are worked out together, to bound the memory."""
_LATENCY_COLUMNS = tuple(f"{metric}_{statistic}_s" for metric in LATENCY_METRICS for statistic in STATISTICS)
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
    lane : array of shape (n,)
    load : array of shape (n,)
        Per lane: requests per second, clients, or requests of a batch; NaN for a saturated run.
    utilization : array of shape (n,)
        True utilisation of open loops; NaN for others.
    truth : array of shape (n, targets), logarithms; NaN where the row does not say
    inputs : array of shape (m, d)
    coordinate : array of shape (n,)
        Of the load between its lane's knots, at the true utilisation.
    residual : array of shape (n, targets)
        log(truth / base).
    weight : array of shape (n,)
    model, accelerator : arrays of shape (m,)
        Names of the lanes' models and accelerators.
    key : tuple of m (task, method) keys
    """

    questions: Sequence[Question]
    lane: IntArray
    load: FloatArray
    utilization: FloatArray
    truth: FloatArray
    inputs: FloatArray
    coordinate: FloatArray
    residual: FloatArray
    weight: FloatArray
    model: NDArray[np.str_]
    accelerator: NDArray[np.str_]
    key: Sequence[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.lane)


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
    table = table.filter(pc.equal(table.column("source"), Source.SIMULATION.value))
    collected = _Collector(tasks)
    columns = _columns(table)
    for row in range(table.num_rows):
        _add(collected, {name: values[row] for name, values in columns.items()})
    return _with_residuals(collected)


def _columns(table: pa.Table) -> dict[str, Any]:
    names = ("task", "method", "kind", "purpose", "stable", "clients", "batch_requests", "utilization", "makespan_s")
    columns = {name: table.column(name).to_pylist() for name in (*names, "offered_requests_per_second")}
    columns["requests_per_second"] = table.column("requests_per_second").to_pylist()
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


def inputs_of(questions: Sequence[Question], lanes: IntArray, known: QuestionFeatures) -> tuple[LaneInputs, IntArray]:
    """The inputs of some lanes, with one row of answers for each entry of `lanes`; and the number of each lane there.

    Lanes come out in an order of their own, and equal questions share one.
    """
    distinct, of = np.unique(lanes, return_inverse=True)
    made = lane_inputs(known, [questions[number] for number in distinct.tolist()])
    wide = replace(made.lanes, of=made.lanes.of[of.ravel()], lanes=made.lanes.lanes[of.ravel()])
    return LaneInputs(wide, made.rows, made.capacity, made.first), distinct[made.first]


def _with_residuals(collected: _Collector) -> TrainingRows:
    lane = np.array(collected.lane, dtype=np.intp)
    load = np.array(collected.load, dtype=np.float64)
    utilization = np.array(collected.utilization, dtype=np.float64)
    truth = np.array(collected.truth, dtype=np.float64).reshape(-1, len(TARGETS))
    inputs = np.zeros((len(collected.questions), 0))
    coordinate, base = np.empty(len(lane)), np.full(truth.shape, np.nan)
    known = QuestionFeatures()
    for start in range(0, len(collected.questions), BLOCK):
        numbers = np.arange(start, min(start + BLOCK, len(collected.questions)))
        own, _ = inputs_of(collected.questions, numbers, known)
        if not inputs.shape[1]:
            inputs = np.zeros((len(collected.questions), own.rows.shape[1]))
        inputs[numbers] = own.rows[own.lanes.of]
        rows = np.flatnonzero((lane >= numbers[0]) & (lane <= numbers[-1]))
        if len(rows):
            wide, _ = inputs_of(collected.questions, lane[rows], known)
            coordinate[rows], base[rows] = _base(wide, load[rows], utilization[rows])
    residual = np.clip(truth - base, -_MOST_RESIDUAL, _MOST_RESIDUAL)
    taught = ~np.isnan(residual).all(axis=1)
    replicas = [question.replica for question in collected.questions]
    kept = TrainingRows(
        questions=collected.questions,
        lane=lane[taught],
        load=load[taught],
        utilization=utilization[taught],
        truth=truth[taught],
        inputs=inputs,
        coordinate=coordinate[taught],
        residual=residual[taught],
        weight=np.empty(0),
        model=np.array([collected.tasks[task].model for task, _ in collected.keys], dtype=np.str_),
        accelerator=np.array([replica.accelerator.name for replica in replicas], dtype=np.str_),
        key=collected.keys,
    )
    return replace(kept, weight=_weights(kept))


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
