"""What the stories do to a cluster by hand: apply, delete, read, wait, take the role of a service account.

Separate, because these are calls of kubectl as a user would make them; the operator's own door to the API server
is what the stories test, and is not used to look whether it did right.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .kubeconfig import write_kubeconfig
from .model import Cluster, ClusterSetupError

__all__ = [
    "KubectlError",
    "apply",
    "apply_crds",
    "delete",
    "get",
    "kubectl",
    "token_kubeconfig",
    "wait_until",
]

Manifest = Mapping[str, Any]
T = TypeVar("T")


class KubectlError(ClusterSetupError):
    """kubectl ended with an error; the message is what it printed, so that a story can check it."""


def kubectl(cluster: Cluster, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0) -> str:
    """Run the cluster's own kubectl as its administrator and give what it prints."""
    try:
        done = subprocess.run(
            [str(cluster.bin_dir / "kubectl"), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=cluster.environment(),
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KubectlError(f"kubectl {' '.join(arguments)}: no end after {timeout_s:g} s") from error
    if done.returncode:
        raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def get(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    """Read an object, or a list of them, as `kubectl get ... -o json` gives it."""
    read: dict[str, Any] = json.loads(kubectl(cluster, "get", *arguments, "-o", "json"))
    return read


def _documents(manifests: Iterable[Manifest]) -> str:
    # Through JSON, so that two manifests that share a part do not become YAML anchors.
    return "\n---\n".join(json.dumps(manifest) for manifest in manifests)


def apply(cluster: Cluster, manifests: Iterable[Manifest]) -> str:
    """Apply on the server's side, as a field manager that is not the operator's."""
    options = ["--server-side", "--force-conflicts", "--field-manager=e2e"]
    return kubectl(cluster, "apply", *options, "-f", "-", stdin=_documents(manifests))


def delete(cluster: Cluster, manifests: Iterable[Manifest], *, wait: bool = True) -> str:
    """Delete what these manifests name; what is gone already is fine."""
    options = ["--ignore-not-found", f"--wait={str(wait).lower()}"]
    return kubectl(cluster, "delete", *options, "-f", "-", stdin=_documents(manifests), timeout_s=120)


def apply_crds(cluster: Cluster, folder: Path, timeout_s: float = 30.0) -> tuple[str, ...]:
    """Apply the definitions that lie in a folder, wait for each to be Established, and name them."""
    documents = [
        document
        for file in sorted(folder.glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
        if document and document.get("kind") == "CustomResourceDefinition"
    ]
    if not documents:
        return ()
    apply(cluster, documents)
    names = tuple(str(document["metadata"]["name"]) for document in documents)
    resources = [f"customresourcedefinition/{name}" for name in names]
    kubectl(cluster, "wait", "--for=condition=Established", f"--timeout={timeout_s:g}s", *resources)
    return names


def token_kubeconfig(cluster: Cluster, namespace: str, service_account: str, duration: str = "24h") -> Path:
    """Write a kubeconfig that is a service account, with exactly its rights, through the TokenRequest API."""
    token = kubectl(cluster, "create", "token", service_account, "-n", namespace, f"--duration={duration}").strip()
    view = json.loads(kubectl(cluster, "config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    file = cluster.state_dir / "kubeconfigs" / f"{namespace}-{service_account}.yaml"
    write_kubeconfig(file, view["clusters"][0]["cluster"], token, namespace)
    return file


def wait_until(what: str, read: Callable[[], T | None], timeout_s: float = 30.0, interval_s: float = 0.2) -> T:
    """Read again until something true comes back, and give it; say what was awaited where it never does."""
    until_s = time.monotonic() + timeout_s
    while True:
        if answer := read():
            return answer
        if time.monotonic() > until_s:
            raise ClusterSetupError(f"waiting for {what}: not so after {timeout_s:g} s")
        time.sleep(interval_s)
