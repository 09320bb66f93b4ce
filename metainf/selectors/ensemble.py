"""MetaInf's ensemble: physics, regressions of what it gets wrong, duels and a ranking, weighted by what they are worth.

Separate from its parts, each of which is a selector by itself, from `stacking`, which says what each is worth, and from
`unfamiliarity`, which says where none of it holds. Ensembles of selectors beat each of their own (Tornede et al.,
Machine Learning 2023).

What is chosen is expected to be the least behind the best. It keeps to the default where the gain that it predicts over
it is one of those that were not worth it on held-out tasks, and falls back on physics alone where a task is unlike all
that was learnt from. Rejected: to ask that the gain is sure at 0.9 one-sided. On 240 tasks nine in ten were left at the
default, whose regret is the largest of all: an uncertain gain is still a gain on average, and a loss costs no more than
a missed gain.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metainf.selectors.base import BaseSelector, masked
from metainf.selectors.contract import BoolArray, FloatArray, MethodTable, TaskTable, choose
from metainf.selectors.feasibility import TwoPart
from metainf.selectors.group_folds import fold_of_groups, taught_beside
from metainf.selectors.joint_forest import JointForest
from metainf.selectors.joint_regression import JointRegression
from metainf.selectors.pairwise_boosting import PairwiseBoosting
from metainf.selectors.ranking_boosting import RankingBoosting
from metainf.selectors.stacking import fit_least_gain, fit_weights
from metainf.selectors.targets import physics_shortfalls, shortfalls
from metainf.selectors.unfamiliarity import Unfamiliarity, task_groups

__all__ = ["PARTS", "Ensemble", "z_scores"]

PARTS = ("analytical", "regression", "forest", "two-part", "pairwise", "ranking")
"""In the order of the weights; the first is physics and learns nothing."""
_ORDERS = frozenset({"pairwise", "ranking"})
"""Those whose scores have no unit: z-scores over a task's methods stand in for shortfalls."""
_LEAST_TASKS = 10


class Ensemble(BaseSelector):
    """The method that is expected to be the least behind the best of its task.

    Parameters
    ----------
    trees, leaves, learning_rate
        Of the regression, of the regression in two parts and of the ranking.
    smallest_leaf : int or None
        Of all boosted trees; None: by the number of rows.
    forest_trees : int
    pair_trees, pair_leaves, pair_learning_rate
        Of the duels' booster.
    abstain : bool
        Whether it keeps to the default where the predicted gain over it is too small to have been worth it.
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
        pair_trees: int = 100,
        pair_leaves: int = 15,
        pair_learning_rate: float = 0.1,
        abstain: bool = True,
        guard: bool = True,
        folds: int = 2,
        most_held_out_tasks: int = 3000,
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
        self.weights_, self.least_gain_ = self._weighed(table)
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
            "two-part": TwoPart(
                trees=self.trees,
                leaves=self.leaves,
                learning_rate=self.learning_rate,
                smallest_leaf=self.smallest_leaf,
                random_state=self.random_state,
            ),
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

    def _weighed(self, table: MethodTable) -> tuple[FloatArray, float]:
        """Weights of the parts, and the gain that choices have to exceed, from groups that the parts did not see."""
        truth = shortfalls(table)
        # To a default that does nothing there is no ratio, and so nothing that is judged by. One that runs and breaks a
        # limit counts: it is left there for most, and without such tasks it would seem safer than it is.
        default = table.performance[:, table.tasks.default]
        rated = np.isfinite(default) & (default > 0.0)
        heard = []
        for factor, held, may in self._held_out(table.tasks):
            taught = np.flatnonzero(may)
            most = min(len(taught), self.most_held_out_tasks)
            taught = taught[np.linspace(0, len(taught) - 1, most).astype(np.intp)]
            some, asked = table.rows(taught), table.tasks.rows(held)
            parts = {name: part.fit(some) for name, part in self._new_parts().items()}
            heard.append(_Heard(factor, asked, _opinions(parts, asked), truth[held], rated[held]))
        if not heard:
            return np.full(len(PARTS), 1.0 / len(PARTS)), 0.0
        weights = _fitted(heard)
        chosen = []
        for each in heard:
            # By weights of other tasks: those of the same ones are the best of many for them, by chance too.
            others = [other for other in heard if other.factor == each.factor and other is not each]
            chosen.append(each.gains(each.opinions @ (_fitted(others) if others else weights)))
        predicted, true = (np.concatenate(each) for each in zip(*chosen, strict=True))
        return weights, fit_least_gain(predicted, true)

    def _held_out(self, tasks: TaskTable) -> Iterator[tuple[int, BoolArray, BoolArray]]:
        """Masks of tasks whose models (0), or accelerators (1), are held out, and of those to be learnt from beside.

        Each group is held out once of either factor.
        """
        for factor, groups in enumerate(task_groups(tasks)):
            fold = fold_of_groups(groups, self.folds)
            for number in range(self.folds):
                held = fold == number
                may = taught_beside(tasks.draws, held)
                if held.any() and may.sum() >= _LEAST_TASKS:
                    yield factor, held, may

    def _scores(self, tasks: TaskTable) -> FloatArray:
        opinions = _opinions(self.parts_, tasks)
        said = opinions @ self.weights_
        if self.unfamiliarity_ is not None:
            unlike = self.unfamiliarity_.flags(tasks)
            said[unlike] = opinions[unlike, :, PARTS.index("analytical")]
        scores = masked(said, tasks.feasible)
        if self.abstain:
            gain = np.where(tasks.feasible, said, -np.inf).max(axis=1) - said[:, tasks.default]
            keep = tasks.feasible[:, tasks.default] & ~(gain > self.least_gain_)
            scores[keep, tasks.default] = np.nan_to_num(scores, neginf=0.0).max(axis=1)[keep] + 1.0
        return scores


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    """What parts that did not see the groups of n tasks say of them, and the truth.

    Attributes
    ----------
    opinions : array of shape (n, m, parts)
    truth : array of shape (n, m), shortfalls
    rated : array of shape (n,), bool
        Whether the default does anything, so that gains over it are defined.
    """

    factor: int
    tasks: TaskTable
    opinions: FloatArray
    truth: FloatArray
    rated: BoolArray

    @property
    def told(self) -> BoolArray:
        """Shape (n, m): where the truth is known."""
        return np.isfinite(self.truth) & self.tasks.feasible

    def gains(self, said: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predicted and true gains over the default of the choices by `said`, shape (n, m), where both are known."""
        chosen, default = choose(self.tasks, masked(said, self.tasks.feasible)), self.tasks.default
        rows = np.flatnonzero(self.rated & (chosen >= 0))
        rows = rows[np.isfinite(self.truth[rows, chosen[rows]])]
        picked = chosen[rows]
        predicted = said[rows, picked] - said[rows, default]
        return predicted, self.truth[rows, picked] - self.truth[rows, default]


def _fitted(heard: Sequence[_Heard]) -> FloatArray:
    names = ("opinions", "truth", "told", "rated")
    opinions, truth, told, rated = (np.concatenate([getattr(each, name) for each in heard]) for name in names)
    return fit_weights(opinions, truth, told, heard[0].tasks.default, searched=rated)


def _opinions(parts: Mapping[str, BaseSelector], tasks: TaskTable) -> FloatArray:
    """What each part says of each method's shortfall, less its best of the task, shape (n, m, parts).

    0 where infeasible, and of a part that is not there.
    """
    found = [_from_best(physics_shortfalls(tasks), tasks.feasible)]
    for name in PARTS[1:]:
        if name not in parts:
            found.append(np.zeros(tasks.feasible.shape))
            continue
        scores = parts[name].scores(tasks)
        said = z_scores(scores, tasks.feasible) if name in _ORDERS else scores
        found.append(_from_best(said, tasks.feasible))
    return np.stack(found, axis=2)


def _from_best(values: FloatArray, feasible: BoolArray) -> FloatArray:
    """Less the best of each row's feasible ones; 0 where infeasible."""
    best = np.where(feasible, values, -np.inf).max(axis=1, keepdims=True)
    return np.where(feasible, values - np.where(np.isfinite(best), best, 0.0), 0.0)


def z_scores(scores: FloatArray, feasible: BoolArray) -> FloatArray:
    """Scores less their mean over their deviation, both over each task's feasible methods; 0 where all are alike."""
    known = np.where(feasible, scores, 0.0)
    count = np.maximum(feasible.sum(axis=1, keepdims=True), 1)
    centred = np.where(feasible, known - known.sum(axis=1, keepdims=True) / count, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    return np.where(deviation > 1e-12, centred / np.maximum(deviation, 1e-12), 0.0)
