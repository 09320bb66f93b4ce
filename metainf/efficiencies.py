"""How close real engines come to the datasheet: a few physical constants per accelerator generation.

Separate from the roofline's arithmetic so that `benchmarks/calibrate_analytical.py` can refit them and a decision
can name them by digest. Every number here is an output of that benchmark unless its comment says otherwise.
"""

from dataclasses import dataclass, replace

__all__ = ["CONSTANTS", "EARLY_GENERATIONS", "GENERIC", "MEASURED_GENERATIONS", "Efficiency", "efficiency_of"]


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What an accelerator reaches of its datasheet, and what each step costs besides."""

    memory: float
    """Share of the memory bandwidth when weights stream through the matrix units."""
    matrix: float
    """Share of the peak FLOP/s in large matrix products of 16 bits."""
    narrow_matrix_ratio: float
    """What products of 8 and 4 bits reach of that share, of their own peak."""
    loaded_ratio: float
    """What weights that are quantised while loading reach of other narrow ones: activations are scaled in each step."""
    expert_matrix_ratio: float
    """What the grouped products of experts reach of that."""
    cache_memory: float
    """Share of the memory bandwidth when attention reads the KV cache."""
    narrow_cache_ratio: float
    """What a cache of 8 bits reaches of that."""
    attention_matrix: float
    """Share of the 16-bit peak in the attention of prompts."""
    link: float
    """Share of the interconnect's bandwidth in collectives."""
    layer_s: float
    """Fixed time of one layer's kernels in a captured graph."""
    expert_layer_s: float
    """Fixed time that routing and grouped products of experts add to a layer."""
    collective_s: float
    """Latency of one collective among the ranks of a replica, per doubling of the ranks."""
    activation_passes: float
    """Times that a layer reads or writes its hidden state in memory, norms and activations together."""
    expert_passes: float
    """The same for the hidden states that are sorted to a token's experts, multiplied, and added up again."""
    overlap: float
    """Share of the smaller of reading and computing that does not hide behind the larger."""
    host_s: float
    """Host work per step that the accelerator waits for."""
    sequence_host_s: float
    """Host work per scheduled sequence and step."""
    frontend_token_s: float
    """Work of the API server per streamed token: a step's tokens are sent one after the other."""
    request_s: float
    """Client to engine and back per request: HTTP, tokenisation, dispatch between processes."""
    request_token_s: float
    """The same per prompt token."""


GENERIC = Efficiency(
    memory=0.855,
    matrix=0.467,
    narrow_matrix_ratio=0.678,
    loaded_ratio=0.80,
    expert_matrix_ratio=0.617,
    cache_memory=0.711,
    narrow_cache_ratio=0.86,
    attention_matrix=0.509,
    link=0.704,
    layer_s=15.6e-6,
    expert_layer_s=12.9e-6,
    collective_s=10.3e-6,
    activation_passes=20.2,
    expert_passes=10.7,
    overlap=0.271,
    host_s=1.36e-3,
    sequence_host_s=7.23e-6,
    frontend_token_s=21.4e-6,
    request_s=0.0311,
    request_token_s=1.47e-6,
)
"""What all measured generations share.

Source: fitted by benchmarks/calibrate_analytical.py on 1,013 closed loops of vLLM 0.11 to 0.19 (silicon_sample.csv of
aiconfigurator-core 0.12.0), 90 batches of GPUStack Performance Lab and a third of 1,729 batches of
LLM-Inference-Bench. The work per streamed token is that of `step_times.hosts`, fitted through the simulator on the same
closed loops: as a wait alone it had come out at 76 microseconds, and 24 of these rows stream up to 2.2 times as many
tokens as a server could that takes so long for each. What FP8 reaches while loading, and in the cache, is such that
`benchmarks/step_time_ratios.py --formats` finds measured kernels to differ from it as those of 16 bits do: without it
they were 1.05 to 1.2 times as slow as expected, dense ones, experts and caches alike.
"""

_OF_GENERATION: dict[str, dict[str, float]] = {
    "Ampere": {"memory": 0.942, "matrix": 0.581, "cache_memory": 0.671},
    "Blackwell": {"memory": 0.747, "matrix": 0.592, "cache_memory": 0.798},
    "Blackwell Ultra": {"memory": 0.993, "matrix": 0.503, "cache_memory": 0.774},
    "CDNA2": {"memory": 0.705, "matrix": 0.454, "cache_memory": 0.722},
    "Hopper": {"memory": 0.990, "matrix": 0.392, "cache_memory": 0.726},
}
"""Fitted as above, and kept below 1."""

_EARLY: dict[str, dict[str, float]] = {
    "CDNA3": {"memory": 0.667, "matrix": 0.145, "cache_memory": 0.378},
    "Xe-HPC": {"memory": 0.567, "matrix": 0.138, "cache_memory": 0.321},
}
"""Measured with the ports of 2024 alone, which reached a fraction of the silicon: memory, matrix and cache 0.520, 0.045
and 0.201 on CDNA3; 0.376, 0.041 and 0.145 on Xe-HPC. Engines have improved since, by how much is not measured: these
are the geometric means with what is shared, and their intervals reach to either side.
"""

_CPU: dict[str, float] = {"layer_s": 60e-6, "host_s": 3e-3, "memory": 0.6, "matrix": 0.35, "cache_memory": 0.3}
"""Assumed: no CPU is among the measurements, small models live in its caches, and intervals are widened for that."""

MEASURED_GENERATIONS = frozenset(_OF_GENERATION)
EARLY_GENERATIONS = frozenset(_EARLY)

CONSTANTS = (GENERIC, *(tuple(sorted(table.items(), key=str)) for table in (_OF_GENERATION, _EARLY, _CPU)))
"""All of the above, for a digest."""


def efficiency_of(generation: str, *, cpu: bool = False) -> Efficiency:
    """Constants of a generation; of one without measurements, what the measured ones have in common."""
    if cpu:
        return replace(GENERIC, **_CPU)
    return replace(GENERIC, **_OF_GENERATION.get(generation, _EARLY.get(generation, {})))
