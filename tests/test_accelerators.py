import copy
import json
import pickle
import time
from importlib import resources

import pytest

from metainf import accelerators
from metainf.accelerators import Accelerator, FormFactor, PeakFlops, Vendor, catalogue, get, instance_types
from metainf.dtypes import DType

_MIB = 2**20

_every_device = pytest.mark.parametrize("device", [pytest.param(d, id=d.name) for d in catalogue()])
_GPUS = [d for d in catalogue() if d.cpu is None]
_CPUS = [d for d in catalogue() if d.cpu is not None]


def _get(name: str) -> Accelerator:
    device = get(name)
    assert device is not None
    return device


def test_holds_at_least_forty_devices_of_every_vendor() -> None:
    assert len(_GPUS) >= 40
    assert {device.vendor for device in catalogue()} == set(Vendor)


def test_names_are_unique() -> None:
    names = [device.name.lower() for device in catalogue()]
    assert len(names) == len(set(names))


@_every_device
def test_every_device_says_where_its_figures_come_from(device: Accelerator) -> None:
    assert device.sources
    assert all(source.title and source.url.startswith("https://") for source in device.sources)
    assert device.captured.year >= 2026


@_every_device
def test_a_narrower_floating_format_is_never_slower(device: Accelerator) -> None:
    floats = (DType.FP32, DType.BF16, DType.FP8, DType.FP4)
    rates = [flops for dtype in floats if (flops := device.flops_for(dtype)) is not None]
    assert rates == sorted(rates)


@_every_device
def test_figures_lie_in_the_range_of_real_devices(device: Accelerator) -> None:
    assert 8e9 < device.memory_bytes < 1.1e12
    assert 50e9 < device.memory_bandwidth_bytes_per_s <= 8e12
    assert 20 <= device.tdp_w <= 1400
    assert 0.1e12 < device.flops[DType.FP32] < 200e12
    assert max(device.flops.values()) <= 15e15


@pytest.mark.parametrize("device", [pytest.param(d, id=d.name) for d in _GPUS])
def test_a_gpu_reads_its_memory_within_a_second_and_not_within_a_millisecond(device: Accelerator) -> None:
    sweep_s = device.memory_bytes / device.memory_bandwidth_bytes_per_s
    assert 0.01 < sweep_s < 0.1


@pytest.mark.parametrize("device", [pytest.param(d, id=d.name) for d in _GPUS])
def test_a_gpu_is_faster_in_half_precision_than_in_single(device: Accelerator) -> None:
    half = device.flops_for(DType.BF16) or device.flops_for(DType.FP16)
    assert half is not None
    assert half / device.memory_bandwidth_bytes_per_s > 30


@pytest.mark.parametrize("device", [pytest.param(d, id=d.name) for d in _GPUS])
def test_the_drivers_memory_agrees_with_the_number_in_the_name(device: Accelerator) -> None:
    assert device.memory_matches(device.memory_bytes)
    assert device.marketed_memory_gb
    assert str(device.marketed_memory_gb[0]) in device.name


@_every_device
def test_links_are_faster_than_the_host_bus_and_reach_two_or_more(device: Accelerator) -> None:
    if device.link is not None:
        assert device.pcie_bytes_per_s is not None
        assert device.link.bytes_per_s_per_direction > device.pcie_bytes_per_s
        assert 2 <= device.link.max_group <= 72


@pytest.mark.parametrize(
    ("name", "count", "joined", "gb_per_s"),
    [
        pytest.param("H100-SXM-80GB", 8, True, 450.0, id="all of a switch"),
        pytest.param("H100-SXM-80GB", 16, False, 64.0, id="more than it joins"),
        pytest.param("L40S-PCIe-48GB", 2, False, 32.0, id="no link but PCIe"),
        pytest.param("Xeon-Granite-Rapids", 1, False, 25.0, id="the host itself"),
    ],
)
def test_so_many_devices_reach_each_other_over_their_link_or_over_pcie(
    name: str, count: int, joined: bool, gb_per_s: float
) -> None:
    device = get(name)
    assert device is not None
    assert device.joins(count) is joined
    assert device.bytes_per_s_among(count) == pytest.approx(gb_per_s * 1e9, rel=0.02)


def test_only_nvidia_devices_have_a_compute_capability() -> None:
    for device in catalogue():
        assert (device.compute_capability is not None) == (device.vendor is Vendor.NVIDIA)


@pytest.mark.parametrize(
    ("name", "dtype", "tflops"),
    [
        pytest.param("H100-SXM-80GB", DType.BF16, 989.4, id="H100 dense, not the sparse 1979"),
        pytest.param("H100-SXM-80GB", DType.FP8, 1978.9, id="H100 fp8"),
        pytest.param("H100-PCIe-80GB", DType.BF16, 756.4, id="H100 PCIe, not the sparse 1513"),
        pytest.param("H200-NVL-141GB", DType.BF16, 835.5, id="H200 NVL, not the sparse 1671"),
        pytest.param("A100-SXM-80GB", DType.BF16, 312, id="A100"),
        pytest.param("A100-SXM-80GB", DType.FP8, None, id="A100 has no fp8"),
        pytest.param("T4-PCIe-16GB", DType.BF16, None, id="T4 has no bf16"),
        pytest.param("V100-SXM-32GB", DType.BF16, None, id="V100 has no bf16"),
        pytest.param("L4-PCIe-24GB", DType.BF16, 121, id="L4, not the sparse 242"),
        pytest.param("L40S-PCIe-48GB", DType.FP8, 733, id="L40S, not the sparse 1466"),
        pytest.param("RTX-4090-PCIe-24GB", DType.BF16, 165.2, id="4090 with 32 bit accumulation"),
        pytest.param("H100-SXM-80GB", DType.FP4, None, id="Hopper has no fp4"),
        pytest.param("B200-SXM-180GB", DType.FP4, 9000, id="B200 dense, not the sparse 18000"),
        pytest.param("B300-SXM-288GB", DType.INT8, 125, id="B300 cut int8"),
        pytest.param("GB300-279GB", DType.FP4, 15000, id="GB300"),
        pytest.param("MI250-OAM-64GB", DType.BF16, 181, id="MI250 by die"),
        pytest.param("MI250X-OAM-64GB", DType.FP8, None, id="MI250X has no fp8"),
        pytest.param("MI300X-OAM-192GB", DType.BF16, 1307.4, id="MI300X"),
        pytest.param("MI325X-OAM-256GB", DType.FP4, None, id="MI325X has no fp4"),
        pytest.param("MI355X-OAM-288GB", DType.FP4, 10066.3, id="MI355X"),
        pytest.param("Gaudi2-OAM-96GB", DType.FP8, 865, id="Gaudi2"),
        pytest.param("Xeon-Ice-Lake", DType.BF16, None, id="Ice Lake has no bf16"),
    ],
)
def test_rates_are_the_dense_ones_of_the_datasheet(name: str, dtype: DType, tflops: float | None) -> None:
    device = _get(name)
    assert device.flops_for(dtype) == (None if tflops is None else pytest.approx(tflops * 1e12))
    assert device.supports(dtype) is (tflops is not None)


def test_a_die_of_a_two_die_card_is_a_device_of_its_own() -> None:
    device = _get("MI250X-OAM-64GB")
    assert device.devices_per_card == 2
    assert device.memory_bytes == 64 * 2**30


def test_form_factors_of_one_family_differ() -> None:
    sxm, pcie = _get("H100-SXM-80GB"), _get("H100-PCIe-80GB")
    assert (sxm.form_factor, pcie.form_factor) == (FormFactor.SXM, FormFactor.PCIE)
    assert sxm.memory_bandwidth_bytes_per_s > 1.5 * pcie.memory_bandwidth_bytes_per_s
    assert sxm.link is not None
    assert pcie.link is not None
    assert (sxm.link.max_group, pcie.link.max_group) == (8, 2)


@pytest.mark.parametrize(
    ("name", "slices", "memory_gb", "compute_ratio", "memory_ratio"),
    [
        pytest.param("A100-SXM-40GB", 1, 5, 1 / 7, 1 / 8, id="A100 40 GB 1g.5gb"),
        pytest.param("A100-SXM-40GB", 1, 10, 1 / 7, 2 / 8, id="A100 40 GB 1g.10gb"),
        pytest.param("A100-SXM-40GB", 3, 20, 3 / 7, 4 / 8, id="A100 40 GB 3g.20gb"),
        pytest.param("A100-SXM-80GB", 7, 80, 1, 1, id="A100 80 GB 7g.80gb"),
        pytest.param("H100-SXM-80GB", 1, 10, 1 / 7, 1 / 8, id="H100 1g.10gb"),
        pytest.param("H100-NVL-94GB", 1, 12, 1 / 7, 1 / 8, id="H100 NVL 1g.12gb"),
        pytest.param("H200-SXM-141GB", 2, 35, 2 / 7, 2 / 8, id="H200 2g.35gb"),
        pytest.param("B200-SXM-180GB", 1, 23, 1 / 7, 1 / 8, id="B200 1g.23gb"),
        pytest.param("B300-SXM-288GB", 1, 34, 1 / 7, 1 / 8, id="B300 1g.34gb"),
        pytest.param("A30-PCIe-24GB", 2, 12, 2 / 4, 2 / 4, id="A30 2g.12gb"),
        pytest.param("RTX-PRO-6000-Server-PCIe-96GB", 1, 24, 1 / 4, 1 / 4, id="RTX PRO 6000 1g.24gb"),
    ],
)
def test_a_mig_slice_has_its_part_of_compute_and_of_bandwidth(
    name: str, slices: int, memory_gb: int, compute_ratio: float, memory_ratio: float
) -> None:
    whole = _get(name)
    partition = whole.mig_partition(f"{slices}g.{memory_gb}gb", slices, memory_gb)
    assert partition is not None
    part = whole.partitioned(partition)
    assert part.flops[DType.BF16] == pytest.approx(whole.flops[DType.BF16] * compute_ratio)
    assert part.memory_bandwidth_bytes_per_s == pytest.approx(whole.memory_bandwidth_bytes_per_s * memory_ratio)
    assert part.memory_bytes == memory_gb * 10**9
    assert part.link is None
    assert part.name == f"{name}-MIG-{slices}g.{memory_gb}gb"
    assert part.mig_partition("1g.5gb", 1, 5) is None


@pytest.mark.parametrize(
    ("name", "slices", "memory_gb"),
    [
        pytest.param("A100-SXM-80GB", 1, 5, id="half a slice"),
        pytest.param("H100-SXM-80GB", 8, 80, id="more slices than there are"),
        pytest.param("H100-SXM-80GB", 1, 160, id="more memory than there is"),
        pytest.param("H100-SXM-80GB", 3, 10, id="more compute than memory slices"),
        pytest.param("H100-SXM-80GB", 0, 10, id="no slice"),
        pytest.param("L40S-PCIe-48GB", 1, 6, id="a GPU without MIG"),
        pytest.param("MI300X-OAM-192GB", 1, 24, id="another vendor"),
        pytest.param("Xeon-Sapphire-Rapids", 1, 10, id="a CPU"),
    ],
)
def test_a_slice_that_cannot_be_cut_is_none(name: str, slices: int, memory_gb: int) -> None:
    assert _get(name).mig_partition("?", slices, memory_gb) is None


def test_a_cpu_share_scales_with_physical_cores_and_takes_the_nodes_memory() -> None:
    socket = _get("Xeon-Sapphire-Rapids")
    assert socket.cpu is not None
    share = socket.cpu_share(28, 64 * 2**30)
    assert share.cpu is not None
    assert (share.cpu.physical_cores, share.cpu.cores) == (14, 28)
    ratio = 14 / 56
    assert share.flops[DType.BF16] == pytest.approx(socket.flops[DType.BF16] * ratio)
    assert share.memory_bandwidth_bytes_per_s == pytest.approx(socket.memory_bandwidth_bytes_per_s * ratio)
    assert share.memory_bytes == 64 * 2**30


def test_a_whole_socket_taken_as_a_share_is_the_socket() -> None:
    for socket in _CPUS:
        assert socket.cpu is not None
        share = socket.cpu_share(socket.cpu.cores, socket.memory_bytes)
        assert share.flops == socket.flops
        assert share.memory_bandwidth_bytes_per_s == socket.memory_bandwidth_bytes_per_s


def test_two_sockets_have_twice_the_bandwidth_and_a_thread_may_be_a_core() -> None:
    socket = _get("EPYC-Genoa")
    assert socket.cpu_share(384, 2**40).memory_bandwidth_bytes_per_s == 2 * socket.memory_bandwidth_bytes_per_s
    assert socket.cpu_share(96, 2**40, threads_per_core=1).flops == socket.flops


@pytest.mark.parametrize(
    ("name", "cpus", "memory_bytes"),
    [
        pytest.param("H100-SXM-80GB", 4, 2**30, id="a GPU has no cores to share"),
        pytest.param("EPYC-Genoa", 0, 2**30, id="no cores"),
        pytest.param("EPYC-Genoa", -1, 2**30, id="negative cores"),
        pytest.param("EPYC-Genoa", 4, 0, id="no memory"),
    ],
)
def test_refuses_a_share_that_cannot_be(name: str, cpus: float, memory_bytes: int) -> None:
    with pytest.raises(ValueError, match="taking"):
        _get(name).cpu_share(cpus, memory_bytes)


def test_the_generic_cpus_are_a_floor_under_the_named_ones() -> None:
    for generic, vendor_names in (("CPU-x86-64", ("Xeon", "EPYC")), ("CPU-arm64", ("Graviton",))):
        floor = _get(generic)
        assert floor.cpu is not None
        for named in _CPUS:
            assert named.cpu is not None
            if named.name.startswith(vendor_names):
                bandwidth = named.memory_bandwidth_bytes_per_s / named.cpu.physical_cores
                assert floor.memory_bandwidth_bytes_per_s / floor.cpu.physical_cores <= bandwidth
                assert (
                    floor.flops[DType.FP32] / floor.cpu.physical_cores
                    <= named.flops[DType.FP32] / named.cpu.physical_cores
                )


@pytest.mark.parametrize(
    ("name", "memory_mib", "fits"),
    [
        pytest.param("H100-SXM-80GB", 81559, True, id="as the driver says"),
        pytest.param("H100-SXM-80GB", 81920, True, id="as EC2 says"),
        pytest.param("H100-SXM-80GB", 76294, True, id="80 x 10^9"),
        pytest.param("H100-SXM-80GB", 95830, False, id="an H100 NVL"),
        pytest.param("H100-SXM-80GB", 40960, False, id="half"),
        pytest.param("T4-PCIe-16GB", 15109, True, id="an old driver"),
        pytest.param("L4-PCIe-24GB", 22888, True, id="24 x 10^9, as EC2 says"),
        pytest.param("A100-SXM-40GB", 39538, True, id="the example of GFD"),
        pytest.param("B200-SXM-180GB", 183359, True, id="B200"),
        pytest.param("H20-SXM-96GB", 143771, False, id="the larger H20"),
        pytest.param("MI300X-OAM-192GB", 192 * 1024, True, id="192G of AMD"),
    ],
)
def test_tells_memory_labels_of_one_device_from_those_of_another(name: str, memory_mib: int, fits: bool) -> None:
    assert _get(name).memory_matches(memory_mib * _MIB) is fits


def test_devices_can_be_compared_hashed_copied_and_sent_to_another_process() -> None:
    for device in catalogue():
        again = pickle.loads(pickle.dumps(device))
        assert again == device == copy.deepcopy(device)
        assert hash(again) == hash(device)
    assert len(set(catalogue())) == len(catalogue())


def test_rates_cannot_be_changed() -> None:
    flops = PeakFlops({DType.FP16: 2.0, DType.FP8: 4.0})
    assert not hasattr(flops, "__setitem__")
    assert dict(flops) == {DType.FP16: 2.0, DType.FP8: 4.0}
    assert flops.scaled(0.5)[DType.FP8] == 2.0
    assert PeakFlops({DType.FP8: 4.0, DType.FP16: 2.0}) == flops
    with pytest.raises(KeyError):
        flops[DType.FP4]


def test_an_unknown_name_is_none() -> None:
    assert get("H100") is None


def test_every_instance_family_leads_to_a_device_and_says_its_source() -> None:
    for row in instance_types():
        assert get(row.accelerator) is not None, row.pattern
        assert row.source.url.startswith("https://")
        assert row.pattern == row.pattern.lower()


def test_every_source_of_the_file_is_used() -> None:
    document = json.loads(resources.files("metainf").joinpath("data", "accelerators.json").read_text())
    used = {key for row in document["accelerators"] for key in row["sources"]}
    used |= {row["source"] for row in document["instance_types"]}
    assert used == set(document["sources"])


def test_loads_in_under_twenty_milliseconds() -> None:
    def load_s() -> float:
        accelerators._load.cache_clear()
        start = time.process_time()
        catalogue()
        return time.process_time() - start

    assert min(load_s() for _ in range(5)) < 0.020


@pytest.mark.parametrize("device", _CPUS, ids=lambda d: d.name)
def test_a_cpu_has_the_instructions_for_what_it_multiplies(device: Accelerator) -> None:
    cpu = device.cpu
    assert cpu is not None
    sets = cpu.instruction_sets
    assert sets & {"avx2", "asimd"}
    assert device.supports(DType.BF16) == bool(sets & {"avx512_bf16", "amx_bf16", "bf16"})
    assert device.supports(DType.FP16) <= ("amx_fp16" in sets)
    assert device.supports(DType.INT8) == bool(sets & {"avx512_vnni", "i8mm"})
    assert device.cpu_share(2.0, 2**33).cpu.instruction_sets == sets  # type: ignore[union-attr]
