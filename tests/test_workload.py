"""What a user asks for, as values: lengths of prompts and answers, and how a budget is written."""

import math
from decimal import Decimal
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metainf.errors import InvalidWorkloadError
from metainf.workload import (
    MOST_REPLICAS,
    Budget,
    BudgetKind,
    LatencyMetric,
    ReplicaLimits,
    SloBound,
    Statistic,
    TokenLengths,
)

Z_95 = NormalDist().inv_cdf(0.95)
MOST_RATIO = math.exp(Z_95**2 / 2)


@given(mean=st.floats(1, 1e5), ratio=st.floats(1.0, 3.8))
def test_a_lognormal_length_has_the_mean_and_the_p95_that_were_given(mean: float, ratio: float) -> None:
    lengths = TokenLengths(mean, mean * ratio)
    assert lengths.quantile(Z_95) == pytest.approx(mean * ratio, rel=1e-6)
    # The mean of a lognormal is its median x exp(sd^2 / 2).
    assert lengths.quantile(0.0) * math.exp(lengths.log_sd**2 / 2) == pytest.approx(mean, rel=1e-9)
    assert 0 <= lengths.log_sd <= Z_95


@given(mean=st.floats(1, 1e5), z=st.floats(-3, 3))
def test_a_mean_alone_is_a_constant_length(mean: float, z: float) -> None:
    lengths = TokenLengths(mean)
    assert (lengths.quantile(z), lengths.squared_cv) == (mean, 0.0)


def test_a_wider_p95_means_more_variation() -> None:
    cvs = [TokenLengths(100, p95).squared_cv for p95 in (100, 150, 250, 380)]
    assert cvs == sorted(cvs)
    assert cvs[0] == pytest.approx(0, abs=1e-9)
    assert cvs[-1] > 1


@pytest.mark.parametrize(
    ("mean", "p95", "says"),
    [
        pytest.param(0.5, None, "at least 1 token, got 0.5", id="less than a token"),
        pytest.param(-3, None, "at least 1 token", id="negative"),
        pytest.param(math.nan, None, "at least 1 token", id="not a number"),
        pytest.param(100, 50, "p95 length 50 is below the mean 100", id="p95 below the mean"),
        pytest.param(100, 387, "more than 3.87 times the mean 100", id="wider than any lognormal"),
    ],
)
def test_refuses_lengths_that_cannot_be(mean: float, p95: float | None, says: str) -> None:
    with pytest.raises(InvalidWorkloadError, match=says):
        TokenLengths(mean, p95)


def test_takes_the_widest_p95_that_a_lognormal_can_have() -> None:
    assert TokenLengths(100, 100 * MOST_RATIO * (1 - 1e-12)).log_sd == pytest.approx(Z_95, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        pytest.param(BudgetKind.PER_HOUR, "EUR/h", id="per hour"),
        pytest.param(BudgetKind.PER_MILLION_TOKENS, "EUR per million output tokens", id="per million tokens"),
        pytest.param(BudgetKind.TOTAL, "EUR in total", id="total"),
    ],
)
def test_a_budget_names_its_unit(kind: BudgetKind, unit: str) -> None:
    assert Budget(kind, Decimal(6), "EUR").unit == unit


def test_a_promise_reads_as_metric_and_statistic() -> None:
    assert str(SloBound(LatencyMetric.TTFT, Statistic.P95, 0.5)) == "ttft p95"


@pytest.mark.parametrize(("p95", "stated"), [pytest.param(None, 100.0, id="a mean"), pytest.param(250.0, 250.0)])
def test_the_longest_length_that_is_stated_is_the_p95_or_the_mean(p95: float | None, stated: float) -> None:
    assert TokenLengths(100.0, p95).stated_tokens == stated


@pytest.mark.parametrize("field", ["minimum", "maximum", "fixed"])
def test_more_replicas_than_one_workload_can_have_are_refused_with_what_to_do(field: str) -> None:
    assert getattr(ReplicaLimits(**{field: MOST_REPLICAS}), field) == MOST_REPLICAS
    with pytest.raises(InvalidWorkloadError, match=f"1001 replicas are asked for: at most {MOST_REPLICAS}: split"):
        ReplicaLimits(**{field: 1001})
