"""Typed reading of a config.json: each field is checked, and a wrong one is named.

Separate because config.json is written by others: the families state which fields they need, and only this module
meets values of any type.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from metainf.errors import InvalidWorkloadError

__all__ = ["ConfigFields"]

_T = TypeVar("_T")
_MAX_INTEGER = 2**31 - 1
_MAX_ITEMS = 100_000
_MAX_TEXT = 4096


class ConfigFields:
    """Fields of one JSON object, with the model's name for messages."""

    def __init__(self, values: Mapping[str, object], owner: str, path: str = "") -> None:
        self._values = values
        self._path = path
        self.owner = owner

    def with_defaults(self, defaults: Mapping[str, object]) -> "ConfigFields":
        """The same fields, with values for those that are absent."""
        return ConfigFields({**defaults, **self._values}, self.owner, self._path)

    def names(self) -> list[str]:
        """Names of all fields."""
        return [key for key in self._values if isinstance(key, str)]

    def present(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(key) is not None

    def is_text(self, key: str) -> bool:
        """Whether the field is a text."""
        return isinstance(self._values.get(key), str)

    def integer(self, *keys: str, default: int | None = None, minimum: int = 1, maximum: int = _MAX_INTEGER) -> int:
        """First of the fields that is present; without a default one has to be."""
        key, value = self._first(keys)
        if value is None:
            return self._default(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self.wrong(key, f"a whole number from {minimum} to {maximum}")
        return value

    def number(self, key: str, *, default: float | None = None) -> float:
        """A positive number."""
        value = self._values.get(key)
        if value is None:
            return self._default(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MAX_INTEGER:
            raise self.wrong(key, "a positive number")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, *keys: str, default: str | None = None) -> str:
        """A short text."""
        key, value = self._first(keys)
        if value is None:
            return self._default(key, default)
        if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
            raise self.wrong(key, "a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; absent means empty."""
        items = self._items(key)
        if not all(isinstance(item, str) and len(item) <= _MAX_TEXT for item in items):
            raise self.wrong(key, "a list of texts")
        return tuple(str(item) for item in items)

    def integers(self, key: str, *, default: tuple[int, ...], minimum: int = 0) -> tuple[int, ...]:
        """A list of whole numbers."""
        if not self.present(key):
            return default
        result = []
        for item in self._items(key):
            if isinstance(item, bool) or not isinstance(item, int) or not minimum <= item <= _MAX_INTEGER:
                raise self.wrong(key, f"a list of whole numbers from {minimum}")
            result.append(item)
        return tuple(result)

    def mapping(self, key: str) -> Mapping[str, object]:
        """An object; absent means empty."""
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or len(value) > _MAX_ITEMS:
            raise self.wrong(key, "an object")
        if not all(isinstance(name, str) for name in value):
            raise self.wrong(key, "an object")
        return value

    def section(self, key: str) -> "ConfigFields":
        """An object that has to be there."""
        if not self.present(key):
            raise self.missing(key)
        return ConfigFields(self.mapping(key), self.owner, f"{self._path}{key}.")

    def wrong(self, key: str, expected: str) -> InvalidWorkloadError:
        """The error for a field with a value that cannot be."""
        shown = repr(self._values.get(key))[:60]
        return InvalidWorkloadError(
            f"{self.owner}: config.json field {self._path}{key} must be {expected}, not {shown}"
        )

    def missing(self, key: str) -> InvalidWorkloadError:
        """The error for a field that has to be there."""
        return InvalidWorkloadError(f"{self.owner}: config.json field {self._path}{key} is missing; add it")

    def _first(self, keys: Sequence[str]) -> tuple[str, object]:
        for key in keys:
            if self.present(key):
                return key, self._values[key]
        return keys[0], None

    def _items(self, key: str) -> Sequence[object]:
        value = self._values.get(key)
        if value is None:
            return ()
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > _MAX_ITEMS:
            raise self.wrong(key, f"a list of at most {_MAX_ITEMS} items")
        return value

    def _default(self, key: str, default: _T | None) -> _T:
        if default is None:
            raise self.missing(key)
        return default
