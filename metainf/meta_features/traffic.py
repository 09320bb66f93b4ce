"""Meta-features of the traffic as it is declared: lengths, prefixes, load, burstiness.

Separate from the derived figures, which need the replica too: how heavy a load is depends on what carries it.
"""

import math

from metainf.meta_features.schema import Feature
from metainf.workload import BatchLoad, ConcurrencyLoad, RateLoad, Repetitiveness, SharedPrefix, Traffic

__all__ = ["TRAFFIC_FEATURES"]

_Z_95 = 1.6448536269514722
_Z_99 = 2.3263478740408408
_REPETITIVENESS = {
    Repetitiveness.LOW: 0.0,
    Repetitiveness.UNKNOWN: 0.5,  # in the middle, and a flag of its own says that nothing is known
    Repetitiveness.MEDIUM: 0.5,
    Repetitiveness.HIGH: 1.0,
}
_NO_PREFIX = SharedPrefix(tokens=0, ratio=0.0, distinct=0)


def _prefix(traffic: Traffic) -> SharedPrefix:
    return traffic.shared_prefix or _NO_PREFIX


def _shared_tokens(traffic: Traffic) -> float:
    prefix, mean = _prefix(traffic), traffic.input_tokens.mean_tokens
    return prefix.ratio * min(prefix.tokens, mean) / mean


def _rate(traffic: Traffic) -> float:
    load = traffic.load
    return math.log(max(load.requests_per_second, 1e-6)) if isinstance(load, RateLoad) else 0.0


def _requests(traffic: Traffic) -> float:
    """Requests that are there at a time, as declared: clients, or all of a batch."""
    load = traffic.load
    if isinstance(load, RateLoad):
        return 0.0
    return math.log(max(1, load.concurrency if isinstance(load, ConcurrencyLoad) else load.requests))


TRAFFIC_FEATURES: tuple[Feature[Traffic], ...] = (
    Feature("input_tokens_mean", "ln(tokens)", "Mean prompt.", lambda t: math.log(t.input_tokens.mean_tokens)),
    Feature("input_tokens_p50", "ln(tokens)", "Median prompt.", lambda t: math.log(t.input_tokens.quantile(0.0))),
    Feature("input_tokens_p95", "ln(tokens)", "Long prompt.", lambda t: math.log(t.input_tokens.quantile(_Z_95))),
    Feature("input_tokens_p99", "ln(tokens)", "Very long prompt.", lambda t: math.log(t.input_tokens.quantile(_Z_99))),
    Feature(
        "input_tokens_log_sd",
        "1",
        "Spread of the prompts: standard deviation of ln(tokens).",
        lambda t: t.input_tokens.log_sd,
    ),
    Feature("output_tokens_mean", "ln(tokens)", "Mean answer.", lambda t: math.log(t.output_tokens.mean_tokens)),
    Feature("output_tokens_p50", "ln(tokens)", "Median answer.", lambda t: math.log(t.output_tokens.quantile(0.0))),
    Feature("output_tokens_p95", "ln(tokens)", "Long answer.", lambda t: math.log(t.output_tokens.quantile(_Z_95))),
    Feature(
        "output_tokens_p99", "ln(tokens)", "Very long answer.", lambda t: math.log(t.output_tokens.quantile(_Z_99))
    ),
    Feature(
        "output_tokens_log_sd",
        "1",
        "Spread of the answers: standard deviation of ln(tokens).",
        lambda t: t.output_tokens.log_sd,
    ),
    Feature(
        "input_to_output",
        "ln(1)",
        "Mean prompt over mean answer.",
        lambda t: math.log(t.input_tokens.mean_tokens / t.output_tokens.mean_tokens),
    ),
    Feature("prefix_ratio", "1", "Share of the requests that begin with a shared prefix.", lambda t: _prefix(t).ratio),
    Feature("prefix_tokens", "ln(1 + tokens)", "Length of a shared prefix.", lambda t: math.log1p(_prefix(t).tokens)),
    Feature(
        "prefix_distinct",
        "ln(1 + prefixes)",
        "Different prefixes that are in use.",
        lambda t: math.log1p(_prefix(t).distinct),
    ),
    Feature("prefix_token_share", "1", "Share of all prompt tokens that are of shared prefixes.", _shared_tokens),
    Feature(
        "burstiness",
        "1",
        "Coefficient of variation of the times between arrivals; 1 for Poisson.",
        lambda t: t.burstiness,
    ),
    Feature(
        "repetitiveness",
        "1",
        "How much answers repeat prompts or themselves: 0 low, 0.5 medium or unknown, 1 high.",
        lambda t: _REPETITIVENESS[t.repetitiveness],
    ),
    Feature(
        "repetitiveness_unknown",
        "1",
        "1 where nothing is declared about repetition.",
        lambda t: float(t.repetitiveness is Repetitiveness.UNKNOWN),
    ),
    Feature(
        "load_is_rate", "1", "1 where requests arrive on their own.", lambda t: float(isinstance(t.load, RateLoad))
    ),
    Feature(
        "load_is_batch",
        "1",
        "1 where all requests are at hand at the start.",
        lambda t: float(isinstance(t.load, BatchLoad)),
    ),
    Feature("load_rate", "ln(requests/s)", "Declared rate of arrivals; 0 for other loads.", _rate),
    Feature("load_requests", "ln(requests)", "Clients, or requests of the batch; 0 for rates.", _requests),
)
