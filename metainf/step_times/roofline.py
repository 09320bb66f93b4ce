"""Step times from datasheet and architecture: the roofline as tables, for any model on any accelerator.

Separate from `metainf.roofline`, which gives the formula that predictors use: here it is cut into the parts that a
simulator adds up chunk by chunk, and sampled. Its parts are what hidden worlds bend.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.accelerators import Vendor
from metainf.efficiencies import Efficiency
from metainf.predictors.contract import ReplicaSpec
from metainf.roofline import (
    INTERACTIVITY_SCALE,
    INTERACTIVITY_TOKENS,
    SYNC_HOST_FACTOR,
    StepModel,
    calibrated,
    step_work,
)
from metainf.settings import PerformanceMode
from metainf.simulator.contract import HostTimes, StepTimes
from metainf.speculation import DRAFTED_SEQUENCES, DraftCost, draft_cost
from metainf.step_times.graphs import captured_tokens

__all__ = [
    "AS_KNOWN",
    "CostFactors",
    "RooflineParts",
    "host_times",
    "roofline_parts",
    "roofline_step_times",
    "with_method_costs",
]

FloatArray = NDArray[np.float64]

_MOST_TOKENS = float(1 << 17)
_MOST_CONTEXT = float(1 << 20)
_RATIO = 1.25
"""Between neighbouring points: a parabola is off by ((r - 1) / (r + 1))^2 = 1.2 % halfway, experts by 0.5 %."""


@dataclass(frozen=True, slots=True)
class CostFactors:
    """By how much what methods cost and save differs from the constants that predictors know; by default not at all."""

    draft: float = 1.0
    """On all that drafting adds to a step."""
    waiting: float = 1.0
    """On the host work that synchronous scheduling waits for beyond what any step waits for."""
    interactivity: float = 1.0
    """On the logarithm of what interactivity does to a small step."""


AS_KNOWN = CostFactors()


@dataclass(frozen=True, slots=True)
class RooflineParts:
    """The parts of a step as functions of what they depend on; numpy in, numpy out, seconds."""

    model: StepModel
    floor_s: float
    """Kernels of all layers at their least, and the latencies of collectives: in every step, whatever its size."""
    expert_floor_s: float
    """The same for routing and grouped products of experts."""
    host_s: float
    tokens_per_sequence: float
    """Of a decoding sequence in one step: drafts and one."""

    def token_s(self, tokens: FloatArray) -> FloatArray:
        """Projections, dense MLPs, norms and collectives."""
        m = self.model
        both = _overlapped(np.full_like(tokens, m.dense_read_s), tokens * m.dense_token_s, m.overlap)
        return self.floor_s + both + tokens * (m.token_s + m.link_token_s)

    def expert_s(self, tokens: FloatArray) -> FloatArray:
        """Routed experts, by the tokens of all ranks."""
        m = self.model
        read = -m.expert_read_s * np.expm1(tokens * m.expert_miss_log)
        return self.expert_floor_s + _overlapped(read, tokens * m.expert_token_s, m.overlap)

    def decode_s(self, sequences: FloatArray, context_tokens: FloatArray) -> FloatArray:
        """Attention of all decoding sequences."""
        m = self.model
        full = max(m.cache_read_s, self.tokens_per_sequence * m.cache_token_s) * context_tokens
        return np.asarray(sequences * (full + m.window_read_s * np.minimum(context_tokens, m.window_tokens)))

    def chunk_s(self, tokens: FloatArray, context_tokens: FloatArray) -> FloatArray:
        """Attention of one prompt chunk: each token attends to what is before it, or to a window of that."""
        m = self.model
        pairs = tokens * (context_tokens + (tokens + 1.0) / 2.0)
        inside = np.clip(m.window_tokens - context_tokens, 0.0, tokens)  # tokens that see less than a window
        windowed = inside * (context_tokens + (inside + 1.0) / 2.0) + (tokens - inside) * m.window_tokens
        return np.asarray(m.prompt_pair_s * pairs + m.prompt_pair_window_s * windowed)


def roofline_parts(replica: ReplicaSpec, efficiency: Efficiency) -> RooflineParts:
    """The parts of one rank's step."""
    work = step_work(replica)
    model = calibrated(work, efficiency)
    expert_floor_s = work.expert_layers * efficiency.expert_layer_s
    floor_s = model.fixed_s + model.collective_s - efficiency.host_s - expert_floor_s
    speculation = replica.settings.speculation
    tokens_per_sequence = 1.0 + (speculation.tokens if speculation else 0)
    return RooflineParts(model, floor_s, expert_floor_s, efficiency.host_s, tokens_per_sequence)


def roofline_step_times(replica: ReplicaSpec, efficiency: Efficiency, factors: CostFactors = AS_KNOWN) -> StepTimes:
    """The roofline's step times of one rank, with what the replica's settings add to each step."""
    parts = roofline_parts(replica, efficiency)
    m = parts.model
    tokens = _grid(1.0, _MOST_TOKENS, _bend(m.dense_read_s, m.dense_token_s), ratio=2.0)
    experts = _grid(1.0, _MOST_TOKENS * m.expert_lanes, _bend(m.expert_read_s, m.expert_token_s))
    sequences = np.array([0.0, *(2.0**k for k in range(13))])
    windows = tuple(m.window_tokens * share for share in (0.25, 0.5, 0.75, 1.0)) if m.window_tokens > 0 else ()
    contexts = _grid(64.0, _MOST_CONTEXT, windows, ratio=2.0)
    chunks = _grid(1.0, _MOST_TOKENS)[1:]
    plain = StepTimes(
        tokens=tokens,
        token_s=parts.token_s(tokens),
        decode_sequences=sequences,
        decode_context_tokens=contexts,
        decode_s=parts.decode_s(sequences[:, None], contexts),
        chunk_tokens=chunks,
        chunk_context_tokens=contexts,
        chunk_s=parts.chunk_s(chunks[:, None], contexts),
        expert_tokens=experts,
        expert_s=parts.expert_s(experts),
        fixed_s=parts.host_s,
        sequence_s=m.sequence_s,
        head_s=m.head_read_s,
        head_row_s=m.head_row_s,
        graph_tokens=captured_tokens(replica),
    )
    return with_method_costs(plain, replica, efficiency, factors)


def with_method_costs(
    times: StepTimes, replica: ReplicaSpec, efficiency: Efficiency, factors: CostFactors = AS_KNOWN
) -> StepTimes:
    """The same steps with drafters, finer graphs, and host work that is waited for.

    Longer intervals between messages change no step: vLLM counts them in the API server
    (vllm/v1/engine/output_processor.py), which the simulator does by its messages.
    """
    settings = replica.settings
    cost = draft_cost(settings.speculation, replica.architecture, on_cpu=replica.accelerator.vendor is Vendor.CPU)
    drafted = _drafted(times, cost.scaled(factors.draft), replica.layout.data_parallel)
    scale = 1.0
    if settings.performance_mode is PerformanceMode.INTERACTIVITY:
        scale = INTERACTIVITY_SCALE**factors.interactivity
    waits = 0.0 if settings.asynchronous_scheduling else factors.waiting * (SYNC_HOST_FACTOR - 1.0)
    return replace(
        drafted,
        token_s=np.where(times.tokens <= INTERACTIVITY_TOKENS, scale, 1.0) * drafted.token_s,
        fixed_s=drafted.fixed_s + waits * efficiency.host_s,
        sequence_s=drafted.sequence_s + waits * efficiency.sequence_host_s,
    )


def _drafted(times: StepTimes, cost: DraftCost, ranks: int) -> StepTimes:
    """The same steps with the drafter's passes. At experts the tokens of all ranks meet."""
    first = 1.0 + cost.layers_ratio
    one_s, many_s = (
        np.interp(tokens, times.tokens, times.token_s) + np.interp(tokens * ranks, times.expert_tokens, times.expert_s)
        for tokens in (1.0, DRAFTED_SEQUENCES)
    )
    more_s = (many_s - one_s) / (DRAFTED_SEQUENCES - 1.0)
    return replace(
        times,
        token_s=times.token_s * first,
        expert_s=times.expert_s * first,
        decode_s=times.decode_s * (1.0 + cost.every_ratio),
        chunk_s=times.chunk_s * first,
        prompt_step_s=times.prompt_step_s * first,
        head_s=times.head_s * (1.0 + cost.heads_ratio),
        fixed_s=times.fixed_s + float(cost.later_ratio * one_s) + cost.step_s,
        sequence_s=times.sequence_s
        + float(cost.later_ratio * more_s)
        + cost.heads_ratio * times.head_row_s
        + cost.sequence_s,
    )


def host_times(efficiency: Efficiency) -> HostTimes:
    """What a request meets outside of the steps."""
    return HostTimes(efficiency.request_s, efficiency.request_token_s, efficiency.frontend_token_s)


def _overlapped(read: FloatArray, compute: FloatArray, overlap: float) -> FloatArray:
    return np.asarray(np.maximum(read, compute) + overlap * np.minimum(read, compute))


def _bend(read_s: float, token_s: float) -> tuple[float, ...]:
    """The tokens at which reading weights and multiplying with them take equal time."""
    return (read_s / token_s,) if token_s > 0 else ()


def _grid(first: float, last: float, bends: tuple[float, ...] = (), *, ratio: float = _RATIO) -> FloatArray:
    """0, geometric points from `first` to `last`, and the places where a line bends."""
    count = int(np.ceil(np.log(last / first) / np.log(ratio))) + 1
    inside = [bend for bend in bends if 0.0 < bend < last]
    return np.unique(np.concatenate([[0.0], np.geomspace(first, last, count), inside]))
