"""A real node for a built control plane: containerd, kubelet and kube-proxy, with pods that run and have a network.

Separate, because only a part of the stories needs it, and it alone needs root: what runs in a pod (the chart with
the operator's own image, vLLM) cannot be shown on fake nodes. node_namespaces.py says how it keeps to itself.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import node_config as config
from . import node_namespaces as namespaces
from .control_plane import user_kubeconfig
from .images import busybox_image
from .kubectl import KubectlError, get, kubectl, wait_until
from .model import Cluster, ClusterSetupError, unproxied
from .node_packages import cni_folder, install_missing, path_of, why_no_real_node
from .processes import is_running, start_process, tail
from .progress import Progress

__all__ = [
    "ADDRESS",
    "Node",
    "add_real_node",
    "has_real_node",
    "prepare",
    "remove",
    "stop",
    "the_node",
    "why_no_real_node",
]

ADDRESS = config.HOST_ADDRESS
"""Where the API server has to listen, so that kubelet and pods reach it."""
_READY_S = 90.0
_IMPORT_S = 300.0


@dataclass(frozen=True, slots=True)
class Node:
    """The real node of a cluster."""

    name: str
    cluster: Cluster

    def run(self, *command: str | Path, timeout_s: float = 60.0) -> str:
        """Run a program on the node, as a shell on it would, and give what it prints."""
        argv = namespaces.inside(self.cluster.state_dir, *command)
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise ClusterSetupError(f"running {command[0]} on the node: no end after {timeout_s:g} s") from error
        if done.returncode:
            raise ClusterSetupError(f"running {command[0]} on the node: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def import_image(self, archive: Path) -> None:
        """Import a docker-archive, so that pods find its image without a registry."""
        ctr = self.cluster.bin_dir / "ctr"
        self.run(ctr, "--namespace=k8s.io", "images", "import", archive.absolute(), timeout_s=_IMPORT_S)

    def offer(self, name: str, count: int) -> None:
        """Let the node say that it has so many of a resource, as `nvidia.com/gpu`; nothing stands behind it."""
        key = name.replace("~", "~0").replace("/", "~1")
        patch = f'[{{"op": "add", "path": "/status/capacity/{key}", "value": "{count}"}}]'
        kubectl(self.cluster, "patch", "node", self.name, "--subresource=status", "--type=json", "-p", patch)
        wait_until(
            f"{name} to be allocatable",
            lambda: get(self.cluster, "node", self.name)["status"]["allocatable"].get(name) == str(count),
        )


def has_real_node(state_dir: Path) -> bool:
    """Tell whether the cluster of a state folder was started with a real node."""
    return (state_dir / namespaces.FILE).exists()


def the_node(cluster: Cluster) -> Node:
    """Give the real node of a cluster that was started with one."""
    if not has_real_node(cluster.state_dir):
        raise ClusterSetupError("finding the real node: this cluster has none; bring it up with --real-node")
    return Node(config.NODE_NAME, cluster)


def prepare(state_dir: Path, progress: Progress) -> None:
    """Make the node's namespaces, before the API server is to listen on `ADDRESS`."""
    install_missing(progress)
    state_dir.mkdir(parents=True, exist_ok=True)
    namespaces.create(state_dir)


def _start(cluster: Cluster, name: str, argv: list[str]) -> None:
    state_dir = cluster.state_dir
    log = cluster.log_dir / f"{name}.log"
    environment = unproxied(cluster.server)
    environment["PATH"] = f"{cluster.bin_dir}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
    start_process(state_dir / "processes", name, namespaces.inside(state_dir, *argv), log, environment)


def _failed(cluster: Cluster) -> str | None:
    """Say which of the node's programs has ended, and what it said last."""
    for name in ("containerd", "kubelet", "kube-proxy"):
        started = (cluster.log_dir / f"{name}.log").exists()
        if started and not is_running(cluster.state_dir / "processes", name):
            return f"starting {name}: it ended; its log ends with\n{tail(cluster.log_dir / f'{name}.log')}"
    return None


def _await(cluster: Cluster, what: str, answer: str, *arguments: str) -> None:
    def answered() -> bool:
        if failure := _failed(cluster):
            raise ClusterSetupError(failure)
        try:
            return kubectl(cluster, *arguments).strip() == answer
        except KubectlError:
            return False

    wait_until(what, answered, _READY_S, interval_s=0.3)


def _start_containerd(cluster: Cluster) -> None:
    plugins, runc = cni_folder(), path_of("runc")
    if plugins is None or runc is None:
        raise ClusterSetupError("starting containerd: runc or the network plugins are not here")
    folder = cluster.state_dir / "node"
    networks = folder / "cni"
    networks.mkdir(parents=True, exist_ok=True)
    (networks / "10-pods.conflist").write_text(config.cni_config())
    file = folder / "containerd.toml"
    file.write_text(config.containerd_config(runc, plugins, networks))
    _start(cluster, "containerd", [str(cluster.bin_dir / "containerd"), f"--config={file}"])

    def answers() -> bool:
        if failure := _failed(cluster):
            raise ClusterSetupError(failure)
        try:
            Node(config.NODE_NAME, cluster).run(cluster.bin_dir / "ctr", "--timeout=2s", "version", timeout_s=10)
        except ClusterSetupError:
            return False
        return True

    wait_until("containerd to answer", answers, 30)


def add_real_node(cluster: Cluster) -> Node:
    """Start the node's programs in the namespaces that `prepare` made; return when the node is Ready."""
    node = the_node(cluster)
    _start_containerd(cluster)
    with tempfile.TemporaryDirectory(dir=cluster.state_dir) as temporary:
        busybox_image(Path(temporary) / "busybox.tar")
        node.import_image(Path(temporary) / "busybox.tar")
    folder = cluster.state_dir / "node"
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    (folder / "resolv.conf").write_text("")  # no name server: there is nobody to ask
    (folder / "kubelet.yaml").write_text(config.kubelet_config(folder / "resolv.conf", open_files))
    programs, kubelet = cluster.bin_dir, user_kubeconfig(cluster, "kubelet")
    _start(cluster, "kubelet", config.kubelet_arguments(programs / "kubelet", kubelet, folder / "kubelet.yaml"))
    address = 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}'
    _await(cluster, "the node's address", config.NODE_ADDRESS, "get", "node", node.name, "-o", address)
    proxy = user_kubeconfig(cluster, "kube-proxy")
    _start(cluster, "kube-proxy", config.kube_proxy_arguments(programs / "kube-proxy", proxy))
    ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    _await(cluster, "the node to be Ready", "True", "get", "node", node.name, "-o", ready)
    return node


def stop(state_dir: Path) -> None:
    """End all that runs on the node; none is fine. First of all: a pod that watches keeps the API server waiting."""
    namespaces.stop(state_dir)


def remove(state_dir: Path) -> None:
    """Clear what a node leaves outside of its namespaces, once it has been stopped."""
    namespaces.remove(state_dir)
    shutil.rmtree(state_dir / "node", ignore_errors=True)
