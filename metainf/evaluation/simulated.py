"""What simulations said of tasks, for the selector "simulator only": looked up, since simulating takes hours.

Separate from that selector, which takes any function from tasks to log performance, and from the corpus, whose rows
these are. A task is found again by all that a selector may learn of it, since not every table has keys.

What it does not flatter. A world that stands for who predicts draws lengths and arrivals of its own, and takes a
drafter's acceptance as its class has it: it knows what is declared, and nothing that is latent in the truth's draws. A
simulation by a world that is a truth would share those draws, and know what nobody can know beforehand.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Self

import numpy as np

from metainf.selectors.contract import FloatArray, MethodTable, Selector, TaskTable
from metainf.selectors.targets import SIMULATED_PAIR

__all__ = ["SIMULATOR_ONLY", "SIMULATOR_PAIRS", "NotTold", "SimulatedPerformance", "not_told", "with_simulated"]

SIMULATOR_ONLY = "simulator-only"
"""The name under which the selector is reported."""
SIMULATOR_PAIRS = (SIMULATED_PAIR, f"{SIMULATED_PAIR}_gain")
"""What a simulation says of a pair, as features: log performance, and that less the default's."""

_Identity = tuple[str, str, str, bytes]


class SimulatedPerformance:
    """log performance, shape (n, m), of tasks in these tables; NaN for others, and where a simulation failed.

    -inf where the simulation says that no load keeps the promises.

    Parameters
    ----------
    tables : one or more kinds of traffic
        Performance as simulated.
    """

    def __init__(self, tables: Iterable[MethodTable]) -> None:
        self._found: dict[_Identity, dict[str, float]] = {}
        for table in tables:
            known = np.log(np.where(table.performance > 0.0, table.performance, np.nan))
            known = np.where(table.performance == 0.0, -np.inf, known)
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
    default = said[:, [tasks.default]]
    # Of a default that is lost there is no ratio to.
    gain = np.where(np.isfinite(default), said - np.where(np.isfinite(default), default, 0.0), np.nan)
    both = np.stack([said, gain], axis=2)
    wider = replace(
        tasks,
        pair_features=np.concatenate([tasks.pair_features, both], axis=2),
        pair_feature_names=(*tasks.pair_feature_names, *SIMULATOR_PAIRS),
    )
    return replace(table, tasks=wider)


def not_told(name: str) -> str:
    """The name under which a selector is reported that is not told what simulations say."""
    return f"{name}, not told"


class NotTold:
    """A selector on tables that hold simulations, of which it is told nothing: what being told is worth to another."""

    def __init__(self, selector: Selector) -> None:
        self.selector = selector

    def fit(self, table: MethodTable) -> Self:
        """Learn from the tasks without what simulations say."""
        self.selector.fit(replace(table, tasks=_without_simulated(table.tasks)))
        return self

    def scores(self, tasks: TaskTable) -> FloatArray:
        """The selector's own, shape (n, m)."""
        return self.selector.scores(_without_simulated(tasks))


def _without_simulated(tasks: TaskTable) -> TaskTable:
    kept = [place for place, name in enumerate(tasks.pair_feature_names) if name not in SIMULATOR_PAIRS]
    names = tuple(tasks.pair_feature_names[place] for place in kept)
    return replace(tasks, pair_features=tasks.pair_features[:, :, kept], pair_feature_names=names)


def _identities(tasks: TaskTable) -> list[_Identity]:
    names = zip(tasks.model.tolist(), tasks.accelerator.tolist(), tasks.workload.tolist(), strict=True)
    return [(*each, row.tobytes()) for each, row in zip(names, np.ascontiguousarray(tasks.features), strict=True)]
