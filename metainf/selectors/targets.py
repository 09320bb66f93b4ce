"""What selectors learn: how far a method is behind the best, or ahead of the default, and which is the task's label.

Separate since every learner and the tests share these definitions. Raw scales are never learned: between tasks
they differ a thousandfold, and what is chosen depends on ratios within a task alone.

Two frames, and why. Baselines learn gains over the default, as they were published. MetaInf's own learners look at
shortfalls behind the best of the task, from `LOST` to 0, truth and physics alike. Where the default hardly keeps its
promise all other methods gain several units over it: such tasks would rule every mean, and capped gains would call all
methods of such a task alike. A shortfall is bounded whatever the default does, and defined where it is lost.
"""

import math

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.contract import BoolArray, FloatArray, MethodTable, TaskTable

__all__ = [
    "EXPECTED_PAIR",
    "LOST",
    "SIMULATED_PAIR",
    "analytical_shortfalls",
    "behind_best",
    "label_columns",
    "log_gains",
    "mean_or_nan",
    "nearness",
    "physics_shortfalls",
    "shortfalls",
]

LOST = -math.log(10.0)
"""What a pick is worth that cannot serve or breaks its SLO or the budget: a tenth, in logarithms.

Source: the definition of closed gap in this project (infeasible picks score P[default] / 10). Worse than that is not
told apart, so that a method that is hopeless by a factor of fifty does not rule a squared error.
"""
EXPECTED_PAIR = "pair_expected_shortfall"
"""The pair feature that holds what the analytical predictor expects a shortfall to be, over its own errors."""
SIMULATED_PAIR = "pair_simulated"
"""The pair feature that holds log performance as simulated: NaN where nothing is known, -inf where no promise holds."""
_NEAR = 0.5  # of a log ratio: that far behind the best a row counts e times less. Assumed, as is the least weight
_LEAST_WEIGHT = 0.1


def log_gains(table: MethodTable) -> FloatArray:
    """log(P / P[default]) of each task and method, at least `LOST`; NaN where infeasible or not run.

    Where the default did not run, or runs and keeps no SLO (P = 0), the level of the row is what puts its methods at
    their means over the other tasks: ratios within the row are kept. `LOST` too where a limit is broken; a default that
    breaks one is still what the others are relative to, as the metrics have it.

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
    return np.where(ran & ~table.works, LOST, gains)


def shortfalls(table: MethodTable) -> FloatArray:
    """log(P / P[best]) of each task and method, shape (n, m), from `LOST` to 0; NaN where infeasible or not run.

    `LOST` too where a method keeps no SLO (P = 0) or breaks another limit, which is so of all that ran where none keeps
    it. The best is that of what keeps every limit.
    """
    ran = np.isfinite(table.performance) & table.tasks.feasible
    works = ran & table.works
    logs = np.log(np.where(works, table.performance, np.nan))
    return np.where(ran & ~works, LOST, behind_best(logs, works))


def behind_best(logs: FloatArray, able: BoolArray) -> FloatArray:
    """How far each is behind the best of its row among what is able, at least `LOST`, shape (n, m); NaN elsewhere.

    What is not finite is not able.
    """
    able = able & np.isfinite(logs)
    best = np.where(able, logs, -np.inf).max(axis=1, keepdims=True)
    found = np.where(able, logs, 0.0) - np.where(np.isfinite(best), best, 0.0)
    return np.where(able, np.maximum(found, LOST), np.nan)


def analytical_shortfalls(tasks: TaskTable) -> FloatArray:
    """What the analytical predictor's one answer says of the shortfalls, shape (n, m); NaN where it is silent.

    `LOST` where it says that a method serves nothing (-inf).
    """
    found = behind_best(tasks.analytical, tasks.feasible)
    return np.where(tasks.feasible & (tasks.analytical == -np.inf), LOST, found)


def physics_shortfalls(tasks: TaskTable) -> FloatArray:
    """What is thought of the shortfalls before anything is learnt, shape (n, m), finite; 0 where infeasible.

    What a simulator says, where the pair features hold it; else what the analytical predictor expects over its own
    errors, where they hold that; else its one answer. Where none says anything, the mean of what is said of the task.
    """
    found = analytical_shortfalls(tasks)
    expected = _pair_feature(tasks, EXPECTED_PAIR)
    if expected is not None:
        found = np.where(np.isfinite(expected), np.clip(expected, LOST, 0.0), found)
    simulated = _pair_feature(tasks, SIMULATED_PAIR)
    if simulated is not None:
        said = np.where(simulated == -np.inf, LOST, behind_best(simulated, tasks.feasible))
        found = np.where(np.isnan(said), found, said)
    found = np.where(tasks.feasible, found, np.nan)
    usual = np.nan_to_num(mean_or_nan(found, axis=1))[:, None]
    return np.where(tasks.feasible, np.where(np.isnan(found), usual, found), 0.0)


def _pair_feature(tasks: TaskTable, name: str) -> FloatArray | None:
    """A column of the pair features, shape (n, m); None where the table has no such column."""
    if name not in tasks.pair_feature_names:
        return None
    found: FloatArray = tasks.pair_features[:, :, tasks.pair_feature_names.index(name)]
    return found


def nearness(tasks: TaskTable) -> FloatArray:
    """Weights of pairs, shape (n, m): 1 for what physics puts first, less the further behind it is.

    0 where infeasible.
    """
    said = np.where(tasks.feasible, physics_shortfalls(tasks), -np.inf)
    best = said.max(axis=1, keepdims=True)
    behind = np.where(np.isfinite(best), best, 0.0) - said
    return np.where(tasks.feasible, np.maximum(np.exp(-behind / _NEAR), _LEAST_WEIGHT), 0.0)


def label_columns(table: MethodTable) -> NDArray[np.intp]:
    """Column of each task's label, shape (n,): the simplest method within the tolerance of the best.

    Among equally simple ones the better. Every task needs a method that works.
    """
    performance = np.where(table.tasks.feasible & table.works, table.performance, -np.inf)
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
