"""What a node's own driver adds to the catalogue, and what it takes from it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metainf.accelerators import FormFactor, Link, get
from metainf.dtypes import DType
from metainf.efficiencies import GENERIC, MEASURED_GENERATIONS, efficiency_of
from metainf.manifests import parse_pool
from metainf_operator import gpu_fact_labels as own
from metainf_operator.inventory import take_inventory
from metainf_operator.measured_gpus import unlisted_gpu, with_links_of_node
from metainf_operator.node_labels import ProblemReason, read_accelerators
from metainf_operator.projections import NodeFacts
from node_bodies import facts

_GIB = 2**30
_SET: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "data/node_labels/node-facts-unlisted.yaml").read_text())
_LABELS: dict[str, str] = _SET["labels"]
_PRODUCT = _LABELS["nvidia.com/gpu.product"]


def _of(compute: str, cores: int, clock_mhz: int, gb_per_s: int, watts: int, **more: str) -> dict[str, str]:
    major, _, minor = compute.partition(".")
    return {
        "nvidia.com/gpu.compute.major": major,
        "nvidia.com/gpu.compute.minor": minor,
        own.CORES_LABEL: str(cores),
        own.CLOCK_LABEL: str(clock_mhz),
        own.BANDWIDTH_LABEL: str(gb_per_s),
        own.POWER_LIMIT_LABEL: str(watts),
        **more,
    }


# CUDA cores of the datasheets, and clocks that are their boost clocks or, where cards go beyond those, higher.
_KNOWN = {
    "T4-PCIe-16GB": _of("7.5", 2560, 1590, 320, 70),
    "V100-SXM-32GB": _of("7.0", 5120, 1530, 900, 300),
    "A100-SXM-80GB": _of("8.0", 6912, 1410, 2039, 400),
    "A30-PCIe-24GB": _of("8.0", 3584, 1440, 933, 165),
    "A10-PCIe-24GB": _of("8.6", 9216, 1695, 600, 150),
    "A10G-PCIe-24GB": _of("8.6", 9216, 1710, 600, 300),
    "L4-PCIe-24GB": _of("8.9", 7424, 2040, 300, 72),
    "L40-PCIe-48GB": _of("8.9", 18176, 2490, 864, 300),
    "L40S-PCIe-48GB": _of("8.9", 18176, 2520, 864, 350),
    "RTX-4090-PCIe-24GB": _of("8.9", 16384, 3105, 1008, 450),
    "H100-SXM-80GB": _of("9.0", 16896, 1980, 3352, 700),
    "H20-SXM-96GB": _of("9.0", 9984, 1980, 4000, 400),
    "B200-SXM-180GB": _of("10.0", 18944, 1965, 7700, 1000),
    "B300-SXM-288GB": _of("10.3", 18944, 2032, 7700, 1100),
    "RTX-5090-PCIe-32GB": _of("12.0", 21760, 3090, 1792, 575),
}


@pytest.mark.parametrize("name", _KNOWN)
def test_had_it_been_unlisted_a_known_gpu_would_not_have_been_thought_faster_than_it_is(name: str) -> None:
    known = get(name)
    assert known is not None
    found = unlisted_gpu(name, _KNOWN[name], known.memory_bytes)
    assert found is not None
    assert found.accelerator.compute_capability == known.compute_capability
    for dtype, flops in found.accelerator.flops.items():
        assert known.supports(dtype), dtype
        assert flops <= known.flops[dtype], dtype
    assert found.accelerator.memory_bandwidth_bytes_per_s <= known.memory_bandwidth_bytes_per_s


def test_an_unlisted_gpu_has_the_figures_of_its_driver() -> None:
    found = unlisted_gpu(_PRODUCT, _LABELS, 64 * _GIB)
    assert found is not None
    gpu = found.accelerator
    assert (gpu.name, gpu.family, gpu.form_factor, gpu.link) == (_PRODUCT, _PRODUCT, FormFactor.PCIE, None)
    assert (gpu.memory_bytes, gpu.memory_bandwidth_bytes_per_s, gpu.tdp_w) == (64 * _GIB, 3.072e12, 500.0)
    assert gpu.flops[DType.BF16] == pytest.approx(64 * 12800 * 1.5e9)
    assert gpu.pcie_bytes_per_s == 31.5e9  # eight lanes of generation 5
    assert set(found.labels) <= set(_LABELS)


def test_its_interval_is_as_wide_as_for_a_generation_that_nothing_was_measured_on() -> None:
    found = unlisted_gpu(_PRODUCT, _LABELS, 64 * _GIB)
    assert found is not None
    assert found.accelerator.generation not in MEASURED_GENERATIONS
    assert efficiency_of(found.accelerator.generation) == GENERIC


def test_nvlink_of_an_unlisted_gpu_is_that_of_the_node() -> None:
    labels = {**_LABELS, own.NVLINK_GROUP_LABEL: "4", own.NVLINK_SPEED_LABEL: "450"}
    found = unlisted_gpu(_PRODUCT, labels, 64 * _GIB)
    assert found is not None
    assert found.accelerator.link == Link(450e9, 4)


@pytest.mark.parametrize(
    "missing",
    [own.BANDWIDTH_LABEL, own.CORES_LABEL, own.CLOCK_LABEL, own.POWER_LIMIT_LABEL, "nvidia.com/gpu.compute.major"],
)
def test_with_a_fact_missing_it_stays_unknown(missing: str) -> None:
    labels = {key: value for key, value in _LABELS.items() if key != missing}
    found = read_accelerators(labels, _SET["allocatable"])
    assert found.accelerator is None
    assert [problem.reason for problem in found.problems] == [ProblemReason.UNKNOWN_PRODUCT]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"nvidia.com/gpu.product": f"{_PRODUCT}-MIG-1g.8gb"}, id="a slice, of which nothing is measured"),
        pytest.param({"nvidia.com/gpu.product": f"{_PRODUCT}-SHARED"}, id="time-sliced"),
        pytest.param({"metainf.dev/accelerator": "something-else"}, id="named by the owner"),
        pytest.param({"nvidia.com/gpu.compute.major": "42"}, id="an architecture that is not known"),
    ],
)
def test_facts_complete_no_other_name(changed: dict[str, str]) -> None:
    assert read_accelerators({**_LABELS, **changed}, _SET["allocatable"]).accelerator is None


def _node(name: str, **changed: str) -> NodeFacts:
    return facts(name, "node-facts-unlisted", price="4", labels=changed)


def test_nodes_with_an_unlisted_gpu_make_a_pool_which_is_told_of() -> None:
    inventory = take_inventory([_node("n1"), _node("n2")], ())
    (record,) = inventory.pools
    assert record.members == {"n1", "n2"}
    assert record.pool.product == _PRODUCT
    assert (own.BANDWIDTH_LABEL, "3072") in record.pool.match_labels
    assert [text for text in inventory.problems if "is not in the catalogue" in text]


def test_nodes_that_differ_in_a_fact_that_counts_make_different_pools() -> None:
    slower = _node("n2", **{own.BANDWIDTH_LABEL: "1536"})
    assert len(take_inventory([_node("n1"), slower], ()).pools) == 2


@pytest.mark.parametrize(
    ("group", "count", "left"),
    [
        pytest.param("1", 4, None, id="bridges are an option that this node lacks"),
        pytest.param("2", 4, Link(300e9, 2), id="as the datasheet has it"),
        pytest.param("", 4, Link(300e9, 2), id="nobody looked"),
        pytest.param("1", 1, Link(300e9, 2), id="alone in its node: no link is used"),
        pytest.param("4", 4, Link(300e9, 2), id="more than the datasheet has"),
    ],
)
def test_nvlink_that_the_node_lacks_is_taken_away(group: str, count: int, left: Link | None) -> None:
    known = get("A100-PCIe-80GB")
    assert known is not None
    found = with_links_of_node(known, {own.NVLINK_GROUP_LABEL: group}, count)
    assert found.accelerator.link == left
    assert found.labels == ((own.NVLINK_GROUP_LABEL,) if left != known.link else ())


def test_facts_that_agree_with_the_catalogue_change_no_pool() -> None:
    plain = facts("n1", price="12")
    same = {own.NVLINK_GROUP_LABEL: "8", own.BANDWIDTH_LABEL: "1555", own.PRODUCTS_LABEL: "1"}
    labelled = facts("n1", price="12", labels=same)
    (one,), (other,) = (take_inventory([node], ()).pools for node in (plain, labelled))
    assert one.pool.name == other.pool.name
    assert one.pool.match_labels == other.pool.match_labels
    assert one.pool.accelerator == other.pool.accelerator


def test_a_declared_pool_has_the_links_that_its_nodes_have() -> None:
    manifest = parse_pool(
        {
            "apiVersion": "metainf.dev/v1alpha1",
            "kind": "AcceleratorPool",
            "metadata": {"name": "mine"},
            "spec": {
                "nodeSelector": {"team": "a"},
                "accelerator": {"product": "NVIDIA-A100-80GB-PCIe", "memory": "80Gi", "count": 4},
                "price": {"perHour": "8"},
            },
        }
    )
    bare = facts("n1", "node-facts-without-bridges", labels={"team": "a"})
    bridged = facts("n2", "node-facts-without-bridges", labels={"team": "a", own.NVLINK_GROUP_LABEL: "2"})
    for members, link in (([bare, bridged], None), ([bridged], Link(300e9, 2)), ([], Link(300e9, 2))):
        (record,) = take_inventory(members, (manifest,)).pools
        assert record.pool.accelerator.link == link


@given(st.dictionaries(st.sampled_from(own.OWN_LABELS), st.text("0123456789.-x", max_size=6)))
def test_any_facts_give_an_answer(labels: dict[str, str]) -> None:
    found = read_accelerators({**_LABELS, **labels}, _SET["allocatable"])
    assert found.accelerator is None or found.accelerator.memory_bandwidth_bytes_per_s > 0
