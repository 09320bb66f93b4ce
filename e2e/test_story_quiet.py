"""Where nothing happens, nothing is written but the Lease."""

import functools
import time

import pytest

from e2e.cluster import mark, requests
from e2e.operator_process import Operators
from e2e.story import Story, workload
from e2e.waiting import eventually

pytestmark = pytest.mark.e2e

_WATCHED_S = 60.0


def test_in_steady_state_nothing_is_written_but_the_lease(story: Story, operators: Operators) -> None:
    if story.cluster.audit_log is None:
        pytest.skip("a given cluster has no audit log to count requests in")
    story.add_nodes(["l4", "l40s", "a100"], "30.00")
    story.apply(
        {
            "apiVersion": "metainf.dev/v1alpha1",
            "kind": "AcceleratorPool",
            "metadata": {"name": f"{story.prefix}-pool"},
            "spec": {
                "nodeSelector": {"e2e.metainf.dev/none": "here"},
                "accelerator": {"product": "NVIDIA-L4", "memory": "24Gi", "count": 1},
                "price": {"perHour": "0.80", "source": "made up", "asOf": "2026-01-01"},
            },
        }
    )
    story.cleanups.append(lambda: story.kube.delete("AcceleratorPool", f"{story.prefix}-pool"))
    for number in range(3):
        story.apply(workload(f"serving-{number}"))
    story.apply(workload("two", scaling={"replicas": 2}))
    story.apply(workload("refused", budget={"perHour": "0.01"}))
    story.apply(workload("waiting", scaling={"replicas": 1}, placement={"pools": ["none"]}))
    story.apply(workload("unknown", model={"id": "nobody/has-this"}))
    story.apply(workload("resting", suspend=True))
    story.apply(workload("proposed", policy={"mode": "Recommend"}))
    for name in ("serving-0", "serving-1", "serving-2", "two"):
        story.ready(name)
    for name in ("serving-0", "serving-1", "serving-2", "two"):
        eventually(functools.partial(_assert_observed, story, name), within_s=150)
    story.says("refused", "Feasible", "False")
    story.says("waiting", "Feasible", "False")
    story.says("unknown", "Accepted", "False")
    story.says("resting", "Ready", "Unknown", "Suspended")
    story.says("proposed", "Ready", "Unknown", "AwaitingApproval")
    time.sleep(3)  # what the last transitions still bring about
    versions = _versions(story)
    since = mark(story.cluster)
    time.sleep(_WATCHED_S)
    writes = [r for r in requests(story.cluster, since, operators.account.user) if r.is_write]
    others = sorted({(r.verb, r.resource, r.name) for r in writes if not r.resource.startswith("leases")})
    assert others == []
    renewals = len(writes)
    assert 0 < renewals <= _WATCHED_S / 1.0 * 1.1, f"{renewals} renewals of a Lease that is renewed each second"
    assert _versions(story) == versions, "something of the workloads was written by somebody"


def _assert_observed(story: Story, name: str) -> None:
    """Assert that the operator told that nobody answers in these pods, which it tells once."""
    observed = story.status(name).get("observed") or {}
    assert observed.get("pods") == 0, f"{name} is observed as {observed}"


def _versions(story: Story) -> dict[tuple[str, str], str]:
    return {
        (kind, each["metadata"]["name"]): each["metadata"]["resourceVersion"]
        for kind in ("InferenceWorkload", "InferenceDecision", "Deployment", "Service", "PodDisruptionBudget")
        for each in story.kube.list(kind)
    }


def test_a_pass_that_is_asked_for_and_finds_nothing_to_do_writes_nothing(story: Story, operators: Operators) -> None:
    if story.cluster.audit_log is None:
        pytest.skip("a given cluster has no audit log to count requests in")
    story.node("l4", "3.40")
    story.apply(workload())
    story.ready("chat")
    time.sleep(1.5)
    since = mark(story.cluster)
    for number in range(3):  # a label of a user's own: an event, and no change of the spec
        story.kube.patch("InferenceWorkload", "chat", {"metadata": {"labels": {"touched": str(number)}}})
        (deployment,) = story.deployments("chat")
        name = deployment["metadata"]["name"]
        story.kube.patch("Deployment", name, {"metadata": {"labels": {"touched": str(number)}}})
        time.sleep(0.5)

    def writes() -> list[tuple[str, str]]:
        found = requests(story.cluster, since, operators.account.user)
        return [(r.verb, r.resource) for r in found if r.is_write and not r.resource.startswith("leases")]

    assert writes() == []
