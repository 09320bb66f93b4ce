"""Errors of predictions against measurements, by group: printed for a reader, kept as values for a file.

Separate since every set is reported alike, whatever was predicted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from metainf.evaluation.report_text import table_text
from metainf.predictors.contract import FloatArray

__all__ = ["Line", "markdown", "report"]

_METRICS = ("TTFT", "TPOT", "tokens/s")


@dataclass(frozen=True)
class Line:
    """Errors of one metric in one group: median and mean absolute, signed median, rank correlation."""

    title: str
    group: str
    metric: str
    rows: int
    median_ape: float
    mean_ape: float
    bias: float
    spearman: float


def report(
    title: str, truth: FloatArray, guess: FloatArray, groups: Sequence[str], names: Sequence[str] = _METRICS
) -> list[Line]:
    """Print and return errors by group."""
    print(f"\n{title}\n{'group':34} {'metric':9} {'n':>6} {'median':>7} {'mean':>7} {'bias':>7} {'Spearman':>8}")
    lines: list[Line] = []
    labels = np.array(groups)
    for group in [*sorted(set(groups)), "all"]:
        for column, name in enumerate(names):
            with np.errstate(invalid="ignore"):
                known = np.isfinite(guess[:, column] / truth[:, column])
            rows = known & ((labels == group) | (group == "all"))
            if rows.any():
                lines.append(_line((title, group, name), truth[rows, column], guess[rows, column]))
    return lines


def markdown(lines: Sequence[Line]) -> str:
    """The same as a page: a table for each title, in the order in which they were made."""
    heads = ("group", "figure", "rows", "median error", "mean error", "median, signed", "Spearman")
    parts = []
    for title in dict.fromkeys(line.title for line in lines):
        rows = [
            (
                line.group.strip(),
                line.metric,
                f"{line.rows:,}",
                f"{line.median_ape:.1%}",
                f"{line.mean_ape:.1%}",
                f"{line.bias:+.1%}",
                "" if math.isnan(line.spearman) else f"{line.spearman:.3f}",
            )
            for line in lines
            if line.title == title
        ]
        parts += [f"## {title[0].upper()}{title[1:]}", table_text(heads, rows)]
    return "\n\n".join(parts) + "\n"


def _line(names: tuple[str, str, str], truth: FloatArray, guess: FloatArray) -> Line:
    """One line, printed."""
    error = guess / truth - 1.0
    varies = len(truth) > 2 and np.ptp(truth) > 0 and np.ptp(guess) > 0
    rank = float(spearmanr(truth, guess).statistic) if varies else float("nan")
    size = np.abs(error)
    line = Line(*names, len(truth), float(np.median(size)), float(size.mean()), float(np.median(error)), rank)
    print(
        f"{line.group[:34]:34} {line.metric:9} {line.rows:6d} {line.median_ape:7.1%} {line.mean_ape:7.1%} "
        f"{line.bias:+7.1%} {line.spearman:8.3f}",
        flush=True,
    )
    return line
