import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metainf.meta_features.observed import TrafficObservation, with_observed
from metainf.workload import (
    BatchLoad,
    ConcurrencyLoad,
    Load,
    RateLoad,
    Repetitiveness,
    SharedPrefix,
    TokenLengths,
    Traffic,
)

DECLARED = Traffic(
    RateLoad(4.0), TokenLengths(1000, 2500), TokenLengths(200, 500), SharedPrefix(400, 0.5, 7), Repetitiveness.HIGH, 1.5
)


def test_nothing_seen_changes_nothing() -> None:
    assert with_observed(DECLARED, TrafficObservation()) == DECLARED


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        pytest.param(RateLoad(4.0), RateLoad(2.5), id="a rate by the rate"),
        pytest.param(ConcurrencyLoad(8), ConcurrencyLoad(12), id="clients by the requests under way"),
        pytest.param(BatchLoad(100, 60.0), BatchLoad(100, 60.0), id="a batch stays what the user said"),
    ],
)
def test_the_kind_of_load_stays(declared: Load, expected: Load) -> None:
    traffic = Traffic(declared, TokenLengths(100), TokenLengths(10))
    seen = TrafficObservation(requests_per_second=2.5, concurrency=12.3)
    assert with_observed(traffic, seen).load == expected


def test_silence_is_no_rate() -> None:
    assert with_observed(DECLARED, TrafficObservation(requests_per_second=0.0)).load == DECLARED.load


def test_lengths_are_those_that_were_seen() -> None:
    seen = TrafficObservation(
        input_tokens_mean=800.0, input_tokens_p95=1600.0, output_tokens_mean=100.0, arrival_cv=2.0
    )
    found = with_observed(DECLARED, seen)
    assert found.input_tokens == TokenLengths(800.0, 1600.0)
    assert found.output_tokens == TokenLengths(100.0, 250.0)  # the declared spread
    assert found.burstiness == 2.0
    assert found.repetitiveness is Repetitiveness.HIGH


@pytest.mark.parametrize(
    ("prefix", "hit_ratio", "expected"),
    [
        pytest.param(SharedPrefix(400, 0.5, 7), 0.1, SharedPrefix(400, 0.25, 7), id="fewer hits than declared"),
        pytest.param(SharedPrefix(400, 0.5, 7), 0.4, SharedPrefix(400, 1.0, 7), id="as many as the prefix can give"),
        pytest.param(SharedPrefix(400, 0.5, 7), 0.6, SharedPrefix(600, 1.0, 7), id="more: it is longer than declared"),
        pytest.param(SharedPrefix(400, 0.5, 7), 0.0, SharedPrefix(400, 0.0, 7), id="none at all"),
        pytest.param(None, 0.3, SharedPrefix(300), id="none was declared"),
        pytest.param(None, 0.0, None, id="none declared and none seen"),
        pytest.param(None, None, None, id="the cache is off"),
    ],
)
def test_hits_become_a_prefix(
    prefix: SharedPrefix | None, hit_ratio: float | None, expected: SharedPrefix | None
) -> None:
    traffic = Traffic(RateLoad(1.0), TokenLengths(1000), TokenLengths(10), prefix)
    assert with_observed(traffic, TrafficObservation(prefix_hit_ratio=hit_ratio)).shared_prefix == expected


@given(mean=st.floats(0.0, 1e6), p95=st.floats(0.0, 1e7), hits=st.floats(0.0, 1.0))
def test_whatever_is_seen_is_valid_traffic(mean: float, p95: float, hits: float) -> None:
    seen = TrafficObservation(input_tokens_mean=mean, input_tokens_p95=p95, prefix_hit_ratio=hits)
    found = with_observed(DECLARED, seen)
    assert found.input_tokens.mean_tokens >= 1.0
    assert math.isfinite(found.input_tokens.log_sd)
    assert found.shared_prefix is not None
    assert 0.0 <= found.shared_prefix.ratio <= 1.0
    assert found.shared_prefix.ratio * found.shared_prefix.tokens <= found.input_tokens.mean_tokens + 1
