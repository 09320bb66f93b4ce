"""What was seen as users read it, and when it is worth a write."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_counts import counts
from metainf.workload import LatencyMetric, Slo, SloBound, Statistic
from metainf_operator.engine_metrics import EngineCounts
from metainf_operator.observations import Observation
from metainf_operator.observed_status import Sight, decision_fields, is_due, slo_texts, status_fields

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)
NO_SLO = Slo()
PROMISES = Slo(
    (
        SloBound(LatencyMetric.TTFT, Statistic.P99, 0.5),
        SloBound(LatencyMetric.E2E, Statistic.P50, 2.0),
    )
)


def seen(found: EngineCounts) -> Observation:
    return Observation(NOON, LATER, found)


BUSY = Sight(seen(counts(300, hits=0.25)), pods=2)


def fields(sight: Sight = BUSY, slo: Slo = NO_SLO, cost: str | None = "3.60") -> dict[str, Any]:
    return status_fields(sight, slo, None if cost is None else Decimal(cost), "USD", LATER)


def test_shows_latencies_throughput_hits_and_what_a_million_tokens_cost() -> None:
    assert fields() == {
        "pods": 2,
        "time": "2026-01-01T12:05:00Z",
        "requests": 300,
        "ttft": "p95 242ms",
        "tpot": "p95 95ms",
        "throughput": "100 tok/s",
        "costPerMillionTokens": "10.00 USD",
        "requestsPerSecond": "1",
        "prefixHitRatio": "0.25",
    }


def test_shows_every_statistic_that_is_promised() -> None:
    found = fields(slo=PROMISES)
    assert found["ttft"] == "p95 242ms, p99 248ms"
    assert found["e2e"] == "p50 1.5s, p95 1.95s"
    assert slo_texts(found)["ttft p99"] == "248ms"
    assert slo_texts(found)["e2e p50"] == "1.5s"


def test_a_percentile_without_an_upper_bound_is_a_least() -> None:
    assert fields(Sight(seen(counts(300, ttft_s=9.0)), pods=1))["ttft"] == "p95 above 2s"


def test_a_statistic_that_too_few_requests_tell_is_left_out() -> None:
    found = fields(Sight(seen(counts(50)), pods=1), PROMISES)
    assert found["ttft"] == "p95 242ms"


def test_without_a_price_there_is_no_cost_and_without_answers_no_figure() -> None:
    assert "costPerMillionTokens" not in fields(cost=None)
    nothing = Sight(None, pods=3, unreadable=(("chat-1", "timed out"),))
    assert fields(nothing) == {"pods": 2, "unreadablePods": 1, "time": "2026-01-01T12:05:00Z"}


def test_a_decision_has_the_same_figures_as_numbers_and_loses_those_that_are_not_known() -> None:
    found = decision_fields(seen(counts(50, ttft_s=9.0)), fields())
    assert found["ttft"] == {"mean": "9", "p50": None, "p95": None, "p99": None}
    assert found["e2e"] == {"mean": "1.5", "p50": "1.5", "p95": "1.95", "p99": None}
    assert (found["outputTokensPerSecond"], found["requests"]) == ("16.67", 50)
    assert (found["costPerMillionTokens"], found["prefixHitRatio"]) == ("10.00", "0")
    assert (found["since"], found["until"]) == ("2026-01-01T12:00:00Z", "2026-01-01T12:05:00Z")


# when to write


def changed(**change: Any) -> dict[str, Any]:
    return {key: value for key, value in {**fields(), **change}.items() if value is not None}


@pytest.mark.parametrize(
    ("after", "minutes", "transition", "due"),
    [
        pytest.param(changed(), 60, False, False, id="nothing moved, however long ago"),
        pytest.param(changed(ttft="p95 265ms"), 60, False, False, id="a tenth at most"),
        pytest.param(changed(ttft="p95 268ms"), 60, False, True, id="more than a tenth"),
        pytest.param(changed(ttft="p95 120ms"), 60, False, True, id="less by more than a tenth"),
        pytest.param(changed(ttft="p95 2s"), 4.9, False, False, id="but not within five minutes"),
        pytest.param(changed(ttft="p95 2s"), 5, False, True, id="after five minutes"),
        pytest.param(
            changed(requests=900, costPerMillionTokens="99 USD"), 60, False, False, id="what follows from others"
        ),
        pytest.param(changed(ttft="p95 above 242ms"), 60, False, False, id="the same figure as a least"),
        pytest.param(changed(ttft="p95 242ms, p99 1s"), 60, False, True, id="another statistic is promised"),
        pytest.param(changed(throughput="150 tok/s"), 60, False, True, id="throughput"),
        pytest.param(changed(prefixHitRatio="0.31"), 60, False, True, id="hits"),
        pytest.param(changed(requests=None, ttft=None), 0, False, True, id="traffic ended: at once"),
        pytest.param(changed(unreadablePods=1), 0, False, True, id="a pod cannot be read: at once"),
        pytest.param(changed(pods=3), 0, False, True, id="a pod more: at once"),
        pytest.param(changed(), 0, True, True, id="a promise's standing changed: at once"),
    ],
)
def test_is_written_on_a_transition_or_where_a_figure_moved(
    after: dict[str, Any], minutes: float, transition: bool, due: bool
) -> None:
    assert is_due(fields(), after, transition=transition, now=LATER + timedelta(minutes=minutes)) is due


def test_what_was_never_written_is_due_and_what_was_is_not() -> None:
    assert is_due({}, fields(), transition=False, now=LATER)
    assert is_due({"accruedCost": "1 USD", "time": "soon"}, fields(), transition=False, now=LATER)
    assert not is_due(fields(), fields(), transition=False, now=LATER)


@pytest.mark.parametrize("before", [{"ttft": "soon"}, {"ttft": 7}, {"time": None}, {"pods": "many"}])
def test_a_damaged_status_is_written_anew(before: dict[str, Any]) -> None:
    assert is_due({**fields(), **before, "time": "2020-01-01T00:00:00Z"}, fields(), transition=False, now=LATER) or (
        before == {"time": None}
    )


@settings(deadline=None)
@given(st.integers(20, 500), st.floats(0.02, 1.9), st.floats(0.01, 1.9), st.floats(0.0, 1.0))
def test_what_is_written_is_not_due_again(requests: int, ttft_s: float, tpot_s: float, hits: float) -> None:
    sight = Sight(seen(counts(requests, ttft_s=ttft_s, tpot_s=tpot_s, hits=hits)), pods=1)
    written = fields(sight, PROMISES)
    assert not is_due(written, fields(sight, PROMISES), transition=False, now=LATER + timedelta(days=1))
    assert is_due(written, fields(replace(sight, pods=2), PROMISES), transition=False, now=LATER)
