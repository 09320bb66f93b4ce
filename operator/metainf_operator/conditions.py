"""What holds of a workload: one pure function for each condition, facts in, no client.

Separate because a user reads conditions more than anything else that the operator writes: each reason is a constant
with a sentence, and messages carry the two numbers that disagree. Never computed from conditions that we set before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from metainf.binding_limits import BindingLimit
from metainf.manifests import PolicyMode
from metainf.rejections import Rejection, RejectionReason
from metainf_operator.observed_status import SloStanding
from metainf_operator.rollout import Stage

__all__ = ["CONDITION_TYPES", "REASONS", "Condition", "Facts", "Fault", "conditions", "merged"]

TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"

CONDITION_TYPES = (
    "Ready",
    "Accepted",
    "PricesKnown",
    "Feasible",
    "Decided",
    "Available",
    "WithinBudget",
    "SLOMet",
    "PredictorLoaded",
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition as computed from facts; when it last changed is added by `merged`."""

    type: str
    status: str
    reason: str
    message: str


class Fault(StrEnum):
    """Why no decision could be made, for reasons outside the selection."""

    INVALID_SPEC = "InvalidSpec"
    UNKNOWN_MODEL = "UnknownModel"
    OVERRIDES_DECISION = "OverridesDecision"
    PIN_NOT_FOUND = "PinNotFound"
    HUB_UNREACHABLE = "HubUnreachable"
    CONFIG_MAP_MISSING = "ConfigMapMissing"
    FORBIDDEN = "Forbidden"
    CRD_TOO_OLD = "CRDTooOld"


_PERMANENT = frozenset(
    {Fault.INVALID_SPEC, Fault.UNKNOWN_MODEL, Fault.OVERRIDES_DECISION, Fault.PIN_NOT_FOUND}
)  # until the spec changes: Accepted=False

REASONS: Mapping[str, str] = {
    "Accepted": "Shows when the spec is valid and the model is known.",
    Fault.INVALID_SPEC: "Shows when the spec holds something that cannot be right; the message names the field.",
    Fault.UNKNOWN_MODEL: "Shows when the model's architecture is not known or no such model is there.",
    Fault.OVERRIDES_DECISION: "Shows when extraArgs or podTemplate would override what was decided.",
    Fault.PIN_NOT_FOUND: "Shows when policy.pinned names a decision that is not there.",
    Fault.HUB_UNREACHABLE: "Shows when the model hub does not answer; tried again with back-off.",
    Fault.CONFIG_MAP_MISSING: "Shows when the ConfigMap of model.architecture or its key is not there.",
    Fault.FORBIDDEN: "Shows when the operator lacks a permission; the message names it.",
    Fault.CRD_TOO_OLD: "Shows when the installed CRDs are older than the operator and lack a field it writes.",
    "Known": "Shows when the price of every usable pool is known.",
    "SomeUnknown": "Shows when some usable pools have no known price: they are not candidates.",
    BindingLimit.PRICE_UNKNOWN: BindingLimit.PRICE_UNKNOWN.sentence,
    "Deciding": "Shows while no decision is made yet.",
    "CandidateFound": "Shows when a candidate keeps every limit.",
    **{limit: limit.sentence for limit in BindingLimit if limit is not BindingLimit.PRICE_UNKNOWN},
    "PoolGone": "Shows when the pool of the running candidate is there no more.",
    "Decided": "Shows when a decision is in force.",
    "Kept": "Shows when what runs is kept though another candidate was preferred; the message says why.",
    "Refused": "Shows when no candidate keeps every limit and nothing runs.",
    "AwaitingApproval": "Shows in mode Recommend: the decision is made and waits to be pinned.",
    **{stage: stage.sentence for stage in Stage},
    "NotDeployed": "Shows when nothing is to run.",
    "Suspended": "Shows when suspend is true, scaling.replicas is 0, or onViolation Stop took the workload to zero.",
    "BelowBudget": "Shows when what runs costs no more than the budget.",
    RejectionReason.OVER_BUDGET: "Shows when what runs costs more than the budget at today's prices.",
    "NoCost": "Shows when nothing runs, so nothing is spent.",
    "ReplicasCapped": "Shows when scaling.replicas asks for more than budget and capacity allow.",
    "WithinSLO": "Shows when every promised latency was observed to be kept over the last minutes.",
    "SLOMissed": "Shows when a promised latency was observed to be missed; the message has both figures.",
    "TooCloseToTell": "Shows when the server counts latencies by bounds too coarse to tell whether the SLO is kept.",
    "MetricsUnreadable": "Shows when the metrics of no ready pod can be read; the message says why.",
    "NoTraffic": "Shows when no traffic was observed, or too little, so that nothing can be said of the SLO.",
    "NotWatched": "Shows when the operator is set to read no metrics of engines; the message names the setting.",
    "NoSLO": "Shows when the workload promises no latency.",
    "Loaded": "Shows when decisions are made by the predictor that is shipped or named in the operator's settings.",
    "ArtifactUnusable": "Shows when the trained predictor's file cannot be used: the analytical one decides instead.",
    "Serving": "Shows when the workload serves within all its limits.",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the conditions are computed from.

    `limit`/`limit_message` are set where the selection refused; `running` is the candidate in force as a person
    writes it, `outdated` where nothing can serve what is asked now and its pods serve what was asked before; `broken`
    is the first limit that it breaks today, `over_budget` how it breaks the budget; `keep_message` says why a better
    one was not taken; `slo` is how the promises stand by what was seen, None where nothing was. `unwatched` says why
    nothing can be, empty where engines are watched. `predictor_fault` says why the analytical predictor stands in for a
    trained one; empty where what is wanted is loaded. `version_remark` says which catalogue stands for an engine's
    version that has none, `traffic_remark` why traffic is decided by otherwise than the policy has it, `pin_remark`
    what of the model is pinned to no commit.
    """

    mode: PolicyMode
    suspended: bool = False
    fault: Fault | None = None
    fault_message: str = ""
    priced_pools: tuple[str, ...] = ()
    unpriced_pools: tuple[str, ...] = ()
    considered: int | None = None
    limit: BindingLimit | None = None
    limit_message: str = ""
    proposed: str | None = None
    running: str | None = None
    running_gone: bool = False
    outdated: bool = False
    broken: Rejection | None = None
    over_budget: str = ""
    keep_message: str = ""
    decision: str | None = None
    stage: Stage | None = None
    stage_message: str = ""
    cost: Decimal | None = None
    cost_unit: str = ""
    budget: str = ""
    capped_message: str = ""
    overspent_message: str = ""
    version_remark: str = ""
    traffic_remark: str = ""
    pin_remark: str = ""
    unwatched: str = ""
    has_slo: bool = False
    slo: SloStanding | None = None
    stopped: bool = False
    predictor: str = "the analytical predictor"
    predictor_fault: str = ""

    @property
    def permanent_fault(self) -> bool:
        """Whether the fault stays until the spec changes."""
        return self.fault in _PERMANENT


def conditions(facts: Facts) -> tuple[Condition, ...]:
    """All conditions, the roll-up `Ready` first."""
    parts = tuple(
        compute(facts)
        for compute in (
            *(_accepted, _prices_known, _feasible, _decided, _available, _within_budget, _slo_met),
            _predictor_loaded,
        )
    )
    return (_ready(facts, {c.type: c for c in parts}), *parts)


def _accepted(facts: Facts) -> Condition:
    if facts.fault is not None and facts.permanent_fault:
        return Condition("Accepted", FALSE, facts.fault, facts.fault_message)
    if facts.fault is not None:
        return Condition("Accepted", UNKNOWN, facts.fault, facts.fault_message)
    remarks = [remark for remark in (facts.pin_remark, facts.version_remark, facts.traffic_remark) if remark]
    message = "; ".join(("the spec is valid and the model is known", *remarks))
    return Condition("Accepted", TRUE, "Accepted", message)


def _undecided(kind: str, facts: Facts) -> Condition:
    if facts.fault is not None:
        return Condition(kind, UNKNOWN, facts.fault, facts.fault_message)
    return Condition(kind, UNKNOWN, "Deciding", "no decision is made yet")


def _prices_known(facts: Facts) -> Condition:
    if facts.considered is None:
        return _undecided("PricesKnown", facts)
    if not facts.unpriced_pools:
        return Condition(
            "PricesKnown", TRUE, "Known", f"the prices of all usable pools are known: {len(facts.priced_pools)}"
        )
    names = ", ".join(facts.unpriced_pools[:5])
    advice = "price them in an AcceleratorPool or annotate their nodes with metainf.dev/cost-per-hour"
    if not facts.priced_pools:
        message = f"no pool has a known price ({names}): {advice}"
        return Condition("PricesKnown", FALSE, BindingLimit.PRICE_UNKNOWN, message)
    message = f"{len(facts.unpriced_pools)} without a known price ({names}): {advice}"
    return Condition("PricesKnown", TRUE, "SomeUnknown", message)


def _feasible(facts: Facts) -> Condition:
    if facts.considered is None:
        return _undecided("Feasible", facts)
    serves_as_asked = facts.running is not None and not (facts.running_gone or facts.outdated)
    if facts.limit is not None and not (serves_as_asked and facts.broken is None):
        return Condition("Feasible", FALSE, facts.limit, facts.limit_message)
    if facts.running_gone:
        message = f"{facts.running} runs on a pool that is there no more"
        return Condition("Feasible", FALSE, "PoolGone", message)
    return Condition("Feasible", TRUE, "CandidateFound", f"a candidate of {facts.considered} keeps every limit")


def _decided(facts: Facts) -> Condition:
    if facts.running is not None:
        if facts.keep_message:
            return Condition("Decided", TRUE, "Kept", f"{facts.running}: {facts.keep_message}")
        return Condition("Decided", TRUE, "Decided", f"{facts.running} ({facts.decision})")
    if facts.considered is None:
        return _undecided("Decided", facts)
    if (facts.suspended or facts.stopped) and facts.decision is not None:
        return Condition("Decided", TRUE, "Decided", f"{facts.decision} is in force and runs nothing")
    if facts.limit is not None:
        return Condition("Decided", FALSE, "Refused", facts.limit_message)
    if facts.proposed is not None:
        message = f"{facts.proposed} is proposed: set policy.mode Pinned and policy.pinned.decision to {facts.decision}"
        return Condition("Decided", TRUE, "AwaitingApproval", message)
    return _undecided("Decided", facts)


def _available(facts: Facts) -> Condition:
    if facts.suspended or facts.stopped:
        return Condition("Available", FALSE, "Suspended", "scaled to zero")
    if facts.stage is None:
        return Condition("Available", FALSE, "NotDeployed", "nothing runs")
    return Condition("Available", facts.stage.available, facts.stage, facts.stage_message)


def _within_budget(facts: Facts) -> Condition:
    if facts.overspent_message:
        return Condition("WithinBudget", FALSE, RejectionReason.OVER_BUDGET, facts.overspent_message)
    if facts.running is None or facts.cost is None:
        if facts.running is not None:
            message = f"the price of what runs is not known; the budget is {facts.budget}"
            return Condition("WithinBudget", UNKNOWN, BindingLimit.PRICE_UNKNOWN, message)
        return Condition("WithinBudget", TRUE, "NoCost", f"nothing runs; the budget is {facts.budget}")
    if facts.over_budget and not facts.stopped:
        return Condition("WithinBudget", FALSE, RejectionReason.OVER_BUDGET, facts.over_budget)
    message = f"costs {facts.cost.normalize():f} {facts.cost_unit}; the budget is {facts.budget}"
    if facts.capped_message:
        return Condition("WithinBudget", TRUE, "ReplicasCapped", facts.capped_message)
    return Condition("WithinBudget", TRUE, "BelowBudget", message)


def _slo_met(facts: Facts) -> Condition:
    if not facts.has_slo:
        return Condition("SLOMet", UNKNOWN, "NoSLO", "the workload promises no latency")
    if facts.unwatched:
        return Condition("SLOMet", UNKNOWN, "NotWatched", f"nothing is observed: {facts.unwatched}")
    if facts.slo is None:
        return Condition("SLOMet", UNKNOWN, "NoTraffic", "no traffic was observed")
    return Condition("SLOMet", facts.slo.status, facts.slo.reason, facts.slo.message)


def _predictor_loaded(facts: Facts) -> Condition:
    """Never part of the roll-up: what was decided analytically keeps its limits with wider intervals."""
    if facts.predictor_fault:
        return Condition("PredictorLoaded", FALSE, "ArtifactUnusable", facts.predictor_fault)
    return Condition("PredictorLoaded", TRUE, "Loaded", f"decisions are made by {facts.predictor}")


def _ready(facts: Facts, parts: Mapping[str, Condition]) -> Condition:
    """The roll-up: False is for what a person must act on, Unknown for what is under way."""

    def same(part: str, status: str | None = None) -> Condition:
        return Condition("Ready", status or parts[part].status, parts[part].reason, parts[part].message)

    rules: Sequence[tuple[bool, Callable[[], Condition]]] = (
        (parts["Accepted"].status != TRUE, lambda: same("Accepted")),
        (facts.suspended, lambda: same("Available", UNKNOWN)),
        (parts["PricesKnown"].status == FALSE and facts.running is None, lambda: same("PricesKnown")),
        (parts["Feasible"].status != TRUE, lambda: same("Feasible")),
        (bool(facts.overspent_message), lambda: same("WithinBudget")),
        (facts.stopped, lambda: same("Available", FALSE)),
        (parts["WithinBudget"].status != TRUE, lambda: same("WithinBudget")),
        (facts.running is None and facts.mode is PolicyMode.RECOMMEND, lambda: same("Decided", UNKNOWN)),
        (parts["Decided"].status != TRUE, lambda: same("Decided")),
        (facts.stage is None, lambda: Condition("Ready", UNKNOWN, "Deciding", "nothing runs yet")),
        (facts.stage is not None and facts.stage is not Stage.SERVING, lambda: _by_stage(facts)),
        (parts["SLOMet"].status == FALSE, lambda: same("SLOMet")),
    )
    for applies, condition in rules:
        if applies:
            return condition()
    return Condition("Ready", TRUE, "Serving", f"{facts.running} serves within its limits")


def _by_stage(facts: Facts) -> Condition:
    stage = facts.stage
    status = UNKNOWN if stage is None else stage.ready
    return Condition("Ready", status, stage or "Deciding", facts.stage_message)


def merged(
    computed: Sequence[Condition], existing: Sequence[Mapping[str, Any]], *, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Conditions as the status holds them: `lastTransitionTime` moves only when `status` does."""
    before = {c.get("type"): c for c in existing}
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    result = []
    for condition in computed:
        was = before.get(condition.type)
        since = was.get("lastTransitionTime", stamp) if was and was.get("status") == condition.status else stamp
        result.append(
            {
                "type": condition.type,
                "status": condition.status,
                "observedGeneration": generation,
                "lastTransitionTime": since,
                "reason": str(condition.reason),
                "message": condition.message,
            }
        )
    return result
