"""Families whose layers, or most of them, hold a mixture of experts.

Separate from the dense ones because the experts' widths, the shared experts and the first dense layers are spelled
differently by each maker. Source of the shapes: the models' own code in Hugging Face transformers 5.23, of MiniMax
M2 and of the multi-token prediction layers vLLM's; the tests compare the sums.
"""

from collections.abc import Callable
from dataclasses import replace

from metainf.config_fields import ConfigFields
from metainf.families.dense import windowed
from metainf.families.parts import (
    Block,
    Blueprint,
    dense_mlp,
    experts,
    latent,
    layer_count,
    layer_kinds,
    layer_of,
    router,
    shared_experts,
    softmax,
    softmax_shape,
    stack,
)
from metainf.layers import Layer, MixerKind, Mlp, MlpKind

__all__ = [
    "deepseek",
    "deepseek_sparse",
    "glm4_moe",
    "gpt_oss",
    "is_qwen_expert_layer",
    "llama4",
    "minimax_m2",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "qwen_experts",
]

_SHARED_NAMES = tuple(f"mlp.shared_experts.{name}_proj" for name in ("gate", "up", "down"))
_SHARED_NAME = tuple(f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down"))


def _finished(fields: ConfigFields, layers: tuple[Layer, ...]) -> Blueprint:
    hidden = fields.integer("hidden_size")
    vocab, context = fields.integer("vocab_size"), fields.integer("max_position_embeddings")
    return Blueprint(layers, hidden, vocab, context, tied_default=False, other_parameters=hidden)


def mixtral(fields: ConfigFields) -> Blueprint:
    """Mixtral: every layer has experts."""
    hidden, shape = fields.integer("hidden_size"), softmax_shape(fields)
    mlp = Mlp(
        MlpKind.MOE,
        fields.integer("intermediate_size"),
        experts=fields.integer("num_local_experts"),
        experts_per_token=fields.integer("num_experts_per_tok"),
    )
    kind = MixerKind.SLIDING if fields.present("sliding_window") else MixerKind.FULL
    block = softmax(shape, hidden) + router("block_sparse_moe.gate", hidden, mlp.experts)
    block += experts(fields, hidden, mlp, prefix="block_sparse_moe.experts.0.", names=("w1", "w3", "w2"))
    layer = layer_of(windowed(fields, shape, kind), mlp, block + Block((), 2 * hidden))
    return _finished(fields, (layer,) * layer_count(fields))


def minimax_m2(fields: ConfigFields) -> Blueprint:
    """MiniMax M2: every layer has experts, norms over all query and all key heads together."""
    hidden, shape = fields.integer("hidden_size"), softmax_shape(fields)
    mlp = Mlp(
        MlpKind.MOE,
        fields.integer("intermediate_size"),
        experts=fields.integer("num_local_experts"),
        experts_per_token=fields.integer("num_experts_per_tok"),
    )
    norms = (shape.query_heads + shape.kv_heads) * shape.head_dim
    block = softmax(shape, hidden, other=norms if fields.flag("use_qk_norm", default=True) else 0)
    block += router("block_sparse_moe.gate", hidden, mlp.experts, other=mlp.experts)
    block += experts(fields, hidden, mlp, prefix="block_sparse_moe.experts.0.", names=("w1", "w3", "w2"))
    layer = layer_of(shape, mlp, block + Block((), 2 * hidden))
    return _finished(fields, (layer,) * layer_count(fields))


def qwen_experts(fields: ConfigFields, hidden: int) -> tuple[Mlp, Block]:
    """Experts of Qwen 2 to 3.5: with a gated shared expert where the config has one."""
    shared = fields.integer("shared_expert_intermediate_size", default=0, minimum=0)
    mlp = Mlp(
        MlpKind.MOE,
        fields.integer("moe_intermediate_size"),
        experts=fields.integer("num_experts"),
        experts_per_token=fields.integer("num_experts_per_tok"),
        shared_intermediate_size=shared,
    )
    block = router("mlp.gate", hidden, mlp.experts) + experts(fields, hidden, mlp)
    if shared:
        block += shared_experts(hidden, shared, names=_SHARED_NAME)
        block += router("mlp.shared_expert_gate", hidden, 1)
    return mlp, block


def is_qwen_expert_layer(fields: ConfigFields) -> Callable[[int], bool]:
    """Which layers have experts. Source: transformers Qwen3MoeDecoderLayer."""
    step = fields.integer("decoder_sparse_step", default=1)
    dense = frozenset(fields.integers("mlp_only_layers", default=()))
    return lambda index: index not in dense and (index + 1) % step == 0


def qwen2_moe(fields: ConfigFields) -> Blueprint:
    """Qwen 1.5 and 2 with experts: biases on query, key and value."""
    return _qwen_moe(fields, qkv_bias=fields.flag("qkv_bias", default=True), head_norm=False)


def qwen3_moe(fields: ConfigFields) -> Blueprint:
    """Qwen 3 with experts: a norm per query and key head."""
    return _qwen_moe(fields, qkv_bias=fields.flag("attention_bias", default=False), head_norm=True)


def _qwen_moe(fields: ConfigFields, *, qkv_bias: bool, head_norm: bool) -> Blueprint:
    hidden, shape = fields.integer("hidden_size"), softmax_shape(fields)
    sparse = is_qwen_expert_layer(fields)
    if fields.flag("use_sliding_window", default=False):
        raise fields.wrong("use_sliding_window", "false for a Qwen model with experts")
    attention = softmax(
        shape,
        hidden,
        qkv_bias=qkv_bias,
        out_bias=qkv_bias and head_norm,
        other=2 * shape.head_dim if head_norm else 0,
    )

    def build(index: int) -> tuple[bool, Callable[[], Layer]]:
        def make() -> Layer:
            if sparse(index):
                mlp, block = qwen_experts(fields, hidden)
            else:
                mlp, block = dense_mlp(hidden, fields.integer("intermediate_size"))
            return layer_of(shape, mlp, attention + block + Block((), 2 * hidden))

        return sparse(index), make

    return _finished(fields, stack(layer_count(fields), build))


def _routed(fields: ConfigFields, hidden: int, *, correction: bool) -> tuple[Mlp, Block]:
    """Experts of DeepSeek and GLM: shared experts of the same width, and a bias that balances the router."""
    width = fields.integer("moe_intermediate_size")
    shared = width * fields.integer("n_shared_experts", default=0, minimum=0, maximum=1024)
    mlp = Mlp(
        MlpKind.MOE,
        width,
        experts=fields.integer("n_routed_experts"),
        experts_per_token=fields.integer("num_experts_per_tok"),
        shared_intermediate_size=shared,
    )
    block = router("mlp.gate", hidden, mlp.experts, other=mlp.experts if correction else 0)
    block += experts(fields, hidden, mlp)
    return mlp, block + shared_experts(hidden, shared, names=_SHARED_NAMES)


def _deepseek_dense(fields: ConfigFields) -> Callable[[int], bool]:
    if not fields.present("n_routed_experts"):
        return lambda index: True
    first = fields.integer("first_k_dense_replace", default=0, minimum=0)
    every = fields.integer("moe_layer_freq", default=1)
    return lambda index: index < first or index % every != 0


def deepseek(fields: ConfigFields) -> Blueprint:
    """DeepSeek V2, V3 and R1, Kimi K2: latent attention, first layers dense."""
    return _deepseek(fields, correction=fields.text("topk_method", default="greedy") == "noaux_tc")


def deepseek_sparse(fields: ConfigFields) -> Blueprint:
    """DeepSeek V3.2 and GLM 5: as V3, reading the tokens that an indexer picks."""
    return _deepseek(fields, correction=True, indexer=True)


def _deepseek(fields: ConfigFields, *, correction: bool, indexer: bool = False) -> Blueprint:
    hidden, count = fields.integer("hidden_size"), layer_count(fields)
    dense, own_index = _deepseek_dense(fields), _own_index(fields, count)

    def make(index: int) -> Layer:
        shape, attention = latent(fields, indexer=indexer, own_index=own_index(index))
        if dense(index):
            mlp, block = dense_mlp(hidden, fields.integer("intermediate_size"))
        else:
            mlp, block = _routed(fields, hidden, correction=correction)
        return layer_of(shape, mlp, attention + block + Block((), 2 * hidden))

    layers = stack(count, lambda index: ((dense(index), own_index(index)), lambda: make(index)))
    return _with_mtp(fields, _finished(fields, layers))


def _own_index(fields: ConfigFields, count: int) -> Callable[[int], bool]:
    """Which layers have an indexer of their own; the others share the one before (GLM 5.2)."""
    types = fields.texts("indexer_types")
    if not types:
        return lambda index: True
    if len(types) < count or not set(types) <= {"full", "shared"}:
        raise fields.wrong("indexer_types", f"{count} of full or shared")
    return lambda index: types[index] == "full"


def _with_mtp(fields: ConfigFields, blueprint: Blueprint) -> Blueprint:
    """Adds the layers for multi-token prediction: one like the last, a projection of 2 x hidden, three norms.

    Source: vLLM deepseek_mtp.py; embedding and head are those of the model itself.
    """
    count = fields.integer("num_nextn_predict_layers", default=0, minimum=0, maximum=64)
    hidden = blueprint.hidden_size
    return replace(
        blueprint,
        mtp_layers=(blueprint.layers[-1],) * count,
        mtp_other_parameters=count * (2 * hidden * hidden + 3 * hidden),
    )


def glm4_moe(fields: ConfigFields) -> Blueprint:
    """GLM 4.5 to 4.7: plain attention, experts as DeepSeek V3."""
    hidden, shape = fields.integer("hidden_size"), softmax_shape(fields, head_dim=128)
    dense = _deepseek_dense(fields)
    head_norm = 2 * shape.head_dim if fields.flag("use_qk_norm", default=False) else 0
    bias = fields.flag("attention_bias", default=False)
    attention = softmax(shape, hidden, qkv_bias=bias, other=head_norm)

    def make(index: int) -> Layer:
        if dense(index):
            mlp, block = dense_mlp(hidden, fields.integer("intermediate_size"))
        else:
            mlp, block = _routed(fields, hidden, correction=True)
        return layer_of(shape, mlp, attention + block + Block((), 2 * hidden))

    layers = stack(layer_count(fields), lambda index: (dense(index), lambda: make(index)))
    return _with_mtp(fields, _finished(fields, layers))


def gpt_oss(fields: ConfigFields) -> Blueprint:
    """The gpt-oss models: every other layer slides, a sink per head, biases everywhere."""
    hidden, count = fields.integer("hidden_size"), layer_count(fields)
    shape = softmax_shape(fields, head_dim=64)
    mlp = Mlp(
        MlpKind.MOE,
        fields.integer("intermediate_size"),
        experts=fields.integer("num_local_experts"),
        experts_per_token=fields.integer("num_experts_per_tok", "experts_per_token"),
    )
    attention = softmax(shape, hidden, qkv_bias=True, out_bias=True, other=shape.query_heads)
    block = attention + router("mlp.router", hidden, mlp.experts, bias=True)
    block += experts(fields, hidden, mlp, prefix="mlp.experts.", bias=True) + Block((), 2 * hidden)
    kinds = layer_kinds(fields, count, lambda index: MixerKind.SLIDING if index % 2 == 0 else MixerKind.FULL)

    def build(index: int) -> tuple[MixerKind, Callable[[], Layer]]:
        return kinds[index], lambda: layer_of(windowed(fields, shape, kinds[index]), mlp, block)

    return _finished(fields, stack(count, build))


def llama4(fields: ConfigFields) -> Blueprint:
    """Llama 4: three chunked layers to one full, one shared expert, experts in every or every other layer."""
    hidden, count = fields.integer("hidden_size"), layer_count(fields)
    shape = softmax_shape(fields, head_dim=128)
    step = fields.integer("interleave_moe_layer_step", default=1)
    listed = frozenset(fields.integers("moe_layers", default=()))
    kinds = layer_kinds(fields, count, _llama4_kinds(fields, count))
    width = fields.integer("intermediate_size")
    bias = fields.flag("attention_bias", default=False)
    attention = softmax(shape, hidden, qkv_bias=bias, out_bias=bias) + Block((), 2 * hidden)
    sparse = [index in listed if listed else (index + 1) % step == 0 for index in range(count)]

    def make(index: int) -> Layer:
        mixer = windowed(fields, shape, kinds[index])
        if not sparse[index]:
            names = tuple(f"feed_forward.{name}_proj" for name in ("gate", "up", "down"))
            mlp, block = dense_mlp(hidden, fields.integer("intermediate_size_mlp"), names=names)
            return layer_of(mixer, mlp, attention + block)
        mlp = Mlp(
            MlpKind.MOE,
            width,
            experts=fields.integer("num_local_experts"),
            experts_per_token=fields.integer("num_experts_per_tok"),
            shared_intermediate_size=width,
        )
        names = tuple(f"feed_forward.shared_expert.{name}_proj" for name in ("gate", "up", "down"))
        block = attention + router("feed_forward.router", hidden, mlp.experts)
        block += experts(fields, hidden, mlp, prefix="feed_forward.experts.0.")
        return layer_of(mixer, mlp, block + shared_experts(hidden, width, names=names))

    return _finished(fields, stack(count, lambda index: ((kinds[index], sparse[index]), lambda: make(index))))


def _llama4_kinds(fields: ConfigFields, count: int) -> Callable[[int], MixerKind]:
    """Layers without rotary positions look at everything. Source: transformers Llama4TextConfig."""
    rotary = fields.integers("no_rope_layers", default=())
    if not rotary:
        every = fields.integer("no_rope_layer_interval", default=4)
        return lambda index: MixerKind.FULL if (index + 1) % every == 0 else MixerKind.CHUNKED
    if len(rotary) != count:
        raise fields.wrong("no_rope_layers", f"empty or {count} of 0 or 1")
    return lambda index: MixerKind.CHUNKED if rotary[index] else MixerKind.FULL
