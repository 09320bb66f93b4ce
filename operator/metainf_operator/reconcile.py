"""What to do about one workload: facts in, one value out.

Separate and pure: no client, no clock of its own, no randomness. Total: every combination of mode, outcome and what
runs has an answer. The controller does what this says.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from metainf.binding_limits import BindingLimit
from metainf.candidates import Candidate
from metainf.manifests import InferenceWorkload, ModelSource, OnViolation, PolicyMode
from metainf.placement import ReplicaRequest
from metainf.planning import Plan, candidate_argv
from metainf.selection import NoSelection, Scored, Selection
from metainf.switching import Keep, KeepReason, Move, MoveReason, Verdict, compare, starts_new_pods
from metainf_operator.children import startup_s
from metainf_operator.states import DecisionState
from metainf_operator.switch_room import SwitchRoom

__all__ = [
    "Activate",
    "Choice",
    "Hold",
    "Idle",
    "Propose",
    "Refuse",
    "Stop",
    "awaits_room",
    "by_declared_too",
    "decide",
    "halts",
    "idle",
    "leaves",
    "retargeted",
    "serving_inputs",
]


@dataclass(frozen=True, slots=True, eq=False)
class Activate:
    """Put the plan's decision in force and run it.

    `keeps_old`: it starts other pods for a gain alone, and rests on room and money for both sides and a turn to switch,
    as they were found when it was made.
    """

    plan: Plan
    reason: MoveReason
    gain_ratio: float = 0.0
    keeps_old: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep running what is in force; the message says why nothing better was taken, empty where it is the best.

    `awaits_turn`: a better one is taken as soon as fewer workloads switch, or the pods of others have the nodes that
    they selected; `awaits_room`: as soon as both fit.
    `outdated`: its pods were made for what was asked of them before, and nothing can serve what is asked now.
    """

    message: str = ""
    awaits_turn: bool = False
    awaits_room: bool = False
    outdated: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Propose:
    """Record the plan's decision and wait for approval; what is in force, if anything, goes on."""

    plan: Plan


@dataclass(frozen=True, slots=True, eq=False)
class Refuse:
    """Nothing keeps the limits and nothing runs: record why, run nothing.

    `claims`: the room that it waits for is not for those who come after it. Not in mode Recommend, which holds nothing.
    """

    plan: Plan
    claims: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Stop:
    """Take what runs to zero and give its capacity back: the limits are broken and onViolation says so."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Idle:
    """Suspended, or scaled to zero by hand: run nothing, keep the record."""


Choice = Activate | Hold | Propose | Refuse | Stop | Idle


def serving_inputs(workload: InferenceWorkload) -> str:
    """Digest of what the user asked of the pods themselves: when it moves, the same candidate is recorded anew.

    The revision is the one that was asked for, not the commit that it stood for: a branch that moves on restarts
    nobody's pods. A version of the operator must not either, so what is new in a spec is a fact only where it is there.
    """
    traffic = workload.workload.traffic
    draft = workload.model.draft
    facts = [
        _source_text(workload.model),
        repr((workload.engine.image, workload.engine.version, workload.engine.extra_args)),
        repr((traffic.input_tokens, traffic.output_tokens)),
        *([] if draft is None else [repr(("draft", draft.id, draft.revision, draft.path))]),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _source_text(model: ModelSource) -> str:
    """Where the model comes from, in the words that the records in force were written with.

    Not the repr of the whole: each field that joined it would re-activate whatever runs.
    """
    return (
        f"ModelSource(id={model.id!r}, revision={model.revision!r}, served_name={model.served_name!r}, "
        f"pvc={model.pvc!r}, token_secret=None, config_map=None)"
    )


def decide(
    workload: InferenceWorkload,
    plan: Plan,
    active: DecisionState | None,
    *,
    asked: str,
    now: datetime,
    overspent: bool = False,
    room: SwitchRoom | None = None,
) -> Choice:
    """What to do now.

    `active` is the decision in force, `asked` the digest of what the pods are asked for now (`serving_inputs`).
    `overspent`: a batch has cost its whole budget, whatever would be chosen now. `room` is what a new side finds
    beside what runs; None where nothing runs, or nothing else is chosen.
    """
    if idle(workload):
        return Idle()
    outcome = plan.outcome
    runs = active is not None and active.holds
    if overspent:
        kept = runs and not halts(workload, overspent=True)
        return Hold("the batch has cost its budget") if kept else Stop(plan)
    anew = active is not None and active.serving_inputs != asked
    if isinstance(outcome, NoSelection):
        return _refused(workload, plan, outcome, runs, anew)
    room = _room_needed(workload, room, anew)
    verdict = _weighed(workload, outcome, active, now, room)
    no_place_anew = anew and outcome.current is not None and outcome.current.barred is not None
    if workload.policy.mode is PolicyMode.RECOMMEND:
        if isinstance(verdict, Move):
            return Propose(retargeted(plan, verdict.target))
        return Propose(plan) if no_place_anew else Hold()
    if isinstance(verdict, Move):
        return _moved(plan, outcome, verdict, room)
    if anew and outcome.current is not None:
        # The same candidate, asked for differently: a new image, revision or argument has to reach the pods. Where new
        # pods of it would find no place, those of the best other one are to have it.
        target = outcome.chosen if no_place_anew else outcome.current
        return Activate(retargeted(plan, target), MoveReason.ASKED)
    waits = (
        verdict.reason is KeepReason.NO_ROOM_BESIDE
        and room is not None
        and not room.has_place(*_asks(outcome.chosen.candidate))
    )
    return Hold(_keep_message(verdict, outcome, room), awaits_room=waits)


def awaits_room(plan: Plan, choice: Choice) -> bool:
    """Whether more room alone may change the choice, and nobody else would tell when it comes.

    For a switch that is held for want of it; for what breaks a limit, or a recommendation, where what keeps them all
    has no room now; and for fewer replicas than a person asked for, where the pool has no more. A refusal that claims
    the room is told by its claim.
    """
    outcome = plan.outcome
    if isinstance(outcome, NoSelection):
        waits = isinstance(choice, Hold) or (isinstance(choice, Refuse) and not choice.claims)
        return waits and outcome.limit is BindingLimit.NO_CAPACITY
    if isinstance(choice, Idle):
        return False
    if isinstance(choice, Hold) and choice.awaits_room:
        return True
    fixed, chosen = plan.workload.workload.replicas.fixed, outcome.chosen.candidate
    return fixed is not None and chosen.replicas < fixed and chosen.option.room.replicas <= chosen.replicas


def idle(workload: InferenceWorkload) -> bool:
    """Whether the workload is to run nothing: suspended, or scaled to zero by hand."""
    return workload.suspend or workload.workload.replicas.fixed == 0


def halts(workload: InferenceWorkload, *, overspent: bool) -> bool:
    """Whether the workload is to run nothing whatever would be chosen: idle, or a batch that may cost no more."""
    return idle(workload) or (overspent and workload.policy.on_violation is OnViolation.STOP)


def leaves(plan: Plan) -> bool:
    """Whether the plan chose something else than what is in force."""
    chosen, current = plan.chosen, plan.outcome.current
    return chosen is not None and current is not None and chosen.candidate.name != current.candidate.name


def _room_needed(workload: InferenceWorkload, room: SwitchRoom | None, anew: bool) -> SwitchRoom | None:
    """What a switch for a gain alone has to find beside what runs; None where it interrupts nobody or was asked for.

    Asked for is what replaces the pods anyway (`anew`), and, by `compare`, a pin and a number of replicas. A proposal
    interrupts nobody: who approves it pins it.
    """
    proposes = workload.policy.mode is PolicyMode.RECOMMEND
    return None if room is None or not room.answers or anew or proposes else room


def _lacks(room: SwitchRoom, scored: Scored) -> str:
    return room.lacks(*_asks(scored.candidate))


def _asks(candidate: Candidate) -> tuple[str, ReplicaRequest, int]:
    return candidate.option.pool.name, candidate.option.request, candidate.replicas


def _weighed(
    workload: InferenceWorkload,
    outcome: Selection,
    active: DecisionState | None,
    now: datetime,
    room: SwitchRoom | None,
) -> Verdict:
    """What runs against what was chosen."""
    weight_bytes = outcome.chosen.candidate.option.replica.architecture.weight_bytes
    return compare(
        outcome,
        runs=active is not None and active.holds,
        pinned=workload.policy.mode is PolicyMode.PINNED,
        replicas=_allowed_replicas(workload, outcome),
        minimum_gain_ratio=workload.policy.minimum_gain_ratio,
        cooldown=timedelta(seconds=workload.policy.cooldown_s),
        last_switch=None if active is None else active.activated_at,
        now=now,
        startup=timedelta(seconds=startup_s(workload, weight_bytes)),
        fits_beside=lambda scored: room is None or not _lacks(room, scored),
    )


def _moved(plan: Plan, outcome: Selection, verdict: Move, room: SwitchRoom | None) -> Choice:
    """The move, or a wait for the turn of one for a gain alone.

    Put in force only when its turn has come: what it rests on, prices and room for both sides, may be gone by then.
    """
    target, current = verdict.target, outcome.current
    if room is None or verdict.reason is not MoveReason.BETTER:
        return Activate(retargeted(plan, target), verdict.reason, verdict.gain_ratio)
    starts = current is not None and starts_new_pods(current, target)  # a change of size was not asked for room
    if starts and (why := _not_yet(room, target)):
        return Hold(f"another candidate would gain {verdict.gain_ratio:.1%}; {why}", awaits_turn=True)
    return Activate(retargeted(plan, target), verdict.reason, verdict.gain_ratio, keeps_old=starts)


def _not_yet(room: SwitchRoom, target: Scored) -> str:
    """Why new pods of the target have to wait, though there is room for them; empty where they have not."""
    if not room.turn:
        return "as many workloads switch now as may at a time"
    pool = target.candidate.option.pool.name
    return f"pods of others have yet to take nodes of {pool} that they select" if pool in room.awaited else ""


def _refused(workload: InferenceWorkload, plan: Plan, outcome: NoSelection, runs: bool, anew: bool) -> Choice:
    if not runs:
        return Refuse(plan, claims=workload.policy.mode is not PolicyMode.RECOMMEND)
    if workload.policy.on_violation is OnViolation.STOP and _known_broken(workload, outcome):
        return Stop(plan)
    return Hold(_in_its_place(outcome) or "no candidate keeps every limit", outdated=anew)


def _in_its_place(outcome: Selection | NoSelection) -> str:
    """Why what runs stays where it could not be started now; empty where it could, and where it breaks a limit."""
    current = outcome.current
    if current is None or current.barred is None or current.broken is not None:
        return ""
    return f"it runs where new pods of it would find no place: {current.barred.detail}"


def by_declared_too(stopped: Choice) -> Choice:
    """What to do where observed traffic breaks a limit and onViolation is Stop; `stopped` is decided by the declared.

    What runs is stopped for a limit that the declared traffic breaks as well. For one that only observed traffic breaks
    it is kept: once stopped it sees no traffic, so that it would start by the declared, be stopped by the next spike
    or quiet night, and so on.
    """
    if isinstance(stopped, Stop):
        return stopped
    return Hold("onViolation Stop waits: only the observed traffic breaks a limit, the declared does not")


def _known_broken(workload: InferenceWorkload, outcome: NoSelection) -> bool:
    """Whether what runs breaks a limit, or its pool is gone; not where the refusal is about something else.

    A pin is asked about alone, so it says nothing of what runs; and where only room for more replicas is missing, what
    serves breaks nothing.
    """
    if outcome.current is not None:
        return outcome.current.broken is not None
    pinned_elsewhere = workload.policy.mode is PolicyMode.PINNED
    return not pinned_elsewhere and outcome.limit is not BindingLimit.NO_CAPACITY


def _allowed_replicas(workload: InferenceWorkload, outcome: Selection) -> range:
    limits = workload.workload.replicas
    if limits.fixed is not None:
        # As many as asked for, or as many of them as the limits leave.
        return range(outcome.chosen.candidate.replicas, limits.fixed + 1)
    return range(limits.minimum, (limits.maximum or 1 << 20) + 1)


def _keep_message(verdict: Keep, outcome: Selection, room: SwitchRoom | None) -> str:
    match verdict.reason:
        case KeepReason.GAIN_TOO_SMALL if verdict.gain_ratio == 0 and (place := _in_its_place(outcome)):
            return place
        case KeepReason.GAIN_TOO_SMALL:
            return f"another candidate would gain {verdict.gain_ratio:.1%}, less than policy.minimumGain and the switch"
        case KeepReason.COOLING_DOWN:
            return f"another candidate would gain {verdict.gain_ratio:.1%}; policy.cooldown is not over yet"
        case KeepReason.NO_ROOM_BESIDE:
            name, why = outcome.chosen.candidate.name, "" if room is None else _lacks(room, outcome.chosen)
            return (
                f"{name} would gain {verdict.gain_ratio:.1%}, but {why}: leave room and budget for both sides, or pin "
                "it (policy.pinned.candidate) to have what runs stopped first"
            )
        case _:
            return ""


def retargeted(plan: Plan, target: Scored) -> Plan:
    """The plan with another of its candidates chosen, as when more replicas of what runs go before a switch."""
    outcome = plan.outcome
    if isinstance(outcome, NoSelection) or outcome.chosen.candidate.name == target.candidate.name:
        return plan
    others = tuple(s for s in (outcome.chosen, *outcome.alternatives) if s.candidate.name != target.candidate.name)
    return replace(
        plan,
        outcome=replace(outcome, chosen=target, alternatives=others[:10]),
        argv=candidate_argv(plan.workload, target.candidate, plan.inputs),
    )
