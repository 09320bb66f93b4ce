"""Runs begin with the prefix cache that their load would find: a warm one, but for batches."""

import math
from dataclasses import replace

import pytest

from metainf.corpus.replicas import replica_of
from metainf.corpus.runs import Outcome, Run, enough_requests
from metainf.corpus.task import Task
from metainf.corpus.worlds import RooflineWorld
from metainf.layouts import Layout
from metainf.meta_features.questions import QuestionFeatures
from metainf.methods import method
from metainf.predictors.contract import Question, ReplicaSpec
from metainf.simulator.builder import engine_model
from metainf.workload import BatchLoad, ConcurrencyLoad, Load, RateLoad, SharedPrefix, TokenLengths, Traffic

ONE = Layout()


def run(
    load: Load, shared: SharedPrefix, *, warm: bool = True, layout: Layout = ONE, method_name: str = "default"
) -> Run:
    traffic = Traffic(load, TokenLengths(900.0), TokenLengths(20.0), shared_prefix=shared)
    task = Task("Qwen/Qwen3-8B", "H100-SXM-80GB", layout, traffic, max_model_len=4096)
    chosen = method(method_name)
    replica = replica_of(task, chosen)
    assert isinstance(replica, ReplicaSpec)
    steps, host = RooflineWorld().times(replica, 0) or (None, None)
    assert steps is not None
    assert host is not None
    return Run(task, chosen, replica, engine_model(replica), steps, host, 11, warm)


MANY = SharedPrefix(800, 1.0, 150)


def test_a_replica_that_has_served_for_long_has_every_prefix_from_the_first_request_on() -> None:
    # 150 prefixes of 800 tokens are a third of what the cache holds: in the steady state nearly all of them hit.
    steady = run(RateLoad(5.0), MANY)
    outcomes: list[Outcome] = [steady.idle()[0], steady.capacity()[0], steady.at_rate(5.0, until_sure=False)[0]]
    outcomes.append(run(ConcurrencyLoad(8), MANY).closed_loop(8))
    for found in outcomes:
        assert found.cached_ratio == pytest.approx(800 / 900, rel=0.05)


def test_capacity_is_that_of_a_replica_that_has_served_for_long() -> None:
    # 300 prefixes are cold once each among 3,300 requests.
    shared = SharedPrefix(800, 1.0, 300)
    few = [run(RateLoad(5.0), shared, warm=warm, method_name="few-sequences") for warm in (True, False)]
    warm, cold = (each.capacity()[0].cached_ratio for each in few)
    assert warm == pytest.approx(800 / 900, rel=0.01)
    assert cold == pytest.approx(800 / 900 * (1.0 - 300 / 3300), rel=0.02)


def test_a_batch_begins_with_an_empty_cache() -> None:
    first, second = (run(BatchLoad(64, 600.0), MANY, warm=warm).batch(64) for warm in (True, False))
    assert first.makespan_s == second.makespan_s
    assert first.cached_ratio < 0.2


def test_a_method_that_refuses_requests_does_not_serve_the_task() -> None:
    def small(load: Load) -> Run:
        whole = run(load, MANY)
        return replace(whole, engine=replace(whole.engine, max_model_len=905))  # prompts fit, with answers they do not

    assert small(BatchLoad(64, 600.0)).batch(64).makespan_s == 0.0
    assert small(ConcurrencyLoad(8)).closed_loop(8).output_tokens_per_second == 0.0
    rate = small(RateLoad(5.0))
    assert rate.idle()[1] == math.inf
    assert rate.capacity()[1] == 0.0
    assert rate.at_rate(5.0)[1] == math.inf


@pytest.mark.parametrize(
    ("requests", "shared", "layout"),
    [
        pytest.param(64, SharedPrefix(800, 1.0, 300), ONE, id="few meet a prefix again"),
        pytest.param(300, SharedPrefix(800, 1.0, 300), ONE, id="as many prefixes as requests"),
        pytest.param(1000, SharedPrefix(800, 0.7, 100), ONE, id="most meet one again"),
        pytest.param(400, SharedPrefix(480, 1.0, 100), Layout(data_parallel=2), id="a cache for each of two ranks"),
    ],
)
def test_the_predictor_expects_the_hits_that_a_batch_has(requests: int, shared: SharedPrefix, layout: Layout) -> None:
    batch = run(BatchLoad(requests, 600.0), shared, layout=layout)
    lanes = QuestionFeatures().lanes([Question(batch.replica, batch.task.traffic)])
    expected = lanes.hit_ratio[0] * lanes.hit_tokens[0] / 900
    assert batch.batch(requests).cached_ratio == pytest.approx(expected, abs=0.05)


def test_what_is_completed_each_second_does_not_hang_on_the_longest_answer() -> None:
    # The longest of 3,300 answers takes minutes after the last request came: all of a run together says too little.
    short = run(RateLoad(20.0), MANY)
    traffic = replace(short.task.traffic, output_tokens=TokenLengths(200.0, 700.0))
    outcome, _ = replace(short, task=replace(short.task, traffic=traffic)).at_rate(20.0, until_sure=False)
    assert outcome.requests / outcome.makespan_s < 0.9 * 20.0
    assert outcome.requests_per_second == pytest.approx(20.0, rel=0.05)
    assert outcome.output_tokens_per_second == pytest.approx(20.0 * outcome.output_tokens, rel=0.1)


@pytest.mark.parametrize(
    ("interval_ratio", "expected"),
    [(0.051, 6000), (0.07, 6000), (0.072, 12_000), (0.1, 12_000), (0.14, 24_000), (0.9, 24_000), (math.inf, 24_000)],
)
def test_a_run_that_is_not_sure_grows_to_what_should_be_enough(interval_ratio: float, expected: int) -> None:
    assert enough_requests(3000, interval_ratio) == expected
