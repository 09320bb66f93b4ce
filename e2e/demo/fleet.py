"""The demo's nodes: five pools as five clouds label theirs, and one of plain CPUs.

Separate from the tale, so that prices and sizes stand in one table. AWS nodes carry no price: it comes from the list
that MetaInf ships, by instance type. The others' prices are made up for this demo, as those of crds/examples are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e.cluster import named
from e2e.cluster.fake_nodes import COST_ANNOTATION

__all__ = ["FLEET", "Kind", "kind_of_pool", "nodes", "told"]

_PRICE_DATE = "2026-10-01"
_INSTANCE_TYPE = "node.kubernetes.io/instance-type"
_TELLING = (
    "nvidia.com/gpu.product",
    "karpenter.k8s.aws/instance-gpu-name",
    "cloud.google.com/gke-accelerator",
    "example.com/pool",
)


@dataclass(frozen=True, slots=True)
class Kind:
    """Equal nodes of one cloud. `cost_per_hour` is of a whole node in USD, None where MetaInf's list knows it."""

    name: str
    where: str
    count: int
    pool_prefix: str
    """How the pool that MetaInf makes of them begins."""
    cost_per_hour: str | None = None
    labels: Mapping[str, str] | None = None

    @property
    def node_names(self) -> tuple[str, ...]:
        """The names of its nodes."""
        return tuple(f"{self.name}-{number}" for number in range(1, self.count + 1))


# One H100 node stays whole for the workload that asks for eight at once, wherever the scheduler puts the others.
FLEET = (
    Kind("a100", "EKS", 2, "a100-"),
    Kind("h100", "Karpenter", 4, "h100-"),
    Kind("l40s", "bare machines", 2, "l40s-", "8.00"),
    Kind("l4", "GKE", 2, "l4-", "4.00"),
    Kind("l4-spot", "GKE spot", 2, "l4-", "1.40"),
    Kind("cpu", "plain CPUs", 1, "cpu", labels={"example.com/pool": "cpu"}),
)


def nodes() -> list[dict[str, Any]]:
    """The manifests of all of them."""
    return [_node(kind, name) for kind in FLEET for name in kind.node_names]


def _node(kind: Kind, name: str) -> dict[str, Any]:
    manifest = named(kind.name, name, cost_per_hour=kind.cost_per_hour)
    manifest["metadata"]["labels"].update(kind.labels or {})
    if kind.cost_per_hour is not None:
        manifest["metadata"]["annotations"]["metainf.dev/cost-as-of"] = _PRICE_DATE
    return manifest


def kind_of_pool(pool: str) -> Kind:
    """Whose nodes a pool of this name holds; ValueError for a name that is none of theirs."""
    for kind in FLEET:
        if pool.startswith(kind.pool_prefix) and kind.name.endswith("-spot") == ("-spot" in pool):
            return kind
    raise ValueError(f"the pool {pool} holds none of the demo's nodes")


def told(node: Mapping[str, Any]) -> tuple[str, str]:
    """What a node tells as the API server has it: the label that names its accelerator; its price or its type."""
    labels, annotations = node["metadata"]["labels"], node["metadata"]["annotations"]
    label = next((f"{key}={labels[key]}" for key in _TELLING if key in labels), "no label of an accelerator")
    if COST_ANNOTATION in annotations:
        return label, f"{annotations[COST_ANNOTATION]} USD/h, annotated"
    return label, labels.get(_INSTANCE_TYPE, "")
