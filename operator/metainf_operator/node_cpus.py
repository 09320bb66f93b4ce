"""Tells which CPU a node without accelerators has, since it is then the accelerator.

Separate from the labels of GPUs: the keys are node feature discovery's and the clouds', and there is always an answer.
"""

from collections.abc import Mapping

from metainf.accelerators import Accelerator, get

__all__ = ["identify_cpu", "threads_per_core"]

_CPU_MODELS = {
    ("Intel", "6", "106"): "Xeon-Ice-Lake",
    ("Intel", "6", "143"): "Xeon-Sapphire-Rapids",
    ("Intel", "6", "207"): "Xeon-Emerald-Rapids",
    ("Intel", "6", "173"): "Xeon-Granite-Rapids",
    ("AMD", "25", "1"): "EPYC-Milan",
    ("AMD", "25", "17"): "EPYC-Genoa",
    ("AMD", "25", "160"): "EPYC-Genoa",
    ("AMD", "26", "2"): "EPYC-Turin",
    ("AMD", "26", "17"): "EPYC-Turin",
}
"""(vendor, family, model) as NFD labels them. Source: Linux, arch/x86/include/asm/intel-family.h; AMD's PPRs."""

_NFD_CPU = "feature.node.kubernetes.io/cpu-"

_GENERIC_CPUS = {"amd64": "CPU-x86-64", "arm64": "CPU-arm64"}


def identify_cpu(
    labels: Mapping[str, str], instance_type: str, machine: Accelerator | None
) -> tuple[str, str, Accelerator]:
    """(key, value, catalogue entry) of the best label that tells which CPU this is.

    `machine` is what the cloud documents for `instance_type`, if it does. Best first: that, then the model that node
    feature discovery read, then a floor for the architecture that every named CPU of the catalogue exceeds.
    """
    if machine is not None:
        return "node.kubernetes.io/instance-type", instance_type, machine
    vendor, family, number = (labels.get(f"{_NFD_CPU}model.{part}", "") for part in ("vendor_id", "family", "id"))
    known = get(_CPU_MODELS.get((vendor, family, number), ""))
    if known is not None:
        return f"{_NFD_CPU}model.id", f"{vendor}/{family}/{number}", known
    arch = labels.get("kubernetes.io/arch", "amd64")
    floor = get(_GENERIC_CPUS.get(arch, "CPU-x86-64"))
    assert floor is not None
    return "kubernetes.io/arch", arch, floor


def threads_per_core(labels: Mapping[str, str]) -> int | None:
    """2 or 1 where node feature discovery looked; None where it did not run."""
    if not any(key.startswith(_NFD_CPU) for key in labels):
        return None
    return 2 if labels.get(f"{_NFD_CPU}hardware_multithreading") == "true" else 1
