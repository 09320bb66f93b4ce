"""Reads /metrics of engines: the one door to our pods.

Separate because it is the only place where the operator speaks to what users run: an address comes from a pod's status,
and the answer from a program that may be slow, silent or somebody else's. So each answer is bounded in time and size,
redirects lead nowhere, no credentials are sent (vLLM guards /v1 with its API key, and not /metrics), and only so many
pods are asked at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum

import aiohttp

from metainf.planning import HTTP_PORT

__all__ = ["Scrape", "ScrapeError", "ScrapeFault", "Scraper"]

_CONNECT_S = 2.0
_TOTAL_S = 5.0
_AT_A_TIME = 16
_MOST_BYTES = 4 << 20  # a server of vLLM 0.32 says 50 KB; each engine of a data-parallel one adds about 40


class ScrapeFault(StrEnum):
    """Why a pod could not be read: a label of the metric that counts it, so there are few."""

    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed out"
    REFUSED = "refused"
    TOO_LONG = "too long"
    NO_METRICS = "no metrics of vLLM"


class ScrapeError(Exception):
    """A pod cannot be read now; `fault` says why."""

    def __init__(self, fault: ScrapeFault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


Scrape = Callable[[str], Awaitable[str]]
"""The text of /metrics at a pod's address, as URLs have it. Raises ScrapeError."""


class Scraper:
    """Asks pods. Its connections are made in the event loop that it is first used in; `close` ends them."""

    def __init__(self, port: int = HTTP_PORT) -> None:
        self._port = port
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    async def __call__(self, address: str) -> str:
        """The text of /metrics of the pod at this address."""
        url = f"http://{address}:{self._port}/metrics"
        async with self._turns:
            try:
                async with self._sessions().get(url, allow_redirects=False) as answer:
                    if answer.status != 200:
                        raise ScrapeError(ScrapeFault.REFUSED, f"/metrics answers {answer.status}")
                    return await _text(answer)
            except TimeoutError as exc:
                raise ScrapeError(ScrapeFault.TIMED_OUT, f"/metrics does not answer within {_TOTAL_S:g} s") from exc
            except (aiohttp.ClientError, OSError) as exc:
                raise ScrapeError(ScrapeFault.UNREACHABLE, f"port {self._port} cannot be reached: {exc}") from exc

    def _sessions(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_TOTAL_S, sock_connect=_CONNECT_S)
            # A pod is asked twice a minute: connections that are kept would be as many as pods, and idle.
            connector = aiohttp.TCPConnector(force_close=True, limit=_AT_A_TIME)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False)
        return self._session

    async def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


async def _text(answer: aiohttp.ClientResponse) -> str:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise ScrapeError(ScrapeFault.TOO_LONG, f"/metrics is longer than {_MOST_BYTES} bytes")
    return body.decode("utf-8", "replace")
