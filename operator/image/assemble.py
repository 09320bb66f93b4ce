"""Makes the operator's image without Docker: a docker-archive that `ctr images import` and `docker load` take.

The same as operator/Dockerfile, but for the base: Debian's own Python 3.11 by debootstrap, where the Dockerfile takes
python:3.11-slim-bookworm. Separate from the packages and of the standard library alone, so that it runs on any Debian
with Python. Layers are deterministic: sorted, one date, owned by root. Run as root, from the root of the repository:

    python operator/image/assemble.py --output metainf-operator.tar
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trim import trim

__all__ = ["IMAGE_CONFIG", "assemble", "write_archive"]

_ROOT = Path(__file__).resolve().parents[2]
_APP = "opt/metainf"
_SUITE = "bookworm"
_PYTHON = "3.11"
_PACKAGES = "python3,ca-certificates"
_EPOCH_S = 1767225600  # 2026-01-01: every file has this date, so that equal content is an equal layer
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_NOT_COMPILED = "kubernetes/(aio/)?client/(api|models)/"
# Of the base: caches, logs and what is only read by people. Lists and sources of packages name a mirror.
_NOT_IN_BASE = (
    "dev", "proc", "sys", "run", "tmp", "etc/apt/sources.list", "etc/hostname", "etc/machine-id", "etc/resolv.conf",
    "usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man", "var/cache", "var/lib/apt", "var/log",
)  # fmt: skip
_EMPTY_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "var/cache", "var/log")

IMAGE_CONFIG: dict[str, Any] = {
    "User": "65532:65532",
    "Env": [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH=/opt/metainf",
        "PYTHONUNBUFFERED=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "HOME=/tmp",
        "USER=metainf",  # no account has this uid, and kopf asks for its name
    ],
    "Entrypoint": ["python3", "-m", "metainf_operator"],
    "WorkingDir": "/",
    "ExposedPorts": {"8080/tcp": {}, "9090/tcp": {}},
    "Labels": {"org.opencontainers.image.title": "metainf-operator", "org.opencontainers.image.licenses": "Apache-2.0"},
}
"""What the Dockerfile's last stage says, as an image's configuration has it."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A folder that becomes a layer, and where it goes in the image (empty: the root)."""

    folder: Path
    prefix: str
    left_out: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()


def _run(*command: str | Path, **environment: str) -> None:
    try:
        subprocess.run([str(part) for part in command], check=True, env={**os.environ, **environment})
    except FileNotFoundError as error:
        raise SystemExit(f"assembling the image: {command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"assembling the image: {command[0]} ended with {error.returncode}") from error


def _mirror() -> str:
    """The mirror that this machine itself installs from; Debian's own where that is not known."""
    for file in sorted(Path("/etc/apt").glob("**/*.sources")) + sorted(Path("/etc/apt").glob("**/*.list")):
        found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s+(https?://\S+/debian)/?(?:\s|$)", file.read_text(), re.M)
        if found is not None:
            return found.group(1)
    return "http://deb.debian.org/debian"


def _base(folder: Path, mirror: str) -> None:
    """A minimal Debian with Python, its standard library compiled for files of one date."""
    if (folder / "usr/bin/python3").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, unfinished, mirror)
    library = f"/usr/lib/python{_PYTHON}"
    _compile(unfinished, library, "/(test|idlelib|lib2to3|tkinter)/")
    unfinished.rename(folder)


def _compile(root: Path, folder: str, left_out: str) -> None:
    """By the image's own Python: bytecode is of one version. It trusts its source, whose date is changed afterwards."""
    options = ["-q", "-f", "-j", "0", "-x", left_out, "--invalidation-mode", "unchecked-hash"]
    _run("chroot", root, "/usr/bin/python3", "-m", "compileall", *options, folder)


def _install(target: Path, requirements: Path, *, any_python: bool = False) -> None:
    """Wheels alone, with their hashes, for the image's Python; the files are whole, so nothing is resolved."""
    uv = shutil.which("uv")
    options: list[str | Path] = [
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--target",
        target,
        "-r",
        requirements,
    ]
    if uv is not None:
        platform = [] if any_python else ["--python-version", _PYTHON, "--python-platform", "x86_64-manylinux_2_28"]
        _run(uv, "pip", "install", "--quiet", *platform, *options)
        return
    platforms = [part for name in _PLATFORMS for part in ("--platform", name)]
    platform = [] if any_python else ["--python-version", _PYTHON, *platforms]
    _run(sys.executable, "-m", "pip", "install", "--quiet", *platform, *options)


def _application(folder: Path, work: Path) -> None:
    """The pinned dependencies and this distribution's wheel, side by side in one folder."""
    _install(folder, _ROOT / "requirements/operator.txt")
    _install(work / "build", _ROOT / "requirements/build.txt", any_python=True)
    build = ["-m", "hatchling", "build", "--target", "wheel", "--directory", str(work / "wheel")]
    environment = {"PYTHONPATH": str(work / "build"), "SOURCE_DATE_EPOCH": str(_EPOCH_S)}
    subprocess.run([sys.executable, *build], check=True, cwd=_ROOT, env={**os.environ, **environment})
    (wheel,) = (work / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    trim(folder)


def _normalised(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mtime = _EPOCH_S
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    if info.isreg():
        # An installer's umask must not decide whether uid 65532 can read the file.
        info.mode |= 0o444 | (0o111 if info.mode & 0o100 else 0)
    return info


def _write_layer(layer: Layer, file: Path) -> None:
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for part in _parents(layer.prefix):
            archive.addfile(_folder(part))
        for path in sorted(layer.folder.rglob("*")):
            relative = path.relative_to(layer.folder).as_posix()
            if any(relative == out or relative.startswith(f"{out}/") for out in layer.left_out):
                continue
            name = f"{layer.prefix}/{relative}" if layer.prefix else relative
            archive.add(path, name, recursive=False, filter=_normalised)
        for part in layer.empty:
            archive.addfile(_folder(part, 0o1777 if part == "tmp" else 0o755))


def _parents(prefix: str) -> list[str]:
    parts = prefix.split("/") if prefix else []
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _folder(name: str, mode: int = 0o755) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, mode, _EPOCH_S
    return info


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_archive(layers: list[Layer], output: Path, tag: str) -> str:
    """Write the docker-archive and give the image's id."""
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        work = Path(temporary)
        digests = []
        for place, layer in enumerate(layers):
            file = work / f"{place}.tar"
            _write_layer(layer, file)
            digests.append(_sha256(file))
            file.rename(work / f"{digests[-1]}.tar")
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_EPOCH_S))
        configuration = {
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "config": IMAGE_CONFIG,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
            "history": [{"created": created, "created_by": "operator/image/assemble.py"} for _ in digests],
        }
        content = json.dumps(configuration, sort_keys=True, separators=(",", ":")).encode()
        image_id = hashlib.sha256(content).hexdigest()
        (work / f"{image_id}.json").write_bytes(content)
        manifest = [{"Config": f"{image_id}.json", "RepoTags": [tag], "Layers": [f"{d}.tar" for d in digests]}]
        (work / "manifest.json").write_text(json.dumps(manifest))
        with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in ("manifest.json", f"{image_id}.json", *(f"{digest}.tar" for digest in digests)):
                archive.add(work / name, name, filter=_normalised)
    return f"sha256:{image_id}"


def assemble(output: Path, tag: str, cache: Path, mirror: str) -> str:
    """Make the image and give its id; the base is kept in `cache`."""
    made_of = hashlib.sha256("\0".join((_SUITE, _PYTHON, _PACKAGES)).encode()).hexdigest()
    base = cache / f"{_SUITE}-python{_PYTHON}-{made_of[:8]}"
    _base(base, mirror)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        work = Path(temporary)
        application = work / "root" / _APP
        application.mkdir(parents=True)
        _application(application, work)
        # Compiled where it will lie, by the image's own Python.
        inside = base / _APP
        shutil.rmtree(inside, ignore_errors=True)
        shutil.copytree(application, inside, symlinks=True)
        _compile(base, f"/{_APP}", _NOT_COMPILED)
        layers = [Layer(base, "", (*_NOT_IN_BASE, _APP), _EMPTY_FOLDERS), Layer(inside, _APP)]
        return write_archive(layers, output, tag)


def _unpacked_bytes(archive: Path) -> int:
    """Bytes of the files of all layers."""
    total = 0
    with tarfile.open(archive) as outer:
        for member in outer:
            layer = outer.extractfile(member) if member.name.endswith(".tar") else None
            if layer is not None:
                with tarfile.open(fileobj=layer) as inner:
                    total += sum(each.size for each in inner if each.isreg())
    return total


def main() -> None:
    """Read arguments, assemble, report."""
    version = re.search(r'^version = "(.+)"$', (_ROOT / "pyproject.toml").read_text(), re.M)
    tag = f"docker.io/library/metainf-operator:{version.group(1) if version else 'latest'}"
    cache_root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description="Make the operator's image without Docker.")
    parser.add_argument("--output", type=Path, default=Path("metainf-operator.tar"))
    parser.add_argument("--tag", default=tag, help=f"default: {tag}")
    parser.add_argument("--cache", type=Path, default=cache_root / "metainf/image", help="where the base is kept")
    parser.add_argument("--mirror", default=None, help="Debian mirror; default: this machine's own")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("assembling the image: debootstrap and chroot need root; or use operator/Dockerfile")
    started_s = time.monotonic()
    image_id = assemble(options.output.absolute(), options.tag, options.cache, options.mirror or _mirror())
    took_s = time.monotonic() - started_s
    size_mb = _unpacked_bytes(options.output) / 1e6
    print(f"{options.output}: {options.tag} {image_id}, {size_mb:.0f} MB unpacked, {took_s:.0f} s")


if __name__ == "__main__":
    main()
