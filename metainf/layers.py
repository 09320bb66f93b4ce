"""What one decoder layer is made of: a token mixer, an MLP, and the matrices behind them.

Separate because the families build layers, quantisation rewrites their matrices, `ModelArchitecture` adds them up
and a step-time model loops over them, and none of these should import another.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from metainf.dtypes import DType

__all__ = [
    "AttentionKind",
    "LatentAttention",
    "Layer",
    "LayerGroup",
    "Linear",
    "Mixer",
    "MixerKind",
    "Mlp",
    "MlpKind",
    "Part",
    "RecurrentMixer",
    "SoftmaxAttention",
    "Split",
    "Storage",
]


class AttentionKind(StrEnum):
    """How queries share keys and values."""

    MHA = "mha"
    GQA = "gqa"
    MQA = "mqa"
    MLA = "mla"
    RECURRENT = "recurrent"


class MixerKind(StrEnum):
    """How far back a layer looks."""

    FULL = "full"
    SLIDING = "sliding"
    CHUNKED = "chunked"
    SPARSE = "sparse"
    GATED_DELTA = "gated-delta"
    MAMBA2 = "mamba2"


class MlpKind(StrEnum):
    """Whether each token passes the whole MLP or a few experts."""

    DENSE = "dense"
    MOE = "moe"


class Part(StrEnum):
    """What a matrix belongs to, for adding up parameters."""

    ATTENTION = "attention"
    MLP = "mlp"
    ROUTER = "router"
    EXPERT = "expert"
    SHARED_EXPERT = "shared-expert"
    HEAD = "head"


class Split(StrEnum):
    """How tensor parallelism divides a matrix."""

    COLUMN = "column"
    ROW = "row"
    KV_HEADS = "kv-heads"
    REPLICATED = "replicated"


@dataclass(frozen=True, slots=True)
class Storage:
    """How a matrix is stored and in which format it is multiplied."""

    weight_dtype: DType
    bits_per_weight: float
    """With the scales and zero points of a quantised format."""
    gemm_dtype: DType
    """What the matrix units work in: the activations' format, or the narrower one that they are quantised to."""
    block_out: int = 1
    """Output features that share a scale; a rank's part must be a multiple."""
    block_in: int = 1
    """Input features that share a scale; a rank's part must be a multiple."""

    @staticmethod
    def plain(dtype: DType) -> "Storage":
        """Unquantised storage."""
        return Storage(dtype, 8 * dtype.bytes_per_value, dtype)


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix of a layer, or as many equal ones as there are experts."""

    name: str
    """Inside the layer, as the checkpoint has it: `self_attn.q_proj`; of experts, the first one's."""
    in_features: int
    out_features: int
    part: Part
    split: Split = Split.COLUMN
    bias: bool = False
    copies: int = 1
    active_copies: int = 1
    max_shards: int = 0
    """Most ranks that hold different parts of it; 0 where only its size limits that."""
    storage: Storage = Storage(DType.BF16, 16.0, DType.BF16)
    quantisable: bool = True

    @property
    def weights_per_copy(self) -> int:
        """Entries of one matrix, without its bias."""
        return self.in_features * self.out_features

    @property
    def parameters(self) -> int:
        """Entries of all copies, biases included."""
        return self.copies * (self.weights_per_copy + (self.out_features if self.bias else 0))

    @property
    def active_parameters(self) -> int:
        """Entries that one token meets."""
        return self.active_copies * (self.weights_per_copy + (self.out_features if self.bias else 0))

    def weight_bytes(self, bias_dtype: DType) -> float:
        """Storage of all copies; biases stay in the activations' format."""
        bias = self.out_features * bias_dtype.bytes_per_value if self.bias else 0.0
        return self.copies * (self.weights_per_copy * self.storage.bits_per_weight / 8 + bias)

    def weight_bytes_per_rank(self, bias_dtype: DType, tp: int, ep: int) -> float:
        """Storage on the fullest rank; with expert parallelism experts are whole and spread over `ep` ranks."""
        total = self.weight_bytes(bias_dtype)
        if self.part is Part.EXPERT and ep > 1:
            return total / self.copies * -(-self.copies // ep)
        if self.split is Split.REPLICATED:
            return total
        return total / (min(tp, self.max_shards) if self.max_shards else tp)

    def divides_over(self, tp: int) -> bool:
        """Whether the features that tensor parallelism cuts, and their quantisation blocks, come out whole."""
        if tp == 1 or self.split is Split.REPLICATED:
            return True
        shards = min(tp, self.max_shards) if self.max_shards else tp
        features, block = (
            (self.in_features, self.storage.block_in)
            if self.split is Split.ROW
            else (self.out_features, self.storage.block_out)
        )
        return features % shards == 0 and (features // shards) % block == 0


@dataclass(frozen=True, slots=True)
class SoftmaxAttention:
    """Attention with a key and a value per token and KV head."""

    query_heads: int
    kv_heads: int
    head_dim: int
    kind: MixerKind = MixerKind.FULL
    window_tokens: int | None = None

    @property
    def attention_kind(self) -> AttentionKind:
        """MHA, GQA or MQA, by the number of KV heads."""
        if self.kv_heads == self.query_heads:
            return AttentionKind.MHA
        return AttentionKind.MQA if self.kv_heads == 1 else AttentionKind.GQA

    @property
    def cached_tokens_limit(self) -> int | None:
        """Most tokens whose keys and values stay cached, None without a limit."""
        return self.window_tokens

    def kv_heads_per_rank(self, tp: int) -> int:
        """KV heads on one rank: with more ranks than heads, ranks hold copies."""
        return max(1, -(-self.kv_heads // tp))

    def attended_tokens(self, context_tokens: int) -> int:
        """Keys that a query at the end of `context_tokens` looks at; in a chunk, at most the whole chunk."""
        return context_tokens if self.window_tokens is None else min(context_tokens, self.window_tokens)

    def kv_bytes(self, context_tokens: int, dtype: DType, tp: int = 1) -> float:
        """Cache on one rank for one sequence, in one layer."""
        values_per_token = 2 * self.kv_heads_per_rank(tp) * self.head_dim
        return self.attended_tokens(context_tokens) * values_per_token * dtype.bytes_per_value

    def flops_per_token(self, context_tokens: int, *, decode: bool) -> float:
        """Scores and weighted sum of one query token, in one layer."""
        return 4.0 * self.query_heads * self.head_dim * self.attended_tokens(context_tokens)

    def heads_divide_over(self, tp: int) -> bool:
        """Whether vLLM can cut the heads: whole query heads per rank, KV heads whole or copied evenly."""
        kv_fits = self.kv_heads % tp == 0 if self.kv_heads >= tp else tp % self.kv_heads == 0
        return self.query_heads % tp == 0 and kv_fits


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (MLA): one compressed vector per token, the same on every rank."""

    query_heads: int
    kv_lora_rank: int
    rope_head_dim: int
    nope_head_dim: int
    value_head_dim: int
    index_heads: int = 0
    """Heads of the indexer that picks tokens (DeepSeek sparse attention); 0 where there is none of its own."""
    index_head_dim: int = 0
    sparse_topk: int | None = None

    @property
    def kind(self) -> MixerKind:
        """Sparse where an indexer picks the tokens, otherwise full."""
        return MixerKind.FULL if self.sparse_topk is None else MixerKind.SPARSE

    @property
    def attention_kind(self) -> AttentionKind:
        """Always MLA."""
        return AttentionKind.MLA

    @property
    def kv_heads(self) -> int:
        """The latent vector acts as one head."""
        return 1

    @property
    def head_dim(self) -> int:
        """Width of a query or key head."""
        return self.nope_head_dim + self.rope_head_dim

    @property
    def cached_tokens_limit(self) -> int | None:
        """None: every token's vector stays cached, also where only some are read."""
        return None

    def kv_heads_per_rank(self, tp: int) -> int:
        """One: the latent vector is on every rank."""
        return 1

    def attended_tokens(self, context_tokens: int) -> int:
        """Tokens that a query attends to."""
        return context_tokens if self.sparse_topk is None else min(context_tokens, self.sparse_topk)

    def kv_bytes(self, context_tokens: int, dtype: DType, tp: int = 1) -> float:
        """Cache on one rank for one sequence, in one layer.

        Source: vLLM's MLA cache holds kv_lora_rank + rope values per token; with sparse attention an 8-bit cache is
        `fp8_ds_mla` (latent in fp8 with a 4-byte scale per 128, rope part in 16 bits), and the indexer's keys are
        one byte per value with a 4-byte scale per 128 (vllm/model_executor/models/deepseek_v2.py).
        """
        latent_bytes = (self.kv_lora_rank + self.rope_head_dim) * dtype.bytes_per_value
        if self.sparse_topk is not None and dtype is DType.FP8:
            latent_bytes = self.kv_lora_rank * (1 + 4 / 128) + 2 * self.rope_head_dim
        index_bytes = self.index_head_dim * (1 + 4 / 128) if self.index_heads else 0.0
        return context_tokens * (latent_bytes + index_bytes)

    def flops_per_token(self, context_tokens: int, *, decode: bool) -> float:
        """Scores and weighted sum of one query token, in one layer.

        Decoding works on the latent vectors themselves, a prefill on keys and values expanded from them.
        """
        expanded = self.head_dim + self.value_head_dim
        width = 2 * self.kv_lora_rank + self.rope_head_dim if decode else expanded
        attention = 2.0 * self.query_heads * width * self.attended_tokens(context_tokens)
        return attention + 2.0 * self.index_heads * self.index_head_dim * context_tokens

    def heads_divide_over(self, tp: int) -> bool:
        """Whether each rank gets whole query heads."""
        return self.query_heads % tp == 0


@dataclass(frozen=True, slots=True)
class RecurrentMixer:
    """A gated delta net or Mamba 2 layer: a state of fixed size per sequence instead of a cache that grows."""

    kind: MixerKind
    heads: int
    key_heads: int
    state_values: int
    """Entries of the recurrent state of one sequence."""
    conv_values: int
    """Entries of the convolution's state of one sequence."""
    state_dtype: DType
    conv_dtype: DType

    @property
    def attention_kind(self) -> AttentionKind:
        """Always recurrent."""
        return AttentionKind.RECURRENT

    @property
    def cached_tokens_limit(self) -> int | None:
        """Zero: nothing is kept per token."""
        return 0

    def attended_tokens(self, context_tokens: int) -> int:
        """Zero: earlier tokens are in the state."""
        return 0

    def kv_bytes(self, context_tokens: int, dtype: DType, tp: int = 1) -> float:
        """State on one rank for one sequence, in one layer: the same for any context but none."""
        if context_tokens == 0:
            return 0.0
        state = self.state_values * self.state_dtype.bytes_per_value
        return (state + self.conv_values * self.conv_dtype.bytes_per_value) / tp

    def flops_per_token(self, context_tokens: int, *, decode: bool) -> float:
        """One update and one read-out of the state: a multiply and an add each, per entry."""
        return (6.0 if self.kind is MixerKind.GATED_DELTA else 4.0) * self.state_values

    def heads_divide_over(self, tp: int) -> bool:
        """Whether each rank gets whole heads."""
        return self.heads % tp == 0 and self.key_heads % tp == 0


Mixer = SoftmaxAttention | LatentAttention | RecurrentMixer


@dataclass(frozen=True, slots=True)
class Mlp:
    """Shape of a layer's MLP: dense, or experts behind a router."""

    kind: MlpKind
    intermediate_size: int
    """Width inside a dense MLP, or inside one expert."""
    gated: bool = True
    experts: int = 0
    experts_per_token: int = 0
    shared_intermediate_size: int = 0
    """Width of all shared experts together."""

    def distinct_experts(self, tokens: float) -> float:
        """Experts that a batch reads at least once, expected under uniform routing; 0 for a dense MLP.

        Source: each token misses an expert with probability 1 - k/E, independently of the other tokens. Real
        routing is skewed and reads fewer.
        """
        if self.kind is MlpKind.DENSE:
            return 0.0
        missed = math.pow(1.0 - self.experts_per_token / self.experts, tokens)
        return self.experts * (1.0 - missed)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its shapes, its matrices, and what else it stores (norms, convolutions, sinks)."""

    mixer: Mixer | None
    mlp: Mlp | None
    linears: tuple[Linear, ...]
    other_parameters: int = 0
    """Norms and the like: never quantised, on every rank."""

    @property
    def parameters(self) -> int:
        """Everything that the layer stores."""
        return sum(linear.parameters for linear in self.linears) + self.other_parameters

    @property
    def active_parameters(self) -> int:
        """What one token meets."""
        return sum(linear.active_parameters for linear in self.linears) + self.other_parameters

    def parameters_of(self, parts: Iterable[Part]) -> int:
        """Parameters of the matrices of some parts."""
        wanted = frozenset(parts)
        return sum(linear.parameters for linear in self.linears if linear.part in wanted)

    def weight_bytes_per_rank(self, activation_dtype: DType, tp: int, ep: int) -> float:
        """Storage on the fullest rank; norms and the like stand on every one."""
        matrices = sum(linear.weight_bytes_per_rank(activation_dtype, tp, ep) for linear in self.linears)
        return matrices + self.other_parameters * activation_dtype.bytes_per_value

    def stored_as(self, storages: tuple[Storage, ...]) -> "Layer":
        """The same layer with one storage per matrix."""
        pairs = zip(self.linears, storages, strict=True)
        return replace(self, linears=tuple(replace(linear, storage=storage) for linear, storage in pairs))


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that are equal in shape and storage."""

    layer: Layer
    count: int
