"""Older families with biases everywhere and plain MLPs: OPT, GPT-2 and GPT-NeoX.

Separate because they spell their sizes differently and, but for GPT-NeoX, learn a vector per position. Source of
the shapes: the models' own code in Hugging Face transformers 5.23; the tests compare the sums.
"""

from metainf.config_fields import ConfigFields
from metainf.errors import InvalidWorkloadError
from metainf.families.parts import Blueprint, dense_mlp, layer_count, layer_of, softmax
from metainf.layers import Layer, SoftmaxAttention

__all__ = ["gpt2", "gpt_neox", "opt"]


def _layer(
    fields: ConfigFields,
    hidden: int,
    heads: int,
    width: int,
    *,
    attention: tuple[str, str, str, str, str],
    mlp: tuple[str, str],
) -> Layer:
    if hidden % heads:
        raise InvalidWorkloadError(
            f"{fields.owner}: config.json gives {heads} heads, which do not divide the hidden size {hidden}"
        )
    shape = SoftmaxAttention(heads, heads, hidden // heads)
    prefix, *names = attention
    block = softmax(
        shape,
        hidden,
        prefix=prefix,
        names=(names[0], names[1], names[2], names[3]),
        qkv_bias=True,
        out_bias=True,
        other=4 * hidden,
    )
    mlp_shape, mlp_block = dense_mlp(hidden, width, names=mlp, bias=True)
    return layer_of(shape, mlp_shape, block + mlp_block)


def opt(fields: ConfigFields) -> Blueprint:
    """OPT: the positions' table has two rows more than positions; the 350M model embeds in a narrower space."""
    if not fields.flag("enable_bias", default=True):
        raise fields.wrong("enable_bias", "true for OPT")
    hidden, context = fields.integer("hidden_size"), fields.integer("max_position_embeddings")
    embedding = fields.integer("word_embed_proj_dim", default=hidden)
    before = fields.flag("do_layer_norm_before", default=True)
    layer = _layer(
        fields,
        hidden,
        fields.integer("num_attention_heads"),
        fields.integer("ffn_dim"),
        attention=("self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
        mlp=("fc1", "fc2"),
    )
    other = (context + 2) * hidden + (2 * hidden if before else 0)
    other += 2 * embedding * hidden if embedding != hidden else 0
    return Blueprint(
        (layer,) * layer_count(fields),
        hidden,
        fields.integer("vocab_size"),
        context,
        tied_default=True,
        other_parameters=other,
        embedding_size=embedding,
    )


def gpt2(fields: ConfigFields) -> Blueprint:
    """GPT-2: query, key and value in one matrix."""
    hidden, context = fields.integer("n_embd"), fields.integer("n_positions")
    layer = _layer(
        fields,
        hidden,
        fields.integer("n_head"),
        fields.integer("n_inner", default=4 * hidden),
        attention=("attn", "c_attn", "c_attn", "c_attn", "c_proj"),
        mlp=("mlp.c_fc", "mlp.c_proj"),
    )
    return Blueprint(
        (layer,) * layer_count(fields, "n_layer"),
        hidden,
        fields.integer("vocab_size"),
        context,
        tied_default=True,
        other_parameters=context * hidden + 2 * hidden,
    )


def gpt_neox(fields: ConfigFields) -> Blueprint:
    """GPT-NeoX and Pythia: rotary positions, the head untied."""
    if not fields.flag("attention_bias", default=True):
        raise fields.wrong("attention_bias", "true for GPT-NeoX")
    hidden = fields.integer("hidden_size")
    layer = _layer(
        fields,
        hidden,
        fields.integer("num_attention_heads"),
        fields.integer("intermediate_size"),
        attention=("attention", "query_key_value", "query_key_value", "query_key_value", "dense"),
        mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    )
    return Blueprint(
        (layer,) * layer_count(fields),
        hidden,
        fields.integer("vocab_size"),
        fields.integer("max_position_embeddings"),
        tied_default=False,
        other_parameters=2 * hidden,
    )
