"""Virtual best (VBS): the best method of each task, read from the truth. A bound on what can be had, not a selector.

Separate from the rest, and not in the catalogue: it is fitted with the truth of the very tasks that it then scores,
so nothing may choose with it. It refuses any other tasks.
"""

from typing import Self

import numpy as np

from metainf.selectors.base import check_fitted, masked
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable

__all__ = ["VirtualBest"]


class VirtualBest:
    """The truth itself, as scores. `fit` takes the test tasks with their truth, not the training tasks."""

    is_bound = True

    def fit(self, table: MethodTable) -> Self:
        """Keep the truth of these tasks, by position: tasks of equal features may have different truths."""
        self.tasks_ = table.tasks
        works = table.works
        logs = np.log(np.where(works, table.performance, 1.0))
        lost = np.where(np.isfinite(table.performance), logs.min(initial=0.0) - 1.0, np.nan)
        self.truth_ = np.where(works, logs, lost)
        return self

    def scores(self, tasks: TaskTable) -> FloatArray:
        """Shape (n, m): log of the true performance; -inf where infeasible, lowest where it did not run.

        Raises
        ------
        ValueError
            These are not the tasks, in the order, whose truth was given.
        """
        check_fitted(self, "tasks_")
        known = self.tasks_
        same = (
            tasks.methods == known.methods
            and np.array_equal(tasks.features, known.features, equal_nan=True)
            and np.array_equal(tasks.feasible, known.feasible)
            and all(np.array_equal(getattr(tasks, g), getattr(known, g)) for g in ("model", "accelerator", "workload"))
        )
        if not same:
            raise ValueError("asking the virtual best about tasks whose truth it was not given: it is a bound")
        return masked(self.truth_, tasks.feasible)
