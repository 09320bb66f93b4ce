"""Who decides: the operator, a person who approves, or a person who pins; and a rest in between."""

import pytest

from e2e.story import WORKLOAD_LABEL, Story, workload
from e2e.waiting import always, eventually

pytestmark = pytest.mark.e2e


def test_a_suspended_workload_runs_nothing_keeps_its_record_and_resumes(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload())
    decision = story.ready("chat")["decisionRef"]["name"]
    story.change("chat", suspend=True)

    def assert_at_rest() -> None:
        assert story.pods("chat") == []
        assert story.status("chat")["replicas"] == 0

    eventually(assert_at_rest)
    assert story.says("chat", "Ready", "Unknown", "Suspended")["message"]
    assert story.status("chat")["decisionRef"]["name"] == decision
    story.change("chat", suspend=False)
    status = story.ready("chat")
    assert (status["decisionRef"]["name"], status["replicas"]) == (decision, 1)


def test_what_is_suspended_gives_its_accelerators_back(story: Story) -> None:
    node = story.node("l4", "3.40")
    story.apply(workload("first", scaling={"replicas": 4}))
    story.ready("first")
    story.apply(workload("second"))
    story.refused("second", "NoCapacity")
    story.change("first", suspend=True)
    story.ready("second")
    assert {pod["spec"]["nodeName"] for pod in story.pods("second")} == {node}


def test_a_workload_applied_suspended_buys_nothing(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(suspend=True))
    story.says("chat", "Ready", "Unknown", "Suspended")
    assert story.deployments("chat") == []


def test_a_recommendation_holds_nothing_until_a_person_pins_it_by_name(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(policy={"mode": "Recommend"}))
    message = story.says("chat", "Ready", "Unknown", "AwaitingApproval")["message"]
    (proposed,) = story.decisions("chat", "Proposed")
    name = proposed["metadata"]["name"]
    assert name in message
    assert story.deployments("chat") == []
    story.apply(workload("other", scaling={"replicas": 4}))  # all that there is: a proposal holds nothing
    story.ready("other")
    story.kube.delete("InferenceWorkload", "other")
    eventually(lambda: _assert_no_pods(story, "other"))
    story.change("chat", policy={"mode": "Pinned", "pinned": {"decision": name}})
    status = story.ready("chat")
    chosen = proposed["spec"]["chosen"]
    assert (status["pool"], status["method"]) == (chosen["pool"], chosen["method"])
    assert status["layout"] == chosen["layoutName"]


def _assert_no_pods(story: Story, name: str) -> None:
    assert story.kube.list("Pod", f"{WORKLOAD_LABEL}={name}") == [], f"{name} still has pods"


def test_a_candidate_pinned_in_the_manifest_runs_though_another_is_cheaper(story: Story) -> None:
    story.node("l4", "3.40")
    story.node("l40s", "12.00")
    story.apply(workload("scout"))
    cheap = story.ready("scout")["pool"]
    prices = story.decision("scout")["spec"]["prices"]
    (dear,) = {price["pool"] for price in prices} - {cheap}
    candidate = {"pool": dear, "method": "default", "layout": {"tensorParallel": 2}, "replicas": 1}
    story.apply(workload(policy={"mode": "Pinned", "pinned": {"candidate": candidate}}))
    status = story.ready("chat")
    assert (status["pool"], status["layout"], status["method"]) == (dear, "TP2", "default")
    container = story.deployment("chat")["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_a_pin_stays_where_it_is_whatever_prices_do(story: Story) -> None:
    story.node("l4", "3.40")
    other = story.node("l40s", "40.00")
    story.apply(workload())
    name = story.ready("chat")["decisionRef"]["name"]
    story.change("chat", policy={"mode": "Pinned", "pinned": {"decision": name}})
    story.ready("chat")
    story.price(other, "0.40")

    def assert_it_stays() -> None:
        assert story.status("chat")["accelerator"].startswith("L4-")
        assert len(story.deployments("chat")) == 1

    always(assert_it_stays, for_s=3)


def test_a_pin_to_a_decision_that_is_not_there_is_not_accepted(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(policy={"mode": "Pinned", "pinned": {"decision": "chat-00000000"}}))
    message = story.says("chat", "Accepted", "False", "PinNotFound")["message"]
    assert "chat-00000000" in message
    assert story.deployments("chat") == []
