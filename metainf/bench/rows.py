"""The records of a bench as tables: measurements and their tasks, runs and servers with their conditions.

Separate from the ledger, which only grows: these files are made anew from it. What is published has both.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metainf.bench.design import BenchLoad, BenchTask
from metainf.bench.ledger import Ledger
from metainf.bench.records import Outcome, RunRecord
from metainf.bench.traffics import traffic_named
from metainf.corpus.task import Task, TrafficKind
from metainf.corpus.task_store import write_tasks
from metainf.layouts import Layout
from metainf.measurements import COLUMNS, Measurement, Purpose, Source, table_of, write_measurements

__all__ = ["MEASUREMENTS", "RUNS", "SERVERS", "TASKS", "measurement_of", "task_of", "write_tables"]

MEASUREMENTS = "measurements.parquet"
TASKS = "tasks.parquet"
RUNS = "runs.csv"
SERVERS = "servers.csv"


def task_of(ledger: Ledger, task: BenchTask) -> Task:
    """The task as corpora have it; its model is none of the bundled ones."""
    return Task(
        model=task.model,
        accelerator=ledger.machine.accelerator,
        layout=Layout(),
        traffic=traffic_named(task.traffic).under(BenchLoad.parse(task.load).declared),
        engine_version=ledger.machine.engine_version,
        origin=f"bench-{task.traffic}",
    )


def measurement_of(ledger: Ledger, record: RunRecord) -> Measurement:
    """A run as a row; one that did not complete is a row without figures, under `load`.

    The performance is that of selection: output tokens per second of clients, 1 / makespan of a batch. A rate that is
    only offered, not searched for, has none.
    """
    load = BenchLoad.parse(record.load)
    figures = record.figures if record.outcome is Outcome.COMPLETED else None
    scored = figures is not None and load.kind is not TrafficKind.RATE
    return Measurement(
        source=Source.CPU if ledger.machine.on_cpu else Source.BENCH,
        source_version=ledger.source_version,
        world="",
        engine_version=ledger.machine.engine_version,
        task=task_of(ledger, record.run.task).key,
        kind=load.kind.value,
        model=record.model,
        accelerator=ledger.machine.accelerator,
        tensor_parallel=1,
        pipeline_parallel=1,
        data_parallel=1,
        expert_parallel=False,
        method=record.method,
        seed=record.repeat,
        purpose=Purpose.SCORE if scored else Purpose.LOAD,
        offered_requests_per_second=load.size if load.kind is TrafficKind.RATE else None,
        clients=int(load.size) if load.kind is TrafficKind.CONCURRENCY else None,
        batch_requests=int(load.size) if load.kind is TrafficKind.BATCH else None,
        requests=0 if figures is None else figures.completed,
        **({} if figures is None else _figures(record, load.kind)),
    )


def _figures(record: RunRecord, kind: TrafficKind) -> dict[str, Any]:
    figures, engine = record.figures, record.engine
    assert figures is not None, "a run that completed has figures"
    names = (
        f"{metric}_{statistic}_s" for metric in ("ttft", "tpot", "e2e") for statistic in ("mean", "p50", "p95", "p99")
    )
    performance = {
        TrafficKind.CONCURRENCY: figures.output_tokens_per_second,
        TrafficKind.BATCH: 1.0 / figures.duration_s,
    }
    prompts = engine is not None and engine.prompt_tokens > 0
    return {
        "input_tokens": figures.input_tokens / figures.completed,
        "output_tokens": figures.output_tokens / figures.completed,
        "requests_per_second": figures.requests_per_second,
        "output_tokens_per_second": figures.output_tokens_per_second,
        "makespan_s": figures.duration_s,
        "cached_ratio": engine.cached_tokens / engine.prompt_tokens if engine is not None and prompts else None,
        "preemptions_per_request": None if engine is None else engine.preemptions / figures.completed,
        "performance": performance.get(kind),
        **{name: getattr(figures, name) for name in names},
    }


def write_tables(ledger: Ledger, folder: Path) -> tuple[Path, ...]:
    """Write the ledger, measurements (Parquet and CSV), tasks, runs and servers into a folder; their paths.

    Raises
    ------
    InvalidWorkloadError
        Another bench measures into that folder.
    """
    kept = ledger.copied(folder)
    latest = ledger.latest()
    table = table_of([measurement_of(ledger, record) for record in latest])
    paths = [folder / MEASUREMENTS, folder / "measurements.csv", folder / TASKS, folder / RUNS, folder / SERVERS]
    write_measurements(table, paths[0])
    units = {column.name: column.unit for column in COLUMNS}
    _write_csv(paths[1], table.to_pylist(), units)
    tasks = {measured.key: measured for record in latest for measured in [task_of(ledger, record.run.task)]}
    write_tasks(tuple(tasks.values()), paths[2])
    _write_csv(paths[3], (_flat(record.to_json()) for record in latest), {})
    _write_csv(paths[4], (_flat(server.to_json()) for server in ledger.published_servers()), {})
    return (*kept, *paths)


def _write_csv(path: Path, rows: Iterable[Mapping[str, Any]], units: Mapping[str, str]) -> None:
    """Columns are named with their unit where one is given and the name does not say it."""
    rows = list(rows)
    names: Sequence[str] = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([f"{name} [{units[name]}]" if units.get(name) else name for name in names])
        for row in rows:
            writer.writerow([_cell(row.get(name)) for name in names])


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a record as columns of their own: `figures_ttft_mean_s`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name == "record":
            continue
        if isinstance(value, Mapping):
            flat |= {f"{name}_{part}": inner for part, inner in value.items()}
        elif isinstance(value, list | tuple):
            flat[name] = " ".join(str(each) for each in value) if name == "arguments" else "; ".join(map(str, value))
        else:
            flat[name] = value
    return flat
