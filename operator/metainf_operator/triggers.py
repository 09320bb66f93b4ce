"""What a change makes the operator look at again: from a change in a cache to keys in the queue.

Separate from the caches, which know nobody who reads them, and from the passes, which start from the world as it is:
a trigger that is missed costs the time until the next resync, and nothing else.

Who has no room looks again when some comes, and for nothing else: each look is a whole decision, some 20 ms with what
it writes, and 200 may be without. Pods of ours and those with accelerators change seldom, and are answered in a second.
Others end all the time on nodes that CPU pools share with them. The first that leaves is answered as fast; then those
without room are left alone for two minutes, so that 200 of them keep a core busy for a thirtieth of the time at most,
and a replica that takes minutes to start comes two later at worst. Every second they would do nothing else.
Rejected: a timer with a jitter in place of events, which looks when nothing came, and late when something did. Nor do
the looks need one to spread them: they come behind all changes in the queue, and one is decided at a time.
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
_OTHERS_REST_S = 120.0  # between two looks for the room that pods of others leave, which take no accelerators


class Triggers:
    """Queues who is concerned by a change; belongs to the event loop of the caches.

    `decide_anew` is told of a workload whose last decision no longer counts.
    """

    def __init__(self, world: World, queue: WorkQueue[Key], *, decide_anew: Callable[[WorkloadKey], None]) -> None:
        self._world = world
        self._queue = queue
        self._decide_anew = decide_anew
        self._pending: dict[str, asyncio.TimerHandle] = {}
        self._left: set[str] = set()  # nodes that pods have left since those without room were looked at
        self._rests_until_s = 0.0  # before then nobody looks for the room that others' pods leave
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
        if new is not None and new.workload is not None and new.node and (old is None or old.node != new.node):
            # Where it was put is nobody's room any more, and where else it might have been put is again.
            self._soon("bound", _CAPACITY_QUIET_S, self._queue_waiting)
        if old is not None and _gives_back(old, new):
            self._left.add(old.node)
            if old.accelerators or old.workload is not None:
                self._soon("left", _CAPACITY_QUIET_S, self._queue_those_whose_room_it_may_be)
            else:
                rest_s = self._rests_until_s - asyncio.get_running_loop().time()
                self._soon("left by others", max(_CAPACITY_QUIET_S, rest_s), self._look_for_what_others_left)
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
        """Room came or went: the pools say what is free."""
        self._soon("capacity", _CAPACITY_QUIET_S, self._queue_pools)

    def room_came(self) -> None:
        """What was reserved or claimed is so no more: besides, whoever has no room looks again."""
        self.capacity_changed()
        self._soon("room", _CAPACITY_QUIET_S, self._queue_those_without_room)

    def _soon(self, name: str, quiet_s: float, act: Callable[[], object]) -> None:
        if name not in self._pending:
            self._pending[name] = asyncio.get_running_loop().call_later(quiet_s, self._due, name, act)

    def _due(self, name: str, act: Callable[[], object]) -> None:
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
        self._queue_pools(priority)

    def _queue_pools(self, priority: Priority = Priority.CHANGE) -> None:
        for name in sorted(self._world.pools):
            self._queue.add(PoolKey(name), priority)

    def _queue_waiting(self, priority: Priority = Priority.CHANGE) -> None:
        for hold in sorted(self._world.waiting.values(), key=lambda h: h.turn):
            self._queue.add(hold.workload, priority)

    def _queue_those_without_room(self, priority: Priority = Priority.CHANGE) -> None:
        self._queue_waiting(priority)
        self._queue_held_back()

    def _queue_those_whose_room_it_may_be(self, priority: Priority = Priority.CHANGE) -> bool:
        """Pods come and go on nodes of no pool all the time: they are nobody's room. Whether any was of a pool."""
        left, self._left = self._left, set()
        concerns = any(not left.isdisjoint(record.members) for record in self._world.inventory.pools)
        if concerns:
            self._queue_those_without_room(priority)
        return concerns

    def _look_for_what_others_left(self) -> None:
        if self._queue_those_whose_room_it_may_be(Priority.RESYNC):
            self._rests_until_s = asyncio.get_running_loop().time() + _OTHERS_REST_S

    def _queue_held_back(self) -> None:
        """Only those who wait for room: with all the others a pod that ends would start a thousand decisions."""
        self._look_anew(state for state in self._world.workloads.values() if state.key in self._world.held_back)

    def _look_anew(self, states: Iterable[WorkloadState]) -> None:
        for state in sorted(states, key=lambda s: (s.created_at, s.key)):
            self._decide_anew(state.key)
            self._queue.add(state.key, Priority.RESYNC)


def _gives_back(old: PodUse, new: PodUse | None) -> bool:
    """Whether the pod leaves room on the node where it was: all of its own, or a part where it takes less now."""
    if not old.node:
        return False
    if new is None or new.node != old.node:
        return True
    less = (new.accelerators, new.cpu_cores, new.memory_bytes), (old.accelerators, old.cpu_cores, old.memory_bytes)
    return any(now < before for now, before in zip(*less, strict=True))


def _without_status(state: WorkloadState) -> tuple[object, ...]:
    return state.uid, state.generation, state.deleting, state.manifest, state.error
