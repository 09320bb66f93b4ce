"""What a config.json comes to: parameters, bytes, caches, layouts; and what it may not be."""

import copy
import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.errors import InvalidWorkloadError, UnknownModelError
from metainf.families import FAMILIES
from metainf.known_models import known_model, known_model_config
from metainf.layers import AttentionKind, MixerKind, MlpKind

DATA = Path(__file__).parent / "data"
CONFIGS = sorted(p.stem for p in (DATA / "model_configs").glob("*.json"))
TOTALS = json.loads((DATA / "architecture_totals.json").read_text())


def config_of(name: str) -> dict:
    return json.loads((DATA / "model_configs" / f"{name}.json").read_text())


def architecture(name: str, **changes: object) -> ModelArchitecture:
    return ModelArchitecture.from_config(config_of(name) | changes, name=name)


def test_thirteen_configs_are_at_hand():
    assert len(CONFIGS) == 13
    assert set(CONFIGS) == set(TOTALS["files"])


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_the_parameters_that_the_models_own_code_has(name):
    assert architecture(name).parameters == TOTALS["files"][name]


@pytest.mark.parametrize("case", TOTALS["families"], ids=lambda case: case["name"])
def test_counts_small_models_of_other_families_as_their_own_code_does(case):
    found = ModelArchitecture.from_config(case["config"], name=case["name"])
    assert found.parameters == case["parameters"]


def test_every_family_but_a_few_is_compared_with_its_own_code():
    seen = {case["config"]["architectures"][0] for case in TOTALS["families"]}
    seen |= {config_of(name)["architectures"][0] for name in CONFIGS}
    seen |= {known_model(model_id).architecture for model_id in TOTALS["bundled"]}
    text_twins = {
        "KimiK25ForConditionalGeneration",  # text model of DeepseekV3ForCausalLM
        "Llama4ForCausalLM",  # text model of Llama4ForConditionalGeneration
        "Mistral3ForConditionalGeneration",  # text model of MistralForCausalLM
        "Qwen3VLForConditionalGeneration",  # text model of Qwen3ForCausalLM
        "Qwen3VLMoeForConditionalGeneration",  # text model of Qwen3MoeForCausalLM
    }
    assert set(FAMILIES) - seen == text_twins


@pytest.mark.parametrize(
    ("name", "published_billion"),
    [
        # Source: the number of parameters that the model's page on the hub states for its safetensors.
        pytest.param("codellama-34b-instruct-hf", 33.7, id="Code Llama 34B"),
        pytest.param("deepseek-v2-lite", 15.7, id="DeepSeek V2 Lite, arXiv 2405.04434"),
        pytest.param("glm-5.2-fp8", 744, id="GLM 5, as its maker names it"),
        pytest.param("llama-2-7b-hf", 6.74, id="Llama 2 7B"),
        pytest.param("llama-3.1-8b-instruct", 8.03, id="Llama 3.1 8B"),
        pytest.param("llama-3.1-70b-instruct", 70.6, id="Llama 3.1 70B"),
        pytest.param("mistral-nemo-instruct-2407", 12.25, id="Mistral Nemo"),
        pytest.param("mixtral-8x7b-v0.1", 46.7, id="Mixtral 8x7B"),
        pytest.param("qwen2.5-7b-instruct", 7.62, id="Qwen 2.5 7B"),
        pytest.param("qwen3-14b", 14.8, id="Qwen 3 14B, arXiv 2505.09388"),
        pytest.param("qwen3-30b-a3b", 30.5, id="Qwen 3 30B-A3B, arXiv 2505.09388"),
        pytest.param("yi-34b", 34.4, id="Yi 34B"),
        pytest.param("llama-4-scout-17b-16e-instruct-fp8-dynamic", 109 - 0.87, id="Scout less its vision tower"),
    ],
)
def test_total_is_within_one_percent_of_the_published_one(name, published_billion):
    assert architecture(name).parameters / 1e9 == pytest.approx(published_billion, rel=0.01)


@pytest.mark.parametrize(
    ("model_id", "published_billion", "tables_left_out"),
    [
        # Makers differ in which of the two tables (embedding, head) they count; published figures are rounded.
        pytest.param("deepseek-ai/DeepSeek-V3", 37, 1, id="V3, arXiv 2412.19437, without the embedding table"),
        pytest.param("deepseek-ai/DeepSeek-V2-Lite", 2.4, 1, id="V2 Lite, arXiv 2405.04434"),
        pytest.param("Qwen/Qwen3-30B-A3B", 3.3, 0, id="Qwen 3 30B-A3B, arXiv 2505.09388, with both"),
        pytest.param("Qwen/Qwen3-235B-A22B", 22, 0, id="Qwen 3 235B-A22B, arXiv 2505.09388, with both"),
        pytest.param("mistralai/Mixtral-8x7B-v0.1", 12.9, 0, id="Mixtral 8x7B, arXiv 2401.04088, with both"),
        pytest.param("mistralai/Mixtral-8x22B-v0.1", 39, 0, id="Mixtral 8x22B, mistral.ai, with both"),
        pytest.param("openai/gpt-oss-20b", 3.6, 1, id="gpt-oss-20b, arXiv 2508.10925, head only"),
        pytest.param("openai/gpt-oss-120b", 5.1, 1, id="gpt-oss-120b, arXiv 2508.10925, head only"),
        pytest.param("meta-llama/Llama-4-Scout-17B-16E-Instruct", 17, 0, id="Llama 4 Scout, Meta's model card"),
        pytest.param("moonshotai/Kimi-K2-Instruct", 32, 1, id="Kimi K2, arXiv 2507.20534"),
        pytest.param("zai-org/GLM-5", 40, 1, id="GLM 5, as its maker names it"),
        pytest.param("Qwen/Qwen3.5-397B-A17B", 17, 0, id="Qwen 3.5 397B-A17B, by its name"),
    ],
)
def test_active_parameters_match_the_published_ones(model_id, published_billion, tables_left_out):
    found = known_model(model_id)
    table = found.vocab_size * found.hidden_size
    assert (found.active_parameters - tables_left_out * table) / 1e9 == pytest.approx(published_billion, rel=0.025)


def test_dense_models_are_wholly_active():
    found = architecture("llama-3.1-8b-instruct")
    assert found.active_parameters == found.parameters
    assert not found.is_moe
    assert found.expert_parameters == 0


def test_a_tied_table_is_stored_once_and_computed_once():
    found = known_model("meta-llama/Llama-3.2-1B-Instruct")
    assert found.tied_embeddings
    assert found.embedding_parameters == 128256 * 2048
    assert found.linear_flops_per_token() == pytest.approx(2 * found.parameters, rel=0.001)


def test_flops_leave_out_the_embedding_table_and_on_request_the_head():
    found = architecture("llama-3.1-8b-instruct")
    table = 128256 * 4096
    assert found.linear_flops_per_token() == pytest.approx(2 * (found.parameters - table), rel=0.001)
    assert found.linear_flops_per_token() - found.linear_flops_per_token(logits=False) == 2 * table


@pytest.mark.parametrize(
    ("model_id", "kv_bytes"),
    [
        # By hand: 2 x layers x KV heads x head size x 2 bytes; MLA: layers x (rank + rope) x 2 bytes.
        pytest.param("meta-llama/Llama-3.1-8B-Instruct", 2 * 32 * 8 * 128 * 2, id="GQA"),
        pytest.param("meta-llama/Llama-2-7b-hf", 2 * 32 * 32 * 128 * 2, id="MHA"),
        pytest.param("deepseek-ai/DeepSeek-V3", 61 * 576 * 2, id="MLA"),
        pytest.param("zai-org/GLM-5", 78 * (576 * 2 + 132), id="MLA with an indexer's keys"),
        pytest.param("zai-org/GLM-5.2", 78 * 576 * 2 + 21 * 132, id="MLA with 21 of 78 layers indexing"),
        pytest.param("openai/gpt-oss-20b", 2 * 12 * 8 * 64 * 2, id="half the layers slide"),
        pytest.param("Qwen/Qwen3.5-397B-A17B", 2 * 15 * 2 * 256 * 2, id="one attention in four layers"),
    ],
)
def test_kv_bytes_per_token_of_layers_without_a_window(model_id, kv_bytes):
    assert known_model(model_id).kv_bytes_per_token(DType.BF16) == kv_bytes


def test_sparse_latents_in_eight_bits_take_656_bytes_per_layer():
    found = known_model("deepseek-ai/DeepSeek-V3.2")
    assert found.kv_bytes_per_token(DType.FP8) == 61 * (656 + 132)


def test_a_window_bounds_the_cache():
    found = known_model("openai/gpt-oss-20b")
    per_layer = 2 * 8 * 64 * 2
    assert found.kv_bytes(100, DType.BF16) == 24 * per_layer * 100
    assert found.kv_bytes(10_000, DType.BF16) == 12 * per_layer * 10_000 + 12 * per_layer * 128


def test_a_chunk_bounds_the_cache():
    found = architecture("llama-4-scout-17b-16e-instruct-fp8-dynamic")
    per_layer = 2 * 8 * 128 * 2
    assert found.kv_bytes(100_000, DType.BF16) == 12 * per_layer * 100_000 + 36 * per_layer * 8192
    assert found.mixer_kinds() == {MixerKind.CHUNKED, MixerKind.FULL}


def test_recurrent_state_does_not_grow():
    found = known_model("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    growth = found.kv_bytes(2000, DType.BF16) - found.kv_bytes(1000, DType.BF16)
    assert growth == 1000 * found.kv_bytes_per_token(DType.BF16)
    mamba_layers = 23
    state = 64 * 64 * 128 * 4 + (64 * 64 + 2 * 8 * 128) * 3 * 2
    assert found.kv_bytes(1, DType.BF16) == mamba_layers * state + found.kv_bytes_per_token(DType.BF16)
    assert found.kv_bytes(0, DType.BF16) == 0


@pytest.mark.parametrize(
    ("model_id", "tp", "heads"),
    [
        pytest.param("meta-llama/Llama-3.1-8B-Instruct", 1, 8, id="one rank has all"),
        pytest.param("meta-llama/Llama-3.1-8B-Instruct", 4, 2, id="divided"),
        pytest.param("meta-llama/Llama-3.1-8B-Instruct", 16, 1, id="more ranks than heads -> copies"),
        pytest.param("deepseek-ai/DeepSeek-V3", 8, 1, id="a latent is on every rank"),
    ],
)
def test_kv_heads_per_rank(model_id, tp, heads):
    assert known_model(model_id).kv_heads_per_rank(tp) == heads


def test_a_latent_cache_is_whole_on_every_rank():
    found = known_model("deepseek-ai/DeepSeek-V3")
    assert found.kv_bytes(1000, DType.BF16, tp=8) == found.kv_bytes(1000, DType.BF16)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        pytest.param("qwen2.5-7b-instruct", (1, 2, 4), id="28 heads, 4 KV heads: 7 would tear them"),
        pytest.param("llama-3.1-70b-instruct", (1, 2, 4, 8, 16, 32, 64), id="64 heads"),
        pytest.param("qwen3-14b", (1, 2, 4, 8), id="40 heads, 8 KV heads"),
        pytest.param("glm-5.2-fp8", (1, 2, 4, 8, 16), id="at 32 an fp8 block of 128 would be torn"),
    ],
)
def test_valid_tensor_parallel_sizes(name, sizes):
    assert architecture(name).tensor_parallel_sizes() == sizes


def test_fp8_blocks_limit_tensor_parallelism_unless_experts_stay_whole():
    # 768 / 8 = 96 is not a multiple of the block of 128.
    block = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    found = architecture("qwen3-30b-a3b", quantization_config=block)
    assert not found.supports_tensor_parallel(8)
    assert found.supports_tensor_parallel(8, ep=8)


def test_bytes_per_rank_divide_what_can_be_divided():
    found = architecture("llama-3.1-70b-instruct")
    assert found.weight_bytes == 2 * found.parameters
    norms = 2 * (2 * 80 + 1) * 8192
    assert found.weight_bytes_per_rank(tp=8) == pytest.approx((found.weight_bytes - norms) / 8 + norms)


def test_copied_kv_heads_make_ranks_fuller():
    found = known_model("meta-llama/Llama-3.1-8B-Instruct")
    kv = 2 * 32 * 4096 * 8 * 128 * 2
    assert found.weight_bytes_per_rank(tp=16) - found.weight_bytes / 16 > kv / 8 - kv / 16 - 1


def test_pipeline_stages_hold_their_layers_and_one_table_each():
    found = architecture("llama-3.1-8b-instruct")
    table = 128256 * 4096 * 2
    layers = found.weight_bytes - 2 * table - 4096 * 2
    assert found.weight_bytes_per_rank(pp=2) == pytest.approx(layers / 2 + table + 4096 * 2)
    assert found.kv_bytes(1000, DType.BF16, pp=2) == found.kv_bytes(1000, DType.BF16) / 2


def test_uneven_stages_give_the_last_one_less():
    # Source: vLLM distributed/utils.py: 78 layers over 4 stages are 19, 20, 20, 19.
    found = architecture("glm-5.2-fp8")
    assert found.kv_bytes(1, DType.BF16, pp=4) == found.kv_bytes(1, DType.BF16) * 20 / 78


def test_more_stages_than_layers_are_refused():
    with pytest.raises(InvalidWorkloadError, match="33 pipeline stages"):
        architecture("llama-3.1-8b-instruct").weight_bytes_per_rank(pp=33)


def test_expert_parallelism_spreads_whole_experts():
    found = architecture("mixtral-8x7b-v0.1")
    rest = found.weight_bytes - 2 * found.expert_parameters
    assert found.weight_bytes_per_rank(ep=8) == pytest.approx(rest + 2 * found.expert_parameters / 8)
    assert found.weight_bytes_per_rank(ep=5) == pytest.approx(rest + 2 * found.expert_parameters * 2 / 8)


def test_distinct_experts_of_a_batch():
    found = architecture("mixtral-8x7b-v0.1")
    assert found.distinct_experts(1) == pytest.approx(2)
    assert found.distinct_experts(2) == pytest.approx(8 * (1 - 0.75**2))
    assert found.distinct_experts(10_000) == pytest.approx(8)
    assert architecture("qwen3-14b").distinct_experts(64) == 0


def test_attention_flops_by_hand():
    found = architecture("llama-3.1-8b-instruct")
    assert found.attention_flops_per_token(1000) == 32 * 4 * 32 * 128 * 1000
    latent = known_model("deepseek-ai/DeepSeek-V3")
    assert latent.attention_flops_per_token(1000) == 61 * 2 * 128 * (2 * 512 + 64) * 1000
    assert latent.attention_flops_per_token(1000, decode=False) == 61 * 2 * 128 * (192 + 128) * 1000


def test_multi_token_prediction_layers_are_counted_apart():
    # Source: DeepSeek-V3's README_WEIGHTS: 11.5B parameters beyond embedding and head, which are shared.
    found = known_model("deepseek-ai/DeepSeek-V3")
    assert found.has_mtp
    assert found.mtp_parameters / 1e9 == pytest.approx(11.5, rel=0.01)
    assert not known_model("moonshotai/Kimi-K2-Instruct").has_mtp


def test_equal_layers_are_grouped():
    found = architecture("deepseek-v2-lite")
    assert [group.count for group in found.layer_groups] == [1, 26]
    assert [group.layer.mlp.kind for group in found.layer_groups] == [MlpKind.DENSE, MlpKind.MOE]
    assert found.layer_pattern == (0, *(1,) * 26)
    assert found.layers == 27


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("llama-2-7b-hf", AttentionKind.MHA, id="as many KV heads as heads"),
        pytest.param("llama-3.1-8b-instruct", AttentionKind.GQA, id="fewer KV heads"),
        pytest.param("deepseek-v2-lite", AttentionKind.MLA, id="latent"),
    ],
)
def test_attention_kind(name, kind):
    assert architecture(name).layer_groups[0].layer.mixer.attention_kind is kind


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        pytest.param(None, 40960, id="no scaling"),
        pytest.param(
            {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            131072,
            id="yarn",
        ),
        pytest.param({"rope_type": "llama3", "factor": 8.0}, 40960, id="llama3 states it already"),
        pytest.param({"rope_type": "linear", "factor": 2.0}, 81920, id="linear"),
    ],
)
def test_longest_context(scaling, context):
    assert architecture("qwen3-14b", rope_scaling=scaling).max_context_tokens == context


@pytest.mark.parametrize(
    ("named", "dtype"),
    [
        pytest.param("bfloat16", DType.BF16, id="bf16"),
        pytest.param("torch.float16", DType.FP16, id="with torch's prefix"),
        pytest.param("float32", DType.BF16, id="fp32 is served in bf16"),
        pytest.param(None, DType.BF16, id="absent"),
    ],
)
def test_activation_format(named, dtype):
    assert architecture("qwen3-14b", torch_dtype=named).dtype is dtype


def test_refuses_an_unknown_architecture_by_name():
    with pytest.raises(UnknownModelError, match="'MambaForCausalLM' is not known"):
        ModelArchitecture.from_config({"architectures": ["MambaForCausalLM"]}, name="m")


def test_refuses_an_unknown_text_model_by_name():
    config = {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": {"model_type": "qwen9"}}
    with pytest.raises(UnknownModelError, match="'qwen9' inside Mistral3"):
        ModelArchitecture.from_config(config, name="m")


BAD = [
    pytest.param({"architectures": None}, "architectures", id="no architecture"),
    pytest.param({"architectures": "LlamaForCausalLM"}, "architectures", id="architectures is a text"),
    pytest.param({"architectures": [1]}, "architectures", id="architectures of numbers"),
    pytest.param({"hidden_size": None}, "hidden_size", id="missing size"),
    pytest.param({"hidden_size": "4096"}, "hidden_size", id="a number as text"),
    pytest.param({"hidden_size": 4096.5}, "hidden_size", id="a fraction"),
    pytest.param({"hidden_size": True}, "hidden_size", id="true is no number"),
    pytest.param({"hidden_size": 0}, "hidden_size", id="zero"),
    pytest.param({"hidden_size": -1}, "hidden_size", id="negative"),
    pytest.param({"hidden_size": 10**30}, "hidden_size", id="absurdly large"),
    pytest.param({"num_hidden_layers": 10**6}, "num_hidden_layers", id="a million layers"),
    pytest.param({"num_attention_heads": 33, "num_key_value_heads": 33}, "num_attention_heads", id="33 heads of 4096"),
    pytest.param({"num_key_value_heads": 5}, "num_key_value_heads", id="5 KV heads for 32"),
    pytest.param({"vocab_size": None}, "vocab_size", id="no vocabulary"),
    pytest.param({"tie_word_embeddings": "yes"}, "tie_word_embeddings", id="a flag as text"),
    pytest.param({"torch_dtype": "int3"}, "dtype", id="a format that is none"),
    pytest.param({"torch_dtype": ["bfloat16"]}, "torch_dtype", id="a list of formats"),
    pytest.param({"rope_scaling": "yarn"}, "rope_scaling", id="scaling is a text"),
    pytest.param({"rope_scaling": {"type": "yarn", "factor": -1}}, "rope_scaling.factor", id="negative factor"),
    pytest.param({"rope_scaling": {"type": "linear", "factor": math.nan}}, "rope_scaling.factor", id="not a number"),
    pytest.param({"layer_types": ["full_attention"]}, "layer_types", id="one type for 32 layers"),
    pytest.param({"layer_types": ["psychic"] * 32}, "layer_types", id="an unknown type"),
    pytest.param({"layer_types": ["sliding_attention"] * 32}, "sliding_window", id="sliding without a window"),
    pytest.param({"quantization_config": []}, "quantization_config", id="quantisation is a list"),
    pytest.param({"quantization_config": {"quant_method": 4}}, "quant_method", id="method is a number"),
]


@pytest.mark.parametrize(("changes", "field"), BAD)
def test_names_the_field_that_cannot_be(changes, field):
    with pytest.raises(InvalidWorkloadError, match=field):
        architecture("llama-3.1-8b-instruct", **changes)


@pytest.mark.parametrize("config", [None, [], "config", 3], ids=repr)
def test_a_config_must_be_an_object(config):
    with pytest.raises(InvalidWorkloadError, match="must be an object"):
        ModelArchitecture.from_config(config, name="m")


def test_more_experts_per_token_than_experts_are_refused():
    with pytest.raises(InvalidWorkloadError, match="num_experts_per_tok"):
        architecture("mixtral-8x7b-v0.1", num_experts_per_tok=9)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["full_attention", "re:(a+)+$", "yarn", "fp8", "awq", "FP8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from([*CONFIGS, *sorted(TOTALS["bundled"])]), data=st.data())
def test_a_damaged_config_never_raises_anything_else(name, data):
    config = config_of(name) if name in CONFIGS else copy.deepcopy(dict(known_model_config(name)))
    if name in CONFIGS:
        config.get("quantization_config", {}).pop("ignore", None)
    place = config
    inside = [key for key, value in config.items() if isinstance(value, dict) and value]
    if inside and data.draw(st.booleans()):
        place = config[data.draw(st.sampled_from(inside))]
    for key in data.draw(st.lists(st.sampled_from(sorted(place)), min_size=1, max_size=3)):
        place[key] = data.draw(JSON)
    try:
        found = ModelArchitecture.from_config(config, name=name)
    except InvalidWorkloadError:
        return
    assert found.parameters > 0
    assert 0 < found.active_parameters <= found.parameters


@settings(max_examples=200, deadline=None)
@given(architecture_name=st.sampled_from(sorted(FAMILIES)), data=st.data())
def test_made_up_configs_of_any_family_never_raise_anything_else(architecture_name, data):
    keys = sorted(
        {key for name in CONFIGS for key in config_of(name)} | {"text_config", "n_embd", "hybrid_override_pattern"}
    )
    config = data.draw(st.dictionaries(st.sampled_from(keys), JSON, max_size=8))
    try:
        ModelArchitecture.from_config(config | {"architectures": [architecture_name]}, name="m")
    except InvalidWorkloadError as error:
        assert str(error).startswith("m: ")
    else:
        pytest.fail("a config of a few made-up fields cannot be whole")


@given(
    name=st.sampled_from(CONFIGS),
    short=st.integers(0, 200_000),
    more=st.integers(0, 200_000),
    tp=st.sampled_from([1, 2, 4]),
    dtype=st.sampled_from([DType.BF16, DType.FP8]),
)
@settings(deadline=None)
def test_a_longer_context_never_needs_less_cache(name, short, more, tp, dtype):
    found = architecture(name) if "scout" not in name else known_model("meta-llama/Llama-4-Scout-17B-16E-Instruct")
    assert found.kv_bytes(short, dtype, tp=tp) <= found.kv_bytes(short + more, dtype, tp=tp)
    assert found.kv_bytes(short, dtype, tp=tp) <= found.kv_bytes(short, dtype)


@given(name=st.sampled_from(CONFIGS), tp=st.sampled_from([2, 4]), ep=st.sampled_from([1, 2, 4, 8]))
@settings(deadline=None, max_examples=40)
def test_ranks_together_hold_at_least_the_whole_model(name, tp, ep):
    found = architecture(name)
    one = found.weight_bytes_per_rank(tp=tp, ep=ep)
    assert one <= found.weight_bytes
    assert one * max(tp, ep) >= found.weight_bytes * (1 - 1e-9)


def test_reads_a_config_in_under_a_millisecond():
    config = config_of("qwen3-30b-a3b")
    times = []
    for _ in range(20):
        start = time.perf_counter()
        ModelArchitecture.from_config(config, name="m")
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3


def test_architectures_are_values():
    config = config_of("qwen3-30b-a3b")
    first, second = (ModelArchitecture.from_config(config, name="m") for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
