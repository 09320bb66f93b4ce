"""How sure a prediction is by what the lane is: trees of widths, and the spreads of all splits with them.

Separate from the spreads, which scale any widths until intervals hold: this says which lanes deserve wider ones than
others. Without it a dense model on a common accelerator has the width that mixtures of experts need.

The trees say the mean of log(|held-out error| / spread) over a lane's rows, of both splits together: a lane that is
hard to predict when its model is unknown is so when its accelerator is, and one set of factors leaves what was never
seen as wide as what was, or wider. They are few and shallow, since one error says little about a spread. What they make
of a lane is judged, and its scale set, by trees that did not see its group; and for each target they are kept only
where intervals become narrower at the same coverage in every split.

How "narrower at the same coverage" is found: both kinds of widths get scales that held-out groups know nothing of, so
that both cover what is asked up to chance. Kept is what has a smaller mean width and a smaller mean of Winkler's score,
which a lack of coverage would raise, by at least `_LEAST_GAIN`, and covers as much up to `_COVERAGE_SLACK`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.evaluation.splits import grouped_folds
from metainf.predictors.base_answers import KNOTS, TARGETS
from metainf.predictors.corrections import KINDS, width_factors
from metainf.predictors.trees import ObliviousTrees
from metainf.training.boosting import Growth, grown
from metainf.training.held_out import SplitAnswers, learnt_from
from metainf.training.rows import TrainingRows
from metainf.training.spreads import (
    CONFIDENCE,
    Scored,
    Shape,
    SplitSpread,
    balanced_figures,
    fit_spread,
    held_out_reach,
    own_widths,
    shape_of,
)

__all__ = ["FittedSpreads", "JudgedSplit", "fitted_spreads", "narrower"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
StringArray = NDArray[np.str_]

_GROWTH = Growth(trees=40, depth=4, learning_rate=0.1, penalty=32.0, borders=32)
_LEAST_SIZE = 0.1  # of an error over its spread: the logarithm of one that happens to be right says nothing
_LEAST_GAIN = 0.01
_COVERAGE_SLACK = 0.02  # assumed: what chance does to the mean over a dozen groups
_MOST_ROUNDS = 3
"""Targets lean on the capacity's width: what is left once some were dropped is judged again, so often at most."""


@dataclass(frozen=True, slots=True, eq=False)
class JudgedSplit:
    """One split: its rows, its spread, and what held-out groups were told.

    Attributes
    ----------
    factor : array of shape (m, targets)
        Of widths, by trees that did not see the lane's group.
    reach : array of shape (n, targets)
        Half widths of 90 % intervals, as `held_out_reach` has them.
    """

    scored: Scored
    spread: SplitSpread
    factor: FloatArray
    reach: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class FittedSpreads:
    """Spreads of all splits in their order, and the trees behind their widths."""

    splits: Mapping[str, JudgedSplit]
    trees: ObliviousTrees | None
    by_features: tuple[str, ...]
    """Targets whose widths hang on features."""


def fitted_spreads(
    rows: TrainingRows,
    found: Mapping[str, SplitAnswers],
    *,
    seed: int,
    most_folds: int,
    report: Callable[[str], None] = lambda what: None,
) -> FittedSpreads:
    """Spreads of splits, each given by what was said of the lanes of its groups without them.

    `rows` are as the model will have them, by whose inputs it widens and narrows. The first split is of lanes whose
    generation was trained on. What was never seen is not surer than what was: spreads of a later split are at least
    those of the ones before.
    """
    if not found:
        return FittedSpreads({}, None, ())
    report("fitting spreads")
    scored = {split: Scored.of(each.rows, each.corrections, each.groups) for split, each in found.items()}
    shapes = {split: shape_of(each) for split, each in scored.items()}
    sizes = _sizes(rows, [(scored[split], shapes[split]) for split in scored])
    factors = {
        split: _held_out_factors(each.rows, sizes, each.groups, seed=seed, most_folds=most_folds)
        for split, each in found.items()
    }
    kept, reaches = _kept(scored, shapes, factors)
    splits: dict[str, JudgedSplit] = {}
    least: FloatArray = np.zeros((len(KINDS), KNOTS, len(TARGETS)))
    for split, each in scored.items():
        factor = np.where(kept, factors[split], 1.0)
        spread = fit_spread(each, shapes[split], factor)
        spread = replace(spread, log_sd=np.maximum(spread.log_sd, least))
        least = spread.log_sd
        splits[split] = JudgedSplit(each, spread, factor, reaches[split])
    trees = _trees(rows, sizes, np.ones(len(sizes), dtype=np.bool_), seed=seed) if kept.any() else None
    if trees is not None:
        trees = replace(trees, leaves=(trees.leaves * kept).astype(np.float32))
    return FittedSpreads(splits, trees, tuple(np.array(TARGETS)[kept].tolist()))


def narrower(figures: FloatArray, plain: FloatArray) -> BoolArray:
    """Whether intervals with these figures (see `balanced_figures`) are better than plain ones; shape (targets,).

    Targets that nobody knows are no better.
    """
    less: BoolArray = np.all(figures[:, :2] <= (1.0 - _LEAST_GAIN) * plain[:, :2], axis=1)
    covered: BoolArray = figures[:, 2] >= np.minimum(plain[:, 2], CONFIDENCE) - _COVERAGE_SLACK
    return less & covered


def _kept(
    scored: Mapping[str, Scored], shapes: Mapping[str, Shape], factors: Mapping[str, FloatArray]
) -> tuple[BoolArray, Mapping[str, FloatArray]]:
    """Targets whose widths hang on features, and the half widths of each split that follow."""
    plain = {split: held_out_reach(each, own_widths(each, shapes[split])) for split, each in scored.items()}
    figures = {split: balanced_figures(each, plain[split]) for split, each in scored.items()}
    unknown = {split: np.isnan(each[:, 0]) for split, each in figures.items()}
    kept: BoolArray = ~np.all(list(unknown.values()), axis=0)
    for _ in range(_MOST_ROUNDS):
        reaches, better = {}, kept.copy()
        for split, each in scored.items():
            own = own_widths(each, shapes[split], np.where(kept, factors[split], 1.0))
            reaches[split] = held_out_reach(each, own)
            better &= narrower(balanced_figures(each, reaches[split]), figures[split]) | unknown[split]
        if (better == kept).all():
            return kept, reaches
        kept = better
        if not kept.any():
            break
    return np.zeros(len(TARGETS), dtype=np.bool_), plain


def _sizes(rows: TrainingRows, splits: list[tuple[Scored, Shape]]) -> FloatArray:
    """Mean logarithm of each lane's errors over their spreads, shape (m, targets); NaN where none is known."""
    lanes = len(rows.questions)
    sums, counts = np.zeros((2, lanes, len(TARGETS)))
    for scored, shape in splits:
        own = own_widths(scored, shape, coordinate=scored.pure.coordinate)
        for target in range(len(TARGETS)):
            known = scored.known(target)
            size = np.abs(scored.pure.error[known, target]) / own[known, target]
            sums[:, target] += np.bincount(
                rows.lane[known], weights=np.log(np.maximum(size, _LEAST_SIZE)), minlength=lanes
            )
            counts[:, target] += np.bincount(rows.lane[known], minlength=lanes)
    return np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)


def _held_out_factors(
    rows: TrainingRows, sizes: FloatArray, groups: StringArray, *, seed: int, most_folds: int
) -> FloatArray:
    """Factors of m lanes by trees that did not see their groups, shape (m, targets)."""
    factor = np.ones(sizes.shape)
    for fold in grouped_folds(groups, most_folds):
        trees = _trees(rows, sizes, learnt_from(rows, fold), seed=seed)
        factor[fold.test] = width_factors(trees, rows.inputs[fold.test])
    return factor


def _trees(rows: TrainingRows, sizes: FloatArray, inside: BoolArray, *, seed: int) -> ObliviousTrees:
    """Trees of the sizes of some lanes; on average over these they change no width."""
    lanes = np.flatnonzero(inside & ~np.isnan(sizes).all(axis=1))
    weight = np.sqrt(np.bincount(rows.lane, minlength=len(sizes)).astype(np.float64))[lanes]
    trees = grown(rows.inputs, None, sizes[lanes], weight, _GROWTH, seed=seed, lane=lanes)
    return replace(trees, bias=np.zeros(len(TARGETS)))
