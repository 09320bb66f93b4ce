"""What runs costs today: what was recorded, times what the price did since."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from choices import VERSION, architecture, pool
from controller_passes import STUB, workload
from metainf.manifests import Chosen, parse_decision, parse_workload
from metainf.planning import plan
from metainf.pools import Price, PriceSource
from metainf_operator.sides import cost_today


def chosen(*, addable: bool = False) -> Chosen:
    """One of eight accelerators of a node that costs 8."""
    where = pool("cheap", "A100-SXM-80GB", nodes=0 if addable else 1, addable=1, price="8")
    asked = parse_workload(workload(scaling={"maxReplicas": 1}))
    made = plan(asked, architecture(), revision=None, pools=(where,), predictor=STUB, engine_version=VERSION)
    body: dict[str, Any] = {**made.manifest, "metadata": {**made.manifest["metadata"], "uid": "d1"}}
    found = parse_decision(body).chosen
    assert found is not None
    return found


EIGHT = Price(Decimal(8), "USD", PriceSource.ANNOTATION)
TWELVE = replace(EIGHT, per_hour=Decimal(12))


@pytest.mark.parametrize(
    ("then", "today", "cost"),
    [
        pytest.param(EIGHT, EIGHT, "1", id="as it was"),
        pytest.param(EIGHT, TWELVE, "1.5", id="the price rose"),
        pytest.param(TWELVE, EIGHT, "0.666667", id="it fell"),
        pytest.param(EIGHT, None, "1", id="unknown now: what was recorded, never nothing"),
        pytest.param(None, TWELVE, "1", id="unknown then"),
        pytest.param(EIGHT, replace(TWELVE, currency="EUR"), "1", id="nothing is converted"),
    ],
)
def test_a_cost_follows_the_price_of_its_pool(then: Price | None, today: Price | None, cost: str) -> None:
    assert cost_today(chosen(), then, today).quantize(Decimal("0.000001")) == Decimal(cost)


def test_a_node_that_was_added_for_it_is_paid_whole_for_as_long_as_it_runs() -> None:
    assert cost_today(chosen(addable=True), EIGHT, TWELVE) == Decimal(12)
