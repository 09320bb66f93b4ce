"""What of each watched object is kept in memory: JSON in, small frozen values out.

Separate because caches hold these instead of whole objects, and because objects come from others: whatever is odd in
them must end here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from metainf.pools import Taint
from metainf.workload import Toleration
from metainf_operator.children import (
    ANNOTATION_DECISION,
    ANNOTATION_DIGEST,
    ANNOTATION_SWITCHED_AT,
    ENGINE_CONTAINER,
    HOSTNAME_LABEL,
    LABEL_SERVING,
    LABEL_WORKLOAD,
    packs,
)
from metainf_operator.engine_pods import engine_pod
from metainf_operator.ledger import PodUse, WorkloadKey
from metainf_operator.node_labels import NodeAccelerators, read_accelerators
from metainf_operator.node_origin import NodeOrigin, read_origin
from metainf_operator.pod_troubles import pod_trouble
from metainf_operator.quantities import quantity_or_none
from metainf_operator.rollout import ObservedDeployment

__all__ = [
    "ChildState",
    "NodeFacts",
    "project_child",
    "project_deployment",
    "project_node",
    "project_pod",
    "service_ports",
    "timestamp",
]

PRICE_ANNOTATION = "metainf.dev/cost-per-hour"
CURRENCY_ANNOTATION = "metainf.dev/cost-currency"
PRICE_DATE_ANNOTATION = "metainf.dev/cost-as-of"

# Beyond these a figure is a slip of the pen, and would be rounded to nothing or break the arithmetic of money.
_CHEAPEST, _DEAREST = Decimal("0.000001"), Decimal(1_000_000_000)

_TERMINAL_PHASES = ("Succeeded", "Failed")
_REVISION = "deployment.kubernetes.io/revision"


def timestamp(text: object) -> datetime | None:
    """A time as the API server writes it; None for what is none."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node: what it offers, how it was bought, and whether pods may go there now.

    `taints` are those that keep pods out for good or for as long as a person wants. `starting`: it is well and takes
    pods as soon as its own agents are up; it is not `usable` before.
    """

    name: str
    labels: tuple[tuple[str, str], ...]
    accelerators: NodeAccelerators
    origin: NodeOrigin
    cpu_cores: float
    memory_bytes: int
    usable: bool
    starting: bool
    taints: tuple[Taint, ...]
    price: Decimal | None
    price_problem: str | None
    currency: str
    price_as_of: str | None

    @property
    def label_map(self) -> Mapping[str, str]:
        """The labels as a mapping."""
        return dict(self.labels)

    @property
    def hostname(self) -> str:
        """What pods name the node by: its label, which on some clouds is another than its name."""
        return self.label_map.get(HOSTNAME_LABEL, self.name)


# Keeps nobody out, and comes and goes: the Cluster Autoscaler marks nodes that it may remove with one whose value is a
# timestamp. As part of a node's kind each of them would make a pool of its own.
_SOFT_TAINT = "PreferNoSchedule"
# Taints that Kubernetes itself sets on nodes that are not well: the node's conditions say the same.
_UNWELL = (
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/",
)
# Taints that keep pods away from a new node until an agent of its own is up. They go within a minute, and every node
# that an autoscaler adds has them: as part of what a pool is they would close it each time. Sources: the Cluster
# Autoscaler's FAQ on taints, the Node Readiness Controller's (kubernetes.io/blog/2026/02/03). The agents' own are named
# after what they say: node.cilium.io/agent-not-ready, ebs.csi.aws.com/agent-not-ready, cni.istio.io/not-ready.
_STARTING = (
    "startup-taint.cluster-autoscaler.kubernetes.io/",
    "ignore-taint.cluster-autoscaler.kubernetes.io/",
    "readiness.k8s.io/",
)
_STARTING_END = "not-ready"
# Labels that differ on every node and say nothing of its kind; they would only cost memory.
_PER_NODE_LABELS = frozenset({"volumes.kubernetes.io/controller-managed-attach-detach"})


def project_node(body: Mapping[str, Any]) -> NodeFacts:
    """The facts of a Node."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels: dict[str, str] = {k: v for k, v in (metadata.get("labels") or {}).items() if k not in _PER_NODE_LABELS}
    annotations = metadata.get("annotations") or {}
    allocatable = status.get("allocatable") or {}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    found = tuple(
        Taint(str(t.get("key", "")), t.get("value") or "", t.get("effect", "")) for t in spec.get("taints") or ()
    )
    taints = [t for t in found if t.effect != _SOFT_TAINT and not t.key.startswith(_UNWELL)]
    starts = [t for t in taints if t.key.startswith(_STARTING) or t.key.endswith(_STARTING_END)]
    unwell = any(t.key.startswith(_UNWELL) for t in found)
    well = ready and not unwell and not spec.get("unschedulable") and not metadata.get("deletionTimestamp")
    price, problem = _annotated_price(metadata["name"], annotations)
    return NodeFacts(
        name=metadata["name"],
        labels=tuple(sorted(labels.items())),
        accelerators=read_accelerators(labels, allocatable),
        origin=read_origin(labels),
        cpu_cores=float(quantity_or_none(allocatable.get("cpu")) or 0),
        memory_bytes=int(quantity_or_none(allocatable.get("memory")) or 0),
        usable=well and not starts,
        starting=well and bool(starts),
        taints=tuple(sorted((t for t in taints if t not in starts), key=lambda t: (t.key, t.value, t.effect))),
        price=price,
        price_problem=problem,
        currency=annotations.get(CURRENCY_ANNOTATION) or "USD",
        price_as_of=annotations.get(PRICE_DATE_ANNOTATION),
    )


def _annotated_price(node: str, annotations: Mapping[str, str]) -> tuple[Decimal | None, str | None]:
    text = annotations.get(PRICE_ANNOTATION)
    if text is None:
        return None, None
    try:
        price = Decimal(text.strip())
    except InvalidOperation:
        return None, f'node {node}: {PRICE_ANNOTATION} "{text[:40]}" is no decimal number, such as "12.50"'
    if not price.is_finite() or price <= 0:
        return None, f'node {node}: {PRICE_ANNOTATION} "{text[:40]}" is not above zero: unknown, never free'
    if not _CHEAPEST <= price <= _DEAREST:
        return None, f'node {node}: {PRICE_ANNOTATION} "{text[:40]}" is no price that a node can have'
    return price, None


def project_pod(body: Mapping[str, Any]) -> PodUse | None:
    """What a pod takes of its node; None for one that takes nothing: finished, or bound nowhere and not in trouble."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    if status.get("phase") in _TERMINAL_PHASES:
        return None
    labels = metadata.get("labels") or {}
    owner = labels.get(LABEL_WORKLOAD) if LABEL_SERVING in labels else None
    workload = WorkloadKey(metadata["namespace"], owner) if owner else None
    trouble = pod_trouble(body) if owner else None
    serving = str(labels[LABEL_SERVING]) if owner else ""
    node = spec.get("nodeName")
    if not node:
        return None if trouble is None else PodUse("", 0, 0.0, 0, workload, trouble=trouble, serving=serving)
    totals: dict[str, Decimal] = {}
    for container in spec.get("containers") or ():
        _add(totals, (container.get("resources") or {}).get("requests") or {})
    sidecars: dict[str, Decimal] = {}
    peak: dict[str, Decimal] = {}
    for container in spec.get("initContainers") or ():
        requests = (container.get("resources") or {}).get("requests") or {}
        if container.get("restartPolicy") == "Always":
            _add(sidecars, requests)
        else:
            for name, text in requests.items():
                peak[name] = max(peak.get(name, Decimal(0)), quantity_or_none(text) or Decimal(0))
    for name in {*totals, *sidecars, *peak}:
        running = totals.get(name, Decimal(0)) + sidecars.get(name, Decimal(0))
        totals[name] = max(running, peak.get(name, Decimal(0)))
    _add(totals, spec.get("overhead") or {})
    return PodUse(
        node=node,
        accelerators=sum(int(count) for name, count in totals.items() if _is_accelerator(name)),
        cpu_cores=float(totals.get("cpu", 0)),
        memory_bytes=int(totals.get("memory", 0)),
        workload=workload,
        terminating=bool(metadata.get("deletionTimestamp")),
        engine=engine_pod(body) if owner else None,
        trouble=trouble,
        serving=serving,
        engine_cpu_cores=_engine_cpu_cores(spec) if owner else None,
        tolerations=_tolerations(spec) if owner else (),
    )


def _tolerations(spec: Mapping[str, Any]) -> tuple[Toleration, ...]:
    return tuple(
        Toleration(t.get("key"), t.get("operator") or "Equal", t.get("value") or "", t.get("effect") or None)
        for t in spec.get("tolerations") or ()
    )


def _engine_cpu_cores(spec: Mapping[str, Any]) -> float | None:
    """What the engine's container alone requests: a user's sidecar beside it makes no other replica of it."""
    for container in spec.get("containers") or ():
        if container.get("name") == ENGINE_CONTAINER:
            requests = (container.get("resources") or {}).get("requests") or {}
            return float(quantity_or_none(requests.get("cpu")) or 0)
    return None


def _add(totals: dict[str, Decimal], requests: Mapping[str, str]) -> None:
    for name, text in requests.items():
        totals[name] = totals.get(name, Decimal(0)) + (quantity_or_none(text) or Decimal(0))


def _is_accelerator(resource: str) -> bool:
    """Extended resources of accelerators; of others (network cards, huge pages) a node has no count here."""
    vendor, _, name = resource.partition("/")
    if vendor == "nvidia.com":
        return name.startswith(("gpu", "mig-"))
    return resource in ("amd.com/gpu", "habana.ai/gaudi") or (vendor == "gpu.intel.com" and name in ("i915", "xe"))


@dataclass(frozen=True, slots=True)
class ChildState:
    """A child as it stands: whose it is, which wish it was made from, and what a user may have changed.

    Of a Deployment's pods: `hostnames` are the nodes that they are kept to by name, none where labels alone do that;
    `packed` says that they prefer nodes with pods of ours.
    """

    kind: str
    name: str
    namespace: str
    uid: str
    owner_uid: str | None
    workload: str | None
    digest: str | None
    generation: int
    serving: str | None
    switched_at: datetime | None = None
    selector: tuple[tuple[str, str], ...] = ()
    ports: tuple[tuple[str, int, str], ...] = ()
    deployment: ObservedDeployment | None = None
    terminating: bool = False
    decision: str | None = None
    surge: bool | None = None
    hostnames: tuple[str, ...] = ()
    packed: bool = False


def _controller(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((o for o in metadata.get("ownerReferences") or () if o.get("controller")), {})


def controller_uid(metadata: Mapping[str, Any]) -> str | None:
    """The uid of the controlling owner."""
    return _controller(metadata).get("uid")


def service_ports(spec: Mapping[str, Any]) -> tuple[tuple[str, int, str], ...]:
    """Name, port and target of each port of a Service's spec."""
    return tuple(
        (str(p.get("name", "")), int(p.get("port", 0)), str(p.get("targetPort", ""))) for p in spec.get("ports") or ()
    )


def project_child(body: Mapping[str, Any]) -> ChildState | None:
    """A Service or a PodDisruptionBudget; None where no InferenceWorkload controls it, whatever its labels say."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    owner = _controller(metadata)
    if owner.get("kind") != "InferenceWorkload":
        return None
    annotations = metadata.get("annotations") or {}
    selector = spec.get("selector") or {}
    labels = selector.get("matchLabels", selector)
    return ChildState(
        kind=str(body.get("kind", "")),
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=str(metadata.get("uid", "")),
        owner_uid=owner.get("uid"),
        workload=owner.get("name"),
        digest=annotations.get(ANNOTATION_DIGEST),
        generation=int(metadata.get("generation") or 0),
        serving=labels.get(LABEL_SERVING),
        switched_at=timestamp(annotations.get(ANNOTATION_SWITCHED_AT)),
        selector=tuple(sorted((str(k), str(v)) for k, v in labels.items())),
        ports=service_ports(spec),
        terminating=bool(metadata.get("deletionTimestamp")),
    )


def project_deployment(body: Mapping[str, Any]) -> ChildState | None:
    """A Deployment of ours."""
    child = project_child(body)
    if child is None:
        return None
    spec, status = body.get("spec") or {}, body.get("status") or {}
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    progressing = conditions.get("Progressing") or {}
    failure = conditions.get("ReplicaFailure") or {}
    overdue = progressing.get("reason") == "ProgressDeadlineExceeded"
    served = _served(progressing, body["metadata"], status)
    observed = ObservedDeployment(
        name=child.name,
        serving=child.serving or "",
        generation=child.generation,
        observed_generation=int(status.get("observedGeneration") or 0),
        replicas=int(spec.get("replicas") or 0),
        updated=int(status.get("updatedReplicas") or 0),
        available=int(status.get("availableReplicas") or 0),
        deadline_exceeded=overdue,
        message=str(failure.get("message") or progressing.get("message") or "")[:512],
        served=served,
        rolling=not (served or overdue) and _replaces(body["metadata"], spec, status),
    )
    affinity = ((spec.get("template") or {}).get("spec") or {}).get("affinity") or {}
    return replace(
        child,
        deployment=observed,
        decision=(body["metadata"].get("annotations") or {}).get(ANNOTATION_DECISION),
        surge=bool(((spec.get("strategy") or {}).get("rollingUpdate") or {}).get("maxSurge")),
        hostnames=_hostnames(affinity.get("nodeAffinity") or {}),
        packed=packs(affinity),
    )


def _served(progressing: Mapping[str, Any], metadata: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether all replicas of the newest template were available at once.

    Kubernetes sets the reason then, and it outlives pods that are not ready any more. Of a template that was changed
    since it says nothing. Source: kubernetes, pkg/controller/deployment/progress.go.
    """
    current = int(status.get("observedGeneration") or 0) >= int(metadata.get("generation") or 0)
    return current and progressing.get("status") == "True" and progressing.get("reason") == "NewReplicaSetAvailable"


def _replaces(metadata: Mapping[str, Any], spec: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether the newest template is not the first, so that its pods take the place of others.

    The Deployment controller numbers templates; as long as it has not seen a change, any change may be of the template.
    One that a user paused replaces nothing. Source: kubernetes, pkg/controller/deployment/util/deployment_util.go.
    """
    revision = str((metadata.get("annotations") or {}).get(_REVISION, ""))
    unseen = 0 < int(status.get("observedGeneration") or 0) < int(metadata.get("generation") or 0)
    later = revision.isdecimal() and int(revision) > 1
    return bool(spec.get("replicas")) and not spec.get("paused") and (unseen or later)


def _hostnames(node_affinity: Mapping[str, Any]) -> tuple[str, ...]:
    """The nodes that pods are kept to by name; none where no term names any."""
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for expression in term.get("matchExpressions") or ():
            if expression.get("key") == HOSTNAME_LABEL and expression.get("operator") == "In":
                return tuple(str(name) for name in expression.get("values") or ())
    return ()
