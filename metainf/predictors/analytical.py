"""The analytical predictor: roofline steps, a mean-field engine and the spread that measurements leave around it.

Separate as the predictor that needs no training data at run time: it is the first of the contract, the fallback when
a trained artifact is missing, and a source of features for the others.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from metainf.accelerators import Vendor
from metainf.batches import batch_luck_log_sd, batch_makespan_s
from metainf.efficiencies import CONSTANTS, Efficiency, efficiency_of
from metainf.predictors.contract import FloatArray, Predictions, PredictorIdentity, Question, ReplicaSpec
from metainf.predictors.lanes import REPLICA_ROW, LaneSet, lanes_of, replica_facts, replica_row
from metainf.predictors.latencies import batch_latencies, steady_latencies
from metainf.predictors.remembered import RememberedRows, one_by_one
from metainf.predictors.spread import SPREAD_CONSTANTS, replica_penalty, spread
from metainf.predictors.step_factors import StepFactors
from metainf.queueing import at, solve

__all__ = ["AnalyticalPredictor", "predictions_of"]

_VERSION = "7"


class AnalyticalPredictor:
    """Predicts from the datasheet, the architecture and the declared traffic alone.

    Parameters
    ----------
    efficiency : Efficiency, optional
        Constants for every accelerator, in place of those of its generation: for calibration.
    factors : StepFactors, optional
        What was learnt of the accelerators' steps: what a trained predictor falls back on.
    """

    def __init__(self, efficiency: Efficiency | None = None, factors: StepFactors | None = None) -> None:
        self.efficiency = efficiency
        self._factors = factors
        self._known: RememberedRows[ReplicaSpec] = RememberedRows(REPLICA_ROW + 2, one_by_one(self._described))
        learnt = () if factors is None else (factors.digest,)
        constants = repr((_VERSION, CONSTANTS, SPREAD_CONSTANTS, efficiency, *learnt))
        digest = "sha256:" + hashlib.sha256(constants.encode()).hexdigest()
        self._identity = PredictorIdentity("analytical", digest)

    @property
    def identity(self) -> PredictorIdentity:
        """Name and digest over the version and every constant that a prediction depends on."""
        return self._identity

    def predict(self, questions: Sequence[Question]) -> Predictions:
        """Predictions for all questions at once, in their order."""
        lanes = lanes_of(questions, lambda replicas: self._known.of(replicas)[:, :REPLICA_ROW])
        penalties = self._known.of([q.replica for q in questions])[:, REPLICA_ROW:]
        with np.errstate(over="ignore"):
            return predictions_of(lanes, penalties)

    def _described(self, replica: ReplicaSpec) -> FloatArray:
        accelerator = replica.accelerator
        on_cpu = accelerator.vendor is Vendor.CPU
        efficiency = self.efficiency or efficiency_of(accelerator.generation, cpu=on_cpu)
        steps, facts = replica_facts(replica, efficiency)
        row = replica_row(steps, facts, replica.settings.speculation)
        if self._factors is not None:
            row *= self._factors.of(replica)
        return np.append(row, replica_penalty(replica))


def predictions_of(lanes: LaneSet, penalties: FloatArray) -> Predictions:
    """The answers for lanes that are made; `penalties` as `replica_penalty` gives them, shape (n, 2)."""
    distinct, lanes = lanes, lanes.per_question()
    lane, t = lanes.lane, _any(lanes.traffic)
    is_open, is_batch = lane.open_loop > 0, ~np.isnan(t.requests)
    per_lane = np.where(is_batch, np.ceil(t.requests / lanes.lanes), t.clients / lanes.lanes)
    load = np.where(is_open, t.rate / lanes.lanes, per_lane)
    y, full_y, most = solve(distinct.lane, load, distinct.of)
    point = at(lane, y)
    latency = steady_latencies(lanes, point, load, most, full_y)
    makespan, luck = np.full(len(load), np.nan), np.zeros(len(load))
    if is_batch.any():
        size = np.where(is_batch, load, 1.0)
        makespan = np.where(is_batch, batch_makespan_s(lane, size, most, t.output_log_sd, t.requests), np.nan)
        latency = np.where(is_batch[:, None, None], batch_latencies(lanes, point, size, makespan), latency)
        by_draw = batch_luck_log_sd(lane, size, most, (t.input_log_sd, t.output_log_sd), t.requests)
        luck = np.where(is_batch, by_draw, 0.0)
    capacity = np.where(lanes.feasible, most * lanes.lanes, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        offered = np.where(is_open, t.rate / capacity, np.where(is_batch, makespan / t.deadline_s, 0.0))
        delivered = np.where(is_batch, t.requests / makespan, point.requests_per_second * lanes.lanes)
    closed_use = np.minimum(point.requests_per_second / most, 1.0 - 1e-9)
    utilization = np.where(is_open | is_batch, offered, closed_use)
    delivered = np.where(is_open, np.minimum(t.rate, capacity), delivered)
    delivered = np.where(lanes.feasible, delivered, 0.0)
    latency[~lanes.feasible] = np.inf
    around = spread(penalties, is_open, np.where(lanes.feasible, utilization, np.inf), luck)
    return Predictions(
        latency_s=latency,
        latency_log_sd=around.latency_log_sd,
        output_tokens_per_second=delivered * t.output_tokens,
        requests_per_second=delivered,
        throughput_log_sd=around.throughput_log_sd,
        capacity_log_sd=around.capacity_log_sd,
        capacity_requests_per_second=capacity,
        makespan_s=np.where(lanes.feasible | ~is_batch, makespan, np.inf),
        utilization=np.where(lanes.feasible, utilization, np.inf),
        out_of_distribution=around.out_of_distribution,
    )


def _any(value: object) -> Any:
    """The value for arithmetic on its fields, which hold arrays here."""
    return value
