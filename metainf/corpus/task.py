"""A task: a model on one replica's accelerators in one layout, under one traffic. What a method is chosen for.

Separate from `metainf.workload` since a task fixes accelerator and layout, which a workload leaves open, and from the
rows that say how methods did on it.
"""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from metainf.layouts import Layout
from metainf.workload import BatchLoad, RateLoad, Slo, Traffic

__all__ = ["Task", "TrafficKind"]


class TrafficKind(StrEnum):
    """Tables never mix kinds: what performance means differs between them."""

    RATE = "rate"  # the highest request rate per accelerator at which every SLO holds
    CONCURRENCY = "concurrency"  # output tokens per second; with an SLO those of requests that keep it
    BATCH = "batch"  # 1 / makespan


@dataclass(frozen=True, slots=True)
class Task:
    """What may be known before anything runs; `model` is a bundled id, `accelerator` a name of the catalogue.

    The rate of a `RateLoad` is what the workload declares; the truth's rate is searched for, so it is a hint there.
    """

    model: str
    accelerator: str
    layout: Layout
    traffic: Traffic
    slo: Slo = field(default_factory=Slo)
    max_model_len: int | None = None
    engine_version: str = "0.32.0"
    draft_model: bool = False
    """Whether there is a head that drafts for the model."""
    origin: str = "grid"
    """Where its traffic comes from: the designed grid, or the trace whose distributions it was drawn from."""

    @property
    def kind(self) -> TrafficKind:
        """Kind of its traffic."""
        load = self.traffic.load
        if isinstance(load, RateLoad):
            return TrafficKind.RATE
        return TrafficKind.BATCH if isinstance(load, BatchLoad) else TrafficKind.CONCURRENCY

    @property
    def key(self) -> str:
        """A name made from all of it: equal tasks have equal keys, in every process and version of Python."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]
