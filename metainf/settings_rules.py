"""What stands in the way of settings on a model, an accelerator and a layout.

Separate from methods, so that flags which a person wrote are judged by the same rules as a method's. Rules are of
vLLM 0.32.0; each function names the file that it follows.
"""

from collections.abc import Iterator

from metainf.accelerators import Accelerator, Vendor
from metainf.architecture import ModelArchitecture
from metainf.conflicts import Conflict, ConflictReason
from metainf.dtypes import DType
from metainf.engine_defaults import effective_settings, runs_mla_by_reference, uses_mla
from metainf.engine_versions import DEFAULT_ENGINE_VERSION, EngineVersion, known_version
from metainf.layers import RecurrentMixer
from metainf.layouts import Layout
from metainf.quantization_support import where_instead
from metainf.settings import EffectiveSettings, EngineSettings, PerformanceMode, SpeculationKind

__all__ = ["settings_conflicts", "weight_only_fp8"]

_FP8_WEIGHTS_CAPABILITY = (7, 5)
_FP8_UNITS_CAPABILITY = (8, 9)
_DRAFTING_MODELS = (SpeculationKind.EAGLE, SpeculationKind.DRAFT_MODEL)
# Models that give an EAGLE-3 head nothing to draft from: their class lacks the interface SupportsEagle3, and the engine
# ends with "Model does not support EAGLE3 interface". Source: vllm/model_executor/models/ of 0.28.0, 0.30.0 and 0.32.0,
# the class that registry.py has for each; none of the three versions has it in commandr.py, gemma2.py, gemma3.py,
# gemma3_mm.py, glm4.py, glm4_moe.py, mixtral.py, nemotron.py, opt.py and qwen2_moe.py.
_WITHOUT_EAGLE3 = frozenset(
    {
        "Cohere2ForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
        "Glm4ForCausalLM",
        "Glm4MoeForCausalLM",
        "MixtralForCausalLM",
        "NemotronForCausalLM",
        "OPTForCausalLM",
        "Qwen2MoeForCausalLM",
    }
)
_SPREADS_DRAFTS = EngineVersion(0, 30)  # create_draft_parallel_config; 0.28.0 and 0.32.0 leave a dense draft whole


def settings_conflicts(
    settings: EngineSettings,
    *,
    architecture: ModelArchitecture,
    accelerator: Accelerator,
    layout: Layout,
    version: str = DEFAULT_ENGINE_VERSION,
    max_model_len: int | None = None,
) -> tuple[Conflict, ...]:
    """Everything that vLLM would refuse, or that is known not to work; empty where the settings can run."""
    effective = effective_settings(
        settings,
        architecture=architecture,
        accelerator=accelerator,
        layout=layout,
        version=version,
        max_model_len=max_model_len,
    )
    return (
        *_checkpoint(architecture, accelerator),
        *_weights(settings, architecture, accelerator),
        *_kv_cache(settings, effective, architecture, accelerator),
        *_speculation(settings, architecture, layout, version),
        *_offload(settings, accelerator),
        *_cpu(settings, architecture, accelerator, version),
        *_batching(effective, architecture),
    )


def weight_only_fp8(accelerator: Accelerator) -> bool:
    """Whether FP8 weights are widened before each multiplication (Marlin): memory is saved, time is not.

    Source: vllm/model_executor/layers/quantization/online/fp8.py, MarlinFP8ScaledMMLinearKernel below 8.9.
    """
    capability = accelerator.compute_capability
    return accelerator.vendor is Vendor.NVIDIA and capability is not None and capability < _FP8_UNITS_CAPABILITY


def _named(accelerator: Accelerator) -> str:
    capability = accelerator.compute_capability
    if capability is None:
        return accelerator.name
    return f"{accelerator.name} (compute capability {capability[0]}.{capability[1]})"


def _checkpoint(architecture: ModelArchitecture, accelerator: Accelerator) -> Iterator[Conflict]:
    """What no flag asks for: vLLM reads a checkpoint's own quantisation and ends where it cannot run that."""
    elsewhere = where_instead(architecture, accelerator)
    if elsewhere is not None:
        detail = (
            f"{architecture.name} is a quantised checkpoint ({architecture.quantization}), which vLLM runs on "
            f"{elsewhere} and not on {_named(accelerator)}: take one that is not quantised, or a pool of such GPUs"
        )
        yield Conflict(ConflictReason.UNSUPPORTED_PRECISION, detail)


def _weights(settings: EngineSettings, architecture: ModelArchitecture, accelerator: Accelerator) -> Iterator[Conflict]:
    """Source: vllm/config/model.py _verify_quantization; layers/quantization/online/base.py get_min_capability."""
    if settings.quantization is None:
        return
    if settings.quantization is not DType.FP8:
        detail = f"vLLM quantises to fp8 while loading, not to {settings.quantization}"
        yield Conflict(ConflictReason.UNSUPPORTED_PRECISION, detail)
        return
    if architecture.quantization not in (None, "fp8"):
        detail = (
            f"{architecture.name} is a {architecture.quantization} checkpoint, and vLLM takes no other than its own"
        )
        yield Conflict(ConflictReason.ALREADY_QUANTIZED, detail)
    capability = accelerator.compute_capability
    if accelerator.vendor is Vendor.NVIDIA:
        if capability is not None and capability < _FP8_WEIGHTS_CAPABILITY:
            detail = f"fp8 weights need compute capability 7.5; {_named(accelerator)}"
            yield Conflict(ConflictReason.UNSUPPORTED_PRECISION, detail)
    elif accelerator.vendor is not Vendor.AMD or not accelerator.supports(DType.FP8):
        # Gaudi's FP8 goes through calibration files of its plug-in, not through this flag; CPUs have no FP8 units.
        detail = f"{accelerator.name} does not multiply fp8 weights quantised while loading"
        yield Conflict(ConflictReason.UNSUPPORTED_PRECISION, detail)


def _kv_cache(
    settings: EngineSettings, effective: EffectiveSettings, architecture: ModelArchitecture, accelerator: Accelerator
) -> Iterator[Conflict]:
    """The format that the cache has, asked for or brought by the checkpoint.

    Source: vllm/v1/attention/backends/triton_attn.py and mla/triton_mla.py (FP8 needs SM89), cpu_attn.py. flashinfer.py
    lists FP8 from 8.0, but nothing that is measured on Ampere says that it serves, so it is refused.
    """
    dtype = effective.kv_cache_dtype
    if dtype in (DType.BF16, DType.FP16):
        return
    vendor, capability = accelerator.vendor, accelerator.compute_capability
    if vendor is Vendor.CPU:
        possible = dtype is DType.FP8 and not uses_mla(architecture)
    elif vendor is Vendor.NVIDIA:
        possible = capability is None or capability >= _FP8_UNITS_CAPABILITY
        possible = possible and (dtype is not DType.FP4 or accelerator.supports(DType.FP4))
    else:
        possible = vendor is Vendor.AMD and dtype is DType.FP8 and accelerator.supports(DType.FP8)
    if not possible:
        detail = f"a KV cache in {dtype} is not served on {_named(accelerator)}"
        if settings.kv_cache_dtype is None and architecture.kv_cache_dtype is not None:
            detail = f"{architecture.name} brings its own: {detail}; take a checkpoint without it, or another pool"
        yield Conflict(ConflictReason.UNSUPPORTED_PRECISION, detail)


def _speculation(
    settings: EngineSettings, architecture: ModelArchitecture, layout: Layout, version: str
) -> Iterator[Conflict]:
    """Source: vllm/config/speculative.py; v1/worker/gpu/spec_decode/eagle/ refuses most models with PP.

    eagle3_utils.py there, and v1/worker/gpu_model_runner.py, refuse models without the interface of EAGLE-3.
    """
    speculation = settings.speculation
    if speculation is None:
        return
    if speculation.tokens < 1:
        detail = f"speculation must draft at least 1 token, not {speculation.tokens}"
        yield Conflict(ConflictReason.SPECULATION_CONFLICT, detail)
    if speculation.kind is SpeculationKind.MTP and not architecture.has_mtp:
        detail = f"{architecture.name} has no multi-token prediction layers"
        yield Conflict(ConflictReason.NO_MTP_LAYERS, detail)
    if speculation.kind is SpeculationKind.EAGLE and architecture.architecture in _WITHOUT_EAGLE3:
        detail = f"vLLM has no EAGLE-3 for {architecture.architecture}, which {architecture.name} is"
        yield Conflict(ConflictReason.SPECULATION_CONFLICT, detail)
    if layout.pipeline_parallel > 1:
        detail = f"speculation with {layout.pipeline_parallel} pipeline stages works for single models only"
        yield Conflict(ConflictReason.SPECULATION_CONFLICT, detail)
    if layout.expert_parallel and speculation.kind in _DRAFTING_MODELS and known_version(version) == _SPREADS_DRAFTS:
        detail = f"vLLM {_SPREADS_DRAFTS} spreads the experts of the draft model too, and refuses one that has none"
        yield Conflict(ConflictReason.SPECULATION_CONFLICT, detail)


def _offload(settings: EngineSettings, accelerator: Accelerator) -> Iterator[Conflict]:
    """Source: vllm/v1/kv_offload/cpu/spec.py (CUDA, ROCm, XPU); blocks are found by their prefix hashes."""
    if not settings.kv_offload_bytes:
        return
    if accelerator.vendor is Vendor.CPU or accelerator.family.startswith("Gaudi"):
        detail = f"KV cache offload runs on CUDA, ROCm and XPU; {accelerator.name} is none of them"
        yield Conflict(ConflictReason.OFFLOAD_CONFLICT, detail)
    if settings.prefix_caching is False:
        detail = "KV cache offload finds blocks by their prefix, and prefix caching is off"
        yield Conflict(ConflictReason.OFFLOAD_CONFLICT, detail)


def _cpu(
    settings: EngineSettings, architecture: ModelArchitecture, accelerator: Accelerator, version: str
) -> Iterator[Conflict]:
    """Source: vllm/platforms/cpu.py; vllm/config/vllm.py: interactivity only shapes CUDA graphs."""
    if accelerator.vendor is not Vendor.CPU:
        return
    if settings.performance_mode is PerformanceMode.INTERACTIVITY:
        detail = "performance mode interactivity shapes CUDA graphs, which CPUs do not have"
        yield Conflict(ConflictReason.CPU_LIMIT, detail)
    by_reference = runs_mla_by_reference(architecture, accelerator, version)
    if by_reference and (settings.prefix_caching or settings.chunked_prefill):
        detail = f"latent attention on {accelerator.name} runs without prefix caching and chunked prefill"
        yield Conflict(ConflictReason.CPU_LIMIT, detail)


def _batching(effective: EffectiveSettings, architecture: ModelArchitecture) -> Iterator[Conflict]:
    """Source: vllm/config/scheduler.py verify_max_model_len; vllm/model_executor/models/config.py MambaModelConfig."""
    tokens, sequences, length = effective.max_num_batched_tokens, effective.max_num_seqs, effective.max_model_len
    if length > architecture.max_context_tokens:
        detail = f"max-model-len {length} is above the model's own {architecture.max_context_tokens}"
        yield Conflict(ConflictReason.CONTEXT_TOO_LONG, detail)
    if not effective.chunked_prefill and tokens < length:
        detail = f"without chunked prefill max-num-batched-tokens {tokens} must be at least max-model-len {length}"
        yield Conflict(ConflictReason.CHUNKED_PREFILL_CONFLICT, detail)
    if effective.prefix_caching and not effective.chunked_prefill and _has_recurrent_layers(architecture):
        # Their state is kept at the ends of blocks alone, and a prompt that is not cut steps over them.
        detail = f"{architecture.name} has recurrent layers: their prefix cache needs chunked prefill"
        yield Conflict(ConflictReason.CHUNKED_PREFILL_CONFLICT, detail)
    if tokens < sequences:
        detail = f"max-num-batched-tokens {tokens} must be at least max-num-seqs {sequences}"
        yield Conflict(ConflictReason.BATCH_LIMITS_CONFLICT, detail)


def _has_recurrent_layers(architecture: ModelArchitecture) -> bool:
    return any(isinstance(group.layer.mixer, RecurrentMixer) for group in architecture.layer_groups)
