"""The caution of choices: a factor on all spreads by which what is chosen keeps its limits as often as it says.

Separate from the spreads, which are right for all candidates and so not for the chosen one, which was chosen for having
been predicted too well.

A case is a task of the corpus with its limits, which are promises, the load or the deadline, and the budget that is
drawn for it (`evaluation.budgets`). The cheapest candidate that seems to keep every one is taken. A rate is asked for
at a multiple of itself: candidates are the methods times a number of replicas, and the corpus knows the highest rate at
which each method truly keeps its promises. Closed loops and batches are known under their own load alone: candidates
are the methods on one replica, and the cheapest is that which is predicted to do most for the money. What replicas cost
per hour is known, and a budget of that kind rules candidates out; what a token or a batch costs is predicted, and such
a budget is one more limit that the chosen one may break.

An operator chooses among places too, whose errors have less in common than those of methods on one place, so that the
chosen one is more often one that was predicted too well. The corpus has twins for that: one workload on several places,
which together are a case as well, with a budget around what the default costs on the cheapest of these. Where
accelerators are held out, the places of a case are those of one generation: a guarantee is about a group that was not
seen, and all of a case has to be of one.

A caution is one for each kind of traffic, and for generations of accelerators that were trained on (from held-out model
families) and for others (from held-out generations): a workload is promised its confidence whatever its kind, and one
kind that needs much of it is no reason to refuse another. How it is found, and what that promises, says
`evaluation.calibration`. It is a mean over groups, and says nothing of a workload whose model and whose generation are
both unknown, or of one choice among places of both categories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metainf.corpus.task import Task, TrafficKind
from metainf.evaluation.calibration import (
    LEAST,
    CalibrationCase,
    Inflation,
    cheapest_with,
    fit_inflation,
    violation_rate,
)
from metainf.predictors.base_answers import CAPACITY, LATENCIES, MAKESPAN, THROUGHPUT
from metainf.predictors.corrections import Corrections, Responses, responses
from metainf.training.decision_pairs import RATE_REPLICAS, Pairs, pairs_of
from metainf.training.predicted_spreads import Spreads
from metainf.training.rows import BLOCK, TrainingRows, inputs_of
from metainf.training.spreads import CONFIDENCE

__all__ = [
    "CAUTIONS",
    "Decided",
    "Foresight",
    "calibration_case",
    "caution_of",
    "decided",
    "decision_cases",
    "every_case",
    "foresight",
]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

CAUTIONS = (LEAST, 4.0)
"""Least and largest factor. Where even the largest does not do, what is left is said in the figures."""
_SECONDS_PER_HOUR = 3600.0
_MILLION = 1e6


def decision_cases(
    table: pa.Table,
    tasks: Mapping[str, Task],
    rows: TrainingRows,
    found: Corrections,
    spreads: Spreads,
    *,
    groups: StringArray,
    kind: TrafficKind = TrafficKind.RATE,
    twins: bool = False,
) -> CalibrationCase | None:
    """The cases of one split and kind of traffic; None where the corpus has no such tasks.

    Parameters
    ----------
    found : what trees that never saw a lane's group say of it
    groups : array of shape (m,), of the lanes
    twins : whether a case is a workload on all of its places, and not a task on its own
    """
    pairs = pairs_of(table, tasks, rows, kind, groups if twins else None)
    if not len(pairs.case):
        return None
    foreseen = foresight(pairs, rows, found, spreads)
    return calibration_case(pairs, foreseen.margin, foreseen.work, groups[pairs.lane])


def calibration_case(pairs: Pairs, margin: FloatArray, work: FloatArray, groups: StringArray) -> CalibrationCase:
    """The choices among pairs whose limits seem so far away and whose work so much, as `Foresight` has them.

    `groups` has shape (p,), and is the same for all pairs of a case.
    """
    names, of = np.unique(pairs.case, return_inverse=True)
    of = of.ravel()
    width, place, each = int(np.bincount(of).max()), _place_within(of), pairs.load.shape[1]
    shape = len(names), width, each
    margins, costs, kept = np.full(shape, -np.inf), np.full(shape, np.inf), np.zeros(shape, dtype=np.bool_)
    margins[of, place] = margin
    # Logarithms: the work and its price; of equal ones the simpler.
    costs[of, place] = np.log(pairs.usd_per_hour)[:, None] + work + 1e-3 * pairs.complexity[:, None]
    kept[of, place] = pairs.kept
    case_groups = np.empty(len(names), dtype=groups.dtype)
    case_groups[of] = groups
    flat = len(names), width * each
    return CalibrationCase(margins.reshape(flat), kept.reshape(flat), costs.reshape(flat), case_groups)


def every_case(
    table: pa.Table,
    tasks: Mapping[str, Task],
    rows: TrainingRows,
    found: Corrections,
    spreads: Spreads,
    *,
    groups: StringArray,
    kind: TrafficKind,
) -> Sequence[CalibrationCase]:
    """The cases of one split and kind of traffic: tasks on their own first, then workloads over several places."""
    each = [
        decision_cases(table, tasks, rows, found, spreads, groups=groups, kind=kind, twins=twins)
        for twins in (False, True)
    ]
    return [case for case in each if case is not None]


def caution_of(cases: Sequence[CalibrationCase]) -> tuple[float, Inflation]:
    """The factor for one split's cases of one kind of traffic, and how it was found."""
    inflation = fit_inflation(cases, CONFIDENCE)
    return min(inflation.value, CAUTIONS[1]), inflation


@dataclass(frozen=True, slots=True)
class Decided:
    """What a caution comes to: shares of picks and tasks.

    Attributes
    ----------
    violations : float
        Of picks, weighted mean over the groups with picks; NaN without any.
    refusals : float
        Of tasks.
    false_refusals : float
        Of the tasks that some candidate truly serves; 0 where there are none.
    """

    violations: float
    refusals: float
    false_refusals: float


def decided(cases: Sequence[CalibrationCase], caution: float) -> Decided:
    """What is picked and refused under a caution."""
    picks = [cheapest_with(case, caution) for case in cases]
    picked = np.concatenate(picks) >= 0
    broke = np.concatenate([case.breaks(pick) for case, pick in zip(cases, picks, strict=True)])
    servable = np.concatenate([case.kept.any(axis=1) for case in cases])
    groups = np.concatenate([case.groups for case in cases])
    codes = np.unique(groups, return_inverse=True)[1].ravel().astype(np.intp)
    return Decided(
        violations=violation_rate(picked, broke, codes, CONFIDENCE)[0],
        refusals=float(np.mean(~picked)),
        false_refusals=float(np.mean(~picked[servable])) if servable.any() else 0.0,
    )


def _place_within(of: IntArray) -> IntArray:
    """Number of each entry among those of equal value."""
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], of[order], side="left")
    place = np.empty_like(of)
    place[order] = np.arange(len(of)) - starts
    return place


@dataclass(frozen=True, slots=True, eq=False)
class Foresight:
    """What is predicted of p pairs at each of r numbers of replicas.

    Attributes
    ----------
    margin : array of shape (p, r)
        How far the nearest limit is, in what the confidence asks for; -inf of what cannot be chosen.
    room : array of shape (p, r)
        Logarithm of what is allowed over what is needed, the least over the limits; negative where one seems broken.
    work : array of shape (p, r)
        Logarithm of what a price per hour is multiplied by: replicas of a rate, seconds of a batch or for a token.
    """

    margin: FloatArray
    room: FloatArray
    work: FloatArray


def foresight(pairs: Pairs, rows: TrainingRows, found: Corrections, spreads: Spreads) -> Foresight:
    """Predict what limits pairs have.

    Where the analytical model has a part in an answer the caution is at least 1 (see `predictors.trained`): what is
    nearer than that cannot be chosen there.
    """
    margin, room, work = np.empty((3, *pairs.load.shape))
    asked = _Asked.of(pairs, rows)
    for start in range(0, len(pairs.case), BLOCK):
        part = slice(start, start + BLOCK)
        inputs, numbers = inputs_of(rows, pairs.lane[part])
        own = Corrections(found.residual[numbers], found.distance[numbers], found.fade[numbers])
        distance = own.distance[inputs.lanes.of]
        tokens = np.asarray(inputs.lanes.traffic.output_tokens)[inputs.lanes.of] * inputs.lanes.lanes
        is_open, is_batch = asked.is_open[part], asked.is_batch[part]
        for column in range(pairs.load.shape[1]):
            load = pairs.load[part, column] / inputs.lanes.lanes
            load = np.where(is_batch, np.ceil(load), load)
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                answer = responses(inputs.lanes, inputs.capacity, own, load)
                sd = spreads(answer, distance, pairs.lane[part])
                spare = np.log(pairs.budget_usd[part] / pairs.usd_per_hour[part]) - _hours(answer, tokens, is_batch)
                rooms = np.column_stack(
                    [
                        np.log(pairs.bounds_s[part]) - answer.answer[:, :LATENCIES],
                        answer.answer[:, CAPACITY] - np.log(load),
                        np.log(pairs.deadline_s[part]) - answer.answer[:, MAKESPAN],
                        spare,
                    ]
                )
                of_work = np.where(is_batch, sd[:, MAKESPAN], sd[:, THROUGHPUT])
                sds = np.column_stack([sd[:, :LATENCIES], sd[:, CAPACITY], sd[:, MAKESPAN], of_work])
                away = rooms / sds
            possible = inputs.lanes.feasible[inputs.lanes.of]
            possible &= ~is_open | (pairs.usd[part, column] <= pairs.budget_usd[part])
            nearest = np.where(asked.limits[part], away, np.inf).min(axis=1) / asked.z[part]
            nearest = np.where(possible & ~((distance > 1.0) & (nearest < 1.0)), nearest, -np.inf)
            margin[part, column] = nearest
            room[part, column] = np.where(possible, np.where(asked.limits[part], rooms, np.inf).min(axis=1), -np.inf)
            per_token = -answer.answer[:, THROUGHPUT] - np.log(inputs.lanes.lanes)
            work[part, column] = np.where(is_batch, answer.answer[:, MAKESPAN], per_token)
            work[part, column] = np.where(is_open, np.log(RATE_REPLICAS[column]), work[part, column])
    return Foresight(np.nan_to_num(margin, nan=-np.inf, posinf=np.inf, neginf=-np.inf), room, work)


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Which limits of p pairs hang on a prediction.

    Attributes
    ----------
    limits : array of shape (p, LATENCIES + 3), bool
        Latencies, the load, the deadline, and the budget; that of a rate is per hour, which is known.
    z : array of shape (p,)
        How many standard deviations the confidence asks of each.
    is_open, is_batch : arrays of shape (p,), bool
    """

    limits: BoolArray
    z: FloatArray
    is_open: BoolArray
    is_batch: BoolArray

    @classmethod
    def of(cls, pairs: Pairs, rows: TrainingRows) -> "_Asked":
        is_batch = np.isfinite(pairs.deadline_s)
        is_open = ~np.isnan(np.asarray(rows.lanes.traffic.rate))[pairs.lane]
        is_bought = np.isfinite(pairs.budget_usd) & ~is_open
        limits = np.column_stack([np.isfinite(pairs.bounds_s), is_open, is_batch, is_bought])
        normal = NormalDist()
        z = [normal.inv_cdf(1.0 - (1.0 - CONFIDENCE) / count) for count in limits.sum(axis=1).tolist()]
        return cls(limits, np.array(z, dtype=np.float64), is_open, is_batch)


def _hours(answer: Responses, tokens: FloatArray, is_batch: BoolArray) -> FloatArray:
    """Log of the predicted hours of one replica for a batch, or for a million output tokens of clients, shape (n,).

    Parameters
    ----------
    tokens : array of shape (n,)
        Output tokens of a request of each lane, added up over the replica's lanes.
    """
    delivered = np.minimum(answer.answer[:, THROUGHPUT], answer.answer[:, CAPACITY]) + np.log(tokens)
    work = np.where(is_batch, answer.answer[:, MAKESPAN], np.log(_MILLION) - delivered)
    return np.asarray(work - np.log(_SECONDS_PER_HOUR))
