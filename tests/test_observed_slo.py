"""Whether a promise is kept, by what a histogram tells."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_counts import LATENCY_BOUNDS_S, counts, histogram
from metainf.workload import LatencyMetric, Slo, SloBound, Statistic
from metainf_operator.engine_metrics import EngineCounts
from metainf_operator.observations import Observation
from metainf_operator.observed_slo import Verdict, judge

NOON, LATER = datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 12, 5, tzinfo=UTC)


def seen(found: EngineCounts) -> Observation:
    return Observation(NOON, LATER, found)


def verdict(
    observation: Observation | None,
    bound_s: float,
    statistic: Statistic = Statistic.P95,
    metric: LatencyMetric = LatencyMetric.TTFT,
) -> Verdict:
    ((_, found),) = judge(Slo((SloBound(metric, statistic, bound_s),)), observation).verdicts
    return found


@pytest.mark.parametrize(
    ("observation", "bound_s", "statistic", "expected"),
    [
        pytest.param(seen(counts(50, ttft_s=0.2)), 0.5, Statistic.P95, Verdict.KEPT, id="below the bound"),
        pytest.param(
            seen(counts(50, ttft_s=0.2)), 0.25, Statistic.P95, Verdict.KEPT, id="in the bucket that ends at it"
        ),
        pytest.param(
            seen(counts(50, ttft_s=0.7)), 0.5, Statistic.P95, Verdict.MISSED, id="in the bucket that begins at it"
        ),
        pytest.param(
            seen(counts(50, ttft_s=0.7)), 0.8, Statistic.P95, Verdict.UNSURE, id="in the bucket that holds it"
        ),
        pytest.param(seen(counts(50, ttft_s=9.0)), 1.0, Statistic.P95, Verdict.MISSED, id="beyond the last bucket"),
        pytest.param(
            seen(counts(50, ttft_s=9.0)), 60.0, Statistic.P95, Verdict.UNSURE, id="beyond it, and so the bound"
        ),
        pytest.param(seen(counts(19, ttft_s=9.0)), 0.5, Statistic.P95, Verdict.UNSEEN, id="too few for a p95"),
        pytest.param(seen(counts(20, ttft_s=9.0)), 0.5, Statistic.P95, Verdict.MISSED, id="just enough for a p95"),
        pytest.param(seen(counts(99, ttft_s=9.0)), 0.5, Statistic.P99, Verdict.UNSEEN, id="too few for a p99"),
        pytest.param(seen(counts(100, ttft_s=9.0)), 0.5, Statistic.P99, Verdict.MISSED, id="just enough for a p99"),
        pytest.param(seen(counts(20, ttft_s=0.2)), 0.5, Statistic.P50, Verdict.KEPT, id="a median"),
        pytest.param(seen(EngineCounts(output_tokens=9)), 0.5, Statistic.P95, Verdict.UNSEEN, id="not told"),
        pytest.param(None, 0.5, Statistic.P95, Verdict.UNSEEN, id="nothing seen"),
    ],
)
def test_a_promise_is_kept_missed_or_not_known(
    observation: Observation | None, bound_s: float, statistic: Statistic, expected: Verdict
) -> None:
    assert verdict(observation, bound_s, statistic) is expected


def test_each_promise_is_judged_by_its_own_latency() -> None:
    found = seen(counts(200, ttft_s=0.2, tpot_s=0.4, e2e_s=1.5))
    bounds = tuple(SloBound(metric, Statistic.P99, 0.25) for metric in LatencyMetric)
    judged = judge(Slo(bounds), found)
    assert dict(judged.verdicts) == dict(zip(bounds, (Verdict.KEPT, Verdict.MISSED, Verdict.MISSED), strict=True))
    assert judged.those(Verdict.MISSED) == bounds[1:]


@settings(deadline=None)
@given(
    st.lists(st.floats(0.001, 5.0), min_size=20, max_size=120),
    st.floats(0.01, 6.0),
    st.sampled_from([Statistic.P50, Statistic.P95]),
)
def test_nobody_is_accused_or_cleared_wrongly(values: list[float], bound_s: float, statistic: Statistic) -> None:
    made = EngineCounts(ttft_s=histogram(values, LATENCY_BOUNDS_S))
    share = {Statistic.P50: 0.5, Statistic.P95: 0.95}[statistic]
    kept = sum(value <= bound_s for value in values) >= share * len(values)
    found = verdict(seen(made), bound_s, statistic)
    assert found is Verdict.UNSURE or (found is Verdict.KEPT) is kept
