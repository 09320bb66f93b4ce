"""MetaInf's second part: for each pair of methods, which is better, mistakes weighted by what they cost.

Separate, as each selector is. As SATzilla'11, but boosted, and shown how the physics of the two differ on the task;
votes are probabilities, so that a sure pair counts for more than a toss-up.
"""

from itertools import combinations

import lightgbm
import numpy as np
from numpy.typing import NDArray

from metainf.selectors.base import BaseSelector
from metainf.selectors.boosting import Boosting, raw_scores
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.pair_inputs import duel_rows
from metainf.selectors.targets import analytical_gains, log_gains

__all__ = ["PairwiseBoosting"]

IntArray = NDArray[np.intp]

_BINS = 63  # of a column: a third of the time of 255, and gains within 0.002 (benchmarks/selector_speed, 1,400 tasks)


class PairwiseBoosting(BaseSelector):
    """Mean probability of beating another feasible method of the task; 1 / 2 for a method without rivals.

    A pair that never ran on one task is settled by the analytical predictor.
    """

    def __init__(
        self,
        *,
        trees: int = 40,
        leaves: int = 15,
        learning_rate: float = 0.1,
        smallest_leaf: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.smallest_leaf = smallest_leaf
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        gains = log_gains(table)
        boosting = Boosting(
            self.trees, self.leaves, self.learning_rate, self.smallest_leaf, self.random_state, extra={"max_bin": _BINS}
        )
        self.pairs_: dict[tuple[int, int], lightgbm.Booster | float] = {}
        for i, j in combinations(range(gains.shape[1]), 2):
            difference = gains[:, i] - gains[:, j]
            told = np.flatnonzero(np.isfinite(difference) & (difference != 0.0))
            better = difference[told] > 0
            if better.all() or not better.any():
                if len(better):
                    self.pairs_[i, j] = float(better[0])
                continue
            cost = np.abs(difference[told])
            inputs = duel_rows(table.tasks, told, i, j)
            self.pairs_[i, j] = boosting.train(
                inputs, better.astype(np.float64), objective="binary", weight=cost / cost.mean()
            )

    def _scores(self, tasks: TaskTable) -> FloatArray:
        votes = np.zeros(tasks.feasible.shape)
        rivals = np.zeros(tasks.feasible.shape)
        for i, j in combinations(range(len(tasks.methods)), 2):
            both = np.flatnonzero(tasks.feasible[:, i] & tasks.feasible[:, j])
            if not len(both):
                continue
            first = self._first_better(tasks, both, i, j)
            votes[both, i] += first
            votes[both, j] += 1.0 - first
            rivals[both, i] += 1.0
            rivals[both, j] += 1.0
        return np.where(rivals > 0, votes / np.maximum(rivals, 1.0), 0.5)

    def _first_better(self, tasks: TaskTable, rows: IntArray, i: int, j: int) -> FloatArray:
        """Probability that method i is better than j on each of these tasks, shape (r,)."""
        pair = self.pairs_.get((i, j))
        if pair is None:
            said = np.nan_to_num(analytical_gains(tasks)[rows])
            return np.asarray(0.5 + 0.5 * np.sign(said[:, i] - said[:, j]))
        if isinstance(pair, float):
            return np.full(len(rows), pair)
        return 1.0 / (1.0 + np.exp(-raw_scores(pair, duel_rows(tasks, rows, i, j))))
