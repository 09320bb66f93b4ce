"""What decides a corpus's rows besides its plan, as digests: sources, data, libraries and measured tables.

Separate from `build`, which only compares two of these: this is the one place that says what belongs to it.

- Sources: the module that builds and the one of the worlds, with everything of metainf that these import, by their
  import statements: `measured_task` and what it reaches (simulator, step times, methods, memory, speculation), and the
  design with the predictor that it asks. What only reads a corpus is not among them. A comment counts as well: to tell
  what matters costs more than to check a commit out.
- Data: accelerators, models, and the flags of the engine's versions.
- Python, and the libraries that draw, calculate and compile, by their versions.
- Stores of measured tables: all their files. Where the library that they are sampled by is installed, its version: what
  a store lacks is sampled when it is asked for, so that it grows while a corpus is built, by nothing but facts.
"""

import ast
import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from metainf import __version__
from metainf.corpus.worlds import StepOracle
from metainf.step_times import oracle
from metainf.step_times.store import TableStore
from metainf.step_times.worlds import TableWorld

__all__ = ["Provenance", "imported_files", "provenance_of", "source_files"]

_ROOT = Path(__file__).parents[2]
_PACKAGE = "metainf"
_MODULES = ("metainf.corpus.build", "metainf.step_times.worlds")
_DATA = ("data/accelerators.json", "data/models/*.json", "data/flags/*.json")
_LIBRARIES = ("numba", "numpy", "pyarrow", "scipy")
_SAMPLES = "aiconfigurator-core"
_NAMED = 3  # differences that a message names


@dataclass(frozen=True, slots=True)
class Provenance:
    """Digests of what made rows."""

    files: Mapping[str, str]
    """Path of each source and each file of data within the repository -> SHA-256."""
    versions: Mapping[str, str]
    """Of metainf, of Python and of libraries."""
    stores: Mapping[str, str]
    """World of measured tables -> SHA-256 over its store's files, or what samples them."""

    def to_json(self) -> dict[str, dict[str, str]]:
        """As a manifest keeps it."""
        return {name: dict(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """As `to_json` wrote it; KeyError or TypeError where it is not that."""
        return cls(**{each.name: dict(document[each.name]) for each in fields(cls)})

    def differences(self, other: "Provenance") -> str:
        """What differs, in words; empty where nothing does."""
        found: list[str] = []
        for part in fields(self):
            mine, theirs = getattr(self, part.name), getattr(other, part.name)
            found += [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return ", ".join(found[:_NAMED]) + more

    def changed_files(self, root: Path = _ROOT) -> tuple[str, ...]:
        """Those of its files that are other ones now."""
        return tuple(name for name, digest in self.files.items() if _digest(root / name) != digest)


def provenance_of(oracles: Sequence[StepOracle], root: Path = _ROOT) -> Provenance:
    """Of rows that the code under `root` makes in these worlds now."""
    stores = {each.name: _store_digest(each.store) for each in oracles if isinstance(each, TableWorld)}
    return Provenance(
        files={path.relative_to(root).as_posix(): _digest(path) for path in source_files(root)},
        versions={
            _PACKAGE: __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
        stores=stores,
    )


def source_files(root: Path = _ROOT) -> tuple[Path, ...]:
    """Sources and data under `root` that decide rows, sorted."""
    data = [path for pattern in _DATA for path in (root / _PACKAGE).glob(pattern)]
    return tuple(sorted([*imported_files(_MODULES, root), *data]))


def imported_files(modules: Sequence[str], root: Path = _ROOT) -> tuple[Path, ...]:
    """Files under `root` of these modules and of everything of metainf that they import, by their import statements."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = _file_of(module, root)
        if module in found or path is None:
            continue
        found[module] = path
        waiting += [module.rpartition(".")[0], *_imported(path.read_bytes())]
    return tuple(sorted(found.values()))


def _file_of(module: str, root: Path) -> Path | None:
    """The file of a module of this package; None for other packages and for names that are none of a module."""
    first, *rest = module.split(".")
    if first != _PACKAGE:
        return None
    base = root.joinpath(first, *rest)
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


@cache
def _imported(source: bytes) -> tuple[str, ...]:
    """Names that a file imports where it is loaded: modules, or things in them. Not those for type checkers alone."""
    found: list[str] = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import):
            found += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.module is not None:
            found += [statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)]
    return tuple(found)


def _digest(path: Path) -> str:
    """Empty for a file that is gone."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _store_digest(store: TableStore) -> str:
    if oracle.installed():
        return f"sampled by {_SAMPLES} {version(_SAMPLES)}"
    digest = hashlib.sha256()
    for path in sorted(store.folder.glob("*.npz")):
        digest.update(f"{path.name}\0{_digest(path)}\0".encode())
    return digest.hexdigest()
