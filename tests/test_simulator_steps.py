"""Small cases of the simulator, computed by hand step by step.

Where not said otherwise a step takes 1 s and 1 ms per token, so the expected times count steps and tokens.
"""

from dataclasses import replace

import numpy as np
import pytest

from metainf.simulator import EngineModel, HostTimes, KvGroup, Requests, SimulationResult, StepTimes, simulate

STEP_S = 1.0
TOKEN_S = 1e-3


def line(slope: float) -> tuple[np.ndarray, np.ndarray]:
    points = np.array([0.0, 1.0, 100_000.0])
    return points, slope * points


def step_times(**changes: object) -> StepTimes:
    tokens, token_s = line(TOKEN_S)
    plain = StepTimes(
        tokens=tokens,
        token_s=token_s,
        decode_sequences=np.array([0.0, 1000.0]),
        decode_context_tokens=np.array([0.0, 100_000.0]),
        decode_s=np.zeros((2, 2)),
        chunk_tokens=np.array([0.0, 1000.0]),
        chunk_context_tokens=np.array([0.0, 100_000.0]),
        chunk_s=np.zeros((2, 2)),
        fixed_s=STEP_S,
    )
    return replace(plain, **changes)


def engine(**changes: object) -> EngineModel:
    plain = EngineModel(
        max_num_seqs=8,
        max_num_batched_tokens=100,
        kv_blocks=1000,
        block_tokens=4,
        max_model_len=1000,
        asynchronous=False,
    )
    return replace(plain, **changes)


def requests(inputs: list[int], outputs: list[int], arrivals: list[float] | None = None, **more: object) -> Requests:
    arrival_s = np.zeros(len(inputs)) if arrivals is None else np.array(arrivals)
    return Requests(arrival_s, np.array(inputs), np.array(outputs), **more)


def sharing(hashes: list[list[int]]) -> dict[str, object]:
    offsets = np.cumsum([0, *map(len, hashes)])
    flat = np.array([h for row in hashes for h in row], dtype=np.int64)
    return {"block_hashes": flat, "block_offsets": offsets, "hash_block_tokens": 4}


def assert_times(result: SimulationResult, first: list[float], last: list[float]) -> None:
    np.testing.assert_allclose(result.first_token_s, first, rtol=1e-12)
    np.testing.assert_allclose(result.last_token_s, last, rtol=1e-12)


def test_one_request_takes_a_step_for_its_prompt_and_one_for_each_further_token():
    result = simulate(engine(), step_times(), requests([10], [3]))
    # 1 + 0.010, then two steps of 1 + 0.001.
    assert_times(result, [1.010], [1.010 + 2 * 1.001])
    assert (result.steps, result.computed_tokens) == (3, 12)
    assert result.busy_s == pytest.approx(3.012)
    assert result.makespan_s == pytest.approx(3.012)
    # 10 + 3 - 1 tokens are cached, in blocks of 4.
    assert result.peak_kv_blocks == 3


def test_a_prompt_longer_than_the_budget_comes_in_chunks():
    result = simulate(engine(), step_times(), requests([250], [1]))
    assert_times(result, [1.100 + 1.100 + 1.050], [3.250])


def test_running_requests_go_first_and_share_the_budget_with_the_prompt():
    # Step 1: prompt of 10. Step 2: 1 token of it and 99 of the other's 120. Step 3: 1 and 21.
    result = simulate(engine(), step_times(), requests([10, 120], [4, 1], [0.0, 0.5]))
    assert_times(result, [1.010, 1.010 + 1.100 + 1.022], [1.010 + 1.100 + 1.022 + 1.001, 3.132])


def test_without_chunks_a_prompt_waits_until_it_fits_whole():
    # The budget is at least the model's length, 150 here. Step 1: 100. Step 2: 1, since 149 are left for 150.
    whole = engine(chunked_prefill=False, max_model_len=151, max_num_batched_tokens=120)
    result = simulate(whole, step_times(), requests([100, 150], [3, 1], [0.0, 0.5]))
    # The budget is 151: 150 fit beside the one token, so it goes in step 2.
    assert_times(result, [1.100, 1.100 + 1.151], [1.100 + 1.151 + 1.001, 2.251])
    # With two more decoding beside it the 150 no longer fit: they wait until these are done.
    result = simulate(whole, step_times(), requests([50, 50, 150], [2, 3, 1], [0.0, 0.0, 0.5]))
    # Step 1: 100. Step 2: 2 tokens, 149 left. The first is done. Step 3: 1 token and the 150.
    assert_times(result, [1.1, 1.1, 1.1 + 1.002 + 1.151], [2.102, 3.253, 3.253])


def test_long_prompts_are_capped_while_anybody_else_is_there():
    capped = engine(long_prefill_token_threshold=30)
    alone = simulate(capped, step_times(), requests([90], [1]))
    assert_times(alone, [1.090], [1.090])
    # Steps 1 to 3: 30 of the long and, in step 1, 20 of the short one: its answer of one token is done after step 1,
    # so that the long one is alone in step 2 and takes its other 60 at once.
    both = simulate(capped, step_times(), requests([90, 20], [1, 1]))
    assert_times(both, [1.050 + 1.060, 1.050], [2.110, 1.050])
    # With an answer of 3 tokens the short one stays: 30 + 20, 1 + 30, 1 + 30.
    stays = simulate(capped, step_times(), requests([90, 20], [1, 3]))
    assert_times(stays, [1.050 + 1.031 + 1.031, 1.050], [3.112, 3.112])


def test_one_sequence_at_a_time_serves_one_after_the_other():
    result = simulate(engine(max_num_seqs=1), step_times(), requests([10, 10], [2, 2]))
    one = 1.010 + 1.001
    assert_times(result, [1.010, one + 1.010], [one, 2 * one])


@pytest.mark.parametrize(
    ("same_step", "first_s", "cached"),
    [
        pytest.param(False, 1.020, [0, 0], id="both cold ones compute their prompts"),
        pytest.param(True, 1.012, [0, 8], id="the second hits what the step computes for the first"),
    ],
)
def test_two_cold_requests_of_one_prefix(same_step: bool, first_s: float, cached: list[int]):
    pair = requests([10, 10], [1, 1], **sharing([[7, 8], [7, 8]]))
    result = simulate(engine(same_step_hits=same_step), step_times(), pair)
    assert_times(result, [first_s] * 2, [first_s] * 2)
    assert result.cached_tokens.tolist() == cached


def test_a_later_request_takes_full_shared_blocks_from_the_cache():
    # 11 tokens in blocks of 4, the first two blocks are shared; 3 tokens are left to compute.
    pair = requests([11, 11], [1, 1], [0.0, 5.0], **sharing([[7, 8], [7, 8]]))
    result = simulate(engine(), step_times(), pair)
    assert result.cached_tokens.tolist() == [0, 8]
    assert_times(result, [1.011, 6.003], [1.011, 6.003])
    off = simulate(engine(prefix_caching=False), step_times(), pair)
    assert off.cached_tokens.tolist() == [0, 0]
    assert_times(off, [1.011, 6.011], [1.011, 6.011])


def test_the_last_token_of_a_prompt_is_always_computed():
    # All 8 tokens are cached; the block that holds the last one is computed again.
    pair = requests([8, 8], [1, 1], [0.0, 5.0], **sharing([[7, 8], [7, 8]]))
    result = simulate(engine(), step_times(), pair)
    assert result.cached_tokens.tolist() == [0, 4]
    assert_times(result, [1.008, 6.004], [1.008, 6.004])


def test_a_hit_ends_at_the_first_block_that_differs():
    pair = requests([13, 13], [1, 1], [0.0, 5.0], **sharing([[7, 8, 9], [7, 1, 9]]))
    assert simulate(engine(), step_times(), pair).cached_tokens.tolist() == [0, 4]


def test_a_prompt_in_chunks_can_be_hit_while_it_is_still_under_way():
    # Budget 8. Step 1 (0 to 1.008): 8 of the first. Step 2 (to 2.016): 8 more. The second came at 1.5: step 3 computes
    # the first one's last token, and the second hits the 16 and computes its last one.
    pair = requests([17, 17], [1, 1], [0.0, 1.5], **sharing([[1, 2, 3, 4]] * 2))
    result = simulate(engine(max_num_batched_tokens=8), step_times(), pair)
    assert result.cached_tokens.tolist() == [0, 16]
    assert_times(result, [2.016 + 1.002] * 2, [3.018] * 2)


def test_freed_blocks_are_used_again_oldest_first_and_of_one_request_the_last_first():
    # 5 blocks. A (4 tokens of content 1, then 5 own ones: blocks 0, 1, 2) and then B (content 2, 8 tokens: blocks 3, 4)
    # are freed, each from its end: the line is 2 1 0 4 3. C takes three blocks, 2, 1 and 0, or two, 2 and 1.
    def cached(c_tokens: int, last: list[int]) -> int:
        rows, times = [[1], [2], [], last], [0.0, 5.0, 10.0, 15.0]
        lengths = [9, 8, c_tokens, 9]
        result = simulate(engine(kv_blocks=5), step_times(), requests(lengths, [1] * 4, times, **sharing(rows)))
        return int(result.cached_tokens[3])

    assert cached(9, [1]) == 0  # block 0 went with A's content
    assert cached(9, [2]) == 4
    assert cached(8, [1]) == 4


@pytest.mark.parametrize(
    ("hash_tokens", "rows", "cached"),
    [
        pytest.param(8, [[5, 6], [5, 9]], [0, 8], id="a hash stands for two blocks"),
        pytest.param(2, [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]], [0, 8], id="two hashes make a block"),
        pytest.param(2, [[1, 2, 3, 4], [1, 2, 3, 9]], [0, 4], id="one of two hashes differs"),
    ],
)
def test_hashes_of_other_sizes_than_the_blocks(hash_tokens: int, rows: list[list[int]], cached: list[int]):
    more = {**sharing(rows), "hash_block_tokens": hash_tokens}
    result = simulate(engine(), step_times(), requests([17, 17], [1, 1], [0.0, 5.0], **more))
    assert result.cached_tokens.tolist() == cached


def test_the_last_running_request_is_preempted_and_computed_again():
    # 4 blocks of 4. Step 1: prompts of 6 and 6 take 2 blocks each. Steps 2 and 3 fill them: 8 tokens cached each.
    # Step 4: the first needs a third block. The second is sent back; no one is admitted in this step: 1 token.
    # Steps 5, 6: the first goes on; it is done after step 6 with 6 + 6 - 1 = 11 tokens cached, in 3 blocks. The second
    # does not fit meanwhile: it knows 9 tokens, 3 blocks, and 1 is free; its two full blocks are in the cache, but one
    # of them was taken for the first's third block: the second block, freed first.
    # Step 7: it hits 4 tokens, computes 5 and gets its 4th token; steps 8, 9: the 5th and 6th.
    result = simulate(engine(kv_blocks=4), step_times(), requests([6, 6], [6, 6]))
    assert result.preemptions.tolist() == [0, 1]
    times = np.cumsum([1.012, 1.002, 1.002, 1.001, 1.001, 1.001, 1.005, 1.001, 1.001])
    assert_times(result, [times[0], times[0]], [times[5], times[8]])
    assert result.steps == 9
    assert result.peak_kv_blocks == 4
    assert result.cached_tokens.tolist() == [0, 0]
    # 11 tokens each, and of the second's 8 before it had to go the 4 that it does not hit.
    assert result.computed_tokens == 11 + 11 + 4


def test_without_a_prefix_cache_all_of_a_preempted_request_is_computed_again():
    result = simulate(engine(kv_blocks=4, prefix_caching=False), step_times(), requests([6, 6], [6, 6]))
    times = np.cumsum([1.012, 1.002, 1.002, 1.001, 1.001, 1.001, 1.009, 1.001, 1.001])
    assert_times(result, [times[0], times[0]], [times[5], times[8]])
    assert result.computed_tokens == 11 + 11 + 8


def test_a_prompt_is_admitted_only_where_all_of_it_fits():
    # 6 blocks, budget 8. The first takes 4 blocks for 13 + 2 tokens. The second's first chunk of 8 would fit into the
    # other two, the whole 12 tokens do not: it starts when the first is done.
    result = simulate(engine(kv_blocks=6, max_num_batched_tokens=8), step_times(), requests([13, 12], [2, 1]))
    assert_times(result, [1.008 + 1.005, 3.014 + 1.008 + 1.004], [3.014, 5.026])


@pytest.mark.parametrize(
    ("lengths", "change"),
    [
        pytest.param((990, 11), {}, id="longer than the model's context"),
        pytest.param((30, 12), {"kv_blocks": 10}, id="41 tokens need 11 blocks"),
    ],
)
def test_what_can_never_fit_is_refused(lengths: tuple[int, int], change: dict[str, int]):
    result = simulate(engine(**change), step_times(), requests([lengths[0], 4], [lengths[1], 1]))
    assert np.isnan(result.first_token_s[0]) and np.isnan(result.sent_s[0]) and np.isnan(result.last_token_s[0])
    assert_times(result, [np.nan, 1.004], [np.nan, 1.004])


def test_a_closed_loop_sends_the_next_when_one_is_answered():
    # Two clients. Step 1: 10 + 10. The first has its only token and sends the third, after 0.1 s on the way. Step 2
    # begins at once with the second alone; the third joins step 3.
    closed = requests([10, 10, 10], [1, 3, 1], clients=2)
    result = simulate(engine(), step_times(), closed, host=HostTimes(request_s=0.1))
    times = 0.1 + np.cumsum([1.020, 1.001, 1.011])
    assert_times(result, [times[0], times[0], times[2]], [times[0], times[2], times[2]])
    np.testing.assert_allclose(result.sent_s, [0.0, 0.0, times[0]])


def test_a_short_prompt_does_not_overtake_a_long_one_that_was_sent_before_it():
    # One thread tokenises, 1 ms a token: the long prompt takes 0.4 s to the engine, where it takes four steps of 1.1 s,
    # and the short one follows it.
    host = HostTimes(request_token_s=0.001)
    both = simulate(engine(max_num_seqs=1), step_times(), requests([400, 10], [1, 1], [0.0, 0.1]), host=host)
    assert_times(both, [4.8, 5.81], [4.8, 5.81])
    closed = simulate(engine(max_num_seqs=1), step_times(), requests([400, 10], [1, 1], clients=2), host=host)
    assert_times(closed, [4.8, 5.81], [4.8, 5.81])


def test_a_closed_loop_keeps_to_the_time_before_which_a_request_is_not_sent():
    result = simulate(engine(), step_times(), requests([10, 10], [1, 1], [0.0, 9.0], clients=1))
    np.testing.assert_allclose(result.sent_s, [0.0, 9.0])
    assert_times(result, [1.010, 10.010], [1.010, 10.010])


def test_a_refused_request_keeps_no_client_waiting():
    result = simulate(engine(), step_times(), requests([2000, 10], [1, 1], clients=1))
    assert_times(result, [np.nan, 1.010], [np.nan, 1.010])


def test_asynchronous_scheduling_emits_one_step_later_to_those_that_find_others_running():
    # The first is alone and gets its token when step 1 ends. The second comes during step 2, is in step 3 and hears of
    # its first token when step 4 ends; both have their last from step 5, which has no step after it.
    result = simulate(engine(asynchronous=True), step_times(), requests([10, 10], [5, 3], [0.0, 1.5]))
    ends = np.cumsum([1.010, 1.001, 1.011, 1.002, 1.002])
    assert_times(result, [ends[0], ends[3]], [ends[4], ends[4]])


def test_asynchronous_scheduling_makes_nobody_wait_who_is_alone():
    alone = requests([250], [3])
    late, early = (simulate(engine(asynchronous=each), step_times(), alone) for each in (True, False))
    assert_times(late, early.first_token_s, early.last_token_s)


def test_requests_pass_the_api_server_one_after_the_other():
    # 3 tokens of step 1 take 0.2 s each; those of step 2, which ends at 2.013 + 0.003, follow at once; and so on.
    host = HostTimes(request_s=0.5, request_token_s=0.01, frontend_token_s=0.2)
    result = simulate(engine(), step_times(), requests([4, 4, 4], [1, 2, 2]), host=host)
    begin = 0.5 + 4 * 0.01
    ends = begin + np.cumsum([1.012, 1.002])
    assert_times(result, ends[0] + np.array([0.2, 0.4, 0.6]), [ends[0] + 0.2, ends[1] + 0.2, ends[1] + 0.4])


def test_a_stream_interval_saves_the_api_server_messages():
    # One step per token of 1.001 s, 2 s of work per message: every token waits for those before it.
    host = HostTimes(frontend_token_s=2.0)
    slow = simulate(engine(), step_times(), requests([10], [5]), host=host)
    assert slow.last_token_s[0] == pytest.approx(1.010 + 5 * 2.0)
    # With an interval of 4 there are the first message, that of the fifth token and no other.
    spare = simulate(engine(stream_interval=4), step_times(), requests([10], [5]), host=host)
    assert spare.last_token_s[0] == pytest.approx(1.010 + 4 * 1.001 + 2.0)


@pytest.mark.parametrize(
    ("acceptance", "steps", "computed"),
    [
        # Prompt, then 3 tokens a step: 1 + 3 + 3 + 3 = 10.
        pytest.param(1.0, 4, 8 + 3 * 3, id="every draft is right"),
        pytest.param(0.0, 10, 8 + 9 * 3, id="no draft is right"),
    ],
)
def test_drafts_take_budget_and_add_what_is_accepted(acceptance: float, steps: int, computed: int):
    drafting = engine(draft_tokens=2, acceptance_ratio=acceptance)
    result = simulate(drafting, step_times(), requests([8], [10]))
    assert (result.steps, result.computed_tokens) == (steps, computed)
    assert result.last_token_s[0] == pytest.approx(1.008 + (steps - 1) * 1.003)


def test_drafts_take_cache_slots():
    # 8 + 2 - 1 tokens and 2 drafts: 11 slots, 3 blocks, where 9 would be 3 as well; with 4 drafts 13, so 4 blocks.
    two = simulate(engine(draft_tokens=2), step_times(), requests([8], [2]))
    four = simulate(engine(draft_tokens=4), step_times(), requests([8], [2]))
    assert (two.peak_kv_blocks, four.peak_kv_blocks) == (3, 4)


def test_drafts_are_cut_to_what_is_left_of_the_budget():
    # Budget 5: two sequences with 3 drafts each take 4 and 1 tokens a step.
    tight = engine(draft_tokens=3, acceptance_ratio=1.0, max_num_batched_tokens=5)
    result = simulate(tight, step_times(), requests([2, 2], [5, 5]))
    # Step 1: 2 + 2. Step 2: 4 and 1: the first has 5 tokens, the second 2. Step 3: 4 of the second give it 4: 6 > 5.
    assert_times(result, [1.004, 1.004], [1.004 + 1.005, 1.004 + 1.005 + 1.004])


def test_a_window_gives_back_the_blocks_behind_it():
    # Window 8 in blocks of 4, prompt of 8 and 20 more tokens: with the token at place p (from 0), places from p - 7 on
    # are needed, at most 3 blocks; the full group keeps all 7 blocks of 27 tokens.
    sliding = engine(groups=(KvGroup(window_tokens=8),), max_num_batched_tokens=8)
    assert simulate(sliding, step_times(), requests([8], [20])).peak_kv_blocks == 3
    both = engine(groups=(KvGroup(), KvGroup(window_tokens=8)), max_num_batched_tokens=8)
    assert simulate(both, step_times(), requests([8], [20])).peak_kv_blocks == 7 + 3


def test_a_prefix_is_hit_only_where_the_window_before_its_end_is_cached_too():
    # Window 5: the block before the boundary. A's prompt of 4 shared blocks and one token is followed by an answer that
    # moves the window on; freed blocks keep their content until they are needed, so B hits all 16 tokens.
    groups = (KvGroup(), KvGroup(window_tokens=5))
    rows = [[1, 2, 3, 4]] * 2
    pair = requests([17, 17], [9, 1], [0.0, 50.0], **sharing(rows))
    assert simulate(engine(groups=groups), step_times(), pair).cached_tokens.tolist() == [0, 16]


def test_a_state_takes_one_block_whatever_the_length():
    recurrent = engine(groups=(KvGroup(state=True),))
    assert simulate(recurrent, step_times(), requests([50, 50], [20, 20])).peak_kv_blocks == 2
    hybrid = engine(groups=(KvGroup(), KvGroup(state=True)))
    # 50 + 20 - 1 = 69 tokens: 18 blocks and the state, for each of two.
    assert simulate(hybrid, step_times(), requests([50, 50], [20, 20])).peak_kv_blocks == 2 * 19


def test_pipeline_stages_work_on_as_many_batches():
    # Two stages, a step of 1.010 s: half of it in each. The second request is scheduled when the first stage is free.
    piped = engine(pipeline_stages=2, max_num_batched_tokens=10)
    result = simulate(piped, step_times(), requests([10, 10], [1, 1]))
    assert_times(result, [1.010, 0.505 + 1.010], [1.010, 1.515])
    # A short batch waits for the long one before it at each stage: 0.5005 s behind it.
    piped = engine(pipeline_stages=2, max_num_seqs=1, max_num_batched_tokens=10)
    result = simulate(piped, step_times(), requests([11], [1]))
    # Chunks of 10 and 1 of the same prompt follow each other: 1.010 + 0.5005.
    assert_times(result, [1.010 + 0.5005], [1.5105])


def test_a_sequence_in_a_pipeline_decodes_once_per_round():
    piped = engine(pipeline_stages=2)
    result = simulate(piped, step_times(), requests([10], [3]))
    assert_times(result, [1.010], [1.010 + 2 * 1.001])


def test_the_rank_with_the_least_to_do_gets_the_request():
    # Two ranks. The first two requests go to one each, the third to the first rank: it queues there with 4 + 0 against
    # 4 + 0, the lower rank first; all of a rank's prompts share its step.
    ranks = engine(data_parallel=2)
    result = simulate(ranks, step_times(), requests([10, 20, 30], [1, 1, 1]))
    assert_times(result, [1.040, 1.020, 1.040], [1.040, 1.020, 1.040])
    # Later both have one running; the third goes to the first rank, where it waits: 4 + 1 against 1 for the fourth.
    result = simulate(ranks, step_times(), requests([10, 20, 10, 10], [3, 1, 1, 1], [0.0, 0.1, 0.2, 0.3]))
    second = 1.010 + 1.011
    assert_times(result, [1.010, 1.120, second, 1.120 + 1.010], [second + 1.001, 1.120, second, 2.130])


def test_ranks_in_lock_step_wait_for_the_slowest_and_share_the_experts():
    experts, expert_s = line(1e-2)
    steps = step_times(expert_tokens=experts, expert_s=expert_s)
    ranks = engine(data_parallel=2, lock_step=True)
    # Step 1: 10 and 20 tokens: the slower rank's 1.020 and 30 tokens at the experts. Step 2: the first rank decodes 1
    # token, the second passes a dummy one: 1.001 and 2 tokens.
    result = simulate(ranks, steps, requests([10, 20], [2, 1]))
    assert_times(result, [1.320, 1.320], [1.320 + 1.021, 1.320])
    assert result.steps == 2
    # Each for itself: the second rank's step is 1.020 with its own 20 tokens, and the first one's 1.010 with 10.
    free = simulate(engine(data_parallel=2), steps, requests([10, 20], [1, 1]))
    assert_times(free, [1.110, 1.220], [1.110, 1.220])


def test_steps_are_padded_to_the_next_captured_graph():
    padded = step_times(graph_tokens=np.array([1, 2, 4, 8]))
    # 3 tokens of the prompt count as 4; one token is itself; 10 tokens are more than the largest graph.
    assert_times(simulate(engine(), padded, requests([3], [2])), [1.004], [1.004 + 1.001])
    assert_times(simulate(engine(), padded, requests([10], [1])), [1.010], [1.010])


def test_every_part_of_a_step_counts():
    steps = step_times(
        sequence_s=0.1,
        head_s=0.5,
        head_row_s=0.02,
        decode_s=np.array([[0.0, 0.0], [0.0, 1000.0 * 100_000.0]]),
        chunk_s=np.array([[0.0, 0.0], [1000.0, 1000.0 + 100_000.0]]),
        scale=2.0,
    )
    # Chunk of 10 after 0: 10 x 1 s. Decode of 1 sequence after 10: 1 x 10 s.
    first = 2.0 * (1.0 + 0.010 + 0.1 + 0.5 + 0.02 + 10.0)
    second = 2.0 * (1.0 + 0.001 + 0.1 + 0.5 + 0.02 + 10.0)
    assert_times(simulate(engine(), steps, requests([10], [2])), [first], [first + second])


def test_host_memory_gives_back_what_the_cache_had_to_forget():
    # 3 blocks, so each request of 9 tokens evicts the other's. The third repeats the first: two blocks of 0.25 s each
    # come from host memory, then its last token is computed.
    rows, times = [[1, 2], [3, 4], [1, 2]], [0.0, 5.0, 10.0]
    again = requests([9, 9, 9], [1, 1, 1], times, **sharing(rows))
    without = simulate(engine(kv_blocks=3), step_times(), again)
    assert without.cached_tokens.tolist() == [0, 0, 0]
    offloading = engine(kv_blocks=3, offload_blocks=8, offload_block_s=0.25)
    result = simulate(offloading, step_times(), again)
    assert result.cached_tokens.tolist() == [0, 0, 8]
    assert_times(result, [1.009, 6.009, 10.5 + 1.001], [1.009, 6.009, 11.501])
    # With room for three blocks the second request's two pushed out the first block of the first: nothing is left
    # before the hit ends.
    small = replace(offloading, offload_blocks=3)
    assert simulate(small, step_times(), again).cached_tokens.tolist() == [0, 0, 0]


def test_others_go_on_while_blocks_come_back_from_the_host():
    rows, times = [[1, 2], [3, 4], [], [1, 2]], [0.0, 5.0, 9.9, 10.0]
    mixed = requests([9, 9, 5, 9], [1, 1, 5, 1], times, **sharing(rows))
    offloading = engine(kv_blocks=5, offload_blocks=9, offload_block_s=1.0)
    result = simulate(offloading, step_times(), mixed)
    # The third begins at 9.9, in the block of the second's last token, which nobody could hit, and in the one that held
    # the second block of the prefix: steps of 1.005, then 1.001. The fourth is admitted at 10.905; the prefix's first
    # block is in the cache, and its second comes from the host until 11.905. The step that begins at 11.906 computes
    # its last token beside the third's.
    assert result.cached_tokens.tolist() == [0, 0, 0, 8]
    third = 9.9 + np.cumsum([1.005, 1.001, 1.002, 1.001, 1.001])
    assert_times(result, [1.009, 6.009, third[0], third[2]], [1.009, 6.009, third[4], third[2]])
