"""MetaInf's third part: a ranking of each task's methods (LambdaMART), which cares for the top of the list.

Separate, as each selector is. Gains are quantised by the task's own tolerance, so that it does not learn noise.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.base import BaseSelector
from metainf.selectors.boosting import Boosting, raw_scores
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.pair_inputs import candidate_rows, of_candidates
from metainf.selectors.targets import shortfalls

__all__ = ["LEVELS", "RankingBoosting", "relevance"]

LEVELS = 8


class RankingBoosting(BaseSelector):
    """A score of no unit that orders the methods of one task; LambdaMART, one group for each task."""

    def __init__(
        self,
        *,
        trees: int = 200,
        leaves: int = 15,
        learning_rate: float = 0.05,
        smallest_leaf: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.smallest_leaf = smallest_leaf
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        truth = shortfalls(table)
        ran = np.isfinite(truth)
        rows, columns = np.nonzero(ran)
        boosting = Boosting(self.trees, self.leaves, self.learning_rate, self.smallest_leaf, self.random_state)
        self.booster_ = boosting.train(
            candidate_rows(table.tasks, rows, columns),
            relevance(truth, table.tolerance)[rows, columns],
            objective="lambdarank",
            group=ran.sum(axis=1),
        )

    def _scores(self, tasks: TaskTable) -> FloatArray:
        return of_candidates(tasks, partial(raw_scores, self.booster_))


def relevance(gains: FloatArray, tolerance: FloatArray) -> NDArray[np.intp]:
    """Level of each (task, method), shape (n, m): the highest within the tolerance of the best.

    Then one lower for each doubling of the distance; 0 is the lowest, and wherever nothing ran.

    Parameters
    ----------
    gains : array of shape (n, m), log ratios to anything of the task, NaN where not run
    tolerance : array of shape (n,), relative
    """
    known = np.where(np.isfinite(gains), gains, -np.inf)
    width = -np.log1p(-np.minimum(tolerance, 0.5))[:, None]
    behind = (known.max(axis=1, keepdims=True) - known) / np.maximum(width, 1e-6)
    with np.errstate(divide="ignore"):
        steps = np.ceil(np.log2(np.maximum(behind, 0.0)))
    return (LEVELS - 1 - np.clip(np.where(behind <= 1.0, 0.0, steps), 0, LEVELS - 1)).astype(np.intp)
