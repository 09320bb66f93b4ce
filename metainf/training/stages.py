"""Trees in two stages: what all methods of a task have in common, then how each differs from that.

Separate from the boosting of one set of trees. Most of what there is to learn of a task is common to its methods: how
fast the accelerator's kernels are, which nobody knows, makes all of them slower alike. Trees that may ask about
everything learn it too, but what methods change puts them into different leaves for it, so that noise in what they have
in common stands between them: every answer gets better and the choice among them worse. So the trees of the first stage
ask only about the model, the accelerator and the traffic, and those of the second learn what is left of a row less the
mean over the methods of its task at that load. After each of these trees the mean of what is left is taken out anew:
taken once, from the few methods that a task may have, a method would seem to differ by a part of what it does.

Closed gap on decisive tasks with models and with accelerators held out, 130 to 240 learnt from, one stage and two:
closed loops .62 and .63, .72 and .75; batches .68 and .64, .78 and .69; rates .51 and .50, .50 and .50.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.predictors.base_answers import KNOTS
from metainf.predictors.inputs import SHARED
from metainf.predictors.trees import ObliviousTrees
from metainf.training.boosting import Growth, KnotRows, boosted
from metainf.training.groups import Groups

__all__ = ["STAGES", "Staged", "grown_in_stages"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

STAGES = 2
"""What is shared, and what is a method's own."""


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """The trees of both stages; what is said of a lane is the sum of what they say."""

    shared: ObliviousTrees
    own: ObliviousTrees

    def at_knots(self, rows: FloatArray) -> FloatArray:
        """What each stage says of n rows at the knots, shape (STAGES, n, knots, targets)."""
        return np.stack([self.shared.at_knots(rows), self.own.at_knots(rows)])

    def trusted(self, trust: FloatArray) -> ObliviousTrees:
        """Trees that say the sum, each stage and target as far as it is trusted: `trust` is (STAGES, targets)."""
        first, second = (
            replace(each, leaves=(each.leaves * share).astype(np.float32), bias=each.bias * share)
            for each, share in zip((self.shared, self.own), trust, strict=True)
        )
        return replace(
            first,
            feature=np.concatenate([first.feature, second.feature]),
            border=np.concatenate([first.border, second.border]),
            leaves=np.concatenate([first.leaves, second.leaves]),
            bias=first.bias + second.bias,
        )


def grown_in_stages(
    inputs: FloatArray,
    task: IntArray,
    coordinate: FloatArray,
    residual: FloatArray,
    weight: FloatArray,
    growth: Growth,
    *,
    seed: int,
    lane: IntArray,
) -> Staged:
    """Trees that say the residuals of n rows about m lanes, `growth.trees` in both stages together.

    Parameters
    ----------
    inputs : array of shape (m, d)
    task : array of shape (m,)
        A number for each task: its methods' lanes have it in common.
    coordinate : array of shape (n,)
    residual : array of shape (n, targets), NaN where nothing is known
    weight : array of shape (n,)
    lane : array of shape (n,)
        The row of `inputs` that belongs to each.
    """
    draw = np.random.default_rng(seed)
    rows = KnotRows.of(inputs, coordinate, residual, weight, growth, lane=lane)
    count = round(growth.trees * growth.shared_ratio)
    shared = boosted(rows, replace(growth, trees=count), draw, columns=SHARED)
    assert rows.knot is not None, "there is a coordinate"
    groups = Groups(task[lane[rows.row]] * KNOTS + rows.knot, rows.known, rows.weight)
    own = boosted(
        rows.about(groups.centred(rows.left)), replace(growth, trees=growth.trees - count), draw, within=groups
    )
    return Staged(shared, own)
