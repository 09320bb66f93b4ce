"""Whose pods are to have their nodes before others are started that might take these."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choices import pool
from metainf.placement import ReplicaRequest
from metainf_operator.ledger import Hold, NodeUse, PodUse, WorkloadKey, node_use
from metainf_operator.places import PLACE_KEPT, goes_before

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
CREATED = NOW - timedelta(days=1)
GPU = "h100"
FIRST, BETWEEN, LAST = (WorkloadKey("team", name) for name in ("first", "between", "last"))


def on(*numbers: int) -> frozenset[str]:
    return frozenset(f"{GPU}-{number}" for number in numbers)


def hold(
    who: WorkloadKey,
    replicas: int = 1,
    accelerators: int = 1,
    *,
    nodes: frozenset[str] | None = None,
    ago: timedelta | None = timedelta(seconds=9),
) -> Hold:
    request = ReplicaRequest(accelerators, float(accelerators), accelerators)
    return Hold(who, CREATED, GPU, request, replicas, nodes=nodes, since=None if ago is None else NOW - ago)


def mine(
    replicas: int = 1, accelerators: int = 1, *, nodes: frozenset[str] | None = None, ago: timedelta | None = None
) -> Hold:
    return hold(LAST, replicas, accelerators, nodes=nodes, ago=ago or timedelta(seconds=1))


def uses_of(pods: Sequence[PodUse]) -> dict[str, NodeUse]:
    return {name: node_use(pod for pod in pods if pod.node == name) for name in {pod.node for pod in pods}}


OWN_OLD_SIDE = PodUse(f"{GPU}-0", 1, 1.0, 1, FIRST)


@pytest.mark.parametrize(
    ("asks", "unmet", "pods", "waits"),
    [
        pytest.param(mine(), [], [], False, id="nobody else"),
        pytest.param(mine(), [hold(FIRST, nodes=on(0))], [], True, id="anywhere, behind one who selects a node"),
        pytest.param(mine(nodes=on(0, 1)), [hold(FIRST, nodes=on(0))], [], True, id="two nodes, behind one of them"),
        pytest.param(mine(nodes=on(1)), [hold(FIRST, nodes=on(0))], [], False, id="each selects another node"),
        pytest.param(mine(), [hold(FIRST)], [], False, id="who reserved before may go anywhere too"),
        pytest.param(mine(), [hold(FIRST, nodes=on(0, 1))], [], False, id="one of two nodes is left to it"),
        pytest.param(mine(2), [hold(FIRST, nodes=on(0, 1))], [], True, id="two pods might take both"),
        pytest.param(mine(), [hold(FIRST, 2, nodes=on(0, 1))], [], True, id="it needs both"),
        pytest.param(
            mine(), [hold(FIRST, nodes=on(0), ago=timedelta(seconds=1))], [], True, id="put in force at once: by name"
        ),
        pytest.param(mine(), [hold(FIRST, nodes=on(0), ago=timedelta(0))], [], False, id="the other came later"),
        pytest.param(mine(), [hold(FIRST, nodes=on(0), ago=None)], [], False, id="its record is being written"),
        pytest.param(mine(ago=PLACE_KEPT), [hold(FIRST, nodes=on(0), ago=PLACE_KEPT * 2)], [], False, id="for so long"),
        pytest.param(mine(), [hold(LAST, nodes=on(0))], [], False, id="what it reserved itself"),
        pytest.param(
            mine(), [hold(FIRST, nodes=on(0, 1)), hold(BETWEEN, ago=timedelta(seconds=5))], [], True, id="with a third"
        ),
        pytest.param(
            mine(), [hold(FIRST, nodes=on(0, 1)), hold(BETWEEN, ago=timedelta(0))], [], False, id="the third waits too"
        ),
        pytest.param(
            mine(), [hold(FIRST, nodes=on(0))], [OWN_OLD_SIDE], False, id="its old side is there, others have room"
        ),
        pytest.param(mine(3), [hold(FIRST, nodes=on(0))], [OWN_OLD_SIDE], True, id="its old side is there, no room"),
    ],
)
def test_who_reserved_nodes_that_it_selects_has_them_before_others_start(
    asks: Hold, unmet: list[Hold], pods: list[PodUse], waits: bool
) -> None:
    nodes = pool(GPU, per_node=1, nodes=3).nodes
    found = goes_before(nodes, uses_of(pods), unmet, asks, now=NOW)
    assert (None if found is None else found.workload) == (FIRST if waits else None)


@pytest.mark.parametrize(
    ("asks", "reserved", "waits"),
    [
        pytest.param(mine(1, 1), hold(FIRST, 1, 8, nodes=on(0, 1)), False, id="one small pod breaks one of two nodes"),
        pytest.param(mine(2, 1), hold(FIRST, 1, 8, nodes=on(0, 1)), True, id="two small pods may break both"),
        pytest.param(mine(1, 8), hold(FIRST, 1, 1, nodes=on(0)), True, id="a large one takes the room of many"),
        pytest.param(mine(1, 8), hold(FIRST, 8, 1, nodes=on(0, 1)), False, id="of eight, where sixteen are"),
        pytest.param(mine(1, 8), hold(FIRST, 9, 1, nodes=on(0, 1)), True, id="of nine"),
    ],
)
def test_pods_of_all_sizes_are_counted_where_they_would_harm_most(asks: Hold, reserved: Hold, waits: bool) -> None:
    nodes = pool(GPU, nodes=2).nodes
    assert (goes_before(nodes, {}, [reserved], asks, now=NOW) is not None) is waits


NODES = st.none() | st.frozensets(st.sampled_from([f"{GPU}-{i}" for i in range(3)]), min_size=1)
HOLDS = st.builds(
    lambda replicas, accelerators, nodes, ago: (replicas, accelerators, nodes, timedelta(seconds=ago)),
    st.integers(1, 4),
    st.integers(1, 3),
    NODES,
    st.integers(0, 3),
)


@given(HOLDS, HOLDS)
def test_no_two_wait_for_each_other(
    one: tuple[int, int, frozenset[str] | None, timedelta], two: tuple[int, int, frozenset[str] | None, timedelta]
) -> None:
    nodes = pool(GPU, per_node=3, nodes=3).nodes
    both = ((FIRST, one), (LAST, two))
    first, last = (hold(who, n, size, nodes=where, ago=ago) for who, (n, size, where, ago) in both)
    waits = [goes_before(nodes, {}, [first, last], asks, now=NOW) for asks in (first, last)]
    assert None in waits
