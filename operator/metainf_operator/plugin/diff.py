"""`kubectl metainf diff`: what differs between two decisions of a workload.

Separate from `explain`, which tells one of them: two records side by side, and only the lines that differ.
"""

import argparse
import re
from collections.abc import Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from metainf.cli.console import Row, date, duration, number, printable, show, table
from metainf.errors import InvalidWorkloadError
from metainf.manifests import Chosen, Decision, format_money
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.plugin.lookup import History, Record, find_workload, read_history

__all__ = ["run"]

_ABSENT = "-"
_SECRET = re.compile(r"key|password|secret|token$|auth", re.IGNORECASE)

Lines = Mapping[str, str]


async def run(args: argparse.Namespace, cluster: ClusterApi) -> int:
    """Print the differences; 0 whether there are any or not."""
    workload = await find_workload(cluster, args.workload, args.namespace)
    history = await read_history(cluster, workload)
    old, new = _pair(history, args.decisions)
    show(_view(history, old, new))
    return 0


def _pair(history: History, names: Sequence[str]) -> tuple[Record, Record]:
    name = history.workload.key
    if len(names) > 2:
        raise InvalidWorkloadError(f"diff compares two decisions, and {len(names)} are named")
    if len(names) == 2:
        return history.named(names[0]), history.named(names[1])
    new = history.active or next(iter(history.records), None)
    if new is None:
        raise InvalidWorkloadError(f"{name}: nothing was decided yet, so there is nothing to compare")
    old = history.named(names[0]) if names else history.previous or next((r for r in history.records if r != new), None)
    if old is None or old == new:
        which = f"{new.name} is the only decision" if old is None else f"{new.name} is the one in force"
        raise InvalidWorkloadError(f"{name}: {which}: name two, as kubectl metainf history {name.name} lists them")
    return old, new


def _view(history: History, old: Record, new: Record) -> list[RenderableType]:
    title = Text.assemble((str(history.workload.key), "bold"), "   ", f"{old.name} -> {new.name}")
    rows: list[Row] = [
        ["phase", old.phase, new.phase, ""],
        ["made (UTC)", date(old.made_at), date(new.made_at), ""],
    ]
    for heading, before, after in _sections(old, new):
        differing = _differing(before, after)
        if differing:
            rows.append([Text(heading, "bold"), "", "", ""])
            rows += ([f"  {name}", _cut(a), _cut(b), _change(a, b)] for name, a, b in differing)
    same = [heading.lower() for heading, a, b in _sections(old, new) if not _differing(a, b) and (a or b)]
    made = table(("", old.digits, new.digits, "Change"), rows, right=("Change",), fold=(old.digits, new.digits))
    parts: list[RenderableType] = [title, Text(), made]
    if _unseen(old, new):
        parts += [
            Text(),
            Text(
                "The inputs differ in what a record does not spell out: methods, placement, scaling, extra arguments, "
                "or the size or labels of a pool.",
                "yellow",
            ),
        ]
    if same:
        parts += [Text(), Text(f"the same: {', '.join(same)}", "dim")]
    return parts


def _sections(old: Record, new: Record) -> list[tuple[str, Lines, Lines]]:
    before, after = old.decision.chosen, new.decision.chosen
    sections = [("Outcome", _outcome(old), _outcome(new))]
    if before is not None and after is not None:
        sections = [("Choice", _choice(before), _choice(after))]
    sections += [
        ("Inputs", _inputs(old), _inputs(new)),
        ("Prices of a node per hour", _prices(old.decision), _prices(new.decision)),
    ]
    if before is None or after is None:
        return sections  # a refusal has no arguments and predicts nothing: there is nothing to set side by side
    return [
        *sections,
        ("Arguments", _arguments(before), _arguments(after)),
        ("Predicted", _predictions(before), _predictions(after)),
    ]


def _differing(before: Lines, after: Lines) -> list[tuple[str, str, str]]:
    names = [*after, *(name for name in before if name not in after)]
    pairs = ((name, before.get(name, _ABSENT), after.get(name, _ABSENT)) for name in names)
    return [(name, a, b) for name, a, b in pairs if a != b]


def _outcome(record: Record) -> Lines:
    """The outcome in short, where one of the two is a refusal."""
    chosen, refusal = record.decision.chosen, record.decision.refusal
    if chosen is not None:
        return {"chosen": record.outcome, "cost per hour": f"{format_money(chosen.cost_per_hour)} {chosen.currency}"}
    lines = {"refused for": record.outcome}
    if refusal is not None and refusal.cheapest_budget is not None:
        budget = refusal.cheapest_budget
        lines["budget that works"] = f"{format_money(budget.amount)} {budget.unit}"
    return lines


def _choice(chosen: Chosen) -> Lines:
    name = chosen.candidate
    costs = {
        "cost per hour": (chosen.cost_per_hour, format_money),
        "cost per 1M tokens": (chosen.cost_per_million_tokens, number),
        "cost in total": (chosen.cost_total, number),
    }
    return {
        "pool": name.pool,
        "accelerator": chosen.accelerator,
        "method": name.method,
        "techniques": ", ".join(chosen.techniques),
        "layout": name.layout,
        "replicas": str(name.replicas),
        **{
            label: f"{formatted(cost)} {chosen.currency}"
            for label, (cost, formatted) in costs.items()
            if cost is not None
        },
    }


def _inputs(record: Record) -> Lines:
    decision = record.decision
    shortened = {path: value[:19] if path.endswith("Digest") else value for path, value in record.inputs}
    predictor = f"{decision.predictor.name} {decision.predictor.digest[:19]}"
    return {
        **shortened,
        "objective": decision.objective.value,
        "confidence": f"{decision.confidence.normalize():f}",
        "predictor": predictor,
    }


def _prices(decision: Decision) -> Lines:
    return {
        pool: f"{format_money(price.per_hour)} {price.currency}, {price.source.value}"
        + (f" {price.as_of}" if price.as_of else "")
        for pool, price in decision.prices
    }


def _arguments(chosen: Chosen) -> Lines:
    """Values by flag. What looks like a secret is not shown: a record may be older than today's checks."""
    lines: dict[str, str] = {}
    flag = "model"
    for argument in chosen.argv:
        if argument.startswith("--"):
            flag, _, value = argument.partition("=")
            lines[flag] = value or "set"
        else:
            lines[flag] = argument if lines.get(flag, "set") == "set" else f"{lines[flag]} {argument}"
    return {name: "(not shown)" if _SECRET.search(name) else value for name, value in lines.items()}


def _predictions(chosen: Chosen) -> Lines:
    names = {"outputTokensPerSecond": "output tokens/s", "requestsPerSecond": "requests/s", "makespan": "makespan"}
    lines: dict[str, str] = {}
    for name, figure in chosen.predicted:
        rate = name.endswith("PerSecond")
        shown = number(figure.value) if rate else duration(float(figure.value))
        lines[names.get(name, name.replace(".", " "))] = shown
    return lines


_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_FIGURE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s)?(?:[ ,].*)?")


def _change(before: str, after: str) -> str:
    """By how much a figure moved; empty where it is none."""
    figures = [_FIGURE.fullmatch(text) for text in (before, after)]
    old, new = (None if m is None else float(m[1]) * _SECONDS.get(m[2] or "s", 1.0) for m in figures)
    if old is None or new is None or old <= 0 or old == new:
        return ""
    ratio = new / old - 1
    return f"{ratio:+.0%}" if abs(ratio) < 10 else f"x{new / old:.0f}"


def _unseen(old: Record, new: Record) -> bool:
    """Whether the digests of the inputs differ and nothing that is recorded of them does."""
    if old.decision.inputs.digest == new.decision.inputs.digest:
        return False
    return not _differing(_inputs(old), _inputs(new)) and not _differing(_prices(old.decision), _prices(new.decision))


def _cut(text: str, most: int = 160) -> str:
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
