"""The door to engines: what is read, and what an answer that is no good comes to."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from metainf_operator import scraping
from metainf_operator.scraping import ScrapeError, ScrapeFault, Scraper
from test_engine_metrics import recorded

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def asked(handler: Handler, times: int = 1) -> list[str]:
    async def main() -> list[str]:
        app = web.Application()
        app.router.add_get("/metrics", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        scraper = Scraper(runner.addresses[0][1])
        try:
            return list(await asyncio.gather(*(scraper("127.0.0.1") for _ in range(times))))
        finally:
            await scraper.close()
            await runner.cleanup()

    return asyncio.run(main())


def fault_of(handler: Handler) -> ScrapeFault:
    with pytest.raises(ScrapeError) as raised:
        asked(handler)
    return raised.value.fault


def test_reads_what_a_server_says_to_its_end() -> None:
    text = recorded("0.32.0")

    async def slowly(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(text), 5000):
            await response.write(text[start : start + 5000].encode())
            await asyncio.sleep(0)
        return response

    assert asked(slowly) == [text]


def test_sends_no_credentials_and_follows_nobody() -> None:
    seen: list[web.Request] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.Response(status=307, headers={"Location": "http://169.254.169.254/latest"})

    assert fault_of(elsewhere) is ScrapeFault.REFUSED
    assert len(seen) == 1
    assert "Authorization" not in seen[0].headers


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_an_answer_that_is_an_error_is_refused(status: int) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    assert fault_of(broken) is ScrapeFault.REFUSED


def test_a_silent_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "_TOTAL_S", 0.1)

    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(1)
        return web.Response()

    assert fault_of(silent) is ScrapeFault.TIMED_OUT


def test_an_answer_without_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "_MOST_BYTES", 1000)

    async def long(request: web.Request) -> web.StreamResponse:
        return web.Response(text="#" * 5000)

    assert fault_of(long) is ScrapeFault.TOO_LONG


def test_a_connection_that_breaks_off_is_unreachable() -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"vllm:")
        assert request.transport is not None
        request.transport.close()
        return response

    assert fault_of(breaks) is ScrapeFault.UNREACHABLE


def test_nobody_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def main() -> None:
        scraper = Scraper(port)
        try:
            await scraper("127.0.0.1")
        finally:
            await scraper.close()

    with pytest.raises(ScrapeError, match="cannot be reached") as raised:
        asyncio.run(main())
    assert raised.value.fault is ScrapeFault.UNREACHABLE


def test_only_so_many_are_asked_at_a_time() -> None:
    under_way, most = 0, 0

    async def counting(request: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return web.Response(text="ok")

    assert asked(counting, times=60) == ["ok"] * 60
    assert 2 <= most <= 16
