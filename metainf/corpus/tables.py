"""A corpus as the tables that selectors learn from: rows joined with the tasks' features, one table a kind of traffic.

Separate from the files: whoever evaluates wants performance per task and method, and no purposes, seeds or shards.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metainf.corpus.build import TASKS, read_plan
from metainf.corpus.measuring import methods_of
from metainf.corpus.task import Task, TrafficKind
from metainf.corpus.task_store import read_tasks
from metainf.errors import InvalidWorkloadError
from metainf.measurements import Purpose, joined, read_measurements
from metainf.meta_features.tasks import task_table
from metainf.selectors.contract import FloatArray, MethodTable

__all__ = ["LEAST_TOLERANCE", "load_rows", "load_tables"]

LEAST_TOLERANCE = 0.02
_SCORE_COLUMNS = ["task", "world", "method", "seed", "performance"]


def load_rows(folder: Path, *, world: str | None = None, purpose: Purpose | None = None) -> pa.Table:
    """All rows of a corpus, of one world and one purpose where they are given.

    Raises
    ------
    InvalidWorkloadError
        The folder holds no corpus.
    MeasurementError
        A file of it is damaged.
    """
    read_plan(folder)
    return joined(_parts(folder, world, purpose))


def _parts(folder: Path, world: str | None, purpose: Purpose | None) -> Iterator[pa.Table]:
    for path in sorted(folder.glob("rows-*.parquet")):
        table = read_measurements(path)
        for name, wanted in (("world", world), ("purpose", purpose)):
            if wanted is not None:
                table = table.filter(pc.equal(table.column(name), str(wanted)))
        yield table


def load_tables(folder: Path, *, world: str | None = None) -> Mapping[TrafficKind, MethodTable]:
    """Tasks of a corpus with the truth about them, by kind of traffic; kinds without tasks are left out.

    Performance is the geometric mean over the seeds that a task has; NaN where a method is infeasible, and where it
    keeps the promises at no load. Tolerance is the larger of 2 % and twice the standard deviation between seeds,
    in the median over the task's methods; tasks with one seed have the kind's median. Tasks without a method that
    works are left out.

    Parameters
    ----------
    folder : Path
        May hold a corpus that is not complete.
    world : str, optional
        Needed where the corpus has several: worlds are never mixed.

    Raises
    ------
    InvalidWorkloadError
        The folder holds no corpus, or rows of several worlds and none is named, or none of the world.
    """
    scores = load_rows(folder, world=world, purpose=Purpose.SCORE).select(_SCORE_COLUMNS)
    worlds = sorted(scores.column("world").unique().to_pylist())
    if len(worlds) != 1:
        found = ", ".join(worlds) or "none"
        asked = "" if world is None else f", not of {world}"
        raise InvalidWorkloadError(f"{folder} holds rows of the worlds {found}{asked}: name one of them")
    tasks = {task.key: task for task in read_tasks(folder / TASKS)}
    tables = {}
    for kind in TrafficKind:
        table = _table([task for task in tasks.values() if task.kind is kind], scores)
        if table is not None:
            tables[kind] = table
    return tables


def _table(tasks: list[Task], scores: pa.Table) -> MethodTable | None:
    """The table of one kind's tasks that have rows."""
    if not tasks:
        return None
    methods = methods_of(tasks[0])
    logs = _log_performance(tasks, [method.name for method in methods], scores)
    counted = ~np.isnan(logs)
    number = counted.sum(axis=2)
    mean = np.where(counted, logs, 0.0).sum(axis=2) / np.maximum(number, 1)
    performance = np.where(number > 0, np.exp(mean), np.nan)
    kept = (number > 0).any(axis=1)
    if not kept.any():
        return None
    chosen = [task for task, keep in zip(tasks, kept, strict=True) if keep]
    return MethodTable(task_table(chosen, methods), performance[kept], _tolerance(logs[kept]))


def _log_performance(tasks: list[Task], methods: list[str], scores: pa.Table) -> FloatArray:
    """Shape (tasks, methods, seeds): NaN where nothing was measured or the promises hold at no load."""
    row_of = {task.key: row for row, task in enumerate(tasks)}
    column_of = {method: column for column, method in enumerate(methods)}
    columns: dict[str, Any] = {name: scores.column(name).to_pylist() for name in _SCORE_COLUMNS}
    seeds = np.array(columns["seed"], dtype=np.intp)
    logs = np.full((len(tasks), len(methods), int(seeds.max(initial=0)) + 1), np.nan)
    rows = np.array([row_of.get(key, -1) for key in columns["task"]], dtype=np.intp)
    places = np.array([column_of.get(name, -1) for name in columns["method"]], dtype=np.intp)
    values = np.array(columns["performance"], dtype=np.float64)
    ours = (rows >= 0) & (places >= 0) & (values > 0.0)
    logs[rows[ours], places[ours], seeds[ours]] = np.log(values[ours])
    return logs


def _tolerance(logs: FloatArray) -> FloatArray:
    """Shape (tasks,): relative difference below which two methods count as equal."""
    counted = ~np.isnan(logs)
    number = counted.sum(axis=2)
    mean = np.where(counted, logs, 0.0).sum(axis=2, keepdims=True) / np.maximum(number, 1)[:, :, None]
    squares = (np.where(counted, logs - mean, 0.0) ** 2).sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.where(number > 1, np.sqrt(squares / (number - 1)), np.nan)
    by_task = np.array([np.median(row[~np.isnan(row)]) if (~np.isnan(row)).any() else np.nan for row in sd])
    known = by_task[~np.isnan(by_task)]
    usual = float(np.median(known)) if len(known) else 0.0
    return np.maximum(LEAST_TOLERANCE, 2.0 * np.where(np.isnan(by_task), usual, by_task))
