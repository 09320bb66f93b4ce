"""The architectures that are known: class name in config.json -> how to read it.

Separate from `architecture.py`, which adds up what a family returns: a new family is a function and a line here.
An architecture that is not in the table is refused by name. Left out on purpose: what vLLM loads only with code
from the model's repository (that code is never run), and families whose sums were not compared with their own code.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metainf.config_fields import ConfigFields
from metainf.families import absolute, dense, experts, hybrid
from metainf.families.parts import Blueprint

__all__ = ["FAMILIES", "Blueprint", "Family"]


@dataclass(frozen=True, slots=True)
class Family:
    """How the configs of an architecture are read."""

    build: Callable[[ConfigFields], Blueprint]
    section: str | None = None
    """Where the text model's fields are, in configs of models that also see."""
    text_types: frozenset[str] = frozenset()
    """The text model's own types that may stand in the section; empty: any."""
    always_tied: bool = False


def _text(build: Callable[[ConfigFields], Blueprint], *types: str) -> Family:
    return Family(build, "text_config", frozenset(types))


FAMILIES: Mapping[str, Family] = {
    "Cohere2ForCausalLM": Family(dense.cohere2, always_tied=True),
    "DeepseekV2ForCausalLM": Family(experts.deepseek),
    "DeepseekV32ForCausalLM": Family(experts.deepseek_sparse),
    "DeepseekV3ForCausalLM": Family(experts.deepseek),
    "GPT2LMHeadModel": Family(absolute.gpt2),
    "GPTNeoXForCausalLM": Family(absolute.gpt_neox),
    "Gemma2ForCausalLM": Family(dense.gemma2),
    "Gemma3ForCausalLM": Family(dense.gemma3),
    "Gemma3ForConditionalGeneration": _text(dense.gemma3),
    "Glm4ForCausalLM": Family(dense.glm4),
    "Glm4MoeForCausalLM": Family(experts.glm4_moe),
    "GlmMoeDsaForCausalLM": Family(experts.deepseek_sparse),
    "GptOssForCausalLM": Family(experts.gpt_oss),
    "GraniteForCausalLM": Family(dense.llama),
    "KimiK25ForConditionalGeneration": _text(experts.deepseek, "kimi_k2", "deepseek_v3"),
    "Llama4ForCausalLM": Family(experts.llama4),
    "Llama4ForConditionalGeneration": _text(experts.llama4),
    "LlamaForCausalLM": Family(dense.llama),
    "MiniMaxM2ForCausalLM": Family(experts.minimax_m2),
    "Mistral3ForConditionalGeneration": _text(dense.mistral, "mistral", "ministral3"),
    "MistralForCausalLM": Family(dense.mistral),
    "MixtralForCausalLM": Family(experts.mixtral),
    "NemotronForCausalLM": Family(dense.nemotron),
    "NemotronHForCausalLM": Family(hybrid.nemotron_h),
    "OPTForCausalLM": Family(absolute.opt),
    "Olmo2ForCausalLM": Family(dense.olmo2),
    "Olmo3ForCausalLM": Family(dense.olmo2),
    "Phi3ForCausalLM": Family(dense.phi3),
    "Qwen2ForCausalLM": Family(dense.qwen2),
    "Qwen2MoeForCausalLM": Family(experts.qwen2_moe),
    "Qwen3ForCausalLM": Family(dense.qwen3),
    "Qwen3MoeForCausalLM": Family(experts.qwen3_moe),
    "Qwen3NextForCausalLM": Family(hybrid.qwen3_next),
    "Qwen3VLForConditionalGeneration": _text(dense.qwen3),
    "Qwen3VLMoeForConditionalGeneration": _text(experts.qwen3_moe),
    "Qwen3_5ForConditionalGeneration": _text(hybrid.qwen3_5),
    "Qwen3_5MoeForConditionalGeneration": _text(hybrid.qwen3_5),
    "Starcoder2ForCausalLM": Family(dense.starcoder2),
}
