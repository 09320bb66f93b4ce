"""What runs say: statistics with honest intervals, and the search for the highest rate."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from metainf.corpus.estimates import Latencies, kept, latencies, margin_of, request_latencies
from metainf.corpus.rate_search import RATE_TOLERANCE, Bracket, bracketed_rate, refined_rate
from metainf.simulator.contract import SimulationResult
from metainf.workload import LatencyMetric, Slo, SloBound, Statistic

TTFT_P95 = SloBound(LatencyMetric.TTFT, Statistic.P95, 1.0)


def result(sent, first, last):
    count = len(sent)
    none = np.zeros(count, dtype=np.int64)
    return SimulationResult(*map(np.array, (sent, first, last)), none, none, 1, 1.0, 1, 1, 1.0)


def test_latencies_are_by_request_and_nan_where_there_is_none():
    run = result([0.0, 1.0, np.nan], [0.5, 1.2, np.nan], [2.5, 1.2, np.nan])
    found = request_latencies(run, np.array([5, 1, 3]))
    assert found[0].tolist() == pytest.approx([0.5, 0.2, math.nan], nan_ok=True)
    assert found[1].tolist() == pytest.approx([0.5, math.nan, math.nan], nan_ok=True)
    assert found[2].tolist() == pytest.approx([2.5, 0.2, math.nan], nan_ok=True)


def test_statistics_leave_the_warm_up_out():
    values = np.tile(np.concatenate([[9.0] * 100, np.linspace(0.0, 1.0, 1001)]), (3, 1))
    found = latencies(values, first=100)
    assert found.requests == 1001
    assert found.value_s[0] == pytest.approx([0.5, 0.5, 0.95, 0.99])


def test_few_requests_have_no_interval_and_decide_nothing():
    found = latencies(np.full((3, 50), 0.5))
    assert np.isnan(found.interval_ratio).all()
    assert margin_of(found, Slo((TTFT_P95,))) == (pytest.approx(math.log(0.5)), math.inf)


def test_neighbours_that_wait_together_widen_the_interval():
    random = np.random.default_rng(0)
    noise = random.standard_normal(4000)
    slow = np.cumsum(noise) / 20.0
    alone, together = (np.tile(np.exp(0.2 * values), (3, 1)) for values in (noise, slow / slow.std()))
    assert latencies(together).interval_ratio[0, 2] > 3.0 * latencies(alone).interval_ratio[0, 2]


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    truth = math.exp(1.6448536)
    hits = 0
    for _ in range(200):
        found = latencies(np.tile(np.exp(random.standard_normal(4000)), (3, 1)))
        value, interval = found.value_s[0, 2], found.interval_ratio[0, 2]
        hits += abs(value - truth) <= interval * value
    assert 0.88 <= hits / 200 <= 1.0


def test_the_worst_promise_is_the_margin():
    values = np.stack([np.full(300, 0.5), np.full(300, 0.03), np.full(300, 4.0)])
    bounds = (TTFT_P95, SloBound(LatencyMetric.TPOT, Statistic.P50, 0.02))
    margin, interval = margin_of(latencies(values), Slo(bounds))
    assert margin == pytest.approx(math.log(1.5))
    assert interval == pytest.approx(0.0)
    assert margin_of(latencies(values), Slo())[0] == -math.inf
    assert margin_of(Latencies.unstable(10), Slo(bounds))[0] == math.inf


def test_a_latency_that_no_request_has_breaks_nothing():
    values = np.stack([np.full(300, 0.5), np.full(300, math.nan), np.full(300, 0.5)])
    assert margin_of(latencies(values), Slo((SloBound(LatencyMetric.TPOT, Statistic.P95, 1e-9),)))[0] == -math.inf


def test_requests_keep_an_slo_one_by_one_and_refused_ones_do_not():
    values = np.array([[0.5, 1.5, 0.5, math.nan], [0.1, 0.1, math.nan, math.nan], [1.0, 1.0, 1.0, math.nan]])
    bounds = (TTFT_P95, SloBound(LatencyMetric.TPOT, Statistic.P95, 0.2))
    assert kept(values, Slo(bounds)).tolist() == [True, False, True, False]
    assert kept(values, Slo()).tolist() == [True, True, True, False]


def hockey_stick(idle_ratio, slope):
    """log(latency / bound) of a queue with capacity 1."""
    return lambda rate: math.log(idle_ratio * (1.0 + slope * rate / (1.0 - rate)))


IDLE = st.floats(0.05, 0.9)
SLOPES = st.floats(0.01, 3.0)


def root_of(idle_ratio, slope):
    return (1.0 / idle_ratio - 1.0) / (slope + 1.0 / idle_ratio - 1.0)


def around(rate, slope):
    """What the search for another method found: a bracket whose chord passes 0 at that rate."""
    low, high = rate / 1.02, rate * 1.02
    return Bracket(low, -slope * math.log(1.02), high, slope * math.log(1.02), max(1.0, 1.05 * rate))


NEAR = st.builds(around, st.floats(0.01, 1.5), st.floats(0.01, 30.0))


@given(IDLE, SLOPES, st.one_of(st.none(), NEAR))
def test_short_runs_say_the_highest_rate_within_the_tolerance_wherever_they_begin(idle_ratio, slope, near):
    asked = []

    def margin(rate):
        asked.append(rate)
        return hockey_stick(idle_ratio, slope)(rate)

    found = bracketed_rate(margin, 1.0, near=near)
    root = root_of(idle_ratio, slope)
    assert found.low <= root <= found.high <= found.low * 1.08
    assert found.rate == pytest.approx(root, rel=RATE_TOLERANCE)
    assert len(asked) <= 11
    assert max(asked) < 1.0


@given(st.lists(st.floats(-3.0, 3.0), min_size=60, max_size=60), st.one_of(st.none(), NEAR))
def test_a_search_ends_whatever_margins_are(margins, near):
    answers = iter(margins)
    found = bracketed_rate(lambda rate: next(answers), 7.0, near=near)
    assert 0.0 <= found.low <= found.high <= 7.0


@given(st.floats(0.05, 0.8), SLOPES, st.floats(-0.05, 0.05))
def test_long_runs_find_the_rate_within_the_tolerance_though_short_ones_were_off(idle_ratio, slope, shift):
    short = bracketed_rate(lambda rate: hockey_stick(idle_ratio, slope)(rate) + shift, 1.0)
    assume(short.low > 0.0)
    found = refined_rate(hockey_stick(idle_ratio, slope), short, 1.0 - 1e-9)
    assert found == pytest.approx(root_of(idle_ratio, slope), rel=2 * RATE_TOLERANCE)


@pytest.mark.parametrize("root", [0.02, 0.2, 0.5, 0.8, 0.95, 0.985])
def test_two_short_runs_are_enough_beside_a_method_alike(root):
    asked = []

    def margin(rate):
        asked.append(rate)
        return 0.5 * math.log(rate / (1.0 - rate) / (root / (1.0 - root)))

    bracketed_rate(margin, 1.0, near=around(root, 0.5 / (1.0 - root)))
    assert len(asked) == 2


def test_promises_that_never_hold_give_zero():
    assert bracketed_rate(lambda rate: 0.1, 1.0).low == 0.0


def test_promises_that_always_hold_give_the_capacity():
    found = bracketed_rate(lambda rate: -1.0, 2.0)
    assert found.high == 2.0
    assert refined_rate(lambda rate: -1.0, found, 2.0) == pytest.approx(2.0, rel=0.05)
