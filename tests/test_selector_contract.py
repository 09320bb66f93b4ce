import inspect
import subprocess
import sys
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

from metainf.errors import NotFittedError
from metainf.selectors.catalogue import SELECTORS
from metainf.selectors.contract import choose
from selector_problems import METHODS, halves, locked, named, permuted, problem, small

EACH = [
    pytest.param(
        name,
        marks=[pytest.mark.skipif(find_spec(part) is None, reason=f"needs {part}") for part in entry.parts],
    )
    for name, entry in SELECTORS.items()
]
each_selector = pytest.mark.parametrize("name", EACH)
TABLE = named(problem(90, holes=0.15))
TRAIN, TEST = halves(TABLE)


@cache
def fitted(name):
    return small(name).fit(TRAIN)


@each_selector
def test_the_constructor_only_stores(name):
    selector = SELECTORS[name]()
    for parameter in inspect.signature(type(selector)).parameters:
        assert hasattr(selector, parameter)
    assert not [attribute for attribute in vars(selector) if attribute.endswith("_")]


@each_selector
def test_fit_returns_the_selector_itself(name):
    selector = small(name)
    assert selector.fit(TRAIN) is selector


@each_selector
def test_asking_before_fitting_is_refused(name):
    with pytest.raises(NotFittedError, match="before it was fitted"):
        SELECTORS[name]().scores(TEST.tasks)


@each_selector
def test_the_same_seed_gives_the_same_scores(name):
    first, second = (small(name, 3).fit(TRAIN).scores(TEST.tasks) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@each_selector
def test_minus_infinity_is_exactly_where_infeasible(name):
    scores = fitted(name).scores(TEST.tasks)
    assert scores.shape == TEST.performance.shape
    np.testing.assert_array_equal(scores == -np.inf, ~TEST.tasks.feasible)
    assert np.isfinite(scores[TEST.tasks.feasible]).all()
    assert TEST.tasks.feasible[np.arange(len(TEST)), choose(TEST.tasks, scores)].all()


@each_selector
def test_one_task_is_enough_to_fit(name):
    scores = small(name).fit(TRAIN.rows(np.array([0]))).scores(TEST.tasks)
    assert np.isfinite(scores[TEST.tasks.feasible]).all()


@each_selector
def test_one_feasible_method_is_chosen(name):
    only = np.zeros_like(TEST.tasks.feasible)
    only[:, 2] = True
    tasks = replace(TEST.tasks, feasible=only)
    assert (choose(tasks, fitted(name).scores(tasks)) == 2).all()


@each_selector
def test_no_task_gets_no_score(name):
    none = TEST.tasks.rows(np.array([], dtype=np.intp))
    assert fitted(name).scores(none).shape == (0, len(METHODS))


@each_selector
def test_a_method_that_was_never_feasible_can_be_scored(name):
    feasible = TRAIN.tasks.feasible.copy()
    feasible[:, 3] = False
    train = replace(
        TRAIN,
        tasks=replace(TRAIN.tasks, feasible=feasible),
        performance=np.where(feasible, TRAIN.performance, np.nan),
    )
    scores = small(name).fit(train).scores(TEST.tasks)
    assert np.isfinite(scores[TEST.tasks.feasible]).all()


@each_selector
def test_the_default_need_not_run(name):
    feasible = TRAIN.tasks.feasible.copy()
    feasible[:, 0] = False
    feasible[:, 1] = True
    tasks = replace(TRAIN.tasks, feasible=feasible)
    scores = small(name).fit(replace(TRAIN, tasks=tasks)).scores(tasks)
    np.testing.assert_array_equal(np.isfinite(scores), feasible)


@each_selector
def test_features_may_be_missing(name):
    def pierced(table):
        features = table.tasks.features.copy()
        features[::3, 0] = np.nan
        features[1::5, 1] = np.inf
        features[:, 2] = np.nan
        return locked(replace(table, tasks=replace(table.tasks, features=features)))

    train, test = pierced(TRAIN), pierced(TEST)
    scores = small(name).fit(train).scores(test.tasks)
    assert np.isfinite(scores[test.tasks.feasible]).all()


@each_selector
def test_what_the_analytical_predictor_says_may_be_infinite(name):
    def hopeless(table):
        analytical, pairs = table.tasks.analytical.copy(), table.tasks.pair_features.copy()
        analytical[::4, 1:3], pairs[::4, 1:3] = -np.inf, np.inf
        analytical[::6, 0] = -np.inf
        return locked(replace(table, tasks=replace(table.tasks, analytical=analytical, pair_features=pairs)))

    train, test = hopeless(TRAIN), hopeless(TEST)
    scores = small(name).fit(train).scores(test.tasks)
    np.testing.assert_array_equal(np.isfinite(scores), test.tasks.feasible)


@each_selector
def test_the_order_of_tasks_does_not_matter(name):
    order = np.random.default_rng(1).permutation(len(TRAIN))
    straight = fitted(name).scores(TEST.tasks)
    np.testing.assert_array_equal(small(name).fit(TRAIN.rows(order)).scores(TEST.tasks), straight)


@each_selector
def test_a_task_is_scored_alike_alone_and_in_company(name):
    selector = fitted(name)
    together = selector.scores(TEST.tasks)
    alone = np.vstack([selector.scores(TEST.tasks.rows(np.array([row]))) for row in range(5)])
    np.testing.assert_allclose(alone, together[:5], rtol=1e-9, atol=1e-9)


@each_selector
def test_columns_in_another_order_give_scores_in_that_order(name):
    order = np.array([4, 0, 5, 2, 1, 3])
    straight = fitted(name).scores(TEST.tasks)
    swapped = small(name).fit(permuted(TRAIN, order)).scores(permuted(TEST, order).tasks)
    np.testing.assert_array_equal(swapped, straight[:, order])
    mixed = fitted(name).scores(permuted(TEST, order).tasks)
    np.testing.assert_array_equal(mixed, straight[:, order])


@each_selector
def test_other_features_or_methods_than_fitted_are_refused(name):
    selector = fitted(name)
    with pytest.raises(ValueError, match="other features"):
        selector.scores(replace(TEST.tasks, feature_names=("else", *TEST.tasks.feature_names[1:])))
    with pytest.raises(ValueError, match="other methods"):
        selector.scores(replace(TEST.tasks, methods=("else", *METHODS[1:])))


@each_selector
def test_fitting_on_nothing_is_refused(name):
    with pytest.raises(ValueError, match="a task on which a method works"):
        small(name).fit(replace(TRAIN, performance=np.full_like(TRAIN.performance, np.nan)))


def test_the_contract_and_the_catalogue_import_numpy_alone():
    heavy = "{'sklearn', 'lightgbm', 'scipy', 'torch', 'pandas', 'numba'}"
    code = f"import sys, metainf.selectors.contract, metainf.selectors.catalogue; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
