"""Manifests of nodes with accelerators, labelled as the real clouds label theirs, for KWOK to bring to life.

Separate, because a story is worth only what its nodes are: here stands, in one place and with the sources, what a
GKE, EKS, AKS, Karpenter, CoreWeave, bare GPU feature discovery or AMD node looks like to an operator.

Sources: NVIDIA/k8s-device-plugin docs/gpu-feature-discovery/README.md (nvidia.com/*); ROCm/k8s-device-plugin
cmd/k8s-node-labeller/README.md (amd.com/*); cloud.google.com/kubernetes-engine/docs/how-to/gpus; AWS EKS user
guide, managed node groups; learn.microsoft.com/azure/aks, reserved system labels and spot node pools;
karpenter.sh/docs, well-known labels of the AWS provider; docs.coreweave.com, node labels.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .kubectl import get, kubectl, wait_until
from .kwok import FAKE_NODE
from .model import Cluster

__all__ = [
    "COST_ANNOTATION",
    "aks_labels",
    "amd_labels",
    "amd_node",
    "coreweave_labels",
    "cpu_node",
    "eks_labels",
    "gfd_labels",
    "gke_labels",
    "gpu_node",
    "karpenter_labels",
    "lose_node",
    "named",
    "recover_node",
    "taint",
    "wait_ready",
]

COST_ANNOTATION = "metainf.dev/cost-per-hour"

Manifest = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands, and on what machine."""

    instance_type: str
    region: str
    zone: str


def taint(key: str, value: str = "", effect: str = "NoSchedule") -> dict[str, str]:
    """Give a taint as a node's spec has it."""
    return {"key": key, "value": value, "effect": effect} if value else {"key": key, "effect": effect}


def _topology(place: Place) -> dict[str, str]:
    return {
        "node.kubernetes.io/instance-type": place.instance_type,
        "topology.kubernetes.io/region": place.region,
        "topology.kubernetes.io/zone": place.zone,
    }


def gfd_labels(
    product: str, memory_mib: int, count: int, *, family: str = "", compute: str = "", machine: str = ""
) -> dict[str, str]:
    """Labels of NVIDIA's GPU feature discovery: `product` as it writes it, as NVIDIA-H100-80GB-HBM3."""
    major, _, minor = compute.partition(".")
    labels = {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": str(memory_mib),
        "nvidia.com/gpu.count": str(count),
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.family": family,
        "nvidia.com/gpu.machine": machine,
        "nvidia.com/gpu.compute.major": major,
        "nvidia.com/gpu.compute.minor": minor,
        "nvidia.com/mig.strategy": "none",
    }
    return {key: value for key, value in labels.items() if value}


def gke_labels(accelerator: str, count: int, place: Place, *, node_pool: str, spot: bool = False) -> dict[str, str]:
    """Labels of a GKE node: `accelerator` as Google writes it, as nvidia-l4. No memory is named there."""
    labels = {
        **_topology(place),
        "cloud.google.com/gke-accelerator": accelerator,
        "cloud.google.com/gke-accelerator-count": str(count),
        "cloud.google.com/gke-nodepool": node_pool,
        "cloud.google.com/machine-family": place.instance_type.partition("-")[0],
        "cloud.google.com/gke-provisioning": "spot" if spot else "standard",
    }
    return labels | ({"cloud.google.com/gke-spot": "true"} if spot else {})


def eks_labels(place: Place, *, node_group: str, spot: bool = False) -> dict[str, str]:
    """Labels of a node in an EKS managed node group; the accelerator is named only by the instance type."""
    return {
        **_topology(place),
        "eks.amazonaws.com/nodegroup": node_group,
        "eks.amazonaws.com/capacityType": "SPOT" if spot else "ON_DEMAND",
    }


def karpenter_labels(
    place: Place, *, node_pool: str, gpu_name: str, gpu_count: int, gpu_memory_mib: int, spot: bool = False
) -> dict[str, str]:
    """Labels of a node that Karpenter made on AWS: `gpu_name` as Karpenter writes it, as h100."""
    return {
        **_topology(place),
        "karpenter.sh/nodepool": node_pool,
        "karpenter.sh/capacity-type": "spot" if spot else "on-demand",
        "karpenter.k8s.aws/instance-family": place.instance_type.partition(".")[0],
        "karpenter.k8s.aws/instance-gpu-manufacturer": "nvidia",
        "karpenter.k8s.aws/instance-gpu-name": gpu_name,
        "karpenter.k8s.aws/instance-gpu-count": str(gpu_count),
        "karpenter.k8s.aws/instance-gpu-memory": str(gpu_memory_mib),
    }


def aks_labels(place: Place, *, agent_pool: str, spot: bool = False) -> dict[str, str]:
    """Labels of an AKS node; a spot pool also has the taint kubernetes.azure.com/scalesetpriority=spot."""
    labels = {
        **_topology(place),
        "kubernetes.azure.com/agentpool": agent_pool,
        "kubernetes.azure.com/mode": "user",
        "kubernetes.azure.com/accelerator": "nvidia",
        "agentpool": agent_pool,
        "accelerator": "nvidia",
    }
    return labels | ({"kubernetes.azure.com/scalesetpriority": "spot"} if spot else {})


def coreweave_labels(place: Place, *, model: str, gpu_class: str, vram_gib: int) -> dict[str, str]:
    """Labels of a CoreWeave node: the memory is in GiB there, and in MiB with GPU feature discovery."""
    return {
        **_topology(place),
        "gpu.nvidia.com/class": gpu_class,
        "gpu.nvidia.com/model": model,
        "gpu.nvidia.com/vram": str(vram_gib),
    }


def amd_labels(product: str, vram_gb: int, *, family: str = "AI", device_id: str = "74a1") -> dict[str, str]:
    """Labels of AMD's node labeller: `product` as it writes it, as AMD_Instinct_MI300X_OAM."""
    return {
        "amd.com/gpu.product-name": product,
        "amd.com/gpu.vram": f"{vram_gb}G",
        "amd.com/gpu.family": family,
        "amd.com/gpu.device-id": device_id,
    }


def _node(
    name: str,
    allocatable: Mapping[str, str],
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    taints: Sequence[Mapping[str, str]],
) -> Manifest:
    standard = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    amounts = {"pods": "250", "ephemeral-storage": "1000Gi", **allocatable}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {**standard, **labels},
            "annotations": {FAKE_NODE[0]: FAKE_NODE[1], **annotations},
        },
        "spec": {"taints": [dict(each) for each in taints]} if taints else {},
        "status": {"capacity": amounts, "allocatable": amounts},
    }


def _costs(annotations: Mapping[str, str], cost_per_hour: str | None) -> dict[str, str]:
    return {**annotations, **({} if cost_per_hour is None else {COST_ANNOTATION: cost_per_hour})}


def gpu_node(
    name: str,
    *,
    product: str,
    memory_mib: int,
    count: int,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
    cost_per_hour: str | None = None,
    cpu: str = "96",
    memory: str = "1000Gi",
    resource: str = "nvidia.com/gpu",
    discovery: bool = True,
) -> Manifest:
    """Give the manifest of a node with NVIDIA accelerators.

    `labels` come on top of those of GPU feature discovery and win over them; without `discovery` they stand alone,
    as on a managed cloud without NVIDIA's operator. `cost_per_hour` is of the whole node, in USD.
    """
    found = gfd_labels(product, memory_mib, count) if discovery else {}
    allocatable = {"cpu": cpu, "memory": memory, resource: str(count)}
    return _node(name, allocatable, {**found, **(labels or {})}, _costs(annotations or {}, cost_per_hour), taints)


def amd_node(
    name: str,
    *,
    product: str = "AMD_Instinct_MI300X_OAM",
    vram_gb: int = 192,
    count: int = 8,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
    cost_per_hour: str | None = None,
) -> Manifest:
    """Give the manifest of a node with AMD accelerators, resource amd.com/gpu."""
    allocatable = {"cpu": "192", "memory": "2000Gi", "amd.com/gpu": str(count)}
    found = {**amd_labels(product, vram_gb), **(labels or {})}
    return _node(name, allocatable, found, _costs({}, cost_per_hour), taints)


def cpu_node(
    name: str,
    *,
    cpu: str = "32",
    memory: str = "128Gi",
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
    cost_per_hour: str | None = None,
) -> Manifest:
    """Give the manifest of a node without accelerators."""
    return _node(name, {"cpu": cpu, "memory": memory}, labels or {}, _costs({}, cost_per_hour), taints)


_US_EAST, _US_CENTRAL = ("us-east-1", "us-east-1a"), ("us-central1", "us-central1-a")


def named(kind: str, name: str, *, cost_per_hour: str | None = None) -> Manifest:
    """Give a node of one of the kinds that stories and demo use, by a short name.

    a100, h100, l40s, l4, l4-spot, t4, mi300x, cpu: one cloud each, with the labels and taints that it has there.
    """
    gpu_taint = taint("nvidia.com/gpu", "present")
    if kind == "a100":  # EKS managed node group with NVIDIA's operator
        eks = eks_labels(Place("p4de.24xlarge", *_US_EAST), node_group="a100")
        return gpu_node(
            name, product="NVIDIA-A100-SXM4-80GB", memory_mib=81920, count=8, labels=eks, cost_per_hour=cost_per_hour,
            cpu="95", memory="1100Gi", taints=[taint("nvidia.com/gpu", "true")],
        )  # fmt: skip
    if kind == "h100":  # Karpenter on AWS, labels of Karpenter only
        karpenter = karpenter_labels(
            Place("p5.48xlarge", *_US_EAST), node_pool="h100", gpu_name="h100", gpu_count=8, gpu_memory_mib=81920
        )
        return gpu_node(
            name, product="", memory_mib=81920, count=8, labels=karpenter, cost_per_hour=cost_per_hour,
            cpu="191", memory="1900Gi", discovery=False,
        )  # fmt: skip
    if kind == "l40s":  # bare GPU feature discovery
        return gpu_node(
            name, product="NVIDIA-L40S", memory_mib=46068, count=4, cost_per_hour=cost_per_hour,
            cpu="64", memory="500Gi", labels={"nvidia.com/gpu.family": "ada-lovelace"},
        )  # fmt: skip
    if kind in ("l4", "l4-spot"):  # GKE, which names no memory
        spot = kind == "l4-spot"
        place = Place("g2-standard-48", *_US_CENTRAL)
        gke = gke_labels("nvidia-l4", 4, place, node_pool=kind, spot=spot)
        taints = [gpu_taint, *([taint("cloud.google.com/gke-spot", "true")] if spot else [])]
        return gpu_node(
            name, product="", memory_mib=23034, count=4, labels=gke, cost_per_hour=cost_per_hour,
            cpu="47", memory="180Gi", taints=taints, discovery=False,
        )  # fmt: skip
    if kind == "t4":  # AKS with NVIDIA's device plugin and discovery
        aks = aks_labels(Place("Standard_NC4as_T4_v3", "eastus", "eastus-1"), agent_pool="t4")
        return gpu_node(
            name, product="Tesla-T4", memory_mib=15360, count=1, labels=aks, cost_per_hour=cost_per_hour,
            cpu="4", memory="26Gi", taints=[taint("sku", "gpu")],
        )  # fmt: skip
    if kind == "mi300x":
        return amd_node(name, cost_per_hour=cost_per_hour)
    if kind == "cpu":
        return cpu_node(name, cost_per_hour=cost_per_hour)
    raise ValueError(f"naming a node: no kind {kind!r}; take a100, h100, l40s, l4, l4-spot, t4, mi300x or cpu")


def _is_ready(cluster: Cluster, name: str) -> bool:
    conditions = get(cluster, "node", name)["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def wait_ready(cluster: Cluster, *names: str, timeout_s: float = 30.0) -> None:
    """Wait until these nodes are Ready."""
    for name in names:
        wait_until(f"node {name} to be Ready", functools.partial(_is_ready, cluster, name), timeout_s)


def _patch_lease(cluster: Cluster, name: str, spec: Mapping[str, Any]) -> None:
    kubectl(cluster, "patch", "lease", name, "-n", "kube-node-lease", "--type=merge", "-p", json.dumps({"spec": spec}))


def lose_node(cluster: Cluster, name: str, timeout_s: float = 40.0) -> None:
    """Let a node fall silent, as when its machine dies; returns when the control plane has found it lost.

    A stranger takes the node's Lease and never renews it: kwok acts for no node whose Lease another holds, and the
    control plane sees no sign of life. (Without its annotation kwok 0.8.0 goes on renewing: tried.)
    """
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    _patch_lease(cluster, name, {"holderIdentity": "nobody", "leaseDurationSeconds": 86400, "renewTime": now})
    wait_until(f"node {name} to be found lost", lambda: not _is_ready(cluster, name), timeout_s)


def recover_node(cluster: Cluster, name: str, timeout_s: float = 40.0) -> None:
    """Bring a lost node back: its Lease has run out, so kwok takes it again."""
    _patch_lease(cluster, name, {"leaseDurationSeconds": 1})
    wait_ready(cluster, name, timeout_s=timeout_s)
