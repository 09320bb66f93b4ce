"""Meta-features of the model: what it stores, caches and computes, from its architecture alone.

Separate from the replica's figures since none of these depends on where or how the model is served.
"""

import math
from collections.abc import Callable

from metainf.architecture import ModelArchitecture
from metainf.layers import LatentAttention, Mixer, MixerKind, Mlp, RecurrentMixer, SoftmaxAttention
from metainf.meta_features.schema import Feature

__all__ = ["MODEL_FEATURES"]

_WINDOWED = frozenset({MixerKind.SLIDING, MixerKind.CHUNKED})
_REFERENCE_CONTEXT_TOKENS = 4096  # where attention's share of the arithmetic is compared between models


Attention = SoftmaxAttention | LatentAttention


def _mean(architecture: ModelArchitecture, value: Callable[[Attention], float]) -> float:
    """Mean over the layers that attend; 0 where none does."""
    pairs = [
        (group.count, value(group.layer.mixer))
        for group in architecture.layer_groups
        if isinstance(group.layer.mixer, SoftmaxAttention | LatentAttention)
    ]
    layers = sum(count for count, _ in pairs)
    return sum(count * each for count, each in pairs) / layers if layers else 0.0


def _share(architecture: ModelArchitecture, holds: Callable[[Mixer], bool]) -> float:
    """Share of the layers with a mixer of that kind; layers of an MLP alone count as layers without."""
    found = sum(
        group.count for group in architecture.layer_groups if group.layer.mixer is not None and holds(group.layer.mixer)
    )
    return found / architecture.layers


def _experts(architecture: ModelArchitecture) -> Mlp | None:
    mlps = [group.layer.mlp for group in architecture.layer_groups if group.layer.mlp is not None]
    return max(mlps, key=lambda mlp: mlp.experts, default=None)


def _state_bytes(architecture: ModelArchitecture) -> float:
    """Cache of a sequence that does not grow with it: windows full, recurrent states."""
    long_tokens = 1 << 20
    total = architecture.kv_bytes(long_tokens, architecture.dtype)
    return max(0.0, total - long_tokens * architecture.kv_bytes_per_token(architecture.dtype))


def _attention_ratio(architecture: ModelArchitecture) -> float:
    attention = architecture.attention_flops_per_token(_REFERENCE_CONTEXT_TOKENS)
    return attention / (attention + architecture.linear_flops_per_token())


def _head_ratio(architecture: ModelArchitecture) -> float:
    return 1.0 - architecture.linear_flops_per_token(logits=False) / architecture.linear_flops_per_token()


def _kv_bytes_per_token(architecture: ModelArchitecture) -> float:
    return architecture.kv_bytes_per_token(architecture.kv_cache_dtype or architecture.dtype)


MODEL_FEATURES: tuple[Feature[ModelArchitecture], ...] = (
    Feature("model_parameters", "ln(weights)", "All weights that are stored.", lambda a: math.log(a.parameters)),
    Feature(
        "model_active_parameters",
        "ln(weights)",
        "Weights that one token meets.",
        lambda a: math.log(a.active_parameters),
    ),
    Feature(
        "model_active_ratio",
        "1",
        "Share of the weights that one token meets.",
        lambda a: a.active_parameters / a.parameters,
    ),
    Feature("model_weight_bytes", "ln(bytes)", "Size of the checkpoint's weights.", lambda a: math.log(a.weight_bytes)),
    Feature(
        "model_bytes_per_weight",
        "bytes",
        "Storage of one weight on average, scales included.",
        lambda a: a.weight_bytes / a.parameters,
    ),
    Feature("model_layers", "ln(layers)", "Layers, one after the other.", lambda a: math.log(a.layers)),
    Feature("model_hidden_size", "ln(values)", "Width of the hidden state.", lambda a: math.log(a.hidden_size)),
    Feature(
        "model_flops_per_token",
        "ln(FLOP)",
        "Arithmetic of one token in matrices, head included.",
        lambda a: math.log(a.linear_flops_per_token()),
    ),
    Feature("model_head_ratio", "1", "The head's share of that arithmetic.", _head_ratio),
    Feature(
        "model_attention_ratio",
        "1",
        "Attention's share of the arithmetic of a token after 4,096 others.",
        _attention_ratio,
    ),
    Feature(
        "model_kv_bytes_per_token",
        "ln(1 + bytes)",
        "What one more token of a long context adds to the KV cache.",
        lambda a: math.log1p(_kv_bytes_per_token(a)),
    ),
    Feature(
        "model_state_bytes",
        "ln(1 + bytes)",
        "Cache of a sequence that does not grow with it: full windows and recurrent states.",
        lambda a: math.log1p(_state_bytes(a)),
    ),
    Feature(
        "model_kv_heads",
        "heads",
        "KV heads of a layer that attends, on average.",
        lambda a: _mean(a, lambda m: m.kv_heads),
    ),
    Feature(
        "model_queries_per_kv_head",
        "heads",
        "Query heads that share one KV head, on average.",
        lambda a: _mean(a, lambda m: m.query_heads / m.kv_heads),
    ),
    Feature("model_head_dim", "values", "Width of a head, on average.", lambda a: _mean(a, lambda m: m.head_dim)),
    Feature(
        "model_full_share",
        "1",
        "Share of the layers that attend to the whole context.",
        lambda a: _share(a, lambda m: m.kind is MixerKind.FULL),
    ),
    Feature(
        "model_window_share",
        "1",
        "Share of the layers that attend to a window or a chunk.",
        lambda a: _share(a, lambda m: m.kind in _WINDOWED),
    ),
    Feature(
        "model_sparse_share",
        "1",
        "Share of the layers that attend to picked tokens.",
        lambda a: _share(a, lambda m: m.kind is MixerKind.SPARSE),
    ),
    Feature(
        "model_recurrent_share",
        "1",
        "Share of the layers that keep a state instead of a cache.",
        lambda a: _share(a, lambda m: isinstance(m, RecurrentMixer)),
    ),
    Feature(
        "model_latent_share",
        "1",
        "Share of the layers with a compressed cache (MLA).",
        lambda a: _share(a, lambda m: isinstance(m, LatentAttention)),
    ),
    Feature(
        "model_window_tokens",
        "ln(1 + tokens)",
        "Widest window of a layer; 0 without windows.",
        lambda a: math.log1p(a.window_tokens() or 0),
    ),
    Feature(
        "model_experts",
        "ln(1 + experts)",
        "Experts of a layer; 0 for a dense model.",
        lambda a: math.log1p(mlp.experts if (mlp := _experts(a)) else 0),
    ),
    Feature(
        "model_experts_per_token",
        "experts",
        "Experts that one token goes to; 0 for a dense model.",
        lambda a: float(mlp.experts_per_token if (mlp := _experts(a)) else 0),
    ),
    Feature(
        "model_expert_share",
        "1",
        "Share of the weights that belong to routed experts.",
        lambda a: a.expert_parameters / a.parameters,
    ),
    Feature(
        "model_draft_layers",
        "layers",
        "Layers of the checkpoint for multi-token prediction.",
        lambda a: float(len(a.mtp_layers)),
    ),
    Feature(
        "model_context_tokens",
        "ln(tokens)",
        "Longest context that the model takes.",
        lambda a: math.log(a.max_context_tokens),
    ),
)
