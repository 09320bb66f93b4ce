from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from metainf import accelerators
from metainf.efficiencies import GENERIC
from metainf.engine_defaults import effective_settings
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.predictors.contract import ReplicaSpec
from metainf.roofline import calibrated, step_time_s, step_work
from metainf.settings import EngineSettings, PerformanceMode, Speculation, SpeculationKind
from metainf.simulator.contract import StepTimes
from metainf.speculation import draft_cost
from metainf.step_times.graphs import captured_tokens
from metainf.step_times.lookup import expert_s, padded, step_s, token_s
from metainf.step_times.roofline import AS_KNOWN, CostFactors, host_times, roofline_parts, roofline_step_times

ONE, DEFAULTS = Layout(), EngineSettings(max_model_len=16384)
LLAMA, MOE, WINDOWS, LATENT = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen3-30B-A3B",
    "google/gemma-3-12b-it",
    "deepseek-ai/DeepSeek-V3",
)


def replica(
    model: str = LLAMA, gpu: str = "H100-SXM-80GB", layout: Layout = ONE, asked: EngineSettings = DEFAULTS
) -> ReplicaSpec:
    architecture, accelerator = known_model(model), accelerators.get(gpu)
    assert architecture is not None
    assert accelerator is not None
    resolved = effective_settings(asked, architecture=architecture, accelerator=accelerator, layout=layout)
    return ReplicaSpec(architecture, accelerator, layout, resolved)


def unpadded(times: StepTimes) -> StepTimes:
    return replace(times, graph_tokens=np.zeros(0, dtype=np.int64))


REPLICAS = [
    replica(),
    replica(layout=Layout(tensor_parallel=2)),
    replica(MOE),
    replica(MOE, layout=Layout(data_parallel=4, expert_parallel=True)),
    replica("openai/gpt-oss-120b", "MI300X-OAM-192GB"),
    replica(LATENT, "H200-SXM-141GB", Layout(tensor_parallel=8)),
    replica("Qwen/Qwen2.5-0.5B-Instruct", "Xeon-Sapphire-Rapids"),
]
SPECS = st.sampled_from([(spec, unpadded(roofline_step_times(spec, GENERIC))) for spec in REPLICAS])
ALL_SPECS = st.sampled_from([roofline_step_times(spec, GENERIC) for spec in [*REPLICAS, replica(WINDOWS)]])
SEQUENCES, CONTEXT, CHUNK = st.integers(0, 1024), st.integers(0, 120_000), st.integers(0, 16384)


@given(case=SPECS, sequences=SEQUENCES, context=CONTEXT, chunk=CHUNK, before=CONTEXT)
@hypothesis_settings(max_examples=300, deadline=None)
def test_tables_are_within_two_percent_of_the_formula(
    case: tuple[ReplicaSpec, StepTimes], sequences: int, context: int, chunk: int, before: int
) -> None:
    spec, times = case
    if sequences + chunk == 0:
        return
    model = calibrated(step_work(spec), GENERIC)
    attended = before + (chunk + 1) / 2
    if model.prompt_pair_window_s > 0 and before < model.window_tokens:
        before, attended = before + 128, before + 128 + (chunk + 1) / 2  # the formula takes the minimum of means
    direct = float(step_time_s(model, sequences, context, chunk, attended))
    lanes = spec.layout.data_parallel
    found = float(step_s(times, sequences, context, chunk, before, all_tokens=lanes * (sequences + chunk)))
    if chunk:
        found -= times.sequence_s  # the formula has no host work for prompts
    if not spec.settings.asynchronous_scheduling:
        direct += GENERIC.host_s + sequences * GENERIC.sequence_host_s
    assert found == pytest.approx(direct, rel=0.02)


@given(
    times=ALL_SPECS,
    load=st.tuples(SEQUENCES, CONTEXT, CHUNK, CONTEXT),
    more=st.integers(1, 2000),
    which=st.integers(0, 3),
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_a_step_never_gets_shorter_by_more_work(
    times: StepTimes, load: tuple[int, int, int, int], more: int, which: int
) -> None:
    heavier = [value + more * (place == which) for place, value in enumerate(load)]
    assert float(step_s(times, *heavier)) >= float(step_s(times, *load)) * (1 - 1e-12)


def with_bandwidth(spec: ReplicaSpec, factor: float) -> ReplicaSpec:
    """The same replica on accelerators whose memory is so many times as fast."""
    bytes_per_s = factor * spec.accelerator.memory_bandwidth_bytes_per_s
    return replace(spec, accelerator=replace(spec.accelerator, memory_bandwidth_bytes_per_s=bytes_per_s))


@given(
    spec=st.sampled_from([*REPLICAS, replica(WINDOWS)]),
    factor=st.floats(1.0, 8.0),
    load=st.tuples(SEQUENCES, CONTEXT, CHUNK, CONTEXT),
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_a_step_is_never_slower_with_more_memory_bandwidth(
    spec: ReplicaSpec, factor: float, load: tuple[int, int, int, int]
) -> None:
    slow, fast = (roofline_step_times(each, GENERIC) for each in (spec, with_bandwidth(spec, factor)))
    assert float(step_s(fast, *load)) <= float(step_s(slow, *load)) * (1 + 1e-9)


@pytest.mark.parametrize("spec", [*REPLICAS, replica(WINDOWS)], ids=lambda s: f"{s.architecture.name} {s.layout.name}")
def test_decoding_alone_is_faster_with_more_memory_bandwidth_and_never_by_more_than_that(spec: ReplicaSpec) -> None:
    slow, fast = (
        float(step_s(roofline_step_times(each, GENERIC), 1.0, 1000.0)) for each in (spec, with_bandwidth(spec, 2.0))
    )
    assert slow / 2 < fast < slow


@pytest.mark.parametrize("spec", [*REPLICAS, replica(WINDOWS)], ids=lambda s: f"{s.architecture.name} {s.layout.name}")
def test_points_rise_strictly_and_times_never_fall(spec: ReplicaSpec) -> None:
    times = roofline_step_times(spec, GENERIC)
    for points in (
        times.tokens,
        times.decode_sequences,
        times.decode_context_tokens,
        times.chunk_tokens,
        times.chunk_context_tokens,
        times.expert_tokens,
    ):
        assert np.all(np.diff(points) > 0)
    for values in (times.token_s, times.decode_s, times.chunk_s, times.expert_s):
        assert all(np.all(np.diff(values, axis=axis) >= 0) for axis in range(values.ndim))


def test_a_window_bounds_each_token_of_a_chunk_and_not_their_mean() -> None:
    parts = roofline_parts(replica("openai/gpt-oss-120b"), GENERIC)
    m = parts.model
    before, new = 100, 200
    seen = [min(before + i, 128) for i in range(1, new + 1)]
    full = sum(before + i for i in range(1, new + 1))
    expected = m.prompt_pair_s * full + m.prompt_pair_window_s * sum(seen)
    assert float(parts.chunk_s(np.array(200.0), np.array(100.0))) == pytest.approx(expected, rel=1e-9)


def test_dense_models_have_no_expert_time_and_mixtures_read_more_experts_for_more_tokens() -> None:
    assert not roofline_step_times(replica(), GENERIC).expert_s.any()
    times = roofline_step_times(replica(MOE), GENERIC)
    few, many = expert_s(times, np.array([1.0, 64.0]))
    assert many > 5 * few


def test_host_work_is_apart_from_what_runs_on_the_device() -> None:
    spec = replica()
    times = roofline_step_times(spec, GENERIC)
    assert times.fixed_s == pytest.approx(GENERIC.host_s)
    assert float(token_s(times, 0.0)) > 32 * GENERIC.layer_s
    found = host_times(GENERIC)
    assert (found.request_s, found.request_token_s, found.frontend_token_s) == (
        GENERIC.request_s,
        GENERIC.request_token_s,
        GENERIC.frontend_token_s,
    )


@pytest.mark.parametrize(
    ("asked", "gpu", "expected"),
    [
        pytest.param(EngineSettings(), "H100-SXM-80GB", [1, 2, 4, 8, 16], id="default -> 1, 2, 4, then every 8"),
        pytest.param(EngineSettings(max_num_seqs=2), "H100-SXM-80GB", [1, 2, 4], id="few sequences -> twice as many"),
        pytest.param(
            EngineSettings(performance_mode=PerformanceMode.INTERACTIVITY),
            "H100-SXM-80GB",
            [1, 2, 3, 4, 5],
            id="interactivity -> every size at first",
        ),
        pytest.param(EngineSettings(), "Xeon-Sapphire-Rapids", [], id="CPU -> no graphs"),
    ],
)
def test_captured_sizes(asked: EngineSettings, gpu: str, expected: list[int]) -> None:
    sizes = captured_tokens(replica("Qwen/Qwen2.5-0.5B-Instruct", gpu, asked=asked))
    assert sizes[: len(expected)].tolist() == expected
    assert len(sizes) == 0 or sizes[-1] <= 512


def test_a_step_pays_for_the_graph_it_is_padded_to() -> None:
    times = roofline_step_times(replica(), GENERIC)
    assert padded(times, np.array([1.0, 3.0, 9.0, 512.0, 513.0])).tolist() == [1, 4, 16, 512, 513]


def test_costs_of_methods_can_be_other_than_known() -> None:
    eagle = replica(asked=replace(DEFAULTS, speculation=Speculation(SpeculationKind.EAGLE, 3)))
    plain, known, dear = (
        float(step_s(roofline_step_times(spec, GENERIC, factors), 8.0, 1000.0))
        for spec, factors in ((replica(), AS_KNOWN), (eagle, AS_KNOWN), (eagle, CostFactors(draft=2.0)))
    )
    assert dear - plain == pytest.approx(2.0 * (known - plain))


def test_fewer_messages_change_no_step() -> None:
    seldom = replica(asked=replace(DEFAULTS, stream_interval=1000))
    assert step_s(roofline_step_times(seldom, GENERIC), 8.0, 1000.0) == step_s(
        roofline_step_times(replica(), GENERIC), 8.0, 1000.0
    )


def test_interactivity_changes_small_steps_alone() -> None:
    plain, fine = (
        roofline_step_times(replica(asked=asked), GENERIC)
        for asked in (DEFAULTS, replace(DEFAULTS, performance_mode=PerformanceMode.INTERACTIVITY))
    )
    assert float(step_s(fine, 8.0, 1000.0)) < float(step_s(plain, 8.0, 1000.0))
    assert float(step_s(fine, 64.0, 1000.0)) == float(step_s(plain, 64.0, 1000.0))


def test_a_drafter_passes_over_a_prompt_once_and_not_once_for_each_draft() -> None:
    plain, eagle = (
        roofline_step_times(replica(asked=replace(DEFAULTS, speculation=drafts)), GENERIC)
        for drafts in (None, Speculation(SpeculationKind.EAGLE, 3))
    )
    prompt = {"chunk_tokens": 4096.0, "sequences": 0.0, "context_tokens": 0.0}
    # One layer of 32 over all of the prompt, and three times the head for its last token.
    assert 1.02 < float(step_s(eagle, **prompt) / step_s(plain, **prompt)) < 1.08
    # Memory-bound decoding reads a layer and the head for each draft. Source: 25 % for two drafts and 41 % for four on
    # one H100, see `metainf.step_times.ratios`.
    assert 1.25 < float(step_s(eagle, 1.0, 1000.0, tokens_per_sequence=4.0) / step_s(plain, 1.0, 1000.0)) < 1.45


def test_matching_ngrams_costs_a_launch_and_on_a_cpu_time_for_each_sequence() -> None:
    ngram = Speculation(SpeculationKind.NGRAM, 4)
    architecture = replica().architecture
    assert draft_cost(ngram, architecture, on_cpu=False).sequence_s == 0.0
    assert draft_cost(ngram, architecture, on_cpu=True).sequence_s > 0.0


def test_drafting_is_paid_in_every_step() -> None:
    plain = replica()
    eagle = replica(asked=replace(DEFAULTS, speculation=Speculation(SpeculationKind.EAGLE, 3)))
    slow = float(step_s(roofline_step_times(eagle, GENERIC), 8.0, 1000.0, tokens_per_sequence=4.0))
    assert slow > 1.05 * float(step_s(roofline_step_times(plain, GENERIC), 8.0, 1000.0))
