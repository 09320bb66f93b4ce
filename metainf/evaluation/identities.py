"""What a result depends on besides data, as a digest: the code that makes it, and the versions of what that stands on.

Separate from the provenance of a corpus, which says what decides rows: whoever only reads a corpus is not among that.
Sources are found the same way, by import statements, and a comment counts here as well. So an evaluation that goes on
with other code fits anew what that code is part of: check out the commit that it was begun with.
"""

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from metainf.corpus.provenance import imported_files

__all__ = ["code_digest"]

_ROOT = Path(__file__).parents[2]
_DATA = ("data/*.json", "data/models/*.json", "data/flags/*.json")
_LIBRARIES = ("lightgbm", "numba", "numpy", "pyarrow", "scikit-learn", "scipy", "torch")


@cache
def code_digest(*modules: str) -> str:
    """SHA-256 over these modules with all that they import of metainf, the data that ships, and versions."""
    data = [path for pattern in _DATA for path in (_ROOT / "metainf").glob(pattern)]
    digest = hashlib.sha256()
    for path in sorted([*imported_files(modules), *data]):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(_ROOT).as_posix()} {content}\n".encode())
    for name in _LIBRARIES:
        digest.update(f"{name} {_version(name)}\n".encode())
    digest.update(f"python {platform.python_version()}\n".encode())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
