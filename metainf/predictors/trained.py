"""The trained predictor: the analytical one, corrected by what a corpus of runs taught, with calibrated spreads.

Separate from training, which needs libraries that the operator's image has not: here is numpy alone. What the arrays
mean is in `corrections`; this turns questions into lanes and answers into the contract's table.

Far from all training data it gives the analytical predictor's answer with that one's own spread, over steps as they
were learnt (`step_factors`): what is known of an accelerator's kernels holds however strange the traffic is. In between
it is part of either. `out_of_distribution` is set where that begins, and for generations of accelerators that were
never seen. CPUs are left to the analytical predictor however near they seem, caution included: no corpus has them. So
are accelerators of vendors that were not trained on. Held-out generations of one vendor say nothing of how far another
one's kernels are from its own, and real rows of MI250 and MI300X are nearer to what the analytical predictor says. The
caution of others is that of the kind of traffic and of whether the generation was seen; where the analytical model has
a part in an answer it is at least 1, since what the calibration allows to be narrower are the learnt spreads.
"""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.base_answers import CAPACITY, LATENCIES, MAKESPAN, THROUGHPUT
from metainf.predictors.contract import (
    LATENCY_METRICS,
    STATISTICS,
    BoolArray,
    FloatArray,
    Predictions,
    PredictorIdentity,
    Question,
)
from metainf.predictors.corrections import (
    UNSEEN,
    Responses,
    TrainedModel,
    kinds_of,
    near_full,
    responses,
    spreads_at,
)
from metainf.predictors.known_lanes import KnownLanes, LaneKnowledge
from metainf.predictors.lanes import LaneSet
from metainf.predictors.spread import MOST_LOG_SD, delivered_log_sd, spread

__all__ = ["TrainedPredictor"]

IntArray = NDArray[np.intp]

NAME = "trained"
_MOST_UTILIZATION = 0.99


class TrainedPredictor:
    """Predicts with a trained model.

    Parameters
    ----------
    model : TrainedModel
    digest : str
        Of the file that the model came from.
    """

    def __init__(self, model: TrainedModel, digest: str) -> None:
        self.model = model
        self.digest = digest
        self._knowledge = LaneKnowledge(model)
        self._analytical = AnalyticalPredictor(factors=model.factors)

    @property
    def identity(self) -> PredictorIdentity:
        """Name, and the digest of the artifact."""
        return PredictorIdentity(NAME, self.digest)

    def predict(self, questions: Sequence[Question]) -> Predictions:
        """Predictions for all questions at once, in their order."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            lanes = self._knowledge.features.lanes(questions)
            known = self._knowledge.of(questions, lanes)
            caution = self._cautions(lanes, known)
            far = (known.found.fade >= 1.0)[lanes.of]
            if len(far) and far.all():
                return replace(self._analytical.predict(questions), out_of_distribution=far, caution=caution)
            answers = replace(_Answers(self, questions, lanes, known).table(), caution=caution)
        rows = np.flatnonzero(far)
        if len(rows):
            answers = _replaced(answers, rows, self._analytical.predict([questions[row] for row in rows.tolist()]))
        return answers

    def is_known(self, accelerator: str) -> bool:
        """Whether the generation of this accelerator was trained on."""
        return self._knowledge.is_seen(accelerator)

    def _cautions(self, lanes: LaneSet, known: KnownLanes) -> FloatArray:
        """The caution of each question, shape (n,); 1 of lanes that are left to the analytical predictor by vendor."""
        found = known.found
        caution = self.model.caution[known.category, kinds_of(lanes)]
        of_lanes: FloatArray = np.where(found.fade > 0.0, np.maximum(caution, 1.0), caution)
        of_lanes[np.isinf(found.distance)] = 1.0
        return of_lanes[lanes.of]

    def penalties(self, questions: Sequence[Question]) -> FloatArray:
        """What the analytical predictor adds to its spread for each question, shape (n, 2)."""
        return self._knowledge.features.penalties(questions)


class _Answers:
    """One batch of questions on its way to a table."""

    def __init__(
        self, predictor: TrainedPredictor, questions: Sequence[Question], lanes: LaneSet, known: KnownLanes
    ) -> None:
        traffic, count, of = lanes.traffic, lanes.lanes, lanes.of
        rate, clients, requests, deadline, tokens = (
            np.asarray(each)[of]
            for each in (traffic.rate, traffic.clients, traffic.requests, traffic.deadline_s, traffic.output_tokens)
        )
        self.predictor, self.questions, self.known = predictor, questions, known
        self.of, self.count, self.rate, self.requests = of, count, rate, requests
        self.deadline_s, self.tokens = deadline, tokens
        self.is_open, self.is_batch = ~np.isnan(rate), ~np.isnan(requests)
        load = np.where(self.is_batch, np.ceil(requests / count), np.where(self.is_open, rate, clients) / count)
        self.feasible = lanes.feasible[of]
        self.response: Responses = responses(lanes, known.capacity, known.found, load, known.knots)

    def table(self) -> Predictions:
        """The answers as the contract has them, but for their caution."""
        response, feasible = self.response, self.feasible
        answer = np.exp(response.answer)
        capacity = np.where(feasible, answer[:, CAPACITY] * self.count, 0.0)
        makespan = np.maximum(answer[:, MAKESPAN], self.requests / capacity)
        delivered = np.where(self.is_open, self.rate, answer[:, THROUGHPUT] * self.count)
        delivered = np.minimum(np.where(self.is_batch, self.requests / makespan, delivered), capacity)
        utilization = np.where(
            self.is_open,
            response.utilization,
            np.where(
                self.is_batch,
                makespan / self.deadline_s,
                np.minimum(delivered / np.maximum(capacity, 1e-300), 1.0 - 1e-9),
            ),
        )
        utilization = np.where(feasible, utilization, np.inf)
        latency = answer[:, :LATENCIES].reshape(len(answer), len(LATENCY_METRICS), len(STATISTICS))
        latency[~feasible] = np.inf
        latency_sd, throughput_sd, capacity_sd, outside = self._spreads(utilization)
        return Predictions(
            latency_s=latency,
            latency_log_sd=latency_sd,
            output_tokens_per_second=delivered * self.tokens,
            requests_per_second=delivered,
            throughput_log_sd=throughput_sd,
            capacity_log_sd=capacity_sd,
            capacity_requests_per_second=capacity,
            makespan_s=np.where(self.is_batch, np.where(feasible, makespan, np.inf), np.nan),
            utilization=utilization,
            out_of_distribution=outside,
        )

    def _spreads(self, utilization: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
        """Log standard deviations of latencies, throughput and capacity, and what is outside of the training data."""
        of, known, model = self.of, self.known, self.predictor.model
        fade, category = known.found.fade[of], known.category[of]
        sd = spreads_at(model.log_sd, category, self.response, known.width[of], known.drafting[of])
        capacity_sd = sd[:, CAPACITY]
        rho = np.clip(np.where(self.is_open & self.feasible, utilization, 0.0), 0.0, _MOST_UTILIZATION)
        latency_sd = np.hypot(sd[:, :LATENCIES], near_full(capacity_sd, rho)).reshape(
            len(of), len(LATENCY_METRICS), len(STATISTICS)
        )
        offered = delivered_log_sd(capacity_sd, rho)
        throughput_sd = np.where(self.is_batch, sd[:, MAKESPAN], sd[:, THROUGHPUT])
        throughput_sd = np.where(self.is_open, np.where(utilization < 1.0, offered, capacity_sd), throughput_sd)
        if fade.any():
            own = spread(self.predictor.penalties(self.questions), self.is_open, utilization, self.response.luck)
            latency_sd += fade[:, None, None] * (own.latency_log_sd - latency_sd)
            throughput_sd += fade * (own.throughput_log_sd - throughput_sd)
            capacity_sd = capacity_sd + fade * (own.capacity_log_sd - capacity_sd)
        outside = (category == UNSEEN) | (fade > 0.0)
        return np.minimum(latency_sd, MOST_LOG_SD), throughput_sd, capacity_sd, outside


def _replaced(answers: Predictions, rows: IntArray, others: Predictions) -> Predictions:
    """The answers with others in these rows."""
    names = [field.name for field in fields(Predictions) if field.name not in ("caution", "out_of_distribution")]
    changed = {}
    for name in names:
        changed[name] = getattr(answers, name).copy()
        changed[name][rows] = getattr(others, name)
    return replace(answers, **changed)
