"""Reads node prices from OpenCost's metrics.

Separate because it is the one source of prices outside of the API server. Parsing is pure; a source that does not
answer keeps what it said last, since a price does not vanish with the program that reports it.
"""

from collections.abc import Mapping
from decimal import Decimal

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["fetch_prices", "parse_prices"]

_METRIC = "node_total_hourly_cost"
_TIMEOUT_S = 10.0
_MOST_BYTES = 32 << 20
_CHEAPEST, _DEAREST = 1e-6, 1e9  # USD per hour; what is outside is no price of a node


def parse_prices(text: str) -> Mapping[str, Decimal]:
    """USD per hour by node. Zero, negative and absurd figures are left out: unknown, never free.

    Source: opencost.io/docs/integrations/metrics; zeros on some machine types are opencost issue 3444.
    """
    prices: dict[str, Decimal] = {}
    for family in text_string_to_metric_families(text):
        if family.name != _METRIC:
            continue
        for sample in family.samples:
            node = sample.labels.get("node") or sample.labels.get("instance")
            if node and _CHEAPEST <= sample.value <= _DEAREST:
                prices[node] = Decimal(repr(sample.value))
    return prices


async def fetch_prices(url: str) -> Mapping[str, Decimal]:
    """The prices that OpenCost reports now; OSError or ValueError where it does not answer as it should."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            if answer.status != 200:
                raise OSError(f"reading prices from OpenCost: it answers {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise OSError(f"reading prices from OpenCost: the answer is longer than {_MOST_BYTES} bytes")
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise OSError(f"reading prices from OpenCost: {exc}") from exc
    return parse_prices(body.decode("utf-8", "replace"))
