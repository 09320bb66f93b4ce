"""Which sizes of a step vLLM captures as CUDA graphs, and so pads smaller steps to.

Separate since every source of step times needs them and none of them follows from a device's speed.
"""

import numpy as np
from numpy.typing import NDArray

from metainf.accelerators import Vendor
from metainf.predictors.contract import ReplicaSpec
from metainf.settings import PerformanceMode

__all__ = ["captured_tokens"]

_LARGEST = 512
_LARGEST_ON_BLACKWELL = 1024  # of data centres: compute capability 10
_FINE = 32  # every size up to this is captured where latency goes before memory


def captured_tokens(replica: ReplicaSpec) -> NDArray[np.int64]:
    """Captured sizes in tokens, rising; empty on a CPU, which has no graphs.

    Source: vLLM 0.32.0, vllm/config/vllm.py, _set_cudagraph_sizes: 1, 2, 4, then every 8 below 256 and every 16 up to
    the smallest of 512 (1,024 on compute capability 10), twice the decoding tokens of a full batch and the budget.
    """
    settings = replica.settings
    if replica.accelerator.vendor is Vendor.CPU:
        return np.zeros(0, dtype=np.int64)
    drafts = settings.speculation.tokens if settings.speculation else 0
    capability = replica.accelerator.compute_capability
    most = _LARGEST_ON_BLACKWELL if capability is not None and capability[0] == 10 else _LARGEST
    largest = min(settings.max_num_seqs * (1 + drafts) * 2, most, settings.max_num_batched_tokens)
    first = range(1, _FINE + 1) if settings.performance_mode is PerformanceMode.INTERACTIVITY else (1, 2, 4)
    sizes = {*first, *range(8, 256, 8), *range(256, most + 1, 16)}
    return np.array(sorted(size for size in sizes if size <= largest), dtype=np.int64)
