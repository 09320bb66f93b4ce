"""What a story has to hand: a namespace, nodes of its own, and the questions that a user would ask kubectl.

Separate from the fixtures, so that a story reads as what is done and what is seen. Pools are of the whole cluster, so
each story makes its nodes and takes them away: none has to know of another's.
"""

import contextlib
import functools
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from e2e.cluster import Cluster, named
from e2e.kube import Kube, KubeError, Object
from e2e.operator_process import OperatorProcess
from e2e.waiting import eventually

__all__ = ["COST", "MODEL", "WORKLOAD_LABEL", "Story", "merged", "pods_that", "workload"]

MODEL = "Qwen/Qwen2.5-7B-Instruct"
COST = "metainf.dev/cost-per-hour"
WORKLOAD_LABEL = "metainf.dev/workload"


def merged(target: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7396) of plain values."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def workload(name: str = "chat", **spec: Any) -> Object:
    """A small chat on a 7B model that one L4 can serve; `spec` is merged into its own."""
    own = {
        "model": {"id": MODEL},
        "traffic": {"requestsPerSecond": "0.5", "inputTokens": {"mean": 500}, "outputTokens": {"mean": 100}},
        "budget": {"perHour": "20"},
        "policy": {"cooldown": "0s"},
    }
    return {
        "apiVersion": "metainf.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": {"name": name},
        "spec": merged(own, spec),
    }


def pods_that(**annotations: str) -> Object:
    """An `engine` whose fake pods behave so: `ready_after="20s"`, `crash="true"`, `stop_after="5s"`."""
    keys = {f"e2e.metainf.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {"podTemplate": {"metadata": {"annotations": keys}}}


@dataclass(eq=False)
class Story:
    """One story's place in the cluster, and its hands and eyes."""

    cluster: Cluster
    kube: Kube
    operator: OperatorProcess | None
    """The one that the fixtures started, if any."""
    prefix: str
    """Begins the names of this story's nodes."""
    nodes: list[str] = field(default_factory=list)
    cleanups: list[Callable[[], object]] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        """The story's own namespace."""
        return self.kube.namespace

    def leaves(self, namespace: str) -> None:
        """Clear another namespace too, when the story is told."""
        self.namespaces.append(namespace)

    # nodes

    def node(self, node: str | Mapping[str, Any], cost: str | None = None, *, name: str | None = None) -> str:
        """Add a node of a kind (`l4`, `h100` ...), or one by its manifest; its name, once it is Ready."""
        (added,) = self.add_nodes([node], cost, names=[name])
        return added

    def add_nodes(
        self,
        nodes: Sequence[str | Mapping[str, Any]],
        cost: str | None = None,
        *,
        names: Sequence[str | None] = (),
    ) -> tuple[str, ...]:
        """Add several nodes at once, then wait for all of them."""
        added = []
        for number, node in enumerate(nodes):
            wish = names[number] if number < len(names) else None
            if isinstance(node, str):
                chosen = wish or f"{self.prefix}-{node}-{len(self.nodes)}"
                manifest: Mapping[str, Any] = named(node, chosen, cost_per_hour=cost)
            else:
                manifest = node
            self.kube.apply(manifest)
            added.append(manifest["metadata"]["name"])
            self.nodes.append(added[-1])
        for each in added:
            eventually(functools.partial(self._assert_node_ready, each))
        with contextlib.suppress(AssertionError):  # an operator that is down, or may not read nodes, has its own story
            eventually(self._assert_nodes_known, within_s=20 if self.operator is not None else 0)
        return tuple(added)

    def _assert_nodes_known(self) -> None:
        """Assert that the operator takes every Ready node for capacity: a choice before that is another one."""
        if self.operator is None:
            return
        ready = 0
        for node in self.kube.list("Node"):
            conditions = node["status"].get("conditions", [])
            is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
            ready += is_ready and not node["spec"].get("unschedulable")
        assert self.operator.usable_nodes() == ready

    def _assert_node_ready(self, name: str) -> None:
        conditions = self.kube.get("Node", name)["status"].get("conditions", [])
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        assert ready, f"node {name} is not Ready"

    def remove_node(self, name: str) -> None:
        """Take a node away, as a cloud does."""
        self.kube.delete("Node", name)
        self.nodes.remove(name)

    def price(self, node: str, cost: str | None, **annotations: str | None) -> None:
        """Change what a node costs per hour."""
        changed = {COST: cost, **annotations}
        self.kube.patch("Node", node, {"metadata": {"annotations": changed}})

    # workloads

    def apply(self, manifest: Mapping[str, Any]) -> Object:
        """Apply as the user."""
        return self.kube.apply(manifest)

    def change(self, name: str, **spec: Any) -> Object:
        """Merge a change into a workload's spec."""
        return self.kube.patch("InferenceWorkload", name, {"spec": spec})

    def status(self, name: str) -> Object:
        """The status of a workload as it stands."""
        read: Object = self.kube.get("InferenceWorkload", name).get("status") or {}
        return read

    def condition(self, name: str, kind: str) -> Object:
        """One condition that speaks of the spec as it is now; an assertion fails where there is none yet."""
        body = self.kube.get("InferenceWorkload", name)
        found = [c for c in (body.get("status") or {}).get("conditions", []) if c["type"] == kind]
        assert found, f"{name} has no condition {kind} yet"
        seen, wanted = found[0]["observedGeneration"], body["metadata"]["generation"]
        assert seen == wanted, f"{kind} of {name} is of generation {seen}, the spec of {wanted}"
        return dict(found[0])

    def says(self, name: str, kind: str, status: str, reason: str | None = None, *, within_s: float = 30.0) -> Object:
        """Wait for a condition; it, whole."""

        def check() -> Object:
            found = self.condition(name, kind)
            right = found["status"] == status and reason in (None, found["reason"])
            wanted = f"{kind}={status}" + (f"/{reason}" if reason else "")
            got = f"{found['status']}/{found['reason']}: {found['message']}"
            assert right, f"{name} says {kind}={got}, not {wanted}"
            return found

        return eventually(check, within_s)

    def ready(self, name: str, within_s: float = 30.0) -> Object:
        """Wait until a workload is Ready; its status then."""
        self.says(name, "Ready", "True", "Serving", within_s=within_s)
        return self.status(name)

    def refused(self, name: str, reason: str, within_s: float = 30.0) -> str:
        """Wait until nothing fits for this reason; the message."""
        return str(self.says(name, "Feasible", "False", reason, within_s=within_s)["message"])

    # what a workload consists of

    def owned(self, kind: str, name: str) -> list[Object]:
        """Objects of a kind that a workload controls, by name."""
        found = [
            item
            for item in self.kube.list(kind)
            if any(
                o["kind"] == "InferenceWorkload" and o["name"] == name
                for o in item["metadata"].get("ownerReferences", [])
            )
        ]
        return sorted(found, key=lambda item: item["metadata"]["name"])

    def deployments(self, name: str) -> list[Object]:
        """A workload's Deployments."""
        return self.owned("Deployment", name)

    def deployment(self, name: str) -> Object:
        """A workload's only Deployment."""
        found = self.deployments(name)
        names = [d["metadata"]["name"] for d in found]
        assert len(found) == 1, f"{name} has {len(found)} Deployments, not one: {names}"
        return found[0]

    def service(self, name: str) -> Object:
        """The Service of a workload's name."""
        found = self.kube.find("Service", name)
        assert found is not None, f"there is no Service {name}"
        return found

    def decisions(self, name: str, phase: str | None = None) -> list[Object]:
        """A workload's decisions, the earliest first; of one phase, or all."""
        found = [d for d in self.owned("InferenceDecision", name)]
        found.sort(key=lambda d: (d["metadata"]["creationTimestamp"], d["metadata"]["name"]))
        return [d for d in found if phase in (None, (d.get("status") or {}).get("phase"))]

    def decision(self, name: str) -> Object:
        """The decision that a workload's status names."""
        return self.kube.get("InferenceDecision", self.status(name)["decisionRef"]["name"])

    def pods(self, name: str) -> list[Object]:
        """A workload's pods that are not on their way out."""
        found = self.kube.list("Pod", f"{WORKLOAD_LABEL}={name}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def events(self, name: str) -> list[Object]:
        """Events about a workload."""
        return [e for e in self.kube.list("Event") if (e.get("regarding") or {}).get("name") == name]

    # the end

    def clear(self) -> None:
        """Take everything of the story away: what it undoes first, then workloads and their pods, then nodes."""
        spaces = [self.kube, *(self.kube.within(name) for name in self.namespaces)]
        with contextlib.ExitStack() as last:
            for name in self.nodes:
                last.callback(self.kube.delete, "Node", name)
            for space in spaces:
                last.callback(space.delete, "Namespace", space.namespace)
            for undo in reversed(self.cleanups):
                undo()
            for space in spaces:
                for each in space.list("InferenceWorkload"):
                    space.delete("InferenceWorkload", each["metadata"]["name"])
            for space in spaces:
                eventually(functools.partial(self._assert_empty, space), within_s=40)

    def _assert_empty(self, space: Kube) -> None:
        """Assert that no pod is left; one whose node is silent would stay for ever, so none is asked twice."""
        pods = [pod["metadata"]["name"] for pod in space.list("Pod")]
        deployments = [each["metadata"]["name"] for each in space.list("Deployment", WORKLOAD_LABEL)]
        if not deployments:
            for name in pods:
                space.delete("Pod", name, grace_s=0)
        assert not (pods or deployments), f"left after the story: {pods} {deployments}"

    def facts(self) -> str:
        """What stands, for whoever reads of a failure."""
        parts = [self._shown("get", "miw,mid,deploy,svc,hpa,pods", "-o", "wide")]
        with contextlib.suppress(KubeError):
            for each in self.kube.list("InferenceWorkload"):
                parts.append(f"{each['metadata']['name']}: {json.dumps(each, indent=1)}")
        parts.append(self._shown("get", "nodes", "-o", "wide"))
        parts.append(self._shown("get", "events", "--sort-by=.lastTimestamp")[-4000:])
        return "\n\n".join(parts)

    def _shown(self, *arguments: str) -> str:
        program = str(self.cluster.bin_dir / "kubectl")
        try:
            done = subprocess.run(
                [program, "-n", self.namespace, *arguments],
                capture_output=True,
                text=True,
                env=self.cluster.environment(),
                timeout=20,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"kubectl {' '.join(arguments)}: no answer"
        return f"$ kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}"
