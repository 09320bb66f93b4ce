"""The demo's screen: a table that lives at the foot of a terminal, lines that come and stay where there is none.

Separate, so that the tale says what is seen and never how it looks. Both ways show the same facts.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from e2e.demo.sights import Sight

__all__ = ["Screen"]

_COLOURS = {"True": "green", "False": "red", "Unknown": "yellow"}
_MOST_COLUMNS = 120
_PLAIN_COLUMNS = 100
_READING_S = 3.0
_TIME_COLUMNS = 9
_ROOMY_LINES = 32
"""A terminal of fewer lines holds the table only while each sentence keeps to one."""


class Screen:
    """Shows acts, lines and workloads."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        if not self.is_live and "COLUMNS" not in os.environ:
            self._console.width = _PLAIN_COLUMNS
        self._console.width = min(self._console.width, _MOST_COLUMNS)
        self._live: Live | None = None
        self._seen: dict[str, Sight] = {}
        self._started_s = time.monotonic()

    @property
    def is_live(self) -> bool:
        """Whether it is a terminal that can move its cursor, so that somebody may be looking."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_s

    def restart(self) -> None:
        """Count the seconds from now on: what was built before is not the demo's own time."""
        self._started_s = time.monotonic()

    @contextlib.contextmanager
    def act(self, title: str) -> Iterator[None]:
        """One part of the tale, with the workloads shown live; the last look stays on the screen."""
        self._console.print()
        self._console.print(Text(title, style="bold"))
        if not self.is_live:
            yield
            return
        with Live(console=self._console, refresh_per_second=8, vertical_overflow="crop") as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self._console.print(Text(text, style=style))

    def bullet(self, text: str) -> None:
        """A point of a list."""
        lines = textwrap.wrap(text, self._console.width - 2, break_on_hyphens=False)
        self._console.print(Text("- " + "\n  ".join(lines)))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Lines in columns."""
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        for row, style in ((head, "dim"), *((row, "") for row in rows)):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self._console.print(Text(line.rstrip(), style=style), soft_wrap=True)

    def step(self, text: str) -> None:
        """A line with the time that has passed."""
        indent = " " * _TIME_COLUMNS
        width = self._console.width - _TIME_COLUMNS
        lines = [line for part in text.splitlines() for line in textwrap.wrap(part, width, break_on_hyphens=False)]
        stamp = f"{self.seconds:5.1f} s".ljust(_TIME_COLUMNS)
        self._console.print(Text.assemble((stamp, "dim"), f"\n{indent}".join(lines)))

    def look(self, sights: Sequence[Sight]) -> None:
        """The workloads as they are now."""
        if self._live is not None:
            self._live.update(_table(sights, roomy=self._console.height >= _ROOMY_LINES), refresh=True)
            return
        for each in sights:
            if self._seen.get(each.name) != each and each.ready:
                self.step(_line(each, self._seen.get(each.name)))
                self._seen[each.name] = each

    def pause(self) -> None:
        """Time to read, where somebody reads."""
        if self.is_live:
            time.sleep(_READING_S)

    def commands(self, commands: Mapping[str, str]) -> None:
        """Commands, each with what it is for."""
        width = max(len(command) for command in commands) + 2
        for command, what in commands.items():
            self._console.print(Text.assemble("  ", (command.ljust(width), "bold"), (what, "dim")))


def _runs(each: Sight) -> tuple[str, str]:
    if not each.runs:
        return "nothing runs", ""
    return f"{each.replicas} x {each.method} {each.layout}", f"on {each.pool}"


def _line(each: Sight, before: Sight | None) -> str:
    """All of it where it is new; the condition alone where the rest was said before."""
    head = f"{each.name} {each.ready}/{each.reason}: "
    what, where = _runs(each)
    if before is not None and (_runs(before), before.cost, before.budget) == ((what, where), each.cost, each.budget):
        return f"{head}{each.why}"
    price = f", {each.cost}/h" if each.cost else ""
    budget = f", budget {each.budget}" if each.budget else ""
    decision = f", decision {each.decision}" if each.decision else ""
    return f"{head}{what} {where}".rstrip() + f"{price}{budget}{decision}\n{each.why}"


def _table(sights: Sequence[Sight], *, roomy: bool) -> RenderableType:
    head = _grid()
    head.add_row(*(Text(word, style="dim") for word in ("Workload", "Ready", "Runs", "Cost/h, budget")))
    parts: list[RenderableType] = [head]
    for each in sights:
        what, where = _runs(each)
        grid = _grid()
        grid.add_row(
            Text.assemble((each.name, "bold"), "\n", (each.decision, "dim")),
            Text.assemble((each.ready or "-", _COLOURS.get(each.ready, "")), "\n", each.reason),
            Text.assemble(what if each.runs else (what, "dim"), "\n", where),
            Text.assemble(each.cost or "-", "\n", (_short(each.budget), "dim")),
        )
        parts.append(grid)
        why = Text(each.why or "-", style="dim italic", no_wrap=not roomy, overflow="fold" if roomy else "ellipsis")
        parts.append(Padding(why, (0, 0, 0, 2)))
    return Group(*parts)


def _short(budget: str) -> str:
    return f"of {budget.replace('per million output tokens', '/M tokens')}" if budget else ""


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    for width in (25, 16, 31, 22):
        grid.add_column(width=width, no_wrap=True, overflow="ellipsis")
    return grid
