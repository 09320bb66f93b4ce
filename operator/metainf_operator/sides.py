"""What of a workload runs now: its Deployments, what they cost today, and what a new one would find beside them.

Separate from `roller`, which acts: a pass asks for the same figures to say what a batch has cost, and whether a switch
is worth beginning. Reads records, and decides nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from metainf.manifests import Chosen, InferenceWorkload
from metainf.pools import Price
from metainf.workload import BatchLoad, RateLoad, Traffic
from metainf_operator.accrual import Accrued, accrue
from metainf_operator.children import startup_s
from metainf_operator.ledger import WorkloadKey
from metainf_operator.projections import ChildState
from metainf_operator.records import Records
from metainf_operator.rollout import ObservedDeployment
from metainf_operator.settings import OperatorSettings
from metainf_operator.switch_room import SwitchRoom
from metainf_operator.world import WorkloadState, World

__all__ = ["Side", "Sides", "cost_today"]


@dataclass(frozen=True, slots=True)
class Side:
    """One Deployment that runs; `answers` where any of its replicas is ready.

    `per_hour` is what it costs at today's price, `decided_per_hour` at that of its record, `tokens_per_s` the output
    tokens that it was predicted to give at least; None where its record does not say, or is gone.
    """

    name: str
    answers: bool
    per_hour: Decimal | None = None
    decided_per_hour: Decimal | None = None
    tokens_per_s: Decimal | None = None


def cost_today(chosen: Chosen, then: Price | None, today: Price | None) -> Decimal:
    """What a candidate costs per hour now: as recorded, times what its pool's price did since.

    Not priced anew, which would take a node that was added for it, and is paid for it whole, for a share. Where a price
    is not known, what was recorded stands: unknown is never free.
    """
    if then is None or today is None or then.currency != today.currency or then.per_hour <= 0:
        return chosen.cost_per_hour
    return chosen.cost_per_hour * today.per_hour / then.per_hour


class Sides:
    """Looks at what runs. Keeps nothing."""

    def __init__(self, world: World, records: Records, settings: OperatorSettings) -> None:
        self.world = world
        self.records = records
        self.settings = settings

    async def running(self, state: WorkloadState, *, but: str = "") -> tuple[Side, ...]:
        """The workload's Deployments that have replicas; `but` is the name of one to leave out."""
        children = self.world.children(state.key, self.world.deployments, state.uid)
        found: list[Side] = []
        for child in children:
            if child.name != but and child.deployment is not None and child.deployment.replicas > 0:
                found.append(await self._side(state.key, child, child.deployment))
        return tuple(found)

    async def _side(self, key: WorkloadKey, child: ChildState, deployment: ObservedDeployment) -> Side:
        answers = deployment.available > 0
        record = None if child.decision is None else self.world.decisions.get((child.namespace, child.decision))
        decision = None if record is None else await self.records.read(record)
        if decision is None or decision.chosen is None:
            return Side(child.name, answers)
        chosen = decision.chosen
        pool = self.world.pool_of(key, chosen.candidate.pool)
        today = None if pool is None else pool.pool.price
        tokens = dict(chosen.predicted).get("outputTokensPerSecond")
        return Side(
            child.name,
            answers,
            cost_today(chosen, dict(decision.prices).get(chosen.candidate.pool), today),
            chosen.cost_per_hour,
            None if tokens is None else tokens.low,
        )

    async def accrued(self, state: WorkloadState, now: datetime) -> Accrued | None:
        """What a batch has cost so far; None for what is no batch, or cannot be read."""
        workload = state.manifest
        if workload is None or not isinstance(workload.workload.traffic.load, BatchLoad):
            return None
        sides = await self.running(state)
        ready = any(side.answers for side in sides)
        return accrue(state.status.get("observed") or {}, [side.per_hour for side in sides], ready=ready, now=now)

    async def switch_room(
        self,
        state: WorkloadState,
        workload: InferenceWorkload,
        weight_bytes: float,
        accrued: Accrued | None,
        *,
        but: str = "",
    ) -> SwitchRoom | None:
        """What a new side would find beside all that runs, `but` left out; None where nothing does."""
        sides = await self.running(state, but=but)
        if not sides:
            return None
        return SwitchRoom(
            pools=self.world.pools_for(state.key, state.created_at, own_pods_count=True),
            budget=workload.workload.budget,
            startup=timedelta(seconds=startup_s(workload, weight_bytes)),
            per_hour=_total(side.per_hour for side in sides),
            decided_per_hour=_total(side.decided_per_hour for side in sides),
            tokens_per_hour=_tokens_per_hour(workload.workload.traffic, sides),
            spent=Decimal(0) if accrued is None else accrued.amount,
            own_nodes=frozenset(use.node for use in self.world.pods.values() if use.workload == state.key),
            answers=any(side.answers for side in sides),
            turn=self.turn(state.key),
        )

    def turn(self, key: WorkloadKey) -> bool:
        """Whether the cluster-wide limit on switches at a time has room for one of this workload."""
        return self.world.switching(key) < self.settings.max_concurrent_switches


def _total(costs: Iterable[Decimal | None]) -> Decimal | None:
    """The sum; None where any of them is not known."""
    total = Decimal(0)
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return total


def _tokens_per_hour(traffic: Traffic, sides: Sequence[Side]) -> Decimal | None:
    """Output tokens that what runs gives while another starts: those that are asked of it, else those it can give."""
    if isinstance(traffic.load, RateLoad):
        return Decimal(repr(traffic.load.requests_per_second * traffic.output_tokens.mean_tokens * 3600))
    known = [side.tokens_per_s for side in sides if side.answers and side.tokens_per_s is not None]
    return max(known) * 3600 if known else None
