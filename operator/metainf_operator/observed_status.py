"""What was seen as users read it: the fields of a workload's status and of its decision's, and when to write them.

Separate and pure. Figures move with every request, and a status is no gauge: it is written on a transition (traffic
began or ended, a promise is missed or kept again, pods can be read or not) or when a figure moved by more than a tenth,
and for figures alone at most every five minutes. All of that is told from the status that stands, so that a new leader
writes nothing that the one before wrote already.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from metainf.manifests import duration_s, format_duration, format_figure, format_money
from metainf.workload import LatencyMetric, Slo, Statistic
from metainf_operator.observations import Observation, Quantile
from metainf_operator.observed_slo import LEAST_REQUESTS, Judgement, Verdict, judge

__all__ = [
    "Sight",
    "SloStanding",
    "decision_fields",
    "is_due",
    "slo_moved",
    "slo_standing",
    "slo_texts",
    "status_fields",
]

WRITE_RATIO = 0.1
WRITE_AFTER = timedelta(minutes=5)

_METRICS = (LatencyMetric.TTFT, LatencyMetric.TPOT, LatencyMetric.E2E)
_STATISTICS = (Statistic.P50, Statistic.P95, Statistic.P99)
_FIGURES = ("ttft", "tpot", "e2e", "throughput", "requestsPerSecond", "prefixHitRatio")
"""Fields whose moving is told; cost follows from throughput and price, and the others from the pods."""

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sight:
    """What stands before the operator's eyes of one serving.

    `seen` is None before there is any window, or where too little was seen to say something; `judgement` is of it.
    `unreadable` are pods that could not be read repeatedly, each with the reason.
    """

    seen: Observation | None = None
    judgement: Judgement = field(default_factory=Judgement)
    pods: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()


def status_fields(sight: Sight, slo: Slo, cost_per_hour: Decimal | None, currency: str, now: datetime) -> Fields:
    """`observed` of a workload's status. Latencies are shown at p95 and at every statistic that is promised."""
    fields: Fields = {"pods": sight.pods - len(sight.unreadable), "time": _time(now)}
    if sight.unreadable:
        fields["unreadablePods"] = len(sight.unreadable)
    seen = sight.seen
    if seen is None:
        return fields
    fields["requests"] = seen.requests
    promised = {(bound.metric, bound.statistic) for bound in slo.bounds}
    for metric in _METRICS:
        shown = [s for s in _STATISTICS if (metric, s) in promised or s is Statistic.P95]
        if metric is LatencyMetric.E2E and not any((metric, s) in promised for s in _STATISTICS):
            continue
        texts = [text for s in shown if (text := _latency_text(seen, metric, s)) is not None]
        if texts:
            fields[metric.value] = ", ".join(texts)
    tokens = seen.output_tokens_per_second
    if tokens is not None:
        fields["throughput"] = f"{tokens:.0f} tok/s"
        if tokens > 0 and cost_per_hour is not None:
            cost = cost_per_hour * 1_000_000 / Decimal(repr(tokens * 3600))
            fields["costPerMillionTokens"] = f"{format_money(cost)} {currency}"
    rate, hits = seen.requests_per_second, seen.prefix_hit_ratio
    if rate is not None and (text := format_figure(float(f"{rate:.3g}"))) is not None:
        fields["requestsPerSecond"] = text
    if hits is not None:
        fields["prefixHitRatio"] = f"{hits:.2f}"
    return fields


def _latency_text(seen: Observation, metric: LatencyMetric, statistic: Statistic) -> str | None:
    histogram = seen.latency(metric)
    if histogram is None or histogram.count < LEAST_REQUESTS[statistic]:
        return None
    found = seen.statistic(metric, statistic)
    return None if found is None else f"{statistic.value} {_quantile_text(found)}"


def _quantile_text(found: Quantile) -> str:
    text = format_duration(float(f"{found.value:.3g}"))
    return text if found.is_bounded else f"above {text}"


@dataclass(frozen=True, slots=True)
class SloStanding:
    """How the promises stand: status, reason and message of a condition."""

    status: str
    reason: str
    message: str


def slo_standing(sight: Sight | None, slo: Slo, published: Mapping[str, Any]) -> SloStanding:
    """How the promises stand. Figures in the message are those of the status, `published`, so that both move together.

    Called where there are promises.
    """
    if sight is not None and sight.pods and len(sight.unreadable) == sight.pods:
        name, fault = sight.unreadable[0]
        text = f"the metrics of none of {sight.pods} ready pods can be read; of {name}: {fault}"
        return SloStanding("Unknown", "MetricsUnreadable", text)
    if sight is None or sight.seen is None:
        return SloStanding("Unknown", "NoTraffic", "no traffic was observed, or too little to tell anything by")
    judged = tuple(bound for bound, _ in sight.judgement.verdicts)
    judgement = sight.judgement if judged == slo.bounds else judge(slo, sight.seen)  # promised anew since
    texts = slo_texts(published)
    if missed := judgement.those(Verdict.MISSED):
        told = [f"{b} is {texts.get(str(b), 'more')}; the SLO allows {format_duration(b.bound_s)}" for b in missed]
        return SloStanding("False", "SLOMissed", ", and ".join(told))
    if unseen := judgement.those(Verdict.UNSEEN):
        names = ", ".join(str(bound) for bound in unseen)
        return SloStanding("Unknown", "NoTraffic", f"too few requests were observed to tell {names}")
    if unsure := judgement.those(Verdict.UNSURE):
        told = [f"{b} is about {texts.get(str(b), 'that')} of {format_duration(b.bound_s)}" for b in unsure]
        why = "the server counts by bounds too coarse to tell"
        return SloStanding("Unknown", "TooCloseToTell", f"{', '.join(told)}: {why}")
    told = [f"{b} is {texts.get(str(b), 'less')} of {format_duration(b.bound_s)}" for b, _ in judgement.verdicts]
    return SloStanding("True", "WithinSLO", ", ".join(told))


def slo_moved(status: Mapping[str, Any], sight: Sight, slo: Slo) -> bool:
    """Whether the promises stand otherwise than the condition in the status says."""
    if not slo.bounds:
        return False
    now = slo_standing(sight, slo, {})
    before: Mapping[str, Any] = next((c for c in status.get("conditions") or () if c.get("type") == "SLOMet"), {})
    return (before.get("status"), before.get("reason")) != (now.status, now.reason)


def slo_texts(observed: Mapping[str, Any]) -> Mapping[str, str]:
    """Each shown figure by its name, such as `ttft p95`: what conditions quote, so that they move with the status."""
    found: dict[str, str] = {}
    for metric in _METRICS:
        for part in str(observed.get(metric.value) or "").split(", "):
            statistic, _, text = part.partition(" ")
            if text:
                found[f"{metric.value} {statistic}"] = text
    return found


def decision_fields(seen: Observation, fields: Mapping[str, Any]) -> Fields:
    """`status.observed` of the decision in force, as a merge patch: what is not known is taken out.

    `fields` are those of the workload's status that are written with it.
    """
    made: Fields = {
        metric.value: {s.value: _seconds(seen, metric, s) for s in (Statistic.MEAN, *_STATISTICS)}
        for metric in _METRICS
    }
    for name, rate in (
        ("outputTokensPerSecond", seen.output_tokens_per_second),
        ("requestsPerSecond", seen.requests_per_second),
        ("prefixHitRatio", seen.prefix_hit_ratio),
    ):
        made[name] = None if rate is None else format_figure(rate)
    made["costPerMillionTokens"] = str(fields.get("costPerMillionTokens") or "").partition(" ")[0] or None
    made.update(requests=seen.requests, since=_time(seen.since), until=_time(seen.until))
    return made


def _seconds(seen: Observation, metric: LatencyMetric, statistic: Statistic) -> str | None:
    """The figure; None where it is not known, or only that it lies beyond the last bucket's bound."""
    histogram = seen.latency(metric)
    if histogram is None or histogram.count < LEAST_REQUESTS.get(statistic, 1):
        return None
    found = seen.statistic(metric, statistic)
    return None if found is None or not found.is_bounded else format_figure(found.value)


def is_due(before: Mapping[str, Any], fields: Mapping[str, Any], *, transition: bool, now: datetime) -> bool:
    """Whether what was seen shall be written over `before`; `transition`: a promise's standing changed."""
    if transition or any((name in before) != (name in fields) for name in ("requests", *_FIGURES)):
        return True
    if any(before.get(name) != fields.get(name) for name in ("pods", "unreadablePods")):
        return True
    written = _read_time(before.get("time"))
    if written is not None and now - written < WRITE_AFTER:
        return False
    return any(_moved(str(before.get(name, "")), str(fields.get(name, ""))) for name in _FIGURES)


def _moved(before: str, after: str) -> bool:
    """Whether a figure moved by more than a tenth, or is of another kind."""
    was, found = before.split(", "), after.split(", ")
    if len(was) != len(found):
        return True
    return any(_part_moved(one, other) for one, other in zip(was, found, strict=True))


def _part_moved(before: str, after: str) -> bool:
    was, found = _number(before), _number(after)
    if was is None or found is None:
        return before != after
    return abs(found - was) > WRITE_RATIO * was


def _number(text: str) -> float | None:
    """The figure in `p95 412ms`, `1210 tok/s` or `0.62`."""
    for word in text.split():
        try:
            return float(Decimal(word))
        except InvalidOperation:
            pass
        try:
            return duration_s(word)
        except ValueError:
            continue
    return None


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).astimezone(UTC)
    except ValueError:
        return None
