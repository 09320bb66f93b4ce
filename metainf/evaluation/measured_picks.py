"""What predictors pick on real servers: of each measured group the option that they expect to be fastest.

Separate from the groups, which only say what was measured: here somebody chooses, and the rows say what that was worth.
Of a group only the options count that can be put as a question; a group with fewer than two of these is left out, and
one in which all of them are within the tolerance says nothing of who picks. Equal expectations go to the option without
flags, then to the first by name, so that a predictor that knows no difference is not told one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from metainf.corpus.public_rows import PLAIN
from metainf.evaluation.bootstrap import Interval
from metainf.evaluation.measured import MeasuredGroup, groups_with_rows, mean_over_models, ratio_over_models
from metainf.evaluation.measured_questions import question_of
from metainf.predictors.contract import Predictor, Question
from metainf.selectors.contract import FloatArray

__all__ = ["AskedGroup", "MeasuredPicks", "PickFigures", "asked_groups", "measured_picks"]

_ANY = "any of them, on average"
_FEWEST = "the fewest accelerators, without flags"
_SAME_RATIO = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class AskedGroup:
    """A measured group, and as questions those of its options that can be put as one."""

    group: MeasuredGroup
    questions: Mapping[str, Question]

    @property
    def rates(self) -> FloatArray:
        """What was measured of the questions' options, in their order, shape (o,)."""
        return np.array([self.group.performance[option] for option in self.questions], dtype=np.float64)

    @property
    def right(self) -> FloatArray:
        """1 for each of them that is within the tolerance of the best of them, shape (o,)."""
        rates = self.rates
        right: FloatArray = (rates >= rates.max() * (1.0 - self.group.tolerance)).astype(np.float64)
        return right


@dataclass(frozen=True, slots=True)
class PickFigures:
    """One way to pick, over groups: geometric means, with intervals by draws of whole models.

    `right` is the share of picks within the tolerance of the best; `of_best` the measured performance of the pick over
    that of the best; `over_plain` over that without flags, NaN where no group has such an option.
    """

    right: Interval
    of_best: Interval
    over_plain: Interval


@dataclass(frozen=True, slots=True)
class MeasuredPicks:
    """Figures by predictor, and of what picks without predicting, over the groups in which the pick matters."""

    groups: int
    indifferent: int
    """Groups beside these in which every option that can be asked about is within the tolerance of the best."""
    unasked: int
    """Groups of which fewer than two options can be put as a question."""
    figures: Mapping[str, PickFigures]


def asked_groups(table: pa.Table) -> tuple[AskedGroup, ...]:
    """Every measured group of the table, with what of it can be asked: all under the first one's traffic.

    Mean lengths of equal prompts differ by a few tokens from run to run, and would decide between equal options.
    """
    found = []
    for group, rows in groups_with_rows(table):
        asked = {option: question_of(rows[option]) for option in group.performance}
        known = {option: each for option, each in asked.items() if each is not None}
        alike = {option: replace(each, traffic=next(iter(known.values())).traffic) for option, each in known.items()}
        found.append(AskedGroup(group, alike))
    return tuple(found)


def measured_picks(
    groups: Sequence[AskedGroup], predictors: Mapping[str, Predictor], *, seed: int = 0
) -> MeasuredPicks | None:
    """What each predictor's picks were worth on groups of one source; None where there is no group to pick in."""
    several = [each for each in groups if len(each.questions) > 1]
    shown = [each for each in several if not each.right.all()]
    if not shown:
        return None
    picks: dict[str, list[FloatArray]] = {
        name: [_chosen(each, _expected(each, predictor)) for each in shown] for name, predictor in predictors.items()
    }
    picks[_FEWEST] = [_chosen(each, _fewness(each)) for each in shown]
    picks[_ANY] = [np.full(len(each.questions), 1.0 / len(each.questions)) for each in shown]
    figures = {name: _figures(shown, weights, seed) for name, weights in picks.items()}
    return MeasuredPicks(len(shown), len(several) - len(shown), len(groups) - len(several), figures)


def _expected(asked: AskedGroup, predictor: Predictor) -> FloatArray:
    """Output tokens per second of an accelerator, shape (o,); 0 of what cannot serve."""
    questions = list(asked.questions.values())
    rates = predictor.predict(questions).output_tokens_per_second
    accelerators = np.array([question.replica.layout.accelerators for question in questions])
    known: FloatArray = np.nan_to_num(rates / accelerators, nan=0.0, posinf=0.0, neginf=0.0)
    return known


def _fewness(asked: AskedGroup) -> FloatArray:
    return np.array([1.0 / question.replica.layout.accelerators for question in asked.questions.values()])


def _chosen(asked: AskedGroup, expected: FloatArray) -> FloatArray:
    """Shape (o,): 1 for the pick, 0 for the others."""
    options = list(asked.questions)
    close = np.flatnonzero(expected >= expected.max() * (1.0 - _SAME_RATIO))
    place = min(close.tolist(), key=lambda at: (options[at] != PLAIN, options[at]))
    pick: FloatArray = (np.arange(len(options)) == place).astype(np.float64)
    return pick


def _figures(groups: Sequence[AskedGroup], weights: Sequence[FloatArray], seed: int) -> PickFigures:
    measured = [each.group for each in groups]

    def mean_of(values: Callable[[AskedGroup], FloatArray]) -> list[float]:
        return [float(weight @ values(each)) for each, weight in zip(groups, weights, strict=True)]

    logs = mean_of(lambda each: np.log(each.rates))
    best = [math.log(each.rates.max()) for each in groups]
    plain = [(log, group) for log, group in zip(logs, measured, strict=True) if PLAIN in group.performance]
    return PickFigures(
        right=mean_over_models(mean_of(lambda each: each.right), measured, seed),
        of_best=ratio_over_models([log - most for log, most in zip(logs, best, strict=True)], measured, seed),
        over_plain=ratio_over_models(
            [log - math.log(group.performance[PLAIN]) for log, group in plain], [group for _, group in plain], seed
        ),
    )
