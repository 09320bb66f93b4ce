"""What the budget of a task of the corpus is counted against, by its traffic.

Separate from the budgets that an evaluation draws (`metainf.evaluation.budgets`): who ranks methods as the operator
does needs the kind alone, and must not need an evaluation. Beside the tasks and not in `workload`, since a workload may
have any kind of budget whatever its traffic.
"""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

from metainf.corpus.task import TrafficKind
from metainf.workload import Budget, BudgetKind

__all__ = ["ANY_AMOUNT", "any_budget", "budget_kind"]

ANY_AMOUNT = Decimal(1_000_000)
"""What nobody would come near."""

_KINDS: Mapping[TrafficKind, BudgetKind] = MappingProxyType(
    {
        TrafficKind.RATE: BudgetKind.PER_HOUR,
        TrafficKind.CONCURRENCY: BudgetKind.PER_MILLION_TOKENS,
        TrafficKind.BATCH: BudgetKind.TOTAL,
    }
)


def budget_kind(kind: TrafficKind) -> BudgetKind:
    """What the budget of a workload of this kind of traffic is counted against."""
    return _KINDS[kind]


def any_budget(kind: TrafficKind) -> Budget:
    """A budget of the kind's unit that rules nothing out."""
    return Budget(budget_kind(kind), ANY_AMOUNT)
