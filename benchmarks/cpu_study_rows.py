"""A bench's folder of tables as questions with their truth: what `benchmarks/cpu_study.py` judges predictors by.

Separate from the judging. The tasks are those of `metainf bench`: their models are none of the bundled ones, so that
replicas are made here, with the cache and the context that the servers were told.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from metainf.accelerators import Accelerator, get
from metainf.architecture import ModelArchitecture
from metainf.bench.small_models import small_model
from metainf.corpus.repeats import tolerances
from metainf.corpus.task import Task, TrafficKind
from metainf.corpus.task_store import read_tasks
from metainf.measurements import Purpose, read_measurements
from metainf.meta_features.methods import method_features
from metainf.meta_features.pairs import PAIR_FEATURES, pair_table
from metainf.meta_features.questions import QuestionFeatures
from metainf.meta_features.tasks import TASK_COLUMNS, TASK_FEATURES
from metainf.methods import Method, applicable, effective_settings, portfolio
from metainf.predictors.contract import FloatArray, Question, ReplicaSpec
from metainf.selectors.contract import MethodTable, TaskTable

__all__ = ["Study", "Truth", "read_study"]

_SIZES = {"K": 2**10, "M": 2**20, "G": 2**30}
_COLUMNS = ("ttft_mean_s", "tpot_mean_s", "output_tokens_per_second")


@dataclass(frozen=True)
class Truth:
    """The tasks of one kind of load.

    Attributes
    ----------
    questions : by (task, method), where the method can serve
    performance : array of shape (n, m), geometric mean over blocks relative to the default's; NaN where not measured
    figures : array of shape (n, m, 3), medians over repeats of TTFT (s), TPOT (s), output tokens per second
    """

    kind: TrafficKind
    tasks: tuple[Task, ...]
    methods: tuple[Method, ...]
    questions: Mapping[tuple[int, int], Question]
    performance: FloatArray
    figures: FloatArray
    tolerance: FloatArray

    @property
    def model(self) -> np.ndarray:
        """Of each task."""
        return np.array([task.model for task in self.tasks], dtype=np.str_)

    def table(self) -> MethodTable:
        """As selectors take it."""
        return MethodTable(_task_table(self), self.performance, self.tolerance)


@dataclass(frozen=True)
class Study:
    """What a folder holds."""

    machine: Mapping[str, object]
    accelerator: Accelerator
    """The catalogue's device, cut down to what the machine has of it."""
    truths: Mapping[TrafficKind, Truth]


def read_study(folder: Path, accelerator: Accelerator | None = None) -> Study:
    """The study of a folder; `accelerator` replaces the datasheet's, as a calibration does."""
    document = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    machine, told = document["machine"], document["plan"]["server_arguments"]
    base = get(machine["accelerator"])
    assert base is not None, f"{machine['accelerator']} is in the catalogue"
    share = base
    if base.cpu is not None:
        share = base.cpu_share(machine["cores"], machine["memory_bytes"], machine["threads_per_core"])
    place = accelerator or share
    tasks = {task.key: task for task in read_tasks(folder / "tasks.parquet")}
    rows = read_measurements(folder / "measurements.parquet")
    rows = rows.filter(pc.equal(rows.column("purpose"), Purpose.SCORE.value)).to_pylist()
    limits = {
        "kv_cache_memory_bytes": _told(told, "--kv-cache-memory-bytes"),
        "max_model_len": _told(told, "--max-model-len"),
    }
    truths = {}
    for kind in TrafficKind:
        mine = tuple(task for task in tasks.values() if task.kind is kind)
        if mine:
            truths[kind] = _truth(kind, mine, [row for row in rows if row["kind"] == kind.value], place, limits)
    return Study(machine, share, truths)


def _told(arguments: Sequence[str], flag: str) -> int | None:
    """The value of a flag in bytes or tokens."""
    if flag not in arguments:
        return None
    text = arguments[list(arguments).index(flag) + 1]
    return int(text[:-1]) * _SIZES[text[-1].upper()] if text[-1].isalpha() else int(text)


def _truth(
    kind: TrafficKind,
    tasks: tuple[Task, ...],
    rows: Sequence[Mapping[str, object]],
    place: Accelerator,
    limits: Mapping[str, int | None],
) -> Truth:
    methods = portfolio(tasks[0].engine_version)
    places = {task.key: row for row, task in enumerate(tasks)}
    # A row's name may be an alias: the papers' second reading shares methods with the portfolio.
    columns = {name: column for column, each in enumerate(methods) for name in (each.name, *each.aliases)}
    repeats = 1 + max((int(row["seed"]) for row in rows), default=0)
    by_repeat = np.full((len(tasks), len(methods), repeats), np.nan)
    values = np.full((len(tasks), len(methods), repeats, 3), np.nan)
    for row in rows:
        at = places[row["task"]], columns[row["method"]], int(row["seed"])
        by_repeat[at] = row["performance"]
        values[at] = [row[name] for name in _COLUMNS]
    default = next(column for column, each in enumerate(methods) if each.name == "default")
    figures = np.full(values.shape[:2] + values.shape[3:], np.nan)
    measured = ~np.isnan(by_repeat).all(axis=2)
    figures[measured] = np.nanmedian(values[measured], axis=1)
    questions = _questions(tasks, methods, place, limits, measured=measured)
    return Truth(
        kind, tasks, methods, questions, _relative(by_repeat, default), figures, tolerances(by_repeat, default)
    )


def _relative(by_repeat: FloatArray, default: int) -> FloatArray:
    """The default's geometric mean times each method's mean ratio to it within blocks."""
    logs = np.log(by_repeat)
    known = ~np.isnan(logs - logs[:, [default]])
    ratio = np.where(known, logs - logs[:, [default]], 0.0).sum(axis=2) / np.maximum(known.sum(axis=2), 1)
    own = ~np.isnan(logs[:, default])
    level = np.where(own, logs[:, default], 0.0).sum(axis=1) / np.maximum(own.sum(axis=1), 1)
    return np.where(known.any(axis=2), np.exp(ratio + level[:, None]), np.nan)


def _questions(
    tasks: Sequence[Task],
    methods: Sequence[Method],
    place: Accelerator,
    limits: Mapping[str, int | None],
    *,
    measured: np.ndarray,
) -> dict[tuple[int, int], Question]:
    """Only of what was measured: what was not cannot be judged. Equal replicas are one object."""
    architectures: dict[str, ModelArchitecture] = {}
    replicas: dict[tuple[str, str], ReplicaSpec | None] = {}
    found = {}
    for row, task in enumerate(tasks):
        architecture = architectures.setdefault(task.model, small_model(task.model).architecture)
        for column, each in enumerate(methods):
            if not measured[row, column]:
                continue
            key = (task.model, each.name)
            if key not in replicas:
                replicas[key] = _replica(each, architecture, place, task, limits)
            replica = replicas[key]
            if replica is not None:
                found[row, column] = Question(replica, task.traffic)
    return found


def _replica(
    each: Method, architecture: ModelArchitecture, place: Accelerator, task: Task, limits: Mapping[str, int | None]
) -> ReplicaSpec | None:
    length = limits["max_model_len"]
    conflicts = applicable(each, architecture, place, task.layout, task.engine_version, max_model_len=length)
    if any(conflict.reason.value != "SameAsDefault" for conflict in conflicts):
        return None
    settings = effective_settings(
        replace(each.settings, kv_cache_memory_bytes=limits["kv_cache_memory_bytes"]),
        architecture=architecture,
        accelerator=place,
        layout=task.layout,
        version=task.engine_version,
        max_model_len=length,
    )
    return ReplicaSpec(architecture, place, task.layout, settings)


def _task_table(truth: Truth) -> TaskTable:
    """The table of `metainf.meta_features.tasks`, of replicas that are made here."""
    n, m = len(truth.tasks), len(truth.methods)
    default = next(column for column, each in enumerate(truth.methods) if each.name == "default")
    asked = sorted(truth.questions)
    task_of, method_of = (np.array(each, dtype=np.intp) for each in zip(*asked, strict=True))
    base = {row: place for place, (row, column) in enumerate(asked) if column == default}
    base_of = np.array([base[row] for row in task_of], dtype=np.intp)
    found = pair_table(truth.tasks, [truth.questions[at] for at in asked], task_of, base_of, QuestionFeatures())
    features = np.zeros((n, len(TASK_FEATURES)))  # those of promises are 0 where there are none
    pairs, analytical = np.full((n, m, len(PAIR_FEATURES)), np.nan), np.full((n, m), np.nan)
    feasible = np.zeros((n, m), dtype=np.bool_)
    at = task_of, method_of
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
        default=default,
        model=truth.model,
        accelerator=np.array([task.accelerator for task in truth.tasks], dtype=np.str_),
        workload=np.array([task.origin for task in truth.tasks], dtype=np.str_),
    )
