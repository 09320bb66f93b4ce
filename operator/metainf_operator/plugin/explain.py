"""`kubectl metainf explain`: what runs for a workload, and why.

Separate from `plan`: nothing is decided here. What is shown was recorded when it was decided; the conditions and the
cost say how it stands now.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from metainf.cli.console import (
    Row,
    date,
    duration,
    labelled,
    note,
    number,
    printable,
    show,
    table,
)
from metainf.manifests import (
    Alternative,
    Decision,
    InferenceWorkload,
    ObservedTraffic,
    PolicyMode,
    format_money,
)
from metainf.pools import Price
from metainf.workload import BatchLoad, BudgetKind, ConcurrencyLoad, Objective, RateLoad
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.plugin.limits import limits, money
from metainf_operator.plugin.lookup import History, Record, find_workload, read_history
from metainf_operator.states import WorkloadState

__all__ = ["run"]

_SHOWN_RUNNERS_UP = 5
_NOTHING_TO_SAY = ("NoTraffic", "NoSLO", "TooCloseToTell")  # reasons of SLOMet=Unknown, which asks nothing of anybody


async def run(args: argparse.Namespace, cluster: ClusterApi) -> int:
    """Print it; 0 whatever was decided."""
    workload = await find_workload(cluster, args.workload, args.namespace)
    history = await read_history(cluster, workload)
    for name in history.unreadable:
        note(f"decision {name} cannot be read: another version of MetaInf wrote it, or it was damaged")
    show(_view(history, datetime.now(UTC)))
    return 0


def _view(history: History, now: datetime) -> list[RenderableType]:
    workload = history.workload
    record = history.active or next(iter(history.records), None)
    parts: list[RenderableType] = [_title(workload, record), Text()]
    parts += _outcome(history, record)
    if record is not None:
        parts += limits(workload, record)
    parts += _conditions(workload)
    parts += _switching(history, now)
    if record is not None:
        parts += _others(record)
        parts += _rejected(record.decision)
        parts += _prices(record)
        parts += [Text(), Text(_footer(record), "dim")]
    return parts


def _title(workload: WorkloadState, record: Record | None) -> Text:
    facts: list[str] = []
    if workload.manifest is not None:
        policy = workload.manifest.policy
        facts = [workload.manifest.model.id, workload.manifest.workload.objective.value, f"mode {policy.mode.value}"]
        if workload.manifest.suspend:
            facts.append("suspended")
    if record is not None:
        facts.append(f"vLLM {record.decision.inputs.engine_version}")
    return Text.assemble((str(workload.key), "bold"), ("   " + printable(", ".join(facts)), "dim"))


# what was decided


def _outcome(history: History, record: Record | None) -> list[RenderableType]:
    if record is None:
        return [labelled("Nothing", "was decided for this workload yet: the conditions say why")]
    if record.decision.refusal is not None:
        return _refusal(record)
    lines = _runs(history, record) if record == history.active else []
    proposal = history.proposal
    if proposal is not None:
        lines.append(labelled("Proposed", f"{proposal.outcome}   {proposal.name}, {date(proposal.made_at)} UTC"))
        lines.append(labelled("", f"kubectl metainf pin {history.workload.key.name} approves it", "dim"))
    elif record != history.active:
        lines.append(labelled("Nothing", f"is in force; the latest decision is {record.name}: {record.outcome}"))
    latest = history.records[0]
    if latest != record and latest.decision.refusal is not None:
        lines.append(labelled("Since then", f"{latest.outcome}: {latest.decision.refusal.message}", "bold yellow"))
    return lines


def _runs(history: History, record: Record) -> list[RenderableType]:
    chosen = record.decision.chosen
    if chosen is None:
        return []
    devices = f"{chosen.accelerators_per_replica} x " if chosen.accelerators_per_replica > 1 else ""
    verb, style = ("Chosen", "bold yellow") if record.state.released else ("Runs", "bold green")
    lines: list[RenderableType] = [
        labelled(verb, Text(f"{record.outcome}, {devices}{printable(chosen.accelerator)} each", "bold"), style)
    ]
    since = date(record.state.activated_at)
    released = ", released: it runs nothing now" if record.state.released else ""
    lines.append(labelled("", f"{record.name}, in force since {since} UTC{released}"))
    if chosen.techniques:
        lines.append(labelled("", Text(printable(", ".join(chosen.techniques)), "dim")))
    if record.decision.inputs.observed is not None:
        lines.append(labelled("", Text(_decided_by(record.decision.inputs.observed), "dim")))
    url = history.workload.status.get("url")
    if url and not record.state.released:
        lines.append(labelled("", Text(printable(str(url)), "dim")))
    return lines


def _decided_by(observed: ObservedTraffic) -> str:
    """The traffic that was seen and decided by."""
    traffic = observed.traffic
    match traffic.load:
        case RateLoad(rate):
            load = f"{rate:g} requests/s"
        case ConcurrencyLoad(clients):
            load = f"{clients} clients"
        case BatchLoad(requests, _):
            load = f"{requests} requests"
    lengths = f"{traffic.input_tokens.mean_tokens:g} tokens in and {traffic.output_tokens.mean_tokens:g} out"
    return f"by observed traffic: {load}, {lengths} ({observed.requests} requests until {date(observed.until)} UTC)"


def _refusal(record: Record) -> list[RenderableType]:
    refusal = record.decision.refusal
    if refusal is None:
        return []
    lines: list[RenderableType] = [
        labelled(
            "Refused", Text.assemble((refusal.limit, "bold"), f": {printable(refusal.message)}"), style="bold red"
        ),
    ]
    if refusal.cheapest_budget is not None:
        asked = money(record.decision.budget)
        lines.append(
            labelled("Instead", f"a budget of {money(refusal.cheapest_budget)} would work; {asked} may be spent")
        )
    lines.append(labelled("", Text(f"{record.name}, {date(record.made_at)} UTC", "dim")))
    return lines


# conditions


def _conditions(workload: WorkloadState) -> list[RenderableType]:
    status = workload.status
    conditions: Sequence[Mapping[str, Any]] = status.get("conditions") or ()
    if not conditions:
        return [Text(), Text("The operator has not looked at this workload yet: does it run?", "yellow")]
    parts: list[RenderableType] = [Text()]
    seen = int(status.get("observedGeneration") or 0)
    if seen < workload.generation:
        parts.append(
            Text(f"The operator has seen generation {seen} of {workload.generation}: what follows is older.", "yellow")
        )
    rows: list[Row] = []
    told: set[str] = set()
    quiet: list[str] = []
    for condition in conditions:
        kind, state = str(condition.get("type")), str(condition.get("status"))
        reason, message = str(condition.get("reason")), str(condition.get("message"))
        if state == "True" and reason != "Kept":
            continue
        if reason in _NOTHING_TO_SAY:
            quiet.append(f"{kind} is {state}: {message}")
            continue
        style = "red" if state == "False" else "yellow" if kind == "Ready" else ""
        again = message in told and "as above"
        told.add(message)
        rows.append([kind, Text(printable(state), style), reason, Text(printable(again or message))])
    if not rows:
        but = f" but {'; '.join(quiet)}" if quiet else ""
        return [*parts, labelled("Fine", f"every condition is True{but}", "bold green")]
    return [*parts, table(("Not fine", "Status", "Reason", "Message"), rows, fold=("Message",))]


# switching


def _switching(history: History, now: datetime) -> list[RenderableType]:
    workload, active = history.workload.manifest, history.active
    if workload is None or active is None:
        return []
    lines: list[RenderableType] = [Text()]
    before = history.previous
    since = date(active.state.activated_at)
    if before is not None and before.decision.chosen is not None:
        lines.append(labelled("Switched", f"{since} UTC, from {before.outcome} ({before.name})"))
    else:
        lines.append(labelled("Switched", f"never: in force since {since} UTC"))
    lines.append(labelled("To switch", _needs(workload, active, now)))
    return lines


def _needs(workload: InferenceWorkload, active: Record, now: datetime) -> str:
    policy = workload.policy
    if policy.mode is PolicyMode.PINNED:
        return f"change or take away the pin: kubectl metainf unpin {workload.name}"
    gain = f"a gain above {policy.minimum_gain_ratio:.0%} (policy.minimumGain) plus the switch's own cost"
    needs = [gain + _inmoney(workload, active)]
    over = (active.state.activated_at or now) + timedelta(seconds=policy.cooldown_s)
    if over > now:
        needs.append(f"after {date(over)} UTC (policy.cooldown)")
    approval = ", and then your approval (mode Recommend)" if policy.mode is PolicyMode.RECOMMEND else ""
    return f"{', '.join(needs)}{approval}; a broken limit needs neither"


def _inmoney(workload: InferenceWorkload, active: Record) -> str:
    """The same in money, where the objective is the price per hour."""
    chosen = active.decision.chosen
    asked = workload.workload
    if chosen is None or asked.objective is not Objective.MINIMIZE_COST or asked.budget.kind is not BudgetKind.PER_HOUR:
        return ""
    most = chosen.cost_per_hour * (1 - Decimal(repr(workload.policy.minimum_gain_ratio)))
    return f", so below {format_money(most.quantize(Decimal('0.01')))} {chosen.currency}/h" if most > 0 else ""


# the rest


def _others(record: Record) -> list[RenderableType]:
    decision = record.decision
    if not decision.alternatives:
        return []
    # The clients of a batch do not wait for single answers: how fast it gets done is what tells candidates apart.
    batch = record.deadline_s is not None
    names = ("outputTokensPerSecond",) if batch else ("ttftP95", "tpotP95")
    formatted = number if batch else _latency
    rows: list[Row] = []
    for other in decision.alternatives[:_SHOWN_RUNNERS_UP]:
        figures = dict(other.predicted)
        cells = [formatted(figures[name]) if name in figures else "" for name in names]
        rows.append([str(other.candidate), format_money(other.cost_per_hour), *cells, _why_not(other)])
    heading = "Runners-up" if decision.chosen is not None else "Nearest"
    columns = (heading, "Cost/h", *(("Tokens/s",) if batch else ("TTFT p95", "TPOT p95")), "Why not")
    parts: list[RenderableType] = [Text(), table(columns, rows, right=columns[1:-1], fold=(heading, "Why not"))]
    left = len(decision.alternatives) - _SHOWN_RUNNERS_UP
    if left > 0:
        parts.append(Text(f"{left} more: kubectl get inferencedecision {decision.head.name} -o yaml", "dim"))
    return parts


def _latency(seconds: Decimal) -> str:
    return duration(float(seconds))


def _why_not(other: Alternative) -> str:
    """The recorded verdict without what the row and the heading say already."""
    text = re.sub(r" at confidence [0-9.]+", "", other.verdict.replace(f" of {other.candidate}", ""))
    return text.removeprefix("keeps every limit, ").removeprefix("but ").removeprefix("and ")


def _rejected(decision: Decision) -> list[RenderableType]:
    rows: list[Row] = [[r.reason, str(r.count), Text(printable(r.detail), "dim")] for r in decision.rejections]
    if not rows:
        return []
    return [Text(), table(("Rejected", "Count", "Nearest miss"), rows, right=("Count",), fold=("Nearest miss",))]


def _prices(record: Record) -> list[RenderableType]:
    rows = [
        [
            pool,
            _price(price),
            price.source.value,
            price.as_of or "",
            price.reference,
        ]
        for pool, price in record.decision.prices
    ]
    if not rows:
        return []
    columns = ("Prices then", "A node an hour", "Source", "As of", "Reference")
    return [Text(), table(columns, rows, right=("A node an hour",), fold=("Reference",))]


def _price(price: Price) -> str:
    return f"{format_money(price.per_hour)} {price.currency}"


def _footer(record: Record) -> str:
    decision = record.decision
    predictor = f"predictor {decision.predictor.name} ({decision.predictor.digest[:19]})"
    return printable(f"{predictor}, decided {date(record.made_at)} UTC, inputs {decision.inputs.digest[:19]}")
