from dataclasses import replace

import numpy as np

from metainf.evaluation.outcomes import Evidence, run_selector
from metainf.evaluation.simulated import SimulatedPerformance
from metainf.evaluation.splits import SplitKind, split
from metainf.selectors.contract import choose
from metainf.selectors.simulator_only import SimulatorOnly
from selection_tables import learnable_table, method_table

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
