"""How measured step times lie around the roofline: the numbers that hidden worlds are drawn from.

Separate from the worlds so that `benchmarks/step_time_ratios.py` can refit them. Every number here is an output of that
benchmark unless its comment says otherwise: 740 tables of 9 devices (vLLM 0.14.0 on A100, 0.24.0 on the others) and
about 50 shapes of models in aiconfigurator-core 0.12.0. A100, B200, B300 and GB200 by nearly all of their deployments,
the others by a quarter of them or less.
"""

import hashlib
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHUNK",
    "DECODE",
    "DENSE",
    "DIGEST",
    "EXPERT",
    "HOST_LOG_SD",
    "LAUNCH_LAYER_S",
    "LAUNCH_LOG_SD",
    "MIXTURE",
    "RUN_LOG_SD",
    "Ratio",
    "decode_size",
    "pair_size",
]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Logarithm of measured time over the roofline's, under the constants that all generations share.

    Nodes are sizes of the work; between them factors go along the logarithm of the size, beyond them they stay.
    Standard deviations are pairs: of what all sizes share, and of each node's own.
    """

    name: str
    nodes: tuple[float, ...]
    mean_log: tuple[float, ...]
    device_log_sd: tuple[float, float]
    model_log_sd: tuple[float, float]
    """Of a model on a device, beside the device's own."""
    layout_log_sd: tuple[float, float]
    """Of a layout of that."""


def decode_size(sequences: FloatArray, context_tokens: FloatArray) -> FloatArray:
    """Cached tokens that a decoding step reads."""
    return np.asarray(sequences * context_tokens)


def pair_size(tokens: FloatArray, context_tokens: FloatArray) -> FloatArray:
    """Pairs of tokens that a prompt chunk's attention meets."""
    return np.asarray(tokens * (context_tokens + tokens / 2.0))


_TOKENS = (1.0, 16.0, 128.0, 1024.0, 8192.0)
_READS = (1024.0, 8192.0, 65536.0, 524288.0)
_PAIRS = (8192.0, 131072.0, 2097152.0, 33554432.0)

DENSE = Ratio("dense", _TOKENS, (-0.01, 0.03, 0.09, -0.13, -0.16), (0.19, 0.15), (0.21, 0.16), (0.10, 0.12))
MIXTURE = Ratio("mixture", _TOKENS, (-0.70, -0.73, -0.96, -1.40, -1.56), (0.24, 0.08), (0.20, 0.11), (0.29, 0.11))
"""The same beside experts, whose collectives the tables count with them."""
EXPERT = Ratio("expert", _TOKENS, (0.76, 0.41, 0.70, 1.01, 0.95), (0.36, 0.32), (0.45, 0.23), (0.68, 0.31))
DECODE = Ratio("decode", _READS, (2.36, 0.67, -0.17, -0.16), (0.20, 0.21), (0.30, 0.28), (0.36, 0.34))
CHUNK = Ratio("chunk", _PAIRS, (3.55, 2.19, 0.85, 0.06), (0.85, 0.73), (0.41, 0.22), (0.45, 0.21))

LAUNCH_LAYER_S = 8.6e-6
"""Launch of the attention of prompts, per layer: median over the tables."""
LAUNCH_LOG_SD = 0.75

HOST_LOG_SD = 0.35
"""Of each host cost, from machine to machine.

Assumed: TTFT of one deployment moves by 1.11x between versions of vLLM and TPOT by 1.06x in the median, which is the
host's doing for small models, and processors of servers differ by about 1.5x in single-thread speed.
"""

RUN_LOG_SD = (0.02, 0.04)
"""Of the device's and of the host's time, from run to run.

Source: repeats of one deployment under one vLLM version in silicon_sample.csv of aiconfigurator-core 0.12.0 spread by
3.8 % in TTFT (median), which a standard deviation of 4 % gives between two runs; TPOT by half of that.
"""

_ALL = (*map(astuple, (DENSE, MIXTURE, EXPERT, DECODE, CHUNK)), LAUNCH_LAYER_S, LAUNCH_LOG_SD, HOST_LOG_SD, RUN_LOG_SD)
DIGEST = hashlib.sha256(repr(_ALL).encode()).hexdigest()[:12]
"""Of all numbers above."""
