"""What the trained predictor knows of lanes before any load: worked out once for each replica and kind of traffic.

Separate from the predictor, which answers questions: most of what an answer rests on does not depend on the load, and
it is most of the work. The selection asks about the same lanes again for each number of replicas that it looks at, and
the operator when a price or a rate has changed.

Traffic is of one kind where it differs in the size of its load alone, in its rate or its clients: no input of the trees
knows these, and the knots of a lane are loads of its own. What is known of batches is not kept, since of these the
number of requests and of replicas decides how often a prefix is met.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.evaluation.groups import accelerator_group
from metainf.meta_features.questions import QuestionFeatures
from metainf.predictors.base_answers import KNOTS, TARGETS, knot_answers
from metainf.predictors.contract import FloatArray, Question, ReplicaSpec
from metainf.predictors.corrections import (
    SEEN,
    UNSEEN,
    Corrections,
    TrainedModel,
    corrections,
    speculation_log_sd,
    width_factors,
    with_distance,
)
from metainf.predictors.familiarity import fading
from metainf.predictors.inputs import lane_inputs
from metainf.predictors.lanes import LaneSet
from metainf.predictors.remembered import RememberedRows
from metainf.workload import BatchLoad, ConcurrencyLoad, RateLoad, Traffic

__all__ = ["KnownLanes", "LaneKnowledge"]

IntArray = NDArray[np.intp]

_MOST_TRAFFICS = 16
_MOST_REPLICAS = 2048
"""For each of them: about 1 kB a replica, so 36 MB where all are full."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownLanes:
    """What no load changes of m lanes.

    Attributes
    ----------
    capacity : array of shape (m,), requests/s
        The most that one lane completes, before it is corrected.
    found : Corrections
        The distances are infinite of accelerators that are left to the analytical predictor.
    category : array of shape (m,)
        SEEN or UNSEEN.
    drafting : array of shape (m,)
        As `speculation_log_sd` gives it.
    width : array of shape (m, targets)
        Factors on the spreads, with what the distance widens them by.
    knots : array of shape (m, KNOTS, targets)
        The analytical answers there.
    """

    capacity: FloatArray
    found: Corrections
    category: IntArray
    drafting: FloatArray
    width: FloatArray
    knots: FloatArray

    def packed(self) -> FloatArray:
        """The same side by side, shape (m, _WIDTH)."""
        alone = np.stack([self.capacity, self.found.distance, self.category, self.drafting], axis=1)
        many = (self.width, self.found.residual, self.knots)
        return np.concatenate([alone, *(each.reshape(len(alone), -1) for each in many)], axis=1)

    @classmethod
    def unpacked(cls, rows: FloatArray) -> "KnownLanes":
        """Of what `packed` gave."""
        capacity, distance, category, drafting = np.ascontiguousarray(rows[:, : _WIDTHS.start].T)
        residual, knots = (rows[:, part].reshape(-1, KNOTS, len(TARGETS)) for part in (_RESIDUALS, _KNOTS))
        found = Corrections(residual, distance, fading(distance))
        return cls(capacity, found, category.astype(np.intp), drafting, rows[:, _WIDTHS], knots)


_WIDTHS = slice(4, 4 + len(TARGETS))
_RESIDUALS = slice(_WIDTHS.stop, _WIDTHS.stop + KNOTS * len(TARGETS))
_KNOTS = slice(_RESIDUALS.stop, _RESIDUALS.stop + KNOTS * len(TARGETS))
_WIDTH = _KNOTS.stop


class LaneKnowledge:
    """Works out what is known of lanes, and keeps it.

    Parameters
    ----------
    model : TrainedModel
    """

    def __init__(self, model: TrainedModel) -> None:
        self.model = model
        self.features = QuestionFeatures(factors=model.factors)
        self._kept: OrderedDict[Traffic, RememberedRows[ReplicaSpec]] = OrderedDict()
        self._seen: dict[str, bool] = {}

    def of(self, questions: Sequence[Question], lanes: LaneSet) -> KnownLanes:
        """What is known of the lanes of n questions, in their order."""
        traffic = questions[0].traffic if questions else None
        if traffic is None or isinstance(traffic.load, BatchLoad) or any(q.traffic is not traffic for q in questions):
            return self._worked_out(questions, lanes)
        _, first = np.unique(lanes.of, return_index=True)
        replicas = [questions[place].replica for place in first.tolist()]
        one = RateLoad(1.0) if isinstance(traffic.load, RateLoad) else ConcurrencyLoad(1)
        kind = replace(traffic, load=one)
        kept = self._kept.get(kind)
        if kept is not None:
            self._kept.move_to_end(kind)
            return KnownLanes.unpacked(kept.of(replicas))
        found = self._worked_out(questions, lanes)
        self._begin(kind).keep(replicas, found.packed())
        return found

    def is_seen(self, accelerator: str) -> bool:
        """Whether the generation of this accelerator was trained on."""
        found = self._seen.get(accelerator)
        if found is None:
            found = self._seen[accelerator] = accelerator_group(accelerator) in self.model.generations
        return found

    def _begin(self, kind: Traffic) -> RememberedRows[ReplicaSpec]:
        def described(replicas: Sequence[ReplicaSpec]) -> FloatArray:
            questions = [Question(replica, kind, 1) for replica in replicas]
            lanes = self.features.lanes(questions)
            return self._worked_out(questions, lanes).packed()[lanes.of]

        found = self._kept[kind] = RememberedRows(_WIDTH, described, most=_MOST_REPLICAS)
        if len(self._kept) > _MOST_TRAFFICS:
            self._kept.popitem(last=False)
        return found

    def _worked_out(self, questions: Sequence[Question], lanes: LaneSet) -> KnownLanes:
        model, inputs = self.model, lane_inputs(self.features, questions, lanes)
        devices = [questions[place].replica.accelerator for place in inputs.first.tolist()]
        distance = model.familiarity.distances(inputs.rows)
        distance[np.array([not model.factors.hold_for(device) for device in devices], dtype=np.bool_)] = np.inf
        category = np.array([SEEN if self.is_seen(device.name) else UNSEEN for device in devices], dtype=np.intp)
        found = corrections(model, inputs, distance)
        width = with_distance(width_factors(model.width_trees, inputs.rows), model.growth[category], found.distance)
        knots = knot_answers(lanes, inputs.capacity)
        return KnownLanes(inputs.capacity, found, category, speculation_log_sd(inputs.rows), width, knots)
