"""ALORS: the matrix of performances as a product of few factors, and a forest from features to a task's factors.

Separate, as each selector is. Source: Misir and Sebag, "ALORS: an algorithm recommender system" (Artificial
Intelligence 2017). The paper factorises ranks by CofiRank; here, as in the dense variant of MetaOOD, by a truncated
singular value decomposition, with ranks as an option. Rows are centred first: else the first factor is only how hard
a task is.
"""

import numpy as np
from scipy.stats import rankdata
from sklearn.ensemble import RandomForestRegressor

from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.scaling import Scaler
from metainf.selectors.targets import log_gains, mean_or_nan

__all__ = ["Alors", "factors"]


class Alors(BaseSelector):
    """Predicted factors of the task times the factors of the methods.

    Parameters
    ----------
    rank : int
        Number of factors; at most m - 1 (m would be no compression) and at most the number of tasks.
    by_rank : bool
        Whether each row is replaced by its ranks first, as in the paper.
    trees : int
        Trees of the forest. Source of 10: MetaOOD's baseline; more are steadier.
    """

    def __init__(self, *, rank: int = 5, by_rank: bool = False, trees: int = 100, random_state: int = 0) -> None:
        self.rank = rank
        self.by_rank = by_rank
        self.trees = trees
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        gains = log_gains(table)
        left, self.method_factors_ = factors(_ranks(gains) if self.by_rank else gains, self.rank)
        self.never_ = ~np.isfinite(gains).any(axis=0)
        self.scaler_ = Scaler().fit(table.tasks.features)
        self.forest_ = RandomForestRegressor(self.trees, random_state=self.random_state, n_jobs=1)
        # A forest takes one target as a vector, and warns of a column
        self.forest_.fit(self.scaler_.transform(table.tasks.features), left if left.shape[1] > 1 else left[:, 0])

    def _scores(self, tasks: TaskTable) -> FloatArray:
        left = np.asarray(self.forest_.predict(self.scaler_.transform(tasks.features))).reshape(len(tasks), -1)
        return np.where(self.never_, np.nan, left @ self.method_factors_)


def factors(values: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
    """Factors of tasks, shape (n, k), and of methods, shape (k, m), whose product is near the row-centred values.

    NaN are imputed by the mean of the row-centred column. The factors of methods carry the singular values, those of
    tasks are orthonormal; the sign of a factor is such that its largest entry among the methods is positive.
    """
    centred = values - mean_or_nan(values, axis=1)[:, None]
    column = np.nan_to_num(mean_or_nan(centred, axis=0))
    filled = np.where(np.isfinite(centred), centred, column)
    left, sizes, right = np.linalg.svd(filled, full_matrices=False)
    kept = max(1, min(rank, len(sizes), values.shape[1] - 1))
    left, right = left[:, :kept], right[:kept]
    sign = np.where(right[np.arange(kept), np.abs(right).argmax(axis=1)] < 0, -1.0, 1.0)
    return left * sign, right * (sign * sizes[:kept])[:, None]


def _ranks(gains: FloatArray) -> FloatArray:
    """Ranks within each row, shape (n, m): 0 is the worst that ran, 1 the best; NaN where not run."""
    ranks = np.asarray(rankdata(gains, axis=1, nan_policy="omit"), dtype=np.float64) - 1.0
    most = np.maximum(np.isfinite(gains).sum(axis=1, keepdims=True) - 1, 1)
    return np.asarray(ranks / most)
