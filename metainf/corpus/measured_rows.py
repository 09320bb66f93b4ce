"""Rows of real servers beside a corpus's shards: a file for each source, and their digests in a manifest of its own.

Separate from `build`, which simulates: these rows are of no task and no world, and no table of simulated ones ever has
them, since what reads a corpus takes `rows-*` alone. Who wants them names their file (`metainf evaluate --measured`).
The digest of a corpus is of what was simulated; theirs stands beside it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from metainf.corpus.whole_files import written_whole
from metainf.errors import InvalidWorkloadError
from metainf.measurements import MeasurementError, Source, checked, write_measurements

__all__ = ["MEASURED", "MeasuredFile", "measured_digest", "measured_files", "write_measured"]

MEASURED = "measured.json"
_FILE = "measured-{}.parquet"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class MeasuredFile:
    """The rows of one source."""

    source: str
    versions: tuple[str, ...]
    """Of the source, sorted."""
    rows: int
    digest: str
    """Of the file."""

    @property
    def file_name(self) -> str:
        """Within the folder."""
        return _FILE.format(self.source)


def write_measured(table: pa.Table, folder: Path) -> tuple[MeasuredFile, ...]:
    """Keep measured rows, a Parquet file for each source; returns all that the folder then has, by source.

    A source that is there already is replaced, the others stay. Equal rows give equal bytes.

    Raises
    ------
    InvalidWorkloadError
        There is no row, or one is simulated.
    MeasurementError
        A row is impossible, or the folder's manifest is damaged.
    """
    sources = sorted(set(checked(table).column("source").to_pylist()))
    if not sources:
        raise InvalidWorkloadError("keeping measured rows takes some, and there are none")
    if Source.SIMULATION in sources:
        raise InvalidWorkloadError("keeping measured rows: simulated ones are among them, which a build writes itself")
    folder.mkdir(parents=True, exist_ok=True)
    known = {each.source: each for each in _listed(folder)}
    for source in sources:
        rows = table.filter(pc.equal(table.column("source"), source))
        versions = tuple(sorted(set(rows.column("source_version").to_pylist())))
        path = folder / _FILE.format(source)
        written_whole(path, partial(write_measurements, rows))
        known[source] = MeasuredFile(source, versions, rows.num_rows, _digest(path))
    found = tuple(known[source] for source in sorted(known))
    document = {"schema": _SCHEMA, "files": [asdict(each) for each in found]}
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    written_whole(folder / MEASURED, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return found


def measured_files(folder: Path) -> tuple[MeasuredFile, ...]:
    """What a folder has of real servers, by source; empty where nothing was kept.

    Raises
    ------
    MeasurementError
        The manifest is damaged, or a file is not the one that was written.
    """
    found = _listed(folder)
    for each in found:
        if _digest(folder / each.file_name) != each.digest:
            raise MeasurementError(f"{folder / each.file_name} is not what {MEASURED} says: keep its rows again")
    return found


def measured_digest(files: Iterable[MeasuredFile]) -> str:
    """SHA-256 over the files' names and digests."""
    text = "".join(f"{each.file_name}\0{each.digest}\0" for each in files)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _listed(folder: Path) -> tuple[MeasuredFile, ...]:
    """What the manifest says, whatever the files are by now; empty without one."""
    path = folder / MEASURED
    if not path.exists():
        return ()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != _SCHEMA:
            raise MeasurementError(f"{path} is of schema {document['schema']}, not {_SCHEMA}")
        return tuple(_file_of(each) for each in document["files"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, MeasurementError):
            raise
        raise MeasurementError(f"{path} is no manifest of measured rows: {error}") from error


def _file_of(entry: Mapping[str, Any]) -> MeasuredFile:
    versions = tuple(str(version) for version in entry["versions"])
    return MeasuredFile(Source(entry["source"]).value, versions, int(entry["rows"]), str(entry["digest"]))


def _digest(path: Path) -> str:
    """Empty for a file that is gone."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else ""
