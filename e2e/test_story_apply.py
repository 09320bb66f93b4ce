"""From `kubectl apply` to a model that serves, with the reason."""

from typing import Any

import pytest

from e2e.cluster import kubectl
from e2e.story import MODEL, Story, workload
from e2e.waiting import eventually

pytestmark = pytest.mark.e2e

_CONDITIONS = {
    "Ready": "True",
    "Accepted": "True",
    "PricesKnown": "True",
    "Feasible": "True",
    "Decided": "True",
    "Available": "True",
    "WithinBudget": "True",
    "SLOMet": "Unknown",
    "PredictorLoaded": "True",
}


def _container(deployment: dict[str, Any]) -> dict[str, Any]:
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def test_an_applied_workload_becomes_ready_and_its_status_says_what_runs_and_what_it_costs(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload())
    status = story.ready("chat")
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    assert conditions == _CONDITIONS
    assert status["url"] == f"http://chat.{story.namespace}.svc:8000/v1"
    assert status["costPerHour"] == "0.85 USD"  # one of the four accelerators of a node for 3.40
    assert status["accelerator"].startswith("L4")
    assert status["replicas"] == 1
    assert "serves within its limits" in conditions_of(status)["Ready"]["message"]
    assert {event["reason"] for event in story.events("chat")} >= {"Decided", "Available"}
    row = kubectl(story.cluster, "get", "miw", "chat", "-n", story.namespace, "--no-headers").split()
    assert row[:3] == ["chat", "True", "Serving"]
    assert "0.85" in row


def conditions_of(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {c["type"]: c for c in status["conditions"]}


def test_the_deployment_runs_the_decided_arguments_on_the_decided_nodes(story: Story) -> None:
    chosen_node = story.node("l4", "3.40")
    story.node("l40s", "40.00")
    story.apply(workload())
    status = story.ready("chat")
    deployment, chosen = story.deployment("chat"), story.decision("chat")["spec"]["chosen"]
    container = _container(deployment)
    assert chosen["argv"][-len(container["args"]) :] == container["args"]
    assert MODEL in container["args"]
    assert container["image"] == "vllm/vllm-openai:v0.32.0"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["requests"]["nvidia.com/gpu"] == "1"
    pod = deployment["spec"]["template"]["spec"]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    wanted = {e["key"]: e["values"] for e in terms[0]["matchExpressions"]}
    assert wanted["cloud.google.com/gke-nodepool"] == ["l4"]
    assert any(t["key"] == "nvidia.com/gpu" for t in pod["tolerations"])
    (running,) = story.pods("chat")
    assert running["spec"]["nodeName"] == chosen_node
    assert status["pool"] == chosen["pool"]


def test_the_service_sends_to_the_pods_that_run_and_to_no_others(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload())
    selector = story.ready("chat")["selector"]
    service = story.service("chat")
    assert [port["port"] for port in service["spec"]["ports"]] == [8000]
    labels = story.deployment("chat")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert set(selector.split(",")) == {f"{k}={v}" for k, v in service["spec"]["selector"].items()}
    for kind in ("Deployment", "Service", "InferenceDecision"):
        for child in story.owned(kind, "chat"):
            (owner,) = child["metadata"]["ownerReferences"]
            assert owner["controller"] is True, f"{kind} is not controlled"


def test_the_decision_records_inputs_prices_and_what_was_not_taken(story: Story) -> None:
    story.node("l4", "3.40")
    story.node("l40s", "40.00")
    story.apply(workload())
    story.ready("chat")
    (decision,) = story.decisions("chat")
    spec = decision["spec"]
    assert decision["status"]["phase"] == "Active"
    assert (spec["outcome"], spec["chosen"]["accelerator"][:2]) == ("Chosen", "L4")
    prices = {float(price["perHour"]): price["source"] for price in spec["prices"]}
    assert prices == {3.4: "NodeAnnotation", 40.0: "NodeAnnotation"}
    assert spec["workloadRef"]["name"] == "chat"
    assert spec["inputs"]["digest"].startswith("sha256:")
    assert 0 < len(spec["alternatives"]) <= 10
    assert spec["rejections"], "nothing was rejected"
    assert all(each["count"] > 0 and each["nearest"] for each in spec["rejections"])


def test_two_replicas_get_a_disruption_budget_and_one_does_not(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(scaling={"minReplicas": 2}))
    assert story.ready("chat")["replicas"] == 2
    (budget,) = story.owned("PodDisruptionBudget", "chat")
    assert budget["spec"]["maxUnavailable"] == 1
    story.change("chat", scaling={"minReplicas": 1, "maxReplicas": 1})

    def assert_one_is_left() -> None:
        assert story.deployment("chat")["spec"]["replicas"] == 1
        assert story.owned("PodDisruptionBudget", "chat") == []

    eventually(assert_one_is_left)


def test_an_accelerator_of_another_vendor_gets_its_own_image_and_resource(story: Story) -> None:
    story.node("mi300x", "16.00")
    story.apply(workload())
    story.ready("chat")
    container = _container(story.deployment("chat"))
    assert "rocm" in container["image"]
    assert container["resources"]["limits"]["amd.com/gpu"] == "1"
