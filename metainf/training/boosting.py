"""Boosts oblivious trees on all targets at once; rows that do not know a target have no part in it.

Separate from the compiled loops: this is where rows, knots and scales come in. Vector leaves, because capacity and
latencies bend at the same places and one target's rows help the others.

Every row is learnt at the two knots that its load lies between, by its distance to each: what the trees say at a knot
is then the mean of what was seen around it, and nothing can hide between two knots.

Rows are given as numbers of lanes, whose inputs stand once: a lane has a handful of rows. Questions are chosen by a
sample of at most `Growth.most_rows`, however many there are, since which column splits best is known long before that;
the leaves are means of all rows. So a tree costs, per row, its bits and two passes over the targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metainf.predictors.base_answers import CAPACITY, KNOTS
from metainf.predictors.corrections import knot_weights
from metainf.predictors.trees import ObliviousTrees
from metainf.training.groups import Groups
from metainf.training.growing import best_question, leaf_sums, leaf_totals, without_leaves

__all__ = ["Growth", "KnotRows", "boosted", "grown"]

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.intp]

_LEAST_WEIGHT = 0.05
_CAPACITY_FACTOR = 2.0  # what is chosen hangs on the capacity more than on any single latency
_LEAST_SD = 1e-3
_MIXTURES = 4  # of the targets, by which questions are chosen


@dataclass(frozen=True, slots=True)
class Growth:
    """How the trees are grown."""

    trees: int = 250
    shared_ratio: float = 0.4
    """Of the trees, where they come in two stages (`stages`): those of the first."""
    depth: int = 6
    learning_rate: float = 0.08
    penalty: float = 8.0
    """Rows' worth of "no correction" in each leaf."""
    borders: int = 48
    """Most borders of a column."""
    column_share: float = 0.4
    """Columns that each tree may ask about."""
    row_share: float = 0.5
    """Rows by which the questions of each tree are chosen; its leaves see all."""
    most_rows: int = 200_000
    """No more rows than that, each at one knot, choose questions."""


@dataclass(frozen=True, slots=True, eq=False)
class KnotRows:
    """n rows at the knots that their loads lie between, r in all: what trees learn from.

    Attributes
    ----------
    row : array of shape (r,)
        Which of the rows each is.
    knot : array of shape (r,), or None where nothing depends on the load
    borders : one array per column, the load's last
    bins : array of shape (columns, r)
    left : array of shape (r, targets), float32
        What is not said yet, in units of `scale`; 0 where nothing is known. Trees that are grown take from it.
    known : array of shape (r, targets), bool
    weight : array of shape (r,), float32
    scale, bias : arrays of shape (targets,)
        A row's residual is bias + scale x left.
    """

    row: IntArray
    knot: IntArray | None
    borders: Sequence[FloatArray]
    bins: NDArray[np.uint8]
    left: Float32Array
    known: NDArray[np.bool_]
    weight: Float32Array
    scale: FloatArray
    bias: FloatArray

    @classmethod
    def of(
        cls,
        inputs: FloatArray,
        coordinate: FloatArray | None,
        residual: FloatArray,
        weight: FloatArray,
        growth: Growth,
        *,
        lane: IntArray,
    ) -> Self:
        """Rows as `grown` takes them."""
        row, knot, weights = _at_knots(coordinate, weight)
        known = ~np.isnan(residual)
        bias = np.array([_mean(v[m], weight[m]) for v, m in zip(residual.T, known.T, strict=True)])
        scale = _scales(residual, known)
        left = np.where(known, (residual - bias) / scale, 0.0).astype(np.float32)[row]
        borders, bins = _binned(inputs, lane[row], knot, growth.borders)
        return cls(row, knot, borders, bins, left, known[row], weights.astype(np.float32), scale, bias)

    def about(self, left: Float32Array) -> Self:
        """The same rows with something else to be said, in units of `scale`, and no bias."""
        scale = _scales(left, self.known)
        return replace(
            self, left=(left / scale).astype(np.float32), scale=self.scale * scale, bias=np.zeros_like(self.bias)
        )


def grown(
    inputs: FloatArray,
    coordinate: FloatArray | None,
    residual: FloatArray,
    weight: FloatArray,
    growth: Growth,
    *,
    seed: int,
    lane: IntArray | None = None,
) -> ObliviousTrees:
    """Trees that say the residuals of n rows.

    Parameters
    ----------
    inputs : array of shape (m, d), of lanes
    coordinate : array of shape (n,), or None for what does not depend on the load: trees without knots
    residual : array of shape (n, targets), NaN where nothing is known
    weight : array of shape (n,)
    lane : array of shape (n,)
        The row of `inputs` that belongs to each; None where there is one for each.
    """
    lane = np.arange(len(residual)) if lane is None else lane
    rows = KnotRows.of(inputs, coordinate, residual, weight, growth, lane=lane)
    return boosted(rows, growth, np.random.default_rng(seed))


def boosted(
    rows: KnotRows,
    growth: Growth,
    draw: np.random.Generator,
    *,
    columns: IntArray | None = None,
    within: Groups | None = None,
) -> ObliviousTrees:
    """Trees that say what is left of the rows, which is taken from them.

    Parameters
    ----------
    columns : array, optional
        Trees ask about these and the load alone; without any, about all columns.
    within : Groups, optional
        Of the r rows: trees are to say how rows of one group differ, and what they have in common is nobody's.
    """
    width = len(rows.bins)
    if columns is None:
        columns = np.arange(width)
    elif rows.knot is not None:
        columns = np.append(columns, width - 1)
    boost = _Boost(rows, columns, within, growth=growth, draw=draw)
    trees = [boost.next_tree() for _ in range(growth.trees)]
    feature = np.full((growth.trees, growth.depth), -1, dtype=np.int16)
    border = np.zeros((growth.trees, growth.depth), dtype=np.float32)
    leaves = np.zeros((growth.trees, 1 << growth.depth, len(rows.scale)), dtype=np.float32)
    for number, (questions, values) in enumerate(trees):
        for place, (column, cut) in enumerate(questions):
            feature[number, place], border[number, place] = column, rows.borders[column][cut]
        leaves[number, : len(values)] = values * rows.scale
    inputs = width - (rows.knot is not None)
    return ObliviousTrees(feature, border, leaves, rows.bias, 1 if rows.knot is None else KNOTS, inputs)


def _binned(
    inputs: FloatArray, lane: IntArray, knot: IntArray | None, most: int
) -> tuple[list[FloatArray], NDArray[np.uint8]]:
    """Borders of each column, by the lanes that have rows, and the bins of n rows in them; last the knot, if any.

    Parameters
    ----------
    inputs : array of shape (m, d)
    lane, knot : arrays of shape (n,)

    Returns
    -------
    d or d + 1 borders, and an array of shape (d or d + 1, n)
    """
    used, of = np.unique(lane, return_inverse=True)
    of = of.ravel()
    borders: list[FloatArray] = []
    bins = np.empty((inputs.shape[1] + (knot is not None), len(lane)), dtype=np.uint8)
    for place, column in enumerate(inputs.T):
        own = column[used]
        borders.append(_borders(own, most))
        bins[place] = np.searchsorted(borders[-1], own, side="left")[of]
    if knot is not None:
        borders.append(np.arange(KNOTS - 1, dtype=np.float64) + 0.5)
        bins[-1] = knot
    return borders, bins


def _at_knots(coordinate: FloatArray | None, weight: FloatArray) -> tuple[IntArray, IntArray | None, FloatArray]:
    """Rows, knots and weights: each row once or twice; once, and at no knot, without a coordinate."""
    if coordinate is None:
        return np.arange(len(weight)), None, weight
    below, share = knot_weights(coordinate)
    own = np.arange(len(coordinate))
    rows, knot = np.concatenate([own, own]), np.concatenate([below, below + 1])
    near = np.concatenate([1.0 - share, share])
    kept = near > _LEAST_WEIGHT
    return rows[kept], knot[kept], (near * weight[rows])[kept]


def _scales(values: NDArray[Any], known: NDArray[np.bool_]) -> FloatArray:
    """What a difference in each target is divided by: its spread, and the capacity's counts for more."""
    scale = np.array([_sd(own[mask]) for own, mask in zip(values.T, known.T, strict=True)])
    scale[CAPACITY] /= _CAPACITY_FACTOR
    return scale


def _sd(values: FloatArray) -> float:
    return max(float(values.std()), _LEAST_SD) if len(values) else 1.0


def _mean(values: FloatArray, weight: FloatArray) -> float:
    return float(np.average(values, weights=weight)) if len(values) else 0.0


def _borders(column: FloatArray, most: int) -> FloatArray:
    """Cuts between values, as single precision has them: evenly by rank where there are many values."""
    distinct = np.unique(column.astype(np.float32))
    if len(distinct) > most + 1:
        levels = np.quantile(column, np.linspace(0.0, 1.0, most + 2)[1:-1], method="lower")
        lower = np.unique(levels.astype(np.float32))
    else:
        lower = distinct[:-1]
    upper = distinct[np.minimum(np.searchsorted(distinct, lower, side="right"), len(distinct) - 1)]
    cuts: FloatArray = ((lower.astype(np.float64) + upper) / 2.0).astype(np.float32).astype(np.float64)
    return np.unique(cuts)


class _Boost:
    """The state between trees: what is left to be explained."""

    def __init__(
        self, rows: KnotRows, columns: IntArray, within: Groups | None, *, growth: Growth, draw: np.random.Generator
    ) -> None:
        self.within = within
        self.bins, self.left, self.known, self.weight = rows.bins, rows.left, rows.known, rows.weight
        self.columns, self.growth, self.draw = columns, growth, draw
        self.most_bins = 1 + max((len(borders) for borders in rows.borders), default=0)
        self.share = min(growth.row_share, growth.most_rows / max(len(self.weight), 1))

    def next_tree(self) -> tuple[list[tuple[int, int]], FloatArray]:
        """Questions as (column, bin), and leaf values, shape (2**questions, targets); what it says is subtracted."""
        growth, draw = self.growth, self.draw
        rows = np.flatnonzero(draw.random(len(self.weight)) < self.share)
        columns = self._columns()
        mixing = draw.normal(size=(self.left.shape[1], _MIXTURES)) / np.sqrt(_MIXTURES)
        weight = self.weight[rows]
        mixed = (self.left[rows] @ mixing.astype(np.float32)) * weight[:, None]
        gradient = np.concatenate([mixed, weight[:, None]], axis=1)
        bins = np.empty((len(columns), len(rows)), dtype=np.uint8)
        for own, column in zip(bins, columns.tolist(), strict=True):
            np.take(self.bins[column], rows, out=own, mode="clip")
        leaf = np.zeros(len(rows), dtype=np.int64)
        questions: list[tuple[int, int]] = []
        kept = np.empty((len(columns), 1 << max(growth.depth - 1, 0), self.most_bins, gradient.shape[1]))
        for level in range(growth.depth if len(rows) else 0):  # of few rows the draw may be none
            place, cut, gain = best_question(bins, leaf, gradient, growth.penalty * self.share, level, kept)
            if gain <= 0.0:
                break
            questions.append((int(columns[place]), int(cut)))
            leaf |= (bins[place] > cut).astype(np.int64) << level
        return questions, self._filled(questions)

    def _columns(self) -> IntArray:
        """Those that the tree may ask about: a part of the inputs, and the load no more often than any of them.

        A tree that asks about the load says as many things as there are knots, and costs that much more at run time.
        """
        count = max(1, round(len(self.columns) * self.growth.column_share))
        chosen = self.draw.choice(len(self.columns), count, replace=False)
        return np.sort(self.columns[chosen]).astype(np.intp)

    def _filled(self, questions: list[tuple[int, int]]) -> FloatArray:
        leaf = np.zeros(len(self.weight), dtype=np.int64)
        for level, (column, cut) in enumerate(questions):
            leaf |= (self.bins[column] > cut).astype(np.int64) << level
        count = 1 << len(questions)
        sums = leaf_sums(leaf, self.left, self.weight, count)
        totals = leaf_totals(leaf, self.known, self.weight, count)
        values: FloatArray = self.growth.learning_rate * sums / (totals + self.growth.penalty)
        without_leaves(leaf, self.known, values.astype(np.float32), self.left)
        if self.within is not None:
            self.within.centre(self.left)
        return values
