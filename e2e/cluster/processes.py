"""Processes that outlive the command that started them, found again and ended by their process id.

Separate, because the whole of the care is here: each process is the head of a group of its own, its id is kept
in a file together with the moment it started (an id alone may since belong to a stranger), ending it means the
whole group, and ending is waited for. `os.posix_spawn` and not `subprocess`: a Popen that is dropped while its
process lives warns, and ours are meant to live on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .model import ClusterSetupError

__all__ = [
    "forget_process",
    "is_running",
    "known_processes",
    "process_id",
    "start_process",
    "stop_process",
    "tail",
    "wait_for_end",
]

POLL_S = 0.05
STOP_GRACE_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Mark:
    """A process, told apart from a later one of the same id by when it started."""

    pid: int
    started: str


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.pid.json"


def _started(pid: int) -> str | None:
    """Say when a living process started, in whatever unit the system has; None for a dead one or a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # ours may have ended long ago and still wait to be buried
    if Path("/proc/self/stat").exists():
        try:
            # The name (field 2) may hold spaces: count from the last parenthesis. State is 3, start time is 22.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in ("Z", "X") else fields[19]
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


def _read(folder: Path, name: str) -> _Mark | None:
    try:
        return _Mark(**json.loads(_file(folder, name).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def known_processes(folder: Path) -> tuple[str, ...]:
    """Name the processes that were started from this folder and not stopped, in order of their start."""
    files = sorted(folder.glob("*.pid.json"), key=lambda file: file.stat().st_mtime_ns)
    return tuple(file.name.removesuffix(".pid.json") for file in files)


def is_running(folder: Path, name: str) -> bool:
    """Tell whether the process of that name still is the one that was started, and lives."""
    mark = _read(folder, name)
    return mark is not None and _started(mark.pid) == mark.started


def process_id(folder: Path, name: str) -> int | None:
    """Give the id of the process of that name, None where none was started."""
    mark = _read(folder, name)
    return mark.pid if mark else None


def start_process(
    folder: Path, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Start a process at the head of its own session; what it prints is appended to `log`."""
    if is_running(folder, name):
        raise ClusterSetupError(f"starting {name}: it runs already; stop it first")
    folder.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        dict(os.environ if environment is None else environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    mark = _Mark(pid, _started(pid) or "ended at once")
    _file(folder, name).write_text(json.dumps(dataclasses.asdict(mark)))


def stop_process(folder: Path, name: str, grace_s: float = STOP_GRACE_S) -> None:
    """End a process and its group, and wait for it: politely, then for certain; nothing to end is fine."""
    mark = _read(folder, name)
    for signal_number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        if mark is None or not is_running(folder, name):
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(mark.pid, signal_number)
        until_s = time.monotonic() + wait_s
        while is_running(folder, name) and time.monotonic() < until_s:
            time.sleep(POLL_S)
    if is_running(folder, name):
        raise ClusterSetupError(f"stopping {name}: it does not end; look at process {mark.pid if mark else '?'}")
    _file(folder, name).unlink(missing_ok=True)


def forget_process(folder: Path, name: str) -> None:
    """Keep the process and drop its file, so that nobody stops it by that name any more."""
    _file(folder, name).unlink(missing_ok=True)


def wait_for_end(pid: int, interval_s: float = 1.0) -> None:
    """Return when a process, which may be a stranger's, has ended."""
    mark = _started(pid)
    while mark is not None and _started(pid) == mark:
        time.sleep(interval_s)


def tail(log: Path, lines: int = 15) -> str:
    """Give the last lines of a log, for the message of an error."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
