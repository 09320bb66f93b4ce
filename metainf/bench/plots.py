"""The pictures of a bench: which method is how much faster than the default where, and how much of it is noise.

Separate from the values that they draw; drawn as `metainf.evaluation.plots` does, without global state.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from metainf.bench.comparison import Comparison, PublishedRatio
from metainf.bench.design import BenchLoad
from metainf.corpus.task import TrafficKind
from metainf.methods import Reading

__all__ = ["noise_plot", "published_plot", "ratio_plot", "save"]

_CELL_IN = (0.62, 0.27)
_MOST_LOG2 = 2.0
_GREY = "#666666"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARKS = ("o", "s", "^", "D")
_READINGS = {
    Reading.ALONE: "each alone, over one request at a time",
    Reading.ON_BATCHING: "each on continuous batching",
}
_UNITS = {
    TrafficKind.CONCURRENCY: "output tokens/s of clients",
    TrafficKind.BATCH: "1 / makespan of a batch",
    TrafficKind.RATE: "output tokens/s at a rate",
}


def ratio_plot(found: Comparison, title: str) -> Figure:
    """A cell for each task and method: its performance over the default's, the winner framed, noise in grey figures."""
    tasks, methods = found.tasks, found.methods
    figure = _figure(3.2 + _CELL_IN[0] * len(methods), 2.4 + _CELL_IN[1] * len(tasks))
    axe = figure.subplots()
    ratio = found.ratio
    shown = np.clip(np.log2(ratio), -_MOST_LOG2, _MOST_LOG2)
    image = axe.imshow(shown, cmap="RdBu", norm=TwoSlopeNorm(0.0, -_MOST_LOG2, _MOST_LOG2), aspect="auto")
    winners = found.winners()
    for row in range(len(tasks)):
        for column in range(len(methods)):
            _cell(axe, found, ratio[row, column], (row, column), won=winners[row] == column)
    axe.set_xticks(range(len(methods)), methods, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axe.set_yticks(range(len(tasks)), [task.key.replace("/", "  ") for task in tasks], fontsize=8)
    bar = figure.colorbar(image, ax=axe, shrink=min(1.0, 8.0 / max(8, len(tasks))), pad=0.02)
    ticks = [-2, -1, 0, 1, 2]
    bar.set_ticks(ticks, labels=["≤ 1/4", "1/2", "1", "2", "≥ 4"])
    bar.set_label("over the default's", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(f"{title}: {_UNITS[found.kind]} over the default's", fontsize=10, x=0.01, ha="left")
    figure.supxlabel(
        "framed: the simplest within the tolerance of the best; grey: within the tolerance of 1", fontsize=8
    )
    return figure


def _cell(axe: Any, found: Comparison, value: float, place: tuple[int, int], *, won: bool) -> None:
    row, column = place
    if not np.isfinite(value):
        text, colour = "-", _GREY
    else:
        same = abs(value - 1.0) <= found.tolerance[row]
        dark = abs(np.log2(value)) > 1.2
        text, colour = f"{value:.2f}", "white" if dark else _GREY if same else "black"
    axe.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    if won:
        axe.plot(
            np.array([-0.46, 0.46, 0.46, -0.46, -0.46]) + column,
            np.array([-0.46, -0.46, 0.46, 0.46, -0.46]) + row,
            color="black",
            linewidth=1.6,
        )


def noise_plot(comparisons: Sequence[Comparison], title: str) -> Figure:
    """The spread of each comparison with the default over blocks, by the requests that stand at once."""
    figure = _figure(6.0, 3.4)
    axe = figure.subplots()
    _plain(axe)
    colours = {TrafficKind.CONCURRENCY: "#0072B2", TrafficKind.BATCH: "#D55E00", TrafficKind.RATE: "#009E73"}
    marks = {TrafficKind.CONCURRENCY: "o", TrafficKind.BATCH: "^", TrafficKind.RATE: "s"}
    for place, found in enumerate(comparisons):
        logs = found.log_ratios
        enough = (~np.isnan(logs)).sum(axis=2) > 1
        sizes = np.array([BenchLoad.parse(task.load).size for task in found.tasks])
        spread = np.full(enough.shape, np.nan)
        spread[enough] = np.nanstd(logs[enough], axis=1, ddof=1)
        spread[:, found.default] = np.nan
        x = np.repeat(sizes[:, None], spread.shape[1], axis=1) * (1.0 + 0.08 * place)
        axe.plot(
            x.ravel(),
            100.0 * spread.ravel(),
            marks[found.kind],
            color=colours[found.kind],
            markersize=4,
            alpha=0.6,
            label=_UNITS[found.kind],
        )
    _size_axis(axe, {BenchLoad.parse(task.load).size for found in comparisons for task in found.tasks})
    axe.set_xlabel("requests at once (of a rate: per second)", fontsize=9)
    axe.set_ylabel("standard deviation over repeats of\nP / P[default], %", fontsize=9)
    axe.set_ylim(bottom=0.0)
    axe.tick_params(labelsize=8)
    axe.legend(fontsize=8, frameon=False)
    axe.set_title(title, fontsize=10, loc="left")
    return figure


def published_plot(ratios: Sequence[PublishedRatio], title: str) -> Figure:
    """The papers' rows over all combined, by requests at once and reading, with the interval over repeats."""
    readings = [reading for reading in Reading if any(each.reading is reading for each in ratios)]
    figure = _figure(1.2 + 4.2 * len(readings), 3.8)
    axes = figure.subplots(1, len(readings), sharey=True, squeeze=False)[0]
    rows = list(dict.fromkeys(each.row for each in ratios))
    for axe, reading in zip(axes, readings, strict=True):
        _plain(axe)
        mine = [each for each in ratios if each.reading is reading]
        for place, row in enumerate(rows):
            line = sorted((each for each in mine if each.row == row), key=lambda each: each.size)
            # Side by side, so that equal ones do not hide each other.
            x = np.array([each.size for each in line]) * 2.0 ** (0.12 * (place - (len(rows) - 1) / 2))
            y = np.array([each.ratio for each in line])
            half = np.nan_to_num(np.array([each.interval for each in line]))
            errors = np.stack([y - y * np.exp(-half), y * np.exp(half) - y])
            axe.errorbar(
                x, y, yerr=errors, color=_COLOURS[place], marker=_MARKS[place], markersize=5, linewidth=1.2, label=row
            )
        axe.axhline(1.0, color=_GREY, linewidth=0.8)
        axe.set_title(_READINGS[reading], fontsize=9)
        _size_axis(axe, {each.size for each in mine})
        axe.set_xlabel("batch size (requests at once)", fontsize=9)
        axe.tick_params(labelsize=8)
    axes[0].set_yscale("log", base=2)
    axes[0].set_yticks([0.125, 0.25, 0.5, 1.0, 2.0], ["1/8", "1/4", "1/2", "1", "2"])
    axes[0].set_ylabel("1 / makespan over all combined", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(rows), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _size_axis(axe: Any, sizes: set[float]) -> None:
    axe.set_xscale("log", base=2)
    axe.set_xticks(sorted(sizes), [f"{size:g}" for size in sorted(sizes)])
    axe.minorticks_off()


def _plain(axe: Any) -> None:
    for side in ("top", "right"):
        axe.spines[side].set_visible(False)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG; the same values give the same bytes."""
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def _figure(width_in: float, height_in: float) -> Figure:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
