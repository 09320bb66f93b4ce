"""The measurement table: what was measured or simulated, where, under which load, with units and source in every row.

Separate from what makes rows (the corpus, loaders of public sets) and from what learns from them: all of them agree on
these columns alone. A file is checked when it is read, since corpora outlive the code that wrote them; rows of
different sources stand in one table only with their source beside them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metainf.errors import MetaInfError

__all__ = [
    "COLUMNS",
    "SCHEMA_VERSION",
    "Column",
    "Measurement",
    "MeasurementError",
    "Purpose",
    "Source",
    "as_written",
    "checked",
    "joined",
    "read_measurements",
    "table_of",
    "write_measurements",
]

SCHEMA_VERSION = "1"
_VERSION_KEY = b"metainf.measurements"
_FRACTION_BITS = 16


class MeasurementError(MetaInfError, ValueError):
    """A table of measurements that cannot be used: not one, damaged, of another version, or with impossible values."""


class Source(StrEnum):
    """Who measured; rows of two sources are never compared without saying so."""

    SIMULATION = "simulation"  # metainf.simulator over the step times of a world
    ARGONNE = "argonne"  # LLM-Inference-Bench, argonne-lcf, BSD-3
    GPUSTACK = "gpustack"  # GPUStack Performance Lab, Apache-2.0
    SILICON = "silicon"  # silicon_sample.csv of aiconfigurator-core
    CPU = "vllm-cpu"  # our own runs of vLLM on CPUs
    BENCH = "bench"  # `metainf bench` on other accelerators


class Purpose(StrEnum):
    """What a row is for."""

    SCORE = "score"  # how the method did on the task: one row per world and seed
    LOAD = "load"  # latencies under one load
    IDLE = "idle"  # latencies of one client that waits for its answer
    CAPACITY = "capacity"  # the most that the replica completes


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row. None is "not known" or "does not apply"; latencies are those that a client sees, queueing included.

    An unstable load, above the capacity, has infinite latencies.
    """

    source: str
    source_version: str
    """Of what measured: our own version, a commit of a public set."""
    world: str
    """Whose step times a simulation ran on; empty for real machines."""
    engine_version: str
    task: str
    """Key of a task of the corpus; empty for public rows."""
    kind: str
    model: str
    accelerator: str
    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    expert_parallel: bool
    method: str
    seed: int
    """Which repeat; 0 for public rows of one."""
    purpose: str
    offered_requests_per_second: float | None = None
    clients: int | None = None
    batch_requests: int | None = None
    utilization: float | None = None
    """Offered rate over the capacity under the same seed."""
    stable: bool = True
    requests: int = 0
    """Those counted, after the warm-up."""
    input_tokens: float | None = None
    """Mean of the counted requests."""
    output_tokens: float | None = None
    ttft_mean_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    ttft_p99_s: float | None = None
    tpot_mean_s: float | None = None
    tpot_p50_s: float | None = None
    tpot_p95_s: float | None = None
    tpot_p99_s: float | None = None
    e2e_mean_s: float | None = None
    e2e_p50_s: float | None = None
    e2e_p95_s: float | None = None
    e2e_p99_s: float | None = None
    interval_ratio: float | None = None
    """Half of the 95 % interval over the value: of the promise that decided a rate, else of the throughput."""
    requests_per_second: float | None = None
    """Completed."""
    output_tokens_per_second: float | None = None
    makespan_s: float | None = None
    cached_ratio: float | None = None
    """Prompt tokens that came from the prefix cache over all of them."""
    preemptions_per_request: float | None = None
    performance: float | None = None
    """Of score rows, higher is better: requests/s per accelerator at which every SLO holds, 0 if at none; output
    tokens/s, of requests that keep the SLO where there is one; or 1/s for a batch."""


@dataclass(frozen=True, slots=True)
class Column:
    """Name, type and unit of a column, and whether it may be empty."""

    name: str
    type: Any
    unit: str
    nullable: bool


_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_UNITS = (
    ("_per_second", "1/s"),
    ("_s", "s"),
    ("_ratio", "1"),
    ("utilization", "1"),
    ("_per_request", "1"),
    ("_tokens", "tokens"),
    ("requests", "requests"),
    ("clients", "clients"),
)


def _unit(name: str) -> str:
    if name == "output_tokens_per_second":
        return "tokens/s"
    return next((unit for suffix, unit in _UNITS if name.endswith(suffix)), "")


def _column(name: str, annotation: str) -> Column:
    parts = [part.strip() for part in annotation.split("|")]
    return Column(name, _TYPES[parts[0]], _unit(name), "None" in parts)


COLUMNS = tuple(
    _column(f.name, f.type.__name__ if isinstance(f.type, type) else str(f.type)) for f in fields(Measurement)
)
"""The columns in their order."""

_SCHEMA = pa.schema(
    [pa.field(c.name, c.type, nullable=c.nullable, metadata={b"unit": c.unit.encode()}) for c in COLUMNS],
    metadata={_VERSION_KEY: SCHEMA_VERSION.encode()},
)
_CHOICES: Mapping[str, frozenset[str]] = {
    "source": frozenset(Source),
    "purpose": frozenset(Purpose),
    "kind": frozenset({"rate", "concurrency", "batch"}),
}
_ABOVE_ZERO = ("tensor_parallel", "pipeline_parallel", "data_parallel")
_IDENTITY = (
    *("source", "source_version", "world", "task", "model", "accelerator", "method", "seed"),
    *("offered_requests_per_second", "clients", "batch_requests", "purpose"),
)


def table_of(rows: Sequence[Measurement]) -> pa.Table:
    """The rows as a table, in their order."""
    columns = {c.name: [getattr(row, c.name) for row in rows] for c in COLUMNS}
    for column in COLUMNS:
        if column.type == pa.float64():
            values = columns[column.name]
            columns[column.name] = [None if v is None or math.isnan(v) else float(v) for v in values]
    return pa.table(columns, schema=_SCHEMA)


def write_measurements(table: pa.Table, path: Path) -> None:
    """The table as a Parquet file; equal tables give equal bytes under one version of pyarrow.

    Numbers keep 16 bits of their fraction, a relative error below 1e-5: no measurement is that good, and the rest of
    a float is most of a file's size.

    Raises
    ------
    MeasurementError
        Rows that can be told apart no longer as a file keeps their numbers, or what `checked` refuses of rows: found
        here, since whoever reads a corpus comes hours later.
    """
    floats = [column.name for column in COLUMNS if column.type == pa.float64()]
    for name in floats:
        table = table.set_column(table.column_names.index(name), table.schema.field(name), _rounded(table.column(name)))
    _check_rows(table)
    split = {name: "BYTE_STREAM_SPLIT" for name in floats}
    pq.write_table(table, path, compression="zstd", use_dictionary=_not_in(floats), column_encoding=split)


def _not_in(floats: Sequence[str]) -> list[str]:
    return [column.name for column in COLUMNS if column.name not in floats]


def _rounded(column: pa.ChunkedArray) -> pa.Array:
    empty = column.is_null().to_numpy()
    return pa.array(_kept(np.nan_to_num(column.to_numpy(), nan=0.0, posinf=np.inf)), mask=empty)


def _kept(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers to `_FRACTION_BITS` bits of fraction, half away from zero; infinity stays."""
    dropped = 52 - _FRACTION_BITS
    return ((values.view(np.int64) + (1 << (dropped - 1))) >> dropped << dropped).view(np.float64)


def as_written(value: float) -> float:
    """The number as a file of measurements gives it back.

    For whoever tells rows apart by a number: two that are closer than a file can say are one there.
    """
    return float(_kept(np.array([value]))[0])


def read_measurements(path: Path) -> pa.Table:
    """The table of a file, checked.

    Raises
    ------
    MeasurementError
        The file is no Parquet, has other columns or another schema version, or a value is impossible; the message
        names the file, the column and the row.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise MeasurementError(f"reading measurements from {path}: {error}") from error
    try:
        return checked(table)
    except MeasurementError as error:
        raise MeasurementError(f"{path}: {error}") from error


def checked(table: pa.Table) -> pa.Table:
    """The table, if every column and value is as it must be.

    Raises
    ------
    MeasurementError
        It is not.
    """
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"").decode(errors="replace")
    if version != SCHEMA_VERSION:
        raise MeasurementError(f"measurements of schema version {version or 'none'}, not {SCHEMA_VERSION}")
    names = [column.name for column in COLUMNS]
    missing = [name for name in names if name not in table.column_names]
    unknown = [name for name in table.column_names if name not in names]
    if missing or unknown:
        found = [*(f"{name} is missing" for name in missing), *(f"{name} is unknown" for name in unknown)]
        raise MeasurementError(f"columns: {', '.join(found)}")
    for column in COLUMNS:
        _check_column(column, table.column(column.name))
    _check_rows(table)
    return table.select(names)


def _check_column(column: Column, values: Any) -> None:
    if values.type != column.type:
        raise MeasurementError(f"{column.name} holds {values.type}, not {column.type}")
    if not column.nullable and values.null_count:
        raise MeasurementError(f"{column.name} is empty in row {values.is_null().to_pylist().index(True)}")
    if column.name in _CHOICES:
        wrong = sorted(set(values.unique().to_pylist()) - _CHOICES[column.name])
        if wrong:
            allowed = ", ".join(sorted(_CHOICES[column.name]))
            raise MeasurementError(f"{column.name} {wrong[0]!r} is none of {allowed}")
    if column.type == pa.float64() or column.type == pa.int64():
        numbers = values.to_numpy()
        least = 1 if column.name in _ABOVE_ZERO else 0
        with np.errstate(invalid="ignore"):
            wrong_rows = np.flatnonzero(numbers < least)
        if len(wrong_rows):
            row = int(wrong_rows[0])
            raise MeasurementError(f"{column.name} is {numbers[row]:g} in row {row}, and must be at least {least}")


def _check_rows(table: pa.Table) -> None:
    scores = table.filter(pc.equal(table.column("purpose"), Purpose.SCORE.value))
    if scores.column("performance").null_count:
        raise MeasurementError("performance is empty in a score row")
    simulated = table.filter(pc.equal(table.column("source"), Source.SIMULATION.value))
    for name in ("world", "task", "method"):
        if "" in simulated.column(name).unique().to_pylist():
            raise MeasurementError(f"{name} is empty in a row of source {Source.SIMULATION}")
    counts = simulated.group_by(list(_IDENTITY)).aggregate([([], "count_all")])
    if counts.num_rows < simulated.num_rows:
        row = counts.filter(pc.greater(counts.column("count_all"), 1)).to_pylist()[0]
        what = f"{row['method']} on task {row['task']} in {row['world']}, seed {row['seed']}, {row['purpose']}"
        raise MeasurementError(f"{what} stands there {row['count_all']} times")


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """One table of all rows, in order."""
    return pa.concat_tables([_SCHEMA.empty_table(), *tables])
