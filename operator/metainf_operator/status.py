"""The status of a workload and of a pool, from facts.

Separate and pure: what a user reads in `kubectl get` is settled in one place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from metainf.manifests import Decision, InferenceWorkload, format_duration, format_money
from metainf.pools import NodePool
from metainf_operator.children import LABEL_SERVING, LABEL_WORKLOAD, url
from metainf_operator.conditions import Condition, Facts, conditions, merged
from metainf_operator.inventory import PoolRecord

__all__ = ["InForce", "pool_status", "workload_status"]

Status = dict[str, Any]


@dataclass(frozen=True, slots=True)
class InForce:
    """What runs, as the status shows it. `cost` None: its price is not known now."""

    decision: Decision
    serving: str | None
    replicas: int
    cost: Decimal | None
    currency: str
    confidence: float | None


def workload_status(
    workload: InferenceWorkload | None,
    facts: Facts,
    in_force: InForce | None,
    before: Mapping[str, Any],
    *,
    generation: int,
    now: datetime,
) -> Status:
    """The whole status; `before` is the one that stands, for when each condition last changed."""
    status: Status = {
        "observedGeneration": generation,
        "conditions": merged(conditions(facts), before.get("conditions") or (), generation=generation, now=now),
    }
    if facts.decision is not None:
        status["decisionRef"] = {"name": facts.decision}
    if workload is not None:
        budget = workload.workload.budget
        status["budget"] = f"{budget.amount} {budget.unit}"
        status["url"] = url(workload)
    status["replicas"] = 0 if in_force is None else in_force.replicas
    if workload is None or in_force is None or in_force.decision.chosen is None:
        return status
    chosen = in_force.decision.chosen
    status.update(
        method=chosen.candidate.method,
        layout=chosen.candidate.layout,
        pool=chosen.candidate.pool,
        accelerator=chosen.accelerator,
        predicted=_predicted(in_force.decision),
    )
    if in_force.serving is not None:
        status["selector"] = f"{LABEL_WORKLOAD}={workload.name},{LABEL_SERVING}={in_force.serving}"
    if in_force.cost is not None:
        status["costPerHour"] = f"{format_money(in_force.cost)} {in_force.currency}"
    if in_force.confidence is not None:
        # Two digits, rounded down: a figure that moves with every small price would be written all day.
        status["confidence"] = f"{int(in_force.confidence * 100) / 100:.2f}"
    return status


def _predicted(decision: Decision) -> dict[str, str]:
    if decision.chosen is None:
        return {}
    figures = dict(decision.chosen.predicted)
    found: dict[str, str] = {}
    for metric in ("ttft", "tpot"):
        figure = figures.get(f"{metric}.p95")
        if figure is not None:
            found[metric] = f"p95 {format_duration(float(f'{float(figure.value):.3g}'))}"
    tokens = figures.get("outputTokensPerSecond")
    if tokens is not None:
        found["throughput"] = f"{float(tokens.value):.0f} tok/s"
    return found


def pool_status(
    record: PoolRecord | None,
    free: NodePool | None,
    error: str | None,
    overlapping: tuple[str, ...],
    before: Mapping[str, Any],
    *,
    generation: int,
    now: datetime,
) -> Status:
    """The status of an AcceleratorPool: what stands, what is free, the price in force, and what is wrong."""
    computed = [_pool_ready(record, error), _pool_priced(record), _pool_overlapping(overlapping)]
    status: Status = {
        "observedGeneration": generation,
        "conditions": merged(computed, before.get("conditions") or (), generation=generation, now=now),
        "nodes": 0 if record is None else len(record.members),
        "acceleratorsTotal": 0,
        "acceleratorsFree": 0,
    }
    if record is None or free is None:
        return status
    pool = record.pool
    status["acceleratorsTotal"] = sum(node.accelerators_free for node in pool.nodes)
    status["acceleratorsFree"] = sum(
        node.accelerators_free for node in free.nodes if not node.name.startswith("added-")
    )
    if pool.price is not None:
        price = {
            "perHour": f"{pool.price.per_hour.normalize():f}",
            "currency": pool.price.currency,
            "source": pool.price.source.value,
        }
        if pool.price.reference:
            price["reference"] = pool.price.reference[:256]
        if pool.price.as_of:
            price["asOf"] = pool.price.as_of
        status["price"] = price
    return status


def _pool_ready(record: PoolRecord | None, error: str | None) -> Condition:
    if record is None:
        return Condition("Ready", "False", "InvalidSpec", error or "the pool cannot be used")
    if record.problems:
        return Condition("Ready", "False", "NodesDiffer", "; ".join(record.problems)[:1024])
    return Condition("Ready", "True", "Usable", f"nodes of the pool: {len(record.members)}")


def _pool_priced(record: PoolRecord | None) -> Condition:
    price = None if record is None else record.pool.price
    if price is None:
        message = "the price is not known, so nothing is bought here: set spec.price.perHour or annotate the nodes"
        return Condition("PriceKnown", "False", "PriceUnknown", message)
    return Condition(
        "PriceKnown", "True", price.source.value, f"{price.per_hour.normalize():f} {price.currency}/h a node"
    )


def _pool_overlapping(overlapping: tuple[str, ...]) -> Condition:
    if overlapping:
        others = ", ".join(overlapping)
        message = f"some nodes are selected by {others} as well: each counts for the first pool by name"
        return Condition("Overlapping", "True", "NodesShared", message)
    return Condition("Overlapping", "False", "None", "no node is selected by another pool")
