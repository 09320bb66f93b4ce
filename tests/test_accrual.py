"""What a batch has cost so far, and when it is worth a write."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metainf.workload import Budget, BudgetKind
from metainf_operator.accrual import Accrued, accrue, overspent

T0 = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def written(amount: str, at: datetime) -> dict[str, Any]:
    return Accrued(Decimal(amount), at, True).observed("USD")


def test_nothing_is_spent_before_the_first_replica_is_ready() -> None:
    assert accrue({}, Decimal(12), serving=False, now=T0) is None


def test_counting_begins_at_zero_with_the_first_ready_replica() -> None:
    first = accrue({}, Decimal(12), serving=True, now=T0)
    assert first == Accrued(Decimal(0), T0, True)


@pytest.mark.parametrize(
    ("before", "minutes", "serving", "amount", "due"),
    [
        pytest.param("0.0000", 60, True, "12.0000", True, id="an hour at the hourly price"),
        pytest.param("12.0000", 1, True, "12.2000", False, id="a minute is not worth a write"),
        pytest.param("12.0000", 5, True, "13.0000", True, id="five minutes are"),
        pytest.param("1.0000", 1, True, "1.2000", True, id="nor is a tenth too little"),
        pytest.param("12.0000", 60, False, "12.0000", False, id="what does not serve costs nothing more"),
    ],
)
def test_adds_the_time_since_it_was_written(before: str, minutes: int, serving: bool, amount: str, due: bool) -> None:
    now = T0 + timedelta(minutes=minutes)
    found = accrue(written(before, T0), Decimal(12), serving=serving, now=now)
    assert found is not None
    assert (found.amount, found.due) == (Decimal(amount), due)


def test_an_unknown_price_adds_nothing() -> None:
    found = accrue(written("3.0000", T0), None, serving=True, now=T0 + timedelta(hours=1))
    assert found is not None and found.amount == Decimal("3.0000")


@pytest.mark.parametrize("observed", [{"accruedCost": "much"}, {"accruedCost": "3 USD", "time": "yesterday"}])
def test_a_damaged_status_counts_as_none(observed: dict[str, Any]) -> None:
    assert accrue(observed, Decimal(12), serving=True, now=T0) == Accrued(Decimal(0), T0, True)


@given(st.lists(st.integers(min_value=0, max_value=4000), min_size=1, max_size=20))
def test_the_sum_never_falls_and_survives_being_written(seconds: list[int]) -> None:
    now, observed, last = T0, written("0.0000", T0), Decimal(0)
    for each in seconds:
        now += timedelta(seconds=each)
        found = accrue(observed, Decimal("7.5"), serving=True, now=now)
        assert found is not None and found.amount >= last
        observed, last = found.observed("USD"), found.amount


@pytest.mark.parametrize(
    ("kind", "amount", "over"),
    [
        pytest.param(BudgetKind.TOTAL, "5.01", True, id="past the total"),
        pytest.param(BudgetKind.TOTAL, "5.00", False, id="at the total"),
        pytest.param(BudgetKind.PER_HOUR, "99", False, id="an hourly budget has no total"),
    ],
)
def test_only_a_total_is_used_up(kind: BudgetKind, amount: str, over: bool) -> None:
    assert overspent(Budget(kind, Decimal(5)), Accrued(Decimal(amount), T0, False)) is over
