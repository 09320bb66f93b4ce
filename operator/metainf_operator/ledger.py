"""Who holds which accelerators: what of each pool is free for one workload.

Separate and pure because two workloads must never count on the same free accelerator, and a new leader must come to
the same answer from what stands in the cluster. Held is the larger of reserved and running, by the size of replicas: a
pod of two accelerators is none of the replicas of four that its workload moves to. Pods that are going away and both
sides of a switch count until they are gone.

Why claims of the waiting count: without them a workload that needs a whole node would wait for ever behind small
ones that come after it. Rejected: moving the small ones away, which would break their service for another's start. So
a claim is to room that nobody holds: what a workload runs on, or has reserved, is its own whoever came first.

Where the scheduler will put what is reserved and has no pods yet is not known. For a workload that may use a part of
the nodes alone, what others have reserved without choosing nodes is taken of that part first, so that it counts on
nothing that they may come to take; but not what it has reserved itself. Nor is it to lose that to a pod of one who
comes later and may go anywhere: such pods are not started before its own have their nodes (`places`).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from metainf.placement import ReplicaRequest, empty_node, node_slots
from metainf.pools import NodeCapacity, NodePool
from metainf.workload import Toleration
from metainf_operator.engine_pods import EnginePod
from metainf_operator.rollout import PodTrouble

__all__ = [
    "Hold",
    "NodeUse",
    "PodSum",
    "PodUse",
    "ReplicaSize",
    "WorkloadKey",
    "left_on",
    "node_use",
    "pool_for_workload",
    "still_to_bind",
]


@dataclass(frozen=True, slots=True, order=True)
class WorkloadKey:
    """Namespace and name of a workload."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Hold:
    """So many replicas that a workload reserved on a pool, or, when `waiting`, waits for.

    `nodes` are those that they may go to, by name; None where that is any. `since` is when the record that reserves
    them was put in force; None while it is being written, and for a claim.
    """

    workload: WorkloadKey
    created_at: datetime
    pool: str
    request: ReplicaRequest
    replicas: int
    waiting: bool = False
    nodes: frozenset[str] | None = None
    since: datetime | None = None

    @property
    def turn(self) -> tuple[datetime, WorkloadKey]:
        """Order in which those who wait are served: by creation time, then name."""
        return self.created_at, self.workload


ReplicaSize = tuple[int, int]
"""Accelerators and thousandths of a CPU core that the engine of a replica has."""


@dataclass(frozen=True, slots=True)
class PodUse:
    """What a pod that is bound to a node takes of it. `workload` is None for pods that are not ours.

    `engine` is where its engine answers and `trouble` why it does not, which take nothing: the ledger looks at neither.
    `serving` is what it was made to serve, and `engine_cpu_cores` what its engine's container alone requests; None for
    pods that are not ours, of which `tolerations` are not kept either. One of ours that is bound nowhere takes nothing
    at all, and is kept for its trouble alone: its node is empty.
    """

    node: str
    accelerators: int
    cpu_cores: float
    memory_bytes: int
    workload: WorkloadKey | None = None
    terminating: bool = False
    engine: EnginePod | None = None
    trouble: PodTrouble | None = None
    serving: str = ""
    engine_cpu_cores: float | None = None
    tolerations: tuple[Toleration, ...] = ()

    @property
    def size(self) -> "ReplicaSize":
        """Which replicas it can be one of."""
        cores = self.cpu_cores if self.engine_cpu_cores is None else self.engine_cpu_cores
        return self.accelerators, round(cores * 1000)

    def takes_as(self, other: "PodUse") -> bool:
        """Whether both take the same of the same node for the same workload."""
        return replace(self, engine=None, trouble=None) == replace(other, engine=None, trouble=None)


@dataclass(frozen=True, slots=True)
class PodSum:
    """What some pods of one node take of it together."""

    pods: int = 0
    accelerators: int = 0
    cpu_cores: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class NodeUse:
    """The pods of one node, added up: of all, and of each workload, those that stay apart from those that go.

    `sizes` counts those that stay by what one of them takes.
    """

    total: PodSum
    own: Mapping[WorkloadKey, PodSum]
    staying: Mapping[WorkloadKey, PodSum]
    sizes: Mapping[WorkloadKey, Mapping[ReplicaSize, int]]


_NOTHING = PodSum()
_UNUSED = NodeUse(_NOTHING, {}, {}, {})


def node_use(pods: Iterable[PodUse]) -> NodeUse:
    """The pods of one node added up; their order does not matter."""
    listed = list(pods)
    own: dict[WorkloadKey, list[PodUse]] = {}
    for pod in listed:
        if pod.workload is not None:
            own.setdefault(pod.workload, []).append(pod)
    staying = {key: [pod for pod in mine if not pod.terminating] for key, mine in own.items()}
    return NodeUse(
        _sum(listed),
        {key: _sum(mine) for key, mine in own.items()},
        {key: _sum(mine) for key, mine in staying.items() if mine},
        {key: Counter(pod.size for pod in mine) for key, mine in staying.items() if mine},
    )


def _sum(pods: Sequence[PodUse]) -> PodSum:
    return PodSum(
        len(pods),
        sum(pod.accelerators for pod in pods),
        math.fsum(pod.cpu_cores for pod in pods),
        sum(pod.memory_bytes for pod in pods),
    )


def pool_for_workload(
    pool: NodePool,
    uses: Mapping[str, NodeUse],
    holds: Sequence[Hold],
    workload: WorkloadKey,
    *,
    created_at: datetime,
    own_pods_count: bool = False,
    members: frozenset[str] = frozenset(),
    names: frozenset[str] | None = None,
) -> NodePool:
    """The pool with what is free for this workload.

    `pool.nodes` say what each node offers when empty, `uses` what runs on nodes by their names. What the workload
    itself holds counts as free, and nobody's reservation or claim is counted into it; with `own_pods_count` the room
    of its pods is not free, as for the new side of a switch that starts beside the old. `members` name all nodes of
    the pool, those that are no capacity now (cordoned, not ready) included: pods of the workload that still run there
    keep their room. `names` are those that the workload may use, None where that is any; what is free on the others is
    shown all the same.
    """
    usable = {node.name: node for node in pool.nodes}
    ours: dict[WorkloadKey, Counter[ReplicaSize]] = {}
    left: list[NodeCapacity] = []
    own: list[NodeCapacity] = []
    for name in sorted(usable.keys() | members):
        use = uses.get(name, _UNUSED)
        for key, sizes in use.sizes.items():
            ours.setdefault(key, Counter()).update(sizes)
        if name in usable:
            mine = None if own_pods_count else use.own.get(workload)
            left.append(usable[name] if use is _UNUSED else _less(usable[name], use.total, None))
            own.append(left[-1] if mine is None else _less(usable[name], use.total, mine))
        elif not own_pods_count and workload in use.staying:
            mine = use.staying[workload]
            left.append(NodeCapacity(name, 0, 0.0, 0))
            own.append(NodeCapacity(name, mine.accelerators, mine.cpu_cores, mine.memory_bytes))
    unmet = _unmet(pool.name, holds, ours)
    free = _less_held(replace(pool, nodes=tuple(left)), unmet, workload, created_at, names)
    return _with_given_back(free, own, left)


def still_to_bind(
    pool: NodePool, uses: Mapping[str, NodeUse], holds: Iterable[Hold], members: frozenset[str]
) -> list[Hold]:
    """What is reserved of the pool and has no pods on its nodes yet, each with the replicas that are missing."""
    ours: dict[WorkloadKey, Counter[ReplicaSize]] = {}
    for name in {node.name for node in pool.nodes} | members:
        for key, sizes in uses.get(name, _UNUSED).sizes.items():
            ours.setdefault(key, Counter()).update(sizes)
    return [hold for hold in _unmet(pool.name, holds, ours) if not hold.waiting]


def left_on(node: NodeCapacity, use: NodeUse | None, but: WorkloadKey | None = None) -> NodeCapacity:
    """The node less what runs there, the pods of `but` left out of that."""
    if use is None:
        return node
    return _less(node, use.total, None if but is None else use.own.get(but))


def _unmet(pool: str, holds: Iterable[Hold], ours: Mapping[WorkloadKey, Mapping[ReplicaSize, int]]) -> list[Hold]:
    """What is held of the pool beyond the pods that run there: the rest of reservations, and claims; in their turn."""
    found: list[Hold] = []
    for hold in holds:
        if hold.pool != pool:
            continue
        if hold.waiting:
            found.append(hold)
            continue
        running = ours.get(hold.workload, {})
        missing = hold.replicas - sum(n for size, n in running.items() if _is_replica(size, hold.request))
        if missing > 0:
            found.append(replace(hold, replicas=missing))
    return sorted(found, key=lambda hold: hold.turn)


def _less_held(
    pool: NodePool,
    unmet: Sequence[Hold],
    workload: WorkloadKey,
    created_at: datetime,
    names: frozenset[str] | None,
) -> NodePool:
    """The pool less what others have reserved of it, and less the claims that come before the workload."""
    reserved = [hold for hold in unmet if not hold.waiting]
    mine = [hold for hold in reserved if hold.workload == workload]
    pool = _less_reserved(pool, [hold for hold in reserved if hold.workload != workload], mine, names)
    for hold in unmet:
        if hold.waiting and hold.workload != workload and hold.turn < (created_at, workload):
            pool = _claimed(pool, hold, mine)
    return pool


def _less_reserved(
    pool: NodePool, others: Sequence[Hold], mine: Sequence[Hold], names: frozenset[str] | None
) -> NodePool:
    """The pool less what others have reserved: those first who have the fewest nodes to choose from.

    Who may go elsewhere too is put on the `names` of the asking workload first, beside what that has reserved (`mine`).
    """
    bound: list[Hold] = []
    free: list[Hold] = []
    for hold in sorted(others, key=lambda hold: (hold.nodes is None, len(hold.nodes or ()))):
        stays = hold.nodes is not None and (names is None or hold.nodes <= names)
        (bound if stays else free).append(hold)
    for hold in bound:
        pool = _reserve(pool, hold.request, hold.replicas, hold.nodes)
    taken = pool
    for hold in mine if names is not None else ():
        taken = _reserve(taken, hold.request, hold.replicas, hold.nodes)
    less = taken
    for hold in free:
        less = _reserve(less, hold.request, hold.replicas, hold.nodes, first=names)
    return less if taken is pool else _with_given_back(less, pool.nodes, taken.nodes)


def _claimed(pool: NodePool, claim: Hold, mine: Sequence[Hold]) -> NodePool:
    """The pool less as much of the claim as leaves room for what the asking workload has reserved itself (`mine`)."""
    whole = _reserve(pool, claim.request, claim.replicas, claim.nodes)
    fitted = _fitting(pool, mine)
    if _fitting(whole, mine) >= fitted:
        return whole
    fewest, most = 0, claim.replicas  # the first leave room for all that fitted, the second do not
    while most - fewest > 1:
        middle = (fewest + most) // 2
        if _fitting(_reserve(pool, claim.request, middle, claim.nodes), mine) >= fitted:
            fewest = middle
        else:
            most = middle
    return _reserve(pool, claim.request, fewest, claim.nodes)


def _fitting(pool: NodePool, holds: Sequence[Hold]) -> int:
    """How many replicas of all that is held find room, one hold after the other."""
    count = 0
    for hold in holds:
        added = pool.addable_nodes * node_slots(empty_node(pool.shape), hold.request) if hold.nodes is None else 0
        standing = sum(node_slots(node, hold.request) for node in pool.nodes if _may_use(node, hold.nodes))
        fits = min(hold.replicas, added + standing)
        count += fits
        pool = _reserve(pool, hold.request, fits, hold.nodes)
    return count


def _with_given_back(pool: NodePool, own: Sequence[NodeCapacity], before: Sequence[NodeCapacity]) -> NodePool:
    """The pool with the nodes of `own`, less what was taken of them since `before`; nodes added since stay."""
    nodes = tuple(_given_back(*each) for each in zip(own, before, pool.nodes, strict=False))
    return replace(pool, nodes=nodes + pool.nodes[len(own) :])


def _given_back(own: NodeCapacity, before: NodeCapacity, after: NodeCapacity) -> NodeCapacity:
    """The node with the room of the workload's own pods, less what was taken of the rest."""
    if after is before:
        return own
    return NodeCapacity(
        own.name,
        own.accelerators_free - (before.accelerators_free - after.accelerators_free),
        max(0.0, own.cpu_free_cores - (before.cpu_free_cores - after.cpu_free_cores)),
        own.memory_free_bytes - (before.memory_free_bytes - after.memory_free_bytes),
    )


def _is_replica(size: ReplicaSize, request: ReplicaRequest) -> bool:
    """Whether a pod takes what a replica takes: its accelerators, or its share of a CPU to a thousandth of a core."""
    accelerators, millicores = size
    if request.accelerators:
        return accelerators == request.accelerators
    return accelerators == 0 and abs(millicores - request.cpu_cores * 1000) <= 1


def _less(node: NodeCapacity, total: PodSum, own: PodSum | None) -> NodeCapacity:
    """The node less what runs there, `own` left out of that."""
    mine = own or _NOTHING
    return NodeCapacity(
        node.name,
        max(0, node.accelerators_free - (total.accelerators - mine.accelerators)),
        max(0.0, node.cpu_free_cores - (total.cpu_cores - mine.cpu_cores)),
        max(0, node.memory_free_bytes - (total.memory_bytes - mine.memory_bytes)),
    )


def _taken(node: NodeCapacity, request: ReplicaRequest) -> NodeCapacity:
    return NodeCapacity(
        node.name,
        max(0, node.accelerators_free - request.accelerators),
        max(0.0, node.cpu_free_cores - request.cpu_cores),
        max(0, node.memory_free_bytes - request.memory_bytes),
    )


def _may_use(node: NodeCapacity, names: frozenset[str] | None) -> bool:
    return names is None or node.name in names


def _reserve(
    pool: NodePool,
    request: ReplicaRequest,
    replicas: int,
    names: frozenset[str] | None = None,
    *,
    first: frozenset[str] | None = None,
) -> NodePool:
    """The pool less so many replicas: each on the fullest node that has room, then on nodes to be added.

    Where `names` are given, on nodes of these alone, and on none to be added; those that are `first` before the others.
    The fullest stays the fullest while it is filled, so that one look at the nodes is enough.
    """
    nodes, left = list(pool.nodes), max(0, replicas)

    def in_turn(i: int) -> tuple[bool, int, float, str]:
        node = nodes[i]
        return not _may_use(node, first), node.accelerators_free, node.cpu_free_cores, node.name

    fitting = (i for i, node in enumerate(nodes) if _may_use(node, names) and node_slots(node, request) > 0)
    for i in sorted(fitting, key=in_turn):
        if left == 0:
            break
        nodes[i], left = _filled(nodes[i], request, left)
    addable = pool.addable_nodes
    while names is None and left > 0 and addable > 0:
        addable -= 1
        node, still = _filled(empty_node(pool.shape, f"added-{replicas - left}-{addable}"), request, left)
        nodes.append(node)
        if still == left:
            break
        left = still
    return replace(pool, nodes=tuple(nodes), addable_nodes=addable)


def _filled(node: NodeCapacity, request: ReplicaRequest, replicas: int) -> tuple[NodeCapacity, int]:
    """The node with as many of the replicas as it has room for, and how many are left over."""
    while replicas > 0 and node_slots(node, request) > 0:
        node, replicas = _taken(node, request), replicas - 1
    return node, replicas
