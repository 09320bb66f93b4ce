"""The Lease: of several replicas one acts, and one that lost it stops writing at once.

Separate from kopf, whose peering freezes both replicas at equal priority, and from the client library, whose election
ends when the Lease is not there yet or the connection is refused (kubernetes.aio.leaderelection 37.0.2). The way is
client-go's: a candidate trusts no other machine's clock, but watches the record and steals it only after it stood
unchanged for the lease's duration on its own clock; a leader counts itself as one only until the renew deadline after
its last renewal, by the time of *sending*, and so stops before anybody can take over.
"""

import asyncio
import logging
import math
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from metainf_operator.api_errors import ClusterError, ConflictError, NotFoundError, NotLeaderError
from metainf_operator.cluster_api import ClusterApi, JsonObject, Verb
from metainf_operator.cluster_decorator import ClusterDecorator
from metainf_operator.resources import LEASE, Resource

__all__ = ["GatedCluster", "LeaderElection", "LeaseTimes", "uninterrupted_clock", "unique_identity"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

JITTER_RATIO = 0.2
"""Candidates retry up to this share later, so that a hundred of them do not ask in step (client-go: 1.2 times)."""


def uninterrupted_clock() -> float:
    """Seconds that go on while the machine sleeps: a leader must not wake up and take itself for one."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def unique_identity(name: str) -> str:
    """An identity that no restart repeats: with a pod's bare name, a second process would renew the first one's."""
    return f"{name}_{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long a lease holds; the defaults are client-go's."""

    lease_duration_s: float = 15.0
    """How long a record must stand unchanged before another candidate may take it."""
    renew_deadline_s: float = 10.0
    """How long after its last renewal a leader may still write."""
    retry_period_s: float = 2.0
    """Time between two attempts, to acquire as to renew."""

    def __post_init__(self) -> None:
        if not 0 < self.retry_period_s < self.renew_deadline_s < self.lease_duration_s:
            raise ValueError(
                "checking the lease's times: the retry period must be shorter than the renew deadline, and that "
                f"shorter than the lease duration, not {self.retry_period_s:g} s, {self.renew_deadline_s:g} s and "
                f"{self.lease_duration_s:g} s"
            )


@dataclass(frozen=True, slots=True)
class _Observed:
    """The record as last seen, and when on our own clock it was first seen so."""

    version: str = ""
    holder: str = ""
    duration_s: float = 0.0
    at_s: float = 0.0


@dataclass(eq=False)
class LeaderElection:
    """One candidate for one Lease.

    Parameters are stored and nothing is asked before `run`. `clock` is monotonic, of this machine alone; `now` is the
    wall clock and only written for people to read.
    """

    cluster: ClusterApi
    identity: str
    lease_name: str
    namespace: str
    times: LeaseTimes = field(default_factory=LeaseTimes)
    clock: Callable[[], float] = uninterrupted_clock
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    _observed: _Observed = field(default_factory=_Observed, init=False)
    _renewed_at_s: float | None = field(default=None, init=False)

    @property
    def is_leader(self) -> bool:
        """Whether this replica may write now: by the clock, so it turns False even while a renewal hangs."""
        renewed_at_s = self._renewed_at_s
        return renewed_at_s is not None and self.clock() < renewed_at_s + self.times.renew_deadline_s

    @property
    def leader(self) -> str:
        """Who holds the Lease as last seen; empty where nobody does."""
        return self._observed.holder

    def guard(self) -> None:
        """Raise NotLeaderError unless this replica may write now."""
        if not self.is_leader:
            raise NotLeaderError(f"writing as {self.identity}: the lease is held by {self.leader or 'nobody'}")

    async def run(self, on_started: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """Acquire, then renew until it is lost; returns after `on_lost`, and the process is to end then.

        Cancel it to stop renewing; `release` then hands the Lease over without a wait.
        """
        await self._acquire()
        logger.info("leading", extra={"identity": self.identity, "lease": self.lease_name})
        on_started()
        await self._keep()
        logger.error("lost the lease", extra={"identity": self.identity, "holder": self.leader})
        on_lost()

    async def _acquire(self) -> None:
        while not await self._tried(self.times.renew_deadline_s):
            await self.sleep(self.times.retry_period_s * (1 + JITTER_RATIO * self.jitter()))

    async def _keep(self) -> None:
        while self._renewed_at_s is not None:
            await self.sleep(self.times.retry_period_s)
            left_s = self._renewed_at_s + self.times.renew_deadline_s - self.clock()
            if left_s <= 0:
                break
            # Half of the deadline for one request leaves time for a second one when the first goes nowhere.
            await self._tried(min(left_s, self.times.renew_deadline_s / 2))
        self._renewed_at_s = None

    async def _tried(self, timeout_s: float) -> bool:
        """One attempt within a time; a failure is logged and is worth another attempt."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.step()
        except TimeoutError:
            logger.warning("no answer about the lease", extra={"timeout_s": timeout_s})
        except ConflictError:
            logger.debug("another candidate was faster", extra={"lease": self.lease_name})
        except ClusterError as error:
            logger.warning("asking for the lease failed", extra={"error": str(error)})
        return False

    async def step(self) -> bool:
        """One look at the record and, where it is ours to write, one write; whether we hold it afterwards."""
        sent_at_s = self.clock()
        try:
            lease = await self.cluster.get(LEASE, self.lease_name, self.namespace)
        except NotFoundError:
            created = await self.cluster.create(LEASE, self._manifest({}, held=False))
            self._hold(created, sent_at_s)
            return True
        self._observe(lease)
        held = self._observed.holder == self.identity
        if not held:
            self._renewed_at_s = None  # whatever we thought: the record says that it is another's, or nobody's
            if self._observed.holder and self.clock() < self._expires_at_s():
                return False
        sent_at_s = self.clock()
        updated = await self.cluster.update(LEASE, self._manifest(lease, held=held))
        self._hold(updated, sent_at_s)
        return True

    async def release(self) -> None:
        """Stop writing, and let the next candidate in without the wait; a failure only means that it waits."""
        try:
            async with asyncio.timeout(self.times.renew_deadline_s / 2):
                await self.step_down()
        except (ClusterError, TimeoutError) as error:
            logger.warning("releasing the lease failed", extra={"error": str(error) or "no answer"})

    async def step_down(self) -> None:
        """Count as no leader from now on, and empty the record where it still names this replica."""
        held = self._renewed_at_s is not None
        self._renewed_at_s = None
        if not held:
            return
        lease = await self.cluster.get(LEASE, self.lease_name, self.namespace)
        if (lease.get("spec") or {}).get("holderIdentity") == self.identity:
            await self.cluster.update(LEASE, self._manifest(lease, held=True, holder=""))

    def _expires_at_s(self) -> float:
        """When on our clock the record may be taken; the holder's own duration counts where it is longer."""
        return self._observed.at_s + max(self.times.lease_duration_s, self._observed.duration_s)

    def _observe(self, lease: JsonObject) -> None:
        version = str(lease["metadata"]["resourceVersion"])
        if version == self._observed.version:
            return
        spec = lease.get("spec") or {}
        self._observed = _Observed(
            version,
            str(spec.get("holderIdentity") or ""),
            float(spec.get("leaseDurationSeconds") or 0),
            self.clock(),
        )

    def _hold(self, lease: JsonObject, sent_at_s: float) -> None:
        self._observe(lease)
        self._renewed_at_s = sent_at_s

    def _manifest(self, lease: JsonObject, *, held: bool, holder: str | None = None) -> JsonObject:
        now = self.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old: dict[str, Any] = lease.get("spec") or {}
        spec = {
            "holderIdentity": self.identity if holder is None else holder,
            "leaseDurationSeconds": math.ceil(self.times.lease_duration_s),
            "acquireTime": (old.get("acquireTime") or now) if held else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (1 if lease and not held else 0),
        }
        metadata = lease.get("metadata") or {"name": self.lease_name, "namespace": self.namespace}
        return {"metadata": metadata, "spec": {**old, **spec}}


class GatedCluster(ClusterDecorator):
    """A cluster in which every write asks `guard` first; reads pass, since a standby may fill its caches.

    A write that was sent before the deadline may still arrive after it: the time between the renew deadline and the
    lease's duration is there for it, and every child is applied with a check of its owner's uid.
    """

    def __init__(self, inner: ClusterApi, guard: Callable[[], None]) -> None:
        super().__init__(inner)
        self._guard = guard

    async def _around(self, verb: Verb, resource: Resource | None, call: Callable[[], Awaitable[T]]) -> T:
        if verb.writes:
            self._guard()
        return await call()
