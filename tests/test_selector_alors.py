from dataclasses import replace

import numpy as np
import pytest

from metainf.selectors.alors import Alors, factors
from metainf.selectors.contract import choose
from metainf.selectors.targets import log_gains
from selector_problems import METHODS, halves, locked, problem


def of_rank_two(n=600, seed=0):
    """Log performance is a task's two features times two numbers of each method, and how hard the task is."""
    draw = np.random.default_rng(seed)
    angle = draw.uniform(0.0, 2.0 * np.pi, n)
    left = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    spokes = 2.0 * np.pi * np.arange(len(METHODS)) / len(METHODS)
    right = 0.4 * np.stack([np.cos(spokes), np.sin(spokes)])
    table = problem(n)
    tasks = replace(table.tasks, features=left, feature_names=("u", "v"))
    hardness = draw.normal(3.0, 2.0, (n, 1))
    return locked(replace(table, tasks=tasks, performance=np.exp(left @ right + hardness)))


def test_two_factors_hold_a_matrix_of_rank_two():
    gains = log_gains(of_rank_two())
    left, right = factors(gains, 2)
    np.testing.assert_allclose(left @ right, gains - gains.mean(axis=1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(left.T @ left, np.eye(2), atol=1e-12)


def test_one_factor_does_not():
    gains = log_gains(of_rank_two())
    left, right = factors(gains, 1)
    assert np.abs(left @ right - (gains - gains.mean(axis=1, keepdims=True))).max() > 0.1


@pytest.mark.parametrize("by_rank", [False, True])
def test_features_that_determine_the_factors_are_enough(by_rank):
    train, test = halves(of_rank_two())
    chosen = choose(test.tasks, Alors(rank=2, by_rank=by_rank).fit(train).scores(test.tasks))
    gains = log_gains(test)
    assert (chosen == gains.argmax(axis=1)).mean() > 0.9
    assert (gains.max(axis=1) - gains[np.arange(len(test)), chosen]).max() < 0.1


def test_how_hard_a_task_is_does_not_matter():
    train, test = halves(of_rank_two())
    scale = np.random.default_rng(2).uniform(0.01, 100.0, (len(train), 1))
    harder = replace(train, performance=train.performance * scale)
    straight, scaled = (Alors(rank=2).fit(table).scores(test.tasks) for table in (train, harder))
    np.testing.assert_allclose(straight, scaled, atol=0.01)  # the last bit decides between equal splits of a tree


@pytest.mark.parametrize(
    ("rank", "n", "kept"),
    [
        pytest.param(99, 50, len(METHODS) - 1, id="as many as methods -> one fewer"),
        pytest.param(3, 2, 2, id="two tasks -> two"),
        pytest.param(0, 50, 1, id="none -> one"),
    ],
)
def test_the_rank_is_kept_in_bounds(rank, n, kept):
    left, right = factors(np.random.default_rng(0).normal(size=(n, len(METHODS))), rank)
    assert left.shape == (n, kept)
    assert right.shape == (kept, len(METHODS))


def test_holes_cost_little():
    train, test = halves(of_rank_two())
    holes = np.random.default_rng(1).random(train.performance.shape) < 0.1
    pierced = replace(train, performance=np.where(holes, np.nan, train.performance))
    chosen = choose(test.tasks, Alors(rank=2).fit(pierced).scores(test.tasks))
    gains = log_gains(test)
    assert (gains.max(axis=1) - gains[np.arange(len(test)), chosen]).mean() < 0.05
