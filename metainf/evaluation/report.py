"""The whole evaluation: every selector on every split of every kind of traffic, with its studies, as a value.

Separate from the values themselves (`report_values`), which know nothing of selectors.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import joblib
import numpy as np

from metainf.corpus.task import TrafficKind
from metainf.errors import UndefinedMetricError
from metainf.evaluation.bootstrap import (
    Comparison,
    GroupDraws,
    WilcoxonResult,
    paired_comparison,
    paired_saving,
    wilcoxon_over_groups,
)
from metainf.evaluation.figures import JudgedTasks, figures_of, judged_tasks, usd_of
from metainf.evaluation.guarding import guard_figures, unfamiliar_tasks
from metainf.evaluation.leak_checks import CHECKED_SPLITS, LeakCheck, leak_checks
from metainf.evaluation.lossless import lossless_outcome, lossy_columns, without_lossy
from metainf.evaluation.metrics import acceleration_over, good
from metainf.evaluation.outcomes import (
    CEILING,
    SINGLE_BEST,
    Clock,
    Evidence,
    Outcome,
    SelectorFactory,
    ceiling_outcome,
    reference_outcomes,
    run_selector,
)
from metainf.evaluation.report_values import (
    LOSSLESS,
    Evaluation,
    GuardReport,
    KindReport,
    Plan,
    Result,
    Scope,
    joined_splits,
    named_split,
    with_all_tasks,
    with_published,
    with_simulations,
)
from metainf.evaluation.splits import Split, SplitKind, split
from metainf.evaluation.studies import feature_importance, learning_curve, worst_failures
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
    "with_published",
    "with_simulations",
]


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
    jobs: int = 1,
    known: Callable[[Evaluation], None] = lambda _: None,
) -> Evaluation:
    """Run every selector on every split of every kind.

    Parameters
    ----------
    clock : function
        Seconds, such as time.perf_counter.
    progress : function
        Told what is about to run, one line each.
    jobs : int
        Splits that are judged at a time. More than one are each in a process of their own, so that all that is given
        must be such as can be sent there.
    known : function
        Told the evaluation as far as it has come, after every split: a whole one takes hours.
    """
    start = clock()
    tools = clock, progress
    kinds: dict[TrafficKind, KindReport] = {}
    asked = [each for kind in evidence for each in _asked(kind, evidence[kind], plan, progress)]
    for report in _each(((each, evidence[each.kind], selectors, plan, tools) for each in asked), jobs):
        before = kinds.get(report.kind)
        kinds[report.kind] = report if before is None else joined_splits(before, report)
        known(Evaluation(plan.focus, tuple(kinds.values()), clock() - start))
    spent = dict.fromkeys(selectors, 0.0)
    found = [kinds.get(kind) or _Rows(plan).report(kind, evidence[kind], None, spent) for kind in evidence]
    return Evaluation(plan.focus, tuple(found), clock() - start)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A split of a kind of traffic; `first` is the one that is studied."""

    kind: TrafficKind
    split: Split
    first: bool


_Tools = tuple[Clock, Callable[[str], None]]
_Work = tuple[_Asked, Evidence, Mapping[str, SelectorFactory], Plan, _Tools]


def _asked(kind: TrafficKind, evidence: Evidence, plan: Plan, progress: Callable[[str], None]) -> list[_Asked]:
    """The splits that have something to hold out."""
    taught = None if evidence.learnt is None else evidence.learnt.tasks
    found: list[_Asked] = []
    for each in plan.splits:
        folds = split(evidence.table.tasks, each, taught=taught, most_folds=plan.most_folds, seed=plan.seed)
        if folds.folds:
            found.append(_Asked(kind, folds, not found))
        else:
            progress(f"{kind}, {each}: fewer than two groups, nothing to hold out")
    return found


def _each(work: Iterable[_Work], jobs: int) -> Iterator[KindReport]:
    """A report of each split in their order, as soon as it is known."""
    if jobs == 1:
        return (_split_report(*each) for each in work)
    found: Iterator[KindReport] = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        joblib.delayed(_split_report)(*each) for each in work
    )
    return found


@dataclass(slots=True)
class _Rows:
    """What is told of each split, gathered: tables of tasks are large, so no split is kept."""

    plan: Plan
    results: list[Result] = field(default_factory=list)
    single_best: dict[str, Mapping[str, int]] = field(default_factory=dict)
    guards: dict[SplitKind, GuardReport] = field(default_factory=dict)
    leaks: list[LeakCheck] = field(default_factory=list)
    leaks_s: float = 0.0
    decisive_share: float = np.nan
    lossless_decisive_share: float = np.nan

    def add(self, judged: _Judged, *, lossless: bool = False) -> None:
        """The rows of one split."""
        self.results += _results(judged, self.plan, lossless=lossless)
        fixed = Counter(judged.tasks[SINGLE_BEST].outcome.single_methods)
        named = named_split(judged.split.kind, self.plan)
        self.single_best[f"{named}, {LOSSLESS}" if lossless else named] = dict(fixed.most_common())
        first = next(iter(judged.tasks.values()))
        if lossless:
            counted = first.decisive[_servable(first.evidence)]
            self.lossless_decisive_share = float(counted.mean()) if len(counted) else np.nan
        else:
            self.decisive_share = float(first.decisive.mean())

    def report(
        self, kind: TrafficKind, evidence: Evidence, lossless: Evidence | None, spent_s: Mapping[str, float]
    ) -> KindReport:
        """All of it, without studies; `spent_s` is by selector."""
        lossy = lossy_columns(evidence.table.tasks.methods)
        return KindReport(
            kind=kind,
            tasks=len(evidence),
            taught_tasks=0 if evidence.learnt is None else len(evidence.learnt),
            decisive_share=self.decisive_share,
            methods=len(lossy),
            results=tuple(self.results),
            spent_s=spent_s,
            studies_s=self.leaks_s,
            leaks=tuple(self.leaks),
            studied=self.plan.learner if self.plan.learner in spent_s else "",
            guards=self.guards,
            single_best=self.single_best,
            limits=evidence.limits,
            unpriced=_unpriced(evidence),
            lossless_methods=int((~lossy).sum()) if lossy.any() else 0,
            lossless_decisive_share=self.lossless_decisive_share,
            lossless_left_out=0 if lossless is None else int((~_servable(lossless)).sum()),
        )


def _servable(evidence: Evidence) -> BoolArray:
    """Shape (n,): tasks on which some method keeps every limit."""
    found: BoolArray = np.any(good(evidence.table, evidence.broken), axis=1)
    return found


def _unpriced(evidence: Evidence) -> Mapping[str, int]:
    """Accelerators without a price and their tasks; none where nobody asks for USD."""
    price = evidence.price_usd_per_hour
    if price is None:
        return {}
    return dict(Counter(evidence.table.tasks.accelerator[~np.isfinite(price)].tolist()).most_common())


def _split_report(
    asked: _Asked, evidence: Evidence, selectors: Mapping[str, SelectorFactory], plan: Plan, tools: _Tools
) -> KindReport:
    """One kind of traffic on one split, with studies where it is the first."""
    clock, progress = tools
    rows, where = _Rows(plan), f"{asked.kind}, {asked.split.kind}: "
    lossless = without_lossy(evidence)
    judged = _judged(evidence, asked.split, selectors, _prefixed(progress, where), clock)
    outcomes = {name: judged.tasks[name].outcome for name in selectors}
    rows.add(judged)
    if lossless is not None:
        rows.add(_judged_lossless(lossless, judged, selectors), lossless=True)
    rows.guards[asked.split.kind] = _guarded(evidence, judged, selectors)
    start = clock()
    rows.leaks += _leaks(evidence, judged, selectors, plan, clock)
    rows.leaks_s += clock() - start
    spent = {name: outcome.fit_s + outcome.decide_s for name, outcome in outcomes.items()}
    report = rows.report(asked.kind, evidence, lossless, spent)
    if not asked.first or plan.focus not in selectors or outcomes[plan.focus].failure:
        return report
    if plan.studies:
        progress(f"{where}studies of {plan.focus}")
    return _with_studies(report, evidence, judged, selectors, plan, clock=clock)


def _prefixed(progress: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    return lambda line: progress(prefix + line)


def _judged(
    evidence: Evidence,
    found: Split,
    selectors: Mapping[str, SelectorFactory],
    progress: Callable[[str], None],
    clock: Clock,
) -> _Judged:
    outcomes: dict[str, Outcome] = {}
    for name, make in selectors.items():
        progress(name)
        outcomes[name] = run_selector(name, make, evidence, found, clock=clock)
    return _held_against(evidence, found, outcomes, reference_outcomes(evidence, found))


def _judged_lossless(evidence: Evidence, judged: _Judged, selectors: Mapping[str, SelectorFactory]) -> _Judged:
    """The same answers held against evidence without lossy methods."""
    references = reference_outcomes(evidence, judged.split)
    tasks = evidence.table.tasks.rows(references[0].judged)
    outcomes = {name: lossless_outcome(judged.tasks[name].outcome, references[0], tasks) for name in selectors}
    return _held_against(evidence, judged.split, outcomes, references)


def _held_against(
    evidence: Evidence, found: Split, outcomes: Mapping[str, Outcome], references: Sequence[Outcome]
) -> _Judged:
    """Outcomes of selectors, the references and the ceiling, judged by the evidence."""
    part = evidence.rows(references[0].judged)
    tasks = {name: judged_tasks(evidence, outcome, part) for name, outcome in outcomes.items()}
    for outcome in references:
        # A selector of that name may differ in what it does where its method is infeasible: the zero of the closed gap
        # is the definition's.
        if outcome.selector == SINGLE_BEST or outcome.selector not in tasks:
            tasks[outcome.selector] = judged_tasks(evidence, outcome, part)
    ceiling = ceiling_outcome(evidence, found)
    if ceiling is not None:
        rest, outcome = ceiling
        truth = replace(part.table, performance=rest.table.performance[outcome.judged])
        broken = None if rest.broken is None else rest.broken[outcome.judged]
        tasks[outcome.selector] = judged_tasks(rest, outcome, replace(part, table=truth, broken=broken))
    return _Judged(found, tasks, GroupDraws([factor[references[0].judged] for factor in found.groups]))


def _guarded(evidence: Evidence, judged: _Judged, selectors: Mapping[str, SelectorFactory]) -> GuardReport:
    flagged = unfamiliar_tasks(evidence, judged.split)
    tasks = {name: judged.tasks[name] for name in selectors}
    return GuardReport(float(flagged.mean()), guard_figures(tasks, flagged, judged.draws))


def _leaks(
    evidence: Evidence, judged: _Judged, selectors: Mapping[str, SelectorFactory], plan: Plan, clock: Clock
) -> tuple[LeakCheck, ...]:
    """Of who learns from tables, on few splits; none of who is not run here."""
    name = plan.learner
    if not plan.leaks or judged.split.kind not in CHECKED_SPLITS or name not in selectors:
        return ()
    whole = judged.tasks[name].outcome
    return leak_checks(selectors[name], evidence, judged.split, clock=clock, seed=plan.seed, whole=whole)


def _results(judged: _Judged, plan: Plan, *, lossless: bool) -> list[Result]:
    rows = []
    base = judged.tasks.get(plan.focus)
    decisive = next(iter(judged.tasks.values())).decisive
    for name, each in judged.tasks.items():
        # The ceiling knows nothing of tasks with one seed, and less of which tasks are decisive. Where only a lossy
        # method keeps every limit, nothing lossless is to be chosen.
        limited = lossless or name == CEILING
        told = _servable(each.evidence) if limited else np.ones(len(each.gain), dtype=np.bool_)
        for scope in Scope:
            counted = told & decisive if scope is Scope.DECISIVE else told
            against = _Against()
            if base is not None and name != plan.focus and not each.outcome.failure and not base.outcome.failure:
                against = _against(each, base, counted, judged)
            rows.append(
                Result(
                    split=judged.split.kind,
                    selector=name,
                    scope=scope,
                    figures=figures_of(each, counted, judged.draws),
                    against_focus=against.gain,
                    usd_against_focus=against.usd,
                    wilcoxon=against.ranks,
                    fit_s=each.outcome.fit_s,
                    failure=each.outcome.failure,
                    trained_on=plan.trained_on,
                    simulated_by=plan.simulated_by,
                    every_task=plan.every_task,
                    remark=plan.remarks.get(name, ""),
                    lossless=lossless,
                )
            )
    return rows


@dataclass(frozen=True, slots=True)
class _Against:
    """One selector beside the focus; None where no task has the figure of both."""

    gain: Comparison | None = None
    usd: Comparison | None = None
    ranks: WilcoxonResult | None = None


def _against(each: JudgedTasks, base: JudgedTasks, counted: BoolArray, judged: _Judged) -> _Against:
    mine, other = np.where(counted, each.gain, np.nan), np.where(counted, base.gain, np.nan)
    try:
        gain = paired_comparison(mine, other, judged.draws)
    except UndefinedMetricError:
        return _Against()
    ranks = wilcoxon_over_groups(mine, other, judged.split.groups[0][base.outcome.judged])
    paid, base_paid = (np.where(counted, usd_of(tasks), np.nan) for tasks in (each, base))
    try:
        return _Against(gain, paired_saving(paid, base_paid, judged.draws), ranks)
    except UndefinedMetricError:
        return _Against(gain, None, ranks)


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
    # What learns from rows takes some of them, always as many: its curve would be flat from few tasks on.
    learns = plan.learner in selectors
    name = plan.learner if learns else plan.focus
    whole, make = studied.tasks[name].outcome, selectors[name]
    if not whole.failure:
        curve = learning_curve(make, evidence, studied.split, plan.curve_shares, clock=clock, whole=whole)
        report = replace(report, curve=curve)
    if learns and not whole.failure:
        report = replace(report, importance=feature_importance(make, evidence, studied.split, seed=plan.seed))
    return replace(report, studies_s=report.studies_s + clock() - start)
