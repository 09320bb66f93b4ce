"""The pictures of a bench: which method is how much faster than the default where, and how much of it is noise.

Separate from the values that they draw; drawn as `metainf.evaluation.plots` does, without global state. What is not
shown to differ looks so: without colour, or hollow.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from metainf.bench.comparison import Comparison, Effects, MethodKind, PublishedRatio, noise_of_all
from metainf.bench.noise import Effect
from metainf.corpus.task import TrafficKind
from metainf.methods import Reading

__all__ = ["effects_plot", "noise_plot", "published_plot", "ratio_plot", "save"]

_CELL_IN = (0.62, 0.27)
_LEAST_WIDTH_IN = 7.5
_MOST_LOG2 = 2.0
_GREY = "#666666"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARKS = ("o", "s", "^", "D")
_READINGS = {
    Reading.ALONE: "A: each alone; prefix caching and\nchunked prefill one request at a time",
    Reading.ON_BATCHING: "B: each on continuous batching",
}
_UNITS = {
    TrafficKind.CONCURRENCY: "output tokens/s of clients",
    TrafficKind.BATCH: "1 / makespan of a batch",
    TrafficKind.RATE: "output tokens/s at a rate",
}
_SIZES = {
    TrafficKind.CONCURRENCY: "clients",
    TrafficKind.BATCH: "batch size (requests at once)",
    TrafficKind.RATE: "requests per second",
}
_TOGETHER = "with 95 % all intervals of this picture hold at once"


def ratio_plot(found: Comparison, kind: TrafficKind, title: str) -> Figure:
    """A cell for each task and method: performance over the default's, coloured where a difference is shown."""
    tasks, methods, effects = found.tasks, found.others, found.by_task()
    figure = _figure(max(_LEAST_WIDTH_IN, 3.2 + _CELL_IN[0] * len(methods)), 2.6 + _CELL_IN[1] * len(tasks))
    axe = figure.subplots()
    cells = {(row, column): effects.get((t.key, m)) for row, t in enumerate(tasks) for column, m in enumerate(methods)}
    shown = np.full((len(tasks), len(methods)), np.nan)
    for at, effect in cells.items():
        if effect is not None:
            shown[at] = np.log2(effect.ratio) if effect.shown else 0.0
    norm = TwoSlopeNorm(0.0, -_MOST_LOG2, _MOST_LOG2)
    image = axe.imshow(np.clip(shown, -_MOST_LOG2, _MOST_LOG2), cmap="RdBu", norm=norm, aspect="auto")
    for at, effect in cells.items():
        _cell(axe, effect, at, repeats=found.repeats)
    axe.set_xticks(range(len(methods)), methods, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axe.set_yticks(range(len(tasks)), [task.key.replace("/", "  ") for task in tasks], fontsize=8)
    bar = figure.colorbar(image, ax=axe, shrink=min(1.0, 8.0 / max(8, len(tasks))), pad=0.02)
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["≤ 1/4", "1/2", "1", "2", "≥ 4"])
    bar.set_label("over the default's", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(f"{title}: {_UNITS[kind]} over the default's", fontsize=10, x=0.01, ha="left")
    figure.supxlabel(
        f"coloured: the interval leaves out 1 ({_TOGETHER});\n"
        "framed: shown to be faster; grey: no difference shown; °: one run",
        fontsize=8,
    )
    return figure


def _cell(axe: Any, effect: Effect | None, place: tuple[int, int], *, repeats: int) -> None:
    row, column = place
    if effect is None:
        axe.text(column, row, "-", ha="center", va="center", fontsize=7, color=_GREY)
        return
    dark = effect.shown and abs(np.log2(effect.ratio)) > 1.2
    colour = "white" if dark else "black" if effect.shown else _GREY
    text = f"{effect.ratio:.2f}{'°' if effect.single and repeats > 1 else ''}"
    axe.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    if effect.above:
        axe.plot(
            np.array([-0.46, 0.46, 0.46, -0.46, -0.46]) + column,
            np.array([-0.46, -0.46, 0.46, 0.46, -0.46]) + row,
            color="black",
            linewidth=1.6,
        )


def effects_plot(effects: Effects, kind: TrafficKind, title: str) -> Figure:
    """A mark with its interval for each method, a panel for each row of the table."""
    panels = list(dict.fromkeys(row for row, _ in effects))
    names = list(dict.fromkeys(name for _, name in effects))[::-1]
    figure = _figure(max(_LEAST_WIDTH_IN, 2.2 + 1.7 * len(panels)), 1.7 + 0.25 * len(names))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    axes[0].set_xscale("log", base=2)  # of all, which share it; again, and it would forget the ticks
    for axe, panel in zip(axes, panels, strict=True):
        _plain(axe)
        axe.axvline(1.0, color=_GREY, linewidth=0.8)
        for place, name in enumerate(names):
            effect = effects.get((panel, name))
            if effect is not None:
                _mark(axe, effect, place, upright=False, hollow=not effect.shown, colour=_COLOURS[0], mark="o")
        axe.set_title(panel, fontsize=9)
        axe.set_yticks(range(len(names)), names, fontsize=8)
        axe.set_ylim(-0.7, len(names) - 0.3)
        axe.grid(axis="y", color="#eeeeee", linewidth=0.6)
        _powers(axe.xaxis)
        axe.tick_params(axis="x", labelsize=8)
    figure.suptitle(f"{title}: {_UNITS[kind]} over the default's", fontsize=10, x=0.01, ha="left")
    figure.supxlabel(
        f"mean over the tasks of a traffic; filled: the interval leaves out 1;\n{_TOGETHER}, of the noise alone",
        fontsize=8,
    )
    return figure


def _mark(axe: Any, effect: Effect, place: float, *, upright: bool, hollow: bool, colour: str, mark: str) -> None:
    """A mark with its interval, where there is one; `place` is its other coordinate."""
    known = np.isfinite(effect.low) and np.isfinite(effect.high)
    error = np.array([[effect.ratio - effect.low], [effect.high - effect.ratio]]) if known else None
    x, y = (place, effect.ratio) if upright else (effect.ratio, place)
    axe.errorbar(
        [x],
        [y],
        xerr=None if upright else error,
        yerr=error if upright else None,
        linestyle="none",
        marker=mark,
        markersize=5,
        linewidth=1.2,
        color=colour,
        markerfacecolor="white" if hollow else colour,
    )


def noise_plot(comparisons: Sequence[Comparison], title: str) -> Figure:
    """The spread over blocks of each comparison with the default, and its pools: by model and kind of method."""
    models = list(dict.fromkeys(task.model for found in comparisons for task in found.tasks))
    figure = _figure(max(_LEAST_WIDTH_IN, 1.5 + 1.6 * len(models)), 3.8)
    axe = figure.subplots()
    _plain(axe)
    for place, kind in enumerate(MethodKind):
        label: str | None = str(kind)
        for at, model in enumerate(models):
            x = at + 0.28 * (place - 1)
            own, pool = noise_of_all(comparisons, model, kind)
            if not len(own):
                continue
            spread = x + np.linspace(-0.09, 0.09, len(own))
            axe.plot(spread, 100.0 * own, ".", color=_COLOURS[place], markersize=4, alpha=0.6, label=label)
            axe.hlines(100.0 * pool, x - 0.12, x + 0.12, color=_COLOURS[place], linewidth=2.2)
            label = None
    axe.set_xticks(range(len(models)), models, fontsize=8)
    axe.set_ylabel("standard deviation over blocks of\nP / P[default], %", fontsize=9)
    axe.set_ylim(bottom=0.0)
    axe.tick_params(labelsize=8)
    if axe.get_legend_handles_labels()[0]:
        axe.legend(fontsize=8, frameon=False)
    axe.set_title(title, fontsize=10, loc="left")
    figure.supxlabel("a dot: one method on one task; a bar: their pool (root of the mean of squares)", fontsize=8)
    return figure


def published_plot(ratios: Sequence[PublishedRatio], kind: TrafficKind, title: str) -> Figure:
    """The papers' rows over all combined, by requests at once and reading; sizes have different tasks, so no lines."""
    readings = [reading for reading in Reading if any(each.reading is reading for each in ratios)]
    figure = _figure(max(_LEAST_WIDTH_IN, 1.2 + 4.2 * len(readings)), 4.4)
    axes = figure.subplots(1, len(readings), sharey=True, squeeze=False)[0]
    rows = list(dict.fromkeys(each.row for each in ratios))
    axes[0].set_yscale("log", base=2)
    for axe, reading in zip(axes, readings, strict=True):
        _plain(axe)
        axe.axhline(1.0, color=_GREY, linewidth=0.8)
        mine = [each for each in ratios if each.reading is reading]
        for each in mine:
            place = rows.index(each.row)
            # Side by side, so that equal ones do not hide each other.
            x = each.size * 2.0 ** (0.14 * (place - (len(rows) - 1) / 2))
            hollow = each.effect.single
            colour, mark = _COLOURS[place % len(_COLOURS)], _MARKS[place % len(_MARKS)]
            _mark(axe, each.effect, x, upright=True, hollow=hollow, colour=colour, mark=mark)
        axe.set_title(_READINGS[reading], fontsize=9)
        _size_axis(axe, {each.size for each in mine})
        axe.set_xlabel(_SIZES[kind], fontsize=9)
        axe.tick_params(labelsize=8)
        _powers(axe.yaxis)
    axes[0].set_ylabel(f"{_UNITS[kind]}\nover that of all combined", fontsize=9)
    for place, row in enumerate(rows):
        colour, mark = _COLOURS[place % len(_COLOURS)], _MARKS[place % len(_MARKS)]
        axes[0].plot([], [], linestyle="none", marker=mark, color=colour, markersize=5, label=row)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(rows), fontsize=8, frameon=False)
    figure.suptitle(
        f"{title}: mean over the tasks of a size, which differ from size to size\n"
        f"hollow: one run of each task; {_TOGETHER}, of the noise alone",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    return figure


def _powers(axis: Any) -> None:
    """Ticks at powers of two, those below 1 as fractions."""
    axis.set_major_locator(LogLocator(base=2.0))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1.0 else f"1/{1.0 / value:g}"))
    axis.set_minor_locator(NullLocator())


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
