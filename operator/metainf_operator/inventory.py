"""From nodes and AcceleratorPools to the pools that selection chooses among.

Separate and pure. Nodes of equal kind make a pool with a name that stays the same as long as they do; an
AcceleratorPool overrides what its nodes say of themselves and stands for pools that have no node now. What cannot be
used is a problem with a sentence, never a guess.

Why a taint belongs to a pool only where all of its nodes have it: nodes are tainted one at a time, for maintenance or
while they start, and a pool that lets in less because of one of them would move every workload that runs there. A node
that carries more than the others is no capacity, and stays a member so that pods which run there keep their room.

A derived pool is named after the taints of its nodes, among other things, since that is what tells dedicated nodes from
the rest. Where a taint comes to be on all of them, one after the other, the pool is the same and its name is not. Each
pool says what it may have been called without some of its taints, which nodes that were dedicated all along may say as
well: whose former name it is shows in whose pods its nodes run (`world`). A taint that keeps no pod of ours out, such
as the accelerator's own, is in the name where most nodes have it: it renames the pool halfway.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from metainf.accelerators import Accelerator
from metainf.errors import InvalidWorkloadError
from metainf.manifests import AcceleratorPool, find_accelerator, node_resources, resource_name
from metainf.placement import SPOT_TAINT_KEYS
from metainf.pools import CapacityType, NodeCapacity, NodePool, NodeShape, Price, Taint
from metainf_operator.node_labels import OVERRIDE_LABEL
from metainf_operator.node_prices import OpenCostPrices, agreed_price, amount_of, price_groups
from metainf_operator.projections import NodeFacts

__all__ = ["Inventory", "OpenCostPrices", "PoolRecord", "take_inventory"]


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """A pool with all of its nodes empty, the names of all its members, and whose manifest it came from.

    `pool.nodes` are the members that take new pods. A node is capacity of one pool at most; one with taints of its own,
    or whose price is not known just now, is a member of those as well that its pods may have been put in before.
    `former` are names that it may have had before taints came or went, each with how many did since.
    """

    pool: NodePool
    members: frozenset[str]
    declared: bool = False
    problems: tuple[str, ...] = ()
    former: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """All pools by name, and what could not be used."""

    pools: tuple[PoolRecord, ...] = ()
    problems: tuple[str, ...] = ()
    overlapping: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> PoolRecord | None:
        """The pool that is called so."""
        return next((record for record in self.pools if record.pool.name == name), None)

    def formerly(self, name: str) -> tuple[PoolRecord, ...]:
        """Pools that may have been called so; those first that changed least since."""
        found = [(fewer, record) for record in self.pools for former, fewer in record.former if former == name]
        return tuple(record for _, record in sorted(found, key=lambda each: (each[0], each[1].pool.name)))


def take_inventory(
    nodes: Sequence[NodeFacts], declared: Sequence[AcceleratorPool], opencost: OpenCostPrices | None = None
) -> Inventory:
    """Pools of the declared first, each node belonging to the first by name that selects it; then of equal nodes."""
    opencost = opencost or {}
    problems: list[str] = [node.price_problem for node in nodes if node.price_problem]
    overlapping: set[tuple[str, str]] = set()
    left = {node.name: node for node in sorted(nodes, key=lambda n: n.name)}
    records: list[PoolRecord] = []
    owner: dict[str, str] = {}
    for manifest in sorted(declared, key=lambda p: p.name):
        selected = [n for n in sorted(nodes, key=lambda n: n.name) if _selects(manifest, n)]
        for node in selected:
            if node.name in owner:
                overlapping.add((owner[node.name], manifest.name))
        mine = [n for n in selected if n.name not in owner]
        owner.update((n.name, manifest.name) for n in mine)
        for node in mine:
            left.pop(node.name, None)
        record = _declared_pool(manifest, mine, opencost)
        if isinstance(record, str):
            problems.append(record)
        else:
            records.append(record)
    records += _derived_pools(list(left.values()), nodes, opencost, problems)
    records.sort(key=lambda r: r.pool.name)
    return Inventory(tuple(records), tuple(sorted(problems)), tuple(sorted(overlapping)))


def _selects(manifest: AcceleratorPool, node: NodeFacts) -> bool:
    labels = node.label_map
    return all(labels.get(k) == v for k, v in manifest.node_selector)


def _declared_pool(
    manifest: AcceleratorPool, members: Sequence[NodeFacts], opencost: OpenCostPrices
) -> PoolRecord | str:
    """The pool, or why it cannot be one."""
    try:
        accelerator = find_accelerator(manifest)
    except InvalidWorkloadError as error:
        return str(error)
    problems: list[str] = []
    fitting: list[NodeFacts] = []
    for node in members:
        said = None if manifest.is_cpu else _other_than(accelerator, node)
        if said is not None:
            problems.append(f"node {node.name} has {said}, the pool says {manifest.product}: left out")
        else:
            fitting.append(node)
    usable = [n for n in fitting if n.usable]
    if fitting:
        shape = _shape(fitting, manifest.accelerators)
    else:
        resources = node_resources(manifest)
        shape = NodeShape(manifest.accelerators, resources.cpu_cores, resources.memory_bytes)
    named = fitting[0].accelerators.resource_name if fitting else resource_name(accelerator)
    most = manifest.nodes.maximum if manifest.nodes is not None else len(fitting)
    taints = {*manifest.taints, *_shared_taints(fitting)}
    pool = NodePool(
        name=manifest.name,
        accelerator=_cpu_of(fitting, accelerator) if manifest.is_cpu else _linked_as(fitting, accelerator),
        product=manifest.product,
        resource_name=None if manifest.is_cpu else named,
        shape=shape,
        nodes=tuple(_capacity(n, shape) for n in _counted(fitting) if _barring(n, manifest.capacity_type) <= taints),
        addable_nodes=max(0, most - len(fitting)),
        price=manifest.price or agreed_price(fitting, opencost),
        capacity_type=manifest.capacity_type,
        billing=manifest.billing,
        taints=_in_order(taints),
        match_labels=tuple(sorted(manifest.node_selector)),
        labels=_common_labels(usable) if usable else tuple(sorted(manifest.node_selector)),
    )
    return PoolRecord(pool, frozenset(n.name for n in fitting), declared=True, problems=tuple(problems))


def _other_than(declared: Accelerator, node: NodeFacts) -> str | None:
    """What the node has, where that is not what the pool says or less of it; None where it will do."""
    facts = node.accelerators
    said = facts.raw_product or (facts.accelerator.name if facts.accelerator is not None else "no accelerator")
    if facts.accelerator is None or facts.accelerator.family != declared.family:
        return said
    if facts.shared_replicas > 1:
        return f"time-sliced {said}"
    return said if facts.accelerator.memory_bytes < declared.memory_bytes else None


def _cpu_of(members: Sequence[NodeFacts], declared: Accelerator) -> Accelerator:
    """The share of the declared CPU that the smallest member has."""
    if not members:
        return declared
    smallest = min(members, key=lambda n: (n.cpu_cores, n.memory_bytes, n.name))
    return declared.cpu_share(smallest.cpu_cores, smallest.memory_bytes, smallest.accelerators.threads_per_core)


def _linked_as(members: Sequence[NodeFacts], declared: Accelerator) -> Accelerator:
    """The declared device, with the narrowest NVLink that a member of the same name was found to have."""
    same = [found for n in members if (found := n.accelerators.accelerator) and found.name == declared.name]
    groups = [found.link.max_group if found.link is not None else 1 for found in same]
    if declared.link is None or not groups or min(groups) >= declared.link.max_group:
        return declared
    link = replace(declared.link, max_group=min(groups)) if min(groups) > 1 else None
    return replace(declared, link=link)


_KIND_LABELS = (
    "node.kubernetes.io/instance-type",
    "karpenter.sh/capacity-type",
    "eks.amazonaws.com/capacityType",
    "cloud.google.com/gke-spot",
    "cloud.google.com/gke-provisioning",
    "kubernetes.azure.com/scalesetpriority",
    "cloud.google.com/gke-nodepool",
    "eks.amazonaws.com/nodegroup",
    "kubernetes.azure.com/agentpool",
    "karpenter.sh/nodepool",
    "topology.kubernetes.io/region",
)


_MOST_FORMER = 16  # names of one pool; more than four taints on every node of a kind are not looked through


def _shared_taints(nodes: Sequence[NodeFacts]) -> set[Taint]:
    """The taints that all of the nodes have."""
    shared = set(nodes[0].taints) if nodes else set()
    for node in nodes[1:]:
        shared &= set(node.taints)
    return shared


def _barring(node: NodeFacts, capacity_type: CapacityType) -> frozenset[Taint]:
    """Those of a node's taints that keep pods of ours out.

    Every pod tolerates the taint of the accelerator that it asks for and, on spot, those of the clouds' spot nodes.
    """
    passed = {node.accelerators.resource_name, *(SPOT_TAINT_KEYS if capacity_type is CapacityType.SPOT else ())}
    return frozenset(t for t in node.taints if t.key not in passed or t.effect != "NoSchedule")


def _in_order(taints: Iterable[Taint]) -> tuple[Taint, ...]:
    return tuple(sorted(taints, key=lambda t: (t.key, t.value, t.effect)))


@dataclass(frozen=True, slots=True)
class _Kind:
    """What nodes of one derived pool have in common. `taints` tell pools of one kind apart, not kinds."""

    accelerator: str
    product: str
    resource_name: str
    count: int
    instance_type: str
    capacity_type: CapacityType
    labels: tuple[tuple[str, str], ...]
    taints: tuple[tuple[str, str, str], ...] = ()


def _derived_pools(
    nodes: Sequence[NodeFacts], everyone: Sequence[NodeFacts], opencost: OpenCostPrices, problems: list[str]
) -> list[PoolRecord]:
    kinds: dict[_Kind, list[NodeFacts]] = {}
    for node in nodes:
        kind = _kind(node, problems)
        if kind is not None:
            kinds.setdefault(kind, []).append(node)
    records: list[PoolRecord] = []
    for kind, members in kinds.items():
        groups = price_groups(members, opencost)
        # A price is no label: pods can be kept to nodes of one price only by naming them.
        by_hostname = len(groups) > 1 or _others_match(kind, members, everyone)
        unpriced = frozenset(node.name for price, group in groups if price is None for node in group)
        taken: set[str] = set()
        for price, group in groups:
            for record in _pools_by_taints(kind, group, price, by_hostname):
                # The most keep the plain name: one node that is priced anew must not take it from those that stand.
                suffix = f"-{_digest(amount_of(price))[:4]}" if record.pool.name in taken else ""
                taken.add(record.pool.name)
                pool = replace(record.pool, name=record.pool.name + suffix)
                former = tuple((name + suffix, fewer) for name, fewer in record.former)
                records.append(replace(record, pool=pool, members=record.members | unpriced, former=former))
    return records


def _pools_by_taints(
    kind: _Kind, members: Sequence[NodeFacts], price: Price | None, by_hostname: bool
) -> list[PoolRecord]:
    """A pool of all the members, and one for each set of taints that some of them have and the others have not.

    What carries more than the others is no capacity of theirs, and is that of a pool of its own for pods that tolerate
    it, as where a few of many equal nodes are dedicated to somebody.
    """
    shared = _shared_taints(members)
    more: dict[frozenset[Taint], list[NodeFacts]] = {}
    for node in members:
        more.setdefault(_barring(node, kind.capacity_type) - shared, []).append(node)
    return [
        _derived_pool(kind, nodes if beyond else members, nodes, price, by_hostname=by_hostname or bool(beyond))
        for beyond, nodes in more.items()
    ]


def _kind(node: NodeFacts, problems: list[str]) -> _Kind | None:
    facts = node.accelerators
    if facts.is_cpu and OVERRIDE_LABEL not in node.label_map:
        return None  # a CPU node serves only where its owner says so
    if facts.shared_replicas > 1 or facts.accelerator is None or facts.count < 1:
        problems.extend(f"node {node.name}: {problem.message}" for problem in facts.problems)
        return None
    blocking = [p for p in facts.problems if p.reason in ("SeveralProducts", "MemoryContradicts")]
    if blocking:
        problems.extend(f"node {node.name}: {problem.message}" for problem in blocking)
        return None
    problems.extend(f"node {node.name}: {p.message}" for p in facts.problems if p.reason == "UnlistedProduct")
    labels = node.label_map
    keys = [*filter(None, (facts.source_label,)), *facts.fact_labels, *_KIND_LABELS]
    return _Kind(
        accelerator=facts.accelerator.name,
        product=facts.raw_product or facts.accelerator.name,
        resource_name=facts.resource_name or "",
        count=0 if facts.is_cpu else facts.count,
        instance_type=node.origin.instance_type or "",
        capacity_type=node.origin.capacity_type or CapacityType.ON_DEMAND,
        labels=tuple(sorted((k, labels[k]) for k in keys if k in labels)),
    )


def _others_match(kind: _Kind, members: Sequence[NodeFacts], everyone: Sequence[NodeFacts]) -> bool:
    """Whether nodes outside the pool carry all the labels that would select it."""
    if not kind.labels:
        return True
    names = {n.name for n in members}
    return any(node.name not in names and all(node.label_map.get(k) == v for k, v in kind.labels) for node in everyone)


def _derived_pool(
    kind: _Kind,
    members: Sequence[NodeFacts],
    capacity: Sequence[NodeFacts],
    price: Price | None,
    *,
    by_hostname: bool,
) -> PoolRecord:
    """The pool of the members, of which only `capacity` takes new pods; its name is by the taints of most of these."""
    standing = [taints for taints, _ in Counter(n.taints for n in capacity).most_common()]
    accelerator = members[0].accelerators.accelerator
    if accelerator is None:
        raise AssertionError("nodes without a known accelerator make no pool")
    shape = _shape(members, kind.count)
    pool = NodePool(
        name=_pool_name(kind, standing[0]),
        accelerator=accelerator,
        product=kind.product,
        resource_name=kind.resource_name or None,
        shape=shape,
        nodes=tuple(_capacity(n, shape) for n in _counted(capacity)),
        price=price,
        capacity_type=kind.capacity_type,
        taints=_in_order(_shared_taints(capacity)),
        match_labels=kind.labels,
        hostnames=tuple(sorted(n.hostname for n in members)) if by_hostname else (),
        labels=_common_labels(members),
    )
    return PoolRecord(pool, frozenset(n.name for n in members), former=_former_names(kind, standing, pool.taints))


def _former_names(
    kind: _Kind, standing: Sequence[tuple[Taint, ...]], shared: Sequence[Taint]
) -> tuple[tuple[str, int], ...]:
    """Names by the taints of any of its nodes, most first, less some that all share: which came nobody tells."""
    changed: dict[tuple[Taint, ...], int] = {}
    for taints in standing[:_MOST_FORMER]:
        fewer = [taints]
        for taint in taints:
            if taint in shared and len(fewer) < _MOST_FORMER:
                fewer += [tuple(t for t in each if t != taint) for each in fewer]
        for each in fewer:
            changed.setdefault(each, len(set(standing[0]).symmetric_difference(each)))
    return tuple((_pool_name(kind, each), count) for each, count in changed.items() if each != standing[0])


def _pool_name(kind: _Kind, taints: Sequence[Taint]) -> str:
    """A name that a person can read and that stays while the kind does: `h100-sxm-80gb-x8-1a2b3c`."""
    kind = replace(kind, taints=tuple((t.key, t.value, t.effect) for t in taints))
    parts = [kind.accelerator.lower(), f"x{kind.count}" if kind.count else "cpu"]
    if kind.capacity_type is CapacityType.SPOT:
        parts.append("spot")
    readable = re.sub(r"[^a-z0-9]+", "-", "-".join(parts)).strip("-")[:50].strip("-")
    return f"{readable}-{_digest(repr(kind))[:5]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _shape(members: Sequence[NodeFacts], count: int) -> NodeShape:
    """What every node of the pool has: the least of each, since a whole node may be the smallest one.

    A node that just came says nothing of its size yet; it must not make the others look too small.
    """
    sized = [n for n in members if n.cpu_cores > 0 and n.memory_bytes > 0] or members
    return NodeShape(
        accelerators=count,
        cpu_cores=min(n.cpu_cores for n in sized),
        memory_bytes=min(n.memory_bytes for n in sized),
    )


def _counted(nodes: Sequence[NodeFacts]) -> list[NodeFacts]:
    """Those that take pods now or in a moment.

    A node that starts has its room: whoever it was added for must not take it for gone, and nobody must take one whose
    agent restarts for empty.
    """
    return [node for node in nodes if node.usable or node.starting]


def _capacity(node: NodeFacts, shape: NodeShape) -> NodeCapacity:
    count = 0 if node.accelerators.is_cpu else node.accelerators.count
    return NodeCapacity(node.name, min(count, shape.accelerators), node.cpu_cores, node.memory_bytes)


def _common_labels(members: Sequence[NodeFacts]) -> tuple[tuple[str, str], ...]:
    common = set(members[0].labels)
    for node in members[1:]:
        common &= set(node.labels)
    return tuple(sorted(common))
