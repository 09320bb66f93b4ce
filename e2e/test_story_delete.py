"""Deletion leaves nothing behind, and a namespace on its way out is left alone."""

import pytest

from e2e.cluster import mark, requests
from e2e.story import WORKLOAD_LABEL, Story, workload
from e2e.waiting import always, eventually

pytestmark = pytest.mark.e2e

_CHILDREN = ("Deployment", "ReplicaSet", "Pod", "Service", "PodDisruptionBudget", "InferenceDecision")


def test_a_deleted_workload_leaves_nothing_behind(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(scaling={"minReplicas": 2}))
    story.ready("chat")
    body = story.kube.get("InferenceWorkload", "chat")
    assert "finalizers" not in body["metadata"]
    story.kube.delete("InferenceWorkload", "chat")

    def assert_nothing_is_left() -> None:
        left = {kind: [o["metadata"]["name"] for o in story.kube.list(kind, WORKLOAD_LABEL)] for kind in _CHILDREN}
        assert not any(left.values()), f"left behind: { {k: v for k, v in left.items() if v} }"

    eventually(assert_nothing_is_left)
    always(assert_nothing_is_left, for_s=2)


def test_a_workload_made_anew_under_its_name_starts_afresh(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload())
    story.ready("chat")
    first = story.deployment("chat")["metadata"]["uid"]
    story.kube.delete("InferenceWorkload", "chat")
    uid = story.apply(workload())["metadata"]["uid"]
    story.ready("chat")

    def assert_all_is_of_the_new_one() -> None:
        for kind in ("Deployment", "Service", "InferenceDecision"):
            owners = [o["metadata"]["ownerReferences"][0]["uid"] for o in story.owned(kind, "chat")]
            assert owners == [uid], f"{kind}: {owners}, not {uid}"

    eventually(assert_all_is_of_the_new_one)
    assert story.deployment("chat")["metadata"]["uid"] != first


def test_a_terminating_namespace_is_left_alone(story: Story) -> None:
    story.node("l4", "3.40")
    space = story.kube.within(f"{story.namespace}-t")
    story.leaves(space.namespace)
    space.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space.namespace}})
    # What keeps the namespace, and with it the workload, from being gone at once.
    held = {**workload(), "metadata": {"name": "chat", "finalizers": ["e2e.metainf.dev/held"]}}
    space.apply(held)
    story.cleanups.append(lambda: space.patch("InferenceWorkload", "chat", {"metadata": {"finalizers": None}}))

    def assert_it_runs() -> None:
        assert space.list("Pod", WORKLOAD_LABEL), "no pods yet"

    eventually(assert_it_runs)
    space.delete("Namespace", space.namespace)

    def assert_only_the_held_one_is_left() -> None:
        assert space.get("Namespace", space.namespace)["status"]["phase"] == "Terminating"
        for kind in ("Deployment", "Service", "Pod", "InferenceDecision"):
            assert space.list(kind) == [], f"{kind}s are left"

    eventually(assert_only_the_held_one_is_left)
    since = mark(story.cluster) if story.cluster.audit_log else None
    always(assert_only_the_held_one_is_left, for_s=4)
    if since is not None:
        assert story.operator is not None
        made = [r for r in requests(story.cluster, since) if r.namespace == space.namespace and "metainf" in r.user]
        assert [r for r in made if r.is_write] == []
