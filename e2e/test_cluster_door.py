"""The door to the API server, against a real one: what its answers, errors, watches and applies are in truth.

Separate from tests/test_fake_cluster.py, which keeps the fake to the same promises without a server.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
import yaml

from metainf_operator import cluster as door
from metainf_operator.api_errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidObjectError,
    NamespaceTerminatingError,
    NotFoundError,
    UnreachableError,
)
from metainf_operator.cluster import Cluster, Connection
from metainf_operator.cluster_api import Propagation, Selector, as_is
from metainf_operator.events import EventReason, Notice, Regarding, manifest
from metainf_operator.leader import LeaderElection, LeaseTimes
from metainf_operator.resources import (
    CONFIG_MAP,
    CUSTOM_RESOURCE_DEFINITION,
    DEPLOYMENT,
    EVENT,
    INFERENCE_WORKLOAD,
    LEASE,
    NAMESPACE,
    NODE,
    POD,
    Resource,
)

pytestmark = pytest.mark.e2e

SPACE = f"metainf-door-{os.getpid()}"
"""Of this run alone: the last one's may still be going."""

UNHEARD_OF = Resource("metainf.dev", "v1alpha1", "unheardofs", "UnheardOf")
T = TypeVar("T")


class Given(Protocol):
    @property
    def kubeconfig(self) -> Path: ...


Story = Callable[[Cluster], Awaitable[T]]
Tell = Callable[[Story[T]], T]


@pytest.fixture
def tell(cluster: Given) -> Tell[Any]:
    """Run a story with a connected door, in a namespace that is there."""

    def run(story: Story[T]) -> T:
        async def main() -> T:
            api = await Cluster.connect(Connection(kubeconfig=cluster.kubeconfig))
            try:
                await api.apply(NAMESPACE, {"metadata": {"name": SPACE}})
                return await story(api)
            finally:
                await api.close()

        return asyncio.run(main())

    return run


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind(cluster: Given) -> Any:
    yield

    async def main() -> None:
        api = await Cluster.connect(Connection(kubeconfig=cluster.kubeconfig))
        try:
            await api.delete(NAMESPACE, SPACE)
        finally:
            await api.close()

    asyncio.run(main())


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": SPACE}, "data": data}


def deployment(name: str, **container: Any) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "metadata": {"name": name, "namespace": SPACE},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "vllm", "image": "x", **container}]},
            },
        },
    }


def workload(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": SPACE},
        "spec": {
            "model": {"id": "Qwen/Qwen2.5-7B-Instruct"},
            "traffic": {"requestsPerSecond": "4", "inputTokens": {"mean": 1200}, "outputTokens": {"mean": 250}},
            "budget": {"perHour": "6.00"},
        },
    }


def condition(reason: str) -> dict[str, Any]:
    return {
        "type": "Ready",
        "status": "Unknown",
        "reason": reason,
        "message": "deciding",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }


def test_says_the_servers_version_and_its_own_namespace(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        assert (await api.version()).startswith("v1.")
        assert api.own_namespace == "default"

    tell(story)


def test_creates_reads_updates_patches_and_deletes(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        made = await api.create(CONFIG_MAP, config_map("plain", k="1"))
        with pytest.raises(AlreadyExistsError, match=f"creating ConfigMap {SPACE}/plain"):
            await api.create(CONFIG_MAP, config_map("plain"))
        bare = await api.get(CONFIG_MAP, "plain", SPACE, metadata_only=True)
        assert (bare["kind"], "data" in bare, bare["metadata"]["uid"]) == (
            "PartialObjectMetadata",
            False,
            made["metadata"]["uid"],
        )
        await api.update(CONFIG_MAP, made | {"data": {"k": "2"}})
        with pytest.raises(ConflictError):
            await api.update(CONFIG_MAP, made | {"data": {"k": "3"}})
        patched = await api.patch_merge(CONFIG_MAP, "plain", {"data": {"k": None, "l": "4"}}, SPACE)
        assert patched["data"] == {"l": "4"}
        with pytest.raises(ConflictError):
            await api.delete(CONFIG_MAP, "plain", SPACE, uid="00000000-0000-0000-0000-000000000000")
        assert await api.delete(CONFIG_MAP, "plain", SPACE, uid=made["metadata"]["uid"])
        assert not await api.delete(CONFIG_MAP, "plain", SPACE)
        with pytest.raises(NotFoundError, match="deleting ConfigMap"):
            await api.delete(CONFIG_MAP, "plain", SPACE, missing_ok=False)

    tell(story)


def test_the_same_apply_again_writes_nothing(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        resources = {"requests": {"cpu": "1000m"}}
        first = await api.apply(DEPLOYMENT, deployment("same", resources=resources))
        assert {entry["manager"] for entry in first["metadata"]["managedFields"]} == {"metainf"}
        # The Deployment controller writes a status in between, a few times at most; ours would move it every time.
        versions = [first["metadata"]["resourceVersion"]]
        while len(versions) < 10 and versions[-1] not in versions[:-1]:
            await asyncio.sleep(0.5)
            again = await api.apply(DEPLOYMENT, deployment("same", resources=resources))
            versions.append(again["metadata"]["resourceVersion"])
        assert versions[-1] == versions[-2], versions

    tell(story)


def test_a_dry_run_keeps_nothing(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        shown = await api.apply(DEPLOYMENT, deployment("dry"), dry_run=True)
        assert shown["spec"]["template"]["spec"]["restartPolicy"] == "Always"  # defaults are in
        with pytest.raises(NotFoundError):
            await api.get(DEPLOYMENT, "dry", SPACE)

    tell(story)


def test_an_apply_by_another_uid_is_a_conflict(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        wanted = config_map("by-uid", k="1")
        wanted["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
        with pytest.raises(ConflictError):  # nothing is there
            await api.apply(CONFIG_MAP, wanted)
        await api.apply(CONFIG_MAP, config_map("by-uid", k="1"))
        with pytest.raises(ConflictError):  # another is there
            await api.apply(CONFIG_MAP, wanted)

    tell(story)


def test_a_field_that_the_server_does_not_know_is_refused_by_name(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        with pytest.raises(InvalidObjectError, match="imagePulPolicy"):
            await api.apply(DEPLOYMENT, deployment("typo", imagePulPolicy="Always"))
        with pytest.raises(InvalidObjectError) as refused:
            await api.apply(DEPLOYMENT, deployment("bad", imagePullPolicy="Perhaps"))
        assert any(
            cause.startswith("spec.template.spec.containers[0].imagePullPolicy") for cause in refused.value.causes
        )

    tell(story)


def test_status_is_applied_alone_and_a_stranger_field_in_it_fails_as_refused(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        made = await api.apply(INFERENCE_WORKLOAD, workload("status"))
        naming = {"metadata": {"name": "status", "namespace": SPACE}}
        told = await api.apply_status(INFERENCE_WORKLOAD, naming | {"status": {"conditions": [condition("Deciding")]}})
        assert told["metadata"]["generation"] == made["metadata"]["generation"]
        assert told["status"]["conditions"][0]["reason"] == "Deciding"
        again = await api.apply_status(INFERENCE_WORKLOAD, naming | {"status": {"conditions": [condition("Deciding")]}})
        assert again["metadata"]["resourceVersion"] == told["metadata"]["resourceVersion"]
        with pytest.raises(InvalidObjectError, match="notInTheCrd"):
            await api.apply_status(INFERENCE_WORKLOAD, naming | {"status": {"notInTheCrd": 1}})
        naming["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
        with pytest.raises(ConflictError):
            await api.apply_status(INFERENCE_WORKLOAD, naming | {"status": {"replicas": 2}})
        with pytest.raises(NotFoundError):
            missing = {"metadata": {"name": "missing", "namespace": SPACE}}
            await api.apply_status(INFERENCE_WORKLOAD, missing | {"status": {"replicas": 1}})

    tell(story)


def test_lists_by_pages_projections_and_selectors(tell: Tell[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "PAGE_SIZE", 2)

    async def story(api: Cluster) -> None:
        for number in range(5):
            labelled = config_map(f"page-{number}", n=str(number))
            labelled["metadata"]["labels"] = {"story": "pages", "odd": str(number % 2)}
            await api.apply(CONFIG_MAP, labelled)

        def number_of(item: dict[str, Any]) -> str | None:
            assert (item["apiVersion"], item["kind"]) == ("v1", "ConfigMap")
            return item["data"]["n"] if item["data"]["n"] != "3" else None

        pages = Selector(labels="story=pages")
        listing = await api.list(CONFIG_MAP, project=number_of, namespace=SPACE, selector=pages)
        assert listing.items == ("0", "1", "2", "4")
        assert int(listing.resource_version) > 0
        odd = Selector(labels="story=pages,odd in (1)", fields="metadata.name!=page-3")
        found = await api.list(CONFIG_MAP, project=as_is, selector=odd, metadata_only=True, from_cache=True)
        assert [(item["kind"], item["metadata"]["name"]) for item in found.items] == [
            ("PartialObjectMetadata", "page-1")
        ]

    tell(story)


def test_a_watch_tells_what_happened_since_and_ends_by_itself(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        start = (await api.list(CONFIG_MAP, project=as_is, namespace=SPACE)).resource_version
        await api.apply(CONFIG_MAP, config_map("watched", k="1"))
        await api.apply(CONFIG_MAP, config_map("watched", k="x" * 300_000))
        await api.delete(CONFIG_MAP, "watched", SPACE)
        seen = []
        events = api.watch(CONFIG_MAP, resource_version=start, namespace=SPACE, timeout_s=3)
        async with aclosing(events):
            async for event in events:
                if event.type == "BOOKMARK" or event.object["metadata"]["name"] == "watched":
                    seen.append(event)
        assert [event.type for event in seen if event.type != "BOOKMARK"] == ["ADDED", "MODIFIED", "DELETED"]
        assert int(seen[-1].resource_version) > int(start)

    tell(story)


def test_a_watch_of_metadata_carries_nothing_else(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        start = (await api.list(CONFIG_MAP, project=as_is, namespace=SPACE, metadata_only=True)).resource_version
        await api.apply(CONFIG_MAP, config_map("meta", k="1"))
        events = api.watch(CONFIG_MAP, resource_version=start, namespace=SPACE, metadata_only=True, timeout_s=10)
        async with aclosing(events):
            event = await anext(events)
        assert (event.object["kind"], "data" in event.object) == ("PartialObjectMetadata", False)

    tell(story)


def test_a_resource_that_is_not_there_is_not_found(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        with pytest.raises(NotFoundError, match="listing unheardofs"):
            await api.list(UNHEARD_OF, project=as_is)
        with pytest.raises(NotFoundError):
            await api.apply(UNHEARD_OF, {"metadata": {"name": "x", "namespace": SPACE}})
        assert await api.get(CUSTOM_RESOURCE_DEFINITION, "inferenceworkloads.metainf.dev")

    tell(story)


def test_a_terminating_namespace_is_told_apart_from_a_missing_role(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        space = f"{SPACE}-ending"
        await api.apply(NAMESPACE, {"metadata": {"name": space}})
        held = {"metadata": {"name": "held", "namespace": space, "finalizers": ["metainf.dev/story"]}}
        await api.create(CONFIG_MAP, held)
        await api.delete(NAMESPACE, space)
        try:
            with pytest.raises(NamespaceTerminatingError):
                await api.create(CONFIG_MAP, {"metadata": {"name": "late", "namespace": space}})
        finally:
            await api.patch_merge(CONFIG_MAP, "held", {"metadata": {"finalizers": None}}, space)

    tell(story)


def test_an_unknown_token_is_forbidden_and_no_answer_is_unreachable(cluster: Given, tmp_path: Path) -> None:
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    stranger = config | {"users": [{"name": user["name"], "user": {"token": "no"}} for user in config["users"]]}
    (tmp_path / "stranger").write_text(yaml.safe_dump(stranger))
    for entry in config["clusters"]:
        entry["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "nowhere").write_text(yaml.safe_dump(config))

    async def main(name: str) -> None:
        api = await Cluster.connect(Connection(kubeconfig=tmp_path / name))
        try:
            await api.list(NODE, project=as_is)
        finally:
            await api.close()

    with pytest.raises(ForbiddenError, match="listing nodes"):
        asyncio.run(main("stranger"))
    with pytest.raises(UnreachableError, match="listing nodes"):
        asyncio.run(main("nowhere"))
    with pytest.raises(ForbiddenError, match="set KUBECONFIG"):
        asyncio.run(main("no such file"))


def test_a_request_that_takes_too_long_is_given_up(cluster: Given) -> None:
    async def main() -> None:
        api = await Cluster.connect(Connection(kubeconfig=cluster.kubeconfig, request_timeout_s=1e-6))
        try:
            with pytest.raises(UnreachableError, match="no answer within"):
                await api.version()
        finally:
            await api.close()

    asyncio.run(main())


def test_events_are_taken_as_they_are_made(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        for reason in EventReason:
            about = Regarding(INFERENCE_WORKLOAD, "chat", SPACE, "uid-1", "1")
            event = manifest(Notice(reason, "é" * 2000), about, datetime.now(UTC), "operator-0_ab")
            await api.create(EVENT, event)
            with pytest.raises(AlreadyExistsError):
                await api.create(EVENT, event)
        listing = await api.list(EVENT, project=lambda item: item["reason"], namespace=SPACE)
        assert {reason.text for reason in EventReason} <= set(listing.items)

    tell(story)


def test_one_of_three_replicas_leads_and_a_release_hands_over(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        times = LeaseTimes(3.0, 2.0, 0.3)
        replicas = [LeaderElection(api, f"replica-{n}", "door", SPACE, times) for n in range(3)]
        started: list[str] = []
        tasks = [
            asyncio.create_task(replica.run(lambda replica=replica: started.append(replica.identity), lambda: None))
            for replica in replicas
        ]
        await asyncio.sleep(1.5)
        assert [replica.identity for replica in replicas if replica.is_leader] == started
        assert len(started) == 1
        leading = replicas.index(next(replica for replica in replicas if replica.is_leader))
        tasks[leading].cancel()
        await asyncio.gather(tasks[leading], return_exceptions=True)
        await replicas[leading].release()
        await asyncio.sleep(1.0)
        assert len(started) == 2
        assert sum(replica.is_leader for replica in replicas) == 1
        lease = await api.get(LEASE, "door", SPACE)
        assert lease["spec"]["holderIdentity"] == started[1]
        assert lease["spec"]["leaseTransitions"] >= 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    tell(story)


def test_deletion_in_the_foreground_waits_for_what_is_owned(tell: Tell[Any]) -> None:
    async def story(api: Cluster) -> None:
        await api.apply(DEPLOYMENT, deployment("owner"))
        assert await api.delete(DEPLOYMENT, "owner", SPACE, propagation=Propagation.FOREGROUND)
        for _ in range(100):
            if not (await api.list(POD, project=as_is, namespace=SPACE, selector=Selector(labels="app=owner"))).items:
                break
            await asyncio.sleep(0.1)
        with pytest.raises(ClusterError):
            for _ in range(100):
                await api.get(DEPLOYMENT, "owner", SPACE)
                await asyncio.sleep(0.1)

    tell(story)
