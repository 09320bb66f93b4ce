"""A check of the arguments that a user adds to vLLM's own: none may undo what was decided.

Separate because it reads argv the way vLLM's parser does (abbreviations, `--flag=value`, dotted JSON fields, short
spellings), which writing argv needs nothing of.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from metainf.engine_versions import DEFAULT_ENGINE_VERSION, flag_catalogue, unknown_flag
from metainf.flag_catalogue import FlagCatalogue, FlagKind, FlagSpec
from metainf.serve_args import is_plain_text

__all__ = ["RESERVED_FLAGS", "ExtraArgProblem", "ExtraArgReason", "check_extra_args"]


class ExtraArgReason(StrEnum):
    """What is wrong with an extra argument; each member's comment says when it shows."""

    DECIDED = "Decided"  # it would override what was decided
    UNKNOWN = "Unknown"  # the version's parser has no such flag
    ABBREVIATED = "Abbreviated"  # argparse would take it, until the next release adds a longer namesake
    POSITIONAL = "Positional"  # it would be read as the model's name
    MISSING_VALUE = "MissingValue"  # its value does not follow
    INVALID_VALUE = "InvalidValue"  # not one of the values that the flag takes
    UNPRINTABLE = "Unprintable"  # it holds control characters


@dataclass(frozen=True, slots=True)
class ExtraArgProblem:
    """One argument, why it is refused, and what to do instead; `flag` is what the parser would take it for."""

    reason: ExtraArgReason
    argument: str
    detail: str
    flag: str | None = None

    def __str__(self) -> str:
        return f"{self.argument[:80]!r}: {self.detail}"


_SETTINGS_HINT = "it is part of the method: choose one by methods.allow or policy.pinned"
_LAYOUT_HINT = "it is part of the layout, which is chosen with the pool"
_SERVER_HINT = "the Service, the probes and the metrics depend on it"

_REASONS: dict[str, tuple[str, ...]] = {
    _SETTINGS_HINT: (
        "enable-chunked-prefill",
        "enable-prefix-caching",
        "kv-cache-dtype",
        "kv-offloading-backend",
        "kv-offloading-size",
        "kv-transfer-config",
        "long-prefill-token-threshold",
        "long-prefill-token-threshold-adaptive",
        "max-num-active-seqs",
        "max-num-batched-tokens",
        "max-num-scheduled-tokens",
        "max-num-seqs",
        "performance-mode",
        "quantization",
        "quantization-config",
        "spec-method",
        "spec-model",
        "spec-tokens",
        "speculative-config",
        "stream-interval",
    ),
    _LAYOUT_HINT: (
        "api-server-count",
        "data-parallel-address",
        "data-parallel-backend",
        "data-parallel-external-lb",
        "data-parallel-hybrid-lb",
        "data-parallel-multi-port-external-lb",
        "data-parallel-rank",
        "data-parallel-rpc-port",
        "data-parallel-size",
        "data-parallel-size-local",
        "data-parallel-start-rank",
        "data-parallel-supervisor-port",
        "decode-context-parallel-size",
        "device-ids",
        "enable-elastic-ep",
        "enable-expert-parallel",
        "headless",
        "master-addr",
        "master-port",
        "nnodes",
        "node-rank",
        "pipeline-parallel-size",
        "prefill-context-parallel-size",
        "tensor-parallel-size",
    ),
    _SERVER_HINT: (
        "disable-log-stats",
        "grpc",
        "grpc-port",
        "help",
        "host",
        "port",
        "root-path",
        "ssl-ca-certs",
        "ssl-cert-reqs",
        "ssl-certfile",
        "ssl-keyfile",
        "uds",
    ),
    "it is set from spec.model": ("code-revision", "model", "revision", "served-model-name"),
    "it is chosen from the traffic and the memory": (
        "gpu-memory-utilization",
        "kv-cache-memory-bytes",
        "max-model-len",
        "num-gpu-blocks-override",
    ),
    "it is set together with the pod's grace period": ("shutdown-timeout",),
    "the key would stand in the pod's arguments: use engine.apiKeySecretRef": ("api-key",),
    "the token would stand in the pod's arguments: use model.tokenSecretRef": ("hf-token",),
    "a file could hold any flag, unchecked: list the flags themselves": ("config",),
}
_HINTS = {flag: hint for hint, flags in _REASONS.items() for flag in flags}

RESERVED_FLAGS = frozenset(_HINTS)
"""Flags that a user's extra arguments may not give, by name."""

_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")  # as argparse tells them from options


def check_extra_args(
    extra: Sequence[str],
    decided: Collection[str] = RESERVED_FLAGS,
    version: str = DEFAULT_ENGINE_VERSION,
) -> tuple[ExtraArgProblem, ...]:
    """Every problem with a user's arguments, in their order; empty when they can be appended as they are.

    `decided` names flags without dashes; `serve_args.settings_flags` gives those of a method, and by default all
    that are ours to decide are refused, for a flag that a method leaves alone still changes what was predicted.
    """
    return tuple(_Reader(version, frozenset(decided)).read(extra))


class _Reader:
    """Walks over the arguments as FlexibleArgumentParser and argparse do.

    Source: vLLM 0.32.0 vllm/utils/argparse_utils.py, parse_args; CPython 3.11 argparse.py, _parse_optional and
    _get_option_tuples.
    """

    def __init__(self, version: str, decided: frozenset[str]) -> None:
        self._version = version
        self._catalogue = flag_catalogue(version)
        self._decided = decided
        self._problems: list[ExtraArgProblem] = []
        self._open: tuple[str, FlagSpec] | None = None  # a flag whose value has to follow
        self._more = False  # further values may follow

    def read(self, extra: Sequence[str]) -> list[ExtraArgProblem]:
        """All problems of the arguments."""
        for argument in extra:
            if not is_plain_text(argument):
                self._refuse(ExtraArgReason.UNPRINTABLE, argument, "it holds characters that cannot be printed")
                self._open, self._more = None, True
            elif _looks_like_option(argument):
                self._missing_value()
                self._option(argument)
            else:
                self._value(argument)
        self._missing_value()
        return self._problems

    def _refuse(self, reason: ExtraArgReason, argument: str, detail: str, flag: str | None = None) -> None:
        self._problems.append(ExtraArgProblem(reason, argument, detail, flag))

    def _missing_value(self) -> None:
        if self._open is not None:
            argument, spec = self._open
            self._refuse(ExtraArgReason.MISSING_VALUE, argument, "its value does not follow", spec.name)
        self._open, self._more = None, False

    def _value(self, argument: str) -> None:
        if self._open is not None:
            option, spec = self._open
            self._open, self._more = None, spec.kind is FlagKind.LIST
            self._check_value(f"{option} {argument}", spec, argument)
        elif not self._more:
            self._refuse(
                ExtraArgReason.POSITIONAL, argument, "it follows no flag and would be read as the model's name"
            )

    def _option(self, argument: str) -> None:
        if argument == "--":
            self._refuse(ExtraArgReason.POSITIONAL, argument, "it ends the flags, and what follows names the model")
            self._more = True
            return
        name, value = _split(argument)
        matches = _matches(name, self._catalogue)
        if not matches:
            self._refuse(ExtraArgReason.UNKNOWN, argument, unknown_flag(name, self._version))
            self._more = True  # its value, if it has one, is no problem of its own
            return
        for spec in (self._catalogue.flags[n] for n in sorted({m.name for m in matches})):
            if spec.name in self._decided:
                hint = _HINTS.get(spec.name, "it was decided")
                self._refuse(ExtraArgReason.DECIDED, argument, f"{spec.option} may not be given: {hint}", spec.name)
                self._more = True
                return
        self._accept(argument, name, value, matches)

    def _accept(self, argument: str, name: str, value: str | None, matches: tuple[FlagSpec, ...]) -> None:
        spec = matches[0]
        glued = name not in self._catalogue.spellings and not name.startswith("--") and name[:2] in spec.aliases
        if name not in self._catalogue.spellings and not glued:
            whole = " or ".join(sorted({m.option for m in matches}))
            self._refuse(ExtraArgReason.ABBREVIATED, argument, f"write {whole} in full", spec.name)
            self._more = True
        elif value is not None:
            self._check_value(argument, spec, value)
        elif not glued:
            self._open = (argument, spec) if spec.kind.takes_value else None
            self._more = spec.kind is FlagKind.OPTIONAL

    def _check_value(self, argument: str, spec: FlagSpec, value: str) -> None:
        if spec.kind in (FlagKind.SWITCH, FlagKind.FLAG):
            self._refuse(ExtraArgReason.INVALID_VALUE, argument, f"{spec.option} takes no value", spec.name)
        elif not spec.takes(value):
            detail = f"{spec.option} takes one of {', '.join(spec.choices)}"
            self._refuse(ExtraArgReason.INVALID_VALUE, argument, detail, spec.name)
        elif spec.kind is FlagKind.INT and not re.fullmatch(r"[-+]?\d+|None", value.strip()):
            self._refuse(ExtraArgReason.INVALID_VALUE, argument, f"{spec.option} takes a whole number", spec.name)


def _looks_like_option(argument: str) -> bool:
    return len(argument) > 1 and argument.startswith("-") and not _NEGATIVE_NUMBER.fullmatch(argument)


def _split(argument: str) -> tuple[str, str | None]:
    """Option and value of `--flag=value`; underscores of the name are dashes, dotted fields fall away.

    `-O3` and `-O=3` are the optimization level.
    """
    if argument.startswith("-O"):
        return "--optimization-level", argument[2:].removeprefix("=") or None
    name, equals, value = argument.partition("=")
    head = name.partition(".")[0]
    if head.startswith("--"):
        head = "--" + head[2:].replace("_", "-")
    return head, (value if equals else None)


def _matches(name: str, catalogue: FlagCatalogue) -> tuple[FlagSpec, ...]:
    """Flags that argparse could take an option for: the exact one, or every one that it abbreviates."""
    exact = catalogue.spellings.get(name)
    if exact is not None:
        return (exact,)
    found = [spec for spelling, spec in catalogue.spellings.items() if spelling.startswith(name)]
    if not name.startswith("--"):
        glued = catalogue.spellings.get(name[:2])  # -qfp8 is -q fp8
        found += [glued] if glued is not None else []
    return tuple(dict.fromkeys(found))
