"""Families with one dense MLP per layer and attention by keys and values: Llama and those that follow it.

Separate from the mixtures of experts because these differ in little more than norms, biases and windows.
Source of the shapes: the models' own code in Hugging Face transformers 5.23; the tests compare the sums.
"""

from collections.abc import Callable
from dataclasses import replace

from metainf.config_fields import ConfigFields
from metainf.families.parts import (
    Block,
    Blueprint,
    dense_mlp,
    layer_count,
    layer_kinds,
    layer_of,
    softmax,
    softmax_shape,
    stack,
)
from metainf.layers import Layer, MixerKind, SoftmaxAttention

__all__ = [
    "cohere2",
    "gemma2",
    "gemma3",
    "glm4",
    "llama",
    "mistral",
    "nemotron",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "starcoder2",
    "windowed",
]


def windowed(fields: ConfigFields, shape: SoftmaxAttention, kind: MixerKind) -> SoftmaxAttention:
    """The attention with the window that its kind asks for."""
    if kind is MixerKind.FULL:
        return shape
    key = "attention_chunk_size" if kind is MixerKind.CHUNKED else "sliding_window"
    return replace(shape, kind=kind, window_tokens=fields.integer(key))


def _decoder(
    fields: ConfigFields,
    default_kind: Callable[[int], MixerKind],
    attention: Callable[[SoftmaxAttention, int], Block],
    *,
    norms: int,
    final_norm: int = 1,
    mlp_names: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    mlp_bias: bool = False,
    tied: bool = False,
    shape: SoftmaxAttention | None = None,
) -> Blueprint:
    """Layers of attention and a dense MLP; `norms` and `final_norm` in vectors of the hidden size."""
    count, hidden = layer_count(fields), fields.integer("hidden_size")
    shape = shape or softmax_shape(fields)
    kinds = layer_kinds(fields, count, default_kind)
    mlp, mlp_block = dense_mlp(hidden, fields.integer("intermediate_size"), names=mlp_names, bias=mlp_bias)

    def make(kind: MixerKind) -> Layer:
        block = attention(shape, hidden) + mlp_block + Block((), norms * hidden)
        return layer_of(windowed(fields, shape, kind), mlp, block)

    def build(index: int) -> tuple[MixerKind, Callable[[], Layer]]:
        return kinds[index], lambda: make(kinds[index])

    return Blueprint(
        stack(count, build),
        hidden,
        fields.integer("vocab_size"),
        fields.integer("max_position_embeddings"),
        tied,
        final_norm * hidden,
    )


def _full(index: int) -> MixerKind:
    return MixerKind.FULL


def llama(fields: ConfigFields) -> Blueprint:
    """Llama 2 and 3, Yi, Code Llama, Granite: biases only where the config asks for them."""
    bias = fields.flag("attention_bias", default=False)
    return _decoder(
        fields,
        _full,
        lambda shape, hidden: softmax(shape, hidden, qkv_bias=bias, out_bias=bias),
        norms=2,
        mlp_bias=fields.flag("mlp_bias", default=False),
    )


def mistral(fields: ConfigFields) -> Blueprint:
    """Mistral: one window for all layers where the config has one."""
    kind = MixerKind.SLIDING if fields.present("sliding_window") else MixerKind.FULL
    return _decoder(fields, lambda _: kind, softmax, norms=2)


def _qwen_kinds(fields: ConfigFields) -> Callable[[int], MixerKind]:
    """Source: transformers Qwen2Config: layers from max_window_layers on slide, where sliding is on."""
    if not fields.flag("use_sliding_window", default=False):
        return _full
    first = fields.integer("max_window_layers", minimum=0)
    return lambda index: MixerKind.SLIDING if index >= first else MixerKind.FULL


def qwen2(fields: ConfigFields) -> Blueprint:
    """Qwen 2 and 2.5: biases on query, key and value."""
    return _decoder(fields, _qwen_kinds(fields), lambda shape, hidden: softmax(shape, hidden, qkv_bias=True), norms=2)


def qwen3(fields: ConfigFields) -> Blueprint:
    """Qwen 3: a norm per query and key head."""
    bias = fields.flag("attention_bias", default=False)
    return _decoder(
        fields,
        _qwen_kinds(fields),
        lambda shape, hidden: softmax(shape, hidden, qkv_bias=bias, out_bias=bias, other=2 * shape.head_dim),
        norms=2,
        shape=softmax_shape(fields, head_dim=128),
    )


def gemma2(fields: ConfigFields) -> Blueprint:
    """Gemma 2: every other layer slides, four norms."""
    return _decoder(
        fields,
        lambda index: MixerKind.SLIDING if index % 2 == 0 else MixerKind.FULL,
        softmax,
        norms=4,
        tied=True,
        shape=softmax_shape(fields, head_dim=256),
    )


_GEMMA3_DEFAULTS: dict[str, object] = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}


def gemma3(fields: ConfigFields) -> Blueprint:
    """Gemma 3: one full layer in six, four norms and a norm per query and key head.

    Source of the defaults, which the published files leave out: Gemma3TextConfig of transformers.
    """
    fields = fields.with_defaults(_GEMMA3_DEFAULTS)
    every = fields.integer("sliding_window_pattern", "_sliding_window_pattern", default=6)
    return _decoder(
        fields,
        lambda index: MixerKind.FULL if (index + 1) % every == 0 else MixerKind.SLIDING,
        lambda shape, hidden: softmax(shape, hidden, other=2 * shape.head_dim),
        norms=4,
        tied=True,
    )


def phi3(fields: ConfigFields) -> Blueprint:
    """Phi 3 and 4: query, key and value in one matrix, gate and up in another."""
    kind = MixerKind.SLIDING if fields.present("sliding_window") else MixerKind.FULL
    names = ("qkv_proj", "qkv_proj", "qkv_proj", "o_proj")
    return _decoder(
        fields,
        lambda _: kind,
        lambda shape, hidden: softmax(shape, hidden, names=names),
        norms=2,
        mlp_names=("mlp.gate_up_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    )


def glm4(fields: ConfigFields) -> Blueprint:
    """GLM 4 (0414): four norms, gate and up in one matrix."""
    bias = fields.flag("attention_bias", default=False)
    return _decoder(
        fields,
        _full,
        lambda shape, hidden: softmax(shape, hidden, qkv_bias=bias),
        norms=4,
        mlp_names=("mlp.gate_up_proj", "mlp.gate_up_proj", "mlp.down_proj"),
        shape=softmax_shape(fields, head_dim=128),
    )


def olmo2(fields: ConfigFields) -> Blueprint:
    """OLMo 2 and 3: norms over all query and all key heads together."""
    bias = fields.flag("attention_bias", default=False)
    default = MixerKind.SLIDING if fields.present("sliding_window") else MixerKind.FULL
    return _decoder(
        fields,
        lambda index: MixerKind.FULL if (index + 1) % 4 == 0 else default,
        lambda shape, hidden: softmax(
            shape,
            hidden,
            qkv_bias=bias,
            out_bias=bias,
            other=(shape.query_heads + shape.kv_heads) * shape.head_dim,
        ),
        norms=2,
    )


def cohere2(fields: ConfigFields) -> Blueprint:
    """Command R7B and Command A: one norm, three sliding layers to one full, the head always tied."""
    every = fields.integer("sliding_window_pattern", "_sliding_window_pattern", default=4)
    bias = fields.flag("attention_bias", default=False)
    return _decoder(
        fields,
        lambda index: MixerKind.FULL if (index + 1) % every == 0 else MixerKind.SLIDING,
        lambda shape, hidden: softmax(shape, hidden, qkv_bias=bias, out_bias=bias),
        norms=1,
        tied=True,
    )


def nemotron(fields: ConfigFields) -> Blueprint:
    """Nemotron 3 and 4, Minitron: squared ReLU without a gate, layer norms with a bias."""
    bias = fields.flag("attention_bias", default=False)
    return _decoder(
        fields,
        _full,
        lambda shape, hidden: softmax(shape, hidden, qkv_bias=bias, out_bias=bias),
        norms=4,
        final_norm=2,
        mlp_names=("mlp.up_proj", "mlp.down_proj"),
        mlp_bias=fields.flag("mlp_bias", default=False),
    )


def starcoder2(fields: ConfigFields) -> Blueprint:
    """StarCoder 2: a plain MLP, biases everywhere, layer norms with a bias."""
    bias = fields.flag("use_bias", default=True)
    kind = MixerKind.SLIDING if fields.present("sliding_window") else MixerKind.FULL
    return _decoder(
        fields,
        lambda _: kind,
        lambda shape, hidden: softmax(shape, hidden, qkv_bias=bias, out_bias=bias),
        norms=4,
        final_norm=2,
        mlp_names=("mlp.c_fc", "mlp.c_proj"),
        mlp_bias=bias,
        tied=True,
    )
