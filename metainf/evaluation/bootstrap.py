"""Intervals for figures over tasks that come in groups, and paired comparisons of two selectors.

Separate from the metrics, which are single numbers. Tasks of one model family or one GPU generation rise and fall
together, so whole groups are drawn, not tasks; with two factors each is drawn by itself and a task counts as often as
the product says (the pigeonhole bootstrap; source: Owen, Annals of Applied Statistics 1(2), 2007).

Every figure that is a function of sums over tasks is resampled from one sum per group, so that a thousand draws cost a
matrix product however many tasks there are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from metainf.errors import UndefinedMetricError
from metainf.selectors.contract import BoolArray, FloatArray

__all__ = [
    "LEAST_GROUPS",
    "Comparison",
    "GroupDraws",
    "Interval",
    "WilcoxonResult",
    "interval_of_sums",
    "mean_interval",
    "paired_comparison",
    "paired_saving",
    "ratio_of_sums",
    "value_and_count",
    "wilcoxon_over_groups",
]

StringArray = NDArray[np.str_]

LEAST_GROUPS = 3
"""Fewer groups give no interval: two of them make four different draws."""
DRAWS = 1000
_LEAST_FOR_WILCOXON = 6
"""With 5 pairs the smallest two-sided p is 0.0625, so that no outcome would say anything."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its two-sided interval; both ends NaN where there are too few groups for one.

    `groups` are those of the tasks that count for this figure: of the factor with the fewest, 0 where none is known.
    """

    value: float
    low: float
    high: float
    groups: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better one selector is than another on the same tasks.

    `confidence` is the share of draws in which it is better: near 1 it surely is, near 0 it surely is not.
    """

    difference: Interval
    confidence: float


@dataclass(frozen=True, slots=True)
class WilcoxonResult:
    """Signed ranks over groups: `p_value` is two-sided, NaN with fewer than six groups that differ."""

    p_value: float
    groups: int
    better: int
    worse: int


class GroupDraws:
    """How often each cell of groups is drawn, the same in every use, so that comparisons are paired.

    Parameters
    ----------
    factors : arrays of shape (n,)
        The groups of the tasks, one array per factor.
    """

    def __init__(self, factors: Sequence[StringArray], *, draws: int = DRAWS, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        codes = [np.unique(factor, return_inverse=True) for factor in factors]
        counts = [_counts(rng, len(names), draws) for names, _ in codes]
        self._codes = [inverse.ravel() for _, inverse in codes]
        cells, self._cell_of_task = np.unique(
            np.stack([inverse.ravel() for _, inverse in codes], axis=1), axis=0, return_inverse=True
        )
        self._cell_of_task = self._cell_of_task.ravel()
        self._weights = np.prod([counts[f][:, cells[:, f]] for f in range(len(codes))], axis=0)
        self.groups = min(len(names) for names, _ in codes)
        """Of the factor with the fewest."""

    def groups_among(self, counted: BoolArray) -> int:
        """How many of the groups have a counted task; of the factor with the fewest."""
        return min(len(np.unique(codes[counted])) for codes in self._codes)

    def sums(self, columns: FloatArray) -> FloatArray:
        """Shape (draws, k): sums of the columns (n, k) in each draw."""
        per_cell = np.zeros((self._weights.shape[1], columns.shape[1]))
        np.add.at(per_cell, self._cell_of_task, columns)
        drawn: FloatArray = self._weights @ per_cell
        return drawn


def _counts(rng: np.random.Generator, groups: int, draws: int) -> FloatArray:
    return rng.multinomial(groups, np.full(groups, 1.0 / groups), size=draws).astype(np.float64)


def interval_of_sums(
    columns: FloatArray, finish: Callable[[FloatArray], FloatArray], draws: GroupDraws, *, confidence: float = 0.95
) -> Interval:
    """The figure that `finish` makes of sums over tasks, with its percentile interval.

    Parameters
    ----------
    columns : array of shape (n, k)
        What is summed; no NaN. A task whose row is all zeros does not count.
    finish : function of an array (..., k) to one (...)
        NaN where a draw has no value.
    """
    value = float(finish(columns.sum(axis=0)))
    groups = draws.groups_among(np.any(columns != 0.0, axis=1))
    if groups < LEAST_GROUPS:
        return Interval(value, np.nan, np.nan, groups)
    drawn = finish(draws.sums(columns))
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(value, np.nan, np.nan, groups)
    low, high = np.quantile(drawn, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return Interval(value, float(low), float(high), groups)


def paired_comparison(
    first: FloatArray, second: FloatArray, draws: GroupDraws, *, confidence: float = 0.95
) -> Comparison:
    """Mean of first minus second over tasks, by draws that both share; tasks with a NaN in either do not count.

    Parameters
    ----------
    first, second : arrays of shape (n,)
        A figure of each task under two selectors, higher is better, such as `log_gain`.

    Raises
    ------
    UndefinedMetricError
        No task has both.
    """
    both = np.isfinite(first) & np.isfinite(second)
    if not both.any():
        raise UndefinedMetricError("comparing two selectors: no task has both figures")
    return _compared(np.where(both, first - second, 0.0), both.astype(np.float64), draws, confidence)


def paired_saving(
    first_usd: FloatArray, second_usd: FloatArray, draws: GroupDraws, *, confidence: float = 0.95
) -> Comparison:
    """Share of the second's total that the first saves, by draws that both share: above 0 where the first is cheaper.

    Totals, as they are paid: a dear task counts for more than a cheap one, which a mean of ratios would hide.

    Parameters
    ----------
    first_usd, second_usd : arrays of shape (n,)
        What each task costs under two selectors; a task with a NaN in either does not count.

    Raises
    ------
    UndefinedMetricError
        No task has both.
    """
    both = np.isfinite(first_usd) & np.isfinite(second_usd)
    if not both.any():
        raise UndefinedMetricError("comparing what two selectors cost: no task has both prices")
    return _compared(np.where(both, second_usd - first_usd, 0.0), np.where(both, second_usd, 0.0), draws, confidence)


def _compared(better: FloatArray, over: FloatArray, draws: GroupDraws, confidence: float) -> Comparison:
    """The ratio of two sums over tasks, and the share of draws in which it is above 0."""
    columns = np.stack([better, over], axis=1)
    interval = interval_of_sums(columns, ratio_of_sums, draws, confidence=confidence)
    drawn = ratio_of_sums(draws.sums(columns))
    drawn = drawn[np.isfinite(drawn)]
    # Equal selectors are neither better nor worse: half of the draws each.
    share = float(np.mean(np.where(drawn == 0.0, 0.5, drawn > 0.0))) if len(drawn) else np.nan
    return Comparison(interval, share)


def wilcoxon_over_groups(first: FloatArray, second: FloatArray, groups: StringArray) -> WilcoxonResult:
    """Wilcoxon's signed-rank test on the groups' mean differences, first minus second."""
    both = np.isfinite(first) & np.isfinite(second)
    names = np.unique(groups[both])
    means = np.array([np.mean((first - second)[both & (groups == name)]) for name in names])
    differing = means[means != 0.0]
    p_value = float(wilcoxon(differing).pvalue) if len(differing) >= _LEAST_FOR_WILCOXON else np.nan
    return WilcoxonResult(p_value, len(names), int((means > 0.0).sum()), int((means < 0.0).sum()))


def ratio_of_sums(sums: FloatArray) -> FloatArray:
    """The first sum over the second, for `interval_of_sums`; NaN of nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: FloatArray = sums[..., 0] / sums[..., 1]
    return found


def value_and_count(values: FloatArray | BoolArray, counted: BoolArray) -> FloatArray:
    """Shape (n, 2): the values where they count, and the count."""
    return np.stack([np.where(counted, values, 0.0), counted.astype(np.float64)], axis=1)


def mean_interval(values: FloatArray | BoolArray, counted: BoolArray, draws: GroupDraws) -> Interval:
    """The mean over the counted tasks with its interval; of what holds or does not, its share."""
    return interval_of_sums(value_and_count(values, counted), ratio_of_sums, draws)
