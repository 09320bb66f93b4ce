"""Random forests whose features are binned once, however many of them are grown.

Separate from the compiled loops, and from the selectors, which say what a forest is grown for.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.contract import FloatArray
from metainf.selectors.growing_forest import Trees, forest_means, grow_forest

__all__ = ["BinnedForest", "Bins"]

_MOST_BINS = 255


class Bins:
    """Cuts of each feature, from the training tasks: between all different values, or between quantiles of many."""

    def fit(self, features: FloatArray) -> Self:
        """Learn the cuts of `features`, shape (n, d), finite."""
        self.cuts_ = [_cuts(column) for column in features.T]
        return self

    def transform(self, features: FloatArray) -> NDArray[np.uint8]:
        """The bin of each value, shape (d, n): a row for each feature, as the trees read them."""
        bins = np.empty(features.T.shape, dtype=np.uint8)
        for place, (cuts, column) in enumerate(zip(self.cuts_, features.T, strict=True)):
            bins[place] = np.searchsorted(cuts, column, side="left")
        return bins


def _cuts(column: FloatArray) -> FloatArray:
    """Values in the middle between neighbours: what is at most the first is in bin 0."""
    values = np.unique(column)
    if len(values) > _MOST_BINS:
        values = np.unique(np.quantile(column, np.linspace(0.0, 1.0, _MOST_BINS), method="inverted_cdf"))
    return np.asarray((values[1:] + values[:-1]) / 2.0)


@dataclass(frozen=True, slots=True)
class BinnedForest:
    """How a forest is grown.

    Attributes
    ----------
    features_per_split : int
        Drawn anew for each split.
    smallest_leaf : int
        Different tasks of the sample in a leaf, at least.
    """

    trees: int
    features_per_split: int
    smallest_leaf: int
    random_state: int

    def fit(self, bins: NDArray[np.uint8], target: FloatArray, weight: FloatArray | None = None) -> "FittedForest":
        """A forest of `bins`, shape (d, n), as `Bins` makes them; target and weight of shape (n,)."""
        chance = np.ones(len(target)) if weight is None else weight.astype(np.float64)
        return FittedForest(
            grow_forest(
                np.ascontiguousarray(bins),
                target.astype(np.float64),
                chance,
                self.trees,
                self.features_per_split,
                self.smallest_leaf,
                self.random_state,
            )
        )


class FittedForest:
    """A forest that says the mean of its trees."""

    def __init__(self, nodes: Trees) -> None:
        self._nodes = nodes

    def predict(self, bins: NDArray[np.uint8]) -> FloatArray:
        """Shape (n,) of bins of shape (d, n); of labels of 0 and 1 the mean share of 1."""
        return np.asarray(forest_means(bins, *self._nodes), dtype=np.float64)
