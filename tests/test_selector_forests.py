from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from metainf.selectors.binned_forest import BinnedForest, Bins
from metainf.selectors.contract import choose
from metainf.selectors.random_forest import ForestClassifier, ForestRegressor
from metainf.selectors.satzilla import Satzilla, vote
from metainf.selectors.scaling import Scaler
from metainf.selectors.targets import label_columns, log_gains
from selector_problems import METHODS, halves, problem

needs_asf = pytest.mark.skipif(find_spec("asf") is None, reason="needs asf 0.1.8, which no extra has")


def wins_of(*pairs, m=4):
    """Who beats whom on one task."""
    wins = np.zeros((1, m, m), dtype=bool)
    for winner, loser in pairs:
        wins[0, winner, loser] = True
    return wins


ALL = np.ones((1, 4), dtype=bool)


@pytest.mark.parametrize(
    ("pairs", "feasible", "winner"),
    [
        pytest.param([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], ALL, 0, id="most votes"),
        pytest.param(
            [(1, 0), (0, 2), (0, 3), (1, 2), (3, 1), (2, 3)], ALL, 1, id="two tied with two votes -> who beat the other"
        ),
        pytest.param(
            [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)],
            np.array([[False, True, True, True]]),
            1,
            id="the infeasible has no vote and gets none",
        ),
    ],
)
def test_votes_are_counted_and_ties_voted_on_again(pairs, feasible, winner):
    scores = np.where(feasible, vote(wins_of(*pairs), feasible), -np.inf)
    assert scores.argmax() == winner
    assert (scores == scores.max()).sum() == 1


@given(st.integers(0, 2**15 - 1), st.integers(1, 63))
def test_every_pair_of_feasible_methods_casts_one_vote(outcome, able):
    m = 6
    wins = np.zeros((1, m, m), dtype=bool)
    for bit, (i, j) in enumerate(zip(*np.triu_indices(m, 1), strict=True)):
        won = bool(outcome >> bit & 1)
        wins[0, i, j], wins[0, j, i] = won, not won
    feasible = np.array([[bool(able >> a & 1) for a in range(m)]])
    votes = np.floor(vote(wins, feasible))
    k = feasible.sum()
    assert votes.sum() == k * (k - 1) / 2
    assert not votes[~feasible].any()


def test_a_costly_mistake_counts_for_more_than_many_cheap_ones():
    table = problem(200)
    performance = np.tile(100.0, table.performance.shape)
    performance[:, 1] = np.where(np.arange(200) % 5 == 0, 200.0, 99.0)  # no feature tells which
    tasks = replace(table.tasks, features=np.zeros((200, 1)), feature_names=("nothing",))
    table = replace(table, tasks=tasks, performance=performance)
    assert (choose(tasks, Satzilla(trees=25).fit(table).scores(tasks)) == 1).all()
    assert (choose(tasks, ForestClassifier(trees=25).fit(table).scores(tasks)) == 0).all()


def test_a_classifier_learns_the_simplest_within_the_tolerance():
    table = problem(60)
    performance = np.tile([100.0, 101.0, 90.0, 100.5, 90.0, 90.0], (60, 1))
    near = replace(table, performance=performance)
    assert (label_columns(near) == 0).all()
    assert (label_columns(replace(near, tolerance=np.full(60, 0.001))) == 1).all()
    assert (choose(table.tasks, ForestClassifier(trees=5).fit(near).scores(table.tasks)) == 0).all()


@pytest.fixture(scope="module")
def noisy():
    """Features, bins and target of train and test rows: two features matter, of which one bends."""
    draw = np.random.default_rng(3)
    train, test = draw.normal(size=(300, 20)), draw.normal(size=(400, 20))
    bins = Bins().fit(train)
    truth = [rows[:, 0] + np.sin(2.0 * rows[:, 1]) for rows in (train, test)]
    return train, test, bins, truth[0] + 0.3 * draw.normal(size=300), truth[1]


def test_a_binned_forest_is_as_good_as_that_of_scikit_learn(noisy):
    train, test, bins, target, truth = noisy
    ours = BinnedForest(60, 7, 1, 0).fit(bins.transform(train), target).predict(bins.transform(test))
    theirs = RandomForestRegressor(60, max_features=7, random_state=0).fit(train, target).predict(test)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.97
    assert np.mean((ours - truth) ** 2) < 1.1 * np.mean((theirs - truth) ** 2)


def test_weights_draw_the_sample_as_scikit_learn_does(noisy):
    train, test, bins, target, truth = noisy
    label, weight = (target > 0.0).astype(float), np.abs(target)
    forest = BinnedForest(60, 4, 1, 0).fit(bins.transform(train), label, weight)
    theirs = RandomForestClassifier(60, max_features=4, random_state=0).fit(train, label, sample_weight=weight)
    share = theirs.predict_proba(test)[:, 1]
    assert np.corrcoef(forest.predict(bins.transform(test)), share)[0, 1] > 0.9
    right = np.mean((forest.predict(bins.transform(test)) > 0.5) == (truth > 0.0))
    assert right > np.mean((share > 0.5) == (truth > 0.0)) - 0.03


def test_leaves_hold_so_many_rows_and_equal_seeds_give_equal_trees(noisy):
    train, test, bins, target, _ = noisy
    few = BinnedForest(20, 7, 40, 1).fit(bins.transform(train), target).predict(bins.transform(test))
    assert (
        few.std()
        < 0.8 * BinnedForest(20, 7, 1, 1).fit(bins.transform(train), target).predict(bins.transform(test)).std()
    )
    again = BinnedForest(20, 7, 40, 1).fit(bins.transform(train), target).predict(bins.transform(test))
    np.testing.assert_array_equal(few, again)


def test_bins_keep_the_order_and_tell_few_values_apart():
    column = np.array([3.0, 1.0, 2.0, 2.0, 3.0])[:, None]
    bins = Bins().fit(column)
    assert bins.transform(column).tolist() == [[2, 0, 1, 1, 2]]
    assert bins.transform(np.array([[-9.0], [1.4], [1.6], [9.0]])).tolist() == [[0, 0, 1, 2]]
    many = np.random.default_rng(0).normal(size=(5000, 1))
    found = Bins().fit(many).transform(many)[0]
    assert found.max() <= 254
    assert (np.diff(found[np.argsort(many[:, 0], kind="stable")].astype(int)) >= 0).all()


def in_fitted_order(table):
    """Rows as a selector sorts them, so that forests draw the same samples."""
    table = table.rows(np.argsort(table.tasks.features[:, -1]))
    order = np.argsort(table.tasks.methods)
    return table, [table.tasks.methods[a] for a in order], order


@pytest.mark.filterwarnings("ignore:X has feature names")
@needs_asf
def test_pairwise_votes_are_those_of_asf():
    import pandas as pd
    from asf.selectors import PairwiseClassifier

    train, test = halves(problem(240, seed=4))
    train, names, order = in_fitted_order(train)
    scaler = Scaler().fit(train.tasks.features)
    reference = PairwiseClassifier(
        estimator=RandomForestClassifier(25, max_features="log2", random_state=0), maximize=True, random_state=0
    )
    reference.fit(
        pd.DataFrame(scaler.transform(train.tasks.features)), pd.DataFrame(log_gains(train)[:, order], columns=names)
    )
    votes = reference.generate_features(pd.DataFrame(scaler.transform(test.tasks.features), columns=reference.features))
    ours = np.floor(Satzilla(trees=25).fit(train).scores(test.tasks)[:, order])
    # Other random draws grow other trees: the vote of one pair may turn, not that of many.
    assert np.abs(ours - votes.to_numpy()).mean() < 0.5
    assert np.corrcoef(ours.ravel(), votes.to_numpy().ravel())[0, 1] > 0.9


@pytest.mark.filterwarnings("ignore:X has feature names")
@needs_asf
def test_regressions_for_each_method_are_those_of_asf():
    import pandas as pd
    from asf.preprocessing.performance_scaling import DummyNormalization
    from asf.selectors import PerformanceModel

    train, test = halves(problem(240, seed=4))
    train, names, order = in_fitted_order(train)
    scaler = Scaler().fit(train.tasks.features)
    forest = RandomForestRegressor(25, max_features=1 / 3, random_state=0)
    reference = PerformanceModel(estimator=forest, normalize=DummyNormalization(), maximize=True, random_state=0)
    reference.fit(
        pd.DataFrame(scaler.transform(train.tasks.features)), pd.DataFrame(log_gains(train)[:, order], columns=names)
    )
    inputs = pd.DataFrame(scaler.transform(test.tasks.features), columns=reference.features)
    ours = ForestRegressor(trees=25).fit(train).scores(test.tasks)
    theirs = reference.generate_features(inputs).to_numpy()
    assert np.corrcoef(ours[:, order].ravel(), theirs.ravel())[0, 1] > 0.9
    assert len(names) == len(METHODS)
