"""Takes the operator's decision for one workload, on a picture of the cluster, and writes nothing.

Separate from the subcommand, which reads files and prints. The steps are those of the operator's own pass: what is
asked, what a batch has cost, what is free, selection, what to do about it; each by the operator's own code. What only
the operator knows is left out: the traffic that it sees right now, and its images.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from metainf.binding_limits import BindingLimit
from metainf.cli.console import note
from metainf.errors import HubError, InvalidWorkloadError, MetaInfError
from metainf.manifests import InferenceWorkload, ObservedTraffic, TrafficSource
from metainf.planning import Plan
from metainf.predictors.contract import Predictor
from metainf.switching import MoveReason
from metainf_operator.accrual import overspent
from metainf_operator.api_errors import ClusterError
from metainf_operator.choosing import Chooser
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.conditions import Fault
from metainf_operator.models import Models
from metainf_operator.observed_traffic import traffic_in_use
from metainf_operator.reconcile import Activate, Choice, Hold, Idle, Propose, Refuse, Stop
from metainf_operator.records import Records
from metainf_operator.reservations import reserve
from metainf_operator.settings import OperatorSettings
from metainf_operator.sides import Sides
from metainf_operator.understanding import TroubleError, understand
from metainf_operator.world import DecisionState, WorkloadState, World

__all__ = ["Planner", "Proposal"]


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """What the operator would decide, and what it would do about it.

    `overspent`: a batch that has cost its budget, whatever would be chosen for it.
    """

    made: Plan
    choice: Choice
    active: DecisionState | None
    overspent: bool = False

    @property
    def plan(self) -> Plan:
        """The plan that would be recorded; the selection itself where nothing would be."""
        return self.made if isinstance(self.choice, Hold | Idle) else self.choice.plan

    @property
    def serves(self) -> bool:
        """Whether a candidate is there to run: nothing is refused, and nothing stopped."""
        return self.plan.chosen is not None and not isinstance(self.choice, Stop)

    @property
    def action(self) -> str:
        """What the operator would do, in one sentence."""
        runs = self.active is not None and self.active.holds and self.active.head.choice is not None
        running = str(self.active.head.choice) if self.active is not None and runs else ""
        match self.choice:
            case Activate(reason=MoveReason.NOTHING_RUNS):
                return "starts it: nothing runs for this workload now"
            case Activate():
                return f"replaces {running}: {_why(self.choice)}"
            case Hold(message=message):
                return f"keeps {running}" + (f": {message}" if message else ", which is the best")
            case Propose():
                keeps = f"; {running} goes on" if runs else ""
                return f"records it as a proposal and waits for approval by kubectl metainf pin{keeps}"
            case Refuse():
                return "records the refusal and starts nothing"
            case Stop() if not runs:
                return "starts nothing: the batch has cost its budget"
            case Stop():
                broken = "the batch has cost its budget" if self.overspent else "it breaks a limit"
                return f"stops {running}: {broken} and policy.onViolation is Stop"
            case Idle():
                return "starts nothing: suspend is true or scaling.replicas is 0"


def _why(choice: Activate) -> str:
    return {
        MoveReason.LIMIT_BROKEN: "it breaks a limit today",
        MoveReason.GONE: "its pool or its layout is there no more",
        MoveReason.SCALED: "scaling asks for another number of replicas",
        MoveReason.PINNED: "the pin asks for another",
        MoveReason.ASKED: "the spec asks for other pods",
        MoveReason.BETTER: f"it gains {choice.gain_ratio:.0%}",
    }.get(choice.reason, "another is chosen")


class Planner:
    """Plans one workload after the other; each counts on what those before it would take."""

    def __init__(
        self,
        cluster: ClusterApi,
        world: World,
        predictor: Predictor,
        settings: OperatorSettings,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self.cluster = cluster
        self.world = world
        self.settings = settings
        self.models = Models(cluster, hub=settings.hub)
        self.records = Records(cluster, world, now=now, mends=False)
        self.sides = Sides(world, self.records, settings)
        self.chooser = Chooser(self.sides, predictor, now=now)
        self._now = now

    async def propose(self, state: WorkloadState) -> Proposal:
        """The operator's decision for the workload.

        Raises
        ------
        InvalidWorkloadError
            The spec cannot be right; the operator would say so in the condition Accepted.
        HubError
            The model hub does not answer, and nothing else knows the model.
        """
        await self._claim_for_those_before(state)
        found = await self._decide(state)
        reserve(self.world, state, found.choice)
        return found

    async def _decide(self, state: WorkloadState) -> Proposal:
        try:
            return await self._chosen(state)
        except TroubleError as trouble:
            error: type[MetaInfError] = HubError if trouble.fault is Fault.HUB_UNREACHABLE else InvalidWorkloadError
            raise error(str(trouble)) from trouble

    async def _chosen(self, state: WorkloadState) -> Proposal:
        accrued = await self.sides.accrued(state, self._now())
        understood = await understand(state, self.world, self.models, self.cluster, resync_s=self.settings.resync_s)
        workload = understood.workload
        active = self.world.active_decision(state.key, state.uid) if state.uid else None
        understood = replace(understood, observed=await self._observed(workload, active))
        served = await self.chooser.served(understood, active)
        made, choice = await self.chooser.choose(state, understood, active, accrued, served=served)
        return Proposal(made, choice, active, overspent(workload.workload.budget, accrued))

    async def _observed(self, workload: InferenceWorkload, active: DecisionState | None) -> ObservedTraffic | None:
        """The seen traffic that the decision in force rests on; what is seen right now only the operator knows."""
        if workload.policy.traffic is not TrafficSource.OBSERVED or active is None:
            return None
        decision = await self.records.read(active)
        recorded = None if decision is None else decision.inputs.observed
        return traffic_in_use(workload.workload.traffic, recorded, None, window_s=0.0, runs=active.holds)

    async def _claim_for_those_before(self, state: WorkloadState) -> None:
        """Who came before and waits for room takes it first; the operator keeps these claims in memory."""
        turn = (state.created_at, state.key)
        for other in sorted(self.world.workloads.values(), key=lambda s: (s.created_at, s.key)):
            if (other.created_at, other.key) >= turn or other.key in self.world.waiting or not self._waits(other):
                continue
            try:
                choice = (await self._decide(other)).choice
            except (MetaInfError, ClusterError) as error:
                note(f"{other.key} waits for room before this one and cannot be counted: {error}")
                continue
            reserve(self.world, other, choice)

    def _waits(self, state: WorkloadState) -> bool:
        if state.deleting or state.manifest is None:
            return False
        active = self.world.active_decision(state.key, state.uid)
        reasons = {c.get("type"): c.get("reason") for c in state.status.get("conditions") or ()}
        return (active is None or not active.holds) and reasons.get("Feasible") == BindingLimit.NO_CAPACITY
