"""The order in which the operator starts, and what a change of one thing makes it look at again."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import kopf
import pytest
import yaml

import virtual_time
from controller_passes import SETTINGS, STUB, pool, workload
from fake_cluster import FakeCluster
from metainf.errors import InvalidWorkloadError
from metainf.meta_features.schema import FEATURE_SCHEMA
from metainf.placement import ReplicaRequest
from metainf_operator.api_errors import NotFoundError, UnreachableError
from metainf_operator.cluster_api import Verb
from metainf_operator.ledger import Hold, WorkloadKey
from metainf_operator.metrics import Metrics
from metainf_operator.pool_reporter import PoolKey
from metainf_operator.pools_file import read_pools_file
from metainf_operator.reporter import Seen
from metainf_operator.resources import ACCELERATOR_POOL, INFERENCE_WORKLOAD, NODE, SERVICE
from metainf_operator.runtime import Runtime
from node_bodies import node

A, B = WorkloadKey("team", "a"), WorkloadKey("team", "b")


def cluster() -> FakeCluster:
    found = FakeCluster()
    found.put(ACCELERATOR_POOL, pool("cheap"))
    found.put(NODE, node("cheap-0", labels={"pool": "cheap"}))
    for name in ("a", "b"):
        found.put(INFERENCE_WORKLOAD, workload(name))
    return found


def run(main: Callable[[Runtime], Awaitable[Any]], *, on: FakeCluster | None = None, **settings: Any) -> Any:
    async def go() -> Any:
        runtime = Runtime(on or cluster(), STUB, replace(SETTINGS, **settings), Metrics())
        return await main(runtime)

    return virtual_time.run(go())


async def queued(runtime: Runtime, wait_s: float = 5.0) -> set[Any]:
    """Keys that are looked at within so long."""
    await asyncio.sleep(wait_s)
    found = set()
    while True:
        try:
            key = await asyncio.wait_for(runtime.queue.get(), 0.01)
        except TimeoutError:
            return found
        found.add(key)
        runtime.queue.done(key)


def test_every_cache_is_filled_before_anything_is_looked_at() -> None:
    async def main(runtime: Runtime) -> tuple[bool, bool, set[Any]]:
        before = runtime.world.synced
        await runtime.sync()
        return before, runtime.world.synced, await queued(runtime)

    before, after, keys = run(main)
    assert (before, after) == (False, True)
    assert keys == {A, B, PoolKey("cheap")}


def test_it_waits_for_kinds_that_are_not_installed_and_for_an_api_server_that_is_away() -> None:
    on = cluster()
    on.fail(NotFoundError("no such kind", code=404), verb=Verb.LIST, resource=INFERENCE_WORKLOAD, times=2)
    on.fail(UnreachableError("away"), verb=Verb.LIST, resource=NODE)

    async def main(runtime: Runtime) -> float:
        started = virtual_time.now_s()
        await runtime.sync()
        assert runtime.world.synced
        return virtual_time.now_s() - started

    assert run(main, on=on) == pytest.approx(15.0)


def _feed_of(runtime: Runtime, resource: Any) -> Any:
    feeds = runtime.feeds
    found = (feeds.workloads, feeds.nodes, feeds.pools, feeds.services)
    return next(feed for feed in found if feed.resource == resource)


@pytest.mark.parametrize(
    ("resource", "name", "namespace", "patch", "looks_at"),
    [
        pytest.param(INFERENCE_WORKLOAD, "a", "team", {"spec": {"suspend": True}}, {A}, id="a spec"),
        pytest.param(INFERENCE_WORKLOAD, "a", "team", {"status": {"replicas": 3}}, set(), id="our own status"),
        pytest.param(
            NODE,
            "cheap-0",
            None,
            {"spec": {"unschedulable": True}},
            {A, B, PoolKey("cheap")},
            id="a node that is cordoned",
        ),
        pytest.param(NODE, "cheap-0", None, {"status": {"images": ["x"]}}, set(), id="a node's chatter"),
        pytest.param(
            ACCELERATOR_POOL,
            "cheap",
            None,
            {"spec": {"price": {"perHour": "7"}}},
            {A, B, PoolKey("cheap")},
            id="a price",
        ),
        pytest.param(
            ACCELERATOR_POOL, "cheap", None, {"status": {"nodes": 1}}, {PoolKey("cheap")}, id="a pool's status"
        ),
    ],
)
def test_a_change_is_looked_at_by_those_it_concerns(
    resource: Any, name: str, namespace: str | None, patch: dict[str, Any], looks_at: set[Any]
) -> None:
    on = cluster()

    async def main(runtime: Runtime) -> set[Any]:
        await runtime.sync()
        await queued(runtime)
        on.edit(resource, name, patch, namespace)
        body = on.peek(resource, name, namespace)
        _feed_of(runtime, resource).saw({"type": "MODIFIED", "object": body})
        return await queued(runtime)

    assert run(main, on=on) == looks_at


@pytest.mark.parametrize(
    ("name", "labels", "looks_at"),
    [
        pytest.param("cheap-1", {"zone": "b"}, {A}, id="a node that is selected now"),
        pytest.param("cheap-2", {"zone": "c"}, {A}, id="a node that was selected"),
        pytest.param("cheap-2", {"zone": None}, {A}, id="a node that lost the label"),
        pytest.param("cheap-1", {"rack": "7"}, set(), id="a label that nobody asks for"),
        pytest.param("cheap-1", {"zone": "c"}, set(), id="another value of it"),
        pytest.param("plain", {"zone": "b"}, set(), id="a node of no pool"),
    ],
)
def test_a_label_of_one_node_is_looked_at_by_those_to_whom_it_matters(
    name: str, labels: dict[str, str | None], looks_at: set[Any]
) -> None:
    on = cluster()
    on.put(NODE, node("cheap-1", labels={"pool": "cheap"}))
    on.put(NODE, node("cheap-2", labels={"pool": "cheap", "zone": "b"}))
    on.put(NODE, {"metadata": {"name": "plain", "labels": {"kubernetes.io/arch": "amd64"}}})
    on.edit(INFERENCE_WORKLOAD, "a", {"spec": {"placement": {"nodeSelector": {"zone": "b"}}}}, "team")

    async def main(runtime: Runtime) -> set[Any]:
        await runtime.sync()
        await queued(runtime)
        body = on.edit(NODE, name, {"metadata": {"labels": labels}})
        runtime.feeds.nodes.saw({"type": "MODIFIED", "object": body})
        return await queued(runtime)

    assert run(main, on=on) == looks_at


def test_a_node_of_no_pool_that_comes_or_goes_is_looked_at_by_nobody() -> None:
    on = cluster()
    on.edit(INFERENCE_WORKLOAD, "a", {"spec": {"placement": {"nodeSelector": {"zone": "b"}}}}, "team")

    async def main(runtime: Runtime) -> list[set[Any]]:
        await runtime.sync()
        await queued(runtime)
        body = on.put(NODE, {"metadata": {"name": "plain", "labels": {"zone": "b"}}})
        runtime.feeds.nodes.saw({"type": "ADDED", "object": body})
        found = [await queued(runtime)]
        runtime.feeds.nodes.saw({"type": "DELETED", "object": body})
        return [*found, await queued(runtime)]

    assert run(main, on=on) == [set(), set()]


def someones_pod(on: str, name: str = "p", *, accelerators: int = 1) -> dict[str, Any]:
    requests = {"nvidia.com/gpu": str(accelerators)} if accelerators else {"cpu": "1"}
    containers = [{"name": "c", "resources": {"requests": requests}}]
    return {"metadata": {"name": name, "namespace": "x"}, "spec": {"nodeName": on, "containers": containers}}


@pytest.mark.parametrize(
    ("on_node", "looks_at"),
    [
        pytest.param("cheap-0", {A, PoolKey("cheap")}, id="a node of a pool"),
        pytest.param("elsewhere", {PoolKey("cheap")}, id="a node of none"),
    ],
)
def test_who_is_held_back_for_room_looks_again_when_a_pod_leaves_and_not_when_one_comes(
    on_node: str, looks_at: set[Any]
) -> None:
    async def main(runtime: Runtime) -> list[set[Any]]:
        await runtime.sync()
        await queued(runtime)
        runtime.world.held_back.add(A)
        anew: set[Any] = set()

        def note(key: WorkloadKey | None = None) -> None:
            anew.add(key)

        runtime.controller.decide_anew = note  # type: ignore[method-assign]
        runtime.feeds.pods.saw({"type": "ADDED", "object": someones_pod(on_node)})
        found = [await queued(runtime), set(anew)]
        runtime.feeds.pods.saw({"type": "DELETED", "object": someones_pod(on_node)})
        return [*found, await queued(runtime), set(anew)]

    assert run(main) == [{PoolKey("cheap")}, set(), looks_at, looks_at & {A}]


@pytest.mark.parametrize(
    ("accelerators", "least", "most"),
    [pytest.param(1, 130, 130, id="with accelerators"), pytest.param(0, 3, 3, id="without: at once, then rarely")],
)
def test_pods_that_leave_without_accelerators_have_nobody_look_again_all_the_time(
    accelerators: int, least: int, most: int
) -> None:
    async def main(runtime: Runtime) -> int:
        await runtime.sync()
        await queued(runtime)
        runtime.world.held_back.add(A)
        runtime.world.waiting[B] = claim(B)
        looks = 0
        for number in range(130):  # two seconds each
            body = someones_pod("cheap-0", f"p{number}", accelerators=accelerators)
            runtime.feeds.pods.saw({"type": "ADDED", "object": body})
            runtime.feeds.pods.saw({"type": "DELETED", "object": body})
            found = await queued(runtime, 2.0)
            assert (A in found) == (B in found)
            looks += A in found
        return looks

    assert least <= run(main) <= most


def test_the_first_pod_that_leaves_is_answered_at_once() -> None:
    async def main(runtime: Runtime) -> set[Any]:
        await runtime.sync()
        await queued(runtime)
        runtime.world.held_back.add(A)
        for type_ in ("ADDED", "DELETED"):
            runtime.feeds.pods.saw({"type": type_, "object": someones_pod("cheap-0", accelerators=0)})
        return await queued(runtime, 1.1)

    assert A in run(main)


def claim(who: WorkloadKey) -> Hold:
    return Hold(who, datetime(2026, 1, 1, tzinfo=UTC), "cheap", ReplicaRequest(1, 1.0, 1), 1, waiting=True)


def our_pod(on: str) -> dict[str, Any]:
    body = someones_pod(on)
    labels = {"metainf.dev/workload": "b", "metainf.dev/serving": "s"}
    return {**body, "metadata": {"name": "ours", "namespace": "team", "labels": labels}, "status": {}}


@pytest.mark.parametrize(
    ("before", "after", "looks"),
    [
        pytest.param(None, someones_pod("cheap-0"), False, id="a pod of others comes"),
        pytest.param(someones_pod("cheap-0"), None, True, id="one leaves"),
        pytest.param(someones_pod("elsewhere"), None, False, id="one leaves a node of no pool"),
        pytest.param(
            someones_pod("cheap-0", accelerators=2), someones_pod("cheap-0", accelerators=1), True, id="one takes less"
        ),
        pytest.param(
            someones_pod("cheap-0", accelerators=1), someones_pod("cheap-0", accelerators=2), False, id="or more"
        ),
        pytest.param(None, our_pod("cheap-0"), True, id="one of ours has its node"),
    ],
)
def test_who_claims_room_looks_again_when_some_comes_and_not_when_some_goes(
    before: dict[str, Any] | None, after: dict[str, Any] | None, looks: bool
) -> None:
    async def main(runtime: Runtime) -> bool:
        await runtime.sync()
        await queued(runtime)
        if before is not None:
            runtime.feeds.pods.saw({"type": "ADDED", "object": before})
            await queued(runtime)
        runtime.world.waiting[A] = claim(A)
        event = {"type": "DELETED", "object": before} if after is None else {"type": "MODIFIED", "object": after}
        runtime.feeds.pods.saw(event)
        return A in await queued(runtime)

    assert run(main) is looks


def test_who_is_held_back_for_room_looks_again_when_a_claim_is_given_up() -> None:
    async def main(runtime: Runtime) -> set[Any]:
        await runtime.sync()
        await queued(runtime)
        runtime.world.held_back.add(B)
        runtime.controller._capacity_freed()
        return await queued(runtime)

    assert run(main) == {B, PoolKey("cheap")}


def test_a_deleted_workload_is_looked_at_once_more_and_a_freed_name_wakes_who_wants_it() -> None:
    on = cluster()
    on.put(SERVICE, {"metadata": {"name": "a", "namespace": "team"}, "spec": {}})

    async def main(runtime: Runtime) -> list[set[Any]]:
        await runtime.sync()
        await queued(runtime)
        runtime.feeds.workloads.saw({"type": "DELETED", "object": on.peek(INFERENCE_WORKLOAD, "b", "team")})
        found = [await queued(runtime)]
        runtime.feeds.services.saw({"type": "DELETED", "object": on.peek(SERVICE, "a", "team")})
        found.append(await queued(runtime))
        return found

    deleted, freed = run(main, on=on)
    assert B in deleted
    assert A not in deleted
    assert freed == {A}


def test_a_burst_of_node_events_is_one_look() -> None:
    on = cluster()

    async def main(runtime: Runtime) -> int:
        await runtime.sync()
        await queued(runtime)
        versions = []
        for i in range(20):
            body = on.put(NODE, node("cheap-0", labels={"pool": "cheap", "n": str(i)}))
            runtime.feeds.nodes.saw({"type": "MODIFIED", "object": body})
            versions.append(len(runtime.triggers._pending))
        return max(versions)

    assert run(main, on=on) == 1


def rounds_of(runtime: Runtime) -> list[float]:
    """When the observer looks at the engines, from now on."""
    found: list[float] = []

    async def note_the_time() -> None:
        found.append(virtual_time.now_s())
        if len(found) == 2:
            raise OSError("a fault of one round is no end of observing")

    runtime.observer.round = note_the_time  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize(
    ("interval_s", "leads", "least", "most"),
    [
        pytest.param(30.0, True, 18, 22, id="round after round, whatever befalls one of them"),
        pytest.param(30.0, False, 0, 0, id="not by a standby"),
        pytest.param(0.0, True, 0, 0, id="not where it is turned off"),
    ],
)
def test_engines_are_observed_by_the_leader(interval_s: float, leads: bool, least: int, most: int) -> None:
    async def main(runtime: Runtime) -> list[float]:
        found = rounds_of(runtime)
        lead = asyncio.create_task(runtime.election.run(lambda: None, lambda: None)) if leads else None
        task = asyncio.create_task(runtime.observe())
        await asyncio.sleep(600)
        for each in filter(None, (task, lead)):
            each.cancel()
        await asyncio.gather(*filter(None, (task, lead)), return_exceptions=True)
        await runtime.close()
        return found

    found = run(main, observe_interval_s=interval_s)
    assert least <= len(found) <= most
    pauses = [later - earlier for earlier, later in pairwise(found)]
    assert all(0.9 * interval_s - 1e-6 <= pause <= 1.1 * interval_s + 1e-6 for pause in pauses)
    assert len(set(pauses)) == len(pauses), "operators and engines must not fall into step"


def test_a_resync_looks_at_everything_and_lists_anew() -> None:
    async def main(runtime: Runtime) -> tuple[set[Any], bool]:
        await runtime.sync()
        await queued(runtime)
        task = asyncio.create_task(runtime.resync())
        found = await queued(runtime, SETTINGS.resync_s + 1)
        wanted = all(feed.relist_wanted.is_set() for feed in runtime.watched_by_kopf)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return found, wanted

    assert run(main) == ({A, B, PoolKey("cheap")}, True)


def test_a_listing_that_is_wanted_finds_a_deletion_that_no_watch_told() -> None:
    on = cluster()

    async def main(runtime: Runtime) -> tuple[bool, bool]:
        await runtime.sync()
        task = asyncio.create_task(runtime.relist_when_wanted(runtime.feeds.workloads))
        on.remove(INFERENCE_WORKLOAD, "b", "team")
        on.fail(UnreachableError("away"), verb=Verb.LIST)
        runtime.feeds.workloads.relist_wanted.set()
        await asyncio.sleep(1)
        early = B in runtime.world.workloads
        await asyncio.sleep(10)
        late = B in runtime.world.workloads
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return early, late

    assert run(main, on=on) == (True, False)


def test_prices_of_opencost_stay_when_it_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [{"cheap-0": Decimal(3)}, OSError("away"), ValueError("no metrics"), {"cheap-0": Decimal(4)}]

    async def fetch(url: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("metainf_operator.runtime.fetch_prices", fetch)

    async def main(runtime: Runtime) -> list[Decimal]:
        prices = []
        for _ in range(4):
            await runtime.refresh_prices()
            prices.append(runtime.world.opencost["cheap-0"])
        return prices

    assert run(main, opencost_url="http://opencost:9003/metrics") == [3, 3, 3, 4]


# Without access to nodes


def pools_file(folder: Path, text: str | None = None) -> Path:
    file = folder / "pools.yaml"
    given = {**pool("file"), "spec": {**pool("file")["spec"], "nodes": {"max": 2}}}
    file.write_text(yaml.safe_dump_all([given]) if text is None else text, encoding="utf-8")
    return file


def test_without_access_to_nodes_pools_come_from_a_file_that_may_change(tmp_path: Path) -> None:
    file = pools_file(tmp_path)
    on = cluster()

    async def main(runtime: Runtime) -> list[list[str]]:
        await runtime.sync()
        names = [[r.pool.name for r in runtime.world.inventory.pools]]
        file.write_text("nonsense: [", encoding="utf-8")
        runtime._use_pools_file()
        names.append([r.pool.name for r in runtime.world.inventory.pools])
        pools_file(tmp_path, file.read_text(encoding="utf-8").replace("nonsense: [", ""))
        runtime._use_pools_file()
        names.append([r.pool.name for r in runtime.world.inventory.pools])
        return names

    assert run(main, on=on, node_access=False, pools_file=file, namespaces=("team",)) == [["file"], ["file"], []]
    assert NODE not in {call.resource for call in on.calls}
    assert {call.namespace for call in on.calls} == {"team"}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"a: [", id="no YAML"),
        pytest.param(b"\xff\xfe\x00", id="no text"),
        pytest.param(b"kind: ConfigMap", id="no pool"),
        pytest.param(b"- 1\n- 2", id="a list"),
        pytest.param(yaml.safe_dump(pool("unbounded")).encode(), id="without nodes.max"),
    ],
)
def test_a_pools_file_that_is_no_good_says_so(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "pools.yaml"
    file.write_bytes(content)
    with pytest.raises(InvalidWorkloadError):
        read_pools_file(file)
    with pytest.raises(InvalidWorkloadError, match="reading pools from"):
        read_pools_file(tmp_path / "none.yaml")


def test_kopf_keeps_no_state_on_objects_and_posts_nothing() -> None:
    async def main(runtime: Runtime) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        runtime.configure_kopf(settings)
        return settings

    settings = run(main)
    assert (settings.posting.enabled, settings.scanning.disabled) == (False, True)
    assert isinstance(settings.watching.server_timeout, int)


def test_a_predictor_that_stands_in_is_said_in_metrics_and_on_every_workload() -> None:
    async def main() -> tuple[str, dict[str, tuple[str, str]]]:
        on = cluster()
        runtime = Runtime(on, STUB, SETTINGS, Metrics(), predictor_fault="reading the predictor /x: it is damaged")
        await runtime.sync()
        state = runtime.world.workloads.get(A)
        assert state is not None
        runtime.controller.reporter.cluster = on  # it is not the leader here
        await runtime.controller.reporter.report(Seen(state, state.manifest), None)
        status = (await on.get(INFERENCE_WORKLOAD, A.name, A.namespace))["status"]
        conditions = {c["type"]: (c["status"], c["message"]) for c in status["conditions"]}
        return runtime.metrics.render().decode(), conditions

    metrics, conditions = virtual_time.run(main())
    assert "metainf_predictor_fallback 1.0" in metrics
    assert conditions["PredictorLoaded"] == ("False", "reading the predictor /x: it is damaged")


def test_metrics_say_the_features_version_and_the_digest_of_the_predictor() -> None:
    async def main(runtime: Runtime) -> str:
        return runtime.metrics.render().decode()

    labels = f'digest="{STUB.identity.digest}",schema="{FEATURE_SCHEMA}"'
    assert f"metainf_predictor_info{{{labels}}} 1.0" in run(main).splitlines()
