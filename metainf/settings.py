"""What a vLLM engine is told, as values: the flags that methods change, and what they come to on a given machine.

Separate from `methods` (names for sets of these) and from argv (their spelling): predictors read `EffectiveSettings`
and do not care which method asked for them.
"""

from dataclasses import dataclass
from enum import StrEnum

from metainf.dtypes import DType

__all__ = ["EffectiveSettings", "EngineSettings", "PerformanceMode", "Speculation", "SpeculationKind"]


class SpeculationKind(StrEnum):
    """Where speculative tokens come from."""

    NGRAM = "ngram"  # from the prompt and the text so far
    EAGLE = "eagle"  # a trained head beside the model
    MTP = "mtp"  # the model's own next-token prediction layers
    DRAFT_MODEL = "draft_model"  # a small model of the same vocabulary


class PerformanceMode(StrEnum):
    """`--performance-mode` (vLLM >= 0.17)."""

    BALANCED = "balanced"
    INTERACTIVITY = "interactivity"
    THROUGHPUT = "throughput"


@dataclass(frozen=True, slots=True)
class Speculation:
    """Speculative decoding: where drafts come from, and how many tokens are drafted each step."""

    kind: SpeculationKind
    tokens: int


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What is asked of the engine; None leaves the vLLM version's own default alone."""

    prefix_caching: bool | None = None
    chunked_prefill: bool | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    long_prefill_token_threshold: int | None = None
    speculation: Speculation | None = None
    quantization: DType | None = None  # weights quantised while loading: FP8 alone
    kv_cache_dtype: DType | None = None
    kv_offload_bytes: int | None = None
    performance_mode: PerformanceMode | None = None
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    stream_interval: int | None = None
    kv_cache_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class EffectiveSettings:
    """What the engine runs with on a given accelerator, every default resolved."""

    prefix_caching: bool
    chunked_prefill: bool
    max_num_batched_tokens: int
    max_num_seqs: int
    long_prefill_token_threshold: int  # 0: no cap
    speculation: Speculation | None
    weight_dtype: DType | None  # None: as the checkpoint has them
    kv_cache_dtype: DType
    kv_offload_bytes: int
    performance_mode: PerformanceMode
    max_model_len: int
    gpu_memory_utilization: float
    block_tokens: int
    asynchronous_scheduling: bool
    stream_interval: int = 1
    kv_cache_memory_bytes: int | None = None  # None: what the memory leaves
