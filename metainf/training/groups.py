"""Groups of rows, and what is left of their values without what the rows of a group have in common.

Separate from the boosting, which takes it out after each tree, and from who compares differences within tasks.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from metainf.training.growing import leaf_sums, leaf_totals, without_leaves

__all__ = ["Groups"]

Real = TypeVar("Real", np.float32, np.float64)

_LEAST_TOTAL = 1e-12


class Groups:
    """Which rows belong together, what is known of them, and how they are weighed.

    Parameters
    ----------
    of : array of shape (n,)
        Numbers of the groups, from 0 on; not all need occur.
    known : array of shape (n, targets), bool
    weight : array of shape (n,)
    """

    def __init__(self, of: NDArray[np.intp], known: NDArray[np.bool_], weight: NDArray[Any]) -> None:
        self._of, self._known, self._weight = of, known, weight
        self._count = int(of.max(initial=-1)) + 1
        self._totals = np.maximum(leaf_totals(of, known, weight, self._count), _LEAST_TOTAL)

    def centre(self, values: NDArray[Real]) -> None:
        """Take the weighted mean of their group from what is known of the rows, shape (n, targets), in place.

        Where nothing is known values are 0, and stay it.
        """
        means = leaf_sums(self._of, values, self._weight, self._count) / self._totals
        without_leaves(self._of, self._known, means.astype(values.dtype), values)

    def centred(self, values: NDArray[Real]) -> NDArray[Real]:
        """A copy of the values without that mean."""
        found = values.copy()
        self.centre(found)
        return found
