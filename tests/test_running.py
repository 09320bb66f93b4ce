"""What runs already: which of the rules for those who come move it, and which do not."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choices import GIB, bound, pool, request, workload
from metainf.candidates import CandidateName
from metainf.placement import ReplicaRequest
from metainf.pools import Billing, CapacityType, NodePool, Taint
from metainf.rejections import RejectionReason
from metainf.running import Running
from metainf.selection import NoSelection, Selection, select
from metainf.workload import MethodLimits, PlacementLimits, RateLoad, ReplicaLimits, Toleration, Workload
from stub_predictor import StubPredictor, capacity_by_accelerator

R = RejectionReason
STUB = StubPredictor(capacity_by_accelerator(L4=4.0, H100=40.0))
TWO = CandidateName("l4", "default", "TP1", 2)
RUNS = Running(TWO, ReplicaRequest(1, 6.0, 12 * GIB), placed=True, answers=True)
LACKS_ONE = replace(RUNS, placed=False)
CLOSED = Taint("maintenance")
EVICTS = Taint("maintenance", effect="NoExecute")
LARGE = "meta-llama/Llama-3.1-70B-Instruct"  # 141 GB of weights on 24 GB


def l4(*free: int, **fields: Any) -> NodePool:
    """Nodes of one accelerator each, 1 USD an hour."""
    return pool("l4", "L4-PCIe-24GB", per_node=1, free=free or (1, 1, 1, 1), **{"price": "1", **fields})


def asked(budget: str = "100", **fields: Any) -> Workload:
    return workload(budget, load=RateLoad(2), **fields)


def looked_at(
    where: NodePool, wanted: Workload, running: Running | None = RUNS, **fields: Any
) -> Selection | NoSelection:
    return select(request(wanted, where, current=TWO, running=running, **fields), STUB)


@pytest.mark.parametrize(
    ("where", "wanted", "fields", "against"),
    [
        pytest.param(l4(), asked(), {}, None, id="it could start now"),
        pytest.param(l4(taints=(CLOSED,)), asked(), {}, R.TAINT_NOT_TOLERATED, id="a taint on all nodes"),
        pytest.param(l4(0, 0), asked(), {}, R.NO_CAPACITY, id="no room but its own"),
        pytest.param(l4(1, 0), asked(), {}, R.NO_CAPACITY, id="room for one of two"),
        pytest.param(l4(), asked(), {"model": LARGE}, R.MEMORY_TOO_SMALL, id="memory by today's estimate"),
    ],
)
def test_what_serves_is_not_moved_by_the_rules_for_those_who_come(
    where: NodePool, wanted: Workload, fields: dict[str, Any], against: RejectionReason | None
) -> None:
    current = looked_at(where, wanted, **fields).current
    assert current is not None
    assert current.candidate.name == TWO
    assert (None if current.barred is None else current.barred.reason) is against
    without = looked_at(where, wanted, None, **fields).current
    assert (without is None) is (against is not None)


@pytest.mark.parametrize(
    ("where", "wanted", "running", "fields"),
    [
        pytest.param(replace(l4(), name="another"), asked(), RUNS, {}, id="its pool is gone"),
        pytest.param(l4(taints=(EVICTS,)), asked(), RUNS, {}, id="a taint that evicts"),
        pytest.param(
            l4(taints=(CLOSED,)),
            asked(),
            replace(RUNS, tolerations=(Toleration("maintenance", "Exists"),)),
            {},
            id="its toleration was taken back",
        ),
        pytest.param(
            l4(), asked(placement=PlacementLimits(pools=frozenset({"h100"}))), RUNS, {}, id="placed elsewhere"
        ),
        pytest.param(l4(capacity_type=CapacityType.SPOT), asked(), RUNS, {}, id="spot is not allowed"),
        pytest.param(
            l4(), asked(placement=PlacementLimits(node_selector=(("zone", "a"),))), RUNS, {}, id="nodes of a label"
        ),
        pytest.param(l4(price=None), asked(), RUNS, {}, id="its price is not known: no budget can be kept"),
        pytest.param(l4(currency="EUR"), asked(), RUNS, {}, id="it is priced in another currency"),
        pytest.param(l4(0, 0), asked(replicas=ReplicaLimits(minimum=3)), RUNS, {}, id="fewer than the least"),
        pytest.param(
            l4(taints=(CLOSED,), price=None), asked(), RUNS, {}, id="a taint, and its price is not known either"
        ),
        pytest.param(
            l4(),
            asked(methods=MethodLimits(allow=frozenset({"no-prefix-caching"}))),
            RUNS,
            {},
            id="its method is not allowed",
        ),
        pytest.param(
            l4(), asked(), replace(RUNS, answers=False), {"model": LARGE}, id="nothing shows that its memory is enough"
        ),
        pytest.param(l4(taints=(CLOSED,)), asked(), LACKS_ONE, {}, id="a taint, and one has to find a node"),
        pytest.param(l4(1, 0), asked(), LACKS_ONE, {}, id="no room for one that has to find a node"),
        pytest.param(l4(1, 0), asked(), LACKS_ONE, {"model": LARGE}, id="neither room nor memory for it"),
        pytest.param(
            l4(taints=(CLOSED,)),
            asked(),
            RUNS,
            {"only": replace(TWO, pool="h100")},
            id="a pin to another: that one alone is asked about",
        ),
    ],
)
def test_what_is_really_gone_or_not_allowed_is_not_kept(
    where: NodePool, wanted: Workload, running: Running, fields: dict[str, Any]
) -> None:
    assert looked_at(where, wanted, running, **fields).current is None


def test_what_one_that_answers_shows_of_memory_holds_for_one_that_has_to_find_a_node() -> None:
    current = looked_at(l4(), asked(), LACKS_ONE, model=LARGE).current
    assert current is not None
    assert current.barred is not None
    assert current.barred.reason is R.MEMORY_TOO_SMALL
    assert current.candidate.cost_per_hour == 2


@pytest.mark.parametrize(
    ("where", "wanted", "broken"),
    [
        pytest.param(l4(taints=(CLOSED,)), asked("2"), None, id="within the budget"),
        pytest.param(l4(taints=(CLOSED,)), asked("1.99"), R.OVER_BUDGET, id="over the budget"),
        pytest.param(l4(0, 0), asked("1.99"), R.OVER_BUDGET, id="over the budget on a full pool"),
        pytest.param(l4(taints=(CLOSED,)), asked(slo=(bound(0.1),)), R.SLO_MISSED, id="too slow"),
        pytest.param(l4(taints=(CLOSED,)), workload(load=RateLoad(9)), R.OVERLOADED, id="it does not carry the load"),
    ],
)
def test_the_limits_hold_for_what_runs_as_for_any_other(
    where: NodePool, wanted: Workload, broken: RejectionReason | None
) -> None:
    outcome = looked_at(where, wanted)
    assert isinstance(outcome, NoSelection)
    assert outcome.current is not None
    found = outcome.current.broken
    assert (None if found is None else found.reason) is broken


@pytest.mark.parametrize(
    ("where", "cost"),
    [
        pytest.param(pool("l4", free=(8,), price="80"), "20", id="the share that it takes of a node"),
        pytest.param(pool("l4", free=(1, 1), price="80"), "20", id="shares of two"),
        pytest.param(pool("l4", free=(1, 0), price="80"), "20", id="one that is not seen to fit has its share as well"),
        pytest.param(pool("l4", free=(0,), price="80", addable=1), "20", id="nor does it need a node to be added"),
        pytest.param(pool("l4", free=(1, 0), price="80", billing=Billing.NODE), "160", id="billed whole, on its own"),
        pytest.param(pool("l4", free=(1, 1), price="80", billing=Billing.NODE), "160", id="nodes billed whole"),
    ],
)
def test_what_runs_costs_what_it_takes(where: NodePool, cost: str) -> None:
    current = looked_at(replace(where, taints=(CLOSED,)), asked("1000")).current
    assert current is not None
    assert current.candidate.cost_per_hour == Decimal(cost)


def test_what_runs_where_it_could_not_start_is_neither_chosen_nor_a_runner_up() -> None:
    closed, open_ = l4(taints=(CLOSED,)), pool("h100", per_node=1, nodes=2, price="10")
    outcome = select(request(asked(), closed, open_, current=TWO, running=RUNS), STUB)
    assert isinstance(outcome, Selection)
    assert outcome.current is not None
    assert outcome.current.objective_value == 2
    assert outcome.chosen.candidate.name.pool == "h100"
    assert {scored.candidate.name.pool for scored in outcome.alternatives} <= {"h100"}
    assert outcome.resized is None


@settings(max_examples=40, deadline=None)
@given(
    free=st.lists(st.integers(0, 1), min_size=1, max_size=5),
    budget=st.sampled_from(["0.5", "1", "2", "3"]),
    rps=st.sampled_from([1.0, 3.0, 7.0]),
    closed=st.booleans(),
)
def test_seeing_it_run_changes_nothing_of_what_is_chosen(
    free: list[int], budget: str, rps: float, closed: bool
) -> None:
    where = l4(*free, taints=(CLOSED,) if closed else ())
    wanted = workload(budget, load=RateLoad(rps))
    seen, unseen = looked_at(where, wanted), looked_at(where, wanted, None)
    assert type(seen) is type(unseen)
    if isinstance(seen, Selection) and isinstance(unseen, Selection):
        assert seen.chosen.candidate.name == unseen.chosen.candidate.name
    if isinstance(seen, NoSelection) and isinstance(unseen, NoSelection):
        assert (seen.limit, seen.message) == (unseen.limit, unseen.message)
    assert seen.current is not None
    if unseen.current is not None:
        assert seen.current.barred is None
