"""What a batch has cost so far, and when it is worth a write."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller_passes import workload
from metainf.manifests import InferenceWorkload, parse_workload
from metainf.workload import Budget, BudgetKind
from metainf_operator.accrual import Accrued, accrual_of, accrue, overspent, still_accruing, with_accrued

T0 = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
TWELVE = [Decimal(12)]


def written(amount: str, at: datetime | None) -> dict[str, Any]:
    return dict(Accrued(Decimal(amount), at, True).observed("USD"))


def test_nothing_is_spent_before_the_first_replica_is_ready() -> None:
    assert accrue({}, TWELVE, ready=False, now=T0) is None
    assert accrue({}, [], ready=False, now=T0) is None


def test_counting_begins_at_zero_with_the_first_ready_replica() -> None:
    assert accrue({}, TWELVE, ready=True, now=T0) == Accrued(Decimal(0), T0, True)


@pytest.mark.parametrize(
    ("before", "minutes", "ready", "amount", "due"),
    [
        pytest.param("0.0000", 60, True, "12.0000", True, id="an hour at the hourly price"),
        pytest.param("12.0000", 1, True, "12.2000", False, id="a minute is not worth a write"),
        pytest.param("12.0000", 5, True, "13.0000", True, id="five minutes are"),
        pytest.param("1.0000", 1, True, "1.2000", True, id="nor is a tenth too little"),
        pytest.param("12.0000", 60, False, "24.0000", True, id="what runs costs, ready or not"),
    ],
)
def test_adds_the_time_since_it_was_written(before: str, minutes: int, ready: bool, amount: str, due: bool) -> None:
    found = accrue(written(before, T0), TWELVE, ready=ready, now=T0 + timedelta(minutes=minutes))
    assert found is not None
    assert (found.amount, found.due) == (Decimal(amount), due)


@pytest.mark.parametrize(
    ("sides", "amount"),
    [
        pytest.param([Decimal(12), Decimal(3)], "18.0000", id="both sides of a switch"),
        pytest.param([Decimal(12), None], "15.0000", id="one whose price is not known adds nothing"),
        pytest.param([None], "3.0000", id="nor does the only one"),
    ],
)
def test_all_that_runs_is_counted_as_far_as_it_is_known(sides: list[Decimal | None], amount: str) -> None:
    found = accrue(written("3.0000", T0), sides, ready=True, now=T0 + timedelta(hours=1))
    assert found is not None
    assert found.amount == Decimal(amount)


def test_what_does_not_run_costs_nothing_and_the_clock_stands_until_it_runs_again() -> None:
    later = T0 + timedelta(hours=1)
    stopped = accrue(written("12.0000", T0), [], ready=False, now=later)
    assert stopped == Accrued(Decimal("12.0000"), None, True)
    standing = stopped.observed("USD")
    assert standing == {"accruedCost": "12.0000 USD"}
    assert accrue(standing, [], ready=False, now=later) == Accrued(Decimal("12.0000"), None, False)  # written once
    again = accrue(standing, TWELVE, ready=False, now=later + timedelta(hours=9))
    assert again == Accrued(Decimal("12.0000"), later + timedelta(hours=9), True)


def test_figures_that_are_written_beside_it_do_not_set_its_clock() -> None:
    status = {**written("1.0000", T0), "throughput": "100 tok/s", "time": "2026-01-01T17:00:00Z"}
    found = accrue(status, TWELVE, ready=True, now=T0 + timedelta(hours=6))
    assert found is not None
    assert found.amount == Decimal("73.0000")


def test_when_figures_were_seen_is_no_clock_of_a_sum_that_has_none() -> None:
    standing = {"accruedCost": "1.0000 USD", "time": "2026-01-01T12:00:00Z", "throughput": "100 tok/s"}
    now = T0 + timedelta(hours=1)
    assert accrue(standing, TWELVE, ready=True, now=now) == Accrued(Decimal("1.0000"), now, True)
    assert accrual_of(standing) == {"accruedCost": "1.0000 USD"}


@pytest.mark.parametrize(
    ("observed", "amount"),
    [
        pytest.param({"accruedCost": "much"}, "0", id="no sum"),
        pytest.param({"accruedCost": "NaN USD"}, "0", id="a sum that is no number"),
        pytest.param({"accruedCost": "3 USD", "time": "yesterday"}, "3", id="no clock: what is known stands"),
    ],
)
def test_a_damaged_status_counts_from_now_on(observed: dict[str, Any], amount: str) -> None:
    assert accrue(observed, TWELVE, ready=True, now=T0) == Accrued(Decimal(amount), T0, True)


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 2)), min_size=1, max_size=20))
def test_the_sum_never_falls_and_survives_being_written(steps: list[tuple[int, int]]) -> None:
    now, observed, last = T0, written("0.0000", T0), Decimal(0)
    for seconds, sides in steps:
        now += timedelta(seconds=seconds)
        found = accrue(observed, [Decimal("7.5")] * sides, ready=True, now=now)
        assert found is not None
        assert found.amount >= last
        observed, last = dict(found.observed("USD")), found.amount


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


# in the status


SEEN = {"throughput": "100 tok/s", "time": "2026-01-01T13:00:00Z"}


def manifest(*, batch: bool) -> InferenceWorkload:
    lengths = {"inputTokens": {"mean": 500}, "outputTokens": {"mean": 100}}
    load = {"batch": {"requests": 10, "deadline": "1h"}} if batch else {"requestsPerSecond": "1"}
    return parse_workload(workload(traffic={**lengths, **load}))


def test_it_is_told_apart_from_what_was_seen() -> None:
    both = {**SEEN, **written("3", T0)}
    assert accrual_of(both) == written("3", T0)
    assert accrual_of(SEEN) is None
    assert accrual_of(None) is None


def test_it_ends_with_the_batch_and_only_with_that() -> None:
    both = {**SEEN, **written("3", T0)}
    assert still_accruing(both, manifest(batch=True)) == both
    assert still_accruing(both, manifest(batch=False)) == SEEN
    assert still_accruing(written("3", T0), manifest(batch=False)) is None
    assert still_accruing(both, None) == both  # a spec that cannot be read says nothing
    assert still_accruing(None, manifest(batch=False)) is None


@pytest.mark.parametrize(
    ("accrued", "writes", "after"),
    [
        pytest.param(Accrued(Decimal(4), T0, False), False, {**SEEN, **written("3", T0)}, id="not due"),
        pytest.param(Accrued(Decimal(4), T0, True), False, {**SEEN, **written("4", T0)}, id="due"),
        pytest.param(Accrued(Decimal(4), T0, False), True, {**SEEN, **written("4", T0)}, id="written anyway"),
        pytest.param(Accrued(Decimal(3), None, True), False, {**SEEN, **written("3", None)}, id="the clock stands"),
    ],
)
def test_it_is_written_where_it_is_due_or_the_status_is_written_anyway(
    accrued: Accrued, writes: bool, after: dict[str, Any]
) -> None:
    assert with_accrued({**SEEN, **written("3", T0)}, accrued, "USD", writes=writes) == after
