"""The time of one step from its tables, compiled: linear interpolation that goes on along the last slope.

Separate so that it can be tested against numpy's interpolation, and because nothing else needs the tables.
"""

# mypy: disable-error-code="no-any-return"
# Records and arrays of compiled code have no types that mypy knows.

from typing import Any, NamedTuple

import numpy as np

from metainf.simulator.compiling import compiled, compiled_apart
from metainf.simulator.contract import StepTimes

__all__ = [
    "Tables",
    "at_pair",
    "at_point",
    "chunk_s",
    "fixed_part_s",
    "lower_point",
    "padded_tokens",
    "rank_step_s",
    "tables_of",
]


class Tables(NamedTuple):
    """`StepTimes` as compiled code takes it."""

    tokens: Any
    token_s: Any
    decode_sequences: Any
    decode_context_tokens: Any
    decode_s: Any
    chunk_tokens: Any
    chunk_context_tokens: Any
    chunk_s: Any
    expert_tokens: Any
    expert_s: Any
    graph_tokens: Any
    fixed_s: float
    sequence_s: float
    prompt_step_s: float
    head_s: float
    head_row_s: float
    scale: float


def tables_of(steps: StepTimes) -> Tables:
    """The tables in one layout, whatever they came in."""

    def floats(values: Any) -> Any:
        return np.ascontiguousarray(values, dtype=np.float64)

    return Tables(
        floats(steps.tokens),
        floats(steps.token_s),
        floats(steps.decode_sequences),
        floats(steps.decode_context_tokens),
        floats(steps.decode_s),
        floats(steps.chunk_tokens),
        floats(steps.chunk_context_tokens),
        floats(steps.chunk_s),
        floats(steps.expert_tokens),
        floats(steps.expert_s),
        np.ascontiguousarray(steps.graph_tokens, dtype=np.int64),
        float(steps.fixed_s),
        float(steps.sequence_s),
        float(steps.prompt_step_s),
        float(steps.head_s),
        float(steps.head_row_s),
        float(steps.scale),
    )


@compiled
def lower_point(points: Any, value: float) -> int:
    """Index of the point at or below `value` that has another one after it."""
    low, high = 0, len(points) - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if points[middle] <= value:
            low = middle
        else:
            high = middle
    return low


@compiled
def at_point(points: Any, values: Any, value: float) -> float:
    """A table of one dimension; before its first point its first value holds."""
    if len(points) == 1 or value <= points[0]:
        return values[0]
    i = lower_point(points, value)
    share = (value - points[i]) / (points[i + 1] - points[i])
    return values[i] + share * (values[i + 1] - values[i])


@compiled_apart
def at_pair(rows: Any, columns: Any, values: Any, row: float, column: float) -> float:
    """A table of two dimensions."""
    if len(rows) == 1 or row <= rows[0]:
        return at_point(columns, values[0], column)
    i = lower_point(rows, row)
    share = (row - rows[i]) / (rows[i + 1] - rows[i])
    low = at_point(columns, values[i], column)
    high = at_point(columns, values[i + 1], column)
    return low + share * (high - low)


@compiled
def padded_tokens(graph_tokens: Any, tokens: int) -> int:
    """Tokens that a step of `tokens` computes: those of the next captured graph, if there is one."""
    low, high = 0, len(graph_tokens)
    while low < high:
        middle = (low + high) >> 1
        if graph_tokens[middle] < tokens:
            low = middle + 1
        else:
            high = middle
    return tokens if low == len(graph_tokens) else graph_tokens[low]


@compiled
def chunk_s(tables: Any, tokens: int, context: int) -> float:
    """Attention of one prompt's `tokens` new tokens after `context` cached ones."""
    return at_pair(tables.chunk_tokens, tables.chunk_context_tokens, tables.chunk_s, float(tokens), float(context))


@compiled
def fixed_part_s(tables: Any, tokens: int, sequences: int, rows: int, chunks_s: float) -> float:
    """Time of one rank's step without its experts and without attention of decoding sequences."""
    padded = padded_tokens(tables.graph_tokens, max(tokens, 1))
    time_s = tables.fixed_s + tables.head_s + at_point(tables.tokens, tables.token_s, float(padded))
    return time_s + (sequences * tables.sequence_s + rows * tables.head_row_s + chunks_s)


@compiled
def rank_step_s(tables: Any, load: Any) -> float:
    """Time of one rank's step without its experts, before `scale`; a rank without work passes one dummy token."""
    time_s = fixed_part_s(tables, load.tokens, load.sequences, load.rows, load.chunk_s)
    if load.sequences > load.decodes:
        time_s += tables.prompt_step_s
    if load.decodes > 0:
        context = load.context / load.decodes
        sequences = float(load.decodes)
        time_s += at_pair(tables.decode_sequences, tables.decode_context_tokens, tables.decode_s, sequences, context)
    return time_s
