"""The CRDs as documents: complete, bounded, described, and one with the examples and the library's own words.

What only a server can say (CEL, defaults, subresources) is asked in e2e/test_crds.py.
"""

import re
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path
from typing import Any

import pytest
import yaml

from metainf.pools import Billing, CapacityType, PriceSource
from metainf.rejections import RejectionReason
from metainf.workload import (
    MOST_REPLICAS,
    BudgetKind,
    LatencyMetric,
    LossyPolicy,
    Objective,
    Repetitiveness,
    SpotPolicy,
)

_ROOT = Path(__file__).resolve().parent.parent
_EXAMPLES = _ROOT / "crds/examples"
_CRDS = {
    crd["spec"]["names"]["kind"]: crd
    for crd in (yaml.safe_load(path.read_text()) for path in sorted((_ROOT / "crds").glob("*.yaml")))
}
_KINDS = ("AcceleratorPool", "InferenceDecision", "InferenceWorkload")
_BAD = yaml.safe_load((_ROOT / "e2e/manifests/bad.yaml").read_text())
_TYPES: dict[str, Any] = {"string": str, "integer": int, "boolean": bool, "object": dict, "array": list}
_CAMEL_CASE = re.compile("[A-Z][A-Za-z]*")


def _version(kind: str) -> Any:
    return _CRDS[kind]["spec"]["versions"][0]


def _schema(kind: str) -> Any:
    return _version(kind)["schema"]["openAPIV3Schema"]


def _walk(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _walk(child, f"{path}.{name}")
    if "items" in schema:
        yield from _walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from _walk(schema["additionalProperties"], f"{path}{{}}")


def _fields(kind: str) -> list[tuple[str, Any]]:
    return [(path, schema) for path, schema in _walk(_schema(kind)) if not path.startswith(".metadata")]


def _at(kind: str, path: str) -> Any:
    schema = _schema(kind)
    for name in path.strip(".").split("."):
        schema = schema["items"] if name == "[]" else schema["properties"][name]
    return schema


def _rules(kind: str) -> list[tuple[str, Any]]:
    return [(path, rule) for path, schema in _fields(kind) for rule in schema.get("x-kubernetes-validations", ())]


def _problems(schema: Any, value: Any, path: str = "") -> Iterator[str]:
    """What a schema without CEL says against a value."""
    wanted = _TYPES[schema["type"]]
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        yield f"{path}: {value!r} is no {schema['type']}"
    elif wanted is dict:
        yield from _object_problems(schema, value, path)
    elif wanted is list:
        if len(value) > schema["maxItems"]:
            yield f"{path}: {len(value)} items"
        for position, item in enumerate(value):
            yield from _problems(schema["items"], item, f"{path}[{position}]")
    else:
        yield from _scalar_problems(schema, value, path)


def _object_problems(schema: Any, value: Any, path: str) -> Iterator[str]:
    if schema.get("x-kubernetes-preserve-unknown-fields") or path == ".metadata":
        return
    yield from (f"{path}.{name}: required" for name in schema.get("required", ()) if name not in value)
    for name, item in value.items():
        child = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        if child is None:
            yield f"{path}.{name}: unknown field"
        else:
            yield from _problems(child, item, f"{path}.{name}")


def _scalar_problems(schema: Any, value: Any, path: str) -> Iterator[str]:
    if value not in schema.get("enum", [value]):
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path}: {value} is out of bounds"
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{path}: {len(value)} characters"
        if not re.search(schema.get("pattern", ""), value):
            yield f"{path}: {value!r} does not match {schema['pattern']}"


def _manifests(folder: Path) -> list[Any]:
    return [
        pytest.param(manifest, id=f"{path.stem}-{manifest['metadata']['name']}")
        for path in sorted(folder.glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text())
    ]


def test_there_are_the_three_kinds_and_no_other() -> None:
    assert tuple(sorted(_CRDS)) == _KINDS


@pytest.mark.parametrize(
    ("kind", "plural", "short_name", "scope"),
    [
        ("InferenceWorkload", "inferenceworkloads", "miw", "Namespaced"),
        ("AcceleratorPool", "acceleratorpools", "apool", "Cluster"),
        ("InferenceDecision", "inferencedecisions", "mid", "Namespaced"),
    ],
)
def test_names_are_as_published(kind: str, plural: str, short_name: str, scope: str) -> None:
    spec = _CRDS[kind]["spec"]
    assert _CRDS[kind]["metadata"]["name"] == f"{plural}.metainf.dev"
    assert (spec["group"], spec["scope"]) == ("metainf.dev", scope)
    assert spec["names"] == {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short_name],
        "categories": ["metainf"],
    }
    assert [version["name"] for version in spec["versions"]] == ["v1alpha1"]


@pytest.mark.parametrize("kind", _KINDS)
def test_every_field_of_spec_and_status_is_described_in_a_sentence(kind: str) -> None:
    lacking = [path for path, schema in _fields(kind) if not schema.get("description", "").endswith(".")]
    assert lacking == []


@pytest.mark.parametrize("kind", _KINDS)
def test_every_string_list_and_map_is_bounded_so_that_rules_stay_cheap(kind: str) -> None:
    bounds = {"string": ("maxLength", "enum", "format"), "array": ("maxItems",)}
    unbounded = [
        path
        for path, schema in _fields(kind)
        if path not in (".apiVersion", ".kind")
        and not any(bound in schema for bound in bounds.get(schema["type"], ("type",)))
    ]
    unbounded += [
        path for path, schema in _fields(kind) if "additionalProperties" in schema and "maxProperties" not in schema
    ]
    assert unbounded == []


@pytest.mark.parametrize("kind", _KINDS)
def test_there_are_no_floats_and_nothing_that_is_now_a_number_and_now_a_string(kind: str) -> None:
    assert {schema["type"] for _, schema in _fields(kind)} <= set(_TYPES)
    assert [path for path, schema in _fields(kind) if "x-kubernetes-int-or-string" in schema] == []


@pytest.mark.parametrize("kind", _KINDS)
def test_enums_are_camel_case(kind: str) -> None:
    values = [value for _, schema in _fields(kind) for value in schema.get("enum", ())]
    assert [value for value in values if not _CAMEL_CASE.fullmatch(value)] == []


@pytest.mark.parametrize("kind", _KINDS)
def test_fields_are_camel_case(kind: str) -> None:
    names = [name for _, schema in _fields(kind) for name in schema.get("properties", ())]
    assert [name for name in names if not re.fullmatch("[a-z][A-Za-z0-9]*", name)] == []


@pytest.mark.parametrize("kind", _KINDS)
def test_defaults_are_valid_and_no_required_field_has_one(kind: str) -> None:
    for path, schema in _fields(kind):
        if "default" in schema:
            assert list(_problems(schema, schema["default"], path)) == []
        for name in schema.get("required", ()):
            assert "default" not in schema["properties"][name], f"{path}.{name}"


@pytest.mark.parametrize("kind", _KINDS)
def test_lists_say_how_they_merge_and_keys_of_list_maps_are_always_there(kind: str) -> None:
    for path, schema in _fields(kind):
        if schema["type"] == "array":
            assert schema["x-kubernetes-list-type"] in {"atomic", "set", "map"}, path
            assert set(schema.get("x-kubernetes-list-map-keys", ())) <= set(schema["items"].get("required", ())), path


@pytest.mark.parametrize("kind", ["AcceleratorPool", "InferenceWorkload"])
def test_conditions_are_a_map_by_type_with_all_that_a_condition_has(kind: str) -> None:
    conditions = _at(kind, "status.conditions")
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert conditions["items"]["required"] == ["type", "status", "lastTransitionTime", "reason", "message"]
    assert "observedGeneration" in conditions["items"]["properties"]


@pytest.mark.parametrize("kind", _KINDS)
def test_status_is_a_subresource_and_spec_is_required(kind: str) -> None:
    assert _version(kind)["subresources"]["status"] == {}
    assert _schema(kind)["required"] == ["spec"]


@pytest.mark.parametrize("kind", _KINDS)
def test_every_rule_says_what_to_do_and_points_at_a_field(kind: str) -> None:
    for path, rule in _rules(kind):
        assert len(rule["message"]) > 20, rule
        assert not rule["message"].endswith("."), "the server goes on after it"
        assert "[]" in path or "{}" in path or "fieldPath" not in rule or _at(kind, path + rule["fieldPath"])


def test_only_the_pod_template_is_untyped() -> None:
    untyped = [
        f"{kind}{path}"
        for kind in _KINDS
        for path, schema in _fields(kind)
        if "x-kubernetes-preserve-unknown-fields" in schema
    ]
    assert untyped == ["InferenceWorkload.spec.engine.podTemplate.spec"]


def test_no_field_takes_more_replicas_than_the_library() -> None:
    most = {
        f"{kind}{path}": schema["maximum"]
        for kind in _KINDS
        for path, schema in _fields(kind)
        if path.lower().endswith("replicas") and "maximum" in schema
    }
    assert "InferenceWorkload.spec.scaling.replicas" in most
    assert set(most.values()) == {MOST_REPLICAS}


def test_replicas_are_scaled_through_a_field_without_a_default() -> None:
    scale = _version("InferenceWorkload")["subresources"]["scale"]
    assert scale == {
        "specReplicasPath": ".spec.scaling.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    assert "default" not in _at("InferenceWorkload", scale["specReplicasPath"])
    assert _at("InferenceWorkload", scale["labelSelectorPath"])["type"] == "string"


@pytest.mark.parametrize(
    ("kind", "usual", "wide"),
    [
        (
            "InferenceWorkload",
            ["Ready", "Reason", "Method", "Pool", "Accelerator", "Cost/h", "Age"],
            ["Budget", "Confidence", "TTFT", "Tokens", "Decision", "URL"],
        ),
        (
            "AcceleratorPool",
            ["Product", "Count", "Nodes", "Free", "Price/h", "Source", "Age"],
            ["Capacity", "Max", "As of"],
        ),
        (
            "InferenceDecision",
            ["Workload", "Phase", "Outcome", "Method", "Layout", "Pool", "Replicas", "Cost/h", "Age"],
            ["Limit", "Predictor"],
        ),
    ],
)
def test_printer_columns_show_scalars_that_exist(kind: str, usual: list[str], wide: list[str]) -> None:
    columns = _version(kind)["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == usual
    assert [column["name"] for column in columns if column.get("priority") == 1] == wide
    for column in columns:
        path = re.sub(r"\[\?\(@\.type==\"\w+\"\)\]", ".[]", column["jsonPath"])
        if path != ".metadata.creationTimestamp":
            assert _at(kind, path)["type"] == column["type"]


@pytest.mark.parametrize(
    ("kind", "path", "words"),
    [
        ("InferenceWorkload", "spec.objective", Objective),
        ("InferenceDecision", "spec.objective", Objective),
        ("InferenceWorkload", "spec.traffic.repetitiveness", Repetitiveness),
        ("InferenceDecision", "spec.inputs.traffic.repetitiveness", Repetitiveness),
        ("InferenceWorkload", "spec.methods.lossy", LossyPolicy),
        ("InferenceWorkload", "spec.placement.spot", SpotPolicy),
        ("AcceleratorPool", "spec.capacityType", CapacityType),
        ("AcceleratorPool", "spec.billing", Billing),
        ("AcceleratorPool", "status.price.source", PriceSource),
        ("InferenceDecision", "spec.prices.[].source", PriceSource),
    ],
)
def test_enums_are_the_words_of_the_library(kind: str, path: str, words: EnumType) -> None:
    assert _at(kind, path)["enum"] == [member.value for member in words]  # type: ignore[var-annotated]


def test_limits_are_named_as_in_the_library() -> None:
    assert set(_at("InferenceWorkload", "spec.slo")["properties"]) == {metric.value for metric in LatencyMetric}
    kinds = {kind.value for kind in BudgetKind}
    assert set(_at("InferenceWorkload", "spec.budget")["properties"]) == {*kinds, "currency"}
    assert set(_at("InferenceDecision", "spec.refusal.cheapestBudget")["properties"]) == {*kinds, "currency"}


def test_a_decision_has_room_for_every_reason_to_reject() -> None:
    rejections = _at("InferenceDecision", "spec.rejections")
    assert rejections["maxItems"] >= len(RejectionReason)
    for reason in RejectionReason:
        assert list(_problems(rejections["items"]["properties"]["reason"], reason.value)) == []


def test_the_spec_of_a_decision_never_changes() -> None:
    assert "self == oldSelf" in [rule["rule"] for rule in _at("InferenceDecision", "spec")["x-kubernetes-validations"]]
    transitions = [path for kind in _KINDS for path, rule in _rules(kind) if "oldSelf" in rule["rule"]]
    assert transitions == [".spec"], "what a workload asks may change"


@pytest.mark.parametrize("manifest", _manifests(_EXAMPLES) + _manifests(_ROOT / "e2e/manifests/good"))
def test_each_example_uses_known_fields_and_allowed_values(manifest: Any) -> None:
    assert manifest["apiVersion"] == "metainf.dev/v1alpha1"
    assert list(_problems(_schema(manifest["kind"]), manifest)) == []


def test_the_examples_are_the_stories_that_are_told() -> None:
    stems = {path.stem for path in _EXAMPLES.glob("*.yaml")}
    stories = {"chat", "long-shared-prompt", "batch", "moe-8-gpus", "draft-model", "cpu", "budget-too-low"}
    assert stems == stories | {"acceleratorpools", "acceleratorpool-cpu", "acceleratorpool-kind", "cpu-kind"}
    pools = list(yaml.safe_load_all((_EXAMPLES / "acceleratorpools.yaml").read_text()))
    assert [pool["metadata"]["name"] for pool in pools] == ["a100-80gb", "h100", "l40s", "l4", "l40s-spot"]


def test_the_pools_that_examples_name_are_among_the_examples() -> None:
    manifests = [parameter.values[0] for parameter in _manifests(_EXAMPLES)]
    pools = {each["metadata"]["name"] for each in manifests if each["kind"] == "AcceleratorPool"}
    named = [name for each in manifests for name in each["spec"].get("placement", {}).get("pools", ())]
    assert named
    assert set(named) <= pools


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"bugdet": {}}, ".spec.bugdet: unknown field", id="an unknown field"),
        pytest.param({"objective": "Cheapest"}, "'Cheapest' is none of", id="no word of an enum"),
        pytest.param({"budget": {"perHour": 6}}, ".spec.budget.perHour: 6 is no string", id="a number for a string"),
        pytest.param({"suspend": 1}, ".spec.suspend: 1 is no boolean", id="a number for a boolean"),
        pytest.param({"model": {}}, ".spec.model.id: required", id="a required field left out"),
        pytest.param({"scaling": {"minReplicas": 0}}, "0 is out of bounds", id="below a minimum"),
        pytest.param({"scaling": {"minReplicas": True}}, "True is no integer", id="a boolean for a number"),
        pytest.param({"model": {"id": "a" * 257}}, ".spec.model.id: 257 characters", id="too long"),
        pytest.param({"placement": {"pools": ["a"] * 65}}, ".spec.placement.pools: 65 items", id="too many"),
    ],
)
def test_the_check_on_examples_finds_what_is_wrong(change: dict[str, Any], problem: str) -> None:
    manifest = yaml.safe_load((_EXAMPLES / "chat.yaml").read_text())
    manifest["spec"].update(change)
    found = list(_problems(_schema("InferenceWorkload"), manifest))
    assert len(found) == 1
    assert problem in found[0]


def test_bad_manifests_are_many_named_once_and_patch_a_good_one() -> None:
    names = [case["name"] for case in _BAD]
    assert len(names) >= 45
    assert len(set(names)) == len(names)
    bases = {path.stem for path in (_ROOT / "e2e/manifests/good").glob("*.yaml")}
    assert {case["base"] for case in _BAD} <= bases
    assert all(set(case) == {"name", "base", "patch", "message"} for case in _BAD)


def test_every_rule_is_broken_by_a_bad_manifest() -> None:
    expected = [case["message"] for case in _BAD]
    untried = {
        rule["message"]
        for kind in _KINDS
        for _, rule in _rules(kind)
        if "oldSelf" not in rule["rule"] and not any(message in rule["message"] for message in expected)
    }
    assert untried == set()


def _pattern(kind: str, path: str) -> re.Pattern[str]:
    rule = _at(kind, path)["x-kubernetes-validations"][0]["rule"]
    found = re.search(r"self\.matches\(r'([^']*)'\)", rule)
    assert found
    return re.compile(found[1])


@pytest.mark.parametrize("text", ["500ms", "2s", "1h30m", "0.5s", "999999h", "1m1.250s"])
def test_durations_are_written_as_in_kubernetes(text: str) -> None:
    assert _pattern("InferenceWorkload", "spec.slo.ttft.p95").search(text)


@pytest.mark.parametrize(
    "text", ["", "5", "5 s", "-5s", "5S", "5sec", "1d", "1us", ".5s", "5.s", "1e3s", "1000000h", "5s\n"]
)
def test_other_durations_are_not(text: str) -> None:
    assert not re.fullmatch(_pattern("InferenceWorkload", "spec.slo.ttft.p95").pattern.strip("^$"), text)


@pytest.mark.parametrize("text", ["6", "6.00", "0.000001", "999999999.999999", "007"])
def test_amounts_are_plain_decimal_numbers(text: str) -> None:
    assert _pattern("InferenceWorkload", "spec.budget.perHour").search(text)


@pytest.mark.parametrize(
    "text", ["", "-6", "+6", "6.", ".6", "6,00", "1e3", "6k", "6 USD", "$6", "0x6", "1_000", "inf", "NaN", "٦"]
)
def test_other_amounts_are_not(text: str) -> None:
    assert not _pattern("InferenceWorkload", "spec.budget.perHour").search(text)


@pytest.mark.parametrize("kind", ["InferenceWorkload", "AcceleratorPool"])
def test_the_same_field_has_the_same_rule_wherever_it_stands(kind: str) -> None:
    rules: dict[str, set[str]] = {}
    for _, rule in _rules(kind):
        rules.setdefault(rule["message"], set()).add(rule["rule"])
    assert {message: each for message, each in rules.items() if len(each) > 1} == {}
