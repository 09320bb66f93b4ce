"""From a corpus to a trained model, with the figures of how good it is on groups that it did not see.

Separate from its steps, each of which can be judged alone: rows, trees, held-out answers, spreads, widths, decisions.

Two splits stand for the two categories of lanes: whole model families left out for those whose accelerator's generation
was trained on, whole generations left out for others. Each has spreads and cautions of its own, and cautions are fitted
under the very spreads that the model keeps.
"""

import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metainf import __version__
from metainf.artifact import Provenance, manifest_number, write_predictor
from metainf.corpus.task import Task, TrafficKind
from metainf.errors import InvalidWorkloadError
from metainf.evaluation.calibration import Inflation
from metainf.predictors.base_answers import KNOTS, TARGETS
from metainf.predictors.corrections import KINDS, TrainedModel
from metainf.predictors.familiarity import Familiarity
from metainf.predictors.step_factors import StepFactors
from metainf.training.boosting import Growth
from metainf.training.decisions import CAUTIONS, Decided, caution_of, decided, every_case
from metainf.training.held_out import (
    MOST_POINTS,
    Errors,
    GuardedAnswers,
    HeldOut,
    SplitAnswers,
    analytical_only,
    errors,
    groups_of,
    guarded,
    held_out,
)
from metainf.training.predicted_spreads import trained_spreads
from metainf.training.rows import TrainingRows, training_rows
from metainf.training.server_steps import ServerSteps
from metainf.training.spreads import spread_figures
from metainf.training.stages import grown_in_stages
from metainf.training.step_factors import factor_slopes, fitted_factors
from metainf.training.widths import FittedSpreads, JudgedSplit, fitted_spreads

__all__ = [
    "CATEGORIES",
    "SPLITS",
    "TrainingPlan",
    "TrainingReport",
    "held_out_splits",
    "prefixed",
    "thinned",
    "train",
    "write_artifact",
]

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
StringArray = NDArray[np.str_]

SPLITS = ("model", "accelerator")
"""What is held out, in the order of the categories that this says something about."""
CATEGORIES = ("generation seen", "generation not seen")
_DEFAULT_SD = 0.6  # where nothing could be held out: no figure stands behind it, and the report says so


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How to train."""

    seed: int = 0
    growth: Growth = field(default_factory=Growth)
    most_folds: int = 5
    """Of each split; groups are packed into so many."""
    most_lanes: int = 400_000
    """(Task, method) pairs that are learnt from; of more, whole tasks are left out evenly.

    What the corpus of 20,000 tasks has over measured kernels, 41,887 lanes with those of one client and 109,543 rows,
    takes four minutes of one core beside other work. Slopes of the factors are 23 tables of all rows and targets in
    single precision: 1.4 KB a row.
    """


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
    widths: Sequence[str]
    """Targets whose widths hang on features."""
    decisions: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """split -> kind of traffic -> how choices go under the caution of its category."""
    caution: Mapping[str, Mapping[str, float]]
    """category -> kind of traffic -> factor."""
    guaranteed: float | None
    """Least confidence that decisions are guaranteed, see `evaluation.calibration`; None where one of them is not."""

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
            "widthsByFeatures": list(self.widths),
            "decisions": {split: dict(kinds) for split, kinds in self.decisions.items()},
            "caution": {category: dict(kinds) for category, kinds in self.caution.items()},
            "guaranteedConfidence": self.guaranteed,
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """One split: what it says of errors, intervals and, by kind of traffic, of decisions and their caution."""

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
    whole: Collection[str] | None = None,
    report: Callable[[str], None] = lambda what: None,
) -> tuple[TrainedModel, TrainingReport]:
    """The model of a measurement table about these tasks.

    Parameters
    ----------
    whole : keys of tasks, optional
        Those that have rows of all methods: decisions are judged, and cautions fitted, on these. None: all of them.

    Raises
    ------
    InvalidWorkloadError
        There is nothing to learn from.
    """
    by_key = {task.key: task for task in tasks}
    chosen_among = {key: task for key, task in by_key.items() if whole is None or key in whole}
    report("reading what the rows teach")
    table = thinned(table, by_key, plan.most_lanes)
    rows = training_rows(table, by_key)
    if not len(rows):
        raise InvalidWorkloadError("training needs simulated rows about the corpus's own tasks, and there are none")
    analytical = errors(rows, analytical_only(len(rows.questions)), at_true_utilization=False)
    report("fitting the steps of accelerators")
    slopes = factor_slopes(rows)
    factors = fitted_factors(rows, slopes, np.ones(len(rows.questions), dtype=np.bool_))
    held = held_out_splits(rows, slopes, plan, report)
    rows = rows.under(factors)
    spreads = fitted_spreads(rows, held.splits, seed=plan.seed, most_folds=plan.most_folds, report=report)
    judged = {}
    for split, each in spreads.splits.items():
        report(f"judging what was held out: {split}")
        judged[split] = _judged(table, chosen_among, held.splits[split], each, analytical)
    report("fitting all rows")
    model = _model(rows, factors, plan, held, spreads, _cautions(judged))
    return model, _report(rows, spreads, judged, model)


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


def held_out_splits(
    rows: TrainingRows, slopes: Float32Array, plan: TrainingPlan, report: Callable[[str], None]
) -> GuardedAnswers:
    """What is said of lanes in both splits by what never saw their groups, guarded as run time does it."""
    every: dict[str, HeldOut] = {}
    for split, groups in zip(SPLITS, groups_of(rows), strict=True):
        held = held_out(
            rows,
            slopes,
            groups,
            plan.growth,
            seed=plan.seed,
            most_folds=plan.most_folds,
            report=prefixed(report, f"leave-{split}-out: "),
        )
        if held is not None:
            every[split] = held
    return guarded(every)


def prefixed(report: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    """What is reported through this begins with the prefix."""
    return lambda what: report(prefix + what)


def _judged(
    table: pa.Table,
    tasks: Mapping[str, Task],
    held: SplitAnswers,
    split: JudgedSplit,
    analytical: Errors,
) -> _Judged:
    spreads, decisions, cautions = trained_spreads(split.spread, split.factor, held.rows), {}, {}
    for kind in TrafficKind:
        cases = every_case(table, tasks, held.rows, held.corrections, spreads, groups=held.groups, kind=kind)
        if cases:
            cautions[kind.value], inflation = caution_of(cases)
            under = decided(cases, cautions[kind.value])
            count = sum(len(case.groups) for case in cases)
            decisions[kind.value] = _decision_figures(cautions[kind.value], inflation, under, count)
    return _Judged(
        errors=_medians(split.scored.whole, analytical),
        intervals=spread_figures(split.scored, split.reach),
        decisions=decisions,
        cautions=cautions,
        groups=len(split.scored.names),
    )


def _decision_figures(caution: float, inflation: Inflation, under: Decided, cases: int) -> Mapping[str, Any]:
    """How choices go under the caution; `inflation` is what the calibration asked for, null where it is to refuse."""
    guaranteed = inflation.guaranteed if inflation.value <= CAUTIONS[1] else None
    return {
        "caution": manifest_number(caution),
        "inflation": manifest_number(inflation.value),
        "violations": manifest_number(under.violations),
        "refusals": manifest_number(under.refusals),
        "falseRefusals": manifest_number(under.false_refusals),
        "groups": inflation.groups,
        "groupsWithPicks": inflation.groups_with_picks,
        "cases": cases,
        "guaranteedConfidence": None if guaranteed is None else manifest_number(guaranteed),
    }


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


def _cautions(judged: Mapping[str, _Judged]) -> FloatArray:
    """Cautions by category and kind of traffic, shape (2, kinds).

    What no case told is the largest of its category, or of the other one where it has none; then it is not below 1.
    """
    found = np.full((len(SPLITS), len(KINDS)), np.nan)
    for place, split in enumerate(SPLITS):
        told = judged[split].cautions if split in judged else {}
        for kind, value in told.items():
            found[place, KINDS.index(kind)] = value
    every = found[~np.isnan(found)]
    for row in found:
        known = ~np.isnan(row)
        row[~known] = np.max(row[known] if known.any() else every, initial=1.0)
    return found


def _model(
    rows: TrainingRows,
    factors: StepFactors,
    plan: TrainingPlan,
    held: GuardedAnswers,
    spreads: FittedSpreads,
    caution: FloatArray,
) -> TrainedModel:
    """The model of all rows, which are under the factors."""
    answers = rows.coordinate, rows.residual, rows.weight
    trees = grown_in_stages(rows.inputs, rows.task, *answers, plan.growth, seed=plan.seed, lane=rows.lane)
    known = Familiarity.of(rows.inputs, most=MOST_POINTS, seed=plan.seed)
    each = [spreads.splits[split].spread if split in spreads.splits else None for split in SPLITS]
    fallback = next((spread for spread in reversed(each) if spread is not None), None)
    usable = [spread or fallback for spread in each]
    shape = len(KINDS), KNOTS, len(TARGETS)
    finite = np.where(np.isfinite(held.limits), held.limits, 1.0)
    return TrainedModel(
        trees=trees.trusted(held.trust),
        familiarity=replace(known, thresholds=finite),
        log_sd=np.stack([np.full(shape, _DEFAULT_SD) if spread is None else spread.log_sd for spread in usable]),
        growth=np.array([0.0 if spread is None else spread.growth for spread in usable]),
        generations=frozenset(groups_of(rows)[1].tolist()),
        caution=caution,
        width_trees=spreads.trees,
        factors=factors,
    )


def _report(
    rows: TrainingRows, spreads: FittedSpreads, judged: Mapping[str, _Judged], model: TrainedModel
) -> TrainingReport:
    decisions = {split: each.decisions for split, each in judged.items() if each.decisions}
    told = [each["guaranteedConfidence"] for kinds in decisions.values() for each in kinds.values()]
    return TrainingReport(
        rows=len(rows),
        lanes=len(rows.questions),
        tasks=len({task for task, _ in rows.key}),
        models=len(set(rows.model.tolist())),
        accelerators=len(set(rows.accelerator.tolist())),
        groups={split: each.groups for split, each in judged.items()},
        errors={split: each.errors for split, each in judged.items()},
        intervals={split: each.intervals for split, each in judged.items()},
        growth={split: each.spread.growth for split, each in spreads.splits.items()},
        widths=spreads.by_features,
        decisions=decisions,
        caution={
            category: {kind: round(float(value), 4) for kind, value in zip(KINDS, row, strict=True)}
            for category, row in zip(CATEGORIES, model.caution, strict=True)
        },
        guaranteed=min(told) if told and None not in told else None,
    )


def write_artifact(
    model: TrainedModel,
    report: TrainingReport,
    path: Path,
    *,
    corpus_digest: str,
    world: str,
    seed: int,
    servers: ServerSteps | None = None,
) -> str:
    """Write the model with its figures, and what of it rows of real servers taught; returns the digest of the file."""
    versions = {"metainf": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("numba", "numpy", "pyarrow")}
    metrics = report.metrics if servers is None else {**report.metrics, "servers": servers.metrics}
    return write_predictor(model, Provenance(corpus_digest, world, seed, versions, metrics), path)
