"""What the demo has in hand: the API server, the operator, the screen, and one way to wait for what it tells.

Separate from the tale, whose lines it keeps short. Waiting looks at the workloads several times a second, shows what it
sees, and ends at once where the operator does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from e2e.cluster import Cluster
from e2e.demo.screen import Screen
from e2e.demo.sights import Rollout, Sight, rollout, sight
from e2e.kube import Kube, KubeError
from e2e.operator_process import OperatorProcess

__all__ = ["Stage", "TaleError"]

NAMESPACE = "default"
_LOOK_EVERY_S = 0.2
_WORKLOAD = "metainf.dev/workload"


class TaleError(Exception):
    """What was told did not come true; the message says what was awaited and what was seen instead."""


@dataclass(eq=False)
class Stage:
    """The cluster of the demo and who acts in it."""

    cluster: Cluster
    kube: Kube
    operator: OperatorProcess
    screen: Screen
    order: tuple[str, ...] = ()
    """Names of the workloads as they are to be shown."""

    def sights(self) -> list[Sight]:
        """All workloads that are told of."""
        found = {body["metadata"]["name"]: sight(body) for body in self.kube.list("InferenceWorkload")}
        return [found[name] for name in self.order if name in found]

    def sight(self, name: str) -> Sight:
        """One workload."""
        return sight(self.kube.get("InferenceWorkload", name))

    def rollout(self, name: str) -> Rollout:
        """Where a workload's replicas are."""
        body = self.kube.get("InferenceWorkload", name)
        deployments = self.kube.list("Deployment", f"{_WORKLOAD}={name}")
        return rollout(body, deployments, self.kube.find("Service", name))

    def decision(self, name: str) -> dict[str, Any]:
        """The record that a workload's status names."""
        return self.kube.get("InferenceDecision", self.sight(name).decision)

    def until(self, what: str, holds: Callable[[], str], within_s: float = 45.0) -> None:
        """Look and show until `holds` gives no complaint; TaleError with the last one where it never does."""
        until_s = time.monotonic() + within_s
        while True:
            if not self.operator.running:
                raise TaleError(f"waiting for {what}: the operator has ended")
            try:
                self.screen.look(self.sights())
                complaint = holds()
            except KubeError as error:
                complaint = str(error)
            if not complaint:
                return
            if time.monotonic() > until_s:
                raise TaleError(f"waiting {within_s:g} s for {what}: {complaint}")
            time.sleep(_LOOK_EVERY_S)

    def is_so(self, name: str, ready: str, reason: str) -> str:
        """Nothing where a workload's Ready says so; else what it says."""
        seen = self.sight(name)
        if (seen.ready, seen.reason) == (ready, reason):
            return ""
        says = f"{seen.ready}/{seen.reason}: {seen.why}" if seen.ready else "without a word yet"
        return f"{name} is {says}, not {ready}/{reason}"

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """One condition of a workload that speaks of its present spec; empty where there is none yet."""
        body = self.kube.get("InferenceWorkload", name)
        generation = body["metadata"]["generation"]
        conditions = (body.get("status") or {}).get("conditions", ())
        found = [c for c in conditions if c["type"] == kind and c.get("observedGeneration") == generation]
        return dict(found[0]) if found else {}
