"""AcceleratorPools: prices that override the nodes' own, nodes that are not there yet, and what is wrong with one."""

from typing import Any

import pytest

from e2e.cluster import named
from e2e.kube import Object
from e2e.story import COST, Story, merged, workload
from e2e.waiting import eventually

pytestmark = pytest.mark.e2e

_LABEL = "e2e.metainf.dev/pool"


def _pool(story: Story, **spec: Any) -> str:
    """Apply a pool of L4 nodes with this story's label; its name."""
    name = f"{story.prefix}-pool"
    own = {
        "nodeSelector": {_LABEL: story.prefix},
        "accelerator": {"product": "NVIDIA-L4", "memory": "24Gi", "count": 4},
        "price": {"perHour": "2.00", "source": "made up", "asOf": "2026-01-01"},
    }
    story.apply(
        {
            "apiVersion": "metainf.dev/v1alpha1",
            "kind": "AcceleratorPool",
            "metadata": {"name": name},
            "spec": merged(own, spec),
        }
    )
    story.cleanups.append(lambda: story.kube.delete("AcceleratorPool", name))
    return name


def _says(story: Story, pool: str, kind: str, status: str) -> Object:
    def check() -> Object:
        said = (story.kube.get("AcceleratorPool", pool).get("status") or {}).get("conditions") or []
        found = next((c for c in said if c["type"] == kind), None)
        assert found is not None and found["status"] == status, f"pool {pool} says {kind}={found}, not {status}"
        return dict(found)

    return eventually(check)


def _labelled(story: Story, cost: str) -> Object:
    node = named("l4", f"{story.prefix}-l4-pool", cost_per_hour=cost)
    return dict(merged(node, {"metadata": {"labels": {_LABEL: story.prefix}}, "spec": {"taints": []}}))


def test_the_price_of_a_pool_goes_before_that_of_its_nodes(story: Story) -> None:
    pool = _pool(story)
    story.node(_labelled(story, "40.00"))
    _says(story, pool, "Ready", "True")
    story.apply(workload())
    status = story.ready("chat")
    assert (status["pool"], status["costPerHour"]) == (pool, "0.50 USD")
    (price,) = (p for p in story.decision("chat")["spec"]["prices"] if p["pool"] == pool)
    assert (price["source"], price["asOf"]) == ("AcceleratorPool", "2026-01-01")

    def assert_counted() -> None:
        now = story.kube.get("AcceleratorPool", pool)["status"]
        assert (now["nodes"], now["acceleratorsTotal"], now["acceleratorsFree"]) == (1, 4, 3)

    eventually(assert_counted)


def test_a_pool_at_zero_nodes_is_decided_on_and_serves_when_its_node_comes(story: Story) -> None:
    pool = _pool(story, nodes={"min": 0, "max": 1}, nodeResources={"cpu": "47", "memory": "180Gi"})
    _says(story, pool, "Ready", "True")
    story.apply(workload())
    story.says("chat", "Ready", "Unknown", "RollingOut")

    def assert_a_pod_waits() -> None:
        phases = [pod["status"]["phase"] for pod in story.pods("chat")]
        assert phases == ["Pending"]  # for which an autoscaler adds a node

    eventually(assert_a_pod_waits)
    assert story.status("chat")["costPerHour"] == "2.00 USD"  # a node has to be added: it counts whole
    node = story.node(_labelled(story, "2.00"))
    story.ready("chat")
    assert {pod["spec"]["nodeName"] for pod in story.pods("chat")} == {node}
    assert len(story.deployments("chat")) == 1


def test_a_pool_that_selects_nodes_of_another_product_says_so(story: Story) -> None:
    node = story.node(_labelled(story, "3.40"))
    pool = _pool(story, accelerator={"product": "NVIDIA-H100-80GB-HBM3", "memory": "80Gi", "count": 8})
    assert node in _says(story, pool, "Ready", "False")["message"]


def test_two_prices_for_nodes_of_one_kind_make_two_pools(story: Story) -> None:
    cheap, _ = story.node("l4", "3.40"), story.node("l4", "6.80")
    story.apply(workload())
    status = story.ready("chat")
    assert status["costPerHour"] == "0.85 USD"
    assert {pod["spec"]["nodeName"] for pod in story.pods("chat")} == {cheap}
    assert story.kube.get("Node", cheap)["metadata"]["annotations"][COST] == "3.40"
