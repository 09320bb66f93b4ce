"""Whose node new pods might take before its own pods are there: reservations of selected nodes that have no pods yet.

Separate from the ledger, which counts. That there is room for both does not say that each comes to stand where it may:
the scheduler knows no reservations, and binds a pod that may go anywhere to the one node that another workload, which
reserved before, selects. The pod of that one pends then, beside room that it cannot use. So whoever reserved later
starts no new pods as long as these, wherever they are put, might take the place of those.

Who gives way to whom is by when each was put in force, which stands in the records: nobody waits for one that waits for
it, and a new leader comes to the same answer. What is deleted, released or decided otherwise holds nothing and is
waited for by nobody. What never gets its pods, as under a quota that is full, is waited for no longer than
`PLACE_KEPT`, so that no room is lost for ever; then it is as it was before: the count holds, the place may not.

Rejected: to keep the later pods off these nodes by their template, which would have to roll once the others are bound,
or keep them off for good; to keep their workload from choosing the pool, which would send it to a dearer one for the
sake of seconds.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from metainf.placement import ReplicaRequest, node_slots
from metainf.pools import NodeCapacity
from metainf_operator.ledger import Hold, NodeUse, WorkloadKey, left_on

__all__ = ["PLACE_KEPT", "goes_before"]

PLACE_KEPT = timedelta(minutes=10)
"""How long new pods wait at most, from when their record was put in force.

Our own bound: a pod has its node seconds after its Deployment stands, and an old side that goes first is gone after its
requests are finished, two and a half minutes. What takes longer is held up by something else.
"""


def goes_before(
    nodes: Sequence[NodeCapacity],
    uses: Mapping[str, NodeUse],
    unmet: Sequence[Hold],
    mine: Hold,
    *,
    now: datetime,
) -> Hold | None:
    """The first of the reservations whose pods are to have their nodes before those of `mine` are started.

    `nodes` are those of the pool that take new pods, as they are when empty, and `uses` what runs on them. `unmet` is
    what has still to be bound of the pool's reservations, and `mine.replicas` are the pods to be started.
    """
    if mine.since is None or now - mine.since >= PLACE_KEPT:
        return None
    others = sorted((hold for hold in unmet if hold.workload != mine.workload and _precedes(hold, mine)), key=_order)
    selected = [hold for hold in others if hold.nodes is not None]
    if not selected or _has_its_own(nodes, uses, selected, mine):
        return None
    return next((hold for hold in selected if _might_lose(hold, [mine, *others], nodes, uses)), None)


def _order(hold: Hold) -> tuple[datetime, WorkloadKey]:
    return hold.since or hold.created_at, hold.workload


def _precedes(hold: Hold, mine: Hold) -> bool:
    """Whether it was put in force before; one whose record is being written comes after all others."""
    return hold.since is not None and _order(hold) < _order(mine)


def _has_its_own(
    nodes: Sequence[NodeCapacity], uses: Mapping[str, NodeUse], selected: Sequence[Hold], mine: Hold
) -> bool:
    """Whether all pods to be started have room now, and none of it on nodes that the others select."""
    free = 0
    for node in nodes:
        slots = node_slots(left_on(node, uses.get(node.name)), mine.request) if _may_use(node, mine) else 0
        if slots > 0 and any(_may_use(node, hold) for hold in selected):
            return False
        free += slots
    return free >= mine.replicas


def _might_lose(hold: Hold, others: Sequence[Hold], nodes: Sequence[NodeCapacity], uses: Mapping[str, NodeUse]) -> bool:
    """Whether the others, wherever they are put, might leave fewer places for the reservation than it has to fill."""
    own = [node for node in nodes if _may_use(node, hold)]
    places = {n.name: node_slots(left_on(n, uses.get(n.name), hold.workload), hold.request) for n in own}
    lost = 0
    for other in others:
        if other.workload != hold.workload:
            within_reach = sum(places[node.name] for node in own if _may_use(node, other))
            lost += min(within_reach, other.replicas * _most_lost(other.request, hold.request))
    return sum(places.values()) - lost < hold.replicas


def _most_lost(taken: ReplicaRequest, of: ReplicaRequest) -> int:
    """How many places of one size a pod of another takes at most."""
    pairs = (
        (taken.accelerators, of.accelerators),
        (taken.cpu_cores, of.cpu_cores),
        (taken.memory_bytes, of.memory_bytes),
    )
    return max((math.ceil(size / place) for size, place in pairs if place > 0), default=0)


def _may_use(node: NodeCapacity, hold: Hold) -> bool:
    return hold.nodes is None or node.name in hold.nodes
