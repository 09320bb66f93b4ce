"""The workers of the queue, and the one table that says what becomes of a key after each kind of error.

Separate from `workqueue`, which knows no errors, and from what reconciles a key: with one table, no handler needs a
try around its body, and one key's fault leaves the others unharmed.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from metainf.errors import HubError
from metainf_operator.api_errors import (
    ConflictError,
    ForbiddenError,
    NamespaceTerminatingError,
    NotFoundError,
    NotLeaderError,
    UnreachableError,
)
from metainf_operator.metrics import Metrics
from metainf_operator.workqueue import QueueClosed, WorkQueue

__all__ = ["FORBIDDEN_DELAY_S", "FORBIDDEN_FIRST_S", "Drop", "Retry", "Verdict", "Workers", "verdict"]

K = TypeVar("K")

logger = logging.getLogger(__name__)

FORBIDDEN_DELAY_S = 300.0
"""A person has to change a role first; a change of the object queues the key earlier."""

FORBIDDEN_FIRST_S = 2.0
"""The first delay on the way there."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The key again, after its back-off and no sooner than `at_least_s`."""

    level: int
    at_least_s: float = 0.0
    traceback: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """Not again: this replica does not act any more."""


Verdict = Retry | Drop


def verdict(error: Exception) -> Verdict:
    """What becomes of a key whose pass ended in this error.

    InvalidWorkloadError and ArtifactError are answers that the pass itself turns into conditions; one that gets here
    was forgotten there, and is a fault as any other.
    """
    match error:
        case NotLeaderError():
            return Drop()
        case NamespaceTerminatingError():
            return Retry(logging.WARNING, at_least_s=FORBIDDEN_DELAY_S)
        case ForbiddenError():  # step by step up to minutes: an API server that just came up refuses everybody
            return Retry(logging.WARNING, at_least_s=FORBIDDEN_FIRST_S)
        case UnreachableError():
            return Retry(logging.WARNING, at_least_s=error.retry_after_s or 0.0)
        case HubError():
            return Retry(logging.WARNING)
        case ConflictError() | NotFoundError():  # the world moved during the pass: look again
            return Retry(logging.DEBUG)
        case _:
            return Retry(logging.ERROR, traceback=True)


class Workers(Generic[K]):
    """Workers that take keys and hand them to `handler`.

    The handler returns seconds until the key is to be looked at again, or None when only an event or a resync brings
    it back.
    """

    def __init__(
        self,
        queue: WorkQueue[K],
        handler: Callable[[K], Awaitable[float | None]],
        metrics: Metrics,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._metrics = metrics
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        metrics.queue_length.set_function(lambda: len(queue))

    def start(self, count: int) -> None:
        """Start `count` workers on the running event loop."""
        self._tasks += [asyncio.create_task(self._work(), name=f"worker-{n}") for n in range(count)]

    @property
    def alive(self) -> bool:
        """Whether no worker has ended: they end only when the queue is shut down."""
        return all(not task.done() for task in self._tasks)

    async def drain(self, timeout_s: float) -> bool:
        """Let the passes under way finish, then stop; False where time ran out first.

        What still waits is left: the next leader starts from the world as it is, and the sooner it starts the better.
        """
        self._queue.shut_down()
        self._queue.drop_ready()
        return await self._end(timeout_s)

    async def abandon(self) -> None:
        """Stop at once: the lease is lost and whatever is under way must not go on."""
        self._queue.shut_down()
        self._queue.drop_ready()
        await self._end(0.0)

    async def _end(self, timeout_s: float) -> bool:
        if not self._tasks:
            return True
        _, pending = await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in pending:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return not pending

    async def _work(self) -> None:
        while True:
            try:
                key = await self._queue.get()
            except QueueClosed:
                return
            try:
                await self._pass(key)
            finally:
                self._queue.done(key)

    async def _pass(self, key: K) -> None:
        started_s = self._clock()
        try:
            again_in_s = await self._handler(key)
        except Exception as error:
            self._failed(key, error)
        else:
            self._queue.forget(key)
            if again_in_s is not None:
                self._queue.add_after(key, again_in_s)
        finally:
            self._metrics.reconcile_duration.observe(self._clock() - started_s)

    def _failed(self, key: K, error: Exception) -> None:
        self._metrics.reconcile_errors.labels(type(error).__name__).inc()
        outcome = verdict(error)
        if isinstance(outcome, Drop):
            logger.debug("left to the leader", extra={"key": str(key)})
            return
        delay_s = self._queue.add_rate_limited(key, outcome.at_least_s)
        logger.log(
            outcome.level,
            "the pass failed and will be tried again",
            extra={
                "key": str(key),
                "error_class": type(error).__name__,
                "error": str(error),
                "delay_s": delay_s,
            },
            exc_info=error if outcome.traceback else None,
        )
