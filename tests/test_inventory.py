"""From nodes and AcceleratorPools to pools: what belongs together, what it costs, and what cannot be used."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choices import VERSION, architecture
from choices import workload as asked_for
from metainf import accelerators
from metainf.candidates import enumerate_candidates
from metainf.manifests import AcceleratorPool, parse_pool
from metainf.pools import Billing, CapacityType, NodePool, PriceSource
from metainf_operator.inventory import Inventory, PoolRecord, take_inventory
from node_bodies import facts

GIB = 1 << 30
LABEL_SETS = sorted(p.stem for p in (Path(__file__).parent / "data/node_labels").glob("*.yaml"))


def declared(name: str = "mine", **spec: Any) -> AcceleratorPool:
    given = {
        "nodeSelector": {"team": "a"},
        "accelerator": {"product": "NVIDIA-A100-SXM4-40GB", "count": 8},
        "price": {"perHour": "20"},
        **spec,
    }
    kept = {key: value for key, value in given.items() if value is not None}
    return parse_pool(
        {
            "apiVersion": "metainf.dev/v1alpha1",
            "kind": "AcceleratorPool",
            "metadata": {"name": name},
            "spec": kept,
        }
    )


def only(inventory: Inventory) -> PoolRecord:
    (record,) = inventory.pools
    return record


def one_pool(*nodes: Any, **more: Any) -> NodePool:
    return only(take_inventory(nodes, (), **more)).pool


def test_equal_nodes_make_one_pool_with_its_price_and_its_shape() -> None:
    pool = one_pool(facts("n1", price="12"), facts("n2", price="12.0"))
    assert (pool.accelerator.name, pool.shape.accelerators, pool.resource_name) == (
        "A100-SXM-40GB",
        8,
        "nvidia.com/gpu",
    )
    assert [n.name for n in pool.nodes] == ["n1", "n2"]
    assert pool.price is not None
    assert (pool.price.per_hour, pool.price.source) == (Decimal(12), PriceSource.ANNOTATION)
    assert pool.hostnames == ()
    assert ("nvidia.com/gpu.product", "A100-SXM4-40GB") in pool.match_labels
    assert ("kubernetes.io/hostname", "n1") not in pool.labels
    assert ("kubernetes.io/arch", "amd64") in pool.labels


@pytest.mark.parametrize(
    ("other", "pools"),
    [
        pytest.param(facts("n2", price="12"), 1, id="equal"),
        pytest.param(facts("n2", "karpenter-aws-a100-40", price="12"), 2, id="another instance type"),
        pytest.param(facts("n2", "gfd-b300", price="12"), 2, id="another product"),
        pytest.param(facts("n2", price="13"), 2, id="another price"),
        pytest.param(facts("n2"), 2, id="no price"),
        pytest.param(
            facts("n2", price="12", labels={"karpenter.sh/capacity-type": "spot"}), 2, id="another capacity type"
        ),
        pytest.param(facts("n2", price="12", taints=[{"key": "a", "effect": "NoSchedule"}]), 2, id="a taint"),
        pytest.param(
            facts("n2", price="12", taints=[{"key": "a", "value": "1767268800", "effect": "PreferNoSchedule"}]),
            1,
            id="a taint that keeps nobody out",
        ),
        pytest.param(facts("n2", price="12", annotations={"metainf.dev/cost-currency": "EUR"}), 2, id="currency"),
    ],
)
def test_nodes_that_differ_in_kind_or_price_are_pools_of_their_own(other: Any, pools: int) -> None:
    inventory = take_inventory([facts("n1", price="12"), other], ())
    assert len(inventory.pools) == pools
    names = [record.pool.name for record in inventory.pools]
    assert len(set(names)) == pools
    capacity = [node.name for record in inventory.pools for node in record.pool.nodes]
    assert sorted(capacity) == ["n1", "n2"]


def test_one_node_that_is_priced_anew_does_not_rename_the_pool_of_the_others() -> None:
    before = one_pool(*(facts(f"n{i}", price="12") for i in range(1, 4)))
    inventory = take_inventory([facts("n1", price="11"), facts("n2", price="12"), facts("n3", price="12")], ())
    by_name = {record.pool.name: record.members for record in inventory.pools}
    assert by_name[before.name] == {"n2", "n3"}
    assert len(by_name) == 2


def test_pools_that_only_the_price_tells_apart_are_told_apart_by_hostname() -> None:
    inventory = take_inventory([facts("n1", price="12"), facts("n2", price="13"), facts("n3", price="13")], ())
    assert {r.pool.hostnames for r in inventory.pools} == {("n1",), ("n2", "n3")}


def test_a_pool_whose_labels_others_carry_too_is_kept_to_its_nodes_by_name() -> None:
    fewer = facts("n2", price="12", allocatable={"cpu": "255", "memory": "1000Gi", "nvidia.com/gpu": "4"})
    inventory = take_inventory([facts("n1", price="12"), fewer], ())
    assert {r.pool.hostnames for r in inventory.pools} == {("n1",), ("n2",)}


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(5)), price=st.integers(1, 10**6))
def test_a_pools_name_depends_neither_on_price_nor_on_the_order_of_nodes(order: list[int], price: int) -> None:
    def nodes(amount: str | None) -> list[Any]:
        gpus = [facts(f"n{i}", price=amount) for i in range(3)]
        return [*gpus, facts("h1", "gke-h100", price="90"), facts("s1", "gke-l4-spot", price="1")]

    before = take_inventory(nodes(None), ())
    shuffled = nodes(f"{price / 100}")
    after = take_inventory([shuffled[i] for i in order], ())
    assert [(r.pool.name, r.members) for r in before.pools] == [(r.pool.name, r.members) for r in after.pools]
    assert after == take_inventory(shuffled, ())


def test_names_say_what_the_pool_is() -> None:
    spot = one_pool(facts("s1", "gke-l4-spot"))
    assert spot.name.startswith("l4-pcie-24gb-x")
    assert "-spot-" in spot.name
    assert spot.capacity_type is CapacityType.SPOT
    assert one_pool(facts("n1")).name.startswith("a100-sxm-40gb-x8-")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"ready": False}, id="not ready"),
        pytest.param({"cordoned": True}, id="cordoned"),
        pytest.param({"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]}, id="unwell"),
        pytest.param({"taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]}, id="being disrupted"),
    ],
)
def test_a_node_that_takes_no_pods_is_a_member_and_no_capacity(fields: dict[str, Any]) -> None:
    healthy, other = facts("n1", price="12"), facts("n2", price="12", **fields)
    record = only(take_inventory([healthy, other], ()))
    assert [n.name for n in record.pool.nodes] == ["n1"]
    assert record.members == {"n1", "n2"}
    assert record.pool.name == one_pool(healthy).name


def test_a_users_taint_belongs_to_the_pool() -> None:
    pool = one_pool(facts("n1", taints=[{"key": "dedicated", "value": "llm", "effect": "NoSchedule"}]))
    assert [(t.key, t.value, t.effect) for t in pool.taints] == [("dedicated", "llm", "NoSchedule")]
    assert [n.name for n in pool.nodes] == ["n1"]


# Taints that not all the nodes of a pool have


CLOSED = {"key": "maintenance", "effect": "NoSchedule"}
DEDICATED = {"key": "dedicated", "value": "llm", "effect": "NoSchedule"}
DEVICE = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
SPOT = {"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NoSchedule"}


def holding(inventory: Inventory, node: str) -> NodePool:
    """The pool that the node is capacity of."""
    (found,) = [r.pool for r in inventory.pools if node in {each.name for each in r.pool.nodes}]
    return found


def test_one_tainted_node_of_many_is_no_capacity_and_leaves_the_pool_as_it_is() -> None:
    before = one_pool(*(facts(f"n{i}", price="12") for i in range(3)))
    closed = facts("n1", price="12", taints=[CLOSED])
    inventory = take_inventory([facts("n0", price="12"), closed, facts("n2", price="12")], ())
    after = inventory.get(before.name)
    assert after is not None
    assert (after.pool.taints, after.pool.hostnames, after.members) == ((), (), {"n0", "n1", "n2"})
    assert [n.name for n in after.pool.nodes] == ["n0", "n2"]


def test_a_tainted_node_is_a_pool_of_its_own_for_those_who_tolerate_it() -> None:
    inventory = take_inventory([facts("n0", price="12"), facts("n1", price="12", taints=[DEDICATED])], ())
    pool = holding(inventory, "n1")
    assert [(t.key, t.value) for t in pool.taints] == [("dedicated", "llm")]
    assert pool.hostnames == ("n1",)
    assert pool.name == one_pool(facts("n1", price="12", taints=[DEDICATED])).name
    assert pool.name != holding(inventory, "n0").name


def test_dedicated_nodes_keep_their_pool_whatever_else_comes() -> None:
    dedicated = [facts(f"n{i}", price="12", taints=[DEDICATED]) for i in range(2)]
    alone = one_pool(*dedicated)
    inventory = take_inventory([*dedicated, facts("n7", price="12"), facts("n8", price="13", taints=[DEDICATED])], ())
    record = inventory.get(alone.name)
    assert record is not None
    assert [n.name for n in record.pool.nodes] == ["n0", "n1"]
    assert record.pool.taints == alone.taints
    assert holding(inventory, "n7").taints == ()
    assert holding(inventory, "n8").name not in (alone.name, holding(inventory, "n7").name)


def tainted(**taints: list[dict[str, str]]) -> Inventory:
    """Nodes of one kind and price by the taints that they have."""
    return take_inventory([facts(name, price="12", taints=each) for name, each in taints.items()], ())


def named(**taints: list[dict[str, str]]) -> str:
    """The name of the pool that these nodes make."""
    return only(tainted(**taints)).pool.name


def test_a_pool_says_what_it_was_called_before_a_taint_was_on_all_of_its_nodes() -> None:
    before = named(n0=[], n1=[])
    closed = tainted(n0=[CLOSED], n1=[CLOSED])
    record = only(closed)
    assert closed.get(before) is None
    assert closed.formerly(before) == (record,)
    assert record.pool.name == named(n0=[CLOSED], n1=[CLOSED]) != before
    assert [t.key for t in record.pool.taints] == ["maintenance"]
    both = tainted(n0=[CLOSED, DEDICATED], n1=[CLOSED, DEDICATED])
    former = (before, record.pool.name, named(n0=[DEDICATED], n1=[DEDICATED]))
    assert all(both.formerly(name) == (only(both),) for name in former)
    assert both.formerly("another") == ()


def test_several_pools_may_have_had_a_name_and_the_one_that_changed_least_is_said_first() -> None:
    plain, dedicated = named(n0=[]), named(n1=[DEDICATED])
    inventory = tainted(n0=[CLOSED], n1=[CLOSED, DEDICATED])
    assert [[n.name for n in r.pool.nodes] for r in inventory.formerly(plain)] == [["n0"], ["n1"]]
    assert [[n.name for n in r.pool.nodes] for r in inventory.formerly(dedicated)] == [["n1"]]
    assert len(tainted(n0=[DEDICATED], n1=[{**DEDICATED, "value": "vision"}]).formerly(plain)) == 2


@pytest.mark.parametrize(
    ("like", "taint"),
    [
        pytest.param("gfd-a100", DEVICE, id="of the accelerator itself"),
        pytest.param("gke-l4-spot", SPOT, id="of spot, on spot"),
    ],
)
def test_a_taint_that_all_pods_of_ours_tolerate_tells_no_nodes_apart(like: str, taint: dict[str, str]) -> None:
    usual = [facts(f"n{i}", like, price="12", taints=[taint]) for i in range(2)]
    before = one_pool(*usual)
    after = one_pool(*usual, facts("n2", like, price="12"))
    assert (after.name, [n.name for n in after.nodes]) == (before.name, ["n0", "n1", "n2"])


@pytest.mark.parametrize(
    "taints",
    [
        pytest.param({"n0": [DEVICE], "n1": []}, id="on one of two"),
        pytest.param({"n0": [], "n1": [], "n2": [DEVICE]}, id="on one of three"),
        pytest.param({"n0": [DEVICE], "n1": [DEVICE], "n2": []}, id="on two of three"),
    ],
)
def test_a_pool_answers_to_its_name_with_and_without_a_taint_that_keeps_nobody_out(
    taints: dict[str, list[dict[str, str]]],
) -> None:
    record = only(tainted(**taints))
    names = {record.pool.name, *(name for name, _ in record.former)}
    assert names == {named(n0=[], n1=[]), named(n0=[DEVICE], n1=[DEVICE])}


def test_nodes_that_are_dedicated_to_several_share_no_pool() -> None:
    other = {**DEDICATED, "value": "vision"}
    inventory = take_inventory(
        [facts("n0", price="12", taints=[DEDICATED]), facts("n1", price="12", taints=[other])], ()
    )
    assert [len(r.pool.nodes) for r in inventory.pools] == [1, 1]
    assert holding(inventory, "n0").taints != holding(inventory, "n1").taints


@pytest.mark.parametrize(
    ("said", "of_nodes", "taints", "capacity"),
    [
        pytest.param([], [[CLOSED], []], [], ["n1"], id="one of two is closed"),
        pytest.param([], [[CLOSED], [CLOSED]], ["maintenance"], ["n0", "n1"], id="all of them are: so is the pool"),
        pytest.param([DEDICATED], [[DEDICATED], []], ["dedicated"], ["n0", "n1"], id="the manifest says so"),
        pytest.param([DEDICATED], [[DEDICATED], [DEDICATED, CLOSED]], ["dedicated"], ["n0"], id="one has one more"),
        pytest.param([], [[DEVICE], []], [], ["n0", "n1"], id="of the accelerator itself"),
        pytest.param([], [[{**DEVICE, "effect": "NoExecute"}], []], [], ["n1"], id="of the accelerator, and it evicts"),
        pytest.param([], [[SPOT], []], [], ["n1"], id="of spot, on demand"),
    ],
)
def test_a_declared_pool_has_the_taints_that_it_says_and_those_that_all_of_its_nodes_have(
    said: list[dict[str, str]], of_nodes: list[list[dict[str, str]]], taints: list[str], capacity: list[str]
) -> None:
    nodes = [facts(f"n{i}", taints=each, labels={"team": "a"}) for i, each in enumerate(of_nodes)]
    record = only(take_inventory(nodes, [declared(taints=said)]))
    assert [t.key for t in record.pool.taints] == taints
    assert [n.name for n in record.pool.nodes] == capacity
    assert record.members == {"n0", "n1"}


def test_a_cordoned_node_says_too_what_is_no_taint_of_the_pool() -> None:
    nodes = [facts("n0", cordoned=True, labels={"team": "a"}), facts("n1", taints=[CLOSED], labels={"team": "a"})]
    pool = only(take_inventory(nodes, [declared()])).pool
    assert (pool.taints, pool.nodes) == ((), ())


@pytest.mark.parametrize(
    ("nodes", "addable"),
    [
        pytest.param({"max": 1}, 0, id="the one that was added"),
        pytest.param({"max": 3}, 2, id="that one and two more"),
        pytest.param(None, 0, id="no more than there are"),
    ],
)
def test_a_node_that_starts_has_its_room(nodes: dict[str, int] | None, addable: int) -> None:
    not_ready = {"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute"}
    starts = facts("n0", taints=[not_ready], labels={"team": "a"})
    record = only(take_inventory([starts], [declared(nodes=nodes)]))
    assert [each.name for each in record.pool.nodes] == ["n0"]
    assert (record.pool.taints, record.pool.addable_nodes) == ((), addable)
    assert record.members == {"n0"}


@pytest.mark.parametrize(
    ("like", "says"),
    [
        pytest.param("two-gpu-products", "node n1", id="two GPU products"),
        pytest.param("two-gpu-vendors", "node n1", id="two vendors"),
        pytest.param("unknown-product", "not in the catalogue", id="unknown"),
        pytest.param("gfd-time-sliced", "time-sliced", id="time-sliced"),
        pytest.param("memory-contradicts", "memory label", id="memory contradicts the product"),
        pytest.param("gpus-without-any-label", "no label says which", id="no label"),
        pytest.param("gke-without-device-plugin", "device plugin", id="none allocatable"),
    ],
)
def test_what_cannot_be_told_is_a_problem_and_never_a_pool(like: str, says: str) -> None:
    inventory = take_inventory([facts("n1", like, price="5"), facts("n2")], ())
    assert [record.members for record in inventory.pools] == [frozenset({"n2"})]
    assert any(says in problem for problem in inventory.problems)


@pytest.mark.parametrize("like", LABEL_SETS)
def test_every_label_set_makes_a_pool_or_a_problem_or_is_a_cpu_that_nobody_offered(like: str) -> None:
    node = facts("n1", like, price="5")
    inventory = take_inventory([node], ())
    if inventory.pools:
        record = only(inventory)
        assert record.pool.accelerator == node.accelerators.accelerator
        assert record.pool.shape.accelerators == (0 if node.accelerators.is_cpu else node.accelerators.count)
        assert len(record.pool.name) <= 63
    else:
        assert inventory.problems or node.accelerators.is_cpu


def test_a_cpu_node_serves_only_where_its_owner_says_so() -> None:
    assert take_inventory([facts("c1", "cpu-eks-c7a", price="1")], ()).pools == ()
    pool = one_pool(facts("c1", "cpu-override", price="1"))
    assert (pool.is_cpu, pool.shape.accelerators, pool.nodes[0].accelerators_free) == (True, 0, 0)
    assert "-cpu-" in pool.name


# Prices


BUNDLED_LIKE = "karpenter-aws-h100"


@pytest.mark.parametrize(
    ("node", "opencost", "price", "source"),
    [
        pytest.param(
            facts("n1", BUNDLED_LIKE, price="7.5"),
            {"n1": Decimal(3)},
            "7.5",
            PriceSource.ANNOTATION,
            id="the annotation goes before OpenCost",
        ),
        pytest.param(facts("n1", BUNDLED_LIKE), {"n1": Decimal(3)}, "3", PriceSource.OPENCOST, id="before the list"),
        pytest.param(facts("n1", BUNDLED_LIKE), {"n2": Decimal(3)}, None, PriceSource.BUNDLED, id="the list"),
        pytest.param(facts("n1"), {}, None, None, id="unknown"),
        pytest.param(facts("n1"), {"n1": Decimal(0)}, None, None, id="zero is unknown, never free"),
        pytest.param(facts("n1"), {"n1": Decimal("Infinity")}, None, None, id="unbounded is unknown"),
        pytest.param(
            facts("n1", BUNDLED_LIKE, labels={"karpenter.sh/capacity-type": "spot"}),
            {},
            None,
            None,
            id="the list is of on-demand prices",
        ),
        pytest.param(facts("n1", BUNDLED_LIKE, price="-1"), {"n1": Decimal(3)}, None, None, id="a negative price"),
        pytest.param(facts("n1", BUNDLED_LIKE, price="cheap"), {}, None, None, id="no number"),
    ],
)
def test_a_price_is_the_first_that_is_known(
    node: Any, opencost: dict[str, Decimal], price: str | None, source: PriceSource | None
) -> None:
    found = one_pool(node, opencost=opencost).price
    assert (found.source if found else None) is source
    if price is not None:
        assert found is not None
        assert (found.per_hour, found.currency) == (Decimal(price), "USD")
    if source is PriceSource.BUNDLED:
        assert found is not None
        assert (found.as_of is not None, bool(found.reference)) == (True, True)


@pytest.mark.parametrize(
    ("prices", "pools"),
    [
        pytest.param(["98.32", "98.320000001"], {("n0", "n1"): "98.32"}, id="the noise of sums"),
        pytest.param(["98.32", "98.41"], {("n0", "n1"): "98.41"}, id="within a hundredth: the dearest"),
        pytest.param(["98.32", "99.41"], {("n0",): "98.32", ("n1",): "99.41"}, id="beyond a hundredth"),
        pytest.param(["1", "1.009", "1.018"], {("n0", "n1"): "1.009", ("n2",): "1.018"}, id="no chain of neighbours"),
        pytest.param(["0.157819", "0.157821"], {("n0", "n1"): "0.1578"}, id="four digits where a cent is coarse"),
        pytest.param(["32.772599", None], {("n0",): "32.77", ("n1",): None}, id="one is not told"),
    ],
)
def test_nodes_whose_prices_are_nearly_equal_are_one_pool(
    prices: list[str | None], pools: dict[tuple[str, ...], str | None]
) -> None:
    nodes = [facts(f"n{i}") for i in range(len(prices))]
    told = {f"n{i}": Decimal(price) for i, price in enumerate(prices) if price is not None}
    inventory = take_inventory(nodes, (), told)
    found = {tuple(n.name for n in r.pool.nodes): r.pool.price for r in inventory.pools}
    assert {names: None if price is None else f"{price.per_hour}" for names, price in found.items()} == pools


def test_a_new_node_that_opencost_does_not_know_yet_joins_those_of_its_list_price() -> None:
    nodes = [facts(name, BUNDLED_LIKE) for name in ("n1", "n2")]
    listed = one_pool(*nodes).price
    assert listed is not None
    pool = one_pool(*nodes, opencost={"n1": listed.per_hour})
    assert pool.price is not None
    assert (pool.price.per_hour, pool.price.source) == (listed.per_hour, PriceSource.OPENCOST)


def test_a_pools_name_depends_neither_on_where_its_price_was_read_nor_on_the_day() -> None:
    def names(**dear: Any) -> set[str]:
        nodes = [facts("n1", price="12"), facts("n2", price="12"), facts("n3", **dear)]
        return {r.pool.name for r in take_inventory(nodes, (), {"n3": Decimal(30)}).pools}

    assert names() == names(price="30") == names(price="30.00", annotations={"metainf.dev/cost-as-of": "2026-01-01"})
    assert names() != names(price="40")


def test_a_node_whose_price_is_not_known_just_now_stays_a_member_and_is_no_capacity() -> None:
    before = one_pool(facts("n1", price="12"), facts("n2", price="12"), facts("n3", price="12"))
    inventory = take_inventory([facts("n1", price="12"), facts("n2", price="12"), facts("n3")], ())
    record = inventory.get(before.name)
    assert record is not None
    assert record.members == {"n1", "n2", "n3"}
    assert [n.name for n in record.pool.nodes] == ["n1", "n2"]
    assert holding(inventory, "n3").price is None


@pytest.mark.parametrize("price", ["-1", "0", "NaN", "Infinity", "1e30", "1e-30", "12 USD"])
def test_a_price_that_cannot_be_is_a_problem_that_names_the_node(price: str) -> None:
    inventory = take_inventory([facts("n1", price=price)], ())
    assert only(inventory).pool.price is None
    (problem,) = inventory.problems
    assert "node n1" in problem
    assert price in problem


def test_currency_and_date_come_from_the_annotations() -> None:
    notes = {"metainf.dev/cost-currency": "EUR", "metainf.dev/cost-as-of": "2026-01-01"}
    price = one_pool(facts("n1", price="5", annotations=notes)).price
    assert price is not None
    assert (price.currency, price.as_of) == ("EUR", "2026-01-01")


# AcceleratorPools

TEAM = {"labels": {"team": "a"}}


def test_an_accelerator_pool_overrides_what_its_nodes_say() -> None:
    nodes = [facts("n1", price="99", **TEAM), facts("n2", price="98", **TEAM), facts("n3", price="50")]
    inventory = take_inventory(nodes, [declared(billing="Node")])
    mine = inventory.get("mine")
    assert mine is not None
    assert mine.declared
    assert mine.pool.price is not None
    assert (mine.pool.price.per_hour, mine.pool.price.source) == (Decimal(20), PriceSource.ACCELERATOR_POOL)
    assert mine.members == {"n1", "n2"}
    assert mine.pool.match_labels == (("team", "a"),)
    assert mine.pool.billing is Billing.NODE
    assert len(inventory.pools) == 2
    assert inventory.get("nobody") is None


def test_without_a_price_of_its_own_it_takes_the_dearest_of_its_nodes() -> None:
    nodes = [facts("n1", price="99", **TEAM), facts("n2", price="98", **TEAM)]
    price = only(take_inventory(nodes, [declared(price=None)])).pool.price
    assert price is not None
    assert price.per_hour == 99


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(facts("n2", **TEAM), id="one without a price"),
        pytest.param(facts("n2", price="98", annotations={"metainf.dev/cost-currency": "EUR"}, **TEAM), id="currency"),
    ],
)
def test_nodes_that_do_not_agree_on_a_price_leave_it_unknown(other: Any) -> None:
    assert only(take_inventory([facts("n1", price="99", **TEAM), other], [declared(price=None)])).pool.price is None


def test_a_pool_at_zero_nodes_offers_those_that_may_be_added() -> None:
    pool = only(take_inventory([], [declared(nodes={"max": 3}, nodeResources={"cpu": "96", "memory": "1000Gi"})])).pool
    assert (pool.nodes, pool.addable_nodes) == ((), 3)
    assert (pool.shape.accelerators, pool.shape.cpu_cores, pool.shape.memory_bytes) == (8, 96.0, 1000 * GIB)
    assert pool.resource_name == "nvidia.com/gpu"
    assert pool.labels == (("team", "a"),)


def test_on_a_node_of_unknown_size_a_replica_asks_for_no_more_cpu_than_the_usual_one_has() -> None:
    manifest = declared(accelerator={"product": "NVIDIA-A100-SXM4-40GB", "count": 1}, nodes={"max": 2})
    pool = only(take_inventory([], [manifest])).pool
    found = enumerate_candidates(asked_for(), architecture(), [pool], engine_version=VERSION)
    (request,) = {candidate.option.request for candidate in found.candidates}
    assert (request.accelerators, request.cpu_cores) == (1, 3.0)


def test_standing_nodes_count_against_the_most_that_there_may_be() -> None:
    nodes = [facts("n1", **TEAM), facts("n2", cordoned=True, **TEAM)]
    pool = only(take_inventory(nodes, [declared(nodes={"max": 3})])).pool
    assert ([n.name for n in pool.nodes], pool.addable_nodes) == (["n1"], 1)
    assert only(take_inventory(nodes, [declared(nodes={"max": 1})])).pool.addable_nodes == 0


def test_a_node_of_two_pools_belongs_to_the_first_by_name_and_both_are_told() -> None:
    inventory = take_inventory([facts("n1", **TEAM)], [declared("zeta"), declared("alpha")])
    assert inventory.overlapping == (("alpha", "zeta"),)
    alpha, zeta = inventory.get("alpha"), inventory.get("zeta")
    assert alpha is not None
    assert zeta is not None
    assert (alpha.members, zeta.members) == ({"n1"}, frozenset())


@pytest.mark.parametrize(
    ("node", "says"),
    [
        pytest.param(facts("n2", "gke-h100", **TEAM), "the pool says NVIDIA-A100-SXM4-40GB", id="another product"),
        pytest.param(facts("n2", "cpu-eks-c7a", **TEAM), "node n2 has c7a.4xlarge, the pool says", id="no accelerator"),
        pytest.param(facts("n2", "unknown-product", **TEAM), "left out", id="unknown"),
    ],
)
def test_nodes_of_another_kind_are_left_out_of_a_declared_pool(node: Any, says: str) -> None:
    record = only(take_inventory([facts("n1", **TEAM), node], [declared()]))
    assert record.members == {"n1"}
    (problem,) = record.problems
    assert says in problem
    assert "node n2" in problem


@pytest.mark.parametrize(
    ("product", "like", "left_out"),
    [
        pytest.param("NVIDIA-A100-SXM4-80GB", "gfd-a100", True, id="less memory than the pool says"),
        pytest.param("NVIDIA-A100-SXM4-40GB", "gfd-a100", False, id="as the pool says"),
    ],
)
def test_nodes_with_less_memory_than_declared_are_left_out(product: str, like: str, left_out: bool) -> None:
    manifest = declared(accelerator={"product": product, "count": 8})
    record = only(take_inventory([facts("n1", like, **TEAM)], [manifest]))
    assert (record.members == frozenset()) is left_out
    assert bool(record.problems) is left_out


def test_time_sliced_nodes_are_left_out_of_a_declared_pool() -> None:
    sliced = facts("n1", "gfd-time-sliced", **TEAM)
    device = sliced.accelerators.accelerator
    assert device is not None
    record = only(take_inventory([sliced], [declared(accelerator={"product": device.name, "count": 1})]))
    assert record.members == frozenset()
    assert "time-sliced" in record.problems[0]


def test_a_node_that_says_nothing_yet_of_its_size_does_not_make_the_others_small() -> None:
    fresh = facts("n2", allocatable={"nvidia.com/gpu": "8"}, **TEAM)
    pool = only(take_inventory([facts("n1", **TEAM), fresh], [declared()])).pool
    assert pool.shape.cpu_cores == 255
    assert {n.name: n.cpu_free_cores for n in pool.nodes} == {"n1": 255.0, "n2": 0.0}


def test_a_pool_of_an_unknown_product_is_a_problem_that_names_it() -> None:
    inventory = take_inventory([], [declared(accelerator={"product": "Wonder-9000", "count": 8})])
    assert inventory.pools == ()
    (problem,) = inventory.problems
    assert problem.startswith("AcceleratorPool mine:")


def test_a_declared_cpu_pool_takes_the_share_of_its_smallest_node() -> None:
    manifest = declared(
        accelerator={"product": "CPU", "count": 0}, nodeResources={"cpu": "96", "memory": "384Gi"}, nodes={"max": 4}
    )
    none = only(take_inventory([], [manifest])).pool
    assert (none.is_cpu, none.shape.cpu_cores, none.addable_nodes) == (True, 96.0, 4)
    one = only(take_inventory([facts("c1", "cpu-eks-c7a", **TEAM)], [manifest])).pool
    assert one.shape.cpu_cores == one.nodes[0].cpu_free_cores < 96
    assert one.resource_name is None
    assert one.accelerator != none.accelerator


@pytest.mark.parametrize(
    ("like", "threads"),
    [
        pytest.param("cpu-eks-c7a", 1, id="a cloud that sells cores"),
        pytest.param("cpu-eks-m7i", 2, id="a cloud that sells threads"),
        pytest.param("cpu-generic-arm", 2, id="nothing told: as the declared CPU"),
    ],
)
def test_a_declared_cpu_pool_counts_physical_cores_as_its_nodes_tell_them(like: str, threads: int) -> None:
    offered = {"cpu": "96", "memory": "384Gi"}
    manifest = declared(accelerator={"product": "CPU-x86-64", "count": 0}, nodeResources=offered)
    pool = only(take_inventory([facts("c1", like, **TEAM)], [manifest])).pool
    cpu = pool.accelerator.cpu
    whole = accelerators.get("CPU-x86-64")
    assert cpu is not None
    assert whole is not None
    assert whole.cpu is not None
    assert cpu.threads_per_core == threads
    ratio = pool.shape.cpu_cores / threads / whole.cpu.physical_cores
    assert pool.accelerator.memory_bandwidth_bytes_per_s == pytest.approx(whole.memory_bandwidth_bytes_per_s * ratio)


def test_taints_of_the_manifest_and_of_its_nodes_add_up() -> None:
    nodes = [facts("n1", taints=[{"key": "b", "effect": "NoSchedule"}], **TEAM)]
    pool = only(take_inventory(nodes, [declared(taints=[{"key": "a", "effect": "NoSchedule"}])])).pool
    assert [t.key for t in pool.taints] == ["a", "b"]
