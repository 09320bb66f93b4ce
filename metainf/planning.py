"""From a workload to its decision: the one path that `metainf plan`, `kubectl metainf plan` and the operator take.

Separate from `selection`, which knows neither manifests nor argv, and from the command line, which only reads files and
prints. Pure: the model is resolved, the pools are read and the predictor is there before this is called.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

from metainf.architecture import ModelArchitecture
from metainf.assessment import LimitColumn
from metainf.candidates import Candidate, CandidateName
from metainf.engine_flags import DraftModel, ExtraArgReason, check_extra_args, serve_argv
from metainf.errors import InvalidWorkloadError, OverridesDecisionError
from metainf.hub import is_commit
from metainf.manifests import (
    DecisionInputs,
    DraftSource,
    InferenceWorkload,
    ObservedTraffic,
    architecture_digest,
    choice_of,
    decision_manifest,
    decision_name,
    inputs_digest,
)
from metainf.methods import method_lacks, portfolio
from metainf.pools import NodePool
from metainf.predictors.contract import Predictor
from metainf.rejections import RejectionReason
from metainf.running import Running
from metainf.selection import NoSelection, Request, Scored, Selection, select
from metainf.techniques import Technique
from metainf.workload import MethodLimits, Workload

__all__ = [
    "HTTP_PORT",
    "MODEL_MOUNT_PATH",
    "SHUTDOWN_TIMEOUT_S",
    "Head",
    "LimitOutlook",
    "Plan",
    "candidate_argv",
    "confidence_kept",
    "outlooks",
    "plan",
    "unpinned",
]

HTTP_PORT = 8000
SHUTDOWN_TIMEOUT_S = 120  # --shutdown-timeout: how long streams may go on after SIGTERM
MODEL_MOUNT_PATH = "/models"  # where a volume claim with weights is mounted


@dataclass(frozen=True, slots=True)
class LimitOutlook:
    """How one limit stands: `expected` at the median, `assured` at the confidence asked, both in the limit's unit.

    `floor` says that the limit is a least (a load to carry), not a most. `kept` is the probability that it holds.
    """

    label: str
    reason: RejectionReason
    expected: float
    assured: float
    bound: float
    unit: str
    used_ratio: float
    kept: float
    floor: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """A head that drafts, at the commit that its revision stands for where that is known; `context_tokens` likewise."""

    source: DraftSource
    context_tokens: int | None = None


@dataclass(frozen=True)
class Plan:
    """A workload's decision before anybody acts on it: what came out, and what it was made from."""

    workload: InferenceWorkload
    inputs: DecisionInputs
    outcome: Selection | NoSelection
    pools: tuple[NodePool, ...]
    argv: tuple[str, ...]

    @property
    def chosen(self) -> Scored | None:
        """The chosen candidate; None where the workload is refused."""
        return self.outcome.chosen if isinstance(self.outcome, Selection) else None

    @property
    def name(self) -> str:
        """Name of the decision's record."""
        return decision_name(self.workload, self.inputs.digest, choice_of(self.outcome))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The InferenceDecision."""
        return decision_manifest(self.workload, self.inputs, self.outcome, self.pools, self.argv)


def plan(
    workload: InferenceWorkload,
    architecture: ModelArchitecture,
    *,
    revision: str | None,
    pools: Sequence[NodePool],
    predictor: Predictor,
    engine_version: str,
    head: Head | None = None,
    pinned: CandidateName | None = None,
    current: CandidateName | None = None,
    running: Running | None = None,
    observed: ObservedTraffic | None = None,
) -> Plan:
    """Decide for one workload.

    Parameters
    ----------
    workload : InferenceWorkload
        Its own engine version goes before `engine_version`, and its own pinned candidate before `pinned`.
    revision : str or None
        The commit that the model's revision stands for; None for a model from a volume claim.
    head : Head or None
        What drafts for the model, as it is served; None: as the workload names it, if it names any.
    pools : sequence of NodePool
        What is free in them is free for this workload: what it holds itself counts as free.
    pinned : CandidateName or None
        The candidate of the decision that the workload is pinned to by name.
    current : CandidateName or None
        What runs now; assessed beside the others.
    running : Running or None
        What is seen of its pods, which keep their place; None where nothing is.
    observed : ObservedTraffic or None
        Traffic to decide by in place of the declared; an engine still has to take the lengths that were declared.

    Raises
    ------
    InvalidWorkloadError
        A method that is named, or an argument that is given, is not known to the engine's version.
    OverridesDecisionError
        An argument that is given would undo the decision.
    """
    version = workload.engine.version or engine_version
    _check_extra_args(workload, version)
    if observed is not None:
        workload = _by_observed(workload, observed)
    if head is None and workload.model.draft is not None:
        head = Head(workload.model.draft)
    request = Request(
        workload=_asked(workload, version, head),
        architecture=architecture,
        pools=tuple(pools),
        engine_version=version,
        only=_only(workload, pinned, version),
        current=current,
        running=running,
    )
    outcome = select(request, predictor)
    digest = architecture_digest(architecture)
    drafts = None if head is None else (head.source, head.context_tokens)
    inputs = DecisionInputs(
        digest=inputs_digest(workload, (digest, revision), pools, predictor.identity, version, drafts=drafts),
        engine_version=version,
        model_id=workload.model.id,
        revision=revision,
        architecture_digest=digest,
        observed=observed,
        draft=None if head is None else head.source,
    )
    argv = candidate_argv(workload, outcome.chosen.candidate, inputs) if isinstance(outcome, Selection) else ()
    return Plan(workload, inputs, outcome, tuple(pools), argv)


def _by_observed(workload: InferenceWorkload, observed: ObservedTraffic) -> InferenceWorkload:
    declared = workload.workload.traffic
    accepted = (declared.input_tokens, declared.output_tokens)
    asked = replace(workload.workload, traffic=observed.traffic, accepted_lengths=accepted)
    return replace(workload, workload=asked)


def _asked(workload: InferenceWorkload, version: str, head: Head | None) -> Workload:
    """What the selection is asked for. Zero replicas run nothing: what is decided is what would run with more."""
    asked = replace(
        workload.workload,
        methods=_known_methods(workload.workload.methods, version),
        draft_context_tokens=None if head is None else head.context_tokens,
    )
    return replace(asked, replicas=replace(asked.replicas, fixed=None)) if asked.replicas.fixed == 0 else asked


def _only(workload: InferenceWorkload, pinned: CandidateName | None, version: str) -> CandidateName | None:
    pin = workload.policy.pinned
    only = pin.candidate if pin is not None and pin.candidate is not None else pinned
    return None if only is None else _known_candidate(only, version)


def candidate_argv(workload: InferenceWorkload, candidate: Candidate, inputs: DecisionInputs) -> tuple[str, ...]:
    """Arguments of `vllm serve` for the candidate, the workload's own last."""
    model, option = workload.model, candidate.option
    sized = option.replica.settings
    path = None if model.pvc is None else "/".join(part for part in (MODEL_MOUNT_PATH, model.pvc.path) if part)
    draft = None if inputs.draft is None else _draft_model(inputs.draft)
    return serve_argv(
        model=path or model.id,
        revision=inputs.revision if path is None else None,
        served_name=model.served_name or (model.id if path else None),
        layout=option.layout,
        settings=replace(
            option.method.settings,
            max_model_len=sized.max_model_len,
            kv_cache_memory_bytes=sized.kv_cache_memory_bytes,
        ),
        port=HTTP_PORT,
        draft=draft,
        shutdown_timeout_s=SHUTDOWN_TIMEOUT_S,
        version=inputs.engine_version,
        extra=workload.engine.extra_args,
    )


def _draft_model(source: DraftSource) -> DraftModel:
    """The head as the engine is told of it."""
    if source.path is not None:
        return DraftModel(f"{MODEL_MOUNT_PATH}/{source.path}")
    assert source.id is not None, "a head has an id or a path"
    return DraftModel(source.id, source.revision)


def unpinned(plan: Plan) -> str:
    """What of the plan's model is no commit, so that pods may come to serve other files; empty where all is."""
    inputs = plan.inputs
    served = [] if plan.workload.model.pvc is not None else [(inputs.model_id, inputs.revision)]
    if inputs.draft is not None and inputs.draft.id is not None:
        served.append((inputs.draft.id, inputs.draft.revision))
    loose = [f"{name} at {revision or 'main'}" for name, revision in served if not is_commit(revision)]
    why = "pods that start later may serve other files: give a commit as its revision"
    return f"no commit is known of {' and '.join(loose)}: {why}" if loose else ""


def _check_extra_args(workload: InferenceWorkload, version: str) -> None:
    problems = check_extra_args(workload.engine.extra_args, version=version)
    if problems:
        overrides = any(problem.reason is ExtraArgReason.DECIDED for problem in problems)
        error = OverridesDecisionError if overrides else InvalidWorkloadError
        raise error(f"spec.engine.extraArgs: {'; '.join(str(problem) for problem in problems)}")


def _known_methods(limits: MethodLimits, version: str) -> MethodLimits:
    """The limits with other names of a method replaced by its own; a name that means nothing is refused."""
    own_names = {name: method.name for method in portfolio(version) for name in (method.name, *method.aliases)}
    known = {**own_names, **{technique.value: technique.value for technique in Technique}}

    def resolved(names: frozenset[str], field: str) -> frozenset[str]:
        for name in sorted(names - known.keys()):
            raise InvalidWorkloadError(f"spec.methods.{field}: {method_lacks(name, version) or _unknown(name, known)}")
        return frozenset(known[name] for name in names)

    return replace(limits, allow=resolved(limits.allow, "allow"), deny=resolved(limits.deny, "deny"))


def _known_candidate(candidate: CandidateName, version: str) -> CandidateName:
    own_names = {name: method.name for method in portfolio(version) for name in (method.name, *method.aliases)}
    if candidate.method not in own_names:
        why = method_lacks(candidate.method, version) or _unknown(candidate.method, own_names)
        raise InvalidWorkloadError(f"spec.policy.pinned.candidate.method: {why}")
    return replace(candidate, method=own_names[candidate.method])


def _unknown(name: str, known: dict[str, str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    return f"no method or technique is called {name}; {hint}"


def outlooks(scored: Scored) -> tuple[LimitOutlook, ...]:
    """How every limit of the workload stands for the candidate, in the order in which they are looked at."""
    assessment, row = scored.assessment, scored.row
    return tuple(
        _outlook(scored, column, float(assessment.ratio[row, i]), float(assessment.log_sd[row, i]))
        for i, column in enumerate(assessment.limits)
    )


def _outlook(scored: Scored, column: LimitColumn, ratio: float, log_sd: float) -> LimitOutlook:
    middle = ratio / math.exp(scored.assessment.z * log_sd)
    floor = column.reason is RejectionReason.OVERLOADED
    if floor:
        expected, assured = (column.bound / each if each > 0 else math.inf for each in (middle, ratio))
    else:
        expected, assured = column.bound * middle, column.bound * ratio
    return LimitOutlook(
        label=column.label,
        reason=column.reason,
        expected=expected,
        assured=assured,
        bound=column.bound,
        unit=column.unit,
        used_ratio=ratio,
        kept=_probability_within(middle, log_sd),
        floor=floor,
    )


def _probability_within(ratio: float, log_sd: float) -> float:
    """Probability that truth stays within the limit; errors are lognormal around the median `ratio`."""
    if not math.isfinite(ratio):
        return 0.0
    if log_sd <= 0 or ratio <= 0:
        return 1.0 if ratio <= 1 else 0.0
    return NormalDist().cdf(-math.log(ratio) / log_sd)


def confidence_kept(scored: Scored) -> float:
    """Least probability that all limits hold together, however their errors depend on each other (Boole)."""
    return max(0.0, 1.0 - sum(1.0 - outlook.kept for outlook in outlooks(scored)))
