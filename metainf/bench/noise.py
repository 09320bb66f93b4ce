"""How much of a comparison with the default is noise, and which differences it leaves to be claimed.

Separate from what is compared: here are the log ratios of blocks, and the numbers made of them.

What varies. A block is one task in one repeat, all methods one after another, and d = log(P / P[default]) within it: a
machine that is slower in one block than in another slows no ratio. Three blocks say little of the spread of d: an
interval from them alone is 2.5 of its standard deviations to either side, and now and then far too narrow by chance.
So the spread of a comparison is the largest of three: its own over its blocks; that of all methods on the task, which
share the default's runs and the machine's neighbours; and that of the methods of its kind over all tasks of its model.
The last two are pooled, as the root of the mean of squares. The last would do alone if noise were even; the others keep
a noisy task, or one run that met other work, from being taken for a difference. A method that ran once has these two.

What may be claimed. The interval of a mean is Student's with the freedom of the last estimate, and Bonferroni's over
all comparisons of its table: with 95 % all of them hold at once, however they depend on each other. None is narrower
than the 2 % that count as equal. A difference is shown where the interval leaves out 1; elsewhere no difference is
shown, which does not say that there is none. How tasks differ is not in the interval: a mean is that of its tasks.

Rejected: intervals that hold one by one, since of 320 comparisons 16 would be wrong; a false discovery rate, since
methods of one request at a time are surely slower and would let more false claims pass among the others.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TypeVar

import numpy as np
from scipy.stats import t as student

from metainf.corpus.repeats import LEAST_TOLERANCE, squares_over_seeds
from metainf.selectors.contract import BoolArray, FloatArray

__all__ = ["Effect", "Mean", "Noise", "noise_of", "together"]

_MISS = 0.05
_SHARED_SQUARES = 0.25
"""Two ratios of a block share the default's run: they correlate by 1/2, their squares by 1/4."""
_MOST_LOG = 50.0
"""Half an interval that says nothing; more would not be a number."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)  # no slots: what is derived is kept
class Noise:
    """Standard deviation of log(P / P[default]) of one block; NaN of the default, and where nothing was repeated.

    Attributes
    ----------
    own : array of shape (n, m)
        Over the blocks of that task and method.
    of_task : array of shape (n, m)
        Pooled over all methods of the task.
    of_kind : array of shape (n, m)
        Pooled over the tasks of the model and the methods of the kind.
    freedom : array of shape (n, m)
        Degrees of freedom of `of_kind`; 0 where it is not known.
    """

    own: FloatArray
    of_task: FloatArray
    of_kind: FloatArray
    freedom: FloatArray

    @cached_property
    def deviation(self) -> FloatArray:
        """The largest of the three, shape (n, m)."""
        return np.asarray(np.fmax(np.fmax(self.own, self.of_task), self.of_kind))

    def rows(self, mine: BoolArray) -> "Noise":
        """That of some tasks."""
        return Noise(self.own[mine], self.of_task[mine], self.of_kind[mine], self.freedom[mine])


@dataclass(frozen=True, slots=True)
class Mean:
    """log(P / P[default]) of a method: the mean over tasks, each of which is the mean over its blocks."""

    log: float
    error: float
    """Its standard error, of the noise alone; NaN where nothing was repeated."""
    freedom: float
    tasks: int
    blocks: int
    """Of all tasks together."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A method's figure over the default's, with an interval that holds at once with all others of its table."""

    ratio: float
    low: float
    high: float
    """NaN, as `low`, where the noise is not known."""
    tasks: int
    blocks: int

    @property
    def above(self) -> bool:
        """Whether it is shown to be above the default's."""
        return self.low > 1.0

    @property
    def below(self) -> bool:
        """Whether it is shown to be below the default's."""
        return self.high < 1.0

    @property
    def shown(self) -> bool:
        """Whether a difference is."""
        return self.above or self.below

    @property
    def single(self) -> bool:
        """Whether each task ran in one block."""
        return self.blocks == self.tasks


def noise_of(log_ratios: FloatArray, models: Sequence[str], kinds: Sequence[str], default: int) -> Noise:
    """The noise of comparisons, whose units do not matter.

    Parameters
    ----------
    log_ratios : array of shape (n, m, repeats)
        log(P / P[default]) by block; NaN where it is not known.
    models : of length n
    kinds : of length m
        Whose noise is pooled.
    default : int
        Column of the default.
    """
    squares, number = squares_over_seeds(log_ratios)
    freedom = np.maximum(number - 1, 0).astype(np.float64)
    squares[:, default] = freedom[:, default] = 0.0
    own = _root(squares, freedom)
    of_task = np.repeat(_root(squares.sum(axis=1), freedom.sum(axis=1))[:, None], len(kinds), axis=1)
    of_kind, of_freedom = np.full(own.shape, np.nan), np.zeros(own.shape)
    for model, kind in product(dict.fromkeys(models), dict.fromkeys(kinds)):
        mine = np.array([each == model for each in models], dtype=np.bool_)
        alike = np.array([each == kind for each in kinds], dtype=np.bool_)
        at = np.ix_(mine, alike)
        of_kind[at], of_freedom[at] = _pooled(squares, freedom, mine, alike)
    of_task[:, default] = of_kind[:, default] = np.nan
    of_freedom[:, default] = 0.0
    return Noise(own, of_task, of_kind, of_freedom)


def _root(squares: FloatArray, freedom: FloatArray) -> FloatArray:
    """Standard deviation; NaN without freedom."""
    return np.where(freedom > 0.0, np.sqrt(squares / np.maximum(freedom, 1.0)), np.nan)


def _pooled(squares: FloatArray, freedom: FloatArray, mine: BoolArray, alike: BoolArray) -> tuple[float, float]:
    """Deviation and freedom of a model under methods of a kind.

    Where nothing of these was repeated, of the kind on all models; where nothing of that, of everything.
    """
    every, anything = np.ones_like(mine), np.ones_like(alike)
    for rows, columns in ((mine, alike), (every, alike), (every, anything)):
        part = freedom[np.ix_(rows, columns)]
        total = float(part.sum())
        if total > 0.0:
            ratios = np.maximum((part > 0.0).sum(axis=1), 1)
            worth = part.sum(axis=1) / (1.0 + _SHARED_SQUARES * (ratios - 1))
            return math.sqrt(float(squares[np.ix_(rows, columns)].sum()) / total), float(worth.sum())
    return math.nan, 0.0


def together(means: Mapping[Key, Mean]) -> dict[Key, Effect]:
    """The effects of a table, with intervals that with 95 % all hold at once."""
    comparisons = sum(math.isfinite(mean.error) for mean in means.values())
    return {key: _effect(mean, comparisons) for key, mean in means.items()}


def _effect(mean: Mean, comparisons: int) -> Effect:
    half = math.nan
    if math.isfinite(mean.error):
        factor = float(student.ppf(1.0 - _MISS / (2.0 * comparisons), mean.freedom))
        half = min(max(factor * mean.error, math.log1p(LEAST_TOLERANCE)), _MOST_LOG)
    low, high = (math.exp(mean.log + sign * half) for sign in (-1.0, 1.0))
    return Effect(math.exp(mean.log), low, high, mean.tasks, mean.blocks)
