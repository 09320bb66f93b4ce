"""The bundled price list: what a cloud asked for a whole node, on demand, on a named day.

Separate because it is the last resort of several sources, and the only one that ships with the package: a dated
snapshot, never a quote. A type or a region that is not in it is unknown: the price of the same machine in another
region is another price.

The rows come from chimeraforge 0.76.0 (MIT), which read them from the clouds' own lists; each keeps its address.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from importlib import resources

__all__ = ["BundledPrice", "bundled_price", "bundled_prices"]


@dataclass(frozen=True, slots=True)
class BundledPrice:
    """The on-demand list price of one node."""

    instance_type: str
    region: str
    usd_per_hour: Decimal
    source: str
    """Address of the list that the figure was read from."""
    as_of: date
    spot: bool = False
    """Always False: spot prices move by the hour and are not bundled."""


def bundled_price(instance_type: str, region: str | None) -> BundledPrice | None:
    """The listed price of `instance_type` in `region`; None where the list does not have it.

    Without a region the row of the list's own region is given, and says so: a cluster that does not label its
    regions still wants a figure. With a region, only a row of that region counts.
    """
    rows = _by_instance_type().get(instance_type.strip().lower(), ())
    if region is None:
        return rows[0] if len(rows) == 1 else None
    wanted = region.strip().lower()
    return next((row for row in rows if row.region == wanted), None)


def bundled_prices() -> tuple[BundledPrice, ...]:
    """The whole list, by instance type and region."""
    return tuple(row for rows in _by_instance_type().values() for row in rows)


@cache
def _by_instance_type() -> Mapping[str, tuple[BundledPrice, ...]]:
    text = resources.files("metainf").joinpath("data", "prices.json").read_text(encoding="utf-8")
    table: dict[str, tuple[BundledPrice, ...]] = {}
    for row in json.loads(text)["prices"]:
        price = BundledPrice(
            instance_type=row["instance_type"],
            region=row["region"].lower(),
            usd_per_hour=Decimal(row["usd_per_hour"]),
            source=row["source"],
            as_of=date.fromisoformat(row["as_of"]),
        )
        key = price.instance_type.lower()
        table[key] = (*table.get(key, ()), price)
    return table
