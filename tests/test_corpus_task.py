"""Names of tasks and twins: the same for what is the same, and told apart by what differs."""

from dataclasses import fields, replace

import pytest

from metainf.corpus.task import Task, twin_groups
from metainf.layouts import Layout
from metainf.workload import (
    BatchLoad,
    ConcurrencyLoad,
    LatencyMetric,
    RateLoad,
    Repetitiveness,
    SharedPrefix,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
)

SLO = Slo((SloBound(LatencyMetric.TTFT, Statistic.P95, 0.3),))
PLAIN = Task(
    "Qwen/Qwen3-8B",
    "H100-SXM-80GB",
    Layout(),
    Traffic(RateLoad(4.0), TokenLengths(600.0, 1200.0), TokenLengths(12.0)),
    SLO,
)
FULL = Task(
    "Qwen/Qwen3-8B",
    "L4-PCIe-24GB",
    Layout(tensor_parallel=2, pipeline_parallel=2),
    Traffic(
        BatchLoad(100, 60.5),
        TokenLengths(2050.0),
        TokenLengths(27.0),
        SharedPrefix(512, 0.5, 3),
        Repetitiveness.HIGH,
        burstiness=2.5,
        description="code",
    ),
    max_model_len=8192,
    draft_model=True,
    origin="azure-code",
)


@pytest.mark.parametrize(
    ("task", "key", "draws_key"),
    [
        pytest.param(PLAIN, "96b4346f93ecf7d0", "5b9e9c050d43929d", id="defaults are not in it"),
        pytest.param(FULL, "3eaecfcbc5c7cf93", "d8cde5869ab031c6", id="what differs from them is"),
    ],
)
def test_a_task_has_the_name_that_it_always_had(task, key, draws_key):
    assert (task.key, task.draws_key) == (key, draws_key)


def test_equal_numbers_make_equal_names():
    whole = replace(PLAIN, traffic=replace(PLAIN.traffic, load=RateLoad(4), input_tokens=TokenLengths(600, 1200)))
    assert whole == PLAIN
    assert whole.key == PLAIN.key


def test_every_field_is_in_the_name():
    others = {
        "model": "Qwen/Qwen3-14B",
        "accelerator": "L4-PCIe-24GB",
        "layout": Layout(tensor_parallel=2),
        "traffic": FULL.traffic,
        "slo": Slo(),
        "max_model_len": 8192,
        "engine_version": "0.30.0",
        "draft_model": True,
        "origin": "azure-code",
    }
    assert set(others) == {field.name for field in fields(Task)}
    keys = {PLAIN.key, *(replace(PLAIN, **{name: value}).key for name, value in others.items())}
    assert len(keys) == 1 + len(others)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"accelerator": "A100-SXM-80GB"}, id="accelerator"),
        pytest.param({"layout": Layout(tensor_parallel=4)}, id="layout"),
        pytest.param({"slo": Slo()}, id="promises"),
        pytest.param({"max_model_len": 8192}, id="context"),
        pytest.param({"draft_model": True}, id="head"),
        pytest.param({"traffic": replace(PLAIN.traffic, load=ConcurrencyLoad(7))}, id="load"),
        pytest.param({"traffic": replace(PLAIN.traffic, description="words")}, id="words"),
    ],
)
def test_what_is_drawn_is_the_same_on_every_place_and_under_every_load_and_promise(change):
    other = replace(PLAIN, **change)
    assert other.draws_key == PLAIN.draws_key
    assert other.key != PLAIN.key


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"input_tokens": TokenLengths(601.0, 1200.0)}, id="prompts"),
        pytest.param({"output_tokens": TokenLengths(13.0)}, id="answers"),
        pytest.param({"shared_prefix": SharedPrefix(64)}, id="prefix"),
        pytest.param({"repetitiveness": Repetitiveness.LOW}, id="repetitiveness"),
        pytest.param({"burstiness": 2.0}, id="gaps"),
    ],
)
def test_other_requests_are_drawn_otherwise(change):
    assert replace(PLAIN, traffic=replace(PLAIN.traffic, **change)).draws_key != PLAIN.draws_key
    assert replace(PLAIN, model="Qwen/Qwen3-14B").draws_key != PLAIN.draws_key


def test_twins_are_one_workload_on_several_places():
    elsewhere = replace(PLAIN, accelerator="A100-SXM-80GB")
    wider = replace(PLAIN, layout=Layout(tensor_parallel=2))
    busier = replace(elsewhere, traffic=replace(PLAIN.traffic, load=RateLoad(5.0)))
    looser = replace(elsewhere, slo=Slo())
    assert twin_groups([FULL, PLAIN, busier, elsewhere, looser, wider]) == ((PLAIN, elsewhere, wider),)
    assert twin_groups([FULL, PLAIN]) == ()
