"""Every kopf decorator of the operator, and nothing else.

Handlers write nothing, neither to the cluster nor to the objects: they hand each event to the caches, which queue keys.
kopf registers them, watches and keeps the watches alive.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import kopf

from metainf_operator.cluster import Credentials
from metainf_operator.runtime import Runtime

__all__ = ["register"]


def register(runtime: Runtime, credentials: Callable[[], Awaitable[Credentials]]) -> kopf.OperatorRegistry:
    """The handlers for one runtime; those of cluster-wide kinds only where nodes may be read."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        runtime.configure_kopf(settings)

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        found = await credentials()
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_path,
            token=found.token,
            certificate_path=found.certificate_path,
            private_key_path=found.private_key_path,
            insecure=found.insecure,
        )

    @kopf.on.event("metainf.dev", "v1alpha1", "inferenceworkloads", registry=registry)
    async def workload(event: kopf.RawEvent, **_: Any) -> None:
        runtime.feeds.workloads.saw(event)

    @kopf.on.event("apps", "v1", "deployments", registry=registry)
    async def deployment(event: kopf.RawEvent, **_: Any) -> None:
        runtime.feeds.deployments.saw(event)

    @kopf.on.event("", "v1", "services", registry=registry)
    async def service(event: kopf.RawEvent, **_: Any) -> None:
        runtime.feeds.services.saw(event)

    @kopf.on.event("policy", "v1", "poddisruptionbudgets", registry=registry)
    async def budget(event: kopf.RawEvent, **_: Any) -> None:
        runtime.feeds.budgets.saw(event)

    if not runtime.pods_everywhere:

        @kopf.on.event("", "v1", "pods", registry=registry)
        async def pod(event: kopf.RawEvent, **_: Any) -> None:
            runtime.feeds.pods.saw(event)

    if runtime.settings.node_access:

        @kopf.on.event("", "v1", "nodes", registry=registry)
        async def node(event: kopf.RawEvent, **_: Any) -> None:
            runtime.feeds.nodes.saw(event)

        @kopf.on.event("metainf.dev", "v1alpha1", "acceleratorpools", registry=registry)
        async def pool(event: kopf.RawEvent, **_: Any) -> None:
            runtime.feeds.pools.saw(event)

    return registry
