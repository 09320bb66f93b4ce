"""A real Kubernetes API for the stories and the demo: found, made by kind, or built from its Go modules.

Separate from the stories, because they say what MetaInf does and this says where it does it: a story asks
for a `Cluster` and need not know which of the three it got. README.md beside this file says what it needs.
"""

from .audit import Request, by_user_and_verb, mark, requests
from .fake_nodes import gpu_node, lose_node, named, recover_node, wait_ready
from .kubectl import KubectlError, apply, apply_crds, delete, get, kubectl, token_kubeconfig, wait_until
from .lifecycle import down, find, running_cluster, start_apiserver, stop_apiserver, up
from .model import Cluster, ClusterSetupError, Kind
from .real_node import Node, the_node, why_no_real_node

__all__ = [
    "Cluster",
    "ClusterSetupError",
    "Kind",
    "KubectlError",
    "Node",
    "Request",
    "apply",
    "apply_crds",
    "by_user_and_verb",
    "delete",
    "down",
    "find",
    "get",
    "gpu_node",
    "kubectl",
    "lose_node",
    "mark",
    "named",
    "recover_node",
    "requests",
    "running_cluster",
    "start_apiserver",
    "stop_apiserver",
    "the_node",
    "token_kubeconfig",
    "up",
    "wait_ready",
    "wait_until",
    "why_no_real_node",
]
