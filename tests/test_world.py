"""What the operator knows of the cluster: the same whatever way it came to know it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller_passes import workload as manifest
from metainf.candidates import CandidateName
from metainf.manifests import DecisionHead, parse_workload
from metainf.manifests.decision_record import Reservation
from metainf.placement import ReplicaRequest
from metainf_operator.ledger import PodUse, WorkloadKey
from metainf_operator.projections import ChildState, project_node
from metainf_operator.rollout import ObservedDeployment
from metainf_operator.world import DecisionState, WorkloadState, World
from node_bodies import node

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NODES = ("n1", "n2")
NAMES = ("a", "b", "c")


def world() -> World:
    made = World()
    for name in NODES:
        made.nodes.upsert(name, project_node(node(name, price="27.40")))
    return made


def workload(name: str, uid: str) -> WorkloadState:
    return WorkloadState(WorkloadKey("team", name), uid, 1, T0, False, None, None, "{}")


def decision(name: str, owner: str, uid: str, replicas: int, released: bool) -> DecisionState:
    pool = world().inventory.pools[0].pool.name
    reservation = Reservation(pool, ReplicaRequest(1, 4.0, 1 << 30), replicas)
    head = DecisionHead(
        name=name,
        namespace="team",
        uid=f"uid-{name}",
        created_at=T0,
        deleting=False,
        workload=owner,
        owner_uid=uid,
        inputs_digest="sha256:0",
        choice=CandidateName(pool, "default", "TP1", replicas),
        limit=None,
        reservation=reservation,
    )
    return DecisionState(head, T0, None, "", released)


PODS = st.builds(
    PodUse,
    st.sampled_from(NODES),
    st.integers(0, 3),
    st.sampled_from([0.1, 0.2, 4.0]),
    st.integers(0, 1 << 30),
    st.sampled_from([None, *(WorkloadKey("team", name) for name in NAMES)]),
    st.booleans(),
)
UIDS = st.sampled_from(["old", "new"])
CHANGES = st.one_of(
    st.tuples(st.just("pod"), st.sampled_from(["p1", "p2", "p3"]), st.none() | PODS),
    st.tuples(st.just("workload"), st.sampled_from(NAMES), st.none() | UIDS),
    st.tuples(
        st.just("decision"),
        st.sampled_from(["d1", "d2"]),
        st.none() | st.tuples(st.sampled_from(NAMES), UIDS, st.integers(1, 4), st.booleans()),
    ),
)


def change(known: World, kind: str, name: str, value: object) -> None:
    if kind == "pod":
        known.pods.delete(("team", name)) if value is None else known.pods.upsert(("team", name), value)
    elif kind == "workload":
        key = WorkloadKey("team", name)
        known.workloads.delete(key) if value is None else known.workloads.upsert(key, workload(name, str(value)))
    else:
        key = ("team", name)
        known.decisions.delete(key) if value is None else known.decisions.upsert(key, decision(name, *value))


@settings(max_examples=60, deadline=None)
@given(st.lists(CHANGES, max_size=14))
def test_what_is_free_follows_from_what_is_there_and_not_from_how_it_came(
    changes: list[tuple[str, str, object]],
) -> None:
    lived = world()
    for kind, name, value in changes:
        change(lived, kind, name, value)
        lived.pools_for(WorkloadKey("team", "a"), T0)  # asked in between, so that whatever is kept must be renewed
    fresh = world()
    for (kind, name), value in {(kind, name): value for kind, name, value in changes}.items():
        if value is not None:
            change(fresh, kind, name, value)
    for asked in NAMES:
        key = WorkloadKey("team", asked)
        assert lived.pools_for(key, T0) == fresh.pools_for(key, T0)
        assert lived.pools_for(key, T0, own_pods_count=True) == fresh.pools_for(key, T0, own_pods_count=True)
    assert sorted(map(repr, lived.holds())) == sorted(map(repr, fresh.holds()))


def child(name: str, *, failed: bool = False, rolling: bool = False, uid: str = "new") -> ChildState:
    """A Deployment of workload a."""
    found = ObservedDeployment(
        f"a-{name}", name, 1, 1, 1, 1, int(not failed), deadline_exceeded=failed, rolling=rolling
    )
    return ChildState("Deployment", f"a-{name}", "team", f"d-{name}", uid, "a", None, 1, name, deployment=found)


@pytest.mark.parametrize(
    ("children", "switching"),
    [
        pytest.param([child("old")], 0, id="one serves"),
        pytest.param([child("old"), child("new")], 1, id="two sides"),
        pytest.param([child("old"), child("new", failed=True)], 0, id="the new side did not start in its time"),
        pytest.param([child("old"), child("new", failed=True), child("third")], 1, id="a third beside it"),
        pytest.param([child("old", failed=True), child("new", failed=True)], 0, id="neither did"),
        pytest.param([child("old", rolling=True)], 1, id="one replaces its pods in place"),
    ],
)
def test_a_switch_is_under_way_while_its_new_side_may_still_come(children: list[ChildState], switching: int) -> None:
    known = world()
    for each in children:
        known.deployments.upsert(("team", each.name), each)
    assert known.switching() == switching
    assert known.switching(WorkloadKey("team", "a")) == 0


@pytest.mark.parametrize(
    ("use", "comes"),
    [
        pytest.param(PodUse("n1", 1, 4.0, 1, WorkloadKey("team", "a"), serving="old"), False, id="it stays"),
        pytest.param(PodUse("n1", 1, 4.0, 1, WorkloadKey("team", "a"), True, serving="old"), True, id="it goes"),
        pytest.param(PodUse("n1", 1, 4.0, 1, WorkloadKey("team", "a"), serving="gone"), True, id="nobody keeps it"),
        pytest.param(PodUse("n1", 1, 4.0, 1, WorkloadKey("team", "b"), True, serving="old"), False, id="of another"),
        pytest.param(PodUse("n3", 1, 4.0, 1, WorkloadKey("team", "a"), True, serving="old"), False, id="on no node"),
        pytest.param(PodUse("sick", 1, 4.0, 1, WorkloadKey("team", "a"), True, serving="old"), False, id="on a lost"),
    ],
)
def test_room_comes_where_pods_go_that_no_deployment_keeps(use: PodUse, comes: bool) -> None:
    known = world()
    known.nodes.upsert("sick", project_node(node("sick", price="27.40", ready=False)))
    known.deployments.upsert(("team", "a-old"), child("old"))
    known.pods.upsert(("team", "p"), use)
    pool = known.inventory.pools[0].pool.name
    assert known.room_comes(WorkloadKey("team", "a"), pool, "new") is comes
    assert not known.room_comes(WorkloadKey("team", "a"), "another-pool", "new")


def test_a_released_record_and_one_of_an_earlier_workload_of_the_name_hold_nothing() -> None:
    known = world()
    known.workloads.upsert(WorkloadKey("team", "a"), workload("a", "new"))
    kept = decision("d1", "a", "new", 2, released=False)
    known.decisions.upsert(("team", "d1"), kept)
    known.decisions.upsert(("team", "d2"), decision("d2", "a", "old", 3, released=False))
    assert [hold.replicas for hold in known.holds()] == [2]
    known.decisions.upsert(("team", "d1"), replace(kept, released=True))
    assert known.holds() == []


def test_pods_of_a_pool_are_those_on_its_nodes_and_all_where_nodes_are_not_seen() -> None:
    known = world()
    mine = WorkloadKey("team", "a")
    inside, outside = (replace(PodUse(node, 1, 4.0, 1), workload=mine) for node in ("n1", "n9"))
    for number, use in enumerate((inside, outside)):
        known.pods.upsert(("team", f"p{number}"), use)
    (record,) = known.inventory.pools
    assert list(known.pods_in(mine, record)) == [inside]
    assert list(known.pods_in(WorkloadKey("team", "b"), record)) == []
    known.use_fixed_pools((record.pool,))
    (fixed,) = known.inventory.pools
    assert list(known.pods_in(mine, fixed)) == [inside, outside]


def test_what_is_reserved_takes_room_where_no_node_is_seen_that_its_selector_matches() -> None:
    known = world()
    asks = parse_workload(manifest("a", placement={"nodeSelector": {"zone": "b"}}))
    known.workloads.upsert(WorkloadKey("team", "a"), replace(workload("a", "new"), manifest=asks))
    known.decisions.upsert(("team", "d1"), decision("d1", "a", "new", 2, released=False))
    (record,) = known.inventory.pools
    known.use_fixed_pools((record.pool,))
    (others,) = known.pools_for(WorkloadKey("team", "b"), T0)
    assert sum(each.accelerators_free for each in others.nodes) == 14


def test_a_pool_goes_by_the_name_that_a_workload_was_put_in_it_by() -> None:
    known = world()
    known.workloads.upsert(WorkloadKey("team", "a"), workload("a", "new"))
    known.decisions.upsert(("team", "d1"), decision("d1", "a", "new", 2, released=False))
    known.pods.upsert(("team", "p1"), PodUse("n1", 1, 4.0, 1 << 30, WorkloadKey("team", "a")))
    before = known.inventory.pools[0].pool.name
    for name in NODES:
        closed = node(name, price="27.40", taints=[{"key": "maintenance", "effect": "NoSchedule"}])
        known.nodes.upsert(name, project_node(closed))
    known.inventory_changed()
    after = known.inventory.pools[0].pool.name
    assert after != before
    (mine,) = known.pools_for(WorkloadKey("team", "a"), T0)
    (others,) = known.pools_for(WorkloadKey("team", "b"), T0)
    assert (mine.name, others.name) == (before, after)
    assert mine.taints == others.taints
    free = [sum(each.accelerators_free for each in where.nodes) for where in (mine, others)]
    assert free == [16, 14]


def test_whose_former_name_a_pool_has_shows_in_whose_pods_run_there() -> None:
    known = world()
    before = known.inventory.pools[0].pool.name
    taints = {"n1": "maintenance", "n2": "maintenance", "n3": "dedicated"}
    for name, taint in taints.items():
        body = node(name, price="27.40", taints=[{"key": taint, "effect": "NoSchedule"}])
        known.nodes.upsert(name, project_node(body))
    known.inventory_changed()
    a, b, c = (WorkloadKey("team", name) for name in NAMES)
    for name, on, key in (("p1", "n1", a), ("p2", "n2", a), ("p3", "n3", a), ("p4", "n3", b)):
        known.pods.upsert(("team", name), PodUse(on, 1, 4.0, 1 << 30, key))
    found = [known.pool_of(key, before) for key in (a, b, c)]
    assert [record and sorted(record.members) for record in found] == [["n1", "n2"], ["n3"], None]
    known.workloads.upsert(c, workload("c", "new"))
    known.decisions.upsert(("team", "d1"), decision("d1", "c", "new", 2, released=False))
    free = [sum(each.accelerators_free for each in pool.nodes) for pool in known.pools_for(c, T0)]
    assert sorted(free) == [6, 14]
    assert known.known_as(c) == {}
    for pod in ("p1", "p2", "p3"):
        known.pods.delete(("team", pod))
    assert known.pool_of(a, before) is None
