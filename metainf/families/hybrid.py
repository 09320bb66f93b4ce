"""Families that mix attention with layers that keep a state: gated delta nets (Qwen) and Mamba 2 (Nemotron-H).

Separate because their recurrent layers have shapes of their own. Source of the shapes: the models' own code in
Hugging Face transformers 5.23; the tests compare the sums.
"""

from collections.abc import Callable

from metainf.config_fields import ConfigFields
from metainf.dtypes import DType
from metainf.families.experts import is_qwen_expert_layer, qwen_experts
from metainf.families.parts import (
    Block,
    Blueprint,
    dense_mlp,
    experts,
    layer_count,
    layer_kinds,
    layer_of,
    router,
    shared_experts,
    softmax,
    softmax_shape,
    stack,
)
from metainf.layers import Layer, Linear, MixerKind, Mlp, MlpKind, Part, RecurrentMixer, SoftmaxAttention, Split

__all__ = ["nemotron_h", "qwen3_5", "qwen3_next"]

_STATE_DTYPES = {"float32": DType.FP32, "bfloat16": DType.BF16, "float16": DType.FP16}
_NEMOTRON_LETTERS = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}


def _state_dtype(fields: ConfigFields, *keys: str) -> DType:
    """Format of the recurrent state: vLLM follows the config, else the activations (bf16)."""
    name = fields.text(*keys, default="bfloat16")
    if name not in _STATE_DTYPES:
        raise fields.wrong(keys[0], f"one of {', '.join(_STATE_DTYPES)}")
    return _STATE_DTYPES[name]


def _gated_delta(fields: ConfigFields, *, fused: bool) -> tuple[RecurrentMixer, Block]:
    hidden = fields.integer("hidden_size")
    key_heads, value_heads = fields.integer("linear_num_key_heads"), fields.integer("linear_num_value_heads")
    key_dim, value_dim = fields.integer("linear_key_head_dim"), fields.integer("linear_value_head_dim")
    kernel = fields.integer("linear_conv_kernel_dim")
    keys, values = key_heads * key_dim, value_heads * value_dim
    channels, part, name = 2 * keys + values, Part.ATTENTION, "linear_attn."
    sizes = (
        {"in_proj_qkvz": channels + values, "in_proj_ba": 2 * value_heads}
        if fused
        else {"in_proj_qkv": channels, "in_proj_z": values, "in_proj_b": value_heads, "in_proj_a": value_heads}
    )
    small = {"in_proj_ba", "in_proj_b", "in_proj_a"}
    inputs = tuple(
        Linear(name + each, hidden, size, part, quantisable=each not in small) for each, size in sizes.items()
    )
    output = Linear(name + "out_proj", values, hidden, part, Split.ROW)
    mixer = RecurrentMixer(
        MixerKind.GATED_DELTA,
        value_heads,
        key_heads,
        state_values=value_heads * key_dim * value_dim,
        conv_values=channels * (kernel - 1),
        state_dtype=_state_dtype(fields, "mamba_ssm_dtype", "mamba_ssm_cache_dtype"),
        conv_dtype=DType.BF16,
    )
    return mixer, Block((*inputs, output), channels * kernel + 2 * value_heads + value_dim)


def qwen3_next(fields: ConfigFields) -> Blueprint:
    """Qwen 3 Next: three gated delta nets to one attention, experts in every layer."""
    return _qwen_hybrid(fields, fused=True)


def qwen3_5(fields: ConfigFields) -> Blueprint:
    """Qwen 3.5 and 3.6, dense or with experts."""
    return _qwen_hybrid(fields, fused=False)


def _qwen_hybrid(fields: ConfigFields, *, fused: bool) -> Blueprint:
    hidden, count = fields.integer("hidden_size"), layer_count(fields)
    every = fields.integer("full_attention_interval", default=4)
    kinds = layer_kinds(
        fields, count, lambda index: MixerKind.FULL if (index + 1) % every == 0 else MixerKind.GATED_DELTA
    )
    shape = softmax_shape(fields, head_dim=256)
    bias, gate = fields.flag("attention_bias", default=False), fields.flag("attn_output_gate", default=True)
    has_experts, sparse = fields.present("num_experts"), is_qwen_expert_layer(fields)

    def make(kind: MixerKind, is_sparse: bool) -> Layer:
        mixer: SoftmaxAttention | RecurrentMixer = shape
        block = softmax(
            shape,
            hidden,
            qkv_bias=bias,
            out_bias=bias,
            query_width=2 if gate else 1,
            other=2 * shape.head_dim,
        )
        if kind is MixerKind.GATED_DELTA:
            mixer, block = _gated_delta(fields, fused=fused)
        elif kind is not MixerKind.FULL:
            raise fields.wrong("layer_types", "linear_attention or full_attention in each place")
        mlp, more = (
            qwen_experts(fields, hidden) if is_sparse else dense_mlp(hidden, fields.integer("intermediate_size"))
        )
        return layer_of(mixer, mlp, block + more + Block((), 2 * hidden))

    def build(index: int) -> tuple[tuple[MixerKind, bool], Callable[[], Layer]]:
        key = (kinds[index], has_experts and sparse(index))
        return key, lambda: make(*key)

    mtp = fields.integer("mtp_num_hidden_layers", "num_nextn_predict_layers", default=0, minimum=0, maximum=64)
    return Blueprint(
        stack(count, build),
        hidden,
        fields.integer("vocab_size"),
        fields.integer("max_position_embeddings"),
        tied_default=False,
        other_parameters=hidden,
        mtp_layers=(make(MixerKind.FULL, has_experts),) * mtp,
        mtp_other_parameters=mtp and 2 * hidden * hidden + 3 * hidden,
    )


def _mamba2(fields: ConfigFields) -> tuple[RecurrentMixer, Block]:
    hidden, heads = fields.integer("hidden_size"), fields.integer("mamba_num_heads")
    head_dim, state = fields.integer("mamba_head_dim"), fields.integer("ssm_state_size")
    groups, kernel = fields.integer("n_groups"), fields.integer("conv_kernel")
    inner = heads * head_dim
    channels = inner + 2 * groups * state
    bias, part = fields.flag("use_bias", default=False), Part.ATTENTION
    linears = (
        Linear("mixer.in_proj", hidden, inner + channels + heads, part, bias=bias),
        Linear("mixer.out_proj", inner, hidden, part, Split.ROW, bias=bias),
    )
    conv_bias = channels if fields.flag("use_conv_bias", default=True) else 0
    mixer = RecurrentMixer(
        MixerKind.MAMBA2,
        heads,
        heads,
        state_values=inner * state,
        conv_values=channels * (kernel - 1),
        state_dtype=_state_dtype(fields, "mamba_ssm_cache_dtype"),
        conv_dtype=DType.BF16,
    )
    return mixer, Block(linears, channels * kernel + conv_bias + 3 * heads + inner + hidden)


def _nemotron_moe(fields: ConfigFields) -> tuple[Mlp, Block]:
    hidden = fields.integer("hidden_size")
    latent = fields.integer("moe_latent_size", default=hidden)
    shared = fields.integer("moe_shared_expert_intermediate_size")
    mlp = Mlp(
        MlpKind.MOE,
        fields.integer("moe_intermediate_size"),
        gated=False,
        experts=fields.integer("n_routed_experts"),
        experts_per_token=fields.integer("num_experts_per_tok"),
        shared_intermediate_size=shared,
    )
    block = router("mixer.gate", hidden, mlp.experts, other=mlp.experts)
    block += experts(fields, latent, mlp, prefix="mixer.experts.0.", names=("up_proj", "down_proj"))
    names = ("mixer.shared_experts.up_proj", "mixer.shared_experts.down_proj")
    block += shared_experts(hidden, shared, names=names)
    if latent != hidden:
        into = Linear("mixer.fc1_latent_proj", hidden, latent, Part.MLP, Split.REPLICATED)
        back = Linear("mixer.fc2_latent_proj", latent, hidden, Part.MLP, Split.REPLICATED)
        block += Block((into, back))
    return mlp, block + Block((), hidden)


def _nemotron_pattern(fields: ConfigFields) -> str:
    """A letter per layer; newer configs list names, and may leave the number of layers out."""
    if fields.present("layers_block_type"):
        names = fields.texts("layers_block_type")
        if not set(names) <= set(_NEMOTRON_LETTERS):
            raise fields.wrong("layers_block_type", f"a list out of {', '.join(_NEMOTRON_LETTERS)}")
        fields = fields.with_defaults({"num_hidden_layers": len(names)})
        pattern = "".join(_NEMOTRON_LETTERS[name] for name in names)
    else:
        pattern = fields.text("hybrid_override_pattern")
    count = layer_count(fields)
    if len(pattern) != count or not set(pattern) <= set(_NEMOTRON_LETTERS.values()):
        raise fields.wrong("hybrid_override_pattern", f"{count} of the letters M * - E")
    return pattern


def nemotron_h(fields: ConfigFields) -> Blueprint:
    """Nemotron-H, Nemotron 3: each layer is one of Mamba 2, attention, MLP or experts."""
    hidden, pattern = fields.integer("hidden_size"), _nemotron_pattern(fields)
    fields = fields.with_defaults({"head_dim": fields.integer("attention_head_dim", default=128)})
    names = ("mixer.up_proj", "mixer.down_proj")

    def make(letter: str) -> Layer:
        if letter == "M":
            mixer, block = _mamba2(fields)
            return layer_of(mixer, None, block)
        if letter == "*":
            shape = softmax_shape(fields)
            return layer_of(shape, None, softmax(shape, hidden, prefix="mixer", other=hidden))
        if letter == "E":
            return layer_of(None, *_nemotron_moe(fields))
        mlp, block = dense_mlp(hidden, fields.integer("intermediate_size"), names=names)
        return layer_of(None, mlp, block + Block((), hidden))

    for flag in ("attention_bias", "mlp_bias", "mamba_proj_bias"):
        if fields.flag(flag, default=False):
            raise fields.wrong(flag, "false for Nemotron-H")
    layers = stack(len(pattern), lambda index: (pattern[index], lambda: make(pattern[index])))
    vocab, context = fields.integer("vocab_size"), fields.integer("max_position_embeddings")
    return Blueprint(layers, hidden, vocab, context, tied_default=False, other_parameters=hidden)
