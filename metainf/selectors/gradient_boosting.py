"""Gradient boosting over the task's features: one classifier of the label, and one regressor for each method.

Separate, as each selector is. The papers' table does not say which of the two its row is, so both are reported.
"""

import lightgbm
import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.boosting import Boosting, raw_scores
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.targets import label_columns, log_gains

__all__ = ["BoostingClassifier", "BoostingRegressor"]


class _Boosted(BaseSelector):
    """What both store."""

    def __init__(
        self,
        *,
        trees: int = 100,
        leaves: int = 31,
        learning_rate: float = 0.1,
        smallest_leaf: int = 20,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.smallest_leaf = smallest_leaf
        self.random_state = random_state

    def _boosting(self, **extra: object) -> Boosting:
        return Boosting(
            trees=self.trees,
            leaves=self.leaves,
            learning_rate=self.learning_rate,
            smallest_leaf=self.smallest_leaf,
            random_state=self.random_state,
            extra=extra,
        )


class BoostingClassifier(_Boosted):
    """How likely each method is the label, as a log odds: the simplest within the tolerance of the best.

    As its definition demands it learns names, not log ratios: it cannot tell "infeasible" from "not the best".
    """

    def _fit(self, table: MethodTable) -> None:
        self.classes_, labels = np.unique(label_columns(table), return_inverse=True)
        self.booster_: lightgbm.Booster | None = None
        if len(self.classes_) > 1:
            boosting = self._boosting(num_class=len(self.classes_))
            self.booster_ = boosting.train(table.tasks.features, labels, objective="multiclass")

    def _scores(self, tasks: TaskTable) -> FloatArray:
        scores = np.full(tasks.feasible.shape, np.nan)
        odds = np.zeros((len(tasks), 1)) if self.booster_ is None else raw_scores(self.booster_, tasks.features)
        scores[:, self.classes_] = odds
        return scores


class BoostingRegressor(_Boosted):
    """Log gain of each method, by a booster of its own over the tasks on which it ran."""

    def _fit(self, table: MethodTable) -> None:
        self.boosters_: dict[int, lightgbm.Booster] = {}
        for column, gains in enumerate(log_gains(table).T):
            ran = np.isfinite(gains)
            if ran.any():
                inputs = table.tasks.features[ran]
                self.boosters_[column] = self._boosting().train(inputs, gains[ran], objective="regression")

    def _scores(self, tasks: TaskTable) -> FloatArray:
        scores = np.full(tasks.feasible.shape, np.nan)
        for column, booster in self.boosters_.items():
            scores[:, column] = raw_scores(booster, tasks.features)
        return scores
