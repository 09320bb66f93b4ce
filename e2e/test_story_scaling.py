"""How many replicas run: by the operator, by a person, by an autoscaler, and never more than the limits leave."""

import pytest

from e2e.cluster import kubectl
from e2e.story import Story, workload
from e2e.waiting import eventually

pytestmark = pytest.mark.e2e


def test_an_autoscaler_takes_a_workload_from_one_replica_to_its_minimum_of_three(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(scaling={"replicas": 1}))
    assert story.ready("chat")["replicas"] == 1
    target = {"apiVersion": "metainf.dev/v1alpha1", "kind": "InferenceWorkload", "name": "chat"}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    story.kube.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "chat"},
            "spec": {
                "scaleTargetRef": target,
                "minReplicas": 3,
                "maxReplicas": 4,
                "metrics": [{"type": "Resource", "resource": cpu}],
            },
        }
    )

    def assert_three_serve() -> None:
        assert story.kube.get("InferenceWorkload", "chat")["spec"]["scaling"]["replicas"] == 3
        assert story.status("chat")["replicas"] == 3
        assert len(story.pods("chat")) == 3

    eventually(assert_three_serve, within_s=40)
    story.ready("chat")
    assert story.status("chat")["costPerHour"].startswith("2.55")

    def assert_the_autoscaler_sees_them() -> None:
        assert story.kube.get("HorizontalPodAutoscaler", "chat")["status"].get("currentReplicas") == 3

    eventually(assert_the_autoscaler_sees_them, within_s=15)


def test_more_replicas_than_there_is_room_for_are_capped_and_it_is_said(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(scaling={"replicas": 1}))
    story.ready("chat")
    kubectl(story.cluster, "scale", "miw", "chat", "-n", story.namespace, "--replicas=9")
    condition = story.says("chat", "WithinBudget", "True", "ReplicasCapped")
    assert "4 of the 9" in condition["message"]
    eventually(lambda: _assert_pods(story, 4))
    story.ready("chat")


def test_more_replicas_than_the_budget_allows_are_capped_and_it_is_said(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(budget={"perHour": "2"}, scaling={"replicas": 4}))
    assert "2 of the 4" in story.says("chat", "WithinBudget", "True", "ReplicasCapped")["message"]
    eventually(lambda: _assert_pods(story, 2))


def test_a_workload_scaled_to_zero_rests_and_comes_back(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(scaling={"replicas": 1}))
    story.ready("chat")
    story.change("chat", scaling={"replicas": 0})
    eventually(lambda: _assert_pods(story, 0))
    story.says("chat", "Ready", "Unknown", "Suspended")
    story.change("chat", scaling={"replicas": 2})
    assert story.ready("chat")["replicas"] == 2


def test_replicas_come_and_go_without_touching_those_that_stay(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(scaling={"replicas": 1}))
    story.ready("chat")
    (first,) = (pod["metadata"]["uid"] for pod in story.pods("chat"))
    story.change("chat", scaling={"replicas": 3})
    eventually(lambda: _assert_pods(story, 3))
    assert first in {pod["metadata"]["uid"] for pod in story.pods("chat")}
    assert len(story.deployments("chat")) == 1


def _assert_pods(story: Story, count: int) -> None:
    found = [pod["metadata"]["name"] for pod in story.pods("chat")]
    assert len(found) == count, f"{len(found)} pods, not {count}: {found}"
