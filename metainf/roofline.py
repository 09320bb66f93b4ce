"""Step times of the engine from first principles: bytes over bandwidth, operations over peak, and fixed costs.

Separate from the queueing model, which decides how many sequences and prompt tokens share a step, and from the
calibrated constants (`efficiencies`), so that either can be judged or replaced alone.

A step is one pass of a batch through all layers. A replica with pipeline stages or data-parallel ranks counts as that
many lanes: each lane has its own requests and takes a step through all layers with the shards of one rank. With every
stage busy on another lane's batch, that is also the rate at which a lane's steps complete.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metainf.cpu_shares import computing_share, cpu_share
from metainf.dtypes import DType
from metainf.efficiencies import Efficiency
from metainf.errors import InvalidWorkloadError
from metainf.layers import (
    LatentAttention,
    Layer,
    Linear,
    Mixer,
    MlpKind,
    Part,
    RecurrentMixer,
    Split,
)
from metainf.predictors.contract import ReplicaSpec
from metainf.weights import loaded_bits_per_weight

__all__ = [
    "INTERACTIVITY_SCALE",
    "INTERACTIVITY_TOKENS",
    "SYNC_HOST_FACTOR",
    "StepModel",
    "StepWork",
    "calibrated",
    "mapped",
    "step_time_s",
    "step_values",
    "step_work",
]

FloatArray = NDArray[np.float64]

_WIDER: dict[DType, tuple[DType, ...]] = {
    DType.FP4: (DType.FP4, DType.BF16, DType.FP16, DType.FP32),
    DType.INT4: (DType.BF16, DType.FP16, DType.FP32),
    DType.FP8: (DType.FP8, DType.BF16, DType.FP16, DType.FP32),
    DType.INT8: (DType.INT8, DType.BF16, DType.FP16, DType.FP32),
    DType.BF16: (DType.BF16, DType.FP16, DType.FP32),
    DType.FP16: (DType.FP16, DType.BF16, DType.FP32),
    DType.FP32: (DType.FP32,),
}
"""Where a format has no units of its own, vLLM widens the weights and multiplies in the next format that has.

Source: vLLM docs features/quantization, supported hardware (Marlin kernels are weight-only).
"""

INTERACTIVITY_TOKENS = 32
"""Largest step that performance mode interactivity changes: it captures finer graphs up to here and does nothing else.

Source: vLLM 0.32.0, vllm/config/vllm.py, _set_cudagraph_sizes.
"""
INTERACTIVITY_SCALE = 0.985
"""What it makes of such a step. Source: GPUStack Performance Lab, Qwen3.5-9B on H100: 1.09x to 1.10x with interactivity
on top of MTP."""

SYNC_HOST_FACTOR = 2.0
"""Host work that the accelerator waits for without asynchronous scheduling.

Source: 10 % of throughput on H200 and B200 (vLLM blog 2026-02-01), 12 to 16 % for small models (GPUStack Performance
Lab), where a step takes 5 to 10 ms.
"""


@dataclass(frozen=True, slots=True)
class StepModel:
    """Coefficients of the step time of one lane; seconds, per token, per sequence or per cached token as named."""

    fixed_s: float
    """Kernels of all layers at their least, and host work that is not hidden."""
    collective_s: float
    """Latencies of collectives, and of what stages hand on."""
    sequence_s: float
    """Host work per scheduled sequence, and the recurrent state read and written."""
    token_s: float
    """Norms and activations per token."""
    link_token_s: float
    """One token's hidden states through the links."""
    dense_read_s: float
    dense_token_s: float
    expert_read_s: float
    expert_token_s: float
    expert_miss_log: float
    """log(1 - k/E): a token misses a given expert with probability 1 - k/E."""
    expert_lanes: float
    """Lanes whose tokens meet at the experts."""
    head_read_s: float
    head_row_s: float
    cache_read_s: float
    """Per sequence and cached token of the layers that see the whole context."""
    cache_token_s: float
    """The same for the arithmetic of one decoded token."""
    window_read_s: float
    window_tokens: float
    prompt_pair_s: float
    """Per prompt token and token that it attends to, layers with the whole context."""
    prompt_pair_window_s: float
    overlap: float
    """Share of the smaller of reading and computing that does not hide behind the larger."""


@dataclass(frozen=True, slots=True)
class StepWork:
    """What the steps of one lane have to do, as time at the datasheet's speed; nothing here is calibrated."""

    layers: float
    expert_layers: float
    collectives: float
    """Collectives per step, each weighted with the doublings of the ranks that take part."""
    hops: float
    """Transfers between pipeline stages per step."""
    dense_read_s: float
    dense_token_s: float
    dense_narrow_token_s: float
    """Products of less than 16 bits."""
    dense_loaded_read_s: float
    """Weights that were quantised while loading, and are multiplied in less than 16 bits."""
    dense_loaded_token_s: float
    expert_read_s: float
    expert_token_s: float
    expert_narrow_token_s: float
    expert_loaded_read_s: float
    expert_loaded_token_s: float
    expert_miss_log: float
    expert_lanes: float
    head_read_s: float
    head_row_s: float
    cache_read_s: float
    narrow_cache_read_s: float
    """A cache of less than 16 bits."""
    cache_token_s: float
    window_read_s: float
    narrow_window_read_s: float
    window_tokens: float
    prompt_pair_s: float
    prompt_pair_window_s: float
    state_s: float
    """Recurrent state of one sequence, read and written."""
    hidden_token_s: float
    """One pass of one token's hidden state over the memory, all layers."""
    expert_hidden_token_s: float
    """The same for its copies, one for each expert that it goes to."""
    link_token_s: float
    """One token's hidden state through the links in all collectives."""


def calibrated(work: StepWork, efficiency: Efficiency) -> StepModel:
    """Step-time coefficients of the work on silicon that reaches this share of its datasheet.

    Works on floats and on arrays of equal shape alike.
    """
    w, e = work, efficiency
    dense_narrow_token_s = w.dense_narrow_token_s + w.dense_loaded_token_s / e.loaded_ratio
    expert_narrow_token_s = w.expert_narrow_token_s + w.expert_loaded_token_s / e.loaded_ratio
    return StepModel(
        fixed_s=w.layers * e.layer_s + w.expert_layers * e.expert_layer_s + e.host_s,
        collective_s=(w.collectives + w.hops) * e.collective_s,
        sequence_s=e.sequence_host_s + w.state_s / e.cache_memory,
        token_s=(w.hidden_token_s * e.activation_passes + w.expert_hidden_token_s * e.expert_passes) / e.memory,
        link_token_s=w.link_token_s / e.link,
        dense_read_s=(w.dense_read_s + w.dense_loaded_read_s / e.loaded_ratio) / e.memory,
        dense_token_s=(w.dense_token_s + dense_narrow_token_s / e.narrow_matrix_ratio) / e.matrix,
        expert_read_s=(w.expert_read_s + w.expert_loaded_read_s / e.loaded_ratio) / e.memory,
        expert_token_s=(w.expert_token_s + expert_narrow_token_s / e.narrow_matrix_ratio)
        / (e.matrix * e.expert_matrix_ratio),
        expert_miss_log=w.expert_miss_log,
        expert_lanes=w.expert_lanes,
        head_read_s=w.head_read_s / e.memory,
        head_row_s=w.head_row_s / e.matrix,
        cache_read_s=(w.cache_read_s + w.narrow_cache_read_s / e.narrow_cache_ratio) / e.cache_memory,
        cache_token_s=w.cache_token_s / e.attention_matrix,
        window_read_s=(w.window_read_s + w.narrow_window_read_s / e.narrow_cache_ratio) / e.cache_memory,
        window_tokens=w.window_tokens,
        prompt_pair_s=w.prompt_pair_s / e.attention_matrix,
        prompt_pair_window_s=w.prompt_pair_window_s / e.attention_matrix,
        overlap=e.overlap,
    )


def mapped(model: StepModel, change: Callable[[FloatArray], FloatArray]) -> StepModel:
    """The model with `change` applied to the array of every field."""
    columns: list[Any] = [change(np.asarray(value, dtype=np.float64)) for value in step_values(model)]
    return StepModel(*columns)


step_values = attrgetter(*(f.name for f in fields(StepModel)))
"""The fields of a StepModel, in their order."""


def step_time_s(
    model: StepModel,
    sequences: FloatArray | float,
    context_tokens: FloatArray | float,
    prompt_tokens: FloatArray | float = 0.0,
    prompt_context_tokens: FloatArray | float = 0.0,
    *,
    tokens_per_sequence: FloatArray | float = 1.0,
    prompt_lanes: FloatArray | float | None = None,
) -> FloatArray:
    """Time of one step of one lane, seconds; all arguments broadcast.

    Parameters
    ----------
    sequences : decoding sequences in the step
    context_tokens : mean cached tokens of these
    prompt_tokens : prompt tokens in the step, of all prompts together
    prompt_context_tokens : tokens that such a token attends to, on average
    tokens_per_sequence : tokens that each decoding sequence has in the step: drafts to verify and one
    prompt_lanes : lanes with prompt tokens of those that meet at the experts; all of them where it is not said
    """
    m = model
    decoded = sequences * tokens_per_sequence
    tokens = decoded + prompt_tokens
    read = m.dense_read_s * (tokens > 0)
    compute = tokens * m.dense_token_s
    dense = np.maximum(read, compute) + m.overlap * np.minimum(read, compute)
    experts: FloatArray | float = 0.0
    if np.any(m.expert_token_s):  # without experts the exponential is most of the work here
        together = decoded * m.expert_lanes + prompt_tokens * (m.expert_lanes if prompt_lanes is None else prompt_lanes)
        expert_read = m.expert_read_s * -np.expm1(together * m.expert_miss_log)
        expert_compute = together * m.expert_token_s
        experts = np.maximum(expert_read, expert_compute) + m.overlap * np.minimum(expert_read, expert_compute)
    full = np.maximum(sequences * m.cache_read_s, decoded * m.cache_token_s) * context_tokens
    window = sequences * m.window_read_s * np.minimum(context_tokens, m.window_tokens)
    attended = prompt_context_tokens
    pairs = m.prompt_pair_s * attended + m.prompt_pair_window_s * np.minimum(attended, m.window_tokens)
    # What prompts have no part in first: it is of half the size where steps with and without them are asked for.
    fixed_s, token_s = m.fixed_s + m.collective_s + m.head_read_s, m.token_s + m.link_token_s
    decode = full + window + (fixed_s + sequences * m.sequence_s + decoded * (m.head_row_s + token_s))
    prompt = prompt_tokens * (pairs + token_s) + np.minimum(prompt_tokens, 1.0) * m.head_row_s
    return np.asarray(dense + experts + (decode + prompt), dtype=np.float64)


def step_work(replica: ReplicaSpec) -> StepWork:
    """The work of one lane of the replica, from the architecture's layers and the accelerator's datasheet."""
    return _Counter(replica).work()


class _Counter:
    """Adds up the layers of one replica; exists only inside `step_work`."""

    def __init__(self, replica: ReplicaSpec) -> None:
        self.architecture = replica.architecture
        self.settings = replica.settings
        self.speeds = _Speeds(replica)
        self.tp = replica.layout.tensor_parallel
        self.dp = replica.layout.data_parallel
        self.pp = replica.layout.pipeline_parallel
        self.activation = replica.architecture.dtype
        self.expert_ranks = self.tp * self.dp
        self.ep = self.expert_ranks if replica.layout.expert_parallel else 1
        self.totals = dict.fromkeys((f.name for f in fields(StepWork)), 0.0)

    def work(self) -> StepWork:
        t = self.totals
        for group in self.architecture.layer_groups:
            self._add_layer(group.layer, group.count)
        hidden = self.architecture.hidden_size
        width = self.activation.bytes_per_value
        head = self.architecture.vocab_size * self.architecture.embedding_size / self.tp
        storage = self.architecture.head_storage
        t["head_read_s"] = head * storage.bits_per_weight / 8.0 / self.speeds.bandwidth
        t["head_row_s"] = 2.0 * head / self.speeds.peak(storage.gemm_dtype)
        t["hops"] = self.pp - 1.0
        t["link_token_s"] += (self.pp - 1.0) * hidden * width / self.speeds.link
        t["expert_lanes"] = float(self.dp)
        return StepWork(**t)

    def _add_layer(self, layer: Layer, count: int) -> None:
        t = self.totals
        t["layers"] += count
        for linear in layer.linears:
            self._add_linear(linear, count)
        if layer.mixer is not None:
            self._add_mixer(layer.mixer, count)
        hidden_bytes = self.architecture.hidden_size * self.activation.bytes_per_value
        is_moe = layer.mlp is not None and layer.mlp.kind is MlpKind.MOE
        if is_moe and layer.mlp is not None:
            chosen, experts = layer.mlp.experts_per_token, layer.mlp.experts
            t["expert_layers"] += count
            t["expert_miss_log"] = math.log1p(-min(0.999999, chosen / experts))
            # With whole experts on the ranks, a rank handles its part of the copies; cut experts each handle all.
            copies = chosen / (self.tp if self.ep > 1 else 1.0)
            t["expert_hidden_token_s"] += count * copies * hidden_bytes / self.speeds.bandwidth
        t["hidden_token_s"] += count * hidden_bytes / self.speeds.bandwidth
        self._add_collectives(count, hidden_bytes, is_moe)

    def _add_collectives(self, count: int, hidden_bytes: float, is_moe: bool) -> None:
        """All-reduces after attention and MLP; with data parallelism experts gather and scatter over all lanes.

        Source: a ring all-reduce moves 2 (n - 1) / n of the message per rank; all-gather and reduce-scatter, half
        of that each (NCCL tests, PERFORMANCE.md).
        """
        t = self.totals
        plain = 1.0 if is_moe and self.dp > 1 else 2.0
        if self.tp > 1:
            t["collectives"] += plain * count * math.log2(self.tp)
            moved = 2.0 * (self.tp - 1) / self.tp * hidden_bytes
            t["link_token_s"] += plain * count * moved / self.speeds.link
        if is_moe and self.dp > 1:
            ranks = self.expert_ranks
            t["collectives"] += 2.0 * count * math.log2(ranks)
            moved = 2.0 * (ranks - 1) / ranks * hidden_bytes * self.dp
            t["link_token_s"] += count * moved / self.speeds.link

    def _add_linear(self, linear: Linear, count: int) -> None:
        t = self.totals
        is_expert = linear.part is Part.EXPERT
        stored_bits, gemm = self.speeds.format_of(linear)
        scale = stored_bits / linear.storage.bits_per_weight
        ranks = self.expert_ranks if is_expert else self.tp
        ep = self.ep if is_expert else 1
        stored = linear.weight_bytes_per_rank(self.activation, ranks, ep) * scale * count
        if is_expert:
            shards = float(ranks)
        elif linear.split is Split.REPLICATED:
            shards = 1.0
        else:
            shards = float(min(self.tp, linear.max_shards) if linear.max_shards else self.tp)
        multiplied = self.speeds.multiplied_in(gemm)
        compute_s = 2.0 * linear.active_parameters / shards * count / self.speeds.peak(gemm)
        name = "expert" if is_expert else "dense"
        is_narrow = multiplied.bytes_per_value < 2
        loaded = "_loaded" if is_narrow and stored_bits < linear.storage.bits_per_weight else ""
        t[f"{name}{loaded}_read_s"] += stored / self.speeds.bandwidth
        t[f"{name}{loaded or ('_narrow' if is_narrow else '')}_token_s"] += compute_s

    def _add_mixer(self, mixer: Mixer, count: int) -> None:
        t = self.totals
        kv = self.settings.kv_cache_dtype
        half_peak = self.speeds.peak(self.activation)
        if isinstance(mixer, RecurrentMixer):
            t["state_s"] += 2.0 * count * mixer.kv_bytes(1, kv, self.tp) / self.speeds.bandwidth
            per_token = count * mixer.flops_per_token(1, decode=False) / self.tp
            t["dense_token_s"] += per_token / half_peak
            return
        read = count * mixer.kv_bytes(1, kv, self.tp) / self.speeds.bandwidth
        pair = count * mixer.flops_per_token(1, decode=False) / self.tp / half_peak
        window = mixer.sparse_topk if isinstance(mixer, LatentAttention) else mixer.window_tokens
        narrow = "narrow_" if kv.bytes_per_value < 2 else ""
        if window is None:
            t[f"{narrow}cache_read_s"] += read
            t["cache_token_s"] += count * mixer.flops_per_token(1, decode=True) / self.tp / half_peak
            t["prompt_pair_s"] += pair
            return
        t[f"{narrow}window_read_s"] += read
        t["window_tokens"] = max(t["window_tokens"], float(window))
        t["prompt_pair_window_s"] += pair


class _Speeds:
    """Datasheet speeds of one accelerator of the replica, or of its share of a CPU."""

    def __init__(self, replica: ReplicaSpec) -> None:
        accelerator = replica.accelerator
        self._accelerator = accelerator
        self._weight_dtype = replica.settings.weight_dtype
        self._computing = computing_share(replica)
        self.bandwidth = accelerator.memory_bandwidth_bytes_per_s * cpu_share(replica)
        self.link = accelerator.bytes_per_s_among(replica.layout.accelerators)

    def multiplied_in(self, dtype: DType) -> DType:
        """This format, or the nearest wider one that the silicon multiplies."""
        for candidate in _WIDER[dtype]:
            if self._accelerator.flops_for(candidate):
                return candidate
        raise InvalidWorkloadError(
            f"{self._accelerator.name} has no known speed for {dtype}: choose another accelerator or checkpoint"
        )

    def peak(self, dtype: DType) -> float:
        """FLOP/s at this format, or at the nearest wider one that the silicon has."""
        return float(self._accelerator.flops[self.multiplied_in(dtype)]) * self._computing

    def format_of(self, linear: Linear) -> tuple[float, DType]:
        """Bits per weight and multiplication format with the settings' quantisation while loading."""
        bits = loaded_bits_per_weight(linear, self._weight_dtype)
        narrowed = bits < linear.storage.bits_per_weight
        return bits, DType.FP8 if narrowed else linear.storage.gemm_dtype
