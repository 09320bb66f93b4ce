import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metainf.selectors.abstention import fold_of_groups, lower_offsets, upper_quantile
from metainf.selectors.contract import choose
from metainf.selectors.ensemble import MetaInf, z_scores
from metainf.selectors.joint_regression import JointRegression
from metainf.selectors.pair_inputs import candidate_names, candidate_rows, duel_rows
from metainf.selectors.pairwise_boosting import PairwiseBoosting
from metainf.selectors.ranking_boosting import LEVELS, relevance
from metainf.selectors.targets import analytical_gains, log_gains
from selector_problems import halves, problem, shuffled, small

SCORES = arrays(np.float64, (4, 5), elements=st.floats(-1e3, 1e3))
FEASIBLE = arrays(np.bool_, (4, 5))


@given(SCORES, FEASIBLE)
def test_z_scores_are_centred_on_the_feasible_and_keep_their_order(scores, feasible):
    z = z_scores(np.where(feasible, scores, -np.inf), feasible)
    assert np.isfinite(z).all()
    assert not z[~feasible].any()
    np.testing.assert_allclose(z.sum(axis=1), 0.0, atol=1e-6)
    for row in range(4):
        ordered = z[row][feasible[row]][np.argsort(scores[row][feasible[row]], kind="stable")]
        assert (np.diff(ordered) >= -1e-9).all()


@given(SCORES, st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_z_scores_do_not_depend_on_the_unit(scores, scale, shift):
    feasible = np.ones(scores.shape, dtype=bool)
    spread = scores + np.arange(5)[None, :] * 10.0
    np.testing.assert_allclose(z_scores(spread * scale + shift, feasible), z_scores(spread, feasible), atol=1e-6)


@pytest.mark.parametrize(
    ("gain", "level"),
    [
        pytest.param(0.0, LEVELS - 1, id="the best"),
        pytest.param(-0.019, LEVELS - 1, id="within the tolerance"),
        pytest.param(-0.03, LEVELS - 2, id="within twice"),
        pytest.param(-0.07, LEVELS - 3, id="within four times"),
        pytest.param(-9.0, 0, id="far behind"),
        pytest.param(math.nan, 0, id="did not run"),
    ],
)
def test_relevance_falls_with_each_doubling_of_the_distance(gain, level):
    assert relevance(np.array([[0.0, gain]]), np.array([0.02]))[0, 1] == level


def test_rows_of_candidates_hold_what_their_names_say():
    tasks = problem(10).tasks
    rows = candidate_rows(tasks, np.array([3, 7]), np.array([1, 2]))
    names = candidate_names(tasks)
    assert rows.shape == (2, len(names))
    assert rows[1, names.index("level")] == tasks.features[7, 5]
    assert rows[1, names.index("method_2")] == 1.0
    assert rows[1, names.index("analytical_gain")] == analytical_gains(tasks)[7, 2]


def test_a_duel_turned_round_has_the_opposite_differences():
    tasks = problem(10).tasks
    one, other = (duel_rows(tasks, np.arange(10), *pair) for pair in ((1, 4), (4, 1)))
    d = tasks.features.shape[1]
    np.testing.assert_array_equal(one[:, :d], other[:, :d])
    np.testing.assert_allclose(one[:, d:], -other[:, d:])


def test_the_regression_starts_from_the_analytical_predictor():
    table = problem(60)
    exact = replace(table.tasks, analytical=np.log(table.performance))
    train = replace(table, tasks=exact)
    scores = JointRegression(trees=5).fit(train).scores(exact)
    np.testing.assert_allclose(scores, log_gains(table), atol=1e-6)
    learned = JointRegression(trees=5, residual=False).fit(train).scores(exact)
    assert np.abs(learned - log_gains(table)).max() > 0.01


def test_the_regression_knows_a_method_by_its_attributes():
    train, test = halves(problem(300, seed=2))
    attributes = np.zeros((6, 1))
    attributes[[1, 4]] = 1.0  # a method that never ran is like another
    performance = train.performance.copy()
    performance[:, 1] = performance[:, 0] * 2.0
    performance[:, 4] = np.nan
    train = replace(train, tasks=replace(train.tasks, method_features=attributes), performance=performance)
    tasks = replace(test.tasks, method_features=attributes)
    scores = JointRegression(trees=50, learning_rate=0.2, residual=False).fit(train).scores(tasks)
    assert scores[:, 4].mean() > 0.5


def test_a_pair_that_never_met_is_settled_by_physics():
    train, test = halves(problem(200))
    performance = train.performance.copy()
    performance[::2, 1] = np.nan
    performance[1::2, 2] = np.nan
    pairwise = PairwiseBoosting(trees=5, smallest_leaf=5).fit(replace(train, performance=performance))
    feasible = np.zeros_like(test.tasks.feasible)
    feasible[:, 1:3] = True
    tasks = replace(test.tasks, feasible=feasible)
    chosen = choose(tasks, pairwise.scores(tasks))
    np.testing.assert_array_equal(chosen, 1 + tasks.analytical[:, 1:3].argmax(axis=1))


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.integers(2, 5))
def test_groups_stay_whole_and_folds_are_even(groups, folds):
    fold = fold_of_groups(np.array(groups), folds)
    for name in set(groups):
        assert len(set(fold[np.array(groups) == name].tolist())) == 1
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.max() - sizes.min() <= max(groups.count(name) for name in groups)


@pytest.mark.parametrize(
    ("values", "confidence", "expected"),
    [
        pytest.param(range(1, 10), 0.9, 9.0, id="nine values -> the largest"),
        pytest.param(range(1, 9), 0.9, math.inf, id="eight are too few for 90 %"),
        pytest.param(range(1, 20), 0.9, 18.0, id="nineteen -> the eighteenth"),
        pytest.param([], 0.5, math.inf, id="none"),
    ],
)
def test_the_quantile_counts_the_next_one_too(values, confidence, expected):
    assert upper_quantile(np.array(list(values), dtype=float), confidence) == expected


def test_a_method_with_enough_choices_has_its_own_offset():
    chosen = np.array([0] * 40 + [1] * 5)
    missed = np.array([0.1] * 40 + [0.9] * 5)
    offsets = lower_offsets(chosen, missed, methods=3, confidence=0.9, smallest_sample=30)
    np.testing.assert_allclose(offsets, [0.1, 0.9, 0.9])


def test_abstaining_keeps_to_the_default_where_nothing_can_be_known():
    train, test = halves(shuffled(problem(300, seed=6)))
    chosen = choose(test.tasks, small("metainf").fit(train).scores(test.tasks))
    never = choose(test.tasks, small("metainf-never-abstaining").fit(train).scores(test.tasks))
    assert (chosen == test.tasks.default).mean() > 0.9
    assert (never == test.tasks.default).mean() < 0.5


def test_abstaining_gives_up_little_where_much_can_be_known():
    train, test = halves(problem(600, seed=6))
    gains = log_gains(test)
    chosen = choose(test.tasks, small("metainf", trees=80, pair_trees=40).fit(train).scores(test.tasks))
    assert gains[np.arange(len(test)), chosen].mean() > 0.8 * gains.max(axis=1).mean()
    worse = gains[np.arange(len(test)), chosen] < 0
    assert worse.mean() < 0.1


def test_one_model_on_one_accelerator_says_nothing_of_others_so_it_abstains():
    table = problem(100)
    alike = replace(table.tasks, model=np.full(100, "one"), accelerator=np.full(100, "one"))
    chosen = choose(alike, small("metainf").fit(replace(table, tasks=alike)).scores(alike))
    assert (chosen == 0).all()


def test_more_confidence_abstains_more():
    train, test = halves(problem(300, seed=6, noise=0.1))
    kept = [
        (choose(test.tasks, small("metainf", confidence=c).fit(train).scores(test.tasks)) == 0).mean()
        for c in (0.5, 0.9, 0.99)
    ]
    assert kept == sorted(kept)
    assert kept[0] < kept[2]


def test_where_the_default_cannot_run_there_is_nothing_to_abstain_to():
    train, test = halves(shuffled(problem(300)))
    feasible = test.tasks.feasible.copy()
    feasible[:, 0] = False
    tasks = replace(test.tasks, feasible=feasible)
    careful = small("metainf").fit(train)
    bold = small("metainf-never-abstaining").fit(train)
    np.testing.assert_array_equal(choose(tasks, careful.scores(tasks)), choose(tasks, bold.scores(tasks)))


def test_the_parts_of_the_ensemble_are_selectors_by_themselves():
    train, test = halves(problem(150))
    ensemble = small("metainf-never-abstaining").fit(train)
    assert isinstance(ensemble, MetaInf)
    together = [
        z_scores(part.scores(test.tasks), test.tasks.feasible)
        for part in (ensemble.regression_, ensemble.pairwise_, ensemble.ranking_)
    ]
    np.testing.assert_allclose(ensemble.scores(test.tasks), np.mean(together, axis=0))
