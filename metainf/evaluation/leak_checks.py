"""Whether an evaluation leaks: with shuffled truth, or with ids alone, nobody may win.

Separate from the spoilt tables that this feeds to a selector (`leaks`), and from the studies, which explain a selector:
this one judges the evaluation itself. A leak would be in how groups are held out and what is fitted on whose rows,
which is the same in every fold: so the first folds of the splits that hold models or accelerators out are enough, where
a selector has to be fitted twice more for each. On a random split ids alone may well win, which is what is wrong with
it.
"""

from dataclasses import dataclass, replace

import numpy as np

from metainf.errors import UndefinedMetricError
from metainf.evaluation.bootstrap import Interval, paired_comparison
from metainf.evaluation.figures import JudgedTasks, figures_of, judged_tasks
from metainf.evaluation.fits import Fits
from metainf.evaluation.leaks import with_ids_only, with_shuffled_labels, without_physics
from metainf.evaluation.outcomes import Clock, Evidence, Outcome, SelectorFactory, reference_outcomes, run_selector
from metainf.evaluation.splits import Split, SplitKind
from metainf.evaluation.studies import group_draws

__all__ = ["CHECKED_SPLITS", "LeakCheck", "leak_checks"]

CHECKED_SPLITS = (SplitKind.MODEL, SplitKind.ACCELERATOR)
_MOST_FOLDS = 4

_SHUFFLED = "shuffled labels are no better than the single best"
_IDS = "ids alone do not win"


@dataclass(frozen=True, slots=True)
class LeakCheck:
    """What must not happen on a split. `passed` as the check's name says; `note` has the numbers.

    A check that could not be run has not passed.
    """

    split: SplitKind
    name: str
    passed: bool
    note: str


def leak_checks(
    make: SelectorFactory,
    evidence: Evidence,
    split: Split,
    *,
    clock: Clock,
    seed: int = 0,
    whole: Outcome | None = None,
    most_folds: int = _MOST_FOLDS,
    fits: Fits | None = None,
) -> tuple[LeakCheck, LeakCheck]:
    """Whether shuffled labels fall to no better than the single best, and whether ids alone fail to win.

    Only what is so beyond its interval counts: among noise half of all closed gaps are above 0, and ids that say as
    much as features are as often above as below these. Where there are too few groups for an interval the value counts.
    `whole` is the selector's honest outcome on the split where that is known. No more than the first `most_folds` are
    looked at. `fits` is as `run_selector` takes it.
    """
    split = replace(split, folds=split.folds[:most_folds])
    known_outcome = _part(whole, split) if whole else run_selector("", make, evidence, split, clock=clock, fits=fits)
    honest = _judged(known_outcome, evidence, split)
    shuffled = evidence.changed(lambda table: with_shuffled_labels(without_physics(table), seed))
    known = (evidence.table.tasks, evidence.lessons.tasks)
    bare = evidence.changed(lambda table: with_ids_only(table, known))
    by_chance, by_ids = (
        _judged(run_selector("", make, spoilt, split, clock=clock, fits=fits), evidence, split)
        for spoilt in (shuffled, bare)
    )
    return _chance_check(by_chance, split), _ids_check(by_ids, honest, split)


def _part(whole: Outcome, split: Split) -> Outcome:
    """The outcome on the first folds, which are the split's."""
    count = sum(len(fold.test) for fold in split.folds)
    arrays = ("judged", "chosen", "single", "classes")
    return replace(whole, scores=None, **{name: getattr(whole, name)[:count] for name in arrays})


def _judged(outcome: Outcome, truth: Evidence, split: Split) -> JudgedTasks:
    """Choices that were learnt from whatever, judged by the truth, single best included."""
    single = reference_outcomes(truth, split)[0].single
    return judged_tasks(truth, replace(outcome, single=single))


def _chance_check(shuffled: JudgedTasks, split: Split) -> LeakCheck:
    if shuffled.outcome.failure:
        return _not_run(_SHUFFLED, shuffled, split)
    gap = _gap(shuffled, split)
    better = gap.low > 0.0 if np.isfinite(gap.low) else gap.value > 0.0
    note = f"closed gap {gap.value:.2f}{_ends(gap)} with shuffled labels{_unsure(gap)}"
    return LeakCheck(split.kind, _SHUFFLED, not better, note)


def _ids_check(ids: JudgedTasks, honest: JudgedTasks, split: Split) -> LeakCheck:
    for each in (ids, honest):
        if each.outcome.failure:
            return _not_run(_IDS, each, split)
    try:
        beside = paired_comparison(ids.gain, honest.gain, group_draws(split, honest)).difference
    except UndefinedMetricError as error:
        return LeakCheck(split.kind, _IDS, False, f"could not be run: {error}")
    wins = beside.low > 0.0 if np.isfinite(beside.low) else beside.value > 0.0
    told = f"{_ends(beside, 3)}{_unsure(beside)}"
    note = (
        f"log(P / P[default]) of ids alone less that of features {beside.value:.3f}{told}; closed gap "
        f"{_gap(ids, split).value:.2f} with ids alone, {_gap(honest, split).value:.2f} with features"
    )
    return LeakCheck(split.kind, _IDS, not wins, note)


def _not_run(name: str, judged: JudgedTasks, split: Split) -> LeakCheck:
    return LeakCheck(split.kind, name, False, f"could not be run: {judged.outcome.failure}")


def _gap(judged: JudgedTasks, split: Split) -> Interval:
    # All tasks, not the decisive ones: on those anything but the default does better by their definition.
    everything = np.ones(len(judged.gain), dtype=np.bool_)
    return figures_of(judged, everything, group_draws(split, judged)).closed_gap


def _unsure(interval: Interval) -> str:
    """A remark where a check holds for want of groups."""
    inside = np.isfinite(interval.low) and interval.low <= 0.0 <= interval.high
    return ", which these groups do not tell from 0" if inside else ""


def _ends(interval: Interval, digits: int = 2) -> str:
    return f" ({interval.low:.{digits}f} to {interval.high:.{digits}f})" if np.isfinite(interval.low) else ""
