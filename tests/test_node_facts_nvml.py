"""What a look at the driver brings back, from a libnvidia-ml that is compiled here and loaded as NVIDIA's own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fake_nvml import A100, H100, L4, MIG_1G, MIG_3G, NO_COMPILER, T4, FakeDriver, gpu_lines
from metainf_operator.node_facts.gpus import Fault, Gpu, NoDriver, Reading, from_text, to_text
from metainf_operator.node_facts.probe import Probe

needs_compiler = pytest.mark.skipif(bool(NO_COMPILER), reason=NO_COMPILER)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    return FakeDriver(tmp_path_factory.mktemp("driver")).install()


@pytest.fixture
def driver(built: FakeDriver) -> FakeDriver:
    return built.says("driver 580.65.06")


def _sysfs(root: Path, **classes: str) -> Path:
    for address, text in classes.items():
        folder = root / "bus/pci/devices" / f"0000:{address}:00.0"
        folder.mkdir(parents=True)
        (folder / "class").write_text(f"{text}\n")
    machine = root / "class/dmi/id"
    machine.mkdir(parents=True)
    (machine / "product_name").write_text("PowerEdge XE9680\n")
    return root


def _look(driver: FakeDriver, sys_root: Path = Path("/nowhere"), timeout_s: float = 30.0) -> object:
    return Probe(driver.root, sys_root, timeout_s)()


def _gpus(driver: FakeDriver) -> tuple[Gpu, ...]:
    found = _look(driver)
    assert isinstance(found, Reading), found
    return found.gpus


@needs_compiler
def test_reads_all_that_is_said_of_a_gpu(driver: FakeDriver, tmp_path: Path) -> None:
    driver.says("driver 580.65.06", "cuda 13010", gpu_lines(0, H100))
    found = _look(driver, _sysfs(tmp_path, **{"01": "0x030200"}))
    assert found == Reading(
        driver_version="580.65.06",
        cuda_version=(13, 1),
        gpus=(
            Gpu(
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
                nvlink_group=1,
            ),
        ),
        machine="PowerEdge XE9680",
    )


@pytest.mark.parametrize(
    ("bits", "clock_mhz", "gb_per_s"),
    [
        pytest.param(5120, 2619, 3352, id="H100 SXM: the datasheet's 3.35 TB/s"),
        pytest.param(5120, 1215, 1555, id="A100 40 GB: 1,555 GB/s"),
        pytest.param(192, 6251, 300, id="L4: 300 GB/s"),
        pytest.param(256, 5001, 320, id="T4: 320 GB/s"),
    ],
)
def test_bandwidth_is_what_the_datasheet_says(bits: int, clock_mhz: int, gb_per_s: int) -> None:
    gpu = Gpu("x", 1, (9, 0), None, False, False, memory_bus_bits=bits, memory_clock_mhz=clock_mhz)
    assert gpu.bandwidth_bytes_per_s is not None
    assert int(gpu.bandwidth_bytes_per_s / 1e9) == gb_per_s


@needs_compiler
def test_a_fact_that_the_driver_does_not_have_is_none_and_the_others_stand(driver: FakeDriver) -> None:
    driver.says(gpu_lines(0, {"name": "NVIDIA GB10", "compute": "12.1"}))
    assert _gpus(driver) == (Gpu("NVIDIA GB10", None, (12, 1), None, False, False, nvlinks=0, nvlink_group=1),)


@needs_compiler
def test_reads_gpus_of_different_products(driver: FakeDriver) -> None:
    driver.says(gpu_lines(0, L4), gpu_lines(1, T4), gpu_lines(2, T4))
    assert [gpu.name for gpu in _gpus(driver)] == ["NVIDIA L4", "Tesla T4", "Tesla T4"]


@needs_compiler
def test_reads_the_slices_of_gpus_that_are_cut(driver: FakeDriver) -> None:
    driver.says(gpu_lines(0, H100, [MIG_3G, MIG_1G, MIG_1G]), gpu_lines(1, H100))
    cut, whole = _gpus(driver)
    assert cut.mig_enabled
    assert not whole.mig_enabled
    assert [device.profile for device in cut.mig_devices] == ["3g.40gb", "1g.10gb", "1g.10gb"]
    first = cut.mig_devices[0]
    assert (first.memory_mib, first.multiprocessors) == (40192, 60)
    assert (first.instance_slices, first.compute_slices) == (3, 3)
    assert (first.copy_engines, first.decoders, first.jpeg_engines, first.optical_flow_engines) == (3, 3, 3, 0)


@needs_compiler
@pytest.mark.parametrize(
    ("attributes", "profile"),
    [
        pytest.param(MIG_1G[1], "1g.10gb", id="an eighth"),
        pytest.param(MIG_3G[1], "3g.40gb", id="a half"),
        pytest.param("40192 16 3 1 3 3 0 3 0", "1c.3g.40gb", id="one compute slice of three"),
    ],
)
def test_names_a_profile_that_an_older_driver_does_not_name(driver: FakeDriver, attributes: str, profile: str) -> None:
    slices = ["gpu.0.mig.2.name NVIDIA H100 80GB HBM3", f"gpu.0.mig.2.attributes {attributes}"]
    driver.says(gpu_lines(0, H100, mig_mode=1), slices)
    assert [device.profile for device in _gpus(driver)[0].mig_devices] == [profile]


@needs_compiler
@pytest.mark.parametrize(
    ("lines", "links", "group"),
    [
        pytest.param([gpu_lines(i, A100) for i in range(4)], 12, 4, id="a switch: all of the node"),
        pytest.param(
            [[*gpu_lines(0, A100, nvlinks=2, nvlink_remote_type=0), *(f"gpu.0.nvlink.{i}.remote 2" for i in (0, 1))]],
            2,
            2,
            id="a bridge: the one at its other end",
        ),
        pytest.param([gpu_lines(0, L4)], 0, 1, id="no NVLink"),
        pytest.param(
            [[*gpu_lines(0, A100, nvlinks=2), *(f"gpu.0.nvlink.{i}.down 1" for i in (0, 1))]], 0, 1, id="down"
        ),
        pytest.param([gpu_lines(0, A100, nvlink_remote_type=255)], 12, None, id="at the other end is who knows what"),
        pytest.param(
            [[*gpu_lines(0, A100), "error.nvmlDeviceGetNvLinkState 4"]], None, None, id="the driver may not say"
        ),
    ],
)
def test_tells_how_many_gpus_nvlink_joins(
    driver: FakeDriver, lines: list[list[str]], links: int | None, group: int | None
) -> None:
    gpu = _gpus(driver.says(*lines))[0]
    assert (gpu.nvlinks, gpu.nvlink_group) == (links, group)


@needs_compiler
def test_a_lost_gpu_is_named_and_the_others_are_read(driver: FakeDriver) -> None:
    driver.says(*(gpu_lines(i, L4) for i in range(3)), "gpu.1.error.nvmlDeviceGetMemoryInfo 15")
    found = _look(driver)
    assert isinstance(found, Reading)
    assert len(found.gpus) == 2
    assert found.lost == ("GPU 1: GPU is lost (NVML error 15)",)


@needs_compiler
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(["error.nvmlInitWithFlags 9"], NoDriver("Driver Not Loaded (NVML error 9)"), id="not loaded"),
        pytest.param(
            ["error.nvmlInitWithFlags 18"],
            Fault("starting NVML: RM has detected an NVML/RM version mismatch. (NVML error 18)"),
            id="the driver was replaced under the library",
        ),
        pytest.param(
            ["error.nvmlSystemGetDriverVersion 999"], Fault("asking NVML: Unknown Error (NVML error 999)"), id="unknown"
        ),
        pytest.param(["abort 1"], Fault("asking the driver ended with signal 6"), id="the library crashes"),
        pytest.param(["cuda 13000"], Reading("580.65.06", (13, 0), ()), id="a driver without a GPU"),
    ],
)
def test_tells_no_driver_from_one_that_fails(driver: FakeDriver, lines: list[str], expected: object) -> None:
    assert _look(driver.says(*lines)) == expected


def test_no_library_is_no_driver(tmp_path: Path) -> None:
    assert Probe(tmp_path)() == NoDriver(f"no libnvidia-ml.so.1 under {tmp_path}")


@pytest.mark.skipif(any(Path("/dev").glob("nvidia*")), reason="this machine has a driver of its own")
def test_without_a_root_the_loader_looks_and_finds_none() -> None:
    assert Probe()() == NoDriver("NVML Shared Library Not Found (NVML error 12)")


@needs_compiler
def test_without_a_root_the_loader_finds_what_a_container_runtime_put_into_place(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.says(gpu_lines(0, L4))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver.folder))
    found = Probe()()
    assert isinstance(found, Reading)
    assert found.gpus[0].name == "NVIDIA L4"


@needs_compiler
def test_a_driver_that_hangs_is_given_up(driver: FakeDriver) -> None:
    began_s = time.monotonic()
    assert _look(driver.says("hang 1"), timeout_s=1.5) == Fault("the driver did not answer within 1.5 s")
    assert time.monotonic() - began_s < 10


@needs_compiler
def test_a_replaced_library_is_seen_at_the_next_look(driver: FakeDriver) -> None:
    assert isinstance(_look(driver.says("error.nvmlInitWithFlags 18")), Fault)
    assert isinstance(_look(driver.says(gpu_lines(0, L4))), Reading)


@needs_compiler
def test_a_signal_during_a_look_leaves_nothing_running(driver: FakeDriver) -> None:
    driver.says("hang 1")
    program = (
        "import signal, sys; from pathlib import Path; from metainf_operator.node_facts.probe import Probe\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        f"print('up', flush=True); Probe(Path({str(driver.root)!r}))()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        time.sleep(0.5)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        run.send_signal(signal.SIGTERM)
        assert run.wait(5) == 7
    for child in map(int, children):
        with pytest.raises(ProcessLookupError):
            for _ in range(100):
                os.kill(child, 0)
                time.sleep(0.05)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"kind": "Reading"}', '{"kind": "Else"}', "Traceback"])
def test_what_is_no_outcome_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="as an outcome"):
        from_text(text)


def test_outcomes_cross_the_pipe_unchanged() -> None:
    for outcome in (NoDriver("x"), Fault("y"), Reading("1.2.3", (13, 0), (), ("GPU 1: lost",), "box")):
        assert from_text(to_text(outcome)) == outcome
