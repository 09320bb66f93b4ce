"""Prices move: what runs moves along where that pays, and is kept or stopped where nothing fits any more."""

import pytest

from e2e.story import Story, pods_that, workload
from e2e.waiting import always, eventually

pytestmark = pytest.mark.e2e


def _accelerator(story: Story, name: str = "chat") -> str:
    return str(story.status(name).get("accelerator"))


def test_a_price_that_falls_moves_the_workload_without_a_gap(story: Story) -> None:
    story.node("l4", "3.40")
    dear = story.node("l40s", "40.00")
    story.apply(workload(engine=pods_that(ready_after="2s")))
    story.ready("chat")
    old = story.deployment("chat")["metadata"]["name"]
    old_serving = story.service("chat")["spec"]["selector"]["metainf.dev/serving"]
    (old_decision,) = story.decisions("chat")
    story.price(dear, "1.00")

    def assert_both_sides_stand() -> str:
        names = {d["metadata"]["name"] for d in story.deployments("chat")}
        assert len(names) == 2, f"not amid a switch: {names}"
        (new,) = names - {old}
        return str(new)

    new = eventually(assert_both_sides_stand)
    served: list[str] = []

    def assert_switched() -> None:
        by_name = {d["metadata"]["name"]: d for d in story.deployments("chat")}
        serving = story.service("chat")["spec"]["selector"]["metainf.dev/serving"]
        target = old if serving == old_serving else new
        assert by_name[target]["status"].get("availableReplicas", 0) > 0, f"the Service sends to {target}: not ready"
        served.append(serving)
        assert target == new, "the Service sends to the old side"

    eventually(assert_switched)
    assert served[0] == old_serving, "the Service moved before the new side was ready"
    status = story.ready("chat", within_s=40)
    assert story.deployment("chat")["metadata"]["name"] == new
    assert (status["accelerator"][:4], status["costPerHour"]) == ("L40S", "0.25 USD")
    phases = {d["metadata"]["name"]: d["status"]["phase"] for d in story.decisions("chat")}
    assert phases.pop(old_decision["metadata"]["name"]) == "Superseded"
    assert list(phases.values()) == ["Active"]


def test_a_gain_below_the_minimum_moves_nothing(story: Story) -> None:
    story.node("l4", "3.40")
    other = story.node("l40s", "40.00")
    story.apply(workload())
    story.ready("chat")
    story.price(other, "3.20")  # 6 % cheaper; minimumGain is 10 %
    message = story.says("chat", "Decided", "True", "Kept")["message"]
    assert "minimumGain" in message

    def assert_still_there() -> None:
        assert _accelerator(story).startswith("L4-")
        assert len(story.deployments("chat")) == 1

    always(assert_still_there, for_s=2)


def test_nothing_moves_for_a_gain_while_it_cools_down(story: Story) -> None:
    story.node("l4", "3.40")
    other = story.node("l40s", "40.00")
    story.apply(workload(policy={"cooldown": "1h"}))
    story.ready("chat")
    story.price(other, "0.40")
    assert "cooldown" in story.says("chat", "Decided", "True", "Kept")["message"]
    assert _accelerator(story).startswith("L4-")
    story.change("chat", policy={"cooldown": "0s"})

    def assert_it_moves() -> None:
        assert _accelerator(story).startswith("L40S")

    eventually(assert_it_moves)


def test_a_broken_budget_moves_whatever_the_cooldown_says(story: Story) -> None:
    cheap = story.node("l4", "3.40")
    story.node("l40s", "12.00")
    story.apply(workload(budget={"perHour": "4"}, policy={"cooldown": "1h"}))
    story.ready("chat")
    story.price(cheap, "40.00")

    def assert_it_moves() -> None:
        assert _accelerator(story).startswith("L40S")

    eventually(assert_it_moves)
    story.says("chat", "WithinBudget", "True")


def test_over_budget_and_kept_it_serves_on_and_says_so(story: Story) -> None:
    node = story.node("l4", "3.40")
    story.apply(workload(budget={"perHour": "1"}))
    story.ready("chat")
    before = [pod["metadata"]["uid"] for pod in story.pods("chat")]
    story.price(node, "40.00")
    message = story.says("chat", "WithinBudget", "False", "OverBudget")["message"]
    assert "10" in message and "1 USD/h" in message, message
    assert story.condition("chat", "Ready")["status"] == "False"
    assert story.condition("chat", "Available")["status"] == "True"

    def assert_the_same_pods_run() -> None:
        assert [pod["metadata"]["uid"] for pod in story.pods("chat")] == before

    always(assert_the_same_pods_run, for_s=2)
    story.price(node, "3.40")
    story.ready("chat")
    assert_the_same_pods_run()


def test_over_budget_and_to_be_stopped_it_goes_to_zero_and_comes_back(story: Story) -> None:
    node = story.node("l4", "3.40")
    story.apply(workload(budget={"perHour": "1"}, policy={"onViolation": "Stop"}))
    story.ready("chat")
    story.price(node, "40.00")

    def assert_stopped() -> None:
        assert story.deployment("chat")["spec"]["replicas"] == 0
        assert story.pods("chat") == []

    eventually(assert_stopped)
    assert story.says("chat", "Ready", "False")["reason"] in ("BudgetTooLow", "Suspended")
    assert story.status("chat")["replicas"] == 0
    story.price(node, "3.40")
    assert story.ready("chat")["replicas"] == 1


def test_a_price_that_only_moves_a_little_restarts_no_pod_and_shows_in_the_cost(story: Story) -> None:
    node = story.node("l4", "3.40")
    story.apply(workload())
    story.ready("chat")
    before = [pod["metadata"]["uid"] for pod in story.pods("chat")]
    story.price(node, "3.60")

    def assert_new_cost() -> None:
        assert story.status("chat")["costPerHour"] == "0.90 USD"

    eventually(assert_new_cost)
    story.ready("chat")
    assert [pod["metadata"]["uid"] for pod in story.pods("chat")] == before
