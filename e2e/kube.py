"""The API server as a story sees it: objects in and out as they are, by the official client.

Separate from the operator's own door, which is what the stories test, and from kubectl, which takes a tenth of a
second of a core for each look: a story looks five times a second.
"""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config

__all__ = ["ROOT", "Kube", "KubeError", "Object"]

ROOT = Path(__file__).resolve().parent.parent
"""The root of the repository."""

Object = dict[str, Any]

_KINDS: Mapping[str, tuple[str, str, bool]] = {
    "AcceleratorPool": ("/apis/metainf.dev/v1alpha1", "acceleratorpools", False),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    "Deployment": ("/apis/apps/v1", "deployments", True),
    "Event": ("/apis/events.k8s.io/v1", "events", True),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers", True),
    "InferenceDecision": ("/apis/metainf.dev/v1alpha1", "inferencedecisions", True),
    "InferenceWorkload": ("/apis/metainf.dev/v1alpha1", "inferenceworkloads", True),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases", True),
    "Namespace": ("/api/v1", "namespaces", False),
    "Node": ("/api/v1", "nodes", False),
    "Pod": ("/api/v1", "pods", True),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets", True),
    "ReplicaSet": ("/apis/apps/v1", "replicasets", True),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings", True),
    "Service": ("/api/v1", "services", True),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True),
}


class KubeError(Exception):
    """The API server said no, or nothing: then the status is 0."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Kube:
    """The administrator's hand: read, list, apply, patch, delete, in one namespace unless a call names another."""

    def __init__(self, kubeconfig: Path, namespace: str = "default", *, proxy: bool = False) -> None:
        self.namespace = namespace
        settings = client.Configuration()
        load: Any = config.load_kube_config  # neither this nor what it answers has types
        load(config_file=str(kubeconfig), client_configuration=settings)
        if not proxy:
            settings.proxy = None
        settings.retries = False
        self._client = client.ApiClient(settings)
        self._server = settings.host

    def within(self, namespace: str) -> "Kube":
        """The same, in another namespace."""
        other = Kube.__new__(Kube)
        other.__dict__.update(self.__dict__)
        other.namespace = namespace
        return other

    def close(self) -> None:
        """Let the connections go."""
        self._client.rest_client.pool_manager.clear()

    def _call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Object:
        headers = {"Accept": "application/json", "Content-Type": kind}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        data = None if body is None else body
        try:
            answer: Any = self._client.call_api(method, f"{self._server}{path}", headers, data, _request_timeout=30)
            text = answer.read()
        except client.ApiException as error:
            raise KubeError(error.status or 0, _message(error.body)) from error
        except urllib3.exceptions.HTTPError as error:
            raise KubeError(0, f"no answer to {method} {path}: {error}") from error
        if not 200 <= answer.status <= 299:
            raise KubeError(answer.status, _message(text))
        read: Object = json.loads(text)
        return read

    def _path(self, kind: str, name: str = "", subresource: str = "", **query: str) -> str:
        api, plural, namespaced = _KINDS[kind]
        parts = [api, *(["namespaces", self.namespace] if namespaced else []), plural, name, subresource]
        path = "/".join(part for part in parts if part)
        return f"{path}?{urllib.parse.urlencode(query)}" if query else path

    def get(self, kind: str, name: str, subresource: str = "") -> Object:
        """Read one object; KubeError with status 404 where there is none."""
        return self._call("GET", self._path(kind, name, subresource))

    def find(self, kind: str, name: str) -> Object | None:
        """Read one object, None where there is none."""
        try:
            return self.get(kind, name)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, selector: str = "") -> list[Object]:
        """Read all objects of the namespace (or of the cluster), by label selector."""
        query = {"labelSelector": selector} if selector else {}
        items: list[Object] = self._call("GET", self._path(kind, **query))["items"]
        return items

    def apply(self, manifest: Mapping[str, Any], *, manager: str = "e2e") -> Object:
        """Server-side apply, by force, as a field manager that is not the operator's."""
        path = self._path(manifest["kind"], manifest["metadata"]["name"], fieldManager=manager, force="true")
        return self._call("PATCH", path, dict(manifest), "application/apply-patch+yaml")

    def create(self, manifest: Mapping[str, Any]) -> Object:
        """Create one object."""
        return self._call("POST", self._path(manifest["kind"]), dict(manifest))

    def patch(self, kind: str, name: str, patch: Mapping[str, Any], subresource: str = "") -> Object:
        """Merge a patch into one object, as `kubectl edit` would."""
        path = self._path(kind, name, subresource)
        return self._call("PATCH", path, dict(patch), "application/merge-patch+json")

    def json_patch(self, kind: str, name: str, operations: Sequence[Object]) -> Object:
        """Apply the operations of a JSON patch (RFC 6902) to one object."""
        return self._call("PATCH", self._path(kind, name), [*operations], "application/json-patch+json")

    def delete(self, kind: str, name: str, *, grace_s: int | None = None) -> None:
        """Delete one object, and by the garbage collector what it owns; what is gone already is fine."""
        grace = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        try:
            self._call("DELETE", self._path(kind, name), {"propagationPolicy": "Background", **grace})
        except KubeError as error:
            if error.status != 404:
                raise


def _message(body: Any) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(body)
