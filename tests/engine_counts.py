"""Counts of servers for tests: few buckets, and every figure in sight."""

from collections.abc import Sequence
from dataclasses import replace

from metainf_operator.engine_metrics import EngineCounts, Histogram

LATENCY_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.0)
TOKEN_BOUNDS = (1.0, 10.0, 100.0, 1000.0)


def histogram(values: Sequence[float], bounds: tuple[float, ...]) -> Histogram:
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))] += 1
    return Histogram(bounds, tuple(counts), float(sum(values)))


def _equal(value: float, count: int, bounds: tuple[float, ...]) -> Histogram:
    """So many values that are equal, without a list of them."""
    one = histogram([value], bounds)
    return Histogram(bounds, tuple(count * each for each in one.counts), value * count)


def counts(
    requests: int = 0,
    *,
    ttft_s: float = 0.2,
    tpot_s: float = 0.05,
    e2e_s: float = 1.5,
    prompt: int = 500,
    answer: int = 100,
    hits: float = 0.0,
    waiting: int = 0,
    started_s: float = 1000.0,
) -> EngineCounts:
    """A server that has answered so many equal requests."""
    return EngineCounts(
        started_s=started_s,
        prompt_tokens=requests * prompt,
        output_tokens=requests * answer,
        prefix_queried_tokens=requests * prompt,
        prefix_hit_tokens=round(requests * prompt * hits),
        running=0,
        waiting=waiting,
        ttft_s=_equal(ttft_s, requests, LATENCY_BOUNDS_S),
        tpot_s=_equal(tpot_s if answer > 1 else 0.0, requests, LATENCY_BOUNDS_S),
        e2e_s=_equal(e2e_s, requests, LATENCY_BOUNDS_S),
        input_tokens=_equal(prompt, requests, TOKEN_BOUNDS),
        answer_tokens=_equal(answer, requests, TOKEN_BOUNDS),
    )


def restarted(found: EngineCounts, started_s: float) -> EngineCounts:
    return replace(found, started_s=started_s)


_NAMES = {
    "process_start_time_seconds": "started_s",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "output_tokens",
    "vllm:prefix_cache_queries_total": "prefix_queried_tokens",
    "vllm:prefix_cache_hits_total": "prefix_hit_tokens",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
}
_HISTOGRAM_NAMES = {
    "vllm:time_to_first_token_seconds": "ttft_s",
    "vllm:request_time_per_output_token_seconds": "tpot_s",
    "vllm:e2e_request_latency_seconds": "e2e_s",
    "vllm:request_prompt_tokens": "input_tokens",
    "vllm:request_generation_tokens": "answer_tokens",
}


def exposition(found: EngineCounts) -> str:
    """The counts as a server says them."""
    lines = [f'{name}{{engine="0"}} {getattr(found, ours)!r}' for name, ours in _NAMES.items()]
    for name, ours in _HISTOGRAM_NAMES.items():
        each: Histogram = getattr(found, ours)
        reached = 0
        for bound, count in zip((*each.bounds, "+Inf"), each.counts, strict=True):
            reached += count
            lines.append(f'{name}_bucket{{engine="0",le="{bound}"}} {reached}')
        lines.append(f'{name}_sum{{engine="0"}} {each.total!r}')
    return "\n".join([*lines, ""])
