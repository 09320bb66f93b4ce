"""The KV cache's blocks, compiled: which are free, which hold content to be hit again, and in which order they go.

Separate because it is all that the scheduler does to memory, and the part whose rules are vLLM's own: blocks are used
again in the order in which they were freed, a sequence's last block first; a freed block keeps its content until then.
Blocks whose content nobody could hit, by vLLM's count, are used again before all others.
Contents of one request alone can only be hit by that request after a preemption, so they are given a key only then: the
result is the same, and most requests are never preempted.

Source: vLLM V1, vllm/v1/core/block_pool.py and single_type_kv_cache_manager.py.
"""

# mypy: disable-error-code="no-any-return"
# Records and arrays of compiled code have no types that mypy knows.

from typing import Any

from metainf.simulator.compiling import compiled, compiled_apart
from metainf.simulator.records import FULL, NO_KEY, STATE

__all__ = [
    "cached_block",
    "content_of",
    "give_back",
    "is_hashed",
    "register",
    "release_sequence",
    "take_block",
    "use_again",
    "window_need",
]


@compiled
def content_of(state: Any, request: int, block: int) -> int:
    """Identity of a prompt's leading shared block: hashes are chained, so the last one inside a block names it."""
    start = state.requests[request].hashes
    if state.limits.block_hashes > 1:
        return state.contents[start + (block + 1) * state.limits.block_hashes - 1]
    per_hash = state.limits.hash_blocks
    return state.contents[start + block // per_hash] * per_hash + block % per_hash


@compiled
def _own_key(state: Any, request: int, group: int, block: int) -> int:
    return -1 - ((request * state.limits.table_groups + group) * state.table.shape[2] + block)


@compiled
def cached_block(state: Any, rank: int, group: int, request: int, block: int) -> int:
    """The block that holds this part of the request's content, -1 where none does."""
    record = state.requests[request]
    if block < record.shared:
        key = (rank * state.limits.table_groups + group) * state.limits.contents + content_of(state, request, block)
        return state.first[key]
    sequence = record.sequence
    if sequence < 0 or block >= state.sequences[sequence].blocks:
        return -1
    found = state.table[sequence, group, block]
    if found >= 0 and state.blocks[found].key == _own_key(state, request, group, block):
        return found
    return -1


@compiled
def _unlink_free(blocks: Any, pool: Any, index: int) -> None:
    block = blocks[index]
    if block.prev >= 0:
        blocks[block.prev].next = block.next
    else:
        pool.free_head = block.next
    if block.next >= 0:
        blocks[block.next].prev = block.prev
    else:
        pool.free_tail = block.prev


@compiled
def _notice(pool: Any, key: int) -> None:
    """Forget what is remembered of the request that waits for blocks, where this content may be one of its own.

    `key` is of a block that can be hit now or no longer, or whose use begins or ends.
    """
    if pool.stuck >= 0 and key != NO_KEY and (key < 0 or pool.stuck_low <= key <= pool.stuck_high):
        pool.stuck = -1


@compiled
def _evict(blocks: Any, first: Any, pool: Any, index: int) -> None:
    """Take the block's content out of the prefix cache."""
    block = blocks[index]
    _notice(pool, block.key)
    if block.key >= 0:
        if block.twin_prev >= 0:
            blocks[block.twin_prev].twin_next = block.twin_next
        else:
            first[block.key] = block.twin_next
        if block.twin_next >= 0:
            blocks[block.twin_next].twin_prev = block.twin_prev
    block.key = NO_KEY


@compiled
def take_block(blocks: Any, first: Any, pool: Any) -> int:
    """The free block that has been free for longest, its content forgotten."""
    pool.free -= 1
    if pool.untouched < pool.end:
        index = pool.untouched
        pool.untouched += 1
        blocks[index].key = NO_KEY
    else:
        index = int(pool.free_head)
        _unlink_free(blocks, pool, index)
        _evict(blocks, first, pool, index)
    blocks[index].users = 1
    return index


@compiled
def use_again(blocks: Any, pool: Any, index: int) -> None:
    """One more sequence uses a block that holds its content already."""
    block = blocks[index]
    if block.users == 0:
        _notice(pool, block.key)
        _unlink_free(blocks, pool, index)
        pool.free -= 1
    block.users += 1


@compiled
def give_back(blocks: Any, pool: Any, index: int, hashed: bool) -> None:
    """One sequence fewer uses the block; without any it is free.

    With a content that vLLM has a hash of it is the last in line to be used for something else, otherwise the first.
    """
    block = blocks[index]
    block.users -= 1
    if block.users > 0:
        return
    _notice(pool, block.key)
    pool.free += 1
    if hashed:
        block.prev = pool.free_tail
        block.next = -1
        if pool.free_tail >= 0:
            blocks[pool.free_tail].next = index
        else:
            pool.free_head = index
        pool.free_tail = index
        return
    block.prev = -1
    block.next = pool.free_head
    if pool.free_head >= 0:
        blocks[pool.free_head].prev = index
    else:
        pool.free_tail = index
    pool.free_head = index


@compiled
def is_hashed(state: Any, sequence: int, group: int, block: int) -> bool:
    """Whether vLLM has a hash of a sequence's block, so that somebody with equal content could hit it.

    Of a window it keeps the last one of the prompt alone, besides what is shared. Source: vLLM 0.32.0,
    vllm/v1/core/single_type_kv_cache_manager.py, with a `prefix_cache_retention_interval` of 0 (vllm/config/cache.py).
    """
    if not state.limits.caching:
        return False
    slot = state.sequences[sequence]
    if state.groups[group].kind == FULL:
        return (block + 1) * state.limits.block_tokens <= min(slot.computed, slot.known)
    if state.blocks[state.table[sequence, group, block]].key != NO_KEY:
        return True
    last = (slot.prompt - 1) // state.limits.block_tokens
    return last - window_need(state, state.groups[group].window) <= block < last


@compiled
def window_need(state: Any, window: int) -> int:
    """Blocks before a position that a window there looks into."""
    return max(1, -(-(window - 1) // state.limits.block_tokens))


@compiled
def _set_key(blocks: Any, first: Any, pool: Any, index: int, key: int) -> None:
    block = blocks[index]
    block.key = key
    _notice(pool, key)
    if key < 0:
        return
    block.twin_prev = -1
    block.twin_next = -1
    oldest = first[key]
    if oldest < 0:
        first[key] = index
        return
    block.twin_prev = oldest
    block.twin_next = blocks[oldest].twin_next
    if block.twin_next >= 0:
        blocks[block.twin_next].twin_prev = index
    blocks[oldest].twin_next = index


@compiled_apart
def register(state: Any, rank: int, sequence: int, upto: int) -> None:
    """Let the sequence's full blocks before `upto` be hit, those that nobody could hit yet."""
    slot = state.sequences[sequence]
    request = slot.request
    shared = state.requests[request].shared
    for block in range(slot.registered, upto):
        for group in range(state.limits.table_groups):
            if state.groups[group].kind == STATE:
                continue
            index = state.table[sequence, group, block]
            if index < 0 or state.blocks[index].key != NO_KEY:
                continue
            if block < shared:
                content = content_of(state, request, block)
                key = (rank * state.limits.table_groups + group) * state.limits.contents + content
            else:
                key = _own_key(state, request, group, block)
            _set_key(state.blocks, state.first, state.ranks[rank], index, key)
    slot.registered = max(slot.registered, upto)


@compiled_apart
def release_sequence(state: Any, rank: int, sequence: int) -> None:
    """Give back all blocks of a sequence, the last first; its table stays, for it to look into after a preemption."""
    slot = state.sequences[sequence]
    blocks, pool, table = state.blocks, state.ranks[rank], state.table[sequence]
    for group in range(state.limits.table_groups):
        kind = state.groups[group].kind
        lowest = 0 if kind == FULL else state.live_from[sequence, group]
        if state.limits.counting:
            pool.free += state.limits.state_blocks if kind == STATE else slot.blocks - lowest
            continue
        if kind == STATE:
            for block in range(state.limits.state_blocks):
                give_back(blocks, pool, table[group, block], False)
            continue
        for block in range(slot.blocks - 1, lowest - 1, -1):
            give_back(blocks, pool, table[group, block], is_hashed(state, sequence, group, block))
