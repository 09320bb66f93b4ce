"""Singular value decomposition of vectors, fitted on train rows only.

Separate so that a fitted one can be applied with numpy alone, and so that its sign and order, which mathematics leaves
open, are settled in one place.
"""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from metainf.errors import NotFittedError

__all__ = ["Svd"]

FloatArray = NDArray[np.float64]

_NOTHING = 1e-10  # of the largest singular value: directions below are rounding


class Svd:
    """Projects on the first `rank` right singular vectors of the centred train rows.

    Where train rows span fewer directions than that, the others are zero: the width is always `rank`.

    Parameters
    ----------
    rank : int
    """

    mean_: FloatArray
    components_: FloatArray

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def fit(self, rows: FloatArray) -> Self:
        """Learn mean and directions from rows, shape (n, d)."""
        self.mean_ = rows.mean(axis=0)
        _, values, vectors = np.linalg.svd(rows - self.mean_, full_matrices=False)
        kept = int((values[: self.rank] > _NOTHING * max(float(values[0]), 1e-300)).sum())
        found = vectors[:kept]
        # The largest entry of each direction is positive: the factorisation leaves the sign to the machine.
        places = np.abs(found).argmax(axis=1)
        found = found * np.sign(found[np.arange(kept), places])[:, None]
        self.components_ = np.concatenate([found, np.zeros((self.rank - kept, rows.shape[1]))])
        return self

    def transform(self, rows: FloatArray) -> FloatArray:
        """The rows on those directions, shape (n, rank)."""
        if not hasattr(self, "components_"):
            raise NotFittedError("asking an Svd for its directions before it was fitted")
        return np.asarray((rows - self.mean_) @ self.components_.T)
