"""A user's part of the pod template: how it is merged, and what of it would override a decision."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf_operator.pod_template import merge_pod_template, pod_template_conflicts

OURS: dict[str, Any] = {
    "metadata": {"labels": {"metainf.dev/workload": "chat"}},
    "spec": {
        "containers": [
            {
                "name": "vllm",
                "image": "vllm:1",
                "env": [{"name": "HOME", "value": "/cache"}],
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            }
        ],
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "volumes": [{"name": "cache", "emptyDir": {}}],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000},
    },
}


def merged(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    template = {"spec": spec, **({"metadata": metadata} if metadata else {})}
    return merge_pod_template(OURS, json.dumps(template))


@pytest.mark.parametrize("theirs", [None, "", "{}"])
def test_without_a_template_ours_stands(theirs: str | None) -> None:
    assert merge_pod_template(OURS, theirs) == OURS


@pytest.mark.parametrize(
    ("theirs", "path", "result"),
    [
        pytest.param({"priorityClassName": "high"}, ("priorityClassName",), "high", id="a field of theirs is added"),
        pytest.param(
            {"securityContext": {"runAsUser": 7}},
            ("securityContext",),
            {"runAsNonRoot": True, "runAsUser": 7},
            id="objects merge field by field",
        ),
        pytest.param(
            {"containers": [{"name": "vllm", "env": [{"name": "HOME", "value": "/x"}, {"name": "A", "value": "1"}]}]},
            ("containers", 0, "env"),
            [{"name": "HOME", "value": "/x"}, {"name": "A", "value": "1"}],
            id="env by name",
        ),
        pytest.param(
            {"containers": [{"name": "sidecar", "image": "s"}]},
            ("containers", 1),
            {"name": "sidecar", "image": "s"},
            id="another container comes after ours",
        ),
        pytest.param(
            {"containers": [{"name": "vllm", "volumeMounts": [{"name": "other", "mountPath": "/cache"}]}]},
            ("containers", 0, "volumeMounts"),
            [{"name": "other", "mountPath": "/cache"}],
            id="mounts by path",
        ),
        pytest.param(
            {
                "containers": [
                    {
                        "name": "vllm",
                        "volumeMounts": [
                            {"name": "data", "mountPath": "/a", "subPath": "a"},
                            {"name": "data", "mountPath": "/b", "subPath": "b"},
                        ],
                    }
                ]
            },
            ("containers", 0, "volumeMounts"),
            [
                {"name": "cache", "mountPath": "/cache"},
                {"name": "data", "mountPath": "/a", "subPath": "a"},
                {"name": "data", "mountPath": "/b", "subPath": "b"},
            ],
            id="one volume mounted twice stays mounted twice",
        ),
        pytest.param(
            {
                "tolerations": [
                    {"key": "a", "operator": "Exists", "effect": "NoSchedule"},
                    {"key": "a", "operator": "Exists", "effect": "NoExecute"},
                ]
            },
            ("tolerations",),
            [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "a", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "a", "operator": "Exists", "effect": "NoExecute"},
            ],
            id="tolerations of one key are kept apart",
        ),
        pytest.param(
            {"volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "c"}}]},
            ("volumes",),
            [{"name": "cache", "persistentVolumeClaim": {"claimName": "c"}}],
            id="a volume has one source: theirs",
        ),
        pytest.param({"dnsConfig": {"searches": ["a"]}}, ("dnsConfig", "searches"), ["a"], id="a list of theirs"),
    ],
)
def test_lists_merge_by_name_or_mount_path(theirs: dict[str, Any], path: tuple[Any, ...], result: Any) -> None:
    found: Any = merged(theirs)["spec"]
    for part in path:
        found = found[part]
    assert found == result


def test_labels_and_annotations_are_added_and_ours_is_left_unchanged() -> None:
    before = copy.deepcopy(OURS)
    found = merged({}, labels={"team": "a"}, annotations={"x": "y"})
    assert found["metadata"] == {
        "labels": {"metainf.dev/workload": "chat", "team": "a"},
        "annotations": {"x": "y"},
    }
    assert before == OURS


def test_a_template_that_is_no_object_is_an_error() -> None:
    with pytest.raises(TypeError, match="not an object"):
        merge_pod_template(OURS, "[1]")


plain = st.recursive(
    st.one_of(st.text(max_size=3), st.integers(), st.booleans()),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["name", "a", "b", "env", "mountPath"]), inner, max_size=3),
        st.lists(st.dictionaries(st.sampled_from(["name", "v"]), st.text("xy", max_size=1), max_size=2), max_size=3),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["metadata", "spec"]), st.dictionaries(st.text("abc"), plain, max_size=3)))
def test_merging_into_itself_changes_nothing_that_has_names(template: dict[str, Any]) -> None:
    once = merge_pod_template(OURS, json.dumps(template))
    assert merge_pod_template(once, json.dumps({})) == once
    assert all(key in once for key in (*OURS, *template))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        pytest.param({"metadata": {"labels": {"metainf.dev/workload": "x"}}}, "metainf.dev/workload", id="our label"),
        pytest.param({"spec": {"nodeName": "n"}}, "use placement.pools", id="a node by name"),
        pytest.param({"spec": {"nodeSelector": {"a": "b"}}}, "use placement.nodeSelector", id="a node selector"),
        pytest.param({"spec": {"affinity": {"nodeAffinity": {}}}}, "affinity.nodeAffinity", id="node affinity"),
        pytest.param({"spec": {"containers": [{"name": "vllm", "image": "x"}]}}, "use engine.image", id="image"),
        pytest.param({"spec": {"containers": [{"name": "vllm", "args": []}]}}, "use engine.extraArgs", id="args"),
        pytest.param({"spec": {"containers": [{"name": "vllm", "ports": []}]}}, "the Service depends", id="ports"),
        pytest.param(
            {"spec": {"containers": [{"name": "vllm", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]}},
            "overrides the chosen layout",
            id="accelerators",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "vllm", "resources": {"requests": {"cpu": "1"}}}]}},
            "what the ledger counts",
            id="requests",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "vllm", "command": ["sleep"]}]}},
            "use engine.image, an image whose entrypoint takes vLLM's arguments",
            id="command",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "vllm", "resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}]}},
            "overrides the chosen layout",
            id="a part of an accelerator",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "exporter", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}},
            "spec.containers[exporter].resources.limits[nvidia.com/gpu] takes an accelerator beside the engine's",
            id="an accelerator of a sidecar",
        ),
        pytest.param(
            {"spec": {"initContainers": [{"name": "warm", "resources": {"requests": {"amd.com/gpu": "1"}}}]}},
            "run what needs one in a pod of its own",
            id="an accelerator of an init container, of another vendor",
        ),
        pytest.param(
            {"spec": {"initContainers": [{"name": "vllm", "resources": {"limits": {"habana.ai/gaudi": "1"}}}]}},
            "spec.initContainers[vllm]",
            id="an accelerator of an init container of the engine's name",
        ),
        pytest.param(
            {"spec": {"terminationGracePeriodSeconds": 129}}, "write 130 or more, or leave it out", id="little grace"
        ),
        pytest.param({"spec": {"terminationGracePeriodSeconds": None}}, "cuts off answers", id="the default grace"),
        pytest.param({"spec": {"terminationGracePeriodSeconds": "3600"}}, "cuts off answers", id="a word for seconds"),
    ],
)
def test_says_what_would_override_a_decision(template: dict[str, Any], says: str) -> None:
    (found,) = pod_template_conflicts(json.dumps(template), ["nvidia.com/gpu"], shutdown_s=130)
    assert says in found
    assert found.startswith("engine.podTemplate.")


@pytest.mark.parametrize(
    "template",
    [
        None,
        "",
        "{}",
        '{"metadata":null,"spec":null}',
        '{"metadata":{"labels":{"team":"a"}},"spec":{"affinity":{"podAntiAffinity":{}},"serviceAccountName":"s"}}',
        '{"spec":{"containers":[{"name":"vllm","env":[],"resources":{"limits":{"cpu":"4"}}}]}}',
        '{"spec":{"containers":[{"name":"other","image":"x","args":["y"],"command":["z"]}]}}',
        '{"spec":{"containers":[{"name":"other","resources":{"requests":{"cpu":"1"},"limits":{"rdma/hca":"1"}}}]}}',
        '{"spec":{"initContainers":[{"name":"other","resources":null},7],"terminationGracePeriodSeconds":130}}',
    ],
)
def test_lets_through_what_overrides_nothing(template: str | None) -> None:
    assert pod_template_conflicts(template, ["nvidia.com/gpu"], shutdown_s=130) == ()
