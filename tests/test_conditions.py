"""What holds of a workload: facts to conditions as a table, and laws over all facts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf.binding_limits import BindingLimit
from metainf.manifests import PolicyMode
from metainf.rejections import Rejection, RejectionReason
from metainf_operator.conditions import CONDITION_TYPES, REASONS, Condition, Facts, Fault, conditions, merged
from metainf_operator.observed_status import SloStanding
from metainf_operator.rollout import Stage

RUNS = Facts(
    PolicyMode.AUTO,
    priced_pools=("a", "b"),
    considered=40,
    running="1 x default TP1 on a",
    decision="chat-123",
    stage=Stage.SERVING,
    stage_message="1 of 1 replicas are ready",
    cost=Decimal("4.00"),
    cost_unit="USD/h",
    budget="6.00 USD/h",
    has_slo=True,
)
NOTHING = Facts(PolicyMode.AUTO, budget="6.00 USD/h")
DECIDED = replace(RUNS, running=None, decision=None, stage=None, cost=None)
REFUSED = replace(DECIDED, limit=BindingLimit.BUDGET_TOO_LOW, limit_message="costs 9.80; the budget is 6.00")
OVER = Rejection(RejectionReason.OVER_BUDGET, "a", "cost is 9.8 USD/h, the limit is 6 USD/h")
SLOW = Rejection(RejectionReason.SLO_MISSED, "a", "ttft p95 is up to 2s, the limit is 0.5s")
OVER_BUDGET = replace(
    RUNS, limit=BindingLimit.BUDGET_TOO_LOW, limit_message="too low", broken=OVER, over_budget=OVER.detail
)


def of(facts: Facts) -> dict[str, Condition]:
    return {condition.type: condition for condition in conditions(facts)}


KEPT = SloStanding("True", "WithinSLO", "ttft p95 is 312ms of 500ms")
MISSED = SloStanding("False", "SLOMissed", "ttft p95 is 812ms; the SLO allows 500ms")
SILENT = SloStanding("Unknown", "MetricsUnreadable", "the metrics of none of 1 ready pods can be read")


@pytest.mark.parametrize(
    ("facts", "kind", "status", "reason"),
    [
        pytest.param(RUNS, "Ready", "True", "Serving", id="serves"),
        pytest.param(RUNS, "Accepted", "True", "Accepted", id="accepted"),
        pytest.param(RUNS, "PricesKnown", "True", "Known", id="prices known"),
        pytest.param(RUNS, "Feasible", "True", "CandidateFound", id="feasible"),
        pytest.param(RUNS, "Decided", "True", "Decided", id="decided"),
        pytest.param(RUNS, "WithinBudget", "True", "BelowBudget", id="below budget"),
        pytest.param(RUNS, "SLOMet", "Unknown", "NoTraffic", id="no traffic yet"),
        pytest.param(replace(RUNS, has_slo=False), "SLOMet", "Unknown", "NoSLO", id="no SLO"),
        pytest.param(replace(RUNS, slo=KEPT), "SLOMet", "True", "WithinSLO", id="seen to be kept"),
        pytest.param(replace(RUNS, slo=MISSED), "SLOMet", "False", "SLOMissed", id="seen to be missed"),
        pytest.param(replace(RUNS, slo=MISSED), "Ready", "False", "SLOMissed", id="missed: not ready"),
        pytest.param(replace(RUNS, slo=SILENT), "SLOMet", "Unknown", "MetricsUnreadable", id="nothing can be read"),
        pytest.param(replace(RUNS, slo=SILENT), "Ready", "True", "Serving", id="nothing can be read: ready"),
        pytest.param(replace(RUNS, has_slo=False, slo=MISSED), "SLOMet", "Unknown", "NoSLO", id="nothing promised"),
        pytest.param(RUNS, "PredictorLoaded", "True", "Loaded", id="the predictor that is wanted"),
        pytest.param(
            replace(RUNS, predictor_fault="reading x: damaged"),
            "PredictorLoaded",
            "False",
            "ArtifactUnusable",
            id="a damaged artifact",
        ),
        pytest.param(
            replace(RUNS, predictor_fault="reading x: damaged"),
            "Ready",
            "True",
            "Serving",
            id="a damaged artifact holds nothing back",
        ),
        pytest.param(NOTHING, "Ready", "Unknown", "Deciding", id="nothing known yet"),
        pytest.param(NOTHING, "Available", "False", "NotDeployed", id="nothing deployed"),
        pytest.param(DECIDED, "Ready", "Unknown", "Deciding", id="chosen, not yet in force"),
        *(
            pytest.param(
                replace(NOTHING, fault=fault, fault_message="why"),
                "Ready",
                "False" if permanent else "Unknown",
                fault.value,
                id=f"fault {fault}",
            )
            for fault, permanent in (
                (Fault.INVALID_SPEC, True),
                (Fault.UNKNOWN_MODEL, True),
                (Fault.OVERRIDES_DECISION, True),
                (Fault.PIN_NOT_FOUND, True),
                (Fault.HUB_UNREACHABLE, False),
                (Fault.CONFIG_MAP_MISSING, False),
                (Fault.FORBIDDEN, False),
                (Fault.CRD_TOO_OLD, False),
            )
        ),
        pytest.param(
            replace(RUNS, considered=None, fault=Fault.HUB_UNREACHABLE, fault_message="away"),
            "Available",
            "True",
            "Serving",
            id="a fault does not stop what serves",
        ),
        pytest.param(REFUSED, "Ready", "False", "BudgetTooLow", id="refused"),
        pytest.param(REFUSED, "Feasible", "False", "BudgetTooLow", id="refused: not feasible"),
        pytest.param(REFUSED, "Decided", "False", "Refused", id="refused: nothing decided"),
        pytest.param(REFUSED, "WithinBudget", "True", "NoCost", id="refused: nothing is spent"),
        pytest.param(
            replace(REFUSED, priced_pools=(), unpriced_pools=("a",), limit=BindingLimit.PRICE_UNKNOWN),
            "Ready",
            "False",
            "PriceUnknown",
            id="no price known",
        ),
        pytest.param(
            replace(RUNS, unpriced_pools=("c",)), "PricesKnown", "True", "SomeUnknown", id="some prices unknown"
        ),
        pytest.param(
            replace(REFUSED, limit=BindingLimit.NO_CAPACITY), "Ready", "False", "NoCapacity", id="waiting for room"
        ),
        pytest.param(OVER_BUDGET, "WithinBudget", "False", "OverBudget", id="over budget, kept"),
        pytest.param(OVER_BUDGET, "Ready", "False", "BudgetTooLow", id="over budget: not ready"),
        pytest.param(OVER_BUDGET, "Available", "True", "Serving", id="over budget: it serves on"),
        pytest.param(
            replace(OVER_BUDGET, broken=SLOW), "WithinBudget", "False", "OverBudget", id="slow and over budget"
        ),
        pytest.param(
            replace(RUNS, limit=BindingLimit.SLO_UNREACHABLE, broken=SLOW),
            "WithinBudget",
            "True",
            "BelowBudget",
            id="slow, but below budget",
        ),
        pytest.param(
            replace(RUNS, limit=BindingLimit.BUDGET_TOO_LOW), "Feasible", "True", "CandidateFound", id="runs within all"
        ),
        pytest.param(
            replace(OVER_BUDGET, stopped=True, running=None), "Ready", "False", "BudgetTooLow", id="stopped by budget"
        ),
        pytest.param(replace(OVER_BUDGET, stopped=True), "Available", "False", "Suspended", id="stopped: nothing up"),
        pytest.param(
            replace(DECIDED, stopped=True, limit=None), "Ready", "False", "Suspended", id="stopped, would fit again"
        ),
        pytest.param(replace(RUNS, running_gone=True), "Feasible", "False", "PoolGone", id="pool gone"),
        pytest.param(
            replace(RUNS, running_gone=True, limit=BindingLimit.NO_MATCHING_POOL),
            "Feasible",
            "False",
            "NoMatchingPool",
            id="pool gone and nothing else",
        ),
        pytest.param(
            replace(RUNS, outdated=True, limit=BindingLimit.MODEL_DOES_NOT_FIT),
            "Ready",
            "False",
            "ModelDoesNotFit",
            id="what is asked now cannot be served",
        ),
        pytest.param(replace(RUNS, cost=None), "WithinBudget", "Unknown", "PriceUnknown", id="price of it unknown"),
        pytest.param(replace(RUNS, capped_message="2 of the 3"), "WithinBudget", "True", "ReplicasCapped", id="capped"),
        pytest.param(replace(RUNS, keep_message="5.0%"), "Decided", "True", "Kept", id="kept"),
        pytest.param(replace(RUNS, keep_message="5.0%"), "Ready", "True", "Serving", id="kept: ready all the same"),
        pytest.param(
            replace(DECIDED, mode=PolicyMode.RECOMMEND, proposed="1 x", decision="chat-9"),
            "Ready",
            "Unknown",
            "AwaitingApproval",
            id="recommended",
        ),
        pytest.param(replace(RUNS, mode=PolicyMode.RECOMMEND), "Ready", "True", "Serving", id="recommended, runs"),
        pytest.param(replace(DECIDED, suspended=True), "Ready", "Unknown", "Suspended", id="suspended"),
        pytest.param(replace(REFUSED, suspended=True), "Ready", "Unknown", "Suspended", id="suspended goes first"),
        *(
            pytest.param(
                replace(RUNS, stage=stage, stage_message="1 of 2"),
                "Ready",
                stage.ready,
                stage.value,
                id=f"stage {stage}",
            )
            for stage in Stage
            if stage is not Stage.SERVING
        ),
        *(
            pytest.param(
                replace(RUNS, stage=stage), "Available", stage.available, stage.value, id=f"available at {stage}"
            )
            for stage in Stage
        ),
    ],
)
def test_facts_to_conditions(facts: Facts, kind: str, status: str, reason: str) -> None:
    found = of(facts)[kind]
    assert (found.status, str(found.reason)) == (status, reason)


@pytest.mark.parametrize(
    ("facts", "kind", "numbers"),
    [
        pytest.param(RUNS, "WithinBudget", ("4", "6.00"), id="below budget"),
        pytest.param(OVER_BUDGET, "WithinBudget", ("9.8", "6"), id="over budget"),
        pytest.param(REFUSED, "Ready", ("9.80", "6.00"), id="refused"),
        pytest.param(REFUSED, "Decided", ("9.80", "6.00"), id="refused, decided"),
        pytest.param(REFUSED, "WithinBudget", ("6.00",), id="nothing runs"),
        pytest.param(replace(RUNS, cost=None), "WithinBudget", ("6.00",), id="price unknown"),
        pytest.param(replace(RUNS, unpriced_pools=("x", "y")), "PricesKnown", ("2", "x, y"), id="unpriced pools"),
        pytest.param(
            replace(REFUSED, priced_pools=(), unpriced_pools=tuple("abcdefg")),
            "PricesKnown",
            ("a, b, c, d, e)", "metainf.dev/cost-per-hour"),
            id="at most five names",
        ),
        pytest.param(RUNS, "Feasible", ("40",), id="candidates looked at"),
        pytest.param(
            replace(DECIDED, mode=PolicyMode.RECOMMEND, proposed="2 x", decision="chat-9"),
            "Decided",
            ("2 x", "policy.pinned.decision to chat-9"),
            id="how to approve",
        ),
        pytest.param(replace(RUNS, keep_message="gains 5.0%"), "Decided", ("gains 5.0%", "on a"), id="kept"),
        pytest.param(RUNS, "Ready", ("1 x default TP1 on a",), id="what serves"),
    ],
)
def test_messages_hold_the_figures_that_disagree(facts: Facts, kind: str, numbers: tuple[str, ...]) -> None:
    message = of(facts)[kind].message
    assert all(number in message for number in numbers), message


@pytest.mark.parametrize("reason", [*RejectionReason, *BindingLimit, *Stage], ids=str)
def test_every_reason_of_every_catalogue_has_a_sentence(reason: Any) -> None:
    assert reason.sentence.startswith("Shows w")


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_of_a_condition_says_when_it_shows(reason: str) -> None:
    assert REASONS[reason].startswith("Shows ")
    assert REASONS[reason].endswith(".")
    assert reason[0].isupper()
    assert reason.isalnum()


texts = st.sampled_from(["", "why"])
maybe = st.booleans()
facts_strategy = st.builds(
    Facts,
    mode=st.sampled_from(list(PolicyMode)),
    suspended=maybe,
    fault=st.one_of(st.none(), st.sampled_from(list(Fault))),
    fault_message=texts,
    priced_pools=st.sampled_from([(), ("a",)]),
    unpriced_pools=st.sampled_from([(), ("b",)]),
    considered=st.one_of(st.none(), st.just(3)),
    limit=st.one_of(st.none(), st.sampled_from(list(BindingLimit))),
    limit_message=texts,
    proposed=st.sampled_from([None, "p"]),
    running=st.sampled_from([None, "r"]),
    running_gone=maybe,
    outdated=maybe,
    broken=st.sampled_from([None, OVER, SLOW]),
    over_budget=st.sampled_from(["", OVER.detail]),
    keep_message=texts,
    decision=st.sampled_from([None, "d"]),
    stage=st.one_of(st.none(), st.sampled_from(list(Stage))),
    stage_message=texts,
    cost=st.sampled_from([None, Decimal(1)]),
    budget=st.just("6 USD/h"),
    capped_message=texts,
    has_slo=maybe,
    stopped=maybe,
    unwatched=texts,
    traffic_remark=texts,
    pin_remark=texts,
    predictor_fault=texts,
)


@settings(max_examples=150, deadline=None)
@given(facts_strategy)
def test_whatever_the_facts_every_condition_is_there_once_with_a_known_reason(facts: Facts) -> None:
    found = conditions(facts)
    assert tuple(c.type for c in found) == CONDITION_TYPES
    for condition in found:
        assert condition.status in ("True", "False", "Unknown")
        assert condition.reason in REASONS, condition
    by_type = of(facts)
    if by_type["Ready"].status == "True":
        for kind in ("Accepted", "Feasible", "Decided", "Available", "WithinBudget"):
            assert by_type[kind].status == "True", kind
    if facts.fault is not None:
        assert by_type["Ready"].reason == facts.fault
    if facts.over_budget and facts.running is not None and facts.cost is not None and not facts.stopped:
        assert by_type["WithinBudget"].status == "False"
        assert by_type["Ready"].status != "True"


NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE = Condition("Ready", "True", "Serving", "serves")


def test_the_time_of_a_transition_moves_with_the_status_alone() -> None:
    (first,) = merged([ONE], (), generation=1, now=NOW)
    assert first == {
        "type": "Ready",
        "status": "True",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "reason": "Serving",
        "message": "serves",
    }
    later = NOW + timedelta(hours=1)
    (other,) = merged([replace(ONE, reason="Else", message="m")], [first], generation=2, now=later)
    assert (other["lastTransitionTime"], other["observedGeneration"]) == ("2026-01-01T00:00:00Z", 2)
    (turned,) = merged([replace(ONE, status="False")], [other], generation=2, now=later)
    assert turned["lastTransitionTime"] == "2026-01-01T01:00:00Z"


@given(st.lists(facts_strategy, min_size=1, max_size=4))
def test_merging_the_same_again_changes_nothing(history: list[Facts]) -> None:
    stands: list[dict[str, Any]] = []
    for hour, facts in enumerate(history):
        stands = merged(conditions(facts), stands, generation=1, now=NOW + timedelta(hours=hour))
    again = merged(conditions(history[-1]), stands, generation=1, now=NOW + timedelta(days=9))
    assert again == stands
