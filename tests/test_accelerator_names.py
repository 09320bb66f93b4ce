import pytest
from hypothesis import given
from hypothesis import strategies as st

from metainf.accelerator_names import Ambiguous, Exact, Unknown, UnknownReason, by_instance_type, find
from metainf.accelerators import catalogue

_MIB = 2**20
_GIB = 2**30

_SPELLINGS = {
    # NVIDIA's driver, as GPU feature discovery labels it
    "Tesla-T4": "T4-PCIe-16GB",
    "NVIDIA-T4": "T4-PCIe-16GB",
    "Tesla-V100-SXM2-16GB": "V100-SXM-16GB",
    "Tesla-V100-SXM2-32GB": "V100-SXM-32GB",
    "Tesla-V100-PCIE-16GB": "V100-PCIe-16GB",
    "Tesla-V100-PCIE-32GB": "V100-PCIe-32GB",
    "NVIDIA-A10": "A10-PCIe-24GB",
    "NVIDIA-A10G": "A10G-PCIe-24GB",
    "NVIDIA-A30": "A30-PCIe-24GB",
    "NVIDIA-A40": "A40-PCIe-48GB",
    "NVIDIA-RTX-A6000": "RTX-A6000-PCIe-48GB",
    "NVIDIA-A100-SXM4-40GB": "A100-SXM-40GB",
    "NVIDIA-A100-SXM4-80GB": "A100-SXM-80GB",
    "A100-SXM4-40GB": "A100-SXM-40GB",
    "NVIDIA-A100-PCIE-40GB": "A100-PCIe-40GB",
    "NVIDIA-A100-80GB-PCIe": "A100-PCIe-80GB",
    "NVIDIA-L4": "L4-PCIe-24GB",
    "NVIDIA-L40": "L40-PCIe-48GB",
    "NVIDIA-L40S": "L40S-PCIe-48GB",
    "NVIDIA-RTX-6000-Ada-Generation": "RTX-6000-Ada-PCIe-48GB",
    "NVIDIA-GeForce-RTX-4090": "RTX-4090-PCIe-24GB",
    "NVIDIA-GeForce-RTX-5090": "RTX-5090-PCIe-32GB",
    "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition": "RTX-PRO-6000-Server-PCIe-96GB",
    "NVIDIA-H100-80GB-HBM3": "H100-SXM-80GB",
    "NVIDIA-H100-80GB-HBM2e": "H100-PCIe-80GB",
    "NVIDIA-H100-PCIe": "H100-PCIe-80GB",
    "NVIDIA-H100-NVL": "H100-NVL-94GB",
    "NVIDIA-H200": "H200-SXM-141GB",
    "NVIDIA-H200-NVL": "H200-NVL-141GB",
    "NVIDIA-H20-3e": "H20-SXM-141GB",
    "NVIDIA-GH200-480GB": "GH200-96GB",
    "NVIDIA-GH200-144G-HBM3e": "GH200-144GB",
    "NVIDIA-B200": "B200-SXM-180GB",
    "NVIDIA-B300-SXM6-AC": "B300-SXM-288GB",
    "NVIDIA-GB200": "GB200-186GB",
    "NVIDIA-GB300": "GB300-279GB",
    # GKE
    "nvidia-tesla-t4": "T4-PCIe-16GB",
    "nvidia-tesla-v100": "V100-SXM-16GB",
    "nvidia-tesla-a100": "A100-SXM-40GB",
    "nvidia-a100-80gb": "A100-SXM-80GB",
    "nvidia-l4": "L4-PCIe-24GB",
    "nvidia-h100-80gb": "H100-SXM-80GB",
    "nvidia-h100-mega-80gb": "H100-SXM-80GB",
    "nvidia-h200-141gb": "H200-SXM-141GB",
    "nvidia-b200": "B200-SXM-180GB",
    "nvidia-gb200": "GB200-186GB",
    "nvidia-rtx-pro-6000": "RTX-PRO-6000-Server-PCIe-96GB",
    # Karpenter and EKS Auto Mode
    "t4": "T4-PCIe-16GB",
    "a10g": "A10G-PCIe-24GB",
    "l4": "L4-PCIe-24GB",
    "l40s": "L40S-PCIe-48GB",
    "b200": "B200-SXM-180GB",
    # CoreWeave
    "H100_NVLINK_80GB": "H100-SXM-80GB",
    "H100_PCIE": "H100-PCIe-80GB",
    "A100_NVLINK_80GB": "A100-SXM-80GB",
    "A100_PCIE_40GB": "A100-PCIe-40GB",
    "A100_PCIE_80GB": "A100-PCIe-80GB",
    "RTX_A6000": "RTX-A6000-PCIe-48GB",
    # AMD
    "AMD_Instinct_MI300X_OAM": "MI300X-OAM-192GB",
    "AMD-Instinct-MI300X": "MI300X-OAM-192GB",
    "AMD_Instinct_MI300X_VF": "MI300X-OAM-192GB",
    "AMD_Instinct_MI325X": "MI325X-OAM-256GB",
    "AMD-Instinct-MI350X": "MI350X-OAM-288GB",
    "AMD_Instinct_MI355X": "MI355X-OAM-288GB",
    "AMD_Instinct_MI210": "MI210-PCIe-64GB",
    "AMD_Instinct_MI250X": "MI250X-OAM-64GB",
    "AMD_Instinct_MI250": "MI250-OAM-64GB",
    # Intel
    "Gaudi2": "Gaudi2-OAM-96GB",
    "Intel-Gaudi-3": "Gaudi3-OAM-128GB",
    "HL-225": "Gaudi2-OAM-96GB",
    "HL-325L": "Gaudi3-OAM-128GB",
    "Intel_Data_Center_GPU_Max_1550": "Max-1550-OAM-128GB",
    "Max_1550": "Max-1550-OAM-128GB",
    # CPUs
    "sapphire-rapids": "Xeon-Sapphire-Rapids",
    "graviton4": "Graviton4",
    "generic-x86": "CPU-x86-64",
    # without any separator
    "H100SXM580GB": "H100-SXM-80GB",
    "A100SXM480GB": "A100-SXM-80GB",
    "A100SXM40GB": "A100-SXM-40GB",
    # slices
    "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb": "A100-SXM-40GB-MIG-1g.5gb",
    "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb": "A100-SXM-80GB-MIG-3g.40gb",
    "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb": "H100-SXM-80GB-MIG-1g.10gb",
    "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me": "H100-SXM-80GB-MIG-1g.10gb",
    "NVIDIA-H200-MIG-1g.18gb": "H200-SXM-141GB-MIG-1g.18gb",
    "NVIDIA-A30-MIG-2g.12gb": "A30-PCIe-24GB-MIG-2g.12gb",
    "NVIDIA-B200-MIG-7g.180gb": "B200-SXM-180GB-MIG-7g.180gb",
    "NVIDIA-A100-PCIE-40GB-MIG-1c.3g.20gb": "A100-PCIe-40GB-MIG-1c.3g.20gb",
}


@pytest.mark.parametrize(("raw", "name"), _SPELLINGS.items())
def test_reads_the_spellings_of_drivers_and_clouds(raw: str, name: str) -> None:
    match = find(raw)
    assert isinstance(match, Exact), match
    assert match.accelerator.name == name
    assert match.raw == raw
    assert not match.shared


@pytest.mark.parametrize("name", [device.name for device in catalogue()])
def test_reads_every_catalogue_name(name: str) -> None:
    match = find(name)
    assert isinstance(match, Exact)
    assert match.accelerator.name == name


def test_an_alias_never_takes_over_the_name_or_the_family_of_another_device() -> None:
    for device in catalogue():
        for spelling in (*device.aliases, *device.family_names):
            match = find(spelling)
            assert not isinstance(match, Unknown), spelling
            names = {match.accelerator.name} if isinstance(match, Exact) else {other.name for other in match.candidates}
            assert device.name in names, spelling


@pytest.mark.parametrize(
    ("raw", "candidates"),
    [
        pytest.param("A100", {"A100-PCIe-40GB", "A100-PCIe-80GB", "A100-SXM-40GB", "A100-SXM-80GB"}, id="A100"),
        pytest.param("A100-80GB", {"A100-PCIe-80GB", "A100-SXM-80GB"}, id="A100 with memory only"),
        pytest.param("H100", {"H100-PCIe-80GB", "H100-SXM-80GB", "H100-NVL-94GB"}, id="H100"),
        pytest.param("h200", {"H200-SXM-141GB", "H200-NVL-141GB"}, id="H200 without the vendor"),
        pytest.param("NVIDIA-H20", {"H20-SXM-96GB", "H20-SXM-141GB"}, id="H20"),
        pytest.param("V100", {f"V100-{f}-{m}GB" for f in ("SXM", "PCIe") for m in (16, 32)}, id="V100"),
        pytest.param("AMD_Instinct_MI250X_/_MI250", {"MI250-OAM-64GB", "MI250X-OAM-64GB"}, id="one device id of two"),
    ],
)
def test_an_ambiguous_name_lists_what_it_can_mean(raw: str, candidates: set[str]) -> None:
    match = find(raw)
    assert isinstance(match, Ambiguous)
    assert {device.name for device in match.candidates} == candidates
    assert match.raw == raw


@pytest.mark.parametrize(
    ("raw", "memory_bytes", "names"),
    [
        pytest.param("a100", 40960 * _MIB, {"A100-PCIe-40GB", "A100-SXM-40GB"}, id="A100 40 GB of either form"),
        pytest.param("NVIDIA-H20", 97871 * _MIB, {"H20-SXM-96GB"}, id="H20"),
        pytest.param("H100", 95830 * _MIB, {"H100-NVL-94GB"}, id="only the NVL has 94 GB"),
        pytest.param("GH200", 96 * _GIB, {"GH200-96GB"}, id="GH200"),
        pytest.param("H100", 81920 * _MIB, {"H100-PCIe-80GB", "H100-SXM-80GB"}, id="memory cannot tell the form"),
        pytest.param(
            "NVIDIA-A100-MIG-1g.10gb",
            9728 * _MIB,
            {f"A100-{form}-{gb}GB-MIG-1g.10gb" for form in ("SXM", "PCIe") for gb in (40, 80)},
            id="a slice that four devices have",
        ),
    ],
)
def test_memory_narrows_an_ambiguous_name(raw: str, memory_bytes: int, names: set[str]) -> None:
    match = find(raw, memory_bytes=memory_bytes)
    assert not isinstance(match, Unknown)
    found = {match.accelerator.name} if isinstance(match, Exact) else {device.name for device in match.candidates}
    assert found == names


def test_a_profile_that_only_one_memory_size_has_narrows_too() -> None:
    match = find("NVIDIA-A100-MIG-1g.5gb")
    assert isinstance(match, Ambiguous)
    assert {device.family for device in match.candidates} == {"A100"}
    assert all("40GB" in device.name for device in match.candidates)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param("", UnknownReason.NO_NAME, id="empty"),
        pytest.param("nvidia", UnknownReason.NO_NAME, id="a vendor"),
        pytest.param("nvidia-gpu", UnknownReason.NO_NAME, id="a vendor and a noun"),
        pytest.param("Tesla-K80", UnknownReason.NOT_IN_CATALOGUE, id="K80"),
        pytest.param("Tesla-P100-PCIE-16GB", UnknownReason.NOT_IN_CATALOGUE, id="P100"),
        pytest.param("NVIDIA-H800", UnknownReason.NOT_IN_CATALOGUE, id="H800 is no H100"),
        pytest.param("NVIDIA-A800-SXM4-80GB", UnknownReason.NOT_IN_CATALOGUE, id="A800 is no A100"),
        pytest.param("NVIDIA-GB10", UnknownReason.NOT_IN_CATALOGUE, id="GB10"),
        pytest.param("NVIDIA-B100", UnknownReason.NOT_IN_CATALOGUE, id="B100"),
        pytest.param("NVIDIA-A100X", UnknownReason.NOT_IN_CATALOGUE, id="A100X"),
        pytest.param("Tesla-V100S-PCIE-32GB", UnknownReason.NOT_IN_CATALOGUE, id="V100S is no V100"),
        pytest.param("NVIDIA-T4G", UnknownReason.NOT_IN_CATALOGUE, id="T4G is no T4"),
        pytest.param("Quadro-RTX-6000", UnknownReason.NOT_IN_CATALOGUE, id="the Turing RTX 6000"),
        pytest.param("NVIDIA-GeForce-RTX-4090-D", UnknownReason.NOT_IN_CATALOGUE, id="4090 D"),
        pytest.param("NVIDIA-GeForce-RTX-4090-Laptop-GPU", UnknownReason.NOT_IN_CATALOGUE, id="4090 of a laptop"),
        pytest.param(
            "NVIDIA-RTX-PRO-6000-Blackwell-Max-Q-Workstation-Edition", UnknownReason.NOT_IN_CATALOGUE, id="Max-Q"
        ),
        pytest.param("NVIDIA-A10-24Q", UnknownReason.NOT_IN_CATALOGUE, id="a vGPU profile"),
        pytest.param("AMD_Instinct_MI300A", UnknownReason.NOT_IN_CATALOGUE, id="MI300A"),
        pytest.param("AMD_Instinct_MI308X", UnknownReason.NOT_IN_CATALOGUE, id="MI308X"),
        pytest.param("gaudi", UnknownReason.NOT_IN_CATALOGUE, id="the first Gaudi is not the second"),
        pytest.param("inferentia2", UnknownReason.NOT_IN_CATALOGUE, id="Inferentia"),
        pytest.param("H100-or-A100", UnknownReason.NOT_IN_CATALOGUE, id="two families"),
        pytest.param("xH100", UnknownReason.NOT_IN_CATALOGUE, id="a word before"),
        pytest.param("H100-80GB-special", UnknownReason.NOT_IN_CATALOGUE, id="a word after"),
        pytest.param("NVIDIA-H100-40GB", UnknownReason.CONTRADICTS_ITSELF, id="no H100 has 40 GB"),
        pytest.param("NVIDIA-L4-SXM", UnknownReason.CONTRADICTS_ITSELF, id="no L4 is SXM"),
        pytest.param("NVIDIA-A100-SXM4-80GB-MIG-1g.5gb", UnknownReason.NO_SUCH_PARTITION, id="a slice too small"),
        pytest.param("NVIDIA-L40S-MIG-1g.6gb", UnknownReason.NO_SUCH_PARTITION, id="a GPU without MIG"),
    ],
)
def test_an_unknown_name_stays_unknown_and_keeps_its_spelling(raw: str, reason: UnknownReason) -> None:
    match = find(raw)
    assert isinstance(match, Unknown)
    assert match.reason is reason
    assert match.raw == raw


@pytest.mark.parametrize(
    ("raw", "memory_bytes"),
    [
        pytest.param("NVIDIA-H100-80GB-HBM3", 40960 * _MIB, id="half of it"),
        pytest.param("Tesla-T4", 80 * _GIB, id="an A100's"),
        pytest.param("H100", 40 * _GIB, id="an A100's beside an H100's name"),
        pytest.param("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 20 * _GIB, id="of another slice"),
        pytest.param("l4", 1, id="one byte"),
    ],
)
def test_a_memory_that_cannot_be_the_devices_makes_the_name_unknown(raw: str, memory_bytes: int) -> None:
    match = find(raw, memory_bytes=memory_bytes)
    assert isinstance(match, Unknown)
    assert match.reason is UnknownReason.CONTRADICTS_MEMORY
    assert match.named


def test_a_slice_takes_the_memory_that_is_reported_for_it() -> None:
    match = find("A100-SXM4-40GB-MIG-1g.5gb", memory_bytes=4864 * _MIB)
    assert isinstance(match, Exact)
    assert match.accelerator.memory_bytes == 4864 * _MIB
    assert match.accelerator.partition is not None
    assert match.accelerator.partition.memory_bytes == 4864 * _MIB


def test_a_compute_instance_has_its_part_of_the_slice() -> None:
    whole, part = find("A100-PCIE-40GB-MIG-3g.20gb"), find("A100-PCIE-40GB-MIG-1c.3g.20gb")
    assert isinstance(whole, Exact)
    assert isinstance(part, Exact)
    assert whole.accelerator.partition is not None
    assert part.accelerator.partition is not None
    assert part.accelerator.partition.compute_ratio == pytest.approx(whole.accelerator.partition.compute_ratio / 3)
    assert part.accelerator.memory_bandwidth_bytes_per_s == whole.accelerator.memory_bandwidth_bytes_per_s


@pytest.mark.parametrize("raw", ["NVIDIA-L40S-SHARED", "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb-SHARED", "A100-SHARED"])
def test_a_time_sliced_device_is_marked(raw: str) -> None:
    match = find(raw)
    assert match.shared
    assert not isinstance(match, Unknown)


@given(
    raw=st.sampled_from(sorted(_SPELLINGS)),
    separator=st.sampled_from(["-", "_", " ", "/", ".", "", "--", " - "]),
    upper=st.booleans(),
)
def test_case_and_separators_do_not_matter(raw: str, separator: str, upper: bool) -> None:
    spelled = separator.join(raw.replace("_", "-").split("-"))
    match = find(spelled.upper() if upper else spelled.lower())
    assert isinstance(match, Exact)
    assert match.accelerator.name == _SPELLINGS[raw]


@given(
    raw=st.text("abghlmpst0123468-", max_size=12) | st.sampled_from(sorted(_SPELLINGS)),
    memory_bytes=st.none() | st.integers(-1, 10**12),
)
def test_any_name_gives_an_answer_that_keeps_it(raw: str, memory_bytes: int | None) -> None:
    match = find(raw, memory_bytes=memory_bytes)
    assert match.raw == raw
    if isinstance(match, Ambiguous):
        assert len(match.candidates) > 1


@given(raw=st.sampled_from(sorted(_SPELLINGS)), memory_gib=st.integers(1, 400))
def test_memory_never_turns_a_name_into_another_device(raw: str, memory_gib: int) -> None:
    match = find(raw, memory_bytes=memory_gib * _GIB)
    assert isinstance(match, Exact | Unknown)
    if isinstance(match, Exact):
        assert match.accelerator.name == _SPELLINGS[raw]


@pytest.mark.parametrize(
    ("instance_type", "name"),
    [
        pytest.param("p5.48xlarge", "H100-SXM-80GB", id="p5"),
        pytest.param("p5en.48xlarge", "H200-SXM-141GB", id="p5en is no p5"),
        pytest.param("p4de.24xlarge", "A100-SXM-80GB", id="p4de is no p4d"),
        pytest.param("g6e.xlarge", "L40S-PCIe-48GB", id="g6e is no g6"),
        pytest.param("Standard_NC80adis_H100_v5", "H100-NVL-94GB", id="the NC series is NVL"),
        pytest.param("Standard_ND96isr_H100_v5", "H100-SXM-80GB", id="the ND series is SXM"),
        pytest.param("a3-ultragpu-8g", "H200-SXM-141GB", id="a3-ultra is no a3-high"),
        pytest.param("m7g.large", "Graviton3", id="a CPU"),
        pytest.param("m7i-flex.large", "Xeon-Sapphire-Rapids", id="a flex CPU"),
        pytest.param("g6f.large", None, id="a fraction of a GPU"),
        pytest.param("Standard_NC36ds_xl_RTXPRO6000BSE_v6", None, id="a quarter of a GPU"),
        pytest.param("Standard_NV6ads_A10_v5", None, id="a sixth of a GPU"),
        pytest.param("p9.48xlarge", None, id="a type that is not out yet"),
        pytest.param("xp5.48xlarge", None, id="a type that only ends alike"),
        pytest.param("", None, id="empty"),
    ],
)
def test_reads_the_device_of_an_instance_type(instance_type: str, name: str | None) -> None:
    found = by_instance_type(instance_type)
    assert (found[0].name if found else None) == name
