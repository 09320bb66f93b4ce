"""What one look at the driver found: the GPUs of a node, or why none can be told.

Separate from the look itself, which happens in a process of its own: these values cross the pipe between the two.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["Fault", "Gpu", "MigDevice", "NoDriver", "Outcome", "Reading", "from_text", "to_text"]


@dataclass(frozen=True, slots=True)
class MigDevice:
    """One MIG slice, as NVML describes it."""

    profile: str
    """As the driver writes it: `1g.10gb`, `1g.10gb+me`."""
    memory_mib: int
    multiprocessors: int
    instance_slices: int
    compute_slices: int
    copy_engines: int
    decoders: int
    encoders: int
    jpeg_engines: int
    optical_flow_engines: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; None where the driver does not say."""

    name: str
    memory_mib: int | None
    compute_capability: tuple[int, int]
    pci_class: str | None
    """`0x030200` for a 3D controller, `0x030000` for one that drives displays."""
    mig_capable: bool
    mig_enabled: bool
    mig_devices: tuple[MigDevice, ...] = ()
    memory_bus_bits: int | None = None
    memory_clock_mhz: int | None = None
    cuda_cores: int | None = None
    sm_clock_mhz: int | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    nvlinks: int | None = None
    """Active ones; None where the driver does not know NVLink."""
    nvlink_version: int | None = None
    nvlink_mb_per_s: int | None = None
    """Of one link, per direction."""
    nvlink_group: int | None = None
    """GPUs of this node that it reaches over NVLink, itself included."""

    @property
    def bandwidth_bytes_per_s(self) -> float | None:
        """Peak of the memory: two transfers per clock, as every DDR, GDDR and HBM that NVML reports clocks of."""
        if not self.memory_bus_bits or not self.memory_clock_mhz:
            return None
        return 2.0 * self.memory_clock_mhz * 1e6 * self.memory_bus_bits / 8


@dataclass(frozen=True, slots=True)
class Reading:
    """The driver answered."""

    driver_version: str
    cuda_version: tuple[int, int]
    gpus: tuple[Gpu, ...]
    lost: tuple[str, ...] = ()
    """GPUs that the driver counts and can no longer speak with, each with its error."""
    machine: str | None = None
    """Product name of the machine."""


@dataclass(frozen=True, slots=True)
class NoDriver:
    """There is no driver here, or it is not loaded: no GPU can be used, and none is labelled."""

    detail: str


@dataclass(frozen=True, slots=True)
class Fault:
    """The driver is there and gives no sensible answer: nothing is known, and nothing follows from it."""

    detail: str


Outcome = Reading | NoDriver | Fault

_KINDS: dict[str, type[Reading] | type[NoDriver] | type[Fault]] = {
    kind.__name__: kind for kind in (Reading, NoDriver, Fault)
}


def to_text(outcome: Outcome) -> str:
    """One line of JSON."""
    return json.dumps({"kind": type(outcome).__name__, **asdict(outcome)})


def from_text(text: str) -> Outcome:
    """What `to_text` was given. ValueError: it is something else, as of a process that died on the way."""
    try:
        document = json.loads(text)
        kind = _KINDS[document.pop("kind")]
        if kind is Reading:
            document["gpus"] = tuple(_gpu(row) for row in document["gpus"])
        return kind(**_tupled(document))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"reading {text[:80]!r} as an outcome: {error}") from error


def _gpu(row: dict[str, Any]) -> Gpu:
    names = {field.name for field in fields(MigDevice)}
    devices = tuple(MigDevice(**{k: v for k, v in device.items() if k in names}) for device in row["mig_devices"])
    return Gpu(**{**_tupled(row), "mig_devices": devices})


def _tupled(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the values have tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
