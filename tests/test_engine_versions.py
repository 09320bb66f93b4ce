"""Versions of vLLM, their flags, and what settings come to."""

import pytest

from metainf.accelerators import get
from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.engine_defaults import effective_settings
from metainf.engine_versions import (
    DEFAULT_ENGINE_VERSION,
    EngineVersion,
    flag_catalogue,
    known_engine_versions,
    known_version,
    parse_engine_version,
    unknown_flag,
    version_remark,
)
from metainf.errors import InvalidWorkloadError
from metainf.flag_catalogue import FlagKind
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


def effective(accelerator, settings=None, *, layout=None, architecture=LLAMA, max_model_len=None, version="0.32.0"):
    device = get(accelerator)
    assert device is not None
    return effective_settings(
        settings or EngineSettings(),
        architecture=architecture,
        accelerator=device,
        layout=layout or Layout(),
        max_model_len=max_model_len,
        version=version,
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


@pytest.mark.parametrize(
    ("version", "known", "remark"),
    [
        pytest.param("0.28.0", EngineVersion(0, 28), "", id="the first"),
        pytest.param("v0.30.2-cu129", EngineVersion(0, 30), "", id="a patch of one in the middle"),
        pytest.param("0.29.0", EngineVersion(0, 28), "0.29.0 are not catalogued: those of 0.28.0", id="between"),
        pytest.param("0.31.1", EngineVersion(0, 30), "0.31.1 are not catalogued: those of 0.30.0", id="between, again"),
        pytest.param("0.33.0rc1", EngineVersion(0, 32), "0.33.0 are not catalogued: those of 0.32.0", id="the next"),
        pytest.param("0.99", EngineVersion(0, 32), "0.99.0 are not catalogued: those of 0.32.0", id="far beyond"),
    ],
)
def test_a_version_without_a_catalogue_is_read_by_the_one_before_it_and_that_is_said(version, known, remark):
    assert known_version(version) == known
    assert flag_catalogue(version).version == str(known)
    assert remark in version_remark(version)
    assert bool(version_remark(version)) == bool(remark)


@pytest.mark.parametrize("version", ["0.27.9", "0.1.0", "1.0.0"])
def test_refuses_what_is_older_than_all_that_it_knows_or_of_another_major_version(version):
    with pytest.raises(InvalidWorkloadError, match=r"is not known.*0\.28\.0, 0\.30\.0, 0\.32\.0"):
        known_version(version)


def test_every_known_version_has_a_catalogue_that_says_where_it_is_from():
    for version in known_engine_versions():
        origin = flag_catalogue(version).origin
        assert origin.engine == version
        assert origin.distribution.endswith(version)
        assert origin.parser.endswith("make_arg_parser")
    assert DEFAULT_ENGINE_VERSION in known_engine_versions()
    assert list(known_engine_versions()) == sorted(known_engine_versions(), key=parse_engine_version)


def test_the_catalogues_hold_all_flags_of_their_versions():
    assert [len(flag_catalogue(version).flags) for version in known_engine_versions()] == [285, 301, 317]
    catalogue = flag_catalogue(DEFAULT_ENGINE_VERSION)
    assert catalogue.flags["gpu-memory-utilization"].default == 0.92
    assert catalogue.flags["enable-prefix-caching"].kind is FlagKind.SWITCH
    assert catalogue.flags["max-num-batched-tokens"].kind is FlagKind.SIZE
    assert catalogue.flags["compilation-config"].config == "CompilationConfig"
    assert "fp8" in catalogue.flags["kv-cache-dtype"].choices
    assert catalogue.spellings["-tp"].name == "tensor-parallel-size"
    assert catalogue.spellings["--device-memory-utilization"].name == "gpu-memory-utilization"
    assert catalogue.spellings["--no-enable-chunked-prefill"].name == "enable-chunked-prefill"


def test_flags_come_and_go_between_versions():
    first, middle, last = (set(flag_catalogue(version).flags) for version in known_engine_versions())
    assert first - middle == {"enable-bf16x3-router-gemm"}
    assert middle - last == {"enable-mamba-fine-grained-prefix-cache"}
    assert {"max-num-queued-reqs", "sse-keep-alive-interval"} <= middle - first
    assert {"max-num-active-seqs", "long-prefill-token-threshold-adaptive"} <= last - middle
    assert not {"swap-space", "num-scheduler-steps", "max-num-partial-prefills"} & (first | middle | last)


@pytest.mark.parametrize(
    ("option", "version", "message"),
    [
        pytest.param(
            "--enforce-eagr",
            "0.32.0",
            "vLLM 0.32.0 has no flag --enforce-eagr; did you mean --enforce-eager?",
            id="nearest",
        ),
        pytest.param("--zzz", "0.32.0", "vLLM 0.32.0 has no flag --zzz", id="nothing is like it"),
        pytest.param("--max-num-active-seqs", "0.28.0", "; 0.32.0 has it; did you mean --max-num-seqs?", id="to come"),
        pytest.param(
            "--watermark-config",
            "0.28.1",
            "vLLM 0.28.1 has no flag --watermark-config; 0.30.0 and 0.32.0 have it",
            id="two have it",
        ),
        pytest.param("--no-enable-bf16x3-router-gemm", "0.30.0", "; 0.28.0 has it", id="gone"),
        pytest.param(
            "--log-level",
            "0.31.0",
            "vLLM 0.31.0 has no flag --log-level (the flags of vLLM 0.31.0 are not catalogued: those of 0.30.0 are "
            "taken for them); 0.32.0 has it",
            id="perhaps there, and said so",
        ),
        pytest.param("--a\x1b[2J", "0.32.0", r"'--a\x1b[2J'", id="no terminal is told anything"),
    ],
)
def test_says_of_a_flag_that_is_not_there_which_is_nearest_and_who_has_it(option, version, message):
    assert message in unknown_flag(option, version)


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


@pytest.mark.parametrize(
    ("version", "chunked", "block_tokens"),
    [
        pytest.param("0.28.0", False, 16, id="no code for AMX yet"),
        pytest.param("0.29.0", False, 16, id="read by the one before"),
        pytest.param("0.30.0", True, 128, id="the first that has it"),
        pytest.param("0.32.0", True, 128, id="and later"),
    ],
)
def test_latent_attention_on_a_cpu_with_amx_depends_on_the_version(version, chunked, block_tokens):
    result = effective("Xeon-Sapphire-Rapids", architecture=DEEPSEEK, version=version)
    assert (result.prefix_caching, result.chunked_prefill, result.block_tokens) == (chunked, chunked, block_tokens)


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
