"""Folds of tasks inside of a train half that keep groups whole, for what is chosen by nested folds.

Separate so that the rule is tested on plain names; the splits of an evaluation pack groups in the same way, but answer
with rows to learn from and rows to be judged on.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

__all__ = ["fold_of_groups"]

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
