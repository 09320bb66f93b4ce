"""The programs of the cluster, built from pinned Go modules once and kept in a cache outside the tree.

Separate, because building takes minutes and everything else seconds: what is built is named by a digest of what
it is built from, so that a second run finds it, a change of a version builds only what it concerns, and a run
that was killed leaves nothing half made. One lock keeps two runs from building the same at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .model import ClusterSetupError
from .progress import Progress
from .toolchain import find_go

__all__ = ["CONTAINERD", "CONTROL_PLANE", "HELM", "KIND", "KWOK", "Artifact", "build", "cache_folder", "locked"]

CONTROL_PLANE_SOURCE = Path(__file__).parent / "controlplane"
CONTROL_PLANE_PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "service-account-key",
)
BUILD_FLAGS = ("-trimpath", "-gcflags=all=-dwarf=false")
"""Debugging information would be stripped in the end; not making it saves a seventh of the compiler's time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Artifact:
    """One build: a Go package, at a version, and the names that its program is called by."""

    name: str
    version: str
    packages: tuple[str, ...]
    """Import paths for `go install PACKAGE@VERSION`; none for the module in controlplane/."""
    programs: tuple[str, ...]
    link_flags: str
    tags: str = ""

    def digest(self) -> str:
        """Name everything that the outcome depends on, the files of controlplane/ included."""
        parts = [*self.packages, self.version, *self.programs, *BUILD_FLAGS, self.link_flags, self.tags]
        parts += [platform.system(), platform.machine()]
        hashed = hashlib.sha256("\0".join(parts).encode())
        if not self.packages:
            for file in ("go.mod", "go.sum", "main.go"):
                hashed.update((CONTROL_PLANE_SOURCE / file).read_bytes())
        return hashed.hexdigest()[:16]

    def folder(self, cache: Path) -> Path:
        """Say where in the cache the built programs lie."""
        return cache / f"{self.name}-{self.version}-{self.digest()}"


def _kubernetes_version() -> str:
    found = re.search(r"k8s\.io/kubernetes (v1\.\d+\.\d+)$", (CONTROL_PLANE_SOURCE / "go.mod").read_text(), re.M)
    if not found:
        raise ClusterSetupError("reading controlplane/go.mod: it requires no k8s.io/kubernetes")
    return found[1]


def _control_plane() -> Artifact:
    version = _kubernetes_version()
    minor = version.split(".")[1]
    # Without these the API server calls itself v0.0.0-master, which clients cannot parse.
    server = "-X k8s.io/component-base/version."
    flags = f"-s -w {server}gitVersion={version} {server}gitMajor=1 {server}gitMinor={minor}"
    flags += f" -X k8s.io/client-go/pkg/version.gitVersion={version}"  # kubectl's name in the audit log
    return Artifact("kubernetes", version, (), CONTROL_PLANE_PROGRAMS, flags)


CONTROL_PLANE = _control_plane()
KWOK = Artifact("kwok", "v0.8.0", ("sigs.k8s.io/kwok/cmd/kwok",), ("kwok",), "-s -w")
HELM = Artifact(
    "helm",
    "v4.3.1",
    ("helm.sh/helm/v4/cmd/helm",),
    ("helm",),
    "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",  # unstamped it calls itself v4.3
)
KIND = Artifact("kind", "v0.33.0", ("sigs.k8s.io/kind",), ("kind",), "-s -w")
_CONTAINERD_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
CONTAINERD = Artifact(
    "containerd",
    "v2.3.7",
    tuple(f"github.com/containerd/containerd/v2/cmd/{program}" for program in _CONTAINERD_PROGRAMS),
    _CONTAINERD_PROGRAMS,
    "-s -w",
    "no_btrfs,no_devmapper,no_zfs",  # no image store of ours is any of these, and each wants a C library
)


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Say where built programs are kept: METAINF_CACHE, else ~/.cache/metainf."""
    named = environment.get("METAINF_CACHE")
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "metainf"


@contextlib.contextmanager
def locked(file: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock file for the time of a `with`; say so when another run holds it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with file.open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with progress.task(f"waiting for another run that holds {file}"):
                    fcntl.flock(held, fcntl.LOCK_EX)
            # Whoever held it may have removed the file meanwhile: then others no longer see this lock.
            if not file.exists() or not os.path.samestat(os.fstat(held.fileno()), file.stat()):
                continue
            yield
            return


def _command(artifact: Artifact, go: Path, target: Path) -> tuple[list[str], Path | None, dict[str, str]]:
    """Give the command that builds, the folder to run it in, and what to add to the environment."""
    flags = ["-v", *BUILD_FLAGS, "-ldflags", artifact.link_flags]
    flags += ["-tags", artifact.tags] if artifact.tags else []
    additions = {"CGO_ENABLED": "0", "GOWORK": "off"}
    if not artifact.packages:
        program = str(target / artifact.name)
        return [str(go), "build", *flags, "-o", program, "."], CONTROL_PLANE_SOURCE, additions
    additions["GOBIN"] = str(target)
    wanted = [f"{package}@{artifact.version}" for package in artifact.packages]
    return [str(go), "install", *flags, *wanted], None, additions


def _build_one(artifact: Artifact, go: Path, cache: Path, progress: Progress) -> None:
    final = artifact.folder(cache)
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    command, folder, additions = _command(artifact, go, partial)
    log = final.with_name(f"{final.name}.log")
    packages = 0
    nice = [found, "-n", "5"] if (found := shutil.which("nice")) else []
    with progress.task(f"building {artifact.name} {artifact.version}") as task, log.open("w") as written:
        process = subprocess.Popen(
            [*nice, *command],
            cwd=folder or cache,
            env={name: value for name, value in {**os.environ, **additions}.items() if name != "GOROOT"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process, _ended_on_error(process):
            for line in process.stdout or ():
                written.write(line)
                if not line.startswith(("go: ", "#")):
                    packages += 1
                task.note(f"{packages} packages, {line.strip()[:60]}")
    if process.returncode:
        last = "\n".join(log.read_text().splitlines()[-8:])
        raise ClusterSetupError(f"building {artifact.name}: go ended with {process.returncode}\n{last}\nsee {log}")
    for program in artifact.programs:
        if not (partial / program).exists():
            (partial / program).symlink_to(artifact.name)
    partial.rename(final)


@contextlib.contextmanager
def _ended_on_error(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a build that is no longer awaited (Ctrl-C), so that it does not go on behind our back."""
    try:
        yield
    except BaseException:
        process.terminate()
        raise


def build(artifacts: Sequence[Artifact], progress: Progress, cache: Path | None = None) -> Path:
    """Build what the cache lacks, and give a folder with links to every program of these artifacts."""
    cache = cache or cache_folder()
    names = "\0".join(artifact.folder(cache).name for artifact in artifacts)
    programs = cache / f"bin-{hashlib.sha256(names.encode()).hexdigest()[:16]}"
    if programs.is_dir():
        return programs
    with locked(cache / "build.lock", progress):
        missing = [artifact for artifact in artifacts if not artifact.folder(cache).is_dir()]
        if missing:
            go = find_go(cache, progress.say)
            for artifact in missing:
                _build_one(artifact, go, cache, progress)
        partial = programs.with_name(f"{programs.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for artifact in artifacts:
            for program in artifact.programs:
                (partial / program).symlink_to(Path("..") / artifact.folder(cache).name / program)
        if not programs.is_dir():
            partial.rename(programs)
    return programs
