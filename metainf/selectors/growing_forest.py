"""Compiled loops that grow the trees of a random forest over binned features, and pass rows through them.

Separate from the selectors that use them, which are numpy. Why not scikit-learn's: SATzilla needs 99 trees for each of
250 pairs of methods and each fold, and there a tree over a hundred tasks takes 1.3 ms, nearly all of it around the
tree: half a minute a fit. Here features are binned once for all forests and all trees of one grow in one call.

The forest is Breiman's: each tree sees a bootstrap sample, drawn by the weights as scikit-learn 1.9 has it, each
split a few features drawn anew, features that do not vary in the node left out, and grows until its leaves are pure
or small. Variance is the criterion: of labels of 0 and 1 it is half of Gini's. Up to 255 different values of a
feature every cut is tried, of more those between quantiles.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Trees", "forest_means", "grow_forest"]

Trees = tuple[
    NDArray[np.int16], NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]
]


@njit(cache=True)
def grow_forest(
    bins: NDArray[np.uint8],
    target: NDArray[np.float64],
    weight: NDArray[np.float64],
    trees: int,
    features_per_split: int,
    smallest_leaf: int,
    seed: int,
) -> Trees:  # pragma: no cover - compiled
    """Feature (-1 at a leaf), last bin of the left side, both children and mean of each node; first node of each tree.

    Parameters
    ----------
    bins : array of shape (d, n)
    target : array of shape (n,)
    weight : array of shape (n,)
        A row's chance to be drawn into a tree's sample, over their sum.
    """
    np.random.seed(seed)
    columns, rows = bins.shape
    most = 2 * rows
    feature, cut = np.empty(trees * most, np.int16), np.empty(trees * most, np.uint8)
    left, right = np.empty(trees * most, np.int32), np.empty(trees * most, np.int32)
    mean = np.empty(trees * most, np.float32)
    roots = np.empty(trees + 1, np.int64)
    members, drawn = np.empty(rows, np.int64), np.empty(rows, np.float64)
    order = np.arange(columns)
    sums, counts, number = np.zeros(256), np.zeros(256), np.zeros(256, np.int64)
    starts, ends, places = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    reached = np.cumsum(weight) / weight.sum()
    used = 0
    for tree in range(trees):
        roots[tree] = used
        drawn[:] = 0.0
        for _ in range(rows):
            drawn[min(np.searchsorted(reached, np.random.random(), side="right"), rows - 1)] += 1.0
        inside = 0
        for row in range(rows):
            if drawn[row] > 0.0:
                members[inside] = row
                inside += 1
        starts[0], ends[0], places[0] = 0, inside, used
        waiting, used = 1, used + 1
        while waiting > 0:
            waiting -= 1
            start, end, place = starts[waiting], ends[waiting], places[waiting]
            total, mass, low, high = 0.0, 0.0, np.inf, -np.inf
            for at in range(start, end):
                row = members[at]
                heft = drawn[row]
                total += heft * target[row]
                mass += heft
                low, high = min(low, target[row]), max(high, target[row])
            mean[place] = total / mass if mass > 0.0 else 0.0
            feature[place] = -1
            if end - start < 2 * smallest_leaf or high - low <= 1e-12:
                continue
            best, best_column, best_cut = total * total / mass + 1e-12, -1, 0
            asked, left_over = 0, columns
            while left_over > 0 and asked < features_per_split:
                pick = np.random.randint(left_over)
                column = order[pick]
                order[pick], order[left_over - 1] = order[left_over - 1], column
                left_over -= 1
                least, last = 255, 0
                for at in range(start, end):
                    value = bins[column, members[at]]
                    least, last = min(least, value), max(last, value)
                if least == last:
                    continue
                asked += 1
                sums[least : last + 1] = 0.0
                counts[least : last + 1] = 0.0
                number[least : last + 1] = 0
                for at in range(start, end):
                    row = members[at]
                    value = bins[column, row]
                    heft = drawn[row]
                    sums[value] += heft * target[row]
                    counts[value] += heft
                    number[value] += 1
                below, below_mass, below_number = 0.0, 0.0, 0
                for value in range(least, last):
                    if number[value] == 0:
                        continue
                    below += sums[value]
                    below_mass += counts[value]
                    below_number += number[value]
                    if below_number < smallest_leaf or end - start - below_number < smallest_leaf:
                        continue
                    above = total - below
                    gain = below * below / below_mass + above * above / (mass - below_mass)
                    if gain > best:
                        best, best_column, best_cut = gain, column, value
            if best_column < 0:
                continue
            middle = start
            for at in range(start, end):
                row = members[at]
                if bins[best_column, row] <= best_cut:
                    members[at] = members[middle]
                    members[middle] = row
                    middle += 1
            feature[place], cut[place] = best_column, best_cut
            left[place], right[place] = used, used + 1
            starts[waiting], ends[waiting], places[waiting] = start, middle, used
            starts[waiting + 1], ends[waiting + 1], places[waiting + 1] = middle, end, used + 1
            waiting, used = waiting + 2, used + 2
    roots[trees] = used
    return (
        feature[:used].copy(),
        cut[:used].copy(),
        left[:used].copy(),
        right[:used].copy(),
        mean[:used].copy(),
        roots,
    )


@njit(cache=True)
def forest_means(
    bins: NDArray[np.uint8],
    feature: NDArray[np.int16],
    cut: NDArray[np.uint8],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    mean: NDArray[np.float32],
    roots: NDArray[np.int64],
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Mean over the trees of what each row's leaf holds, shape (n,); `bins` has shape (d, n)."""
    rows, trees = bins.shape[1], roots.shape[0] - 1
    found = np.zeros(rows)
    for row in range(rows):
        for tree in range(trees):
            node = roots[tree]
            while feature[node] >= 0:
                node = left[node] if bins[feature[node], row] <= cut[node] else right[node]
            found[row] += mean[node]
        found[row] /= trees
    return found
