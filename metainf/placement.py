"""Which replicas fit on which nodes, and what that costs per hour.

Separate because the operator's ledger and the selection must count capacity and money in the same way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_UP, Decimal
from fractions import Fraction

from metainf.pools import Billing, NodeCapacity, NodePool, NodeShape, Taint
from metainf.workload import PlacementLimits, SpotPolicy, Toleration

__all__ = [
    "SPOT_TAINT_KEYS",
    "ReplicaRequest",
    "Room",
    "empty_node",
    "evicting_taints",
    "max_replicas",
    "node_share",
    "node_slots",
    "replica_grid",
    "room_for",
    "tolerates",
    "untolerated_taints",
]

_MONEY_STEP = Decimal("0.000001")
"""Costs are rounded up to it: one that came to nothing would count as free."""
_DENSE_COUNTS = 8
SPOT_TAINT_KEYS = ("kubernetes.azure.com/scalesetpriority", "cloud.google.com/gke-spot")
"""Taints of the clouds' spot nodes, NoSchedule both: taken as tolerated where spot is allowed, so pods sent there must
tolerate them."""


@dataclass(frozen=True, slots=True)
class ReplicaRequest:
    """What one replica asks of its one node."""

    accelerators: int
    cpu_cores: float
    memory_bytes: int


def node_slots(node: NodeCapacity, request: ReplicaRequest) -> int:
    """Replicas that one node has room for now."""
    slots = [
        math.floor(node.cpu_free_cores / request.cpu_cores + 1e-9) if request.cpu_cores > 0 else 1 << 30,
        node.memory_free_bytes // request.memory_bytes if request.memory_bytes > 0 else 1 << 30,
    ]
    if request.accelerators > 0:
        slots.append(node.accelerators_free // request.accelerators)
    return max(0, min(slots))


def empty_node(shape: NodeShape, name: str = "") -> NodeCapacity:
    """A node of this shape with nothing on it."""
    return NodeCapacity(name, shape.accelerators, shape.cpu_cores, shape.memory_bytes)


def node_share(pool: NodePool, request: ReplicaRequest) -> Fraction:
    """Share of a node that one replica takes: of its accelerators, or of CPU and memory whichever is larger."""
    shape = pool.shape
    if request.accelerators > 0:
        return Fraction(request.accelerators, shape.accelerators)
    if shape.cpu_cores <= 0 or shape.memory_bytes <= 0:
        return Fraction(1)  # a node that does not say yet what it has; nothing fits on it
    cpu = Fraction(request.cpu_cores).limit_denominator(1000) / Fraction(shape.cpu_cores).limit_denominator(1000)
    return min(Fraction(1), max(cpu, Fraction(request.memory_bytes, shape.memory_bytes)))


@dataclass(frozen=True, slots=True)
class Room:
    """Where replicas of one size go in a pool: worked out once, asked for many numbers of replicas.

    `standing` is the room of each standing node that has any, most first, `on_standing` their sum; `per_added_node` is
    that of a node to be added.
    """

    pool: NodePool
    standing: tuple[int, ...]
    on_standing: int
    per_added_node: int
    share: Fraction
    _costs: dict[int, Decimal] = field(default_factory=dict, compare=False, repr=False)
    """What was asked for before: the options of a pool that are of one size share the room."""

    @property
    def replicas(self) -> int:
        """Replicas that fit: on the nodes that stand, and on those that may be added."""
        return self.on_standing + self.pool.addable_nodes * self.per_added_node

    def cost_per_hour(self, replicas: int) -> Decimal:
        """What so many replicas cost per hour, in the currency of the pool's price.

        Replicas go to standing nodes first, those with most room first. Each pays for its share of the node; a node
        that has to be added, and every node of a pool that bills whole nodes, counts once and whole.

        Raises
        ------
        ValueError
            The pool's price is not known, or the replicas do not fit: both are rejected before this is asked.
        """
        cost = self._costs.get(replicas)
        if cost is None:
            cost = self._costs[replicas] = self._cost(replicas)
        return cost

    def _cost(self, replicas: int) -> Decimal:
        pool = self.pool
        if pool.price is None:
            raise ValueError(f"pricing pool {pool.name}: its price is not known")
        if replicas > self.replicas:
            raise ValueError(f"pricing {replicas} replicas on pool {pool.name}: they do not fit")
        shared = min(replicas, self.on_standing)
        whole_nodes = math.ceil((replicas - shared) / self.per_added_node) if replicas > shared else 0
        if pool.billing is Billing.NODE:
            whole_nodes += self._nodes_of(shared)
            shared = 0
        price = pool.price.per_hour
        total = price * shared * self.share.numerator / self.share.denominator + price * whole_nodes
        return total.quantize(_MONEY_STEP, rounding=ROUND_UP)

    def _nodes_of(self, replicas: int) -> int:
        """Standing nodes that so many replicas touch."""
        nodes = 0
        for slots in self.standing:
            if replicas <= 0:
                break
            replicas -= slots
            nodes += 1
        return nodes


def room_for(pool: NodePool, request: ReplicaRequest) -> Room:
    """Where replicas of this size go in the pool."""
    slots = sorted((node_slots(node, request) for node in pool.nodes), reverse=True)
    standing = tuple(n for n in slots if n)
    per_added_node = node_slots(empty_node(pool.shape), request)
    return Room(pool, standing, sum(standing), per_added_node, node_share(pool, request))


def max_replicas(pool: NodePool, request: ReplicaRequest) -> int:
    """Replicas that fit the pool: on the nodes that stand, and on those that may be added."""
    return room_for(pool, request).replicas


def tolerates(toleration: Toleration, key: str, value: str, effect: str) -> bool:
    """Whether the toleration matches the taint, by the rules of Kubernetes."""
    if toleration.effect is not None and toleration.effect != effect:
        return False
    if toleration.key is None:
        return toleration.operator == "Exists"
    if toleration.key != key:
        return False
    return toleration.operator == "Exists" or toleration.value == value


def untolerated_taints(pool: NodePool, limits: PlacementLimits) -> tuple[str, ...]:
    """Keys of the pool's taints that keep the workload's pods away.

    The taint named after the accelerator's resource is tolerated as Kubernetes' own ExtendedResourceToleration
    does for pods that request it, and the clouds' spot taints where spot is allowed; both with the effect NoSchedule
    alone, which is what the pods tolerate.
    """
    return tuple(taint.key for taint in _untolerated(pool, limits))


def evicting_taints(pool: NodePool, limits: PlacementLimits, tolerated: Sequence[Toleration]) -> tuple[str, ...]:
    """Keys of the pool's taints for which pods that run there have to go; `tolerated` is what they tolerate.

    Of those that keep new pods away Kubernetes evicts for NoExecute alone. And where the pods tolerate one that the
    workload does not, its toleration was taken back, which asks for other nodes.
    """
    return tuple(
        taint.key
        for taint in _untolerated(pool, limits)
        if taint.effect == "NoExecute" or any(tolerates(t, taint.key, taint.value, taint.effect) for t in tolerated)
    )


def _untolerated(pool: NodePool, limits: PlacementLimits) -> list[Taint]:
    unasked = {pool.resource_name, *(SPOT_TAINT_KEYS if limits.spot is SpotPolicy.ALLOW else ())}
    found: list[Taint] = []
    for taint in pool.taints:
        if taint.effect == "PreferNoSchedule" or (taint.effect == "NoSchedule" and taint.key in unasked):
            continue
        if not any(tolerates(t, taint.key, taint.value, taint.effect) for t in limits.tolerations):
            found.append(taint)
    return found


def replica_grid(limit: int, *, minimum: int = 1) -> tuple[int, ...]:
    """Numbers of replicas to look at between `minimum` and `limit`.

    All up to 8 above the minimum, then steps of a quarter: cost must not jump by much more than the gain that is
    asked for, and a pool of hundreds of GPUs must not cost thousands of predictions. `selection` fills in the
    numbers between the grid's points around the one that it chooses.
    """
    counts: list[int] = []
    value = max(1, minimum)
    while value <= limit:
        counts.append(value)
        value += 1 if len(counts) < _DENSE_COUNTS else max(1, value // 4)
    if counts and counts[-1] != limit:
        counts.append(limit)
    return tuple(counts)
