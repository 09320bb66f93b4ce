"""Rows of numbers about objects, worked out once for each and picked from one table afterwards.

Separate because the analytical predictor and the meta-features keep different numbers of the same replicas in the same
way: selection asks about a thousand of them again and again, and reading a thousand small objects costs more than the
arithmetic on what they hold.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["RememberedRows"]

T = TypeVar("T")

FloatArray = NDArray[np.float64]


class RememberedRows(Generic[T]):
    """Rows by the identity of what they describe.

    Parameters
    ----------
    width : int
    describe : function
        The row of one object, shape (width,).
    most : int
        Objects that are kept; with more, all are forgotten and learnt again as they come.
    """

    def __init__(self, width: int, describe: Callable[[T], FloatArray], *, most: int = 8192) -> None:
        self._describe = describe
        self._most = most
        self._place_of: dict[int, int] = {}
        self._items: list[T] = []  # held, so that an id cannot come to mean another
        self._table = np.empty((64, width))

    def of(self, items: Sequence[T]) -> FloatArray:
        """The rows of k objects, shape (k, width)."""
        places = list(map(self._place_of.get, map(id, items)))
        if None in places:
            self._learn(items)
            places = list(map(self._place_of.get, map(id, items)))
        return self._table[np.array(places, dtype=np.intp)]

    def _learn(self, items: Sequence[T]) -> None:
        new = {id(item): item for item in items if id(item) not in self._place_of}
        if len(self._items) + len(new) > self._most:
            self._place_of.clear()
            self._items.clear()
            new = {id(item): item for item in items}
        needed = len(self._items) + len(new)
        if needed > len(self._table):
            grown = np.empty((max(needed, 2 * len(self._table)), self._table.shape[1]))
            grown[: len(self._items)] = self._table[: len(self._items)]
            self._table = grown
        for key, item in new.items():
            self._table[len(self._items)] = self._describe(item)
            self._place_of[key] = len(self._items)
            self._items.append(item)
