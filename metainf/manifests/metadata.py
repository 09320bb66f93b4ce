"""The part of a manifest that all kinds share: apiVersion, kind and the metadata that matter here.

Separate because the three kinds read it alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from metainf.manifests.reader import Reader, TextRule
from metainf.manifests.rules import plain_text

__all__ = ["API_GROUP", "API_VERSION", "Metadata", "is_kind", "read_metadata", "read_object"]

API_GROUP = "metainf.dev"
API_VERSION = f"{API_GROUP}/v1alpha1"
_UID = plain_text(64, "a uid")
_NAMESPACE = plain_text(63, "a namespace", min_length=1)
_TIME = plain_text(64, "a time such as 2026-10-01T08:00:00Z")
_WORD = plain_text(64, f"{API_VERSION} or a kind")
_MOST_GENERATIONS = 1 << 62


@dataclass(frozen=True, slots=True)
class Metadata:
    """Who an object is. A manifest from a file has no uid, no generation (1 stands for it) and no time yet."""

    name: str
    namespace: str
    uid: str
    generation: int
    created_at: datetime | None
    deleting: bool


def is_kind(manifest: Mapping[str, object], kind: str) -> bool:
    """Whether the manifest says that it is of this kind of our group, in whatever version."""
    return manifest.get("kind") == kind and str(manifest.get("apiVersion", "")).startswith(f"{API_GROUP}/")


def read_object(manifest: Mapping[str, object], kind: str) -> Reader:
    """A reader over the whole manifest, which must be of this kind."""
    reader = Reader.of(manifest, "", ("apiVersion", "kind", "metadata", "spec", "status"))
    if reader.text("apiVersion", _WORD) != API_VERSION:
        raise reader.error("apiVersion", f"write {API_VERSION}, not {reader.fields['apiVersion']}")
    if reader.text("kind", _WORD) != kind:
        raise reader.error("kind", f"write {kind}, not {reader.fields['kind']}")
    return reader


def read_metadata(manifest: Reader, name_rule: TextRule) -> Metadata:
    """The metadata; what an API server fills in may be missing."""
    reader = manifest.child("metadata", None)
    created = reader.text("creationTimestamp", _TIME, "")
    try:
        created_at = datetime.fromisoformat(created) if created else None
    except ValueError:
        raise reader.error("creationTimestamp", f"{_TIME.message}; this is {created!r}") from None
    if created_at is not None and created_at.tzinfo is None:
        created_at = created_at.replace(tzinfo=UTC)
    return Metadata(
        name=reader.text("name", name_rule),
        namespace=reader.text("namespace", _NAMESPACE, "default"),
        uid=reader.text("uid", _UID, ""),
        generation=reader.integer("generation", 0, _MOST_GENERATIONS, 1) or 1,
        created_at=created_at,
        deleting=reader.fields.get("deletionTimestamp") is not None,
    )
