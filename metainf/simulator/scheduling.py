"""Who computes how many tokens in the next step of one rank, compiled: running sequences first, then those that wait.

Separate from the blocks (`sequences`) and from time (`event_loop`): this is vLLM's schedule() and nothing else.

Source: vLLM V1, vllm/v1/core/sched/scheduler.py. Each sequence catches up with the tokens that are known of it, inside
a budget that all share; a step that preempted admits nobody; `long_prefill_token_threshold` counts where there is
anyone else to hold up.
"""

# mypy: disable-error-code="no-any-return"
# Records and arrays of compiled code have no types that mypy knows.

from typing import Any

from metainf.simulator.coasting import schedule_coasting, settle_ready
from metainf.simulator.cohorts import ready_cohort
from metainf.simulator.compiling import compiled, compiled_apart
from metainf.simulator.host_memory import host_hit
from metainf.simulator.records import NEVER
from metainf.simulator.sequences import grow, hit_blocks, is_short, preempt, register_due, start
from metainf.simulator.timing import chunk_s

__all__ = ["schedule"]


@compiled
def schedule(state: Any, rank: int, batch: int, now_s: float) -> int:
    """Fill the rank's part of a batch; returns the tokens in it."""
    load = state.loads[rank]
    load.tokens = 0
    load.sequences = 0
    load.decodes = 0
    load.context = 0
    load.rows = 0
    load.chunk_s = 0.0
    state.entry_counts[rank, batch] = 0
    pool = state.ranks[rank]
    threshold = state.limits.threshold if pool.running + pool.waiting > 1 else 0
    if threshold <= 0:
        threshold = NEVER
    undisturbed = False
    if state.limits.coasting:
        number = ready_cohort(state, rank)
        state.batch_cohorts[rank, batch] = number
        state.cohorts[rank, number].coasted = 0
        undisturbed = schedule_coasting(state, rank, batch, threshold)
        if not undisturbed:
            settle_ready(state, rank)
    if not undisturbed:
        undisturbed = _schedule_running(state, rank, batch, threshold, now_s)
    if undisturbed and pool.waiting > 0:
        _schedule_waiting(state, rank, batch, threshold, now_s)
    if pool.due > 0:
        register_due(state, rank)
    return load.tokens


@compiled
def _make_room(state: Any, rank: int, sequence: int, upto: int) -> bool:
    """Give the sequence its blocks, at the cost of those that run behind it; False where it had to go itself."""
    while not grow(state, rank, sequence, upto):
        if preempt(state, rank) == sequence:
            return False
    return True


@compiled_apart
def _schedule_running(state: Any, rank: int, batch: int, threshold: int, now_s: float) -> bool:
    """Returns whether nobody was preempted."""
    pool, load = state.ranks[rank], state.loads[rank]
    running, entries, sequences = state.running[rank], state.entries[rank, batch], state.sequences
    budget, drafts, count = state.limits.budget, state.limits.drafts, 0
    decodes, context, rows, place = 0, 0, 0, 0
    undisturbed = True
    while place < pool.running and budget > 0:
        sequence = running[place]
        place += 1
        slot = sequences[sequence]
        missing = slot.known - slot.computed
        if missing <= 0 or slot.coasting:  # in a batch under way
            continue
        if slot.ready_s > now_s:
            _wake_at(state, rank, slot.ready_s)
            continue
        decoding = missing == 1 and slot.known > slot.prompt
        new = missing
        if decoding:
            new = min(1 + drafts, state.limits.max_model_len - 1 - slot.computed)
        new = min(new, threshold, budget)
        upto = slot.computed + new
        if upto >= slot.check:
            before = pool.running
            room = _make_room(state, rank, sequence, upto)
            undisturbed = undisturbed and pool.running == before
            if not room:
                break
        entry = entries[count]
        entry.sequence = sequence
        entry.epoch = slot.epoch
        entry.before = 0
        count += 1
        budget -= new
        if decoding:
            decodes += 1
            context += slot.computed
            rows += new
            entry.sampled = new
        else:
            rows += 1
            entry.sampled = 1 if new == missing else 0
            load.chunk_s += chunk_s(state.tables, new, slot.computed)
        slot.computed = upto
    load.tokens = state.limits.budget - budget
    load.sequences = count
    load.decodes = decodes
    load.context = context
    load.rows = rows
    state.entry_counts[rank, batch] = count
    return undisturbed


@compiled_apart
def _schedule_waiting(state: Any, rank: int, batch: int, threshold: int, now_s: float) -> None:
    pool, load = state.ranks[rank], state.loads[rank]
    while pool.waiting > 0 and load.tokens < state.limits.budget and pool.running < state.limits.max_num_seqs:
        budget = state.limits.budget - load.tokens
        request = pool.head
        record = state.requests[request]
        known = record.input if record.sequence < 0 else state.sequences[record.sequence].known
        if pool.stuck == request:
            cached = pool.stuck_hit * state.limits.block_tokens
            new = _first_tokens(state, known - cached, threshold, budget)
            if new == 0 or is_short(state, rank, request, cached + new):
                break
        most = (known - 1) // state.limits.block_tokens
        hit, loaded = 0, 0
        if state.limits.caching and (record.shared > 0 or record.sequence >= 0):
            hit = hit_blocks(state, rank, request, most)
            if state.limits.host_blocks > 0:
                loaded = host_hit(state, rank, request, hit, most)
        cached = (hit + loaded) * state.limits.block_tokens
        new = _first_tokens(state, known - cached, threshold, budget)
        if new == 0:
            break
        if loaded > 0:
            new = 0
        if not start(state, rank, request, hit, loaded, cached + new):
            break
        pool.head = record.next
        pool.waiting -= 1
        if pool.waiting == 0:
            pool.tail = -1
        state.running[rank, pool.running] = record.sequence
        state.sequences[record.sequence].place = pool.running
        state.member[rank, pool.running] = -1
        state.left[rank, pool.running] = 0
        pool.running += 1
        if loaded > 0:
            pool.link_free_s = max(now_s, pool.link_free_s) + loaded * state.limits.host_block_s
            state.sequences[record.sequence].ready_s = pool.link_free_s
            _wake_at(state, rank, pool.link_free_s)
            continue
        _add_prompt(state, rank, batch, record.sequence, new)


@compiled
def _first_tokens(state: Any, missing: int, threshold: int, budget: int) -> int:
    """Tokens that a request's first step computes; 0 where it has to wait for a step with more budget."""
    if missing > budget and not state.limits.chunked:
        return 0
    return min(missing, threshold, budget)


@compiled
def _add_prompt(state: Any, rank: int, batch: int, sequence: int, new: int) -> None:
    load, slot = state.loads[rank], state.sequences[sequence]
    count = state.entry_counts[rank, batch]
    entry = state.entries[rank, batch, count]
    entry.sequence = sequence
    entry.epoch = slot.epoch
    entry.before = state.cohorts[rank, state.batch_cohorts[rank, batch]].coasted
    entry.sampled = 1 if slot.computed + new == slot.known else 0
    state.entry_counts[rank, batch] = count + 1
    load.chunk_s += chunk_s(state.tables, new, slot.computed)
    load.tokens += new
    load.sequences += 1
    load.rows += 1
    slot.computed += new


@compiled
def _wake_at(state: Any, rank: int, at_s: float) -> None:
    """Try to schedule again at this time, even if no step ends and nobody arrives."""
    line = state.pipelines[rank // state.limits.ranks_per_pipeline]
    line.wake_s = min(line.wake_s, at_s)
