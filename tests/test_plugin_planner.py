"""What `kubectl metainf plan` says of a workload that runs is what the operator then does."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller_passes import SETTINGS, Around, planned, pool, serving, with_pools, workload
from metainf.predictors.contract import Question
from metainf.workload import Repetitiveness
from metainf_operator.reconcile import Activate, Hold
from metainf_operator.resources import ACCELERATOR_POOL, NODE
from stub_predictor import StubPredictor


def price(around: Around, name: str, per_hour: str) -> None:
    product = ["NVIDIA-H100-80GB-HBM3"] if name == "fast" else []
    around.cluster.put(ACCELERATOR_POOL, pool(name, *product, price=per_hour))


def kept(around: Around, name: str = "chat") -> str:
    """Why the plan keeps what runs; the operator keeps it for the same reason, and runs what it ran."""
    found = planned(around, name)
    assert isinstance(found.choice, Hold)
    before = around.running(name)
    around.reconcile(name)
    assert around.condition("Decided", name) == ("True", "Kept")
    assert around.message("Decided", name).endswith(f": {found.choice.message}")
    assert around.running(name) == before
    assert found.action.startswith("keeps ")
    assert found.action.endswith(found.choice.message)
    assert found.serves
    return found.choice.message


@pytest.mark.parametrize(
    ("budget", "price_of_fast", "after", "why"),
    [
        pytest.param("100", "0.95", timedelta(hours=2), "policy.minimumGain", id="the gain is small"),
        pytest.param("100", "0.5", timedelta(minutes=5), "policy.cooldown", id="it switched just now"),
        pytest.param("1.2", "0.5", timedelta(hours=2), "both sides would cost 1.50 USD/h", id="no money for both"),
    ],
)
def test_a_gain_that_the_operator_holds_back_is_planned_as_kept(
    budget: str, price_of_fast: str, after: timedelta, why: str
) -> None:
    around = serving(budget=budget)
    price(around, "fast", price_of_fast)
    around.now += after
    assert why in kept(around)


def _repetition_pays(question: Question) -> float:
    """Where text repeats itself, an engine without a prefix cache does twice as well: made up."""
    repeats = question.traffic.repetitiveness is Repetitiveness.HIGH
    return 8.0 if repeats and not question.replica.settings.prefix_caching else 4.0


def test_a_gain_on_a_full_node_is_planned_as_kept_and_with_room_as_replaced() -> None:
    def on(nodes: int) -> Around:
        around = with_pools(Around(predictor=StubPredictor(_repetition_pays)), cheap=nodes, fast=0)
        limits: dict[str, Any] = {"methods": {"allow": ["default", "no-prefix-caching"]}, "scaling": {"maxReplicas": 1}}
        around.apply(workload(objective="MaximizeThroughput", policy={"cooldown": "0s"}, **limits))
        around.settle()
        around.edit(traffic={"repetitiveness": "High"})
        return around

    assert "cheap has room for 0 of its 1 replica beside what runs" in kept(on(1))
    around = on(2)
    found = planned(around)
    assert isinstance(found.choice, Activate)
    assert found.action.startswith("replaces ")
    around.reconcile()
    assert around.condition("Available") == ("True", "Switching")


def test_a_switch_whose_turn_has_not_come_is_planned_as_kept() -> None:
    around = with_pools(Around(settings=replace(SETTINGS, max_concurrent_switches=1)))
    for name in ("a", "b"):
        around.apply(workload(name))
    around.settle("a", "b")
    price(around, "cheap", "80")
    around.now += timedelta(hours=2)
    assert isinstance(planned(around, "b").choice, Activate)
    around.reconcile("a")
    assert around.running("a") == {"cheap": 1, "fast": 1}
    assert "as many workloads switch now as may at a time" in kept(around, "b")
    around.settings = replace(SETTINGS, max_concurrent_switches=2)
    assert isinstance(planned(around, "b").choice, Activate)


def test_a_plan_of_what_runs_is_the_record_in_force() -> None:
    around = serving()
    (name,) = around.decisions()
    found = planned(around)
    assert found.plan.name == name
    assert found.action.endswith("which is the best")


def test_what_runs_in_a_pool_that_takes_no_new_pods_is_planned_as_kept() -> None:
    around = serving()
    for number in range(4):
        closed = {"spec": {"taints": [{"key": "maintenance", "effect": "NoSchedule"}]}}
        around.cluster.edit(NODE, f"cheap-{number}", closed)
    assert kept(around).startswith("it runs where new pods of it would find no place: cheap has the taint maintenance")
