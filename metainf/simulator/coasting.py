"""The common step in little time, compiled: decoding sequences to which nothing happens are counted, not visited.

Separate because it only repeats what `scheduling` does, faster, and the two are tested to give the same results. A
sequence coasts while it gets one token a step, needs no block and does not end; how many steps it has `left` to coast
is known beforehand. Its numbers stand still meanwhile, and settling it adds the rounds that have passed. Whatever is
not like that (prompts, new blocks, last tokens) is due and treated one by one, in the order of the running ones. A step
in which blocks or budget could run out is left to `scheduling` as a whole.
"""

# mypy: disable-error-code="no-any-return"
# Records and arrays of compiled code have no types that mypy knows.

from typing import Any

from metainf.simulator.block_pool import take_block
from metainf.simulator.compiling import compiled, compiled_apart
from metainf.simulator.sequences import grow
from metainf.simulator.timing import chunk_s

__all__ = ["coast_on", "schedule_coasting", "settle_all"]


@compiled
def _settle(pool: Any, slot: Any) -> None:
    """Bring a sequence's numbers up to date, and out of the coasting ones."""
    if slot.coasting:
        passed = pool.round - slot.round
        slot.known += passed
        slot.computed += passed
        slot.coasting = False
        pool.context -= slot.computed


@compiled
def coast_on(pool: Any, slot: Any, left: Any, place: int) -> None:
    """Let a sequence coast as far as it can from the next step on; not at all while it has a prompt to compute."""
    left[place] = 0
    if slot.known - slot.computed == 1 and slot.known > slot.prompt:
        left[place] = min(slot.check - 1 - slot.computed, slot.end - slot.known - 1)
        slot.round = pool.round
        slot.coasting = True
        pool.context += slot.computed


@compiled_apart
def settle_all(state: Any, rank: int) -> None:
    """Bring all running sequences up to date; nobody coasts."""
    pool = state.ranks[rank]
    for place in range(pool.running):
        _settle(pool, state.sequences[state.running[rank, place]])
    pool.coasting = False
    pool.coasted = 0


@compiled_apart
def _prepare(state: Any, rank: int) -> None:
    pool, sequences, running, left = state.ranks[rank], state.sequences, state.running[rank], state.left[rank]
    for place in range(pool.running):
        coast_on(pool, sequences[running[place]], left, place)
    pool.coasting = True


@compiled
def _find_due(pool: Any, left: Any, due: Any) -> int:
    """Places of the running sequences that this step has to look at."""
    count = 0
    for place in range(pool.running):
        left[place] -= 1
        if left[place] < 0:
            due[count] = place
            count += 1
    return count


@compiled
def _is_plain(state: Any, rank: int, due: Any, count: int, threshold: int) -> bool:
    """Whether every running sequence gets its tokens in this step, and every block that it needs."""
    pool = state.ranks[rank]
    budget, blocks, next_place = state.limits.budget, 0, 0
    for i in range(count):
        slot = state.sequences[state.running[rank, due[i]]]
        budget -= due[i] - next_place
        if budget <= 0:
            return False
        next_place = due[i] + 1
        missing = slot.known - slot.computed
        computed = slot.computed + (pool.round - slot.round if slot.coasting else 0)
        new = min(missing, threshold, budget)
        budget -= new
        blocks += max(0, -(-(computed + new) // state.limits.block_tokens) - slot.blocks)
    return budget >= pool.running - next_place and blocks * state.limits.table_groups <= pool.free


@compiled
def schedule_coasting(state: Any, rank: int, threshold: int) -> bool:
    """Schedule all running sequences of the rank; False, and nothing done, where that takes `scheduling`."""
    pool = state.ranks[rank]
    if not pool.coasting:
        _prepare(state, rank)
    due = state.due_places[rank]
    count = _find_due(pool, state.left[rank], due)
    if not _is_plain(state, rank, due, count, threshold):
        return False
    load, entries, sequences, running = state.loads[rank], state.entries[rank, 0], state.sequences, state.running[rank]
    pool.round += 1
    tokens = pool.running
    for i in range(count):
        place = due[i]
        sequence = running[place]
        slot = sequences[sequence]
        if slot.coasting:
            slot.round += 1  # not this round: it takes part as itself
            _settle(pool, slot)
        missing = slot.known - slot.computed
        new = min(missing, threshold, state.limits.budget - tokens + 1) if missing > 1 else 1
        upto = slot.computed + new
        if upto >= slot.check:
            _grow_plainly(state, rank, sequence, upto)
        entry = entries[i]
        entry.sequence = sequence
        entry.epoch = slot.epoch
        entry.place = place
        entry.sampled = 1 if new == missing else 0
        if missing == 1 and slot.known > slot.prompt:
            load.decodes += 1
            load.context += slot.computed
        else:
            load.chunk_s += chunk_s(state.tables, new, slot.computed)
            tokens += new - 1
        slot.computed = upto
    pool.coasted = pool.running - count
    load.decodes += pool.coasted
    load.context += pool.context
    pool.context += pool.coasted
    load.tokens = tokens
    load.sequences = pool.running
    load.rows = pool.running
    state.entry_counts[rank, 0] = count
    return True


@compiled
def _grow_plainly(state: Any, rank: int, sequence: int, upto: int) -> None:
    """`grow` without its detours where a decoding sequence of one table only needs blocks."""
    slot, pool = state.sequences[sequence], state.ranks[rank]
    if state.limits.plain and slot.known - slot.computed == 1 and slot.known > slot.prompt:
        whole = -(-upto // state.limits.block_tokens)
        if state.limits.counting:
            pool.free -= max(0, whole - slot.blocks)
            pool.peak = max(pool.peak, state.limits.rank_blocks - pool.free)
            slot.blocks = max(slot.blocks, whole)
            slot.check = slot.blocks * state.limits.block_tokens + 1
            return
        for block in range(slot.blocks, whole):
            state.table[sequence, 0, block] = take_block(state.blocks, state.first, pool)
        slot.blocks = max(slot.blocks, whole)
        slot.check = slot.blocks * state.limits.block_tokens + 1
        pool.peak = max(pool.peak, state.limits.rank_blocks - pool.free)
    else:
        grow(state, rank, sequence, upto)
