import math
from dataclasses import replace

import numpy as np
import pytest

from metainf.meta_features.tasks import TASK_FEATURES
from metainf.methods import portfolio
from metainf.selectors.catalogue import SELECTORS
from metainf.selectors.contract import choose
from metainf.selectors.expert_rules import RULES, ExpertRules
from metainf.selectors.nearest_neighbour import NearestNeighbour
from metainf.selectors.random_choice import RandomChoice
from metainf.selectors.roofline_only import RooflineOnly
from metainf.selectors.simulator_only import SimulatorOnly
from metainf.selectors.single_best import BestOnAverage, SingleBest
from metainf.selectors.targets import log_gains
from metainf.selectors.virtual_best import VirtualBest
from metainf.selectors.vllm_default import VllmDefault
from selector_problems import METHODS, RULE_FEATURES, problem

TABLE = problem(120)


def with_columns(table, **columns):
    """The table with these methods' log gains over the default and their share of feasible tasks."""
    performance, feasible = table.performance.copy(), table.tasks.feasible.copy()
    for name, (gain, share) in columns.items():
        column = METHODS.index(name)
        performance[:, column] = performance[:, 0] * math.exp(gain)
        feasible[int(share * len(table)) :, column] = False
    return replace(table, tasks=replace(table.tasks, feasible=feasible), performance=performance)


def test_random_picks_each_method_about_as_often():
    tasks = problem(3000).tasks
    chosen = choose(tasks, RandomChoice().fit(TABLE).scores(tasks))
    assert np.bincount(chosen, minlength=6) == pytest.approx([500] * 6, abs=80)


def test_another_seed_picks_otherwise():
    first, second = (RandomChoice(random_state=seed).fit(TABLE).scores(TABLE.tasks) for seed in (1, 2))
    assert (first != second).all()


@pytest.mark.parametrize(
    ("latency", "expected"),
    [
        pytest.param((0.8, 1.0), "latency", id="feasible everywhere -> the best mean"),
        pytest.param((0.8, 0.96), "latency", id="feasible on 96 % -> counts, its holes a tenth of the default"),
        pytest.param((0.8, 0.9), "ngram", id="feasible on 90 % -> does not count"),
    ],
)
def test_single_best_has_to_be_widely_feasible(latency, expected):
    table = with_columns(TABLE, ngram=(0.5, 1.0), latency=latency)
    assert SingleBest().fit(table).best_ == expected


def test_best_on_average_counts_a_method_where_it_can_run_and_falls_to_the_next_elsewhere():
    table = with_columns(TABLE, ngram=(0.5, 1.0), latency=(0.8, 0.25))
    chosen = choose(table.tasks, BestOnAverage().fit(table).scores(table.tasks))
    assert {METHODS[each] for each in chosen[:30]} == {"latency"}
    assert {METHODS[each] for each in chosen[30:]} == {"ngram"}


def test_single_best_ignores_how_fast_a_task_is():
    performance = TABLE.performance.copy()
    performance[:, 4] = performance[:, 0] * 1.5
    performance[0] = [1e12, 2e12, 1e12, 1e12, 0.9e12, 1e12]
    assert SingleBest().fit(replace(TABLE, performance=performance)).best_ == "latency"


def test_the_default_is_chosen_wherever_it_can_run_and_else_the_simplest():
    feasible = TABLE.tasks.feasible.copy()
    feasible[:10, :2] = False
    tasks = replace(TABLE.tasks, feasible=feasible)
    chosen = choose(tasks, VllmDefault().fit(TABLE).scores(tasks))
    assert (chosen[:10] == 2).all()
    assert (chosen[10:] == 0).all()


def test_roofline_only_follows_the_analytical_predictor():
    chosen = choose(TABLE.tasks, RooflineOnly().fit(TABLE).scores(TABLE.tasks))
    np.testing.assert_array_equal(chosen, TABLE.tasks.analytical.argmax(axis=1))


def test_simulator_only_follows_the_simulation_by_name():
    def simulated(tasks):
        return np.tile([float(name == "mtp") for name in tasks.methods], (len(tasks), 1))

    chosen = choose(TABLE.tasks, SimulatorOnly(simulated).fit(TABLE).scores(TABLE.tasks))
    assert (chosen == METHODS.index("mtp")).all()


def test_a_task_seen_before_gets_what_was_best_on_it():
    chosen = choose(TABLE.tasks, NearestNeighbour().fit(TABLE).scores(TABLE.tasks))
    np.testing.assert_array_equal(chosen, log_gains(TABLE).argmax(axis=1))


def test_neighbours_are_near_by_deviations_not_by_units():
    features = TABLE.tasks.features.copy()
    features[:, 5] *= 1e9
    scaled = replace(TABLE, tasks=replace(TABLE.tasks, features=features))
    seen, unseen = np.arange(100), np.arange(100, 120)
    np.testing.assert_allclose(
        NearestNeighbour().fit(scaled.rows(seen)).scores(scaled.tasks.rows(unseen)),
        NearestNeighbour().fit(TABLE.rows(seen)).scores(TABLE.tasks.rows(unseen)),
    )


def test_the_virtual_best_is_a_bound_on_every_choice():
    bound = VirtualBest().fit(TABLE)
    gains = log_gains(TABLE)
    chosen = choose(TABLE.tasks, bound.scores(TABLE.tasks))
    np.testing.assert_array_equal(gains[np.arange(len(TABLE)), chosen], gains.max(axis=1))


def test_the_virtual_best_does_not_choose_what_did_not_run_or_broke_its_slo():
    performance = TABLE.performance.copy()
    performance[:, 1], performance[:, 2] = np.nan, 0.0
    chosen = choose(TABLE.tasks, VirtualBest().fit(replace(TABLE, performance=performance)).scores(TABLE.tasks))
    assert not np.isin(chosen, (1, 2)).any()


def test_the_virtual_best_refuses_tasks_whose_truth_it_was_not_given():
    with pytest.raises(ValueError, match="it is a bound"):
        VirtualBest().fit(TABLE).scores(TABLE.tasks.rows(np.arange(5)))


def test_the_virtual_best_cannot_be_picked_from_the_catalogue():
    assert VirtualBest.is_bound
    assert "VirtualBest" not in {entry.name for entry in SELECTORS.values()}


def one_task(**features):
    row = np.array([[features.get(name, 0.0) for name in RULE_FEATURES]])
    return replace(TABLE.tasks.rows(np.array([0])), features=row, feature_names=RULE_FEATURES)


QUIET = {"load_requests": math.log(2), "input_tokens_mean": math.log(500), "kv_pressure": -2.0}


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        pytest.param(QUIET, "mtp", id="two clients -> trained drafts"),
        pytest.param({**QUIET, "load_requests": math.log(30)}, "default", id="thirty clients -> the default"),
        pytest.param({**QUIET, "load_requests": math.log(200)}, "throughput", id="200 clients -> large steps"),
        pytest.param({**QUIET, "load_is_batch": 1.0}, "throughput", id="a batch -> large steps"),
        pytest.param({**QUIET, "load_is_rate": 1.0, "kv_pressure": 1.0}, "fp8-kv", id="cache too small -> fp8 cache"),
    ],
)
def test_expert_rules_follow_the_features(features, expected):
    tasks = one_task(**features)
    train = replace(TABLE.rows(np.array([0])), tasks=tasks)
    chosen = choose(tasks, ExpertRules().fit(train).scores(tasks))
    assert METHODS[chosen[0]] == expected


def test_expert_rules_take_repetitive_text_for_ngram_where_no_draft_was_trained():
    tasks = one_task(**QUIET, repetitiveness=1.0)
    feasible = tasks.feasible.copy()
    feasible[:, METHODS.index("mtp")] = False
    tasks = replace(tasks, feasible=feasible)
    chosen = choose(tasks, ExpertRules().fit(TABLE_OF_RULES).scores(tasks))
    assert METHODS[chosen[0]] == "ngram"


TABLE_OF_RULES = replace(TABLE.rows(np.array([0])), tasks=one_task())


def test_expert_rules_name_a_feature_that_is_missing():
    names = tuple("other" if name == "kv_pressure" else name for name in TABLE.tasks.feature_names)
    with pytest.raises(ValueError, match="kv_pressure"):
        ExpertRules().fit(replace(TABLE, tasks=replace(TABLE.tasks, feature_names=names)))


def test_rules_without_their_methods_need_no_features():
    plain = replace(TABLE.tasks, methods=("default", *"abcde"), feature_names=tuple("f" * (k + 1) for k in range(16)))
    assert ExpertRules().fit(replace(TABLE, tasks=plain)).rules_ == ()


def test_every_rule_is_about_methods_and_features_that_exist():
    known = {method.name for method in portfolio()}
    for rule in RULES:
        assert set(rule.methods) <= known
        assert set(rule.features) <= {feature.name for feature in TASK_FEATURES}
