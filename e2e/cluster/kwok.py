"""The process that plays the kubelets of fake nodes.

Separate, because it works the same against all three kinds of cluster: it acts on nodes with one annotation, and
on no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .processes import start_process

__all__ = ["FAKE_NODE", "start_kwok"]

FAKE_NODE = ("kwok.x-k8s.io/node", "fake")
"""Annotation, key and value, of the nodes that kwok acts for."""
STAGES = Path(__file__).parent / "stages"
LEASE_S = 8
"""kwok renews after a quarter of it, so that a control plane with a grace of 10 s misses four renewals first."""


def start_kwok(state_dir: Path, bin_dir: Path, kubeconfig: Path, environment: Mapping[str, str]) -> None:
    """Start kwok with the stages beside this module."""
    stages = ",".join(str(file) for file in sorted(STAGES.glob("*.yaml")))
    command = [
        str(bin_dir / "kwok"),
        f"--kubeconfig={kubeconfig}",
        f"--config={stages}",
        f"--manage-nodes-with-annotation-selector={FAKE_NODE[0]}={FAKE_NODE[1]}",
        f"--node-lease-duration-seconds={LEASE_S}",
        "--cidr=10.245.0.1/16",
        "--node-ip=10.0.0.1",
    ]
    start_process(state_dir / "processes", "kwok", command, state_dir / "logs" / "kwok.log", environment)
