"""The kinds that the operator watches: what is kept of each, under which key, and from which namespaces.

Separate from `feeds`, which knows how one kind reaches its cache and none by name, and from the runtime, which says
when each is listed and who watches it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from metainf_operator.feeds import Feed
from metainf_operator.ledger import PodUse, WorkloadKey
from metainf_operator.projections import (
    ChildState,
    NodeFacts,
    project_child,
    project_deployment,
    project_node,
    project_pod,
)
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
from metainf_operator.states import (
    DecisionState,
    ObjectKey,
    PoolState,
    WorkloadState,
    project_decision,
    project_pool,
    project_workload,
)
from metainf_operator.world import World

__all__ = ["Feeds", "feeds_into"]


@dataclass(frozen=True, slots=True)
class Feeds:
    """One feed for each kind; handlers hand their events to it."""

    workloads: Feed[WorkloadKey, WorkloadState]
    pools: Feed[str, PoolState]
    nodes: Feed[str, NodeFacts]
    pods: Feed[ObjectKey, PodUse]
    deployments: Feed[ObjectKey, ChildState]
    services: Feed[ObjectKey, ChildState]
    budgets: Feed[ObjectKey, ChildState]
    decisions: Feed[ObjectKey, DecisionState]


def feeds_into(world: World, settings: OperatorSettings, *, name_freed: Callable[[ObjectKey], None]) -> Feeds:
    """The feeds of a world's caches; `name_freed` is told of every Service that goes, whoever made it."""
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


def _named(metadata: Mapping[str, Any]) -> ObjectKey:
    return metadata["namespace"], metadata["name"]
