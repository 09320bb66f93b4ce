"""Reads the names that clusters give to accelerators: any spelling to (family, memory, form factor), or to a doubt.

Separate from the catalogue because the spellings belong to others and change without notice. The one rule is that
nothing is guessed: an `Ambiguous` name lists what it may mean, an `Unknown` name stays as it was written, and a word
that is not understood makes the whole name unknown. (An operator that took an H100 for an A100, ome #622, and one
that wrote a raw label into an enum, dynamo #13239, are why.)

How: case and separators are dropped, so `NVIDIA-H100-80GB-HBM3` and `nvidia_h100 80gb/hbm3` are one name. Suffixes
for MIG and for time-slicing are taken off. What is left is an alias of the catalogue, or a family followed by
qualifiers: memory, form factor, kind of memory. Every character has to be used up.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, lru_cache

from metainf.accelerators import Accelerator, FormFactor, InstanceAccelerator, catalogue, get, instance_types

__all__ = [
    "Ambiguous",
    "Exact",
    "Match",
    "Unknown",
    "UnknownReason",
    "by_instance_type",
    "find",
]


class UnknownReason(StrEnum):
    """Why a name stands for no device of the catalogue."""

    NO_NAME = "NoName"
    """Shows when nothing names the device, or only its vendor is named."""
    NOT_IN_CATALOGUE = "NotInCatalogue"
    """Shows when the name, or a word in it, is not known."""
    CONTRADICTS_ITSELF = "ContradictsItself"
    """Shows when the family exists but not with that memory, form factor or kind of memory."""
    CONTRADICTS_MEMORY = "ContradictsMemory"
    """Shows when the name is known and the memory reported beside it cannot be that device's."""
    NO_SUCH_PARTITION = "NoSuchPartition"
    """Shows when the GPU cannot be cut into the MIG profile of the name."""
    CONFLICTING_NAMES = "ConflictingNames"
    """Shows when two labels of one node name different devices."""


@dataclass(frozen=True, slots=True)
class Exact:
    """The name means this device and no other."""

    raw: str
    accelerator: Accelerator
    """Cut down to its slice where the name has a MIG profile: `accelerator.partition` tells."""
    shared: bool = False
    """True where the name says that time-slicing shares the device: nobody has it, or its memory, alone."""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The name means one of these; which one it does not say."""

    raw: str
    candidates: tuple[Accelerator, ...]
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """The name means nothing that the catalogue has."""

    raw: str
    reason: UnknownReason
    named: tuple[Accelerator, ...] = ()
    """What the name alone would mean, where something beside it contradicts."""
    shared: bool = False


Match = Exact | Ambiguous | Unknown


@lru_cache(maxsize=4096)
def find(raw: str, *, memory_bytes: int | None = None) -> Match:
    """What `raw` stands for.

    Parameters
    ----------
    raw : str
        A label's value, a marketing name, a driver's name or a catalogue name.
    memory_bytes : int or None
        Memory of the device as reported beside the name: chooses between variants, and contradicts a wrong name.
    """
    name, shared = _without_suffix(_squash(raw), "shared")
    if _ONLY_NOISE.fullmatch(name):
        return Unknown(raw, UnknownReason.NO_NAME, shared=shared)
    name, profile = _without_profile(name)
    named, reason = _candidates(name)
    if not named:
        return Unknown(raw, reason, shared=shared)
    if profile is not None:
        named = tuple(cut for whole in named if (cut := profile.of(whole)) is not None)
        if not named:
            return Unknown(raw, UnknownReason.NO_SUCH_PARTITION, shared=shared)
    found = named
    if memory_bytes is not None:
        found = tuple(_with_memory(device, memory_bytes) for device in named if _fits(device, memory_bytes))
        if not found:
            return Unknown(raw, UnknownReason.CONTRADICTS_MEMORY, named=named, shared=shared)
    if len(found) > 1:
        return Ambiguous(raw, found, shared=shared)
    return Exact(raw, found[0], shared=shared)


@lru_cache(maxsize=4096)
def by_instance_type(instance_type: str) -> tuple[Accelerator, InstanceAccelerator] | None:
    """The device that a cloud documents for this instance type, with the row that says so; None if none is known."""
    lowered = instance_type.strip().lower()
    for row in instance_types():
        if re.match(row.pattern, lowered):
            device = get(row.accelerator)
            if device is not None:
                return device, row
    return None


@dataclass(frozen=True, slots=True)
class _Profile:
    """A MIG profile as a name writes it: 1g.10gb, 3g.40gb, 1c.3g.40gb, 1g.10gb+me."""

    instance_slices: int
    compute_slices: int
    memory_gb: int

    def __str__(self) -> str:
        instance = f"{self.instance_slices}g.{self.memory_gb}gb"
        return instance if self.compute_slices == self.instance_slices else f"{self.compute_slices}c.{instance}"

    def of(self, whole: Accelerator) -> Accelerator | None:
        """`whole` cut down to this profile; None where it cannot be."""
        partition = whole.mig_partition(str(self), self.instance_slices, self.memory_gb)
        if partition is None or self.compute_slices > self.instance_slices:
            return None
        ratio = partition.compute_ratio * self.compute_slices / self.instance_slices
        return whole.partitioned(replace(partition, compute_ratio=ratio))


_PROFILE = re.compile(r"mig(?:(?P<c>\d)c)?(?P<g>\d)g(?P<gb>\d{1,3})gb(?:nome|meall|meallgfx|me|gfx|all)?$")

# Words that carry no fact. "data center gpu" is Intel's; "vf" is a virtual function of an MI300X, a whole device.
_NOISE = "nvidia|tesla|geforce|quadro|amd|instinct|intel|habana|labs|datacenter|gpu|graphics|accelerator|vf"

_NOISE_GENERATION = "generation"

_FORM_FACTORS: Mapping[str, FormFactor] = {
    "sxm": FormFactor.SXM,
    "nvlink": FormFactor.SXM,
    "pcie": FormFactor.PCIE,
    "nvl": FormFactor.NVL,
    "oam": FormFactor.OAM,
}

_QUALIFIERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<form>sxm|nvlink|pcie|oam)[2-6]",
        r"(?P<form>sxm|nvlink|pcie|nvl|oam)",
        r"(?P<gb>\d{2,3})(?:gib|gb|g)",
        r"(?P<memory>hbm[23]e?|gddr[67]x?)",
        rf"{_NOISE}|{_NOISE_GENERATION}",
    )
)


_ONLY_NOISE = re.compile(rf"(?:{_NOISE})*")


def _squash(raw: str) -> str:
    return re.sub(r"[^a-z0-9]", "", raw.lower())


def _without_suffix(name: str, suffix: str) -> tuple[str, bool]:
    return (name[: -len(suffix)], True) if name.endswith(suffix) else (name, False)


def _without_profile(name: str) -> tuple[str, _Profile | None]:
    match = _PROFILE.search(name)
    if match is None:
        return name, None
    slices = int(match["g"])
    profile = _Profile(slices, int(match["c"] or slices), int(match["gb"]))
    return name[: match.start()], profile


def _candidates(name: str) -> tuple[tuple[Accelerator, ...], UnknownReason]:
    """Devices that the bare name can mean, and why not where there are none."""
    spelled = _spelled().get(name)
    if spelled is not None:
        return spelled, UnknownReason.NOT_IN_CATALOGUE
    for pattern, family in _families():
        match = pattern.match(name)
        if match is None:
            continue
        kept = _qualified(family, name[match.end() :])
        if kept is not None:
            return kept, UnknownReason.CONTRADICTS_ITSELF
    return (), UnknownReason.NOT_IN_CATALOGUE


def _qualified(family: tuple[Accelerator, ...], rest: str) -> tuple[Accelerator, ...] | None:
    """The family's devices to which every qualifier in `rest` applies; None where `rest` holds another word.

    Without separators `sxm480gb` can be read twice (SXM4, 80 GB; SXM, 480 GB): the first reading that a device of
    the family satisfies is taken.
    """
    if not rest:
        return family
    read = False
    for pattern in _QUALIFIERS:
        match = pattern.match(rest)
        if match is None:
            continue
        kept = _qualified(tuple(device for device in family if _applies(match, device)), rest[match.end() :])
        if kept:
            return kept
        read = read or kept is not None
    return () if read else None


def _applies(qualifier: re.Match[str], device: Accelerator) -> bool:
    facts = qualifier.groupdict()
    if "gb" in facts:
        return int(facts["gb"]) in device.marketed_memory_gb
    if "memory" in facts:
        return device.memory_type.lower() == facts["memory"]
    if "form" in facts:
        return device.form_factor is _FORM_FACTORS[facts["form"]]
    return True


@cache
def _spelled() -> Mapping[str, tuple[Accelerator, ...]]:
    """Squashed catalogue names and aliases; an alias of two entries is ambiguous on purpose."""
    spelled: dict[str, tuple[Accelerator, ...]] = {}
    for device in catalogue():
        for spelling in dict.fromkeys(_squash(name) for name in (device.name, *device.aliases)):
            spelled[spelling] = (*spelled.get(spelling, ()), device)
    return spelled


@cache
def _families() -> tuple[tuple[re.Pattern[str], tuple[Accelerator, ...]], ...]:
    """A pattern per family name, the longest first, so that an L40S is never read as an L40 or an L4."""
    families: dict[str, list[Accelerator]] = {}
    for device in catalogue():
        for name in device.family_names:
            families.setdefault(_squash(name), []).append(device)
    longest_first = sorted(families, key=lambda name: (-len(name), name))
    return tuple((re.compile(rf"(?:{_NOISE})*{re.escape(name)}"), tuple(families[name])) for name in longest_first)


def _fits(device: Accelerator, memory_bytes: int) -> bool:
    return device.memory_matches(memory_bytes) or device.cpu is not None


def _with_memory(device: Accelerator, memory_bytes: int) -> Accelerator:
    """A slice takes the reported memory, since its name rounds; a whole device keeps the catalogue's."""
    if device.partition is None:
        return device
    return replace(device, memory_bytes=memory_bytes, partition=replace(device.partition, memory_bytes=memory_bytes))
