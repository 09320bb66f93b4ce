"""The pictures of a bench: which method is how much faster than the default where, and how much of it is noise.

Separate from the values that they draw; drawn as `metainf.evaluation.plots` does, without global state.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from metainf.bench.comparison import Comparison
from metainf.bench.design import BenchLoad
from metainf.corpus.task import TrafficKind

__all__ = ["noise_plot", "ratio_plot"]

_CELL_IN = (0.62, 0.27)
_MOST_LOG2 = 2.0
_GREY = "#666666"
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
    for side in ("top", "right"):
        axe.spines[side].set_visible(False)
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
    axe.set_xscale("log", base=2)
    axe.set_xlabel("requests at once (of a rate: per second)", fontsize=9)
    axe.set_ylabel("standard deviation over repeats of\nP / P[default], %", fontsize=9)
    axe.set_ylim(bottom=0.0)
    axe.tick_params(labelsize=8)
    axe.legend(fontsize=8, frameon=False)
    axe.set_title(title, fontsize=10, loc="left")
    return figure


def _figure(width_in: float, height_in: float) -> Figure:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
