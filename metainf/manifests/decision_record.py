"""An InferenceDecision read back: the whole record, or what its metadata alone tell.

Separate from writing it (`decision`). A record may come from another version of this software, so unknown fields are
passed over here; what a pin, `explain` and `diff` need is checked as everywhere. The operator watches metadata only:
`DecisionHead` is all that it knows of most decisions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum

from metainf.candidates import CandidateName
from metainf.errors import InvalidWorkloadError
from metainf.layouts import Layout
from metainf.manifests.decision import (
    CHOICE_ANNOTATION,
    DECISION_KIND,
    INPUTS_DIGEST_ANNOTATION,
    LIMIT_ANNOTATION,
    RESERVATION_ANNOTATION,
    WORKLOAD_LABEL,
)
from metainf.manifests.digests import DecisionInputs
from metainf.manifests.metadata import read_metadata, read_object
from metainf.manifests.quantities import cpu_cores, memory_bytes
from metainf.manifests.reader import Reader, TextRule
from metainf.manifests.rules import OBJECT_NAME, plain_text
from metainf.manifests.traffic import read_budget_fields, read_observed_traffic
from metainf.manifests.workload import DraftSource
from metainf.placement import ReplicaRequest
from metainf.pools import Price, PriceSource
from metainf.predictors.contract import PredictorIdentity
from metainf.workload import Budget, Objective

__all__ = [
    "Alternative",
    "Chosen",
    "Decision",
    "DecisionHead",
    "DecisionPhase",
    "Figure",
    "ObservedFigures",
    "Refusal",
    "RejectionSummary",
    "Reservation",
    "parse_decision",
    "parse_decision_head",
]

_TEXT = plain_text(4096, "a text")
_MOST_REPLICAS = 1_000_000
_MOST_INT = 1 << 62


class DecisionPhase(StrEnum):
    """What became of a decision."""

    PROPOSED = "Proposed"
    ACTIVE = "Active"
    SUPERSEDED = "Superseded"
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a decision holds of its pool."""

    pool: str
    request: ReplicaRequest
    replicas: int


@dataclass(frozen=True, slots=True)
class DecisionHead:
    """What the metadata of a decision tell. `choice` and `reservation` are None for a refusal, `limit` for a choice."""

    name: str
    namespace: str
    uid: str
    created_at: datetime | None
    deleting: bool
    workload: str
    owner_uid: str
    inputs_digest: str
    choice: CandidateName | None
    limit: str | None
    reservation: Reservation | None


@dataclass(frozen=True, slots=True)
class Figure:
    """A predicted figure with its two-sided interval."""

    value: Decimal
    low: Decimal
    high: Decimal


@dataclass(frozen=True, slots=True)
class ObservedFigures:
    """What was seen of a decision in force. `figures` is by name as `Chosen.predicted`; seconds and per second.

    `requests` answered requests between `since` and `until`, times as the API server writes them.
    """

    figures: tuple[tuple[str, Decimal], ...]
    requests: int
    since: str
    until: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """The chosen candidate. `predicted` is by name: `ttft.p95`, `outputTokensPerSecond`; seconds and per second."""

    candidate: CandidateName
    layout: Layout
    techniques: tuple[str, ...]
    accelerator: str
    accelerators_per_replica: int
    argv: tuple[str, ...]
    cost_per_hour: Decimal
    currency: str
    cost_per_million_tokens: Decimal | None
    cost_total: Decimal | None
    predicted: tuple[tuple[str, Figure], ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why none was chosen, and the cheapest budget that would work."""

    limit: str
    message: str
    cheapest_budget: Budget | None


@dataclass(frozen=True, slots=True)
class Alternative:
    """A candidate that was not chosen. `predicted` is by name: `ttftP95`, `outputTokensPerSecond`."""

    candidate: CandidateName
    cost_per_hour: Decimal
    predicted: tuple[tuple[str, Decimal], ...]
    verdict: str


@dataclass(frozen=True, slots=True)
class RejectionSummary:
    """How many candidates a reason ruled out, and by what the nearest one missed."""

    reason: str
    count: int
    pool: str
    method: str | None
    layout: str | None
    replicas: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A whole record. Exactly one of `chosen` and `refusal` is there."""

    head: DecisionHead
    generation: int
    inputs: DecisionInputs
    budget: Budget
    objective: Objective
    confidence: Decimal
    chosen: Chosen | None
    refusal: Refusal | None
    alternatives: tuple[Alternative, ...]
    rejections: tuple[RejectionSummary, ...]
    prices: tuple[tuple[str, Price], ...]
    predictor: PredictorIdentity
    out_of_distribution: bool
    phase: DecisionPhase | None
    observed: ObservedFigures | None = None


def parse_decision_head(manifest: Mapping[str, object]) -> DecisionHead:
    """What metadata tell of a decision; `manifest` may be a whole one or a PartialObjectMetadata.

    Raises
    ------
    InvalidWorkloadError
        A label or annotation of ours is missing or cannot be read.
    """
    return _head(Reader.of(manifest, "", None))


def parse_decision(manifest: Mapping[str, object]) -> Decision:
    """The whole record.

    Raises
    ------
    InvalidWorkloadError
        The manifest is no InferenceDecision, or a field that is needed is missing or cannot be read.
    """
    reader = read_object(manifest, DECISION_KIND)
    spec = reader.child("spec", None)
    status = reader.child_or_empty("status", None)
    inputs = spec.child("inputs", None)
    model = inputs.child("model", None)
    predictor = spec.child("predictor", None)
    chosen, refusal = spec.optional_child("chosen", None), spec.optional_child("refusal", None)
    spec.exactly_one(("chosen", "refusal"), "exactly one of chosen and refusal stands in a decision")
    return Decision(
        head=_head(reader),
        generation=spec.child("workloadRef", None).integer("generation", 0, _MOST_INT),
        inputs=DecisionInputs(
            digest=inputs.text("digest", _TEXT),
            engine_version=inputs.text("engineVersion", _TEXT),
            model_id=model.text("id", _TEXT),
            revision=model.optional_text("revision", _TEXT),
            architecture_digest=model.text("architectureDigest", _TEXT),
            draft=_draft(model),
            observed=read_observed_traffic(inputs),
        ),
        budget=read_budget_fields(inputs.child("limits", None).child("budget", None)),
        objective=spec.choice("objective", Objective),
        confidence=_decimal(spec, "confidence"),
        chosen=None if chosen is None else _chosen(chosen),
        refusal=None if refusal is None else _refusal(refusal),
        alternatives=tuple(_alternative(item) for item in _items(spec, "alternatives")),
        rejections=tuple(_rejection(item) for item in _items(spec, "rejections")),
        prices=tuple((item.text("pool", _TEXT), _price(item)) for item in _items(spec, "prices")),
        predictor=PredictorIdentity(predictor.text("name", _TEXT), predictor.text("digest", _TEXT)),
        out_of_distribution=predictor.flag("outOfDistribution", False),
        phase=status.choice("phase", DecisionPhase) if status.has("phase") else None,
        observed=_observed(status.optional_child("observed", None)),
    )


def _draft(model: Reader) -> DraftSource | None:
    reader = model.optional_child("draftModel", None)
    if reader is None:
        return None
    return DraftSource(*(reader.optional_text(name, _TEXT) for name in ("id", "revision", "path")))


def _head(manifest: Reader) -> DecisionHead:
    metadata = read_metadata(manifest, OBJECT_NAME)
    reader = manifest.child("metadata", None)
    labels, annotations = reader.child_or_empty("labels", None), reader.child_or_empty("annotations", None)
    choice = annotations.optional_text(CHOICE_ANNOTATION, _TEXT)
    owners = _items(reader, "ownerReferences")
    return DecisionHead(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        created_at=metadata.created_at,
        deleting=metadata.deleting,
        workload=labels.text(WORKLOAD_LABEL, _TEXT),
        owner_uid=next((owner.text("uid", _TEXT) for owner in owners if owner.flag("controller", False)), ""),
        inputs_digest=annotations.text(INPUTS_DIGEST_ANNOTATION, _TEXT),
        choice=None if choice is None else _choice(annotations, choice),
        limit=annotations.optional_text(LIMIT_ANNOTATION, _TEXT),
        reservation=_reservation(annotations),
    )


def _choice(annotations: Reader, text: str) -> CandidateName:
    parts = text.split("/")
    if len(parts) != 4 or not parts[3].isascii() or not parts[3].isdigit():
        raise annotations.error(CHOICE_ANNOTATION, f"it reads pool/method/layout/replicas, not {text!r}")
    return CandidateName(parts[0], parts[1], parts[2], int(parts[3]))


def _reservation(annotations: Reader) -> Reservation | None:
    text = annotations.optional_text(RESERVATION_ANNOTATION, _TEXT)
    if text is None:
        return None
    where = annotations.path_of(RESERVATION_ANNOTATION)
    try:
        reader = Reader.of(json.loads(text), where, None)
        request = ReplicaRequest(
            accelerators=reader.integer("accelerators", 0, _MOST_REPLICAS),
            cpu_cores=cpu_cores(reader.text("cpu", _TEXT)),
            memory_bytes=memory_bytes(reader.text("memory", _TEXT)),
        )
        return Reservation(reader.text("pool", _TEXT), request, reader.integer("replicas", 0, _MOST_REPLICAS))
    except InvalidWorkloadError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidWorkloadError(f"{where}: reading a reservation: {error}") from error


def _items(reader: Reader, name: str) -> tuple[Reader, ...]:
    return tuple(
        Reader.of(item, f"{reader.path_of(name)}[{i}]", None) for i, item in enumerate(reader.elements(name, 1024))
    )


def _decimal(reader: Reader, name: str, rule: TextRule = _TEXT) -> Decimal:
    text = reader.text(name, rule)
    try:
        return Decimal(text)
    except InvalidOperation:
        raise reader.error(name, f"write a decimal number, not {text!r}") from None


def _optional_decimal(reader: Reader, name: str) -> Decimal | None:
    return _decimal(reader, name) if reader.has(name) else None


def _candidate(reader: Reader) -> CandidateName:
    return CandidateName(
        pool=reader.text("pool", _TEXT),
        method=reader.text("method", _TEXT),
        layout=reader.text("layoutName", _TEXT),
        replicas=reader.integer("replicas", 0, _MOST_REPLICAS),
    )


def _chosen(reader: Reader) -> Chosen:
    layout = reader.child("layout", None)
    return Chosen(
        candidate=_candidate(reader),
        layout=Layout(
            tensor_parallel=layout.integer("tensorParallel", 1, _MOST_REPLICAS),
            pipeline_parallel=layout.integer("pipelineParallel", 1, _MOST_REPLICAS),
            data_parallel=layout.integer("dataParallel", 1, _MOST_REPLICAS),
            expert_parallel=layout.flag("expertParallel", False),
        ),
        techniques=reader.texts("techniques", 64, _TEXT),
        accelerator=reader.text("accelerator", _TEXT),
        accelerators_per_replica=reader.integer("acceleratorsPerReplica", 0, _MOST_REPLICAS),
        argv=reader.texts("argv", 256, _TEXT),
        cost_per_hour=_decimal(reader, "costPerHour"),
        currency=reader.text("currency", _TEXT),
        cost_per_million_tokens=_optional_decimal(reader, "costPerMillionTokens"),
        cost_total=_optional_decimal(reader, "costTotal"),
        predicted=tuple(_figures(reader.child("predicted", None))),
    )


def _figures(predicted: Reader) -> list[tuple[str, Figure]]:
    found: list[tuple[str, Figure]] = []
    for name in predicted.fields:
        reader = predicted.child(name, None)
        if reader.has("value"):
            found.append((name, _figure(reader)))
        else:
            found.extend((f"{name}.{statistic}", _figure(reader.child(statistic, None))) for statistic in reader.fields)
    return found


def _observed(reader: Reader | None) -> ObservedFigures | None:
    if reader is None:
        return None
    found: list[tuple[str, Decimal]] = []
    for name, value in reader.fields.items():
        if isinstance(value, Mapping):
            child = reader.child(name, None)
            found.extend((f"{name}.{statistic}", _decimal(child, statistic)) for statistic in child.fields)
        elif name not in ("requests", "since", "until"):
            found.append((name, _decimal(reader, name)))
    return ObservedFigures(
        figures=tuple(found),
        requests=reader.integer("requests", 0, _MOST_INT, 0),
        since=reader.text("since", _TEXT, ""),
        until=reader.text("until", _TEXT, ""),
    )


def _figure(reader: Reader) -> Figure:
    return Figure(_decimal(reader, "value"), _decimal(reader, "low"), _decimal(reader, "high"))


def _refusal(reader: Reader) -> Refusal:
    budget = reader.optional_child("cheapestBudget", None)
    return Refusal(
        limit=reader.text("limit", _TEXT),
        message=reader.text("message", _TEXT),
        cheapest_budget=None if budget is None else read_budget_fields(budget),
    )


def _alternative(reader: Reader) -> Alternative:
    predicted = reader.child_or_empty("predicted", None)
    return Alternative(
        candidate=_candidate(reader),
        cost_per_hour=_decimal(reader, "costPerHour"),
        predicted=tuple((name, _decimal(predicted, name)) for name in predicted.fields),
        verdict=reader.text("verdict", _TEXT),
    )


def _rejection(reader: Reader) -> RejectionSummary:
    nearest = reader.child("nearest", None)
    return RejectionSummary(
        reason=reader.text("reason", _TEXT),
        count=reader.integer("count", 0, _MOST_INT),
        pool=nearest.text("pool", _TEXT),
        method=nearest.optional_text("method", _TEXT),
        layout=nearest.optional_text("layoutName", _TEXT),
        replicas=nearest.optional_integer("replicas", 0, _MOST_REPLICAS),
        detail=nearest.text("detail", _TEXT),
    )


def _price(reader: Reader) -> Price:
    return Price(
        per_hour=_decimal(reader, "perHour"),
        currency=reader.text("currency", _TEXT),
        source=reader.choice("source", PriceSource),
        as_of=reader.optional_text("asOf", _TEXT),
        reference=reader.optional_text("reference", _TEXT) or "",
    )
