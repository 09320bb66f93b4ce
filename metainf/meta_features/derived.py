"""Meta-features that need replica and traffic together: roofline times, KV pressure, where a step's time goes.

Separate from the declared figures: these are physics on top of them, as arrays over the distinct lanes of many
questions. Speeds are the datasheet's at the analytical predictor's constants; nothing here has seen the truth.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metainf.meta_features.schema import Feature
from metainf.predictors.lanes import LaneSet
from metainf.queueing import Lane, OperatingPoint, at, decode_step_s, largest_requests_per_step, limiting_rate

__all__ = ["DERIVED_FEATURES", "LOAD_FEATURES", "LaneState", "LoadState", "lane_state", "load_state"]

FloatArray = NDArray[np.float64]

_EMPTY = 1e-9  # requests per step of a lane that does nothing else
_SHARES = (1.0, 0.7, 0.4, 0.2)
"""Of the fullest state: a lane is at its best at one of these or close to it, within 2 % of the predictor's search."""
_MOST_LOG = 12.0
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class LaneState:
    """m distinct lanes in their two extreme states; arrays of shape (m,)."""

    lanes: LaneSet
    replica: Any
    traffic: Any
    accelerators: FloatArray
    """Of one replica."""
    weights_ratio: FloatArray
    """Weights over the memory that the engine may take."""
    empty: OperatingPoint
    one_step_s: FloatArray
    """A decode step of one sequence."""
    full_step_s: FloatArray
    """A decode step of as many as there are slots."""
    capacity: FloatArray
    """Most requests per second of one replica."""
    engine_capacity: FloatArray
    """The same if its steps were all that limits it."""

    @property
    def lane(self) -> Lane:
        """The lanes themselves."""
        return self.lanes.lane

    @property
    def steps(self) -> Any:
        """Step-time coefficients, arrays."""
        return self.lanes.lane.steps

    @property
    def least_s(self) -> FloatArray:
        """What each step takes however little is in it: launches, host, collectives."""
        return np.asarray(self.steps.fixed_s + self.steps.collective_s)

    @property
    def prompt_s(self) -> FloatArray:
        """What one mean prompt adds to an empty lane."""
        return self.empty.chunks * (self.empty.prompt_step_s - self.empty.decode_step_s)

    @property
    def request_bytes(self) -> FloatArray:
        """Cache of one request at its mean context, on one rank."""
        r, tokens = self.replica, self.lane.context_tokens
        window = np.minimum(tokens, r.window_tokens) / r.window_tokens
        return np.asarray((tokens * r.kv_token_bytes + r.kv_fixed_bytes * window + r.draft_state_bytes) / r.stages)

    @property
    def cache_sequences(self) -> FloatArray:
        """Requests at their mean context that the cache of a rank holds."""
        return np.asarray(np.maximum(self.replica.kv_bytes, _TINY) / self.request_bytes)

    def weight_read_s(self, sequences: FloatArray) -> FloatArray:
        """Reading the weights in a decode step of so many sequences."""
        m, tokens = self.steps, sequences * self.lane.tokens_per_sequence
        experts = -np.expm1(tokens * m.expert_lanes * m.expert_miss_log)
        return np.asarray(m.dense_read_s + m.expert_read_s * experts + m.head_read_s)

    def cache_read_s(self, sequences: FloatArray) -> FloatArray:
        """Reading the cache in a decode step of so many sequences."""
        m, context = self.steps, self.lane.context_tokens
        return np.asarray(
            sequences * (m.cache_read_s * context + m.window_read_s * np.minimum(context, m.window_tokens))
        )

    def compute_s(self, sequences: FloatArray) -> FloatArray:
        """Arithmetic in matrices in a decode step of so many sequences."""
        m, tokens = self.steps, sequences * self.lane.tokens_per_sequence
        return np.asarray(tokens * (m.dense_token_s + m.expert_lanes * m.expert_token_s + m.head_row_s))


def lane_state(lanes: LaneSet, extras: FloatArray) -> LaneState:
    """The state of distinct lanes; `extras` are accelerators and weights' share, shape (m, 2)."""
    lane = lanes.lane
    full_y = largest_requests_per_step(lane)
    shares = np.array(_SHARES)[:, None]
    best = at(lane, full_y * shares).requests_per_second.max(axis=0) * np.asarray(lanes.replica.lanes)
    return LaneState(
        lanes=lanes,
        replica=lanes.replica,
        traffic=lanes.traffic,
        accelerators=extras[:, 0],
        weights_ratio=extras[:, 1],
        empty=at(lane, np.full_like(lane.slots, _EMPTY)),
        one_step_s=decode_step_s(lane, np.ones_like(lane.slots)),
        full_step_s=decode_step_s(lane, lane.slots),
        capacity=np.minimum(best, limiting_rate(lane) * np.asarray(lanes.replica.lanes)),
        engine_capacity=best,
    )


def _log(values: FloatArray) -> FloatArray:
    return np.clip(np.log(np.maximum(values, _TINY)), -2 * _MOST_LOG, 2 * _MOST_LOG)


def _prefix_pressure(s: LaneState) -> FloatArray:
    wanted = s.traffic.prefix_distinct * s.lanes.hit_tokens * s.replica.kv_token_bytes / s.replica.stages
    return np.asarray(np.log1p(np.minimum(wanted / np.maximum(s.replica.kv_bytes, 1.0), 1e6)))


def _prefill_share(s: LaneState) -> FloatArray:
    decode_s = s.lane.decode_steps * s.full_step_s / s.lane.slots
    return np.asarray(s.prompt_s / np.maximum(s.prompt_s + decode_s, _TINY))


def _attention_share(s: LaneState) -> FloatArray:
    m, attended = s.steps, s.lane.prompt_context_tokens
    pairs = m.prompt_pair_s * attended + m.prompt_pair_window_s * np.minimum(attended, m.window_tokens)
    spent = s.lane.prompt_tokens * pairs
    return np.asarray(np.minimum(spent / np.maximum(s.prompt_s, _TINY), 1.0))


DERIVED_FEATURES: tuple[Feature[LaneState], ...] = (
    Feature(
        "ttft_unloaded_s",
        "ln(s)",
        "First token of a mean prompt on an empty replica.",
        lambda s: _log(s.lane.request_s + s.empty.prefill_s),
    ),
    Feature(
        "tpot_unloaded_s",
        "ln(s)",
        "Time per output token on an empty replica.",
        lambda s: _log(s.one_step_s / s.lanes.tokens_per_step),
    ),
    Feature(
        "tpot_full_s",
        "ln(s)",
        "Time per output token with all slots taken and no prompts.",
        lambda s: _log(s.full_step_s / s.lanes.tokens_per_step),
    ),
    Feature(
        "batching_gain",
        "ln(1)",
        "Output tokens per second with all slots taken over those of one sequence.",
        lambda s: _log(s.lane.slots * s.one_step_s / s.full_step_s),
    ),
    Feature(
        "weight_read_share",
        "1",
        "Share of a step of one sequence that reads weights.",
        lambda s: s.weight_read_s(np.ones_like(s.lane.slots)) * s.lane.small_step_scale / s.one_step_s,
    ),
    Feature(
        "weight_read_share_full",
        "1",
        "Share of a step with all slots taken that reads weights.",
        lambda s: s.weight_read_s(s.lane.slots) / s.full_step_s,
    ),
    Feature(
        "cache_read_share_full",
        "1",
        "Share of a step with all slots taken that reads the KV cache.",
        lambda s: s.cache_read_s(s.lane.slots) / s.full_step_s,
    ),
    Feature(
        "fixed_share",
        "1",
        "Share of a step of one sequence that neither reads nor computes: launches, host, collectives.",
        lambda s: (s.least_s * s.lane.small_step_scale + s.lane.step_extra_s) / s.one_step_s,
    ),
    Feature(
        "collective_share",
        "1",
        "Share of a step of one sequence that is the latency of collectives.",
        lambda s: s.steps.collective_s * s.lane.small_step_scale / s.one_step_s,
    ),
    Feature(
        "host_share_full",
        "1",
        "Share of a step with all slots taken that is work of the host per sequence.",
        lambda s: s.lane.slots * (s.steps.sequence_s + s.lane.sequence_extra_s) / s.full_step_s,
    ),
    Feature(
        "arithmetic_intensity_full",
        "ln(1)",
        "Computing over reading, as times, in a step with all slots taken: below 0 the memory binds.",
        lambda s: _log(s.compute_s(s.lane.slots) / (s.weight_read_s(s.lane.slots) + s.cache_read_s(s.lane.slots))),
    ),
    Feature(
        "expert_read_share_full",
        "1",
        "Share of the experts that a step with all slots taken reads; 0 for a dense model.",
        lambda s: np.abs(np.expm1(s.lane.slots * s.steps.expert_lanes * s.steps.expert_miss_log)),
    ),
    Feature(
        "prefill_attention_share",
        "1",
        "Share of a prompt's time that is attention between its tokens.",
        _attention_share,
    ),
    Feature("prefill_share", "1", "Prompts' share of the work of a request when all slots are taken.", _prefill_share),
    Feature("slots", "ln(sequences)", "Sequences that a rank runs at a time.", lambda s: _log(s.lane.slots)),
    Feature(
        "cache_sequences",
        "ln(sequences)",
        "Requests at their mean context that the KV cache of a rank holds.",
        lambda s: _log(s.cache_sequences),
    ),
    Feature(
        "sequence_limit_pressure",
        "ln(1)",
        "Sequences that the scheduler admits over those that the cache holds: above 0 the cache binds.",
        lambda s: _log(s.replica.sequence_limit / s.cache_sequences),
    ),
    Feature(
        "request_cache_bytes",
        "ln(bytes)",
        "KV cache of one request at its mean context, on one rank.",
        lambda s: _log(s.request_bytes),
    ),
    Feature(
        "weights_memory_ratio", "1", "Weights over the memory that the engine may take.", lambda s: s.weights_ratio
    ),
    Feature(
        "prompt_budget_ratio",
        "ln(1)",
        "A mean prompt, less what is cached, over the token budget of a step.",
        lambda s: _log(s.lane.prompt_tokens / s.lane.budget_tokens),
    ),
    Feature(
        "prefix_saved_share",
        "1",
        "Share of all prompt tokens that the prefix cache saves.",
        lambda s: s.lanes.hit_ratio * s.lanes.hit_tokens / s.traffic.input_tokens,
    ),
    Feature(
        "prefix_hit_ratio",
        "1",
        "Share of the requests whose prefix is expected to be in the cache.",
        lambda s: s.lanes.hit_ratio,
    ),
    Feature(
        "tokens_per_step",
        "ln(tokens)",
        "Tokens that a sequence is expected to gain in a step: accepted drafts, and the one that the model adds.",
        lambda s: np.log(s.lanes.tokens_per_step),
    ),
    Feature("prefix_pressure", "ln(1 + 1)", "All distinct prefixes over the KV cache.", _prefix_pressure),
    Feature(
        "context_tokens",
        "ln(tokens)",
        "Cached tokens that a decoding sequence has.",
        lambda s: _log(s.lane.context_tokens),
    ),
    Feature(
        "capacity",
        "ln(requests/s)",
        "Most requests per second and accelerator.",
        lambda s: _log(s.capacity / s.accelerators),
    ),
    Feature(
        "frontend_busy",
        "1",
        "Share of the API server's time that streaming takes of what the engine could do: above 1 the server binds.",
        lambda s: np.minimum(s.engine_capacity / s.replica.lanes * s.lane.streaming_s, 4.0),
    ),
)


@dataclass(frozen=True, slots=True)
class LoadState:
    """n questions and what their load asks of one lane; arrays of shape (n,)."""

    utilization: FloatArray
    """Rate over capacity; of other loads, requests over slots."""
    wanted: FloatArray
    """Sequences that a lane would run at a time if it had the slots."""
    cache_sequences: FloatArray


def load_state(state: LaneState, of: NDArray[np.intp], lanes: FloatArray) -> LoadState:
    """The load of n questions, each with the distinct lane that it uses and how many of them all its replicas have."""
    rate, clients, requests = (
        np.asarray(getattr(state.traffic, name))[of] / lanes for name in ("rate", "clients", "requests")
    )
    capacity = (state.capacity / state.replica.lanes)[of]
    residence_s = (state.lane.request_s + state.empty.prefill_s + state.lane.decode_steps * state.one_step_s)[of]
    present = np.where(np.isnan(clients), requests, clients)
    is_open = ~np.isnan(rate)
    return LoadState(
        utilization=np.where(is_open, rate / capacity, present / state.lane.slots[of]),
        wanted=np.where(is_open, rate * residence_s, present),
        cache_sequences=state.cache_sequences[of],
    )


def _bounded_log(values: FloatArray) -> FloatArray:
    return np.clip(_log(values), -_MOST_LOG, _MOST_LOG)


LOAD_FEATURES: tuple[Feature[LoadState], ...] = (
    Feature(
        "load_to_capacity",
        "ln(1)",
        "Declared rate over the capacity; of clients and batches, requests over slots.",
        lambda s: _bounded_log(s.utilization),
    ),
    Feature(
        "kv_pressure",
        "ln(1)",
        "Requests that the load would have running at a time over those that the KV cache holds.",
        lambda s: _bounded_log(s.wanted / s.cache_sequences),
    ),
)
