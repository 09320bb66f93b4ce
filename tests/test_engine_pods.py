"""Which pods are engines of ours that can be asked, and where."""

from typing import Any

import pytest

from metainf_operator.engine_pods import EnginePod, engine_pod
from metainf_operator.projections import project_pod

SERVING = "0a1b2c3d"


def pod(**change: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "metadata": {
            "name": "chat-0a1b2c3d-5d9c7b-x",
            "namespace": "team",
            "uid": "p1",
            "labels": {"metainf.dev/workload": "chat", "metainf.dev/serving": SERVING},
            "ownerReferences": [
                {"kind": "ReplicaSet", "name": f"chat-{SERVING}-5d9c7b", "uid": "r", "controller": True}
            ],
        },
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    for path, value in change.items():
        *parents, last = path.split("__")
        target = body
        for name in parents:
            target = target[name]
        target[last] = value
    return body


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(pod(), EnginePod("p1", "10.0.0.7", SERVING), id="ready"),
        pytest.param(pod(status__podIP="fd00::7"), EnginePod("p1", "[fd00::7]", SERVING), id="by IPv6"),
        pytest.param(pod(status__conditions=[{"type": "Ready", "status": "False"}]), None, id="not ready"),
        pytest.param(pod(status={}), None, id="nothing known of it yet"),
        pytest.param(pod(status__podIP="example.com/#"), None, id="no address"),
        pytest.param(pod(metadata__deletionTimestamp="2026-01-01T00:00:00Z"), None, id="on its way out"),
        pytest.param(pod(metadata__labels={"metainf.dev/workload": "chat"}), None, id="without a serving"),
        pytest.param(pod(metadata__ownerReferences=[]), None, id="labelled by somebody"),
        pytest.param(
            pod(metadata__ownerReferences=[{"kind": "ReplicaSet", "name": "other-5d9c7b", "controller": True}]),
            None,
            id="of another Deployment",
        ),
        pytest.param(
            pod(metadata__ownerReferences=[{"kind": "Job", "name": f"chat-{SERVING}-1", "controller": True}]),
            None,
            id="of a Job",
        ),
        pytest.param(pod(spec__hostNetwork=True), None, id="at the node's address"),
    ],
)
def test_an_engine_is_asked_where_it_answers_and_nobody_else(body: dict[str, Any], expected: EnginePod | None) -> None:
    assert engine_pod(body) == expected
    use = project_pod(body)
    assert use is not None
    assert use.engine == expected


def test_a_pod_that_becomes_ready_takes_no_more_than_before() -> None:
    ready, starting = project_pod(pod()), project_pod(pod(status={}))
    assert ready is not None
    assert starting is not None
    assert ready != starting
    assert ready.takes_as(starting)
    moved = project_pod(pod(spec__nodeName="n2"))
    assert moved is not None
    assert not ready.takes_as(moved)
