"""Steps in which nothing happens, one after the other and without the event loop, compiled.

Separate because it only repeats what the loop does, faster, and the two are tested to give the same results, to the
bit. Where nobody waits most steps are such: every running sequence coasts, and nobody arrives before the step ends.
Then only the context grows, and with it the time of a step; sequences that need their next block get it in between.
Ranks in lock-step stride together; one rank alone, the usual case, has a loop of its own that keeps its place in the
tables.
"""

# mypy: disable-error-code="no-any-return"
# Records and arrays of compiled code have no types that mypy knows.

from typing import Any

from metainf.simulator.coasting import renewed_steps, take_next_block
from metainf.simulator.compiling import compiled, compiled_apart
from metainf.simulator.records import NEVER
from metainf.simulator.timing import at_pair, at_point, fixed_part_s, lower_point

__all__ = ["stride"]


@compiled_apart
def stride(state: Any, until_s: float) -> None:
    """Take the steps that begin before `until_s`, when somebody arrives, and before a sequence needs more than a block.

    Nothing is done unless the batch under way is such a step itself. Only with one pipeline of one stage, whose
    sequences coast.
    """
    line = state.pipelines[0]
    if line.flying != 1 or line.notices > 0 or state.done_s[0, line.oldest] >= until_s:
        return
    if not _is_calm(state, line.oldest):
        return
    while state.done_s[0, line.oldest] < until_s:
        most = _calm_steps(state)
        if most == 0:
            return
        if state.limits.ranks == 1:
            taken = _taken(state, line, until_s, most)
        else:
            taken = _taken_together(state, line, until_s, most)
        state.totals[0] += taken
        for rank in range(state.limits.ranks):
            pool = state.ranks[rank]
            state.cohorts[rank, 0].round += taken
            for place in range(pool.running):
                state.left[rank, place] -= taken
            state.totals[1] += taken * pool.running


@compiled
def _is_calm(state: Any, batch: int) -> bool:
    """Whether in the batch under way all coast, somebody runs, and nobody waits."""
    running = 0
    for rank in range(state.limits.ranks):
        pool = state.ranks[rank]
        running += pool.running
        if pool.waiting > 0 or state.entry_counts[rank, batch] > 0 or not pool.coasting:
            return False
        if state.cohorts[rank, 0].coasted != pool.running or state.limits.budget < pool.running:
            return False
    return running > 0


@compiled
def _calm_steps(state: Any) -> int:
    """Steps until the first of the running sequences is due; those that only needed their next block have got it."""
    least = _least_left(state)
    if least > 0 or not _can_renew(state):
        return least
    for rank in range(state.limits.ranks):
        cohort, left = state.cohorts[rank, 0], state.left[rank]
        for place in range(state.ranks[rank].running):
            if left[place] == 0:
                sequence = state.running[rank, place]
                left[place] = renewed_steps(state, cohort, state.sequences[sequence])
                take_next_block(state, rank, sequence)
    return _least_left(state)


@compiled
def _least_left(state: Any) -> int:
    least = NEVER
    for rank in range(state.limits.ranks):
        for place in range(state.ranks[rank].running):
            least = min(least, state.left[rank, place])
    return least


@compiled
def _can_renew(state: Any) -> bool:
    """Whether all that are due only need their next block, and it is free."""
    for rank in range(state.limits.ranks):
        blocks, left = 0, state.left[rank]
        for place in range(state.ranks[rank].running):
            if left[place] == 0:
                blocks += 1
                if renewed_steps(state, state.cohorts[rank, 0], state.sequences[state.running[rank, place]]) == 0:
                    return False
        if blocks > state.ranks[rank].free:
            return False
    return True


@compiled
def _taken(state: Any, line: Any, until_s: float, most: int) -> int:
    """Number of steps taken; clock, messages and context go along."""
    pool, cohort, tables = state.ranks[0], state.cohorts[0, 0], state.tables
    running = pool.running
    rows, columns, values = tables.decode_sequences, tables.decode_context_tokens, tables.decode_s
    sequences = float(running)
    row = -1 if len(rows) == 1 or sequences <= rows[0] else lower_point(rows, sequences)
    row_share = 0.0 if row < 0 else (sequences - rows[row]) / (rows[row + 1] - rows[row])
    others_s = fixed_part_s(tables, running, running, running, 0.0)
    experts_s = at_point(tables.expert_tokens, tables.expert_s, float(running))
    send_s = running * state.limits.frontend_token_s
    at_s, clock_s, busy_s, messages = state.done_s[0, line.oldest], state.clock[0], pool.busy_s, line.messages
    column, taken = 0, 0
    while taken < most and at_s < until_s:
        if state.limits.asynchronous:
            clock_s = max(at_s, clock_s) + messages * state.limits.frontend_token_s
            messages = running
        else:
            clock_s = max(at_s, clock_s) + send_s
        context = cohort.context / sequences
        if len(columns) > 1:
            while column < len(columns) - 2 and columns[column + 1] <= context:
                column += 1
        if row < 0:
            decode_s = _on_line(columns, values[0], column, context)
        else:
            low = _on_line(columns, values[row], column, context)
            high = _on_line(columns, values[row + 1], column, context)
            decode_s = low + row_share * (high - low)
        step_s = (max(0.0, others_s + decode_s) + experts_s) * tables.scale
        cohort.context += running
        busy_s += step_s
        at_s += step_s
        taken += 1
    state.done_s[0, line.oldest] = at_s
    state.stage_free_s[0, 0] = at_s
    state.clock[0] = clock_s
    pool.busy_s = busy_s
    line.messages = messages
    return taken


@compiled
def _taken_together(state: Any, line: Any, until_s: float, most: int) -> int:
    """The same for ranks in lock-step: the slowest sets the pace, and one without work passes a dummy token."""
    tables, calm_s = state.tables, state.calm_s
    running, expert_tokens = 0, 0
    for rank in range(state.limits.ranks):
        own = state.ranks[rank].running
        running += own
        expert_tokens += max(own, 1)
        calm_s[rank] = fixed_part_s(tables, own, own, own, 0.0)
    experts_s = at_point(tables.expert_tokens, tables.expert_s, float(expert_tokens))
    send_s = running * state.limits.frontend_token_s
    at_s, clock_s, messages, taken = state.done_s[0, line.oldest], state.clock[0], line.messages, 0
    while taken < most and at_s < until_s:
        if state.limits.asynchronous:
            clock_s = max(at_s, clock_s) + messages * state.limits.frontend_token_s
            messages = running
        else:
            clock_s = max(at_s, clock_s) + send_s
        step_s = 0.0
        for rank in range(state.limits.ranks):
            own, cohort = state.ranks[rank].running, state.cohorts[rank, 0]
            rank_s = calm_s[rank]
            if own > 0:
                rank_s += at_pair(
                    tables.decode_sequences,
                    tables.decode_context_tokens,
                    tables.decode_s,
                    float(own),
                    cohort.context / own,
                )
                cohort.context += own
            step_s = max(step_s, rank_s)
        step_s = (step_s + experts_s) * tables.scale
        for rank in range(state.limits.ranks):
            if state.ranks[rank].running > 0:
                state.ranks[rank].busy_s += step_s
        at_s += step_s
        taken += 1
    state.done_s[0, line.oldest] = at_s
    state.stage_free_s[0, 0] = at_s
    state.clock[0] = clock_s
    line.messages = messages
    return taken


@compiled
def _on_line(points: Any, values: Any, cell: int, value: float) -> float:
    """`at_point` where the cell is known."""
    if len(points) == 1 or value <= points[0]:
        return values[0]
    share = (value - points[cell]) / (points[cell + 1] - points[cell])
    return values[cell] + share * (values[cell + 1] - values[cell])
