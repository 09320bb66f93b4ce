"""What the operator's own choice costs: method, layout, pool and replicas together, in USD and in broken limits.

Separate from the metrics of methods: there a wrong pick is a slower one, here it is money spent above the cheapest that
would truly have done, or a promise that is not kept.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.evaluation.bootstrap import GroupDraws, Interval, interval_of_sums, ratio_of_sums
from metainf.selectors.contract import BoolArray, FloatArray

__all__ = ["OperatorFigures", "OperatorTasks", "operator_figures"]

IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]


@dataclass(frozen=True, slots=True, eq=False)
class OperatorTasks:
    """Workloads with all their candidates and the truth about these.

    Attributes
    ----------
    usd : array of shape (n, c)
        What a candidate costs, per hour, per million output tokens or for the whole batch; NaN where there is no such
        candidate.
    kept : array of shape (n, c), bool
        Whether it keeps every SLO and the budget in truth.
    groups : array of shape (n,)
        What was held out.
    """

    usd: FloatArray
    kept: BoolArray
    groups: StringArray


@dataclass(frozen=True, slots=True)
class OperatorFigures:
    """Shares of workloads and USD; NaN where nothing counts.

    `usd_above` is over the workloads whose choice is truly feasible: (their cost - the cheapest's) / the cheapest's,
    all summed before dividing. `infeasible` is of those with a choice, `false_refusals` of those that could be served.
    """

    workloads: int
    usd_above: Interval
    infeasible: Interval
    false_refusals: Interval
    total_usd: float
    cheapest_total_usd: float
    unknown: int = 0
    """Workloads beside these, whose choice the world knows nothing of."""


def operator_figures(tasks: OperatorTasks, chosen: IntArray, *, seed: int = 0) -> OperatorFigures:
    """Cost above the cheapest truly feasible, and the share that is infeasible in truth.

    Parameters
    ----------
    chosen : array of shape (n,)
        Column of the candidate; -1 where the operator refused.
    """
    draws = GroupDraws([tasks.groups], seed=seed)
    truly = tasks.kept & np.isfinite(tasks.usd)
    cheapest = np.where(truly, tasks.usd, np.inf).min(axis=1)
    rows = np.arange(len(chosen))
    picked = chosen >= 0
    fine = picked & truly[rows, np.maximum(chosen, 0)]
    paid = np.where(fine, tasks.usd[rows, np.maximum(chosen, 0)], 0.0)
    least = np.where(fine, cheapest, 0.0)
    servable = np.isfinite(cheapest)
    return OperatorFigures(
        workloads=len(chosen),
        usd_above=interval_of_sums(np.stack([paid - least, least], axis=1), ratio_of_sums, draws),
        infeasible=_share(picked & ~fine, picked, draws),
        false_refusals=_share(servable & ~picked, servable, draws),
        total_usd=float(paid.sum()),
        cheapest_total_usd=float(least.sum()),
    )


def _share(hit: BoolArray, counted: BoolArray, draws: GroupDraws) -> Interval:
    return interval_of_sums(np.stack([hit, counted], axis=1).astype(np.float64), ratio_of_sums, draws)
