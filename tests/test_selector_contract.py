import inspect
import subprocess
import sys
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

from metainf.errors import NotFittedError
from metainf.evaluation.outcomes import VIRTUAL_BEST
from metainf.evaluation.simulated import SIMULATOR_ONLY, SimulatedPerformance
from metainf.selectors.catalogue import SELECTORS
from metainf.selectors.contract import choose
from metainf.selectors.simulator_only import SimulatorOnly
from metainf.selectors.virtual_best import VirtualBest
from selector_problems import METHODS, halves, locked, named, permuted, problem, small

TABLE = named(problem(90, holes=0.15))
TRAIN, TEST = halves(TABLE)
SIMULATED = SimulatedPerformance([problem(90, holes=0.15, noise=0.1)])
LEARNERS = [
    *(
        pytest.param(
            name,
            marks=[pytest.mark.skipif(find_spec(part) is None, reason=f"needs {part}") for part in entry.parts],
        )
        for name, entry in SELECTORS.items()
    ),
    SIMULATOR_ONLY,
]
each_selector = pytest.mark.parametrize("name", [*LEARNERS, VIRTUAL_BEST])
each_learner = pytest.mark.parametrize("name", LEARNERS)  # a bound knows the truth of these tasks, in this order, alone


def made(name, random_state=0):
    """A selector that fits in a moment: of the catalogue, or one of the two that a seed alone does not make."""
    if name == SIMULATOR_ONLY:
        return SimulatorOnly(SIMULATED)
    return VirtualBest() if name == VIRTUAL_BEST else small(name, random_state)


def scores_of(name, train, test, random_state=0):
    """What is said of `test` by who learned from `train`; the bound is given the truth of `test` itself."""
    return made(name, random_state).fit(test if name == VIRTUAL_BEST else train).scores(test.tasks)


@cache
def fitted(name):
    return made(name).fit(TRAIN)


def answers(name, test):
    """What is said of `test` by who learned from TRAIN, which is learned once."""
    return scores_of(name, TRAIN, test) if name == VIRTUAL_BEST else fitted(name).scores(test.tasks)


@each_selector
def test_the_constructor_only_stores(name):
    selector = SELECTORS[name]() if name in SELECTORS else made(name)
    for parameter in inspect.signature(type(selector)).parameters:
        assert hasattr(selector, parameter)
    assert not [attribute for attribute in vars(selector) if attribute.endswith("_")]


@each_selector
def test_fit_returns_the_selector_itself(name):
    selector = made(name)
    assert selector.fit(TRAIN) is selector


@each_selector
def test_asking_before_fitting_is_refused(name):
    with pytest.raises(NotFittedError, match="before it was fitted"):
        made(name).scores(TEST.tasks)


@each_selector
def test_the_same_seed_gives_the_same_scores(name):
    first, second = (scores_of(name, TRAIN, TEST, 3) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@each_selector
def test_minus_infinity_is_exactly_where_infeasible(name):
    scores = answers(name, TEST)
    assert scores.shape == TEST.performance.shape
    np.testing.assert_array_equal(scores == -np.inf, ~TEST.tasks.feasible)
    assert np.isfinite(scores[TEST.tasks.feasible]).all()
    assert TEST.tasks.feasible[np.arange(len(TEST)), choose(TEST.tasks, scores)].all()


@each_selector
def test_one_task_is_enough_to_fit(name):
    scores = scores_of(name, TRAIN.rows(np.array([0])), TEST)
    assert np.isfinite(scores[TEST.tasks.feasible]).all()


@each_selector
def test_one_feasible_method_is_chosen(name):
    only = np.zeros_like(TEST.tasks.feasible)
    only[:, 2] = True
    test = replace(TEST, tasks=replace(TEST.tasks, feasible=only))
    assert (choose(test.tasks, answers(name, test)) == 2).all()


@each_selector
def test_no_task_gets_no_score(name):
    assert answers(name, TEST.rows(np.array([], dtype=np.intp))).shape == (0, len(METHODS))


@each_selector
def test_a_method_that_was_never_feasible_can_be_scored(name):
    feasible = TRAIN.tasks.feasible.copy()
    feasible[:, 3] = False
    train = replace(
        TRAIN,
        tasks=replace(TRAIN.tasks, feasible=feasible),
        performance=np.where(feasible, TRAIN.performance, np.nan),
    )
    scores = scores_of(name, train, TEST)
    assert np.isfinite(scores[TEST.tasks.feasible]).all()


@each_selector
def test_the_default_need_not_run(name):
    feasible = TRAIN.tasks.feasible.copy()
    feasible[:, 0] = False
    feasible[:, 1] = True
    train = replace(TRAIN, tasks=replace(TRAIN.tasks, feasible=feasible))
    scores = scores_of(name, train, train)
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
    scores = scores_of(name, train, test)
    assert np.isfinite(scores[test.tasks.feasible]).all()


@each_selector
def test_what_the_analytical_predictor_says_may_be_infinite(name):
    def hopeless(table):
        analytical, pairs = table.tasks.analytical.copy(), table.tasks.pair_features.copy()
        analytical[::4, 1:3], pairs[::4, 1:3] = -np.inf, np.inf
        analytical[::6, 0] = -np.inf
        return locked(replace(table, tasks=replace(table.tasks, analytical=analytical, pair_features=pairs)))

    train, test = hopeless(TRAIN), hopeless(TEST)
    scores = scores_of(name, train, test)
    np.testing.assert_array_equal(np.isfinite(scores), test.tasks.feasible)


@each_learner
def test_the_order_of_tasks_does_not_matter(name):
    order = np.random.default_rng(1).permutation(len(TRAIN))
    straight = fitted(name).scores(TEST.tasks)
    np.testing.assert_array_equal(made(name).fit(TRAIN.rows(order)).scores(TEST.tasks), straight)


@each_learner
def test_a_task_is_scored_alike_alone_and_in_company(name):
    selector = fitted(name)
    together = selector.scores(TEST.tasks)
    alone = np.vstack([selector.scores(TEST.tasks.rows(np.array([row]))) for row in range(5)])
    np.testing.assert_allclose(alone, together[:5], rtol=1e-9, atol=1e-9)


@each_learner
def test_columns_in_another_order_give_scores_in_that_order(name):
    order = np.array([4, 0, 5, 2, 1, 3])
    straight = fitted(name).scores(TEST.tasks)
    swapped = made(name).fit(permuted(TRAIN, order)).scores(permuted(TEST, order).tasks)
    np.testing.assert_array_equal(swapped, straight[:, order])
    mixed = fitted(name).scores(permuted(TEST, order).tasks)
    np.testing.assert_array_equal(mixed, straight[:, order])


@each_learner
def test_other_features_or_methods_than_fitted_are_refused(name):
    selector = fitted(name)
    with pytest.raises(ValueError, match="other features"):
        selector.scores(replace(TEST.tasks, feature_names=("else", *TEST.tasks.feature_names[1:])))
    with pytest.raises(ValueError, match="other methods"):
        selector.scores(replace(TEST.tasks, methods=("else", *METHODS[1:])))


@each_learner
def test_fitting_on_nothing_is_refused(name):
    with pytest.raises(ValueError, match="a task on which a method works"):
        made(name).fit(replace(TRAIN, performance=np.full_like(TRAIN.performance, np.nan)))


def test_the_contract_and_the_catalogue_import_numpy_alone():
    heavy = "{'sklearn', 'lightgbm', 'scipy', 'torch', 'pandas', 'numba'}"
    code = f"import sys, metainf.selectors.contract, metainf.selectors.catalogue; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
