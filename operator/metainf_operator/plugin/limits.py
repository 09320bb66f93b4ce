"""How the limits stand, for `explain`: what was predicted, what was observed since, and what is allowed.

Separate from the rest of that page, whose only table of figures this is.
"""

from collections.abc import Mapping
from decimal import Decimal

from rich.console import RenderableType
from rich.text import Text

from metainf.cli.console import Row, duration, indented, number, printable, table
from metainf.manifests import Chosen, Decision, Figure, format_duration, format_money
from metainf.workload import Budget, BudgetKind, Slo
from metainf_operator.plugin.lookup import Record
from metainf_operator.states import WorkloadState

__all__ = ["limits", "money"]


def limits(workload: WorkloadState, record: Record) -> list[RenderableType]:
    """The table and its notes; nothing of a refusal."""
    chosen = record.decision.chosen
    if chosen is None:
        return []
    figures, seen = dict(chosen.predicted), _seen(record.decision)
    rows: list[Row] = []
    for bound in record.slo.bounds:
        name = f"{bound.metric.value}.{bound.statistic.value}"
        figure = figures.get(name)
        if figure is not None:
            rows.append(_row(str(bound), figure, seen.get(name), bound.bound_s))
    deadline, makespan = record.deadline_s, figures.get("makespan")
    if deadline is not None and makespan is not None:
        rows.append(_row("deadline", makespan, None, deadline))
    rows.append(_cost_row(chosen, record.decision.budget, seen.get("costPerMillionTokens")))
    rows += _throughput_rows(figures, seen)
    columns = ("Limit", "Predicted", "Interval", "Observed", "Allowed", "Used")
    notes = [f"Intervals at confidence {record.decision.confidence.normalize():f}, each figure by itself."]
    together = workload.status.get("confidence")
    if together and not record.state.released:
        notes.append(f"All limits together hold with probability {printable(str(together))}.")
    if record.decision.out_of_distribution:
        notes.append("Outside what the predictor knows: its intervals are widened.")
    notes += _moved(workload, record)
    notes += _watched(workload, record.decision)
    made = table(columns, rows, right=columns[1:])
    return [Text(), indented(made), indented(Text(" ".join(notes), "dim"))]


def _row(label: str, figure: Figure, seen: Decimal | None, bound_s: float) -> Row:
    value, low, high = (float(each) for each in (figure.value, figure.low, figure.high))
    interval = f"{duration(low)} - {duration(high)}"
    observed = "" if seen is None else duration(float(seen))
    return [label, duration(value), interval, observed, format_duration(bound_s), _used(value / bound_s)]


def _seen(decision: Decision) -> dict[str, Decimal]:
    return {} if decision.observed is None else dict(decision.observed.figures)


def _throughput_rows(figures: Mapping[str, Figure], seen: Mapping[str, Decimal]) -> list[Row]:
    """What no limit speaks of, where there is something to hold the prediction against."""
    rows: list[Row] = []
    for name, label in (("outputTokensPerSecond", "tokens/s"), ("requestsPerSecond", "requests/s")):
        figure, observed = figures.get(name), seen.get(name)
        if figure is not None and observed is not None:
            interval = f"{number(figure.low)} - {number(figure.high)}"
            rows.append([label, number(figure.value), interval, number(observed), "", ""])
    return rows


def _watched(workload: WorkloadState, decision: Decision) -> list[str]:
    """What the observed figures rest on, and what cannot be observed."""
    found: list[str] = []
    if decision.observed is not None:
        share = _seen(decision).get("prefixHitRatio")
        hits = "" if share is None else f"; the prefix cache had {share:.0%} of the prompt tokens"
        until = printable(decision.observed.until)
        found.append(f"Observed: {decision.observed.requests} requests until {until}{hits}.")
    unreadable = (workload.status.get("observed") or {}).get("unreadablePods")
    if unreadable:
        found.append(f"Pods whose metrics cannot be read: {printable(str(unreadable))}.")
    return found


def _used(ratio: float) -> Text:
    return Text(f"{ratio:.0%}", "red" if ratio > 1 else "yellow" if ratio > 0.9 else "green")


def _cost_row(chosen: Chosen, budget: Budget, seen: Decimal | None) -> Row:
    costs = {
        BudgetKind.PER_HOUR: chosen.cost_per_hour,
        BudgetKind.PER_MILLION_TOKENS: chosen.cost_per_million_tokens,
        BudgetKind.TOTAL: chosen.cost_total,
    }
    cost = costs[budget.kind]
    unit = budget.unit.replace(" per million output tokens", "/M tokens")
    allowed = f"{format_money(budget.amount)} {unit}"
    if cost is None:
        return ["cost", "", "", "", allowed, ""]
    used = _used(float(cost / budget.amount)) if budget.amount > 0 else ""
    shown = format_money(cost) if budget.kind is BudgetKind.PER_HOUR else number(cost)
    observed = f"{number(seen)} {unit}" if seen is not None and budget.kind is BudgetKind.PER_MILLION_TOKENS else ""
    return ["cost", f"{shown} {unit}", "", observed, allowed, used]


def _moved(workload: WorkloadState, record: Record) -> list[str]:
    """What stands otherwise now than when it was decided."""
    found: list[str] = []
    chosen, manifest = record.decision.chosen, workload.manifest
    now = str(workload.status.get("costPerHour") or "").partition(" ")[0]
    if chosen is not None and now and now != format_money(chosen.cost_per_hour) and not record.state.released:
        then = format_money(chosen.cost_per_hour)
        found.append(f"At today's prices it costs {printable(now)} {chosen.currency}/h; decided at {then}.")
    if manifest is not None and manifest.workload.budget != record.decision.budget:
        found.append(f"The budget is {money(manifest.workload.budget)} now.")
    if manifest is not None and manifest.workload.slo != record.slo:
        found.append(f"The SLO is {_promises(manifest.workload.slo)} now.")
    return found


def _promises(slo: Slo) -> str:
    return ", ".join(f"{bound} {format_duration(bound.bound_s)}" for bound in slo.bounds) or "empty"


def money(budget: Budget) -> str:
    """The amount and its unit."""
    return f"{format_money(budget.amount)} {budget.unit}"
