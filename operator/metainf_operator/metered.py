"""A cluster that times its calls and counts their errors.

Separate, a decorator, so that neither the door nor its callers hold a line of metrics.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from metainf_operator.api_errors import ClusterError
from metainf_operator.cluster_api import ClusterApi, Verb, WatchEvent
from metainf_operator.cluster_decorator import ClusterDecorator
from metainf_operator.metrics import Metrics
from metainf_operator.resources import Resource

__all__ = ["MeteredCluster"]

T = TypeVar("T")


class MeteredCluster(ClusterDecorator):
    """Counts every call; of a watch the errors alone, since its time is the server's to choose."""

    def __init__(self, inner: ClusterApi, metrics: Metrics, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(inner)
        self._metrics = metrics
        self._clock = clock

    async def _around(self, verb: Verb, resource: Resource | None, call: Callable[[], Awaitable[T]]) -> T:
        started_s = self._clock()
        try:
            return await call()
        except ClusterError as error:
            self._count(verb, error)
            raise
        finally:
            labels = self._metrics.api_requests.labels(verb.value, resource.plural if resource else "")
            labels.observe(self._clock() - started_s)

    async def _around_watch(
        self, resource: Resource, events: AsyncGenerator[WatchEvent, None]
    ) -> AsyncGenerator[WatchEvent, None]:
        async with aclosing(events):
            try:
                async for event in events:
                    yield event
            except ClusterError as error:
                self._count(Verb.WATCH, error)
                raise

    def _count(self, verb: Verb, error: ClusterError) -> None:
        self._metrics.api_errors.labels(verb.value, type(error).__name__).inc()
