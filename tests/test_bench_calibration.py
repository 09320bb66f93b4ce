import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from metainf import accelerators
from metainf.accelerators import Accelerator, Source, get
from metainf.bench.calibration import (
    Product,
    Samples,
    calibrate,
    calibrated_from,
    read_calibration,
    write_calibration,
)
from metainf.bench.identity import Machine, cpu_accelerator, machine
from metainf.dtypes import DType
from metainf.efficiencies import efficiency_of
from metainf.errors import InvalidWorkloadError

MACHINE = Machine("Xeon-Emerald-Rapids", "Xeon", 2, 1, 24 << 30, "Linux", "0.32.0", "2.13.0")
GPU = Machine("H100-SXM-80GB", "NVIDIA H100 80GB HBM3", 26, 2, 200 << 30, "Linux", "0.32.0", "2.13.0")
TODAY = date(2026, 11, 26)
RECORDED = Path(__file__).parent / "data" / "bench" / "rates.json"  # of programs/rates.py on two cores, others at work


def exact(bandwidth: float, peak: float) -> Samples:
    """Products that take just what a roofline of these says."""
    products = []
    for rows in (1, 16, 256, 4096):
        product = Product(DType.BF16, rows, 2048, 2048, 1.0)
        products.append(replace(product, seconds=max(product.weight_bytes / bandwidth, product.flops / peak)))
    return Samples(1, ((1e6, 1e6 / (2 * bandwidth)), (1e9, 1e9 / bandwidth)), tuple(products), 20e-6)


def test_finds_the_figures_that_samples_were_made_of():
    found = calibrated_from(exact(20e9, 900e9), MACHINE, captured=TODAY)

    assert found.accelerator.memory_bandwidth_bytes_per_s == pytest.approx(20e9)
    assert found.accelerator.flops[DType.BF16] == pytest.approx(900e9)
    assert found.efficiency.memory == pytest.approx(1.0)
    assert found.efficiency.matrix == pytest.approx(1.0)
    assert found.efficiency.layer_s == 20e-6


def test_what_is_not_measured_keeps_the_constants_of_its_generation():
    found = calibrated_from(exact(20e9, 900e9), MACHINE, captured=TODAY).efficiency
    usual = efficiency_of("Emerald Rapids", cpu=True)

    assert replace(found, memory=usual.memory, matrix=usual.matrix, layer_s=usual.layer_s) == usual


def test_a_slower_machine_has_a_slower_entry():
    fast, slow = (calibrated_from(exact(b, 40 * b), MACHINE, captured=TODAY).accelerator for b in (20e9, 10e9))

    assert slow.memory_bandwidth_bytes_per_s < fast.memory_bandwidth_bytes_per_s
    assert slow.flops[DType.BF16] < fast.flops[DType.BF16]


@pytest.fixture
def recorded(monkeypatch):
    """The calibration of the recorded samples, asked for as the command does."""
    monkeypatch.setattr("metainf.bench.calibration.answer_of", lambda *args, **kwargs: RECORDED.read_text())
    return calibrate("python", MACHINE, today=TODAY)


def test_reads_what_a_machine_with_matrix_units_measured(recorded):
    flops = recorded.accelerator.flops

    assert flops[DType.BF16] > 4 * flops[DType.FP32]  # AMX against AVX-512
    assert 5e9 < recorded.accelerator.memory_bandwidth_bytes_per_s < 30e9
    assert recorded.error_ratio < 1.0
    assert recorded.accelerator.cpu.physical_cores == 2
    assert any("1 thread" in line for line in recorded.lines())


def test_a_calibration_comes_back_from_its_file(recorded, tmp_path):
    path = write_calibration(recorded, tmp_path / "accelerator.json")
    found = read_calibration(path)

    assert found.samples == recorded.samples
    assert found.accelerator.memory_bandwidth_bytes_per_s == pytest.approx(
        recorded.accelerator.memory_bandwidth_bytes_per_s
    )
    assert found.efficiency.memory == pytest.approx(recorded.efficiency.memory)
    assert found.accelerator.captured == TODAY
    assert "torch 2.13.0" in found.accelerator.sources[0].title


def entry(path: Path) -> Accelerator:
    """The one device of a file, as the catalogue reads its own."""
    document = json.loads(path.read_text())
    sources = {key: Source(**each) for key, each in document["sources"].items()}
    (row,) = document["accelerators"]
    return accelerators._accelerator(row, sources, date.fromisoformat(document["captured"]))


@pytest.mark.parametrize(
    "on",
    [
        pytest.param(MACHINE, id="a processor -> its instruction sets"),
        pytest.param(replace(MACHINE, cores=3, threads_per_core=2), id="threads -> one and a half cores"),
        pytest.param(GPU, id="a GPU -> link, slices and PCIe of its own form factor"),
        pytest.param(replace(GPU, accelerator="A100-SXM-40GB"), id="one of two memories"),
        pytest.param(replace(GPU, accelerator="MI250-OAM-64GB"), id="half a card, without slices"),
        pytest.param(replace(GPU, accelerator="L4-PCIe-24GB"), id="no link"),
    ],
)
def test_its_entry_is_one_that_the_catalogue_loads(on, tmp_path):
    calibration = calibrated_from(exact(20e9, 900e9), on, captured=TODAY)
    path = write_calibration(calibration, tmp_path / "accelerator.json")
    made = calibration.accelerator
    shipped = json.loads((Path(accelerators.__file__).parent / "data" / "accelerators.json").read_text())

    assert set(json.loads(path.read_text())) - {"calibration"} == set(shipped)
    for found in (entry(path), read_calibration(path).accelerator):
        assert found.memory_bandwidth_bytes_per_s == pytest.approx(made.memory_bandwidth_bytes_per_s)
        assert found.flops == pytest.approx(dict(made.flops))
        assert replace(found, memory_bandwidth_bytes_per_s=made.memory_bandwidth_bytes_per_s, flops=made.flops) == made


def test_a_file_of_before_instruction_sets_were_written_is_read_as_it_was(recorded, tmp_path):
    path = write_calibration(recorded, tmp_path / "accelerator.json")
    document = json.loads(path.read_text())
    del document["accelerators"][0]["instruction_sets"]
    older = tmp_path / "older.json"
    older.write_text(json.dumps(document))

    assert read_calibration(older) == read_calibration(path)
    assert "amx_bf16" in read_calibration(older).accelerator.cpu.instruction_sets


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{}", id="nothing"),
        pytest.param('{"schema_version": 99}', id="another schema"),
        pytest.param("no JSON", id="no JSON"),
    ],
)
def test_refuses_what_is_no_calibration(tmp_path, text):
    path = tmp_path / "accelerator.json"
    path.write_text(text)
    with pytest.raises(InvalidWorkloadError, match=r"accelerator\.json"):
        read_calibration(path)


def test_refuses_a_device_that_the_catalogue_has_not():
    with pytest.raises(InvalidWorkloadError, match="no device of that name"):
        calibrated_from(exact(1e9, 1e9), replace(MACHINE, accelerator="Abacus"), captured=TODAY)


def cpuinfo(vendor: str, family: int, model: int) -> str:
    lines = {"processor": 0, "vendor_id": vendor, "cpu family": family, "model": model, "model name": "Some Processor"}
    return "".join(f"{name}\t: {value}\n" for name, value in lines.items()) + "\nprocessor\t: 1\n"


@pytest.mark.parametrize(
    ("text", "architecture", "name"),
    [
        pytest.param(cpuinfo("GenuineIntel", 6, 207), "x86_64", "Xeon-Emerald-Rapids", id="its model number alone"),
        pytest.param(cpuinfo("GenuineIntel", 6, 143), "x86_64", "Xeon-Sapphire-Rapids", id="the one before"),
        pytest.param(cpuinfo("AuthenticAMD", 25, 17), "x86_64", "EPYC-Genoa", id="AMD"),
        pytest.param(cpuinfo("GenuineIntel", 6, 42), "x86_64", "CPU-x86-64", id="an unknown one -> the floor"),
        pytest.param("", "aarch64", "CPU-arm64", id="arm says nothing"),
        pytest.param("", "x86_64", "CPU-x86-64", id="nothing known"),
    ],
)
def test_names_a_processor_by_its_numbers(text, architecture, name):
    assert cpu_accelerator(text, architecture) == name
    assert get(name) is not None


def test_names_the_gpu_of_an_engine():
    found = machine({"vllm": "0.32.0", "torch": "2.13.0", "gpu": "NVIDIA H100 80GB HBM3"})

    assert (found.accelerator, found.on_cpu) == ("H100-SXM-80GB", False)
    assert machine({"vllm": "0.32.0", "torch": "2", "gpu": None}).on_cpu
