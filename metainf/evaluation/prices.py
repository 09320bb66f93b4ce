"""What an hour of one accelerator costs, for the USD of reports: the lowest list price of nodes that have it.

Separate from `metainf.prices`, which is about nodes as a cloud sells them and never tells an accelerator's share of
one: a report compares methods on one accelerator, so every method of a task has the same price and only totals over
different accelerators depend on it. The dearer node of the same accelerator has more CPUs, which no method here uses.
An accelerator that no listed node has is without a price, never free.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

import numpy as np

from metainf import accelerators
from metainf.selectors.contract import FloatArray, TaskTable

__all__ = ["AcceleratorPrice", "accelerator_prices", "assumed_usd_per_hour", "replica_prices"]

_CATALOGUE_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "A100 40GB": ("A100-SXM-40GB",),
        "A100 80GB": ("A100-SXM-80GB",),
        "B200 180GB": ("B200-SXM-180GB",),
        "H100 80GB": ("H100-SXM-80GB",),
        "L4 24GB": ("L4-PCIe-24GB",),
        "RTX PRO 6000 Blackwell Server 96GB": ("RTX-PRO-6000-Server-PCIe-96GB",),
        "T4 16GB": ("T4-PCIe-16GB",),
    }
)
"""As the price list has them -> as the catalogue has them; the listed nodes of A100 and H100 have the SXM form."""
_LOG_ACCELERATORS = "layout_accelerators"


@dataclass(frozen=True, slots=True)
class AcceleratorPrice:
    """USD per hour of one accelerator in the node that asks least for it."""

    usd_per_hour: float
    instance_type: str
    region: str
    as_of: str


@cache
def accelerator_prices() -> Mapping[str, AcceleratorPrice]:
    """By the catalogue's names; of equal prices the first by the node's name."""
    text = resources.files("metainf").joinpath("data", "prices.json").read_text(encoding="utf-8")
    found: dict[str, AcceleratorPrice] = {}
    for row in sorted(json.loads(text)["prices"], key=lambda each: each["instance_type"]):
        each = AcceleratorPrice(
            float(row["usd_per_hour"]) / row["accelerators"], row["instance_type"], row["region"], row["as_of"]
        )
        for name in _CATALOGUE_NAMES.get(row["accelerator"], ()):
            if name not in found or each.usd_per_hour < found[name].usd_per_hour:
                found[name] = each
    return MappingProxyType(found)


@cache
def assumed_usd_per_hour(name: str) -> float:
    """What an hour of an accelerator of the catalogue may cost, for studies of choices between places.

    Its list price; of one without any an assumption, that what it asks for its memory bandwidth is the median of those
    with a price. For who calibrates choices the order of prices matters, and nobody is told this figure.
    """
    prices = accelerator_prices()
    if name in prices:
        return prices[name].usd_per_hour
    rates = [price.usd_per_hour / _bandwidth(each) for each, price in prices.items()]
    return float(np.median(rates)) * _bandwidth(name)


def _bandwidth(name: str) -> float:
    device = accelerators.get(name)
    assert device is not None, f"{name} is in the catalogue"
    return device.memory_bandwidth_bytes_per_s


def replica_prices(tasks: TaskTable, *, whole_replica: bool) -> FloatArray:
    """USD per hour of what each task's performance is of, shape (n,): a replica, or one accelerator of it.

    NaN where the accelerator has no price, or the features do not say how many make up a replica.
    """
    prices = accelerator_prices()
    one = np.array(
        [prices[name].usd_per_hour if name in prices else np.nan for name in tasks.accelerator.tolist()],
        dtype=np.float64,
    )
    if not whole_replica:
        return one
    if _LOG_ACCELERATORS not in tasks.feature_names:
        return np.full(len(tasks), np.nan)
    return np.asarray(one * np.round(np.exp(tasks.features[:, tasks.feature_names.index(_LOG_ACCELERATORS)])))
