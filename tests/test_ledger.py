"""Who holds which accelerators: two workloads never count on the same free one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choices import pool
from metainf.placement import ReplicaRequest, empty_node, max_replicas, node_slots
from metainf.pools import NodeCapacity, NodePool
from metainf_operator.ledger import (
    Hold,
    NodeUse,
    PodUse,
    WorkloadKey,
    _reserve,
    _taken,
    node_use,
    pool_for_workload,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
A, B, C = (WorkloadKey("team", name) for name in "abc")
GPU = "h100"


def asks(accelerators: int = 1) -> ReplicaRequest:
    return ReplicaRequest(accelerators, float(accelerators), accelerators)


def hold(who: WorkloadKey, replicas: int, accelerators: int = 1, *, waiting: bool = False, at: int = 0) -> Hold:
    return Hold(who, T0 + timedelta(minutes=at), GPU, asks(accelerators), replicas, waiting)


def pod(node: int = 0, who: WorkloadKey | None = None, accelerators: int = 1, *, terminating: bool = False) -> PodUse:
    return PodUse(f"{GPU}-{node}", accelerators, float(accelerators), accelerators, who, terminating)


def uses_of(pods: list[PodUse]) -> dict[str, NodeUse]:
    return {name: node_use(pod for pod in pods if pod.node == name) for name in {pod.node for pod in pods}}


def free_for(
    who: WorkloadKey, pods: list[PodUse], holds: list[Hold], where: NodePool | None = None, at: int = 9, **more: bool
) -> int:
    where = where or pool(GPU)
    left = pool_for_workload(where, uses_of(pods), holds, who, created_at=T0 + timedelta(minutes=at), **more)
    return max_replicas(left, asks())


@pytest.mark.parametrize(
    ("pods", "holds", "free"),
    [
        pytest.param([], [], 8, id="an empty node"),
        pytest.param([pod(), pod()], [], 6, id="pods of others"),
        pytest.param([pod(terminating=True)], [], 7, id="going away, not gone"),
        pytest.param([], [hold(B, 3)], 5, id="reserved, nothing runs yet"),
        pytest.param([pod(0, B)], [hold(B, 3)], 5, id="reserved three, one runs"),
        pytest.param([pod(0, B)] * 3, [hold(B, 3)], 5, id="reserved three, three run"),
        pytest.param([pod(0, B)] * 4, [hold(B, 3)], 4, id="more run than are reserved"),
        pytest.param([pod(0, B, 2)], [hold(B, 1, 4)], 2, id="one of two runs, one of four is reserved"),
        pytest.param([pod(0, B, 2), pod(0, B, 4)], [hold(B, 1, 4)], 2, id="both sides of a switch run"),
        pytest.param([pod(0, B, 4)], [hold(B, 1, 2)], 2, id="one of four runs, one of two is reserved"),
        pytest.param([pod(0, B, terminating=True)], [hold(B, 3)], 4, id="a terminating pod counts beside its reserve"),
        pytest.param([pod(0, A)], [hold(A, 1)], 8, id="what it holds itself is free for it"),
        pytest.param([], [hold(B, 2), hold(C, 3)], 3, id="two others"),
        pytest.param([], [replace(hold(B, 2), pool="l4")], 8, id="a hold on another pool"),
        pytest.param([PodUse("elsewhere", 4, 1.0, 1)], [], 8, id="a pod on another pool's node"),
        pytest.param([], [hold(B, 2, waiting=True, at=1)], 6, id="who waits and came first is served first"),
        pytest.param([], [hold(B, 2, waiting=True, at=10)], 8, id="who waits and came later"),
        pytest.param([], [hold(B, 99)], 0, id="more reserved than there is"),
        pytest.param([pod(0, A)] * 2, [hold(A, 2), hold(B, 99)], 2, id="what it runs is nobody's else"),
        pytest.param([pod(0, A)] * 2, [hold(A, 2), hold(B, 8, waiting=True, at=1)], 2, id="nor for an older claim"),
        pytest.param([pod(0, A)] * 2, [hold(B, 8, waiting=True, at=1)], 2, id="though it has no record"),
        pytest.param([], [hold(A, 2), hold(B, 8, waiting=True, at=1)], 2, id="what it reserved is in no older claim"),
        pytest.param([], [hold(A, 2), hold(B, 3, waiting=True, at=1)], 5, id="a claim to what nobody holds stands"),
        pytest.param([pod(0, A)], [hold(A, 3), hold(B, 8, waiting=True, at=1)], 3, id="one runs, two are reserved"),
        pytest.param([], [hold(A, 9), hold(B, 2, waiting=True, at=1)], 8, id="what it reserved is more than there is"),
    ],
)
def test_free_is_what_neither_runs_nor_is_held(pods: list[PodUse], holds: list[Hold], free: int) -> None:
    assert free_for(A, pods, holds) == free


@pytest.mark.parametrize(
    ("other", "free"), [pytest.param(WorkloadKey("team", "0"), 6, id="first by name"), pytest.param(B, 8, id="later")]
)
def test_of_those_created_at_the_same_time_the_first_by_name_is_served_first(other: WorkloadKey, free: int) -> None:
    assert free_for(A, [], [hold(other, 2, waiting=True, at=9)], at=9) == free


def test_the_new_side_of_a_switch_does_not_count_on_the_old_ones_accelerators() -> None:
    pods = [pod(0, A)] * 3
    assert free_for(A, pods, [hold(A, 3)], own_pods_count=True) == 5
    assert free_for(A, pods, [hold(A, 3), hold(B, 2, waiting=True, at=1)], own_pods_count=True) == 3


def test_a_claim_leaves_room_on_a_node_that_is_added_for_what_is_reserved() -> None:
    empty = pool(GPU, nodes=0, addable=1)
    assert free_for(A, [], [hold(A, 2), hold(B, 8, waiting=True, at=1)], empty) == 2
    assert free_for(A, [], [hold(B, 8, waiting=True, at=1)], empty) == 0


@pytest.mark.parametrize(
    ("mine", "left"),
    [
        pytest.param(PodUse(f"{GPU}-0", 0, 4.0, 1, B), 124.0, id="it runs"),
        pytest.param(PodUse(f"{GPU}-0", 0, 4.001, 1, B), 123.999, id="it runs, rounded otherwise"),
        pytest.param(PodUse(f"{GPU}-0", 0, 4.5, 1, B, engine_cpu_cores=4.0), 123.5, id="it runs beside a sidecar"),
        pytest.param(PodUse(f"{GPU}-0", 0, 2.0, 1, B), 122.0, id="one of half the size runs"),
        pytest.param(PodUse(f"{GPU}-0", 1, 4.0, 1, B), 120.0, id="one on an accelerator runs"),
    ],
)
def test_on_cpus_a_replica_is_known_by_its_cores(mine: PodUse, left: float) -> None:
    reserved = Hold(B, T0, GPU, ReplicaRequest(0, 4.0, 1), 1)
    free = pool_for_workload(pool(GPU), uses_of([mine]), [reserved], A, created_at=T0)
    assert free.nodes[0].cpu_free_cores == pytest.approx(left)


def test_own_pods_on_a_cordoned_node_keep_their_room() -> None:
    where = pool(GPU, nodes=1)
    mine = [PodUse("cordoned", 2, 2.0, 2, A), PodUse("cordoned", 1, 1.0, 1, B)]
    members = frozenset({"cordoned", f"{GPU}-0"})
    for listed in (mine, mine[::-1]):
        left = pool_for_workload(where, uses_of(listed), [], A, created_at=T0, members=members)
        assert max_replicas(left, asks()) == 8 + 2
        assert max_replicas(left, asks(2)) == 4 + 1
    others = pool_for_workload(where, uses_of(mine), [], C, created_at=T0, members=members)
    assert max_replicas(others, asks()) == 8


def test_a_running_pod_on_a_cordoned_node_is_not_held_a_second_time() -> None:
    where = pool(GPU, nodes=1)
    mine = [PodUse("cordoned", 1, 1.0, 1, B)]
    members = frozenset({"cordoned", f"{GPU}-0"})
    left = pool_for_workload(where, uses_of(mine), [hold(B, 1)], A, created_at=T0, members=members)
    assert max_replicas(left, asks()) == 8


def test_a_replica_of_eight_has_no_room_where_eight_nodes_have_one_free_each() -> None:
    where = pool(GPU, nodes=8)
    taken = [pod(node, None, 7) for node in range(8)]
    left = pool_for_workload(where, uses_of(taken), [], A, created_at=T0)
    assert max_replicas(left, asks(8)) == 0
    assert max_replicas(left, asks(1)) == 8


def test_reservations_fill_the_fullest_node_so_that_whole_nodes_stay_whole() -> None:
    left = pool_for_workload(pool(GPU, nodes=2), uses_of([pod(0, None, 4)]), [hold(B, 4)], A, created_at=T0)
    assert max_replicas(left, asks(8)) == 1


def test_reservations_take_nodes_that_would_be_added() -> None:
    empty = pool(GPU, nodes=0, addable=2)
    left = pool_for_workload(empty, {}, [hold(B, 9)], A, created_at=T0)
    assert (left.addable_nodes, max_replicas(left, asks()), max_replicas(left, asks(8))) == (0, 7, 0)
    huge = pool_for_workload(empty, {}, [hold(B, 1, accelerators=16)], A, created_at=T0)
    assert max_replicas(huge, asks()) <= 16


def reserved_one_by_one(where: NodePool, request: ReplicaRequest, replicas: int) -> NodePool:
    """All nodes are looked at for each replica."""
    nodes, addable = list(where.nodes), where.addable_nodes
    for number in range(replicas):
        fitting = [i for i, node in enumerate(nodes) if node_slots(node, request) > 0]
        if not fitting:
            if addable == 0:
                break
            addable -= 1
            nodes.append(empty_node(where.shape, f"added-{number}-{addable}"))
            if node_slots(nodes[-1], request) == 0:
                break
            fitting = [len(nodes) - 1]
        fullest = min(fitting, key=lambda i: (nodes[i].accelerators_free, nodes[i].cpu_free_cores, nodes[i].name))
        nodes[fullest] = _taken(nodes[fullest], request)
    return replace(where, nodes=tuple(nodes), addable_nodes=addable)


@settings(max_examples=200, deadline=None)
@given(
    free=st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from([0.0, 0.3, 1.0, 2.5, 16.0]), st.integers(0, 6)), max_size=8
    ),
    addable=st.integers(0, 3),
    request=st.builds(
        ReplicaRequest, st.sampled_from([0, 1, 2, 4, 16]), st.sampled_from([0.0, 0.1, 0.3, 3.1]), st.integers(0, 3)
    ),
    replicas=st.integers(0, 40),
)
def test_reservations_are_the_same_as_if_every_node_were_looked_at_for_each_replica(
    free: list[tuple[int, float, int]], addable: int, request: ReplicaRequest, replicas: int
) -> None:
    nodes = tuple(NodeCapacity(f"n{i}", *each) for i, each in enumerate(free))
    where = replace(pool(GPU, nodes=0, addable=addable), nodes=nodes)
    assert _reserve(where, request, replicas) == reserved_one_by_one(where, request, replicas)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.booleans()), max_size=12
    ),
    st.integers(1, 3),
)
def test_whatever_is_reserved_one_after_the_other_never_exceeds_what_there_is(
    wishes: list[tuple[int, int, int, bool]], nodes: int
) -> None:
    """Workloads come, take what they are told is free, start some of their pods, and go again."""
    where = pool(GPU, nodes=nodes)
    held: dict[WorkloadKey, Hold] = {}
    for number, accelerators, replicas, leaves in wishes:
        who = WorkloadKey("team", f"w{number}")
        if leaves:
            held.pop(who, None)
            continue
        left = pool_for_workload(where, {}, list(held.values()), who, created_at=T0)
        if max_replicas(left, asks(accelerators)) >= replicas:
            held[who] = Hold(who, T0, GPU, asks(accelerators), replicas)
        assert sum(h.replicas * h.request.accelerators for h in held.values()) <= 8 * nodes
        # And there is a way to put them on nodes: a stranger sees exactly the rest.
        rest = pool_for_workload(where, {}, list(held.values()), WorkloadKey("x", "stranger"), created_at=T0)
        used = sum(h.replicas * h.request.accelerators for h in held.values())
        assert sum(n.accelerators_free for n in rest.nodes) == 8 * nodes - used


@given(
    st.lists(st.builds(hold, st.sampled_from([B, C]), st.integers(0, 9)), max_size=4),
    st.lists(st.builds(pod, st.integers(0, 1), st.sampled_from([A, B, C, None])), max_size=10),
)
def test_the_order_of_pods_does_not_matter_and_more_holds_never_free_anything(
    holds: list[Hold], pods: list[PodUse]
) -> None:
    where = pool(GPU, nodes=2)
    before = free_for(A, pods, holds, where)
    assert free_for(A, list(reversed(pods)), holds, where) == before
    assert free_for(A, [*pods, pod(0)], holds, where) <= before
    assert free_for(A, pods, [*holds, hold(WorkloadKey("z", "z"), 1)], where) <= before


@given(
    st.lists(
        st.builds(
            hold,
            st.sampled_from([B, C]),
            st.integers(0, 9),
            st.sampled_from([1, 2, 4]),
            waiting=st.booleans(),
            at=st.integers(0, 9),
        ),
        max_size=4,
    ),
    st.lists(st.builds(pod, st.integers(0, 1), st.sampled_from([A, B, C, None])), max_size=8),
)
def test_whatever_others_hold_a_workload_has_the_room_of_its_own_pods(holds: list[Hold], pods: list[PodUse]) -> None:
    assert free_for(A, pods, holds, pool(GPU, nodes=2)) >= sum(pod.workload == A for pod in pods)


@pytest.mark.parametrize(
    ("held", "free"),
    [
        pytest.param(hold(B, 4), [4, 8], id="on any node: the first by name of equal ones"),
        pytest.param(replace(hold(B, 4), nodes=frozenset({f"{GPU}-1"})), [8, 4], id="on the nodes that it selects"),
        pytest.param(replace(hold(B, 9), nodes=frozenset({f"{GPU}-1"})), [8, 0], id="no more than these have"),
        pytest.param(replace(hold(B, 4, waiting=True, at=1), nodes=frozenset()), [8, 8], id="a claim to none"),
        pytest.param(
            replace(hold(B, 4, waiting=True, at=1), nodes=frozenset({f"{GPU}-1"})), [8, 4], id="a claim to these"
        ),
    ],
)
def test_what_others_hold_is_taken_of_the_nodes_that_they_may_use(held: Hold, free: list[int]) -> None:
    where = pool(GPU, nodes=2, addable=1)
    left = pool_for_workload(where, {}, [held], A, created_at=T0 + timedelta(minutes=9))
    assert [node.accelerators_free for node in left.nodes] == free
    assert left.addable_nodes == 1


FIRST, SECOND = (frozenset({f"{GPU}-{i}"}) for i in range(2))


@pytest.mark.parametrize(
    ("held", "names", "free"),
    [
        pytest.param([hold(B, 1)], None, [0, 1], id="who may use any node counts what is left of all"),
        pytest.param([hold(B, 1)], SECOND, [1, 0], id="what others reserved may come to the nodes that are selected"),
        pytest.param([replace(hold(B, 1), nodes=FIRST)], SECOND, [0, 1], id="not of those who select others"),
        pytest.param([hold(B, 1), hold(C, 1)], SECOND, [0, 0], id="two who may go anywhere"),
        pytest.param([replace(hold(A, 1), nodes=SECOND), hold(B, 1)], SECOND, [0, 1], id="nor to what it has reserved"),
        pytest.param([hold(B, 1), replace(hold(C, 1), nodes=FIRST)], None, [0, 0], id="who has no choice goes first"),
        pytest.param([hold(B, 1, waiting=True, at=1)], SECOND, [0, 1], id="a claim is to any room that there is"),
    ],
)
def test_who_selects_nodes_counts_on_none_that_others_may_come_to_take(
    held: list[Hold], names: frozenset[str] | None, free: list[int]
) -> None:
    where = pool(GPU, per_node=1, nodes=2)
    left = pool_for_workload(where, {}, held, A, created_at=T0 + timedelta(minutes=9), names=names)
    assert [node.accelerators_free for node in left.nodes] == free


def test_a_claim_leaves_room_on_the_nodes_that_are_selected_by_what_is_reserved() -> None:
    where = pool(GPU, nodes=2)
    held = [replace(hold(A, 8), nodes=frozenset({f"{GPU}-0"})), hold(B, 16, waiting=True, at=1)]
    left = pool_for_workload(where, {}, held, A, created_at=T0 + timedelta(minutes=9))
    assert sum(node.accelerators_free for node in left.nodes if node.name == f"{GPU}-0") == 8


def test_a_key_reads_as_namespace_and_name() -> None:
    assert str(A) == "team/a"
