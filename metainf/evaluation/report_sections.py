"""Sections of a report that are not about ranking methods: intervals, the operator's own choice, and measured rows.

Separate from the report's text, which is made from one evaluation: each of these comes from data of its own.
"""

from collections.abc import Mapping, Sequence

from metainf.evaluation.calibration import Inflation
from metainf.evaluation.intervals import IntervalFigures
from metainf.evaluation.measured import LEAST_GROUPS_FOR_AIMS, MeasuredGroup, MeasuredSummary
from metainf.evaluation.operator_choice import OperatorFigures
from metainf.evaluation.report_text import figure_text, table_text

__all__ = ["calibration_section", "intervals_section", "measured_section", "operator_section"]

_LEAST_SHOWN_GROUPS = 2


def intervals_section(figures: Mapping[str, IntervalFigures], unit: str) -> str:
    """Coverage, width and score of each predictor's intervals; `unit` is that of widths and scores."""
    heads = ["predictor", "asked", "coverage", "worst group", "its coverage", f"median width ({unit})"]
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
            str(each.groups),
        )
        for name, each in figures.items()
    ]
    text = "Means over held-out groups, each counted alike. Lower scores are better (Winkler)."
    return _section("Intervals", text, table_text(heads, rows))


def calibration_section(fitted: Mapping[str, Inflation]) -> str:
    """The inflation of each calibrated decision, and what it promises."""
    heads = ("decision", "inflation (standard deviations)", "violations", "refusals", "groups", "guarantee")
    rows = [
        (
            name,
            f"{each.value:.2f}",
            f"{each.violation_rate:.1%}",
            f"{each.refusal_rate:.1%}",
            str(each.groups),
            str(each.guarantee),
        )
        for name, each in fitted.items()
    ]
    text = "Fitted so that the chosen candidate keeps every limit; violations are of picks, refusals of tasks."
    return _section("Calibrated decision", text, table_text(heads, rows))


def operator_section(figures: Mapping[str, OperatorFigures]) -> str:
    """What the operator's own choice costs under each predictor."""
    heads = ["predictor", "workloads", "USD above the cheapest feasible", "infeasible in truth", "false refusals"]
    heads += ["USD of feasible choices", "USD of the cheapest for these"]
    rows = [
        (
            name,
            f"{each.workloads:,}",
            figure_text(each.usd_above),
            figure_text(each.infeasible),
            figure_text(each.false_refusals),
            f"{each.total_usd:,.2f}",
            f"{each.cheapest_total_usd:,.2f}",
        )
        for name, each in figures.items()
    ]
    text = "Method, layout, pool and replicas together. Shares from 0 to 1, with 95 % intervals over groups."
    return _section("The operator's own choice", text, table_text(heads, rows))


def measured_section(groups: Sequence[MeasuredGroup], summary: MeasuredSummary) -> str:
    """Which options are best on real rows that share model, GPU and load."""
    options = [
        (each.option, str(each.groups), figure_text(each.best_share), figure_text(each.over_plain))
        for each in summary.options
        if each.groups >= _LEAST_SHOWN_GROUPS
    ]
    single = [(each.model, each.gpu, each.load, ", ".join(each.best)) for each in groups]
    binds = "aims bind" if summary.aims_bind else f"fewer than {LEAST_GROUPS_FOR_AIMS}, so no aim binds"
    text = (
        f"GPUStack's rows: {summary.groups} groups that share model, GPU, version and load ({binds}). Without flags is "
        f"within the tolerance of the best in {figure_text(summary.plain_is_best_share)} of those that have it. "
        "Intervals draw whole models; with fewer than three models there are none."
    )
    heads = ("option", "groups", "share where it is among the best", "tokens/s over no flags (x)")
    found = ("model", "GPU", "load", "among the best")
    return _section("Measured rows alone", text, table_text(heads, options), table_text(found, single))


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *parts]) + "\n"
