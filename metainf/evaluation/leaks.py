"""Spoilt tables for the checks of `leak_checks`: with shuffled truth, or with ids alone, nobody may win.

Separate from these, which only feed them to selectors. Physics is taken out of both: a selector that
computes instead of learning is rightly untouched by shuffled labels, and would hide a leak beside it.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.contract import FloatArray, MethodTable, TaskTable

__all__ = ["with_ids_only", "with_shuffled_labels", "without_physics"]

StringArray = NDArray[np.str_]

_BUCKETS = 64  # workloads are too many for a column each


def without_physics(table: MethodTable) -> MethodTable:
    """The table with everything that the analytical predictor says set to zero, NaN left where it was."""
    tasks = table.tasks
    return replace(
        table,
        tasks=replace(tasks, pair_features=_zeros(tasks.pair_features), analytical=_zeros(tasks.analytical)),
    )


def with_shuffled_labels(table: MethodTable, seed: int) -> MethodTable:
    """The table with each method's gain over the default permuted among the tasks that ran both, failures with them.

    Which method is best on average stays true, and where a method is infeasible; which task it is best for, and on
    which it breaks its SLO or the budget, does not.
    """
    rng = np.random.default_rng(seed)
    default = table.performance[:, table.tasks.default]
    ran = np.isfinite(table.performance) & np.isfinite(default)[:, None]
    shuffled = table.performance.copy()
    broken = None if table.broken is None else table.broken.copy()
    for column in range(shuffled.shape[1]):
        rows = np.flatnonzero(ran[:, column] & (default > 0.0))
        if column != table.tasks.default and len(rows):
            other = rng.permutation(rows)
            shuffled[rows, column] = default[rows] * table.performance[other, column] / default[other]
            if broken is not None:
                broken[rows, column] = broken[other, column]
    return replace(table, performance=shuffled, broken=broken)


def with_ids_only(table: MethodTable, known: Sequence[TaskTable] = ()) -> MethodTable:
    """The table whose features say only which model, accelerator and workload it is, and nothing of what they are.

    Parameters
    ----------
    known : tables of tasks
        Whose ids have columns too: where one table is learnt from and another judged by, a column must mean the same in
        both.
    """
    tasks = table.tasks
    buckets = np.array([zlib.crc32(each.encode()) % _BUCKETS for each in tasks.workload.tolist()])
    every = (tasks, *known)
    blocks = {
        "model": _one_hot(tasks.model, np.concatenate([each.model for each in every])),
        "accelerator": _one_hot(tasks.accelerator, np.concatenate([each.accelerator for each in every])),
        "workload": (buckets[:, None] == np.arange(_BUCKETS)).astype(np.float64),
    }
    names = tuple(f"{block}_{place}" for block, values in blocks.items() for place in range(values.shape[1]))
    bare = without_physics(table)
    return replace(
        bare,
        tasks=replace(bare.tasks, features=np.concatenate(list(blocks.values()), axis=1), feature_names=names),
    )


def _zeros(values: FloatArray) -> FloatArray:
    return np.where(np.isnan(values), np.nan, 0.0)


def _one_hot(ids: StringArray, known: StringArray) -> FloatArray:
    """Shape (n, number of known ids). The columns are named by place: the width is the same for train and test."""
    found: FloatArray = (ids[:, None] == np.unique(known)[None, :]).astype(np.float64)
    return found
