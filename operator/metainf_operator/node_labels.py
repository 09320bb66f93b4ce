"""Reads what a node's labels and allocatable resources say of its accelerators, and how sure that is.

Separate because eight vendors label nodes in eight ways and this is the one place that knows them: labels in, facts
with their provenance out. Pure; the names themselves are read by `metainf.accelerator_names`. What cannot be told is
a `Problem` with the two facts that disagree, never a guess: the caller refuses or warns.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from metainf.accelerator_names import Ambiguous, Exact, Match, Unknown, UnknownReason, by_instance_type, find
from metainf.accelerators import Accelerator, Partition, Vendor
from metainf_operator.gpu_fact_labels import PRODUCTS_LABEL
from metainf_operator.measured_gpus import unlisted_gpu, with_links_of_node
from metainf_operator.node_cpus import identify_cpu, threads_per_core
from metainf_operator.node_label_keys import (
    OVERRIDE_LABEL,
    integer,
    labelled_count,
    labelled_memory_bytes,
    product_names,
)
from metainf_operator.node_origin import read_origin
from metainf_operator.quantities import quantity_or_none

__all__ = [
    "OVERRIDE_LABEL",
    "NodeAccelerators",
    "Problem",
    "ProblemReason",
    "is_device",
    "read_accelerators",
]

_MIB = 2**20
_GIB = 2**30

_WHOLE_RESOURCES = {
    "nvidia.com/gpu": Vendor.NVIDIA,
    "nvidia.com/gpu.shared": Vendor.NVIDIA,
    "amd.com/gpu": Vendor.AMD,
    "habana.ai/gaudi": Vendor.INTEL,
    "gpu.intel.com/i915": Vendor.INTEL,
    "gpu.intel.com/xe": Vendor.INTEL,
}

_MIG_RESOURCE = re.compile(r"nvidia\.com/mig-(?P<profile>(?:\dc\.)?\dg\.\d+gb(?:[.+][a-z.]+)?)$")


class ProblemReason(StrEnum):
    """Why the facts of a node's accelerators cannot be taken as they stand."""

    SEVERAL_PRODUCTS = "SeveralProducts"
    """Shows when labels or resources of one node name different devices."""
    SEVERAL_RESOURCES = "SeveralResources"
    """Shows when one node offers several kinds of partition; the largest is described."""
    NO_PRODUCT_LABEL = "NoProductLabel"
    """Shows when accelerators are allocatable and neither a label nor the instance type says which."""
    UNKNOWN_PRODUCT = "UnknownProduct"
    """Shows when the label's product is not in the catalogue."""
    UNLISTED_PRODUCT = "UnlistedProduct"
    """Shows when the product is not in the catalogue, and is used with the least that the driver's facts assure."""
    AMBIGUOUS_PRODUCT = "AmbiguousProduct"
    """Shows when the label's product can be several devices and nothing else on the node decides."""
    MEMORY_CONTRADICTS = "MemoryContradicts"
    """Shows when the memory label cannot belong to the product label's device."""
    TIME_SLICED = "TimeSliced"
    """Shows when a device is handed to several pods at a time: no memory or speed of it is assured."""
    NOT_ALLOCATABLE = "NotAllocatable"
    """Shows when labels promise accelerators and the node allocates none."""
    NO_CPU_FACTS = "NoCpuFacts"
    """Shows when a node without accelerators says neither how many CPUs nor how much memory it has."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One doubt about a node, with the facts that disagree."""

    reason: ProblemReason
    message: str


@dataclass(frozen=True, slots=True)
class NodeAccelerators:
    """What one node offers to a model: its GPUs or, on a node without any, the CPU as a whole."""

    raw_product: str | None
    """The product as the label has it; None where no label names one."""
    match: Match
    memory_bytes: int | None
    """Of one device: as labelled, else the catalogue's; None where neither is known."""
    count: int
    """Schedulable devices; 1 for a CPU node, which is one device with all of its cores."""
    resource_name: str | None
    """What a pod requests; None on a CPU node."""
    shared_replicas: int
    """Pods that share one device at a time; 1 is exclusive. At least this many."""
    source_label: str | None
    """Provenance: the key that named the device."""
    problems: tuple[Problem, ...]
    fact_labels: tuple[str, ...] = ()
    """Labels of `node_facts` that the device's figures rest on, where the catalogue has none or others."""
    threads_per_core: int | None = None
    """Of a CPU node that tells it, by its instance type or by node feature discovery; None where nothing does."""

    @property
    def accelerator(self) -> Accelerator | None:
        """The device where it is known for certain."""
        return self.match.accelerator if isinstance(self.match, Exact) else None

    @property
    def partition(self) -> Partition | None:
        """The MIG slice where the device is one."""
        return self.accelerator.partition if self.accelerator else None

    @property
    def is_cpu(self) -> bool:
        """Whether a model would run on the CPU here."""
        return self.resource_name is None


def read_accelerators(labels: Mapping[str, str], allocatable: Mapping[str, str]) -> NodeAccelerators:
    """The accelerators of a node.

    Parameters
    ----------
    labels : mapping
        `metadata.labels`, or what a pool at zero nodes would give its nodes.
    allocatable : mapping
        `status.allocatable`; empty for a node that does not stand yet, whose counts then come from the labels.
    """
    names = tuple(product_names(labels))
    resources = tuple(_resources(allocatable))
    instance_type = read_origin(labels).instance_type or ""
    machine, row = by_instance_type(instance_type) or (None, None)
    named_cpu = _is_cpu(find(labels.get(OVERRIDE_LABEL, "")))
    if named_cpu or not (names or resources or (machine and machine.cpu is None)):
        known_cpu = (machine, row.threads_per_core) if machine and row and machine.cpu else None
        return _cpu_node(labels, allocatable, known_cpu)

    resource = resources[0][0] if resources else None
    profile = _profile(labels, resource)
    memory = labelled_memory_bytes(labels, profile)
    match, source = _identify(names, labels, profile, memory, machine)
    if source is None and machine is not None:
        source, match = "node.kubernetes.io/instance-type", replace(match, raw=instance_type)
    agreed = _agreeing(match, resources, labels)
    match, fact_labels = _measured(agreed, source, labels, memory)
    listed = ", ".join(f"{name}: {count}" for name, count in resources)
    problems = list(_match_problems(match, source, memory, listed))
    if isinstance(agreed, Unknown) and isinstance(match, Exact):
        detail = f"{source}={match.raw} is not in the catalogue: its speed is the least that its driver's facts assure"
        problems.append(Problem(ProblemReason.UNLISTED_PRODUCT, detail))
    problems += _resource_problems(resources, allocatable, listed)
    count = resources[0][1] if resources else (0 if allocatable else labelled_count(labels))
    replicas = _shared_replicas(labels, resource, count, match)
    if replicas > 1:
        detail = f"each device of {resource or 'the node'} is time-sliced among {replicas} pods or more"
        problems.append(Problem(ProblemReason.TIME_SLICED, detail))
    known = match.accelerator if isinstance(match, Exact) else None
    return NodeAccelerators(
        raw_product=match.raw if source is not None else None,
        match=match,
        memory_bytes=memory or (known.memory_bytes if known else None),
        count=count if allocatable else count * replicas,
        resource_name=resource or _default_resource(match, source),
        shared_replicas=replicas,
        source_label=source,
        problems=tuple(problems),
        fact_labels=fact_labels,
    )


def _resources(allocatable: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Accelerator resources with something to give: whole devices first, then the largest partitions."""
    counts = {name: int(quantity_or_none(text) or 0) for name, text in allocatable.items() if is_device(name)}

    def order(name: str) -> tuple[bool, int, str]:
        slices = re.search(r"(\d+)gb", name) if name not in _WHOLE_RESOURCES else None
        return name not in _WHOLE_RESOURCES, -int(slices[1]) if slices else 0, name

    return ((name, counts[name]) for name in sorted(counts, key=order) if counts[name] > 0)


def is_device(resource: str) -> bool:
    """Whether a pod gets an accelerator by a resource of this name: a whole one, a part, or a time-sliced one."""
    return resource in _WHOLE_RESOURCES or _MIG_RESOURCE.match(resource.removesuffix(".shared")) is not None


def _profile(labels: Mapping[str, str], resource: str | None) -> str | None:
    """The MIG profile that is not in the product's name: of a mixed-strategy resource, or of a GKE pool."""
    match = _MIG_RESOURCE.match((resource or "").removesuffix(".shared"))
    return match["profile"] if match else labels.get("cloud.google.com/gke-gpu-partition-size")


def _identify(
    names: tuple[tuple[str, str], ...],
    labels: Mapping[str, str],
    profile: str | None,
    memory: int | None,
    machine: Accelerator | None,
) -> tuple[Match, str | None]:
    """What the names mean together, and the key that said it (None: no label did)."""
    if profile is not None:
        own = f"nvidia.com/mig-{profile}.product"
        cut = [(key, f"{raw}-MIG-{profile}" if "MIG" not in raw.upper() else raw) for key, raw in names]
        names = ((own, labels[own]), *cut) if labels.get(own) else tuple(cut)
    if not names:
        suffix = f"-MIG-{profile}" if profile else ""
        return find(machine.name + suffix if machine else "", memory_bytes=memory), None
    source, written = names[0]
    match = find(written, memory_bytes=memory)
    told = _devices(match)
    for meant in (_meanings(find(raw)) for _, raw in names[1:]):
        told = tuple(device for device in told if not meant or _whole_name(device) in meant)
    if not isinstance(match, Unknown) and not told:
        match = Unknown(written, UnknownReason.CONFLICTING_NAMES, named=_devices(match), shared=match.shared)
    elif isinstance(match, Ambiguous):
        told = tuple(c for c in told if machine and _whole_name(c) == machine.name) or told
        match = Exact(written, told[0], match.shared) if len(told) == 1 else replace(match, candidates=told)
    return replace(match, raw=labels.get(source, written) if profile else written), source


def _meanings(match: Match) -> set[str]:
    """Catalogue names of the whole devices that a name can mean; empty where it is unknown."""
    return set() if isinstance(match, Unknown) else {_whole_name(device) for device in _devices(match)}


def _whole_name(device: Accelerator) -> str:
    return device.name.partition("-MIG-")[0]


def _devices(match: Match) -> tuple[Accelerator, ...]:
    if isinstance(match, Exact):
        return (match.accelerator,)
    return match.candidates if isinstance(match, Ambiguous) else match.named


def _is_cpu(match: Match) -> bool:
    return isinstance(match, Exact) and match.accelerator.cpu is not None


def _agreeing(match: Match, resources: tuple[tuple[str, int], ...], labels: Mapping[str, str]) -> Match:
    """The match, unless the resources belong to another vendor than the name, or devices to several products."""
    named = _devices(match)
    vendors = {_WHOLE_RESOURCES.get(name, Vendor.NVIDIA) for name, _ in resources}
    several = integer(labels.get(PRODUCTS_LABEL)) > 1
    if several or (named and len(vendors | {device.vendor for device in named}) > 1):
        return Unknown(match.raw, UnknownReason.CONFLICTING_NAMES, named=named, shared=match.shared)
    return match


def _measured(
    match: Match, source: str | None, labels: Mapping[str, str], memory: int | None
) -> tuple[Match, tuple[str, ...]]:
    """The match with what the node's own driver adds to it or takes from it, and the labels that say so.

    The driver's facts are of the GPU that `nvidia.com/gpu.product` names: no other name is completed with them.
    """
    if isinstance(match, Exact) and match.accelerator.vendor is Vendor.NVIDIA:
        measured = with_links_of_node(match.accelerator, labels, labelled_count(labels))
        return replace(match, accelerator=measured.accelerator), measured.labels
    unknown = isinstance(match, Unknown) and match.reason is UnknownReason.NOT_IN_CATALOGUE
    if unknown and source == "nvidia.com/gpu.product" and not match.shared and "-MIG-" not in match.raw:
        found = unlisted_gpu(match.raw, labels, memory)
        if found is not None:
            return Exact(match.raw, found.accelerator), found.labels
    return match, ()


def _match_problems(match: Match, source: str | None, memory: int | None, listed: str) -> Iterator[Problem]:
    said = f"{source}={match.raw}" if source else "the node"
    if isinstance(match, Ambiguous):
        names = ", ".join(c.name for c in match.candidates)
        yield Problem(ProblemReason.AMBIGUOUS_PRODUCT, f"{said} can be {names}: set {OVERRIDE_LABEL} to one of them")
    elif isinstance(match, Unknown) and match.reason is UnknownReason.NO_NAME:
        detail = f"accelerators are allocatable and no label says which: set {OVERRIDE_LABEL}"
        yield Problem(ProblemReason.NO_PRODUCT_LABEL, detail)
    elif isinstance(match, Unknown) and match.reason is UnknownReason.CONTRADICTS_MEMORY:
        named = ", ".join(f"{c.name} has {c.memory_bytes / _GIB:.0f} GiB" for c in match.named)
        detail = f"{said} against a memory label of {(memory or 0) / _GIB:.0f} GiB; {named}"
        yield Problem(ProblemReason.MEMORY_CONTRADICTS, detail)
    elif isinstance(match, Unknown) and match.reason is UnknownReason.CONFLICTING_NAMES:
        detail = f"{said} against another label of this node or its resources ({listed})"
        yield Problem(ProblemReason.SEVERAL_PRODUCTS, detail)
    elif isinstance(match, Unknown):
        yield Problem(ProblemReason.UNKNOWN_PRODUCT, f"{said} is not in the catalogue ({match.reason})")


def _resource_problems(
    resources: tuple[tuple[str, int], ...], allocatable: Mapping[str, str], listed: str
) -> Iterator[Problem]:
    if len({_WHOLE_RESOURCES.get(name, Vendor.NVIDIA) for name, _ in resources}) == 1 < len(resources):
        yield Problem(ProblemReason.SEVERAL_RESOURCES, f"several kinds of device on one node: {listed}")
    if allocatable and not resources:
        detail = "labels name an accelerator and the node allocates none: is the device plugin running?"
        yield Problem(ProblemReason.NOT_ALLOCATABLE, detail)


def _shared_replicas(labels: Mapping[str, str], resource: str | None, count: int, match: Match) -> int:
    """Pods per device, from what says it outright or from more allocatable devices than the node has."""
    kind = (resource or "nvidia.com/gpu").removesuffix(".shared")
    stated = max(
        integer(labels.get(f"{kind}.replicas")),
        integer(labels.get("cloud.google.com/gke-max-shared-clients-per-gpu")),
        1,
    )
    physical = integer(labels.get(f"{kind}.count"))
    counted = count // physical if physical and count % physical == 0 else 1
    shared = match.shared or (resource or "").endswith(".shared")
    return max(stated, counted, 2 if shared else 1)


def _default_resource(match: Match, source: str | None) -> str:
    """What the device plugin of the named vendor registers, for nodes that do not stand yet."""
    devices = _devices(match)
    if devices and devices[0].vendor is Vendor.INTEL:
        return "habana.ai/gaudi" if devices[0].family.startswith("Gaudi") else "gpu.intel.com/i915"
    amd = devices[0].vendor is Vendor.AMD if devices else "amd.com/" in (source or "")
    return "amd.com/gpu" if amd else "nvidia.com/gpu"


def _cpu_node(
    labels: Mapping[str, str], allocatable: Mapping[str, str], instance: tuple[Accelerator, int | None] | None
) -> NodeAccelerators:
    """The CPU as one device with all the cores and the memory that pods can have."""
    instance_type = read_origin(labels).instance_type or ""
    machine, threads = instance or (None, None)
    source, raw, device = identify_cpu(labels, instance_type, machine)
    named = find(labels.get(OVERRIDE_LABEL, ""))
    if isinstance(named, Exact):
        source, raw, device = OVERRIDE_LABEL, named.raw, named.accelerator
    cpus = quantity_or_none(allocatable.get("cpu") or labels.get("karpenter.k8s.aws/instance-cpu"))
    memory = quantity_or_none(allocatable.get("memory"))
    memory = memory or Decimal(integer(labels.get("karpenter.k8s.aws/instance-memory")) * _MIB)
    threads = threads or threads_per_core(labels)
    problems: tuple[Problem, ...] = ()
    if cpus and memory:
        device = device.cpu_share(float(cpus), int(memory), threads)
    else:
        detail = "the node says neither its cpu nor its memory, so no share of it can be sized"
        problems = (Problem(ProblemReason.NO_CPU_FACTS, detail),)
    return NodeAccelerators(
        raw_product=raw,
        match=Exact(raw, device),
        memory_bytes=int(memory) or None,
        count=0 if problems else 1,
        resource_name=None,
        shared_replicas=1,
        source_label=source,
        problems=problems,
        threads_per_core=threads,
    )
