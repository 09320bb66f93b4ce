"""Sequences that coast together, compiled: those of one batch, which get a token each whenever it is computed.

Separate from `coasting`, which schedules them, since whoever takes one sequence out has to know how far it is. A
pipeline has as many cohorts as it can have batches under way, and sequences stay together from batch to batch; without
stages there is one. While a cohort is under way its sequences have nothing more to compute, and their newest token is
not known yet.
"""

# mypy: disable-error-code="no-any-return"
# Records and arrays of compiled code have no types that mypy knows.

from typing import Any

from metainf.simulator.compiling import compiled, compiled_apart

__all__ = ["coast_on", "ready_cohort", "settle"]


@compiled
def coast_on(cohort: Any, number: int, slot: Any, left: Any, member: Any) -> None:
    """Let a sequence coast with this cohort from the next step on as far as it can.

    Not at all while it has a prompt to compute, or is in a batch under way.
    """
    left[slot.place] = 0
    if slot.known - slot.computed == 1 and slot.known > slot.prompt:
        left[slot.place] = min(slot.check - 1 - slot.computed, slot.end - slot.known - 1)
        member[slot.place] = number
        slot.coasting = True
        slot.round = cohort.round
        cohort.context += slot.computed
        cohort.members += 1


@compiled
def settle(cohort: Any, slot: Any, member: Any) -> None:
    """Bring a sequence's numbers up to date, and out of its cohort."""
    passed = cohort.round - slot.round
    slot.computed += passed
    slot.known += passed
    if cohort.flying:
        slot.known -= 1
    slot.coasting = False
    member[slot.place] = -1
    cohort.context -= slot.computed
    cohort.members -= 1


@compiled
def ready_cohort(state: Any, rank: int) -> int:
    """The cohort that is not under way; where several have come to be so they are one from now on."""
    if state.limits.stages == 1:
        return 0
    found = -1
    for number in range(state.limits.stages):
        if state.cohorts[rank, number].flying:
            continue
        if found < 0 or state.cohorts[rank, found].members == 0:
            found = number
        elif state.cohorts[rank, number].members > 0:
            _join(state, rank, number, found)
    return found


@compiled_apart
def _join(state: Any, rank: int, number: int, into: int) -> None:
    old, new = state.cohorts[rank, number], state.cohorts[rank, into]
    member, left = state.member[rank], state.left[rank]
    for place in range(state.ranks[rank].running):
        if member[place] == number:
            slot = state.sequences[state.running[rank, place]]
            settle(old, slot, member)
            coast_on(new, into, slot, left, member)
