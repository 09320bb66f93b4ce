"""How much each part's opinion is worth: weights from tasks whose models or accelerators the parts have not seen.

Separate from the ensemble so that it is tested on plain arrays. Two answers, of which the second counts the more the
more choices were seen.

Least squares without negative weights on the shortfalls of all methods, parts scaled to equal size: steady, since every
pair of a task and a method is a witness, and beside the point, since it pays most for being right about methods that
nobody would choose. And the weights by which the choice on held-out tasks is best on average, which is what they are
for. That is a step function of the weights, and noisy: it is asked at all points of a grid on the simplex, and the best
twentieth of the points is averaged, so that what was best by chance alone does not decide. On 80 choices it is worth
less than least squares (closed gap .44 against .50 in the mean of six splits, 240 tasks of a hidden world).

How long the weights are together says what differences between methods are, by least squares. All of it looks at
differences within a task alone, so nothing hangs on what opinions and truth are relative to.

Whether a choice is worth leaving the default for is another question, which no weight answers: the best prediction is
never below the default's. So the predicted gain that a choice has to exceed is fitted too, on choices by weights of
other held-out tasks, where small predicted gains may well be losses.
"""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import nnls

from metainf.selectors.contract import BoolArray, FloatArray

__all__ = ["fit_least_gain", "fit_weights"]

_EVEN_CHOICES = 500.0
"""Choices on held-out tasks with which both answers count alike. Assumed: fewer than a corpus has, more than the 80 on
which the search was worth less."""
_STEPS = 6  # of the grid from one corner of the simplex to the next: 462 points for six parts
_AVERAGED_SHARE = 0.05
_SHRINKAGE = 0.02
_LEAST_SHARE = 0.02  # of all that is said: a part with less is not asked, and need not be fitted
_LEAST_LENGTH = 1e-3  # what is worth nothing still orders
_EQUAL = 1e-9  # so far ahead of the default a method has to be, and it is what is kept to where nothing is said
_PRIOR_CHOICES = 20.0
"""Choices' worth of "the gain is as predicted"."""


def fit_weights(
    opinions: FloatArray, truth: FloatArray, told: BoolArray, default: int, *, searched: BoolArray | None = None
) -> FloatArray:
    """Weights of k parts, shape (k,), none below 0; equal ones where nothing is told.

    Parameters
    ----------
    opinions : array of shape (n, m, k)
        Of each (task, method), relative to anything of the task.
    truth : array of shape (n, m)
        Log performance, relative to anything of the task.
    told : array of shape (n, m), bool
        Where the truth is known: what can be chosen. Tasks without any do not count.
    default : int
        Column of the default, which is kept to where no method is said to be better.
    searched : array of shape (n,), bool, optional
        Whose choices count in the search; all without it. The others are witnesses of least squares alone.
    """
    parts = opinions.shape[2]
    known = told.any(axis=1)
    if not known.any():
        return np.full(parts, 1.0 / parts)
    can = told[known]
    true = _centred(truth[known], can)
    said = _centred(opinions[known], can)
    scale = np.sqrt(np.square(said[can]).mean(axis=0))
    scale = np.where(scale > 1e-12, scale, 1.0)
    said = said / scale
    shares = _least_squares(said, true, can)
    counted = np.ones(len(can), dtype=np.bool_) if searched is None else searched[known]
    choices = float(counted.sum())
    if choices:
        found = _searched(said[counted], true[counted], can[counted], default)
        shares = (_EVEN_CHOICES * shares + choices * found) / (_EVEN_CHOICES + choices)
    shares = np.where(shares < _LEAST_SHARE, 0.0, shares)
    return np.asarray(shares / scale * _length(said @ shares, true, can))


def _centred(values: FloatArray, can: BoolArray) -> FloatArray:
    """Less the mean over what can be chosen of the task, 0 for the rest; of shape (n, m) or (n, m, k)."""
    able = can.reshape(*can.shape, *(1,) * (values.ndim - 2))
    inside = np.where(able, values, 0.0)
    return np.where(able, inside - inside.sum(axis=1, keepdims=True) / able.sum(axis=1, keepdims=True), 0.0)


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
    """Shares of the parts by which the choice is best on average."""
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


def fit_least_gain(predicted: FloatArray, gains: FloatArray) -> float:
    """The predicted gain over the default that a choice has to exceed to be worth it; 0 where all choices were.

    It is where the gains of all choices above it come to most. Each gain is drawn to its prediction, the more the fewer
    choices were seen. Infinite where no choice was worth it.

    Parameters
    ----------
    predicted, gains : arrays of shape (r,)
        Log gains over the default of choices on held-out tasks.
    """
    count = len(predicted)
    order = np.argsort(-predicted, kind="stable")
    said, true = predicted[order], gains[order]
    expected = (count * true + _PRIOR_CHOICES * said) / (count + _PRIOR_CHOICES)
    worth = np.concatenate([[0.0], np.cumsum(expected)])
    # Equal predictions stand or fall together.
    worth[1:-1][said[1:] == said[:-1]] = -np.inf
    taken = count - int(np.argmax(worth[::-1]))  # of equal ones the most choices
    if taken == count:
        return 0.0
    return np.inf if taken == 0 else float((said[taken - 1] + said[taken]) / 2.0)
