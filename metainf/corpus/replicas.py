"""A task under a method as a replica of the engine, or why it cannot be one.

Separate because the corpus, the features and the evaluation must agree on what is infeasible, from facts alone. What
context an engine is told is chosen for each method by `metainf.memory`, as the operator does for its candidates.
"""

from dataclasses import dataclass
from functools import lru_cache, partial

from metainf.accelerators import Accelerator, get
from metainf.architecture import ModelArchitecture
from metainf.corpus.task import Task
from metainf.errors import InvalidWorkloadError, UnknownModelError
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.memory import MemoryPlan, memory_plan, with_room_for
from metainf.methods import Method, applicable, effective_settings, portfolio
from metainf.predictors.contract import ReplicaSpec
from metainf.rejections import RejectionReason
from metainf.workload import longest_tokens

__all__ = ["Infeasible", "place_of", "replica_of", "shared_context_tokens"]


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Why a method cannot serve a task: a reason of `metainf.rejections`, and the facts."""

    reason: str
    detail: str


def place_of(task: Task) -> tuple[ModelArchitecture, Accelerator]:
    """The architecture and the accelerator that a task names.

    Raises
    ------
    UnknownModelError, InvalidWorkloadError
        The model is not bundled, or the catalogue has no such accelerator.
    """
    architecture, accelerator = known_model(task.model), get(task.accelerator)
    if architecture is None:
        raise UnknownModelError(f"a task names the model {task.model}, which is not bundled")
    if accelerator is None:
        raise InvalidWorkloadError(f"a task names the accelerator {task.accelerator}, which the catalogue has not")
    return architecture, accelerator


def replica_of(task: Task, method: Method) -> ReplicaSpec | Infeasible:
    """One replica of the task's layout with the method's settings resolved; equal questions get the same object."""
    architecture, _ = place_of(task)
    place = (task.model, task.accelerator, task.layout, task.engine_version)
    conflict = _conflict(place, method, task.max_model_len, task.draft_model)
    if conflict is not None:
        return conflict
    longest = longest_tokens(task.traffic.input_tokens, task.traffic.output_tokens)
    if task.max_model_len is not None:
        found = _replica(place, method, task.max_model_len)
        return _started(found, memory_plan(found), longest)
    if longest > architecture.max_context_tokens:
        detail = f"prompt and answer reach {longest:.0f} tokens (p99), the model's context is "
        return Infeasible(RejectionReason.CONTEXT_TOO_LONG.value, f"{detail}{architecture.max_context_tokens}")
    fitted = with_room_for(longest, partial(_replica, place, method))
    return _too_small(fitted, longest) if isinstance(fitted, MemoryPlan) else fitted


@lru_cache(maxsize=64)
def shared_context_tokens(task: Task) -> int:
    """The shortest context of the task's methods: requests up to here meet all of them alike.

    Raises
    ------
    InvalidWorkloadError
        No method can serve the task.
    """
    replicas = [replica_of(task, method) for method in portfolio(task.engine_version)]
    contexts = [each.settings.max_model_len for each in replicas if isinstance(each, ReplicaSpec)]
    if not contexts:
        raise InvalidWorkloadError(f"no method can serve {task.model} as {task.layout.name} on {task.accelerator}")
    return min(contexts)


def _started(found: ReplicaSpec, plan: MemoryPlan, longest: float) -> ReplicaSpec | Infeasible:
    """The replica where the cache holds the longest request, and one of max-model-len, without which none starts."""
    for tokens in (longest, found.settings.max_model_len):
        if plan.missing_bytes(tokens) > 0:
            return _too_small(plan, tokens)
    return found


def _too_small(plan: MemoryPlan, tokens: float) -> Infeasible:
    return Infeasible(RejectionReason.MEMORY_TOO_SMALL.value, plan.explanation(tokens))


_Place = tuple[str, str, Layout, str]
"""Model, accelerator, layout and the engine's version, all of them known."""


@lru_cache(maxsize=4096)
def _conflict(place: _Place, method: Method, max_model_len: int | None, draft_model: bool) -> Infeasible | None:
    architecture, accelerator = _known(place)
    _, _, layout, version = place
    conflicts = applicable(
        method, architecture, accelerator, layout, version, draft_model=draft_model, max_model_len=max_model_len
    )
    return Infeasible(conflicts[0].rejection_reason.value, conflicts[0].detail) if conflicts else None


@lru_cache(maxsize=4096)
def _replica(place: _Place, method: Method, max_model_len: int | None) -> ReplicaSpec:
    architecture, accelerator = _known(place)
    _, _, layout, version = place
    settings = effective_settings(
        method.settings,
        architecture=architecture,
        accelerator=accelerator,
        layout=layout,
        version=version,
        max_model_len=max_model_len,
    )
    return ReplicaSpec(architecture, accelerator, layout, settings)


def _known(place: _Place) -> tuple[ModelArchitecture, Accelerator]:
    architecture, accelerator = known_model(place[0]), get(place[1])
    assert architecture is not None and accelerator is not None, f"{place[0]} on {place[1]} has been looked up before"
    return architecture, accelerator
