"""The parts of a workload's spec that a decision records too: traffic, SLOs and the budget.

Separate from `manifests.workload` because these are read from a manifest and written into a decision, and the two
directions must not drift apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

from metainf.errors import InvalidWorkloadError
from metainf.manifests import rules
from metainf.manifests.quantities import duration_s, format_decimal, format_duration
from metainf.manifests.reader import Reader
from metainf.workload import (
    BatchLoad,
    Budget,
    BudgetKind,
    ConcurrencyLoad,
    LatencyMetric,
    Load,
    RateLoad,
    Repetitiveness,
    SharedPrefix,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
)

__all__ = [
    "ObservedTraffic",
    "budget_fields",
    "evidence_fields",
    "read_budget",
    "read_budget_fields",
    "read_observed_traffic",
    "read_slo",
    "read_traffic",
    "slo_fields",
    "traffic_fields",
]

_LOADS = ("requestsPerSecond", "concurrency", "batch")
_MOST_TOKENS = 10_000_000
_PERCENTILES = (Statistic.P50, Statistic.P95, Statistic.P99)
# Source: the CRD, which rounds down the largest p95 / mean that a lognormal distribution can have, 3.868.
_MOST_P95_OVER_MEAN = 3.86
_RECORDED_DURATION_CHARACTERS = 16
_MOST_REQUESTS = 1 << 62


@dataclass(frozen=True, slots=True)
class ObservedTraffic:
    """Traffic as it was seen, and what that rests on: so many answered requests from `since` to `until`."""

    traffic: Traffic
    requests: int
    since: datetime
    until: datetime


def evidence_fields(observed: ObservedTraffic) -> dict[str, object]:
    """What observed traffic rests on, as a decision records it."""
    since, until = _recorded_time(observed.since), _recorded_time(observed.until)
    return {"requests": observed.requests, "since": since, "until": until}


def read_observed_traffic(inputs: Reader) -> ObservedTraffic | None:
    """The observed traffic of a decision's inputs; None where it was made by what was declared."""
    evidence = inputs.optional_child("observed", None)
    if evidence is None:
        return None
    try:
        traffic = read_traffic(inputs)
    except InvalidWorkloadError:
        return None  # of another version: what it was decided by is not known here
    requests = evidence.integer("requests", 0, _MOST_REQUESTS)
    return ObservedTraffic(traffic, requests, _time(evidence, "since"), _time(evidence, "until"))


def _time(reader: Reader, name: str) -> datetime:
    text = reader.text(name, rules.plain_text(64, "a time"))
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
    except ValueError:
        raise reader.error(name, f"write a time such as 2026-01-01T12:00:00Z, not {text!r}") from None


def _recorded_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_traffic(spec: Reader) -> Traffic:
    """`spec.traffic`."""
    reader = spec.child(
        "traffic",
        (*_LOADS, "inputTokens", "outputTokens", "sharedPrefix", "repetitiveness", "burstiness", "description"),
    )
    load = _load(reader)
    input_tokens = _lengths(reader, "inputTokens")
    return Traffic(
        load=load,
        input_tokens=input_tokens,
        output_tokens=_lengths(reader, "outputTokens"),
        shared_prefix=_shared_prefix(reader, input_tokens),
        repetitiveness=reader.choice("repetitiveness", Repetitiveness, Repetitiveness.UNKNOWN),
        burstiness=float(reader.text("burstiness", rules.BURSTINESS, "1")),
        description=reader.optional_text("description", rules.DESCRIPTION) or "",
    )


def _load(reader: Reader) -> Load:
    kind = reader.exactly_one(_LOADS, "give exactly one of requestsPerSecond, concurrency and batch")
    if kind == "requestsPerSecond":
        return RateLoad(float(reader.text(kind, rules.RATE)))
    if kind == "concurrency":
        return ConcurrencyLoad(reader.integer(kind, 1, 1_000_000))
    batch = reader.child(kind, ("requests", "deadline"))
    requests = batch.integer("requests", 1, 1_000_000_000)
    return BatchLoad(requests, duration_s(batch.text("deadline", rules.DURATION_ABOVE_ZERO)))


def _lengths(traffic: Reader, name: str) -> TokenLengths:
    reader = traffic.child(name, ("mean", "p95"))
    mean = reader.integer("mean", 1, _MOST_TOKENS)
    p95 = reader.optional_integer("p95", 1, _MOST_TOKENS)
    if p95 is not None and p95 < mean:
        raise reader.error(
            "p95", "p95 is below mean: give a p95 of at least the mean, or leave it out for constant lengths"
        )
    if p95 is not None and p95 > _MOST_P95_OVER_MEAN * mean:
        raise reader.error(
            "p95", "p95 is more than 3.86 times mean, which no lognormal distribution has: check the two figures"
        )
    return TokenLengths(mean, p95)


def _shared_prefix(traffic: Reader, input_tokens: TokenLengths) -> SharedPrefix | None:
    reader = traffic.optional_child("sharedPrefix", ("tokens", "ratio", "distinct"))
    if reader is None:
        return None
    prefix = SharedPrefix(
        tokens=reader.integer("tokens", 1, _MOST_TOKENS),
        ratio=float(reader.text("ratio", rules.RATIO)),
        distinct=reader.integer("distinct", 1, 1_000_000, 1),
    )
    if prefix.tokens >= input_tokens.mean_tokens:
        raise reader.error(
            "tokens", "sharedPrefix.tokens must be less than inputTokens.mean, which includes the prefix"
        )
    return prefix


def read_slo(spec: Reader) -> Slo:
    """`spec.slo`; no bounds where it is absent."""
    reader = spec.optional_child("slo", tuple(LatencyMetric))
    if reader is None:
        return Slo()
    bounds = tuple(bound for metric in LatencyMetric for bound in _bounds(reader, metric))
    if not bounds:
        raise reader.error("", "give at least one of ttft, tpot and e2e, or leave slo out")
    return Slo(bounds)


def _bounds(slo: Reader, metric: LatencyMetric) -> tuple[SloBound, ...]:
    reader = slo.optional_child(metric, tuple(_PERCENTILES))
    if reader is None:
        return ()
    bounds = tuple(
        SloBound(metric, statistic, duration_s(reader.text(statistic, rules.DURATION_ABOVE_ZERO)))
        for statistic in _PERCENTILES
        if reader.has(statistic)
    )
    if not bounds:
        raise reader.error("", "give at least one of p50, p95 and p99")
    for lower, higher in pairwise(bounds):
        if lower.bound_s > higher.bound_s:
            raise reader.error("", "a higher percentile cannot have a lower bound: order them p50 <= p95 <= p99")
    return bounds


def read_budget(spec: Reader, traffic: Traffic) -> Budget:
    """`spec.budget`."""
    reader = spec.child("budget", (*BudgetKind, "currency"))
    budget = read_budget_fields(reader)
    if budget.kind is BudgetKind.TOTAL and not isinstance(traffic.load, BatchLoad):
        raise reader.error(
            "total",
            "budget.total is for traffic.batch: without an end there is no total; give perHour or perMillionTokens",
        )
    return budget


def read_budget_fields(reader: Reader) -> Budget:
    """A budget alone, as a workload asks for one and a decision records one."""
    kind = BudgetKind(reader.exactly_one(tuple(BudgetKind), "give exactly one of perHour, perMillionTokens and total"))
    amount = Decimal(reader.text(kind, rules.ABOVE_ZERO))
    return Budget(kind, amount, reader.text("currency", rules.CURRENCY, "USD"))


def traffic_fields(traffic: Traffic) -> dict[str, object]:
    """The traffic as a decision records it: as in the workload, without its description."""
    fields: dict[str, object] = {}
    match traffic.load:
        case RateLoad(rate):
            fields["requestsPerSecond"] = format_decimal(Decimal(repr(rate)))
        case ConcurrencyLoad(clients):
            fields["concurrency"] = clients
        case BatchLoad(requests, deadline_s):
            fields["batch"] = {"requests": requests, "deadline": _recorded_duration(deadline_s)}
    fields["inputTokens"] = _length_fields(traffic.input_tokens)
    fields["outputTokens"] = _length_fields(traffic.output_tokens)
    if traffic.shared_prefix is not None:
        prefix = traffic.shared_prefix
        fields["sharedPrefix"] = {
            "tokens": prefix.tokens,
            "ratio": format_decimal(Decimal(repr(prefix.ratio))),
            "distinct": prefix.distinct,
        }
    fields["repetitiveness"] = traffic.repetitiveness.value
    fields["burstiness"] = format_decimal(Decimal(repr(traffic.burstiness)))
    return fields


def _length_fields(lengths: TokenLengths) -> dict[str, int]:
    fields = {"mean": round(lengths.mean_tokens)}
    if lengths.p95_tokens is not None:
        fields["p95"] = round(lengths.p95_tokens)
    return fields


def slo_fields(slo: Slo) -> dict[str, dict[str, str]]:
    """The SLOs as a decision records them."""
    fields: dict[str, dict[str, str]] = {}
    for bound in slo.bounds:
        fields.setdefault(bound.metric.value, {})[bound.statistic.value] = _recorded_duration(bound.bound_s)
    return fields


def budget_fields(budget: Budget) -> Mapping[str, str]:
    """The budget as a decision records it."""
    return {budget.kind.value: format_decimal(budget.amount), "currency": budget.currency}


def _recorded_duration(seconds: float) -> str:
    """The duration in the 16 characters that a decision has for it; parts too small to fit are rounded away."""
    spelt = (format_duration(s) for s in (seconds, round(seconds, 3), float(round(seconds))))
    return next((text for text in spelt if len(text) <= _RECORDED_DURATION_CHARACTERS), "999999h")
