"""The operator is killed in the middle of things: another life of it goes on from there, and nothing is doubled."""

from collections.abc import Callable
from typing import Any

import pytest

from e2e.operator_process import OperatorProcess, Operators
from e2e.story import Story, pods_that, workload
from e2e.waiting import eventually

pytestmark = pytest.mark.e2e

_SOON_S = 0.01  # the moment is to be caught


@pytest.fixture
def mortal(operators: Operators, place: Story) -> OperatorProcess:
    """The shared operator, to be killed; the next story starts it anew."""
    place.operator = operators.usual()
    return place.operator


def _some(story: Story, kind: str) -> Callable[[], None]:
    def check() -> None:
        assert story.owned(kind, "chat"), f"no {kind} yet"

    return check


@pytest.mark.parametrize("seen", ["InferenceDecision", "Deployment", "Service", "Pod"])
def test_killed_in_mid_rollout_it_goes_on_from_what_stands(place: Story, mortal: OperatorProcess, seen: str) -> None:
    place.node("l4", "3.40")
    place.apply(workload(engine=pods_that(ready_after="2s")))
    check = _some(place, seen) if seen != "Pod" else lambda: _assert_pods(place, 1)
    eventually(check, every_s=_SOON_S)
    mortal.kill()
    before = {kind: _uids(place, kind) for kind in ("InferenceDecision", "Deployment", "Service")}
    mortal.start()
    place.ready("chat", within_s=45)
    _assert_single(place)
    for kind, uids in before.items():
        assert uids <= _uids(place, kind), f"{kind} was made anew"
    assert len(place.decisions("chat", "Active")) == 1


def _uids(story: Story, kind: str) -> set[str]:
    return {str(each["metadata"]["uid"]) for each in story.owned(kind, "chat")}


def _assert_pods(story: Story, count: int) -> None:
    assert len(story.pods("chat")) == count, f"{len(story.pods('chat'))} pods, not {count}"


def _assert_single(story: Story) -> None:
    assert len(story.deployments("chat")) == 1
    assert len(story.owned("Service", "chat")) == 1
    _assert_pods(story, 1)


def _new_side_starts(story: Story) -> None:
    assert len(story.deployments("chat")) == 2, "the new side does not stand yet"


def _service_moved(story: Story, old: dict[str, Any]) -> None:
    _new_side_starts(story)
    assert story.service("chat")["spec"]["selector"] != old, "the Service did not move yet"


@pytest.mark.parametrize("moment", ["the new side starts", "the old side drains"])
def test_killed_in_mid_switch_it_goes_on_and_never_sends_to_nobody(
    place: Story, mortal: OperatorProcess, moment: str
) -> None:
    place.node("l4", "3.40")
    other = place.node("l40s", "40.00")
    place.apply(workload(engine=pods_that(ready_after="2s")))
    place.ready("chat")
    selector = place.service("chat")["spec"]["selector"]
    place.price(other, "1.00")
    if moment == "the new side starts":
        eventually(lambda: _new_side_starts(place), every_s=_SOON_S)
    else:
        eventually(lambda: _service_moved(place, selector), every_s=_SOON_S)
    mortal.kill()
    mortal.start()

    def assert_done() -> None:
        _assert_served(place)
        assert place.condition("chat", "Ready")["status"] == "True", "not Ready yet"
        assert place.status("chat")["accelerator"].startswith("L40S")
        _assert_single(place)

    eventually(assert_done, within_s=60)
    (active,) = place.decisions("chat", "Active")
    assert active["spec"]["chosen"]["pool"] == place.status("chat")["pool"]
    assert len(place.decisions("chat")) == 2


def _assert_served(story: Story) -> None:
    """Fail for good, not for now, where the Service sends to pods that are not there."""
    selector = story.service("chat")["spec"]["selector"]
    ready = [
        pod["metadata"]["name"]
        for pod in story.kube.list("Pod", ",".join(f"{k}={v}" for k, v in selector.items()))
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
    ]
    if not ready:
        pytest.fail(f"the Service sends to nobody: {selector}")


def test_what_was_deleted_while_it_was_dead_is_no_ghost_afterwards(place: Story, mortal: OperatorProcess) -> None:
    place.node("l4", "3.40")
    place.apply(workload("first", scaling={"replicas": 4}))
    place.ready("first")
    mortal.kill()
    place.kube.delete("InferenceWorkload", "first")
    place.apply(workload("second", scaling={"replicas": 4}))
    mortal.start()
    assert place.ready("second", within_s=45)["replicas"] == 4
    assert place.owned("Service", "first") == []


def test_told_to_stop_it_ends_well_and_hands_over_at_once(place: Story, mortal: OperatorProcess) -> None:
    place.node("l4", "3.40")
    place.apply(workload())
    place.ready("chat")
    assert mortal.stop() == 0
    lease = place.kube.within("metainf-e2e").get("Lease", "metainf-operator")
    assert not lease["spec"].get("holderIdentity"), "the Lease is still held"
    mortal.start_leading()
    place.ready("chat")
