"""An evaluation as Markdown: one table per kind of traffic, decisive tasks first, the published one beside it.

Separate from the files, which also hold CSV, JSON and pictures: this is plain text from a value, for people.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from metainf.corpus.task import TrafficKind
from metainf.evaluation.bootstrap import Interval
from metainf.evaluation.figures import FIGURE_TITLES, Figures
from metainf.evaluation.published import NOT_COMPARABLE, PUBLISHED
from metainf.evaluation.report import Evaluation, KindReport, Result, Scope
from metainf.evaluation.splits import SplitKind
from metainf.selectors.catalogue import SELECTORS

__all__ = ["figure_text", "markdown", "table_text"]

_PERFORMANCE = {
    TrafficKind.RATE: "the highest request rate per accelerator at which every SLO holds",
    TrafficKind.CONCURRENCY: "output tokens per second; with an SLO those of requests that keep it",
    TrafficKind.BATCH: "1 / makespan",
}
_SHOWN_FEATURES = 15
_DEFINITIONS = """\
Label: the simplest method within the tolerance of the best. A pick within the tolerance is right (tolerant accuracy;
macro F1 over labels of at least 1 % of the train tasks). Acceleration ratio: geometric mean of P[chosen] / P[default];
a pick that is infeasible or breaks an SLO or the budget counts as a tenth of the default, a refusal as the default.
Closed gap: (SBS - s) / (SBS - VBS) on the mean of log(P / P[default]), with the single best fixed on train. Regret: 1 -
P[chosen] / P[best]. Decisive tasks: the default is worse than the best by more than twice the tolerance; aims bind
there. In brackets 95 % intervals over held-out groups (1,000 draws of whole groups); where the tasks that count are of
fewer than three groups there are none. Groups: those behind the figures of a row, from the column with the fewest to
that with the most; figures.csv has each column's own. USD: of the tasks whose accelerator has a list price, each
accelerator at the node that asks least for it. "-" is undefined, never 0. The random split only shows how much it
flatters. Ceiling: chosen by every other seed, scored on the rest, for tasks with several seeds; what it misses is noise
that nobody can predict. "Trained on" another world: fitted, single best and classes included, on that world's truth
about the same tasks, and judged by this one's. "Simulated by" a world: only the tasks that it simulated too, all
selectors fitted and judged on these alone and told what the simulation says of each method, but for the one that is
"not told". "All tasks": selectors fitted and judged on every task; the rows without that name are over some of them,
on which all selectors are compared. A method of which the world has no row for a task, such as a number format without
measured tables, can be picked by nobody there. Where groups are held out, nobody learns from a task whose lengths,
arrivals and acceptance were drawn as those of a held-out one: one workload on several places. Budget: drawn for each
task by a checksum of its workload, log-uniform between 0.8 and 2.5 times what the default truly costs there; a method
breaks it by more than the tolerance, and tasks on which nothing keeps it are left out. What ships: the artifact's
predictor, trained on the train tasks, written to a file, loaded again, and asked what the operator asks; it chooses by
the operator's rule at confidence 0.9. The ensemble called metainf is another selector and ships nowhere."""


def markdown(evaluation: Evaluation, pictures: Sequence[str] = ()) -> str:
    """The report; `pictures` are file names, each shown in the section whose kind its name ends with."""
    parts = ["# Evaluation of selectors", _DEFINITIONS]
    for report in evaluation.kinds:
        mine = [name for name in pictures if name.removesuffix(".png").endswith(f"-{report.kind}")]
        parts += _kind(report, evaluation.focus, mine)
    parts += ["## Published figures", NOT_COMPARABLE, _published()]
    parts += ["## Time", *_time(evaluation)]
    return "\n\n".join(parts) + "\n"


def figure_text(interval: Interval) -> str:
    """The value with its interval, `-` where undefined."""
    if not np.isfinite(interval.value):
        return "-"
    value = _number(interval.value)
    return value if not np.isfinite(interval.low) else f"{value} [{_number(interval.low)}, {_number(interval.high)}]"


def _number(value: float) -> str:
    if abs(value) >= 1000.0:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.0095 or value == 0.0 else f"{value:.1e}"


def _kind(report: KindReport, focus: str, pictures: Sequence[str]) -> list[str]:
    parts = [
        f"## Traffic: {report.kind}",
        f"P is {_PERFORMANCE[report.kind]}. {report.tasks:,} tasks, {report.methods} methods; "
        f"{report.decisive_share:.1%} of the tasks are decisive.",
    ]
    parts += [
        f"Simulated by {name}: {tasks:,} of these tasks; the rows of that name are over them alone."
        for name, tasks in report.simulated_tasks.items()
    ]
    if report.every_task:
        parts += [f'"All tasks" are {report.every_task:,}; the rows of that name are over them.']
    if report.single_best:
        parts += ["Single best, of the train halves: " + "; ".join(_single_best(report)) + "."]
    parts += [f"![{name.removesuffix('.png')}]({name})" for name in pictures]
    for scope in Scope:
        parts += [f"### {scope.value.capitalize()} tasks", _results(report.results, scope, focus)]
    failed = {f"{each.selector}, {each.split_name}: {each.failure}" for each in report.results if each.failure}
    if failed:
        parts += ["Without figures:\n" + "\n".join(f"- {each}" for each in sorted(failed))]
    without = max((each.figures.without_reference for each in report.results), default=0)
    if without:
        parts += [f"The default does not run on {without:,} tasks: they count for all but ratios to it and closed gap."]
    if report.acceleration_by_batch:
        cells = [(f"{size:g}", f"{ratio:.2f}") for size, ratio in report.acceleration_by_batch.items()]
        parts += [
            f"### {focus} over one request at a time",
            table_text(("requests at once", "acceleration ratio"), cells),
        ]
    return parts + _guards(report, focus) + _studies(report, focus)


def _single_best(report: KindReport) -> Iterable[str]:
    """What it was in each split."""
    for split, methods in report.single_best.items():
        folds = sum(methods.values())
        named = ", ".join(f"{name} in {count} of {folds} folds" for name, count in methods.items())
        yield f"{split}: {named}"


def _results(results: Sequence[Result], scope: Scope, focus: str) -> str:
    heads = ["split", "selector", "tasks", "groups", *FIGURE_TITLES.values(), f"better than {focus} (share of draws)"]
    heads += ["Wilcoxon p over groups"]
    rows = []
    for each in (each for each in results if each.scope is scope):
        name = _named(each.selector, focus)
        against = "-" if each.against_focus is None else f"{each.against_focus.confidence:.3f}"
        ranks = "-" if each.wilcoxon is None or np.isnan(each.wilcoxon.p_value) else f"{each.wilcoxon.p_value:.3g}"
        figures = [figure_text(interval) for _, interval in each.figures.named()]
        counts = [f"{each.figures.tasks:,}", _groups(each.figures)]
        rows.append((_split_name(each), name, *counts, *figures, against, ranks))
    return table_text(heads, rows)


def _named(selector: str, focus: str) -> str:
    """The selector's name, bold for the focus, with what the catalogue remarks of it."""
    remark = SELECTORS[selector].remark if selector in SELECTORS else ""
    name = f"**{selector}**" if selector == focus else selector
    return f"{name} ({remark})" if remark else name


def _groups(figures: Figures) -> str:
    """The groups behind the figures, from the column with the fewest to that with the most where they differ."""
    counts = {interval.groups for _, interval in figures.named() if interval.groups}
    return "-".join(str(each) for each in sorted({min(counts), max(counts)})) if counts else str(figures.groups)


def _split_name(result: Result) -> str:
    return f"{result.split_name} (flatters)" if result.split is SplitKind.RANDOM else result.split_name


def _guards(report: KindReport, focus: str) -> list[str]:
    """Regret of each selector with and without an out-of-distribution guard, split by split."""
    rows = []
    for split, guard in report.guards.items():
        for each in guard.figures:
            name = _named(each.selector, focus)
            everywhere = (each.without, each.to_physics, each.to_default)
            there = (each.flagged_without, each.flagged_to_physics, each.flagged_to_default)
            rows.append(
                (
                    str(split),
                    f"{guard.flagged_share:.1%}",
                    name,
                    *(figure_text(figure) for figure in everywhere + there),
                )
            )
    if not rows:
        return []
    heads = ["split", "unfamiliar tasks", "selector", "regret", "guard gives them to physics", "to the default"]
    heads += [f"{head}, unfamiliar tasks alone" for head in ("regret", "to physics", "to the default")]
    text = (
        "Mean regret over all tasks. A task is unfamiliar where it is farther from every train task than mean + 2 "
        "standard deviations of what train tasks have to tasks of other models or accelerators. metainf has this guard "
        "and gives such tasks to physics."
    )
    return ["### Out of distribution, with and without a guard", text, table_text(heads, rows)]


def _studies(report: KindReport, focus: str) -> list[str]:
    parts: list[str] = []
    if report.leaks:
        rows = [(each.name, "yes" if each.passed else "NO", each.note) for each in report.leaks]
        parts += [f"### Leak checks of {report.studied or focus}", table_text(("check", "holds", "figures"), rows)]
    if report.curve:
        rows = [(f"{p.share:.1%}", f"{p.train_tasks:,.0f}", figure_text(p.closed_gap)) for p in report.curve]
        heads = ("train groups", "train tasks", "closed gap, decisive")
        parts += [f"### Learning curve of {focus}", table_text(heads, rows)]
    if report.importance:
        shown = report.importance[:_SHOWN_FEATURES]
        rows = [(each.feature, f"{each.lost_gain:.4f}", f"{each.standard_error:.4f}") for each in shown]
        heads = ("feature", "gain lost, log(P / P[default])", "standard error")
        title = f"### What matters to {report.studied or focus}, permuted on test tasks"
        parts += [title, table_text(heads, rows)]
    if report.failures:
        failures = [
            (each.model, each.accelerator, each.workload, each.chosen, each.best, f"{each.regret:.3f}")
            for each in report.failures
        ]
        columns = ("model", "accelerator", "workload", "chosen", "best", "regret")
        parts += [f"### Worst failures of {focus}", table_text(columns, failures)]
    return parts


def _published() -> str:
    heads = ("selector", "accuracy", "F1", "acceleration ratio")
    rows = [(p.selector, f"{p.accuracy:.3f}", f"{p.f1:.2f}", f"{p.acceleration_ratio:.2f}") for p in PUBLISHED]
    return table_text(heads, rows)


def _time(evaluation: Evaluation) -> list[str]:
    names = list(dict.fromkeys(name for report in evaluation.kinds for name in report.spent_s))
    rows = [(name, *(f"{report.spent_s.get(name, 0.0):.1f}" for report in evaluation.kinds)) for name in names]
    rows += [("studies", *(f"{report.studies_s:.1f}" for report in evaluation.kinds))]
    heads = ("selector", *(f"{report.kind}, s" for report in evaluation.kinds))
    return [f"All of it took {evaluation.spent_s:.0f} s. Fitting and choosing, all splits:", table_text(heads, rows)]


def table_text(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
