"""Which traffic a decision rests on where the policy says Observed: what was declared, or what was seen.

Separate and pure, and the one place of the rule. Seen traffic takes the place of the declared when all of this holds:

- enough was seen: LEAST_REQUESTS answers, the whole window of `observe_window_s`, each pod readable all the time;
- it differs from the traffic in use: load or a mean length by more than a quarter, or the share of prompt tokens that
  the prefix cache has by more than a tenth of all. Whatever differs less is noise, and changes nothing.

The traffic in use is that of the decision in force, so a new leader goes on from there, and silence leaves it as it is:
a night without requests is no reason to forget the day. Where nothing runs it is the declared: nothing can be seen
there, and what was seen last would be kept for ever, whether or not it was what stopped the workload. Another choice
that this leads to is held back by the policy's minimumGain and cooldown as any other; a broken limit is not, so a
workload grows at once and shrinks with patience.

What was declared stays in force for all that cannot be seen (repetitiveness, burstiness, how many prefixes, a batch),
and for the lengths that an engine has to take.
"""

from dataclasses import replace

from metainf.manifests import ObservedTraffic
from metainf.meta_features.observed import TrafficObservation, with_observed
from metainf.workload import BatchLoad, ConcurrencyLoad, Load, RateLoad, SharedPrefix, TokenLengths, Traffic
from metainf_operator.engine_metrics import Histogram
from metainf_operator.observations import Observation, quantile

__all__ = ["LEAST_REQUESTS", "LEAST_WINDOW_RATIO", "differs", "rebased", "traffic_in_use", "traffic_seen"]

LEAST_REQUESTS = 100
"""The mean of 100 lengths whose standard deviation is their mean lies within a fifth of the truth in 95 of 100 cases;
a change below a quarter is taken for noise."""

LEAST_WINDOW_RATIO = 0.9
"""Share of the window that must have been watched."""

CHANGE_RATIO = 1.25
CHANGE_OF_HITS = 0.1


def traffic_in_use(
    declared: Traffic,
    recorded: ObservedTraffic | None,
    seen: Observation | None,
    *,
    window_s: float,
    runs: bool = True,
) -> ObservedTraffic | None:
    """The seen traffic to decide by; None where it is the declared.

    `recorded` is that of the decision in force, None where that rests on what was declared. `runs`: the decision in
    force holds capacity.
    """
    if not runs:
        return None
    in_use = None if recorded is None else replace(recorded, traffic=rebased(declared, recorded.traffic))
    fresh = None if seen is None else traffic_seen(declared, seen, window_s=window_s)
    if fresh is None or not differs(declared if in_use is None else in_use.traffic, fresh.traffic):
        return in_use
    return fresh


def traffic_seen(declared: Traffic, seen: Observation, *, window_s: float) -> ObservedTraffic | None:
    """The declared traffic with what was seen in its place; None where too little was seen to decide by."""
    if not seen.complete or seen.requests < LEAST_REQUESTS or seen.seconds < LEAST_WINDOW_RATIO * window_s:
        return None
    prompts, answers = seen.counts.input_tokens, seen.counts.answer_tokens
    found = TrafficObservation(
        requests_per_second=_digits(seen.requests_per_second),
        concurrency=seen.concurrency,
        input_tokens_mean=_mean(prompts),
        input_tokens_p95=_p95(prompts),
        output_tokens_mean=_mean(answers),
        output_tokens_p95=_p95(answers),
        prefix_hit_ratio=seen.prefix_hit_ratio,
    )
    traffic = _recordable(with_observed(declared, found))
    return ObservedTraffic(traffic, seen.requests, seen.since, seen.until)


def _digits(rate: float | None) -> float | None:
    return None if rate is None else float(f"{rate:.3g}")


def _mean(tokens: Histogram | None) -> float | None:
    return None if tokens is None or tokens.count == 0 else float(max(1, round(tokens.total / tokens.count)))


def _p95(tokens: Histogram | None) -> float | None:
    """The percentile, where it lies in another bucket than the mean: buckets double, and one alone tells no spread."""
    found, mean = None if tokens is None else quantile(tokens, 0.95), _mean(tokens)
    if found is None or mean is None or not found.is_bounded or found.low < mean <= found.high:
        return None
    return float(round(found.value))


def _recordable(traffic: Traffic) -> Traffic:
    """The traffic in the digits that a record has, so that it is read back as it was decided by."""
    lengths = _whole(traffic.input_tokens)
    prefix = traffic.shared_prefix
    if prefix is not None:
        most = max(1, round(lengths.mean_tokens) - 1)
        prefix = replace(prefix, tokens=min(prefix.tokens, most), ratio=round(prefix.ratio, 2))
    if prefix is not None and lengths.mean_tokens <= 1:
        prefix = None
    return replace(traffic, input_tokens=lengths, output_tokens=_whole(traffic.output_tokens), shared_prefix=prefix)


def _whole(lengths: TokenLengths) -> TokenLengths:
    mean = float(round(lengths.mean_tokens))
    if lengths.p95_tokens is None:
        return TokenLengths(mean)
    return TokenLengths(mean, float(min(max(round(lengths.p95_tokens), mean), int(mean * _MOST_P95_OVER_MEAN))))


_MOST_P95_OVER_MEAN = 3.86  # Source: the CRD, which refuses what no lognormal distribution has


def rebased(declared: Traffic, used: Traffic) -> Traffic:
    """What was seen earlier, over what is declared now; a load of another kind is the declared one."""
    load = used.load if type(used.load) is type(declared.load) and not isinstance(used.load, BatchLoad) else None
    return replace(
        declared,
        load=declared.load if load is None else load,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        shared_prefix=used.shared_prefix,
    )


def differs(used: Traffic, fresh: Traffic) -> bool:
    """Whether the two are so far apart that another choice may be right."""
    pairs = (
        (_size(used.load), _size(fresh.load)),
        (used.input_tokens.mean_tokens, fresh.input_tokens.mean_tokens),
        (used.output_tokens.mean_tokens, fresh.output_tokens.mean_tokens),
    )
    if any(max(one, other) > CHANGE_RATIO * min(one, other) for one, other in pairs):
        return True
    return abs(_hits(used) - _hits(fresh)) > CHANGE_OF_HITS


def _size(load: Load) -> float:
    match load:
        case RateLoad(rate):
            return rate
        case ConcurrencyLoad(clients):
            return float(clients)
        case BatchLoad(requests, _):
            return float(requests)


def _hits(traffic: Traffic) -> float:
    """Share of the prompt tokens that lie in shared prefixes."""
    prefix: SharedPrefix | None = traffic.shared_prefix
    return 0.0 if prefix is None else min(1.0, prefix.tokens * prefix.ratio / traffic.input_tokens.mean_tokens)
