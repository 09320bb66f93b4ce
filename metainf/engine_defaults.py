"""What vLLM makes of settings on a given model, accelerator and layout: every default resolved.

Separate from the settings, which say what is asked, and from the conflicts, which say what is refused. All rules are
of vLLM 0.32.0, the API server's: vllm/engine/arg_utils.py get_batch_defaults and
_set_default_max_num_seqs_and_batched_tokens_args unless another file is named.
"""

import math
from dataclasses import dataclass

from metainf.accelerators import Accelerator, Vendor
from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.engine_versions import DEFAULT_ENGINE_VERSION, EngineVersion, flag_catalogue, known_version
from metainf.layers import LatentAttention, MixerKind, RecurrentMixer, SoftmaxAttention
from metainf.layouts import Layout
from metainf.settings import EffectiveSettings, EngineSettings, PerformanceMode, SpeculationKind

__all__ = [
    "BatchLimits",
    "batch_defaults",
    "cpu_threads",
    "effective_settings",
    "runs_mla_by_reference",
    "uses_mla",
]

_GIB = 1 << 30
_AMX_LATENT_SINCE = EngineVersion(0, 30)  # vllm/platforms/cpu.py: in 0.30.0, not yet in 0.28.0
_DEFAULT_BLOCK_TOKENS = 16  # vllm/config/cache.py, DEFAULT_BLOCK_SIZE
_CPU_BLOCK_TOKENS = 128  # vllm/platforms/cpu.py, check_and_update_config


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Most tokens and most sequences of one step."""

    max_num_batched_tokens: int
    max_num_seqs: int


def batch_defaults(accelerator: Accelerator, layout: Layout) -> BatchLimits:
    """Limits of a step before the performance mode and the model's length come in.

    A100s are left out of the large default since it lowers their throughput (vLLM PR 17885); from 160 GiB there is a
    still larger one. A CPU's grow with the world size.
    """
    if accelerator.vendor is Vendor.CPU:
        world = layout.tensor_parallel * layout.pipeline_parallel
        return BatchLimits(2048 * world, 128 * world)
    if accelerator.memory_bytes >= 160 * _GIB:
        return BatchLimits(16384, 1024)
    if accelerator.memory_bytes >= 70 * _GIB and "a100" not in accelerator.name.lower():
        return BatchLimits(8192, 1024)
    return BatchLimits(2048, 256)


def cpu_threads(cores: float, threads_per_core: int) -> int:
    """Threads of the kernels of a replica that has so many `cores`, counted as Kubernetes counts `cpu`.

    One for each physical core, and one core left to the server: what vLLM's automatic binding takes of a whole machine
    (vllm/utils/ompmultiprocessing.py, OMPProcessManager: one at least for the scheduler's process, and none where there
    is but one), here of the replica's share of it.
    """
    return max(1, int(cores / threads_per_core) - 1)


def effective_settings(
    settings: EngineSettings,
    *,
    architecture: ModelArchitecture,
    accelerator: Accelerator,
    layout: Layout,
    version: str = DEFAULT_ENGINE_VERSION,
    max_model_len: int | None = None,
) -> EffectiveSettings:
    """The settings that the engine runs with; `max_model_len` goes before that of the settings.

    What cannot run at all is not judged here: see `settings_rules.settings_conflicts`.
    """
    length = max_model_len or settings.max_model_len or architecture.max_context_tokens
    by_reference = runs_mla_by_reference(architecture, accelerator, version)
    chunked = settings.chunked_prefill is not False and not by_reference
    limits = _batch_limits(settings, batch_defaults(accelerator, layout), length, chunked)
    mode = settings.performance_mode or PerformanceMode.BALANCED
    kv_dtype = settings.kv_cache_dtype or _default_kv_dtype(architecture, accelerator)
    utilization = settings.gpu_memory_utilization
    return EffectiveSettings(
        prefix_caching=_prefix_caching(settings, architecture) and not by_reference,
        chunked_prefill=chunked,
        max_num_batched_tokens=max(length, 2048) if by_reference else limits.max_num_batched_tokens,
        max_num_seqs=limits.max_num_seqs,
        long_prefill_token_threshold=settings.long_prefill_token_threshold or 0,
        speculation=settings.speculation,
        weight_dtype=settings.quantization if architecture.quantization is None else None,
        kv_cache_dtype=kv_dtype,
        kv_offload_bytes=settings.kv_offload_bytes or 0,
        performance_mode=mode,
        max_model_len=length,
        gpu_memory_utilization=_default_utilization(version) if utilization is None else utilization,
        block_tokens=_block_tokens(architecture, accelerator, layout, kv_dtype, by_reference=by_reference),
        asynchronous_scheduling=_asynchronous(settings, accelerator),
        stream_interval=settings.stream_interval or 1,
        kv_cache_memory_bytes=settings.kv_cache_memory_bytes,
    )


def _batch_limits(settings: EngineSettings, defaults: BatchLimits, length: int, chunked: bool) -> BatchLimits:
    tokens, sequences = settings.max_num_batched_tokens, settings.max_num_seqs
    factor = 2 if settings.performance_mode is PerformanceMode.THROUGHPUT else 1
    max_sequences = defaults.max_num_seqs * factor if sequences is None else sequences
    if tokens is None:
        max_tokens = defaults.max_num_batched_tokens * factor
        if not chunked:
            max_tokens = max(max_tokens, length)
        max_tokens = min(max_tokens, max_sequences * length)
    else:
        max_tokens = tokens
    if sequences is None:
        max_sequences = min(max_sequences, max_tokens)
    return BatchLimits(max_tokens, max_sequences)


def _prefix_caching(settings: EngineSettings, architecture: ModelArchitecture) -> bool:
    """On, but for models without any attention (vllm/config/model.py, is_prefix_caching_supported)."""
    if settings.prefix_caching is not None:
        return settings.prefix_caching
    return any(
        group.layer.mixer is not None and not isinstance(group.layer.mixer, RecurrentMixer)
        for group in architecture.layer_groups
    )


def _default_utilization(version: str) -> float:
    default = flag_catalogue(version).flags["gpu-memory-utilization"].default
    assert isinstance(default, float)
    return default


def _asynchronous(settings: EngineSettings, accelerator: Accelerator) -> bool:
    """On, but for CPUs and for n-gram speculation.

    Source: vllm/config/vllm.py, __post_init__; pipeline stages take it away from the V1 model runner only, and the V2
    runner is the default wherever Triton is. vllm/platforms/cpu.py turns it off.
    """
    ngram = settings.speculation is not None and settings.speculation.kind is SpeculationKind.NGRAM
    return accelerator.vendor is not Vendor.CPU and not ngram


def _default_kv_dtype(architecture: ModelArchitecture, accelerator: Accelerator) -> DType:
    """What `auto` comes to: the checkpoint's own format, FP8 for GLM's sparse attention on Blackwell, or 16 bits.

    Source: vllm/utils/torch_utils.py resolve_kv_cache_dtype_string; vllm/model_executor/models/config.py
    GlmMoeDsaForCausalLM; 16-bit floats where bfloat16 needs compute capability 8.0.
    """
    if architecture.kv_cache_dtype is not None:
        return architecture.kv_cache_dtype
    capability = accelerator.compute_capability
    if architecture.architecture == "GlmMoeDsaForCausalLM" and capability is not None and capability[0] == 10:
        return DType.FP8
    if architecture.dtype is DType.BF16 and capability is not None and capability < (8, 0):
        return DType.FP16
    return architecture.dtype


def uses_mla(architecture: ModelArchitecture) -> bool:
    """Whether the model has multi-head latent attention."""
    return any(isinstance(group.layer.mixer, LatentAttention) for group in architecture.layer_groups)


def runs_mla_by_reference(
    architecture: ModelArchitecture, accelerator: Accelerator, version: str = DEFAULT_ENGINE_VERSION
) -> bool:
    """Whether latent attention falls to vLLM's slow CPU code, which has neither chunked prefill nor prefix caching.

    Source: vllm/platforms/cpu.py, check_and_update_config; CPUs with AMX tiles have code of their own since 0.30.0.
    """
    own_code = accelerator.has_amx_tile and known_version(version) >= _AMX_LATENT_SINCE
    return accelerator.vendor is Vendor.CPU and uses_mla(architecture) and not own_code


def _block_tokens(
    architecture: ModelArchitecture, accelerator: Accelerator, layout: Layout, kv_dtype: DType, *, by_reference: bool
) -> int:
    """Tokens of one cache block: what prefixes are matched in.

    Source: vllm/platforms/interface.py update_block_size_for_backend and _align_hybrid_block_size; the smallest size
    of the attention backend that the platform prefers (vllm/platforms/cuda.py _get_backend_priorities).
    """
    base = 16 if by_reference else _attention_block_tokens(architecture, accelerator, kv_dtype)
    tp = layout.tensor_parallel
    mixers = [group.layer.mixer for group in architecture.layer_groups]
    states = [m.kv_bytes(1, kv_dtype, tp) for m in mixers if isinstance(m, RecurrentMixer)]
    caches = [m.kv_bytes(1, kv_dtype, tp) for m in mixers if isinstance(m, SoftmaxAttention | LatentAttention)]
    if not states or not caches:
        return base
    granule = max(base, 128) if uses_mla(architecture) else base
    return granule * math.ceil(max(states) / (granule * min(caches)))


def _attention_block_tokens(architecture: ModelArchitecture, accelerator: Accelerator, kv_dtype: DType) -> int:
    if accelerator.vendor is Vendor.CPU:
        return _CPU_BLOCK_TOKENS
    if MixerKind.SPARSE in architecture.mixer_kinds():
        return 64  # flashmla_sparse.py and its kin take multiples of 64
    capability = accelerator.compute_capability
    if uses_mla(architecture) and capability is not None:
        if capability[0] == 10:
            return 32  # flashinfer_mla.py takes 32 and 64
        if capability[0] == 9 and kv_dtype is DType.FP8:
            return 64  # flashmla.py; flashattn_mla.py, which is preferred, has no FP8
    return _DEFAULT_BLOCK_TOKENS
