"""Tables of methods with the budget of each task: what is over it in truth counts as broken.

Separate from the budgets, which know no tables, and from the outcomes, which only read what is broken.

On one place a budget takes nothing from the best method: what does most for the hour costs least. It makes others
worse than slow, and tells by how much a choice may miss. A method counts as over budget by more than the task's
tolerance, so that what cannot be told from the best is never forbidden beside it. Tasks on which nothing is within the
budget are left out, as those are on which no method keeps its promises: nothing is to be chosen there.

Rates are counted by a fleet so large that it can be any number of replicas, as their performance is.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metainf.corpus.repeats import over_seeds
from metainf.corpus.task import Task
from metainf.evaluation.budgets import budget_factor, expected_usd, score_rows, usd_of
from metainf.evaluation.metrics import good
from metainf.evaluation.outcomes import Evidence

__all__ = ["usd_table", "with_budgets"]

FloatArray = NDArray[np.float64]


def with_budgets(evidence: Evidence, tasks: Sequence[Task], scores: pa.Table) -> Evidence:
    """The evidence of the tasks that can be served within their budgets, with what is over it marked as broken.

    Parameters
    ----------
    tasks : those of the evidence, in its order
    scores : pyarrow.Table
        Rows of the world that the evidence is the truth of.
    """
    table = evidence.table
    usd = usd_table(tasks, table.tasks.methods, scores)
    expected = np.array([expected_usd(row[table.tasks.default], row) for row in usd.tolist()], dtype=np.float64)
    budget = expected * np.array([budget_factor(task) for task in tasks], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        over = usd > (budget * (1.0 + table.tolerance))[:, None]
    broken = over if evidence.broken is None else over | evidence.broken
    return replace(evidence, broken=broken).rows(np.any(good(table, broken), axis=1))


def usd_table(tasks: Sequence[Task], methods: Sequence[str], scores: pa.Table) -> FloatArray:
    """What each method truly costs on n tasks, shape (n, m), in the unit of the task's budget.

    Repeats count together as those of performance do. NaN where the world has no row, infinite where a method failed.
    """
    row_of = {task.key: row for row, task in enumerate(tasks)}
    column_of = {method: column for column, method in enumerate(methods)}
    known = [row for row in score_rows(scores, row_of) if row["method"] in column_of]
    seeds = 1 + max((row["seed"] for row in known), default=0)
    work = np.full((len(tasks), len(methods), seeds), np.nan)
    for row in known:
        place = row_of[row["task"]]
        work[place, column_of[row["method"]], row["seed"]] = 1.0 / usd_of(tasks[place], row)
    with np.errstate(divide="ignore"):
        return np.asarray(1.0 / over_seeds(work))
