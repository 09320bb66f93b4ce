"""A prefix cache as earlier traffic has left it: laws for any engine, and the steady state of long runs."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf.errors import InvalidWorkloadError
from metainf.simulator import EarlierTraffic, EngineModel, KvGroup, Requests, SimulationResult, StepTimes, simulate

HASH = 8
MODEL_LEN = 64
GROUPS = [
    (KvGroup(),),
    (KvGroup(window_tokens=6),),
    (KvGroup(), KvGroup(window_tokens=9), KvGroup(window_tokens=3)),
    (KvGroup(), KvGroup(state=True)),
    (KvGroup(state=True),),
]


def step_times() -> StepTimes:
    points = np.array([0.0, 8.0, 64.0])
    flat = np.zeros((3, 3))
    return StepTimes(points, points * 0.1 + 0.5, points, points, flat, points, points, flat)


@st.composite
def engines(draw: st.DrawFn) -> EngineModel:
    return EngineModel(
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.integers(1, 40)),
        kv_blocks=draw(st.integers(1, 90)),
        block_tokens=draw(st.sampled_from([1, 2, 4, 8, 16])),
        max_model_len=MODEL_LEN,
        chunked_prefill=draw(st.booleans()),
        prefix_caching=draw(st.sampled_from([True, True, False])),
        groups=draw(st.sampled_from(GROUPS)),
        data_parallel=draw(st.sampled_from([1, 1, 2, 3])),
        pipeline_stages=draw(st.sampled_from([1, 2])),
        offload_blocks=draw(st.sampled_from([0, 0, 5, 40])),
        offload_block_s=draw(st.sampled_from([0.0, 0.3])),
        same_step_hits=draw(st.booleans()),
    )


def shared(which: np.ndarray, hashes: int, inputs: np.ndarray, outputs: np.ndarray, **changes: object) -> Requests:
    """Requests of which each begins with the prefix of this number, none where it is negative."""
    rows = [k * hashes + np.arange(hashes) if k >= 0 else np.zeros(0, dtype=np.int64) for k in which]
    plain = Requests(
        arrival_s=np.zeros(len(which)),
        input_tokens=inputs,
        output_tokens=outputs,
        block_hashes=np.concatenate(rows).astype(np.int64),
        block_offsets=np.cumsum([0, *map(len, rows)]),
        hash_block_tokens=HASH,
    )
    return replace(plain, **changes)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Requests, EarlierTraffic]:
    n = draw(st.integers(1, 14))
    hashes, prefixes = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    which = draw(st.lists(st.integers(-1, prefixes - 1), min_size=n, max_size=n))
    inputs = draw(st.lists(st.integers(1, 50), min_size=n, max_size=n))
    outputs = draw(st.lists(st.integers(1, 14), min_size=n, max_size=n))
    requests = shared(
        np.array(which), hashes, np.array(inputs), np.array(outputs), clients=draw(st.sampled_from([0, 1, 3]))
    )
    own_tokens, ratio = draw(st.floats(0.0, 30.0)), draw(st.sampled_from([0.2, 0.7, 1.0]))
    return requests, EarlierTraffic(prefixes, hashes, ratio, own_tokens)


@given(engines(), cases(), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_everyone_is_served_inside_the_cache_and_tokens_are_neither_lost_nor_made(
    engine: EngineModel, case: tuple[Requests, EarlierTraffic], seed: int
) -> None:
    requests, earlier = case
    result = simulate(engine, step_times(), requests, seed=seed, earlier=earlier)
    cold = simulate(engine, step_times(), requests, seed=seed)
    done = ~np.isnan(result.sent_s)
    assert np.array_equal(done, ~np.isnan(cold.sent_s))
    assert np.isfinite(result.last_token_s[done]).all()
    assert 0 <= result.peak_kv_blocks <= engine.kv_blocks
    assert (result.cached_tokens < requests.input_tokens).all()
    assert (result.cached_tokens % engine.block_tokens == 0).all()
    needed = requests.input_tokens + requests.output_tokens - 1 - result.cached_tokens
    if result.preemptions.sum() == 0:
        assert result.computed_tokens == needed[done].sum()


@given(engines(), cases(), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_the_same_question_has_the_same_answer(
    engine: EngineModel, case: tuple[Requests, EarlierTraffic], seed: int
) -> None:
    requests, earlier = case
    first, second = (simulate(engine, step_times(), requests, seed=seed, earlier=earlier) for _ in range(2))
    for item in fields(SimulationResult):
        np.testing.assert_array_equal(getattr(first, item.name), getattr(second, item.name))


@given(engines(), cases())
@settings(max_examples=60, deadline=None)
def test_room_that_nobody_uses_changes_nothing(engine: EngineModel, case: tuple[Requests, EarlierTraffic]) -> None:
    requests, earlier = case
    first, second = (
        simulate(replace(engine, kv_blocks=blocks), step_times(), requests, earlier=earlier)
        for blocks in (20_000, 2_000_000)
    )
    np.testing.assert_array_equal(first.last_token_s, second.last_token_s)
    np.testing.assert_array_equal(first.cached_tokens, second.cached_tokens)


@given(engines(), cases())
@settings(max_examples=60, deadline=None)
def test_with_room_for_all_the_first_request_finds_its_prefix_like_any_other(
    engine: EngineModel, case: tuple[Requests, EarlierTraffic]
) -> None:
    requests, earlier = case
    roomy = replace(engine, kv_blocks=20_000, groups=(KvGroup(), KvGroup(window_tokens=9)), prefix_caching=True)
    found = simulate(roomy, step_times(), requests, earlier=earlier).cached_tokens
    leading = np.diff(requests.block_offsets) * HASH
    hit = np.minimum(leading, requests.input_tokens - 1) // roomy.block_tokens * roomy.block_tokens
    whole = leading < requests.input_tokens  # a window's end is cached at the end of the prefix alone
    np.testing.assert_array_equal(found[whole], hit[whole])


SMALL = EngineModel(4, 64, 100, 8, MODEL_LEN)


@pytest.mark.parametrize(
    ("engine", "first", "own_tokens"),
    [
        pytest.param(replace(SMALL, prefix_caching=False), 0, 10.0, id="no prefix cache"),
        pytest.param(SMALL, -10, 10.0, id="requests that share nothing"),
        pytest.param(SMALL, 3, 10.0, id="requests that share other prefixes"),
        pytest.param(SMALL, 0, 10_000.0, id="a cache that one long answer has overwritten"),
        pytest.param(replace(SMALL, block_tokens=32), 0, 10.0, id="a prefix that is shorter than a block"),
    ],
)
def test_where_nothing_can_be_left_it_is_as_if_nothing_had_been_before(
    engine: EngineModel, first: int, own_tokens: float
) -> None:
    asked = shared(first + np.arange(6) % 3, 3, np.full(6, 40), np.full(6, 4))
    warm = simulate(engine, step_times(), asked, earlier=EarlierTraffic(3, 3, 1.0, own_tokens))
    cold = simulate(engine, step_times(), asked)
    np.testing.assert_array_equal(warm.last_token_s, cold.last_token_s)
    np.testing.assert_array_equal(warm.cached_tokens, cold.cached_tokens)


PREFIXES, LEADING = 100, 20
INPUT, OUTPUT = LEADING * HASH + 24, 16


def run_of(count: int, seed: int, ratio: float, clients: int) -> Requests:
    random = np.random.default_rng(seed)
    which = np.where(random.random(count) < ratio, random.integers(0, PREFIXES, count), -1)
    return shared(which, LEADING, np.full(count, INPUT), np.full(count, OUTPUT), clients=clients)


@pytest.mark.parametrize(
    ("engine", "ratio"),
    [
        pytest.param(EngineModel(8, 512, 1200, HASH, 512), 1.0, id="half of the prefixes fit"),
        pytest.param(EngineModel(8, 512, 400, HASH, 512), 1.0, id="few fit"),
        pytest.param(EngineModel(8, 512, 1500, HASH, 512), 0.4, id="most requests share nothing"),
        pytest.param(EngineModel(8, 512, 4000, HASH, 512), 1.0, id="all fit"),
        pytest.param(
            EngineModel(8, 512, 2000, HASH, 512, groups=(KvGroup(), KvGroup(window_tokens=40))), 1.0, id="with a window"
        ),
        pytest.param(EngineModel(8, 512, 300, HASH, 512, offload_blocks=1200), 1.0, id="most are kept in host memory"),
        pytest.param(EngineModel(8, 512, 1200, HASH, 512, data_parallel=2), 1.0, id="a cache for each of two ranks"),
    ],
)
def test_a_short_run_hits_as_often_as_the_end_of_a_long_one(engine: EngineModel, ratio: float) -> None:
    def cached(count: int, seed: int, earlier: EarlierTraffic | None) -> np.ndarray:
        requests = run_of(count, seed, ratio, engine.data_parallel)
        return simulate(engine, step_times(), requests, seed=seed, earlier=earlier).cached_tokens

    long = cached(4000, 1, None)[1500:].mean()
    earlier = EarlierTraffic(PREFIXES, LEADING, ratio, INPUT + OUTPUT - ratio * LEADING * HASH)
    warm, cold = (np.mean([cached(150, seed, before).mean() for seed in range(8)]) for before in (earlier, None))
    assert warm == pytest.approx(long, abs=0.06 * INPUT)
    assert cold < warm


@pytest.mark.parametrize(
    "earlier",
    [
        pytest.param(EarlierTraffic(0, 3, 1.0, 10.0), id="no prefix"),
        pytest.param(EarlierTraffic(3, 0, 1.0, 10.0), id="prefixes of nothing"),
        pytest.param(EarlierTraffic(3, 3, 0.0, 10.0), id="nobody shares"),
        pytest.param(EarlierTraffic(3, 3, 1.5, 10.0), id="more than all share"),
    ],
)
def test_refuses_earlier_traffic_that_makes_no_sense(earlier: EarlierTraffic) -> None:
    requests = shared(np.zeros(2, dtype=np.int64), 3, np.full(2, 30), np.full(2, 4))
    with pytest.raises(InvalidWorkloadError):
        simulate(EngineModel(4, 64, 100, 8, MODEL_LEN), step_times(), requests, earlier=earlier)
