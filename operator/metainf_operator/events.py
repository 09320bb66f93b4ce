"""The Kubernetes Events that the operator sends: what `kubectl describe` tells a person who was not looking.

Separate, constructors only and one sender, so that the reasons are a catalogue which alerts can rely on. They are sent
on transitions, never per pass; whoever needs the state reads the conditions.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from metainf_operator.api_errors import ClusterError, NamespaceTerminatingError, NotLeaderError
from metainf_operator.cluster_api import JsonObject
from metainf_operator.resources import EVENT, Resource

__all__ = ["EventReason", "EventSender", "Notice", "Regarding", "manifest"]

logger = logging.getLogger(__name__)

REPORTING_CONTROLLER = "metainf.dev/operator"
NOTE_LIMIT_BYTES = 1024  # Source: Kubernetes API, events.k8s.io/v1 Event.note
INSTANCE_LIMIT_CHARS = 128  # Source: Kubernetes API, events.k8s.io/v1 Event.reportingInstance
NAME_LIMIT_CHARS = 253  # Source: RFC 1123 subdomain names, as metadata.name takes them

NORMAL = "Normal"
WARNING = "Warning"


class EventReason(Enum):
    """The catalogue: the reason as users see it, its type, the action it belongs to, and when it shows."""

    ACCEPTED = ("Accepted", NORMAL, "Validate", "shows when a spec that was refused can now be understood")
    NOT_ACCEPTED = ("NotAccepted", WARNING, "Validate", "shows when a spec cannot be right; the note says where")
    DECIDED = ("Decided", NORMAL, "Select", "shows when a candidate was chosen to run")
    AWAITING_APPROVAL = (
        "AwaitingApproval",
        NORMAL,
        "Select",
        "shows when a candidate was chosen and the policy's mode is Recommend",
    )
    REFUSED = ("Refused", WARNING, "Select", "shows when no candidate keeps every limit; the note says which binds")
    NO_CAPACITY = ("NoCapacity", WARNING, "Select", "shows when candidates would do but no room is free for them")
    PRICES_UNKNOWN = ("PricesUnknown", WARNING, "Select", "shows when no price is known for a pool that could serve")
    SWITCH_STARTED = ("SwitchStarted", NORMAL, "Switch", "shows when a running workload begins to move")
    SWITCH_FINISHED = ("SwitchFinished", NORMAL, "Switch", "shows when the new replicas serve and the old are gone")
    SWITCH_FAILED = ("SwitchFailed", WARNING, "Switch", "shows when the new replicas failed and the old ones stay")
    IMAGE_MISSING = ("ImageMissing", WARNING, "Run", "shows when the engine's image cannot be had")
    MODEL_MISSING = ("ModelMissing", WARNING, "Run", "shows when the engine finds no model or may not have it")
    OUT_OF_MEMORY = ("OutOfMemory", WARNING, "Run", "shows when a replica was killed for memory, with its limit")
    ENGINE_CRASHED = ("EngineCrashed", WARNING, "Run", "shows when an engine ended by itself, each time")
    CANNOT_START = ("CannotStart", WARNING, "Run", "shows when a pod cannot be started for another reason")
    AVAILABLE = ("Available", NORMAL, "Run", "shows when the first replicas serve, or serve again")
    UNAVAILABLE = ("Unavailable", WARNING, "Run", "shows when no replica serves any more")
    SLO_MET = ("SLOMet", NORMAL, "Observe", "shows when an SLO that was missed is kept again")
    SLO_MISSED = ("SLOMissed", WARNING, "Observe", "shows when the observed figure passes an SLO's bound")
    METRICS_UNREADABLE = (
        "MetricsUnreadable",
        WARNING,
        "Observe",
        "shows when the metrics of a ready pod cannot be read; the note names the pod",
    )
    WITHIN_BUDGET = ("WithinBudget", NORMAL, "Account", "shows when the cost is back inside the budget")
    OVER_BUDGET = ("OverBudget", WARNING, "Account", "shows when what runs costs more than the budget")
    STOPPED = ("Stopped", WARNING, "Run", "shows when a workload goes to 0 replicas by onViolation: Stop")
    SUSPENDED = ("Suspended", NORMAL, "Run", "shows when a workload goes to 0 replicas since somebody asked for it")
    RESUMED = ("Resumed", NORMAL, "Run", "shows when a workload comes back from 0 replicas that somebody asked for")
    NAME_TAKEN = ("NameTaken", WARNING, "Apply", "shows when a child's name is held by an object of somebody else")
    CHILD_RESTORED = ("ChildRestored", NORMAL, "Apply", "shows when a change that somebody made to a child is undone")

    def __init__(self, text: str, type_: str, action: str, shows: str) -> None:
        self.text = text
        """CamelCase, stable: alerts match it."""
        self.type = type_
        self.action = action
        self.shows = shows


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object that an event is about."""

    resource: Resource
    name: str
    namespace: str | None
    uid: str
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """What happened, before it is tied to an object and a time."""

    reason: EventReason
    note: str


@dataclass(frozen=True, slots=True)
class EventSender:
    """Sends notices; one that cannot be sent is logged and forgotten, since no event is worth a failed pass."""

    create: Callable[[Resource, JsonObject], Awaitable[JsonObject]]
    """`ClusterApi.create`."""
    instance: str
    """The replica's identity."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def send(self, notice: Notice, regarding: Regarding) -> bool:
        """Whether the event was taken."""
        try:
            await self.create(EVENT, manifest(notice, regarding, self.now(), self.instance))
        except NotLeaderError:
            raise
        except NamespaceTerminatingError:
            return False  # it takes no new objects, and nobody will read them there
        except ClusterError as error:
            logger.warning("sending an event failed", extra={"reason": notice.reason.text, "error": str(error)})
            return False
        return True


def manifest(notice: Notice, regarding: Regarding, at: datetime, instance: str) -> JsonObject:
    """The Event as events.k8s.io/v1 takes it."""
    reason = notice.reason
    reference: JsonObject = {
        "apiVersion": regarding.resource.api_version,
        "kind": regarding.resource.kind,
        "name": regarding.name,
        "uid": regarding.uid,
    }
    if regarding.namespace:
        reference["namespace"] = regarding.namespace
    if regarding.resource_version:
        reference["resourceVersion"] = regarding.resource_version
    time = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {
            "name": _name(regarding, f"{time} {reason.text} {notice.note} {instance}"),
            "namespace": regarding.namespace or "default",  # where the API wants those of cluster-scoped objects
        },
        "eventTime": time,
        "type": reason.type,
        "reason": reason.text,
        "action": reason.action,
        "note": _shortened(notice.note),
        "regarding": reference,
        "reportingController": REPORTING_CONTROLLER,
        "reportingInstance": instance[:INSTANCE_LIMIT_CHARS],
    }


def _name(regarding: Regarding, content: str) -> str:
    """Unique, and the same for the same event: a second try then meets itself instead of making a twin."""
    digest = hashlib.sha256(f"{regarding.uid} {content}".encode()).hexdigest()[:16]
    return f"{regarding.name[: NAME_LIMIT_CHARS - len(digest) - 1]}.{digest}"


def _shortened(note: str) -> str:
    """The note within the API's limit, which counts bytes and is no place to cut a character in two."""
    raw = note.encode()
    if len(raw) <= NOTE_LIMIT_BYTES:
        return note
    ellipsis = "…"
    return raw[: NOTE_LIMIT_BYTES - len(ellipsis.encode())].decode(errors="ignore") + ellipsis
