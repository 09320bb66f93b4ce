"""What every embedding of tasks is given and gives back.

Separate from the embeddings so that one test and one ablation hold for all of them.
"""

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from metainf.corpus.task import Task

__all__ = ["Embedding"]

FloatArray = NDArray[np.float64]


class Embedding(Protocol):
    """Turns tasks into vectors, as scikit-learn's transformers do.

    `__init__` only stores, `fit` learns from train tasks alone and returns self, `transform` before `fit` raises
    NotFittedError, the same tasks and seed give the same vectors, and a task's vector does not depend on its company.
    """

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns, once fitted."""

    def fit(self, tasks: Sequence[Task]) -> Self:
        """Learn from train tasks: categories, means, directions."""

    def transform(self, tasks: Sequence[Task]) -> FloatArray:
        """Vectors of n tasks, shape (n, d)."""
