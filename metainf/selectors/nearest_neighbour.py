"""The nearest training task's own ranking (ARGOSMART): the simplest selector that reads features.

Separate, as each selector is. Source: Nikolic, Maric, Janicic, "Simple algorithm portfolio for SAT" (2013).
"""

import numpy as np
from scipy.spatial.distance import cdist

from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.scaling import Scaler
from metainf.selectors.targets import log_gains, mean_or_nan

__all__ = ["NearestNeighbour"]

_AT_A_TIME = 512  # tasks whose distances to all training tasks are held at once


class NearestNeighbour(BaseSelector):
    """Log gains of the nearest training task, features scaled to unit deviation; those equally near are averaged."""

    def _fit(self, table: MethodTable) -> None:
        self.scaler_ = Scaler().fit(table.tasks.features)
        self.inputs_ = self.scaler_.transform(table.tasks.features)
        self.gains_ = log_gains(table)

    def _scores(self, tasks: TaskTable) -> FloatArray:
        inputs = self.scaler_.transform(tasks.features)
        scores = np.empty(tasks.feasible.shape)
        for start in range(0, len(tasks), _AT_A_TIME):
            distances = cdist(inputs[start : start + _AT_A_TIME], self.inputs_)
            nearest = distances == distances.min(axis=1, keepdims=True)
            for row, equals in enumerate(nearest, start=start):
                scores[row] = mean_or_nan(self.gains_[equals], axis=0)
        return scores
