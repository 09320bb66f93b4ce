"""Sections of a report that are not about ranking methods: intervals, the operator's own choice, and measured rows.

Separate from the report's text, which is made from one evaluation: each of these comes from data of its own.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from metainf.evaluation.calibration import HeldOutDecision, least_groups
from metainf.evaluation.intervals import IntervalFigures
from metainf.evaluation.measured import LEAST_GROUPS_FOR_AIMS, MeasuredGroup, MeasuredSummary
from metainf.evaluation.measured_picks import MeasuredPicks
from metainf.evaluation.operator_study import OperatorStudy
from metainf.evaluation.report_text import figure_text, table_text

__all__ = ["calibration_section", "intervals_section", "measured_section", "operator_section"]

_LEAST_SHOWN_GROUPS = 2


def intervals_section(figures: Mapping[str, IntervalFigures], unit: str, *, about: str) -> str:
    """Coverage, width and score of intervals by name; `unit` is that of widths and scores."""
    heads = ["intervals", "asked", "coverage", "worst group", "its coverage", f"median width ({unit})"]
    heads += [f"interval score ({unit})", "groups"]
    rows = [
        (
            name,
            f"{each.confidence:.0%}",
            f"{each.coverage:.1%}",
            each.worst_group,
            f"{each.worst_coverage:.1%}",
            f"{each.median_width:.3g}",
            f"{each.interval_score:.3g}",
            str(each.groups) if each.groups >= least_groups(each.confidence) else f"{each.groups}, not guaranteed",
        )
        for name, each in figures.items()
    ]
    text = (
        "Means over held-out groups, each counted alike. Lower scores are better (Winkler). Not guaranteed: of so few "
        "groups nothing follows for an unseen one at the confidence that is asked."
    )
    return _section(f"Intervals: {about}", text, table_text(heads, rows))


def calibration_section(judged: Mapping[str, HeldOutDecision], *, about: str, confidence: float) -> str:
    """What a calibrated decision does to groups that its calibration never saw, and what it promises."""
    heads = (
        "decision",
        "inflation, median",
        "violations",
        "aim",
        "violations uncalibrated",
        "false refusals",
        "refusals",
    )
    rows = [
        (
            name,
            f"{each.inflation:.2f}",
            _share(each.violation_rate),
            f"<= {1.0 - confidence:.0%}",
            _share(each.uncalibrated_violation_rate),
            f"{each.false_refusal_rate:.1%}",
            f"{each.refusal_rate:.1%}",
            f"{each.tasks:,}",
            f"{each.groups_with_picks} of {each.groups}",
            "none" if each.guaranteed is None else f"{each.guaranteed:.0%}",
        )
        for name, each in judged.items()
    ]
    text = (
        "The cheapest candidate that seems to keep every limit, its distance from the nearest limit multiplied by an "
        "inflation. Each group's inflation was fitted on all other groups. Violations are of picks, means over the "
        "groups with picks, n of them weighed by n / (n + confidence / (1 - confidence)); false refusals are of the "
        "tasks that some candidate truly serves, means over groups. Guaranteed is the confidence that follows for one "
        "more group, in the mean over what that may be, where groups bear it out counted alike."
    )
    columns = (*heads, "tasks", "groups with picks", "guaranteed")
    return _section(f"Calibrated decision: {about}", text, table_text(columns, rows))


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1%}"


def operator_section(*studies: OperatorStudy) -> str:
    """What the operator's own choice costs, by policy on lossy methods, kind of traffic and predictor.

    The studies are of the same pools and workloads.
    """
    heads = [
        "lossy methods",
        "traffic",
        "predictor",
        "workloads",
        "groups",
        "USD above the cheapest feasible",
        "infeasible in truth",
        "false refusals",
    ]
    heads += ["USD of feasible choices", "USD of the cheapest for these", "choices of which nothing is known"]
    rows = [
        (
            str(study.lossy),
            str(kind),
            name,
            f"{each.workloads:,}",
            str(each.infeasible.groups),
            figure_text(each.usd_above),
            figure_text(each.infeasible),
            figure_text(each.false_refusals),
            f"{each.total_usd:,.2f}",
            f"{each.cheapest_total_usd:,.2f}",
            str(each.unknown),
        )
        for study in studies
        for kind, figures in study.figures.items()
        for name, each in figures.items()
    ]
    pools, options = studies[0].pools, studies[0].options
    text = (
        f"Method, layout, pool and replicas together, over {len(pools)} pools: {', '.join(pools)}. Shares "
        "from 0 to 1, with 95 % intervals over held-out model groups. USD per hour for rates, per million output "
        "tokens for clients, of a batch in total; each workload has a budget in that unit, drawn around what the "
        "default costs on its task's own place, and infeasible is what breaks it or another limit. Above the cheapest "
        "is over the choices that are truly feasible, all summed before dividing. The cheapest is that of the "
        f"{options} options which were simulated for each workload, so what stands above it is at least that. "
        "Confidence as a workload has it by default, 0.9. Where lossy methods are Never allowed, as by default, they "
        "are neither offered nor tried. Each workload is judged by the world of its task: pools and "
        "options of which that world knows nothing are neither offered nor tried, and a choice of one is left out."
    )
    return _section("The operator's own choice", text, table_text(heads, rows))


def measured_section(
    groups: Sequence[MeasuredGroup], summary: MeasuredSummary, *, source: str, picks: MeasuredPicks | None = None
) -> str:
    """Which options of one source are best on real rows that share model, GPU and load, and who picks them."""
    options = [
        (each.option, str(each.groups), figure_text(each.best_share), figure_text(each.over_plain))
        for each in summary.options
        if each.groups >= _LEAST_SHOWN_GROUPS
    ]
    binds = "aims bind" if summary.aims_bind else f"fewer than {LEAST_GROUPS_FOR_AIMS}, so no aim binds"
    noise = "nothing was repeated" if np.isnan(summary.repeat_deviation) else f"{summary.repeat_deviation:.1%}"
    text = (
        f"{summary.groups} groups of source {source} that share model, GPU, version and load ({binds}). Standard "
        f"deviation of repeats, the median: {noise}; options within the larger of 2 % and twice that of the best count "
        f"as best. No flags is among the best in {figure_text(summary.plain_is_best_share)} of those that have it. "
        "Intervals draw whole models; with fewer than three models there are none."
    )
    parts = [text, table_text(("option", "groups", "share where it is among the best", "over no flags (x)"), options)]
    if picks is not None:
        parts += _picks(picks)
    if not summary.aims_bind:
        single = [(each.model, each.gpu, each.load, ", ".join(each.best)) for each in groups]
        parts.append(table_text(("model", "GPU", "load", "among the best"), single))
    return _section(f"Measured rows alone: {source}", *parts)


def _picks(picks: MeasuredPicks) -> list[str]:
    heads = ("picked by", "within the tolerance of the best", "performance over the best's", "over no flags (x)")
    rows = [
        (name, figure_text(each.right), figure_text(each.of_best), figure_text(each.over_plain))
        for name, each in picks.figures.items()
    ]
    text = (
        f"What is picked without running anything, over the {picks.groups} groups in which the pick matters; in "
        f"{picks.indifferent} more every option that can be asked about is within the tolerance, and of "
        f"{picks.unasked} fewer than two options can be put as a question to a predictor. Geometric means. The "
        "analytical predictor's constants, from which a trained one starts, were fitted on rows of these sets: for "
        "neither is this unseen data."
    )
    return [text, table_text(heads, rows)]


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *parts]) + "\n"
