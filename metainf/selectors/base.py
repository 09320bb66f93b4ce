"""What all selectors share: one order of columns and rows to learn in, the mask over what they score, and their checks.

Separate from the contract so that the contract stays a promise without code. Why one order: forests, clusters and
boosters draw rows and columns by position, so the same facts in another order would give other scores. Columns are
learned by name and rows by content, so order never matters, and no selector has to think of it.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from metainf.errors import NotFittedError
from metainf.selectors.contract import BoolArray, FloatArray, MethodTable, TaskTable

__all__ = ["BaseSelector", "check_fitted", "masked", "with_methods"]

IntArray = NDArray[np.intp]


class BaseSelector(ABC):
    """A selector whose subclass says only what it learns from a table in order, and what it makes of tasks in order.

    `_scores` may leave NaN where it knows nothing of a method: such a method comes after all that are known.
    """

    methods_: tuple[str, ...]
    feature_names_: tuple[str, ...]

    def fit(self, table: MethodTable) -> Self:
        """Learn from the tasks on which anything works; the others teach nothing of methods.

        Raises
        ------
        ValueError
            Nothing works on any of them.
        """
        order = tuple(sorted(table.tasks.methods))
        tasks = with_methods(table.tasks, order)
        columns = _positions(table.tasks.methods, order)
        performance = np.where(tasks.feasible, table.performance[:, columns], np.nan)
        broken = None if table.broken is None else table.broken[:, columns]
        ordered = replace(table, tasks=tasks, performance=performance, broken=broken)
        ordered = ordered.rows(_row_order(ordered))
        if len(ordered) == 0:
            raise ValueError("fitting a selector needs a task on which a method works, and got none")
        self._fit(ordered)
        self.methods_, self.feature_names_ = order, tasks.feature_names
        return self

    def scores(self, tasks: TaskTable) -> FloatArray:
        """Shape (n, m), higher is better; -inf exactly where infeasible. Columns may come in any order."""
        check_fitted(self, "methods_")
        if tasks.feature_names != self.feature_names_:
            strange = sorted(set(tasks.feature_names) ^ set(self.feature_names_))
            raise ValueError(f"scoring tasks with other features than those fitted on: {strange[:5] or 'other order'}")
        if len(tasks) == 0:
            return np.empty(tasks.feasible.shape)
        ordered = with_methods(tasks, self.methods_)
        scores = masked(self._scores(ordered), ordered.feasible)
        return scores[:, _positions(self.methods_, tasks.methods)]

    @abstractmethod
    def _fit(self, table: MethodTable) -> None:
        """Learn from rows and columns in order; performance is NaN wherever infeasible."""

    @abstractmethod
    def _scores(self, tasks: TaskTable) -> FloatArray:
        """Scores of methods in order, shape (n, m); NaN where nothing is known, anything where infeasible."""


def check_fitted(selector: object, learned: str) -> None:
    """Raise NotFittedError where the selector does not have what `fit` learns."""
    if not hasattr(selector, learned):
        raise NotFittedError(f"asking {type(selector).__name__} for scores before it was fitted")


def masked(raw: FloatArray, feasible: BoolArray) -> FloatArray:
    """Scores with -inf exactly where infeasible; feasible methods without a finite score come last, alike."""
    known = feasible & np.isfinite(raw)
    lowest = np.where(known, raw, np.inf).min(axis=1, keepdims=True)
    last = np.where(np.isfinite(lowest), lowest - 1.0, 0.0)
    return np.where(feasible, np.where(known, raw, last), -np.inf)


def with_methods(tasks: TaskTable, methods: tuple[str, ...]) -> TaskTable:
    """The same tasks with their columns in this order.

    Raises
    ------
    ValueError
        The table has other methods than these.
    """
    if tasks.methods == methods:
        return tasks
    if sorted(tasks.methods) != sorted(methods):
        strange = sorted(set(tasks.methods) ^ set(methods))
        raise ValueError(f"scoring tasks with other methods than those fitted on: {strange[:5]}")
    order = _positions(tasks.methods, methods)
    return replace(
        tasks,
        methods=methods,
        method_features=tasks.method_features[order],
        pair_features=tasks.pair_features[:, order],
        analytical=tasks.analytical[:, order],
        feasible=tasks.feasible[:, order],
        complexity=tasks.complexity[order],
        default=methods.index(tasks.methods[tasks.default]),
    )


def _positions(methods: tuple[str, ...], wanted: tuple[str, ...]) -> IntArray:
    """Where each wanted method stands among `methods`."""
    where = {name: column for column, name in enumerate(methods)}
    return np.array([where[name] for name in wanted], dtype=np.intp)


def _row_order(table: MethodTable) -> IntArray:
    """Rows on which anything works, sorted by what they hold."""
    tasks = table.tasks
    works = table.works
    keys = (*works.T, tasks.workload, tasks.accelerator, tasks.model, *table.performance.T, *tasks.features.T)
    order = np.lexsort(keys)
    return order[works[order].any(axis=1)]
