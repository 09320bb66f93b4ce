"""`kubectl metainf history`: the decisions of a workload, the latest first.

Separate from `lookup`, which reads them: this is one table.
"""

import argparse

from rich.text import Text

from metainf.cli.console import Row, date, note, show, table
from metainf.manifests import Decision, format_money
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.plugin.lookup import Record, find_workload, read_history

__all__ = ["run"]

_STYLES = {"Active": "bold green", "Refused": "red", "Proposed": "yellow"}


async def run(args: argparse.Namespace, cluster: ClusterApi) -> int:
    """Print the table."""
    workload = await find_workload(cluster, args.workload, args.namespace)
    history = await read_history(cluster, workload)
    for name in history.unreadable:
        note(f"decision {name} cannot be read: another version of MetaInf wrote it, or it was damaged")
    if not history.records:
        note(f"{workload.key}: nothing was decided yet; kubectl metainf explain {workload.key.name} says why")
        return 0
    columns = ("Made (UTC)", "Decision", "Phase", "Choice, or why none", "Cost/h")
    rows = [_row(record) for record in history.records]
    fold = ("Choice, or why none",)
    title = Text.assemble((str(workload.key), "bold"), (f"   decisions are named {workload.key.name}-...", "dim"))
    show([title, Text(), table(columns, rows, right=("Cost/h",), fold=fold)])
    return 0


def _row(record: Record) -> Row:
    chosen = record.decision.chosen
    cost = "" if chosen is None else f"{format_money(chosen.cost_per_hour)} {chosen.currency}"
    phase = Text(record.phase, _STYLES.get(record.phase, ""))
    return [date(record.made_at), record.digits, phase, _choice(record.decision, record.outcome), cost]


def _choice(decision: Decision, outcome: str) -> str:
    refusal = decision.refusal
    if refusal is None:
        return outcome
    budget = refusal.cheapest_budget
    return outcome + (f": {format_money(budget.amount)} {budget.unit} would work" if budget is not None else "")
