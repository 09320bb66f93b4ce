"""The fake must keep the promises that reconcile tests lean on; the same are tried on a real server in e2e/."""

import asyncio

import pytest

from fake_cluster import FakeCluster
from fake_objects import selects
from metainf_operator.api_errors import (
    AlreadyExistsError,
    ConflictError,
    NamespaceTerminatingError,
    NotFoundError,
    UnreachableError,
    WatchExpiredError,
)
from metainf_operator.cluster_api import ClusterApi, Selector, Verb, as_is
from metainf_operator.resources import CONFIG_MAP, DEPLOYMENT, INFERENCE_WORKLOAD, NAMESPACE, NODE, SERVICE


def workload(name: str = "chat", **spec: object) -> dict:
    return {"metadata": {"name": name, "namespace": "a"}, "spec": spec}


def deployment(name: str = "chat-1", replicas: int = 1, **metadata: object) -> dict:
    container = {"name": "vllm", "image": "vllm:1", "args": ["serve"], "env": [{"name": "A", "value": "1"}]}
    return {
        "metadata": {"name": name, "namespace": "a", **metadata},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [container]}}},
    }


def test_keeps_the_contract_of_the_cluster() -> None:
    cluster: ClusterApi = FakeCluster()
    assert cluster.own_namespace == "metainf-system"
    operations = [name for name in vars(ClusterApi) if not name.startswith("_")]
    assert all(hasattr(FakeCluster, name) for name in operations)


def test_a_change_of_the_spec_counts_the_generation_up_and_one_of_the_status_does_not() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        first = await cluster.create(INFERENCE_WORKLOAD, workload(model="a") | {"status": {"ignored": True}})
        assert first["metadata"]["generation"] == 1
        assert "status" not in first
        manifest = {"metadata": {"name": "chat", "namespace": "a"}, "status": {"replicas": 2}}
        second = await cluster.apply_status(INFERENCE_WORKLOAD, manifest)
        assert (second["metadata"]["generation"], second["status"]) == (1, {"replicas": 2})
        third = await cluster.patch_merge(INFERENCE_WORKLOAD, "chat", {"spec": {"model": "b"}, "status": None}, "a")
        assert (third["metadata"]["generation"], third["status"]) == (2, {"replicas": 2})

    asyncio.run(main())


def test_applying_the_same_again_writes_nothing() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        first = await cluster.apply(DEPLOYMENT, deployment())
        assert await cluster.apply(DEPLOYMENT, deployment()) == first

    asyncio.run(main())


def test_an_apply_puts_right_what_it_owns_and_leaves_what_others_own() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        await cluster.apply(DEPLOYMENT, deployment(replicas=2))
        cluster.edit(DEPLOYMENT, "chat-1", {"metadata": {"labels": {"mine": "yes"}}, "spec": {"replicas": 9}}, "a")
        with pytest.raises(ConflictError, match=r"kubectl-edit.*spec\.replicas"):
            await cluster.apply(DEPLOYMENT, deployment(replicas=2), force=False)
        after = await cluster.apply(DEPLOYMENT, deployment(replicas=2))
        assert after["spec"]["replicas"] == 2
        assert after["metadata"]["labels"] == {"mine": "yes"}

    asyncio.run(main())


def test_an_apply_removes_what_it_no_longer_names() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        manifest = deployment()
        await cluster.apply(DEPLOYMENT, manifest)
        del manifest["spec"]["template"]["spec"]["containers"][0]["env"]
        after = await cluster.apply(DEPLOYMENT, manifest)
        (container,) = after["spec"]["template"]["spec"]["containers"]
        assert container == {"name": "vllm", "image": "vllm:1", "args": ["serve"]}

    asyncio.run(main())


def test_a_dry_run_shows_the_result_and_keeps_nothing() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        assert (await cluster.apply(DEPLOYMENT, deployment(), dry_run=True))["spec"]["replicas"] == 1
        assert cluster.peek(DEPLOYMENT, "chat-1", "a") is None

    asyncio.run(main())


def test_an_apply_with_another_uid_is_a_conflict() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        with pytest.raises(ConflictError, match="uid"):
            await cluster.apply(DEPLOYMENT, deployment(uid="uid-7"))
        uid = (await cluster.apply(DEPLOYMENT, deployment()))["metadata"]["uid"]
        await cluster.apply(DEPLOYMENT, deployment(uid=uid))
        with pytest.raises(ConflictError, match="uid"):
            await cluster.delete(DEPLOYMENT, "chat-1", "a", uid="uid-7")

    asyncio.run(main())


def test_refuses_a_stale_update_a_taken_name_and_a_missing_object() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        old = await cluster.create(CONFIG_MAP, {"metadata": {"name": "c", "namespace": "a"}, "data": {"k": "1"}})
        await cluster.update(CONFIG_MAP, old | {"data": {"k": "2"}})
        with pytest.raises(ConflictError):
            await cluster.update(CONFIG_MAP, old | {"data": {"k": "3"}})
        with pytest.raises(AlreadyExistsError):
            await cluster.create(CONFIG_MAP, old)
        with pytest.raises(NotFoundError):
            await cluster.apply_status(INFERENCE_WORKLOAD, workload() | {"status": {}})
        with pytest.raises(NotFoundError):
            await cluster.delete(CONFIG_MAP, "other", "a", missing_ok=False)
        assert await cluster.delete(CONFIG_MAP, "other", "a") is False
        with pytest.raises(ValueError, match="namespace"):
            await cluster.get(CONFIG_MAP, "c")

    asyncio.run(main())


def test_deletion_takes_what_is_owned_along_and_waits_for_finalizers() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        owner = await cluster.create(INFERENCE_WORKLOAD, workload())
        uid = owner["metadata"]["uid"]
        reference = {"uid": uid, "kind": "InferenceWorkload", "name": "chat", "controller": True}
        await cluster.apply(DEPLOYMENT, deployment(ownerReferences=[reference]))
        cluster.put(
            SERVICE,
            {"metadata": {"name": "s", "namespace": "a", "ownerReferences": [reference], "finalizers": ["x/y"]}},
        )
        assert await cluster.delete(INFERENCE_WORKLOAD, "chat", "a", uid=uid)
        assert cluster.all(DEPLOYMENT) == []
        (held,) = cluster.all(SERVICE)
        assert "deletionTimestamp" in held["metadata"]
        cluster.edit(SERVICE, "s", {"metadata": {"finalizers": None}}, "a")
        assert cluster.all(SERVICE) == []

    asyncio.run(main())


def test_a_terminating_namespace_takes_no_new_objects() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        cluster.put(NAMESPACE, {"metadata": {"name": "a", "finalizers": ["kubernetes"]}})
        await cluster.delete(NAMESPACE, "a")
        with pytest.raises(NamespaceTerminatingError):
            await cluster.apply(DEPLOYMENT, deployment())

    asyncio.run(main())


def test_lists_projections_of_what_a_selector_takes() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        for name, labels in [("a", {"gpu": "h100"}), ("b", {"gpu": "l4"}), ("c", {})]:
            cluster.put(NODE, {"metadata": {"name": name, "labels": labels}, "spec": {"big": "x" * 1000}})

        async def names(selector: str) -> tuple[str, ...]:
            listing = await cluster.list(
                NODE, project=lambda item: item["metadata"]["name"], selector=Selector(labels=selector)
            )
            return listing.items

        assert await names("") == ("a", "b", "c")
        assert await names("gpu") == ("a", "b")
        assert await names("!gpu") == ("c",)
        assert await names("gpu in (l4, t4)") == ("b",)
        assert await names("gpu!=l4,gpu") == ("a",)
        skipped = await cluster.list(NODE, project=lambda item: None)
        assert skipped.items == ()
        bare = await cluster.list(NODE, project=as_is, metadata_only=True)
        assert set(bare.items[0]) == {"apiVersion", "kind", "metadata"}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "fits"),
    [("metadata.name=p", True), ("status.phase!=Failed", True), ("spec.nodeName=", True), ("spec.nodeName=n", False)],
)
def test_field_selectors_read_dotted_paths(fields: str, fits: bool) -> None:
    assert selects(Selector(fields=fields), {"metadata": {"name": "p"}, "status": {"phase": "Running"}}) is fits


def test_a_watch_tells_history_and_news_and_ends_when_told() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        start = (await cluster.list(NODE, project=as_is)).resource_version
        cluster.put(NODE, {"metadata": {"name": "a"}})

        async def follow() -> list[tuple[str, str]]:
            events = cluster.watch(NODE, resource_version=start)
            return [(event.type, event.object["metadata"]["name"]) async for event in events]

        following = asyncio.create_task(follow())
        await asyncio.sleep(0)
        cluster.edit(NODE, "a", {"metadata": {"labels": {"x": "y"}}})
        cluster.put(SERVICE, {"metadata": {"name": "s", "namespace": "a"}})
        cluster.remove(NODE, "a")
        for _ in range(3):
            await asyncio.sleep(0)
        cluster.end_watches()
        assert await following == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]

        cluster.forget_history()
        with pytest.raises(WatchExpiredError):
            await anext(cluster.watch(NODE, resource_version=start))

    asyncio.run(main())


def test_records_calls_and_raises_the_faults_it_is_given() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        cluster.fail(UnreachableError("away"), verb=Verb.APPLY, times=2)
        for _ in range(2):
            with pytest.raises(UnreachableError):
                await cluster.apply(DEPLOYMENT, deployment())
        await cluster.apply(DEPLOYMENT, deployment())
        await cluster.get(DEPLOYMENT, "chat-1", "a")
        assert [call.verb for call in cluster.calls] == ["apply", "apply", "apply", "get"]
        assert len(cluster.writes) == 3

    asyncio.run(main())


def test_a_status_is_refused_by_version_and_not_by_uid_as_on_a_real_server() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        made = await cluster.create(INFERENCE_WORKLOAD, workload())
        naming = {"name": "chat", "namespace": "a"}
        of_another = {"metadata": naming | {"uid": "uid-9"}, "status": {"replicas": 1}}
        await cluster.apply_status(INFERENCE_WORKLOAD, of_another)
        stale = naming | {"resourceVersion": made["metadata"]["resourceVersion"]}
        with pytest.raises(ConflictError, match="resourceVersion"):
            await cluster.apply_status(INFERENCE_WORKLOAD, {"metadata": stale, "status": {"replicas": 2}})

    asyncio.run(main())
