"""A selection, or the lack of one, as an InferenceDecision manifest.

Separate from reading it back (`decision_record`): this one knows predictions and candidates, that one only what a
record holds. The same inputs give the same bytes, and always fewer than a record may have: where there is much to
say, runners-up and sentences are shortened step by step, and the choice itself never.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from statistics import NormalDist
from typing import Any

from metainf.manifests.digests import DecisionInputs, choice_of, decision_name
from metainf.manifests.metadata import API_VERSION
from metainf.manifests.quantities import format_cpu, format_decimal, format_figure, format_memory, format_money
from metainf.manifests.traffic import budget_fields, evidence_fields, slo_fields, traffic_fields
from metainf.manifests.verdicts import verdict
from metainf.manifests.workload import WORKLOAD_KIND, InferenceWorkload
from metainf.pools import NodePool
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS
from metainf.rejections import RejectionCount
from metainf.selection import NoSelection, Scored, Selection
from metainf.workload import BatchLoad, Statistic

__all__ = [
    "CHOICE_ANNOTATION",
    "DECISION_KIND",
    "INPUTS_DIGEST_ANNOTATION",
    "LIMIT_ANNOTATION",
    "MANAGED_BY_LABEL",
    "MOST_DECISION_BYTES",
    "RESERVATION_ANNOTATION",
    "WORKLOAD_LABEL",
    "decision_manifest",
    "manifest_bytes",
]

DECISION_KIND = "InferenceDecision"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
WORKLOAD_LABEL = "metainf.dev/workload"
CHOICE_ANNOTATION = "metainf.dev/choice"
LIMIT_ANNOTATION = "metainf.dev/limit"
INPUTS_DIGEST_ANNOTATION = "metainf.dev/inputs-digest"
RESERVATION_ANNOTATION = "metainf.dev/reservation"

MOST_DECISION_BYTES = 13 * 1024
"""Of the manifest; 16 KiB with status and what the API server adds (managed fields)."""

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Detail:
    """How much a record says; each figure is a number of entries, or of bytes of JSON."""

    alternatives: int
    text_bytes: int
    reference_bytes: int
    prices: int
    argv_bytes: int
    nearest_named: bool = True


_DETAILS = (
    _Detail(10, 256, 256, 64, 4096),
    _Detail(10, 160, 96, 32, 4096),
    _Detail(5, 160, 96, 16, 4096),
    _Detail(5, 128, 0, 16, 3072),
    _Detail(3, 96, 0, 8, 2048),
    _Detail(1, 48, 0, 4, 2048, nearest_named=False),
)
_MESSAGE_BYTES = 1024
_MOST_ARGUMENTS = 96


def decision_manifest(
    workload: InferenceWorkload,
    inputs: DecisionInputs,
    outcome: Selection | NoSelection,
    pools: Sequence[NodePool],
    argv: Sequence[str],
) -> Manifest:
    """The InferenceDecision; `argv` is the chosen candidate's and empty for a refusal.

    Without a uid (a manifest from a file) it has no owner.
    """
    metadata = _metadata(workload, inputs, outcome)
    for detail in _DETAILS:
        manifest = {
            "apiVersion": API_VERSION,
            "kind": DECISION_KIND,
            "metadata": metadata,
            "spec": _spec(workload, inputs, outcome, _Rest(tuple(pools), tuple(argv), detail)),
        }
        if len(manifest_bytes(manifest)) <= MOST_DECISION_BYTES:
            break
    return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as compact JSON, keys in the order in which they were written."""
    return json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class _Rest:
    pools: tuple[NodePool, ...]
    argv: tuple[str, ...]
    detail: _Detail


def _metadata(workload: InferenceWorkload, inputs: DecisionInputs, outcome: Selection | NoSelection) -> Manifest:
    choice = choice_of(outcome)
    annotations = {INPUTS_DIGEST_ANNOTATION: inputs.digest}
    if isinstance(outcome, Selection):
        annotations[CHOICE_ANNOTATION] = choice
        annotations[RESERVATION_ANNOTATION] = _reservation(outcome.chosen)
    else:
        annotations[LIMIT_ANNOTATION] = choice
    metadata: Manifest = {
        "name": decision_name(workload, inputs.digest, choice),
        "namespace": workload.namespace,
        "labels": {MANAGED_BY_LABEL: "metainf", WORKLOAD_LABEL: workload.name},
        "annotations": annotations,
    }
    if workload.uid:
        owner = {
            "apiVersion": API_VERSION,
            "kind": WORKLOAD_KIND,
            "name": workload.name,
            "uid": workload.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
        metadata["ownerReferences"] = [owner]
    return metadata


def _reservation(chosen: Scored) -> str:
    request = chosen.candidate.option.request
    fields = {
        "pool": chosen.candidate.option.pool.name,
        "accelerators": request.accelerators,
        "cpu": format_cpu(request.cpu_cores),
        "memory": format_memory(request.memory_bytes),
        "replicas": chosen.candidate.replicas,
    }
    return json.dumps(fields, separators=(",", ":"))


def _spec(
    workload: InferenceWorkload, inputs: DecisionInputs, outcome: Selection | NoSelection, rest: _Rest
) -> Manifest:
    asked, detail = workload.workload, rest.detail
    chosen = outcome.chosen if isinstance(outcome, Selection) else None
    others = outcome.alternatives if isinstance(outcome, Selection) else outcome.nearest
    spec: Manifest = {
        "workloadRef": {"name": workload.name, "uid": workload.uid, "generation": workload.generation},
        "inputs": _inputs(workload, inputs),
        "objective": asked.objective.value,
        "confidence": format_decimal(Decimal(repr(asked.confidence))),
        "outcome": "Chosen" if chosen is not None else "Refused",
    }
    if isinstance(outcome, Selection):
        spec["chosen"] = _chosen(outcome.chosen, asked.confidence, _argv(rest.argv, detail.argv_bytes))
    else:
        spec["refusal"] = _refusal(outcome)
    spec["alternatives"] = [_alternative(other, chosen, detail) for other in others[: detail.alternatives]]
    spec["rejections"] = [_rejection(count, detail) for count in outcome.rejections]
    mentioned = [scored.candidate.option.pool.name for scored in (*([chosen] if chosen else []), *others)]
    spec["prices"] = _prices(rest.pools, mentioned, detail)
    spec["predictor"] = {
        "name": outcome.predictor.name,
        "digest": outcome.predictor.digest,
        "outOfDistribution": any(
            bool(scored.assessment.predictions.out_of_distribution[scored.row])
            for scored in ([chosen] if chosen else others[:1])
        ),
    }
    return spec


def _inputs(workload: InferenceWorkload, inputs: DecisionInputs) -> Manifest:
    model: Manifest = {"id": inputs.model_id, "architectureDigest": inputs.architecture_digest}
    if inputs.revision is not None:
        model["revision"] = inputs.revision
    if inputs.draft is not None:
        model["draftModel"] = {name: text for name, text in asdict(inputs.draft).items() if text is not None}
    asked = workload.workload
    limits: Manifest = {"slo": slo_fields(asked.slo)} if asked.slo.bounds else {}
    observed = {} if inputs.observed is None else {"observed": evidence_fields(inputs.observed)}
    return {
        "digest": inputs.digest,
        "engineVersion": inputs.engine_version,
        "model": model,
        "traffic": traffic_fields(asked.traffic),
        **observed,
        "limits": {**limits, "budget": dict(budget_fields(asked.budget))},
    }


def _chosen(chosen: Scored, confidence: float, argv: list[str]) -> Manifest:
    candidate = chosen.candidate
    option, layout = candidate.option, candidate.option.layout
    price = option.pool.price
    fields: Manifest = {
        "method": option.method.name,
        "techniques": [technique.value for technique in option.method.techniques],
        "layout": {
            "tensorParallel": layout.tensor_parallel,
            "pipelineParallel": layout.pipeline_parallel,
            "dataParallel": layout.data_parallel,
            "expertParallel": layout.expert_parallel,
        },
        "layoutName": layout.name,
        "pool": option.pool.name,
        "accelerator": option.pool.accelerator.name,
        "replicas": candidate.replicas,
        "acceleratorsPerReplica": option.request.accelerators,
        "argv": argv,
        "costPerHour": format_money(candidate.cost_per_hour),
    }
    fields.update(_predicted_costs(chosen))
    fields["currency"] = "" if price is None else price.currency
    fields["predicted"] = _predicted(chosen, NormalDist().inv_cdf((1.0 + confidence) / 2.0))
    return fields


def _predicted_costs(scored: Scored) -> dict[str, str]:
    predictions, row = scored.assessment.predictions, scored.row
    per_hour = float(scored.candidate.cost_per_hour)
    tokens_per_hour = float(predictions.output_tokens_per_second[row]) * 3600.0
    costs = {"costPerMillionTokens": per_hour / tokens_per_hour * 1e6 if tokens_per_hour > 0 else float("inf")}
    if isinstance(scored.assessment.workload.traffic.load, BatchLoad):
        costs["costTotal"] = per_hour * float(predictions.makespan_s[row]) / 3600.0
    return {name: text for name, cost in costs.items() if (text := format_figure(cost)) is not None}


def _predicted(scored: Scored, z: float) -> Manifest:
    predictions, row = scored.assessment.predictions, scored.row
    middle, low, high = predictions.latency_s, predictions.latency_at(-z), predictions.latency_at(z)
    fields: Manifest = {}
    for m, metric in enumerate(LATENCY_METRICS):
        for s, statistic in enumerate(STATISTICS):
            figure = _figure(middle[row, m, s], low[row, m, s], high[row, m, s])
            if figure is not None:
                fields.setdefault(metric.value, {})[statistic.value] = figure
    tokens = predictions.output_tokens_per_second
    down, up = predictions.output_tokens_per_second_at(-z), predictions.output_tokens_per_second_at(z)
    requests, ratio = predictions.requests_per_second, up[row] / tokens[row] if tokens[row] > 0 else 1.0
    figures = {
        "outputTokensPerSecond": _figure(tokens[row], down[row], up[row]),
        "requestsPerSecond": _figure(requests[row], requests[row] / ratio, requests[row] * ratio),
        "makespan": _figure(
            predictions.makespan_s[row], predictions.makespan_at(-z)[row], predictions.makespan_at(z)[row]
        ),
    }
    return fields | {name: figure for name, figure in figures.items() if figure is not None}


def _figure(value: float, low: float, high: float) -> dict[str, str] | None:
    """A figure with its interval; None where it is unbounded or does not apply."""
    texts = [format_figure(float(number)) for number in (value, low, high)]
    if None in texts:
        return None
    return {name: text for name, text in zip(("value", "low", "high"), texts, strict=True) if text is not None}


def _refusal(outcome: NoSelection) -> Manifest:
    fields: Manifest = {"limit": outcome.limit.value, "message": _shortened(outcome.message, _MESSAGE_BYTES)}
    if outcome.cheapest_budget is not None and outcome.cheapest_budget.amount.is_finite():
        fields["cheapestBudget"] = dict(budget_fields(outcome.cheapest_budget))
    return fields


def _alternative(scored: Scored, chosen: Scored | None, detail: _Detail) -> Manifest:
    candidate = scored.candidate
    predictions, row = scored.assessment.predictions, scored.row
    p95 = STATISTICS.index(Statistic.P95)
    figures = {f"{metric.value}P95": predictions.latency_s[row, m, p95] for m, metric in enumerate(LATENCY_METRICS)}
    figures["outputTokensPerSecond"] = predictions.output_tokens_per_second[row]
    return {
        "method": candidate.option.method.name,
        "layoutName": candidate.option.layout.name,
        "pool": candidate.option.pool.name,
        "replicas": candidate.replicas,
        "costPerHour": format_money(candidate.cost_per_hour),
        "predicted": {
            name: text for name, value in figures.items() if (text := format_figure(float(value))) is not None
        },
        "verdict": _shortened(verdict(scored, chosen), detail.text_bytes),
    }


def _rejection(count: RejectionCount, detail: _Detail) -> Manifest:
    nearest = count.nearest
    fields: Manifest = {}
    if nearest.method is not None and detail.nearest_named:
        fields["method"] = nearest.method
    if nearest.layout is not None and detail.nearest_named:
        fields["layoutName"] = nearest.layout
    fields["pool"] = nearest.pool
    if nearest.replicas:
        fields["replicas"] = nearest.replicas
    fields["detail"] = _shortened(nearest.detail, detail.text_bytes)
    return {"reason": count.reason.value, "count": count.count, "nearest": fields}


def _prices(pools: Sequence[NodePool], mentioned: Sequence[str], detail: _Detail) -> list[Manifest]:
    """Prices by pool; where there are too many, those of pools that the decision speaks of, best first."""
    order = {name: i for i, name in reversed(list(enumerate(mentioned)))}
    priced = sorted(
        (pool for pool in pools if pool.price is not None), key=lambda pool: (order.get(pool.name, 1 << 30), pool.name)
    )
    kept = sorted(priced[: detail.prices], key=lambda pool: pool.name)
    return [_price(pool, detail) for pool in kept]


def _price(pool: NodePool, detail: _Detail) -> Manifest:
    price = pool.price
    if price is None:
        raise AssertionError("only pools with a price come here")
    fields = {
        "pool": pool.name,
        "perHour": format_decimal(price.per_hour),
        "currency": price.currency,
        "source": price.source.value,
    }
    if price.reference and detail.reference_bytes:
        fields["reference"] = _shortened(price.reference, detail.reference_bytes)
    if price.as_of is not None:
        fields["asOf"] = price.as_of
    return fields


def _argv(argv: Sequence[str], most_bytes: int) -> list[str]:
    """The arguments in order as far as they fit; what a user added comes last, so only that can be cut."""
    used = 0
    kept: list[str] = []
    for argument in argv:
        used += _json_bytes(argument) + 1
        if used > most_bytes or (len(kept) == _MOST_ARGUMENTS - 1 < len(argv) - 1):
            rest = argv[len(kept) :]
            digest = hashlib.sha256(json.dumps(rest).encode()).hexdigest()[:12]
            return [*kept, f"[{len(rest)} more arguments, sha256:{digest}]"]
        kept.append(argument)
    return kept


def _json_bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))


def _shortened(text: str, most_bytes: int) -> str:
    """The text, cut so that it takes at most so many bytes as JSON."""
    if _json_bytes(text) <= most_bytes:
        return text
    kept = text[:most_bytes]
    while kept and _json_bytes(kept + "...") > most_bytes:
        kept = kept[:-1]
    return f"{kept}..."
