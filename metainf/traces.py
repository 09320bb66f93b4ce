"""Public traces of real traffic as requests for the simulator: when each came, how long it was, what it shared.

Separate from `corpus`, which draws traffic from distributions: a trace is replayed as it is, and the distributions are
fitted to it. The files are not part of the project; their folder is an argument.

Azure's traces (2023, CC-BY-4.0) have times and lengths. Mooncake's (Apache-2.0) have in addition an id for each block
of 512 tokens that names the block together with all before it, so that equal ids are equal prefixes.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import numpy as np

from metainf.errors import InvalidWorkloadError
from metainf.simulator.contract import Requests

__all__ = ["MOONCAKE_BLOCK_TOKENS", "TraceName", "load_trace", "read_azure", "read_mooncake", "scaled_to_rate"]

MOONCAKE_BLOCK_TOKENS = 512
"""Source: kvcache-ai/Mooncake, README of the traces: each hash id stands for 512 tokens."""

_AZURE_COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
_MOST_TOKENS = 10_000_000
_MOST_BLOCK_ID = (1 << 62) - 1


class TraceName(StrEnum):
    """The traces that are known by name, and their files in a folder of traces."""

    AZURE_CONVERSATION = "azure-conversation"
    AZURE_CODE = "azure-code"
    MOONCAKE_CONVERSATION = "mooncake-conversation"
    MOONCAKE_SYNTHETIC = "mooncake-synthetic"

    @property
    def file_name(self) -> str:
        """Its file, as its makers call it."""
        return _FILES[self]


_FILES = {
    TraceName.AZURE_CONVERSATION: "AzureLLMInferenceTrace_conv.csv",
    TraceName.AZURE_CODE: "AzureLLMInferenceTrace_code.csv",
    TraceName.MOONCAKE_CONVERSATION: "mooncake_conversation_trace.jsonl",
    TraceName.MOONCAKE_SYNTHETIC: "mooncake_synthetic_trace.jsonl",
}


def load_trace(name: TraceName, folder: Path) -> Requests:
    """The requests of a known trace, whose file lies in `folder`.

    Raises
    ------
    InvalidWorkloadError
        The file is missing, or a line of it is malformed; the message names the file and the line.
    """
    path = folder / name.file_name
    if not path.is_file():
        raise InvalidWorkloadError(f"there is no trace at {path}: give the folder that holds {name.file_name}")
    read = read_azure if path.suffix == ".csv" else read_mooncake
    return read(path)


@dataclass(frozen=True, slots=True)
class _Line:
    time_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


def read_azure(path: Path) -> Requests:
    """A trace of Azure's: the columns TIMESTAMP, ContextTokens and GeneratedTokens.

    Raises
    ------
    InvalidWorkloadError
        The header or a line is malformed; the message names the line.
    """
    return _requests(path, _azure_lines)


def read_mooncake(path: Path) -> Requests:
    """A trace of Mooncake's: JSON lines with timestamp (ms), input_length, output_length and hash_ids.

    Raises
    ------
    InvalidWorkloadError
        A line is malformed; the message names it.
    """
    return _requests(path, _mooncake_lines)


def _requests(path: Path, lines_of: Callable[[IO[str]], Iterator[tuple[int, _Line | str]]]) -> Requests:
    lines: list[_Line] = []
    with path.open(encoding="utf-8", errors="replace", newline="") as text:
        for number, line in lines_of(text):
            problem = line if isinstance(line, str) else _out_of_order(lines, line)
            if problem is not None or isinstance(line, str):
                raise InvalidWorkloadError(f"{path}, line {number}: {problem}")
            lines.append(line)
    if not lines:
        raise InvalidWorkloadError(f"{path} holds no requests")
    hashes = [block for line in lines for block in line.blocks]
    counts = [len(line.blocks) for line in lines]
    return Requests(
        arrival_s=np.array([line.time_s - lines[0].time_s for line in lines]),
        input_tokens=np.array([line.input_tokens for line in lines], dtype=np.int64),
        output_tokens=np.array([line.output_tokens for line in lines], dtype=np.int64),
        block_hashes=np.array(hashes, dtype=np.int64),
        block_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64) if hashes else np.zeros(0, np.int64),
        hash_block_tokens=MOONCAKE_BLOCK_TOKENS,
    )


def _out_of_order(before: list[_Line], line: _Line) -> str | None:
    if before and line.time_s < before[-1].time_s:
        return f"the request came {before[-1].time_s - line.time_s:g} s before the one above it"
    return None


def _azure_lines(text: IO[str]) -> Iterator[tuple[int, _Line | str]]:
    rows = csv.reader(text)
    header = next(rows, [])
    if header != _AZURE_COLUMNS:
        yield 1, f"the header must be {','.join(_AZURE_COLUMNS)}, not {','.join(header)[:80]!r}"
        return
    for row in rows:
        if row:
            yield rows.line_num, _azure_line(row)


def _azure_line(row: list[str]) -> _Line | str:
    if len(row) != len(_AZURE_COLUMNS):
        return f"{len(row)} fields instead of {len(_AZURE_COLUMNS)}"
    try:
        # Python reads six digits of a second, the trace has seven.
        whole, _, fraction = row[0].partition(".")
        time_s = (datetime.fromisoformat(whole) - datetime(1970, 1, 1)).total_seconds() + float(f"0.{fraction or 0}")
    except ValueError:
        return f"TIMESTAMP {row[0][:40]!r} is not a time such as 2023-11-16 18:17:03.9799600"
    lengths = [_whole(text) for text in row[1:]]
    for name, text, length in zip(_AZURE_COLUMNS[1:], row[1:], lengths, strict=True):
        if length is None:
            return f"{name} {text[:40]!r} is not a number of tokens from 1 to {_MOST_TOKENS}"
    return _Line(time_s, lengths[0] or 0, lengths[1] or 0)


def _whole(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    value = int(text)
    return value if 1 <= value <= _MOST_TOKENS else None


def _mooncake_lines(text: IO[str]) -> Iterator[tuple[int, _Line | str]]:
    for number, line in enumerate(text, start=1):
        if line.strip():
            yield number, _mooncake_line(line)


def _mooncake_line(line: str) -> _Line | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not valid JSON: {error}"
    if not isinstance(row, dict):
        return "not a JSON object"
    for name, low, high in (
        ("timestamp", 0, _MOST_BLOCK_ID),
        ("input_length", 1, _MOST_TOKENS),
        ("output_length", 1, _MOST_TOKENS),
    ):
        if not _is_whole(row.get(name), low, high):
            return f"{name} must be a whole number from {low} to {high}, not {row.get(name)!r:.40}"
    blocks = row.get("hash_ids")
    if not isinstance(blocks, list) or not all(_is_whole(block, 0, _MOST_BLOCK_ID) for block in blocks):
        return "hash_ids must be a list of whole numbers that are not negative"
    most = -(-row["input_length"] // MOONCAKE_BLOCK_TOKENS)
    if len(blocks) > most:
        return f"{len(blocks)} hash_ids for {row['input_length']} tokens, which are {most} blocks"
    return _Line(row["timestamp"] / 1000.0, row["input_length"], row["output_length"], tuple(blocks))


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def scaled_to_rate(requests: Requests, requests_per_second: float) -> Requests:
    """The same requests in the same order with time stretched, so that they come at this mean rate.

    Raises
    ------
    InvalidWorkloadError
        The rate is not above 0, or all requests come at once.
    """
    span_s = float(requests.arrival_s[-1] - requests.arrival_s[0])
    if not requests_per_second > 0.0 or not np.isfinite(requests_per_second):
        raise InvalidWorkloadError(f"a rate must be above 0 requests per second, not {requests_per_second:g}")
    if span_s <= 0.0:
        raise InvalidWorkloadError("all requests of the trace come at once: they have no rate that could be scaled")
    factor = (len(requests.arrival_s) - 1) / span_s / requests_per_second
    return replace(requests, arrival_s=(requests.arrival_s - requests.arrival_s[0]) * factor)
