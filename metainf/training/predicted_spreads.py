"""How sure each predictor is of its answers, as one function of answers, distances and lanes.

Separate from the decisions and the intervals that are judged by it, so that the trained predictor and the analytical
one are judged by the same code.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from metainf.predictors.base_answers import CAPACITY, LATENCIES, MAKESPAN, TARGETS, THROUGHPUT
from metainf.predictors.corrections import Responses, near_full, speculation_log_sd, spreads_at, with_distance
from metainf.predictors.spread import replica_penalty, spread
from metainf.training.rows import TrainingRows
from metainf.training.spreads import SplitSpread

__all__ = ["Spreads", "analytical_spreads", "trained_spreads"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

Spreads = Callable[[Responses, FloatArray, IntArray], FloatArray]
"""From n answers, the distances and the numbers of their lanes, shape (n,), to log standard deviations, shape
(n, targets), with what an unknown capacity adds to latencies."""


def trained_spreads(split: SplitSpread, factor: FloatArray, rows: TrainingRows) -> Spreads:
    """Those that held-out groups gave, of the lanes of these rows; `factor` of their widths, shape (m, targets)."""
    drafting = speculation_log_sd(rows.inputs)

    def of(answer: Responses, distance: FloatArray, lanes: IntArray) -> FloatArray:
        category = np.zeros(len(lanes), dtype=np.intp)
        widened = with_distance(factor[lanes], split.growth, distance)
        sd = spreads_at(split.log_sd[None], category, answer, widened, drafting[lanes])
        sd[:, :LATENCIES] = np.hypot(sd[:, :LATENCIES], near_full(sd[:, CAPACITY], answer.utilization))
        return sd

    return of


def analytical_spreads(rows: TrainingRows) -> Spreads:
    """The analytical predictor's own, which it also gives where nothing was trained."""
    penalties = np.array([replica_penalty(each.replica) for each in rows.questions], dtype=np.float64)
    is_open = ~np.isnan(np.asarray(rows.lanes.traffic.rate))

    def of(answer: Responses, distance: FloatArray, lanes: IntArray) -> FloatArray:
        found = spread(penalties[lanes], is_open[lanes], answer.utilization, answer.luck)
        sd = np.empty((len(lanes), len(TARGETS)))
        sd[:, :LATENCIES] = found.latency_log_sd.reshape(len(lanes), LATENCIES)
        sd[:, CAPACITY] = found.capacity_log_sd
        sd[:, THROUGHPUT] = sd[:, MAKESPAN] = found.throughput_log_sd
        return sd

    return of
