"""vLLM as it comes: always the default, and the simplest method where the default cannot run.

Separate, as each selector is. It is what a user has without MetaInf.
"""

import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable

__all__ = ["VllmDefault"]


class VllmDefault(BaseSelector):
    """The default first, then by simplicity."""

    def _fit(self, table: MethodTable) -> None:
        """Nothing to learn."""

    def _scores(self, tasks: TaskTable) -> FloatArray:
        simplicity = -np.asarray(tasks.complexity, dtype=np.float64)
        simplicity[tasks.default] = simplicity.max() + 1.0
        return np.broadcast_to(simplicity, tasks.feasible.shape)
