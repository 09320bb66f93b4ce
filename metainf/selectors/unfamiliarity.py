"""Which tasks are too far from all that was learnt from: the guard of a selector, and what reports judge it by.

Separate from the selectors, since a report asks what any of them would gain by it. A task is unfamiliar where its
nearest train task is farther than mean + 2 standard deviations of what train tasks have to tasks of other groups
(models or accelerators, whichever is farther): so far away are groups that are held out. Source of the rule: ISAC.
"""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from metainf.evaluation.groups import accelerator_group, model_groups
from metainf.selectors.contract import BoolArray, FloatArray, TaskTable
from metainf.selectors.scaling import Scaler

__all__ = ["Unfamiliarity", "task_groups"]

StringArray = NDArray[np.str_]

_MOST_POINTS = 2000
_BLOCK = 512
_WIDEST = 5.0  # standard deviations of one feature: further out it is simply new


def task_groups(tasks: TaskTable) -> tuple[StringArray, StringArray]:
    """The group of each task's model, and of its accelerator: what splits hold out whole."""
    families = model_groups(tasks.model.tolist())
    models = np.array([families[each] for each in tasks.model.tolist()], dtype=np.str_)
    devices = np.array([accelerator_group(each) for each in tasks.accelerator.tolist()], dtype=np.str_)
    return models, devices


class Unfamiliarity:
    """Distances to train tasks, and the one beyond which a task is unfamiliar."""

    def fit(self, tasks: TaskTable) -> Self:
        """Keep the train tasks, of many some evenly; with one group of each kind nothing is unfamiliar."""
        kept = np.linspace(0, len(tasks) - 1, min(len(tasks), _MOST_POINTS)).astype(np.intp)
        few = tasks.rows(kept)
        self.scaler_ = Scaler().fit(few.features)
        self.points_ = self._scaled(few.features)
        found = [0.0]
        for groups in task_groups(few):
            away = _nearest(self.points_, self.points_, groups)
            away = away[np.isfinite(away)]
            if len(away):
                found.append(float(away.mean() + 2.0 * away.std()))
        self.farthest_ = max(found) or np.inf
        return self

    def flags(self, tasks: TaskTable) -> BoolArray:
        """Shape (n,): whether each task is unfamiliar."""
        flagged: BoolArray = _nearest(self._scaled(tasks.features), self.points_) > self.farthest_
        return flagged

    def _scaled(self, features: FloatArray) -> FloatArray:
        return np.clip(self.scaler_.transform(features), -_WIDEST, _WIDEST)


def _nearest(rows: FloatArray, points: FloatArray, groups: StringArray | None = None) -> FloatArray:
    """Root mean square difference to the nearest point, shape (n,).

    With the groups of the points, which are the rows then: to the nearest of another group, infinite without any.
    """
    squares = np.square(points).sum(axis=1)
    found = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        apart = np.square(rows[part]).sum(axis=1)[:, None] + squares - 2.0 * rows[part] @ points.T
        if groups is not None:
            apart[groups[part][:, None] == groups] = np.inf
        found[part] = apart.min(axis=1)
    return np.asarray(np.sqrt(np.maximum(found, 0.0) / rows.shape[1]))
