"""Asks the NVIDIA driver, once, and prints what it said: `python -m metainf_operator.node_facts.nvml`.

The only module that speaks NVML, and a process of its own for each look, because of what the library does to whoever
loads it: a lost GPU can hold a call for ever, a library stays loaded while its driver is replaced on the node (and
then answers "version mismatch" until the process ends), and an open device keeps a driver from being unloaded.
"""

import argparse
import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pynvml  # type: ignore[import-untyped, unused-ignore]

from metainf_operator.node_facts.gpus import Fault, Gpu, MigDevice, NoDriver, Outcome, Reading, to_text

__all__ = ["LIBRARY_FOLDERS", "look"]

T = TypeVar("T")

LIBRARY_FOLDERS = (
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib",
)
"""Where distributions, driver containers and GKE (`lib64` of its own root) put libnvidia-ml under the driver's root.

Source: NVIDIA/k8s-dra-driver-gpu, cmd/gpu-kubelet-plugin/root.go; GKE's nvidia-driver-installer.
"""

_LIBRARY = "libnvidia-ml.so.1"

_ABSENT = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_LOST = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
_UNSAID = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    pynvml.NVML_ERROR_NO_DATA,
)
"""The GPU is well, and this fact of it is not to be had."""
_NO_SUCH_LINK = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT)


def look(driver_root: Path | None = None, sys_root: Path = Path("/sys")) -> Outcome:
    """What the driver says now.

    Parameters
    ----------
    driver_root : Path or None
        Folder under which the driver's files lie, as a driver container's root; None: the loader finds them.
    sys_root : Path
        The node's sysfs, which has the class of a PCI device and the name of the machine.
    """
    if driver_root is not None and not _preloaded(driver_root):
        return NoDriver(f"no {_LIBRARY} under {driver_root}")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return NoDriver(_said(error)) if error.value in _ABSENT else Fault(f"starting NVML: {_said(error)}")
    try:
        return _read(sys_root)
    except pynvml.NVMLError as error:
        return Fault(f"asking NVML: {_said(error)}")
    finally:
        pynvml.nvmlShutdown()


def _preloaded(driver_root: Path) -> bool:
    """Whether the library was loaded by its path; pynvml then gets the same one, which its name is enough for."""
    for folder in LIBRARY_FOLDERS:
        path = driver_root / folder / _LIBRARY
        if path.exists():
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError:  # of another architecture than this process
                continue
            return True
    return False


def _said(error: Any) -> str:
    return f"{error} (NVML error {error.value})"


def _read(sys_root: Path) -> Reading:
    cuda = int(pynvml.nvmlSystemGetCudaDriverVersion())
    gpus, lost = [], []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_gpu(pynvml.nvmlDeviceGetHandleByIndex(index), sys_root))
        except pynvml.NVMLError as error:
            if error.value not in _LOST:
                raise
            lost.append(f"GPU {index}: {_said(error)}")
    return Reading(
        driver_version=pynvml.nvmlSystemGetDriverVersion(),
        cuda_version=(cuda // 1000, cuda % 1000 // 10),
        gpus=tuple(gpus),
        lost=tuple(lost),
        machine=_text(sys_root / "class/dmi/id/product_name"),
    )


def _gpu(handle: Any, sys_root: Path) -> Gpu:
    memory = _unless_unsaid(pynvml.nvmlDeviceGetMemoryInfo, handle)
    power, default = (
        _unless_unsaid(ask, handle)
        for ask in (pynvml.nvmlDeviceGetEnforcedPowerLimit, pynvml.nvmlDeviceGetPowerManagementDefaultLimit)
    )
    mig_mode = _unless_unsaid(pynvml.nvmlDeviceGetMigMode, handle)
    mig_enabled = mig_mode is not None and mig_mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    links = _links(handle)
    return Gpu(
        name=pynvml.nvmlDeviceGetName(handle),
        memory_mib=memory.total // 2**20 if memory is not None else None,
        compute_capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
        pci_class=_pci_class(handle, sys_root),
        mig_capable=mig_mode is not None,
        mig_enabled=mig_enabled,
        mig_devices=_mig_devices(handle) if mig_enabled else (),
        memory_bus_bits=_unless_unsaid(pynvml.nvmlDeviceGetMemoryBusWidth, handle),
        memory_clock_mhz=_unless_unsaid(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_MEM),
        cuda_cores=_unless_unsaid(pynvml.nvmlDeviceGetNumGpuCores, handle),
        sm_clock_mhz=_unless_unsaid(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM),
        power_limit_w=power / 1000 if power is not None else None,
        power_default_w=default / 1000 if default is not None else None,
        pcie_generation=_unless_unsaid(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        pcie_width=_unless_unsaid(pynvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
        nvlinks=len(links) if links is not None else None,
        nvlink_version=_unless_unsaid(pynvml.nvmlDeviceGetNvLinkVersion, handle, links[0]) if links else None,
        nvlink_mb_per_s=_link_speed(handle) if links else None,
        nvlink_group=_link_group(handle, links) if links is not None else None,
    )


def _unless_unsaid(ask: Callable[..., T], *arguments: Any) -> T | None:
    """The answer; None where this driver or this GPU has none. A lost GPU still raises."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _UNSAID:
            return None
        raise


def _mig_devices(handle: Any) -> tuple[MigDevice, ...]:
    memory = _unless_unsaid(pynvml.nvmlDeviceGetMemoryInfo, handle)
    devices = []
    for index in range(_unless_unsaid(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        device = _unless_unsaid(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if device is None:  # a place that no slice takes
            continue
        attributes = pynvml.nvmlDeviceGetAttributes(device)
        devices.append(
            MigDevice(
                profile=_profile(pynvml.nvmlDeviceGetName(device), attributes, memory.total if memory else None),
                memory_mib=attributes.memorySizeMB,
                multiprocessors=attributes.multiprocessorCount,
                instance_slices=attributes.gpuInstanceSliceCount,
                compute_slices=attributes.computeInstanceSliceCount,
                copy_engines=attributes.sharedCopyEngineCount,
                decoders=attributes.sharedDecoderCount,
                encoders=attributes.sharedEncoderCount,
                jpeg_engines=attributes.sharedJpegCount,
                optical_flow_engines=attributes.sharedOfaCount,
            )
        )
    return tuple(devices)


def _profile(name: str, attributes: Any, total_bytes: int | None) -> str:
    """The profile out of `NVIDIA A100-SXM4-40GB MIG 1g.5gb`; of older drivers' names, by its slices and memory.

    The memory of a profile's name is its eighths of the card, rounded up, times the card's whole GiB.
    Source: NVIDIA/go-nvlib pkg/nvlib/device/mig_profile.go.
    """
    written = re.search(r"\bMIG (\S+)$", name)
    if written is not None:
        return written[1]
    instance, compute = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
    if total_bytes:
        eighths = -(-attributes.memorySizeMB * 2**20 * 8 // total_bytes)
        gib = round(eighths / 8 * -(-total_bytes // 2**30))
    else:
        gib = round(attributes.memorySizeMB / 1024)
    return f"{instance}g.{gib}gb" if compute == instance else f"{compute}c.{instance}g.{gib}gb"


def _links(handle: Any) -> tuple[int, ...] | None:
    """Numbers of the active NVLinks, none for a GPU without; None where this process may not know."""
    active: list[int] = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            state = pynvml.nvmlDeviceGetNvLinkState(handle, link)
        except pynvml.NVMLError as error:
            if error.value in _NO_SUCH_LINK:
                break
            if error.value in _UNSAID:
                return None
            raise
        if state == pynvml.NVML_FEATURE_ENABLED:
            active.append(link)
    return tuple(active)


def _link_speed(handle: Any) -> int | None:
    fields = _unless_unsaid(pynvml.nvmlDeviceGetFieldValues, handle, [pynvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON])
    if fields is None or fields[0].nvmlReturn != pynvml.NVML_SUCCESS:
        return None
    return int(fields[0].value.uiVal) or None


def _link_group(handle: Any, links: tuple[int, ...]) -> int | None:
    """GPUs within reach: all of the node behind a switch, else this one and those at the other ends."""
    peers = set()
    for link in links:
        kind = _unless_unsaid(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
        if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
            return int(pynvml.nvmlDeviceGetCount())
        remote = _unless_unsaid(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        if kind != pynvml.NVML_NVLINK_DEVICE_TYPE_GPU or remote is None:
            return None
        peers.add(remote.busId)
    return 1 + len(peers)


def _pci_class(handle: Any, sys_root: Path) -> str | None:
    """The class of the device in sysfs, whose addresses have a domain of four digits where NVML's has eight."""
    pci = _unless_unsaid(pynvml.nvmlDeviceGetPciInfo, handle)
    if pci is None:
        return None
    written = pci.busId.decode() if isinstance(pci.busId, bytes) else str(pci.busId)
    return _text(sys_root / "bus/pci/devices" / written.lower().removeprefix("0000") / "class")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def main() -> None:
    """Look and print."""
    parser = argparse.ArgumentParser(description="Ask the NVIDIA driver once, and print its answer as JSON.")
    parser.add_argument("--driver-root", type=Path, default=None)
    parser.add_argument("--sys-root", type=Path, default=Path("/sys"))
    options = parser.parse_args()
    sys.stdout.write(to_text(look(options.driver_root, options.sys_root)) + "\n")


if __name__ == "__main__":
    main()
