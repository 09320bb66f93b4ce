"""Takes out of a folder of installed packages what an image does not need to run.

Separate and of the standard library alone, because both ways to make the image run it: operator/Dockerfile inside of a
build stage, assemble.py on the host. Licences stay.
"""

import argparse
import shutil
from pathlib import Path

__all__ = ["trim"]

_FOLDERS = ("tests", "test", "__pycache__")
_SUFFIXES = (".pyi", ".pyx", ".pxd", ".h", ".c", ".a", ".f90")
# Folders called `tests` or `test` that other modules of their package import.
_KEPT = frozenset({"numpy/testing", "numpy/_core/tests"})
# numpy.testing imports nothing of these; the generated clients of the Kubernetes library, documentation apart, stay.
_PATHS = ("bin", "kubernetes/docs", "numpy/f2py", "numpy/_core/include", "numpy/_core/lib", "share")


def trim(folder: Path) -> int:
    """Remove it and give how many bytes went."""
    before = _size_bytes(folder)
    for path in _PATHS:
        shutil.rmtree(folder / path, ignore_errors=True)
    for path in sorted(folder.rglob("*"), reverse=True):
        relative = path.relative_to(folder).as_posix()
        if path.is_dir() and path.name in _FOLDERS and relative not in _KEPT:
            shutil.rmtree(path)
        elif path.is_file() and path.suffix in _SUFFIXES:
            path.unlink()
    return before - _size_bytes(folder)


def _size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Trim the folder that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(f"{folder}: {trim(folder) / 1e6:.0f} MB less")


if __name__ == "__main__":
    main()
