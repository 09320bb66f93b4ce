"""Pair features: what physics says of each (task, method), absolute and relative to the default on the same task.

Separate from the task's features: these differ between the methods of one task, and ratios to the default are what a
selector has to rank.

The truth of a rate task is searched for, whatever rate the workload declares: between tasks of the same truth the
declared one is noise. So tables for selection leave it out. What a declared rate alone says is 0 there, and the
pressure on the cache is that at the lane's own capacity. A predictor that serves is asked about a load and sees it.

Margins are told promise by promise and load by load, not as the worst of all: which promise a method gains on, and
which it loses on, is what decides between two that both seem to hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.corpus.task import Task, TrafficKind
from metainf.meta_features.answers import slo_bounds, slo_excess, slo_ratios, sustained_rate
from metainf.meta_features.expectations import AskedPairs, asked_pairs, expectation
from metainf.meta_features.questions import QUESTION_FEATURES, QuestionFeatures
from metainf.meta_features.schema import FeatureDescription
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, Question
from metainf.selectors.targets import EXPECTED_PAIR
from metainf.workload import LatencyMetric, Statistic

__all__ = ["PAIR_FEATURES", "PairTable", "pair_table", "without_declared_rates"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

_HALF = 0.5
_SHARES = {"25": 0.25, "50": 0.5, "80": 0.8}
"""Of the method's own capacity, at which margins are told."""
_NEARLY = 0.95  # of the highest rate that keeps all promises: there it shows which of them is the first to break
_LATENCY_LOG = (-14.0, 10.0)  # a microsecond to six hours; longer and infinite waits are not told apart
_EXCESS_LOG = (-7.0, 10.0)  # below: no promise, or one that is kept a thousandfold
_TTFT, _TPOT = LATENCY_METRICS.index(LatencyMetric.TTFT), LATENCY_METRICS.index(LatencyMetric.TPOT)
_MEAN, _P95 = STATISTICS.index(Statistic.MEAN), STATISTICS.index(Statistic.P95)

_ANSWERS = (
    FeatureDescription("pair_capacity", "ln(requests/s)", "Most requests per second of a replica."),
    FeatureDescription("pair_ttft_empty", "ln(s)", "Mean time to first token on an empty replica."),
    FeatureDescription("pair_tpot_empty", "ln(s)", "Mean time per output token on an empty replica."),
    FeatureDescription("pair_ttft_half", "ln(s)", "p95 of the first token at half of the default's capacity."),
    FeatureDescription("pair_tpot_half", "ln(s)", "p95 of the time per token at half of the default's capacity."),
    FeatureDescription("pair_ttft_declared", "ln(s)", "Mean time to first token at the declared load; 0 for rates."),
    FeatureDescription("pair_tpot_declared", "ln(s)", "Mean time per output token at the declared load; 0 for rates."),
    FeatureDescription("pair_throughput", "ln(tokens/s)", "Output tokens/s at the declared load; 0 for rates."),
    FeatureDescription("pair_performance", "ln(P)", "What `analytical` says: performance by the kind of traffic."),
)
_PROMISES = (
    FeatureDescription("pair_excess_empty", "ln(1)", "Worst latency over its SLO on an empty replica; above 0 broken."),
    FeatureDescription("pair_excess_half", "ln(1)", "The same at half of the default's capacity."),
    FeatureDescription("pair_spread", "1", "Log standard deviation that the predictor gives for its capacity."),
)
_MARGIN_LOADS = {
    "empty": "on an empty replica",
    **{name: f"at {name} % of the method's own capacity" for name in _SHARES},
    "default": "at the highest rate at which the default keeps its promises",
}
_MARGINS = tuple(
    FeatureDescription(f"pair_{metric}_margin_{name}", "ln(1)", f"The {metric.upper()} over its SLO {load}.")
    for name, load in _MARGIN_LOADS.items()
    for metric in LATENCY_METRICS
)
_BINDING = tuple(
    FeatureDescription(
        f"pair_{metric}_binds", "1", f"1 where the {metric.upper()} is nearest to its SLO as the load rises."
    )
    for metric in LATENCY_METRICS
)
_EXPECTED = (
    FeatureDescription("pair_kept_share", "1", "How likely promises are kept: of rates by some, of clients by each."),
    FeatureDescription("pair_rate_tight", "ln(P)", "Performance with latencies longer by a factor of 1.6."),
    FeatureDescription("pair_rate_loose", "ln(P)", "Performance with latencies shorter by a factor of 1.6."),
    FeatureDescription(EXPECTED_PAIR, "ln(1)", "Mean shortfall behind the best method over errors of latencies."),
)
_OF_QUESTIONS = (
    "tpot_full_s",
    "batching_gain",
    "weight_read_share",
    "cache_read_share_full",
    "fixed_share",
    "host_share_full",
    "arithmetic_intensity_full",
    "prefill_share",
    "slots",
    "cache_sequences",
    "prompt_budget_ratio",
    "prefix_saved_share",
    "prefix_hit_ratio",
    "tokens_per_step",
    "frontend_busy",
    "load_to_capacity",
    "kv_pressure",
    "set_budget",
    "set_sequences",
    "weights_memory_ratio",
)
"""Question features that the settings move."""
_NAMES = [f.name for f in QUESTION_FEATURES]
_PLACES = tuple(_NAMES.index(name) for name in _OF_QUESTIONS)
_RATE, _UTILIZATION, _PRESSURE = (_NAMES.index(name) for name in ("load_rate", "load_to_capacity", "kv_pressure"))

_ABSOLUTE = (
    *_ANSWERS,
    *_PROMISES,
    *_MARGINS,
    *_BINDING,
    *_EXPECTED,
    *(
        FeatureDescription(f"pair_{f.name}", f.unit, f"Under the method: {f.sentence[0].lower()}{f.sentence[1:]}")
        for f in (QUESTION_FEATURES[place] for place in _PLACES)
    ),
)
_WITHOUT_GAIN = frozenset({"pair_spread", *(f.name for f in _BINDING)})
PAIR_FEATURES: tuple[FeatureDescription, ...] = (
    *_ABSOLUTE,
    *(
        FeatureDescription(
            f"{f.name}_gain", f"{f.unit} - {f.unit}", f"Less the default's: {f.sentence[0].lower()}{f.sentence[1:]}"
        )
        for f in _ABSOLUTE
        if f.name not in _WITHOUT_GAIN
    ),
)
"""All absolute ones, then all but the spread and flags less the default's: of logarithms that is the log ratio."""
_WITH_GAIN = tuple(place for place, f in enumerate(_ABSOLUTE) if f.name not in _WITHOUT_GAIN)


@dataclass(frozen=True, slots=True, eq=False)
class PairTable:
    """k feasible pairs of tasks and methods.

    Attributes
    ----------
    features : array of shape (k, q), columns as PAIR_FEATURES describes them
    performance_log : array of shape (k,)
        The logarithm of the analytical performance: requests per second and accelerator, output tokens per second,
        or 1 / makespan.
    question_features : array of shape (k, d), columns as QUESTION_FEATURES describes them
    empty_latency_s : array of shape (k, 3, 4), seconds
    """

    features: FloatArray
    performance_log: FloatArray
    question_features: FloatArray
    empty_latency_s: FloatArray


def pair_table(
    tasks: Sequence[Task], questions: Sequence[Question], task_of: IntArray, base_of: IntArray, known: QuestionFeatures
) -> PairTable:
    """What physics says of k pairs.

    Parameters
    ----------
    questions : the pairs as questions about one replica
    task_of : array of shape (k,), the task of each
    base_of : array of shape (k,), the pair that it is compared with: the default's on the same task
    """
    lanes = known.lanes(questions)
    bounds_s = slo_bounds([task.slo for task in tasks])[task_of]
    kinds = np.array([task.kind for task in tasks])[task_of]
    asked = asked_pairs(known, questions, lanes, kinds=kinds, bounds_s=bounds_s)
    empty_s = asked.loaded.empty_latency_s()
    performance, _ = asked.performance_log()
    margins, binding = _margins(asked, empty_s, base_of)
    expected = expectation(asked, questions, task_of, known)
    inputs = without_declared_rates(known.of_lanes(questions, lanes), kinds)
    columns = (
        *_answers(asked, empty_s, base_of, performance),
        *margins.T,
        *binding.T,
        expected.kept_share,
        expected.tight_log,
        expected.loose_log,
        expected.shortfall,
        *inputs[:, _PLACES].T,
    )
    absolute = np.stack(columns, axis=1)
    gains = (absolute - absolute[base_of])[:, _WITH_GAIN]
    return PairTable(np.concatenate([absolute, gains], axis=1), performance, inputs, empty_s)


def _answers(
    asked: AskedPairs, empty_s: FloatArray, base_of: IntArray, performance: FloatArray
) -> tuple[FloatArray, ...]:
    """Columns of _ANSWERS and of _PROMISES for k pairs, each of shape (k,)."""
    loaded, predictions, bounds_s = asked.loaded, asked.predictions, asked.bounds_s
    half_s = loaded.latency_at_rate_s(_HALF * loaded.capacity[base_of])
    is_rate = asked.kinds == TrafficKind.RATE
    return (
        np.log(loaded.capacity),
        _latency_log(empty_s[:, _TTFT, _MEAN]),
        _latency_log(empty_s[:, _TPOT, _MEAN]),
        _latency_log(half_s[:, _TTFT, _P95]),
        _latency_log(half_s[:, _TPOT, _P95]),
        np.where(is_rate, 0.0, _latency_log(predictions.latency_s[:, _TTFT, _MEAN])),
        np.where(is_rate, 0.0, _latency_log(predictions.latency_s[:, _TPOT, _MEAN])),
        np.where(is_rate, 0.0, np.log(np.maximum(predictions.output_tokens_per_second, 1e-6))),
        performance,
        _excess_log(slo_excess(empty_s, bounds_s)),
        _excess_log(slo_excess(half_s, bounds_s)),
        predictions.capacity_log_sd,
    )


def _margins(asked: AskedPairs, empty_s: FloatArray, base_of: IntArray) -> tuple[FloatArray, FloatArray]:
    """Columns of _MARGINS and of _BINDING for k pairs, shapes (k, 15) and (k, 3)."""
    loaded, bounds_s = asked.loaded, asked.bounds_s
    rate, _ = sustained_rate(loaded, bounds_s)
    loads = [share * loaded.capacity for share in _SHARES.values()]
    latencies = [empty_s, *(loaded.latency_at_rate_s(load) for load in (*loads, rate[base_of]))]
    margins = np.concatenate([_excess_log(slo_ratios(each, bounds_s)) for each in latencies], axis=1)
    ratios = slo_ratios(loaded.latency_at_rate_s(_NEARLY * rate), bounds_s)
    first = ratios.argmax(axis=1)[:, None] == np.arange(len(LATENCY_METRICS))
    return margins, (first & (ratios > 0.0)).astype(np.float64)


def without_declared_rates(question_features: FloatArray, kinds: NDArray[np.str_]) -> FloatArray:
    """Features of k questions, columns as QUESTION_FEATURES, as if rates asked for each lane's whole capacity."""
    is_rate = kinds == TrafficKind.RATE
    found = question_features.copy()
    # Both are logarithms of something times the rate: less the load over the capacity, the rate is the capacity.
    found[is_rate, _PRESSURE] -= found[is_rate, _UTILIZATION]
    found[is_rate, _UTILIZATION] = found[is_rate, _RATE] = 0.0
    return found


def _latency_log(seconds: FloatArray) -> FloatArray:
    return np.clip(np.log(seconds), *_LATENCY_LOG)


def _excess_log(excess: FloatArray) -> FloatArray:
    return np.clip(np.log(np.maximum(excess, 1e-9)), *_EXCESS_LOG)
