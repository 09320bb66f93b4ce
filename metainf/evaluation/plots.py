"""The pictures of a report: who closes how much of the gap, what more data gives, what matters, and the papers' figure.

Separate from the values that they draw. Drawn with matplotlib's Agg canvas and no global state, so that nothing needs a
display and two reports can be drawn at once. Colours are Okabe and Ito's, which colour-blind people tell apart
(source: jfly.uni-koeln.de/color, 2008); marks differ in shape as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metainf.evaluation.bootstrap import Interval
from metainf.evaluation.published import READINGS, PublishedPoint
from metainf.evaluation.studies import CurvePoint, Importance
from metainf.methods import Reading

__all__ = ["ForestRow", "forest_plot", "importance_plot", "learning_plot", "published_plot", "save"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#666666"
_FORMATS = ("png", "svg")
_ROW_IN = 0.27
_SHOWN_FEATURES = 20


@dataclass(frozen=True, slots=True)
class ForestRow:
    """A figure of one selector in one panel."""

    panel: str
    selector: str
    interval: Interval


def forest_plot(
    rows: Sequence[ForestRow],
    title: str,
    axis: str,
    *,
    focus: str,
    bounds: tuple[float, float] | None = None,
    panel_in: float = 2.35,
) -> Figure:
    """A mark with its interval for each selector, a panel for each split or figure; the focus stands out.

    `bounds` are what is shown; marks beyond are drawn as arrows at the edge with their value.
    """
    rows = [row for row in rows if np.isfinite(row.interval.value)]
    panels = list(dict.fromkeys(row.panel for row in rows))
    names = list(dict.fromkeys(row.selector for row in rows))[::-1]
    figure = _figure(2.4 + panel_in * len(panels), 1.35 + _ROW_IN * len(names))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axe, panel in zip(axes, panels, strict=True):
        _plain(axe)
        for row in (each for each in rows if each.panel == panel):
            _mark(axe, row.interval, names.index(row.selector), bounds, strong=row.selector == focus)
        axe.set_title(panel.replace(", ", ",\n"), fontsize=9)
        axe.set_yticks(range(len(names)), names, fontsize=8)
        axe.set_ylim(-0.7, len(names) - 0.3)
        axe.grid(axis="y", color="#eeeeee", linewidth=0.6)
        if bounds is not None:
            axe.set_xlim(bounds[0] - 0.04 * (bounds[1] - bounds[0]), bounds[1] + 0.04 * (bounds[1] - bounds[0]))
        axe.tick_params(axis="x", labelsize=8)
    for label in axes[0].get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == focus else "normal")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.supxlabel(axis, fontsize=9)
    return figure


def learning_plot(points: Sequence[CurvePoint], title: str) -> Figure:
    """Closed gap against the tasks that were learnt from."""
    figure = _figure(5.2, 3.4)
    axe = figure.subplots()
    _plain(axe)
    shown = [point for point in points if np.isfinite(point.closed_gap.value)]
    x, y = np.array([p.train_tasks for p in shown]), np.array([p.closed_gap.value for p in shown])
    axe.plot(x, y, color=_COLOURS[0], marker="o", linewidth=1.6)
    axe.fill_between(
        x, [p.closed_gap.low for p in shown], [p.closed_gap.high for p in shown], color=_COLOURS[0], alpha=0.18, lw=0
    )
    for point in shown:
        axe.annotate(
            f"{100.0 * point.share:g} % of groups",
            (point.train_tasks, np.nanmax([point.closed_gap.value, point.closed_gap.high])),
            textcoords="offset points",
            xytext=(0, 5),
            ha="center",
            fontsize=7,
            color=_GREY,
        )
    axe.margins(x=0.12, y=0.15)
    axe.set_xlabel("train tasks (mean over folds)", fontsize=9)
    axe.set_ylabel("closed gap on decisive tasks\n(1 = virtual best)", fontsize=9)
    axe.tick_params(labelsize=8)
    axe.set_title(title, fontsize=10, loc="left")
    return figure


def importance_plot(found: Sequence[Importance], title: str) -> Figure:
    """The features whose permutation costs most, with two standard errors."""
    shown = list(found[:_SHOWN_FEATURES])[::-1]
    figure = _figure(6.4, 1.1 + _ROW_IN * len(shown))
    axe = figure.subplots()
    _plain(axe)
    axe.barh(
        range(len(shown)),
        [100.0 * each.lost_gain for each in shown],
        xerr=[200.0 * each.standard_error for each in shown],
        color=_COLOURS[0],
        height=0.65,
        error_kw={"ecolor": _GREY, "elinewidth": 0.9},
    )
    axe.axvline(0.0, color=_GREY, linewidth=0.8)
    axe.set_yticks(range(len(shown)), [each.feature for each in shown], fontsize=8)
    axe.set_ylim(-0.7, len(shown) - 0.3)
    axe.set_xlabel("gain lost when permuted on test tasks (% of P[default])", fontsize=9)
    axe.tick_params(axis="x", labelsize=8)
    axe.set_title(title, fontsize=10, loc="left")
    return figure


def published_plot(points: Sequence[PublishedPoint], title: str, unit: str) -> Figure:
    """The papers' figure: performance of their four rows against batch size, the best at each size ringed.

    Each is drawn relative to the best at its size, since throughput grows so much with the batch that rows of one
    size would fall together.
    """
    readings = [reading for reading in Reading if any(point.reading is reading for point in points)]
    figure = _figure(1.2 + 4.2 * len(readings), 4.0)
    axes = figure.subplots(1, len(readings), sharey=True, squeeze=False)[0]
    rows = list(dict.fromkeys(point.row for point in points))
    for axe, reading in zip(axes, readings, strict=True):
        _plain(axe)
        mine = [point for point in points if point.reading is reading]
        best = {size: max(p.performance for p in mine if p.batch_size == size) for size in {p.batch_size for p in mine}}
        for place, row in enumerate(rows):
            line = sorted((p.batch_size, p.performance / best[p.batch_size]) for p in mine if p.row == row)
            x, y = [size for size, _ in line], [share for _, share in line]
            axe.plot(x, y, color=_COLOURS[place], marker=_MARKS[place], markersize=5, linewidth=1.4, label=row)
            won = [size for size, share in line if share == 1.0]
            axe.plot(won, [1.0] * len(won), "o", mfc="none", mec=_COLOURS[place], markersize=12, mew=1.4)
        axe.set_xscale("log", base=2)
        axe.set_xticks(sorted(best), [f"{size:g}" for size in sorted(best)])
        axe.minorticks_off()
        axe.tick_params(labelsize=8)
        axe.set_title(READINGS[reading], fontsize=9)
        axe.set_xlabel("batch size (requests at once)", fontsize=9)
    axes[0].set_ylabel(f"{unit} relative to the best\n(ringed: the best at that size)", fontsize=9)
    axes[0].set_ylim(bottom=0.0, top=1.08)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(rows), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, ...]:
    """Write the figure as PNG and SVG; the same values give the same bytes."""
    paths = tuple(folder / f"{name}.{suffix}" for suffix in _FORMATS)
    # Ids inside of an SVG are random without a salt.
    with rc_context({"svg.hashsalt": name}):
        for path in paths:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    return paths


def _figure(width_in: float, height_in: float) -> Figure:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axe: Any) -> None:
    for side in ("top", "right"):
        axe.spines[side].set_visible(False)
    axe.grid(axis="x", color="#dddddd", linewidth=0.6)
    axe.set_axisbelow(True)


def _mark(axe: Any, interval: Interval, y: int, bounds: tuple[float, float] | None, *, strong: bool) -> None:
    colour = _COLOURS[1] if strong else _COLOURS[0]
    low, high = bounds if bounds is not None else (-np.inf, np.inf)
    if not low <= interval.value <= high:
        left = interval.value < low
        edge = low if left else high
        axe.plot([edge], [y], marker="<" if left else ">", color=_GREY, markersize=5)
        axe.annotate(
            f"{interval.value:.2g}",
            (edge, y),
            textcoords="offset points",
            xytext=(6 if left else -6, 0),
            ha="left" if left else "right",
            va="center",
            fontsize=7,
            color=_GREY,
        )
        return
    if np.isfinite(interval.low):
        axe.plot([max(interval.low, low), min(interval.high, high)], [y, y], color=colour, linewidth=1.6, alpha=0.75)
    axe.plot([interval.value], [y], marker="D" if strong else "o", color=colour, markersize=5.5 if strong else 4.5)
