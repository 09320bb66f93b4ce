"""The same evaluation among the methods that cannot change a model's answers, from the scores that selectors gave.

Separate from the outcomes, which let every method compete: a workload gets a lossy one, such as FP8 weights, only where
it says `methods.lossy: Allow`, and by default it does not. Nothing is fitted anew: a selector that has learnt of all
methods is asked for the best of these. Labels, tolerances, single and virtual best are among these alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from metainf.evaluation.outcomes import Evidence, Outcome
from metainf.methods import portfolio
from metainf.selectors.contract import BoolArray, MethodTable, TaskTable, choose

__all__ = ["lossless_outcome", "lossy_columns", "without_lossy"]


def lossy_columns(methods: Sequence[str]) -> BoolArray:
    """Shape (m,): which of these names are of methods that can change answers; unknown names are not."""
    lossy = {name for method in portfolio() if method.lossy for name in (method.name, *method.aliases)}
    return np.array([name in lossy for name in methods], dtype=np.bool_)


def without_lossy(evidence: Evidence) -> Evidence | None:
    """The evidence with lossy methods infeasible, to judge by: nobody can learn from it. None where there are none.

    What physics says of pairs is left out, since large tables of it would be copied for nothing.
    """
    lossy = lossy_columns(evidence.table.tasks.methods)
    if not lossy.any():
        return None
    seeds = evidence.performance_by_seed
    return replace(
        evidence.changed(lambda table: _without(table, lossy)),
        performance_by_seed=None if seeds is None else np.where(lossy[None, :, None], np.nan, seeds),
    )


def _without(table: MethodTable, lossy: BoolArray) -> MethodTable:
    tasks = table.tasks
    return replace(
        table,
        performance=np.where(lossy, np.nan, table.performance),
        tasks=replace(
            tasks,
            feasible=tasks.feasible & ~lossy,
            pair_features=np.zeros((*tasks.feasible.shape, 0)),
            pair_feature_names=(),
        ),
    )


def lossless_outcome(outcome: Outcome, reference: Outcome, tasks: TaskTable) -> Outcome:
    """What the selector chooses among the methods that are feasible in these tasks, by the scores that it gave on all.

    Parameters
    ----------
    reference : outcome on the same split of the evidence that `tasks` are of
        Has what its train halves fix: single best and classes.
    tasks : TaskTable
        The judged tasks of both outcomes, in their order.
    """
    found = replace(
        reference,
        selector=outcome.selector,
        chosen=np.full(len(tasks), -1, dtype=np.intp),
        fit_s=outcome.fit_s,
        decide_s=outcome.decide_s,
        failure=outcome.failure,
    )
    if outcome.failure or outcome.scores is None:
        return found
    return replace(found, chosen=choose(tasks, np.where(tasks.feasible, outcome.scores, -np.inf)))
