"""How good chosen methods are against the truth: one function for each figure that the reports print.

Separate from the outcomes that apply these per fold and from the tables that print them: the definitions are agreed on
paper and have to be read, and tested by hand, in one place.

Conventions, for all functions here. `chosen` holds a column for each task, -1 where the selector refused. Performance
of 0 is a broken SLO, NaN is infeasible or not known; `broken` marks other pairs that run but break an SLO or the budget
in truth. What is none of these is good. A refusal or an abstention is served by the default and scores as it; a pick
that is not good scores a tenth of the default. Where the default itself does not run or keeps no SLO, no ratio to it
exists: such tasks count for accuracy, F1, violations and regret, and not for what is a mean of log(P / P[default]).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.errors import UndefinedMetricError
from metainf.selectors.contract import BoolArray, FloatArray, MethodTable

__all__ = [
    "LEAST_CLASS_SHARE",
    "LEAST_FEASIBLE_SHARE",
    "PENALTY_RATIO",
    "Regret",
    "acceleration_over",
    "acceleration_ratio",
    "best_performance",
    "class_labels",
    "closed_gap",
    "decisive",
    "default_choice",
    "false_refusal_rate",
    "good",
    "labels",
    "log_gain",
    "macro_f1",
    "regret",
    "relative_regret",
    "score",
    "single_best",
    "single_best_choice",
    "strict_accuracy",
    "tolerant_accuracy",
    "total_usd",
    "violation_rate",
    "virtual_best",
    "within_tolerance",
]

IntArray = NDArray[np.intp]

PENALTY_RATIO = 0.1
"""Of the default's performance: what a pick that is infeasible, breaks an SLO or the budget scores."""
LEAST_FEASIBLE_SHARE = 0.95
"""Of train tasks, by facts alone: a method that cannot run on more of them than are left is not the single best."""
LEAST_CLASS_SHARE = 0.01
"""Of train tasks: rarer labels are no class of the macro F1."""
_SAME_GAIN = 1e-9
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Regret:
    """Share of the best performance that is lost, 0 to 1."""

    mean: float
    p95: float


def good(table: MethodTable, broken: BoolArray | None = None) -> BoolArray:
    """Shape (n, m): what runs and keeps every limit, in truth."""
    return replace(table, broken=broken).works


def best_performance(table: MethodTable, broken: BoolArray | None = None) -> FloatArray:
    """Shape (n,): the best that keeps every limit, in the unit of the kind of traffic; NaN where nothing does."""
    best: FloatArray = np.where(good(table, broken), table.performance, -np.inf).max(axis=1)
    return np.where(np.isfinite(best), best, np.nan)


def within_tolerance(table: MethodTable, broken: BoolArray | None = None) -> BoolArray:
    """Shape (n, m): what is worse than the best by no more than the tolerance."""
    allowed = best_performance(table, broken) * (1.0 - table.tolerance)
    with np.errstate(invalid="ignore"):
        close: BoolArray = table.performance >= allowed[:, None]
    return close & good(table, broken)


def labels(table: MethodTable, broken: BoolArray | None = None) -> IntArray:
    """Shape (n,): the simplest method within the tolerance of the best, the first of equally simple; -1 for none."""
    close = within_tolerance(table, broken)
    order = np.where(close, table.tasks.complexity[None, :], np.inf)
    return np.where(close.any(axis=1), np.argmin(order, axis=1), -1).astype(np.intp)


def decisive(table: MethodTable, broken: BoolArray | None = None) -> BoolArray:
    """Shape (n,): tasks where the default is worse than the best by more than twice the tolerance, or not good."""
    best = best_performance(table, broken)
    default = table.performance[:, table.tasks.default]
    kept = good(table, broken)[:, table.tasks.default]
    with np.errstate(invalid="ignore"):
        worse = default < best * (1.0 - 2.0 * table.tolerance)
    return np.isfinite(best) & (worse | ~kept)


def default_choice(table: MethodTable) -> IntArray:
    """Shape (n,): the default everywhere."""
    return np.full(len(table), table.tasks.default, dtype=np.intp)


def virtual_best(table: MethodTable, broken: BoolArray | None = None) -> IntArray:
    """Shape (n,): the best method of each task, the simpler of equal ones; -1 where nothing is good."""
    usable = good(table, broken)
    value = np.where(usable, table.performance, -np.inf)
    tied = usable & (value == value.max(axis=1, keepdims=True))
    order = np.where(tied, table.tasks.complexity[None, :], np.inf)
    return np.where(usable.any(axis=1), np.argmin(order, axis=1), -1).astype(np.intp)


def single_best(train: MethodTable, broken: BoolArray | None = None) -> int:
    """Column of the method that is best on average over train tasks, among those feasible on 95 % of them.

    Feasible is what facts allow, which is known before anything runs: a method that runs and breaks its SLO is no less
    feasible, it scores the penalty. The average is of log(P / P[default]) with the penalty, over the tasks of which
    something is known; equal ones go to the simpler, then the first.

    Raises
    ------
    UndefinedMetricError
        No method is feasible on so many tasks, or the default runs on none.
    """
    allowed = train.tasks.feasible
    candidates = np.flatnonzero(allowed.mean(axis=0) >= LEAST_FEASIBLE_SHARE) if len(train) else np.array([])
    if not len(candidates):
        raise UndefinedMetricError(f"choosing the single best: no method is feasible on 95 % of {len(train)} tasks")
    default = _default_performance(train)
    known = np.isfinite(default)
    if not known.any():
        raise UndefinedMetricError(f"choosing the single best: the default runs on none of {len(train)} tasks")
    told = (~np.isnan(train.performance) | ~allowed)[known][:, candidates]
    gains = np.log(_delivered(train, broken)[known][:, candidates]) - np.log(default[known])[:, None]
    means = np.where(told, gains, 0.0).sum(axis=0) / np.maximum(told.sum(axis=0), 1)
    means = np.where(told.any(axis=0), means, -np.inf)
    complexity = train.tasks.complexity
    return int(min(zip(candidates, means, strict=True), key=lambda pair: (-pair[1], complexity[pair[0]], pair[0]))[0])


def single_best_choice(table: MethodTable, column: int) -> IntArray:
    """Shape (n,): that method, and the default where facts alone forbid it.

    Nobody would start what cannot start; a reference that did would flatter whatever is compared with it.
    """
    return np.where(table.tasks.feasible[:, column], column, table.tasks.default).astype(np.intp)


def score(table: MethodTable, chosen: IntArray, broken: BoolArray | None = None) -> FloatArray:
    """Shape (n,): what each choice delivers, penalty included; NaN where neither it nor the default gives a value."""
    columns = np.where(chosen < 0, table.tasks.default, chosen)
    return _delivered(table, broken)[np.arange(len(table)), columns]


def log_gain(table: MethodTable, chosen: IntArray, broken: BoolArray | None = None) -> FloatArray:
    """Shape (n,): log(P[chosen] / P[default]); NaN where the default does not run."""
    with np.errstate(invalid="ignore", divide="ignore"):
        gain: FloatArray = np.log(score(table, chosen, broken)) - np.log(_default_performance(table))
    return gain


def acceleration_ratio(table: MethodTable, chosen: IntArray, broken: BoolArray | None = None) -> float:
    """Geometric mean of P[chosen] / P[default], penalties included.

    Raises
    ------
    UndefinedMetricError
        The default runs on no task.
    """
    return float(np.exp(np.nanmean(_gain_or_raise(table, chosen, broken))))


def acceleration_over(
    table: MethodTable, chosen: IntArray, reference: int, sizes: FloatArray, broken: BoolArray | None = None
) -> dict[float, float]:
    """Geometric mean of P[chosen] / P[reference] for each size of batch: for one-at-a-time serving as reference.

    Parameters
    ----------
    sizes : array of shape (n,)
        Requests at once. One mean over all of them would say more about the sizes than about the selector.

    Returns
    -------
    Size -> ratio, in ascending order; sizes for which no task has the reference are absent.
    """
    base = table.performance[:, reference]
    known = np.isfinite(base) & (base > 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = np.log(score(table, chosen, broken)) - np.log(base)
    known &= np.isfinite(gain) & np.isfinite(sizes)
    return {float(s): float(np.exp(gain[known & (sizes == s)].mean())) for s in np.unique(sizes[known])}


def closed_gap(table: MethodTable, chosen: IntArray, single: int, broken: BoolArray | None = None) -> float:
    """Share of the distance from single best to virtual best that the choices cover: 1 is the oracle.

    Parameters
    ----------
    single : int
        `single_best` of the train tasks.

    Raises
    ------
    UndefinedMetricError
        Single best and virtual best coincide, or the default runs on no task.
    """
    mine = float(np.nanmean(_gain_or_raise(table, chosen, broken)))
    sbs = float(np.nanmean(log_gain(table, single_best_choice(table, single), broken)))
    vbs = float(np.nanmean(log_gain(table, virtual_best(table, broken), broken)))
    if vbs - sbs < _SAME_GAIN:
        raise UndefinedMetricError("closing the gap: single best and virtual best coincide")
    return (mine - sbs) / (vbs - sbs)


def relative_regret(table: MethodTable, chosen: IntArray, broken: BoolArray | None = None) -> FloatArray:
    """Shape (n,): 1 - P[chosen] / P[best]; 1 where the choice yields nothing, NaN where no method is good."""
    best = best_performance(table, broken)
    delivered = np.nan_to_num(score(table, chosen, broken), nan=0.0)
    return np.where(np.isfinite(best), 1.0 - delivered / best, np.nan)


def regret(table: MethodTable, chosen: IntArray, broken: BoolArray | None = None) -> Regret:
    """Mean and p95 of the share of the best performance that is lost.

    Raises
    ------
    UndefinedMetricError
        Nothing is good on any task.
    """
    lost = relative_regret(table, chosen, broken)
    lost = lost[np.isfinite(lost)]
    if not len(lost):
        raise UndefinedMetricError("taking the regret: no task has a feasible method")
    return Regret(float(lost.mean()), float(np.quantile(lost, 0.95)))


def strict_accuracy(table: MethodTable, chosen: IntArray, broken: BoolArray | None = None) -> float:
    """Share of tasks whose choice is the label itself; tasks where nothing is good have no label and do not count.

    Raises
    ------
    UndefinedMetricError
        No task has a label.
    """
    label = labels(table, broken)
    return _share((chosen == label)[label >= 0], "accuracy")


def tolerant_accuracy(table: MethodTable, chosen: IntArray, broken: BoolArray | None = None) -> float:
    """Share of tasks whose choice is within the tolerance of the best; a refusal is not.

    Raises
    ------
    UndefinedMetricError
        No task has a label.
    """
    right = _picked(within_tolerance(table, broken), chosen)
    return _share(right[labels(table, broken) >= 0], "accuracy")


def class_labels(train: MethodTable, broken: BoolArray | None = None) -> IntArray:
    """The classes of the macro F1: labels of at least 1 % of the train tasks that have one, ascending."""
    label = labels(train, broken)
    label = label[label >= 0]
    found, counts = np.unique(label, return_counts=True)
    return found[counts >= LEAST_CLASS_SHARE * len(label)]


def macro_f1(
    table: MethodTable, chosen: IntArray, classes: IntArray, broken: BoolArray | None = None, *, strict: bool = False
) -> float:
    """Mean F1 over classes that were fixed on train; a pick within the tolerance counts as the label unless strict.

    A class that is the label of no task here is left out of the mean: its F1 would be 0 however rare a wrong pick of it
    is, and on decisive tasks the default is such a class. A wrong pick of it still misses the class that it should be.

    Raises
    ------
    UndefinedMetricError
        No class occurs.
    """
    label = labels(table, broken)
    counted = label >= 0
    right = (chosen == label) if strict else _picked(within_tolerance(table, broken), chosen)
    taken = np.where(right, label, chosen)[counted]
    label = label[counted]
    found = []
    for each in classes:
        hits = np.sum((taken == each) & (label == each))
        claims = np.sum(taken == each) + np.sum(label == each)
        if np.any(label == each):
            found.append(2.0 * hits / claims)
    if not found:
        raise UndefinedMetricError("taking the macro F1: no class occurs in the tasks")
    return float(np.mean(found))


def violation_rate(table: MethodTable, chosen: IntArray, broken: BoolArray | None = None) -> float:
    """Share of the tasks with a pick whose pick is infeasible or breaks a limit, in truth; 0 where all are refused."""
    picked = chosen >= 0
    wrong = picked & ~_picked(good(table, broken), chosen)
    return float(wrong.sum() / max(1, picked.sum()))


def false_refusal_rate(table: MethodTable, chosen: IntArray, broken: BoolArray | None = None) -> float:
    """Share of the tasks with a good method that were refused; 0 where there is no such task."""
    feasible = good(table, broken).any(axis=1)
    return float((feasible & (chosen < 0)).sum() / max(1, feasible.sum()))


def total_usd(table: MethodTable, chosen: IntArray, price_usd_per_hour: FloatArray) -> float:
    """What the choices cost together for one unit of work in each task (a batch, a token, a request).

    By what they truly deliver, whether or not they keep the limits; what delivers nothing costs ten times the default.

    Parameters
    ----------
    price_usd_per_hour : array of shape (n,)
        Of what the performance is of: a replica, or one accelerator for rates.

    Raises
    ------
    UndefinedMetricError
        No task has a value.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        usd = price_usd_per_hour / _SECONDS_PER_HOUR / score(table, chosen)
    if not np.isfinite(usd).any():
        raise UndefinedMetricError("adding up USD: no task has a value")
    return float(usd[np.isfinite(usd)].sum())


def _delivered(table: MethodTable, broken: BoolArray | None) -> FloatArray:
    """Shape (n, m): what each method would score."""
    kept = good(table, broken)
    default = _default_performance(table)
    # A default that breaks a limit can be so fast that a tenth of it passes all that keep the limits.
    most = np.where(kept, table.performance, -np.inf).max(axis=1)
    penalised = np.where(np.isfinite(most), np.minimum(PENALTY_RATIO * default, most), PENALTY_RATIO * default)
    return np.where(kept, table.performance, penalised[:, None])


def _default_performance(table: MethodTable) -> FloatArray:
    """Shape (n,): the default's own, whether or not it keeps the limits; NaN where it does not run."""
    default = table.performance[:, table.tasks.default]
    return np.where(np.isfinite(default) & (default > 0.0), default, np.nan)


def _gain_or_raise(table: MethodTable, chosen: IntArray, broken: BoolArray | None) -> FloatArray:
    gain = log_gain(table, chosen, broken)
    if not np.isfinite(gain).any():
        raise UndefinedMetricError(f"comparing with the default: it runs on none of {len(table)} tasks")
    return gain


def _picked(mask: BoolArray, chosen: IntArray) -> BoolArray:
    """Shape (n,): the mask at each choice, False at a refusal."""
    return (chosen >= 0) & mask[np.arange(len(mask)), np.maximum(chosen, 0)]


def _share(mask: BoolArray, what: str) -> float:
    if not len(mask):
        raise UndefinedMetricError(f"taking the {what}: no task has a label")
    return float(mask.mean())
