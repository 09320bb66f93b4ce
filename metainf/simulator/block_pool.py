"""The KV cache's blocks, compiled: which are free, which hold content that can be hit again, and in which order they go.

Separate because it is all that the scheduler does to memory, and the part whose rules are vLLM's own: blocks are used
again in the order in which they were freed, a sequence's last block first; a freed block keeps its content until then.
Contents of one request alone can only be hit by that request after a preemption, so they are given a key only then: the
result is the same, and most requests are never preempted.

Source: vLLM V1, vllm/v1/core/block_pool.py and single_type_kv_cache_manager.py.
"""

from typing import Any

import numba

from metainf.simulator.records import FULL, NO_KEY, STATE

__all__ = ["cached_block", "content_of", "give_back", "register", "release_sequence", "take_block", "use_again"]


@numba.njit(error_model="numpy")
def content_of(state: Any, limits: Any, request: int, block: int) -> int:
    """Identity of a prompt's leading shared block: hashes are chained, so the last one inside a block names it."""
    start = state.requests[request].hashes
    if limits.block_hashes > 1:
        return state.contents[start + (block + 1) * limits.block_hashes - 1]
    per_hash = limits.hash_blocks
    return state.contents[start + block // per_hash] * per_hash + block % per_hash


@numba.njit(error_model="numpy")
def _own_key(state: Any, limits: Any, request: int, group: int, block: int) -> int:
    return -1 - ((request * limits.table_groups + group) * state.table.shape[2] + block)


@numba.njit(error_model="numpy")
def cached_block(state: Any, limits: Any, rank: int, group: int, request: int, block: int) -> int:
    """The block that holds this part of the request's content, -1 where none does."""
    record = state.requests[request]
    if block < record.shared:
        key = (rank * limits.table_groups + group) * limits.contents + content_of(state, limits, request, block)
        return state.first[key]
    sequence = record.sequence
    if sequence < 0 or block >= state.sequences[sequence].blocks:
        return -1
    found = state.table[sequence, group, block]
    if found >= 0 and state.blocks[found].key == _own_key(state, limits, request, group, block):
        return found
    return -1


@numba.njit(error_model="numpy")
def _unlink_free(state: Any, rank: int, index: int) -> None:
    block = state.blocks[index]
    if block.prev >= 0:
        state.blocks[block.prev].next = block.next
    else:
        state.ranks[rank].free_head = block.next
    if block.next >= 0:
        state.blocks[block.next].prev = block.prev
    else:
        state.ranks[rank].free_tail = block.prev


@numba.njit(error_model="numpy")
def _evict(state: Any, index: int) -> None:
    """Take the block's content out of the prefix cache."""
    block = state.blocks[index]
    if block.key >= 0:
        if block.twin_prev >= 0:
            state.blocks[block.twin_prev].twin_next = block.twin_next
        else:
            state.first[block.key] = block.twin_next
        if block.twin_next >= 0:
            state.blocks[block.twin_next].twin_prev = block.twin_prev
    block.key = NO_KEY


@numba.njit(error_model="numpy")
def take_block(state: Any, limits: Any, rank: int) -> int:
    """The free block that has been free for longest, its content forgotten."""
    pool = state.ranks[rank]
    pool.free -= 1
    if pool.untouched < limits.rank_blocks:
        index = rank * limits.rank_blocks + pool.untouched
        pool.untouched += 1
        state.blocks[index].key = NO_KEY
    else:
        index = pool.free_head
        _unlink_free(state, rank, index)
        _evict(state, index)
    state.blocks[index].users = 1
    return index


@numba.njit(error_model="numpy")
def use_again(state: Any, rank: int, index: int) -> None:
    """One more sequence uses a block that holds its content already."""
    block = state.blocks[index]
    if block.users == 0:
        _unlink_free(state, rank, index)
        state.ranks[rank].free -= 1
    block.users += 1


@numba.njit(error_model="numpy")
def give_back(state: Any, rank: int, index: int) -> None:
    """One sequence fewer uses the block; without any it is free, the last in line to be used for something else."""
    block = state.blocks[index]
    block.users -= 1
    if block.users > 0:
        return
    pool = state.ranks[rank]
    block.prev = pool.free_tail
    block.next = -1
    if pool.free_tail >= 0:
        state.blocks[pool.free_tail].next = index
    else:
        pool.free_head = index
    pool.free_tail = index
    pool.free += 1


@numba.njit(error_model="numpy")
def _set_key(state: Any, index: int, key: int) -> None:
    block = state.blocks[index]
    block.key = key
    if key < 0:
        return
    block.twin_prev = -1
    block.twin_next = -1
    oldest = state.first[key]
    if oldest < 0:
        state.first[key] = index
        return
    block.twin_prev = oldest
    block.twin_next = state.blocks[oldest].twin_next
    if block.twin_next >= 0:
        state.blocks[block.twin_next].twin_prev = index
    state.blocks[oldest].twin_next = index


@numba.njit(error_model="numpy")
def register(state: Any, limits: Any, rank: int, sequence: int, upto: int) -> None:
    """Let the sequence's full blocks before `upto` be hit, those that nobody could hit yet."""
    slot = state.sequences[sequence]
    request = slot.request
    shared = state.requests[request].shared
    for block in range(slot.registered, upto):
        for group in range(limits.table_groups):
            if state.groups[group].kind == STATE:
                continue
            index = state.table[sequence, group, block]
            if index < 0 or state.blocks[index].key != NO_KEY:
                continue
            if block < shared:
                content = content_of(state, limits, request, block)
                key = (rank * limits.table_groups + group) * limits.contents + content
            else:
                key = _own_key(state, limits, request, group, block)
            _set_key(state, index, key)
    slot.registered = max(slot.registered, upto)


@numba.njit(error_model="numpy")
def release_sequence(state: Any, limits: Any, rank: int, sequence: int) -> None:
    """Give back all blocks of a sequence, the last first; its table stays, for it to look into after a preemption."""
    slot = state.sequences[sequence]
    for group in range(limits.table_groups):
        kind = state.groups[group].kind
        if kind == STATE:
            give_back(state, rank, state.table[sequence, group, 0])
            continue
        lowest = 0 if kind == FULL else state.live_from[sequence, group]
        for block in range(slot.blocks - 1, lowest - 1, -1):
            give_back(state, rank, state.table[sequence, group, block])
