"""What the new side of a switch finds beside the old one: room, and money for both.

Separate and pure. Whether a switch that only gains is begun at all (`reconcile`), and whether the old side has to go
first (`roller`), is asked of the same facts and has to get the same answer.

Both sides run from the start of the new one until the old one is stopped. For that time the budget is held against
both: per hour as it is; per million tokens over the tokens that the old side gives meanwhile, since the new one gives
none while it starts; a total with what the batch has cost so far, for as long as a start may take at most.

Not counted: requests that the old side finishes after its Deployment is gone; nodes that stand idle until an autoscaler
takes them away; what the rest of a batch costs after the switch, which was predicted when it was chosen; tokens where
nothing says how many there are.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

from metainf.manifests import format_money
from metainf.placement import ReplicaRequest, room_for
from metainf.pools import Billing, NodePool
from metainf.workload import Budget, BudgetKind

__all__ = ["SwitchRoom"]


@dataclass(frozen=True, slots=True)
class SwitchRoom:
    """What stands, and what is left beside it. Money is in the budget's currency."""

    pools: tuple[NodePool, ...]
    """What is free where the workload's own pods keep their room."""
    budget: Budget
    startup: timedelta
    """How long the new side may take to start."""
    per_hour: Decimal | None
    """What all that runs costs at today's prices; None where it is not known."""
    decided_per_hour: Decimal | None
    """The same at the prices at which each was decided on."""
    tokens_per_hour: Decimal | None = None
    """Output tokens that what runs gives meanwhile; None where that is not known."""
    spent: Decimal = Decimal(0)
    """What a batch has cost so far."""
    own_nodes: frozenset[str] = frozenset()
    """Nodes that the workload's pods stand on: one that is billed whole is paid for already."""
    answers: bool = True
    """Whether any replica of what runs is ready, so that somebody would miss it."""
    turn: bool = True
    """Whether the limit on switches at a time leaves room for one more."""
    awaited: frozenset[str] = frozenset()
    """Pools in which others have selected nodes and have no pods yet: new ones have to wait for these."""

    def lacks(self, pool: str, request: ReplicaRequest, replicas: int, *, decided: Decimal | None = None) -> str:
        """Why so many replicas do not fit beside what runs, with the two figures that disagree; empty where they do.

        `decided` is what their record says that they cost per hour, for a pool whose price is not known any more.
        """
        found = self._pool(pool)
        if found is None:
            return f"the pool {pool} is there no more"
        room = room_for(found, request).replicas
        if room < replicas:
            return f"{pool} has room for {room} of its {replicas} replica{'s' if replicas > 1 else ''} beside what runs"
        new = decided if found.price is None else self._new_per_hour(found, request, replicas)
        if new is None or self.per_hour is None or self.decided_per_hour is None:
            return "it is not known what both sides cost"
        return self._over_budget(new, self.per_hour, self.decided_per_hour)

    def has_place(self, pool: str, request: ReplicaRequest, replicas: int) -> bool:
        """Whether so many replicas have room beside what runs, whatever they cost."""
        found = self._pool(pool)
        return found is not None and room_for(found, request).replicas >= replicas

    def _pool(self, name: str) -> NodePool | None:
        return next((pool for pool in self.pools if pool.name == name), None)

    def _new_per_hour(self, pool: NodePool, request: ReplicaRequest, replicas: int) -> Decimal:
        """What the replicas add to what is paid already; they go to nodes first that are paid for whole."""
        if pool.billing is not Billing.NODE:
            return room_for(pool, request).cost_per_hour(replicas)
        paid = tuple(node for node in pool.nodes if node.name in self.own_nodes)
        others = tuple(node for node in pool.nodes if node.name not in self.own_nodes)
        left = replicas - room_for(replace(pool, nodes=paid, addable_nodes=0), request).replicas
        return Decimal(0) if left <= 0 else room_for(replace(pool, nodes=others), request).cost_per_hour(left)

    def _over_budget(self, new: Decimal, old: Decimal, old_decided: Decimal) -> str:
        """How both sides break the budget; empty where they keep it.

        What alone breaks it at today's prices counts at the price at which it was decided on: it breaks the budget
        whether another starts beside it or not, and a price that rose is no reason to take a service down.
        """
        limit, unit = self.budget.amount, self.budget.unit
        if self._in_unit(old) > limit:
            old = min(old, old_decided)
        cost = self._in_unit(old + new)
        if cost <= limit:
            return ""
        return f"both sides would cost {format_money(cost)} {unit} while it starts, the budget is {limit} {unit}"

    def _in_unit(self, per_hour: Decimal) -> Decimal:
        """What this comes to in the budget's unit while both sides run; 0 where that cannot be said."""
        if self.budget.kind is BudgetKind.PER_HOUR:
            return per_hour
        if self.budget.kind is BudgetKind.TOTAL:
            return self.spent + per_hour * Decimal(str(self.startup.total_seconds())) / 3600
        return per_hour * 1_000_000 / self.tokens_per_hour if self.tokens_per_hour else Decimal(0)
