"""Counting room and money: which replicas fit on which nodes, and what they cost."""

from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choices import GIB, pool
from metainf.placement import (
    ReplicaRequest,
    max_replicas,
    node_share,
    node_slots,
    replica_grid,
    room_for,
    tolerates,
    untolerated_taints,
)
from metainf.pools import Billing, NodeCapacity, NodePool, NodeShape, Price, PriceSource, Taint
from metainf.workload import PlacementLimits, SpotPolicy, Toleration


def one(accelerators: int = 1, cpu: float = 8.0, memory_gib: float = 32) -> ReplicaRequest:
    return ReplicaRequest(accelerators, cpu, int(memory_gib * GIB))


@pytest.mark.parametrize(
    ("free", "asked", "slots"),
    [
        pytest.param((8, 100.0, 500), one(1), 8, id="accelerators limit"),
        pytest.param((8, 20.0, 500), one(1), 2, id="cpu limits"),
        pytest.param((8, 100.0, 70), one(1), 2, id="memory limits"),
        pytest.param((7, 100.0, 500), one(8), 0, id="one short of a whole node"),
        pytest.param((0, 100.0, 500), one(1), 0, id="none free"),
        pytest.param((0, 16.0, 64), one(0), 2, id="a cpu replica needs no accelerator"),
        pytest.param((4, 0.0, 500), ReplicaRequest(2, 0.0, 0), 2, id="no cpu or memory asked for"),
        pytest.param((8, 0.3, 500), one(1, cpu=0.1), 3, id="0.3 is three times 0.1"),
    ],
)
def test_room_on_a_node_is_what_the_scarcest_thing_leaves(
    free: tuple[int, float, int], asked: ReplicaRequest, slots: int
) -> None:
    assert node_slots(NodeCapacity("n", free[0], free[1], free[2] * GIB), asked) == slots


@pytest.mark.parametrize(
    ("nodes", "accelerators", "room"),
    [
        pytest.param(pool(free=(1,) * 8), 8, 0, id="eight nodes with one free each hold no TP8 replica"),
        pytest.param(pool(free=(1,) * 8), 1, 8, id="the same hold eight single ones"),
        pytest.param(pool(free=(8, 7)), 8, 1, id="one whole node"),
        pytest.param(pool(nodes=0, addable=3), 4, 6, id="nodes to be added count"),
        pytest.param(pool(free=(2,), addable=1), 4, 2, id="a full node is added"),
        pytest.param(pool(nodes=0), 1, 0, id="no node"),
    ],
)
def test_capacity_is_fitted_node_by_node(nodes: NodePool, accelerators: int, room: int) -> None:
    assert max_replicas(nodes, one(accelerators)) == room


@pytest.mark.parametrize(
    ("where", "accelerators", "replicas", "cost"),
    [
        pytest.param(pool(price="80"), 1, 1, "10", id="an eighth of a node"),
        pytest.param(pool(price="80"), 4, 2, "80", id="two halves"),
        pytest.param(pool(price="80", billing=Billing.NODE), 1, 1, "80", id="whole nodes are billed whole"),
        pytest.param(pool(price="80", free=(2, 8), billing=Billing.NODE), 1, 8, "80", id="the emptiest node first"),
        pytest.param(pool(price="80", free=(2, 8), billing=Billing.NODE), 1, 9, "160", id="a second node"),
        pytest.param(pool(price="80", nodes=0, addable=2), 1, 1, "80", id="an added node counts whole"),
        pytest.param(pool(price="80", nodes=0, addable=2), 1, 8, "80", id="and once"),
        pytest.param(pool(price="80", nodes=0, addable=2), 1, 9, "160", id="two added"),
        pytest.param(pool(price="80", free=(2,), addable=2), 1, 3, "100", id="shares first, then a whole one"),
        pytest.param(pool(price="0.1", per_node=3), 1, 1, "0.033334", id="rounded up to a millionth"),
        pytest.param(pool(price="0.000001"), 1, 1, "0.000001", id="and never to nothing"),
    ],
)
def test_a_replica_pays_its_share_of_a_standing_node(
    where: NodePool, accelerators: int, replicas: int, cost: str
) -> None:
    assert room_for(where, one(accelerators, 1, 1)).cost_per_hour(replicas) == Decimal(cost)


def _cpu_pool() -> NodePool:
    shape = NodeShape(0, 32.0, 128 * GIB)
    price = Price(Decimal(4), "USD", PriceSource.ANNOTATION)
    nodes = (NodeCapacity("c", 0, 32.0, 128 * GIB),)
    return NodePool("cpu", pool().accelerator, "CPU", None, shape, nodes, price=price)


@pytest.mark.parametrize(
    ("cpu", "memory_gib", "cost"),
    [
        pytest.param(8.0, 16, "1", id="by cpu"),
        pytest.param(8.0, 64, "2", id="by memory where that is the larger"),
        pytest.param(32.0, 128, "4", id="never more than the node"),
    ],
)
def test_a_cpu_replica_pays_the_larger_of_its_two_shares(cpu: float, memory_gib: int, cost: str) -> None:
    assert room_for(_cpu_pool(), one(0, cpu, memory_gib)).cost_per_hour(1) == Decimal(cost)
    assert node_share(_cpu_pool(), one(0, 64.0, 16)) == 1


def test_a_node_that_does_not_say_what_it_has_has_room_for_nothing() -> None:
    silent = replace(_cpu_pool(), shape=NodeShape(0, 0.0, 0), nodes=(NodeCapacity("c", 0, 0.0, 0),))
    assert max_replicas(silent, one(0)) == 0
    assert node_share(silent, one(0)) == 1


@pytest.mark.parametrize(
    ("where", "replicas", "says"),
    [
        pytest.param(pool(price=None), 1, "its price is not known", id="no price"),
        pytest.param(pool(nodes=1), 9, "do not fit", id="more than fit"),
        pytest.param(pool(nodes=0, addable=1), 9, "do not fit", id="more than the nodes to be added"),
    ],
)
def test_prices_nothing_that_cannot_be_bought(where: NodePool, replicas: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        room_for(where, one(1, 1, 1)).cost_per_hour(replicas)


def test_prices_nothing_that_is_larger_than_a_node() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        room_for(pool(per_node=4, nodes=0, addable=2), one(8, 1, 1)).cost_per_hour(1)


@given(
    free=st.lists(st.integers(0, 8), max_size=5),
    addable=st.integers(0, 3),
    accelerators=st.sampled_from([1, 2, 4, 8]),
    billing=st.sampled_from(list(Billing)),
    data=st.data(),
)
def test_more_replicas_never_cost_less_and_all_that_fit_have_a_cost(
    free: list[int], addable: int, accelerators: int, billing: Billing, data: st.DataObject
) -> None:
    where = pool(free=tuple(free), addable=addable, billing=billing)
    asked = one(accelerators, 1, 1)
    costs = [room_for(where, asked).cost_per_hour(n) for n in range(1, max_replicas(where, asked) + 1)]
    assert costs == sorted(costs)
    shuffled = pool(free=tuple(data.draw(st.permutations(free))), addable=addable, billing=billing)
    assert [room_for(shuffled, asked).cost_per_hour(n + 1) for n in range(len(costs))] == costs


TAINT = Taint("dedicated", "llm", "NoSchedule")


@pytest.mark.parametrize(
    ("toleration", "yes"),
    [
        pytest.param(Toleration("dedicated", "Equal", "llm"), True, id="equal, any effect"),
        pytest.param(Toleration("dedicated", "Equal", "other"), False, id="another value"),
        pytest.param(Toleration("dedicated", "Exists"), True, id="exists"),
        pytest.param(Toleration("dedicated", "Exists", effect="NoExecute"), False, id="another effect"),
        pytest.param(Toleration("dedicated", "Exists", effect="NoSchedule"), True, id="the effect"),
        pytest.param(Toleration("other", "Exists"), False, id="another key"),
        pytest.param(Toleration(None, "Exists"), True, id="everything"),
        pytest.param(Toleration(None, "Equal"), False, id="no key needs Exists"),
    ],
)
def test_tolerations_match_as_in_kubernetes(toleration: Toleration, yes: bool) -> None:
    assert tolerates(toleration, TAINT.key, TAINT.value, TAINT.effect) is yes
    missed = untolerated_taints(pool(taints=(TAINT,)), PlacementLimits(tolerations=(toleration,)))
    assert missed == (() if yes else ("dedicated",))


@pytest.mark.parametrize(
    ("taint", "spot", "missed"),
    [
        pytest.param(Taint("nvidia.com/gpu", "", "NoSchedule"), SpotPolicy.NEVER, False, id="the accelerator's own"),
        pytest.param(Taint("a", "", "PreferNoSchedule"), SpotPolicy.NEVER, False, id="a preference keeps nobody away"),
        pytest.param(Taint("cloud.google.com/gke-spot", "true"), SpotPolicy.ALLOW, False, id="spot allowed"),
        pytest.param(Taint("cloud.google.com/gke-spot", "true"), SpotPolicy.NEVER, True, id="spot not allowed"),
        pytest.param(
            Taint("nvidia.com/gpu", "", "NoExecute"), SpotPolicy.NEVER, True, id="the accelerator's own, but evicting"
        ),
        pytest.param(
            Taint("cloud.google.com/gke-spot", "true", "NoExecute"), SpotPolicy.ALLOW, True, id="spot, but evicting"
        ),
        pytest.param(Taint("a"), SpotPolicy.ALLOW, True, id="any other"),
    ],
)
def test_some_taints_are_tolerated_unasked(taint: Taint, spot: SpotPolicy, missed: bool) -> None:
    assert bool(untolerated_taints(pool(taints=(taint,)), PlacementLimits(spot=spot))) is missed


@given(limit=st.integers(0, 700), minimum=st.integers(0, 700))
def test_the_grid_of_replicas_reaches_both_ends_and_never_jumps_by_more_than_a_quarter(
    limit: int, minimum: int
) -> None:
    counts = replica_grid(limit, minimum=minimum)
    least = max(1, minimum)
    assert bool(counts) is (limit >= least)
    if counts:
        assert (counts[0], counts[-1]) == (least, limit)
        assert list(counts) == sorted(set(counts))
        assert all(b - a <= max(1, a // 4) for a, b in pairwise(counts))
        assert counts[:8] == tuple(range(least, least + 8))[: len(counts[:8])] or limit in counts[:8]
        assert len(counts) < 40
