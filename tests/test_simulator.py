"""Laws of the simulator, for any engine and any traffic."""

from dataclasses import fields, replace

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf.errors import InvalidWorkloadError
from metainf.simulator import EngineModel, HostTimes, KvGroup, Requests, SimulationResult, StepTimes, simulate
from metainf.simulator import engine as simulator_engine
from metainf.simulator.distinct_hashes import distinct_hashes
from metainf.simulator.timing import at_pair, at_point, padded_tokens
from plain_scheduler import PlainScheduler

MODEL_LEN = 64
GROUPS = [
    (KvGroup(),),
    (KvGroup(window_tokens=6),),
    (KvGroup(), KvGroup(window_tokens=9), KvGroup(window_tokens=3)),
    (KvGroup(), KvGroup(state=True)),
    (KvGroup(state=True),),
]


def table_times(**changes: object) -> StepTimes:
    points = np.array([0.0, 8.0, 64.0])
    plain = StepTimes(
        tokens=points,
        token_s=np.array([0.5, 1.0, 3.0]),
        decode_sequences=points,
        decode_context_tokens=points,
        decode_s=0.01 * np.add.outer(points, points),
        chunk_tokens=points,
        chunk_context_tokens=points,
        chunk_s=0.02 * np.multiply.outer(points, 1.0 + points),
        expert_tokens=points,
        expert_s=0.1 * points,
        fixed_s=0.2,
        sequence_s=0.01,
        head_s=0.05,
        head_row_s=0.01,
    )
    return replace(plain, **changes)


@st.composite
def engines(draw: st.DrawFn) -> EngineModel:
    ranks = draw(st.sampled_from([1, 1, 2, 3]))
    return EngineModel(
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.integers(1, 40)),
        kv_blocks=draw(st.integers(1, 60)),
        block_tokens=draw(st.sampled_from([1, 2, 4, 8])),
        max_model_len=MODEL_LEN,
        chunked_prefill=draw(st.booleans()),
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 3, 10])),
        prefix_caching=draw(st.booleans()),
        groups=draw(st.sampled_from(GROUPS)),
        draft_tokens=draw(st.sampled_from([0, 0, 1, 3])),
        acceptance_ratio=draw(st.sampled_from([0.0, 0.6, 1.0])),
        data_parallel=ranks,
        lock_step=draw(st.booleans()),
        pipeline_stages=draw(st.sampled_from([1, 1, 2, 3])),
        asynchronous=draw(st.booleans()),
        offload_blocks=draw(st.sampled_from([0, 0, 5, 40])),
        offload_block_s=draw(st.sampled_from([0.0, 0.3])),
        stream_interval=draw(st.sampled_from([1, 3])),
        same_step_hits=draw(st.booleans()),
    )


@st.composite
def traffic(draw: st.DrawFn, batch: bool = False) -> Requests:
    n = draw(st.integers(1, 14))
    inputs = draw(st.lists(st.integers(1, 50), min_size=n, max_size=n))
    outputs = draw(st.lists(st.integers(1, 14), min_size=n, max_size=n))
    gaps = draw(st.lists(st.floats(0.0, 4.0), min_size=n, max_size=n))
    arrival_s = np.zeros(n) if batch else np.cumsum(gaps)
    # A prompt's blocks are a path from the root of a tree: equal numbers mean equal content up to there.
    paths = draw(st.lists(st.lists(st.integers(0, 1), max_size=6), min_size=n, max_size=n))
    rows = [[int("1" + "".join(map(str, path[: i + 1])), 2) for i in range(len(path))] for path in paths]
    return Requests(
        arrival_s=arrival_s,
        input_tokens=np.array(inputs),
        output_tokens=np.array(outputs),
        block_hashes=np.array([h for row in rows for h in row], dtype=np.int64),
        block_offsets=np.cumsum([0, *map(len, rows)]),
        hash_block_tokens=draw(st.sampled_from([4, 8])),
        clients=0 if batch else draw(st.sampled_from([0, 0, 1, 3])),
    )


hosts = st.sampled_from([HostTimes(), HostTimes(0.3, 0.01, 0.05)])


def served(result: SimulationResult) -> np.ndarray:
    return ~np.isnan(result.sent_s)


@given(engines(), traffic(), hosts, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_everyone_is_served_in_order_and_inside_the_cache(
    engine: EngineModel, requests: Requests, host: HostTimes, seed: int
):
    result = simulate(engine, table_times(), requests, host=host, seed=seed)
    done = served(result)
    too_long = requests.input_tokens + requests.output_tokens > MODEL_LEN
    assert not done[too_long].any()
    assert np.isfinite(result.first_token_s[done]).all() and np.isfinite(result.last_token_s[done]).all()
    assert np.isnan(result.first_token_s[~done]).all() and np.isnan(result.last_token_s[~done]).all()
    least_s = host.request_s + host.request_token_s * requests.input_tokens[done] + 0.25
    assert (result.ttft_s[done] >= least_s).all()
    assert (result.last_token_s[done] >= result.first_token_s[done]).all()
    assert (result.sent_s[done] >= requests.arrival_s[done]).all()
    assert 0 <= result.peak_kv_blocks <= engine.kv_blocks
    assert (result.cached_tokens < requests.input_tokens).all()
    assert result.busy_s <= result.makespan_s + 1e-9


@given(engines(), traffic(), hosts)
@settings(max_examples=200, deadline=None)
def test_tokens_are_neither_lost_nor_made(engine: EngineModel, requests: Requests, host: HostTimes):
    result = simulate(replace(engine, draft_tokens=0), table_times(), requests, host=host)
    done = served(result)
    # The last token of an answer is never computed itself, nor is what came from the cache.
    whole = requests.input_tokens + requests.output_tokens - 1
    needed = whole - result.cached_tokens
    if result.preemptions.sum() == 0:
        assert result.computed_tokens == needed[done].sum()
    else:
        # What was preempted is computed again, all of it at most; its prompt may by then be in the cache.
        least = np.where(result.preemptions == 0, needed, requests.output_tokens)
        most = needed + result.preemptions * whole
        assert least[done].sum() <= result.computed_tokens <= most[done].sum()


@given(engines(), traffic(batch=True))
@settings(max_examples=200, deadline=None)
def test_what_was_computed_before_a_preemption_is_computed_again_to_the_token(engine: EngineModel, requests: Requests):
    engine = replace(
        engine,
        prefix_caching=False,
        groups=(KvGroup(),),
        draft_tokens=0,
        data_parallel=1,
        pipeline_stages=1,
        offload_blocks=0,
    )
    result = simulate(engine, table_times(), requests)
    plain = PlainScheduler(engine, requests).play()
    needed = requests.input_tokens + requests.output_tokens - 1
    assert result.computed_tokens == needed[served(result)].sum() + plain.lost
    assert result.preemptions.tolist() == [life.preemptions for life in plain.lives]
    assert (result.steps, result.peak_kv_blocks) == (plain.steps, plain.peak)


@given(engines(), traffic(), hosts, st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_the_same_question_has_the_same_answer(engine: EngineModel, requests: Requests, host: HostTimes, seed: int):
    first, second = (simulate(engine, table_times(), requests, host=host, seed=seed) for _ in range(2))
    for item in fields(SimulationResult):
        np.testing.assert_array_equal(getattr(first, item.name), getattr(second, item.name))


def assert_short_cuts_change_nothing(engine: EngineModel, requests: Requests, host: HostTimes, seed: int = 0) -> None:
    fast = simulate(engine, table_times(), requests, host=host, seed=seed)
    limits = simulator_engine._limits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            simulator_engine,
            "_limits",
            lambda *of: limits(*of)._replace(counting=False, coasting=False, striding=False, plain=False),
        )
        slow = simulate(engine, table_times(), requests, host=host, seed=seed)
    for item in fields(SimulationResult):
        np.testing.assert_array_equal(getattr(fast, item.name), getattr(slow, item.name))


@given(engines(), traffic(), hosts, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_short_cuts_change_nothing(engine: EngineModel, requests: Requests, host: HostTimes, seed: int):
    assert_short_cuts_change_nothing(replace(engine, draft_tokens=0), requests, host, seed)


@given(engines(), traffic(), hosts, st.sampled_from([2, 3]), st.integers(4, 16))
@settings(max_examples=200, deadline=None)
def test_short_cuts_change_nothing_where_batches_under_way_run_out_of_blocks(
    engine: EngineModel, requests: Requests, host: HostTimes, stages: int, blocks: int
):
    crowded = replace(engine, draft_tokens=0, offload_blocks=0, pipeline_stages=stages, block_tokens=4)
    assert_short_cuts_change_nothing(replace(crowded, kv_blocks=blocks, max_num_seqs=6), requests, host)


@given(engines(), traffic(), hosts, st.sampled_from([2, 3]))
@settings(max_examples=100, deadline=None)
def test_short_cuts_change_nothing_where_ranks_wait_for_each_other(
    engine: EngineModel, requests: Requests, host: HostTimes, ranks: int
):
    together = replace(engine, draft_tokens=0, offload_blocks=0, pipeline_stages=1, stream_interval=1, block_tokens=8)
    together = replace(together, data_parallel=ranks, lock_step=True, kv_blocks=60, max_num_seqs=6)
    assert_short_cuts_change_nothing(together, replace(requests, output_tokens=requests.output_tokens + 12), host)


def test_short_cuts_change_nothing_where_a_prompt_preempts_the_only_answer_and_messages_wait_for_others():
    engine = EngineModel(2, 10, 6, 4, MODEL_LEN, long_prefill_token_threshold=3, prefix_caching=False)
    requests = Requests(np.zeros(2), input_tokens=np.array([18, 1]), output_tokens=np.array([2, 14]))
    for asynchronous in (True, False):
        waiting = replace(engine, asynchronous=asynchronous, stream_interval=3)
        assert_short_cuts_change_nothing(waiting, requests, HostTimes())


@given(engines(), traffic(), hosts, st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_who_waits_for_blocks_is_remembered_without_changing_anything(
    engine: EngineModel, requests: Requests, host: HostTimes, seed: int
):
    engine = replace(engine, prefix_caching=True, offload_blocks=0)
    fast = simulate(engine, table_times(), requests, host=host, seed=seed)
    limits = simulator_engine._limits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator_engine, "_limits", lambda *of: limits(*of)._replace(remembering=False))
        slow = simulate(engine, table_times(), requests, host=host, seed=seed)
    for item in fields(SimulationResult):
        np.testing.assert_array_equal(getattr(fast, item.name), getattr(slow, item.name))


@given(
    st.lists(st.tuples(st.integers(-(2**61), 2**61) | st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=12)
)
def test_distinct_hashes_are_those_that_numpy_finds(rows: list[tuple[int, int]]):
    hashes = np.concatenate([np.arange(first, first + length) for first, length in rows])
    distinct, places = distinct_hashes(hashes)
    expected, expected_places = np.unique(hashes, return_inverse=True)
    np.testing.assert_array_equal(distinct, expected)
    np.testing.assert_array_equal(places, expected_places)


@given(traffic(batch=True), st.integers(0, 2**40), st.sampled_from([0.3, 0.7]))
@settings(max_examples=50, deadline=None)
def test_drafts_are_right_or_wrong_whoever_else_is_there(requests: Requests, seed: int, acceptance: float):
    roomy = EngineModel(8, 1000, 1000, 8, MODEL_LEN, draft_tokens=3, acceptance_ratio=acceptance, prefix_caching=False)
    narrow = replace(roomy, max_num_seqs=1)
    together, apart = (simulate(engine, table_times(), requests, seed=seed) for engine in (roomy, narrow))
    assert together.computed_tokens == apart.computed_tokens


@given(engines(), traffic(batch=True), st.data())
@settings(max_examples=100, deadline=None)
def test_faster_steps_never_make_a_batch_slower(engine: EngineModel, requests: Requests, data: st.DataObject):
    steps = table_times()
    names = ("token_s", "decode_s", "chunk_s", "expert_s", "fixed_s", "sequence_s", "head_s", "head_row_s")
    factors = {name: data.draw(st.floats(0.3, 1.0), label=name) for name in names}
    faster = replace(steps, **{name: getattr(steps, name) * factor for name, factor in factors.items()})
    slow, fast = simulate(engine, steps, requests), simulate(engine, faster, requests)
    if slow.preemptions.sum() + fast.preemptions.sum() == 0:
        assert fast.makespan_s <= slow.makespan_s * 1.01


@given(st.integers(1, 60), st.floats(0.1, 1.0), st.sampled_from(["token_s", "chunk_s", "expert_s", "fixed_s"]))
@settings(deadline=None)
def test_a_step_is_never_slower_with_a_faster_part(tokens: int, factor: float, part: str):
    steps = table_times()
    faster = replace(steps, **{part: getattr(steps, part) * factor})
    engine = EngineModel(1, 64, 1000, 8, MODEL_LEN)
    one = Requests(np.zeros(1), np.array([tokens]), np.array([1]))
    assert simulate(engine, faster, one).makespan_s <= simulate(engine, steps, one).makespan_s


@given(engines(), traffic(), hosts)
@settings(max_examples=60, deadline=None)
def test_room_that_nobody_uses_changes_nothing(engine: EngineModel, requests: Requests, host: HostTimes):
    roomy = replace(engine, kv_blocks=10_000)
    larger = replace(roomy, kv_blocks=1_000_000)
    first, second = (simulate(e, table_times(), requests, host=host) for e in (roomy, larger))
    np.testing.assert_array_equal(first.last_token_s, second.last_token_s)
    assert first.preemptions.sum() == 0


def test_a_million_blocks_and_long_context_cost_no_memory_that_is_not_used():
    engine = EngineModel(1024, 8192, 10**9, 16, 10**6)
    result = simulate(engine, table_times(), Requests(np.zeros(2), np.full(2, 5000), np.full(2, 3)))
    assert result.steps >= 3


def test_an_hour_without_requests_is_passed_over():
    engine = EngineModel(4, 64, 100, 8, MODEL_LEN)
    result = simulate(engine, table_times(), Requests(np.array([0.0, 3600.0]), np.full(2, 8), np.full(2, 1)))
    assert result.steps == 2
    assert result.last_token_s[1] > 3600.0


def test_no_requests_give_an_empty_result():
    empty = Requests(np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    result = simulate(EngineModel(4, 64, 100, 8, MODEL_LEN), table_times(), empty)
    assert (result.steps, result.makespan_s, len(result.sent_s)) == (0, 0.0, 0)


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param(Requests(np.zeros(1), np.array([0]), np.array([1])), id="no input"),
        pytest.param(Requests(np.zeros(1), np.array([1]), np.array([0])), id="no output"),
        pytest.param(Requests(np.zeros(2), np.array([1]), np.array([1])), id="unequal lengths"),
        pytest.param(
            Requests(np.zeros(1), np.array([9]), np.array([1]), np.array([1]), np.array([0, 1]), 3), id="3 and 8 tokens"
        ),
        pytest.param(Requests(np.zeros(1), np.array([9]), np.array([1]), np.array([1])), id="hashes of nobody"),
    ],
)
def test_refuses_requests_that_make_no_sense(requests: Requests):
    with pytest.raises(InvalidWorkloadError):
        simulate(EngineModel(4, 64, 100, 8, MODEL_LEN), table_times(), requests)


@numba.njit
def point(points, values, value):
    return at_point(points, values, value)


@numba.njit
def pair(rows, columns, values, row, column):
    return at_pair(rows, columns, values, row, column)


@numba.njit
def padded(graph_tokens, tokens):
    return padded_tokens(graph_tokens, tokens)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"max_num_seqs": 0}, id="no sequence"),
        pytest.param({"max_num_batched_tokens": 0}, id="no token"),
        pytest.param({"pipeline_stages": 0}, id="no stage"),
        pytest.param({"groups": ()}, id="no group"),
    ],
)
def test_refuses_an_engine_that_could_do_nothing(change: dict[str, object]):
    one = Requests(np.zeros(1), np.array([1]), np.array([1]))
    with pytest.raises(InvalidWorkloadError):
        simulate(replace(EngineModel(4, 64, 100, 8, MODEL_LEN), **change), table_times(), one)


tables = st.lists(st.integers(0, 500), min_size=2, max_size=9, unique=True).map(sorted)


@given(tables, st.integers(0, 2**32 - 1), st.floats(-10.0, 500.0))
@settings(deadline=None)
def test_interpolates_as_numpy_does(points: list[int], seed: int, value: float):
    at = np.array(points, dtype=np.float64)
    values = np.random.default_rng(seed).random(len(points))
    inside = min(value, at[-1])
    assert point(at, values, inside) == pytest.approx(np.interp(inside, at, values))
    beyond = at[-1] + 7.0
    slope = (values[-1] - values[-2]) / (at[-1] - at[-2])
    assert point(at, values, beyond) == pytest.approx(values[-1] + 7.0 * slope)


@given(tables, tables, st.integers(0, 2**32 - 1), st.floats(0.0, 500.0), st.floats(0.0, 500.0))
@settings(deadline=None)
def test_interpolates_between_rows_as_between_columns(
    rows: list[int], columns: list[int], seed: int, row: float, column: float
):
    row_at, column_at = np.array(rows, dtype=np.float64), np.array(columns, dtype=np.float64)
    values = np.random.default_rng(seed).random((len(rows), len(columns)))
    row, column = min(row, row_at[-1]), min(column, column_at[-1])
    across = np.array([np.interp(column, column_at, line) for line in values])
    assert pair(row_at, column_at, values, row, column) == pytest.approx(np.interp(row, row_at, across))


@pytest.mark.parametrize(("tokens", "graph"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 9)])
def test_pads_to_the_next_graph_and_not_beyond_the_last(tokens: int, graph: int):
    assert padded(np.array([1, 2, 4, 8]), tokens) == graph
