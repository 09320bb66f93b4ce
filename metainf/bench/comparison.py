"""What repeats say of methods on a task: performance, ratio to the default, and how much of that is noise.

Separate from the tables and pictures that show it. Methods are compared within a block, which ran together: the ratio
to the default is the mean over blocks of log(P / P[default]), and its spread over blocks is the noise. The tolerance is
selection's: the larger of 2 % and twice the standard deviation of that, in the median over a task's methods. What is
within it of the best counts as equal, and the simplest of equals wins.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.bench.design import BenchLoad, BenchTask
from metainf.bench.ledger import Ledger
from metainf.bench.records import Outcome, RunRecord
from metainf.corpus.repeats import tolerances
from metainf.corpus.task import TrafficKind
from metainf.methods import Reading, method, published
from metainf.selectors.contract import FloatArray

__all__ = [
    "DEFAULT",
    "Comparison",
    "LatencyRatio",
    "PublishedRatio",
    "compared",
    "latency_ratios",
    "performance_of",
    "published_ratios",
]

DEFAULT = "default"
_T_95 = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t at 0.975 by the number of repeats."""
_LEAST_BLOCKS = 3
"""Two say little: their interval is thirteen standard errors wide."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The tasks of one kind of load under all methods.

    Attributes
    ----------
    by_repeat : array of shape (n, m, repeats)
        Performance; 0 where a run did not complete, NaN where there was none.
    tolerance : array of shape (n,)
        Relative difference below which two methods count as equal.
    """

    kind: TrafficKind
    tasks: tuple[BenchTask, ...]
    methods: tuple[str, ...]
    by_repeat: FloatArray
    tolerance: FloatArray

    @property
    def default(self) -> int:
        """Column of vLLM's default."""
        return self.methods.index(DEFAULT)

    @property
    def log_ratios(self) -> FloatArray:
        """log(P / P[default]) by block, shape (n, m, repeats); NaN where one of the two did not complete."""
        logs = np.log(np.where(self.by_repeat > 0.0, self.by_repeat, np.nan))
        return np.asarray(logs - logs[:, [self.default]])

    @property
    def ratio(self) -> FloatArray:
        """P / P[default], the geometric mean over blocks, shape (n, m); NaN where a run of the method failed."""
        logs = self.log_ratios
        known = ~np.isnan(logs)
        mean = np.where(known, logs, 0.0).sum(axis=2) / np.maximum(known.sum(axis=2), 1)
        failed = np.any(self.by_repeat == 0.0, axis=2)
        return np.where(known.any(axis=2) & ~failed, np.exp(mean), np.nan)

    @property
    def interval(self) -> FloatArray:
        """Half of the 95 % interval of log(P / P[default]), shape (n, m); NaN with fewer than three blocks."""
        logs = self.log_ratios
        count = (~np.isnan(logs)).sum(axis=2)
        mean = np.where(count > 0, np.nansum(logs, axis=2) / np.maximum(count, 1), np.nan)
        squares = np.nansum((logs - mean[:, :, None]) ** 2, axis=2)
        factor = np.vectorize(lambda n: _T_95.get(int(n), 1.96))(count) if count.size else count
        with np.errstate(divide="ignore", invalid="ignore"):
            half = factor * np.sqrt(squares / (count - 1) / count)
        return np.where(count >= _LEAST_BLOCKS, half, np.nan)

    @property
    def performance(self) -> FloatArray:
        """Ratio times the default's geometric mean, shape (n, m)."""
        works = np.where(self.by_repeat > 0.0, self.by_repeat, np.nan)[:, self.default]
        known = ~np.isnan(works)
        logs = np.log(np.where(known, works, 1.0)).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        return np.asarray(self.ratio * np.where(known.any(axis=1), np.exp(logs), np.nan)[:, None])

    def winners(self) -> tuple[int | None, ...]:
        """The simplest method within the tolerance of the best, by task; None where nothing ran."""
        complexity = [method(name).complexity for name in self.methods]
        found: list[int | None] = []
        for row, tolerance in zip(self.ratio, self.tolerance, strict=True):
            if not np.isfinite(row).any():
                found.append(None)
                continue
            least = np.nanmax(row) * (1.0 - tolerance)
            close = [place for place, value in enumerate(row) if value >= least]
            found.append(min(close, key=lambda place: (complexity[place], place)))
        return tuple(found)

    def decisive(self) -> tuple[bool, ...]:
        """Whether the default is worse than the best by more than twice the tolerance, by task."""
        best = [float(np.nanmax(row)) if np.isfinite(row).any() else math.nan for row in self.ratio]
        return tuple(b * (1.0 - 2.0 * t) > 1.0 for b, t in zip(best, self.tolerance, strict=True))


@dataclass(frozen=True, slots=True)
class PublishedRatio:
    """One of the papers' rows over all combined, at one size of batch."""

    reading: Reading
    row: str
    size: float
    ratio: float
    """Geometric mean over tasks and repeats."""
    interval: float
    """Half of the 95 % interval of its logarithm over repeats; NaN with fewer than three."""


def published_ratios(found: Comparison) -> tuple[PublishedRatio, ...]:
    """The papers' four rows over all combined, which is the default, over the tasks that ran all four."""
    sizes = np.array([BenchLoad.parse(task.load).size for task in found.tasks])
    ratios = []
    for reading in Reading:
        rows = published(reading)
        if not {row.method.name for row in rows} <= set(found.methods):
            continue
        columns = [found.methods.index(row.method.name) for row in rows]
        ran = np.isfinite(found.ratio[:, columns]).all(axis=1)
        for size in np.unique(sizes[ran]):
            mine = ran & (sizes == size)
            for row, column in zip(rows, columns, strict=True):
                ratios.append(PublishedRatio(reading, row.row, float(size), *_over_repeats(found, mine, column)))
    return tuple(ratios)


def _over_repeats(found: Comparison, tasks: NDArray[np.bool_], column: int) -> tuple[float, float]:
    """The mean over tasks of each repeat in which all of them ran, and what these come to."""
    logs = found.log_ratios[tasks, column]
    whole = logs[:, ~np.isnan(logs).any(axis=0)].mean(axis=0)
    count = len(whole)
    half = (
        _T_95.get(count, 1.96) * float(np.std(whole, ddof=1)) / math.sqrt(count) if count >= _LEAST_BLOCKS else math.nan
    )
    return math.exp(float(whole.mean())), half


@dataclass(frozen=True, slots=True)
class LatencyRatio:
    """A latency under a method over the default's, in the blocks of one traffic."""

    traffic: str
    method: str
    blocks: int
    ratio: float
    """Geometric mean; below 1 is better."""
    interval: float
    """Half of the 95 % interval of its logarithm over blocks; NaN with fewer than three."""

    @property
    def differs(self) -> bool:
        """Whether 1 lies outside of the interval."""
        return math.isfinite(self.interval) and abs(math.log(self.ratio)) > self.interval


def latency_ratios(ledger: Ledger, latency: str) -> tuple[LatencyRatio, ...]:
    """Every method's `latency`, a field of `LoadFigures`, over the default's; runs of both must have completed."""
    values: dict[tuple[BenchTask, int], dict[str, float]] = defaultdict(dict)
    for record in ledger.latest():
        if record.outcome is Outcome.COMPLETED and record.figures is not None:
            values[record.run.task, record.repeat][record.method] = getattr(record.figures, latency)
    logs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (task, _), block in values.items():
        for name, value in block.items():
            if name != DEFAULT and block.get(DEFAULT, 0.0) > 0.0 and value > 0.0:
                logs[task.traffic, name].append(math.log(value / block[DEFAULT]))
    return tuple(_latency_ratio(traffic, name, np.array(found)) for (traffic, name), found in logs.items())


def _latency_ratio(traffic: str, name: str, logs: FloatArray) -> LatencyRatio:
    count = len(logs)
    half = math.nan
    if count >= _LEAST_BLOCKS:
        half = _T_95.get(count, 1.96) * float(np.std(logs, ddof=1)) / math.sqrt(count)
    return LatencyRatio(traffic, name, count, math.exp(float(logs.mean())), half)


def performance_of(record: RunRecord) -> float:
    """Output tokens per second of clients or of a rate, 1 / makespan of a batch; 0 where the run did not complete."""
    figures = record.figures
    if record.outcome is not Outcome.COMPLETED or figures is None:
        return 0.0
    is_batch = BenchLoad.parse(record.load).kind is TrafficKind.BATCH
    return 1.0 / figures.duration_s if is_batch else figures.output_tokens_per_second


def compared(ledger: Ledger) -> Mapping[TrafficKind, Comparison]:
    """The comparisons that a ledger holds, by kind of load; only tasks whose default ran."""
    if DEFAULT not in ledger.plan.methods:
        return {}
    by_kind: dict[TrafficKind, dict[BenchTask, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in ledger.latest():
        by_kind[BenchLoad.parse(record.load).kind][record.run.task].append(record)
    found = {}
    for kind in TrafficKind:
        tasks = {
            task: records
            for task, records in by_kind[kind].items()
            if any(r.method == DEFAULT and r.outcome is Outcome.COMPLETED for r in records)
        }
        if tasks:
            found[kind] = _comparison(kind, tasks, ledger.plan.methods, ledger.plan.repeats)
    return found


def _comparison(
    kind: TrafficKind, tasks: Mapping[BenchTask, Sequence[RunRecord]], methods: Sequence[str], repeats: int
) -> Comparison:
    by_repeat = np.full((len(tasks), len(methods), repeats), np.nan)
    for row, records in enumerate(tasks.values()):
        for record in records:
            by_repeat[row, methods.index(record.method), record.repeat] = performance_of(record)
    tolerance = tolerances(by_repeat, methods.index(DEFAULT))
    return Comparison(kind, tuple(tasks), tuple(methods), by_repeat, tolerance)
