"""Fills the caches: from watch events as they come, and from listings that find what a watch missed.

Separate because a watch alone is not enough: after it expired (410), deletions in between are never told. A listing
with a diff follows each new start of a watch, and now and then one more.
"""

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from metainf_operator.api_errors import ClusterError, WatchExpiredError
from metainf_operator.cluster_api import ClusterApi, JsonObject, WatchEventType
from metainf_operator.resources import Resource
from metainf_operator.store import Store

__all__ = ["Feed"]

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_RELIST_AFTER_S = 2.0  # events of a new start of a watch come in a burst: one listing for all of them
_RETRY_S = 5.0


class Feed(Generic[K, T]):
    """One kind of object on its way into its cache.

    `project` says what is kept; None leaves an object out. `gone` is told of every deletion that is seen, of objects
    that were left out as well: a name that was taken may be free.
    """

    def __init__(
        self,
        resource: Resource,
        store: Store[K, T],
        project: Callable[[Mapping[str, Any]], T | None],
        key_of: Callable[[Mapping[str, Any]], K],
        *,
        namespaces: Sequence[str] = (),
        metadata_only: bool = False,
        gone: Callable[[K], None] = lambda _: None,
    ) -> None:
        self.resource = resource
        self.store = store
        self._project = project
        self._key_of = key_of
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._metadata_only = metadata_only
        self._gone = gone
        self._relist: asyncio.TimerHandle | None = None
        self.relist_wanted = asyncio.Event()

    def saw(self, event: Mapping[str, Any]) -> None:
        """One event as kopf has it: `type` None stands for the listing at a watch's start."""
        body = event["object"]
        deleted = event.get("type") == "DELETED"
        self._keep(body, deleted=deleted)
        if deleted:
            self._gone(self._key_of(body["metadata"]))
        if event.get("type") is None and self._relist is None and self.store.synced.is_set():
            self._relist = asyncio.get_running_loop().call_later(_RELIST_AFTER_S, self._want_relist)

    def _want_relist(self) -> None:
        self._relist = None
        self.relist_wanted.set()

    def _keep(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        metadata = body["metadata"]
        key, version = self._key_of(metadata), str(metadata.get("resourceVersion", ""))
        value = None if deleted else self._project(body)
        if value is None:
            self.store.delete(key, version)
        else:
            self.store.upsert(key, value, version)

    async def list(self, cluster: ClusterApi, *, from_cache: bool = False) -> str:
        """List everything, drop what is there no more; the resource version to watch from (of the last namespace)."""
        seen: set[K] = set()
        version = ""

        def keep(body: JsonObject) -> K | None:
            self._keep(body, deleted=False)
            key = self._key_of(body["metadata"])
            seen.add(key)
            return key

        for namespace in self._namespaces:
            listing = await cluster.list(
                self.resource,
                project=keep,
                namespace=namespace,
                metadata_only=self._metadata_only,
                from_cache=from_cache,
            )
            version = listing.resource_version
        self.store.replace_keys(seen, version if len(self._namespaces) == 1 else "")
        return version

    async def watch(self, cluster: ClusterApi) -> None:
        """List and watch for ever: for a kind that kopf does not watch, by its metadata alone."""
        await asyncio.gather(*(self._watch_namespace(cluster, namespace) for namespace in self._namespaces))

    async def _list_to_watch(self, cluster: ClusterApi, namespace: str | None) -> str:
        """List everything; the version from which to watch one namespace, its own listing's where there are several."""
        version = await self.list(cluster)
        if len(self._namespaces) == 1:
            return version

        def keep(body: JsonObject) -> K | None:
            self._keep(body, deleted=False)
            return None

        listing = await cluster.list(
            self.resource, project=keep, namespace=namespace, metadata_only=self._metadata_only
        )
        return listing.resource_version

    async def _watch_namespace(self, cluster: ClusterApi, namespace: str | None) -> None:
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list_to_watch(cluster, namespace)
                watching = cluster.watch(
                    self.resource, resource_version=version, namespace=namespace, metadata_only=self._metadata_only
                )
                async for event in watching:
                    version = event.resource_version
                    if event.type is not WatchEventType.BOOKMARK:
                        self._keep(event.object, deleted=event.type is WatchEventType.DELETED)
            except WatchExpiredError:
                version = ""
            except ClusterError as error:
                logger.warning("watching failed", extra={"resource": self.resource.plural, "error": str(error)})
                await asyncio.sleep(_RETRY_S)
