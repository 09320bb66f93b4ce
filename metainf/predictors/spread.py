"""How far truth lies from the analytical predictions: what the intervals are made of.

Separate because these numbers are measured on other people's servers (`benchmarks/calibrate_analytical.py`), while
the predictions come from first principles.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.accelerators import Vendor
from metainf.architecture import ModelArchitecture
from metainf.efficiencies import EARLY_GENERATIONS, MEASURED_GENERATIONS
from metainf.layers import MixerKind
from metainf.predictors.contract import FloatArray, ReplicaSpec
from metainf.settings import SpeculationKind

__all__ = [
    "BASE_LOG_SD",
    "MOST_LOG_SD",
    "SPECULATION_LOG_SD",
    "SPREAD_CONSTANTS",
    "Spread",
    "delivered_log_sd",
    "near_capacity",
    "replica_penalty",
    "spread",
]

BoolArray = NDArray[np.bool_]

_TTFT, _TPOT, _THROUGHPUT = BASE_LOG_SD = (0.45, 0.24, 0.40)
"""Source: benchmarks/calibrate_analytical.py. The spreads at which 90 % intervals hold 90 % of the truth, groups
weighing the same, are 0.36 and 0.19 for TTFT and TPOT with a generation left out and 0.39, 0.20 and 0.34 (throughput)
with a maker's models left out; rounded up for versions and servers that are not among the rows.
"""
_E2E = 0.27  # TPOT's, and the part of TTFT that shows in it
_TAIL = np.array([1.0, 1.0, 1.15, 1.3])
"""Percentiles are approximations of their own (mean, p50, p95, p99). Assumed: the sets above state means alone."""
_UNMEASURED = 0.20
"""Assumed on top where no accelerator of the generation was measured; those above left out were not worse."""
_EARLY = 0.60
"""Reaches from the middle to either side: half of the logarithm between the ports of 2024 and what is shared."""
_CPU = 0.50
SPECULATION_LOG_SD = 0.25
"""Acceptance depends on the text, which nobody declares: 2.0 to 3.3 tokens for one drafter (vLLM blog 2026-05-26)."""
_RECURRENT = 0.20  # no model with recurrent layers is among the measurements
_WIDE = 0.10  # pipelines and replicas over more than one node are not among them either
MOST_LOG_SD = 3.0
_OFFERED_LOG_SD = 0.01

SPREAD_CONSTANTS = (
    *BASE_LOG_SD,
    _E2E,
    *_TAIL.tolist(),
    *(_UNMEASURED, _EARLY, _CPU, SPECULATION_LOG_SD, _RECURRENT, _WIDE, MOST_LOG_SD, _OFFERED_LOG_SD),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviations of log(truth / prediction)."""

    latency_log_sd: FloatArray
    throughput_log_sd: FloatArray
    capacity_log_sd: FloatArray
    out_of_distribution: BoolArray


def replica_penalty(replica: ReplicaSpec) -> tuple[float, bool]:
    """Extra log standard deviation of what no measurement covers, and whether the replica is outside of them."""
    penalty, outside = 0.0, False
    accelerator, layout = replica.accelerator, replica.layout
    if accelerator.vendor is Vendor.CPU:
        penalty, outside = np.hypot(penalty, _CPU), True
    elif accelerator.generation in EARLY_GENERATIONS:
        penalty, outside = np.hypot(penalty, _EARLY), True
    elif accelerator.generation not in MEASURED_GENERATIONS or accelerator.partition is not None:
        penalty, outside = np.hypot(penalty, _UNMEASURED), True
    if _recurrent(replica.architecture):
        penalty, outside = np.hypot(penalty, _RECURRENT), True
    speculation = replica.settings.speculation
    if speculation is not None:
        penalty = np.hypot(penalty, SPECULATION_LOG_SD)
        outside |= speculation.kind is SpeculationKind.DRAFT_MODEL
    if layout.pipeline_parallel > 1 or layout.accelerators > 8:
        penalty, outside = np.hypot(penalty, _WIDE), outside or layout.accelerators > 8
    return float(penalty), bool(outside)


def _recurrent(architecture: ModelArchitecture) -> bool:
    return bool(architecture.mixer_kinds() & {MixerKind.GATED_DELTA, MixerKind.MAMBA2})


def spread(penalties: FloatArray, is_open: BoolArray, utilization: FloatArray, luck: FloatArray) -> Spread:
    """Spreads of all questions.

    Parameters
    ----------
    penalties : array of shape (n, 2)
        As `replica_penalty` gives them.
    luck : array of shape (n,)
        As `batch_luck_log_sd` gives it of batches; 0 for other traffic.
    """
    extra, outside = penalties[:, 0], penalties[:, 1] > 0
    scale = np.hypot(_THROUGHPUT, extra)
    rho = np.clip(np.where(is_open, utilization, 0.0), 0.0, 0.99)
    base = np.stack([np.hypot(value, extra) for value in (_TTFT, _TPOT, _E2E)], axis=1)
    latency = np.hypot(base, near_capacity(scale, rho))[:, :, None] * _TAIL
    throughput = np.where(is_open & (utilization < 1.0), delivered_log_sd(scale, rho), np.hypot(scale, luck))
    return Spread(np.minimum(latency, MOST_LOG_SD), throughput, scale, outside)


def near_capacity(capacity_log_sd: FloatArray, utilization: FloatArray) -> FloatArray:
    """What an error of the capacity does to TTFT, TPOT and E2E: log standard deviations, shape (n, 3).

    It moves the wait by 1 / (1 - utilisation): near the limit nothing is certain.
    """
    near = capacity_log_sd * utilization**2 / (1.0 - utilization)
    return np.stack([near, 0.3 * near, 0.5 * near], axis=1)


def delivered_log_sd(capacity_log_sd: FloatArray, utilization: FloatArray) -> FloatArray:
    """Of the throughput of an open loop: what is offered is delivered while it fits, so only near the capacity."""
    return np.maximum(_OFFERED_LOG_SD, capacity_log_sd * utilization**4)
