"""What the operator asks of a cluster: the contract that the door, its decorators and the tests' fake all keep.

Separate from `cluster` so that whoever only calls imports no client library, and a type checker holds the fake to it.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from metainf_operator.resources import Resource

__all__ = [
    "EVERYTHING",
    "FIELD_MANAGER",
    "ClusterApi",
    "JsonObject",
    "Listing",
    "Propagation",
    "Selector",
    "Verb",
    "WatchEvent",
    "WatchEventType",
    "as_is",
]

JsonObject = dict[str, Any]
"""A manifest as the wire has it; it is parsed into domain values at the edge and goes no further."""

FIELD_MANAGER = "metainf"
"""The one field manager: with two, fields that both set would never be removed again."""

T = TypeVar("T")


class Verb(StrEnum):
    """What a call does, as metrics name it."""

    GET = "get"
    LIST = "list"
    WATCH = "watch"
    APPLY = "apply"
    APPLY_STATUS = "apply_status"
    CREATE = "create"
    UPDATE = "update"
    PATCH = "patch"
    DELETE = "delete"
    VERSION = "version"

    @property
    def writes(self) -> bool:
        """Whether the call changes the cluster."""
        return self not in (Verb.GET, Verb.LIST, Verb.WATCH, Verb.VERSION)


class Propagation(StrEnum):
    """What becomes of the objects that a deleted one owns."""

    BACKGROUND = "Background"
    FOREGROUND = "Foreground"
    ORPHAN = "Orphan"


class WatchEventType(StrEnum):
    """What a watch says of an object; a BOOKMARK carries a resource version and nothing else."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class Selector:
    """Which objects of a collection: label and field selectors in their query spelling; empty means all."""

    labels: str = ""
    fields: str = ""


EVERYTHING = Selector()


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """The projections of a collection, and the resource version to watch from."""

    items: tuple[T, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch."""

    type: WatchEventType
    object: JsonObject

    @property
    def resource_version(self) -> str:
        """Where to go on from when the watch breaks off after this event."""
        return str(self.object["metadata"]["resourceVersion"])


def as_is(item: JsonObject) -> JsonObject | None:
    """The projection that keeps the whole object."""
    return item


class ClusterApi(Protocol):
    """The operations; every one may raise a `ClusterError` of `api_errors`."""

    @property
    def own_namespace(self) -> str:
        """The namespace that the operator itself runs in."""

    async def get(
        self, resource: Resource, name: str, namespace: str | None = None, *, metadata_only: bool = False
    ) -> JsonObject:
        """One object, or only its metadata; NotFoundError where there is none."""

    async def list(
        self,
        resource: Resource,
        *,
        project: Callable[[JsonObject], T | None],
        namespace: str | None = None,
        selector: Selector = EVERYTHING,
        metadata_only: bool = False,
        from_cache: bool = False,
    ) -> Listing[T]:
        """A collection page by page; `project` is called on each object, and its None leaves the object out.

        `from_cache` takes whatever the API server has in memory: cheaper, and possibly some seconds old.
        """

    def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        selector: Selector = EVERYTHING,
        metadata_only: bool = False,
        timeout_s: float = 240.0,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes since a resource version, bookmarks among them, until the server ends the watch.

        The end is normal: go on from the last event's resource version. WatchExpiredError: list again.
        """

    async def apply(
        self, resource: Resource, manifest: JsonObject, *, force: bool = True, dry_run: bool = False
    ) -> JsonObject:
        """Server-side apply under `FIELD_MANAGER`; unknown fields are refused (InvalidObjectError).

        A `metadata.uid` in the manifest is a precondition: ConflictError where another object, or none, is there.
        """

    async def apply_status(self, resource: Resource, manifest: JsonObject, *, force: bool = True) -> JsonObject:
        """Server-side apply of the status subresource; the manifest carries name, namespace and status.

        A `metadata.resourceVersion` in it is a precondition; a uid is none here (seen at Kubernetes v1.37.2: another
        object's is taken without a word), so look at the object before. NotFoundError: it is gone.
        """

    async def create(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """A new object; AlreadyExistsError where the name is taken."""

    async def update(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """The whole object anew; ConflictError where its `metadata.resourceVersion` is no longer the latest."""

    async def patch_merge(
        self,
        resource: Resource,
        name: str,
        patch: JsonObject,
        namespace: str | None = None,
        *,
        subresource: str = "",
    ) -> JsonObject:
        """JSON merge patch (RFC 7386) of an object or of one of its subresources."""

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        propagation: Propagation = Propagation.BACKGROUND,
        missing_ok: bool = True,
    ) -> bool:
        """Ask for deletion; False where nothing was there, ConflictError where the uid is another's."""

    async def version(self) -> str:
        """The API server's version, as `v1.37.2`."""

    async def close(self) -> None:
        """Close the connections; running watches end."""
