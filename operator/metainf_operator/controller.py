"""One pass over one workload: observe, decide, apply, report.

Separate from the handlers, which only queue keys, and from the pure modules, which say what to do. A pass starts from
the world as it is, never from what an earlier one remembers, and may be cut off anywhere: the next goes on from there.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from metainf.manifests import Decision, InferenceWorkload, ObservedTraffic, TrafficSource
from metainf.planning import Plan
from metainf.predictors.contract import Predictor
from metainf.selection import Selection
from metainf_operator.accrual import overspent
from metainf_operator.api_errors import ForbiddenError, InvalidObjectError, NamespaceTerminatingError
from metainf_operator.choosing import Chooser
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.conditions import Fault
from metainf_operator.ledger import WorkloadKey
from metainf_operator.metrics import Metrics
from metainf_operator.models import Models
from metainf_operator.observed_traffic import traffic_in_use
from metainf_operator.observer import Observer
from metainf_operator.outlook import Outlook, outlook_of
from metainf_operator.pass_ends import DEFINITIONS_LOOK_S, TURN_LOOK_S, kept_names, next_look_s, refused_by_server
from metainf_operator.reconcile import (
    Activate,
    Choice,
    Hold,
    Idle,
    Propose,
    Refuse,
    Stop,
    awaits_room,
    halts,
    idle,
    serving_inputs,
)
from metainf_operator.records import Records
from metainf_operator.reporter import Reporter, Seen
from metainf_operator.reservations import give_up_claim, reserve
from metainf_operator.roller import Rolled, Roller
from metainf_operator.settings import OperatorSettings
from metainf_operator.understanding import TroubleError, Understood, understand
from metainf_operator.workers import FORBIDDEN_DELAY_S, FORBIDDEN_FIRST_S
from metainf_operator.world import DecisionState, WorkloadState, World

__all__ = ["Controller"]


class Controller:
    """Runs passes. Everything that it needs is given; `now` is the wall clock, for what users read."""

    def __init__(
        self,
        cluster: ClusterApi,
        world: World,
        predictor: Predictor,
        settings: OperatorSettings,
        metrics: Metrics,
        *,
        reporter: Reporter,
        now: Callable[[], datetime],
        observer: Observer | None = None,
        capacity_freed: Callable[[], None] = lambda: None,
    ) -> None:
        self.cluster = cluster
        self.world = world
        self.settings = settings
        self.metrics = metrics
        self.models = Models(cluster, hub=settings.hub)
        self.records = Records(cluster, world, now=now)
        self.roller = Roller(cluster, world, self.records, settings, now=now)
        self.sides = self.roller.sides
        self.chooser = Chooser(self.sides, predictor, now=now)
        self.reporter = reporter
        self.observer = observer
        self._now = now
        self._capacity_freed = capacity_freed
        self._deciding = asyncio.Lock()
        self._outlooks: dict[WorkloadKey, tuple[object, Outlook]] = {}
        self._awaiting: set[WorkloadKey] = set()  # who decides anew when the limit on switches has room
        self._forbidden: dict[WorkloadKey, int] = {}
        self._traffic: dict[WorkloadKey, ObservedTraffic] = {}

    async def reconcile(self, key: WorkloadKey) -> float | None:
        """One pass; seconds until the next look, None where only an event or a resync brings one."""
        state = self.world.workloads.get(key)
        if state is None or state.deleting:
            self._gone(key)
            return None
        return await self._pass(state)

    def _gone(self, key: WorkloadKey) -> None:
        self.world.forget(key)
        self._outlooks.pop(key, None)
        self._awaiting.discard(key)
        self._forbidden.pop(key, None)
        self._traffic.pop(key, None)
        self.metrics.forget_workload(key.namespace, key.name)
        self._capacity_freed()

    def decide_anew(self, key: WorkloadKey | None = None) -> None:
        """Forget how one workload stood, or all of them: the next pass over it decides again."""
        if key is None:
            self._outlooks.clear()
        else:
            self._outlooks.pop(key, None)

    async def _pass(self, state: WorkloadState) -> float | None:
        """Observe, decide, apply, report; `seen` grows on the way, and what cuts it short is reported with it."""
        active = self.world.active_decision(state.key, state.uid)
        seen = Seen(state, state.manifest, active=active)
        try:
            # First: whatever cannot be understood, what runs goes on costing.
            seen = replace(seen, accrued=await self.sides.accrued(state, self._now()))
            understood = await understand(state, self.world, self.models, self.cluster, resync_s=self.settings.resync_s)
            understood = replace(understood, observed=await self._observed(understood.workload, active))
            seen = await self._decide_where_needed(seen, understood, active)
            decision = await self._in_force(seen.active)
            if decision is not None and seen.active is not None:
                seen = replace(seen, rolled=await self._roll(seen, understood, seen.active, decision))
        except InvalidObjectError as exc:
            return await self._in_trouble(seen, active, refused_by_server(exc))
        except NamespaceTerminatingError:
            return None  # it takes no new objects, and what is in it goes
        except ForbiddenError as exc:
            return await self._in_trouble(seen, active, self._no_rights(state.key, exc))
        except TroubleError as exc:
            return await self._in_trouble(seen, active, exc)
        self._forbidden.pop(state.key, None)
        return await self._report(seen, understood, decision)

    # observe

    async def _observed(self, workload: InferenceWorkload, active: DecisionState | None) -> ObservedTraffic | None:
        """The traffic that was seen and is to be decided by; None where the declared is, as where nothing is watched.

        What the last pass took goes before what the decision in force was made by: where that pass kept what runs, no
        record says so, and small changes of what is seen are no reason to weigh everything again.
        """
        key = WorkloadKey(workload.namespace, workload.name)
        if workload.policy.traffic is not TrafficSource.OBSERVED or self.settings.unwatched:
            self._traffic.pop(key, None)
            return None
        before = self._traffic.get(key)
        if before is None:
            decision = await self._in_force(active)
            before = None if decision is None else decision.inputs.observed
        seen = None if self.observer is None else self.observer.latest(key)
        found = traffic_in_use(
            workload.workload.traffic,
            before,
            seen,
            window_s=self.settings.observe_window_s,
            runs=active is not None and active.holds,
        )
        if found is None:
            self._traffic.pop(key, None)
        else:
            self._traffic[key] = found
        return found

    async def _in_force(self, active: DecisionState | None) -> Decision | None:
        return None if active is None else await self.records.read(active)

    def _still_there(self, state: WorkloadState) -> bool:
        """Whether nothing was deleted, or made anew under its name: of the old one nothing is to be written."""
        newest = self.world.workloads.get(state.key)
        return newest is not None and newest.uid == state.uid and not newest.deleting

    # decide

    async def _decide_where_needed(self, seen: Seen, understood: Understood, active: DecisionState | None) -> Seen:
        """How things stand: as remembered, or by a new decision."""
        remembered = self._remembered(seen.state, understood, seen)
        if remembered is not None:
            return replace(seen, outlook=remembered)
        return await self._decide_and_record(seen, understood, active)

    async def _decide_and_record(self, seen: Seen, understood: Understood, active: DecisionState | None) -> Seen:
        """Choose anew, write the records that the choice asks for, and remember how things stand."""
        state, ran, recorded = seen.state, active is not None and active.holds, False
        try:
            made, choice = await self._decide(seen, understood, active)
            if not self._still_there(state):
                return seen
            active = await self._apply(state, understood, made, choice, active)
            recorded = True
        finally:
            reserved = self.world.reserving.pop(state.key, None) is not None
            if not recorded:
                # Whose write failed looks again by the queue's back-off, not for the room that it gives back.
                self.world.held_back.discard(state.key)
                if reserved:
                    self._capacity_freed()
        outlook = outlook_of(made, choice, active)
        self._outlooks[state.key] = (self._situation(understood, replace(seen, active=active)), outlook)
        if isinstance(choice, Hold) and choice.awaits_turn:
            self._awaiting.add(state.key)
        else:
            self._awaiting.discard(state.key)
        if awaits_room(made, choice):
            self.world.held_back.add(state.key)
        else:
            self.world.held_back.discard(state.key)
        seen = replace(seen, active=active, outlook=outlook, stopped=ran and isinstance(choice, Stop))
        if isinstance(choice, Activate):
            return replace(seen, activated=True, keeps_old=choice.keeps_old)
        return seen

    def _situation(self, understood: Understood, seen: Seen) -> object:
        """What a decision rests on, but for the capacity that is free: while it is the same, the decision stands."""
        state, active = seen.state, seen.active
        in_force = None if active is None else (active.head.name, active.holds)
        model = (id(understood.model.architecture), understood.model.revision, understood.model.head)
        spent = overspent(understood.workload.workload.budget, seen.accrued)
        traffic = None if understood.observed is None else understood.observed.traffic
        inventory = self.world.inventory_version
        return state.uid, state.generation, model, understood.pinned, inventory, in_force, spent, traffic

    def _remembered(self, state: WorkloadState, understood: Understood, seen: Seen) -> Outlook | None:
        """How things stood at the last decision, where nothing that it rests on has moved.

        Who runs nothing looks again each time: room may have come. So does who waits for a turn, once it is there.
        """
        if state.key in self._awaiting and self.sides.turn(state.key):
            return None
        situation, outlook = self._outlooks.get(state.key, (None, None))
        settled = outlook is not None and ((seen.active is not None and seen.active.holds) or outlook.idle)
        return outlook if settled and situation == self._situation(understood, seen) else None

    async def _decide(self, seen: Seen, understood: Understood, active: DecisionState | None) -> tuple[Plan, Choice]:
        """Choose among what is free and reserve it before anybody else looks."""
        state = seen.state
        served = await self.chooser.served(understood, active)
        async with self._deciding:
            started = time.perf_counter()
            made, choice = await self.chooser.choose(state, understood, active, seen.accrued, served=served)
            self._count(made, choice, time.perf_counter() - started)
            if reserve(self.world, state, choice):
                self._capacity_freed()
        return made, choice

    def _count(self, made: Plan, choice: Choice, took_s: float) -> None:
        outcome = made.outcome
        names = {Activate: "selected", Propose: "selected", Refuse: "refused", Stop: "refused"}
        self.metrics.selections.labels(outcome=names.get(type(choice), "kept")).inc()
        self.metrics.selection_duration.observe(took_s)
        feasible = 0
        if isinstance(outcome, Selection):
            feasible = int(outcome.chosen.assessment.feasible.sum())
        self.metrics.candidates.labels(outcome="feasible").set(feasible)
        self.metrics.candidates.labels(outcome="rejected").set(outcome.considered - feasible)

    # apply

    async def _apply(
        self,
        state: WorkloadState,
        understood: Understood,
        made: Plan,
        choice: Choice,
        active: DecisionState | None,
    ) -> DecisionState | None:
        """Write the records that the choice asks for; the decision in force afterwards."""
        workload = understood.workload
        match choice:
            case Activate():
                asked = serving_inputs(workload)
                chosen = choice.plan.chosen
                if chosen is None:
                    raise AssertionError("what is activated was chosen")
                image = self._image(workload, chosen.candidate.option.pool.accelerator.vendor.value, made)
                return await self.records.activate(state, choice.plan, active, serving_inputs=asked, image=image)
            case Propose():
                await self.records.propose(state, choice.plan)
            case Refuse():
                await self.records.refuse(state, choice.plan)
            case Stop():
                await self.records.refuse(state, choice.plan)
                if active is not None and active.holds:
                    return await self._release(active)
            case Idle():
                if active is not None and active.holds:
                    return await self._release(active)
            case _:
                pass
        if active is not None:
            await self.records.retire_others(state, active)
        return active

    async def _release(self, active: DecisionState) -> DecisionState:
        """Give back what is held, and then tell those who wait for it."""
        released = await self.records.release(active)
        self._capacity_freed()
        return released

    def _image(self, workload: InferenceWorkload, vendor: str, made: Plan) -> str:
        image = workload.engine.image or self.settings.image_for(vendor, made.inputs.engine_version)
        if image is None:
            message = f"no image is known for {vendor} accelerators: name one in spec.engine.image"
            raise TroubleError(Fault.INVALID_SPEC, message, None)
        return image

    async def _roll(self, seen: Seen, understood: Understood, active: DecisionState, decision: Decision) -> Rolled:
        if not self._still_there(seen.state):
            return Rolled()
        return await self.roller.roll(
            seen.state,
            understood.workload,
            understood.model.architecture.weight_bytes,
            active,
            decision,
            stopped=not active.holds,
            accrued=seen.accrued,
            keeps_old=seen.keeps_old,
        )

    # report

    async def _report(self, seen: Seen, understood: Understood, decision: Decision | None) -> float | None:
        """Say how things stand, and drop records that nobody needs; seconds until the next look."""
        state = seen.state
        if not self._still_there(state):
            return None
        if not await self.reporter.report(self._with_sight(seen), decision):
            return DEFINITIONS_LOOK_S
        await self.records.prune(state, keep=kept_names(understood.workload, seen.active))
        return next_look_s(seen, TURN_LOOK_S if state.key in self._awaiting else None)

    async def _in_trouble(self, seen: Seen, active: DecisionState | None, trouble: TroubleError) -> float | None:
        """Say what is wrong; what is in force serves on, unless it is to run nothing."""
        workload, stopped = seen.state.manifest, False
        spent = workload is not None and overspent(workload.workload.budget, seen.accrued)
        if workload is not None and halts(workload, overspent=spent):
            if active is not None and active.holds:
                stopped = not idle(workload)
                active = await self._release(active)
            await self.roller.halt(seen.state)  # also where an earlier pass ended between the two
        self.world.held_back.discard(seen.state.key)
        if give_up_claim(self.world, seen.state):
            self._capacity_freed()  # who cannot be decided for now keeps no room from others
        told = replace(
            seen,
            outlook=None,
            active=active,
            rolled=self.roller.as_it_stands(seen.state),
            stopped=stopped,
            fault=trouble.fault,
            fault_message=str(trouble),
        )
        await self.reporter.report(self._with_sight(told), await self._in_force(active))
        return next_look_s(told, trouble.retry_s)

    def _with_sight(self, seen: Seen) -> Seen:
        """The same with what was seen of the pods that run."""
        observer, serving = self.observer, seen.rolled.serving
        return replace(seen, sight=None if observer is None else observer.sight(seen.state.key, serving))

    def _no_rights(self, key: WorkloadKey, error: ForbiddenError) -> TroubleError:
        """An API server that just came up refuses everybody for a second: the long delay comes step by step."""
        times = self._forbidden[key] = self._forbidden.get(key, 0) + 1
        return TroubleError(Fault.FORBIDDEN, str(error), min(FORBIDDEN_DELAY_S, FORBIDDEN_FIRST_S**times))
