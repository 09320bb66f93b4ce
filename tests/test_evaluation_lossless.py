"""The figures among methods that cannot change answers: from the same scores, against their own best."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metainf.corpus.task import TrafficKind
from metainf.evaluation import metrics
from metainf.evaluation.lossless import lossless_outcome, lossy_columns, without_lossy
from metainf.evaluation.outcomes import CEILING, DEFAULT, SINGLE_BEST, VIRTUAL_BEST, Evidence, Outcome
from metainf.evaluation.report import KindReport, Plan, Result, Scope, evaluate
from metainf.evaluation.report_files import write_report
from metainf.evaluation.report_text import markdown
from metainf.evaluation.splits import SplitKind, split
from metainf.selectors.contract import MethodTable, choose
from selection_tables import AlwaysDefault, NearestTasks, learnable_table, method_table

PLAIN = learnable_table(240)
METHODS = ("default", "latency", "fp8-weights", "throughput")
TABLE = replace(PLAIN, tasks=replace(PLAIN.tasks, methods=METHODS))
PLAN = Plan("nearest", splits=(SplitKind.MODEL,), most_folds=3, studies=False, leaks=False)


def masked(table: MethodTable) -> MethodTable:
    """The third method neither feasible nor known."""
    lossy = np.arange(4) == 2
    tasks = replace(table.tasks, feasible=table.tasks.feasible & ~lossy)
    return replace(table, tasks=tasks, performance=np.where(lossy, np.nan, table.performance))


def rows(report: KindReport, scope: Scope = Scope.ALL) -> dict[str, Result]:
    return {each.selector: each for each in report.results if each.lossless and each.scope is scope}


@pytest.fixture(scope="module")
def report() -> KindReport:
    seeds = TABLE.performance[:, :, None] * np.ones(4)
    evidence = Evidence(TABLE, performance_by_seed=seeds)
    selectors = {"nearest": NearestTasks, "default-only": AlwaysDefault}
    return evaluate({TrafficKind.BATCH: evidence}, selectors, PLAN, clock=lambda: 0.0).kinds[0]


def test_lossy_methods_are_told_by_their_techniques() -> None:
    names = ("default", "fp8-weights", "fp8-kv", "fp8-weights-mtp", "ngram", "kv-offload", "nobody's")
    assert lossy_columns(names).tolist() == [False, True, True, True, False, False, False]


def test_lossless_rows_are_the_best_of_the_same_scores(report: KindReport) -> None:
    found = split(TABLE.tasks, SplitKind.MODEL, most_folds=3)
    chosen = []
    for fold in found.folds:
        test = masked(TABLE).rows(fold.test).tasks
        chosen.append(choose(test, NearestTasks().fit(TABLE.rows(fold.train)).scores(test)))
    judged = masked(TABLE).rows(np.concatenate([fold.test for fold in found.folds]))
    figures = rows(report)["nearest"].figures
    assert figures.tolerant_accuracy.value == pytest.approx(
        metrics.tolerant_accuracy(judged, np.concatenate(chosen)), abs=1e-12
    )
    assert figures.acceleration_ratio.value == pytest.approx(
        metrics.acceleration_ratio(judged, np.concatenate(chosen)), abs=1e-12
    )


def test_best_and_single_best_are_among_lossless_methods(report: KindReport) -> None:
    found = rows(report)
    assert set(found) == {"nearest", "default-only", DEFAULT, SINGLE_BEST, VIRTUAL_BEST, CEILING}
    assert found[VIRTUAL_BEST].figures.closed_gap.value == 1.0
    assert found[SINGLE_BEST].figures.closed_gap.value == 0.0
    assert found[CEILING].figures.tolerant_accuracy.value == 1.0
    assert 0.5 < found["nearest"].figures.closed_gap.value < 1.0
    every = {each.selector: each for each in report.results if not each.lossless and each.scope is Scope.ALL}
    for name in (VIRTUAL_BEST, "nearest"):
        assert found[name].figures.acceleration_ratio.value < every[name].figures.acceleration_ratio.value
    single = report.single_best["leave-model-out, lossless methods"]
    assert sum(single.values()) == 3 and "fp8-weights" not in single


def test_no_more_tasks_are_decisive_among_lossless_methods(report: KindReport) -> None:
    assert report.lossless_methods == 3
    assert report.lossless_decisive_share == metrics.decisive(masked(TABLE)).mean()
    assert 0.0 < report.lossless_decisive_share <= report.decisive_share


def test_nothing_is_fitted_anew_for_them() -> None:
    fits: list[int] = []

    class Counting(NearestTasks):
        def fit(self, table: MethodTable) -> "Counting":
            fits.append(len(table))
            return super().fit(table)

    found = evaluate({TrafficKind.BATCH: Evidence(TABLE)}, {"nearest": Counting}, PLAN, clock=lambda: 0.0)
    assert len(fits) == 3
    assert rows(found.kinds[0])["nearest"].figures.tasks == len(TABLE)


def test_where_only_a_lossy_method_can_run_nothing_is_chosen() -> None:
    table = method_table([[1.0, 2.0], [np.nan, 2.0]], feasible=[[True, True], [False, True]])
    table = replace(table, tasks=replace(table.tasks, methods=("default", "fp8-kv")))
    allowed = without_lossy(Evidence(table))
    assert allowed is not None
    ones = np.ones(2, dtype=np.intp)
    outcome = Outcome("any", np.arange(2), ones, ones, np.ones((2, 2), dtype=bool))
    scored = replace(outcome, scores=np.array([[0.0, 1.0], [-np.inf, 1.0]]))
    assert lossless_outcome(scored, outcome, allowed.table.tasks).chosen.tolist() == [0, -1]
    failed = replace(outcome, failure="the matrix is singular")
    found = lossless_outcome(failed, outcome, allowed.table.tasks)
    assert (found.failure, found.chosen.tolist()) == ("the matrix is singular", [-1, -1])


def test_tasks_that_only_a_lossy_method_serves_are_left_out_and_counted() -> None:
    hopeless = np.arange(len(TABLE)) % 7 == 0
    broken = hopeless[:, None] & (np.arange(4) != 2)
    evidence = Evidence(TABLE, broken=broken, performance_by_seed=TABLE.performance[:, :, None] * np.ones(4))
    found = evaluate({TrafficKind.BATCH: evidence}, {"nearest": NearestTasks}, PLAN, clock=lambda: 0.0)
    (report,) = found.kinds
    assert report.lossless_left_out == hopeless.sum() > 0
    assert {each.figures.tasks for each in rows(report).values()} == {len(TABLE) - report.lossless_left_out}
    every = {each.figures.tasks for each in report.results if not each.lossless and each.scope is Scope.ALL}
    assert every == {len(TABLE)}
    assert report.lossless_decisive_share == metrics.decisive(masked(TABLE).rows(~hopeless)).mean()
    assert f"{report.lossless_left_out} tasks are left out of these tables" in markdown(found)


def test_where_lossless_methods_serve_nothing_their_tables_are_empty() -> None:
    broken = np.broadcast_to(np.arange(4) != 2, TABLE.performance.shape)
    evidence = {TrafficKind.BATCH: Evidence(TABLE, broken=broken)}
    found = evaluate(evidence, {"nearest": NearestTasks}, PLAN, clock=lambda: 0.0)
    (report,) = found.kinds
    assert report.lossless_left_out == len(TABLE) and np.isnan(report.lossless_decisive_share)
    assert {each.figures.tasks for each in rows(report).values()} == {0}
    assert "240 tasks are left out of these tables" in markdown(found)


def test_where_no_method_is_lossy_there_is_no_second_table(tmp_path: Path) -> None:
    assert without_lossy(Evidence(PLAIN)) is None
    found = evaluate({TrafficKind.BATCH: Evidence(PLAIN)}, {"nearest": NearestTasks}, PLAN, clock=lambda: 0.0)
    assert rows(found.kinds[0]) == {}
    assert "### Decisive tasks, lossless" not in write_report(found, tmp_path)[0].read_text()


def test_a_report_has_both_tables(tmp_path: Path) -> None:
    evidence = {TrafficKind.BATCH: Evidence(TABLE)}
    written = write_report(evaluate(evidence, {"nearest": NearestTasks}, PLAN, clock=lambda: 0.0), tmp_path)
    text = written[0].read_text()
    assert "### Decisive tasks\n" in text and "### Decisive tasks, lossless methods alone\n" in text
    assert "3 of the methods are lossless" in text
    assert "](closed-gap-lossless-batch.png)" in text
    lines = list(csv.DictReader(written[1].read_text().splitlines()))
    gaps = {
        (each["methods"], each["scope"]): each["value"]
        for each in lines
        if (each["selector"], each["figure"]) == ("nearest", "acceleration_ratio")
    }
    assert set(gaps) == {(methods, scope) for methods in ("all", "lossless") for scope in ("decisive", "all")}
    assert gaps["all", "all"] != gaps["lossless", "all"]
