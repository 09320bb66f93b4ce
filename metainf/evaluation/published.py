"""What the papers report, as printed beside our own figures and never compared with them, and their figure on our data.

Separate because these are others' numbers: their data, splits and metric definitions are not public. Of their figure
(the best of four methods against batch size, Llama-3.1-8B) the question can be asked again: under both readings of what
their rows mean.

Source: MetaInf, COLM 2025, arXiv 2508.09194: accuracy of the selected method, F1 and acceleration ratio on four
language models and several GPUs.
"""

from dataclasses import dataclass

import numpy as np

from metainf.evaluation.outcomes import Evidence
from metainf.methods import Reading, published

__all__ = ["NOT_COMPARABLE", "PUBLISHED", "PublishedFigures", "PublishedPoint", "published_points"]

_MODEL = "Llama-3.1-8B"


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


def published_points(evidence: Evidence, model: str = _MODEL) -> tuple[PublishedPoint, ...]:
    """The papers' four rows at each size of batch: geometric means over the model's tasks that ran all four.

    Empty where sizes are not known, where no task is of that model, or where the table lacks one of the methods.
    """
    tasks = evidence.table.tasks
    if evidence.batch_size is None:
        return ()
    mine = np.char.find(tasks.model, model) >= 0
    points = []
    for reading in Reading:
        rows = published(reading)
        if not {each.method.name for each in rows} <= set(tasks.methods):
            continue
        performance = evidence.table.performance[:, [tasks.methods.index(each.method.name) for each in rows]]
        ran = mine & (np.isfinite(performance) & (performance > 0.0)).all(axis=1)
        for size in np.unique(evidence.batch_size[ran & np.isfinite(evidence.batch_size)]):
            means = np.exp(np.log(performance[ran & (evidence.batch_size == size)]).mean(axis=0))
            points += [
                PublishedPoint(reading, each.row, float(size), float(mean))
                for each, mean in zip(rows, means, strict=True)
            ]
    return tuple(points)
