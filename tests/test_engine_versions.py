"""Versions of vLLM, their flags, and what settings come to."""

import pytest

from metainf.accelerators import get
from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.engine_defaults import effective_settings
from metainf.engine_versions import (
    DEFAULT_ENGINE_VERSION,
    EngineVersion,
    FlagKind,
    flag_catalogue,
    known_version,
    parse_engine_version,
)
from metainf.errors import InvalidWorkloadError
from metainf.layouts import Layout
from metainf.settings import EngineSettings, PerformanceMode, Speculation, SpeculationKind

LLAMA = ModelArchitecture.from_config(
    {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
    },
    name="llama",
)
DEEPSEEK = ModelArchitecture.from_config(
    {
        "architectures": ["DeepseekV2ForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "vocab_size": 102400,
        "max_position_embeddings": 16384,
        "torch_dtype": "bfloat16",
    },
    name="deepseek",
)


def effective(accelerator, settings=None, *, layout=None, architecture=LLAMA, max_model_len=None):
    device = get(accelerator)
    assert device is not None
    return effective_settings(
        settings or EngineSettings(),
        architecture=architecture,
        accelerator=device,
        layout=layout or Layout(),
        max_model_len=max_model_len,
    )


@pytest.mark.parametrize(
    ("text", "version"),
    [
        pytest.param("0.32.0", EngineVersion(0, 32, 0), id="a release"),
        pytest.param("v0.32.0", EngineVersion(0, 32, 0), id="a tag"),
        pytest.param("v0.32.1-cu129", EngineVersion(0, 32, 1), id="an image's tag"),
        pytest.param("0.32.0+cpu", EngineVersion(0, 32, 0), id="a local build"),
        pytest.param("0.33", EngineVersion(0, 33, 0), id="two numbers"),
        pytest.param("0.33.0rc1", EngineVersion(0, 33, 0), id="a release candidate"),
    ],
)
def test_reads_versions_as_they_are_spelt(text, version):
    assert parse_engine_version(text) == version


@pytest.mark.parametrize("text", ["", "latest", "0", "1.2.3.4", "0.32.0; rm", "v", "0.32.0\n0", "9" * 200, "0.-1.0"])
def test_refuses_what_is_no_version(text):
    with pytest.raises(InvalidWorkloadError):
        parse_engine_version(text)


def test_reads_a_patch_release_as_its_release():
    assert known_version("0.32.7") == EngineVersion(0, 32, 0)


def test_refuses_a_release_that_it_does_not_know_and_names_those_that_it_does():
    with pytest.raises(InvalidWorkloadError, match=r"0\.28\.0 is not known.*0\.32\.0"):
        known_version("0.28.0")


def test_the_catalogue_holds_all_flags_of_the_version():
    catalogue = flag_catalogue(DEFAULT_ENGINE_VERSION)
    assert len(catalogue.flags) == 317
    assert catalogue.flags["gpu-memory-utilization"].default == 0.92
    assert catalogue.flags["enable-prefix-caching"].kind is FlagKind.SWITCH
    assert "fp8" in catalogue.flags["kv-cache-dtype"].choices
    assert catalogue.spellings["-tp"].name == "tensor-parallel-size"
    assert catalogue.spellings["--device-memory-utilization"].name == "gpu-memory-utilization"
    assert catalogue.spellings["--no-enable-chunked-prefill"].name == "enable-chunked-prefill"


def test_no_spelling_means_two_flags():
    catalogue = flag_catalogue()
    assert len(catalogue.spellings) == sum(len(spec.spellings) for spec in catalogue.flags.values())


def test_flags_that_are_gone_are_not_in_the_catalogue():
    assert not {"swap-space", "num-scheduler-steps", "max-num-partial-prefills"} & set(flag_catalogue().flags)


@pytest.mark.parametrize(
    ("accelerator", "layout", "tokens", "sequences"),
    [
        pytest.param("H100-SXM-80GB", Layout(), 8192, 1024, id="70 GiB and more -> large steps"),
        pytest.param("A100-SXM-80GB", Layout(), 2048, 256, id="an A100 -> small steps, whatever its memory"),
        pytest.param("L4-PCIe-24GB", Layout(), 2048, 256, id="a small card -> small steps"),
        pytest.param("H200-SXM-141GB", Layout(), 8192, 1024, id="an H200 is below 160 GiB"),
        pytest.param("B200-SXM-180GB", Layout(), 16384, 1024, id="160 GiB and more -> the largest steps"),
        pytest.param("MI300X-OAM-192GB", Layout(), 16384, 1024, id="memory counts, not the vendor"),
        pytest.param("CPU-x86-64", Layout(), 2048, 128, id="a CPU"),
        pytest.param("CPU-x86-64", Layout(tensor_parallel=2), 4096, 256, id="a CPU's grow with the world"),
    ],
)
def test_batch_limits_depend_on_the_accelerator(accelerator, layout, tokens, sequences):
    result = effective(accelerator, layout=layout)
    assert (result.max_num_batched_tokens, result.max_num_seqs) == (tokens, sequences)


@pytest.mark.parametrize(
    ("settings", "max_model_len", "tokens", "sequences"),
    [
        pytest.param(
            EngineSettings(performance_mode=PerformanceMode.THROUGHPUT), None, 16384, 2048, id="throughput doubles both"
        ),
        pytest.param(
            EngineSettings(performance_mode=PerformanceMode.THROUGHPUT, max_num_seqs=64),
            None,
            16384,
            64,
            id="throughput leaves alone what is given",
        ),
        pytest.param(EngineSettings(max_num_batched_tokens=512), None, 512, 512, id="sequences follow a small budget"),
        pytest.param(EngineSettings(chunked_prefill=False), 16384, 16384, 1024, id="no chunks: a step holds a prompt"),
        pytest.param(EngineSettings(max_num_seqs=1), 4096, 4096, 1, id="one sequence: no more than its length"),
        pytest.param(
            EngineSettings(max_num_batched_tokens=512, max_num_seqs=1024), None, 512, 1024, id="both given: both kept"
        ),
    ],
)
def test_batch_limits_follow_the_settings_as_in_vllm(settings, max_model_len, tokens, sequences):
    result = effective("H100-SXM-80GB", settings, max_model_len=max_model_len)
    assert (result.max_num_batched_tokens, result.max_num_seqs) == (tokens, sequences)


def test_everything_else_defaults_as_in_vllm():
    result = effective("H100-SXM-80GB")
    assert result.prefix_caching and result.chunked_prefill and result.asynchronous_scheduling
    assert result.gpu_memory_utilization == 0.92
    assert result.max_model_len == LLAMA.max_context_tokens
    assert result.kv_cache_dtype is DType.BF16
    assert result.weight_dtype is None
    assert result.block_tokens == 16
    assert (result.kv_offload_bytes, result.long_prefill_token_threshold, result.stream_interval) == (0, 0, 1)


@pytest.mark.parametrize(
    ("accelerator", "layout", "speculation", "asynchronous"),
    [
        pytest.param("CPU-x86-64", Layout(), None, False, id="never on a CPU"),
        pytest.param("H100-SXM-80GB", Layout(pipeline_parallel=2), None, True, id="with stages too, by the V2 runner"),
        pytest.param("H100-SXM-80GB", Layout(), SpeculationKind.NGRAM, False, id="not with n-grams"),
        pytest.param("H100-SXM-80GB", Layout(), SpeculationKind.MTP, True, id="with MTP"),
    ],
)
def test_asynchronous_scheduling_is_on_where_vllm_has_it_on(accelerator, layout, speculation, asynchronous):
    settings = EngineSettings(speculation=None if speculation is None else Speculation(speculation, 2))
    assert effective(accelerator, settings, layout=layout).asynchronous_scheduling is asynchronous


@pytest.mark.parametrize(
    ("accelerator", "settings", "block_tokens"),
    [
        pytest.param("H100-SXM-80GB", EngineSettings(), 16, id="Hopper"),
        pytest.param("H100-SXM-80GB", EngineSettings(kv_cache_dtype=DType.FP8), 64, id="Hopper, FP8 cache"),
        pytest.param("B200-SXM-180GB", EngineSettings(), 32, id="Blackwell"),
        pytest.param("Xeon-Sapphire-Rapids", EngineSettings(), 128, id="CPU with AMX"),
        pytest.param("CPU-x86-64", EngineSettings(), 16, id="CPU without"),
    ],
)
def test_blocks_of_latent_attention_follow_its_kernels(accelerator, settings, block_tokens):
    assert effective(accelerator, settings, architecture=DEEPSEEK).block_tokens == block_tokens


def test_latent_attention_on_a_plain_cpu_has_neither_chunks_nor_a_prefix_cache():
    result = effective("EPYC-Genoa", architecture=DEEPSEEK)
    assert (result.prefix_caching, result.chunked_prefill) == (False, False)
    assert result.max_num_batched_tokens == DEEPSEEK.max_context_tokens


def test_cards_without_bfloat16_cache_in_float16():
    assert effective("T4-PCIe-16GB").kv_cache_dtype is DType.FP16


def test_quantising_a_quantised_checkpoint_changes_no_weights():
    architecture = ModelArchitecture.from_config(
        {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 2,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 1024,
            "max_position_embeddings": 4096,
            "torch_dtype": "bfloat16",
            "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        },
        name="fp8",
    )
    result = effective("H100-SXM-80GB", EngineSettings(quantization=DType.FP8), architecture=architecture)
    assert result.weight_dtype is None
