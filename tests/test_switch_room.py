"""What a new side finds beside what runs: room, and money for both in every kind of budget."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choices import GIB, pool
from metainf.placement import ReplicaRequest
from metainf.pools import Billing, NodePool
from metainf.workload import Budget, BudgetKind
from metainf_operator.switch_room import SwitchRoom

HALF = ReplicaRequest(4, 1.0, GIB)
"""Half of a node of eight: 16 an hour where a node costs 32, and 32 where a node has to be added."""


def node_pool(*free: int, **fields: Any) -> NodePool:
    return pool("p", price=fields.pop("price", "32"), free=free, **fields)


def money(kind: BudgetKind, amount: str) -> Budget:
    return Budget(kind, Decimal(amount))


HOURLY = money(BudgetKind.PER_HOUR, "40")


def beside(where: NodePool, old: str | None = "20", **facts: Any) -> SwitchRoom:
    cost = None if old is None else Decimal(old)
    found = SwitchRoom((where,), HOURLY, timedelta(minutes=30), cost, cost)
    return replace(found, **facts)


@pytest.mark.parametrize(
    ("found", "replicas", "lacks"),
    [
        pytest.param(beside(node_pool(4)), 1, "", id="both fit the node and the budget"),
        pytest.param(
            beside(node_pool(3, addable=1)),
            1,
            "both sides would cost 52.00 USD/h while it starts, the budget is 40 USD/h",
            id="three are free: a whole node is bought",
        ),
        pytest.param(beside(node_pool(3)), 1, "p has room for 0 of its 1 replica beside what runs", id="no room"),
        pytest.param(beside(node_pool(8)), 3, "p has room for 2 of its 3 replicas beside what runs", id="not for all"),
        pytest.param(beside(pool("q")), 1, "the pool p is there no more", id="no pool"),
        pytest.param(beside(node_pool(4), None), 1, "it is not known what both sides cost", id="the old side's price"),
        pytest.param(
            beside(node_pool(4, price=None)), 1, "it is not known what both sides cost", id="the new side's price"
        ),
    ],
)
def test_room_and_money_for_both_sides(found: SwitchRoom, replicas: int, lacks: str) -> None:
    assert found.lacks("p", HALF, replicas) == lacks
    assert found.has_place("p", HALF, replicas) is ("room for" not in lacks and "no more" not in lacks)


def test_a_price_that_is_not_known_any_more_is_the_one_that_was_recorded() -> None:
    found = beside(node_pool(4, price=None))
    assert found.lacks("p", HALF, 1, decided=Decimal(20)) == ""
    assert "40.01 USD/h" in found.lacks("p", HALF, 1, decided=Decimal("20.01"))


@pytest.mark.parametrize(
    ("free", "own", "cost"),
    [
        pytest.param((4,), {"p-0"}, "32.00", id="the old side pays for the node already"),
        pytest.param((4,), set(), "64.00", id="others do"),
        pytest.param((0, 8), {"p-0"}, "64.00", id="another node is needed"),
    ],
)
def test_a_node_that_is_billed_whole_is_paid_once(free: tuple[int, ...], own: set[str], cost: str) -> None:
    where = node_pool(*free, billing=Billing.NODE)
    found = beside(where, "32", budget=money(BudgetKind.PER_HOUR, "31"), own_nodes=frozenset(own))
    assert f"would cost {cost} USD/h" in found.lacks("p", HALF, 1)


@pytest.mark.parametrize(
    ("budget", "facts", "lacks"),
    [
        pytest.param(
            money(BudgetKind.PER_MILLION_TOKENS, "2"),
            {"tokens_per_hour": Decimal(10_000_000)},
            "both sides would cost 2.40 USD per million output tokens while it starts, "
            "the budget is 2 USD per million output tokens",
            id="24 an hour for ten million tokens",
        ),
        pytest.param(
            money(BudgetKind.PER_MILLION_TOKENS, "2.4"), {"tokens_per_hour": Decimal(10_000_000)}, "", id="just enough"
        ),
        pytest.param(money(BudgetKind.PER_MILLION_TOKENS, "2"), {}, "", id="nobody knows how many tokens"),
        pytest.param(
            money(BudgetKind.TOTAL, "100"),
            {"spent": Decimal(90)},
            "both sides would cost 102.00 USD in total while it starts, the budget is 100 USD in total",
            id="90 so far, and half an hour at 24",
        ),
        pytest.param(money(BudgetKind.TOTAL, "100"), {"spent": Decimal(88)}, "", id="88 so far"),
    ],
)
def test_every_kind_of_budget_is_held_against_both_sides(budget: Budget, facts: dict[str, Any], lacks: str) -> None:
    assert beside(node_pool(4), "8", budget=budget, **facts).lacks("p", HALF, 1) == lacks


def test_a_price_that_rose_past_the_budget_takes_no_service_down() -> None:
    found = beside(node_pool(4), "80", decided_per_hour=Decimal(10))
    assert found.lacks("p", HALF, 1) == ""
    within = replace(found, per_hour=Decimal(39))
    assert "both sides would cost 55.00 USD/h" in within.lacks("p", HALF, 1)


@given(st.integers(0, 8), st.integers(1, 3), st.integers(0, 2), st.integers(0, 60))
def test_a_dearer_old_side_within_the_budget_never_helps(free: int, replicas: int, addable: int, old: int) -> None:
    where = node_pool(free, addable=addable)
    budget = money(BudgetKind.PER_HOUR, "60")
    if not beside(where, str(old), budget=budget).lacks("p", HALF, replicas):
        assert not beside(where, str(old // 2), budget=budget).lacks("p", HALF, replicas)
