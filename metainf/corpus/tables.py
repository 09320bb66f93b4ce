"""A corpus as the tables that selectors learn from: rows joined with the tasks' features, one table a kind of traffic.

Separate from the files: whoever evaluates wants performance per task and method, and no purposes or shards.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metainf.corpus.build import TASKS, CorpusPlan, read_plan, shards_of
from metainf.corpus.measuring import methods_of
from metainf.corpus.repeats import over_seeds, tolerances
from metainf.corpus.task import Task, TrafficKind
from metainf.corpus.task_store import read_tasks
from metainf.errors import InvalidWorkloadError
from metainf.measurements import Purpose, joined, read_measurements
from metainf.meta_features.tasks import task_table
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable

__all__ = ["OWN", "Truth", "load_rows", "load_tables", "load_truth"]

OWN = "own"
"""In place of a world's name: of each task what is true of it, so the first of the plan's worlds that knows it."""

_SCORE_COLUMNS = ["task", "world", "method", "seed", "performance"]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The tasks of one kind of traffic with the truth about them.

    Attributes
    ----------
    table : MethodTable
        Feasible is what facts allow and this world has rows of: what it knows nothing of, such as a number format
        without measured tables, can neither be picked nor be held against who picks.
    by_seed : array of shape (n, m, seeds)
        Performance of each repeat: 0 where the promises hold at no load, NaN where a method is infeasible or the task
        does not have that seed.
    beside : world -> table of the same n tasks
        What other worlds say of them: NaN throughout where such a world knows nothing of a task.
    tasks : the n tasks
    """

    table: MethodTable
    by_seed: FloatArray
    beside: Mapping[str, MethodTable]
    tasks: tuple[Task, ...] = ()


def load_rows(folder: Path, *, world: str | None = None, purpose: Purpose | None = None) -> pa.Table:
    """All rows of a corpus, of one world (or `OWN`) and one purpose where they are given.

    Raises
    ------
    InvalidWorkloadError
        The folder holds no corpus.
    MeasurementError
        A file of it is damaged.
    """
    plan = read_plan(folder)
    parts = _own_parts(folder, plan) if world == OWN else _parts(folder, world)
    return joined(part if purpose is None else _only(part, "purpose", str(purpose)) for part in parts)


def _parts(folder: Path, world: str | None) -> Iterator[pa.Table]:
    for path in sorted(folder.glob("rows-*.parquet")):
        table = read_measurements(path)
        yield table if world is None else _only(table, "world", world)


def _own_parts(folder: Path, plan: CorpusPlan) -> Iterator[pa.Table]:
    """Each shard of a world without the tasks of the worlds before it; nothing where one of theirs is not built yet."""
    found: set[str] = set()
    missing: set[int] = set()
    for shard in shards_of(plan):
        path = folder / shard.file_name
        if not path.exists():
            missing.add(shard.first)
        if shard.first in missing:
            continue
        table = read_measurements(path)
        tasks = table.column("task")
        own = table.filter(pc.invert(pc.is_in(tasks, value_set=pa.array(sorted(found), pa.string()))))
        found.update(tasks.unique().to_pylist())
        yield own


def _only(table: pa.Table, name: str, wanted: str) -> pa.Table:
    return table.filter(pc.equal(table.column(name), wanted))


def load_tables(folder: Path, *, world: str | None = None) -> Mapping[TrafficKind, MethodTable]:
    """The tables of `load_truth`, for those who learn."""
    return {kind: truth.table for kind, truth in load_truth(folder, world=world).items()}


def load_truth(
    folder: Path,
    *,
    world: str | None = None,
    beside: Sequence[str] = (),
    also_in: Sequence[str] = (),
    most_tasks: int | None = None,
) -> Mapping[TrafficKind, Truth]:
    """Whole tasks of a corpus with the truth about them, by kind of traffic; kinds without tasks are left out.

    Performance and tolerance are as `over_seeds` and `tolerances` make them of a task's seeds. Tasks without a method
    that works are left out.

    Parameters
    ----------
    folder : Path
        May hold a corpus that is not complete.
    world : str, optional
        Needed where the corpus has several: worlds are never mixed but as `OWN` has them.
    beside : names of worlds
        Whose word on the same tasks is wanted too.
    also_in : names among `beside`
        Tasks of which one of them knows nothing are left out.
    most_tasks : int, optional
        Of each kind, evenly over those that are left: features take some 20 ms a task.

    Raises
    ------
    InvalidWorkloadError
        The folder holds no corpus, or rows of several worlds and none is named, or none of a world that is.
    """
    scores = load_rows(folder, purpose=Purpose.SCORE).select(_SCORE_COLUMNS)
    found = sorted(scores.column("world").unique().to_pylist())
    worlds = ", ".join(found) or "none"
    if world is None and len(found) != 1:
        raise InvalidWorkloadError(f"{folder} holds rows of the worlds {worlds}: name one of them")
    world = found[0] if world is None else world
    for name in (world, *beside):
        if name not in (*found, OWN):
            raise InvalidWorkloadError(f"{folder} holds rows of the worlds {worlds}, not of {name}: name one of them")
    of_world = {name: _scores_of(name, scores, folder) for name in (world, *beside)}
    needed = (world, *also_in)
    plan = read_plan(folder)
    tasks = [task for task in read_tasks(folder / TASKS) if plan.is_whole(task)]
    truths = {}
    for kind in TrafficKind:
        mine = _known_tasks([task for task in tasks if task.kind is kind], [of_world[name] for name in needed])
        if mine:
            truths[kind] = _truth(_thinned(mine, most_tasks), world, of_world, beside)
    return truths


def _scores_of(world: str, scores: pa.Table, folder: Path) -> pa.Table:
    if world == OWN:
        return load_rows(folder, world=OWN, purpose=Purpose.SCORE).select(_SCORE_COLUMNS)
    return _only(scores, "world", world)


def _known_tasks(tasks: list[Task], worlds: Sequence[pa.Table]) -> list[Task]:
    """Those of one kind on which a method works in each of the worlds."""
    if not tasks:
        return []
    methods = [method.name for method in methods_of(tasks[0])]
    known = [np.any(over_seeds(_by_seed(tasks, methods, scores)) > 0.0, axis=1) for scores in worlds]
    return [task for task, keep in zip(tasks, np.all(known, axis=0), strict=True) if keep]


def _thinned(tasks: list[Task], most: int | None) -> list[Task]:
    """Evenly over all, in their order."""
    if most is None or len(tasks) <= most:
        return tasks
    return [tasks[place] for place in np.linspace(0, len(tasks) - 1, most).astype(np.intp)]


def _truth(tasks: list[Task], world: str, of_world: Mapping[str, pa.Table], beside: Sequence[str]) -> Truth:
    methods = methods_of(tasks[0])
    names = [method.name for method in methods]
    by_seed = _by_seed(tasks, names, of_world[world])
    features = task_table(tasks, methods, allowed=~np.isnan(over_seeds(by_seed)))
    others = {name: _table(features, _by_seed(tasks, names, of_world[name])) for name in beside}
    return Truth(_table(features, by_seed), by_seed, others, tuple(tasks))


def _table(tasks: TaskTable, by_seed: FloatArray) -> MethodTable:
    return MethodTable(tasks, over_seeds(by_seed), tolerances(by_seed, tasks.default))


def _by_seed(tasks: list[Task], methods: list[str], scores: pa.Table) -> FloatArray:
    """Performance, shape (tasks, methods, seeds), NaN where nothing was measured."""
    row_of = {task.key: row for row, task in enumerate(tasks)}
    column_of = {method: column for column, method in enumerate(methods)}
    columns: dict[str, Any] = {name: scores.column(name).to_pylist() for name in _SCORE_COLUMNS}
    seeds = np.array(columns["seed"], dtype=np.intp)
    found = np.full((len(tasks), len(methods), int(seeds.max(initial=0)) + 1), np.nan)
    rows = np.array([row_of.get(key, -1) for key in columns["task"]], dtype=np.intp)
    places = np.array([column_of.get(name, -1) for name in columns["method"]], dtype=np.intp)
    ours = (rows >= 0) & (places >= 0)
    found[rows[ours], places[ours], seeds[ours]] = np.array(columns["performance"], dtype=np.float64)[ours]
    return found
