"""Small tables of tasks with their truth, and selectors with known behaviour, for the tests of the evaluation."""

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from metainf.selectors.contract import FloatArray, MethodTable, Selector, TaskTable

MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-8B",
    "google/gemma-2-9b-it",
    "microsoft/phi-4",
    "openai/gpt-oss-20b",
)
ACCELERATORS = ("H100-SXM-80GB", "H200-SXM-141GB", "A100-SXM-80GB", "L40S-PCIe-48GB", "B200-SXM-180GB")


def method_table(
    performance: ArrayLike,
    *,
    tolerance: float | Sequence[float] = 0.02,
    complexity: Sequence[float] | None = None,
    feasible: ArrayLike | None = None,
    features: ArrayLike | None = None,
    model: Sequence[str] | None = None,
    accelerator: Sequence[str] | None = None,
    workload: Sequence[str] | None = None,
) -> MethodTable:
    truth = np.asarray(performance, dtype=np.float64)
    n, m = truth.shape
    allowed = np.ones((n, m), dtype=bool) if feasible is None else np.asarray(feasible, dtype=bool)
    values = np.arange(n, dtype=float)[:, None] if features is None else np.asarray(features, dtype=np.float64)
    tasks = TaskTable(
        features=values,
        feature_names=tuple(f"feature_{place}" for place in range(values.shape[1])),
        methods=("default", *(f"method-{place}" for place in range(1, m))),
        method_features=np.eye(m),
        pair_features=np.where(allowed, 1.0, np.nan)[:, :, None],
        pair_feature_names=("physics",),
        analytical=np.where(allowed, 0.0, np.nan),
        feasible=allowed,
        complexity=np.arange(m, dtype=float) if complexity is None else np.asarray(complexity, dtype=np.float64),
        default=0,
        model=np.array(model or [MODELS[i % len(MODELS)] for i in range(n)], dtype=np.str_),
        accelerator=np.array(accelerator or [ACCELERATORS[i % len(ACCELERATORS)] for i in range(n)], dtype=np.str_),
        workload=np.array(workload or [f"workload-{i % 7}" for i in range(n)], dtype=np.str_),
    )
    spread = np.broadcast_to(np.asarray(tolerance, dtype=np.float64), (n,)).copy()
    return MethodTable(tasks, truth, spread)


def learnable_table(tasks: int, seed: int = 0, methods: int = 4) -> MethodTable:
    """The first feature decides which method is best, by half; the others are noise."""
    rng = np.random.default_rng(seed)
    features = rng.uniform(size=(tasks, 3))
    best = np.minimum((features[:, 0] * methods).astype(int), methods - 1)
    gain = rng.normal(0.0, 0.03, size=(tasks, methods)) + 0.5 * (best[:, None] == np.arange(methods))
    gain[:, 0] -= 0.1
    base = rng.lognormal(3.0, 1.0, size=tasks)
    return method_table(
        base[:, None] * np.exp(gain),
        features=features,
        model=rng.choice(MODELS, tasks).tolist(),
        accelerator=rng.choice(ACCELERATORS, tasks).tolist(),
        workload=[f"workload-{i}" for i in rng.integers(0, 40, tasks)],
    )


class NearestTasks:
    """Mean gain of the five nearest train tasks by the features alone."""

    def fit(self, table: MethodTable) -> Self:
        self.features_ = table.tasks.features
        with np.errstate(invalid="ignore", divide="ignore"):
            self.gains_ = np.log(table.performance / table.performance[:, [table.tasks.default]])
        return self

    def scores(self, tasks: TaskTable) -> FloatArray:
        distance = ((tasks.features[:, None, :] - self.features_[None, :, :]) ** 2).sum(axis=2)
        near = np.argsort(distance, axis=1, kind="stable")[:, :5]
        return np.where(tasks.feasible, np.nan_to_num(self.gains_[near]).mean(axis=1), -np.inf)


class AlwaysDefault:
    """Scores the default 1 and all else 0."""

    def fit(self, table: MethodTable) -> Self:
        return self

    def scores(self, tasks: TaskTable) -> FloatArray:
        scores = np.where(np.arange(len(tasks.methods)) == tasks.default, 1.0, 0.0)
        return np.where(tasks.feasible, scores[None, :], -np.inf)


class Broken:
    """Cannot be fitted."""

    def fit(self, table: MethodTable) -> Self:
        raise ValueError("the matrix is singular")

    def scores(self, tasks: TaskTable) -> FloatArray:
        raise AssertionError


class KilledError(Exception):
    """In place of a kill."""


class Counted:
    """Makes selectors, says what they are, counts how often they are fitted, and is killed in one fit if asked to."""

    def __init__(
        self,
        identity: str = "nearest",
        make: Callable[[], Selector] = NearestTasks,
        *,
        killed_at: int | None = None,
    ) -> None:
        self.identity = identity
        self.make = make
        self.killed_at = killed_at
        self.fits = 0

    def __call__(self) -> "CountedFit":
        return CountedFit(self)


class CountedFit:
    """One of them."""

    def __init__(self, maker: Counted) -> None:
        self.maker = maker
        self.selector = maker.make()

    def fit(self, table: MethodTable) -> Self:
        self.maker.fits += 1
        if self.maker.fits == self.maker.killed_at:
            raise KilledError
        self.selector.fit(table)
        return self

    def scores(self, tasks: TaskTable) -> FloatArray:
        return self.selector.scores(tasks)
