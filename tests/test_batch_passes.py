"""Passes over a batch: what it has cost is counted whatever else goes wrong, and its budget is an end."""

import json
from datetime import timedelta
from typing import Any

import pytest

from controller_passes import Around, planned, pool, with_pools, workload
from metainf.known_models import known_model_config
from metainf_operator.cluster_api import JsonObject
from metainf_operator.resources import ACCELERATOR_POOL, CONFIG_MAP

MODEL = "Qwen/Qwen2.5-7B-Instruct"
TRAFFIC = {
    "batch": {"requests": 100000, "deadline": "24h"},
    "inputTokens": {"mean": 500},
    "outputTokens": {"mean": 100},
}


def batch(total: str = "10", **spec: Any) -> JsonObject:
    """A batch on one accelerator of the cheap pool, 1 USD/h; predicted are 7 hours."""
    body = workload(
        traffic=TRAFFIC,
        model={"id": MODEL, "architecture": {"configMapRef": {"name": "config"}}},
        placement={"pools": ["cheap"]},
        scaling={"maxReplicas": 1},
        **spec,
    )
    body["spec"]["budget"] = {"total": total}
    return body


def put_config(around: Around) -> None:
    config = known_model_config(MODEL)
    assert config is not None
    data = {"config.json": json.dumps(dict(config))}
    around.cluster.put(CONFIG_MAP, {"metadata": {"name": "config", "namespace": "team"}, "data": data})


def lose_config(around: Around) -> None:
    around.cluster.remove(CONFIG_MAP, "config", "team")


def serving_batch(total: str = "10", **spec: Any) -> Around:
    around = with_pools(Around())
    put_config(around)
    around.apply(batch(total, **spec))
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    assert around.running() == {"cheap": 1}
    return around


def observed(around: Around) -> dict[str, Any]:
    return dict(around.status().get("observed") or {})


def spent(around: Around) -> float:
    return float(observed(around)["accruedCost"].split()[0])


def test_a_total_is_an_end_also_while_the_spec_cannot_be_understood() -> None:
    around = serving_batch(policy={"onViolation": "Stop"})
    lose_config(around)
    around.now += timedelta(hours=9)
    assert around.reconcile() == 15.0
    assert around.condition("Accepted") == ("Unknown", "ConfigMapMissing")
    assert spent(around) == pytest.approx(9.0, abs=0.05)
    assert around.running() == {"cheap": 1}
    around.now += timedelta(hours=2)
    around.settle()
    assert around.running() == {"cheap": 0}
    assert around.condition("WithinBudget") == ("False", "OverBudget")
    assert around.events().count("Stopped") == 1
    assert around.world.holds() == []
    assert "accruedAt" not in observed(around)

    put_config(around)
    around.settle()
    assert around.running() == {"cheap": 0}
    assert around.condition("Ready") == ("False", "OverBudget")
    assert around.events().count("Stopped") == 1
    around.edit(budget={"total": "30"})
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    assert spent(around) == pytest.approx(11.0, abs=0.1)


def test_a_plan_says_that_a_batch_has_cost_its_budget() -> None:
    around = serving_batch(policy={"onViolation": "Stop"})
    assert planned(around).serves
    around.now += timedelta(hours=11)
    found = planned(around)
    assert found.action.startswith("stops ")
    assert found.action.endswith("the batch has cost its budget and policy.onViolation is Stop")
    assert not found.serves
    around.settle()
    assert around.running() == {"cheap": 0}
    assert planned(around).action == "starts nothing: the batch has cost its budget"


def test_a_plan_of_a_batch_that_is_kept_past_its_total_says_so() -> None:
    around = serving_batch()
    around.now += timedelta(hours=11)
    assert planned(around).action.endswith("the batch has cost its budget")
    assert planned(around).action.startswith("keeps ")


def test_past_its_total_and_kept_it_serves_on_and_says_so_while_the_spec_cannot_be_understood() -> None:
    around = serving_batch()
    lose_config(around)
    around.now += timedelta(hours=11)
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("WithinBudget") == ("False", "OverBudget")


def test_a_mistake_that_nothing_tells_the_end_of_is_looked_at_for_what_it_costs() -> None:
    around = serving_batch()
    around.edit(engine={"extraArgs": ["--tensor-parallel-size=2"]})
    assert around.reconcile() == 60.0
    assert around.condition("Accepted") == ("False", "OverridesDecision")


def test_no_hour_is_lost_to_a_mistake_that_was_put_right() -> None:
    around = serving_batch("100")
    lose_config(around)
    for _ in range(5):
        around.now += timedelta(hours=1)
        around.reconcile()
    put_config(around)
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    assert spent(around) == pytest.approx(5.0, abs=0.1)


def test_both_sides_of_a_switch_are_counted() -> None:
    around = serving_batch("100", methods={"allow": ["default", "no-prefix-caching"]})
    (old,) = around.deployments()
    around.edit(methods={"allow": ["no-prefix-caching"]})
    around.reconcile()
    around.failed |= {body["metadata"]["name"] for body in around.deployments()} - {old["metadata"]["name"]}
    around.play()
    before = spent(around)
    around.now += timedelta(hours=1)
    around.reconcile()
    assert around.running() == {"cheap": 2}
    assert around.condition("Available") == ("True", "SwitchFailed")
    assert spent(around) - before == pytest.approx(2.0, abs=0.05)


def test_todays_price_is_what_is_counted() -> None:
    around = serving_batch("100")
    around.cluster.put(ACCELERATOR_POOL, pool("cheap", price="2"))
    around.settle()
    before = spent(around)
    around.now += timedelta(hours=1)
    around.reconcile()
    assert spent(around) - before == pytest.approx(2.0, abs=0.05)


def test_what_is_suspended_costs_nothing_and_writes_nothing() -> None:
    around = serving_batch("100")
    around.now += timedelta(hours=1)
    around.edit(suspend=True)
    around.settle()
    assert observed(around).keys() == {"accruedCost"}
    writes = len(around.cluster.writes)
    around.now += timedelta(hours=10)
    around.reconcile()
    assert len(around.cluster.writes) == writes
    around.edit(suspend=False)
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    assert spent(around) == pytest.approx(1.0, abs=0.1)


def test_the_sum_goes_on_through_changes_of_the_spec_and_ends_with_the_batch() -> None:
    around = serving_batch("100")
    around.now += timedelta(hours=3)
    around.edit(traffic={"batch": {"requests": 50000, "deadline": "30h"}})
    around.settle()
    assert spent(around) == pytest.approx(3.0, abs=0.1)
    around.edit(traffic={"batch": None, "requestsPerSecond": "2"}, budget={"total": None, "perHour": "10"})
    around.settle()
    assert around.condition("Ready") == ("True", "Serving")
    assert "accruedCost" not in observed(around)
    another = {"batch": TRAFFIC["batch"], "requestsPerSecond": None}
    around.edit(traffic=another, budget={"total": "100", "perHour": None})
    around.settle()
    assert spent(around) == pytest.approx(0.0, abs=0.1)
