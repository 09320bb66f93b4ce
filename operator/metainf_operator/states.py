"""Workloads, pools and decisions as last seen: what is kept of each, and how it is read from an object.

Separate from `world`, which keeps them and answers questions: whoever only decides or reports needs no cache. What
cannot be read becomes a state with an error, never an exception.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from metainf.errors import InvalidWorkloadError
from metainf.manifests import (
    AcceleratorPool,
    DecisionHead,
    InferenceWorkload,
    parse_decision_head,
    parse_pool,
    parse_workload,
)
from metainf_operator.ledger import WorkloadKey
from metainf_operator.projections import timestamp

__all__ = [
    "ACTIVATED_AT",
    "EPOCH",
    "IMAGE",
    "RELEASED",
    "SERVING_INPUTS",
    "DecisionState",
    "ObjectKey",
    "PoolState",
    "WorkloadState",
    "project_decision",
    "project_pool",
    "project_workload",
]

ObjectKey = tuple[str, str]
"""Namespace and name."""

ACTIVATED_AT = "metainf.dev/activated-at"
SERVING_INPUTS = "metainf.dev/serving-inputs"
IMAGE = "metainf.dev/image"
RELEASED = "metainf.dev/released"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""When an object was made that does not say."""


@dataclass(frozen=True, slots=True)
class WorkloadState:
    """A workload as last seen: the parsed manifest or why it cannot be parsed, and its status as text."""

    key: WorkloadKey
    uid: str
    generation: int
    created_at: datetime
    deleting: bool
    manifest: InferenceWorkload | None
    error: str | None
    status_json: str

    @property
    def status(self) -> dict[str, Any]:
        """The status as last seen."""
        value = json.loads(self.status_json)
        return value if isinstance(value, dict) else {}

    @property
    def node_selector(self) -> tuple[tuple[str, str], ...]:
        """Labels that its nodes must have; none where the spec cannot be read."""
        return () if self.manifest is None else self.manifest.workload.placement.node_selector


@dataclass(frozen=True, slots=True)
class PoolState:
    """An AcceleratorPool as last seen."""

    name: str
    uid: str
    generation: int
    pool: AcceleratorPool | None
    error: str | None
    status_json: str


@dataclass(frozen=True, slots=True)
class DecisionState:
    """What of an InferenceDecision stands in its metadata: who watches no more needs no more memory.

    `activated_at` is set while it is in force; `serving_inputs` is a digest of what the user asked of the pods
    themselves (model, image, arguments, lengths): the same candidate is recorded anew when that changes. `image` is
    what its pods run, so that a new default of the operator's restarts nothing. `released`: suspended or stopped, it is
    in force and holds no capacity.
    """

    head: DecisionHead
    activated_at: datetime | None
    serving_inputs: str | None
    image: str
    released: bool

    @property
    def key(self) -> ObjectKey:
        """Namespace and name."""
        return self.head.namespace, self.head.name

    @property
    def holds(self) -> bool:
        """Whether it holds capacity: a record in force that is not suspended."""
        return self.activated_at is not None and self.head.reservation is not None and not self.released


def project_workload(body: Mapping[str, Any]) -> WorkloadState:
    """The state of an InferenceWorkload; what cannot be parsed becomes its error, never an exception."""
    metadata = body["metadata"]
    manifest, error = None, None
    try:
        manifest = parse_workload({k: body[k] for k in ("apiVersion", "kind", "metadata", "spec") if k in body})
    except InvalidWorkloadError as exc:
        error = str(exc)
    return WorkloadState(
        key=WorkloadKey(metadata["namespace"], metadata["name"]),
        uid=str(metadata.get("uid", "")),
        generation=int(metadata.get("generation") or 0),
        created_at=timestamp(metadata.get("creationTimestamp")) or EPOCH,
        deleting=bool(metadata.get("deletionTimestamp")),
        manifest=manifest,
        error=error,
        status_json=json.dumps(body.get("status") or {}, sort_keys=True, separators=(",", ":")),
    )


def project_pool(body: Mapping[str, Any]) -> PoolState:
    """The state of an AcceleratorPool."""
    metadata = body["metadata"]
    pool, error = None, None
    try:
        pool = parse_pool({k: body[k] for k in ("apiVersion", "kind", "metadata", "spec") if k in body})
    except InvalidWorkloadError as exc:
        error = str(exc)
    status = json.dumps(body.get("status") or {}, sort_keys=True, separators=(",", ":"))
    generation = int(metadata.get("generation") or 0)
    return PoolState(metadata["name"], str(metadata.get("uid", "")), generation, pool, error, status)


def project_decision(body: Mapping[str, Any]) -> DecisionState | None:
    """The state of an InferenceDecision, from its metadata alone; None for one whose notes somebody damaged."""
    try:
        head = parse_decision_head({"metadata": body["metadata"]})
    except InvalidWorkloadError:
        return None
    annotations = body["metadata"].get("annotations") or {}
    return DecisionState(
        head=head,
        activated_at=timestamp(annotations.get(ACTIVATED_AT)),
        serving_inputs=annotations.get(SERVING_INPUTS),
        image=annotations.get(IMAGE, ""),
        released=RELEASED in annotations,
    )
