"""A part of MetaInf in two: whether a method keeps its promises, and how far behind it is where it does.

Separate, as each selector is. A shortfall has two causes that have little in common: a promise is broken, which costs
all, or the method is slower than another, which costs a few per cent. One regression of both has to pass through the
middle of what never happens. Here each has a booster of its own, and the expectation of both is what is scored.
"""

import lightgbm
import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.boosting import FEW_BINS, Boosting, raw_scores
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.pair_inputs import candidate_rows, of_candidates
from metainf.selectors.targets import LOST, nearness, physics_shortfalls, shortfalls

__all__ = ["TwoPart"]


class TwoPart(BaseSelector):
    """Expected shortfall: that of a method which keeps its promises, and `LOST`, by how likely either is.

    Where no method of the train tasks ever broke a promise, none is expected to.

    Parameters
    ----------
    trees, leaves, learning_rate, smallest_leaf
        Of both boosters.
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
        near_best: bool = True,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.smallest_leaf = smallest_leaf
        self.near_best = near_best
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        truth = shortfalls(table)
        rows, columns = np.nonzero(np.isfinite(truth))
        kept = table.works[rows, columns]
        inputs = candidate_rows(table.tasks, rows, columns)
        weight = nearness(table.tasks)[rows, columns] if self.near_best else np.ones(len(rows))
        residual = (truth - physics_shortfalls(table.tasks))[rows, columns]
        boosting = Boosting(
            self.trees,
            self.leaves,
            self.learning_rate,
            self.smallest_leaf,
            self.random_state,
            extra={"max_bin": FEW_BINS},
        )
        self.keeps_: lightgbm.Booster | None = None
        if not kept.all():
            self.keeps_ = boosting.train(inputs, kept.astype(np.float64), objective="binary", weight=weight)
        self.behind_ = boosting.train(inputs[kept], residual[kept], objective="regression", weight=weight[kept])

    def _scores(self, tasks: TaskTable) -> FloatArray:
        return of_candidates(tasks, self._expected)

    def _expected(self, inputs: FloatArray) -> FloatArray:
        """The expectation of both parts; the last input is the shortfall by physics."""
        behind = np.maximum(inputs[:, -1] + raw_scores(self.behind_, inputs), LOST)
        kept = 1.0 if self.keeps_ is None else 1.0 / (1.0 + np.exp(-raw_scores(self.keeps_, inputs)))
        return np.asarray(kept * behind + (1.0 - kept) * LOST)
