"""A libnvidia-ml made by the C compiler at hand, and the text files that tell it which GPUs it has.

Separate from the tests because those of the fast suite and those with an API server use the same driver.
Figures of GPUs are the datasheets', in the units of NVML.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["A100", "H100", "L4", "MIG_1G", "MIG_3G", "NO_COMPILER", "T4", "UNLISTED", "FakeDriver", "gpu_lines"]

_SOURCE = Path(__file__).parent / "data/fake_nvml/nvml.c"
_FOLDER = "usr/lib/x86_64-linux-gnu"
_COMPILER = shutil.which("cc") or shutil.which("gcc")

NO_COMPILER = "" if _COMPILER else "no C compiler here to build the fake libnvidia-ml with"

Facts = Mapping[str, str | int]

H100: Facts = {
    "name": "NVIDIA H100 80GB HBM3",
    "memory-bytes": 81559 * 2**20,
    "compute": "9.0",
    "mig-mode": 0,
    "memory-bus": 5120,
    "memory-clock": 2619,
    "cores": 16896,
    "sm-clock": 1980,
    "power-limit-mw": 700_000,
    "power-default-mw": 700_000,
    "pcie-generation": 5,
    "pcie-width": 16,
    "nvlinks": 18,
    "nvlink-version": 4,
    "nvlink-mbps": 26562,
    "nvlink-remote-type": 2,
}
A100: Facts = {
    "name": "NVIDIA A100-SXM4-40GB",
    "memory-bytes": 40960 * 2**20,
    "compute": "8.0",
    "mig-mode": 0,
    "memory-bus": 5120,
    "memory-clock": 1215,
    "cores": 6912,
    "sm-clock": 1410,
    "power-limit-mw": 400_000,
    "power-default-mw": 400_000,
    "pcie-generation": 4,
    "pcie-width": 16,
    "nvlinks": 12,
    "nvlink-version": 3,
    "nvlink-remote-type": 2,
}
L4: Facts = {
    "name": "NVIDIA L4",
    "memory-bytes": 23034 * 2**20,
    "compute": "8.9",
    "memory-bus": 192,
    "memory-clock": 6251,
    "cores": 7424,
    "sm-clock": 2040,
    "power-limit-mw": 72_000,
    "power-default-mw": 72_000,
    "pcie-generation": 4,
    "pcie-width": 16,
}
T4: Facts = {
    "name": "Tesla T4",
    "memory-bytes": 15360 * 2**20,
    "compute": "7.5",
    "memory-bus": 256,
    "memory-clock": 5001,
    "cores": 2560,
    "sm-clock": 1590,
    "power-limit-mw": 70_000,
    "power-default-mw": 70_000,
    "pcie-generation": 3,
    "pcie-width": 16,
}
UNLISTED: Facts = {
    "name": "NVIDIA Example X1 (Rev. B) 64GB",
    "memory-bytes": 65536 * 2**20,
    "compute": "10.0",
    "memory-bus": 4096,
    "memory-clock": 3000,
    "cores": 12800,
    "sm-clock": 2000,
    "power-limit-mw": 500_000,
    "power-default-mw": 600_000,
    "pcie-generation": 5,
    "pcie-width": 8,
}
"""A card that no catalogue has, with a name that no label may have as it is."""

MIG_1G = ("1g.10gb", "9728 16 1 1 1 0 0 0 0")
MIG_3G = ("3g.40gb", "40192 60 3 3 3 3 0 3 0")
"""Profile, and memory in MiB, multiprocessors, slices and engines of it. Source: NVIDIA MIG user guide, H100."""


def gpu_lines(index: int, facts: Facts, slices: Sequence[tuple[str, str]] = (), **changes: str | int) -> list[str]:
    """One GPU, with MIG on where it has slices; `changes` with underscores for dashes."""
    mig = {"mig-mode": 1} if slices else {}
    merged = {**facts, "bus-id": f"00000000:{index + 1:02X}:00.0", **mig}
    merged |= {key.replace("_", "-"): value for key, value in changes.items()}
    lines = [f"gpu.{index}.{key} {value}" for key, value in merged.items()]
    for place, (profile, attributes) in enumerate(slices):
        lines.append(f"gpu.{index}.mig.{place}.name {facts['name']} MIG {profile}")
        lines.append(f"gpu.{index}.mig.{place}.attributes {attributes}")
    return lines


@dataclass(frozen=True, slots=True)
class FakeDriver:
    """A driver's root with the fake library in it."""

    root: Path

    @property
    def folder(self) -> Path:
        """Where the library lies, and the file that it reads beside it."""
        return self.root / _FOLDER

    def install(self) -> "FakeDriver":
        """Compile it into place; by its path it is then found as NVIDIA's own would be."""
        assert _COMPILER is not None, NO_COMPILER
        self.folder.mkdir(parents=True, exist_ok=True)
        library = self.folder / "libnvidia-ml.so.1"
        options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]
        command = [_COMPILER, *options, "-o", str(library), str(_SOURCE), "-ldl"]
        subprocess.run(command, check=True, timeout=60)
        return self

    def remove(self) -> None:
        """Take the library away, as an uninstalled driver does."""
        (self.folder / "libnvidia-ml.so.1").unlink()

    def says(self, *lines: str | Sequence[str]) -> "FakeDriver":
        """What it answers from now on."""
        flat = [part for line in lines for part in ([line] if isinstance(line, str) else line)]
        unfinished = self.folder / "nvml.conf.unfinished"
        unfinished.write_text("\n".join(flat) + "\n", encoding="utf-8")
        unfinished.rename(self.folder / "nvml.conf")  # whoever reads it meanwhile has all of one state
        return self
