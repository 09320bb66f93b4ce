import json
from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metainf.bench.design import BenchLoad, BenchPlan, BenchTask, balanced, crossed
from metainf.bench.plans import SHORT_PLAN, STUDY_LOADS, STUDY_METHODS, study_plan
from metainf.bench.small_models import SMALL_MODELS, small_model
from metainf.bench.traffics import CHUNK_TOKENS, STUDY_TRAFFICS, BenchTraffic, Part, traffic_named
from metainf.corpus.task import TrafficKind
from metainf.errors import InvalidWorkloadError
from metainf.methods import Reading, published
from metainf.workload import BatchLoad, ConcurrencyLoad, RateLoad


@pytest.mark.parametrize(
    ("text", "kind", "requests", "declared"),
    [
        pytest.param("c1", TrafficKind.CONCURRENCY, 6, ConcurrencyLoad(1), id="one client"),
        pytest.param("c4", TrafficKind.CONCURRENCY, 16, ConcurrencyLoad(4), id="four turns"),
        pytest.param("c64", TrafficKind.CONCURRENCY, 128, ConcurrencyLoad(64), id="two turns"),
        pytest.param("b4", TrafficKind.BATCH, 4, BatchLoad(4, 1e6), id="a batch is its own requests"),
        pytest.param("r2.5", TrafficKind.RATE, 75, RateLoad(2.5), id="half a minute of a rate"),
    ],
)
def test_reads_loads_as_the_command_line_writes_them(text, kind, requests, declared):
    load = BenchLoad.parse(text)

    assert (load.kind, load.requests, load.declared, load.name) == (kind, requests, declared, text)


@pytest.mark.parametrize("text", ["", "c", "16", "x16", "c0", "c1.5", "b-4", "rnan", "c1e9"])
def test_refuses_what_is_no_load(text):
    with pytest.raises(InvalidWorkloadError, match="no load"):
        BenchLoad.parse(text)


def test_a_balanced_part_has_every_level_equally_often():
    tasks = crossed(["a", "b", "c", "d"], [t.name for t in STUDY_TRAFFICS], STUDY_LOADS)
    part = balanced(tasks, 10, seed=3)

    assert len(part) == len(set(part)) == 40
    assert set(Counter(task.model for task in part).values()) == {10}
    assert set(Counter(task.traffic for task in part).values()) == {8}
    assert set(Counter(task.load for task in part).values()) == {5}
    assert max(Counter((task.traffic, task.load) for task in part).values()) <= 2


@given(per_model=st.integers(1, 40), seed=st.integers(0, 10))
def test_a_balanced_part_is_drawn_by_its_seed_and_lies_within_the_whole(per_model, seed):
    tasks = crossed(["a", "b"], ["shared", "unique", "decode"], ["c1", "c4", "b16"])
    part = balanced(tasks, per_model, seed)

    assert part == balanced(tasks, per_model, seed)
    assert set(part) <= set(tasks) and len(part) == min(2 * per_model, len(tasks))
    loads = Counter(task.load for task in part)
    assert max(loads.values()) - min(loads.get(load, 0) for load in ("c1", "c4", "b16")) <= 2


def test_every_method_runs_on_every_task_of_the_study():
    plan = study_plan()
    pairs = {(run.task, run.method) for run in plan.runs}

    assert pairs == set(product(plan.tasks, plan.methods))
    assert len({run.key for run in plan.runs}) == len(plan.runs)


def test_the_study_holds_what_the_issue_of_it_asks_for():
    plan = study_plan()

    assert {row.method.name for reading in Reading for row in published(reading)} <= set(STUDY_METHODS)
    assert {task.traffic for task in plan.tasks} == {"shared", "unique", "decode", "mixed", "repetitive"}
    assert {BenchLoad.parse(task.load).size for task in plan.tasks} == {1, 4, 16, 64}
    assert len(plan.models) == 4 and plan.repeats == 3


def test_one_request_at_a_time_is_repeated_only_where_that_is_quick():
    runs = Counter((run.task.load, run.method) for run in study_plan().runs if run.task.model == "dense-53m")

    assert runs["b64", "static-prefix-caching"] * 3 == runs["b64", "default"] > 0
    assert runs["c4", "static-prefix-caching"] == runs["c4", "default"] > 0


def test_a_block_holds_each_method_once_in_an_order_of_its_own():
    plan = study_plan()
    blocks = [block for block in plan.blocks("dense-7m", plan.methods) if len(block) == len(plan.methods)]

    assert all({run.method for run in block} == set(plan.methods) for block in blocks)
    assert all(len({(run.task, run.repeat) for run in block}) == 1 for block in blocks)
    assert len({tuple(run.method for run in block) for block in blocks}) > len(blocks) // 2


def test_methods_of_a_block_get_the_same_requests_and_no_other_block_does():
    plan = SHORT_PLAN
    seeds = [plan.seed_of(task, repeat) for task in plan.tasks for repeat in range(plan.repeats)]

    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("change", [{"methods": ()}, {"tasks": ()}, {"repeats": 0}])
def test_refuses_a_plan_of_nothing(change):
    whole = {"tasks": (BenchTask("m", "shared", "c1"),), "methods": ("default",), "repeats": 1}
    with pytest.raises(InvalidWorkloadError, match="at least one"):
        BenchPlan(**{**whole, **change})


@pytest.mark.parametrize("traffic", STUDY_TRAFFICS, ids=lambda traffic: traffic.name)
def test_a_trace_has_the_lengths_and_shared_chunks_that_the_traffic_says(traffic):
    lines = [json.loads(line) for line in traffic.trace(40, seed=5).splitlines()]
    lengths = Counter((line["input_length"], line["output_length"]) for line in lines)
    share = sum(part.share for part in traffic.parts)

    assert len(lines) == 40
    assert lengths == {(p.input_tokens, p.output_tokens): 40 * p.share // share for p in traffic.parts}
    assert all(len(line["hash_ids"]) == -(-line["input_length"] // CHUNK_TOKENS) for line in lines)
    first = Counter(line["hash_ids"][0] for line in lines)
    assert len(first) == (traffic.prefixes if traffic.prefix_tokens else 40)
    last = Counter(line["hash_ids"][-1] for line in lines)
    assert len(last) == 40


def test_traces_of_two_seeds_share_nothing():
    shared = traffic_named("shared")
    ids = [
        {chunk for line in shared.trace(128, seed).splitlines() for chunk in json.loads(line)["hash_ids"]}
        for seed in (1, 2, 3)
    ]

    assert not ids[0] & ids[1] and not ids[1] & ids[2]


def test_declares_a_mixture_by_its_mean_and_95th_percentile():
    declared = traffic_named("mixed").under(ConcurrencyLoad(4))

    assert declared.input_tokens.mean_tokens == (1024 + 3 * 64) / 4
    assert declared.input_tokens.p95_tokens == 1024
    assert declared.output_tokens.mean_tokens == (16 + 3 * 48) / 4


def test_declares_a_shared_prefix():
    prefix = traffic_named("shared").under(ConcurrencyLoad(4)).shared_prefix

    assert prefix is not None
    assert (prefix.tokens, prefix.ratio, prefix.distinct) == (512, 1.0, 4)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"parts": ()}, id="no requests"),
        pytest.param({"parts": (Part(1, 64, 0),)}, id="no answer"),
        pytest.param({"parts": (Part(1, 64, 8),), "prefix_tokens": 65}, id="a prefix of no whole chunks"),
        pytest.param({"parts": (Part(1, 64, 8),), "prefix_tokens": 128}, id="a prefix longer than a prompt"),
    ],
)
def test_refuses_a_traffic_that_cannot_be(fields):
    with pytest.raises(InvalidWorkloadError, match="traffic odd"):
        BenchTraffic("odd", "", **fields)


def test_small_models_are_of_the_sizes_and_kinds_that_their_names_say():
    totals = {model.name: model.architecture.parameters for model in SMALL_MODELS}

    assert all(round(total / 1e6) == int(name.split("-")[1][:-1]) for name, total in totals.items())
    assert min(totals.values()) < 10e6 and 100e6 < max(totals.values()) < 120e6
    with pytest.raises(InvalidWorkloadError, match="dense-7m"):
        small_model("dense-8m")
