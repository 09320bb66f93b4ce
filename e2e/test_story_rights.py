"""The operator does all that it does with the rights that the chart gives it, and says what it lacks."""

import pytest

from e2e.cluster import mark, requests
from e2e.operator_process import Operators
from e2e.story import Story, workload

pytestmark = pytest.mark.e2e


def test_everything_is_written_by_the_charts_service_account_and_nothing_is_refused(
    story: Story, operators: Operators
) -> None:
    if story.cluster.audit_log is None:
        pytest.skip("a given cluster has no audit log to see users in")
    since = mark(story.cluster)
    story.node("l4", "3.40")
    story.apply(workload(scaling={"replicas": 2}))
    story.ready("chat")
    story.change("chat", scaling={"replicas": 1})
    story.ready("chat")
    seen = [r for r in requests(story.cluster, since) if r.user_agent.startswith("metainf")]
    assert {r.user for r in seen} == {operators.account.user}
    written = {r.resource for r in seen if r.is_write and r.namespace == story.namespace}
    assert written == {
        "deployments.apps",
        "events.events.k8s.io",
        "inferencedecisions.metainf.dev",
        "inferencedecisions.metainf.dev/status",
        "inferenceworkloads.metainf.dev/status",
        "poddisruptionbudgets.policy",
        "services",
    }
    assert [(r.verb, r.resource) for r in seen if r.code in (401, 403)] == []


def test_a_right_that_is_missing_is_said_and_not_asked_for_in_a_loop(place: Story, operators: Operators) -> None:
    operator = operators.usual()
    place.operator = operator
    (name,) = (
        binding["roleRef"]["name"]
        for binding in place.kube.list("ClusterRoleBinding")
        if binding["metadata"]["name"].endswith("-workloads")
        and any(each["name"] == operators.account.name for each in binding.get("subjects", []))
    )
    role = place.kube.get("ClusterRole", name)
    rules = [rule for rule in role["rules"] if "services" not in rule.get("resources", [])]
    reading = {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list", "watch"]}
    place.cleanups.append(lambda: place.kube.patch("ClusterRole", name, {"rules": role["rules"]}))
    place.kube.patch("ClusterRole", name, {"rules": [*rules, reading]})
    place.node("l4", "3.40")
    place.apply(workload())
    message = place.says("chat", "Accepted", "Unknown", "Forbidden")["message"]
    assert "service" in message.lower()
    assert operator.running
    place.kube.patch("ClusterRole", name, {"rules": role["rules"]})
    place.kube.patch("InferenceWorkload", "chat", {"spec": {"budget": {"perHour": "19"}}})
    place.ready("chat")
