"""What there is to see of a workload, from the objects as the API server gives them.

Separate and pure, so that what the demo shows, and what it takes for come true, are the same values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

__all__ = ["Rollout", "Sight", "rollout", "sight"]

_SELECTOR = "metainf.dev/serving"
_CANDIDATE = "metainf.dev/candidate"


@dataclass(frozen=True, slots=True)
class Sight:
    """One InferenceWorkload's status, for people. What is not there yet is an empty text."""

    name: str
    ready: str
    reason: str
    why: str
    method: str
    layout: str
    pool: str
    replicas: int
    cost: str
    budget: str
    decision: str

    @property
    def runs(self) -> bool:
        """Whether something is in force for it."""
        return bool(self.method)

    @property
    def cost_per_hour(self) -> Decimal:
        """What it costs now; nothing where nothing runs."""
        return Decimal(self.cost.split()[0]) if self.cost else Decimal(0)


def sight(body: Mapping[str, Any]) -> Sight:
    """Read it off an InferenceWorkload. Conditions that speak of an older spec count as not there."""
    status = body.get("status") or {}
    generation = body["metadata"]["generation"]
    conditions = {c["type"]: c for c in status.get("conditions", ()) if c.get("observedGeneration") == generation}
    ready = conditions.get("Ready", {})
    return Sight(
        name=body["metadata"]["name"],
        ready=ready.get("status", ""),
        reason=ready.get("reason", ""),
        why=_why(conditions, status, (body["spec"].get("slo") or {}).keys()),
        method=status.get("method", ""),
        layout=status.get("layout", ""),
        pool=status.get("pool", ""),
        replicas=status.get("replicas", 0),
        cost=status.get("costPerHour", ""),
        budget=status.get("budget", ""),
        decision=(status.get("decisionRef") or {}).get("name", ""),
    )


def _why(conditions: Mapping[str, Mapping[str, Any]], status: Mapping[str, Any], promised: AbstractSet[str]) -> str:
    """The sentence that says most: what is not well, why it stays though better is there, or what it was chosen by."""
    ready = conditions.get("Ready")
    if ready is None:
        return ""
    if ready["status"] != "True":
        return str(ready["message"])
    decided = conditions.get("Decided", {})
    if decided.get("reason") == "Kept":
        return str(decided["message"])
    predicted = status.get("predicted") or {}
    shown = [f"{metric} {predicted[metric]}" for metric in ("ttft", "tpot") if metric in promised & predicted.keys()]
    figures = ", ".join([*shown, *([predicted["throughput"]] if "throughput" in predicted else [])])
    message = str(conditions.get("Feasible", {}).get("message", ""))
    return f"{message}; predicted: {figures}" if figures else message


@dataclass(frozen=True, slots=True)
class Rollout:
    """Where a workload's replicas are and which of them its Service sends to: a switch, seen from outside."""

    reason: str
    sides: tuple[tuple[str, int, int], ...]
    """Candidate, ready and wanted replicas of each Deployment."""
    serving: str
    """Candidate that the Service sends to."""

    def sentence(self) -> str:
        """One line of it; pools stand for candidates, since a switch of the demo is from one pool to another."""
        sides = ", ".join(f"{_pool(name)} {ready}/{wanted} ready" for name, ready, wanted in self.sides)
        return f"{self.reason}: {sides or 'no replicas'}; the Service sends to {_pool(self.serving) or 'nothing'}"


def _pool(candidate: str) -> str:
    return candidate.partition("/")[0]


def rollout(
    body: Mapping[str, Any], deployments: Sequence[Mapping[str, Any]], service: Mapping[str, Any] | None
) -> Rollout:
    """Read it off a workload, its Deployments and its Service."""
    sides, by_selector = [], {}
    for each in sorted(deployments, key=lambda d: (d["metadata"]["creationTimestamp"], d["metadata"]["name"])):
        candidate = (each["metadata"].get("annotations") or {}).get(_CANDIDATE, each["metadata"]["name"])
        sides.append((candidate, each.get("status", {}).get("availableReplicas", 0), each["spec"].get("replicas", 0)))
        by_selector[each["spec"]["selector"]["matchLabels"].get(_SELECTOR)] = candidate
    target = None if service is None else (service["spec"].get("selector") or {}).get(_SELECTOR)
    return Rollout(sight(body).reason, tuple(sides), by_selector.get(target, ""))
