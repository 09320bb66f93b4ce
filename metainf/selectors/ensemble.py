"""MetaInf: physics, two regressions of what it gets wrong, duels and a ranking, weighted by what they are worth.

Separate from its parts, each of which is a selector by itself, from `stacking`, which says what each is worth, and from
`unfamiliarity`, which says where none of it holds. Ensembles of selectors beat each of their own (Tornede et al.,
Machine Learning 2023).

What is chosen has the highest expected gain over the default. It keeps to the default where that gain, corrected for
having been chosen, is not above 0, and falls back on physics alone where a task is unlike all that was learnt from.
Rejected: to ask that the gain is sure at 0.9 one-sided. On 240 tasks nine in ten were left at the default, whose regret
is the largest of all: an uncertain gain is still a gain on average, and a loss costs no more than a missed gain.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.base import BaseSelector, masked
from metainf.selectors.contract import BoolArray, FloatArray, MethodTable, TaskTable, choose
from metainf.selectors.group_folds import fold_of_groups
from metainf.selectors.joint_forest import JointForest
from metainf.selectors.joint_regression import JointRegression
from metainf.selectors.pairwise_boosting import PairwiseBoosting
from metainf.selectors.ranking_boosting import RankingBoosting
from metainf.selectors.stacking import Correction, fit_correction, fit_weights
from metainf.selectors.targets import LOST, analytical_gains, log_gains
from metainf.selectors.unfamiliarity import Unfamiliarity, task_groups

__all__ = ["PARTS", "MetaInf", "z_scores"]

PARTS = ("analytical", "regression", "forest", "pairwise", "ranking")
"""In the order of the weights; the first learns nothing."""
_ORDERS = frozenset({"pairwise", "ranking"})
"""Those whose scores have no unit: z-scores over a task's methods stand in for gains."""
_LEAST_TASKS = 10


class MetaInf(BaseSelector):
    """The method with the highest expected log gain over the default.

    Parameters
    ----------
    trees, leaves, learning_rate
        Of the regression and of the ranking.
    smallest_leaf : int or None
        Of all boosted trees; None: by the number of rows.
    forest_trees : int
    pair_trees, pair_leaves, pair_learning_rate
        Of each pair's booster.
    abstain : bool
        Whether it keeps to the default where the expected gain is not above 0.
    guard : bool
        Whether unfamiliar tasks get what physics alone says.
    folds : int
        Of models, and as many of accelerators: each holds its groups out of the parts that are weighed on it.
    most_held_out_tasks : int
        That those parts learn from; of more, some evenly. The parts that have a say then learn from all.
    """

    def __init__(
        self,
        *,
        trees: int = 200,
        leaves: int = 15,
        learning_rate: float = 0.05,
        smallest_leaf: int | None = None,
        forest_trees: int = 60,
        pair_trees: int = 40,
        pair_leaves: int = 15,
        pair_learning_rate: float = 0.1,
        abstain: bool = True,
        guard: bool = True,
        folds: int = 2,
        most_held_out_tasks: int = 1000,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.smallest_leaf = smallest_leaf
        self.forest_trees = forest_trees
        self.pair_trees = pair_trees
        self.pair_leaves = pair_leaves
        self.pair_learning_rate = pair_learning_rate
        self.abstain = abstain
        self.guard = guard
        self.folds = folds
        self.most_held_out_tasks = most_held_out_tasks
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        self.unfamiliarity_ = Unfamiliarity().fit(table.tasks) if self.guard else None
        self.weights_, self.correction_ = self._weighed(table)
        heard = [name for name, weight in zip(PARTS, self.weights_, strict=True) if weight > 0.0]
        self.parts_ = {name: part.fit(table) for name, part in self._new_parts().items() if name in heard}

    def _new_parts(self) -> Mapping[str, BaseSelector]:
        """All parts that learn, not fitted."""
        return {
            "regression": JointRegression(
                trees=self.trees,
                leaves=self.leaves,
                learning_rate=self.learning_rate,
                smallest_leaf=self.smallest_leaf,
                random_state=self.random_state,
            ),
            "forest": JointForest(trees=self.forest_trees, random_state=self.random_state),
            "pairwise": PairwiseBoosting(
                trees=self.pair_trees,
                leaves=self.pair_leaves,
                learning_rate=self.pair_learning_rate,
                smallest_leaf=self.smallest_leaf,
                random_state=self.random_state,
            ),
            "ranking": RankingBoosting(
                trees=self.trees,
                leaves=self.leaves,
                learning_rate=self.learning_rate,
                smallest_leaf=self.smallest_leaf,
                random_state=self.random_state,
            ),
        }

    def _weighed(self, table: MethodTable) -> tuple[FloatArray, Correction]:
        """Weights of the parts, and the correction of choices, from groups that the parts did not see."""
        # Where the default is lost, whatever works gains what was lost; one task of which it gains more rules no mean.
        gains = np.clip(_over_default(log_gains(table), table.tasks), LOST, -2.0 * LOST)
        heard = []
        for factor, held in self._held_out(table.tasks):
            taught = np.flatnonzero(~held)
            most = min(len(taught), self.most_held_out_tasks)
            taught = taught[np.linspace(0, len(taught) - 1, most).astype(np.intp)]
            some, asked = table.rows(taught), table.tasks.rows(held)
            parts = {name: part.fit(some) for name, part in self._new_parts().items()}
            heard.append(_Heard(factor, asked, _opinions(parts, asked), gains[held]))
        if not heard:
            return np.full(len(PARTS), 1.0 / len(PARTS)), Correction(1.0)
        weights = _fitted(heard)
        chosen = []
        for each in heard:
            # By weights of other tasks: those of the same ones are the best of many for them, by chance too.
            others = [other for other in heard if other.factor == each.factor and other is not each]
            said = each.opinions @ (_fitted(others) if others else weights)
            chosen.append(_picked(choose(each.tasks, masked(said, each.tasks.feasible)), said, each.gains))
        predicted, true = (np.concatenate(each) for each in zip(*chosen, strict=True))
        return weights, fit_correction(predicted, true)

    def _held_out(self, tasks: TaskTable) -> Iterator[tuple[int, BoolArray]]:
        """Masks of tasks whose models (0), or whose accelerators (1), are held out; each group is in one of either."""
        for factor, groups in enumerate(task_groups(tasks)):
            fold = fold_of_groups(groups, self.folds)
            for number in range(self.folds):
                held = fold == number
                if held.any() and (~held).sum() >= _LEAST_TASKS:
                    yield factor, held

    def _scores(self, tasks: TaskTable) -> FloatArray:
        opinions = _opinions(self.parts_, tasks)
        gains = opinions @ self.weights_
        if self.unfamiliarity_ is not None:
            unlike = self.unfamiliarity_.flags(tasks)
            gains[unlike] = opinions[unlike, :, PARTS.index("analytical")]
        scores = masked(gains, tasks.feasible)
        if self.abstain:
            best = np.where(tasks.feasible, gains, -np.inf).max(axis=1)
            keep = tasks.feasible[:, tasks.default] & ~(self.correction_.expected(best) > 0.0)
            scores[keep, tasks.default] = np.nan_to_num(scores, neginf=0.0).max(axis=1)[keep] + 1.0
        return scores


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    """What parts that did not see the groups of n tasks say of them, and the gains over the default, shape (n, m)."""

    factor: int
    tasks: TaskTable
    opinions: FloatArray
    gains: FloatArray


def _fitted(heard: Sequence[_Heard]) -> FloatArray:
    told = np.concatenate([np.isfinite(each.gains) & each.tasks.feasible for each in heard])
    opinions, gains = (np.concatenate([getattr(each, name) for each in heard]) for name in ("opinions", "gains"))
    return fit_weights(opinions, gains, told, heard[0].tasks.default)


def _opinions(parts: Mapping[str, BaseSelector], tasks: TaskTable) -> FloatArray:
    """What each part says of each method's gain over the default, shape (n, m, parts).

    0 where infeasible, and of a part that is not there.
    """
    found = [np.nan_to_num(analytical_gains(tasks))]
    for name in PARTS[1:]:
        if name not in parts:
            found.append(np.zeros(tasks.feasible.shape))
            continue
        scores = parts[name].scores(tasks)
        found.append(z_scores(scores, tasks.feasible) if name in _ORDERS else np.where(tasks.feasible, scores, 0.0))
    said = [np.where(tasks.feasible, _over_default(each, tasks), 0.0) for each in found]
    return np.stack(said, axis=2)


def _over_default(values: FloatArray, tasks: TaskTable) -> FloatArray:
    """Less the default's, or where it cannot run less the mean of what can."""
    able = tasks.feasible & np.isfinite(values)
    mean = np.where(able, values, 0.0).sum(axis=1) / np.maximum(able.sum(axis=1), 1)
    reference = np.where(able[:, tasks.default], values[:, tasks.default], mean)
    return np.asarray(values - reference[:, None])


def _picked(columns: NDArray[np.intp], predicted: FloatArray, gains: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Predicted and true gains of choices whose truth is known."""
    rows = np.arange(len(columns))
    told = (columns >= 0) & np.isfinite(gains[rows, columns])
    return predicted[rows, columns][told], gains[rows, columns][told]


def z_scores(scores: FloatArray, feasible: BoolArray) -> FloatArray:
    """Scores less their mean over their deviation, both over each task's feasible methods; 0 where all are alike."""
    known = np.where(feasible, scores, 0.0)
    count = np.maximum(feasible.sum(axis=1, keepdims=True), 1)
    centred = np.where(feasible, known - known.sum(axis=1, keepdims=True) / count, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    return np.where(deviation > 1e-12, centred / np.maximum(deviation, 1e-12), 0.0)
