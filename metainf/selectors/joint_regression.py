"""MetaInf's first part: one regression of the log gain over tasks and methods together.

Separate, as each selector is. Methods are known by their attributes, so that a method seldom feasible borrows from
those like it, and what is learned is what the analytical predictor gets wrong. Why the residual: on public
measurements it was the only formulation that helped on accelerators never seen.
"""

import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.boosting import Boosting, raw_scores
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.pair_inputs import candidate_rows
from metainf.selectors.targets import analytical_gains, log_gains

__all__ = ["JointRegression"]


class JointRegression(BaseSelector):
    """Log gain over the default, predicted.

    Parameters
    ----------
    residual : bool
        Whether the trees learn what to add to the analytical gain, or the gain itself.
    """

    def __init__(
        self,
        *,
        trees: int = 200,
        leaves: int = 31,
        learning_rate: float = 0.05,
        smallest_leaf: int = 20,
        residual: bool = True,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.smallest_leaf = smallest_leaf
        self.residual = residual
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        gains = log_gains(table)
        rows, columns = np.nonzero(np.isfinite(gains))
        target = (gains - self._prior(table.tasks))[rows, columns]
        boosting = Boosting(self.trees, self.leaves, self.learning_rate, self.smallest_leaf, self.random_state)
        self.booster_ = boosting.train(candidate_rows(table.tasks, rows, columns), target, objective="regression")

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
        return np.nan_to_num(analytical_gains(tasks))
