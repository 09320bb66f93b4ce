"""The objects that serve a decision, against golden manifests: a new version of the code must restart nobody's pods.

A golden file that has to change means that every running pod is replaced on the day of the upgrade: do it with a
reason. `python tests/test_children.py` writes them anew.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from metainf.accelerators import Vendor
from metainf.manifests import InferenceWorkload, parse_workload
from metainf.placement import ReplicaRequest
from metainf.workload import Toleration
from metainf_operator.children import (
    SHUTDOWN_S,
    Serving,
    deployment,
    pod_disruption_budget,
    selector_labels,
    service,
    serving_hash,
    startup_s,
    url,
)
from metainf_operator.projections import project_deployment

GOLDEN = Path(__file__).parent / "data" / "golden"
GIB = 1 << 30

GPU = Serving(
    decision="chat-0123456789",
    candidate="h100/default/TP1",
    pool="h100",
    argv=("Qwen/Qwen2.5-7B-Instruct", "--port", "8000", "--shutdown-timeout", "120"),
    image="vllm/vllm-openai:v0.32.0",
    request=ReplicaRequest(1, 6.0, 12 * GIB),
    vendor=Vendor.NVIDIA,
    resource_name="nvidia.com/gpu",
    match_labels=(("node.kubernetes.io/instance-type", "p5.48xlarge"), ("karpenter.sh/nodepool", "gpu")),
    hostnames=(),
    tolerations=(Toleration("nvidia.com/gpu", "Exists", effect="NoSchedule"),),
    weight_bytes=15.2e9,
)
TP8 = replace(
    GPU,
    candidate="h100/fp8-kv/TP8",
    argv=(*GPU.argv, "--tensor-parallel-size", "8"),
    request=ReplicaRequest(8, 20.0, 40 * GIB),
    hostnames=("node-b", "node-a"),
    tolerations=(
        Toleration("dedicated", "Equal", "llm", "NoExecute", 300),
        Toleration(None, "Exists"),
    ),
    weight_bytes=140e9,
)
CPU = replace(
    GPU,
    candidate="cpu/default/TP1",
    pool="cpu",
    image="public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo:v0.32.0",
    request=ReplicaRequest(0, 27.0, 54 * GIB),
    vendor=Vendor.CPU,
    resource_name=None,
    tolerations=(),
    cpu_threads=12,
)


def asked_for(name: str = "chat", **spec: Any) -> InferenceWorkload:
    given = {
        "model": {"id": "Qwen/Qwen2.5-7B-Instruct"},
        "traffic": {"requestsPerSecond": "4", "inputTokens": {"mean": 1200}, "outputTokens": {"mean": 250}},
        "budget": {"perHour": "6"},
        **spec,
    }
    metadata = {"name": name, "namespace": "team-a", "uid": "11111111-2222-3333-4444-555555555555", "generation": 1}
    return parse_workload(
        {"apiVersion": "metainf.dev/v1alpha1", "kind": "InferenceWorkload", "metadata": metadata, "spec": given}
    )


PVC = asked_for(model={"id": "Qwen/Qwen2.5-7B-Instruct", "source": {"pvc": {"claimName": "weights", "path": "qwen"}}})
SECRETS = asked_for(
    model={"id": "Qwen/Qwen2.5-7B-Instruct", "tokenSecretRef": {"name": "hub", "key": "token"}},
    engine={"apiKeySecretRef": {"name": "api"}},
)
TEMPLATE = asked_for(
    placement={"nodeSelector": {"zone": "a"}},
    engine={
        "podTemplate": {
            "metadata": {"labels": {"team": "a"}, "annotations": {"prometheus.io/scrape": "true"}},
            "spec": {
                "serviceAccountName": "runner",
                "priorityClassName": "high",
                "imagePullSecrets": [{"name": "registry"}],
                "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "hf-cache"}}],
                "containers": [
                    {"name": "vllm", "env": [{"name": "NCCL_DEBUG", "value": "INFO"}]},
                    {"name": "sidecar", "image": "proxy:1"},
                ],
            },
        }
    },
)

CASES: dict[str, tuple[InferenceWorkload, Serving, int, bool]] = {
    "gpu-single": (asked_for(), GPU, 1, True),
    "gpu-tp8": (asked_for(), TP8, 2, False),
    "cpu": (asked_for(), CPU, 3, True),
    "model-from-a-volume": (PVC, GPU, 1, True),
    "secrets": (SECRETS, GPU, 1, True),
    "pod-template": (TEMPLATE, GPU, 1, True),
    "gpu-not-packed": (asked_for(), replace(GPU, packed=False), 1, True),
}


def manifests(name: str) -> list[dict[str, Any]]:
    workload, serving, replicas, surge = CASES[name]
    digest = serving_hash(workload, serving)
    return [
        deployment(workload, serving, replicas, surge=surge),
        service(workload, digest, "2026-01-01T12:00:00Z"),
        pod_disruption_budget(workload),
    ]


every_case = pytest.mark.parametrize("name", list(CASES))


@every_case
def test_manifests_are_as_they_always_were(name: str) -> None:
    golden = list(yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")))
    assert manifests(name) == golden


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(CASES)


# Pod Security Standards, profile "restricted". Source: kubernetes.io/docs/concepts/security/pod-security-standards


_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def broken_rules(spec: dict[str, Any]) -> Iterator[str]:
    pod = spec.get("securityContext") or {}
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    if (pod.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile"
    for volume in spec.get("volumes") or ():
        if set(volume) - {"name"} - _VOLUMES:
            yield f"volume {volume['name']}"
    for container in spec["containers"]:
        own = container.get("securityContext") or {}
        if own.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if (own.get("capabilities") or {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
            yield "capabilities"
        if not own.get("runAsNonRoot", pod.get("runAsNonRoot")) or own.get("runAsUser", pod.get("runAsUser")) == 0:
            yield "runAsNonRoot"
        if own.get("privileged") or any(port.get("hostPort") for port in container.get("ports") or ()):
            yield "privileged"


@pytest.mark.parametrize("name", [name for name in CASES if name != "pod-template"])
def test_pods_keep_the_restricted_profile(name: str) -> None:
    spec = manifests(name)[0]["spec"]["template"]["spec"]
    assert list(broken_rules(spec)) == []
    assert spec["automountServiceAccountToken"] is False
    assert list(broken_rules({**spec, "hostNetwork": True})) == ["hostNetwork"]


# What a Deployment's name, and so its pods, depend on


@pytest.mark.parametrize(
    ("workload", "serving"),
    [
        pytest.param(asked_for(), replace(GPU, decision="chat-9999999999"), id="another decision for other prices"),
        pytest.param(asked_for(), replace(GPU, weight_bytes=1e9), id="a better estimate of the weights"),
        pytest.param(asked_for(), replace(GPU, request=ReplicaRequest(1, 9.0, GIB)), id="cpu and memory"),
        pytest.param(asked_for(), replace(GPU, hostnames=("a",)), id="the nodes of the pool"),
        pytest.param(asked_for(), replace(GPU, packed=False), id="whether it is packed"),
        pytest.param(asked_for(budget={"perHour": "9"}), GPU, id="the budget"),
        pytest.param(asked_for(policy={"minimumGain": "0.5"}), GPU, id="the policy"),
        pytest.param(TEMPLATE, GPU, id="the pod template, which rolls in place"),
        pytest.param(asked_for(scaling={"replicas": 7}), GPU, id="replicas"),
    ],
)
def test_what_does_not_change_the_engine_keeps_the_deployments_name(
    workload: InferenceWorkload, serving: Serving
) -> None:
    assert serving_hash(workload, serving) == serving_hash(asked_for(), GPU)


@pytest.mark.parametrize(
    ("workload", "serving"),
    [
        pytest.param(asked_for(model={"id": "Qwen/Qwen3-14B"}), GPU, id="the model"),
        pytest.param(asked_for(model={"id": "Qwen/Qwen2.5-7B-Instruct", "revision": "a" * 40}), GPU, id="the revision"),
        pytest.param(PVC, GPU, id="where the weights come from"),
        pytest.param(asked_for(), replace(GPU, argv=(*GPU.argv, "--seed=1")), id="an argument"),
        pytest.param(asked_for(), replace(GPU, image="mine:1"), id="the image"),
        pytest.param(asked_for(), replace(GPU, pool="l4"), id="the pool"),
        pytest.param(asked_for(), TP8, id="the layout"),
        pytest.param(asked_for(), replace(GPU, resource_name="amd.com/gpu"), id="the resource"),
    ],
)
def test_what_changes_the_engine_changes_the_deployments_name(workload: InferenceWorkload, serving: Serving) -> None:
    assert serving_hash(workload, serving) != serving_hash(asked_for(), GPU)


@pytest.mark.parametrize(
    ("serving", "prefers"),
    [
        pytest.param(GPU, True, id="on an accelerator"),
        pytest.param(replace(GPU, packed=False), False, id="made before pods were packed"),
        pytest.param(CPU, False, id="on a CPU"),
    ],
)
def test_pods_on_accelerators_prefer_nodes_that_have_pods_of_ours(serving: Serving, prefers: bool) -> None:
    template = deployment(asked_for(), serving, 1, surge=True)["spec"]["template"]
    terms = template["spec"]["affinity"].get("podAffinity", {}).get("preferredDuringSchedulingIgnoredDuringExecution")
    assert bool(terms) is prefers
    for term in terms or ():
        assert term["weight"] == 100
        chosen = term["podAffinityTerm"]["labelSelector"]["matchLabels"]
        assert chosen.items() <= template["metadata"]["labels"].items()
        assert term["podAffinityTerm"]["namespaceSelector"] == {}  # the ledger packs the pods of all namespaces


@pytest.mark.parametrize(
    ("workload", "serving", "hostnames", "packed"),
    [
        pytest.param(asked_for(), GPU, (), True, id="told by labels"),
        pytest.param(asked_for(), TP8, ("node-a", "node-b"), True, id="told by name"),
        pytest.param(asked_for(), replace(TP8, packed=False), ("node-a", "node-b"), False, id="not packed"),
        pytest.param(asked_for(), CPU, (), False, id="on a CPU"),
        pytest.param(
            asked_for(engine={"podTemplate": {"spec": {"affinity": {"podAffinity": None}}}}),
            GPU,
            (),
            False,
            id="not packed since the user wants it so",
        ),
    ],
)
def test_where_pods_may_go_is_read_back_from_the_template(
    workload: InferenceWorkload, serving: Serving, hostnames: tuple[str, ...], packed: bool
) -> None:
    known = project_deployment(deployment(workload, serving, 1, surge=True))
    assert known is not None
    assert (known.hostnames, known.packed) == (hostnames, packed)


def test_replicas_change_neither_template_nor_selector() -> None:
    one, many = (deployment(asked_for(), GPU, n, surge=True) for n in (1, 5))
    assert one["spec"]["template"] == many["spec"]["template"]
    assert one["spec"]["selector"] == many["spec"]["selector"]
    assert one["metadata"]["annotations"] != many["metadata"]["annotations"]  # the wish is another


def test_the_digest_is_of_all_that_is_wished() -> None:
    digest = "metainf.dev/desired-digest"

    def of(manifest: dict[str, Any]) -> str:
        return str(manifest["metadata"]["annotations"][digest])

    wishes = {
        of(deployment(asked_for(), GPU, 1, surge=True)),
        of(deployment(asked_for(), GPU, 2, surge=True)),
        of(deployment(asked_for(), GPU, 1, surge=False)),
        of(deployment(asked_for(), replace(GPU, decision="chat-1"), 1, surge=True)),
        of(deployment(TEMPLATE, GPU, 1, surge=True)),
    }
    assert len(wishes) == 5
    assert of(deployment(asked_for(), GPU, 1, surge=True)) in wishes
    assert of(service(asked_for(), "a", "t")) != of(service(asked_for(), "b", "t"))


def test_a_rollout_may_take_longer_than_a_start() -> None:
    for name in CASES:
        spec = manifests(name)[0]["spec"]
        (vllm,) = [c for c in spec["template"]["spec"]["containers"] if c["name"] == "vllm"]
        probe = vllm["startupProbe"]
        assert spec["progressDeadlineSeconds"] > probe["failureThreshold"] * probe["periodSeconds"]
        grace = spec["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace > SHUTDOWN_S == 120 + vllm["lifecycle"]["preStop"]["sleep"]["seconds"]


def test_larger_weights_get_more_time_and_a_volume_less() -> None:
    assert startup_s(asked_for(), 140e9) == 600 + 1400
    assert startup_s(PVC, 140e9) == 600 + 350


def test_the_service_sends_to_one_serving_alone() -> None:
    digest = serving_hash(asked_for(), GPU)
    sends = service(asked_for(), digest, "t")["spec"]["selector"]
    assert sends == selector_labels(asked_for(), digest)
    labels = deployment(asked_for(), GPU, 1, surge=True)["spec"]["template"]["metadata"]["labels"]
    assert sends.items() <= labels.items()
    other = deployment(asked_for(), TP8, 1, surge=True)["spec"]["template"]["metadata"]["labels"]
    assert not sends.items() <= other.items()


def test_the_address_names_service_and_namespace() -> None:
    assert url(asked_for()) == "http://chat.team-a.svc:8000/v1"


def test_children_are_owned_and_labelled_from_an_allow_list() -> None:
    for name in CASES:
        for manifest in manifests(name):
            (owner,) = manifest["metadata"]["ownerReferences"]
            assert (owner["uid"], owner["controller"]) == ("11111111-2222-3333-4444-555555555555", True)
            assert set(manifest["metadata"]["labels"]) <= {
                "app.kubernetes.io/managed-by",
                "metainf.dev/workload",
                "metainf.dev/serving",
            }


class _Plainly(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


if __name__ == "__main__":
    for each in CASES:
        text = yaml.dump_all(manifests(each), Dumper=_Plainly, sort_keys=False)
        (GOLDEN / f"{each}.yaml").write_text(text, encoding="utf-8")
        sys.stdout.write(f"{each}\n")
