"""Starts the operator: `python -m metainf_operator`.

Separate because it is the one place that reads flags, opens connections and decides the exit code: 0 after SIGTERM,
1 where the Lease was lost or something that must run for ever ended, 2 for a wrong setting.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import Any, cast

import kopf

from metainf.predictors.analytical import AnalyticalPredictor
from metainf_operator.cluster import Cluster, Connection
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
    runtime = Runtime(cluster, AnalyticalPredictor(), settings, metrics)
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
        return await _serve(runtime, cluster, settings, stop)
    finally:
        await health.stop()
        await cluster.close()


async def _serve(runtime: Runtime, cluster: Cluster, settings: OperatorSettings, stop: asyncio.Event) -> int:
    """Sync, watch, and act while the Lease is held."""
    lost = asyncio.Event()

    def started() -> None:
        runtime.metrics.leader.set(1)
        runtime.workers.start(settings.workers)

    def ended() -> None:
        runtime.metrics.leader.set(0)
        lost.set()

    async def lead() -> None:
        await runtime.sync()
        synced.set()
        await runtime.election.run(started, ended)

    async def watch() -> None:
        await synced.wait()  # kopf looks for the kinds once, when it starts: they have to be there
        watching.set()
        await kopf.operator(
            registry=register(runtime, cluster.credentials),
            identity=cast(Any, runtime.election.identity),  # else it looks the user up, whom an image may lack
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            stop_flag=kopf_stop,
        )

    async def guard() -> None:
        await watching.wait()
        await runtime.guard_watches()

    synced, watching, kopf_stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    forever: dict[str, Coroutine[Any, Any, None]] = {
        "lead": lead(),
        "watch": watch(),
        "guard": guard(),
        "resync": runtime.resync(),
        **runtime.own_watches(),
        **{f"relist {f.resource.plural}": runtime.relist_when_wanted(f) for f in runtime.watched_by_kopf},
    }
    tasks: dict[str, asyncio.Task[Any]] = {name: asyncio.create_task(each, name=name) for name, each in forever.items()}
    waits: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait()), asyncio.create_task(lost.wait())]
    await asyncio.wait([*tasks.values(), *waits], return_when=asyncio.FIRST_COMPLETED)
    # kopf takes the signals for itself once it runs, and then ends without an error: that is a stop as well.
    stopped = stop.is_set() or _ended_well(tasks["watch"])
    code = 0 if stopped and not lost.is_set() else 1
    for name, task in tasks.items():
        if task.done() and not task.cancelled() and task.exception() is not None:
            logger.error("a part ended", extra={"part": name}, exc_info=task.exception())
    if code == 0:
        logger.info("stopping")
        await runtime.workers.drain(settings.drain_s)
        tasks["lead"].cancel()
        await asyncio.gather(tasks["lead"], return_exceptions=True)
        with contextlib.suppress(Exception):  # the Lease runs out by itself
            await runtime.election.release()
    else:
        await runtime.workers.abandon()
    kopf_stop.set()
    for task in [*tasks.values(), *waits]:
        task.cancel()
    await asyncio.gather(*tasks.values(), *waits, return_exceptions=True)
    return code


def _ended_well(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


if __name__ == "__main__":
    sys.exit(main())
