import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from metainf_operator.api_errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidObjectError,
    NamespaceTerminatingError,
    NotFoundError,
    UnreachableError,
    WatchExpiredError,
    error_from_response,
)
from metainf_operator.resources import ALL_RESOURCES, DEPLOYMENT, INFERENCE_WORKLOAD, NODE, SERVICE
from metainf_operator.wire import Request, lines, page_after, parsed_object, watch_event


def status(code: int, reason: str = "", **details: Any) -> bytes:
    return json.dumps({"kind": "Status", "code": code, "reason": reason, "message": "why", "details": details}).encode()


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        pytest.param(404, status(404), NotFoundError, id="404"),
        pytest.param(404, b"404 page not found", NotFoundError, id="404 of an unknown group"),
        pytest.param(409, status(409, "Conflict"), ConflictError, id="409 stale version"),
        pytest.param(409, status(409, "AlreadyExists"), AlreadyExistsError, id="409 taken name"),
        pytest.param(401, status(401, "Unauthorized"), ForbiddenError, id="401"),
        pytest.param(403, status(403, "Forbidden"), ForbiddenError, id="403"),
        pytest.param(
            403,
            status(403, "Forbidden", causes=[{"reason": "NamespaceTerminating"}]),
            NamespaceTerminatingError,
            id="403 of a terminating namespace",
        ),
        pytest.param(400, status(400), InvalidObjectError, id="400"),
        pytest.param(422, status(422, "Invalid"), InvalidObjectError, id="422"),
        pytest.param(410, status(410, "Expired"), WatchExpiredError, id="410"),
        pytest.param(429, status(429), UnreachableError, id="429"),
        pytest.param(500, status(500), UnreachableError, id="500"),
        pytest.param(
            500,
            b'{"kind":"Status","message":"failed to create typed patch object (a/w; apps/v1, Kind=Deployment): '
            b'.spec.nope: field not declared in schema","code":500}',
            InvalidObjectError,
            id="500 of an apply of an unknown field",
        ),
        pytest.param(
            422,
            status(422, "Invalid", causes=[{"field": "metadata.uid", "message": "field is immutable"}]),
            ConflictError,
            id="422 of an apply to another uid",
        ),
        pytest.param(503, b"<html>proxy</html>", UnreachableError, id="503 of a proxy"),
        pytest.param(418, b"", ClusterError, id="anything else"),
    ],
)
def test_each_answer_has_its_error(code: int, body: bytes, kind: type[ClusterError]) -> None:
    error = error_from_response("getting Pod a/b", code, body, {})
    assert type(error) is kind
    assert error.code == code
    assert str(error).startswith("getting Pod a/b: ")
    assert "html" not in str(error)


def test_says_which_fields_were_refused() -> None:
    causes = [{"field": "spec.replicas", "message": "must be >= 0", "reason": "FieldValueInvalid"}, {"reason": "Odd"}]
    error = error_from_response("x", 422, status(422, "Invalid", causes=causes), {})
    assert isinstance(error, InvalidObjectError)
    assert error.causes == ("spec.replicas: must be >= 0", "object: Odd")


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (status(429, retryAfterSeconds=3), {}, 3.0),
        (status(429), {"Retry-After": "7"}, 7.0),
        (b"", {"Retry-After": "1"}, 1.0),
        (status(429, retryAfterSeconds=3), {"Retry-After": "7"}, 3.0),
        (status(429), {"Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT"}, None),
        (status(429), {"Retry-After": "-1"}, None),
        (status(429), {"Retry-After": "nan"}, None),
        (status(429), {}, None),
    ],
)
def test_reads_when_to_come_back(body: bytes, headers: dict[str, str], expected: float | None) -> None:
    error = error_from_response("x", 429, body, headers)
    assert isinstance(error, UnreachableError)
    assert error.retry_after_s == expected


def test_cuts_a_message_that_quotes_a_whole_object() -> None:
    body = json.dumps({"kind": "Status", "message": "x" * 100_000}).encode()
    assert len(str(error_from_response("doing", 422, body, {}))) < 2100


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (NODE.path(), "/api/v1/nodes"),
        (NODE.path(None, "n1"), "/api/v1/nodes/n1"),
        (SERVICE.path("a", "s"), "/api/v1/namespaces/a/services/s"),
        (DEPLOYMENT.path("a"), "/apis/apps/v1/namespaces/a/deployments"),
        (
            INFERENCE_WORKLOAD.path("a", "chat", "status"),
            "/apis/metainf.dev/v1alpha1/namespaces/a/inferenceworkloads/chat/status",
        ),
        (SERVICE.path("a", "../x"), "/api/v1/namespaces/a/services/..%2Fx"),
    ],
)
def test_each_object_has_its_path(path: str, expected: str) -> None:
    assert path == expected


def test_an_object_in_no_namespace_has_no_path_where_its_kind_needs_one() -> None:
    with pytest.raises(ValueError, match="stands in a namespace"):
        SERVICE.path(None, "s")


def test_kinds_and_plurals_are_named_once() -> None:
    assert len({resource.kind for resource in ALL_RESOURCES}) == len(ALL_RESOURCES)
    assert len({(resource.group, resource.plural) for resource in ALL_RESOURCES}) == len(ALL_RESOURCES)


async def chunked(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def test_lines_are_put_together_however_the_network_cut_them() -> None:
    async def main() -> list[bytes]:
        return [line async for line in lines(chunked(b'{"a"', b":1}\n\n{", b'"b":2}\n{"c":3}\n{"cut', b"off"))]

    assert asyncio.run(main()) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']


def test_a_watch_line_is_an_event_or_an_error() -> None:
    line = json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}).encode()
    assert watch_event("watching pods", line).resource_version == "9"
    gone = json.dumps({"type": "ERROR", "object": json.loads(status(410, "Expired"))}).encode()
    with pytest.raises(WatchExpiredError, match="watching pods: why"):
        watch_event("watching pods", gone)
    for odd in (b'{"type": "NEW", "object": {}}', b'{"object": {}}'):
        with pytest.raises(ClusterError, match="unknown type"):
            watch_event("watching pods", odd)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"null"])
def test_an_answer_that_is_no_object_counts_as_no_answer(body: bytes) -> None:
    with pytest.raises(UnreachableError, match="getting x: the answer is not"):
        parsed_object("getting x", body)


def test_the_next_page_keeps_the_question_without_its_version() -> None:
    request = Request("listing", "GET", "/x", {"limit": "2", "labelSelector": "a=b", "resourceVersion": "0"})
    assert page_after(request, "tok").query == {"limit": "2", "labelSelector": "a=b", "continue": "tok"}


def test_a_requests_body_is_not_shown() -> None:
    assert "secret" not in repr(Request("creating x", "POST", "/x", {}, {"data": "secret"}))
