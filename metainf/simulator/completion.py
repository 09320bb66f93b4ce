"""What a finished step leads to, compiled: accepted drafts, tokens on their way to the client, sequences that end.

Separate from scheduling since a step's results arrive after others may have been scheduled (pipeline stages), and from
the event loop, which only says when.
"""

# mypy: disable-error-code="no-any-return"
# Records and arrays of compiled code have no types that mypy knows.

from typing import Any

import numpy as np

from metainf.simulator.cohorts import coast_on
from metainf.simulator.compiling import compiled, compiled_apart
from metainf.simulator.sequences import end

__all__ = ["accepted_drafts", "complete", "notify", "send"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@compiled
def _mixed(value: Any) -> Any:
    """One round of SplitMix64. Source: Steele, Lea, Flood, OOPSLA 2014."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


@compiled
def accepted_drafts(seed: int, request: int, known: int, drafts: int, acceptance: float) -> int:
    """How many of the drafts are right: drawn for each place in the text, so in whichever order steps come."""
    base = _mixed(_mixed(np.uint64(seed) + _GOLDEN) + np.uint64(request) * _GOLDEN)
    for draft in range(drafts):
        drawn = _mixed(base + np.uint64(known + draft + 1) * _GOLDEN)
        if (drawn >> np.uint64(11)) * (1.0 / 9007199254740992.0) >= acceptance:
            return draft
    return drafts


@compiled
def complete(state: Any, rank: int, batch: int, pipeline: int) -> None:
    """Give each sequence of the rank's batch its new tokens, and note the first and last of them for the client."""
    line = state.pipelines[pipeline]
    entries, sequences = state.entries[rank, batch], state.sequences
    pool, number = state.ranks[rank], state.batch_cohorts[rank, batch]
    cohort, left, member = state.cohorts[rank, number], state.left[rank], state.member[rank]
    cohort.flying = False
    ended, passed = 0, 0
    for i in range(state.entry_counts[rank, batch]):
        entry = entries[i]
        slot = sequences[entry.sequence]
        if entry.sampled == 0 or slot.epoch != entry.epoch:
            continue
        line.messages += entry.before - passed
        passed = entry.before
        gained = 1
        if entry.sampled > 1:
            gained += accepted_drafts(
                state.limits.seed, slot.request, slot.known, entry.sampled - 1, state.limits.acceptance
            )
        first = slot.known == slot.prompt
        slot.known = min(slot.known + gained, slot.end)
        slot.computed = slot.known - 1
        last = slot.known == slot.end
        if pool.coasting and not last:
            coast_on(cohort, number, slot, left, member)
        if first or last:
            notice = state.notices[pipeline, line.notices]
            notice.request = slot.request
            notice.place = line.messages
            notice.first = first
            notice.last = last
            line.notices += 1
        elif slot.known - slot.streamed < state.limits.stream_interval:
            continue
        line.messages += 1
        slot.streamed = slot.known
        if last:
            end(state, rank, entry.sequence)
            ended += 1
    line.messages += cohort.coasted - passed
    if ended > 0:
        _close_ranks(state, rank)


@compiled
def _close_ranks(state: Any, rank: int) -> None:
    """Take ended sequences out of the running ones, whose order stays."""
    pool = state.ranks[rank]
    kept = 0
    for i in range(pool.running):
        sequence = state.running[rank, i]
        if state.sequences[sequence].request >= 0:
            state.running[rank, kept] = sequence
            state.left[rank, kept] = state.left[rank, i]
            state.member[rank, kept] = state.member[rank, i]
            state.sequences[sequence].place = kept
            kept += 1
    pool.running = kept


@compiled
def notify(state: Any, pipeline: int, now_s: float) -> None:
    """Send the noted tokens through the API servers, counted as a faster one; in a closed loop clients send again."""
    line = state.pipelines[pipeline]
    base_s = max(now_s, state.clock[0])
    for i in range(line.notices):
        notice = state.notices[pipeline, i]
        at_s = base_s + (notice.place + 1) * state.limits.frontend_token_s
        record = state.requests[notice.request]
        if notice.first:
            record.first_s = at_s
        if notice.last:
            record.last_s = at_s
            if state.limits.clients > 0:
                send(state, at_s)
    state.clock[0] = base_s + line.messages * state.limits.frontend_token_s
    line.notices = 0
    line.messages = 0


@compiled_apart
def send(state: Any, free_s: float) -> None:
    """A free client sends the next request that is not refused, if there is one."""
    request = state.totals[2]
    while request < len(state.requests) and state.requests[request].refused:
        request += 1
    state.totals[2] = request + 1
    if request >= len(state.requests):
        return
    record = state.requests[request]
    record.sent_s = max(free_s, record.arrival_s)
    at_s = record.sent_s + state.limits.request_s + record.input * state.limits.request_token_s
    sent, places = state.totals[3], len(state.way)
    if sent > state.totals[5]:
        at_s = max(at_s, state.way_s[(sent - 1) % places])  # tokenised one after the other, in the order of sending
    state.way_s[sent % places] = at_s
    state.way[sent % places] = request
    state.totals[3] = sent + 1
