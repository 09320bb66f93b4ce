"""Reads manifests field by field: each error names the field's path and says what to write instead.

Separate because manifests come from people and other programs, and nothing past this point should have to wonder
whether a value has the type that it should have. Null counts as absent where there is a default, as an API server has
it, and is refused elsewhere.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn, TypeVar

from metainf.errors import InvalidWorkloadError

__all__ = ["Reader", "TextRule"]

_Enum = TypeVar("_Enum", bound=StrEnum)
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class TextRule:
    """What a text must look like, and the sentence for one that does not."""

    message: str
    pattern: re.Pattern[str]
    max_length: int
    accepts: Callable[[str], bool] = lambda _: True

    def holds(self, text: str) -> bool:
        """Whether the text keeps the rule."""
        return self.pattern.fullmatch(text) is not None and self.accepts(text)


@dataclass(frozen=True, slots=True)
class Reader:
    """An object of a manifest, where it stands, and its fields.

    Missing fields are refused unless a default is given or the function's name says `optional`.
    """

    path: str
    fields: Mapping[str, object]

    @staticmethod
    def of(value: object, path: str, known: Collection[str] | None) -> "Reader":
        """A reader over the value, which must be an object of known fields; None knows every field."""
        if not isinstance(value, Mapping):
            raise InvalidWorkloadError(f"{path or 'manifest'}: write an object with fields, not {_shown(value)}")
        reader = Reader(path, value)
        for name in value:
            if not isinstance(name, str):
                raise InvalidWorkloadError(f"{path or 'manifest'}: field names are text; {name!r} is not")
            if known is not None and name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"fields here: {', '.join(sorted(known)) or 'none'}"
                raise reader.error(name, f"unknown field; {hint}")
        return reader

    def path_of(self, name: str) -> str:
        """Where the field stands, from the manifest's root."""
        return f"{self.path}.{name}" if self.path else name

    def error(self, name: str, message: str) -> InvalidWorkloadError:
        """An error about one field, or about the object itself where the name is empty."""
        return InvalidWorkloadError(f"{self.path_of(name) if name else self.path or 'manifest'}: {message}")

    def has(self, name: str) -> bool:
        """Whether the field is there, null or not."""
        return name in self.fields

    def child(self, name: str, known: Collection[str] | None) -> "Reader":
        """The object in the field."""
        self._require(name)
        return Reader.of(self.fields[name], self.path_of(name), known)

    def optional_child(self, name: str, known: Collection[str] | None) -> "Reader | None":
        """The object in the field, or None where the field is absent."""
        return self.child(name, known) if self.has(name) else None

    def child_or_empty(self, name: str, known: Collection[str] | None) -> "Reader":
        """The object in the field, or one without fields: for objects whose default is `{}`."""
        return self.child(name, known) if self._given(name) else Reader(self.path_of(name), {})

    def text(self, name: str, rule: TextRule, default: str | None = None) -> str:
        """The text in the field, checked by the rule."""
        if default is not None and not self._given(name):
            return default
        self._require(name)
        return self.checked(self.fields[name], name, rule)

    def optional_text(self, name: str, rule: TextRule) -> str | None:
        """The text in the field, checked by the rule, or None where the field is absent."""
        return self.text(name, rule) if self.has(name) else None

    def integer(self, name: str, lowest: int, highest: int, default: int | None = None) -> int:
        """The whole number in the field."""
        if default is not None and not self._given(name):
            return default
        self._require(name)
        value = self.fields[name]
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse(name, f"write a whole number from {lowest} to {highest}, not {_shown(value)}")
        if not lowest <= value <= highest:
            self._refuse(name, f"write a whole number from {lowest} to {highest}; {value} is outside")
        return value

    def optional_integer(self, name: str, lowest: int, highest: int) -> int | None:
        """The whole number in the field, or None where the field is absent."""
        return self.integer(name, lowest, highest) if self.has(name) else None

    def flag(self, name: str, default: bool) -> bool:
        """The true or false in the field."""
        if not self._given(name):
            return default
        value = self.fields[name]
        if not isinstance(value, bool):
            self._refuse(name, f"write true or false, not {_shown(value)}")
        return value

    def choice(self, name: str, values: type[_Enum], default: _Enum | None = None) -> _Enum:
        """One of the enum's values."""
        if default is not None and not self._given(name):
            return default
        self._require(name)
        value = self.fields[name]
        if not isinstance(value, str) or value not in tuple(values):
            self._refuse(name, f"write one of {', '.join(values)}, not {_shown(value)}")
        return values(value)

    def elements(self, name: str, most: int) -> tuple[object, ...]:
        """The list in the field; none where it is absent."""
        if not self.has(name):
            return ()
        value = self.fields[name]
        if not isinstance(value, list | tuple):
            self._refuse(name, f"write a list, not {_shown(value)}")
        if len(value) > most:
            self._refuse(name, f"at most {most} entries may stand here; there are {len(value)}")
        return tuple(value)

    def objects(self, name: str, most: int, known: Collection[str]) -> tuple["Reader", ...]:
        """The list of objects in the field; none where it is absent."""
        elements = self.elements(name, most)
        return tuple(Reader.of(element, f"{self.path_of(name)}[{i}]", known) for i, element in enumerate(elements))

    def texts(self, name: str, most: int, rule: TextRule) -> tuple[str, ...]:
        """The list of texts in the field, each checked by the rule; none where it is absent."""
        elements = self.elements(name, most)
        return tuple(self.checked(element, f"{name}[{i}]", rule) for i, element in enumerate(elements))

    def distinct_texts(self, name: str, most: int, rule: TextRule) -> frozenset[str]:
        """As `texts`, for lists that are sets."""
        texts = self.texts(name, most, rule)
        for text in texts:
            if texts.count(text) > 1:
                self._refuse(name, f"{text} stands here more than once: remove one")
        return frozenset(texts)

    def labels(self, name: str, most: int, rule: TextRule) -> tuple[tuple[str, str], ...]:
        """The field's map from text to text, sorted by key; empty where it is absent."""
        if not self.has(name):
            return ()
        reader = self.child(name, None)
        if len(reader.fields) > most:
            self._refuse(name, f"at most {most} entries may stand here; there are {len(reader.fields)}")
        return tuple(sorted((key, reader.checked(value, key, rule)) for key, value in reader.fields.items()))

    def checked(self, value: object, name: str, rule: TextRule) -> str:
        """The value as a text that keeps the rule."""
        if not isinstance(value, str):
            quoted = ": put it in quotation marks" if isinstance(value, int | float) else ""
            self._refuse(name, f"{rule.message}; this is {_shown(value)}, no text{quoted}")
        if len(value) > rule.max_length:
            self._refuse(name, f"{rule.message}; at most {rule.max_length} characters, there are {len(value)}")
        if not rule.holds(value):
            self._refuse(name, f"{rule.message}; this is {_shown(value)}")
        return value

    def exactly_one(self, names: Iterable[str], message: str) -> str:
        """The one of these fields that is there; none or several are refused with the message."""
        given = [name for name in names if self.has(name)]
        if len(given) != 1:
            raise self.error("", message)
        return given[0]

    def _given(self, name: str) -> bool:
        return self.fields.get(name) is not None

    def _require(self, name: str) -> None:
        if not self.has(name):
            self._refuse(name, "required, and missing")
        if self.fields[name] is None:
            self._refuse(name, "write a value, or leave the field out: it is null")

    def _refuse(self, name: str, message: str) -> NoReturn:
        raise self.error(name, message)


def _shown(value: object) -> str:
    """The value in a message: short, and never a whole subtree."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
