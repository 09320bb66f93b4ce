"""Selectors that learn, as a study judges them: from a corpus without CPUs, and from the rows of the other models.

Separate from the picks, which are judged whoever makes them. A selector is fitted once, on all methods that were
measured, and then asked for its picks among any of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from metainf.corpus.tables import load_truth
from metainf.corpus.task import TrafficKind
from metainf.evaluation.groups import accelerator_group
from metainf.selectors.base import with_methods
from metainf.selectors.catalogue import SELECTORS
from metainf.selectors.contract import MethodTable, Selector, TaskTable, choose

__all__ = ["LARGE_GROUPS", "LEARNERS", "LEAST_FOR_GROUPS", "Learner", "corpus_tables", "learners"]

LEARNERS = (
    "nearest-neighbour",
    "isac",
    "alors",
    "random-forest-classifier",
    "random-forest-regressor",
    "gradient-boosting-classifier",
    "gradient-boosting-regressor",
    "metainf-regression",
    "metainf-ensemble",
)
LARGE_GROUPS = ("isac", "gradient-boosting-classifier", "gradient-boosting-regressor")
"""Their clusters, or leaves, hold at least 20 tasks."""
LEAST_FOR_GROUPS = 40
"""Of fewer tasks these make one group, and say the same of every task."""


@dataclass(frozen=True)
class Learner:
    """A selector by the model that it is judged on; none, and why, where it could not learn."""

    name: str
    rows: str
    by_model: Mapping[str, Selector]
    why_not: str = ""

    def picks(self, tasks: TaskTable) -> np.ndarray:
        """Column picked for each task, shape (n,)."""
        found = np.full(len(tasks), -1, dtype=np.intp)
        for model, selector in self.by_model.items():
            mine = tasks.model == model
            part = tasks.rows(mine)
            found[mine] = choose(part, selector.scores(part))
        return found


def learners(table: MethodTable, names: Sequence[str], corpus: MethodTable | None) -> Iterator[Learner]:
    """Each selector with the judged machine's rows left out, where there is a corpus, and in, each model in turn."""
    models = np.unique(table.tasks.model).tolist()
    for name in names:
        if corpus is not None:
            yield _left_out(name, models, corpus)
        yield _in(name, models, table, corpus)


def _left_out(name: str, models: Sequence[str], corpus: MethodTable) -> Learner:
    try:
        selector = SELECTORS[name](random_state=0).fit(corpus)
    except ValueError as error:  # nothing to learn from
        return Learner(name, "left out", {}, str(error))
    return Learner(name, "left out", dict.fromkeys(models, selector))


def _in(name: str, models: Sequence[str], table: MethodTable, corpus: MethodTable | None) -> Learner:
    by_model: dict[str, Selector] = {}
    for model in models:
        others = table.rows(table.tasks.model != model)
        known = others if corpus is None else _joined(corpus, others)
        try:
            by_model[model] = SELECTORS[name](random_state=0).fit(known)
        except ValueError as error:  # too few rows for this one
            return Learner(name, "in", {}, str(error))
    return Learner(name, "in", by_model)


def corpus_tables(
    folder: Path, like: Mapping[TrafficKind, TaskTable], *, world: str | None, most_tasks: int | None
) -> Mapping[TrafficKind, MethodTable]:
    """The corpus's tasks that are on no CPU, by kind of load, with the columns of the study's tables."""
    truths = load_truth(folder, world=world, most_tasks=most_tasks)
    return {kind: _without_cpus(truths[kind].table, tasks) for kind, tasks in like.items() if kind in truths}


def _without_cpus(table: MethodTable, like: TaskTable) -> MethodTable:
    order = [table.tasks.methods.index(name) for name in like.methods]
    tasks = with_methods(table.tasks, like.methods)
    groups = np.array([accelerator_group(name) for name in tasks.accelerator.tolist()], dtype=np.str_)
    return replace(table, tasks=tasks, performance=table.performance[:, order]).rows(groups != "CPU")


def _joined(first: MethodTable, second: MethodTable) -> MethodTable:
    names = ("features", "pair_features", "analytical", "feasible", "model", "accelerator", "workload")
    tasks = replace(
        first.tasks,
        draws=None,
        keys=None,
        **{n: np.concatenate([getattr(first.tasks, n), getattr(second.tasks, n)]) for n in names},
    )
    both = {n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in ("performance", "tolerance")}
    return replace(first, tasks=tasks, **both)
