"""Merge a user's parts of the pod template into ours, and say where they would override a decision.

Separate because the merge has rules of its own: lists merge by `name` or `mountPath`, as a user of Kubernetes knows
it from `kubectl patch`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metainf_operator.node_labels import is_device

__all__ = ["merge_pod_template", "pod_template_conflicts"]

_KEYS = ("mountPath", "name")  # a volume may be mounted at several paths: there the path tells mounts apart
_DECIDED_IN_CONTAINER = {
    "image": "engine.image",
    "args": "engine.extraArgs",
    "command": "engine.image, an image whose entrypoint takes vLLM's arguments",
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


def pod_template_conflicts(theirs: str | None, resource_names: Sequence[str], *, shutdown_s: int) -> tuple[str, ...]:
    """What of the user's template would override a decision; a sentence each, none where all is well.

    `resource_names` are the accelerators of the pools, `shutdown_s` is what a pod needs to answer what it took.
    """
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
    if "terminationGracePeriodSeconds" in spec and not _lasts(spec["terminationGracePeriodSeconds"], shutdown_s):
        found.append(
            "engine.podTemplate.spec.terminationGracePeriodSeconds cuts off answers at every switch: "
            f"write {shutdown_s} or more, or leave it out"
        )
    for field in ("containers", "initContainers"):
        for container in spec.get(field) or []:
            if not isinstance(container, Mapping):
                continue
            if field == "containers" and container.get("name") == "vllm":
                found += _container_conflicts(container, resource_names)
            else:
                found += _accelerators_beside(field, container, resource_names)
    return tuple(found)


def _lasts(value: object, least_s: int) -> bool:
    """Whether a grace period is long enough; null stands for the API server's default of 30 s."""
    return isinstance(value, int) and value >= least_s


def _resources(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and name of each limit and request."""
    resources = container.get("resources") or {}
    for kind in ("limits", "requests"):
        for name in resources.get(kind) or {}:
            yield kind, name


def _accelerators_beside(field: str, container: Mapping[str, Any], resource_names: Sequence[str]) -> list[str]:
    """Accelerators of another container than the engine's: the pod would take what nobody decided or paid for."""
    where = f"engine.podTemplate.spec.{field}[{container.get('name')}]"
    return [
        f"{where}.resources.{kind}[{name}] takes an accelerator beside the engine's: leave it out, and run what needs "
        "one in a pod of its own"
        for kind, name in _resources(container)
        if name in resource_names or is_device(name)
    ]


def _container_conflicts(container: Mapping[str, Any], resource_names: Sequence[str]) -> list[str]:
    where = "engine.podTemplate.spec.containers[vllm]"
    found = [
        f"{where}.{field} overrides what was decided: use {instead}"
        for field, instead in _DECIDED_IN_CONTAINER.items()
        if field in container
    ]
    for kind, name in _resources(container):
        if name in resource_names or is_device(name):
            found.append(f"{where}.resources.{kind}[{name}] overrides the chosen layout: use policy.pinned")
        elif kind == "requests":
            found.append(f"{where}.resources.requests[{name}] overrides what the ledger counts: leave it out")
    return found
