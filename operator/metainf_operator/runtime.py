"""Puts the operator together and keeps it going: caches, queue, workers, Lease, health.

Separate from the handlers (what kopf calls) and from the passes (what a key means): this is the order in which things
start and stop. Nothing is decided before every cache has synced, and nothing is written without the Lease.
"""

import asyncio
import logging
import platform
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kopf
import yaml

from metainf.errors import InvalidWorkloadError
from metainf.manifests import parse_pool, standing_pool
from metainf.pools import NodePool
from metainf.predictors.contract import Predictor
from metainf_operator.api_errors import ClusterError, NotFoundError
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.controller import Controller
from metainf_operator.events import EventSender
from metainf_operator.feeds import Feed
from metainf_operator.inventory import Inventory
from metainf_operator.leader import GatedCluster, LeaderElection, unique_identity
from metainf_operator.ledger import PodUse, WorkloadKey
from metainf_operator.metered import MeteredCluster
from metainf_operator.metrics import Metrics
from metainf_operator.opencost import fetch_prices
from metainf_operator.pool_reporter import PoolKey, PoolReporter
from metainf_operator.projections import (
    ChildState,
    NodeFacts,
    project_child,
    project_deployment,
    project_node,
    project_pod,
)
from metainf_operator.reporter import Reporter
from metainf_operator.resources import (
    ACCELERATOR_POOL,
    DEPLOYMENT,
    INFERENCE_DECISION,
    INFERENCE_WORKLOAD,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVICE,
)
from metainf_operator.settings import OperatorSettings
from metainf_operator.workers import Workers
from metainf_operator.workqueue import Priority, WorkQueue
from metainf_operator.world import (
    DecisionState,
    ObjectKey,
    PoolState,
    WorkloadState,
    World,
    project_decision,
    project_pool,
    project_workload,
)

__all__ = ["Feeds", "Key", "Runtime", "read_pools_file"]

logger = logging.getLogger(__name__)

Key = WorkloadKey | PoolKey

_INVENTORY_QUIET_S = 0.5  # bursts of node events fold into one inventory change
_CAPACITY_QUIET_S = 1.0
_CRDS_RETRY_S = 5.0
_WATCHES_CHECKED_S = 30.0  # seen as gone twice in a row: a restart of a watch takes less


@dataclass(frozen=True, slots=True)
class Feeds:
    """One feed for each kind."""

    workloads: Feed[WorkloadKey, WorkloadState]
    pools: Feed[str, PoolState]
    nodes: Feed[str, NodeFacts]
    pods: Feed[ObjectKey, PodUse]
    deployments: Feed[ObjectKey, ChildState]
    services: Feed[ObjectKey, ChildState]
    budgets: Feed[ObjectKey, ChildState]
    decisions: Feed[ObjectKey, DecisionState]


def _named(metadata: Mapping[str, Any]) -> ObjectKey:
    return metadata["namespace"], metadata["name"]


def _feeds(world: World, settings: OperatorSettings, name_freed: Callable[[ObjectKey], None]) -> Feeds:
    spaces = settings.namespaces
    return Feeds(
        workloads=Feed(
            INFERENCE_WORKLOAD,
            world.workloads,
            project_workload,
            lambda m: WorkloadKey(m["namespace"], m["name"]),
            namespaces=spaces,
        ),
        pools=Feed(ACCELERATOR_POOL, world.pools, project_pool, lambda m: str(m["name"])),
        nodes=Feed(NODE, world.nodes, project_node, lambda m: str(m["name"])),
        pods=Feed(POD, world.pods, project_pod, _named, namespaces=() if settings.node_access else spaces),
        deployments=Feed(DEPLOYMENT, world.deployments, project_deployment, _named, namespaces=spaces),
        services=Feed(SERVICE, world.services, project_child, _named, namespaces=spaces, gone=name_freed),
        budgets=Feed(POD_DISRUPTION_BUDGET, world.budgets, project_child, _named, namespaces=spaces),
        decisions=Feed(
            INFERENCE_DECISION, world.decisions, project_decision, _named, namespaces=spaces, metadata_only=True
        ),
    )


def read_pools_file(path: Path) -> tuple[NodePool, ...]:
    """Pools from a file of AcceleratorPool manifests, for an installation that may not read nodes.

    Raises
    ------
    InvalidWorkloadError
        The file is no YAML, or a manifest in it is wrong.
    """
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise InvalidWorkloadError(f"reading pools from {path}: {exc}") from exc
    return tuple(standing_pool(parse_pool(document)) for document in documents if document is not None)


class Runtime:
    """The operator process, short of kopf itself."""

    def __init__(
        self,
        cluster: ClusterApi,
        predictor: Predictor,
        settings: OperatorSettings,
        metrics: Metrics,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.world = World()
        self.feeds = _feeds(self.world, settings, self._name_freed)
        self.queue: WorkQueue[Key] = WorkQueue(observe_wait=metrics.queue_wait.observe)
        identity = unique_identity(settings.identity or platform.node())
        self.reader = MeteredCluster(cluster, metrics)
        self.election = LeaderElection(
            self.reader,
            identity,
            settings.lease_name,
            settings.lease_namespace or cluster.own_namespace,
            settings.lease_times,
        )
        writer = GatedCluster(self.reader, self.election.guard)
        reporter = Reporter(writer, EventSender(writer.create, identity), metrics, now=now)
        self.controller = Controller(
            writer,
            self.world,
            predictor,
            settings,
            metrics,
            reporter,
            now=now,
            capacity_freed=self.capacity_changed,
        )
        self.pool_reporter = PoolReporter(writer, self.world, now=now)
        self.workers: Workers[Key] = Workers(self.queue, self._handle, metrics)
        for store in self.world.stores:
            metrics.cached_objects.labels(kind=store.name).set_function(store.__len__)
        metrics.use_predictor(predictor.identity.name, predictor.identity.digest)
        self._pending: dict[str, asyncio.TimerHandle] = {}
        self._stock: Inventory | None = None
        self._listen()

    async def _handle(self, key: Key) -> float | None:
        if isinstance(key, PoolKey):
            await self.pool_reporter.reconcile(key)
            return None
        return await self.controller.reconcile(key)

    # what changes queue what

    def _listen(self) -> None:
        world = self.world
        world.workloads.listen(self._workload_changed)
        for store in (world.deployments, world.services, world.budgets):
            store.listen(self._child_changed)
        world.decisions.listen(self._decision_changed)
        world.nodes.listen(lambda *_: self.inventory_changed())
        world.pools.listen(self._pool_changed)
        world.pods.listen(self._pod_changed)

    def _workload_changed(self, key: WorkloadKey, old: WorkloadState | None, new: WorkloadState | None) -> None:
        if old is not None and new is not None and _without_status(old) == _without_status(new):
            return  # our own status write
        self.queue.add(key)
        if new is None:
            self.capacity_changed()

    def _child_changed(self, key: ObjectKey, old: ChildState | None, new: ChildState | None) -> None:
        state = new or old
        if state is not None and state.workload:
            self.queue.add(WorkloadKey(state.namespace, state.workload))

    def _pod_changed(self, key: ObjectKey, old: PodUse | None, new: PodUse | None) -> None:
        self.capacity_changed()
        goes = old is not None and (new is None or (new.terminating and not old.terminating))
        owner = old.workload if old is not None and goes else None
        if owner is not None and owner in self.world.workloads:
            # Its room may be gone with it, as on a lost node: what runs there has to be weighed again.
            self.controller.decide_anew(owner)
            self.queue.add(owner)

    def _name_freed(self, key: ObjectKey) -> None:
        """A Service went: where a workload has its name and waited for it, it looks again."""
        owner = WorkloadKey(*key)
        if owner in self.world.workloads:
            self.queue.add(owner)

    def _decision_changed(self, key: ObjectKey, old: DecisionState | None, new: DecisionState | None) -> None:
        if new is None and old is not None:  # what we write ourselves needs no second look
            self.queue.add(WorkloadKey(key[0], old.head.workload))

    def _pool_changed(self, name: str, old: PoolState | None, new: PoolState | None) -> None:
        self.queue.add(PoolKey(name))
        if old is None or new is None or old.pool != new.pool:
            self.inventory_changed()

    def inventory_changed(self) -> None:
        """Nodes, pools or prices moved: when the burst is over, everybody looks again."""
        self.world.inventory_changed()
        self._soon("inventory", _INVENTORY_QUIET_S, self._queue_everybody)

    def capacity_changed(self) -> None:
        """Room came or went: those who wait look again, and the pools say what is free."""
        self._soon("capacity", _CAPACITY_QUIET_S, self._queue_waiting)

    def _soon(self, name: str, quiet_s: float, act: Callable[[], None]) -> None:
        if name not in self._pending:
            self._pending[name] = asyncio.get_running_loop().call_later(quiet_s, self._due, name, act)

    def _due(self, name: str, act: Callable[[], None]) -> None:
        self._pending.pop(name, None)
        act()

    def _queue_everybody(self) -> None:
        stock = self.world.inventory
        if stock == self._stock:
            return
        self._stock = stock
        for problem in stock.problems:
            logger.warning("a node or pool cannot be used", extra={"problem": problem})
        self._queue(Priority.CHANGE)

    def _queue(self, priority: Priority) -> None:
        for state in sorted(self.world.workloads.values(), key=lambda s: (s.created_at, s.key)):
            self.queue.add(state.key, priority)
        for name in sorted(self.world.pools):
            self.queue.add(PoolKey(name), priority)

    def _queue_waiting(self) -> None:
        for hold in sorted(self.world.waiting.values(), key=lambda h: h.turn):
            self.queue.add(hold.workload)
        for name in sorted(self.world.pools):
            self.queue.add(PoolKey(name))

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
        self.inventory_changed()

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
            self.inventory_changed()

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
                self.inventory_changed()
            for feed in self.watched_by_kopf:
                feed.relist_wanted.set()
            self._queue(Priority.RESYNC)

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


def _without_status(state: WorkloadState) -> tuple[object, ...]:
    return state.uid, state.generation, state.deleting, state.manifest, state.error
