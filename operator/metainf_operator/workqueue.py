"""A work queue of keys: each key once, never with two workers at a time, and later each time it fails.

Separate from what is done with a key. The rules are client-go's: a key that is added while a worker has it is queued
again when the worker is done, so no change is missed and none is seen twice. Time is an argument; nothing here sleeps
but `get`.
"""

import asyncio
import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

__all__ = ["Backoff", "Priority", "QueueClosed", "WorkQueue"]

K = TypeVar("K")


class Priority(IntEnum):
    """Which keys go first; within one priority, first come, first served."""

    CHANGE = 0
    """Somebody changed something and waits for it."""
    RESYNC = 1
    """Nothing is known to have changed: a thousand of these must not stand before one change."""


class QueueClosed(Exception):  # noqa: N818 - the end of the work, not an error
    """The queue is shut down and nothing is left to take."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a key waits after its n-th failure in a row: doubled each time, up to a limit, less a jitter."""

    first_s: float = 0.2
    limit_s: float = 300.0
    jitter_ratio: float = 0.2
    """Up to this share is taken off, so that keys which failed together do not come back together."""

    def delay_s(self, failures: int, random_ratio: float) -> float:
        """The wait after `failures` (1 for the first), `random_ratio` drawn from [0, 1)."""
        exponent = min(failures - 1, 60)  # beyond, the float would overflow and the limit has long been reached
        return float(min(self.first_s * 2.0**exponent, self.limit_s) * (1.0 - self.jitter_ratio * random_ratio))


@dataclass(slots=True)
class _Due:
    """When a key is to become ready, and how urgently."""

    at_s: float
    priority: Priority


class WorkQueue(Generic[K]):
    """Keys that wait for a worker, are with one, or wait for their time.

    Not thread-safe: it belongs to one event loop. `observe_wait` is told how long each key waited for a worker.
    """

    def __init__(
        self,
        *,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        random_ratio: Callable[[], float] = random.random,
        observe_wait: Callable[[float], None] = lambda wait_s: None,
    ) -> None:
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._random_ratio = random_ratio
        self._observe_wait = observe_wait
        self._ready: list[tuple[Priority, int, K]] = []
        self._dirty: dict[K, _Due] = {}  # to be taken: since when, and how urgently
        self._processing: set[K] = set()
        self._later: list[tuple[float, int, K]] = []
        self._due: dict[K, _Due] = {}  # the earliest wish per key; other entries of `_later` are stale
        self._failures: dict[K, int] = {}
        self._sequence = 0
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Keys that wait for a worker now; those waiting for their time are not counted."""
        return sum(key not in self._processing for key in self._dirty)

    @property
    def waiting(self) -> int:
        """Keys that wait for their time."""
        return len(self._due)

    @property
    def processing(self) -> int:
        """Keys that are with a worker."""
        return len(self._processing)

    @property
    def idle(self) -> bool:
        """Whether nothing waits for a worker or is with one."""
        return not self._dirty and not self._processing

    def failures(self, key: K) -> int:
        """How often in a row the key was added as failed."""
        return self._failures.get(key, 0)

    def add(self, key: K, priority: Priority = Priority.CHANGE) -> None:
        """Queue a key now; a key that waits already only moves ahead where this is more urgent."""
        if self._closed:
            return
        dirty = self._dirty.get(key)
        if dirty is not None and dirty.priority <= priority:
            return
        self._dirty[key] = _Due(self._clock() if dirty is None else dirty.at_s, priority)
        if key not in self._processing:
            self._push_ready(key, priority)

    def add_after(self, key: K, delay_s: float, priority: Priority = Priority.CHANGE) -> None:
        """Queue a key after a delay; of several wishes for one key the earliest counts."""
        if self._closed:
            return
        if delay_s <= 0:
            self.add(key, priority)
            return
        at_s = self._clock() + delay_s
        due = self._due.get(key)
        if due is not None and due.at_s <= at_s:
            return
        self._due[key] = _Due(at_s, priority)
        heapq.heappush(self._later, (at_s, self._next(), key))
        self._changed.set()

    def add_rate_limited(self, key: K, at_least_s: float = 0.0) -> float:
        """Queue a key that failed, after its back-off; the delay in seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = max(at_least_s, self._backoff.delay_s(failures, self._random_ratio()))
        self.add_after(key, delay_s)
        return delay_s

    def forget(self, key: K) -> None:
        """The key succeeded, or is gone: its next failure is its first."""
        self._failures.pop(key, None)

    def take(self) -> K | None:
        """The next ready key, handed to the caller until `done`; None where there is none now."""
        self._ripen()
        while self._ready:
            priority, _, key = heapq.heappop(self._ready)
            dirty = self._dirty.get(key)
            if dirty is None or dirty.priority != priority or key in self._processing:
                continue  # a stale entry: the key moved ahead, or was taken
            del self._dirty[key]
            self._processing.add(key)
            self._observe_wait(self._clock() - dirty.at_s)
            return key
        return None

    def done(self, key: K) -> None:
        """A worker is through with a key; what was added meanwhile is queued now."""
        self._processing.discard(key)
        dirty = self._dirty.get(key)
        if dirty is not None:
            self._push_ready(key, dirty.priority)
        self._changed.set()

    def next_due_in_s(self) -> float | None:
        """Seconds until the next key becomes ready by time, None where none waits."""
        while self._later:
            at_s, _, key = self._later[0]
            due = self._due.get(key)
            if due is not None and due.at_s == at_s:
                return max(0.0, at_s - self._clock())
            heapq.heappop(self._later)
        return None

    async def get(self) -> K:
        """Wait for the next key; QueueClosed after `shut_down`, once nothing is ready any more."""
        while True:
            key = self.take()
            if key is not None:
                return key
            if self._closed:
                raise QueueClosed
            self._changed.clear()
            try:
                async with asyncio.timeout(self.next_due_in_s()):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def shut_down(self) -> None:
        """Take no more keys and drop those that wait for their time; what is ready may still be taken."""
        self._closed = True
        self._due.clear()
        self._later.clear()
        self._changed.set()

    def drop_ready(self) -> None:
        """Drop what waits for a worker: a replica that stops leaves it to the next leader."""
        self._dirty.clear()
        self._ready.clear()

    def _ripen(self) -> None:
        while (due_in_s := self.next_due_in_s()) is not None and due_in_s <= 0:
            _, _, key = heapq.heappop(self._later)
            self.add(key, self._due.pop(key).priority)

    def _push_ready(self, key: K, priority: Priority) -> None:
        heapq.heappush(self._ready, (priority, self._next(), key))
        self._changed.set()

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence
