"""What distributions of workloads the public traces give, and how that was read off them.

Separate from the design that draws tasks from these figures: they are facts about the traces, checked against them.

A trace is cut into windows of 500 requests. Of each window the figures that a workload declares are taken: mean and p95
over mean of prompts and of answers, the coefficient of variation of the gaps, and of prefixes the share of requests
that find at least a quarter of their prompt in the trace so far, the median share that they find, and how many prefixes
those are. Over windows each figure is taken to be lognormal: geometric mean and standard deviation of its logarithm.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.simulator.contract import Requests
from metainf.traces import TraceName

__all__ = ["FITTED", "WINDOW_REQUESTS", "Spread", "TrafficFit", "fit_traffic"]

WINDOW_REQUESTS = 500
_LEAST_SHARED = 0.25

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """A lognormal figure over windows."""

    middle: float
    log_sd: float

    def at(self, normal: float) -> float:
        """The figure at a standard normal quantile."""
        return float(self.middle * np.exp(self.log_sd * normal))


@dataclass(frozen=True, slots=True)
class TrafficFit:
    """The workloads of one trace; the last three are None where it says nothing of prefixes."""

    input_tokens: Spread
    input_p95_ratio: Spread
    output_tokens: Spread
    output_p95_ratio: Spread
    burstiness: Spread
    prefix_ratio: Spread | None = None
    prefix_share: Spread | None = None
    prefixes: Spread | None = None


FITTED = {
    TraceName.AZURE_CONVERSATION: TrafficFit(
        input_tokens=Spread(1140, 0.180),
        input_p95_ratio=Spread(3.01, 0.147),
        output_tokens=Spread(203, 0.262),
        output_p95_ratio=Spread(2.23, 0.212),
        burstiness=Spread(1.02, 0.056),
    ),
    TraceName.AZURE_CODE: TrafficFit(
        input_tokens=Spread(2050, 0.077),
        input_p95_ratio=Spread(3.36, 0.068),
        output_tokens=Spread(27.5, 0.103),
        output_p95_ratio=Spread(3.25, 0.116),
        burstiness=Spread(8.90, 0.478),
    ),
    TraceName.MOONCAKE_CONVERSATION: TrafficFit(
        input_tokens=Spread(12000, 0.091),
        input_p95_ratio=Spread(3.25, 0.084),
        output_tokens=Spread(342, 0.039),
        output_p95_ratio=Spread(2.03, 0.036),
        burstiness=Spread(3.04, 0.051),
        prefix_ratio=Spread(0.545, 0.130),
        prefix_share=Spread(0.638, 0.086),
        prefixes=Spread(165, 0.231),
    ),
    TraceName.MOONCAKE_SYNTHETIC: TrafficFit(
        input_tokens=Spread(14200, 0.218),
        input_p95_ratio=Spread(3.14, 0.108),
        output_tokens=Spread(158, 0.300),
        output_p95_ratio=Spread(3.35, 0.184),
        burstiness=Spread(1.00, 0.028),
        prefix_ratio=Spread(0.270, 0.966),
        prefix_share=Spread(0.980, 0.002),
        prefixes=Spread(106, 0.837),
    ),
}
"""Source: `fit_traffic` of the four traces (Azure 2023, CC-BY-4.0; Mooncake, Apache-2.0), three digits.

The gaps of Azure's code trace come in bursts on every scale: its coefficient of variation grows with the window.
Mooncake's conversation trace has times in steps of 3 s.
"""


def fit_traffic(requests: Requests, window_requests: int = WINDOW_REQUESTS) -> TrafficFit:
    """The workloads of a trace, by windows of so many requests; what is left over at the end is not used."""
    count = len(requests.arrival_s) // window_requests
    windows = [slice(k * window_requests, (k + 1) * window_requests) for k in range(count)]
    gaps = [np.diff(requests.arrival_s[window]) for window in windows]
    prompts, answers = (_by_window(values, windows) for values in (requests.input_tokens, requests.output_tokens))
    fit = TrafficFit(
        input_tokens=_spread([values.mean() for values in prompts]),
        input_p95_ratio=_spread([np.quantile(values, 0.95) / values.mean() for values in prompts]),
        output_tokens=_spread([values.mean() for values in answers]),
        output_p95_ratio=_spread([np.quantile(values, 0.95) / values.mean() for values in answers]),
        burstiness=_spread([each.std() / each.mean() for each in gaps]),
    )
    if len(requests.block_offsets) == 0:
        return fit
    share, deepest = _shared(requests)
    found = [share[window] >= _LEAST_SHARED for window in windows]
    return TrafficFit(
        *(fit.input_tokens, fit.input_p95_ratio, fit.output_tokens, fit.output_p95_ratio, fit.burstiness),
        prefix_ratio=_spread([each.mean() for each in found]),
        prefix_share=_spread([np.median(share[w][each]) for w, each in zip(windows, found, strict=True)]),
        prefixes=_spread([len(np.unique(deepest[w][each])) for w, each in zip(windows, found, strict=True)]),
    )


def _by_window(values: NDArray[np.int64], windows: list[slice]) -> list[FloatArray]:
    return [values[window].astype(np.float64) for window in windows]


def _spread(values: list[float]) -> Spread:
    logs = np.log(np.array(values))
    return Spread(float(np.exp(logs.mean())), float(logs.std(ddof=1)))


def _shared(requests: Requests) -> tuple[FloatArray, NDArray[np.int64]]:
    """Of each request, the share of its prompt that came before in the trace, and the last block of that."""
    seen: set[int] = set()
    share = np.zeros(len(requests.input_tokens))
    deepest = np.full(len(requests.input_tokens), -1, dtype=np.int64)
    blocks = requests.block_hashes.tolist()
    for i, prompt in enumerate(requests.input_tokens.tolist()):
        own = blocks[requests.block_offsets[i] : requests.block_offsets[i + 1]]
        found = next((depth for depth, block in enumerate(own) if block not in seen), len(own))
        share[i] = min(1.0, found * requests.hash_block_tokens / prompt)
        deepest[i] = own[found - 1] if found else -1
        seen.update(own)
    return share, deepest
