"""Which accelerators run a quantised checkpoint: as vLLM's own source has it, method by method."""

import json
from pathlib import Path

import pytest

from metainf.accelerators import Accelerator, Vendor, catalogue, get
from metainf.architecture import ModelArchitecture
from metainf.conflicts import ConflictReason
from metainf.layouts import Layout
from metainf.methods import applicable, method
from metainf.quantization_support import where_instead
from metainf.rejections import RejectionReason
from metainf.settings import EngineSettings
from metainf.settings_rules import settings_conflicts

CONFIGS = Path(__file__).parent / "data" / "model_configs"
V100, T4, A100, L4 = "V100-SXM-32GB", "T4-PCIe-16GB", "A100-SXM-80GB", "L4-PCIe-24GB"
H100, B200 = "H100-SXM-80GB", "B200-SXM-180GB"
MI250, MI300 = "MI250-OAM-64GB", "MI300X-OAM-192GB"
GAUDI, XPU = "Gaudi3-OAM-128GB", "Max-1550-OAM-128GB"
CPU, TILES = "CPU-x86-64", "Xeon-Granite-Rapids"
EVERYWHERE = (V100, T4, A100, L4, H100, B200, MI250, MI300, GAUDI, XPU, CPU, TILES)


def compressed(bits: int, kind: str, inputs: dict[str, object] | None = None, **weights: object) -> dict[str, object]:
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": kind, **weights}, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


FP8_INPUTS: dict[str, object] = {"num_bits": 8, "type": "float"}
INT8_INPUTS: dict[str, object] = {"num_bits": 8, "type": "int"}
MIXED = {
    "quant_method": "modelopt",
    "quant_algo": "MIXED_PRECISION",
    "quantized_layers": {
        "model.layers.0.mlp.down_proj": {"quant_algo": "FP8"},
        "model.layers.1.mlp.down_proj": {"quant_algo": "NVFP4", "group_size": 16},
    },
}
CHECKPOINTS: dict[str, dict[str, object]] = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "gptq-8": {"quant_method": "gptq", "bits": 8, "group_size": 128},
    "fp8": {"quant_method": "fp8"},
    "fp8-blocks": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "modelopt-fp8": {"quant_method": "modelopt", "quant_algo": "FP8"},
    "modelopt-nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
    "modelopt-mixed": MIXED,
    "fp8-w8a8": compressed(8, "float", FP8_INPUTS, strategy="channel"),
    "fp8-w8a16": compressed(8, "float", strategy="channel"),
    "int8-w8a8": compressed(8, "int", INT8_INPUTS, strategy="channel"),
    "int4-w4a16": compressed(4, "int", group_size=128),
    "int4-w4a8-fp8": compressed(4, "int", FP8_INPUTS, group_size=128),
    "nvfp4": compressed(4, "float", {"num_bits": 4, "type": "float"}, group_size=16),
    "mxfp4-dense": compressed(4, "float", {"num_bits": 4, "type": "float"}, group_size=32),
}


def device(name: str) -> Accelerator:
    found = get(name)
    assert found is not None
    return found


def checkpoint(
    quantization: dict[str, object] | None, base: str = "llama-3.1-8b-instruct", **fields: object
) -> ModelArchitecture:
    config = json.loads((CONFIGS / f"{base}.json").read_text())
    if quantization is not None:
        config["quantization_config"] = quantization | fields
    return ModelArchitecture.from_config(config, name="m")


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        pytest.param("awq", (T4, A100, L4, H100, B200, MI250, MI300, GAUDI, XPU, CPU, TILES), id="AWQ"),
        pytest.param("gptq", (T4, A100, L4, H100, B200, MI250, MI300, GAUDI, XPU, CPU, TILES), id="GPTQ"),
        pytest.param("gptq-8", (T4, A100, L4, H100, B200, MI250, MI300, GAUDI, XPU), id="GPTQ in 8 bits"),
        pytest.param("fp8", (T4, A100, L4, H100, B200, MI300, GAUDI, XPU, CPU, TILES), id="FP8, widened below 8.9"),
        pytest.param("fp8-blocks", (T4, A100, L4, H100, B200, MI300, GAUDI, XPU, TILES), id="FP8 in blocks"),
        pytest.param("modelopt-fp8", (A100, L4, H100, B200, MI300, XPU, CPU, TILES), id="modelopt FP8"),
        pytest.param("modelopt-nvfp4", (T4, A100, L4, H100, B200, MI250, MI300), id="modelopt NVFP4"),
        pytest.param("modelopt-mixed", (T4, A100, L4, H100, B200, MI300), id="modelopt, mixed"),
        pytest.param("fp8-w8a8", (T4, A100, L4, H100, B200, MI300, GAUDI, XPU, CPU, TILES), id="FP8 W8A8"),
        pytest.param("fp8-w8a16", (T4, A100, L4, H100, B200, GAUDI, XPU), id="FP8 weights alone"),
        pytest.param("int8-w8a8", (T4, A100, L4, H100, B200, MI250, MI300, GAUDI, XPU, CPU, TILES), id="INT8 W8A8"),
        pytest.param("int4-w4a16", (T4, A100, L4, H100, B200, MI250, MI300, GAUDI, XPU, CPU, TILES), id="INT4"),
        pytest.param("int4-w4a8-fp8", (H100,), id="INT4 times FP8: Hopper alone"),
        pytest.param("nvfp4", (T4, A100, L4, H100, B200, MI250, MI300), id="NVFP4"),
        pytest.param("mxfp4-dense", (A100, L4, H100, B200, MI250, MI300), id="MXFP4"),
    ],
)
def test_a_checkpoint_runs_where_vllm_has_kernels_for_it(name: str, runs: tuple[str, ...]) -> None:
    architecture = checkpoint(CHECKPOINTS[name])
    assert tuple(each for each in EVERYWHERE if where_instead(architecture, device(each)) is None) == runs


@pytest.mark.parametrize(
    ("quantization", "runs"),
    [
        pytest.param({"quant_method": "mxfp4"}, (A100, H100, MI300, XPU, TILES), id="MXFP4"),
        pytest.param(CHECKPOINTS["awq"], (A100, H100, MI300, GAUDI, XPU, TILES), id="AWQ"),
        pytest.param(CHECKPOINTS["fp8"], (A100, H100, MI300, GAUDI, XPU, TILES), id="FP8"),
        pytest.param(CHECKPOINTS["int8-w8a8"], (A100, H100, MI300, GAUDI, XPU, CPU, TILES), id="INT8"),
    ],
)
def test_quantised_experts_need_more_of_a_cpu(quantization: dict[str, object], runs: tuple[str, ...]) -> None:
    architecture = checkpoint(quantization, "mixtral-8x7b-v0.1")
    places = (V100, A100, H100, MI300, GAUDI, XPU, CPU, TILES)
    assert tuple(each for each in places if where_instead(architecture, device(each)) is None) == runs


@pytest.mark.parametrize("name", [each.name for each in catalogue()])
def test_a_checkpoint_that_is_not_quantised_runs_anywhere(name: str) -> None:
    assert where_instead(checkpoint(None), device(name)) is None


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_every_checkpoint_runs_on_some_gpu_and_none_on_volta(name: str) -> None:
    architecture = checkpoint(CHECKPOINTS[name])
    gpus = [each for each in catalogue() if each.vendor is Vendor.NVIDIA]
    assert any(where_instead(architecture, each) is None for each in gpus)
    assert all(where_instead(architecture, each) for each in gpus if each.compute_capability == (7, 0))


@pytest.mark.parametrize(
    ("name", "accelerator", "says"),
    [
        pytest.param(
            "awq",
            V100,
            "(awq), which vLLM runs on NVIDIA GPUs from compute capability 7.5 and not on V100-SXM-32GB (compute "
            "capability 7.0): take one that is not quantised, or a pool of such GPUs",
            id="too old a GPU",
        ),
        pytest.param(
            "int4-w4a8-fp8", B200, "runs on NVIDIA GPUs of compute capability 9.0 and not on B200", id="too new a GPU"
        ),
        pytest.param("modelopt-nvfp4", CPU, "from compute capability 7.5 and not on CPU-x86-64:", id="NVFP4 on a CPU"),
    ],
)
def test_every_method_is_rejected_for_it_and_says_where_the_checkpoint_runs(
    name: str, accelerator: str, says: str
) -> None:
    for each in ("default", "no-prefix-caching", "small-token-budget"):
        found = applicable(method(each), checkpoint(CHECKPOINTS[name]), device(accelerator), Layout())
        assert found[0].reason is ConflictReason.UNSUPPORTED_PRECISION
        assert found[0].rejection_reason is RejectionReason.UNSUPPORTED_PRECISION
        assert says in found[0].detail


@pytest.mark.parametrize(
    ("quantization", "accelerator", "possible"),
    [
        pytest.param({"kv_cache_quant_algo": "FP8"}, A100, False, id="an FP8 cache on Ampere"),
        pytest.param({"kv_cache_quant_algo": "FP8"}, L4, True, id="on Ada"),
        pytest.param({"kv_cache_quant_algo": "FP8"}, MI300, True, id="on MI300X"),
        pytest.param({"kv_cache_quant_algo": "FP8"}, XPU, False, id="on an Intel GPU"),
        pytest.param({"kv_cache_quant_algo": "FP8"}, CPU, True, id="on a CPU"),
        pytest.param({}, A100, True, id="weights alone on Ampere"),
    ],
)
def test_a_cache_that_the_checkpoint_brings_is_judged_as_one_that_is_asked_for(
    quantization: dict[str, object], accelerator: str, possible: bool
) -> None:
    architecture = checkpoint(CHECKPOINTS["modelopt-fp8"], **quantization)
    found = settings_conflicts(
        EngineSettings(), architecture=architecture, accelerator=device(accelerator), layout=Layout()
    )
    assert [each.reason for each in found] == ([] if possible else [ConflictReason.UNSUPPORTED_PRECISION])
    assert possible or "m brings its own: a KV cache in fp8 is not served on" in found[0].detail
