"""Folds of tasks inside of a train half that keep groups whole, for what is chosen by nested folds.

Separate so that the rule is tested on plain names; the splits of an evaluation pack groups in the same way, but answer
with rows to learn from and rows to be judged on.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.contract import BoolArray

__all__ = ["fold_of_groups", "taught_beside"]

IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]


def fold_of_groups(groups: StringArray, folds: int) -> IntArray:
    """Fold of each task, shape (n,): groups stay whole, the largest first, each to the fold that has least so far."""
    sizes = [0] * folds
    fold_of: dict[str, int] = {}
    for name, size in sorted(Counter(groups.tolist()).items(), key=lambda item: (-item[1], item[0])):
        fold = sizes.index(min(sizes))
        sizes[fold] += size
        fold_of[name] = fold
    return np.array([fold_of[name] for name in groups.tolist()], dtype=np.intp)


def taught_beside(draws: StringArray | None, held: BoolArray) -> BoolArray:
    """Which tasks may be learnt from where others are held out, shape (n,): not those, nor any with their draws.

    A workload that is on several places has the same lengths, arrivals and acceptance on all of them. Whoever learns
    from it on one place knows of the other what nobody can know beforehand.
    """
    return ~held if draws is None else ~held & ~np.isin(draws, draws[held])
