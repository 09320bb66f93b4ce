"""An evaluation as files: report.md for people, figures.csv and report.json for programs, pictures as PNG and SVG.

Separate from the values and from the drawing: this alone touches the disk.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from metainf.evaluation.bootstrap import Interval
from metainf.evaluation.figures import FIGURE_TITLES
from metainf.evaluation.outcomes import VIRTUAL_BEST
from metainf.evaluation.plots import ForestRow, forest_plot, importance_plot, learning_plot, published_plot, save
from metainf.evaluation.report_text import markdown
from metainf.evaluation.report_values import LOSSLESS, Evaluation, KindReport, Result, Scope

__all__ = ["write_figures", "write_report"]

_GAP_SHOWN = (-1.0, 1.0)
_PLOTTED = {
    "closed_gap": ("Closed gap on decisive tasks", "closed gap (0 = single best, 1 = virtual best)", _GAP_SHOWN),
    "tolerant_accuracy": ("Accuracy on decisive tasks", "share of tasks within the tolerance of the best", (0.0, 1.0)),
    "acceleration_ratio": ("Acceleration on decisive tasks", "geometric mean of P[chosen] / P[default]", None),
}
_TOGETHER = [name for name in FIGURE_TITLES if name not in (*_PLOTTED, "false_refusal_rate")]
"""Side by side in one picture; of selectors nobody refuses, since each has to name a method."""
_PANEL_IN = 1.7
_CSV_COLUMNS = ("kind", "split", "scope", "methods", "selector", "tasks", "groups", "figure", "value", "low", "high")


def write_report(evaluation: Evaluation, folder: Path, sections: Sequence[str] = ()) -> tuple[Path, ...]:
    """Write all files into the folder, which is made if it is not there; what is returned starts with report.md.

    `sections` are put at the end of it, as `report_sections` makes them.
    """
    table, document = write_figures(evaluation, folder)
    pictures = [path for report in evaluation.kinds for path in _pictures(report, evaluation.focus, folder)]
    shown = [path.name for path in pictures if path.suffix == ".png"]
    text = folder / "report.md"
    text.write_text("\n".join([markdown(evaluation, shown), *sections]), encoding="utf-8")
    return (text, table, document, *pictures)


def write_figures(evaluation: Evaluation, folder: Path) -> tuple[Path, Path]:
    """Write what programs read, figures.csv and report.json: as far as an evaluation has come, too."""
    folder.mkdir(parents=True, exist_ok=True)
    table, document = folder / "figures.csv", folder / "report.json"
    _write_csv(evaluation, table)
    document.write_text(json.dumps(_plain(evaluation), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return table, document


def _pictures(report: KindReport, focus: str, folder: Path) -> list[Path]:
    paths: list[Path] = []
    for name, lossless in (*((name, False) for name in _PLOTTED), ("closed_gap", True)):
        title, axis, bounds = _PLOTTED[name]
        rows = [
            ForestRow(each.split_name, each.selector, dict(each.figures.named())[name])
            for each in report.results
            if each.scope is Scope.DECISIVE
            and each.lossless is lossless
            and not (name == "closed_gap" and each.selector == VIRTUAL_BEST)
        ]
        if any(math.isfinite(row.interval.value) for row in rows):
            kinds = f"{report.kind}, {LOSSLESS}" if lossless else str(report.kind)
            figure = forest_plot(rows, f"{title}: {kinds}", axis, focus=focus, bounds=bounds)
            paths += save(figure, folder, f"{name.replace('_', '-')}{'-lossless' if lossless else ''}-{report.kind}")
    for split in dict.fromkeys(each.split_name for each in report.results):
        rows = [
            ForestRow(FIGURE_TITLES[name], each.selector, dict(each.figures.named())[name])
            for name in _TOGETHER
            for each in report.results
            if each.scope is Scope.DECISIVE and not each.lossless and each.split_name == split
        ]
        if any(math.isfinite(row.interval.value) for row in rows):
            title = f"Other figures on decisive tasks: {report.kind}, {split}"
            figure = forest_plot(rows, title, "", focus=focus, panel_in=_PANEL_IN)
            paths += save(figure, folder, f"figures-{_file_name(split)}-{report.kind}")
    if report.curve:
        title = f"{report.studied or focus}: {report.kind}"
        paths += save(learning_plot(report.curve, title), folder, f"learning-curve-{report.kind}")
    if report.importance:
        figure = importance_plot(report.importance, f"What matters to {report.studied or focus}: {report.kind}")
        paths += save(figure, folder, f"importance-{report.kind}")
    if report.published is not None:
        title = f"The papers' four methods for Llama-3.1-8B, simulated: {report.kind}"
        figure = published_plot(report.published.points, title, "performance")
        paths += save(figure, folder, f"published-figure-{report.kind}")
    return paths


def _file_name(split: str) -> str:
    """Of a split's name what files can be called; it may say what was learnt from, as in `world:1`."""
    return re.sub("[^a-z0-9]+", "-", split.lower()).strip("-")


def _write_csv(evaluation: Evaluation, path: Path) -> None:
    """One line per figure: easy to filter, and new figures change no column."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_CSV_COLUMNS)
        for report in evaluation.kinds:
            for each in report.results:
                methods = "lossless" if each.lossless else "all"
                key = (report.kind, each.split_name, each.scope, methods, each.selector, each.figures.tasks)
                for name, interval in (*each.figures.named(), *_more_figures(each)):
                    ends = (interval.value, interval.low, interval.high)
                    shown = ("" if math.isnan(end) else f"{end:.6g}" for end in ends)
                    writer.writerow((*key, interval.groups, name, *shown))


def _more_figures(result: Result) -> Iterator[tuple[str, Interval]]:
    """How many tasks USD are of, and what is compared in pairs.

    Of pairs log(P / P[default]) above the focus', and the share of its USD saved.
    """
    yield "priced_tasks", Interval(float(result.figures.priced_tasks), math.nan, math.nan)
    pairs = (("gain_over_focus", result.against_focus), ("usd_saved_over_focus", result.usd_against_focus))
    for name, comparison in pairs:
        if comparison is not None:
            yield name, comparison.difference


def _plain(value: Any) -> Any:
    """What JSON has: dataclasses as objects, no number that is not finite."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
