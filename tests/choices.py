"""Workloads, pools and requests for tests of the selection: small, and every figure in sight."""

from decimal import Decimal
from typing import Any

from metainf import accelerators
from metainf.accelerators import Accelerator
from metainf.architecture import ModelArchitecture
from metainf.known_models import known_model
from metainf.pools import Billing, CapacityType, NodeCapacity, NodePool, NodeShape, Price, PriceSource, Taint
from metainf.selection import Request
from metainf.workload import (
    Budget,
    BudgetKind,
    LatencyMetric,
    Load,
    MethodLimits,
    RateLoad,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
    Workload,
)

GIB = 1 << 30
VERSION = "0.32.0"
DEFAULT_ONLY = MethodLimits(allow=frozenset({"default"}))


def architecture(name: str = "Qwen/Qwen2.5-7B-Instruct") -> ModelArchitecture:
    found = known_model(name)
    assert found is not None
    return found


def device(name: str) -> Accelerator:
    found = accelerators.get(name)
    assert found is not None
    return found


def pool(
    name: str = "h100",
    accelerator: str = "H100-SXM-80GB",
    *,
    per_node: int = 8,
    nodes: int = 1,
    free: tuple[int, ...] | None = None,
    addable: int = 0,
    price: str | None = "80",
    currency: str = "USD",
    billing: Billing = Billing.SHARE,
    capacity_type: CapacityType = CapacityType.ON_DEMAND,
    taints: tuple[Taint, ...] = (),
    labels: tuple[tuple[str, str], ...] = (),
) -> NodePool:
    """Nodes with 16 cores and 128 GiB for each accelerator; `free` overrides how many are free, node by node."""
    shape = NodeShape(per_node, 16.0 * per_node, 128 * GIB * per_node)
    left = free if free is not None else (per_node,) * nodes
    return NodePool(
        name=name,
        accelerator=device(accelerator),
        product=accelerator,
        resource_name="nvidia.com/gpu",
        shape=shape,
        nodes=tuple(
            NodeCapacity(f"{name}-{i}", count, shape.cpu_cores, shape.memory_bytes) for i, count in enumerate(left)
        ),
        addable_nodes=addable,
        price=None if price is None else Price(Decimal(price), currency, PriceSource.ANNOTATION),
        billing=billing,
        capacity_type=capacity_type,
        taints=taints,
        match_labels=(("pool", name),),
        labels=labels,
    )


def bound(seconds: float, metric: LatencyMetric = LatencyMetric.TTFT) -> SloBound:
    return SloBound(metric, Statistic.P95, seconds)


def workload(
    budget: str | Budget = "100",
    *,
    load: Load | None = None,
    slo: tuple[SloBound, ...] = (),
    methods: MethodLimits = DEFAULT_ONLY,
    lengths: tuple[float, float] = (500, 100),
    **fields: Any,
) -> Workload:
    return Workload(
        traffic=Traffic(load or RateLoad(4.0), TokenLengths(lengths[0]), TokenLengths(lengths[1])),
        budget=budget if isinstance(budget, Budget) else Budget(BudgetKind.PER_HOUR, Decimal(budget)),
        slo=Slo(slo),
        methods=methods,
        **fields,
    )


def request(asked: Workload, *pools: NodePool, model: str = "Qwen/Qwen2.5-7B-Instruct", **fields: Any) -> Request:
    return Request(asked, architecture(model), pools, VERSION, **fields)
