"""The one inflation that makes a choice keep its promise: fitted on held-out groups, for the chosen and not for all.

Separate from the intervals. An interval that covers 90 % of all candidates covers 43 to 77 % of the chosen ones, since
choosing the cheapest that seems to fit prefers those predicted too well (the winner's curse). So the rule itself is
calibrated: a candidate is taken only where every limit is at least `inflation` standard deviations away.

The inflation is the least under which no more than 1 - confidence of the picks break a limit: of all picks, and where
there are groups enough (`least_groups`) in the mean over those with picks too, so that large ones do not speak for all.
With few, a mean over groups would hang on one pick of one of them. Nor does one with a single pick speak as loud as one
with fifty: shares are weighed by n / (n + k) of n picks, as a mean of random effects is, where groups differ by as much
as is allowed at all, r = 1 - confidence; then k = r (1 - r) / r^2 = confidence / r, nine picks for 0.9. Counted alike,
whatever was trained anew moved the inflation of a dozen groups between 0.88 and 1.2, and a tenth of what is refused
with it, by which one pick of one group broke. What larger inflations would do plays no part: under these few picks are
left, among them those that are predicted wrong by so much that none helps, and the share of the last three says little
of the many that are refused for them. How far it holds for groups that had no part in it is measured
(`held_out_decision`), and not concluded.

What can be concluded is less. Of G groups and the next one, all exchangeable, whatever the next one's share is it is at
most 1: with a mean over G, each counted alike, of at most r, that of the next is expected to be at most
(G r + 1) / (G + 1), where shares never rise with the inflation. So 0.9 borne out by 12 groups is 0.83 for one more
(`guaranteed_confidence`), and of fewer than 9, or where they bear it out by their weights alone, nothing is said.
Asking for 0.9 there would leave the 12 a mean of 2.5 %, for which two thirds and more of what can be served were
refused, although at an inflation of 1 only 2 to 9 % of the picks broke a limit. Source of the bound: Angelopoulos,
Bates, Fisch, Lei and Schuster, Conformal risk control, ICLR 2024 (arXiv 2208.02814), theorem 1.

An inflation below 1 is believed down to `LEAST`, and with groups enough alone: limits that break together, as TTFT,
TPOT and E2E of one lane do, are judged too strictly each at its share of the risk. Where three are all one, 0.7 of the
quantile does. What seems to do with less does so by the luck of few groups, and no simulation has all of a server's
errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.errors import UndefinedMetricError
from metainf.selectors.contract import BoolArray, FloatArray

__all__ = [
    "LEAST",
    "CalibrationCase",
    "HeldOutDecision",
    "Inflation",
    "cheapest_with",
    "fit_inflation",
    "guaranteed_confidence",
    "held_out_decision",
    "least_groups",
    "violation_rate",
]

IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

LEAST = 0.7
"""The least inflation where there are groups enough; elsewhere it is 1."""

_GRID = 512
_ROUNDING = 1e-12


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

    def breaks(self, chosen: IntArray) -> BoolArray:
        """Which of n picks break a limit in truth; they are numbered as `cheapest_with` does it, and -1 breaks none."""
        kept = np.take_along_axis(self.kept, np.maximum(chosen, 0)[:, None], axis=1)[:, 0]
        return np.asarray((chosen >= 0) & ~kept)


@dataclass(frozen=True, slots=True)
class Inflation:
    """How many standard deviations every limit must be away, and what that gave on the groups it was fitted on.

    `violation_rate` is the weighted mean, over the groups with picks, of the share of picks that break a limit; NaN
    without any. `value` is infinite where only refusing everything keeps the promise. `guaranteed` is as
    `guaranteed_confidence` gives it, None where groups do not bear the confidence out when each counts alike.
    """

    value: float
    guaranteed: float | None
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
        Of picks, weighted mean over the groups with picks; NaN without any.
    refusal_rate : float
        Of tasks, mean over groups.
    false_refusal_rate : float
        Of the tasks that some candidate truly serves, mean over groups that have any.
    uncalibrated_violation_rate : float
        Of picks with the predictor's own spread alone, weighted mean over the groups that have some then: what the
        calibration is for.
    guaranteed : float or None
        As `guaranteed_confidence` gives it of the groups that each was fitted on; None where one of these does not
        bear it out when each group counts alike.
    groups_with_picks : int
    """

    inflation: float
    violation_rate: float
    refusal_rate: float
    false_refusal_rate: float
    uncalibrated_violation_rate: float
    guaranteed: float | None
    groups: int
    tasks: int
    groups_with_picks: int


def least_groups(confidence: float) -> int:
    """Fewest groups with which a guarantee at this confidence can exist: 9 for 0.9."""
    return math.ceil(1.0 / (1.0 - confidence) - 1e-9) - 1


def guaranteed_confidence(groups: int, confidence: float) -> float | None:
    """What a confidence that so many groups bear out is expected to be for one more; None of too few groups."""
    if groups < least_groups(confidence):
        return None
    return 1.0 - (groups * (1.0 - confidence) + 1.0) / (groups + 1.0)


def cheapest_with(case: CalibrationCase, inflation: float) -> IntArray:
    """Shape (n,): the cheapest candidate whose limits are all so far away; -1 where none is."""
    cost = np.where(np.isfinite(case.margin) & (case.margin >= inflation), case.cost, np.inf)
    found = np.isfinite(cost).any(axis=1)
    return np.where(found, np.argmin(cost, axis=1), -1).astype(np.intp)


def fit_inflation(cases: Sequence[CalibrationCase], confidence: float, *, least: float | None = None) -> Inflation:
    """The least inflation under which no more than 1 - confidence of the picks break a limit.

    All cases count as one, however many candidates each has; groups of one name are one group.

    Parameters
    ----------
    least : float, optional
        No less is tried, however many groups there are; None: `LEAST`, and 1 where they are few.
    """
    tried = _Tried.of(cases, least)
    place = tried.least(np.ones(tried.groups, dtype=np.bool_), confidence)
    refused = 1.0 - float(tried.picked[place].mean()) if len(tried.codes) else 0.0
    rate, with_picks = violation_rate(tried.picked[place], tried.broke[place], tried.codes, confidence)
    guaranteed = tried.guaranteed(np.ones(tried.groups, dtype=np.bool_), place, confidence)
    return Inflation(float(tried.grid[place]), guaranteed, tried.groups, rate, refused, with_picks)


def held_out_decision(case: CalibrationCase, confidence: float) -> HeldOutDecision:
    """What the rule does to each group when it is calibrated on all others.

    Raises
    ------
    UndefinedMetricError
        There are fewer than two groups: nothing can be held out.
    """
    tried = _Tried.of([case], None)
    if tried.groups < 2:
        raise UndefinedMetricError("judging a calibrated decision needs two groups or more")
    servable: BoolArray = np.any(case.kept, axis=1)
    found = np.full((tried.groups, 3), np.nan)
    every_pick, every_break = np.zeros((2, len(case.groups)), dtype=np.bool_)
    guaranteed: list[float | None] = []
    for group in range(tried.groups):
        others = np.arange(tried.groups) != group
        place = tried.least(others, confidence)
        guaranteed.append(tried.guaranteed(others, place, confidence))
        own = tried.codes == group
        picked = tried.picked[place, own]
        every_pick[own], every_break[own] = picked, tried.broke[place, own]
        refused = servable[own] & ~picked
        found[group] = (
            tried.grid[place],
            1.0 - picked.mean(),
            refused.sum() / servable[own].sum() if servable[own].any() else np.nan,
        )
    rate, with_picks = violation_rate(every_pick, every_break, tried.codes, confidence)
    plain = cheapest_with(case, 1.0)
    return HeldOutDecision(
        inflation=float(np.median(found[:, 0])),
        violation_rate=rate,
        refusal_rate=float(found[:, 1].mean()),
        false_refusal_rate=float(np.nanmean(found[:, 2])) if servable.any() else 0.0,
        uncalibrated_violation_rate=violation_rate(plain >= 0, case.breaks(plain), tried.codes, confidence)[0],
        guaranteed=None if None in guaranteed else guaranteed_confidence(tried.groups - 1, confidence),
        groups=tried.groups,
        tasks=len(case.groups),
        groups_with_picks=with_picks,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """A grid of g inflations, rising from the least to infinity, and what is picked and breaks a limit under each.

    `picked` and `broke` are of shape (g, n), `codes` of shape (n,) has each task's group as a number. With few groups
    none below `least_of_few` is enough.
    """

    grid: FloatArray
    picked: BoolArray
    broke: BoolArray
    codes: IntArray
    groups: int
    least_of_few: float

    @classmethod
    def of(cls, cases: Sequence[CalibrationCase], least: float | None) -> "_Tried":
        lowest = LEAST if least is None else least
        names, codes = np.unique(np.concatenate([case.groups for case in cases]), return_inverse=True)
        finite = np.concatenate([case.margin[np.isfinite(case.margin)] for case in cases])
        steps = np.quantile(finite, np.linspace(0.0, 1.0, _GRID), method="higher") if len(finite) else np.array([])
        grid = np.unique([*np.maximum(steps, lowest).tolist(), lowest, max(lowest, 1.0), np.inf])
        picked = np.zeros((len(grid), len(codes.ravel())), dtype=np.bool_)
        broke = np.zeros_like(picked)
        ends = np.cumsum([len(case.groups) for case in cases]).tolist()
        for case, end in zip(cases, ends, strict=True):
            own = slice(end - len(case.groups), end)
            for place, inflation in enumerate(grid):
                chosen = cheapest_with(case, float(inflation))
                picked[place, own] = chosen >= 0
                broke[place, own] = case.breaks(chosen)
        few = 1.0 if least is None else least
        return cls(grid, picked, broke, codes.ravel().astype(np.intp), len(names), few)

    def least(self, counted: BoolArray, confidence: float) -> int:
        """Place of the least inflation that is enough for these groups; the last refuses all and breaks nothing."""
        member = (self.codes[:, None] == np.flatnonzero(counted)).astype(np.float64)
        picks, breaks = self.picked @ member, self.broke @ member
        risk = breaks.sum(axis=1) / np.maximum(picks.sum(axis=1), 1.0)
        allowed = self.grid >= self.least_of_few
        if int(counted.sum()) >= least_groups(confidence):
            half = _half_weight(confidence)
            means = (breaks / (picks + half)).sum(axis=1) / np.maximum((picks / (picks + half)).sum(axis=1), _ROUNDING)
            risk, allowed = np.maximum(risk, means), np.ones_like(allowed)
        return int(np.argmax(allowed & (risk <= 1.0 - confidence + _ROUNDING)))

    def guaranteed(self, counted: BoolArray, place: int, confidence: float) -> float | None:
        """What these groups guarantee of one more under the inflation at that place."""
        member = (self.codes[:, None] == np.flatnonzero(counted)).astype(np.float64)
        picks, breaks = self.picked[place] @ member, self.broke[place] @ member
        alike = float((breaks / np.maximum(picks, 1.0)).sum() / max(int((picks > 0).sum()), 1))
        groups = int(counted.sum())
        return guaranteed_confidence(groups, confidence) if alike <= 1.0 - confidence + _ROUNDING else None


def violation_rate(picked: BoolArray, broke: BoolArray, codes: IntArray, confidence: float) -> tuple[float, int]:
    """Weighted mean share of picks that break a limit, over the groups with picks, NaN without any; how many those are.

    Arrays of shape (n,); `codes` has the number of each task's group.
    """
    picks = np.bincount(codes, weights=picked, minlength=1)
    breaks = np.bincount(codes, weights=broke, minlength=1)
    some = picks > 0
    if not some.any():
        return np.nan, 0
    weight = picks[some] / (picks[some] + _half_weight(confidence))
    return float(np.average(breaks[some] / picks[some], weights=weight)), int(some.sum())


def _half_weight(confidence: float) -> float:
    """So many picks of a group count for half of what very many would."""
    return confidence / (1.0 - confidence)
