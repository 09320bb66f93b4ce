"""What repeats say of methods on a task: performance, ratio to the default, and which differences are shown.

Separate from the tables and pictures that show it, and from the noise (`metainf.bench.noise`). Methods are compared
within a block, which ran together: the ratio to the default is the mean over blocks of log(P / P[default]). A method
wins on a task where it is shown to be faster than the default; which of two such is the faster is not claimed.

Selection's tolerance stands beside that, since predictors are judged by it: the larger of 2 % and twice the standard
deviation over blocks, in the median over a task's methods. It is of one block, and knows of no other tasks.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from metainf.bench.design import BenchLoad, BenchTask
from metainf.bench.ledger import Ledger
from metainf.bench.noise import Effect, Mean, Noise, noise_of, together
from metainf.bench.records import Outcome, RunRecord
from metainf.corpus.repeats import log_ratios, tolerances
from metainf.corpus.task import TrafficKind
from metainf.methods import Reading, method, published
from metainf.selectors.contract import BoolArray, FloatArray

__all__ = [
    "ALL_TRAFFICS",
    "DEFAULT",
    "Comparison",
    "Effects",
    "MethodKind",
    "PublishedRatio",
    "compared",
    "kind_of",
    "latencies_compared",
    "noise_of_all",
    "performance_of",
    "published_ratios",
]

DEFAULT = "default"
ALL_TRAFFICS = "all traffics"

Effects = Mapping[tuple[str, str], Effect]
"""By row of a table, which is a task's key or a traffic, and method; not of the default, nor of what did not run."""


class MethodKind(StrEnum):
    """Methods whose noise is pooled: what makes them noisy is alike."""

    BATCHING = "batching"
    SPECULATION = "speculation"  # how much is accepted varies with what was drawn
    ONE_AT_A_TIME = "one request at a time"


def kind_of(name: str) -> MethodKind:
    """The kind of a method."""
    settings = method(name).settings
    if settings.max_num_seqs == 1:
        return MethodKind.ONE_AT_A_TIME
    return MethodKind.BATCHING if settings.speculation is None else MethodKind.SPECULATION


@dataclass(frozen=True, eq=False)  # no slots: what is derived is kept
class Comparison:
    """Tasks under all methods by one figure: performance, or a latency.

    Attributes
    ----------
    by_repeat : array of shape (n, m, repeats)
        The figure; 0 where a run did not complete, NaN where there was none.
    """

    tasks: tuple[BenchTask, ...]
    methods: tuple[str, ...]
    by_repeat: FloatArray
    noise: Noise

    @property
    def default(self) -> int:
        """Column of vLLM's default."""
        return self.methods.index(DEFAULT)

    @property
    def others(self) -> tuple[str, ...]:
        """The methods but for the default."""
        return tuple(name for name in self.methods if name != DEFAULT)

    @property
    def repeats(self) -> int:
        """Most blocks of a task."""
        return int(self.by_repeat.shape[2])

    @cached_property
    def log_ratios(self) -> FloatArray:
        """log(P / P[default]) by block, shape (n, m, repeats); NaN where one of the two did not complete."""
        return log_ratios(self.by_repeat, self.default)

    @cached_property
    def ratio(self) -> FloatArray:
        """P / P[default], the geometric mean over blocks, shape (n, m); NaN where a run of the method failed."""
        logs = self.log_ratios
        known = ~np.isnan(logs)
        mean = np.where(known, logs, 0.0).sum(axis=2) / np.maximum(known.sum(axis=2), 1)
        failed = np.any(self.by_repeat == 0.0, axis=2)
        return np.where(known.any(axis=2) & ~failed, np.exp(mean), np.nan)

    @cached_property
    def tolerance(self) -> FloatArray:
        """Selection's, shape (n,): relative difference below which two methods count as equal to a predictor."""
        return tolerances(self.by_repeat, self.default)

    def decisive(self) -> tuple[bool, ...]:
        """Whether the default is worse than the best by more than twice the tolerance, by task."""
        best = [float(np.nanmax(row)) if np.isfinite(row).any() else math.nan for row in self.ratio]
        return tuple(b * (1.0 - 2.0 * t) > 1.0 for b, t in zip(best, self.tolerance, strict=True))

    def by_task(self) -> Effects:
        """Every method on every task."""
        here = np.eye(len(self.tasks), dtype=np.bool_)
        return self._effects({task.key: here[row] for row, task in enumerate(self.tasks)})

    def by_traffic(self) -> Effects:
        """Every method in the mean over the tasks of a traffic, and of all where there are several."""
        traffics = np.array([task.traffic for task in self.tasks])
        rows = {name: traffics == name for name in dict.fromkeys(task.traffic for task in self.tasks)}
        if len(rows) > 1:
            rows[ALL_TRAFFICS] = np.ones(len(self.tasks), dtype=np.bool_)
        return self._effects(rows)

    def _effects(self, rows: Mapping[str, BoolArray]) -> Effects:
        means: dict[tuple[str, str], Mean] = {}
        for row, tasks in rows.items():
            for name in self.others:
                mean = self.mean(tasks, name)
                if mean is not None:
                    means[row, name] = mean
        return together(means)

    def mean(self, tasks: BoolArray, name: str) -> Mean | None:
        """A method's mean over those of the tasks on which all its runs completed; None where there are none.

        The freedom is the least of its tasks', since those of a model share an estimate.
        """
        column = self.methods.index(name)
        ratio, noise = self.ratio[:, column], self.noise
        known = tasks & np.isfinite(ratio)
        count = int(known.sum())
        if not count:
            return None
        blocks = (~np.isnan(self.log_ratios[known, column])).sum(axis=1)
        variance = noise.deviation[known, column] ** 2 / blocks
        return Mean(
            log=float(np.log(ratio[known]).mean()),
            error=math.sqrt(float(variance.sum())) / count,
            freedom=float(noise.freedom[known, column].min()),
            tasks=count,
            blocks=int(blocks.sum()),
        )

    def rows(self, mine: BoolArray) -> "Comparison":
        """Some of the tasks; their noise is what all of them say."""
        tasks = tuple(task for task, taken in zip(self.tasks, mine, strict=True) if taken)
        return Comparison(tasks, self.methods, self.by_repeat[mine], self.noise.rows(mine))

    def own_noise(self, model: str, kind: MethodKind) -> FloatArray:
        """Standard deviations over the blocks of each task of a model and method of a kind, one after another."""
        found = self.noise.own[self._cells(model, kind)]
        return np.asarray(found[~np.isnan(found)])

    def pooled_noise(self, model: str, kind: MethodKind) -> float:
        """Their pool; NaN where there are no such tasks or methods, or nothing was repeated."""
        found = self.noise.of_kind[self._cells(model, kind)]
        return float(found[0]) if len(found) else math.nan

    def _cells(self, model: str, kind: MethodKind) -> BoolArray:
        rows = np.array([task.model == model for task in self.tasks], dtype=np.bool_)
        columns = np.array([name != DEFAULT and kind_of(name) is kind for name in self.methods], dtype=np.bool_)
        return rows[:, None] & columns


def noise_of_all(found: Sequence[Comparison], model: str, kind: MethodKind) -> tuple[FloatArray, float]:
    """Standard deviations of single comparisons under all kinds of load, and their pool; NaN where there is none."""
    pools = (each.pooled_noise(model, kind) for each in found)
    pool = next((each for each in pools if math.isfinite(each)), math.nan)
    return np.concatenate([each.own_noise(model, kind) for each in found]), pool


@dataclass(frozen=True, slots=True)
class PublishedRatio:
    """One of the papers' rows over all combined, which is the default, at one number of requests at once."""

    reading: Reading
    row: str
    size: float
    effect: Effect
    """In the mean over `tasks`; its table is both readings at all sizes."""
    tasks: tuple[BenchTask, ...]


def published_ratios(found: Comparison) -> tuple[PublishedRatio, ...]:
    """The papers' rows over all combined, over the tasks that ran all four of a reading."""
    sizes = np.array([BenchLoad.parse(task.load).size for task in found.tasks])
    means: dict[tuple[Reading, float, str], Mean] = {}
    behind: dict[tuple[Reading, float], tuple[BenchTask, ...]] = {}
    for reading in Reading:
        names = {each.row: each.method.name for each in published(reading)}
        if not set(names.values()) <= set(found.methods):
            continue
        ran = np.isfinite(found.ratio[:, [found.methods.index(name) for name in names.values()]]).all(axis=1)
        for size in np.unique(sizes[ran]).tolist():
            mine = ran & (sizes == size)
            behind[reading, size] = tuple(task for task, taken in zip(found.tasks, mine, strict=True) if taken)
            for row, name in names.items():
                mean = None if name == DEFAULT else found.mean(mine, name)
                if mean is not None:
                    means[reading, size, row] = mean
    return tuple(
        PublishedRatio(reading, row, size, effect, behind[reading, size])
        for (reading, size, row), effect in together(means).items()
    )


def performance_of(record: RunRecord) -> float:
    """Output tokens per second of clients or of a rate, 1 / makespan of a batch; 0 where the run did not complete."""
    figures = record.figures
    if record.outcome is not Outcome.COMPLETED or figures is None:
        return 0.0
    is_batch = BenchLoad.parse(record.load).kind is TrafficKind.BATCH
    return 1.0 / figures.duration_s if is_batch else figures.output_tokens_per_second


def compared(ledger: Ledger) -> Mapping[TrafficKind, Comparison]:
    """The performance that a ledger holds, by kind of load; only tasks whose default ran.

    The noise is pooled over all kinds of load.
    """
    whole = _whole(ledger, performance_of)
    if whole is None:
        return {}
    kinds = [BenchLoad.parse(task.load).kind for task in whole.tasks]
    return {
        kind: whole.rows(np.array([each is kind for each in kinds], dtype=np.bool_))
        for kind in TrafficKind
        if kind in kinds
    }


def latencies_compared(ledger: Ledger, latency: str) -> Comparison | None:
    """A latency, a field of `LoadFigures`, under all kinds of load; below the default's is better."""

    def value(record: RunRecord) -> float:
        completed = record.outcome is Outcome.COMPLETED and record.figures is not None
        found = float(getattr(record.figures, latency)) if completed else math.nan
        return found if found > 0.0 else math.nan  # an answer of one token has no time between tokens

    return _whole(ledger, value)


def _whole(ledger: Ledger, value: Callable[[RunRecord], float]) -> Comparison | None:
    """All tasks whose default ran; None where there are none, or nothing to compare it with."""
    methods = ledger.plan.methods
    if DEFAULT not in methods or len(methods) < 2:
        return None
    by_task: dict[BenchTask, list[RunRecord]] = defaultdict(list)
    for record in ledger.latest():
        by_task[record.run.task].append(record)
    tasks = tuple(
        task
        for task, records in by_task.items()
        if any(each.method == DEFAULT and each.outcome is Outcome.COMPLETED for each in records)
    )
    if not tasks:
        return None
    by_repeat = np.full((len(tasks), len(methods), ledger.plan.repeats), np.nan)
    for row, task in enumerate(tasks):
        for record in by_task[task]:
            by_repeat[row, methods.index(record.method), record.repeat] = value(record)
    default = methods.index(DEFAULT)
    models, kinds = [task.model for task in tasks], [kind_of(name) for name in methods]
    noise = noise_of(log_ratios(by_repeat, default), models, kinds, default)
    return Comparison(tasks, methods, by_repeat, noise)
