import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metainf.selectors.boosting import leaf_size
from metainf.selectors.catalogue import SELECTORS
from metainf.selectors.contract import choose
from metainf.selectors.ensemble import PARTS, Ensemble, z_scores
from metainf.selectors.feasibility import TwoPart
from metainf.selectors.group_folds import fold_of_groups, taught_beside
from metainf.selectors.joint_forest import JointForest
from metainf.selectors.joint_regression import JointRegression
from metainf.selectors.pair_inputs import candidate_rows, duel_rows
from metainf.selectors.pairwise_boosting import PairwiseBoosting, drawn_duels
from metainf.selectors.ranking_boosting import LEVELS, relevance
from metainf.selectors.stacking import fit_least_gain, fit_weights
from metainf.selectors.targets import LOST, log_gains, physics_shortfalls, shortfalls
from metainf.selectors.unfamiliarity import Unfamiliarity
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


def test_a_row_of_a_candidate_is_its_task_its_method_their_pair_and_its_shortfall():
    tasks = problem(10).tasks
    places = np.array([3, 7]), np.array([1, 2])
    task, method, pair, shortfall = np.split(
        candidate_rows(tasks, *places),
        np.cumsum([tasks.features.shape[1], tasks.method_features.shape[1], tasks.pair_features.shape[2]]),
        axis=1,
    )
    np.testing.assert_array_equal(task, tasks.features[places[0]])
    np.testing.assert_array_equal(method, tasks.method_features[places[1]])
    np.testing.assert_array_equal(pair, tasks.pair_features[places])
    np.testing.assert_array_equal(shortfall[:, 0], physics_shortfalls(tasks)[places])


def test_a_duel_turned_round_has_the_opposite_differences():
    tasks = problem(10).tasks
    first, second = np.arange(10) % 3, np.full(10, 4)
    one, other = (duel_rows(tasks, np.arange(10), *pair) for pair in ((first, second), (second, first)))
    d = tasks.features.shape[1]
    assert one.shape == (10, d + tasks.method_features.shape[1] + tasks.pair_features.shape[2] + 1)
    np.testing.assert_array_equal(one[:, :d], other[:, :d])
    np.testing.assert_allclose(one[:, d:], -other[:, d:])


def test_the_regression_starts_from_the_analytical_predictor():
    table = problem(60)
    exact = replace(table.tasks, analytical=np.log(table.performance))
    train = replace(table, tasks=exact)
    scores = JointRegression(trees=5).fit(train).scores(exact)
    np.testing.assert_allclose(scores, shortfalls(table), atol=1e-6)
    learned = JointRegression(trees=5, residual=False).fit(train).scores(exact)
    assert np.abs(learned - shortfalls(table)).max() > 0.01


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
    assert scores[:, 4].mean() > scores[:, 0].mean() + 0.4  # which is twice as slow, on every task


def test_two_methods_that_never_met_are_told_apart_by_what_others_showed():
    train, test = halves(problem(200))
    performance = train.performance.copy()
    performance[::2, 1] = np.nan
    performance[1::2, 2] = np.nan
    pairwise = small("metainf-pairwise").fit(replace(train, performance=performance))
    feasible = np.zeros_like(test.tasks.feasible)
    feasible[:, 1:3] = True
    tasks = replace(test.tasks, feasible=feasible)
    chosen = choose(tasks, pairwise.scores(tasks))
    assert (chosen == 1 + test.performance[:, 1:3].argmax(axis=1)).mean() > 0.85


def test_where_no_two_methods_differ_physics_decides():
    train, test = halves(problem(60))
    even = replace(train, performance=np.ones_like(train.performance))
    chosen = choose(test.tasks, PairwiseBoosting().fit(even).scores(test.tasks))
    np.testing.assert_array_equal(chosen, test.tasks.analytical.argmax(axis=1))


def test_it_does_not_matter_which_of_two_methods_is_named_first():
    train, test = halves(problem(90))
    pairwise = small("metainf-pairwise").fit(train)
    feasible = np.zeros_like(test.tasks.feasible)
    feasible[:, [1, 4]] = True
    scores = pairwise.scores(replace(test.tasks, feasible=feasible))[:, [1, 4]]
    np.testing.assert_allclose(scores.sum(axis=1), 1.0)


TRUTH = arrays(np.float64, (5, 4), elements=st.sampled_from([0.0, -0.1, -0.5, LOST, math.nan]))


@given(TRUTH, st.integers(1, 8), st.integers(0, 99))
def test_duels_are_of_methods_that_ran_and_differ_and_of_few_a_task(truth, most, seed):
    rows, first, second = drawn_duels(truth, most, seed)
    assert (first < second).all() and (truth[rows, first] != truth[rows, second]).all()
    assert np.isfinite(truth[rows, first]).all() and np.isfinite(truth[rows, second]).all()
    assert len({*zip(rows.tolist(), first.tolist(), second.tolist(), strict=True)}) == len(rows)
    told = [len({*row[np.isfinite(row)].tolist()}) > 1 for row in truth]
    counts = np.bincount(rows, minlength=5)
    assert counts.max() <= most and ((counts > 0) == told).all()
    for one, other in zip((rows, first, second), drawn_duels(truth, most, seed), strict=True):
        np.testing.assert_array_equal(one, other)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.integers(2, 5))
def test_groups_stay_whole_and_folds_are_even(groups, folds):
    fold = fold_of_groups(np.array(groups), folds)
    for name in set(groups):
        assert len(set(fold[np.array(groups) == name].tolist())) == 1
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.max() - sizes.min() <= max(groups.count(name) for name in groups)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), min_size=1, max_size=30))
def test_nobody_is_taught_what_was_drawn_as_what_is_held_out(tasks):
    draws, held = np.array([each for each, _ in tasks]), np.array([out for _, out in tasks])
    may = taught_beside(draws, held)
    assert not set(draws[may]) & set(draws[held])
    assert all(each in set(draws[held]) for each in draws[~may])
    np.testing.assert_array_equal(taught_beside(None, held), ~held)


def test_parts_are_weighed_on_tasks_whose_draws_they_have_not_seen():
    tasks = problem(120).tasks
    placed = replace(tasks, draws=np.array([f"workload-{i // 2 if i < 40 else i}" for i in range(120)]))
    folds = list(Ensemble()._held_out(placed))
    assert len(folds) == 4
    for _, held, may in folds:
        assert may.any() and not set(placed.draws[may]) & set(placed.draws[held])
    assert sum(may.sum() for _, _, may in Ensemble()._held_out(tasks)) > sum(may.sum() for _, _, may in folds)


RNG = np.random.default_rng(8)


def opinions_of(gains, errors):
    """What parts with so large errors say of these gains, shape (n, m, parts)."""
    return np.stack([gains + error * RNG.normal(size=gains.shape) for error in errors], axis=2)


def over_default(values):
    """Less what is said of the first method, the default."""
    return values - values[:, :1]


def test_weights_follow_what_parts_are_worth_and_none_is_negative():
    gains = over_default(RNG.normal(size=(200, 6)))
    told = np.ones(gains.shape, dtype=bool)
    said = np.concatenate([opinions_of(gains, [0.3, 1.5]), -gains[:, :, None]], axis=2)
    good, bad, inverse = fit_weights(over_default(said), gains, told, 0)
    assert good > 5 * bad >= 0
    assert inverse == 0.0
    assert good < 1.0  # what is known with errors is held back
    np.testing.assert_allclose(fit_weights(opinions_of(gains, [0.3, 0.3]), gains, ~told, 0), [0.5, 0.5])


def test_weights_do_not_depend_on_the_unit_of_a_part():
    gains = over_default(RNG.normal(size=(100, 5)))
    said = over_default(opinions_of(gains, [0.5, 0.5]))
    told = RNG.random(gains.shape) > 0.2
    weights = fit_weights(said, gains, told, 0)
    scaled = fit_weights(said * np.array([1.0, 128.0]), gains, told, 0)
    np.testing.assert_allclose(scaled * [1.0, 128.0], weights, rtol=1e-6)


def test_weights_do_not_depend_on_what_opinions_and_truth_are_relative_to():
    gains = over_default(RNG.normal(size=(100, 5)))
    said = over_default(opinions_of(gains, [0.5, 0.9]))
    told = RNG.random(gains.shape) > 0.2
    shifted = fit_weights(said + RNG.normal(size=(100, 1, 2)), gains + RNG.normal(size=(100, 1)), told, 0)
    np.testing.assert_allclose(shifted, fit_weights(said, gains, told, 0), rtol=1e-6)


def test_the_search_is_over_the_tasks_that_it_is_told_to_look_at():
    # Each part is right about one half of the tasks and the contrary of right about the other.
    gains = over_default(RNG.normal(size=(4000, 4)))
    first = np.arange(4000) < 2000
    said = np.stack([np.where(first[:, None], gains, -gains), np.where(first[:, None], -gains, gains)], axis=2)
    told = np.ones(gains.shape, dtype=bool)
    one, other = fit_weights(said, gains, told, 0, searched=first)
    assert one > other
    one, other = fit_weights(said, gains, told, 0, searched=~first)
    assert one < other
    assert np.isfinite(fit_weights(said, gains, told, 0, searched=np.zeros(4000, dtype=bool))).all()


def test_a_part_is_worth_what_its_choices_gain_and_not_how_well_it_knows_the_rest():
    # One part is right about the best method alone, the other about all but the two best, which it turns round.
    order = RNG.permuted(np.tile(np.linspace(-1.0, 0.5, 7), (6000, 1)), axis=1)
    gains = np.concatenate([np.zeros((6000, 1)), order], axis=1)
    top = np.where(gains == gains.max(axis=1, keepdims=True), 0.3, -0.1) * (np.arange(8) > 0)
    two = np.argsort(-gains, axis=1)[:, :2]
    turned = gains.copy()
    np.put_along_axis(turned, two, np.take_along_axis(gains, two[:, ::-1], axis=1), axis=1)
    weights = fit_weights(np.stack([top, turned], axis=2), gains, np.ones(gains.shape, dtype=bool), 0)
    said = np.stack([top, turned], axis=2) @ weights
    assert (said.argmax(axis=1) == gains.argmax(axis=1)).all()
    squares = [np.square(each - gains).sum() for each in (top, turned)]
    assert squares[1] < squares[0], "least squares would have preferred the other"


def test_where_nothing_is_said_the_default_is_what_is_weighed():
    gains = np.array([[0.0, -1.0], [0.0, -1.0]])
    nothing, wrong = np.zeros(gains.shape), np.array([[0.0, 1.0], [0.0, 1.0]])
    told = np.ones(gains.shape, dtype=bool)
    weights = fit_weights(np.stack([nothing, wrong], axis=2), gains, told, 0)
    assert weights[1] < 0.01  # of its size: a part that is always wrong has next to no say


@given(st.integers(1, 10_000))
def test_leaves_grow_with_the_rows_between_their_bounds(rows):
    assert 3 <= leaf_size(rows) <= leaf_size(rows + 100) <= 20
    assert leaf_size(rows) in (3, 20, rows // 50)


def test_few_tasks_are_enough_for_duels():
    train, test = halves(problem(60, seed=4))
    chosen = choose(test.tasks, PairwiseBoosting().fit(train).scores(test.tasks))
    gains, rows = log_gains(test), np.arange(len(test))
    assert gains[rows, chosen].mean() > 0.7 * gains.max(axis=1).mean()


def test_a_lost_method_does_not_rule_what_is_learnt_of_the_others():
    train, test = halves(problem(300, seed=3))
    performance = train.performance.copy()
    performance[::3, 5] = 0.0
    lossy = replace(train, performance=performance)
    kept = JointRegression(trees=40, learning_rate=0.2).fit(lossy).scores(test.tasks)
    assert kept[:, 5].mean() < kept[:, :5].mean() - 0.1, "a method that often fails is expected to lose"
    assert kept.min() >= LOST - 0.5, "and not by more than is looked at"


def breaking(table):
    """The table whose last method breaks its promises where its cause is above 0."""
    performance = table.performance.copy()
    performance[table.tasks.features[:, 4] > 0.0, 5] = 0.0
    return replace(table, performance=performance)


def test_two_parts_know_where_a_promise_is_broken_and_how_far_behind_it_is_elsewhere():
    train, test = (breaking(half) for half in halves(problem(450, seed=3)))
    scores = small("metainf-two-part").fit(train).scores(test.tasks)
    broken = test.performance[:, 5] == 0.0
    assert scores.min() >= LOST
    assert scores[broken, 5].mean() < LOST + 0.5
    assert scores[~broken, 5].mean() > LOST / 2
    assert np.abs(scores - shortfalls(test))[:, :5].mean() < 0.15


def test_two_parts_start_from_physics_where_no_promise_is_ever_broken():
    table = problem(60)
    exact = replace(table.tasks, analytical=np.log(table.performance))
    scores = TwoPart(trees=5).fit(replace(table, tasks=exact)).scores(exact)
    np.testing.assert_allclose(scores, shortfalls(table), atol=1e-6)


def test_choices_are_worth_it_from_where_their_gains_come_to_most():
    predicted = np.linspace(0.0, 1.0, 1001)
    assert fit_least_gain(predicted, predicted - 0.3) == pytest.approx(0.3, abs=0.02)
    assert fit_least_gain(predicted, predicted) == 0.0
    assert fit_least_gain(predicted, np.full(1001, -1.0)) == math.inf


def test_few_choices_say_little():
    assert fit_least_gain(np.full(5, 0.3), np.full(5, -0.05)) == 0.0
    assert fit_least_gain(np.full(200, 0.3), np.full(200, -0.05)) == math.inf
    assert fit_least_gain(np.zeros(0), np.zeros(0)) == 0.0


HUNDREDTHS = arrays(np.int64, 20, elements=st.integers(1, 200))


@given(HUNDREDTHS, arrays(np.int64, 20, elements=st.integers(-200, 200)))
def test_no_other_least_gain_would_have_been_worth_more(predicted, gains):
    said, true = predicted / 100.0, gains / 100.0
    expected = (said + true) / 2.0  # as many choices as the prior counts for
    found = expected[said > fit_least_gain(said, true)].sum()
    for other in (0.0, *said):
        assert found >= expected[said > other].sum() - 1e-9


def test_tasks_like_none_before_are_unfamiliar():
    tasks = problem(200).tasks
    guard = Unfamiliarity().fit(tasks)
    assert guard.flags(tasks).mean() < 0.05
    far = replace(tasks, features=tasks.features + 50.0 * tasks.features.std(axis=0))
    assert guard.flags(far).all()


def test_with_one_group_of_each_kind_nothing_is_unfamiliar():
    tasks = problem(50).tasks
    alike = replace(tasks, model=np.full(50, "one"), accelerator=np.full(50, "one"))
    guard = Unfamiliarity().fit(alike)
    assert not guard.flags(replace(alike, features=alike.features + 9.0)).any()


def test_unfamiliar_tasks_get_what_physics_says():
    train, test = halves(problem(200, seed=6))
    tasks = replace(test.tasks, features=test.tasks.features + 50.0 * train.tasks.features.std(axis=0))
    guarded = choose(tasks, small("metainf-ensemble", abstain=False).fit(train).scores(tasks))
    physics = np.where(tasks.feasible, tasks.analytical, -np.inf)
    np.testing.assert_array_equal(guarded, choose(tasks, physics))


def test_nothing_is_gained_where_nothing_can_be_known():
    train, test = halves(shuffled(problem(300, seed=6)))
    tasks = replace(test.tasks, analytical=np.where(test.tasks.feasible, 0.0, np.nan))
    train = replace(train, tasks=replace(train.tasks, analytical=np.where(train.tasks.feasible, 0.0, np.nan)))
    fitted = small("metainf-ensemble").fit(train)
    sure = small("metainf-ensemble").fit(halves(problem(300, seed=6))[0])
    assert fitted.weights_.sum() < 0.5 * sure.weights_.sum()
    scores = fitted.scores(tasks)
    assert np.isfinite(scores[tasks.feasible]).all()
    gains = log_gains(test)[np.arange(len(test)), choose(tasks, scores)]
    assert abs(gains.mean()) < 3.0 * gains.std() / np.sqrt(len(gains)) + 1e-12


def test_it_keeps_to_the_default_where_choices_were_seen_to_lose():
    train, test = halves(problem(200, seed=6))
    careful = small("metainf-ensemble", guard=False).fit(train)
    assert (choose(test.tasks, careful.scores(test.tasks)) == 0).mean() < 0.5
    careful.least_gain_ = fit_least_gain(np.full(200, 0.3), np.full(200, -0.2))
    assert (choose(test.tasks, careful.scores(test.tasks)) == 0).all()


def test_it_keeps_to_the_default_where_the_gain_is_smaller_than_what_was_worth_it():
    train, test = halves(problem(200, seed=6))
    careful = small("metainf-ensemble", guard=False).fit(train)
    opinions = small("metainf-ensemble", guard=False, abstain=False).fit(train).scores(test.tasks)
    gain = opinions.max(axis=1) - opinions[:, 0]
    careful.least_gain_ = float(np.median(gain))
    kept = choose(test.tasks, careful.scores(test.tasks)) == 0
    np.testing.assert_array_equal(kept, (gain <= np.median(gain)) | (opinions.argmax(axis=1) == 0))


def test_tasks_whose_default_is_lost_do_not_rule_what_is_weighed():
    table = problem(300, seed=6)
    performance = table.performance.copy()
    performance[::2, 0] = 0.0
    fitted = small("metainf-ensemble").fit(replace(table, performance=performance))
    assert math.isfinite(fitted.least_gain_)
    assert 0.0 < fitted.weights_.sum() < 20.0
    chosen = choose(table.tasks, fitted.scores(table.tasks))
    assert shortfalls(table)[np.arange(300), chosen].mean() > 0.5 * shortfalls(table)[:, 0].mean()


def test_most_of_the_gain_is_found_where_much_can_be_known():
    train, test = halves(problem(600, seed=6))
    gains = log_gains(test)
    chosen = choose(test.tasks, small("metainf-ensemble", trees=80, pair_trees=40).fit(train).scores(test.tasks))
    assert gains[np.arange(len(test)), chosen].mean() > 0.9 * gains.max(axis=1).mean()


def test_one_model_on_one_accelerator_weighs_all_parts_alike():
    table = problem(100)
    alike = replace(table.tasks, model=np.full(100, "one"), accelerator=np.full(100, "one"))
    fitted = small("metainf-ensemble").fit(replace(table, tasks=alike))
    np.testing.assert_allclose(fitted.weights_, 1.0 / len(PARTS))


def test_a_default_that_breaks_its_limits_half_of_the_time_is_left_for_what_is_slower_and_keeps_them():
    table = problem(300)
    performance = np.full(table.performance.shape, 0.8)
    performance[:, 0] = 1.0
    broken = np.zeros(performance.shape, dtype=np.bool_)
    broken[:, 0] = np.random.default_rng(0).random(300) < 0.5  # nobody can say where
    train, test = halves(replace(table, performance=performance, broken=broken))
    fitted = small("metainf-ensemble", guard=False).fit(train)
    assert (choose(test.tasks, fitted.scores(test.tasks)) != 0).mean() > 0.9


def test_where_the_default_cannot_run_there_is_nothing_to_keep_to():
    train, test = halves(shuffled(problem(300)))
    feasible = test.tasks.feasible.copy()
    feasible[:, 0] = False
    tasks = replace(test.tasks, feasible=feasible)
    careful = small("metainf-ensemble", guard=False).fit(train)
    bold = small("metainf-ensemble", guard=False, abstain=False).fit(train)
    np.testing.assert_array_equal(choose(tasks, careful.scores(tasks)), choose(tasks, bold.scores(tasks)))


def test_the_forest_starts_from_the_analytical_predictor():
    table = problem(60)
    exact = replace(table.tasks, analytical=np.log(table.performance))
    scores = JointForest(trees=5).fit(replace(table, tasks=exact)).scores(exact)
    np.testing.assert_allclose(scores, shortfalls(table), atol=1e-6)
    drawn = JointForest(trees=5, most_rows=50).fit(table)
    assert np.isfinite(drawn.scores(table.tasks)).all()


def test_the_parts_of_the_ensemble_are_selectors_by_themselves_and_those_without_a_say_are_not_fitted():
    train, test = halves(problem(150))
    ensemble = small("metainf-ensemble", guard=False, abstain=False).fit(train)
    assert isinstance(ensemble, Ensemble)
    heard = [name for name, weight in zip(PARTS, ensemble.weights_, strict=True) if weight > 0.0]
    assert list(ensemble.parts_) == [name for name in heard if name != "analytical"]
    expected = np.zeros(test.tasks.feasible.shape)
    for name, weight in zip(PARTS, ensemble.weights_, strict=True):
        if weight > 0.0:
            part = ensemble.parts_.get(name)
            said = physics_shortfalls(test.tasks) if part is None else part.scores(test.tasks)
            said = z_scores(said, test.tasks.feasible) if name in ("pairwise", "ranking") else said
            expected += weight * (said - said.max(axis=1, keepdims=True))
    np.testing.assert_allclose(ensemble.scores(test.tasks), expected, atol=1e-9)


def test_the_parts_that_are_reported_are_those_of_the_ensemble():
    for name, part in Ensemble()._new_parts().items():
        alone = SELECTORS[f"metainf-{name}"]()
        assert type(alone) is type(part)
        assert vars(alone) == vars(part)
