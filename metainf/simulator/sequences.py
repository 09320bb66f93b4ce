"""What happens to one sequence's blocks, compiled: admission with prefix hits, growth, windows, preemption, the end.

Separate from the pool, which knows no sequences, and from the scheduler, which decides who is next.

Source: vLLM V1, vllm/v1/core/kv_cache_manager.py allocate_slots and get_computed_blocks: at most all but the last token
are taken from the cache, and a request is admitted only where the whole of what is known of it would fit into the free
blocks (`scheduler_reserve_full_isl`, on by default), though only the first chunk's blocks are taken.
"""

# mypy: disable-error-code="no-any-return"
# Records and arrays of compiled code have no types that mypy knows.

from typing import Any

from metainf.simulator.block_pool import (
    cached_block,
    content_of,
    give_back,
    is_hashed,
    register,
    release_sequence,
    take_block,
    use_again,
    window_need,
)
from metainf.simulator.cohorts import settle
from metainf.simulator.compiling import compiled, compiled_apart
from metainf.simulator.host_memory import keep_on_host, touch_on_host
from metainf.simulator.records import FULL, NEVER, STATE, WINDOW

__all__ = ["blocks_to_hold", "end", "grow", "hit_blocks", "is_short", "preempt", "register_due", "start"]


@compiled
def blocks_to_hold(state: Any, tokens: int) -> int:
    """Most blocks that a sequence holds while it grows to so many tokens: windows give back what they left behind."""
    whole = -(-tokens // state.limits.block_tokens)
    total = 0
    for group in range(state.limits.table_groups):
        kind = state.groups[group].kind
        if kind == STATE:
            total += state.limits.state_blocks
        elif kind == WINDOW:
            widest = state.groups[group].window - 1 + state.limits.in_flight_tokens
            total += min(whole, -(-widest // state.limits.block_tokens) + 1)
        else:
            total += whole
    return total


@compiled
def _window_hit(state: Any, rank: int, group: int, request: int, most: int) -> int:
    """Longest hit of at most `most` blocks whose last window is cached as a whole."""
    need = window_need(state, state.groups[group].window)
    run = 0
    for block in range(most - 1, -1, -1):
        if cached_block(state, rank, group, request, block) < 0:
            run = 0
            continue
        run += 1
        if run >= need:
            return block + run
    return run


@compiled
def _full_hit(state: Any, rank: int, group: int, request: int, most: int) -> int:
    """Leading blocks, at most `most`, that a group of all tokens has in its cache; `hits` says where."""
    record, first, found = state.requests[request], state.first, state.hits[group]
    keys = (rank * state.limits.table_groups + group) * state.limits.contents
    shared, hit = min(most, record.shared), 0
    while hit < shared:
        index = first[keys + content_of(state, request, hit)]
        if index < 0:
            return hit
        found[hit] = index
        hit += 1
    while hit < most:
        index = cached_block(state, rank, group, request, hit)
        if index < 0:
            return hit
        found[hit] = index
        hit += 1
    return hit


@compiled_apart
def hit_blocks(state: Any, rank: int, request: int, most: int) -> int:
    """Leading blocks of the request, at most `most`, that every group has in its cache."""
    hit = most
    for group in range(state.limits.table_groups):
        if state.groups[group].kind == FULL:
            hit = _full_hit(state, rank, group, request, hit)
    hit = max(0, hit - state.limits.recomputed_hit_blocks)
    settled = not state.limits.windowed
    while not settled and hit > 0:
        settled = True
        for group in range(state.limits.table_groups):
            if state.groups[group].kind == WINDOW:
                found = _window_hit(state, rank, group, request, hit)
                settled = settled and found == hit
                hit = found
    return hit


@compiled
def _first_live(state: Any, group: int, hit: int) -> int:
    if state.groups[group].kind == FULL:
        return 0
    return max(0, hit - window_need(state, state.groups[group].window))


@compiled
def _hit_block(state: Any, rank: int, group: int, request: int, block: int) -> int:
    """Where a block is that `hit_blocks` has just counted."""
    if state.groups[group].kind == FULL:
        return state.hits[group, block]
    return cached_block(state, rank, group, request, block)


@compiled
def _idle_hits(state: Any, rank: int, request: int, hit: int) -> int:
    """Blocks among the request's hits that nobody uses: they count as free until it takes them."""
    idle = 0
    for group in range(state.limits.table_groups):
        if state.groups[group].kind == STATE:
            continue
        for block in range(_first_live(state, group, hit), hit):
            idle += state.blocks[_hit_block(state, rank, group, request, block)].users == 0
    return idle


@compiled
def _new_blocks(state: Any, request: int, hit: int, upto: int) -> int:
    """Blocks beyond its hits that must be free: for `upto` tokens now, and in the end for all that are known."""
    record = state.requests[request]
    known = record.input if record.sequence < 0 else state.sequences[record.sequence].known
    used = 0
    for group in range(state.limits.table_groups):
        if state.groups[group].kind != STATE:
            used += hit - _first_live(state, group, hit)
    growing = state.limits.table_groups - state.limits.state_groups
    now = (-(-upto // state.limits.block_tokens) - hit) * growing
    now += state.limits.state_groups * state.limits.state_blocks
    return max(now, blocks_to_hold(state, known) - used)


@compiled
def is_short(state: Any, rank: int, request: int, upto: int) -> bool:
    """Whether there are still too few free blocks for the request that is remembered as stuck."""
    pool = state.ranks[rank]
    return _new_blocks(state, request, pool.stuck_hit, upto) + pool.stuck_idle > pool.free


@compiled
def _remember_stuck(state: Any, rank: int, request: int, hit: int, idle: int) -> None:
    """Keep what was counted, so that the next steps need not look through all of a long prefix to count the same.

    It holds until a content of the request comes or goes, or its use begins or ends: see `block_pool`. What host memory
    has of it can change besides, so with that nothing is kept.
    """
    if not state.limits.remembering:
        return
    low, high = state.limits.contents, -1
    for block in range(state.requests[request].shared):
        content = content_of(state, request, block)
        low, high = min(low, content), max(high, content)
    pool = state.ranks[rank]
    first = rank * state.limits.table_groups
    pool.stuck = request
    pool.stuck_hit = hit
    pool.stuck_idle = idle
    pool.stuck_low = first * state.limits.contents + low
    pool.stuck_high = (first + state.limits.table_groups - 1) * state.limits.contents + high


@compiled
def _take_hits(state: Any, rank: int, request: int, sequence: int, hit: int) -> None:
    for group in range(state.limits.table_groups):
        if state.groups[group].kind == STATE:
            continue
        first = _first_live(state, group, hit)
        for block in range(first):
            state.table[sequence, group, block] = -1
        for block in range(first, hit):
            index = _hit_block(state, rank, group, request, block)
            use_again(state.blocks, state.ranks[rank], index)
            state.table[sequence, group, block] = index
        state.live_from[sequence, group] = first


@compiled
def _take_blocks(state: Any, rank: int, sequence: int, upto: int) -> None:
    slot, pool = state.sequences[sequence], state.ranks[rank]
    blocks, first, table = state.blocks, state.first, state.table[sequence]
    whole = -(-upto // state.limits.block_tokens)
    for group in range(state.limits.table_groups):
        if state.groups[group].kind == STATE:
            continue
        if state.limits.counting:
            pool.free -= max(0, whole - slot.blocks)
            continue
        for block in range(slot.blocks, whole):
            table[group, block] = take_block(blocks, first, pool)
    slot.blocks = max(slot.blocks, whole)
    pool.peak = max(pool.peak, state.limits.rank_blocks - pool.free)


@compiled
def _next_check(state: Any, sequence: int) -> int:
    """Tokens from which on the sequence's blocks need attention again."""
    slot = state.sequences[sequence]
    check = slot.blocks * state.limits.block_tokens + 1
    if state.limits.caching and (state.limits.host_blocks > 0 or slot.registered < state.requests[slot.request].shared):
        check = min(check, (slot.registered + 1) * state.limits.block_tokens)
    if state.limits.windowed:
        for group in range(state.limits.table_groups):
            if state.groups[group].kind == WINDOW:
                left = (state.live_from[sequence, group] + 1) * state.limits.block_tokens
                check = min(check, left + state.groups[group].window)
    return check


@compiled
def _blocks_to_register(state: Any, sequence: int, upto: int) -> int:
    """Full blocks that can be hit: shared ones, and where they are copied to host memory all of them."""
    slot = state.sequences[sequence]
    full = min(upto, slot.known) // state.limits.block_tokens
    return full if state.limits.host_blocks > 0 else min(full, state.requests[slot.request].shared)


@compiled
def _register(state: Any, rank: int, sequence: int, upto: int) -> None:
    if state.limits.host_blocks > 0:
        for block in range(state.sequences[sequence].registered, upto):
            keep_on_host(state, rank, sequence, block)
    register(state, rank, sequence, upto)


@compiled
def _note_full(state: Any, rank: int, sequence: int, upto: int) -> None:
    """Register the blocks that this step fills: at once, or when all of the step is scheduled."""
    full = _blocks_to_register(state, sequence, upto)
    if not state.limits.caching or full <= state.sequences[sequence].registered:
        return
    if state.limits.same_step_hits:
        _register(state, rank, sequence, full)
        return
    pool = state.ranks[rank]
    state.due[rank, pool.due] = sequence
    pool.due += 1


@compiled_apart
def register_due(state: Any, rank: int) -> None:
    """Let later steps hit what this one computes."""
    pool = state.ranks[rank]
    for i in range(pool.due):
        sequence = state.due[rank, i]
        slot = state.sequences[sequence]
        _register(state, rank, sequence, _blocks_to_register(state, sequence, slot.computed))
        slot.check = _next_check(state, sequence)
    pool.due = 0


@compiled_apart
def start(state: Any, rank: int, request: int, hit: int, loaded: int, upto: int) -> bool:
    """Give the request the `hit` that `hit_blocks` has just counted, what is loaded from the host, and other blocks.

    Returns False, and takes nothing, where there are not enough for `upto` tokens.
    """
    record = state.requests[request]
    pool = state.ranks[rank]
    idle = _idle_hits(state, rank, request, hit)
    if _new_blocks(state, request, hit, upto) + idle > pool.free:
        _remember_stuck(state, rank, request, hit, idle)
        return False
    pool.stuck = -1
    sequence = record.sequence
    if sequence < 0:
        pool.free_sequences -= 1
        sequence = state.free_sequences[rank, pool.free_sequences]
        slot = state.sequences[sequence]
        slot.request = request
        slot.known = record.input
        slot.prompt = record.input
        slot.end = record.input + record.output
        slot.streamed = record.input
        slot.coasting = False
        slot.blocks = 0
        if state.limits.host_blocks > 0:
            state.host_table[sequence] = -1
        record.cached = (hit + loaded) * state.limits.block_tokens
    for block in range(hit, hit + loaded):
        touch_on_host(state, rank, request, block)
    slot = state.sequences[sequence]
    _take_hits(state, rank, request, sequence, hit)
    record.sequence = sequence
    slot.blocks = hit
    slot.registered = hit
    slot.computed = (hit + loaded) * state.limits.block_tokens
    for group in range(state.limits.table_groups):
        if state.groups[group].kind == STATE and state.limits.counting:
            pool.free -= state.limits.state_blocks
        elif state.groups[group].kind == STATE:
            for block in range(state.limits.state_blocks):
                state.table[sequence, group, block] = take_block(state.blocks, state.first, pool)
    _take_blocks(state, rank, sequence, upto)
    _note_full(state, rank, sequence, upto)
    slot.check = _next_check(state, sequence)
    return True


@compiled_apart
def grow(state: Any, rank: int, sequence: int, upto: int) -> bool:
    """Give a running sequence the blocks for `upto` tokens; False where they are not free."""
    slot = state.sequences[sequence]
    if state.limits.windowed:
        _leave_behind(state, rank, sequence)
    more = -(-upto // state.limits.block_tokens) - slot.blocks
    if more > 0:
        if more * (state.limits.table_groups - state.limits.state_groups) > state.ranks[rank].free:
            return False
        _take_blocks(state, rank, sequence, upto)
    _note_full(state, rank, sequence, upto)
    slot.check = _next_check(state, sequence)
    return True


@compiled
def _leave_behind(state: Any, rank: int, sequence: int) -> None:
    """Give back the blocks that have fallen out of every later token's window."""
    slot = state.sequences[sequence]
    for group in range(state.limits.table_groups):
        if state.groups[group].kind != WINDOW:
            continue
        useful = (slot.computed - state.groups[group].window + 1) // state.limits.block_tokens
        first = state.live_from[sequence, group]
        if state.limits.counting:
            state.ranks[rank].free += max(0, min(useful, slot.blocks) - first)
            state.live_from[sequence, group] = max(first, useful)
            continue
        for block in range(min(useful, slot.blocks) - 1, first - 1, -1):
            hashed = is_hashed(state, sequence, group, block)
            give_back(state.blocks, state.ranks[rank], state.table[sequence, group, block], hashed)
            state.table[sequence, group, block] = -1
        state.live_from[sequence, group] = max(first, useful)


@compiled_apart
def preempt(state: Any, rank: int) -> int:
    """Send the last running sequence back to the head of the queue, to be computed again; returns it."""
    pool = state.ranks[rank]
    pool.running -= 1
    sequence = state.running[rank, pool.running]
    slot = state.sequences[sequence]
    if slot.coasting:  # in a batch under way, which goes on without it
        cohort = state.cohorts[rank, state.member[rank, pool.running]]
        settle(cohort, slot, state.member[rank])
        cohort.coasted -= 1
    if state.limits.counting:
        state.totals[4] = state.limits.caching  # it may hit its own blocks again: which ones, counting cannot tell
    elif state.limits.caching:
        _register(state, rank, sequence, min(slot.computed, slot.known) // state.limits.block_tokens)
    release_sequence(state, rank, sequence)
    slot.computed = 0
    slot.check = NEVER
    slot.epoch += 1
    request = slot.request
    record = state.requests[request]
    record.preemptions += 1
    record.next = pool.head
    pool.head = request
    if pool.tail < 0:
        pool.tail = request
    pool.waiting += 1
    return sequence


@compiled
def end(state: Any, rank: int, sequence: int) -> None:
    """Free all that a finished sequence holds."""
    slot = state.sequences[sequence]
    release_sequence(state, rank, sequence)
    slot.request = -1
    slot.epoch += 1
    pool = state.ranks[rank]
    state.free_sequences[rank, pool.free_sequences] = sequence
    pool.free_sequences += 1
