"""Reads Kubernetes quantities ("3920m", "32777408Ki", "1.5G") as numbers.

Separate because every reader of nodes and pods needs it and it knows nothing of either.
"""

import re
from decimal import Decimal

__all__ = ["parse_quantity"]

_SCALES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}
"""Source: Kubernetes API, resource.Quantity."""

_QUANTITY = re.compile(
    r"(?P<number>\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)"
    r"(?P<suffix>[KMGTPE]i|[numkMGTPE]?)"
)


def parse_quantity(text: str | None) -> Decimal | None:
    """The number that a non-negative quantity stands for; None for what is none."""
    match = _QUANTITY.fullmatch(text or "")
    return Decimal(match["number"]) * _SCALES[match["suffix"]] if match else None
