"""MetaInf's first part: one regression of the log gain over tasks and methods together.

Separate, as each selector is. Methods are known by their attributes, so that a method seldom feasible borrows from
those like it, and what is learned is what the analytical predictor gets wrong. Why the residual: on public
measurements it was the only formulation that helped on accelerators never seen.

Two things keep the squared error at what decides. Gains are capped: a method that breaks its SLO is as good as lost
whether it does so by a factor of three or of ten, and would otherwise rule the error of all that differ by a few per
cent. Rejected: Huber's loss, which draws to the median and so passes over a method that fails one time in five, where
the mean of capped gains still counts that. And rows count by how near the analytical predictor puts the method to the
best: no choice hangs on those that it puts far behind.
"""

import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.boosting import Boosting, raw_scores
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.pair_inputs import candidate_rows
from metainf.selectors.targets import CAP, analytical_gains, capped, log_gains, nearness

__all__ = ["JointRegression"]


class JointRegression(BaseSelector):
    """Log gain over the default, predicted.

    Parameters
    ----------
    residual : bool
        Whether the trees learn what to add to the analytical gain, or the gain itself.
    cap : float or None
        Log gains and losses beyond it are not told apart.
    near_best : bool
        Whether rows count by `nearness`, or all alike.
    """

    def __init__(
        self,
        *,
        trees: int = 200,
        leaves: int = 31,
        learning_rate: float = 0.05,
        smallest_leaf: int | None = None,
        residual: bool = True,
        cap: float | None = CAP,
        near_best: bool = True,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.smallest_leaf = smallest_leaf
        self.residual = residual
        self.cap = cap
        self.near_best = near_best
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        gains = log_gains(table)
        rows, columns = np.nonzero(np.isfinite(gains))
        target = (capped(gains, self.cap) - self._prior(table.tasks))[rows, columns]
        boosting = Boosting(self.trees, self.leaves, self.learning_rate, self.smallest_leaf, self.random_state)
        self.booster_ = boosting.train(
            candidate_rows(table.tasks, rows, columns),
            target,
            objective="regression",
            weight=nearness(table.tasks)[rows, columns] if self.near_best else None,
        )

    def _scores(self, tasks: TaskTable) -> FloatArray:
        rows, columns = np.nonzero(tasks.feasible)
        scores = np.full(tasks.feasible.shape, np.nan)
        if len(rows):
            scores[rows, columns] = raw_scores(self.booster_, candidate_rows(tasks, rows, columns))
        return scores + self._prior(tasks)

    def _prior(self, tasks: TaskTable) -> FloatArray:
        """Analytical gain; 0 where it says nothing."""
        if not self.residual:
            return np.zeros(tasks.feasible.shape)
        return np.nan_to_num(capped(analytical_gains(tasks), self.cap))
