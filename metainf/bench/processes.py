"""Processes of the engine's interpreter: started apart from our terminal, and ended with all their children.

Separate as the one door to the operating system's processes. Each is a session of its own, so that Ctrl-C reaches us
alone and we end them in order; `programs/tied.py` sees to it that they end even where we are killed.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from metainf import __version__
from metainf.errors import MetaInfError

__all__ = [
    "PROGRAMS",
    "EngineError",
    "answer_of",
    "code_version",
    "environment",
    "free_port",
    "pause",
    "resume",
    "start",
    "stop",
]

PROGRAMS = Path(__file__).parent / "programs"
_CHECKOUT = Path(__file__).parents[2]
_GRACE_S = 20.0
_GIT_S = 10.0
_PROCESSES = Path("/proc")


class EngineError(MetaInfError):
    """The engine's interpreter, a server or the load generator did not do what it must."""


def environment() -> dict[str, str]:
    """Ours, with what every process of the engine gets.

    No hub is asked and nothing is reported; development mode gives the endpoints that clear the prefix cache and say
    the configuration; a fixed hash seed makes the prompts of a trace the same in every process.
    """
    settings = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
    }
    return {**os.environ, **settings}


def start(command: Sequence[str], *, log: Path, piped: bool = False) -> "subprocess.Popen[str]":
    """Start a command in a session of its own, its output in the log; `piped` keeps standard input and output ours."""
    with log.open("a", encoding="utf-8") as out:
        pipe: int | IO[Any] = subprocess.PIPE if piped else out
        return subprocess.Popen(
            [sys.executable, str(PROGRAMS / "tied.py"), str(os.getpid()), *command],
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=pipe,
            stderr=out if piped else subprocess.STDOUT,
            env=environment(),
            text=True,
            start_new_session=True,
        )


def pause(process: "subprocess.Popen[str]") -> None:
    """Stop the command and its children until `resume`; where there is no /proc nothing happens.

    `tied.py`, which leads their session, runs on: it has to see our end.
    """
    for pid in _members(process.pid):
        if pid != process.pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)


def resume(process: "subprocess.Popen[str]") -> None:
    """Let the command and its children run on; those that do are not disturbed."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGCONT)


def _members(session: int) -> tuple[int, ...]:
    """Processes of a session."""
    found = []
    for stat in _PROCESSES.glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # Source: proc_pid_stat(5): state, ppid, pgrp and session follow the name, which may hold anything.
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session:
                found.append(int(stat.parent.name))
    return tuple(found)


def stop(process: "subprocess.Popen[str]", *, grace_s: float = _GRACE_S) -> None:
    """End the process and its children: asked first, then killed."""
    resume(process)
    process.terminate()  # `tied.py` passes it on
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=grace_s)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def answer_of(python: str, program: str, arguments: Sequence[str], *, most_s: float) -> str:
    """The last line that a program of ours prints in the engine's interpreter.

    Raises
    ------
    EngineError
        There is no such interpreter, or the program failed; the message has its last words.
    """
    command = [python, str(PROGRAMS / program), *arguments]
    try:
        done = subprocess.run(
            command,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=most_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"running {program} with {python}: {error}") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EngineError(f"running {program} with {python}: exit code {done.returncode}: {last[:400]}")
    return lines[-1]


def code_version(checkout: Path = _CHECKOUT) -> str:
    """What of metainf runs: its commit, `-dirty` where files differ from it; its version where it is no checkout."""
    version = f"version {__version__}"
    if not (checkout / ".git").exists():  # of a repository that metainf is only installed in, the commit says nothing
        return version
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return version
    commit = done.stdout.strip()
    return f"commit {commit}" if not done.returncode and commit else version


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
