"""Numbers and lists as an engineer writes them, for the generated texts.

Separate because all texts must word the same number the same way: an encoder sees tokens, not values.
"""

from collections.abc import Sequence

__all__ = ["amount", "byte_size", "count", "joined", "percent", "plain", "seconds", "times"]

_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def plain(value: float) -> str:
    """Three digits, with thousands marked: 1,230 or 0.0457."""
    if value == 0:
        return "0"
    if abs(value) >= 999.5:
        digits = max(0, len(str(int(abs(value)))) - 3)
        return f"{round(value / 10**digits) * 10**digits:,.0f}"
    return f"{value:.3g}"


def count(value: float, singular: str, plural: str | None = None) -> str:
    """A number with its noun: 1 layer, 28 layers."""
    return f"{plain(value)} {singular if value == 1 else plural or singular + 's'}"


def amount(value: float) -> str:
    """A large number in words: 7.62 billion."""
    for size, word in _LARGE:
        if value >= size:
            return f"{value / size:.3g} {word}"
    return plain(value)


def byte_size(value: float) -> str:
    """Decimal units: 15.2 GB."""
    for size, unit in _BYTES:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} bytes"


def times(value: float, unit: str) -> str:
    """A rate with an SI prefix: 989 TFLOP/s."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def seconds(value: float) -> str:
    """Seconds, milliseconds or microseconds."""
    if value >= 1:
        return f"{plain(value)} s"
    if value >= 1e-3:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.3g} us"


def percent(share: float) -> str:
    """A share in whole percent, but never a part of it as nothing or all."""
    if 0 < share < 0.01:
        return "under 1 %"
    if 0.99 < share < 1:
        return "over 99 %"
    return f"{share * 100:.0f} %"


def joined(parts: Sequence[str]) -> str:
    """A, B and C."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
