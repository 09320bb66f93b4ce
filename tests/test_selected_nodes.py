"""Which nodes of a pool a workload may use that asks for nodes with certain labels."""

from dataclasses import replace

import pytest

from metainf.pools import NodePool
from metainf_operator.inventory import PoolRecord, take_inventory
from metainf_operator.projections import NodeFacts
from metainf_operator.selected_nodes import Selector, matching_nodes, of_these_nodes
from node_bodies import facts

A: Selector = (("zone", "a"),)
B: Selector = (("zone", "b"),)
LINUX: Selector = (("kubernetes.io/arch", "amd64"),)


def nodes(*, cordoned: bool = False) -> dict[str, NodeFacts]:
    """Of one kind and price: two in zone a, one in b, one nowhere."""
    zones = {"n0": "a", "n1": "a", "n2": "b"}
    found = {name: facts(name, price="12", labels={"zone": zone}) for name, zone in zones.items()}
    if cordoned:
        found["n2"] = facts("n2", price="12", labels={"zone": "b"}, cordoned=True)
    return {**found, "n3": facts("n3", price="12")}


def record_of(found: dict[str, NodeFacts]) -> PoolRecord:
    (record,) = take_inventory(list(found.values()), ()).pools
    return record


def seen_by(selector: Selector, *, cordoned: bool = False) -> NodePool:
    found = nodes(cordoned=cordoned)
    record = record_of(found)
    return of_these_nodes(record.pool, selector, matching_nodes(record, selector, found.get))


@pytest.mark.parametrize(
    ("selector", "cordoned", "capacity", "has_labels"),
    [
        pytest.param((), False, ["n0", "n1", "n2", "n3"], True, id="nobody asks"),
        pytest.param(LINUX, False, ["n0", "n1", "n2", "n3"], True, id="all have it"),
        pytest.param(A, False, ["n0", "n1"], True, id="two have it"),
        pytest.param((*A, *LINUX), False, ["n0", "n1"], True, id="two have one, all the other"),
        pytest.param(B, False, ["n2"], True, id="one has it"),
        pytest.param(B, True, [], True, id="the one that has it takes no pods"),
        pytest.param((("zone", "c"),), False, ["n0", "n1", "n2", "n3"], False, id="none has it: the pool lacks it"),
        pytest.param((("kubernetes.io/hostname", "n3"),), False, ["n3"], True, id="a node by its name"),
    ],
)
def test_a_pool_is_what_of_its_nodes_has_the_labels(
    selector: Selector, cordoned: bool, capacity: list[str], has_labels: bool
) -> None:
    pool = seen_by(selector, cordoned=cordoned)
    assert [node.name for node in pool.nodes] == capacity
    assert set(selector).issubset(pool.labels) is has_labels


def test_a_node_that_may_be_added_is_not_known_to_have_a_label_that_not_all_have() -> None:
    found = nodes()
    record = record_of(found)
    growing = replace(record, pool=replace(record.pool, addable_nodes=2))
    asked: list[tuple[Selector, int]] = [((), 2), (LINUX, 2), (A, 0)]
    for selector, addable in asked:
        names = matching_nodes(growing, selector, found.get)
        assert of_these_nodes(growing.pool, selector, names).addable_nodes == addable
