"""Starts the operator: `python -m metainf_operator`.

Separate because it is the one place that reads flags, opens connections and decides the exit code: 0 after SIGTERM,
1 where the Lease was lost or something that must run for ever ended, 2 for a wrong setting.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine, Mapping
from typing import Any, cast

import kopf

from metainf.predictors.default import default_predictor
from metainf_operator.cluster import Cluster, Connection
from metainf_operator.garbage import collect_rarely
from metainf_operator.handlers import register
from metainf_operator.health import HealthServer
from metainf_operator.logs import configure_logging
from metainf_operator.metrics import Metrics
from metainf_operator.runtime import Runtime
from metainf_operator.settings import OperatorSettings, SettingsError, settings_from

logger = logging.getLogger("metainf_operator")


def main() -> int:
    """Run until told to stop; the exit code."""
    try:
        settings = settings_from(sys.argv[1:])
    except SettingsError as error:
        print(f"metainf_operator: {error}", file=sys.stderr)
        return 2
    configure_logging(settings.log_level, settings.log_format)
    return asyncio.run(_run(settings))


async def _run(settings: OperatorSettings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    cluster = await Cluster.connect(Connection(settings.kubeconfig, settings.context))
    metrics = Metrics()
    predictor, fault = default_predictor(settings.predictor_artifact)
    if fault is not None:
        logger.warning("predicting analytically instead", extra={"reason": fault})
    runtime = Runtime(cluster, predictor, settings, metrics, predictor_fault=fault)
    health = HealthServer(
        metrics,
        alive={"workers": lambda: None if runtime.workers.alive else "a worker ended"},
        ready={
            "caches": lambda: None if runtime.world.synced else "caches are not filled yet",
            "watches": lambda: "not all kinds are watched" if runtime.missing_watches() else None,
        },
    )
    await health.start(settings.health_port, settings.metrics_port)
    logger.info("started", extra={"health_port": health.health_port, "metrics_port": health.metrics_port})
    try:
        return await _Parts(runtime, cluster, settings).run(stop)
    finally:
        await health.stop()
        await runtime.close()
        await cluster.close()


class _Parts:
    """What runs side by side as long as the process does: each waits for what it needs, and all end together."""

    def __init__(self, runtime: Runtime, cluster: Cluster, settings: OperatorSettings) -> None:
        self._runtime = runtime
        self._cluster = cluster
        self._settings = settings
        self._synced = asyncio.Event()
        self._watching = asyncio.Event()
        self._lost = asyncio.Event()
        self._kopf_stop = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> int:
        """Sync, watch, and act while the Lease is held; the exit code."""
        tasks = {name: asyncio.create_task(each, name=name) for name, each in self._forever().items()}
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(each.wait()) for each in (stop, self._lost)]
        await asyncio.wait([*tasks.values(), *waits], return_when=asyncio.FIRST_COMPLETED)
        # kopf takes the signals for itself once it runs, and then ends without an error: that is a stop as well.
        stopped = stop.is_set() or _ended_well(tasks["watch"])
        code = 0 if stopped and not self._lost.is_set() else 1
        _log_failures(tasks)
        if code == 0:
            await self._hand_over(tasks["lead"])
        else:
            await self._runtime.workers.abandon()
        self._kopf_stop.set()
        for task in [*tasks.values(), *waits]:
            task.cancel()
        await asyncio.gather(*tasks.values(), *waits, return_exceptions=True)
        return code

    def _forever(self) -> dict[str, Coroutine[Any, Any, None]]:
        """The parts by name, in the order in which they start; where one ends, the process does."""
        runtime = self._runtime
        return {
            "lead": self._lead(),
            "watch": self._watch(),
            "guard": self._guard(),
            "resync": runtime.resync(),
            "observe": runtime.observe(),
            **runtime.own_watches(),
            **{f"relist {f.resource.plural}": runtime.relist_when_wanted(f) for f in runtime.watched_by_kopf},
        }

    async def _lead(self) -> None:
        await self._runtime.sync()
        collect_rarely()
        self._synced.set()
        await self._runtime.election.run(self._lead_began, self._lead_ended)

    def _lead_began(self) -> None:
        self._runtime.metrics.leader.set(1)
        self._runtime.workers.start(self._settings.workers)

    def _lead_ended(self) -> None:
        self._runtime.metrics.leader.set(0)
        self._lost.set()

    async def _watch(self) -> None:
        await self._synced.wait()  # kopf looks for the kinds once, when it starts: they have to be there
        self._watching.set()
        await kopf.operator(
            registry=register(self._runtime, self._cluster.credentials),
            identity=cast(Any, self._runtime.election.identity),  # else it looks the user up, whom an image may lack
            standalone=True,
            clusterwide=not self._settings.namespaces,
            namespaces=self._settings.namespaces,
            stop_flag=self._kopf_stop,
        )

    async def _guard(self) -> None:
        await self._watching.wait()
        await self._runtime.guard_watches()

    async def _hand_over(self, lead: asyncio.Task[None]) -> None:
        """Finish the passes that run, then give the Lease to whoever wants it."""
        logger.info("stopping")
        await self._runtime.workers.drain(self._settings.drain_s)
        lead.cancel()
        await asyncio.gather(lead, return_exceptions=True)
        with contextlib.suppress(Exception):  # the Lease runs out by itself
            await self._runtime.election.release()


def _log_failures(tasks: Mapping[str, asyncio.Task[None]]) -> None:
    for name, task in tasks.items():
        if task.done() and not task.cancelled() and task.exception() is not None:
            logger.error("a part ended", extra={"part": name}, exc_info=task.exception())


def _ended_well(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


if __name__ == "__main__":
    sys.exit(main())
