"""What goes into a simulation and what comes out: step times as tables, the engine's limits, requests, results.

Separate from the compiled engine so that step oracles (roofline, measured tables, a calibrated CPU) and the builders of
traffic depend on plain arrays alone, and from `metainf.settings`, which knows nothing of blocks and ranks.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EarlierTraffic",
    "EngineModel",
    "HostTimes",
    "KvGroup",
    "Requests",
    "SimulationResult",
    "StepTimes",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """Time of one step of one rank, as the sum of tables with linear interpolation between their points.

    step = fixed_s + sequences x sequence_s + token_s(tokens, padded to a captured graph)
    + expert_s(tokens of all ranks) + decode_s(decoding sequences, their mean context)
    + prompt_step_s in a step with prompt chunks + the sum over them of chunk_s(new tokens, tokens before)
    + head_s + sampled rows x head_row_s.

    Beyond the last point of a table it goes on along the last slope. All points rise strictly.
    """

    tokens: FloatArray
    """Shape (a,): tokens in the step, decoded and prompt ones together."""
    token_s: FloatArray
    """Shape (a,), seconds: projections, dense MLPs, norms and their collectives."""
    decode_sequences: FloatArray
    """Shape (b,)."""
    decode_context_tokens: FloatArray
    """Shape (c,): mean cached tokens of the decoding sequences."""
    decode_s: FloatArray
    """Shape (b, c), seconds: attention of all decoding sequences."""
    chunk_tokens: FloatArray
    """Shape (d,): new tokens of one prompt in the step."""
    chunk_context_tokens: FloatArray
    """Shape (e,): its tokens that are in the cache already."""
    chunk_s: FloatArray
    """Shape (d, e), seconds: attention of that chunk."""
    expert_tokens: FloatArray = field(default_factory=lambda: np.array([0.0, 1.0]))
    """Shape (f,): tokens of all ranks that meet at the experts."""
    expert_s: FloatArray = field(default_factory=lambda: np.zeros(2))
    """Shape (f,), seconds: routed experts with their collectives; zeros where there are none."""
    fixed_s: float = 0.0
    """Host work that is not hidden and the launch of what no table holds."""
    sequence_s: float = 0.0
    """Host work per scheduled sequence, decoding or prompt."""
    prompt_step_s: float = 0.0
    """Once in a step with prompt chunks: their attention is one launch, however many they are."""
    head_s: float = 0.0
    head_row_s: float = 0.0
    graph_tokens: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Captured sizes, rising: a step of fewer tokens than the last is padded to the next of them. Empty: no padding."""
    scale: float = 1.0
    """Factor over the whole step: the noise of a run."""


@dataclass(frozen=True, slots=True)
class HostTimes:
    """What a request meets outside of the steps, seconds."""

    request_s: float = 0.0
    """Client to engine and back: HTTP, tokenisation, dispatch."""
    request_token_s: float = 0.0
    """The same per prompt token."""
    frontend_token_s: float = 0.0
    """Work of an API server's process per streamed token of a step, one after the other; there is a process for each
    data-parallel rank."""


@dataclass(frozen=True, slots=True)
class KvGroup:
    """Layers that share one block table: all tokens, a window of them, or one recurrent state."""

    window_tokens: int = 0
    """0: the whole context is kept. Otherwise blocks that fell out of the window are freed."""
    state: bool = False
    """One state per sequence, whatever its length, and one more for each draft."""


@dataclass(frozen=True, slots=True)
class EngineModel:
    """Limits of one replica's scheduler, every default resolved; those of one rank where there are several."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    """Blocks of one rank's cache, shared by its groups."""
    block_tokens: int
    max_model_len: int
    chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    prefix_caching: bool = True
    groups: tuple[KvGroup, ...] = (KvGroup(),)
    draft_tokens: int = 0
    """Speculative tokens per sequence and step; they take budget and cache slots."""
    acceptance_ratio: float = 0.0
    """Probability that a draft is right, given that those before it were."""
    data_parallel: int = 1
    lock_step: bool = False
    """Ranks step together, with dummy steps for idle ones: a mixture of experts over data-parallel ranks."""
    pipeline_stages: int = 1
    """As many batches are in flight; each takes a whole step's time, and a stage is free after its part."""
    asynchronous: bool = True
    """Tokens of a step reach the client while the next one runs: one step later at the frontend."""
    offload_blocks: int = 0
    """Blocks in host memory behind the cache, least recently used first out."""
    offload_block_s: float = 0.0
    """Time to bring one block back, seconds."""
    stream_interval: int = 1
    recomputed_hit_blocks: int = 0
    """Blocks at the end of each hit that are computed again: a drafter needs the model's hidden states of the last."""
    same_step_hits: bool = False
    """Whether a prompt's blocks can be hit by others in the very step that computes them, as vLLM has it for attention
    layers (vllm-project/vllm#29387 says so and takes it away for recurrent ones); otherwise from the next step on."""


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """n requests in the order of their sending.

    In a closed loop `arrival_s` is the time before which a request is not sent even if a client is free: zeros.
    """

    arrival_s: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    """At least 1 each."""
    block_hashes: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Identities of the prompts' leading shared blocks, those of all requests one after the other: equal numbers mean
    equal content up to and including that block. A prompt's blocks beyond these are unique."""
    block_offsets: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Shape (n + 1,): where each request's hashes begin; empty where nothing is shared."""
    hash_block_tokens: int = 16
    """Tokens that one of `block_hashes` stands for; a multiple or a divisor of the engine's `block_tokens`."""
    clients: int = 0
    """0: open loop, requests arrive at `arrival_s`. Otherwise a closed loop of so many clients."""


@dataclass(frozen=True, slots=True)
class EarlierTraffic:
    """What was served before the first request: one request after the other, some with one of equally likely prefixes.

    Prefix k has the hashes k x prefix_hashes to k x prefix_hashes + prefix_hashes - 1, as the requests that begin with
    it have them.
    """

    prefixes: int
    prefix_hashes: int
    prefix_ratio: float
    """Of these requests that began with a prefix."""
    own_tokens: float
    """Of prompt and answer beyond it in the mean: what drives prefixes out of the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class SimulationResult:
    """What each request met; arrays of shape (n,) in the order of the requests, NaN for those refused as too long."""

    sent_s: FloatArray
    first_token_s: FloatArray
    """Absolute times at the client; TTFT = first_token_s - sent_s, queueing included."""
    last_token_s: FloatArray
    cached_tokens: IntArray
    """Prompt tokens that came from the prefix cache when the request was first scheduled."""
    preemptions: IntArray
    steps: int
    busy_s: float
    """Time in steps, of the busiest rank."""
    computed_tokens: int
    """Tokens through the model, recomputed ones and rejected drafts included."""
    peak_kv_blocks: int
    makespan_s: float
    """From the first request's sending to the last token."""

    @property
    def ttft_s(self) -> FloatArray:
        """Time to first token, shape (n,), seconds."""
        return self.first_token_s - self.sent_s

    @property
    def e2e_s(self) -> FloatArray:
        """Time to the last token, shape (n,), seconds."""
        return self.last_token_s - self.sent_s

    def tpot_s(self, output_tokens: IntArray) -> FloatArray:
        """(E2E - TTFT) / (output tokens - 1), shape (n,); NaN for answers of one token."""
        gaps = np.asarray(output_tokens, dtype=np.float64) - 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(gaps > 0, (self.last_token_s - self.first_token_s) / gaps, np.nan)
