"""Questions to a predictor, read from the documents that people and scripts write.

Separate from the `predict` command, which takes them from flags or lines and prints the answers: here each name is
looked up once, every field is checked, and what is wrong is said about the field.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeVar

from metainf.accelerator_names import Ambiguous, Exact, find
from metainf.accelerators import Accelerator, catalogue
from metainf.architecture import ModelArchitecture
from metainf.engine_versions import DEFAULT_ENGINE_VERSION
from metainf.errors import InvalidWorkloadError, MetaInfError
from metainf.flag_parsing import parse_flags
from metainf.layouts import Layout
from metainf.memory import MemoryPlan, cache_of_its_own, memory_plan, with_room_for
from metainf.methods import effective_settings, layout_conflicts
from metainf.model_resolution import resolve_model
from metainf.predictors.contract import Question, ReplicaSpec
from metainf.roofline import step_work
from metainf.settings import EngineSettings
from metainf.settings_rules import settings_conflicts
from metainf.workload import (
    ConcurrencyLoad,
    Load,
    RateLoad,
    Repetitiveness,
    SharedPrefix,
    TokenLengths,
    Traffic,
    longest_tokens,
)

__all__ = ["QuestionReader"]

T = TypeVar("T")
Key = TypeVar("Key")
_MOST_TOKENS = 1e8
_MOST_LOAD = 1e7
_MOST_CORES = 4096.0
_MOST_GIB = 65536.0
_GIB = 1 << 30
_LAYOUT_FLAGS = frozenset({"tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", "tp", "pp", "dp"})


class QuestionReader:
    """Makes questions of documents; models, accelerators and servers are looked up once each."""

    def __init__(self) -> None:
        self._models: dict[str, ModelArchitecture | MetaInfError] = {}
        self._accelerators: dict[str, Accelerator | MetaInfError] = {}
        self._servers: dict[tuple[object, ...], _Server | MetaInfError] = {}

    def question(self, document: object) -> Question:
        """The question that a document asks.

        Raises
        ------
        InvalidWorkloadError
            The document is not one, or it cannot be served like that.
        """
        fields = _Fields(document, "")
        model, name = fields.text("model"), fields.text("accelerator")
        count = fields.whole("count", 4096) if fields.has("count") else None
        version = fields.text("engineVersion") if fields.has("engineVersion") else DEFAULT_ENGINE_VERSION
        cores = fields.number("cpuCores", _MOST_CORES) if fields.has("cpuCores") else None
        memory_gib = fields.number("memoryGib", _MOST_GIB) if fields.has("memoryGib") else None
        flags = fields.take("flags", {})
        if not isinstance(flags, Mapping):
            raise InvalidWorkloadError("flags must be an object")
        traffic = _traffic(_Fields(fields.take("traffic"), "traffic."))
        fields.done()
        key = (model, name, count, version, cores, memory_gib, json.dumps(flags, sort_keys=True))
        share = _Share(cores, memory_gib)
        server = _once(self._servers, key, lambda: self._server(model, name, count, version, flags, share))
        return Question(_with_context(server, traffic.input_tokens, traffic.output_tokens), traffic)

    def _server(
        self, model: str, name: str, count: int | None, version: str, flags: Mapping[str, object], share: "_Share"
    ) -> "_Server":
        parsed = parse_flags(flags, version)
        layout = _layout(parsed.layout, count, flags)
        accelerator = share.of(_once(self._accelerators, name, lambda: _accelerator(name)))
        architecture = _once(self._models, model, lambda: resolve_model(model).architecture)
        conflicts = (
            *layout_conflicts(layout, architecture, accelerator, layout.accelerators),
            *settings_conflicts(
                parsed.settings, architecture=architecture, accelerator=accelerator, layout=layout, version=version
            ),
        )
        if conflicts:
            raise InvalidWorkloadError(conflicts[0].detail)
        server = _Server(architecture, accelerator, layout, parsed.settings, version, share.cores)
        step_work(server.replica(None))  # what the silicon cannot do at all is an error of this line
        return server


@dataclass(frozen=True, slots=True)
class _Share:
    """What one replica has of a CPU; None: all that the catalogue means by its name."""

    cores: float | None
    memory_gib: float | None

    def of(self, accelerator: Accelerator) -> Accelerator:
        """The share of a CPU, with the memory that comes with its cores where none is given; others as they are."""
        if self.cores is None and self.memory_gib is None:
            return accelerator
        if accelerator.cpu is None:
            raise InvalidWorkloadError(f"cpuCores and memoryGib say something of a CPU, {accelerator.name} is none")
        if self.cores is None:
            raise InvalidWorkloadError("memoryGib says something of cpuCores: give that too")
        of_all = accelerator.memory_bytes * self.cores / accelerator.cpu.cores
        memory = of_all if self.memory_gib is None else self.memory_gib * _GIB
        return accelerator.cpu_share(self.cores, max(1, round(memory)))


class _Server:
    """What flags make of a model on accelerators, short of the context that the engine is told."""

    def __init__(
        self,
        architecture: ModelArchitecture,
        accelerator: Accelerator,
        layout: Layout,
        settings: EngineSettings,
        version: str,
        cpu_cores: float | None,
    ) -> None:
        self._architecture = architecture
        self._accelerator = accelerator
        self._layout = layout
        self._version = version
        self._cpu_cores = cpu_cores
        self._replicas: dict[tuple[int | None, float | None], ReplicaSpec] = {}
        self.settings = settings

    def replica(self, max_model_len: int | None, longest_tokens: float | None = None) -> ReplicaSpec:
        """One replica with this context, or that of the flags, else the model's own; each is made once.

        Cores of a CPU get a cache of their own, by the longest request, as from the operator, unless the flags say.
        """
        if self._cpu_cores is None or self.settings.kv_cache_memory_bytes is not None:
            longest_tokens = None
        found = self._replicas.get((max_model_len, longest_tokens))
        if found is None:
            settings = effective_settings(
                self.settings,
                architecture=self._architecture,
                accelerator=self._accelerator,
                layout=self._layout,
                version=self._version,
                max_model_len=max_model_len,
            )
            found = ReplicaSpec(self._architecture, self._accelerator, self._layout, settings, self._cpu_cores)
            if longest_tokens is not None:
                cache_bytes = cache_of_its_own(memory_plan(found), settings.max_num_seqs, longest_tokens)
                found = replace(found, settings=replace(settings, kv_cache_memory_bytes=cache_bytes))
            self._replicas[max_model_len, longest_tokens] = found
        return found


def _with_context(server: _Server, input_tokens: TokenLengths, output_tokens: TokenLengths) -> ReplicaSpec:
    """The replica with the context that the flags say, else the one that the operator would tell it.

    Of a CPU that is where its cores are given: the operator knows them by the node. Without, the CPU of the catalogue
    is meant, whole.

    Raises
    ------
    InvalidWorkloadError
        Requests are longer than the context, or the memory is too small for the longest: what the operator would not
        run is not predicted either.
    """
    own = server.replica(None)
    context = own.settings.max_model_len
    stated = input_tokens.stated_tokens + output_tokens.stated_tokens
    if stated > context:
        raise InvalidWorkloadError(
            f"prompt and answer reach {stated:.0f} tokens as they are stated, max-model-len is {context}"
        )
    longest = min(longest_tokens(input_tokens, output_tokens), float(context))
    if server.settings.max_model_len is None:
        found = with_room_for(longest, lambda max_model_len: server.replica(max_model_len, longest))
        if isinstance(found, MemoryPlan):
            raise InvalidWorkloadError(found.explanation(longest))
        return found
    own = server.replica(None, longest)
    plan = memory_plan(own)
    if plan.short_bytes(longest) > 0:
        raise InvalidWorkloadError(plan.explanation(longest))
    if plan.missing_bytes(context) > 0:
        raise InvalidWorkloadError(f"vLLM does not start with max-model-len {context}: {plan.explanation(context)}")
    return own


def _once(known: dict[Key, Any], key: Key, make: Callable[[], T]) -> T:
    """What `make` returns for the key, or the error it raised, from the first time on."""
    found = known.get(key)
    if found is None:
        try:
            found = make()
        except MetaInfError as error:
            found = error
        known[key] = found
    if isinstance(found, MetaInfError):
        raise found
    result: T = found
    return result


def _accelerator(name: str) -> Accelerator:
    match = find(name)
    if isinstance(match, Exact):
        return match.accelerator
    if isinstance(match, Ambiguous):
        names = ", ".join(candidate.name for candidate in match.candidates)
        raise InvalidWorkloadError(f"accelerator {name[:100]!r} may be {names}: name one of these")
    known = [accelerator.name for accelerator in catalogue()]
    near = get_close_matches(name.upper(), known, n=3, cutoff=0.4) or known[:3]
    raise InvalidWorkloadError(
        f"accelerator {name[:100]!r} is not in the catalogue: use a name such as {', '.join(near)}"
    )


def _layout(parsed: Layout, count: int | None, flags: Mapping[str, object]) -> Layout:
    """The layout of the flags; without a parallel size in them, tensor parallelism over all accelerators."""
    sized = {str(key).lstrip("-").replace("_", "-") for key in flags} & _LAYOUT_FLAGS
    if count is None or parsed.accelerators == count:
        return parsed
    if sized:
        raise InvalidWorkloadError(
            f"the flags lay a replica out over {parsed.accelerators} accelerators, count is {count}: make them equal"
        )
    return Layout(tensor_parallel=count, expert_parallel=parsed.expert_parallel)


class _Fields:
    """An object whose fields are taken one by one; what is left over is an error."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, Mapping):
            raise InvalidWorkloadError(f"{where.rstrip('.') or 'the question'} must be an object")
        self._fields = {key: value for key, value in document.items() if value is not None}
        self._where = where

    def has(self, name: str) -> bool:
        """Whether the field is there; null counts as absent."""
        return name in self._fields

    def take(self, name: str, default: object = None) -> object:
        """The field's value; without a default it must be there."""
        value = self._fields.pop(name, None)
        if value is None:
            if default is None:
                raise InvalidWorkloadError(f"{self._where}{name} is missing")
            return default
        return value

    def text(self, name: str) -> str:
        """A string that is not empty."""
        value = self.take(name)
        if not isinstance(value, str) or not value:
            raise InvalidWorkloadError(f"{self._where}{name} must be a string")
        return value

    def number(self, name: str, most: float, *, default: float | None = None, least: float = 0.0) -> float:
        """A finite number above 0 and not above `most`."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidWorkloadError(f"{self._where}{name} must be a number")
        if not (least <= value <= most and value > 0 and math.isfinite(value)):
            lowest = f"at least {least:g}" if least > 0 else "above 0"
            raise InvalidWorkloadError(f"{self._where}{name} must be {lowest} and at most {most:g}, got {value:g}")
        return float(value)

    def whole(self, name: str, most: float, *, default: int | None = None) -> int:
        """A whole number from 1 to `most`."""
        value = self.number(name, most, default=default, least=1)
        if value != int(value):
            raise InvalidWorkloadError(f"{self._where}{name} must be a whole number, got {value:g}")
        return int(value)

    def done(self) -> None:
        """Refuse fields that nobody took."""
        if self._fields:
            raise InvalidWorkloadError(f"{self._where}{str(next(iter(self._fields)))[:100]} is not a known field")


def _traffic(fields: _Fields) -> Traffic:
    prefix = _Fields(fields.take("sharedPrefix"), "traffic.sharedPrefix.") if fields.has("sharedPrefix") else None
    kind = fields.text("repetitiveness") if fields.has("repetitiveness") else Repetitiveness.UNKNOWN.value
    if kind not in [r.value for r in Repetitiveness]:
        raise InvalidWorkloadError(
            f"traffic.repetitiveness must be one of {', '.join(Repetitiveness)}, got {kind[:100]!r}"
        )
    traffic = Traffic(
        load=_load(fields),
        input_tokens=_lengths(_Fields(fields.take("inputTokens"), "traffic.inputTokens.")),
        output_tokens=_lengths(_Fields(fields.take("outputTokens"), "traffic.outputTokens.")),
        shared_prefix=_prefix(prefix) if prefix is not None else None,
        repetitiveness=Repetitiveness(kind),
        burstiness=fields.number("burstiness", 100.0, default=1.0),
    )
    fields.done()
    return traffic


def _load(fields: _Fields) -> Load:
    if fields.has("concurrency") == fields.has("requestsPerSecond"):
        raise InvalidWorkloadError("traffic must have either concurrency or requestsPerSecond")
    if fields.has("concurrency"):
        return ConcurrencyLoad(fields.whole("concurrency", _MOST_LOAD))
    return RateLoad(fields.number("requestsPerSecond", _MOST_LOAD))


def _lengths(fields: _Fields) -> TokenLengths:
    mean = fields.number("mean", _MOST_TOKENS, least=1)
    p95 = fields.number("p95", _MOST_TOKENS, least=1) if fields.has("p95") else None
    fields.done()
    return TokenLengths(mean, p95)


def _prefix(fields: _Fields) -> SharedPrefix:
    tokens = fields.whole("tokens", _MOST_TOKENS)
    ratio = fields.number("ratio", 1.0, default=1.0)
    distinct = fields.whole("distinct", _MOST_TOKENS, default=1)
    fields.done()
    return SharedPrefix(tokens, ratio, distinct)
