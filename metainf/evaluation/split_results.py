"""The selectors of one split held against each other, the references and the ceiling, as rows of tables.

Separate from the report, which says what is run on which split: nothing is fitted here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

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
from metainf.evaluation.metrics import good
from metainf.evaluation.outcomes import CEILING, SINGLE_BEST, Evidence, Outcome, ceiling_outcome
from metainf.evaluation.report_values import Plan, Result, Scope
from metainf.evaluation.splits import Split
from metainf.selectors.contract import BoolArray

__all__ = ["JudgedSplit", "held_against", "results_of", "servable"]


@dataclass(frozen=True, slots=True)
class JudgedSplit:
    """Selectors on one split, all drawn alike."""

    split: Split
    tasks: Mapping[str, JudgedTasks]
    draws: GroupDraws


def servable(evidence: Evidence) -> BoolArray:
    """Shape (n,): tasks on which some method keeps every limit."""
    found: BoolArray = np.any(good(evidence.table, evidence.broken), axis=1)
    return found


def held_against(
    evidence: Evidence, found: Split, outcomes: Mapping[str, Outcome], references: Sequence[Outcome]
) -> JudgedSplit:
    """Outcomes of selectors, the references and the ceiling, judged by the evidence."""
    part = evidence.without_features().rows(references[0].judged)
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
    return JudgedSplit(found, tasks, GroupDraws([factor[references[0].judged] for factor in found.groups]))


def results_of(judged: JudgedSplit, plan: Plan, *, lossless: bool) -> list[Result]:
    """The rows of all of them, on decisive tasks and on all; `lossless` says what the evidence of these was."""
    rows = []
    base = judged.tasks.get(plan.focus)
    decisive = next(iter(judged.tasks.values())).decisive
    for name, each in judged.tasks.items():
        # The ceiling knows nothing of tasks with one seed, and less of which tasks are decisive. Where only a lossy
        # method keeps every limit, nothing lossless is to be chosen.
        limited = lossless or name == CEILING
        told = servable(each.evidence) if limited else np.ones(len(each.gain), dtype=np.bool_)
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


def _against(each: JudgedTasks, base: JudgedTasks, counted: BoolArray, judged: JudgedSplit) -> _Against:
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
