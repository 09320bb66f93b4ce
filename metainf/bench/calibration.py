"""A machine by its own measure: an entry of the accelerator catalogue, and the constants of a step-time oracle over it.

Separate from the datasheets of `metainf.accelerators`: a virtual machine gets a share of a socket that no datasheet
knows, and small models live in its caches. What is measured is what a stream reads and what matrix products compute, by
number format and shape; what is not (attention, the engine's own work) keeps the constants of its generation.

How samples become numbers. Bandwidth is that of the largest read, a format's peak that of its fastest product. What a
step really gets of them goes into the constants: the share of the bandwidth that products of one row reach, the share
of the peak that products of a prompt's rows do, and the least time of a layer's small kernels. `error_ratio` says how
far the roofline of these numbers is from the samples.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from metainf.accelerators import Accelerator, CpuCores, PeakFlops, Source, Vendor, catalogue, get
from metainf.bench.identity import Machine
from metainf.bench.processes import answer_of
from metainf.dtypes import DType
from metainf.efficiencies import Efficiency, efficiency_of
from metainf.errors import InvalidWorkloadError
from metainf.pcie import pcie_generation

__all__ = [
    "CALIBRATION",
    "Calibration",
    "Product",
    "Samples",
    "calibrate",
    "calibrated_from",
    "read_calibration",
    "write_calibration",
]

CALIBRATION = "accelerator.json"
"""The file of a calibration in its folder."""
_SCHEMA = 1
_MOST_S = 600.0
_PROMPT_ROWS = 256
_DTYPES = {"float32": DType.FP32, "bfloat16": DType.BF16, "float16": DType.FP16}
_GB = 1e9
_MEASURED = "-measured"
"""Ends the name of an entry, after that of the catalogue's device."""
_URL = ""  # a measurement stands in no document


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product and its time: rows x inner by inner x columns."""

    dtype: DType
    rows: int
    inner: int
    columns: int
    seconds: float

    @property
    def flops(self) -> float:
        """Operations, two for each multiplication and sum."""
        return 2.0 * self.rows * self.inner * self.columns

    @property
    def weight_bytes(self) -> float:
        """What is read of the weights."""
        return self.inner * self.columns * self.dtype.bytes_per_value


@dataclass(frozen=True, slots=True)
class Samples:
    """What `programs/rates.py` measured. `reads` are bytes and seconds."""

    threads: int
    reads: tuple[tuple[float, float], ...]
    products: tuple[Product, ...]
    layer_s: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A machine's entry, its constants, and the samples behind them."""

    accelerator: Accelerator
    efficiency: Efficiency
    samples: Samples

    @property
    def error_ratio(self) -> float:
        """Median over the products of |roofline / measured - 1|."""
        errors = [abs(self._expected_s(product) / product.seconds - 1.0) for product in self.samples.products]
        return median(errors)

    def _expected_s(self, product: Product) -> float:
        a, e = self.accelerator, self.efficiency
        read = product.weight_bytes / (a.memory_bandwidth_bytes_per_s * e.memory)
        compute = product.flops / (a.flops[product.dtype] * e.matrix)
        return max(read, compute) + e.overlap * min(read, compute)

    def lines(self) -> tuple[str, ...]:
        """What a person wants to know."""
        a, e = self.accelerator, self.efficiency
        peaks = ", ".join(f"{dtype} {flops / 1e9:.0f} GFLOP/s" for dtype, flops in a.flops.items())
        reads = ", ".join(f"{size / 2**20:g} MiB {size / s / _GB:.1f} GB/s" for size, s in self.samples.reads)
        return (
            f"{a.name}: {self.samples.threads} threads",
            f"memory: {reads}",
            f"products: {peaks}",
            f"one row reaches {e.memory:.0%} of the bandwidth, {_PROMPT_ROWS} and more {e.matrix:.0%} of the peak",
            f"a layer's small kernels take {e.layer_s * 1e6:.0f} us",
            f"the roofline of these is off by {self.error_ratio:.0%} (median of {len(self.samples.products)} products)",
        )


def calibrate(python: str, machine: Machine, *, today: date) -> Calibration:
    """Measure this machine with the torch of an interpreter: half a minute on two cores.

    On a CPU one core is left out where there are several, as vLLM keeps one for the server (vLLM 0.32.0,
    VLLM_CPU_NUM_OF_RESERVED_CPU).

    Raises
    ------
    EngineError
        The interpreter has no torch, or the program failed.
    """
    threads = max(1, machine.cores - 1) if machine.on_cpu else 0
    text = answer_of(python, "rates.py", [str(threads)], most_s=_MOST_S)
    return calibrated_from(_samples(json.loads(text)), machine, captured=today)


def calibrated_from(samples: Samples, machine: Machine, *, captured: date) -> Calibration:
    """The entry and the constants that samples come to."""
    base = get(machine.accelerator)
    if base is None:
        raise InvalidWorkloadError(f"calibrating {machine.accelerator}: the catalogue has no device of that name")
    bandwidth = [size / seconds for size, seconds in samples.reads][-1]
    peaks = {
        dtype: max(p.flops / p.seconds for p in samples.products if p.dtype is dtype)
        for dtype in dict.fromkeys(p.dtype for p in samples.products)
    }
    title = f"metainf bench --calibrate on {machine.device}, {machine.cores} cores, torch {machine.torch_version}"
    on_cpu = base.cpu is not None
    cut = base.cpu_share(machine.cores, machine.memory_bytes, machine.threads_per_core) if on_cpu else base
    accelerator = replace(
        cut,
        name=f"{base.name}{_MEASURED}" if not on_cpu else f"{base.name}-{machine.cores}-cores{_MEASURED}",
        memory_bandwidth_bytes_per_s=bandwidth,
        flops=PeakFlops(peaks),
        sources=(Source(title, _URL),),
        captured=captured,
        family_names=(),
        aliases=(),
        note=f"measured with {samples.threads} threads; a share of a socket, not a datasheet",
    )
    efficiency = _efficiency(samples, accelerator, efficiency_of(base.generation, cpu=on_cpu))
    return Calibration(accelerator, efficiency, samples)


def _efficiency(samples: Samples, accelerator: Accelerator, usual: Efficiency) -> Efficiency:
    """The constants of the generation with those replaced that were measured; of 16 bits where it has them."""
    best = max(accelerator.flops, key=lambda dtype: accelerator.flops[dtype])
    of_best = [product for product in samples.products if product.dtype is best]
    bandwidth, peak = accelerator.memory_bandwidth_bytes_per_s, accelerator.flops[best]
    reading = [p.weight_bytes / p.seconds / bandwidth for p in of_best if p.rows == 1]
    computing = [p.flops / p.seconds / peak for p in of_best if p.rows >= _PROMPT_ROWS]
    return replace(usual, memory=_middle(reading), matrix=_middle(computing), layer_s=samples.layer_s)


def _middle(shares: Sequence[float]) -> float:
    """The geometric mean, since they are ratios."""
    return math.exp(sum(math.log(share) for share in shares) / len(shares))


def _samples(values: Mapping[str, Any]) -> Samples:
    try:
        products = tuple(Product(**{**p, "dtype": _DTYPES[p["dtype"]]}) for p in values["products"])
        reads = tuple((float(r["bytes"]), float(r["seconds"])) for r in values["reads"])
        return Samples(int(values["threads"]), tuple(sorted(reads)), products, float(values["layer_s"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidWorkloadError(f"reading a calibration's samples: {error!r}") from error


def write_calibration(calibration: Calibration, path: Path) -> Path:
    """Write the entry in the format of the accelerator catalogue, with its constants and samples beside it."""
    a = calibration.accelerator
    key = re.sub(r"[^a-z0-9]+", "-", a.name.lower())
    document = {
        "schema_version": _SCHEMA,
        "captured": a.captured.isoformat(),
        "note": "Measured by metainf bench --calibrate; peaks are the fastest products seen, not a datasheet's.",
        "sources": {key: {"title": a.sources[0].title, "url": a.sources[0].url}},
        "accelerators": [_row(a, key)],
        "instance_types": [],
        "calibration": {
            "base": a.family,
            "threads": calibration.samples.threads,
            "reads": [{"bytes": size, "seconds": seconds} for size, seconds in calibration.samples.reads],
            "products": [_product(product) for product in calibration.samples.products],
            "layer_s": calibration.samples.layer_s,
        },
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def _row(a: Accelerator, key: str) -> dict[str, Any]:
    return {
        "name": a.name,
        "vendor": a.vendor.value,
        "family": a.family,
        "form_factor": a.form_factor.value,
        "generation": a.generation,
        "tdp_w": a.tdp_w,
        "memory_gb": a.memory_bytes / _GB,
        "memory_type": a.memory_type,
        "marketed_memory_gb": list(a.marketed_memory_gb),
        "bandwidth_gb_per_s": a.memory_bandwidth_bytes_per_s / 1e9,
        "dense_tflops": {dtype.value: flops / 1e12 for dtype, flops in a.flops.items()},
        "family_names": [],
        "sources": [key],
        "note": a.note,
        **_only_of_some(a),
    }


def _only_of_some(a: Accelerator) -> dict[str, Any]:
    """The fields of a row that not every device has: a processor's cores, a GPU's capability, links and slices."""
    row: dict[str, Any] = {}
    if a.cpu is not None:
        row |= {"physical_cores": a.cpu.physical_cores, "threads_per_core": a.cpu.threads_per_core}
        row["instruction_sets"] = sorted(a.cpu.instruction_sets)
    if a.compute_capability is not None:
        row["compute_capability"] = list(a.compute_capability)
    if a.link is not None:
        row |= {"link_gb_per_s_per_direction": a.link.bytes_per_s_per_direction / _GB, "link_group": a.link.max_group}
    generation = pcie_generation(a.pcie_bytes_per_s)
    if generation is not None:
        row["pcie_generation"] = generation
    if a.mig is not None:
        row |= {"mig_compute_slices": a.mig.compute_slices, "mig_memory_slices": a.mig.memory_slices}
    if a.devices_per_card != 1:
        row["devices_per_card"] = a.devices_per_card
    return row


def _product(product: Product) -> dict[str, Any]:
    names = {dtype: name for name, dtype in _DTYPES.items()}
    return {
        "dtype": names[product.dtype],
        "rows": product.rows,
        "inner": product.inner,
        "columns": product.columns,
        "seconds": product.seconds,
    }


def read_calibration(path: Path) -> Calibration:
    """The calibration of a file.

    Raises
    ------
    InvalidWorkloadError
        It is none, or of another schema.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema_version"] != _SCHEMA:
            raise InvalidWorkloadError(f"{path} is of schema {document['schema_version']}, not {_SCHEMA}")
        (row,) = document["accelerators"]
        (source,) = document["sources"].values()
        samples = _samples(document["calibration"])
        accelerator = _accelerator(row, Source(**source), date.fromisoformat(document["captured"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidWorkloadError):
            raise
        raise InvalidWorkloadError(f"{path} is no calibration: {error!r}") from error
    usual = efficiency_of(accelerator.generation, cpu=accelerator.vendor is Vendor.CPU)
    return Calibration(accelerator, _efficiency(samples, accelerator, usual), samples)


def _accelerator(row: Mapping[str, Any], source: Source, captured: date) -> Accelerator:
    """The entry over the catalogue's device that was measured, whose links and capability it has."""
    base = get(row["name"].removesuffix(_MEASURED)) or get(row["family"])
    base = base or next((a for a in catalogue() if a.family == row["family"]), None)
    if base is None:
        raise InvalidWorkloadError(f"the catalogue has no device of the family {row['family']}")
    cpu = None
    if "physical_cores" in row:
        known = frozenset() if base.cpu is None else base.cpu.instruction_sets
        sets = frozenset(row.get("instruction_sets", known))  # older files have none
        cpu = CpuCores(row["physical_cores"] * row["threads_per_core"], row["threads_per_core"], sets)
    return replace(
        base,
        name=row["name"],
        memory_bytes=round(row["memory_gb"] * _GB),
        tdp_w=float(row["tdp_w"]),
        memory_bandwidth_bytes_per_s=row["bandwidth_gb_per_s"] * 1e9,
        flops=PeakFlops({DType(name): tflops * 1e12 for name, tflops in row["dense_tflops"].items()}),
        sources=(source,),
        captured=captured,
        cpu=cpu,
        family_names=(),
        aliases=(),
        note=row["note"],
    )
