"""Amounts as manifests spell them, read into numbers and written back: durations, decimals, memory, CPU, money.

Separate because specs, node facts and decisions share these spellings, and each has a trap: `80G` is less than `80Gi`,
`100m` is a tenth of a core, and no amount may ever come out as `1e-3` or `inf`.
"""

import math
import re
from decimal import ROUND_UP, Decimal

__all__ = [
    "cpu_cores",
    "duration_s",
    "format_cpu",
    "format_decimal",
    "format_duration",
    "format_figure",
    "format_memory",
    "format_money",
    "memory_bytes",
    "parse_quantity",
]

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_QUANTITY = re.compile(r"\+?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,2})|([numkMGTPE]|[KMGTPE]i)?)")
# Source: Kubernetes API reference, Quantity.
_SUFFIXES = {
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1000) ** -power for power, suffix in enumerate(("m", "u", "n"), start=1)},
}
_BINARY_UNITS = (("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10))
_FIGURE_DIGITS = 4
_MOST_DECIMALS = 9
_LARGEST_FIGURE = 1e15
_CENT = Decimal("0.01")
_MONEY_STEP = Decimal("0.0001")


def duration_s(text: str) -> float:
    """Seconds of a duration such as `500ms` or `1h30m`.

    Raises
    ------
    ValueError
        The text is no duration.
    """
    total, end = Decimal(0), 0
    for match in _DURATION.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        total += Decimal(match[1]) * _SECONDS[match[2]]
    if end != len(text) or not text:
        raise ValueError(f"write a duration such as 500ms, 2s or 1h30m, not {text!r}")
    return float(total)


def format_duration(seconds: float) -> str:
    """The duration as a person writes it: `500ms`, `1.5s`, `1h30m`; exact, and read back to the same number."""
    left = Decimal(repr(seconds))
    if left < 1:
        return f"{format_decimal(left * 1000)}ms"
    parts = []
    for unit, size in (("h", 3600), ("m", 60)):
        whole = int(left // size)
        if whole:
            parts.append(f"{whole}{unit}")
        left -= whole * size
    if left:
        whole_s, rest_ms = int(left), (left - int(left)) * 1000
        if rest_ms == int(rest_ms):
            parts.append(f"{format_decimal(left)}s")
        else:
            parts.extend([f"{whole_s}s"] if whole_s else [])
            parts.append(f"{format_decimal(rest_ms)}ms")
    return "".join(parts)


def parse_quantity(text: str) -> Decimal:
    """The number that a non-negative Kubernetes quantity stands for, such as `3920m`, `80Gi` or `1.5G`.

    Raises
    ------
    ValueError
        The text is no quantity.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"write an amount such as 80Gi, 4 or 500m, not {text!r}")
    factor = Decimal(10) ** int(match[2]) if match[2] else _SUFFIXES.get(match[3] or "", Decimal(1))
    return Decimal(match[1]) * factor


def memory_bytes(text: str) -> int:
    """Bytes of a Kubernetes quantity: `80Gi` is 85899345920, `80G` is 80000000000.

    Raises
    ------
    ValueError
        The text is no quantity.
    """
    return int(parse_quantity(text))


def cpu_cores(text: str) -> float:
    """Cores of a Kubernetes quantity: `4`, `0.5` or `500m`.

    Raises
    ------
    ValueError
        The text is no quantity.
    """
    return float(parse_quantity(text))


def format_memory(amount_bytes: int) -> str:
    """The quantity in the largest binary unit that gives a whole number."""
    for unit, size in _BINARY_UNITS:
        if amount_bytes >= size and amount_bytes % size == 0:
            return f"{amount_bytes // size}{unit}"
    return str(amount_bytes)


def format_cpu(cores: float) -> str:
    """Whole cores as a number, parts in millicores."""
    millicores = math.ceil(round(cores * 1000, 3))
    return str(millicores // 1000) if millicores % 1000 == 0 else f"{millicores}m"


def format_decimal(value: Decimal) -> str:
    """Plain digits without an exponent and without zeros at the end."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_figure(value: float) -> str | None:
    """A predicted or measured figure to four digits; None where it is not a finite number that a record can hold."""
    if not math.isfinite(value) or value < 0 or value >= _LARGEST_FIGURE:
        return None
    if value == 0:
        return "0"
    decimals = min(_MOST_DECIMALS, max(0, _FIGURE_DIGITS - 1 - math.floor(math.log10(value))))
    return format_decimal(Decimal(f"{value:.{decimals}f}"))


def format_money(amount: Decimal) -> str:
    """An amount of money with two decimals, or up to four where it has more, rounded up: a cost is never flattered."""
    rounded = amount.quantize(_MONEY_STEP, rounding=ROUND_UP)
    cents = rounded.quantize(_CENT)
    return f"{cents:f}" if cents == rounded else format_decimal(rounded)
