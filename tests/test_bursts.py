import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metainf.bursts import arrivals_after, dealt_squared_cv, found_busy


def arrivals(squared_cv: float, count: int = 400_000) -> np.ndarray:
    """Times of arrivals, one per second in the mean, with gamma distributed gaps."""
    return np.cumsum(np.random.default_rng(0).gamma(1.0 / squared_cv, squared_cv, count))


@pytest.mark.parametrize("load", [0.2, 0.5, 0.9])
def test_poisson_arrivals_find_a_server_as_busy_as_it_is(load: float) -> None:
    assert found_busy(np.array(load), np.array(1.0)) == pytest.approx(load, abs=1e-9)


@pytest.mark.parametrize("squared_cv", [0.25, 4.0, 16.0])
@pytest.mark.parametrize("load", [0.3, 0.8])
def test_bursts_find_it_busier_as_often_as_in_a_simulation(load: float, squared_cv: float) -> None:
    # Exponential service: work that is found follows Lindley's recursion.
    gaps = np.diff(arrivals(squared_cv))
    served = np.random.default_rng(1).exponential(load, len(gaps))
    walk = np.concatenate([[0.0], np.cumsum(served - gaps)])
    found = walk - np.minimum.accumulate(walk)
    assert found_busy(np.array(load), np.array(squared_cv)) == pytest.approx(float(np.mean(found > 0)), abs=0.03)


@pytest.mark.parametrize("squared_cv", [0.25, 1.0, 4.0, 9.0])
@pytest.mark.parametrize(("time_s", "tolerance"), [(0.1, 0.35), (1.0, 0.2), (10.0, 0.05), (100.0, 0.02)])
def test_as_many_arrive_after_an_arrival_as_in_a_simulation(squared_cv: float, time_s: float, tolerance: float) -> None:
    times = arrivals(squared_cv)
    after = np.searchsorted(times, times + time_s, side="right") - np.arange(len(times)) - 1
    expected = float(after[: len(times) * 9 // 10].mean())
    found = float(arrivals_after(np.array(time_s), np.array(squared_cv)))
    assert found == pytest.approx(expected, rel=tolerance, abs=0.1)


@given(mean=st.floats(1e-6, 1e6), more=st.floats(1.0, 1e3), squared_cv=st.floats(0.01, 64), load=st.floats(1e-6, 0.999))
def test_more_load_is_never_met_less(mean: float, more: float, squared_cv: float, load: float) -> None:
    ca = np.array(squared_cv)
    assert arrivals_after(np.array(mean * more), ca) >= arrivals_after(np.array(mean), ca) * (1 - 1e-9)
    higher = min(load * more, 0.9999)
    assert 0 <= found_busy(np.array(load), ca) <= found_busy(np.array(higher), ca) + 1e-12 <= 1


def test_nothing_arrives_in_no_time_and_no_end_comes_to_a_wait_without_one() -> None:
    assert arrivals_after(np.array(0.0), np.array(4.0)) < 0.01
    assert arrivals_after(np.array(np.inf), np.array(4.0)) > 1e8


@pytest.mark.parametrize(
    ("squared_cv", "servers", "expected"),
    [
        pytest.param(9.0, 1.0, 9.0, id="one server gets it all"),
        pytest.param(9.0, 4.0, 3.0, id="a balancer deals a burst out"),
        pytest.param(1.0, 4.0, 1.0, id="Poisson arrivals stay"),
        pytest.param(0.5, 4.0, 0.5, id="and so do even ones"),
    ],
)
def test_ranks_share_a_burst(squared_cv: float, servers: float, expected: float) -> None:
    assert dealt_squared_cv(np.array(squared_cv), np.array(servers)) == pytest.approx(expected)
