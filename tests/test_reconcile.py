"""What to do about one workload: mode x outcome x what runs, as a table, and that deciding twice holds."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choices import VERSION, architecture
from choices import pool as node_pool
from controller_passes import STUB
from controller_passes import workload as manifest
from metainf.candidates import CandidateName, SizedOption, enumerate_candidates
from metainf.manifests import InferenceWorkload, Reservation, parse_decision_head, parse_workload
from metainf.planning import Plan, plan
from metainf.pools import NodePool, Taint
from metainf.running import Running
from metainf.selection import Selection
from metainf.switching import MoveReason
from metainf.workload import Budget, BudgetKind
from metainf_operator.outlook import outlook_of
from metainf_operator.reconcile import (
    Activate,
    Choice,
    Hold,
    Idle,
    Propose,
    Refuse,
    Stop,
    awaits_room,
    by_declared_too,
    decide,
    halts,
    leaves,
    retargeted,
    serving_inputs,
)
from metainf_operator.states import DecisionState
from metainf_operator.switch_room import SwitchRoom

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ON_CHEAP = CandidateName("cheap", "default", "TP1", 1)
THREE = CandidateName("cheap", "default", "TP1", 3)
ON_FAST = CandidateName("fast", "default", "TP1", 1)
POOLS = (
    node_pool("cheap", "A100-SXM-80GB", per_node=1, nodes=4, price="1"),
    node_pool("fast", per_node=1, nodes=4, price="10"),
)


def asked_for(**spec: Any) -> InferenceWorkload:
    return parse_workload(manifest(**spec))


def planned(workload: InferenceWorkload, current: CandidateName | None, *, pools: tuple[NodePool, ...] = POOLS) -> Plan:
    return plan(
        workload,
        architecture(),
        revision=None,
        pools=pools,
        predictor=STUB,
        engine_version=VERSION,
        current=current,
    )


def in_force(
    workload: InferenceWorkload, name: CandidateName, *, released: bool = False, asked: str | None = None
) -> DecisionState:
    made = planned(workload, name)
    head = parse_decision_head(
        {
            "metadata": {
                "name": "chat-1",
                "namespace": "team",
                "uid": "d1",
                "labels": {"metainf.dev/workload": "chat"},
                "annotations": {
                    **made.manifest["metadata"]["annotations"],
                    "metainf.dev/choice": f"{name.pool}/{name.method}/{name.layout}/{name.replicas}",
                },
            }
        }
    )
    held = head.reservation
    request = made.chosen.candidate.option.request if made.chosen is not None else None
    if held is None and request is not None:
        held = Reservation(name.pool, request, name.replicas)
    if held is None:
        any_plan = planned(asked_for(), None)
        assert any_plan.chosen is not None
        held = Reservation(name.pool, any_plan.chosen.candidate.option.request, name.replicas)
    return DecisionState(
        head=replace(head, choice=name, limit=None, reservation=held),
        activated_at=NOW - timedelta(days=1),
        serving_inputs=serving_inputs(workload) if asked is None else asked,
        image="vllm:1",
        released=released,
    )


PINNED = {"mode": "Pinned", "pinned": {"candidate": {"pool": "fast", "method": "default", "replicas": 1}}}


@pytest.mark.parametrize(
    ("spec", "runs", "kind", "reason"),
    [
        pytest.param({}, None, Activate, MoveReason.NOTHING_RUNS, id="Auto, chosen, nothing runs -> run it"),
        pytest.param({}, ON_CHEAP, Hold, "", id="Auto, the best runs -> hold"),
        pytest.param({}, ON_FAST, Activate, MoveReason.BETTER, id="Auto, a better one is there -> move"),
        pytest.param(
            {"policy": {"minimumGain": "0.99"}},
            ON_FAST,
            Hold,
            "another candidate would gain 90.0%",
            id="gain too small",
        ),
        pytest.param(
            {"policy": {"cooldown": "48h"}}, ON_FAST, Hold, "policy.cooldown is not over yet", id="cooling down"
        ),
        pytest.param({"budget": "5"}, ON_FAST, Activate, MoveReason.LIMIT_BROKEN, id="over budget -> move"),
        pytest.param({"budget": "0.5"}, None, Refuse, None, id="refused, nothing runs -> refuse"),
        pytest.param({"budget": "0.5"}, ON_CHEAP, Hold, "no candidate keeps every limit", id="refused, Keep -> hold"),
        pytest.param(
            {"budget": "0.5", "policy": {"onViolation": "Stop"}}, ON_CHEAP, Stop, None, id="refused, Stop -> stop"
        ),
        pytest.param(
            {"budget": "0.5", "policy": {"onViolation": "Stop"}}, None, Refuse, None, id="stopped already -> refuse"
        ),
        pytest.param({"policy": {"mode": "Recommend"}}, None, Propose, None, id="Recommend, nothing runs -> propose"),
        pytest.param({"policy": {"mode": "Recommend"}}, ON_CHEAP, Hold, "", id="Recommend, the best runs -> hold"),
        pytest.param({"policy": {"mode": "Recommend"}}, ON_FAST, Propose, None, id="Recommend, better -> propose"),
        pytest.param({"policy": PINNED}, None, Activate, MoveReason.NOTHING_RUNS, id="Pinned, nothing runs -> run it"),
        pytest.param({"policy": PINNED}, ON_FAST, Hold, "", id="Pinned, it runs -> hold"),
        pytest.param({"policy": PINNED}, ON_CHEAP, Activate, None, id="Pinned, another runs -> move"),
        pytest.param({"policy": PINNED, "budget": "5"}, None, Refuse, None, id="Pinned over budget -> refuse"),
        pytest.param({"suspend": True}, None, Idle, None, id="suspended"),
        pytest.param({"suspend": True}, ON_CHEAP, Idle, None, id="suspended while it runs"),
        pytest.param({"suspend": True, "budget": "0.5"}, ON_CHEAP, Idle, None, id="suspended goes before all"),
        pytest.param({"scaling": {"replicas": 0}}, ON_CHEAP, Idle, None, id="scaled to zero by hand"),
        pytest.param({"scaling": {"replicas": 3}}, ON_CHEAP, Activate, MoveReason.SCALED, id="scaled by hand"),
        pytest.param({"scaling": {"minReplicas": 2}}, ON_CHEAP, Activate, MoveReason.SCALED, id="minReplicas raised"),
        pytest.param({"scaling": {"maxReplicas": 1}}, THREE, Activate, MoveReason.SCALED, id="maxReplicas lowered"),
        pytest.param({"scaling": {"replicas": 2}}, THREE, Activate, MoveReason.SCALED, id="scaled down by hand"),
    ],
)
def test_mode_outcome_and_what_runs_say_what_to_do(
    spec: dict[str, Any], runs: CandidateName | None, kind: type[Choice], reason: MoveReason | str | None
) -> None:
    workload = asked_for(**spec)
    made = planned(workload, runs)
    active = None if runs is None else in_force(workload, runs)
    choice = decide(workload, made, active, asked=serving_inputs(workload), now=NOW)
    assert type(choice) is kind
    if isinstance(choice, Activate):
        assert reason is None or choice.reason is reason
        assert choice.plan.argv
    if isinstance(choice, Hold):
        assert str(reason) in choice.message
        assert bool(choice.message) is bool(reason)


@pytest.mark.parametrize(
    ("mode", "claims"),
    [
        pytest.param("Auto", True, id="it waits for room"),
        pytest.param("Recommend", False, id="a recommendation holds nothing"),
    ],
)
def test_a_refusal_claims_the_room_that_it_waits_for_but_in_mode_recommend(mode: str, claims: bool) -> None:
    workload = asked_for(budget="0.5", policy={"mode": mode})
    choice = decide(workload, planned(workload, None), None, asked=serving_inputs(workload), now=NOW)
    assert isinstance(choice, Refuse)
    assert choice.claims is claims


def test_what_only_observed_traffic_breaks_is_kept_and_what_the_declared_breaks_too_is_stopped() -> None:
    stops = Stop(planned(asked_for(budget="0.5"), ON_CHEAP))
    assert by_declared_too(stops) is stops
    better = Activate(planned(asked_for(), ON_FAST), MoveReason.BETTER)
    others: list[Choice] = [Hold(), Hold("no candidate keeps every limit"), better]
    for other in others:
        kept = by_declared_too(other)
        assert isinstance(kept, Hold)
        assert "only the observed traffic breaks a limit" in kept.message


FULL = (node_pool("cheap", "A100-SXM-80GB", per_node=1, free=(0, 0), price="1"), *POOLS[1:])


def beside(*, room: bool = True, budget: str = "100", **facts: Any) -> SwitchRoom:
    """One replica of the fast pool runs, for 10 USD/h, and answers."""
    limit = Budget(BudgetKind.PER_HOUR, Decimal(budget))
    found = SwitchRoom(POOLS if room else FULL, limit, timedelta(minutes=20), Decimal(10), Decimal(10))
    return replace(found, **facts)


NO_ROOM = beside(room=False)
NO_TURN = beside(turn=False)
NOT_PLACED = beside(awaited=frozenset({"cheap"}))


@pytest.mark.parametrize(
    ("spec", "runs", "asked", "there", "kind", "says"),
    [
        pytest.param({}, ON_FAST, None, beside(), Activate, None, id="room for both -> move"),
        pytest.param(
            {},
            ON_FAST,
            None,
            NO_ROOM,
            Hold,
            "1 x default TP1 on cheap would gain 90.0%, but cheap has room for 0 of its 1 replica beside what runs",
            id="no room for both -> hold",
        ),
        pytest.param(
            {},
            ON_FAST,
            None,
            beside(budget="10.5"),
            Hold,
            "both sides would cost 11.00 USD/h while it starts, the budget is 10.5 USD/h",
            id="no money for both -> hold",
        ),
        pytest.param({}, ON_FAST, None, NO_TURN, Hold, "as many workloads switch now", id="others switch -> wait"),
        pytest.param({}, ON_FAST, None, NOT_PLACED, Hold, "yet to take nodes of cheap", id="others come first -> wait"),
        pytest.param({}, ON_FAST, None, beside(awaited=frozenset({"fast"})), Activate, None, id="not in that pool"),
        pytest.param({}, ON_FAST, "else", NO_ROOM, Activate, None, id="asked for anew -> move"),
        pytest.param({}, ON_FAST, "else", NO_TURN, Activate, None, id="asked for anew: the rollout waits its turn"),
        pytest.param({}, ON_FAST, None, beside(room=False, answers=False), Activate, None, id="nobody is interrupted"),
        pytest.param({}, THREE, None, NO_ROOM, Activate, None, id="fewer of the same need no room"),
        pytest.param({}, THREE, None, NO_TURN, Activate, None, id="fewer of the same are no switch"),
        pytest.param({}, THREE, None, NOT_PLACED, Activate, None, id="fewer of the same take no nodes"),
        pytest.param({"budget": "5"}, ON_FAST, None, NO_ROOM, Activate, None, id="over budget -> move"),
        pytest.param({"policy": PINNED}, ON_CHEAP, None, NO_ROOM, Activate, None, id="pinned to another -> move"),
        pytest.param({"policy": {"mode": "Recommend"}}, ON_FAST, None, NO_ROOM, Propose, None, id="it may be proposed"),
    ],
)
def test_a_switch_for_a_gain_alone_needs_room_money_and_a_turn_beside_what_runs(
    spec: dict[str, Any],
    runs: CandidateName,
    asked: str | None,
    there: SwitchRoom,
    kind: type[Choice],
    says: str | None,
) -> None:
    workload = asked_for(**spec)
    now_asked = serving_inputs(workload)
    active = in_force(workload, runs, asked=asked)
    choice = decide(workload, planned(workload, runs), active, asked=now_asked, now=NOW, room=there)
    assert type(choice) is kind
    if isinstance(choice, Hold):
        assert says is not None
        assert says in choice.message
        waits = not there.turn or bool(there.awaited)
        assert choice.awaits_turn is waits
        assert ("policy.pinned.candidate" in choice.message) is not waits
    if isinstance(choice, Activate):
        gains = choice.reason is MoveReason.BETTER and asked is None and there.answers and runs is not THREE
        assert choice.keeps_old is gains


FULL_FAST = (POOLS[0], node_pool("fast", per_node=1, free=(0, 0), price="10"))
RECOMMEND: dict[str, Any] = {"policy": {"mode": "Recommend"}}
QUICK: dict[str, Any] = {"slo": {"ttft": {"p95": "100ms"}}}  # the fast pool alone keeps it


@pytest.mark.parametrize(
    ("spec", "pools", "runs", "there", "waits"),
    [
        pytest.param({}, POOLS, ON_FAST, NO_ROOM, True, id="a switch that is held for room"),
        pytest.param({}, POOLS, ON_FAST, beside(budget="10.5"), False, id="a switch that is held for money"),
        pytest.param({}, POOLS, ON_FAST, NO_TURN, False, id="a switch that is held for its turn"),
        pytest.param({}, POOLS, ON_CHEAP, None, False, id="the best runs"),
        pytest.param(QUICK, FULL_FAST, ON_CHEAP, None, True, id="it breaks a limit, and what keeps it has no room"),
        pytest.param({"budget": "0.5"}, POOLS, ON_CHEAP, None, False, id="it breaks a limit, and nothing keeps it"),
        pytest.param(QUICK, FULL_FAST, None, None, False, id="refused for room: its claim is told"),
        pytest.param({**QUICK, **RECOMMEND}, FULL_FAST, None, None, True, id="a recommendation claims none"),
        pytest.param({"scaling": {"replicas": 9}}, POOLS[:1], ON_CHEAP, None, True, id="nine asked for, room for four"),
        pytest.param({"scaling": {"replicas": 4}}, POOLS[:1], ON_CHEAP, None, False, id="four asked for, room for all"),
        pytest.param(
            {"scaling": {"replicas": 4}, "budget": "3"}, POOLS[:1], ON_CHEAP, None, False, id="money for three of four"
        ),
        pytest.param(
            {"scaling": {"replicas": 9}, "suspend": True}, POOLS[:1], ON_CHEAP, None, False, id="it is to run nothing"
        ),
    ],
)
def test_who_is_decided_anew_when_room_comes(
    spec: dict[str, Any],
    pools: tuple[NodePool, ...],
    runs: CandidateName | None,
    there: SwitchRoom | None,
    waits: bool,
) -> None:
    workload = asked_for(**spec)
    made = planned(workload, runs, pools=pools)
    active = None if runs is None else in_force(workload, runs)
    choice = decide(workload, made, active, asked=serving_inputs(workload), now=NOW, room=there)
    assert awaits_room(made, choice) is waits


def test_whether_a_plan_leaves_what_is_in_force() -> None:
    workload = asked_for()
    assert leaves(planned(workload, ON_FAST))
    assert not leaves(planned(workload, ON_CHEAP))
    assert not leaves(planned(workload, None))
    assert not leaves(planned(asked_for(budget="0.5"), ON_CHEAP))


@pytest.mark.parametrize(
    ("spec", "overspent", "nothing"),
    [
        pytest.param({}, False, False, id="it serves"),
        pytest.param({}, True, False, id="spent and kept"),
        pytest.param({"policy": {"onViolation": "Stop"}}, True, True, id="spent and to be stopped"),
        pytest.param({"policy": {"onViolation": "Stop"}}, False, False, id="not spent"),
        pytest.param({"suspend": True}, False, True, id="suspended"),
        pytest.param({"scaling": {"replicas": 0}}, False, True, id="scaled to zero"),
    ],
)
def test_what_is_to_run_nothing_whatever_would_be_chosen(spec: dict[str, Any], overspent: bool, nothing: bool) -> None:
    assert halts(asked_for(**spec), overspent=overspent) is nothing


CLOSED = Taint("maintenance")
AT_REST = "it runs where new pods of it would find no place: cheap has the taint maintenance"


def planned_on(
    workload: InferenceWorkload, *, closed: tuple[str, ...], seen: bool = True, current: CandidateName = ON_CHEAP
) -> Plan:
    """With a taint on all nodes of some pools; `seen`: the pods of what runs were seen to be ready on theirs."""
    (request,) = {sized.option.request for sized in options(workload)}
    return plan(
        workload,
        architecture(),
        revision=None,
        pools=[replace(pool, taints=(CLOSED,) if pool.name in closed else ()) for pool in POOLS],
        predictor=STUB,
        engine_version=VERSION,
        current=current,
        running=Running(current, request, placed=True, answers=True) if seen else None,
    )


def options(workload: InferenceWorkload) -> tuple[SizedOption, ...]:
    return enumerate_candidates(workload.workload, architecture(), POOLS, engine_version=VERSION).options


STOPS: dict[str, Any] = {"policy": {"onViolation": "Stop"}}


@pytest.mark.parametrize(
    ("spec", "closed", "seen", "asked", "kind", "says"),
    [
        pytest.param({}, ("cheap",), True, None, Hold, AT_REST, id="another is dearer -> hold"),
        pytest.param({}, ("cheap", "fast"), True, None, Hold, AT_REST, id="nothing else may start -> hold"),
        pytest.param(STOPS, ("cheap", "fast"), True, None, Hold, AT_REST, id="it breaks nothing -> not stopped"),
        pytest.param({}, ("cheap",), False, None, Activate, MoveReason.GONE, id="its pods are not there -> move"),
        pytest.param({}, ("cheap", "fast"), False, None, Hold, "no candidate keeps", id="there is no other -> hold"),
        pytest.param(STOPS, ("cheap", "fast"), False, None, Stop, None, id="its pods are not there, Stop -> stop"),
        pytest.param({}, ("cheap",), True, "else", Activate, MoveReason.ASKED, id="asked anew -> where pods may start"),
        pytest.param({}, ("cheap", "fast"), True, "else", Hold, AT_REST, id="asked anew, nowhere to start -> hold"),
        pytest.param(STOPS, ("cheap", "fast"), True, "else", Hold, AT_REST, id="nor is it stopped for that"),
        pytest.param(RECOMMEND, ("cheap",), True, "else", Propose, None, id="asked anew, Recommend -> propose another"),
        pytest.param(
            {"scaling": {"replicas": 2}}, ("cheap",), True, None, Activate, MoveReason.SCALED, id="scaled -> move"
        ),
        pytest.param(
            {"budget": "0.5"}, ("cheap",), True, None, Hold, "no candidate keeps every limit", id="over budget, Keep"
        ),
        pytest.param({"budget": "0.5", **STOPS}, ("cheap",), True, None, Stop, None, id="over budget, Stop -> stop"),
        pytest.param(
            {"slo": {"ttft": {"p95": "100ms"}}},
            ("cheap",),
            True,
            None,
            Activate,
            MoveReason.LIMIT_BROKEN,
            id="too slow -> move",
        ),
    ],
)
def test_what_runs_in_a_pool_that_takes_no_new_pods(
    spec: dict[str, Any],
    closed: tuple[str, ...],
    seen: bool,
    asked: str | None,
    kind: type[Choice],
    says: MoveReason | str | None,
) -> None:
    workload = asked_for(**spec)
    active = in_force(workload, ON_CHEAP, asked=asked)
    made = planned_on(workload, closed=closed, seen=seen)
    choice = decide(workload, made, active, asked=serving_inputs(workload), now=NOW)
    assert type(choice) is kind
    if isinstance(choice, Activate):
        assert choice.reason is says
        assert choice.plan.chosen is not None
        assert choice.plan.chosen.candidate.name.pool == "fast"
    if isinstance(choice, Hold):
        assert choice.message.startswith(str(says))
        assert choice.outdated is (asked is not None)
        assert outlook_of(made, choice, active).outdated is (asked is not None)


def test_what_runs_where_it_could_not_start_is_left_for_a_gain_as_any_other() -> None:
    workload = asked_for()
    made = planned_on(workload, closed=("fast",), current=ON_FAST)
    active = in_force(workload, ON_FAST)
    choice = decide(workload, made, active, asked=serving_inputs(workload), now=NOW)
    assert isinstance(choice, Activate)
    assert choice.reason is MoveReason.BETTER
    careful = asked_for(policy={"minimumGain": "0.95"})
    held = decide(careful, made, active, asked=serving_inputs(careful), now=NOW)
    assert isinstance(held, Hold)
    assert "would gain 90.0%" in held.message


def test_a_pool_that_is_gone_leads_elsewhere() -> None:
    workload = asked_for()
    choice = decide(
        workload,
        planned(workload, ON_CHEAP, pools=POOLS[1:]),
        in_force(workload, ON_CHEAP),
        asked=serving_inputs(workload),
        now=NOW,
    )
    assert isinstance(choice, Activate)
    assert (choice.reason, choice.plan.chosen and choice.plan.chosen.candidate.name) == (MoveReason.GONE, ON_FAST)


def test_what_was_released_runs_nothing_and_is_taken_up_again() -> None:
    workload = asked_for()
    active = in_force(workload, ON_CHEAP, released=True)
    choice = decide(workload, planned(workload, ON_CHEAP), active, asked=serving_inputs(workload), now=NOW)
    assert isinstance(choice, Activate)
    assert choice.reason is MoveReason.NOTHING_RUNS


def test_the_same_candidate_asked_for_differently_is_put_in_force_anew() -> None:
    workload = asked_for()
    active = in_force(workload, ON_CHEAP, asked="something else")
    choice = decide(workload, planned(workload, ON_CHEAP), active, asked=serving_inputs(workload), now=NOW)
    assert isinstance(choice, Activate)
    assert choice.reason is MoveReason.ASKED


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        pytest.param({}, True, id="nothing changed"),
        pytest.param({"budget": "7"}, True, id="the budget"),
        pytest.param({"rps": "3"}, True, id="the rate"),
        pytest.param({"policy": {"cooldown": "1h"}}, True, id="the policy"),
        pytest.param(
            {"model": {"id": "Qwen/Qwen2.5-7B-Instruct", "tokenSecretRef": {"name": "s"}}},
            True,
            id="the token's Secret",
        ),
        pytest.param({"engine": {"image": "mine:1"}}, False, id="the image"),
        pytest.param({"engine": {"version": "0.32.0"}}, False, id="the version"),
        pytest.param({"engine": {"extraArgs": ["--seed=1"]}}, False, id="an argument"),
        pytest.param({"model": {"id": "Qwen/Qwen2.5-7B-Instruct", "servedName": "x"}}, False, id="the served name"),
        pytest.param(
            {
                "traffic": {
                    "requestsPerSecond": "2",
                    "inputTokens": {"mean": 900},
                    "outputTokens": {"mean": 100},
                }
            },
            False,
            id="the lengths",
        ),
    ],
)
def test_what_the_pods_are_asked_for_is_told_from_the_rest(spec: dict[str, Any], same: bool) -> None:
    assert (serving_inputs(asked_for()) == serving_inputs(asked_for(**spec))) is same


@pytest.mark.parametrize(
    ("spec", "digest"),
    [
        pytest.param({}, "468814e83596603c", id="a model from the hub"),
        pytest.param(
            {
                "model": {
                    "id": "Qwen/Qwen2.5-7B-Instruct",
                    "revision": "main",
                    "servedName": "qwen",
                    "tokenSecretRef": {"name": "hub"},
                },
                "engine": {"image": "mine:1", "version": "0.32.0", "extraArgs": ["--seed=7"]},
            },
            "b5349b5008a97d18",
            id="with all that may be said of it",
        ),
        pytest.param(
            {
                "model": {
                    "id": "Qwen/Qwen2.5-7B-Instruct",
                    "source": {"pvc": {"claimName": "models", "path": "qwen"}},
                    "architecture": {"configMapRef": {"name": "config"}},
                }
            },
            "e3902d7c76aec32c",
            id="a model from a volume claim",
        ),
    ],
)
def test_what_was_asked_for_is_told_as_it_always_was(spec: dict[str, Any], digest: str) -> None:
    """A digest that moves with the operator's version would put a new decision in force for whatever runs."""
    assert serving_inputs(asked_for(**spec)) == digest


def test_a_head_is_asked_for_where_there_is_one_and_each_otherwise() -> None:
    models = [
        {"id": "Qwen/Qwen2.5-7B-Instruct", **({"draftModel": head} if head else {})}
        for head in (None, {"id": "a/head"}, {"id": "b/head"}, {"id": "a/head", "revision": "v1"})
    ]
    assert len({serving_inputs(asked_for(model=model)) for model in models}) == len(models)


def test_another_revision_is_asked_for_differently() -> None:
    first, second = ({"id": "Qwen/Qwen2.5-7B-Instruct", "revision": each * 40} for each in "ab")
    assert serving_inputs(asked_for(model=first)) != serving_inputs(asked_for(model=second))


def test_a_plan_may_be_turned_to_another_of_its_candidates() -> None:
    made = planned(asked_for(), ON_FAST)
    assert isinstance(made.outcome, Selection)
    current = made.outcome.current
    assert current is not None
    turned = retargeted(made, current)
    assert turned.chosen is current
    assert isinstance(turned.outcome, Selection)
    names = [s.candidate.name for s in turned.outcome.alternatives]
    assert made.outcome.chosen.candidate.name in names
    assert ON_FAST not in names
    assert turned.name != made.name
    assert retargeted(made, made.outcome.chosen) is made
    refused = planned(asked_for(budget="0.1"), None)
    assert retargeted(refused, current) is refused


@settings(max_examples=40, deadline=None)
@given(
    budget=st.sampled_from(["0.5", "1", "3", "9", "100"]),
    rps=st.sampled_from(["1", "6", "30", "500"]),
    runs=st.sampled_from([None, ON_CHEAP, ON_FAST, replace(ON_CHEAP, replicas=3)]),
    mode=st.sampled_from(["Auto", "Recommend"]),
    violation=st.sampled_from(["Keep", "Stop"]),
    replicas=st.sampled_from([None, 0, 2, 9]),
)
def test_it_always_has_an_answer_and_deciding_twice_holds(
    budget: str, rps: str, runs: CandidateName | None, mode: str, violation: str, replicas: int | None
) -> None:
    scaling = {} if replicas is None else {"scaling": {"replicas": replicas}}
    workload = asked_for(budget=budget, rps=rps, policy={"mode": mode, "onViolation": violation}, **scaling)
    asked = serving_inputs(workload)
    active = None if runs is None else in_force(workload, runs)
    choice = decide(workload, planned(workload, runs), active, asked=asked, now=NOW)
    if isinstance(choice, Activate):
        assert choice.plan.chosen is not None
        now_runs = choice.plan.chosen.candidate.name
        again = decide(workload, planned(workload, now_runs), in_force(workload, now_runs), asked=asked, now=NOW)
        assert isinstance(again, Hold), (choice.reason, again)
        limits = workload.workload.replicas
        assert limits.fixed is None or now_runs.replicas <= limits.fixed
    elif isinstance(choice, Stop):
        assert active is not None
        again = decide(workload, planned(workload, runs), replace(active, released=True), asked=asked, now=NOW)
        assert isinstance(again, Refuse)
    else:
        again = decide(workload, planned(workload, runs), active, asked=asked, now=NOW)
        assert type(again) is type(choice)
