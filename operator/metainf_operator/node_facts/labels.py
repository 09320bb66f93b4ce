"""From what the driver said to the labels of the node: those of GPU feature discovery, and our own.

Separate and pure. Names and forms of `nvidia.com/*` are GPU feature discovery's, so that whatever selects nodes by
them selects ours. Source: NVIDIA/k8s-device-plugin internal/lm/{nvml,resource,mig-strategy,machine-type}.go, which
its tests/expected-output*.txt list.

Left out of these: `gfd.timestamp`, the mark by which GPU feature discovery is told from us; `gpu.replicas`,
`sharing-strategy` and `mps.capable`, which are settings of the device plugin and none of the driver; `gpu.clique` and
`imex-domain`, which need the configuration of a fabric. Where a node has GPUs of several products, which it labels in
an order that changes from run to run (gpu-feature-discovery #27), ours are those of the most frequent, then the first
by name.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

from metainf_operator import gpu_fact_labels as own
from metainf_operator.node_facts.gpus import Gpu, MigDevice, Reading

__all__ = ["LABEL_PATTERN", "MigStrategy", "labels_of"]

Labels = dict[str, str]

LABEL_PATTERN = (
    r"^(nvidia\.com/(cuda\.(driver|runtime)(-version)?\.(major|minor|rev|revision|full)|mig\.(capable|strategy)"
    r"|gpu\.(machine|mode|family|compute\.(major|minor))"
    r"|(gpu|mig-[0-9a-z.]+)\.(product|count|memory|multiprocessors|slices\.(gi|ci)"
    r"|engines\.(copy|decoder|encoder|jpeg|ofa)))|metainf\.dev/gpu\.[a-z-]+)$"
)
"""Every key that is ever written, and hardly another one: the chart's admission policy holds our account to it."""

_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
"""Source: Kubernetes, syntax and character set of labels."""

_GPU = "nvidia.com/gpu"

_FAMILIES = {1: "tesla", 2: "fermi", 3: "kepler", 5: "maxwell", 6: "pascal", 9: "hopper", 10: "blackwell",
             12: "blackwell"}  # fmt: skip

_MODES = {"0x030000": "graphics", "0x030200": "compute"}

_NVLINK_GB_PER_S = {1: 20.0, 2: 25.0, 3: 25.0, 4: 25.0, 5: 50.0}
"""Of one link, per direction, where the driver names the version and no speed. Source: NVIDIA NVLink product page."""


class MigStrategy(StrEnum):
    """How the device plugin offers MIG slices; it must be told the same."""

    NONE = "none"
    """Whole GPUs, whether they are cut or not."""
    SINGLE = "single"
    """All GPUs of the node are cut into slices of one profile, which are offered as `nvidia.com/gpu`."""
    MIXED = "mixed"
    """Each profile is a resource of its own."""


def labels_of(reading: Reading, strategy: MigStrategy) -> Labels:
    """All labels of a node; none for a node whose driver has no GPU."""
    if not reading.gpus:
        return {}
    labels = _of_the_machine(reading) | _of_the_driver(reading) | _of_whole_gpus(reading.gpus)
    if strategy is not MigStrategy.NONE:
        labels["nvidia.com/mig.strategy"] = strategy.value
        labels |= _single(reading.gpus) if strategy is MigStrategy.SINGLE else _mixed(reading.gpus)
    labels |= _own(reading.gpus)
    return {key: value for key, value in sorted(labels.items()) if _VALUE.fullmatch(value)}


def _of_the_machine(reading: Reading) -> Labels:
    labels = {"nvidia.com/gpu.machine": _sanitised(reading.machine or "unknown")}
    first = reading.gpus[0].pci_class
    if first is not None:
        labels["nvidia.com/gpu.mode"] = _MODES.get(first, "unknown")
    labels["nvidia.com/mig.capable"] = str(any(gpu.mig_capable for gpu in reading.gpus)).lower()
    return labels


def _of_the_driver(reading: Reading) -> Labels:
    """Each version twice: under the names of before release 0.16, and under those since."""
    major, minor, revision = [*reading.driver_version.split("."), "", ""][:3]
    cuda_major, cuda_minor = map(str, reading.cuda_version)
    return {
        "nvidia.com/cuda.driver.major": major,
        "nvidia.com/cuda.driver.minor": minor,
        "nvidia.com/cuda.driver.rev": revision,
        "nvidia.com/cuda.runtime.major": cuda_major,
        "nvidia.com/cuda.runtime.minor": cuda_minor,
        "nvidia.com/cuda.driver-version.major": major,
        "nvidia.com/cuda.driver-version.minor": minor,
        "nvidia.com/cuda.driver-version.revision": revision,
        "nvidia.com/cuda.driver-version.full": reading.driver_version,
        "nvidia.com/cuda.runtime-version.major": cuda_major,
        "nvidia.com/cuda.runtime-version.minor": cuda_minor,
        "nvidia.com/cuda.runtime-version.full": f"{cuda_major}.{cuda_minor}",
    }


def _of_whole_gpus(gpus: Sequence[Gpu]) -> Labels:
    """Product, count, memory and architecture; of one product also where the node has several."""
    name = _most_frequent(gpus)
    alike = [gpu for gpu in gpus if gpu.name == name]
    labels = {f"{_GPU}.product": _sanitised(name), f"{_GPU}.count": str(len(alike))}
    memory = _least(gpu.memory_mib for gpu in alike)
    if memory:
        labels[f"{_GPU}.memory"] = str(memory)
    major, minor = alike[0].compute_capability
    if major:
        labels[f"{_GPU}.family"] = _family(major, minor)
        labels[f"{_GPU}.compute.major"] = str(major)
        labels[f"{_GPU}.compute.minor"] = str(minor)
    return labels


def _most_frequent(gpus: Sequence[Gpu]) -> str:
    counts = Counter(gpu.name for gpu in gpus)
    return min(counts, key=lambda name: (-counts[name], name))


def _family(major: int, minor: int) -> str:
    if major == 7:
        return "volta" if minor < 5 else "turing"
    if major == 8:
        return "ampere" if minor < 9 else "ada-lovelace"
    return _FAMILIES.get(major, "undefined")


def _single(gpus: Sequence[Gpu]) -> Labels:
    """The slices in place of the GPUs; marked invalid where they are not all alike."""
    cut = [gpu for gpu in gpus if gpu.mig_enabled]
    if not cut:
        return {}
    slices = [device for gpu in cut for device in gpu.mig_devices]
    alike = len({_resource(device) for device in slices}) == 1
    if len(cut) < len(gpus) or not alike or not all(gpu.mig_devices for gpu in cut):
        return {
            f"{_GPU}.product": f"{_sanitised(cut[0].name)}-MIG-INVALID",
            f"{_GPU}.count": "0",
            f"{_GPU}.memory": "0",
        }
    return _of_slices(_GPU, cut[0], slices)


def _mixed(gpus: Sequence[Gpu]) -> Labels:
    """A set of labels for each profile."""
    labels: Labels = {}
    owners = [(gpu, device) for gpu in gpus for device in gpu.mig_devices]
    for name in sorted({_resource(device) for _, device in owners}):
        alike = [(gpu, device) for gpu, device in owners if _resource(device) == name]
        labels |= _of_slices(f"nvidia.com/mig-{name}", alike[0][0], [device for _, device in alike])
    return labels


def _resource(device: MigDevice) -> str:
    """A profile as resources and labels have it: `+` stands in no name."""
    return device.profile.replace("+", ".")


def _of_slices(resource: str, gpu: Gpu, slices: Sequence[MigDevice]) -> Labels:
    one = slices[0]
    return {
        f"{resource}.product": f"{_sanitised(gpu.name)}-MIG-{_sanitised(_resource(one))}",
        f"{resource}.count": str(len(slices)),
        f"{resource}.memory": str(one.memory_mib),
        f"{resource}.multiprocessors": str(one.multiprocessors),
        f"{resource}.slices.gi": str(one.instance_slices),
        f"{resource}.slices.ci": str(one.compute_slices),
        f"{resource}.engines.copy": str(one.copy_engines),
        f"{resource}.engines.decoder": str(one.decoders),
        f"{resource}.engines.encoder": str(one.encoders),
        f"{resource}.engines.jpeg": str(one.jpeg_engines),
        f"{resource}.engines.ofa": str(one.optical_flow_engines),
    }


def _own(gpus: Sequence[Gpu]) -> Labels:
    """The least of the GPUs of the product that is labelled; of a fact that one of them lacks, nothing.

    Of whole GPUs where there are any: one that is cut reports no NVLink, and its slices have none.
    """
    name = _most_frequent(gpus)
    alike = [gpu for gpu in gpus if gpu.name == name]
    alike = [gpu for gpu in alike if not gpu.mig_enabled] or alike
    facts: Mapping[str, Callable[[Gpu], float | None]] = {
        own.BANDWIDTH_LABEL: lambda g: g.bandwidth_bytes_per_s and g.bandwidth_bytes_per_s / 1e9,
        own.CORES_LABEL: lambda g: g.cuda_cores,
        own.CLOCK_LABEL: lambda g: g.sm_clock_mhz,
        own.POWER_LIMIT_LABEL: lambda g: g.power_limit_w,
        own.POWER_DEFAULT_LABEL: lambda g: g.power_default_w,
        own.PCIE_GENERATION_LABEL: lambda g: g.pcie_generation,
        own.PCIE_WIDTH_LABEL: lambda g: g.pcie_width,
        own.NVLINK_COUNT_LABEL: lambda g: g.nvlinks,
        own.NVLINK_VERSION_LABEL: lambda g: g.nvlink_version,
        own.NVLINK_SPEED_LABEL: _nvlink_gb_per_s,
        own.NVLINK_GROUP_LABEL: lambda g: g.nvlink_group,
    }
    labels = {own.PRODUCTS_LABEL: str(len({gpu.name for gpu in gpus}))}
    for key, fact in facts.items():
        least = _least(fact(gpu) for gpu in alike)
        if least is not None:
            labels[key] = str(int(least))
    return labels


def _nvlink_gb_per_s(gpu: Gpu) -> float | None:
    if not gpu.nvlinks:
        return None
    each = gpu.nvlink_mb_per_s / 1e3 if gpu.nvlink_mb_per_s else _NVLINK_GB_PER_S.get(gpu.nvlink_version or 0)
    return each and each * gpu.nvlinks


def _least(values: Iterable[float | None]) -> float | None:
    """The least; None where one is not known. Rounded down when it is written: a wrong figure is a low one."""
    known = list(values)
    least = min((value for value in known if value is not None), default=None)
    return None if None in known else least


def _sanitised(name: str) -> str:
    """What may stand in a label: other characters go, and each run of blanks is a dash."""
    return "-".join(re.sub(r"[^A-Za-z0-9\-_. ]", "", name).split())
