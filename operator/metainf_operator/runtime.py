"""Puts the operator together and keeps it going: caches, queue, workers, Lease, health.

Separate from the handlers (what kopf calls) and from the passes (what a key means): this is the order in which things
start and stop. Nothing is decided before every cache has synced, and nothing is written without the Lease.
"""

import asyncio
import logging
import platform
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import kopf

from metainf.errors import InvalidWorkloadError
from metainf.meta_features.schema import FEATURE_SCHEMA
from metainf.predictors.contract import Predictor
from metainf_operator.api_errors import ClusterError, NotFoundError
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.controller import Controller
from metainf_operator.events import EventSender
from metainf_operator.feeds import Feed
from metainf_operator.leader import GatedCluster, LeaderElection, unique_identity
from metainf_operator.metered import MeteredCluster
from metainf_operator.metrics import Metrics
from metainf_operator.observer import Observer
from metainf_operator.opencost import fetch_prices
from metainf_operator.pool_reporter import PoolKey, PoolReporter
from metainf_operator.pools_file import read_pools_file
from metainf_operator.reporter import Reporter
from metainf_operator.scraping import Scrape, Scraper
from metainf_operator.settings import OperatorSettings
from metainf_operator.triggers import Key, Triggers
from metainf_operator.watched_kinds import feeds_into
from metainf_operator.workers import Workers
from metainf_operator.workqueue import Priority, WorkQueue
from metainf_operator.world import World

__all__ = ["Runtime"]

logger = logging.getLogger(__name__)

_CRDS_RETRY_S = 5.0
_OFF_S = 3600.0  # a loop that has nothing to do
_WATCHES_CHECKED_S = 30.0  # seen as gone twice in a row: a restart of a watch takes less


class Runtime:
    """The operator process, short of kopf itself."""

    def __init__(
        self,
        cluster: ClusterApi,
        predictor: Predictor,
        settings: OperatorSettings,
        metrics: Metrics,
        *,
        predictor_fault: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        scrape: Scrape | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.world = World()
        self.queue: WorkQueue[Key] = WorkQueue(observe_wait=metrics.queue_wait.observe)
        self.triggers = Triggers(self.world, self.queue, decide_anew=lambda key: self.controller.decide_anew(key))
        self.feeds = feeds_into(self.world, settings, name_freed=self.triggers.name_freed)
        identity = unique_identity(settings.identity or platform.node())
        namespace = settings.lease_namespace or cluster.own_namespace
        self.reader = MeteredCluster(cluster, metrics)
        self.election = LeaderElection(self.reader, identity, settings.lease_name, namespace, settings.lease_times)
        writer = GatedCluster(self.reader, self.election.guard)
        self._scraper = Scraper()
        self.observer = Observer(
            self.world,
            scrape or self._scraper,
            metrics,
            interval_s=settings.observe_interval_s,
            window_s=settings.observe_window_s,
            now=now,
            look=lambda key: self.queue.add(key, Priority.RESYNC),
        )
        self.controller = Controller(
            writer,
            self.world,
            predictor,
            settings,
            metrics,
            reporter=Reporter(
                writer,
                EventSender(writer.create, identity),
                metrics,
                now=now,
                predictor=predictor.identity,
                predictor_fault=predictor_fault or "",
                unwatched=settings.unwatched,
            ),
            now=now,
            observer=self.observer,
            capacity_freed=self.triggers.room_came,
        )
        self.pool_reporter = PoolReporter(writer, self.world, now=now)
        self.workers: Workers[Key] = Workers(self.queue, self._handle, metrics)
        for store in self.world.stores:
            metrics.cached_objects.labels(kind=store.name).set_function(store.__len__)
        metrics.usable_nodes.set_function(lambda: sum(node.usable for node in self.world.nodes.values()))
        metrics.use_predictor(FEATURE_SCHEMA, predictor.identity.digest)
        metrics.predictor_fallback.set(predictor_fault is not None)
        self.triggers.listen()

    async def _handle(self, key: Key) -> float | None:
        if isinstance(key, PoolKey):
            await self.pool_reporter.reconcile(key)
            return None
        return await self.controller.reconcile(key)

    # kopf

    def configure_kopf(self, settings: kopf.OperatorSettings) -> None:
        """Kopf watches; it posts no events, keeps no state of its own on objects and looks for no new kinds."""
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.watching.server_timeout = 240 + random.randint(0, 60)  # whole seconds: the API server takes no others
        settings.watching.client_timeout = 330
        settings.watching.connect_timeout = 10
        settings.networking.request_timeout = 30
        settings.persistence.finalizer = "metainf.dev/none"
        settings.persistence.diffbase_storage = _NoDiffs()

    # start and stop

    async def sync(self) -> None:
        """Fill every cache once; waits for the CRDs where they are not there yet."""
        await self.refresh_prices()
        feeds = self.feeds
        for feed in (feeds.workloads, feeds.decisions, feeds.deployments, feeds.services, feeds.budgets, feeds.pods):
            await self._first_listing(feed)
        if self.settings.node_access:
            await self._first_listing(feeds.nodes)
            await self._first_listing(feeds.pools)
        else:
            self._use_pools_file()
            self.world.nodes.synced.set()
            self.world.pools.synced.set()
        self.triggers.inventory_changed()

    async def _first_listing(self, feed: Feed[Any, Any]) -> None:
        while True:
            try:
                await feed.list(self.reader)
                return
            except NotFoundError:
                logger.warning("waiting for a kind to be installed", extra={"kind": feed.resource.kind})
            except ClusterError as error:
                logger.warning("listing failed", extra={"kind": feed.resource.kind, "error": str(error)})
            await asyncio.sleep(_CRDS_RETRY_S)

    def _use_pools_file(self) -> None:
        path = self.settings.pools_file
        if path is None:
            return
        try:
            self.world.use_fixed_pools(read_pools_file(path))
        except InvalidWorkloadError as error:
            logger.error("the pools file cannot be used", extra={"path": str(path), "error": str(error)})

    async def refresh_prices(self) -> None:
        """Ask OpenCost, where there is one; what it said last stays where it does not answer."""
        if self.settings.opencost_url is None:
            return
        try:
            prices = await fetch_prices(self.settings.opencost_url)
        except (OSError, ValueError) as error:
            logger.warning("OpenCost does not answer", extra={"error": str(error)})
            return
        if prices != self.world.opencost:
            self.world.opencost = prices
            self.triggers.inventory_changed()

    async def relist_when_wanted(self, feed: Feed[Any, Any]) -> None:
        """List one kind again after each new start of its watch, for ever: deletions in between are not told."""
        while True:
            await feed.relist_wanted.wait()
            feed.relist_wanted.clear()
            try:
                await feed.list(self.reader)
            except ClusterError as error:
                logger.warning("listing failed", extra={"kind": feed.resource.kind, "error": str(error)})
                asyncio.get_running_loop().call_later(_CRDS_RETRY_S, feed.relist_wanted.set)

    async def resync(self) -> None:
        """Look at everything now and then, for ever: a net under the watches."""
        while True:
            await asyncio.sleep(self.settings.resync_s)
            self.controller.models.forget_failures()
            self.controller.decide_anew()
            await self.refresh_prices()
            if not self.settings.node_access:
                self._use_pools_file()
                self.triggers.inventory_changed()
            for feed in self.watched_by_kopf:
                feed.relist_wanted.set()
            self.triggers.queue_all(Priority.RESYNC)

    async def observe(self) -> None:
        """Read the engines' metrics round after round, for ever, while this replica leads.

        The pause varies by a tenth, so that operators and engines do not fall into step.
        """
        interval_s = self.settings.observe_interval_s
        while True:
            await asyncio.sleep((interval_s or _OFF_S) * random.uniform(0.9, 1.1))
            if not interval_s or not self.election.is_leader:
                continue
            try:
                await self.observer.round()
            except Exception:
                logger.exception("observing failed and will be tried again")

    async def close(self) -> None:
        """End the connections to engines."""
        await self._scraper.close()

    def own_watches(self) -> dict[str, Coroutine[Any, Any, None]]:
        """The watches beside kopf's: decisions by their metadata, and pods where kopf sees only some of them.

        kopf watches the namespaces that it is told; what takes room on a node may stand in any.
        """
        watches = {"watch decisions": self.feeds.decisions.watch(self.reader)}
        if self.pods_everywhere:
            watches["watch pods"] = self.feeds.pods.watch(self.reader)
        return watches

    async def guard_watches(self) -> None:
        """End with an error where a watch of kopf's is no more: kopf logs that and goes on without it."""
        missing: set[str] = set()
        while True:
            await asyncio.sleep(_WATCHES_CHECKED_S)
            gone = self.missing_watches()
            if missing & gone:
                raise RuntimeError(f"watching {', '.join(sorted(missing & gone))} has ended")
            missing = gone

    def missing_watches(self) -> set[str]:
        """Kinds that kopf should watch and does not, by the names that it gives its tasks."""
        names = [task.get_name() for task in asyncio.all_tasks()]
        return {
            feed.resource.plural
            for feed in self.watched_by_kopf
            if not any(name.startswith(f"watcher for {feed.resource.plural}.") for name in names)
        }

    @property
    def pods_everywhere(self) -> bool:
        """Whether pods have to be watched beyond the namespaces of the workloads."""
        return bool(self.settings.namespaces) and self.settings.node_access

    @property
    def watched_by_kopf(self) -> tuple[Feed[Any, Any], ...]:
        """The feeds that kopf's watches fill."""
        feeds = self.feeds
        own: list[Feed[Any, Any]] = [feeds.workloads, feeds.deployments, feeds.services, feeds.budgets]
        if not self.pods_everywhere:
            own.append(feeds.pods)
        if self.settings.node_access:
            own += [feeds.nodes, feeds.pools]
        return tuple(own)


class _NoDiffs(kopf.DiffBaseStorage):
    """Keeps nothing of objects: our handlers take raw events, and a deep copy of every pod is a third of the work."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None
