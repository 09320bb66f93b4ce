"""The whole evaluation as a value: every selector on every split of every kind of traffic, with its studies.

Separate from how it is written (`report_files`) and drawn (`plots`): what a report says can be tested without reading
it back from text.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from metainf.corpus.task import TrafficKind
from metainf.errors import UndefinedMetricError
from metainf.evaluation.bootstrap import (
    Comparison,
    GroupDraws,
    WilcoxonResult,
    paired_comparison,
    wilcoxon_over_groups,
)
from metainf.evaluation.figures import Figures, JudgedTasks, figures_of, judged_tasks
from metainf.evaluation.guarding import GuardFigures, guard_figures, unfamiliar_tasks
from metainf.evaluation.metrics import acceleration_over, good
from metainf.evaluation.outcomes import (
    CEILING,
    SINGLE_BEST,
    Clock,
    Evidence,
    SelectorFactory,
    ceiling_outcome,
    reference_outcomes,
    run_selector,
)
from metainf.evaluation.published import PublishedPoint, published_points
from metainf.evaluation.splits import Split, SplitKind, split
from metainf.evaluation.studies import (
    CurvePoint,
    Failure,
    Importance,
    LeakCheck,
    feature_importance,
    leak_checks,
    learning_curve,
    worst_failures,
)
from metainf.selectors.contract import BoolArray

__all__ = [
    "Evaluation",
    "GuardReport",
    "KindReport",
    "Plan",
    "Result",
    "Scope",
    "evaluate",
    "with_all_tasks",
    "with_simulations",
]


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
    """Learning curve, importance of features and leak checks: each fits a selector several times more."""
    studied: str | None = None
    """Whose features and leaks are looked at where the focus does not learn from tables; None: the focus'."""
    seed: int = 0
    trained_on: str = ""
    """Where selectors learn from another truth than they are judged by: its name, which the names of splits bear."""
    simulated_by: str = ""
    """Where all tasks were simulated by somebody and selectors are told what that said: the name, as above."""
    every_task: bool = False
    """Whether these are all tasks of the corpus, beside an evaluation on some of them that compares all selectors."""


@dataclass(frozen=True, slots=True)
class Result:
    """One row of a table.

    `against_focus` is the mean of log(P / P[default]), this selector's minus the focus'; None for the focus itself.
    """

    split: SplitKind
    selector: str
    scope: Scope
    figures: Figures
    against_focus: Comparison | None = None
    wilcoxon: WilcoxonResult | None = None
    fit_s: float = 0.0
    failure: str = ""
    trained_on: str = ""
    simulated_by: str = ""
    every_task: bool = False

    @property
    def split_name(self) -> str:
        """The split; what was learnt from where that is another truth, who simulated its tasks, if these are all."""
        return _split_name(self.split, self)


def _split_name(split: SplitKind, of: Plan | Result) -> str:
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
    results: tuple[Result, ...]
    spent_s: Mapping[str, float]
    """Seconds by selector, fitting and choosing in all splits."""
    studies_s: float = 0.0
    curve: tuple[CurvePoint, ...] = ()
    importance: tuple[Importance, ...] = ()
    failures: tuple[Failure, ...] = ()
    leaks: tuple[LeakCheck, ...] = ()
    studied: str = ""
    """The selector whose importance and leaks these are; everything else is the focus'."""
    acceleration_by_batch: Mapping[float, float] | None = None
    published: tuple[PublishedPoint, ...] = ()
    guards: Mapping[SplitKind, GuardReport] = field(default_factory=dict)
    single_best: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Name of a split -> the method that was the single best of its train halves -> in how many folds."""
    simulated_tasks: Mapping[str, int] = field(default_factory=dict)
    """Who simulated tasks -> how many of these: those of the splits that bear that name."""
    every_task: int = 0
    """How many tasks the rows over all tasks are over; 0 where there are no such rows."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that a report holds."""

    focus: str
    kinds: tuple[KindReport, ...]
    spent_s: float


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


def _with_rows(
    evaluation: Evaluation, added: Evaluation, extended: Callable[[KindReport, KindReport], KindReport]
) -> Evaluation:
    others = {report.kind: report for report in added.kinds}
    kinds = tuple(
        extended(_joined(report, others[report.kind]), others[report.kind]) if report.kind in others else report
        for report in evaluation.kinds
    )
    return replace(evaluation, kinds=kinds, spent_s=evaluation.spent_s + added.spent_s)


def _joined(report: KindReport, other: KindReport) -> KindReport:
    spent = {each: report.spent_s.get(each, 0.0) + seconds for each, seconds in other.spent_s.items()}
    return replace(
        report,
        results=report.results + other.results,
        spent_s={**report.spent_s, **spent},
        single_best={**report.single_best, **other.single_best},
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """Selectors on one split, all drawn alike."""

    split: Split
    tasks: Mapping[str, JudgedTasks]
    draws: GroupDraws


def evaluate(
    evidence: Mapping[TrafficKind, Evidence],
    selectors: Mapping[str, SelectorFactory],
    plan: Plan,
    *,
    clock: Clock,
    progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Run every selector on every split of every kind.

    Parameters
    ----------
    clock : function
        Seconds, such as time.perf_counter.
    progress : function
        Told what is about to run, one line each.
    """
    start = clock()
    kinds = tuple(_kind(kind, evidence[kind], selectors, plan, (clock, progress)) for kind in evidence)
    return Evaluation(plan.focus, kinds, clock() - start)


def _kind(
    kind: TrafficKind,
    evidence: Evidence,
    selectors: Mapping[str, SelectorFactory],
    plan: Plan,
    tools: tuple[Clock, Callable[[str], None]],
) -> KindReport:
    clock, progress = tools
    results: list[Result] = []
    spent = dict.fromkeys(selectors, 0.0)
    studied: _Judged | None = None
    guards: dict[SplitKind, GuardReport] = {}
    single_best: dict[str, Mapping[str, int]] = {}
    decisive_share = np.nan
    for each in plan.splits:
        found = split(evidence.table.tasks, each, most_folds=plan.most_folds, seed=plan.seed)
        if not found.folds:
            progress(f"{kind}, {each}: fewer than two groups, nothing to hold out")
            continue
        judged = _judged(evidence, found, selectors, _prefixed(progress, f"{kind}, {each}: "), clock)
        for name in selectors:
            spent[name] += judged.tasks[name].outcome.fit_s + judged.tasks[name].outcome.decide_s
        results += _results(judged, plan)
        guards[each] = _guarded(evidence, judged, selectors)
        fixed = Counter(judged.tasks[SINGLE_BEST].outcome.single_methods)
        single_best[_split_name(each, plan)] = dict(fixed.most_common())
        decisive_share = float(next(iter(judged.tasks.values())).decisive.mean())
        studied = studied or (judged if plan.focus in judged.tasks else None)
    report = KindReport(
        kind=kind,
        tasks=len(evidence),
        decisive_share=decisive_share,
        methods=len(evidence.table.tasks.methods),
        results=tuple(results),
        spent_s=spent,
        published=published_points(evidence),
        guards=guards,
        single_best=single_best,
    )
    if studied is None or plan.focus not in selectors or studied.tasks[plan.focus].outcome.failure:
        return report
    if plan.studies:
        progress(f"{kind}, {studied.split.kind}: studies of {plan.focus}")
    return _with_studies(report, evidence, studied, selectors, plan, clock=clock)


def _prefixed(progress: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    return lambda line: progress(prefix + line)


def _judged(
    evidence: Evidence,
    found: Split,
    selectors: Mapping[str, SelectorFactory],
    progress: Callable[[str], None],
    clock: Clock,
) -> _Judged:
    tasks: dict[str, JudgedTasks] = {}
    references = reference_outcomes(evidence, found)
    part = evidence.rows(references[0].judged)
    for name, make in selectors.items():
        progress(name)
        tasks[name] = judged_tasks(evidence, run_selector(name, make, evidence, found, clock=clock), part)
    for outcome in references:
        # A selector of that name may differ in what it does where its method is infeasible: the zero of the closed gap
        # is the definition's.
        if outcome.selector == SINGLE_BEST or outcome.selector not in tasks:
            tasks[outcome.selector] = judged_tasks(evidence, outcome, part)
    ceiling = ceiling_outcome(evidence, found)
    if ceiling is not None:
        rest, outcome = ceiling
        truth = replace(part.table, performance=rest.table.performance[outcome.judged])
        tasks[outcome.selector] = judged_tasks(rest, outcome, replace(part, table=truth))
    return _Judged(found, tasks, GroupDraws([factor[references[0].judged] for factor in found.groups]))


def _guarded(evidence: Evidence, judged: _Judged, selectors: Mapping[str, SelectorFactory]) -> GuardReport:
    flagged = unfamiliar_tasks(evidence, judged.split)
    tasks = {name: judged.tasks[name] for name in selectors}
    return GuardReport(float(flagged.mean()), guard_figures(tasks, flagged, judged.draws))


def _results(judged: _Judged, plan: Plan) -> list[Result]:
    rows = []
    base = judged.tasks.get(plan.focus)
    decisive = next(iter(judged.tasks.values())).decisive
    for name, each in judged.tasks.items():
        # The ceiling knows nothing of tasks with one seed, and less of which tasks are decisive.
        told = np.any(good(each.evidence.table), axis=1) if name == CEILING else np.ones(len(each.gain), dtype=np.bool_)
        for scope in Scope:
            counted = told & decisive if scope is Scope.DECISIVE else told
            comparison, ranks = None, None
            if base is not None and name != plan.focus and not each.outcome.failure and not base.outcome.failure:
                comparison, ranks = _against(each, base, counted, judged)
            rows.append(
                Result(
                    split=judged.split.kind,
                    selector=name,
                    scope=scope,
                    figures=figures_of(each, counted, judged.draws),
                    against_focus=comparison,
                    wilcoxon=ranks,
                    fit_s=each.outcome.fit_s,
                    failure=each.outcome.failure,
                    trained_on=plan.trained_on,
                    simulated_by=plan.simulated_by,
                    every_task=plan.every_task,
                )
            )
    return rows


def _against(
    each: JudgedTasks, base: JudgedTasks, counted: BoolArray, judged: _Judged
) -> tuple[Comparison | None, WilcoxonResult | None]:
    mine, other = np.where(counted, each.gain, np.nan), np.where(counted, base.gain, np.nan)
    try:
        comparison = paired_comparison(mine, other, judged.draws)
    except UndefinedMetricError:
        return None, None
    groups = judged.split.groups[0][base.outcome.judged]
    return comparison, wilcoxon_over_groups(mine, other, groups)


def _with_studies(
    report: KindReport,
    evidence: Evidence,
    studied: _Judged,
    selectors: Mapping[str, SelectorFactory],
    plan: Plan,
    *,
    clock: Clock,
) -> KindReport:
    start, focus = clock(), studied.tasks[plan.focus]
    by_batch = None
    part = focus.evidence
    if part.batch_size is not None and part.one_at_a_time is not None:
        by_batch = acceleration_over(part.table, focus.outcome.chosen, part.one_at_a_time, part.batch_size, part.broken)
    report = replace(report, failures=worst_failures(focus), acceleration_by_batch=by_batch)
    if not plan.studies:
        return report
    make, whole = selectors[plan.focus], focus.outcome
    curve = learning_curve(make, evidence, studied.split, plan.curve_shares, clock=clock, whole=whole)
    report = replace(report, curve=curve)
    name = plan.focus if plan.studied is None else plan.studied
    if name in selectors and not studied.tasks[name].outcome.failure:
        make, whole = selectors[name], studied.tasks[name].outcome
        report = replace(
            report,
            studied=name,
            importance=feature_importance(make, evidence, studied.split, seed=plan.seed),
            leaks=leak_checks(make, evidence, studied.split, clock=clock, seed=plan.seed, whole=whole),
        )
    return replace(report, studies_s=clock() - start)
