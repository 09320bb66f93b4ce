"""Random forests over the task's features: one that names the label, and one regressor for each method.

Separate, as each selector is. The papers' table does not say which of the two its row is, so both are reported.
"""

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from metainf.selectors.base import BaseSelector
from metainf.selectors.binned_forest import BinnedForest, Bins, FittedForest
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.scaling import Scaler
from metainf.selectors.targets import label_columns, log_gains

__all__ = ["ForestClassifier", "ForestRegressor"]


class ForestClassifier(BaseSelector):
    """Probability that each method is the label: the simplest within the tolerance of the best.

    As its definition demands it learns names, not log ratios: it cannot tell "infeasible" from "not the best".
    """

    def __init__(self, *, trees: int = 100, smallest_leaf: int = 1, random_state: int = 0) -> None:
        self.trees = trees
        self.smallest_leaf = smallest_leaf
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        self.scaler_ = Scaler().fit(table.tasks.features)
        self.forest_ = RandomForestClassifier(
            self.trees, min_samples_leaf=self.smallest_leaf, random_state=self.random_state, n_jobs=1
        )
        self.forest_.fit(self.scaler_.transform(table.tasks.features), label_columns(table))

    def _scores(self, tasks: TaskTable) -> FloatArray:
        scores = np.zeros(tasks.feasible.shape)
        scores[:, self.forest_.classes_] = self.forest_.predict_proba(self.scaler_.transform(tasks.features))
        return scores


class ForestRegressor(BaseSelector):
    """Log gain of each method, by a forest of its own over the tasks on which it ran.

    Parameters
    ----------
    share_of_features : float
        Share of the features that a split looks at. Source of a third: Breiman (2001), for regression.
    """

    def __init__(
        self, *, trees: int = 100, smallest_leaf: int = 1, share_of_features: float = 1 / 3, random_state: int = 0
    ) -> None:
        self.trees = trees
        self.smallest_leaf = smallest_leaf
        self.share_of_features = share_of_features
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        self.scaler_ = Scaler().fit(table.tasks.features)
        inputs = self.scaler_.transform(table.tasks.features)
        self.bins_ = Bins().fit(inputs)
        bins = self.bins_.transform(inputs)
        per_split = max(1, int(self.share_of_features * inputs.shape[1]))
        forest = BinnedForest(self.trees, per_split, self.smallest_leaf, self.random_state)
        self.forests_: dict[int, FittedForest] = {}
        for column, gains in enumerate(log_gains(table).T):
            ran = np.isfinite(gains)
            if ran.any():
                self.forests_[column] = forest.fit(bins[:, ran], gains[ran])

    def _scores(self, tasks: TaskTable) -> FloatArray:
        bins = self.bins_.transform(self.scaler_.transform(tasks.features))
        scores = np.full(tasks.feasible.shape, np.nan)
        for column, forest in self.forests_.items():
            scores[:, column] = forest.predict(bins)
        return scores
