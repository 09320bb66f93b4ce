"""Spreads from errors on held-out groups: how they grow with the distance, and what makes 90 % intervals hold 90 %.

Separate from the errors themselves. Groups count alike, since the next unseen model or generation is a group. Two
spreads are kept: of lanes whose generation was trained on, from held-out model families, and of others, from held-out
generations (Mondrian by "generation seen").

The scale is set as conformal prediction does it, by the quantile of scores on groups that were held out. With fewer
groups than `least_groups` no such quantile promises anything for the next one; the figures say so then. The capacity's
scale is set first: latencies hold a part of its spread, and theirs is what is left for them to explain beside it.

Each kind of traffic has spreads and scales of its own. A knot of a rate and one of a closed loop have nothing in common
but their number, and under one scale intervals of one kind held 83 % of the truth so that those of another held 94.

What an unknown acceptance adds to lanes that draft (`drafting`), and the draw of lengths to the makespan of a batch
(`Responses.luck`), is given and not fitted: it is neither part of the spread at the knots, which is that of rows with
next to nothing of it where there are any, nor scaled. Without the latter, intervals of even batches were twice as wide
as their errors, and of a few uneven requests 59 to 75 % were inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metainf.evaluation.calibration import least_groups
from metainf.evaluation.intervals import interval_figures
from metainf.predictors.base_answers import CAPACITY, KNOTS, LATENCIES, MAKESPAN, TARGETS, THROUGHPUT
from metainf.predictors.corrections import KINDS, Corrections, knot_weights, near_full, speculation_log_sd
from metainf.predictors.familiarity import FAR
from metainf.training.held_out import Errors, errors
from metainf.training.rows import TrainingRows

__all__ = [
    "CONFIDENCE",
    "DEVIATIONS",
    "Scored",
    "Shape",
    "SplitSpread",
    "balanced_figures",
    "fit_spread",
    "held_out_reach",
    "own_widths",
    "shape_of",
    "spread_figures",
]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

CONFIDENCE = 0.9
DEVIATIONS = 1.6448536269514722
"""Standard deviations to either side that hold CONFIDENCE of a normal distribution."""
_MEAN_TO_SD = 1.2533141373155001  # of a normal distribution: sqrt(pi / 2)
_GROWTHS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
_LEAST_SD, _MOST_SD = 0.02, 3.0
_UNKNOWN_SD = 0.4  # of a target that no row knows: the analytical predictor's base spread
_LEAST_ROWS = 30  # at a knot; with fewer the spread of the kind of traffic stands in, and for that the whole target's
_LITTLE = 0.1  # added in squares to the least spreads that there are: a twentieth
_LEAST_SCALE, _MOST_SCALE = 0.1, 10.0
_SCALE_STEP = 0.005  # of the logarithm: scales are rounded up to it, which spares sorting a million scores
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Rows of one split with their errors and all that a row's spread depends on.

    Attributes
    ----------
    pure, whole : errors of n rows, with the true and with the predicted utilisation
    distance : array of shape (n,)
        Over the threshold.
    drafting : array of shape (n,)
        As `speculation_log_sd` gives it.
    lane : array of shape (n,)
    group : array of shape (n,)
        The number in `names` of what was held out.
    names : array of shape (g,)
    """

    pure: Errors
    whole: Errors
    distance: FloatArray
    drafting: FloatArray
    lane: IntArray
    group: IntArray
    names: StringArray

    @classmethod
    def of(cls, rows: TrainingRows, found: Corrections, groups: StringArray) -> "Scored":
        """All rows under what trees said that never saw the lane's group; `groups` has shape (m,)."""
        names, codes = np.unique(groups, return_inverse=True)
        return cls(
            pure=errors(rows, found, at_true_utilization=True),
            whole=errors(rows, found, at_true_utilization=False),
            distance=np.minimum(found.distance, FAR)[rows.lane],
            drafting=speculation_log_sd(rows.inputs)[rows.lane],
            lane=rows.lane,
            group=codes.ravel().astype(np.intp)[rows.lane],
            names=names,
        )

    @property
    def kind(self) -> IntArray:
        """Of each row's traffic, by KINDS, shape (n,)."""
        return self.whole.kind

    def known(self, target: int) -> BoolArray:
        """Rows whose pure error says what the target's spread is: those with nothing added, where there are any."""
        found: BoolArray = ~np.isnan(self.pure.error[:, target])
        plain = found & (self.added(target) <= _LITTLE)
        return plain if plain.any() else found

    def added(self, target: int) -> FloatArray:
        """What is given of each row's spread and not fitted, shape (n,): of drafts, and of a batch's makespan luck."""
        return np.asarray(np.hypot(self.drafting, self.whole.luck)) if target == MAKESPAN else self.drafting

    def balance(self, known: BoolArray) -> FloatArray:
        """Weights of rows, shape (n,), by which all groups count alike; 0 where nothing is known."""
        counts = np.bincount(self.group, weights=known, minlength=len(self.names))
        return np.where(known, 1.0 / np.maximum(counts, 1.0)[self.group], 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """How spreads differ between loads and distances, before they are scaled.

    Attributes
    ----------
    base : array of shape (kinds, knots, targets)
    growth : float
    """

    base: FloatArray
    growth: float


@dataclass(frozen=True, slots=True, eq=False)
class SplitSpread:
    """Spread of one category.

    Attributes
    ----------
    log_sd : array of shape (kinds, knots, targets), scaled already
    growth : float
    scale : array of shape (kinds, targets)
        What made the intervals hold; 1 where errors are as normal ones.
    """

    log_sd: FloatArray
    growth: float
    scale: FloatArray


def shape_of(rows: Scored) -> Shape:
    """The unscaled spread of one split: mean absolute errors at the knots, as of normal ones."""
    growth = min(_GROWTHS, key=lambda each: _surprise(rows, each))
    return Shape(_base(rows, growth), growth)


def own_widths(
    rows: Scored, shape: Shape, factor: FloatArray | None = None, *, coordinate: FloatArray | None = None
) -> FloatArray:
    """Unscaled spread of each row without what the capacity, drafts and luck add, shape (n, targets).

    Parameters
    ----------
    factor : array of shape (m, targets)
        What the features of each lane multiply it by.
    coordinate : array of shape (n,)
        Of the loads; that of the whole errors if None.
    """
    below, share = knot_weights(rows.whole.coordinate if coordinate is None else coordinate)
    own = (1.0 - share)[:, None] * shape.base[rows.kind, below] + share[:, None] * shape.base[rows.kind, below + 1]
    own *= (1.0 + shape.growth * rows.distance)[:, None]
    if factor is not None:
        own *= factor[rows.lane]
    return np.asarray(own)


def fit_spread(rows: Scored, shape: Shape, factor: FloatArray | None = None) -> SplitSpread:
    """The spread of one split, scaled so that its intervals hold; `factor` as `own_widths` takes it."""
    scale = _scales(rows, own_widths(rows, shape, factor))
    return SplitSpread(np.clip(shape.base * scale[:, None], _LEAST_SD, _MOST_SD), shape.growth, scale)


def held_out_reach(rows: Scored, own: FloatArray) -> FloatArray:
    """Half widths of 90 % intervals, each group's by scales that its own errors had no part in; shape (n, targets).

    `own` is as `own_widths` gives it. A group that is alone has scales of 1.
    """
    reach = np.full(own.shape, np.nan)
    for group in range(len(rows.names)):
        places = np.flatnonzero(rows.group == group)
        scales = _scales(rows, own, without=group) if len(rows.names) > 1 else np.ones((len(KINDS), len(TARGETS)))
        sd = np.hypot(own[places] * scales[rows.kind[places]], rows.drafting[places, None])
        sd[:, MAKESPAN] = np.hypot(sd[:, MAKESPAN], rows.whole.luck[places])
        near = near_full(sd[:, CAPACITY], np.minimum(rows.whole.utilization[places], 1.0))
        sd[:, :LATENCIES] = np.hypot(sd[:, :LATENCIES], near)
        reach[places] = DEVIATIONS * sd
    return reach


def balanced_figures(rows: Scored, reach: FloatArray) -> FloatArray:
    """Mean width, Winkler's score and coverage of each target, groups counting alike; shape (targets, 3).

    NaN where no row knows the target. `reach` is as `held_out_reach` gives it; all rows count, drafting ones too.
    """
    found = np.full((len(TARGETS), 3), np.nan)
    for target in range(len(TARGETS)):
        size, half = np.abs(rows.whole.error[:, target]), reach[:, target]
        known = ~np.isnan(size)
        if known.any():
            weight = rows.balance(known)
            beyond = np.where(known, np.maximum(size - half, 0.0), 0.0)
            width = 2.0 * float(np.average(half, weights=weight))
            score = width + 2.0 / (1.0 - CONFIDENCE) * float(np.average(beyond, weights=weight))
            found[target] = width, score, float(np.average(beyond <= 0.0, weights=weight))
    return found


def spread_figures(rows: Scored, reach: FloatArray) -> Mapping[str, Mapping[str, Any]]:
    """How good held-out intervals are, by target; `reach` is as `held_out_reach` gives it."""
    found = {}
    enough = len(rows.names) >= least_groups(CONFIDENCE)
    guarantee = "holds on average over unseen groups" if enough else "not guaranteed"
    # Names in the order of the numbers, and short: a million long ones take seconds to sort for each target.
    short = np.array([f"{number:04d}" for number in range(len(rows.names))], dtype=np.str_)
    for target, title in enumerate(TARGETS):
        error = rows.whole.error[:, target]
        known = ~np.isnan(error)
        if not known.any():
            continue
        half, groups = reach[known, target], short[rows.group[known]]
        figures = interval_figures(error[known], -half, half, groups, confidence=CONFIDENCE)
        found[title] = {
            "coverage": round(figures.coverage, 4),
            "worstCoverage": round(figures.worst_coverage, 4),
            "worstGroup": str(rows.names[int(figures.worst_group)]),
            "medianWidth": round(figures.median_width, 4),
            "intervalScore": round(figures.interval_score, 4),
            "groups": figures.groups,
            "guarantee": guarantee,
        }
    return found


def _base(rows: Scored, growth: float) -> FloatArray:
    """Unscaled spread by kind of traffic at the knots, shape (kinds, knots, targets)."""
    below, share = knot_weights(rows.pure.coordinate)
    near = np.zeros((len(share), KNOTS))
    near[np.arange(len(share)), below] = 1.0 - share
    near[np.arange(len(share)), below + 1] += share
    found = np.full((len(KINDS), KNOTS, len(TARGETS)), _UNKNOWN_SD)
    for target in range(len(TARGETS)):
        error, every = rows.pure.error[:, target], rows.known(target)
        if not every.any():
            continue
        size = _MEAN_TO_SD * np.where(every, np.abs(error), 0.0) / (1.0 + growth * rows.distance)
        found[:, :, target] = np.average(size, weights=rows.balance(every))
        for kind in range(len(KINDS)):
            known = every & (rows.kind == kind)
            if known.sum() < _LEAST_ROWS:
                continue
            weight = rows.balance(known)
            found[kind, :, target] = np.average(size, weights=weight)
            if target == CAPACITY:
                continue  # it does not depend on the load
            for knot in range(KNOTS):
                if near[known, knot].sum() >= _LEAST_ROWS:
                    found[kind, knot, target] = np.average(size, weights=weight * near[:, knot])
    clipped: FloatArray = np.clip(found, _LEAST_SD, _MOST_SD)
    return clipped


def _surprise(rows: Scored, growth: float) -> float:
    """Mean negative log likelihood of normal errors over the latencies and the capacity, up to a constant."""
    total = 0.0
    factor = 1.0 + growth * rows.distance
    for target in range(CAPACITY + 1):
        error, known = rows.pure.error[:, target], rows.known(target)
        if not known.any():
            continue
        weight = rows.balance(known)
        sd = max(_MEAN_TO_SD * float(np.average(np.where(known, np.abs(error), 0.0) / factor, weights=weight)), 1e-6)
        score = np.log(sd * factor) + 0.5 * np.square(np.where(known, error, 0.0) / (sd * factor))
        total += float(np.average(score, weights=weight))
    return total


def _scales(rows: Scored, own: FloatArray, *, without: int | None = None) -> FloatArray:
    """The factors on `own` from which on the intervals hold, shape (kinds, targets).

    Groups but `without` count alike. A kind of traffic with few rows has the factor of all of them.
    """
    counted = np.ones(len(rows.group), dtype=np.bool_) if without is None else rows.group != without
    found = np.ones((len(KINDS), len(TARGETS)))
    found[:, CAPACITY] = _kind_scales(rows, own, CAPACITY, rows.drafting, counted)
    capacity = np.hypot(own[:, CAPACITY] * found[rows.kind, CAPACITY], rows.drafting)
    near = near_full(capacity, np.minimum(rows.whole.utilization, 1.0))
    for target in (*range(LATENCIES), THROUGHPUT, MAKESPAN):
        given = rows.added(target)
        added = np.hypot(near[:, target], given) if target < LATENCIES else given
        found[:, target] = _kind_scales(rows, own, target, added, counted)
    return found


def _kind_scales(rows: Scored, own: FloatArray, target: int, added: FloatArray, counted: BoolArray) -> FloatArray:
    """The factors of one target, whose spread `added` belongs to and is not scaled; 1 where nothing is known of it."""
    error = rows.whole.error[:, target]
    known = ~np.isnan(error) & counted
    found = np.ones(len(KINDS))
    if not known.any():
        return found
    needed = np.square(error / DEVIATIONS) - np.square(added)
    score = np.sqrt(np.maximum(needed, 0.0)) / own[:, target]
    found[:] = _quantile(score, rows.balance(known))
    for kind in range(len(KINDS)):
        mine = known & (rows.kind == kind)
        if _LEAST_ROWS <= mine.sum() < known.sum():
            found[kind] = _quantile(score, rows.balance(mine))
    return found


def _quantile(score: FloatArray, weight: FloatArray) -> float:
    """The least step of the scale that so much of the weight does not exceed; scores without weight may be NaN."""
    held = np.clip(np.where(weight > 0.0, score, _LEAST_SCALE), _LEAST_SCALE, _MOST_SCALE)
    steps = np.ceil(np.log(held / _LEAST_SCALE) / _SCALE_STEP - _ROUNDING).astype(np.intp)
    reached = np.cumsum(np.bincount(steps, weights=weight)) / weight.sum()
    place = int(np.searchsorted(reached, CONFIDENCE - _ROUNDING))
    return min(_LEAST_SCALE * float(np.exp(_SCALE_STEP * place)), _MOST_SCALE)
