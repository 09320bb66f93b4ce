"""Tasks as a Parquet file, and back: a corpus keeps the tasks that its rows are about, and which worlds measure them.

Separate from the design: a corpus outlives the design that drew it, so that its tasks are read and never drawn again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metainf.corpus.task import Task
from metainf.layouts import Layout
from metainf.measurements import MeasurementError
from metainf.workload import (
    BatchLoad,
    ConcurrencyLoad,
    LatencyMetric,
    Load,
    RateLoad,
    Repetitiveness,
    SharedPrefix,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
)

__all__ = ["read_tasks", "read_worlds", "write_tasks"]

_VERSION_KEY = b"metainf.tasks"
_VERSION = b"3"
_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("key", "model", "accelerator")),
        *(pa.field(f"{name}_parallel", pa.int64(), nullable=False) for name in ("tensor", "pipeline", "data")),
        pa.field("expert_parallel", pa.bool_(), nullable=False),
        pa.field("requests_per_second", pa.float64()),
        *(pa.field(name, pa.int64()) for name in ("concurrency", "batch_requests")),
        *(pa.field(name, pa.float64()) for name in ("deadline_s", "input_mean_tokens", "input_p95_tokens")),
        *(pa.field(name, pa.float64()) for name in ("output_mean_tokens", "output_p95_tokens")),
        pa.field("prefix_tokens", pa.int64()),
        pa.field("prefix_ratio", pa.float64()),
        pa.field("prefixes", pa.int64()),
        pa.field("repetitiveness", pa.string(), nullable=False),
        pa.field("burstiness", pa.float64(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
        pa.field(
            "slo", pa.list_(pa.struct([("metric", pa.string()), ("statistic", pa.string()), ("s", pa.float64())]))
        ),
        pa.field("max_model_len", pa.int64()),
        pa.field("draft_model", pa.bool_(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("engine_version", "origin")),
        pa.field("worlds", pa.list_(pa.string())),
    ],
    metadata={_VERSION_KEY: _VERSION},
)


def write_tasks(tasks: Sequence[Task], path: Path, worlds: Sequence[Sequence[str]] | None = None) -> None:
    """The tasks as a Parquet file, in their order.

    Parameters
    ----------
    worlds : names of worlds for each task, optional
        Those in which it is measured, its own first; tasks of real servers have none.
    """
    rows = [_row(task) for task in tasks]
    if worlds is not None:
        rows = [{**row, "worlds": list(names)} for row, names in zip(rows, worlds, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), path, compression="zstd")


def read_tasks(path: Path) -> tuple[Task, ...]:
    """The tasks of a file.

    Raises
    ------
    MeasurementError
        The file is no such file, or a task is not what its key says.
    """
    table = _read(path)
    try:
        rows = table.to_pylist()
        tasks = tuple(_task(row) for row in rows)
    except (ValueError, TypeError) as error:
        raise MeasurementError(f"{path}: {error}") from error
    for number, (task, row) in enumerate(zip(tasks, rows, strict=True)):
        if task.key != row["key"]:
            raise MeasurementError(f"{path}: the task in row {number} has the key {task.key}, not {row['key']}")
    return tasks


def read_worlds(path: Path) -> Mapping[str, tuple[str, ...]]:
    """The worlds in which each task of a file is measured, by its key: its own first, none where no world knows it.

    Raises
    ------
    MeasurementError
        The file is no such file, or was written without worlds.
    """
    table = _read(path).select(["key", "worlds"])
    if table.column("worlds").null_count:
        raise MeasurementError(f"{path} does not say in which worlds its tasks are measured")
    return {row["key"]: tuple(row["worlds"]) for row in table.to_pylist()}


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise MeasurementError(f"reading tasks from {path}: {error}") from error
    if (table.schema.metadata or {}).get(_VERSION_KEY) != _VERSION or table.column_names != _SCHEMA.names:
        raise MeasurementError(f"{path} holds no tasks of version {_VERSION.decode()}")
    return table


def _row(task: Task) -> dict[str, Any]:
    traffic, layout, prefix = task.traffic, task.layout, task.traffic.shared_prefix
    return {
        "key": task.key,
        "model": task.model,
        "accelerator": task.accelerator,
        "tensor_parallel": layout.tensor_parallel,
        "pipeline_parallel": layout.pipeline_parallel,
        "data_parallel": layout.data_parallel,
        "expert_parallel": layout.expert_parallel,
        **_load_fields(traffic.load),
        "input_mean_tokens": traffic.input_tokens.mean_tokens,
        "input_p95_tokens": traffic.input_tokens.p95_tokens,
        "output_mean_tokens": traffic.output_tokens.mean_tokens,
        "output_p95_tokens": traffic.output_tokens.p95_tokens,
        "prefix_tokens": None if prefix is None else prefix.tokens,
        "prefix_ratio": None if prefix is None else prefix.ratio,
        "prefixes": None if prefix is None else prefix.distinct,
        "repetitiveness": traffic.repetitiveness.value,
        "burstiness": traffic.burstiness,
        "description": traffic.description,
        "slo": [{"metric": b.metric.value, "statistic": b.statistic.value, "s": b.bound_s} for b in task.slo.bounds],
        "max_model_len": task.max_model_len,
        "draft_model": task.draft_model,
        "engine_version": task.engine_version,
        "origin": task.origin,
    }


def _load_fields(load: Load) -> dict[str, Any]:
    match load:
        case RateLoad(rate):
            return {"requests_per_second": rate}
        case ConcurrencyLoad(clients):
            return {"concurrency": clients}
        case BatchLoad(requests, deadline_s):
            return {"batch_requests": requests, "deadline_s": deadline_s}


def _task(row: dict[str, Any]) -> Task:
    traffic = Traffic(
        load=_load(row),
        input_tokens=TokenLengths(row["input_mean_tokens"], row["input_p95_tokens"]),
        output_tokens=TokenLengths(row["output_mean_tokens"], row["output_p95_tokens"]),
        shared_prefix=_prefix(row),
        repetitiveness=Repetitiveness(row["repetitiveness"]),
        burstiness=row["burstiness"],
        description=row["description"],
    )
    bounds = (SloBound(LatencyMetric(b["metric"]), Statistic(b["statistic"]), b["s"]) for b in row["slo"])
    return Task(
        model=row["model"],
        accelerator=row["accelerator"],
        layout=Layout(row["tensor_parallel"], row["pipeline_parallel"], row["data_parallel"], row["expert_parallel"]),
        traffic=traffic,
        slo=Slo(tuple(bounds)),
        max_model_len=row["max_model_len"],
        engine_version=row["engine_version"],
        draft_model=row["draft_model"],
        origin=row["origin"],
    )


def _load(row: dict[str, Any]) -> Load:
    if row["requests_per_second"] is not None:
        return RateLoad(row["requests_per_second"])
    if row["concurrency"] is not None:
        return ConcurrencyLoad(row["concurrency"])
    return BatchLoad(row["batch_requests"], row["deadline_s"])


def _prefix(row: dict[str, Any]) -> SharedPrefix | None:
    if row["prefix_tokens"] is None:
        return None
    return SharedPrefix(row["prefix_tokens"], row["prefix_ratio"], row["prefixes"])
