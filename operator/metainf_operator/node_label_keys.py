"""Which label of which vendor holds what: the keys of products, memories and counts, and their units.

Separate from what is concluded of them, so that a new vendor is a row here.

Keys are verified in NVIDIA/k8s-device-plugin docs/gpu-feature-discovery, ROCm/k8s-device-plugin
cmd/k8s-node-labeller, the karpenter and karpenter-provider-azure documentation, Google's GKE GPU guides and
kubernetes-sigs/node-feature-discovery. Units differ: NVIDIA and Karpenter count MiB, CoreWeave and AMD GiB.
"""

import re
from collections.abc import Iterator, Mapping

from metainf.accelerator_names import Unknown, UnknownReason, find

__all__ = ["OVERRIDE_LABEL", "integer", "labelled_count", "labelled_memory_bytes", "product_names"]

OVERRIDE_LABEL = "metainf.dev/accelerator"
"""Set by the cluster's owner: names the device where nothing else does, or where the rest is wrong."""

_MIB = 2**20
_GIB = 2**30

_PRODUCT_LABELS = (
    "nvidia.com/gpu.product",
    "gpu.nvidia.com/model",
    "gpu.nvidia.com/class",
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "eks.amazonaws.com/instance-gpu-name",
    "karpenter.azure.com/sku-gpu-name",
    "amd.com/gpu.product-name",
    "beta.amd.com/gpu.product-name",
    "gpu.intel.com/product",
    "habana.ai/product.name",
    "karpenter.k8s.aws/instance-accelerator-name",
    "k8s.amazonaws.com/accelerator",
    "kubernetes.azure.com/accelerator",
    "accelerator",
)
"""Best first: what read the device itself before what a cloud says of the machine."""

_COUNTED_PRODUCT_PREFIXES = ("amd.com/gpu.product-name.", "beta.amd.com/gpu.product-name.")
"""AMD's labeller writes `beta.amd.com/gpu.<property>.<value>=<count>` too, one key per product of the node."""

_MEMORY_LABELS = {
    "nvidia.com/gpu.memory": _MIB,
    "karpenter.k8s.aws/instance-gpu-memory": _MIB,
    "eks.amazonaws.com/instance-gpu-memory": _MIB,
    "gpu.nvidia.com/vram": _GIB,
    "amd.com/gpu.vram": _GIB,
    "beta.amd.com/gpu.vram": _GIB,
}

_COUNTED_MEMORY_PREFIXES = ("amd.com/gpu.vram.", "beta.amd.com/gpu.vram.")

_COUNT_LABELS = (
    "nvidia.com/gpu.count",
    "gpu.nvidia.com/count",
    "cloud.google.com/gke-accelerator-count",
    "karpenter.k8s.aws/instance-gpu-count",
    "eks.amazonaws.com/instance-gpu-count",
    "karpenter.azure.com/sku-gpu-count",
    "gpu.intel.com/device.count",
)

_LARGEST_MIB = 10**8
"""Above this a memory label can only be bytes: some versions of GPU feature discovery wrote them."""


def product_names(labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(key, product) of every label that names a device, the most trusted first; the override stands alone."""
    if labels.get(OVERRIDE_LABEL):
        yield OVERRIDE_LABEL, labels[OVERRIDE_LABEL]
        return
    for key in _PRODUCT_LABELS:
        if _names_something(labels.get(key, "")):
            yield key, labels[key]
    for key in sorted(labels):
        for prefix in _COUNTED_PRODUCT_PREFIXES:
            if key.startswith(prefix):
                yield key, key.removeprefix(prefix)


def _names_something(value: str) -> bool:
    """False for empty values and for those that name a vendor only, as AKS's `accelerator=nvidia`."""
    match = find(value)
    return not (isinstance(match, Unknown) and match.reason is UnknownReason.NO_NAME)


def labelled_memory_bytes(labels: Mapping[str, str], profile: str | None) -> int | None:
    """Memory of one device, or of one slice of `profile`; None where no label has it, or two differ."""
    if profile is not None:
        return _in_bytes(labels.get(f"nvidia.com/mig-{profile}.memory"), _MIB)
    for key, unit in _MEMORY_LABELS.items():
        if key in labels:
            return _in_bytes(labels[key], unit)
    sizes = [k.removeprefix(p) for k in sorted(labels) for p in _COUNTED_MEMORY_PREFIXES if k.startswith(p)]
    return _in_bytes(sizes[0], _GIB) if len(set(sizes)) == 1 else None


def _in_bytes(text: str | None, unit: int) -> int | None:
    """Bytes of "81559" in MiB, of "80" or "192G" in GiB; None for what is no positive number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:G|GB|Gi|GiB|M|MiB)?\s*", text or "")
    if match is None or float(match[1]) <= 0:
        return None
    number = float(match[1])
    return int(number) if number > _LARGEST_MIB else int(number * unit)


def labelled_count(labels: Mapping[str, str]) -> int:
    """Physical devices as labelled; 0 where no label counts them."""
    counted = sum(integer(labels[k]) for k in labels for p in _COUNTED_PRODUCT_PREFIXES if k.startswith(p))
    return next((n for key in _COUNT_LABELS if (n := integer(labels.get(key)))), counted)


def integer(text: str | None) -> int:
    """A label's number; 0 for what is none."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0
