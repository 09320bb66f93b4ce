"""MetaInf's second part: which of two methods is better on a task, mistakes weighted by what they cost.

Separate, as each selector is. As SATzilla'11, but boosted, and shown how the physics of the two differ on the task;
votes are probabilities, so that a sure duel counts for more than a toss-up.

One booster for all duels, which knows the two methods by how their attributes differ. Rejected: one for each pair of
methods, which are some 200 boosters a fit, each of the tasks that ran just these two, and says nothing of two methods
that never met. A few duels are drawn of each task, since those of one task say much the same; each is learnt from both
sides, and asked from both sides, so that it does not matter which method is named first.
"""

import lightgbm
import numpy as np
from numpy.typing import NDArray

from metainf.selectors.base import BaseSelector
from metainf.selectors.boosting import FEW_BINS, Boosting, raw_scores
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.pair_inputs import duel_rows
from metainf.selectors.targets import physics_shortfalls, shortfalls

__all__ = ["PairwiseBoosting", "drawn_duels"]

IntArray = NDArray[np.intp]

_LEAST_DUELS = 20_000
"""In all: of few tasks more are drawn of each. Assumed: a booster's second or two."""
_MOST_ROWS = 50_000  # that are scored at a time: some 100 MB


class PairwiseBoosting(BaseSelector):
    """Mean probability of beating another feasible method of the task; 1 / 2 for a method without rivals.

    Where no two methods of the train tasks differ, physics decides.

    Parameters
    ----------
    duels : int
        Drawn of each task; more where there would be fewer than 20,000 in all.
    """

    def __init__(
        self,
        *,
        trees: int = 100,
        leaves: int = 15,
        learning_rate: float = 0.1,
        smallest_leaf: int | None = None,
        duels: int = 6,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.smallest_leaf = smallest_leaf
        self.duels = duels
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        truth = shortfalls(table)
        most = max(self.duels, _LEAST_DUELS // len(table))
        rows, first, second = drawn_duels(truth, most, self.random_state)
        self.booster_: lightgbm.Booster | None = None
        if not len(rows):
            return
        difference = truth[rows, first] - truth[rows, second]
        inputs = np.concatenate(
            [duel_rows(table.tasks, rows, first, second), duel_rows(table.tasks, rows, second, first)]
        )
        boosting = Boosting(
            self.trees,
            self.leaves,
            self.learning_rate,
            self.smallest_leaf,
            self.random_state,
            extra={"max_bin": FEW_BINS},
        )
        self.booster_ = boosting.train(
            inputs,
            np.concatenate([difference > 0.0, difference < 0.0]).astype(np.float64),
            objective="binary",
            weight=np.tile(np.abs(difference) / np.abs(difference).mean(), 2),
        )

    def _scores(self, tasks: TaskTable) -> FloatArray:
        m = len(tasks.methods)
        firsts, seconds = np.triu_indices(m, 1)
        block = max(1, _MOST_ROWS // max(1, len(firsts)))
        found = np.empty(tasks.feasible.shape)
        for start in range(0, len(tasks), block):
            part = tasks.rows(np.arange(start, min(start + block, len(tasks)), dtype=np.intp))
            rows, duels = np.nonzero(part.feasible[:, firsts] & part.feasible[:, seconds])
            wins = np.zeros((len(part), m, m))
            if len(rows):
                first, second = firsts[duels], seconds[duels]
                wins[rows, first, second] = self._first_better(part, rows, first, second)
                wins[rows, second, first] = 1.0 - wins[rows, first, second]
            rivals = part.feasible.sum(axis=1, keepdims=True) - 1
            found[start : start + len(part)] = np.where(rivals > 0, wins.sum(axis=2) / np.maximum(rivals, 1), 0.5)
        return found

    def _first_better(self, tasks: TaskTable, rows: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Probability that the first method of each duel is better than the second, shape (r,)."""
        if self.booster_ is None:
            said = physics_shortfalls(tasks)
            return np.asarray(0.5 + 0.5 * np.sign(said[rows, first] - said[rows, second]))
        odds = raw_scores(self.booster_, duel_rows(tasks, rows, first, second))
        turned = raw_scores(self.booster_, duel_rows(tasks, rows, second, first))
        return np.asarray(1.0 / (1.0 + np.exp(-(odds - turned) / 2.0)))


def drawn_duels(truth: FloatArray, most: int, random_state: int) -> tuple[IntArray, IntArray, IntArray]:
    """Task, first and second method of up to `most` duels of each task, shape (r,) each, in the order of tasks.

    Parameters
    ----------
    truth : array of shape (n, m)
        Log performance relative to anything of the task, NaN where not known: duels are of methods that both ran and
        are not equal.
    """
    firsts, seconds = np.triu_indices(truth.shape[1], 1)
    difference = truth[:, firsts] - truth[:, seconds]
    told = np.isfinite(difference) & (difference != 0.0)
    lots = np.where(told, np.random.default_rng(random_state).random(told.shape), np.inf)
    drawn = np.argsort(lots, axis=1, kind="stable")[:, :most]
    rows = np.repeat(np.arange(len(truth), dtype=np.intp), drawn.shape[1])
    duels = drawn.ravel()
    kept = told[rows, duels]
    return rows[kept], firsts[duels[kept]], seconds[duels[kept]]
