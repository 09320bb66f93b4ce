"""An InferenceWorkload manifest as a value: what the selection reads, and what only the operator does.

Separate from `metainf.workload`, which knows nothing of Kubernetes. Every rule that the CRD states in CEL is kept here
too, in its words, since files given to the command line meet no API server; those that concern one field alone are in
`rules`, those over several fields stand here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from metainf import workload as asked
from metainf.candidates import CandidateName
from metainf.layouts import Layout
from metainf.manifests import rules
from metainf.manifests.metadata import read_metadata, read_object
from metainf.manifests.quantities import duration_s
from metainf.manifests.reader import Reader
from metainf.manifests.traffic import read_budget, read_slo, read_traffic

__all__ = [
    "WORKLOAD_KIND",
    "DraftSource",
    "Engine",
    "InferenceWorkload",
    "KeyRef",
    "ModelSource",
    "OnViolation",
    "Pin",
    "Policy",
    "PolicyMode",
    "PvcSource",
    "TaintEffect",
    "TrafficSource",
    "parse_workload",
]

WORKLOAD_KIND = "InferenceWorkload"
_MOST_SECONDS = (1 << 63) - 1


class PolicyMode(StrEnum):
    """Who acts on a decision."""

    AUTO = "Auto"
    RECOMMEND = "Recommend"
    PINNED = "Pinned"


class OnViolation(StrEnum):
    """What becomes of a running workload when no candidate keeps the limits any more."""

    KEEP = "Keep"
    STOP = "Stop"


class TrafficSource(StrEnum):
    """Which traffic a workload is decided by."""

    DECLARED = "Declared"
    OBSERVED = "Observed"


@dataclass(frozen=True, slots=True)
class KeyRef:
    """A key of a Secret or ConfigMap in the workload's namespace."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class PvcSource:
    """Weights on a volume claim; `path` is relative, empty for the volume's root."""

    claim_name: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class DraftSource:
    """An EAGLE-3 head that drafts for the model: `id` on the hub, or `path` on the model's own volume claim."""

    id: str | None = None
    revision: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Which model, and where its weights and its config.json come from. `pvc` None means the hub."""

    id: str
    revision: str | None = None
    served_name: str | None = None
    pvc: PvcSource | None = None
    token_secret: KeyRef | None = None
    config_map: KeyRef | None = None
    draft: DraftSource | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """What to run in mode Pinned: a decision by name, or the candidate itself; exactly one is given."""

    decision: str | None = None
    candidate: CandidateName | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """When and how far the operator may act. `minimum_gain_ratio` 0.1 is 10 %."""

    mode: PolicyMode = PolicyMode.AUTO
    pinned: Pin | None = None
    minimum_gain_ratio: float = 0.1
    cooldown_s: float = 1800.0
    on_violation: OnViolation = OnViolation.KEEP
    traffic: TrafficSource = TrafficSource.DECLARED


@dataclass(frozen=True, slots=True)
class Engine:
    """The vLLM that runs, and what its pods need besides.

    `pod_template` is canonical JSON text (sorted keys), so that this stays a value.
    """

    image: str | None = None
    version: str | None = None
    extra_args: tuple[str, ...] = ()
    pod_template: str | None = None
    api_key_secret: KeyRef | None = None


@dataclass(frozen=True, slots=True)
class InferenceWorkload:
    """One manifest. From a file, `uid` is empty, `generation` 1 and `created_at` None."""

    name: str
    namespace: str
    uid: str
    generation: int
    created_at: datetime | None
    deleting: bool
    model: ModelSource
    workload: asked.Workload
    policy: Policy
    engine: Engine
    suspend: bool


def parse_workload(manifest: Mapping[str, object]) -> InferenceWorkload:
    """The workload that a manifest asks for, defaults filled in.

    Raises
    ------
    InvalidWorkloadError
        A field is unknown, missing, of the wrong type or out of range, or two contradict each other; the message
        begins with the field's path.
    """
    reader = read_object(manifest, WORKLOAD_KIND)
    metadata = read_metadata(reader, rules.WORKLOAD_NAME)
    spec = reader.child("spec", _SPEC_FIELDS)
    policy = spec.child_or_empty("policy", _POLICY_FIELDS)
    traffic = read_traffic(spec)
    model = _model(spec)
    workload = asked.Workload(
        traffic=traffic,
        budget=read_budget(spec, traffic),
        slo=read_slo(spec),
        objective=spec.choice("objective", asked.Objective, asked.Objective.MINIMIZE_COST),
        methods=_methods(spec),
        placement=_placement(spec),
        replicas=_replicas(spec),
        confidence=float(policy.text("confidence", rules.CONFIDENCE, "0.9")),
        draft_model=model.draft is not None,
    )
    parsed = InferenceWorkload(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        generation=metadata.generation,
        created_at=metadata.created_at,
        deleting=metadata.deleting,
        model=model,
        workload=workload,
        policy=_policy(policy),
        engine=_engine(spec),
        suspend=spec.flag("suspend", False),
    )
    _check_pin(spec, parsed)
    return parsed


_SPEC_FIELDS = (
    "model",
    "traffic",
    "slo",
    "budget",
    "objective",
    "methods",
    "placement",
    "scaling",
    "policy",
    "engine",
    "suspend",
)
_MODEL_FIELDS = ("id", "revision", "servedName", "source", "tokenSecretRef", "architecture", "draftModel")
_POLICY_FIELDS = ("mode", "pinned", "minimumGain", "cooldown", "confidence", "onViolation", "traffic")


def _model(spec: Reader) -> ModelSource:
    reader = spec.child("model", _MODEL_FIELDS)
    model_id = reader.text("id", rules.MODEL_ID)
    pvc = _pvc(reader)
    if pvc is None and model_id.count("/") > 1:
        raise reader.error("id", "an id on the hub has at most one '/': write owner/name")
    if pvc is not None and reader.has("revision"):
        raise reader.error(
            "revision", "a volume claim holds one revision: remove revision, or take the model from the hub"
        )
    if pvc is not None and reader.has("tokenSecretRef"):
        raise reader.error(
            "tokenSecretRef",
            "a model from a volume claim needs no hub token: remove tokenSecretRef, or take the model from the hub",
        )
    architecture = reader.optional_child("architecture", ("configMapRef",))
    if architecture is not None:
        architecture.child("configMapRef", None)
    return ModelSource(
        id=model_id,
        revision=reader.optional_text("revision", rules.REVISION),
        served_name=reader.optional_text("servedName", rules.SERVED_NAME),
        pvc=pvc,
        token_secret=_key_ref(reader, "tokenSecretRef", "token"),
        config_map=None if architecture is None else _key_ref(architecture, "configMapRef", "config.json"),
        draft=_draft(reader, pvc),
    )


def _draft(model: Reader, pvc: PvcSource | None) -> DraftSource | None:
    """The head that drafts: where the model itself comes from, since a pod with a volume asks no hub."""
    reader = model.optional_child("draftModel", ("id", "revision", "path"))
    if reader is None:
        return None
    reader.exactly_one(("id", "path"), "give id, or path for a head on the model's volume claim")
    if pvc is None and reader.has("path"):
        raise reader.error("path", "a model from the hub has its head there too: write id in place of path")
    if pvc is not None and reader.has("id"):
        raise reader.error(
            "id", "a model from a volume claim has its head on the same claim: write path in place of id"
        )
    if reader.has("path") and reader.has("revision"):
        raise reader.error("revision", "a volume claim holds one revision: remove revision")
    draft_id = reader.optional_text("id", rules.MODEL_ID)
    if draft_id is not None and draft_id.count("/") > 1:
        raise reader.error("id", "a head's id has at most one '/': write owner/name")
    return DraftSource(
        draft_id, reader.optional_text("revision", rules.REVISION), reader.optional_text("path", rules.VOLUME_PATH)
    )


def _pvc(model: Reader) -> PvcSource | None:
    source = model.optional_child("source", ("hub", "pvc"))
    if source is None:
        return None
    source.exactly_one(("hub", "pvc"), "give exactly one of hub and pvc, or leave source out for the hub")
    source.optional_child("hub", ())
    pvc = source.optional_child("pvc", ("claimName", "path"))
    if pvc is None:
        return None
    return PvcSource(pvc.text("claimName", rules.OBJECT_NAME), pvc.optional_text("path", rules.VOLUME_PATH) or "")


def _key_ref(parent: Reader, name: str, default_key: str) -> KeyRef | None:
    reader = parent.optional_child(name, ("name", "key"))
    if reader is None:
        return None
    return KeyRef(reader.text("name", rules.OBJECT_NAME), reader.text("key", rules.KEY, default_key))


def _methods(spec: Reader) -> asked.MethodLimits:
    reader = spec.child_or_empty("methods", ("allow", "deny", "lossy"))
    allow = reader.distinct_texts("allow", 64, rules.METHOD)
    deny = reader.distinct_texts("deny", 64, rules.METHOD)
    if allow & deny:
        raise reader.error("deny", "the same name stands in allow and in deny: remove it from one")
    return asked.MethodLimits(allow, deny, reader.choice("lossy", asked.LossyPolicy, asked.LossyPolicy.NEVER))


def _placement(spec: Reader) -> asked.PlacementLimits:
    reader = spec.child_or_empty("placement", ("pools", "spot", "tolerations", "nodeSelector"))
    tolerations = reader.objects("tolerations", 32, ("key", "operator", "value", "effect", "tolerationSeconds"))
    return asked.PlacementLimits(
        pools=reader.distinct_texts("pools", 64, rules.POOL),
        spot=reader.choice("spot", asked.SpotPolicy, asked.SpotPolicy.NEVER),
        tolerations=tuple(_toleration(toleration) for toleration in tolerations),
        node_selector=reader.labels("nodeSelector", 32, rules.LABEL_VALUE),
    )


class _TolerationOperator(StrEnum):
    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What becomes of pods that do not tolerate a taint."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


def _toleration(reader: Reader) -> asked.Toleration:
    key = reader.optional_text("key", rules.TAINT_KEY)
    operator = reader.choice("operator", _TolerationOperator, _TolerationOperator.EQUAL)
    value = reader.optional_text("value", rules.TAINT_VALUE) or ""
    effect = reader.choice("effect", TaintEffect) if reader.has("effect") else None
    seconds = reader.optional_integer("tolerationSeconds", -_MOST_SECONDS - 1, _MOST_SECONDS)
    if operator is _TolerationOperator.EXISTS and value:
        raise reader.error("value", "operator Exists takes no value: remove value, or write operator Equal")
    if key is None and operator is not _TolerationOperator.EXISTS:
        raise reader.error("operator", "a toleration without a key needs operator Exists")
    if seconds is not None and effect is not TaintEffect.NO_EXECUTE:
        raise reader.error("tolerationSeconds", "tolerationSeconds needs effect NoExecute")
    return asked.Toleration(key, operator.value, value, None if effect is None else effect.value, seconds)


def _replicas(spec: Reader) -> asked.ReplicaLimits:
    reader = spec.child_or_empty("scaling", ("minReplicas", "maxReplicas", "replicas"))
    minimum = _replica_count(reader, "minReplicas", 1, 1)
    maximum = _replica_count(reader, "maxReplicas", 1) if reader.has("maxReplicas") else None
    if maximum is not None and minimum > maximum:
        raise reader.error("minReplicas", "minReplicas is above maxReplicas")
    fixed = _replica_count(reader, "replicas", 0) if reader.has("replicas") else None
    return asked.ReplicaLimits(minimum, maximum, fixed)


def _replica_count(reader: Reader, name: str, lowest: int, default: int | None = None) -> int:
    count = reader.fields.get(name)
    if isinstance(count, int) and count > asked.MOST_REPLICAS:
        raise reader.error(name, f"{asked.TOO_MANY_REPLICAS}; {count} is more")
    return reader.integer(name, lowest, asked.MOST_REPLICAS, default)


def _policy(reader: Reader) -> Policy:
    mode = reader.choice("mode", PolicyMode, PolicyMode.AUTO)
    if (mode is PolicyMode.PINNED) != reader.has("pinned"):
        raise reader.error("pinned", "mode Pinned and pinned belong together: give both or neither")
    return Policy(
        mode=mode,
        pinned=_pin(reader),
        minimum_gain_ratio=float(Decimal(reader.text("minimumGain", rules.GAIN, "0.1"))),
        cooldown_s=duration_s(reader.text("cooldown", rules.DURATION, "30m")),
        on_violation=reader.choice("onViolation", OnViolation, OnViolation.KEEP),
        traffic=reader.choice("traffic", TrafficSource, TrafficSource.DECLARED),
    )


def _pin(policy: Reader) -> Pin | None:
    reader = policy.optional_child("pinned", ("decision", "candidate"))
    if reader is None:
        return None
    reader.exactly_one(("decision", "candidate"), "give exactly one of decision and candidate")
    candidate = reader.optional_child("candidate", ("pool", "method", "layout", "replicas"))
    if candidate is None:
        return Pin(decision=reader.text("decision", rules.OBJECT_NAME))
    pinned = CandidateName(
        pool=candidate.text("pool", rules.POOL),
        method=candidate.text("method", rules.METHOD),
        layout=_layout(candidate).name,
        replicas=_replica_count(candidate, "replicas", 1),
    )
    return Pin(candidate=pinned)


def _layout(candidate: Reader) -> Layout:
    reader = candidate.child_or_empty(
        "layout", ("tensorParallel", "pipelineParallel", "dataParallel", "expertParallel")
    )
    layout = Layout(
        tensor_parallel=reader.integer("tensorParallel", 1, 64, 1),
        pipeline_parallel=reader.integer("pipelineParallel", 1, 64, 1),
        data_parallel=reader.integer("dataParallel", 1, 64, 1),
        expert_parallel=reader.flag("expertParallel", False),
    )
    if layout.expert_parallel and layout.tensor_parallel * layout.data_parallel == 1:
        raise reader.error("expertParallel", "expertParallel needs tensorParallel or dataParallel above 1")
    return layout


def _check_pin(spec: Reader, parsed: InferenceWorkload) -> None:
    pin = parsed.policy.pinned.candidate if parsed.policy.pinned is not None else None
    if pin is None:
        return
    limits = parsed.workload
    if limits.placement.pools and pin.pool not in limits.placement.pools:
        raise spec.error("policy.pinned.candidate.pool", "policy.pinned.candidate.pool is not among placement.pools")
    if pin.method in limits.methods.deny:
        raise spec.error("policy.pinned.candidate.method", "policy.pinned.candidate.method is denied by methods.deny")
    if limits.replicas.maximum is not None and pin.replicas > limits.replicas.maximum:
        raise spec.error(
            "policy.pinned.candidate.replicas", "policy.pinned.candidate.replicas is above scaling.maxReplicas"
        )


def _engine(spec: Reader) -> Engine:
    reader = spec.child_or_empty("engine", ("image", "version", "extraArgs", "podTemplate", "apiKeySecretRef"))
    return Engine(
        image=reader.optional_text("image", rules.IMAGE),
        version=reader.optional_text("version", rules.ENGINE_VERSION),
        extra_args=reader.texts("extraArgs", 64, rules.ENGINE_ARGUMENT),
        pod_template=_pod_template(reader),
        api_key_secret=_key_ref(reader, "apiKeySecretRef", "api-key"),
    )


def _pod_template(engine: Reader) -> str | None:
    reader = engine.optional_child("podTemplate", ("metadata", "spec"))
    if reader is None:
        return None
    metadata = reader.optional_child("metadata", ("labels", "annotations"))
    if metadata is not None:
        metadata.labels("labels", 64, rules.POD_LABEL)
        metadata.labels("annotations", 64, rules.POD_ANNOTATION)
    reader.optional_child("spec", None)
    try:
        return json.dumps(reader.fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise engine.error("podTemplate", f"write what JSON can hold: {error}") from error
