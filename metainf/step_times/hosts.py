"""What hosts add to measured kernels: a few constants, fitted by `benchmarks/simulator_truth.py`.

Separate from `metainf.efficiencies`, whose host costs were fitted beside the roofline's kernels and carry its errors.
"""

from dataclasses import replace

from metainf.efficiencies import GENERIC

__all__ = ["DEVICE_SCALE", "MEASURED_HOST"]

MEASURED_HOST = replace(
    GENERIC,
    host_s=0.258e-3,
    sequence_host_s=8.72e-6,
    frontend_token_s=21.4e-6,
    request_s=17.2e-3,
    request_token_s=4.55e-6,
)
"""Source: fitted on closed loops of vLLM 0.11 to 0.19 (silicon_sample.csv of aiconfigurator-core 0.12.0) simulated over
its tables, robust least squares on the logarithms of TTFT and TPOT."""

DEVICE_SCALE = 1.046
"""Kernels in a server over kernels alone, fitted beside: other versions, uneven experts, clocks under load. Only
the benchmark applies it: a table world keeps the kernels as measured."""
