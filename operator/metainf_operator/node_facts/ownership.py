"""Whose the labels of a node are, and what of a wish may be written: others' labels are left alone.

Separate and pure. The API server keeps with each field who wrote it (`metadata.managedFields`); that decides, and no
memory of ours. Node feature discovery, which carries GPU feature discovery's labels, writes them without taking over
those that have the right value already, but lists all that it stands for in an annotation: what it lists is its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FIELD_MANAGER", "Plan", "plan_labels"]

FIELD_MANAGER = "metainf-node-facts"
"""Not the operator's: with one manager for both, an apply of one would take away what the other wrote."""

_VENDOR = "nvidia.com/"
_NFD_ANNOTATION = "nfd.node.kubernetes.io/feature-labels"
_TIMESTAMP = "nvidia.com/gfd.timestamp"
_MARKS = frozenset({"nvidia.com/gpu.product", "nvidia.com/gpu.count", "nvidia.com/gpu.memory", _TIMESTAMP})
"""Who writes one of these describes the GPUs; two descriptions side by side could differ in what they are of."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about the labels of a node."""

    apply: Mapping[str, str] | None
    """All labels that shall be ours after a write; None: they are so already."""
    left: tuple[str, ...] = ()
    """Labels of the wish that are somebody else's."""
    others: tuple[str, ...] = ()
    """Who those are, by field manager."""


def plan_labels(wish: Mapping[str, str], metadata: Mapping[str, Any]) -> Plan:
    """How `metadata` of the node becomes what is wished, without touching what others own."""
    labels: Mapping[str, str] = metadata.get("labels") or {}
    owners = _owners(metadata)
    mine = {key for key, managers in owners.items() if FIELD_MANAGER in managers and key in labels}
    foreign = {key: managers - {FIELD_MANAGER} for key, managers in owners.items() if managers - {FIELD_MANAGER}}
    for key in _listed_by_nfd(metadata):
        foreign.setdefault(key, frozenset({"node-feature-discovery"}))
    described = any(key in foreign for key in _MARKS) or _TIMESTAMP in labels
    left = {key for key in wish if key in foreign or (described and key.startswith(_VENDOR))}
    target = {key: value for key, value in wish.items() if key not in left}
    # Of those that are left, what nobody but us holds stays as it stands: to let go of it would delete it.
    held = {key for key in mine if key in left and owners[key] == {FIELD_MANAGER}}
    target |= {key: labels[key] for key in held}
    others = sorted({name for key in left for name in foreign.get(key, ())})
    settled = mine == set(target) and all(labels.get(key) == value for key, value in target.items())
    return Plan(None if settled else target, tuple(sorted(left)), tuple(others))


def _owners(metadata: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Field managers by label; an apply of ours counts, an update under our name is somebody's own doing."""
    owners: dict[str, frozenset[str]] = {}
    for entry in metadata.get("managedFields") or ():
        manager = str(entry.get("manager") or "unknown")
        if manager == FIELD_MANAGER and entry.get("operation") != "Apply":
            manager = f"{FIELD_MANAGER} ({entry.get('operation')})"
        for key in _labels_in(entry.get("fieldsV1") or {}):
            owners[key] = owners.get(key, frozenset()) | {manager}
    return owners


def _labels_in(fields: Mapping[str, Any]) -> Iterator[str]:
    labels = (fields.get("f:metadata") or {}).get("f:labels") or {}
    return (key.removeprefix("f:") for key in labels if key.startswith("f:"))


def _listed_by_nfd(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Labels that node feature discovery stands for; it writes those of its own namespace without a prefix."""
    listed = str((metadata.get("annotations") or {}).get(_NFD_ANNOTATION) or "")
    return (key for key in listed.split(",") if "/" in key)
