"""What a simulation of each method says, and nothing learned.

Separate, as each selector is, and from the simulator: this takes any function from tasks to log performance, so the
step times behind it (datasheet figures, never those of the truth) are the caller's to choose and to state.
"""

from collections.abc import Callable

from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable

__all__ = ["SimulatorOnly"]


class SimulatorOnly(BaseSelector):
    """The method with the highest simulated performance.

    Parameters
    ----------
    log_performance : callable
        From a TaskTable of n tasks to log performance, shape (n, m), in the order of the table's methods as given to
        it; NaN where it says nothing. It gets the methods sorted by name: it must read `tasks.methods`.
    """

    def __init__(self, log_performance: Callable[[TaskTable], FloatArray]) -> None:
        self.log_performance = log_performance

    def _fit(self, table: MethodTable) -> None:
        """Nothing to learn."""

    def _scores(self, tasks: TaskTable) -> FloatArray:
        return self.log_performance(tasks)
