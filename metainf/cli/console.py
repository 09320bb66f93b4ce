"""How `metainf` and `kubectl metainf` print: tables by rich, colour on a terminal, plain lines elsewhere.

Separate from the subcommands, which only say what stands in a row. Texts come from manifests and clusters, and so from
others: what a terminal would take for a command is made harmless here.
"""

import io
import math
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from metainf.manifests import format_duration

__all__ = [
    "Row",
    "date",
    "duration",
    "indented",
    "is_terminal",
    "labelled",
    "note",
    "number",
    "printable",
    "show",
    "table",
]

_PLAIN_WIDTH = 1000  # wide enough for every row to be one line, so that grep and awk can work on it
_WIDEST = 120  # lines longer than this are hard to read, however wide the terminal is

Row = Sequence[str | Text]


def show(parts: Iterable[RenderableType], stream: TextIO | None = None) -> None:
    """Print the parts one under the other."""
    stream = sys.stdout if stream is None else stream
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if is_terminal(stream):
        width = min(console.width, _WIDEST)
        Console(file=stream, highlight=False, markup=False, emoji=False, width=width).print(Group(*parts))
        return
    buffer = io.StringIO()
    plain = Console(
        file=buffer, highlight=False, markup=False, emoji=False, width=_PLAIN_WIDTH, color_system=None, no_color=True
    )
    plain.print(Group(*parts))
    stream.writelines(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads what is printed there, and bars and colours are of use."""
    return Console(file=stream).is_terminal


def note(text: str) -> None:
    """Say something beside the answer, on standard error."""
    print(f"metainf: {' '.join(printable(text).split())}", file=sys.stderr)


def printable(text: str) -> str:
    """The text without what moves a terminal's cursor or colours it; line breaks become blanks."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def table(columns: Sequence[str], rows: Iterable[Row], *, right: Sequence[str] = (), fold: Sequence[str] = ()) -> Table:
    """A table without lines; `right` columns are aligned to the right, `fold` columns may wrap."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=name not in fold, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    return made


def labelled(label: str, text: str | Text, style: str = "bold") -> Table:
    """A line that starts with a word of its own column."""
    made = Table.grid(padding=(0, 1))
    made.add_column(width=9, no_wrap=True)
    made.add_column()
    made.add_row(Text(label, style), text if isinstance(text, Text) else Text(printable(text)))
    return made


def indented(part: RenderableType) -> Padding:
    """The part, a little to the right."""
    return Padding(part, (0, 0, 0, 2))


def duration(seconds: float) -> str:
    """Seconds to three digits, as a manifest writes them."""
    return format_duration(float(f"{seconds:.3g}")) if math.isfinite(seconds) else "unbounded"


def number(value: Decimal) -> str:
    """A figure to four digits, never with an exponent."""
    return f"{Decimal(f'{value:.4g}').normalize():f}"


def date(at: datetime | None) -> str:
    """A time as the tables show it, in UTC; empty where it is not known."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"
