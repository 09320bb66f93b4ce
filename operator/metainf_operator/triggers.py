"""What a change makes the operator look at again: from a change in a cache to keys in the queue.

Separate from the caches, which know nobody who reads them, and from the passes, which start from the world as it is:
a trigger that is missed costs the time until the next resync, and nothing else.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from metainf_operator.inventory import Inventory
from metainf_operator.ledger import PodUse, WorkloadKey
from metainf_operator.pool_reporter import PoolKey
from metainf_operator.projections import ChildState, NodeFacts
from metainf_operator.selected_nodes import Labels, selects
from metainf_operator.workqueue import Priority, WorkQueue
from metainf_operator.world import DecisionState, ObjectKey, PoolState, WorkloadState, World

__all__ = ["Key", "Triggers"]

logger = logging.getLogger(__name__)

Key = WorkloadKey | PoolKey
"""What is looked at: a workload, or a pool whose status is to be written."""

_INVENTORY_QUIET_S = 0.5  # bursts of node events fold into one inventory change
_CAPACITY_QUIET_S = 1.0
_OTHERS_QUIET_S = 30.0  # pods without accelerators end all the time on nodes that CPU pools share with others


class Triggers:
    """Queues who is concerned by a change; belongs to the event loop of the caches.

    `decide_anew` is told of a workload whose last decision no longer counts.
    """

    def __init__(self, world: World, queue: WorkQueue[Key], *, decide_anew: Callable[[WorkloadKey], None]) -> None:
        self._world = world
        self._queue = queue
        self._decide_anew = decide_anew
        self._pending: dict[str, asyncio.TimerHandle] = {}
        self._left: set[str] = set()  # nodes that pods have left since those who are held back were looked at
        self._stock: Inventory | None = None
        self._relabelled: dict[str, Labels] = {}  # what nodes had before, since stock was taken

    def listen(self) -> None:
        """Be told of every change from now on."""
        world = self._world
        world.workloads.listen(self._workload_changed)
        for store in (world.deployments, world.services, world.budgets):
            store.listen(self._child_changed)
        world.decisions.listen(self._decision_changed)
        world.nodes.listen(self._node_changed)
        world.pools.listen(self._pool_changed)
        world.pods.listen(self._pod_changed)

    def _workload_changed(self, key: WorkloadKey, old: WorkloadState | None, new: WorkloadState | None) -> None:
        if old is not None and new is not None and _without_status(old) == _without_status(new):
            return  # our own status write
        self._queue.add(key)
        if new is None:
            self.room_came()

    def _child_changed(self, key: ObjectKey, old: ChildState | None, new: ChildState | None) -> None:
        state = new or old
        if state is not None and state.workload:
            self._queue.add(WorkloadKey(state.namespace, state.workload))

    def _pod_changed(self, key: ObjectKey, old: PodUse | None, new: PodUse | None) -> None:
        if new is not None and new.workload is not None and new.trouble != (old.trouble if old is not None else None):
            self._queue.add(new.workload)
        if old is not None and new is not None and old.takes_as(new):
            return  # its engine answers now, or no more: the Deployment's status tells
        self.capacity_changed()
        if old is not None and old.node and (new is None or new.node != old.node):
            self._left.add(old.node)
            if old.accelerators or old.workload is not None:
                self._soon("left", _CAPACITY_QUIET_S, self._queue_those_whose_room_it_may_be)
            else:
                self._soon("left by others", _OTHERS_QUIET_S, self._queue_those_whose_room_it_may_be)
        goes = old is not None and (new is None or (new.terminating and not old.terminating))
        owner = old.workload if old is not None and goes else None
        if owner is not None and owner in self._world.workloads:
            # Its room may be gone with it, as on a lost node: what runs there has to be weighed again.
            self._decide_anew(owner)
            self._queue.add(owner)

    def name_freed(self, key: ObjectKey) -> None:
        """A Service went: where a workload has its name and waited for it, it looks again."""
        owner = WorkloadKey(*key)
        if owner in self._world.workloads:
            self._queue.add(owner)

    def _decision_changed(self, key: ObjectKey, old: DecisionState | None, new: DecisionState | None) -> None:
        if new is None and old is not None:  # what we write ourselves needs no second look
            self._queue.add(WorkloadKey(key[0], old.head.workload))

    def _node_changed(self, name: str, old: NodeFacts | None, new: NodeFacts | None) -> None:
        if old is not None and (new is None or new.labels != old.labels):
            self._relabelled.setdefault(name, old.labels)
        self.inventory_changed()

    def _pool_changed(self, name: str, old: PoolState | None, new: PoolState | None) -> None:
        self._queue.add(PoolKey(name))
        if old is None or new is None or old.pool != new.pool:
            self.inventory_changed()

    def inventory_changed(self) -> None:
        """Nodes, pools or prices moved: when the burst is over, everybody whom it concerns looks again."""
        self._world.inventory_changed()
        self._soon("inventory", _INVENTORY_QUIET_S, self._queue_everybody)

    def capacity_changed(self) -> None:
        """Room came or went: those who wait look again, and the pools say what is free."""
        self._soon("capacity", _CAPACITY_QUIET_S, self._queue_waiting)

    def room_came(self) -> None:
        """What was reserved or claimed is so no more: besides, who is held back by want of room is weighed again."""
        self.capacity_changed()
        self._soon("room", _CAPACITY_QUIET_S, self._queue_held_back)

    def _soon(self, name: str, quiet_s: float, act: Callable[[], None]) -> None:
        if name not in self._pending:
            self._pending[name] = asyncio.get_running_loop().call_later(quiet_s, self._due, name, act)

    def _due(self, name: str, act: Callable[[], None]) -> None:
        self._pending.pop(name, None)
        act()

    def _queue_everybody(self) -> None:
        stock = self._world.inventory
        relabelled, self._relabelled = self._relabelled, {}
        if stock == self._stock:
            self._queue_those_who_select(relabelled)
            return
        self._stock = stock
        for problem in stock.problems:
            logger.warning("a node or pool cannot be used", extra={"problem": problem})
        self.queue_all(Priority.CHANGE)

    def _queue_those_who_select(self, relabelled: Mapping[str, Labels]) -> None:
        """Labels of single nodes are no part of the stock: those look anew to whom such a node came or is lost."""
        members = frozenset[str]().union(*(record.members for record in self._world.inventory.pools))
        moved = [
            (before, facts.labels)
            for name, before in relabelled.items()
            if name in members and (facts := self._world.nodes.get(name)) is not None
        ]
        if not moved:
            return
        selectors = {state.node_selector for state in self._world.workloads.values()}
        concerned = {s for s in selectors if any(selects(s, before) != selects(s, now) for before, now in moved)}
        self._look_anew(state for state in self._world.workloads.values() if state.node_selector in concerned)

    def queue_all(self, priority: Priority) -> None:
        """Everybody looks again, who came first before who came later."""
        for state in sorted(self._world.workloads.values(), key=lambda s: (s.created_at, s.key)):
            self._queue.add(state.key, priority)
        for name in sorted(self._world.pools):
            self._queue.add(PoolKey(name), priority)

    def _queue_waiting(self) -> None:
        for hold in sorted(self._world.waiting.values(), key=lambda h: h.turn):
            self._queue.add(hold.workload)
        for name in sorted(self._world.pools):
            self._queue.add(PoolKey(name))

    def _queue_those_whose_room_it_may_be(self) -> None:
        """Pods come and go on nodes of no pool all the time: they are nobody's room."""
        left, self._left = self._left, set()
        if any(not left.isdisjoint(record.members) for record in self._world.inventory.pools):
            self._queue_held_back()

    def _queue_held_back(self) -> None:
        """Only those who wait for room: with all the others a pod that ends would start a thousand decisions."""
        self._look_anew(state for state in self._world.workloads.values() if state.key in self._world.held_back)

    def _look_anew(self, states: Iterable[WorkloadState]) -> None:
        for state in sorted(states, key=lambda s: (s.created_at, s.key)):
            self._decide_anew(state.key)
            self._queue.add(state.key, Priority.RESYNC)


def _without_status(state: WorkloadState) -> tuple[object, ...]:
    return state.uid, state.generation, state.deleting, state.manifest, state.error
