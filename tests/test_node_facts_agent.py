"""Pass after pass: what is written, what is said, and what is left as it stands."""

import logging
from collections.abc import Callable

import pytest

from labelled_node import LabelledNode
from metainf_operator.api_errors import ClusterError, ConflictError, ForbiddenError, UnreachableError
from metainf_operator.node_facts.agent import GONE_AFTER_LOOKS, Agent
from metainf_operator.node_facts.gpus import Fault, Gpu, NoDriver, Outcome, Reading
from metainf_operator.node_facts.labels import MigStrategy, labels_of

_L4 = Gpu("NVIDIA L4", 23034, (8, 9), "0x030200", False, False, pcie_width=16)
_TWO = Reading("580.65.06", (13, 0), (_L4, _L4))
_NONE = Reading("580.65.06", (13, 0), ())
_ABSENT = NoDriver("NVML Shared Library Not Found")
_MISMATCH = Fault("starting NVML: version mismatch")


class _World:
    """A driver that says what it is told to, a node, and a clock."""

    def __init__(self, node: LabelledNode) -> None:
        self.outcome: Outcome = _TWO
        self.node = node
        self.now_s = 0.0
        self.agent = Agent("node-1", lambda: self.outcome, node, lambda: self.now_s, resync_s=300.0)

    def passes(self, *outcomes: Outcome) -> None:
        for outcome in outcomes:
            self.outcome = outcome
            self.agent.run_once()
            self.now_s += 60


@pytest.fixture
def world() -> _World:
    return _World(LabelledNode({"kubernetes.io/hostname": "node-1"}))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "metainf_operator.node_facts")
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_node_has_the_labels_after_one_pass(world: _World) -> None:
    world.passes(_TWO)
    assert world.node.mine == labels_of(_TWO, MigStrategy.NONE)
    assert world.node.labels["kubernetes.io/hostname"] == "node-1"


def test_steady_state_writes_nothing_says_nothing_and_rarely_reads(
    world: _World, said: Callable[[], list[str]]
) -> None:
    world.passes(*[_TWO] * 20)
    assert world.node.writes == 1
    assert world.node.reads == 4  # every 300 s of 1,200
    assert said() == ["the driver answers", "the node is labelled"]


def test_a_label_that_somebody_took_away_is_back_at_the_next_resync(world: _World) -> None:
    world.passes(_TWO)
    world.node.remove("nvidia.com/gpu.product")
    world.passes(*[_TWO] * 5)
    assert world.node.labels["nvidia.com/gpu.product"] == "NVIDIA-L4"


def test_a_node_without_a_driver_is_told_of_once_and_left_as_it_is(
    world: _World, said: Callable[[], list[str]]
) -> None:
    world.passes(*[_ABSENT] * 10)
    assert said() == ["no NVIDIA driver: waiting for one"]
    assert world.node.writes == 0
    assert world.node.labels == {"kubernetes.io/hostname": "node-1"}


def test_a_driver_that_appears_later_is_noticed(world: _World, said: Callable[[], list[str]]) -> None:
    world.passes(_ABSENT, _ABSENT, _ABSENT, _ABSENT, _TWO)
    assert world.node.labels["nvidia.com/gpu.count"] == "2"
    assert said() == ["no NVIDIA driver: waiting for one", "the driver answers", "the node is labelled"]


def test_labels_outlast_a_driver_that_is_being_replaced_and_go_with_one_that_stays_away(world: _World) -> None:
    world.passes(_TWO, *[_ABSENT] * (GONE_AFTER_LOOKS - 1))
    assert world.node.labels["nvidia.com/gpu.count"] == "2"
    world.passes(_TWO, *[_ABSENT] * GONE_AFTER_LOOKS)
    assert world.node.labels == {"kubernetes.io/hostname": "node-1"}


def test_labels_go_at_once_with_the_last_gpu_and_follow_the_others(world: _World) -> None:
    world.passes(_TWO, Reading("580.65.06", (13, 0), (_L4,), lost=("GPU 1: GPU is lost",)))
    assert world.node.labels["nvidia.com/gpu.count"] == "1"
    world.passes(_NONE)
    assert world.node.labels == {"kubernetes.io/hostname": "node-1"}


def test_a_lost_gpu_is_told_of_once(world: _World, said: Callable[[], list[str]]) -> None:
    broken = Reading("580.65.06", (13, 0), (_L4,), lost=("GPU 1: GPU is lost",))
    world.passes(broken, broken, broken)
    assert said().count("GPUs are lost, and not counted") == 1


def test_labels_stay_while_the_driver_fails(world: _World, said: Callable[[], list[str]]) -> None:
    world.passes(_TWO, *[_MISMATCH] * 30)
    assert world.node.labels["nvidia.com/gpu.count"] == "2"
    assert said()[-1:] == ["the driver does not answer; labels stay"]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(UnreachableError("getting Node node-1: connection refused"), id="no answer"),
        pytest.param(ForbiddenError("getting Node node-1: forbidden", code=403), id="no right"),
        pytest.param(ConflictError("labelling Node node-1: conflict", code=409), id="somebody was faster"),
    ],
)
def test_an_api_server_that_refuses_is_told_of_once_and_asked_again(
    world: _World, said: Callable[[], list[str]], error: ClusterError
) -> None:
    world.node.fault = error
    world.passes(_TWO, _TWO, _TWO)
    assert said() == ["the driver answers", "the node could not be labelled"]
    world.node.fault = None
    world.passes(_TWO)
    assert world.node.mine == labels_of(_TWO, MigStrategy.NONE)


def test_labels_of_gpu_feature_discovery_are_left_alone_and_that_is_said_once(
    world: _World, said: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    theirs = {"nvidia.com/gpu.product": "NVIDIA-L4-SHARED", "nvidia.com/gpu.count": "2"}
    world.node.update(theirs, "nfd-master")
    world.passes(*[_TWO] * 12)
    assert theirs.items() <= world.node.labels.items()
    assert {key.partition("/")[0] for key in world.node.mine} == {"metainf.dev"}
    assert said().count("labels of others are left alone") == 1
    (record,) = [r for r in caplog.records if r.getMessage() == "labels of others are left alone"]
    assert vars(record)["owners"] == "nfd-master"


def test_the_node_is_ours_again_when_gpu_feature_discovery_is_gone(world: _World) -> None:
    world.node.update({"nvidia.com/gpu.product": "NVIDIA-L4-SHARED"}, "nfd-master")
    world.passes(_TWO)
    world.node.remove("nvidia.com/gpu.product")
    world.passes(*[_TWO] * 6)
    assert world.node.mine == labels_of(_TWO, MigStrategy.NONE)
