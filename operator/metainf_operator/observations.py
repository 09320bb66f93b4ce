"""What the engines of one workload were seen to do over the last minutes: counts at moments become figures.

Separate and pure: reading the counts is `engine_metrics`' and `scraping`'s part, what the figures are held against is
`observed_slo`'s. The clock is an argument.

Kept is, for each pod, what it counted when it was last read, and what all of them together counted more in each
interval since then. So a pod that goes takes nothing away from the window, a pod that comes adds from its second
reading on, and counts that fell are those of an engine that started anew: all it has counted is new. A pod that could
not be read is made up for by the next reading of it.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from functools import lru_cache

from metainf.workload import LatencyMetric, Statistic
from metainf_operator.engine_metrics import EngineCounts, Histogram

__all__ = ["Observation", "Quantile", "Window", "quantile", "together"]

PROBABILITY: Mapping[Statistic, float] = {Statistic.P50: 0.5, Statistic.P95: 0.95, Statistic.P99: 0.99}


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile as far as a histogram tells: it lies above `low` and at most at `high`, which may be infinite.

    `value` is read off as if values were spread evenly within the bucket; where the bucket has no end it is `low`, the
    most that is known.
    """

    value: float
    low: float
    high: float

    @property
    def is_bounded(self) -> bool:
        """Whether anything is known above `low`."""
        return math.isfinite(self.high)


def quantile(histogram: Histogram, probability: float) -> Quantile | None:
    """The value that this share of all values does not exceed; None of an empty histogram."""
    count = histogram.count
    if count == 0:
        return None
    rank, below = probability * count, 0
    for i, within in enumerate(histogram.counts):
        if within and below + within >= rank:
            low = histogram.bounds[i - 1] if i else 0.0
            if i == len(histogram.bounds):
                return Quantile(low, low, math.inf)
            high = histogram.bounds[i]
            return Quantile(min(high, low + (high - low) * max(0.0, rank - below) / within), low, high)
        below += within
    raise AssertionError("a rank is at most the count")


@dataclass(frozen=True, slots=True)
class Observation:
    """What all pods of one serving did from `since` to `until`.

    `complete`: all that every ready pod did is in it, none being new to us or unreadable in between. In `counts`,
    `running` and `waiting` are by how many requests these grew over the window.
    """

    since: datetime
    until: datetime
    counts: EngineCounts
    complete: bool = True

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return (self.until - self.since).total_seconds()

    @property
    def requests(self) -> int:
        """Requests that were answered to their end."""
        return 0 if self.counts.e2e_s is None else self.counts.e2e_s.count

    @property
    def requests_per_second(self) -> float | None:
        """Arrivals: requests that got a first token, and those that more of wait for one than before."""
        first = self.counts.ttft_s
        return None if first is None else self._rate(max(0, first.count + (self.counts.waiting or 0)))

    @property
    def output_tokens_per_second(self) -> float | None:
        """Output tokens of all pods together."""
        return None if self.counts.output_tokens is None else self._rate(self.counts.output_tokens)

    @property
    def concurrency(self) -> float | None:
        """Mean requests under way at a time, by Little's law: what answered requests took over the time it took."""
        return None if self.counts.e2e_s is None else self._rate(self.counts.e2e_s.total)

    @property
    def prefix_hit_ratio(self) -> float | None:
        """Share of the prompt tokens that the prefix cache had; None where it is off, or nothing was asked for."""
        asked, hit = self.counts.prefix_queried_tokens, self.counts.prefix_hit_tokens
        return None if not asked or hit is None else min(1.0, hit / asked)

    def latency(self, metric: LatencyMetric) -> Histogram | None:
        """Seconds by request; of the time per output token, of requests with two tokens or more."""
        match metric:
            case LatencyMetric.TTFT:
                return self.counts.ttft_s
            case LatencyMetric.E2E:
                return self.counts.e2e_s
            case LatencyMetric.TPOT:
                return _without_single_tokens(self.counts)

    def statistic(self, metric: LatencyMetric, statistic: Statistic) -> Quantile | None:
        """A percentile, or the mean, which a histogram knows exactly; None where nothing was seen."""
        histogram = self.latency(metric)
        if histogram is None or histogram.count == 0:
            return None
        if statistic is Statistic.MEAN:
            mean = histogram.total / histogram.count
            return Quantile(mean, mean, mean)
        return quantile(histogram, PROBABILITY[statistic])

    def _rate(self, amount: float) -> float | None:
        return amount / self.seconds if self.seconds > 0 else None


def _without_single_tokens(counts: EngineCounts) -> Histogram | None:
    """Time per output token without the zeros that vLLM counts for answers of a single token."""
    histogram, answers = counts.tpot_s, counts.answer_tokens
    if histogram is None or answers is None or not answers.bounds or answers.bounds[0] != 1.0:
        return histogram
    first = max(0, histogram.counts[0] - answers.counts[0])
    return replace(histogram, counts=(first, *histogram.counts[1:]))


@dataclass(frozen=True, slots=True)
class _Interval:
    since: datetime
    until: datetime
    grown: EngineCounts
    complete: bool


class Window:
    """The last minutes of one serving. `add` is told of each reading, `observation` says what was seen.

    It holds the fewest of the latest intervals that are as long together as `length`.
    """

    def __init__(self, length: timedelta) -> None:
        self._length = length
        self._at: datetime | None = None
        self._last: dict[str, EngineCounts] = {}
        self._intervals: deque[_Interval] = deque()

    def add(self, at: datetime, readings: Mapping[str, EngineCounts | None]) -> None:
        """A reading of all pods by their uids; None for one that could not be read, pods that are gone left out."""
        since = self._at
        complete = bool(readings) and all(c is not None and uid in self._last for uid, c in readings.items())
        grown: list[EngineCounts] = []
        last: dict[str, EngineCounts] = {}
        for uid, counts in readings.items():
            before = self._last.get(uid)
            if counts is not None and before is not None:
                grown.append(_grown(before, counts))
            known = counts if counts is not None else before
            if known is not None:
                last[uid] = known
        self._at, self._last = at, last
        if since is None or at <= since:
            return
        self._intervals.append(_Interval(since, at, together(grown), complete))
        while len(self._intervals) > 1 and self._intervals[1].since <= at - self._length:
            self._intervals.popleft()

    def observation(self) -> Observation | None:
        """What was seen; None before the second reading."""
        if not self._intervals:
            return None
        return Observation(
            self._intervals[0].since,
            self._intervals[-1].until,
            together(each.grown for each in self._intervals),
            all(each.complete for each in self._intervals),
        )


_AMOUNTS = ("prompt_tokens", "output_tokens", "prefix_queried_tokens", "prefix_hit_tokens")
_AT_ONCE = ("running", "waiting")
_HISTOGRAMS = ("ttft_s", "tpot_s", "e2e_s", "input_tokens", "answer_tokens")


def _grown(before: EngineCounts, after: EngineCounts) -> EngineCounts:
    """What was counted between two readings of one server."""
    if before is after:
        return _nothing(tuple((name, _emptied(getattr(after, name))) for name in (*_AMOUNTS, *_AT_ONCE, *_HISTOGRAMS)))
    if _started_anew(before, after):
        return replace(after, started_s=None)
    made: dict[str, object] = {}
    for name in (*_AMOUNTS, *_AT_ONCE):
        then, now = getattr(before, name), getattr(after, name)
        made[name] = None if now is None else now - (then or 0)
    for name in _HISTOGRAMS:
        made[name] = _less(getattr(after, name), getattr(before, name))
    return EngineCounts(**made)  # type: ignore[arg-type]  # each field by its own kind


@lru_cache(maxsize=256)
def _nothing(emptied: tuple[tuple[str, object], ...]) -> EngineCounts:
    """Counts of nothing, the same object for all servers that tell the same: most intervals of most servers."""
    return EngineCounts(**dict(emptied))  # type: ignore[arg-type]  # each field by its own kind


def _emptied(value: int | Histogram | None) -> int | Histogram | None:
    if isinstance(value, Histogram):
        return Histogram(value.bounds, (0,) * len(value.counts), 0.0)
    return None if value is None else 0


def _started_anew(before: EngineCounts, after: EngineCounts) -> bool:
    """Whether the server started in between: by its own word, or since a count fell or buckets are others."""
    if before.started_s != after.started_s:
        return True
    if any((getattr(after, name) or 0) < (getattr(before, name) or 0) for name in _AMOUNTS):
        return True
    for name in _HISTOGRAMS:
        then, now = getattr(before, name), getattr(after, name)
        if then is not None and (now is None or now.bounds != then.bounds or _fell(then, now)):
            return True
    return False


def _fell(then: Histogram, now: Histogram) -> bool:
    return any(after < before for before, after in zip(then.counts, now.counts, strict=True))


def _less(now: Histogram | None, then: Histogram | None) -> Histogram | None:
    if now is None or then is None:
        return now
    counts = tuple(after - before for before, after in zip(then.counts, now.counts, strict=True))
    return Histogram(now.bounds, counts, max(0.0, now.total - then.total))


def together(parts: Iterable[EngineCounts]) -> EngineCounts:
    """The sum. What one of several does not tell is not known of all of them."""
    found = list(parts)
    if len(found) < 2:
        return found[0] if found else EngineCounts()
    made: dict[str, object] = {}
    for each in fields(EngineCounts):
        values = [getattr(part, each.name) for part in found if part != EngineCounts()]
        if each.name == "started_s" or not values or None in values:
            made[each.name] = None
        elif each.name in _HISTOGRAMS:
            made[each.name] = _sum(values)
        else:
            made[each.name] = sum(values)
    return EngineCounts(**made)  # type: ignore[arg-type]  # each field by its own kind


def _sum(histograms: list[Histogram]) -> Histogram | None:
    """All of them in one; None where their buckets differ."""
    bounds = histograms[0].bounds
    if any(each.bounds != bounds for each in histograms):
        return None
    counts = tuple(map(sum, zip(*(each.counts for each in histograms), strict=True)))
    return Histogram(bounds, counts, math.fsum(each.total for each in histograms))
