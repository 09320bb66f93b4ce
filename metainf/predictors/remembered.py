"""Rows of numbers about objects, worked out once for each and picked from one table afterwards.

Separate because the analytical predictor and the meta-features keep different numbers of the same replicas in the same
way: selection asks about a thousand of them again and again, and reading a thousand small objects costs more than the
arithmetic on what they hold.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["RememberedRows", "one_by_one"]

T = TypeVar("T")

FloatArray = NDArray[np.float64]


class RememberedRows(Generic[T]):
    """Rows by the identity of what they describe.

    Parameters
    ----------
    width : int
    describe : function
        The rows of k objects that were not asked about before, shape (k, width).
    most : int
        Objects that are kept; with more, all are forgotten and learnt again as they come.
    """

    def __init__(self, width: int, describe: Callable[[Sequence[T]], FloatArray], *, most: int = 8192) -> None:
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

    def keep(self, items: Sequence[T], rows: FloatArray) -> None:
        """Rows of k objects that are known already, so that they are not worked out again."""
        place_of = {id(item): place for place, item in enumerate(items)}
        new = self._with_room_for(items)
        self._append(new, rows[[place_of[id(item)] for item in new]])

    def _learn(self, items: Sequence[T]) -> None:
        new = self._with_room_for(items)
        self._append(new, self._describe(new))

    def _with_room_for(self, items: Sequence[T]) -> list[T]:
        """Those that are not kept, each once; where that is too many the kept are forgotten, and it is all of them."""
        distinct = {id(item): item for item in items}
        new = [item for key, item in distinct.items() if key not in self._place_of]
        if len(self._items) + len(new) <= self._most:
            return new
        self._place_of.clear()
        self._items.clear()
        return list(distinct.values())

    def _append(self, new: Sequence[T], rows: FloatArray) -> None:
        count = len(self._items)
        needed = count + len(new)
        if needed > len(self._table):
            grown = np.empty((max(needed, 2 * len(self._table)), self._table.shape[1]))
            grown[:count] = self._table[:count]
            self._table = grown
        self._table[count:needed] = rows
        self._place_of.update(zip(map(id, new), range(count, needed), strict=True))
        self._items.extend(new)


def one_by_one(describe: Callable[[T], FloatArray]) -> Callable[[Sequence[T]], FloatArray]:
    """What describes some objects (one at least), of what describes one: rows of shape (k, width)."""
    return lambda items: np.stack([describe(item) for item in items])
