"""Whether an evaluation leaks: with shuffled truth, or with ids alone, nobody may win.

Separate from the spoilt tables that this feeds to a selector (`leaks`), and from the studies, which explain a selector:
this one judges the evaluation itself. A leak would be in how groups are held out and what is fitted on whose rows,
which is the same in every fold: so the first folds of the splits that hold models or accelerators out are enough, where
a selector has to be fitted four times more for each. On a random split ids alone may well win, which is what is wrong
with it.

Shuffled labels still tell which method is best on average, and facts which methods a task can run. Choosing by these
two alone beats the single best, which facts often forbid: by .41 of the gap on rates over measured kernels. So shuffled
labels are held against that choice, and the closed gap that is told beside it is not 0 where nothing leaks.
"""

from collections.abc import Sequence
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
from metainf.selectors.single_best import BestOnAverage

__all__ = ["CHECKED_SPLITS", "LeakCheck", "leak_checks"]

CHECKED_SPLITS = (SplitKind.MODEL, SplitKind.ACCELERATOR)
_MOST_FOLDS = 4
_SHUFFLES = 3
"""Of labels: one alone is lucky or not by more than draws of groups tell."""

_SHUFFLED = "shuffled labels are no better than what can run and is best on average"
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
    """Whether shuffled labels fall to no better than the best on average, and whether ids alone fail to win.

    Only what is so beyond its interval counts: among noise half of all closed gaps are above 0, and ids that say as
    much as features are as often above as below these. Where there are too few groups for an interval the value counts.
    `whole` is the selector's honest outcome on the split where that is known. No more than the first `most_folds` are
    looked at. `fits` is as `run_selector` takes it.
    """
    split = replace(split, folds=split.folds[:most_folds])
    known_outcome = _part(whole, split) if whole else run_selector("", make, evidence, split, clock=clock, fits=fits)
    honest = _judged(known_outcome, evidence, split)
    known = (evidence.table.tasks, evidence.lessons.tasks)

    def learnt(told: Evidence) -> JudgedTasks:
        return _judged(run_selector("", make, told, split, clock=clock, fits=fits), evidence, split)

    def by_luck(draw: int) -> JudgedTasks:
        return learnt(evidence.changed(lambda table: with_shuffled_labels(without_physics(table), draw)))

    by_chance = [by_luck(seed * _SHUFFLES + number) for number in range(_SHUFFLES)]
    by_ids = learnt(evidence.changed(lambda table: with_ids_only(table, known)))
    # Means: sooner made than kept.
    on_average = _judged(run_selector("", BestOnAverage, evidence, split, clock=clock), evidence, split)
    labels = "shuffled labels", "the best on average"
    return (
        _beside(_SHUFFLED, by_chance, on_average, labels, split),
        _beside(_IDS, [by_ids], honest, ("ids alone", "features"), split),
    )


def _part(whole: Outcome, split: Split) -> Outcome:
    """The outcome on the first folds, which are the split's."""
    count = sum(len(fold.test) for fold in split.folds)
    arrays = ("judged", "chosen", "single", "classes")
    return replace(whole, scores=None, **{name: getattr(whole, name)[:count] for name in arrays})


def _judged(outcome: Outcome, truth: Evidence, split: Split) -> JudgedTasks:
    """Choices that were learnt from whatever, judged by the truth, single best included."""
    single = reference_outcomes(truth, split)[0].single
    return judged_tasks(truth, replace(outcome, single=single))


def _beside(
    name: str, runs: Sequence[JudgedTasks], other: JudgedTasks, labels: tuple[str, str], split: Split
) -> LeakCheck:
    """Whether runs are, on average, not surely better than another choice; `labels` say what either knew."""
    for each in (*runs, other):
        if each.outcome.failure:
            return _not_run(name, each, split)
    gain = np.mean([each.gain for each in runs], axis=0)
    try:
        beside = paired_comparison(gain, other.gain, group_draws(split, other)).difference
    except UndefinedMetricError as error:
        return LeakCheck(split.kind, name, False, f"could not be run: {error}")
    better = beside.low > 0.0 if np.isfinite(beside.low) else beside.value > 0.0
    own, others = (float(np.mean([_gap(each, split) for each in some])) for some in (runs, [other]))
    note = (
        f"log(P / P[default]) of {labels[0]} less that of {labels[1]} {beside.value:.3f}{_ends(beside)}"
        f"{_unsure(beside)}; closed gap {own:.2f} with {labels[0]}, {others:.2f} with {labels[1]}"
    )
    return LeakCheck(split.kind, name, not better, note)


def _not_run(name: str, judged: JudgedTasks, split: Split) -> LeakCheck:
    return LeakCheck(split.kind, name, False, f"could not be run: {judged.outcome.failure}")


def _gap(judged: JudgedTasks, split: Split) -> float:
    # All tasks, not the decisive ones: on those anything but the default does better by their definition.
    everything = np.ones(len(judged.gain), dtype=np.bool_)
    return figures_of(judged, everything, group_draws(split, judged)).closed_gap.value


def _unsure(interval: Interval) -> str:
    """A remark where a check holds for want of groups."""
    inside = np.isfinite(interval.low) and interval.low <= 0.0 <= interval.high
    return ", which these groups do not tell from 0" if inside else ""


def _ends(interval: Interval) -> str:
    return f" ({interval.low:.3f} to {interval.high:.3f})" if np.isfinite(interval.low) else ""
