"""What selectors learn: how much better a method is than the default on a task, and which one is the task's label.

Separate since every learner and the tests share these two definitions. Raw scales are never learned: between tasks
they differ a thousandfold, and what is chosen depends on ratios within a task alone.
"""

import math

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.contract import FloatArray, MethodTable, TaskTable

__all__ = [
    "CAP",
    "LOST",
    "analytical_gains",
    "capped",
    "label_columns",
    "log_gains",
    "mean_or_nan",
    "nearness",
]

LOST = -math.log(10.0)
"""Log gain of a pick that cannot serve or breaks its SLO: the default's performance over ten.

Source: the definition of closed gap in this project (infeasible picks score P[default] / 10). Worse than that is not
told apart, so that a method that is hopeless by a factor of fifty does not rule a squared error.
"""
CAP = 1.0
"""Log gains and losses beyond which regressions do not look: a factor of e. Assumed; no choice between the best few
methods of a task depends on what lies beyond."""
_NEAR = 0.5  # of a log gain: that far behind the best a row counts e times less. Assumed, as is the least weight
_LEAST_WEIGHT = 0.1


def log_gains(table: MethodTable) -> FloatArray:
    """log(P / P[default]) of each task and method, at least `LOST`; NaN where infeasible or not run.

    Where the default did not run, or runs and keeps no SLO (P = 0), the level of the row is what puts its methods at
    their means over the other tasks: ratios within the row are kept.

    Returns
    -------
    array of shape (n, m)
    """
    ran = np.isfinite(table.performance) & table.tasks.feasible
    positive = ran & (table.performance > 0)
    logs = np.log(np.where(positive, table.performance, np.nan))
    reference = logs[:, table.tasks.default]
    usual = np.nan_to_num(mean_or_nan(logs - reference[:, None], axis=0))
    reference = np.where(np.isnan(reference), mean_or_nan(logs - usual, axis=1), reference)
    gains = np.maximum(logs - reference[:, None], LOST)
    return np.where(ran & ~positive, LOST, gains)


def analytical_gains(tasks: TaskTable) -> FloatArray:
    """What the analytical predictor says of log(P / P[default]), at least `LOST`, shape (n, m); NaN where it is silent.

    Where it is silent about the default, or says that it serves nothing (-inf), relative to the mean of the row.
    """
    said = np.where(np.isfinite(tasks.analytical), tasks.analytical, np.nan)
    reference = said[:, tasks.default]
    reference = np.where(np.isnan(reference), mean_or_nan(said, axis=1), reference)
    gains = np.maximum(said - reference[:, None], LOST)
    return np.where(tasks.analytical == -np.inf, LOST, gains)


def capped(gains: FloatArray, cap: float | None) -> FloatArray:
    """Gains within the cap on either side; as they are without one."""
    return gains if cap is None else np.clip(gains, -cap, cap)


def nearness(tasks: TaskTable) -> FloatArray:
    """Weights of pairs, shape (n, m): 1 for what the analytical predictor puts first, less the further behind it is.

    Where it is silent a method counts as if it said the default's performance. 0 where infeasible.
    """
    said = np.where(tasks.feasible, np.nan_to_num(analytical_gains(tasks)), -np.inf)
    best = said.max(axis=1, keepdims=True)
    behind = np.where(np.isfinite(best), best, 0.0) - said
    return np.where(tasks.feasible, np.maximum(np.exp(-behind / _NEAR), _LEAST_WEIGHT), 0.0)


def label_columns(table: MethodTable) -> NDArray[np.intp]:
    """Column of each task's label, shape (n,): the simplest method within the tolerance of the best.

    Among equally simple ones the better. Every task needs a method that ran.
    """
    performance = np.where(table.tasks.feasible & np.isfinite(table.performance), table.performance, -np.inf)
    best = performance.max(axis=1, keepdims=True)
    near = performance >= best * (1.0 - table.tolerance[:, None])
    complexity = np.where(near, table.tasks.complexity[None, :], np.inf)
    simplest = complexity == complexity.min(axis=1, keepdims=True)
    return np.asarray(np.where(simplest, performance, -np.inf).argmax(axis=1), dtype=np.intp)


def mean_or_nan(values: FloatArray, axis: int) -> FloatArray:
    """Mean of what is not NaN; NaN where all is."""
    count = np.isfinite(values).sum(axis=axis)
    total = np.where(np.isfinite(values), values, 0.0).sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))
