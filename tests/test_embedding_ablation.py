"""Labels here come from a made-up world: they show that the ablation tells embeddings apart, and nothing about vLLM."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Self

import numpy as np
import pytest

from meta_tasks import tasks
from metainf.corpus.task import Task, TrafficKind
from metainf.embeddings.ablation import AblationRow, EmbeddedSelector, ablate, indexed
from metainf.embeddings.contract import Embedding
from metainf.embeddings.embeddings import BasicNumbers, OneHot, TextEmbedding
from metainf.embeddings.encoders import RandomVectors
from metainf.embeddings.texts import TextStyle
from metainf.evaluation.splits import SplitKind, split
from metainf.meta_features.tasks import task_table
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable

TASKS = tasks(TrafficKind.CONCURRENCY)


@lru_cache
def made_up_world() -> MethodTable:
    """Every method as good as the default, but for two: one pays on fast memory, the other on slow."""
    table = task_table(TASKS)
    bandwidth = table.features[:, table.feature_names.index("hw_bandwidth")]
    fast = np.nan_to_num(bandwidth) > np.log(2e12)
    gain = np.zeros(table.feasible.shape)
    gain[:, table.methods.index("throughput")] = np.where(fast, 0.5, -0.5)
    gain[:, table.methods.index("small-token-budget")] = np.where(fast, -0.5, 0.5)
    performance = np.where(table.feasible, 1000.0 * np.exp(gain), np.nan)
    return MethodTable(table, performance, np.full(len(table), 0.02))


class NearestRow:
    """Scores each method as the nearest train task had it, over its default: enough to learn the made-up world."""

    def fit(self, table: MethodTable) -> Self:
        gains = np.log(table.performance / table.performance[:, [table.tasks.default]])
        self.known_ = np.isfinite(gains).any(axis=1)
        self.features_, self.gains_ = table.tasks.features[self.known_], gains[self.known_]
        return self

    def scores(self, tasks: TaskTable) -> FloatArray:
        apart = np.linalg.norm(tasks.features[:, None] - self.features_[None], axis=2)
        found = np.nan_to_num(self.gains_[apart.argmin(axis=1)], nan=-1.0)
        return np.where(tasks.feasible, found, -np.inf)


class Bandwidth:
    """The one number that matters in the made-up world."""

    feature_names = ("bandwidth",)

    def fit(self, tasks: Sequence[Task]) -> Self:
        return self

    def transform(self, tasks: Sequence[Task]) -> FloatArray:
        numbers = BasicNumbers().fit(tasks)
        return numbers.transform(tasks)[:, [numbers.feature_names.index("bandwidth")]]


def rows(embeddings: dict[str, Callable[[int], Embedding]], seeds: Sequence[int] = (0, 1)) -> list[AblationRow]:
    world = made_up_world()
    splits = [split(world.tasks, SplitKind.MODEL, most_folds=3)]
    return list(ablate(TASKS, world, splits, embeddings, lambda seed: NearestRow(), seeds=seeds, clock=lambda: 0.0))


def test_an_embedding_that_knows_what_matters_beats_one_that_does_not() -> None:
    found = rows(
        {
            "bandwidth": lambda seed: Bandwidth(),
            "control": lambda seed: TextEmbedding(TextStyle.RICH, RandomVectors(32, seed), parts=("model",)),
        }
    )
    assert [(row.embedding, row.seed) for row in found] == [
        ("bandwidth", 0),
        ("bandwidth", 1),
        ("control", 0),
        ("control", 1),
    ]
    assert all(row.split == "leave-model-out" for row in found)
    knowing, random = found[:2], found[2:]
    assert [row.columns for row in found] == [1, 1, 32, 32]
    assert min(row.decisive.closed_gap.value for row in knowing) > 0.99
    assert max(row.decisive.closed_gap.value for row in random) < 0.9
    assert all(row.decisive.tasks > 50 and row.every.tasks == len(TASKS) for row in found)


def test_the_same_seed_gives_the_same_figures() -> None:
    embeddings: dict[str, Callable[[int], Embedding]] = {"one-hot": lambda seed: OneHot()}
    assert rows(embeddings, [3]) == rows(embeddings, [3])


def test_embeddings_are_fitted_on_train_tasks_alone() -> None:
    seen: list[set[str]] = []

    class Watched(Bandwidth):
        def fit(self, tasks: Sequence[Task]) -> Self:
            seen.append({task.model for task in tasks})
            return self

    rows({"watched": lambda seed: Watched()}, [0])
    assert len(seen) == 3
    # Each model is held out once, with its family: no fold has seen all of them, and none is seen by every fold.
    assert all(len(models) < len({task.model for task in TASKS}) for models in seen)
    assert not seen[0] & seen[1] & seen[2]


@pytest.mark.parametrize("physics", [True, False])
def test_physics_is_shown_only_where_asked_for(physics: bool) -> None:
    world = made_up_world()
    found = indexed(world, physics=physics)
    assert found.tasks.features[:, 0].tolist() == list(range(len(TASKS)))
    shown = np.nan_to_num(found.tasks.pair_features)
    assert shown.any() is np.bool_(physics)
    assert np.array_equal(found.tasks.feasible, world.tasks.feasible)


def test_a_selector_with_an_embedding_finds_its_tasks_in_any_order() -> None:
    table = indexed(made_up_world(), physics=False)
    fitted = EmbeddedSelector(TASKS, Bandwidth(), NearestRow()).fit(table)
    backwards = np.arange(len(TASKS))[::-1]
    np.testing.assert_array_equal(fitted.scores(table.tasks.rows(backwards)), fitted.scores(table.tasks)[backwards])


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    import embedding_ablation

    yield embedding_ablation
    sys.path.pop(0)


def test_every_embedding_comes_whole_and_reduced(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_ENCODERS", {"static": ("json", lambda: RandomVectors(32))})
    made = benchmark.embeddings((None, 4))
    texts = [f"static {kind}" for kind in ("control", *TextStyle)]
    joined = [f"{numbers} + {text}" for numbers in ("basic", "physics") for text in texts]
    whole = ["one-hot", "basic numbers", "physics numbers", "physics + one-hot", *texts, *joined]
    assert set(made) == {*whole, *(f"{name}, rank 4" for name in whole)}
    for name in ("basic numbers, rank 4", "physics + one-hot, rank 4"):
        assert made[name](0).fit(TASKS).transform(TASKS[:3]).shape == (3, 4)
    assert made["physics + static rich, rank 4"](0).fit(TASKS).feature_names[-1] == "text.E_data_3"
    assert "basic numbers, rank 64" not in benchmark.embeddings((64,))


def test_some_embeddings_are_picked_with_their_controls(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_ENCODERS", {"static": ("json", lambda: RandomVectors(32))})
    found = benchmark.picked(benchmark.embeddings((None, 4)), ["basic + static rich", "physics numbers"])
    both = ("basic + static control", "basic + static rich")
    whole = {*both, "physics numbers"}
    assert set(found) == whole | {f"{name}, rank 4" for name in whole}
