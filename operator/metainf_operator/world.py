"""What the operator knows of the cluster: caches, and the questions that passes ask of them.

Separate from the handlers that fill it and the passes that read it; what is kept of each object is in `states`, and
goes by its name here too. Everything in it can be read again from the API server: a new leader starts from the same
world.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from metainf.pools import NodePool
from metainf_operator.inventory import Inventory, OpenCostPrices, PoolRecord, take_inventory
from metainf_operator.ledger import Hold, NodeUse, PodUse, WorkloadKey, node_use, pool_for_workload, still_to_bind
from metainf_operator.places import PLACE_KEPT, goes_before
from metainf_operator.projections import ChildState, NodeFacts
from metainf_operator.rollout import PodTrouble
from metainf_operator.selected_nodes import Selector, matching_nodes, of_these_nodes
from metainf_operator.states import EPOCH, DecisionState, ObjectKey, PoolState, WorkloadState
from metainf_operator.store import Store

__all__ = ["DecisionState", "ObjectKey", "PoolState", "WorkloadState", "World"]


def _is_switching(children: Iterable[ChildState]) -> bool:
    """Whether of these Deployments more than one serves or may still come to, or one replaces its pods in place."""
    found = [child.deployment for child in children]
    under_way = sum(each is None or (each.replicas > 0 and not each.deadline_exceeded) for each in found)
    return under_way > 1 or any(each is not None and each.rolling for each in found)


def _is_recent(hold: Hold, now: datetime) -> bool:
    """Whether it was put in force so lately that its pods may still be on their way, or is about to be."""
    return hold.since is None or now - hold.since < PLACE_KEPT


class World:
    """The caches. Filled by watch events and listings, read by passes; belongs to one event loop."""

    def __init__(self) -> None:
        self.workloads: Store[WorkloadKey, WorkloadState] = Store("inferenceworkloads")
        self.pools: Store[str, PoolState] = Store("acceleratorpools")
        self.nodes: Store[str, NodeFacts] = Store("nodes")
        self.pods: Store[ObjectKey, PodUse] = Store("pods")
        self.deployments: Store[ObjectKey, ChildState] = Store("deployments")
        self.services: Store[ObjectKey, ChildState] = Store("services")
        self.budgets: Store[ObjectKey, ChildState] = Store("poddisruptionbudgets")
        self.decisions: Store[ObjectKey, DecisionState] = Store("inferencedecisions")
        self.opencost: OpenCostPrices = {}
        self.waiting: dict[WorkloadKey, Hold] = {}
        self.reserving: dict[WorkloadKey, Hold] = {}
        self.held_back: set[WorkloadKey] = set()
        """Who would be decided otherwise if there were more room, and claims none."""
        self._inventory: Inventory | None = None
        self._taken: Inventory | None = None
        self.inventory_version = 0
        self._fixed: tuple[NodePool, ...] | None = None
        self._matching: dict[tuple[Selector, str], frozenset[str] | None] = {}
        self._on_node: dict[str, dict[ObjectKey, PodUse]] = {}
        self._node_of: dict[WorkloadKey, dict[ObjectKey, str]] = {}
        self._uses: dict[str, NodeUse] = {}
        self._stale_nodes: set[str] = set()
        self._troubled: dict[WorkloadKey, dict[ObjectKey, PodTrouble]] = {}
        self._held: dict[WorkloadKey, tuple[Hold, ...]] = {}
        self._children: dict[WorkloadKey, dict[str, dict[ObjectKey, ChildState]]] = {}
        self._decided: dict[WorkloadKey, dict[str, DecisionState]] = {}
        for store in (self.deployments, self.services, self.budgets):
            store.listen(self._index_child(store.name))
        self.decisions.listen(self._index_decision)
        self.workloads.listen(self._index_workload)
        self.pods.listen(self._index_pod)

    @property
    def stores(self) -> tuple[Store[Any, Any], ...]:
        """All caches."""
        return (
            self.workloads,
            self.pools,
            self.nodes,
            self.pods,
            self.deployments,
            self.services,
            self.budgets,
            self.decisions,
        )

    @property
    def synced(self) -> bool:
        """Whether each cache has seen a full listing: nothing is decided before."""
        return all(store.synced.is_set() for store in self.stores)

    def _index_child(self, kind: str) -> Any:
        def changed(key: ObjectKey, old: ChildState | None, new: ChildState | None) -> None:
            for state in (old, new):
                if state is not None and state.workload:
                    owner = WorkloadKey(state.namespace, state.workload)
                    mine = self._children.setdefault(owner, {}).setdefault(kind, {})
                    mine.pop(key, None)
            if new is not None and new.workload:
                self._children[WorkloadKey(new.namespace, new.workload)][kind][key] = new

        return changed

    def _index_workload(self, key: WorkloadKey, old: WorkloadState | None, new: WorkloadState | None) -> None:
        self._held.pop(key, None)

    def _index_decision(self, key: ObjectKey, old: DecisionState | None, new: DecisionState | None) -> None:
        for state in (old, new):
            if state is not None:
                owner = WorkloadKey(key[0], state.head.workload)
                self._decided.setdefault(owner, {}).pop(key[1], None)
                self._held.pop(owner, None)
                if new is None and not self._decided[owner]:
                    del self._decided[owner]
        if new is not None:
            self._decided.setdefault(WorkloadKey(key[0], new.head.workload), {})[key[1]] = new

    def _index_pod(self, key: ObjectKey, old: PodUse | None, new: PodUse | None) -> None:
        for use in (old, new):
            if use is not None and use.workload is not None and use.trouble is not None:
                self._troubled.setdefault(use.workload, {}).pop(key, None)
        if new is not None and new.workload is not None and new.trouble is not None:
            self._troubled[new.workload][key] = new.trouble
        if old is not None:
            self._on_node.get(old.node, {}).pop(key, None)
            self._stale_nodes.add(old.node)
            if old.workload is not None and (mine := self._node_of.get(old.workload)) is not None:
                mine.pop(key, None)
                if not mine:
                    del self._node_of[old.workload]
        if new is not None:
            self._on_node.setdefault(new.node, {})[key] = new
            self._stale_nodes.add(new.node)
            if new.workload is not None and new.node:
                self._node_of.setdefault(new.workload, {})[key] = new.node

    def _node_uses(self) -> dict[str, NodeUse]:
        """What runs on each node, added up anew only where a pod came, went or changed."""
        for name in self._stale_nodes:
            pods = self._on_node.get(name)
            if pods:
                self._uses[name] = node_use(pods.values())
            else:
                self._on_node.pop(name, None)
                self._uses.pop(name, None)
        self._stale_nodes.clear()
        return self._uses

    def inventory_changed(self) -> None:
        """Nodes, pools or prices moved: the next question takes stock anew."""
        self._inventory = None
        self._matching.clear()

    def use_fixed_pools(self, pools: tuple[NodePool, ...]) -> None:
        """Take these pools for all there are: where nodes may not be read."""
        if pools != self._fixed:
            self._fixed = pools
            self.inventory_changed()

    @property
    def inventory(self) -> Inventory:
        """The pools as they are now; taken once for each burst of changes, and the same while it is equal."""
        if self._inventory is None:
            taken = self._take_stock()
            if taken != self._taken:
                self._taken = taken
                self.inventory_version += 1
            self._inventory = self._taken
        if self._inventory is None:
            raise AssertionError("stock was taken just now")
        return self._inventory

    def pool_of(self, key: WorkloadKey, name: str) -> PoolRecord | None:
        """The pool that the workload knows by this name; None where there is none any more.

        That is the one that is called so, or, where none is, that of those which may have been called so that most of
        the workload's pods run in: what has none there was put in none of them for all that is seen.
        """
        found = self.inventory.get(name)
        mine = self._node_of.get(key)
        if found is not None or mine is None:
            return found
        counts = [(sum(node in r.members for node in mine.values()), r) for r in self.inventory.formerly(name)]
        most, record = max(counts, key=lambda each: each[0], default=(0, None))
        return record if most else None

    def _take_stock(self) -> Inventory:
        if self._fixed is not None:
            records = (PoolRecord(pool, frozenset(), declared=True) for pool in self._fixed)
            return Inventory(tuple(sorted(records, key=lambda r: r.pool.name)))
        declared = [state.pool for state in self.pools.values() if state.pool is not None]
        return take_inventory(self.nodes.values(), declared, self.opencost)

    def children(self, key: WorkloadKey, store: Store[ObjectKey, ChildState], uid: str) -> tuple[ChildState, ...]:
        """The workload's own children of one kind, by name; those of an earlier workload of its name left out."""
        mine = self._children.get(key, {}).get(store.name, {})
        return tuple(sorted((c for c in mine.values() if c.owner_uid == uid), key=lambda c: c.name))

    def decisions_of(self, key: WorkloadKey, uid: str) -> tuple[DecisionState, ...]:
        """The workload's decisions, the latest first."""
        mine = [d for d in self._decided.get(key, {}).values() if d.head.owner_uid == uid]
        return tuple(sorted(mine, key=lambda d: (d.head.created_at or EPOCH, d.head.name), reverse=True))

    def active_decision(self, key: WorkloadKey, uid: str) -> DecisionState | None:
        """The decision in force: the one that was activated last. Suspended, it is in force and holds nothing."""
        active = [d for d in self.decisions_of(key, uid) if d.activated_at is not None]
        return max(active, key=lambda d: (d.activated_at or EPOCH, d.head.name), default=None)

    def holds(self) -> list[Hold]:
        """All reservations, and the claims of those who wait."""
        found: list[Hold] = list(self.reserving.values())
        for owner in self._decided:
            if owner not in self.reserving:
                found.extend(self._holds_of(owner))
        found.extend(hold for hold in self.waiting.values() if self.workloads.get(hold.workload) is not None)
        return found

    def held_by(self, key: WorkloadKey) -> list[Hold]:
        """What one workload has reserved, and what it waits for."""
        reserving, waiting = self.reserving.get(key), self.waiting.get(key)
        found = list(self._holds_of(key)) if reserving is None else [reserving]
        return found if waiting is None else [*found, waiting]

    def _holds_of(self, owner: WorkloadKey) -> tuple[Hold, ...]:
        """What the workload's records reserve, worked out anew only where it or one of them changed."""
        held = self._held.get(owner)
        if held is None:
            workload = self.workloads.get(owner)
            reserved = [] if workload is None else self.decisions_of(owner, workload.uid)
            held = self._held[owner] = tuple(
                Hold(owner, workload.created_at, kept.pool, kept.request, kept.replicas, since=decision.activated_at)
                for decision in reserved
                if workload is not None and decision.holds and (kept := decision.head.reservation) is not None
            )
        return held

    def _standing(self, key: WorkloadKey, created_at: datetime) -> list[Hold]:
        """What the workload's Deployments hold by their records: for pools whose nodes, and so pods, are not seen."""
        found: list[Hold] = []
        for child in self._children.get(key, {}).get(self.deployments.name, {}).values():
            record = None if child.decision is None else self.decisions.get((key.namespace, child.decision))
            kept = None if record is None else record.head.reservation
            if kept is not None and child.deployment is not None:
                another = WorkloadKey(key.namespace, child.name)  # its own holds would count as free
                found.append(Hold(another, created_at, kept.pool, kept.request, child.deployment.replicas))
        return found

    def pools_for(
        self, key: WorkloadKey, created_at: datetime, *, own_pods_count: bool = False
    ) -> tuple[NodePool, ...]:
        """Every pool with what is free for this workload, of the nodes that it selects.

        Each goes by the name that the workload's own record has.
        """
        known_as = self.known_as(key)
        own = self._standing(key, created_at) if own_pods_count and self._fixed is not None else []
        by_pool = self._by_pool((*self.holds(), *own))
        uses = self._node_uses()
        pools = []
        for record in self.inventory.pools:
            selected = self._selected(key, record)
            free = pool_for_workload(
                record.pool,
                uses,
                [self._on_its_nodes(hold, record) for hold in by_pool.get(record.pool.name, ())],
                key,
                created_at=created_at,
                own_pods_count=own_pods_count,
                members=record.members,
                names=selected,
            )
            free = of_these_nodes(free, self._selector(key), selected)
            name = known_as.get(free.name, free.name)
            pools.append(free if name == free.name else replace(free, name=name))
        return tuple(pools)

    def _by_pool(self, holds: Iterable[Hold]) -> dict[str, list[Hold]]:
        """The holds by the names that their pools have today."""
        found: dict[str, list[Hold]] = {}
        names = {record.pool.name for record in self.inventory.pools}
        for hold in holds:
            today = None if hold.pool in names else self.pool_of(hold.workload, hold.pool)
            held = hold if today is None else replace(hold, pool=today.pool.name)
            found.setdefault(held.pool, []).append(held)
        return found

    def _still_to_bind(self, record: PoolRecord, by_pool: Mapping[str, list[Hold]]) -> list[Hold]:
        """What of the pool is reserved and has no pods yet, each with the nodes that it may go to."""
        holds = [self._on_its_nodes(hold, record) for hold in by_pool.get(record.pool.name, ())]
        return still_to_bind(record.pool, self._node_uses(), holds, record.members)

    def goes_before(self, key: WorkloadKey, pool: str, replicas: int, now: datetime) -> Hold | None:
        """Whose pods are to have their nodes before so many new ones of the workload are started; None where nobody's.

        By what the workload has reserved in the pool, as it calls that.
        """
        if replicas <= 0 or not self._others_select(key):
            return None
        record = self.pool_of(key, pool)
        mine = next((hold for hold in self._holds_of(key) if hold.pool == pool), None)
        if record is None or mine is None:
            return None
        unmet = self._still_to_bind(record, self._by_pool(self.holds()))
        asks = self._on_its_nodes(replace(mine, replicas=replicas), record)
        return goes_before(record.pool.nodes, self._node_uses(), unmet, asks, now=now)

    def awaited(self, key: WorkloadKey, now: datetime) -> frozenset[str]:
        """Pools, as the workload calls them, in which others have selected nodes of late and have no pods there yet."""
        if not self._others_select(key):
            return frozenset()
        known_as, by_pool = self.known_as(key), self._by_pool(self.holds())
        return frozenset(
            known_as.get(record.pool.name, record.pool.name)
            for record in self.inventory.pools
            if any(
                hold.nodes is not None and hold.workload != key and _is_recent(hold, now)
                for hold in self._still_to_bind(record, by_pool)
            )
        )

    def _others_select(self, key: WorkloadKey) -> bool:
        """Whether anybody else asks for nodes with certain labels: else nobody is to go before anybody."""
        return any(state.node_selector for state in self.workloads.values() if state.key != key)

    def known_as(self, key: WorkloadKey) -> dict[str, str]:
        """Pools of today that the workload has reserved in by a name that they had, with that name."""
        held = {hold.pool for hold in self.held_by(key) if not hold.waiting}
        found = ((self.pool_of(key, name), name) for name in sorted(held))
        return {record.pool.name: name for record, name in found if record is not None and record.pool.name != name}

    def _selector(self, key: WorkloadKey) -> Selector:
        state = self.workloads.get(key)
        return () if state is None else state.node_selector

    def _selected(self, key: WorkloadKey, record: PoolRecord) -> frozenset[str] | None:
        """Names of the pool's nodes that the workload selects; None where it stays whole. Kept while nodes stay."""
        selector = self._selector(key)
        if not selector:
            return None
        question = (selector, record.pool.name)
        if question not in self._matching:
            self._matching[question] = matching_nodes(record, selector, self.nodes.get)
        return self._matching[question]

    def _on_its_nodes(self, hold: Hold, record: PoolRecord) -> Hold:
        """The hold with the nodes that it may go to; any, where none is known that has the labels, so that it stays."""
        nodes = self._selected(hold.workload, record)
        return hold if nodes is None else replace(hold, nodes=nodes)

    def pods_in(self, key: WorkloadKey, record: PoolRecord) -> Iterator[PodUse]:
        """The workload's pods on the pool's nodes; all that have a node, where it is not seen which are the pool's."""
        for pod, node in self._node_of.get(key, {}).items():
            use = self.pods.get(pod)
            if use is not None and (self._fixed is not None or node in record.members):
                yield use

    def troubles(self, key: WorkloadKey, serving: str) -> tuple[PodTrouble, ...]:
        """What keeps pods of one serving of the workload from serving, by pod."""
        mine = self._troubled.get(key, {})
        return tuple(mine[pod] for pod in sorted(mine) if mine[pod].serving == serving)

    def room_comes(self, key: WorkloadKey, pool: str, uid: str) -> bool:
        """Whether pods that no Deployment of the workload keeps any more still take room on the pool's nodes.

        Those that were told to go, and those of a Deployment that is gone and were not told yet. Only on nodes that
        pods may go to: a lost node never says that its pods are gone.
        """
        record = self.pool_of(key, pool)
        kept = {c.serving for c in self.children(key, self.deployments, uid) if not c.terminating}
        return record is not None and any(
            use.workload == key and (use.terminating or use.serving not in kept)
            for node in record.pool.nodes
            for use in self._on_node.get(node.name, {}).values()
        )

    def switching(self, but: WorkloadKey | None = None) -> int:
        """Workloads amid a switch, `but` not counted.

        Those that have more than one Deployment now, or one that is rolling. One that did not start in its time is none
        of them: a switch that failed may stand so until somebody looks after it, and must hold up nobody else's.
        """
        return sum(
            key != but and _is_switching(kinds.get(self.deployments.name, {}).values())
            for key, kinds in self._children.items()
        )

    def forget(self, key: WorkloadKey) -> None:
        """Drop what is kept about a workload beside the caches."""
        self._troubled.pop(key, None)
        self.waiting.pop(key, None)
        self.reserving.pop(key, None)
        self.held_back.discard(key)
