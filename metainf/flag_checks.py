"""Whether an installed vLLM takes what we would tell it: every method and layout for every model, as cases.

Separate from `engine_environment`, which runs the cases, and from the command line, which prints: pure, so that which
cases there are and what an answer means can be tested without vLLM.

A case is what our rules call applicable on some accelerator, in the arguments that a pod would get. The engine's
configuration is made on whatever platform the installed vLLM is for, a CPU as a rule; what only a GPU's platform looks
at is named by `unchecked`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metainf.accelerators import Accelerator, Vendor, catalogue
from metainf.architecture import ModelArchitecture
from metainf.engine_defaults import effective_settings
from metainf.engine_environment import CaseAnswer
from metainf.engine_versions import DEFAULT_ENGINE_VERSION
from metainf.flag_catalogue import FlagCatalogue
from metainf.layout_rules import layouts_for
from metainf.layouts import Layout
from metainf.methods import Method, applicable, portfolio
from metainf.planning import HTTP_PORT, SHUTDOWN_TIMEOUT_S
from metainf.serve_args import SPECULATION_METHOD_FLAGS, DraftModel, serve_argv
from metainf.settings import EffectiveSettings
from metainf.techniques import Technique

__all__ = [
    "Difference",
    "FlagCase",
    "Refusal",
    "Unchecked",
    "case_argv",
    "catalogue_changes",
    "differences",
    "flag_cases",
    "quick_cases",
    "refusals",
    "representatives",
    "unchecked",
]

_ACCELERATORS_PER_NODE = 8
_COMPARED = (
    "asynchronous_scheduling",
    "chunked_prefill",
    "long_prefill_token_threshold",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "prefix_caching",
    "stream_interval",
)


@dataclass(frozen=True, slots=True)
class FlagCase:
    """A method in a layout for a model, and the accelerators on which our rules call it applicable."""

    model: str
    method: Method
    layout: Layout
    accelerators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason for which vLLM refuses what we call applicable, and the cases that it refuses."""

    stage: str
    error: str
    where: str
    cases: tuple[FlagCase, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that comes to something else in vLLM than we say, on a CPU."""

    field: str
    ours: str
    theirs: str
    cases: tuple[FlagCase, ...]


@dataclass(frozen=True, slots=True)
class Unchecked:
    """What a CPU's platform cannot judge, and of which cases; the sources are files of vLLM 0.32.0."""

    what: str
    source: str
    concerns: Callable[[FlagCase], bool]


_UNCHECKED = (
    Unchecked(
        "attention backend, its block sizes and CUDA graphs",
        "vllm/platforms/cuda.py, check_and_update_config and get_attn_backend_cls",
        lambda case: True,
    ),
    Unchecked(
        "whether weights and cache fit the device's memory",
        "vllm/v1/worker/gpu_worker.py, determine_available_memory",
        lambda case: True,
    ),
    Unchecked(
        "as many devices as ranks, and the links between them",
        "vllm/config/parallel.py, __post_init__; vllm/distributed/device_communicators",
        lambda case: case.layout.accelerators > 1,
    ),
    Unchecked(
        "kernels for FP8 weights on the device's compute capability",
        "vllm/model_executor/layers/quantization/online/base.py, get_min_capability",
        lambda case: Technique.FP8_WEIGHTS in case.method.techniques,
    ),
    Unchecked(
        "an attention backend that reads an FP8 KV cache",
        "vllm/v1/attention/backends, supports_kv_cache_dtype",
        lambda case: Technique.FP8_KV_CACHE in case.method.techniques,
    ),
    Unchecked(
        "moving the KV cache to host memory",
        "vllm/v1/kv_offload/cpu/spec.py",
        lambda case: Technique.KV_OFFLOAD in case.method.techniques,
    ),
    Unchecked(
        "whether the model class speculates, and the draft's weights",
        "vllm/v1/worker/gpu/spec_decode",
        lambda case: case.method.settings.speculation is not None,
    ),
)


def unchecked(amx_tile: bool) -> tuple[Unchecked, ...]:
    """What a CPU's platform cannot judge on a machine whose CPU has AMX tiles, or has none."""
    others = "without" if amx_tile else "with"
    own = {each.name for each in _processors(amx_tile)}
    strange = {each.name for each in _processors(not amx_tile)}
    row = Unchecked(
        f"settings that only CPUs {others} AMX tiles come to",
        "vllm/platforms/cpu.py, check_and_update_config",
        lambda case: not strange.isdisjoint(case.accelerators) and own.isdisjoint(case.accelerators),
    )
    return (*_UNCHECKED, row)


def _processors(amx_tile: bool) -> tuple[Accelerator, ...]:
    """The CPUs among the representatives, those with AMX tiles or the others."""
    return tuple(e for e in representatives() if e.vendor is Vendor.CPU and e.has_amx_tile is amx_tile)


def representatives() -> tuple[Accelerator, ...]:
    """One accelerator of each kind that our rules tell apart: maker, generation, and links between devices."""
    kinds: dict[tuple[Vendor, str, int], Accelerator] = {}
    for accelerator in catalogue():
        if accelerator.partition is None:
            link = 0 if accelerator.link is None else accelerator.link.max_group
            kinds.setdefault((accelerator.vendor, accelerator.generation, link), accelerator)
    return tuple(kinds.values())


def flag_cases(
    architectures: Mapping[str, ModelArchitecture],
    accelerators: Sequence[Accelerator],
    version: str = DEFAULT_ENGINE_VERSION,
) -> tuple[FlagCase, ...]:
    """Every method in every layout that is applicable for a model on some accelerator."""
    return tuple(case for name in architectures for case in _cases(name, architectures[name], accelerators, version))


def _cases(
    name: str, architecture: ModelArchitecture, accelerators: Sequence[Accelerator], version: str
) -> Iterator[FlagCase]:
    found: dict[tuple[Layout, Method], list[str]] = {}
    for accelerator in accelerators:
        for layout in layouts_for(architecture, accelerator, _ACCELERATORS_PER_NODE):
            for method in portfolio(version):
                if not applicable(method, architecture, accelerator, layout, version, draft_model=True):
                    found.setdefault((layout, method), []).append(accelerator.name)
    for (layout, method), names in found.items():
        yield FlagCase(name, method, layout, tuple(names))


def quick_cases(cases: Sequence[FlagCase], architectures: Mapping[str, ModelArchitecture]) -> tuple[FlagCase, ...]:
    """Of each model every method and every layout; of each class of models every method with each kind of layout.

    What a method and a layout do together depends on which kinds of parallelism there are, hardly on the degrees.
    """
    seen: set[tuple[object, ...]] = set()
    kept = []
    for case in cases:
        model, method, layout = case.model, case.method.name, case.layout
        kinds = (layout.tensor_parallel > 1, layout.pipeline_parallel > 1, layout.data_parallel > 1)
        together = (architectures[model].architecture, method, *kinds, layout.expert_parallel)
        shown: set[tuple[object, ...]] = {(model, method), (model, layout), together}
        if not shown <= seen:
            kept.append(case)
            seen |= shown
    return tuple(kept)


def case_argv(case: FlagCase, folder: str, head: str, max_model_len: int, version: str) -> tuple[str, ...]:
    """The arguments that a pod would get, with the model in `folder` and an EAGLE head for it in `head`."""
    return serve_argv(
        model=folder,
        layout=case.layout,
        settings=replace(case.method.settings, max_model_len=max_model_len),
        port=HTTP_PORT,
        draft=DraftModel(head),
        shutdown_timeout_s=SHUTDOWN_TIMEOUT_S,
        version=version,
    )


def refusals(cases: Sequence[FlagCase], answers: Sequence[CaseAnswer]) -> tuple[Refusal, ...]:
    """What vLLM refuses of what we call applicable, most cases first; each is a fault of ours."""
    found: dict[tuple[str, str, str], list[FlagCase]] = {}
    for case, answer in zip(cases, answers, strict=True):
        if answer.resolved is None:
            found.setdefault((answer.stage, answer.error, answer.where), []).append(case)
    grouped = (Refusal(*key, tuple(refused)) for key, refused in found.items())
    return tuple(sorted(grouped, key=lambda each: (-len(each.cases), each.error)))


def differences(
    cases: Sequence[FlagCase],
    answers: Sequence[CaseAnswer],
    architectures: Mapping[str, ModelArchitecture],
    version: str,
    *,
    amx_tile: bool,
) -> tuple[Difference, ...]:
    """Where vLLM comes to other settings than we say, of the cases that are for a CPU, most cases first.

    What becomes of latent attention depends on whether the CPU has AMX tiles (`engine_defaults.runs_mla_by_reference`):
    a case is judged by what we say of CPUs like the one that vLLM was asked on (`amx_tile`), where there are any.
    """
    processors = _processors(amx_tile)
    found: dict[tuple[str, str, str], list[FlagCase]] = {}
    for case, answer in zip(cases, answers, strict=True):
        own = [each for each in processors if each.name in case.accelerators]
        if answer.resolved is None or not own:
            continue
        architecture = architectures[case.model]
        ours = [_compared(_effective(case, architecture, each, version)) for each in own]
        theirs = {field: answer.resolved.get(field) for field in ours[0]}
        if theirs not in ours:
            for field in (each for each in theirs if theirs[each] != ours[0][each]):
                found.setdefault((field, str(ours[0][field]), str(theirs[field])), []).append(case)
    grouped = (Difference(*key, tuple(differing)) for key, differing in found.items())
    return tuple(sorted(grouped, key=lambda each: (-len(each.cases), each.field)))


def _effective(case: FlagCase, architecture: ModelArchitecture, cpu: Accelerator, version: str) -> EffectiveSettings:
    return effective_settings(
        case.method.settings,
        architecture=architecture,
        accelerator=cpu,
        layout=case.layout,
        version=version,
        max_model_len=architecture.max_context_tokens,
    )


def _compared(settings: EffectiveSettings) -> dict[str, Any]:
    speculation = settings.speculation
    return {field: getattr(settings, field) for field in _COMPARED} | {
        "speculation": speculation and [SPECULATION_METHOD_FLAGS[speculation.kind], speculation.tokens]
    }


def catalogue_changes(ours: FlagCatalogue, theirs: FlagCatalogue) -> tuple[str, ...]:
    """What an installed parser has otherwise than our catalogue of its version, a sentence each."""
    gone = [f"{ours.flags[name].option} is not there" for name in sorted(ours.flags.keys() - theirs.flags.keys())]
    new = [f"{theirs.flags[name].option} is new" for name in sorted(theirs.flags.keys() - ours.flags.keys())]
    both = sorted(ours.flags.keys() & theirs.flags.keys())
    changed = [f"{ours.flags[n].option} is another" for n in both if ours.flags[n] != theirs.flags[n]]
    return (*gone, *new, *changed)
