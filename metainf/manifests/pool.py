"""An AcceleratorPool manifest as a value, and as a node pool where no nodes can be read.

Separate from `metainf.pools`: a manifest says what a person knows of a pool, a `NodePool` what stands and is free. On a
cluster the operator joins the two; `standing_pool` does without a cluster.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from metainf.accelerator_names import Ambiguous, Exact, find
from metainf.accelerators import Accelerator, Vendor, get
from metainf.errors import InvalidWorkloadError
from metainf.manifests import rules
from metainf.manifests.metadata import read_metadata, read_object
from metainf.manifests.quantities import cpu_cores, format_memory, memory_bytes
from metainf.manifests.reader import Reader
from metainf.manifests.workload import TaintEffect
from metainf.pools import Billing, CapacityType, NodeCapacity, NodePool, NodeShape, Price, PriceSource, Taint

__all__ = [
    "POOL_KIND",
    "USUAL_CORES_EACH",
    "AcceleratorPool",
    "NodeRange",
    "NodeResources",
    "find_accelerator",
    "node_resources",
    "parse_pool",
    "resource_name",
    "standing_pool",
]

POOL_KIND = "AcceleratorPool"
_MOST_NODES = 10_000
# Where nodeResources is absent, memory does not limit, nor a CPU pool's cores: more than any machine has, and finite.
_ANY_CPU_CORES = 1e6
_ANY_MEMORY_BYTES = 1 << 60
USUAL_CORES_EACH = 3.5
"""CPU of a node of unknown size, for each of its accelerators.

The smallest machines that are sold with one have 4 vCPUs (g4dn.xlarge, g5.xlarge, g6.xlarge, n1-standard-4 with a T4,
Standard_NC4as_T4_v3), of which the kubelet keeps a part and daemons take another. Of 3.5 a replica on one accelerator
asks for 3 (`metainf.candidates`), which is a core for each of vLLM's three processes: a pod that asked for more would
stay pending on the node that was added for it.
"""


@dataclass(frozen=True, slots=True)
class NodeRange:
    """How many nodes there may be. `minimum` None: the manifest does not say how many always stand."""

    maximum: int
    minimum: int | None = None


@dataclass(frozen=True, slots=True)
class NodeResources:
    """What one node offers to pods."""

    cpu_cores: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class AcceleratorPool:
    """One manifest. `accelerators` are those of one node, 0 on a CPU pool; `price` is the one in force of one node."""

    name: str
    generation: int
    product: str
    accelerators: int
    node_selector: tuple[tuple[str, str], ...]
    accelerator_memory_bytes: int | None = None
    price: Price | None = None
    billing: Billing = Billing.SHARE
    nodes: NodeRange | None = None
    node_resources: NodeResources | None = None
    taints: tuple[Taint, ...] = ()
    capacity_type: CapacityType = CapacityType.ON_DEMAND

    @property
    def is_cpu(self) -> bool:
        """Whether replicas here run on the CPU itself."""
        return self.accelerators == 0


def parse_pool(manifest: Mapping[str, object]) -> AcceleratorPool:
    """The pool that a manifest describes, defaults filled in.

    Raises
    ------
    InvalidWorkloadError
        A field is unknown, missing, of the wrong type or out of range, or two contradict each other; the message
        begins with the field's path.
    """
    reader = read_object(manifest, POOL_KIND)
    metadata = read_metadata(reader, rules.POOL_NAME)
    spec = reader.child("spec", _SPEC_FIELDS)
    accelerator = spec.child("accelerator", ("product", "memory", "count"))
    count = accelerator.integer("count", 0, 64)
    memory = accelerator.optional_text("memory", rules.MEMORY)
    if count == 0 and memory is not None:
        raise accelerator.error(
            "memory",
            "a CPU pool (count 0) has no accelerator memory: remove memory, and give nodeResources.memory",
        )
    capacity_type = spec.choice("capacityType", CapacityType, CapacityType.ON_DEMAND)
    resources = _node_resources(spec)
    if count == 0 and resources is None:
        raise spec.error(
            "nodeResources", "a CPU pool (accelerator.count 0) needs nodeResources: cpu and memory are what it offers"
        )
    return AcceleratorPool(
        name=metadata.name,
        generation=metadata.generation,
        product=accelerator.text("product", rules.PRODUCT),
        accelerators=count,
        node_selector=_node_selector(spec),
        accelerator_memory_bytes=None if memory is None else memory_bytes(memory),
        price=_price(spec, capacity_type),
        billing=spec.choice("billing", Billing, Billing.SHARE),
        nodes=_nodes(spec),
        node_resources=resources,
        taints=_taints(spec),
        capacity_type=capacity_type,
    )


_SPEC_FIELDS = (
    "nodeSelector",
    "accelerator",
    "price",
    "billing",
    "nodes",
    "nodeResources",
    "taints",
    "capacityType",
)


def _node_selector(spec: Reader) -> tuple[tuple[str, str], ...]:
    spec.child("nodeSelector", None)
    selector = spec.labels("nodeSelector", 32, rules.LABEL_VALUE)
    if not selector:
        raise spec.error(
            "nodeSelector", "give at least one label: an empty selector would take every node of the cluster"
        )
    return selector


def _price(spec: Reader, capacity_type: CapacityType) -> Price | None:
    reader = spec.optional_child("price", ("perHour", "spotPerHour", "currency", "source", "asOf"))
    if reader is None:
        return None
    on_demand = reader.optional_text("perHour", rules.PRICE)
    spot = reader.optional_text("spotPerHour", rules.PRICE)
    if on_demand is None and spot is None:
        raise reader.error("", "give perHour or spotPerHour, or leave price out")
    if capacity_type is not CapacityType.SPOT and on_demand is None:
        raise reader.error(
            "spotPerHour", "price.spotPerHour alone prices spot nodes: give price.perHour, or write capacityType Spot"
        )
    in_force = (spot or on_demand) if capacity_type is CapacityType.SPOT else on_demand
    return Price(
        per_hour=Decimal(in_force or "0"),
        currency=reader.text("currency", rules.CURRENCY, "USD"),
        source=PriceSource.ACCELERATOR_POOL,
        as_of=reader.optional_text("asOf", rules.DATE),
        reference=reader.optional_text("source", rules.PRICE_SOURCE) or "",
    )


def _nodes(spec: Reader) -> NodeRange | None:
    reader = spec.optional_child("nodes", ("min", "max"))
    if reader is None:
        return None
    maximum = reader.integer("max", 0, _MOST_NODES)
    minimum = reader.integer("min", 0, _MOST_NODES, 0)
    if minimum > maximum:
        raise reader.error("min", "nodes.min is above nodes.max")
    return NodeRange(maximum, minimum if reader.fields.get("min") is not None else None)


def _node_resources(spec: Reader) -> NodeResources | None:
    reader = spec.optional_child("nodeResources", ("cpu", "memory"))
    if reader is None:
        return None
    return NodeResources(cpu_cores(reader.text("cpu", rules.CPU)), memory_bytes(reader.text("memory", rules.MEMORY)))


def _taints(spec: Reader) -> tuple[Taint, ...]:
    taints = tuple(
        Taint(
            key=taint.text("key", rules.TAINT_KEY),
            value=taint.text("value", rules.TAINT_VALUE, ""),
            effect=taint.choice("effect", TaintEffect).value,
        )
        for taint in spec.objects("taints", 32, ("key", "value", "effect"))
    )
    named = [(taint.key, taint.effect) for taint in taints]
    for pair in named:
        if named.count(pair) > 1:
            raise spec.error("taints", f"the taint {pair[0]} with effect {pair[1]} stands here twice: remove one")
    return taints


def find_accelerator(pool: AcceleratorPool) -> Accelerator:
    """The catalogue's device for the pool's product; a CPU pool's is the share that one node has.

    Raises
    ------
    InvalidWorkloadError
        The product is not known, means several devices, is time-sliced, or is no CPU where the pool is one.
    """
    where = f"AcceleratorPool {pool.name}: spec.accelerator.product"
    device = _generic_cpu(pool)
    if device is None:
        match = find(pool.product, memory_bytes=pool.accelerator_memory_bytes)
        if match.shared:
            raise InvalidWorkloadError(f"{where}: {pool.product} is time-sliced: a model needs whole devices")
        if isinstance(match, Ambiguous):
            names = ", ".join(accelerator.name for accelerator in match.candidates)
            raise InvalidWorkloadError(f"{where}: {pool.product} may be any of {names}: write one of these")
        if not isinstance(match, Exact):
            memory = pool.accelerator_memory_bytes
            beside = "" if memory is None else f" with {format_memory(memory)}"
            raise InvalidWorkloadError(
                f"{where}: {pool.product}{beside} is not an accelerator that is known ({match.reason}): write it as "
                "nodes' labels name it, such as NVIDIA-H100-80GB-HBM3"
            )
        device = match.accelerator
    if (device.vendor is Vendor.CPU) != pool.is_cpu:
        count = "count is 0: give the number of accelerators" if pool.is_cpu else "it is a CPU: write count 0"
        raise InvalidWorkloadError(f"{where}: {pool.product} and the count disagree; {count}")
    if pool.is_cpu and pool.node_resources is not None:
        return device.cpu_share(pool.node_resources.cpu_cores, pool.node_resources.memory_bytes)
    return device


def _generic_cpu(pool: AcceleratorPool) -> Accelerator | None:
    """For a product that says no more than CPU: the catalogue's floor for the pool's processor architecture."""
    if not pool.is_cpu or pool.product.upper() != "CPU":
        return None
    arm = dict(pool.node_selector).get("kubernetes.io/arch") == "arm64"
    return get("CPU-arm64" if arm else "CPU-x86-64")


def resource_name(accelerator: Accelerator) -> str | None:
    """What a pod requests to get the device, as the vendors' device plugins name it; None for a CPU.

    Source: the device plugins of NVIDIA, AMD, Intel and Habana. MIG slices are those of the plugin's `single`
    strategy; with `mixed` only nodes can tell.
    """
    match accelerator.vendor:
        case Vendor.CPU:
            return None
        case Vendor.AMD:
            return "amd.com/gpu"
        case Vendor.INTEL:
            return "habana.ai/gaudi" if accelerator.family.startswith("Gaudi") else "gpu.intel.com/i915"
        case Vendor.NVIDIA:
            return "nvidia.com/gpu"


def node_resources(pool: AcceleratorPool) -> NodeResources:
    """What a node that does not stand yet offers: as the manifest says, else what the usual machine has."""
    cores = _ANY_CPU_CORES if pool.is_cpu else USUAL_CORES_EACH * pool.accelerators
    return pool.node_resources or NodeResources(cores, _ANY_MEMORY_BYTES)


def standing_pool(pool: AcceleratorPool) -> NodePool:
    """The pool where no nodes can be read: for `metainf plan --pools`, and for an operator without node access.

    The capacity is `nodes.max`. What it costs depends on which of these nodes stand already, since a standing node
    is paid by the share and an added one whole, and only the manifest can tell:

    - `nodes.min` written down: so many stand, empty; the others up to max are to be added. Zero means that the pool
      is empty now, and its first replica buys a whole node.
    - `nodes.min` not written: all of max stand, empty.

    An API server fills in its default of 0 for min, so a manifest read back from a cluster counts as an empty pool:
    that overstates a cost, and never understates one.

    Raises
    ------
    InvalidWorkloadError
        The product is not known, or `nodes.max` is missing: there is no cluster to count the nodes in.
    """
    if pool.nodes is None:
        raise InvalidWorkloadError(
            f"AcceleratorPool {pool.name}: spec.nodes.max: say how many nodes there may be: without a cluster nothing "
            "else tells"
        )
    accelerator = find_accelerator(pool)
    resources = node_resources(pool)
    shape = NodeShape(pool.accelerators, resources.cpu_cores, resources.memory_bytes)
    standing = pool.nodes.maximum if pool.nodes.minimum is None else pool.nodes.minimum
    return NodePool(
        name=pool.name,
        accelerator=accelerator,
        product=pool.product,
        resource_name=resource_name(accelerator),
        shape=shape,
        nodes=tuple(
            NodeCapacity(f"{pool.name}-{i}", shape.accelerators, shape.cpu_cores, shape.memory_bytes)
            for i in range(1, standing + 1)
        ),
        addable_nodes=pool.nodes.maximum - standing,
        price=pool.price,
        capacity_type=pool.capacity_type,
        billing=pool.billing,
        taints=pool.taints,
        match_labels=pool.node_selector,
        labels=pool.node_selector,
    )
