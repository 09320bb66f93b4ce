"""Namespaces of a real node's own: processes, mounts and network that the machine does not share.

Why: what a kubelet, containerd, kube-proxy and pods leave behind (mounts, network namespaces, hundreds of rules of
iptables, settings of the kernel) then goes with the first process of the namespaces, however it ended. Outside of them
are one network link with its routes, one folder per cgroup hierarchy, and mount points that were not there before:
`remove` clears these. Rejected: a list of things to undo, which is never whole after a failure in the middle.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import node_config as config
from .control_plane import SERVICE_RANGE
from .model import ClusterSetupError
from .node_packages import path_of
from .processes import is_running, process_id, start_process, stop_process, tail

__all__ = ["FILE", "create", "inside", "remove", "stop"]

FILE = "node.json"
HOLDER = "node-namespaces"
_INIT = Path(__file__).with_name("node_init.py")
_START_S = 10.0
_EMPTY_S = 20.0


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        text = " ".join(str(part) for part in command)
        raise ClusterSetupError(f"setting up a real node: {text}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _ip(*arguments: str) -> str:
    return _run(path_of("ip") or "ip", *arguments)


def _child_of(parent: int) -> int | None:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name (field 2) may hold spaces: count from the last parenthesis; the parent is field 4.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                return int(stat.parent.name)
    return None


def _start_holder(state_dir: Path) -> int:
    """Start the first process of the namespaces, and give its id."""
    folder, log = state_dir / "processes", state_dir / "logs" / f"{HOLDER}.log"
    options = ["--fork", "--kill-child=SIGKILL", "--pid", "--mount", "--mount-proc", "--net"]
    command = [str(path_of("unshare")), *options, sys.executable, "-I", "-S", str(_INIT)]
    start_process(folder, HOLDER, command, log)
    until_s = time.monotonic() + _START_S
    while is_running(folder, HOLDER) and time.monotonic() < until_s:
        child = _child_of(process_id(folder, HOLDER) or 0)
        # The namespaces are whole once the program runs in them.
        if child and _INIT.name.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
            return child
        time.sleep(0.02)
    raise ClusterSetupError(f"making the namespaces of a real node: no process in them\n{tail(log)}")


def inside(state_dir: Path, *command: str | Path) -> list[str]:
    """Give the command that runs another one in the node's namespaces."""
    pid = json.loads((state_dir / FILE).read_text())["pid"]
    enter = [str(path_of("nsenter")), f"--target={pid}", "--mount", "--net", "--pid"]
    return [*enter, *(str(part) for part in command)]


def _say_where(state_dir: Path) -> str:
    for link in json.loads(_ip("-json", "link", "show")):
        if link["ifname"] == config.LINK:
            return str(link.get("ifalias") or "an unknown folder")
    return ""


def _connect(state_dir: Path, pid: int) -> None:
    """One link between machine and node, and routes to pods and Services through it."""
    _ip("link", "add", config.LINK, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    _ip("link", "set", config.LINK, "alias", str(state_dir))
    _ip("address", "add", f"{config.HOST_ADDRESS}/30", "dev", config.LINK)
    _ip("link", "set", config.LINK, "up")
    for target in (config.POD_RANGE, SERVICE_RANGE):
        _ip("route", "add", target, "via", config.NODE_ADDRESS, "dev", config.LINK)
    ip, iptables = path_of("ip") or "ip", path_of("iptables") or "iptables"
    for command in (
        (ip, "link", "set", "lo", "up"),
        (ip, "address", "add", f"{config.NODE_ADDRESS}/30", "dev", "eth0"),
        (ip, "link", "set", "eth0", "up"),
        # A dead end that the kernel believes in: without a route it would refuse before kube-proxy's rules are asked.
        (ip, "link", "add", "services", "type", "veth", "peer", "name", "nowhere"),
        (ip, "link", "set", "services", "up"),
        (ip, "link", "set", "nowhere", "up"),
        (ip, "route", "add", SERVICE_RANGE, "dev", "services"),
        # Only the API server asks the kubelet, which asks nobody back who is asking.
        (iptables, "-A", "INPUT", "-p", "tcp", "--dport", "10250", "!", "-s", config.HOST_ADDRESS, "-j", "DROP"),
    ):
        _run(*inside(state_dir, *command))


def _mount(state_dir: Path) -> None:
    """Folders of the state at the places where the programs write, and settings of the kernel as the kubelet wants."""
    mount = path_of("mount") or "mount"
    _run(*inside(state_dir, mount, "-t", "tmpfs", "-o", "mode=755", "metainf-node", "/run"))
    for place in config.PLACES:
        own = state_dir / "node" / place.strip("/").replace("/", "-")
        own.mkdir(parents=True, exist_ok=True)
        _run(*inside(state_dir, mount, "--bind", own, place))
    tunables = state_dir / "node" / "tunables"
    tunables.mkdir(exist_ok=True)
    for name, value in config.TUNABLES.items():
        if not Path("/proc/sys", name).exists():
            continue
        file = tunables / name.replace("/", ".")
        file.write_text(f"{value}\n")
        _run(*inside(state_dir, mount, "--bind", file, f"/proc/sys/{name}"))
    # Among themselves the node's programs share mounts, as a volume with mountPropagation needs it.
    _run(*inside(state_dir, mount, "--make-rshared", "/"))


_WEIGHTS = {"cpu.shares": 1024, "cpu.weight": 100}
"""What one process weighs that is in no group of its own, by the version of cgroups."""
_PROCESSES = 6
"""All pods together weigh as much as so many: with the weight of one they starve on a machine that does other work."""


def _cgroup_roots() -> Iterator[tuple[Path, int]]:
    """Each hierarchy of cgroups and its version: one of version 2, several of version 1, or both kinds."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        version = {"cgroup": 1, "cgroup2": 2}.get(fields[fields.index("-") + 1])
        if version and Path(fields[4]).is_relative_to("/sys/fs/cgroup"):
            yield Path(fields[4]), version


def _make_cgroups() -> None:
    for root, version in set(_cgroup_roots()):
        (root / config.CGROUP).mkdir(exist_ok=True)
        for file, usual in _WEIGHTS.items():
            if (weight := root / config.CGROUP / file).exists():
                weight.write_text(str(_PROCESSES * usual))
        if version == 2:  # children get what the parent hands down
            for controller in (root / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):
                    (root / "cgroup.subtree_control").write_text(f"+{controller}")
            continue
        for file in ("cpuset.cpus", "cpuset.mems"):  # empty at first, and nothing can run in an empty set
            if (root / file).exists():
                (root / config.CGROUP / file).write_text((root / file).read_text())


def _remove_cgroups() -> None:
    until_s = time.monotonic() + _EMPTY_S
    left = [root / config.CGROUP for root, _ in set(_cgroup_roots())]
    while left := [top for top in left if top.exists()]:
        for top in left:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):  # busy until the kernel has done with its processes
                    os.rmdir(folder)
        if time.monotonic() > until_s:
            raise ClusterSetupError(f"removing {left[0]}: it still has processes; look at cgroup.procs below it")
        time.sleep(0.05)


def _missing_folders() -> list[str]:
    """Name the places that are not there, the deepest first, with the folders above them that are not either."""
    lacking: set[str] = set()
    for place in config.PLACES:
        folder = Path(place)
        while not folder.exists():
            lacking.add(str(folder))
            folder = folder.parent
    return sorted(lacking, reverse=True)


def create(state_dir: Path) -> None:
    """Make the namespaces and connect them; the API server can listen on HOST_ADDRESS then."""
    if other := _say_where(state_dir):
        raise ClusterSetupError(
            f"starting a real node: this machine has one, of the cluster in {other}; "
            f"end it with: python -m e2e.cluster --state-dir {other} down"
        )
    if str(state_dir).startswith("/run/"):
        raise ClusterSetupError(f"starting a real node: {state_dir} is below /run, which a node has for itself")
    pid = _start_holder(state_dir)
    made = _missing_folders()
    (state_dir / FILE).write_text(json.dumps({"pid": pid, "made": made}))
    for folder in reversed(made):
        Path(folder).mkdir()
    _mount(state_dir)
    _make_cgroups()
    _connect(state_dir, pid)


def stop(state_dir: Path) -> None:
    """End the first process of the namespaces, and by that the others, the pods' among them; none is fine."""
    stop_process(state_dir / "processes", HOLDER)


def remove(state_dir: Path) -> None:
    """Clear what outlives the namespaces, which have been stopped before; nothing to clear is fine."""
    file = state_dir / FILE
    if not file.exists():
        return
    if _say_where(state_dir) == str(state_dir):
        with contextlib.suppress(ClusterSetupError):  # the kernel was quicker
            _ip("link", "delete", config.LINK)
    _remove_cgroups()
    for folder in json.loads(file.read_text())["made"]:
        with contextlib.suppress(OSError):  # somebody else uses it since
            os.rmdir(folder)
    file.unlink()
