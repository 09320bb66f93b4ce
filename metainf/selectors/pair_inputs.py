"""What MetaInf's learners are shown of a (task, method), and of two methods on one task, as rows of numbers.

Separate so that a trained predictor can be scored with numpy alone: nothing here imports a learner.
"""

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.contract import FloatArray, TaskTable
from metainf.selectors.targets import analytical_gains

__all__ = ["candidate_names", "candidate_rows", "duel_rows"]

IntArray = NDArray[np.intp]


def candidate_names(tasks: TaskTable) -> tuple[str, ...]:
    """Names of the columns of `candidate_rows`."""
    attributes = (f"method_{number}" for number in range(tasks.method_features.shape[1]))
    return (*tasks.feature_names, *attributes, *tasks.pair_feature_names, "analytical_gain")


def candidate_rows(tasks: TaskTable, rows: IntArray, columns: IntArray) -> FloatArray:
    """Features of the task, attributes of the method, features of the pair, analytical gain: shape (r, d + k + q + 1).

    `rows` and `columns`, shape (r,), say which task and which method each row is about.
    """
    return np.hstack(
        [
            tasks.features[rows],
            tasks.method_features[columns],
            tasks.pair_features[rows, columns],
            analytical_gains(tasks)[rows, columns, None],
        ]
    )


def duel_rows(tasks: TaskTable, rows: IntArray, first: int, second: int) -> FloatArray:
    """Features of these tasks, and how pair features and analytical performance of two methods differ: (r, d + q + 1).

    Attributes of the methods are left out: within one pair of methods they do not vary.
    """
    return np.hstack(
        [
            tasks.features[rows],
            _difference(tasks.pair_features, rows, first, second),
            _difference(tasks.analytical, rows, first, second)[:, None],
        ]
    )


def _difference(values: FloatArray, rows: IntArray, first: int, second: int) -> FloatArray:
    """Column `first` less column `second`; NaN where either is not finite."""
    one, other = values[rows, first], values[rows, second]
    known = np.isfinite(one) & np.isfinite(other)
    return np.where(known, np.where(known, one, 0.0) - np.where(known, other, 0.0), np.nan)
