"""How far a question is from what was trained on: one distance per group of features, and what follows from it.

Separate from the trees, which answer anywhere with the same ease. Groups are looked at apart, since a model that was
never seen is not made familiar by traffic that was; the least familiar one counts.

Up to its threshold a group is familiar: that is the mean and two standard deviations of the distances that training
rows have to the rest when their own model family or accelerator generation is left out, as ISAC has it for its
clusters. From there up to `FAR` thresholds what was learnt fades, and beyond only the analytical model is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from metainf.meta_features.derived import DERIVED_FEATURES
from metainf.meta_features.hardware import HARDWARE_FEATURES
from metainf.meta_features.methods import SETTINGS_FEATURES
from metainf.meta_features.models import MODEL_FEATURES
from metainf.meta_features.traffic import TRAFFIC_FEATURES
from metainf.predictors.inputs import INPUTS

__all__ = ["FAR", "GROUPS", "Familiarity", "FeatureGroup", "fading", "scale_of"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

FAR = 2.0
"""Thresholds at which nothing that was learnt is left."""
_LEAST_SCALE = 0.1  # a column that hardly moved in training must not count for everything once it does
_MOST_SORTED = 1 << 16
"""Rows among which distinct points are looked for; comparing hundreds of thousands takes longer than growing a tree."""


@dataclass(frozen=True, slots=True)
class FeatureGroup:
    """A name and the columns of the inputs that belong to it."""

    name: str
    columns: NDArray[np.intp]


def _group(name: str, features: Sequence[object]) -> FeatureGroup:
    names = {getattr(feature, "name", "") for feature in features}
    return FeatureGroup(name, np.array([place for place, each in enumerate(INPUTS) if each in names], dtype=np.intp))


GROUPS = (
    _group("model", MODEL_FEATURES),
    _group("hardware", HARDWARE_FEATURES),
    _group("traffic", TRAFFIC_FEATURES),
    _group("derived", DERIVED_FEATURES),
    _group("settings", SETTINGS_FEATURES),
)


@dataclass(frozen=True, eq=False)  # without slots: what a search needs of the points is worked out once and kept
class Familiarity:
    """Points that stand for the training data.

    Attributes
    ----------
    scale : array of shape (d,)
        What a difference in each input is divided by: its spread in training.
    points : one array of shape (r, c) per group, scaled
    thresholds : array of shape (groups,)
        Distances up to which each group counts as known.
    """

    scale: FloatArray
    points: tuple[FloatArray, ...]
    thresholds: FloatArray

    @classmethod
    def of(cls, rows: FloatArray, *, most: int, seed: int, scale: FloatArray | None = None) -> "Familiarity":
        """Of training rows, shape (n, d), with thresholds of 1; at most so many points for each group."""
        scale = scale_of(rows) if scale is None else scale
        draw = np.random.default_rng(seed)
        points: list[FloatArray] = []
        for group in GROUPS:
            scaled: FloatArray = np.round(rows[:, group.columns] / scale[group.columns], 6)
            distinct = np.unique(_without_runs(scaled, draw), axis=0)
            if len(distinct) > most:
                distinct = distinct[np.sort(draw.choice(len(distinct), most, replace=False))]
            points.append(distinct)
        return cls(scale, tuple(points), np.ones(len(GROUPS)))

    def distances(self, rows: FloatArray) -> FloatArray:
        """Root mean square difference to the nearest point, over the threshold; shape (n, groups)."""
        scaled = rows / self.scale
        found = [_nearest(scaled[:, group.columns], near) for group, near in zip(GROUPS, self._searched, strict=True)]
        return np.stack(found, axis=1) / self.thresholds

    @cached_property
    def _searched(self) -> "tuple[_Searched, ...]":
        return tuple(_Searched.of(points) for points in self.points)


def scale_of(rows: FloatArray) -> FloatArray:
    """What a difference in each column is divided by, shape (d,), of training rows, shape (n, d)."""
    scale: FloatArray = np.maximum(rows.std(axis=0), _LEAST_SCALE)
    return scale


def _without_runs(rows: FloatArray, draw: np.random.Generator) -> FloatArray:
    """The first row of each run of equal ones, and of very many a part.

    The methods of a task stand side by side and share most of their columns.
    """
    if len(rows) < 2:
        return rows
    kept = rows[np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])]
    if len(kept) > _MOST_SORTED:
        kept = kept[np.sort(draw.choice(len(kept), _MOST_SORTED, replace=False))]
    return np.asarray(kept)


@dataclass(frozen=True, slots=True, eq=False)
class _Searched:
    """Points, and what finds the nearest of them: a product, less half of their squares."""

    points: FloatArray
    transposed: NDArray[np.float32]
    half_squares: NDArray[np.float32]

    @classmethod
    def of(cls, points: FloatArray) -> "_Searched":
        half = (0.5 * np.square(points).sum(axis=1)).astype(np.float32)
        return cls(points, np.ascontiguousarray(points.T.astype(np.float32)), half)


def _nearest(rows: FloatArray, near: _Searched) -> FloatArray:
    of = _repeats(rows)
    if of is not None:
        kept = np.flatnonzero(of == np.arange(len(of)))
        distances = _nearest_distance(rows[kept], near)
        return distances[np.searchsorted(kept, of)]
    return _nearest_distance(rows, near)


def _nearest_distance(rows: FloatArray, near: _Searched) -> FloatArray:
    closeness = rows.astype(np.float32) @ near.transposed
    closeness -= near.half_squares
    # The product only finds the point: the distance itself must not depend on how many rows were asked about.
    difference = rows - near.points[np.argmax(closeness, axis=1)]
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", difference, difference) / rows.shape[1]))


def _repeats(rows: FloatArray) -> IntArray | None:
    """For each row the first of the run of equal ones that it belongs to; None where most differ from the one before.

    Questions come model by model and pool by pool, so that most of a group's columns repeat.
    """
    if len(rows) < 2:
        return None
    changes = np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])
    if changes.mean() > _MOST_CHANGES:
        return None
    return np.maximum.accumulate(np.where(changes, np.arange(len(rows)), 0))


_MOST_CHANGES = 0.5


def fading(distance: FloatArray) -> FloatArray:
    """Share of the analytical model in an answer, 0 to 1, by the largest distance over its threshold."""
    return np.clip((distance - 1.0) / (FAR - 1.0), 0.0, 1.0)
