"""Sampled tables on disk: one file each, named by the digest of what it holds, so that few machines need the oracle.

Separate from sampling since a corpus is built from the files alone. A refusal is kept as well: it is an answer. Arrays
are numpy's own format without pickle, so that a foreign file can be wrong but not harmful.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from metainf.errors import ArtifactError
from metainf.simulator.contract import StepTimes
from metainf.step_times.oracle import RefusalReason, TableRefusal

__all__ = ["MeasuredTables", "TableStore", "facts_digest"]

_ARRAYS = (
    "tokens", "token_s", "expert_tokens", "expert_s", "decode_sequences", "decode_context_tokens", "decode_s",
    "chunk_tokens", "chunk_context_tokens", "chunk_s",
)  # fmt: skip
_NUMBERS = ("prompt_step_s", "head_s", "head_row_s")


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredTables:
    """What runs on the device of one rank; host work and what methods add are not in it."""

    source: str
    """Library, engine and device, as rows name it."""
    kernels: StepTimes


def facts_digest(facts: Mapping[str, object]) -> str:
    """The same for equal facts on every machine."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class TableStore:
    """A folder of tables; safe for several writers, since a file appears whole or not at all.

    Parameters
    ----------
    folder : Path
        Made when the first table is put into it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, MeasuredTables | TableRefusal] = {}

    def get(self, facts: Mapping[str, object]) -> MeasuredTables | TableRefusal | None:
        """What was put under these facts.

        Raises
        ------
        ArtifactError
            The file is damaged or holds other facts.
        """
        digest = facts_digest(facts)
        if digest not in self._read:
            path = self._path(digest)
            if not path.exists():
                return None
            self._read[digest] = _loaded(path, facts)
        return self._read[digest]

    def put(self, facts: Mapping[str, object], found: MeasuredTables | TableRefusal) -> None:
        """Keep an answer under its facts."""
        digest = facts_digest(facts)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(digest)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **_arrays(facts, found))
        os.replace(partial, path)
        self._read[digest] = found

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest[:32]}.npz"


def _arrays(facts: Mapping[str, object], found: MeasuredTables | TableRefusal) -> dict[str, np.ndarray]:
    about: dict[str, object] = {"facts": dict(facts)}
    if isinstance(found, TableRefusal):
        about["refusal"] = asdict(found)
        return {"about": _text(about)}
    about["source"] = found.source
    about.update({name: getattr(found.kernels, name) for name in _NUMBERS})
    return {"about": _text(about), **{name: getattr(found.kernels, name) for name in _ARRAYS}}


def _text(about: Mapping[str, object]) -> np.ndarray:
    return np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype=np.uint8)


def _loaded(path: Path, facts: Mapping[str, object]) -> MeasuredTables | TableRefusal:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            if about["facts"] != json.loads(json.dumps(facts)):
                raise ArtifactError(f"reading {path}: it holds the table of something else")
            if "refusal" in about:
                refusal = about["refusal"]
                return TableRefusal(RefusalReason(refusal["reason"]), refusal["message"])
            kernels = StepTimes(**{name: file[name] for name in _ARRAYS}, **{name: about[name] for name in _NUMBERS})
            return MeasuredTables(about["source"], kernels)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"reading {path}: it is no table of step times") from error
