"""MetaInf's first part: one regression of the shortfall over tasks and methods together.

Separate, as each selector is. Methods are known by their attributes, so that a method seldom feasible borrows from
those like it, and what is learned is what physics gets wrong. Why the residual: on public measurements it was the only
formulation that helped on accelerators never seen.

Two things keep the squared error at what decides. Shortfalls are bounded: a method that breaks its SLO is as good as
lost whether it does so by a factor of three or of ten, and would otherwise rule the error of all that differ by a few
per cent. Rejected: Huber's loss, which draws to the median and so passes over a method that fails one time in five,
where the mean still counts that. And rows count by how near physics puts the method to the best: no choice hangs on
those that it puts far behind.
"""

from functools import partial

import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.boosting import Boosting, raw_scores
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.pair_inputs import candidate_rows, of_candidates
from metainf.selectors.targets import nearness, physics_shortfalls, shortfalls

__all__ = ["JointRegression"]


class JointRegression(BaseSelector):
    """The shortfall behind the best method of the task, predicted.

    Parameters
    ----------
    residual : bool
        Whether the trees learn what to add to the shortfall by physics, or the shortfall itself.
    near_best : bool
        Whether rows count by `nearness`, or all alike.
    """

    def __init__(
        self,
        *,
        trees: int = 200,
        leaves: int = 15,
        learning_rate: float = 0.05,
        smallest_leaf: int | None = None,
        residual: bool = True,
        near_best: bool = True,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.smallest_leaf = smallest_leaf
        self.residual = residual
        self.near_best = near_best
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        truth = shortfalls(table)
        rows, columns = np.nonzero(np.isfinite(truth))
        boosting = Boosting(self.trees, self.leaves, self.learning_rate, self.smallest_leaf, self.random_state)
        self.booster_ = boosting.train(
            candidate_rows(table.tasks, rows, columns),
            (truth - self._prior(table.tasks))[rows, columns],
            objective="regression",
            weight=nearness(table.tasks)[rows, columns] if self.near_best else None,
        )

    def _scores(self, tasks: TaskTable) -> FloatArray:
        return of_candidates(tasks, partial(raw_scores, self.booster_)) + self._prior(tasks)

    def _prior(self, tasks: TaskTable) -> FloatArray:
        """The shortfall by physics."""
        return physics_shortfalls(tasks) if self.residual else np.zeros(tasks.feasible.shape)
