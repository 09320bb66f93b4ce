"""SATzilla'11: for each pair of methods a forest that says which is better, its mistakes weighted by what they cost.

Separate, as each selector is. Source: Xu, Hutter, Hoos, Leyton-Brown, "Hydra-MIP" and "SATzilla2012" (pairwise
cost-sensitive forests); 99 trees, log2 features per split, ties voted on again among the tied, then at random, as in
the re-implementation of Tornede et al. The cost of a mistake is the absolute log ratio instead of seconds.
"""

from itertools import combinations

import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.binned_forest import BinnedForest, Bins, FittedForest
from metainf.selectors.contract import BoolArray, FloatArray, MethodTable, TaskTable
from metainf.selectors.random_choice import task_noise
from metainf.selectors.scaling import Scaler
from metainf.selectors.targets import log_gains

__all__ = ["Satzilla", "vote"]


class Satzilla(BaseSelector):
    """Votes among the feasible methods. A pair that never ran on one task, or always alike, casts no vote."""

    def __init__(self, *, trees: int = 99, random_state: int = 0) -> None:
        self.trees = trees
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        self.scaler_ = Scaler().fit(table.tasks.features)
        inputs = self.scaler_.transform(table.tasks.features)
        self.bins_ = Bins().fit(inputs)
        bins = self.bins_.transform(inputs)
        gains = log_gains(table)
        forest = BinnedForest(self.trees, max(1, int(np.log2(inputs.shape[1]))), 1, self.random_state)
        self.pairs_: dict[tuple[int, int], FittedForest | bool] = {}
        for i, j in combinations(range(gains.shape[1]), 2):
            difference = gains[:, i] - gains[:, j]
            told = np.isfinite(difference) & (difference != 0.0)
            better = difference[told] > 0
            if better.all() or not better.any():
                if len(better):
                    self.pairs_[i, j] = bool(better[0])
                continue
            self.pairs_[i, j] = forest.fit(bins[:, told], better.astype(np.float64), np.abs(difference[told]))

    def _scores(self, tasks: TaskTable) -> FloatArray:
        bins = self.bins_.transform(self.scaler_.transform(tasks.features))
        wins = np.zeros((len(tasks), len(tasks.methods), len(tasks.methods)), dtype=bool)
        for (i, j), pair in self.pairs_.items():
            wins[:, i, j] = pair if isinstance(pair, bool) else pair.predict(bins) > 0.5
            wins[:, j, i] = ~wins[:, i, j]
        return vote(wins, tasks.feasible) + 1e-3 * task_noise(tasks, self.random_state)


def vote(wins: BoolArray, feasible: BoolArray) -> FloatArray:
    """Votes of each method, shape (n, m), plus a part below one half that orders those with equally many votes.

    Parameters
    ----------
    wins : array of shape (n, m, m), bool
        [t, i, j]: i beats j on t. Only feasible ones vote on each other.
    feasible : array of shape (n, m), bool
    """
    valid = wins & feasible[:, :, None] & feasible[:, None, :]
    votes = valid.sum(axis=2)
    tied = votes[:, :, None] == votes[:, None, :]
    again = (valid & tied).sum(axis=2)
    return np.asarray(votes + 0.5 * again / (feasible.shape[1] + 1), dtype=np.float64)
