"""When to keep to the default: how far below its prediction a chosen method's gain may fall.

Separate from the ensemble so that the calibration is tested on plain arrays. It is taken over choices, not over all
methods: the best of many predictions is too high on average (the winner's curse), and this measures just that.
"""

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.contract import FloatArray

__all__ = ["fold_of_groups", "lower_offsets", "upper_quantile"]

IntArray = NDArray[np.intp]


def fold_of_groups(groups: NDArray[np.str_], folds: int) -> IntArray:
    """Fold of each task, shape (n,): groups stay whole, the largest first, each to the fold that has least so far."""
    sizes = [0] * folds
    fold_of: dict[str, int] = {}
    for name, size in sorted(Counter(groups.tolist()).items(), key=lambda item: (-item[1], item[0])):
        fold = sizes.index(min(sizes))
        sizes[fold] += size
        fold_of[name] = fold
    return np.array([fold_of[name] for name in groups.tolist()], dtype=np.intp)


def lower_offsets(
    chosen: IntArray, missed: FloatArray, methods: int, confidence: float, smallest_sample: int
) -> FloatArray:
    """What to take off each method's predicted gain for a lower bound, shape (methods,).

    Parameters
    ----------
    chosen, missed : arrays of shape (r,)
        Columns chosen on held-out tasks, and by how much each prediction was above the truth.
    """
    offsets = np.full(methods, upper_quantile(missed, confidence))
    for column in range(methods):
        own = missed[chosen == column]
        if len(own) >= smallest_sample:
            offsets[column] = upper_quantile(own, confidence)
    return offsets


def upper_quantile(values: FloatArray, confidence: float) -> float:
    """The value that a further one of the same kind stays below with this confidence; infinite with too few.

    Source: split conformal prediction, the ceil((n + 1) confidence)-th smallest of n.
    """
    position = math.ceil((len(values) + 1) * confidence - 1e-9)
    if position > len(values):
        return math.inf
    return float(np.sort(values)[max(position, 1) - 1])
