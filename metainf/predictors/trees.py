"""Oblivious trees with vector leaves, evaluated in numpy: all trees of many rows in a few passes over small arrays.

Separate from what the trees say, and from the library that grows them: the operator has neither a compiler nor that
library. A tree asks at most so many questions "feature > border", the same ones on every path; the answers are the bits
of a leaf's number.

One input is not of a row: the load, as the number of a knot. Every row is wanted at all knots, so questions about it
are answered when the trees are made, and a row passes a tree once for all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["ObliviousTrees"]

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

_BLOCK = 1024
"""Rows that pass all trees together: what one tree gathers for them stays in the cache of a core."""


@dataclass(frozen=True)  # without slots: the form for evaluation is worked out once and kept
class ObliviousTrees:
    """t trees of depth p over d features, k knots and o outputs.

    Attributes
    ----------
    feature : array of shape (t, p), int16
        Column that each split asks about; d is the load, -1 no split (its bit is 0).
    border : array of shape (t, p), float32
    leaves : array of shape (t, 2**p, o), float32
        Split j sets bit j of the leaf's number.
    bias : array of shape (o,), float64
    knots : int
        How many; the load's column holds the number of the knot.
    features : int
        d, the load's column not among them.
    """

    feature: NDArray[np.int16]
    border: Float32Array
    leaves: Float32Array
    bias: FloatArray
    knots: int
    features: int

    def at_knots(self, rows: FloatArray) -> FloatArray:
        """What the trees say of n rows at each knot, shape (n, k, o); `rows` has shape (n, d)."""
        compiled = self._compiled
        knots, outputs = self.knots, len(self.bias)
        columns = np.ascontiguousarray(rows.T.astype(np.float32)[compiled.columns])
        found = np.empty((len(rows), knots, outputs))
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, min(start + _BLOCK, len(rows)))
            fixed, moving = compiled.sums(columns[:, part])
            found[part] = moving.reshape(-1, knots, outputs)
            found[part] += fixed[:, None, :]
        found += self.bias
        return found

    @cached_property
    def _compiled(self) -> "_Compiled":
        return _Compiled.of(self)


@dataclass(frozen=True, slots=True, eq=False)
class _Compiled:
    """Trees in the order of evaluation: first those without a split on the load.

    The leaves of the others hold what they say at all knots, one after the other.
    """

    columns: IntArray
    """Feature of each distinct question."""
    borders: Float32Array
    question: IntArray
    """Shape (p, t): which distinct question gives bit j of tree t."""
    fixed: Float32Array
    """Shape (t', 2**p, o)."""
    moving: Float32Array
    """Shape (t'', 2**p, k * o)."""

    @classmethod
    def of(cls, trees: ObliviousTrees) -> "_Compiled":
        """The form for evaluation."""
        is_load = trees.feature == trees.features
        order = np.argsort(is_load.any(axis=1), kind="stable")
        moves = is_load.any(axis=1)[order]
        feature, border = trees.feature[order], trees.border[order]
        leaves, on_load = trees.leaves[order], is_load[order]
        asked = (feature >= 0) & ~on_load
        pairs: Mapping[tuple[int, float], int] = {
            pair: number
            for number, pair in enumerate(
                sorted(set(zip(feature[asked].tolist(), border[asked].tolist(), strict=True)))
            )
        }
        never = len(pairs)  # a question whose answer is no
        question = np.full(feature.shape, never, dtype=np.intp)
        for place in zip(*np.nonzero(asked), strict=True):
            question[place] = pairs[int(feature[place]), float(border[place])]
        keys = [*pairs, (0, np.inf)]
        return cls(
            columns=np.array([key[0] for key in keys], dtype=np.intp),
            borders=np.array([key[1] for key in keys], dtype=np.float32)[:, None],
            question=np.ascontiguousarray(question.T),
            fixed=np.ascontiguousarray(leaves[~moves]),
            moving=_over_knots(trees, leaves[moves], border[moves], on_load[moves]),
        )

    def sums(self, columns: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Sums over the trees for n rows, given as the columns of the questions: (n, o), and (n, k * o)."""
        answers = (columns > self.borders).view(np.uint8)
        depth, trees = self.question.shape
        number = np.zeros((trees, columns.shape[1]), dtype=np.uint8 if depth <= 8 else np.uint16)
        for bit in range(depth):
            number |= answers[self.question[bit]].astype(number.dtype) << number.dtype.type(bit)
        numbers = number.astype(np.intp)
        first = len(self.fixed)
        return _gathered(self.fixed, numbers[:first]), _gathered(self.moving, numbers[first:])


def _gathered(leaves: Float32Array, numbers: IntArray) -> Float32Array:
    total = np.zeros((numbers.shape[1], leaves.shape[2]), dtype=np.float32)
    one = np.empty_like(total)
    for table, rows in zip(leaves, numbers, strict=True):
        np.take(table, rows, axis=0, out=one, mode="clip")
        total += one
    return total


def _over_knots(
    trees: ObliviousTrees, leaves: Float32Array, border: Float32Array, on_load: NDArray[np.bool_]
) -> Float32Array:
    """Leaves by the bits of the other questions alone, with what they say at all knots side by side."""
    size = leaves.shape[1]
    found = np.empty((len(leaves), size, trees.knots, leaves.shape[2]), dtype=np.float32)
    bits = 1 << np.arange(on_load.shape[1])
    for tree in range(len(leaves)):
        mask = int(bits[on_load[tree]].sum())
        others = np.arange(size) & ~mask
        for knot in range(trees.knots):
            above = int(bits[on_load[tree] & (knot > border[tree])].sum())
            found[tree, :, knot] = leaves[tree, others | above]
    return found.reshape(len(leaves), size, trees.knots * leaves.shape[2])
