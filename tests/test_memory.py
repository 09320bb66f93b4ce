from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf import accelerators
from metainf.dtypes import DType
from metainf.engine_defaults import effective_settings
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.memory import MemoryPlan, memory_plan, with_room_for
from metainf.predictors.contract import ReplicaSpec
from metainf.settings import EngineSettings, Speculation, SpeculationKind

ONE, DEFAULTS = Layout(), EngineSettings(max_model_len=8192)
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_70B = "meta-llama/Llama-3.1-70B-Instruct"


def plan(
    model: str = LLAMA_8B,
    gpu: str = "H100-SXM-80GB",
    layout: Layout = ONE,
    asked: EngineSettings = DEFAULTS,
) -> MemoryPlan:
    architecture, accelerator = known_model(model), accelerators.get(gpu)
    assert architecture is not None
    assert accelerator is not None
    resolved = effective_settings(asked, architecture=architecture, accelerator=accelerator, layout=layout)
    return memory_plan(ReplicaSpec(architecture, accelerator, layout, resolved))


def test_llama_8b_on_one_h100_leaves_about_440_thousand_tokens() -> None:
    # 81559 MiB x 0.92 - 15.0 GiB of weights - about 3 GiB, over 128 KiB per token (32 layers x 8 heads x 128 x 2 x 2).
    found = plan()
    assert found.weight_bytes == pytest.approx(8.03e9 * 2, rel=0.01)
    assert found.sequence_bytes(16) == 16 * 131072
    assert 400_000 < found.kv_capacity_tokens < 480_000
    assert found.fits


def test_weights_that_do_not_fit_are_a_deficit_and_say_so() -> None:
    found = plan(LLAMA_70B)
    assert not found.fits
    assert found.kv_bytes < 0.0
    assert found.kv_capacity_tokens == 0
    assert found.kv_sequences(100) == 0
    assert found.shortfall(1000) > 0.5
    assert "exceeds the usable" in found.explanation(1000)
    assert "weights 131" in found.explanation(1000)


@pytest.mark.parametrize(
    ("tensor_parallel", "heads"),
    [pytest.param(1, 8, id="all eight"), pytest.param(4, 2, id="two each"), pytest.param(8, 1, id="one each")],
)
def test_kv_heads_are_split_over_ranks(tensor_parallel: int, heads: int) -> None:
    found = plan(layout=Layout(tensor_parallel=tensor_parallel))
    assert found.sequence_bytes(1600) == 1600 * 32 * 2 * heads * 128 * 2


def test_more_ranks_than_kv_heads_hold_copies() -> None:
    # Qwen2.5-7B has 4 KV heads; with 4 ranks each has one, and the model has 28 query heads so 28 ranks would too.
    four = plan("Qwen/Qwen2.5-7B-Instruct", layout=Layout(tensor_parallel=4))
    assert four.sequence_bytes(16) == 16 * 28 * 2 * 1 * 128 * 2


def test_latent_attention_is_the_same_on_every_rank() -> None:
    one = plan("deepseek-ai/DeepSeek-V2-Lite", layout=Layout())
    four = plan("deepseek-ai/DeepSeek-V2-Lite", layout=Layout(tensor_parallel=4))
    assert one.sequence_bytes(64) == four.sequence_bytes(64)


def test_data_parallel_ranks_have_a_cache_each() -> None:
    found = plan(layout=Layout(data_parallel=2))
    assert found.replica_kv_capacity_tokens == pytest.approx(2 * found.kv_capacity_tokens)


def test_expert_parallelism_spreads_experts_over_all_ranks() -> None:
    dense = plan("Qwen/Qwen3-30B-A3B", layout=Layout(tensor_parallel=2))
    spread = plan("Qwen/Qwen3-30B-A3B", layout=Layout(data_parallel=2, expert_parallel=True))
    assert spread.weight_bytes < 1.15 * dense.weight_bytes  # attention is whole on each rank, experts are halved


def test_experts_are_cut_over_data_parallel_ranks_too() -> None:
    cut = plan("Qwen/Qwen3-30B-A3B", layout=Layout(data_parallel=2))
    spread = plan("Qwen/Qwen3-30B-A3B", layout=Layout(data_parallel=2, expert_parallel=True))
    assert cut.weight_bytes == pytest.approx(spread.weight_bytes, rel=0.01)


def test_windows_bound_the_cache_of_long_sequences() -> None:
    found = plan("google/gemma-3-27b-it", asked=EngineSettings(max_model_len=65536))
    assert found.sequence_bytes(65536) < 0.4 * 64 * found.sequence_bytes(1024)


def test_quantising_while_loading_halves_the_layers_and_leaves_head_and_table() -> None:
    before = plan().weight_bytes
    after = plan(asked=EngineSettings(max_model_len=8192, quantization=DType.FP8)).weight_bytes
    tables = 2 * 128256 * 4096 * 2
    assert after == pytest.approx(tables + (before - tables) / 2, rel=0.001)


def test_an_fp8_cache_holds_twice_the_tokens() -> None:
    before, after = (plan(asked=EngineSettings(max_model_len=8192, kv_cache_dtype=d)) for d in (DType.BF16, DType.FP8))
    assert after.kv_capacity_tokens == pytest.approx(2 * before.kv_capacity_tokens)


def test_drafters_take_memory_and_cache() -> None:
    eagle = plan(asked=EngineSettings(max_model_len=8192, speculation=Speculation(SpeculationKind.EAGLE, 3)))
    assert eagle.weight_bytes > plan().weight_bytes
    assert eagle.sequence_bytes(16) > plan().sequence_bytes(16)


@given(budget=st.integers(512, 32768), more=st.integers(1, 32768))
@settings(max_examples=40, deadline=None)
def test_the_reserve_falls_with_the_token_budget(budget: int, more: int) -> None:
    small = plan(asked=EngineSettings(max_model_len=512, max_num_batched_tokens=budget))
    large = plan(asked=EngineSettings(max_model_len=512, max_num_batched_tokens=budget + more))
    assert small.reserve_bytes < large.reserve_bytes
    assert small.kv_capacity_tokens > large.kv_capacity_tokens


@given(context=st.integers(1, 100_000), more=st.integers(0, 100_000))
@settings(max_examples=60, deadline=None)
def test_longer_sequences_never_fit_more_often(context: int, more: int) -> None:
    found = plan("google/gemma-3-27b-it")
    assert found.kv_sequences(context) >= found.kv_sequences(context + more)
    fits = found.missing_bytes(context) == 0
    assert fits == (found.kv_sequences(context) >= 1)
    assert (found.short_bytes(context) == 0) == (found.shortfall(context) == 0)
    assert found.short_bytes(context) <= found.short_bytes(context + more)
    assert fits or found.short_bytes(context) > 0


def test_pipeline_stages_share_weights_and_cache() -> None:
    one, two = plan(LLAMA_70B, "B200-SXM-180GB"), plan(LLAMA_70B, "B200-SXM-180GB", Layout(pipeline_parallel=2))
    assert two.weight_bytes == pytest.approx(one.weight_bytes / 2, rel=0.03)
    assert two.sequence_bytes(1024) == pytest.approx(one.sequence_bytes(1024) / 2)


def test_a_cpu_share_has_its_part_of_the_memory() -> None:
    architecture, cpu = known_model("Qwen/Qwen2.5-0.5B-Instruct"), accelerators.get("Xeon-Sapphire-Rapids")
    assert architecture is not None
    assert cpu is not None
    resolved = effective_settings(
        EngineSettings(max_model_len=4096), architecture=architecture, accelerator=cpu, layout=Layout()
    )
    whole = ReplicaSpec(architecture, cpu, Layout(), resolved)
    assert cpu.cpu is not None
    half = replace(whole, cpu_cores=cpu.cpu.cores / 2)
    assert memory_plan(half).usable_bytes == pytest.approx(memory_plan(whole).usable_bytes / 2)


@given(asked=st.integers(1, 1 << 40))
@settings(max_examples=40, deadline=None)
def test_a_cache_that_is_asked_for_is_what_there_is_but_never_more_than_is_left(asked: int) -> None:
    left = plan().kv_bytes
    found = plan(asked=replace(DEFAULTS, kv_cache_memory_bytes=asked))
    assert found.kv_bytes == min(asked, left)
    assert found.needed_bytes == pytest.approx(found.weight_bytes + found.reserve_bytes + found.kv_bytes)
    assert found.needed_bytes <= found.usable_bytes * (1 + 1e-9)


def fitted(longest_tokens: float, gpu: str, asked: EngineSettings, model: str = LLAMA_8B) -> ReplicaSpec | MemoryPlan:
    architecture, accelerator = known_model(model), accelerators.get(gpu)
    assert architecture is not None
    assert accelerator is not None

    def replica(max_model_len: int | None) -> ReplicaSpec:
        resolved = effective_settings(
            asked, architecture=architecture, accelerator=accelerator, layout=ONE, max_model_len=max_model_len
        )
        return ReplicaSpec(architecture, accelerator, ONE, resolved)

    return with_room_for(longest_tokens, replica)


@pytest.mark.parametrize(
    ("longest", "gpu", "asked", "context"),
    [
        pytest.param(3000, "H100-SXM-80GB", EngineSettings(), 131072, id="the model's own: half the cache holds it"),
        pytest.param(3000, "L4-PCIe-24GB", EngineSettings(), 5888, id="twice what is needed, in steps of 256"),
        pytest.param(500, "L4-PCIe-24GB", EngineSettings(), 4096, id="no shorter one than 4096"),
        pytest.param(27140.5, "L4-PCIe-24GB", EngineSettings(), 27141, id="just what is needed, where more is unsure"),
        pytest.param(
            3000, "L4-PCIe-24GB", EngineSettings(chunked_prefill=False), 5888, id="uncut prompts: their steps fit then"
        ),
    ],
)
def test_the_context_is_what_the_cache_has_room_for(
    longest: float, gpu: str, asked: EngineSettings, context: int
) -> None:
    found = fitted(longest, gpu, asked)
    assert isinstance(found, ReplicaSpec)
    assert found.settings.max_model_len == context


def test_a_method_with_less_cache_has_a_shorter_context_than_the_default() -> None:
    steps = EngineSettings(max_num_batched_tokens=262144)
    default, large = (fitted(3000, "A100-SXM-80GB", asked) for asked in (EngineSettings(), steps))
    assert isinstance(default, ReplicaSpec)
    assert isinstance(large, ReplicaSpec)
    assert default.settings.max_model_len == 131072
    assert large.settings.max_model_len == 5888


@pytest.mark.parametrize("chunked", [True, False])
def test_memory_without_room_for_the_longest_request_says_so(chunked: bool) -> None:
    found = fitted(3000, "L4-PCIe-24GB", EngineSettings(chunked_prefill=chunked), LLAMA_70B)
    assert isinstance(found, MemoryPlan)
    assert found.missing_bytes(3000) > 0


@given(
    longest=st.floats(1, 131072),
    gpu=st.sampled_from(["L4-PCIe-24GB", "A100-SXM-80GB", "H100-SXM-80GB"]),
    model=st.sampled_from([LLAMA_8B, "google/gemma-3-27b-it", "Qwen/Qwen3-30B-A3B"]),
    chunked=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_replica_starts_and_holds_the_longest_request(longest: float, gpu: str, model: str, chunked: bool) -> None:
    architecture = known_model(model)
    assert architecture is not None
    longest = min(longest, architecture.max_context_tokens)
    found = fitted(longest, gpu, EngineSettings(chunked_prefill=chunked), model)
    if isinstance(found, MemoryPlan):
        assert found.short_bytes(found.max_model_len if not chunked else longest) > 0
    else:
        assert longest <= found.settings.max_model_len <= architecture.max_context_tokens
        assert memory_plan(found).missing_bytes(found.settings.max_model_len) == 0
        assert memory_plan(found).short_bytes(longest) == 0


def test_memory_that_a_request_just_fits_in_is_too_small_and_the_margin_is_said() -> None:
    found = fitted(500, "V100-SXM-32GB", EngineSettings(), "Qwen/Qwen2.5-14B-Instruct")
    assert isinstance(found, MemoryPlan)
    assert found.missing_bytes(500) == 0
    assert found.short_bytes(500) == pytest.approx(found.shortfall(500) * found.usable_bytes)
    assert "margin 0.6), which exceeds the usable 29.4 GiB" in found.explanation(500)


def test_a_cache_that_is_told_to_be_too_small_is_not_blamed_on_the_memory() -> None:
    found = plan(asked=replace(DEFAULTS, kv_cache_memory_bytes=64 << 20))
    assert found.short_bytes(1024) > 0
    assert found.explanation(1024) == (
        "the cache of one 1024-token request needs 0.12 GiB on each accelerator, kv-cache-memory-bytes allows 0.06"
    )
    assert "fits in the usable" in found.explanation(512)


@pytest.mark.parametrize(
    ("tokens", "margin"),
    [
        pytest.param(16, 0.02 * 81559 * 2**20 * 0.92, id="a fiftieth of the memory beside a short request"),
        pytest.param(131072, 0.25 * 131072 * 131072, id="a quarter of the cache of a long one"),
    ],
)
def test_the_margin_grows_with_the_memory_and_with_the_longest_request(tokens: int, margin: float) -> None:
    assert plan().margin_bytes(tokens) == pytest.approx(margin)


def test_a_model_that_sees_has_the_weights_of_its_tower_on_every_rank() -> None:
    architecture = known_model("google/gemma-3-27b-it")
    assert architecture is not None and architecture.vision_tower is not None
    text = architecture.weight_bytes_per_rank()
    assert plan("google/gemma-3-27b-it").weight_bytes - text == pytest.approx(2 * architecture.vision_tower.parameters)
    layout = Layout(tensor_parallel=2)
    cut = plan("google/gemma-3-27b-it", layout=layout).weight_bytes - architecture.weight_bytes_per_rank(2)
    assert cut == pytest.approx(architecture.vision_tower.parameters)


def test_a_model_that_sees_keeps_memory_for_the_images_of_a_step() -> None:
    # 2048 tokens are 8 images of 4096 patches, each 6 x 1152 hidden values and 2 x 4304 inside the MLP, 2 bytes each.
    images = 8 * 4096 * (6 * 1152 + 2 * 4304) * 2
    what_came_of_them = 2048 * 5376 * 2
    graphs_and_runtime = (256 + 8 * 62 + 600) * 2**20
    found = plan("google/gemma-3-27b-it", "L4-PCIe-24GB")
    assert found.reserve_bytes == pytest.approx(images + what_came_of_them + graphs_and_runtime)
