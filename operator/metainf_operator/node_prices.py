"""What a node costs, and which nodes cost the same.

Separate from the inventory, which says what nodes are: prices come from four places, and one of them is a sum of floats
that differs on equal nodes and moves with every scrape. As it comes it would tear pools apart and rename them.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from metainf.pools import CapacityType, Price, PriceSource
from metainf.prices import bundled_price
from metainf_operator.projections import PRICE_ANNOTATION, NodeFacts

__all__ = ["OpenCostPrices", "agreed_price", "amount_of", "node_price", "price_groups"]

OpenCostPrices = Mapping[str, Decimal]
"""USD per hour by node, as OpenCost's `node_total_hourly_cost` has it."""

# Prices of one kind of node that are this close are one price: OpenCost sums CPU and memory of each node apart, and two
# machines of a type differ in their memory by a few pages.
_ONE_PRICE_RATIO = Decimal("1.01")


def price_groups(members: Sequence[NodeFacts], opencost: OpenCostPrices) -> list[tuple[Price | None, list[NodeFacts]]]:
    """Members by price, the most first; each group at the price of its dearest, so that no budget is broken."""
    told = [(node_price(node, opencost), node) for node in members]
    priced = [(price, node) for price, node in told if price is not None]
    groups: list[list[tuple[Price, NodeFacts]]] = []
    for price, node in sorted(priced, key=lambda pair: (pair[0].currency, pair[0].per_hour, pair[1].name)):
        lowest = groups[-1][0][0] if groups else None
        if lowest is None or lowest.currency != price.currency or price.per_hour > lowest.per_hour * _ONE_PRICE_RATIO:
            groups.append([])
        groups[-1].append((price, node))
    found: list[tuple[Price | None, list[NodeFacts]]] = [
        (_dearest([price for price, _ in group]), sorted((node for _, node in group), key=lambda n: n.name))
        for group in groups
    ]
    unknown = [node for price, node in told if price is None]
    if unknown:
        found.append((None, unknown))
    return sorted(found, key=lambda item: (-len(item[1]), item[1][0].name))


def _dearest(prices: Sequence[Price]) -> Price:
    """The dearest; of equal ones that of the best source and the latest date."""
    sources = list(PriceSource)
    return max(prices, key=lambda p: (p.per_hour, -sources.index(p.source), p.as_of or "", p.reference))


def amount_of(price: Price | None) -> str:
    """What tells pools of one kind apart: not where the price was read, nor when."""
    return "None" if price is None else f"{price.per_hour.normalize():f} {price.currency}"


def agreed_price(members: Sequence[NodeFacts], opencost: OpenCostPrices) -> Price | None:
    """The members' own price; the dearest where they differ, so that no budget is broken; unknown where one's is."""
    prices = [price for price in (node_price(n, opencost) for n in members) if price is not None]
    if not prices or len({p.currency for p in prices}) > 1 or len(prices) < len(members):
        return None
    return _dearest(prices)


def node_price(node: NodeFacts, opencost: OpenCostPrices) -> Price | None:
    """Annotation, then OpenCost, then the bundled list; zero or absent is unknown, never free."""
    if node.price is not None:
        return Price(node.price, node.currency, PriceSource.ANNOTATION, node.price_as_of, PRICE_ANNOTATION)
    if node.price_problem is not None:
        return None  # its owner meant to price it: falling back to a list price would hide the mistake
    metric = opencost.get(node.name)
    if metric is not None and metric.is_finite() and metric > 0:
        return Price(_rounded(metric), "USD", PriceSource.OPENCOST, None, "node_total_hourly_cost")
    listed = bundled_price(node.origin.instance_type, node.origin.region) if node.origin.instance_type else None
    # The list is of on-demand prices: for a spot node it would be a wrong figure, not a dear one.
    if listed is None or node.origin.capacity_type is CapacityType.SPOT:
        return None
    return Price(listed.usd_per_hour, "USD", PriceSource.BUNDLED, listed.as_of.isoformat(), listed.source)


def _rounded(per_hour: Decimal) -> Decimal:
    """To a cent, or to four digits where these are finer: what OpenCost tells beyond is the noise of summed floats."""
    step = Decimal(1).scaleb(min(-2, per_hour.adjusted() - 3))
    return Decimal(f"{per_hour.quantize(step).normalize():f}")
