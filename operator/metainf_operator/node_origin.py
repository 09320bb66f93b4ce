"""Reads where a node comes from and how it was bought: instance type, region, spot or not.

Separate from what the node holds: prices and pools need these of every node, accelerator or none.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from metainf.pools import CapacityType

__all__ = ["NodeOrigin", "read_capacity_type", "read_origin"]


@dataclass(frozen=True, slots=True)
class NodeOrigin:
    """Where a node comes from and how it was bought; None where its labels do not say."""

    instance_type: str | None
    region: str | None
    capacity_type: CapacityType | None


def read_origin(labels: Mapping[str, str]) -> NodeOrigin:
    """Instance type, region and how it was bought, from the labels of Kubernetes, the clouds and Karpenter."""
    return NodeOrigin(
        instance_type=_first(
            labels,
            "node.kubernetes.io/instance-type",
            "beta.kubernetes.io/instance-type",
            "karpenter.azure.com/sku-name",
        ),
        region=_first(labels, "topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
        capacity_type=read_capacity_type(labels),
    )


def read_capacity_type(labels: Mapping[str, str]) -> CapacityType | None:
    """How the node was bought; None where nothing says it. Any sign of spot wins, since spot is refused by default.

    GKE and AKS mark only the nodes that can be taken away: a node of theirs without the mark is on demand.
    """
    if labels.get("cloud.google.com/gke-spot") == "true" or labels.get("cloud.google.com/gke-preemptible") == "true":
        return CapacityType.SPOT
    stated = {
        labels[key].strip().lower().replace("_", "-")
        for key in (
            "karpenter.sh/capacity-type",
            "eks.amazonaws.com/capacityType",
            "cloud.google.com/gke-provisioning",
            "kubernetes.azure.com/scalesetpriority",
        )
        if key in labels
    }
    if stated & {"spot", "preemptible"}:
        return CapacityType.SPOT
    if stated & {"reserved", "reservation", "capacity-block"}:
        return CapacityType.RESERVED
    if stated & {"on-demand", "standard", "regular"}:
        return CapacityType.ON_DEMAND
    marks_spot = ("cloud.google.com/gke-nodepool", "kubernetes.azure.com/agentpool")
    return CapacityType.ON_DEMAND if not stated and any(key in labels for key in marks_spot) else None


def _first(labels: Mapping[str, str], *keys: str) -> str | None:
    return next((labels[key] for key in keys if labels.get(key)), None)
