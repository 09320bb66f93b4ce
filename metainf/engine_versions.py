"""Versions of vLLM: how they are spelt, which are known here, and which catalogue of flags holds for one.

Separate because defaults and flags move with every release (17 to 18 flags come and one goes every two releases):
whatever says something about a flag says it about a version, and a version of which nothing is known is refused by
name.

Why every second release: a catalogue is generated from an installed vLLM. A release between two catalogues is read by
the one before it, a later one than the last by the last, and that is said (`version_remark`): almost no flag goes, so
that what an older parser takes a newer one does too, while a flag that the older one lacks may not be there yet.
Rejected: the nearest by number, whose newer flags a pod could fail on; refusing, which would hold back every user of
the newest vLLM. What is older than the first catalogue is refused, for nothing says that our flags are there.
"""

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

from metainf.errors import InvalidWorkloadError
from metainf.flag_catalogue import FlagCatalogue, read_catalogue

__all__ = [
    "DEFAULT_ENGINE_VERSION",
    "EngineVersion",
    "flag_catalogue",
    "known_engine_versions",
    "known_version",
    "parse_engine_version",
    "unknown_flag",
    "version_remark",
]

DEFAULT_ENGINE_VERSION = "0.32.0"
_FOLDER = ("data", "flags")
_SUFFIX = ".json"

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


def parse_engine_version(text: str) -> EngineVersion:
    """Read a version as a release, an image tag or /version spell it: `0.32.0`, `v0.32.0-cu129`, `0.32.0+cpu`."""
    match = _VERSION.fullmatch(text.strip()) if len(text) <= 128 else None
    if match is None:
        raise InvalidWorkloadError(f"reading the vLLM version {text[:128]!r}: write it as {DEFAULT_ENGINE_VERSION}")
    return EngineVersion(int(match["major"]), int(match["minor"]), int(match["patch"] or 0))


@cache
def known_engine_versions() -> tuple[str, ...]:
    """Versions whose flags were asked of an installed vLLM and are in data/flags, the oldest first."""
    files = (each.name for each in resources.files("metainf").joinpath(*_FOLDER).iterdir())
    names = [name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)]
    return tuple(sorted(names, key=parse_engine_version))


@lru_cache(maxsize=64)
def known_version(version: str) -> EngineVersion:
    """The known version whose flags and defaults are taken for `version`: its own release's, or the one before it.

    Patch releases of vLLM fix faults and leave flags and defaults alone, so 0.32.1 is read as 0.32.0.

    Raises
    ------
    InvalidWorkloadError
        It is older than all that are known, or of another major version.
    """
    asked = parse_engine_version(version)
    known = [parse_engine_version(name) for name in known_engine_versions()]
    before = [each for each in known if (each.major, each.minor) <= (asked.major, asked.minor)]
    if not before or before[-1].major != asked.major:
        use = ", ".join(known_engine_versions())
        raise InvalidWorkloadError(f"vLLM {asked} is not known here, nor are its flags and defaults: use {use}")
    return before[-1]


def version_remark(version: str) -> str:
    """What to tell a person about a version that has no catalogue of its own; empty where it has.

    Raises
    ------
    InvalidWorkloadError
        As `known_version`.
    """
    asked, known = parse_engine_version(version), known_version(version)
    if (asked.major, asked.minor) == (known.major, known.minor):
        return ""
    return f"the flags of vLLM {asked} are not catalogued: those of {known} are taken for them"


def flag_catalogue(version: str = DEFAULT_ENGINE_VERSION) -> FlagCatalogue:
    """The flags that this version's parser takes, or is taken to."""
    return _load_catalogue(str(known_version(version)))


def unknown_flag(option: str, version: str) -> str:
    """What to say of an option that the version's parser does not take: which versions do, and which is nearest."""
    asked, catalogue = parse_engine_version(version), flag_catalogue(version)
    having = [name for name in known_engine_versions() if option in _load_catalogue(name).spellings]
    nearest = catalogue.nearest(option)
    remark = version_remark(version)
    return "".join(
        (
            f"vLLM {asked} has no flag {option[:80] if option.isprintable() else ascii(option[:80])}",
            f" ({remark})" if remark else "",
            f"; {' and '.join(having)} {'has' if len(having) == 1 else 'have'} it" if having else "",
            f"; did you mean {nearest}?" if nearest else "",
        )
    )


@lru_cache(maxsize=8)
def _load_catalogue(version: str) -> FlagCatalogue:
    return read_catalogue(resources.files("metainf").joinpath(*_FOLDER, version + _SUFFIX).read_text(encoding="utf-8"))
