"""How measured step times lie around the roofline: the numbers that hidden worlds are drawn from.

Separate from the worlds so that `benchmarks/step_time_ratios.py` can refit them. Every number here is an output of that
benchmark (--every 3) unless its comment says otherwise: 563 tables of 9 devices (vLLM 0.14.0 on A100, 0.24.0 on the
others) and about 60 shapes of models, aiconfigurator-core 0.12.0.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACCEPTANCE_OFFSET_SD",
    "CHUNK",
    "DECODE",
    "DENSE",
    "DIGEST",
    "DRAFT_LOG_SD",
    "EXPERT",
    "HOST_LOG_SD",
    "INTERACTIVITY_LOG_SD",
    "KV_LOG_SD",
    "LAUNCH_LAYER_S",
    "LAUNCH_LOG_SD",
    "MIXTURE",
    "NARROWED",
    "RUN_LOG_SD",
    "WAITING_LOG_SD",
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

    def narrowed(self, mean_log: tuple[float, ...], *log_sds: tuple[float, float]) -> "Ratio":
        """Of the same operation, what a narrower format changes; standard deviations in the order of the fields."""
        return Ratio(f"{self.name} in FP8", self.nodes, mean_log, *log_sds)


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
MIXTURE = Ratio("mixture", _TOKENS, (-0.65, -0.66, -0.82, -1.18, -1.32), (0.13, 0.06), (0.37, 0.21), (0.27, 0.12))
"""The same beside experts, whose collectives the tables count with them."""
EXPERT = Ratio("expert", _TOKENS, (0.69, 0.33, 0.58, 0.88, 0.90), (0.34, 0.33), (0.32, 0.21), (0.33, 0.15))
DECODE = Ratio("decode", _READS, (2.31, 0.68, -0.07, -0.09), (0.19, 0.19), (0.31, 0.30), (0.29, 0.29))
CHUNK = Ratio("chunk", _PAIRS, (3.77, 2.41, 1.07, 0.18), (0.83, 0.66), (0.64, 0.32), (0.43, 0.21))

NARROWED: Mapping[str, Ratio] = {
    ratio.name: ratio.narrowed(*change)
    for ratio, change in (
        (DENSE, ((0.37, 0.08, 0.07, 0.03, -0.03), (0.12, 0.11), (0.13, 0.08), (0.05, 0.04))),
        (MIXTURE, ((0.38, 0.07, 0.11, 0.17, 0.14), (0.12, 0.11), (0.08, 0.07), (0.04, 0.02))),
        (EXPERT, ((0.05, -0.02, -0.08, -0.10, -0.17), (0.15, 0.04), (0.14, 0.13), (0.14, 0.14))),
        (DECODE, ((0.09, 0.09, 0.01, -0.03), (0.24, 0.11), (0.20, 0.21), (0.07, 0.10))),
        (CHUNK, ((0.84, 0.31, 0.18, 0.06), (0.48, 0.43), (0.19, 0.20), (0.02, 0.03))),
    )
}
"""By operation, what weights or a cache in FP8 in place of the checkpoint's format add to the logarithm.

Source: --formats of the benchmark over a store of 3,100 tables: 225 pairs for dense models, 223 to 227 for caches, of
the 8 devices that have FP8; experts by 110 pairs of rows of the kernels that serve dynamic scales, on H200, B200 and
L40S. What mixtures have beside experts by 75 pairs of an earlier store, whose experts nobody asks about now, less what
the constant for quantising while loading takes of it (0.03).
"""

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

DRAFT_LOG_SD = 0.2
"""Of what drafting costs, among models and kinds of drafters.

Assumed. Two drafts of EAGLE add 25 % to a step of an 8B model on one H100, four add 41 %: accepted lengths of 1.89 and
2.08 (Llama 3, vllm-project/vllm#16035) over speed-ups of 1.51 and 1.48 (Llama 3.1, #16937). `metainf.speculation` has
21 and 42 %.
"""

ACCEPTANCE_OFFSET_SD = 0.25
"""Of the logit of drafts' acceptance, among models and kinds of drafters.

Assumed. The EAGLE head of Llama 3 8B has 0.54 to 0.57 (lengths as above, MT-Bench), that of Qwen3 8B 0.63 (2.30 tokens
a step at 2k, if with three drafts, vllm-project/speculators#684), others 0.62 (`metainf.speculation`): 0.2 in logits.
Nothing of the kind is known of other drafters.
"""

WAITING_LOG_SD = 0.25
"""Of the host work that synchronous scheduling waits for, among devices.

Assumed: it costs 10 to 16 % of the throughput (vLLM blog 2026-02-01; GPUStack Performance Lab), 1.6 times apart, which
is one standard deviation to either side.
"""

INTERACTIVITY_LOG_SD = 0.5
"""Of the logarithm of what interactivity saves of a small step, among devices: assumed; it was measured on one."""

KV_LOG_SD = 0.04
"""Of the size of the KV cache over what the memory plan leaves it, among devices and layouts; cut at two of it.

Assumed. Activations, graphs and the runtime take 2 to 6 GiB of an 80 GiB device and are known to a third of that, which
is some per cent of what is left. That such plans err is known (aiconfigurator's README: the memory model needs to be
studied more; ai-dynamo/aiconfigurator#1396: 96 sequences predicted, 29 admitted).
"""

_METHODS = (DRAFT_LOG_SD, ACCEPTANCE_OFFSET_SD, WAITING_LOG_SD, INTERACTIVITY_LOG_SD, KV_LOG_SD)
_ALL = (
    *map(astuple, (DENSE, MIXTURE, EXPERT, DECODE, CHUNK)),
    *(LAUNCH_LAYER_S, LAUNCH_LOG_SD, HOST_LOG_SD, RUN_LOG_SD),
    *(astuple(change) for change in NARROWED.values()),
    *_METHODS,
)
DIGEST = hashlib.sha256(repr(_ALL).encode()).hexdigest()[:12]
"""Of all numbers above."""
