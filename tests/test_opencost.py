"""Node prices from OpenCost's metrics: what is read, and what an answer that is no good comes to."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from metainf_operator.opencost import fetch_prices, parse_prices

METRICS = """\
# HELP node_total_hourly_cost Total node cost per hour
# TYPE node_total_hourly_cost gauge
node_total_hourly_cost{instance="gpu-1",node="gpu-1",provider_id="x"} 12.24
node_total_hourly_cost{instance="gpu-2"} 3
node_total_hourly_cost{node="free"} 0
node_total_hourly_cost{node="odd"} -1
node_total_hourly_cost{node="huge"} +Inf
node_total_hourly_cost{node="absurd"} 1e30
node_total_hourly_cost{node="unknown"} NaN
node_total_hourly_cost{} 7
# TYPE node_cpu_hourly_cost gauge
node_cpu_hourly_cost{node="gpu-1"} 0.03
"""


def test_reads_the_price_of_each_node_and_nothing_that_is_none() -> None:
    assert parse_prices(METRICS) == {"gpu-1": Decimal("12.24"), "gpu-2": Decimal("3.0")}


def test_nothing_is_nothing() -> None:
    assert parse_prices("") == {}


@given(st.floats(1e-5, 1e6))
def test_a_price_is_what_was_written(price: float) -> None:
    found = parse_prices(f'node_total_hourly_cost{{node="n"}} {price!r}\n')
    assert float(found["n"]) == price


def asked(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> dict[str, Decimal]:
    async def main() -> dict[str, Decimal]:
        app = web.Application()
        app.router.add_get("/metrics", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0]
            return dict(await fetch_prices(f"http://{host}:{port}/metrics"))
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def test_an_answer_in_pieces_is_read_to_its_end() -> None:
    async def slowly(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(METRICS), 100):
            await response.write(METRICS[start : start + 100].encode())
            await asyncio.sleep(0)
        return response

    assert asked(slowly) == parse_prices(METRICS)


def test_a_large_answer_is_read_to_its_end() -> None:
    lines = "".join(f'node_total_hourly_cost{{node="n{i}"}} {i + 1}\n' for i in range(5000))

    async def large(request: web.Request) -> web.StreamResponse:
        return web.Response(text=lines)

    assert len(asked(large)) == 5000


def test_an_answer_that_is_an_error_says_so() -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    with pytest.raises(OSError, match="it answers 503"):
        asked(broken)


def test_an_answer_without_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metainf_operator.opencost._MOST_BYTES", 1000)

    async def long(request: web.Request) -> web.StreamResponse:
        return web.Response(text="#" * 5000)

    with pytest.raises(OSError, match="longer than 1000 bytes"):
        asked(long)


def test_nobody_there_is_an_error_of_reading() -> None:
    with pytest.raises(OSError, match="reading prices from OpenCost"):
        asyncio.run(fetch_prices("http://127.0.0.1:9/metrics"))


def test_an_answer_that_is_no_metrics_is_an_error_of_values() -> None:
    async def page(request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>hello</html>")

    with pytest.raises(ValueError, match="html"):
        asked(page)
