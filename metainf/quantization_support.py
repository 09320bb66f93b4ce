"""Which accelerators vLLM runs a quantised checkpoint on: how new a GPU must be, whose it may be, which CPU.

Separate from `quantization`, which reads what a checkpoint is, and from `settings_rules`, whose rules are of what the
engine is told: nobody tells it a checkpoint's own format, and it ends at start where it cannot run that.

All of vLLM 0.32.0, under vllm/; 0.28.0 and 0.30.0 have the same figures. A format that the silicon does not multiply
runs on NVIDIA GPUs all the same where Marlin widens the weights before each product; that is why FP8 and even NVFP4
checkpoints run from Turing on. What CUDA, ROCm and CPUs have kernels for is in
model_executor/kernels/linear/__init__.py, of experts in model_executor/layers/fused_moe/oracle/.
"""

from collections.abc import Mapping

from metainf.accelerators import Accelerator, Vendor
from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.layers import Part, Storage

__all__ = ["where_instead"]

_Format = tuple[Storage, bool]
"""How a matrix is stored, and whether it is an expert's."""

_LEAST_CAPABILITY: Mapping[str, tuple[int, int]] = {
    "awq": (7, 5),
    "compressed-tensors": (7, 5),
    "fp8": (7, 5),
    "gptq": (7, 5),
    "modelopt": (8, 0),
    "modelopt_fp4": (7, 5),
    "modelopt_mixed": (7, 5),
    "mxfp4": (8, 0),
}
"""Least compute capability of an NVIDIA GPU by the engine's own name of the method.

Source: get_min_capability in model_executor/layers/quantization/: auto_awq.py, fp8.py, modelopt.py (ModelOptFp8Config,
ModelOptNvFp4Config, ModelOptMixedPrecisionConfig) and mxfp4.py. auto_gptq.py says 6.0 and then asks
utils/marlin_utils.py verify_marlin_supported, which has nothing below 7.5. compressed_tensors.py says 7.0 of itself and
asks the scheme of each layer: 7.5 in schemes/ for FP8 (W8A8 needs 8.9 and falls back to W8A16), INT8, INT4 and NVFP4;
`_capability` and `_HOPPER` are the rest.
"""
_COMPRESSED_MXFP4_CAPABILITY = (8, 0)
"""Source: compressed_tensors/schemes/compressed_tensors_w4a4_mxfp4.py; its values share scales by 32."""
_MXFP4_GROUP = 32
_HOPPER = (9, 0)
"""INT4 weights times FP8 activations: these GPUs and no newer ones. Source: compressed_tensors.py _is_fp8_w4a8_sm90."""

_ON_XPU = frozenset({"awq", "compressed-tensors", "fp8", "gptq", "modelopt", "mxfp4"})
"""Source: platforms/xpu.py, supported_quantization. That of platforms/rocm.py has every method that is read here."""
_ON_GAUDI = frozenset({"awq", "compressed-tensors", "fp8", "gptq"})
"""Source: vllm-gaudi, vllm_gaudi/platform.py, supported_quantization (AWQ and GPTQ under names of its own)."""


def where_instead(architecture: ModelArchitecture, accelerator: Accelerator) -> str | None:
    """Where vLLM runs the checkpoint, as a message says it, if not on this accelerator; None where it runs here."""
    if architecture.quantization is None:
        return None
    formats = _formats(architecture)
    method = _engine_method(architecture.quantization, formats)
    if accelerator.vendor is Vendor.NVIDIA:
        runs = _on_nvidia(method, formats, accelerator.compute_capability)
    elif accelerator.vendor is Vendor.AMD:
        runs = _on_amd(formats, accelerator)
    elif accelerator.vendor is Vendor.CPU:
        runs = _on_cpu(method, formats, accelerator)
    else:
        runs = _on_intel(method, formats, accelerator)
    return None if runs else _nvidia_gpus(method, formats)


def _formats(architecture: ModelArchitecture) -> frozenset[_Format]:
    """The quantised formats of the layers."""
    return frozenset(
        (linear.storage, linear.part is Part.EXPERT)
        for group in architecture.layer_groups
        for linear in group.layer.linears
        if linear.storage.bits_per_weight < 16.0
    )


def _engine_method(method: str, formats: frozenset[_Format]) -> str:
    """The engine's own name: it tells three kinds of modelopt checkpoints apart.

    Source: model_executor/layers/quantization/modelopt.py, override_quantization_method of each class.
    """
    if method != "modelopt":
        return method
    stored = {storage.weight_dtype for storage, _ in formats}
    if stored == {DType.FP8}:
        return method
    return "modelopt_fp4" if stored == {DType.FP4} else "modelopt_mixed"


def _capability(method: str, formats: frozenset[_Format]) -> tuple[int, int]:
    least = _LEAST_CAPABILITY[method]
    if method == "compressed-tensors" and any(_is_mxfp4(storage) for storage, _ in formats):
        return max(least, _COMPRESSED_MXFP4_CAPABILITY)
    return least


def _is_mxfp4(storage: Storage) -> bool:
    return storage.weight_dtype is DType.FP4 and storage.block_in == _MXFP4_GROUP


def _hopper_alone(formats: frozenset[_Format]) -> bool:
    return any(storage.weight_dtype is DType.INT4 and storage.gemm_dtype is DType.FP8 for storage, _ in formats)


def _weight_only_fp8(formats: frozenset[_Format]) -> bool:
    return any(storage.weight_dtype is DType.FP8 and storage.gemm_dtype is not DType.FP8 for storage, _ in formats)


def _nvidia_gpus(method: str, formats: frozenset[_Format]) -> str:
    if _hopper_alone(formats):
        return f"NVIDIA GPUs of compute capability {_HOPPER[0]}.{_HOPPER[1]}"
    major, minor = _capability(method, formats)
    return f"NVIDIA GPUs from compute capability {major}.{minor}"


def _on_nvidia(method: str, formats: frozenset[_Format], capability: tuple[int, int] | None) -> bool:
    if capability is None:
        return True
    return capability == _HOPPER if _hopper_alone(formats) else capability >= _capability(method, formats)


def _on_amd(formats: frozenset[_Format], accelerator: Accelerator) -> bool:
    """FP8 is multiplied in FP8 or not at all; 4-bit floats are emulated.

    Source: kernels/linear/__init__.py, PlatformEnum.ROCM: _POSSIBLE_WFP8A16_KERNELS has none, those for NVFP4 are an
    emulation; kernels/linear/scaled_mm/pytorch.py and rocm.py ask for CDNA3.
    """
    if _hopper_alone(formats) or _weight_only_fp8(formats):
        return False
    has_fp8 = any(storage.weight_dtype is DType.FP8 for storage, _ in formats)
    return accelerator.supports(DType.FP8) or not has_fp8


def _on_intel(method: str, formats: frozenset[_Format], accelerator: Accelerator) -> bool:
    """Source: besides the lists of methods, kernels/linear/__init__.py, which has NVFP4 for no XPU."""
    listed = _ON_GAUDI if accelerator.family.startswith("Gaudi") else _ON_XPU
    has_fp4 = any(storage.weight_dtype is DType.FP4 for storage, _ in formats)
    return method in listed and not _hopper_alone(formats) and (method == "mxfp4" or not has_fp4)


def _on_cpu(method: str, formats: frozenset[_Format], accelerator: Accelerator) -> bool:
    return all(_on_cpu_as(method, storage, is_expert, accelerator.has_amx_tile) for storage, is_expert in formats)


def _on_cpu_as(method: str, storage: Storage, is_expert: bool, has_tiles: bool) -> bool:
    """Whether a CPU multiplies one format; `has_tiles` says whether it has AMX tiles.

    Source: kernels/linear/__init__.py, PlatformEnum.CPU: no kernel for NVFP4, for FP8 weights alone or for 8-bit
    weights alone (mixed_precision/cpu.py takes 4 bits); scaled_mm/cpu.py: FP8 in blocks needs AMX tiles, without
    blocks there is torch's own product. fused_moe/experts/cpu_moe.py: experts in FP8, INT4 and MXFP4 need AMX tiles.
    """
    if storage.weight_dtype is DType.FP4:
        return method == "mxfp4" and is_expert and has_tiles
    if storage.weight_dtype is DType.INT8:
        return storage.gemm_dtype is DType.INT8
    if storage.weight_dtype is DType.INT4:
        return storage.gemm_dtype is not DType.FP8 and (has_tiles or not is_expert)
    whole_tensor = storage.block_in == 1 and not is_expert
    return storage.gemm_dtype is DType.FP8 and (has_tiles or whole_tensor)
