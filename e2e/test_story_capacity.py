"""Two workloads never count on the same free accelerator, and a replica goes only where it fits whole."""

import functools
from typing import Any

import pytest

from e2e.cluster import gpu_node, named
from e2e.cluster.fake_nodes import taint
from e2e.story import Story, workload
from e2e.waiting import always, eventually

pytestmark = pytest.mark.e2e

_WIDE = {"id": "Qwen/Qwen3-235B-A22B"}  # 470 GB of weights: eight accelerators of 80 GB, and no fewer


def _single(story: Story, number: int = 0) -> dict[str, Any]:
    return gpu_node(
        f"{story.prefix}-single-{number}", product="NVIDIA-L4", memory_mib=23034, count=1, cost_per_hour="0.90"
    )


def test_of_two_workloads_and_one_free_accelerator_the_second_waits_and_then_runs(story: Story) -> None:
    story.node(_single(story))
    story.apply(workload("first"))
    story.ready("first")
    story.apply(workload("second"))
    story.refused("second", "NoCapacity")
    assert story.condition("second", "Ready")["reason"] == "NoCapacity"
    assert story.deployments("second") == []

    def assert_it_waits() -> None:
        assert story.condition("first", "Ready")["status"] == "True"
        assert story.deployments("second") == []

    always(assert_it_waits, for_s=2)
    story.kube.delete("InferenceWorkload", "first")
    story.ready("second")


def test_workloads_that_come_at_once_share_what_is_there_by_their_turn(story: Story) -> None:
    story.add_nodes([_single(story, number) for number in range(2)])
    names = [f"w{number}" for number in range(4)]
    for name in names:
        story.apply(workload(name))

    def assert_two_run_and_two_wait() -> None:
        reasons = sorted(story.condition(name, "Ready")["reason"] for name in names)
        assert reasons == ["NoCapacity", "NoCapacity", "Serving", "Serving"]

    eventually(assert_two_run_and_two_wait)
    placed = [pod["spec"].get("nodeName") for name in names for pod in story.pods(name)]
    assert sorted(filter(None, placed)) == sorted(story.nodes), f"not one pod a node: {placed}"
    (running, *_) = [name for name in names if story.condition(name, "Ready")["status"] == "True"]
    waiting = [name for name in names if story.condition(name, "Ready")["status"] == "False"]
    story.kube.delete("InferenceWorkload", running)
    story.ready(min(waiting))


def test_other_peoples_pods_take_room_too(story: Story) -> None:
    story.node(_single(story))
    story.kube.apply(_holder("someone", story.nodes[0], 1))
    eventually(lambda: _assert_running(story, "someone"))
    story.apply(workload())
    story.refused("chat", "NoCapacity")
    story.kube.delete("Pod", "someone")
    story.ready("chat")


def test_eight_nodes_with_one_free_accelerator_each_are_no_place_for_a_replica_of_eight(story: Story) -> None:
    names = [f"{story.prefix}-a100-{number}" for number in range(8)]
    story.add_nodes([named("a100", name, cost_per_hour="32.00") for name in names])
    for number, name in enumerate(names):
        story.kube.apply(_holder(f"holder-{number}", name, 7))
    for number in range(8):
        eventually(functools.partial(_assert_running, story, f"holder-{number}"))
    story.apply(workload(model=_WIDE, budget={"perHour": "200"}))
    message = story.refused("chat", "NoCapacity")
    assert story.deployments("chat") == [], message
    story.kube.delete("Pod", "holder-3")
    status = story.ready("chat")
    assert "8" in status["layout"]
    (pod,) = story.pods("chat")
    assert pod["spec"]["nodeName"] == names[3]


def test_eight_nodes_of_one_accelerator_each_can_never_hold_a_replica_of_eight(story: Story) -> None:
    nodes = [
        gpu_node(
            f"{story.prefix}-one-{number}",
            product="NVIDIA-A100-SXM4-80GB",
            memory_mib=81920,
            count=1,
            cost_per_hour="4.00",
            taints=[taint("nvidia.com/gpu", "true")],
        )
        for number in range(8)
    ]
    story.add_nodes(nodes)
    story.apply(workload(model=_WIDE, budget={"perHour": "200"}))
    story.refused("chat", "ModelDoesNotFit")
    (decision,) = story.decisions("chat", "Refused")
    reasons = {rejection["reason"] for rejection in decision["spec"]["rejections"]}
    assert reasons & {"NodeTooSmall", "MemoryTooSmall"}, reasons
    assert story.deployments("chat") == []


def _holder(name: str, node: str, accelerators: int) -> dict[str, Any]:
    resources = {"limits": {"nvidia.com/gpu": str(accelerators)}, "requests": {"nvidia.com/gpu": str(accelerators)}}
    container = {"name": "main", "image": "example.com/someone:1", "resources": resources}
    spec = {"nodeName": node, "containers": [container], "tolerations": [{"operator": "Exists"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def _assert_running(story: Story, name: str) -> None:
    assert story.kube.get("Pod", name)["status"]["phase"] == "Running", f"{name} does not run yet"
