"""Whether to leave what runs for something better."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choices import pool, request, workload
from metainf.candidates import CandidateName
from metainf.selection import NoSelection, Selection, select
from metainf.switching import SWITCH_HORIZON, Keep, KeepReason, Move, MoveReason, Verdict, compare, gain_ratio
from metainf.workload import RateLoad
from stub_predictor import StubPredictor, capacity_by_accelerator

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
STUB = StubPredictor(capacity_by_accelerator(L4=4.0, H100=40.0))
ON_L4 = CandidateName("l4", "default", "TP1", 1)
ON_H100 = CandidateName("h100", "default", "TP1", 1)
NO_ROOM: dict[str, Any] = {"fits_beside": lambda scored: False}


def outcome(
    current: CandidateName | None, *, l4: str = "1", h100: str = "10", budget: str = "100", rps: float = 2
) -> Selection | NoSelection:
    pools = (
        pool("l4", "L4-PCIe-24GB", per_node=1, nodes=4, price=l4),
        pool("h100", per_node=1, nodes=4, price=h100),
    )
    return select(request(workload(budget, load=RateLoad(rps)), *pools, current=current), STUB)


def judged(found: Selection | NoSelection, **given: Any) -> Verdict:
    facts: dict[str, Any] = {
        "runs": True,
        "pinned": False,
        "replicas": range(1, 100),
        "minimum_gain_ratio": 0.1,
        "cooldown": timedelta(minutes=30),
        "last_switch": NOW - timedelta(hours=5),
        "now": NOW,
        "startup": timedelta(0),
        "fits_beside": lambda scored: True,
    }
    return compare(found, **{**facts, **given})


@pytest.mark.parametrize(
    ("found", "given", "reason"),
    [
        pytest.param(outcome(None), {"runs": False}, MoveReason.NOTHING_RUNS, id="nothing runs -> move"),
        pytest.param(outcome(None), {}, MoveReason.GONE, id="its pool is gone -> move"),
        pytest.param(outcome(ON_L4), {}, KeepReason.BEST, id="the same was chosen -> keep"),
        pytest.param(outcome(ON_L4), {"pinned": True}, KeepReason.BEST, id="pinned to what runs -> keep"),
        pytest.param(
            outcome(ON_H100),
            {"pinned": True, "minimum_gain_ratio": 1.0, "last_switch": NOW},
            MoveReason.PINNED,
            id="pinned to another -> move, whatever gain and cooldown say",
        ),
        pytest.param(outcome(ON_H100), {}, MoveReason.BETTER, id="90 % cheaper -> move"),
        pytest.param(
            outcome(ON_H100), {"minimum_gain_ratio": 0.95}, KeepReason.GAIN_TOO_SMALL, id="a gain too small -> keep"
        ),
        pytest.param(outcome(ON_H100), {"last_switch": NOW}, KeepReason.COOLING_DOWN, id="just switched -> keep"),
        pytest.param(
            outcome(ON_H100),
            {"last_switch": NOW - timedelta(minutes=30)},
            MoveReason.BETTER,
            id="the cooldown is over to the second -> move",
        ),
        pytest.param(outcome(ON_H100), {"last_switch": None}, MoveReason.BETTER, id="never switched -> move"),
        pytest.param(
            outcome(ON_H100, h100="1.10", l4="1"),
            {"startup": timedelta(minutes=6)},
            KeepReason.GAIN_TOO_SMALL,
            id="9.1 % does not make up for minimumGain",
        ),
        pytest.param(
            outcome(ON_H100, h100="1.12", l4="1"),
            {"startup": timedelta(hours=1)},
            KeepReason.GAIN_TOO_SMALL,
            id="10.7 % would do, but the new side's hour of loading costs more",
        ),
        pytest.param(outcome(ON_H100, h100="1.12", l4="1"), {}, MoveReason.BETTER, id="10.7 % without that -> move"),
        pytest.param(
            outcome(ON_H100, budget="5"),
            {"minimum_gain_ratio": 1.0, "last_switch": NOW},
            MoveReason.LIMIT_BROKEN,
            id="over the budget -> move, whatever gain and cooldown say",
        ),
        pytest.param(
            outcome(replace(ON_L4, replicas=2)), {"replicas": range(3, 9)}, MoveReason.SCALED, id="scaled -> move"
        ),
        pytest.param(
            outcome(ON_H100, budget="0.5"), {}, KeepReason.NOTHING_BETTER_FITS, id="nothing fits -> keep what runs"
        ),
        pytest.param(
            outcome(None, budget="0.5"), {"runs": False}, KeepReason.NOTHING_BETTER_FITS, id="nothing fits, none runs"
        ),
        pytest.param(
            outcome(replace(ON_L4, replicas=2)),
            {"startup": timedelta(hours=5)},
            MoveReason.BETTER,
            id="fewer replicas of the same start nothing anew",
        ),
        pytest.param(outcome(ON_H100), NO_ROOM, KeepReason.NO_ROOM_BESIDE, id="90 % cheaper, no room for both -> keep"),
        pytest.param(
            outcome(replace(ON_L4, replicas=2)), NO_ROOM, MoveReason.BETTER, id="fewer replicas need no room for both"
        ),
        pytest.param(
            outcome(ON_H100, budget="5"), NO_ROOM, MoveReason.LIMIT_BROKEN, id="over the budget -> move without room"
        ),
        pytest.param(
            outcome(replace(ON_H100, replicas=2)),
            {"replicas": range(1, 2), **NO_ROOM},
            MoveReason.SCALED,
            id="scaled by hand -> move without room",
        ),
        pytest.param(
            outcome(ON_H100), {"pinned": True, **NO_ROOM}, MoveReason.PINNED, id="pinned to another -> without room"
        ),
        pytest.param(outcome(None), NO_ROOM, MoveReason.GONE, id="its pool is gone -> without room"),
    ],
)
def test_keeps_or_moves(found: Selection | NoSelection, given: dict[str, Any], reason: KeepReason | MoveReason) -> None:
    verdict = judged(found, **given)
    assert verdict.reason is reason
    assert isinstance(verdict, Move) is isinstance(reason, MoveReason)


def test_more_replicas_of_what_runs_go_before_a_switch_that_gains_little() -> None:
    found = outcome(ON_H100, h100="1.05", l4="1", rps=50)  # needs two H100, or thirteen L4
    assert isinstance(found, Selection)
    assert found.resized is not None
    verdict = judged(replace(found, chosen=found.chosen))
    assert isinstance(verdict, Move)
    assert (verdict.reason, str(verdict.target.candidate.name)) == (
        MoveReason.LIMIT_BROKEN,
        "2 x default TP1 on h100",
    )


def test_a_broken_limit_leads_to_the_other_candidate_where_that_gains_enough() -> None:
    found = outcome(ON_L4, l4="6", h100="10", rps=6)  # two L4 cost 12, one H100 10
    verdict = judged(found, minimum_gain_ratio=0.1)
    assert isinstance(verdict, Move)
    assert verdict.target.candidate.name == ON_H100
    lazy = judged(found, minimum_gain_ratio=0.2)
    assert isinstance(lazy, Move)
    assert lazy.target.candidate.name == replace(ON_L4, replicas=2)


def test_without_room_for_both_fewer_replicas_of_what_runs_are_taken_where_that_gains_enough() -> None:
    found = outcome(replace(ON_H100, replicas=2))  # 20 USD/h; one of them is 10, one L4 is 1
    verdict = judged(found, **NO_ROOM)
    assert isinstance(verdict, Move)
    assert (verdict.reason, verdict.target.candidate.name, verdict.gain_ratio) == (MoveReason.BETTER, ON_H100, 0.5)
    assert judged(found, minimum_gain_ratio=0.6, **NO_ROOM).reason is KeepReason.NO_ROOM_BESIDE
    assert judged(outcome(ON_H100), minimum_gain_ratio=0.0, **NO_ROOM).reason is KeepReason.NO_ROOM_BESIDE


def test_the_cost_of_a_switch_is_the_new_sides_price_while_it_starts() -> None:
    found = outcome(ON_H100, h100="2", l4="1")  # gains 50 %
    assert isinstance(found, Selection)
    # 0.5 of today's price x startup / horizon is added to the 10 % asked for.
    enough = SWITCH_HORIZON * (0.4 / 0.5)
    assert isinstance(judged(found, startup=enough * 0.99), Move)
    assert isinstance(judged(found, startup=enough * 1.01), Keep)


@settings(max_examples=25, deadline=None)
@given(price=st.integers(1, 400), gain=st.floats(0, 1))
def test_the_gain_is_a_share_between_nothing_and_all(price: int, gain: float) -> None:
    found = outcome(ON_H100, h100=f"{price / 10}", l4="10", budget="1000")
    assert isinstance(found, Selection)
    assert found.current is not None
    share = gain_ratio(found.current, found.chosen)
    assert 0 <= share <= 1
    assert gain_ratio(found.chosen, found.chosen) == 0
    verdict = judged(found, minimum_gain_ratio=gain)
    if isinstance(verdict, Move):
        assert verdict.gain_ratio >= gain
