"""How long each selector takes to learn and to score: 5,000 tasks, 20 methods, 60 features, seconds of one core.

Separate from the tests, which hold the selectors to their contract on small tables: the full size takes minutes.
Time of the processor, not of the clock, so that what else the machine does counts little.

    python -m benchmarks.selector_speed [--tasks 5000] [--only NAME ...]
"""

import argparse
import os
import time

import numpy as np

from metainf.selectors.catalogue import SELECTORS
from metainf.selectors.contract import MethodTable, TaskTable

_METHODS, _FEATURES, _PAIR_FEATURES, _ATTRIBUTES = 20, 60, 10, 15


def table_of(n: int, seed: int = 0) -> MethodTable:
    """Tasks on which gains are smooth in some features, a tenth infeasible, 2 % noise."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(n, _FEATURES))
    weights = draw.normal(size=(8, _METHODS)) / 8.0
    gains = np.tanh(features[:, :8] @ weights) + 0.2 * np.tanh(features[:, 8:28] * features[:, 28:48])
    gains[:, 0] = 0.0
    feasible = draw.random((n, _METHODS)) > 0.1
    feasible[:, 0] = True
    level = draw.normal(5.0, 2.0, (n, 1))
    analytical = np.where(feasible, 0.5 * gains + level + 0.1 * draw.normal(size=gains.shape), np.nan)
    pair_features = np.where(feasible[:, :, None], draw.normal(size=(n, _METHODS, _PAIR_FEATURES)), np.nan)
    tasks = TaskTable(
        features=features,
        feature_names=tuple(f"feature_{d}" for d in range(_FEATURES)),
        methods=tuple(f"method-{a:02d}" for a in range(_METHODS)),
        method_features=draw.normal(size=(_METHODS, _ATTRIBUTES)),
        pair_features=pair_features,
        pair_feature_names=tuple(f"pair_{q}" for q in range(_PAIR_FEATURES)),
        analytical=analytical,
        feasible=feasible,
        complexity=np.arange(_METHODS, dtype=np.float64),
        default=0,
        model=np.array([f"model-{i % 60}" for i in range(n)]),
        accelerator=np.array([f"accelerator-{i % 20}" for i in range(n)]),
        workload=np.array([f"workload-{i}" for i in range(n)]),
    )
    performance = np.exp(gains + level + 0.02 * draw.normal(size=gains.shape))
    return MethodTable(tasks, np.where(feasible, performance, np.nan), np.full(n, 0.04))


def main() -> None:
    """Print a row for each selector."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--only", nargs="*", choices=list(SELECTORS), default=list(SELECTORS))
    chosen = parser.parse_args()
    train, test = table_of(chosen.tasks), table_of(chosen.tasks, seed=1)
    print(
        f"{chosen.tasks} tasks x {_METHODS} methods x {_FEATURES} features, seconds of one core (of {os.cpu_count()})"
    )
    print(f"{'selector':<30} {'fit, s':>9} {'scores, s':>10}")
    for name in chosen.only:
        try:
            selector = SELECTORS[name]()
            start = time.process_time()
            selector.fit(train)
            fitted = time.process_time()
            selector.scores(test.tasks)
        except (ImportError, ValueError) as exc:
            print(f"{name:<30} not timed: {exc}", flush=True)
            continue
        print(f"{name:<30} {fitted - start:>9.2f} {time.process_time() - fitted:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
