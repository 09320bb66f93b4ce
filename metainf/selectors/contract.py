"""What every selector of methods is given and gives back: tasks as tables in, a score per task and method out.

Separate from `metainf.predictors`: a predictor says how many seconds and tokens, for any question; a selector only
ranks the methods of a portfolio, which is what the published baselines (ISAC, ALORS, forests ...) do. One contract for
all of them, so that one test and one evaluation hold for each.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoolArray", "FloatArray", "MethodTable", "Selector", "TaskTable", "choose"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]
StringArray = NDArray[np.str_]


@dataclass(frozen=True, slots=True, eq=False)
class TaskTable:
    """What may be known of n tasks before any method has run on them; all tasks are of one kind of traffic.

    Attributes
    ----------
    features : array of shape (n, d)
        Numeric meta-features of (workload, model, accelerator, layout); no ids.
    feature_names : d names
    methods : m names, the default among them
    method_features : array of shape (m, k)
        What the methods change, in numbers.
    pair_features : array of shape (n, m, q)
        Physics of each (task, method), such as what the analytical predictor says of it; NaN where infeasible.
    pair_feature_names : q names
    analytical : array of shape (n, m)
        log of the performance that the analytical predictor gives; NaN where infeasible.
    feasible : array of shape (n, m), bool
        What facts alone allow (memory, precision, conflicts): known before anything runs.
    complexity : array of shape (m,)
        How far each method is from the default: ties go to the simpler.
    default : int
        Column of vLLM's default.
    model, accelerator, workload : arrays of shape (n,), str
        Groups for splits and reports, never features.
    draws : array of shape (n,), str, or None
        Equal where what is latent (lengths, arrivals, acceptance) was drawn alike, as for one workload on several
        places: where groups are held out, nobody learns from a task whose draws are held out. Never a feature. None:
        every task has its own.
    keys : array of shape (n,), str, or None
        Names of the corpus's tasks, for who asks what a table does not hold, such as a task's rows. Never a feature.
    """

    features: FloatArray
    feature_names: tuple[str, ...]
    methods: tuple[str, ...]
    method_features: FloatArray
    pair_features: FloatArray
    pair_feature_names: tuple[str, ...]
    analytical: FloatArray
    feasible: BoolArray
    complexity: FloatArray
    default: int
    model: StringArray
    accelerator: StringArray
    workload: StringArray
    draws: StringArray | None = None
    keys: StringArray | None = None

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, index: IntArray | BoolArray) -> Self:
        """The tasks that `index` picks."""
        names = ("features", "pair_features", "analytical", "feasible", "model", "accelerator", "workload")
        draws = None if self.draws is None else self.draws[index]
        keys = None if self.keys is None else self.keys[index]
        return replace(self, draws=draws, keys=keys, **{name: getattr(self, name)[index] for name in names})


@dataclass(frozen=True, slots=True, eq=False)
class MethodTable:
    """Tasks with the truth about them.

    Attributes
    ----------
    performance : array of shape (n, m)
        Higher is better; the unit depends on the kind of traffic (selection.md: highest rate that keeps the SLO, output
        tokens per second, or 1 / makespan). 0 where the method ran and broke its SLO, NaN where it is infeasible or
        nothing is known of it.
    tolerance : array of shape (n,)
        Relative difference below which two methods count as equal: max(2 %, twice the repeats' standard deviation).
    broken : array of shape (n, m), bool, or None
        What runs but breaks a limit in truth, such as the budget, with the performance that it would have: whoever
        learns counts it as lost. The default's performance is what gains are relative to, even so.
    """

    tasks: TaskTable
    performance: FloatArray
    tolerance: FloatArray
    broken: BoolArray | None = None

    def __len__(self) -> int:
        return len(self.performance)

    @property
    def works(self) -> BoolArray:
        """Shape (n, m): what ran and kept every limit."""
        ran = np.isfinite(self.performance) & (self.performance > 0.0)
        return ran if self.broken is None else ran & ~self.broken

    def rows(self, index: IntArray | BoolArray) -> Self:
        """The tasks that `index` picks, with their truth."""
        return replace(
            self,
            tasks=self.tasks.rows(index),
            performance=self.performance[index],
            tolerance=self.tolerance[index],
            broken=None if self.broken is None else self.broken[index],
        )


class Selector(Protocol):
    """Learns from tasks with their truth, then scores the methods of tasks that it has not seen.

    As in scikit-learn: `__init__` only stores, learned names end in an underscore, `fit` returns self, `scores` before
    `fit` raises NotFittedError, the same seed gives the same scores.
    """

    def fit(self, table: MethodTable) -> Self:
        """Learn from these tasks; every scaler, encoder and fold is fitted on them alone."""

    def scores(self, tasks: TaskTable) -> FloatArray:
        """Shape (n, m), higher is better; -inf exactly where `tasks.feasible` is False. Finite elsewhere."""


def choose(tasks: TaskTable, scores: FloatArray) -> IntArray:
    """Column chosen for each task, shape (n,): the best score, equal ones by the simpler method, then the first.

    A task without any feasible method gets -1.
    """
    best = scores.max(axis=1, keepdims=True)
    tied = (scores == best) & np.isfinite(scores)
    order = np.where(tied, tasks.complexity[None, :], np.inf)
    return np.where(tied.any(axis=1), np.argmin(order, axis=1), -1).astype(np.intp)
