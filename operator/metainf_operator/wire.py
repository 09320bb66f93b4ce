"""What goes over the wire to the API server and back: requests, query strings, the lines of a watch.

Separate from `cluster`, which sends: nothing here opens a connection.
"""

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field, replace

from metainf_operator.api_errors import ClusterError, UnreachableError, error_from_status
from metainf_operator.cluster_api import JsonObject, Selector, WatchEvent, WatchEventType
from metainf_operator.resources import Resource

__all__ = [
    "APPLY_PATCH",
    "JSON",
    "MERGE_PATCH",
    "PARTIAL_LIST",
    "PARTIAL_OBJECT",
    "Request",
    "called",
    "lines",
    "name_of",
    "page_after",
    "parsed_object",
    "selector_query",
    "typed",
    "watch_event",
]

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"  # the server takes JSON under it: JSON is YAML
MERGE_PATCH = "application/merge-patch+json"
_PARTIAL = "application/json;as={kind};g=meta.k8s.io;v=v1"
PARTIAL_OBJECT = _PARTIAL.format(kind="PartialObjectMetadata")
PARTIAL_LIST = _PARTIAL.format(kind="PartialObjectMetadataList")


@dataclass(frozen=True, slots=True)
class Request:
    """One request; never printed or logged, since a body may hold what a user would not show."""

    doing: str
    """Gerund phrase that errors start with: `getting Pod team-a/chat-0`."""
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: JsonObject | None = field(default=None, repr=False)
    content_type: str = JSON
    accept: str = JSON


def page_after(request: Request, token: str) -> Request:
    """The request for the page behind `token`; the server refuses a resource version beside a token."""
    query = {name: value for name, value in request.query.items() if not name.startswith("resourceVersion")}
    return replace(request, query={**query, "continue": token})


def parsed_object(doing: str, body: bytes) -> JsonObject:
    """The answer's JSON object; something in front of the API server may answer with anything else."""
    try:
        parsed = json.loads(body)
    except ValueError as error:
        raise UnreachableError(f"{doing}: the answer is not JSON") from error
    if not isinstance(parsed, dict):
        raise UnreachableError(f"{doing}: the answer is not a JSON object")
    return parsed


async def lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The lines of a watch, however long each is: a stream's own readline has a limit."""
    pending = bytearray()
    async for chunk in chunks:
        pending += chunk
        if b"\n" not in chunk:
            continue
        *complete, rest = pending.split(b"\n")
        pending = bytearray(rest)
        for line in complete:
            if line.strip():
                yield bytes(line)


def watch_event(doing: str, line: bytes) -> WatchEvent:
    """One line of a watch; an ERROR line becomes the error that it stands for."""
    raw = parsed_object(doing, line)
    if raw.get("type") == "ERROR":
        raise error_from_status(doing, raw.get("object") or {})
    try:
        return WatchEvent(WatchEventType(raw["type"]), raw["object"])
    except (KeyError, ValueError) as error:
        raise ClusterError(f"{doing}: an event of unknown type {raw.get('type')!r}") from error


def selector_query(selector: Selector) -> dict[str, str]:
    """Query parameters of a selector, without the empty ones."""
    pairs = {"labelSelector": selector.labels, "fieldSelector": selector.fields}
    return {name: value for name, value in pairs.items() if value}


def name_of(manifest: JsonObject) -> tuple[str, str | None]:
    """Name and namespace that a manifest carries."""
    metadata = manifest["metadata"]
    return metadata["name"], metadata.get("namespace")


def typed(resource: Resource, manifest: JsonObject) -> JsonObject:
    """The manifest with apiVersion and kind, without which no body is taken."""
    return {"apiVersion": resource.api_version, "kind": resource.kind, **manifest}


def called(resource: Resource, name: str, namespace: str | None) -> str:
    """How messages name an object."""
    return f"{resource.kind} {namespace}/{name}" if namespace else f"{resource.kind} {name}"
