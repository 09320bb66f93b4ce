"""The one inflation that makes a choice keep its promise: fitted on held-out groups, for the chosen and not for all.

Separate from the intervals. An interval that covers 90 % of all candidates covers 43 to 77 % of the chosen ones, since
choosing the cheapest that seems to fit prefers those predicted too well (the winner's curse). So the rule itself is
calibrated: a candidate is taken only where every limit is at least `inflation` standard deviations away.

The guarantee is about the next unseen group, by conformal risk control over groups: with G groups the mean violation
risk, one more group of all violations added, must not be above 1 - confidence. Source: Angelopoulos, Bates, Fisch, Lei
and Schuster, Conformal risk control, ICLR 2024 (arXiv 2208.02814), equation 4. With confidence 0.9 and fewer than 9
groups no inflation can do that; then the share of all picks is held, as far as half of the groups have picks that say
something of it, and the answer says "not guaranteed". A mean over so few groups would hang on one pick of one of them:
with five, a group whose last pick breaks a limit is a fifth of violations, and everything else would be refused for it.

Two figures, kept apart. A group's risk is the share of its picks that break a limit, 0 where everything is refused:
that is the loss whose mean the guarantee bounds. The violation rate that is told is over the groups with picks alone,
and how many those are stands beside it: groups that refuse everything must not make the picks of others look safe.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from metainf.errors import UndefinedMetricError
from metainf.selectors.contract import BoolArray, FloatArray

__all__ = [
    "CalibrationCase",
    "Guarantee",
    "HeldOutDecision",
    "Inflation",
    "cheapest_with",
    "fit_inflation",
    "held_out_decision",
    "least_groups",
]

IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

_GRID = 512
_ROUNDING = 1e-12


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

    `violation_rate` is the mean, over the groups with picks, of the share of picks that break a limit; NaN without
    any. `value` is infinite where only refusing everything keeps the promise.
    """

    value: float
    guarantee: Guarantee
    groups: int
    violation_rate: float
    refusal_rate: float
    groups_with_picks: int


@dataclass(frozen=True, slots=True)
class HeldOutDecision:
    """What inflations do to groups that had no part in fitting them, each group's from all others.

    Attributes
    ----------
    inflation : float
        The median over groups; infinite where most could only refuse.
    violation_rate : float
        Of picks, mean over the groups with picks; NaN without any.
    refusal_rate : float
        Of tasks, mean over groups.
    false_refusal_rate : float
        Of the tasks that some candidate truly serves, mean over groups that have any.
    uncalibrated_violation_rate : float
        Of picks with the predictor's own spread alone, mean over the groups that have some then: what the calibration
        is for.
    groups_with_picks : int
    """

    inflation: float
    violation_rate: float
    refusal_rate: float
    false_refusal_rate: float
    uncalibrated_violation_rate: float
    guarantee: Guarantee
    groups: int
    tasks: int
    groups_with_picks: int


def least_groups(confidence: float) -> int:
    """Fewest groups with which a guarantee at this confidence can exist: 9 for 0.9."""
    return math.ceil(1.0 / (1.0 - confidence) - 1e-9) - 1


def cheapest_with(case: CalibrationCase, inflation: float) -> IntArray:
    """Shape (n,): the cheapest candidate whose limits are all so far away; -1 where none is."""
    cost = np.where(np.isfinite(case.margin) & (case.margin >= inflation), case.cost, np.inf)
    found = np.isfinite(cost).any(axis=1)
    return np.where(found, np.argmin(cost, axis=1), -1).astype(np.intp)


def fit_inflation(cases: Sequence[CalibrationCase], confidence: float) -> Inflation:
    """The least inflation from which on the chosen break a limit in at most 1 - confidence of unseen groups' picks.

    All cases count as one, however many candidates each has; groups of one name are one group. "From which on": more
    inflation changes the picks and can, by chance, break more; the worst of what follows counts.
    """
    tried = _Tried.of(cases)
    every = np.ones(tried.groups, dtype=np.bool_)
    place, guarantee = tried.risks(every).least(confidence)
    refused = 1.0 - float(tried.picked[place].mean()) if len(tried.codes) else 0.0
    rate, with_picks = _violation_rate(tried.picked[place], tried.broke[place], tried.codes, tried.groups)
    return Inflation(float(tried.grid[place]), guarantee, tried.groups, rate, refused, with_picks)


def held_out_decision(case: CalibrationCase, confidence: float) -> HeldOutDecision:
    """What the rule does to each group when it is calibrated on all others.

    Raises
    ------
    UndefinedMetricError
        There are fewer than two groups: nothing can be held out.
    """
    tried = _Tried.of([case])
    if tried.groups < 2:
        raise UndefinedMetricError("judging a calibrated decision needs two groups or more")
    servable: BoolArray = np.any(case.kept, axis=1)
    found, guarantee = np.full((tried.groups, 3), np.nan), Guarantee.NOT_GUARANTEED
    every_pick, every_break = np.zeros((2, len(case.groups)), dtype=np.bool_)
    for group in range(tried.groups):
        others = np.arange(tried.groups) != group
        place, guarantee = tried.risks(others).least(confidence)
        own = tried.codes == group
        picked = tried.picked[place, own]
        every_pick[own], every_break[own] = picked, tried.broke[place, own]
        refused = servable[own] & ~picked
        found[group] = (
            tried.grid[place],
            1.0 - picked.mean(),
            refused.sum() / servable[own].sum() if servable[own].any() else np.nan,
        )
    rate, with_picks = _violation_rate(every_pick, every_break, tried.codes, tried.groups)
    plain = cheapest_with(case, 1.0)
    plain_broke = (plain >= 0) & ~case.kept[np.arange(len(plain)), np.maximum(plain, 0)]
    return HeldOutDecision(
        inflation=float(np.median(found[:, 0])),
        violation_rate=rate,
        refusal_rate=float(found[:, 1].mean()),
        false_refusal_rate=float(np.nanmean(found[:, 2])) if servable.any() else 0.0,
        uncalibrated_violation_rate=_violation_rate(plain >= 0, plain_broke, tried.codes, tried.groups)[0],
        guarantee=guarantee,
        groups=tried.groups,
        tasks=len(case.groups),
        groups_with_picks=with_picks,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """A grid of g inflations, rising from 0 to infinity, and what is picked and breaks a limit under each.

    `picked` and `broke` are of shape (g, n), `codes` of shape (n,) has each task's group as a number.
    """

    grid: FloatArray
    picked: BoolArray
    broke: BoolArray
    codes: IntArray
    groups: int

    @classmethod
    def of(cls, cases: Sequence[CalibrationCase]) -> "_Tried":
        names, codes = np.unique(np.concatenate([case.groups for case in cases]), return_inverse=True)
        finite = np.concatenate([case.margin[np.isfinite(case.margin)] for case in cases])
        steps = np.quantile(finite, np.linspace(0.0, 1.0, _GRID), method="higher") if len(finite) else np.array([])
        # Below 0 even what is predicted to break a limit would be taken.
        grid = np.append(np.unique(np.maximum(steps, 0.0)), np.inf)
        picked = np.zeros((len(grid), len(codes.ravel())), dtype=np.bool_)
        broke = np.zeros_like(picked)
        ends = np.cumsum([len(case.groups) for case in cases]).tolist()
        for case, end in zip(cases, ends, strict=True):
            own, rows = slice(end - len(case.groups), end), np.arange(len(case.groups))
            for place, inflation in enumerate(grid):
                chosen = cheapest_with(case, float(inflation))
                picked[place, own] = chosen >= 0
                broke[place, own] = (chosen >= 0) & ~case.kept[rows, np.maximum(chosen, 0)]
        return cls(grid, picked, broke, codes.ravel().astype(np.intp), len(names))

    def risks(self, counted: BoolArray) -> "_Risks":
        """What the inflations come to in these groups."""
        count = len(self.grid)
        if not counted.any():
            return _Risks(np.zeros(count), np.zeros(count), np.zeros(count, dtype=np.bool_), 0)
        member = (self.codes[:, None] == np.flatnonzero(counted)).astype(np.float64)
        picks, breaks = self.picked @ member, self.broke @ member
        return _Risks(
            means=(breaks / np.maximum(picks, 1.0)).mean(axis=1),
            shares=breaks.sum(axis=1) / np.maximum(picks.sum(axis=1), 1.0),
            told=(picks > 0).mean(axis=1) >= 0.5,
            groups=int(counted.sum()),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Risks:
    """What g inflations come to, arrays of shape (g,).

    Attributes
    ----------
    means : array
        Mean over groups of the share of picks that break a limit, 0 without picks.
    shares : array
        Of all picks, whatever their group.
    told : array
        Whether half of the groups have picks.
    groups : int
    """

    means: FloatArray
    shares: FloatArray
    told: BoolArray
    groups: int

    def least(self, confidence: float) -> tuple[int, Guarantee]:
        """Place of the least inflation that keeps the promise from there on; the last refuses all and breaks nothing.

        Without a guarantee inflations count under which half of the groups have picks, where one of these keeps it:
        with one pick left and that one broken, nothing is said of smaller inflations under which many are kept.
        """
        most = 1.0 - confidence + _ROUNDING
        if self.groups >= least_groups(confidence):
            bound = (self.groups * _worst_from(self.means) + 1.0) / (self.groups + 1.0)
            return int(np.argmax(bound <= most)), Guarantee.UNSEEN_GROUPS
        kept = self.told & (_worst_from(np.where(self.told, self.shares, 0.0)) <= most)
        if not kept.any():
            kept = _worst_from(self.shares) <= most
        return int(np.argmax(kept)), Guarantee.NOT_GUARANTEED


def _worst_from(risks: FloatArray) -> FloatArray:
    """The largest risk under each inflation and all that are larger."""
    worst: FloatArray = np.maximum.accumulate(risks[::-1])[::-1]
    return worst


def _violation_rate(picked: BoolArray, broke: BoolArray, codes: IntArray, groups: int) -> tuple[float, int]:
    """Mean share of picks that break a limit over the groups with picks, NaN without any; and how many those are."""
    picks = np.bincount(codes, weights=picked, minlength=groups)
    breaks = np.bincount(codes, weights=broke, minlength=groups)
    some = picks > 0
    return (float(np.mean(breaks[some] / picks[some])) if some.any() else np.nan), int(some.sum())
