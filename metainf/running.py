"""What runs already: judged by what it breaks, and not by the rules for those who come.

Separate from `candidates`, which says what may be started now. A pod that has its node keeps its room whoever else
wants it, a taint with the effect NoSchedule sends nobody away, and an engine that answers has the memory that it needs,
whatever is estimated of it. Where one of these alone stands against the candidate in force, it is no reason to leave
what serves. All else holds for it as for any other: what the user allows, the price, the budget and the SLO.

Not so for a conflict of method, layout or number format: of what an engine cannot do nothing can be predicted.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from metainf.architecture import ModelArchitecture
from metainf.candidates import Candidate, CandidateName, Enumeration, Option, enumerate_candidates
from metainf.placement import ReplicaRequest, Room, evicting_taints, room_for
from metainf.pools import Billing, NodeCapacity, NodePool
from metainf.rejections import Rejection, RejectionReason
from metainf.workload import ReplicaLimits, Toleration, Workload

__all__ = ["Running", "running_candidate", "why_not_anew"]

_BOUNDLESS = NodeCapacity("", 1 << 20, 1e9, 1 << 60)
"""A node that has room for whatever runs: larger than any machine, and finite."""
_MORE_MEMORY_RATIO = 1.03
"""Beyond what is missing: the margin that `memory` asks for is a fiftieth of the memory, so that it grows with it."""
_MOST_ROUNDS = 3
"""So does what the runtime takes: where much is missing, once more."""


@dataclass(frozen=True, slots=True)
class Running:
    """What is seen of the pods of the candidate in force.

    `request` is what a replica takes of its node, `tolerations` what its pods tolerate. `placed`: each of its replicas
    has a node of the pool, so that none has to find one. `answers`: they were made for what is asked now, and any of
    them is ready, or all were once: their memory is enough for that.
    """

    name: CandidateName
    request: ReplicaRequest
    placed: bool
    answers: bool
    tolerations: tuple[Toleration, ...] = ()


def running_candidate(
    workload: Workload,
    architecture: ModelArchitecture,
    pools: Sequence[NodePool],
    running: Running,
    *,
    engine_version: str,
) -> Candidate | None:
    """The candidate in force on the room that it has; None where it is really gone, or not what the user allows."""
    pool = next((p for p in pools if p.name == running.name.pool), None)
    if pool is None or evicting_taints(pool, workload.placement, running.tolerations):
        return None
    limits = workload.replicas
    if limits.fixed is None and running.name.replicas < limits.minimum:
        return None
    asked = replace(workload, replicas=ReplicaLimits())
    opened = replace(pool, taints=(), nodes=(_BOUNDLESS,), addable_nodes=0) if running.placed else pool
    found = enumerate_candidates(asked, architecture, (opened,), engine_version=engine_version, only=running.name)
    for _ in range(_MOST_ROUNDS if running.answers else 0):
        if found.options or (short := _memory_short(found)) is None:
            break
        memory = math.ceil(opened.accelerator.memory_bytes * (1.0 + short) * _MORE_MEMORY_RATIO)
        opened = replace(opened, accelerator=replace(pool.accelerator, memory_bytes=memory))
        found = enumerate_candidates(asked, architecture, (opened,), engine_version=engine_version, only=running.name)
    if not found.options:
        return None
    sized = found.options[0]
    return _as_it_stands(sized.option, pool, running) if running.placed else sized.with_replicas(running.name.replicas)


def _memory_short(found: Enumeration) -> float | None:
    """Missing memory as a share of what there is; None where it is not memory that stands against the candidate."""
    reasons = {rejection.reason: rejection.shortfall for rejection in found.rejections}
    return reasons.get(RejectionReason.MEMORY_TOO_SMALL)


def _as_it_stands(option: Option, pool: NodePool, running: Running) -> Candidate:
    """The option with what its replicas take, priced, those included that the pool shows no room for.

    They have their nodes, so that each costs its share of one, as when it came. Where whole nodes are billed, what is
    not known to be cheaper must not pass for it: they count as on nodes of their own.
    """
    replicas, request = running.name.replicas, running.request
    room = room_for(pool, request)
    if pool.billing is Billing.NODE and (missing := replicas - room.replicas) > 0:
        more = replace(pool, addable_nodes=pool.addable_nodes + missing)
        room = Room(more, room.standing, room.on_standing, max(1, room.per_added_node), room.share)
    elif pool.billing is Billing.SHARE and (missing := replicas - room.on_standing) > 0:
        room = Room(pool, (*room.standing, *[1] * missing), replicas, room.per_added_node, room.share)
    held = replace(option, pool=pool, request=request, room=room)
    return Candidate(held, replicas, room.cost_per_hour(replicas))


def why_not_anew(candidate: Candidate, rejections: Iterable[Rejection]) -> Rejection:
    """Why the candidate, which runs, could not be started now, from what stands against those who come."""
    name = candidate.name
    for rejection in rejections:
        of_it = rejection.method in (None, name.method) and rejection.layout in (None, name.layout)
        if rejection.pool == name.pool and of_it:
            return rejection
    detail = f"{name.pool} has no room for {name.replicas} new replica{'s' if name.replicas > 1 else ''} of it"
    return Rejection(RejectionReason.NO_CAPACITY, name.pool, detail, name.layout, name.method, name.replicas)
