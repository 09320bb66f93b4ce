"""The acceleration techniques of vLLM: what each is good and bad for, its flags, and what it costs in answers.

Separate from methods: a technique is a fact about the engine, a method is a choice of several of them. The figures in
the sentences are measurements of others or our own, named in `source`.
"""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Technique", "TechniqueFacts"]


class Technique(StrEnum):
    """One acceleration technique; `facts` says what is known about it."""

    CONTINUOUS_BATCHING = "continuous-batching"
    PREFIX_CACHING = "prefix-caching"
    CHUNKED_PREFILL = "chunked-prefill"
    TOKEN_BUDGET = "token-budget"
    SEQUENCE_LIMIT = "sequence-limit"
    LONG_PREFILL_THRESHOLD = "long-prefill-threshold"
    PERFORMANCE_MODE = "performance-mode"
    STREAM_INTERVAL = "stream-interval"
    NGRAM_SPECULATION = "ngram-speculation"
    EAGLE_SPECULATION = "eagle-speculation"
    MTP_SPECULATION = "mtp-speculation"
    FP8_WEIGHTS = "fp8-weights"
    FP8_KV_CACHE = "fp8-kv-cache"
    KV_OFFLOAD = "kv-offload"

    @property
    def facts(self) -> "TechniqueFacts":
        """What is known about the technique."""
        return _FACTS[self]

    @property
    def lossy(self) -> bool:
        """Whether the technique can change the model's answers."""
        return _FACTS[self].lossy

    def conflicts_with(self, other: "Technique") -> bool:
        """Whether the two exclude each other; the same read either way round."""
        return other.value in _FACTS[self].conflicts or self.value in _FACTS[other].conflicts


@dataclass(frozen=True, slots=True)
class TechniqueFacts:
    """One row of the catalogue. `conflicts` are names of techniques that exclude this one."""

    flags: tuple[str, ...]
    helps: str
    hurts: str
    hardware: str
    source: str
    lossy: bool = False
    conflicts: tuple[str, ...] = ()


_SPECULATION_FLAGS = ("speculative-config",)

_FACTS = {
    Technique.CONTINUOUS_BATCHING: TechniqueFacts(
        flags=("max-num-seqs",),
        helps="Every concurrent load: new requests join a running batch at each step.",
        hurts="Nothing known; it is the engine itself and only max-num-seqs 1 takes it away.",
        hardware="Any.",
        source="vLLM 0.32.0 vllm/v1/core/sched/scheduler.py; vLLM blog 2025-01-27 on V1",
    ),
    Technique.PREFIX_CACHING: TechniqueFacts(
        flags=("enable-prefix-caching",),
        helps="Shared system prompts, many turns, long documents: prefill is skipped for what was seen before.",
        hurts="Under 1 % where nothing is shared; no gain where decoding dominates.",
        hardware="Any; CPUs with multi-head latent attention and no AMX run without it.",
        source="vLLM docs features/automatic_prefix_caching; own CPU runs: 4.9x requests/s at 16 clients",
    ),
    Technique.CHUNKED_PREFILL: TechniqueFacts(
        flags=("enable-chunked-prefill", "max-num-batched-tokens"),
        helps="Long prompts among short ones: decoding goes on beside a prefill.",
        hurts="The first token of a long prompt comes a little later.",
        hardware="Any; vLLM does not officially support generation without it.",
        source="vLLM 0.32.0 vllm/engine/arg_utils.py, warning on disabling; docs configuration/optimization",
    ),
    Technique.TOKEN_BUDGET: TechniqueFacts(
        flags=("max-num-batched-tokens",),
        helps="Small: smoother gaps between tokens. Large: throughput and time to first token of long prompts.",
        hurts="Small: time to first token under load (2.2x at 256 on CPU). Large: gaps between tokens, memory.",
        hardware="Large budgets lower the throughput of A100 (vLLM PR 17885).",
        source="vLLM docs configuration/optimization; own CPU runs",
    ),
    Technique.SEQUENCE_LIMIT: TechniqueFacts(
        flags=("max-num-seqs",),
        helps="High: throughput until the KV cache is full. Low: time per output token.",
        hurts="High: preemption and recomputing. Low: requests wait, so time to first token.",
        hardware="Any; it also sizes the CUDA graphs.",
        source="vLLM docs configuration/optimization; own CPU runs: 64 clients, 15 ms at 16, 42 to 50 ms at 128",
    ),
    Technique.LONG_PREFILL_THRESHOLD: TechniqueFacts(
        flags=("long-prefill-token-threshold",),
        helps="Short prompts beside long ones: the long ones are cut smaller, the short ones go first.",
        hurts="Time to first token of the long prompts.",
        hardware="Any.",
        source="vLLM 0.32.0 vllm/config/scheduler.py; own CPU runs: p95 of the short prompts 10x lower",
    ),
    Technique.PERFORMANCE_MODE: TechniqueFacts(
        flags=("performance-mode",),
        helps="interactivity: a CUDA graph for each batch size up to 32; throughput: both batch limits doubled.",
        hurts="Small effects alone (-0.3 to +2 %).",
        hardware="interactivity needs CUDA graphs.",
        source="vLLM 0.32.0 arg_utils.py and config/vllm.py; GPUStack Performance Lab",
    ),
    Technique.STREAM_INTERVAL: TechniqueFacts(
        flags=("stream-interval",),
        helps="Many concurrent streams: less work of the host per token.",
        hurts="Tokens arrive in lumps.",
        hardware="Any.",
        source="vLLM 0.32.0 vllm/config/scheduler.py; vLLM blog 2026-02-01",
    ),
    Technique.NGRAM_SPECULATION: TechniqueFacts(
        flags=_SPECULATION_FLAGS,
        helps="Answers that repeat the prompt or themselves, at low load: 1.9 to 2.1x.",
        hurts="Other text and high load: 0.5 to 0.9x; asynchronous scheduling goes off.",
        hardware="Any.",
        source="own CPU runs; vLLM issues 16258, 19254, 27379; vLLM 0.32.0 vllm/config/vllm.py",
        conflicts=("eagle-speculation", "mtp-speculation"),
    ),
    Technique.EAGLE_SPECULATION: TechniqueFacts(
        flags=_SPECULATION_FLAGS,
        helps="Low and medium load: 1.66x at 16 clients, 2.03x at 1.",
        hurts="High load, where compute binds: 1.4 to 1.8x slower; needs a head trained for the model.",
        hardware="Not with pipeline parallelism on models that do not pass hidden states on.",
        source="vLLM blogs 2024-10-17 and 2026-05-26; vLLM 0.32.0 worker/gpu/spec_decode/eagle/eagle3_utils.py",
        conflicts=("ngram-speculation", "mtp-speculation"),
    ),
    Technique.MTP_SPECULATION: TechniqueFacts(
        flags=_SPECULATION_FLAGS,
        helps="Models with next-token prediction layers at low and medium load: 1.09x to 1.9x.",
        hurts="Deep speculation at saturation: at 4 tokens half of the requests failed in a benchmark.",
        hardware="Any that serves the model.",
        source="GPUStack Performance Lab, Qwen3.5 on H100 and H200; vLLM 0.32.0 vllm/config/speculative.py",
        conflicts=("ngram-speculation", "eagle-speculation"),
    ),
    Technique.FP8_WEIGHTS: TechniqueFacts(
        flags=("quantization",),
        helps="Half the weight memory and traffic; on Ada, Hopper and Blackwell FP8 compute too: +15 to +27 %.",
        hurts="On Ampere and Turing weights alone are FP8 (Marlin): -7 to -43 % under load. Small loss of accuracy.",
        hardware="NVIDIA from 7.5, FP8 compute from 8.9; AMD MI300 and later; not CPU.",
        source="vLLM 0.32.0 layers/quantization/fp8.py (minimum capability 75); GPUStack Performance Lab",
        lossy=True,
    ),
    Technique.FP8_KV_CACHE: TechniqueFacts(
        flags=("kv-cache-dtype",),
        helps="Long contexts and caches that are full: twice the tokens fit, +14.9 % at 20k in and 2k out.",
        hurts="Short contexts: break-even near 7k tokens. Uncalibrated scales lose accuracy.",
        hardware="NVIDIA from 8.9; AMD MI300 and later; vLLM's CPU backend takes it.",
        source="vLLM blog 2026-04-22; vLLM 0.32.0 vllm/v1/attention/backends/triton_attn.py (needs SM89)",
        lossy=True,
    ),
    Technique.KV_OFFLOAD: TechniqueFacts(
        flags=("kv-offloading-size",),
        helps="Prefixes that are shared but no longer fit: they come back over PCIe instead of being recomputed.",
        hurts="-3 to -15 % where nothing comes back; takes host memory.",
        hardware="CUDA, ROCm and XPU; needs prefix caching.",
        source="vLLM blog 2026-01-08; vLLM 0.32.0 vllm/v1/kv_offload/cpu/spec.py; GPUStack Performance Lab",
    ),
}
