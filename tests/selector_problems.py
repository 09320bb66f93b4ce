"""Tables of tasks with a known truth, for the tests of the selectors."""

from dataclasses import fields, replace
from functools import cache

import numpy as np

from distorted_corpus import corpus
from metainf.selectors.catalogue import SELECTORS
from metainf.selectors.contract import FloatArray, MethodTable, Selector, TaskTable
from metainf.selectors.shipped import Lessons

METHODS = ("default", "throughput", "ngram", "fp8-kv", "latency", "mtp")
RULE_FEATURES = (
    "load_is_rate",
    "load_is_batch",
    "load_requests",
    "hw_fp8_speedup",
    "repetitiveness",
    "input_tokens_mean",
    "input_tokens_log_sd",
    "kv_pressure",
    "prefix_pressure",
    "prefix_token_share",
)
SMALL: dict[str, dict[str, object]] = {
    "isac": {"restarts": 2, "smallest_cluster": 5},
    "alors": {"trees": 20, "rank": 4},
    "alors-ranks": {"trees": 20, "rank": 4},
    "random-forest-classifier": {"trees": 20},
    "random-forest-regressor": {"trees": 20},
    "gradient-boosting-classifier": {"trees": 15, "smallest_leaf": 5},
    "gradient-boosting-regressor": {"trees": 25, "smallest_leaf": 5},
    "satzilla": {"trees": 9},
    "network": {"epochs": 60, "learning_rate": 5e-3},
    "metainf-regression": {"trees": 40, "leaves": 15, "learning_rate": 0.2, "smallest_leaf": 5},
    "metainf-forest": {"trees": 20},
    "metainf-two-part": {"trees": 40, "leaves": 15, "learning_rate": 0.2, "smallest_leaf": 5},
    "metainf-pairwise": {"trees": 40, "leaves": 15, "smallest_leaf": 5},
    "metainf-ranking": {"trees": 40, "leaves": 15, "learning_rate": 0.2, "smallest_leaf": 5},
    "metainf": {"trees": 5, "folds": 2},
}
SMALL["metainf-ensemble"] = {
    "trees": 40,
    "leaves": 15,
    "learning_rate": 0.2,
    "smallest_leaf": 5,
    "forest_trees": 20,
    "pair_trees": 40,
}


def small(name: str, random_state: int = 0, **parameters: object) -> Selector:
    """A selector of the catalogue with parameters that fit in a moment, and with rows where it learns from these."""
    entry = SELECTORS[name]
    rows = {"corpus": lessons()} if entry.from_rows else {}
    return entry(random_state, **{**SMALL.get(name, {}), **rows, **parameters})


@cache
def lessons() -> Lessons:
    """Rows about some seventy tasks of all kinds of traffic."""
    table, tasks = corpus(2)
    return Lessons(table, {task.key: task for task in tasks})


def named(table: MethodTable) -> MethodTable:
    """The same table under the names of the tasks of `lessons`, in turns."""
    names = list(lessons().tasks)
    keys = np.array([names[row % len(names)] for row in range(len(table))])
    return locked(replace(table, tasks=replace(table.tasks, keys=keys)))


def problem(n: int = 300, seed: int = 0, *, holes: float = 0.0, noise: float = 0.0) -> MethodTable:
    """Tasks on which features decide: each method but the default gains half of a feature of its own.

    `holes` is the share of infeasible and as much again of feasible ones that did not run; `noise` the deviation of
    the log of what is measured. The analytical predictor sees a third of the gain.
    """
    draw = np.random.default_rng(seed)
    m = len(METHODS)
    causes = draw.uniform(-1.0, 1.0, (n, m - 1))
    level = draw.normal(5.0, 2.0, (n, 1))
    rules = draw.uniform(0.0, 1.0, (n, len(RULE_FEATURES)))
    gains = np.hstack([np.zeros((n, 1)), 0.5 * causes])
    feasible = draw.random((n, m)) >= holes
    feasible[~feasible.any(axis=1), 0] = True
    ran = feasible & (draw.random((n, m)) >= holes)
    ran[~ran.any(axis=1)] = feasible[~ran.any(axis=1)]
    analytical = np.where(feasible, gains / 3.0 + level, np.nan)
    tasks = TaskTable(
        features=np.hstack([causes, level, rules]),
        feature_names=(*(f"cause_{a}" for a in range(1, m)), "level", *RULE_FEATURES),
        methods=METHODS,
        method_features=np.eye(m),
        pair_features=np.where(feasible, gains / 3.0, np.nan)[:, :, None],
        pair_feature_names=("third",),
        analytical=analytical,
        feasible=feasible,
        complexity=np.arange(m, dtype=np.float64),
        default=0,
        model=np.array([f"model-{i % 7}" for i in range(n)]),
        accelerator=np.array([f"accelerator-{i % 5}" for i in range(n)]),
        workload=np.array([f"workload-{i}" for i in range(n)]),
    )
    performance = np.exp(gains + level + noise * draw.normal(size=(n, m)))
    return locked(MethodTable(tasks, np.where(ran, performance, np.nan), np.full(n, 0.02)))


def halves(table: MethodTable) -> tuple[MethodTable, MethodTable]:
    """The first two thirds and the rest."""
    cut = 2 * len(table) // 3
    return table.rows(np.arange(cut)), table.rows(np.arange(cut, len(table)))


def shuffled(table: MethodTable, seed: int = 0) -> MethodTable:
    """The same tasks with each other's truth."""
    return replace(table, performance=table.performance[np.random.default_rng(seed).permutation(len(table))])


def permuted(table: MethodTable, order: FloatArray) -> MethodTable:
    """The same table with its methods in another order."""
    tasks = table.tasks
    swapped = replace(
        tasks,
        methods=tuple(tasks.methods[a] for a in order),
        method_features=tasks.method_features[order],
        pair_features=tasks.pair_features[:, order],
        analytical=tasks.analytical[:, order],
        feasible=tasks.feasible[:, order],
        complexity=tasks.complexity[order],
        default=int(np.flatnonzero(order == tasks.default)[0]),
    )
    return replace(table, tasks=swapped, performance=table.performance[:, order])


def locked(table: MethodTable) -> MethodTable:
    """The same table, whose arrays nobody can write to."""
    for holder in (table, table.tasks):
        for field in fields(holder):
            value = getattr(holder, field.name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
    return table
