"""Meta-features of questions to a predictor: the one definition that task tables and run time share.

Separate from the task tables so that a trained predictor computes its inputs in the operator with numpy alone. What
depends on one replica or one traffic is worked out once and kept by identity, as the analytical predictor does it;
what depends on both is arithmetic on arrays.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from metainf.accelerators import Vendor
from metainf.architecture import ModelArchitecture
from metainf.efficiencies import Efficiency, efficiency_of
from metainf.memory import memory_plan
from metainf.meta_features.derived import DERIVED_FEATURES, LOAD_FEATURES, lane_state, load_state
from metainf.meta_features.hardware import HARDWARE_FEATURES
from metainf.meta_features.methods import SETTINGS_FEATURES
from metainf.meta_features.models import MODEL_FEATURES
from metainf.meta_features.schema import FeatureDescription, described, values_of
from metainf.meta_features.traffic import TRAFFIC_FEATURES
from metainf.predictors.contract import Question, ReplicaSpec
from metainf.predictors.lanes import REPLICA_ROW, LaneSet, lanes_of, replica_facts, replica_row
from metainf.predictors.remembered import RememberedRows, one_by_one
from metainf.predictors.spread import replica_penalty
from metainf.predictors.step_factors import StepFactors
from metainf.roofline import StepWork, step_work
from metainf.workload import Traffic

__all__ = ["QUESTION_FEATURES", "QuestionFeatures", "question_features"]

K = TypeVar("K")
V = TypeVar("V")

FloatArray = NDArray[np.float64]

QUESTION_FEATURES: tuple[FeatureDescription, ...] = described(
    MODEL_FEATURES, HARDWARE_FEATURES, TRAFFIC_FEATURES, DERIVED_FEATURES, LOAD_FEATURES, SETTINGS_FEATURES
)
_SHAPE = slice(REPLICA_ROW, REPLICA_ROW + len(MODEL_FEATURES) + len(HARDWARE_FEATURES))
_SETTINGS = slice(_SHAPE.stop, _SHAPE.stop + len(SETTINGS_FEATURES))
_EXTRAS = slice(_SETTINGS.stop, _SETTINGS.stop + 2)
_PENALTY = slice(_EXTRAS.stop, _EXTRAS.stop + 2)
_REMEMBERED = 8192


class QuestionFeatures:
    """Computes the features of questions; equal questions always get equal features.

    Parameters
    ----------
    efficiency : Efficiency, optional
        Constants for every accelerator, in place of those of its generation: for studies.
    factors : StepFactors, optional
        What was learnt of the accelerators' steps.
    remembered : int
        Replicas that are kept.
    """

    def __init__(
        self,
        efficiency: Efficiency | None = None,
        factors: StepFactors | None = None,
        *,
        remembered: int = _REMEMBERED,
    ) -> None:
        self.efficiency = efficiency
        self._replicas: RememberedRows[ReplicaSpec] = RememberedRows(
            _PENALTY.stop, one_by_one(self._described), most=remembered
        )
        self._traffics: dict[int, tuple[object, FloatArray]] = {}
        self._models: dict[int, tuple[object, tuple[float, ...]]] = {}
        self._kernels: dict[tuple[object, ...], tuple[object, tuple[StepWork, tuple[float, ...]]]] = {}
        self._remembered = remembered
        self._factors = self._rows_of(factors)

    def under(self, factors: StepFactors | None) -> Self:
        """The same with other factors; both remember replicas for each other."""
        other = copy(self)
        other._factors = other._rows_of(factors)
        return other

    def _rows_of(self, factors: StepFactors | None) -> RememberedRows[ReplicaSpec] | None:
        if factors is None:
            return None
        return RememberedRows(REPLICA_ROW, one_by_one(factors.of), most=self._remembered)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(description.name for description in QUESTION_FEATURES)

    def transform(self, questions: Sequence[Question]) -> FloatArray:
        """The features of n questions, shape (n, d), columns as QUESTION_FEATURES describes them."""
        return self.of_lanes(questions, self.lanes(questions))

    def lanes(self, questions: Sequence[Question]) -> LaneSet:
        """The lanes of the questions, as the analytical predictor makes them."""
        return lanes_of(questions, self._rows)

    def _rows(self, replicas: Sequence[ReplicaSpec]) -> FloatArray:
        """`replica_row` of each replica, under the factors."""
        plain = self._replicas.of(replicas)[:, :REPLICA_ROW]
        return plain if self._factors is None else plain * self._factors.of(replicas)

    def penalties(self, questions: Sequence[Question]) -> FloatArray:
        """`replica_penalty` of each question's replica, shape (n, 2)."""
        return self._replicas.of([q.replica for q in questions])[:, _PENALTY]

    def of_lanes(self, questions: Sequence[Question], lanes: LaneSet) -> FloatArray:
        """The same where the lanes are at hand already."""
        known = self._replicas.of([question.replica for question in questions])
        n, of = len(known), lanes.of
        _, first = np.unique(of, return_index=True)
        state = lane_state(lanes, known[first, _EXTRAS])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            loads = load_state(state, of, lanes.lanes)
            derived = np.array(values_of(DERIVED_FEATURES, state), dtype=np.float64).reshape(len(DERIVED_FEATURES), -1)
            load = np.array(values_of(LOAD_FEATURES, loads), dtype=np.float64).reshape(len(LOAD_FEATURES), -1)
        blocks = (
            known[:, _SHAPE],
            np.array([self._traffic(q.traffic) for q in questions], dtype=np.float64).reshape(n, len(TRAFFIC_FEATURES)),
            derived.T[of],
            load.T,
            known[:, _SETTINGS],
        )
        return np.concatenate(blocks, axis=1)

    def _described(self, replica: ReplicaSpec) -> FloatArray:
        """What of a replica no traffic changes, side by side."""
        accelerator = replica.accelerator
        efficiency = self.efficiency or efficiency_of(accelerator.generation, cpu=accelerator.vendor is Vendor.CPU)
        work, hardware = self._of_kernels(replica)
        plan = memory_plan(replica)
        steps, facts = replica_facts(replica, efficiency, work, plan)
        return np.concatenate(
            [
                replica_row(steps, facts, replica.settings.speculation),
                (*self._model(replica.architecture), *hardware),
                values_of(SETTINGS_FEATURES, replica),
                (float(replica.layout.accelerators), plan.weight_bytes / plan.usable_bytes),
                replica_penalty(replica),
            ]
        )

    def _of_kernels(self, replica: ReplicaSpec) -> tuple[StepWork, tuple[float, ...]]:
        """The work and the features of the hardware, which methods share that differ in no format."""
        architecture, accelerator, settings = replica.architecture, replica.accelerator, replica.settings
        formats = settings.weight_dtype, settings.kv_cache_dtype
        key = id(architecture), id(accelerator), replica.layout, replica.cpu_cores, formats
        held = architecture, accelerator
        return _kept(self._kernels, key, held, lambda: (step_work(replica), values_of(HARDWARE_FEATURES, replica)))

    def _model(self, architecture: ModelArchitecture) -> tuple[float, ...]:
        return _kept(self._models, id(architecture), architecture, lambda: values_of(MODEL_FEATURES, architecture))

    def _traffic(self, traffic: Traffic) -> FloatArray:
        return _kept(
            self._traffics,
            id(traffic),
            traffic,
            lambda: np.array(values_of(TRAFFIC_FEATURES, traffic), dtype=np.float64),
        )


def _kept(table: dict[K, tuple[object, V]], key: K, held: object, make: Callable[[], V]) -> V:
    """The value of the key, made once; what its ids are of is held, so that an id cannot come to mean another."""
    found = table.get(key)
    if found is None:
        if len(table) >= _REMEMBERED:
            table.clear()
        found = table[key] = held, make()
    return found[1]


def question_features(questions: Sequence[Question]) -> FloatArray:
    """The features of n questions, shape (n, d), without anything kept for later calls."""
    return QuestionFeatures().transform(questions)
