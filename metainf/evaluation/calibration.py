"""The one inflation that makes a choice keep its promise: fitted on held-out groups, for the chosen and not for all.

Separate from the intervals. An interval that covers 90 % of all candidates covers 43 to 77 % of the chosen ones, since
choosing the cheapest that seems to fit prefers those predicted too well (the winner's curse). So the rule itself is
calibrated: a candidate is taken only where every limit is at least `inflation` standard deviations away.

The guarantee is about the next unseen group, by conformal risk control over groups: with G groups the mean violation
rate, one more group of all violations added, must not be above 1 - confidence. Source: Angelopoulos, Bates, Fisch, Lei
and Schuster, Conformal risk control, ICLR 2024 (arXiv 2208.02814), equation 4. With confidence 0.9 and fewer than 9
groups no inflation can do that; then the mean alone is held and the answer says "not guaranteed".
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.contract import BoolArray, FloatArray

__all__ = ["CalibrationCase", "Guarantee", "Inflation", "cheapest_with", "fit_inflation", "least_groups"]

IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

_GRID = 512


class Guarantee(StrEnum):
    """What an inflation promises about a group that was never seen."""

    UNSEEN_GROUPS = "holds on average over unseen groups"
    NOT_GUARANTEED = "not guaranteed"


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationCase:
    """Tasks of held-out groups with their candidates.

    Attributes
    ----------
    margin : array of shape (n, c), standard deviations
        How far the nearest limit (an SLO or the budget) is from its prediction; negative where broken as predicted.
        -inf where the candidate cannot be.
    kept : array of shape (n, c), bool
        Whether it keeps every limit in truth.
    cost : array of shape (n, c)
        The cheapest is chosen, the first of equal ones.
    groups : array of shape (n,)
    """

    margin: FloatArray
    kept: BoolArray
    cost: FloatArray
    groups: StringArray


@dataclass(frozen=True, slots=True)
class Inflation:
    """How many standard deviations every limit must be away, and what that gave on the groups it was fitted on.

    `violation_rate` is the mean over groups of the share of picks that break a limit. `value` is infinite where only
    refusing everything keeps the promise.
    """

    value: float
    guarantee: Guarantee
    groups: int
    violation_rate: float
    refusal_rate: float


def least_groups(confidence: float) -> int:
    """Fewest groups with which a guarantee at this confidence can exist: 9 for 0.9."""
    return math.ceil(1.0 / (1.0 - confidence) - 1e-9) - 1


def cheapest_with(case: CalibrationCase, inflation: float) -> IntArray:
    """Shape (n,): the cheapest candidate whose limits are all so far away; -1 where none is."""
    cost = np.where(np.isfinite(case.margin) & (case.margin >= inflation), case.cost, np.inf)
    found = np.isfinite(cost).any(axis=1)
    return np.where(found, np.argmin(cost, axis=1), -1).astype(np.intp)


def fit_inflation(case: CalibrationCase, confidence: float) -> Inflation:
    """The least inflation from which on the chosen break a limit in at most 1 - confidence of unseen groups' picks.

    "From which on": more inflation changes the picks and can, by chance, break more; the worst of what follows counts.
    """
    names, codes = np.unique(case.groups, return_inverse=True)
    finite = case.margin[np.isfinite(case.margin)]
    steps = np.quantile(finite, np.linspace(0.0, 1.0, _GRID), method="higher") if len(finite) else np.array([])
    grid = np.append(np.unique(steps), np.inf)
    rates, refused = np.empty(len(grid)), np.empty(len(grid))
    for place, inflation in enumerate(grid):
        chosen = cheapest_with(case, float(inflation))
        rates[place] = _mean_violation_rate(case, chosen, codes.ravel(), len(names))
        refused[place] = float((chosen < 0).mean()) if len(chosen) else 0.0
    worst = np.maximum.accumulate(rates[::-1])[::-1]
    groups, most = len(names), 1.0 - confidence
    guaranteed = groups >= least_groups(confidence)
    bound = (groups * worst + 1.0) / (groups + 1.0) if guaranteed else worst
    place = int(np.argmax(bound <= most + 1e-12))  # the last one refuses everything and breaks nothing
    return Inflation(
        value=float(grid[place]),
        guarantee=Guarantee.UNSEEN_GROUPS if guaranteed else Guarantee.NOT_GUARANTEED,
        groups=groups,
        violation_rate=float(rates[place]),
        refusal_rate=float(refused[place]),
    )


def _mean_violation_rate(case: CalibrationCase, chosen: IntArray, codes: IntArray, groups: int) -> float:
    picked = chosen >= 0
    broke = picked & ~case.kept[np.arange(len(chosen)), np.maximum(chosen, 0)]
    picks = np.bincount(codes, weights=picked, minlength=groups)
    breaks = np.bincount(codes, weights=broke, minlength=groups)
    return float(np.mean(breaks / np.maximum(picks, 1.0))) if groups else 0.0
