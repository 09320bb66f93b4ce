"""The inputs of the trained predictor: the questions' meta-features without the load, one row per distinct lane.

Separate from the meta-features, which describe whole questions: what is learnt here is looked up at several loads of
the same lane, so the load must not be among the inputs, and lanes that only differ in replicas are one row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.meta_features.derived import LOAD_FEATURES
from metainf.meta_features.hardware import HARDWARE_FEATURES
from metainf.meta_features.models import MODEL_FEATURES
from metainf.meta_features.questions import QUESTION_FEATURES, QuestionFeatures
from metainf.meta_features.traffic import TRAFFIC_FEATURES
from metainf.predictors.contract import Question
from metainf.predictors.lanes import LaneSet

__all__ = ["INPUTS", "SHARED", "LaneInputs", "lane_inputs"]

FloatArray = NDArray[np.float64]

_LOADS = frozenset({*(f.name for f in LOAD_FEATURES), "load_rate", "load_requests"})
_KEPT = np.array([place for place, f in enumerate(QUESTION_FEATURES) if f.name not in _LOADS], dtype=np.intp)
_NAMES = tuple(f.name for f in QUESTION_FEATURES)
_CAPACITY = _NAMES.index("capacity")
_ACCELERATORS = _NAMES.index("layout_accelerators")

INPUTS: tuple[str, ...] = (*(_NAMES[place] for place in _KEPT), "prompt_busy", "queueing")
"""Names of the columns. The last two are how busy prompts keep the full lane, and how long they queue there."""

_OF_ALL_METHODS = frozenset(
    [*(f.name for f in MODEL_FEATURES), *(f.name for f in HARDWARE_FEATURES), *(f.name for f in TRAFFIC_FEATURES)]
)
SHARED: NDArray[np.intp] = np.array([place for place, name in enumerate(INPUTS) if name in _OF_ALL_METHODS], np.intp)
"""Columns that are equal for all methods of one workload on one place: of the model, the place and the traffic."""

_BUSIEST = 0.98
_LOADED = 0.85  # where waits are felt and are not yet all that is felt


@dataclass(frozen=True, slots=True, eq=False)
class LaneInputs:
    """n questions on m distinct lanes.

    Attributes
    ----------
    rows : array of shape (m, d), columns as INPUTS
    capacity : array of shape (m,), requests/s
        The most that one lane completes, as the features have it.
    first : array of shape (m,)
        A question of each lane.
    """

    lanes: LaneSet
    rows: FloatArray
    capacity: FloatArray
    first: NDArray[np.intp]


def lane_inputs(known: QuestionFeatures, questions: Sequence[Question], lanes: LaneSet | None = None) -> LaneInputs:
    """The inputs of n questions; `lanes` where they are made already.

    Of the methods only drafts from the text have an engine wait for each step. What is learnt of those says nothing of
    an engine that is told to wait and drafts nothing, so its inputs are those of the same one that does not wait; what
    waits take is left to the physics.
    """
    lanes = known.lanes(questions) if lanes is None else lanes
    count = len(lanes.lane.slots)
    _, first = np.unique(lanes.of, return_index=True)
    own = replace(lanes, of=np.arange(count), lanes=lanes.lanes[first])
    features = known.of_lanes([questions[place] for place in first.tolist()], own)
    replica_lanes = np.asarray(lanes.replica.lanes)
    capacity = np.exp(features[:, _CAPACITY] + features[:, _ACCELERATORS]) / replica_lanes
    lane = lanes.lane
    with np.errstate(invalid="ignore", over="ignore"):
        busy = np.clip(capacity * lane.queued_prompt_s, 0.0, _BUSIEST)
        spread = (np.asarray(lanes.traffic.arrival_squared_cv) + lane.waiting_squared_cv) / 2.0
        wait_s = _LOADED * busy / (1.0 - _LOADED * busy) * spread * lane.queued_prompt_s
        queueing = np.log1p(np.minimum(wait_s / (lane.request_s + lane.empty.prefill_s), 1e6))
    rows = np.concatenate([features[:, _KEPT], busy[:, None], queueing[:, None]], axis=1)
    rows = np.nan_to_num(rows, nan=0.0, posinf=30.0, neginf=-30.0)
    replica = lanes.replica
    waiting = np.flatnonzero((np.asarray(replica.asynchronous) == 0.0) & (np.asarray(replica.draft_tokens) == 0.0))
    if len(waiting):
        others = lane_inputs(known, [_without_waits(questions[place]) for place in first[waiting].tolist()])
        rows[waiting] = others.rows[others.lanes.of]
    return LaneInputs(lanes, rows, capacity, first)


def _without_waits(question: Question) -> Question:
    settings = replace(question.replica.settings, asynchronous_scheduling=True)
    return replace(question, replica=replace(question.replica, settings=settings))
