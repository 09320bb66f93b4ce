"""Label sets as clouds and vendors give them, and what the operator reads in them.

Each file in data/node_labels has the labels, the allocatable resources, where their form was read, and the answer.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metainf.accelerator_names import Ambiguous, Exact, Unknown
from metainf.pools import CapacityType
from metainf_operator.node_labels import NodeAccelerators, ProblemReason, read_accelerators
from metainf_operator.node_origin import read_capacity_type, read_origin
from metainf_operator.quantities import quantity_or_none

_MIB = 2**20
_FOLDER = Path(__file__).parent / "data" / "node_labels"
_SETS: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(_FOLDER.glob("*.yaml"))
}

_every_set = pytest.mark.parametrize("name", list(_SETS))


def _read(name: str) -> tuple[NodeAccelerators, dict[str, Any]]:
    node = _SETS[name]
    return read_accelerators(node["labels"], node["allocatable"]), node["expect"]


@_every_set
def test_reads_the_device_that_the_labels_name(name: str) -> None:
    found, expect = _read(name)
    if "unknown" in expect:
        assert isinstance(found.match, Unknown)
        assert found.match.reason == expect["unknown"]
        assert found.accelerator is None
    elif "candidates" in expect:
        assert isinstance(found.match, Ambiguous)
        assert [device.name for device in found.match.candidates] == expect["candidates"]
        assert found.accelerator is None
    else:
        assert isinstance(found.match, Exact)
        assert found.match.accelerator.name == expect["accelerator"]
    partition = found.partition.profile if found.partition else None
    assert partition == expect.get("partition")


@_every_set
def test_reads_how_many_devices_pods_can_request_and_under_which_name(name: str) -> None:
    found, expect = _read(name)
    assert (found.count, found.resource_name) == (expect["count"], expect["resource"])
    assert found.is_cpu == (expect["resource"] is None)
    assert found.shared_replicas == expect.get("shared_replicas", 1)


@_every_set
def test_says_what_is_wrong_with_the_labels_and_nothing_else(name: str) -> None:
    found, expect = _read(name)
    assert [problem.reason for problem in found.problems] == expect.get("problems", [])
    assert all(problem.message for problem in found.problems)


@_every_set
def test_reads_memory_in_the_unit_of_its_label(name: str) -> None:
    found, expect = _read(name)
    if "memory_mib" in expect:
        assert found.memory_bytes == expect["memory_mib"] * _MIB
    elif isinstance(found.match, Exact) and found.count:
        assert found.memory_bytes is not None
        assert found.memory_bytes > 0


@_every_set
def test_keeps_the_provenance_of_the_name(name: str) -> None:
    found, expect = _read(name)
    if "source_label" in expect:
        assert found.source_label == expect["source_label"]
    if found.source_label is not None and not found.is_cpu:
        value = _SETS[name]["labels"][found.source_label]
        assert found.raw_product == (value if not value.isdigit() else found.source_label.rpartition(".")[2])
    if "raw_product" in expect:
        assert found.raw_product == expect["raw_product"]


@_every_set
def test_reads_where_the_node_comes_from(name: str) -> None:
    labels, expect = _SETS[name]["labels"], _SETS[name]["expect"]
    origin = read_origin(labels)
    assert origin.instance_type == labels.get("node.kubernetes.io/instance-type")
    assert origin.region == labels.get("topology.kubernetes.io/region")
    if "capacity_type" in expect:
        assert origin.capacity_type == expect["capacity_type"]


@_every_set
def test_every_label_set_says_where_its_form_was_read(name: str) -> None:
    assert len(_SETS[name]["source"]) > 20


@pytest.mark.parametrize("name", [name for name, node in _SETS.items() if "cores" in node["expect"]])
def test_sizes_the_cpu_by_physical_cores(name: str) -> None:
    found, expect = _read(name)
    assert found.accelerator is not None
    assert found.accelerator.cpu is not None
    assert found.accelerator.cpu.physical_cores == pytest.approx(expect["cores"])
    assert found.accelerator.cpu.cores == pytest.approx(float(quantity_or_none(_SETS[name]["allocatable"]["cpu"]) or 0))
    assert found.accelerator.memory_bytes == found.memory_bytes


_PRODUCT = {"nvidia.com/gpu.product": "NVIDIA-L4"}


@pytest.mark.parametrize(
    ("text", "memory_bytes"),
    [
        pytest.param("23034", 23034 * _MIB, id="MiB"),
        pytest.param("24152899584", 24152899584, id="bytes, as some versions wrote them"),
        pytest.param("", None, id="empty"),
        pytest.param("-1", None, id="negative"),
        pytest.param("0", None, id="zero is unknown"),
        pytest.param("lots", None, id="no number"),
        pytest.param("1e5", None, id="exponent"),
    ],
)
def test_a_memory_label_that_is_no_size_is_left_out(text: str, memory_bytes: int | None) -> None:
    found = read_accelerators({**_PRODUCT, "nvidia.com/gpu.memory": text}, {"nvidia.com/gpu": "1"})
    catalogued = found.accelerator.memory_bytes if found.accelerator else None
    assert found.memory_bytes == (memory_bytes or catalogued)
    assert found.problems == ()


@pytest.mark.parametrize("count", ["0", "-1", "", "many", "0.5"])
def test_a_resource_without_a_whole_device_gives_none(count: str) -> None:
    found = read_accelerators(_PRODUCT, {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": count})
    assert found.count == 0
    assert [problem.reason for problem in found.problems] == [ProblemReason.NOT_ALLOCATABLE]


def test_a_left_over_resource_of_zero_does_not_make_a_gpu_node() -> None:
    found = read_accelerators({"kubernetes.io/arch": "amd64"}, {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "0"})
    assert found.is_cpu
    assert found.count == 1


def test_the_owners_label_wins_over_every_other() -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-GB10", "metainf.dev/accelerator": "L40S-PCIe-48GB"}
    found = read_accelerators(labels, {"nvidia.com/gpu": "2"})
    assert found.accelerator is not None
    assert (found.accelerator.name, found.source_label) == ("L40S-PCIe-48GB", "metainf.dev/accelerator")
    assert found.problems == ()


def test_a_mistyped_owners_label_is_not_replaced_by_another() -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-L4", "metainf.dev/accelerator": "L44"}
    found = read_accelerators(labels, {"nvidia.com/gpu": "2"})
    assert [problem.reason for problem in found.problems] == [ProblemReason.UNKNOWN_PRODUCT]
    assert "L44" in found.problems[0].message


def test_an_ambiguity_names_its_candidates_and_the_way_out() -> None:
    found = read_accelerators({"karpenter.azure.com/sku-gpu-name": "A100"}, {"nvidia.com/gpu": "1"})
    message = found.problems[0].message
    assert "A100-PCIe-40GB" in message
    assert "A100-SXM-80GB" in message
    assert "metainf.dev/accelerator" in message


def test_a_second_label_narrows_the_first_or_contradicts_it() -> None:
    first = {"karpenter.azure.com/sku-gpu-name": "A100", "nvidia.com/gpu.memory": "81920"}
    narrowed = read_accelerators({**first, "gpu.nvidia.com/class": "A100_PCIE_80GB"}, {"nvidia.com/gpu": "1"})
    assert narrowed.accelerator is not None
    assert narrowed.accelerator.name == "A100-PCIe-80GB"
    also = {**first, "nvidia.com/gpu.product": "A100", "gpu.nvidia.com/class": "A100_PCIE_40GB"}
    against = read_accelerators(also, {"nvidia.com/gpu": "1"})
    assert against.accelerator is None
    assert [problem.reason for problem in against.problems] == [ProblemReason.SEVERAL_PRODUCTS]


def test_a_contradiction_names_both_memories() -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "81920"}
    message = read_accelerators(labels, {"nvidia.com/gpu": "1"}).problems[0].message
    assert "80 GiB" in message
    assert "22 GiB" in message


@pytest.mark.parametrize(
    ("labels", "capacity_type"),
    [
        pytest.param({}, None, id="nothing said"),
        pytest.param({"karpenter.sh/capacity-type": "spot"}, CapacityType.SPOT, id="karpenter spot"),
        pytest.param({"karpenter.sh/capacity-type": "reserved"}, CapacityType.RESERVED, id="karpenter reserved"),
        pytest.param({"eks.amazonaws.com/capacityType": "ON_DEMAND"}, CapacityType.ON_DEMAND, id="eks on demand"),
        pytest.param({"eks.amazonaws.com/capacityType": "CAPACITY_BLOCK"}, CapacityType.RESERVED, id="eks block"),
        pytest.param({"cloud.google.com/gke-preemptible": "true"}, CapacityType.SPOT, id="gke preemptible"),
        pytest.param({"cloud.google.com/gke-provisioning": "standard"}, CapacityType.ON_DEMAND, id="gke standard"),
        pytest.param({"kubernetes.azure.com/agentpool": "a"}, CapacityType.ON_DEMAND, id="aks marks spot only"),
        pytest.param({"karpenter.sh/capacity-type": "maybe"}, None, id="a word that is not known"),
        pytest.param(
            {"karpenter.sh/capacity-type": "on-demand", "cloud.google.com/gke-spot": "true"},
            CapacityType.SPOT,
            id="any sign of spot wins",
        ),
    ],
)
def test_reads_how_the_node_was_bought(labels: dict[str, str], capacity_type: CapacityType | None) -> None:
    assert read_capacity_type(labels) is capacity_type


_KEYS = sorted({key for node in _SETS.values() for key in (*node["labels"], *node["allocatable"])})
_VALUES = sorted(
    {value for node in _SETS.values() for value in (*node["labels"].values(), *node["allocatable"].values())}
)


@given(
    labels=st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES) | st.text("abH1069.-GiM", max_size=8)),
    allocatable=st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES) | st.text("abH1069.-GiM", max_size=8)),
)
def test_any_labels_give_an_answer_and_certainty_only_without_doubts_of_the_product(
    labels: dict[str, str], allocatable: dict[str, str]
) -> None:
    found = read_accelerators(labels, allocatable)
    assert found.count >= 0
    assert found.shared_replicas >= 1
    reasons = {problem.reason for problem in found.problems}
    if found.accelerator is None:
        doubts = {
            ProblemReason.UNKNOWN_PRODUCT,
            ProblemReason.AMBIGUOUS_PRODUCT,
            ProblemReason.MEMORY_CONTRADICTS,
            ProblemReason.NO_PRODUCT_LABEL,
            ProblemReason.SEVERAL_PRODUCTS,
        }
        assert reasons & doubts
