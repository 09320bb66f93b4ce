"""Chooses for one workload on the world as it is: what the selection finds, weighed against what runs. Writes nothing.

Separate from the pass, which records the choice and acts on it: `kubectl metainf plan` shows what the operator would
choose, and asks here as well. What a user got wrong becomes the trouble that either of them tells.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from metainf.errors import InvalidWorkloadError, OverridesDecisionError
from metainf.planning import Head, Plan, plan
from metainf.pools import NodePool
from metainf.predictors.contract import Predictor
from metainf.running import Running
from metainf_operator.accrual import Accrued, overspent
from metainf_operator.conditions import Fault
from metainf_operator.reconcile import Choice, Stop, by_declared_too, decide, leaves, serving_inputs
from metainf_operator.running import what_runs
from metainf_operator.sides import Sides
from metainf_operator.states import DecisionState, WorkloadState
from metainf_operator.understanding import TroubleError, Understood

__all__ = ["Chooser", "Served"]


@dataclass(frozen=True, slots=True)
class Served:
    """The commit of the model that is served, and the head that drafts for it; None where there is none."""

    revision: str | None
    head: Head | None


class Chooser:
    """Makes choices from what `sides` sees of the world. Keeps nothing."""

    def __init__(self, sides: Sides, predictor: Predictor, *, now: Callable[[], datetime]) -> None:
        self.sides = sides
        self.predictor = predictor
        self._now = now

    async def served(self, understood: Understood, active: DecisionState | None) -> Served:
        """What to serve: as in the decision in force, as long as the same models and revisions are asked for."""
        model = understood.model
        if active is not None and active.serving_inputs == serving_inputs(understood.workload):
            decision = await self.sides.records.read(active)
            if decision is not None:
                draft = decision.inputs.draft
                context = None if model.head is None else model.head.context_tokens
                return Served(decision.inputs.revision, None if draft is None else Head(draft, context))
        return Served(model.revision, model.head)

    async def choose(
        self,
        state: WorkloadState,
        understood: Understood,
        active: DecisionState | None,
        accrued: Accrued | None,
        *,
        served: Served,
    ) -> tuple[Plan, Choice]:
        """What would be decided, and what is to be done about it.

        `accrued` is what a batch has cost so far; `served` is what pods are to serve.

        Raises
        ------
        TroubleError
            The spec names a method or an argument that the engine's version does not know, or would undo the decision.
        """
        sides = self.sides
        understood = understood.with_pools_known_as(sides.world.known_as(state.key))
        workload = understood.workload
        asked = serving_inputs(workload)
        pools = sides.world.pools_for(state.key, state.created_at)
        running = what_runs(sides.world, state, active, asked=asked)
        made = await self._planned(understood, pools, served, active, running)
        spent = overspent(workload.workload.budget, accrued)
        room = None
        if leaves(made):
            weight_bytes = understood.model.architecture.weight_bytes
            room = await sides.switch_room(state, made.workload, weight_bytes, accrued)
        now = self._now()
        if room is not None:
            room = replace(room, awaited=sides.world.awaited(state.key, now))
        choice = decide(workload, made, active, asked=asked, now=now, overspent=spent, room=room)
        if spent or understood.observed is None or not isinstance(choice, Stop):
            return made, choice
        declared = await self._planned(replace(understood, observed=None), pools, served, active, running)
        choice = by_declared_too(decide(workload, declared, active, asked=asked, now=now))
        return (declared if isinstance(choice, Stop) else made), choice

    async def _planned(
        self,
        understood: Understood,
        pools: Sequence[NodePool],
        served: Served,
        active: DecisionState | None,
        running: Running | None,
    ) -> Plan:
        """The selection's answer, given what is free in the pools, what is in force and what of that runs.

        Found off the event loop.
        """
        try:
            return await asyncio.to_thread(
                plan,
                understood.workload,
                understood.model.architecture,
                revision=served.revision,
                head=served.head,
                pools=pools,
                predictor=self.predictor,
                engine_version=self.sides.settings.engine_version,
                pinned=understood.pinned,
                current=None if active is None else active.head.choice,
                running=running,
                observed=understood.observed,
            )
        except OverridesDecisionError as exc:
            raise TroubleError(Fault.OVERRIDES_DECISION, str(exc), None) from exc
        except InvalidWorkloadError as exc:
            raise TroubleError(Fault.INVALID_SPEC, str(exc), None) from exc
