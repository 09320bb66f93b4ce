"""What a meta-feature is: a name, a unit, a sentence and the formula behind them, kept in one place.

Separate so that the groups of features (model, hardware, traffic, derived ...) share one form, and a trained artifact
can record by `FEATURE_SCHEMA` which definitions it was trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["FEATURE_SCHEMA", "Feature", "FeatureDescription", "described", "values_of"]

FEATURE_SCHEMA = 4
"""Raised with every change of a name, an order or a formula; an artifact of another schema is refused."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FeatureDescription:
    """A feature for people: `unit` is `1` for shares and flags, `ln(...)` where ratios matter."""

    name: str
    unit: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Feature(Generic[T]):
    """A feature with its formula: of one object a number, of a state of arrays an array of shape (n,)."""

    name: str
    unit: str
    sentence: str
    of: Callable[[T], Any]

    @property
    def description(self) -> FeatureDescription:
        """The feature without its formula."""
        return FeatureDescription(self.name, self.unit, self.sentence)


def described(*groups: Sequence[Feature[Any]]) -> tuple[FeatureDescription, ...]:
    """The descriptions of all groups, one after the other."""
    return tuple(feature.description for group in groups for feature in group)


def values_of(features: Sequence[Feature[T]], subject: T) -> tuple[Any, ...]:
    """The features of one object, in their order."""
    return tuple(feature.of(subject) for feature in features)
