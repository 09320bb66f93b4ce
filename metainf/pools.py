"""Node pools: nodes of one kind, what they cost, and what of them is free.

Separate because selection reads pools from three places (a live cluster, manifests, a benchmark) and must not care
which.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from metainf.accelerators import Accelerator

__all__ = [
    "Billing",
    "CapacityType",
    "NodeCapacity",
    "NodePool",
    "NodeShape",
    "Price",
    "PriceSource",
    "Taint",
]


class CapacityType(StrEnum):
    """How the nodes are bought."""

    ON_DEMAND = "OnDemand"
    SPOT = "Spot"
    RESERVED = "Reserved"


class PriceSource(StrEnum):
    """Where a price was read, best first."""

    ACCELERATOR_POOL = "AcceleratorPool"
    ANNOTATION = "NodeAnnotation"
    OPENCOST = "OpenCost"
    BUNDLED = "BundledList"


class Billing(StrEnum):
    """Whether a candidate pays for its share of a node or for the whole node."""

    SHARE = "Share"
    NODE = "Node"


@dataclass(frozen=True, slots=True)
class Price:
    """Price of one node per hour. `as_of` is a date (ISO 8601), never an age; `reference` says where exactly."""

    per_hour: Decimal
    currency: str
    source: PriceSource
    as_of: str | None = None
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint as Kubernetes has it."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True)
class NodeShape:
    """What one whole node of the pool offers to pods."""

    accelerators: int
    cpu_cores: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """What of one node is free: allocatable less what other pods request and what the ledger holds."""

    name: str
    accelerators_free: int
    cpu_free_cores: float
    memory_free_bytes: int


@dataclass(frozen=True, slots=True)
class NodePool:
    """Nodes of one kind: an accelerator, a shape, a price and what is free node by node.

    `nodes` are those that stand now; `addable_nodes` more may be added, each empty and of `shape`. A CPU pool has
    no `resource_name`. `match_labels` select the pool's nodes in the cluster; `hostnames` narrows them where labels
    alone cannot tell this pool from another. `price` None means unknown: nothing is bought there.
    """

    name: str
    accelerator: Accelerator
    product: str
    resource_name: str | None
    shape: NodeShape
    nodes: tuple[NodeCapacity, ...] = ()
    addable_nodes: int = 0
    price: Price | None = None
    capacity_type: CapacityType = CapacityType.ON_DEMAND
    billing: Billing = Billing.SHARE
    taints: tuple[Taint, ...] = ()
    match_labels: tuple[tuple[str, str], ...] = ()
    hostnames: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = field(default=())

    @property
    def is_cpu(self) -> bool:
        """Whether replicas here run on the CPU itself."""
        return self.resource_name is None
