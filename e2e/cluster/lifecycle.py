"""Bringing a cluster up, finding it again, and taking it down: the contract that stories and demo use.

Separate, because the order of choice lives here: a kubeconfig that the user names, else kind where a Docker engine
answers, else the control plane built from Go modules. `up` on a state folder with a living cluster gives that one;
`down` ends every process that was started from the folder, whatever it was in the middle of.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from . import control_plane, kind_cluster, real_node
from .binaries import CONTAINERD, CONTROL_PLANE, HELM, KWOK, Artifact, build, cache_folder, locked
from .kubectl import KubectlError, kubectl, wait_until
from .kwok import start_kwok
from .model import Cluster, ClusterSetupError, Kind
from .processes import (
    forget_process,
    is_running,
    known_processes,
    start_process,
    stop_process,
    wait_for_end,
)
from .progress import Progress

__all__ = [
    "choose",
    "default_state_dir",
    "down",
    "find",
    "needed_artifacts",
    "running_cluster",
    "start_apiserver",
    "stop_apiserver",
    "up",
    "watch",
]

KUBECONFIG_VARIABLE = "METAINF_E2E_KUBECONFIG"
_WATCHER = "watcher"
_OWN_FOLDER = "metainf-e2e-"
KIND_VARIABLE = "METAINF_E2E_CLUSTER"
STOP_GRACE_S = 5.0
"""Nothing of the state is kept, so there is no reason to wait for the API server's long farewell."""


def default_state_dir() -> Path:
    """Say where `python -m e2e.cluster` keeps its cluster."""
    return cache_folder() / "cluster"


def _docker_answers() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        asked = subprocess.run([docker, "info"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def choose(environment: Mapping[str, str] = os.environ) -> Kind:
    """Choose where the control plane comes from; METAINF_E2E_CLUSTER=kind|built overrules the order."""
    if environment.get(KUBECONFIG_VARIABLE):
        return Kind.GIVEN
    if wish := environment.get(KIND_VARIABLE):
        if wish not in (Kind.KIND, Kind.BUILT):
            raise ClusterSetupError(f"reading {KIND_VARIABLE}: {wish!r} is neither kind nor built")
        return Kind(wish)
    return Kind.KIND if _docker_answers() else Kind.BUILT


def needed_artifacts(kind: Kind, *, with_node: bool = False) -> tuple[Artifact, ...]:
    """Say what has to be built for a kind of cluster: the control plane's kubectl serves only where it is built."""
    if kind is Kind.BUILT:
        return (CONTROL_PLANE, KWOK, HELM, *((CONTAINERD,) if with_node else ()))
    kubectl_here = () if shutil.which("kubectl") else (CONTROL_PLANE,)
    return (KWOK, HELM, *kubectl_here, *((kind_cluster.KIND,) if kind is Kind.KIND else ()))


def _programs(kind: Kind, state_dir: Path, progress: Progress, with_node: bool) -> Path:
    programs = build(needed_artifacts(kind, with_node=with_node), progress)
    if (programs / "kubectl").exists():
        return programs
    # The system's kubectl, put beside the built programs in a folder of this cluster.
    folder = state_dir / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for link in (*programs.iterdir(), Path(shutil.which("kubectl") or "kubectl")):
        (folder / link.name).unlink(missing_ok=True)
        (folder / link.name).symlink_to(link.resolve() if link.parent == programs else link)
    return folder


def find(state_dir: Path | None = None) -> Cluster | None:
    """Give the cluster of a state folder if it lives and answers, else None."""
    file = (state_dir or default_state_dir()) / "cluster.json"
    if not file.exists():
        return None
    cluster = Cluster.from_json(file.read_text())
    processes = cluster.state_dir / "processes"
    if not all(is_running(processes, name) for name in known_processes(processes)):
        return None
    try:
        kubectl(cluster, "get", "--raw", "/readyz", timeout_s=15)
    except (KubectlError, OSError):
        return None
    return cluster


def _given(state_dir: Path, bin_dir: Path) -> Cluster:
    kubeconfig = Path(os.environ[KUBECONFIG_VARIABLE]).expanduser().absolute()
    if not kubeconfig.is_file():
        raise ClusterSetupError(f"reading {KUBECONFIG_VARIABLE}: {kubeconfig} is no file")
    (state_dir / "logs").mkdir(parents=True, exist_ok=True)
    unasked = Cluster(Kind.GIVEN, kubeconfig, "", bin_dir, state_dir, state_dir / "logs", None)
    server = kubectl(unasked, "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    return Cluster(Kind.GIVEN, kubeconfig, server.strip(), bin_dir, state_dir, state_dir / "logs", None)


def _has_default_service_account(cluster: Cluster) -> bool:
    try:
        kubectl(cluster, "get", "serviceaccount", "default", "-n", "default", "-o", "name")
    except KubectlError:
        return False
    return True


def up(
    state_dir: Path | None = None,
    *,
    kind: Kind | None = None,
    address: str = "127.0.0.1",
    with_node: bool = False,
    progress: Progress | None = None,
) -> Cluster:
    """Give a cluster that answers, with kwok at work: the one of this state folder, or a new one.

    `address` is what the API server of a built cluster listens on. `with_node` adds a real node to a built cluster,
    and an address that its pods reach goes with it.
    """
    state_dir = (state_dir or default_state_dir()).absolute()
    progress = progress or Progress()
    kind = kind or (Kind.BUILT if with_node else choose())
    if with_node and kind is not Kind.BUILT:
        raise ClusterSetupError(f"starting a real node: a cluster of {kind} has its own; take --kind built")
    with locked(state_dir.with_name(f"{state_dir.name}.lock"), progress):
        found = find(state_dir)
        if found is not None and found.kind is kind:
            if with_node and not real_node.has_real_node(state_dir):
                raise ClusterSetupError("adding a real node: a cluster without one runs here; end it first, by down")
            return found
        _remove(state_dir)
        bin_dir = _programs(kind, state_dir, progress, with_node)
        try:
            if with_node:
                real_node.prepare(state_dir, progress)
                address = real_node.ADDRESS
            with progress.task(f"starting a cluster ({kind})"):
                cluster = _start(kind, state_dir, bin_dir, address)
                start_kwok(state_dir, bin_dir, _kwok_kubeconfig(cluster), cluster.environment())
                wait_until(
                    "the default service account", lambda: _has_default_service_account(cluster), 60, interval_s=0.3
                )
            if with_node:
                with progress.task("starting a real node"):
                    real_node.add_real_node(cluster)
        except BaseException:
            _stop_processes(state_dir)  # the logs stay, to be read
            real_node.remove(state_dir)
            raise
        (state_dir / "cluster.json").write_text(cluster.to_json())
    return cluster


def _start(kind: Kind, state_dir: Path, bin_dir: Path, address: str) -> Cluster:
    if kind is Kind.GIVEN:
        return _given(state_dir, bin_dir)
    if kind is Kind.KIND:
        return kind_cluster.start(state_dir, bin_dir)
    return control_plane.start(state_dir, bin_dir, address)


def _kwok_kubeconfig(cluster: Cluster) -> Path:
    if cluster.kind is Kind.BUILT:
        return control_plane.user_kubeconfig(cluster, "kwok")
    return cluster.kubeconfig


def stop_apiserver(cluster: Cluster) -> None:
    """Take the API server away; returns when it no longer answers. Nodes and pods come to no harm meanwhile."""
    module = _apiserver_of(cluster)
    stop_process(cluster.state_dir / "processes", "kwok", grace_s=0)  # it would see nothing for up to 30 s after
    module.stop_apiserver(cluster)


def start_apiserver(cluster: Cluster) -> None:
    """Bring the API server back, at its old address; returns when it is ready."""
    _apiserver_of(cluster).start_apiserver(cluster)
    if not is_running(cluster.state_dir / "processes", "kwok"):
        start_kwok(cluster.state_dir, cluster.bin_dir, _kwok_kubeconfig(cluster), cluster.environment())


def _apiserver_of(cluster: Cluster) -> ModuleType:
    if cluster.kind is Kind.GIVEN:
        raise ClusterSetupError("stopping the API server: a given cluster is not ours to stop")
    return control_plane if cluster.kind is Kind.BUILT else kind_cluster


def _stop_processes(state_dir: Path) -> None:
    """End what was started, the last first; an API server that has lost its etcd would take long to end."""
    processes = state_dir / "processes"
    failures = []
    real_node.stop(state_dir)
    for name in reversed(known_processes(processes)):
        try:
            stop_process(processes, name, grace_s=STOP_GRACE_S)
        except ClusterSetupError as error:  # the others are to be ended all the same
            failures.append(str(error))
    if failures:
        raise ClusterSetupError("; ".join(failures))


def _remove(state_dir: Path) -> None:
    _stop_processes(state_dir)
    real_node.remove(state_dir)
    if (state_dir / kind_cluster.NAME_FILE).exists():
        kind_cluster.remove(state_dir)
    shutil.rmtree(state_dir, ignore_errors=True)


def down(state_dir: Path | None = None, *, keep_logs: Path | None = None) -> None:
    """End the cluster of a state folder and remove the folder; nothing there is fine.

    Of a given cluster only our kwok is ended. `keep_logs` names a folder to copy the logs into first.
    """
    state_dir = (state_dir or default_state_dir()).absolute()
    lock = state_dir.with_name(f"{state_dir.name}.lock")
    if not state_dir.exists() and not lock.exists():
        return
    with locked(lock, Progress()):
        _stop_processes(state_dir)
        if keep_logs is not None and (state_dir / "logs").is_dir():
            shutil.copytree(state_dir / "logs", keep_logs, dirs_exist_ok=True)
        _remove(state_dir)
    lock.unlink(missing_ok=True)


def watch(state_dir: Path, pid: int) -> None:
    """Wait for a process to end, then take down the cluster that it had: the watcher of `running_cluster`."""
    wait_for_end(pid)
    forget_process(state_dir / "processes", _WATCHER)  # or `down` would end the watcher itself
    down(state_dir)
    if state_dir.parent.name.startswith(_OWN_FOLDER):
        shutil.rmtree(state_dir.parent, ignore_errors=True)


def _start_watcher(state_dir: Path) -> None:
    processes = state_dir / "processes"
    if is_running(processes, _WATCHER):
        return
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "e2e.cluster", "--state-dir", str(state_dir), "watch", str(os.getpid())]
    start_process(processes, _WATCHER, command, state_dir / "logs" / "watcher.log", {**os.environ, "PYTHONPATH": root})


@contextlib.contextmanager
def running_cluster(
    state_dir: Path | None = None, *, kind: Kind | None = None, with_node: bool = False
) -> Iterator[Cluster]:
    """Give a cluster for the time of a `with`, and take it down whatever happens in it.

    Without a state folder the cluster is a fresh one of its own, in a folder that is removed with it. A watcher
    takes it down where this process is killed and cannot.
    """
    folder = (state_dir or Path(tempfile.mkdtemp(prefix=_OWN_FOLDER)) / "cluster").absolute()
    try:
        cluster = up(folder, kind=kind, with_node=with_node)
        _start_watcher(folder)
        yield cluster
    finally:
        down(folder)
        if state_dir is None:
            shutil.rmtree(folder.parent, ignore_errors=True)
