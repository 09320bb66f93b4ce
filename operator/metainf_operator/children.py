"""From a decision to the objects that serve it: Deployment, Service, PodDisruptionBudget.

Separate and pure: dicts out, golden manifests in the tests. A new version of this code must not restart anybody's
pods, so what a pod template holds changes only with a reason that is worth that.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metainf.accelerators import Vendor
from metainf.manifests import MANAGED_BY_LABEL, WORKLOAD_LABEL, InferenceWorkload
from metainf.placement import ReplicaRequest
from metainf.planning import HTTP_PORT, MODEL_MOUNT_PATH, SHUTDOWN_TIMEOUT_S
from metainf.workload import Toleration
from metainf_operator.pod_template import merge_pod_template

__all__ = [
    "ANNOTATION_CANDIDATE",
    "ANNOTATION_DECISION",
    "ANNOTATION_DIGEST",
    "ANNOTATION_SWITCHED_AT",
    "ENGINE_CONTAINER",
    "HOSTNAME_LABEL",
    "LABEL_SERVING",
    "LABEL_WORKLOAD",
    "SHUTDOWN_S",
    "Serving",
    "deployment",
    "packs",
    "pod_disruption_budget",
    "selector_labels",
    "service",
    "serving_hash",
    "startup_s",
    "url",
]

Manifest = dict[str, Any]

LABEL_WORKLOAD = WORKLOAD_LABEL
LABEL_SERVING = "metainf.dev/serving"
ANNOTATION_DECISION = "metainf.dev/decision"
ANNOTATION_CANDIDATE = "metainf.dev/candidate"
ANNOTATION_DIGEST = "metainf.dev/desired-digest"
ANNOTATION_SWITCHED_AT = "metainf.dev/switched-at"
ENGINE_CONTAINER = "vllm"
HOSTNAME_LABEL = "kubernetes.io/hostname"

_MANAGER = "metainf"
_ENDPOINTS_SETTLE_S = 10  # preStop: proxies need a moment to stop sending before the server stops taking
SHUTDOWN_S = _ENDPOINTS_SETTLE_S + SHUTDOWN_TIMEOUT_S
"""From a pod's being told to go until its last answer is out, at most."""
_PROBE_PERIOD_S = 10
_USER_ID = 1000
_CACHE = "/cache"
_GIB = 1 << 30

# Start-up time of a replica. Source: our own bound, wide on purpose: engine start with torch.compile and graph
# capture takes 1-4 minutes on large models (vLLM docs, "optimization levels"), weights come at 100 MB/s from a hub
# and 400 MB/s from a volume on slow days.
_ENGINE_START_S = 600.0
_HUB_BYTES_PER_S = 100e6
_VOLUME_BYTES_PER_S = 400e6


@dataclass(frozen=True, slots=True)
class Serving:
    """What the pods of one decision run on, and where they go.

    `hostnames` are the only nodes that they may go to; none where labels alone tell the pool. `packed`: those on
    accelerators prefer nodes that have pods of ours; False for a Deployment that was made before they did.
    """

    decision: str
    candidate: str
    pool: str
    argv: tuple[str, ...]
    image: str
    request: ReplicaRequest
    vendor: Vendor
    resource_name: str | None
    match_labels: tuple[tuple[str, str], ...]
    hostnames: tuple[str, ...]
    tolerations: tuple[Toleration, ...]
    weight_bytes: float
    cpu_threads: int | None = None
    """Threads of the engine's kernels where it computes on the CPU."""
    packed: bool = True


def serving_hash(workload: InferenceWorkload, serving: Serving) -> str:
    """Digest of what the pods run on: not of prices, replicas or the predictor."""
    model = workload.model
    facts = [
        model.id,
        model.revision,
        None if model.pvc is None else [model.pvc.claim_name, model.pvc.path],
        list(serving.argv),
        serving.image,
        serving.pool,
        serving.request.accelerators,
        serving.resource_name,
    ]
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()[:8]


def startup_s(workload: InferenceWorkload, weight_bytes: float) -> float:
    """Time that a replica may take from its start to its first answer."""
    rate = _HUB_BYTES_PER_S if workload.model.pvc is None else _VOLUME_BYTES_PER_S
    return _ENGINE_START_S + weight_bytes / rate


def selector_labels(workload: InferenceWorkload, digest: str) -> dict[str, str]:
    """Labels that the Service and the Deployment select by; frozen once the Deployment is there."""
    return {LABEL_WORKLOAD: workload.name, LABEL_SERVING: digest}


def url(workload: InferenceWorkload) -> str:
    """Where the model answers inside the cluster."""
    return f"http://{workload.name}.{workload.namespace}.svc:{HTTP_PORT}/v1"


def _metadata(workload: InferenceWorkload, name: str, labels: Mapping[str, str]) -> Manifest:
    return {
        "name": name,
        "namespace": workload.namespace,
        "labels": {MANAGED_BY_LABEL: _MANAGER, **labels},
        "ownerReferences": [
            {
                "apiVersion": "metainf.dev/v1alpha1",
                "kind": "InferenceWorkload",
                "name": workload.name,
                "uid": workload.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def _sealed(manifest: Manifest) -> Manifest:
    """The manifest with the digest of itself: what tells a changed wish from a changed child."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    annotations = manifest["metadata"].setdefault("annotations", {})
    annotations[ANNOTATION_DIGEST] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return manifest


def deployment(workload: InferenceWorkload, serving: Serving, replicas: int, *, surge: bool) -> Manifest:
    """The Deployment. `surge` says that the ledger grants one more replica while the template rolls."""
    digest = serving_hash(workload, serving)
    labels = selector_labels(workload, digest)
    metadata = _metadata(workload, f"{workload.name}-{digest}", labels)
    metadata["annotations"] = {ANNOTATION_DECISION: serving.decision, ANNOTATION_CANDIDATE: serving.candidate}
    start_s = startup_s(workload, serving.weight_bytes)
    template = merge_pod_template(_pod(workload, serving, labels, start_s), workload.engine.pod_template)
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": int(start_s) + 600,
            "selector": {"matchLabels": labels},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}
                if surge
                else {"maxSurge": 0, "maxUnavailable": 1},
            },
            "template": template,
        },
    }
    return _sealed(manifest)


def _pod(workload: InferenceWorkload, serving: Serving, labels: dict[str, str], start_s: float) -> Manifest:
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": SHUTDOWN_S + 20,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER_ID,
            "runAsGroup": _USER_ID,
            "fsGroup": _USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": _affinity(serving),
        "tolerations": [_toleration(t) for t in serving.tolerations],
        "containers": [_container(workload, serving, start_s)],
        "volumes": _volumes(workload, serving),
    }
    node_selector = dict(workload.workload.placement.node_selector)
    if node_selector:
        spec["nodeSelector"] = node_selector
    return {"metadata": {"labels": {MANAGED_BY_LABEL: _MANAGER, **labels}}, "spec": spec}


def _container(workload: InferenceWorkload, serving: Serving, start_s: float) -> Manifest:
    health = {"httpGet": {"path": "/health", "port": "http"}, "timeoutSeconds": 5}
    mounts: list[Manifest] = [
        {"name": "cache", "mountPath": _CACHE},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if workload.model.pvc is not None:
        mounts.append({"name": "model", "mountPath": MODEL_MOUNT_PATH, "readOnly": True})
    return {
        "name": ENGINE_CONTAINER,
        "image": serving.image,
        "args": list(serving.argv),
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "env": _environment(workload, serving),
        "resources": _resources(serving),
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # What the engine said last before it failed: the only way to know why, without a right to read logs.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "startupProbe": {
            **health,
            "periodSeconds": _PROBE_PERIOD_S,
            "failureThreshold": math.ceil(start_s / _PROBE_PERIOD_S),
        },
        "readinessProbe": {**health, "periodSeconds": 5, "failureThreshold": 3},
        # A busy engine answers /health late; only one that stays silent for a minute is dead.
        "livenessProbe": {**health, "periodSeconds": _PROBE_PERIOD_S, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": _ENDPOINTS_SETTLE_S}}},
    }


def _environment(workload: InferenceWorkload, serving: Serving) -> list[Manifest]:
    env: list[Manifest] = [
        {"name": "HOME", "value": _CACHE},
        {"name": "USER", "value": "vllm"},  # libraries look the user up, and an image has no entry for this uid
        {"name": "HF_HOME", "value": f"{_CACHE}/huggingface"},
        {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
    ]
    if serving.cpu_threads is not None:
        # Left to itself vLLM takes the whole first socket of its node, whatever the pod asks for, and two pods on one
        # node are bound to the same cores.
        env.append({"name": "VLLM_CPU_OMP_THREADS_BIND", "value": "nobind"})
        env.append({"name": "OMP_NUM_THREADS", "value": str(serving.cpu_threads)})
    if workload.model.pvc is not None:
        env.append({"name": "HF_HUB_OFFLINE", "value": "1"})
    if workload.model.token_secret is not None:
        env.append(_from_secret("HF_TOKEN", workload.model.token_secret.name, workload.model.token_secret.key))
    api_key = workload.engine.api_key_secret
    if api_key is not None:
        env.append(_from_secret("VLLM_API_KEY", api_key.name, api_key.key))
    return env


def _from_secret(name: str, secret: str, key: str) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _resources(serving: Serving) -> Manifest:
    request = serving.request
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if request.cpu_cores:
        requests["cpu"] = f"{round(request.cpu_cores * 1000)}m"
    if request.memory_bytes:
        requests["memory"] = f"{request.memory_bytes // (1 << 20)}Mi"
    if serving.resource_name is None:
        limits["memory"] = requests["memory"]  # weights and KV cache live there: over it is a fault, not a neighbour's
    else:
        requests[serving.resource_name] = limits[serving.resource_name] = str(request.accelerators)
    return {"requests": requests, "limits": limits}


def _volumes(workload: InferenceWorkload, serving: Serving) -> list[Manifest]:
    # NCCL and the workers' message queues share memory: 1 GiB and 2 more for each accelerator is what they use at most.
    shared_gib = 1 + 2 * max(1, serving.request.accelerators)
    volumes: list[Manifest] = [
        {"name": "cache", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shared_gib}Gi"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if workload.model.pvc is not None:
        claim = {"claimName": workload.model.pvc.claim_name, "readOnly": True}
        volumes.append({"name": "model", "persistentVolumeClaim": claim})
    return volumes


def _affinity(serving: Serving) -> Manifest:
    affinity: Manifest = {"nodeAffinity": _node_affinity(serving)}
    if serving.packed and serving.resource_name is not None:
        affinity["podAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": [_beside_ours()]}
    return affinity


def _beside_ours() -> Manifest:
    """Prefer the node that has most pods of ours, whosever they are.

    The ledger fills one node before the next, so that whole nodes stay whole and a pool that bills nodes pays for few
    of them; by itself the scheduler spreads pods over the emptiest ones. Each of its scores is from 0 to 100, and that
    of pod affinity counts twice as much as that of free resources, so that it turns the choice. The weight counts only
    against other terms, such as a user's.

    The ledger packs the pods of all namespaces, so they all count here. It takes no right of its own; a ResourceQuota
    of the scope CrossNamespacePodAffinity, where somebody made one, counts such pods.
    """
    return {
        "weight": 100,
        "podAffinityTerm": {
            "labelSelector": {"matchLabels": {MANAGED_BY_LABEL: _MANAGER}},
            "namespaceSelector": {},
            "topologyKey": HOSTNAME_LABEL,
        },
    }


def packs(affinity: Mapping[str, Any]) -> bool:
    """Whether pods with this affinity prefer nodes that have pods of ours."""
    terms = (affinity.get("podAffinity") or {}).get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    selectors = [(term.get("podAffinityTerm") or {}).get("labelSelector") or {} for term in terms]
    return any((selector.get("matchLabels") or {}).get(MANAGED_BY_LABEL) == _MANAGER for selector in selectors)


def _node_affinity(serving: Serving) -> Manifest:
    expressions = [{"key": k, "operator": "In", "values": [v]} for k, v in sorted(serving.match_labels)]
    if serving.hostnames:
        hostnames = {"key": HOSTNAME_LABEL, "operator": "In", "values": sorted(serving.hostnames)}
        expressions.append(hostnames)
    return {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    }


def _toleration(toleration: Toleration) -> Manifest:
    manifest: Manifest = {"operator": toleration.operator}
    if toleration.key is not None:
        manifest["key"] = toleration.key
    if toleration.operator == "Equal":
        manifest["value"] = toleration.value
    if toleration.effect is not None:
        manifest["effect"] = toleration.effect
    if toleration.toleration_seconds is not None:
        manifest["tolerationSeconds"] = toleration.toleration_seconds
    return manifest


def service(workload: InferenceWorkload, digest: str, switched_at: str) -> Manifest:
    """The Service, which since `switched_at` sends to the pods of the serving with this digest."""
    labels = {LABEL_WORKLOAD: workload.name}
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(workload, workload.name, labels),
        "spec": {
            "type": "ClusterIP",
            "selector": selector_labels(workload, digest),
            "ports": [{"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }
    manifest["metadata"]["annotations"] = {ANNOTATION_SWITCHED_AT: switched_at}
    return _sealed(manifest)


def pod_disruption_budget(workload: InferenceWorkload) -> Manifest:
    """At most one replica away at a time by drains; made where there is more than one."""
    labels = {LABEL_WORKLOAD: workload.name}
    manifest = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(workload, workload.name, labels),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
    }
    return _sealed(manifest)
