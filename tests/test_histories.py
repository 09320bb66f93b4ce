"""Whatever happens to a cluster, in whatever order: the operator comes to rest, and its promises hold when it does."""

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller_passes import Around, CutOffError, pool, with_pools, workload
from metainf_operator.projections import project_pod
from metainf_operator.resources import ACCELERATOR_POOL, INFERENCE_DECISION, INFERENCE_WORKLOAD, NODE, POD, SERVICE
from node_bodies import node

NAMES = ("a", "b", "c")
PRODUCTS = {"cheap": "NVIDIA-A100-SXM4-40GB", "fast": "NVIDIA-H100-80GB-HBM3"}
LIKE = {"cheap": "gfd-a100", "fast": "gke-h100"}

names = st.sampled_from(NAMES)
pools = st.sampled_from(["cheap", "fast"])
happenings = st.one_of(
    st.tuples(st.just("price"), pools, st.sampled_from([None, "0.5", "1", "4", "12"])),
    st.tuples(st.just("apply"), names, st.sampled_from(["0.7", "3", "30"])),
    st.tuples(st.just("load"), names, st.sampled_from(["1", "6", "11", "90"])),
    st.tuples(st.just("suspend"), names, st.booleans()),
    st.tuples(st.just("scale"), names, st.sampled_from([None, 0, 1, 3])),
    st.tuples(st.just("mode"), names, st.sampled_from(["Auto", "Recommend"])),
    st.tuples(st.just("violation"), names, st.sampled_from(["Keep", "Stop"])),
    st.tuples(st.just("image"), names, st.sampled_from(["one:1", "two:2"])),
    st.tuples(st.just("delete"), names, st.none()),
    st.tuples(st.just("node"), pools, st.booleans()),
    st.tuples(st.just("crash"), st.none(), st.integers(0, 9)),
    st.tuples(st.just("hours"), st.none(), st.integers(0, 3)),
)


def _there(around: Around, name: str) -> bool:
    return around.cluster.peek(INFERENCE_WORKLOAD, name, "team") is not None


def happen(around: Around, what: str, who: Any, how: Any) -> None:
    if what == "price":
        around.cluster.put(ACCELERATOR_POOL, pool(who, PRODUCTS[who], price=how))
    elif what == "apply":
        if not _there(around, who):
            around.apply(workload(who))
        around.edit(who, budget={"perHour": how})
    elif what == "node":
        if how:
            body = node(
                f"{who}-0",
                LIKE[who],
                labels={"pool": who},
                allocatable={"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "1"},
            )
            around.cluster.put(NODE, body)
        else:
            around.cluster.remove(NODE, f"{who}-0")
            for body in around.cluster.all(POD):
                if body["spec"].get("nodeName") == f"{who}-0":
                    around.cluster.remove(POD, body["metadata"]["name"], "team")
    elif what == "hours":
        around.now += timedelta(hours=how)
        around.controller.decide_anew()
    elif what == "crash":
        around.cluster.cut_after = how
    elif not _there(around, who):
        return
    elif what == "delete":
        around.cluster.remove(INFERENCE_WORKLOAD, who, "team")
    else:
        spec: dict[str, Any] = {
            "load": {"traffic": {"requestsPerSecond": how}},
            "suspend": {"suspend": how},
            "scale": {"scaling": {"replicas": how}},
            "mode": {"policy": {"mode": how}},
            "violation": {"policy": {"onViolation": how}},
            "image": {"engine": {"image": how}},
        }[what]
        around.edit(who, **spec)


def settle(around: Around) -> None:
    try:
        around.settle(*NAMES, passes=80)
    except CutOffError:
        around.cluster.cut_after = None
        around.restart()
        around.settle(*NAMES, passes=80)
    around.cluster.cut_after = None


def check(around: Around) -> None:
    cluster = around.cluster
    uses = [use for use in (project_pod(p) for p in cluster.all(POD)) if use is not None]
    used: dict[str, int] = {}
    for use in uses:
        used[use.node] = used.get(use.node, 0) + use.accelerators
    assert all(count <= 1 for count in used.values())
    assert len(uses) == len(cluster.all(POD)) or any(
        around.condition("Ready", name)[0] != "True" for name in NAMES if _there(around, name)
    )
    held: dict[str, int] = {}
    for hold in around.world.holds():
        if not hold.waiting:
            held[hold.pool] = held.get(hold.pool, 0) + hold.replicas
    owners = {b["metadata"]["uid"]: b["metadata"]["name"] for b in cluster.all(INFERENCE_WORKLOAD)}
    for kind in (INFERENCE_DECISION, SERVICE):
        for body in cluster.all(kind):
            assert body["metadata"]["ownerReferences"][0]["uid"] in owners
    for name in owners.values():
        check_one(around, name)


def check_one(around: Around, name: str) -> None:
    status = around.status(name)
    ready = around.condition("Ready", name)
    mine = [d for d in around.deployments() if d["metadata"]["labels"]["metainf.dev/workload"] == name]
    assert sum(d["spec"]["replicas"] for d in mine) == status["replicas"], (ready, status)
    records = [
        d for d in around.cluster.all(INFERENCE_DECISION) if d["metadata"]["labels"]["metainf.dev/workload"] == name
    ]
    active = [d for d in records if d["status"]["phase"] == "Active"]
    noted = [d for d in records if "metainf.dev/activated-at" in d["metadata"]["annotations"]]
    assert [d["metadata"]["name"] for d in active] == [d["metadata"]["name"] for d in noted]
    assert len(active) <= 1
    spec = around.cluster.peek(INFERENCE_WORKLOAD, name, "team")
    assert spec is not None
    budget = float(spec["spec"]["budget"]["perHour"])
    if status["replicas"] and "costPerHour" in status:
        over = float(status["costPerHour"].split()[0]) > budget
        assert around.condition("WithinBudget", name)[0] == ("False" if over else "True")
    if ready[0] == "True":
        (body,) = mine
        assert body["status"]["availableReplicas"] == body["spec"]["replicas"] == status["replicas"] > 0
        found = around.cluster.peek(SERVICE, name, "team")
        assert found is not None
        assert found["spec"]["selector"] == body["spec"]["selector"]["matchLabels"]
        assert float(status["costPerHour"].split()[0]) <= budget
        fixed = (spec["spec"].get("scaling") or {}).get("replicas")
        assert fixed is None or status["replicas"] <= fixed
        image = (spec["spec"].get("engine") or {}).get("image")
        if image and (spec["spec"].get("policy") or {}).get("mode") != "Recommend":
            assert body["spec"]["template"]["spec"]["containers"][0]["image"] == image


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(happenings, min_size=1, max_size=3), min_size=1, max_size=6))
def test_whatever_happens_the_operator_comes_to_rest_and_its_promises_hold(history: list[list[Any]]) -> None:
    around = with_pools(Around(), cheap=2, fast=1)
    for name in NAMES[:2]:
        around.apply(workload(name))
    settle(around)
    for burst in history:
        for what, who, how in burst:
            happen(around, what, who, how)
        settle(around)
        check(around)
