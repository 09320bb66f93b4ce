"""From events and listings into caches: what a watch missed is found by listing."""

import asyncio
from collections.abc import Mapping
from typing import Any

import virtual_time
from fake_cluster import FakeCluster
from metainf_operator.api_errors import UnreachableError
from metainf_operator.cluster_api import Verb
from metainf_operator.feeds import Feed
from metainf_operator.resources import CONFIG_MAP
from metainf_operator.store import Store

Names = Feed[tuple[str, str], str]


def item(name: str, namespace: str = "a", data: str | None = "x") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "data": {"k": data} if data else {}}


def feed(gone: list[Any] | None = None, **more: Any) -> Names:
    def project(body: Mapping[str, Any]) -> str | None:
        return (body.get("data") or {}).get("k")

    def key(metadata: Mapping[str, Any]) -> tuple[str, str]:
        return metadata["namespace"], metadata["name"]

    told = [] if gone is None else gone
    return Feed(CONFIG_MAP, Store("configmaps"), project, key, gone=told.append, **more)


def test_a_listing_fills_the_cache_and_drops_what_is_there_no_more() -> None:
    cluster, names = FakeCluster(), feed()
    cluster.put(CONFIG_MAP, item("one"))
    cluster.put(CONFIG_MAP, item("two"))
    cluster.put(CONFIG_MAP, item("left-out", data=None))
    asyncio.run(names.list(cluster))
    assert names.store.synced.is_set()
    assert set(names.store) == {("a", "one"), ("a", "two")}
    cluster.remove(CONFIG_MAP, "one", "a")
    cluster.put(CONFIG_MAP, item("two", data=None))
    cluster.put(CONFIG_MAP, item("three", data="y"))
    asyncio.run(names.list(cluster))
    assert dict(names.store.items()) == {("a", "three"): "y"}


def test_only_the_namespaces_that_are_named_are_listed() -> None:
    cluster, names = FakeCluster(), feed(namespaces=("a", "b"))
    for space in ("a", "b", "c"):
        cluster.put(CONFIG_MAP, item("one", space))
    asyncio.run(names.list(cluster))
    assert set(names.store) == {("a", "one"), ("b", "one")}
    assert [call.namespace for call in cluster.calls] == ["a", "b"]


def test_events_change_the_cache_and_deletions_are_told_of_objects_that_were_left_out_too() -> None:
    gone: list[Any] = []
    names = feed(gone)

    def event(type_: str | None, version: int, **fields: Any) -> dict[str, Any]:
        body = item("one", **fields)
        body["metadata"]["resourceVersion"] = str(version)
        return {"type": type_, "object": body}

    names.saw(event("ADDED", 1))
    assert names.store.get(("a", "one")) == "x"
    names.saw(event("MODIFIED", 3, data="y"))
    names.saw(event("MODIFIED", 2, data="old"))
    assert names.store.get(("a", "one")) == "y"
    names.saw(event("MODIFIED", 4, data=None))
    assert names.store.get(("a", "one")) is None
    assert gone == []
    names.saw(event("DELETED", 5))
    assert gone == [("a", "one")]


def test_a_new_start_of_a_watch_asks_for_one_listing_for_all_of_its_events() -> None:
    names = feed()

    async def main() -> list[bool]:
        first = {"type": None, "object": {**item("one"), "metadata": {**item("one")["metadata"]}}}
        names.saw(first)
        await asyncio.sleep(5)
        wanted = [names.relist_wanted.is_set()]  # not before the cache was filled once
        names.store.synced.set()
        names.saw(first)
        names.saw(first)
        await asyncio.sleep(1)
        wanted.append(names.relist_wanted.is_set())
        await asyncio.sleep(2)
        wanted.append(names.relist_wanted.is_set())
        return wanted

    assert virtual_time.run(main()) == [False, False, True]


def test_a_watch_survives_its_end_an_error_and_an_expired_version() -> None:
    cluster, names = FakeCluster(), feed()

    async def settle() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def main() -> list[set[str]]:
        seen = []
        watching = asyncio.create_task(names.watch(cluster))
        try:
            await settle()
            cluster.put(CONFIG_MAP, item("one"))
            await settle()
            seen.append({name for _, name in names.store})
            cluster.end_watches()
            cluster.put(CONFIG_MAP, item("two"))
            await settle()
            seen.append({name for _, name in names.store})
            cluster.fail(UnreachableError("away"), verb=Verb.WATCH)
            cluster.end_watches()
            cluster._wake()
            cluster.put(CONFIG_MAP, item("three"))
            await asyncio.sleep(6)
            await settle()
            seen.append({name for _, name in names.store})
            cluster.remove(CONFIG_MAP, "one", "a")
            cluster.put(CONFIG_MAP, item("four"))
            cluster.forget_history()
            cluster.end_watches()
            cluster._wake()
            await asyncio.sleep(6)
            await settle()
            seen.append({name for _, name in names.store})
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return seen

    assert virtual_time.run(main()) == [
        {"one"},
        {"one", "two"},
        {"one", "two", "three"},
        {"two", "three", "four"},
    ]
