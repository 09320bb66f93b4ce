"""One line that says what goes on and for how long: moving on a terminal, every 15 s where output is a log.

Separate, because a build of eight silent minutes looks like a hang, and a log does not want a moving line.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from rich.console import Console

__all__ = ["Progress", "Task", "elapsed"]

PLAIN_INTERVAL_S = 15.0


def elapsed(seconds: float) -> str:
    """Write a duration as people say it: 42s, 3m07s."""
    whole = int(seconds)
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60:02d}s"


class Task:
    """What goes on now: a name, a note that changes, and since when."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started_s = time.monotonic()
        self._note = ""

    def note(self, text: str) -> None:
        """Say what the task is at."""
        self._note = text

    def line(self) -> str:
        """Give the task as one line."""
        note = f" ({self._note})" if self._note else ""
        return f"{self.name}: {elapsed(time.monotonic() - self.started_s)}{note}"


class Progress:
    """Writes to standard error, so that what a command answers stays clean on standard output."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Write a line of its own."""
        self._console.print(text, markup=False)

    @contextlib.contextmanager
    def task(self, name: str) -> Iterator[Task]:
        """Show a task for as long as the `with` takes, and a last line with its time."""
        task = Task(name)
        over = threading.Event()
        shown = threading.Thread(target=self._show, args=(task, over), daemon=True)
        shown.start()
        try:
            yield task
        except BaseException:
            over.set()
            shown.join()
            raise
        over.set()
        shown.join()
        self.say(f"{name}: done in {elapsed(time.monotonic() - task.started_s)}")

    def _show(self, task: Task, over: threading.Event) -> None:
        if not self._console.is_terminal:
            while not over.wait(PLAIN_INTERVAL_S):
                self.say(task.line())
            return
        with self._console.status("") as status:
            while not over.wait(0.25):
                status.update(task.line().replace("[", r"\["))
