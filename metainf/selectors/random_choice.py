"""A method at random: the floor that anything learned has to beat.

Separate, as each selector is. The noise is drawn from the task itself, so that it depends neither on the order of the
tasks nor on which others are asked about.
"""

import hashlib

import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable

__all__ = ["RandomChoice", "task_noise"]


class RandomChoice(BaseSelector):
    """Uniform among the feasible methods."""

    def __init__(self, *, random_state: int = 0) -> None:
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        """Nothing to learn."""

    def _scores(self, tasks: TaskTable) -> FloatArray:
        return task_noise(tasks, self.random_state)


def task_noise(tasks: TaskTable, random_state: int) -> FloatArray:
    """Uniform in [0, 1), shape (n, m): equal for equal features and seed, whatever stands beside them."""
    noise = np.empty(tasks.feasible.shape)
    for row, features in enumerate(np.ascontiguousarray(tasks.features)):
        digest = hashlib.blake2b(features.tobytes(), digest_size=8).digest()
        noise[row] = np.random.default_rng([random_state, int.from_bytes(digest, "little")]).random(len(tasks.methods))
    return noise
