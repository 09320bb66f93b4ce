"""The control plane in a container, by kind, where a Docker engine answers.

Separate, because kind brings its own way for everything: its configuration file says what command lines say
elsewhere, and its API server is a static pod that goes when its manifest is moved away.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import yaml

from .binaries import KIND
from .control_plane import AUDIT_POLICY, EVICTION_S, NODE_GRACE_S
from .kubectl import KubectlError, kubectl, wait_until
from .model import Cluster, ClusterSetupError, Kind

__all__ = ["KIND", "NAME_FILE", "configuration", "remove", "start", "start_apiserver", "stop_apiserver"]

NAME_FILE = "kind-name"
_MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
_PARKED = "/etc/kubernetes/kube-apiserver.yaml.parked"
_SHARED = "/metainf"
"""Folder of the node that is the `shared` folder of the state folder: policy in, audit log out."""


def _arguments(**flags: str) -> list[dict[str, str]]:
    return [{"name": name.replace("_", "-"), "value": value} for name, value in flags.items()]


def configuration(state_dir: Path) -> dict[str, Any]:
    """Give kind's configuration with the same speed and the same audit log as a control plane built here."""
    # A patch replaces lists whole, so what kind itself puts into them stands here again.
    # Source: kind v0.33.0, pkg/cluster/internal/kubeadm/config.go, ConfigTemplateBetaV4.
    patch = {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "apiServer": {
            "extraArgs": _arguments(
                runtime_config="",
                audit_policy_file=f"{_SHARED}/audit-policy.yaml",
                audit_log_path=f"{_SHARED}/audit.jsonl",
                audit_log_maxsize="4096",
                default_not_ready_toleration_seconds=str(EVICTION_S),
                default_unreachable_toleration_seconds=str(EVICTION_S),
            ),
            "extraVolumes": [
                {"name": "metainf", "hostPath": _SHARED, "mountPath": _SHARED, "pathType": "DirectoryOrCreate"}
            ],
        },
        "controllerManager": {
            "extraArgs": _arguments(
                enable_hostpath_provisioner="true",
                node_monitor_period="1s",
                node_monitor_grace_period=f"{NODE_GRACE_S}s",
                horizontal_pod_autoscaler_sync_period="3s",
                horizontal_pod_autoscaler_downscale_stabilization="5s",
            )
        },
    }
    # The real node reports as often as the fake ones, or it would be taken for lost.
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "nodeLeaseDurationSeconds": 8,
        "nodeStatusUpdateFrequency": "4s",
    }
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [
            {
                "role": "control-plane",
                "extraMounts": [{"hostPath": str(state_dir / "shared"), "containerPath": _SHARED}],
                "kubeadmConfigPatches": [yaml.safe_dump(patch), yaml.safe_dump(kubelet)],
            }
        ],
    }


def _kind(bin_dir: Path, *arguments: str) -> None:
    done = subprocess.run([str(bin_dir / "kind"), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterSetupError(
            f"kind {arguments[0]} {arguments[1]}: {done.stderr.strip()}\n"
            "METAINF_E2E_CLUSTER=built makes the control plane without Docker"
        )


def start(state_dir: Path, bin_dir: Path) -> Cluster:
    """Make a cluster of one node, with a name of this state folder's own."""
    shared = state_dir / "shared"
    shared.mkdir(parents=True, exist_ok=True)
    (state_dir / "logs").mkdir(exist_ok=True)
    (shared / "audit-policy.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
    (state_dir / "kind.yaml").write_text(yaml.safe_dump(configuration(state_dir)))
    name = f"metainf-{hashlib.sha256(str(state_dir).encode()).hexdigest()[:8]}"
    (state_dir / NAME_FILE).write_text(f"{name}\n{bin_dir / 'kind'}\n")
    kubeconfig = state_dir / "kubeconfig"
    options = [f"--name={name}", f"--config={state_dir / 'kind.yaml'}", f"--kubeconfig={kubeconfig}", "--wait=180s"]
    _kind(bin_dir, "create", "cluster", *options)
    unasked = Cluster(Kind.KIND, kubeconfig, "", bin_dir, state_dir, state_dir / "logs", shared / "audit.jsonl")
    server = kubectl(unasked, "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    return Cluster(
        Kind.KIND, kubeconfig, server.strip(), bin_dir, state_dir, state_dir / "logs", shared / "audit.jsonl"
    )


def _name(state_dir: Path) -> tuple[str, Path]:
    name, program = (state_dir / NAME_FILE).read_text().splitlines()
    return name, Path(program)


def remove(state_dir: Path) -> None:
    """Delete the cluster that `start` made from this state folder."""
    name, program = _name(state_dir)
    _kind(program.parent, "delete", "cluster", f"--name={name}")


def _in_node(cluster: Cluster, *command: str) -> None:
    name, _ = _name(cluster.state_dir)
    subprocess.run(["docker", "exec", f"{name}-control-plane", *command], check=True, capture_output=True)


def _answers(cluster: Cluster) -> bool:
    try:
        kubectl(cluster, "get", "--raw", "/readyz", timeout_s=5)
    except KubectlError:
        return False
    return True


def stop_apiserver(cluster: Cluster) -> None:
    """Take the API server away: the kubelet ends a static pod whose manifest has gone."""
    _in_node(cluster, "mv", _MANIFEST, _PARKED)
    wait_until("the API server to be gone", lambda: not _answers(cluster), 120, interval_s=1)


def start_apiserver(cluster: Cluster) -> None:
    """Bring the API server back."""
    _in_node(cluster, "mv", _PARKED, _MANIFEST)
    wait_until("the API server to answer", lambda: _answers(cluster), 120, interval_s=1)
