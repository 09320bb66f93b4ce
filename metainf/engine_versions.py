"""Versions of vLLM: how they are spelt, which are known here, and which flags each one's parser takes.

Separate because defaults and flags move with every release (17 to 18 flags come and one goes every two releases):
whatever says something about a flag says it about a version, and a version that is not known is refused by name.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib import resources
from types import MappingProxyType

import yaml

from metainf.errors import InvalidWorkloadError

__all__ = [
    "DEFAULT_ENGINE_VERSION",
    "KNOWN_ENGINE_VERSIONS",
    "EngineVersion",
    "FlagCatalogue",
    "FlagKind",
    "FlagSpec",
    "flag_catalogue",
    "known_version",
    "parse_engine_version",
]

DEFAULT_ENGINE_VERSION = "0.32.0"
KNOWN_ENGINE_VERSIONS = ("0.32.0",)

_VERSION = re.compile(
    r"v?(?P<major>\d{1,4})\.(?P<minor>\d{1,4})(?:\.(?P<patch>\d{1,4}))?"
    r"(?P<suffix>(?:\.post\d{1,4}|\.?rc\d{1,4}|\.?dev\d{1,9})?(?:[-+][A-Za-z0-9._-]{1,64})?)"
)


@dataclass(frozen=True, slots=True, order=True)
class EngineVersion:
    """A release of vLLM. What follows the three numbers (`+cpu`, `rc1`, an image's `-cu129`) is not compared."""

    major: int
    minor: int
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


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
    LIST = "list"  # one or more values
    JSON = "json"

    @property
    def takes_value(self) -> bool:
        """Whether a value has to follow."""
        return self not in (FlagKind.SWITCH, FlagKind.FLAG, FlagKind.OPTIONAL)


@dataclass(frozen=True, slots=True)
class FlagSpec:
    """One flag of a version's parser. `name` has no leading dashes; `aliases` have theirs."""

    name: str
    kind: FlagKind
    aliases: tuple[str, ...] = ()
    default: str | int | float | bool | None = None  # None: none, or worked out at start
    choices: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """The flag as it stands in argv."""
        return f"--{self.name}"

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every exact option string that argparse maps to this flag."""
        negated = (f"--no-{self.name}",) if self.kind is FlagKind.SWITCH else ()
        return (self.option, *negated, *self.aliases)


@dataclass(frozen=True, slots=True, eq=False)
class FlagCatalogue:
    """The flags of one version, by name and by each exact spelling."""

    version: EngineVersion
    flags: Mapping[str, FlagSpec]
    spellings: Mapping[str, FlagSpec]

    def nearest(self, option: str) -> str | None:
        """The spelling most like `option`, as `--max-num-seqs` for `--max-num-seq`; None where none is like it."""
        close = difflib.get_close_matches(option, self.spellings, n=1, cutoff=0.6)
        return close[0] if close else None


def parse_engine_version(text: str) -> EngineVersion:
    """Read a version as a release, an image tag or /version spell it: `0.32.0`, `v0.32.0-cu129`, `0.32.0+cpu`."""
    match = _VERSION.fullmatch(text.strip()) if len(text) <= 128 else None
    if match is None:
        raise InvalidWorkloadError(f"reading the vLLM version {text[:128]!r}: write it as {DEFAULT_ENGINE_VERSION}")
    return EngineVersion(int(match["major"]), int(match["minor"]), int(match["patch"] or 0))


def known_version(version: str) -> EngineVersion:
    """The known version whose flags and defaults hold for `version`: itself, or another patch of its release.

    Patch releases of vLLM fix faults and leave flags and defaults alone, so 0.32.1 is read as 0.32.0.

    Raises
    ------
    InvalidWorkloadError
        Nothing is known about that release.
    """
    asked = parse_engine_version(version)
    for name in KNOWN_ENGINE_VERSIONS:
        known = parse_engine_version(name)
        if (known.major, known.minor) == (asked.major, asked.minor):
            return known
    raise InvalidWorkloadError(
        f"vLLM {asked} is not known here: its flags and defaults may differ; use {', '.join(KNOWN_ENGINE_VERSIONS)}"
    )


def flag_catalogue(version: str = DEFAULT_ENGINE_VERSION) -> FlagCatalogue:
    """The flags that this version's parser takes."""
    return _load_catalogue(str(known_version(version)))


@lru_cache(maxsize=8)
def _load_catalogue(version: str) -> FlagCatalogue:
    text = resources.files("metainf").joinpath("data", "flags", f"{version}.yaml").read_text(encoding="utf-8")
    # libyaml reads the 317 flags in 10 ms, Python code in 55; some builds of PyYAML come without the former.
    document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    flags = {name: _flag_spec(name, entry) for name, entry in document["flags"].items()}
    spellings = {spelling: spec for spec in flags.values() for spelling in spec.spellings}
    return FlagCatalogue(parse_engine_version(version), MappingProxyType(flags), MappingProxyType(spellings))


def _flag_spec(name: str, entry: Mapping[str, object]) -> FlagSpec:
    default, aliases, choices = entry.get("default"), entry.get("aliases", []), entry.get("choices", [])
    assert default is None or isinstance(default, str | int | float)
    assert isinstance(aliases, list) and isinstance(choices, list)
    return FlagSpec(name, FlagKind(str(entry["kind"])), tuple(aliases), default, tuple(choices))
