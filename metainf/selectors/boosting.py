"""Boosted trees as all learners here train them: one thread, one seed, the same to the bit each time.

Separate so that only this module calls LightGBM's training, and its switches for determinism are in one place.

Leaves follow the rows. LightGBM's 20 rows of a smallest leaf are for many: a pair of methods that ran both on 35 tasks
can then not be split even once, and says the same of every task.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import lightgbm
import numpy as np
from numpy.typing import NDArray

from metainf.selectors.contract import FloatArray

__all__ = ["FEW_BINS", "Boosting", "leaf_size", "raw_scores"]

IntArray = NDArray[np.intp]

FEW_BINS = 63
"""Of a column, in place of LightGBM's 255: a third of the time, and gains of duels within 0.002
(benchmarks/selector_speed, 1,400 tasks)."""

_LEAF_SHARE = 1 / 50  # of all rows: assumed, so that LightGBM's own 20 are reached with a thousand
_LEAST_LEAF, _MOST_LEAF = 3, 20


def leaf_size(rows: int) -> int:
    """Rows of the smallest leaf where there are so many: a fiftieth of them, from 3 to LightGBM's 20."""
    return max(_LEAST_LEAF, min(_MOST_LEAF, int(rows * _LEAF_SHARE)))


@dataclass(frozen=True, slots=True)
class Boosting:
    """How trees are grown; `extra` goes to LightGBM as it is. Without a smallest leaf it is that of `leaf_size`."""

    trees: int
    leaves: int
    learning_rate: float
    smallest_leaf: int | None
    random_state: int
    extra: Mapping[str, object] = field(default_factory=dict)

    def train(
        self,
        inputs: FloatArray,
        target: FloatArray | IntArray,
        *,
        objective: str,
        weight: FloatArray | None = None,
        group: IntArray | None = None,
    ) -> lightgbm.Booster:
        """A booster over `inputs`, shape (rows, columns), NaN allowed; `group` holds rows per group, in order."""
        parameters = {
            "objective": objective,
            "num_leaves": self.leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": leaf_size(len(target)) if self.smallest_leaf is None else self.smallest_leaf,
            "seed": self.random_state,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "feature_pre_filter": False,
            "verbosity": -1,
            **self.extra,
        }
        rows = lightgbm.Dataset(inputs, label=target, weight=weight, group=group, params=parameters)
        return lightgbm.train(parameters, rows, num_boost_round=self.trees)


def raw_scores(booster: lightgbm.Booster, inputs: FloatArray) -> FloatArray:
    """What the trees add up to, before any link: shape (rows,), or (rows, classes)."""
    return np.asarray(booster.predict(inputs, raw_score=True, num_threads=1), dtype=np.float64)
