"""The ledger of a bench: what was asked for, and a line for each run that ended, so that a kill costs one run at most.

Separate from the records and from the running. A folder holds `bench.json` (plan, machine, what measured) and
`ledger.jsonl`; a line is written and synced when its run is over, and a torn last line, left by a kill, is not read,
and dropped when the bench goes on. These two are what is kept: tables and pictures are made from them.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from metainf.bench.design import BenchPlan, BenchTask
from metainf.bench.identity import Machine
from metainf.bench.records import Outcome, RunRecord, ServerRecord
from metainf.errors import InvalidWorkloadError

__all__ = ["NOT_RECORDED", "Ledger", "opened", "read_ledger"]

_MANIFEST = "bench.json"
_LINES = "ledger.jsonl"
_LOCK = ".lock"
_SCHEMA = 2
NOT_RECORDED = "a version that is not recorded"
"""Stands for who measured where a folder does not say it."""


class Ledger:
    """The records of a folder, and the one place that adds to them.

    `measured_by` are the versions of metainf that measured into it, the first one first: commits where they are known.
    """

    def __init__(self, folder: Path, plan: BenchPlan, machine: Machine, measured_by: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.plan = plan
        self.machine = machine
        self.measured_by = measured_by
        self.runs: list[RunRecord] = []
        self.servers: list[ServerRecord] = []
        self._read()

    @property
    def source_version(self) -> str:
        """What of metainf measured, in words."""
        return ", then ".join(self.measured_by) or NOT_RECORDED

    @property
    def done(self) -> frozenset[str]:
        """Keys of the runs that ended, whatever their outcome."""
        return frozenset(record.run.key for record in self.runs)

    def latest(self) -> tuple[RunRecord, ...]:
        """The last record of each run, in the plan's order."""
        by_key = {record.run.key: record for record in self.runs}
        return tuple(by_key[run.key] for run in self.plan.runs if run.key in by_key)

    def published_servers(self) -> tuple[ServerRecord, ...]:
        """The starts of servers, with arguments as a copy of the ledger has them."""
        return tuple(self._published(server) for server in self.servers)

    def _published(self, server: ServerRecord) -> ServerRecord:
        here = f"{self.folder.resolve()}/"
        return replace(server, arguments=tuple(each.removeprefix(here) for each in server.arguments))

    def failed(self) -> frozenset[str]:
        """Keys of the runs whose last record is no success."""
        return frozenset(r.run.key for r in self.latest() if r.outcome is not Outcome.COMPLETED)

    def add(self, record: RunRecord | ServerRecord) -> None:
        """Write a record, so that it is still there after a kill or a loss of power."""
        with (self.folder / _LINES).open("a", encoding="utf-8") as lines:
            lines.write(_line(record))
            lines.flush()
            os.fsync(lines.fileno())
        self._keep(record)

    def _keep(self, record: RunRecord | ServerRecord) -> None:
        if isinstance(record, RunRecord):
            self.runs.append(record)
        else:
            self.servers.append(record)

    def copied(self, folder: Path) -> tuple[Path, ...]:
        """Plan, machine and records in a folder, this or another, from which all can be drawn again; their paths.

        Files within this folder go by their names in it there: what is published says nothing of where it was made.

        Raises
        ------
        InvalidWorkloadError
            Another bench measures into that folder.
        """
        manifest, lines = folder / _MANIFEST, folder / _LINES
        if folder.resolve() != self.folder.resolve():
            if (folder / _LOCK).exists():
                raise InvalidWorkloadError(f"{folder} is where another bench measures: give another folder")
            folder.mkdir(parents=True, exist_ok=True)
            _write_manifest(manifest, self.plan, self.machine, self.measured_by)
            records = (self._published(r) if isinstance(r, ServerRecord) else r for r in self._written())
            lines.write_text("".join(map(_line, records)), encoding="utf-8")
        return tuple(path for path in (manifest, lines) if path.exists())

    def _read(self) -> None:
        for record in self._written():
            self._keep(record)

    def _written(self) -> Iterator[RunRecord | ServerRecord]:
        """The records in the order in which they were written."""
        for line in _whole_lines(self.folder / _LINES).splitlines():
            values = json.loads(line)
            kind = RunRecord if values.get("record") == "run" else ServerRecord
            yield kind.from_json(values)


def _line(record: RunRecord | ServerRecord) -> str:
    return json.dumps(record.to_json(), sort_keys=True, allow_nan=False) + "\n"


def _whole_lines(path: Path) -> str:
    """What is written, without a torn last line; nothing where there is no file."""
    if not path.exists():
        return ""
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1]


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        os.truncate(path, len(_whole_lines(path).encode()))


@contextmanager
def opened(folder: Path, plan: BenchPlan, machine: Machine, code: str = "") -> Iterator[Ledger]:
    """The ledger of a folder, new or with what it holds, locked against another bench.

    `code` is what of metainf measures now, as `processes.code_version` says; it is written down where it is given.

    Raises
    ------
    InvalidWorkloadError
        The folder holds another plan, was made on another machine, or another bench is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidWorkloadError(f"another bench is at work in {folder}") from error
        measured_by = _claim(folder, plan, machine, code)
        _drop_torn_line(folder / _LINES)
        yield Ledger(folder, plan, machine, measured_by)


def read_ledger(folder: Path, *, code: str = "") -> Ledger:
    """The ledger of a folder, to be read; `code` is what measured it, where the folder does not say.

    Raises
    ------
    InvalidWorkloadError
        There is none, or it says that something else measured it.
    """
    plan, machine, measured_by = _manifest(folder)
    if code and measured_by not in ((), (code,)):
        raise InvalidWorkloadError(f"{folder} was measured by {', '.join(measured_by)}, not by {code}")
    return Ledger(folder, plan, machine, measured_by or ((code,) if code else ()))


def _claim(folder: Path, plan: BenchPlan, machine: Machine, code: str) -> tuple[str, ...]:
    """Write down what is to be measured, on what and by what, or check it; what measured here, this included."""
    path = folder / _MANIFEST
    if path.exists():
        found, there, measured_by = _manifest(folder)
        if found != plan:
            raise InvalidWorkloadError(f"{folder} holds a bench of another plan: give another folder, or the same plan")
        if not there.is_like(machine):
            raise InvalidWorkloadError(
                f"{folder} holds a bench of {there.summary}, and this is {machine.summary}: give another folder"
            )
        if not code or code in measured_by:
            return measured_by
        before = measured_by or ((NOT_RECORDED,) if _whole_lines(folder / _LINES) else ())
        _write_manifest(path, plan, there, (*before, code))
        return (*before, code)
    now = (code,) if code else ()
    _write_manifest(path, plan, machine, now)
    return now


def _write_manifest(path: Path, plan: BenchPlan, machine: Machine, measured_by: Sequence[str]) -> None:
    document = {"schema": _SCHEMA, "plan": asdict(plan), "machine": asdict(machine), "measured_by": list(measured_by)}
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)


def _manifest(folder: Path) -> tuple[BenchPlan, Machine, tuple[str, ...]]:
    """Plan, machine, and what measured; of benches that did not write the last down, nothing."""
    path = folder / _MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != _SCHEMA:
            raise InvalidWorkloadError(f"{path} is of schema {document['schema']}, not {_SCHEMA}")
        measured_by = tuple(str(each) for each in document.get("measured_by", ()))
        return _plan(document["plan"]), Machine.from_json(document["machine"]), measured_by
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
