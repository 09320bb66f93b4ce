"""The next step from what runs to what shall run: a table, and that the steps come to an end without an outage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf_operator.rollout import DRAIN, ObservedDeployment, ObservedService, PodTrouble, Stage, Step, next_step

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)


def seen(
    name: str, replicas: int = 2, available: int | None = None, updated: int | None = None, **more: object
) -> ObservedDeployment:
    found = replicas if available is None else available
    of_template = replicas if updated is None else updated
    facts = ObservedDeployment(f"chat-{name}", name, 1, 1, replicas, of_template, found)
    return replace(facts, **more)


def step(
    observed: Sequence[ObservedDeployment],
    service: ObservedService | None,
    *,
    replicas: int = 2,
    both_fit: bool = True,
    may_switch: bool = True,
    room_comes: bool = False,
    troubles: Sequence[PodTrouble] = (),
) -> Step:
    limits = {"both_fit": both_fit, "may_switch": may_switch, "room_comes": room_comes}
    return next_step("chat-new", "new", replicas, observed, service, **limits, now=NOW, troubles=troubles)


TO_OLD = ObservedService("old", LONG_AGO)
TO_NEW = ObservedService("new", LONG_AGO)


@pytest.mark.parametrize(
    ("observed", "service", "given", "stage", "applies", "send_to", "deletes"),
    [
        pytest.param([], None, {}, Stage.ROLLING_OUT, True, "new", (), id="nothing runs -> start"),
        pytest.param([seen("new", available=0)], TO_NEW, {}, Stage.ROLLING_OUT, True, "new", (), id="starting"),
        pytest.param([seen("new", available=1)], TO_NEW, {}, Stage.DEGRADED, True, "new", (), id="one of two ready"),
        pytest.param([seen("new")], TO_NEW, {}, Stage.SERVING, True, "new", (), id="all ready -> serving"),
        pytest.param(
            [seen("new", replicas=1)], TO_NEW, {}, Stage.DEGRADED, True, "new", (), id="fewer than wanted -> scale"
        ),
        pytest.param([seen("new", generation=2)], TO_NEW, {}, Stage.DEGRADED, True, "new", (), id="not looked at yet"),
        pytest.param([seen("new", updated=1)], TO_NEW, {}, Stage.DEGRADED, True, "new", (), id="rolling in place"),
        pytest.param(
            [seen("new", available=0, deadline_exceeded=True)],
            TO_NEW,
            {},
            Stage.STUCK,
            True,
            "new",
            (),
            id="out of time -> stuck",
        ),
        pytest.param([seen("old")], TO_OLD, {}, Stage.SWITCHING, True, "old", (), id="another runs -> start beside it"),
        pytest.param(
            [seen("old", available=0)], TO_OLD, {}, Stage.ROLLING_OUT, True, "new", (), id="another stands, none serves"
        ),
        pytest.param(
            [seen("old")],
            TO_OLD,
            {"both_fit": False},
            Stage.RECREATING,
            False,
            "old",
            ("chat-old",),
            id="both do not fit -> the old one first",
        ),
        pytest.param(
            [seen("old")],
            TO_OLD,
            {"may_switch": False},
            Stage.WAITING_TO_SWITCH,
            False,
            "old",
            (),
            id="others switch -> wait",
        ),
        pytest.param(
            [seen("new", available=1), seen("old")],
            TO_OLD,
            {"may_switch": False},
            Stage.SWITCHING,
            True,
            "old",
            (),
            id="a switch that began goes on",
        ),
        pytest.param(
            [seen("new", available=0, deadline_exceeded=True), seen("old")],
            TO_OLD,
            {},
            Stage.SWITCH_FAILED,
            True,
            "old",
            (),
            id="out of time beside the old one, which serves on -> failed",
        ),
        pytest.param(
            [seen("new", available=1, deadline_exceeded=True), seen("old", available=1)],
            TO_OLD,
            {"may_switch": False, "both_fit": False},
            Stage.SWITCH_FAILED,
            True,
            "old",
            (),
            id="failed, one replica came up -> the old one serves on",
        ),
        pytest.param(
            [seen("new", deadline_exceeded=True), seen("old")],
            TO_OLD,
            {},
            Stage.DRAINING,
            True,
            "new",
            (),
            id="a failed side that came up after all -> send to it",
        ),
        pytest.param(
            [seen("failed", available=0, deadline_exceeded=True), seen("old")],
            TO_OLD,
            {},
            Stage.SWITCHING,
            True,
            "old",
            ("chat-failed",),
            id="a third beside one that failed -> start it, drop what failed",
        ),
        pytest.param(
            [seen("failed", available=0, deadline_exceeded=True), seen("old")],
            TO_OLD,
            {"both_fit": False},
            Stage.SWITCHING,
            False,
            "old",
            ("chat-failed",),
            id="no room for a third -> what failed goes first",
        ),
        pytest.param(
            [seen("old")],
            TO_OLD,
            {"both_fit": False, "room_comes": True},
            Stage.SWITCHING,
            False,
            "old",
            (),
            id="its pods are still going -> wait for their room",
        ),
        pytest.param(
            [seen("failed", available=0), seen("old", available=0)],
            TO_OLD,
            {"both_fit": False, "room_comes": True},
            Stage.RECREATING,
            False,
            "new",
            ("chat-failed", "chat-old"),
            id="no room and nothing answers -> all others go",
        ),
        pytest.param(
            [seen("new"), seen("old")], TO_OLD, {}, Stage.DRAINING, True, "new", (), id="ready -> send to the new one"
        ),
        pytest.param(
            [seen("new"), seen("old")],
            ObservedService("new", NOW - timedelta(seconds=5)),
            {},
            Stage.DRAINING,
            True,
            "new",
            (),
            id="sent to just now -> drain",
        ),
        pytest.param(
            [seen("new"), seen("old"), seen("older")],
            ObservedService("new", NOW - DRAIN),
            {},
            Stage.DRAINING,
            True,
            "new",
            ("chat-old", "chat-older"),
            id="drained -> stop the old ones",
        ),
        pytest.param(
            [seen("new", available=0), seen("old")],
            None,
            {},
            Stage.SWITCHING,
            True,
            "old",
            (),
            id="the Service was deleted amid a switch -> to the old one",
        ),
        pytest.param(
            [seen("new", available=0), seen("old")],
            TO_NEW,
            {},
            Stage.SWITCHING,
            True,
            "old",
            (),
            id="the new one fell over while the old one drains -> back",
        ),
        pytest.param(
            [seen("new", available=1), seen("old")],
            TO_NEW,
            {},
            Stage.DEGRADED,
            True,
            "new",
            (),
            id="the new one has a replica left -> it stays there",
        ),
        pytest.param(
            [seen("old", available=0), seen("older")],
            TO_OLD,
            {},
            Stage.SWITCHING,
            True,
            "older",
            ("chat-old",),
            id="the old one fell over, an older one answers",
        ),
    ],
)
def test_steps(
    observed: list[ObservedDeployment],
    service: ObservedService | None,
    given: dict[str, bool],
    stage: Stage,
    applies: bool,
    send_to: str,
    deletes: tuple[str, ...],
) -> None:
    found = step(observed, service, **given)
    assert (found.stage, found.apply_target, found.send_to, found.delete) == (stage, applies, send_to, deletes)
    assert found.message


def test_drains_for_what_is_left_of_the_time() -> None:
    found = step([seen("new"), seen("old")], ObservedService("new", NOW - timedelta(seconds=5)))
    assert found.again_in == DRAIN - timedelta(seconds=5)
    for waiting in ({"may_switch": False}, {"both_fit": False, "room_comes": True}):
        assert step([seen("old")], TO_OLD, **waiting).again_in == timedelta(seconds=10)


def test_a_stuck_rollout_says_what_the_deployment_says() -> None:
    found = step([seen("new", available=1, deadline_exceeded=True, message="no such image")], TO_NEW)
    assert found.message == "1 of 2 replicas are ready: no such image"


def test_a_failed_switch_says_what_the_deployment_says_and_that_nothing_is_lost() -> None:
    found = step([seen("new", available=0, deadline_exceeded=True, message="too slow"), seen("old")], TO_OLD)
    assert found.message == "0 of 2 replicas are ready: too slow; the old candidate serves on"
    assert (found.stage.available, found.stage.ready) == ("True", "False")


@pytest.mark.parametrize("stage", list(Stage))
def test_every_stage_says_when_it_shows_and_what_it_means(stage: Stage) -> None:
    assert stage.sentence.startswith("Shows w")
    assert stage.available in ("True", "False", "Unknown")
    assert (stage.ready == "True") is (stage is Stage.SERVING)
    assert stage.available == "True" or stage.ready != "True"


@dataclass
class Simulated:
    """Deployments whose replicas become available one by one, a Service, and room for so many replicas."""

    deployments: dict[str, ObservedDeployment]
    service: ObservedService | None
    room: int
    wanted: int
    now: datetime = NOW

    def take(self, found: Step) -> None:
        before = {d.serving: d.available for d in self.deployments.values()}
        if found.apply_target:
            mine = self.deployments.get("chat-new") or seen("new", 0)
            generation = mine.generation + (mine.replicas != self.wanted)
            available = min(mine.available, self.wanted)
            self.deployments["chat-new"] = replace(
                mine, replicas=self.wanted, generation=generation, available=available, deadline_exceeded=False
            )
        if self.service is None or self.service.serving != found.send_to:
            self.service = ObservedService(found.send_to, self.now)
        serves = before.get(found.send_to, 0)
        assert serves > 0 or not any(before.values()), (found, before)
        for name in found.delete:
            del self.deployments[name]

    def pass_time(self) -> None:
        self.now += timedelta(seconds=20)
        for name, d in self.deployments.items():
            free = self.room - sum(other.available for other in self.deployments.values())
            available = min(d.replicas, d.available + max(0, min(1, free)))
            self.deployments[name] = replace(
                d, observed_generation=d.generation, updated=d.replicas, available=available
            )


old_deployments = st.lists(
    st.builds(
        lambda name, replicas, up, stuck: seen(name, replicas, min(replicas, up), deadline_exceeded=stuck),
        st.sampled_from(["new", "old", "older", "oldest"]),
        st.integers(0, 3),
        st.integers(0, 3),
        st.booleans(),
    ),
    unique_by=lambda d: d.name,
    max_size=4,
)
services = st.one_of(
    st.none(),
    st.builds(
        ObservedService,
        st.sampled_from(["new", "old", "older", "nothing"]),
        st.sampled_from([None, LONG_AGO, NOW, NOW + timedelta(seconds=3)]),
    ),
)


@settings(max_examples=200, deadline=None)
@given(old_deployments, services, st.integers(1, 3), st.booleans(), st.integers(0, 3))
def test_from_any_state_the_steps_come_to_exactly_the_target_serving_without_an_outage(
    observed: list[ObservedDeployment], service: ObservedService | None, wanted: int, tight: bool, waits: int
) -> None:
    held = sum(d.replicas for d in observed)
    began = any(d.name == "chat-new" for d in observed)  # a new side that stands has its room already
    room = max(wanted, held) if tight and not began else wanted + held
    world = Simulated({d.name: d for d in observed}, service, room, wanted)
    for number in range(60):
        others = sum(d.replicas for d in world.deployments.values() if d.name != "chat-new")
        found = next_step(
            "chat-new",
            "new",
            wanted,
            list(world.deployments.values()),
            world.service,
            both_fit=others + wanted <= world.room,
            may_switch=number >= waits,
            now=world.now,
        )
        world.take(found)
        if found.stage is Stage.SERVING:
            break
        world.pass_time()
    assert found.stage is Stage.SERVING
    assert list(world.deployments) == ["chat-new"]
    assert world.deployments["chat-new"].available == wanted
    assert world.service is not None
    assert world.service.serving == "new"


CRASHED = PodTrouble(Stage.ENGINE_CRASHED, "chat-new-b", "the engine ended by itself")
KILLED = PodTrouble(Stage.OUT_OF_MEMORY, "chat-new-a", "killed for memory")


@pytest.mark.parametrize(
    ("observed", "stage", "ready"),
    [
        pytest.param([seen("new", available=0)], Stage.OUT_OF_MEMORY, "False", id="none is ready -> why"),
        pytest.param([seen("new", available=1)], Stage.DEGRADED, "Unknown", id="one is left -> it serves"),
        pytest.param([seen("new", available=0), seen("old")], Stage.SWITCHING, "Unknown", id="the old one serves"),
        pytest.param(
            [seen("new", available=0, deadline_exceeded=True)], Stage.OUT_OF_MEMORY, "False", id="more than out of time"
        ),
        pytest.param(
            [seen("new", available=0, deadline_exceeded=True), seen("old")],
            Stage.SWITCH_FAILED,
            "False",
            id="out of time, the old one serves",
        ),
    ],
)
def test_why_replicas_do_not_start_goes_before_how_long_they_take(
    observed: list[ObservedDeployment], stage: Stage, ready: str
) -> None:
    found = step(observed, TO_OLD, troubles=(CRASHED, KILLED))
    assert (found.stage, found.stage.ready) == (stage, ready)
    assert "chat-new-a: killed for memory" in found.message
    assert found.trouble == KILLED


def test_troubles_of_pods_that_are_not_missed_are_none() -> None:
    found = step([seen("new")], TO_NEW, troubles=(CRASHED,))
    assert (found.stage, found.trouble) == (Stage.SERVING, None)
