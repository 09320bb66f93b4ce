"""What a model sees with: read from its config.json, or from its class where that leaves it out."""

import json
from pathlib import Path

import pytest

from metainf.architecture import ModelArchitecture
from metainf.architecture_vision import VisionTower
from metainf.errors import InvalidWorkloadError
from metainf.known_models import known_model

CONFIGS = Path(__file__).parent / "data" / "model_configs"
TEXT = {
    "model_type": "mistral",
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 131072,
    "max_position_embeddings": 131072,
}


def seeing(vision: object) -> ModelArchitecture:
    config = {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": TEXT, "vision_config": vision}
    return ModelArchitecture.from_config(config, name="m")


def tower(architecture: ModelArchitecture | None) -> VisionTower:
    assert architecture is not None
    assert architecture.vision_tower is not None
    return architecture.vision_tower


def test_scouts_tower_is_read_from_its_own_config() -> None:
    config = json.loads((CONFIGS / "llama-4-scout-17b-16e-instruct-fp8-dynamic.json").read_text())
    found = tower(ModelArchitecture.from_config(config, name="scout"))
    assert (found.layers, found.hidden_size, found.intermediate_size) == (34, 1408, 5632)


@pytest.mark.parametrize(
    ("model", "published"),
    [
        pytest.param("google/gemma-3-27b-it", 0.423e9, id="Gemma 3: SigLIP of 417M, and a projector"),
        pytest.param("meta-llama/Llama-4-Scout-17B-16E-Instruct", 0.871e9, id="Llama 4"),
    ],
)
def test_bundled_models_that_see_have_the_tower_of_their_class(model: str, published: float) -> None:
    assert published <= tower(known_model(model)).parameters <= 1.15 * published


@pytest.mark.parametrize(
    "vision",
    [
        pytest.param({"num_hidden_layers": 12, "hidden_size": 512, "intermediate_size": 2048}, id="the usual names"),
        pytest.param({"depth": 12, "hidden_size": 512, "intermediate_size": 2048}, id="Qwen's"),
        pytest.param(
            {"vt_num_hidden_layers": 12, "vt_hidden_size": 512, "vt_intermediate_size": 2048}, id="Kimi's own"
        ),
    ],
)
def test_sizes_are_read_by_the_names_that_makers_give_them(vision: object) -> None:
    found = tower(seeing(vision))
    assert (found.layers, found.hidden_size, found.intermediate_size) == (12, 512, 2048)


@pytest.mark.parametrize("vision", [pytest.param({}, id="nothing said"), pytest.param(None, id="not there")])
def test_what_a_config_leaves_out_is_taken_from_the_class(vision: object) -> None:
    found = tower(seeing(vision))
    assert (found.layers, found.hidden_size, found.intermediate_size, found.mlp_matrices) == (24, 1024, 4096, 3)


def test_a_size_that_cannot_be_is_named() -> None:
    with pytest.raises(InvalidWorkloadError, match=r"vision_config\.hidden_size must be a whole number"):
        seeing({"hidden_size": "wide"})


def test_a_model_that_only_reads_has_no_tower_whatever_its_config_says() -> None:
    config = TEXT | {"architectures": ["MistralForCausalLM"], "vision_config": {"hidden_size": 1024}}
    assert ModelArchitecture.from_config(config, name="m").vision_tower is None


@pytest.mark.parametrize(
    ("budget", "tokens"),
    [
        pytest.param(100, 256, id="less than an image: one all the same"),
        pytest.param(2048, 2048, id="eight of them"),
        pytest.param(2200, 2048, id="and no part of one"),
    ],
)
def test_as_many_images_are_tried_out_as_a_step_holds(budget: int, tokens: int) -> None:
    found = tower(known_model("google/gemma-3-27b-it"))
    assert found.tried_tokens(budget) == tokens
    assert found.activation_values(tokens, 2) < found.activation_values(tokens, 1)
