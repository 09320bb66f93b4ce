"""From a corpus to a trained model, with the figures of how good it is on groups that it did not see.

Separate from its steps, each of which can be judged alone: rows, trees, held-out answers, spreads, decisions.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metainf import __version__
from metainf.artifact import Provenance, write_predictor
from metainf.corpus.task import Task, TrafficKind
from metainf.errors import InvalidWorkloadError
from metainf.evaluation.calibration import Guarantee
from metainf.predictors.base_answers import KNOTS, TARGETS
from metainf.predictors.corrections import Corrections, TrainedModel, speculation_log_sd
from metainf.predictors.familiarity import FAR, Familiarity
from metainf.training.boosting import Growth, grown
from metainf.training.decisions import CAUTIONS, caution_of, every_case, false_refusals
from metainf.training.held_out import (
    MOST_POINTS,
    Errors,
    HeldOut,
    analytical_only,
    corrected,
    errors,
    groups_of,
    held_out,
    thresholds,
    trusted,
)
from metainf.training.predicted_spreads import trained_spreads
from metainf.training.rows import TrainingRows, training_rows
from metainf.training.spreads import SplitSpread, fit_spread, spread_figures

__all__ = ["TrainingPlan", "TrainingReport", "thinned", "train", "write_artifact"]

FloatArray = NDArray[np.float64]

_SPLITS = ("model", "accelerator")
"""What is held out; the order of the spreads in a model: generation seen, generation not seen."""
_DEFAULT_SD = 0.6  # where nothing could be held out: no figure stands behind it, and the report says so


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How to train."""

    seed: int = 0
    growth: Growth = field(default_factory=Growth)
    most_folds: int = 5
    """Of each split; groups are packed into so many."""
    most_lanes: int = 120_000
    """Lanes that are learnt from; of more, whole tasks are left out evenly."""


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What training did; figures by split (`model`, `accelerator`) are of lanes whose group was held out."""

    rows: int
    lanes: int
    tasks: int
    models: int
    accelerators: int
    groups: Mapping[str, int]
    errors: Mapping[str, Mapping[str, Mapping[str, float]]]
    """split -> target -> median absolute log error: `trained`, `analytical`."""
    intervals: Mapping[str, Mapping[str, Mapping[str, Any]]]
    growth: Mapping[str, float]
    decisions: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """split -> kind of traffic -> how choices go."""
    caution: float
    guarantee: str

    @property
    def metrics(self) -> Mapping[str, Any]:
        """All of it, as the manifest has it."""
        return {
            "rows": self.rows,
            "lanes": self.lanes,
            "tasks": self.tasks,
            "models": self.models,
            "accelerators": self.accelerators,
            "groups": dict(self.groups),
            "errors": {split: dict(figures) for split, figures in self.errors.items()},
            "intervals": {split: dict(figures) for split, figures in self.intervals.items()},
            "growth": dict(self.growth),
            "decisions": {split: dict(kinds) for split, kinds in self.decisions.items()},
            "caution": self.caution,
            "guarantee": self.guarantee,
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """One split: what it says of errors, spreads and, by kind of traffic, of decisions and their caution."""

    spread: SplitSpread
    errors: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, Any]]
    decisions: Mapping[str, Mapping[str, Any]]
    cautions: Mapping[str, float]
    groups: int


def train(
    table: pa.Table,
    tasks: Sequence[Task],
    plan: TrainingPlan = TrainingPlan(),
    *,
    report: Callable[[str], None] = lambda what: None,
) -> tuple[TrainedModel, TrainingReport]:
    """The model of a measurement table about these tasks.

    Raises
    ------
    InvalidWorkloadError
        There is nothing to learn from.
    """
    by_key = {task.key: task for task in tasks}
    report("reading what the rows teach")
    table = thinned(table, by_key, plan.most_lanes)
    rows = training_rows(table, by_key)
    if not len(rows):
        raise InvalidWorkloadError("training needs simulated rows about the corpus's own tasks, and there are none")
    found: dict[str, HeldOut] = {}
    for split, groups in zip(_SPLITS, groups_of(rows), strict=True):
        held = held_out(
            rows, groups, plan.growth, seed=plan.seed, most_folds=plan.most_folds, report=lambda w: report(w)
        )
        if held is not None:
            found[split] = held
    limits = thresholds(list(found.values()))
    each = [trusted(rows, held) for held in found.values()]
    trust = np.mean(each, axis=0) if each else np.ones(len(TARGETS))
    analytical = errors(rows, analytical_only(len(rows.questions)), at_true_utilization=False)
    judged = {}
    for split, held in found.items():
        report(f"judging what was held out: {split}")
        judged[split] = _judged(table, by_key, rows, (held, corrected(held, limits, trust)), analytical)
    report("fitting all rows")
    model = _model(rows, plan, (limits, trust), judged)
    return model, _report(rows, judged, model)


def thinned(table: pa.Table, tasks: Mapping[str, Task], most_lanes: int) -> pa.Table:
    """The table without some tasks, evenly, where there are too many (task, method) pairs; twins stay together."""
    keys = table.column("task").to_numpy(zero_copy_only=False).astype(np.str_)
    if not len(keys):
        return table
    pairs = len(table.select(["task", "method"]).group_by(["task", "method"]).aggregate([]))
    if pairs <= most_lanes:
        return table
    names = np.unique(keys)
    drawn = np.array([tasks[name].draws_key if name in tasks else name for name in names.tolist()], dtype=np.str_)
    groups = np.unique(drawn)  # hashes: in the order of the alphabet they are in no order of tasks
    kept = names[np.isin(drawn, groups[: max(1, int(len(groups) * most_lanes / pairs))])]
    return table.filter(pa.array(np.isin(keys, kept)))


def _judged(
    table: pa.Table,
    tasks: Mapping[str, Task],
    rows: TrainingRows,
    held: tuple[HeldOut, Corrections],
    analytical: Errors,
) -> _Judged:
    groups, found = held[0].groups[rows.lane], held[1]
    distance = np.minimum(found.distance, FAR)[rows.lane]
    pure = errors(rows, found, at_true_utilization=True)
    whole = errors(rows, found, at_true_utilization=False)
    drafting = speculation_log_sd(rows.inputs)[rows.lane]
    spread = fit_spread(pure, whole, distance, groups, drafting)
    spreads, decisions, cautions = trained_spreads(spread, rows), {}, {}
    for kind in TrafficKind:
        cases = every_case(table, tasks, rows, found, spreads, groups=held[0].groups, kind=kind)
        if cases:
            cautions[kind.value], inflation = caution_of(cases)
            decisions[kind.value] = {
                "inflation": _rounded(inflation.value),
                "violations": _rounded(inflation.violation_rate),
                "refusals": _rounded(inflation.refusal_rate),
                "falseRefusals": _rounded(false_refusals(cases, cautions[kind.value])),
                "groups": inflation.groups,
                "groupsWithPicks": inflation.groups_with_picks,
                "cases": sum(len(case.groups) for case in cases),
                "guarantee": inflation.guarantee.value,
            }
    return _Judged(
        spread=spread,
        errors=_medians(whole, analytical),
        intervals=spread_figures(pure, whole, distance, groups, drafting),
        decisions=decisions,
        cautions=cautions,
        groups=len(np.unique(groups)),
    )


def _rounded(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def _medians(whole: Errors, analytical: Errors) -> Mapping[str, Mapping[str, float]]:
    """Median absolute errors of either, where both have an answer."""
    found = {}
    for target, title in enumerate(TARGETS):
        own, other = whole.error[:, target], analytical.error[:, target]
        both = ~np.isnan(own) & ~np.isnan(other)
        if both.any():
            found[title] = {
                "trained": round(float(np.median(np.abs(own[both]))), 4),
                "analytical": round(float(np.median(np.abs(other[both]))), 4),
            }
    return found


def _model(
    rows: TrainingRows, plan: TrainingPlan, guards: tuple[FloatArray, FloatArray], judged: Mapping[str, _Judged]
) -> TrainedModel:
    """The model of all rows; `guards` are the thresholds of distances, and the trust in each target."""
    limits, trust = guards
    trees = grown(rows.inputs[rows.lane], rows.coordinate, rows.residual, rows.weight, plan.growth, seed=plan.seed)
    trees = replace(trees, leaves=(trees.leaves * trust).astype(np.float32), bias=trees.bias * trust)
    known = Familiarity.of(rows.inputs, most=MOST_POINTS, seed=plan.seed)
    spreads = [judged[split].spread if split in judged else None for split in _SPLITS]
    fallback = next((each for each in reversed(spreads) if each is not None), None)
    usable = [each or fallback for each in spreads]
    shape = KNOTS, len(TARGETS)
    log_sd = np.stack([np.full(shape, _DEFAULT_SD) if each is None else each.log_sd for each in usable])
    if spreads[1] is not None and spreads[0] is not None:
        # What was never seen is not surer than what was.
        log_sd[1] = np.maximum(log_sd[1], log_sd[0])
    finite = np.where(np.isfinite(limits), limits, 1.0)
    return TrainedModel(
        trees=trees,
        familiarity=replace(known, thresholds=finite),
        log_sd=log_sd,
        growth=np.array([0.0 if each is None else each.growth for each in usable]),
        generations=frozenset(groups_of(rows)[1].tolist()),
        # A workload is promised its confidence whatever its kind: one that hardly errs makes up for no other.
        caution=max((most for each in judged.values() for most in each.cautions.values()), default=1.0),
    )


def _report(rows: TrainingRows, judged: Mapping[str, _Judged], model: TrainedModel) -> TrainingReport:
    decisions = {split: each.decisions for split, each in judged.items() if each.decisions}
    guaranteed = bool(decisions) and all(
        each["guarantee"] == Guarantee.UNSEEN_GROUPS.value
        and each["inflation"] is not None
        and each["inflation"] <= CAUTIONS[1]
        for kinds in decisions.values()
        for each in kinds.values()
    )
    return TrainingReport(
        rows=len(rows),
        lanes=len(rows.questions),
        tasks=len({task for task, _ in rows.key}),
        models=len(set(rows.model.tolist())),
        accelerators=len(set(rows.accelerator.tolist())),
        groups={split: each.groups for split, each in judged.items()},
        errors={split: each.errors for split, each in judged.items()},
        intervals={split: each.intervals for split, each in judged.items()},
        growth={split: each.spread.growth for split, each in judged.items()},
        decisions=decisions,
        caution=model.caution,
        guarantee=(Guarantee.UNSEEN_GROUPS if guaranteed else Guarantee.NOT_GUARANTEED).value,
    )


def write_artifact(model: TrainedModel, report: TrainingReport, path: Path, *, corpus_digest: str, seed: int) -> str:
    """Write the model with its figures; returns the digest of the file."""
    versions = {"metainf": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("numba", "numpy", "pyarrow")}
    return write_predictor(model, Provenance(corpus_digest, seed, versions, report.metrics), path)
