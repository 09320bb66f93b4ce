"""Four models small enough for two CPU cores, as configs: what the study serves where no weights can be had.

Separate from the making of their weights, which needs the engine's interpreter. Random weights cost what trained ones
do: how long a step takes does not depend on their values. What they write is of no use, and at temperature 0 soon goes
in circles, as texts do that speculation copies from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from metainf.architecture import ModelArchitecture
from metainf.errors import InvalidWorkloadError

__all__ = ["SMALL_MODELS", "SmallModel", "small_model"]

_CONTEXT_TOKENS = 4096
_VOCABULARY = 8192


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A model by its name and the fields of its config.json."""

    name: str
    summary: str
    config: Mapping[str, Any]

    @property
    def architecture(self) -> ModelArchitecture:
        """What predictors know of it."""
        return ModelArchitecture.from_config(dict(self.config), name=self.name)


def _model(name: str, summary: str, **fields: Any) -> SmallModel:
    common = {
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": _CONTEXT_TOKENS,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
    return SmallModel(name, summary, MappingProxyType({**common, **fields}))


SMALL_MODELS = (
    _model(
        "dense-7m",
        "Llama, multi-head attention",
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
    ),
    _model(
        "dense-53m",
        "Llama, grouped-query attention",
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=16,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
    ),
    _model(
        "latent-57m",
        "DeepSeek-V2 without experts, multi-head latent attention",
        architectures=["DeepseekV2ForCausalLM"],
        model_type="deepseek_v2",
        hidden_size=512,
        intermediate_size=1408,
        moe_intermediate_size=1408,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=8,
        kv_lora_rank=512,
        q_lora_rank=None,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        n_routed_experts=8,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=10,
        topk_method="greedy",
        n_group=1,
        topk_group=1,
        routed_scaling_factor=1.0,
        scoring_func="softmax",
        norm_topk_prob=False,
    ),
    _model(
        "experts-114m",
        "Mixtral, 2 of 8 experts, grouped-query attention",
        architectures=["MixtralForCausalLM"],
        model_type="mixtral",
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=None,
    ),
)
"""In the order in which a study serves them."""


def small_model(name: str) -> SmallModel:
    """The model of that name.

    Raises
    ------
    InvalidWorkloadError
        There is none.
    """
    for model in SMALL_MODELS:
        if model.name == name:
            return model
    raise InvalidWorkloadError(f"there is no small model {name!r}: known are {', '.join(m.name for m in SMALL_MODELS)}")
