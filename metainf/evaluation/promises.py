"""Whether what was simulated keeps what a task promises: the statistics of its SLO, or the deadline of a batch.

Separate from the budgets, which say what a method costs: the tables of methods, the calibrated decisions and the study
of the operator's choice must mean the same by a promise that is kept.

A closed loop's performance is its goodput: tokens of the requests that keep every bound. That does not keep a promise
on a statistic. Where a tenth of the requests miss a bound on p95, nine tenths of the tokens still count, and the
promise is broken all the same. So both hold: a closed loop that misses a statistic breaks a limit, as the operator
judges it, and goodput ranks those that miss none. Rejected: goodput alone, under which what the operator refuses would
be the best choice. The performance of a rate is the highest at which the SLO holds, 0 where there is none, and needs no
more.
"""

import math
from collections.abc import Mapping
from typing import Any

from metainf.corpus.task import Task
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS
from metainf.workload import BatchLoad, RateLoad

__all__ = ["PROMISE_COLUMNS", "headroom", "keeps_promises"]

PROMISE_COLUMNS = ("makespan_s", *(f"{metric}_{statistic}_s" for metric in LATENCY_METRICS for statistic in STATISTICS))
"""What of a score row a promise hangs on."""


def headroom(task: Task, score: Mapping[str, Any]) -> float:
    """Allowed over needed seconds, the least over the task's promises: 1 or more where each is kept.

    Infinite without promises and of rates; 0 where what is promised did not end or is not known.

    Parameters
    ----------
    score : a row of purpose SCORE, by PROMISE_COLUMNS
    """
    load = task.traffic.load
    if isinstance(load, RateLoad):
        return math.inf
    if isinstance(load, BatchLoad):
        makespan_s = score["makespan_s"]
        return load.deadline_s / makespan_s if makespan_s else 0.0
    kept = [_ratio(bound.bound_s, score[f"{bound.metric}_{bound.statistic}_s"]) for bound in task.slo.bounds]
    return min(kept, default=math.inf)


def keeps_promises(task: Task, score: Mapping[str, Any]) -> bool:
    """Whether each of the task's promises is kept."""
    return headroom(task, score) >= 1.0


def _ratio(bound_s: float, latency_s: float | None) -> float:
    if latency_s is None or math.isnan(latency_s):
        return 0.0
    return bound_s / latency_s if latency_s > 0.0 else math.inf
