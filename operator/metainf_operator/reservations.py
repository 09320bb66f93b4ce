"""What a choice takes before its record does: the room of what is to run, or a claim to the room that is waited for.

Separate from the ledger, which counts what is held, and from the pass: two that are decided one after the other must
never count on the same room, though the record of the first is not written yet.
"""

from metainf.candidates import Candidate
from metainf.selection import NoSelection
from metainf_operator.ledger import Hold
from metainf_operator.reconcile import Activate, Choice, Refuse
from metainf_operator.world import WorkloadState, World

__all__ = ["give_up_claim", "reserve"]


def reserve(world: World, state: WorkloadState, choice: Choice) -> bool:
    """Reserve for the choice; True where the workload takes less of a pool than it did, so that others may have it.

    What it gives back with the record that reserves it, as where it is stopped, is not told here but once that is
    written.
    """
    before = world.held_by(state.key)
    give_up_claim(world, state)
    outcome = choice.plan.outcome if isinstance(choice, Refuse) and choice.claims else None
    if isinstance(choice, Activate) and choice.plan.chosen is not None:
        world.reserving[state.key] = _hold(state, choice.plan.chosen.candidate)
    elif isinstance(outcome, NoSelection) and outcome.waiting_for is not None:
        world.waiting[state.key] = _hold(state, outcome.waiting_for.candidate, waiting=True)
    after = world.held_by(state.key)
    return any(not any(_covers(new, old) for new in after) for old in before)


def _covers(new: Hold, old: Hold) -> bool:
    """Whether the new hold leaves nobody more than the old one did; a claim keeps out fewer than a reservation."""
    same = (new.pool, new.request) == (old.pool, old.request)
    return same and new.replicas >= old.replicas and (old.waiting or not new.waiting)


def give_up_claim(world: World, state: WorkloadState) -> bool:
    """Wait for no room any more; whether the workload did."""
    return world.waiting.pop(state.key, None) is not None


def _hold(state: WorkloadState, candidate: Candidate, *, waiting: bool = False) -> Hold:
    option = candidate.option
    return Hold(state.key, state.created_at, option.pool.name, option.request, candidate.replicas, waiting)
