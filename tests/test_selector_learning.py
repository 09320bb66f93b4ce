from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

from metainf.selectors.contract import choose
from metainf.selectors.targets import log_gains
from selector_problems import halves, problem, shuffled, small

LEARNED = (
    "nearest-neighbour",
    "isac",
    "isac-5-clusters",
    "alors",
    "alors-ranks",
    "random-forest-classifier",
    "random-forest-regressor",
    "gradient-boosting-classifier",
    "gradient-boosting-regressor",
    "satzilla",
    pytest.param(
        "network",
        marks=pytest.mark.skipif(find_spec("torch") is None, reason="needs torch"),
    ),
    "metainf-regression",
    "metainf-two-part",
    "metainf-pairwise",
    "metainf-ranking",
    "metainf-ensemble",
)
each_learned = pytest.mark.parametrize("name", LEARNED)


@cache
def table_and_single_best(is_shuffled):
    table = problem(450, seed=5, noise=0.01)
    train, test = halves(shuffled(table) if is_shuffled else table)
    return train, test, gains_of("single-best", train, test)


def gains_of(name, train, test):
    chosen = choose(test.tasks, small(name).fit(train).scores(test.tasks))
    return log_gains(test)[np.arange(len(test)), chosen]


@each_learned
def test_beats_single_best_where_features_decide(name):
    train, test, single_best = table_and_single_best(is_shuffled=False)
    won = gains_of(name, train, test) - single_best
    assert won.mean() > 3.0 * won.std() / np.sqrt(len(won))


@each_learned
def test_does_not_beat_single_best_on_others_truth(name):
    train, test, single_best = table_and_single_best(is_shuffled=True)
    won = gains_of(name, train, test) - single_best
    assert won.mean() <= 3.0 * won.std() / np.sqrt(len(won)) + 1e-12


@pytest.mark.parametrize(
    "name",
    [
        "single-best",
        "nearest-neighbour",
        "random-forest-classifier",
        "random-forest-regressor",
        "metainf-regression",
        "metainf-two-part",
    ],
)
def test_what_always_breaks_a_limit_is_never_chosen_however_fast(name):
    table = problem(120)
    performance, broken = table.performance.copy(), np.zeros(table.performance.shape, dtype=bool)
    performance[:, 1] *= 3.0
    broken[:, 1] = True
    train, test = halves(replace(table, performance=performance, broken=broken))
    assert not (choose(test.tasks, small(name).fit(train).scores(test.tasks)) == 1).any()


@pytest.mark.parametrize("name", ["metainf-regression", "metainf-two-part", "metainf-pairwise", "metainf-ensemble"])
def test_each_part_of_metainf_finds_nearly_all_there_is_to_gain(name):
    train, test, single_best = table_and_single_best(is_shuffled=False)
    best = log_gains(test).max(axis=1)
    closed = (gains_of(name, train, test) - single_best).mean() / (best - single_best).mean()
    assert closed > 0.8
