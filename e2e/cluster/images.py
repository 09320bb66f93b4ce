"""Container images made here: a docker-archive is a tar of tars, and where no registry is, that is all it takes.

Separate, because an image is made without a cluster: busybox for sandboxes and for the pods of a test, and the
operator's own, which is kept in the cache by a digest of what goes into it.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .binaries import cache_folder, locked
from .model import ClusterSetupError
from .node_packages import path_of
from .progress import Progress

__all__ = ["BUSYBOX_IMAGE", "OperatorImage", "busybox_image", "operator_image", "write_image"]

BUSYBOX_IMAGE = "docker.io/library/metainf-busybox:1"
_APPLETS = ("cat", "echo", "httpd", "id", "ls", "mkdir", "nslookup", "ping", "sh", "sleep", "true", "wget")
_ROOT = Path(__file__).resolve().parents[2]
_ASSEMBLE = _ROOT / "operator/image/assemble.py"
_SOURCES = ("operator/image", "operator/metainf_operator", "metainf")
_SOURCE_FILES = ("pyproject.toml", "README.md", "LICENSE", "requirements/operator.txt", "requirements/build.txt")
_KEPT = 2
"""Archives of the operator's image in the cache, of 330 MB each."""


@dataclass(frozen=True, slots=True)
class OperatorImage:
    """The operator's image as a docker-archive."""

    archive: Path
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """Name and tag, as a pod has them."""
        return f"{self.repository}:{self.tag}"


def _member(name: str, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = mode
    return info


def _layer(files: Mapping[str, bytes], links: Mapping[str, str], folders: Sequence[str]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name in folders:
            info = _member(name, 0o1777 if name == "tmp" else 0o755)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        for name, content in files.items():
            info = _member(name, 0o755)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in links.items():
            info = _member(name, 0o777)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return written.getvalue()


def write_image(output: Path, tag: str, layer: bytes, settings: Mapping[str, Sequence[str]]) -> None:
    """Write a docker-archive with one layer, which `ctr images import` and `docker load` take.

    `settings` is what the image says of its container, in the words of OCI: `Cmd`, `Entrypoint`, `Env`.
    """
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    digest = hashlib.sha256(layer).hexdigest()
    configuration = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {name: list(values) for name, values in settings.items()},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    names = f"{hashlib.sha256(configuration).hexdigest()}.json", f"{digest}.tar"
    manifest = json.dumps([{"Config": names[0], "RepoTags": [tag], "Layers": [names[1]]}]).encode()
    output.parent.mkdir(parents=True, exist_ok=True)
    contents = {"manifest.json": manifest, names[0]: configuration, names[1]: layer}
    output.write_bytes(_layer(contents, {}, ()))


def busybox_image(output: Path) -> None:
    """Write an image of the system's static busybox, which sleeps for ever unless it is told something else."""
    program = path_of("busybox")
    if program is None:
        raise ClusterSetupError("making an image of busybox: it is not here; install busybox-static")
    links = {f"bin/{name}": "busybox" for name in _APPLETS}
    layer = _layer({"bin/busybox": program.read_bytes()}, links, ("bin", "tmp"))
    settings = {"Cmd": ["/bin/busybox", "sleep", "infinity"], "Env": ["PATH=/bin"]}
    write_image(output, BUSYBOX_IMAGE, layer, settings)


def _digest() -> str:
    """Name what the operator's image is made of; the base by what assemble.py says of it."""
    hashed = hashlib.sha256(platform.machine().encode())
    files = [_ROOT / name for name in _SOURCE_FILES]
    files += [file for folder in _SOURCES for file in (_ROOT / folder).rglob("*") if file.is_file()]
    for file in sorted(file for file in files if "__pycache__" not in file.parts):
        hashed.update(f"{file.relative_to(_ROOT)}\0{file.stat().st_mode & 0o111}\0".encode())
        hashed.update(hashlib.sha256(file.read_bytes()).digest())
    return hashed.hexdigest()[:16]


def operator_image(progress: Progress, cache: Path | None = None) -> OperatorImage:
    """Give the image of this very tree: from the cache, else assembled into it."""
    folder = (cache or cache_folder()) / "image"
    with locked(folder.with_name("image.lock"), progress):
        tag = _digest()
        image = OperatorImage(folder / f"operator-{tag}.tar", "metainf-operator", tag)
        if image.archive.exists():
            image.archive.touch()
            return image
        folder.mkdir(parents=True, exist_ok=True)
        partial = image.archive.with_suffix(".partial")
        name = f"docker.io/library/{image.name}"
        command = [sys.executable, str(_ASSEMBLE), "--output", str(partial), "--tag", name, "--cache", str(folder)]
        with progress.task("assembling the operator's image"):
            made = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, check=False)
        if made.returncode:
            partial.unlink(missing_ok=True)
            raise ClusterSetupError(f"assembling the operator's image: {(made.stderr or made.stdout).strip()[-1500:]}")
        progress.say(made.stdout.strip().splitlines()[-1])
        partial.rename(image.archive)
        archives = sorted(folder.glob("operator-*.tar"), key=lambda file: file.stat().st_mtime_ns)
        for old in archives[:-_KEPT]:
            old.unlink()
        return image
