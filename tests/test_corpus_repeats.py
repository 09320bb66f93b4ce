"""What the repeats of a task say together, against sums done by hand."""

import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from corpus_stub import PLAN, stub_rows
from metainf.corpus.build import TASKS, build, shards_of
from metainf.corpus.measuring import is_known
from metainf.corpus.repeats import LEAST_TOLERANCE, over_seeds, tolerances
from metainf.corpus.tables import OWN, load_rows, load_truth
from metainf.corpus.task_store import read_tasks
from metainf.corpus.worlds import RooflineWorld
from metainf.errors import InvalidWorkloadError
from metainf.evaluation.metrics import violation_rate
from metainf.selectors.targets import LOST, log_gains

NAN = np.nan


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        pytest.param([[2.0, 8.0], [1.0, 4.0]], [4.0, 2.0], id="the geometric mean"),
        pytest.param([[2.0, NAN], [3.0, NAN]], [2.0, 3.0], id="one seed alone"),
        pytest.param([[2.0, 8.0], [3.0, 0.0]], [4.0, 0.0], id="a method that fails once has failed"),
        pytest.param([[2.0, 8.0], [0.0, 0.0]], [4.0, 0.0], id="a method that always fails has failed"),
        pytest.param([[2.0, NAN], [0.0, NAN]], [2.0, 0.0], id="a failure under one seed alone"),
        pytest.param([[2.0, 0.0], [3.0, 0.0]], [2.0, 3.0], id="a seed under which nothing works is left out"),
        pytest.param([[2.0, 8.0], [NAN, NAN]], [4.0, NAN], id="nobody ran it"),
        pytest.param([[2.0, 0.0], [NAN, 0.0]], [2.0, NAN], id="it ran under a seed alone that does not count"),
        pytest.param([[2.0, 8.0], [3.0, NAN]], [4.0, NAN], id="it lacks a seed that counts"),
        pytest.param([[0.0, 0.0], [0.0, NAN]], [0.0, 0.0], id="nothing works at all"),
        pytest.param([[0.0, NAN], [NAN, NAN]], [0.0, NAN], id="nothing works at all, and one never ran"),
    ],
)
def test_performance_is_over_the_seeds_that_a_task_has(seeds, expected):
    assert over_seeds(np.array([seeds]))[0] == pytest.approx(expected, nan_ok=True)


def test_without_any_seed_nothing_is_known():
    assert np.isnan(over_seeds(np.empty((2, 3, 0)))).all()


def test_tolerance_is_of_the_comparison_and_not_of_what_was_drawn():
    # log(P / P[default]) is (0.1, -0.1) for the first other method, sd 0.1 * sqrt(2), and constant for the second.
    default = np.array([100.0, 900.0])
    task = np.stack([default, default * np.exp([0.1, -0.1]), default * 1.5])
    assert tolerances(task[None], 0) == pytest.approx(2.0 * np.mean([0.0, 0.1 * np.sqrt(2.0)]))
    assert tolerances(task[None, :2], 0) == pytest.approx(2.0 * 0.1 * np.sqrt(2.0))
    assert tolerances(task[None, ::2], 0) == pytest.approx(LEAST_TOLERANCE)


def test_tolerance_is_the_median_over_methods():
    deviations = np.array([0.01, 0.03, 0.5])
    others = np.exp(deviations[:, None] / np.sqrt(2.0) * np.array([1.0, -1.0]))
    task = np.concatenate([np.ones((1, 2)), others])
    assert tolerances(task[None], 0) == pytest.approx(2.0 * 0.03)
    assert tolerances(task[None, [1, 0, 2, 3]], 1) == pytest.approx(2.0 * 0.03)


def test_a_task_that_cannot_tell_has_the_median_of_its_kind():
    def task(deviation):
        return [[1.0, 1.0], np.exp(deviation / np.sqrt(2.0) * np.array([1.0, -1.0]))]

    once = [[1.0, NAN], [2.0, NAN]]
    no_default = [[NAN, NAN], [2.0, 3.0]]
    found = tolerances(np.array([task(0.02), task(0.04), task(0.06), once, no_default]), 0)
    assert found == pytest.approx([0.04, 0.08, 0.12, 0.08, 0.08])
    assert tolerances(np.array([once]), 0) == pytest.approx([LEAST_TOLERANCE])


def other_rows(task, oracle, *, repeats, most_methods):
    """In the other world all is twice as fast, and half of the tasks are unknown."""
    rows = stub_rows(task, oracle, repeats=repeats)
    if oracle.name != "other":
        return rows
    return [replace(row, performance=2.0 * row.performance) for row in rows if int(task.key, 16) % 2]


@dataclass(frozen=True)
class OddWorld(RooflineWorld):
    """Knows models with names of odd length alone."""

    def times(self, replica, seed):
        return super().times(replica, seed) if len(replica.architecture.name) % 2 else None


@pytest.fixture(scope="module")
def two_worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    plan = replace(PLAN, worlds=("roofline@1", "other@1"), compared_every=1)
    build(folder, plan, [RooflineWorld(), RooflineWorld("other")], clock=time.monotonic, measure=other_rows)
    return folder


def test_truth_holds_every_seed(two_worlds):
    for truth in load_truth(two_worlds, world="roofline").values():
        assert truth.by_seed.shape == (*truth.table.performance.shape, 2)
        assert over_seeds(truth.by_seed) == pytest.approx(truth.table.performance, nan_ok=True)
        default = truth.by_seed[:, truth.table.tasks.default]
        several = ~np.isnan(default[:, 1])
        assert default[several, 1] == pytest.approx(1.1 * default[several, 0], rel=2e-5)
        assert not truth.beside


def test_what_another_world_says_is_of_the_same_tasks(two_worlds):
    truths = load_truth(two_worlds, world="roofline", beside=["other"])
    known = 0
    for truth in truths.values():
        other = truth.beside["other"]
        assert other.tasks is truth.table.tasks
        there = ~np.isnan(other.performance).all(axis=1)
        known += int(there.sum())
        first = truth.by_seed[there][:, :, 0]  # another world has the first repeat alone
        assert other.performance[there] == pytest.approx(2.0 * first, rel=2e-5, nan_ok=True)
    assert known == sum(int(task.key, 16) % 2 for task in read_tasks(two_worlds / "tasks.parquet"))
    assert 0 < known < sum(len(truth.table) for truth in truths.values())


def test_tasks_that_another_world_does_not_know_can_be_left_out(two_worlds):
    truths = load_truth(two_worlds, world="roofline", beside=["other"], also_in=["other"])
    tasks = read_tasks(two_worlds / "tasks.parquet")
    assert sum(len(truth.table) for truth in truths.values()) == sum(int(task.key, 16) % 2 for task in tasks)
    for truth in truths.values():
        assert not np.isnan(truth.beside["other"].performance).all(axis=1).any()


def failing_rows(task, oracle, *, repeats, most_methods):
    """The second method breaks its promise everywhere."""
    rows = stub_rows(task, oracle, repeats=repeats)
    return [replace(row, performance=0.0) if row.method == "latency" else row for row in rows]


def test_what_runs_and_fails_is_told_from_what_a_world_knows_nothing_of(tmp_path):
    build(tmp_path, PLAN, [RooflineWorld()], clock=time.monotonic, measure=failing_rows)
    for truth in load_truth(tmp_path).values():
        tasks = truth.table.tasks
        default, latency = tasks.default, tasks.methods.index("latency")
        could = tasks.feasible[:, latency]
        assert (truth.table.performance[could, latency] == 0.0).all()
        others = [column for column in range(len(tasks.methods)) if column not in (default, latency)]
        assert tasks.feasible[:, default].all()
        assert not tasks.feasible[:, others].any(), "without rows a method can be neither picked nor missed"
        assert np.isnan(tasks.analytical[:, others]).all()
        assert np.isnan(tasks.pair_features[:, others]).all()
        assert violation_rate(truth.table, np.full(len(tasks), default)) == 0.0
        assert violation_rate(truth.table, np.full(len(tasks), latency)) == 1.0
        assert (log_gains(truth.table)[could, latency] == LOST).all()


def odd_rows(task, oracle, *, repeats, most_methods):
    return stub_rows(task, oracle, repeats=repeats) if is_known(task, oracle) else []


def test_what_is_true_of_a_task_is_what_the_first_world_says_that_knows_it(tmp_path):
    plan = replace(PLAN, worlds=("other@1", "roofline@1"), compared_every=1)
    build(tmp_path, plan, [OddWorld("other"), RooflineWorld()], clock=time.monotonic, measure=odd_rows)
    rows = load_rows(tmp_path, world=OWN).to_pylist()
    assert {(row["task"], row["world"]) for row in rows} == {
        (task.key, "other" if is_known(task, OddWorld()) else "roofline") for task in read_tasks(tmp_path / TASKS)
    }
    truths = load_truth(tmp_path, world=OWN)
    assert sum(len(truth.table) for truth in truths.values()) == 10
    (tmp_path / shards_of(plan)[0].file_name).unlink()
    left = load_rows(tmp_path, world=OWN).column("task").unique().to_pylist()
    assert len(left) == 8, "of tasks whose first world is not built yet nothing is known"


def test_few_tasks_are_taken_evenly(two_worlds):
    for kind, truth in load_truth(two_worlds, world="roofline").items():
        few = load_truth(two_worlds, world="roofline", most_tasks=2)[kind]
        ends = np.unique([0, len(truth.table) - 1]) if len(truth.table) > 2 else np.arange(len(truth.table))
        assert few.table.performance == pytest.approx(truth.table.performance[ends], nan_ok=True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param({}, "rows of the worlds other, roofline: name one", id="several and none is named"),
        pytest.param({"world": "mars"}, "not of mars", id="a world that is not there"),
        pytest.param({"world": "other", "beside": ["mars"]}, "not of mars", id="one beside that is not there"),
    ],
)
def test_worlds_are_never_mixed_or_made_up(two_worlds, asked, message):
    with pytest.raises(InvalidWorkloadError, match=message):
        load_truth(two_worlds, **asked)
