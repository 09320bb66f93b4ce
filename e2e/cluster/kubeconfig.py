"""The kubeconfig files of users and service accounts.

Separate, because both those who start a cluster and those who speak to one write such files, and each holds a
credential: readable by their owner only, from the first byte.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["cluster_entry", "write_kubeconfig"]


def cluster_entry(server: str, certificate_authority: str) -> dict[str, str]:
    """Give the address and the authority (PEM) as a kubeconfig has them."""
    return {
        "server": server,
        "certificate-authority-data": base64.b64encode(certificate_authority.encode()).decode(),
    }


def write_kubeconfig(file: Path, cluster: Mapping[str, Any], token: str, namespace: str = "default") -> None:
    """Write a kubeconfig with one cluster, one user by token and the context of both."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "e2e",
        "clusters": [{"name": "e2e", "cluster": dict(cluster)}],
        "users": [{"name": "e2e", "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e", "namespace": namespace}}],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
        yaml.safe_dump(content, written)
    partial.replace(file)
