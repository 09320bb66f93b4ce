"""The small HTTP server of a replica: is it alive, is it ready, and what does it count.

Separate from kopf's own liveness endpoint, which knows neither our caches nor our workers. A standby serves all of it:
it is ready when its caches are, so that a rollout of the operator does not wait for a leadership that it will not get.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from aiohttp import web

from metainf_operator.metrics import CONTENT_TYPE, Metrics

__all__ = ["Check", "HealthServer"]

Check = Callable[[], str | None]
"""None where all is well, otherwise a sentence that says what is not."""

SHUTDOWN_S = 1.0
"""A probe that hangs must not hold up the end of the process."""

NO_CHECKS: Mapping[str, Check] = MappingProxyType({})


class HealthServer:
    """Serves /healthz, /readyz and /metrics, on one port where both numbers are equal and not 0.

    /healthz answers 503 where an `alive` check fails, and does not answer where the event loop is stuck: to a kubelet
    both mean a restart. /readyz wants the `ready` checks as well.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        alive: Mapping[str, Check] = NO_CHECKS,
        ready: Mapping[str, Check] = NO_CHECKS,
        host: str | None = None,
    ) -> None:
        self._metrics = metrics
        self._alive = dict(alive)
        self._ready = dict(ready)
        self._host = host
        self._runners: list[web.AppRunner] = []
        self.health_port = 0
        """The port that was taken; 0 before `start`."""
        self.metrics_port = 0
        """The port that was taken; 0 before `start`."""

    async def start(self, health_port: int, metrics_port: int) -> None:
        """Listen. OSError: a port is taken."""
        health = (web.get("/healthz", self._healthz), web.get("/readyz", self._readyz))
        metrics = (web.get("/metrics", self._render),)
        if health_port == metrics_port != 0:
            self.health_port = self.metrics_port = await self._listen(health + metrics, health_port)
            return
        self.health_port = await self._listen(health, health_port)
        self.metrics_port = await self._listen(metrics, metrics_port)

    async def stop(self) -> None:
        """Stop listening."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _listen(self, routes: tuple[web.RouteDef, ...], port: int) -> int:
        application = web.Application()
        application.router.add_routes(routes)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_S)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, self._host, port).start()
        return int(runner.addresses[0][1])

    async def _healthz(self, _: web.Request) -> web.Response:
        return _answer(self._alive)

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer({**self._alive, **self._ready})

    async def _render(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def _answer(checks: Mapping[str, Check]) -> web.Response:
    problems = [f"{name}: {problem}" for name, check in checks.items() if (problem := check()) is not None]
    return web.Response(text="\n".join(problems) or "ok", status=503 if problems else 200)
