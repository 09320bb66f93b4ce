"""What an evaluation finds, as values: plans, rows of tables, and the report of each kind of traffic.

Separate from what makes them (`report`), which fits selectors, and from how they are written (`report_files`) and drawn
(`plots`): what a report says can be tested without reading it back from text.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from metainf.corpus.task import TrafficKind
from metainf.evaluation.bootstrap import Comparison, WilcoxonResult
from metainf.evaluation.figures import Figures
from metainf.evaluation.guarding import GuardFigures
from metainf.evaluation.leak_checks import LeakCheck
from metainf.evaluation.outcomes import LimitCounts
from metainf.evaluation.published import PublishedSweep
from metainf.evaluation.splits import SplitKind
from metainf.evaluation.studies import CurvePoint, Failure, Importance

__all__ = [
    "LOSSLESS",
    "Evaluation",
    "GuardReport",
    "KindReport",
    "Plan",
    "Result",
    "Scope",
    "joined_splits",
    "named_split",
    "with_all_tasks",
    "with_published",
    "with_simulations",
]


LOSSLESS = "lossless methods"
"""What rows are called in which only such methods could be chosen."""


class Scope(StrEnum):
    """Which tasks a figure is over; aims bind on the decisive ones."""

    DECISIVE = "decisive"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to evaluate. `focus` is the selector that others are compared with and that is studied."""

    focus: str
    splits: tuple[SplitKind, ...] = tuple(SplitKind)
    most_folds: int | None = None
    curve_shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    studies: bool = True
    """Learning curve and importance of features, on the first split: each fits a selector several times more."""
    leaks: bool = True
    """Leak checks, on the splits that hold models or accelerators out: a selector is fitted twice more for a fold."""
    studied: str | None = None
    """Whose curve, features and leaks are looked at where the focus does not learn from tables; None: the focus'."""
    seed: int = 0
    trained_on: str = ""
    """Where selectors learn from another truth than they are judged by: its name, which the names of splits bear."""
    simulated_by: str = ""
    """Where all tasks were simulated by somebody and selectors are told what that said: the name, as above."""
    every_task: bool = False
    """Whether these are all tasks of the corpus, beside an evaluation on some of them that compares all selectors."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """By selector what is said beside its name, such as how much it learns from."""

    @property
    def learner(self) -> str:
        """The selector whose curve, features and leaks are looked at; empty where there is none."""
        return self.focus if self.studied is None else self.studied


@dataclass(frozen=True, slots=True)
class Result:
    """One row of a table.

    `against_focus` is the mean of log(P / P[default]), this selector's minus the focus'; of closed gaps it has the
    sign, draw by draw, since both are divided by the same distance. `usd_against_focus` is the share of the focus'
    total USD that this selector saves, over the tasks with a price. None for the focus itself.
    """

    split: SplitKind
    selector: str
    scope: Scope
    figures: Figures
    against_focus: Comparison | None = None
    usd_against_focus: Comparison | None = None
    wilcoxon: WilcoxonResult | None = None
    fit_s: float = 0.0
    failure: str = ""
    trained_on: str = ""
    simulated_by: str = ""
    every_task: bool = False
    remark: str = ""
    """What is said beside the selector's name."""
    lossless: bool = False
    """Whether only methods were chosen among that cannot change answers."""

    @property
    def split_name(self) -> str:
        """The split; what was learnt from where that is another truth, who simulated its tasks, if these are all."""
        return named_split(self.split, self)


def named_split(split: SplitKind, of: Plan | Result) -> str:
    """The split with what of a plan or a row tells it from the plain one."""
    learnt = f", trained on {of.trained_on}" if of.trained_on else ""
    simulated = f", simulated by {of.simulated_by}" if of.simulated_by else ""
    return f"{split}{learnt}{simulated}{', all tasks' if of.every_task else ''}"


@dataclass(frozen=True, slots=True)
class GuardReport:
    """One split: the share of its tasks at which an out-of-distribution guard fires, and what that does to whom."""

    flagged_share: float
    figures: tuple[GuardFigures, ...]


@dataclass(frozen=True, slots=True)
class KindReport:
    """One kind of traffic. `acceleration_by_batch` is the focus over one request at a time: size -> ratio."""

    kind: TrafficKind
    tasks: int
    decisive_share: float
    methods: int
    """Those that can change answers included."""
    results: tuple[Result, ...]
    spent_s: Mapping[str, float]
    """Seconds by selector, fitting and choosing in all splits."""
    studies_s: float = 0.0
    """Of fitting and choosing for leak checks, curve and importance."""
    curve: tuple[CurvePoint, ...] = ()
    importance: tuple[Importance, ...] = ()
    failures: tuple[Failure, ...] = ()
    leaks: tuple[LeakCheck, ...] = ()
    studied: str = ""
    """Whose curve, importance and leaks these are: the focus' where it is empty, as is everything else."""
    acceleration_by_batch: Mapping[float, float] | None = None
    published: PublishedSweep | None = None
    guards: Mapping[SplitKind, GuardReport] = field(default_factory=dict)
    single_best: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Name of a split -> the method that was the single best of its train halves -> in how many folds."""
    simulated_tasks: Mapping[str, int] = field(default_factory=dict)
    """Who simulated tasks -> how many of these: those of the splits that bear that name."""
    lossless_methods: int = 0
    """How many of the methods cannot change answers; 0 where all are so, and the tables of these would be the same."""
    lossless_decisive_share: float = math.nan
    lossless_left_out: int = 0
    """Tasks on which none of these keeps every limit, the budget included: they count in no lossless row."""
    limits: LimitCounts | None = None
    """What SLOs, deadlines and budgets leave out and forbid; None where there are none."""
    unpriced: Mapping[str, int] = field(default_factory=dict)
    """Accelerators without a list price -> how many tasks, which no USD are of; the most first."""
    taught_tasks: int = 0
    """Tasks of another world that are learnt from, where it is not this one; 0 where it is."""
    every_task: int = 0
    """How many tasks the rows over all tasks are over; 0 where there are no such rows."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that a report holds.

    `spent_s` is what this run took, and what earlier ones took to fit and choose where that was kept and is taken.
    """

    focus: str
    kinds: tuple[KindReport, ...]
    spent_s: float
    unfinished: tuple[str, ...] = ()
    """Splits that are not there, or not with all their checks and studies, since the time was up or is not over yet."""


def joined_splits(report: KindReport, later: KindReport) -> KindReport:
    """One kind of traffic on the splits of both; the studies are the first one's."""
    return replace(
        _joined(report, later),
        decisive_share=later.decisive_share,
        lossless_decisive_share=later.lossless_decisive_share,
        studies_s=report.studies_s + later.studies_s,
        leaks=report.leaks + later.leaks,
        guards={**report.guards, **later.guards},
    )


def with_simulations(evaluation: Evaluation, simulated: Evaluation, name: str) -> Evaluation:
    """The evaluation with the rows of another, over those of its tasks that `name` simulated; the rest is its own."""

    def extended(report: KindReport, other: KindReport) -> KindReport:
        return replace(report, simulated_tasks={**report.simulated_tasks, name: other.tasks})

    return _with_rows(evaluation, simulated, extended)


def with_all_tasks(evaluation: Evaluation, whole: Evaluation) -> Evaluation:
    """The evaluation with the rows of another, of fewer selectors over all tasks; the rest is its own."""

    def extended(report: KindReport, other: KindReport) -> KindReport:
        return replace(report, every_task=other.tasks)

    return _with_rows(evaluation, whole, extended)


def with_published(evaluation: Evaluation, sweeps: Mapping[TrafficKind, PublishedSweep]) -> Evaluation:
    """The evaluation with the papers' figure, of the kinds of traffic that have one."""
    kinds = tuple(replace(report, published=sweeps.get(report.kind, report.published)) for report in evaluation.kinds)
    return replace(evaluation, kinds=kinds)


def _with_rows(
    evaluation: Evaluation, added: Evaluation, extended: Callable[[KindReport, KindReport], KindReport]
) -> Evaluation:
    others = {report.kind: report for report in added.kinds}
    kinds = tuple(
        extended(_joined(report, others[report.kind]), others[report.kind]) if report.kind in others else report
        for report in evaluation.kinds
    )
    return replace(
        evaluation,
        kinds=kinds,
        spent_s=evaluation.spent_s + added.spent_s,
        unfinished=evaluation.unfinished + added.unfinished,
    )


def _joined(report: KindReport, other: KindReport) -> KindReport:
    spent = {each: report.spent_s.get(each, 0.0) + seconds for each, seconds in other.spent_s.items()}
    return replace(
        report,
        results=report.results + other.results,
        spent_s={**report.spent_s, **spent},
        single_best={**report.single_best, **other.single_best},
    )
