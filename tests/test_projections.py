"""What of each watched object is kept: nodes, pods and children as the API server has them, odd ones included."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from metainf.pools import Taint
from metainf.workload import Toleration
from metainf_operator.ledger import PodUse, WorkloadKey
from metainf_operator.projections import (
    controller_uid,
    project_child,
    project_deployment,
    project_node,
    project_pod,
    timestamp,
)
from node_bodies import facts, node

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "time"),
    [
        pytest.param("2026-01-01T12:00:00Z", datetime(2026, 1, 1, 12, tzinfo=UTC), id="as the API server writes it"),
        pytest.param("2026-01-01T13:00:00+01:00", datetime(2026, 1, 1, 12, tzinfo=UTC), id="another zone"),
        pytest.param("2026-01-01T12:00:00.5Z", datetime(2026, 1, 1, 12, 0, 0, 500000, tzinfo=UTC), id="fractions"),
        pytest.param("yesterday", None, id="no time"),
        pytest.param(None, None, id="none"),
        pytest.param(17, None, id="a number"),
    ],
)
def test_reads_times(text: object, time: datetime | None) -> None:
    assert timestamp(text) == time


def test_a_node_says_what_it_offers_and_what_it_costs() -> None:
    found = facts("n1", price="27.45", annotations={"metainf.dev/cost-as-of": "2026-01-01"})
    assert (found.cpu_cores, found.memory_bytes, found.usable) == (255.0, 1000 * GIB, True)
    assert (found.price, found.currency, found.price_as_of) == (Decimal("27.45"), "USD", "2026-01-01")
    assert found.label_map["kubernetes.io/hostname"] == "n1"


def test_a_bare_node_is_read_as_one_that_offers_nothing() -> None:
    found = project_node({"metadata": {"name": "n"}})
    assert (found.usable, found.cpu_cores, found.memory_bytes, found.price) == (False, 0.0, 0, None)


@pytest.mark.parametrize(
    ("fields", "usable"),
    [
        pytest.param({}, True, id="healthy"),
        pytest.param({"ready": False}, False, id="not ready"),
        pytest.param({"cordoned": True}, False, id="cordoned"),
        pytest.param(
            {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}, False, id="going"
        ),
        pytest.param({"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}, True, id="a user's taint"),
    ],
)
def test_pods_may_go_to_healthy_nodes_alone(fields: dict[str, Any], usable: bool) -> None:
    assert facts("n1", **fields).usable is usable


def test_a_node_on_its_way_out_takes_no_pods() -> None:
    body = node("n1")
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not project_node(body).usable


def test_taints_of_users_are_kept_and_those_of_sickness_are_not() -> None:
    sick = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    mine = {"key": "dedicated", "value": "llm", "effect": "NoSchedule"}
    soft = {"key": "DeletionCandidateOfClusterAutoscaler", "value": "1767268800", "effect": "PreferNoSchedule"}
    found = facts("n1", taints=[sick, mine, soft])
    assert found.taints == (Taint("dedicated", "llm", "NoSchedule"),)
    assert facts("n1", taints=[soft]) == facts("n1")


@pytest.mark.parametrize(
    "key",
    [
        "node.cilium.io/agent-not-ready",
        "ebs.csi.aws.com/agent-not-ready",
        "cni.istio.io/not-ready",
        "startup-taint.cluster-autoscaler.kubernetes.io/disk-unconfigured",
        "readiness.k8s.io/gpu-driver",
    ],
)
@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
def test_a_node_whose_agents_are_not_up_yet_starts_and_has_no_taint_of_its_own(key: str, effect: str) -> None:
    mine = {"key": "dedicated", "value": "llm", "effect": "NoSchedule"}
    found = facts("n1", taints=[{"key": key, "effect": effect}, mine])
    assert (found.usable, found.starting) == (False, True)
    assert found.taints == (Taint("dedicated", "llm", "NoSchedule"),)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"ready": False}, id="not ready"),
        pytest.param({"cordoned": True}, id="cordoned"),
        pytest.param({"taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]}, id="being disrupted"),
        pytest.param({"taints": []}, id="up"),
        pytest.param({"taints": [{"key": "a/not-ready", "effect": "PreferNoSchedule"}]}, id="kept free of nobody"),
    ],
)
def test_a_node_that_is_not_well_or_takes_pods_already_does_not_start(fields: dict[str, Any]) -> None:
    starts = [] if "taints" in fields else [{"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute"}]
    assert not facts("n1", **{"taints": starts, **fields}).starting


def test_a_node_is_known_to_pods_by_its_label() -> None:
    assert facts("n1", labels={"kubernetes.io/hostname": "ip-10-0-0-1"}).hostname == "ip-10-0-0-1"
    assert project_node({"metadata": {"name": "n1"}}).hostname == "n1"


def container(cpu: str | None = None, memory: str | None = None, **more: Any) -> dict[str, Any]:
    gpu = more.pop("gpu", None)
    wanted = {"cpu": cpu, "memory": memory, "nvidia.com/gpu": gpu}
    return {"resources": {"requests": {k: v for k, v in wanted.items() if v is not None}}, **more}


def pod(*containers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "team", **fields.pop("metadata", {})},
        "spec": {"nodeName": "n1", "containers": list(containers), **fields.pop("spec", {})},
        "status": {"phase": "Running", **fields.pop("status", {})},
    }


@pytest.mark.parametrize(
    ("body", "use"),
    [
        pytest.param(pod(container("500m", "1Gi", gpu="2")), (2, 0.5, GIB), id="one container"),
        pytest.param(pod(container("1", "1Gi"), container("2", "1Gi", gpu="1")), (1, 3.0, 2 * GIB), id="two"),
        pytest.param(
            pod(container("1"), spec={"initContainers": [container("4"), container("2")]}),
            (0, 4.0, 0),
            id="the largest init container where it is larger",
        ),
        pytest.param(
            pod(container("1"), spec={"initContainers": [container("2", restartPolicy="Always")]}),
            (0, 3.0, 0),
            id="a sidecar runs beside the others",
        ),
        pytest.param(pod(container("1"), spec={"overhead": {"cpu": "250m"}}), (0, 1.25, 0), id="overhead"),
        pytest.param(pod({}), (0, 0.0, 0), id="no requests"),
        pytest.param(pod(container("nonsense")), (0, 0.0, 0), id="no quantity"),
        pytest.param(
            pod({"resources": {"requests": {"nvidia.com/mig-1g.10gb": "2", "vpc.amazonaws.com/efa": "4"}}}),
            (2, 0.0, 0),
            id="a MIG slice is an accelerator, a network card is none",
        ),
        pytest.param(pod({"resources": {"requests": {"amd.com/gpu": "3"}}}), (3, 0.0, 0), id="AMD"),
        pytest.param(pod({"resources": {"requests": {"gpu.intel.com/i915": "1"}}}), (1, 0.0, 0), id="Intel"),
        pytest.param(pod({"resources": {"requests": {"habana.ai/gaudi": "8"}}}), (8, 0.0, 0), id="Gaudi"),
    ],
)
def test_a_pod_takes_what_it_requests(body: dict[str, Any], use: tuple[int, float, int]) -> None:
    assert project_pod(body) == PodUse("n1", *use)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(pod(container("1"), spec={"nodeName": None}), id="bound nowhere"),
        pytest.param(pod(container("1"), status={"phase": "Succeeded"}), id="done"),
        pytest.param(pod(container("1"), status={"phase": "Failed"}), id="failed"),
    ],
)
def test_a_pod_that_takes_nothing_is_left_out(body: dict[str, Any]) -> None:
    assert project_pod(body) is None


def test_of_pods_of_ours_alone_it_is_kept_what_they_tolerate() -> None:
    tolerations = [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}, {"key": "b", "value": "c"}, {}]
    labels = {"metainf.dev/workload": "chat", "metainf.dev/serving": "abc"}
    mine = project_pod(pod(metadata={"labels": labels}, spec={"tolerations": tolerations}))
    assert mine is not None
    said = Toleration("a", "Exists", "", "NoSchedule"), Toleration("b", "Equal", "c"), Toleration()
    assert mine.tolerations == said
    other = project_pod(pod(spec={"tolerations": tolerations}))
    assert other is not None
    assert other.tolerations == ()


def test_pods_of_ours_are_known_by_both_labels_and_may_be_going() -> None:
    labels = {"metainf.dev/workload": "chat", "metainf.dev/serving": "abc"}
    mine = project_pod(pod(metadata={"labels": labels, "deletionTimestamp": "2026-01-01T00:00:00Z"}))
    assert mine is not None
    assert (mine.workload, mine.serving, mine.terminating) == (WorkloadKey("team", "chat"), "abc", True)
    other = project_pod(pod(metadata={"labels": {"metainf.dev/workload": "chat"}}))
    assert other is not None
    assert (other.workload, other.serving) == (None, "")


def test_a_replicas_size_is_what_its_engine_requests_whatever_runs_beside_it() -> None:
    labels = {"metainf.dev/workload": "chat", "metainf.dev/serving": "abc"}
    beside = [container("4", gpu="2", name="vllm"), container("500m", name="sidecar")]
    mine = project_pod(pod(*beside, metadata={"labels": labels}))
    assert mine is not None
    assert (mine.cpu_cores, mine.size) == (4.5, (2, 4000))
    theirs = project_pod(pod(*beside))
    assert theirs is not None
    assert theirs.size == (2, 4500)


OWNER = {"kind": "InferenceWorkload", "name": "chat", "uid": "u1", "controller": True}
CHILD = {
    "kind": "Service",
    "metadata": {
        "name": "chat",
        "namespace": "team",
        "uid": "s1",
        "generation": 3,
        "ownerReferences": [OWNER],
        "annotations": {"metainf.dev/desired-digest": "d", "metainf.dev/switched-at": "2026-01-01T12:00:00Z"},
    },
    "spec": {
        "selector": {"metainf.dev/serving": "abc"},
        "ports": [{"name": "http", "port": 8000, "targetPort": "http"}],
    },
}


def test_a_child_says_whose_it_is_and_where_it_sends() -> None:
    found = project_child(CHILD)
    assert found is not None
    assert (found.kind, found.workload, found.owner_uid, found.generation) == ("Service", "chat", "u1", 3)
    assert (found.digest, found.serving, found.ports) == ("d", "abc", (("http", 8000, "http"),))
    assert found.switched_at == datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "owners",
    [
        pytest.param([], id="nobody's"),
        pytest.param([{**OWNER, "controller": False}], id="owned, not controlled"),
        pytest.param([{**OWNER, "kind": "Deployment"}], id="another controller's"),
    ],
)
def test_what_no_workload_controls_is_no_child_whatever_its_labels_say(owners: list[dict[str, Any]]) -> None:
    labels = {"metainf.dev/workload": "chat"}
    body = {**CHILD, "metadata": {**CHILD["metadata"], "ownerReferences": owners, "labels": labels}}
    assert project_child(body) is None
    assert project_deployment(body) is None


def test_the_controller_is_one_of_the_owners() -> None:
    assert controller_uid({"ownerReferences": [{"uid": "x"}, OWNER]}) == "u1"
    assert controller_uid({}) is None


FIRST = {"deployment.kubernetes.io/revision": "1"}
SECOND = {"deployment.kubernetes.io/revision": "2"}


def progressing(reason: str, status: str = "True") -> dict[str, Any]:
    return {"conditions": [{"type": "Progressing", "status": status, "reason": reason}]}


@pytest.mark.parametrize(
    ("notes", "generation", "spec", "status", "rolling"),
    [
        pytest.param({}, 1, {}, {}, False, id="just made"),
        pytest.param(FIRST, 1, {}, progressing("ReplicaSetUpdated"), False, id="its first template starts"),
        pytest.param(FIRST, 2, {}, progressing("NewReplicaSetAvailable"), True, id="changed, and not looked at yet"),
        pytest.param(SECOND, 1, {}, progressing("ReplicaSetUpdated"), True, id="its second template comes"),
        pytest.param(SECOND, 1, {}, progressing("NewReplicaSetAvailable"), False, id="it came"),
        pytest.param(SECOND, 1, {}, progressing("ProgressDeadlineExceeded", "False"), False, id="not in its time"),
        pytest.param(SECOND, 1, {"replicas": 0}, progressing("ReplicaSetUpdated"), False, id="nothing is to run"),
        pytest.param(SECOND, 1, {"paused": True}, progressing("DeploymentPaused", "Unknown"), False, id="paused"),
        pytest.param({"deployment.kubernetes.io/revision": "x"}, 1, {}, {}, False, id="a note that somebody damaged"),
    ],
)
def test_a_deployment_rolls_while_pods_of_an_earlier_template_are_replaced(
    notes: dict[str, str], generation: int, spec: dict[str, Any], status: dict[str, Any], rolling: bool
) -> None:
    body: dict[str, Any] = {
        "metadata": {**CHILD["metadata"], "annotations": notes, "generation": generation},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"metainf.dev/serving": "abc"}}, **spec},
        "status": {"observedGeneration": 1, **status} if status else {},
    }
    found = project_deployment(body)
    assert found is not None
    assert found.deployment is not None
    assert found.deployment.rolling is rolling


def test_a_deployment_says_how_far_it_got() -> None:
    body: dict[str, Any] = {
        **CHILD,
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"metainf.dev/serving": "abc"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1}},
        },
        "status": {
            "observedGeneration": 3,
            "updatedReplicas": 2,
            "availableReplicas": 1,
            "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "too slow"}],
        },
    }
    found = project_deployment(body)
    assert found is not None
    assert (found.serving, found.surge) == ("abc", True)
    seen = found.deployment
    assert seen is not None
    assert (seen.replicas, seen.updated, seen.available, seen.deadline_exceeded) == (2, 2, 1, True)
    assert (seen.message, seen.settled) == ("too slow", False)
    body["status"] = None
    body["spec"]["strategy"] = {"type": "Recreate"}
    fresh = project_deployment(body)
    assert fresh is not None
    assert fresh.surge is False
    assert fresh.deployment is not None
    assert (fresh.deployment.available, fresh.deployment.observed_generation) == (0, 0)
