"""What is said of lanes by factors and trees that never saw their model family, or their generation of accelerators.

Separate from the spreads that are made of it: this is where the time goes, a fit for each fold.

Twins of what a fold holds out are not learnt from either: they are the same workload on another place, and what is
latent in it was drawn once for all of them, so that their rows would give away luck that nobody can know.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.evaluation.groups import accelerator_group, model_groups
from metainf.evaluation.splits import Fold, grouped_folds
from metainf.predictors.base_answers import CAPACITY, KNOTS, TARGETS
from metainf.predictors.corrections import Corrections, knot_weights, responses
from metainf.predictors.familiarity import GROUPS, Familiarity, scale_of
from metainf.predictors.inputs import LaneInputs
from metainf.training.boosting import Growth
from metainf.training.groups import Groups
from metainf.training.rows import ALONE, BLOCK, TrainingRows, inputs_of, merged
from metainf.training.stages import STAGES, grown_in_stages
from metainf.training.step_factors import fitted_factors

__all__ = [
    "MOST_POINTS",
    "Errors",
    "GuardedAnswers",
    "HeldOut",
    "SplitAnswers",
    "analytical_only",
    "corrected",
    "errors",
    "groups_of",
    "guarded",
    "held_out",
    "learnt_from",
    "thresholds",
    "trusted",
]

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

MOST_POINTS = 512
"""Points that stand for the training data, of each group of features."""
_EMPTY = 1e-6
_DEVIATIONS = 2.0  # as ISAC has it


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Answers about m lanes by factors and trees that did not see the lane's group.

    Attributes
    ----------
    groups : array of shape (m,)
    rows : TrainingRows
        Each lane over the steps of those factors.
    said : array of shape (STAGES, m, knots, targets)
        By each stage: what is shared, and what is a method's own.
    distance : array of shape (m, feature groups)
        To what those trees were trained on.
    """

    groups: StringArray
    rows: TrainingRows
    said: FloatArray
    distance: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class SplitAnswers:
    """What run time would make of one split's held-out answers: groups of m lanes, their rows, and the corrections."""

    groups: StringArray
    rows: TrainingRows
    corrections: Corrections


@dataclass(frozen=True, slots=True, eq=False)
class GuardedAnswers:
    """Of each split what is said of lanes by what never saw their groups; and how such answers are guarded.

    `limits` are the thresholds of distances, `trust` is the share of what trees of each stage say of each target.
    """

    splits: Mapping[str, SplitAnswers]
    limits: FloatArray
    trust: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Errors of n rows, log(truth / prediction).

    Attributes
    ----------
    error : array of shape (n, targets)
        NaN where the row does not know the target, or the prediction is that the load does not fit.
    utilization : array of shape (n,)
        As predicted; 0 for other loads than rates.
    coordinate : array of shape (n,)
    kind, luck : arrays of shape (n,)
        As `Responses` has them.
    """

    error: FloatArray
    utilization: FloatArray
    coordinate: FloatArray
    kind: IntArray
    luck: FloatArray


def groups_of(rows: TrainingRows) -> tuple[StringArray, StringArray]:
    """Model group and accelerator group of each lane."""
    families = model_groups(rows.model.tolist())
    devices = {name: accelerator_group(name) for name in set(rows.accelerator.tolist())}
    return (
        np.array([families[name] for name in rows.model.tolist()], dtype=np.str_),
        np.array([devices[name] for name in rows.accelerator.tolist()], dtype=np.str_),
    )


def held_out(
    rows: TrainingRows,
    slopes: Float32Array,
    groups: StringArray,
    growth: Growth,
    *,
    seed: int,
    most_folds: int,
    report: Callable[[str], None] = lambda what: None,
) -> HeldOut | None:
    """Answers about every lane by what the folds without it teach; `slopes` are `factor_slopes` of the rows.

    None where nothing can be held out: there are fewer than two groups, or all others are twins of what one fold has.
    """
    folds = grouped_folds(groups, most_folds)
    if not folds or not all(learnt_from(rows, fold)[rows.lane].any() for fold in folds):
        return None
    lanes = len(groups)
    said = np.zeros((STAGES, lanes, KNOTS, len(TARGETS)))
    distance = np.zeros((lanes, len(GROUPS)))
    parts = []
    for number, fold in enumerate(folds):
        report(f"fold {number + 1} of {len(folds)}: without {fold.held_out}")
        inside = learnt_from(rows, fold)
        taught = inside[rows.lane]
        own = rows.under(fitted_factors(rows, slopes, inside))
        trees = grown_in_stages(
            own.inputs,
            own.task,
            own.coordinate[taught],
            own.residual[taught],
            own.weight[taught],
            growth,
            seed=seed,
            lane=own.lane[taught],
        )
        said[:, fold.test] = trees.at_knots(own.inputs[fold.test])
        known = Familiarity.of(own.inputs[inside], most=MOST_POINTS, seed=seed, scale=scale_of(own.inputs))
        distance[fold.test] = known.distances(own.inputs[fold.test])
        parts.append((fold.test, own))
    return HeldOut(groups, merged(parts), said, distance)


def learnt_from(rows: TrainingRows, fold: Fold) -> NDArray[np.bool_]:
    """Lanes of a fold's train half, shape (m,), without the twins of what it holds out."""
    inside = np.zeros(len(rows.twins), dtype=np.bool_)
    inside[fold.train] = True
    held = rows.twins[fold.test]
    return inside & ~np.isin(rows.twins, held[held != ALONE])


def thresholds(found: list[HeldOut]) -> FloatArray:
    """Distance up to which each group of features is familiar: of the split that holds it out the furthest."""
    each = [h.distance.mean(axis=0) + _DEVIATIONS * h.distance.std(axis=0) for h in found]
    return np.maximum(np.max(each, axis=0), _LEAST_THRESHOLD) if each else np.full(len(GROUPS), np.inf)


_LEAST_THRESHOLD = 0.05


def trusted(held: HeldOut) -> FloatArray:
    """Share of what the trees of each stage say that held-out groups bear out, from 0 to 1, shape (STAGES, targets).

    The least squares factor on what was said, groups counting alike: few rows say much about themselves and little
    about the next group, and this holds back what does not carry over. Of the second stage it is the factor on
    differences within a task at a load, which is all that it was taught.
    """
    rows = held.rows
    below, share = knot_weights(rows.coordinate)
    _, codes = np.unique(held.groups, return_inverse=True)
    of = codes.ravel()[rows.lane]
    tasks = rows.task[rows.lane] * KNOTS + np.rint(rows.coordinate).astype(np.intp)
    alike = np.ones(len(rows))
    factors = np.zeros((STAGES, len(TARGETS)))
    for target in range(len(TARGETS)):
        known = ~np.isnan(rows.residual[:, target])
        counts = np.bincount(of, weights=known, minlength=1)[of]
        weight = np.where(known, 1.0 / np.maximum(counts, 1.0), 0.0)
        truth = np.where(known, rows.residual[:, target], 0.0)
        for stage in range(STAGES):
            low, high = (held.said[stage, rows.lane, knot, target] for knot in (below, below + 1))
            said = np.where(known, low + share * (high - low), 0.0)
            if stage > 0:
                both, told = np.stack([said, truth], axis=1), np.stack([known, known], axis=1)
                said, truth = Groups(tasks, told, alike).centred(both).T
            power = float((weight * said**2).sum())
            if power > 0.0:
                factors[stage, target] = np.clip((weight * said * truth).sum() / power, 0.0, 1.0)
    return factors


def guarded(held: Mapping[str, HeldOut]) -> GuardedAnswers:
    """What run time would make of the held-out answers of all splits, which it guards by one rule."""
    limits = thresholds(list(held.values()))
    each = [trusted(split) for split in held.values()]
    trust = np.mean(each, axis=0) if each else np.ones((STAGES, len(TARGETS)))
    return GuardedAnswers({split: corrected(found, limits, trust) for split, found in held.items()}, limits, trust)


def corrected(held: HeldOut, limits: FloatArray, trust: FloatArray) -> SplitAnswers:
    """What run time would make of the held-out answers, with these thresholds and that trust in each stage."""
    residual = (held.said * trust[:, None, None, :]).sum(axis=0)
    return SplitAnswers(held.groups, held.rows, Corrections.of(residual, held.distance / limits))


def analytical_only(lanes: int) -> Corrections:
    """What the analytical model alone makes of them."""
    return Corrections(np.zeros((lanes, KNOTS, len(TARGETS))), np.zeros(lanes), np.ones(lanes))


def errors(rows: TrainingRows, found: Corrections, *, at_true_utilization: bool) -> Errors:
    """Errors of all rows.

    Parameters
    ----------
    at_true_utilization : bool
        Whether the load is set so that the utilisation is right: then the error of the capacity is left out.
    """
    shape = len(rows), len(TARGETS)
    of_load, coordinate, luck = np.zeros((3, len(rows)))
    result = Errors(np.full(shape, np.nan), of_load, coordinate, np.zeros(len(rows), dtype=np.intp), luck)
    for places, numbers, inputs in _blocks(rows):
        own = Corrections(found.residual[numbers], found.distance[numbers], found.fade[numbers])
        capacity = (inputs.capacity * np.exp(own.residual[:, -1, CAPACITY]))[inputs.lanes.of]
        load, utilization = rows.load[places], rows.utilization[places]
        is_open = ~np.isnan(utilization)
        if at_true_utilization:
            load = np.where(is_open, utilization * capacity, load)
        load = np.where(np.isnan(load) | (is_open & (load <= 0.0)), _EMPTY * capacity, load)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            answer = responses(inputs.lanes, inputs.capacity, own, load)
            error = rows.truth[places] - answer.answer
        result.error[places] = np.where(np.isfinite(error), error, np.nan)
        result.utilization[places] = answer.utilization
        result.kind[places], result.luck[places] = answer.kind, answer.luck
        result.coordinate[places] = np.where(np.isnan(rows.load[places]), rows.coordinate[places], answer.coordinate)
    return result


def _blocks(rows: TrainingRows) -> Iterator[tuple[IntArray, IntArray, LaneInputs]]:
    """Rows, their lanes' numbers, and the inputs of these, some lanes at a time."""
    order = np.argsort(rows.lane, kind="stable")
    sorted_lanes = rows.lane[order]
    for start in range(0, len(rows.questions), BLOCK):
        first, last = np.searchsorted(sorted_lanes, [start, start + BLOCK])
        if last > first:
            places = order[first:last]
            inputs, numbers = inputs_of(rows, rows.lane[places])
            yield places, numbers, inputs
