"""An API server in memory, with the interface of `metainf_operator.cluster_api.ClusterApi`.

What it keeps of the real one: resource versions and their conflicts, uids, generations, the status subresource,
server-side apply with field managers, cascading deletion by owner, finalizers, terminating namespaces, selectors,
watches with history. What it leaves out: schemas, defaults and admission; e2e/ is there for these.
"""

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from fake_objects import (
    SERVER_METADATA,
    WITHOUT_GENERATION,
    WITHOUT_STATUS,
    merged,
    metadata_of,
    naming,
    owned_fields,
    place,
    selects,
    without_status,
)
from field_sets import Fields, Path, flatten, overlaps, put, unflatten
from metainf_operator.api_errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    NamespaceTerminatingError,
    NotFoundError,
    WatchExpiredError,
)
from metainf_operator.cluster_api import (
    EVERYTHING,
    FIELD_MANAGER,
    JsonObject,
    Listing,
    Propagation,
    Selector,
    Verb,
    WatchEvent,
    WatchEventType,
)
from metainf_operator.resources import NAMESPACE, Resource

T = TypeVar("T")

NOW = "2026-01-01T00:00:00Z"

Key = tuple[Resource, str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """One operation that was asked for; `name` is empty for collections."""

    verb: Verb
    resource: Resource | None
    namespace: str | None = None
    name: str = ""


@dataclass(slots=True)
class Fault:
    """An error to raise instead of answering."""

    error: ClusterError
    verb: Verb | None
    resource: Resource | None
    times: int

    def matches(self, call: Call) -> bool:
        fits = self.verb in (None, call.verb) and self.resource in (None, call.resource)
        return fits and self.times > 0


@dataclass(slots=True)
class Stored:
    """An object and who set which of its fields, per (manager, subresource)."""

    object: JsonObject
    owned: dict[tuple[str, str], set[Path]] = field(default_factory=dict)


class FakeCluster:
    """See the module; `calls` holds what was asked, `writes` those of it that change the cluster."""

    def __init__(self, own_namespace: str = "metainf-system") -> None:
        self._own_namespace = own_namespace
        self._objects: dict[Key, Stored] = {}
        self._history: list[tuple[int, Key, WatchEventType, JsonObject]] = []
        self._oldest_version = 0
        self._version = 0
        self._uids = 0
        self._faults: list[Fault] = []
        self._moved = asyncio.Event()
        self._watches_end = 0
        self.calls: list[Call] = []

    # What tests do to the cluster

    @property
    def writes(self) -> list[Call]:
        return [call for call in self.calls if call.verb.writes]

    def fail(
        self, error: ClusterError, *, verb: Verb | None = None, resource: Resource | None = None, times: int = 1
    ) -> None:
        """Raise `error` for the next calls of this verb and resource; None stands for any."""
        self._faults.append(Fault(error, verb, resource, times))

    def heal(self) -> None:
        """Drop the faults that are left."""
        self._faults.clear()

    def put(self, resource: Resource, manifest: JsonObject, manager: str = "test") -> JsonObject:
        """Create or overwrite an object, status included, as another client; no call is recorded."""
        manifest = copy.deepcopy(manifest)
        key = self._key(resource, manifest)
        old = self._objects.get(key)
        owned = {} if old is None else {name: set(paths) for name, paths in old.owned.items()}
        paths = set(owned_fields(manifest, ""))
        for other in owned:
            owned[other] -= paths
        owned[(manager, "")] = paths
        return self._write(key, resource, manifest, owned)

    def edit(
        self,
        resource: Resource,
        name: str,
        patch: JsonObject,
        namespace: str | None = None,
        manager: str = "kubectl-edit",
    ) -> JsonObject:
        """Merge a patch, status included, as another client; it then owns the fields that it set."""
        key = (resource, namespace or "", name)
        stored = self._existing(key)
        owned = {owner: set(paths) for owner, paths in stored.owned.items()}
        paths = set(owned_fields(patch, ""))
        for other in owned:
            owned[other] = {path for path in owned[other] if not overlaps(path, paths)}
        owned[(manager, "")] = owned.get((manager, ""), set()) | paths
        return self._write(key, resource, merged(stored.object, patch), owned)

    def remove(self, resource: Resource, name: str, namespace: str | None = None) -> None:
        """Delete an object and what it owns, finalizers or not; no call is recorded."""
        self._erase((resource, namespace or "", name))
        self.collect_garbage()

    def peek(self, resource: Resource, name: str, namespace: str | None = None) -> JsonObject | None:
        """An object, or None; no call is recorded."""
        stored = self._objects.get((resource, namespace or "", name))
        return copy.deepcopy(stored.object) if stored else None

    def all(self, resource: Resource, namespace: str | None = None) -> list[JsonObject]:
        """All objects of a kind by name; no call is recorded."""
        return [
            copy.deepcopy(stored.object)
            for (kind, space, _), stored in sorted(self._objects.items(), key=lambda entry: entry[0][1:])
            if kind == resource and namespace in (None, space)
        ]

    def collect_garbage(self) -> None:
        """Delete what is owned by nothing that still exists, as the controller manager does."""
        while True:
            uids = {stored.object["metadata"]["uid"] for stored in self._objects.values()}
            orphans = [
                key
                for key, stored in self._objects.items()
                if (owners := stored.object["metadata"].get("ownerReferences"))
                and not any(owner["uid"] in uids for owner in owners)
            ]
            if not orphans:
                return
            for key in orphans:
                self._finalize_or_erase(key)
            if all(key in self._objects for key in orphans):
                return  # finalizers hold them

    def end_watches(self) -> None:
        """Let every running watch end, as the server does after its timeout."""
        self._watches_end += 1
        self._wake()

    def forget_history(self) -> None:
        """Compact: watches from before now are told 410."""
        self._history.clear()
        self._oldest_version = self._version

    # ClusterApi

    @property
    def own_namespace(self) -> str:
        return self._own_namespace

    async def get(
        self, resource: Resource, name: str, namespace: str | None = None, *, metadata_only: bool = False
    ) -> JsonObject:
        self._called(Verb.GET, resource, namespace, name)
        found = copy.deepcopy(self._existing(self._named(resource, namespace, name)).object)
        return metadata_of(found) if metadata_only else found

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
        self._called(Verb.LIST, resource, namespace)
        found = [item for item in self.all(resource, namespace) if selects(selector, item)]
        projected = [project(metadata_of(item) if metadata_only else item) for item in found]
        return Listing(tuple(item for item in projected if item is not None), str(self._version))

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        selector: Selector = EVERYTHING,
        metadata_only: bool = False,
        timeout_s: float = 240.0,
    ) -> AsyncGenerator[WatchEvent, None]:
        self._called(Verb.WATCH, resource, namespace)
        position = int(resource_version)
        if position < self._oldest_version:
            raise WatchExpiredError(f"watching {resource.plural}: too old resource version", code=410)
        until = self._watches_end
        while self._watches_end == until:
            for version, (kind, space, _), type_, item in tuple(self._history):
                if version <= position or kind != resource or namespace not in (None, space):
                    continue
                position = version
                if selects(selector, item):
                    item = copy.deepcopy(item)
                    yield WatchEvent(type_, metadata_of(item) if metadata_only else item)
            moved = self._moved
            await moved.wait()

    async def apply(
        self, resource: Resource, manifest: JsonObject, *, force: bool = True, dry_run: bool = False
    ) -> JsonObject:
        self._called(Verb.APPLY, resource, *place(manifest))
        return self._apply(resource, manifest, "", force=force, dry_run=dry_run)

    async def apply_status(self, resource: Resource, manifest: JsonObject, *, force: bool = True) -> JsonObject:
        self._called(Verb.APPLY_STATUS, resource, *place(manifest))
        self._existing(self._key(resource, manifest))
        return self._apply(resource, manifest, "status", force=force, dry_run=False)

    async def create(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        self._called(Verb.CREATE, resource, *place(manifest))
        key = self._key(resource, manifest)
        if key in self._objects:
            raise AlreadyExistsError(f"creating {resource.kind} {key[2]}: it already exists", code=409)
        manifest = without_status(resource, copy.deepcopy(manifest))
        return self._write(key, resource, manifest, {(FIELD_MANAGER, ""): set(owned_fields(manifest, ""))})

    async def update(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        self._called(Verb.UPDATE, resource, *place(manifest))
        key = self._key(resource, manifest)
        stored = self._existing(key)
        version = manifest["metadata"].get("resourceVersion")
        if version and version != stored.object["metadata"]["resourceVersion"]:
            raise ConflictError(f"updating {resource.kind} {key[2]}: the object has been modified", code=409)
        manifest = without_status(resource, copy.deepcopy(manifest))
        if "status" in stored.object and resource not in WITHOUT_STATUS:
            manifest["status"] = copy.deepcopy(stored.object["status"])
        return self._write(
            key, resource, manifest, {**stored.owned, (FIELD_MANAGER, ""): set(owned_fields(manifest, ""))}
        )

    async def patch_merge(
        self, resource: Resource, name: str, patch: JsonObject, namespace: str | None = None, *, subresource: str = ""
    ) -> JsonObject:
        self._called(Verb.PATCH, resource, namespace, name)
        key = self._named(resource, namespace, name)
        stored = self._existing(key)
        patch = {"status": patch.get("status")} if subresource == "status" else without_status(resource, patch)
        return self._write(key, resource, merged(stored.object, patch), stored.owned)

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
        self._called(Verb.DELETE, resource, namespace, name)
        key = self._named(resource, namespace, name)
        if key not in self._objects and missing_ok:
            return False
        found = self._existing(key).object
        if uid is not None and found["metadata"]["uid"] != uid:
            raise ConflictError(f"deleting {resource.kind} {name}: its uid is another", code=409)
        if propagation is Propagation.ORPHAN:
            self._disown(found["metadata"]["uid"])
        self._finalize_or_erase(key)
        self.collect_garbage()
        return True

    async def version(self) -> str:
        self._called(Verb.VERSION, None)
        return "v1.37.2"

    async def close(self) -> None:
        self.end_watches()

    # Inside

    def _called(self, verb: Verb, resource: Resource | None, namespace: str | None = None, name: str = "") -> None:
        call = Call(verb, resource, namespace, name)
        self.calls.append(call)
        for fault in self._faults:
            if fault.matches(call):
                fault.times -= 1
                raise fault.error

    def _named(self, resource: Resource, namespace: str | None, name: str) -> Key:
        resource.path(namespace, name)  # raises where the namespace is missing
        return (resource, (namespace or "") if resource.namespaced else "", name)

    def _key(self, resource: Resource, manifest: JsonObject) -> Key:
        namespace, name = place(manifest)
        return self._named(resource, namespace, name)

    def _existing(self, key: Key) -> Stored:
        stored = self._objects.get(key)
        if stored is None:
            raise NotFoundError(f"{key[0].plural} {key[2]!r} not found", code=404)
        return stored

    def _apply(
        self, resource: Resource, manifest: JsonObject, subresource: str, *, force: bool, dry_run: bool
    ) -> JsonObject:
        key = self._key(resource, manifest)
        stored = self._objects.get(key)
        # Preconditions, where the manifest has them; of a status the real server does not check the uid.
        for name in ("resourceVersion",) if subresource else ("uid", "resourceVersion"):
            wanted = manifest["metadata"].get(name)
            if wanted is not None and (stored is None or stored.object["metadata"][name] != wanted):
                raise ConflictError(f"applying {resource.kind} {key[2]}: its {name} is another", code=409)
        applied = owned_fields(manifest, subresource, resource)
        live = flatten(stored.object) if stored else {}
        owned = {owner: set(paths) for owner, paths in stored.owned.items()} if stored else {}
        me = (FIELD_MANAGER, subresource)
        self._settle_conflicts(key, applied, live, owned, me, force=force)
        others = set().union(*(paths for owner, paths in owned.items() if owner != me), set())
        for path in owned.get(me, set()) - set(applied):
            if not overlaps(path, applied) and not overlaps(path, others):
                for leaf in [p for p in live if p[: len(path)] == path]:
                    del live[leaf]
        for path, value in applied.items():
            put(live, path, copy.deepcopy(value))
        owned[me] = set(applied)
        base = {"apiVersion": resource.api_version, "kind": resource.kind}
        result = base | unflatten(live)
        result.setdefault("metadata", {}).update(naming(manifest))
        if dry_run:
            return copy.deepcopy(result)
        return self._write(key, resource, result, owned)

    def _settle_conflicts(
        self,
        key: Key,
        applied: Fields,
        live: Fields,
        owned: dict[tuple[str, str], set[Path]],
        me: tuple[str, str],
        *,
        force: bool,
    ) -> None:
        for path, value in applied.items():
            if live.get(path) == value:
                continue
            for owner, paths in owned.items():
                if owner != me and path in paths:
                    if not force:
                        dotted = ".".join(map(str, path))
                        raise ConflictError(f"applying {key[2]}: conflict with {owner[0]!r}: .{dotted}", code=409)
                    paths.discard(path)

    def _write(
        self, key: Key, resource: Resource, manifest: JsonObject, owned: dict[tuple[str, str], set[Path]]
    ) -> JsonObject:
        old = self._objects.get(key)
        self._check_namespace(key, resource, is_new=old is None)
        metadata = manifest["metadata"] = dict(manifest["metadata"])
        manifest.setdefault("apiVersion", resource.api_version)
        manifest.setdefault("kind", resource.kind)
        for name in SERVER_METADATA:
            metadata.pop(name, None)
            if old is not None and name in old.object["metadata"]:
                metadata[name] = old.object["metadata"][name]
        if old is not None and manifest == old.object:
            old.owned = owned
            return copy.deepcopy(old.object)
        self._version += 1
        if old is None:
            self._uids += 1
            metadata["uid"] = f"uid-{self._uids}"
            metadata["creationTimestamp"] = NOW
        if resource not in WITHOUT_GENERATION:
            moved = old is None or manifest.get("spec") != old.object.get("spec")
            metadata["generation"] = metadata.get("generation", 0) + (1 if moved else 0)
        metadata["resourceVersion"] = str(self._version)
        self._objects[key] = Stored(manifest, owned)
        self._tell(key, WatchEventType.MODIFIED if old else WatchEventType.ADDED, manifest)
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            self._erase(key)
            self.collect_garbage()
        return copy.deepcopy(manifest)

    def _check_namespace(self, key: Key, resource: Resource, *, is_new: bool) -> None:
        space = self._objects.get((NAMESPACE, "", key[1]))
        if is_new and resource.namespaced and space and "deletionTimestamp" in space.object["metadata"]:
            message = f"creating {resource.kind} {key[2]}: namespace {key[1]} is being terminated"
            raise NamespaceTerminatingError(message, code=403)

    def _finalize_or_erase(self, key: Key) -> None:
        metadata = self._objects[key].object["metadata"]
        if not metadata.get("finalizers"):
            self._erase(key)
        elif "deletionTimestamp" not in metadata:
            self._version += 1
            metadata["deletionTimestamp"] = NOW
            metadata["resourceVersion"] = str(self._version)
            self._tell(key, WatchEventType.MODIFIED, self._objects[key].object)

    def _erase(self, key: Key) -> None:
        stored = self._objects.pop(key, None)
        if stored is not None:
            self._version += 1
            stored.object["metadata"]["resourceVersion"] = str(self._version)
            self._tell(key, WatchEventType.DELETED, stored.object)

    def _disown(self, uid: str) -> None:
        for stored in self._objects.values():
            owners = stored.object["metadata"].get("ownerReferences")
            if owners:
                stored.object["metadata"]["ownerReferences"] = [o for o in owners if o["uid"] != uid]

    def _tell(self, key: Key, type_: WatchEventType, item: JsonObject) -> None:
        self._history.append((self._version, key, type_, copy.deepcopy(item)))
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
