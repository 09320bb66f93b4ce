"""From what the driver says to labels: those of GPU feature discovery by name and form, and our own."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metainf_operator import gpu_fact_labels as own
from metainf_operator.node_facts.gpus import Gpu, MigDevice, Reading
from metainf_operator.node_facts.labels import LABEL_PATTERN, MigStrategy, labels_of
from metainf_operator.node_labels import read_accelerators

_RECORDED = Path(__file__).parent / "data/node_labels"

_H100 = Gpu(
    name="NVIDIA H100 80GB HBM3",
    memory_mib=81559,
    compute_capability=(9, 0),
    pci_class="0x030200",
    mig_capable=True,
    mig_enabled=False,
    memory_bus_bits=5120,
    memory_clock_mhz=2619,
    cuda_cores=16896,
    sm_clock_mhz=1980,
    power_limit_w=700.0,
    power_default_w=700.0,
    pcie_generation=5,
    pcie_width=16,
    nvlinks=18,
    nvlink_version=4,
    nvlink_mb_per_s=26562,
    nvlink_group=8,
)
_A100 = replace(_H100, name="A100-SXM4-40GB", memory_mib=39538, compute_capability=(8, 0))
_B300 = replace(_H100, name="NVIDIA B300 SXM6 AC", memory_mib=275040, compute_capability=(10, 3))
_NVL = replace(_H100, name="NVIDIA H100 NVL", memory_mib=95830)
_L40S = replace(_H100, name="NVIDIA L40S", memory_mib=46068, compute_capability=(8, 9), mig_capable=False)
_1G_5GB = MigDevice("1g.5gb", 5120, 14, 1, 1, 1, 0, 0, 0, 0)
_3G_40GB = MigDevice("3g.40gb", 40448, 60, 3, 3, 3, 3, 0, 3, 0)
_1G_10GB = MigDevice("1g.10gb", 9984, 16, 1, 1, 1, 0, 0, 0, 0)


def _reading(*gpus: Gpu, driver: str = "580.65.06") -> Reading:
    return Reading(driver, (13, 0), gpus, machine="NVIDIA DGX A100")


def _cut(gpu: Gpu, *slices: MigDevice) -> Gpu:
    return replace(gpu, mig_enabled=True, mig_devices=slices)


# Labels that are no fact of the driver: settings of the device plugin, and marks of other components.
_OF_OTHERS = ("nvidia.com/gpu.replicas", "nvidia.com/gpu.present")


@pytest.mark.parametrize(
    ("recorded", "reading", "strategy"),
    [
        pytest.param("gfd-a100", _reading(*[_A100] * 8), MigStrategy.NONE, id="whole GPUs"),
        pytest.param("gfd-b300", _reading(*[_B300] * 8), MigStrategy.NONE, id="Blackwell"),
        pytest.param("aks-h100-nvl-gfd", _reading(_NVL), MigStrategy.NONE, id="one GPU"),
        pytest.param("gfd-time-sliced-renamed", _reading(*[_L40S] * 2), MigStrategy.NONE, id="Ada"),
        pytest.param("gfd-mig-single", _reading(*[_cut(_A100, *[_1G_5GB] * 7)] * 8), MigStrategy.SINGLE, id="single"),
        pytest.param("gfd-mig-mixed", _reading(*[_cut(_H100, *[_3G_40GB] * 2)] * 8), MigStrategy.MIXED, id="mixed"),
        pytest.param(
            "gfd-mig-mixed-two-profiles",
            _reading(*[_cut(_H100, _3G_40GB, _1G_10GB)] * 8),
            MigStrategy.MIXED,
            id="mixed, two profiles",
        ),
    ],
)
def test_labels_are_those_that_gpu_feature_discovery_was_seen_to_write(
    recorded: str, reading: Reading, strategy: MigStrategy
) -> None:
    node: dict[str, Any] = yaml.safe_load((_RECORDED / f"{recorded}.yaml").read_text())
    wanted = {k: v for k, v in node["labels"].items() if k.startswith("nvidia.com/") and k not in _OF_OTHERS}
    wanted.pop("nvidia.com/mig.strategy", None) if strategy is MigStrategy.NONE else None
    wanted = {k: v for k, v in wanted.items() if not k.endswith(".replicas")}
    made = labels_of(reading, strategy)
    assert {key: made.get(key) for key in wanted} == wanted
    others = {k: v for k, v in node["labels"].items() if not k.startswith("nvidia.com/")}
    found = read_accelerators({**others, **made}, node["allocatable"])
    assert found.accelerator is not None
    assert found.accelerator.name == node["expect"]["accelerator"]


_WHOLE = [
    "cuda.driver.major",
    "cuda.driver.minor",
    "cuda.driver.rev",
    "cuda.runtime.major",
    "cuda.runtime.minor",
    "cuda.driver-version.major",
    "cuda.driver-version.minor",
    "cuda.driver-version.revision",
    "cuda.driver-version.full",
    "cuda.runtime-version.major",
    "cuda.runtime-version.minor",
    "cuda.runtime-version.full",
    "gpu.machine",
    "gpu.count",
    "gpu.product",
    "gpu.memory",
    "gpu.family",
    "gpu.mode",
    "mig.capable",
    "gpu.compute.major",
    "gpu.compute.minor",
]
_SLICES = [
    "product",
    "count",
    "memory",
    "multiprocessors",
    "engines.copy",
    "engines.decoder",
    "engines.encoder",
    "engines.jpeg",
    "engines.ofa",
    "slices.gi",
    "slices.ci",
]


def _vendor(labels: dict[str, str]) -> set[str]:
    return {key.removeprefix("nvidia.com/") for key in labels if key.startswith("nvidia.com/")}


@pytest.mark.parametrize(
    ("gpu", "strategy", "more"),
    [
        pytest.param(_H100, MigStrategy.NONE, [], id="none"),
        pytest.param(
            _cut(_H100, _1G_10GB), MigStrategy.SINGLE, ["mig.strategy", *(f"gpu.{s}" for s in _SLICES)], id="single"
        ),
        pytest.param(
            _cut(_H100, _1G_10GB),
            MigStrategy.MIXED,
            ["mig.strategy", *(f"mig-1g.10gb.{s}" for s in _SLICES)],
            id="mixed",
        ),
    ],
)
def test_all_of_its_labels_are_there_and_no_other(gpu: Gpu, strategy: MigStrategy, more: list[str]) -> None:
    # Source: NVIDIA/k8s-device-plugin tests/expected-output-mig-*.txt, less what labels.py leaves out.
    assert _vendor(labels_of(_reading(gpu), strategy)) == {*_WHOLE, *more}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("NVIDIA H100 80GB HBM3", "NVIDIA-H100-80GB-HBM3"),
        ("Tesla T4", "Tesla-T4"),
        ("NVIDIA  RTX PRO 6000 (Blackwell) Server", "NVIDIA-RTX-PRO-6000-Blackwell-Server"),
        ("GeForce GTX 1660 Ti/Max-Q", "GeForce-GTX-1660-TiMax-Q"),
    ],
)
def test_a_product_is_written_with_dashes(name: str, label: str) -> None:
    assert labels_of(_reading(replace(_H100, name=name)), MigStrategy.NONE)["nvidia.com/gpu.product"] == label


@pytest.mark.parametrize(
    ("capability", "family"),
    [
        ((6, 1), "pascal"),
        ((7, 0), "volta"),
        ((7, 5), "turing"),
        ((8, 0), "ampere"),
        ((8, 6), "ampere"),
        ((8, 9), "ada-lovelace"),
        ((9, 0), "hopper"),
        ((10, 3), "blackwell"),
        ((12, 1), "blackwell"),
        ((99, 0), "undefined"),
    ],
)
def test_the_family_follows_from_the_compute_capability(capability: tuple[int, int], family: str) -> None:
    labels = labels_of(_reading(replace(_H100, compute_capability=capability)), MigStrategy.NONE)
    assert labels["nvidia.com/gpu.family"] == family
    assert labels["nvidia.com/gpu.compute.major"] == str(capability[0])


@pytest.mark.parametrize(
    ("version", "parts"),
    [("580.65.06", ("580", "65", "06")), ("470.57", ("470", "57", ""))],
)
def test_a_driver_without_a_revision_has_an_empty_one(version: str, parts: tuple[str, str, str]) -> None:
    labels = labels_of(_reading(_H100, driver=version), MigStrategy.NONE)
    assert tuple(labels[f"nvidia.com/cuda.driver.{part}"] for part in ("major", "minor", "rev")) == parts


@pytest.mark.parametrize(
    "gpus",
    [
        pytest.param((_cut(_H100, _1G_10GB), _H100), id="one GPU is cut, another is not"),
        pytest.param((_cut(_H100, _1G_10GB), _cut(_H100)), id="one GPU has no slice"),
        pytest.param((_cut(_H100, _1G_10GB, _3G_40GB),), id="two profiles"),
    ],
)
def test_a_single_strategy_that_cannot_be_is_marked_as_gpu_feature_discovery_does(gpus: tuple[Gpu, ...]) -> None:
    labels = labels_of(_reading(*gpus), MigStrategy.SINGLE)
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3-MIG-INVALID"
    assert (labels["nvidia.com/gpu.count"], labels["nvidia.com/gpu.memory"]) == ("0", "0")
    assert read_accelerators(labels, {"nvidia.com/gpu": "0"}).accelerator is None


def test_a_profile_with_media_engines_has_a_dot_in_its_label() -> None:
    labels = labels_of(_reading(_cut(_H100, replace(_1G_10GB, profile="1g.10gb+me"))), MigStrategy.MIXED)
    assert labels["nvidia.com/mig-1g.10gb.me.count"] == "1"
    assert labels["nvidia.com/mig-1g.10gb.me.product"] == "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me"


def test_of_several_products_the_most_frequent_is_labelled_and_the_node_says_that_there_are_more() -> None:
    labels = labels_of(_reading(_L40S, _A100, _L40S), MigStrategy.NONE)
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-L40S"
    assert labels["nvidia.com/gpu.count"] == "2"
    assert labels[own.PRODUCTS_LABEL] == "2"
    again = labels_of(_reading(_A100, _L40S), MigStrategy.NONE)
    assert again == labels_of(_reading(_L40S, _A100), MigStrategy.NONE)


def test_our_own_labels_have_what_gpu_feature_discovery_does_not() -> None:
    labels = labels_of(_reading(_H100, _H100), MigStrategy.NONE)
    assert {key: value for key, value in labels.items() if key.startswith(own.OWN_PREFIX)} == {
        own.BANDWIDTH_LABEL: "3352",
        own.CORES_LABEL: "16896",
        own.CLOCK_LABEL: "1980",
        own.POWER_LIMIT_LABEL: "700",
        own.POWER_DEFAULT_LABEL: "700",
        own.PCIE_GENERATION_LABEL: "5",
        own.PCIE_WIDTH_LABEL: "16",
        own.NVLINK_COUNT_LABEL: "18",
        own.NVLINK_VERSION_LABEL: "4",
        own.NVLINK_SPEED_LABEL: "478",
        own.NVLINK_GROUP_LABEL: "8",
        own.PRODUCTS_LABEL: "1",
    }
    assert set(own.OWN_LABELS) == {key for key in labels if key.startswith(own.OWN_PREFIX)}


def test_where_gpus_differ_the_least_is_written_and_of_what_one_lacks_nothing() -> None:
    capped = replace(_H100, power_limit_w=450.7, nvlinks=17)
    labels = labels_of(_reading(_H100, capped), MigStrategy.NONE)
    assert labels[own.POWER_LIMIT_LABEL] == "450"
    assert labels[own.NVLINK_COUNT_LABEL] == "17"
    silent = replace(_H100, power_limit_w=None)
    assert own.POWER_LIMIT_LABEL not in labels_of(_reading(_H100, silent), MigStrategy.NONE)


def test_a_gpu_that_is_cut_takes_no_link_from_those_that_are_whole() -> None:
    cut = replace(_cut(_H100, _3G_40GB), nvlinks=0, nvlink_group=1)
    assert labels_of(_reading(cut, _H100), MigStrategy.MIXED)[own.NVLINK_GROUP_LABEL] == "8"
    assert labels_of(_reading(cut), MigStrategy.MIXED)[own.NVLINK_GROUP_LABEL] == "1"


def test_links_without_a_speed_have_that_of_their_version() -> None:
    labels = labels_of(_reading(replace(_H100, nvlink_mb_per_s=None)), MigStrategy.NONE)
    assert labels[own.NVLINK_SPEED_LABEL] == "450"  # the datasheet's 900 GB/s are of both directions


def test_a_driver_without_gpus_has_no_labels() -> None:
    assert labels_of(_reading(), MigStrategy.MIXED) == {}


_counts = st.none() | st.integers(0, 10**6)
_slices = st.builds(
    MigDevice, st.sampled_from(["1g.10gb", "1c.3g.40gb", "7g.80gb+me", "2g.20gb"]), *[st.integers(0, 10**5)] * 9
)
_gpus = st.builds(
    Gpu,
    st.text(max_size=90),
    _counts,
    st.tuples(st.integers(0, 20), st.integers(0, 9)),
    st.none() | st.sampled_from(["0x030200", "0x030000", "0x120000"]),
    st.booleans(),
    st.booleans(),
    st.lists(_slices, max_size=4).map(tuple),
    *[_counts] * 4,
    st.none() | st.floats(0, 2000),
    st.none() | st.floats(0, 2000),
    *[_counts] * 6,
)
_readings = st.builds(
    Reading,
    st.from_regex(r"[0-9]{3}\.[0-9]{2}(\.[0-9]{2})?", fullmatch=True),
    st.tuples(st.integers(0, 20), st.integers(0, 9)),
    st.lists(_gpus, max_size=4).map(tuple),
    machine=st.none() | st.text(max_size=90),
)


@given(_readings, st.sampled_from(MigStrategy))
def test_whatever_the_driver_says_labels_are_such_as_a_node_may_have_and_the_policy_allows(
    reading: Reading, strategy: MigStrategy
) -> None:
    for key, value in labels_of(reading, strategy).items():
        assert re.search(LABEL_PATTERN, key), key
        assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", value), (key, value)
        assert len(value) <= 63
        assert len(key.partition("/")[2]) <= 63


@given(_readings, st.sampled_from(MigStrategy), st.randoms())
def test_the_order_in_which_the_driver_counts_does_not_matter(
    reading: Reading, strategy: MigStrategy, random: Any
) -> None:
    alike = tuple(replace(gpu, compute_capability=(9, 0), pci_class=None, mig_enabled=False) for gpu in reading.gpus)
    shuffled = list(alike)
    random.shuffle(shuffled)
    one, other = (replace(reading, gpus=tuple(gpus)) for gpus in (alike, shuffled))
    assert labels_of(one, MigStrategy.NONE) == labels_of(other, MigStrategy.NONE)


@pytest.mark.parametrize(
    "key",
    [
        "nvidia.com/gpu.deploy.driver",
        "nvidia.com/gpu.present",
        "nvidia.com/gfd.timestamp",
        "nvidia.com/gpu.productx",
        "xnvidia.com/gpu.product",
        "metainf.dev/accelerator",
        "metainf.dev/gpu.",
        "node-role.kubernetes.io/control-plane",
        "kubernetes.io/hostname",
    ],
)
def test_the_pattern_leaves_out_what_is_never_written(key: str) -> None:
    assert not re.search(LABEL_PATTERN, key)
