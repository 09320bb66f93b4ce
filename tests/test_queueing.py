from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from metainf.batches import batch_makespan_s
from metainf.bursts import found_busy
from metainf.queueing import (
    Lane,
    alone_prompt_s,
    at,
    closed_prompt_wait_s,
    largest_requests_per_step,
    limiting_rate,
    prompt_load,
    solve,
)
from metainf.roofline import StepModel
from metainf.waits import prompts_waited_for, slot_wait_s, startup_wait_s, step_wait_ratio, streaming_wait_s

STEPS = StepModel(
    **(dict.fromkeys((f.name for f in fields(StepModel)), 0.0) | {"fixed_s": 0.010, "dense_token_s": 1e-5}),
)
"""A step takes 10 ms, and 10 us for each token in it."""


ONE = np.array([1e-3])


def lane(**changes: float) -> Lane:
    plain: dict[str, float] = {
        "slots": 64,
        "budget_tokens": 2048,
        "chunk_tokens": 2048,
        "prompt_tokens": 1000,
        "prompt_context_tokens": 500,
        "prompt_squared_cv": 0,
        "fair_prompts": 0,
        "decode_steps": 99,
        "context_tokens": 1000,
        "tokens_per_sequence": 1,
        "small_step_scale": 1,
        "step_extra_s": 0,
        "sequence_extra_s": 0,
        "frontend_token_s": 0,
        "messages": 100,
        "ranks": 1,
        "stages": 1,
        "servers": 1,
        "request_s": 0,
        "open_loop": 1,
    }
    values = {name: np.array([value], dtype=np.float64) for name, value in (plain | changes).items()}
    steps = StepModel(*(np.array([getattr(STEPS, f.name)]) for f in fields(StepModel)))  # type: ignore[arg-type]
    return Lane(steps=steps, **values)


def solved(found: Lane, load: float) -> tuple[float, float, float]:
    y, full, most = solve(found, np.array([load]), np.array([0]))
    return float(y[0]), float(full[0]), float(most[0])


def test_the_state_of_a_lane_follows_from_requests_per_step() -> None:
    # y = 0.1: 9.9 decode (and one is met besides), 100 prompt tokens a step, so every tenth step has a whole prompt.
    point = at(lane(), np.array([0.1]))
    assert point.decoding[0] == pytest.approx(9.9)
    assert point.prompt_share[0] == pytest.approx(0.1)
    assert point.decode_step_s[0] == pytest.approx(0.010 + 10.9e-5)
    assert point.prompt_step_s[0] == pytest.approx(0.010 + 1010.9e-5)
    assert point.requests_per_second[0] == pytest.approx(0.1 / (0.010 + 10.9e-5 + 0.1 * 1000e-5))


def test_ranks_in_lock_step_wait_for_each_others_prompts() -> None:
    # Every tenth step of each rank has a prompt: of all steps of four ranks 1 - 0.9^4 have one.
    alone, together = at(lane(), np.array([0.1])), at(lane(ranks=4), np.array([0.1]))
    assert together.prompt_share[0] == pytest.approx(0.1)
    assert together.held_share[0] == pytest.approx(1 - 0.9**4)
    assert alone.held_share[0] == pytest.approx(0.1)
    assert together.step_s[0] == pytest.approx(0.010 + 10.9e-5 + (1 - 0.9**4) * 1000e-5)


def test_ranks_whose_prompts_come_apart_meet_at_the_experts_with_one_prompt() -> None:
    found = lane(ranks=4, decode_steps=0)
    one_s, none_s = 1e-5, 0.010
    experts: dict[str, Any] = {"expert_token_s": np.array([1e-6]), "expert_read_s": ONE, "overlap": np.zeros(1)}
    experts |= {"expert_lanes": np.array([4.0]), "expert_miss_log": np.array([-50.0])}
    found = replace(found, steps=replace(found.steps, **experts))
    rare, common = (at(found, np.array([y])) for y in (1e-6, 1.0))
    read_s = float(ONE[0])
    assert rare.prompt_step_s[0] == pytest.approx(none_s + 1000 * one_s + max(1000 * 1e-6, read_s), rel=1e-3)
    assert common.prompt_step_s[0] == pytest.approx(none_s + 1000 * one_s + max(4000 * 1e-6, read_s), rel=1e-3)


def test_a_prompt_holds_up_all_batches_of_a_pipeline_and_passes_it_chunk_by_chunk() -> None:
    short = at(lane(stages=4), np.array([0.1]))
    assert short.chunks[0] == pytest.approx(1.0)
    assert short.held_share[0] == pytest.approx(1 - 0.9**4, rel=1e-6)
    # Four chunks go through four stages in the time of (4 + 3) / 4 whole steps.
    long = at(lane(stages=4, prompt_tokens=4000, chunk_tokens=1000), np.array([0.001]))
    assert long.chunks[0] == pytest.approx(7 / 4)
    assert long.prefill_s[0] == pytest.approx(7 / 4 * float(long.prompt_step_s[0]))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"stages": 1}, 1.0, id="no pipeline"),
        pytest.param({"stages": 2}, 1.0, id="two batches are left"),
        # A chunk takes 2.05 + 1 of a decode step's 10 ms, so an eighth of that of a round's batches merge.
        pytest.param({"stages": 8}, 8 * (20.01 / 10.01 / 8) / 2, id="short prompts merge few"),
        pytest.param({"stages": 8, "chunk_tokens": 1e6, "budget_tokens": 1e6, "prompt_tokens": 1e5}, 4.0, id="long"),
    ],
)
def test_prompts_merge_the_batches_of_a_pipeline(changes: dict[str, float], expected: float) -> None:
    assert lane(**changes).bunching[0] == pytest.approx(max(expected, 1.0), rel=1e-3)


def test_full_slots_of_a_pipeline_stay_in_the_batches_that_their_prompts_filled() -> None:
    # 4 x 64 sequences of 4 prompt tokens are one batch from the start; of 100 tokens they are more than stages.
    short, long = (lane(stages=4, prompt_tokens=tokens, decode_steps=999) for tokens in (4, 100))
    _, _, crowded = solved(short, 1e9)
    assert crowded == pytest.approx(64 / 1000 / (0.010 + 256e-5 + 4e-5 * 0.2), rel=0.02)
    assert crowded < 0.9 * solved(lane(prompt_tokens=4, decode_steps=999), 1e9)[2]
    assert limiting_rate(long)[0] == np.inf


def test_a_pipeline_and_balanced_ranks_wait_less_than_a_lane_alone() -> None:
    ones = np.ones(1)
    alone, pipeline, ranks = lane(), lane(stages=4), lane(servers=4)
    point = at(alone, np.array([0.3]))
    load = prompt_load(alone, point)
    waited_for = float(prompts_waited_for(alone, load, ones, load)[0])
    assert prompts_waited_for(pipeline, load, ones, load)[0] == pytest.approx(waited_for)  # each a stage's time long
    assert prompts_waited_for(ranks, load, ones, load)[0] < waited_for / 4
    full = np.array([0.9])
    assert slot_wait_s(ranks, point, full, ones)[0] < slot_wait_s(alone, point, full, ones)[0] / 4


def test_a_prompt_beyond_the_budget_takes_several_steps() -> None:
    point = at(lane(prompt_tokens=8000), np.array([0.01]))
    assert point.chunks[0] == pytest.approx(8000 / (2048 - 0.99))


def test_a_threshold_cuts_prompts_smaller() -> None:
    assert at(lane(chunk_tokens=250), np.array([0.001])).chunks[0] == pytest.approx(4)


def test_prompts_that_share_a_step_share_its_cost() -> None:
    found = lane(prompt_tokens=10, decode_steps=0)
    assert at(found, np.array([100.0])).chunk_tokens[0] == pytest.approx(1000)
    assert found.queued_prompt_s[0] == pytest.approx(10 * 1e-5)
    assert alone_prompt_s(found)[0] == pytest.approx(10 * 1e-5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, 2048 / 1099, id="the token budget"),
        pytest.param({"slots": 8}, 8 / 100, id="the slots"),
        pytest.param({"slots": 1, "decode_steps": 0}, 1.0, id="one at a time, one token"),
        pytest.param({"tokens_per_sequence": 5}, 2048 / (1000 + 99 * 5), id="the budget with drafts"),
    ],
)
def test_slots_or_budget_bound_a_step(changes: dict[str, float], expected: float) -> None:
    expected = min(expected, changes.get("slots", 64) / (changes.get("decode_steps", 99) + 1))
    assert largest_requests_per_step(lane(**changes))[0] == pytest.approx(expected)


def test_one_client_alone_sees_its_own_prompt_and_steps() -> None:
    found = lane(open_loop=0, request_s=0.05)
    y, _, _ = solved(found, 1.0)
    point = at(found, np.array([y]))
    round_s = 0.05 + 0.010 + 1001e-5 + 99 * (0.010 + 1e-5)
    assert point.requests_per_second[0] == pytest.approx(1 / round_s, rel=0.02)


def test_the_most_is_reached_where_slots_are_full() -> None:
    found = lane(slots=8)
    y, full, most = solved(found, 1e9)
    assert y == full
    assert most == pytest.approx(float(at(found, np.array([full])).requests_per_second[0]))


def test_no_more_answers_end_than_an_api_server_streams() -> None:
    # 100 messages of 1 ms each: 10 answers a second, of the 28 that the engine could do.
    found = lane(frontend_token_s=1e-3)
    y, full, most = solved(found, 1e9)
    assert solved(lane(), 1e9)[2] > 20
    assert most == pytest.approx(10.0)
    assert y == full
    assert float(at(found, np.array([y])).requests_per_second[0]) == pytest.approx(10.0, rel=0.01)
    closed = replace(found, open_loop=np.zeros(1))
    assert float(at(closed, np.array([solved(closed, 500.0)[0]])).requests_per_second[0]) == pytest.approx(10, rel=0.02)


def test_stages_of_a_pipeline_share_an_api_server_and_fewer_messages_cost_it_less() -> None:
    assert solved(lane(frontend_token_s=1e-3, stages=4), 1.0)[2] == pytest.approx(2.5)
    assert solved(lane(frontend_token_s=1e-3, messages=50), 1.0)[2] == pytest.approx(20.0)


def test_a_batch_lasts_at_least_as_long_as_its_streaming() -> None:
    slow = lane(open_loop=0, frontend_token_s=1e-3)
    found = batch_makespan_s(slow, np.array([64.0]), np.array([10.0]), np.array([0.0]), np.array([64.0]))[0]
    assert found == pytest.approx(64 * 0.1 + float(slow.queued_prompt_s[0]))


def test_what_is_left_to_stream_waits_only_where_it_outlives_a_decoding() -> None:
    found = lane(frontend_token_s=1e-3)
    busy = [0.5, 0.99, 0.9999]
    plain = [b / (1 - b) * 0.1 for b in busy]  # Kingman, squared variations of 1
    ones = np.ones(1)
    shares = []
    for load, kingman_s in zip(busy, plain, strict=True):
        point = replace(at(found, np.array([0.1])), requests_per_second=np.array([load * 10.0]))
        shares.append(float(streaming_wait_s(found, point, ones, ones)[0]) / kingman_s)
    assert shares[0] < 0.5 < shares[1] < shares[2] < 1
    assert shares[2] == pytest.approx(1.0, abs=0.01)


def test_waits_follow_the_named_approximations() -> None:
    found = lane(budget_tokens=1000)  # no two prompts fit into a step
    point = at(found, np.array([0.3]))
    rho = float((point.requests_per_second * found.queued_prompt_s)[0])
    load, poisson, bursty = np.array([rho]), np.array([1.0]), np.array([4.0])
    assert prompts_waited_for(found, load, poisson, load)[0] == pytest.approx(rho / (1 - rho) / 2)
    assert prompts_waited_for(found, load, bursty, np.array([0.6]))[0] == pytest.approx(0.6 / 0.4 * 4 / 5)
    one = lane(slots=1)
    alone = at(one, np.array([0.005]))
    service = float((alone.prefill_s + 99 * alone.step_s)[0])
    assert slot_wait_s(one, alone, np.array([0.5]), np.array([1.0]))[0] == pytest.approx(0.5 * service, rel=0.01)


def test_prompts_that_share_the_steps_wait_alike_however_long_they_are() -> None:
    load, poisson = np.array([0.5]), np.array([1.0])
    equal, spread = (lane(fair_prompts=1, prompt_squared_cv=cv) for cv in (0.0, 9.0))
    for each in (equal, spread):
        assert prompts_waited_for(each, load, poisson, load)[0] == pytest.approx(1.0)  # rho / (1 - rho)


@pytest.mark.parametrize("rho", [0.3, 0.6])
def test_prompts_that_end_together_wait_as_gated_batches_do(rho: float) -> None:
    # Steps of 1 s, and 1 s more on average for each prompt that came in the one before; lengths are exponential.
    draw = np.random.default_rng(0)
    start_s, step_s, spent_s, served = 0.0, 1.0, 0.0, 0
    for _ in range(60_000):
        waiting = draw.poisson(rho * step_s)
        came_s = start_s + step_s * draw.random(waiting)
        start_s, step_s = start_s + step_s, 1.0 + draw.exponential(size=waiting).sum()
        spent_s, served = spent_s + (start_s + step_s - came_s).sum(), served + waiting
    found = lane(budget_tokens=1e9, prompt_squared_cv=1.0)
    load, poisson = np.array([rho]), np.array([1.0])
    services = prompts_waited_for(found, load, poisson, load)
    expected_s = 1.0 + 1.0 + float(step_wait_ratio(found, load)[0]) + float(services[0])
    assert spent_s / served == pytest.approx(expected_s, rel=0.02)


def test_a_closed_loop_never_queues_more_than_the_other_clients() -> None:
    wait = closed_prompt_wait_s(np.array([0.999]), np.array([2.0]), np.array([10.0]))
    assert wait[0] <= 9 * 2.0
    assert closed_prompt_wait_s(np.array([0.9]), np.array([2.0]), np.array([1.0]))[0] == 0


def test_clients_that_start_together_wait_for_half_of_the_others() -> None:
    found = lane(open_loop=0)
    expected = 0.5 * 9 * float(found.queued_prompt_s[0])
    assert startup_wait_s(found, np.array([10.0]))[0] == pytest.approx(expected)


def test_a_small_batch_is_one_wave() -> None:
    found = lane(open_loop=0)
    most = np.array([1e9])
    makespan = batch_makespan_s(found, np.array([4.0]), most, np.array([0.0]), np.array([4.0]))[0]
    assert makespan == pytest.approx(99 * (0.010 + 4e-5) + 4 * 0.0100, rel=0.05)


def test_a_batch_ends_with_the_longest_answer_of_all_lanes() -> None:
    def makespan(all_requests: float, **beside: float) -> float:
        found = lane(open_loop=0, **beside)
        four, most, sd = np.array([4.0]), np.array([1e9]), np.array([1.0])
        return float(batch_makespan_s(found, four, most, sd, np.array([all_requests]))[0])

    alone, ranks = makespan(4), makespan(16, servers=4)
    assert ranks > 1.3 * alone
    assert makespan(16, stages=4) == pytest.approx(ranks)
    assert makespan(4, servers=4) == pytest.approx(alone)


@given(
    first=st.floats(1e-3, 100),
    more=st.floats(0, 100),
    slots=st.floats(1, 500),
    prompt=st.floats(1, 10000),
    beside=st.sampled_from([{}, {"ranks": 4, "servers": 4}, {"stages": 8}, {"servers": 2}]),
    bursts=st.floats(0.1, 16),
)
@hypothesis_settings(max_examples=100, deadline=None)
def test_more_load_is_never_faster(
    first: float, more: float, slots: float, prompt: float, beside: dict[str, float], bursts: float
) -> None:
    found = lane(slots=slots, prompt_tokens=prompt, **beside)
    (low, _, most), (high, _, same) = solved(found, first), solved(found, first + more)
    assert low <= high
    assert most == same
    slow, fast = at(found, np.array([high])), at(found, np.array([low]))
    assert slow.step_s[0] >= fast.step_s[0] * (1 - 1e-9)
    ca = np.array([bursts])
    waits = []
    for point in (fast, slow):
        load = prompt_load(found, point)
        waits.append(float(prompts_waited_for(found, load, ca, found_busy(load, ca))[0]))
    assert waits[1] >= waits[0] * (1 - 1e-9)


@given(rate=st.floats(1e-3, 3), clients=st.integers(1, 2000))
@hypothesis_settings(max_examples=60, deadline=None)
def test_what_is_offered_is_delivered_or_the_lane_is_full(rate: float, clients: int) -> None:
    y, full, most = solved(lane(), rate)
    delivered = float(at(lane(), np.array([y])).requests_per_second[0])
    assert y == full or delivered == pytest.approx(min(rate, most), rel=0.02)
    closed = replace(lane(open_loop=0))
    y, full, most = solved(closed, float(clients))
    assert float(at(closed, np.array([y])).requests_per_second[0]) <= most * (1 + 1e-9)
