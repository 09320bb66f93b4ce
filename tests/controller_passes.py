"""Passes of the controller over an API server in memory, with just enough of Kubernetes around it to serve.

`Around` plays the Deployment controller, the scheduler and kubelet: it makes pods, binds them where there is room, and
writes the Deployments' status. Everything reaches the caches by listings, as after a restart of every watch.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from fake_cluster import FakeCluster
from metainf.placement import tolerates
from metainf.pools import Taint
from metainf.predictors.contract import Predictor
from metainf.running import Running
from metainf.workload import Toleration
from metainf_operator.api_errors import InvalidObjectError
from metainf_operator.cluster_api import ClusterApi, JsonObject
from metainf_operator.controller import Controller
from metainf_operator.events import EventSender
from metainf_operator.feeds import Feed
from metainf_operator.ledger import WorkloadKey
from metainf_operator.metrics import Metrics
from metainf_operator.observer import Observer
from metainf_operator.plugin.inventory import read_world
from metainf_operator.plugin.planner import Planner, Proposal
from metainf_operator.pool_reporter import PoolKey, PoolReporter
from metainf_operator.projections import project_node, project_pod
from metainf_operator.reconcile import serving_inputs
from metainf_operator.reporter import Reporter
from metainf_operator.resources import (
    ACCELERATOR_POOL,
    DEPLOYMENT,
    EVENT,
    INFERENCE_DECISION,
    INFERENCE_WORKLOAD,
    NODE,
    POD,
    Resource,
)
from metainf_operator.running import what_runs
from metainf_operator.scraping import ScrapeError, ScrapeFault
from metainf_operator.settings import OperatorSettings
from metainf_operator.watched_kinds import feeds_into
from metainf_operator.world import World
from node_bodies import node
from stub_predictor import StubPredictor, capacity_by_accelerator

SETTINGS = OperatorSettings(hub=False)
STUB = StubPredictor(capacity_by_accelerator(A100=4.0, L4=4.0, H100=40.0))


class CutOffError(Exception):
    """The process ends here."""


class StrictCluster(FakeCluster):
    """Keeps what the decisions' schema promises: a spec never changes. `cut_after` writes the process is gone."""

    cut_after: int | None = None

    def _write(self, key: Any, resource: Resource, manifest: JsonObject, owned: Any) -> JsonObject:
        old = self._objects.get(key)
        if resource == INFERENCE_DECISION and old is not None and old.object.get("spec") != manifest.get("spec"):
            raise InvalidObjectError(f"InferenceDecision {key[2]}: a decision is a record and never changes", code=422)
        return super()._write(key, resource, manifest, owned)

    def _called(self, verb: Any, resource: Resource | None, namespace: str | None = None, name: str = "") -> None:
        if verb.writes and self.cut_after is not None:
            if self.cut_after == 0:
                raise CutOffError
            self.cut_after -= 1
        super()._called(verb, resource, namespace, name)


def _tolerated(pod: JsonObject, taint: Taint) -> bool:
    for each in pod["spec"].get("tolerations") or ():
        said = Toleration(each.get("key"), each.get("operator", "Equal"), each.get("value", ""), each.get("effect"))
        if tolerates(said, taint.key, taint.value, taint.effect):
            return True
    return False


def workload(name: str = "chat", budget: str = "100", rps: str = "2", **spec: Any) -> JsonObject:
    return {
        "apiVersion": "metainf.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": {"name": name, "namespace": "team"},
        "spec": {
            "model": {"id": "Qwen/Qwen2.5-7B-Instruct"},
            "traffic": {"requestsPerSecond": rps, "inputTokens": {"mean": 500}, "outputTokens": {"mean": 100}},
            "budget": {"perHour": budget},
            "methods": {"allow": ["default"]},
            **spec,
        },
    }


class Around:
    """A cluster, an operator in it, and a clock that a test moves."""

    def __init__(self, *, predictor: Predictor = STUB, settings: OperatorSettings = SETTINGS) -> None:
        self.cluster = StrictCluster()
        self.predictor = predictor
        self.settings = settings
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC)
        self.ready = True
        self.failed: set[str] = set()
        """Names of Deployments whose replicas do not start, and whose time to start is over."""
        self._ips = 0
        self.engines: dict[str, str | ScrapeError] = {}
        self.looked: set[str] = set()
        self.restart()

    # The operator

    def restart(self) -> None:
        """A new process: nothing is remembered but what stands in the cluster."""
        self.world = World()
        metrics = Metrics()

        def clock() -> datetime:
            return self.now

        async def scrape(address: str) -> str:
            said = self.engines.get(address, ScrapeError(ScrapeFault.UNREACHABLE, "nobody answers"))
            if isinstance(said, ScrapeError):
                raise said
            return said

        api: ClusterApi = self.cluster
        sender = EventSender(api.create, "test", clock)
        reporter = Reporter(api, sender, metrics, now=clock, unwatched=self.settings.unwatched)
        self.metrics = metrics
        self.observer = Observer(
            self.world,
            scrape,
            metrics,
            interval_s=self.settings.observe_interval_s,
            window_s=self.settings.observe_window_s,
            now=clock,
            look=lambda key: self.looked.add(key.name),
        )
        self.controller = Controller(
            api,
            self.world,
            self.predictor,
            self.settings,
            metrics,
            reporter=reporter,
            now=clock,
            observer=self.observer,
        )

    def _feeds(self) -> list[Feed[Any, Any]]:
        feeds = feeds_into(self.world, self.settings, name_freed=lambda _: None)
        children = [feeds.deployments, feeds.services, feeds.budgets]
        return [feeds.workloads, feeds.pools, feeds.nodes, feeds.pods, *children, feeds.decisions]

    async def _see(self) -> None:
        for feed in self._feeds():
            await feed.list(self.cluster)
        self.world.inventory_changed()

    def reconcile(self, name: str = "chat") -> float | None:
        """One pass over what stands now."""

        async def main() -> float | None:
            await self._see()
            return await self.controller.reconcile(WorkloadKey("team", name))

        return asyncio.run(main())

    def observe(self) -> set[str]:
        """A round of the observer, half a minute after the one before; who is to be looked at then."""
        self.now += timedelta(seconds=self.settings.observe_interval_s)
        self.looked.clear()

        async def main() -> None:
            await self._see()
            await self.observer.round()

        asyncio.run(main())
        return set(self.looked)

    def addresses(self, name: str = "chat") -> list[str]:
        """Where a workload's ready pods answer, by their names."""
        pods = self.cluster.all(POD, "team")
        return [p["status"]["podIP"] for p in pods if p["metadata"]["labels"]["metainf.dev/workload"] == name]

    def report_pool(self, name: str) -> JsonObject:
        async def main() -> None:
            await self._see()
            await PoolReporter(self.cluster, self.world, now=lambda: self.now).reconcile(PoolKey(name))

        asyncio.run(main())
        found = self.cluster.peek(ACCELERATOR_POOL, name)
        assert found is not None
        return dict(found.get("status") or {})

    def settle(self, *names: str, passes: int = 40) -> None:
        """Pass after pass, the cluster moving in between, until nobody writes any more."""
        for _ in range(passes):
            self.play()
            before = len(self.cluster.writes)
            for name in names or ("chat",):
                self.reconcile(name)
            if len(self.cluster.writes) == before and not self.play():
                return
            self.now += timedelta(seconds=20)
        raise AssertionError("passes do not come to an end")

    def resync(self) -> None:
        """What the operator does now and then: everybody decides anew."""
        self.controller.decide_anew()
        self.settle()

    def runs(self, name: str = "chat") -> Running | None:
        """What the operator sees of the pods of the decision in force."""

        async def main() -> Running | None:
            await self._see()
            state = self.world.workloads.get(WorkloadKey("team", name))
            assert state is not None
            assert state.manifest is not None
            active = self.world.active_decision(state.key, state.uid)
            return what_runs(self.world, state, active, asked=serving_inputs(state.manifest))

        return asyncio.run(main())

    # Kubernetes around it

    def play(self) -> bool:
        """Deployments make pods, pods are bound and become ready; whether anything moved."""
        moved = False
        for deployment in self.cluster.all(DEPLOYMENT):
            moved |= self._scale(deployment)
        standing = {d["metadata"]["name"] for d in self.cluster.all(DEPLOYMENT)}
        for pod in self.cluster.all(POD):
            if "of" in pod["metadata"].get("annotations", {}) and pod["metadata"]["annotations"]["of"] not in standing:
                self.cluster.remove(POD, pod["metadata"]["name"], pod["metadata"]["namespace"])
                moved = True
        for pod in self.cluster.all(POD):
            moved |= self._bind(pod)
        for deployment in self.cluster.all(DEPLOYMENT):
            moved |= self._status(deployment)
        return moved

    def _pods_of(self, deployment: JsonObject) -> list[JsonObject]:
        name = deployment["metadata"]["name"]
        return [p for p in self.cluster.all(POD) if p["metadata"].get("annotations", {}).get("of") == name]

    def _scale(self, deployment: JsonObject) -> bool:
        pods, wanted = self._pods_of(deployment), deployment["spec"]["replicas"]
        for pod in pods[wanted:]:
            self.cluster.remove(POD, pod["metadata"]["name"], "team")
        for _ in range(wanted - len(pods)):
            self._ips += 1
            name = f"{deployment['metadata']['name']}-{self._ips}"
            template = deployment["spec"]["template"]
            labels = template["metadata"]["labels"]
            metadata = {
                "name": name,
                "namespace": "team",
                "labels": labels,
                "annotations": {"of": deployment["metadata"]["name"]},
                "ownerReferences": [
                    {
                        "kind": "ReplicaSet",
                        "name": f"{deployment['metadata']['name']}-5d9c7b",
                        "uid": deployment["metadata"]["uid"],
                        "controller": True,
                    }
                ],
            }
            self.cluster.put(POD, {"metadata": metadata, "spec": template["spec"]})
        return len(pods) != wanted

    def _bind(self, pod: JsonObject) -> bool:
        if pod["spec"].get("nodeName"):
            return False
        use = project_pod({**pod, "spec": {**pod["spec"], "nodeName": "?"}})
        assert use is not None
        terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        wanted = terms["nodeSelectorTerms"][0]["matchExpressions"]
        taken: dict[str, int] = {}
        for other in self.cluster.all(POD):
            held = project_pod(other)
            if held is not None:
                taken[held.node] = taken.get(held.node, 0) + held.accelerators
        for host in self.cluster.all(NODE):
            facts = project_node(host)
            fits = all(facts.label_map.get(e["key"]) in e["values"] for e in wanted)
            selector = (pod["spec"].get("nodeSelector") or {}).items()
            fits = fits and all(facts.label_map.get(key) == value for key, value in selector)
            fits = fits and all(_tolerated(pod, taint) for taint in facts.taints)
            count = facts.accelerators.count - taken.get(facts.name, 0)
            if fits and facts.usable and count >= use.accelerators:
                self._ips += 1
                status = {"podIP": f"10.0.0.{self._ips}", "conditions": [{"type": "Ready", "status": "True"}]}
                bound = {"spec": {"nodeName": facts.name}, "status": status}
                self.cluster.edit(POD, pod["metadata"]["name"], bound, "team")
                return True
        return False

    def _status(self, deployment: JsonObject) -> bool:
        pods = self._pods_of(deployment)
        failed = deployment["metadata"]["name"] in self.failed
        bound = sum(bool(p["spec"].get("nodeName")) for p in pods) if self.ready and not failed else 0
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(pods),
            "updatedReplicas": len(pods),
            "availableReplicas": bound,
        }
        if failed or "conditions" in (deployment.get("status") or {}):
            overdue = {
                "type": "Progressing",
                "status": "False",
                "reason": "ProgressDeadlineExceeded",
                "message": "late",
            }
            status["conditions"] = [overdue] if failed else []
        if deployment.get("status") == status:
            return False
        self.cluster.edit(DEPLOYMENT, deployment["metadata"]["name"], {"status": status}, "team", manager="kcm")
        return True

    # What a test looks at

    def apply(self, manifest: JsonObject) -> None:
        self.cluster.put(INFERENCE_WORKLOAD, manifest)

    def edit(self, name: str = "chat", **spec: Any) -> None:
        self.cluster.edit(INFERENCE_WORKLOAD, name, {"spec": spec}, "team")

    def status(self, name: str = "chat") -> JsonObject:
        found = self.cluster.peek(INFERENCE_WORKLOAD, name, "team")
        assert found is not None
        return dict(found.get("status") or {})

    def condition(self, kind: str, name: str = "chat") -> tuple[str, str]:
        (found,) = [c for c in self.status(name)["conditions"] if c["type"] == kind]
        return found["status"], found["reason"]

    def message(self, kind: str, name: str = "chat") -> str:
        (found,) = [c for c in self.status(name)["conditions"] if c["type"] == kind]
        return str(found["message"])

    def shown(self, name: str = "chat") -> dict[str, str]:
        """Status by type of the conditions of a workload that the metrics show."""
        (family,) = self.metrics.workload_condition.collect()
        series = [sample.labels for sample in family.samples if sample.labels["name"] == name]
        found = {labels["type"]: labels["status"] for labels in series}
        assert len(found) == len(series)
        return found

    def deployments(self) -> list[JsonObject]:
        return self.cluster.all(DEPLOYMENT, "team")

    def running(self, name: str = "chat") -> dict[str, int]:
        """Pool and replicas of what stands for a workload."""
        found: dict[str, int] = {}
        for body in self.deployments():
            if body["metadata"]["labels"]["metainf.dev/workload"] == name:
                pool = body["metadata"]["annotations"]["metainf.dev/candidate"].split("/")[0]
                found[pool] = found.get(pool, 0) + body["spec"]["replicas"]
        return found

    def decisions(self) -> dict[str, str]:
        """Phase by name."""
        return {
            d["metadata"]["name"]: (d.get("status") or {}).get("phase", "")
            for d in self.cluster.all(INFERENCE_DECISION)
        }

    def events(self) -> list[str]:
        return [e["reason"] for e in self.cluster.all(EVENT)]


def pool(name: str, product: str = "NVIDIA-A100-SXM4-40GB", price: str | None = "1", count: int = 1) -> JsonObject:
    spec: JsonObject = {"nodeSelector": {"pool": name}, "accelerator": {"product": product, "count": count}}
    if price is not None:
        spec["price"] = {"perHour": price}
    return {
        "apiVersion": "metainf.dev/v1alpha1",
        "kind": "AcceleratorPool",
        "metadata": {"name": name},
        "spec": spec,
    }


ROOMY = {"cpu": "64", "memory": "512Gi"}


def with_pools(around: Around, *, cheap: int = 4, fast: int = 4) -> Around:
    """Nodes of one accelerator: cheap ones, 1 USD/h for 4 requests/s, and fast ones, 10 USD/h for 40."""
    around.cluster.put(ACCELERATOR_POOL, pool("cheap", price="1"))
    around.cluster.put(ACCELERATOR_POOL, pool("fast", "NVIDIA-H100-80GB-HBM3", price="10"))
    for kind, like, count in (("cheap", "gfd-a100", cheap), ("fast", "gke-h100", fast)):
        for i in range(count):
            body = node(f"{kind}-{i}", like, labels={"pool": kind}, allocatable={**ROOMY, "nvidia.com/gpu": "1"})
            around.cluster.put(NODE, body)
    return around


def planned(around: Around, name: str = "chat") -> Proposal:
    """What `kubectl metainf plan NAME` finds on the cluster as it stands; writes nothing."""

    async def main() -> Proposal:
        world = await read_world(around.cluster)
        state = world.workloads.get(WorkloadKey("team", name))
        assert state is not None
        planner = Planner(around.cluster, world, around.predictor, around.settings, now=lambda: around.now)
        return await planner.propose(state)

    before = len(around.cluster.writes)
    found = asyncio.run(main())
    assert around.cluster.writes[before:] == []
    return found


def serving(**more: Any) -> Around:
    """A workload that serves on the cheap pool."""
    around = with_pools(Around())
    around.apply(workload(**more))
    around.settle()
    return around
