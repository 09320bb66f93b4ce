import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from metainf import accelerators
from metainf.dtypes import DType
from metainf.efficiencies import GENERIC
from metainf.engine_defaults import effective_settings
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.meta_features.questions import QuestionFeatures
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Predictions, Question, ReplicaSpec
from metainf.settings import EngineSettings, Speculation, SpeculationKind
from metainf.speculation import tokens_per_step
from metainf.workload import (
    BatchLoad,
    ConcurrencyLoad,
    Load,
    RateLoad,
    Repetitiveness,
    SharedPrefix,
    TokenLengths,
    Traffic,
)

ONE = Layout()
PREDICTOR = AnalyticalPredictor()
LLAMA_8B, LLAMA_70B = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"
MEAN, P50, P95, P99 = range(4)
TTFT, TPOT, E2E = range(3)


def spec(
    model: str = LLAMA_8B,
    gpu: str = "H100-SXM-80GB",
    layout: Layout = ONE,
    length: int = 32768,
    **asked: object,
) -> ReplicaSpec:
    architecture, accelerator = known_model(model), accelerators.get(gpu)
    assert architecture is not None
    assert accelerator is not None
    wanted = EngineSettings(max_model_len=length, **asked)  # type: ignore[arg-type]
    resolved = effective_settings(wanted, architecture=architecture, accelerator=accelerator, layout=layout)
    return ReplicaSpec(architecture, accelerator, layout, resolved)


def traffic(load: Load, inputs: float = 1000, outputs: float = 200, **more: object) -> Traffic:
    return Traffic(load, TokenLengths(inputs), TokenLengths(outputs), **more)  # type: ignore[arg-type]


def ask(replica: ReplicaSpec, asked: Traffic, replicas: int = 1) -> Predictions:
    return PREDICTOR.predict([Question(replica, asked, replicas)])


SPECS = [
    spec(),
    spec(LLAMA_70B, layout=Layout(tensor_parallel=4)),
    spec(LLAMA_70B, "L40S-PCIe-48GB", Layout(tensor_parallel=2, pipeline_parallel=2)),
    spec("Qwen/Qwen3-30B-A3B", "H200-SXM-141GB", Layout(data_parallel=2, expert_parallel=True)),
    spec("Qwen/Qwen3-30B-A3B", "H200-SXM-141GB", Layout(data_parallel=8, expert_parallel=True)),
    spec("Qwen/Qwen3-30B-A3B", "L40S-PCIe-48GB", Layout(pipeline_parallel=8)),
    spec("Qwen/Qwen3-0.6B", "B200-SXM-180GB"),
    spec("openai/gpt-oss-120b", "B200-SXM-180GB"),
    spec(max_num_seqs=4),
    spec(speculation=Speculation(SpeculationKind.EAGLE, 3)),
]
specs = st.sampled_from(SPECS)
lengths = st.floats(1, 6000)


@given(
    replica=specs,
    rate=st.floats(0.01, 60),
    factor=st.floats(1.0, 5.0),
    inputs=lengths,
    outputs=lengths,
    tail=st.floats(1.0, 3.0),
    shared=st.none() | st.builds(SharedPrefix, st.integers(1, 6000), st.floats(0.01, 1.0), st.integers(1, 5000)),
    burstiness=st.floats(0.1, 8.0),
)
@hypothesis_settings(max_examples=120, deadline=None)
def test_more_load_is_never_faster(
    replica: ReplicaSpec,
    rate: float,
    factor: float,
    inputs: float,
    outputs: float,
    tail: float,
    shared: SharedPrefix | None,
    burstiness: float,
) -> None:
    wide = TokenLengths(inputs, inputs * tail), TokenLengths(outputs, outputs * tail)
    low, high = (
        ask(replica, Traffic(RateLoad(r), *wide, shared, burstiness=burstiness)) for r in (rate, rate * factor)
    )
    assert (high.latency_s >= low.latency_s * (1 - 1e-6)).all()
    assert high.capacity_requests_per_second[0] == pytest.approx(low.capacity_requests_per_second[0])


@given(replica=specs, rate=st.floats(0.01, 200), inputs=lengths, outputs=lengths)
@hypothesis_settings(max_examples=50, deadline=None)
def test_latency_is_infinite_only_above_the_capacity(
    replica: ReplicaSpec, rate: float, inputs: float, outputs: float
) -> None:
    found = ask(replica, traffic(RateLoad(rate), inputs, outputs))
    fits = rate < found.capacity_requests_per_second[0]
    assert np.isfinite(found.latency_s).all() == fits
    assert (found.utilization[0] < 1) == fits
    assert found.requests_per_second[0] == pytest.approx(min(rate, found.capacity_requests_per_second[0]))


@given(clients=st.integers(1, 3000), more=st.integers(0, 3000), replica=specs)
@hypothesis_settings(max_examples=60, deadline=None)
def test_more_clients_wait_longer_and_get_no_less_done(clients: int, more: int, replica: ReplicaSpec) -> None:
    low, high = (ask(replica, traffic(ConcurrencyLoad(c))) for c in (clients, clients + more))
    assert high.latency_s[0, E2E, MEAN] >= low.latency_s[0, E2E, MEAN] * (1 - 1e-3)
    assert high.requests_per_second[0] >= low.requests_per_second[0] * (1 - 1e-6)
    assert np.isfinite(high.latency_s).all()


@given(replica=specs, faster=st.floats(1.0, 8.0), rate=st.floats(0.01, 5), clients=st.integers(1, 500))
@hypothesis_settings(max_examples=60, deadline=None)
def test_more_bandwidth_is_never_slower(replica: ReplicaSpec, faster: float, rate: float, clients: int) -> None:
    better = replica.accelerator.memory_bandwidth_bytes_per_s * faster
    other = replace(replica, accelerator=replace(replica.accelerator, memory_bandwidth_bytes_per_s=better))
    for load in (RateLoad(rate), ConcurrencyLoad(clients)):
        before, after = ask(replica, traffic(load)), ask(other, traffic(load))
        assert (after.capacity_requests_per_second >= before.capacity_requests_per_second * (1 - 1e-9)).all()
        assert after.latency_s[0, TPOT, MEAN] <= before.latency_s[0, TPOT, MEAN] * (1 + 1e-6)


@given(replica=specs, inputs=st.floats(1, 4000), more=st.floats(0, 4000), rate=st.floats(0.01, 2))
@hypothesis_settings(max_examples=60, deadline=None)
def test_longer_prompts_are_never_answered_sooner(
    replica: ReplicaSpec, inputs: float, more: float, rate: float
) -> None:
    short, long = (ask(replica, traffic(RateLoad(rate), n)) for n in (inputs, inputs + more))
    assert long.latency_s[0, TTFT, MEAN] >= short.latency_s[0, TTFT, MEAN] * (1 - 1e-6)


@given(replica=specs, clients=st.integers(1, 500), z=st.floats(0.01, 3))
@hypothesis_settings(max_examples=30, deadline=None)
def test_intervals_hold_the_median(replica: ReplicaSpec, clients: int, z: float) -> None:
    found = ask(replica, traffic(ConcurrencyLoad(clients)))
    assert (found.latency_at(-z) < found.latency_s).all()
    assert (found.latency_s < found.latency_at(z)).all()
    assert found.output_tokens_per_second_at(-z)[0] < found.output_tokens_per_second[0]


@pytest.mark.parametrize(
    ("gpu", "tensor_parallel", "clients", "ttft_s", "tpot_s"),
    [
        # Source: rows of silicon_sample.csv, aiconfigurator-core 0.12.0, lengths drawn between 0.8 and 1 of 1,024.
        pytest.param("H100-SXM-80GB", 8, 8, 0.076, 0.0094, id="H100, 8 clients"),
        pytest.param("H100-SXM-80GB", 8, 64, 0.185, 0.0155, id="H100, 64 clients"),
        pytest.param("H100-SXM-80GB", 4, 32, 0.175, 0.0165, id="H100, 32 clients on 4"),
    ],
)
def test_what_was_measured_lies_inside_the_interval(
    gpu: str, tensor_parallel: int, clients: int, ttft_s: float, tpot_s: float
) -> None:
    replica = spec(LLAMA_70B, gpu, Layout(tensor_parallel=tensor_parallel), quantization=DType.FP8)
    found = ask(replica, traffic(ConcurrencyLoad(clients), 920, 920))
    low, high = found.latency_at(-1.645)[0, :, MEAN], found.latency_at(1.645)[0, :, MEAN]
    assert low[TTFT] < ttft_s < high[TTFT]
    assert low[TPOT] < tpot_s < high[TPOT]
    assert found.latency_s[0, TPOT, MEAN] == pytest.approx(tpot_s, rel=0.3)


def test_shared_prefixes_save_prompts_where_they_are_cached() -> None:
    shared = SharedPrefix(800, 1.0, 4)
    on, off = spec(), spec(prefix_caching=False)
    asked = traffic(RateLoad(4.0), shared_prefix=shared)
    assert ask(on, asked).latency_s[0, TTFT, MEAN] < 0.8 * ask(off, asked).latency_s[0, TTFT, MEAN]
    assert ask(on, asked).capacity_requests_per_second > 1.3 * ask(off, asked).capacity_requests_per_second
    plain = ask(off, traffic(RateLoad(4.0))).latency_s
    np.testing.assert_array_equal(ask(off, asked).latency_s, plain)


@pytest.mark.parametrize(
    ("few", "many"),
    [
        pytest.param(SharedPrefix(800, 1.0, 4), SharedPrefix(800, 1.0, 100_000), id="more than the cache holds"),
        pytest.param(SharedPrefix(800, 1.0, 4), SharedPrefix(800, 0.2, 4), id="fewer requests that share"),
        pytest.param(SharedPrefix(800, 1.0, 4), SharedPrefix(100, 1.0, 4), id="a shorter prefix"),
    ],
)
def test_prefixes_save_less(few: SharedPrefix, many: SharedPrefix) -> None:
    first, second = (ask(spec(), traffic(RateLoad(4.0), shared_prefix=p)) for p in (few, many))
    assert second.latency_s[0, TTFT, MEAN] > first.latency_s[0, TTFT, MEAN]


def test_a_prefix_shorter_than_a_block_saves_nothing() -> None:
    plain = ask(spec(), traffic(RateLoad(4.0))).latency_s
    short = ask(spec(), traffic(RateLoad(4.0), shared_prefix=SharedPrefix(15))).latency_s
    np.testing.assert_array_equal(plain, short)


def test_requests_that_miss_the_cache_make_the_tail() -> None:
    found = ask(spec(), traffic(RateLoad(0.2), 4000, shared_prefix=SharedPrefix(3900, 0.8)))
    assert found.latency_s[0, TTFT, P95] > 1.5 * found.latency_s[0, TTFT, P50]


def test_one_request_at_a_time_is_slow_together_and_fast_alone() -> None:
    single, default = spec(max_num_seqs=1), spec()
    assert ask(default, traffic(ConcurrencyLoad(16))).requests_per_second > 5 * (
        ask(single, traffic(ConcurrencyLoad(16))).requests_per_second
    )
    alone = [ask(s, traffic(ConcurrencyLoad(1))).latency_s[0, E2E, MEAN] for s in (single, default)]
    assert alone[0] == pytest.approx(alone[1], rel=0.02)


def test_speculation_gains_alone_and_loses_under_load() -> None:
    plain, eagle = spec(), spec(speculation=Speculation(SpeculationKind.EAGLE, 3))
    alone = [ask(s, traffic(ConcurrencyLoad(1))).latency_s[0, TPOT, MEAN] for s in (plain, eagle)]
    assert alone[1] < 0.75 * alone[0]
    most = [ask(s, traffic(ConcurrencyLoad(1000), 200, 400)).requests_per_second[0] for s in (plain, eagle)]
    assert most[1] < most[0]


@pytest.mark.parametrize(
    ("replica", "drafting"),
    [
        pytest.param(spec(*where), spec(*where, speculation=Speculation(SpeculationKind.EAGLE, 3)), id=where[0])
        for where in (
            ("Qwen/Qwen3-8B", "H100-SXM-80GB", ONE),
            (LLAMA_70B, "H100-SXM-80GB", Layout(tensor_parallel=4)),
            ("meta-llama/Llama-3.1-405B-Instruct", "H200-SXM-141GB", Layout(tensor_parallel=8)),
            ("Qwen/Qwen3-30B-A3B", "H200-SXM-141GB", ONE),
        )
    ],
)
def test_a_head_promises_no_gain_far_beyond_its_training(replica: ReplicaSpec, drafting: ReplicaSpec) -> None:
    def tpot_s(asked: ReplicaSpec, inputs: float) -> float:
        return float(ask(asked, traffic(ConcurrencyLoad(1), inputs, 200)).latency_s[0, TPOT, MEAN])

    assert tpot_s(drafting, 1000) < 0.95 * tpot_s(replica, 1000)
    for inputs in (16_384, 20_000, 30_000):
        assert tpot_s(drafting, inputs) >= tpot_s(replica, inputs)


@pytest.mark.parametrize(
    ("requests", "shared", "expected"),
    [
        # Of many requests over D prefixes, m for each, D (1 - exp(-m)) are the first with theirs.
        pytest.param(1000, SharedPrefix(80, 1.0, 1000), np.exp(-1.0), id="as many prefixes as requests"),
        pytest.param(10_000, SharedPrefix(80, 1.0, 1000), 0.9, id="each comes ten times, once as the first"),
        pytest.param(2000, SharedPrefix(80, 0.5, 1000), 0.5 * np.exp(-1.0), id="half of them share"),
        pytest.param(64, SharedPrefix(80, 1.0, 100_000), 0.0, id="hardly any prefix comes twice"),
        pytest.param(1, SharedPrefix(80, 1.0, 1), 0.0, id="a single one"),
        pytest.param(16, SharedPrefix(80, 1.0, 1), 15 / 16, id="all but the first"),
    ],
)
def test_a_batch_meets_each_prefix_for_the_first_time(requests: int, shared: SharedPrefix, expected: float) -> None:
    asked = traffic(BatchLoad(requests, 600.0), shared_prefix=shared)
    (found,) = QuestionFeatures().lanes([Question(spec(), asked)]).hit_ratio
    assert found == pytest.approx(expected, abs=1e-3)


def test_every_replica_of_a_batch_has_a_cache_of_its_own_to_fill() -> None:
    def hits(requests: int, replicas: int, layout: Layout = ONE) -> float:
        asked = traffic(BatchLoad(requests, 600.0), shared_prefix=SharedPrefix(800, 1.0, 50))
        lanes = QuestionFeatures().lanes([Question(spec(layout=layout), asked, replicas)])
        return float(lanes.hit_ratio[lanes.of[0]])

    assert hits(400, 4) == pytest.approx(hits(100, 1))
    assert hits(400, 1, Layout(data_parallel=4)) == pytest.approx(hits(100, 1))
    together = PREDICTOR.predict(
        [
            Question(replica, traffic(BatchLoad(n, 600.0), shared_prefix=SharedPrefix(800, 1.0, 50)), count)
            for replica in (spec(),)
            for n, count in ((400, 1), (400, 4), (100, 1))
        ]
    )
    assert together.makespan_s[1] == pytest.approx(together.makespan_s[2])
    assert together.makespan_s[1] < together.makespan_s[0]


def test_an_api_server_that_streams_at_intervals_lets_a_fast_engine_do_more() -> None:
    asked = traffic(RateLoad(10.0), 100, 200)
    model = "Qwen/Qwen3-0.6B"
    every, tenth = spec(model, "B200-SXM-180GB"), spec(model, "B200-SXM-180GB", stream_interval=10)
    capacity = [float(ask(s, asked).capacity_requests_per_second[0]) for s in (every, tenth)]
    assert capacity[0] == pytest.approx(1 / (200 * GENERIC.frontend_token_s), rel=1e-3)
    assert capacity[1] > 1.4 * capacity[0], "then the engine limits"
    large = [spec(LLAMA_70B, layout=Layout(tensor_parallel=4), stream_interval=n) for n in (1, 10)]
    alike = [float(ask(s, asked).capacity_requests_per_second[0]) for s in large]
    assert alike[0] == alike[1]


def test_each_rank_has_an_api_server_and_stages_share_one() -> None:
    asked = traffic(RateLoad(1.0), 20, 200)

    def most(layout: Layout) -> float:
        return float(ask(spec("Qwen/Qwen3-0.6B", "B200-SXM-180GB", layout), asked).capacity_requests_per_second[0])

    assert most(Layout(data_parallel=4)) == pytest.approx(4 * most(ONE))
    assert most(Layout(pipeline_parallel=4)) == pytest.approx(most(ONE))


def test_ngram_speculation_needs_repetitive_text() -> None:
    ngram = spec(speculation=Speculation(SpeculationKind.NGRAM, 4))
    found = [
        ask(ngram, traffic(ConcurrencyLoad(1), repetitiveness=kind)).latency_s[0, TPOT, MEAN]
        for kind in (Repetitiveness.HIGH, Repetitiveness.MEDIUM, Repetitiveness.LOW)
    ]
    plain = ask(spec(), traffic(ConcurrencyLoad(1))).latency_s[0, TPOT, MEAN]
    assert found[0] < found[1] < found[2]
    assert found[0] < 0.6 * plain
    assert found[2] > 0.95 * plain
    assert tokens_per_step(None, Repetitiveness.HIGH) == 1.0


def test_a_threshold_for_long_prompts_shortens_the_wait_behind_them() -> None:
    mixed = Traffic(RateLoad(8.0), TokenLengths(1500, 5000), TokenLengths(100))
    default, cut = ask(spec(), mixed), ask(spec(long_prefill_token_threshold=512), mixed)
    assert cut.latency_s[0, TTFT, P50] <= default.latency_s[0, TTFT, P50] * 1.3
    assert cut.latency_s[0, TPOT, P99] <= default.latency_s[0, TPOT, P99]


def test_an_fp8_cache_holds_more_requests_and_reads_less() -> None:
    narrow = spec(LLAMA_70B, layout=Layout(tensor_parallel=2), kv_cache_dtype=DType.FP8)
    wide = spec(LLAMA_70B, layout=Layout(tensor_parallel=2))
    asked = traffic(ConcurrencyLoad(256), 3000, 500)
    assert ask(narrow, asked).requests_per_second > 1.2 * ask(wide, asked).requests_per_second


def test_equal_replicas_share_the_traffic() -> None:
    one = ask(spec(), traffic(RateLoad(3.0)))
    four = ask(spec(), traffic(RateLoad(12.0)), replicas=4)
    np.testing.assert_allclose(one.latency_s, four.latency_s, rtol=1e-9)
    assert four.requests_per_second[0] == pytest.approx(12.0)
    assert four.capacity_requests_per_second[0] == pytest.approx(4 * one.capacity_requests_per_second[0])


@pytest.mark.parametrize("replicas", [2, 3, 8])
def test_replicas_without_a_client_do_nothing(replicas: int) -> None:
    alone, many = (ask(spec(), traffic(ConcurrencyLoad(1)), replicas=n) for n in (1, replicas))
    np.testing.assert_allclose(many.latency_s, alone.latency_s, rtol=1e-9)
    assert many.output_tokens_per_second == pytest.approx(alone.output_tokens_per_second)


def test_bursts_wait_longer() -> None:
    calm, bursty = (ask(spec(), traffic(RateLoad(8.0), burstiness=b)) for b in (0.5, 3.0))
    assert bursty.latency_s[0, TTFT, P95] > calm.latency_s[0, TTFT, P95]


def test_prompts_of_a_burst_are_computed_while_its_first_requests_decode() -> None:
    short = {b: ask(spec(), traffic(RateLoad(4.0), 2000, 30, burstiness=b)).latency_s[0] for b in (1.0, 4.0)}
    assert short[4.0][TPOT, MEAN] > 2 * short[1.0][TPOT, MEAN]
    assert short[4.0][TPOT, P95] > short[4.0][TPOT, MEAN] > short[4.0][TPOT, P50]
    long = {b: ask(spec(), traffic(RateLoad(0.4), 200, 3000, burstiness=b)).latency_s[0] for b in (1.0, 4.0)}
    assert long[4.0][TPOT, MEAN] == pytest.approx(long[1.0][TPOT, MEAN], rel=0.1)


def test_a_batch_takes_as_long_as_its_fullest_replica() -> None:
    one, two, uneven = (
        ask(spec(), traffic(BatchLoad(n, 600.0)), replicas=r) for n, r in ((500, 1), (1000, 2), (999, 2))
    )
    assert one.makespan_s[0] == pytest.approx(two.makespan_s[0])
    assert one.makespan_s[0] == pytest.approx(uneven.makespan_s[0])
    assert one.requests_per_second[0] == pytest.approx(500 / one.makespan_s[0])
    assert one.utilization[0] == pytest.approx(one.makespan_s[0] / 600.0)


def test_the_first_of_a_batch_decode_beside_the_prompts_of_the_others() -> None:
    few, many = (ask(spec(), traffic(BatchLoad(n, 600.0), 2000, 50)).latency_s[0] for n in (4, 200))
    assert many[TPOT, MEAN] > 3 * few[TPOT, MEAN]
    assert many[TPOT, P50] < many[TPOT, P95] <= many[TPOT, P99]
    # The prompts of four requests are one step, at whose end each gets its first token.
    assert few[TTFT, P95] == pytest.approx(few[TTFT, P50])


def test_what_does_not_fit_delivers_nothing() -> None:
    found = ask(spec(LLAMA_70B), traffic(RateLoad(0.1)))
    assert np.isinf(found.latency_s).all()
    assert found.capacity_requests_per_second[0] == found.output_tokens_per_second[0] == 0
    assert found.utilization[0] == np.inf


@pytest.mark.parametrize(
    ("replica", "outside"),
    [
        pytest.param(spec(), False, id="a measured generation"),
        pytest.param(spec(gpu="L40S-PCIe-48GB"), True, id="a generation without measurements"),
        pytest.param(spec(gpu="MI300X-OAM-192GB"), True, id="measured with early ports alone"),
        pytest.param(spec("Qwen/Qwen2.5-0.5B-Instruct", "Xeon-Sapphire-Rapids"), True, id="a CPU"),
        pytest.param(spec("Qwen/Qwen3.5-27B"), True, id="recurrent layers"),
    ],
)
def test_says_when_it_does_not_know_and_widens(replica: ReplicaSpec, outside: bool) -> None:
    found = ask(replica, traffic(ConcurrencyLoad(2), 100, 100))
    known = ask(spec(), traffic(ConcurrencyLoad(2), 100, 100))
    assert bool(found.out_of_distribution[0]) == outside
    assert (found.latency_log_sd > known.latency_log_sd).all() == outside


def test_the_digest_changes_with_the_constants() -> None:
    assert AnalyticalPredictor(GENERIC).identity != PREDICTOR.identity


def test_a_thousand_questions_take_milliseconds() -> None:
    replicas = [spec(max_num_batched_tokens=2048 + 64 * n) for n in range(150)]
    asked = traffic(RateLoad(3.0))
    questions = [Question(r, asked, n) for r in replicas for n in range(1, 8)][:1000]
    PREDICTOR.predict(questions)
    fastest = min(_seconds(lambda: PREDICTOR.predict(questions)) for _ in range(5))
    assert fastest < 0.1  # 5 ms where nothing else runs; a fivefold margin and more for a busy machine


def _seconds(work: object) -> float:
    start = time.perf_counter()
    assert callable(work)
    work()
    return time.perf_counter() - start
