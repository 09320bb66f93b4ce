"""Fills the operator's own picture of the cluster once, with the rights of whoever asks.

Separate from planning on it. The feeds, the projections and the ledger are the operator's; what differs is that
nothing is watched: a listing of each kind is enough for one answer.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from metainf.cli.console import note
from metainf.pools import NodePool
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.feeds import Feed
from metainf_operator.ledger import WorkloadKey
from metainf_operator.opencost import fetch_prices
from metainf_operator.projections import project_deployment, project_node, project_pod
from metainf_operator.resources import (
    ACCELERATOR_POOL,
    DEPLOYMENT,
    INFERENCE_DECISION,
    INFERENCE_WORKLOAD,
    NODE,
    POD,
)
from metainf_operator.states import ObjectKey, project_decision, project_pool, project_workload
from metainf_operator.world import World

__all__ = ["read_namespace", "read_world"]


async def read_world(cluster: ClusterApi, opencost_url: str | None = None, *, children: bool = True) -> World:
    """The whole cluster, as the operator sees it; without `children` nothing is known of the Deployments that run."""
    world = World()
    if opencost_url is not None:
        world.opencost = await _opencost(opencost_url)
    running = [_deployments(world, ())] if children else []
    await _fill(cluster, [*_namespaced(world, ()), *running, *_of_the_cluster(world)])
    world.inventory_changed()
    return world


async def read_namespace(cluster: ClusterApi, namespace: str, pools: Sequence[NodePool]) -> World:
    """One namespace over pools that are given: for those who may not list nodes."""
    world = World()
    await _fill(cluster, [*_namespaced(world, (namespace,)), _deployments(world, (namespace,))])
    world.use_fixed_pools(tuple(pools))
    return world


async def _fill(cluster: ClusterApi, feeds: Sequence[Feed[Any, Any]]) -> None:
    """List each kind; all are waited for, so that no request is left behind when one is refused."""
    answers = await asyncio.gather(*(feed.list(cluster) for feed in feeds), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer


def _namespaced(world: World, namespaces: Sequence[str]) -> list[Feed[Any, Any]]:
    return [
        Feed(INFERENCE_WORKLOAD, world.workloads, project_workload, _workload_key, namespaces=namespaces),
        Feed(INFERENCE_DECISION, world.decisions, project_decision, _named, namespaces=namespaces, metadata_only=True),
        Feed(POD, world.pods, project_pod, _named, namespaces=namespaces),
    ]


def _deployments(world: World, namespaces: Sequence[str]) -> Feed[Any, Any]:
    """What runs, and so what a switch finds beside it."""
    return Feed(DEPLOYMENT, world.deployments, project_deployment, _named, namespaces=namespaces)


def _of_the_cluster(world: World) -> list[Feed[Any, Any]]:
    return [
        Feed(NODE, world.nodes, project_node, _name),
        Feed(ACCELERATOR_POOL, world.pools, project_pool, _name),
    ]


def _named(metadata: Mapping[str, Any]) -> ObjectKey:
    return metadata["namespace"], metadata["name"]


def _name(metadata: Mapping[str, Any]) -> str:
    return str(metadata["name"])


def _workload_key(metadata: Mapping[str, Any]) -> WorkloadKey:
    return WorkloadKey(metadata["namespace"], metadata["name"])


async def _opencost(url: str) -> Mapping[str, Any]:
    try:
        return await fetch_prices(url)
    except (OSError, ValueError) as error:
        note(f"OpenCost at {url} does not answer, so its prices are not known: {error}")
        return {}
