"""Picks of methods against the truth: how often they are right, what they lose, and how sure that is.

Separate from whoever picks and from the text. Two sets of methods are judged: all that were measured, and those that
the operator considers, which leaves experimental ones to whoever names them and takes the simpler of what is predicted
within 2 %. What is best is then the best of that set.

Tasks of one model rise and fall together, so intervals draw whole models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.errors import UndefinedMetricError
from metainf.evaluation import metrics
from metainf.evaluation.bootstrap import GroupDraws, Interval, mean_interval
from metainf.methods import Method
from metainf.selection import TIE_RATIO
from metainf.selectors.contract import BoolArray, FloatArray, MethodTable, TaskTable

__all__ = ["Line", "Share", "considered", "line", "operator_choice", "references"]

IntArray = NDArray[np.intp]


@dataclass(frozen=True)
class Share:
    """So many of so many tasks; `interval` is that of the share."""

    count: int
    of: int
    interval: Interval


@dataclass(frozen=True)
class Line:
    """How the picks of one did on one kind of load.

    Attributes
    ----------
    right : within the tolerance of the best
    strict : the label itself, the simplest method within the tolerance
    decisive : right where the default is worse than the best by more than twice the tolerance
    regret : mean share of the best performance that is lost
    acceleration : geometric mean of performance over the default's
    """

    name: str
    rows: str
    right: Share
    strict: Share
    decisive: Share
    regret: Interval
    regret_p95: float
    acceleration: float


def considered(table: MethodTable, methods: Sequence[Method]) -> MethodTable:
    """The table of what the operator chooses among: experimental methods can neither be picked nor be the best."""
    usual = np.array([not each.experimental for each in methods], dtype=np.bool_)
    tasks = replace(table.tasks, feasible=table.tasks.feasible & usual)
    return replace(table, tasks=tasks, performance=np.where(usual, table.performance, np.nan))


def operator_choice(tasks: TaskTable, performance: FloatArray, *, is_batch: bool) -> IntArray:
    """Column picked for each task as the operator ranks candidates of equal cost, shape (n,); -1 where there is none.

    `metainf.selection` under MaximizeThroughput: of a makespan, or of tokens per second, within `TIE_RATIO` of the best
    the simpler method, then the name.

    Parameters
    ----------
    performance : array of shape (n, m)
        Predicted; NaN where nothing is.
    """
    can = tasks.feasible & np.isfinite(performance)
    best = np.where(can, performance, -np.inf).max(axis=1, keepdims=True)
    least = best / (1.0 + TIE_RATIO) if is_batch else best * (1.0 - TIE_RATIO)
    tied = can & (performance >= least)
    by_name = np.argsort(np.argsort(np.array(tasks.methods)))
    order = np.where(tied, tasks.complexity * len(tasks.methods) + by_name, np.inf)
    return np.where(tied.any(axis=1), order.argmin(axis=1), -1).astype(np.intp)


def references(table: MethodTable) -> Iterator[Line]:
    """The default, the single best of the other models, and the virtual best."""
    yield line("vLLM's default", "-", table, metrics.default_choice(table))
    chosen = np.full(len(table), -1, dtype=np.intp)
    for name in np.unique(table.tasks.model):
        mine = table.tasks.model == name
        try:
            best = metrics.single_best(table.rows(~mine))
        except UndefinedMetricError:
            best = table.tasks.default
        chosen[mine] = metrics.single_best_choice(table.rows(mine), best)
    yield line("single best of the other models", "in", table, chosen)
    yield line("virtual best (a bound)", "-", table, metrics.virtual_best(table))


def line(name: str, rows: str, table: MethodTable, chosen: IntArray) -> Line:
    """The figures of these picks."""
    draws = GroupDraws([table.tasks.model])
    label = metrics.labels(table)
    judged = label >= 0
    close = metrics.within_tolerance(table)
    right = (chosen >= 0) & close[np.arange(len(table)), np.maximum(chosen, 0)]
    lost, gain = metrics.relative_regret(table, chosen), metrics.log_gain(table, chosen)
    known, gained = np.isfinite(lost), gain[np.isfinite(gain)]
    return Line(
        name=name,
        rows=rows,
        right=_share(right, judged, draws),
        strict=_share(chosen == label, judged, draws),
        decisive=_share(right, judged & metrics.decisive(table), draws),
        regret=mean_interval(lost, known, draws),
        regret_p95=float(np.quantile(lost[known], 0.95)) if known.any() else np.nan,
        acceleration=float(np.exp(gained.mean())) if len(gained) else np.nan,
    )


def _share(true: BoolArray, judged: BoolArray, draws: GroupDraws) -> Share:
    return Share(int((true & judged).sum()), int(judged.sum()), mean_interval(true.astype(np.float64), judged, draws))
