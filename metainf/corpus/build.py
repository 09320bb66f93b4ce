"""Builds a corpus: shards of tasks through the simulator, in parallel, into files that a kill cannot harm.

Separate from what is measured (`measuring`): this knows files, processes and time, and nothing of methods.

A corpus is a folder: `corpus.json` (what was asked for, and the versions), `tasks.parquet`, and a Parquet file for each
world and run of tasks, `rows-<world>-<first task>.parquet`. A file appears whole or not at all, so that an interrupted
build goes on with what is missing; each holds the same rows whatever else was built, by how many processes, and when.
Work goes through joblib, whatever its backend: rows come back to the one process that writes.

What it costs. Of 60 tasks of the design one seed took 3.6 s of a quiet core where a rate is searched, 0.4 with a closed
loop and 0.3 for a batch, in the mean: 20,000 tasks are 7 hours of one core, and 2 to 3 times that beside other work.
With three seeds each in three worlds that would be 66. So worlds and seeds are thinned. A task is measured in the first
of the plan's worlds that knows it, which says what is true of it; every eighth also in the others, to compare worlds
on the same tasks. Every eighth has three seeds in its own world, the others the first alone: tolerances come from
those with three. That makes 11 hours of one quiet core. Runs are never shortened.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib

from metainf import __version__
from metainf.corpus.design import designed_tasks
from metainf.corpus.measuring import is_known, measured_task
from metainf.corpus.task import Task
from metainf.corpus.task_store import read_tasks, write_tasks
from metainf.corpus.worlds import StepOracle
from metainf.errors import InvalidWorkloadError
from metainf.measurements import Measurement, table_of, write_measurements

__all__ = [
    "MANIFEST",
    "TASKS",
    "CorpusPlan",
    "Progress",
    "Shard",
    "build",
    "corpus_digest",
    "missing_shards",
    "read_plan",
    "shards_of",
]

MANIFEST = "corpus.json"
TASKS = "tasks.parquet"
_LOCK = ".lock"
_SCHEMA = 3
_NOT_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9.]+")

Measure = Callable[..., list[Measurement]]
"""As `measured_task`: a task, an oracle, and `repeats`."""


@dataclass(frozen=True, slots=True)
class CorpusPlan:
    """What a corpus is to hold."""

    tasks: int
    seed: int
    worlds: tuple[str, ...]
    """Names with versions, as `name@version`: of several the first that knows a task says what is true of it."""
    repeats: int = 3
    """Seeds of each task that is repeated."""
    repeated_every: int = 8
    """Every so many tasks one is repeated; the others have the first seed alone."""
    compared_every: int = 8
    """Every so many tasks one is measured in all worlds; the others in the first world alone that knows them."""
    shard_tasks: int = 100

    def repeats_of(self, task: Task) -> range:
        """The repeats of a task in the first world that knows it; in others it has the first alone.

        Picked by its key, since every so many points of the design are of one kind.
        """
        return range(self.repeats if int(task.key, 16) % self.repeated_every == 0 else 1)

    def is_compared(self, task: Task) -> bool:
        """Whether a task is measured in all worlds, by parts of its key that `repeats_of` does not use."""
        return int(task.key, 16) // self.repeated_every % self.compared_every == 0


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """A run of tasks in one world: what is worked on and written at a time."""

    first: int
    world: str

    @property
    def file_name(self) -> str:
        """Its file within the corpus."""
        return f"rows-{_NOT_IN_FILE_NAMES.sub('-', self.world)}-{self.first:06d}.parquet"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is; counts are shards."""

    done: int
    total: int
    here: int
    """Done by this build, not found."""
    elapsed_s: float

    @property
    def left_s(self) -> float | None:
        """Time that the rest takes at the pace so far; None before anything was done here."""
        return None if self.here == 0 else self.elapsed_s / self.here * (self.total - self.done)


def shards_of(plan: CorpusPlan) -> tuple[Shard, ...]:
    """All shards, in the order in which they are built: worlds side by side, so that any part is balanced."""
    names = _names(plan)
    return tuple(Shard(first, name) for first in range(0, plan.tasks, plan.shard_tasks) for name in names)


def _names(plan: CorpusPlan) -> list[str]:
    return [world.partition("@")[0] for world in plan.worlds]


def missing_shards(folder: Path, plan: CorpusPlan) -> tuple[Shard, ...]:
    """Shards that are not built yet."""
    return tuple(shard for shard in shards_of(plan) if not (folder / shard.file_name).exists())


def build(
    folder: Path,
    plan: CorpusPlan,
    oracles: Sequence[StepOracle],
    *,
    clock: Callable[[], float],
    n_jobs: int = 1,
    seconds: float | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    measure: Measure = measured_task,
) -> Progress:
    """Build what is missing of a corpus, and say how far it is.

    Parameters
    ----------
    clock : function
        Seconds that only rise.
    seconds : float, optional
        No shard is begun that would, at the pace so far, end after so long.
    measure : function
        What makes a task's rows; another one for tests.

    Raises
    ------
    InvalidWorkloadError
        The folder holds another corpus, or another build is at work in it.
    """
    by_name, names = {oracle.name: oracle for oracle in oracles}, _names(plan)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _claim(folder, plan)
        tasks = _tasks(folder, plan)
        missing, total = missing_shards(folder, plan), len(shards_of(plan))
        begun_s, here = clock(), 0

        def progress() -> Progress:
            return Progress(total - len(missing) + here, total, here, clock() - begun_s)

        def jobs() -> Iterator[Any]:
            for shard in missing:
                pace_s = (clock() - begun_s) / here * max(1, joblib.effective_n_jobs(n_jobs)) if here else 0.0
                if seconds is not None and clock() - begun_s + pace_s > seconds:
                    return
                part = tasks[shard.first : shard.first + plan.shard_tasks]
                known = tuple(by_name[name] for name in names[: names.index(shard.world) + 1])
                yield joblib.delayed(_measured)(shard, part, plan, known, measure)

        report(progress())
        parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)
        for shard, table in parallel(jobs()):
            _written_whole(folder / shard.file_name, partial(write_measurements, table))
            here += 1
            report(progress())
        return progress()


def _measured(
    shard: Shard, tasks: Sequence[Task], plan: CorpusPlan, oracles: Sequence[StepOracle], measure: Measure
) -> tuple[Shard, Any]:
    """The rows of one shard; runs in a worker. `oracles` are those of the worlds up to the shard's own."""
    *before, oracle = oracles
    rows: list[Measurement] = []
    for task in tasks:
        is_first = not any(is_known(task, other) for other in before)
        if is_first:
            rows += measure(task, oracle, repeats=plan.repeats_of(task))
        elif plan.is_compared(task):
            rows += measure(task, oracle, repeats=range(1))
    return shard, table_of(rows)


def read_plan(folder: Path) -> CorpusPlan:
    """The plan of a corpus.

    Raises
    ------
    InvalidWorkloadError
        The folder holds no corpus that this version reads.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != _SCHEMA:
            raise InvalidWorkloadError(f"{path} is of schema {document['schema']}, not {_SCHEMA}")
        return CorpusPlan(**{**document["plan"], "worlds": tuple(document["plan"]["worlds"])})
    except FileNotFoundError as error:
        raise InvalidWorkloadError(f"{folder} holds no corpus: build one with metainf corpus build") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidWorkloadError):
            raise
        raise InvalidWorkloadError(f"{path} is no manifest of a corpus: {error}") from error


def corpus_digest(folder: Path) -> str:
    """SHA-256 over the corpus's manifest, tasks and rows, by file name."""
    digest = hashlib.sha256()
    for path in [folder / MANIFEST, folder / TASKS, *sorted(folder.glob("rows-*.parquet"))]:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return "sha256:" + digest.hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which the system lets go when its holder dies."""
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidWorkloadError(f"another build is at work in {folder}") from error
        yield


def _claim(folder: Path, plan: CorpusPlan) -> None:
    """Write the manifest, or find that the one there asks for the same."""
    versions = {"metainf": __version__, **{name: version(name) for name in ("numba", "numpy", "pyarrow", "scipy")}}
    wanted = {"schema": _SCHEMA, "plan": {**asdict(plan), "worlds": list(plan.worlds)}, "versions": versions}
    path = folder / MANIFEST
    if not path.exists():
        text = json.dumps(wanted, indent=2, sort_keys=True) + "\n"
        _written_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return
    found = read_plan(folder)
    for name, value in asdict(plan).items():
        if getattr(found, name) != value:
            raise InvalidWorkloadError(
                f"{folder} holds a corpus with {name} {getattr(found, name)}, not {value}: give another folder"
            )


def _tasks(folder: Path, plan: CorpusPlan) -> tuple[Task, ...]:
    path = folder / TASKS
    if not path.exists():
        tasks = designed_tasks(plan.tasks, seed=plan.seed)
        _written_whole(path, lambda temporary: write_tasks(tasks, temporary))
    return read_tasks(path)


def _written_whole(path: Path, write: Callable[[Path], object]) -> None:
    """The file appears at once with all that is in it, or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    write(temporary)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(path)
