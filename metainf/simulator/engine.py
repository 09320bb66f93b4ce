"""`simulate`: from the engine's limits, its step times and requests to what each request met.

Separate from the compiled parts: here plain values become their arrays, and their arrays become a result.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from metainf.errors import InvalidWorkloadError
from metainf.simulator.compiling import kept_compiled
from metainf.simulator.contract import (
    EarlierTraffic,
    EngineModel,
    HostTimes,
    IntArray,
    KvGroup,
    Requests,
    SimulationResult,
    StepTimes,
)
from metainf.simulator.distinct_hashes import distinct_hashes
from metainf.simulator.event_loop import run
from metainf.simulator.records import (
    BLOCK,
    COHORT,
    ENTRY,
    FULL,
    GROUP,
    HOST_BLOCK,
    LOAD,
    NOTICE,
    PIPELINE,
    RANK,
    REQUEST,
    SEQUENCE,
    STATE,
    WINDOW,
    Limits,
    State,
)
from metainf.simulator.timing import tables_of
from metainf.simulator.warm_cache import fill, warm_cache

__all__ = ["simulate"]

_HOSTLESS = HostTimes()


def _source_digest() -> int:
    """One number for all of the package's sources."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:7], "big")


def _compiled(digest: int) -> Callable[..., None]:
    """The event loop, kept compiled on disk.

    numba keys what it keeps by the file of the kept function alone, and would go on using it after a change to another
    module that went into it. Only this one function is kept, and the digest of all sources is part of its key.
    """

    @kept_compiled
    def entry(state, order, arrival_s):  # type: ignore[no-untyped-def]
        if digest:
            run(state, order, arrival_s)

    return entry


_entry = _compiled(_source_digest())


def simulate(
    engine: EngineModel,
    steps: StepTimes,
    requests: Requests,
    *,
    host: HostTimes = _HOSTLESS,
    seed: int = 0,
    earlier: EarlierTraffic | None = None,
) -> SimulationResult:
    """Serve the requests and say when each was sent, got its first token and its last.

    The same arguments give the same result, to the bit. The prefix cache is empty at first, or as `earlier` traffic has
    left it; `seed` draws what it used last.

    Raises
    ------
    InvalidWorkloadError
        Requests without tokens, arrays of unequal length, block sizes that do not divide each other, an engine that
        could do nothing, or earlier traffic without a prefix.
    """
    _check(engine, requests)
    if earlier is not None and not (min(earlier.prefixes, earlier.prefix_hashes) > 0 and 0 < earlier.prefix_ratio <= 1):
        raise InvalidWorkloadError(
            f"earlier traffic needs prefixes of at least one hash and a ratio between 0 and 1, not {earlier}"
        )
    limits = _limits(engine, requests, host, seed)
    state = _simulated(engine, steps, requests, limits, earlier)
    if state.totals[4]:
        state = _simulated(engine, steps, requests, limits._replace(counting=False), earlier)
    return _result(state)


def _simulated(
    engine: EngineModel, steps: StepTimes, requests: Requests, limits: Limits, earlier: EarlierTraffic | None
) -> State:
    """The state after the last event; cut short where it turned out that counting blocks is not enough."""
    records, hashes, contents, limits = _request_records(engine, requests, limits)
    warm = None
    if earlier is not None and limits.contents > 0:
        warm = warm_cache(earlier, engine, limits, hashes)
        limits = limits._replace(rank_blocks=max(1, min(engine.kv_blocks, limits.rank_blocks + warm.most_blocks)))
    state = _state(engine, steps, limits, records, contents)
    if warm is not None:
        fill(state, warm)
    order, arrival_s = _arrivals(limits, records)
    _entry(state, order, arrival_s)
    return state


def _check(engine: EngineModel, requests: Requests) -> None:
    n = len(requests.arrival_s)
    if len(requests.input_tokens) != n or len(requests.output_tokens) != n:
        raise InvalidWorkloadError("requests need as many input as output lengths and arrival times")
    if n and (np.min(requests.input_tokens) < 1 or np.min(requests.output_tokens) < 1):
        raise InvalidWorkloadError("every request needs at least 1 input and 1 output token")
    if len(requests.block_hashes) and len(requests.block_offsets) != n + 1:
        raise InvalidWorkloadError(f"{n} requests with hashes need {n + 1} offsets, not {len(requests.block_offsets)}")
    if min(engine.max_num_seqs, engine.max_num_batched_tokens, engine.block_tokens, engine.data_parallel) < 1:
        raise InvalidWorkloadError("an engine needs at least one sequence, token per step, token per block and rank")
    if engine.pipeline_stages < 1 or engine.stream_interval < 1 or not engine.groups:
        raise InvalidWorkloadError("an engine needs at least one pipeline stage, stream interval and KV group")
    large = max(requests.hash_block_tokens, engine.block_tokens)
    small = min(requests.hash_block_tokens, engine.block_tokens)
    if len(requests.block_hashes) and large % small:
        raise InvalidWorkloadError(
            f"hashes stand for {requests.hash_block_tokens} tokens each and cache blocks hold {engine.block_tokens}: "
            "one must be a multiple of the other"
        )


def _limits(engine: EngineModel, requests: Requests, host: HostTimes, seed: int) -> Limits:
    n = max(1, len(requests.arrival_s))
    # Coasting counts no messages that wait for others: they cost time, and whether a step of prompts sends at once
    # hangs on whether the step before it sent anything.
    uncounted = host.frontend_token_s == 0.0 and (not engine.asynchronous or engine.pipeline_stages > 1)
    coasting = engine.draft_tokens == 0 and engine.offload_blocks == 0 and (engine.stream_interval == 1 or uncounted)
    states = sum(group.state for group in engine.groups)
    budget = engine.max_num_batched_tokens
    budget = budget if engine.chunked_prefill else max(budget, engine.max_model_len)
    per_hash = requests.hash_block_tokens // engine.block_tokens
    return Limits(
        max_num_seqs=min(engine.max_num_seqs, n),
        budget=budget,
        rank_blocks=engine.kv_blocks,
        block_tokens=engine.block_tokens,
        max_model_len=engine.max_model_len,
        chunked=engine.chunked_prefill,
        threshold=engine.long_prefill_token_threshold if engine.chunked_prefill else 0,
        caching=engine.prefix_caching,
        same_step_hits=engine.same_step_hits,
        table_groups=len(engine.groups),
        state_groups=states,
        state_blocks=1 + engine.draft_tokens,
        in_flight_tokens=budget * (engine.pipeline_stages + (1 if engine.asynchronous else 0)),
        recomputed_hit_blocks=engine.recomputed_hit_blocks,
        windowed=any(group.window_tokens > 0 and not group.state for group in engine.groups),
        counting=engine.offload_blocks == 0,
        plain=engine.groups == (KvGroup(),),
        coasting=coasting,
        striding=coasting and engine.pipeline_stages == 1 and (engine.data_parallel == 1 or engine.lock_step),
        remembering=engine.offload_blocks == 0,
        drafts=engine.draft_tokens,
        acceptance=float(engine.acceptance_ratio),
        ranks=engine.data_parallel,
        ranks_per_pipeline=engine.data_parallel if engine.lock_step else 1,
        stages=engine.pipeline_stages,
        asynchronous=engine.asynchronous,
        host_blocks=engine.offload_blocks // max(1, len(engine.groups) - states) if engine.prefix_caching else 0,
        host_block_s=float(engine.offload_block_s),
        stream_interval=engine.stream_interval,
        contents=0,
        hash_blocks=max(1, per_hash),
        block_hashes=max(1, engine.block_tokens // requests.hash_block_tokens),
        seed=seed & 0x7FFFFFFFFFFFFFFF,
        request_s=float(host.request_s),
        request_token_s=float(host.request_token_s),
        frontend_token_s=float(host.frontend_token_s) / engine.data_parallel,
        clients=min(requests.clients, n),
    )


def _held_blocks(engine: EngineModel, limits: Limits, tokens: IntArray) -> IntArray:
    """Most blocks that a sequence of so many tokens holds at a time."""
    whole = -(-tokens // engine.block_tokens)
    total = np.zeros_like(whole)
    for group in engine.groups:
        if group.state:
            total += limits.state_blocks
        elif group.window_tokens > 0:
            widest = group.window_tokens - 1 + limits.in_flight_tokens
            total += np.minimum(whole, -(-widest // engine.block_tokens) + 1)
        else:
            total += whole
    return total


def _request_records(
    engine: EngineModel, requests: Requests, limits: Limits
) -> tuple[np.ndarray, IntArray, IntArray, Limits]:
    """The requests, their distinct hashes, rising, and the place among these of each hash; limits with both counted."""
    n = len(requests.arrival_s)
    records = np.zeros(n, dtype=REQUEST)
    records["input"] = requests.input_tokens
    records["output"] = requests.output_tokens
    records["arrival_s"] = requests.arrival_s
    for name in ("sent_s", "first_s", "last_s"):
        records[name] = np.nan
    records["next"] = -1
    records["sequence"] = -1
    whole = records["input"] + records["output"]
    most = np.minimum(whole - 1 + engine.draft_tokens, engine.max_model_len)
    held = _held_blocks(engine, limits, most)
    records["refused"] = (whole > engine.max_model_len) | (held > engine.kv_blocks)
    # More blocks than all requests together would ever take make no difference, but take memory.
    ever = int(np.maximum(-(-most // engine.block_tokens), limits.state_blocks).sum()) * len(engine.groups)
    limits = limits._replace(rank_blocks=max(1, min(engine.kv_blocks, ever)))
    distinct = contents = np.zeros(0, dtype=np.int64)
    if engine.prefix_caching and len(requests.block_hashes):
        starts = np.asarray(requests.block_offsets, dtype=np.int64)
        shared = np.minimum(np.diff(starts) * requests.hash_block_tokens, records["input"])
        records["hashes"] = starts[:-1]
        records["shared"] = shared // engine.block_tokens
        distinct, contents = distinct_hashes(requests.block_hashes)
        limits = limits._replace(contents=len(distinct) * limits.hash_blocks, counting=False)
    return records, distinct, contents, limits


def _state(engine: EngineModel, steps: StepTimes, limits: Limits, records: np.ndarray, contents: np.ndarray) -> State:
    """All arrays, with nothing running; what is large and written before it is read starts empty."""
    ranks, most = limits.ranks, limits.max_num_seqs
    pipelines = ranks // limits.ranks_per_pipeline
    accepted = records[~records["refused"]]
    longest = int((accepted["input"] + accepted["output"]).max(initial=1)) + limits.drafts
    table_blocks = max(-(-longest // limits.block_tokens) + 1, limits.state_blocks)
    sequences = np.zeros(ranks * most, dtype=SEQUENCE)
    sequences["request"] = -1
    lines = np.zeros(pipelines, dtype=PIPELINE)
    lines["wake_s"] = np.inf
    host_tables = ranks * most if limits.host_blocks else 0
    return State(
        limits=limits,
        tables=tables_of(steps),
        requests=records,
        sequences=sequences,
        ranks=_pools(limits),
        blocks=np.empty(ranks * limits.rank_blocks, dtype=BLOCK),
        groups=_groups(engine),
        table=np.empty((ranks * most, len(engine.groups), table_blocks), dtype=np.int32),
        live_from=np.zeros((ranks * most, len(engine.groups)), dtype=np.int64),
        contents=contents,
        first=np.full(ranks * len(engine.groups) * limits.contents, -1, dtype=np.int32),
        hits=np.empty((len(engine.groups), table_blocks), dtype=np.int32),
        running=np.zeros((ranks, most), dtype=np.int32),
        free_sequences=np.arange(ranks * most, dtype=np.int32).reshape(ranks, most)[:, ::-1].copy(),
        left=np.zeros((ranks, most), dtype=np.int64),
        member=np.full((ranks, most), -1, dtype=np.int64),
        cohorts=np.zeros((ranks, limits.stages), dtype=COHORT),
        batch_cohorts=np.zeros((ranks, limits.stages), dtype=np.int64),
        due_places=np.zeros((ranks, most), dtype=np.int64),
        due_before=np.zeros((ranks, most + 1), dtype=np.int64),
        due=np.zeros((ranks, most), dtype=np.int32),
        loads=np.zeros(ranks, dtype=LOAD),
        entries=np.zeros((ranks, limits.stages, most), dtype=ENTRY),
        entry_counts=np.zeros((ranks, limits.stages), dtype=np.int64),
        pipelines=lines,
        done_s=np.zeros((pipelines, limits.stages)),
        stage_free_s=np.zeros((pipelines, limits.stages)),
        notices=np.zeros((pipelines, limits.ranks_per_pipeline * most), dtype=NOTICE),
        host=np.empty(ranks * limits.host_blocks, dtype=HOST_BLOCK),
        host_of=np.full(ranks * limits.contents if limits.host_blocks else 0, -1, dtype=np.int32),
        host_table=np.empty((host_tables, table_blocks), dtype=np.int32),
        totals=np.zeros(6, dtype=np.int64),
        calm_s=np.zeros(ranks),
        clock=np.zeros(1),
        way_s=np.zeros(max(1, limits.clients)),
        way=np.zeros(max(1, limits.clients), dtype=np.int64),
    )


def _groups(engine: EngineModel) -> np.ndarray:
    groups = np.zeros(len(engine.groups), dtype=GROUP)
    for i, group in enumerate(engine.groups):
        groups[i] = (STATE if group.state else WINDOW if group.window_tokens > 0 else FULL, group.window_tokens)
    return groups


def _pools(limits: Limits) -> np.ndarray:
    """The ranks, idle and with all of their blocks free."""
    pools = np.zeros(limits.ranks, dtype=RANK)
    for name in ("head", "tail", "free_head", "free_tail", "host_head", "host_tail", "stuck"):
        pools[name] = -1
    pools["untouched"] = np.arange(limits.ranks) * limits.rank_blocks
    pools["end"] = pools["untouched"] + limits.rank_blocks
    pools["free"] = limits.rank_blocks
    pools["free_sequences"] = limits.max_num_seqs
    return pools


def _arrivals(limits: Limits, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Requests of an open loop in the order in which they reach the engine, and when; their sending is set.

    One thread tokenises (`renderer_num_workers` is 1 unless it is set), so nobody overtakes who was sent earlier: of
    prompts that are sent together the long ones are not served last.
    """
    if limits.clients > 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    accepted = np.flatnonzero(~records["refused"])
    by_sending = accepted[np.argsort(records["arrival_s"][accepted], kind="stable")]
    sent_s = records["arrival_s"][by_sending]
    records["sent_s"][by_sending] = sent_s
    arrival_s = sent_s + limits.request_s + records["input"][by_sending] * limits.request_token_s
    return by_sending, np.maximum.accumulate(arrival_s)


def _result(state: State) -> SimulationResult:
    records = state.requests
    served = ~records["refused"]
    makespan_s = 0.0
    if served.any():
        makespan_s = float(records["last_s"][served].max() - records["sent_s"][served].min())
    return SimulationResult(
        sent_s=records["sent_s"].copy(),
        first_token_s=records["first_s"].copy(),
        last_token_s=records["last_s"].copy(),
        cached_tokens=records["cached"].copy(),
        preemptions=records["preemptions"].copy(),
        steps=int(state.totals[0]),
        busy_s=float(state.ranks["busy_s"].max()),
        computed_tokens=int(state.totals[1]),
        peak_kv_blocks=int(state.ranks["peak"].max()),
        makespan_s=makespan_s,
    )
