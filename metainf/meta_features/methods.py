"""What a method changes, in numbers: once as it is asked for, once as the engine runs with it.

Separate from the task's figures: the first are the same on every task, which is what lets one regression learn all
methods together; the second say what they come to on one replica, where defaults differ.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metainf.dtypes import DType
from metainf.meta_features.schema import Feature, FeatureDescription, described, values_of
from metainf.methods import Method, Requirement
from metainf.predictors.contract import ReplicaSpec
from metainf.settings import EngineSettings, PerformanceMode, SpeculationKind

__all__ = ["METHOD_FEATURES", "SETTINGS_FEATURES", "method_features"]

FloatArray = NDArray[np.float64]

_MODES = {PerformanceMode.INTERACTIVITY: -1.0, PerformanceMode.BALANCED: 0.0, PerformanceMode.THROUGHPUT: 1.0}
_MIDDLE_BUDGET_TOKENS = 8192  # the default of most data-centre GPUs: budgets count as ratios to it
_MIDDLE_SEQUENCES = 256
_GIB = 1 << 30


def _ratio(value: int | None, middle: int) -> float:
    return 0.0 if value is None else math.log(value / middle)


def _drafts(settings: EngineSettings, *kinds: SpeculationKind) -> float:
    speculation = settings.speculation
    return float(speculation.tokens) if speculation is not None and speculation.kind in kinds else 0.0


_METHOD: tuple[Feature[Method], ...] = (
    Feature(
        "method_no_prefix_caching",
        "1",
        "1 where prefix caching is turned off.",
        lambda m: float(m.settings.prefix_caching is False),
    ),
    Feature(
        "method_no_chunked_prefill",
        "1",
        "1 where prompts are never cut into chunks.",
        lambda m: float(m.settings.chunked_prefill is False),
    ),
    Feature(
        "method_sets_budget",
        "1",
        "1 where the token budget of a step is set.",
        lambda m: float(m.settings.max_num_batched_tokens is not None),
    ),
    Feature(
        "method_budget",
        "ln(1)",
        "That budget over 8,192; 0 where it is left alone.",
        lambda m: _ratio(m.settings.max_num_batched_tokens, _MIDDLE_BUDGET_TOKENS),
    ),
    Feature(
        "method_sets_sequences",
        "1",
        "1 where the number of sequences of a step is set.",
        lambda m: float(m.settings.max_num_seqs is not None),
    ),
    Feature(
        "method_sequences",
        "ln(1)",
        "That number over 256; 0 where it is left alone.",
        lambda m: _ratio(m.settings.max_num_seqs, _MIDDLE_SEQUENCES),
    ),
    Feature(
        "method_long_prefill_threshold",
        "ln(1 + tokens)",
        "Most tokens of one long prompt in a step; 0 for no cap.",
        lambda m: math.log1p(m.settings.long_prefill_token_threshold or 0),
    ),
    Feature(
        "method_copied_drafts",
        "tokens",
        "Draft tokens of a step that are copied from the text so far.",
        lambda m: _drafts(m.settings, SpeculationKind.NGRAM),
    ),
    Feature(
        "method_trained_drafts",
        "tokens",
        "Draft tokens of a step that a trained head or model gives.",
        lambda m: _drafts(m.settings, SpeculationKind.EAGLE, SpeculationKind.MTP, SpeculationKind.DRAFT_MODEL),
    ),
    Feature(
        "method_fp8_weights",
        "1",
        "1 where weights are narrowed to FP8 while loading.",
        lambda m: float(m.settings.quantization is DType.FP8),
    ),
    Feature(
        "method_fp8_cache",
        "1",
        "1 where the KV cache is in FP8.",
        lambda m: float(m.settings.kv_cache_dtype is DType.FP8),
    ),
    Feature(
        "method_offload",
        "ln(1 + GiB)",
        "Host memory behind the KV cache.",
        lambda m: math.log1p((m.settings.kv_offload_bytes or 0) / _GIB),
    ),
    Feature(
        "method_mode",
        "1",
        "-1 for interactivity, 1 for throughput.",
        lambda m: _MODES[m.settings.performance_mode or PerformanceMode.BALANCED],
    ),
    Feature(
        "method_stream_interval",
        "ln(tokens)",
        "Tokens that are sent to the client together.",
        lambda m: math.log(m.settings.stream_interval or 1),
    ),
    Feature(
        "method_needs_draft_model",
        "1",
        "1 where a draft model has to be there.",
        lambda m: float(Requirement.DRAFT_MODEL in m.requires),
    ),
    Feature("method_complexity", "settings", "How far it is from the default.", lambda m: float(m.complexity)),
)

METHOD_FEATURES: tuple[FeatureDescription, ...] = described(_METHOD)


def method_features(methods: Sequence[Method]) -> FloatArray:
    """What each method changes, shape (m, k), columns as METHOD_FEATURES describes them; the default is all zeros."""
    rows = [values_of(_METHOD, method) for method in methods]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(_METHOD))


def _drafts_by_head(replica: ReplicaSpec) -> float:
    speculation = replica.settings.speculation
    return float(speculation is not None and speculation.kind in (SpeculationKind.EAGLE, SpeculationKind.DRAFT_MODEL))


SETTINGS_FEATURES: tuple[Feature[ReplicaSpec], ...] = (
    Feature("set_prefix_caching", "1", "1 where prefixes are cached.", lambda r: float(r.settings.prefix_caching)),
    Feature(
        "set_chunked_prefill", "1", "1 where prompts are cut into chunks.", lambda r: float(r.settings.chunked_prefill)
    ),
    Feature(
        "set_budget", "ln(tokens)", "Most tokens of a step.", lambda r: math.log(r.settings.max_num_batched_tokens)
    ),
    Feature("set_sequences", "ln(sequences)", "Most sequences of a step.", lambda r: math.log(r.settings.max_num_seqs)),
    Feature(
        "set_long_prefill_threshold",
        "ln(1 + tokens)",
        "Most tokens of one long prompt in a step; 0 for no cap.",
        lambda r: math.log1p(r.settings.long_prefill_token_threshold),
    ),
    Feature(
        "set_copied_drafts",
        "tokens",
        "Draft tokens of a step that are copied from the text so far.",
        lambda r: _effective_drafts(r, copied=True),
    ),
    Feature(
        "set_trained_drafts",
        "tokens",
        "Draft tokens of a step that a trained head or model gives.",
        lambda r: _effective_drafts(r, copied=False),
    ),
    Feature(
        "set_drafts_by_head",
        "1",
        "1 where drafts come from a head or model of their own, and not from the model's own layers.",
        _drafts_by_head,
    ),
    Feature(
        "set_fp8_weights",
        "1",
        "1 where weights are narrowed to FP8 while loading.",
        lambda r: float(r.settings.weight_dtype is DType.FP8),
    ),
    Feature(
        "set_cache_value_bytes",
        "bytes",
        "One value of the KV cache.",
        lambda r: r.settings.kv_cache_dtype.bytes_per_value,
    ),
    Feature(
        "set_offload",
        "ln(1 + GiB)",
        "Host memory behind the KV cache.",
        lambda r: math.log1p(r.settings.kv_offload_bytes / _GIB),
    ),
    Feature("set_mode", "1", "-1 for interactivity, 1 for throughput.", lambda r: _MODES[r.settings.performance_mode]),
    Feature(
        "set_asynchronous",
        "1",
        "1 where the host prepares a step while the last one runs.",
        lambda r: float(r.settings.asynchronous_scheduling),
    ),
    Feature(
        "set_stream_interval",
        "ln(tokens)",
        "Tokens that are sent to the client together.",
        lambda r: math.log(r.settings.stream_interval),
    ),
    Feature("set_block_tokens", "ln(tokens)", "One block of the cache.", lambda r: math.log(r.settings.block_tokens)),
    Feature(
        "set_context_tokens",
        "ln(tokens)",
        "Longest request that is taken.",
        lambda r: math.log(r.settings.max_model_len),
    ),
)


def _effective_drafts(replica: ReplicaSpec, *, copied: bool) -> float:
    speculation = replica.settings.speculation
    if speculation is None or (speculation.kind is SpeculationKind.NGRAM) is not copied:
        return 0.0
    return float(speculation.tokens)
