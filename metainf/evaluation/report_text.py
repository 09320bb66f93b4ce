"""An evaluation as Markdown: one table per kind of traffic, decisive tasks first, the published one beside it.

Separate from the files, which also hold CSV, JSON and pictures: this is plain text from a value, for people.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from metainf.corpus.task import TrafficKind
from metainf.evaluation.bootstrap import Comparison, Interval
from metainf.evaluation.figures import FIGURE_TITLES, Figures
from metainf.evaluation.outcomes import CEILING, VIRTUAL_BEST
from metainf.evaluation.published import NOT_COMPARABLE, PUBLISHED, READINGS
from metainf.evaluation.report_definitions import DEFINITIONS
from metainf.evaluation.report_values import LOSSLESS, Evaluation, KindReport, Result, Scope
from metainf.evaluation.splits import SplitKind
from metainf.methods import Reading
from metainf.selectors.catalogue import SELECTORS

__all__ = ["figure_text", "markdown", "table_text"]

_PERFORMANCE = {
    TrafficKind.RATE: "the highest request rate per accelerator at which every SLO holds",
    TrafficKind.CONCURRENCY: "output tokens per second; with an SLO those of requests that keep it",
    TrafficKind.BATCH: "1 / makespan",
}
_SHOWN_FEATURES = 15


def markdown(evaluation: Evaluation, pictures: Sequence[str] = ()) -> str:
    """The report; `pictures` are file names, each shown in the section whose kind its name ends with."""
    parts = ["# Evaluation of selectors", *_unfinished(evaluation), DEFINITIONS]
    for report in evaluation.kinds:
        mine = [name for name in pictures if name.removesuffix(".png").endswith(f"-{report.kind}")]
        parts += _kind(report, evaluation.focus, mine)
    parts += ["## Published figures", NOT_COMPARABLE, _published()]
    parts += ["## Time", *_time(evaluation)]
    return "\n\n".join(parts) + "\n"


def _unfinished(evaluation: Evaluation) -> list[str]:
    if not evaluation.unfinished:
        return []
    left = "; ".join(evaluation.unfinished)
    return [f"**Not finished: {left}.** The same command goes on there, and takes from its folder what is fitted."]


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
    share = report.decisive_share
    decisive = f"; {share:.1%} of the tasks are decisive" if np.isfinite(share) else ""
    parts = [
        f"## Traffic: {report.kind}",
        f"P is {_PERFORMANCE[report.kind]}. {report.tasks:,} tasks, {report.methods} methods{decisive}.",
    ]
    parts += _limits(report)
    parts += [
        f"Simulated by {name}: {tasks:,} of these tasks; the rows of that name, and so all of simulator-only's, are "
        "over them alone."
        for name, tasks in report.simulated_tasks.items()
    ]
    if report.unpriced:
        left_out = sum(report.unpriced.values())
        named = ", ".join(f"{name} ({tasks:,})" for name, tasks in report.unpriced.items())
        parts += [
            f"USD are of {report.tasks - left_out:,} of {report.tasks:,} tasks at most. The accelerators of the others "
            f"have no list price: {named}."
        ]
    if report.taught_tasks:
        parts += [f"Another world is learnt from: {report.taught_tasks:,} of its tasks, less what each fold holds out."]
    if report.every_task:
        parts += [f'"All tasks" are {report.every_task:,}; the rows of that name are over them.']
    if report.single_best:
        parts += ["Single best, of the train halves: " + "; ".join(_single_best(report)) + "."]
    parts += [f"![{name.removesuffix('.png')}]({name})" for name in pictures]
    parts += _tables([each for each in report.results if not each.lossless], focus)
    parts += _lossless(report, focus)
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
    return parts + _guards(report, focus) + _studies(report, focus) + _papers_figure(report)


def _limits(report: KindReport) -> list[str]:
    """What limits leave out of the tables and forbid, over all tasks of the corpus."""
    limits = report.limits
    if limits is None:
        return []
    return [
        f"Limits: of {limits.tasks:,} tasks of the corpus {limits.left_out:,} are left out, since nothing keeps every "
        f"limit of theirs, the budget included; on {limits.best_over_budget:,} of the others the best of what keeps "
        f"its promises is over the budget. Without budgets, deadlines and statistics {limits.decisive_share:.1%} of "
        "all of them would be decisive."
    ]


def _lossless(report: KindReport, focus: str) -> list[str]:
    """The tables of lossless methods alone, with what is left out of them; nothing where all methods are lossless."""
    if not report.lossless_methods:
        return []
    share = report.lossless_decisive_share
    decisive = f"; among them {share:.1%} of the tasks are decisive" if np.isfinite(share) else ""
    parts = [
        f"{report.lossless_methods} of the methods are lossless, and by default a workload gets one of these{decisive}."
    ]
    if report.lossless_left_out:
        parts += [
            f"{report.lossless_left_out:,} tasks are left out of these tables: only a lossy method keeps every limit "
            "of theirs, the budget included."
        ]
    return parts + _tables([each for each in report.results if each.lossless], focus, f", {LOSSLESS} alone")


def _tables(results: Sequence[Result], focus: str, suffix: str = "") -> list[str]:
    """A table for each scope, with who beats the focus."""
    parts = []
    for scope in Scope:
        mine = [each for each in results if each.scope is scope]
        parts += [f"### {scope.value.capitalize()} tasks{suffix}", _results(mine, focus), _surely_better(mine, focus)]
    return parts


def _single_best(report: KindReport) -> Iterable[str]:
    """What it was in each split."""
    for split, methods in report.single_best.items():
        folds = sum(methods.values())
        named = ", ".join(f"{name} in {count} of {folds} folds" for name, count in methods.items())
        yield f"{split}: {named}"


def _results(results: Sequence[Result], focus: str) -> str:
    heads = ["split", "selector", "tasks", "groups", "with a price", *FIGURE_TITLES.values()]
    heads += [f"{what} than {focus} (share of draws)" for what in ("better", "cheaper")]
    heads += ["Wilcoxon p over groups"]
    rows = []
    for each in results:
        name = _named(each.selector, focus, each.remark)
        against = [_confidence(each.against_focus), _confidence(each.usd_against_focus)]
        ranks = "-" if each.wilcoxon is None or np.isnan(each.wilcoxon.p_value) else f"{each.wilcoxon.p_value:.3g}"
        figures = [figure_text(interval) for _, interval in each.figures.named()]
        counts = [f"{each.figures.tasks:,}", _groups(each.figures), f"{each.figures.priced_tasks:,}"]
        rows.append((_split_name(each), name, *counts, *figures, *against, ranks))
    return table_text(heads, rows)


def _confidence(comparison: Comparison | None) -> str:
    return "-" if comparison is None or np.isnan(comparison.confidence) else f"{comparison.confidence:.3f}"


def _named(selector: str, focus: str, *more: str) -> str:
    """The selector's name, bold for the focus, with what the catalogue remarks of it and what more there is to say."""
    remark = SELECTORS[selector].remark if selector in SELECTORS else ""
    name = f"**{selector}**" if selector == focus else selector
    remarks = "; ".join(filter(None, (remark, *more)))
    return f"{name} ({remarks})" if remarks else name


def _surely_better(results: Sequence[Result], focus: str) -> str:
    """Who beats the focus beyond the 95 % interval of pairs, in performance or in USD; bounds are none of them."""
    shown = [each for each in results if each.selector not in (VIRTUAL_BEST, CEILING, focus)]
    parts = []
    for what, comparisons in (
        ("closed gap", [(each, each.against_focus) for each in shown]),
        ("USD", [(each, each.usd_against_focus) for each in shown]),
    ):
        known = [(each, found.difference) for each, found in comparisons if found is not None]
        with_ends = [(each, difference) for each, difference in known if np.isfinite(difference.low)]
        better = [_named(row.selector, focus, _split_name(row)) for row, beside in with_ends if beside.low > 0.0]
        told = f"in {what} {', '.join(better) or 'nobody'} of {len(with_ends)} rows"
        few = len(known) - len(with_ends)
        parts.append(told + (f" ({few} more have too few groups to tell)" if few else ""))
    return f"Surely better than {focus} (paired draws of groups, 95 %): {'; '.join(parts)}."


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
        "standard deviations of what train tasks have to tasks of other models or accelerators. metainf-ensemble has "
        "this guard and gives such tasks to physics."
    )
    return ["### Out of distribution, with and without a guard", text, table_text(heads, rows)]


def _studies(report: KindReport, focus: str) -> list[str]:
    parts: list[str] = []
    if report.leaks:
        checks = [(str(each.split), each.name, "yes" if each.passed else "NO", each.note) for each in report.leaks]
        text = table_text(("split", "check", "holds", "figures"), checks)
        parts += [f"### Leak checks of {report.studied or focus}", text]
        if report.studied not in ("", focus):
            parts += [
                f"{focus} is not checked for leaks by refitting: it learns from rows, which no spoilt table reaches, "
                "and begins from physics, so that shuffled truth would leave it at what physics says."
            ]
    if report.curve:
        rows = [(f"{p.share:.1%}", f"{p.train_tasks:,.0f}", figure_text(p.closed_gap)) for p in report.curve]
        heads = ("train groups", "train tasks", "closed gap, decisive")
        parts += [f"### Learning curve of {report.studied or focus}", table_text(heads, rows)]
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


def _papers_figure(report: KindReport) -> list[str]:
    """Which of the papers' rows are the fastest at each size, those that one draw does not tell apart together."""
    sweep = report.published
    if sweep is None:
        return []
    rows = []
    for size in sweep.sizes:
        best = [sweep.best(reading, size) for reading in Reading]
        rows.append((f"{size:g}", *(", ".join(point.row for point in each) or "-" for each in best)))
    heads = ("requests at once", *(f"within 2 % of the fastest, {READINGS[reading]}" for reading in Reading))
    return ["### The papers' figure, asked again", sweep.about, table_text(heads, rows)]


def _published() -> str:
    heads = ("selector", "accuracy", "F1", "acceleration ratio")
    rows = [(p.selector, f"{p.accuracy:.3f}", f"{p.f1:.2f}", f"{p.acceleration_ratio:.2f}") for p in PUBLISHED]
    return table_text(heads, rows)


def _time(evaluation: Evaluation) -> list[str]:
    names = list(dict.fromkeys(name for report in evaluation.kinds for name in report.spent_s))
    rows = [(name, *(f"{report.spent_s.get(name, 0.0):.1f}" for report in evaluation.kinds)) for name in names]
    rows += [("studies", *(f"{report.studies_s:.1f}" for report in evaluation.kinds))]
    heads = ("selector", *(f"{report.kind}, s" for report in evaluation.kinds))
    spent = f"All of it took {evaluation.spent_s:.0f} s, in all runs that had a part in it."
    return [f"{spent} Fitting and choosing, all splits:", table_text(heads, rows)]


def table_text(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
