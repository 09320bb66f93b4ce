"""Brings the children of a workload to what its decision in force asks for, one step at a time.

Separate from `rollout`, which says the step, and from `children`, which writes the manifests: this one looks at what
stands and calls the API server.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from metainf.engine_defaults import cpu_threads
from metainf.manifests import Decision, InferenceWorkload
from metainf.placement import SPOT_TAINT_KEYS
from metainf.pools import CapacityType, NodePool
from metainf.workload import Toleration
from metainf_operator.accrual import Accrued
from metainf_operator.api_errors import NamespaceTerminatingError, NotFoundError
from metainf_operator.children import (
    ANNOTATION_DIGEST,
    Manifest,
    Serving,
    deployment,
    pod_disruption_budget,
    service,
    serving_hash,
)
from metainf_operator.cluster_api import ClusterApi, JsonObject
from metainf_operator.projections import (
    ChildState,
    controller_uid,
    project_child,
    project_deployment,
    service_ports,
)
from metainf_operator.records import Records
from metainf_operator.resources import DEPLOYMENT, POD_DISRUPTION_BUDGET, SERVICE, Resource
from metainf_operator.rollout import ObservedService, PodTrouble, Stage, Step, next_step
from metainf_operator.settings import OperatorSettings
from metainf_operator.sides import Sides
from metainf_operator.step_waits import behind, more_replicas, out_of_turn, rolls, starts_pods
from metainf_operator.store import Store
from metainf_operator.template_nodes import as_template, room_for_serving
from metainf_operator.world import DecisionState, ObjectKey, WorkloadState, World

__all__ = ["Rolled", "Roller"]


@dataclass(frozen=True, slots=True)
class Rolled:
    """How far serving got; `stage` None where nothing is to run."""

    stage: Stage | None = None
    message: str = ""
    serving: str | None = None
    replicas: int = 0
    again_in: timedelta | None = None
    restored: tuple[str, ...] = ()
    trouble: PodTrouble | None = None


class Roller:
    """Applies children. Remembers the generation of each Deployment that it applied: a user's edit moves it."""

    def __init__(
        self,
        cluster: ClusterApi,
        world: World,
        records: Records,
        settings: OperatorSettings,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self.cluster = cluster
        self.world = world
        self.records = records
        self.settings = settings
        self.sides = Sides(world, records, settings)
        self._now = now
        self._applied: dict[ObjectKey, tuple[str, int]] = {}

    async def roll(
        self,
        state: WorkloadState,
        workload: InferenceWorkload,
        weight_bytes: float,
        active: DecisionState,
        decision: Decision,
        *,
        stopped: bool,
        accrued: Accrued | None = None,
        keeps_old: bool = False,
    ) -> Rolled:
        """One step. Without the pool that the decision names, what stands is left as it is, or scaled to zero.

        `accrued` is what a batch has cost so far. `keeps_old`: the decision was made in this pass for a gain alone, on
        the ground that both sides fit and that its turn has come; neither is asked again, and nothing stops for it.
        """
        serving = self._serving(state, workload, active, decision, weight_bytes)
        deployments = self.world.children(state.key, self.world.deployments, state.uid)
        if serving is None or active.head.choice is None:
            if stopped:
                await self.halt(state)
                return Rolled()
            return self.as_it_stands(state, "; the pool is there no more")
        digest = serving_hash(workload, serving)
        name = f"{workload.name}-{digest}"
        replicas = 0 if stopped else active.head.choice.replicas
        if stopped:
            return await self._to_zero(state, workload, serving, deployments, name, digest)
        standing = next(iter(self.world.children(state.key, self.world.services, state.uid)), None)
        both_fit = keeps_old or await self._both_fit(state, workload, weight_bytes, active, decision, accrued, name)
        step = next_step(
            name,
            digest,
            replicas,
            [d.deployment for d in deployments if d.deployment is not None and not d.terminating],
            None if standing is None else ObservedService(standing.serving or "", standing.switched_at),
            both_fit=both_fit,
            room_comes=not both_fit and self.world.room_comes(state.key, serving.pool, state.uid),
            may_switch=keeps_old or self.sides.turn(state.key),
            now=self._now(),
            troubles=self.world.troubles(state.key, digest),
        )
        manifest = self._deployment(state, workload, serving, name, replicas) if step.apply_target else None
        if not keeps_old:
            step = self._in_turn(state, workload, serving, deployments, step, manifest, replicas)
        taken = await self._taken(state, name if step.apply_target else None, workload.name)
        if taken is not None:
            return Rolled(Stage.NAME_TAKEN, taken, digest, 0, timedelta(seconds=30))
        restored = await self._take(state, workload, manifest, step, replicas, standing)
        return Rolled(step.stage, step.message, digest, replicas, step.again_in, restored, step.trouble)

    def _in_turn(
        self,
        state: WorkloadState,
        workload: InferenceWorkload,
        serving: Serving,
        deployments: tuple[ChildState, ...],
        step: Step,
        manifest: Manifest | None,
        replicas: int,
    ) -> Step:
        """The step, or what of it starts no pods as long as others have to come first."""
        standing = [child for child in deployments if not child.terminating]
        if not starts_pods(step, standing):
            return step
        name = None if manifest is None else manifest["metadata"]["name"]
        target = next((child for child in standing if child.name == name), None)
        if manifest is not None and target is not None and _digest(manifest) != target.digest:
            placed = as_template(self.world, state, serving, target, replicas)
            if rolls(workload, placed, target, replicas):
                return step if self.sides.turn(state.key) else out_of_turn(step)
        more = more_replicas(target, replicas)
        first = self.world.goes_before(state.key, serving.pool, more, self._now())
        return step if first is None else behind(step, first, standing)

    def as_it_stands(self, state: WorkloadState, why: str = "") -> Rolled:
        """What runs now, where no step can be taken; `why` ends the message."""
        deployments = self.world.children(state.key, self.world.deployments, state.uid)
        running = [d.deployment for d in deployments if d.deployment is not None and d.deployment.replicas > 0]
        if not running:
            return Rolled()
        best = max(running, key=lambda d: d.available)
        stage = Stage.DEGRADED if best.available else Stage.ROLLING_OUT
        message = f"{best.available} of {best.replicas} replicas are ready{why}"
        return Rolled(Stage.SERVING if best.settled else stage, message, best.serving, best.replicas)

    def _serving(
        self,
        state: WorkloadState,
        workload: InferenceWorkload,
        active: DecisionState,
        decision: Decision,
        weight_bytes: float,
    ) -> Serving | None:
        choice, kept = active.head.choice, active.head.reservation
        record = None if choice is None else self.world.pool_of(state.key, choice.pool)
        if choice is None or kept is None or record is None or decision.chosen is None:
            return None
        pool = record.pool
        cpu = pool.accelerator.cpu
        return Serving(
            decision=active.head.name,
            candidate=f"{choice.pool}/{choice.method}/{choice.layout}",
            pool=choice.pool,
            argv=decision.chosen.argv,
            image=active.image,
            request=kept.request,
            vendor=pool.accelerator.vendor,
            resource_name=pool.resource_name,
            match_labels=pool.match_labels,
            hostnames=pool.hostnames,
            tolerations=_tolerations(workload, pool),
            weight_bytes=weight_bytes,
            cpu_threads=None if cpu is None else cpu_threads(kept.request.cpu_cores, cpu.threads_per_core),
        )

    async def _both_fit(
        self,
        state: WorkloadState,
        workload: InferenceWorkload,
        weight_bytes: float,
        active: DecisionState,
        decision: Decision,
        accrued: Accrued | None,
        target: str,
    ) -> bool:
        """Whether capacity and budget hold the new side of a switch beside the old."""
        kept = active.head.reservation
        if kept is None or decision.chosen is None:
            return True
        found = await self.sides.switch_room(state, workload, weight_bytes, accrued, but=target)
        decided = decision.chosen.cost_per_hour
        return found is None or not found.lacks(kept.pool, kept.request, kept.replicas, decided=decided)

    async def _taken(self, state: WorkloadState, deployment_name: str | None, service_name: str) -> str | None:
        """Whether a child's name is held by an object that is not ours; it is left alone."""
        wanted: list[tuple[Resource, Store[ObjectKey, ChildState], str]] = [
            (SERVICE, self.world.services, service_name)
        ]
        if deployment_name is not None:
            wanted.append((DEPLOYMENT, self.world.deployments, deployment_name))
        for resource, store, name in wanted:
            known = store.get((state.key.namespace, name))
            if known is not None and known.owner_uid == state.uid:
                continue
            if await self._is_foreign(resource, state, name):
                return f"{resource.kind} {state.key.namespace}/{name} exists and is not ours: rename the workload or it"
        return None

    async def _is_foreign(self, resource: Resource, state: WorkloadState, name: str) -> bool:
        """Whether a child's name is held by an object that another controls, or nobody."""
        if resource not in (SERVICE, DEPLOYMENT, POD_DISRUPTION_BUDGET):
            raise ValueError(f"{resource.kind} is no child")
        try:
            body = await self.cluster.get(resource, name, state.key.namespace, metadata_only=True)
        except NotFoundError:
            return False
        return controller_uid(body["metadata"]) != state.uid

    async def halt(self, state: WorkloadState) -> None:
        """Scale what runs to zero, as it stands: for a workload of which nothing else is understood now."""
        for child in self.world.children(state.key, self.world.deployments, state.uid):
            if child.deployment is not None and child.deployment.replicas > 0:
                await self.cluster.patch_merge(DEPLOYMENT, child.name, {"spec": {"replicas": 0}}, child.namespace)

    async def _take(
        self,
        state: WorkloadState,
        workload: InferenceWorkload,
        manifest: Manifest | None,
        step: Step,
        replicas: int,
        standing: ChildState | None,
    ) -> tuple[str, ...]:
        restored: list[str] = []
        try:
            if step.apply_target and manifest is not None and await self._apply_deployment(state, manifest):
                restored.append(f"Deployment {manifest['metadata']['name']}")
            if await self._apply_service(state, workload, step.send_to, standing):
                restored.append(f"Service {workload.name}")
            await self._apply_budget(state, workload, replicas)
            for old in step.delete:
                await self.cluster.delete(DEPLOYMENT, old, state.key.namespace)
        except NamespaceTerminatingError:
            return ()
        return tuple(restored)

    def _deployment(
        self, state: WorkloadState, workload: InferenceWorkload, serving: Serving, name: str, replicas: int
    ) -> Manifest:
        """The Deployment as it shall be, with the strategy that it has as long as nothing else of it changes.

        Whether one more replica fits moves with every pod, and the strategy must not; but a template that rolls
        because something else changed has to roll in the room that there is now.
        """
        known = self.world.deployments.get((state.key.namespace, name))
        if known is not None:
            serving = as_template(self.world, state, serving, known, replicas)
        if known is not None and known.surge is not None:
            manifest = deployment(workload, serving, replicas, surge=known.surge)
            if _digest(manifest) == known.digest:
                return manifest
        return deployment(workload, serving, replicas, surge=self._may_surge(state, serving))

    def _may_surge(self, state: WorkloadState, serving: Serving) -> bool:
        """Whether one more replica fits now while the template rolls."""
        reserved = next((h.replicas for h in self.world.holds() if h.workload == state.key), 0)
        return room_for_serving(self.world, state, serving) > reserved

    async def _apply_deployment(self, state: WorkloadState, manifest: Manifest) -> bool:
        """Apply where the wish or the child moved; True where a user's edit was put right."""
        key, digest = (manifest["metadata"]["namespace"], manifest["metadata"]["name"]), _digest(manifest)
        standing = self.world.deployments.get(key)
        last = self._applied.get(key)
        if standing is not None and last == (digest, standing.generation) and standing.digest == digest:
            return False
        edited = standing is not None and standing.digest == digest and last is not None and last[0] == digest
        body = await self.cluster.apply(DEPLOYMENT, manifest)
        self._applied[key] = (digest, int(body["metadata"].get("generation") or 0))
        self._cache(self.world.deployments, key, project_deployment(body), body)
        return edited

    async def _apply_service(
        self, state: WorkloadState, workload: InferenceWorkload, send_to: str, standing: ChildState | None
    ) -> bool:
        moved = standing is None or standing.serving != send_to or standing.switched_at is None
        since = self._now() if moved or standing is None or standing.switched_at is None else standing.switched_at
        manifest = service(workload, send_to, since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        digest = manifest["metadata"]["annotations"][ANNOTATION_DIGEST]
        wished, ports = manifest["spec"]["selector"], service_ports(manifest["spec"])
        as_wished = standing is not None and dict(standing.selector) == wished and standing.ports == ports
        if standing is not None and standing.digest == digest and as_wished:
            return False
        edited = standing is not None and standing.digest == digest
        if standing is not None and not as_wished:
            # Server-side apply leaves keys and ports that others added: a selector with one more key selects nothing.
            foreign = {k: None for k, _ in standing.selector if k not in wished}
            patch = {"spec": {"selector": {**foreign, **wished}, "ports": manifest["spec"]["ports"]}}
            await self.cluster.patch_merge(SERVICE, workload.name, patch, workload.namespace)
        body = await self.cluster.apply(SERVICE, manifest)
        key = (workload.namespace, workload.name)
        self._cache(self.world.services, key, project_child({"kind": "Service", **body}), body)
        return edited

    async def _apply_budget(self, state: WorkloadState, workload: InferenceWorkload, replicas: int) -> None:
        key = (workload.namespace, workload.name)
        standing = self.world.budgets.get(key)
        if replicas <= 1:
            if standing is not None and standing.owner_uid == state.uid:
                await self.cluster.delete(POD_DISRUPTION_BUDGET, workload.name, workload.namespace, uid=standing.uid)
                self.world.budgets.delete(key)
            return
        manifest = pod_disruption_budget(workload)
        digest = manifest["metadata"]["annotations"][ANNOTATION_DIGEST]
        last = self._applied.get((f"pdb:{key[0]}", key[1]))
        if standing is not None and standing.digest == digest and last == (digest, standing.generation):
            return
        if standing is None and await self._is_foreign(POD_DISRUPTION_BUDGET, state, workload.name):
            return  # a user's own: it may well cover the pods, and is none of ours to change
        if standing is not None and standing.owner_uid != state.uid:
            return
        body = await self.cluster.apply(POD_DISRUPTION_BUDGET, manifest)
        self._applied[(f"pdb:{key[0]}", key[1])] = (digest, int(body["metadata"].get("generation") or 0))
        self._cache(self.world.budgets, key, project_child({"kind": "PodDisruptionBudget", **body}), body)

    async def _to_zero(
        self,
        state: WorkloadState,
        workload: InferenceWorkload,
        serving: Serving,
        deployments: tuple[ChildState, ...],
        name: str,
        digest: str,
    ) -> Rolled:
        for child in deployments:
            if child.name == name:
                standing = replace(serving, hostnames=child.hostnames, packed=child.packed)
                manifest = deployment(workload, standing, 0, surge=bool(child.surge))
                await self._apply_deployment(state, manifest)
            else:
                await self.cluster.delete(DEPLOYMENT, child.name, child.namespace)
        return Rolled(None, "", digest, 0)

    @staticmethod
    def _cache(store: Store[ObjectKey, ChildState], key: ObjectKey, child: ChildState | None, body: JsonObject) -> None:
        if child is not None:
            store.upsert(key, child, str(body["metadata"].get("resourceVersion", "")))


def _digest(manifest: Manifest) -> str:
    return str(manifest["metadata"]["annotations"][ANNOTATION_DIGEST])


def _tolerations(workload: InferenceWorkload, pool: NodePool) -> tuple[Toleration, ...]:
    """The user's, and those that selection took for granted: of the accelerator's own taint, and of spot."""
    found = list(workload.workload.placement.tolerations)
    if pool.resource_name is not None:
        found.append(Toleration(key=pool.resource_name, operator="Exists", effect="NoSchedule"))
    if pool.capacity_type is CapacityType.SPOT:
        found += [Toleration(key=key, operator="Exists", effect="NoSchedule") for key in SPOT_TAINT_KEYS]
    return tuple(dict.fromkeys(found))
