"""Merge a user's parts of the pod template into ours, and say where they would override a decision.

Separate because the merge has rules of its own: lists merge by `name` or `mountPath`, as a user of Kubernetes knows
it from `kubectl patch`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["merge_pod_template", "pod_template_conflicts"]

_KEYS = ("mountPath", "name")  # a volume may be mounted at several paths: there the path tells mounts apart
_DECIDED_IN_CONTAINER = {
    "image": "engine.image",
    "args": "engine.extraArgs",
    "ports": "nothing: the Service depends on them",
}


def merge_pod_template(ours: dict[str, Any], theirs: str | None) -> dict[str, Any]:
    """Our template with the user's (JSON text) merged in. Ours is not changed."""
    if not theirs:
        return ours
    merged = _merge(ours, json.loads(theirs))
    if not isinstance(merged, dict):
        raise TypeError("merging pod templates: the result is not an object")
    return merged


def _merge(ours: Any, theirs: Any, field: str = "") -> Any:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return {
            k: _merge(ours[k], theirs[k], k) if k in ours and k in theirs else theirs.get(k, ours.get(k))
            for k in [*ours, *(k for k in theirs if k not in ours)]
        }
    if _is_list(ours) and _is_list(theirs):
        # A volume has one source: theirs replaces ours whole, as a claim for the cache does our emptyDir.
        return _merge_lists(ours, theirs, whole=field == "volumes")
    return theirs


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _merge_lists(ours: Sequence[Any], theirs: Sequence[Any], *, whole: bool) -> list[Any]:
    merged = list(ours)
    for item in theirs:
        key = _merge_key(item)
        at = next((i for i, have in enumerate(merged) if key is not None and _merge_key(have) == key), None)
        if at is None:
            merged.append(item)
        else:
            merged[at] = item if whole else _merge(merged[at], item)
    return merged


def _merge_key(item: Any) -> tuple[str, str] | None:
    if isinstance(item, Mapping):
        for key in _KEYS:
            if isinstance(item.get(key), str):
                return key, item[key]
    return None


def pod_template_conflicts(theirs: str | None, resource_names: Sequence[str]) -> tuple[str, ...]:
    """What of the user's template would override a decision; a sentence each, none where all is well."""
    if not theirs:
        return ()
    template = json.loads(theirs)
    found: list[str] = []
    labels = (template.get("metadata") or {}).get("labels") or {}
    found += [
        f"engine.podTemplate.metadata.labels: {key} is the operator's own" for key in labels if "metainf.dev/" in key
    ]
    spec = template.get("spec") or {}
    for field, instead in (("nodeName", "placement.pools"), ("nodeSelector", "placement.nodeSelector")):
        if field in spec:
            found.append(f"engine.podTemplate.spec.{field} overrides the chosen pool: use {instead}")
    if "nodeAffinity" in (spec.get("affinity") or {}):
        found.append(
            "engine.podTemplate.spec.affinity.nodeAffinity overrides the chosen pool: use placement.nodeSelector"
        )
    for container in spec.get("containers") or []:
        if isinstance(container, Mapping) and container.get("name") == "vllm":
            found += _container_conflicts(container, resource_names)
    return tuple(found)


def _container_conflicts(container: Mapping[str, Any], resource_names: Sequence[str]) -> list[str]:
    where = "engine.podTemplate.spec.containers[vllm]"
    found = [
        f"{where}.{field} overrides what was decided: use {instead}"
        for field, instead in _DECIDED_IN_CONTAINER.items()
        if field in container
    ]
    resources = container.get("resources") or {}
    for kind in ("limits", "requests"):
        for name in resources.get(kind) or {}:
            if name in resource_names:
                found.append(f"{where}.resources.{kind}[{name}] overrides the chosen layout: use policy.pinned")
            elif kind == "requests":
                found.append(f"{where}.resources.requests[{name}] overrides what the ledger counts: leave it out")
    return found
