"""Turns questions into lanes: what each lane of each replica gets of the traffic, as arrays.

Separate from the queueing model, which knows no vLLM setting, and from the predictor, which knows no prefix cache.
Per replica and per traffic the numbers are read once; what depends on both is numpy over the questions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from metainf.accelerators import Vendor
from metainf.efficiencies import Efficiency
from metainf.memory import MemoryPlan, draft_state_bytes, memory_plan, offload_copies
from metainf.predictors.contract import FloatArray, Question, ReplicaSpec
from metainf.predictors.drafted_steps import with_drafts
from metainf.predictors.prompt_lengths import computed_prompts
from metainf.queueing import Lane
from metainf.roofline import (
    INTERACTIVITY_SCALE,
    SYNC_HOST_FACTOR,
    StepModel,
    StepWork,
    calibrated,
    step_values,
    step_work,
)
from metainf.settings import PerformanceMode, Speculation
from metainf.speculation import (
    READS_HIDDEN_STATES,
    acceptance_ratio,
    context_share,
    decoding_context,
    draft_cost,
    fades,
    mean_tokens,
)
from metainf.workload import BatchLoad, ConcurrencyLoad, RateLoad, Repetitiveness, Traffic

T = TypeVar("T")

__all__ = [
    "REPLICA_COLUMNS",
    "REPLICA_ROW",
    "LaneSet",
    "ReplicaFacts",
    "TrafficFacts",
    "lanes_of",
    "replica_facts",
    "replica_row",
    "traffic_facts",
]

_REPETITIVENESS = tuple(Repetitiveness)
_NO_DRAFTS = (0.0,) * (len(_REPETITIVENESS) + 1)
_TINY = 1e-12
_PREFIX_SHARE = 0.5
"""Largest share of the KV cache that idle prefixes keep while requests run; the rest is what the requests pin."""


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """What of a replica the queueing model needs, besides its steps."""

    lanes: float
    sequence_limit: float
    budget_tokens: float
    chunk_tokens: float
    prefix_caching: float
    fair_prompts: float
    """1 where a threshold cuts long prompts so that short ones pass them."""
    block_tokens: float
    stages: float
    ranks: float
    """Data-parallel ranks that step together."""
    kv_bytes: float
    """For the cache on one rank, which holds one stage of every lane's sequences."""
    kv_token_bytes: float
    """Of one token in all layers without a window, on the ranks of one stage each."""
    kv_fixed_bytes: float
    """Of a sequence in all other layers: windows full, recurrent state."""
    draft_state_bytes: float
    """Of a sequence that runs: recurrent states for its drafts."""
    recomputed_blocks: float
    """At the end of a prefix that is hit."""
    window_tokens: float
    offload_bytes: float
    max_model_len: float
    draft_tokens: float
    small_step_scale: float
    step_extra_s: float
    sequence_extra_s: float
    frontend_token_s: float
    stream_interval: float
    request_s: float
    request_token_s: float
    asynchronous: float


@dataclass(frozen=True, slots=True)
class TrafficFacts:
    """What of the traffic the queueing model needs."""

    rate: float
    clients: float
    requests: float
    deadline_s: float
    input_tokens: float
    input_log_sd: float
    output_tokens: float
    output_log_sd: float
    prefix_tokens: float
    prefix_ratio: float
    prefix_distinct: float
    arrival_squared_cv: float
    repetitiveness: float


@dataclass(frozen=True, slots=True)
class LaneSet:
    """The distinct lanes of n questions, arrays of shape (m,), and what is needed to put the answers together."""

    lane: Lane
    replica: ReplicaFacts
    traffic: TrafficFacts
    lanes: FloatArray
    """Of all replicas of each question together, shape (n,)."""
    hit_ratio: FloatArray
    """Share of the requests whose prefix is in the cache."""
    hit_tokens: FloatArray
    """Tokens that such a request does not compute."""
    tokens_per_step: FloatArray
    feasible: NDArray[np.bool_]
    """Whether the weights and one request fit."""
    of: NDArray[np.intp]
    """The lane of each question: equal questions but for their replicas share one, where replicas share no batch whose
    prefixes each of them has to meet for itself."""

    def per_question(self) -> "LaneSet":
        """The same with one row for each question."""
        of = self.of
        return LaneSet(
            lane=self.lane.rows(of),
            replica=_rows(self.replica, of),
            traffic=_rows(self.traffic, of),
            lanes=self.lanes,
            hit_ratio=self.hit_ratio[of],
            hit_tokens=self.hit_tokens[of],
            tokens_per_step=self.tokens_per_step[of],
            feasible=self.feasible[of],
            of=np.arange(len(of)),
        )


def _rows(facts: Any, of: NDArray[np.intp]) -> Any:
    return type(facts)(*(getattr(facts, f.name)[of] for f in fields(facts)))


def replica_facts(
    replica: ReplicaSpec, efficiency: Efficiency, work: StepWork | None = None, plan: MemoryPlan | None = None
) -> tuple[StepModel, ReplicaFacts]:
    """The steps of one lane and the limits of one replica; `work` and `plan` where they were made before."""
    settings, layout, architecture = replica.settings, replica.layout, replica.architecture
    plan = plan or memory_plan(replica)
    steps = calibrated(work or step_work(replica), efficiency)
    draft = draft_cost(settings.speculation, architecture, on_cpu=replica.accelerator.vendor is Vendor.CPU)
    tp, pp = layout.tensor_parallel, layout.pipeline_parallel
    per_token = architecture.kv_bytes_per_token(settings.kv_cache_dtype, tp=tp)
    long_bytes = architecture.kv_bytes(_LONG_TOKENS, settings.kv_cache_dtype, tp=tp)
    threshold = settings.long_prefill_token_threshold
    small = settings.performance_mode is PerformanceMode.INTERACTIVITY
    waits = 0.0 if settings.asynchronous_scheduling else SYNC_HOST_FACTOR - 1.0
    drafted, draft_s, sequence_draft_s = with_drafts(steps, draft, efficiency.host_s)
    facts = ReplicaFacts(
        lanes=float(layout.data_parallel * pp),
        sequence_limit=max(1.0, settings.max_num_seqs / pp),
        budget_tokens=float(settings.max_num_batched_tokens),
        chunk_tokens=float(threshold if threshold > 0 else settings.max_num_batched_tokens)
        if settings.chunked_prefill
        else math.inf,
        prefix_caching=float(settings.prefix_caching),
        fair_prompts=float(threshold > 0 and settings.chunked_prefill),
        block_tokens=float(settings.block_tokens),
        stages=float(pp),
        ranks=float(layout.data_parallel if architecture.is_moe else 1),
        kv_bytes=plan.kv_bytes,
        kv_token_bytes=max(1.0, per_token * (1.0 + plan.draft_kv_ratio)),
        kv_fixed_bytes=max(0.0, long_bytes - per_token * _LONG_TOKENS),
        window_tokens=float(architecture.window_tokens() or 1),
        draft_state_bytes=draft_state_bytes(replica) * pp,
        recomputed_blocks=float(settings.speculation is not None and settings.speculation.kind in READS_HIDDEN_STATES),
        offload_bytes=settings.kv_offload_bytes / offload_copies(replica),
        max_model_len=float(settings.max_model_len),
        draft_tokens=float(settings.speculation.tokens if settings.speculation else 0),
        small_step_scale=INTERACTIVITY_SCALE if small else 1.0,
        step_extra_s=draft_s + waits * efficiency.host_s,
        sequence_extra_s=sequence_draft_s + waits * efficiency.sequence_host_s,
        frontend_token_s=efficiency.frontend_token_s,
        stream_interval=float(settings.stream_interval),
        request_s=efficiency.request_s,
        request_token_s=efficiency.request_token_s,
        asynchronous=float(settings.asynchronous_scheduling),
    )
    return drafted, facts


_LONG_TOKENS = 1 << 20  # longer than any window, so that what a window holds is all that is left


def traffic_facts(traffic: Traffic) -> TrafficFacts:
    """The numbers of one traffic."""
    load, prefix = traffic.load, traffic.shared_prefix
    return TrafficFacts(
        rate=load.requests_per_second if isinstance(load, RateLoad) else math.nan,
        clients=float(load.concurrency) if isinstance(load, ConcurrencyLoad) else math.nan,
        requests=float(load.requests) if isinstance(load, BatchLoad) else math.nan,
        deadline_s=load.deadline_s if isinstance(load, BatchLoad) else math.nan,
        input_tokens=traffic.input_tokens.mean_tokens,
        input_log_sd=traffic.input_tokens.log_sd,
        output_tokens=traffic.output_tokens.mean_tokens,
        output_log_sd=traffic.output_tokens.log_sd,
        prefix_tokens=float(prefix.tokens) if prefix else 0.0,
        prefix_ratio=prefix.ratio if prefix else 0.0,
        prefix_distinct=float(prefix.distinct) if prefix else 1.0,
        arrival_squared_cv=traffic.burstiness**2,
        repetitiveness=float(_REPETITIVENESS.index(traffic.repetitiveness)),
    )


def _numbered(items: Sequence[T]) -> tuple[list[T], NDArray[np.intp]]:
    """Objects told apart by identity, in the order of their first appearance, and the number of each item."""
    keys = list(map(id, items))
    by_id = dict(zip(keys, items, strict=True))
    numbers = dict(zip(by_id, range(len(by_id)), strict=True))
    return list(by_id.values()), np.fromiter(map(numbers.__getitem__, keys), dtype=np.intp, count=len(keys))


def _columns(kind: type[TrafficFacts], rows: Sequence[TrafficFacts], indices: NDArray[np.intp]) -> TrafficFacts:
    """The rows' fields as arrays, picked by `indices`."""
    names = tuple(f.name for f in fields(kind))
    read = attrgetter(*names)
    table = np.array([read(row) for row in rows], dtype=np.float64).reshape(len(rows), len(names))
    columns: list[Any] = list(table.T[:, indices])
    return kind(*columns)


def replica_row(steps: StepModel, facts: ReplicaFacts, speculation: Speculation | None) -> FloatArray:
    """All numbers of a replica side by side, shape (REPLICA_ROW,): many are put together by picking rows."""
    drafts = _NO_DRAFTS
    if speculation is not None:
        drafts = (*(acceptance_ratio(speculation, kind) for kind in _REPETITIVENESS), float(fades(speculation)))
    return np.array((*step_values(steps), *_facts_of(facts), *drafts), dtype=np.float64)


def lanes_of(questions: Sequence[Question], rows: Callable[[Sequence[ReplicaSpec]], FloatArray]) -> LaneSet:
    """The lanes of the questions.

    Parameters
    ----------
    rows : function
        `replica_row` of each of k replicas, shape (k, REPLICA_ROW); may remember what it was asked before.
    """
    replicas, replica_of = _numbered([q.replica for q in questions])
    traffics, traffic_of = _numbered([q.traffic for q in questions])
    count = np.array([q.replicas for q in questions], dtype=np.int64)
    # Replicas of a batch share the requests that fill their caches; other lanes know nothing of each other.
    fills = np.array([isinstance(t.load, BatchLoad) and t.shared_prefix is not None for t in traffics], dtype=np.bool_)
    caches = np.where(fills[traffic_of], count, 1) if len(traffics) else count
    pairs, most = replica_of * max(1, len(traffics)) + traffic_of, int(caches.max(initial=1)) + 1
    keys, of = np.unique(pairs * most + caches, return_inverse=True)
    pairs, caches = np.divmod(keys, most)
    first, second = np.divmod(pairs, max(1, len(traffics)))
    columns: list[Any] = list(np.ascontiguousarray(rows(replicas).reshape(-1, REPLICA_ROW)[first].T))
    steps = StepModel(*columns[:_STEP_FIELDS])
    r = ReplicaFacts(*columns[_STEP_FIELDS : _STEP_FIELDS + _FACT_FIELDS])
    t = _columns(TrafficFacts, [traffic_facts(item) for item in traffics], second)
    per_step = _tokens_per_step(r, t, np.stack(columns[_STEP_FIELDS + _FACT_FIELDS :], axis=1))
    lanes = count * np.asarray(r.lanes)[of]
    # A client waits for its answer in one lane: of more lanes than clients the others stand still.
    lanes = np.fmin(lanes, np.maximum(np.asarray(t.clients)[of], 1.0))
    hits = _prefix_hits(r, t, caches)
    return _lane_set(steps, r, t, per_step, hits, (lanes, of.reshape(len(questions))))


def _tokens_per_step(r: Any, t: Any, drafts: FloatArray) -> FloatArray:
    """Tokens that a sequence gains in a step of each lane; `drafts` is the end of `replica_row`."""
    accepted = drafts[np.arange(len(drafts)), np.asarray(t.repetitiveness).astype(np.intp)]
    accepted = np.where(drafts[:, -1] > 0, accepted * context_share(_decoding_context(t)), accepted)
    return mean_tokens(accepted, r.draft_tokens)


def _decoding_context(t: Any) -> FloatArray:
    return decoding_context(t.input_tokens, t.output_tokens, np.expm1(t.output_log_sd**2))


_facts_of = attrgetter(*(f.name for f in fields(ReplicaFacts)))
_STEP_FIELDS, _FACT_FIELDS = len(fields(StepModel)), len(fields(ReplicaFacts))
REPLICA_ROW = _STEP_FIELDS + _FACT_FIELDS + len(_NO_DRAFTS)
REPLICA_COLUMNS: tuple[str, ...] = (*(f.name for f in fields(StepModel)), *(f.name for f in fields(ReplicaFacts)))
"""Names of the first numbers of a `replica_row`; what drafts are accepted has none."""


_Hits = tuple[FloatArray, FloatArray, FloatArray]


def _lane_set(
    steps: StepModel, r: Any, t: Any, per_step: FloatArray, hits: _Hits, lanes: tuple[FloatArray, NDArray[np.intp]]
) -> LaneSet:
    hit_ratio, hit_tokens, prefix_bytes = hits
    prompt, prompt_cv, attended = computed_prompts(t, hit_ratio, hit_tokens)
    context = _decoding_context(t)
    whole = t.input_tokens + t.output_tokens
    slots, feasible = _slots(r, context - hit_ratio * hit_tokens, whole, prefix_bytes)
    decode_steps = np.maximum(t.output_tokens - 1.0, 0.0) / per_step
    lane = Lane(
        steps=steps,
        slots=slots,
        budget_tokens=np.where(np.isinf(r.chunk_tokens), np.maximum(r.budget_tokens, prompt), r.budget_tokens),
        chunk_tokens=r.chunk_tokens,
        prompt_tokens=prompt,
        prompt_context_tokens=attended,
        prompt_squared_cv=prompt_cv,
        fair_prompts=r.fair_prompts,
        decode_steps=decode_steps,
        context_tokens=context,
        tokens_per_sequence=1.0 + r.draft_tokens,
        small_step_scale=r.small_step_scale,
        step_extra_s=r.step_extra_s,
        sequence_extra_s=r.sequence_extra_s,
        frontend_token_s=r.frontend_token_s,
        messages=_messages(decode_steps, per_step, r.stream_interval),
        ranks=r.ranks,
        stages=r.stages,
        servers=r.lanes / r.stages,
        request_s=r.request_s + r.request_token_s * t.input_tokens,
        open_loop=np.where(np.isnan(t.rate), 0.0, 1.0),
    )
    return LaneSet(lane, r, t, lanes[0], hit_ratio, hit_tokens, per_step, feasible, lanes[1])


def _messages(decode_steps: FloatArray, tokens_per_step: FloatArray, interval: FloatArray) -> FloatArray:
    """Messages that the API server sends of an answer: its first tokens, its last, and one for each interval between.

    The tokens of one step are one message, and none goes before as many as the interval says are at hand: after that
    many steps of one token, and after a few less where drafts are accepted (vllm/v1/engine/output_processor.py).
    """
    steps = 1.0 + (interval - 1.0) / tokens_per_step
    return np.asarray(1.0 + decode_steps / steps + 0.5 * (1.0 - 1.0 / steps) * np.minimum(decode_steps, 1.0))


def _prefix_hits(r: Any, t: Any, caches: NDArray[np.int64]) -> _Hits:
    """Share of requests that find their prefix, the tokens that saves each, and the cache that prefixes take.

    Only full blocks are cached, and the last token of a prompt is always computed (vLLM v1 kv_cache_manager,
    get_computed_blocks). Prefixes beyond the cache's share are evicted, least recently used first; with all of them
    equally likely the cached share is that of the room to what is asked for.

    What goes on for long has met every prefix before. A batch begins with an empty cache: n requests, of which a share
    r have one of D prefixes, meet D (1 - (1 - r / D)^n) of these, and as many requests are the first with theirs.
    `caches` is the number of replicas that a batch is spread over, each of which has a cache for each of its ranks.
    """
    cacheable = np.minimum(t.prefix_tokens, t.input_tokens - 1.0)
    whole_blocks = np.floor(cacheable / r.block_tokens) - r.recomputed_blocks
    hit_tokens = np.maximum(whole_blocks * r.block_tokens * r.prefix_caching, 0.0)
    is_batch = ~np.isnan(t.requests)
    requests = np.where(is_batch, np.maximum(t.requests / (caches * r.lanes / r.stages), 1.0), 1.0)
    chance = np.minimum(t.prefix_ratio / t.prefix_distinct, 1.0 - _TINY)
    seen = np.where(is_batch, -np.expm1(requests * np.log1p(-chance)), 1.0)
    first = np.where(is_batch, seen / np.maximum(requests * chance, _TINY), 0.0)
    wanted = t.prefix_distinct * seen * (hit_tokens * r.kv_token_bytes + r.kv_fixed_bytes) / r.stages
    room = _PREFIX_SHARE * np.maximum(r.kv_bytes, 0.0)
    kept = np.minimum(1.0, (room + r.offload_bytes) / np.maximum(wanted, 1.0))
    ratio = np.where(hit_tokens > 0, t.prefix_ratio * kept * np.maximum(1.0 - first, 0.0), 0.0)
    return ratio, hit_tokens, np.where(hit_tokens > 0, np.minimum(wanted, room), 0.0)


def _slots(
    r: Any, own_tokens: FloatArray, whole_tokens: FloatArray, prefix_bytes: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Sequences that one lane holds at a time, and whether it holds even one at its full length."""

    def cache_bytes(tokens: FloatArray) -> FloatArray:
        window_share = np.minimum(tokens, r.window_tokens) / r.window_tokens
        return np.asarray(tokens * r.kv_token_bytes + r.kv_fixed_bytes * window_share + r.draft_state_bytes)

    feasible = (cache_bytes(whole_tokens) / r.stages <= r.kv_bytes) & (whole_tokens <= r.max_model_len)
    by_cache = (np.maximum(r.kv_bytes, 0.0) - prefix_bytes) / cache_bytes(np.maximum(own_tokens, 1.0))
    return np.maximum(np.minimum(by_cache, r.sequence_limit), 1.0), feasible
