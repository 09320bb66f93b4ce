"""What the papers report, as printed beside our own figures and never compared with them.

Separate because these are others' numbers: their data, splits and metric definitions are not public.

Source: MetaInf, COLM 2025, arXiv 2508.09194: accuracy of the selected method, F1 and acceleration ratio on four
language models and several GPUs.
"""

from dataclasses import dataclass

__all__ = ["NOT_COMPARABLE", "PUBLISHED", "PublishedFigures"]


@dataclass(frozen=True, slots=True)
class PublishedFigures:
    """A row of the papers' table."""

    selector: str
    accuracy: float
    f1: float
    acceleration_ratio: float


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
