"""Traffic as it was observed in place of what was declared: the papers' real-time signals.

Separate from the meta-features, which read any `Traffic`: with this one function every feature and every predictor
takes observations without knowing of them.
"""

from dataclasses import dataclass, replace

from metainf.workload import ConcurrencyLoad, RateLoad, SharedPrefix, TokenLengths, Traffic

__all__ = ["TrafficObservation", "with_observed"]

_LONGEST_TAIL = 3.86
"""p95 over mean that a lognormal length can have at most, rounded down (`TokenLengths`)."""


@dataclass(frozen=True, slots=True)
class TrafficObservation:
    """What was seen of the traffic of all replicas together over some window; None where nothing was."""

    requests_per_second: float | None = None
    concurrency: float | None = None
    """Mean requests under way at a time."""
    input_tokens_mean: float | None = None
    input_tokens_p95: float | None = None
    output_tokens_mean: float | None = None
    output_tokens_p95: float | None = None
    prefix_hit_ratio: float | None = None
    """Share of all prompt tokens that the prefix cache had; None where it is turned off."""
    arrival_cv: float | None = None
    """Coefficient of variation of the times between arrivals."""


def with_observed(traffic: Traffic, seen: TrafficObservation) -> Traffic:
    """The traffic with what was seen of it in place of what was declared; the kind of load stays as declared.

    A batch's size and deadline are the user's and stay too.
    """
    load = traffic.load
    if isinstance(load, RateLoad) and seen.requests_per_second:
        load = RateLoad(seen.requests_per_second)
    elif isinstance(load, ConcurrencyLoad) and seen.concurrency:
        load = ConcurrencyLoad(max(1, round(seen.concurrency)))
    lengths = _lengths(traffic.input_tokens, seen.input_tokens_mean, seen.input_tokens_p95)
    return replace(
        traffic,
        load=load,
        input_tokens=lengths,
        output_tokens=_lengths(traffic.output_tokens, seen.output_tokens_mean, seen.output_tokens_p95),
        shared_prefix=_prefix(traffic.shared_prefix, lengths.mean_tokens, seen.prefix_hit_ratio),
        burstiness=traffic.burstiness if seen.arrival_cv is None else seen.arrival_cv,
    )


def _lengths(declared: TokenLengths, mean: float | None, p95: float | None) -> TokenLengths:
    """Observed where observed; a mean without a p95 keeps the declared spread."""
    if mean is None:
        return declared
    mean = max(1.0, mean)
    if p95 is None:
        ratio = None if declared.p95_tokens is None else declared.p95_tokens / declared.mean_tokens
    else:
        # Samples can have tails that no lognormal has, and a p95 below the mean where few are very long.
        ratio = min(max(p95 / mean, 1.0), _LONGEST_TAIL)
    return TokenLengths(mean, None if ratio is None else mean * ratio)


def _prefix(declared: SharedPrefix | None, prompt_tokens: float, hit_ratio: float | None) -> SharedPrefix | None:
    """The prefix that gives these hits: the declared one, found as often as it takes, or longer.

    Hits that were evicted are not seen, so this is at least as little sharing as there is.
    """
    if hit_ratio is None:
        return declared
    if hit_ratio <= 0.0:
        return None if declared is None else replace(declared, ratio=0.0)
    hit_tokens = min(hit_ratio, 1.0) * prompt_tokens
    if declared is None:
        return SharedPrefix(tokens=max(1, round(hit_tokens)))
    tokens = max(min(declared.tokens, int(prompt_tokens)), round(hit_tokens), 1)
    return replace(declared, tokens=tokens, ratio=min(1.0, hit_tokens / tokens))
