"""Compiled loops that grow one oblivious tree: histograms of gradients, the best question of a level, leaf values.

Separate from the boosting around them, which is numpy: these touch every row several times per tree.

Why not a library. CatBoost grows such trees, and took 1 s a tree for 20,000 rows with 15 targets on one loaded core
(version 1.2.10, `MultiRMSEWithMissingValues`), which a corpus of hundreds of thousands of rows and nine fits cannot
pay. Here the questions are chosen by a few random mixtures of the targets, and only the leaves are worked out for all
of them: as good, and many times faster. Source: Iosipoi and Vakhrushev, SketchBoost, NeurIPS 2022 (arXiv 2211.12858).
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["best_question", "leaf_sums", "leaf_totals", "without_leaves"]

_Reals = NDArray[np.floating[Any]]

_ROUNDING = 1e-9


@njit(cache=True)
def best_question(
    bins: NDArray[np.uint8],
    leaf: NDArray[np.int64],
    gradient: NDArray[np.float32],
    penalty: float,
    level: int,
    kept: NDArray[np.float64],
) -> tuple[int, int, float]:  # pragma: no cover - compiled
    """The column and bin that split all leaves best, and by how much more than no split.

    Of two leaves that were one a level before only the smaller is added up: the other is what is left of that one.

    Parameters
    ----------
    bins : array of shape (d, n)
        Of the columns that may be asked about.
    leaf : array of shape (n,), below 2**level
        Questions asked so far set a bit each, the last one the highest.
    gradient : array of shape (n, s + 1); the last column is the weight
    kept : array of shape (d, 2**level or more, bins, s + 1)
        The histograms of the level before, which those of this one replace; anything at level 0.
    """
    width = gradient.shape[1]
    rows, leaves = leaf.shape[0], 1 << level
    best_column, best_bin, best_gain = -1, 0, 0.0
    total = np.zeros((leaves, width))
    count = np.zeros(leaves, dtype=np.int64)
    for row in range(rows):
        count[leaf[row]] += 1
        for k in range(width):
            total[leaf[row], k] += gradient[row, k]
    without = 0.0
    for each in range(leaves):
        for k in range(width - 1):
            without += total[each, k] * total[each, k] / (total[each, width - 1] + penalty)
    smaller = _smaller(count)
    added = np.flatnonzero(smaller[leaf])
    for place in range(bins.shape[0]):
        histogram = kept[place]
        _add_up(histogram, bins[place], leaf, gradient, added, smaller)
        cut, gain = _best_cut(histogram[:leaves, : histogram.shape[1] - 1], total, penalty)
        # What is left of a leaf by subtraction is not quite 0 in empty bins.
        if gain - without > max(best_gain, _ROUNDING * without):
            best_column, best_bin, best_gain = place, cut, gain - without
    return best_column, best_bin, best_gain


@njit(cache=True)
def _smaller(count: NDArray[np.int64]) -> NDArray[np.bool_]:  # pragma: no cover - compiled
    """Of each two leaves that were one, which has fewer rows; a single leaf is that itself."""
    half = len(count) >> 1
    smaller = np.ones(len(count), dtype=np.bool_)
    for each in range(half):
        smaller[each] = count[each] < count[each + half]
        smaller[each + half] = not smaller[each]
    return smaller


@njit(cache=True)
def _add_up(
    histogram: NDArray[np.float64],
    column: NDArray[np.uint8],
    leaf: NDArray[np.int64],
    gradient: NDArray[np.float32],
    added: NDArray[np.int64],
    smaller: NDArray[np.bool_],
) -> None:  # pragma: no cover - compiled
    """Make a column's histograms of the level before those of this one, by the rows of the smaller leaves, `added`."""
    half = len(smaller) >> 1
    if half == 0:
        histogram[0] = 0.0
    for each in range(half):
        if smaller[each]:
            histogram[each + half] = histogram[each]
            histogram[each] = 0.0
        else:
            histogram[each + half] = 0.0
    for row in added:
        cell = histogram[leaf[row], column[row]]
        for k in range(gradient.shape[1]):
            cell[k] += gradient[row, k]
    for each in range(half):
        if smaller[each]:
            histogram[each + half] -= histogram[each]
        else:
            histogram[each] -= histogram[each + half]


@njit(cache=True)
def _best_cut(
    histogram: NDArray[np.float64], total: NDArray[np.float64], penalty: float
) -> tuple[int, float]:  # pragma: no cover - compiled
    """The bin after which a cut explains the most, and how much that is."""
    leaves, cuts, width = histogram.shape
    below = np.zeros((leaves, width))
    best_bin, best_gain = 0, -1.0
    for cut in range(cuts):
        gain = 0.0
        for each in range(leaves):
            for k in range(width):
                below[each, k] += histogram[each, cut, k]
            under = below[each, width - 1] + penalty
            over = total[each, width - 1] - below[each, width - 1] + penalty
            for k in range(width - 1):
                above = total[each, k] - below[each, k]
                gain += below[each, k] * below[each, k] / under + above * above / over
        if gain > best_gain:
            best_bin, best_gain = cut, gain
    return best_bin, best_gain


@njit(cache=True)
def leaf_sums(
    leaf: NDArray[np.int64], residual: _Reals, weight: _Reals, leaves: int
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Weighted sums of residuals by leaf, shape (leaves, targets)."""
    found = np.zeros((leaves, residual.shape[1]))
    for row in range(leaf.shape[0]):
        for target in range(residual.shape[1]):
            found[leaf[row], target] += residual[row, target] * weight[row]
    return found


@njit(cache=True)
def leaf_totals(
    leaf: NDArray[np.int64], known: NDArray[np.bool_], weight: _Reals, leaves: int
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Weights of the rows that know each target, by leaf, shape (leaves, targets)."""
    found = np.zeros((leaves, known.shape[1]))
    for row in range(leaf.shape[0]):
        for target in range(known.shape[1]):
            if known[row, target]:
                found[leaf[row], target] += weight[row]
    return found


@njit(cache=True)
def without_leaves(
    leaf: NDArray[np.int64], known: NDArray[np.bool_], values: _Reals, residual: _Reals
) -> None:  # pragma: no cover - compiled
    """Take what the leaves say, shape (leaves, targets), from the residuals of the rows that know each target."""
    for row in range(leaf.shape[0]):
        for target in range(known.shape[1]):
            if known[row, target]:
                residual[row, target] -= values[leaf[row], target]
