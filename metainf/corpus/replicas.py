"""A task under a method as a replica of the engine, or why it cannot be one.

Separate because the corpus, the features and the evaluation must agree on what is infeasible, from facts alone.
"""

from dataclasses import dataclass
from functools import lru_cache

from metainf.accelerators import Accelerator, get
from metainf.architecture import ModelArchitecture
from metainf.corpus.task import Task
from metainf.errors import InvalidWorkloadError, UnknownModelError
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.memory import memory_plan
from metainf.methods import Method, applicable, effective_settings
from metainf.predictors.contract import ReplicaSpec
from metainf.workload import TokenLengths

__all__ = ["Infeasible", "longest_tokens", "place_of", "replica_of"]

_Z_99 = 2.3263478740408408  # standard normal quantile at 0.99: what a candidate's cache must hold at least


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


def longest_tokens(input_tokens: TokenLengths, output_tokens: TokenLengths) -> float:
    """Prompt and answer at the 99th percentile of each, tokens: what one request's cache must hold."""
    return input_tokens.quantile(_Z_99) + output_tokens.quantile(_Z_99)


def replica_of(task: Task, method: Method) -> ReplicaSpec | Infeasible:
    """One replica of the task's layout with the method's settings resolved; equal questions get the same object."""
    place_of(task)
    place = (task.model, task.accelerator, task.layout, task.engine_version)
    found = _replica(place, method, task.max_model_len, task.draft_model)
    if isinstance(found, Infeasible):
        return found
    plan = memory_plan(found)
    for tokens in (longest_tokens(task.traffic.input_tokens, task.traffic.output_tokens), found.settings.max_model_len):
        if plan.missing_bytes(tokens) > 0:  # the engine does not start where one request of max-model-len does not fit
            return Infeasible("MemoryTooSmall", plan.explanation(tokens))
    return found


@lru_cache(maxsize=4096)
def _replica(
    place: tuple[str, str, Layout, str], method: Method, max_model_len: int | None, draft_model: bool
) -> ReplicaSpec | Infeasible:
    model, device, layout, version = place
    architecture, accelerator = known_model(model), get(device)
    assert architecture is not None and accelerator is not None, f"{model} on {device} has been looked up before"
    conflicts = applicable(
        method, architecture, accelerator, layout, version, draft_model=draft_model, max_model_len=max_model_len
    )
    if conflicts:
        return Infeasible(conflicts[0].rejection_reason.value, conflicts[0].detail)
    settings = effective_settings(
        method.settings,
        architecture=architecture,
        accelerator=accelerator,
        layout=layout,
        version=version,
        max_model_len=max_model_len,
    )
    return ReplicaSpec(architecture, accelerator, layout, settings)
