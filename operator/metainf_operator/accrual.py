"""What a batch has cost so far.

Separate and pure. The sum lives in the workload's status: whoever leads next goes on from there, and what passed while
nobody led counts as served, since the replicas ran on. It is written when it moved by a tenth, at most every five
minutes, so that a status is no clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from metainf.workload import Budget, BudgetKind

__all__ = ["Accrued", "accrue", "overspent"]

_WRITE_RATIO = Decimal("0.1")
_WRITE_AFTER = timedelta(minutes=5)
_MONEY_STEP = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class Accrued:
    """Spent up to `at`, in the budget's currency. `due` says that the status should be written for it."""

    amount: Decimal
    at: datetime
    due: bool

    def observed(self, currency: str) -> dict[str, str]:
        """The fields of the status."""
        return {
            "accruedCost": f"{self.amount} {currency}",
            "time": self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def accrue(
    observed: Mapping[str, Any], cost_per_hour: Decimal | None, *, serving: bool, now: datetime
) -> Accrued | None:
    """The sum with the time since it was written; None where nothing was ever served.

    Counting begins with the first replica that is ready. A price that is not known now counts as nothing: the sum
    then is what is known to be spent.
    """
    before, since = _read(observed)
    if since is None:
        return Accrued(Decimal(0), now, True) if serving else None
    if not serving:
        return Accrued(before, now, False)
    elapsed = max(timedelta(0), now - since)
    spent = (cost_per_hour or Decimal(0)) * Decimal(str(elapsed.total_seconds())) / 3600
    amount = (before + spent).quantize(_MONEY_STEP)
    moved = amount - before > before * _WRITE_RATIO
    return Accrued(amount, now, elapsed >= _WRITE_AFTER or (moved and elapsed >= _WRITE_AFTER / 10))


def overspent(budget: Budget, accrued: Accrued | None) -> bool:
    """Whether a budget in total is used up."""
    return accrued is not None and budget.kind is BudgetKind.TOTAL and accrued.amount > budget.amount


def _read(observed: Mapping[str, Any]) -> tuple[Decimal, datetime | None]:
    try:
        amount = Decimal(str(observed.get("accruedCost", "")).partition(" ")[0])
        return amount, datetime.fromisoformat(str(observed["time"]).replace("Z", "+00:00")).astimezone(UTC)
    except (InvalidOperation, KeyError, ValueError):
        return Decimal(0), None
