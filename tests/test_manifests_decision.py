import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metainf.candidates import CandidateName
from metainf.errors import InvalidWorkloadError
from metainf.known_models import known_model
from metainf.manifests import (
    MOST_DECISION_BYTES,
    DraftSource,
    ObservedTraffic,
    decision_manifest,
    digest_of,
    manifest_bytes,
    parse_decision,
    parse_decision_head,
    parse_pool,
    parse_workload,
    read_documents,
    standing_pool,
)
from metainf.placement import ReplicaRequest
from metainf.planning import Head, confidence_kept, outlooks, plan, unpinned
from metainf.predictors.contract import Predictions, PredictorIdentity
from metainf.rejections import Rejection, RejectionCount, RejectionReason
from metainf.selection import NoSelection, Selection
from metainf.workload import MethodLimits, Objective, RateLoad, SharedPrefix, TokenLengths

ROOT = Path(__file__).parent.parent
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def schema():
    crd = yaml.load((ROOT / "crds/metainf.dev_inferencedecisions.yaml").read_text(), Loader=LOADER)
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


class SteadyPredictor:
    """Every replica answers alike, with a known spread; more replicas and wider layouts carry more."""

    identity = PredictorIdentity("steady", "sha256:" + "0" * 64)

    def __init__(self, *, ttft_s=0.2, log_sd=0.1):
        self.ttft_s, self.log_sd = ttft_s, log_sd

    def predict(self, questions):
        n = len(questions)
        power = np.array([q.replicas * q.replica.layout.accelerators for q in questions], dtype=np.float64)
        statistics = np.array([1.0, 0.9, 1.5, 2.0])
        latency = np.empty((n, 3, 4))
        for m, seconds in enumerate((self.ttft_s, 0.02, 5.0)):
            latency[:, m, :] = seconds * statistics
        rate = 10.0 * power
        batch = [getattr(q.traffic.load, "requests", np.nan) for q in questions]
        return Predictions(
            latency_s=latency,
            latency_log_sd=np.full((n, 3, 4), self.log_sd),
            output_tokens_per_second=rate * 100,
            requests_per_second=rate,
            throughput_log_sd=np.full(n, self.log_sd),
            capacity_log_sd=np.full(n, self.log_sd),
            capacity_requests_per_second=rate,
            makespan_s=np.array(batch, dtype=np.float64) / rate,
            utilization=np.full(n, 0.5),
            out_of_distribution=np.zeros(n, dtype=bool),
        )


@cache
def pools():
    text = (ROOT / "crds/examples/acceleratorpools.yaml").read_text()
    return tuple(standing_pool(parse_pool(manifest)) for manifest in read_documents(text, "pools"))


def workload(*, uid="6b1f", generation=3, **fields):
    spec = {
        "model": {"id": "Qwen/Qwen2.5-7B-Instruct"},
        "traffic": {
            "requestsPerSecond": "4",
            "inputTokens": {"mean": 1200, "p95": 3000},
            "outputTokens": {"mean": 250, "p95": 600},
        },
        "slo": {"ttft": {"p95": "500ms"}, "tpot": {"p95": "40ms"}},
        "budget": {"perHour": "6.00"},
        **fields,
    }
    metadata = {"name": "chat", "namespace": "team-a", "generation": generation, "uid": uid}
    manifest = {"apiVersion": "metainf.dev/v1alpha1", "kind": "InferenceWorkload", "metadata": metadata, "spec": spec}
    return parse_workload(manifest)


def planned(asked=None, *, predictor=None, among=None, revision="c0ffee", **options):
    return plan(
        asked or workload(),
        known_model("Qwen/Qwen2.5-7B-Instruct"),
        revision=revision,
        pools=pools() if among is None else among,
        predictor=predictor or SteadyPredictor(),
        engine_version=options.pop("engine_version", "0.32.0"),
        **options,
    )


LOW = {"budget": {"perHour": "0.10"}}
BATCH = {
    "traffic": {
        "batch": {"requests": 20000, "deadline": "6h"},
        "inputTokens": {"mean": 700},
        "outputTokens": {"mean": 40},
    },
    "slo": {"e2e": {"p99": "30s"}},
    "budget": {"total": "60"},
}
CLIENTS = {
    "traffic": {
        "concurrency": 8,
        "inputTokens": {"mean": 700},
        "outputTokens": {"mean": 40},
        "sharedPrefix": {"tokens": 100, "ratio": "0.25", "distinct": 4},
    },
    "budget": {"perMillionTokens": "40"},
    "objective": "MaximizeThroughput",
}
CASES = [
    pytest.param({}, SteadyPredictor(), id="chosen"),
    pytest.param(LOW, SteadyPredictor(), id="budget too low"),
    pytest.param(BATCH, SteadyPredictor(), id="batch"),
    pytest.param(CLIENTS, SteadyPredictor(), id="clients"),
    pytest.param({}, SteadyPredictor(ttft_s=float("inf")), id="unbounded latency"),
    pytest.param({"objective": "MinimizeLatency"}, SteadyPredictor(), id="latency"),
    pytest.param({"placement": {"pools": ["nowhere"]}}, SteadyPredictor(), id="no pool"),
]


def violations(value, schema, path="$"):
    """What an API server would refuse in the value, by the structural part of the schema."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    kind = schema["type"]
    if not isinstance(value, kinds[kind]) or (kind == "integer" and isinstance(value, bool)):
        yield f"{path}: {value!r} is no {kind}"
        return
    if kind == "object" and "properties" in schema:
        yield from (f"{path}: no {name}" for name in schema.get("required", ()) if name not in value)
        for name, child in value.items():
            if name not in schema["properties"]:
                yield f"{path}: unknown {name}"
            else:
                yield from violations(child, schema["properties"][name], f"{path}.{name}")
    if kind == "array":
        if len(value) > schema.get("maxItems", 1 << 30):
            yield f"{path}: {len(value)} items"
        for i, child in enumerate(value):
            yield from violations(child, schema["items"], f"{path}[{i}]")
        keys = schema.get("x-kubernetes-list-map-keys", ())
        named = [tuple(child[key] for key in keys) for child in value]
        if keys and len(set(named)) < len(named):
            yield f"{path}: a key twice"
    if kind == "string":
        if len(value) > schema.get("maxLength", 1 << 30):
            yield f"{path}: {len(value)} characters"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{path}: {value!r} against {schema['pattern']}"
        if value not in schema.get("enum", [value]):
            yield f"{path}: {value!r} is none of {schema['enum']}"
    if kind == "integer" and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path}: {value} is out of range"


def refused_by_schema(manifest):
    return list(violations(manifest["spec"], schema()["properties"]["spec"], "spec"))


@pytest.mark.parametrize(("fields", "predictor"), CASES)
def test_a_decision_is_what_the_crd_takes(fields, predictor):
    manifest = planned(workload(**fields), predictor=predictor).manifest
    assert refused_by_schema(manifest) == []
    spec = manifest["spec"]
    assert (spec["outcome"] == "Chosen") == ("chosen" in spec)
    assert (spec["outcome"] == "Refused") == ("refusal" in spec)
    assert len(manifest_bytes(manifest)) <= MOST_DECISION_BYTES


def test_the_schema_check_itself_finds_faults():
    manifest = copy.deepcopy(planned().manifest)
    spec = manifest["spec"]
    spec["chosen"]["costPerHour"] = "1e3"
    spec["objective"] = "Cheap"
    spec["zzz"] = 1
    del spec["inputs"]["digest"]
    spec["prices"].append(spec["prices"][0])
    assert len(refused_by_schema(manifest)) == 5


@pytest.mark.parametrize(("fields", "predictor"), CASES)
def test_a_decision_reads_back_to_what_was_decided(fields, predictor):
    made = planned(workload(**fields), predictor=predictor)
    read = parse_decision(made.manifest)
    outcome = made.outcome
    assert read.head.name == made.name
    assert (read.head.workload, read.head.namespace, read.head.owner_uid) == ("chat", "team-a", "6b1f")
    assert read.inputs == made.inputs
    assert read.budget == made.workload.workload.budget
    assert read.predictor == SteadyPredictor.identity
    assert len(read.rejections) == len(outcome.rejections)
    assert [r.count for r in read.rejections] == [r.count for r in outcome.rejections]
    if isinstance(outcome, Selection):
        chosen = outcome.chosen.candidate
        assert read.chosen.candidate == read.head.choice == chosen.name
        assert read.chosen.layout == chosen.option.layout
        assert read.chosen.argv == made.argv
        assert read.chosen.cost_per_hour == pytest.approx(chosen.cost_per_hour, abs=Decimal("0.0001"))
        assert read.head.reservation.request == chosen.option.request
        assert read.head.reservation.replicas == chosen.replicas
        assert [a.candidate for a in read.alternatives] == [a.candidate.name for a in outcome.alternatives]
        assert read.refusal is None
    else:
        assert read.head.limit == read.refusal.limit == outcome.limit.value
        assert read.refusal.message == outcome.message
        assert (read.chosen, read.head.choice, read.head.reservation) == (None, None, None)


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def seen(rps=1.5, *, minutes=0):
    """Declared traffic with something else in its place, as it is recorded."""
    traffic = replace(
        workload().workload.traffic,
        load=RateLoad(rps),
        input_tokens=TokenLengths(300.0, 600.0),
        output_tokens=TokenLengths(40.0),
        shared_prefix=SharedPrefix(100, 0.75, 3),
    )
    until = NOON + timedelta(minutes=minutes)
    return ObservedTraffic(traffic, 450, until - timedelta(minutes=5), until)


def test_a_decision_by_observed_traffic_says_so_and_reads_back_with_its_figures():
    made = planned(observed=seen())
    inputs = made.manifest["spec"]["inputs"]
    assert inputs["observed"] == {"requests": 450, "since": "2026-01-01T11:55:00Z", "until": "2026-01-01T12:00:00Z"}
    assert (inputs["traffic"]["requestsPerSecond"], inputs["traffic"]["inputTokens"]["mean"]) == ("1.5", 300)
    assert refused_by_schema(made.manifest) == []
    assert parse_decision(made.manifest).inputs == made.inputs
    assert "observed" not in planned().manifest["spec"]["inputs"]
    assert parse_decision(planned().manifest).inputs.observed is None


def test_observed_traffic_of_another_version_is_not_guessed():
    manifest = copy.deepcopy(planned(observed=seen()).manifest)
    manifest["spec"]["inputs"]["traffic"]["newField"] = 1
    assert parse_decision(manifest).inputs.observed is None


def test_what_was_seen_decides_and_an_engine_still_takes_what_was_declared():
    long = {"requestsPerSecond": "1", "inputTokens": {"mean": 40000}, "outputTokens": {"mean": 40}}
    assert "prompt and answer reach 40040 tokens" in planned(workload(traffic=long), observed=seen()).outcome.message
    few, many = (planned(observed=seen(rps)).chosen.assessment.workload.traffic.load for rps in (0.5, 30.0))
    assert (few, many) == (RateLoad(0.5), RateLoad(30.0))


def test_a_decision_tells_what_was_seen_of_it():
    manifest = copy.deepcopy(planned().manifest)
    manifest["status"] = {
        "phase": "Active",
        "observed": {
            "ttft": {"p95": "0.31"},
            "outputTokensPerSecond": "912",
            "requests": 450,
            "since": "2026-01-01T11:55:00Z",
            "until": "2026-01-01T12:00:00Z",
        },
    }
    found = parse_decision(manifest).observed
    assert found is not None
    assert dict(found.figures) == {"ttft.p95": Decimal("0.31"), "outputTokensPerSecond": Decimal(912)}
    assert (found.requests, found.until) == (450, "2026-01-01T12:00:00Z")
    assert parse_decision(planned().manifest).observed is None


def test_a_refusal_names_the_budget_that_would_work():
    made = planned(workload(**LOW))
    budget = parse_decision(made.manifest).refusal.cheapest_budget
    assert budget == made.outcome.cheapest_budget
    enough = {"budget": {"perHour": str(budget.amount)}}
    assert planned(workload(**enough)).chosen is not None


def test_figures_hold_the_interval_at_the_confidence():
    predicted = dict(parse_decision(planned().manifest).chosen.predicted)
    figure = predicted["ttft.p95"]
    assert float(figure.value) == pytest.approx(0.3)
    assert float(figure.low) == pytest.approx(0.3 * np.exp(-1.645 * 0.1), rel=1e-3)
    assert float(figure.high) == pytest.approx(0.3 * np.exp(1.645 * 0.1), rel=1e-3)
    assert set(predicted) >= {"tpot.mean", "e2e.p99", "outputTokensPerSecond", "requestsPerSecond"}


def test_an_unbounded_figure_is_left_out():
    spec = planned(predictor=SteadyPredictor(ttft_s=float("inf"))).manifest["spec"]
    assert spec["refusal"]["limit"] == "SLOUnreachable"
    assert all("ttftP95" not in a["predicted"] and "tpotP95" in a["predicted"] for a in spec["alternatives"])


def test_the_owner_is_the_workload():
    assert planned().manifest["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "metainf.dev/v1alpha1",
            "kind": "InferenceWorkload",
            "name": "chat",
            "uid": "6b1f",
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def test_without_a_uid_there_is_no_owner():
    made = planned(workload(uid=""))
    assert "ownerReferences" not in made.manifest["metadata"]
    assert parse_decision(made.manifest).head.owner_uid == ""


def test_metadata_alone_tell_what_is_reserved():
    manifest = planned().manifest
    head = parse_decision_head(
        {
            "apiVersion": "meta.k8s.io/v1",
            "kind": "PartialObjectMetadata",
            "metadata": {
                **manifest["metadata"],
                "uid": "d1",
                "creationTimestamp": "2026-10-01T08:00:00Z",
                "managedFields": [],
            },
        }
    )
    chosen = planned().chosen.candidate
    assert head == replace(parse_decision(manifest).head, uid="d1", created_at=head.created_at)
    assert head.reservation.pool == chosen.option.pool.name
    assert head.created_at.year == 2026


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("metainf.dev/choice", "h100/default/TP1"),
        ("metainf.dev/choice", "h100/default/TP1/x"),
        ("metainf.dev/reservation", "{"),
        ("metainf.dev/reservation", "[]"),
        ("metainf.dev/reservation", '{"pool":"a","accelerators":-1,"cpu":"1","memory":"1","replicas":1}'),
        ("metainf.dev/reservation", '{"pool":"a","accelerators":1,"cpu":"x","memory":"1","replicas":1}'),
        ("metainf.dev/inputs-digest", None),
    ],
)
def test_refuses_metadata_that_cannot_be_read(annotation, value):
    manifest = copy.deepcopy(planned().manifest)
    manifest["metadata"]["annotations"][annotation] = value
    with pytest.raises(InvalidWorkloadError, match=r"metadata\.annotations\.metainf\.dev/"):
        parse_decision_head(manifest)


@pytest.mark.parametrize("path", [("spec",), ("spec", "inputs"), ("spec", "chosen"), ("spec", "chosen", "layout")])
def test_refuses_a_record_that_lacks_a_part(path):
    manifest = copy.deepcopy(planned().manifest)
    node = manifest
    for name in path[:-1]:
        node = node[name]
    del node[path[-1]]
    with pytest.raises(InvalidWorkloadError):
        parse_decision(manifest)


def test_passes_over_fields_of_a_newer_version():
    manifest = copy.deepcopy(planned().manifest)
    manifest["spec"]["chosen"]["newer"] = {"a": 1}
    manifest["status"] = {"phase": "Active", "newer": 1}
    assert parse_decision(manifest).phase == "Active"


def test_the_same_inputs_give_the_same_bytes():
    first, second = planned(), planned(among=tuple(reversed(pools())))
    assert manifest_bytes(first.manifest) == manifest_bytes(second.manifest)


def test_digests_are_the_same_in_another_process():
    script = (
        "from metainf.manifests import digest_of; from metainf.workload import MethodLimits\n"
        "print(digest_of(MethodLimits(deny=frozenset(['static', 'ngram', 'latency']))))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout.strip() == digest_of(MethodLimits(deny=frozenset(["latency", "static", "ngram"])))


def busier(pool):
    node, *others = pool.nodes
    return replace(pool, nodes=(replace(node, accelerators_free=node.accelerators_free - 1), *others))


def dearer(pool):
    return replace(pool, price=replace(pool.price, per_hour=pool.price.per_hour + 1))


def reread(pool):
    return replace(pool, price=replace(pool.price, as_of="2026-11-01", reference="the same list"))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param({"asked": workload(generation=9)}, True, id="another generation"),
        pytest.param({"asked": workload(uid="other")}, True, id="another uid"),
        pytest.param({"asked": workload(suspend=True)}, True, id="suspended"),
        pytest.param({"asked": workload(policy={"mode": "Recommend"})}, True, id="recommended: approving keeps it"),
        pytest.param({"asked": workload(engine={"image": "a:b"})}, True, id="another image"),
        pytest.param({"among": tuple(map(busier, pools()))}, True, id="less is free"),
        pytest.param({"among": tuple(map(reread, pools()))}, True, id="a price list read again"),
        pytest.param({"among": tuple(map(dearer, pools()))}, False, id="another price"),
        pytest.param({"among": pools()[1:]}, False, id="a pool less"),
        pytest.param({"asked": workload(budget={"perHour": "6.01"})}, False, id="another budget"),
        pytest.param({"asked": workload(slo={"ttft": {"p95": "501ms"}})}, False, id="another SLO"),
        pytest.param({"asked": workload(policy={"confidence": "0.91"})}, False, id="another confidence"),
        pytest.param({"asked": workload(engine={"extraArgs": ["--seed", "7"]})}, False, id="another argument"),
        pytest.param({"revision": "beef"}, False, id="another commit"),
        pytest.param({"observed": seen()}, False, id="traffic that was seen"),
    ],
)
def test_the_digest_covers_what_decides_and_nothing_else(change, same):
    assert (planned(**change).inputs.digest == planned().inputs.digest) is same


def test_when_traffic_was_seen_is_no_input():
    assert planned(observed=seen()).inputs.digest == planned(observed=seen(minutes=7)).inputs.digest
    assert planned(observed=seen(1.5)).inputs.digest != planned(observed=seen(1.6)).inputs.digest


def test_the_name_tells_choices_from_the_same_inputs_apart():
    free, pinned = planned(), planned(pinned=CandidateName("h100", "default", "TP1", 1))
    assert free.inputs.digest == pinned.inputs.digest
    assert free.name != pinned.name
    assert re.fullmatch(r"chat-[0-9a-f]{10}", free.name)


def test_argv_pins_the_commit_and_ends_with_the_users_own():
    argv = planned(workload(engine={"extraArgs": ["--seed", "7"]})).argv
    assert argv[0] == "Qwen/Qwen2.5-7B-Instruct"
    assert argv[argv.index("--revision") + 1] == "c0ffee"
    assert argv[-2:] == ("--seed", "7")
    assert argv[argv.index("--port") + 1] == "8000"


def test_a_model_from_a_claim_is_served_from_its_mount_under_its_id():
    source = {"id": "local", "source": {"pvc": {"claimName": "weights", "path": "qwen"}}}
    argv = planned(workload(model=source), revision=None).argv
    assert argv[0] == "/models/qwen"
    assert argv[argv.index("--served-model-name") + 1] == "local"
    assert "--revision" not in argv


@pytest.mark.parametrize(
    ("model", "told"),
    [
        pytest.param({"draftModel": {"id": "example/head"}}, {"model": "example/head"}, id="from the hub"),
        pytest.param(
            {"draftModel": {"id": "example/head", "revision": "v1"}},
            {"model": "example/head", "revision": "v1"},
            id="at a revision",
        ),
        pytest.param(
            {"source": {"pvc": {"claimName": "weights", "path": "qwen"}}, "draftModel": {"path": "heads/qwen"}},
            {"model": "/models/heads/qwen"},
            id="on the model's claim",
        ),
    ],
)
def test_a_head_is_told_to_the_engine_and_is_an_input(model, told):
    source = {"id": "Qwen/Qwen2.5-7B-Instruct", **model}
    made = planned(workload(model=source, methods={"allow": ["eagle"]}), revision=None)
    config = json.loads(made.argv[made.argv.index("--speculative-config") + 1])
    assert config == {"method": "eagle3", "num_speculative_tokens": 3, **told}
    assert made.manifest["spec"]["inputs"]["model"]["draftModel"] == source["draftModel"]
    assert parse_decision(made.manifest).inputs == made.inputs
    assert refused_by_schema(made.manifest) == []
    source.pop("draftModel")
    without = planned(workload(model=source, methods={"allow": ["eagle"]}), revision=None)
    assert without.chosen is None
    assert "draftModel" not in without.manifest["spec"]["inputs"]["model"]
    assert without.inputs.digest != made.inputs.digest


def test_a_head_is_served_at_the_commit_that_was_decided_on_and_its_context_is_an_input():
    source = {"id": "Qwen/Qwen2.5-7B-Instruct", "draftModel": {"id": "example/head", "revision": "v1"}}
    asked = workload(model=source, methods={"allow": ["eagle"]})
    pinned = DraftSource("example/head", "d" * 40)
    made = planned(asked, head=Head(pinned, 4096))
    config = json.loads(made.argv[made.argv.index("--speculative-config") + 1])
    assert (config["model"], config["revision"]) == ("example/head", "d" * 40)
    assert made.inputs.draft == pinned
    assert parse_decision(made.manifest).inputs == made.inputs
    assert refused_by_schema(made.manifest) == []
    digests = {planned(asked, head=head).inputs.digest for head in (None, Head(pinned), Head(pinned, 4096))}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("model", "revision", "head", "says"),
    [
        pytest.param({}, "d" * 40, None, "", id="a commit"),
        pytest.param({}, None, None, "Qwen/Qwen2.5-7B-Instruct at main: pods", id="no revision"),
        pytest.param({}, "v1", None, "Qwen/Qwen2.5-7B-Instruct at v1: pods", id="a tag"),
        pytest.param({"draftModel": {"id": "a/h"}}, "d" * 40, None, "of a/h at main: pods", id="a head"),
        pytest.param({"draftModel": {"id": "a/h"}}, None, None, "Instruct at main and a/h at main", id="both"),
        pytest.param(
            {"draftModel": {"id": "a/h"}}, "d" * 40, Head(DraftSource("a/h", "e" * 40)), "", id="a head at a commit"
        ),
        pytest.param(
            {"source": {"pvc": {"claimName": "weights"}}, "draftModel": {"path": "h"}}, None, None, "", id="a volume"
        ),
    ],
)
def test_what_is_pinned_to_no_commit_is_said(model, revision, head, says):
    asked = workload(model={"id": "Qwen/Qwen2.5-7B-Instruct", **model})
    said = unpinned(planned(asked, revision=revision, head=head))
    assert says in said
    assert bool(said) is bool(says)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"methods": {"deny": ["ngramm"]}}, "spec.methods.deny: no method or technique is called ngramm; "
                     "did you mean ngram?", id="a misspelt method"),
        pytest.param({"engine": {"extraArgs": ["--max-num-seqs", "4"]}}, "spec.engine.extraArgs", id="an override"),
        pytest.param({"policy": {"mode": "Pinned", "pinned": {"candidate": {"pool": "h100", "method": "x",
                     "replicas": 1}}}}, "spec.policy.pinned.candidate.method", id="a pin that is no method"),
        pytest.param({"engine": {"version": "9.9.9"}}, "9.9.9", id="an engine that is not known"),
    ],
)  # fmt: skip
def test_refuses_a_workload_that_names_what_is_not_there(fields, message):
    with pytest.raises(InvalidWorkloadError) as refused:
        planned(workload(**fields))
    assert message in str(refused.value)


def test_a_pinned_candidate_is_the_only_one_looked_at():
    pin = {"candidate": {"pool": "l40s", "method": "default", "replicas": 2}}
    made = planned(workload(policy={"mode": "Pinned", "pinned": pin}))
    assert made.chosen.candidate.name == CandidateName("l40s", "default", "TP1", 2)
    assert made.outcome.alternatives == ()


def test_zero_replicas_are_planned_as_if_more_were_asked():
    assert planned(workload(scaling={"replicas": 0})).chosen is not None


def test_outlooks_say_how_each_limit_stands():
    chosen = planned().chosen
    load, ttft, tpot, cost = outlooks(chosen)
    assert (load.floor, ttft.floor) == (True, False)
    assert ttft.expected == pytest.approx(0.3)
    assert ttft.assured == pytest.approx(0.3 * np.exp(chosen.assessment.z * 0.1))
    assert ttft.used_ratio == pytest.approx(ttft.assured / 0.5)
    assert load.assured < load.expected == pytest.approx(10.0 * chosen.candidate.replicas)
    assert tpot.expected == pytest.approx(0.03)
    assert (cost.expected, cost.kept) == (pytest.approx(float(chosen.candidate.cost_per_hour)), 1.0)
    assert 0.9 <= confidence_kept(chosen) <= 1.0


def test_a_limit_at_the_asked_confidence_is_kept_with_just_that():
    asked = workload(slo={"ttft": {"p95": "300ms"}})
    scored = planned(asked).outcome.nearest[0]
    ttft = outlooks(scored)[1]
    assert ttft.kept == pytest.approx(0.5)
    assert confidence_kept(scored) < 0.9


long_texts = st.text(min_size=1, max_size=40).map(lambda text: (text * 60)[:400])


@example(detail='"\x00' * 200, reference="\U0001f600" * 400, extra=["\U0001f600" * 1000] * 64, refused=False, copies=80)
@example(detail="\U0001f600" * 400, reference="a" * 400, extra=[], refused=True, copies=80)
@settings(max_examples=30, deadline=None)
@given(
    detail=long_texts,
    reference=long_texts,
    extra=st.lists(st.text(min_size=1, max_size=20).map(lambda t: (t * 60)[:1000]), max_size=64),
    refused=st.booleans(),
    copies=st.integers(min_value=1, max_value=80),
)
def test_a_decision_is_never_too_large(detail, reference, extra, refused, copies):
    made = planned(workload(**LOW)) if refused else planned()
    long_name = "p" * 60
    many = tuple(
        replace(pool, name=f"{long_name}{i:03d}", price=replace(pool.price, reference=reference[:256]))
        for i in range(copies)
        for pool in pools()[:1]
    )
    rejections = tuple(
        RejectionCount(reason, 10**9, Rejection(reason, long_name, detail, "l" * 63, "m" * 63, 1000))
        for reason in RejectionReason
    )
    outcome = replace(made.outcome, rejections=rejections)
    if isinstance(outcome, NoSelection):
        outcome = replace(outcome, message=detail * 4)
    argv = (*made.argv, *extra)
    manifest = decision_manifest(made.workload, made.inputs, outcome, (*made.pools, *many), argv)
    assert len(manifest_bytes(manifest)) <= MOST_DECISION_BYTES
    assert refused_by_schema(manifest) == []
    assert len(manifest["spec"]["rejections"]) == len(rejections)
    assert parse_decision(manifest).head.name == made.name
    if not refused:
        assert manifest["spec"]["chosen"]["argv"][: len(made.argv)] == list(made.argv)
        assert made.chosen.candidate.option.pool.name in {p["pool"] for p in manifest["spec"]["prices"]}


def test_money_in_a_record_is_never_in_scientific_notation():
    text = json.dumps(planned(workload(**CLIENTS)).manifest)
    assert not re.search(r'"[0-9.]+[eE][+-]?[0-9]+"', text)


def test_runners_up_say_why_not():
    made = planned(workload(objective="MaximizeThroughput"))
    assert made.workload.workload.objective is Objective.MAXIMIZE_THROUGHPUT
    verdicts = [a.verdict for a in parse_decision(made.manifest).alternatives]
    assert len(verdicts) == 10
    assert all(v.startswith("keeps every limit") or "the limit is" in v or "the load is" in v for v in verdicts)


def test_a_reservation_is_what_a_replica_requests():
    request = planned().chosen.candidate.option.request
    assert isinstance(request, ReplicaRequest)
    reservation = json.loads(planned().manifest["metadata"]["annotations"]["metainf.dev/reservation"])
    assert reservation["accelerators"] == request.accelerators
    assert set(reservation) == {"pool", "accelerators", "cpu", "memory", "replicas"}
