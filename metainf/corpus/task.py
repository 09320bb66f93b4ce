"""A task: a model on one replica's accelerators in one layout, under one traffic. What a method is chosen for.

Separate from `metainf.workload` since a task fixes accelerator and layout, which a workload leaves open, and from the
rows that say how methods did on it.

Names of tasks are digests of what they say beyond defaults, as JSON with sorted keys: a field that is new leaves the
names of all tasks that do not use it, and nothing hangs on how Python prints a value.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

from metainf.layouts import Layout
from metainf.workload import BatchLoad, RateLoad, Slo, Traffic

__all__ = ["Task", "TrafficKind", "twin_groups"]

_NOT_DRAWN = ("load", "description")
"""Of a traffic: what is asked for, and words about it."""


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
    """What the user insists on; None leaves it to each method's own cache, as the operator does."""
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
    def deadline_s(self) -> float:
        """Of a batch; infinite for others."""
        load = self.traffic.load
        return load.deadline_s if isinstance(load, BatchLoad) else math.inf

    @property
    def key(self) -> str:
        """A name made from all of it: equal tasks have equal keys, in every process and version of Python."""
        return _key(self)

    @property
    def draws_key(self) -> str:
        """A name made from what is latent in its requests: the model, lengths, prefixes, repetitiveness and gaps.

        The same on every place and under every load and promise, so that whoever draws by it draws the same there.
        """
        traffic = {name: value for name, value in _said(self.traffic).items() if name not in _NOT_DRAWN}
        return _digest({"model": self.model, "traffic": traffic})


def twin_groups(tasks: Sequence[Task]) -> tuple[tuple[Task, ...], ...]:
    """The tasks that are one workload on several places, a group each, in their order; those that stand alone are not.

    Twins are equal in all but accelerator and layout: model, traffic with its load, promises, head and engine. They
    have one `draws_key`, so that truths drawn by it differ by their places alone. What is to be chosen in a group is a
    place and a method together; a twin that tables leave out is one on which no method keeps the promises.
    """
    groups: dict[Task, list[Task]] = {}
    for task in tasks:
        groups.setdefault(replace(task, accelerator="", layout=Layout()), []).append(task)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


@lru_cache(maxsize=1 << 15)
def _key(task: Task) -> str:
    """Kept, since it is asked for again by all that looks tasks up, and takes a quarter of a millisecond."""
    return _digest(_said(task))


def _digest(said: Any) -> str:
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _said(value: Any) -> Any:
    """A value for JSON: of a dataclass the fields that differ from their defaults; equal numbers are written equally.

    No dataclass is named, since the fields of those that can stand in one place, the loads, tell them apart.
    """
    if is_dataclass(value):
        own = ((each, getattr(value, each.name)) for each in fields(value))
        return {each.name: _said(held) for each, held in own if held != _default(each)}
    if isinstance(value, tuple):
        return [_said(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _default(of: Any) -> Any:
    """The default of a dataclass's field; MISSING, which nothing equals, where it has none."""
    return of.default if of.default_factory is MISSING else of.default_factory()
