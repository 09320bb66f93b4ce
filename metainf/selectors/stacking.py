"""How much each part's opinion is worth: weights from tasks whose models or accelerators the parts have not seen.

Separate from the ensemble so that it is tested on plain arrays. The weights are those of a least squares fit without
negative ones, on log gains over the default; a little is taken off all of them, so that what is worth nothing has no
say by chance. What is chosen by the highest prediction is predicted too well on average (the winner's curse): how far
true gains of choices follow their predictions is fitted on the same held-out tasks.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from metainf.selectors.contract import BoolArray, FloatArray

__all__ = ["Correction", "fit_correction", "fit_weights"]

_SHRINKAGE = 0.02
_LEAST_SHARE = 0.02  # of all that is said: a part with less is not asked, and need not be fitted
_PRIOR_CHOICES = 20.0
"""Choices' worth of "the gain is as predicted"."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What a choice's gain is expected to be: `slope` times its prediction."""

    slope: float

    def expected(self, predicted: FloatArray) -> FloatArray:
        """Expected log gains of choices with these predictions."""
        return np.asarray(self.slope * predicted)


def fit_weights(opinions: FloatArray, gains: FloatArray, told: BoolArray) -> FloatArray:
    """Weights of k parts, shape (k,), none below 0; equal ones where nothing is told.

    Parameters
    ----------
    opinions : array of shape (n, m, k)
        Of each (task, method), less that of the default.
    gains : array of shape (n, m)
        True log gains over the default.
    told : array of shape (n, m), bool
        Where the gain is known. Tasks count alike, however many methods they tell of.
    """
    parts = opinions.shape[2]
    if not told.any():
        return np.full(parts, 1.0 / parts)
    heft = np.where(told, 1.0 / np.sqrt(np.maximum(told.sum(axis=1, keepdims=True), 1)), 0.0)
    inputs, target = (opinions * heft[:, :, None])[told], (gains * heft)[told]
    scale = np.sqrt(np.square(inputs).mean(axis=0))
    scale = np.where(scale > 1e-12, scale, 1.0)
    # Rows of zeros to be met by the weights themselves: ridge.
    ridge = np.sqrt(_SHRINKAGE * len(target)) * np.eye(parts)
    found, _ = nnls(np.vstack([inputs / scale, ridge]), np.concatenate([target, np.zeros(parts)]))
    found[found < _LEAST_SHARE * found.sum()] = 0.0
    return np.asarray(found / scale) if found.any() else np.full(parts, 1.0 / parts)


def fit_correction(predicted: FloatArray, gains: FloatArray) -> Correction:
    """The slope of true gains over predictions of choices, drawn to 1 where few were seen; both of shape (r,)."""
    usual = float(np.mean(np.square(predicted))) if len(predicted) else 1.0
    prior = _PRIOR_CHOICES * max(usual, 1e-12)
    return Correction(float((predicted @ gains + prior) / (predicted @ predicted + prior)))
