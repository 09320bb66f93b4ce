"""What part of a CPU's figures one replica has: of its memory, and of what its cores compute.

Separate from the roofline, which takes them, since features and memory plans count in the same shares.
"""

from metainf.engine_defaults import cpu_threads
from metainf.predictors.contract import ReplicaSpec

__all__ = ["computing_share", "cpu_share"]


def cpu_share(replica: ReplicaSpec) -> float:
    """Part of the accelerator's figures that the replica has: 1, or its cores over those the figures are for."""
    cpu = replica.accelerator.cpu
    if cpu is None or replica.cpu_cores is None:
        return 1.0
    return replica.cpu_cores / cpu.cores


def computing_share(replica: ReplicaSpec) -> float:
    """Part of the accelerator's FLOP/s that the replica's kernels have: of its cores but the one that the server keeps.

    The bandwidth goes with all of its cores, since the rest reach nearly all of it: with two threads in place of one,
    on two cores, prompts were a sixth faster and answers no faster at all (own runs of vLLM 0.32.0). Figures that are
    no share of anything stand as they are, as those that a machine measured of itself with one core left out.
    """
    cpu = replica.accelerator.cpu
    if cpu is None or replica.cpu_cores is None:
        return 1.0
    physical = replica.cpu_cores / cpu.threads_per_core
    return min(physical, cpu_threads(replica.cpu_cores, cpu.threads_per_core)) / cpu.physical_cores
