"""What took long to compute, each in a small file that is named by a digest of all that it depends on.

Separate from those who know what is in them (`fits`, `operator_truths`): this is about files and digests alone. A file
appears whole or not at all, so that a kill loses only what was being worked on, and two processes that write the same
one write the same. What cannot be read, or is about something else, is told and made anew: nothing is taken from it.
Arrays and JSON, as numpy reads them without pickle.
"""

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metainf.corpus.whole_files import written_whole

__all__ = ["Kept", "KeptFiles", "content_digest"]

_ABOUT = "about"
_UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    OSError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy, zipfile and json raise at files that were cut short, changed, or written by somebody else."""


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What a file holds: facts, as JSON has them, and arrays by name."""

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeptFiles:
    """A folder of such files, which is made when the first is written."""

    folder: Path

    def get(self, key: str, say: Callable[[str], None]) -> Kept | None:
        """What is kept under a key; None where there is nothing, or nothing that can be trusted, which is said."""
        path = self.path(key)
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                if file.zip.testzip() is not None:
                    raise ValueError("a checksum is another")
                arrays = {name: file[name] for name in file.files}
            if not all(isinstance(each, np.ndarray) for each in arrays.values()):
                raise ValueError("not all of it are arrays")
            about = json.loads(arrays.pop(_ABOUT).tobytes())
            if about["key"] != key:
                raise ValueError("it is about something else")
            return Kept(dict(about["facts"]), arrays)
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            say(f"{path} is damaged or foreign, so what it should hold is made anew: {error}")
            return None

    def put(self, key: str, kept: Kept) -> None:
        """Keep this under the key, in the place of whatever was there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        written_whole(self.path(key), partial(_write, _arrays(key, kept)), shared=True)

    def path(self, key: str) -> Path:
        """Where it is, or would be."""
        return self.folder / f"{key}.npz"


def content_digest(*values: object) -> str:
    """SHA-256 over all that the values hold: arrays, text, numbers, None, tuples and dataclasses of these.

    Raises
    ------
    TypeError
        One is of another type, or an array holds objects.
    """
    digest = hashlib.sha256()
    for part in _parts(values):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: object) -> Iterator[bytes | memoryview]:
    """What is digested: each value behind its type and size, so that no two of them run into one another."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("digesting an array of objects")
        yield f"array {value.dtype.str} {value.shape} ".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif is_dataclass(value) and not isinstance(value, type):
        yield f"{type(value).__name__} ".encode()
        for each in fields(value):
            yield f"{each.name} ".encode()
            yield from _parts(getattr(value, each.name))
    elif isinstance(value, tuple | list):
        yield f"{len(value)} values ".encode()
        for item in value:
            yield from _parts(item)
    elif value is None or isinstance(value, str | int | float | np.generic):
        text = repr(value).encode()
        yield f"{len(text)} ".encode() + text
    else:
        raise TypeError(f"digesting {type(value).__name__}")


def _arrays(key: str, kept: Kept) -> dict[str, np.ndarray]:
    about = json.dumps({"key": key, "facts": dict(kept.facts)})
    return {_ABOUT: np.frombuffer(about.encode(), dtype=np.uint8), **kept.arrays}


def _write(arrays: dict[str, np.ndarray], path: Path) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
