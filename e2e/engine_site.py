"""Where real vLLM serves in the stories: a real node with its image, an environment and a model on volumes, a pool.

Separate from what is told there. Nothing that a pod mounts comes by hostPath: volume claims do, so that pods of the
operator's pass the restricted standard as they would anywhere.
"""

import ast
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster, Node, apply, get, kubectl
from e2e.cluster.engine import Engine
from e2e.cluster.engine_image import ENGINE_IMAGE, MOUNT_PATH
from e2e.kube import Object
from e2e.story import merged

__all__ = ["API_KEY", "POOL", "EngineClient", "engine_workload", "furnish", "log_arguments"]

API_KEY = "a-key-of-this-story"
POOL = "cpu"
_MODEL_ID = "example/dense-53m"
_CLIENT = Path(__file__).with_name("engine_client.py")
_POOL_LABEL = "example.com/pool"
_SECRET, _CONFIG_MAP = "engine-key", "dense-53m"


def engine_workload(name: str, **spec: Any) -> Object:
    """One client of a small model, answered by real vLLM; `spec` is merged into its own."""
    mount = {"name": "engine", "mountPath": MOUNT_PATH, "readOnly": True}
    claim = {"claimName": "engine", "readOnly": True}
    container = {"name": "vllm", "imagePullPolicy": "IfNotPresent", "volumeMounts": [mount]}
    own = {
        "model": {
            "id": _MODEL_ID,
            "source": {"pvc": {"claimName": "model"}},
            "architecture": {"configMapRef": {"name": _CONFIG_MAP}},
        },
        "traffic": {
            "concurrency": 1,
            "inputTokens": {"mean": 64},
            "outputTokens": {"mean": 128},
            "repetitiveness": "Low",
        },
        "objective": "MaximizeThroughput",
        "budget": {"perHour": "1"},
        "scaling": {"maxReplicas": 1},
        "policy": {"cooldown": "0s"},
        "engine": {
            "image": ENGINE_IMAGE,
            "extraArgs": ["--enforce-eager"],  # compiling takes longer than any of these stories
            "apiKeySecretRef": {"name": _SECRET, "key": "key"},
            "podTemplate": {
                "spec": {"containers": [container], "volumes": [{"name": "engine", "persistentVolumeClaim": claim}]}
            },
        },
    }
    return {
        "apiVersion": "metainf.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": {"name": name},
        "spec": merged(own, spec),
    }


def furnish(node: Node, namespace: str, engine: Engine, model: Path) -> None:
    """Put into a namespace and its cluster what a workload needs: claims, the model's config, a key, a pool."""
    config = (model / "config.json").read_text(encoding="utf-8")
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    place: dict[str, Any] = {"namespace": namespace}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": restricted}}
    apply(node.cluster, [space])
    apply(
        node.cluster,
        [
            *_volume("engine", engine.environment, namespace),
            *_volume("model", model, namespace),
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": _CONFIG_MAP, **place},
                "data": {"config.json": config},
            },
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": _SECRET, **place},
                "stringData": {"key": API_KEY},
            },
            _pool(node),
        ],
    )
    kubectl(node.cluster, "label", "node", node.name, f"{_POOL_LABEL}={POOL}", "--overwrite")


def _volume(name: str, folder: Path, namespace: str) -> list[Object]:
    """A folder of this machine as a volume, and the claim on it."""
    access = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    claimed = {"namespace": namespace, "name": name}
    volume = {
        **access,
        "capacity": {"storage": "10Gi"},
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(folder), "type": "Directory"},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **claimed},
    }
    claim = {**access, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claimed, "spec": claim},
    ]


def _pool(node: Node) -> Object:
    """The node as a pool that serves on its CPU: what the catalogue's floor says of one, at a made-up price."""
    has = get(node.cluster, "node", node.name)["status"]["allocatable"]
    return {
        "apiVersion": "metainf.dev/v1alpha1",
        "kind": "AcceleratorPool",
        "metadata": {"name": POOL},
        "spec": {
            "nodeSelector": {_POOL_LABEL: POOL},
            "accelerator": {"product": "CPU-x86-64", "count": 0},
            "price": {"perHour": "0.10", "source": "made up for this story"},
            "nodes": {"max": 1},
            "nodeResources": {"cpu": has["cpu"], "memory": f"{int(has['memory'].removesuffix('Ki')) // 1024}Mi"},
        },
    }


@dataclass(frozen=True)
class EngineClient:
    """The `openai` client against a workload's Service, in the engine's environment."""

    engine: Engine
    cluster: Cluster
    namespace: str
    service: str

    @property
    def url(self) -> str:
        """Where the Service answers from outside of the cluster, which has no DNS."""
        spec = get(self.cluster, "service", self.service, "-n", self.namespace)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}/v1"

    def start(self, *command: str | int, key: str = API_KEY) -> "subprocess.Popen[str]":
        """Start one command of engine_client.py."""
        argv = [str(self.engine.python), str(_CLIENT), self.url, *map(str, command)]
        proxies = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment = {**proxies, "OPENAI_API_KEY": key}
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)

    def ask(self, *command: str | int, key: str = API_KEY, within_s: float = 180.0) -> dict[str, Any]:
        """What one command answers."""
        return self.end(self.start(*command, key=key), within_s)

    def end(self, started: "subprocess.Popen[str]", within_s: float = 180.0) -> dict[str, Any]:
        """Close a command's standard input, and give what it answers."""
        with started:
            try:
                answered, said = started.communicate(timeout=within_s)
            except subprocess.TimeoutExpired:
                started.kill()
                raise
        assert started.returncode == 0, said[-1500:]
        read: dict[str, Any] = json.loads(answered)
        return read


def log_arguments(log: str) -> Mapping[str, Any]:
    """What the engine says in its log that it was told: all that is not a default of its own."""
    line = next(line for line in log.splitlines() if "non-default args: " in line)
    read: dict[str, Any] = ast.literal_eval(line.partition("non-default args: ")[2])
    return read
