"""Digests of what a decision is made from, and the name that a decision gets from them.

Separate because a digest is a promise: equal inputs give an equal digest in every process and on every machine, so
what goes in, and in which form, is settled in one place.

What stays out, and why: what is free at the moment (it moves with every pod, and the choice, which is in the name,
says what it came to); the policy's mode and pin (approving a proposal must find the proposal's own record); and where
a price was read and on which day (a price list that is read again daily is not a new price).
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import lru_cache

from metainf.architecture import ModelArchitecture
from metainf.manifests.traffic import ObservedTraffic, budget_fields, slo_fields, traffic_fields
from metainf.manifests.workload import DraftSource, InferenceWorkload
from metainf.methods import portfolio
from metainf.pools import NodePool
from metainf.predictors.contract import PredictorIdentity
from metainf.selection import NoSelection, Selection

__all__ = ["DecisionInputs", "architecture_digest", "choice_of", "decision_name", "digest_of", "inputs_digest"]

_NAME_DIGITS = 10


@dataclass(frozen=True, slots=True)
class DecisionInputs:
    """What a decision was made from, as its record names it; `digest` covers all of it but when traffic was observed.

    `observed` is the traffic that was decided by; None where that was what was declared. `draft` is the head that may
    draft for the model, None where there is none.
    """

    digest: str
    engine_version: str
    model_id: str
    revision: str | None
    architecture_digest: str
    observed: ObservedTraffic | None = None
    draft: DraftSource | None = None


def canonical_json(value: object) -> str:
    """The one JSON text of a value made of dataclasses, enums, mappings, lists and plain values."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(str(_plain(item)) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return value


def digest_of(value: object) -> str:
    """`sha256:` and the digest of the value's canonical JSON."""
    return f"sha256:{hashlib.sha256(canonical_json(value).encode()).hexdigest()}"


@lru_cache(maxsize=1024)
def architecture_digest(architecture: ModelArchitecture) -> str:
    """Digest of what the model's config.json came to, under whatever name it was read."""
    return digest_of(dataclasses.replace(architecture, name=""))


@lru_cache(maxsize=8)
def _portfolio_digest(engine_version: str) -> str:
    return digest_of([(method.name, method.settings, method.experimental) for method in portfolio(engine_version)])


def inputs_digest(
    workload: InferenceWorkload,
    model: tuple[str, str | None],
    pools: Sequence[NodePool],
    predictor: PredictorIdentity,
    engine_version: str,
    *,
    drafts: tuple[DraftSource, int | None] | None = None,
) -> str:
    """Digest of everything that decides the choice but what is free; `model` is architecture digest and revision.

    `drafts` is the head that may draft for the model, and the context that it is made for where that is known.
    """
    asked = workload.workload
    # A key of its own only where there is one, so that other decisions keep the names that they have.
    accepted = {} if asked.accepted_lengths is None else {"acceptedLengths": asked.accepted_lengths}
    draft: dict[str, object] = {} if drafts is None else {"draftModel": drafts[0]}
    if drafts is not None and drafts[1] is not None:
        draft["draftContext"] = drafts[1]
    return digest_of(
        {
            **accepted,
            **draft,
            "model": [workload.model.id, workload.model.served_name, workload.model.pvc, *model],
            "traffic": [traffic_fields(asked.traffic), asked.traffic.description],
            "limits": [slo_fields(asked.slo), budget_fields(asked.budget), repr(asked.confidence)],
            "objective": asked.objective,
            "methods": asked.methods,
            "placement": asked.placement,
            "replicas": asked.replicas,
            "engine": [engine_version, _portfolio_digest(engine_version), workload.engine.extra_args],
            "pools": [_offer(pool) for pool in sorted(pools, key=lambda pool: pool.name)],
            "predictor": predictor,
        }
    )


def _offer(pool: NodePool) -> list[object]:
    price = None if pool.price is None else [pool.price.per_hour, pool.price.currency]
    return [pool.name, pool.product, pool.shape, price, pool.billing, pool.capacity_type, pool.taints, pool.labels]


def choice_of(outcome: Selection | NoSelection) -> str:
    """The choice in one line, `pool/method/layout/replicas`; of a refusal the limit that binds."""
    if isinstance(outcome, NoSelection):
        return outcome.limit.value
    name = outcome.chosen.candidate.name
    return f"{name.pool}/{name.method}/{name.layout}/{name.replicas}"


def decision_name(workload: InferenceWorkload, digest: str, choice: str) -> str:
    """The decision's name: the workload's, and a short digest of inputs and choice."""
    return f"{workload.name}-{hashlib.sha256(f'{digest} {choice}'.encode()).hexdigest()[:_NAME_DIGITS]}"
