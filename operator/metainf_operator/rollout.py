"""The next step from what runs to what shall run.

Separate and pure. How far a switch got is read from the cluster each time, never remembered: which Deployments stand,
which of them the Service sends to and since when. So a killed operator, or another one, goes on where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

__all__ = ["ObservedDeployment", "ObservedService", "PodTrouble", "Stage", "Step", "next_step"]

DRAIN = timedelta(seconds=15)  # after the Service moved: proxies and clients' connection pools need a moment


class Stage(StrEnum):
    """How far serving got."""

    ROLLING_OUT = "RollingOut"
    SWITCHING = "Switching"
    RECREATING = "Recreating"
    DRAINING = "Draining"
    WAITING_TO_SWITCH = "WaitingToSwitch"
    DEGRADED = "Degraded"
    STUCK = "RolloutStuck"
    SWITCH_FAILED = "SwitchFailed"
    IMAGE_MISSING = "ImageMissing"
    MODEL_MISSING = "ModelMissing"
    OUT_OF_MEMORY = "OutOfMemory"
    ENGINE_CRASHED = "EngineCrashed"
    CANNOT_START = "CannotStart"
    NAME_TAKEN = "NameTaken"
    SERVING = "Serving"

    @property
    def sentence(self) -> str:
        """When this stage shows."""
        return _SENTENCES[self]

    @property
    def available(self) -> str:
        """Status of the condition Available at this stage."""
        if self in _ANSWERED:
            return "True"
        return "False" if self in _FAULTS else "Unknown"

    @property
    def ready(self) -> str:
        """Status of the condition Ready at this stage, all else being well."""
        if self is Stage.SERVING:
            return "True"
        return "False" if self in _FAULTS else "Unknown"


_ANSWERED = frozenset(
    {
        Stage.SERVING,
        Stage.SWITCHING,
        Stage.SWITCH_FAILED,
        Stage.DRAINING,
        Stage.WAITING_TO_SWITCH,
        Stage.DEGRADED,
    }
)
_FAULTS = frozenset(
    {
        Stage.NAME_TAKEN,
        Stage.STUCK,
        Stage.SWITCH_FAILED,
        Stage.IMAGE_MISSING,
        Stage.MODEL_MISSING,
        Stage.OUT_OF_MEMORY,
        Stage.ENGINE_CRASHED,
        Stage.CANNOT_START,
    }
)

_SENTENCES = {
    Stage.ROLLING_OUT: "Shows while replicas start.",
    Stage.SWITCHING: "Shows while the new candidate starts beside the old one, which serves on.",
    Stage.RECREATING: "Shows while the old candidate, which must go, is stopped first: both do not fit room or budget.",
    Stage.DRAINING: "Shows while the old candidate finishes its requests.",
    Stage.WAITING_TO_SWITCH: "Shows while it waits for others that switch, roll, or take the nodes that they select.",
    Stage.DEGRADED: "Shows when some replicas of a running workload are not ready.",
    Stage.STUCK: "Shows when replicas did not become ready in the time that the model may take.",
    Stage.SWITCH_FAILED: "Shows when the new candidate did not start in its time; the old one serves on.",
    Stage.IMAGE_MISSING: "Shows when the engine's image cannot be had; the message has the name and the reason.",
    Stage.MODEL_MISSING: "Shows when the engine finds no model, or may not have it; the message says which.",
    Stage.OUT_OF_MEMORY: "Shows when a replica was killed for memory; the message says what it was to hold.",
    Stage.ENGINE_CRASHED: "Shows when the engine ended by itself and starts again; the message has its last words.",
    Stage.CANNOT_START: "Shows when a pod cannot be started for another reason, such as a missing Secret.",
    Stage.NAME_TAKEN: "Shows when an object of a child's name exists that is not ours; it is left alone.",
    Stage.SERVING: "Shows when all replicas are ready and the Service sends to them.",
}


@dataclass(frozen=True, slots=True)
class ObservedDeployment:
    """What of a Deployment of ours matters here."""

    name: str
    serving: str
    generation: int
    observed_generation: int
    replicas: int
    updated: int
    available: int
    deadline_exceeded: bool = False
    message: str = ""
    served: bool = False
    """Whether all replicas of its newest template were available once, though none may be now."""
    rolling: bool = False
    """Whether pods of an earlier template are being replaced by those of its newest, which may still come to serve."""

    @property
    def settled(self) -> bool:
        """Whether all replicas are of the newest template and available."""
        current = self.observed_generation >= self.generation
        return current and self.updated >= self.replicas and self.available >= self.replicas


@dataclass(frozen=True, slots=True)
class PodTrouble:
    """What keeps one pod from serving: the stage that this makes, the pod, a sentence, and what it was to serve."""

    stage: Stage
    pod: str
    message: str
    serving: str = ""


@dataclass(frozen=True, slots=True)
class ObservedService:
    """What of our Service matters here: which pods it sends to, and since when."""

    serving: str
    switched_at: datetime | None


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now: apply the target or not, delete which others, send where, and look again when."""

    stage: Stage
    message: str
    apply_target: bool
    send_to: str
    delete: tuple[str, ...] = ()
    again_in: timedelta | None = None
    trouble: PodTrouble | None = None


def next_step(
    target: str,
    serving: str,
    replicas: int,
    observed: Sequence[ObservedDeployment],
    service: ObservedService | None,
    *,
    both_fit: bool,
    may_switch: bool,
    now: datetime,
    room_comes: bool = False,
    troubles: Sequence[PodTrouble] = (),
) -> Step:
    """The next step towards Deployment `target` with pods of `serving`.

    `both_fit` says that capacity and budget hold both sides at once, `room_comes` that pods which no Deployment keeps
    any more still take room; `may_switch` that the cluster-wide limit on switches at a time has room for one more;
    `troubles` are of the target's pods.
    """
    mine = next((d for d in observed if d.name == target), None)
    old = sorted((d for d in observed if d.name != target), key=lambda d: d.name)
    old_names = tuple(d.name for d in old)
    answering = _answering(mine, old, service)
    if mine is None and old:
        if not may_switch and any(d.replicas > 0 for d in old):
            stays, soon = answering or serving, timedelta(seconds=10)
            return Step(Stage.WAITING_TO_SWITCH, "other workloads are switching", False, stays, again_in=soon)
        if answering is None:
            return _begin_anew(serving, old_names, both_fit)
        return _begin_switch(answering, old, both_fit, room_comes)
    if mine is None:
        return Step(Stage.ROLLING_OUT, f"0 of {replicas} replicas are ready", True, serving)
    ready = mine.settled and mine.replicas == replicas
    if ready and old:
        return _finish_switch(serving, old_names, service, now)
    if ready:
        return Step(Stage.SERVING, f"{replicas} of {replicas} replicas are ready", True, serving)
    return _starting(mine, serving, replicas, answering, troubles)


def _starting(
    mine: ObservedDeployment, serving: str, replicas: int, answering: str | None, troubles: Sequence[PodTrouble]
) -> Step:
    """The step while replicas start: why they do not, where a pod tells, goes before how long it takes."""
    send_to = answering or serving
    counted = f"{mine.available} of {replicas} replicas are ready"
    trouble = min(troubles, key=lambda t: t.pod, default=None)
    told = counted if trouble is None else f"{counted}: {trouble.pod}: {trouble.message}"
    if mine.deadline_exceeded:
        overdue = f"{counted}: {mine.message or 'the time to start is over'}" if trouble is None else told
        if answering is not None:
            message = f"{overdue}; the old candidate serves on"
            return Step(Stage.SWITCH_FAILED, message, True, send_to, trouble=trouble)
        if trouble is None:
            return Step(Stage.STUCK, overdue, True, send_to)
    if answering is not None:
        return Step(Stage.SWITCHING, f"{told}; the old candidate serves on", True, send_to, trouble=trouble)
    if mine.available > 0:
        return Step(Stage.DEGRADED, told, True, serving, trouble=trouble)
    return Step(Stage.ROLLING_OUT if trouble is None else trouble.stage, told, True, serving, trouble=trouble)


def _answering(
    mine: ObservedDeployment | None, old: Sequence[ObservedDeployment], service: ObservedService | None
) -> str | None:
    """Pods of an old Deployment that the Service has to send to now; None where the target's are the better choice.

    Those that it sends to already as long as any of them is available; another old one's only where nothing else is.
    """
    live = [d for d in old if d.available > 0]
    if service is not None and any(d.serving == service.serving for d in live):
        return service.serving
    if not live or (mine is not None and mine.available > 0):
        return None
    return max(live, key=lambda d: d.available).serving


_RECREATING = "stopping the old candidate first: both do not fit the capacity or the budget"


def _begin_anew(serving: str, old: tuple[str, ...], both_fit: bool) -> Step:
    """The first step where others stand and none of them answers."""
    if both_fit:
        return Step(Stage.ROLLING_OUT, "starting the new candidate beside the old one", True, serving)
    return Step(Stage.RECREATING, _RECREATING, False, serving, old)


def _begin_switch(answering: str, old: Sequence[ObservedDeployment], both_fit: bool, room_comes: bool) -> Step:
    """The first step of a switch. What answers nothing beside one that does, as a candidate that failed, goes first.

    Only where that made no room, once its pods are gone, does the one that answers have to go as well.
    """
    silent = tuple(d.name for d in old if d.available == 0)
    if both_fit:
        return Step(Stage.SWITCHING, "starting the new candidate beside the old one", True, answering, silent)
    if silent:
        message = "stopping what answers nothing first, to make room; the old candidate serves on"
        return Step(Stage.SWITCHING, message, False, answering, silent)
    if room_comes:
        message = "waiting for the room of pods that are going; the old candidate serves on"
        return Step(Stage.SWITCHING, message, False, answering, again_in=timedelta(seconds=10))
    return Step(Stage.RECREATING, _RECREATING, False, answering, tuple(d.name for d in old))


def _finish_switch(serving: str, old: tuple[str, ...], service: ObservedService | None, now: datetime) -> Step:
    if service is None or service.serving != serving:
        return Step(Stage.DRAINING, "sending to the new candidate", True, serving, again_in=DRAIN)
    since = service.switched_at or now - DRAIN
    left = DRAIN - (now - since)
    if left > timedelta(0):
        return Step(Stage.DRAINING, "the old candidate finishes its requests", True, serving, again_in=left)
    return Step(Stage.DRAINING, "stopping the old candidate", True, serving, old)
