import csv
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf.corpus.repeats import over_seeds
from metainf.corpus.task import TrafficKind
from metainf.evaluation import metrics
from metainf.evaluation.bootstrap import GroupDraws, Interval
from metainf.evaluation.figures import FIGURE_TITLES, figures_of, judged_tasks
from metainf.evaluation.groups import model_groups
from metainf.evaluation.guarding import guard_figures, unfamiliar_tasks
from metainf.evaluation.leak_checks import leak_checks
from metainf.evaluation.leaks import with_ids_only, with_shuffled_labels, without_physics
from metainf.evaluation.outcomes import CEILING, VIRTUAL_BEST, Evidence, Outcome, ceiling_outcome, run_selector
from metainf.evaluation.plots import ForestRow, forest_plot, published_plot, save
from metainf.evaluation.published import PublishedPoint
from metainf.evaluation.report import Evaluation, Plan, Result, Scope, evaluate, with_all_tasks, with_simulations
from metainf.evaluation.report_files import write_report
from metainf.evaluation.report_text import markdown
from metainf.evaluation.simulated import SIMULATOR_PAIRS, with_simulated
from metainf.evaluation.splits import SplitKind, split
from metainf.evaluation.studies import feature_importance, learning_curve, worst_failures
from metainf.methods import Reading
from metainf.selectors.contract import MethodTable, TaskTable
from selection_tables import (
    ACCELERATORS,
    MODELS,
    AlwaysDefault,
    Broken,
    NearestTasks,
    learnable_table,
    method_table,
)

TABLE = learnable_table(240)


def ticks() -> "itertools.count[int]":
    return itertools.count()


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    rng = np.random.default_rng(1)
    evidence = Evidence(
        TABLE,
        price_usd_per_hour=np.full(len(TABLE), 3.6),
        batch_size=np.where(np.arange(len(TABLE)) % 2, 4.0, 64.0),
        one_at_a_time=3,
        performance_by_seed=TABLE.performance[:, :, None] * np.exp(rng.normal(0, 0.01, (*TABLE.performance.shape, 4))),
    )
    selectors = {"default-only": AlwaysDefault, "broken": Broken, "nearest": NearestTasks}
    clock = ticks()
    return evaluate(
        {TrafficKind.BATCH: evidence}, selectors, Plan("nearest", most_folds=4), clock=lambda: float(next(clock))
    )


def results(evaluation: Evaluation, kind: SplitKind, scope: Scope = Scope.DECISIVE) -> Mapping[str, Result]:
    return {r.selector: r for r in evaluation.kinds[0].results if r.split is kind and r.scope is scope}


def test_a_selector_that_learns_stands_between_single_and_virtual_best(evaluation: Evaluation) -> None:
    found = results(evaluation, SplitKind.MODEL)
    gap = {name: result.figures.closed_gap.value for name, result in found.items() if not result.failure}
    assert gap["vllm-default"] < gap["single-best"] == 0.0 < 0.5 < gap["nearest"] < gap[VIRTUAL_BEST] == 1.0
    assert gap["default-only"] == gap["vllm-default"]
    assert found["nearest"].figures.usd_ratio.value < 0.8
    assert found["nearest"].figures.total_usd.value < found["vllm-default"].figures.total_usd.value
    assert found["nearest"].figures.acceleration_ratio.low > 1.2


def test_every_selector_is_on_every_split_and_in_both_scopes(evaluation: Evaluation) -> None:
    names = {"default-only", "broken", "nearest", "vllm-default", "single-best", VIRTUAL_BEST, CEILING}
    for kind in SplitKind:
        for scope in Scope:
            assert set(results(evaluation, kind, scope)) == names


def test_a_selector_that_cannot_be_fitted_says_why_and_stops_nobody(evaluation: Evaluation) -> None:
    found = results(evaluation, SplitKind.RANDOM)["broken"]
    assert found.failure == "the matrix is singular"
    assert np.isnan(found.figures.tolerant_accuracy.value)


def test_others_are_compared_with_the_focus_in_pairs(evaluation: Evaluation) -> None:
    found = results(evaluation, SplitKind.MODEL)
    assert found["nearest"].against_focus is None
    worse, bound = found["default-only"].against_focus, found[VIRTUAL_BEST].against_focus
    assert worse is not None and worse.difference.high < 0.0 and worse.confidence == 0.0
    assert bound is not None and bound.confidence == 1.0
    dearer, cheapest = found["default-only"].usd_against_focus, found[VIRTUAL_BEST].usd_against_focus
    assert found["nearest"].usd_against_focus is None
    assert dearer is not None and dearer.difference.high < 0.0 and dearer.confidence == 0.0
    assert cheapest is not None and cheapest.difference.low > 0.0 and cheapest.confidence == 1.0
    ratio = found["default-only"].figures.total_usd.value / found["nearest"].figures.total_usd.value
    assert dearer.difference.value == pytest.approx(1.0 - ratio)


def test_usd_is_compared_only_where_there_are_prices() -> None:
    found = evaluate(
        {TrafficKind.BATCH: Evidence(TABLE)},
        {"default-only": AlwaysDefault, "nearest": NearestTasks},
        Plan("nearest", splits=(SplitKind.MODEL,), most_folds=2, studies=False),
        clock=lambda: 0.0,
    )
    (first, *_) = found.kinds[0].results
    assert first.selector == "default-only"
    assert first.against_focus is not None and first.usd_against_focus is None


def test_usd_say_how_many_tasks_they_are_of_and_what_is_left_out() -> None:
    priceless = ACCELERATORS[1]
    price = np.where(TABLE.tasks.accelerator == priceless, np.nan, 3.6)
    plan = Plan("nearest", splits=(SplitKind.MODEL,), most_folds=3, studies=False, leaks=False)
    evidence = {TrafficKind.BATCH: Evidence(TABLE, price_usd_per_hour=price)}
    found = evaluate(evidence, {"nearest": NearestTasks}, plan, clock=lambda: 0.0)
    left_out = int(np.isnan(price).sum())
    assert found.kinds[0].unpriced == {priceless: left_out}
    rows = {each.selector: each.figures for each in found.kinds[0].results if each.scope is Scope.ALL}
    assert rows["nearest"].priced_tasks == len(TABLE) - left_out < rows["nearest"].tasks
    usd = rows["vllm-default"].total_usd
    assert usd.value == pytest.approx(metrics.total_usd(TABLE, metrics.default_choice(TABLE), price))
    assert usd.low < usd.value < usd.high
    text = markdown(found)
    assert f"{len(TABLE) - left_out:,} of {len(TABLE):,} tasks" in text and f"{priceless} ({left_out})" in text


def test_usd_are_what_choices_truly_cost_and_limits_that_break_are_counted_beside_them() -> None:
    # The default is over its budget; so is one pick that is a fifth dearer than it; another delivers nothing.
    table = method_table([[6.0, 5.0, 12.0, 0.0]] * 4)
    broken = np.tile([True, True, False, False], (4, 1))
    chosen = np.array([1, 2, 0, 3], dtype=np.intp)
    outcome = Outcome("any", np.arange(4), chosen, np.full(4, 2), np.ones((4, 4), dtype=bool))
    judged = judged_tasks(Evidence(table, broken, price_usd_per_hour=np.full(4, 3600.0)), outcome)
    found = figures_of(judged, np.ones(4, dtype=bool), GroupDraws([table.tasks.model]))
    usd = 1 / 5 + 1 / 12 + 1 / 6 + 10 / 6
    assert found.total_usd.value == pytest.approx(usd)
    assert found.usd_ratio.value == pytest.approx(usd / (4 / 6))
    assert found.violation_rate.value == 0.75


def test_a_report_says_who_surely_beats_the_focus(written: tuple[Path, ...]) -> None:
    text = written[0].read_text()
    assert "Surely better than nearest (paired draws of groups, 95 %): in closed gap nobody of 3 rows; in USD" in text
    plan = Plan("default-only", splits=(SplitKind.MODEL,), most_folds=3, studies=False)
    evidence = {TrafficKind.BATCH: Evidence(TABLE, price_usd_per_hour=np.full(len(TABLE), 3.6))}
    beaten = evaluate(evidence, {"default-only": AlwaysDefault, "nearest": NearestTasks}, plan, clock=lambda: 0.0)
    told = markdown(beaten)
    assert "in closed gap nearest (leave-model-out)" in told
    assert "in USD nearest (leave-model-out)" in told
    assert VIRTUAL_BEST not in next(line for line in told.splitlines() if line.startswith("Surely better"))


def test_noise_between_seeds_makes_the_ceiling(evaluation: Evaluation) -> None:
    ceiling = results(evaluation, SplitKind.MODEL)[CEILING].figures
    assert 0.95 < ceiling.closed_gap.value <= 1.0
    assert ceiling_outcome(Evidence(TABLE), split(TABLE.tasks, SplitKind.MODEL)) is None


def test_studies_are_of_the_focus(evaluation: Evaluation) -> None:
    report = evaluation.kinds[0]
    assert report.importance[0].feature == "feature_0"
    assert [point.share for point in report.curve] == sorted(point.share for point in report.curve)
    assert report.failures == tuple(sorted(report.failures, key=lambda each: -each.regret))
    assert [check.split for check in report.leaks] == [SplitKind.MODEL] * 2 + [SplitKind.ACCELERATOR] * 2
    assert all(check.passed for check in report.leaks), [check.note for check in report.leaks]
    assert report.acceleration_by_batch is not None and list(report.acceleration_by_batch) == [4.0, 64.0]
    assert 0.5 < report.decisive_share < 1.0
    assert report.spent_s["nearest"] > 0


def test_a_guard_is_judged_on_every_split_and_selector_with_choices(evaluation: Evaluation) -> None:
    guards = evaluation.kinds[0].guards
    assert set(guards) == set(SplitKind)
    found = {each.selector: each for each in guards[SplitKind.MODEL].figures}
    assert set(found) == {"default-only", "nearest"}
    assert found["default-only"].to_default.value == found["default-only"].without.value
    assert found["nearest"].without.value < found["default-only"].without.value


def test_a_guard_changes_what_it_flags_and_nothing_else() -> None:
    found = split(TABLE.tasks, SplitKind.MODEL, most_folds=3)
    evidence = Evidence(TABLE)
    judged = judged_tasks(evidence, run_selector("nearest", NearestTasks, evidence, found, clock=lambda: 0.0))
    draws = GroupDraws([found.groups[0][judged.outcome.judged]])
    everything, nothing = np.ones(len(TABLE), dtype=bool), np.zeros(len(TABLE), dtype=bool)
    (quiet,) = guard_figures({"nearest": judged}, nothing, draws)
    assert quiet.without.value == quiet.to_physics.value == quiet.to_default.value
    assert np.isnan(quiet.flagged_without.value)
    (loud,) = guard_figures({"nearest": judged}, everything, draws)
    default = metrics.regret(TABLE, metrics.default_choice(TABLE)).mean
    assert loud.to_default.value == loud.flagged_to_default.value == pytest.approx(default)
    assert unfamiliar_tasks(evidence, found).mean() < 0.1


def test_simulations_become_features_of_pairs() -> None:
    said = np.log(TABLE.performance) + 3.0
    wider = with_simulated(TABLE, lambda tasks: said).tasks
    assert wider.pair_feature_names[-2:] == SIMULATOR_PAIRS
    np.testing.assert_allclose(wider.pair_features[:, :, -2], said)
    np.testing.assert_allclose(wider.pair_features[:, :, -1], said - said[:, :1])


@pytest.fixture(scope="module")
def written(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return write_report(shortened(evaluation), tmp_path_factory.mktemp("report") / "not" / "there")


def shortened(evaluation: Evaluation) -> Evaluation:
    """One split, since drawing takes longest."""
    (report,) = evaluation.kinds
    kept = tuple(each for each in report.results if each.split is SplitKind.MODEL)
    return replace(evaluation, kinds=(replace(report, results=kept),))


def test_report_is_written_whole(written: tuple[Path, ...], evaluation: Evaluation) -> None:
    assert all(path.stat().st_size > 0 for path in written)
    assert {path.suffix for path in written} == {".md", ".csv", ".json", ".png", ".svg"}
    text = written[0].read_text()
    assert [name for name, _ in results(evaluation, SplitKind.MODEL)["nearest"].figures.named()] == list(FIGURE_TITLES)
    for part in ("Decisive tasks", "All tasks", "not comparable", "0.898", "Learning curve", "Worst failures"):
        assert part in text
    for path in written:
        assert path.suffix != ".png" or f"]({path.name})" in text
    assert "](figures-leave-model-out-" in text, "what has no picture of its own is in one for each split"
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| leave-")}
    assert len(widths) == 3  # figures, the guard's, and leak checks
    assert "with and without a guard" in text
    # What nobody would see from the figures: by hand, by nature, and of too few groups.
    for part in ("fixed by hand", "they name a method wherever one is feasible", "5, and a guarantee at 90% over"):
        assert part in text


def test_tables_for_programs_hold_the_same_figures(written: tuple[Path, ...], evaluation: Evaluation) -> None:
    rows = list(csv.DictReader(written[1].read_text().splitlines()))
    gap = next(r for r in rows if (r["selector"], r["figure"], r["scope"]) == ("nearest", "closed_gap", "decisive"))
    expected = results(evaluation, SplitKind.MODEL)["nearest"].figures.closed_gap
    assert (float(gap["low"]), float(gap["value"]), float(gap["high"])) == pytest.approx(
        (expected.low, expected.value, expected.high), rel=1e-5
    )
    saved = next(r for r in rows if (r["selector"], r["figure"]) == ("default-only", "usd_saved_over_focus"))
    assert float(saved["high"]) < 0.0
    document = json.loads(written[2].read_text())
    assert document["focus"] == "nearest"
    assert {each["kind"] for each in document["kinds"]} == {"batch"}


def test_the_same_evaluation_gives_the_same_bytes(
    written: tuple[Path, ...], evaluation: Evaluation, tmp_path: Path
) -> None:
    for one, other in zip(written, write_report(shortened(evaluation), tmp_path), strict=True):
        assert one.read_bytes() == other.read_bytes()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), methods=st.integers(2, 5))
def test_pooled_figures_are_the_metrics(seed: int, methods: int) -> None:
    rng = np.random.default_rng(seed)
    performance = rng.lognormal(0.0, 0.3, size=(40, methods))
    performance[rng.uniform(size=performance.shape) < 0.1] = np.nan
    table = method_table(performance)
    broken = rng.uniform(size=performance.shape) < 0.1
    chosen = rng.integers(-1, methods, size=40).astype(np.intp)
    single = np.full(40, 1, dtype=np.intp)
    classes = metrics.class_labels(table, broken)
    members = np.broadcast_to(np.isin(np.arange(methods), classes), performance.shape)
    outcome = Outcome("any", np.arange(40), chosen, single, members)
    judged = judged_tasks(Evidence(table, broken), outcome)
    found = figures_of(judged, np.ones(40, dtype=bool), GroupDraws([table.tasks.model]))
    lost = metrics.regret(table, chosen, broken)
    assert found.tolerant_accuracy.value == pytest.approx(metrics.tolerant_accuracy(table, chosen, broken))
    assert found.strict_accuracy.value == pytest.approx(metrics.strict_accuracy(table, chosen, broken))
    assert found.macro_f1.value == pytest.approx(metrics.macro_f1(table, chosen, classes, broken))
    assert found.acceleration_ratio.value == pytest.approx(metrics.acceleration_ratio(table, chosen, broken))
    assert found.closed_gap.value == pytest.approx(metrics.closed_gap(table, chosen, 1, broken))
    assert (found.regret_mean.value, found.regret_p95.value) == pytest.approx((lost.mean, lost.p95))
    assert found.violation_rate.value == pytest.approx(metrics.violation_rate(table, chosen, broken))
    assert found.false_refusal_rate.value == pytest.approx(metrics.false_refusal_rate(table, chosen, broken))


def test_train_rows_alone_reach_a_selector() -> None:
    seen: list[TaskTable] = []

    class Watching(AlwaysDefault):
        def fit(self, table: MethodTable) -> "Watching":
            seen.append(table.tasks)
            return self

    found = split(TABLE.tasks, SplitKind.MODEL)
    run_selector("watching", Watching, Evidence(TABLE), found, clock=lambda: 0.0)
    assert [len(tasks) for tasks in seen] == [len(fold.train) for fold in found.folds]
    for tasks, fold in zip(seen, found.folds, strict=True):
        assert not set(tasks.model.tolist()) & set(TABLE.tasks.model[fold.test].tolist())


@pytest.mark.parametrize(
    "scores",
    [
        pytest.param(np.zeros((3, 3)), id="another shape"),
        pytest.param(np.full((1, 4), np.nan), id="not a number"),
    ],
)
def test_scores_that_break_the_contract_are_a_failure(scores: np.ndarray) -> None:
    class Wrong(AlwaysDefault):
        def scores(self, tasks: TaskTable) -> np.ndarray:
            return scores if scores.shape[1] == 3 else np.broadcast_to(scores, tasks.feasible.shape)

    found = run_selector("wrong", Wrong, Evidence(TABLE), split(TABLE.tasks, SplitKind.MODEL), clock=lambda: 0.0)
    assert "scores must be" in found.failure


class Memorising(NearestTasks):
    """Leaks on purpose: it knows the truth of every task of the whole table."""

    def fit(self, table: MethodTable) -> "Memorising":
        super().fit(TABLE)
        return self


def test_leak_checks_pass_an_honest_selector_and_catch_a_leak() -> None:
    found = split(TABLE.tasks, SplitKind.MODEL)
    honest = leak_checks(NearestTasks, Evidence(TABLE), found, clock=lambda: 0.0)
    assert [check.passed for check in honest] == [True, True]
    told = "which these groups do not tell from 0" in honest[0].note
    low, high = (float(end) for end in re.findall(r"\((\S+) to (\S+)\)", honest[0].note)[0])
    assert told is (low <= 0.0 <= high)
    leaking = leak_checks(Memorising, Evidence(TABLE), found, clock=lambda: 0.0)
    assert not leaking[0].passed


def best_by_workload(tasks: int = 480) -> MethodTable:
    """The workload's name decides which method is best, and its features are noise."""
    rng = np.random.default_rng(3)
    workload = rng.integers(0, 4, size=tasks)
    gain = rng.normal(0.0, 0.03, size=(tasks, 4)) + 0.5 * (workload[:, None] == np.arange(4))
    return method_table(
        np.exp(gain),
        features=rng.uniform(size=(tasks, 3)),
        model=rng.choice(MODELS, tasks).tolist(),
        accelerator=rng.choice(ACCELERATORS, tasks).tolist(),
        workload=[f"workload-{each}" for each in workload.tolist()],
    )


def test_a_selector_that_wins_by_ids_is_caught() -> None:
    table = best_by_workload()
    _, ids = leak_checks(NearestTasks, Evidence(table), split(table.tasks, SplitKind.MODEL), clock=lambda: 0.0)
    assert (ids.name, ids.passed) == ("ids alone do not win", False)
    assert "with ids alone" in ids.note


def test_ids_that_say_as_much_as_features_do_not_win() -> None:
    found = split(TABLE.tasks, SplitKind.MODEL)
    _, ids = leak_checks(AlwaysDefault, Evidence(TABLE), found, clock=lambda: 0.0)
    assert ids.passed
    assert "which these groups do not tell from 0" in ids.note


def test_leak_checks_look_at_the_first_folds_and_fit_nothing_that_is_known() -> None:
    found, fits = split(TABLE.tasks, SplitKind.MODEL), []

    class Counting(NearestTasks):
        def fit(self, table: MethodTable) -> "Counting":
            fits.append(len(table))
            return super().fit(table)

    whole = run_selector("nearest", NearestTasks, Evidence(TABLE), found, clock=lambda: 0.0)
    given = leak_checks(Counting, Evidence(TABLE), found, clock=lambda: 0.0, whole=whole, most_folds=3)
    assert len(fits) == (3 + 1) * 3  # labels shuffled thrice, and ids alone, in three folds
    assert given == leak_checks(NearestTasks, Evidence(TABLE), found, clock=lambda: 0.0, most_folds=3)


def test_splits_in_processes_of_their_own_give_the_same_report() -> None:
    plan = Plan("nearest", splits=(SplitKind.MODEL, SplitKind.RANDOM), most_folds=2, studies=False)
    evidence = {TrafficKind.BATCH: Evidence(TABLE)}
    known: list[Evaluation] = []
    makers = {"nearest": NearestTasks}
    one, two = (evaluate(evidence, makers, plan, clock=float, jobs=jobs, known=known.append) for jobs in (1, 2))
    assert markdown(one) == markdown(two)
    assert [len({row.split for row in each.kinds[0].results}) for each in known] == [1, 2, 1, 2]


def test_a_leak_check_that_could_not_be_run_has_not_passed() -> None:
    checks = leak_checks(Broken, Evidence(TABLE), split(TABLE.tasks, SplitKind.MODEL), clock=lambda: 0.0)
    assert [(each.passed, each.note) for each in checks] == [(False, "could not be run: the matrix is singular")] * 2


def test_a_column_of_ids_means_the_same_in_every_table() -> None:
    few, other = TABLE.rows(TABLE.tasks.model == MODELS[2]), TABLE.rows(TABLE.tasks.model != MODELS[0])
    bare, beside = with_ids_only(few, [other.tasks]).tasks, with_ids_only(other, [few.tasks]).tasks
    assert bare.feature_names == beside.feature_names
    same = np.flatnonzero(other.tasks.model == MODELS[2])
    np.testing.assert_array_equal(bare.features, beside.features[same])


def test_shuffled_labels_keep_what_is_true_of_methods_alone() -> None:
    table = replace(TABLE, performance=np.where(np.arange(len(TABLE))[:, None] % 7 == 3, np.nan, TABLE.performance))
    shuffled = with_shuffled_labels(table, 0)
    assert (np.isnan(shuffled.performance) == np.isnan(table.performance)).all()
    assert (shuffled.performance[:, 0] == table.performance[:, 0])[~np.isnan(table.performance[:, 0])].all()
    assert not np.allclose(shuffled.performance, table.performance, equal_nan=True)
    for name in (table, shuffled):
        gains = np.sort(name.performance / name.performance[:, [0]], axis=0)
        assert gains == pytest.approx(np.sort(table.performance / table.performance[:, [0]], axis=0), nan_ok=True)
    assert metrics.single_best(shuffled.rows(~np.isnan(table.performance[:, 0]))) == metrics.single_best(
        table.rows(~np.isnan(table.performance[:, 0]))
    )


def test_shuffled_labels_shuffle_failures_too() -> None:
    failing = TABLE.performance.copy()
    failing[:60, 2] = 0.0
    shuffled = with_shuffled_labels(replace(TABLE, performance=failing), 0).performance
    assert (shuffled == 0.0).sum() == 60
    assert 0 < (shuffled[:60, 2] == 0.0).sum() < 40


def test_ids_alone_say_nothing_of_what_a_task_is() -> None:
    bare = with_ids_only(TABLE).tasks
    assert set(np.unique(bare.features).tolist()) == {0.0, 1.0}
    assert bare.features.shape == (len(TABLE), len(bare.feature_names))
    assert (bare.analytical == 0.0).all() and (bare.pair_features == 0.0).all()
    infeasible = method_table([[1.0, np.nan]], feasible=[[True, False]])
    assert np.isnan(without_physics(infeasible).tasks.analytical).tolist() == [[False, True]]


def test_less_to_learn_from_is_whole_groups_less() -> None:
    found = split(TABLE.tasks, SplitKind.MODEL)
    points = learning_curve(NearestTasks, Evidence(TABLE), found, (0.2, 0.2, 0.6, 1.0), clock=lambda: 0.0)
    assert [point.share for point in points] == [0.2, 0.6, 1.0]
    sizes = [point.train_tasks for point in points]
    assert sizes == sorted(sizes)
    assert points[0].closed_gap.value < points[-1].closed_gap.value


def test_importance_finds_the_feature_that_decides() -> None:
    found = feature_importance(NearestTasks, Evidence(TABLE), split(TABLE.tasks, SplitKind.MODEL), clock=lambda: 0.0)
    assert found[0].feature == "feature_0"
    assert found[0].lost_gain > 5 * max(abs(each.lost_gain) for each in found[1:])
    physics = next(each for each in found if each.feature.endswith("physics"))
    assert physics.lost_gain == 0.0


def test_failures_name_what_was_chosen_and_what_was_best() -> None:
    table = method_table([[1.0, 2.0], [1.0, 4.0], [2.0, 1.0]])
    chosen = np.array([0, -1, 0], dtype=np.intp)
    outcome = Outcome("any", np.arange(3), chosen, chosen, np.ones((3, 2), dtype=bool))
    first, second = worst_failures(judged_tasks(Evidence(table), outcome))
    assert (first.chosen, first.best, first.regret) == ("refused", "method-1", pytest.approx(0.75))
    assert (second.chosen, second.regret) == ("default", pytest.approx(0.5))


def test_pictures_leave_out_what_has_no_figure_and_mark_what_is_beyond(tmp_path: Path) -> None:
    rows = [
        ForestRow("a", "one", Interval(0.5, 0.4, 0.6)),
        ForestRow("a", "two", Interval(-7.0, -9.0, -5.0)),
        ForestRow("a", "three", Interval(np.nan, np.nan, np.nan)),
    ]
    figure = forest_plot(rows, "title", "axis", focus="one", bounds=(-1.0, 1.0))
    axe = figure.axes[0]
    assert [label.get_text() for label in axe.get_yticklabels()] == ["two", "one"]
    assert [text.get_text() for text in axe.texts] == ["-7"]
    assert [path.suffix for path in save(figure, tmp_path, "forest")] == [".png", ".svg"]


def test_published_figure_has_both_readings_and_rings_the_best(tmp_path: Path) -> None:
    points = [
        PublishedPoint(reading, row, size, 100.0 * size ** (0.9 + 0.02 * place))
        for reading in Reading
        for place, row in enumerate(("prefix caching", "chunked prefill", "continuous batching", "all combined"))
        for size in (1.0, 4.0, 16.0, 64.0)
    ]
    figure = published_plot(points, "Llama-3.1-8B", "output tokens/s")
    titles = [axe.get_title() for axe in figure.axes]
    assert titles == ["each alone, over one request at a time", "each on continuous batching"]
    rings = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    assert list(rings[-1].get_xdata()) == [1.0, 4.0, 16.0, 64.0]
    save(figure, tmp_path, "published")


def test_a_report_says_what_the_single_best_was(evaluation: Evaluation, written: tuple[Path, ...]) -> None:
    fixed = evaluation.kinds[0].single_best
    assert set(fixed) == {str(kind) for kind in SplitKind}
    found = split(TABLE.tasks, SplitKind.MODEL, most_folds=4)
    names = [TABLE.tasks.methods[metrics.single_best(TABLE.rows(fold.train))] for fold in found.folds]
    assert fixed["leave-model-out"] == {name: names.count(name) for name in names}
    for name, count in fixed["leave-model-out"].items():
        assert f"{name} in {count} of 4 folds" in written[0].read_text()


def test_rows_over_simulated_tasks_stand_beside_the_others(evaluation: Evaluation, tmp_path: Path) -> None:
    some = Evidence(TABLE.rows(np.arange(0, len(TABLE), 2)))
    plan = Plan("nearest", splits=(SplitKind.MODEL,), most_folds=3, studies=False, simulated_by="roofline")
    other = evaluate({TrafficKind.BATCH: some}, {"nearest": NearestTasks}, plan, clock=lambda: 0.0)
    both = with_simulations(evaluation, other, "roofline").kinds[0]
    assert both.results[: len(evaluation.kinds[0].results)] == evaluation.kinds[0].results
    added = both.results[len(evaluation.kinds[0].results) :]
    assert {each.split_name for each in added} == {"leave-model-out, simulated by roofline"}
    assert {each.figures.tasks for each in added if each.scope is Scope.ALL} == {120}
    assert both.simulated_tasks == {"roofline": 120}
    assert both.tasks == len(TABLE)
    assert both.leaks == evaluation.kinds[0].leaks


def test_rows_over_all_tasks_stand_beside_those_that_compare_all_selectors(evaluation: Evaluation) -> None:
    plan = Plan("nearest", splits=(SplitKind.MODEL,), most_folds=3, studies=False, every_task=True)
    more = {TrafficKind.BATCH: Evidence(learnable_table(300))}
    whole = evaluate(more, {"nearest": NearestTasks}, plan, clock=lambda: 0.0)
    both = with_all_tasks(evaluation, whole).kinds[0]
    added = both.results[len(evaluation.kinds[0].results) :]
    assert {each.split_name for each in added} == {"leave-model-out, all tasks"}
    assert {each.figures.tasks for each in added if each.scope is Scope.ALL} == {300}
    assert (both.every_task, both.tasks) == (300, len(TABLE))
    assert "leave-model-out, all tasks" in both.single_best
    assert '"All tasks" are 300' in markdown(replace(evaluation, kinds=(both,)))


def test_selectors_of_one_split_share_the_tasks_that_they_are_judged_on() -> None:
    evidence, found = Evidence(TABLE), split(TABLE.tasks, SplitKind.MODEL, most_folds=3)
    outcome = run_selector("nearest", NearestTasks, evidence, found, clock=lambda: 0.0)
    part = evidence.rows(outcome.judged)
    shared, own = judged_tasks(evidence, outcome, part), judged_tasks(evidence, outcome)
    assert shared.evidence is part
    np.testing.assert_array_equal(shared.gain, own.gain)
    np.testing.assert_array_equal(shared.decisive, own.decisive)


def test_the_ceiling_takes_failures_for_what_they_are() -> None:
    # One method fails under every other seed: whoever chose it by the others is told so.
    seeds = np.array([[[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 2.0, 0.0]]] * 6)
    evidence = Evidence(method_table(over_seeds(seeds)), performance_by_seed=seeds)
    found = ceiling_outcome(evidence, split(evidence.table.tasks, SplitKind.RANDOM, most_folds=2))
    assert found is not None
    rest, outcome = found
    assert (outcome.chosen == 1).all()
    assert metrics.violation_rate(rest.table.rows(outcome.judged), outcome.chosen) == 1.0


def test_the_ceiling_is_over_tasks_with_several_seeds() -> None:
    # Half of the tasks have one seed; of the others the first two seeds name another best than the last.
    seeds = np.full((8, 2, 3), np.nan)
    seeds[:, :, 0] = [1.0, 2.0]
    seeds[::2, :, 1] = [4.0, 1.0]
    seeds[::2, :, 2] = [1.0, 2.0]
    table = method_table(np.tile([1.0, 2.0], (8, 1)))
    evidence = Evidence(table, performance_by_seed=seeds)
    report = evaluate(
        {TrafficKind.BATCH: evidence},
        {"default-only": AlwaysDefault},
        Plan("default-only", splits=(SplitKind.RANDOM,), studies=False),
        clock=lambda: 0.0,
    )
    found = {(each.selector, each.scope): each.figures for each in report.kinds[0].results}
    for scope in Scope:
        assert (found[CEILING, scope].tasks, found["default-only", scope].tasks) == (4, 8)
        assert found[CEILING, scope].tolerant_accuracy.value == 0.0
        assert found[CEILING, scope].acceleration_ratio.value == pytest.approx(0.25)
        assert found[CEILING, scope].violation_rate.value == found[CEILING, scope].false_refusal_rate.value == 0.0


def test_selectors_learn_which_methods_break_limits_as_the_single_best_is_fixed_by_it() -> None:
    broken = np.broadcast_to(np.arange(4) == 3, TABLE.performance.shape)
    found, seen = split(TABLE.tasks, SplitKind.MODEL, most_folds=3), []

    class Watching(NearestTasks):
        def fit(self, table: MethodTable) -> "Watching":
            seen.append(table)
            return super().fit(table)

    for evidence in (Evidence(TABLE, broken), Evidence(TABLE, learnt=replace(TABLE, broken=broken))):
        outcome = run_selector("watching", Watching, evidence, found, clock=lambda: 0.0)
        assert not (outcome.single == 3).any() and not outcome.classes[:, 3].any()
        assert all(table.broken is not None and table.broken[:, 3].all() for table in seen)
        seen.clear()


def test_shuffled_labels_shuffle_what_is_broken_with_them() -> None:
    broken = np.zeros(TABLE.performance.shape, dtype=bool)
    broken[:60, 2] = True
    shuffled = with_shuffled_labels(replace(TABLE, broken=broken), 0).broken
    assert shuffled is not None
    assert shuffled.sum() == 60 and 0 < shuffled[:60, 2].sum() < 40


def test_selectors_learn_from_one_world_and_are_judged_by_another() -> None:
    other = replace(TABLE, performance=TABLE.performance[:, ::-1])
    evidence = Evidence(TABLE, learnt=other)
    found = split(TABLE.tasks, SplitKind.MODEL)
    seen: list[MethodTable] = []

    class Watching(NearestTasks):
        def fit(self, table: MethodTable) -> "Watching":
            seen.append(table)
            return super().fit(table)

    within = run_selector("nearest", NearestTasks, Evidence(TABLE), found, clock=lambda: 0.0)
    across = run_selector("nearest", Watching, evidence, found, clock=lambda: 0.0)
    assert (within.judged == across.judged).all()
    assert (across.chosen == 3 - within.chosen).mean() > 0.9
    for table, fold in zip(seen, found.folds, strict=True):
        assert (table.performance == other.performance[fold.train]).all()
    fixed = [metrics.single_best(other.rows(fold.train)) for fold in found.folds]
    assert across.single.tolist() == np.repeat(fixed, [len(fold.test) for fold in found.folds]).tolist()
    assert judged_tasks(evidence, across).gain.mean() < 0.0 < judged_tasks(evidence, within).gain.mean()


def test_all_tasks_of_another_world_teach_but_those_of_held_out_groups() -> None:
    few = TABLE.rows(np.arange(0, len(TABLE), 6))
    evidence, seen = Evidence(few, learnt=TABLE), []
    named = model_groups(MODELS)
    groups = np.array([named[each] for each in TABLE.tasks.model.tolist()])

    class Watching(NearestTasks):
        def fit(self, table: MethodTable) -> "Watching":
            seen.append(table.tasks)
            return super().fit(table)

    found = split(few.tasks, SplitKind.MODEL, taught=TABLE.tasks, most_folds=3)
    run_selector("nearest", Watching, evidence, found, clock=lambda: 0.0)
    for tasks, fold in zip(seen, found.folds, strict=True):
        held = set(groups[::6][fold.test].tolist())
        assert len(tasks) == sum(group not in held for group in groups.tolist())
    plan = Plan("nearest", splits=(SplitKind.MODEL, SplitKind.RANDOM), most_folds=3, trained_on="world:0")
    report = evaluate({TrafficKind.BATCH: evidence}, {"nearest": NearestTasks}, plan, clock=lambda: 0.0).kinds[0]
    assert (report.tasks, report.taught_tasks) == (len(few), len(TABLE))
    assert report.curve[-1].train_tasks > 2 * len(few)
    accuracy = {each.split: each.figures for each in report.results if each.selector == "nearest"}
    assert accuracy[SplitKind.MODEL].tolerant_accuracy.value > 0.6


def test_a_report_says_which_world_was_learnt_from(tmp_path: Path) -> None:
    evidence = Evidence(TABLE, learnt=TABLE)
    plan = Plan("nearest", splits=(SplitKind.MODEL, SplitKind.RANDOM), most_folds=3, trained_on="world:0")
    found = evaluate({TrafficKind.BATCH: evidence}, {"nearest": NearestTasks}, plan, clock=lambda: 0.0)
    assert all(check.passed for check in found.kinds[0].leaks)
    written = write_report(found, tmp_path)
    text = written[0].read_text()
    assert "| leave-model-out, trained on world:0 | **nearest** |" in text
    assert "| random, trained on world:0 (flatters) |" in text
    assert "leave-model-out, trained on world:0" in written[1].read_text()


def test_features_and_leaks_are_of_the_selector_that_is_named_and_the_rest_of_the_focus() -> None:
    plan = Plan("default-only", splits=(SplitKind.MODEL,), most_folds=3, studied="nearest")
    makers = {"default-only": AlwaysDefault, "nearest": NearestTasks}
    report = evaluate({TrafficKind.BATCH: Evidence(TABLE)}, makers, plan, clock=lambda: 0.0)
    (found,) = report.kinds
    assert found.studied == "nearest" and found.importance[0].feature == "feature_0"
    assert {each.chosen for each in found.failures} == {"default"}
    text = markdown(report)
    assert "Leak checks of nearest" in text and "What matters to nearest" in text
    assert "Learning curve of nearest" in text and "Worst failures of default-only" in text
    assert found.curve[-1].closed_gap.value > found.curve[0].closed_gap.value
    assert "default-only is not checked for leaks by refitting" in text
    plan = replace(plan, studied="")
    (nobody,) = evaluate({TrafficKind.BATCH: Evidence(TABLE)}, makers, plan, clock=lambda: 0.0).kinds
    assert (nobody.studied, nobody.importance, nobody.leaks) == ("", (), ()) and nobody.curve


def test_a_report_says_which_row_is_what_ships_and_which_is_not() -> None:
    makers = {"metainf-ensemble": NearestTasks, "metainf": NearestTasks}
    plan = Plan("metainf", splits=(SplitKind.MODEL,), most_folds=3, studies=False)
    text = markdown(evaluate({TrafficKind.BATCH: Evidence(TABLE)}, makers, plan, clock=lambda: 0.0))
    assert "| leave-model-out | **metainf** (what ships, exported and reloaded) |" in text
    assert "| leave-model-out | metainf-ensemble (LightGBM ensemble, does not ship) |" in text
    told = markdown(
        evaluate(
            {TrafficKind.BATCH: Evidence(TABLE)},
            makers,
            replace(plan, remarks={"metainf": "at most 7 pairs, 2 folds"}),
            clock=lambda: 0.0,
        )
    )
    assert "**metainf** (what ships, exported and reloaded; at most 7 pairs, 2 folds) |" in told


def test_the_single_best_of_a_report_is_the_zero_of_the_closed_gap() -> None:
    found = evaluate(
        {TrafficKind.BATCH: Evidence(TABLE)},
        {"single-best": AlwaysDefault, "default-only": AlwaysDefault},
        Plan("default-only", splits=(SplitKind.MODEL,), studies=False),
        clock=lambda: 0.0,
    )
    gaps = {each.selector: each.figures.closed_gap.value for each in found.kinds[0].results}
    assert gaps["single-best"] == 0.0 != gaps["default-only"]
