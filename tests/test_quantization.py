"""How weights are stored: bits with scales, the format of the product, and the modules that are spared."""

import contextlib
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.errors import InvalidWorkloadError
from metainf.known_models import known_model
from metainf.module_patterns import ModulePatterns

CONFIGS = Path(__file__).parent / "data" / "model_configs"


def quantised(quantization: object, base: str = "llama-3.1-8b-instruct", **kwargs: object) -> ModelArchitecture:
    config = json.loads((CONFIGS / f"{base}.json").read_text())
    if quantization is not None:
        config["quantization_config"] = quantization
    return ModelArchitecture.from_config(config, name="m", **kwargs)


def group(bits: int, kind: str, inputs: dict | None = None, **weights: object) -> dict:
    return {
        "targets": ["Linear"],
        "weights": {"num_bits": bits, "type": kind, "symmetric": True, **weights},
        "input_activations": inputs,
    }


def compressed(*groups: dict, **more: object) -> dict:
    named = {f"group_{index}": each for index, each in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "config_groups": named, "ignore": ["lm_head"], **more}


EIGHT_BIT_FLOAT = {"num_bits": 8, "type": "float", "dynamic": True}
EIGHT_BIT_INT = {"num_bits": 8, "type": "int", "dynamic": True}

METHODS = [
    pytest.param({"quant_method": "fp8"}, 8.0, DType.FP8, DType.FP8, id="fp8 per tensor"),
    pytest.param(
        {"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 128**2, DType.FP8, DType.FP8, id="fp8 blocks"
    ),
    pytest.param(
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
        8.0,
        DType.FP8,
        DType.FP8,
        id="modelopt FP8",
    ),
    pytest.param(
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, 4.5, DType.FP4, DType.FP4, id="NVFP4"
    ),
    pytest.param({"quant_algo": "W4A16_NVFP4"}, 4.5, DType.FP4, DType.BF16, id="NVFP4 weights only, method left out"),
    pytest.param(
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "modules_to_not_convert": None},
        4 + 20 / 128,
        DType.INT4,
        DType.BF16,
        id="AWQ",
    ),
    pytest.param(
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True},
        4 + 20 / 128,
        DType.INT4,
        DType.BF16,
        id="GPTQ",
    ),
    pytest.param({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8.0, DType.INT8, DType.BF16, id="GPTQ 8 bits"),
    pytest.param(
        compressed(group(8, "float", EIGHT_BIT_FLOAT, strategy="channel")), 8.0, DType.FP8, DType.FP8, id="fp8 W8A8"
    ),
    pytest.param(
        compressed(group(8, "int", EIGHT_BIT_INT, strategy="channel")), 8.0, DType.INT8, DType.INT8, id="int8 W8A8"
    ),
    pytest.param(
        compressed(group(4, "int", None, group_size=128, strategy="group")),
        4 + 16 / 128,
        DType.INT4,
        DType.BF16,
        id="int4 W4A16",
    ),
    pytest.param(
        compressed(group(4, "float", {"num_bits": 4, "type": "float"}, group_size=16)),
        4.5,
        DType.FP4,
        DType.FP4,
        id="NVFP4 as compressed-tensors",
    ),
    pytest.param(
        {**compressed(group(4, "float", {"num_bits": 4}, group_size=16)), "quant_method": "modelopt"},
        4.5,
        DType.FP4,
        DType.FP4,
        id="modelopt with groups",
    ),
]


@pytest.mark.parametrize(("quantization", "bits", "stored", "gemm"), METHODS)
def test_bits_and_formats_of_each_method(quantization, bits, stored, gemm):
    found = quantised(quantization)
    assert found.storage.bits_per_weight == pytest.approx(bits)
    assert (found.storage.weight_dtype, found.storage.gemm_dtype) == (stored, gemm)


@pytest.mark.parametrize(("quantization", "bits", "stored", "gemm"), METHODS)
def test_embeddings_head_and_norms_stay_in_sixteen_bits(quantization, bits, stored, gemm):
    found = quantised(quantization)
    table, norms = 128256 * 4096, 65 * 4096
    matrices = found.parameters - 2 * table - norms
    assert found.weight_bytes == pytest.approx(matrices * bits / 8 + 2 * (2 * table + norms))
    assert found.head_storage.weight_dtype is DType.BF16


@pytest.mark.parametrize(
    ("model_id", "gib"),
    [
        # Source: arXiv 2508.10925, table 1, checkpoint sizes.
        pytest.param("openai/gpt-oss-20b", 12.8, id="gpt-oss-20b"),
        pytest.param("openai/gpt-oss-120b", 60.8, id="gpt-oss-120b"),
    ],
)
def test_mxfp4_checkpoints_have_their_published_size(model_id, gib):
    assert known_model(model_id).weight_bytes / 2**30 == pytest.approx(gib, rel=0.01)


def test_mxfp4_quantises_experts_only():
    found = known_model("openai/gpt-oss-20b")
    stored = {linear.name: linear.storage for group in found.layer_groups for linear in group.layer.linears}
    assert stored["mlp.experts.gate_proj"].bits_per_weight == 4.25
    assert stored["mlp.experts.gate_proj"].gemm_dtype is DType.BF16
    assert stored["self_attn.q_proj"].bits_per_weight == 16
    assert stored["mlp.router"].bits_per_weight == 16


def test_an_fp8_checkpoint_with_blocks_has_its_published_size():
    # Source: total_size in DeepSeek-V3's model.safetensors.index.json; it repeats both tables for the extra layer.
    found = known_model("deepseek-ai/DeepSeek-V3")
    repeated = 2 * 2 * found.vocab_size * found.hidden_size
    assert found.weight_bytes + found.mtp_weight_bytes + repeated == pytest.approx(688_586_727_753, rel=0.001)


def test_listed_modules_are_spared_layer_by_layer():
    config = {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "exclude_modules": ["lm_head", "model.layers.0.self_attn.q_proj", "model.layers.3.mlp*"],
    }
    found = quantised(config)
    assert sorted(group.count for group in found.layer_groups) == [1, 1, 30]
    spared = {linear.name for linear in found.layer_groups[0].layer.linears if linear.storage.bits_per_weight == 16}
    assert spared == {"self_attn.q_proj"}
    third = found.layer_groups[found.layer_pattern[3]].layer
    assert {linear.name for linear in third.linears if linear.storage.bits_per_weight == 16} == {
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    }


def test_scout_spares_attention_and_router_and_ignores_the_vision_list():
    found = ModelArchitecture.from_config(
        json.loads((CONFIGS / "llama-4-scout-17b-16e-instruct-fp8-dynamic.json").read_text()), name="scout"
    )
    for each in found.layer_groups:
        bits = {linear.name.rsplit(".", 1)[1]: linear.storage.bits_per_weight for linear in each.layer.linears}
        assert bits["q_proj"] == bits["router"] == 16
        assert bits["down_proj"] == 8
    assert sum(each.count for each in found.layer_groups) == 48


@pytest.mark.parametrize(
    ("pattern", "index", "name", "spared"),
    [
        pytest.param("gate", 0, "mlp.gate", True, id="a bare component"),
        pytest.param("gate", 0, "mlp.gate_proj", False, id="but not its beginning"),
        pytest.param("mlp.gate", 5, "mlp.gate", True, id="two components, any layer"),
        pytest.param("model.layers.1.self_attn", 1, "self_attn.q_proj", True, id="all below a module"),
        pytest.param("model.layers.1.self_attn", 11, "self_attn.q_proj", False, id="layer 1 is not 11"),
        pytest.param("model.layers.1", 1, "mlp.up_proj", True, id="a whole layer"),
        pytest.param("model.layers.*.self_attn", 7, "self_attn.q_proj", True, id="a star for the layer"),
        pytest.param("*.mlp.shared_expert.*", 7, "mlp.shared_expert.up_proj", True, id="stars around"),
        pytest.param("language_model.model.layers.2.mlp*", 2, "mlp.up_proj", True, id="a wrapped text model"),
        pytest.param("vision_model.model.layers.2.mlp", 2, "mlp.up_proj", False, id="the vision tower's layer"),
        pytest.param("visual.blocks.0.attn*", 0, "self_attn.q_proj", False, id="the vision tower's block"),
        pytest.param("backbone.layers.4.mixer.in_proj", 4, "mixer.in_proj", True, id="Nemotron's prefix"),
        pytest.param("transformer.h.3.attn", 3, "attn.c_attn", True, id="GPT-2's prefix"),
        pytest.param("re:.*self_attn.*", 3, "self_attn.o_proj", True, id="an expression"),
        pytest.param("re:.*mlp.gate$", 3, "mlp.gate_proj", False, id="an expression with an end"),
        pytest.param(r"re:.*layers\.3\..*", 3, "mlp.up_proj", True, id="an expression with a layer"),
        pytest.param(r"re:.*layers\.3\..*", 4, "mlp.up_proj", False, id="and another layer"),
    ],
)
def test_module_patterns(pattern, index, name, spared):
    assert ModulePatterns([pattern], "m").match(index, name) is spared


def test_modelopts_side_file_is_read():
    side = {"producer": {}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    found = quantised(None, hf_quant_config=side)
    assert found.quantization == "modelopt"
    assert found.storage.weight_dtype is DType.FP8
    assert found.kv_cache_dtype is DType.FP8


def test_mixed_precision_follows_the_list_of_modules():
    layers = {f"model.layers.{i}.mlp.{n}_proj": {"quant_algo": "NVFP4"} for i in range(32) for n in ("up", "down")}
    layers |= {f"model.layers.{i}.self_attn.o_proj": {"quant_algo": "FP8"} for i in range(32)}
    side = {"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}}
    found = quantised(None, hf_quant_config=side)
    (only,) = found.layer_groups
    bits = {linear.name: linear.storage.bits_per_weight for linear in only.layer.linears}
    assert bits["mlp.up_proj"] == 4.5
    assert bits["self_attn.o_proj"] == 8
    assert bits["mlp.gate_proj"] == 16


def test_groups_that_name_modules_come_before_the_class():
    first, second = group(8, "float", EIGHT_BIT_FLOAT), group(4, "int", None, group_size=128)
    second["targets"] = ["re:.*mlp.*"]
    found = quantised(compressed(first, second))
    bits = {linear.name: linear.storage.weight_dtype for linear in found.layer_groups[0].layer.linears}
    assert bits["mlp.up_proj"] is DType.INT4
    assert bits["self_attn.q_proj"] is DType.FP8


def test_a_calibrated_cache_is_reported():
    scheme = {"num_bits": 8, "type": "float"}
    assert quantised(compressed(group(8, "float"), kv_cache_scheme=scheme)).kv_cache_dtype is DType.FP8
    assert quantised(compressed(group(8, "float"))).kv_cache_dtype is None


def test_a_quantised_head_is_counted():
    plain = quantised({"quant_method": "gptq", "bits": 4, "group_size": 128})
    head = quantised({"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True})
    saved = 128256 * 4096 * (16 - 4 - 20 / 128) / 8
    assert plain.weight_bytes - head.weight_bytes == pytest.approx(saved)


def test_spared_extra_layers_stay_in_sixteen_bits():
    base = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    plain, spared = (quantised(q, "glm-5.2-fp8") for q in (base, base | {"modules_to_not_convert": ["mtp.*"]}))
    assert spared.mtp_weight_bytes == pytest.approx(2 * spared.mtp_parameters)
    assert plain.mtp_weight_bytes < 0.55 * spared.mtp_weight_bytes
    assert plain.weight_bytes == spared.weight_bytes


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        pytest.param({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes' is not known", id="bnb"),
        pytest.param({"quant_method": "torchao"}, "'torchao' is not known", id="torchao"),
        pytest.param({}, "quant_method is missing", id="empty"),
        pytest.param({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size", id="half a block"),
        pytest.param({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size", id="an empty block"),
        pytest.param({"quant_method": "gptq", "bits": 3}, "3-bit", id="3 bits"),
        pytest.param({"quant_method": "gptq"}, "bits", id="bits missing"),
        pytest.param({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size", id="an empty group"),
        pytest.param(
            {"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*mlp.*": {"bits": 8}}}, "other bits", id="mixed GPTQ"
        ),
        pytest.param({"quant_method": "modelopt", "quant_algo": "INT4_AWQ"}, "'INT4_AWQ' is not known", id="modelopt"),
        pytest.param({"quant_method": "compressed-tensors"}, "config_groups is missing", id="no groups"),
        pytest.param({"quant_method": "compressed-tensors", "config_groups": {}}, "config_groups", id="zero groups"),
        pytest.param(compressed(group(2, "int")), "2-bit int", id="2 bits"),
        pytest.param(
            {"quant_method": "awq", "modules_to_not_convert": "lm_head"}, "modules_to_not_convert", id="list as a text"
        ),
        pytest.param(compressed(group(8, "float"), ignore=["re:(a+)+$"]), "too complex", id="exponential"),
        pytest.param(compressed(group(8, "float"), ignore=["re:["]), "not valid", id="a broken expression"),
    ],
)
def test_refuses_what_it_does_not_know_by_name(quantization, message):
    with pytest.raises(InvalidWorkloadError, match=message):
        quantised(quantization)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="re:.*+?()[]{}|^$\\dalys0123_", max_size=30), st.integers(0, 60))
def test_any_pattern_is_answered_or_refused_in_time(pattern, index):
    start_s = time.thread_time()
    with contextlib.suppress(InvalidWorkloadError):
        ModulePatterns([pattern, "re:" + pattern], "m").match(index, "block_sparse_moe.experts.0.w1")
    assert time.thread_time() - start_s < 5.0  # what runs away takes minutes; a garbage collection may take a second
