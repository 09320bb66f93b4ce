"""Settings and layout as `vllm serve` arguments, and flags as a person gives them as settings and layout.

Separate from the settings themselves, which know no spelling. Names of models, revisions and served names come from
users: each is one item of argv, never part of a shell string, and none can be read as a flag.

Why the model is positional: vLLM's image starts `vllm serve`, and vLLM 0.32.0 (vllm/utils/argparse_utils.py,
FlexibleArgumentParser.parse_args) warns that `--model` will go from there. Its older entrypoint,
`python -m vllm.entrypoints.openai.api_server`, ignores the positional one (vllm/entrypoints/launchers/cli_args.py),
hence `Entrypoint`.
"""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from metainf.dtypes import DType
from metainf.engine_versions import DEFAULT_ENGINE_VERSION, flag_catalogue
from metainf.errors import InvalidWorkloadError
from metainf.flag_catalogue import FlagKind
from metainf.layouts import Layout
from metainf.settings import EngineSettings, Speculation, SpeculationKind

__all__ = [
    "KV_CACHE_DTYPE_FLAGS",
    "SPECULATION_METHOD_FLAGS",
    "DraftModel",
    "Entrypoint",
    "is_plain_text",
    "layout_flags",
    "serve_argv",
    "settings_flags",
]

_GIB = 1 << 30
_MAX_NAME_CHARACTERS = 1024

# Source: vLLM 0.32.0 vllm/config/cache.py, CacheDType; "fp8" is fp8_e4m3 there.
KV_CACHE_DTYPE_FLAGS = {
    DType.BF16: "bfloat16",
    DType.FP16: "float16",
    DType.FP8: "fp8",
    DType.INT8: "int8_per_token_head",
    DType.INT4: "int4_per_token_head",
    DType.FP4: "nvfp4",
}
# Source: vLLM 0.32.0 vllm/config/speculative.py, SpeculativeMethod.
SPECULATION_METHOD_FLAGS = {
    SpeculationKind.NGRAM: "ngram",
    SpeculationKind.EAGLE: "eagle3",
    SpeculationKind.MTP: "mtp",
    SpeculationKind.DRAFT_MODEL: "draft_model",
}

FlagValue = bool | int | float | str
Flags = tuple[tuple[str, FlagValue], ...]


class Entrypoint(StrEnum):
    """What the container runs before our arguments."""

    SERVE = "vllm serve"
    API_SERVER = "python -m vllm.entrypoints.openai.api_server"


@dataclass(frozen=True, slots=True)
class DraftModel:
    """The model that drafts, for EAGLE and draft-model speculation; `revision` is a commit."""

    model: str
    revision: str | None = None


def layout_flags(layout: Layout) -> Flags:
    """Flags by which the layout differs from one accelerator."""
    flags: list[tuple[str, FlagValue]] = []
    if layout.tensor_parallel > 1:
        flags.append(("tensor-parallel-size", layout.tensor_parallel))
    if layout.pipeline_parallel > 1:
        flags.append(("pipeline-parallel-size", layout.pipeline_parallel))
    if layout.data_parallel > 1:
        flags.append(("data-parallel-size", layout.data_parallel))
    if layout.expert_parallel:
        flags.append(("enable-expert-parallel", True))
    return tuple(flags)


def settings_flags(settings: EngineSettings, draft: DraftModel | None = None) -> Flags:
    """Flags for everything that is asked for, in the order of argv; what is None is left to the engine."""
    speculation = settings.speculation
    candidates: tuple[tuple[str, FlagValue | None], ...] = (
        ("max-model-len", settings.max_model_len),
        ("gpu-memory-utilization", settings.gpu_memory_utilization),
        ("kv-cache-memory-bytes", settings.kv_cache_memory_bytes),
        ("enable-prefix-caching", settings.prefix_caching),
        ("enable-chunked-prefill", settings.chunked_prefill),
        ("max-num-batched-tokens", settings.max_num_batched_tokens),
        ("max-num-seqs", settings.max_num_seqs),
        ("long-prefill-token-threshold", settings.long_prefill_token_threshold),
        ("quantization", _quantization_flag(settings.quantization)),
        ("kv-cache-dtype", _kv_cache_dtype_flag(settings.kv_cache_dtype)),
        ("kv-offloading-size", _gib(settings.kv_offload_bytes)),
        ("speculative-config", None if speculation is None else _speculation_json(speculation, draft)),
        ("performance-mode", None if settings.performance_mode is None else settings.performance_mode.value),
        ("stream-interval", settings.stream_interval),
    )
    return tuple((name, value) for name, value in candidates if value is not None)


def _quantization_flag(dtype: DType | None) -> str | None:
    if dtype is None:
        return None
    if dtype is not DType.FP8:
        raise InvalidWorkloadError(f"quantising weights to {dtype} while loading: only fp8 is supported")
    return "fp8"


def _kv_cache_dtype_flag(dtype: DType | None) -> str | None:
    if dtype is None:
        return None
    if dtype not in KV_CACHE_DTYPE_FLAGS:
        raise InvalidWorkloadError(f"keeping the KV cache in {dtype}: vLLM has no such cache")
    return KV_CACHE_DTYPE_FLAGS[dtype]


def _gib(size_bytes: int | None) -> int | float | None:
    """Bytes as vLLM wants them, in GiB; exact, since a power of two divides."""
    if not size_bytes:
        return None
    return size_bytes // _GIB if size_bytes % _GIB == 0 else size_bytes / _GIB


def _speculation_json(speculation: Speculation, draft: DraftModel | None) -> str:
    config: dict[str, str | int] = {
        "method": SPECULATION_METHOD_FLAGS[speculation.kind],
        "num_speculative_tokens": speculation.tokens,
    }
    if speculation.kind in (SpeculationKind.EAGLE, SpeculationKind.DRAFT_MODEL) and draft is not None:
        config["model"] = _name(draft.model, "draft model")
        if draft.revision is not None:
            config["revision"] = _name(draft.revision, "draft model's revision")
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


def serve_argv(
    *,
    model: str,
    layout: Layout,
    settings: EngineSettings,
    port: int,
    revision: str | None = None,
    served_name: str | None = None,
    draft: DraftModel | None = None,
    shutdown_timeout_s: int | None = None,
    version: str = DEFAULT_ENGINE_VERSION,
    extra: Sequence[str] = (),
    entrypoint: Entrypoint = Entrypoint.SERVE,
) -> tuple[str, ...]:
    """Arguments after the entrypoint, one item each, always in the same order.

    Only what is asked for: whatever the settings leave at None is the version's own default. `model` is a hub id or
    a path; `revision` pins the tokenizer too (vLLM 0.32.0 vllm/config/model.py sets tokenizer_revision from it).
    `extra` comes last and unchanged: check it with `extra_args.check_extra_args` before.

    Raises
    ------
    InvalidWorkloadError
        A name is empty, holds control characters, starts with a dash or refers to a variable of the container; or
        the speculation needs a draft model and there is none.
    """
    _check_draft(settings.speculation, draft)
    if not 1 <= port <= 65535:
        raise InvalidWorkloadError(f"listening on port {port}: give one between 1 and 65535")
    flags: list[tuple[str, FlagValue]] = []
    if revision is not None:
        flags.append(("revision", _name(revision, "revision")))
    if served_name is not None:
        flags.append(("served-model-name", _name(served_name, "served name")))
    flags.append(("port", port))
    if shutdown_timeout_s is not None:
        flags.append(("shutdown-timeout", shutdown_timeout_s))
    flags.extend(layout_flags(layout))
    flags.extend(settings_flags(settings, draft))
    first = (_name(model, "model"),) if entrypoint is Entrypoint.SERVE else ("--model", _name(model, "model"))
    return (*first, *_spelt(flags, version), *extra)


def _check_draft(speculation: Speculation | None, draft: DraftModel | None) -> None:
    needs = speculation is not None and speculation.kind in (SpeculationKind.EAGLE, SpeculationKind.DRAFT_MODEL)
    if needs and draft is None:
        raise InvalidWorkloadError("speculating with a draft model: name it in model.draftModel")


def _spelt(flags: Sequence[tuple[str, FlagValue]], version: str) -> Iterator[str]:
    catalogue = flag_catalogue(version)
    for name, value in flags:
        spec = catalogue.flags.get(name)
        if spec is None:
            raise InvalidWorkloadError(f"vLLM {catalogue.version} has no flag --{name}: choose another method")
        if spec.kind is FlagKind.SWITCH:
            yield spec.option if value else f"--no-{name}"
        else:
            yield spec.option
            yield value if isinstance(value, str) else _number(value)


def _number(value: int | float) -> str:
    return repr(value) if isinstance(value, float) else str(int(value))


def _name(text: str, what: str) -> str:
    """The text, if it can stand in argv as nothing but a value.

    `$(` is refused because the kubelet replaces `$(NAME)` in a container's arguments by an environment variable,
    which would show a token as a model's name.
    """
    if not text or text != text.strip():
        raise InvalidWorkloadError(f"the {what} is empty or has blanks around it: {text[:80]!r}")
    if len(text) > _MAX_NAME_CHARACTERS:
        raise InvalidWorkloadError(f"the {what} has {len(text)} characters: at most {_MAX_NAME_CHARACTERS} are taken")
    if not is_plain_text(text):
        raise InvalidWorkloadError(f"the {what} holds characters that cannot be printed: {text[:80]!r}")
    if text.startswith("-"):
        raise InvalidWorkloadError(f"the {what} starts with a dash and would be read as a flag: {text[:80]!r}")
    if "$(" in text:
        raise InvalidWorkloadError(f"the {what} refers to a variable of the container: {text[:80]!r}")
    return text


def is_plain_text(text: str) -> bool:
    """Whether all characters can be printed: no controls, surrogates, line separators or text direction marks."""
    return not any(unicodedata.category(c) in _UNPRINTABLE for c in text)


_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
