"""The catalogue of accelerators: what one device can hold, move and compute, with a source for each figure.

Separate because everything that predicts reads it and nothing in it knows where a name came from: spellings are
`accelerator_names`, labels are the operator's. An entry is one device *as Kubernetes counts devices*: half of an
MI250 card, one GPU of a GB200 board, one socket of a CPU.

Three conventions, each chosen so that a wrong guess is a low one:

- FLOP/s are dense peaks. Vendors print the figure with sparsity, which vLLM does not use; it is twice as high.
- `memory_bytes` is what the driver reports in total. Vendors' "80 GB" is 80 GiB less what the firmware keeps on one
  card and 80 x 10^9 on another; where no driver figure was at hand the datasheet's number counts as 10^9.
- Bandwidths of links are per direction. Vendors print the sum of both.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

from metainf.dtypes import DType
from metainf.pcie import PCIE_X16_BYTES_PER_S, pcie_bytes_per_s

__all__ = [
    "Accelerator",
    "CpuCores",
    "FormFactor",
    "InstanceAccelerator",
    "Link",
    "MigGeometry",
    "Partition",
    "PeakFlops",
    "Source",
    "Vendor",
    "catalogue",
    "get",
    "instance_types",
    "pcie_bytes_per_s",
]

_OWN_MEMORY_BYTES_PER_S = 25e9  # assumed, and pessimistic: a host's to itself, for which no datasheet names a link
_MIB = 2**20
_GIB = 2**30
_GB = 10**9

_MEMORY_WINDOW_RATIO = (0.93, 1.02)
"""Labels round and drivers withhold: T4 15109 MiB of "16 GB" is the lowest seen, rounding to whole GiB the highest."""

_PROFILE_WINDOW_RATIO = (0.90, 1.10)
"""A MIG profile's name rounds more: 1g.5gb was seen as 4864 and as 5120 MiB."""

_MAX_SLICE_ERROR = 0.2
"""Furthest that a profile's memory may lie from a whole number of slices: 1g.12gb of 94 GB is 1.02 of 8."""


class Vendor(StrEnum):
    """Who makes the device; CPUs are one class of their own, whoever makes them."""

    NVIDIA = "NVIDIA"
    AMD = "AMD"
    INTEL = "INTEL"
    CPU = "CPU"


class FormFactor(StrEnum):
    """How the device is mounted, which decides power, clocks and links of otherwise equal silicon."""

    SXM = "SXM"
    PCIE = "PCIe"
    NVL = "NVL"
    OAM = "OAM"
    SUPERCHIP = "Superchip"
    CPU = "CPU"


class PeakFlops(Mapping[DType, float]):
    """Dense peak FLOP/s by number format: a mapping that cannot change, can be hashed and can be pickled."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[DType, float]) -> None:
        self._items = tuple(sorted(items.items()))

    def __getitem__(self, key: DType) -> float:
        for dtype, flops in self._items:
            if dtype == key:
                return flops
        raise KeyError(key)

    def __iter__(self) -> Iterator[DType]:
        return (dtype for dtype, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return f"PeakFlops({dict(self._items)!r})"

    def scaled(self, ratio: float) -> "PeakFlops":
        """The same formats at `ratio` of the rate."""
        return PeakFlops({dtype: flops * ratio for dtype, flops in self._items})


@dataclass(frozen=True, slots=True)
class Source:
    """Where a figure was read."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Link:
    """The scale-up link: NVLink, xGMI, or the RoCE ports of a Gaudi that stay inside the node."""

    bytes_per_s_per_direction: float
    max_group: int
    """Most devices that reach each other at this rate."""


@dataclass(frozen=True, slots=True)
class MigGeometry:
    """How many slices a GPU can be cut into. Source: NVIDIA MIG user guide, supported profiles."""

    compute_slices: int
    memory_slices: int


@dataclass(frozen=True, slots=True)
class Partition:
    """One MIG slice of a GPU."""

    profile: str
    compute_ratio: float
    memory_ratio: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class CpuCores:
    """What makes a CPU scalable: its figures hold for this many cores, counted as Kubernetes counts `cpu`."""

    cores: float
    """Logical: clouds and the kernel sell threads."""
    threads_per_core: int
    instruction_sets: frozenset[str] = frozenset()
    """What vLLM's kernels ask for, as Linux names them: vectors and matrix units."""

    @property
    def physical_cores(self) -> float:
        """The cores that compute: two threads of one core share its units."""
        return self.cores / self.threads_per_core


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device: datasheet facts, in base units."""

    name: str
    vendor: Vendor
    family: str
    form_factor: FormFactor
    generation: str
    memory_bytes: int
    """Total as the driver reports it; of a CPU, the memory that comes with the share."""
    memory_type: str
    memory_bandwidth_bytes_per_s: float
    flops: PeakFlops
    tdp_w: float
    sources: tuple[Source, ...]
    captured: date
    marketed_memory_gb: tuple[int, ...] = ()
    """The numbers that names use for its memory ("80GB"), the usual one first."""
    link: Link | None = None
    pcie_bytes_per_s: float | None = None
    """Per direction; None where the device is the host."""
    compute_capability: tuple[int, int] | None = None
    devices_per_card: int = 1
    """2 where a card is two devices: all other figures are of one."""
    mig: MigGeometry | None = None
    partition: Partition | None = None
    cpu: CpuCores | None = None
    family_names: tuple[str, ...] = field(default=(), repr=False)
    aliases: tuple[str, ...] = field(default=(), repr=False)
    note: str = field(default="", repr=False)

    def supports(self, dtype: DType) -> bool:
        """Whether the silicon multiplies `dtype` itself; other formats have to be widened first."""
        return dtype in self.flops

    @property
    def has_amx_tile(self) -> bool:
        """Whether it is a CPU with AMX tiles, for which vLLM has kernels of its own."""
        return self.cpu is not None and "amx_tile" in self.cpu.instruction_sets

    def flops_for(self, dtype: DType) -> float | None:
        """Dense peak FLOP/s in `dtype`; None where the silicon has no such unit."""
        return self.flops.get(dtype)

    def joins(self, count: int) -> bool:
        """Whether its scale-up link joins so many of it; otherwise they meet over PCIe."""
        return self.link is not None and count <= self.link.max_group

    def bytes_per_s_among(self, count: int) -> float:
        """Bandwidth per direction that so many of it have to each other."""
        if self.link is not None and self.joins(count):
            return self.link.bytes_per_s_per_direction
        return self.host_bytes_per_s

    @property
    def host_bytes_per_s(self) -> float:
        """Bandwidth to the host per direction: that of PCIe, or of the memory where the device is the host."""
        return self.pcie_bytes_per_s or _OWN_MEMORY_BYTES_PER_S

    def memory_matches(self, memory_bytes: int) -> bool:
        """Whether a label that says `memory_bytes` can mean this device, in GB or GiB, with or without reserve."""
        if self.partition is not None:
            low, high = _PROFILE_WINDOW_RATIO
            marketed = [round(self.partition.memory_bytes / _GB)]
        else:
            low, high = _MEMORY_WINDOW_RATIO
            marketed = list(self.marketed_memory_gb)
        if not marketed:
            return False
        return low * min(marketed) * _GB <= memory_bytes <= high * max(marketed) * _GIB

    def mig_partition(self, profile: str, compute_slices: int, memory_gb: int) -> Partition | None:
        """The slice that `profile` cuts out of this GPU; None where it has no such slice.

        The compute ratio is the guide's "fraction of SMs", k of 7. The SMs that belong to no slice make that up to
        a tenth too high on an A100.
        """
        if self.mig is None or not 1 <= compute_slices <= self.mig.compute_slices:
            return None
        full_gb = min(self.marketed_memory_gb, key=lambda gb: abs(gb * _GIB - self.memory_bytes))
        slices = memory_gb / full_gb * self.mig.memory_slices
        whole = round(slices)
        if not 1 <= whole <= self.mig.memory_slices or abs(slices - whole) > _MAX_SLICE_ERROR:
            return None
        if compute_slices > whole:
            return None
        return Partition(
            profile=profile,
            compute_ratio=compute_slices / self.mig.compute_slices,
            memory_ratio=whole / self.mig.memory_slices,
            memory_bytes=memory_gb * _GB,
        )

    def partitioned(self, partition: Partition, memory_bytes: int | None = None) -> "Accelerator":
        """This GPU cut down to one slice; it has no link, since MIG devices cannot reach each other.

        Parameters
        ----------
        partition : Partition
            As `mig_partition` gives it.
        memory_bytes : int or None
            What a label says of the slice; without it the profile's number counts as 10^9, which is a little low.
        """
        memory = memory_bytes or partition.memory_bytes
        return replace(
            self,
            name=f"{self.name}-MIG-{partition.profile}",
            memory_bytes=memory,
            memory_bandwidth_bytes_per_s=self.memory_bandwidth_bytes_per_s * partition.memory_ratio,
            flops=self.flops.scaled(partition.compute_ratio),
            tdp_w=self.tdp_w * partition.compute_ratio,
            link=None,
            mig=None,
            partition=replace(partition, memory_bytes=memory),
        )

    def cpu_share(self, cores: float, memory_bytes: int, threads_per_core: int | None = None) -> "Accelerator":
        """A CPU as a node or a pod has it: so much `cpu`, as Kubernetes counts it, and so much memory.

        FLOP/s, bandwidth and power go with the physical cores, past one socket too. A few cores alone can draw more
        of a socket's bandwidth than this; next to busy neighbours they cannot.

        Raises
        ------
        ValueError
            This is no CPU, or a number is not positive.
        """
        if self.cpu is None:
            raise ValueError(f"taking cores of {self.name}, which is no CPU")
        if cores <= 0 or memory_bytes <= 0:
            raise ValueError(f"taking {cores} cpu and {memory_bytes} bytes of {self.name}: both must be above 0")
        share = CpuCores(cores, threads_per_core or self.cpu.threads_per_core, self.cpu.instruction_sets)
        ratio = share.physical_cores / self.cpu.physical_cores
        return replace(
            self,
            memory_bytes=memory_bytes,
            memory_bandwidth_bytes_per_s=self.memory_bandwidth_bytes_per_s * ratio,
            flops=self.flops.scaled(ratio),
            tdp_w=self.tdp_w * ratio,
            cpu=share,
        )


@dataclass(frozen=True, slots=True)
class InstanceAccelerator:
    """Which device the instance types of one cloud family have."""

    pattern: str
    """A regular expression on the start of the lower-cased instance type."""
    accelerator: str
    threads_per_core: int | None
    """Of CPU families: how many of its vCPUs are one physical core."""
    source: Source


@dataclass(frozen=True, slots=True)
class _Catalogue:
    accelerators: tuple[Accelerator, ...]
    by_name: Mapping[str, Accelerator]
    instance_types: tuple[InstanceAccelerator, ...]


def catalogue() -> tuple[Accelerator, ...]:
    """Every device that is known, in the order of the file."""
    return _load().accelerators


def get(name: str) -> Accelerator | None:
    """The device of exactly this catalogue name; `accelerator_names.find` reads other spellings."""
    return _load().by_name.get(name)


def instance_types() -> tuple[InstanceAccelerator, ...]:
    """Cloud instance families whose device is documented."""
    return _load().instance_types


@cache
def _load() -> _Catalogue:
    text = resources.files("metainf").joinpath("data", "accelerators.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    sources = {key: Source(**row) for key, row in document["sources"].items()}
    captured = date.fromisoformat(document["captured"])
    accelerators = tuple(_accelerator(row, sources, captured) for row in document["accelerators"])
    return _Catalogue(
        accelerators=accelerators,
        by_name={accelerator.name: accelerator for accelerator in accelerators},
        instance_types=tuple(
            InstanceAccelerator(
                pattern=row["pattern"],
                accelerator=row["accelerator"],
                threads_per_core=row.get("threads_per_core"),
                source=sources[row["source"]],
            )
            for row in document["instance_types"]
        ),
    )


def _accelerator(row: Mapping[str, Any], sources: Mapping[str, Source], captured: date) -> Accelerator:
    return Accelerator(
        name=row["name"],
        vendor=Vendor(row["vendor"]),
        family=row["family"],
        form_factor=FormFactor(row["form_factor"]),
        generation=row["generation"],
        memory_bytes=row["memory_mib"] * _MIB if "memory_mib" in row else round(row["memory_gb"] * _GB),
        memory_type=row["memory_type"],
        memory_bandwidth_bytes_per_s=row["bandwidth_gb_per_s"] * 1e9,
        flops=PeakFlops({DType(key): tflops * 1e12 for key, tflops in row["dense_tflops"].items()}),
        tdp_w=float(row["tdp_w"]),
        sources=tuple(sources[key] for key in row["sources"]),
        captured=captured,
        marketed_memory_gb=tuple(row["marketed_memory_gb"]),
        link=_link(row),
        pcie_bytes_per_s=PCIE_X16_BYTES_PER_S[row["pcie_generation"]] if "pcie_generation" in row else None,
        compute_capability=tuple(row["compute_capability"]) if "compute_capability" in row else None,
        devices_per_card=row.get("devices_per_card", 1),
        mig=_mig(row),
        cpu=_cpu(row),
        family_names=tuple(row["family_names"]),
        aliases=tuple(row.get("aliases", ())),
        note=row.get("note", ""),
    )


def _link(row: Mapping[str, Any]) -> Link | None:
    if "link_group" not in row:
        return None
    return Link(bytes_per_s_per_direction=row["link_gb_per_s_per_direction"] * 1e9, max_group=row["link_group"])


def _mig(row: Mapping[str, Any]) -> MigGeometry | None:
    if "mig_compute_slices" not in row:
        return None
    return MigGeometry(compute_slices=row["mig_compute_slices"], memory_slices=row["mig_memory_slices"])


def _cpu(row: Mapping[str, Any]) -> CpuCores | None:
    """The file has a socket's physical cores, as its datasheet does."""
    if "physical_cores" not in row:
        return None
    threads = row["threads_per_core"]
    sets = frozenset(row["instruction_sets"])
    return CpuCores(cores=float(row["physical_cores"] * threads), threads_per_core=threads, instruction_sets=sets)
