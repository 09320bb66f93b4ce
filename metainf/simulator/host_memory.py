"""Blocks in host memory behind the KV cache, compiled: what was computed stays there, least recently used first out.

Separate because it is a second cache with its own order, which the first one only asks how much further a prefix goes.

Source: vLLM's native offloading connector, vllm/v1/kv_offload: full blocks are copied out as they are computed, looked
up behind the hits on the accelerator, and brought back one request after the other while others' steps go on
(vllm/v1/kv_offload/cpu/gpu_worker.py). Copying out takes no time here.
"""

# mypy: disable-error-code="no-any-return"
# Records and arrays of compiled code have no types that mypy knows.

from typing import Any

from metainf.simulator.block_pool import content_of
from metainf.simulator.compiling import compiled, compiled_apart

__all__ = ["host_hit", "keep_on_host", "touch_on_host"]


@compiled
def _key(state: Any, rank: int, request: int, block: int) -> int:
    if block < state.requests[request].shared:
        return rank * state.limits.contents + content_of(state, request, block)
    return -1 - (request * state.table.shape[2] + block)


@compiled
def _find(state: Any, rank: int, request: int, block: int) -> int:
    """Where a part of the request's content is in host memory, -1 where it is not."""
    key = _key(state, rank, request, block)
    if key >= 0:
        return state.host_of[key]
    sequence = state.requests[request].sequence
    place = -1 if sequence < 0 else state.host_table[sequence, block]
    return place if place >= 0 and state.host[place].key == key else -1


@compiled_apart
def host_hit(state: Any, rank: int, request: int, hit: int, most: int) -> int:
    """How many blocks after the first `hit` host memory has, up to the block `most`."""
    block = hit
    while block < most and _find(state, rank, request, block) >= 0:
        block += 1
    return block - hit


@compiled
def _unlink(state: Any, pool: Any, place: int) -> None:
    entry = state.host[place]
    if entry.prev >= 0:
        state.host[entry.prev].next = entry.next
    else:
        pool.host_head = entry.next
    if entry.next >= 0:
        state.host[entry.next].prev = entry.prev
    else:
        pool.host_tail = entry.prev


@compiled
def _link_last(state: Any, pool: Any, place: int) -> None:
    entry = state.host[place]
    entry.prev = pool.host_tail
    entry.next = -1
    if pool.host_tail >= 0:
        state.host[pool.host_tail].next = place
    else:
        pool.host_head = place
    pool.host_tail = place


@compiled_apart
def touch_on_host(state: Any, rank: int, request: int, block: int) -> bool:
    """Make a block the most recently used one; False where it is not there."""
    place = _find(state, rank, request, block)
    if place < 0:
        return False
    _unlink(state, state.ranks[rank], place)
    _link_last(state, state.ranks[rank], place)
    return True


@compiled_apart
def keep_on_host(state: Any, rank: int, sequence: int, block: int) -> None:
    """Copy a sequence's full block out, in the place of the least recently used one where there is no other."""
    request = state.sequences[sequence].request
    if touch_on_host(state, rank, request, block):
        return
    pool = state.ranks[rank]
    if pool.host_used < state.limits.host_blocks:
        place = rank * state.limits.host_blocks + pool.host_used
        pool.host_used += 1
    else:
        place = int(pool.host_head)
        _unlink(state, pool, place)
        if state.host[place].key >= 0:
            state.host_of[state.host[place].key] = -1
    key = _key(state, rank, request, block)
    state.host[place].key = key
    _link_last(state, pool, place)
    if key >= 0:
        state.host_of[key] = place
    else:
        state.host_table[sequence, block] = place
