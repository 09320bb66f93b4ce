"""The choice of who knows everything but the truth."""

import numpy as np
import pytest

from benchmarks.selection_ceiling import Sample, expected_gain, figures, performance_elsewhere
from metainf.corpus.design import designed_tasks
from metainf.corpus.measuring import methods_of
from metainf.corpus.task import TrafficKind
from metainf.evaluation.outcomes import Evidence
from selection_tables import learnable_table


def test_a_loss_in_one_world_weighs_as_the_metrics_count_it():
    surely, riskily = np.log(1.2), (np.log(1.5) + np.log(0.1)) / 2.0
    worlds = np.array([[[10.0, 12.0, 15.0], [10.0, 12.0, 0.0]]])
    np.testing.assert_allclose(expected_gain(worlds, 0), [[0.0, surely, riskily]])


def test_a_world_in_which_the_default_is_lost_says_nothing():
    worlds = np.array([[[10.0, 12.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 2.0]]])
    np.testing.assert_allclose(expected_gain(worlds, 0), [[0.0, np.log(1.2)], [0.0, 0.0]])


def test_what_breaks_a_limit_there_is_a_loss_and_a_default_that_does_is_still_what_others_are_relative_to():
    worlds, lost = np.array([[[10.0, 12.0, 15.0]]]), np.array([[[True, False, True]]])
    np.testing.assert_allclose(expected_gain(worlds, 0, lost), [[np.log(0.1), np.log(1.2), np.log(0.1)]])


def test_figures_tell_table_truths_apart_and_grow_with_the_worlds():
    table = learnable_table(24)
    single = np.zeros(24, dtype=np.intp)
    of_tables = np.arange(24) % 3 == 0
    asked = Sample(Evidence(table, np.zeros(table.performance.shape, dtype=bool)), (), single, np.ones(24), of_tables)
    worlds = np.repeat(table.performance[:, None, :], 6, axis=1)
    lines = list(figures(asked, worlds, np.zeros(worlds.shape, dtype=bool)))
    assert [line.partition(" ")[0] for line in lines[::4]] == ["2", "4", "6"]
    assert sum("tables" in line and "   8 tasks" in line for line in lines) >= 3
    assert all("closed gap 1.000" in line and "accuracy 1.000" in line for line in lines)


def test_what_cannot_run_is_never_chosen():
    worlds = np.array([[[10.0, np.nan], [10.0, np.nan]]])
    assert expected_gain(worlds, 0)[0].tolist() == [0.0, -np.inf]


def test_other_worlds_know_neither_the_truths_draws_nor_its_efficiencies():
    task = next(task for task in designed_tasks(40, seed=0) if task.kind is TrafficKind.BATCH)
    names = [method.name for method in methods_of(task)]
    first, again, second = (performance_elsewhere(task, names, number)[0] for number in (0, 0, 1))
    assert first == pytest.approx(again, nan_ok=True)
    assert np.nanmax(np.abs(np.log(first) - np.log(second))) > 0.0


def test_a_budget_that_nothing_keeps_is_broken_by_all_that_run():
    task = next(task for task in designed_tasks(40, seed=0) if task.kind is TrafficKind.BATCH)
    names = [method.name for method in methods_of(task)]
    performance, lost = performance_elsewhere(task, names, 0, allowed=0.0)
    assert lost == [not np.isnan(each) for each in performance]
