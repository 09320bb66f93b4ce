"""A corpus's folder as what training reads: what is true of its tasks, and the tasks themselves.

Separate from the building of a corpus, which needs the simulator.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from metainf.corpus.build import TASKS, read_plan, world_names
from metainf.corpus.tables import OWN, load_rows
from metainf.corpus.task import Task
from metainf.corpus.task_store import read_tasks
from metainf.errors import InvalidWorkloadError
from metainf.evaluation.groups import about

__all__ = ["read_corpus", "whole_tasks", "without"]


def read_corpus(folder: Path, world: str = OWN) -> tuple[pa.Table, tuple[Task, ...]]:
    """The rows of a corpus's world, or of each task those that are true of it (`OWN`), and its tasks.

    Raises
    ------
    InvalidWorkloadError
        There is no corpus, it has no rows yet, or none of that world.
    MeasurementError
        A file of it is damaged.
    """
    worlds = world_names(read_plan(folder))
    if world not in (OWN, *worlds):
        raise InvalidWorkloadError(f"--world {world}: the corpus has {', '.join((OWN, *worlds))}")
    rows = load_rows(folder, world=world)
    if not rows.num_rows or not (folder / TASKS).exists():
        raise InvalidWorkloadError(f"{folder} holds no rows of a corpus: build one with metainf corpus build")
    return rows, read_tasks(folder / TASKS)


def whole_tasks(folder: Path, tasks: Sequence[Task]) -> frozenset[str]:
    """Keys of the tasks that a corpus measured under all methods: where a choice among methods can be judged.

    Raises
    ------
    InvalidWorkloadError
        The folder holds no corpus.
    """
    plan = read_plan(folder)
    return frozenset(task.key for task in tasks if plan.is_whole(task))


def without(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The table without the rows of these models and accelerators, or of the groups that they name.

    Raises
    ------
    InvalidWorkloadError
        No row is about one of them.
    """
    if not names:
        return table
    models, devices = (table.column(name).to_pylist() for name in ("model", "accelerator"))
    left = np.zeros(len(models), dtype=np.bool_)
    for name in names:
        hit = about(name, models, devices)
        if not hit.any():
            raise InvalidWorkloadError(f"--held-out {name}: no row is about such a model or accelerator")
        left |= hit
    return table.filter(pa.array(~left))
