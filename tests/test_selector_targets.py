import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metainf.errors import NotFittedError
from metainf.selectors.base import masked
from metainf.selectors.scaling import Scaler, Spread
from metainf.selectors.targets import CAP, LOST, analytical_gains, capped, log_gains, nearness
from selector_problems import problem

ANY = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([math.nan, math.inf, -math.inf]))


@given(arrays(np.float64, (3, 4), elements=ANY), arrays(np.bool_, (3, 4)))
def test_masked_scores_are_finite_where_feasible_and_keep_their_order(raw, feasible):
    scores = masked(raw, feasible)
    np.testing.assert_array_equal(scores == -np.inf, ~feasible)
    assert np.isfinite(scores[feasible]).all()
    for row in range(3):
        known = feasible[row] & np.isfinite(raw[row])
        unknown = feasible[row] & ~known
        if known.any() and unknown.any():
            assert scores[row][unknown].max() < scores[row][known].min()


def test_gains_are_ratios_to_the_default():
    table = problem(20)
    gains = log_gains(table)
    assert not gains[:, 0].any()
    np.testing.assert_allclose(np.exp(gains) * table.performance[:, :1], table.performance)


@given(st.floats(1e-6, 1e6))
def test_gains_do_not_depend_on_the_unit(scale):
    table = problem(10, holes=0.2)
    np.testing.assert_allclose(
        log_gains(replace(table, performance=table.performance * scale)), log_gains(table), atol=1e-9
    )


def with_row(*performance):
    table = problem(40)
    rows = np.vstack([[performance], table.performance[1:]])
    feasible = table.tasks.feasible.copy()
    feasible[0] = np.isfinite(performance)
    return log_gains(replace(table, tasks=replace(table.tasks, feasible=feasible), performance=rows))[0]


def test_ratios_are_kept_where_the_default_did_not_run():
    gains = with_row(math.nan, 10.0, 20.0, math.nan, math.nan, math.nan)
    assert gains[2] - gains[1] == pytest.approx(math.log(2.0))
    assert np.isnan(gains[[0, 3, 4, 5]]).all()


def test_a_method_that_keeps_no_slo_is_lost():
    gains = with_row(10.0, 0.0, 20.0, 10.0, 10.0, 1e-9)
    np.testing.assert_allclose(gains, [0.0, LOST, math.log(2.0), 0.0, 0.0, LOST])


def test_a_default_that_keeps_no_slo_is_lost_too():
    gains = with_row(0.0, 10.0, 20.0, 10.0, 10.0, 10.0)
    assert gains[0] == LOST
    assert gains[2] - gains[1] == pytest.approx(math.log(2.0))


def test_a_task_on_which_nothing_keeps_its_slo_is_lost_alike():
    np.testing.assert_array_equal(with_row(0.0, 0.0, 0.0, math.nan, 0.0, 0.0), [LOST] * 3 + [math.nan] + [LOST] * 2)


def test_analytical_gains_fall_back_on_the_mean_of_the_row():
    tasks = problem(5).tasks
    said = tasks.analytical.copy()
    said[0, 0] = np.nan
    gains = analytical_gains(replace(tasks, analytical=said))
    assert np.nanmean(gains[0]) == pytest.approx(0.0)
    np.testing.assert_allclose(gains[1:], tasks.analytical[1:] - tasks.analytical[1:, :1])


def test_what_the_analytical_predictor_thinks_hopeless_is_lost():
    tasks = problem(5).tasks
    said = tasks.analytical.copy()
    said[0, 2], said[1, 0] = -np.inf, -np.inf
    gains = analytical_gains(replace(tasks, analytical=said))
    assert gains[0, 2] == gains[1, 0] == LOST
    assert np.isfinite(gains).all()


@given(arrays(np.float64, (3, 4), elements=st.floats(-5.0, 5.0)))
def test_capped_gains_keep_their_order_and_what_is_within_the_cap(gains):
    found = capped(gains, CAP)
    assert np.abs(found).max() <= CAP
    np.testing.assert_array_equal(found[np.abs(gains) <= CAP], gains[np.abs(gains) <= CAP])
    np.testing.assert_array_equal(capped(gains, None), gains)
    for row, before in zip(found, gains, strict=True):
        assert (np.diff(row[np.argsort(before)]) >= 0.0).all()


def test_rows_count_by_how_near_physics_puts_them_to_the_best():
    tasks = problem(30, holes=0.2).tasks
    weights = nearness(tasks)
    assert (weights[~tasks.feasible] == 0.0).all()
    best = np.where(tasks.feasible, tasks.analytical, -np.inf).argmax(axis=1)
    said = np.isfinite(tasks.analytical[:, tasks.default])
    rows = np.arange(len(tasks))
    np.testing.assert_allclose(weights[rows, best][said], 1.0)
    order = np.argsort(tasks.analytical[said], axis=1)  # what is silent comes last
    ranked = np.take_along_axis(np.where(tasks.feasible, weights, 9.0)[said], order, axis=1)
    assert (np.diff(ranked, axis=1) >= 0.0).all()
    assert (weights[tasks.feasible] >= 0.1).all()


@pytest.mark.parametrize("spread", Spread)
def test_scaling_is_learned_from_the_training_tasks_alone(spread):
    train = np.array([[0.0, 5.0, np.nan], [4.0, 5.0, np.nan]])
    scaler = Scaler(spread).fit(train)
    before = scaler.transform(train)
    scaler.transform(np.full((100, 3), 1e9))
    np.testing.assert_array_equal(scaler.transform(train), before)
    assert np.isfinite(scaler.transform(np.array([[np.nan, np.inf, 7.0]]))).all()


def test_scaling_before_fitting_is_refused():
    with pytest.raises(NotFittedError):
        Scaler().transform(np.zeros((1, 1)))


@given(arrays(np.float64, (6, 3), elements=st.floats(-1e6, 1e6)))
def test_largest_keeps_training_features_within_one(features):
    assert np.abs(Scaler(Spread.LARGEST).fit(features).transform(features)).max() <= 1.0 + 1e-9
