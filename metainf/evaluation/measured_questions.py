"""A measured row of a real server as a question to a predictor: what ran there, in our words.

Separate from the groups, which compare what was measured: here sources' names of models and flags are read, and what
cannot be said as a question (an unknown model or device, a flag that no setting stands for) is None and never guessed.

What is assumed. Prompts share nothing, so prefix caching is off. A checkpoint that is quantised where the bundled
config is not is asked about as its maker quantises: NVIDIA's of the silicon sample with ModelOpt, the cache in FP8 and
the head left out, in experts' models the attention and the routers too (as in hf_quant_config.json of
nvidia/Llama-3.1-70B-Instruct-FP8 and nvidia/MiniMax-M2.5-NVFP4), Qwen's of GPUStack in blocks of 128 x 128. The servers
of the silicon sample schedule asynchronously: its dumps are InferenceMAX's, whose recipes tell them so from 0.10 on. Of
GPUStack's workloads those with short prompts and longer answers are ShareGPT's, whose p95 is taken as three times the
mean, the others are of constant length. Deadlines play no part.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

from metainf import accelerators
from metainf.accelerators import Vendor
from metainf.architecture import ModelArchitecture
from metainf.corpus.public_rows import PLAIN
from metainf.dtypes import DType
from metainf.engine_defaults import effective_settings
from metainf.engine_versions import EngineVersion, parse_engine_version
from metainf.errors import InvalidWorkloadError
from metainf.known_models import known_model, known_model_config
from metainf.layouts import Layout
from metainf.measurements import Source
from metainf.methods import portfolio
from metainf.predictors.contract import Question, ReplicaSpec
from metainf.settings import EngineSettings, PerformanceMode, Speculation, SpeculationKind
from metainf.workload import BatchLoad, ConcurrencyLoad, TokenLengths, Traffic

__all__ = ["question_of"]

_GPUSTACK_MODELS: Mapping[str, str] = MappingProxyType(
    {
        "deepseek-r1": "deepseek-ai/DeepSeek-R1",
        "deepseek-v3.2": "deepseek-ai/DeepSeek-V3.2",
        "glm-5.2": "zai-org/GLM-5.2",
        "gpt-oss-120b": "openai/gpt-oss-120b",
        "gpt-oss-20b": "openai/gpt-oss-20b",
        "qwen3-14b": "Qwen/Qwen3-14B",
        "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B",
        "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B",
        "qwen3-32b": "Qwen/Qwen3-32B",
        "qwen3-8b": "Qwen/Qwen3-8B",
        "qwen3.5-35b-a3b": "Qwen/Qwen3.5-35B-A3B",
    }
)
"""Pages of GPUStack's lab -> bundled models of equal layers."""
_NATIVE_PRECISION = {None: "bf16", "fp8": "fp8", "mxfp4": "fp4"}
"""Of a bundled checkpoint's quantisation, as the silicon sample names precisions."""
_QUANTISED: Mapping[tuple[str, str], Mapping[str, Any]] = MappingProxyType(
    {
        (Source.SILICON, precision): {
            "quant_method": "modelopt",
            "quant_algo": algorithm,
            "kv_cache_quant_algo": "FP8",
            "ignore": ["lm_head"],
        }
        for precision, algorithm in (("fp8", "FP8"), ("fp4", "NVFP4"))
    }
    | {
        (Source.GPUSTACK, "fp8"): {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
        }
    }
)
"""Source and precision -> the `quantization_config` of such a checkpoint."""
_SPARED_BESIDE_EXPERTS = ("*self_attn*", "*gate")
_ASYNCHRONOUS_SINCE = EngineVersion(0, 14)
"""By default. Source: release notes of vLLM 0.14.0."""
_ANY_DEADLINE_S = 1e6
_CONTEXT_TOKENS = {Source.ARGONNE: 4096, Source.GPUSTACK: 40960}
_SPARE_TOKENS = 256
_SHAREGPT_P95_RATIO = 3.0
_SHAREGPT_TOKENS = (300.0, 50.0)  # prompts below, answers above


def question_of(row: Mapping[str, Any]) -> Question | None:
    """The row of a measurement table as a question about one replica; None where it cannot be put."""
    architecture = known_model(_GPUSTACK_MODELS.get(row["model"], row["model"]))
    device = accelerators.get(row["accelerator"])
    traffic = _traffic(row)
    if architecture is None or device is None or device.vendor is Vendor.CPU or traffic is None:
        return None
    told = _settings(row, architecture)
    if told is None:
        return None
    asked, checkpoint = told
    architecture = architecture if checkpoint is None else _quantised(architecture.name, row["source"], checkpoint)
    layout = Layout(
        row["tensor_parallel"], row["pipeline_parallel"], row["data_parallel"], expert_parallel=row["expert_parallel"]
    )
    settings = effective_settings(
        replace(asked, max_model_len=_context_tokens(row, architecture)),
        architecture=architecture,
        accelerator=device,
        layout=layout,
    )
    asynchronous = settings.asynchronous_scheduling and _is_asynchronous(row)
    settings = replace(settings, asynchronous_scheduling=asynchronous)
    return Question(ReplicaSpec(architecture, device, layout, settings), traffic)


def _traffic(row: Mapping[str, Any]) -> Traffic | None:
    inputs, outputs = row["input_tokens"] or 0.0, row["output_tokens"] or 0.0
    if inputs < 1.0 or outputs < 1.0:
        return None
    most_inputs, least_outputs = _SHAREGPT_TOKENS
    spread = row["source"] == Source.GPUSTACK and inputs < most_inputs and outputs > least_outputs
    prompts, answers = (
        TokenLengths(tokens, tokens * _SHAREGPT_P95_RATIO if spread else None) for tokens in (inputs, outputs)
    )
    if row["clients"] is not None:
        return Traffic(ConcurrencyLoad(row["clients"]), prompts, answers)
    if row["batch_requests"] is not None:
        return Traffic(BatchLoad(row["batch_requests"], _ANY_DEADLINE_S), prompts, answers)
    return None


def _context_tokens(row: Mapping[str, Any], architecture: ModelArchitecture) -> int:
    """What the server was told, or room for the longest request where that is not known."""
    longest: int = 2 * round(row["input_tokens"] + row["output_tokens"]) + _SPARE_TOKENS
    return min(_CONTEXT_TOKENS.get(row["source"], longest), architecture.max_context_tokens)


def _is_asynchronous(row: Mapping[str, Any]) -> bool:
    if row["source"] == Source.SILICON or "async-scheduling" in row["method"].split():
        return True
    try:
        return parse_engine_version(row["engine_version"]) >= _ASYNCHRONOUS_SINCE
    except InvalidWorkloadError:
        return False


_Told = tuple[EngineSettings, str | None]
"""Settings, and the precision of the checkpoint where it is not the bundled one's."""


def _settings(row: Mapping[str, Any], architecture: ModelArchitecture) -> _Told | None:
    """What the row's option asks of the engine, beyond its layout."""
    plain = EngineSettings(prefix_caching=False)
    if row["source"] == Source.ARGONNE:
        return plain, None
    if row["source"] == Source.SILICON:
        return _in_precision(plain, row["method"], row["source"], architecture)
    if row["source"] == Source.GPUSTACK:
        return _told(plain, row["method"], architecture)
    named = {name: each.settings for each in portfolio() for name in (each.name, *each.aliases)}
    return (named[row["method"]], None) if row["method"] in named else None


def _in_precision(
    settings: EngineSettings, precision: str, source: str, architecture: ModelArchitecture
) -> _Told | None:
    if precision == _NATIVE_PRECISION.get(architecture.quantization):
        return settings, None
    return (settings, precision) if (source, precision) in _QUANTISED else None


@cache
def _quantised(model: str, source: str, precision: str) -> ModelArchitecture:
    """The checkpoint of a bundled model in another precision."""
    config = known_model_config(model) or {}
    architecture = known_model(model)
    scheme = dict(_QUANTISED[Source(source), precision])
    if architecture is not None and architecture.is_moe and "ignore" in scheme:
        scheme["ignore"] = [*scheme["ignore"], *_SPARED_BESIDE_EXPERTS]
    return ModelArchitecture.from_config({**config, "quantization_config": scheme}, name=model)


def _told(settings: EngineSettings, option: str, architecture: ModelArchitecture) -> _Told | None:
    """The flags of an option as `public_rows` writes them; None where one of them stands for no setting."""
    if option == PLAIN:
        return settings, None
    words, precision = option.split(), None
    if "checkpoint" in words:
        at = words.index("checkpoint")
        changed = _in_precision(settings, words[at - 1].lower(), Source.GPUSTACK, architecture)
        if changed is None:
            return None
        precision, words = changed[1], [*words[: at - 1], *words[at + 1 :]]
    for word in words:
        name, _, value = word.partition("=")
        told = _flag(name, value, architecture)
        if told is None:
            return None
        settings = replace(settings, **told)
    return settings, precision


def _flag(name: str, value: str, architecture: ModelArchitecture) -> Mapping[str, Any] | None:
    """The setting of one flag as fields of `EngineSettings`; none for what another part of the row says."""
    if name in ("async-scheduling", "enable-expert-parallel"):
        return {}
    if name == "enable-prefix-caching":
        return {"prefix_caching": True}
    if name in ("max-num-seqs", "max-num-batched-tokens") and value.isdecimal():
        return {name.replace("-", "_"): int(value)}
    if name == "gpu-memory-utilization":
        return {"gpu_memory_utilization": float(value)}
    if name == "kv-cache-dtype" and value == "fp8":
        return {"kv_cache_dtype": DType.FP8}
    if name == "performance-mode" and value in set(PerformanceMode):
        return {"performance_mode": PerformanceMode(value)}
    if name == "speculative-config" and architecture.has_mtp:
        return _speculation(value)
    return None


def _speculation(text: str) -> Mapping[str, Any] | None:
    """Of MTP; heads that GPUStack names otherwise are other checkpoints, whose acceptance is not known."""
    try:
        told = json.loads(text.strip("'\""))
        kind, tokens = told["method"], int(told["num_speculative_tokens"])
    except (KeyError, TypeError, ValueError):
        return None
    return {"speculation": Speculation(SpeculationKind.MTP, tokens)} if kind == "mtp" else None
