"""What a running cluster is for the stories: one value, whichever way the cluster came to be.

Separate, because everything here imports it and it imports nothing: the stories see a `Cluster` and never ask
whether it was given, made by kind or built from Go modules, but for the few things only our own can do.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Cluster", "ClusterSetupError", "Kind", "unproxied"]


class ClusterSetupError(Exception):
    """A cluster could not be made, reached or asked; the message says what to do."""


class Kind(enum.StrEnum):
    """Where the control plane comes from."""

    GIVEN = "given"
    """A kubeconfig that the user named; nothing of it is ever stopped or removed."""
    KIND = "kind"
    """A control plane in a container of a Docker engine, made by kind."""
    BUILT = "built"
    """Upstream Kubernetes, built from its Go modules, as processes of this machine."""


def unproxied(server: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Give an environment in which no proxy stands between a client and this server."""
    host = urllib.parse.urlsplit(server).hostname
    names = [name for name in ("NO_PROXY", "no_proxy") if host]
    return {**environment, **{name: ",".join(filter(None, (environment.get(name), host))) for name in names}}


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that answers, and where its things are."""

    kind: Kind
    kubeconfig: Path
    """Of an administrator."""
    server: str
    """Address of the API server, with scheme and port."""
    bin_dir: Path
    """Holds kubectl, helm and kwok of the pinned versions; for a built cluster every other program too."""
    state_dir: Path
    """Everything of this cluster that is not a binary: configuration, data, process ids, other kubeconfigs."""
    log_dir: Path
    audit_log: Path | None
    """Requests that the API server answered, one JSON line each; None where the cluster is a given one."""

    def environment(self) -> dict[str, str]:
        """Give the environment in which kubectl and helm speak to this cluster."""
        path = f"{self.bin_dir}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        inherited = os.environ if self.kind is Kind.GIVEN else unproxied(self.server)
        return {**inherited, "PATH": path, "KUBECONFIG": str(self.kubeconfig)}

    def to_json(self) -> str:
        """Write the value as a JSON object with one key per field."""
        fields = dataclasses.asdict(self)
        return json.dumps({key: None if value is None else str(value) for key, value in fields.items()}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Cluster:
        """Read what `to_json` wrote.

        Raises
        ------
        ClusterSetupError
            The text is not such an object: the file is damaged or of another version.
        """
        try:
            fields: Mapping[str, str | None] = json.loads(text)
            audit_log = fields["audit_log"]
            return cls(
                kind=Kind(fields["kind"] or ""),
                server=fields["server"] or "",
                audit_log=None if audit_log is None else Path(audit_log),
                **{name: Path(fields[name] or "") for name in ("kubeconfig", "bin_dir", "state_dir", "log_dir")},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClusterSetupError("reading the description of a cluster; remove its state folder") from error
