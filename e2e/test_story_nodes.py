"""Nodes fail, leave and come back; what runs there moves, or says why it cannot."""

from typing import Any

import pytest

from e2e.cluster import lose_node
from e2e.cluster.fake_nodes import taint
from e2e.story import Story, workload
from e2e.waiting import always, eventually

pytestmark = pytest.mark.e2e


def _nodes_of(story: Story, name: str) -> set[str]:
    return {pod["spec"].get("nodeName", "") for pod in story.pods(name)}


def test_a_lost_node_moves_its_workload_to_the_next_best_pool(story: Story) -> None:
    lost = story.node("l4", "3.40")
    other = story.node("l40s", "12.00")
    story.apply(workload(policy={"cooldown": "1h"}))
    story.ready("chat")
    assert _nodes_of(story, "chat") == {lost}
    lose_node(story.cluster, lost)

    def assert_moved() -> None:
        assert _nodes_of(story, "chat") == {other}
        assert story.status("chat")["accelerator"].startswith("L40S")

    eventually(assert_moved, within_s=60)
    story.ready("chat", within_s=60)


def test_a_pool_that_vanishes_under_a_workload_moves_it(story: Story) -> None:
    gone = story.node("l4", "3.40")
    other = story.node("l40s", "12.00")
    story.apply(workload(policy={"cooldown": "1h"}))
    story.ready("chat")
    story.remove_node(gone)
    eventually(lambda: _assert_on(story, other), within_s=40)
    assert story.ready("chat", within_s=40)["accelerator"].startswith("L40S")


def _assert_on(story: Story, node: str) -> None:
    assert _nodes_of(story, "chat") == {node}


def test_a_pool_that_vanishes_with_no_other_is_said_and_serves_again_when_it_is_back(story: Story) -> None:
    node = story.node("l4", "3.40")
    story.apply(workload())
    story.ready("chat")
    story.remove_node(node)
    condition = story.says("chat", "Feasible", "False")
    assert condition["reason"] in ("NoMatchingPool", "PoolGone"), condition
    assert story.condition("chat", "Ready")["status"] == "False"
    story.node("l4", "3.40", name=node)
    story.ready("chat", within_s=45)
    assert _nodes_of(story, "chat") == {node}
    assert len(story.deployments("chat")) == 1


_CLOSED = [
    pytest.param({"unschedulable": True}, id="cordoned"),
    pytest.param({"taints": [taint("nvidia.com/gpu", "present"), taint("mine")]}, id="tainted"),
]


@pytest.mark.parametrize("spec", _CLOSED)
def test_a_node_that_takes_no_pods_is_no_capacity(story: Story, spec: dict[str, Any]) -> None:
    closed = story.node("l4", "3.40")
    story.kube.patch("Node", closed, {"spec": spec})
    opened = story.node("l40s", "12.00")
    story.apply(workload())
    story.ready("chat")
    assert _nodes_of(story, "chat") == {opened}


@pytest.mark.parametrize("spec", _CLOSED)
def test_a_node_that_is_closed_under_a_running_workload_moves_nothing(story: Story, spec: dict[str, Any]) -> None:
    node = story.node("l4", "3.40")
    story.node("l40s", "12.00")
    story.apply(workload())
    story.ready("chat")
    before = {pod["metadata"]["uid"] for pod in story.pods("chat")}
    story.kube.patch("Node", node, {"spec": spec})

    def assert_same_pods() -> None:
        assert {pod["metadata"]["uid"] for pod in story.pods("chat")} == before
        assert story.status("chat")["accelerator"].startswith("L4-")

    always(assert_same_pods, for_s=3)
