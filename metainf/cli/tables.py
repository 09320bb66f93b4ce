"""Plans as tables for people: what was chosen, how each limit stands, and why not the others.

Separate from the command because `kubectl metainf plan` shows the same.
"""

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TextIO

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from metainf.binding_limits import BindingLimit
from metainf.cli.console import is_terminal, show
from metainf.engine_versions import version_remark
from metainf.manifests import format_money, verdict
from metainf.planning import LimitOutlook, Plan, confidence_kept, outlooks
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS
from metainf.rejections import RejectionCount, RejectionReason
from metainf.selection import NoSelection, Scored, Selection
from metainf.workload import (
    BatchLoad,
    Budget,
    BudgetKind,
    ConcurrencyLoad,
    LatencyMetric,
    RateLoad,
    Statistic,
    TokenLengths,
    Traffic,
)

__all__ = ["plan_view", "print_plans"]

_SHOWN_RUNNERS_UP = 5
_BAR_CELLS = 12
_NEARLY_USED_RATIO = 0.9
_AT_ANY_PRICE = frozenset(
    {
        BindingLimit.LOAD_TOO_HIGH,
        BindingLimit.SLO_UNREACHABLE,
        BindingLimit.DEADLINE_UNREACHABLE,
        BindingLimit.MODEL_DOES_NOT_FIT,
    }
)
"""Limits that no budget moves. Others are about what may be used, and their sentence says what to change."""


def print_plans(plans: Sequence[Plan], stream: TextIO) -> None:
    """Print the plans one after another, with an empty line between them."""
    decorated = is_terminal(stream)
    show([_joined(plan_view(plan, decorated=decorated) for plan in plans)], stream)


def _joined(views: Iterable[RenderableType]) -> RenderableType:
    parts: list[RenderableType] = []
    for view in views:
        parts += [Text(), view] if parts else [view]
    return Group(*parts)


def plan_view(plan: Plan, *, decorated: bool) -> RenderableType:
    """The whole plan. `decorated` adds bars, which are of no use to programs."""
    outcome = plan.outcome
    parts: list[RenderableType] = [_title(plan), Text()]
    if isinstance(outcome, Selection):
        parts += [_chosen_line(outcome.chosen), Text(), *_standing(outcome.chosen, decorated)]
        others, heading = outcome.alternatives, "Runners-up"
        parts += _runners_up(heading, others, outcome.chosen)
    else:
        parts += _refused_lines(plan, outcome)
        if outcome.nearest:
            nearest = outcome.nearest[0]
            parts += [Text(), Text.assemble(("Nearest   ", "bold"), _candidate(nearest)), Text()]
            parts += _standing(nearest, decorated)
        parts += _runners_up("Next nearest", outcome.nearest[1:], None)
    return Group(*parts, *_rejections(outcome), *_footer(plan))


def _title(plan: Plan) -> RenderableType:
    workload = plan.workload
    facts = [
        workload.model.id,
        _traffic(workload.workload.traffic),
        workload.workload.objective.value,
        f"vLLM {plan.inputs.engine_version}",
    ]
    return Text.assemble((f"{workload.namespace}/{workload.name}", "bold"), ("   " + ", ".join(facts), "dim"))


def _traffic(traffic: Traffic) -> str:
    match traffic.load:
        case RateLoad(rate):
            load = f"{rate:g} request{'' if rate == 1 else 's'}/s"
        case ConcurrencyLoad(clients):
            load = f"{clients} client{'' if clients == 1 else 's'}"
        case BatchLoad(requests, deadline_s):
            load = f"{requests} requests in {_seconds(deadline_s)}"
    return f"{load} of {_length(traffic.input_tokens)} -> {_length(traffic.output_tokens)} tokens"


def _length(lengths: TokenLengths) -> str:
    return f"{lengths.mean_tokens:g}" + ("" if lengths.p95_tokens is None else f" (p95 {lengths.p95_tokens:g})")


def _candidate(scored: Scored) -> str:
    candidate = scored.candidate
    pool, layout = candidate.option.pool, candidate.option.layout
    devices = f"{layout.accelerators} x " if layout.accelerators > 1 else ""
    each = "" if pool.is_cpu else f", {devices}{pool.accelerator.name} each"
    cpu = f", {candidate.option.request.cpu_cores:g} cores of {pool.accelerator.name} each" if pool.is_cpu else ""
    return f"{candidate.name}{each}{cpu}"


def _chosen_line(chosen: Scored) -> RenderableType:
    return Text.assemble(("Chosen    ", "bold green"), (_candidate(chosen), "bold"))


def _refused_lines(plan: Plan, outcome: NoSelection) -> list[RenderableType]:
    lines = [_labelled("Refused", "bold red", Text.assemble((outcome.limit.value, "bold"), f": {outcome.message}"))]
    budget = outcome.cheapest_budget
    if budget is not None and budget.amount.is_finite():
        asked = plan.workload.workload.budget
        works = Text.assemble(
            "a budget of ", (_budget(budget), "bold green"), f" would work; {_budget(asked)} is what may be spent"
        )
        lines.append(_labelled("Instead", "bold", works))
    elif outcome.waiting_for is not None:
        lines.append(_labelled("Waiting", "bold", Text(f"for room for {outcome.waiting_for.candidate.name}")))
    elif outcome.limit in _AT_ANY_PRICE:
        lines.append(_labelled("Instead", "bold", Text("no budget would do: see the limit")))
    return list(lines)


def _labelled(label: str, style: str, text: Text) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=9, no_wrap=True)
    table.add_column()
    table.add_row(Text(label, style), text)
    return table


def _standing(scored: Scored, decorated: bool) -> list[RenderableType]:
    """How every limit stands, and how sure all of them are together."""
    workload = scored.assessment.workload
    table = _table()
    for heading in ("Limit", "Expected", "At worst", "Allowed", "Used"):
        table.add_column(heading, justify="left" if heading == "Limit" else "right", no_wrap=True)
    table.add_column("", no_wrap=True)
    rows = outlooks(scored)
    for row in rows:
        style = "red" if row.used_ratio > 1 else "yellow" if row.used_ratio > _NEARLY_USED_RATIO else "green"
        relation = ">= " if row.floor else "<= "
        assured = _amount(row.assured, row) if row.expected == row.assured else relation + _amount(row.assured, row)
        table.add_row(
            row.label,
            _amount(row.expected, row),
            Text(assured, style),
            _amount(row.bound, row),
            Text(_percent(row.used_ratio), style),
            Text(_bar(row.used_ratio), style) if decorated else Text("broken" if row.used_ratio > 1 else ""),
        )
    cost = scored.candidate.cost_per_hour
    notes = [f"At worst: for all limits together, at confidence {workload.confidence:g}."]
    if all(row.used_ratio <= 1 for row in rows):
        notes.append(f"They hold together with probability {_sure(scored)}.")
    if workload.budget.kind is not BudgetKind.PER_HOUR:
        notes.append(f"The candidate costs {_money(float(cost))} {workload.budget.currency}/h.")
    if bool(scored.assessment.predictions.out_of_distribution[scored.row]):
        notes.append("Outside what the predictor knows: its intervals are widened.")
    return [Padding(table, (0, 0, 0, 2)), Padding(Text(" ".join(notes), "dim"), (0, 0, 0, 2))]


def _sure(scored: Scored) -> str:
    kept = confidence_kept(scored)
    return f"{math.floor(kept * 1000) / 1000:g} or more" if kept < 0.999 else "above 0.999"


def _percent(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio < 100 else "over 100x" if math.isfinite(ratio) else "unbounded"


def _bar(ratio: float) -> str:
    filled = min(_BAR_CELLS, math.floor(ratio * _BAR_CELLS)) if math.isfinite(ratio) else _BAR_CELLS
    return "━" * filled + " " * (_BAR_CELLS - filled) + ("▶" if ratio > 1 else "")


def _amount(value: float, row: LimitOutlook) -> str:
    if not math.isfinite(value):
        return "unbounded"
    if row.unit == "s":
        return _seconds(value)
    if row.reason is RejectionReason.OVER_BUDGET:
        return f"{_money(value)}{row.unit.replace(' per million output tokens', '/M tokens')}"
    return f"{value:.4g}{row.unit}"


def _money(value: float) -> str:
    """Cents, and four decimals of what is less than one: the full figures stand in the record."""
    return f"{value:.2f}" if value >= 1 else format_money(Decimal(f"{value:.4f}"))


def _seconds(value: float) -> str:
    if not math.isfinite(value):
        return "unbounded"
    if value < 1:
        return f"{value * 1000:.3g} ms"
    if value < 600:
        return f"{value:.3g} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _budget(budget: Budget) -> str:
    return f"{format_money(budget.amount)} {budget.unit}"


def _runners_up(heading: str, others: Sequence[Scored], chosen: Scored | None) -> list[RenderableType]:
    if not others:
        return []
    table = _table()
    table.add_column(heading, no_wrap=True)
    names = [name for name, _ in _figures(others[0])]
    for name in ("Cost/h", *names):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Why not", overflow="fold")
    for scored in others[:_SHOWN_RUNNERS_UP]:
        cost = _money(float(scored.candidate.cost_per_hour))
        figures = (figure for _, figure in _figures(scored))
        table.add_row(str(scored.candidate.name), cost, *figures, _why_not(scored, chosen))
    parts: list[RenderableType] = [Text(), table]
    if len(others) > _SHOWN_RUNNERS_UP:
        parts.append(Text(f"{len(others) - _SHOWN_RUNNERS_UP} more with -o yaml", "dim"))
    return parts


def _figures(scored: Scored) -> list[tuple[str, str]]:
    """The predicted figures that tell candidates apart under the workload's kind of load, by column."""
    predictions, row = scored.assessment.predictions, scored.row
    load = scored.assessment.workload.traffic.load
    p95 = predictions.latency_s[row, :, STATISTICS.index(Statistic.P95)]
    tokens = ("Tokens/s", f"{predictions.output_tokens_per_second[row]:.0f}")
    if isinstance(load, BatchLoad):
        return [("Makespan", _seconds(float(predictions.makespan_s[row]))), tokens]
    latencies = [
        (f"{metric.value.upper()} p95", _seconds(float(p95[LATENCY_METRICS.index(metric)])))
        for metric in (LatencyMetric.TTFT, LatencyMetric.TPOT)
    ]
    # At a rate every candidate that keeps up delivers the same tokens.
    return latencies if isinstance(load, RateLoad) else [*latencies, tokens]


def _why_not(scored: Scored, chosen: Scored | None) -> Text:
    """The verdict in short, without what the row says already."""
    broken = scored.broken
    if broken is None:
        reason = verdict(scored, chosen).removeprefix("keeps every limit, ").partition(": ")[0]
        return Text(reason.removeprefix("but ").removeprefix("and "), "green")
    worst = max(
        (row for row in outlooks(scored) if row.reason is broken.reason and row.used_ratio > 1),
        key=lambda row: row.used_ratio,
    )
    relation = "<" if worst.floor else ">"
    return Text(f"{worst.label} {_amount(worst.assured, worst)} {relation} {_amount(worst.bound, worst)}", "red")


def _rejections(outcome: Selection | NoSelection) -> list[RenderableType]:
    counts: Sequence[RejectionCount] = outcome.rejections
    if not counts:
        return []
    table = _table()
    table.add_column("Rejected", no_wrap=True)
    table.add_column("Count", justify="right", no_wrap=True)
    table.add_column("Nearest miss", overflow="fold")
    for count in counts:
        table.add_row(count.reason.value, str(count.count), Text(count.nearest.detail, "dim"))
    return [Text(), table]


def _footer(plan: Plan) -> list[RenderableType]:
    outcome = plan.outcome
    notes = [f"{outcome.considered} considered", f"predictor {outcome.predictor.name}", f"decision {plan.name}"]
    if plan.workload.suspend or plan.workload.workload.replicas.fixed == 0:
        notes.append("nothing runs while suspend is true or scaling.replicas is 0")
    if remark := version_remark(plan.inputs.engine_version):
        notes.append(remark)
    return [Text(), Text(", ".join(notes), "dim")]


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
