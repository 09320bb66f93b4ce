"""Why a selector does as it does: learning curves, importance of features, worst failures.

Separate from the outcomes, which are the figures themselves: each study fits one selector several times, so a report
asks for them by name and for few selectors.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from metainf.evaluation import metrics
from metainf.evaluation.bootstrap import GroupDraws, Interval
from metainf.evaluation.figures import JudgedTasks, figures_of, judged_tasks
from metainf.evaluation.fits import Fits
from metainf.evaluation.fold_outcomes import Trial
from metainf.evaluation.identities import code_digest
from metainf.evaluation.kept_files import content_digest
from metainf.evaluation.outcomes import Clock, Evidence, Outcome, SelectorFactory, run_selector
from metainf.evaluation.splits import Fold, Split
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable, choose

__all__ = [
    "CurvePoint",
    "Failure",
    "Importance",
    "feature_importance",
    "group_draws",
    "learning_curve",
    "worst_failures",
]

IntArray = NDArray[np.intp]

_ALL_PAIRS = "physics of the pair: "
_MOST_PERMUTED_TASKS = 500  # of all folds, evenly over each: 150 features are each scored several times


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Closed gap on decisive tasks when each fold learns from a share of its train groups."""

    share: float
    train_tasks: float
    closed_gap: Interval


@dataclass(frozen=True, slots=True)
class Importance:
    """What is lost on test tasks when a feature is permuted among them, in log(P / P[default])."""

    feature: str
    lost_gain: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A task where the choice loses much."""

    model: str
    accelerator: str
    workload: str
    chosen: str
    best: str
    regret: float


def learning_curve(
    make: SelectorFactory,
    evidence: Evidence,
    split: Split,
    shares: Sequence[float],
    *,
    clock: Clock,
    whole: Outcome | None = None,
    fits: Fits | None = None,
) -> tuple[CurvePoint, ...]:
    """The selector with less to learn from; train groups are dropped whole, the same ones for every selector.

    `whole` is its outcome on the split where that is known: nothing is dropped for a share of 1. `fits` is as
    `run_selector` takes it.
    """
    points: list[CurvePoint] = []
    for share in shares:
        folds = tuple(replace(fold, train=_thinned(fold, split, share)) for fold in split.folds)
        if points and sum(len(fold.train) for fold in folds) == points[-1].train_tasks * len(folds):
            continue  # with few groups two shares can be the same ones
        known = whole if share == 1.0 else None
        outcome = known or run_selector("", make, evidence, replace(split, folds=folds), clock=clock, fits=fits)
        judged = judged_tasks(evidence, outcome)
        found = figures_of(judged, judged.decisive, group_draws(split, judged))
        mean = float(np.mean([len(fold.train) for fold in folds])) if folds else 0.0
        points.append(CurvePoint(share, mean, found.closed_gap))
    return tuple(points)


def feature_importance(
    make: SelectorFactory,
    evidence: Evidence,
    split: Split,
    *,
    clock: Clock,
    repeats: int = 3,
    seed: int = 0,
    fits: Fits | None = None,
) -> tuple[Importance, ...]:
    """Permutation importance on held-out tasks, the largest first; the physics of pairs a column at a time.

    The error is that of the mean over folds and repeats. `fits` is as `run_selector` takes it: what each fold says is
    kept as outcomes are.
    """
    rng = np.random.default_rng(seed)
    fits = Fits() if fits is None else fits
    trial = Trial("", make, evidence.lessons, evidence.table.tasks)
    code = "" if fits.files is None else code_digest(__name__)
    keys = fits.keys(trial, split.folds, "importance", code, evidence.table.performance, evidence.broken)
    lost: dict[str, list[float]] = {}
    for fold, key in zip(split.folds, keys, strict=True):
        most = max(1, _MOST_PERMUTED_TASKS // len(split.folds))
        few = np.linspace(0, len(fold.test) - 1, min(most, len(fold.test))).astype(np.intp)
        test = evidence.rows(fold.test[few])
        names = _feature_names(test.table)
        # Drawn for folds that are kept as well: all have one stream.
        orders = np.array([[rng.permutation(len(test)) for _ in range(repeats)] for _ in names], dtype=np.intp)
        mine = None if key is None else content_digest(key, orders)
        compute = partial(_lost_gains, make, evidence.lessons, fold, test, orders)
        found = fits.numbers("importance", mine, (len(names), repeats), compute, clock)
        for name, each in zip(names, found.tolist(), strict=True):
            lost.setdefault(name, []).extend(each)
    importances = [Importance(name, float(np.mean(each)), _standard_error(each)) for name, each in lost.items()]
    return tuple(sorted(importances, key=lambda each: (-each.lost_gain, each.feature)))


def _lost_gains(
    make: SelectorFactory, lessons: MethodTable, fold: Fold, test: Evidence, orders: IntArray
) -> FloatArray:
    """What is lost by each feature in each of its orders, shape (features, repeats); `orders` are of the test tasks."""
    fitted = make().fit(lessons.rows(fold.train))
    whole = _mean_gain(test, choose(test.table.tasks, fitted.scores(test.table.tasks)))
    lost = np.empty(orders.shape[:2])
    for place, name in enumerate(_feature_names(test.table)):
        for repeat, order in enumerate(orders[place]):
            spoilt = _permuted(test.table.tasks, name, order)
            lost[place, repeat] = whole - _mean_gain(test, choose(spoilt, fitted.scores(spoilt)))
    return lost


def worst_failures(judged: JudgedTasks, most: int = 20) -> tuple[Failure, ...]:
    """The tasks with the largest regret, in the order of it."""
    table = judged.evidence.table
    names = (*table.tasks.methods, "refused")
    best = metrics.virtual_best(table, judged.evidence.broken)
    order = np.argsort(-np.nan_to_num(judged.lost, nan=-1.0), kind="stable")[:most]
    return tuple(
        Failure(
            model=str(table.tasks.model[row]),
            accelerator=str(table.tasks.accelerator[row]),
            workload=str(table.tasks.workload[row]),
            chosen=names[judged.outcome.chosen[row]],
            best=names[best[row]],
            regret=float(judged.lost[row]),
        )
        for row in order
        if judged.lost[row] > 0.0
    )


def group_draws(split: Split, judged: JudgedTasks) -> GroupDraws:
    """Draws of the groups of the tasks that were judged."""
    return GroupDraws([factor[judged.outcome.judged] for factor in split.groups])


def _thinned(fold: Fold, split: Split, share: float) -> IntArray:
    """Train rows of the first so many groups, by a checksum: an order that means nothing and never changes."""
    groups = split.taught[0][fold.train]
    names = sorted(np.unique(groups).tolist(), key=lambda name: (zlib.crc32(name.encode()), name))
    kept = names[: max(1, round(share * len(names)))]
    return fold.train[np.isin(groups, kept)]


def _mean_gain(evidence: Evidence, chosen: IntArray) -> float:
    gain = metrics.log_gain(evidence.table, chosen, evidence.broken)
    known = np.isfinite(gain)
    return float(gain[known].mean()) if known.any() else 0.0


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _feature_names(table: MethodTable) -> tuple[str, ...]:
    return (*table.tasks.feature_names, *(f"{_ALL_PAIRS}{name}" for name in table.tasks.pair_feature_names))


def _permuted(tasks: TaskTable, name: str, order: IntArray) -> TaskTable:
    """One column taken from other tasks; where a method is infeasible stays so, and a NaN is filled from the task."""
    if name in tasks.feature_names:
        features = tasks.features.copy()
        column = tasks.feature_names.index(name)
        features[:, column] = features[order, column]
        return replace(tasks, features=features)
    column = tasks.pair_feature_names.index(name.removeprefix(_ALL_PAIRS))
    pairs: FloatArray = tasks.pair_features.copy()
    moved = pairs[order, :, column]
    pairs[:, :, column] = np.where(tasks.feasible & np.isfinite(moved), moved, pairs[:, :, column])
    return replace(tasks, pair_features=pairs)
