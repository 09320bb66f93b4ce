import asyncio
from collections.abc import Callable, Iterator

import aiohttp
import pytest

from fake_cluster import FakeCluster
from metainf_operator.api_errors import NotFoundError, WatchExpiredError
from metainf_operator.cluster_api import as_is
from metainf_operator.health import HealthServer
from metainf_operator.leader import GatedCluster
from metainf_operator.metered import MeteredCluster
from metainf_operator.metrics import CONTENT_TYPE, Metrics
from metainf_operator.resources import CONFIG_MAP, NODE, POD

NAMES = {
    "metainf_reconcile_duration_seconds",
    "metainf_reconcile_errors_total",
    "metainf_selections_total",
    "metainf_selection_duration_seconds",
    "metainf_candidates",
    "metainf_workload_cost_usd_per_hour",
    "metainf_workload_condition",
    "metainf_predicted_ttft_p95_seconds",
    "metainf_observed_ttft_p95_seconds",
    "metainf_prediction_error_ratio",
    "metainf_scrape_failures_total",
    "metainf_predictor_info",
    "metainf_predictor_fallback",
    "metainf_api_requests_seconds",
    "metainf_api_errors_total",
    "metainf_queue_length",
    "metainf_queue_wait_seconds",
    "metainf_cached_objects",
    "metainf_usable_nodes",
    "metainf_leader",
}


def ticking() -> Callable[[], float]:
    ticks: Iterator[float] = iter(range(1000))
    return lambda: next(ticks)


def test_the_names_are_those_that_dashboards_know() -> None:
    text = Metrics().render().decode()
    described = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP metainf_")}
    assert described == NAMES


def test_processes_do_not_share_their_figures_and_created_times_are_left_out() -> None:
    one, other = Metrics(), Metrics()
    one.selections.labels("refused").inc()
    assert b'metainf_selections_total{outcome="refused"} 1.0' in one.render()
    assert b'outcome="refused"' not in other.render()
    assert b"_created" not in one.render()


def test_a_workload_that_is_gone_leaves_no_series_behind() -> None:
    metrics = Metrics()
    for gauge in (metrics.workload_cost, metrics.predicted_ttft_p95, metrics.observed_ttft_p95):
        gauge.labels("a", "chat").set(1)
        gauge.labels("a", "other").set(1)
    metrics.forget_workload("a", "chat")
    metrics.forget_workload("a", "never seen")
    assert b'name="chat"' not in metrics.render()
    assert metrics.render().count(b'name="other"') == 3


def test_one_predictor_is_in_use_at_a_time() -> None:
    metrics = Metrics()
    metrics.use_predictor(1, "aaa")
    metrics.use_predictor(1, "bbb")
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("metainf_predictor_info{")]
    assert lines == ['metainf_predictor_info{digest="bbb",schema="1"} 1.0']


def test_calls_are_timed_by_verb_and_resource_and_errors_counted_by_class() -> None:
    async def main() -> None:
        metrics = Metrics()
        cluster = MeteredCluster(FakeCluster(), metrics, ticking())
        await cluster.create(CONFIG_MAP, {"metadata": {"name": "c", "namespace": "a"}})
        with pytest.raises(NotFoundError):
            await cluster.get(POD, "p", "a")
        await cluster.version()

        def value(name: str, **labels: str) -> float | None:
            return metrics.registry.get_sample_value(name, labels)

        assert value("metainf_api_requests_seconds_sum", verb="create", resource="configmaps") == 1
        assert value("metainf_api_requests_seconds_count", verb="get", resource="pods") == 1
        assert value("metainf_api_requests_seconds_count", verb="version", resource="") == 1
        assert value("metainf_api_errors_total", verb="get", error="NotFoundError") == 1
        assert value("metainf_api_errors_total", verb="create", error="NotFoundError") is None

    asyncio.run(main())


def test_a_watch_counts_its_errors_and_passes_its_events_on() -> None:
    async def main() -> None:
        metrics, fake = Metrics(), FakeCluster()
        cluster = MeteredCluster(GatedCluster(fake, lambda: None), metrics)
        fake.put(NODE, {"metadata": {"name": "n"}})
        events = cluster.watch(NODE, resource_version="0")
        assert (await anext(events)).object["metadata"]["name"] == "n"
        await events.aclose()
        fake.forget_history()
        with pytest.raises(WatchExpiredError):
            await anext(cluster.watch(NODE, resource_version="0"))
        sample = {"verb": "watch", "error": "WatchExpiredError"}
        assert metrics.registry.get_sample_value("metainf_api_errors_total", sample) == 1

    asyncio.run(main())


def test_decorators_pass_every_operation_on_with_its_arguments() -> None:
    async def main() -> None:
        fake = FakeCluster()
        cluster = MeteredCluster(GatedCluster(fake, lambda: None), Metrics())
        assert cluster.own_namespace == fake.own_namespace
        named = {"metadata": {"name": "c", "namespace": "a"}}
        await cluster.apply(CONFIG_MAP, named | {"data": {"k": "1"}}, dry_run=True)
        assert fake.all(CONFIG_MAP) == []
        await cluster.apply(CONFIG_MAP, named | {"data": {"k": "1"}}, force=False)
        await cluster.apply_status(POD, fake.put(POD, named) | {"status": {"phase": "Running"}})
        await cluster.update(CONFIG_MAP, named | {"data": {"k": "2"}})
        await cluster.patch_merge(CONFIG_MAP, "c", {"data": {"k": "3"}}, "a")
        assert (await cluster.list(CONFIG_MAP, project=lambda item: item["data"]["k"], namespace="a")).items == ("3",)
        assert "data" not in (await cluster.list(CONFIG_MAP, project=as_is, metadata_only=True)).items[0]
        assert "data" not in await cluster.get(CONFIG_MAP, "c", "a", metadata_only=True)
        assert await cluster.delete(CONFIG_MAP, "c", "a")
        assert not await cluster.delete(CONFIG_MAP, "c", "a")
        with pytest.raises(NotFoundError):
            await cluster.delete(CONFIG_MAP, "c", "a", missing_ok=False)
        await cluster.close()
        assert {call.verb for call in fake.calls} == {
            "apply", "apply_status", "update", "patch", "list", "get", "delete"
        }  # fmt: skip

    asyncio.run(main())


@pytest.mark.parametrize(
    ("alive", "ready", "health", "readiness"),
    [
        pytest.param(None, None, (200, "ok"), (200, "ok"), id="all well"),
        pytest.param(None, "nodes are not synced", (200, "ok"), (503, "caches: nodes are not synced"), id="not synced"),
        pytest.param("pods is silent", None, (503, "loops: pods is silent"), (503, "loops: pods is silent"), id="dead"),
    ],
)
def test_health_says_what_is_wrong(
    alive: str | None, ready: str | None, health: tuple[int, str], readiness: tuple[int, str]
) -> None:
    async def main() -> None:
        server = HealthServer(
            Metrics(), alive={"loops": lambda: alive}, ready={"caches": lambda: ready}, host="127.0.0.1"
        )
        await server.start(0, 0)
        async with aiohttp.ClientSession() as client:
            for path, expected in (("healthz", health), ("readyz", readiness)):
                async with client.get(f"http://127.0.0.1:{server.health_port}/{path}") as answer:
                    assert (answer.status, await answer.text()) == expected
            async with client.get(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
                assert answer.headers["Content-Type"] == CONTENT_TYPE
                assert "# HELP metainf_leader" in await answer.text()
            async with client.get(f"http://127.0.0.1:{server.health_port}/metrics") as answer:
                assert answer.status == 404
        await server.stop()

    asyncio.run(main())


def test_equal_port_numbers_put_all_on_one_port() -> None:
    async def main() -> None:
        probe = HealthServer(Metrics(), host="127.0.0.1")
        await probe.start(0, 0)
        free = probe.health_port
        await probe.stop()
        server = HealthServer(Metrics(), host="127.0.0.1")
        await server.start(free, free)
        assert server.health_port == server.metrics_port == free
        async with aiohttp.ClientSession() as client:
            for path in ("healthz", "readyz", "metrics"):
                async with client.get(f"http://127.0.0.1:{free}/{path}") as answer:
                    assert answer.status == 200
        await server.stop()

    asyncio.run(main())
