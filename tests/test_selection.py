"""Which candidate is chosen, and what is said where none is: decision tables, and laws that hold for any predictor."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from choices import bound, pool, request, workload
from metainf.binding_limits import BindingLimit
from metainf.candidates import CandidateName
from metainf.planning import confidence_kept
from metainf.pools import NodePool, Taint
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Predictor, Question
from metainf.rejections import RejectionReason
from metainf.selection import TIE_RATIO, NoSelection, Request, Selection, select
from metainf.workload import (
    BatchLoad,
    Budget,
    BudgetKind,
    ConcurrencyLoad,
    LatencyMetric,
    MethodLimits,
    Objective,
    PlacementLimits,
    RateLoad,
    ReplicaLimits,
    Workload,
)
from stub_predictor import StubPredictor, capacity_by_accelerator

L = BindingLimit
ALL_METHODS = MethodLimits()
# An L4 carries 4 requests/s for 1 USD/h, an H100 40 for 10: the same for the money.
SPEEDS = capacity_by_accelerator(L4=4.0, H100=40.0)
STUB = StubPredictor(SPEEDS)
L4 = pool("l4", "L4-PCIe-24GB", per_node=1, nodes=8, price="1")
H100 = pool("h100", per_node=1, nodes=8, price="10")


def chosen(asked: Request, predictor: Predictor = STUB) -> CandidateName:
    outcome = select(asked, predictor)
    assert isinstance(outcome, Selection), outcome
    return outcome.chosen.candidate.name


def refused(asked: Request, predictor: Predictor = STUB) -> NoSelection:
    outcome = select(asked, predictor)
    assert isinstance(outcome, NoSelection), outcome
    return outcome


def per_hour(amount: str) -> Budget:
    return Budget(BudgetKind.PER_HOUR, Decimal(amount))


@pytest.mark.parametrize(
    ("asked", "pools", "name"),
    [
        pytest.param(workload(load=RateLoad(2)), (L4, H100), "1 x default TP1 on l4", id="two feasible -> the cheaper"),
        pytest.param(
            workload(load=RateLoad(2), slo=(bound(0.3),)),
            (L4, H100),
            "3 x default TP1 on l4",
            id="an SLO asks for more replicas of the cheap one",
        ),
        pytest.param(
            workload(load=RateLoad(2), slo=(bound(0.04),)),
            (L4, H100),
            "1 x default TP1 on h100",
            id="an SLO that the cheap one never keeps forces the dear one",
        ),
        pytest.param(
            workload(load=RateLoad(6)), (L4, H100), "2 x default TP1 on l4", id="two replicas where one is too few"
        ),
        pytest.param(
            workload("30", load=RateLoad(2), objective=Objective.MAXIMIZE_THROUGHPUT),
            (L4, H100),
            "3 x default TP1 on h100",
            id="throughput: all that the budget buys",
        ),
        pytest.param(
            workload("9", load=RateLoad(2), objective=Objective.MAXIMIZE_THROUGHPUT),
            (L4, H100),
            "8 x default TP1 on l4",
            id="throughput within a small budget",
        ),
        pytest.param(
            workload("15", load=RateLoad(2), objective=Objective.MINIMIZE_LATENCY),
            (L4, H100),
            "1 x default TP1 on h100",
            id="latency: the fastest that the budget buys",
        ),
        pytest.param(
            workload("15", load=RateLoad(2), objective=Objective.MINIMIZE_LATENCY, slo=(bound(1, LatencyMetric.TPOT),)),
            (L4, H100),
            "1 x default TP1 on h100",
            id="latency as a share of the SLOs",
        ),
        pytest.param(
            workload(replicas=ReplicaLimits(minimum=3)), (L4,), "3 x default TP1 on l4", id="at least three replicas"
        ),
        pytest.param(
            workload(replicas=ReplicaLimits(fixed=5)), (L4,), "5 x default TP1 on l4", id="a person's five are obeyed"
        ),
        pytest.param(
            workload("3.5", load=RateLoad(2), replicas=ReplicaLimits(fixed=5)),
            (L4,),
            "3 x default TP1 on l4",
            id="a person's five, capped by the budget",
        ),
        pytest.param(
            workload(load=RateLoad(2), replicas=ReplicaLimits(fixed=5)),
            (pool("l4", "L4-PCIe-24GB", per_node=1, nodes=2, price="1"),),
            "2 x default TP1 on l4",
            id="a person's five, capped by the capacity",
        ),
        pytest.param(
            workload(Budget(BudgetKind.TOTAL, Decimal(100)), load=BatchLoad(3600 * 40, 3600.0)),
            (L4, H100),
            "1 x default TP1 on h100",
            id="a batch within its deadline, ties to the cheaper and then the name",
        ),
        pytest.param(
            workload(Budget(BudgetKind.PER_MILLION_TOKENS, Decimal(2)), load=RateLoad(2)),
            (L4, H100),
            "1 x default TP1 on l4",
            id="a budget per million tokens of what is offered",
        ),
        pytest.param(
            workload("2", load=ConcurrencyLoad(8), objective=Objective.MAXIMIZE_THROUGHPUT),
            (L4, H100),
            "2 x default TP1 on l4",
            id="throughput of a closed loop",
        ),
    ],
)
def test_chooses(asked: Workload, pools: tuple[NodePool, ...], name: str) -> None:
    assert str(chosen(request(asked, *pools))) == name
    assert str(chosen(request(asked, *reversed(pools)))) == name


@pytest.mark.parametrize(
    ("prices", "methods", "name"),
    [
        pytest.param(("8", "8.16"), ALL_METHODS, "a", id="within 2 % of cost -> the cheaper"),
        pytest.param(("8.16", "8"), ALL_METHODS, "b", id="the cheaper, whatever its name"),
        pytest.param(("8", "8"), ALL_METHODS, "a", id="equal -> the name"),
    ],
)
def test_ties_go_to_the_cheaper_then_the_simpler_then_the_name(
    prices: tuple[str, str], methods: MethodLimits, name: str
) -> None:
    pools = tuple(pool(n, "L4-PCIe-24GB", price=p) for n, p in zip("ab", prices, strict=True))
    found = chosen(request(workload(load=RateLoad(2), methods=methods), *pools))
    assert (found.pool, found.method) == (name, "default")  # many methods do as well; the default is the simplest


@pytest.mark.parametrize(
    ("gain", "pool_name"),
    [pytest.param(1.015, "l4", id="1.5 % faster is a tie"), pytest.param(1.04, "h100", id="4 % faster is not")],
)
def test_a_tie_in_the_objective_goes_to_the_cheaper(gain: float, pool_name: str) -> None:
    even = StubPredictor(capacity_by_accelerator(L4=40.0, H100=40.0 * gain))
    asked = workload(load=RateLoad(2), objective=Objective.MAXIMIZE_THROUGHPUT, replicas=ReplicaLimits(maximum=1))
    pools = (pool("l4", "L4-PCIe-24GB", per_node=1, price="1"), pool("h100", per_node=1, price="10"))
    assert chosen(request(asked, *pools), even).pool == pool_name
    assert TIE_RATIO == 0.02


def test_what_only_costs_too_much_is_nearest_however_small_the_budget() -> None:
    """Under a budget of cents the cheaper device, which breaks the SLO as well, is fewer times over the budget."""
    outcome = refused(request(workload("0.01", load=RateLoad(2), slo=(bound(0.04),)), L4, H100))
    assert outcome.limit is L.BUDGET_TOO_LOW
    assert str(outcome.nearest[0].candidate.name) in outcome.message
    assert outcome.nearest[0].candidate.option.pool.name == "h100"
    assert "l4" in {scored.candidate.option.pool.name for scored in outcome.nearest}


@pytest.mark.parametrize(
    ("asked", "pools", "limit", "says"),
    [
        pytest.param(workload(), (), L.NO_MATCHING_POOL, "no node pool", id="no pool at all"),
        pytest.param(
            workload(placement=PlacementLimits(pools=frozenset({"b200"}))),
            (L4, H100),
            L.NO_MATCHING_POOL,
            "placement.pools does not name h100 but b200",
            id="no pool by that name",
        ),
        pytest.param(
            workload(),
            (pool("l4", "L4-PCIe-24GB", taints=(Taint("a"),)),),
            L.NO_MATCHING_POOL,
            "has the taint a",
            id="tainted",
        ),
        pytest.param(workload(), (pool(price=None),), L.PRICE_UNKNOWN, "price of h100 is not known", id="no price"),
        pytest.param(workload(), (pool(currency="EUR"),), L.PRICE_UNKNOWN, "in EUR", id="another currency"),
        pytest.param(
            workload(methods=MethodLimits(deny=frozenset({"default", "no-prefix-caching"}), allow=frozenset({"x"}))),
            (L4,),
            L.NO_METHOD_ALLOWED,
            "methods.",
            id="no method left",
        ),
        pytest.param(
            workload(lengths=(40000, 10)), (L4,), L.MODEL_DOES_NOT_FIT, "context is 32768", id="context too short"
        ),
        pytest.param(
            workload(load=RateLoad(1000)), (L4,), L.LOAD_TOO_HIGH, "carries 32 requests/s", id="more than all carry"
        ),
        pytest.param(
            workload(load=RateLoad(1000), slo=(bound(1),)),
            (L4, H100),
            L.LOAD_TOO_HIGH,
            "8 x default TP1 on h100 carries 320 requests/s",
            id="more than all carry, and so no latency has a bound: what carries most is nearest",
        ),
        pytest.param(
            workload(load=RateLoad(2), slo=(bound(0.025156),)),
            (H100,),
            L.SLO_UNREACHABLE,
            "is 25.157ms, the limit is 25.156ms",
            id="a limit that reads like what breaks it gets more digits",
        ),
        pytest.param(
            workload(load=RateLoad(2), slo=(bound(0.001),)),
            (L4, H100),
            L.SLO_UNREACHABLE,
            "the limit is 1ms",
            id="faster than anything",
        ),
        pytest.param(
            workload(Budget(BudgetKind.TOTAL, Decimal(9)), load=BatchLoad(10**6, 60.0)),
            (L4, H100),
            L.DEADLINE_UNREACHABLE,
            "the limit is 60s",
            id="a deadline that none keeps",
        ),
        pytest.param(
            workload("0.50", load=RateLoad(2)),
            (L4, H100),
            L.BUDGET_TOO_LOW,
            "costs 1.00 USD/h; the budget is 0.50 USD/h",
            id="a budget too low",
        ),
        pytest.param(
            workload(load=RateLoad(2)),
            (pool("l4", "L4-PCIe-24GB", free=(0,)),),
            L.NO_CAPACITY,
            "room for 0 of its 1 replica now",
            id="all taken",
        ),
    ],
)
def test_refuses_and_names_the_limit_that_binds(
    asked: Workload, pools: tuple[NodePool, ...], limit: BindingLimit, says: str
) -> None:
    outcome = refused(request(asked, *pools))
    assert outcome.limit is limit
    assert says in outcome.message
    assert (outcome.cheapest_budget is not None) is (limit is L.BUDGET_TOO_LOW)


def test_the_refusal_names_slo_cost_and_budget_and_the_budget_that_would_work() -> None:
    outcome = refused(request(workload("6.00", load=RateLoad(2), slo=(bound(0.04),)), L4, H100))
    assert outcome.message == (
        "cheapest candidate that meets ttft p95 40ms costs 10.00 USD/h; the budget is 6.00 USD/h "
        "(1 x default TP1 on h100)"
    )
    assert outcome.cheapest_budget == per_hour("10.00")


def test_the_budget_that_a_refusal_names_works_with_what_is_free_now() -> None:
    # Two L4 would do for 2 USD/h, but one is free.
    taken = pool("l4", "L4-PCIe-24GB", per_node=1, free=(1, 0), price="1")
    asked = workload("0.50", load=RateLoad(6))
    outcome = refused(request(asked, taken, H100))
    assert outcome.message.endswith("; with all nodes free 2.00 USD/h would do")
    assert outcome.limit is L.BUDGET_TOO_LOW
    assert outcome.cheapest_budget == per_hour("10.00")
    assert chosen(request(with_budget(asked, Decimal("10.00")), taken, H100)).pool == "h100"
    waits = refused(request(with_budget(asked, Decimal("2.00")), taken, H100))
    assert (waits.limit, waits.cheapest_budget) == (L.NO_CAPACITY, per_hour("10.00"))
    # Where nothing that is free now would do for any money, it is what all nodes would do for.
    alone = refused(request(asked, taken))
    assert (alone.limit, alone.cheapest_budget) == (L.BUDGET_TOO_LOW, per_hour("2.00"))
    assert "with all nodes free" not in alone.message


def test_a_workload_that_waits_says_what_for() -> None:
    taken = pool("l4", "L4-PCIe-24GB", per_node=1, free=(1, 0), price="1")
    outcome = refused(request(workload(load=RateLoad(6)), taken))
    assert outcome.waiting_for is not None
    assert str(outcome.waiting_for.candidate.name) == "2 x default TP1 on l4"
    assert "room for 1 of its 2 replicas now" in outcome.message
    assert outcome.limit is L.NO_CAPACITY


def test_eight_nodes_with_one_free_each_are_no_room_for_a_replica_of_eight() -> None:
    asked = workload("1000", load=RateLoad(1))
    scattered = pool("l4", "L4-PCIe-24GB", free=(1,) * 8)
    outcome = refused(request(asked, scattered, model="meta-llama/Llama-3.1-70B-Instruct"))
    assert outcome.limit is L.NO_CAPACITY
    assert outcome.waiting_for is not None
    assert outcome.waiting_for.candidate.option.request.accelerators == 8


def test_what_runs_is_assessed_beside_the_others_and_never_preferred() -> None:
    asked = workload(load=RateLoad(2))
    current = CandidateName("h100", "default", "TP1", 2)
    outcome = select(request(asked, L4, H100, current=current), STUB)
    assert isinstance(outcome, Selection)
    assert outcome.chosen.candidate.name.pool == "l4"
    assert outcome.current is not None
    assert outcome.current.candidate.name == current
    assert outcome.resized is not None
    assert str(outcome.resized.candidate.name) == "1 x default TP1 on h100"


@pytest.mark.parametrize(
    "current",
    [
        pytest.param(CandidateName("gone", "default", "TP1", 1), id="its pool"),
        pytest.param(CandidateName("l4", "ngram", "TP1", 1), id="its method"),
        pytest.param(CandidateName("l4", "default", "TP1", 9), id="its room"),
    ],
)
def test_what_is_possible_no_more_is_not_assessed(current: CandidateName) -> None:
    outcome = select(request(workload(load=RateLoad(2)), L4, current=current), STUB)
    assert outcome.current is None


@pytest.mark.parametrize(
    ("limits", "runs", "replicas"),
    [
        pytest.param(ReplicaLimits(minimum=3), 1, 3, id="fewer than the least"),
        pytest.param(ReplicaLimits(maximum=2), 4, 2, id="more than the most"),
        pytest.param(ReplicaLimits(fixed=2), 4, 2, id="more than a person asks for"),
    ],
)
def test_what_runs_with_replicas_that_nobody_asks_for_is_assessed_and_not_chosen(
    limits: ReplicaLimits, runs: int, replicas: int
) -> None:
    asked = workload(load=RateLoad(2), replicas=limits, objective=Objective.MAXIMIZE_THROUGHPUT)
    current = CandidateName("l4", "default", "TP1", runs)
    outcome = select(request(replace(asked, replicas=limits), L4, current=current), STUB)
    assert isinstance(outcome, Selection)
    assert outcome.current is not None
    assert outcome.current.candidate.name == current
    assert outcome.current.broken is None
    chosen_replicas = outcome.chosen.candidate.replicas
    assert chosen_replicas == (8 if limits.minimum == 3 else replicas)


def test_what_runs_between_two_points_of_the_grid_is_assessed_too() -> None:
    many = pool("l4", "L4-PCIe-24GB", per_node=1, nodes=64, price="1")
    current = CandidateName("l4", "default", "TP1", 23)  # the grid has 20 and 25
    outcome = select(request(workload(load=RateLoad(2)), many, current=current), STUB)
    assert outcome.current is not None
    assert outcome.current.candidate.replicas == 23


@pytest.mark.parametrize("replicas", [11, 23, 37])
def test_the_least_number_of_replicas_is_found_between_the_points_of_the_grid(replicas: int) -> None:
    many = pool("l4", "L4-PCIe-24GB", per_node=1, nodes=64, price="1")
    load = RateLoad(4.0 * replicas - 1)
    assert chosen(request(workload(load=load), many)).replicas == replicas
    outcome = refused(request(workload("0.5", load=load), many))
    assert outcome.cheapest_budget == per_hour(f"{replicas}.00")


@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize("replicas", [23, 37])
def test_the_budget_that_a_refusal_names_is_exact_whatever_the_objective(objective: Objective, replicas: int) -> None:
    many = pool("l4", "L4-PCIe-24GB", per_node=1, nodes=64, price="1")
    asked = workload("0.5", load=RateLoad(4.0 * replicas - 1), objective=objective)
    assert refused(request(asked, many)).cheapest_budget == per_hour(f"{replicas}.00")
    enough = request(with_budget(asked, Decimal(replicas)), many)
    assert chosen(enough).replicas == replicas


@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize(
    ("budget", "replicas"),
    [
        pytest.param("17", 17, id="between two points of the grid"),
        pytest.param("15", 15, id="a point of the grid"),
        pytest.param("19.99", 19, id="one less than asked for"),
        pytest.param("20", 20, id="all that is asked for"),
        pytest.param("3.5", 3, id="few"),
    ],
)
def test_of_a_persons_replicas_there_are_as_many_as_the_budget_buys(
    budget: str, replicas: int, objective: Objective
) -> None:
    many = pool("l4", "L4-PCIe-24GB", per_node=1, nodes=64, price="1")
    asked = workload(budget, load=RateLoad(2), replicas=ReplicaLimits(fixed=20), objective=objective)
    assert chosen(request(asked, many)).replicas == replicas


def test_of_a_persons_replicas_the_most_are_found_among_many_options() -> None:
    # The budget buys 16 of eleven pools, more than the search refines around, and 17 of the one after them.
    dear = tuple(pool(f"a{i:02}", "L4-PCIe-24GB", per_node=1, nodes=64, price="1.05") for i in range(11))
    cheap = pool("z", "L4-PCIe-24GB", per_node=1, nodes=64, price="1")
    asked = workload("17", load=RateLoad(2), replicas=ReplicaLimits(fixed=20))
    found = chosen(request(asked, *dear, cheap))
    assert (found.pool, found.replicas) == ("z", 17)


def test_of_a_persons_replicas_the_cheapest_option_with_the_most_is_taken() -> None:
    dear, cheap = (pool(n, "L4-PCIe-24GB", per_node=1, nodes=17, price=p) for n, p in (("a", "1"), ("b", "0.5")))
    asked = workload("17", load=RateLoad(2), replicas=ReplicaLimits(fixed=20))
    found = chosen(request(asked, dear, cheap))
    assert (found.pool, found.replicas) == ("b", 17)


def test_a_pin_is_taken_or_refused_and_nothing_else_is_looked_at() -> None:
    pin = CandidateName("h100", "default", "TP1", 2)
    assert chosen(request(workload(), L4, H100, only=pin)) == pin
    outcome = refused(request(workload("1"), L4, H100, only=pin))
    assert outcome.cheapest_budget == per_hour("20.00")
    gone = refused(request(workload(), L4, H100, only=replace(pin, pool="b200")))
    assert (gone.limit, "b200" in gone.message) == (L.NO_MATCHING_POOL, True)
    unknown = refused(request(workload(), H100, only=replace(pin, layout="TP3")))
    assert unknown.limit is L.NO_MATCHING_POOL


def test_alternatives_are_other_options_best_first_and_at_most_ten() -> None:
    outcome = select(request(workload(load=RateLoad(2), methods=ALL_METHODS), L4, H100), STUB)
    assert isinstance(outcome, Selection)
    options = [s.candidate.option for s in (outcome.chosen, *outcome.alternatives)]
    assert len(options) == len(set(map(id, options))) == 11
    assert outcome.alternatives[0].objective_value <= outcome.alternatives[-1].objective_value


# Laws


budgets = st.integers(1, 12000).map(lambda cents: Decimal(cents) / 100)
small_pools = st.lists(
    st.builds(
        pool,
        st.just("x"),
        st.sampled_from(["L4-PCIe-24GB", "H100-SXM-80GB", "A100-SXM-80GB"]),
        per_node=st.sampled_from([1, 2, 4]),
        free=st.lists(st.integers(0, 4), max_size=2).map(tuple),
        addable=st.integers(0, 1),
        price=st.one_of(st.none(), st.integers(1, 9000).map(lambda cents: f"{cents / 100}")),
    ),
    min_size=1,
    max_size=3,
).map(
    lambda found: tuple(
        replace(
            p,
            name=f"p{i}",
            nodes=tuple(
                replace(n, name=f"p{i}-{j}", accelerators_free=min(n.accelerators_free, p.shape.accelerators))
                for j, n in enumerate(p.nodes)
            ),
        )
        for i, p in enumerate(found)
    )
)
speeds = st.builds(
    lambda l4, a100, h100: capacity_by_accelerator(L4=l4, A100=a100, H100=h100),
    st.floats(0.5, 8),
    st.floats(1, 20),
    st.floats(1, 60),
)
predictors = st.builds(lambda c, sd: StubPredictor(c, log_sd=sd), speeds, st.sampled_from([0.0, 0.1, 0.4]))
workloads = st.builds(
    lambda amount, rps, slo, objective, limits, confidence: workload(
        per_hour(str(amount)),
        load=RateLoad(rps),
        slo=tuple(bound(s) for s in slo),
        objective=objective,
        replicas=limits,
        confidence=confidence,
    ),
    budgets,
    st.floats(0.1, 60),
    st.lists(st.floats(0.02, 2), max_size=1),
    st.sampled_from(list(Objective)),
    st.builds(ReplicaLimits, minimum=st.integers(1, 3), fixed=st.one_of(st.none(), st.none(), st.integers(1, 6))),
    st.sampled_from([0.6, 0.9, 0.99]),
)
law = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def with_budget(asked: Workload, amount: Decimal) -> Workload:
    return replace(asked, budget=replace(asked.budget, amount=amount))


@law
@given(workloads, small_pools, predictors, budgets)
def test_raising_the_budget_never_makes_the_selection_worse(
    asked: Workload, pools: tuple[NodePool, ...], predictor: StubPredictor, more: Decimal
) -> None:
    asked = with_budget(asked, asked.budget.amount + 30)
    poor = select(request(asked, *pools), predictor)
    assume(isinstance(poor, Selection))
    rich = select(request(with_budget(asked, asked.budget.amount + more), *pools), predictor)
    assert isinstance(poor, Selection)
    assert isinstance(rich, Selection)
    if asked.replicas.fixed is not None:
        assert rich.chosen.candidate.replicas >= poor.chosen.candidate.replicas
        assume(rich.chosen.candidate.replicas == poor.chosen.candidate.replicas)
    assert rich.chosen.objective_value <= poor.chosen.objective_value * (1 + 1e-9) + 1e-12 or (
        poor.chosen.objective_value < 0 and rich.chosen.objective_value <= poor.chosen.objective_value * (1 - 1e-9)
    )


@law
@given(
    fixed=st.integers(1, 120),
    budget=st.integers(1, 150),
    prices=st.lists(st.sampled_from(["1", "0.7", "1.3"]), min_size=1, max_size=3),
    rps=st.floats(1, 200),
)
def test_no_greater_number_of_a_persons_replicas_keeps_every_limit(
    fixed: int, budget: int, prices: list[str], rps: float
) -> None:
    pools = [pool(f"p{i}", "L4-PCIe-24GB", per_node=1, nodes=100, price=price) for i, price in enumerate(prices)]
    asked = workload(str(budget), load=RateLoad(rps), replicas=ReplicaLimits(fixed=fixed))
    outcome = select(request(asked, *pools), STUB)
    affordable = max(min(fixed, 100, int(Decimal(budget) / Decimal(price))) for price in prices)
    if affordable * 4.0 > rps:
        assert isinstance(outcome, Selection)
        assert outcome.chosen.candidate.replicas == affordable
    else:
        assert isinstance(outcome, NoSelection) or outcome.chosen.candidate.replicas == affordable


@law
@given(workloads, small_pools, predictors, st.randoms(use_true_random=False))
def test_the_order_of_pools_does_not_matter_and_the_same_inputs_give_the_same_answer(
    asked: Workload, pools: tuple[NodePool, ...], predictor: StubPredictor, random: Any
) -> None:
    shuffled = list(pools)
    random.shuffle(shuffled)
    one, other = select(request(asked, *pools), predictor), select(request(asked, *shuffled), predictor)
    assert type(one) is type(other)
    assert one.rejections == other.rejections
    if isinstance(one, Selection) and isinstance(other, Selection):
        assert one.chosen.candidate.name == other.chosen.candidate.name
        names = [s.candidate.name for s in one.alternatives]
        assert names == [s.candidate.name for s in other.alternatives]
    if isinstance(one, NoSelection) and isinstance(other, NoSelection):
        assert (one.limit, one.message, one.cheapest_budget) == (other.limit, other.message, other.cheapest_budget)


@law
@given(workloads, small_pools, predictors)
def test_what_is_chosen_breaks_no_limit(asked: Workload, pools: tuple[NodePool, ...], predictor: StubPredictor) -> None:
    outcome = select(request(asked, *pools), predictor)
    assume(isinstance(outcome, Selection))
    assert isinstance(outcome, Selection)
    candidate = outcome.chosen.candidate
    assert outcome.chosen.broken is None
    assert candidate.cost_per_hour <= asked.budget.amount
    # Asked anew, the candidate alone: the medians keep the limits, so much the more at the confidence.
    answer = predictor.predict([Question(candidate.option.replica, asked.traffic, candidate.replicas)])
    assert isinstance(asked.traffic.load, RateLoad)
    assert answer.capacity_requests_per_second[0] >= asked.traffic.load.requests_per_second * (1 - 1e-9)
    for promise in asked.slo.bounds:
        assert answer.latency_s[0, 0, 2] <= promise.bound_s * (1 + 1e-9)
    assert confidence_kept(outcome.chosen) >= asked.confidence - 1e-9
    assert candidate.replicas >= (1 if asked.replicas.fixed else asked.replicas.minimum)
    assert candidate.replicas <= (asked.replicas.fixed or 10**6)


@law
@given(workloads, small_pools, predictors)
def test_the_cheapest_budget_of_a_refusal_is_enough_and_a_step_less_is_not(
    asked: Workload, pools: tuple[NodePool, ...], predictor: StubPredictor
) -> None:
    asked = with_budget(asked, Decimal("0.01"))
    outcome = select(request(asked, *pools), predictor)
    assume(isinstance(outcome, NoSelection) and outcome.cheapest_budget is not None)
    assert isinstance(outcome, NoSelection)
    assert outcome.cheapest_budget is not None
    amount = outcome.cheapest_budget.amount
    assert amount > asked.budget.amount
    enough = select(request(with_budget(asked, amount), *pools), predictor)
    assert isinstance(enough, Selection) or enough.limit is BindingLimit.NO_CAPACITY
    if "with all nodes free" in outcome.message:
        assert isinstance(enough, Selection)
    if isinstance(enough, Selection) and outcome.limit is BindingLimit.BUDGET_TOO_LOW:
        assert f"({enough.chosen.candidate.name})" in outcome.message, "what is named is what it buys"
    less = select(request(with_budget(asked, amount - Decimal("0.01")), *pools), predictor)
    assert isinstance(less, NoSelection)


@law
@given(workloads, small_pools, predictors)
def test_every_candidate_that_is_not_chosen_has_a_reason(
    asked: Workload, pools: tuple[NodePool, ...], predictor: StubPredictor
) -> None:
    outcome = select(request(asked, *pools), predictor)
    accounted = sum(count.count for count in outcome.rejections)
    assert accounted == outcome.considered - isinstance(outcome, Selection)
    assert all(count.nearest.detail for count in outcome.rejections)
    if isinstance(outcome, NoSelection):
        assert outcome.message
        assert RejectionReason.BETTER_CANDIDATE not in {count.reason for count in outcome.rejections}
        assert all(scored.broken is not None for scored in outcome.nearest)
        if outcome.limit in (L.LOAD_TOO_HIGH, L.SLO_UNREACHABLE, L.DEADLINE_UNREACHABLE):
            assert str(outcome.nearest[0].candidate.name) in outcome.message


@settings(max_examples=8, deadline=None)
@given(budgets, st.floats(0.5, 100), st.floats(0.05, 3))
def test_the_laws_hold_for_the_analytical_predictor_over_all_methods(
    amount: Decimal, rps: float, ttft_s: float
) -> None:
    predictor = AnalyticalPredictor()
    pools = (pool("l4", "L4-PCIe-24GB", nodes=2, price="8"), pool("h100", price="40"))
    asked = workload(per_hour(str(amount)), load=RateLoad(rps), slo=(bound(ttft_s),), methods=ALL_METHODS)
    outcome = select(request(asked, *pools), predictor)
    if isinstance(outcome, Selection):
        assert outcome.chosen.broken is None
        assert outcome.chosen.candidate.cost_per_hour <= amount
    elif outcome.cheapest_budget is not None:
        enough = with_budget(asked, outcome.cheapest_budget.amount)
        assert isinstance(select(request(enough, *pools), predictor), Selection)


@pytest.mark.parametrize("limit", list(BindingLimit))
def test_every_limit_says_when_it_shows(limit: BindingLimit) -> None:
    assert limit.sentence.startswith("Shows when ")
