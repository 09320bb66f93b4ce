"""The whole evaluation: every selector on every split of every kind of traffic, with its studies, as a value.

Separate from the values themselves (`report_values`), which know nothing of selectors, and from the rows of a split
(`split_results`). A whole evaluation takes longer than a machine may be there: see `fits` for how it goes on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import joblib
import numpy as np

from metainf.corpus.task import TrafficKind
from metainf.evaluation.figures import JudgedTasks
from metainf.evaluation.fits import Fits, Paces
from metainf.evaluation.guarding import guard_figures, unfamiliar_tasks
from metainf.evaluation.kept_files import KeptFiles
from metainf.evaluation.leak_checks import CHECKED_SPLITS, LeakCheck, leak_checks
from metainf.evaluation.lossless import lossless_outcome, lossy_columns, without_lossy
from metainf.evaluation.metrics import acceleration_over
from metainf.evaluation.outcomes import (
    SINGLE_BEST,
    Clock,
    Evidence,
    Outcome,
    SelectorFactory,
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
from metainf.evaluation.split_results import JudgedSplit, held_against, results_of, servable
from metainf.evaluation.splits import Split, SplitKind, split
from metainf.evaluation.studies import feature_importance, learning_curve, worst_failures
from metainf.evaluation.time_limits import OutOfTimeError, TimeLimit

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


def evaluate(
    evidence: Mapping[TrafficKind, Evidence],
    selectors: Mapping[str, SelectorFactory],
    plan: Plan,
    *,
    clock: Clock,
    progress: Callable[[str], None] = lambda _: None,
    jobs: int = 1,
    known: Callable[[Evaluation], None] = lambda _: None,
    kept: KeptFiles | None = None,
    limit: TimeLimit | None = None,
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
    kept : KeptFiles, optional
        Where every fitted fold is looked for first, and kept: an evaluation that was cut off goes on there.
    limit : TimeLimit, optional
        By the clock. What cannot be fitted within it is left out, and the evaluation says what is unfinished.
    """
    start, taken_s = clock(), 0.0
    tools = _Tools(clock, progress, kept, limit, {})
    kinds: dict[TrafficKind, KindReport] = {}
    asked = [each for kind in evidence for each in _asked(kind, evidence[kind], plan, progress)]
    unfinished = [f"{each.kind}, {named_split(each.split.kind, plan)}" for each in asked]

    def so_far(reports: Iterable[KindReport]) -> Evaluation:
        left = tuple(name for name in unfinished if name)
        return Evaluation(plan.focus, tuple(reports), clock() - start + taken_s, left)

    work = ((each, evidence[each.kind], selectors, plan, tools) for each in asked)
    for place, found in enumerate(_each(work, jobs)):
        if found.whole:
            unfinished[place] = ""
        if found.report is not None:
            taken_s += found.taken_s
            before = kinds.get(found.report.kind)
            kinds[found.report.kind] = found.report if before is None else joined_splits(before, found.report)
            known(so_far(kinds.values()))
    spent = dict.fromkeys(selectors, 0.0)
    return so_far(kinds.get(kind) or _Rows(plan).report(kind, evidence[kind], None, spent) for kind in evidence)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A split of a kind of traffic; `first` is the one that is studied."""

    kind: TrafficKind
    split: Split
    first: bool


@dataclass(frozen=True, slots=True)
class _Tools:
    """What a split is judged with beside its selectors: such as can be sent to a process."""

    clock: Clock
    progress: Callable[[str], None]
    kept: KeptFiles | None
    limit: TimeLimit | None
    paces: Paces
    """Of all splits that are judged in one process."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What became of a split: no report where the time was up before every selector was judged."""

    report: KindReport | None = None
    whole: bool = False
    """With its checks and studies."""
    taken_s: float = 0.0
    """Seconds of what was fitted earlier."""


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


def _each(work: Iterable[_Work], jobs: int) -> Iterator[_Found]:
    """What becomes of each split in their order, as soon as it is known."""
    if jobs == 1:
        return (_split_report(*each) for each in work)
    found: Iterator[_Found] = joblib.Parallel(n_jobs=jobs, return_as="generator")(
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

    def add(self, judged: JudgedSplit, *, lossless: bool = False) -> None:
        """The rows of one split."""
        self.results += results_of(judged, self.plan, lossless=lossless)
        fixed = Counter(judged.tasks[SINGLE_BEST].outcome.single_methods)
        named = named_split(judged.split.kind, self.plan)
        self.single_best[f"{named}, {LOSSLESS}" if lossless else named] = dict(fixed.most_common())
        first = next(iter(judged.tasks.values()))
        if lossless:
            counted = first.decisive[servable(first.evidence)]
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
            lossless_left_out=0 if lossless is None else int((~servable(lossless)).sum()),
        )


def _unpriced(evidence: Evidence) -> Mapping[str, int]:
    """Accelerators without a price and their tasks; none where nobody asks for USD."""
    price = evidence.price_usd_per_hour
    if price is None:
        return {}
    return dict(Counter(evidence.table.tasks.accelerator[~np.isfinite(price)].tolist()).most_common())


def _split_report(
    asked: _Asked, evidence: Evidence, selectors: Mapping[str, SelectorFactory], plan: Plan, tools: _Tools
) -> _Found:
    """One kind of traffic on one split, with studies where it is the first."""
    rows, where, clock = _Rows(plan), f"{asked.kind}, {asked.split.kind}: ", tools.clock
    fits = Fits(tools.kept, tools.limit, lambda line: tools.progress(where + line), tools.paces)
    checks, studies = fits.about("leak checks"), fits.about("studies")
    try:
        judged = _judged(evidence, asked.split, selectors, fits, clock)
    except OutOfTimeError as error:
        fits.say(str(error))
        return _Found()
    outcomes = {name: judged.tasks[name].outcome for name in selectors}
    lossless = without_lossy(evidence)
    rows.add(judged)
    if lossless is not None:
        rows.add(_judged_lossless(lossless, judged, selectors), lossless=True)
    rows.guards[asked.split.kind] = _guarded(evidence, judged, selectors)
    whole = True
    try:
        rows.leaks += _leaks(evidence, judged, selectors, plan, clock, checks)
    except OutOfTimeError as error:
        checks.say(str(error))
        whole = False
    rows.leaks_s = checks.spent_s
    spent = {name: outcome.fit_s + outcome.decide_s for name, outcome in outcomes.items()}
    report = rows.report(asked.kind, evidence, lossless, spent)
    if asked.first and plan.focus in selectors and not outcomes[plan.focus].failure:
        report = _described(report, judged.tasks[plan.focus])
        if plan.studies:
            fits.say(f"studies of {plan.focus}")
            report, studied = _studied(report, evidence, judged, selectors, plan, clock=clock, fits=studies)
            whole = whole and studied
    return _Found(report, whole, fits.taken_s + checks.taken_s + studies.taken_s)


def _judged(
    evidence: Evidence, found: Split, selectors: Mapping[str, SelectorFactory], fits: Fits, clock: Clock
) -> JudgedSplit:
    outcomes: dict[str, Outcome] = {}
    for name, make in selectors.items():
        fits.say(name)
        outcomes[name] = run_selector(name, make, evidence, found, clock=clock, fits=fits)
    return held_against(evidence, found, outcomes, reference_outcomes(evidence, found))


def _judged_lossless(evidence: Evidence, judged: JudgedSplit, selectors: Mapping[str, SelectorFactory]) -> JudgedSplit:
    """The same answers held against evidence without lossy methods."""
    references = reference_outcomes(evidence, judged.split)
    tasks = evidence.table.tasks.rows(references[0].judged)
    outcomes = {name: lossless_outcome(judged.tasks[name].outcome, references[0], tasks) for name in selectors}
    return held_against(evidence, judged.split, outcomes, references)


def _guarded(evidence: Evidence, judged: JudgedSplit, selectors: Mapping[str, SelectorFactory]) -> GuardReport:
    flagged = unfamiliar_tasks(evidence, judged.split)
    tasks = {name: judged.tasks[name] for name in selectors}
    return GuardReport(float(flagged.mean()), guard_figures(tasks, flagged, judged.draws))


def _leaks(
    evidence: Evidence,
    judged: JudgedSplit,
    selectors: Mapping[str, SelectorFactory],
    plan: Plan,
    clock: Clock,
    fits: Fits,
) -> tuple[LeakCheck, ...]:
    """Of who learns from tables, on few splits; none of who is not run here."""
    name = plan.learner
    if not plan.leaks or judged.split.kind not in CHECKED_SPLITS or name not in selectors:
        return ()
    whole = judged.tasks[name].outcome
    return leak_checks(selectors[name], evidence, judged.split, clock=clock, seed=plan.seed, whole=whole, fits=fits)


def _described(report: KindReport, focus: JudgedTasks) -> KindReport:
    """With what the focus does in the worst cases, and against serving one request at a time."""
    by_batch = None
    part = focus.evidence
    if part.batch_size is not None and part.one_at_a_time is not None:
        by_batch = acceleration_over(part.table, focus.outcome.chosen, part.one_at_a_time, part.batch_size, part.broken)
    return replace(report, failures=worst_failures(focus), acceleration_by_batch=by_batch)


def _studied(
    report: KindReport,
    evidence: Evidence,
    judged: JudgedSplit,
    selectors: Mapping[str, SelectorFactory],
    plan: Plan,
    *,
    clock: Clock,
    fits: Fits,
) -> tuple[KindReport, bool]:
    """With the learning curve and what matters, and whether there was time for both."""
    # What learns from rows takes some of them, always as many: its curve would be flat from few tasks on.
    learns = plan.learner in selectors
    name = plan.learner if learns else plan.focus
    whole, make, finished = judged.tasks[name].outcome, selectors[name], True
    try:
        if not whole.failure:
            curve = learning_curve(make, evidence, judged.split, plan.curve_shares, clock=clock, whole=whole, fits=fits)
            report = replace(report, curve=curve)
        if learns and not whole.failure:
            found = feature_importance(make, evidence, judged.split, clock=clock, seed=plan.seed, fits=fits)
            report = replace(report, importance=found)
    except OutOfTimeError as error:
        fits.say(str(error))
        finished = False
    return replace(report, studies_s=report.studies_s + fits.spent_s), finished
