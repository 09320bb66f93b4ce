"""What is possible: which pools, methods, layouts and numbers of replicas come in question, and why not the others."""

from dataclasses import replace
from decimal import Decimal
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choices import DEFAULT_ONLY, GIB, VERSION, architecture, device, pool, workload
from metainf.candidates import CandidateName, Enumeration, enumerate_candidates
from metainf.errors import InvalidWorkloadError
from metainf.memory import memory_plan
from metainf.placement import node_slots
from metainf.pools import CapacityType, NodeCapacity, NodePool, NodeShape, Taint
from metainf.rejections import Rejection, RejectionReason, count_rejections
from metainf.workload import (
    MOST_REPLICAS,
    LossyPolicy,
    MethodLimits,
    PlacementLimits,
    ReplicaLimits,
    SpotPolicy,
    TokenLengths,
    Toleration,
    Traffic,
    Workload,
)

R = RejectionReason
Z_99 = NormalDist().inv_cdf(0.99)
ANY_METHOD = MethodLimits(lossy=LossyPolicy.ALLOW)


def found(asked: Workload, *pools: NodePool, model: str = "Qwen/Qwen2.5-7B-Instruct", **more: Any) -> Enumeration:
    return enumerate_candidates(asked, architecture(model), pools, engine_version=VERSION, **more)


def reasons(enumeration: Enumeration) -> set[RejectionReason]:
    return {rejection.reason for rejection in enumeration.rejections}


@pytest.mark.parametrize(
    ("where", "placement", "reason", "says"),
    [
        pytest.param(
            pool(), PlacementLimits(pools=frozenset({"l4"})), R.POOL_NOT_ALLOWED, "does not name h100", id="not named"
        ),
        pytest.param(
            pool(capacity_type=CapacityType.SPOT), PlacementLimits(), R.SPOT_NOT_ALLOWED, "spot is Never", id="spot"
        ),
        pytest.param(
            pool(labels=(("zone", "a"),)),
            PlacementLimits(node_selector=(("zone", "b"),)),
            R.NODE_SELECTOR_MISMATCH,
            "no label zone=b",
            id="another zone",
        ),
        pytest.param(
            pool(taints=(Taint("dedicated", "x"),)), PlacementLimits(), R.TAINT_NOT_TOLERATED, "dedicated", id="taint"
        ),
        pytest.param(pool(price=None), PlacementLimits(), R.PRICE_UNKNOWN, "metainf.dev/cost-per-hour", id="no price"),
        pytest.param(
            pool(currency="EUR"), PlacementLimits(), R.CURRENCY_DIFFERS, "in EUR, the budget is in USD", id="currency"
        ),
    ],
)
def test_rules_a_pool_out_with_a_reason(
    where: NodePool, placement: PlacementLimits, reason: RejectionReason, says: str
) -> None:
    enumeration = found(workload(placement=placement), where)
    assert enumeration.candidates == ()
    (rejection,) = enumeration.rejections
    assert (rejection.reason, rejection.pool) == (reason, "h100")
    assert says in rejection.detail


@pytest.mark.parametrize(
    ("where", "placement"),
    [
        pytest.param(pool(), PlacementLimits(pools=frozenset({"h100", "l4"})), id="named"),
        pytest.param(pool(capacity_type=CapacityType.SPOT), PlacementLimits(spot=SpotPolicy.ALLOW), id="spot allowed"),
        pytest.param(pool(labels=(("a", "1"), ("b", "2"))), PlacementLimits(node_selector=(("b", "2"),)), id="label"),
        pytest.param(
            pool(taints=(Taint("dedicated", "x"),)),
            PlacementLimits(tolerations=(Toleration("dedicated", "Exists"),)),
            id="tolerated",
        ),
    ],
)
def test_takes_a_pool_that_the_limits_allow(where: NodePool, placement: PlacementLimits) -> None:
    assert found(workload(placement=placement), where).candidates


@pytest.mark.parametrize(
    ("limits", "method", "reason"),
    [
        pytest.param(MethodLimits(), "default", None, id="the default needs no leave"),
        pytest.param(MethodLimits(), "static", R.METHOD_NOT_ALLOWED, id="experimental: only by name"),
        pytest.param(MethodLimits(allow=frozenset({"static"})), "static", None, id="experimental, named"),
        pytest.param(MethodLimits(allow=frozenset({"static"})), "default", R.METHOD_NOT_ALLOWED, id="not allowed"),
        pytest.param(MethodLimits(deny=frozenset({"default"})), "default", R.METHOD_NOT_ALLOWED, id="denied"),
        pytest.param(
            MethodLimits(deny=frozenset({"ngram-speculation"})), "ngram", R.METHOD_NOT_ALLOWED, id="technique denied"
        ),
        pytest.param(MethodLimits(allow=frozenset({"ngram-speculation"})), "ngram", None, id="technique allowed"),
        pytest.param(MethodLimits(), "fp8-kv", R.LOSSY_NOT_ALLOWED, id="lossy"),
        pytest.param(ANY_METHOD, "fp8-kv", None, id="lossy allowed"),
        pytest.param(
            MethodLimits(deny=frozenset({"fp8-kv"}), lossy=LossyPolicy.ALLOW),
            "fp8-kv",
            R.METHOD_NOT_ALLOWED,
            id="denied goes before lossy",
        ),
    ],
)
def test_methods_come_in_by_the_limits(limits: MethodLimits, method: str, reason: RejectionReason | None) -> None:
    enumeration = found(workload(methods=limits), pool())
    names = {candidate.name.method for candidate in enumeration.candidates}
    mine = {rejection.reason for rejection in enumeration.rejections if rejection.method == method}
    assert (method in names) is (reason is None)
    assert reason is None or reason in mine


@pytest.mark.parametrize("draft_model", [True, False])
def test_a_head_is_speculated_with_where_the_workload_names_one(draft_model: bool) -> None:
    enumeration = found(workload(methods=MethodLimits(), draft_model=draft_model), pool())
    said = {rejection.detail for rejection in enumeration.rejections if rejection.method == "eagle"}
    assert ("eagle" in {candidate.name.method for candidate in enumeration.candidates}) is draft_model
    assert ("eagle needs a draft model: name one in model.draftModel" in said) is not draft_model


@pytest.mark.parametrize(
    ("model", "where", "lengths", "reason"),
    [
        pytest.param("meta-llama/Llama-3.1-70B-Instruct", pool("l4", "L4-PCIe-24GB"), (500, 100), None, id="by TP8"),
        pytest.param(
            "meta-llama/Llama-3.1-70B-Instruct",
            pool("l4", "L4-PCIe-24GB", per_node=1),
            (500, 100),
            R.MEMORY_TOO_SMALL,
            id="too large for one L4",
        ),
        pytest.param("Qwen/Qwen2.5-7B-Instruct", pool(), (32768, 1), R.CONTEXT_TOO_LONG, id="one token too long"),
        pytest.param("Qwen/Qwen2.5-7B-Instruct", pool(), (32767, 1), None, id="just the context"),
    ],
)
def test_a_replica_must_hold_the_model_and_one_request(
    model: str, where: NodePool, lengths: tuple[int, int], reason: RejectionReason | None
) -> None:
    enumeration = found(workload(lengths=lengths), where, model=model)
    assert bool(enumeration.candidates) is (reason is None)
    assert reason is None or reason in reasons(enumeration)


def test_every_candidate_fits_memory_node_and_context() -> None:
    pools = (pool(nodes=2), pool("l4", "L4-PCIe-24GB", per_node=4), pool("t4", "T4-PCIe-16GB", per_node=1))
    asked = workload(methods=ANY_METHOD, lengths=(30000, 1000))
    candidates = found(asked, *pools).candidates
    assert len({c.name for c in candidates}) == len(candidates) > 20
    for candidate in candidates:
        option = candidate.option
        assert memory_plan(option.replica).missing_bytes(31000) <= 0
        assert sum(node_slots(node, option.request) for node in option.pool.nodes) >= candidate.replicas
        assert 31000 <= option.replica.settings.max_model_len <= option.replica.architecture.max_context_tokens


def test_a_request_as_long_as_the_context_keeps_the_models_own_limit() -> None:
    tight = pool("l4", "L4-PCIe-24GB", per_node=1)
    candidates = found(workload(lengths=(32000, 768)), tight).candidates
    assert {c.option.replica.settings.max_model_len for c in candidates} == {32768}


def with_lengths(prompt: TokenLengths, answer: TokenLengths) -> Workload:
    asked = workload()
    return replace(asked, traffic=Traffic(asked.traffic.load, prompt, answer))


@pytest.mark.parametrize(
    ("prompt", "answer", "possible"),
    [
        pytest.param(TokenLengths(5000, 15000), TokenLengths(2000, 6000), True, id="p95s that fit, if not the p99s"),
        pytest.param(TokenLengths(5000, 15000), TokenLengths(6000, 17768), True, id="p95s that just fit"),
        pytest.param(TokenLengths(5000, 15000), TokenLengths(6000, 17769), False, id="one token more"),
        pytest.param(TokenLengths(20000), TokenLengths(6000, 12769), False, id="a mean beside a p95"),
    ],
)
def test_lengths_are_held_against_the_context_as_they_are_stated(
    prompt: TokenLengths, answer: TokenLengths, possible: bool
) -> None:
    enumeration = found(with_lengths(prompt, answer), pool())
    assert bool(enumeration.candidates) is possible
    assert (R.CONTEXT_TOO_LONG in reasons(enumeration)) is not possible
    assert {c.option.replica.settings.max_model_len for c in enumeration.candidates} <= {32768}


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        pytest.param(ReplicaLimits(), MOST_REPLICAS, id="nothing said"),
        pytest.param(ReplicaLimits(minimum=600), MOST_REPLICAS, id="at least six hundred"),
        pytest.param(ReplicaLimits(fixed=MOST_REPLICAS), MOST_REPLICAS, id="a person's thousand"),
        pytest.param(ReplicaLimits(maximum=700), 700, id="at most seven hundred"),
    ],
)
def test_a_workload_can_have_as_many_replicas_as_its_spec_can_say(limits: ReplicaLimits, most: int) -> None:
    large = pool(nodes=150)
    (single,) = [o for o in found(workload(replicas=limits), large).options if o.option.layout.name == "TP1"]
    assert (single.least, single.most) == (limits.minimum, most)


@pytest.mark.parametrize(
    ("limits", "free", "counts"),
    [
        pytest.param(ReplicaLimits(), (2, 1), {1, 2, 3}, id="as many as fit"),
        pytest.param(ReplicaLimits(minimum=2), (2, 1), {2, 3}, id="at least"),
        pytest.param(ReplicaLimits(maximum=2), (2, 1), {1, 2}, id="at most"),
        pytest.param(ReplicaLimits(minimum=3, fixed=2), (2, 1), {1, 2}, id="a person's number, or what fits of it"),
        pytest.param(ReplicaLimits(fixed=9), (2, 1), {1, 2, 3}, id="capped by capacity"),
    ],
)
def test_replicas_lie_within_limits_and_capacity(
    limits: ReplicaLimits, free: tuple[int, ...], counts: set[int]
) -> None:
    candidates = found(workload(replicas=limits), pool(per_node=2, free=free)).candidates
    single = [c for c in candidates if c.name.layout == "TP1"]
    assert {c.replicas for c in single} == counts


@pytest.mark.parametrize(
    ("where", "minimum", "reason", "says"),
    [
        pytest.param(pool(per_node=1, free=(0, 0)), 1, R.NO_CAPACITY, "room for 0 of 1 replicas", id="all taken"),
        pytest.param(pool(per_node=1, nodes=2), 3, R.NO_CAPACITY, "room for 2 of 3 replicas", id="too few"),
        pytest.param(pool(per_node=1, nodes=0), 1, R.NO_CAPACITY, "room for 0 of 1", id="no node"),
    ],
)
def test_says_how_much_room_there_is(where: NodePool, minimum: int, reason: RejectionReason, says: str) -> None:
    enumeration = found(workload(replicas=ReplicaLimits(minimum=minimum)), where)
    assert enumeration.candidates == ()
    mine = [r for r in enumeration.rejections if r.layout == "TP1" and r.method == "default"]
    assert [r.reason for r in mine] == [reason]
    assert says in mine[0].detail
    assert mine[0].shortfall == minimum - len([n for n in where.nodes if n.accelerators_free])


def test_a_replica_that_no_node_of_the_pool_could_ever_hold_is_told_apart_from_one_that_waits() -> None:
    # KV offload needs host memory whole: on nodes with little of it no replica fits, however empty they are.
    small = replace(pool(), shape=NodeShape(8, 128.0, 20 * GIB), nodes=(NodeCapacity("n", 8, 128.0, 20 * GIB),))
    enumeration = found(workload(methods=MethodLimits(allow=frozenset({"kv-offload"}))), small)
    mine = [r for r in enumeration.rejections if r.method == "kv-offload"]
    assert R.NODE_TOO_SMALL in {r.reason for r in mine}
    assert any("smaller than one replica" in r.detail for r in mine)


def test_a_cpu_replica_takes_most_of_a_node_and_no_accelerator() -> None:
    cpu = device("Xeon-Granite-Rapids")
    shape = NodeShape(0, 64.0, 256 * GIB)
    nodes = (NodeCapacity("c0", 0, 64.0, 256 * GIB), NodeCapacity("c1", 0, 64.0, 256 * GIB))
    share = cpu.cpu_share(64.0, 256 * GIB)
    where = replace(pool("cpu", price="4"), accelerator=share, resource_name=None, shape=shape, nodes=nodes)
    candidates = found(workload(), where).candidates
    assert {c.replicas for c in candidates} == {1, 2}
    for candidate in candidates:
        request = candidate.option.request
        assert request.accelerators == 0
        assert 50 < request.cpu_cores < 64
        assert candidate.option.replica.cpu_cores == request.cpu_cores
        assert Decimal("3.3") < candidate.cost_per_hour / candidate.replicas < 4


def test_a_cpu_replica_asks_for_the_memory_that_it_needs_and_says_how_much_of_it_is_cache() -> None:
    cpu, shape = device("CPU-x86-64"), NodeShape(0, 2.0, 24 * GIB)
    nodes = (NodeCapacity("laptop", 0, 2.0, 24 * GIB),)
    share = cpu.cpu_share(2.0, 24 * GIB)
    where = replace(pool("cpu", price="1"), accelerator=share, resource_name=None, shape=shape, nodes=nodes)
    asked = workload()
    traffic = asked.traffic
    longest = traffic.input_tokens.quantile(Z_99) + traffic.output_tokens.quantile(Z_99)
    candidates = found(asked, where, model="Qwen/Qwen2.5-0.5B-Instruct").candidates
    assert candidates
    for candidate in candidates:
        replica, request = candidate.option.replica, candidate.option.request
        plan = memory_plan(replica)
        assert plan.kv_bytes == replica.settings.kv_cache_memory_bytes
        assert plan.kv_sequences(longest) == pytest.approx(replica.settings.max_num_seqs, rel=0.01)
        assert plan.needed_bytes <= request.memory_bytes < plan.needed_bytes + 2**20
        assert node_slots(nodes[0], request) == 2  # both sides of a switch fit beside each other


def test_only_one_candidate_is_looked_at_for_a_pin() -> None:
    pin = CandidateName("h100", "default", "TP2", 3)
    enumeration = found(workload(methods=MethodLimits()), pool(), pool("l4", "L4-PCIe-24GB"), only=pin)
    assert [c.name for c in enumeration.candidates] == [pin]
    assert {r.pool for r in enumeration.rejections} <= {"h100"}


def test_a_pin_without_room_says_so() -> None:
    enumeration = found(workload(), pool(free=(1,)), only=CandidateName("h100", "default", "TP2", 1))
    assert [(r.reason, r.replicas) for r in enumeration.rejections] == [(R.NO_CAPACITY, 1)]


def test_a_pin_keeps_to_the_workloads_own_most_replicas() -> None:
    pin = CandidateName("h100", "default", "TP1", 3)
    asked = workload(replicas=ReplicaLimits(maximum=3))
    assert [c.name for c in found(asked, pool(), only=pin).candidates] == [pin]
    with pytest.raises(InvalidWorkloadError, match=r"asks for 4 replicas and scaling\.maxReplicas is 3: raise it"):
        found(asked, pool(), only=replace(pin, replicas=4))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(3)))
def test_the_order_of_pools_does_not_matter(order: list[int]) -> None:
    pools = [pool(), pool("l4", "L4-PCIe-24GB"), pool("spot", capacity_type=CapacityType.SPOT)]
    asked = workload(methods=DEFAULT_ONLY)
    straight, shuffled = found(asked, *pools), found(asked, *(pools[i] for i in order))
    assert [c.name for c in straight.candidates] == [c.name for c in shuffled.candidates]
    assert straight.rejections == shuffled.rejections


@given(
    st.lists(
        st.builds(
            Rejection,
            st.sampled_from(list(R)),
            st.sampled_from(["a", "b"]),
            st.just("why"),
            shortfall=st.floats(0, 5),
            replicas=st.one_of(st.none(), st.integers(1, 3)),
        )
    )
)
def test_rejections_are_counted_by_reason_with_the_nearest_miss(rejections: list[Rejection]) -> None:
    counts = count_rejections(rejections)
    assert [c.reason for c in counts] == [reason for reason in R if any(r.reason is reason for r in rejections)]
    assert sum(c.count for c in counts) == len(rejections)
    for count in counts:
        same = [r for r in rejections if r.reason is count.reason]
        assert count.nearest in same
        assert count.nearest.shortfall == min(r.shortfall for r in same)
    assert count_rejections(reversed(rejections)) == counts


@pytest.mark.parametrize("reason", list(R))
def test_every_reason_says_when_it_shows(reason: RejectionReason) -> None:
    assert reason.sentence.startswith("Shows when ")
    assert reason.sentence.endswith(".")
