"""What the fake API server does with single manifests: selectors, merge patches, who owns which field."""

import copy
import re
from typing import Any

from field_sets import Fields, flatten
from metainf_operator.cluster_api import JsonObject, Selector
from metainf_operator.resources import CONFIG_MAP, EVENT, LEASE, NAMESPACE, Resource

WITHOUT_STATUS = (CONFIG_MAP, EVENT, LEASE)
WITHOUT_GENERATION = (CONFIG_MAP, EVENT, LEASE, NAMESPACE)
SERVER_METADATA = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields")


def selects(selector: Selector, item: JsonObject) -> bool:
    labels = item["metadata"].get("labels") or {}
    return all(_label_fits(term, labels) for term in _terms(selector.labels)) and all(
        _field_fits(term, item) for term in _terms(selector.fields)
    )


def _terms(text: str) -> list[str]:
    return [term.strip() for term in re.split(r",(?![^(]*\))", text) if term.strip()]


def _label_fits(term: str, labels: dict[str, str]) -> bool:
    if match := re.fullmatch(r"(\S+)\s+(in|notin)\s+\((.*)\)", term):
        name, operator, values = match.groups()
        return (labels.get(name) in [value.strip() for value in values.split(",")]) == (operator == "in")
    if match := re.fullmatch(r"([^=!]+?)\s*(==|=|!=)\s*(.*)", term):
        name, operator, value = match.groups()
        return (labels.get(name) == value) == (operator != "!=")
    return term[1:] not in labels if term.startswith("!") else term in labels


def _field_fits(term: str, item: JsonObject) -> bool:
    match = re.fullmatch(r"([^=!]+?)\s*(==|=|!=)\s*(.*)", term)
    if match is None:
        raise ValueError(f"not a field selector: {term!r}")
    path, operator, value = match.groups()
    found: Any = item
    for part in path.split("."):
        found = (found or {}).get(part)
    return (str(found or "") == value) == (operator != "!=")


def place(manifest: JsonObject) -> tuple[str | None, str]:
    return manifest["metadata"].get("namespace"), manifest["metadata"]["name"]


def naming(manifest: JsonObject) -> JsonObject:
    return {name: manifest["metadata"][name] for name in ("name", "namespace") if name in manifest["metadata"]}


def owned_fields(manifest: JsonObject, subresource: str, resource: Resource | None = None) -> Fields:
    """The fields that an apply of this manifest owns: not its names, nor what belongs to the other subresource."""
    if subresource:
        return flatten({subresource: manifest.get(subresource, {})})
    kept = {name: value for name, value in manifest.items() if name not in ("apiVersion", "kind")}
    if resource is not None and resource not in WITHOUT_STATUS:
        kept.pop("status", None)
    unowned = ("name", "namespace", *SERVER_METADATA)
    kept["metadata"] = {name: value for name, value in manifest.get("metadata", {}).items() if name not in unowned}
    if not kept["metadata"]:
        del kept["metadata"]
    return flatten(kept) if kept else {}


def without_status(resource: Resource, manifest: JsonObject) -> JsonObject:
    if resource in WITHOUT_STATUS:
        return manifest
    return {name: value for name, value in manifest.items() if name != "status"}


def metadata_of(item: JsonObject) -> JsonObject:
    return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": item["metadata"]}


def merged(value: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), part)
    return result
