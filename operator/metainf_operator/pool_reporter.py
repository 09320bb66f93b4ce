"""Writes the status of AcceleratorPools: what stands, what is free, the price in force.

Separate from the passes over workloads: nothing is decided here.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from metainf_operator.api_errors import NotFoundError
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.ledger import WorkloadKey
from metainf_operator.resources import ACCELERATOR_POOL
from metainf_operator.status import pool_status
from metainf_operator.world import World

__all__ = ["PoolKey", "PoolReporter"]

_NOBODY = WorkloadKey("", "")


@dataclass(frozen=True, slots=True, order=True)
class PoolKey:
    """Name of an AcceleratorPool."""

    name: str

    def __str__(self) -> str:
        return self.name


class PoolReporter:
    """Reports on pools, where the report differs from what stands."""

    def __init__(self, cluster: ClusterApi, world: World, *, now: Callable[[], datetime]) -> None:
        self.cluster = cluster
        self.world = world
        self._now = now

    async def reconcile(self, key: PoolKey) -> None:
        """One pass over one pool."""
        state = self.world.pools.get(key.name)
        if state is None:
            return
        inventory = self.world.inventory
        now = self._now()
        free = next((p for p in self.world.pools_for(_NOBODY, now) if p.name == key.name), None)
        overlapping = {name for pair in inventory.overlapping if key.name in pair for name in pair} - {key.name}
        errors = [p for p in inventory.problems if p.startswith(f"AcceleratorPool {key.name}:")]
        before = json.loads(state.status_json)
        status = pool_status(
            inventory.get(key.name),
            free,
            state.error or (errors[0] if errors else None),
            tuple(sorted(overlapping)),
            before,
            generation=state.generation,
            now=now,
        )
        if status == before:
            return
        manifest = {
            "apiVersion": ACCELERATOR_POOL.api_version,
            "kind": ACCELERATOR_POOL.kind,
            "metadata": {"name": key.name},
            "status": status,
        }
        try:
            await self.cluster.apply_status(ACCELERATOR_POOL, manifest)
        except NotFoundError:
            return
