"""What physics expects of pairs where its own errors, and how much the text repeats, are not known.

Separate from the one answer (`answers`): a promise is kept or it is not, so one answer jumps where it is hardly kept,
and a method that is 1 % above its bound counts as lost. Here each pair is asked at several errors of its latencies and,
where nothing is declared about repetition, under each class of text that it may turn out to be; what is told is the
mean. Errors are common to the methods of a task: what the analytical predictor gets wrong of an accelerator or of a
model moves all of them alike. An error under which no method of a task keeps its promises says nothing of methods, and
is left out of the mean, as such tasks are of tables.

For tables that selectors learn from alone: a predictor that serves thousands of candidates gives one answer each.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.corpus.task import TrafficKind
from metainf.meta_features.answers import (
    LoadedLanes,
    declared,
    goodput_share,
    normal_share,
    slo_excess,
    sustained_rate,
)
from metainf.meta_features.questions import QuestionFeatures
from metainf.predictors.contract import Predictions, Question
from metainf.predictors.lanes import LaneSet
from metainf.selectors.targets import LOST
from metainf.speculation import UNKNOWN_MIXTURE, acceptance_ratio
from metainf.workload import Repetitiveness, Traffic

__all__ = ["AskedPairs", "Expectation", "asked_pairs", "expectation"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]

_ERROR_LOG_SD = 0.35
"""Standard deviation of the error of a latency, in logarithms. Assumed; its order is that of what aiconfigurator-core
0.12.0 misses silicon by (a median error of 34 % in TTFT, 14 % in TPOT)."""
_INNER, _OUTER = math.sqrt(5.0 - math.sqrt(10.0)), math.sqrt(5.0 + math.sqrt(10.0))
_OFTEN, _SELDOM = (7.0 + 2.0 * math.sqrt(10.0)) / 60.0, (7.0 - 2.0 * math.sqrt(10.0)) / 60.0
_ERRORS = ((-_OUTER, _SELDOM), (-_INNER, _OFTEN), (0.0, 8.0 / 15.0), (_INNER, _OFTEN), (_OUTER, _SELDOM))
"""Standard deviations and their shares: five points that stand for a normal distribution.

Source: Gauss-Hermite quadrature, Abramowitz and Stegun, 25.10, in the probabilists' scale.
"""
_LOOSE, _TIGHT = 1, 3  # of these points: latencies shorter, and longer, by a factor of 1.6
_LONGEST_S = 1e9
_SMALLEST = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class AskedPairs:
    """k pairs that can be asked again with other latencies; arrays of shape (k, ...).

    Attributes
    ----------
    kinds : array of shape (k,), of traffic
    bounds_s : array of shape (k, 3, 4), seconds, as `slo_bounds` gives them
    accelerators : array of shape (k,), of one replica
    """

    kinds: NDArray[np.str_]
    loaded: LoadedLanes
    predictions: Predictions
    bounds_s: FloatArray
    accelerators: FloatArray

    def performance_log(self, error: float = 0.0) -> tuple[FloatArray, BoolArray]:
        """Log performance by the kind of traffic, shape (k,), and whether any load keeps the promises.

        Latencies are longer by exp(error). Where no load keeps the promises performance is the less the further it is
        from that.
        """
        bounds_s = self.bounds_s * math.exp(-error)
        is_rate = self.kinds == TrafficKind.RATE
        by_rate, kept = np.zeros(len(is_rate)), np.ones(len(is_rate), dtype=np.bool_)
        if is_rate.any():
            rate, excess = sustained_rate(self.loaded, bounds_s)
            by_rate = np.log(rate / self.accelerators) - np.log(np.maximum(excess, 1.0))
            kept = ~is_rate | (excess <= 1.0)
        tokens = np.maximum(self.predictions.output_tokens_per_second, 1e-6)
        by_clients = np.log(tokens * goodput_share(self.predictions, bounds_s))
        by_batch = -np.log(np.minimum(self.predictions.makespan_s, _LONGEST_S))
        found = np.select([is_rate, self.kinds == TrafficKind.BATCH], [by_rate, by_batch], by_clients)
        return found, kept

    def kept_share(self) -> FloatArray:
        """How likely it is that some rate keeps the promises, or what share of clients' requests does, shape (k,)."""
        excess = slo_excess(self.loaded.empty_latency_s(), self.bounds_s)
        likely = normal_share(-np.log(np.maximum(excess, _SMALLEST)) / _ERROR_LOG_SD)
        share = goodput_share(self.predictions, self.bounds_s)
        is_rate, is_batch = self.kinds == TrafficKind.RATE, self.kinds == TrafficKind.BATCH
        return np.select([is_rate, is_batch], [likely, np.ones(len(share))], share)


@dataclass(frozen=True, slots=True, eq=False)
class Expectation:
    """k pairs, arrays of shape (k,).

    Attributes
    ----------
    kept_share : how likely promises are kept, from 0 to 1
    tight_log, loose_log : log performance with latencies longer, and shorter, by a factor of 1.6
    shortfall : the mean of shortfalls behind the best method of the task, from `LOST` to 0
    """

    kept_share: FloatArray
    tight_log: FloatArray
    loose_log: FloatArray
    shortfall: FloatArray


def asked_pairs(
    known: QuestionFeatures,
    questions: Sequence[Question],
    lanes: LaneSet,
    *,
    kinds: NDArray[np.str_],
    bounds_s: FloatArray,
) -> AskedPairs:
    """The pairs of these questions about one replica each; `lanes` are `known.lanes` of them."""
    return AskedPairs(
        kinds=kinds,
        loaded=LoadedLanes.of(lanes),
        predictions=declared(lanes, known.penalties(questions)),
        bounds_s=bounds_s,
        accelerators=np.array([q.replica.layout.accelerators for q in questions], dtype=np.float64),
    )


def expectation(
    asked: AskedPairs, questions: Sequence[Question], task_of: IntArray, known: QuestionFeatures
) -> Expectation:
    """Means over errors of latency, and over classes of text for the drafters that hang on it.

    Parameters
    ----------
    asked : the k pairs of the questions
    task_of : array of shape (k,)
        The task of each pair, from 0 on: shortfalls are behind the best of the pairs of one task.
    """
    kept_share, tight, loose, total, weight = np.zeros((5, len(task_of)))
    texts = list(_texts(asked, questions, known))
    usual_share = asked.kept_share()
    for text in texts:
        kept_share += text.share * text.kept_share(usual_share)
    for place, (deviations, chance) in enumerate(_ERRORS):
        error = deviations * _ERROR_LOG_SD
        usual = asked.performance_log(error)
        for text in texts:
            log, kept = text.performance_log(error, usual)
            behind, some = _behind_best(log, kept, task_of)
            total += text.share * chance * np.where(some, behind, 0.0)
            weight += text.share * chance * some
            tight += text.share * log * (place == _TIGHT)
            loose += text.share * log * (place == _LOOSE)
    hopeless, _ = _behind_best(asked.performance_log()[0], np.ones(len(task_of), dtype=np.bool_), task_of)
    shortfall = np.where(weight > 0.0, total / np.maximum(weight, _SMALLEST), hopeless)
    return Expectation(kept_share, tight, loose, shortfall)


@dataclass(frozen=True, slots=True, eq=False)
class _Text:
    """A class of text, how likely it is, and the pairs whose answers hang on it, asked as if it were declared."""

    share: float
    places: IntArray
    asked: AskedPairs | None

    def performance_log(self, error: float, usual: tuple[FloatArray, BoolArray]) -> tuple[FloatArray, BoolArray]:
        """As the pairs have it, of which those that do not hang on the text say what is usual."""
        if self.asked is None:
            return usual
        log, kept = usual[0].copy(), usual[1].copy()
        log[self.places], kept[self.places] = self.asked.performance_log(error)
        return log, kept

    def kept_share(self, usual: FloatArray) -> FloatArray:
        """The same of the share that keeps its promises."""
        if self.asked is None:
            return usual
        share = usual.copy()
        share[self.places] = self.asked.kept_share()
        return share


def _texts(asked: AskedPairs, questions: Sequence[Question], known: QuestionFeatures) -> Iterator[_Text]:
    """The classes that text may turn out to be; one of all where nothing hangs on it."""
    hanging = [place for place, question in enumerate(questions) if _hangs_on_text(question)]
    places = np.array(hanging, dtype=np.intp)
    if not hanging:
        yield _Text(1.0, places, None)
        return
    for repetitiveness, share in UNKNOWN_MIXTURE:
        # Questions of one traffic share it again: lanes are told apart by the identity of what they are made from.
        traffics: dict[int, Traffic] = {}
        again = []
        for place in hanging:
            question = questions[place]
            if id(question.traffic) not in traffics:
                traffics[id(question.traffic)] = replace(question.traffic, repetitiveness=repetitiveness)
            again.append(replace(question, traffic=traffics[id(question.traffic)]))
        lanes, kinds, bounds_s = known.lanes(again), asked.kinds[places], asked.bounds_s[places]
        yield _Text(share, places, asked_pairs(known, again, lanes, kinds=kinds, bounds_s=bounds_s))


def _hangs_on_text(question: Question) -> bool:
    """Whether drafts are accepted more or less often on text of which nothing is declared."""
    speculation = question.replica.settings.speculation
    if speculation is None or question.traffic.repetitiveness is not Repetitiveness.UNKNOWN:
        return False
    return len({acceptance_ratio(speculation, repetitiveness) for repetitiveness, _ in UNKNOWN_MIXTURE}) > 1


def _behind_best(log: FloatArray, kept: BoolArray, task_of: IntArray) -> tuple[FloatArray, BoolArray]:
    """Shortfalls behind the best of each task that keeps its promises, shape (k,), and whether any does."""
    best = np.full(int(task_of.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(best, task_of[kept], log[kept])
    reference = best[task_of]
    some = np.isfinite(reference)
    return np.where(kept & some, np.maximum(log - np.where(some, reference, 0.0), LOST), LOST), some
