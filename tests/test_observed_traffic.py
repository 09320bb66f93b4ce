"""Which traffic is decided by where the policy says Observed: the rule, and that it does not flap."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_counts import TOKEN_BOUNDS, counts, histogram
from metainf.manifests import ObservedTraffic
from metainf.workload import BatchLoad, ConcurrencyLoad, RateLoad, Repetitiveness, SharedPrefix, TokenLengths, Traffic
from metainf_operator.observations import Observation
from metainf_operator.observed_traffic import LEAST_REQUESTS, differs, rebased, traffic_in_use, traffic_seen

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW_S = 300.0
DECLARED = Traffic(
    RateLoad(4.0), TokenLengths(500, 1200), TokenLengths(100), repetitiveness=Repetitiveness.LOW, burstiness=2.0
)


def seen(
    requests: int = 1200,
    *,
    seconds: float = WINDOW_S,
    complete: bool = True,
    prompt: int = 500,
    answer: int = 100,
    hits: float = 0.0,
) -> Observation:
    found = counts(requests, prompt=prompt, answer=answer, hits=hits)
    return Observation(NOON - timedelta(seconds=seconds), NOON, found, complete)


def used(
    observation: Observation | None, recorded: ObservedTraffic | None = None, declared: Traffic = DECLARED
) -> ObservedTraffic | None:
    return traffic_in_use(declared, recorded, observation, window_s=WINDOW_S)


def recorded(rps: float = 1.0, **change: object) -> ObservedTraffic:
    traffic = replace(DECLARED, load=RateLoad(rps), **change)  # type: ignore[arg-type]
    return ObservedTraffic(traffic, 300, NOON - timedelta(hours=1), NOON)


@pytest.mark.parametrize(
    ("observation", "takes"),
    [
        pytest.param(seen(300), True, id="a quarter of the declared rate"),
        pytest.param(seen(1800), True, id="half as much again"),
        pytest.param(seen(1200), False, id="as declared"),
        pytest.param(seen(1450), False, id="a fifth more: noise"),
        pytest.param(seen(1200, prompt=900), True, id="longer prompts"),
        pytest.param(seen(1200, answer=30), True, id="shorter answers"),
        pytest.param(seen(1200, hits=0.4), True, id="hits that nobody declared"),
        pytest.param(seen(1200, hits=0.08), False, id="a few hits: noise"),
        pytest.param(seen(LEAST_REQUESTS), True, id="just enough requests"),
        pytest.param(seen(LEAST_REQUESTS - 1), False, id="too few requests"),
        pytest.param(seen(300, seconds=269), False, id="not watched long enough"),
        pytest.param(seen(300, seconds=270), True, id="watched for nine tenths of the window"),
        pytest.param(seen(300, complete=False), False, id="a pod could not be read"),
        pytest.param(None, False, id="nothing seen"),
    ],
)
def test_seen_traffic_is_taken_where_enough_was_seen_and_it_differs(
    observation: Observation | None, takes: bool
) -> None:
    assert (used(observation) is not None) is takes


def test_what_was_seen_takes_the_place_of_load_lengths_and_hits_and_of_nothing_else() -> None:
    found = used(seen(300, prompt=900, answer=30, hits=0.4))
    assert found is not None
    assert (found.requests, found.since, found.until) == (300, NOON - timedelta(minutes=5), NOON)
    traffic = found.traffic
    assert traffic.load == RateLoad(1.0)
    # One bucket holds all lengths, so that only the mean is told: the declared spread stays.
    assert (traffic.input_tokens, traffic.output_tokens) == (TokenLengths(900, 2160), TokenLengths(30))
    assert traffic.shared_prefix == SharedPrefix(360)
    assert (traffic.repetitiveness, traffic.burstiness) == (Repetitiveness.LOW, 2.0)


def test_a_spread_that_the_buckets_show_is_taken() -> None:
    observation = seen()
    lengths = histogram([40] * 1100 + [900] * 100, TOKEN_BOUNDS)
    found = used(replace(observation, counts=replace(observation.counts, input_tokens=lengths)))
    assert found is not None
    assert found.traffic.input_tokens.mean_tokens == 112  # 100 and more is another bucket than the p95's
    assert found.traffic.input_tokens.p95_tokens == 269  # the declared spread: mean and p95 share their bucket
    shorter = histogram([40] * 1100 + [300] * 100, TOKEN_BOUNDS)
    found = used(replace(observation, counts=replace(observation.counts, input_tokens=shorter)))
    assert found is not None
    assert found.traffic.input_tokens.mean_tokens == 62
    assert found.traffic.input_tokens.p95_tokens == int(62 * 3.86)  # 550 was read off, more than a lognormal can have


@pytest.mark.parametrize(
    ("observation", "expected_rps"),
    [
        pytest.param(None, 1.0, id="silence leaves it as it is"),
        pytest.param(seen(40), 1.0, id="too few requests leave it as it is"),
        pytest.param(seen(330), 1.0, id="a tenth more is noise"),
        pytest.param(seen(390), 1.3, id="three tenths more are not"),
        pytest.param(seen(1200), 4.0, id="back to what was declared, as seen"),
    ],
)
def test_goes_on_from_what_the_decision_in_force_rests_on(observation: Observation | None, expected_rps: float) -> None:
    found = used(observation, recorded(1.0))
    assert found is not None
    assert found.traffic.load == RateLoad(expected_rps)


def test_where_nothing_runs_the_declared_is_decided_by_whatever_was_seen() -> None:
    kept = recorded(1.0)
    assert traffic_in_use(DECLARED, kept, None, window_s=WINDOW_S, runs=False) is None
    assert traffic_in_use(DECLARED, kept, seen(300), window_s=WINDOW_S, runs=False) is None


def test_what_is_declared_anew_counts_for_all_that_is_not_seen() -> None:
    edited = replace(DECLARED, repetitiveness=Repetitiveness.HIGH, load=RateLoad(99.0))
    found = used(None, recorded(1.0), edited)
    assert found is not None
    assert (found.traffic.repetitiveness, found.traffic.load) == (Repetitiveness.HIGH, RateLoad(1.0))
    clients = replace(DECLARED, load=ConcurrencyLoad(8))
    assert rebased(clients, recorded(1.0).traffic).load == ConcurrencyLoad(8)


def test_clients_are_counted_by_the_requests_under_way_and_a_batch_stays_a_batch() -> None:
    clients = replace(DECLARED, load=ConcurrencyLoad(2))
    found = used(seen(1200), declared=clients)  # four a second that take 1.5 s each
    assert found is not None
    assert found.traffic.load == ConcurrencyLoad(6)
    batch = replace(DECLARED, load=BatchLoad(5000, 3600.0))
    found = used(seen(300, prompt=50), declared=batch)
    assert found is not None
    assert found.traffic.load == BatchLoad(5000, 3600.0)
    assert rebased(batch, found.traffic).load == BatchLoad(5000, 3600.0)


traffics = st.builds(
    seen,
    st.integers(1, 2000),
    prompt=st.integers(1, 4000),
    answer=st.integers(1, 4000),
    hits=st.floats(0.0, 1.0),
)


@settings(deadline=None)
@given(traffics)
def test_what_is_in_use_is_kept_while_the_same_is_seen(observation: Observation) -> None:
    """No decision follows from another: taken once, the same traffic is the same basis."""
    first = used(observation)
    assert used(observation, first) == first


@settings(deadline=None)
@given(traffics, st.floats(0.85, 1.15))
def test_noise_around_what_is_in_use_changes_nothing(observation: Observation, noise: float) -> None:
    first = used(observation)
    if first is None or not isinstance(first.traffic.load, RateLoad):
        return
    around = replace(observation, until=observation.since + timedelta(seconds=WINDOW_S / noise))
    assert used(around, first) == first or around.seconds < 0.9 * WINDOW_S


@settings(deadline=None)
@given(traffics)
def test_what_is_seen_is_traffic_that_a_record_can_hold(observation: Observation) -> None:
    found = traffic_seen(DECLARED, observation, window_s=WINDOW_S)
    if found is None:
        return
    traffic = found.traffic
    assert traffic.input_tokens.mean_tokens == round(traffic.input_tokens.mean_tokens) >= 1
    prefix = traffic.shared_prefix
    assert prefix is None or prefix.tokens < traffic.input_tokens.mean_tokens
    assert not differs(traffic, traffic)
