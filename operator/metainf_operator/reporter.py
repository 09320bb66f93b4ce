"""Says what a pass found: the status, events on transitions, metrics.

Separate from the pass: whatever happened, this is the one place where it becomes something that a person reads.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from metainf.manifests import Decision, InferenceWorkload, PolicyMode, TrafficSource
from metainf.predictors.contract import PredictorIdentity
from metainf.workload import LatencyMetric, Statistic
from metainf_operator.accrual import Accrued, accrual_of, overspent, still_accruing, with_accrued
from metainf_operator.api_errors import InvalidObjectError, NotFoundError
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.conditions import Facts, Fault, conditions, merged
from metainf_operator.events import EventReason, EventSender, Notice, Regarding
from metainf_operator.metrics import Metrics
from metainf_operator.observed_status import (
    Sight,
    SloStanding,
    decision_fields,
    is_due,
    slo_moved,
    slo_standing,
    status_fields,
)
from metainf_operator.outlook import Outlook
from metainf_operator.resources import INFERENCE_DECISION, INFERENCE_WORKLOAD
from metainf_operator.roller import Rolled
from metainf_operator.rollout import Stage
from metainf_operator.states import DecisionState, WorkloadState
from metainf_operator.status import InForce, workload_status

__all__ = ["Reporter", "Seen", "facts_of"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a pass found and did. `outlook` None: no decision could be made, `fault` says why.

    `sight` is what was seen of the pods that run; None where none were looked at yet. `keeps_old`: the decision in
    force was made in this pass, on the ground that what ran serves on until it is ready.
    """

    state: WorkloadState
    workload: InferenceWorkload | None
    active: DecisionState | None = None
    outlook: Outlook | None = None
    rolled: Rolled = field(default_factory=Rolled)
    activated: bool = False
    stopped: bool = False
    keeps_old: bool = False
    accrued: Accrued | None = None
    sight: Sight | None = None
    fault: Fault | None = None
    fault_message: str = ""

    @property
    def runs(self) -> bool:
        """Whether any replica is to run."""
        return self.rolled.serving is not None and self.rolled.replicas > 0


@dataclass(frozen=True, slots=True)
class _Observed:
    """`observed` of the status: what it will be, and whether that is news of what was seen (and not of costs)."""

    fields: dict[str, Any] | None
    is_news: bool = False


def facts_of(seen: Seen, decision: Decision | None) -> Facts:
    """The facts that the conditions are computed from."""
    workload, outlook, active = seen.workload, seen.outlook, seen.active
    if workload is None:
        return Facts(
            PolicyMode.AUTO,
            fault=seen.fault,
            fault_message=seen.fault_message,
            stage=seen.rolled.stage,
            stage_message=seen.rolled.message,
        )
    budget = workload.workload.budget
    choice = None if active is None else active.head.choice
    runs = active is not None and active.holds
    facts = Facts(
        mode=workload.policy.mode,
        fault=seen.fault,
        fault_message=seen.fault_message,
        running=str(choice) if runs and choice is not None else None,
        decision=None if active is None else active.head.name,
        stage=seen.rolled.stage,
        stage_message=seen.rolled.message,
        cost=decision.chosen.cost_per_hour if runs and decision is not None and decision.chosen is not None else None,
        cost_unit=f"{budget.currency}/h",
        budget=f"{budget.amount} {budget.unit}",
        capped_message=_capped(workload, active),
        overspent_message=_overspent(workload, seen.accrued),
        has_slo=bool(workload.workload.slo.bounds),
    )
    if outlook is None:
        return facts
    return replace(
        facts,
        suspended=outlook.idle,
        stopped=outlook.stopped,
        priced_pools=outlook.priced_pools,
        unpriced_pools=outlook.unpriced_pools,
        considered=outlook.considered,
        version_remark=outlook.version_remark,
        pin_remark=outlook.pin_remark,
        limit=outlook.limit,
        limit_message=outlook.limit_message,
        proposed=outlook.proposed,
        running_gone=outlook.gone,
        outdated=outlook.outdated,
        broken=outlook.broken if runs else None,
        over_budget=outlook.over_budget.detail if runs and outlook.over_budget is not None else "",
        keep_message=outlook.keep_message,
        decision=facts.decision or outlook.proposed_decision,
        cost=outlook.cost if runs else None,
    )


def _capped(workload: InferenceWorkload, active: DecisionState | None) -> str:
    asked = workload.workload.replicas.fixed
    choice = None if active is None else active.head.choice
    if not asked or choice is None or choice.replicas >= asked:
        return ""
    return f"{choice.replicas} of the {asked} replicas asked for: budget, capacity or maxReplicas allow no more"


def _overspent(workload: InferenceWorkload, accrued: Accrued | None) -> str:
    budget = workload.workload.budget
    if accrued is None or not overspent(budget, accrued):
        return ""
    # Without the sum, which would be another message at every look.
    return f"the batch has cost more than its budget, {budget.amount} {budget.unit}: see status.observed.accruedCost"


class Reporter:
    """Writes the status where it differs, sends events on transitions, sets the workload's metrics."""

    def __init__(
        self,
        cluster: ClusterApi,
        events: EventSender,
        metrics: Metrics,
        *,
        now: Callable[[], datetime],
        predictor: PredictorIdentity | None = None,
        predictor_fault: str = "",
        unwatched: str = "",
    ) -> None:
        """`unwatched` says why the operator watches no engines; empty where it does."""
        self.cluster = cluster
        self.events = events
        self.metrics = metrics
        self._now = now
        self._predictor = predictor
        self._predictor_fault = predictor_fault
        self._unwatched = unwatched

    async def report(self, seen: Seen, decision: Decision | None) -> bool:
        """Report one pass; False where the installed definitions are too old to hold it."""
        state, facts = seen.state, self._as_watched(seen, self._told_by_whom(facts_of(seen, decision)))
        before = state.status
        shown = decision if facts.running is not None or facts.suspended or facts.stopped else None
        in_force = None
        if shown is not None and shown.chosen is not None:
            in_force = InForce(
                decision=shown,
                serving=seen.rolled.serving,
                replicas=seen.rolled.replicas,
                cost=facts.cost,
                currency=shown.chosen.currency,
                confidence=None if seen.outlook is None else seen.outlook.confidence,
            )
        observed = self._observed(seen, facts)
        facts = _with_slo(seen, facts, observed.fields)
        status = workload_status(seen.workload, facts, in_force, before, generation=state.generation, now=self._now())
        self._set_metrics(seen, facts, shown)
        # Before the status is written, so that no alert waits for an API server that is away.
        self.metrics.set_conditions(state.key.namespace, state.key.name, status["conditions"])
        differs = status != {k: v for k, v in before.items() if k != "observed"}
        fields = observed.fields
        if seen.accrued is not None and seen.workload is not None:
            writes = differs or fields != before.get("observed")
            fields = with_accrued(fields, seen.accrued, seen.workload.workload.budget.currency, writes=writes)
        if fields is not None:
            status["observed"] = fields
        if differs or fields != before.get("observed"):
            if not await self._write(seen, status, shown if observed.is_news else None):
                return False
            await self._tell(seen, before, status)
        return True

    def _observed(self, seen: Seen, facts: Facts) -> _Observed:
        """What the status shall say was seen: as it says already, unless that is over or there is news."""
        before, sight = still_accruing(seen.state.status.get("observed"), seen.workload), seen.sight
        if self._unwatched:
            return _Observed(accrual_of(before))
        if seen.workload is None:
            return _Observed(before)
        if not seen.runs or (sight is None and not _is_of_what_runs(seen)):
            return _Observed(accrual_of(before))
        if sight is None:
            return _Observed(before)
        slo, now, status = seen.workload.workload.slo, self._now(), seen.state.status
        fields = status_fields(sight, slo, facts.cost, seen.workload.workload.budget.currency, now)
        another = (status.get("decisionRef") or {}).get("name") != facts.decision  # whose record is empty yet
        if not is_due(before or {}, fields, transition=another or slo_moved(status, sight, slo), now=now):
            return _Observed(before)
        return _Observed({**(accrual_of(before) or {}), **fields}, is_news=True)

    def _told_by_whom(self, facts: Facts) -> Facts:
        """The facts with the predictor that decisions are made by."""
        own = self._predictor
        name = facts.predictor if own is None else f"the {own.name} predictor ({own.digest[:19]})"
        return replace(facts, predictor=name, predictor_fault=self._predictor_fault)

    def _as_watched(self, seen: Seen, facts: Facts) -> Facts:
        """The facts with why nothing is watched, and what that makes of traffic that is to be observed."""
        workload = seen.workload
        observed = workload is not None and workload.policy.traffic is TrafficSource.OBSERVED
        remark = f"decided by the declared traffic, not by policy.traffic Observed: {self._unwatched}"
        return replace(facts, unwatched=self._unwatched, traffic_remark=remark if self._unwatched and observed else "")

    async def _write(self, seen: Seen, status: dict[str, Any], observed: Decision | None) -> bool:
        """Write the status; `observed` is the decision that what is new in it was seen of.

        That one first: after a crash in between, the status still is what makes the next pass write both.
        """
        try:
            if observed is not None:
                await self._record_observed(seen, observed, status)
            await self._apply(seen.state, status)
            return True
        except InvalidObjectError as error:
            # Definitions older than this operator lack a field: what they do have must say so.
            message = f"{error}: apply the CRDs of this version"
            facts = self._told_by_whom(Facts(PolicyMode.AUTO, fault=Fault.CRD_TOO_OLD, fault_message=message))
            before = seen.state.status.get("conditions") or ()
            generation = seen.state.generation
            told = merged(conditions(facts), before, generation=generation, now=self._now())
            self.metrics.set_conditions(seen.state.key.namespace, seen.state.key.name, told)
            await self._apply(seen.state, {"observedGeneration": generation, "conditions": told})
            return False

    async def _record_observed(self, seen: Seen, decision: Decision, status: Mapping[str, Any]) -> None:
        """Put what was seen beside what was predicted; a patch, since the phase is written by itself."""
        observation = None if seen.sight is None else seen.sight.seen
        if observation is None or decision.chosen is None:
            return
        patch = {"status": {"observed": decision_fields(observation, status["observed"])}}
        head = decision.head
        try:
            await self.cluster.patch_merge(INFERENCE_DECISION, head.name, patch, head.namespace, subresource="status")
        except NotFoundError:
            return
        found = observation.statistic(LatencyMetric.TTFT, Statistic.P95)
        predicted = dict(decision.chosen.predicted).get("ttft.p95")
        if found is not None and found.is_bounded and predicted is not None and predicted.value > 0:
            self.metrics.prediction_error.observe(found.value / float(predicted.value) - 1.0)

    async def _apply(self, state: WorkloadState, status: dict[str, Any]) -> None:
        manifest = {
            "apiVersion": INFERENCE_WORKLOAD.api_version,
            "kind": INFERENCE_WORKLOAD.kind,
            "metadata": {"name": state.key.name, "namespace": state.key.namespace, "uid": state.uid},
            "status": status,
        }
        try:
            await self.cluster.apply_status(INFERENCE_WORKLOAD, manifest)
        except NotFoundError:
            return  # deleted meanwhile: its watch event is on the way

    def _set_metrics(self, seen: Seen, facts: Facts, decision: Decision | None) -> None:
        key = seen.state.key
        if facts.cost is None or decision is None or decision.chosen is None or decision.chosen.currency != "USD":
            self.metrics.forget_running(key.namespace, key.name)
            return
        labels = {"namespace": key.namespace, "name": key.name}
        self.metrics.workload_cost.labels(**labels).set(float(facts.cost))
        ttft = dict(decision.chosen.predicted).get("ttft.p95")
        if ttft is not None:
            self.metrics.predicted_ttft_p95.labels(**labels).set(float(ttft.value))

    async def _tell(self, seen: Seen, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        regarding = Regarding(INFERENCE_WORKLOAD, seen.state.key.name, seen.state.key.namespace, seen.state.uid)
        for notice in notices(seen, before, after):
            await self.events.send(notice, regarding)


def _with_slo(seen: Seen, facts: Facts, observed: Mapping[str, Any] | None) -> Facts:
    """The facts with how the promises stand, in the figures that the status has.

    Where nothing was looked at long enough yet, as by a new leader, what was said of the same pods stands.
    """
    if seen.workload is None or not seen.runs or facts.unwatched:
        return facts
    if seen.sight is not None:
        return replace(facts, slo=slo_standing(seen.sight, seen.workload.workload.slo, observed or {}))
    said = next((c for c in seen.state.status.get("conditions") or () if c.get("type") == "SLOMet"), None)
    if said is None or not _is_of_what_runs(seen):
        return facts
    return replace(facts, slo=SloStanding(*(str(said.get(part)) for part in ("status", "reason", "message"))))


def _is_of_what_runs(seen: Seen) -> bool:
    """Whether the status that stands speaks of the pods that run now, and of the spec as it is."""
    status = seen.state.status
    serving = str(status.get("selector") or "").rpartition("=")[2]
    return serving == seen.rolled.serving and status.get("observedGeneration") == seen.state.generation


_ON_TROUBLE = {
    Stage.IMAGE_MISSING: EventReason.IMAGE_MISSING,
    Stage.MODEL_MISSING: EventReason.MODEL_MISSING,
    Stage.OUT_OF_MEMORY: EventReason.OUT_OF_MEMORY,
    Stage.ENGINE_CRASHED: EventReason.ENGINE_CRASHED,
    Stage.CANNOT_START: EventReason.CANNOT_START,
}
_ON_STATUS = {
    ("Accepted", "False"): EventReason.NOT_ACCEPTED,
    ("PricesKnown", "False"): EventReason.PRICES_UNKNOWN,
    ("Available", "True"): EventReason.AVAILABLE,
    ("WithinBudget", "False"): EventReason.OVER_BUDGET,
    ("SLOMet", "False"): EventReason.SLO_MISSED,
}
_ON_CHANGE = {
    ("Accepted", "False", "True"): EventReason.ACCEPTED,
    ("WithinBudget", "False", "True"): EventReason.WITHIN_BUDGET,
    ("SLOMet", "False", "True"): EventReason.SLO_MET,
    ("Available", "True", "False"): EventReason.UNAVAILABLE,
}
_ON_REASON = {
    ("Available", "NameTaken"): EventReason.NAME_TAKEN,
    ("Decided", "AwaitingApproval"): EventReason.AWAITING_APPROVAL,
    ("Ready", "Suspended"): EventReason.SUSPENDED,
    ("Available", "Switching"): EventReason.SWITCH_STARTED,
    ("Available", "Recreating"): EventReason.SWITCH_STARTED,
    ("Available", "SwitchFailed"): EventReason.SWITCH_FAILED,
    ("Feasible", "NoCapacity"): EventReason.NO_CAPACITY,
}


def _troubled(seen: Seen, was: Mapping[str, Mapping[str, Any]]) -> Iterator[Notice]:
    """What befell a pod, told once: a new crash has a new message, since it counts them."""
    trouble = seen.rolled.trouble
    told = str((was.get("Available") or {}).get("message", ""))
    if trouble is not None and trouble.message not in told:
        yield Notice(_ON_TROUBLE[trouble.stage], f"{trouble.pod}: {trouble.message}")


def notices(seen: Seen, before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Notice, ...]:
    """What to tell: transitions of conditions, and a decision put in force. Nothing for a pass that changed nothing."""
    was = {c["type"]: c for c in before.get("conditions") or ()}
    found: list[Notice] = []
    for condition in after["conditions"]:
        kind, status, reason = condition["type"], condition["status"], condition["reason"]
        old = was.get(kind) or {}
        change = (kind, old.get("status"), status)
        if change in _ON_CHANGE and reason != "Suspended":
            found.append(Notice(_ON_CHANGE[change], condition["message"]))
        if kind == "Available" and old.get("reason") == "Suspended" and reason not in ("Suspended", "NotDeployed"):
            found.append(Notice(EventReason.RESUMED, condition["message"]))
        if old.get("status") != status and (kind, status) in _ON_STATUS:
            found.append(Notice(_ON_STATUS[kind, status], condition["message"]))
        if old.get("reason") != reason and (kind, reason) in _ON_REASON:
            found.append(Notice(_ON_REASON[kind, reason], condition["message"]))
        if kind == "Available" and (old.get("reason"), reason) == (Stage.DRAINING, Stage.SERVING):
            found.append(Notice(EventReason.SWITCH_FINISHED, condition["message"]))
        if kind == "Feasible" and status == "False" and old.get("reason") != reason and reason != "NoCapacity":
            found.append(Notice(EventReason.REFUSED, condition["message"]))
    found.extend(_troubled(seen, was))
    found.extend(_unreadable(seen, before, after))
    if seen.activated and seen.active is not None:
        found.append(Notice(EventReason.DECIDED, f"{seen.active.head.choice} ({seen.active.head.name})"))
    if seen.stopped:
        found.append(Notice(EventReason.STOPPED, "scaled to zero: the limits are broken and onViolation is Stop"))
    found.extend(Notice(EventReason.CHILD_RESTORED, f"put right: {name}") for name in seen.rolled.restored)
    return tuple(found)


def _unreadable(seen: Seen, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Notice]:
    """Where pods that cannot be read came to be, or more of them."""
    counts = [int((status.get("observed") or {}).get("unreadablePods") or 0) for status in (before, after)]
    if seen.sight is None or not seen.sight.unreadable or counts[1] <= counts[0]:
        return []
    told = ", ".join(f"{name}: {fault}" for name, fault in seen.sight.unreadable[:3])
    note = f"/metrics of {counts[1]} of {seen.sight.pods} ready pods cannot be read ({told})"
    return [Notice(EventReason.METRICS_UNREADABLE, note)]
