import copy
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metainf.accelerators import catalogue
from metainf.errors import InvalidWorkloadError
from metainf.manifests import (
    USUAL_CORES_EACH,
    NodeRange,
    find_accelerator,
    parse_pool,
    read_documents,
    resource_name,
    standing_pool,
)
from metainf.placement import ReplicaRequest, max_replicas, room_for
from metainf.pools import Billing, CapacityType, PriceSource, Taint

ROOT = Path(__file__).parent.parent
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
CRD = yaml.load((ROOT / "crds/metainf.dev_acceleratorpools.yaml").read_text(), Loader=LOADER)
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def pool(**fields):
    """A pool of two nodes with eight accelerators; fields replace those of the spec, `...` removes one."""
    spec = {
        "nodeSelector": {"example.com/pool": "h100"},
        "accelerator": {"product": "NVIDIA-H100-80GB-HBM3", "memory": "80Gi", "count": 8},
        "price": {"perHour": "55.04", "source": "contract 12", "asOf": "2026-10-01"},
        "nodes": {"max": 2},
        "nodeResources": {"cpu": "192", "memory": "2048Gi"},
    }
    spec.update(fields)
    return {
        "apiVersion": "metainf.dev/v1alpha1",
        "kind": "AcceleratorPool",
        "metadata": {"name": "h100"},
        "spec": {name: value for name, value in spec.items() if value is not ...},
    }


CPU = {"accelerator": {"product": "CPU", "count": 0}}
FULL = pool(
    price={"perHour": "8", "spotPerHour": "3.20", "currency": "EUR", "source": "list", "asOf": "2026-10-01"},
    billing="Node",
    nodes={"min": 1, "max": 3},
    taints=[{"key": "a", "value": "b", "effect": "NoSchedule"}],
    capacityType="Spot",
)


@pytest.mark.parametrize("name", ["acceleratorpools", "acceleratorpool-cpu"])
def test_reads_every_example(name):
    manifests = read_documents((ROOT / f"crds/examples/{name}.yaml").read_text(), name)
    pools = [standing_pool(parse_pool(manifest)) for manifest in manifests]
    assert [p.name for p in pools] == [m["metadata"]["name"] for m in manifests]
    assert all(p.price is not None and p.price.as_of == "2026-10-01" for p in pools)


def test_fills_in_the_defaults_of_the_crd():
    parsed = parse_pool(pool())
    assert (parsed.billing, parsed.capacity_type, parsed.taints) == (Billing.SHARE, CapacityType.ON_DEMAND, ())
    assert parsed.price.currency == "USD"
    assert parsed.price.source is PriceSource.ACCELERATOR_POOL
    assert (parsed.price.reference, parsed.price.as_of) == ("contract 12", "2026-10-01")
    assert parsed.nodes == NodeRange(maximum=2, minimum=None)
    assert parsed.accelerator_memory_bytes == 80 * 2**30


def test_reads_every_field_to_its_value():
    parsed = parse_pool(FULL)
    assert parsed.price.per_hour == Decimal("3.20")
    assert parsed.price.currency == "EUR"
    assert (parsed.billing, parsed.nodes) == (Billing.NODE, NodeRange(3, 1))
    assert parsed.taints == (Taint("a", "b", "NoSchedule"),)


@pytest.mark.parametrize(
    ("capacity_type", "price", "in_force"),
    [
        pytest.param("OnDemand", {"perHour": "8", "spotPerHour": "3"}, "8", id="on demand -> perHour"),
        pytest.param("Reserved", {"perHour": "8", "spotPerHour": "3"}, "8", id="reserved -> perHour"),
        pytest.param("Spot", {"perHour": "8", "spotPerHour": "3"}, "3", id="spot -> spotPerHour"),
        pytest.param("Spot", {"perHour": "8"}, "8", id="spot without its own -> perHour"),
        pytest.param("Spot", {"spotPerHour": "3"}, "3", id="spot alone"),
    ],
)
def test_the_price_in_force_follows_the_capacity_type(capacity_type, price, in_force):
    assert parse_pool(pool(capacityType=capacity_type, price=price)).price.per_hour == Decimal(in_force)


def test_a_price_that_is_left_out_is_unknown():
    assert parse_pool(pool(price=...)).price is None


ONE = ReplicaRequest(1, 8.0, 2**34)


@pytest.mark.parametrize(
    ("nodes", "standing", "addable", "first_replica_usd"),
    [
        pytest.param({"max": 2}, 2, 0, "6.88", id="min not written -> all stand, a share is paid"),
        pytest.param({"min": 0, "max": 2}, 0, 2, "55.04", id="min 0 -> none stands, a whole node is bought"),
        pytest.param({"min": 1, "max": 2}, 1, 1, "6.88", id="min 1 -> one stands"),
        pytest.param({"min": 2, "max": 2}, 2, 0, "6.88", id="min is max -> all stand"),
    ],
)
def test_without_a_cluster_min_says_how_many_nodes_stand(nodes, standing, addable, first_replica_usd):
    made = standing_pool(parse_pool(pool(nodes=nodes)))
    assert (len(made.nodes), made.addable_nodes) == (standing, addable)
    assert max_replicas(made, ONE) == 16
    assert room_for(made, ONE).cost_per_hour(1) == Decimal(first_replica_usd)


def test_without_node_resources_a_node_has_the_cores_of_the_usual_machine_and_any_memory():
    made = standing_pool(parse_pool(pool(nodeResources=...)))
    assert max_replicas(made, ReplicaRequest(8, 8 * USUAL_CORES_EACH, 2**42)) == 2
    assert max_replicas(made, ReplicaRequest(8, 8 * USUAL_CORES_EACH + 1.0, 2**42)) == 0


def test_a_node_pool_carries_what_selection_and_scheduling_need():
    made = standing_pool(parse_pool(FULL))
    assert made.accelerator.name == "H100-SXM-80GB"
    assert made.resource_name == "nvidia.com/gpu"
    assert made.match_labels == made.labels == (("example.com/pool", "h100"),)
    assert made.shape.cpu_cores == 192
    assert made.capacity_type is CapacityType.SPOT
    assert len({node.name for node in made.nodes}) == len(made.nodes) == 1


@pytest.mark.parametrize(
    ("product", "selector", "name"),
    [
        pytest.param("CPU", {"a": "b"}, "CPU-x86-64", id="no more than CPU -> the floor"),
        pytest.param("cpu", {"kubernetes.io/arch": "arm64"}, "CPU-arm64", id="the floor of arm64"),
        pytest.param("EPYC-Genoa", {"a": "b"}, "EPYC-Genoa", id="a named CPU"),
    ],
)
def test_a_cpu_pool_is_the_share_of_the_cpu_that_a_node_has(product, selector, name):
    manifest = pool(
        accelerator={"product": product, "count": 0},
        nodeSelector=selector,
        nodeResources={"cpu": "32", "memory": "128Gi"},
    )
    made = standing_pool(parse_pool(manifest))
    assert made.accelerator.name == name
    assert made.is_cpu
    assert made.accelerator.cpu.cores == pytest.approx(32)
    assert made.accelerator.memory_bytes == 128 * 2**30
    assert made.shape.accelerators == 0


@pytest.mark.parametrize("accelerator", catalogue(), ids=lambda a: a.name)
def test_every_accelerator_but_a_cpu_has_a_resource_name(accelerator):
    name = resource_name(accelerator)
    assert (name is None) == (accelerator.cpu is not None)
    assert name is None or "/" in name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"accelerator": {"product": "NVIDIA-X9000", "count": 8}}, "NVIDIA-X9000 is not an", id="unknown"),
        pytest.param({"accelerator": {"product": "H100", "count": 8}}, "H100-NVL-94GB", id="means several"),
        pytest.param(
            {"accelerator": {"product": "NVIDIA-H100-80GB-HBM3", "memory": "24Gi", "count": 8}},
            "with 24Gi is not an accelerator",
            id="memory contradicts",
        ),
        pytest.param({"accelerator": {"product": "NVIDIA-L4-SHARED", "count": 1}}, "time-sliced", id="shared"),
        pytest.param({"accelerator": {"product": "NVIDIA-L4", "count": 0}}, "count is 0", id="a GPU on a CPU pool"),
        pytest.param({"accelerator": {"product": "EPYC-Genoa", "count": 1}}, "write count 0", id="a CPU that counts"),
        pytest.param({"nodes": ...}, "spec.nodes.max", id="nodes that nobody can count"),
    ],
)
def test_refuses_a_pool_that_it_cannot_stand_for(fields, message):
    with pytest.raises(InvalidWorkloadError) as refused:
        standing_pool(parse_pool(pool(**fields)))
    assert "AcceleratorPool h100: " in str(refused.value)
    assert message in str(refused.value)


def test_an_ambiguous_product_is_settled_by_the_memory():
    manifest = pool(accelerator={"product": "H100", "memory": "94Gi", "count": 8})
    assert find_accelerator(parse_pool(manifest)).name == "H100-NVL-94GB"


BAD = [
    ("name", {**pool(), "metadata": {"name": "A"}}, "metadata.name", "at most 63 lower-case letters"),
    ("misspelt field", pool(nodeSelectors={}), "spec.nodeSelectors", "did you mean nodeSelector?"),
    ("no selector", pool(nodeSelector=...), "spec.nodeSelector", "required"),
    ("empty selector", pool(nodeSelector={}), "spec.nodeSelector", "give at least one label"),
    ("label's value", pool(nodeSelector={"a": "b c"}), "spec.nodeSelector.a", "write a label's value"),
    ("label is true", pool(nodeSelector={"a": True}), "spec.nodeSelector.a", "put it in quotation marks"),
    ("no accelerator", pool(accelerator=...), "spec.accelerator", "required"),
    ("no count", pool(accelerator={"product": "H100"}), "spec.accelerator.count", "required"),
    ("count", pool(accelerator={"product": "H100", "count": 65}), "spec.accelerator.count", "65 is outside"),
    ("product", pool(accelerator={"product": "-", "count": 1}), "spec.accelerator.product", "as a node's label names"),
    ("memory without a unit", pool(accelerator={"product": "H100", "count": 1, "memory": "80"}),
     "spec.accelerator.memory", "with its unit"),
    ("memory of a CPU pool", pool(accelerator={"product": "CPU", "count": 0, "memory": "80Gi"}),
     "spec.accelerator.memory", "a CPU pool (count 0) has no accelerator memory"),
    ("a CPU pool without resources", pool(**CPU, nodeResources=...), "spec.nodeResources", "needs nodeResources"),
    ("empty price", pool(price={"currency": "USD"}), "spec.price", "give perHour or spotPerHour"),
    ("spot price alone", pool(price={"spotPerHour": "1"}), "spec.price.spotPerHour", "alone prices spot nodes"),
    ("free", pool(price={"perHour": "0"}), "spec.price.perHour", "leave a price that is not known out"),
    ("negative price", pool(price={"perHour": "-1"}), "spec.price.perHour", "write a price above zero"),
    ("price is a number", pool(price={"perHour": 1}), "spec.price.perHour", "put it in quotation marks"),
    ("currency", pool(price={"perHour": "1", "currency": "$"}), "spec.price.currency", "three-letter code"),
    ("no such day", pool(price={"perHour": "1", "asOf": "2026-02-30"}), "spec.price.asOf", "write a day such as"),
    ("billing", pool(billing="Hour"), "spec.billing", "write one of Share, Node"),
    ("no max", pool(nodes={}), "spec.nodes.max", "required"),
    ("min above max", pool(nodes={"min": 2, "max": 1}), "spec.nodes.min", "nodes.min is above nodes.max"),
    ("cores", pool(nodeResources={"cpu": "0", "memory": "1Gi"}), "spec.nodeResources.cpu", "as 96 or 95500m"),
    ("a taint's effect", pool(taints=[{"key": "a", "effect": "No"}]), "spec.taints[0].effect", "NoSchedule"),
    ("a taint without a key", pool(taints=[{"effect": "NoSchedule"}]), "spec.taints[0].key", "required"),
    ("a taint twice", pool(taints=[{"key": "a", "effect": "NoSchedule"}] * 2), "spec.taints", "stands here twice"),
    ("capacity type", pool(capacityType="spot"), "spec.capacityType", "write one of OnDemand, Spot, Reserved"),
]  # fmt: skip


@pytest.mark.parametrize(("manifest", "path", "message"), [pytest.param(*case, id=what) for what, *case in BAD])
def test_refuses_with_the_path_and_what_to_write(manifest, path, message):
    with pytest.raises(InvalidWorkloadError) as refused:
        parse_pool(manifest)
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)


def rule_messages(schema):
    found = {rule["message"] for rule in schema.get("x-kubernetes-validations", ())}
    for child in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(child, dict):
            found |= rule_messages(child)
    return found


def test_refuses_in_the_words_of_every_rule_of_the_crd():
    said = []
    for _, manifest, _, _ in BAD:
        with pytest.raises(InvalidWorkloadError) as refused:
            parse_pool(manifest)
        said.append(str(refused.value))
    assert {m for m in rule_messages(SCHEMA) if not any(m in message for message in said)} == set()


def test_knows_every_field_of_the_crd():
    def missing(schema, value, path):
        for name, child in schema.get("properties", {}).items():
            if name not in value:
                yield f"{path}.{name}"
            elif isinstance(value[name], dict):
                yield from missing(child, value[name], f"{path}.{name}")
            elif isinstance(value[name], list):
                yield from missing(child["items"], value[name][0], f"{path}.{name}")

    parse_pool(FULL)
    assert list(missing(SCHEMA["properties"]["spec"], FULL["spec"], "spec")) == []


@given(
    field=st.sampled_from(sorted(FULL["spec"])),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_never_fails_in_another_way_than_by_a_sentence(field, value):
    manifest = copy.deepcopy(FULL)
    manifest["spec"][field] = value
    try:
        parse_pool(manifest)
    except InvalidWorkloadError as error:
        assert str(error)
