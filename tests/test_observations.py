"""From counts at moments to what was seen over minutes: windows, restarts, pods that come and go, percentiles."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_counts import LATENCY_BOUNDS_S, counts, histogram, restarted
from metainf.workload import LatencyMetric, Statistic
from metainf_operator.engine_metrics import EngineCounts, parse_engine_metrics
from metainf_operator.observations import Observation, Window, quantile
from test_engine_metrics import VERSIONS, recorded

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
FIVE_MINUTES = timedelta(minutes=5)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def watched(*readings: dict[str, EngineCounts | None], every_s: float = 30.0) -> Observation:
    window = Window(FIVE_MINUTES)
    for i, reading in enumerate(readings):
        window.add(at(i * every_s), reading)
    found = window.observation()
    assert found is not None
    return found


# windows


def test_one_reading_tells_nothing_and_two_tell_what_came_in_between() -> None:
    window = Window(FIVE_MINUTES)
    window.add(at(0), {"a": counts(1000)})
    assert window.observation() is None
    window.add(at(30), {"a": counts(1060)})
    found = window.observation()
    assert found is not None
    assert (found.since, found.until, found.seconds) == (at(0), at(30), 30.0)
    assert (found.requests, found.requests_per_second, found.output_tokens_per_second) == (60, 2.0, 200.0)
    assert found.concurrency == pytest.approx(3.0)  # two a second that take 1.5 s each


def test_what_is_older_than_the_window_is_forgotten() -> None:
    window = Window(FIVE_MINUTES)
    for i in range(40):
        window.add(at(30 * i), {"a": counts(min(i, 20) * 10)})
    found = window.observation()
    assert found is not None
    assert (found.seconds, found.requests) == (300.0, 0)


@settings(deadline=None)
@given(st.lists(st.floats(1.0, 45.0), min_size=12, max_size=40))
def test_a_window_is_never_shorter_than_asked_once_it_was_watched_so_long(pauses: list[float]) -> None:
    window, seconds = Window(FIVE_MINUTES), 0.0
    window.add(at(0), {"a": counts(0)})
    for pause in pauses:
        seconds += pause
        window.add(at(seconds), {"a": counts(0)})
        found = window.observation()
        assert found is not None
        assert found.seconds == pytest.approx(seconds, abs=1e-3) or 300.0 <= found.seconds < 345.0


@pytest.mark.parametrize(
    ("readings", "requests", "complete"),
    [
        pytest.param([{"a": counts(100)}, {"a": counts(110)}], 10, True, id="a pod"),
        pytest.param(
            [{"a": counts(5), "b": counts(7)}, {"a": counts(15), "b": counts(27)}], 30, True, id="pods are added up"
        ),
        pytest.param(
            [{"a": counts(100)}, {"a": counts(110), "b": counts(90)}, {"a": counts(110), "b": counts(95)}],
            15,
            False,
            id="a new pod counts from its second reading on",
        ),
        pytest.param(
            [{"a": counts(0), "b": counts(0)}, {"a": counts(10), "b": counts(20)}, {"a": counts(11)}],
            31,
            True,
            id="a pod that goes takes nothing away",
        ),
        pytest.param([{"a": counts(100)}, {"a": counts(30)}], 30, True, id="counts that fell: all of them are new"),
        pytest.param(
            [{"a": counts(10)}, {"a": restarted(counts(30), 2000.0)}],
            30,
            True,
            id="another start, by its own word, though no count fell",
        ),
        pytest.param(
            [{"a": counts(0)}, {"a": None}, {"a": counts(40)}], 40, False, id="a pod that was silent is made up for"
        ),
        pytest.param([{"a": None}, {"a": counts(40)}], 0, False, id="what was never read tells nothing at first"),
        pytest.param([{"a": counts(40)}, {}], 0, False, id="no pods"),
    ],
)
def test_what_came_over_the_window(
    readings: list[dict[str, EngineCounts | None]], requests: int, complete: bool
) -> None:
    found = watched(*readings)
    assert (found.requests, found.complete) == (requests, complete)


def test_pods_that_count_by_other_buckets_are_not_mixed() -> None:
    other = EngineCounts(started_s=1.0, ttft_s=histogram([0.1] * 9, (0.5,)))
    found = watched({"a": counts(0), "b": restarted(other, 0.0)}, {"a": counts(9), "b": other})
    assert found.latency(LatencyMetric.TTFT) is None


def test_requests_that_wait_have_arrived() -> None:
    found = watched({"a": counts(0)}, {"a": counts(30, waiting=60)})
    assert found.requests_per_second == 3.0
    assert found.requests == 30
    drained = watched({"a": counts(0, waiting=60)}, {"a": counts(60, waiting=0)})
    assert drained.requests_per_second == 0.0


@pytest.mark.parametrize(
    ("hits", "expected"), [pytest.param(0.0, 0.0, id="none"), pytest.param(0.4, 0.4, id="a share of the prompt tokens")]
)
def test_hits_of_the_prefix_cache(hits: float, expected: float) -> None:
    assert watched({"a": counts(0, hits=hits)}, {"a": counts(10, hits=hits)}).prefix_hit_ratio == expected


def test_without_requests_or_with_the_cache_off_no_share_is_known() -> None:
    assert watched({"a": counts(4)}, {"a": counts(4)}).prefix_hit_ratio is None


# percentiles


def test_a_percentile_lies_between_two_bounds_and_is_read_off_in_between() -> None:
    found = quantile(histogram([0.05] * 90 + [0.3] * 10, LATENCY_BOUNDS_S), 0.95)
    assert found is not None
    assert (found.low, found.high) == (0.25, 0.5)
    assert found.value == pytest.approx(0.375)
    assert found.is_bounded


def test_beyond_the_last_bound_only_a_least_is_known() -> None:
    found = quantile(histogram([0.05] * 9 + [70.0], LATENCY_BOUNDS_S), 0.95)
    assert found is not None
    assert (found.value, found.low, found.high, found.is_bounded) == (2.0, 2.0, math.inf, False)


@pytest.mark.parametrize("count", range(20, 1001, 20))
def test_a_twentieth_beyond_a_bound_is_just_allowed(count: int) -> None:
    beyond = count // 20
    found = quantile(histogram([0.2] * (count - beyond) + [0.9] * beyond, LATENCY_BOUNDS_S), 0.95)
    assert found is not None
    assert found.high == 0.25


def test_of_nothing_there_is_no_percentile() -> None:
    assert quantile(histogram([], LATENCY_BOUNDS_S), 0.95) is None


def test_the_mean_is_exact() -> None:
    found = watched({"a": counts(0)}, {"a": counts(40, ttft_s=0.21)})
    mean = found.statistic(LatencyMetric.TTFT, Statistic.MEAN)
    assert mean is not None
    assert mean.value == pytest.approx(0.21)


def test_answers_of_one_token_have_no_time_per_output_token() -> None:
    single = watched({"a": counts(0, answer=1)}, {"a": counts(40, answer=1)})
    assert single.statistic(LatencyMetric.TPOT, Statistic.P95) is None
    several = watched({"a": counts(0, answer=2)}, {"a": counts(40, answer=2)})
    found = several.latency(LatencyMetric.TPOT)
    assert found is not None
    assert found.count == 40


values = st.lists(st.floats(0.001, 10.0), min_size=1, max_size=200)


@settings(deadline=None)
@given(values, st.sampled_from([0.5, 0.95, 0.99]))
def test_the_true_percentile_lies_within_the_bounds(seen: list[float], probability: float) -> None:
    found = quantile(histogram(seen, LATENCY_BOUNDS_S), probability)
    true = sorted(seen)[math.ceil(probability * len(seen)) - 1]
    assert found is not None
    assert found.low < true <= found.high
    assert found.low <= found.value <= found.high


@settings(deadline=None)
@given(values)
def test_a_higher_percentile_is_never_lower(seen: list[float]) -> None:
    made = histogram(seen, LATENCY_BOUNDS_S)
    found = [quantile(made, p) for p in (0.5, 0.95, 0.99)]
    middle = [each.value for each in found if each is not None]
    assert middle == sorted(middle)


steps = st.lists(
    st.tuples(st.integers(0, 50), st.booleans(), st.booleans()), min_size=2, max_size=9
)  # new requests, whether the engine starts anew first, whether it can be read


@settings(deadline=None)
@given(steps)
def test_every_request_is_counted_once_whatever_happens_to_the_reading(story: list[tuple[int, bool, bool]]) -> None:
    """Only what an engine answered after its last reading and before it died is lost with it."""
    window, total, started_s = Window(FIVE_MINUTES), 0, 1000.0
    window.add(at(0), {"a": counts(0, started_s=started_s)})
    counted, unread = 0, 0
    for i, (more, dies, readable) in enumerate(story):
        if dies:
            started_s += 1
            total, unread = 0, 0
        total, unread = total + more, unread + more
        window.add(at(30 * (i + 1)), {"a": counts(total, started_s=started_s) if readable else None})
        if readable:
            counted, unread = counted + unread, 0
    found = window.observation()
    assert found is not None
    assert found.requests == counted


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_two_pods_are_the_sum_of_each_alone(one: list[int], other: list[int]) -> None:
    length = min(len(one), len(other))
    a = [counts(sum(one[:i])) for i in range(length + 1)]
    b = [counts(sum(other[:i]), ttft_s=0.7) for i in range(length + 1)]
    both = watched(*({"a": x, "b": y} for x, y in zip(a, b, strict=True)))
    alone = [watched(*({"p": each} for each in pod)) for pod in (a, b)]
    assert both.requests == sum(each.requests for each in alone)
    assert both.output_tokens_per_second == pytest.approx(sum(each.output_tokens_per_second or 0 for each in alone))


# real servers


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_real_server_did_between_two_readings(version: str) -> None:
    idle, busy = recorded("0.32.0-before-traffic"), recorded(version)
    found = watched(
        {"a": restarted(parse_engine_metrics(idle), 1.0)}, {"a": restarted(parse_engine_metrics(busy), 1.0)}
    )
    assert found.requests == 105
    assert found.requests_per_second == pytest.approx(106 / 30)
    assert found.prefix_hit_ratio == pytest.approx(15104 / 27445)
    tpot = found.latency(LatencyMetric.TPOT)
    assert tpot is not None
    assert tpot.count == 100  # five answers had one token
    for metric in LatencyMetric:
        p50, p95 = (found.statistic(metric, each) for each in (Statistic.P50, Statistic.P95))
        assert p50 is not None
        assert p95 is not None
        assert 0 < p50.value <= p95.value < 60


def test_where_nothing_was_counted_nothing_is_kept_twice() -> None:
    window, same = Window(FIVE_MINUTES), counts(100)
    other, another = Window(FIVE_MINUTES), counts(7)
    for i in range(3):
        window.add(at(30 * i), {"a": same})
        other.add(at(30 * i), {"b": another})
    kept = {id(each.grown) for each in (*window._intervals, *other._intervals)}
    assert len(kept) == 1
    found = window.observation()
    assert found is not None
    assert (found.requests, found.output_tokens_per_second) == (0, 0.0)
