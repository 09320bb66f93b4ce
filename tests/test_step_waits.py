"""What a step that starts pods leaves out while others have to come first."""

from datetime import UTC, datetime

import pytest

from metainf.placement import ReplicaRequest
from metainf_operator.ledger import Hold, WorkloadKey
from metainf_operator.projections import ChildState
from metainf_operator.rollout import ObservedDeployment, Stage, Step
from metainf_operator.step_waits import behind, more_replicas, starts_pods

CHAT = Hold(WorkloadKey("team", "chat"), datetime(2026, 1, 1, tzinfo=UTC), "p", ReplicaRequest(1, 1.0, 1), 1)
START = Step(Stage.ROLLING_OUT, "0 of 2 replicas are ready", True, "new")
GROW = Step(Stage.DEGRADED, "1 of 2 replicas are ready", True, "new")
SWITCH = Step(Stage.SWITCHING, "starting the new candidate beside the old one", True, "old", ("silent",))
RECREATE = Step(Stage.RECREATING, "stopping the old candidate first", False, "old", ("old",))
MAKE_ROOM = Step(Stage.SWITCHING, "stopping what answers nothing first", False, "old", ("silent",))


def child(replicas: int, available: int) -> ChildState:
    found = ObservedDeployment("a", "old", 1, 1, replicas, replicas, available)
    return ChildState("Deployment", "a", "team", "d", "u", "last", None, 1, "old", deployment=found)


ANSWERS, SILENT = child(1, 1), child(1, 0)


@pytest.mark.parametrize(
    ("step", "standing", "starts"),
    [
        pytest.param(START, [], True, id="a start"),
        pytest.param(SWITCH, [ANSWERS], True, id="a switch"),
        pytest.param(RECREATE, [ANSWERS], True, id="what answers is stopped for it"),
        pytest.param(RECREATE, [SILENT], False, id="what does not answer is missed by nobody"),
        pytest.param(MAKE_ROOM, [ANSWERS], False, id="room is made first"),
    ],
)
def test_what_starts_pods_or_stops_what_answers_for_them(step: Step, standing: list[ChildState], starts: bool) -> None:
    assert starts_pods(step, standing) is starts


@pytest.mark.parametrize(
    ("step", "standing", "stage", "deletes"),
    [
        pytest.param(START, [], Stage.ROLLING_OUT, (), id="nothing runs"),
        pytest.param(GROW, [ANSWERS], Stage.WAITING_TO_SWITCH, (), id="more of what runs"),
        pytest.param(SWITCH, [ANSWERS], Stage.WAITING_TO_SWITCH, ("silent",), id="what is silent goes all the same"),
        pytest.param(RECREATE, [ANSWERS], Stage.WAITING_TO_SWITCH, (), id="what answers stays"),
    ],
)
def test_behind_others_nothing_is_started_and_nothing_that_answers_is_stopped(
    step: Step, standing: list[ChildState], stage: Stage, deletes: tuple[str, ...]
) -> None:
    found = behind(step, CHAT, standing)
    assert (found.stage, found.apply_target, found.send_to, found.delete) == (stage, False, step.send_to, deletes)
    assert found.message == f"{step.message}; before that, pods of team/chat take the nodes that they select"
    assert found.again_in is not None


def test_more_replicas_are_those_that_do_not_stand_yet() -> None:
    assert [more_replicas(standing, 3) for standing in (None, child(1, 1), child(3, 0), child(4, 4))] == [3, 2, 0, -1]
