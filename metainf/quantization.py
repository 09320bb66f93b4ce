"""Reads `quantization_config`: how weights are stored, what they are multiplied in, and which modules are spared.

Separate because every maker of quantised checkpoints has its own dialect, while the layers only need the answer:
one `Storage` per matrix. A method that is not listed here is refused by name, never guessed.

Why the matcher works on whole name components: checkpoints write the same module as `model.layers.0.mlp.gate`,
`layers.0.mlp.gate`, `*.mlp.gate`, `re:.*mlp.gate$` or plain `gate`, and a test for substrings would take
`mlp.gate_proj` along.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metainf.config_fields import ConfigFields
from metainf.dtypes import DType
from metainf.errors import InvalidWorkloadError
from metainf.layers import Layer, Part, Storage
from metainf.module_patterns import ModulePatterns

__all__ = ["Quantization", "Rule", "read_quantization"]

_AWQ_GPTQ_BITS = {4: DType.INT4, 8: DType.INT8}
_EVERYWHERE = "Linear"


@dataclass(frozen=True)
class Rule:
    """One storage and the modules that it is for; `targets` None means every matrix."""

    storage: Storage
    targets: ModulePatterns | None = None


@dataclass(frozen=True)
class Quantization:
    """How a checkpoint's weights are stored."""

    method: str
    """As the checkpoint names it: fp8, modelopt, mxfp4, awq, gptq, compressed-tensors."""
    rules: tuple[Rule, ...]
    """First match wins."""
    spared: ModulePatterns
    experts_only: bool = False
    head: Storage | None = None
    """Of the output head, where that is quantised too."""
    kv_cache_dtype: DType | None = None
    """Format that the checkpoint has calibrated scales for."""

    @property
    def storage(self) -> Storage:
        """What most of the matrices are stored in."""
        return self.rules[0].storage

    def signature(self, index: int) -> object:
        """Equal for two layers whose equal matrices are stored equally, by what the patterns say of them."""
        targets = (rule.targets for rule in self.rules if rule.targets is not None)
        return (self.spared.signature(index), *(each.signature(index) for each in targets))

    @property
    def spares_mtp(self) -> bool:
        """Whether the layers for multi-token prediction stay unquantised."""
        return self.spared.names_mtp

    def storages(self, layer: Layer, index: int, plain: Storage) -> tuple[Storage, ...]:
        """Storage of each matrix of the layer at `index`."""
        return tuple(
            plain
            if not linear.quantisable or (self.experts_only and linear.part is not Part.EXPERT)
            else self._storage_of(linear.name, index, plain)
            for linear in layer.linears
        )

    def _storage_of(self, name: str, index: int, plain: Storage) -> Storage:
        if self.spared.match(index, name):
            return plain
        for rule in self.rules:
            if rule.targets is None or rule.targets.match(index, name):
                return rule.storage
        return plain


def read_quantization(fields: ConfigFields, activations: DType) -> Quantization:
    """Read a `quantization_config`, or the content of modelopt's `hf_quant_config.json`.

    Raises
    ------
    InvalidWorkloadError
        The method is not one that is known, or a field of it is malformed.
    """
    if fields.present("quantization"):
        return _modelopt(fields.section("quantization"), activations)
    method = fields.text("quant_method", default="modelopt" if fields.present("quant_algo") else None)
    reader = _READERS.get(method)
    if reader is None:
        raise InvalidWorkloadError(
            f"{fields.owner}: quantisation {method!r} is not known; known are {', '.join(sorted(_READERS))}"
        )
    return reader(fields, activations)


def _fp8(fields: ConfigFields, activations: DType) -> Quantization:
    """Source: vLLM fp8.py; block scales are 32-bit, one per block, as DeepSeek-V3's weight_scale_inv."""
    block = fields.integers("weight_block_size", default=(), minimum=1)
    if block and len(block) != 2:
        raise fields.wrong("weight_block_size", "two whole numbers, as [128, 128]")
    out_block, in_block = (block[0], block[1]) if block else (1, 1)
    bits = 8.0 + (32.0 / (out_block * in_block) if block else 0.0)
    spared = (*fields.texts("modules_to_not_convert"), *fields.texts("ignored_layers"))
    storage = Storage(DType.FP8, bits, DType.FP8, out_block, in_block)
    return Quantization("fp8", (Rule(storage),), ModulePatterns(spared, fields.owner))


def _mxfp4(fields: ConfigFields, activations: DType) -> Quantization:
    """Source: OCP MX: 4-bit values, one 8-bit exponent per 32; vLLM quantises the experts only."""
    spared = ModulePatterns(fields.texts("modules_to_not_convert"), fields.owner)
    storage = Storage(DType.FP4, 4.25, activations)
    return Quantization("mxfp4", (Rule(storage),), spared, experts_only=True)


def _modelopt(fields: ConfigFields, activations: DType) -> Quantization:
    """Source: vLLM modelopt.py. NVFP4: an 8-bit scale per 16 values; FP8: one scale per tensor."""
    spared = (*fields.texts("exclude_modules"), *fields.texts("ignore"))
    rules: tuple[Rule, ...]
    if fields.text("quant_algo").upper() == "MIXED_PRECISION":
        rules = _modelopt_mixed(fields.section("quantized_layers"), activations)
    else:
        rules = (Rule(_modelopt_storage(fields, activations)),)
    patterns = ModulePatterns(spared, fields.owner)
    return Quantization("modelopt", rules, patterns, kv_cache_dtype=_modelopt_kv_cache(fields))


def _modelopt_mixed(modules: ConfigFields, activations: DType) -> tuple[Rule, ...]:
    """One rule per storage, for modules that are listed one by one."""
    names: dict[Storage, list[str]] = {}
    for name in modules.names():
        names.setdefault(_modelopt_storage(modules.section(name), activations), []).append(name)
    if not names:
        raise modules.wrong("", "an object that names the quantised modules")
    rules = (Rule(storage, ModulePatterns(listed, modules.owner)) for storage, listed in names.items())
    return tuple(sorted(rules, key=lambda rule: rule.storage.bits_per_weight))


def _modelopt_storage(fields: ConfigFields, activations: DType) -> Storage:
    algorithm = fields.text("quant_algo").upper()
    if algorithm == "FP8":
        return Storage(DType.FP8, 8.0, DType.FP8)
    if algorithm not in ("NVFP4", "W4A16_NVFP4"):
        raise InvalidWorkloadError(
            f"{fields.owner}: modelopt algorithm {algorithm[:80]!r} is not known; "
            "known are FP8, NVFP4, W4A16_NVFP4, MIXED_PRECISION"
        )
    group = fields.integer("group_size", default=16)
    gemm = DType.FP4 if algorithm == "NVFP4" else activations
    return Storage(DType.FP4, 4.0 + 8.0 / group, gemm, block_in=group)


def _modelopt_kv_cache(fields: ConfigFields) -> DType | None:
    if fields.present("kv_cache_quant_algo"):
        return DType.FP8 if fields.text("kv_cache_quant_algo").upper() == "FP8" else None
    return _kv_cache_scheme(fields)


def _kv_cache_scheme(fields: ConfigFields) -> DType | None:
    if not fields.present("kv_cache_scheme"):
        return None
    if fields.is_text("kv_cache_scheme"):
        return DType.FP8 if fields.text("kv_cache_scheme").upper() == "FP8" else None
    scheme = fields.section("kv_cache_scheme")
    is_fp8 = scheme.integer("num_bits", default=8) == 8 and scheme.text("type", default="float") == "float"
    return DType.FP8 if is_fp8 else None


def _grouped(fields: ConfigFields, bits: int, zero_bits: int, activations: DType) -> Storage:
    """Storage of AWQ and GPTQ: per group one 16-bit scale and one zero point of `zero_bits`."""
    dtype = _AWQ_GPTQ_BITS.get(bits)
    if dtype is None:
        raise InvalidWorkloadError(f"{fields.owner}: {bits}-bit weights are not known; known are 4 and 8")
    group = fields.integer("group_size", "q_group_size", default=128, minimum=-1)
    if group == 0:
        raise fields.wrong("group_size", "-1 or a positive whole number")
    if group == -1:
        return Storage(dtype, float(bits), activations)
    return Storage(dtype, bits + (16.0 + zero_bits) / group, activations, block_in=group)


def _awq(fields: ConfigFields, activations: DType) -> Quantization:
    """Source: vLLM awq.py."""
    bits = fields.integer("bits", "w_bit", default=4)
    storage = _grouped(fields, bits, bits if fields.flag("zero_point", default=True) else 0, activations)
    spared = ModulePatterns(fields.texts("modules_to_not_convert"), fields.owner)
    return Quantization("awq", (Rule(storage),), spared)


def _gptq(fields: ConfigFields, activations: DType) -> Quantization:
    """Source: vLLM gptq.py; the zero points are stored also where they are all the same."""
    bits = fields.integer("bits")
    storage = _grouped(fields, bits, bits, activations)
    overrides = fields.mapping("dynamic")
    for pattern in overrides:
        if not pattern.startswith("-:"):
            raise InvalidWorkloadError(
                f"{fields.owner}: GPTQ with other bits for some modules ({pattern[:80]!r}) is not known"
            )
    skipped = tuple("re:" + pattern.removeprefix("-:") for pattern in overrides)
    spared = ModulePatterns((*skipped, *fields.texts("modules_to_not_convert")), fields.owner)
    head = storage if fields.flag("lm_head", default=False) else None
    return Quantization("gptq", (Rule(storage),), spared, head=head)


def _compressed_tensors(fields: ConfigFields, activations: DType) -> Quantization:
    """Source: the compressed-tensors config_groups; first the groups that name modules, then those for a class."""
    groups = fields.section("config_groups")
    named: list[Rule] = []
    general: list[Rule] = []
    for key in groups.names():
        group = groups.section(key)
        targets = group.texts("targets")
        storage = _compressed_storage(group, activations)
        modules = tuple(target for target in targets if target != _EVERYWHERE)
        if modules:
            named.append(Rule(storage, ModulePatterns(modules, fields.owner)))
        if _EVERYWHERE in targets:
            general.append(Rule(storage))
    if not named and not general:
        raise fields.wrong("config_groups", "at least one group with targets")
    spared = ModulePatterns(fields.texts("ignore"), fields.owner)
    kv_cache_dtype = _kv_cache_scheme(fields)
    return Quantization("compressed-tensors", (*named, *general), spared, kv_cache_dtype=kv_cache_dtype)


def _compressed_storage(group: ConfigFields, activations: DType) -> Storage:
    weights = group.section("weights")
    bits, kind = weights.integer("num_bits"), weights.text("type", default="int")
    dtype = {(8, "float"): DType.FP8, (8, "int"): DType.INT8, (4, "int"): DType.INT4, (4, "float"): DType.FP4}
    stored = dtype.get((bits, kind))
    if stored is None:
        raise InvalidWorkloadError(f"{group.owner}: {bits}-bit {kind[:20]} weights are not known")
    gemm = _compressed_gemm(group, stored, activations)
    block = weights.integers("block_structure", default=(), minimum=1)
    if len(block) == 2:
        return Storage(stored, bits + 32.0 / (block[0] * block[1]), gemm, block[0], block[1])
    size = weights.integer("group_size", default=-1, minimum=-1)
    if size <= 0:
        return Storage(stored, float(bits), gemm)
    zero_bits = 0 if weights.flag("symmetric", default=True) else bits
    scale_bits = 8 if stored is DType.FP4 else 16
    return Storage(stored, bits + (scale_bits + zero_bits) / size, gemm, block_in=size)


def _compressed_gemm(group: ConfigFields, stored: DType, activations: DType) -> DType:
    if not group.present("input_activations"):
        return activations
    inputs = group.section("input_activations")
    bits = inputs.integer("num_bits", default=16)
    if bits == 16:
        return activations
    if bits == 8 and stored is DType.INT4:
        return DType.INT8 if inputs.text("type", default="int") == "int" else DType.FP8
    return stored


def _modelopt_config(fields: ConfigFields, activations: DType) -> Quantization:
    """Modelopt inside config.json: its own fields, or compressed-tensors' groups with modelopt's name."""
    if fields.present("quant_algo"):
        return _modelopt(fields, activations)
    return _compressed_tensors(fields, activations)


_READERS: Mapping[str, Callable[[ConfigFields, DType], Quantization]] = {
    "awq": _awq,
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "gptq": _gptq,
    "modelopt": _modelopt_config,
    "modelopt_fp4": _modelopt_config,
    "mxfp4": _mxfp4,
}
