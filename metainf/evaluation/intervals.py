"""How good predicted intervals are: coverage, width and Winkler's score, averaged over held-out groups.

Separate from the metrics of choices: these judge what a predictor says of its own error, in the unit of what is
predicted. Groups count alike, since it is the next unseen group that the figure is for: a large one must not hide that
small ones are missed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.errors import UndefinedMetricError
from metainf.selectors.contract import FloatArray

__all__ = ["IntervalFigures", "coverage_by_group", "interval_figures", "winkler_scores"]

StringArray = NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class IntervalFigures:
    """Means over groups, in the unit of the prediction where there is one.

    `coverage` and `worst_coverage` are shares, to be compared with the asked confidence.
    """

    confidence: float
    coverage: float
    worst_coverage: float
    worst_group: str
    median_width: float
    interval_score: float
    groups: int


def winkler_scores(truth: FloatArray, low: FloatArray, high: FloatArray, confidence: float) -> FloatArray:
    """Shape (n,), lower is better: the width, and 2 / (1 - confidence) times the distance of a truth outside.

    Source: Gneiting and Raftery, JASA 102 (2007), equation 43.
    """
    alpha = 1.0 - confidence
    below, above = np.maximum(low - truth, 0.0), np.maximum(truth - high, 0.0)
    scores: FloatArray = (high - low) + 2.0 / alpha * (below + above)
    return scores


def coverage_by_group(truth: FloatArray, low: FloatArray, high: FloatArray, groups: StringArray) -> Mapping[str, float]:
    """Share of each group's truths that lie inside, ends included; in the order of the names."""
    inside = (low <= truth) & (truth <= high)
    return {str(name): float(inside[groups == name].mean()) for name in np.unique(groups)}


def interval_figures(
    truth: FloatArray, low: FloatArray, high: FloatArray, groups: StringArray, *, confidence: float
) -> IntervalFigures:
    """All figures of intervals for n truths.

    Parameters
    ----------
    truth, low, high : arrays of shape (n,), one unit
        A logarithmic scale makes widths comparable between fast and slow tasks.
    groups : array of shape (n,)
        What was held out.

    Raises
    ------
    UndefinedMetricError
        There is nothing to judge.
    """
    if not len(truth):
        raise UndefinedMetricError("judging intervals: there are none")
    coverage = coverage_by_group(truth, low, high, groups)
    worst = min(coverage, key=lambda name: (coverage[name], name))
    scores = winkler_scores(truth, low, high, confidence)
    masks = [groups == name for name in coverage]
    return IntervalFigures(
        confidence=confidence,
        coverage=float(np.mean(list(coverage.values()))),
        worst_coverage=coverage[worst],
        worst_group=worst,
        median_width=float(np.mean([np.median((high - low)[mask]) for mask in masks])),
        interval_score=float(np.mean([scores[mask].mean() for mask in masks])),
        groups=len(coverage),
    )
