"""The door to the API server of a process that reads and labels one node.

Not `metainf_operator.cluster`, although that is the operator's one door: importing its client takes 36 MiB and most
of a second of a core on every node with a GPU, for two kinds of request. What makes requests and errors alike is
shared: `wire`, `resources` and `api_errors`.
"""

import http.client
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from metainf_operator.api_errors import ForbiddenError, UnreachableError, error_from_response
from metainf_operator.cluster_api import JsonObject
from metainf_operator.node_facts.ownership import FIELD_MANAGER
from metainf_operator.resources import NODE
from metainf_operator.wire import APPLY_PATCH, PARTIAL_OBJECT, Request, called, parsed_object, typed

__all__ = ["Door", "in_pod"]

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Door:
    """How the API server is reached; each request has a connection of its own, since minutes lie between them."""

    server: str
    """As `https://10.0.0.1:443`."""
    token_file: Path
    """Read for every request: the kubelet replaces it before it runs out."""
    ca_file: Path | None = None
    """None trusts what the system trusts."""
    timeout_s: float = 10.0

    def metadata(self, node: str) -> JsonObject:
        """The metadata of a node, managed fields included."""
        request = Request(f"getting {called(NODE, node, None)}", "GET", NODE.path(name=node), accept=PARTIAL_OBJECT)
        found: JsonObject = self._send(request).get("metadata") or {}
        return found

    def apply_labels(self, node: str, labels: Mapping[str, str]) -> None:
        """Make these our labels of the node, and no others; ConflictError where somebody else took one meanwhile."""
        body = typed(NODE, {"metadata": {"name": node, "labels": dict(labels)}})
        query = {"fieldManager": FIELD_MANAGER, "force": "false", "fieldValidation": "Strict"}
        doing = f"labelling {called(NODE, node, None)}"
        path = NODE.path(name=node)
        self._send(Request(doing, "PATCH", path, query, body, APPLY_PATCH, PARTIAL_OBJECT))

    def _send(self, request: Request) -> JsonObject:
        connection = self._connection()
        try:
            headers = {
                "Accept": request.accept,
                "Content-Type": request.content_type,
                "User-Agent": FIELD_MANAGER,
                "Authorization": f"Bearer {self._token()}",
            }
            path = f"{request.path}?{urlencode(request.query)}" if request.query else request.path
            body = None if request.body is None else json.dumps(request.body).encode()
            connection.request(request.method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{request.doing}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise error_from_response(request.doing, answer.status, content, dict(answer.getheaders()))
        return parsed_object(request.doing, content)

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.server)
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.netloc, timeout=self.timeout_s)
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file is not None else None)
        except OSError as error:
            raise ForbiddenError(f"reading the cluster's certificate: {error}") from error
        return http.client.HTTPSConnection(parts.netloc, timeout=self.timeout_s, context=context)

    def _token(self) -> str:
        try:
            return self.token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise ForbiddenError(f"reading the service account's token: {error}") from error


def in_pod(environment: Mapping[str, str] = os.environ) -> Door | None:
    """The door of a pod's service account; None outside of a pod."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return None
    shown = f"[{host}]" if ":" in host else host
    return Door(f"https://{shown}:{port}", _ACCOUNT / "token", _ACCOUNT / "ca.crt")
