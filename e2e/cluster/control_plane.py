"""The control plane as processes of this machine: etcd, API server, controller manager, scheduler.

Separate, because this is the one way of the three that knows the programs themselves. Everything listens on
one address of this machine and on ports that were free; each program is a user of its own, so that the audit log
tells who asked for what. The settings differ from a production cluster in speed alone: a lost node, a replaced
pod and an autoscaler's step are seen in seconds and not in minutes.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from .kubeconfig import cluster_entry, write_kubeconfig
from .model import Cluster, ClusterSetupError, Kind, unproxied
from .processes import is_running, start_process, stop_process, tail

__all__ = [
    "AUDIT_POLICY",
    "USERS",
    "Layout",
    "arguments",
    "start",
    "start_apiserver",
    "stop_apiserver",
    "user_kubeconfig",
]

USERS = {
    "admin": ("admin", ("system:masters",)),
    "controller-manager": ("system:kube-controller-manager", ("system:masters",)),
    "scheduler": ("system:kube-scheduler", ()),
    "kwok": ("kwok", ("system:masters",)),
    "kube-proxy": ("system:kube-proxy", ()),
    "kubelet": ("system:node:metainf-node", ("system:nodes",)),
}
"""Who has a token: user name and groups. A controller manager of full rights spares it a token per controller."""

# Who is not of interest in the audit log: the cluster's own, which talk all the time.
_QUIET = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy", "kwok"]
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": _QUIET},
        {"level": "None", "userGroups": ["system:nodes"]},
        {"level": "None", "nonResourceURLs": ["/readyz*", "/livez*", "/healthz*"]},
        {"level": "Metadata"},
    ],
}

SERVICE_RANGE = "10.96.0.0/16"
POD_RANGE = "10.244.0.0/16"
READY_TIMEOUT_S = 120.0
# 10 s after the last sign of life a node is NotReady (kwok renews every 2 s), and its pods are evicted 10 s later.
# Source of the defaults (50 s and 300 s): kube-controller-manager and kube-apiserver v1.37 --help.
NODE_GRACE_S = 10
EVICTION_S = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Where a built cluster has its files, and on which address and ports it listens."""

    state_dir: Path
    bin_dir: Path
    address: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int

    @property
    def server(self) -> str:
        """Address of the API server."""
        return f"https://{self.address}:{self.api_port}"

    @property
    def config_dir(self) -> Path:
        """Keys, tokens, policies and kubeconfigs."""
        return self.state_dir / "config"

    @property
    def authority(self) -> Path:
        """Certificate that signed the API server's."""
        return self.config_dir / "authority.crt"

    @property
    def audit_log(self) -> Path:
        """Requests that the API server answered."""
        return self.state_dir / "logs" / "audit.jsonl"

    def kubeconfig(self, user: str) -> Path:
        """Where the kubeconfig of one of `USERS` lies."""
        return self.config_dir / f"{user}.kubeconfig"


def _etcd(layout: Layout) -> list[str]:
    client, peer = (f"http://127.0.0.1:{port}" for port in (layout.etcd_port, layout.etcd_peer_port))
    return [
        "--name=e2e",
        f"--data-dir={layout.state_dir / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=e2e={peer}",
        "--log-level=warn",
    ]


def _apiserver(layout: Layout) -> list[str]:
    config = layout.config_dir
    loopback = layout.address.startswith("127.")
    return [
        f"--etcd-servers=http://127.0.0.1:{layout.etcd_port}",
        f"--bind-address={layout.address}",
        f"--advertise-address={layout.address}",
        # An Endpoints object may not hold a loopback address; without pods of a real node nobody needs it.
        f"--endpoint-reconciler-type={'none' if loopback else 'lease'}",
        f"--secure-port={layout.api_port}",
        f"--cert-dir={config / 'certificates'}",
        f"--token-auth-file={config / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--anonymous-auth=false",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={config / 'service-account.key'}",
        f"--service-account-signing-key-file={config / 'service-account.key'}",
        f"--audit-policy-file={config / 'audit-policy.yaml'}",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-maxsize=4096",  # MB: rotation would lose the place of a story that counts requests
        f"--default-not-ready-toleration-seconds={EVICTION_S}",
        f"--default-unreachable-toleration-seconds={EVICTION_S}",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
        "--profiling=false",
    ]


def _controller_manager(layout: Layout) -> list[str]:
    return [
        f"--kubeconfig={layout.kubeconfig('controller-manager')}",
        "--leader-elect=false",
        "--secure-port=0",
        f"--service-account-private-key-file={layout.config_dir / 'service-account.key'}",
        f"--root-ca-file={layout.authority}",
        "--node-monitor-period=1s",
        f"--node-monitor-grace-period={NODE_GRACE_S}s",
        "--horizontal-pod-autoscaler-sync-period=3s",
        "--horizontal-pod-autoscaler-downscale-stabilization=5s",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _scheduler(layout: Layout) -> list[str]:
    return [
        f"--kubeconfig={layout.kubeconfig('scheduler')}",
        "--leader-elect=false",
        "--secure-port=0",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


_PROGRAMS = {
    "etcd": _etcd,
    "kube-apiserver": _apiserver,
    "kube-controller-manager": _controller_manager,
    "kube-scheduler": _scheduler,
}

_CLIENTS = ("kube-controller-manager", "kube-scheduler")


def arguments(layout: Layout, program: str) -> list[str]:
    """Give the whole command line of one of the four programs."""
    return [str(layout.bin_dir / program), *_PROGRAMS[program](layout)]


def _free_ports(address: str, count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind((address, 0))
        return [int(each.getsockname()[1]) for each in held]
    except OSError as error:
        raise ClusterSetupError(f"listening on {address}: {error.strerror}; give an address of this machine") from error
    finally:
        for each in held:
            each.close()


def _write_configuration(layout: Layout) -> None:
    config = layout.config_dir
    config.mkdir(parents=True, mode=0o700)
    key_program = str(layout.bin_dir / "service-account-key")
    key = subprocess.run([key_program], capture_output=True, text=True, check=True).stdout
    (config / "service-account.key").write_text(key)
    tokens = {name: secrets.token_hex(24) for name in USERS}
    lines = [f'{tokens[name]},{user},{name},"{",".join(groups)}"' for name, (user, groups) in USERS.items()]
    (config / "tokens.csv").write_text("\n".join(lines) + "\n")
    (config / "tokens.json").write_text(json.dumps(tokens))
    (config / "audit-policy.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
    (config / "layout.json").write_text(json.dumps(dataclasses.asdict(layout), default=str))


def _layout(cluster: Cluster) -> Layout:
    if cluster.kind is not Kind.BUILT:
        raise ClusterSetupError(f"reaching into the control plane: this cluster is {cluster.kind}, not built here")
    fields = json.loads((cluster.state_dir / "config" / "layout.json").read_text())
    return Layout(Path(fields.pop("state_dir")), Path(fields.pop("bin_dir")), **fields)


def _pids(layout: Layout) -> Path:
    return layout.state_dir / "processes"


def _run(layout: Layout, program: str) -> None:
    log = layout.state_dir / "logs" / f"{program}.log"
    start_process(_pids(layout), program, arguments(layout, program), log, unproxied(layout.server))


def _is_ready(layout: Layout) -> bool:
    certificate = layout.config_dir / "certificates" / "apiserver.crt"
    token = json.loads((layout.config_dir / "tokens.json").read_text())["admin"]
    try:
        trust = ssl.create_default_context(cadata=certificate.read_text())
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        request = urllib.request.Request(f"{layout.server}/readyz", headers={"Authorization": f"Bearer {token}"})
        with opener.open(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):  # not there yet, half written, refused, 500 while it starts
        return False


def _await_ready(layout: Layout) -> None:
    until_s = time.monotonic() + READY_TIMEOUT_S
    while not _is_ready(layout):
        for program in ("etcd", "kube-apiserver"):
            if not is_running(_pids(layout), program):
                log = layout.state_dir / "logs" / f"{program}.log"
                raise ClusterSetupError(f"starting {program}: it ended; its log {log} ends with\n{tail(log)}")
        if time.monotonic() > until_s:
            raise ClusterSetupError(f"starting kube-apiserver: not ready after {READY_TIMEOUT_S:g} s")
        time.sleep(0.1)


def _authority(chain: str) -> str:
    """Take the authority out of the chain that the API server made: its own certificate comes first, that last."""
    begin = "-----BEGIN CERTIFICATE-----"
    return begin + chain.rpartition(begin)[2]


def start(state_dir: Path, bin_dir: Path, address: str = "127.0.0.1") -> Cluster:
    """Start the four programs on a state folder without a cluster; return when the API server is ready."""
    etcd_port, etcd_peer_port = _free_ports("127.0.0.1", 2)
    layout = Layout(state_dir, bin_dir, address, _free_ports(address, 1)[0], etcd_port, etcd_peer_port)
    _write_configuration(layout)
    _run(layout, "etcd")
    _run(layout, "kube-apiserver")
    _await_ready(layout)
    authority = _authority((layout.config_dir / "certificates" / "apiserver.crt").read_text())
    layout.authority.write_text(authority)
    for name, token in json.loads((layout.config_dir / "tokens.json").read_text()).items():
        write_kubeconfig(layout.kubeconfig(name), cluster_entry(layout.server, authority), token)
    for program in _CLIENTS:
        _run(layout, program)
    return Cluster(
        kind=Kind.BUILT,
        kubeconfig=layout.kubeconfig("admin"),
        server=layout.server,
        bin_dir=bin_dir,
        state_dir=state_dir,
        log_dir=state_dir / "logs",
        audit_log=layout.audit_log,
    )


def user_kubeconfig(cluster: Cluster, user: str) -> Path:
    """Give the kubeconfig of one of `USERS`, as a kubelet or a kube-proxy of this cluster needs it."""
    return _layout(cluster).kubeconfig(user)


def stop_apiserver(cluster: Cluster) -> None:
    """Take the API server away, and its two clients with it; returns when the processes have ended.

    Killed and not asked: asked, it waits a minute for the open watches first. With the clients, because a
    controller manager that slept through the outage takes every node for lost when it wakes, and tries again only
    after up to 30 s: that is its own story, not the operator's.
    """
    processes = _pids(_layout(cluster))
    for program in (*_CLIENTS, "kube-apiserver"):
        stop_process(processes, program, grace_s=0)


def start_apiserver(cluster: Cluster) -> None:
    """Bring the API server back, on its old port and with its old certificates; returns when it is ready."""
    layout = _layout(cluster)
    for program in ("kube-apiserver", *_CLIENTS):
        if not is_running(_pids(layout), program):
            _run(layout, program)
        if program == "kube-apiserver":
            _await_ready(layout)
