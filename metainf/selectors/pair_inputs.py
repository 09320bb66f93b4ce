"""What MetaInf's learners are shown of a (task, method), and of two methods on one task, as rows of numbers.

Separate so that a trained predictor can be scored with numpy alone: nothing here imports a learner.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.contract import FloatArray, TaskTable
from metainf.selectors.targets import physics_shortfalls

__all__ = ["candidate_rows", "duel_rows", "of_candidates"]

IntArray = NDArray[np.intp]


def candidate_rows(tasks: TaskTable, rows: IntArray, columns: IntArray) -> FloatArray:
    """Features of the task, attributes of the method, features of the pair, and its shortfall by physics.

    `rows` and `columns`, shape (r,), say which task and which method each row of the (r, d + k + q + 1) is about.
    """
    return np.hstack(
        [
            tasks.features[rows],
            tasks.method_features[columns],
            tasks.pair_features[rows, columns],
            physics_shortfalls(tasks)[rows, columns, None],
        ]
    )


def of_candidates(tasks: TaskTable, score: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """What `score` says of the rows of all feasible methods, in their places, shape (n, m); NaN elsewhere."""
    rows, columns = np.nonzero(tasks.feasible)
    scores = np.full(tasks.feasible.shape, np.nan)
    if len(rows):
        scores[rows, columns] = score(candidate_rows(tasks, rows, columns))
    return scores


def duel_rows(tasks: TaskTable, rows: IntArray, first: IntArray, second: IntArray) -> FloatArray:
    """Features of tasks, and how two methods differ in attributes, pair features and analytical performance.

    Parameters
    ----------
    rows, first, second : arrays of shape (r,)
        The task of each duel, and the columns of its two methods.

    Returns
    -------
    array of shape (r, d + k + q + 1)
        Turned round, a duel has the same task and opposite differences; NaN where either is not finite.
    """
    analytical = _difference(tasks.analytical[rows, first], tasks.analytical[rows, second])
    return np.hstack(
        [
            tasks.features[rows],
            tasks.method_features[first] - tasks.method_features[second],
            _difference(tasks.pair_features[rows, first], tasks.pair_features[rows, second]),
            analytical[:, None],
        ]
    )


def _difference(one: FloatArray, other: FloatArray) -> FloatArray:
    """One less the other; NaN where either is not finite."""
    known = np.isfinite(one) & np.isfinite(other)
    return np.where(known, np.where(known, one, 0.0) - np.where(known, other, 0.0), np.nan)
