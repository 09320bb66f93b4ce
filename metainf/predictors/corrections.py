"""What was learnt, applied: capacity, latencies, throughput and makespan of lanes under loads, with their spreads.

Separate from the predictor so that training judges residuals on held-out groups through the very code that the
operator runs. A correction is a residual of a logarithm, per target and per knot of the load.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metainf.batches import batch_luck_log_sd
from metainf.predictors.base_answers import (
    CAPACITY,
    KNOTS,
    LATENCIES,
    MAKESPAN,
    TARGETS,
    THROUGHPUT,
    base_answers,
    coordinates,
    knot_answers,
    knot_loads,
)
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, FloatArray
from metainf.predictors.familiarity import FAR, Familiarity, fading
from metainf.predictors.inputs import INPUTS, LaneInputs
from metainf.predictors.lanes import LaneSet
from metainf.predictors.spread import MOST_LOG_SD, SPECULATION_LOG_SD, near_capacity
from metainf.predictors.step_factors import StepFactors
from metainf.predictors.trees import ObliviousTrees

__all__ = [
    "BATCH",
    "CONCURRENCY",
    "KINDS",
    "RATE",
    "SEEN",
    "UNSEEN",
    "Corrections",
    "Responses",
    "TrainedModel",
    "corrections",
    "kinds_of",
    "knot_weights",
    "near_full",
    "responses",
    "speculation_log_sd",
    "spreads_at",
    "width_factors",
    "with_distance",
]

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]

KINDS = ("rate", "concurrency", "batch")
"""Kinds of traffic, by the names that the corpus has for them (`TrafficKind`)."""
RATE, CONCURRENCY, BATCH = range(len(KINDS))
SEEN, UNSEEN = range(2)
"""Categories of lanes: whether the generation of their accelerator was trained on."""

_RISING = (*range(LATENCIES), THROUGHPUT)
_BUSIEST = 0.99
_ALMOST_FULL = 1.0 - 1e-6
_DRAFTS = [INPUTS.index(name) for name in ("set_copied_drafts", "set_trained_drafts")]
_LEAST_MEAN_LOG = np.log([0.5, 0.05, 0.01])
"""A mean is at least that share of the median, the 95th and the 99th percentile (Markov's inequality)."""
_MOST_LOG_FACTOR = float(np.log(3.0))
"""What features make of a width at most, either way: beyond that they tell of lanes that no group was like."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """All that training leaves behind.

    Attributes
    ----------
    trees : of TARGETS over INPUTS at KNOTS
        What is left of the answers over steps under the factors.
    log_sd : array of shape (2, kinds, knots, targets)
        Spread of log(truth / prediction): of generations that were trained on, and of others; by KINDS.
    growth : array of shape (2,)
        How much the spread grows with the distance: x (1 + growth x distance over its threshold).
    generations : groups of accelerators that were trained on
    caution : array of shape (2, kinds)
        As `Predictions` has it: by SEEN and UNSEEN, and by KINDS.
    width_trees : of TARGETS over INPUTS, without knots; None where all lanes have the same widths
        Logarithms of factors on the spreads, see `width_factors`.
    factors : of accelerators' steps
    """

    trees: ObliviousTrees
    familiarity: Familiarity
    log_sd: FloatArray
    growth: FloatArray
    generations: frozenset[str]
    caution: FloatArray
    width_trees: ObliviousTrees | None = None
    factors: StepFactors = field(default_factory=StepFactors.none)


@dataclass(frozen=True, slots=True, eq=False)
class Corrections:
    """What was learnt of m lanes.

    Attributes
    ----------
    residual : array of shape (m, knots, targets)
        Faded already where the lane is far from what is known.
    distance : array of shape (m,)
        Of the least familiar group of inputs, over its threshold.
    fade : array of shape (m,)
        Share of the analytical model.
    """

    residual: FloatArray
    distance: FloatArray
    fade: FloatArray

    @classmethod
    def of(cls, residual: FloatArray, distance: FloatArray) -> "Corrections":
        """Of what trees say, shape (m, knots, targets), and distances over their thresholds, shape (m, groups)."""
        furthest = distance.max(axis=1, initial=0.0)
        fade = fading(furthest)
        return cls(residual * (1.0 - fade[:, None, None]), furthest, fade)


@dataclass(frozen=True, slots=True, eq=False)
class Responses:
    """What n loads of m lanes come to.

    Attributes
    ----------
    answer : array of shape (n, targets), logarithms
        Latencies are infinite where an open loop exceeds the capacity.
    utilization : array of shape (n,)
        Rate over capacity, of open loops alone; 0 for others.
    coordinate : array of shape (n,)
        Of the load between the knots.
    kind : array of shape (n,)
        Of the traffic, by KINDS.
    luck : array of shape (n,)
        Log standard deviation of a batch's makespan under the draw of lengths; 0 for other traffic.
    """

    answer: FloatArray
    utilization: FloatArray
    coordinate: FloatArray
    kind: IntArray
    luck: FloatArray


def corrections(model: TrainedModel, inputs: LaneInputs, distance: FloatArray) -> Corrections:
    """What the trees say of each lane at the knots; `distance` as `Familiarity` gives it, shape (m, groups)."""
    return Corrections.of(model.trees.at_knots(inputs.rows), distance)


def responses(
    lanes: LaneSet, capacity: FloatArray, found: Corrections, load: FloatArray, knots: FloatArray | None = None
) -> Responses:
    """The corrected answers at n loads of m lanes.

    Parameters
    ----------
    capacity : array of shape (m,), requests/s
        The most that one lane completes, before it is corrected.
    load : array of shape (n,)
        Per lane: requests per second, clients, or requests of a batch.
    knots : array of shape (m, KNOTS, targets), optional
        As `knot_answers` gives them, where they are at hand.
    """
    of, own_capacity = lanes.of, capacity
    capacity = (own_capacity * np.exp(found.residual[:, -1, CAPACITY]))[of]
    is_open = lanes.lane.open_loop[of] > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        utilization = np.where(is_open, load / capacity, 0.0)
    # A knot is a utilisation, of the analytical lane as of the corrected one: that is where what was learnt belongs.
    shifted = np.where(is_open, np.minimum(utilization, _ALMOST_FULL) * own_capacity[of], load)
    coordinate = coordinates(lanes, knot_loads(lanes, own_capacity), shifted, own_capacity[of])
    below, share = knot_weights(coordinate)
    kind = kinds_of(lanes)[of]
    is_batch = kind == BATCH
    answer = base_answers(lanes, shifted, own_capacity[of])
    between = answer + _between(found.residual, of, below, share)
    if is_batch.all():
        answer = between
    else:
        knots = knot_answers(lanes, own_capacity) if knots is None else knots
        steady = _followed(answer, knots, found.residual, (of, below, share))
        answer = np.where(is_batch[:, None], between, steady)
    answer[:, CAPACITY] = np.log(capacity)
    answer[:, :LATENCIES] = _ordered(answer[:, :LATENCIES])
    answer[is_open & ~(utilization < 1.0), :LATENCIES] = np.inf
    luck = _luck(lanes, load, own_capacity) if is_batch.any() else np.zeros_like(load)
    return Responses(answer, utilization, coordinate, kind, luck)


def kinds_of(lanes: LaneSet) -> IntArray:
    """The kind of traffic of m lanes, by KINDS."""
    is_open, is_batch = (~np.isnan(np.asarray(each)) for each in (lanes.traffic.rate, lanes.traffic.requests))
    return np.where(is_open, RATE, np.where(is_batch, BATCH, CONCURRENCY)).astype(np.intp)


def _luck(lanes: LaneSet, load: FloatArray, capacity: FloatArray) -> FloatArray:
    """What `Responses` has as luck; `capacity` as `responses` takes it."""
    each = lanes.per_question()
    requests, *log_sd = (
        np.asarray(value) for value in (each.traffic.requests, each.traffic.input_log_sd, each.traffic.output_log_sd)
    )
    is_batch = ~np.isnan(requests)
    size = np.where(is_batch, load, 1.0)
    luck = batch_luck_log_sd(
        each.lane, size, capacity[lanes.of], (log_sd[0], log_sd[1]), np.where(is_batch, requests, 1.0)
    )
    return np.where(is_batch, luck, 0.0)


def _followed(
    own: FloatArray, knots: FloatArray, residual: FloatArray, at: tuple[IntArray, IntArray, FloatArray]
) -> FloatArray:
    """Corrected answers of steady loads, shape (n, targets): never falling along the load.

    Between two knots an answer is as far from one to the other as the analytical one is from its own at the first to
    its own at the second; outside of all knots it moves as the analytical one does.

    Parameters
    ----------
    own : array of shape (n, targets)
        The analytical answers.
    knots : array of shape (m, knots, targets)
        Those at the knots.
    at : lane, knot below and share of the next one, arrays of shape (n,)
    """
    of, below, share = at
    table = knots + residual
    table[:, :, _RISING] = np.maximum.accumulate(table[:, :, _RISING], axis=1)
    low, high = knots[of, below], knots[of, below + 1]
    inside = np.clip(own, low, np.maximum(low, high))
    # Where the analytical answer hardly moves, the share of the way between the knots decides.
    way = (inside - low + _FLAT * share[:, None]) / (np.maximum(high - low, 0.0) + _FLAT)
    first = table[of, below]
    found: FloatArray = first + (table[of, below + 1] - first) * way + (own - inside)
    return found


_FLAT = 0.01


def _between(values: FloatArray, of: IntArray, below: IntArray, share: FloatArray) -> FloatArray:
    """Values at knots, shape (m, k, t), of the lanes `of` between their knots, shape (n, t)."""
    low = values[of, below]
    found: FloatArray = low + share[:, None] * (values[of, below + 1] - low)
    return found


def knot_weights(coordinate: FloatArray) -> tuple[IntArray, FloatArray]:
    """The knot below each coordinate, and the weight of the next one."""
    below = np.clip(coordinate.astype(np.intp), 0, KNOTS - 2)
    return below, np.clip(coordinate - below, 0.0, 1.0)


def _ordered(latency_log: FloatArray) -> FloatArray:
    """Percentiles in their order, means where they can be, and no answer whole before it has begun; (n, 12)."""
    table = latency_log.reshape(len(latency_log), len(LATENCY_METRICS), len(STATISTICS))
    table[:, 2] = np.maximum(table[:, 2], table[:, 0])
    table[:, :, 1:] = np.maximum.accumulate(table[:, :, 1:], axis=2)
    table[:, :, 0] = np.maximum(table[:, :, 0], (table[:, :, 1:] + _LEAST_MEAN_LOG).max(axis=2))
    return table.reshape(len(latency_log), LATENCIES)


def near_full(capacity_log_sd: FloatArray, utilization: FloatArray) -> FloatArray:
    """What not knowing the capacity adds to the spread of latencies, shape (n, 12).

    The capacity's error is in two limits of a rate: the load must fit, and what fits must be fast. That is no width
    counted twice. A run that does not fit has no latency and no row, so that the spreads of latencies are of those that
    do fit, and P(a limit breaks) = P(it does not fit) + P(it fits and is slow): two parts, two limits, each of which
    needs the spread. What the sum of their bounds is too wide by where both follow the one capacity (Bonferroni) is the
    same as with any two limits that break together, and is taken back by a caution below 1.
    """
    reach = near_capacity(capacity_log_sd, np.clip(utilization, 0.0, _BUSIEST))
    return np.minimum(np.repeat(reach, len(STATISTICS), axis=1), MOST_LOG_SD)


def speculation_log_sd(rows: FloatArray) -> FloatArray:
    """What an unknown acceptance adds to the spread of lanes with these inputs, shape (m,): 0 where nothing drafts.

    The analytical predictor's own figure, kept apart from the learnt spreads. Those are over all methods, most of which
    draft nothing, so they would hide that text decides what drafts are worth.
    """
    return np.where((rows[:, _DRAFTS] > 0.0).any(axis=1), SPECULATION_LOG_SD, 0.0)


def width_factors(trees: ObliviousTrees | None, rows: FloatArray) -> FloatArray:
    """What the inputs of m lanes multiply their spreads by, shape (m, targets): 1 everywhere without trees.

    Of 40 trees of depth 4, which training grows, 1,000 lanes take 160,000 bits put into numbers of leaves and
    40 x 15 x 1,000 = 0.6 million numbers gathered and added. The trees of the answers take 1.5 million bits, and
    250 x 15 x 1,000 = 3.8 million numbers if none asks about the load, 15 million if all do: this is 4 to 16 % more.
    """
    if trees is None:
        return np.ones((len(rows), len(TARGETS)))
    factors: FloatArray = np.exp(np.clip(trees.at_knots(rows)[:, 0], -_MOST_LOG_FACTOR, _MOST_LOG_FACTOR))
    return factors


def with_distance(factor: FloatArray, growth: FloatArray | float, distance: FloatArray) -> FloatArray:
    """Factors, shape (n, targets), with what the distances of their lanes, shape (n,), widen spreads by."""
    return np.asarray(factor * (1.0 + growth * np.minimum(distance, FAR))[:, None])


def spreads_at(
    log_sd: FloatArray, category: IntArray, found: Responses, factor: FloatArray, drafting: FloatArray
) -> FloatArray:
    """Log standard deviations of n answers, shape (n, targets), without what an unknown capacity adds.

    Parameters
    ----------
    log_sd : array of shape (categories, kinds, knots, targets)
    category : array of shape (n,)
    factor : array of shape (n, targets)
        As `with_distance` gives it.
    drafting : array of shape (n,)
        As `speculation_log_sd` gives it.
    """
    below, share = knot_weights(found.coordinate)
    low, high = (log_sd[category, found.kind, below + each] for each in (0, 1))
    sd = (1.0 - share[:, None]) * low + share[:, None] * high
    sd = np.hypot(sd * factor, drafting[:, None])
    sd[:, MAKESPAN] = np.hypot(sd[:, MAKESPAN], found.luck)
    return np.asarray(sd)
