"""How measured step times lie around the roofline: the numbers that hidden worlds are drawn from.

Separate from the worlds so that `benchmarks/step_time_ratios.py` can refit them. Every number here is an output of that
benchmark (--every 3) unless its comment says otherwise: 564 tables of 9 devices (vLLM 0.14.0 on A100, 0.24.0 on the
others) and about 60 shapes of models, aiconfigurator-core 0.12.0.
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

DENSE = Ratio("dense", _TOKENS, (-0.04, 0.00, 0.06, -0.16, -0.18), (0.20, 0.14), (0.16, 0.12), (0.19, 0.16))
MIXTURE = Ratio("mixture", _TOKENS, (-0.65, -0.66, -0.82, -1.17, -1.32), (0.12, 0.06), (0.37, 0.21), (0.26, 0.12))
"""The same beside experts, whose collectives the tables count with them."""
EXPERT = Ratio("expert", _TOKENS, (0.70, 0.42, 0.66, 0.96, 0.98), (0.32, 0.33), (0.86, 0.42), (0.45, 0.20))
DECODE = Ratio("decode", _READS, (2.32, 0.68, -0.07, -0.09), (0.20, 0.19), (0.31, 0.31), (0.29, 0.29))
CHUNK = Ratio("chunk", _PAIRS, (3.78, 2.41, 1.08, 0.18), (0.83, 0.66), (0.64, 0.32), (0.43, 0.21))

LAUNCH_LAYER_S = 14.7e-6
"""Launch of the attention of prompts, per layer: median over the tables."""
LAUNCH_LOG_SD = 0.81

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
