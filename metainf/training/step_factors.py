"""Fits factors on the parts of accelerators' steps to what a corpus's rows show.

Separate from the trees, which learn what is left. The model is a hierarchy: the logarithm of a part's factor is drawn
for each accelerator around a value that all share, and a row's residual is what the factors of its accelerator come to
plus noise. With base answers that are linear in the factors, both levels have one answer by least squares, the mean of
the posterior; an accelerator without rows is told what all share. Residuals are taken anew under what was found, and
solved for again.

What a model on an accelerator, or a layout of it, has of its own is common to all rows of a task, so that a task counts
for `_TASK_ROWS` rows however many it has. Residuals that are far off count for less (Huber's weights).

Slopes are those of the base answers under no factors. They know nothing of what is true, so that who holds groups out
can share them, and a table of base answers for each part is made once and not in every fold.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from metainf.predictors.step_factors import MOST_LOG_FACTOR, PARTS, StepFactors, on_part
from metainf.training.rows import TrainingRows

__all__ = ["factor_slopes", "fitted_factors"]

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_ROUNDS = 4
"""After two the links of L40S, of which four ranks get a fifth of what two get, were half found."""
_STEP = 0.1  # of a logarithm, for differences
_NOISE_LOG_SD = 0.4  # of a row's residual, what models and layouts have of their own included
_TASK_ROWS = 3.0
_FAR = 0.8  # a residual from which on it counts as its distance and not as its square
_USUAL_LOG_SDS = (1.0, 0.4)
"""Of what all accelerators share around 1, and of each around that: about as far as devices with measured kernels are
apart (`step_times.ratios`)."""
_LOG_SDS: Mapping[str, tuple[float, float]] = {
    "prompt_pair": (1.0, 1.0),
    "collective": (1.0, 0.7),
    "link": (1.0, 0.7),
    "collective_ranks": (0.4, 0.4),
    "link_ranks": (0.4, 0.4),
    "narrow_fixed": (0.7, 0.4),
    "expert_fixed": (0.7, 0.4),
    # Seven models have such experts, and what one of them has of its own is no fact of a format.
    "stored_expert": (0.3, 0.1),
    # Kernels measured alone do not tell it from the other factors on dense products: servers do (`server_steps`).
    "plain_dense_token": (1e-3, 1e-3),
}
_SHARED_LOG_SD, _LOG_SD = np.array([_LOG_SDS.get(part, _USUAL_LOG_SDS) for part in PARTS]).T


def factor_slopes(rows: TrainingRows) -> Float32Array:
    """By how much base answers of n rows rise with the logarithm of each factor, shape (parts, n, targets).

    0 where a row does not know the target. `rows` are under no factors.
    """
    none = StepFactors.none()
    slopes = np.zeros((len(PARTS), *rows.residual.shape), dtype=np.float32)
    for place, part in enumerate(PARTS):
        moved = rows.under(none.moved(on_part(part, _STEP))).residual
        slopes[place] = np.nan_to_num((rows.residual - moved) / _STEP)  # a residual is truth less base
    return slopes


def fitted_factors(rows: TrainingRows, slopes: Float32Array, inside: BoolArray) -> StepFactors:
    """The factors of the accelerators that have rows inside; `inside` is of the lanes, shape (m,).

    `rows` are under no factors, and `slopes` as `factor_slopes` gives them.
    """
    found = _solved(rows, slopes, rows.residual, inside, StepFactors.none())
    for _ in range(_ROUNDS - 1):
        found = _solved(rows, slopes, rows.under(found).residual, inside, found)
    return found


def _solved(
    rows: TrainingRows, slopes: Float32Array, residual: FloatArray, inside: BoolArray, begun: StepFactors
) -> StepFactors:
    """The factors by residuals of shape (n, targets) that are left under others."""
    within, accelerator = inside[rows.lane], rows.accelerator[rows.lane]
    weight, left = _weights(rows, residual), np.nan_to_num(residual)
    names = np.unique(rows.accelerator[inside]).tolist()
    parts = len(PARTS)
    own = np.diag(1.0 / _LOG_SD**2)
    matrices, vectors = np.empty((len(names), parts, parts)), np.empty((len(names), parts))
    shared, told = np.diag(1.0 / _SHARED_LOG_SD**2), np.zeros(parts)
    for number, name in enumerate(names):
        mine = within & (accelerator == name)
        slope = slopes[:, mine].reshape(parts, -1).astype(np.float64)
        weighted = slope * weight[mine].ravel()
        matrices[number] = weighted @ slope.T
        vectors[number] = weighted @ left[mine].ravel() + matrices[number] @ begun.log_of(name)
        # With the accelerator's own factors eliminated, what is left is what it says of those that all share.
        gain = own @ np.linalg.inv(matrices[number] + own)
        shared += own - gain @ own
        told += gain @ vectors[number]
    others = np.linalg.solve(shared, told)
    log = np.array([np.linalg.solve(a + own, b + own @ others) for a, b in zip(matrices, vectors, strict=True)])
    most = MOST_LOG_FACTOR
    return StepFactors(tuple(names), np.clip(log.reshape(len(names), parts), -most, most), np.clip(others, -most, most))


def _weights(rows: TrainingRows, residual: FloatArray) -> FloatArray:
    """Of residuals, shape (n, targets)."""
    known = ~np.isnan(residual)
    task = rows.task[rows.lane]
    count = np.bincount(task, weights=known.sum(axis=1))[task]
    weight = known * (_TASK_ROWS / np.maximum(count, 1.0) / _NOISE_LOG_SD**2)[:, None]
    return np.asarray(weight / np.maximum(1.0, np.abs(np.nan_to_num(residual)) / _FAR))
