"""What a decision came to, short of the predictions it rests on.

Separate because it is kept for every workload: a pass that a child's status brings about needs no new selection, and a
thousand tables of predictions would fill the memory.
"""

from dataclasses import dataclass
from decimal import Decimal

from metainf.binding_limits import BindingLimit
from metainf.engine_versions import version_remark
from metainf.planning import Plan, confidence_kept, unpinned
from metainf.rejections import Rejection
from metainf.selection import NoSelection, Scored
from metainf_operator.reconcile import Activate, Choice, Hold, Idle, Propose, Refuse, Stop
from metainf_operator.states import DecisionState

__all__ = ["Outlook", "outlook_of"]


@dataclass(frozen=True, slots=True)
class Outlook:
    """How the workload stands.

    `cost`, `broken` and `confidence` are of what is in force, as assessed with today's prices; `over_budget` is apart
    since a latency that is missed too would hide it. `gone` says that it could not be assessed, its pool being there no
    more; `outdated`, that nothing can serve what is asked of its pods now. `limit` is set where nothing keeps the
    limits. `version_remark` says what stands for the flags of an engine's version that has no catalogue, `pin_remark`
    what of the model is no commit.
    """

    considered: int
    priced_pools: tuple[str, ...]
    unpriced_pools: tuple[str, ...]
    idle: bool = False
    stopped: bool = False
    limit: BindingLimit | None = None
    limit_message: str = ""
    proposed: str | None = None
    proposed_decision: str | None = None
    cost: Decimal | None = None
    broken: Rejection | None = None
    over_budget: Rejection | None = None
    confidence: float | None = None
    gone: bool = False
    outdated: bool = False
    keep_message: str = ""
    version_remark: str = ""
    pin_remark: str = ""


def outlook_of(plan: Plan, choice: Choice, active: DecisionState | None) -> Outlook:
    """The outlook after the choice is carried out; `active` is the decision in force then."""
    outcome = plan.outcome
    current = _in_force(plan, choice)
    runs = active is not None and active.holds
    proposed = choice.plan if isinstance(choice, Propose) else None
    return Outlook(
        considered=outcome.considered,
        priced_pools=tuple(p.name for p in plan.pools if p.price is not None),
        unpriced_pools=tuple(p.name for p in plan.pools if p.price is None),
        idle=isinstance(choice, Idle),
        stopped=isinstance(choice, Stop | Refuse) and active is not None and not active.holds,
        limit=outcome.limit if isinstance(outcome, NoSelection) else None,
        limit_message=outcome.message if isinstance(outcome, NoSelection) else "",
        proposed=None if proposed is None or proposed.chosen is None else str(proposed.chosen.candidate.name),
        proposed_decision=None if proposed is None else proposed.name,
        cost=None if current is None else current.candidate.cost_per_hour,
        broken=None if current is None else current.broken,
        over_budget=None if current is None else current.assessment.over_budget(current.row),
        confidence=None if current is None else confidence_kept(current),
        gone=runs and current is None,
        outdated=isinstance(choice, Hold) and choice.outdated,
        keep_message=choice.message if isinstance(choice, Hold) else "",
        version_remark=version_remark(plan.inputs.engine_version),
        pin_remark=unpinned(plan),
    )


def _in_force(plan: Plan, choice: Choice) -> Scored | None:
    """What is in force after the choice, as assessed today."""
    if isinstance(choice, Activate):
        return choice.plan.chosen
    return plan.outcome.current
