"""The ledger of a bench: what was asked for, and a line for each run that ended, so that a kill costs one run at most.

Separate from the records and from the running. A folder holds `bench.json` (plan and machine) and `ledger.jsonl`; a
line is written and synced when its run is over, and a torn last line, left by a kill, is dropped when it is read.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metainf.bench.design import BenchPlan, BenchTask
from metainf.bench.identity import Machine
from metainf.bench.records import Outcome, RunRecord, ServerRecord
from metainf.errors import InvalidWorkloadError

__all__ = ["MANIFEST", "Ledger", "opened", "read_ledger"]

MANIFEST = "bench.json"
_LINES = "ledger.jsonl"
_SCHEMA = 2


class Ledger:
    """The records of a folder, and the one place that adds to them."""

    def __init__(self, folder: Path, plan: BenchPlan, machine: Machine) -> None:
        self.folder = folder
        self.plan = plan
        self.machine = machine
        self.runs: list[RunRecord] = []
        self.servers: list[ServerRecord] = []
        self._read()

    @property
    def done(self) -> frozenset[str]:
        """Keys of the runs that ended, whatever their outcome."""
        return frozenset(record.run.key for record in self.runs)

    def latest(self) -> tuple[RunRecord, ...]:
        """The last record of each run, in the plan's order."""
        by_key = {record.run.key: record for record in self.runs}
        return tuple(by_key[run.key] for run in self.plan.runs if run.key in by_key)

    def failed(self) -> frozenset[str]:
        """Keys of the runs whose last record is no success."""
        return frozenset(r.run.key for r in self.latest() if r.outcome is not Outcome.COMPLETED)

    def add(self, record: RunRecord | ServerRecord) -> None:
        """Write a record, so that it is still there after a kill or a loss of power."""
        line = json.dumps(record.to_json(), sort_keys=True, allow_nan=False)
        with (self.folder / _LINES).open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        self._keep(record)

    def _keep(self, record: RunRecord | ServerRecord) -> None:
        if isinstance(record, RunRecord):
            self.runs.append(record)
        else:
            self.servers.append(record)

    def _read(self) -> None:
        path = self.folder / _LINES
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            with path.open("r+", encoding="utf-8") as lines:
                lines.truncate(len(whole.encode()))
        for line in whole.splitlines():
            values = json.loads(line)
            kind = RunRecord if values.get("record") == "run" else ServerRecord
            self._keep(kind.from_json(values))


@contextmanager
def opened(folder: Path, plan: BenchPlan, machine: Machine) -> Iterator[Ledger]:
    """The ledger of a folder, new or with what it holds, locked against another bench.

    Raises
    ------
    InvalidWorkloadError
        The folder holds another plan, was made on another machine, or another bench is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidWorkloadError(f"another bench is at work in {folder}") from error
        _claim(folder, plan, machine)
        yield Ledger(folder, plan, machine)


def read_ledger(folder: Path) -> Ledger:
    """The ledger of a folder, to be read.

    Raises
    ------
    InvalidWorkloadError
        There is none.
    """
    plan, machine = _manifest(folder)
    return Ledger(folder, plan, machine)


def _claim(folder: Path, plan: BenchPlan, machine: Machine) -> None:
    path = folder / MANIFEST
    if path.exists():
        found, there = _manifest(folder)
        if found != plan:
            raise InvalidWorkloadError(f"{folder} holds a bench of another plan: give another folder, or the same plan")
        if not there.is_like(machine):
            raise InvalidWorkloadError(
                f"{folder} holds a bench of {there.summary}, and this is {machine.summary}: give another folder"
            )
        return
    document = {"schema": _SCHEMA, "plan": asdict(plan), "machine": asdict(machine)}
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)


def _manifest(folder: Path) -> tuple[BenchPlan, Machine]:
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != _SCHEMA:
            raise InvalidWorkloadError(f"{path} is of schema {document['schema']}, not {_SCHEMA}")
        return _plan(document["plan"]), Machine.from_json(document["machine"])
    except FileNotFoundError as error:
        raise InvalidWorkloadError(f"{folder} holds no bench") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidWorkloadError):
            raise
        raise InvalidWorkloadError(f"{path} is no manifest of a bench: {error}") from error


def _plan(values: Mapping[str, Any]) -> BenchPlan:
    tasks = tuple(BenchTask(**task) for task in values["tasks"])
    lists = {name: tuple(values[name]) for name in ("methods", "server_arguments")}
    return BenchPlan(
        tasks, repeats=values["repeats"], seed=values["seed"], least_seconds=values["least_seconds"], **lists
    )
