"""The choice of who knows everything but the truth."""

import numpy as np
import pytest

from benchmarks.selection_ceiling import expected_gain, performance_elsewhere
from metainf.corpus.design import designed_tasks
from metainf.corpus.measuring import methods_of
from metainf.corpus.task import TrafficKind


def test_a_loss_in_one_world_weighs_as_the_metrics_count_it():
    surely, riskily = np.log(1.2), (np.log(1.5) + np.log(0.1)) / 2.0
    worlds = np.array([[[10.0, 12.0, 15.0], [10.0, 12.0, 0.0]]])
    np.testing.assert_allclose(expected_gain(worlds, 0), [[0.0, surely, riskily]])


def test_a_world_in_which_the_default_is_lost_says_nothing():
    worlds = np.array([[[10.0, 12.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 2.0]]])
    np.testing.assert_allclose(expected_gain(worlds, 0), [[0.0, np.log(1.2)], [0.0, 0.0]])


def test_what_cannot_run_is_never_chosen():
    worlds = np.array([[[10.0, np.nan], [10.0, np.nan]]])
    assert expected_gain(worlds, 0)[0].tolist() == [0.0, -np.inf]


def test_other_worlds_know_neither_the_truths_draws_nor_its_efficiencies():
    task = next(task for task in designed_tasks(40, seed=0) if task.kind is TrafficKind.BATCH)
    names = [method.name for method in methods_of(task)]
    first, again, second = (performance_elsewhere(task, names, number) for number in (0, 0, 1))
    assert first == pytest.approx(again, nan_ok=True)
    assert np.nanmax(np.abs(np.log(first) - np.log(second))) > 0.0
