"""The InferenceDecisions of a workload: written, put in force, superseded, pruned.

Separate because the order of these writes is what makes a crash harmless: a decision is written, with what it
reserves, before anything runs on it, and the one before it is let go only afterwards.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from metainf.errors import InvalidWorkloadError
from metainf.manifests import Decision, DecisionPhase, parse_decision
from metainf.planning import Plan
from metainf.selection import NoSelection
from metainf_operator.cluster_api import ClusterApi, JsonObject
from metainf_operator.resources import INFERENCE_DECISION
from metainf_operator.states import (
    ACTIVATED_AT,
    IMAGE,
    RELEASED,
    SERVING_INPUTS,
    DecisionState,
    ObjectKey,
    WorkloadState,
    project_decision,
)
from metainf_operator.world import World

__all__ = ["Records"]

_KEPT = 10
_REMEMBERED = 4096


class Records:
    """Reads and writes decisions, and keeps the cache of their metadata up to date with what was written.

    `mends`: a phase that a crash left behind is put right when its decision is read. Not for who only asks.
    """

    def __init__(self, cluster: ClusterApi, world: World, *, now: Callable[[], datetime], mends: bool = True) -> None:
        self.cluster = cluster
        self.world = world
        self._mends = mends
        self._now = now
        self._read: dict[ObjectKey, tuple[str, Decision]] = {}
        self._phases: dict[ObjectKey, DecisionPhase] = {}

    async def read(self, state: DecisionState) -> Decision | None:
        """The whole record; its spec never changes, so it is read once. None where it cannot be understood."""
        remembered = self._read.get(state.key)
        if remembered is not None and remembered[0] == state.head.uid:
            return remembered[1]
        body = await self.cluster.get(INFERENCE_DECISION, state.head.name, state.head.namespace)
        phase = (body.get("status") or {}).get("phase")
        if self._mends and state.activated_at is not None and phase != DecisionPhase.ACTIVE.value:
            await self._phase(state.head.namespace, state.head.name, DecisionPhase.ACTIVE)  # a crash came between
        return self._remember(state, body)

    def _remember(self, state: DecisionState, body: JsonObject) -> Decision | None:
        try:
            decision = parse_decision(body)
        except InvalidWorkloadError:
            return None
        if len(self._read) >= _REMEMBERED:
            self._read.clear()
        self._read[state.key] = (state.head.uid, decision)
        return decision

    async def activate(
        self, state: WorkloadState, plan: Plan, active: DecisionState | None, *, serving_inputs: str, image: str
    ) -> DecisionState:
        """Write the plan's decision and put it in force; then let the one before it go."""
        at = self._now()
        if active is not None and active.activated_at is not None and at <= active.activated_at:
            at = active.activated_at + timedelta(microseconds=1)  # two in one tick of the clock keep their order
        notes = {
            ACTIVATED_AT: at.isoformat().replace("+00:00", "Z"),
            SERVING_INPUTS: serving_inputs,
            IMAGE: image,
        }
        written = await self._write(plan, notes, DecisionPhase.ACTIVE)
        await self.retire_others(state, written)
        return written

    async def retire_others(self, state: WorkloadState, active: DecisionState) -> None:
        """Let go what was in force before; after a crash in between, that of an earlier pass."""
        for other in self.world.decisions_of(state.key, state.uid):
            if other.activated_at is not None and other.key != active.key:
                await self._retire(other)

    async def propose(self, state: WorkloadState, plan: Plan) -> None:
        """Record the plan's decision as proposed; nothing where it is recorded already."""
        recorded = self._recorded(state, plan)
        if recorded is None:
            await self._write(plan, {}, DecisionPhase.PROPOSED)
        elif recorded.activated_at is None:
            await self._confirm(recorded, DecisionPhase.PROPOSED)

    async def refuse(self, state: WorkloadState, plan: Plan) -> None:
        """Record the refusal, where its reason is another than the latest record's."""
        if not isinstance(plan.outcome, NoSelection):
            return
        records = self.world.decisions_of(state.key, state.uid)
        recorded = self._recorded(state, plan)
        if recorded is not None:
            # Recorded before, and perhaps not the latest only because something was chosen in between.
            await self._confirm(recorded, DecisionPhase.REFUSED)
        elif not records or records[0].head.limit != plan.outcome.limit.value:
            await self._write(plan, {}, DecisionPhase.REFUSED)

    async def release(self, active: DecisionState) -> DecisionState:
        """Give the capacity of the decision in force back: it stays in force and runs nothing."""
        return await self._annotate(active, {RELEASED: "true"})

    async def _retire(self, state: DecisionState) -> None:
        # The annotation last: a crash in between is found by it, and both are written again.
        await self._phase(state.head.namespace, state.head.name, DecisionPhase.SUPERSEDED)
        await self._annotate(state, {ACTIVATED_AT: None, RELEASED: None})

    async def _annotate(self, state: DecisionState, annotations: dict[str, Any]) -> DecisionState:
        body = await self.cluster.patch_merge(
            INFERENCE_DECISION, state.head.name, {"metadata": {"annotations": annotations}}, state.head.namespace
        )
        return self._cache(body) or state

    async def _write(self, plan: Plan, notes: dict[str, str], phase: DecisionPhase) -> DecisionState:
        """Write the plan's decision; one of its name that stands is put in force again as it is.

        The name says inputs and choice; what else a record tells (runners-up, generation) may differ by then, and a
        record never changes.
        """
        manifest = plan.manifest
        annotations = {**manifest["metadata"]["annotations"], **notes}
        known = self.world.decisions.get((manifest["metadata"]["namespace"], manifest["metadata"]["name"]))
        if known is not None and known.head.owner_uid == plan.workload.uid:
            written = await self._annotate(known, {**annotations, RELEASED: None})
        else:
            if known is not None:  # of an earlier workload of this name, on its way out
                await self.cluster.delete(INFERENCE_DECISION, plan.name, plan.workload.namespace, uid=known.head.uid)
            metadata = {**manifest["metadata"], "annotations": annotations}
            body = await self.cluster.apply(INFERENCE_DECISION, {**manifest, "metadata": metadata})
            stored = self._cache(body)
            if stored is None:
                raise AssertionError(f"decision {metadata['name']} was written and cannot be read")
            written = stored
            self._remember(written, body)
        await self._phase(written.head.namespace, written.head.name, phase)
        return written

    def _recorded(self, state: WorkloadState, plan: Plan) -> DecisionState | None:
        return next((d for d in self.world.decisions_of(state.key, state.uid) if d.head.name == plan.name), None)

    async def _confirm(self, state: DecisionState, phase: DecisionPhase) -> None:
        """Write the phase once in the life of this process: an earlier one may have ended before it did."""
        if self._phases.get(state.key) is not phase:
            await self._phase(state.head.namespace, state.head.name, phase)

    async def _phase(self, namespace: str, name: str, phase: DecisionPhase) -> None:
        manifest = {
            "apiVersion": INFERENCE_DECISION.api_version,
            "kind": INFERENCE_DECISION.kind,
            "metadata": {"name": name, "namespace": namespace},
            "status": {"phase": phase.value},
        }
        await self.cluster.apply_status(INFERENCE_DECISION, manifest)
        if len(self._phases) >= _REMEMBERED:
            self._phases.clear()
        self._phases[namespace, name] = phase

    def _cache(self, body: JsonObject) -> DecisionState | None:
        state = project_decision(body)
        if state is not None:
            self.world.decisions.upsert(state.key, state, str(body["metadata"].get("resourceVersion", "")))
        return state

    async def prune(self, state: WorkloadState, *, keep: frozenset[str]) -> None:
        """Delete the oldest records beyond the last ten, besides those to keep."""
        spare = [d for d in self.world.decisions_of(state.key, state.uid) if d.head.name not in keep]
        for decision in spare[_KEPT:]:
            await self.cluster.delete(INFERENCE_DECISION, decision.head.name, decision.head.namespace)
            self.world.decisions.delete(decision.key)
            self._read.pop(decision.key, None)
