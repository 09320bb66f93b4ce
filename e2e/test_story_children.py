"""A user's edit of a child is put right, and what is a user's own is left alone."""

from typing import Any

import pytest

from e2e.story import Story, workload
from e2e.waiting import always, eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
def served(story: Story) -> Story:
    """A workload that is Ready."""
    story.node("l4", "3.40")
    story.apply(workload())
    story.ready("chat")
    return story


def _spec(story: Story) -> dict[str, Any]:
    found = story.deployment("chat")["spec"]
    assert isinstance(found, dict)
    return found


def test_a_deployment_scaled_by_hand_is_put_back(served: Story) -> None:
    name = served.deployment("chat")["metadata"]["name"]
    served.kube.patch("Deployment", name, {"spec": {"replicas": 3}}, subresource="scale")

    def assert_put_right() -> None:
        assert _spec(served)["replicas"] == 1
        assert len(served.pods("chat")) == 1

    eventually(assert_put_right)
    served.ready("chat")


def test_an_image_set_by_hand_is_put_back(served: Story) -> None:
    deployment = served.deployment("chat")
    right = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    change = {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "example.com/mine:1"}
    served.kube.json_patch("Deployment", deployment["metadata"]["name"], [change])

    def assert_put_right() -> None:
        assert _spec(served)["template"]["spec"]["containers"][0]["image"] == right

    eventually(assert_put_right)
    served.ready("chat")
    assert any(event["reason"] == "ChildRestored" for event in served.events("chat"))


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param({"selector": {"metainf.dev/serving": "elsewhere"}}, id="selector"),
        pytest.param({"selector": {"app": "mine"}}, id="selector gets one more"),
        pytest.param({"ports": [{"name": "http", "port": 9999, "targetPort": "http"}]}, id="port"),
    ],
)
def test_a_service_edited_by_hand_is_put_back(served: Story, edit: dict[str, Any]) -> None:
    right = served.service("chat")["spec"]
    served.kube.patch("Service", "chat", {"spec": edit})

    def assert_put_right() -> None:
        spec = served.service("chat")["spec"]
        assert spec["selector"] == right["selector"]
        assert spec["ports"] == right["ports"]

    eventually(assert_put_right, within_s=15)


@pytest.mark.parametrize("kind", ["Deployment", "Service"])
def test_a_child_deleted_by_hand_is_made_again(served: Story, kind: str) -> None:
    (child,) = served.owned(kind, "chat")
    served.kube.delete(kind, child["metadata"]["name"])

    def assert_made_again() -> None:
        found = served.owned(kind, "chat")
        assert [o["metadata"]["name"] for o in found] == [child["metadata"]["name"]]
        assert found[0]["metadata"]["uid"] != child["metadata"]["uid"]

    eventually(assert_made_again)
    served.ready("chat")


def test_a_name_that_a_users_service_holds_is_left_alone_until_it_is_free(story: Story) -> None:
    story.node("l4", "3.40")
    ports = [{"port": 80}]
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "chat"},
        "spec": {"selector": {"app": "theirs"}, "ports": ports},
    }
    before = story.kube.create(theirs)
    story.apply(workload())
    message = story.says("chat", "Available", "False", "NameTaken")["message"]
    assert "Service" in message and "chat" in message
    assert story.condition("chat", "Ready")["reason"] == "NameTaken"

    def assert_untouched() -> None:
        now = story.kube.get("Service", "chat")
        assert now["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
        assert now["metadata"]["uid"] == before["metadata"]["uid"]

    always(assert_untouched, for_s=2)
    story.kube.delete("Service", "chat")
    story.ready("chat", within_s=45)
    assert story.service("chat")["spec"]["selector"]["metainf.dev/workload"] == "chat"
