"""A part of MetaInf: randomised trees over the same rows as the joint regression, for what few tasks can teach.

Separate, as each selector is. Fully random splits, averaged, say less than boosting where there is much to learn from,
and go wrong less where there is little: on a few hundred tasks they were the best single learner of residuals.
"""

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.pair_inputs import candidate_rows, of_candidates
from metainf.selectors.targets import nearness, physics_shortfalls, shortfalls

__all__ = ["JointForest"]

_BEYOND = 1e3  # what is not a number stands outside of all that is


class JointForest(BaseSelector):
    """The shortfall behind the best method: that by physics and what extremely randomised trees add to it.

    Parameters
    ----------
    share_of_features : float
        That a split looks at.
    most_rows : int
        Drawn for each tree, with replacement, where there are more.
    near_best : bool
        As the joint regression has it.
    """

    def __init__(
        self,
        *,
        trees: int = 60,
        smallest_leaf: int = 3,
        share_of_features: float = 0.3,
        most_rows: int = 20_000,
        near_best: bool = True,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.smallest_leaf = smallest_leaf
        self.share_of_features = share_of_features
        self.most_rows = most_rows
        self.near_best = near_best
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        truth = shortfalls(table)
        rows, columns = np.nonzero(np.isfinite(truth))
        target = (truth - physics_shortfalls(table.tasks))[rows, columns]
        weight = nearness(table.tasks)[rows, columns] if self.near_best else None
        many = len(rows) > self.most_rows
        self.forest_ = ExtraTreesRegressor(
            self.trees,
            min_samples_leaf=self.smallest_leaf,
            max_features=self.share_of_features,
            bootstrap=many,
            max_samples=self.most_rows if many else None,
            random_state=self.random_state,
            n_jobs=1,
        )
        self.forest_.fit(_finite(candidate_rows(table.tasks, rows, columns)), target, sample_weight=weight)

    def _scores(self, tasks: TaskTable) -> FloatArray:
        residual = of_candidates(tasks, lambda inputs: np.asarray(self.forest_.predict(_finite(inputs))))
        return residual + physics_shortfalls(tasks)


def _finite(rows: FloatArray) -> FloatArray:
    return np.clip(np.nan_to_num(rows, nan=-_BEYOND), -_BEYOND, _BEYOND)
