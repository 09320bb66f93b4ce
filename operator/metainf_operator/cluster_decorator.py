"""A cluster that passes each call on, with one place to do something around it.

Separate because metrics and the leader's gate both wrap every operation, and fifteen forwarding methods are enough
once.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from metainf_operator.cluster_api import (
    EVERYTHING,
    ClusterApi,
    JsonObject,
    Listing,
    Propagation,
    Selector,
    Verb,
    WatchEvent,
)
from metainf_operator.resources import Resource

__all__ = ["ClusterDecorator"]

T = TypeVar("T")


class ClusterDecorator:
    """Base of decorators around a `ClusterApi`: override `_around`, and `_around_watch` where watches matter."""

    def __init__(self, inner: ClusterApi) -> None:
        self._inner = inner

    async def _around(self, verb: Verb, resource: Resource | None, call: Callable[[], Awaitable[T]]) -> T:
        return await call()

    def _around_watch(
        self, resource: Resource, events: AsyncGenerator[WatchEvent, None]
    ) -> AsyncGenerator[WatchEvent, None]:
        return events

    @property
    def own_namespace(self) -> str:
        """The namespace that the operator itself runs in."""
        return self._inner.own_namespace

    async def get(
        self, resource: Resource, name: str, namespace: str | None = None, *, metadata_only: bool = False
    ) -> JsonObject:
        """As `ClusterApi.get`."""
        return await self._around(
            Verb.GET,
            resource,
            lambda: self._inner.get(resource, name, namespace, metadata_only=metadata_only),
        )

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
        """As `ClusterApi.list`."""
        return await self._around(
            Verb.LIST,
            resource,
            lambda: self._inner.list(
                resource,
                project=project,
                namespace=namespace,
                selector=selector,
                metadata_only=metadata_only,
                from_cache=from_cache,
            ),
        )

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
        """As `ClusterApi.watch`."""
        events = self._inner.watch(
            resource,
            resource_version=resource_version,
            namespace=namespace,
            selector=selector,
            metadata_only=metadata_only,
            timeout_s=timeout_s,
        )
        return self._around_watch(resource, events)

    async def apply(
        self, resource: Resource, manifest: JsonObject, *, force: bool = True, dry_run: bool = False
    ) -> JsonObject:
        """As `ClusterApi.apply`."""
        return await self._around(
            Verb.APPLY,
            resource,
            lambda: self._inner.apply(resource, manifest, force=force, dry_run=dry_run),
        )

    async def apply_status(self, resource: Resource, manifest: JsonObject, *, force: bool = True) -> JsonObject:
        """As `ClusterApi.apply_status`."""
        return await self._around(
            Verb.APPLY_STATUS, resource, lambda: self._inner.apply_status(resource, manifest, force=force)
        )

    async def create(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """As `ClusterApi.create`."""
        return await self._around(Verb.CREATE, resource, lambda: self._inner.create(resource, manifest))

    async def update(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """As `ClusterApi.update`."""
        return await self._around(Verb.UPDATE, resource, lambda: self._inner.update(resource, manifest))

    async def patch_merge(
        self,
        resource: Resource,
        name: str,
        patch: JsonObject,
        namespace: str | None = None,
        *,
        subresource: str = "",
    ) -> JsonObject:
        """As `ClusterApi.patch_merge`."""
        return await self._around(
            Verb.PATCH,
            resource,
            lambda: self._inner.patch_merge(resource, name, patch, namespace, subresource=subresource),
        )

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
        """As `ClusterApi.delete`."""
        return await self._around(
            Verb.DELETE,
            resource,
            lambda: self._inner.delete(
                resource, name, namespace, uid=uid, propagation=propagation, missing_ok=missing_ok
            ),
        )

    async def version(self) -> str:
        """As `ClusterApi.version`."""
        return await self._around(Verb.VERSION, None, self._inner.version)

    async def close(self) -> None:
        """As `ClusterApi.close`."""
        await self._inner.close()
