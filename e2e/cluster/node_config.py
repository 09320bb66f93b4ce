"""What the programs of a real node are told: containerd, CNI, kubelet, kube-proxy. Texts and arguments, no files.

Separate, because each line here was paid for: the reasons stand beside the settings, and a test reads them without
root. The paths are the programs' own defaults; real_node.py gives them folders of the cluster's state at these places.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

__all__ = [
    "CGROUP",
    "CONTAINERD_SOCKET",
    "HOST_ADDRESS",
    "LINK",
    "NODE_ADDRESS",
    "NODE_NAME",
    "PLACES",
    "POD_RANGE",
    "SANDBOX_IMAGE",
    "TUNABLES",
    "cni_config",
    "containerd_config",
    "kube_proxy_arguments",
    "kubelet_arguments",
    "kubelet_config",
]

NODE_NAME = "metainf-node"
LINK = "metainf-node"
"""Network interface on the machine's side; at most 15 letters."""
HOST_ADDRESS, NODE_ADDRESS = "10.213.0.1", "10.213.0.2"
"""The two ends of the link: the API server listens at one, the kubelet at the other."""
POD_RANGE = "10.244.0.0/24"
CGROUP = "metainf-node"
"""All pods are below this one, in each hierarchy, so that nothing else has to be looked at when the node goes."""
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
SANDBOX_IMAGE = "docker.io/library/metainf-busybox:1"
PLACES = ("/var/lib/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/var/log/pods")
"""Where the programs write, whatever they are told: the node sees folders of the cluster's state there."""
TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What the kubelet writes for the whole machine unless it reads it there. Source: setupKernelTunables in
kubernetes v1.37.2, pkg/kubelet/cm/container_manager_linux.go."""
_STATUS_EVERY_S = 2
_LEASE_S = 8  # renewed after a quarter of it; the control plane misses a node after 10 s


def containerd_config(runc: Path, cni_plugins: Path, cni_folder: Path) -> str:
    """Give containerd's configuration, version 3."""
    runtime = "plugins.'io.containerd.cri.v1.runtime'"
    return f"""\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
# No registry is asked for it: it is imported before the kubelet starts.
sandbox = "{SANDBOX_IMAGE}"

[{runtime}]
# Without CAP_SYS_RESOURCE a score below the own one cannot be set: every sandbox would fail with
# "can't get final child's PID from pipe: EOF".
restrict_oom_score_adj = true

[{runtime}.cni]
bin_dirs = ["{cni_plugins}"]
conf_dir = "{cni_folder}"

[{runtime}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[{runtime}.containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"""


def cni_config() -> str:
    """Give the list of network plugins, as CNI has it.

    ptp and not bridge: between two pods on one bridge the answer of a Service takes a way around the translation of
    addresses, unless the whole machine is told otherwise. Nothing is masqueraded: the machine has a route to the pods.
    """
    addresses = {"type": "host-local", "ranges": [[{"subnet": POD_RANGE}]], "routes": [{"dst": "0.0.0.0/0"}]}
    return json.dumps(
        {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": addresses}]}, indent=2
    )


def kubelet_config(resolv_conf: Path, open_files: int) -> str:
    """Give the kubelet's configuration file."""
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        # Only the machine's own end of the link reaches the port: a rule of the node's own network sees to it.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        "resolvConf": str(resolv_conf),
        "oomScoreAdj": 0,  # a negative one needs CAP_SYS_RESOURCE
        "maxOpenFiles": min(open_files, 1_000_000),  # and so does more than the limit that there is
        "nodeStatusUpdateFrequency": f"{_STATUS_EVERY_S}s",
        "nodeLeaseDurationSeconds": _LEASE_S,
        # A full disk of the machine is not the node's affair: images cannot be fetched anew.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }
    return yaml.safe_dump(settings, sort_keys=False)


def kubelet_arguments(program: Path, kubeconfig: Path, config: Path) -> list[str]:
    """Give the kubelet's whole command line."""
    return [
        str(program),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={NODE_ADDRESS}",  # without one that is not loopback, logs and exec fail
        "--root-dir=/var/lib/kubelet",
        "--cert-dir=/var/lib/kubelet/pki",
    ]


def kube_proxy_arguments(program: Path, kubeconfig: Path) -> list[str]:
    """Give kube-proxy's whole command line. It asks for the node's address once: the node must be there before."""
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={NODE_NAME}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={POD_RANGE}",
        "--conntrack-max-per-core=0",  # a limit of the whole machine: leave it
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
        "--oom-score-adj=0",
    ]
