"""The status of a workload and of a pool, as `kubectl get` shows them."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from choices import architecture
from choices import pool as node_pool
from controller_passes import STUB
from controller_passes import workload as manifest
from metainf.manifests import Decision, parse_decision, parse_workload
from metainf.planning import plan
from metainf_operator.conditions import Facts
from metainf_operator.inventory import PoolRecord
from metainf_operator.status import InForce, pool_status, workload_status

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WORKLOAD = parse_workload(manifest(budget="6.00"))


def decided() -> Decision:
    made = plan(
        WORKLOAD,
        architecture(),
        revision=None,
        pools=(node_pool("cheap", "A100-SXM-80GB", per_node=1, price="1"),),
        predictor=STUB,
        engine_version="0.32.0",
    )
    body: dict[str, Any] = {**made.manifest, "metadata": {**made.manifest["metadata"], "uid": "d1"}}
    return parse_decision(body)


FACTS = Facts(
    WORKLOAD.policy.mode,
    running="1 x default TP1 on cheap",
    decision="chat-1",
    considered=3,
    cost=Decimal("1.000000"),
    cost_unit="USD/h",
    budget="6.00 USD/h",
)
SHOWN = InForce(decided(), "abc", 1, Decimal("1.000000"), "USD", 0.9567)


def status(shown: InForce | None = SHOWN, before: Any = None, facts: Facts = FACTS) -> dict[str, Any]:
    return workload_status(WORKLOAD, facts, shown, before or {}, generation=4, now=NOW)


def test_the_status_shows_what_runs_what_it_costs_and_where_it_answers() -> None:
    found = status()
    conditions = found.pop("conditions")
    assert conditions[0]["type"] == "Ready"
    assert {c["observedGeneration"] for c in conditions} == {4}
    assert found == {
        "observedGeneration": 4,
        "decisionRef": {"name": "chat-1"},
        "budget": "6.00 USD/h",
        "url": "http://chat.team.svc:8000/v1",
        "replicas": 1,
        "method": "default",
        "layout": "TP1",
        "pool": "cheap",
        "accelerator": "A100-SXM-80GB",
        "predicted": {"ttft": "p95 500ms", "tpot": "p95 50ms", "throughput": "200 tok/s"},
        "selector": "metainf.dev/workload=chat,metainf.dev/serving=abc",
        "costPerHour": "1.00 USD",
        "confidence": "0.95",
    }


def test_without_anything_that_runs_it_shows_no_replicas_and_no_choice() -> None:
    found = status(None, facts=replace(FACTS, running=None, decision=None))
    assert set(found) == {"observedGeneration", "conditions", "budget", "url", "replicas"}
    assert found["replicas"] == 0


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        pytest.param(replace(SHOWN, cost=None), {"costPerHour"}, id="price unknown"),
        pytest.param(replace(SHOWN, confidence=None), {"confidence"}, id="confidence unknown"),
        pytest.param(replace(SHOWN, serving=None), {"selector"}, id="no pods to select"),
        pytest.param(
            replace(SHOWN, decision=replace(SHOWN.decision, chosen=None)),
            {"method", "layout", "pool", "accelerator", "predicted", "selector", "costPerHour", "confidence"},
            id="a refusal",
        ),
    ],
)
def test_what_is_not_known_is_left_out(shown: InForce, missing: set[str]) -> None:
    assert set(status()) - set(status(shown)) == missing


def test_a_spec_that_cannot_be_read_still_gets_conditions() -> None:
    found = workload_status(None, Facts(WORKLOAD.policy.mode), None, {}, generation=1, now=NOW)
    assert set(found) == {"observedGeneration", "conditions", "replicas"}


def test_the_same_facts_give_the_same_status_later() -> None:
    first = status()
    later = workload_status(WORKLOAD, FACTS, SHOWN, first, generation=4, now=NOW.replace(hour=20))
    assert later == first


@pytest.mark.parametrize(("confidence", "shown"), [(0.959, "0.95"), (1.0, "1.00"), (0.0, "0.00"), (0.9, "0.90")])
def test_the_confidence_is_rounded_down(confidence: float, shown: str) -> None:
    assert status(replace(SHOWN, confidence=confidence))["confidence"] == shown


# Pools


RECORD = PoolRecord(node_pool("p", nodes=2, price="27.450"), frozenset({"p-0", "p-1", "p-2"}), declared=True)


def pool(record: PoolRecord | None = RECORD, **more: Any) -> dict[str, Any]:
    free = None if record is None else replace(record.pool, nodes=record.pool.nodes[:1])
    given: dict[str, Any] = {"error": None, "overlapping": (), "before": {}, **more}
    return pool_status(record, free, given["error"], given["overlapping"], given["before"], generation=2, now=NOW)


def reasons(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in found["conditions"]}


def test_a_pool_shows_nodes_accelerators_and_price() -> None:
    found = pool()
    assert (found["nodes"], found["acceleratorsTotal"], found["acceleratorsFree"]) == (3, 16, 8)
    assert found["price"] == {"perHour": "27.45", "currency": "USD", "source": "NodeAnnotation"}
    assert reasons(found) == {
        "Ready": ("True", "Usable"),
        "PriceKnown": ("True", "NodeAnnotation"),
        "Overlapping": ("False", "None"),
    }


def test_nodes_that_are_only_imagined_are_not_free() -> None:
    added = replace(RECORD.pool.nodes[0], name="added-0-1")
    free = replace(RECORD.pool, nodes=(*RECORD.pool.nodes, added))
    found = pool_status(RECORD, free, None, (), {}, generation=2, now=NOW)
    assert found["acceleratorsFree"] == 16


def test_where_a_price_was_read_and_when_is_shown() -> None:
    price = RECORD.pool.price
    assert price is not None
    dated = replace(price, as_of="2026-01-01", reference="r" * 300)
    found = pool(replace(RECORD, pool=replace(RECORD.pool, price=dated)))
    assert (found["price"]["asOf"], found["price"]["reference"]) == ("2026-01-01", "r" * 256)


@pytest.mark.parametrize(
    ("given", "kind", "expected", "says"),
    [
        pytest.param({"record": None, "error": "no such"}, "Ready", ("False", "InvalidSpec"), "such", id="bad"),
        pytest.param({"record": None}, "PriceKnown", ("False", "PriceUnknown"), "spec.price.perHour", id="no pool"),
        pytest.param(
            {"record": replace(RECORD, problems=("node x has an L4",))},
            "Ready",
            ("False", "NodesDiffer"),
            "node x",
            id="other nodes",
        ),
        pytest.param(
            {"record": replace(RECORD, pool=replace(RECORD.pool, price=None))},
            "PriceKnown",
            ("False", "PriceUnknown"),
            "nothing is bought",
            id="no price",
        ),
        pytest.param({"overlapping": ("a", "b")}, "Overlapping", ("True", "NodesShared"), "a, b", id="overlapping"),
    ],
)
def test_a_pool_says_what_is_wrong(given: dict[str, Any], kind: str, expected: tuple[str, str], says: str) -> None:
    found = pool(**given)
    assert reasons(found)[kind] == expected
    (condition,) = [c for c in found["conditions"] if c["type"] == kind]
    assert says in condition["message"]
