"""Builds a corpus: shards of tasks through the simulator, in parallel, into files that a kill cannot harm.

Separate from what is measured (`measuring`): this knows files, processes and time, and nothing of methods.

A corpus is a folder: `corpus.json` (what was asked for, and digests of what made it), `tasks.parquet` (with the worlds
that measure each), and a Parquet file for each world and run of tasks, `rows-<world>-<first task>.parquet`. A file
appears whole or not at all, so that an interrupted build goes on with what is missing; each holds the same rows
whatever else was built, by how many processes, and when. Work goes through joblib, whatever its backend (`backends` has
Dask's): rows come back to the one process that writes.

Rows of one corpus are made by one state of the code and of measured tables (see `provenance`): a build that would go on
with another is refused, unless it is told to mix them, which the manifest then says. One stops as well when its own
sources change while it works, since its processes may load either. Which worlds measure a task is settled once, at the
start: a store of tables that grew would otherwise give tasks to two worlds, or to none.

What it costs. Of 160 tasks of the design one seed took 3.1 s of a core where a rate is searched, 1.0 with a closed
loop and 0.25 for a batch, in the mean, more than half of it in the fifteen dearest: 20,000 tasks are 8 hours of one
core, and with three seeds each in three worlds 72. So worlds, seeds and methods are thinned, and runs never shortened.

- A task is measured in the first of the plan's worlds that knows it, which says what is true of it.
- Every so many (`whole_every`) are measured under all methods: what selectors are judged on, and learn from as tables.
  The others have the default and a few that are drawn for each: what a predictor learns of, to whom one more method of
  the same task says less than another task does.
- Of the whole ones some are measured in all worlds, to compare worlds on the same tasks, and some with several seeds in
  their own world: tolerances come from these.

Twins of a group (see `design`) are all whole or none, all repeated or none, and all compared or none, and when few
methods are drawn, it is in the same order.
"""

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import joblib

from metainf.corpus.design import designed_tasks
from metainf.corpus.measuring import is_known, measured_task
from metainf.corpus.provenance import Provenance, provenance_of
from metainf.corpus.task import Task
from metainf.corpus.task_store import read_tasks, read_worlds, write_tasks
from metainf.corpus.whole_files import written_whole
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
    "read_made_by",
    "read_plan",
    "shards_of",
    "world_names",
]

MANIFEST = "corpus.json"
TASKS = "tasks.parquet"
_LOCK = ".lock"
_SCHEMA = 5
_NOT_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9.]+")

T = TypeVar("T")

Measure = Callable[..., list[Measurement]]
"""As `measured_task`: a task, an oracle, `repeats` and `most_methods`."""


@dataclass(frozen=True, slots=True)
class CorpusPlan:
    """What a corpus is to hold."""

    tasks: int
    seed: int
    worlds: tuple[str, ...]
    """Names with versions, as `name@version`: of several the first that knows a task says what is true of it."""
    repeats: int = 3
    """Seeds of each task that is repeated."""
    repeated_every: int = 16
    """Every so many whole tasks one is repeated; the others have the first seed alone."""
    compared_every: int = 8
    """Every so many whole tasks one is measured in all worlds; the others in the first world alone that knows them."""
    whole_every: int = 1
    """Every so many tasks one is whole: measured under all methods that are feasible."""
    few_methods: int = 4
    """Of those that are not whole, with the default."""
    shard_tasks: int = 100

    def is_whole(self, task: Task) -> bool:
        """Whether a task is measured under all methods.

        Picked by what is drawn, since every so many points of the design are of one kind, and twins go together.
        """
        return int(task.draws_key, 16) % self.whole_every == 0

    def most_methods_of(self, task: Task) -> int | None:
        """How many methods a task is measured under; None for all."""
        return None if self.is_whole(task) else self.few_methods

    def repeats_of(self, task: Task) -> range:
        """The repeats of a task in the first world that knows it; in others it has the first alone."""
        is_repeated = self.is_whole(task) and int(task.draws_key, 16) // self.whole_every % self.repeated_every == 0
        return range(self.repeats if is_repeated else 1)

    def is_compared(self, task: Task) -> bool:
        """Whether a task is measured in all worlds, by parts of the same key that `repeats_of` does not use."""
        key = int(task.draws_key, 16) // (self.whole_every * self.repeated_every)
        return self.is_whole(task) and key % self.compared_every == 0


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
    names = world_names(plan)
    return tuple(Shard(first, name) for first in range(0, plan.tasks, plan.shard_tasks) for name in names)


def world_names(plan: CorpusPlan) -> list[str]:
    """Names of the plan's worlds without their versions, in its order."""
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
    allow_changed_code: bool = False,
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
    allow_changed_code : bool
        Go on with a corpus that other code or other tables began; the manifest then names both.

    Raises
    ------
    InvalidWorkloadError
        The folder holds another corpus, one that other code began, or another build is at work in it; or the sources
        changed meanwhile.
    """
    by_name, begun_s = {oracle.name: oracle for oracle in oracles}, clock()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        made_by = provenance_of(oracles)
        _claim(folder, plan, made_by, allow_changed_code=allow_changed_code)
        missing, total = missing_shards(folder, plan), len(shards_of(plan))
        worlds = [by_name[name] for name in world_names(plan)]
        tasks = _tasks(folder, plan, worlds, n_jobs, lambda: seconds is not None and clock() - begun_s > seconds)
        first_s, here = clock(), 0
        if tasks is None:
            return Progress(0, total, 0, first_s - begun_s)
        at_once = max(1, joblib.effective_n_jobs(n_jobs))  # here: jobs are made in threads that know no backend

        def progress() -> Progress:
            return Progress(total - len(missing) + here, total, here, clock() - first_s)

        def jobs() -> Iterator[Any]:
            for shard in missing:
                pace_s = (clock() - first_s) / here * at_once if here else 0.0
                if seconds is not None and clock() - begun_s + pace_s > seconds:
                    return
                part = tasks[shard.first : shard.first + plan.shard_tasks]
                yield joblib.delayed(_measured)(shard, part, plan, by_name[shard.world], measure)

        report(progress())
        parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)
        for shard, table in parallel(jobs()):
            _check_unchanged(folder, made_by)
            written_whole(folder / shard.file_name, partial(write_measurements, table))
            here += 1
            report(progress())
        return progress()


_Settled = tuple[Task, tuple[str, ...]]
"""A task, and the worlds in which it is measured, its own first."""


def _measured(
    shard: Shard, tasks: Sequence[_Settled], plan: CorpusPlan, oracle: StepOracle, measure: Measure
) -> tuple[Shard, Any]:
    """The rows of one shard; runs in a worker."""
    rows: list[Measurement] = []
    for task, worlds in tasks:
        if shard.world in worlds:
            repeats = plan.repeats_of(task) if shard.world == worlds[0] else range(1)
            rows += measure(
                task, oracle, repeats=repeats, most_methods=None if plan.is_whole(task) else plan.few_methods
            )
    return shard, table_of(rows)


def _worlds_of(tasks: Sequence[Task], plan: CorpusPlan, oracles: Sequence[StepOracle]) -> list[tuple[str, ...]]:
    """Of each task the first world that knows it, and all others that do where it is compared; runs in a worker."""

    def known(task: Task) -> Iterator[str]:
        return (oracle.name for oracle in oracles if is_known(task, oracle))

    return [tuple(islice(known(task), None if plan.is_compared(task) else 1)) for task in tasks]


def read_plan(folder: Path) -> CorpusPlan:
    """The plan of a corpus.

    Raises
    ------
    InvalidWorkloadError
        The folder holds no corpus that this version reads.
    """
    return _manifest(folder, lambda read: CorpusPlan(**{**read["plan"], "worlds": tuple(read["plan"]["worlds"])}))


def read_made_by(folder: Path) -> tuple[Provenance, ...]:
    """What made a corpus's rows: of one state of code and tables, or of several that someone allowed to be mixed.

    Raises
    ------
    InvalidWorkloadError
        The folder holds no corpus that this version reads.
    """
    return _manifest(folder, lambda read: tuple(Provenance.from_json(each) for each in read["made_by"]))


def _manifest(folder: Path, part: Callable[[Any], T]) -> T:
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != _SCHEMA:
            raise InvalidWorkloadError(f"{path} is of schema {document['schema']}, not {_SCHEMA}")
        return part(document)
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


def _claim(folder: Path, plan: CorpusPlan, made_by: Provenance, *, allow_changed_code: bool) -> None:
    """Write the manifest, or find that the one there asks for the same and was begun by the same."""
    path = folder / MANIFEST
    if not path.exists():
        _write_manifest(path, plan, (made_by,))
        return
    found = read_plan(folder)
    for name, value in asdict(plan).items():
        if getattr(found, name) != value:
            raise InvalidWorkloadError(
                f"{folder} holds a corpus with {name} {getattr(found, name)}, not {value}: give another folder"
            )
    before = read_made_by(folder)
    if made_by in before or not missing_shards(folder, plan):
        return
    if not allow_changed_code:
        raise InvalidWorkloadError(
            f"{folder} holds a corpus that other code or tables began, by {before[-1].differences(made_by)}: check out "
            "the commit that it was begun with, begin anew in another folder, or mix the two with --allow-changed-code"
        )
    _write_manifest(path, plan, (*before, made_by))


def _write_manifest(path: Path, plan: CorpusPlan, made_by: Sequence[Provenance]) -> None:
    document = {
        "schema": _SCHEMA,
        "plan": {**asdict(plan), "worlds": list(plan.worlds)},
        "made_by": [each.to_json() for each in made_by],
    }
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    written_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _check_unchanged(folder: Path, made_by: Provenance) -> None:
    changed = made_by.changed_files()
    if changed:
        raise InvalidWorkloadError(
            f"{changed[0]} changed while {folder} was being built: check out the commit that it was begun with and run "
            "the same command again; what is written is whole"
        )


def _tasks(
    folder: Path, plan: CorpusPlan, oracles: Sequence[StepOracle], n_jobs: int, is_over: Callable[[], bool]
) -> list[_Settled] | None:
    """The tasks of the corpus with their worlds, as they were settled when it was begun; None where time is over."""
    path = folder / TASKS
    if not path.exists():
        tasks = designed_tasks(plan.tasks, seed=plan.seed)
        worlds = _settled(tasks, plan, oracles, n_jobs, is_over)
        if len(worlds) < len(tasks):
            return None
        written_whole(path, lambda temporary: write_tasks(tasks, temporary, worlds))
    settled = read_worlds(path)
    return [(task, settled[task.key]) for task in read_tasks(path)]


def _settled(
    tasks: Sequence[Task], plan: CorpusPlan, oracles: Sequence[StepOracle], n_jobs: int, is_over: Callable[[], bool]
) -> list[tuple[str, ...]]:
    """The worlds of each task, or of the first of them where time is over: a world may have to sample what it knows."""

    def jobs() -> Iterator[Any]:
        for first in range(0, len(tasks), plan.shard_tasks):
            if is_over():
                return
            yield joblib.delayed(_worlds_of)(tasks[first : first + plan.shard_tasks], plan, oracles)

    parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator", pre_dispatch="n_jobs", batch_size=1)
    return [worlds for part in parallel(jobs()) for worlds in part]
