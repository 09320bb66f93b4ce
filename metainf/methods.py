"""The methods that a predictor chooses among: named sets of techniques, each a delta from vLLM's own defaults.

Separate from techniques (facts about the engine) and from settings (values): a method's name is what users allow,
what decisions record and what the papers' tables have as columns, so names never change their meaning.

Two readings of the papers' four rows (prefix caching, chunked prefill, continuous batching, all combined) are kept:
ALONE puts each over one request at a time with neither prefix cache nor chunking; ON_BATCHING has continuous batching
always on. "All combined" is vLLM's default in both. Rejected: the four as the only methods. Today's engine has all of
them on, so what is left to choose is around that default.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from metainf.accelerators import Accelerator
from metainf.architecture import ModelArchitecture
from metainf.conflicts import Conflict, ConflictReason
from metainf.dtypes import DType
from metainf.engine_defaults import effective_settings
from metainf.engine_versions import DEFAULT_ENGINE_VERSION, flag_catalogue, known_version, unknown_flag
from metainf.errors import InvalidWorkloadError
from metainf.flag_catalogue import FlagCatalogue
from metainf.layout_rules import layout_conflicts, layouts_for
from metainf.layouts import Layout
from metainf.serve_args import DraftModel, settings_flags
from metainf.settings import EngineSettings, PerformanceMode, Speculation, SpeculationKind
from metainf.settings_rules import settings_conflicts, weight_only_fp8
from metainf.techniques import Technique, TechniqueFacts

__all__ = [
    "MOST_METHODS",
    "Conflict",
    "ConflictReason",
    "Method",
    "PublishedMethod",
    "Reading",
    "Requirement",
    "Technique",
    "TechniqueFacts",
    "applicable",
    "effective_settings",
    "lacking_flags",
    "layout_conflicts",
    "layouts_for",
    "method",
    "method_lacks",
    "portfolio",
    "published",
    "remarks",
    "techniques_of",
]

MOST_METHODS = 24
_GIB = 1 << 30
_ANY_DRAFT = DraftModel("draft")


class Requirement(StrEnum):
    """What has to be there besides the model and the accelerator."""

    DRAFT_MODEL = "draft-model"  # the workload names a draft model
    MTP_LAYERS = "mtp-layers"  # the checkpoint has multi-token prediction layers


class Reading(StrEnum):
    """How the papers' rows are read."""

    ALONE = "alone"
    ON_BATCHING = "on-batching"


@dataclass(frozen=True, slots=True)
class Method:
    """A named delta from the version's defaults. `aliases` are names that came to the same settings.

    An experimental method is for studies and for `predict`: it is a candidate only where methods.allow names it.
    """

    name: str
    techniques: tuple[Technique, ...]
    settings: EngineSettings
    summary: str
    experimental: bool = False
    requires: tuple[Requirement, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def lossy(self) -> bool:
        """Whether the method can change the model's answers."""
        return any(technique.lossy for technique in self.techniques)

    @property
    def complexity(self) -> int:
        """How far from the default: settings that differ, and double for each thing that has to be there besides.

        Ties go to the simpler method.
        """
        changed = sum(getattr(self.settings, name) is not None for name in EngineSettings.__slots__)
        return changed + 2 * len(self.requires) + self.lossy

    @property
    def added(self) -> tuple[Technique, ...]:
        """Techniques beyond those that the default has on."""
        return tuple(technique for technique in self.techniques if technique not in _DEFAULT_TECHNIQUES)


@dataclass(frozen=True, slots=True)
class PublishedMethod:
    """A row of the papers' table, and the method that stands for it."""

    row: str
    method: Method


_DEFAULT_TECHNIQUES = (Technique.CONTINUOUS_BATCHING, Technique.PREFIX_CACHING, Technique.CHUNKED_PREFILL)
_SPECULATION_TECHNIQUES = {
    SpeculationKind.NGRAM: Technique.NGRAM_SPECULATION,
    SpeculationKind.EAGLE: Technique.EAGLE_SPECULATION,
    SpeculationKind.MTP: Technique.MTP_SPECULATION,
}
_SPECULATION_REQUIREMENTS = {
    SpeculationKind.EAGLE: (Requirement.DRAFT_MODEL,),
    SpeculationKind.DRAFT_MODEL: (Requirement.DRAFT_MODEL,),
    SpeculationKind.MTP: (Requirement.MTP_LAYERS,),
}


def techniques_of(settings: EngineSettings) -> tuple[Technique, ...]:
    """The techniques that settings come to over the defaults, in the catalogue's order."""
    asked = {
        Technique.CONTINUOUS_BATCHING: settings.max_num_seqs != 1,
        Technique.PREFIX_CACHING: settings.prefix_caching is not False,
        Technique.CHUNKED_PREFILL: settings.chunked_prefill is not False,
        Technique.TOKEN_BUDGET: settings.max_num_batched_tokens is not None,
        Technique.SEQUENCE_LIMIT: settings.max_num_seqs not in (None, 1),
        Technique.LONG_PREFILL_THRESHOLD: bool(settings.long_prefill_token_threshold),
        Technique.PERFORMANCE_MODE: settings.performance_mode not in (None, PerformanceMode.BALANCED),
        Technique.STREAM_INTERVAL: settings.stream_interval not in (None, 1),
        Technique.FP8_WEIGHTS: settings.quantization is DType.FP8,
        Technique.FP8_KV_CACHE: settings.kv_cache_dtype is DType.FP8,
        Technique.KV_OFFLOAD: bool(settings.kv_offload_bytes),
    }
    if settings.speculation is not None and settings.speculation.kind in _SPECULATION_TECHNIQUES:
        asked[_SPECULATION_TECHNIQUES[settings.speculation.kind]] = True
    return tuple(technique for technique in Technique if asked.get(technique, False))


def _delta(settings: EngineSettings) -> EngineSettings:
    """The settings without what the default does anyway (vLLM 0.32.0: prefix caching and chunked prefill are on)."""
    return replace(
        settings, prefix_caching=settings.prefix_caching and None, chunked_prefill=settings.chunked_prefill and None
    )


def _method(name: str, summary: str, settings: EngineSettings, *, experimental: bool = False) -> Method:
    kind = None if settings.speculation is None else settings.speculation.kind
    return Method(
        name=name,
        techniques=techniques_of(settings),
        settings=_delta(settings),
        summary=summary,
        experimental=experimental,
        requires=() if kind is None else _SPECULATION_REQUIREMENTS.get(kind, ()),
    )


def _merged(methods: Sequence[Method]) -> tuple[Method, ...]:
    """The methods with equal settings folded into the first of them, which takes the others' names as aliases."""
    kept: dict[EngineSettings, Method] = {}
    for candidate in methods:
        first = kept.get(candidate.settings)
        kept[candidate.settings] = (
            candidate if first is None else replace(first, aliases=(*first.aliases, candidate.name, *candidate.aliases))
        )
    return tuple(kept.values())


def portfolio(version: str = DEFAULT_ENGINE_VERSION) -> tuple[Method, ...]:
    """All methods of a version, the default first; no two have equal settings. Those whose flags it lacks are left out.

    Raises
    ------
    InvalidWorkloadError
        Nothing is known about that version.
    """
    return _portfolio(str(known_version(version)))


@lru_cache(maxsize=8)
def _portfolio(version: str) -> tuple[Method, ...]:
    catalogue = flag_catalogue(version)
    return tuple(each for each in _all_methods() if not lacking_flags(each, catalogue))


@lru_cache(maxsize=1)
def _all_methods() -> tuple[Method, ...]:
    methods = _merged((*_candidate_methods(), *(row.method for reading in Reading for row in _published_rows(reading))))
    assert len(methods) <= MOST_METHODS, f"{len(methods)} methods: a portfolio has at most {MOST_METHODS}"
    return methods


def lacking_flags(method: Method, catalogue: FlagCatalogue) -> tuple[str, ...]:
    """The method's flags that a version's parser does not take, or not with that value, as `--performance-mode`."""
    found = []
    for name, value in settings_flags(method.settings, _ANY_DRAFT):
        spec = catalogue.flags.get(name)
        if spec is None or (isinstance(value, str) and not spec.takes(value)):
            found.append(f"--{name}")
    return tuple(found)


def method_lacks(name: str, version: str = DEFAULT_ENGINE_VERSION) -> str:
    """Why the version's portfolio is without a method that others have; empty where nothing is called so."""
    catalogue = flag_catalogue(version)
    for each in _all_methods():
        lacking = lacking_flags(each, catalogue) if name in (each.name, *each.aliases) else ()
        if lacking:
            return f"{name} needs {lacking[0]}, and {unknown_flag(lacking[0], version)}"
    return ""


def method(name: str, version: str = DEFAULT_ENGINE_VERSION) -> Method:
    """The method of that name or alias.

    Raises
    ------
    InvalidWorkloadError
        No method is called so; the message names the nearest.
    """
    by_name = {n: m for m in portfolio(version) for n in (m.name, *m.aliases)}
    if name not in by_name:
        if lacks := method_lacks(name, version):
            raise InvalidWorkloadError(lacks)
        close = difflib.get_close_matches(name, by_name, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(m.name for m in portfolio(version))}"
        raise InvalidWorkloadError(f"no method is called {name[:80]!r}: {hint}")
    return by_name[name]


def published(reading: Reading, version: str = DEFAULT_ENGINE_VERSION) -> tuple[PublishedMethod, ...]:
    """The papers' four rows under one reading, as methods of the portfolio."""
    return tuple(PublishedMethod(r.row, method(r.method.name, version)) for r in _published_rows(reading))


def _published_rows(reading: Reading) -> tuple[PublishedMethod, ...]:
    rows: tuple[tuple[str, str, str, int | None, bool, bool], ...]
    if reading is Reading.ALONE:
        rows = (
            ("prefix caching", "static-prefix-caching", "Prefix caching alone, one request at a time.", 1, True, False),
            (
                "chunked prefill",
                "static-chunked-prefill",
                "Chunked prefill alone, one request at a time.",
                1,
                False,
                True,
            ),
            ("continuous batching", "continuous-batching", "Continuous batching alone.", None, False, False),
            ("all combined", "all-combined", "All three, which is vLLM's default.", None, True, True),
        )
    else:
        rows = (
            ("prefix caching", "no-chunked-prefill", "The default without chunked prefill.", None, True, False),
            ("chunked prefill", "batching-chunked-prefill", "The default without prefix caching.", None, False, True),
            ("continuous batching", "batching-alone", "Continuous batching alone.", None, False, False),
            ("all combined", "batching-all-combined", "All three, which is vLLM's default.", None, True, True),
        )
    return tuple(
        PublishedMethod(
            row,
            _method(
                name,
                summary,
                EngineSettings(max_num_seqs=sequences, prefix_caching=prefix, chunked_prefill=chunked),
                experimental=True,
            ),
        )
        for row, name, summary, sequences, prefix, chunked in rows
    )


def _candidate_methods() -> tuple[Method, ...]:
    """The methods that are chosen among, simple ones first.

    Values: 2048 tokens is what vLLM's docs (configuration/optimization) call small, 512 what cut gaps to 0.4 of the
    default's in our CPU runs; 16384 tokens, 1024 sequences and an interval of 10 are what the vLLM blog of 2026-02-01
    and GPUStack's throughput profiles use; 4 n-gram tokens are what we measured; 1 and 3 of MTP what GPUStack did.
    """
    fp8 = EngineSettings(quantization=DType.FP8)
    throughput = EngineSettings(max_num_batched_tokens=16384, max_num_seqs=1024, stream_interval=10)
    latency = EngineSettings(max_num_batched_tokens=2048, performance_mode=PerformanceMode.INTERACTIVITY)
    static = EngineSettings(max_num_seqs=1, prefix_caching=False, chunked_prefill=False)

    def speculating(kind: SpeculationKind, tokens: int) -> EngineSettings:
        return EngineSettings(speculation=Speculation(kind, tokens))

    mtp = speculating(SpeculationKind.MTP, 1)
    return (
        _method("default", "vLLM as it comes: batching, prefix caching and chunked prefill.", EngineSettings()),
        _method("no-prefix-caching", "The default without prefix caching.", EngineSettings(prefix_caching=False)),
        _method("latency", "Small steps and fine CUDA graphs.", latency),
        _method("throughput", "Large steps, many sequences, coarse streaming.", throughput),
        _method(
            "performance-throughput",
            "Both batch limits of the default doubled.",
            EngineSettings(performance_mode=PerformanceMode.THROUGHPUT),
        ),
        _method("small-token-budget", "Very small steps.", EngineSettings(max_num_batched_tokens=512)),
        _method(
            "long-prefill-threshold",
            "Long prompts cut to 512 tokens a step, so that short ones overtake.",
            EngineSettings(long_prefill_token_threshold=512),
        ),
        _method("few-sequences", "At most 32 sequences at once.", EngineSettings(max_num_seqs=32)),
        _method("ngram", "Drafts copied from the text so far.", speculating(SpeculationKind.NGRAM, 4)),
        _method("mtp", "One draft from the model's own layers.", mtp),
        _method("mtp-3", "Three drafts from the model's own layers.", speculating(SpeculationKind.MTP, 3)),
        _method("eagle", "Three drafts from an EAGLE head.", speculating(SpeculationKind.EAGLE, 3)),
        _method("kv-offload", "32 GiB of host memory behind the KV cache.", EngineSettings(kv_offload_bytes=32 * _GIB)),
        _method("fp8-weights", "Weights quantised to FP8 while loading.", fp8),
        _method("fp8-kv", "KV cache in FP8.", EngineSettings(kv_cache_dtype=DType.FP8)),
        _method("fp8-weights-kv", "Weights and KV cache in FP8.", replace(fp8, kv_cache_dtype=DType.FP8)),
        _method("fp8-weights-throughput", "FP8 weights and large steps.", replace(throughput, quantization=DType.FP8)),
        _method("fp8-weights-mtp", "FP8 weights and one draft.", replace(mtp, quantization=DType.FP8)),
        _method("static", "One request at a time, no prefix cache, no chunks.", static, experimental=True),
    )


def applicable(
    method: Method,
    architecture: ModelArchitecture,
    accelerator: Accelerator,
    layout: Layout,
    engine_version: str = DEFAULT_ENGINE_VERSION,
    *,
    draft_model: bool = False,
    max_model_len: int | None = None,
) -> tuple[Conflict, ...]:
    """Why the method cannot serve here; empty where it can. `draft_model`: whether the workload names one."""
    found = list(
        settings_conflicts(
            method.settings,
            architecture=architecture,
            accelerator=accelerator,
            layout=layout,
            version=engine_version,
            max_model_len=max_model_len,
        )
    )
    if Requirement.DRAFT_MODEL in method.requires and not draft_model:
        detail = f"{method.name} needs a draft model: name one in model.draftModel"
        found.append(Conflict(ConflictReason.NO_DRAFT_MODEL, detail))
    if method.settings.quantization is not None and architecture.quantization == "fp8":
        detail = f"{architecture.name} is an fp8 checkpoint already"
        found.append(Conflict(ConflictReason.ALREADY_QUANTIZED, detail))
    if not found and method.settings != EngineSettings():
        asked, default = (
            effective_settings(
                settings,
                architecture=architecture,
                accelerator=accelerator,
                layout=layout,
                version=engine_version,
                max_model_len=max_model_len,
            )
            for settings in (method.settings, EngineSettings())
        )
        if asked == default:
            detail = f"{method.name} is what vLLM does by default for {architecture.name} on {accelerator.name}"
            found.append(Conflict(ConflictReason.SAME_AS_DEFAULT, detail))
    return tuple(found)


def remarks(method: Method, accelerator: Accelerator) -> tuple[str, ...]:
    """What a person should know of a method that does run here."""
    if method.settings.quantization is DType.FP8 and weight_only_fp8(accelerator):
        return (
            f"{accelerator.name} has no FP8 units: weights alone are FP8 (Marlin), which saves memory and costs "
            "throughput under load",
        )
    return ()
