"""What the operator sees of what runs: pods of the decision in force on nodes of its pool."""

from collections.abc import Callable
from typing import Any

import pytest

from controller_passes import Around, serving, workload
from metainf.candidates import CandidateName
from metainf.workload import Toleration
from metainf_operator.resources import DEPLOYMENT, POD

TWO = CandidateName("cheap", "default", "TP1", 2)


def two() -> Around:
    """Two replicas that serve."""
    return serving(scaling={"replicas": 2}, placement={"pools": ["cheap"]})


def pods(around: Around) -> list[str]:
    return [body["metadata"]["name"] for body in around.cluster.all(POD)]


def edit(around: Around, pod: str, patch: dict[str, Any]) -> None:
    around.cluster.edit(POD, pod, patch, "team")


def test_what_serves_runs_on_what_was_reserved_for_it() -> None:
    around = two()
    found = around.runs()
    assert found is not None
    assert (found.name, found.request.accelerators, found.placed, found.answers) == (TWO, 1, True, True)
    assert Toleration("nvidia.com/gpu", "Exists", "", "NoSchedule") in found.tolerations


def _going(around: Around) -> None:
    name = pods(around)[0]
    edit(around, name, {"metadata": {"finalizers": ["x/y"]}})
    around.cluster._finalize_or_erase((POD, "team", name))


def _of_another_decision(around: Around) -> None:
    (body,) = around.deployments()
    patch = {"metadata": {"annotations": {"metainf.dev/decision": "another"}}}
    around.cluster.edit(DEPLOYMENT, body["metadata"]["name"], patch, "team")


def _suspended(around: Around) -> None:
    around.edit(suspend=True)
    around.settle()


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(lambda around: around.cluster.remove(POD, pods(around)[0], "team"), id="a pod is gone"),
        pytest.param(_going, id="a pod is going"),
        pytest.param(lambda around: edit(around, pods(around)[0], {"spec": {"nodeName": None}}), id="it has no node"),
        pytest.param(
            lambda around: edit(around, pods(around)[0], {"spec": {"nodeName": "fast-0"}}), id="on another pool's node"
        ),
    ],
)
def test_of_two_replicas_one_is_not_placed(happens: Callable[[Around], object]) -> None:
    around = two()
    happens(around)
    found = around.runs()
    assert found is not None
    assert (found.name, found.placed, found.answers) == (TWO, False, True)


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(_of_another_decision, id="its Deployment is of another decision"),
        pytest.param(_suspended, id="suspended"),
    ],
)
def test_nothing_runs_of_a_decision_that_has_no_pods(happens: Callable[[Around], object]) -> None:
    around = two()
    happens(around)
    assert around.runs() is None


def test_what_is_in_place_and_not_ready_runs_and_does_not_answer() -> None:
    around = two()
    first, second = pods(around)
    edit(around, first, {"status": {"conditions": []}})
    found = around.runs()
    assert found is not None
    assert found.answers
    edit(around, second, {"status": {"conditions": []}})
    found = around.runs()
    assert found is not None
    assert (found.name, found.placed, found.answers) == (TWO, True, False)


@pytest.mark.parametrize(
    ("status", "reason", "behind", "answers"),
    [
        pytest.param("True", "NewReplicaSetAvailable", 0, True, id="all replicas answered once"),
        pytest.param("True", "NewReplicaSetAvailable", 1, False, id="those of a template before"),
        pytest.param("True", "ReplicaSetUpdated", 0, False, id="they start"),
        pytest.param("False", "ProgressDeadlineExceeded", 0, False, id="they did not start in their time"),
    ],
)
def test_what_answered_once_and_loads_again_has_shown_that_its_memory_is_enough(
    status: str, reason: str, behind: int, answers: bool
) -> None:
    around = serving()
    (body,), (pod,) = around.deployments(), pods(around)
    edit(around, pod, {"status": {"conditions": []}})
    said = {"type": "Progressing", "status": status, "reason": reason}
    seen = body["metadata"]["generation"] - behind
    patch = {"status": {"observedGeneration": seen, "availableReplicas": 0, "conditions": [said]}}
    around.cluster.edit(DEPLOYMENT, body["metadata"]["name"], patch, "team")
    found = around.runs()
    assert found is not None
    assert (found.placed, found.answers) == (True, answers)


def test_a_workload_that_runs_nothing_has_nothing_running() -> None:
    around = serving()
    around.apply(workload("poor", budget="0.5"))
    around.settle("chat", "poor")
    assert around.condition("Decided", "poor") == ("False", "Refused")
    assert around.runs("poor") is None
