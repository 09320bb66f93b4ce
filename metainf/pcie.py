"""What a PCIe link carries, by its generation and width.

Separate from the catalogue of accelerators, whose entries name a generation: nodes' labels name one too, and a measured
entry is written with the one that its rate is of.
"""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["PCIE_X16_BYTES_PER_S", "pcie_bytes_per_s", "pcie_generation"]

PCIE_X16_BYTES_PER_S: Mapping[int, float] = MappingProxyType({3: 15.75e9, 4: 31.5e9, 5: 63.0e9, 6: 121.0e9})
"""Per direction, after line coding. Source: PCI-SIG, PCI Express base specification 3.0 to 6.0."""


def pcie_bytes_per_s(generation: int, lanes: int = 16) -> float | None:
    """What a link of this generation and width carries per direction; None for a generation that is not known."""
    of_16 = PCIE_X16_BYTES_PER_S.get(generation)
    return of_16 * lanes / 16 if of_16 is not None else None


def pcie_generation(bytes_per_s: float | None) -> int | None:
    """The generation whose 16 lanes carry just so much; None where there is none, or no link."""
    return next((generation for generation, most in PCIE_X16_BYTES_PER_S.items() if most == bytes_per_s), None)
