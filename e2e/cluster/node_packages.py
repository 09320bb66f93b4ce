"""What a real node needs of the system, and how Debian gets it.

Separate, because a test asks first whether a node can be had here at all, and skips with the reason; nothing is
installed for a question.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .model import ClusterSetupError
from .progress import Progress

__all__ = ["cni_folder", "install_missing", "missing_packages", "path_of", "why_no_real_node"]

_PROGRAMS = {
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "debootstrap": "debootstrap",
}
"""Program and the Debian package that has it; debootstrap makes the base of the operator's image."""
_CNI_PACKAGE = "containernetworking-plugins"
_CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
_ADMIN_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
"""A user's PATH need not have the folders that the administrator's programs lie in."""


def path_of(program: str) -> Path | None:
    """Say where a program of the system is."""
    found = shutil.which(program) or shutil.which(program, path=_ADMIN_PATH)
    return Path(found) if found else None


def cni_folder() -> Path | None:
    """Say where the network plugins are."""
    return next((folder for folder in _CNI_FOLDERS if (folder / "ptp").exists()), None)


def missing_packages() -> tuple[str, ...]:
    """Name the Debian packages whose programs are not here."""
    lacking = [package for program, package in _PROGRAMS.items() if path_of(program) is None]
    return (*lacking, *(() if cni_folder() else (_CNI_PACKAGE,)))


def why_no_real_node() -> str | None:
    """Say why no real node can be had on this machine; None where one can."""
    if sys.platform != "linux":
        return f"a real node needs Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "a real node needs root: run it as root"
    if (lacking := missing_packages()) and path_of("apt-get") is None:
        return f"a real node needs {', '.join(lacking)} (Debian's names), and there is no apt-get: install them"
    if path_of("unshare") is None or path_of("nsenter") is None:
        return "a real node needs unshare and nsenter: install util-linux"
    tried = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount", "--mount-proc", "--net", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        return f"a real node needs namespaces of its own: {tried.stderr.strip()}"
    return None


def _apt(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(path_of("apt-get") or "apt-get"), "-q", "-o", "DPkg::Lock::Timeout=120", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def install_missing(progress: Progress) -> None:
    """Install from Debian what is not here.

    Raises
    ------
    ClusterSetupError
        It cannot be installed, or this machine cannot have a real node for another reason.
    """
    if reason := why_no_real_node():
        raise ClusterSetupError(f"starting a real node: {reason}")
    packages = missing_packages()
    if not packages:
        return
    with progress.task(f"installing {', '.join(packages)}"):
        install = ("install", "--yes", "--no-install-recommends", *packages)
        done = _apt(*install)
        if done.returncode:  # the lists of packages may be old, or not there
            _apt("update")
            done = _apt(*install)
    if done.returncode or missing_packages():
        raise ClusterSetupError(f"installing {', '.join(packages)}: {done.stderr.strip()[-600:] or 'still not there'}")
