"""Which options are best on real servers: measured rows that share model, GPU and load and differ in options alone.

Separate from the corpus, whose truth is simulated: nothing here is learnt or predicted, and the groups are few. Sources
are never mixed: a group is of one source, and the figures are made source by source. Options are what the source
varies: flags for GPUStack, precision and layout for the silicon sample, layouts for LLM-Inference-Bench, methods for
our own runs. Rows of one group have the same version of vLLM and the same lengths, and where the layout is no option
the same number of accelerators.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metainf.corpus.public_rows import PLAIN, argonne_measurements, gpustack_measurements, silicon_measurements
from metainf.errors import InvalidWorkloadError
from metainf.evaluation.bootstrap import GroupDraws, Interval, interval_of_sums
from metainf.layouts import Layout
from metainf.measurements import Source, read_measurements, table_of
from metainf.selectors.contract import FloatArray

__all__ = [
    "LEAST_GROUPS_FOR_AIMS",
    "MeasuredGroup",
    "MeasuredSummary",
    "OptionFigures",
    "best_options",
    "groups_with_rows",
    "mean_over_models",
    "ratio_over_models",
    "read_measured",
    "repeat_deviation",
]

LEAST_GROUPS_FOR_AIMS = 50
_TOLERANCE = 0.02
_LAYOUT_IS_OPTION = frozenset({Source.SILICON, Source.ARGONNE})
_READERS = {
    "gpustack_perflab.csv": gpustack_measurements,
    "llm_inference_bench_all.csv": argonne_measurements,
    "silicon_sample.csv": silicon_measurements,
}


@dataclass(frozen=True, slots=True)
class MeasuredGroup:
    """Performance of each option, higher is better; repeats of one are averaged.

    Output tokens per second of an accelerator, or what the row itself gives as its performance.
    """

    source: str
    model: str
    gpu: str
    load: str
    performance: Mapping[str, float]
    tolerance: float
    """Relative: the larger of 2 % and twice the standard deviation of its repeats, pooled over its options, or without
    any the median of its source's."""

    @property
    def best(self) -> tuple[str, ...]:
        """The options within the tolerance of the fastest."""
        most = max(self.performance.values())
        return tuple(o for o, rate in self.performance.items() if rate >= most * (1.0 - self.tolerance))


@dataclass(frozen=True, slots=True)
class OptionFigures:
    """One option over the groups that have it.

    `best_share` is of these groups; `over_plain` the geometric mean of its performance over that without flags, NaN
    where no group has both.
    """

    option: str
    groups: int
    best_share: Interval
    over_plain: Interval


@dataclass(frozen=True, slots=True)
class MeasuredSummary:
    """All options of one source, the most often measured first. Below 50 groups no aim binds."""

    groups: int
    plain_is_best_share: Interval
    options: tuple[OptionFigures, ...]
    repeat_deviation: float
    """Relative standard deviation of repeats, the median over what was repeated; NaN where nothing was."""

    @property
    def aims_bind(self) -> bool:
        """Whether there are groups enough to hold a figure against an aim."""
        return self.groups >= LEAST_GROUPS_FOR_AIMS


def read_measured(path: Path) -> pa.Table:
    """The measurement table of a published set, by the name of its file, or of rows that were kept as Parquet.

    Raises
    ------
    InvalidWorkloadError
        It is neither, or a line of it is malformed.
    MeasurementError
        The Parquet file is damaged.
    """
    if path.suffix == ".parquet":
        return read_measurements(path)
    if path.name not in _READERS:
        known = ", ".join(_READERS)
        raise InvalidWorkloadError(f"{path}: measured rows are *.parquet of the measurement table, or one of {known}")
    return table_of(_READERS[path.name](path))


def groups_with_rows(table: pa.Table) -> tuple[tuple[MeasuredGroup, Mapping[str, Mapping[str, Any]]], ...]:
    """The groups with two options or more, each with the first row of every option: how it was run.

    Sorted by source, model, GPU and load; simulated rows are left out.
    """
    rates: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    first: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in table.to_pylist():
        performance = _performance(row)
        if row["source"] != Source.SIMULATION and performance > 0.0:
            rates[_key(row)][_option(row)].append(performance)
            first[_key(row)].setdefault(_option(row), row)
    usual = {source: _usual_deviation(rates, source) for source in {key[0] for key in rates}}
    several = [key for key in sorted(rates) if len(rates[key]) > 1]
    return tuple((_group(key, rates[key], usual[key[0]]), first[key]) for key in several)


def best_options(
    groups: Sequence[MeasuredGroup], *, repeat_deviation: float = math.nan, seed: int = 0
) -> MeasuredSummary:
    """How often each option is among the best, and how much faster than without flags, with 95 % intervals.

    Whole models are drawn: the loads of one model on one GPU are no independent groups.
    """
    options = sorted({o for group in groups for o in group.performance})
    figures = [_option_figures(option, groups, seed) for option in options]
    plain = [group for group in groups if PLAIN in group.performance]
    return MeasuredSummary(
        groups=len(groups),
        plain_is_best_share=mean_over_models([float(PLAIN in group.best) for group in plain], plain, seed),
        options=tuple(sorted(figures, key=lambda each: (-each.groups, each.option))),
        repeat_deviation=repeat_deviation,
    )


def repeat_deviation(table: pa.Table) -> float:
    """Relative standard deviation of repeats of one option under one load, the median over those that were repeated."""
    repeats: dict[tuple[tuple[str, ...], str], list[float]] = defaultdict(list)
    for row in table.to_pylist():
        repeats[_key(row), _option(row)].append(_performance(row))
    found = [deviation for values in repeats.values() if (deviation := _deviation(values)) is not None]
    return float(np.median(found)) if found else math.nan


def _performance(row: Mapping[str, Any]) -> float:
    """The row's own where it has one, else output tokens per second of an accelerator; 0 where it did not complete."""
    if row["performance"] is not None:
        return float(row["performance"])
    accelerators: int = row["tensor_parallel"] * row["pipeline_parallel"] * row["data_parallel"]
    return float(row["output_tokens_per_second"] or 0.0) / accelerators


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Source, model, GPU, load and versions; lengths to 10 tokens: those of equal random prompts differ by a few."""
    lengths = [row["input_tokens"] or 0.0, row["output_tokens"] or 0.0]
    inputs, outputs = (round(tokens, -1) or round(tokens) for tokens in lengths)
    if row["clients"] is not None:
        load = f"{row['clients']} at a time"
    elif row["batch_requests"] is not None:
        load = f"{row['batch_requests']} at once"
    else:
        load = f"{row['offered_requests_per_second'] or 0.0:g} a second"
    load += f", {inputs:g} in, {outputs:g} out"
    if row["source"] not in _LAYOUT_IS_OPTION:
        load += f", {_layout(row)}"
    return (
        row["source"],
        row["model"],
        row["accelerator"],
        load,
        row["task"],
        row["engine_version"],
        row["source_version"],
    )


def _option(row: Mapping[str, Any]) -> str:
    if row["source"] not in _LAYOUT_IS_OPTION:
        return str(row["method"])
    return _layout(row) if row["method"] == PLAIN else f"{row['method']}, {_layout(row)}"


def _layout(row: Mapping[str, Any]) -> str:
    return Layout(
        row["tensor_parallel"], row["pipeline_parallel"], row["data_parallel"], expert_parallel=row["expert_parallel"]
    ).name


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1) / np.mean(values)) if len(values) > 1 and np.mean(values) > 0.0 else None


def _pooled(options: Sequence[Sequence[float]]) -> float | None:
    """Relative standard deviation of repeats of all options together, by their degrees of freedom; None without any.

    The largest of several is one of the luckless: the more options, the wider it would be.
    """
    found = [(len(each) - 1, deviation) for each in options if (deviation := _deviation(each)) is not None]
    freedom = sum(count for count, _ in found)
    return math.sqrt(sum(count * deviation**2 for count, deviation in found) / freedom) if freedom else None


def _usual_deviation(rows: Mapping[tuple[str, ...], Mapping[str, Sequence[float]]], source: str) -> float:
    found = [_deviation(each) for key, options in rows.items() if key[0] == source for each in options.values()]
    known = [each for each in found if each is not None]
    return float(np.median(known)) if known else 0.0


def _group(key: tuple[str, ...], options: Mapping[str, Sequence[float]], usual: float) -> MeasuredGroup:
    own = _pooled(list(options.values()))
    return MeasuredGroup(
        source=key[0],
        model=key[1],
        gpu=key[2],
        load=key[3],
        performance={option: float(np.mean(rates)) for option, rates in sorted(options.items())},
        tolerance=max(_TOLERANCE, 2.0 * (usual if own is None else own)),
    )


def _option_figures(option: str, groups: Sequence[MeasuredGroup], seed: int) -> OptionFigures:
    having = [group for group in groups if option in group.performance]
    both = [group for group in having if PLAIN in group.performance]
    gains = [math.log(group.performance[option] / group.performance[PLAIN]) for group in both]
    return OptionFigures(
        option=option,
        groups=len(having),
        best_share=mean_over_models([float(option in group.best) for group in having], having, seed),
        over_plain=ratio_over_models(gains, both, seed),
    )


def ratio_over_models(logs: Iterable[float], groups: Sequence[MeasuredGroup], seed: int = 0) -> Interval:
    """The geometric mean over groups of ratios that are given as logarithms, with its interval over models."""
    found = mean_over_models(logs, groups, seed)
    return Interval(math.exp(found.value), math.exp(found.low), math.exp(found.high), found.groups)


def mean_over_models(values: Iterable[float], groups: Sequence[MeasuredGroup], seed: int = 0) -> Interval:
    """The mean over groups of a value of each, with a 95 % interval by draws of whole models."""
    if not groups:
        return Interval(math.nan, math.nan, math.nan)
    columns = np.stack([np.array(list(values)), np.ones(len(groups))], axis=1)
    draws = GroupDraws([np.array([group.model for group in groups], dtype=np.str_)], seed=seed)

    def mean(sums: FloatArray) -> FloatArray:
        return np.asarray(sums[..., 0] / sums[..., 1])

    return interval_of_sums(columns, mean, draws)
