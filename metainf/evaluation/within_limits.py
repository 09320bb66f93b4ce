"""Tables of methods with the limits of each task: what breaks its promises or its budget in truth counts as broken.

Separate from the budgets and the promises, which know no tables, and from the outcomes, which only read what is broken.

On one place a budget takes nothing from the best method of a rate or a batch: what does most for the hour costs least.
It makes others worse than slow, and tells by how much a choice may miss. Of a closed loop it can forbid the best: all
tokens count for what a million of them costs, and only those of requests that keep the SLO for performance. A method
counts as over budget by more than the task's tolerance, so that what cannot be told from the best is never forbidden
beside it. Tasks on which nothing keeps every limit are left out: nothing is to be chosen there.

Rates are counted by a fleet so large that it can be any number of replicas, as their performance is. Repeats count
together as those of performance do, in cost and in each promise.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metainf.corpus.repeats import over_seeds
from metainf.corpus.task import Task
from metainf.evaluation.budgets import COST_COLUMNS, budget_factor, expected_usd, score_rows, usd_of
from metainf.evaluation.metrics import decisive, good, virtual_best
from metainf.evaluation.outcomes import Evidence, LimitCounts, broken_by
from metainf.evaluation.promises import PROMISE_COLUMNS, headroom
from metainf.selectors.contract import BoolArray, MethodTable

__all__ = ["LIMIT_COLUMNS", "allowed_usd", "margins", "taught_limits", "usd_table", "with_limits"]

FloatArray = NDArray[np.float64]

LIMIT_COLUMNS = tuple(dict.fromkeys((*COST_COLUMNS, *PROMISE_COLUMNS)))
"""What of a score row a limit hangs on."""


def with_limits(evidence: Evidence, tasks: Sequence[Task], scores: pa.Table) -> Evidence:
    """The evidence of the tasks on which a method keeps every limit, with what breaks one marked as broken.

    Parameters
    ----------
    tasks : those of the evidence, in its order
    scores : pyarrow.Table
        Rows of the world that the evidence is the truth of.
    """
    margin = margins(evidence.table, tasks, scores)
    over = broken_by(margin)
    broken = over if evidence.broken is None else over | evidence.broken
    kept = np.any(good(evidence.table, broken), axis=1)
    limits = LimitCounts(
        tasks=len(kept),
        left_out=int((~kept).sum()),
        best_over_budget=int((kept & _best_is_dear(evidence.table, margin)).sum()),
        decisive_share=float(decisive(evidence.table, evidence.broken).mean()) if len(kept) else np.nan,
    )
    return replace(evidence, broken=broken, margin_by_seed=margin, limits=limits).rows(kept)


def _best_is_dear(table: MethodTable, margin: FloatArray) -> BoolArray:
    """Shape (n,): whether what does most among what keeps its promises is over the budget."""
    dear, late = broken_by(margin[..., :1]), broken_by(margin[..., 1:])
    best = virtual_best(table, late)
    return (best >= 0) & dear[np.arange(len(best)), np.maximum(best, 0)]


def taught_limits(table: MethodTable, tasks: Sequence[Task], scores: pa.Table) -> MethodTable:
    """What is learnt from another world, with what breaks a limit there; without tasks that nothing serves.

    Parameters
    ----------
    tasks : those of the table, in its order
    scores : pyarrow.Table
        Rows of that world: its budgets are drawn around what the default costs in it.
    """
    limited = replace(table, broken=broken_by(margins(table, tasks, scores)))
    return limited.rows(np.any(limited.works, axis=1))


def margins(table: MethodTable, tasks: Sequence[Task], scores: pa.Table) -> FloatArray:
    """Allowed over needed of each repeat, shape (n, m, seeds, 2): of the budget, and of the promises.

    0 where a method failed or what it needs has no end, NaN where the world has no row.
    """
    work, room = _by_seed(tasks, table.tasks.methods, scores)
    allowed = _allowed(table, tasks, _usd(work))
    with np.errstate(invalid="ignore"):
        within = np.where(work > 0.0, allowed[:, None, None] * work, work)
    return np.stack([within, room], axis=3)


def allowed_usd(table: MethodTable, tasks: Sequence[Task], scores: pa.Table) -> FloatArray:
    """What may be spent on each task, shape (n,), its tolerance included; infinite where nothing has a cost."""
    return _allowed(table, tasks, usd_table(tasks, table.tasks.methods, scores))


def _allowed(table: MethodTable, tasks: Sequence[Task], usd: FloatArray) -> FloatArray:
    expected = np.array([expected_usd(row[table.tasks.default], row) for row in usd.tolist()], dtype=np.float64)
    factor = np.array([budget_factor(task) for task in tasks], dtype=np.float64)
    return expected * factor * (1.0 + table.tolerance)


def usd_table(tasks: Sequence[Task], methods: Sequence[str], scores: pa.Table) -> FloatArray:
    """What each method truly costs on n tasks, shape (n, m), in the unit of the task's budget.

    Repeats count together as those of performance do. NaN where the world has no row, infinite where a method failed.
    """
    return _usd(_by_seed(tasks, methods, scores)[0])


def _usd(work: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.asarray(1.0 / over_seeds(work))


def _by_seed(tasks: Sequence[Task], methods: Sequence[str], scores: pa.Table) -> tuple[FloatArray, FloatArray]:
    """What a USD buys and the headroom of the promises, shape (n, m, seeds) each; NaN where there is no row."""
    row_of = {task.key: row for row, task in enumerate(tasks)}
    column_of = {method: column for column, method in enumerate(methods)}
    known = [row for row in score_rows(scores, row_of, LIMIT_COLUMNS) if row["method"] in column_of]
    seeds = 1 + max((row["seed"] for row in known), default=0)
    work = np.full((len(tasks), len(methods), seeds), np.nan)
    room = work.copy()
    for row in known:
        place = row_of[row["task"]]
        at = place, column_of[row["method"]], row["seed"]
        work[at] = 1.0 / usd_of(tasks[place], row)
        room[at] = headroom(tasks[place], row)
    return work, room
