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
from metainf.selectors.targets import (
    EXPECTED_PAIR,
    LOST,
    SIMULATED_PAIR,
    analytical_shortfalls,
    label_columns,
    log_gains,
    nearness,
    physics_shortfalls,
    shortfalls,
)
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


def test_what_breaks_a_limit_is_lost_and_a_default_over_its_budget_is_still_the_reference():
    table = problem(20)
    broken = np.zeros(table.performance.shape, dtype=bool)
    broken[:10, 0] = broken[:, 2] = True
    limited = replace(table, broken=broken)
    gains, behind = log_gains(limited), shortfalls(limited)
    assert (gains[broken] == LOST).all() and (behind[broken] == LOST).all()
    np.testing.assert_allclose(gains[~broken], log_gains(table)[~broken])
    assert (np.where(broken, LOST, behind).max(axis=1) == 0.0).all()
    assert not broken[np.arange(20), label_columns(limited)].any()


@given(st.floats(1e-6, 1e6))
def test_gains_do_not_depend_on_the_unit(scale):
    table = problem(10, holes=0.2)
    np.testing.assert_allclose(
        log_gains(replace(table, performance=table.performance * scale)), log_gains(table), atol=1e-9
    )


def table_with(*performance):
    """A table whose first task has this performance."""
    table = problem(40)
    rows = np.vstack([[performance], table.performance[1:]])
    feasible = table.tasks.feasible.copy()
    feasible[0] = np.isfinite(performance)
    return replace(table, tasks=replace(table.tasks, feasible=feasible), performance=rows)


def with_row(*performance):
    return log_gains(table_with(*performance))[0]


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


HALF = math.log(0.5)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(
            (10.0, 20.0, 0.0, math.nan, 10.0, 1e-9),
            (HALF, 0.0, LOST, math.nan, HALF, LOST),
            id="a broken promise, and what is hopelessly slow, are lost",
        ),
        pytest.param(
            (0.0, 10.0, 20.0, 10.0, 5.0, 10.0),
            (LOST, HALF, 0.0, HALF, 2 * HALF, HALF),
            id="a lost default changes nothing for the others",
        ),
        pytest.param(
            (1e-6, 10.0, 20.0, 10.0, 5.0, 10.0),
            (LOST, HALF, 0.0, HALF, 2 * HALF, HALF),
            id="nor does one that hardly keeps its promise",
        ),
        pytest.param(
            (math.nan, 5.0, 10.0, math.nan, math.nan, 10.0),
            (math.nan, HALF, 0.0, math.nan, math.nan, 0.0),
            id="nor one that cannot run",
        ),
        pytest.param(
            (0.0, 0.0, 0.0, math.nan, 0.0, 0.0),
            (LOST, LOST, LOST, math.nan, LOST, LOST),
            id="where nothing keeps its promise all are lost alike",
        ),
    ],
)
def test_shortfalls_are_behind_the_best_of_the_task(row, expected):
    np.testing.assert_allclose(shortfalls(table_with(*row))[0], expected)


@given(st.floats(1e-6, 1e6))
def test_shortfalls_do_not_depend_on_the_unit_and_are_bounded(scale):
    table = problem(10, holes=0.2)
    found = shortfalls(table)
    ran = np.isfinite(table.performance)
    np.testing.assert_array_equal(np.isfinite(found), ran)
    assert (found[ran] <= 0.0).all() and (found[ran] >= LOST).all()
    np.testing.assert_allclose(
        shortfalls(replace(table, performance=table.performance * scale)), found, atol=1e-9, equal_nan=True
    )


def with_pair(tasks, name, values):
    """The tasks with one more pair feature."""
    pairs = np.concatenate([tasks.pair_features, values[:, :, None]], axis=2)
    return replace(tasks, pair_features=pairs, pair_feature_names=(*tasks.pair_feature_names, name))


def test_physics_is_behind_its_own_best_whatever_it_says_of_the_default():
    tasks = problem(6).tasks
    said = tasks.analytical.copy()
    said[0, 2], said[1, 0], said[2, 0], said[3] = -np.inf, -np.inf, np.nan, said[3, 0]
    said[4, 0] -= 9.0  # 1 % above its bound at next to no load
    found = analytical_shortfalls(replace(tasks, analytical=said))
    assert found[0, 2] == found[1, 0] == found[4, 0] == LOST
    assert np.isnan(found[2, 0]) and not found[3].any()
    others = said[4, 1:]
    np.testing.assert_allclose(found[4, 1:], others - others.max())


def test_where_physics_is_silent_a_method_is_thought_as_good_as_the_others_of_its_task():
    tasks = problem(5).tasks
    said = tasks.analytical.copy()
    said[0, 0], said[1] = np.nan, np.nan
    found = physics_shortfalls(replace(tasks, analytical=said))
    assert found[0, 0] == pytest.approx(found[0, 1:].mean())
    assert not found[1].any()
    assert np.isfinite(found).all()


def test_what_is_expected_goes_before_one_answer_and_what_was_simulated_before_both():
    tasks = problem(6, holes=0.0).tasks
    expected = np.full(tasks.analytical.shape, -0.3)
    expected[0, 1] = np.nan
    told = with_pair(tasks, EXPECTED_PAIR, expected)
    found = physics_shortfalls(told)
    assert found[0, 1] == analytical_shortfalls(tasks)[0, 1]
    assert (np.delete(found.ravel(), 1) == -0.3).all()
    simulated = np.full(tasks.analytical.shape, np.nan)
    simulated[2] = [5.0, 4.9, -np.inf, np.nan, 4.0, 5.0]
    row = physics_shortfalls(with_pair(told, SIMULATED_PAIR, simulated))[2]
    np.testing.assert_allclose(row, [0.0, -0.1, LOST, -0.3, -1.0, 0.0])


def test_what_cannot_run_has_no_part_in_what_physics_thinks():
    tasks = problem(30, holes=0.3).tasks
    wild = np.where(tasks.feasible, -0.2, 7.0)
    found = physics_shortfalls(with_pair(tasks, EXPECTED_PAIR, wild))
    assert (found == np.where(tasks.feasible, -0.2, 0.0)).all()


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
