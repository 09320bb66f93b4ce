"""Which nodes the template of a standing Deployment names, and when they are written anew.

Separate from the roller, which applies what comes out. Nodes come and go with every move of an autoscaler, and prices
with every look at them. Each changes which names tell a pool from others that carry its labels, and a template that
changes restarts every pod. So the names that a template has stand: where none are needed any more, where new nodes
came, and where old ones went, since a node that is gone harms nobody.
"""

from dataclasses import replace

from metainf.placement import max_replicas
from metainf_operator.children import Serving
from metainf_operator.projections import ChildState
from metainf_operator.world import WorkloadState, World

__all__ = ["as_template", "room_for_serving"]


def as_template(world: World, state: WorkloadState, serving: Serving, standing: ChildState, replicas: int) -> Serving:
    """The serving with the nodes that the standing Deployment's template names, and packed as that is.

    Written anew where nothing runs, so that nobody is restarted; where a pod runs on a node of another pool, which is
    paid for otherwise, and the pool has room for all; and where a replica has no node, and none of those named has room
    for it while the pool has.
    """
    if standing.deployment is None or standing.deployment.replicas == 0:
        return serving
    kept = replace(serving, hostnames=standing.hostnames, packed=standing.packed)
    if standing.hostnames == serving.hostnames:
        return kept
    elsewhere = room_for_serving(world, state, serving)
    # Room that others have reserved meanwhile is not missed by pods that have theirs.
    lacking = _bound(world, state, standing) < replicas and room_for_serving(world, state, kept) < min(
        replicas, elsewhere
    )
    called_back = elsewhere >= replicas and _strays(world, state, serving, standing)
    return serving if lacking or called_back else kept


def _bound(world: World, state: WorkloadState, standing: ChildState) -> int:
    """Pods of the Deployment that have a node."""
    return sum(
        use.workload == state.key and use.serving == standing.serving and bool(use.node) and not use.terminating
        for use in world.pods.values()
    )


def _strays(world: World, state: WorkloadState, serving: Serving, standing: ChildState) -> bool:
    """Whether a pod of the Deployment runs on a node that is there and not of the pool."""
    record = world.pool_of(state.key, serving.pool)
    return record is not None and any(
        use.workload == state.key and use.serving == standing.serving and use.node not in record.members
        for use in world.pods.values()
        if not use.terminating and use.node in world.nodes
    )


def room_for_serving(world: World, state: WorkloadState, serving: Serving) -> int:
    """Replicas that have room now on the nodes that the pods may go to; what the workload itself holds counts."""
    pool = next((p for p in world.pools_for(state.key, state.created_at) if p.name == serving.pool), None)
    if pool is None:
        return 0
    if serving.hostnames:
        named = frozenset(serving.hostnames)
        hosts = {node.name for node in world.nodes.values() if node.hostname in named}
        pool = replace(pool, nodes=tuple(node for node in pool.nodes if node.name in hosts))
    return max_replicas(pool, serving.request)
