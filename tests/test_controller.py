"""Passes of the controller over a cluster in memory: what is written, in which order, and that it comes to an end."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choices import architecture
from controller_passes import ROOMY, SETTINGS, Around, CutOffError, pool, serving, with_pools, workload
from metainf import candidates
from metainf.manifests import DraftSource, InferenceWorkload, parse_pool, standing_pool
from metainf.planning import Head
from metainf.predictors.contract import Question
from metainf.workload import Repetitiveness
from metainf_operator.api_errors import InvalidObjectError, NamespaceTerminatingError, NotFoundError, UnreachableError
from metainf_operator.cluster_api import Verb
from metainf_operator.ledger import Hold, WorkloadKey
from metainf_operator.models import KnownModel, _Answer
from metainf_operator.resources import (
    ACCELERATOR_POOL,
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    INFERENCE_DECISION,
    INFERENCE_WORKLOAD,
    NAMESPACE,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVICE,
)
from node_bodies import node
from stub_predictor import StubPredictor

CHEAP_GONE_DEAR = "80"
TOO_QUICK_FOR_CHEAP = {"ttft": {"p95": "100ms"}}


def price(around: Around, name: str, per_hour: str | None) -> None:
    around.cluster.put(
        ACCELERATOR_POOL, pool(name, *(["NVIDIA-H100-80GB-HBM3"] if name == "fast" else []), price=per_hour)
    )


def service(around: Around) -> dict[str, Any]:
    found = around.cluster.peek(SERVICE, "chat", "team")
    assert found is not None
    return found


def sent_to(around: Around) -> str:
    return str(service(around)["spec"]["selector"]["metainf.dev/serving"])


# Apply


def test_the_decision_is_written_before_the_deployment() -> None:
    around = with_pools(Around())
    around.apply(workload())
    around.reconcile()
    kinds = [(call.verb, call.resource.kind if call.resource else "") for call in around.cluster.writes]
    assert kinds == [
        (Verb.APPLY, "InferenceDecision"),
        (Verb.APPLY_STATUS, "InferenceDecision"),
        (Verb.APPLY, "Deployment"),
        (Verb.APPLY, "Service"),
        (Verb.APPLY_STATUS, "InferenceWorkload"),
        (Verb.CREATE, "Event"),
    ]


def test_a_workload_comes_to_serve_and_then_nothing_is_written_any_more() -> None:
    around = serving()
    assert around.condition("Ready") == ("True", "Serving")
    assert around.running() == {"cheap": 1}
    assert list(around.decisions().values()) == ["Active"]
    assert around.status()["replicas"] == 1
    before = len(around.cluster.writes)
    for _ in range(3):
        around.now += timedelta(hours=1)
        assert around.reconcile() is None
    assert around.cluster.writes[before:] == []


def test_a_new_process_writes_nothing_that_changes_anything() -> None:
    around = serving(rps="6")
    versions = {
        (o["kind"], o["metadata"]["name"]): o["metadata"]["resourceVersion"]
        for kind in (DEPLOYMENT, SERVICE, INFERENCE_DECISION, INFERENCE_WORKLOAD, POD_DISRUPTION_BUDGET)
        for o in around.cluster.all(kind)
    }
    assert ("PodDisruptionBudget", "chat") in versions
    around.restart()
    around.reconcile()
    for kind in (DEPLOYMENT, SERVICE, INFERENCE_DECISION, INFERENCE_WORKLOAD, POD_DISRUPTION_BUDGET):
        for body in around.cluster.all(kind):
            assert body["metadata"]["resourceVersion"] == versions[(body["kind"], body["metadata"]["name"])]


def test_ready_is_unknown_while_replicas_start() -> None:
    around = with_pools(Around())
    around.ready = False
    around.apply(workload())
    around.settle()
    assert around.condition("Ready") == ("Unknown", "RollingOut")
    assert around.condition("Available")[0] == "Unknown"
    assert around.message("Available") == "0 of 1 replicas are ready"


def test_a_workload_that_is_gone_or_going_is_left_alone() -> None:
    around = with_pools(Around())
    assert around.reconcile() is None
    around.apply(workload())
    around.cluster.edit(INFERENCE_WORKLOAD, "chat", {"metadata": {"finalizers": ["x/y"]}}, "team")
    around.cluster._finalize_or_erase((INFERENCE_WORKLOAD, "team", "chat"))
    around.reconcile()
    assert around.cluster.writes == []


def test_deletion_leaves_nothing_behind_and_the_next_of_that_name_starts_anew() -> None:
    around = serving()
    old = service(around)["metadata"]["uid"]
    around.cluster.remove(INFERENCE_WORKLOAD, "chat", "team")
    around.reconcile()
    for kind in (DEPLOYMENT, SERVICE, INFERENCE_DECISION, POD_DISRUPTION_BUDGET):
        assert around.cluster.all(kind) == []
    around.apply(workload())
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    assert service(around)["metadata"]["uid"] != old


def test_a_record_of_an_earlier_workload_of_the_name_does_not_stand_in_the_way() -> None:
    around = serving()
    (record,) = around.cluster.all(INFERENCE_DECISION)
    around.cluster.remove(INFERENCE_WORKLOAD, "chat", "team")
    around.cluster.put(INFERENCE_DECISION, record)  # garbage collection is late
    around.apply(workload())
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    (mine,) = around.cluster.all(INFERENCE_DECISION)
    assert mine["metadata"]["ownerReferences"] != record["metadata"]["ownerReferences"]


# What users do to children


@pytest.mark.parametrize(
    ("patch", "look"),
    [
        pytest.param({"spec": {"replicas": 7}}, lambda b: b["spec"]["replicas"] == 1, id="scaled by hand"),
        pytest.param(
            {"spec": {"template": {"spec": {"containers": [{"name": "vllm", "image": "evil:1"}]}}}},
            lambda b: b["spec"]["template"]["spec"]["containers"][0]["image"].startswith("vllm/vllm-openai"),
            id="another image",
        ),
    ],
)
def test_an_edit_of_the_deployment_is_put_right_and_told(patch: dict[str, Any], look: Any) -> None:
    around = serving()
    (body,) = around.deployments()
    around.cluster.edit(DEPLOYMENT, body["metadata"]["name"], patch, "team")
    around.settle()
    (body,) = around.deployments()
    assert look(body)
    before = len(around.cluster.writes)
    around.reconcile()
    assert around.cluster.writes[before:] == []


def test_an_edit_of_the_services_selector_is_put_right() -> None:
    around = serving()
    right = sent_to(around)
    around.cluster.edit(SERVICE, "chat", {"spec": {"selector": {"metainf.dev/serving": "nothing"}}}, "team")
    around.settle()
    assert sent_to(around) == right


@pytest.mark.parametrize("kind", [SERVICE, DEPLOYMENT, POD_DISRUPTION_BUDGET], ids=lambda kind: kind.kind)
def test_a_deleted_child_comes_back(kind: Any) -> None:
    around = serving(rps="6")
    (body,) = around.cluster.all(kind)
    around.cluster.remove(kind, body["metadata"]["name"], "team")
    around.settle()
    assert [b["metadata"]["name"] for b in around.cluster.all(kind)] == [body["metadata"]["name"]]
    assert around.condition("Ready") == ("True", "Serving")


def test_a_name_that_a_users_service_holds_is_left_alone() -> None:
    around = with_pools(Around())
    mine = {"metadata": {"name": "chat", "namespace": "team"}, "spec": {"selector": {"app": "mine"}}}
    around.cluster.put(SERVICE, mine)
    around.apply(workload())
    around.settle()
    assert service(around)["spec"] == mine["spec"]
    assert around.deployments() == []
    assert around.condition("Available") == ("False", "NameTaken")
    assert around.condition("Ready") == ("False", "NameTaken")
    assert "Service team/chat exists and is not ours" in around.message("Available")
    assert around.reconcile() == 30.0
    around.cluster.remove(SERVICE, "chat", "team")
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")


def test_a_terminating_namespace_is_left_alone() -> None:
    around = with_pools(Around())
    around.apply(workload())
    around.reconcile()
    around.cluster.fail(NamespaceTerminatingError("going", code=403), verb=Verb.APPLY, resource=SERVICE)
    (body,) = around.deployments()
    around.cluster.remove(SERVICE, "chat", "team")
    around.reconcile()
    assert [d["metadata"]["name"] for d in around.deployments()] == [body["metadata"]["name"]]
    assert around.cluster.all(SERVICE) == []


def test_a_disruption_budget_stands_while_there_is_more_than_one_replica() -> None:
    around = serving(rps="6")
    assert around.running() == {"cheap": 2}
    assert len(around.cluster.all(POD_DISRUPTION_BUDGET)) == 1
    around.edit(traffic={"requestsPerSecond": "2"})
    around.now += timedelta(hours=2)
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.cluster.all(POD_DISRUPTION_BUDGET) == []


# Refusals


@pytest.mark.parametrize(
    ("fields", "condition", "reason"),
    [
        pytest.param({"budget": "0.5"}, "Feasible", "BudgetTooLow", id="budget too low"),
        pytest.param({"rps": "1000"}, "Feasible", "LoadTooHigh", id="load too high"),
        pytest.param({"slo": {"ttft": {"p95": "1ms"}}}, "Feasible", "SLOUnreachable", id="SLO out of reach"),
        pytest.param({"placement": {"pools": ["nowhere"]}}, "Feasible", "NoMatchingPool", id="no such pool"),
        pytest.param({"methods": {"allow": ["defualt"]}}, "Accepted", "InvalidSpec", id="no such method"),
        pytest.param({"model": {"id": "nobody/knows"}}, "Accepted", "UnknownModel", id="unknown model"),
        pytest.param({"traffic": {}}, "Accepted", "InvalidSpec", id="a spec that cannot be read"),
        pytest.param(
            {"engine": {"podTemplate": {"spec": {"nodeName": "n"}}}},
            "Accepted",
            "OverridesDecision",
            id="a template that overrides",
        ),
        pytest.param(
            {"engine": {"extraArgs": ["--tensor-parallel-size=2"]}},
            "Accepted",
            "OverridesDecision",
            id="an argument does",
        ),
        pytest.param(
            {"engine": {"extraArgs": ["--enforce-eagre"]}}, "Accepted", "InvalidSpec", id="a flag that is none"
        ),
        pytest.param({"engine": {"version": "0.27.0"}}, "Accepted", "InvalidSpec", id="a version that is not known"),
        pytest.param(
            {"policy": {"mode": "Pinned", "pinned": {"decision": "none"}}}, "Accepted", "PinNotFound", id="no such pin"
        ),
        pytest.param(
            {"model": {"id": "a/b", "architecture": {"configMapRef": {"name": "none"}}}},
            "Accepted",
            "ConfigMapMissing",
            id="no ConfigMap",
        ),
    ],
)
def test_what_goes_wrong_gets_a_condition_and_nothing_is_bought(
    fields: dict[str, Any], condition: str, reason: str
) -> None:
    around = with_pools(Around())
    around.apply(workload(**fields))
    around.settle()
    status, found = around.condition(condition)
    assert found == reason
    assert status in ("False", "Unknown")
    assert around.condition("Ready") == (status, reason)
    assert around.deployments() == []
    assert around.cluster.all(SERVICE) == []
    assert len(around.decisions()) == (condition == "Feasible")


def test_a_refusal_is_recorded_once_with_the_budget_that_would_work() -> None:
    around = with_pools(Around())
    around.apply(workload(budget="0.5"))
    around.settle()
    (record,) = around.cluster.all(INFERENCE_DECISION)
    assert record["spec"]["refusal"]["cheapestBudget"] == {"perHour": "1", "currency": "USD"}
    assert record["status"] == {"phase": "Refused"}
    assert "costs 1.00 USD/h; the budget is 0.5 USD/h" in around.message("Feasible")
    around.edit(budget={"perHour": "0.4"})
    around.settle()
    assert len(around.decisions()) == 1  # the same limit for other figures is no new decision
    around.edit(budget={"perHour": "1.00"})
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")


def test_a_refusal_that_comes_back_is_not_written_again_and_again() -> None:
    around = with_pools(Around())
    around.apply(workload(budget="0.5"))
    around.settle()
    around.edit(budget={"perHour": "1"})
    around.settle()
    around.edit(budget={"perHour": "0.5"}, policy={"onViolation": "Stop"})
    around.settle()
    assert around.condition("WithinBudget")[0] == "True"
    before = len(around.cluster.writes)
    around.reconcile()
    assert around.cluster.writes[before:] == []


def test_no_price_means_nothing_is_bought() -> None:
    around = with_pools(Around())
    price(around, "cheap", None)
    price(around, "fast", None)
    around.apply(workload())
    around.settle()
    assert around.condition("PricesKnown") == ("False", "PriceUnknown")
    assert around.condition("Ready") == ("False", "PriceUnknown")
    assert around.deployments() == []


def test_one_pool_without_a_price_is_told_and_the_other_is_used() -> None:
    around = with_pools(Around())
    price(around, "cheap", None)
    around.apply(workload())
    around.settle()
    assert around.condition("PricesKnown") == ("True", "SomeUnknown")
    assert around.running() == {"fast": 1}


def test_the_config_map_of_a_model_may_come_later() -> None:
    around = with_pools(Around())
    around.apply(workload(model={"id": "a/b", "architecture": {"configMapRef": {"name": "config"}}}))
    assert around.reconcile() == 15.0
    assert around.condition("Accepted") == ("Unknown", "ConfigMapMissing")
    around.cluster.put(CONFIG_MAP, {"metadata": {"name": "config", "namespace": "team"}, "data": {"config.json": "["}})
    around.reconcile()
    assert around.condition("Accepted") == ("False", "InvalidSpec")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(InvalidObjectError("Deployment chat: spec.template is wrong"), "InvalidSpec", id="a template"),
        pytest.param(InvalidObjectError("InferenceDecision chat: unknown field"), "CRDTooOld", id="an old CRD"),
    ],
)
def test_what_the_api_server_refuses_gets_a_condition(error: InvalidObjectError, reason: str) -> None:
    around = with_pools(Around())
    around.apply(workload())
    around.cluster.fail(error, verb=Verb.APPLY)
    assert around.reconcile() == 30.0  # definitions are watched by nobody: looked at again soon
    assert around.condition("Accepted")[1] == reason
    assert around.world.reserving == {}


def test_an_api_server_that_is_away_ends_the_pass_and_gives_the_reservation_back() -> None:
    around = with_pools(Around())
    around.apply(workload())
    around.cluster.fail(UnreachableError("away"), verb=Verb.APPLY)
    with pytest.raises(UnreachableError):
        around.reconcile()
    assert around.world.reserving == {}
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")


def test_an_accelerator_without_a_known_image_asks_for_one() -> None:
    around = Around(settings=replace(SETTINGS, image_nvidia=""))
    with_pools(around).apply(workload())
    around.settle()
    assert around.condition("Accepted") == ("False", "InvalidSpec")
    assert "spec.engine.image" in around.message("Accepted")
    around.edit(engine={"image": "mine:1"})
    around.settle()
    (body,) = around.deployments()
    assert body["spec"]["template"]["spec"]["containers"][0]["image"] == "mine:1"


# Trouble while serving


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param({"model": {"id": "nobody/knows"}}, "UnknownModel", id="unknown model"),
        pytest.param({"traffic": {"requestsPerSecond": "-1"}}, "InvalidSpec", id="a spec that cannot be read"),
        pytest.param({"engine": {"podTemplate": {"spec": {"nodeName": "n"}}}}, "OverridesDecision", id="a template"),
    ],
)
def test_what_serves_goes_on_and_is_shown_while_the_spec_is_wrong(spec: dict[str, Any], reason: str) -> None:
    around = serving()
    was = around.status()
    around.edit(**spec)
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("Ready")[1] == reason
    assert around.condition("Available") == ("True", "Serving")
    if reason != "InvalidSpec":  # of a manifest that cannot be read not even the name of a selector is known
        shown = around.status()
        assert (shown["replicas"], shown["pool"], shown["selector"]) == (1, "cheap", was["selector"])


# Switching


def test_a_switch_starts_the_new_side_sends_to_it_drains_and_then_stops_the_old() -> None:
    around = serving()
    old = sent_to(around)
    price(around, "cheap", CHEAP_GONE_DEAR)
    around.now += timedelta(hours=2)
    around.ready = False
    around.reconcile()
    assert around.running() == {"cheap": 1, "fast": 1}
    assert sent_to(around) == old
    assert around.condition("Available") == ("True", "Switching")
    assert sorted(around.decisions().values()) == ["Active", "Superseded"]
    around.ready = True
    around.play()
    assert around.reconcile() == 15.0
    new = sent_to(around)
    assert new != old
    assert around.running() == {"cheap": 1, "fast": 1}
    around.now += timedelta(seconds=14)
    assert around.reconcile() == 1.0
    assert around.running() == {"cheap": 1, "fast": 1}
    around.now += timedelta(seconds=1)
    around.reconcile()
    assert around.running() == {"fast": 1}
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    assert "SwitchStarted" in around.events()


def test_where_both_sides_do_not_fit_the_budget_the_old_one_goes_first() -> None:
    around = serving(budget="10")
    price(around, "cheap", "9.5")
    price(around, "fast", "2")
    around.now += timedelta(hours=2)
    price(around, "fast", "9.4")
    around.edit(slo={"ttft": {"p95": "100ms"}})  # the cheap pool does not keep it; both cost 18.9
    around.reconcile()
    assert around.running() in ({}, {"cheap": 1, "fast": 1})
    around.settle()
    assert around.running() == {"fast": 1}


def test_the_old_side_goes_first_where_there_is_no_room_for_both() -> None:
    around = with_pools(Around(), cheap=1, fast=0)
    around.apply(workload(methods={"allow": ["default", "no-prefix-caching"]}))
    around.settle()
    assert around.running() == {"cheap": 1}
    around.edit(methods={"allow": ["no-prefix-caching"]})
    around.reconcile()
    assert around.condition("Available") == ("Unknown", "Recreating")
    assert around.deployments() == []
    around.settle()
    (body,) = around.deployments()
    assert "--no-enable-prefix-caching" in body["spec"]["template"]["spec"]["containers"][0]["args"]
    assert around.condition("Ready") == ("True", "Serving")


def test_a_template_rolls_with_one_more_replica_only_where_there_is_room_for_it() -> None:
    around = with_pools(Around(), cheap=2, fast=1)
    around.apply(workload())
    around.settle()

    def surge() -> int:
        (body,) = around.deployments()
        return int(body["spec"]["strategy"]["rollingUpdate"]["maxSurge"])

    assert surge() == 1  # two cheap nodes, one replica
    price(around, "cheap", CHEAP_GONE_DEAR)
    around.now += timedelta(hours=2)
    around.settle()
    assert around.running() == {"fast": 1}
    assert surge() == 0  # one fast node: the old side's room was elsewhere


def test_the_strategy_stays_as_it_is_until_the_template_changes_and_then_follows_the_room() -> None:
    around = with_pools(Around(), cheap=2, fast=0)
    around.apply(workload())
    around.settle()

    def surge() -> int:
        (body,) = around.deployments()
        return int(body["spec"]["strategy"]["rollingUpdate"]["maxSurge"])

    (taken,) = {p["spec"]["nodeName"] for p in around.cluster.all(POD)}
    (other,) = {"cheap-0", "cheap-1"} - {taken}
    around.cluster.edit(NODE, other, {"spec": {"unschedulable": True}})
    around.settle()
    assert surge() == 1
    around.edit(engine={"podTemplate": {"metadata": {"annotations": {"example.com/note": "a"}}}})
    around.settle()
    assert surge() == 0
    around.cluster.edit(NODE, other, {"spec": {"unschedulable": False}})
    around.settle()
    assert surge() == 0
    around.edit(engine={"podTemplate": {"metadata": {"annotations": {"example.com/note": "b"}}}})
    around.settle()
    assert surge() == 1


def test_only_so_many_workloads_switch_at_a_time_and_a_switch_under_way_may_turn() -> None:
    around = with_pools(Around(settings=replace(SETTINGS, max_concurrent_switches=1)))
    for name in ("a", "b"):
        around.apply(workload(name))
    around.settle("a", "b")
    around.ready = False
    for name in ("a", "b"):
        around.edit(name, slo=TOO_QUICK_FOR_CHEAP)
        around.reconcile(name)
    assert around.running("a") == {"cheap": 1, "fast": 1}
    assert around.running("b") == {"cheap": 1}
    assert around.condition("Available", "b") == ("True", "WaitingToSwitch")
    # a changes its mind amid the switch: it does not wait for itself.
    around.edit("a", engine={"extraArgs": ["--seed=7"]})
    around.reconcile("a")
    assert around.condition("Available", "a")[1] != "WaitingToSwitch"
    around.ready = True
    around.settle("a", "b")
    assert (around.running("a"), around.running("b")) == ({"fast": 1}, {"fast": 1})


def names(around: Around, of: str = "chat") -> set[str]:
    """The Deployments that stand for a workload."""
    found = (body["metadata"] for body in around.deployments())
    return {metadata["name"] for metadata in found if metadata["labels"]["metainf.dev/workload"] == of}


def test_a_switch_whose_new_side_does_not_start_is_told_and_holds_up_nobody_else() -> None:
    around = with_pools(Around(settings=replace(SETTINGS, max_concurrent_switches=1)))
    for name in ("a", "b"):
        around.apply(workload(name))
    around.settle("a", "b")
    (old,) = names(around, "a")
    for name in ("a", "b"):
        around.edit(name, slo=TOO_QUICK_FOR_CHEAP)
        around.reconcile(name)
    assert around.condition("Available", "b") == ("True", "WaitingToSwitch")
    around.failed |= names(around, "a") - {old}
    around.play()
    around.reconcile("a")
    assert around.running("a") == {"cheap": 1, "fast": 1}
    assert around.condition("Available", "a") == ("True", "SwitchFailed")
    assert around.condition("Ready", "a") == ("False", "SwitchFailed")
    assert around.message("Ready", "a") == "0 of 1 replicas are ready: late; the old candidate serves on"
    assert around.events().count("SwitchFailed") == 1
    around.reconcile("b")
    assert around.running("b") == {"cheap": 1, "fast": 1}
    around.failed.clear()
    around.settle("a", "b")
    assert (around.running("a"), around.running("b")) == ({"fast": 1}, {"fast": 1})
    assert around.condition("Ready", "a") == ("True", "Serving")


def noted(around: Around) -> set[str]:
    """Workloads whose pods' template has the note."""
    return {
        body["metadata"]["labels"]["metainf.dev/workload"]
        for body in around.deployments()
        if "example.com/note" in (body["spec"]["template"]["metadata"].get("annotations") or {})
    }


NOTE = {"podTemplate": {"metadata": {"annotations": {"example.com/note": "1"}}}}


def two_that_serve_and_one_turn() -> Around:
    """Two workloads serve, of which one may switch or roll at a time; the first has just begun to roll."""
    around = with_pools(Around(settings=replace(SETTINGS, max_concurrent_switches=1)))
    for name in ("a", "b"):
        around.apply(workload(name))
    around.settle("a", "b")
    around.edit("a", engine=NOTE)
    around.reconcile("a")
    assert noted(around) == {"a"}
    return around


def goes_on_rolling(around: Around, name: str) -> None:
    """The Deployment controller has seen the new template, and replaces pods."""
    (rolls,) = names(around, name)
    revision = {"metadata": {"annotations": {"deployment.kubernetes.io/revision": "2"}}}
    around.cluster.edit(DEPLOYMENT, rolls, revision, "team", manager="kcm")
    around.play()


def test_pods_are_replaced_in_place_by_as_many_at_a_time_as_may_switch() -> None:
    around = two_that_serve_and_one_turn()
    around.edit("b", engine=NOTE)
    assert around.reconcile("b") == 10.0
    assert around.condition("Available", "b") == ("True", "WaitingToSwitch")
    assert "its pods are replaced once fewer workloads switch or roll" in around.message("Available", "b")
    goes_on_rolling(around, "a")
    assert around.reconcile("b") == 10.0
    assert noted(around) == {"a"}
    (rolls,) = names(around, "a")
    came = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
    around.cluster.edit(DEPLOYMENT, rolls, {"status": {"conditions": [came]}}, "team", manager="kcm")
    around.reconcile("b")
    assert noted(around) == {"a", "b"}


def test_a_switch_waits_for_its_turn_behind_pods_that_are_replaced_in_place() -> None:
    around = two_that_serve_and_one_turn()
    around.edit("b", slo=TOO_QUICK_FOR_CHEAP)
    around.reconcile("b")
    assert around.condition("Available", "b") == ("True", "WaitingToSwitch")
    assert around.running("b") == {"cheap": 1}


def test_what_interrupts_nobody_waits_for_no_turn() -> None:
    around = two_that_serve_and_one_turn()
    around.edit("b", scaling={"replicas": 2})
    around.reconcile("b")
    assert around.running("b") == {"cheap": 2}
    around.apply(workload("c"))
    around.reconcile("c")
    assert around.running("c") == {"cheap": 1}
    around.ready = False
    goes_on_rolling(around, "a")
    around.edit("b", engine=NOTE)
    around.reconcile("b")  # none of its pods answers
    assert "b" in noted(around)


def test_a_candidate_that_failed_makes_room_for_the_next_while_the_old_one_serves() -> None:
    around = with_pools(Around(), cheap=2, fast=0)
    around.apply(workload(methods={"allow": ["default", "no-prefix-caching"]}))
    around.settle()
    old, (first,) = sent_to(around), names(around)
    around.edit(methods={"allow": ["no-prefix-caching"]})
    around.reconcile()
    (second,) = names(around) - {first}
    around.failed.add(second)
    around.play()
    around.reconcile()
    assert around.condition("Available") == ("True", "SwitchFailed")
    (late,) = [p["metadata"]["name"] for p in around.cluster.all(POD) if p["metadata"]["annotations"]["of"] == second]
    around.cluster.edit(POD, late, {"metadata": {"finalizers": ["test/takes-its-time"]}}, "team")

    around.edit(engine={"extraArgs": ["--seed=7"]})
    around.reconcile()
    assert names(around) == {first}
    assert around.condition("Available") == ("True", "Switching")
    assert around.reconcile() == 10.0  # its pod is still going
    assert (names(around), sent_to(around)) == ({first}, old)
    around.cluster.edit(POD, late, {"metadata": {"finalizers": None}}, "team")
    around.reconcile()
    assert (len(names(around)), sent_to(around)) == (2, old)
    around.settle()
    assert first not in names(around)
    assert around.condition("Ready") == ("True", "Serving")


def test_a_gain_that_is_small_or_too_soon_moves_nobody() -> None:
    around = serving()
    price(around, "fast", "0.95")
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("Decided") == ("True", "Kept")
    assert "policy.minimumGain" in around.message("Decided")
    price(around, "fast", "0.5")
    around.now = around.now.replace(hour=12, minute=5)
    around.settle()
    assert "policy.cooldown" in around.message("Decided")
    around.now += timedelta(hours=1)
    around.resync()
    assert around.running() == {"fast": 1}


def test_a_gain_whose_both_sides_cost_more_than_the_budget_interrupts_nobody() -> None:
    around = serving(budget="1.2")
    price(around, "fast", "0.5")
    around.now += timedelta(hours=2)
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("Available") == ("True", "Serving")
    assert around.condition("Decided") == ("True", "Kept")
    said = around.message("Decided")
    assert "both sides would cost 1.50 USD/h while it starts, the budget is 1.2 USD/h" in said
    assert "policy.pinned.candidate" in said
    assert around.world.held_back == set()  # room is there
    assert list(around.decisions().values()) == ["Active"]
    around.edit(budget={"perHour": "1.5"})
    around.settle()
    assert around.running() == {"fast": 1}


def _repetition_pays(question: Question) -> float:
    """Where text repeats itself, an engine without a prefix cache does twice as well: made up."""
    repeats = question.traffic.repetitiveness is Repetitiveness.HIGH
    return 8.0 if repeats and not question.replica.settings.prefix_caching else 4.0


def full_node() -> Around:
    """A workload on the only accelerator there is, whose traffic turns out to suit another method."""
    around = with_pools(Around(predictor=StubPredictor(_repetition_pays)), cheap=1, fast=0)
    around.apply(
        workload(
            objective="MaximizeThroughput",
            methods={"allow": ["default", "no-prefix-caching"]},
            scaling={"maxReplicas": 1},
            policy={"cooldown": "0s"},
        )
    )
    around.settle()
    around.edit(traffic={"repetitiveness": "High"})
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("Ready") == ("True", "Serving")
    assert "cheap has room for 0 of its 1 replica beside what runs" in around.message("Decided")
    assert not _caches_no_prefixes(around)
    return around


def _caches_no_prefixes(around: Around) -> bool:
    (body,) = around.deployments()
    return "--no-enable-prefix-caching" in body["spec"]["template"]["spec"]["containers"][0]["args"]


def test_a_gain_on_a_full_node_waits_for_room_beside_what_runs() -> None:
    around = full_node()
    old = sent_to(around)
    body = node("cheap-1", "gfd-a100", labels={"pool": "cheap"}, allocatable={**ROOMY, "nvidia.com/gpu": "1"})
    around.cluster.put(NODE, body)
    around.reconcile()
    assert around.condition("Available") == ("True", "Switching")
    assert sent_to(around) == old
    around.settle()
    assert _caches_no_prefixes(around)
    assert around.condition("Ready") == ("True", "Serving")


def test_a_gain_that_is_held_for_room_is_taken_when_another_workload_leaves() -> None:
    around = with_pools(Around(predictor=StubPredictor(_repetition_pays)), cheap=2, fast=0)
    limits: dict[str, Any] = {"methods": {"allow": ["default", "no-prefix-caching"]}, "scaling": {"maxReplicas": 1}}
    around.apply(workload(objective="MaximizeThroughput", policy={"cooldown": "0s"}, **limits))
    around.apply(workload("other"))
    around.settle("chat", "other")
    assert around.world.held_back == set()
    around.edit(traffic={"repetitiveness": "High"})
    around.settle("chat", "other")
    assert around.condition("Decided") == ("True", "Kept")
    assert around.world.held_back == {WorkloadKey("team", "chat")}
    around.cluster.remove(INFERENCE_WORKLOAD, "other", "team")
    around.settle("other")
    for key in set(around.world.held_back):  # what the change of a pod brings about
        around.controller.decide_anew(key)
    around.settle()
    assert _caches_no_prefixes(around)
    assert around.world.held_back == set()


def test_a_pin_takes_a_gain_on_a_full_node_and_stops_what_runs_first() -> None:
    around = full_node()
    candidate = {"pool": "cheap", "method": "no-prefix-caching", "replicas": 1}
    around.edit(policy={"mode": "Pinned", "pinned": {"candidate": candidate}})
    around.reconcile()
    assert around.condition("Available") == ("Unknown", "Recreating")
    around.settle()
    assert _caches_no_prefixes(around)
    assert around.condition("Ready") == ("True", "Serving")


def test_a_switch_for_a_gain_is_decided_when_its_turn_comes() -> None:
    around = with_pools(Around(settings=replace(SETTINGS, max_concurrent_switches=1)))
    for name in ("a", "b"):
        around.apply(workload(name))
    around.settle("a", "b")
    price(around, "cheap", CHEAP_GONE_DEAR)
    around.now += timedelta(hours=2)
    for name in ("a", "b"):
        around.reconcile(name)
    assert around.running("a") == {"cheap": 1, "fast": 1}
    assert around.running("b") == {"cheap": 1}
    assert around.condition("Available", "b") == ("True", "Serving")
    assert around.condition("Decided", "b") == ("True", "Kept")
    assert "as many workloads switch now as may at a time" in around.message("Decided", "b")

    def weighed() -> float | None:
        return around.metrics.registry.get_sample_value("metainf_selections_total", {"outcome": "kept"})

    before, writes = weighed(), len(around.cluster.writes)
    assert around.reconcile("b") == 10.0
    assert (weighed(), len(around.cluster.writes)) == (before, writes)
    around.settle("a", "b")
    assert (around.running("a"), around.running("b")) == ({"fast": 1}, {"fast": 1})


def test_a_new_image_reaches_the_pods_though_the_candidate_stays() -> None:
    around = serving()
    around.edit(engine={"image": "mine:2"})
    around.settle()
    (body,) = around.deployments()
    assert body["spec"]["template"]["spec"]["containers"][0]["image"] == "mine:2"
    assert around.condition("Ready") == ("True", "Serving")


def test_a_new_default_image_of_the_operators_restarts_nobody() -> None:
    around = serving()
    (was,) = around.deployments()
    around.settings = replace(SETTINGS, image_nvidia="elsewhere/vllm:v{version}")
    around.restart()
    around.settle()
    (body,) = around.deployments()
    assert body["metadata"]["resourceVersion"] == was["metadata"]["resourceVersion"]


def test_a_node_lost_moves_the_workload_to_where_there_is_room() -> None:
    around = with_pools(Around(), cheap=1, fast=1)
    around.apply(workload())
    around.settle()
    around.cluster.remove(NODE, "cheap-0")
    for pod in around.cluster.all(POD):
        around.cluster.remove(POD, pod["metadata"]["name"], "team")
    around.settle()
    assert around.running() == {"fast": 1}
    assert around.condition("Ready") == ("True", "Serving")


def test_a_cordoned_node_moves_nobody_who_runs_there() -> None:
    around = with_pools(Around(), cheap=1, fast=1)
    around.apply(workload())
    around.settle()
    around.cluster.edit(NODE, "cheap-0", {"spec": {"unschedulable": True}})
    before = len(around.cluster.writes)
    around.settle()
    assert around.cluster.writes[before:] == []


CLOSED = {"key": "maintenance", "effect": "NoSchedule"}
DEVICE = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
STARTS = {"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute"}


def taint(around: Around, name: str, each: dict[str, str]) -> None:
    around.cluster.edit(NODE, name, {"spec": {"taints": [each]}})


@pytest.mark.parametrize("name", [pytest.param("cheap-0", id="its own"), pytest.param("cheap-1", id="another")])
@pytest.mark.parametrize("each", [pytest.param(CLOSED, id="closed"), pytest.param(STARTS, id="starting")])
def test_a_node_that_is_tainted_moves_and_stops_nobody(name: str, each: dict[str, str]) -> None:
    around = with_pools(Around(), cheap=2, fast=1)
    around.apply(workload(policy={"onViolation": "Stop"}))
    around.settle()
    assert {p["spec"]["nodeName"] for p in around.cluster.all(POD)} == {"cheap-0"}
    decisions, before = around.decisions(), len(around.cluster.writes)
    taint(around, name, each)
    around.settle()
    assert [call for call in around.cluster.writes[before:] if call.resource == DEPLOYMENT] == []
    assert around.decisions() == decisions
    assert around.condition("Ready") == ("True", "Serving")


def test_a_tainted_node_is_no_room_for_those_who_come() -> None:
    around = with_pools(Around(), cheap=2, fast=0)
    taint(around, "cheap-1", CLOSED)
    for name in ("a", "b"):
        around.apply(workload(name))
    around.settle("a", "b")
    assert around.condition("Ready", "a") == ("True", "Serving")
    assert around.condition("Ready", "b") == ("False", "NoCapacity")
    around.cluster.edit(NODE, "cheap-1", {"spec": {"taints": []}})
    around.settle("a", "b")
    assert around.condition("Ready", "b") == ("True", "Serving")


EVICTS = {**CLOSED, "effect": "NoExecute"}
DEDICATED = {"key": "dedicated", "value": "llm", "effect": "NoSchedule"}


def close(around: Around, nodes: int, each: dict[str, str]) -> None:
    """The same taint on all cheap nodes, one after the other."""
    for number in range(nodes):
        taint(around, f"cheap-{number}", each)
        around.settle()


@pytest.mark.parametrize("fast", [pytest.param(0, id="nothing else is there"), pytest.param(1, id="another is")])
def test_a_taint_on_all_nodes_of_a_pool_moves_and_stops_nobody_who_runs_there(fast: int) -> None:
    around = with_pools(Around(), cheap=2, fast=fast)
    around.apply(workload(policy={"onViolation": "Stop"}))
    around.settle()
    decisions, before = around.decisions(), len(around.cluster.writes)
    close(around, 2, CLOSED)
    around.resync()
    assert [call for call in around.cluster.writes[before:] if call.resource == DEPLOYMENT] == []
    assert around.decisions() == decisions
    assert around.condition("Ready") == ("True", "Serving")
    assert around.condition("Decided") == ("True", "Kept")
    assert "cheap has the taint maintenance: add it to placement.tolerations" in around.message("Decided")


def test_a_taint_that_evicts_on_all_nodes_of_a_pool_moves_what_runs_there() -> None:
    around = with_pools(Around(), cheap=2, fast=1)
    around.apply(workload())
    around.settle()
    close(around, 2, EVICTS)
    assert around.running() == {"fast": 1}
    assert around.condition("Ready") == ("True", "Serving")


def test_a_pod_that_is_lost_in_a_pool_that_takes_no_new_ones_is_made_up_for_elsewhere() -> None:
    around = with_pools(Around(), cheap=2, fast=1)
    around.apply(workload())
    around.settle()
    close(around, 2, CLOSED)
    assert around.running() == {"cheap": 1}
    for pod in around.cluster.all(POD):
        around.cluster.remove(POD, pod["metadata"]["name"], "team")
    around.resync()
    assert around.running() == {"fast": 1}
    assert around.condition("Ready") == ("True", "Serving")


def test_a_toleration_that_is_taken_back_moves_what_runs_on_dedicated_nodes() -> None:
    around = with_pools(Around(), cheap=2, fast=1)
    close(around, 2, DEDICATED)
    around.apply(workload(placement={"tolerations": [{**DEDICATED, "operator": "Equal"}]}))
    around.settle()
    assert around.running() == {"cheap": 1}
    around.edit(placement={"tolerations": []})
    around.settle()
    assert around.running() == {"fast": 1}
    assert around.condition("Ready") == ("True", "Serving")


@pytest.mark.parametrize("budget", ["1", "2"])
def test_what_runs_in_a_pool_that_takes_no_new_pods_keeps_to_its_budget(budget: str) -> None:
    around = with_pools(Around(), cheap=2, fast=0)
    around.apply(workload(budget="2", policy={"onViolation": "Stop"}))
    around.settle()
    close(around, 2, CLOSED)
    price(around, "cheap", "2")
    around.edit(budget={"perHour": budget})
    around.settle()
    assert around.running() == {"cheap": 1 if budget == "2" else 0}


@pytest.fixture
def too_little_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """From when it is called, no model fits any accelerator."""

    def now() -> None:
        monkeypatch.setattr("metainf.memory._CACHE_MARGIN_RATIO", 1e4)
        candidates._replicas_of_shape.cache_clear()

    yield now
    monkeypatch.undo()
    candidates._replicas_of_shape.cache_clear()


def test_a_limit_on_memory_that_a_new_version_adds_moves_nobody_who_serves(
    too_little_memory: Callable[[], None],
) -> None:
    around = with_pools(Around(), cheap=2, fast=1)
    around.apply(workload(policy={"onViolation": "Stop"}))
    around.settle()
    before = len(around.cluster.writes)
    too_little_memory()
    around.resync()
    assert "exceeds the usable" in around.message("Decided")
    around.apply(workload("second"))
    around.settle("second", "chat")
    assert around.condition("Feasible", "second")[1] == "ModelDoesNotFit"
    assert [call for call in around.cluster.writes[before:] if call.resource == DEPLOYMENT] == []
    assert around.condition("Ready", "chat") == ("True", "Serving")


def test_an_engine_that_loads_again_after_memory_was_limited_is_waited_for(
    too_little_memory: Callable[[], None],
) -> None:
    around = with_pools(Around(), cheap=2, fast=1)
    around.apply(workload(policy={"onViolation": "Stop"}))
    around.settle()
    (body,), (pod,) = around.deployments(), around.cluster.all(POD)
    around.cluster.edit(POD, pod["metadata"]["name"], {"status": {"conditions": []}}, "team")
    reached = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
    patch = {"status": {"availableReplicas": 0, "conditions": [reached]}}
    around.cluster.edit(DEPLOYMENT, body["metadata"]["name"], patch, "team")
    before = len(around.cluster.writes)
    too_little_memory()
    around.controller.decide_anew()
    around.reconcile()
    assert [call for call in around.cluster.writes[before:] if call.resource == DEPLOYMENT] == []
    assert around.running() == {"cheap": 1}


@pytest.mark.parametrize(("policy", "left"), [("Keep", {"cheap": 1}), ("Stop", {"cheap": 0})])
def test_what_serves_shows_no_memory_for_longer_requests_than_it_was_made_for(
    too_little_memory: Callable[[], None], policy: str, left: dict[str, int]
) -> None:
    around = with_pools(Around(), cheap=2, fast=1)
    around.apply(workload(policy={"onViolation": policy}))
    around.settle()
    too_little_memory()
    around.edit(traffic={"inputTokens": {"mean": 30000}})
    around.settle()
    assert around.running() == left
    assert around.condition("Feasible") == ("False", "ModelDoesNotFit")
    assert around.condition("Ready") == ("False", "ModelDoesNotFit")


def test_what_is_asked_anew_and_finds_no_place_is_said_and_stops_nothing() -> None:
    around = with_pools(Around(), cheap=2, fast=0)
    around.apply(workload(policy={"onViolation": "Stop"}, placement={"pools": ["cheap"]}))
    around.settle()
    close(around, 2, CLOSED)
    around.edit(engine={"image": "mine:1"})
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("Ready") == ("False", "NoMatchingPool")
    assert around.condition("Available") == ("True", "Serving")
    for number in range(2):
        around.cluster.edit(NODE, f"cheap-{number}", {"spec": {"taints": []}})
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    (body,) = around.deployments()
    assert body["spec"]["template"]["spec"]["containers"][0]["image"] == "mine:1"


# Nodes that are selected by their labels


def in_zone(around: Around, name: str, zone: str | None) -> None:
    around.cluster.edit(NODE, name, {"metadata": {"labels": {"zone": zone}}})


def in_zones() -> Around:
    """Two cheap nodes in two zones, and a workload that selects the second."""
    around = with_pools(Around(), cheap=2, fast=0)
    for name, zone in (("cheap-0", "a"), ("cheap-1", "b")):
        in_zone(around, name, zone)
    around.apply(workload(placement={"nodeSelector": {"zone": "b"}}))
    around.settle()
    return around


def test_a_selector_that_a_part_of_a_pool_matches_leaves_that_part() -> None:
    around = in_zones()
    assert around.condition("Ready") == ("True", "Serving")
    assert {p["spec"]["nodeName"] for p in around.cluster.all(POD)} == {"cheap-1"}
    around.apply(workload("second", placement={"nodeSelector": {"zone": "b"}}))
    around.apply(workload("third"))
    around.settle("chat", "second", "third")
    assert around.condition("Ready", "second") == ("False", "NoCapacity")
    assert around.condition("Ready", "third") == ("True", "Serving")  # what second claims is not on its node
    around.apply(workload("fourth", placement={"nodeSelector": {"zone": "c"}}))
    around.settle("fourth")
    assert around.condition("Ready", "fourth") == ("False", "NoMatchingPool")
    assert "cheap has no label zone=c" in around.message("Ready", "fourth")


def test_two_workloads_never_count_on_one_node_that_only_one_of_them_selects() -> None:
    around = with_pools(Around(), cheap=2, fast=0)
    for name, zone in (("cheap-0", "a"), ("cheap-1", "b")):
        in_zone(around, name, zone)
    around.apply(workload("anywhere"))
    around.reconcile("anywhere")
    assert around.running("anywhere") == {"cheap": 1}
    around.apply(workload(placement={"nodeSelector": {"zone": "b"}}))
    around.reconcile()
    assert around.running() == {}
    assert around.condition("Feasible") == ("False", "NoCapacity")  # the pod of the other has no node yet
    around.settle("anywhere", "chat")
    assert {p["spec"]["nodeName"] for p in around.cluster.all(POD)} == {"cheap-0", "cheap-1"}
    assert around.condition("Ready") == ("True", "Serving")


def reserved_and_not_bound() -> Around:
    """Two cheap nodes in two zones; one workload has reserved the first, which it selects, and another comes then."""
    around = with_pools(Around(), cheap=2, fast=0)
    for name, zone in (("cheap-0", "a"), ("cheap-1", "b")):
        in_zone(around, name, zone)
    around.apply(workload(placement={"nodeSelector": {"zone": "a"}}))
    around.reconcile()
    assert around.running() == {"cheap": 1}
    around.now += timedelta(seconds=1)
    around.apply(workload("anywhere"))
    assert around.reconcile("anywhere") == 5.0
    return around


def test_pods_that_may_go_anywhere_are_not_started_before_those_that_reserved_nodes_they_select() -> None:
    around = reserved_and_not_bound()
    assert around.running("anywhere") == {}
    assert around.condition("Available", "anywhere") == ("Unknown", "RollingOut")
    assert "before that, pods of team/chat take the nodes" in around.message("Available", "anywhere")
    around.restart()
    around.reconcile("anywhere")
    assert around.running("anywhere") == {}  # a new process comes to the same answer
    around.settle("anywhere", "chat")
    placed = {p["metadata"]["labels"]["metainf.dev/workload"]: p["spec"]["nodeName"] for p in around.cluster.all(POD)}
    assert placed == {"chat": "cheap-0", "anywhere": "cheap-1"}
    assert around.condition("Ready", "anywhere") == ("True", "Serving")


def test_who_is_deleted_keeps_no_place() -> None:
    around = reserved_and_not_bound()
    around.cluster.remove(INFERENCE_WORKLOAD, "chat", "team")
    around.settle("chat", "anywhere")
    assert around.condition("Ready", "anywhere") == ("True", "Serving")


def test_a_place_that_nobody_comes_to_take_is_not_kept_for_ever() -> None:
    around = reserved_and_not_bound()
    around.now += timedelta(minutes=9)
    around.reconcile("anywhere")
    assert around.running("anywhere") == {}
    around.now += timedelta(minutes=1)
    around.reconcile("anywhere")
    assert around.running("anywhere") == {"cheap": 1}


@pytest.mark.parametrize("zone", [pytest.param(None, id="without the label"), pytest.param("a", id="of another zone")])
def test_a_node_that_joins_a_pool_moves_nobody_who_selects_others_of_it(zone: str | None) -> None:
    around = with_pools(Around(), cheap=1, fast=1)
    in_zone(around, "cheap-0", "b")
    around.apply(workload(placement={"nodeSelector": {"zone": "b"}}, policy={"onViolation": "Stop"}))
    in_zone(around, "fast-0", "b")
    around.settle()
    assert around.running() == {"cheap": 1}
    before = len(around.cluster.writes)
    body = node("cheap-9", "gfd-a100", labels={"pool": "cheap"}, allocatable={**ROOMY, "nvidia.com/gpu": "1"})
    around.cluster.put(NODE, body)
    in_zone(around, "cheap-9", zone)
    around.settle()
    assert [call for call in around.cluster.writes[before:] if call.resource == DEPLOYMENT] == []
    assert around.condition("Ready") == ("True", "Serving")


def test_a_node_that_gets_the_label_is_room_for_who_selects_it() -> None:
    around = in_zones()
    around.apply(workload("second", placement={"nodeSelector": {"zone": "b"}}))
    around.settle("chat", "second")
    assert around.condition("Feasible", "second") == ("False", "NoCapacity")
    in_zone(around, "cheap-0", "b")
    around.settle("chat", "second")
    assert around.condition("Ready", "second") == ("True", "Serving")


# Nodes that no AcceleratorPool names


def host(name: str, per_hour: str | None, **more: Any) -> dict[str, Any]:
    return node(name, price=per_hour, allocatable={**ROOMY, "nvidia.com/gpu": "1"}, **more)


def with_nodes(**prices: str) -> Around:
    """Nodes of one kind by what they cost."""
    around = Around()
    for name, per_hour in prices.items():
        around.cluster.put(NODE, host(name, per_hour))
    return around


def kept_to(around: Around) -> list[str]:
    """The nodes that the template of the one Deployment names."""
    (body,) = around.deployments()
    affinity = body["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return [n for e in term["matchExpressions"] if e["key"] == "kubernetes.io/hostname" for n in e["values"]]


@pytest.mark.parametrize("dear", [pytest.param([], id="told by labels"), pytest.param(["x0"], id="told by name")])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(host("g9", "1"), id="a node comes"),
        pytest.param(host("g9", "3"), id="one of another price comes"),
        pytest.param(host("g9", None), id="one whose price is not known yet comes"),
        pytest.param("g1", id="a node goes"),
        pytest.param(host("g1", "3"), id="another is priced anew"),
        pytest.param(host("g0", "1.005"), id="its own is priced a little differently"),
        pytest.param(host("g0", None), id="the price of its own is not known for a while"),
        pytest.param(host("g1", "1", taints=[CLOSED]), id="another is closed"),
        pytest.param(host("g1", "1", taints=[DEVICE]), id="another has the accelerator's own taint now"),
        pytest.param(host("g0", "1", taints=[CLOSED]), id="its own is closed"),
        pytest.param(host("g0", "1", cordoned=True), id="its own is cordoned"),
    ],
)
def test_a_node_that_comes_goes_or_changes_writes_no_deployment(body: dict[str, Any] | str, dear: list[str]) -> None:
    around = with_nodes(g0="1", g1="1", g2="1", **dict.fromkeys(dear, "3"))
    around.apply(workload())
    around.settle()
    assert kept_to(around) == (["g0", "g1", "g2"] if dear else [])
    before = len(around.cluster.writes)
    if isinstance(body, str):
        around.cluster.remove(NODE, body)
    else:
        around.cluster.put(NODE, body)
    around.settle()
    assert [call for call in around.cluster.writes[before:] if call.resource == DEPLOYMENT] == []
    assert around.condition("Ready") == ("True", "Serving")


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([], id="nothing else"),
        pytest.param([host("h0", "10", like="gke-h100")], id="another kind"),
        pytest.param([host("d0", "1", taints=[DEDICATED])], id="nodes of the kind that are dedicated"),
    ],
)
@pytest.mark.parametrize("taint", [CLOSED, DEVICE], ids=["closed", "of the accelerator itself"])
def test_a_taint_on_all_nodes_of_a_kind_moves_and_stops_nobody_who_runs_there(
    others: list[dict[str, Any]], taint: dict[str, str]
) -> None:
    around = with_nodes(g0="1", g1="1")
    for each in others:
        around.cluster.put(NODE, each)
    around.apply(workload(policy={"onViolation": "Stop"}))
    around.settle()
    before = len(around.cluster.writes)
    for taints in ([taint], []):
        for name in ("g0", "g1"):
            around.cluster.put(NODE, host(name, "1", taints=taints))
            around.settle()
            assert [call for call in around.cluster.writes[before:] if call.resource == DEPLOYMENT] == []
            assert around.condition("Ready") == ("True", "Serving")


def placed_in(pool: str) -> dict[str, Any]:
    return {"placement": {"pools": [pool]}}


def pinned_to(pool: str) -> dict[str, Any]:
    candidate = {"pool": pool, "method": "default", "replicas": 1}
    return {"policy": {"mode": "Pinned", "pinned": {"candidate": candidate}}}


@pytest.mark.parametrize("spec", [placed_in, pinned_to])
@pytest.mark.parametrize("today", [pytest.param(True, id="by today's name"), pytest.param(False, id="by the former")])
def test_a_pool_that_a_taint_renamed_is_meant_by_either_of_its_names(
    spec: Callable[[str], dict[str, Any]], today: bool
) -> None:
    around = with_nodes(g0="1", g1="1")
    around.apply(workload())
    around.settle()
    (before,) = around.running()
    writes = len(around.cluster.writes)
    for name in ("g0", "g1"):
        around.cluster.put(NODE, host(name, "1", taints=[CLOSED]))
        around.settle()
    (record,) = around.world.inventory.pools
    assert record.pool.name != before
    around.edit(**spec(record.pool.name if today else before))
    around.settle()
    assert [call for call in around.cluster.writes[writes:] if call.resource == DEPLOYMENT] == []
    assert around.condition("Ready") == ("True", "Serving")


def test_what_is_suspended_is_not_written_for_a_node_either() -> None:
    around = with_nodes(g0="1", g1="1", x0="3")
    around.apply(workload())
    around.settle()
    around.edit(suspend=True)
    around.settle()
    before = len(around.cluster.writes)
    around.cluster.put(NODE, host("g9", "1"))
    around.settle()
    assert [call for call in around.cluster.writes[before:] if call.resource == DEPLOYMENT] == []
    around.edit(suspend=False)
    around.settle()
    assert kept_to(around) == ["g0", "g1", "g9"]  # nobody is restarted by it


def test_pods_on_a_node_that_belongs_to_another_pool_now_are_called_back() -> None:
    around = with_nodes(g0="1", g1="1", g2="1")
    around.apply(workload())
    around.settle()
    assert {p["spec"]["nodeName"] for p in around.cluster.all(POD)} == {"g0"}
    around.cluster.put(NODE, host("g0", "3"))
    around.settle()
    assert kept_to(around) == ["g1", "g2"]


def test_pods_are_not_called_back_to_where_there_is_no_room() -> None:
    around = with_nodes(g0="1", x0="9")
    around.apply(workload(budget="1.5"))
    around.settle()
    assert kept_to(around) == ["g0"]
    before = len(around.cluster.writes)
    around.cluster.put(NODE, host("g0", "3"))  # its pool is gone, and it is kept: nothing else is within the budget
    around.settle()
    assert [call for call in around.cluster.writes[before:] if call.resource == DEPLOYMENT] == []


def test_room_that_somebody_else_has_reserved_restarts_nobody() -> None:
    around = with_nodes(g0="1", x0="9")
    around.apply(workload())
    around.settle()
    around.cluster.put(NODE, host("g1", "1"))
    around.settle()
    record = next(r for r in around.world.inventory.pools if "g0" in r.members)
    (mine,) = [r for r in around.world.decisions.values() if r.holds]
    assert mine.head.reservation is not None
    other = WorkloadKey("team-a", "other")
    around.world.reserving[other] = Hold(other, around.now, record.pool.name, mine.head.reservation.request, 1)
    before = len(around.cluster.writes)
    around.reconcile()
    assert [call for call in around.cluster.writes[before:] if call.resource == DEPLOYMENT] == []


def test_what_is_suspended_stops_though_its_pool_is_there_no_more() -> None:
    around = serving()
    around.cluster.remove(ACCELERATOR_POOL, "cheap")
    around.cluster.remove(ACCELERATOR_POOL, "fast")
    around.settle()
    assert sum(around.running().values()) == 1
    around.edit(suspend=True)
    around.settle()
    assert sum(around.running().values()) == 0


def test_a_new_node_is_named_once_the_replicas_need_it() -> None:
    around = with_nodes(g0="1", x0="9")
    around.apply(workload())
    around.settle()
    assert kept_to(around) == ["g0"]
    around.cluster.put(NODE, host("g1", "1"))
    around.settle()
    assert kept_to(around) == ["g0"]
    around.edit(traffic={"requestsPerSecond": "6"})
    around.settle()
    assert kept_to(around) == ["g0", "g1"]
    assert sum(around.running().values()) == 2
    assert around.condition("Ready") == ("True", "Serving")


def test_pods_of_a_version_that_did_not_pack_them_are_packed_once_they_start_anew() -> None:
    around = serving()

    def affinity() -> dict[str, Any]:
        (body,) = around.deployments()
        return dict(body["spec"]["template"]["spec"]["affinity"])

    (body,) = around.deployments()
    del body["spec"]["template"]["spec"]["affinity"]["podAffinity"]
    around.cluster.put(DEPLOYMENT, body)
    around.restart()
    around.settle()
    assert "podAffinity" not in affinity()
    for suspend in (True, False):
        around.edit(suspend=suspend)
        around.settle()
    assert "podAffinity" in affinity()


def test_a_pool_that_vanishes_under_a_running_workload_leaves_it_serving_where_nothing_else_fits() -> None:
    around = with_pools(Around(), fast=0)
    around.apply(workload())
    around.settle()
    around.cluster.remove(ACCELERATOR_POOL, "cheap")
    for i in range(4):
        around.cluster.edit(NODE, f"cheap-{i}", {"metadata": {"labels": {"nvidia.com/gpu.product": "Wonder"}}})
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("Available")[0] == "True"
    assert around.condition("Ready")[0] == "False"
    assert around.condition("Feasible")[0] == "False"


# Budget


def test_a_running_workload_over_its_budget_moves_or_is_kept_and_says_so() -> None:
    around = with_pools(Around(), fast=0)
    around.apply(workload(budget="2"))
    around.settle()
    price(around, "cheap", "3")
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("WithinBudget") == ("False", "OverBudget")
    assert around.condition("Ready")[0] == "False"
    assert "3 USD/h" in around.message("WithinBudget")
    assert "2 USD/h" in around.message("WithinBudget")
    assert "OverBudget" in around.events()
    price(around, "cheap", "2")
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    assert around.events().count("WithinBudget") == 1


def test_over_the_budget_and_slow_at_once_both_are_told() -> None:
    around = with_pools(Around(), fast=0)
    around.apply(workload(budget="2", slo={"ttft": {"p95": "600ms"}}))
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    price(around, "cheap", "3")
    around.edit(slo={"ttft": {"p95": "100ms"}})
    around.settle()
    assert around.condition("Feasible")[0] == "False"
    assert around.condition("WithinBudget") == ("False", "OverBudget")


def test_with_on_violation_stop_it_goes_to_zero_and_comes_back() -> None:
    around = with_pools(Around(), fast=0)
    around.apply(workload(budget="2", policy={"onViolation": "Stop"}))
    around.settle()
    price(around, "cheap", "3")
    around.settle()
    assert around.running() == {"cheap": 0}
    assert around.condition("Available") == ("False", "Suspended")
    assert around.condition("Ready")[0] == "False"
    assert "Stopped" in around.events()
    assert around.world.holds() == []  # what it held is free for others
    price(around, "cheap", "1")
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("Ready") == ("True", "Serving")
    assert "Resumed" in around.events()


# Suspend, scale, modes


def test_suspended_it_runs_nothing_keeps_the_record_and_resumes() -> None:
    around = serving()
    (record,) = around.decisions()
    around.edit(suspend=True)
    around.settle()
    assert around.running() == {"cheap": 0}
    assert around.cluster.all(POD) == []
    assert around.condition("Ready") == ("Unknown", "Suspended")
    assert list(around.decisions()) == [record]
    assert around.world.holds() == []
    around.edit(suspend=False)
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("Ready") == ("True", "Serving")
    assert around.events().count("Suspended") == around.events().count("Resumed") == 1
    assert "Unavailable" not in around.events()  # it was asked for
    assert around.decisions() == {record: "Active"}


def test_suspend_is_obeyed_also_while_the_spec_is_wrong() -> None:
    around = serving()
    around.edit(suspend=True, engine={"extraArgs": ["--tensor-parallel-size=4"]})
    around.settle()
    assert around.running() == {"cheap": 0}
    assert around.world.holds() == []
    assert around.condition("Accepted")[0] == "False"


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        pytest.param(
            {"extraArgs": ["--enforce-eagre"]}, "vLLM 0.32.0 has no flag --enforce-eagre; did you mean", id="a slip"
        ),
        pytest.param(
            {"extraArgs": ["--max-num-active-seqs=8"], "version": "0.30.0"},
            "spec.engine.extraArgs: '--max-num-active-seqs=8': vLLM 0.30.0 has no flag --max-num-active-seqs; "
            "0.32.0 has it",
            id="a flag that came later",
        ),
        pytest.param(
            {"extraArgs": ["--log-level=INFO"], "version": "0.31.0"},
            "(the flags of vLLM 0.31.0 are not catalogued: those of 0.30.0 are taken for them); 0.32.0 has it",
            id="a flag that may have come",
        ),
        pytest.param({"version": "0.27.0"}, "vLLM 0.27.0 is not known here", id="a version that is too old"),
    ],
)
def test_a_flag_that_the_engine_lacks_is_not_accepted_and_what_runs_is_kept(engine: dict[str, Any], says: str) -> None:
    around = serving()
    around.edit(engine=engine)
    around.settle()
    assert around.condition("Accepted") == ("False", "InvalidSpec")
    assert says in around.message("Accepted")
    assert around.running() == {"cheap": 1}


@pytest.mark.parametrize(
    ("version", "says"),
    [
        pytest.param("0.30.0", "the spec is valid and the model is known", id="catalogued"),
        pytest.param("0.29.1", "those of 0.28.0 are taken for them", id="between two"),
        pytest.param("0.33.0", "those of 0.32.0 are taken for them", id="later than all"),
    ],
)
def test_a_version_without_a_catalogue_serves_by_the_one_before_it_and_that_is_said(version: str, says: str) -> None:
    around = serving(model={"id": "Qwen/Qwen2.5-7B-Instruct", "revision": "c" * 40})
    around.edit(engine={"version": version})
    around.settle()
    assert around.condition("Accepted") == ("True", "Accepted")
    assert around.message("Accepted").endswith(says)
    (deployment,) = around.deployments()
    assert version in deployment["spec"]["template"]["spec"]["containers"][0]["image"]


def test_a_branch_that_moves_on_restarts_nobody() -> None:
    around = serving()
    (before,) = around.deployments()
    around.restart()
    model = KnownModel(architecture(), "f" * 40)  # what the hub answers now
    around.controller.models._answers["Qwen/Qwen2.5-7B-Instruct", None] = _Answer(model, None, 0.0)
    around.settle()
    (after,) = around.deployments()
    assert after["metadata"]["name"] == before["metadata"]["name"]


def test_a_head_whose_branch_moves_on_restarts_nobody_and_that_it_is_no_commit_is_said() -> None:
    model = {"id": "Qwen/Qwen2.5-7B-Instruct", "draftModel": {"id": "a/head"}}
    around = serving(model=model, methods={"allow": ["eagle"]})
    (before,) = around.deployments()
    said = around.message("Accepted")
    assert "no commit is known of Qwen/Qwen2.5-7B-Instruct at main and a/head at main" in said
    around.restart()

    async def find(_: InferenceWorkload) -> KnownModel:
        return KnownModel(architecture(), "f" * 40, Head(DraftSource("a/head", "e" * 40), 4096))

    around.controller.models.find = find  # type: ignore[method-assign]
    around.settle()
    (after,) = around.deployments()
    assert after["metadata"]["name"] == before["metadata"]["name"]
    assert around.message("Accepted") == said  # what is served was decided on before
    around.edit(engine={"extraArgs": ["--seed=7"]})
    around.settle()
    (anew,) = around.deployments()
    argv = anew["spec"]["template"]["spec"]["containers"][0]["args"]
    assert argv[argv.index("--revision") + 1] == "f" * 40
    assert json.loads(argv[argv.index("--speculative-config") + 1])["revision"] == "e" * 40
    assert around.message("Accepted") == "the spec is valid and the model is known"


def test_a_users_disruption_budget_is_left_alone() -> None:
    around = serving()
    own = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "chat", "namespace": "team"},
        "spec": {"minAvailable": 1},
    }
    around.cluster.put(POD_DISRUPTION_BUDGET, own)
    around.edit(scaling={"replicas": 2}, placement={"pools": ["cheap"]})
    around.settle()
    kept = around.cluster.peek(POD_DISRUPTION_BUDGET, "chat", "team")
    assert kept is not None and kept["spec"] == {"minAvailable": 1}
    assert around.condition("Ready") == ("True", "Serving")


def test_a_pin_that_cannot_be_does_not_stop_what_serves() -> None:
    around = serving(policy={"onViolation": "Stop"})
    candidate = {"pool": "cheap", "method": "default", "layout": {"tensorParallel": 1}, "replicas": 900}
    around.edit(policy={"mode": "Pinned", "onViolation": "Stop", "pinned": {"candidate": candidate}})
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("Available")[0] == "True"


def test_more_replicas_than_there_is_room_for_do_not_stop_those_that_serve() -> None:
    around = serving(policy={"onViolation": "Stop"}, placement={"pools": ["cheap"]})
    around.edit(scaling={"minReplicas": 900})
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("Feasible")[0] == "False"


def test_suspended_from_the_start_nothing_is_decided_or_held() -> None:
    around = with_pools(Around())
    around.apply(workload(suspend=True))
    around.settle()
    assert (around.deployments(), around.decisions()) == ([], {})
    assert around.condition("Ready") == ("Unknown", "Suspended")


@pytest.mark.parametrize(
    ("replicas", "running", "reason"),
    [
        pytest.param(3, 3, "BelowBudget", id="obeyed"),
        pytest.param(9, 4, "ReplicasCapped", id="capped by capacity"),
        pytest.param(0, 0, "NoCost", id="zero"),
    ],
)
def test_a_persons_number_of_replicas_is_obeyed_or_capped(replicas: int, running: int, reason: str) -> None:
    around = serving()
    around.edit(scaling={"replicas": replicas}, placement={"pools": ["cheap"]})
    around.settle()
    assert sum(around.running().values()) == running
    assert around.condition("WithinBudget") == ("True", reason)
    assert around.status()["replicas"] == running


def test_replicas_follow_the_scale_subresource_up_and_down() -> None:
    around = serving(scaling={"replicas": 3})
    assert around.running() == {"cheap": 3}
    (name,) = [d["metadata"]["name"] for d in around.deployments()]
    for wanted in (1, 2):
        around.edit(scaling={"replicas": wanted})
        around.settle()
        assert around.running() == {"cheap": wanted}
        assert around.condition("Ready") == ("True", "Serving")
    assert [d["metadata"]["name"] for d in around.deployments()] == [name]


def test_recommended_is_recorded_holds_nothing_and_runs_once_it_is_pinned() -> None:
    around = with_pools(Around())
    around.apply(workload(policy={"mode": "Recommend"}))
    around.settle()
    ((name, phase),) = around.decisions().items()
    assert phase == "Proposed"
    assert around.deployments() == []
    assert around.world.holds() == []
    assert around.condition("Ready") == ("Unknown", "AwaitingApproval")
    assert name in around.message("Decided")
    around.edit(policy={"mode": "Pinned", "pinned": {"decision": name}})
    around.settle()
    assert around.decisions() == {name: "Active"}
    assert around.condition("Ready") == ("True", "Serving")
    price(around, "cheap", "5")
    around.now += timedelta(days=1)
    around.settle()
    assert around.running() == {"cheap": 1}


def test_pinned_to_another_candidate_it_moves_at_once() -> None:
    around = serving()
    candidate = {"pool": "fast", "method": "default", "replicas": 1}
    around.edit(policy={"mode": "Pinned", "pinned": {"candidate": candidate}})
    around.settle()
    assert around.running() == {"fast": 1}


def test_a_refusal_cannot_be_pinned() -> None:
    around = with_pools(Around())
    around.apply(workload(budget="0.5"))
    around.settle()
    (name,) = around.decisions()
    around.edit(policy={"mode": "Pinned", "pinned": {"decision": name}})
    around.settle()
    assert around.condition("Accepted") == ("False", "PinNotFound")
    assert "is a refusal" in around.message("Accepted")


# Several workloads


def test_two_workloads_and_one_free_accelerator_the_second_waits_for_the_first_to_go() -> None:
    around = with_pools(Around(), cheap=1, fast=0)
    for name in ("a", "b"):
        around.apply(workload(name))
    around.settle("a", "b")
    assert (around.running("a"), around.running("b")) == ({"cheap": 1}, {})
    assert around.condition("Feasible", "b") == ("False", "NoCapacity")
    assert around.condition("Ready", "b") == ("False", "NoCapacity")
    assert "room for 0 of its 1 replica now" in around.message("Feasible", "b")
    around.cluster.remove(INFERENCE_WORKLOAD, "a", "team")
    around.settle("a", "b")
    assert around.condition("Ready", "b") == ("True", "Serving")


def test_an_older_workload_that_comes_to_wait_takes_no_room_from_what_runs() -> None:
    around = with_pools(Around(), cheap=1, fast=1)
    around.apply(workload("a", budget="0.5", placement={"pools": ["cheap"]}))
    around.apply(workload("b", policy={"onViolation": "Stop"}))
    around.settle("a", "b")
    assert (around.running("a"), around.running("b")) == ({}, {"cheap": 1})
    around.edit("a", budget={"perHour": "1"})
    around.settle("a", "b")
    assert set(around.world.waiting) == {WorkloadKey("team", "a")}
    before = len(around.cluster.writes)
    around.controller.decide_anew()
    around.settle("a", "b")
    assert [call for call in around.cluster.writes[before:] if call.resource == DEPLOYMENT] == []
    assert around.condition("Ready", "b") == ("True", "Serving")
    assert around.condition("Ready", "a") == ("False", "NoCapacity")


def test_a_recommendation_that_has_no_room_keeps_none_from_others() -> None:
    around = with_pools(Around(), cheap=1, fast=0)
    around.apply(workload("a", policy={"mode": "Recommend"}))
    around.apply(workload("b"))
    around.apply(workload("c"))
    around.settle("b", "c", "a")
    assert around.running("b") == {"cheap": 1}
    assert around.condition("Feasible", "a") == ("False", "NoCapacity")
    assert set(around.world.waiting) == {WorkloadKey("team", "c")}
    assert around.world.held_back == {WorkloadKey("team", "a")}
    around.cluster.remove(INFERENCE_WORKLOAD, "b", "team")
    around.settle("a", "c")
    assert around.condition("Ready", "c") == ("True", "Serving")


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"traffic": {"requestsPerSecond": "-1"}}, id="a spec that cannot be read"),
        pytest.param({"engine": {"podTemplate": {"spec": {"nodeName": "n"}}}}, id="a template that overrides"),
        pytest.param(
            {"model": {"id": "a/b", "architecture": {"configMapRef": {"name": "none"}}}}, id="its ConfigMap is gone"
        ),
        pytest.param({"suspend": True}, id="suspended"),
    ],
)
def test_who_waits_no_more_keeps_no_room_from_those_behind_it(spec: dict[str, Any]) -> None:
    around = with_pools(Around(), cheap=1, fast=0)
    for name in ("a", "b", "c"):
        around.apply(workload(name))
    around.settle("a", "b", "c")
    assert set(around.world.waiting) == {WorkloadKey("team", "b"), WorkloadKey("team", "c")}
    told: list[str] = []
    around.controller._capacity_freed = lambda: told.append("look again")
    around.edit("b", **spec)
    for _ in range(3):
        around.reconcile("b")
    assert told == ["look again"]
    assert set(around.world.waiting) == {WorkloadKey("team", "c")}
    around.cluster.remove(INFERENCE_WORKLOAD, "a", "team")
    around.settle("a", "b", "c")
    assert around.condition("Ready", "c") == ("True", "Serving")


def told_of(around: Around) -> list[int]:
    """How much is reserved and claimed each time that others are told of room."""
    told: list[int] = []
    around.controller._capacity_freed = lambda: told.append(sum(hold.replicas for hold in around.world.holds()))
    return told


def test_a_claim_that_moves_to_another_pool_is_told_to_those_behind_it() -> None:
    around = with_pools(Around(), cheap=2, fast=1)
    for name, where, rps in (("a", "cheap", "2"), ("b", "fast", "2"), ("c", "cheap", "6"), ("d", "cheap", "2")):
        around.apply(workload(name, rps=rps, placement={"pools": [where]}))
    everybody = ("a", "b", "c", "d")
    around.settle(*everybody)
    assert set(around.world.waiting) == {WorkloadKey("team", "c"), WorkloadKey("team", "d")}
    told = told_of(around)
    around.edit("c", placement={"pools": ["fast"]})
    for _ in range(3):
        around.reconcile("c")
    assert len(told) == 1
    assert around.world.waiting[WorkloadKey("team", "c")].pool == "fast"
    around.settle(*everybody)
    assert around.condition("Ready", "d") == ("True", "Serving")


def test_a_reservation_that_shrinks_is_told_and_one_that_grows_is_not() -> None:
    around = serving(scaling={"replicas": 2}, placement={"pools": ["cheap"]})
    told = told_of(around)
    around.edit(scaling={"replicas": 3})
    around.settle()
    assert told == []
    around.edit(scaling={"replicas": 1})
    around.settle()
    assert told == [1]


def test_a_reservation_whose_record_is_not_written_is_told_to_be_free_again() -> None:
    around = with_pools(Around())
    told = told_of(around)
    around.apply(workload())
    around.cluster.fail(UnreachableError("away"), verb=Verb.APPLY)
    with pytest.raises(UnreachableError):
        around.reconcile()
    assert told == [0]


def test_a_write_that_fails_is_tried_again_by_the_queue_and_not_for_the_room_that_it_gives_back() -> None:
    around = with_pools(Around())
    told: list[set[WorkloadKey]] = []
    around.controller._capacity_freed = lambda: told.append(set(around.world.held_back))
    around.apply(workload())
    others = {WorkloadKey("team", "other")}
    around.world.held_back |= {WorkloadKey("team", "chat"), *others}
    around.cluster.fail(UnreachableError("away"), verb=Verb.APPLY)
    with pytest.raises(UnreachableError):
        around.reconcile()
    assert told == [others]


def test_what_is_suspended_is_told_to_be_free_once_it_is() -> None:
    around = serving()
    told = told_of(around)
    around.edit(suspend=True)
    around.settle()
    assert told == [0]


def test_a_reservation_holds_before_any_pod_runs() -> None:
    around = with_pools(Around(), cheap=1, fast=0)
    for name in ("a", "b"):
        around.apply(workload(name))
        around.reconcile(name)
    assert around.cluster.all(POD) == []
    assert around.condition("Feasible", "b") == ("False", "NoCapacity")


def test_old_records_are_pruned_to_the_last_ten_and_the_active() -> None:
    around = serving()
    for i in range(14):
        around.edit(engine={"extraArgs": [f"--seed={i}"]})
        around.settle()
    phases = list(around.decisions().values())
    assert phases.count("Active") == 1
    assert phases.count("Superseded") == 10
    assert len(phases) == 11


# Crashes


def _scenario(around: Around, kind: str) -> None:
    if kind == "start":
        return
    if kind == "switch":
        price(around, "cheap", CHEAP_GONE_DEAR)
    elif kind == "suspend":
        around.edit(suspend=True)
    elif kind == "scale":
        around.edit(scaling={"replicas": 3})
    elif kind == "stop":
        around.edit(policy={"onViolation": "Stop"}, budget={"perHour": "0.5"})


def _result(around: Around) -> tuple[Any, ...]:
    ready = {c["type"]: (c["status"], c["reason"]) for c in around.status()["conditions"]}
    pods = [p["metadata"]["name"] for p in around.cluster.all(POD)]
    return (
        around.running(),
        len(around.deployments()),
        ready,
        sorted(around.decisions().items()),
        len(pods),
        sent_to(around),
        [(h.pool, h.replicas) for h in around.world.holds()],
    )


SCENARIOS = ["start", "switch", "suspend", "scale", "stop"]


def _prepared(kind: str) -> Around:
    around = serving() if kind != "start" else with_pools(Around())
    if kind == "start":
        around.apply(workload())
    around.now += timedelta(hours=2)
    _scenario(around, kind)
    return around


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(SCENARIOS), st.lists(st.integers(0, 9), min_size=1, max_size=3))
def test_cut_off_between_any_two_writes_a_new_process_comes_to_the_same_end(kind: str, cuts: list[int]) -> None:
    undisturbed = _prepared(kind)
    undisturbed.settle()
    around = _prepared(kind)
    for cut in cuts:
        around.cluster.cut_after = cut
        try:
            around.settle()
        except CutOffError:
            around.restart()
    around.cluster.cut_after = None
    around.settle()
    assert _result(around) == _result(undisturbed)


# Odds and ends


def test_a_pool_tells_what_stands_what_is_free_and_its_price() -> None:
    around = serving()
    status = around.report_pool("cheap")
    assert (status["nodes"], status["acceleratorsTotal"], status["acceleratorsFree"]) == (4, 4, 3)
    assert status["price"] == {"perHour": "1", "currency": "USD", "source": "AcceleratorPool"}
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Ready": "True",
        "PriceKnown": "True",
        "Overlapping": "False",
    }
    before = len(around.cluster.writes)
    around.report_pool("cheap")
    assert around.cluster.writes[before:] == []


def test_a_pool_that_cannot_be_used_overlaps_or_is_gone_says_so() -> None:
    around = with_pools(Around())
    around.cluster.put(ACCELERATOR_POOL, pool("wonder", "Wonder-9000"))
    around.cluster.put(
        ACCELERATOR_POOL,
        {**pool("twin"), "spec": {**pool("cheap", price=None)["spec"]}},
    )
    wonder = {c["type"]: c for c in around.report_pool("wonder")["conditions"]}
    assert (wonder["Ready"]["status"], wonder["Ready"]["reason"]) == ("False", "InvalidSpec")
    assert "Wonder-9000" in wonder["Ready"]["message"]
    twin = {c["type"]: c for c in around.report_pool("twin")["conditions"]}
    assert (twin["Overlapping"]["status"], "cheap" in twin["Overlapping"]["message"]) == ("True", True)
    assert twin["PriceKnown"]["status"] == "False"
    around.cluster.put(
        ACCELERATOR_POOL, {"metadata": {"name": "bad"}, "spec": {"nodeSelector": {}}, "kind": "AcceleratorPool"}
    )
    bad = {c["type"]: c for c in around.report_pool("bad")["conditions"]}
    assert bad["Ready"]["status"] == "False"
    around.cluster.fail(NotFoundError("gone", code=404), verb=Verb.APPLY_STATUS)
    around.report_pool("fast")


def test_events_are_sent_on_transitions_and_their_loss_costs_nothing() -> None:
    around = with_pools(Around())
    around.apply(workload())
    around.cluster.fail(UnreachableError("away"), resource=EVENT, times=99)
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    assert around.events() == []


def test_a_workload_deleted_while_it_is_reported_is_no_error() -> None:
    around = with_pools(Around())
    around.apply(workload())
    around.cluster.fail(NotFoundError("gone", code=404), verb=Verb.APPLY_STATUS, resource=INFERENCE_WORKLOAD)
    around.reconcile()
    assert around.status() == {}


def test_a_workload_replaced_under_its_name_while_deciding_gets_no_children() -> None:
    around = with_pools(Around())
    around.apply(workload())

    class Replacing:
        identity = around.predictor.identity

        def predict(self, questions: Any) -> Any:
            state = around.world.workloads.get(WorkloadKey("team", "chat"))
            assert state is not None
            around.world.workloads.upsert(state.key, replace(state, uid="another"))
            return around.predictor.predict(questions)

    around.controller.chooser.predictor = Replacing()
    around.reconcile()
    assert around.deployments() == []
    assert around.cluster.all(NAMESPACE) == []


def test_without_sight_of_nodes_the_old_side_goes_first_where_the_pools_file_has_room_for_one() -> None:
    around = with_pools(Around(), cheap=1, fast=0)
    only = {**pool("cheap"), "spec": {**pool("cheap")["spec"], "nodes": {"max": 1}}}

    def see_the_file() -> None:
        around.world.use_fixed_pools((standing_pool(parse_pool(only)),))

    see_the_file()
    around.apply(workload(methods={"allow": ["default", "no-prefix-caching"]}))
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    around.edit(methods={"allow": ["no-prefix-caching"]})
    around.reconcile()
    assert around.condition("Available") == ("Unknown", "Recreating")
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    around.apply(workload("second"))
    around.settle("chat", "second")
    assert around.condition("Feasible", "second") == ("False", "NoCapacity")
