"""What can go wrong between the operator and the API server, told apart by what to do next.

Separate from `cluster` because the work queue, the leader's Lease and every test read these, and none of them should
import a client library for it.

    ClusterError
      NotFoundError                no such object, or no such resource: the CRD may be missing
      ConflictError                somebody else was faster; look again and decide anew
        AlreadyExistsError         a create met an object of that name
      ForbiddenError               the operator's role or its credentials do not allow it; a person has to act
        NamespaceTerminatingError  the namespace is being deleted: leave it alone
      InvalidObjectError           the server refused the object itself; the same object will be refused again
      WatchExpiredError            the resource version is too old to go on from: list again
      UnreachableError             no answer, or an answer that says to come back later
      NotLeaderError               another replica acts now; this one must not write
"""

import json
from collections.abc import Mapping
from typing import Any

__all__ = [
    "AlreadyExistsError",
    "ClusterError",
    "ConflictError",
    "ForbiddenError",
    "InvalidObjectError",
    "NamespaceTerminatingError",
    "NotFoundError",
    "NotLeaderError",
    "UnreachableError",
    "WatchExpiredError",
    "error_from_response",
    "error_from_status",
]

MESSAGE_LIMIT_CHARS = 2000
"""A server quotes whole fields back in its messages; conditions and logs need the sentence, not the field."""

UNTYPED_PATCH = "failed to create typed patch object"
"""How an apply of a field that the schema does not have, or of another type, is answered: with a bare 500.

Source: seen at Kubernetes v1.37.2, for Deployments and custom resources alike.
"""


class ClusterError(Exception):
    """Base of everything that a call to the API server raises on purpose."""

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        """HTTP status, None where no answer came."""


class NotFoundError(ClusterError):
    """No such object, or the API server does not know the resource."""


class ConflictError(ClusterError):
    """The object changed meanwhile, a precondition failed, or another field manager holds a field."""


class AlreadyExistsError(ConflictError):
    """An object of that name is already there."""


class ForbiddenError(ClusterError):
    """The operator may not do this: its role, a quota, an admission policy or its credentials stand against it."""


class NamespaceTerminatingError(ForbiddenError):
    """The namespace is being deleted and takes no new objects."""


class InvalidObjectError(ClusterError):
    """The API server refused the object; `causes` name the fields where the server did."""

    def __init__(self, message: str, *, code: int | None = None, causes: tuple[str, ...] = ()) -> None:
        super().__init__(message, code=code)
        self.causes = causes


class WatchExpiredError(ClusterError):
    """The resource version is no longer known (410): list again and start from there."""


class UnreachableError(ClusterError):
    """The API server gave no answer, or asked to come back later; the same call may succeed."""

    def __init__(self, message: str, *, code: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s
        """Seconds that the server asked to wait, None where it did not say."""


class NotLeaderError(ClusterError):
    """This replica does not hold the Lease (any more) and must not write."""


def error_from_response(doing: str, code: int, body: bytes, headers: Mapping[str, str]) -> ClusterError:
    """The error for an answer of 400 and above; `doing` is the gerund phrase that the message starts with."""
    status = _status_object(body)
    if "Retry-After" in headers and "retryAfterSeconds" not in (status.get("details") or {}):
        status["details"] = {**(status.get("details") or {}), "retryAfterSeconds": headers["Retry-After"]}
    return error_from_status(doing, {**status, "code": code})


def error_from_status(doing: str, status: Mapping[str, Any]) -> ClusterError:
    """The error for a `Status` object, as an answer or a watch's ERROR event carries it."""
    code = int(status.get("code") or 0)
    reason = str(status.get("reason") or "")
    message = f"{doing}: {_sentence(status)}"
    causes = _causes(status)
    if message.startswith(f"{doing}: {UNTYPED_PATCH}"):
        return InvalidObjectError(message, code=code)
    if any(cause.get("field") == "metadata.uid" for cause in causes):
        return ConflictError(message, code=code)  # an apply that names another object's uid: 422 "field is immutable"
    if code == 404:
        return NotFoundError(message, code=code)
    if code == 409:
        return (AlreadyExistsError if reason == "AlreadyExists" else ConflictError)(message, code=code)
    if code == 403 and any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return NamespaceTerminatingError(message, code=code)
    if code in (401, 403):
        return ForbiddenError(message, code=code)
    if code == 410:
        return WatchExpiredError(message, code=code)
    if code in (400, 422):
        return InvalidObjectError(message, code=code, causes=tuple(map(_cause_sentence, causes)))
    if code == 429 or code >= 500:
        return UnreachableError(message, code=code, retry_after_s=_retry_after_s(status))
    return ClusterError(message, code=code)


def _status_object(body: bytes) -> dict[str, Any]:
    """The server's `Status`; empty where a proxy in front of it answered with something else."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) and parsed.get("kind") == "Status" else {}


def _sentence(status: Mapping[str, Any]) -> str:
    message = str(status.get("message") or "") or f"the answer was HTTP {status.get('code')} without a reason"
    return message if len(message) <= MESSAGE_LIMIT_CHARS else message[: MESSAGE_LIMIT_CHARS - 1] + "…"


def _causes(status: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    details = status.get("details") or {}
    return tuple(details.get("causes") or ())


def _cause_sentence(cause: Mapping[str, Any]) -> str:
    return f"{cause.get('field') or 'object'}: {cause.get('message') or cause.get('reason') or 'refused'}"


def _retry_after_s(status: Mapping[str, Any]) -> float | None:
    details = status.get("details") or {}
    try:
        seconds = float(details.get("retryAfterSeconds", ""))
    except (TypeError, ValueError):
        return None  # absent, or an HTTP date: our own back-off will do
    return seconds if 0 < seconds < float("inf") else None
