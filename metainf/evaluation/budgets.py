"""What a task of the corpus may cost: a budget for each, drawn around what it costs under vLLM's default.

Separate from the prices, which say what an hour costs, and from whatever is held against a budget: the tables of
methods, the calibrated decisions and the study of the operator's choice must mean the same by it.

A corpus's tasks have traffic and promises but no budget, so one is drawn. Its kind goes by the traffic: per hour for a
rate, per million output tokens for a closed loop, in total for a batch. Its amount is a factor times the expected cost:
what the default truly costs on the task's own place, by the rows that the corpus has, at assumed prices; where the
default keeps no promise or has no row, what the median of the methods that do costs.

The factor is log-uniform between 0.8 and 2.5, by a checksum of the workload: one workload has one factor on all of its
places. In a fifth of the tasks it is below 1, so that only a method that is cheaper than the default will do, or none;
in the others the budget forbids what is dearer by so much. The range is assumed. Rejected: a factor on what the
cheapest method costs, which nobody knows beforehand, and with which no budget would ever be too low.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metainf.corpus.budget_kinds import budget_kind
from metainf.corpus.task import Task
from metainf.evaluation.prices import assumed_usd_per_hour
from metainf.layouts import Layout
from metainf.measurements import Purpose, Source
from metainf.methods import portfolio
from metainf.workload import BatchLoad, Budget, ConcurrencyLoad, RateLoad

__all__ = [
    "COST_COLUMNS",
    "FACTORS",
    "budget_factor",
    "budget_of",
    "closed_loop_usd",
    "expected_costs",
    "expected_usd",
    "replica_usd_per_hour",
    "score_rows",
    "task_budgets",
    "usd_of",
]

FACTORS = (0.8, 2.5)
"""Least and largest of a budget over the expected cost."""
COST_COLUMNS = ("task", "method", "seed", "performance", "makespan_s", "e2e_mean_s", "output_tokens")
"""What of a score row a cost hangs on."""
_LEAST_AMOUNT = Decimal("0.000001")  # of six decimals, as manifests have them
_DIGITS = 6
_SECONDS_PER_HOUR = 3600.0
_MILLION = 1e6
_ROUNDING = 1e-9


def budget_factor(task: Task) -> float:
    """The task's budget over its expected cost, within FACTORS: log-uniform, and the same on every place."""
    workload = replace(task, accelerator="", layout=Layout())
    digest = hashlib.sha256(f"budget/{workload.key}".encode()).digest()
    share = int.from_bytes(digest[:6], "big") / float(1 << 48)
    low, high = FACTORS
    return float(low * (high / low) ** share)


def budget_of(task: Task, expected: float) -> Budget:
    """The task's budget where so much is expected, USD in the unit of its kind."""
    amount = Decimal(repr(round(budget_factor(task) * expected, _DIGITS)))
    return Budget(budget_kind(task.kind), max(amount, _LEAST_AMOUNT))


def replica_usd_per_hour(task: Task) -> float:
    """What an hour of one replica on the task's place costs, by its accelerators."""
    return assumed_usd_per_hour(task.accelerator) * task.layout.accelerators


def usd_of(task: Task, score: Mapping[str, Any], *, requests_per_second: float | None = None) -> float:
    """What a method truly costs, USD in the unit of the task's budget; infinite where no load keeps its promises.

    Parameters
    ----------
    score : a row of purpose SCORE, by COST_COLUMNS
    requests_per_second : float, optional
        Of a rate: what whole replicas have to carry. None: a fleet so large that it can be any number of them, USD per
        hour for each request per second.
    """
    per_hour = replica_usd_per_hour(task)
    load = task.traffic.load
    if isinstance(load, BatchLoad):
        makespan_s: float | None = score["makespan_s"]
        return per_hour * makespan_s / _SECONDS_PER_HOUR if makespan_s else math.inf
    if isinstance(load, ConcurrencyLoad):
        tokens: float = score["output_tokens"] or task.traffic.output_tokens.mean_tokens
        return closed_loop_usd(per_hour, load.concurrency, score["e2e_mean_s"], tokens)
    performance: float = score["performance"] or 0.0
    rate = performance * task.layout.accelerators
    if not rate > 0.0:
        return math.inf
    if requests_per_second is None:
        return per_hour / rate
    return per_hour * math.ceil(requests_per_second / rate - _ROUNDING)


def closed_loop_usd(usd_per_hour: float, clients: int, e2e_mean_s: float | None, output_tokens: float) -> float:
    """USD per million output tokens of so many clients, all of whose tokens count, by Little's law.

    Parameters
    ----------
    e2e_mean_s : float or None
        Mean of what a client waits for an answer, of `output_tokens` in the mean; None where that is not known.
    """
    if not (e2e_mean_s and math.isfinite(e2e_mean_s)):
        return math.inf
    tokens_per_second = clients / e2e_mean_s * output_tokens
    return usd_per_hour / _SECONDS_PER_HOUR / tokens_per_second * _MILLION


def expected_usd(default: float, every: Iterable[float]) -> float:
    """What a task is expected to cost: as under the default, or as under the median of the methods that have a cost.

    Infinite where none has.
    """
    if math.isfinite(default):
        return default
    known = [usd for usd in every if math.isfinite(usd)]
    return float(np.median(known)) if known else math.inf


def expected_costs(costs: Iterable[tuple[str, str, float]]) -> Mapping[str, float]:
    """What each task is expected to cost, from (task, method, USD) of every repeat; without tasks that nothing serves.

    Repeats count by their geometric mean, and one that failed makes its method infinitely dear.
    """
    logs: dict[str, dict[str, list[float]]] = {}
    for task, method, usd in costs:
        logs.setdefault(task, {}).setdefault(method, []).append(math.log(usd))
    default = portfolio()[0].name
    found = {}
    for task, methods in logs.items():
        mean = {method: math.exp(sum(each) / len(each)) for method, each in methods.items()}
        usd = expected_usd(mean.get(default, math.inf), mean.values())
        if math.isfinite(usd):
            found[task] = usd
    return found


def score_rows(table: pa.Table, tasks: Collection[str], columns: Sequence[str] = COST_COLUMNS) -> list[dict[str, Any]]:
    """The simulated score rows about the tasks of these keys, each by name of the column."""
    keep = pc.and_(
        pc.is_in(table.column("task"), value_set=pa.array(list(tasks), pa.string())),
        pc.and_(
            pc.equal(table.column("source"), Source.SIMULATION.value),
            pc.equal(table.column("purpose"), Purpose.SCORE.value),
        ),
    )
    rows: list[dict[str, Any]] = table.filter(keep).select(list(columns)).to_pylist()
    return rows


def task_budgets(table: pa.Table, tasks: Iterable[Task]) -> Mapping[str, Budget]:
    """By key the budget of each task that some method serves, where replicas carry the declared rate.

    Parameters
    ----------
    table : pyarrow.Table
        Rows of one world, or of each task's own.
    """
    by_key = {task.key: task for task in tasks}
    costs = (
        (row["task"], row["method"], _usd_under_load(by_key[row["task"]], row)) for row in score_rows(table, by_key)
    )
    return {key: budget_of(by_key[key], usd) for key, usd in expected_costs(costs).items()}


def _usd_under_load(task: Task, score: Mapping[str, Any]) -> float:
    load = task.traffic.load
    return usd_of(task, score, requests_per_second=load.requests_per_second if isinstance(load, RateLoad) else None)
