"""The kinds of objects that the operator reads or writes, and where each stands in the API.

Separate so that the door, its fake, the caches and the test of the chart's RBAC name a kind in one way.
"""

from dataclasses import dataclass
from urllib.parse import quote

__all__ = [
    "ACCELERATOR_POOL",
    "ALL_RESOURCES",
    "CONFIG_MAP",
    "CUSTOM_RESOURCE_DEFINITION",
    "DEPLOYMENT",
    "EVENT",
    "INFERENCE_DECISION",
    "INFERENCE_WORKLOAD",
    "LEASE",
    "NAMESPACE",
    "NODE",
    "POD",
    "POD_DISRUPTION_BUDGET",
    "SERVICE",
    "Resource",
]


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object: its names and its scope."""

    group: str
    """API group, empty for the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As manifests spell it: `apps/v1`, or `v1` in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL path; without a name the collection's, without a namespace that of all namespaces."""
        if name and self.namespaced and not namespace:
            raise ValueError(f"{self.kind} {name!r} stands in a namespace: say which")
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace and self.namespaced:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


INFERENCE_WORKLOAD = Resource("metainf.dev", "v1alpha1", "inferenceworkloads", "InferenceWorkload")
INFERENCE_DECISION = Resource("metainf.dev", "v1alpha1", "inferencedecisions", "InferenceDecision")
ACCELERATOR_POOL = Resource("metainf.dev", "v1alpha1", "acceleratorpools", "AcceleratorPool", namespaced=False)
NODE = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACE = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
POD = Resource("", "v1", "pods", "Pod")
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap")
SERVICE = Resource("", "v1", "services", "Service")
EVENT = Resource("events.k8s.io", "v1", "events", "Event")
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
POD_DISRUPTION_BUDGET = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
LEASE = Resource("coordination.k8s.io", "v1", "leases", "Lease")
CUSTOM_RESOURCE_DEFINITION = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)

ALL_RESOURCES = (
    ACCELERATOR_POOL,
    CONFIG_MAP,
    CUSTOM_RESOURCE_DEFINITION,
    DEPLOYMENT,
    EVENT,
    INFERENCE_DECISION,
    INFERENCE_WORKLOAD,
    LEASE,
    NAMESPACE,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVICE,
)
