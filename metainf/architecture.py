"""A model's architecture: what it stores, what it caches and what it computes, read from its config.json.

Separate because everything downstream (does it fit, how fast is it, which layouts are valid) asks these questions
and none of it should read a config.json. The numbers are of the language model: what it sees with is
`vision_tower`, apart from them.

Active parameters count all that one token meets, the embedding table and the head each once, as the published figures
of Qwen 3 and Mixtral do (3.3B of 30.5B, 12.9B of 46.7B). DeepSeek, Kimi and gpt-oss leave the embedding table out (37B,
32B and 3.6B, where this counts 37.6B, 32.9B and 4.2B). What is computed is in `linear_flops_per_token`, without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from metainf.architecture_vision import VisionTower, read_vision_tower
from metainf.config_fields import ConfigFields
from metainf.dtypes import DType
from metainf.errors import InvalidWorkloadError, UnknownModelError
from metainf.families import FAMILIES, Blueprint, Family
from metainf.layers import Layer, LayerGroup, MixerKind, MlpKind, Part, SoftmaxAttention, Storage
from metainf.quantization import Quantization, read_quantization

__all__ = ["ModelArchitecture"]

_DTYPES = {"bfloat16": DType.BF16, "float16": DType.FP16, "half": DType.FP16, "float32": DType.BF16}
_MAX_TP = 64


@dataclass(frozen=True)
class ModelArchitecture:
    """Facts about a language model that do not depend on where it runs."""

    name: str
    architecture: str
    """Class name, as config.json has it."""
    model_type: str
    dtype: DType
    """Of activations and of what is not quantised."""
    hidden_size: int
    vocab_size: int
    tied_embeddings: bool
    max_context_tokens: int
    layer_groups: tuple[LayerGroup, ...]
    layer_pattern: tuple[int, ...]
    """The group of each layer, in order."""
    other_parameters: int
    """Outside of layers, embeddings and head: final norm, learned positions."""
    embedding_size: int
    head_storage: Storage
    quantization: str | None
    """Method of a quantised checkpoint: fp8, modelopt, mxfp4, awq, gptq, compressed-tensors."""
    storage: Storage
    """Of most matrices."""
    kv_cache_dtype: DType | None
    """Format that the checkpoint carries scales for, None where it says nothing."""
    mtp_layers: tuple[Layer, ...]
    mtp_other_parameters: int
    vision_tower: VisionTower | None
    """What it sees with; None of a model that only reads."""

    @staticmethod
    def from_config(
        config: Mapping[str, object], *, name: str, hf_quant_config: Mapping[str, object] | None = None
    ) -> "ModelArchitecture":
        """Read a Hugging Face config.json, and modelopt's hf_quant_config.json where there is one.

        Raises
        ------
        UnknownModelError
            The architecture is not known; the message names it.
        InvalidWorkloadError
            A field is missing or cannot be; the message names it.
        """
        return _read(config, name, hf_quant_config)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.layer_pattern)

    @property
    def has_mtp(self) -> bool:
        """Whether the checkpoint holds layers for multi-token prediction."""
        return bool(self.mtp_layers)

    @cached_property
    def is_moe(self) -> bool:
        """Whether any layer holds experts."""
        return any(g.layer.mlp is not None and g.layer.mlp.kind is MlpKind.MOE for g in self.layer_groups)

    @cached_property
    def stores_narrow_experts(self) -> bool:
        """Whether the checkpoint itself holds experts in 8 bits or fewer."""
        return any(
            linear.part is Part.EXPERT and linear.storage.weight_dtype.bytes_per_value <= 1.0
            for group in self.layer_groups
            for linear in group.layer.linears
        )

    @cached_property
    def multiplies_dense_plainly(self) -> bool:
        """Whether the checkpoint has most of what a token meets outside of experts multiplied in 16 bits or more."""
        dense = [
            (linear.storage.gemm_dtype.bytes_per_value > 1.0, group.count * linear.active_parameters)
            for group in self.layer_groups
            for linear in group.layer.linears
            if linear.part is not Part.EXPERT
        ]
        plain = sum(entries for is_plain, entries in dense if is_plain)
        return 2 * plain > sum(entries for _, entries in dense)

    @cached_property
    def embedding_parameters(self) -> int:
        """The embedding table, and the head where it is another table."""
        table = self.vocab_size * self.embedding_size
        return table if self.tied_embeddings else 2 * table

    @cached_property
    def expert_parameters(self) -> int:
        """Routed experts, all of them."""
        return sum(group.count * group.layer.parameters_of((Part.EXPERT,)) for group in self.layer_groups)

    @cached_property
    def parameters(self) -> int:
        """All that is stored, without the multi-token prediction layers."""
        layers = sum(group.count * group.layer.parameters for group in self.layer_groups)
        return layers + self.embedding_parameters + self.other_parameters

    @cached_property
    def active_parameters(self) -> int:
        """What one token meets, embedding table and head included."""
        layers = sum(group.count * group.layer.active_parameters for group in self.layer_groups)
        return layers + self.embedding_parameters + self.other_parameters

    @cached_property
    def mtp_parameters(self) -> int:
        """Extra layers for multi-token prediction; embedding and head are shared with the model."""
        return sum(layer.parameters for layer in self.mtp_layers) + self.mtp_other_parameters

    @cached_property
    def mtp_weight_bytes(self) -> float:
        """Storage of the multi-token prediction layers, as the last layer is stored, on one rank."""
        layers = sum(layer.weight_bytes_per_rank(self.dtype, 1, 1) for layer in self.mtp_layers)
        return layers + self.mtp_other_parameters * self.dtype.bytes_per_value

    @cached_property
    def weight_bytes(self) -> float:
        """Storage of all weights, scales included, without the multi-token prediction layers."""
        return self.weight_bytes_per_rank()

    def weight_bytes_per_rank(self, tp: int = 1, pp: int = 1, ep: int = 1) -> float:
        """Storage on the fullest rank.

        `ep` is the number of ranks that whole experts are spread over (with expert parallelism, TP x DP); with 1
        each expert is cut by `tp`. The first pipeline stage has the embedding table, the last one the head.
        """
        per_group = [g.layer.weight_bytes_per_rank(self.dtype, tp, ep) for g in self.layer_groups]
        table = self.vocab_size * self.embedding_size / tp
        stages = [sum(per_group[group] for group in stage) for stage in self._stages(pp)]
        stages[0] += table * self.dtype.bytes_per_value
        stages[-1] += self.other_parameters * self.dtype.bytes_per_value
        if not self.tied_embeddings or pp > 1:
            stages[-1] += table * self.head_storage.bits_per_weight / 8
        return max(stages)

    def kv_bytes(self, context_tokens: int, dtype: DType, *, tp: int = 1, pp: int = 1) -> float:
        """Cache and recurrent state of one sequence on the fullest rank: windows, latents and states honoured."""
        per_group = [
            0.0 if group.layer.mixer is None else group.layer.mixer.kv_bytes(context_tokens, dtype, tp)
            for group in self.layer_groups
        ]
        return max(sum(per_group[group] for group in stage) for stage in self._stages(pp))

    def kv_bytes_per_token(self, dtype: DType, *, tp: int = 1) -> float:
        """What one more token of a long context adds: layers without a window, on one rank."""
        return sum(
            group.count * group.layer.mixer.kv_bytes(1, dtype, tp)
            for group in self.layer_groups
            if group.layer.mixer is not None and group.layer.mixer.cached_tokens_limit is None
        )

    def kv_heads_per_rank(self, tp: int) -> int:
        """KV heads of a layer on one rank: copies where there are more ranks than heads; 1 for MLA, 0 for none."""
        mixers = [group.layer.mixer for group in self.layer_groups if group.layer.mixer is not None]
        return max((m.kv_heads_per_rank(tp) for m in mixers if hasattr(m, "kv_heads_per_rank")), default=0)

    def supports_tensor_parallel(self, tp: int, *, ep: int = 1) -> bool:
        """Whether heads, widths and quantisation blocks come out whole on `tp` ranks."""
        return all(
            (group.layer.mixer is None or group.layer.mixer.heads_divide_over(tp))
            and all(
                linear.divides_over(tp) for linear in group.layer.linears if not (linear.part is Part.EXPERT and ep > 1)
            )
            for group in self.layer_groups
        )

    def tensor_parallel_sizes(self, limit: int = _MAX_TP) -> tuple[int, ...]:
        """All valid sizes up to `limit`."""
        return tuple(tp for tp in range(1, limit + 1) if self.supports_tensor_parallel(tp))

    def linear_flops_per_token(self, *, logits: bool = True) -> float:
        """Floating-point operations in matrices for one token; `logits` adds the head, which prefill skips."""
        layers = sum(
            group.count * 2.0 * linear.active_copies * linear.weights_per_copy
            for group in self.layer_groups
            for linear in group.layer.linears
        )
        return layers + (2.0 * self.vocab_size * self.embedding_size if logits else 0.0)

    def attention_flops_per_token(self, context_tokens: int, *, decode: bool = True) -> float:
        """Floating-point operations of attention and recurrence for one token after `context_tokens`."""
        return sum(
            group.count * group.layer.mixer.flops_per_token(context_tokens, decode=decode)
            for group in self.layer_groups
            if group.layer.mixer is not None
        )

    def distinct_experts(self, tokens: float) -> float:
        """Experts that a batch of `tokens` reads in one layer, expected under uniform routing; 0 without experts."""
        mlps = [g.layer.mlp for g in self.layer_groups if g.layer.mlp is not None]
        return max((mlp.distinct_experts(tokens) for mlp in mlps), default=0.0)

    def window_tokens(self) -> int | None:
        """The widest window or chunk of a layer, None where no layer has one."""
        windows = [
            group.layer.mixer.window_tokens
            for group in self.layer_groups
            if isinstance(group.layer.mixer, SoftmaxAttention)
        ]
        return max((window for window in windows if window is not None), default=None)

    def mixer_kinds(self) -> frozenset[MixerKind]:
        """All ways in which layers look back."""
        return frozenset(group.layer.mixer.kind for group in self.layer_groups if group.layer.mixer is not None)

    def _stages(self, pp: int) -> list[tuple[int, ...]]:
        """Groups of the layers of each pipeline stage.

        Source: vLLM distributed/utils.py get_pp_indices: layers left over go to the stages before the last.
        """
        if not 1 <= pp <= self.layers:
            raise InvalidWorkloadError(f"{self.name}: {pp} pipeline stages do not divide {self.layers} layers")
        sizes = [self.layers // pp] * pp
        for extra in range(self.layers % pp):
            sizes[-(extra + 2)] += 1
        stages, start = [], 0
        for size in sizes:
            stages.append(self.layer_pattern[start : start + size])
            start += size
        return stages


def _read(config: Mapping[str, object], name: str, hf_quant_config: Mapping[str, object] | None) -> ModelArchitecture:
    if not isinstance(config, Mapping):
        raise InvalidWorkloadError(f"{name}: config.json must be an object")
    top = ConfigFields(config, name)
    architecture, family = _family(top)
    text = top if family.section is None or not top.present(family.section) else top.section(family.section)
    if family.section is not None and text is top:
        raise top.missing(family.section)
    model_type = text.text("model_type", default=architecture)
    if family.text_types and model_type not in family.text_types:
        raise UnknownModelError(f"{name}: text model {model_type[:80]!r} inside {architecture} is not known")
    blueprint = family.build(text)
    dtype = _activation_dtype(top, text)
    quantization = _quantization(top, text, hf_quant_config, dtype)
    plain = Storage.plain(dtype)
    layers = _stored(blueprint.layers, quantization, plain)
    order: dict[int, int] = {}
    pattern = tuple(order.setdefault(id(layer), len(order)) for layer in layers)
    unique = {id(layer): layer for layer in layers}
    groups = tuple(LayerGroup(unique[key], pattern.count(group)) for key, group in order.items())
    return ModelArchitecture(
        name=name,
        architecture=architecture,
        model_type=model_type,
        dtype=dtype,
        hidden_size=blueprint.hidden_size,
        vocab_size=blueprint.vocab_size,
        tied_embeddings=family.always_tied or _tied(top, text, blueprint),
        max_context_tokens=_max_context(text, blueprint),
        layer_groups=groups,
        layer_pattern=pattern,
        other_parameters=blueprint.other_parameters,
        embedding_size=blueprint.embedding_size or blueprint.hidden_size,
        head_storage=(quantization.head if quantization else None) or plain,
        quantization=quantization.method if quantization else None,
        storage=quantization.storage if quantization else plain,
        kv_cache_dtype=quantization.kv_cache_dtype if quantization else None,
        mtp_layers=_mtp_stored(blueprint, quantization, plain),
        mtp_other_parameters=blueprint.mtp_other_parameters,
        vision_tower=None if family.section is None else read_vision_tower(top, architecture),
    )


def _family(fields: ConfigFields) -> tuple[str, Family]:
    names = fields.texts("architectures")
    if not names:
        raise fields.missing("architectures")
    for architecture in names:
        family = FAMILIES.get(architecture)
        if family is not None:
            return architecture, family
    raise UnknownModelError(f"{fields.owner}: architecture {names[0][:80]!r} is not known")


def _activation_dtype(top: ConfigFields, text: ConfigFields) -> DType:
    """VLLM serves 32-bit checkpoints, and those that do not say, in 16 bits.

    Source: vLLM config/model.py, _get_and_verify_dtype with `auto`.
    """
    fields = text if text.present("torch_dtype") or text.present("dtype") else top
    name = fields.text("dtype", "torch_dtype", default="bfloat16").removeprefix("torch.")
    if name not in _DTYPES:
        raise fields.wrong("dtype", f"one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _tied(top: ConfigFields, text: ConfigFields, blueprint: Blueprint) -> bool:
    default = top.flag("tie_word_embeddings", default=blueprint.tied_default)
    return text.flag("tie_word_embeddings", default=default)


def _max_context(fields: ConfigFields, blueprint: Blueprint) -> int:
    """Longest context, stretched positions included.

    Source: vLLM config/model.py _get_and_verify_max_len: the factor stretches, for yarn the original length; Llama
    3, long and multimodal rotary scalings, and Gemma 3, state the stretched length already.
    """
    context = blueprint.max_context_tokens
    key = "rope_scaling" if fields.present("rope_scaling") else "rope_parameters"
    scaling = fields.mapping(key)
    if not scaling or fields.text("model_type", default="").startswith("gemma3"):
        return context
    scaling_fields = ConfigFields(scaling, fields.owner, f"{key}.")
    kind = scaling_fields.text("rope_type", "type", default="default")
    if kind in ("su", "longrope", "llama3", "mrope", "default"):
        return context
    factor = scaling_fields.number("factor", default=1.0)
    if kind == "yarn":
        context = scaling_fields.integer("original_max_position_embeddings", default=context)
    return int(context * factor)


def _quantization(
    top: ConfigFields, text: ConfigFields, side: Mapping[str, object] | None, dtype: DType
) -> Quantization | None:
    for fields in (top, text):
        if fields.present("quantization_config"):
            return read_quantization(fields.section("quantization_config"), dtype)
    if side is None:
        return None
    if not isinstance(side, Mapping):
        raise InvalidWorkloadError(f"{top.owner}: hf_quant_config.json must be an object")
    fields = ConfigFields(side, top.owner, "hf_quant_config.")
    return read_quantization(fields, dtype)


def _stored(layers: tuple[Layer, ...], quantization: Quantization | None, plain: Storage) -> tuple[Layer, ...]:
    """The layers with the storage of each matrix; equal ones stay the same object."""
    made: dict[object, Layer] = {}
    seen: dict[object, Layer] = {}
    result = []
    for index, layer in enumerate(layers):
        sight = (id(layer), None if quantization is None else quantization.signature(index))
        if sight not in seen:
            storages = _storages(layer, index, quantization, plain)
            seen[sight] = made.setdefault((id(layer), storages), layer.stored_as(storages))
        result.append(seen[sight])
    return tuple(result)


def _storages(layer: Layer, index: int, quantization: Quantization | None, plain: Storage) -> tuple[Storage, ...]:
    if quantization is None:
        return (plain,) * len(layer.linears)
    return quantization.storages(layer, index, plain)


def _mtp_stored(blueprint: Blueprint, quantization: Quantization | None, plain: Storage) -> tuple[Layer, ...]:
    """Stored as a layer after the last one, which is how checkpoints number them."""
    if quantization is not None and quantization.spares_mtp:
        quantization = None
    start = len(blueprint.layers)
    return tuple(
        layer.stored_as(_storages(layer, start + index, quantization, plain))
        for index, layer in enumerate(blueprint.mtp_layers)
    )
