"""What a batch has cost so far.

Separate and pure. The sum lives in the workload's status with a clock of its own: whoever leads next goes on from
there, and what passed while nobody led counts as served, since the replicas ran on. It is written every five
minutes, and after half a minute where it moved by a tenth, so that a status is no clock.

What counts is what takes room once a first replica was ready: every replica of every Deployment that stands, ready or
not, so both sides of a switch. Not counted are pods that finish their requests after their Deployment is gone, and
nodes that nobody uses any more. A node that is billed whole and holds both sides counts for each: rather too much.

Why one sum for the workload, through changes of its spec: a batch is served, not run, so nothing tells a second batch
from a first one whose spec was put right, and a sum that an edit sets back is no hard limit. A spec that has no batch
any more ends it. Rejected: a sum for each generation, or for each number of requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from metainf.manifests import InferenceWorkload
from metainf.workload import BatchLoad, Budget, BudgetKind

__all__ = ["Accrued", "accrual_of", "accrue", "overspent", "still_accruing", "with_accrued"]

_FIELDS = ("accruedCost", "accruedAt")  # what of a status's `observed` is about costs; the rest is of what was seen
_WRITE_RATIO = Decimal("0.1")
_WRITE_AFTER = timedelta(minutes=5)
_MONEY_STEP = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class Accrued:
    """Spent up to `at`, in the budget's currency; `at` None: nothing runs, and the clock stands.

    `due` says that the status should be written for it.
    """

    amount: Decimal
    at: datetime | None
    due: bool

    def observed(self, currency: str) -> dict[str, str]:
        """The fields of the status."""
        fields = {"accruedCost": f"{self.amount} {currency}"}
        if self.at is not None:
            fields["accruedAt"] = self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return fields


def accrue(
    observed: Mapping[str, Any], per_hour: Sequence[Decimal | None], *, ready: bool, now: datetime
) -> Accrued | None:
    """The sum with the time since it was written; None where nothing was ever served.

    `per_hour` is what each Deployment that runs costs now; empty where none does. `ready` says that any of their
    replicas is: counting begins with the first. What a Deployment costs that is not known counts as nothing: the sum
    then is what is known to be spent.
    """
    before, since = _read(observed)
    if before is None:
        return Accrued(Decimal(0), now, True) if per_hour and ready else None
    if not per_hour:
        return Accrued(before, None, since is not None)
    if since is None:
        return Accrued(before, now, True)  # it runs again
    elapsed = max(timedelta(0), now - since)
    rate = sum((cost for cost in per_hour if cost is not None), Decimal(0))
    amount = (before + rate * Decimal(str(elapsed.total_seconds())) / 3600).quantize(_MONEY_STEP)
    moved = amount - before > before * _WRITE_RATIO
    return Accrued(amount, now, elapsed >= _WRITE_AFTER or (moved and elapsed >= _WRITE_AFTER / 10))


def overspent(budget: Budget, accrued: Accrued | None) -> bool:
    """Whether a budget in total is used up."""
    return accrued is not None and budget.kind is BudgetKind.TOTAL and accrued.amount > budget.amount


def accrual_of(observed: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a status says of a batch's cost, and nothing of what was seen."""
    if not observed or "accruedCost" not in observed:
        return None
    return {name: observed[name] for name in _FIELDS if name in observed}


def still_accruing(observed: dict[str, Any] | None, workload: InferenceWorkload | None) -> dict[str, Any] | None:
    """What a status says was observed, without a batch's cost where the spec has no batch any more."""
    if not observed or workload is None or isinstance(workload.workload.traffic.load, BatchLoad):
        return observed
    return _seen(observed) or None


def with_accrued(
    observed: dict[str, Any] | None, accrued: Accrued, currency: str, *, writes: bool
) -> dict[str, Any] | None:
    """The same with what a batch has cost so far, where it is due or the status is written anyway."""
    return {**_seen(observed or {}), **accrued.observed(currency)} if accrued.due or writes else observed


def _seen(observed: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in observed.items() if name not in _FIELDS}


def _read(observed: Mapping[str, Any]) -> tuple[Decimal | None, datetime | None]:
    """The sum and its clock; None for what is not there or damaged."""
    try:
        amount = Decimal(str(observed.get("accruedCost", "")).partition(" ")[0])
    except InvalidOperation:
        return None, None
    if not amount.is_finite():
        return None, None
    try:
        return amount, datetime.fromisoformat(str(observed.get("accruedAt")).replace("Z", "+00:00")).astimezone(UTC)
    except ValueError:
        return amount, None
