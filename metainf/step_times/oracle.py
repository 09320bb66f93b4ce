"""The door to aiconfigurator-core, whose tables of measured operations are an optional build-time extra.

Separate so that one module knows that library: its names for devices and formats, its refusals, and its defects.
Imported by name only; the library itself is loaded when an engine is asked for.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.layers import AttentionKind, MixerKind, MlpKind
from metainf.predictors.contract import ReplicaSpec

__all__ = ["CORE_VERSION", "SYSTEMS", "RefusalReason", "System", "TableRefusal", "compiled", "installed", "refusal_of"]

CORE_VERSION = "0.12.0"
_BACKEND = "vllm"


@dataclass(frozen=True, slots=True)
class System:
    """A device as the tables name it, and the vLLM version that they were measured with."""

    name: str
    engine_version: str


SYSTEMS: Mapping[str, System] = {
    "A100-SXM-80GB": System("a100_sxm", "0.14.0"),
    "B200-SXM-180GB": System("b200_sxm", "0.24.0"),
    "B300-SXM-288GB": System("b300_sxm", "0.24.0"),
    "GB200-186GB": System("gb200", "0.24.0"),
    "GB300-279GB": System("gb300", "0.24.0"),
    "H100-SXM-80GB": System("h100_sxm", "0.24.0"),
    "H200-SXM-141GB": System("h200_sxm", "0.24.0"),
    "L40S-PCIe-48GB": System("l40s", "0.24.0"),
    "RTX-PRO-6000-Server-PCIe-96GB": System("rtx_pro_6000_server", "0.24.0"),
}
"""Catalogue name -> system. Source: systems/query_versions.yaml of aiconfigurator-core 0.12.0. Its tenth, the Arc Pro
B60, is not in the catalogue; its A100 has the bandwidth of the 80 GB card."""

_DYNAMIC_FP8_EXPERTS = frozenset({"L40S-PCIe-48GB"})
"""Where the rows of experts in FP8 are of the kernel for dynamic scales. Source: kernel_source in moe_perf.parquet."""


class RefusalReason(StrEnum):
    """Why there is no measured table."""

    ACCELERATOR = "accelerator"  # none of its operations was measured
    BLOCK_FP8 = "block-fp8"  # measured, but wrong
    KERNEL = "kernel"  # measured with a kernel that the engine would not use for it
    MODEL = "model"  # the library does not know the architecture
    DATA = "data"  # a shape or a format of it was not measured
    IMPLAUSIBLE = "implausible"  # priced far beyond what the operation can take
    NOT_ADDITIVE = "not-additive"  # its prices are no sum of what tokens, sequences and chunks cost
    NOT_SAMPLED = "not-sampled"  # not in the store, and the library is not installed


@dataclass(frozen=True, slots=True)
class TableRefusal:
    """An answer: no measured table, and why."""

    reason: RefusalReason
    message: str


def installed() -> bool:
    """Whether the library is there; nothing is imported."""
    return find_spec("aiconfigurator_core") is not None


def refusal_of(replica: ReplicaSpec) -> TableRefusal | None:
    """What can be told without the library.

    Block-wise FP8 is refused since the library's vLLM tables of it are wrong: never below 0.055 ms on Hopper, 0.15 on
    Blackwell and 0.28 on L40S, where SGLang's and TensorRT-LLM's on the same devices show 0.003 to 0.005 ms
    (ai-dynamo/aiconfigurator#1414).

    Experts that are quantised while loading are refused where the rows of FP8 are of checkpoints with static scales,
    which on Hopper take FlashInfer's CUTLASS kernels and 3 to 4 times as long as in 16 bits. `--quantization fp8` has
    dynamic scales, for which vLLM takes Triton (fused_moe/oracle/fp8.py): 0.5 to 0.8 of the time in 16 bits, by rows of
    H200 under 0.19.0 and of L40S under 0.24.0.
    """
    if replica.accelerator.name not in SYSTEMS:
        return TableRefusal(RefusalReason.ACCELERATOR, f"no operation was measured on {replica.accelerator.name}")
    storages = (linear.storage for group in replica.architecture.layer_groups for linear in group.layer.linears)
    if any(storage.gemm_dtype is DType.FP8 and storage.block_out > 1 for storage in storages):
        return TableRefusal(RefusalReason.BLOCK_FP8, f"{replica.architecture.name} is in block-wise FP8")
    is_narrowed = replica.settings.weight_dtype is DType.FP8 and _is_mixture(replica.architecture)
    if is_narrowed and replica.accelerator.name not in _DYNAMIC_FP8_EXPERTS:
        message = f"experts with dynamic scales in FP8 were not measured on {replica.accelerator.name}"
        return TableRefusal(RefusalReason.KERNEL, message)
    return None


def _is_mixture(architecture: ModelArchitecture) -> bool:
    return any(group.layer.mlp and group.layer.mlp.kind is MlpKind.MOE for group in architecture.layer_groups)


@dataclass(frozen=True, slots=True)
class _CoreEngine:
    """`metainf.step_times.sampling.Engine` over an EngineHandle."""

    handle: Any
    prompt_names: Sequence[str]
    decode_names: Sequence[str]

    def prompt_s(self, places: Sequence[int], tokens: int, before: int) -> float:
        """Seconds of operations of a prompt phase."""
        if not places:
            return 0.0
        values = self.handle.evaluate_context_ops(list(places), batch_size=1, s=tokens, prefix=before)
        return sum(float(value[1]) for value in values) / 1e3

    def decode_s(self, places: Sequence[int], sequences: int, context: int) -> float:
        """Seconds of operations of a decoding step."""
        if not places:
            return 0.0
        values = self.handle.evaluate_generation_ops(list(places), batch_size=sequences, s=context)
        return sum(float(value[1]) for value in values) / 1e3


def compiled(
    replica: ReplicaSpec, config: Mapping[str, object], hf_quant_config: Mapping[str, object] | None
) -> _CoreEngine | TableRefusal:
    """An engine that prices the replica's operations; needs the library."""
    from aiconfigurator_core.sdk import EngineHandle

    system = SYSTEMS[replica.accelerator.name]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(_known_config(replica.architecture, config)))
        if hf_quant_config is not None:
            Path(folder, "hf_quant_config.json").write_text(json.dumps(hf_quant_config))
        try:
            handle = EngineHandle.compile(
                folder, system.name, _BACKEND, backend_version=system.engine_version, **_options(replica)
            )
            names = _names(lambda at: handle.evaluate_context_ops([at], batch_size=1, s=16))
            decode_names = _names(lambda at: handle.evaluate_generation_ops([at], batch_size=1, s=16))
        except Exception as error:  # its refusals have no base in common, and KeyError is one of them
            return refused(replica, error)
    return _CoreEngine(handle, names, decode_names)


def refused(replica: ReplicaSpec, error: Exception) -> TableRefusal:
    """What the library raised, as an answer."""
    text = " ".join(str(error).split())[:200]
    missing = "PerfData" in type(error).__name__ or "Missing" in type(error).__name__ or "perf database" in text
    reason = RefusalReason.DATA if missing else RefusalReason.MODEL
    return TableRefusal(reason, f"{replica.architecture.name} on {replica.accelerator.name}: {text}")


def _names(evaluate: Callable[[int], Sequence[Any]]) -> list[str]:
    """Names of all operations by place; the report per step folds equal ones, so places are tried one by one."""
    names: list[str] = []
    while True:
        try:
            names.append(str(evaluate(len(names))[0][0]))
        except ValueError as error:
            if "out of range" in str(error):
                return names
            raise


def _options(replica: ReplicaSpec) -> dict[str, object]:
    layout, settings = replica.layout, replica.settings
    options: dict[str, object] = {"tp_size": layout.tensor_parallel, "pp_size": layout.pipeline_parallel}
    if _is_mixture(replica.architecture):
        ranks = layout.tensor_parallel * layout.data_parallel
        options["attention_dp_size"] = layout.data_parallel
        options["moe_tp_size"] = 1 if layout.expert_parallel else ranks
        options["moe_ep_size"] = ranks if layout.expert_parallel else 1
    if settings.weight_dtype is DType.FP8:
        options["gemm_quant_mode"] = options["moe_quant_mode"] = "fp8"
    if settings.kv_cache_dtype is DType.FP8:
        options["kvcache_quant_mode"] = "fp8"
    return options


def _known_config(architecture: ModelArchitecture, config: Mapping[str, object]) -> dict[str, object]:
    """The config as the library reads it: plain decoders are Llamas to it, and what Transformers fills in is spelt out.

    Source of the fill-ins: transformers, configuration_qwen3_5.py (layer_types from full_attention_interval) and
    configuration_nemotron_h.py (chunk_size).
    """
    known = dict(config)
    text = known.get("text_config")
    if isinstance(text, Mapping) and "full_attention_interval" in text and not text.get("layer_types"):
        every, layers = text["full_attention_interval"], range(1, text["num_hidden_layers"] + 1)
        kinds = ["linear_attention" if layer % every else "full_attention" for layer in layers]
        known["text_config"] = {**text, "layer_types": kinds}
    if "hybrid_override_pattern" in known:
        known.setdefault("chunk_size", 128)
    if architecture.architecture in _LLAMA_SHAPED and _is_plain(architecture):
        known.update(architectures=["LlamaForCausalLM"], model_type="llama")
    return known


_LLAMA_SHAPED = frozenset({"MistralForCausalLM", "Olmo2ForCausalLM", "Phi3ForCausalLM"})
"""Grouped-query attention and a gated MLP of the same matrices, fused or not; norms stand elsewhere in OLMo 2."""


def _is_plain(architecture: ModelArchitecture) -> bool:
    """Whether every layer attends to the whole context and has a gated dense MLP."""
    return all(
        group.layer.mixer is not None
        and group.layer.mixer.kind is MixerKind.FULL
        and group.layer.mixer.attention_kind is not AttentionKind.MLA
        and group.layer.mlp is not None
        and group.layer.mlp.kind is MlpKind.DENSE
        and group.layer.mlp.gated
        for group in architecture.layer_groups
    )
