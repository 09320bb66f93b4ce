from dataclasses import replace

import numpy as np

from metainf.evaluation.outcomes import Evidence, run_selector
from metainf.evaluation.simulated import SIMULATOR_PAIRS, NotTold, SimulatedPerformance, with_simulated
from metainf.evaluation.splits import SplitKind, split
from metainf.selectors.contract import MethodTable, TaskTable, choose
from metainf.selectors.simulator_only import SimulatorOnly
from selection_tables import AlwaysDefault, learnable_table, method_table

TABLE = learnable_table(60)


def test_a_task_is_found_again_whatever_the_order_of_tasks_and_methods() -> None:
    simulated = SimulatedPerformance([learnable_table(20, seed=5), TABLE])
    order = np.random.default_rng(0).permutation(60)
    tasks = TABLE.tasks.rows(order)
    assert (simulated(tasks) == np.log(TABLE.performance[order])).all()
    turned = replace(tasks, methods=tasks.methods[::-1])
    assert (simulated(turned) == np.log(TABLE.performance[order, ::-1])).all()


def test_tasks_that_were_not_simulated_are_unknown() -> None:
    simulated = SimulatedPerformance([TABLE.rows(np.arange(10))])
    found = simulated(TABLE.tasks)
    assert np.isfinite(found[:10]).all() and np.isnan(found[10:]).all()
    assert simulated(TABLE.tasks.rows(np.arange(0))).shape == (0, 4)


def test_the_selector_takes_the_best_simulated_and_what_is_unknown_comes_last() -> None:
    table = method_table([[1.0, 3.0, np.nan], [2.0, np.nan, np.nan], [0.0, 1.0, 2.0]])
    simulator = SimulatorOnly(SimulatedPerformance([table.rows(np.arange(2))])).fit(table)
    assert choose(table.tasks, simulator.scores(table.tasks)).tolist() == [1, 0, 0]


def test_a_simulation_that_is_the_truth_is_the_virtual_best() -> None:
    simulated = SimulatedPerformance([TABLE])
    found = split(TABLE.tasks, SplitKind.MODEL)
    outcome = run_selector("simulator", lambda: SimulatorOnly(simulated), Evidence(TABLE), found, clock=lambda: 0.0)
    assert (outcome.chosen == TABLE.performance[outcome.judged].argmax(axis=1)).all()


def test_a_promise_that_the_simulation_breaks_is_told_from_what_it_knows_nothing_of() -> None:
    table = method_table([[1.0, 0.0, np.nan], [0.0, 1.0, 2.0]])
    simulated = SimulatedPerformance([table])
    np.testing.assert_array_equal(simulated(table.tasks), [[0.0, -np.inf, np.nan], [-np.inf, 0.0, np.log(2.0)]])
    pairs = with_simulated(table, simulated).tasks.pair_features
    np.testing.assert_array_equal(pairs[0, :, -1], [0.0, -np.inf, np.nan])
    assert np.isnan(pairs[1, :, -1]).all(), "there is no ratio to a default that is lost"


class Watching(AlwaysDefault):
    """Keeps what it was shown."""

    def fit(self, table: MethodTable) -> "Watching":
        self.fitted_ = table.tasks
        return self

    def scores(self, tasks: TaskTable) -> np.ndarray:
        self.asked_ = tasks
        return super().scores(tasks)


def test_a_selector_that_is_not_told_sees_all_but_what_was_simulated() -> None:
    told = with_simulated(TABLE, SimulatedPerformance([TABLE]))
    watching = Watching()
    scores = NotTold(watching).fit(told).scores(told.tasks)
    np.testing.assert_array_equal(scores, AlwaysDefault().scores(TABLE.tasks))
    assert set(SIMULATOR_PAIRS) <= set(told.tasks.pair_feature_names)
    for seen in (watching.fitted_, watching.asked_):
        assert seen.pair_feature_names == TABLE.tasks.pair_feature_names
        np.testing.assert_array_equal(seen.pair_features, TABLE.tasks.pair_features)
