import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from metainf import accelerators
from metainf.dtypes import DType
from metainf.efficiencies import GENERIC, Efficiency, efficiency_of
from metainf.engine_defaults import effective_settings
from metainf.errors import InvalidWorkloadError
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.predictors.contract import ReplicaSpec
from metainf.roofline import StepModel, calibrated, mapped, step_time_s, step_values, step_work
from metainf.settings import EngineSettings

ONE, DEFAULTS = Layout(), EngineSettings(max_model_len=8192)
H100_BANDWIDTH, H100_BF16, H100_FP8 = 3352e9, 989.4e12, 1978.9e12
PERFECT = Efficiency(
    **{f.name: 1.0 for f in fields(Efficiency) if not f.name.endswith("_s")},
    **{f.name: 0.0 for f in fields(Efficiency) if f.name.endswith("_s")},
)
"""A machine that reaches its datasheet and costs nothing besides."""


def replica(
    model: str = "meta-llama/Llama-3.1-8B-Instruct",
    gpu: str = "H100-SXM-80GB",
    layout: Layout = ONE,
    asked: EngineSettings = DEFAULTS,
) -> ReplicaSpec:
    architecture, accelerator = known_model(model), accelerators.get(gpu)
    assert architecture is not None
    assert accelerator is not None
    resolved = effective_settings(asked, architecture=architecture, accelerator=accelerator, layout=layout)
    return ReplicaSpec(architecture, accelerator, layout, resolved)


def perfect(spec: ReplicaSpec) -> StepModel:
    return replace(calibrated(step_work(spec), replace(PERFECT, activation_passes=1e-12)), overlap=0.0)


def test_decoding_one_sequence_reads_the_weights_once_and_its_cache() -> None:
    # 32 layers: 2 x (4096^2 + 4096 x 1024) + 3 x 4096 x 14336 entries; head 128256 x 4096; 2 bytes; 128 KiB a token.
    layers = 32 * (2 * (4096 * 4096 + 4096 * 1024) + 3 * 4096 * 14336)
    head = 128256 * 4096
    expected = (2 * layers + 2 * head + 1000 * 131072) / H100_BANDWIDTH + 2 * head / H100_BF16
    assert float(step_time_s(perfect(replica()), 1.0, 1000.0)) == pytest.approx(expected, rel=1e-3)


def test_a_large_prompt_is_bound_by_arithmetic() -> None:
    layers = 32 * (2 * (4096 * 4096 + 4096 * 1024) + 3 * 4096 * 14336)
    head_read = 2 * 128256 * 4096 / H100_BANDWIDTH
    pairs = 4 * 32 * 128 * 32 * 8192 * 4096
    expected = (2 * 8192 * layers + pairs) / H100_BF16 + head_read
    found = float(step_time_s(perfect(replica()), 0.0, 0.0, 8192.0, 4096.0))
    assert found == pytest.approx(expected, rel=2e-3)


def test_fp8_weights_halve_bytes_and_double_the_peak_where_the_silicon_has_it() -> None:
    plain = step_work(replica())
    fast = step_work(replica(asked=EngineSettings(max_model_len=8192, quantization=DType.FP8)))
    assert fast.dense_loaded_read_s == pytest.approx(plain.dense_read_s / 2)
    assert fast.dense_loaded_token_s == pytest.approx(plain.dense_token_s * H100_BF16 / H100_FP8)
    assert fast.dense_read_s == fast.dense_token_s == fast.dense_narrow_token_s == 0


def test_what_is_narrowed_while_loading_is_slower_than_what_the_checkpoint_has_narrow() -> None:
    asked = EngineSettings(max_model_len=8192, quantization=DType.FP8)
    work, spent = step_work(replica(asked=asked)), replace(PERFECT, loaded_ratio=0.8)
    assert calibrated(work, spent).dense_read_s == pytest.approx(work.dense_loaded_read_s / 0.8)
    assert calibrated(work, spent).dense_token_s == pytest.approx(work.dense_loaded_token_s / 0.8)


def test_a_cache_of_8_bits_halves_what_is_read_and_reaches_less_of_the_bandwidth() -> None:
    plain = step_work(replica())
    narrow = step_work(replica(asked=EngineSettings(max_model_len=8192, kv_cache_dtype=DType.FP8)))
    assert narrow.cache_read_s == 0
    assert narrow.narrow_cache_read_s == pytest.approx(plain.cache_read_s / 2)
    spent = calibrated(narrow, replace(PERFECT, narrow_cache_ratio=0.8))
    assert spent.cache_read_s == pytest.approx(narrow.narrow_cache_read_s / 0.8)


def test_fp8_weights_are_widened_where_the_silicon_has_no_fp8() -> None:
    plain = step_work(replica(gpu="A100-SXM-80GB"))
    asked = EngineSettings(max_model_len=8192, quantization=DType.FP8)
    narrow = step_work(replica(gpu="A100-SXM-80GB", asked=asked))
    assert narrow.dense_read_s == pytest.approx(plain.dense_read_s / 2)
    assert narrow.dense_token_s == pytest.approx(plain.dense_token_s)
    assert narrow.dense_narrow_token_s == narrow.dense_loaded_token_s == narrow.dense_loaded_read_s == 0


def test_a_batch_reads_the_experts_that_its_tokens_choose() -> None:
    # Qwen3-30B-A3B: 8 of 128 experts per token.
    work = step_work(replica("Qwen/Qwen3-30B-A3B"))
    model = perfect(replica("Qwen/Qwen3-30B-A3B"))
    rest = replace(model, expert_read_s=0.0)  # what is left of the experts is their arithmetic, which reading hides
    one, many = (float(step_time_s(model, n, 0.0)) - float(step_time_s(rest, n, 0.0)) for n in (1.0, 64.0))
    assert one == pytest.approx(work.expert_read_s * 8 / 128 - model.expert_token_s, rel=1e-6)
    assert many == pytest.approx(work.expert_read_s * (1 - (1 - 8 / 128) ** 64) - 64 * model.expert_token_s, rel=1e-6)


def test_windows_bound_what_a_step_reads() -> None:
    model = perfect(replica("openai/gpt-oss-120b"))
    assert model.window_tokens == 128
    short, long, longer = (float(step_time_s(model, 1.0, c)) for c in (128.0, 1128.0, 2128.0))
    assert long - short == pytest.approx(longer - long)
    assert (long - short) / 1000 == pytest.approx(18 * 2 * 8 * 64 * 2 / H100_BANDWIDTH)  # every other of 36 layers


def test_tensor_parallelism_divides_reading_and_adds_two_collectives_a_layer() -> None:
    one, four = step_work(replica()), step_work(replica(layout=Layout(tensor_parallel=4)))
    assert four.dense_read_s == pytest.approx(one.dense_read_s / 4, rel=1e-3)
    assert four.collectives == 2 * 32 * math.log2(4)
    assert four.link_token_s == pytest.approx(64 * 2 * 3 / 4 * 4096 * 2 / 450e9)
    assert one.collectives == one.link_token_s == 0


def test_pipeline_stages_add_hops_and_keep_the_work_of_a_token() -> None:
    one, two = step_work(replica()), step_work(replica(layout=Layout(pipeline_parallel=2)))
    assert two.dense_read_s == one.dense_read_s
    assert two.hops == 1


def test_data_parallel_lanes_share_the_experts() -> None:
    one = step_work(replica("Qwen/Qwen3-30B-A3B"))
    two = step_work(replica("Qwen/Qwen3-30B-A3B", layout=Layout(data_parallel=2, expert_parallel=True)))
    assert two.expert_read_s == pytest.approx(one.expert_read_s / 2)
    assert two.expert_lanes == 2
    assert two.dense_read_s == one.dense_read_s


@pytest.mark.parametrize(
    ("cores", "computing"),
    [
        pytest.param(112.0, 55.0, id="all of them: one is the server's"),
        pytest.param(56.0, 27.0, id="half of them"),
        pytest.param(4.0, 1.0, id="two: one computes"),
        pytest.param(2.0, 1.0, id="one does both"),
        pytest.param(1.0, 0.5, id="half of one"),
    ],
)
def test_a_share_of_a_cpu_reads_with_its_cores_and_computes_with_all_but_one(cores: float, computing: float) -> None:
    spec = replica("Qwen/Qwen2.5-0.5B-Instruct", "Xeon-Sapphire-Rapids")
    assert spec.accelerator.cpu is not None
    assert (spec.accelerator.cpu.physical_cores, spec.accelerator.cpu.threads_per_core) == (56.0, 2)
    whole, share = step_work(spec), step_work(replace(spec, cpu_cores=cores))
    assert share.dense_read_s == pytest.approx(112.0 / cores * whole.dense_read_s)
    assert share.dense_token_s == pytest.approx(56.0 / computing * whole.dense_token_s)


def test_a_format_that_the_silicon_cannot_widen_is_refused_by_name() -> None:
    spec = replica()
    bare = replace(spec.accelerator, flops=type(spec.accelerator.flops)({}))
    with pytest.raises(InvalidWorkloadError, match="H100-SXM-80GB has no known speed for bf16"):
        step_work(replace(spec, accelerator=bare))


def test_models_side_by_side_give_what_single_ones_give() -> None:
    specs = [replica(), replica("openai/gpt-oss-120b"), replica(layout=Layout(tensor_parallel=2))]
    models = [calibrated(step_work(s), GENERIC) for s in specs]
    side_by_side = StepModel(*np.array([step_values(model) for model in models]).T)
    together = step_time_s(mapped(side_by_side, lambda values: values[[2, 0, 1]]), 8.0, 500.0, 300.0, 150.0)
    alone = [float(step_time_s(models[i], 8.0, 500.0, 300.0, 150.0)) for i in (2, 0, 1)]
    assert together.tolist() == pytest.approx(alone)


def test_generations_without_measurements_have_what_the_measured_share() -> None:
    assert efficiency_of("Never-Seen") == GENERIC
    assert efficiency_of("Hopper") != GENERIC
    assert efficiency_of("whatever", cpu=True).host_s > GENERIC.host_s


MODELS = st.sampled_from(
    [
        calibrated(step_work(replica(name, gpu)), GENERIC)
        for name in ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B", "openai/gpt-oss-120b")
        for gpu in ("H100-SXM-80GB", "L40S-PCIe-48GB", "MI300X-OAM-192GB")
    ]
)


@given(
    model=MODELS,
    sequences=st.floats(0, 1000),
    context=st.floats(0, 1e5),
    prompt=st.floats(0, 16384),
    attended=st.floats(0, 1e5),
    more=st.floats(0, 1000),
    which=st.integers(0, 3),
)
@hypothesis_settings(max_examples=100, deadline=None)
def test_a_step_never_gets_shorter_by_more_work(
    model: StepModel, sequences: float, context: float, prompt: float, attended: float, more: float, which: int
) -> None:
    load = [sequences, context, prompt, attended]
    heavier = [value + more * (place == which) for place, value in enumerate(load)]
    assert float(step_time_s(model, *heavier)) >= float(step_time_s(model, *load)) * (1 - 1e-12)


@given(faster=st.floats(1.0, 10.0), sequences=st.floats(1, 500), prompt=st.floats(0, 8192))
@hypothesis_settings(max_examples=40, deadline=None)
def test_more_bandwidth_is_never_slower(faster: float, sequences: float, prompt: float) -> None:
    spec = replica("openai/gpt-oss-120b")
    bandwidth = spec.accelerator.memory_bandwidth_bytes_per_s * faster
    other = replace(spec, accelerator=replace(spec.accelerator, memory_bandwidth_bytes_per_s=bandwidth))
    slow, fast = (
        float(step_time_s(calibrated(step_work(s), GENERIC), sequences, 2000.0, prompt, 1000.0)) for s in (spec, other)
    )
    assert fast <= slow * (1 + 1e-12)
