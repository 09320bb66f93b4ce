"""Flags as a person gives them, read as settings and a layout.

Separate from writing argv: this takes names with dashes or underscores and values of any sensible type, refuses what
the vLLM version does not know, and says which flags change nothing in what is predicted.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from metainf.dtypes import DType
from metainf.engine_versions import DEFAULT_ENGINE_VERSION, flag_catalogue, unknown_flag
from metainf.errors import InvalidWorkloadError
from metainf.flag_catalogue import FlagCatalogue, FlagKind, FlagSpec
from metainf.layouts import Layout
from metainf.settings import EngineSettings, PerformanceMode, Speculation, SpeculationKind

__all__ = ["ParsedFlags", "parse_flags"]

_GIB = 1 << 30
_MOST = 1 << 40  # no count of tokens, sequences or bytes is larger; keeps arithmetic in range
_MOST_RANKS = 4096
_MOST_DRAFTED_TOKENS = 64

# Source: vLLM 0.32.0 vllm/utils/argparse_utils.py, human_readable_int: small letters are powers of ten.
_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,6}))?([kKmMgGtT]?)")
_SIZE_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE_FACTORS |= {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# Source: vLLM 0.32.0 vllm/config/cache.py, CacheDType. TurboQuant and UltraQuant are not modelled.
_KV_CACHE_DTYPES: dict[str, DType | None] = {
    "auto": None,
    "bfloat16": DType.BF16,
    "float16": DType.FP16,
    "fp8": DType.FP8,
    "fp8_e4m3": DType.FP8,
    "fp8_e5m2": DType.FP8,
    "fp8_inc": DType.FP8,
    "fp8_ds_mla": DType.FP8,
    "fp8_per_token_head": DType.FP8,
    "int8_per_token_head": DType.INT8,
    "int4_per_token_head": DType.INT4,
    "nvfp4": DType.FP4,
    "nvfp4_4over6": DType.FP4,
    "nvfp4_ds_mla": DType.FP4,
}
# Source: vLLM 0.32.0 vllm/config/quantization.py, online shorthands. Every other name restates what the checkpoint is.
_FP8_ONLINE = frozenset({"fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel"})
_OTHER_ONLINE = frozenset(
    {"int8_per_channel_weight_only", "nvfp4_per_token", "mxfp8", "mxfp4", "online", "experts_int8"}
)
# Source: vLLM 0.32.0 vllm/config/speculative.py; the names of single models' MTP are deprecated spellings of "mtp".
_SPECULATION_METHODS = {
    "ngram": SpeculationKind.NGRAM,
    "ngram_gpu": SpeculationKind.NGRAM,
    "eagle": SpeculationKind.EAGLE,
    "eagle3": SpeculationKind.EAGLE,
    "mtp": SpeculationKind.MTP,
    "draft_model": SpeculationKind.DRAFT_MODEL,
}


@dataclass(frozen=True, slots=True)
class ParsedFlags:
    """What flags come to. `ignored` names those that vLLM knows and no prediction depends on, sorted."""

    settings: EngineSettings = field(default_factory=EngineSettings)
    layout: Layout = field(default_factory=Layout)
    ignored: tuple[str, ...] = ()


def parse_flags(flags: Mapping[str, object], version: str = DEFAULT_ENGINE_VERSION) -> ParsedFlags:
    """Read flags by name, as `{"tensor-parallel-size": 2, "kv-cache-dtype": "fp8"}`.

    Names may have underscores, leading dashes, the short spellings (`-tp`) and `no-` before a switch. None as a
    value leaves the engine's default alone.

    Raises
    ------
    InvalidWorkloadError
        The version has no such flag (the message names the nearest), a flag is given twice, or a value is not one
        that it takes.
    """
    catalogue = flag_catalogue(version)
    given: dict[str, object] = {}
    for key, value in flags.items():
        spec, negated = _lookup(key, catalogue, version)
        if spec.name in given:
            raise InvalidWorkloadError(f"reading flags: --{spec.name} is given twice, as {key!r} the second time")
        if value is not None:
            given[spec.name] = (not _bool(value, spec.name)) if negated else value
    settings: dict[str, Any] = {}
    layout: dict[str, Any] = {}
    for name, (attribute, read) in _SETTINGS.items():
        if name in given:
            settings[attribute] = read(given.pop(name), name)
    for name, (attribute, read) in _LAYOUT.items():
        if name in given:
            layout[attribute] = read(given.pop(name), name)
    quantization = given.pop("quantization", None)
    if quantization is not None:
        settings["quantization"] = _quantization(quantization)
        if settings["quantization"] is None:
            given["quantization"] = quantization
    speculation = _speculation(given)
    for name in list(given):
        _check_choice(given[name], catalogue.flags[name])
    return ParsedFlags(EngineSettings(**settings, speculation=speculation), Layout(**layout), tuple(sorted(given)))


def _lookup(key: object, catalogue: FlagCatalogue, version: str) -> tuple[FlagSpec, bool]:
    """The flag that a key names, and whether in its `no-` form."""
    if not isinstance(key, str):
        raise InvalidWorkloadError(f"reading flags: {key!r} is not the name of a flag")
    spec = catalogue.spellings.get(key)
    if spec is not None and not key.startswith("--"):
        return spec, False
    option = "--" + key.removeprefix("--").replace("_", "-")
    spec = catalogue.spellings.get(option)
    if spec is None:
        raise InvalidWorkloadError(f"reading flags: {unknown_flag(option, version)}")
    return spec, option in spec.negations


def _refuse(name: str, value: object, wanted: str) -> InvalidWorkloadError:
    return InvalidWorkloadError(f"reading flag {name}: {str(value)[:80]!r} is not {wanted}")


def _bool(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise _refuse(name, value, "true or false")


def _whole(value: object, name: str, least: int, most: int = _MOST) -> int:
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        whole, fraction, suffix = match.groups()
        if fraction is None:
            number = int(whole) * _SIZE_FACTORS[suffix]
        elif suffix in ("k", "m", "g", "t"):
            number = int(float(f"{whole}.{fraction}") * _SIZE_FACTORS[suffix])
    if number is None or not least <= number <= most:
        raise _refuse(name, value, f"a whole number from {least} to {most}")
    return number


def _count(value: object, name: str) -> int:
    return _whole(value, name, 1)


def _count_or_zero(value: object, name: str) -> int:
    return _whole(value, name, 0)


def _ranks(value: object, name: str) -> int:
    return _whole(value, name, 1, _MOST_RANKS)


def _context(value: object, name: str) -> int | None:
    """-1 and auto mean as much as memory allows, which is close to the model's own length."""
    if value == -1 or (isinstance(value, str) and value.strip().lower() in ("-1", "auto")):
        return None
    return _count(value, name)


def _real(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _refuse(name, value, "a number")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise _refuse(name, value, "a number") from None


def _share(value: object, name: str) -> float:
    number = _real(value, name)
    if not 0.0 < number <= 1.0:
        raise _refuse(name, value, "above 0 and at most 1")
    return number


def _gib(value: object, name: str) -> int:
    number = _real(value, name)
    if not 0.0 <= number <= _MOST / _GIB:
        raise _refuse(name, value, f"a size in GiB from 0 to {_MOST // _GIB}")
    return round(number * _GIB)


def _mode(value: object, name: str) -> PerformanceMode:
    if isinstance(value, str) and value in list(PerformanceMode):
        return PerformanceMode(value)
    raise _refuse(name, value, "one of " + ", ".join(PerformanceMode))


def _kv_cache_dtype(value: object, name: str) -> DType | None:
    if isinstance(value, str) and value in _KV_CACHE_DTYPES:
        return _KV_CACHE_DTYPES[value]
    raise _refuse(name, value, "a cache that is modelled: one of " + ", ".join(sorted(_KV_CACHE_DTYPES)))


def _quantization(value: object) -> DType | None:
    """FP8 for quantising while loading; None for a name that says what the checkpoint already is."""
    if not isinstance(value, str) or not value:
        raise _refuse("quantization", value, "the name of a quantisation method")
    if value in _OTHER_ONLINE:
        raise _refuse("quantization", value, "modelled; of those that quantise while loading, fp8 is")
    return DType.FP8 if value in _FP8_ONLINE else None


def _speculation(given: dict[str, object]) -> Speculation | None:
    """Take the flags of speculation out of `given`; the `spec-` ones stand for fields of speculative-config.

    Source: vLLM 0.32.0 vllm/engine/arg_utils.py, EngineArgs.__post_init__ and create_speculative_config.
    """
    config = given.pop("speculative-config", None)
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except (ValueError, RecursionError):
            raise _refuse("speculative-config", config, "JSON") from None
    short = {key: given.pop(flag) for flag, key in _SPECULATION_SHORT.items() if flag in given}
    if config is None and not short:
        return None
    if config is not None and not isinstance(config, Mapping):
        raise _refuse("speculative-config", config, "an object with method and num_speculative_tokens")
    merged = {**(config or {}), **short}
    tokens = _whole(merged.get("num_speculative_tokens"), "num_speculative_tokens", 1, _MOST_DRAFTED_TOKENS)
    return Speculation(_speculation_kind(merged.get("method"), merged.get("model")), tokens)


_SPECULATION_SHORT = {"spec-method": "method", "spec-model": "model", "spec-tokens": "num_speculative_tokens"}


def _speculation_kind(method: object, model: object) -> SpeculationKind:
    if method is None and isinstance(model, str):
        # vLLM 0.32.0 tells an EAGLE head from a draft model by its name where no method is given.
        return SpeculationKind.EAGLE if "eagle" in model.lower() else SpeculationKind.DRAFT_MODEL
    if isinstance(method, str) and method in _SPECULATION_METHODS:
        return _SPECULATION_METHODS[method]
    if isinstance(method, str) and method.endswith("_mtp"):
        return SpeculationKind.MTP
    raise _refuse("speculative-config", method, "a method that is modelled: " + ", ".join(_SPECULATION_METHODS))


def _check_choice(value: object, spec: FlagSpec) -> None:
    if spec.kind is FlagKind.CHOICE and not spec.takes(str(value)):
        raise _refuse(spec.name, value, "one of " + ", ".join(spec.choices))
    if spec.kind in (FlagKind.SWITCH, FlagKind.FLAG):
        _bool(value, spec.name)


_Reader = Callable[[object, str], object]

_SETTINGS: dict[str, tuple[str, _Reader]] = {
    "enable-prefix-caching": ("prefix_caching", _bool),
    "enable-chunked-prefill": ("chunked_prefill", _bool),
    "max-num-batched-tokens": ("max_num_batched_tokens", _count),
    "max-num-seqs": ("max_num_seqs", _count),
    "long-prefill-token-threshold": ("long_prefill_token_threshold", _count_or_zero),
    "kv-cache-dtype": ("kv_cache_dtype", _kv_cache_dtype),
    "kv-offloading-size": ("kv_offload_bytes", _gib),
    "performance-mode": ("performance_mode", _mode),
    "max-model-len": ("max_model_len", _context),
    "gpu-memory-utilization": ("gpu_memory_utilization", _share),
    "stream-interval": ("stream_interval", _count),
    "kv-cache-memory-bytes": ("kv_cache_memory_bytes", _count),
}
_LAYOUT: dict[str, tuple[str, _Reader]] = {
    "tensor-parallel-size": ("tensor_parallel", _ranks),
    "pipeline-parallel-size": ("pipeline_parallel", _ranks),
    "data-parallel-size": ("data_parallel", _ranks),
    "enable-expert-parallel": ("expert_parallel", _bool),
}
