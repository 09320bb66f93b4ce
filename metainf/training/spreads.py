"""Spreads from errors on held-out groups: how they grow with the distance, and what makes 90 % intervals hold 90 %.

Separate from the errors themselves. Groups count alike, since the next unseen model or generation is a group. Two
spreads are kept: of lanes whose generation was trained on, from held-out model families, and of others, from held-out
generations (Mondrian by "generation seen").

The scale is set as conformal prediction does it, by the quantile of scores on groups that were held out. With fewer
groups than `least_groups` no such quantile promises anything for the next one; the figures say so then.

What an unknown acceptance adds to lanes that draft (`drafting`) is given and not fitted: it is neither part of the
spread at the knots, which is that of lanes without drafts where there are any, nor scaled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metainf.evaluation.calibration import Guarantee, least_groups
from metainf.evaluation.intervals import interval_figures
from metainf.predictors.base_answers import CAPACITY, KNOTS, LATENCIES, TARGETS
from metainf.predictors.corrections import knot_weights, near_full
from metainf.training.held_out import Errors

__all__ = ["CONFIDENCE", "SplitSpread", "fit_spread", "held_out_reach", "spread_figures"]

FloatArray = NDArray[np.float64]
StringArray = NDArray[np.str_]

CONFIDENCE = 0.9
_Z = 1.6448536269514722  # two-sided 90 %
_MEAN_TO_SD = 1.2533141373155001  # of a normal distribution: sqrt(pi / 2)
_GROWTHS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
_LEAST_SD, _MOST_SD = 0.02, 3.0
_UNKNOWN_SD = 0.4  # of a target that no row knows: the analytical predictor's base spread
_LEAST_ROWS = 30  # at a knot; with fewer the whole target's spread stands in
_MOST_SCALE = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class SplitSpread:
    """Spread of one category.

    Attributes
    ----------
    log_sd : array of shape (knots, targets), scaled already
    growth : float
    scale : array of shape (targets,)
        What made the intervals hold; 1 where errors are as normal ones.
    """

    log_sd: FloatArray
    growth: float
    scale: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """Rows of one split: pure errors at the true utilisation, whole errors, and what belongs to each row."""

    pure: Errors
    whole: Errors
    distance: FloatArray
    groups: StringArray
    drafting: FloatArray

    def known(self, target: int) -> NDArray[np.bool_]:
        """Rows whose pure error of the target says what the spread is: those without drafts, where there are any."""
        found = ~np.isnan(self.pure.error[:, target])
        plain = found & (self.drafting == 0.0)
        return plain if plain.any() else found


def fit_spread(
    pure: Errors, whole: Errors, distance: FloatArray, groups: StringArray, drafting: FloatArray
) -> SplitSpread:
    """The spread of one split.

    Parameters
    ----------
    pure, whole : errors of n rows, with the true and with the predicted utilisation
    distance : array of shape (n,)
        Over the threshold.
    groups : array of shape (n,)
        What was held out.
    drafting : array of shape (n,)
        As `speculation_log_sd` gives it.
    """
    rows = _Scored(pure, whole, distance, groups, drafting)
    growth = min(_GROWTHS, key=lambda each: _surprise(rows, each))
    base = _base(rows, growth)
    scale = np.array([_scale(rows, base, growth, target) for target in range(len(TARGETS))])
    return SplitSpread(np.clip(base * scale, _LEAST_SD, _MOST_SD), growth, scale)


def held_out_reach(
    pure: Errors, whole: Errors, distance: FloatArray, groups: StringArray, drafting: FloatArray
) -> FloatArray:
    """Half widths of 90 % intervals, shape (n, targets), each group's by a scale that its own errors had no part in."""
    rows = _Scored(pure, whole, distance, groups, drafting)
    growth = min(_GROWTHS, key=lambda each: _surprise(rows, each))
    base = _base(rows, growth)
    names = np.unique(groups)
    reach = np.full(whole.error.shape, np.nan)
    for target in range(len(TARGETS)):
        if np.isnan(whole.error[:, target]).all():
            continue
        for name in names:
            own = groups == name
            scale = _scale(rows, base, growth, target, without=name) if len(names) > 1 else 1.0
            reach[own, target] = _Z * _sd(rows, base * scale, growth, target)[own]
    return reach


def spread_figures(
    pure: Errors, whole: Errors, distance: FloatArray, groups: StringArray, drafting: FloatArray
) -> Mapping[str, Mapping[str, Any]]:
    """How good intervals are on each group when its own errors had no part in their scale; by target."""
    reach = held_out_reach(pure, whole, distance, groups, drafting)
    found = {}
    enough = len(np.unique(groups)) >= least_groups(CONFIDENCE)
    guarantee = Guarantee.UNSEEN_GROUPS if enough else Guarantee.NOT_GUARANTEED
    for target, title in enumerate(TARGETS):
        error = whole.error[:, target]
        known = ~np.isnan(error)
        if not known.any():
            continue
        half = reach[known, target]
        figures = interval_figures(error[known], -half, half, groups[known], confidence=CONFIDENCE)
        found[title] = {
            "coverage": round(figures.coverage, 4),
            "worstCoverage": round(figures.worst_coverage, 4),
            "worstGroup": figures.worst_group,
            "medianWidth": round(figures.median_width, 4),
            "intervalScore": round(figures.interval_score, 4),
            "groups": figures.groups,
            "guarantee": guarantee.value,
        }
    return found


def _balance(groups: StringArray, known: NDArray[np.bool_]) -> FloatArray:
    """Weights of rows by which all groups count alike, 0 where nothing is known."""
    _, of = np.unique(groups, return_inverse=True)
    counts = np.bincount(of.ravel(), weights=known, minlength=1)
    return np.where(known, 1.0 / np.maximum(counts[of.ravel()], 1.0), 0.0)


def _base(rows: _Scored, growth: float) -> FloatArray:
    """Unscaled spread at the knots, shape (knots, targets): mean absolute errors, as of normal ones."""
    below, share = knot_weights(rows.pure.coordinate)
    near = np.zeros((len(share), KNOTS))
    near[np.arange(len(share)), below] = 1.0 - share
    near[np.arange(len(share)), below + 1] += share
    found = np.full((KNOTS, len(TARGETS)), _UNKNOWN_SD)
    for target in range(len(TARGETS)):
        error, known = rows.pure.error[:, target], rows.known(target)
        if not known.any():
            continue
        weight = _balance(rows.groups, known)
        size = np.where(known, np.abs(error), 0.0) / (1.0 + growth * rows.distance)
        found[:, target] = _MEAN_TO_SD * np.average(size, weights=weight)
        if target == CAPACITY:
            continue  # it does not depend on the load
        for knot in range(KNOTS):
            at = weight * near[:, knot]
            if near[known, knot].sum() >= _LEAST_ROWS:
                found[knot, target] = _MEAN_TO_SD * np.average(size, weights=at)
    clipped: FloatArray = np.clip(found, _LEAST_SD, _MOST_SD)
    return clipped


def _surprise(rows: _Scored, growth: float) -> float:
    """Mean negative log likelihood of normal errors over the latencies and the capacity, up to a constant."""
    total = 0.0
    factor = 1.0 + growth * rows.distance
    for target in range(CAPACITY + 1):
        error, known = rows.pure.error[:, target], rows.known(target)
        if not known.any():
            continue
        weight = _balance(rows.groups, known)
        sd = max(_MEAN_TO_SD * float(np.average(np.where(known, np.abs(error), 0.0) / factor, weights=weight)), 1e-6)
        score = np.log(sd * factor) + 0.5 * np.square(np.where(known, error, 0.0) / (sd * factor))
        total += float(np.average(score, weights=weight))
    return total


def _own(rows: _Scored, base: FloatArray, growth: float, target: int) -> FloatArray:
    """Spread of each row without what the capacity and drafts add."""
    below, share = knot_weights(rows.whole.coordinate)
    sd = (1.0 - share) * base[below, target] + share * base[below + 1, target]
    return np.asarray(sd * (1.0 + growth * rows.distance))


def _added(rows: _Scored, base: FloatArray, growth: float, target: int) -> FloatArray:
    """What the capacity and drafts add to it."""
    if target >= LATENCIES:
        return rows.drafting
    capacity = np.hypot(_own(rows, base, growth, CAPACITY), rows.drafting)
    return np.hypot(near_full(capacity, np.minimum(rows.whole.utilization, 1.0))[:, target], rows.drafting)


def _sd(rows: _Scored, base: FloatArray, growth: float, target: int) -> FloatArray:
    return np.hypot(_own(rows, base, growth, target), _added(rows, base, growth, target))


def _scale(rows: _Scored, base: FloatArray, growth: float, target: int, *, without: str | None = None) -> float:
    """The factor on a target's spread from which on the intervals hold, groups counting alike."""
    error = rows.whole.error[:, target]
    known = ~np.isnan(error)
    if without is not None:
        known = known & (rows.groups != without)
    if not known.any():
        return 1.0
    needed = np.square(np.where(known, error, 0.0) / _Z) - np.square(_added(rows, base, growth, target))
    score = np.sqrt(np.maximum(needed, 0.0)) / _own(rows, base, growth, target)
    weight = _balance(rows.groups, known)
    order = np.argsort(score, kind="stable")
    reached = np.cumsum(weight[order]) / weight.sum()
    place = min(int(np.searchsorted(reached, CONFIDENCE)), len(order) - 1)
    return float(np.clip(score[order[place]], _LEAST_SCALE, _MOST_SCALE))


_LEAST_SCALE = 0.1
