"""What a corpus takes as truth: step times of a replica that whoever predicts is not told.

Separate from `metainf.step_times`, which makes step times: here is only what the corpus asks for, so that measured
tables, hidden efficiencies and plain rooflines are one thing to it.
"""

from dataclasses import dataclass
from typing import Protocol

from metainf.accelerators import Vendor
from metainf.efficiencies import Efficiency, efficiency_of
from metainf.predictors.contract import ReplicaSpec
from metainf.simulator.contract import HostTimes, StepTimes
from metainf.step_times.latent import Latent
from metainf.step_times.roofline import host_times, roofline_step_times

__all__ = ["RooflineWorld", "StepOracle"]


class StepOracle(Protocol):
    """Truth about step times. The same replica and seed give the same times, in every process."""

    @property
    def name(self) -> str:
        """What rows call this world."""

    @property
    def version(self) -> str:
        """Changes whenever its times do."""

    def times(self, replica: ReplicaSpec, seed: int) -> tuple[StepTimes, HostTimes] | None:
        """Steps of one rank and what a request meets outside of them; None where this world knows nothing.

        `seed` stands for one run: its noise, never what is true of the replica.
        """

    def latent(self, replica: ReplicaSpec) -> Latent:
        """What is true of the replica's cache and of its drafter."""

    def source(self, replica: ReplicaSpec) -> str:
        """Whose measurements it has of the replica, and of which engine; empty where its times are calculated."""

    @property
    def predicts(self) -> bool:
        """Whether it stands for who predicts by simulating, not for a truth.

        Who predicts knows what is declared: it draws requests of its own, and takes a drafter's acceptance as its
        class has it.
        """


@dataclass(frozen=True, slots=True)
class RooflineWorld:
    """The analytical predictor's own step times, without noise: what a simulation of the declared workload says.

    Never a truth: the predictor shares this oracle, so whatever is learnt from it says nothing about real machines.
    """

    name: str = "roofline"
    version: str = "5"
    predicts: bool = True

    def times(self, replica: ReplicaSpec, seed: int) -> tuple[StepTimes, HostTimes] | None:
        """The roofline under the constants of the accelerator's generation; the seed changes nothing."""
        efficiency = _efficiency(replica)
        return roofline_step_times(replica, efficiency), host_times(efficiency)

    def latent(self, replica: ReplicaSpec) -> Latent:
        """As the predictor has it."""
        return Latent()

    def source(self, replica: ReplicaSpec) -> str:
        """Calculated."""
        return ""


def _efficiency(replica: ReplicaSpec) -> Efficiency:
    accelerator = replica.accelerator
    return efficiency_of(accelerator.generation, cpu=accelerator.vendor is Vendor.CPU)
