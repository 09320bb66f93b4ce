"""Makes up for what the catalogue does not know of a node's GPUs, from the facts that `node_facts` labelled it with.

Separate because these are figures of one node's own driver and not of a datasheet: a GPU that is in no catalogue
becomes usable with the least that its silicon assures, and an NVLink that the datasheet has and the node lacks is
taken away. Each answer names the labels it rests on, so that nodes which differ in them make different pools.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date

from metainf.accelerators import Accelerator, FormFactor, Link, PeakFlops, Source, Vendor
from metainf.dtypes import DType
from metainf.pcie import pcie_bytes_per_s
from metainf_operator.gpu_fact_labels import (
    BANDWIDTH_LABEL,
    CLOCK_LABEL,
    CORES_LABEL,
    NVLINK_GROUP_LABEL,
    NVLINK_SPEED_LABEL,
    PCIE_GENERATION_LABEL,
    PCIE_WIDTH_LABEL,
    POWER_LIMIT_LABEL,
)
from metainf_operator.node_label_keys import integer

__all__ = ["Measured", "unlisted_gpu", "with_links_of_node"]

_FP16_FLOP_PER_CORE_AND_CLOCK = {
    (7, 0): 16,
    (7, 5): 8,
    (8, 0): 32,
    (8, 6): 4,
    (8, 9): 4,
    (9, 0): 8,
    (10, 0): 64,
    (10, 3): 64,
    (12, 0): 4,
    (12, 1): 4,
}
"""Dense products of 16 bits, by compute capability: of the slowest product that has it, since a name tells nothing of
an unlisted one. GeForce cards add up at half the rate of the same silicon's professional ones (8.6, 8.9, 12.x), and an
H20 has a seventh of an H100's (9.0). Source: NVIDIA's architecture whitepapers V100 to Blackwell, tensor core rates per
SM, and the catalogue's H20.
"""

_CLOCK_UNDER_LOAD_RATIO = 0.75
"""Of the highest clock that the driver allows. Assumed: peaks of datasheets are of 0.92 of it on an H100 (1830 of
1980 MHz, NVIDIA's H100 whitepaper), and of less on cards that may be overclocked. tests/test_measured_gpus.py holds it
against the catalogue.
"""

_LABELLED_CAPABILITY = ("nvidia.com/gpu.compute.major", "nvidia.com/gpu.compute.minor")
_NEEDED = (BANDWIDTH_LABEL, CORES_LABEL, CLOCK_LABEL, POWER_LIMIT_LABEL)
_OPTIONAL = (PCIE_GENERATION_LABEL, PCIE_WIDTH_LABEL, NVLINK_GROUP_LABEL, NVLINK_SPEED_LABEL)

_SOURCE = Source("The node's own driver, by labels of metainf-node-facts", "https://docs.nvidia.com/deploy/nvml-api/")
_CAPTURED = date(2026, 11, 26)
"""Of the rates per core above: the labels are as of now."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A device, and the labels whose facts are in it."""

    accelerator: Accelerator
    labels: tuple[str, ...]


def unlisted_gpu(product: str, labels: Mapping[str, str], memory_bytes: int | None) -> Measured | None:
    """A GPU that no catalogue has, by what its driver says; None where a fact that is needed is missing.

    Its generation is one that nothing was measured on, which widens every interval. Number formats are those that
    its compute capability multiplies; int8 is left out from 10.0 on, where products differ fiftyfold in it.
    """
    major, minor = (integer(labels.get(key)) for key in _LABELLED_CAPABILITY)
    bandwidth, cores, clock_mhz, power_w = (integer(labels.get(key)) for key in _NEEDED)
    rate = _FP16_FLOP_PER_CORE_AND_CLOCK.get((major, minor))
    if rate is None or not memory_bytes or not all((bandwidth, cores, clock_mhz, power_w)):
        return None
    core_clocks = cores * clock_mhz * 1e6 * _CLOCK_UNDER_LOAD_RATIO
    link = _link(labels)
    accelerator = Accelerator(
        name=product,
        vendor=Vendor.NVIDIA,
        family=product,
        form_factor=FormFactor.PCIE if link is None else FormFactor.SXM,
        generation=f"unlisted {labels.get('nvidia.com/gpu.family', '')}".strip(),
        memory_bytes=memory_bytes,
        memory_type="unknown",
        memory_bandwidth_bytes_per_s=bandwidth * 1e9,
        flops=_flops((major, minor), rate * core_clocks, 2 * core_clocks),
        tdp_w=float(power_w),
        sources=(_SOURCE,),
        captured=_CAPTURED,
        link=link,
        pcie_bytes_per_s=_pcie(labels),
        compute_capability=(major, minor),
    )
    used = (*_LABELLED_CAPABILITY, *_NEEDED, *_OPTIONAL)
    return Measured(accelerator, tuple(key for key in used if key in labels))


def _flops(capability: tuple[int, int], half: float, single: float) -> PeakFlops:
    flops = {DType.FP16: half, DType.FP32: single}
    if capability >= (8, 0):
        flops[DType.BF16] = half
    if (7, 5) <= capability < (10, 0):
        flops[DType.INT8] = 2 * half
    if capability >= (8, 9):
        flops[DType.FP8] = 2 * half
    if capability >= (10, 0):
        flops[DType.FP4] = 4 * half
    return PeakFlops(flops)


def _link(labels: Mapping[str, str]) -> Link | None:
    group, gb_per_s = integer(labels.get(NVLINK_GROUP_LABEL)), integer(labels.get(NVLINK_SPEED_LABEL))
    return Link(gb_per_s * 1e9, group) if group > 1 and gb_per_s else None


def _pcie(labels: Mapping[str, str]) -> float | None:
    """Of the link as it is; of the slowest that there is where the driver does not say."""
    generation = integer(labels.get(PCIE_GENERATION_LABEL)) or 3
    return pcie_bytes_per_s(generation, integer(labels.get(PCIE_WIDTH_LABEL)) or 16)


def with_links_of_node(accelerator: Accelerator, labels: Mapping[str, str], count: int) -> Measured:
    """The device with the NVLink that the node has: bridges are options, and a fabric can be down.

    Where the node has what the datasheet says, the device stays as it is, and rests on no label.
    """
    group = integer(labels.get(NVLINK_GROUP_LABEL))
    if accelerator.link is None or not 0 < group < min(accelerator.link.max_group, count):
        return Measured(accelerator, ())
    link = replace(accelerator.link, max_group=group) if group > 1 else None
    return Measured(replace(accelerator, link=link), (NVLINK_GROUP_LABEL,))
