"""What the papers report, as printed beside our own figures and never compared with them, and their figure as a value.

Separate because these are others' numbers: their data, splits and metric definitions are not public. Of their figure
(the best of four methods against batch size, Llama-3.1-8B) the question can be asked again, under both readings of what
their rows mean: `published_sweep` simulates it.

Source: MetaInf, COLM 2025, arXiv 2508.09194: accuracy of the selected method, F1 and acceleration ratio on four
language models and several GPUs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from metainf.corpus.repeats import LEAST_TOLERANCE
from metainf.methods import Reading

__all__ = ["NOT_COMPARABLE", "PUBLISHED", "READINGS", "PublishedFigures", "PublishedPoint", "PublishedSweep"]


READINGS: Mapping[Reading, str] = MappingProxyType(
    {
        Reading.ALONE: "each alone, over one request at a time",
        Reading.ON_BATCHING: "each on continuous batching",
    }
)
"""How the papers' rows are read, in words."""


@dataclass(frozen=True, slots=True)
class PublishedFigures:
    """A row of the papers' table."""

    selector: str
    accuracy: float
    f1: float
    acceleration_ratio: float


@dataclass(frozen=True, slots=True)
class PublishedPoint:
    """Performance of one of the papers' rows at one batch size, under one reading."""

    reading: Reading
    row: str
    batch_size: float
    performance: float


@dataclass(frozen=True, slots=True)
class PublishedSweep:
    """The papers' figure asked again. `about` says of what world, place and traffic all of its points are."""

    about: str
    points: tuple[PublishedPoint, ...]

    @property
    def sizes(self) -> tuple[float, ...]:
        """The batches, ascending."""
        return tuple(sorted({point.batch_size for point in self.points}))

    def best(self, reading: Reading, batch_size: float) -> tuple[PublishedPoint, ...]:
        """The rows within the tolerance of the fastest at one size under one reading, the fastest first.

        Each point is one draw, so what is closer than the least tolerance is not told apart. Empty where that size was
        not simulated.
        """
        mine = [p for p in self.points if p.reading is reading and p.batch_size == batch_size]
        most = max((point.performance for point in mine), default=0.0)
        near = [point for point in mine if point.performance >= most * (1.0 - LEAST_TOLERANCE)]
        return tuple(sorted(near, key=lambda point: -point.performance))


PUBLISHED = (
    PublishedFigures("ISAC", 0.578, 0.60, 1.10),
    PublishedFigures("ALORS", 0.725, 0.71, 1.20),
    PublishedFigures("random forest", 0.742, 0.69, 1.25),
    PublishedFigures("gradient boosting", 0.815, 0.78, 1.30),
    PublishedFigures("MetaInf", 0.898, 0.85, 1.55),
)

NOT_COMPARABLE = (
    "Published (arXiv 2508.09194), not comparable with the tables here: its data, GPUs, splits and definitions are not "
    "public, and what its acceleration is relative to is not said."
)
