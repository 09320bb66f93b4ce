"""How long one decision over about 1,000 candidates takes, by the predictor that ships: the selection on one core."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from metainf.accelerators import get
from metainf.known_models import known_model
from metainf.pools import NodeCapacity, NodePool, NodeShape, Price, PriceSource
from metainf.predictors.default import default_predictor
from metainf.selection import Request, Selection, select
from metainf.workload import (
    Budget,
    BudgetKind,
    LatencyMetric,
    RateLoad,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
    Workload,
)
from metainf_operator.garbage import collect_rarely

__all__ = ["DecisionTimes", "time_decisions"]

_GIB = 1 << 30
_POOLS = (
    ("a100", "A100-SXM-80GB", 8, "27.44705", 2),
    ("h100", "H100-SXM-80GB", 8, "55.04", 2),
    ("l40s", "L40S-PCIe-48GB", 4, "7.2", 2),
    ("l4", "L4-PCIe-24GB", 4, "3.2", 2),
    ("a10g", "A10G-PCIe-24GB", 4, "5.67", 2),
    ("a100-40", "A100-SXM-40GB", 8, "21.96", 2),
    ("a100-pcie", "A100-PCIe-80GB", 8, "22.40", 2),
    ("a30", "A30-PCIe-24GB", 4, "4.40", 2),
    ("a40", "A40-PCIe-48GB", 8, "5.60", 2),
    ("a6000", "RTX-A6000-PCIe-48GB", 8, "6.40", 2),
    ("b200", "B200-SXM-180GB", 8, "113.93", 2),
    ("h100-pcie", "H100-PCIe-80GB", 8, "35.20", 2),
    ("h20", "H20-SXM-96GB", 8, "24.00", 2),
    ("h100-nvl", "H100-NVL-94GB", 2, "13.96", 2),
    ("h200", "H200-SXM-141GB", 8, "63.30", 2),
    ("l40", "L40-PCIe-48GB", 8, "12.80", 2),
    ("mi300x", "MI300X-OAM-192GB", 8, "48.00", 2),
    ("rtx-6000-ada", "RTX-6000-Ada-PCIe-48GB", 8, "9.60", 2),
    ("t4", "T4-PCIe-16GB", 4, "3.91", 4),
)
"""Enough pools for more than 1,000 candidates to be predicted in each decision. Prices of the order of the market's."""


@dataclass(frozen=True, slots=True)
class DecisionTimes:
    """Wall times of single decisions, milliseconds, and how many candidates each looked at."""

    candidates: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    count: int


def _pool(name: str, accelerator: str, count: int, price: str, nodes: int) -> NodePool:
    device = get(accelerator)
    if device is None:
        raise ValueError(f"{accelerator} is not in the catalogue")
    return NodePool(
        name=name,
        accelerator=device,
        product=accelerator,
        resource_name="nvidia.com/gpu",
        shape=NodeShape(count, 96.0, 1000 * _GIB),
        nodes=tuple(NodeCapacity(f"{name}-{i}", count, 96.0, 1000 * _GIB) for i in range(nodes)),
        price=Price(Decimal(price), "USD", PriceSource.ANNOTATION),
    )


def _requests(*, new_kinds: bool = False) -> Iterator[Request]:
    """One question after another, each of another rate: no answer can be remembered, but what is known of lanes can.

    With `new_kinds` each is of burstier traffic than the last: of that nothing is known yet but the replicas.
    """
    architecture = known_model("Qwen/Qwen2.5-7B-Instruct")
    if architecture is None:
        raise ValueError("the model is not known")
    pools = tuple(_pool(*row) for row in _POOLS)
    slo = Slo((SloBound(LatencyMetric.TTFT, Statistic.P95, 1.0), SloBound(LatencyMetric.TPOT, Statistic.P95, 0.05)))
    base = Workload(
        Traffic(RateLoad(2.0), TokenLengths(1200, 3000), TokenLengths(250, 600)),
        Budget(BudgetKind.PER_HOUR, Decimal(40)),
        slo,
    )
    number = 0
    while True:
        load, burstiness = RateLoad(2.0 + 0.001 * (number % 500)), 1.0 + 0.001 * number * new_kinds
        number += 1
        traffic = replace(base.traffic, load=load, burstiness=burstiness)
        yield Request(replace(base, traffic=traffic), architecture, pools, "0.32.0")


def time_decisions(count: int = 1000, warm_up: int = 20, *, new_kinds: bool = False) -> DecisionTimes:
    """Time so many decisions, one after another; each about traffic of a new kind, or only of another rate."""
    (predictor, fault), requests = default_predictor(), _requests(new_kinds=new_kinds)
    if fault is not None:
        raise ValueError(f"the predictor that ships cannot be used: {fault}")
    times: list[float] = []
    candidates = 0
    for number in range(count + warm_up):
        request = next(requests)
        if number == warm_up:
            collect_rarely()
        started = time.perf_counter()
        outcome = select(request, predictor)
        took = time.perf_counter() - started
        if number >= warm_up:
            times.append(took * 1000)
            scored = outcome.chosen if isinstance(outcome, Selection) else outcome.nearest[0]
            candidates = max(candidates, len(scored.assessment.candidates))
    cuts = statistics.quantiles(times, n=100)
    return DecisionTimes(candidates, statistics.median(times), cuts[98], max(times), count)
