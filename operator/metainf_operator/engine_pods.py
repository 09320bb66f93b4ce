"""Where the engines of our pods answer.

Separate from what a pod takes of its node (`ledger`): the ledger counts every pod of the cluster, and this is of ours
alone. A pod is ours by its labels and by the ReplicaSet of a Deployment that has our name: labels alone are anybody's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from metainf_operator.children import LABEL_SERVING, LABEL_WORKLOAD

__all__ = ["EnginePod", "engine_pod"]


@dataclass(frozen=True, slots=True)
class EnginePod:
    """One pod that runs an engine of ours and is ready: its uid, its address as URLs have it, and its serving."""

    uid: str
    address: str
    serving: str


def engine_pod(body: Mapping[str, Any]) -> EnginePod | None:
    """The engine that a pod runs; None where it runs none of ours, is not ready yet, or is on its way out."""
    metadata, status = body["metadata"], body.get("status") or {}
    labels = metadata.get("labels") or {}
    serving, workload = labels.get(LABEL_SERVING), labels.get(LABEL_WORKLOAD)
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    if not serving or not workload or not ready or metadata.get("deletionTimestamp"):
        return None
    owner: Mapping[str, Any] = next((o for o in metadata.get("ownerReferences") or () if o.get("controller")), {})
    made_by = str(owner.get("name", "")).rpartition("-")[0]
    if owner.get("kind") != "ReplicaSet" or made_by != f"{workload}-{serving}":
        return None
    address = _address(status.get("podIP"))
    if address is None or (body.get("spec") or {}).get("hostNetwork"):
        return None  # a node's address is not the pod's alone: what answers there may be another's
    return EnginePod(str(metadata.get("uid", "")), address, serving)


def _address(text: object) -> str | None:
    """The pod's address as a URL has it; None for what is none."""
    try:
        address = ip_address(str(text))
    except ValueError:
        return None
    return f"[{address}]" if address.version == 6 else str(address)
