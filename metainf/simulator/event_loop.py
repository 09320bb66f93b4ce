"""Time, compiled: steps end, requests arrive, ranks start their next step, in this order at any one moment.

Separate from what a step holds (`scheduling`) and what it leads to (`completion`). Ranks that step together make one
pipeline: all of them in lock-step, each for itself otherwise. A pipeline has as many batches under way as it has
stages; each stage takes its part of a batch's time, one batch after the other.
"""

# mypy: disable-error-code="no-any-return"
# Records and arrays of compiled code have no types that mypy knows.

from typing import Any

import numpy as np

from metainf.simulator.compiling import compiled
from metainf.simulator.completion import complete, notify, send
from metainf.simulator.scheduling import schedule
from metainf.simulator.striding import stride
from metainf.simulator.timing import at_point, rank_step_s

__all__ = ["run"]


@compiled
def run(state: Any, order: Any, arrival_s: Any) -> None:
    """Simulate until nothing is left to do.

    `order` and `arrival_s` are the requests of an open loop as they reach the engine; empty in a closed loop.
    """
    for _ in range(state.limits.clients):
        send(state, 0.0)
    arrived = 0
    while True:
        if state.limits.striding:
            arrival = arrival_s[arrived] if arrived < len(order) else np.inf
            stride(state, min(arrival, _on_way_s(state)))
        now_s = _next_event_s(state)
        if arrived < len(order):
            now_s = min(now_s, arrival_s[arrived])
        if now_s == np.inf:
            break
        for pipeline in range(len(state.pipelines)):
            line = state.pipelines[pipeline]
            if line.flying > 0 and state.done_s[pipeline, line.oldest] <= now_s:
                _finish_batch(state, pipeline, now_s)
        while arrived < len(order) and arrival_s[arrived] <= now_s:
            _enqueue(state, order[arrived])
            arrived += 1
        while _on_way_s(state) <= now_s:
            _enqueue(state, _arrived(state))
        for pipeline in range(len(state.pipelines)):
            _start_batch(state, pipeline, now_s)
        if state.totals[4] != 0:
            break


@compiled
def _next_event_s(state: Any) -> float:
    """When the next batch ends or can start, or a closed loop's next request arrives."""
    next_s = _on_way_s(state)
    for pipeline in range(len(state.pipelines)):
        line = state.pipelines[pipeline]
        if line.flying > 0:
            next_s = min(next_s, state.done_s[pipeline, line.oldest])
        if line.eager and line.flying < state.limits.stages:
            next_s = min(next_s, state.stage_free_s[pipeline, 0])
        next_s = min(next_s, line.wake_s)
    return next_s


@compiled
def _finish_batch(state: Any, pipeline: int, now_s: float) -> None:
    line = state.pipelines[pipeline]
    if state.limits.asynchronous:
        notify(state, pipeline, now_s)  # of the step before this one
    for member in range(state.limits.ranks_per_pipeline):
        complete(state, pipeline * state.limits.ranks_per_pipeline + member, line.oldest, pipeline)
    if line.fresh or not state.limits.asynchronous:
        notify(state, pipeline, now_s)
    line.fresh = False
    line.oldest = (line.oldest + 1) % state.limits.stages
    line.flying -= 1
    line.eager = True


@compiled
def _start_batch(state: Any, pipeline: int, now_s: float) -> None:
    line = state.pipelines[pipeline]
    if line.wake_s <= now_s:
        line.wake_s = np.inf
        line.eager = True
    if not line.eager or line.flying == state.limits.stages or state.stage_free_s[pipeline, 0] > now_s:
        return
    batch = (line.oldest + line.flying) % state.limits.stages
    first, tokens = pipeline * state.limits.ranks_per_pipeline, 0
    for rank in range(first, first + state.limits.ranks_per_pipeline):
        tokens += schedule(state, rank, batch, now_s)
    if tokens == 0:
        line.eager = False
        if line.flying == 0:
            notify(state, pipeline, now_s)
        return
    step_s, expert_tokens, decodes = 0.0, 0, 0
    for rank in range(first, first + state.limits.ranks_per_pipeline):
        decodes += state.loads[rank].decodes
        step_s = max(step_s, rank_step_s(state.tables, state.loads[rank]))
        expert_tokens += max(state.loads[rank].tokens, 1)
    step_s = (
        step_s + at_point(state.tables.expert_tokens, state.tables.expert_s, float(expert_tokens))
    ) * state.tables.scale
    part_s = step_s / state.limits.stages
    at_s = now_s
    for stage in range(state.limits.stages):
        at_s = max(at_s, state.stage_free_s[pipeline, stage]) + part_s
        state.stage_free_s[pipeline, stage] = at_s
    for rank in range(first, first + state.limits.ranks_per_pipeline):
        state.cohorts[rank, state.batch_cohorts[rank, batch]].flying = True
        if state.loads[rank].tokens > 0:
            state.ranks[rank].busy_s += part_s
    state.done_s[pipeline, batch] = at_s
    line.fresh = line.messages == 0 and decodes == 0 and state.limits.stages == 1
    line.flying += 1
    state.totals[0] += 1
    state.totals[1] += tokens


@compiled
def _enqueue(state: Any, request: int) -> None:
    """Put a request at the end of the queue of the rank with the least to do.

    Source: vLLM's load balancer over data-parallel ranks, vllm/v1/engine/core_client.py: 4 x waiting + running.
    """
    rank, least = 0, np.iinfo(np.int64).max
    for candidate in range(state.limits.ranks):
        score = 4 * state.ranks[candidate].waiting + state.ranks[candidate].running
        if score < least:
            rank, least = candidate, score
    pool = state.ranks[rank]
    if pool.tail >= 0:
        state.requests[pool.tail].next = request
    else:
        pool.head = request
    pool.tail = request
    state.requests[request].next = -1
    pool.waiting += 1
    state.pipelines[rank // state.limits.ranks_per_pipeline].eager = True


@compiled
def _on_way_s(state: Any) -> float:
    """When the next request of a closed loop reaches the engine; infinite where none is on its way."""
    arrived = state.totals[5]
    return state.way_s[arrived % len(state.way)] if arrived < state.totals[3] else np.inf


@compiled
def _arrived(state: Any) -> int:
    """Take the request that reaches the engine next: the one that was sent first."""
    arrived = state.totals[5]
    state.totals[5] = arrived + 1
    return state.way[arrived % len(state.way)]
