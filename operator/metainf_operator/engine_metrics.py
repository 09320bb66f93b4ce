"""Reads what a vLLM server counts about itself: the text of its /metrics in, counts and histograms out.

Separate and pure, because the names are vLLM's and change with its versions, while what is made of them does not.
Everything here counts up since the server started; differences over time are `observations`' part. What a server does
not tell is absent, never zero.

The names read here are the same in 0.28, 0.30 and 0.32; each of these added others (recorded servers of all three are
among the tests' data). What vLLM means by them, in all three (v1/metrics/stats.py, and the renderers):
- Time to first token counts from the moment at which the server begins to handle the parsed request, tokenising
  included, to the step that yields the token: waiting in the engine's queue is in it. The client's network, the
  Service's proxy, HTTP parsing and the token's way back are not.
- Time per output token is (last token - first token) / (output tokens - 1) of a request; one with a single output
  token is counted with 0, and taken out here by the count of such answers.
- A request that its client gave up after the first token is in the count of first tokens and in no other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite, isnan

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

__all__ = ["EngineCounts", "Histogram", "parse_engine_metrics", "useful_lines"]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values fell into each bucket, and their sum.

    `counts[i]` values lie above `bounds[i - 1]` and at most at `bounds[i]`; the last entry of `counts`, one more than
    there are bounds, has no upper bound. Seconds or tokens, as its name says.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """What one server has counted since it started, all its engines together; None where it does not say.

    `running` and `waiting` are requests at this moment, `started_s` the start of its process in Unix time.
    """

    started_s: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    prefix_queried_tokens: int | None = None
    prefix_hit_tokens: int | None = None
    running: int | None = None
    waiting: int | None = None
    ttft_s: Histogram | None = None
    tpot_s: Histogram | None = None
    e2e_s: Histogram | None = None
    input_tokens: Histogram | None = None
    answer_tokens: Histogram | None = None


_COUNTERS: Mapping[str, str] = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "output_tokens",
    "vllm:prefix_cache_queries_total": "prefix_queried_tokens",
    "vllm:prefix_cache_hits_total": "prefix_hit_tokens",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
}
_STARTED = "process_start_time_seconds"  # of Python's own collector; absent where several API servers share the port
_HISTOGRAMS: Mapping[str, str] = {
    "vllm:time_to_first_token_seconds": "ttft_s",
    "vllm:request_time_per_output_token_seconds": "tpot_s",
    "vllm:e2e_request_latency_seconds": "e2e_s",
    "vllm:request_prompt_tokens": "input_tokens",
    "vllm:request_generation_tokens": "answer_tokens",
}
"""Names of our fields by vLLM's. Source: recorded servers of 0.28.0, 0.30.0 and 0.32.0, tests/data/engine_metrics."""

_BUCKET, _SUM = "_bucket", "_sum"
_WANTED = frozenset({_STARTED, *_COUNTERS, *(f"{name}{part}" for name in _HISTOGRAMS for part in (_BUCKET, _SUM))})
_MOST_BUCKETS = 512
_MOST = 1 << 53  # counts come as floating-point numbers; beyond this they are no whole numbers any more


def parse_engine_metrics(text: str) -> EngineCounts:
    """The counts in a server's metrics.

    Raises
    ------
    ValueError
        The text is no exposition of metrics, or holds none that a vLLM server has.
    """
    sums: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    for name, bound, value in _checked(text):
        if bound is None:
            sums[name] = sums.get(name, 0.0) + value
        else:
            mine = buckets.setdefault(name, {})
            mine[bound] = mine.get(bound, 0.0) + value
    counts: dict[str, int] = {ours: int(sums[theirs]) for theirs, ours in _COUNTERS.items() if theirs in sums}
    histograms = {
        ours: _histogram(buckets[theirs + _BUCKET], sums.get(theirs + _SUM, 0.0))
        for theirs, ours in _HISTOGRAMS.items()
        if theirs + _BUCKET in buckets
    }
    if not counts and not histograms:
        raise ValueError("it holds no metrics of a vLLM server")
    # Names and kinds are those of the two tables.
    return EngineCounts(started_s=sums.get(_STARTED), **counts, **histograms)  # type: ignore[arg-type]


def useful_lines(text: str) -> str:
    """The lines that are read: a quarter of all. While they stay the same, nothing was counted."""
    wanted = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in _WANTED]
    return "\n".join([*wanted, ""])


def _checked(text: str) -> Iterator[tuple[str, float | None, float]]:
    """Name, upper bound of the bucket and value of each sample that is of use."""
    for sample in _samples(useful_lines(text)):
        if isnan(sample.value) or not 0 <= sample.value < _MOST:
            raise ValueError(f"{sample.name} is {sample.value!r}, which is no count")
        bound = sample.labels.get("le")
        if sample.name.endswith(_BUCKET) != (bound is not None):
            raise ValueError(f"{sample.name} has a bucket without an upper bound, or a bound without a bucket")
        yield sample.name, None if bound is None else float(bound), sample.value


def _samples(text: str) -> list[Sample]:
    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (ValueError, LookupError, TypeError) as error:  # the parser takes no care which it raises
        raise ValueError(f"it is no exposition of metrics: {error}") from error


def _histogram(cumulative: Mapping[float, float], total: float) -> Histogram:
    """Counts of each bucket by itself; in the text each holds all below it too."""
    bounds = tuple(sorted(cumulative))
    if inf not in cumulative or len(bounds) > _MOST_BUCKETS or any(isnan(bound) for bound in bounds):
        raise ValueError(f"a histogram has {len(bounds)} buckets, the last of them bounded or too many of them")
    counts, below = [], 0
    for bound in bounds:
        reached = int(cumulative[bound])
        if reached < below:
            raise ValueError(f"a histogram's bucket up to {bound:g} holds less than the one below it")
        counts.append(reached - below)
        below = reached
    return Histogram(_shared(tuple(bound for bound in bounds if isfinite(bound))), tuple(counts), total)


@lru_cache(maxsize=256)
def _shared(bounds: tuple[float, ...]) -> tuple[float, ...]:
    """The same bounds for all servers that count by them: a thousand copies would be megabytes."""
    return bounds
