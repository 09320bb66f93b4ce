"""What the predictors promise of a corpus's own rows, judged on groups that they never saw, by kind of traffic.

Separate from training, which keeps one model of all rows: here nothing is kept, and the analytical predictor is held
to the same rows by the same code. The selectors' evaluation is apart from this: it ranks methods, this says seconds.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metainf.corpus.task import Task, TrafficKind
from metainf.errors import InvalidWorkloadError, UndefinedMetricError
from metainf.evaluation.calibration import HeldOutDecision, held_out_decision
from metainf.evaluation.intervals import IntervalFigures, interval_figures
from metainf.predictors.base_answers import TARGETS
from metainf.predictors.corrections import Corrections, Responses
from metainf.training.decisions import decision_cases
from metainf.training.held_out import Errors, SplitAnswers, analytical_only, errors
from metainf.training.predicted_spreads import Spreads, analytical_spreads, trained_spreads
from metainf.training.rows import TrainingRows, training_rows
from metainf.training.spreads import CONFIDENCE, DEVIATIONS
from metainf.training.step_factors import factor_slopes
from metainf.training.train import TrainingPlan, held_out_splits, prefixed, thinned
from metainf.training.widths import JudgedSplit, fitted_spreads

__all__ = ["ANALYTICAL", "TRAINED", "JudgedDecision", "JudgedIntervals", "Judgement", "judge"]

FloatArray = NDArray[np.float64]
StringArray = NDArray[np.str_]

ANALYTICAL, TRAINED = "analytical", "trained"
_SHOWN_TARGETS = ("ttft_mean", "ttft_p95", "tpot_mean", "tpot_p95", "e2e_p95", "capacity", "throughput", "makespan")


@dataclass(frozen=True, slots=True)
class JudgedIntervals:
    """90 % intervals of one figure; widths and scores are of its natural logarithm."""

    kind: TrafficKind
    split: str
    predictor: str
    target: str
    figures: IntervalFigures
    median_error: float
    """Of |log(truth / prediction)|, over rows."""


@dataclass(frozen=True, slots=True)
class JudgedDecision:
    """The cheapest candidate that seems to keep every limit, under an inflation fitted on other groups."""

    kind: TrafficKind
    split: str
    predictor: str
    figures: HeldOutDecision
    twins: bool = False
    """Whether places were chosen among too."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """All of it, in the order of kinds, splits and predictors."""

    lanes: int
    rows: int
    intervals: tuple[JudgedIntervals, ...]
    decisions: tuple[JudgedDecision, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Predictor:
    """One predictor on one split: rows as it has them, what it corrects, how sure it is, its errors, half widths."""

    name: str
    rows: TrainingRows
    found: Corrections
    spreads: Spreads
    whole: Errors
    reach: FloatArray


def judge(
    table: pa.Table,
    tasks: Sequence[Task],
    plan: TrainingPlan,
    *,
    whole: Collection[str] | None = None,
    report: Callable[[str], None] = lambda what: None,
) -> Judgement:
    """Judge both predictors on the rows of one world.

    Parameters
    ----------
    plan : TrainingPlan
        What is held out is judged as training would learn from the rest: a fit for each fold of each split.
    whole : keys of tasks, optional
        Those that have rows of all methods, on which decisions are judged; None: all of them.

    Raises
    ------
    InvalidWorkloadError
        No row teaches anything.
    """
    by_key = {task.key: task for task in tasks}
    chosen_among = {key: task for key, task in by_key.items() if whole is None or key in whole}
    table = thinned(table, by_key, plan.most_lanes)
    rows = training_rows(table, by_key)
    if not len(rows):
        raise InvalidWorkloadError("judging predictors needs simulated rows about the corpus's own tasks")
    said = prefixed(report, "predictors: ")
    said("fitting the steps of accelerators")
    slopes = factor_slopes(rows)
    kinds = np.array([by_key[task].kind.value for task, _ in rows.key], dtype=np.str_)[rows.lane]
    intervals: list[JudgedIntervals] = []
    decisions: list[JudgedDecision] = []
    answers = held_out_splits(rows, slopes, plan, said).splits
    spreads = fitted_spreads(rows, answers, seed=plan.seed, most_folds=plan.most_folds, report=said)
    for split, each in answers.items():
        name = f"leave-{split}-out"
        said(f"{name}: judging")
        for predictor in _predictors(rows, each, spreads.splits[split]):
            intervals += _intervals(each.groups, predictor, kinds, name)
            decisions += _decisions(table, chosen_among, each.groups, predictor, name)
    kind_order = [kind.value for kind in TrafficKind]
    return Judgement(
        lanes=len(rows.questions),
        rows=len(rows),
        intervals=tuple(sorted(intervals, key=lambda each: kind_order.index(each.kind.value))),
        decisions=tuple(sorted(decisions, key=lambda each: kind_order.index(each.kind.value))),
    )


def _predictors(rows: TrainingRows, answers: SplitAnswers, split: JudgedSplit) -> Iterator[_Predictor]:
    """Both on the rows of one split; `rows` are those under no factors, as the analytical predictor has them."""
    plain = analytical_only(len(rows.questions))
    sure = analytical_spreads(rows)
    whole = errors(rows, plain, at_true_utilization=False)
    answer = Responses(np.empty((len(rows), 0)), whole.utilization, whole.coordinate, whole.kind, whole.luck)
    yield _Predictor(ANALYTICAL, rows, plain, sure, whole, DEVIATIONS * sure(answer, np.zeros(len(rows)), rows.lane))
    learnt = trained_spreads(split.spread, split.factor, answers.rows)
    yield _Predictor(TRAINED, answers.rows, answers.corrections, learnt, split.scored.whole, split.reach)


def _intervals(groups: StringArray, predictor: _Predictor, kinds: StringArray, split: str) -> Iterator[JudgedIntervals]:
    groups = groups[predictor.rows.lane]
    for kind in TrafficKind:
        for name in _SHOWN_TARGETS:
            target = TARGETS.index(name)
            error, half = predictor.whole.error[:, target], predictor.reach[:, target]
            known = (kinds == kind.value) & np.isfinite(error) & np.isfinite(half)
            if known.any():
                figures = interval_figures(
                    error[known], -half[known], half[known], groups[known], confidence=CONFIDENCE
                )
                median = float(np.median(np.abs(error[known])))
                yield JudgedIntervals(kind, split, predictor.name, name, figures, median)


def _decisions(
    table: pa.Table,
    tasks: Mapping[str, Task],
    groups: StringArray,
    predictor: _Predictor,
    split: str,
) -> Iterator[JudgedDecision]:
    for kind, twins in product(TrafficKind, (False, True)):
        told = predictor.rows, predictor.found, predictor.spreads
        case = decision_cases(table, tasks, *told, groups=groups, kind=kind, twins=twins)
        if case is None:
            continue
        try:
            yield JudgedDecision(kind, split, predictor.name, held_out_decision(case, CONFIDENCE), twins)
        except UndefinedMetricError:
            continue  # all tasks with limits are of one group
