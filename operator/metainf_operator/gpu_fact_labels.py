"""The labels under which `node_facts` writes what GPU feature discovery has no label for, and the inventory reads it.

Separate because writer and reader run in different pods and share nothing else: a key stands here once. All figures
are of one whole GPU, the least of the node's where they differ, since a pod may get any of them.
"""

__all__ = [
    "BANDWIDTH_LABEL",
    "CLOCK_LABEL",
    "CORES_LABEL",
    "NVLINK_COUNT_LABEL",
    "NVLINK_GROUP_LABEL",
    "NVLINK_SPEED_LABEL",
    "NVLINK_VERSION_LABEL",
    "OWN_LABELS",
    "OWN_PREFIX",
    "PCIE_GENERATION_LABEL",
    "PCIE_WIDTH_LABEL",
    "POWER_DEFAULT_LABEL",
    "POWER_LIMIT_LABEL",
    "PRODUCTS_LABEL",
]

OWN_PREFIX = "metainf.dev/gpu."

BANDWIDTH_LABEL = f"{OWN_PREFIX}memory-bandwidth-gb-per-s"
"""Peak of the memory, in 10^9 bytes per second: bus width times highest memory clock, twice per clock."""
CORES_LABEL = f"{OWN_PREFIX}cuda-cores"
CLOCK_LABEL = f"{OWN_PREFIX}sm-clock-max-mhz"
"""The highest that the driver allows, which tensor cores under load do not hold."""
POWER_LIMIT_LABEL = f"{OWN_PREFIX}power-limit-w"
"""In force now: an owner may have lowered it."""
POWER_DEFAULT_LABEL = f"{OWN_PREFIX}power-limit-default-w"
PCIE_GENERATION_LABEL = f"{OWN_PREFIX}pcie-generation"
"""The highest that the GPU and the system reach together; an idle link reports less at the moment."""
PCIE_WIDTH_LABEL = f"{OWN_PREFIX}pcie-width"
NVLINK_COUNT_LABEL = f"{OWN_PREFIX}nvlink-count"
"""Active links of one GPU; 0 where it has none, whatever its datasheet says."""
NVLINK_VERSION_LABEL = f"{OWN_PREFIX}nvlink-version"
NVLINK_SPEED_LABEL = f"{OWN_PREFIX}nvlink-gb-per-s"
"""Of all links of one GPU together, per direction, in 10^9 bytes per second."""
NVLINK_GROUP_LABEL = f"{OWN_PREFIX}nvlink-group"
"""GPUs of the node that reach each other over NVLink, this one included; 1 where there is none."""
PRODUCTS_LABEL = f"{OWN_PREFIX}products"
"""How many different products the node has: with two, `nvidia.com/gpu.product` names only one of them."""

OWN_LABELS = (
    BANDWIDTH_LABEL,
    CORES_LABEL,
    CLOCK_LABEL,
    POWER_LIMIT_LABEL,
    POWER_DEFAULT_LABEL,
    PCIE_GENERATION_LABEL,
    PCIE_WIDTH_LABEL,
    NVLINK_COUNT_LABEL,
    NVLINK_VERSION_LABEL,
    NVLINK_SPEED_LABEL,
    NVLINK_GROUP_LABEL,
    PRODUCTS_LABEL,
)
