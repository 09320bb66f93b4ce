"""A bench's folder of tables as questions with their truth: what `benchmarks/cpu_study.py` judges predictors by.

Separate from the judging. The tasks are those of `metainf bench`: their models are none of the bundled ones, so that
replicas are made here, with the cache and the context that the servers were told. A rate is only offered there, never
searched for: it has no performance and is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from metainf.accelerators import Accelerator, get
from metainf.architecture import ModelArchitecture
from metainf.bench.comparison import DEFAULT
from metainf.bench.design import BenchLoad, BenchPlan, BenchTask
from metainf.bench.identity import Machine
from metainf.bench.ledger import read_ledger
from metainf.bench.rows import MEASUREMENTS, TASKS, task_of
from metainf.bench.small_models import small_model
from metainf.corpus.repeats import tolerances
from metainf.corpus.task import Task, TrafficKind
from metainf.corpus.task_store import read_tasks
from metainf.measurements import MeasurementError, read_measurements
from metainf.meta_features.methods import method_features
from metainf.meta_features.pairs import PAIR_FEATURES, pair_table
from metainf.meta_features.questions import QuestionFeatures
from metainf.meta_features.tasks import TASK_COLUMNS, TASK_FEATURES
from metainf.methods import Method, applicable, effective_settings, portfolio
from metainf.predictors.contract import FloatArray, Question, ReplicaSpec
from metainf.selectors.contract import MethodTable, TaskTable
from metainf.selectors.targets import mean_or_nan

__all__ = ["Study", "Truth", "medians", "over_repeats", "read_study"]

_SIZES = {"K": 2**10, "M": 2**20, "G": 2**30}
_COLUMNS = ("ttft_mean_s", "tpot_mean_s", "output_tokens_per_second")
_KINDS = (TrafficKind.CONCURRENCY, TrafficKind.BATCH)


@dataclass(frozen=True)
class Truth:
    """The tasks of one kind of load whose default ran.

    Attributes
    ----------
    sent : the n tasks as the bench's plan has them
    questions : by (task, method), where the method can serve
    performance : array of shape (n, m)
        As `over_repeats` makes it; 0 where a run did not complete, NaN where there was none.
    figures : array of shape (n, m, 3), medians over repeats of TTFT (s), TPOT (s), output tokens per second
    rounds : array of shape (n, m, repeats), how often each run sent its load; 0 where there was no run
    unfinished : task and method of the pairs of which a run did not complete
    """

    kind: TrafficKind
    tasks: tuple[Task, ...]
    sent: tuple[BenchTask, ...]
    methods: tuple[Method, ...]
    questions: Mapping[tuple[int, int], Question]
    performance: FloatArray
    figures: FloatArray
    tolerance: FloatArray
    rounds: np.ndarray
    unfinished: tuple[str, ...]
    plan: BenchPlan

    @property
    def model(self) -> np.ndarray:
        """Of each task."""
        return np.array([task.model for task in self.tasks], dtype=np.str_)

    @property
    def default(self) -> int:
        """Column of vLLM's default."""
        return _default(self.methods)

    def table(self) -> MethodTable:
        """As selectors take it."""
        return MethodTable(_task_table(self), self.performance, self.tolerance)


@dataclass(frozen=True)
class Study:
    """What a folder holds."""

    machine: Machine
    accelerator: Accelerator
    """The catalogue's device, cut down to what the machine has of it."""
    truths: Mapping[TrafficKind, Truth]
    left_out: tuple[str, ...]
    """Tasks with rows whose default never completed: nothing can be compared with it there."""


def read_study(folder: Path, accelerator: Accelerator | None = None) -> Study:
    """The study of a folder; `accelerator` replaces the datasheet's, as a calibration does.

    Raises
    ------
    InvalidWorkloadError
        The folder holds no bench.
    MeasurementError
        A table is damaged, or its tasks are not those that the plan comes to.
    """
    ledger = read_ledger(folder)
    machine = ledger.machine
    base = get(machine.accelerator)
    assert base is not None, f"{machine.accelerator} is in the catalogue"
    share = base
    if base.cpu is not None:
        share = base.cpu_share(machine.cores, machine.memory_bytes, machine.threads_per_core)
    # What a machine measured of itself, it measured with the core left out that a server keeps; a datasheet did not.
    cores = machine.cores if base.cpu is not None and accelerator is None else None
    replicas = _Replicas(accelerator or share, ledger.plan.server_arguments, cores)
    sent = {task_of(ledger, each).key: each for each in ledger.plan.tasks}
    tasks = read_tasks(folder / TASKS)
    strange = [task.key for task in tasks if task.key not in sent]
    if strange:
        raise MeasurementError(f"{folder}: task {strange[0]} is none of the plan's: its traffic is another one by now")
    rows = [row for row in read_measurements(folder / MEASUREMENTS).to_pylist() if row["kind"] in _KINDS]
    judged = {row["task"] for row in rows if row["method"] == DEFAULT and row["performance"] is not None}
    truths = {}
    for kind in _KINDS:
        mine = tuple(task for task in tasks if task.kind is kind and task.key in judged)
        if mine:
            bench_tasks = tuple(sent[task.key] for task in mine)
            truths[kind] = _truth(kind, mine, bench_tasks, rows, plan=ledger.plan, replicas=replicas)
    left_out = sorted({row["task"] for row in rows} - judged)
    return Study(machine, share, truths, tuple(sent[key].key for key in left_out))


def _truth(
    kind: TrafficKind,
    tasks: tuple[Task, ...],
    sent: tuple[BenchTask, ...],
    rows: Sequence[Mapping[str, Any]],
    *,
    plan: BenchPlan,
    replicas: "_Replicas",
) -> Truth:
    methods = portfolio(tasks[0].engine_version)
    places = {task.key: row for row, task in enumerate(tasks)}
    # A row's name may be an alias: the papers' second reading shares methods with the portfolio.
    columns = {name: column for column, each in enumerate(methods) for name in (each.name, *each.aliases)}
    shape = len(tasks), len(methods), plan.repeats
    by_repeat, values = np.full(shape, np.nan), np.full((*shape, len(_COLUMNS)), np.nan)
    rounds = np.zeros(shape, dtype=np.intp)
    for row in rows:
        if row["task"] not in places:
            continue
        at = places[row["task"]], columns[row["method"]], int(row["seed"])
        # A run that did not complete has no requests; what it sent is what others sent at least.
        rounds[at] = max(1, int(row["requests"]) // BenchLoad.parse(sent[at[0]].load).requests)
        if row["performance"] is None:
            by_repeat[at] = 0.0
        else:
            by_repeat[at] = row["performance"]
            values[at] = [np.nan if row[name] is None else row[name] for name in _COLUMNS]
    default = _default(methods)
    failed = np.argwhere(np.any(by_repeat == 0.0, axis=2)).tolist()
    return Truth(
        kind=kind,
        tasks=tasks,
        sent=sent,
        methods=methods,
        questions=_questions(tasks, methods, rounds.any(axis=2), replicas),
        performance=over_repeats(by_repeat, default),
        figures=medians(values),
        tolerance=tolerances(by_repeat, default),
        rounds=rounds,
        unfinished=tuple(f"{sent[row].key} {methods[column].name}" for row, column in failed),
        plan=plan,
    )


def _default(methods: Sequence[Method]) -> int:
    return next(column for column, each in enumerate(methods) if each.name == DEFAULT)


def over_repeats(by_repeat: FloatArray, default: int) -> FloatArray:
    """The default's geometric mean times each method's mean ratio to it within blocks, shape (n, m).

    0 where one of a method's runs failed; NaN where there was none. A method that never ran beside the default in one
    block counts by its own mean.

    Parameters
    ----------
    by_repeat : array of shape (n, m, repeats)
        Performance: 0 where a run failed, NaN where there was none.
    """
    logs = np.log(np.where(by_repeat > 0.0, by_repeat, np.nan))
    own = mean_or_nan(logs, axis=2)
    beside = mean_or_nan(logs - logs[:, [default]], axis=2) + own[:, [default]]
    found = np.exp(np.where(np.isnan(beside), own, beside))
    return np.where(np.any(by_repeat == 0.0, axis=2), 0.0, found)


def medians(values: FloatArray) -> FloatArray:
    """Medians over repeats of what is known, shape (n, m, k), from (n, m, repeats, k); NaN where nothing is."""
    by_figure = np.moveaxis(values, 2, 3)
    known = ~np.isnan(by_figure).all(axis=3)
    found = np.full(known.shape, np.nan)
    found[known] = np.nanmedian(by_figure[known], axis=1)
    return found


class _Replicas:
    """Replicas of small models with what the servers were told; equal ones are one object, whatever the load."""

    def __init__(self, place: Accelerator, arguments: Sequence[str], cpu_cores: float | None) -> None:
        self.place = place
        self.cpu_cores = cpu_cores
        self.kv_cache_memory_bytes = _told(arguments, "--kv-cache-memory-bytes")
        self.max_model_len = _told(arguments, "--max-model-len")
        self._architectures: dict[str, ModelArchitecture] = {}
        self._known: dict[tuple[str, str], ReplicaSpec | None] = {}

    def of(self, task: Task, each: Method) -> ReplicaSpec | None:
        """The replica that serves the task under the method; None where the method cannot serve."""
        key = task.model, each.name
        if key not in self._known:
            self._known[key] = self._made(task, each)
        return self._known[key]

    def _made(self, task: Task, each: Method) -> ReplicaSpec | None:
        if task.model not in self._architectures:
            self._architectures[task.model] = small_model(task.model).architecture
        architecture, length = self._architectures[task.model], self.max_model_len
        conflicts = applicable(each, architecture, self.place, task.layout, task.engine_version, max_model_len=length)
        if any(conflict.reason.value != "SameAsDefault" for conflict in conflicts):
            return None
        settings = effective_settings(
            replace(each.settings, kv_cache_memory_bytes=self.kv_cache_memory_bytes),
            architecture=architecture,
            accelerator=self.place,
            layout=task.layout,
            version=task.engine_version,
            max_model_len=length,
        )
        return ReplicaSpec(architecture, self.place, task.layout, settings, self.cpu_cores)


def _told(arguments: Sequence[str], flag: str) -> int | None:
    """The value of a flag in bytes or tokens."""
    if flag not in arguments:
        return None
    text = arguments[list(arguments).index(flag) + 1]
    return int(text[:-1]) * _SIZES[text[-1].upper()] if text[-1].isalpha() else int(text)


def _questions(
    tasks: Sequence[Task], methods: Sequence[Method], ran: np.ndarray, replicas: _Replicas
) -> dict[tuple[int, int], Question]:
    """Only of what ran: what did not cannot be judged."""
    found = {}
    for row, column in np.argwhere(ran).tolist():
        replica = replicas.of(tasks[row], methods[column])
        if replica is not None:
            found[row, column] = Question(replica, tasks[row].traffic)
    return found


def _task_table(truth: Truth) -> TaskTable:
    """The table of `metainf.meta_features.tasks`, of replicas that are made here."""
    n, m = len(truth.tasks), len(truth.methods)
    asked = sorted(truth.questions)
    task_of_pair, method_of = (np.array(each, dtype=np.intp) for each in zip(*asked, strict=True))
    base = {row: place for place, (row, column) in enumerate(asked) if column == truth.default}
    base_of = np.array([base[row] for row in task_of_pair], dtype=np.intp)
    questions = [truth.questions[at] for at in asked]
    found = pair_table(truth.tasks, questions, task_of_pair, base_of, QuestionFeatures())
    features = np.zeros((n, len(TASK_FEATURES)))  # those of promises are 0 where there are none
    pairs, analytical = np.full((n, m, len(PAIR_FEATURES)), np.nan), np.full((n, m), np.nan)
    feasible = np.zeros((n, m), dtype=np.bool_)
    at = task_of_pair, method_of
    pairs[at], analytical[at], feasible[at] = found.features, found.performance_log, True
    rows = np.array(sorted(base), dtype=np.intp)
    shared = found.question_features[[base[row] for row in rows]][:, TASK_COLUMNS]
    features[rows, : len(TASK_COLUMNS)] = shared
    return TaskTable(
        features=features,
        feature_names=tuple(f.name for f in TASK_FEATURES),
        methods=tuple(each.name for each in truth.methods),
        method_features=method_features(truth.methods),
        pair_features=pairs,
        pair_feature_names=tuple(f.name for f in PAIR_FEATURES),
        analytical=analytical,
        feasible=feasible,
        complexity=np.array([each.complexity for each in truth.methods], dtype=np.float64),
        default=truth.default,
        model=truth.model,
        accelerator=np.array([task.accelerator for task in truth.tasks], dtype=np.str_),
        workload=np.array([task.origin for task in truth.tasks], dtype=np.str_),
    )
