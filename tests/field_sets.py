"""Manifests as flat sets of fields, with the list semantics of server-side apply as far as the operator meets them."""

from collections.abc import Iterable, Mapping
from typing import Any

Path = tuple[Any, ...]
Fields = dict[Path, Any]

LIST_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "conditions": "type",
    "ownerReferences": "uid",
}
"""Lists that are maps by a key; every other list is one value."""


def _key_of(name: Any, items: list[Any]) -> str | None:
    if not items or not all(isinstance(item, dict) for item in items):
        return None
    if name == "ports":
        return "containerPort" if "containerPort" in items[0] else "port"
    return LIST_KEYS.get(name)


def flatten(value: Any, path: Path = ()) -> Fields:
    """Leaves by path; an element of a keyed list stands under (key, its value)."""
    if isinstance(value, Mapping) and value:
        children: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and (key := _key_of(path[-1] if path else None, value)):
        children = (((key, item[key]), item) for item in value)
    else:
        return {path: value}
    return {leaf: v for name, child in children for leaf, v in flatten(child, (*path, name)).items()}


def unflatten(fields: Fields) -> Any:
    """The manifest of a flat set."""
    if () in fields:
        return fields[()]
    groups: dict[Any, Fields] = {}
    for path, value in fields.items():
        groups.setdefault(path[0], {})[path[1:]] = value
    if any(isinstance(name, tuple) for name in groups):
        return [unflatten(group) for group in groups.values()]
    return {name: unflatten(group) for name, group in groups.items()}


def put(fields: Fields, path: Path, value: Any) -> None:
    """Set a leaf, and drop what stood above it (an empty map) or below it (what it replaces)."""
    for other in [p for p in fields if p != path and (p[: len(path)] == path or path[: len(p)] == p)]:
        del fields[other]
    fields[path] = value


def overlaps(path: Path, others: Iterable[Path]) -> bool:
    return any(other[: len(path)] == path or path[: len(other)] == other for other in others)
