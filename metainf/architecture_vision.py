"""What a model sees with: the weights of its tower, and what one pass over images takes of the memory.

Separate from `architecture`, whose figures are of the language model, the only part that text meets. The tower of a
model that sees is loaded all the same, and run once over as many images as a step can hold when the engine starts and
measures what is left for the KV cache.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from metainf.activations import values_alive
from metainf.config_fields import ConfigFields

__all__ = ["VisionTower", "read_vision_tower"]

_OTHER_RATIO = 1.15
"""All weights over those of the layers, an allowance: patches, positions and what projects into the language model are
3 % of the whole for Gemma 3, 7 % for Llama 4 and 11 % for Qwen 3.5. DeepStack has more, which is not counted."""


@dataclass(frozen=True, slots=True)
class VisionTower:
    """Layers over the patches of images, and how many patches the engine tries out at start."""

    layers: int
    hidden_size: int
    intermediate_size: int
    mlp_matrices: int = 2
    """Three where the MLP is gated."""
    patches_per_token: int = 4
    """Patches that become one token of the language model."""
    item_tokens: int = 16384
    """Tokens of the largest image that the engine takes."""

    @property
    def parameters(self) -> float:
        """All that is stored beside the language model."""
        attention = 4 * self.hidden_size**2
        mlp = self.mlp_matrices * self.hidden_size * self.intermediate_size
        return _OTHER_RATIO * self.layers * (attention + mlp)

    def tried_tokens(self, max_num_batched_tokens: int) -> int:
        """Tokens that come of the images tried out at start: as many of the largest as a step holds, at least one.

        Source: vLLM 0.32.0 vllm/multimodal/encoder_budget.py, vllm/v1/core/encoder_cache_manager.py.
        """
        return self.item_tokens * max(1, max_num_batched_tokens // self.item_tokens)

    def activation_values(self, tokens: int, tensor_parallel: int) -> float:
        """Values alive on a rank at the widest point of a layer while images of so many tokens are looked at."""
        inside = self.mlp_matrices * self.intermediate_size / tensor_parallel
        return tokens * self.patches_per_token * values_alive(self.hidden_size, inside)


_QWEN = VisionTower(27, 1152, 4304)
_TOWERS: Mapping[str, VisionTower] = {
    "Gemma3ForConditionalGeneration": VisionTower(27, 1152, 4304, patches_per_token=16, item_tokens=256),
    "KimiK25ForConditionalGeneration": VisionTower(27, 1152, 4304, item_tokens=4096),
    "Llama4ForConditionalGeneration": VisionTower(34, 1408, 5632, item_tokens=17 * 144),
    "Mistral3ForConditionalGeneration": VisionTower(24, 1024, 4096, mlp_matrices=3, item_tokens=55 * 55),
    "Qwen3VLForConditionalGeneration": _QWEN,
    "Qwen3VLMoeForConditionalGeneration": _QWEN,
    "Qwen3_5ForConditionalGeneration": _QWEN,
    "Qwen3_5MoeForConditionalGeneration": _QWEN,
}
"""By the class of the model; the sizes stand in for those that its config.json leaves out.

Source: vision_config of google/gemma-3-27b-it (images of 896 pixels are 64 x 64 patches and 256 tokens),
meta-llama/Llama-4-Scout-17B-16E-Instruct (336 pixels are 576 patches and 144 tokens, in 16 tiles and one of the whole)
and mistralai/Mistral-Small-3.1-24B-Instruct-2503 (1540 pixels, 28 a token); transformers 5.23, the defaults of
Kimi_K25VisionConfig, Qwen3VLVisionConfig and Qwen3_5VisionConfig. Qwen's image processors take up to 16.8 million
pixels, 1024 a token; Kimi's 16384 patches.
"""
_UNKNOWN = VisionTower(34, 1408, 5632)
"""An allowance for a class that is not in the table: the largest of each."""


def read_vision_tower(fields: ConfigFields, architecture: str) -> VisionTower:
    """The tower of a class that sees, from its config.json; what that leaves out is taken from the class.

    Raises
    ------
    InvalidWorkloadError
        A field cannot be; the message names it.
    """
    known = _TOWERS.get(architecture, _UNKNOWN)
    if not fields.present("vision_config"):
        return known
    vision = fields.section("vision_config")
    return VisionTower(
        layers=vision.integer("num_hidden_layers", "depth", "vt_num_hidden_layers", default=known.layers),
        hidden_size=vision.integer("hidden_size", "vt_hidden_size", default=known.hidden_size),
        intermediate_size=vision.integer("intermediate_size", "vt_intermediate_size", default=known.intermediate_size),
        mlp_matrices=known.mlp_matrices,
        patches_per_token=known.patches_per_token,
        item_tokens=known.item_tokens,
    )
