"""What an out-of-distribution guard would do to each selector: regret with and without it.

Separate from the selectors, of which one has such a guard of its own, and from the figures: here the same choices are
judged three times, as they are and with unfamiliar tasks given to physics alone, or left at the default.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.evaluation import metrics
from metainf.evaluation.bootstrap import GroupDraws, Interval, interval_of_sums
from metainf.evaluation.figures import JudgedTasks
from metainf.evaluation.outcomes import Evidence
from metainf.evaluation.splits import Split
from metainf.selectors.contract import BoolArray, FloatArray, choose
from metainf.selectors.unfamiliarity import Unfamiliarity

__all__ = ["GuardFigures", "guard_figures", "unfamiliar_tasks"]

IntArray = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class GuardFigures:
    """Mean regret of one selector: on all tasks of a split, and on those alone at which the guard fires."""

    selector: str
    without: Interval
    to_physics: Interval
    to_default: Interval
    flagged_without: Interval
    flagged_to_physics: Interval
    flagged_to_default: Interval


def unfamiliar_tasks(evidence: Evidence, split: Split) -> BoolArray:
    """Shape (k,): at which held-out tasks the guard fires, in the order of the folds; fitted on their train halves."""
    found = []
    for fold in split.folds:
        guard = Unfamiliarity().fit(evidence.lessons.rows(fold.train).tasks)
        found.append(guard.flags(evidence.table.rows(fold.test).tasks))
    flagged: BoolArray = np.concatenate(found) if found else np.zeros(0, dtype=np.bool_)
    return flagged


def guard_figures(judged: Mapping[str, JudgedTasks], flagged: BoolArray, draws: GroupDraws) -> tuple[GuardFigures, ...]:
    """Of every selector that has choices; `draws` are those of the split."""
    found = []
    for name, each in judged.items():
        if each.outcome.failure:
            continue
        tasks = each.evidence.table.tasks
        physics = choose(tasks, np.where(tasks.feasible, np.nan_to_num(tasks.analytical, nan=-np.inf), -np.inf))
        default = np.full(len(flagged), tasks.default, dtype=np.intp)
        guarded = [_lost(each, np.where(flagged, other, each.outcome.chosen)) for other in (physics, default)]
        everywhere, there = [each.lost, *guarded], np.ones(len(flagged), dtype=np.bool_)
        found.append(
            GuardFigures(
                name,
                *(_mean(values, there, draws) for values in everywhere),
                *(_mean(values, flagged, draws) for values in everywhere),
            )
        )
    return tuple(found)


def _lost(judged: JudgedTasks, chosen: IntArray) -> FloatArray:
    return metrics.relative_regret(judged.evidence.table, chosen, judged.evidence.broken)


def _mean(values: FloatArray, counted: BoolArray, draws: GroupDraws) -> Interval:
    known = counted & np.isfinite(values)

    def mean(sums: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums[..., 0] / sums[..., 1])

    return interval_of_sums(np.stack([np.where(known, values, 0.0), known.astype(np.float64)], axis=1), mean, draws)
