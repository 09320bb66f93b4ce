"""Features on one scale, with holes filled, by what the training tasks show.

Separate so that nothing that looks at a mean or a spread can be fitted on anything but the training tasks: the
learners hold one of these, fitted in `fit`.
"""

from enum import StrEnum
from typing import Self

import numpy as np

from metainf.selectors.base import check_fitted
from metainf.selectors.contract import FloatArray
from metainf.selectors.targets import mean_or_nan

__all__ = ["Scaler", "Spread"]


class Spread(StrEnum):
    """What a feature is divided by."""

    DEVIATION = "deviation"  # its standard deviation, after the mean is taken off
    LARGEST = "largest"  # its largest absolute value


class Scaler:
    """Fills what is not finite with the mean over the training tasks, then scales each feature by its spread there.

    A feature that does not vary is left at its scale: it becomes 0 (deviation) or at most 1 in size (largest).
    """

    def __init__(self, spread: Spread = Spread.DEVIATION) -> None:
        self.spread = spread

    def fit(self, features: FloatArray) -> Self:
        """Learn mean and spread of each column of `features`, shape (n, d)."""
        known = np.where(np.isfinite(features), features, np.nan)
        self.mean_ = np.nan_to_num(mean_or_nan(known, axis=0))
        filled = np.where(np.isnan(known), self.mean_, known)
        self.centre_ = self.mean_ if self.spread is Spread.DEVIATION else np.zeros_like(self.mean_)
        size = filled.std(axis=0) if self.spread is Spread.DEVIATION else np.abs(filled).max(axis=0)
        self.scale_ = np.where(size > 1e-12 * np.maximum(np.abs(self.mean_), 1e-300), size, 1.0)
        return self

    def transform(self, features: FloatArray) -> FloatArray:
        """The features scaled, shape (n, d), finite everywhere."""
        check_fitted(self, "scale_")
        filled = np.where(np.isfinite(features), features, self.mean_)
        return np.asarray((filled - self.centre_) / self.scale_)
