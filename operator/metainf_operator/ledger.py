"""Who holds which accelerators: what of each pool is free for one workload.

Separate and pure because two workloads must never count on the same free accelerator, and a new leader must come to
the same answer from what stands in the cluster. Held is the larger of reserved and running; pods that are going
away and both sides of a switch count until they are gone.

Why claims of the waiting count: without them a workload that needs a whole node would wait for ever behind small
ones that come after it. Rejected: moving the small ones away, which would break their service for another's start.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from metainf.placement import ReplicaRequest, empty_node, node_slots
from metainf.pools import NodeCapacity, NodePool

__all__ = ["Hold", "PodUse", "WorkloadKey", "pool_for_workload"]


@dataclass(frozen=True, slots=True, order=True)
class WorkloadKey:
    """Namespace and name of a workload."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Hold:
    """So many replicas that a workload reserved on a pool, or, when `waiting`, waits for."""

    workload: WorkloadKey
    created_at: datetime
    pool: str
    request: ReplicaRequest
    replicas: int
    waiting: bool = False

    @property
    def turn(self) -> tuple[datetime, WorkloadKey]:
        """Order in which those who wait are served: by creation time, then name."""
        return self.created_at, self.workload


@dataclass(frozen=True, slots=True)
class PodUse:
    """What a pod that is bound to a node takes of it. `workload` is None for pods that are not ours."""

    node: str
    accelerators: int
    cpu_cores: float
    memory_bytes: int
    workload: WorkloadKey | None = None
    terminating: bool = False


def pool_for_workload(
    pool: NodePool,
    pods: Iterable[PodUse],
    holds: Sequence[Hold],
    workload: WorkloadKey,
    *,
    created_at: datetime,
    own_pods_count: bool = False,
    members: frozenset[str] = frozenset(),
) -> NodePool:
    """The pool with what is free for this workload.

    `pool.nodes` say what each node offers when empty. What the workload itself holds counts as free; with
    `own_pods_count` its pods do not, as for the new side of a switch that starts beside the old. `members` name all
    nodes of the pool, those that are no capacity now (cordoned, not ready) included: pods of the workload that still
    run there keep their room.
    """
    usable = frozenset(node.name for node in pool.nodes)
    standing = {node.name: node for node in pool.nodes}
    ours: dict[WorkloadKey, int] = {}
    for pod in pods:
        own = pod.workload == workload and not own_pods_count
        if pod.workload is not None and not pod.terminating and (pod.node in usable or pod.node in members):
            ours[pod.workload] = ours.get(pod.workload, 0) + 1
        if pod.node in usable:
            if not own:
                standing[pod.node] = _taken(standing[pod.node], pod.accelerators, pod.cpu_cores, pod.memory_bytes)
        elif own and not pod.terminating and pod.node in members:
            standing[pod.node] = _grown(standing.get(pod.node), pod)
    free = replace(pool, nodes=tuple(standing[name] for name in sorted(standing)))
    for hold in sorted(holds, key=lambda h: h.turn):
        if hold.pool != pool.name or hold.workload == workload:
            continue
        if hold.waiting and hold.turn >= (created_at, workload):
            continue
        running = 0 if hold.waiting else ours.get(hold.workload, 0)
        free = _reserve(free, hold.request, hold.replicas - running)
    return free


def _taken(node: NodeCapacity, accelerators: int, cpu_cores: float, memory_bytes: int) -> NodeCapacity:
    return replace(
        node,
        accelerators_free=max(0, node.accelerators_free - accelerators),
        cpu_free_cores=max(0.0, node.cpu_free_cores - cpu_cores),
        memory_free_bytes=max(0, node.memory_free_bytes - memory_bytes),
    )


def _grown(node: NodeCapacity | None, pod: PodUse) -> NodeCapacity:
    base = node or NodeCapacity(pod.node, 0, 0.0, 0)
    return replace(
        base,
        accelerators_free=base.accelerators_free + pod.accelerators,
        cpu_free_cores=base.cpu_free_cores + pod.cpu_cores,
        memory_free_bytes=base.memory_free_bytes + pod.memory_bytes,
    )


def _reserve(pool: NodePool, request: ReplicaRequest, replicas: int) -> NodePool:
    """The pool less so many replicas: each on the fullest node that has room, then on nodes to be added."""
    nodes = list(pool.nodes)
    addable = pool.addable_nodes
    for number in range(max(0, replicas)):
        fitting = [i for i, node in enumerate(nodes) if node_slots(node, request) > 0]
        if not fitting:
            if addable == 0:
                break
            addable -= 1
            nodes.append(empty_node(pool.shape, f"added-{number}-{addable}"))
            fitting = [len(nodes) - 1]
            if node_slots(nodes[-1], request) == 0:
                break
        tightest = min(fitting, key=lambda i: (nodes[i].accelerators_free, nodes[i].cpu_free_cores, nodes[i].name))
        nodes[tightest] = _taken(nodes[tightest], request.accelerators, request.cpu_cores, request.memory_bytes)
    return replace(pool, nodes=tuple(nodes), addable_nodes=addable)
