"""The common step in little time, compiled: decoding sequences to which nothing happens are counted, not visited.

Separate because it only repeats what `scheduling` does, faster, and the two are tested to give the same results. A
sequence coasts while it gets one token a step, needs no block and does not end; how many steps it has `left` to coast
is known beforehand. Its numbers stand still meanwhile, and settling it adds the rounds that have passed. Whatever is
not like that (prompts, new blocks, last tokens) is due and looked at one by one, in the order of the running ones; one
that only needs the next block of its one table gets it and coasts on. A step in which blocks or budget could run out is
left to `scheduling` as a whole. Those that coast in one batch are a cohort; the others of a pipeline are under way, and
no business of this step.
"""

# mypy: disable-error-code="no-any-return"
# Records and arrays of compiled code have no types that mypy knows.

from typing import Any

from metainf.simulator.block_pool import take_block
from metainf.simulator.cohorts import coast_on, settle
from metainf.simulator.compiling import compiled, compiled_apart
from metainf.simulator.sequences import grow
from metainf.simulator.timing import chunk_s

__all__ = ["renewed_steps", "schedule_coasting", "settle_ready", "take_next_block"]


@compiled_apart
def settle_ready(state: Any, rank: int) -> None:
    """Bring all running sequences up to date that are not under way; nobody begins to coast."""
    pool, member = state.ranks[rank], state.member[rank]
    for place in range(pool.running):
        number = member[place]
        if number >= 0 and not state.cohorts[rank, number].flying:
            settle(state.cohorts[rank, number], state.sequences[state.running[rank, place]], member)
    pool.coasting = False


@compiled_apart
def _prepare(state: Any, rank: int, number: int) -> None:
    pool, sequences, running = state.ranks[rank], state.sequences, state.running[rank]
    cohort, left, member = state.cohorts[rank, number], state.left[rank], state.member[rank]
    for place in range(pool.running):
        if member[place] < 0:
            coast_on(cohort, number, sequences[running[place]], left, member)
    pool.coasting = True


@compiled
def _find_due(pool: Any, left: Any, due: Any, before: Any) -> int:
    """Places of the running sequences that this step has to look at, and how many coast before each and in all."""
    count = 0
    for place in range(pool.running):
        left[place] -= 1
        if left[place] < 0:
            due[count] = place
            before[count] = place - count
            count += 1
    before[count] = pool.running - count
    return count


@compiled
def _find_due_of(state: Any, rank: int, number: int, due: Any, before: Any) -> int:
    """The same where others are under way: of this cohort, and of those that coast with none."""
    member, left = state.member[rank], state.left[rank]
    count, coasted = 0, 0
    for place in range(state.ranks[rank].running):
        of = member[place]
        if of == number:
            left[place] -= 1
            if left[place] >= 0:
                coasted += 1
                continue
        elif of >= 0:
            continue
        else:
            slot = state.sequences[state.running[rank, place]]
            if slot.known <= slot.computed:
                continue
        due[count] = place
        before[count] = coasted
        count += 1
    before[count] = coasted
    return count


@compiled
def _is_plain(state: Any, rank: int, cohort: Any, count: int, threshold: int) -> bool:
    """Whether everyone of this step gets its tokens in it, and every block that it needs."""
    due, before = state.due_places[rank], state.due_before[rank]
    budget, blocks, passed = state.limits.budget, 0, 0
    for i in range(count):
        slot = state.sequences[state.running[rank, due[i]]]
        budget -= before[i] - passed
        if budget <= 0:
            return False
        passed = before[i]
        missing = slot.known - slot.computed
        computed = slot.computed + (cohort.round - slot.round if slot.coasting else 0)
        new = min(missing, threshold, budget)
        budget -= new
        blocks += _missing_blocks(slot, computed + new, state.limits.block_tokens)
    return budget >= before[count] - passed and blocks * state.limits.table_groups <= state.ranks[rank].free


@compiled
def _missing_blocks(slot: Any, upto: int, block_tokens: int) -> int:
    """Blocks for `upto` tokens beyond those it has; the usual one or none without a division, which takes longest."""
    beyond = upto - slot.blocks * block_tokens
    if beyond <= block_tokens:
        return 1 if beyond > 0 else 0
    return -(-beyond // block_tokens)


@compiled
def schedule_coasting(state: Any, rank: int, batch: int, threshold: int) -> bool:
    """Schedule all running sequences of the rank; False, and nothing done, where that takes `scheduling`."""
    pool, number = state.ranks[rank], state.batch_cohorts[rank, batch]
    cohort, member = state.cohorts[rank, number], state.member[rank]
    if not pool.coasting:
        _prepare(state, rank, number)
    due, before = state.due_places[rank], state.due_before[rank]
    if state.limits.stages == 1:
        count = _find_due(pool, state.left[rank], due, before)
    else:
        count = _find_due_of(state, rank, number, due, before)
    if not _is_plain(state, rank, cohort, count, threshold):
        return False
    load, entries, sequences = state.loads[rank], state.entries[rank, batch], state.sequences
    running, left, entered, renewed = state.running[rank], state.left[rank], 0, 0
    tokens = before[count] + count
    for i in range(count):
        sequence = running[due[i]]
        slot = sequences[sequence]
        if slot.coasting:
            more = renewed_steps(state, cohort, slot)
            if more > 0:
                take_next_block(state, rank, sequence)
                left[due[i]] = more - 1
                renewed += 1
                continue
            settle(cohort, slot, member)
        missing = slot.known - slot.computed
        new = min(missing, threshold, state.limits.budget - tokens + 1) if missing > 1 else 1
        upto = slot.computed + new
        if upto >= slot.check:
            _grow_plainly(state, rank, sequence, upto)
        entry = entries[entered]
        entry.sequence = sequence
        entry.epoch = slot.epoch
        entry.before = before[i] + renewed
        entry.sampled = 1 if new == missing else 0
        entered += 1
        if missing == 1 and slot.known > slot.prompt:
            load.decodes += 1
            load.context += slot.computed
        else:
            load.chunk_s += chunk_s(state.tables, new, slot.computed)
            tokens += new - 1
        slot.computed = upto
    coasted = before[count] + renewed
    cohort.round += 1
    cohort.coasted = coasted
    load.decodes += coasted
    load.context += cohort.context
    cohort.context += coasted
    load.tokens = tokens
    load.sequences = coasted + entered
    load.rows = coasted + entered
    state.entry_counts[rank, batch] = entered
    return True


@compiled
def renewed_steps(state: Any, cohort: Any, slot: Any) -> int:
    """Steps that a coasting sequence that is due could coast with one more block; 0 where that is not what it needs."""
    if not state.limits.plain:
        return 0
    passed = cohort.round - slot.round
    if slot.computed + passed + 1 < slot.check:
        return 0
    return max(0, min(slot.check + state.limits.block_tokens - 1 - slot.computed, slot.end - slot.known - 1) - passed)


@compiled
def take_next_block(state: Any, rank: int, sequence: int) -> None:
    """Give a decoding sequence of one table its next block."""
    slot, pool = state.sequences[sequence], state.ranks[rank]
    if state.limits.counting:
        pool.free -= 1
    else:
        state.table[sequence, 0, slot.blocks] = take_block(state.blocks, state.first, pool)
    slot.blocks += 1
    slot.check = slot.blocks * state.limits.block_tokens + 1
    pool.peak = max(pool.peak, state.limits.rank_blocks - pool.free)


@compiled
def _grow_plainly(state: Any, rank: int, sequence: int, upto: int) -> None:
    """`grow` without its detours where a decoding sequence of one table only needs a block."""
    slot = state.sequences[sequence]
    if not (state.limits.plain and slot.known - slot.computed == 1 and slot.known > slot.prompt):
        grow(state, rank, sequence, upto)
    elif upto > slot.blocks * state.limits.block_tokens:
        take_next_block(state, rank, sequence)
