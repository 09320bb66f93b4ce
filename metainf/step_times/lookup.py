"""The time of a step as a table of step times gives it, in numpy and for many steps at once.

Separate from the simulator's compiled engine as its plain reference: oracles are judged by it without a simulation.
"""

import numpy as np
from numpy.typing import NDArray

from metainf.simulator.contract import StepTimes

__all__ = ["chunk_s", "decode_s", "expert_s", "padded", "step_s", "token_s"]

FloatArray = NDArray[np.float64]


def step_s(
    times: StepTimes,
    sequences: FloatArray | float,
    context_tokens: FloatArray | float,
    chunk_tokens: FloatArray | float = 0.0,
    chunk_context_tokens: FloatArray | float = 0.0,
    *,
    chunks: FloatArray | float = 1.0,
    tokens_per_sequence: float = 1.0,
    all_tokens: FloatArray | float | None = None,
) -> FloatArray:
    """Time of steps with equal sequences and equal chunks, seconds; all arguments broadcast.

    Parameters
    ----------
    sequences : decoding sequences in the step
    context_tokens : mean cached tokens of these
    chunk_tokens : new prompt tokens of each of `chunks` prompts; 0 for a step that only decodes
    chunk_context_tokens : tokens of each prompt that are in the cache already
    tokens_per_sequence : drafts to verify and one
    all_tokens : tokens of all ranks that meet at the experts; by default those of this rank
    """
    prompts = np.where(np.asarray(chunk_tokens) > 0, chunks, 0.0)
    decoding = np.asarray(sequences, dtype=np.float64)
    tokens = padded(times, decoding * tokens_per_sequence + prompts * chunk_tokens)
    total = (
        times.fixed_s
        + (decoding + prompts) * times.sequence_s
        + token_s(times, tokens)
        + expert_s(times, tokens if all_tokens is None else all_tokens)
        + np.where(decoding > 0, decode_s(times, decoding, context_tokens), 0.0)
        + times.prompt_step_s * (prompts > 0)
        + prompts * chunk_s(times, np.maximum(chunk_tokens, 1.0), chunk_context_tokens)
        + times.head_s
        + (decoding * tokens_per_sequence + prompts) * times.head_row_s
    )
    return np.asarray(total * times.scale, dtype=np.float64)


def padded(times: StepTimes, tokens: FloatArray | float) -> FloatArray:
    """Tokens rounded up to the next captured size, where there is one."""
    asked = np.asarray(tokens, dtype=np.float64)
    if len(times.graph_tokens) == 0:
        return asked
    sizes = np.append(times.graph_tokens.astype(np.float64), np.inf)
    size = sizes[np.searchsorted(sizes, asked)]
    return np.where(np.isfinite(size), size, asked)


def token_s(times: StepTimes, tokens: FloatArray | float) -> FloatArray:
    """Seconds of everything that goes with the tokens of a step alone."""
    return _line(times.tokens, times.token_s, tokens)


def expert_s(times: StepTimes, tokens: FloatArray | float) -> FloatArray:
    """Seconds of the routed experts, by the tokens of all ranks."""
    return _line(times.expert_tokens, times.expert_s, tokens)


def decode_s(times: StepTimes, sequences: FloatArray | float, context_tokens: FloatArray | float) -> FloatArray:
    """Seconds of attention of all decoding sequences."""
    return _surface(times.decode_sequences, times.decode_context_tokens, times.decode_s, sequences, context_tokens)


def chunk_s(times: StepTimes, chunk_tokens: FloatArray | float, context_tokens: FloatArray | float) -> FloatArray:
    """Seconds of attention of one prompt chunk."""
    return _surface(times.chunk_tokens, times.chunk_context_tokens, times.chunk_s, chunk_tokens, context_tokens)


def _cell(points: FloatArray, at: FloatArray | float) -> tuple[NDArray[np.intp], FloatArray]:
    """The cell that each value lies in, and how far; past the ends the share leaves 0 to 1."""
    value = np.asarray(at, dtype=np.float64)
    lower = np.clip(np.searchsorted(points, value, side="right") - 1, 0, len(points) - 2)
    return lower, (value - points[lower]) / (points[lower + 1] - points[lower])


def _line(points: FloatArray, values: FloatArray, at: FloatArray | float) -> FloatArray:
    i, share = _cell(points, at)
    return np.asarray(values[i] + share * (values[i + 1] - values[i]))


def _surface(
    rows: FloatArray, columns: FloatArray, values: FloatArray, row_at: FloatArray | float, column_at: FloatArray | float
) -> FloatArray:
    i, a = _cell(rows, row_at)
    j, b = _cell(columns, column_at)
    low = values[i, j] * (1.0 - b) + values[i, j + 1] * b
    high = values[i + 1, j] * (1.0 - b) + values[i + 1, j + 1] * b
    return np.asarray(low + a * (high - low))
