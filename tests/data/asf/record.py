"""Records what asf 0.1.8 says of a problem that it is right about, into answers.json beside this file.

    python -m venv /tmp/asf && /tmp/asf/bin/pip install asf==0.1.8 pyarrow numba
    PYTHONPATH=.:tests /tmp/asf/bin/python tests/data/asf/record.py

Separate from the tests, which read the answers: no extra has asf, a second library of selectors for two comparisons.
Its forests are those of scikit-learn, ours are our own, so what is compared is the votes of pairs and the regressions
of methods. Its ISAC is wrong (never more than two clusters) and is not recorded.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from asf.preprocessing.performance_scaling import DummyNormalization
from asf.selectors import PairwiseClassifier, PerformanceModel
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from metainf.selectors.contract import MethodTable
from metainf.selectors.scaling import Scaler
from metainf.selectors.targets import log_gains
from selector_problems import halves, problem

TASKS, SEED, TREES = 240, 4, 200
ANSWERS = Path(__file__).with_name("answers.json")


def in_fitted_order(table: MethodTable) -> tuple[MethodTable, list[str], np.ndarray]:
    """Rows and methods as our selectors sort them, so that forests draw from the same rows."""
    table = table.rows(np.argsort(table.tasks.features[:, -1]))
    order = np.argsort(table.tasks.methods)
    return table, [table.tasks.methods[column] for column in order], order


def record() -> None:
    """Fit both on the first two thirds of the tasks, ask about the rest, and write what they say."""
    train, test = halves(problem(TASKS, seed=SEED))
    train, names, order = in_fitted_order(train)
    scaler = Scaler().fit(train.tasks.features)
    columns = [f"feature {column}" for column in range(train.tasks.features.shape[1])]
    features = pd.DataFrame(scaler.transform(train.tasks.features), columns=columns)
    gains = pd.DataFrame(log_gains(train)[:, order], columns=names)
    asked = pd.DataFrame(scaler.transform(test.tasks.features), columns=columns)
    pairwise = PairwiseClassifier(
        estimator=RandomForestClassifier(TREES, max_features="log2", random_state=0), maximize=True, random_state=0
    )
    regressions = PerformanceModel(
        estimator=RandomForestRegressor(TREES, max_features=1 / 3, random_state=0),
        normalize=DummyNormalization(),
        maximize=True,
        random_state=0,
    )
    pairwise.fit(features, gains)
    regressions.fit(features, gains)
    document = {
        "versions": {name: version(name) for name in ("asf", "numpy", "pandas", "scikit-learn")},
        "problem": {"tasks": TASKS, "seed": SEED},
        "trees": TREES,
        "methods": names,
        "first_task": test.tasks.features[0].round(6).tolist(),
        "votes": pairwise.generate_features(asked)[names].to_numpy().tolist(),
        "gains": regressions.generate_features(asked)[names].to_numpy().round(6).tolist(),
    }
    ANSWERS.write_text(json.dumps(document) + "\n", encoding="utf-8")
    print(f"{ANSWERS}: {len(asked)} tasks, {len(names)} methods, asf {document['versions']['asf']}")


if __name__ == "__main__":
    record()
