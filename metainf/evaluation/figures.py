"""The figures of one selector on one split, each with its interval over held-out groups.

Separate from the metrics, whose definitions they keep: here each is written as a function of sums over tasks, which is
what the bootstrap resamples. A test holds the two together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from metainf.evaluation import metrics
from metainf.evaluation.bootstrap import (
    GroupDraws,
    Interval,
    interval_of_sums,
    mean_interval,
    ratio_of_sums,
    value_and_count,
)
from metainf.evaluation.outcomes import Evidence, Outcome
from metainf.selectors.contract import BoolArray, FloatArray

__all__ = ["FIGURE_TITLES", "Figures", "JudgedTasks", "figures_of", "judged_tasks", "usd_of"]

IntArray = NDArray[np.intp]
_UNDEFINED = Interval(np.nan, np.nan, np.nan)
_SAME_GAIN = 1e-9
_SECONDS_PER_HOUR = 3600.0

FIGURE_TITLES = {
    "tolerant_accuracy": "accuracy (tolerant)",
    "strict_accuracy": "accuracy (strict)",
    "macro_f1": "macro F1",
    "acceleration_ratio": "acceleration ratio (x default)",
    "closed_gap": "closed gap",
    "regret_mean": "regret, mean",
    "regret_p95": "regret, p95",
    "violation_rate": "violations",
    "false_refusal_rate": "false refusals",
    "usd_ratio": "USD / default's USD",
    "total_usd": "USD, a unit of work each",
    "seconds_per_decision": "s per decision",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """NaN where a figure is undefined. Shares are from 0 to 1; `total_usd` is for one unit of work of each task."""

    tasks: int
    groups: int
    tolerant_accuracy: Interval = _UNDEFINED
    strict_accuracy: Interval = _UNDEFINED
    macro_f1: Interval = _UNDEFINED
    acceleration_ratio: Interval = _UNDEFINED
    closed_gap: Interval = _UNDEFINED
    regret_mean: Interval = _UNDEFINED
    regret_p95: Interval = _UNDEFINED
    violation_rate: Interval = _UNDEFINED
    false_refusal_rate: Interval = _UNDEFINED
    usd_ratio: Interval = _UNDEFINED
    total_usd: Interval = _UNDEFINED
    seconds_per_decision: Interval = _UNDEFINED
    without_reference: int = 0
    """Tasks whose default does not run: no ratio to it exists."""
    priced_tasks: int = 0
    """Tasks that USD are of: those whose accelerator has a price and whose default runs."""

    def named(self) -> Iterator[tuple[str, Interval]]:
        """All figures that have an interval, in the order of the tables."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Interval):
                yield each.name, value


@dataclass(frozen=True, slots=True, eq=False)
class JudgedTasks:
    """The evidence of an outcome's tasks, in its order, with the figures of each task.

    Attributes
    ----------
    gain, single_gain, best_gain : arrays of shape (k,), log(P / P[default])
        Of the choice, the single best and the virtual best; NaN where the default does not run.
    lost : array of shape (k,)
        Relative regret.
    decisive : array of shape (k,), bool
    """

    evidence: Evidence
    outcome: Outcome
    label: IntArray
    right: BoolArray
    gain: FloatArray
    single_gain: FloatArray
    best_gain: FloatArray
    lost: FloatArray
    decisive: BoolArray


def judged_tasks(evidence: Evidence, outcome: Outcome, part: Evidence | None = None) -> JudgedTasks:
    """Each held-out task with what the choice for it was worth.

    `part` is the evidence of these tasks in their order, features or not, where somebody has it: selectors share one.
    """
    part = evidence.without_features().rows(outcome.judged) if part is None else part
    table, broken, chosen = part.table, part.broken, outcome.chosen
    close = metrics.within_tolerance(table, broken)
    return JudgedTasks(
        evidence=part,
        outcome=outcome,
        label=metrics.labels(table, broken),
        right=(chosen >= 0) & close[np.arange(len(chosen)), np.maximum(chosen, 0)],
        gain=metrics.log_gain(table, chosen, broken),
        single_gain=metrics.log_gain(table, outcome.single, broken),
        best_gain=metrics.log_gain(table, metrics.virtual_best(table, broken), broken),
        lost=metrics.relative_regret(table, chosen, broken),
        decisive=metrics.decisive(table, broken),
    )


def figures_of(judged: JudgedTasks, counted: BoolArray, draws: GroupDraws) -> Figures:
    """All figures over the counted tasks.

    Parameters
    ----------
    counted : array of shape (k,), bool
        All of them, or the decisive ones.
    draws : GroupDraws
        Over the groups of these k tasks; one for all selectors of a split, so that they can be compared.
    """
    if judged.outcome.failure or not counted.any():
        return Figures(tasks=int(counted.sum()), groups=0)
    label, chosen = judged.label, judged.outcome.chosen
    labelled = counted & (label >= 0)
    known = counted & np.isfinite(judged.gain)
    usable = metrics.good(judged.evidence.table, judged.evidence.broken)
    picked = counted & (chosen >= 0)
    broke = picked & ~usable[np.arange(len(chosen)), np.maximum(chosen, 0)]
    feasible = counted & usable.any(axis=1)
    lost = judged.lost[counted & np.isfinite(judged.lost)]
    p95 = float(np.quantile(lost, 0.95)) if len(lost) else np.nan
    usd, default_usd = usd_of(judged), usd_of(judged, metrics.default_choice(judged.evidence.table))
    priced = known & np.isfinite(usd)
    usd, default_usd = np.where(priced, usd, 0.0), np.where(priced, default_usd, 0.0)
    seconds = judged.outcome.decide_s / len(chosen)
    return Figures(
        tasks=int(counted.sum()),
        groups=draws.groups_among(counted),
        tolerant_accuracy=mean_interval(judged.right, labelled, draws),
        strict_accuracy=mean_interval(chosen == label, labelled, draws),
        macro_f1=_macro_f1(judged, labelled, draws),
        acceleration_ratio=interval_of_sums(
            value_and_count(judged.gain, known), lambda sums: np.exp(ratio_of_sums(sums)), draws
        ),
        closed_gap=_closed_gap(judged, known, draws),
        regret_mean=mean_interval(judged.lost, counted & np.isfinite(judged.lost), draws),
        regret_p95=Interval(p95, np.nan, np.nan),
        violation_rate=mean_interval(broke, picked, draws),
        false_refusal_rate=mean_interval(chosen < 0, feasible, draws),
        usd_ratio=interval_of_sums(np.stack([usd, default_usd], axis=1), ratio_of_sums, draws)
        if priced.any()
        else _UNDEFINED,
        seconds_per_decision=Interval(seconds, np.nan, np.nan) if seconds else _UNDEFINED,
        total_usd=interval_of_sums(usd[:, None], lambda sums: sums[..., 0], draws) if priced.any() else _UNDEFINED,
        priced_tasks=int(priced.sum()),
        without_reference=int((counted & ~np.isfinite(judged.gain)).sum()),
    )


def _closed_gap(judged: JudgedTasks, known: BoolArray, draws: GroupDraws) -> Interval:
    gains = (judged.gain, judged.single_gain, judged.best_gain, np.ones(len(known)))
    columns = np.stack([np.where(known, gain, 0.0) for gain in gains], axis=1)

    def finish(sums: FloatArray) -> FloatArray:
        gap = sums[..., 2] - sums[..., 1]
        defined = gap >= _SAME_GAIN * np.maximum(1.0, sums[..., 3])
        return np.where(defined, (sums[..., 0] - sums[..., 1]) / np.where(defined, gap, 1.0), np.nan)

    return interval_of_sums(columns, finish, draws)


def _macro_f1(judged: JudgedTasks, labelled: BoolArray, draws: GroupDraws) -> Interval:
    """A class counts in the folds whose train half fixed it."""
    methods = np.arange(judged.outcome.classes.shape[1])
    taken = np.where(judged.right, judged.label, judged.outcome.chosen)
    counted = judged.outcome.classes & labelled[:, None]
    is_label, is_taken = counted & (judged.label[:, None] == methods), counted & (taken[:, None] == methods)
    hits = (is_label & is_taken).astype(np.float64)
    claims = is_label.astype(np.float64) + is_taken
    width = len(methods)
    labelled_once = is_label.any(axis=0)

    def finish(sums: FloatArray) -> FloatArray:
        occurs = (sums[..., width:] > 0.0) & labelled_once
        each = np.where(occurs, 2.0 * sums[..., :width] / np.where(occurs, sums[..., width:], 1.0), 0.0)
        return ratio_of_sums(np.stack([each.sum(axis=-1), occurs.sum(axis=-1)], axis=-1))

    return interval_of_sums(np.concatenate([hits, claims], axis=1), finish, draws)


def usd_of(judged: JudgedTasks, chosen: IntArray | None = None) -> FloatArray:
    """Shape (k,): USD of a unit of work of each task, by the outcome's choices or by these.

    What the choice truly costs, whatever limits it breaks: violations have a column of their own, and a penalty of ten
    times the default's bill would count them twice. What delivers nothing has no price of its own and is billed that.
    NaN where the accelerator has no price, and where the default does not run: what is chosen has no value there.
    """
    price = judged.evidence.price_usd_per_hour
    if price is None:
        return np.full(len(judged.gain), np.nan)
    counted = np.isfinite(judged.gain) & np.isfinite(price)
    picked = judged.outcome.chosen if chosen is None else chosen
    delivered = np.where(counted, metrics.score(judged.evidence.table, picked), 1.0)
    return np.where(counted, price / _SECONDS_PER_HOUR / delivered, np.nan)
