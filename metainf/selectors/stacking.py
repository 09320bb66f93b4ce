"""How much each part's opinion is worth: weights from tasks whose models or accelerators the parts have not seen.

Separate from the ensemble so that it is tested on plain arrays. Two answers, of which the second counts the more the
more choices were seen.

Least squares without negative weights on the gains of all methods, parts scaled to equal size: steady, since every pair
of a task and a method is a witness, and beside the point, since it pays most for being right about methods that nobody
would choose. And the weights by which the choice on held-out tasks gains most over the default, which is what they are
for. That is a step function of the weights, and noisy: it is asked at all points of a grid on the simplex, and the best
twentieth of the points is averaged, so that what was best by chance alone does not decide. On 80 choices it is worth
less than least squares (closed gap .44 against .50 in the mean of six splits, 240 tasks of a hidden world).

How long the weights are together says what the gains are, by least squares.

What is chosen by the highest prediction is predicted too well on average (the winner's curse): how far true gains of
choices follow their predictions is fitted on held-out tasks too, whose choices are by weights of the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from metainf.selectors.contract import BoolArray, FloatArray

__all__ = ["Correction", "fit_correction", "fit_weights"]

_EVEN_CHOICES = 500.0
"""Choices on held-out tasks with which both answers count alike. Assumed: fewer than a corpus has, more than the 80 on
which the search was worth less."""
_STEPS = 8  # of the grid from one corner of the simplex to the next: 495 points for five parts
_AVERAGED_SHARE = 0.05
_SHRINKAGE = 0.02
_LEAST_SHARE = 0.02  # of all that is said: a part with less is not asked, and need not be fitted
_LEAST_LENGTH = 1e-3  # what is worth nothing still orders
_EQUAL = 1e-9  # so far ahead of the default a method has to be, and it is what is kept to where nothing is said
_PRIOR_CHOICES = 20.0
"""Choices' worth of "the gain is as predicted"."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What a choice's gain is expected to be: `slope` times its prediction."""

    slope: float

    def expected(self, predicted: FloatArray) -> FloatArray:
        """Expected log gains of choices with these predictions."""
        return np.asarray(self.slope * predicted)


def fit_weights(opinions: FloatArray, gains: FloatArray, told: BoolArray, default: int) -> FloatArray:
    """Weights of k parts, shape (k,), none below 0; equal ones where nothing is told.

    Parameters
    ----------
    opinions : array of shape (n, m, k)
        Of each (task, method), less that of the default.
    gains : array of shape (n, m)
        True log gains over the default.
    told : array of shape (n, m), bool
        Where the gain is known: what can be chosen. Tasks without any do not count.
    default : int
        Column of the default, which is kept to where no method is said to be better.
    """
    parts = opinions.shape[2]
    known = told.any(axis=1)
    if not known.any():
        return np.full(parts, 1.0 / parts)
    can, true = told[known], np.where(told, gains, 0.0)[known]
    said = np.where(can[:, :, None], opinions[known], 0.0)
    scale = np.sqrt(np.square(said[can]).mean(axis=0))
    scale = np.where(scale > 1e-12, scale, 1.0)
    said = said / scale
    shares = (_EVEN_CHOICES * _least_squares(said, true, can) + len(said) * _searched(said, true, can, default)) / (
        _EVEN_CHOICES + len(said)
    )
    shares = np.where(shares < _LEAST_SHARE, 0.0, shares)
    return np.asarray(shares / scale * _length(said @ shares, true, can))


def _least_squares(said: FloatArray, gains: FloatArray, can: BoolArray) -> FloatArray:
    """Shares of the parts in the gains of all methods; even ones where no part says anything of them."""
    heft = np.where(can, 1.0 / np.sqrt(can.sum(axis=1, keepdims=True)), 0.0)  # tasks count alike
    inputs, target = (said * heft[:, :, None])[can], (gains * heft)[can]
    parts = said.shape[2]
    # Rows of zeros to be met by the weights themselves: ridge.
    ridge = np.sqrt(_SHRINKAGE * np.square(inputs).sum(axis=0).max(initial=1e-12)) * np.eye(parts)
    found, _ = nnls(np.vstack([inputs, ridge]), np.concatenate([target, np.zeros(parts)]))
    return np.asarray(found / found.sum() if found.any() else np.full(parts, 1.0 / parts))


def _searched(said: FloatArray, gains: FloatArray, can: BoolArray, default: int) -> FloatArray:
    """Shares of the parts by which the choice gains most."""
    points = _simplex(said.shape[2])
    worth = np.array([_choice_gain(said @ point, gains, can, default) for point in points])
    # Equal ones by their order, the most even weights first.
    best = np.argsort(-worth, kind="stable")[: max(1, int(len(points) * _AVERAGED_SHARE))]
    return np.asarray(points[best].mean(axis=0))


def _simplex(parts: int) -> FloatArray:
    """Weights of `parts` parts that add up to 1, on a grid, shape (points, parts); the most even ones first."""
    points = np.array(list(_compositions(_STEPS, parts)), dtype=np.float64) / _STEPS
    return points[np.argsort(np.square(points).sum(axis=1), kind="stable")]


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to share so many steps among the parts."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)


def _choice_gain(scores: FloatArray, gains: FloatArray, can: BoolArray, default: int) -> float:
    """Mean gain of the choice by these scores among what can be chosen."""
    ahead = np.where(can, scores, -np.inf)
    ahead[:, default] += _EQUAL
    return float(gains[np.arange(len(gains)), ahead.argmax(axis=1)].mean())


def _length(scores: FloatArray, gains: FloatArray, can: BoolArray) -> float:
    """Least squares factor on scores to be gains, held back a little; tasks count alike, however many methods."""
    heft = np.where(can, 1.0 / can.sum(axis=1, keepdims=True), 0.0)
    power = float((heft * scores**2).sum())
    if power <= 0.0:
        return 1.0
    return max(_LEAST_LENGTH, float((heft * scores * gains).sum()) / (power * (1.0 + _SHRINKAGE)))


def fit_correction(predicted: FloatArray, gains: FloatArray) -> Correction:
    """The slope of true gains over predictions of choices, drawn to 1 where few were seen; both of shape (r,)."""
    usual = float(np.mean(np.square(predicted))) if len(predicted) else 1.0
    prior = _PRIOR_CHOICES * max(usual, 1e-12)
    return Correction(float((predicted @ gains + prior) / (predicted @ predicted + prior)))
