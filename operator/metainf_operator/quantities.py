"""Quantities as nodes and pods state them, read with patience.

Separate from `metainf.manifests`, whose reader refuses what a person wrote wrong: here the API server has checked the
text already, and one odd annotation or device must not hide a node.
"""

from decimal import Decimal

from metainf.manifests import parse_quantity

__all__ = ["quantity_or_none"]


def quantity_or_none(text: str | None) -> Decimal | None:
    """The number that a non-negative quantity stands for; None for what is none."""
    try:
        return parse_quantity(text or "")
    except ValueError:
        return None
