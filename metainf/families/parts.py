"""Building blocks that families share: attention, MLPs and experts as lists of matrices.

Separate so that a family reads as the list of what it has, and each matrix's shape is written once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from metainf.config_fields import ConfigFields
from metainf.layers import (
    LatentAttention,
    Layer,
    Linear,
    Mixer,
    MixerKind,
    Mlp,
    MlpKind,
    Part,
    SoftmaxAttention,
    Split,
)

__all__ = [
    "Block",
    "Blueprint",
    "dense_mlp",
    "experts",
    "latent",
    "layer_count",
    "layer_kinds",
    "layer_of",
    "router",
    "shared_experts",
    "softmax",
    "softmax_shape",
    "stack",
]

_MAX_LAYERS = 1024
_KINDS = {
    "full_attention": MixerKind.FULL,
    "attention": MixerKind.FULL,
    "sliding_attention": MixerKind.SLIDING,
    "chunked_attention": MixerKind.CHUNKED,
    "linear_attention": MixerKind.GATED_DELTA,
}


@dataclass(frozen=True, slots=True)
class Block:
    """Matrices and other parameters of a part of a layer."""

    linears: tuple[Linear, ...] = ()
    other: int = 0

    def __add__(self, more: "Block") -> "Block":
        return Block(self.linears + more.linears, self.other + more.other)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a family reads out of a config: everything but names, formats and sums."""

    layers: tuple[Layer, ...]
    """One per layer, in order; equal ones are the same object."""
    hidden_size: int
    vocab_size: int
    max_context_tokens: int
    tied_default: bool
    """Whether the head is the embedding table, where the config does not say."""
    other_parameters: int
    """Final norm, learned positions and the like."""
    embedding_size: int = 0
    """Width of the embedding table where it is not the hidden size."""
    mtp_layers: tuple[Layer, ...] = ()
    """Extra layers that predict further tokens (multi-token prediction)."""
    mtp_other_parameters: int = 0


def layer_of(mixer: Mixer | None, mlp: Mlp | None, block: Block) -> Layer:
    """A layer of these shapes."""
    return Layer(mixer, mlp, block.linears, block.other)


def stack(count: int, build: Callable[[int], tuple[object, Callable[[], Layer]]]) -> tuple[Layer, ...]:
    """Layers 0 to `count` - 1, where `build` gives a key and a maker; equal keys share one layer."""
    made: dict[object, Layer] = {}
    layers = []
    for index in range(count):
        key, maker = build(index)
        if key not in made:
            made[key] = maker()
        layers.append(made[key])
    return tuple(layers)


def layer_count(fields: ConfigFields, *keys: str) -> int:
    """Number of layers, bounded."""
    return fields.integer(*(keys or ("num_hidden_layers",)), maximum=_MAX_LAYERS)


def layer_kinds(fields: ConfigFields, count: int, default: Callable[[int], MixerKind]) -> tuple[MixerKind, ...]:
    """How far each layer looks back: `layer_types` where the config has it, else the family's rule."""
    if not fields.present("layer_types"):
        return tuple(default(index) for index in range(count))
    names = fields.texts("layer_types")
    if len(names) != count or not all(name in _KINDS for name in names):
        raise fields.wrong("layer_types", f"{count} names out of {', '.join(_KINDS)}")
    return tuple(_KINDS[name] for name in names)


def softmax_shape(
    fields: ConfigFields, *, kv_default: int | None = None, head_dim: int | None = None
) -> SoftmaxAttention:
    """Heads of a plain attention; without `head_dim` the hidden size is divided over the query heads."""
    heads = fields.integer("num_attention_heads", maximum=4096)
    kv_heads = fields.integer("num_key_value_heads", default=kv_default or heads, maximum=4096)
    if heads % kv_heads:
        raise fields.wrong("num_key_value_heads", f"a divisor of the {heads} attention heads")
    if head_dim is None and not fields.present("head_dim"):
        hidden = fields.integer("hidden_size")
        if hidden % heads:
            raise fields.wrong("num_attention_heads", f"a divisor of the hidden size {hidden}")
        head_dim = hidden // heads
    return SoftmaxAttention(heads, kv_heads, fields.integer("head_dim", default=head_dim))


def softmax(
    shape: SoftmaxAttention,
    hidden: int,
    *,
    prefix: str = "self_attn",
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    qkv_bias: bool = False,
    out_bias: bool = False,
    query_width: int = 1,
    other: int = 0,
) -> Block:
    """Query, key, value and output projections; `query_width` 2 where the query carries an output gate."""
    q, k, v, o = (f"{prefix}.{name}" for name in names)
    q_size, kv_size = shape.query_heads * shape.head_dim, shape.kv_heads * shape.head_dim
    part = Part.ATTENTION
    return Block(
        (
            Linear(q, hidden, q_size * query_width, part, bias=qkv_bias, max_shards=shape.query_heads),
            Linear(k, hidden, kv_size, part, Split.KV_HEADS, bias=qkv_bias, max_shards=shape.kv_heads),
            Linear(v, hidden, kv_size, part, Split.KV_HEADS, bias=qkv_bias, max_shards=shape.kv_heads),
            Linear(o, q_size, hidden, part, Split.ROW, bias=out_bias),
        ),
        other,
    )


def latent(fields: ConfigFields, *, indexer: bool = False, own_index: bool = True) -> tuple[LatentAttention, Block]:
    """Multi-head latent attention; with `indexer` it reads the tokens that an indexer picks."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads", maximum=4096)
    shape = LatentAttention(
        heads,
        fields.integer("kv_lora_rank"),
        fields.integer("qk_rope_head_dim"),
        fields.integer("qk_nope_head_dim"),
        fields.integer("v_head_dim"),
        index_heads=fields.integer("index_n_heads") if indexer and own_index else 0,
        index_head_dim=fields.integer("index_head_dim") if indexer and own_index else 0,
        sparse_topk=fields.integer("index_topk") if indexer else None,
    )
    q_rank = fields.integer("q_lora_rank") if indexer or fields.present("q_lora_rank") else 0
    q_size, part, bias = heads * shape.head_dim, Part.ATTENTION, fields.flag("attention_bias", default=False)
    lora, name = shape.kv_lora_rank, "self_attn."
    kv_size = heads * (shape.nope_head_dim + shape.value_head_dim)
    query = (
        Block(
            (
                Linear(name + "q_a_proj", hidden, q_rank, part, Split.REPLICATED, bias=bias),
                Linear(name + "q_b_proj", q_rank, q_size, part, max_shards=heads),
            ),
            q_rank,
        )
        if q_rank
        else Block((Linear(name + "q_proj", hidden, q_size, part, max_shards=heads),))
    )
    kv_a = Linear(name + "kv_a_proj_with_mqa", hidden, lora + shape.rope_head_dim, part, Split.REPLICATED, bias=bias)
    rest = Block(
        (
            kv_a,
            Linear(name + "kv_b_proj", lora, kv_size, part, max_shards=heads),
            Linear(name + "o_proj", heads * shape.value_head_dim, hidden, part, Split.ROW, bias=bias),
        ),
        lora,
    )
    return shape, query + rest + _indexer(shape, hidden, q_rank)


def _indexer(shape: LatentAttention, hidden: int, q_rank: int) -> Block:
    if not shape.index_heads:
        return Block()
    size, name, part = shape.index_head_dim, "self_attn.indexer.", Part.ATTENTION
    replicated = Split.REPLICATED
    return Block(
        (
            Linear(name + "wq_b", q_rank, shape.index_heads * size, part, replicated),
            Linear(name + "wk", hidden, size, part, replicated),
            Linear(name + "weights_proj", hidden, shape.index_heads, part, replicated, quantisable=False),
        ),
        2 * size,
    )


def dense_mlp(
    hidden: int,
    width: int,
    *,
    names: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    bias: bool = False,
    part: Part = Part.MLP,
) -> tuple[Mlp, Block]:
    """A dense MLP: three names make it a gated one, two a plain one."""
    *ups, down = names
    linears = (
        *(Linear(name, hidden, width, part, bias=bias) for name in ups),
        Linear(down, width, hidden, part, Split.ROW, bias=bias),
    )
    return Mlp(MlpKind.DENSE, width, gated=len(ups) == 2), Block(linears)


def router(name: str, hidden: int, count: int, *, bias: bool = False, other: int = 0) -> Block:
    """The router in front of the experts; serving engines keep it unquantised."""
    linear = Linear(name, hidden, count, Part.ROUTER, Split.REPLICATED, bias=bias, quantisable=False)
    return Block((linear,), other)


def experts(
    fields: ConfigFields,
    hidden: int,
    mlp: Mlp,
    *,
    prefix: str = "mlp.experts.0.",
    names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj"),
    bias: bool = False,
) -> Block:
    """Routed experts."""
    if mlp.experts_per_token > mlp.experts:
        raise fields.wrong("num_experts_per_tok", f"at most the {mlp.experts} experts")
    _, block = dense_mlp(
        hidden, mlp.intermediate_size, names=tuple(prefix + n for n in names), bias=bias, part=Part.EXPERT
    )
    many = (replace(each, copies=mlp.experts, active_copies=mlp.experts_per_token) for each in block.linears)
    return Block(tuple(many))


def shared_experts(hidden: int, width: int, *, names: tuple[str, ...]) -> Block:
    """Experts that every token passes, as one wide MLP; nothing where there are none."""
    if not width:
        return Block()
    return dense_mlp(hidden, width, names=names, part=Part.SHARED_EXPERT)[1]
