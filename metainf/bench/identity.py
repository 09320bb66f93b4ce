"""Which machine a bench ran on: what its rows are measurements of.

Separate from the accelerator catalogue, whose entry it names: a virtual machine often says "Xeon Processor" and no
more, but its family and model numbers tell the generation.
"""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from metainf.accelerator_names import Exact, find
from metainf.accelerators import get

__all__ = ["Machine", "cpu_accelerator", "machine"]

_MEMORY_RATIO = 0.02  # virtual machines of one kind differ by what their firmware keeps
# Source: Linux 6.18 arch/x86/include/asm/intel-family.h; AMD "Processor Programming Reference" of each family.
_X86_MODELS: Mapping[tuple[str, int], tuple[tuple[int, int, str], ...]] = {
    ("GenuineIntel", 6): (
        (106, 108, "Xeon-Ice-Lake"),
        (143, 143, "Xeon-Sapphire-Rapids"),
        (207, 207, "Xeon-Emerald-Rapids"),
        (173, 174, "Xeon-Granite-Rapids"),
    ),
    ("AuthenticAMD", 25): ((0, 15, "EPYC-Milan"), (16, 31, "EPYC-Genoa"), (160, 175, "EPYC-Genoa")),
    ("AuthenticAMD", 26): ((0, 31, "EPYC-Turin"),),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor or GPU, and the versions of what runs on it."""

    accelerator: str
    """A name of the catalogue."""
    device: str
    """As the machine itself calls it."""
    cores: int
    threads_per_core: int
    memory_bytes: int
    system: str
    engine_version: str
    torch_version: str

    @property
    def summary(self) -> str:
        """In a few words."""
        return f"{self.device} ({self.accelerator}), {self.cores} cores, vLLM {self.engine_version}"

    @property
    def on_cpu(self) -> bool:
        """Whether the engine computes on the processor."""
        found = get(self.accelerator)
        return found is not None and found.cpu is not None

    def is_like(self, other: "Machine") -> bool:
        """Whether rows of both may stand together: memory may differ by a little, and the kernel's release."""
        alike = replace(other, memory_bytes=self.memory_bytes, system=self.system)
        return alike == self and abs(other.memory_bytes / self.memory_bytes - 1.0) <= _MEMORY_RATIO

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The machine of plain values."""
        return cls(**values)


def machine(engine: Mapping[str, str | None], *, accelerator: str | None = None) -> Machine:
    """This machine; `engine` is what `programs/identify.py` says, `accelerator` replaces what is found."""
    info = Path("/proc/cpuinfo")
    cpuinfo = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    fields = _first_processor(cpuinfo)
    device = engine["gpu"] or fields.get("model name") or platform.processor() or platform.machine()
    if accelerator is None and engine["gpu"]:
        found = find(engine["gpu"])
        accelerator = found.accelerator.name if isinstance(found, Exact) else engine["gpu"]
    siblings, physical = int(fields.get("siblings", "1")), int(fields.get("cpu cores", "1"))
    return Machine(
        accelerator=accelerator or cpu_accelerator(cpuinfo, platform.machine()),
        device=" ".join(device.split()),
        cores=len(os.sched_getaffinity(0)),
        threads_per_core=max(1, siblings // max(1, physical)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        engine_version=engine["vllm"] or "",
        torch_version=engine["torch"] or "",
    )


def cpu_accelerator(cpuinfo: str, architecture: str) -> str:
    """The catalogue's name of a processor, from /proc/cpuinfo; of one that is not known, the floor of its kind."""
    fields = _first_processor(cpuinfo)
    try:
        maker = fields["vendor_id"], int(fields["cpu family"])
        model = int(fields["model"])
    except (KeyError, ValueError):
        return "CPU-arm64" if architecture in ("aarch64", "arm64") else "CPU-x86-64"
    return next((name for low, high, name in _X86_MODELS.get(maker, ()) if low <= model <= high), "CPU-x86-64")


def _first_processor(cpuinfo: str) -> Mapping[str, str]:
    lines = cpuinfo.split("\n\n", 1)[0].splitlines()
    pairs = (re.split(r"\s*:\s*", line, maxsplit=1) for line in lines)
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}
