"""Takes the operator's decision for one workload, on a picture of the cluster, and writes nothing.

Separate from the subcommand, which reads files and prints. The steps are those of the operator's own pass: model,
pin, what is free, selection, what to do about it; each by the operator's own function. Whether a switch for a gain
alone has room beside what runs is only known to the operator, which then holds and says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from metainf.candidates import CandidateName
from metainf.cli.console import note
from metainf.errors import InvalidWorkloadError, MetaInfError
from metainf.manifests import InferenceWorkload, ObservedTraffic, TrafficSource, parse_decision
from metainf.planning import Plan, plan
from metainf.predictors.contract import Predictor
from metainf.selection import BindingLimit
from metainf.switching import MoveReason
from metainf_operator.api_errors import ClusterError, NotFoundError
from metainf_operator.children import SHUTDOWN_S
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.models import ConfigMapMissingError, Models
from metainf_operator.observed_traffic import traffic_in_use
from metainf_operator.pod_template import pod_template_conflicts
from metainf_operator.reconcile import Activate, Choice, Hold, Idle, Propose, Refuse, Stop, decide, serving_inputs
from metainf_operator.reservations import reserve
from metainf_operator.resources import INFERENCE_DECISION
from metainf_operator.world import DecisionState, WorkloadState, World

__all__ = ["Planner", "Proposal"]


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """What the operator would decide, and what it would do about it."""

    made: Plan
    choice: Choice
    active: DecisionState | None

    @property
    def plan(self) -> Plan:
        """The plan that would be recorded; the selection itself where nothing would be."""
        return self.made if isinstance(self.choice, Hold | Idle) else self.choice.plan

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
            case Stop():
                return f"stops {running}: it breaks a limit and policy.onViolation is Stop"
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
        *,
        hub: bool,
        engine_version: str,
        now: Callable[[], datetime],
    ) -> None:
        self.cluster = cluster
        self.world = world
        self.predictor = predictor
        self.engine_version = engine_version
        self.models = Models(cluster, hub=hub)
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
        made, choice, active = await self._decide(state)
        reserve(self.world, state, choice)
        return Proposal(made, choice, active)

    async def _decide(self, state: WorkloadState) -> tuple[Plan, Choice, DecisionState | None]:
        workload = state.manifest
        if workload is None:
            raise InvalidWorkloadError(state.error or "the spec cannot be read")
        resources = sorted({r.pool.resource_name for r in self.world.inventory.pools if r.pool.resource_name})
        conflicts = pod_template_conflicts(workload.engine.pod_template, resources, shutdown_s=SHUTDOWN_S)
        if conflicts:
            raise InvalidWorkloadError("; ".join(conflicts))
        try:
            model = await self.models.find(workload)
        except ConfigMapMissingError as error:
            raise InvalidWorkloadError(f"spec.model.architecture.configMapRef: {error}") from error
        active = self.world.active_decision(state.key, state.uid) if state.uid else None
        observed = await self._observed(workload, active)
        made = plan(
            workload,
            model.architecture,
            revision=model.revision,
            pools=self.world.pools_for(state.key, state.created_at),
            predictor=self.predictor,
            engine_version=self.engine_version,
            pinned=await self._pinned(workload),
            current=None if active is None else active.head.choice,
            observed=observed,
        )
        asked = serving_inputs(workload)
        return made, decide(workload, made, active, asked=asked, now=self._now()), active

    async def _observed(self, workload: InferenceWorkload, active: DecisionState | None) -> ObservedTraffic | None:
        """The seen traffic that the decision in force rests on; what is seen right now only the operator knows."""
        if workload.policy.traffic is not TrafficSource.OBSERVED or active is None:
            return None
        try:
            decision = parse_decision(
                await self.cluster.get(INFERENCE_DECISION, active.head.name, active.head.namespace)
            )
        except (NotFoundError, InvalidWorkloadError):
            return None
        declared, seen = workload.workload.traffic, decision.inputs.observed
        return traffic_in_use(declared, seen, None, window_s=0.0, runs=active.holds)

    async def _pinned(self, workload: InferenceWorkload) -> CandidateName | None:
        pin = workload.policy.pinned
        if pin is None or pin.decision is None:
            return None
        try:
            decision = parse_decision(await self.cluster.get(INFERENCE_DECISION, pin.decision, workload.namespace))
        except NotFoundError as error:
            raise InvalidWorkloadError(
                f"spec.policy.pinned.decision: no decision {pin.decision} in namespace {workload.namespace}: name one "
                "that is there, or write the candidate itself under pinned.candidate"
            ) from error
        if decision.chosen is None:
            raise InvalidWorkloadError(f"spec.policy.pinned.decision: {pin.decision} is a refusal: name a choice")
        return decision.chosen.candidate

    async def _claim_for_those_before(self, state: WorkloadState) -> None:
        """Who came before and waits for room takes it first; the operator keeps these claims in memory."""
        turn = (state.created_at, state.key)
        for other in sorted(self.world.workloads.values(), key=lambda s: (s.created_at, s.key)):
            if (other.created_at, other.key) >= turn or other.key in self.world.waiting or not self._waits(other):
                continue
            try:
                _, choice, _ = await self._decide(other)
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
