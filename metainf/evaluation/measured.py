"""Which options are best on real servers: measured rows that share model, GPU and load and differ in flags alone.

Separate from the corpus, whose truth is simulated: nothing here is learnt or predicted, and the groups are few. The
rows are GPUStack's performance lab (gpustack/gpustack, Apache-2.0). Only requests sent as fast as the server takes them
are read: at a rate below capacity every option delivers the rate. Rows of one group have the same version of vLLM, the
same number of GPUs and the same lengths; an FP8 or AWQ checkpoint of the model counts as an option of it.
"""

import csv
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metainf.evaluation.bootstrap import GroupDraws, Interval, interval_of_sums
from metainf.selectors.contract import FloatArray

__all__ = [
    "LEAST_GROUPS_FOR_AIMS",
    "PLAIN",
    "MeasuredGroup",
    "MeasuredSummary",
    "OptionFigures",
    "best_options",
    "gpustack_groups",
]

LEAST_GROUPS_FOR_AIMS = 50
PLAIN = "default"
"""No flag that changes speed."""
_TOLERANCE = 0.02
_NO_OPTION = frozenset(
    {
        "async-scheduling-off",
        "disable-log-requests",
        "enable-auto-tool-choice",
        "host",
        "language-model-only",
        "max-model-len",
        "model",
        "port",
        "reasoning-parser",
        "served-model-name",
        "tokenizer-mode",
        "tool-call-parser",
        "trust-remote-code",
    }
)
"""Flags that do not change how fast a request is served."""
_LAYOUT = frozenset({"tp", "tensor-parallel-size", "pp", "pipeline-parallel-size", "dp", "data-parallel-size"})
"""Each multiplies the GPUs."""
_FLAG = re.compile(r"(?<!\S)-{1,2}([a-z][\w-]*)(?:[= ]+((?!-)\S+))?")
_QUANTISED = re.compile(r"-(FP8|AWQ|NVFP4|FP4|GPTQ|INT4)\b", re.IGNORECASE)
_ENVIRONMENT = re.compile(r"export ([A-Z_]+=\S+)")


@dataclass(frozen=True, slots=True)
class MeasuredGroup:
    """Output tokens per second of each option; repeats of one are averaged."""

    model: str
    gpu: str
    load: str
    tokens_per_second: Mapping[str, float]
    tolerance: float
    """Relative: the larger of 2 % and twice the standard deviation of the repeats in it."""

    @property
    def best(self) -> tuple[str, ...]:
        """The options within the tolerance of the fastest."""
        most = max(self.tokens_per_second.values())
        return tuple(o for o, rate in self.tokens_per_second.items() if rate >= most * (1.0 - self.tolerance))


@dataclass(frozen=True, slots=True)
class OptionFigures:
    """One option over the groups that have it.

    `best_share` is of these groups; `over_plain` the geometric mean of its tokens per second over those without flags,
    NaN where no group has both.
    """

    option: str
    groups: int
    best_share: Interval
    over_plain: Interval


@dataclass(frozen=True, slots=True)
class MeasuredSummary:
    """All options, the most often measured first. Below 50 groups no aim binds."""

    groups: int
    plain_is_best_share: Interval
    options: tuple[OptionFigures, ...]

    @property
    def aims_bind(self) -> bool:
        """Whether there are groups enough to hold a figure against an aim."""
        return self.groups >= LEAST_GROUPS_FOR_AIMS


def gpustack_groups(path: Path) -> tuple[MeasuredGroup, ...]:
    """The groups of `gpustack_perflab.csv` with two options or more, sorted by model, GPU and load."""
    rows: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    seen = set()
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if not _usable(row):
                continue
            key, option = _key(row), _option(row["script"], row["tag"])
            measurement = (*key, option, row["out_tps"], row["dur_s"])
            if measurement not in seen:  # pages repeat the blocks of their baseline
                seen.add(measurement)
                rows[key][option].append(float(row["out_tps"]))
    return tuple(_group(key, rows[key]) for key in sorted(rows) if len(rows[key]) > 1)


def best_options(groups: Sequence[MeasuredGroup], *, seed: int = 0) -> MeasuredSummary:
    """How often each option is among the best, and how much faster than without flags, with 95 % intervals.

    Whole models are drawn: the loads of one model on one GPU are no independent groups.
    """
    options = sorted({o for group in groups for o in group.tokens_per_second})
    figures = [_option_figures(option, groups, seed) for option in options]
    plain = [group for group in groups if PLAIN in group.tokens_per_second]
    return MeasuredSummary(
        groups=len(groups),
        plain_is_best_share=_mean([float(PLAIN in group.best) for group in plain], plain, seed),
        options=tuple(sorted(figures, key=lambda each: (-each.groups, each.option))),
    )


def _usable(row: Mapping[str, str]) -> bool:
    limited = "RPS" in row["profile"] or "Rate" in row["sub"]
    return row["engine"] == "vllm" and not limited and bool(row["out_tps"]) and bool(row["ok"])


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    """Model, GPU, load and version. Lengths are to 10 tokens: those of equal random prompts differ by a few."""
    requests = float(row["ok"])
    lengths = [float(row[name]) / requests for name in ("in_tok", "out_tok")]
    inputs, outputs = (round(tokens, -1) or round(tokens) for tokens in lengths)
    gpus = math.prod(int(value) for name, value in _FLAG.findall(row["script"]) if name in _LAYOUT and value.isdigit())
    clients = f"{float(row['max_conc']):g} at a time" if row["max_conc"] else "all at once"
    load = f"{requests:g} requests, {clients}, {inputs:g} in, {outputs:g} out, {gpus} GPUs, {row['load_gen']}"
    return row["model_page"], row["gpu"], load, row["versions"]


def _option(script: str, tag: str) -> str:
    """The flags that change speed, sorted: a name for what the server was told."""
    found = {name: value or "" for name, value in _FLAG.findall(script)}
    # A block's heading names the flag that it varies; its script was copied from the first of them.
    found |= {name: value or "" for name, value in _FLAG.findall(tag)}
    parts = [f"{name}={value}" if value else name for name, value in found.items() if name not in _NO_OPTION | _LAYOUT]
    parts += _ENVIRONMENT.findall(script)
    quantised = _QUANTISED.search(script)
    if quantised:
        parts.append(f"{quantised[1].upper()} checkpoint")
    return " ".join(sorted(parts)) or PLAIN


def _group(key: tuple[str, ...], options: Mapping[str, Sequence[float]]) -> MeasuredGroup:
    repeated = [np.std(rates, ddof=1) / np.mean(rates) for rates in options.values() if len(rates) > 1]
    return MeasuredGroup(
        model=key[0],
        gpu=key[1],
        load=key[2],
        tokens_per_second={option: float(np.mean(rates)) for option, rates in sorted(options.items())},
        tolerance=max(_TOLERANCE, 2.0 * float(max(repeated, default=0.0))),
    )


def _option_figures(option: str, groups: Sequence[MeasuredGroup], seed: int) -> OptionFigures:
    having = [group for group in groups if option in group.tokens_per_second]
    both = [group for group in having if PLAIN in group.tokens_per_second]
    gains = [math.log(group.tokens_per_second[option] / group.tokens_per_second[PLAIN]) for group in both]
    log_gain = _mean(gains, both, seed)
    return OptionFigures(
        option=option,
        groups=len(having),
        best_share=_mean([float(option in group.best) for group in having], having, seed),
        over_plain=Interval(math.exp(log_gain.value), math.exp(log_gain.low), math.exp(log_gain.high)),
    )


def _mean(values: Iterable[float], groups: Sequence[MeasuredGroup], seed: int) -> Interval:
    if not groups:
        return Interval(math.nan, math.nan, math.nan)
    columns = np.stack([np.array(list(values)), np.ones(len(groups))], axis=1)
    draws = GroupDraws([np.array([group.model for group in groups], dtype=np.str_)], seed=seed)

    def mean(sums: FloatArray) -> FloatArray:
        return np.asarray(sums[..., 0] / sums[..., 1])

    return interval_of_sums(columns, mean, draws)
