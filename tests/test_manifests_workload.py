import copy
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metainf.candidates import CandidateName
from metainf.errors import InvalidWorkloadError
from metainf.manifests import (
    DraftSource,
    KeyRef,
    OnViolation,
    PolicyMode,
    PvcSource,
    TrafficSource,
    cpu_cores,
    duration_s,
    format_cpu,
    format_duration,
    format_figure,
    format_memory,
    format_money,
    memory_bytes,
    parse_workload,
    read_documents,
)
from metainf.workload import (
    BatchLoad,
    BudgetKind,
    ConcurrencyLoad,
    LossyPolicy,
    Objective,
    RateLoad,
    SpotPolicy,
    Toleration,
)

ROOT = Path(__file__).parent.parent
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
CRD = yaml.load((ROOT / "crds/metainf.dev_inferenceworkloads.yaml").read_text(), Loader=LOADER)
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
EXAMPLES = ("batch", "budget-too-low", "chat", "cpu", "draft-model", "long-shared-prompt", "moe-8-gpus")


def minimal():
    return {
        "apiVersion": "metainf.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": {"name": "chat", "namespace": "team-a"},
        "spec": {
            "model": {"id": "Qwen/Qwen2.5-7B-Instruct"},
            "traffic": {"requestsPerSecond": "4", "inputTokens": {"mean": 1200}, "outputTokens": {"mean": 250}},
            "budget": {"perHour": "6.00"},
        },
    }


def with_value(manifest, path, value):
    """The manifest with the value at the dotted path; `...` removes the field."""
    changed = copy.deepcopy(manifest)
    *parents, last = path.split(".")
    node = changed
    for name in parents:
        node = node.setdefault(name, {})
    if value is ...:
        node.pop(last, None)
    else:
        node[last] = value
    return changed


def changed(**changes):
    manifest = minimal()
    for path, value in changes.items():
        manifest = with_value(manifest, path.replace("__", "."), value)
    return manifest


def spec(**fields):
    """The minimal manifest with these fields of the spec replaced."""
    manifest = minimal()
    manifest["spec"].update(fields)
    return manifest


LENGTHS = {"inputTokens": {"mean": 100}, "outputTokens": {"mean": 10}}
BATCH = {"batch": {"requests": 10, "deadline": "1h"}, **LENGTHS}
PIN = {"pool": "h100", "method": "default", "replicas": 2}


def full_manifests():
    """Manifests that together have every field of the CRD's spec."""
    hub = spec(
        model={
            "id": "a/b",
            "revision": "main",
            "servedName": "b",
            "source": {"hub": {}},
            "tokenSecretRef": {"name": "s", "key": "k"},
            "architecture": {"configMapRef": {"name": "c", "key": "k.json"}},
            "draftModel": {"id": "a/head", "revision": "v1"},
        },
        traffic={
            "requestsPerSecond": "0.25",
            "inputTokens": {"mean": 100, "p95": 200},
            "outputTokens": {"mean": 10, "p95": 30},
            "sharedPrefix": {"tokens": 50, "ratio": "0.5", "distinct": 3},
            "repetitiveness": "High",
            "burstiness": "2.5",
            "description": "chat",
        },
        slo={m: {"p50": "10ms", "p95": "1s", "p99": "1m"} for m in ("ttft", "tpot", "e2e")},
        budget={"perMillionTokens": "0.40", "currency": "EUR"},
        objective="MinimizeLatency",
        methods={"allow": ["default"], "deny": ["ngram"], "lossy": "Allow"},
        placement={
            "pools": ["h100"],
            "spot": "Allow",
            "tolerations": [
                {"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5}
            ],
            "nodeSelector": {"zone": "a"},
        },
        scaling={"minReplicas": 1, "maxReplicas": 4, "replicas": 0},
        policy={
            "mode": "Pinned",
            "pinned": {
                "candidate": {
                    **PIN,
                    "layout": {
                        "tensorParallel": 2,
                        "pipelineParallel": 1,
                        "dataParallel": 1,
                        "expertParallel": True,
                    },
                }
            },
            "traffic": "Observed",
            "minimumGain": "0.2",
            "cooldown": "0s",
            "confidence": "0.95",
            "onViolation": "Stop",
        },
        engine={
            "image": "vllm/vllm-openai:v0.32.0",
            "version": "0.32.0",
            "extraArgs": ["--disable-log-requests"],
            "podTemplate": {
                "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
                "spec": {"priorityClassName": "high", "volumes": [{"name": "x"}]},
            },
            "apiKeySecretRef": {"name": "s", "key": "k"},
        },
        suspend=True,
    )
    pvc = spec(
        model={
            "id": "local",
            "source": {"pvc": {"claimName": "weights", "path": "models/qwen"}},
            "draftModel": {"path": "heads/qwen"},
        },
        traffic=BATCH,
        budget={"total": "60"},
        policy={"mode": "Pinned", "pinned": {"decision": "chat-0123456789"}},
    )
    clients = spec(traffic={"concurrency": 64, **LENGTHS})
    return hub, pvc, clients, minimal()


@pytest.mark.parametrize("name", EXAMPLES)
def test_reads_every_example(name):
    (manifest,) = read_documents((ROOT / f"crds/examples/{name}.yaml").read_text(), name)
    parsed = parse_workload(manifest)
    assert parsed.name == manifest["metadata"]["name"]
    assert parsed.model.id == manifest["spec"]["model"]["id"]


def test_fills_in_the_defaults_of_the_crd():
    parsed = parse_workload(minimal())
    asked = parsed.workload
    assert (parsed.name, parsed.namespace, parsed.generation, parsed.uid) == ("chat", "team-a", 1, "")
    assert (parsed.created_at, parsed.deleting, parsed.suspend) == (None, False, False)
    assert (asked.objective, asked.confidence) == (Objective.MINIMIZE_COST, 0.9)
    assert (asked.budget.kind, asked.budget.amount, asked.budget.currency) == (
        BudgetKind.PER_HOUR,
        Decimal("6.00"),
        "USD",
    )
    assert (asked.replicas.minimum, asked.replicas.maximum, asked.replicas.fixed) == (1, None, None)
    assert (asked.methods.lossy, asked.placement.spot) == (LossyPolicy.NEVER, SpotPolicy.NEVER)
    assert (parsed.policy.mode, parsed.policy.on_violation) == (PolicyMode.AUTO, OnViolation.KEEP)
    assert parsed.policy.traffic is TrafficSource.DECLARED
    assert (parsed.policy.minimum_gain_ratio, parsed.policy.cooldown_s) == (0.1, 1800.0)
    assert asked.slo.bounds == ()
    assert asked.traffic.burstiness == 1.0


def test_reads_every_field_to_its_value():
    hub, pvc, clients, _ = (parse_workload(manifest) for manifest in full_manifests())
    assert hub.model.token_secret == KeyRef("s", "k")
    assert hub.model.config_map == KeyRef("c", "k.json")
    assert hub.model.draft == DraftSource(id="a/head", revision="v1")
    assert pvc.model.draft == DraftSource(path="heads/qwen")
    assert [each.workload.draft_model for each in (hub, pvc, clients)] == [True, True, False]
    assert hub.workload.traffic.load == RateLoad(0.25)
    assert [b.bound_s for b in hub.workload.slo.bounds[:3]] == [0.01, 1.0, 60.0]
    assert hub.workload.placement.tolerations == (Toleration("a", "Equal", "b", "NoExecute", 5),)
    assert hub.policy.pinned.candidate == CandidateName("h100", "default", "TP2-EP", 2)
    assert json.loads(hub.engine.pod_template)["spec"]["priorityClassName"] == "high"
    assert pvc.model.pvc == PvcSource("weights", "models/qwen")
    assert pvc.workload.traffic.load == BatchLoad(10, 3600.0)
    assert pvc.policy.pinned.decision == "chat-0123456789"
    assert clients.workload.traffic.load == ConcurrencyLoad(64)


def test_is_a_value_that_can_be_compared_and_hashed():
    first, second = (parse_workload(full_manifests()[0]) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)


def test_reads_what_the_api_server_fills_in():
    manifest = changed(
        metadata__uid="6b1f",
        metadata__generation=7,
        metadata__creationTimestamp="2026-10-01T08:00:00Z",
        metadata__deletionTimestamp="2026-10-02T08:00:00Z",
        metadata__managedFields=[{}],
        status={"anything": 1},
    )
    parsed = parse_workload(manifest)
    assert (parsed.uid, parsed.generation, parsed.deleting) == ("6b1f", 7, True)
    assert parsed.created_at == datetime(2026, 10, 1, 8, tzinfo=UTC)


def leaves(schema, path=""):
    """Dotted paths of all fields of a CRD's schema; arrays as their items."""
    found = set()
    if "items" in schema:
        return leaves(schema["items"], path)
    for name, child in schema.get("properties", {}).items():
        found |= {f"{path}.{name}"} | leaves(child, f"{path}.{name}")
    return found


def given_paths(value, schema, path=""):
    found = set()
    if "items" in schema:
        return {p for item in value for p in given_paths(item, schema["items"], path)}
    for name, child in schema.get("properties", {}).items():
        if isinstance(value, dict) and name in value:
            found |= {f"{path}.{name}"} | given_paths(value[name], child, f"{path}.{name}")
    return found


def test_knows_every_field_of_the_crd():
    spec_schema = SCHEMA["properties"]["spec"]
    covered = set()
    for manifest in full_manifests():
        parse_workload(manifest)
        covered |= given_paths(manifest["spec"], spec_schema)
    budget_total = {".budget.perHour", ".budget.total"}
    assert leaves(spec_schema) - covered - budget_total == set()


def objects_of(value, path=()):
    if isinstance(value, dict):
        yield path
        for name, child in value.items():
            yield from objects_of(child, (*path, name))
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from objects_of(child, (*path, i))


@pytest.mark.parametrize("manifest", full_manifests(), ids=["hub", "pvc", "clients", "minimal"])
def test_refuses_an_unknown_field_in_every_object(manifest):
    free = ({"placement", "nodeSelector"}, {"podTemplate", "spec"}, {"labels"}, {"annotations"})
    for path in objects_of(manifest["spec"], ("spec",)):
        if any(names <= set(path) for names in free):
            continue
        broken = copy.deepcopy(manifest)
        node = broken
        for name in path:
            node = node[name]
        node["zzz"] = 1
        with pytest.raises(InvalidWorkloadError, match=r"zzz: unknown field"):
            parse_workload(broken)


BAD = [
    # what | the manifest | the path that the message begins with | a part of the message
    ("name too long", changed(metadata__name="a" * 41), "metadata.name", "at most 40 lower-case letters"),
    ("name begins with a digit", changed(metadata__name="1a"), "metadata.name", "begins with a letter"),
    ("name ends with a newline", changed(metadata__name="chat\n"), "metadata.name", "begins with a letter"),
    ("other version", changed(apiVersion="metainf.dev/v1"), "apiVersion", "write metainf.dev/v1alpha1"),
    ("other kind", changed(kind="Deployment"), "kind", "write InferenceWorkload"),
    ("no spec", changed(spec=...), "spec", "required"),
    ("spec is null", changed(spec=None), "spec", "it is null"),
    ("spec is a list", changed(spec=[]), "spec", "write an object with fields"),
    ("no model", changed(spec__model=...), "spec.model", "required"),
    ("no traffic", changed(spec__traffic=...), "spec.traffic", "required"),
    ("no budget", changed(spec__budget=...), "spec.budget", "required"),
    ("misspelt field", spec(sloo={}), "spec.sloo", "did you mean slo?"),
    ("two slashes", changed(spec__model__id="a/b/c"), "spec.model.id", "an id on the hub has at most one '/'"),
    ("dots in the id", changed(spec__model__id="a/..b"), "spec.model.id", "write the model's id"),
    ("id is a flag", changed(spec__model__id="--x"), "spec.model.id", "write the model's id"),
    ("revision", changed(spec__model__revision="-x"), "spec.model.revision", "write a branch, tag or commit"),
    ("served name", changed(spec__model__servedName="a b"), "spec.model.servedName", "a name that clients can send"),
    ("both sources", changed(spec__model__source={"hub": {}, "pvc": {"claimName": "a"}}), "spec.model.source",
     "give exactly one of hub and pvc"),
    ("no source", changed(spec__model__source={}), "spec.model.source", "give exactly one of hub and pvc"),
    ("revision of a claim", spec(model={"id": "a", "revision": "b", "source": {"pvc": {"claimName": "a"}}}),
     "spec.model.revision", "a volume claim holds one revision"),
    ("token for a claim",
     spec(model={"id": "a", "tokenSecretRef": {"name": "b"}, "source": {"pvc": {"claimName": "a"}}}),
     "spec.model.tokenSecretRef", "needs no hub token"),
    ("claim's name", changed(spec__model__source={"pvc": {"claimName": "A"}}), "spec.model.source.pvc.claimName",
     "write the name of an object"),
    ("path upwards", changed(spec__model__source={"pvc": {"claimName": "a", "path": "a/../b"}}),
     "spec.model.source.pvc.path", "write a path within the volume"),
    ("a head that is nowhere", changed(spec__model__draftModel={}), "spec.model.draftModel", "give id, or path"),
    ("two heads", changed(spec__model__draftModel={"id": "a", "path": "b"}), "spec.model.draftModel",
     "give id, or path for a head on the model's volume claim"),
    ("a head on no claim", changed(spec__model__draftModel={"path": "a"}), "spec.model.draftModel.path",
     "a model from the hub has its head there too"),
    ("a claim's head from the hub",
     spec(model={"id": "a", "draftModel": {"id": "b"}, "source": {"pvc": {"claimName": "a"}}}),
     "spec.model.draftModel.id", "a model from a volume claim has its head on the same claim"),
    ("revision of a claim's head",
     spec(model={"id": "a", "draftModel": {"path": "b", "revision": "c"}, "source": {"pvc": {"claimName": "a"}}}),
     "spec.model.draftModel.revision", "a volume claim holds one revision: remove revision"),
    ("a head's id", changed(spec__model__draftModel={"id": "a/b/c"}), "spec.model.draftModel.id",
     "a head's id has at most one '/'"),
    ("a head's revision", changed(spec__model__draftModel={"id": "a", "revision": "-x"}),
     "spec.model.draftModel.revision", "write a branch, tag or commit"),
    ("key", changed(spec__model__tokenSecretRef={"name": "a", "key": "a b"}), "spec.model.tokenSecretRef.key",
     "write a key"),
    ("no load", changed(spec__traffic=LENGTHS), "spec.traffic", "exactly one of requestsPerSecond, concurrency"),
    ("two loads", changed(spec__traffic__concurrency=1), "spec.traffic", "exactly one of requestsPerSecond"),
    ("rate is a number", changed(spec__traffic__requestsPerSecond=4), "spec.traffic.requestsPerSecond",
     "put it in quotation marks"),
    ("rate is zero", changed(spec__traffic__requestsPerSecond="0.0"), "spec.traffic.requestsPerSecond",
     'such as "4" or "0.25"'),
    ("rate with an exponent", changed(spec__traffic__requestsPerSecond="1e3"), "spec.traffic.requestsPerSecond",
     "write a decimal number above zero"),
    ("concurrency zero", spec(traffic={"concurrency": 0, **LENGTHS}), "spec.traffic.concurrency", "0 is outside"),
    ("concurrency true", spec(traffic={"concurrency": True, **LENGTHS}), "spec.traffic.concurrency", "not true"),
    ("concurrency a fraction", spec(traffic={"concurrency": 1.5, **LENGTHS}), "spec.traffic.concurrency", "not 1.5"),
    ("deadline zero", spec(traffic={"batch": {"requests": 1, "deadline": "0h"}, **LENGTHS}),
     "spec.traffic.batch.deadline", "write a duration above zero, such as 500ms"),
    ("no deadline", spec(traffic={"batch": {"requests": 1}, **LENGTHS}), "spec.traffic.batch.deadline", "required"),
    ("p95 below mean", changed(spec__traffic__inputTokens={"mean": 10, "p95": 9}), "spec.traffic.inputTokens.p95",
     "p95 is below mean"),
    ("p95 far above mean", changed(spec__traffic__outputTokens={"mean": 10, "p95": 39}),
     "spec.traffic.outputTokens.p95", "more than 3.86 times mean"),
    ("prefix longer than the prompt", changed(spec__traffic__sharedPrefix={"tokens": 1200, "ratio": "1"}),
     "spec.traffic.sharedPrefix.tokens", "must be less than inputTokens.mean"),
    ("ratio above one", changed(spec__traffic__sharedPrefix={"tokens": 1, "ratio": "1.1"}),
     "spec.traffic.sharedPrefix.ratio", "between 0 and 1"),
    ("repetitiveness", changed(spec__traffic__repetitiveness="high"), "spec.traffic.repetitiveness",
     "write one of Unknown, Low, Medium, High"),
    ("burstiness", changed(spec__traffic__burstiness="101"), "spec.traffic.burstiness", "from 0 to 100"),
    ("long description", changed(spec__traffic__description="a" * 1025), "spec.traffic.description", "at most 1024"),
    ("empty slo", spec(slo={}), "spec.slo", "give at least one of ttft, tpot and e2e"),
    ("empty metric", spec(slo={"ttft": {}}), "spec.slo.ttft", "give at least one of p50, p95 and p99"),
    ("duration without a unit", spec(slo={"ttft": {"p95": "500"}}), "spec.slo.ttft.p95", "such as 500ms"),
    ("percentiles out of order", spec(slo={"e2e": {"p50": "2s", "p99": "1s"}}), "spec.slo.e2e",
     "a higher percentile cannot have a lower bound"),
    ("misspelt percentile", spec(slo={"ttft": {"p95th": "1s"}}), "spec.slo.ttft.p95th", "did you mean p95?"),
    ("two budgets", spec(budget={"perHour": "1", "total": "1"}), "spec.budget", "exactly one of perHour"),
    ("no amount", spec(budget={"currency": "USD"}), "spec.budget", "exactly one of perHour"),
    ("budget with a unit", spec(budget={"perHour": "6 USD"}), "spec.budget.perHour", 'such as "6.00"'),
    ("budget is NaN", spec(budget={"perHour": "NaN"}), "spec.budget.perHour", "write a decimal number above zero"),
    ("budget is a number", spec(budget={"perHour": 6.0}), "spec.budget.perHour", "put it in quotation marks"),
    ("total without a batch", spec(budget={"total": "6"}), "spec.budget.total", "budget.total is for traffic.batch"),
    ("currency", spec(budget={"perHour": "6", "currency": "usd"}), "spec.budget.currency", "three-letter code"),
    ("objective", spec(objective="Cheap"), "spec.objective", "write one of MinimizeCost"),
    ("allowed and denied", spec(methods={"allow": ["a"], "deny": ["a"]}), "spec.methods.deny", "stands in allow and"),
    ("a method's name", spec(methods={"deny": ["a b"]}), "spec.methods.deny[0]", "name of a method or technique"),
    ("a method twice", spec(methods={"deny": ["a", "a"]}), "spec.methods.deny", "more than once"),
    ("too many methods", spec(methods={"deny": [f"a{i}" for i in range(65)]}), "spec.methods.deny", "at most 64"),
    ("pool's name", spec(placement={"pools": ["A"]}), "spec.placement.pools[0]", "write the name of a pool"),
    ("pools is a text", spec(placement={"pools": "a"}), "spec.placement.pools", "write a list"),
    ("node selector", spec(placement={"nodeSelector": {"a": "-"}}), "spec.placement.nodeSelector.a", "label's value"),
    ("Exists with a value", spec(placement={"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}),
     "spec.placement.tolerations[0].value", "operator Exists takes no value"),
    ("no key", spec(placement={"tolerations": [{"value": "b"}]}), "spec.placement.tolerations[0].operator",
     "a toleration without a key needs operator Exists"),
    ("seconds without NoExecute", spec(placement={"tolerations": [{"key": "a", "tolerationSeconds": 5}]}),
     "spec.placement.tolerations[0].tolerationSeconds", "needs effect NoExecute"),
    ("min above max", spec(scaling={"minReplicas": 3, "maxReplicas": 2}), "spec.scaling.minReplicas",
     "minReplicas is above maxReplicas"),
    ("negative replicas", spec(scaling={"replicas": -1}), "spec.scaling.replicas", "-1 is outside"),
    ("too many replicas", spec(scaling={"replicas": 1001}), "spec.scaling.replicas",
     "at most 1000: split the workload; 1001 is more"),
    ("too many at least", spec(scaling={"minReplicas": 1001}), "spec.scaling.minReplicas", "split the workload"),
    ("too many at most", spec(scaling={"maxReplicas": 1001}), "spec.scaling.maxReplicas", "split the workload"),
    ("a pin of too many", spec(policy={"mode": "Pinned", "pinned": {"candidate": {**PIN, "replicas": 1001}}}),
     "spec.policy.pinned.candidate.replicas", "split the workload"),
    ("pinned without a pin", spec(policy={"mode": "Pinned"}), "spec.policy.pinned", "belong together"),
    ("a pin without the mode", spec(policy={"pinned": {"decision": "a"}}), "spec.policy.pinned", "belong together"),
    ("empty pin", spec(policy={"mode": "Pinned", "pinned": {}}), "spec.policy.pinned",
     "give exactly one of decision and candidate"),
    ("expert parallel alone",
     spec(policy={"mode": "Pinned", "pinned": {"candidate": {**PIN, "layout": {"expertParallel": True}}}}),
     "spec.policy.pinned.candidate.layout.expertParallel", "needs tensorParallel or dataParallel above 1"),
    ("pin outside the pools",
     spec(placement={"pools": ["a"]}, policy={"mode": "Pinned", "pinned": {"candidate": PIN}}),
     "spec.policy.pinned.candidate.pool", "is not among placement.pools"),
    ("pin of a denied method",
     spec(methods={"deny": ["default"]}, policy={"mode": "Pinned", "pinned": {"candidate": PIN}}),
     "spec.policy.pinned.candidate.method", "is denied by methods.deny"),
    ("pin above the most replicas",
     spec(scaling={"maxReplicas": 1}, policy={"mode": "Pinned", "pinned": {"candidate": PIN}}),
     "spec.policy.pinned.candidate.replicas", "is above scaling.maxReplicas"),
    ("gain", spec(policy={"minimumGain": "10%"}), "spec.policy.minimumGain", "write a share as a decimal number"),
    ("cooldown", spec(policy={"cooldown": "30"}), "spec.policy.cooldown", "write a duration such as 0s"),
    ("confidence of one", spec(policy={"confidence": "1"}), "spec.policy.confidence", "between 0.5 and 1"),
    ("confidence of a half", spec(policy={"confidence": "0.5"}), "spec.policy.confidence", "between 0.5 and 1"),
    ("image", spec(engine={"image": "a b"}), "spec.engine.image", "write an image such as"),
    ("version", spec(engine={"version": "0.32"}), "spec.engine.version", "as three numbers"),
    ("empty argument", spec(engine={"extraArgs": [""]}), "spec.engine.extraArgs[0]", "at least one character"),
    ("argument is a number", spec(engine={"extraArgs": [1]}), "spec.engine.extraArgs[0]", "put it in quotation"),
    ("pod template's parts", spec(engine={"podTemplate": {"containers": []}}), "spec.engine.podTemplate.containers",
     "unknown field"),
    ("pod label", spec(engine={"podTemplate": {"metadata": {"labels": {"a": 1}}}}),
     "spec.engine.podTemplate.metadata.labels.a", "put it in quotation"),
    ("suspend", spec(suspend="yes"), "spec.suspend", "write true or false"),
    ("time", changed(metadata__creationTimestamp="soon"), "metadata.creationTimestamp", "write a time such as"),
]  # fmt: skip


@pytest.mark.parametrize(("manifest", "path", "message"), [pytest.param(*case, id=what) for what, *case in BAD])
def test_refuses_with_the_path_and_what_to_write(manifest, path, message):
    with pytest.raises(InvalidWorkloadError) as refused:
        parse_workload(manifest)
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)


def rule_messages(schema):
    found = {rule["message"] for rule in schema.get("x-kubernetes-validations", ())}
    for child in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(child, dict):
            found |= rule_messages(child)
    return found


def test_refuses_in_the_words_of_every_rule_of_the_crd():
    said = []
    for _, manifest, _, _ in BAD:
        with pytest.raises(InvalidWorkloadError) as refused:
            parse_workload(manifest)
        said.append(str(refused.value))
    unsaid = {m for m in rule_messages(SCHEMA) if not any(m in message for message in said)}
    assert unsaid == set()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
paths = st.sampled_from(sorted({p for m in full_manifests() for p in map(tuple, objects_of(m)) if p}, key=str))


@given(path=paths, value=json_values)
def test_never_fails_in_another_way_than_by_a_sentence(path, value):
    manifest = copy.deepcopy(next(m for m in full_manifests() if list(path) in map(list, objects_of(m))))
    node = manifest
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    try:
        parse_workload(manifest)
    except InvalidWorkloadError as error:
        assert str(error)


durations = st.integers(min_value=1, max_value=10**13).map(lambda microseconds: microseconds / 1e6)


@given(seconds=durations)
def test_durations_come_back_as_they_went(seconds):
    assert duration_s(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1h30m", 5400.0), ("0s", 0.0), ("1.5h", 5400.0), ("2h", 7200.0), ("1m1s1ms", 61.001)],
)
def test_reads_durations(text, seconds):
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "ms", "-1s", "1 s", "1s ", "1d", "1e3s", "１s", "1s\n"])
def test_refuses_what_is_no_duration(text):
    with pytest.raises(ValueError, match="write a duration"):
        duration_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "500ms"), (0.0, "0ms"), (1.5, "1.5s"), (5400.0, "1h30m"), (61.0005, "1m1s0.5ms")]
)
def test_writes_durations_as_people_do(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        pytest.param("80Gi", 80 * 2**30, id="binary"),
        pytest.param("80G", 80 * 10**9, id="decimal is less"),
        pytest.param("81920Mi", 80 * 2**30, id="another unit"),
        pytest.param("1.5Ti", 3 * 2**39, id="a fraction"),
        pytest.param("32777408Ki", 32777408 * 1024, id="as nodes have it"),
        pytest.param("1e3", 1000, id="an exponent"),
        pytest.param("128974848000m", 128974848, id="thousandths"),
    ],
)
def test_reads_memory(text, amount):
    assert memory_bytes(text) == amount


@given(amount=st.integers(min_value=0, max_value=1 << 60))
def test_memory_comes_back_as_it_went(amount):
    assert memory_bytes(format_memory(amount)) == amount


@given(millicores=st.integers(min_value=0, max_value=10**7))
def test_cores_come_back_as_they_went(millicores):
    assert cpu_cores(format_cpu(millicores / 1000)) == millicores / 1000


@given(value=st.floats())
def test_a_figure_is_plain_digits_or_nothing(value):
    text = format_figure(value)
    assert text is None or (len(text) <= 24 and text.replace(".", "", 1).isdigit())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.01235"), (1210.4, "1210"), (float("inf"), None), (float("nan"), None), (-1.0, None), (1e-12, "0")],
)
def test_figures_keep_four_digits(value, text):
    assert format_figure(value) == text


@pytest.mark.parametrize(
    ("amount", "text"), [("6", "6.00"), ("3.430881", "3.4309"), ("0.00001", "0.0001"), ("27.4", "27.40")]
)
def test_money_is_rounded_up(amount, text):
    assert format_money(Decimal(amount)) == text


def test_reads_yaml_as_kubectl_does():
    text = "a: 2026-10-01\n---\n# nothing\n---\nkind: List\nitems: [{b: 1}, {c: 2}]\n"
    assert read_documents(text, "file") == ({"a": "2026-10-01"}, {"b": 1}, {"c": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: 1\na: 2\n", "file: reading YAML: line 2: the key a stands here twice", id="a key twice"),
        pytest.param("a: [", "file: reading YAML: line 1", id="not closed"),
        pytest.param("- a\n", "each document is an object", id="a list"),
        pytest.param("!!python/object:os.system {}", "reading YAML", id="code"),
        pytest.param("[" * 2000, "reading YAML", id="deep"),
        pytest.param("a: \x00", "reading YAML", id="control characters"),
    ],
)
def test_refuses_what_is_no_manifest(text, message):
    with pytest.raises(InvalidWorkloadError) as refused:
        read_documents(text, "file")
    assert message in str(refused.value)
