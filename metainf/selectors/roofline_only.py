"""What the analytical predictor says, and nothing learned.

Separate, as each selector is. It shows what first principles alone are worth, and what learning adds to them.
"""

from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable

__all__ = ["RooflineOnly"]


class RooflineOnly(BaseSelector):
    """The method with the highest analytical performance."""

    def _fit(self, table: MethodTable) -> None:
        """Nothing to learn."""

    def _scores(self, tasks: TaskTable) -> FloatArray:
        return tasks.analytical
