import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from metainf.selectors.binned_forest import BinnedForest, Bins
from metainf.selectors.contract import choose
from metainf.selectors.random_forest import ForestClassifier, ForestRegressor
from metainf.selectors.satzilla import Satzilla, vote
from metainf.selectors.targets import label_columns
from selector_problems import METHODS, halves, problem

ASF_ANSWERS = Path(__file__).parent / "data" / "asf" / "answers.json"
needs_asf_answers = pytest.mark.skipif(not ASF_ANSWERS.exists(), reason=f"run record.py, which writes {ASF_ANSWERS}")


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


@pytest.fixture(scope="module")
def asf():
    """What asf said of a problem, and the problem's two parts."""
    answers = json.loads(ASF_ANSWERS.read_text(encoding="utf-8"))
    train, test = halves(problem(answers["problem"]["tasks"], seed=answers["problem"]["seed"]))
    np.testing.assert_allclose(test.tasks.features[0], answers["first_task"], atol=1e-6, err_msg="another problem")
    return answers, train, test


def by_asf(answers, test, scores):
    """Scores with their columns in the order of asf's."""
    return scores[:, [test.tasks.methods.index(name) for name in answers["methods"]]]


@needs_asf_answers
def test_pairwise_votes_are_those_of_asf(asf):
    answers, train, test = asf
    ours = by_asf(answers, test, np.floor(Satzilla(trees=answers["trees"]).fit(train).scores(test.tasks)))
    votes = np.array(answers["votes"])
    assert votes.shape == ours.shape == (80, len(METHODS))
    # Other random draws grow other trees: the vote of one pair may turn, not that of many.
    assert np.abs(ours - votes).mean() < 0.5
    assert np.corrcoef(ours.ravel(), votes.ravel())[0, 1] > 0.9


@needs_asf_answers
def test_regressions_for_each_method_are_those_of_asf(asf):
    answers, train, test = asf
    ours = by_asf(answers, test, ForestRegressor(trees=answers["trees"]).fit(train).scores(test.tasks))
    theirs = np.array(answers["gains"])
    assert theirs.shape == ours.shape == (80, len(METHODS))
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9
