"""How the operator would rank the methods of a task: by a predictor's answers to the questions that it asks itself.

Separate from the selector that trains a predictor (`shipped`): any predictor can be asked, and tests hold the rule
against the operator's own (`metainf.assessment`, `metainf.selection`).

The questions are about one replica, which performance is of. Clients and batches are asked about as they are declared.
A rate is asked about at the highest at which one replica keeps every limit: equal replicas share a rate, so the fewest
that the operator needs are the rate over that one, and the cheapest method is the one with the highest. Rejected: to
ask about the declared rate alone, which one replica carries under nearly every method.

The rule. Methods that keep all limits go first, by what they do at the median prediction: on one place that is what
costs least per hour, per token or in total. Equal ones go to the simpler (`choose`). Then come the others, the nearer
to their limits the better: the operator would refuse where there are only such, a selector has to name one.

When limits are kept is asked in one of two ways. At a confidence, as the operator does before it serves anything:
spreads are those for choosing, each times its caution, and every limit is judged at 1 - (1 - confidence) / limits. Or
at the medians, for who is not free to refuse and is scored by what the choice does: wide spreads break every method's
promises on most tasks, and what is nearest to them then is the method with the shortest latencies, not the best one.
Closed gap on decisive tasks, 130 to 240 learnt from, at the medians and at 0.9: rates .51 and .23, closed loops .62 and
.55, batches .68 and .61 (models held out); .50 and .31, .63 and .47, .64 and .64 (accelerators). The mean over
quantiles of the errors, with a loss where nothing is kept, was no better than the medians.

The budget is counted among the limits and not held against the answers: on one place what does most for the hour is the
cheapest, so no budget makes another method the right one. Closed loops with an SLO are not quite so, since tokens that
come too late count for the budget and not for performance: there a budget can forbid the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from metainf.assessment import uncertain_limits
from metainf.corpus.budget_kinds import any_budget
from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import Task, TrafficKind
from metainf.meta_features.answers import slo_bounds, slo_excess
from metainf.methods import portfolio
from metainf.predictors.contract import Predictions, Predictor, Question
from metainf.selectors.contract import BoolArray, FloatArray
from metainf.workload import RateLoad, Workload

__all__ = ["operator_scores"]

IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

_BLOCK = 256  # tasks asked about together
_LEAST_SHARE = 1e-2  # of the capacity, as in the corpus: a promise that holds only below holds at no load
_BISECTIONS = 11  # of three decades: rates within 0.4 %
_SLACK = 1.0 + 1e-9
_SMALLEST = 1e-300
_LEAST_RATE = 1e-9  # what cannot be served carries none, and is asked about all the same
_MISSED = -1e3
"""Below the logarithm of any performance: what breaks a limit comes after all that keep theirs."""
_FURTHEST = 100.0  # a logarithm beyond which misses are not told apart


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """k pairs of tasks and methods, arrays of shape (k, ...).

    Attributes
    ----------
    task_of, method_of : rows and columns of the pairs
    kind : array of shape (k,), of traffic
    z : array of shape (k,)
        Normal quantile at which each limit is judged.
    bounds_s : array of shape (k, 3, 4), seconds, as `slo_bounds` gives them
    deadline_s : array of shape (k,), infinite for others than batches
    """

    questions: tuple[Question, ...]
    task_of: IntArray
    method_of: IntArray
    kind: StringArray
    z: FloatArray
    bounds_s: FloatArray
    deadline_s: FloatArray

    def of_kind(self, kind: TrafficKind) -> "_Pairs":
        """The pairs of one kind of traffic alone."""
        places = np.flatnonzero(self.kind == kind.value)
        arrays = ("task_of", "method_of", "kind", "z", "bounds_s", "deadline_s")
        questions = tuple(self.questions[place] for place in places.tolist())
        return _Pairs(questions, **{name: getattr(self, name)[places] for name in arrays})


def operator_scores(
    predictor: Predictor,
    tasks: Sequence[Task],
    methods: Sequence[str],
    feasible: BoolArray,
    *,
    confidence: float | None = None,
) -> FloatArray:
    """Scores of m methods on n tasks, shape (n, m), higher is better; NaN where facts rule a pair out.

    The logarithm of the predicted performance where every limit is kept at the confidence, or at the medians without
    one: requests per second of a replica at which that is so, output tokens per second, or 1 / makespan. Below all of
    these where one is not.
    """
    scores = np.full(feasible.shape, np.nan)
    for start in range(0, len(tasks), _BLOCK):
        block = slice(start, start + _BLOCK)
        pairs = _pairs(tasks[block], methods, feasible[block], confidence)
        for kind in TrafficKind:
            own = pairs.of_kind(kind)
            if own.questions:
                ask = _sustained if kind is TrafficKind.RATE else _declared
                performance_log, worst = ask(predictor, own)
                missed = _MISSED - np.minimum(np.log(np.maximum(worst, 1.0)), _FURTHEST)
                scores[start + own.task_of, own.method_of] = np.where(worst <= _SLACK, performance_log, missed)
    return scores


def _pairs(tasks: Sequence[Task], methods: Sequence[str], feasible: BoolArray, confidence: float | None) -> _Pairs:
    questions: list[Question] = []
    task_of: list[int] = []
    method_of: list[int] = []
    for row, task in enumerate(tasks):
        known = {method.name: method for method in portfolio(task.engine_version)}
        for column in np.flatnonzero(feasible[row]).tolist():
            method = known.get(methods[column])
            replica = None if method is None else replica_of(task, method)
            if replica is None or isinstance(replica, Infeasible):
                continue
            questions.append(Question(replica, task.traffic))
            task_of.append(row)
            method_of.append(column)
    of = np.array(task_of, dtype=np.intp)
    z = np.array([_quantile(task, confidence) for task in tasks], dtype=np.float64)
    return _Pairs(
        questions=tuple(questions),
        task_of=of,
        method_of=np.array(method_of, dtype=np.intp),
        kind=np.array([task.kind.value for task in tasks], dtype=np.str_)[of],
        z=z[of],
        bounds_s=slo_bounds([task.slo for task in tasks])[of],
        deadline_s=np.array([task.deadline_s for task in tasks], dtype=np.float64)[of],
    )


def _quantile(task: Task, confidence: float | None) -> float:
    """As the operator judges each limit of such a workload; 0, the median, without a confidence."""
    if confidence is None:
        return 0.0
    budget = any_budget(task.kind)
    workload = Workload(task.traffic, budget, task.slo, confidence=confidence)
    return NormalDist().inv_cdf(1.0 - (1.0 - confidence) / uncertain_limits(workload))


def _declared(predictor: Predictor, pairs: _Pairs) -> tuple[FloatArray, FloatArray]:
    """Log performance under the declared clients or batch, and the largest of needed / allowed; shape (k,) each."""
    answers = predictor.predict(pairs.questions).for_choosing()
    worst = _broken_by(answers, pairs)
    is_batch = np.isfinite(pairs.deadline_s)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        late = answers.makespan_s * np.exp(pairs.z * answers.throughput_log_sd) / pairs.deadline_s
        per_second = np.where(is_batch, 1.0 / answers.makespan_s, answers.output_tokens_per_second)
    worst = np.maximum(worst, np.where(is_batch, np.nan_to_num(late, nan=np.inf, posinf=np.inf), 0.0))
    return np.log(np.maximum(np.nan_to_num(per_second), _SMALLEST)), worst


def _sustained(predictor: Predictor, pairs: _Pairs) -> tuple[FloatArray, FloatArray]:
    """Log of the highest rate of one replica that keeps every limit, and the largest of needed / allowed; (k,) each.

    The latter is that at the lowest rate that is tried: where it is above 1, every rate breaks a promise.
    """

    def worst_at(rate: FloatArray) -> FloatArray:
        asked = [
            replace(question, traffic=replace(question.traffic, load=RateLoad(each)))
            for question, each in zip(pairs.questions, rate.tolist(), strict=True)
        ]
        return _broken_by(predictor.predict(asked).for_choosing(), pairs)

    first = predictor.predict(pairs.questions).for_choosing()
    carried = first.capacity_requests_per_second * np.exp(-pairs.z * first.capacity_log_sd)
    high = np.maximum(np.nan_to_num(carried), _LEAST_RATE)
    low = high * _LEAST_SHARE
    worst = worst_at(low)
    low = np.where(worst_at(high) <= _SLACK, high, low)
    for _ in range(_BISECTIONS):
        middle = np.sqrt(low * high)
        kept = worst_at(middle) <= _SLACK
        low, high = np.where(kept, middle, low), np.where(kept, high, middle)
    return np.log(low), worst


def _broken_by(answers: Predictions, pairs: _Pairs) -> FloatArray:
    """The worst promised latency at its quantile over its bound, shape (k,), by the spreads for choosing."""
    with np.errstate(over="ignore", invalid="ignore"):
        latency_s = answers.latency_s * np.exp(pairs.z[:, None, None] * answers.latency_log_sd)
        worst = slo_excess(latency_s, pairs.bounds_s)
    return np.nan_to_num(worst, nan=np.inf, posinf=np.inf)
