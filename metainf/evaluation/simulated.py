"""What simulations said of tasks, for the selector "simulator only": looked up, since simulating takes hours.

Separate from that selector, which takes any function from tasks to log performance, and from the corpus, whose rows
these are. A selector is given no names of tasks, so a task is found again by all that it is given of it.

What it flatters. A corpus gives every world the same draws of a seed. A simulation whose rows come from the same corpus
as the truth therefore knows lengths, arrivals and acceptance that nobody knows beforehand, though not the step times.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from metainf.selectors.contract import FloatArray, MethodTable, TaskTable

__all__ = ["SIMULATOR_ONLY", "SIMULATOR_PAIRS", "SimulatedPerformance", "with_simulated"]

SIMULATOR_ONLY = "simulator-only"
"""The name under which the selector is reported."""
SIMULATOR_PAIRS = ("pair_simulated", "pair_simulated_gain")
"""What a simulation says of a pair, as features: log performance, and that less the default's."""

_Identity = tuple[str, str, str, bytes]


class SimulatedPerformance:
    """log performance, shape (n, m), of tasks in these tables; NaN for others, and where a simulation failed.

    Parameters
    ----------
    tables : one or more kinds of traffic
        Performance as simulated.
    """

    def __init__(self, tables: Iterable[MethodTable]) -> None:
        self._found: dict[_Identity, dict[str, float]] = {}
        for table in tables:
            known = np.log(np.where(table.performance > 0.0, table.performance, np.nan))
            for identity, row in zip(_identities(table.tasks), known.tolist(), strict=True):
                self._found.setdefault(identity, dict(zip(table.tasks.methods, row, strict=True)))

    def __call__(self, tasks: TaskTable) -> FloatArray:
        """Columns in the order of the tasks' methods."""
        rows = [self._found.get(identity, {}) for identity in _identities(tasks)]
        found = np.array([[row.get(name, np.nan) for name in tasks.methods] for row in rows], dtype=np.float64)
        return found.reshape(tasks.feasible.shape)


def with_simulated(table: MethodTable, log_performance: Callable[[TaskTable], FloatArray]) -> MethodTable:
    """The table whose pair features also hold what a simulation says, for those who learn from pairs."""
    tasks = table.tasks
    said = np.where(tasks.feasible, log_performance(tasks), np.nan)
    both = np.stack([said, said - said[:, [tasks.default]]], axis=2)
    wider = replace(
        tasks,
        pair_features=np.concatenate([tasks.pair_features, both], axis=2),
        pair_feature_names=(*tasks.pair_feature_names, *SIMULATOR_PAIRS),
    )
    return replace(table, tasks=wider)


def _identities(tasks: TaskTable) -> list[_Identity]:
    names = zip(tasks.model.tolist(), tasks.accelerator.tolist(), tasks.workload.tolist(), strict=True)
    return [(*each, row.tobytes()) for each, row in zip(names, np.ascontiguousarray(tasks.features), strict=True)]
