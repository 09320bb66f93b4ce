"""Whether promises are kept, by what was seen of the requests.

Separate and pure. A histogram tells between which two bounds a percentile lies: a promise is kept where the upper one
is within it, missed where the lower one is at or beyond it, and in between it is not known. What is read off by
interpolation may be shown, but accuses nobody.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from metainf.workload import Slo, SloBound, Statistic
from metainf_operator.observations import Observation

__all__ = ["LEAST_REQUESTS", "Judgement", "Verdict", "judge"]

LEAST_REQUESTS: Mapping[Statistic, int] = {Statistic.P50: 20, Statistic.P95: 20, Statistic.P99: 100}
"""Fewer answers say nothing of a percentile: beyond the 95th of 20 lies one answer, beyond the 99th of 100."""


class Verdict(Enum):
    """What was seen says of one promise."""

    KEPT = "kept"
    MISSED = "missed"
    UNSURE = "unsure"
    """The bound lies within the bucket that holds the percentile."""
    UNSEEN = "unseen"
    """Too few requests, or the server does not tell."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict on each promise, in the order in which they are made."""

    verdicts: tuple[tuple[SloBound, Verdict], ...] = ()

    def those(self, verdict: Verdict) -> tuple[SloBound, ...]:
        """The promises that stand so."""
        return tuple(bound for bound, found in self.verdicts if found is verdict)


def judge(slo: Slo, seen: Observation | None) -> Judgement:
    """What was seen says of each promise."""
    return Judgement(tuple((bound, _verdict(bound, seen)) for bound in slo.bounds))


def _verdict(bound: SloBound, seen: Observation | None) -> Verdict:
    histogram = None if seen is None else seen.latency(bound.metric)
    if seen is None or histogram is None or histogram.count < LEAST_REQUESTS[bound.statistic]:
        return Verdict.UNSEEN
    found = seen.statistic(bound.metric, bound.statistic)
    if found is None:
        return Verdict.UNSEEN
    if found.high <= bound.bound_s or math.isclose(found.high, bound.bound_s):
        return Verdict.KEPT
    return Verdict.MISSED if found.low >= bound.bound_s else Verdict.UNSURE
