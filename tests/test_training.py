"""From the rows of a corpus to a predictor: what rows teach, what is held out, how sure it is, and the same bytes."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pytest

from distorted_corpus import PREDICTOR, corpus, slower
from measured_row import GPUSTACK_ROW
from metainf.artifact import read_manifest
from metainf.cli import main
from metainf.corpus.build import MANIFEST, TASKS
from metainf.corpus.measured_rows import write_measured
from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import Task, TrafficKind, twin_groups
from metainf.corpus.task_store import write_tasks
from metainf.errors import InvalidWorkloadError
from metainf.evaluation.calibration import CalibrationCase
from metainf.evaluation.prices import assumed_usd_per_hour
from metainf.measurements import table_of, write_measurements
from metainf.meta_features.questions import QuestionFeatures
from metainf.methods import portfolio
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.base_answers import CAPACITY, KNOTS, LATENCIES, MAKESPAN, TARGETS, THROUGHPUT, base_answers
from metainf.predictors.contract import Question
from metainf.predictors.corrections import BATCH, CONCURRENCY, KINDS, RATE, Responses, near_full, width_factors
from metainf.predictors.familiarity import GROUPS
from metainf.predictors.inputs import INPUTS, SHARED, lane_inputs
from metainf.predictors.spread import SPECULATION_LOG_SD
from metainf.training.boosting import Growth, grown
from metainf.training.corpus import without
from metainf.training.decision_pairs import pairs_of
from metainf.training.decisions import CAUTIONS, caution_of, decided, decision_cases, every_case
from metainf.training.held_out import HeldOut, SplitAnswers, analytical_only, groups_of, held_out, trusted
from metainf.training.rows import ALONE, TrainingRows, inputs_of, training_rows
from metainf.training.spreads import CONFIDENCE, Scored, fit_spread, held_out_reach, own_widths, shape_of
from metainf.training.stages import STAGES, grown_in_stages
from metainf.training.step_factors import factor_slopes
from metainf.training.train import CATEGORIES, thinned, train
from metainf.training.widths import fitted_spreads, narrower
from trained_models import PLAN, trained

SMALL = Growth(trees=15, learning_rate=0.3, depth=4)


@pytest.fixture(scope="module")
def rows() -> TrainingRows:
    table, tasks = corpus()
    return training_rows(table, {task.key: task for task in tasks})


def test_residuals_are_what_was_put_in() -> None:
    table, tasks = corpus(1, noise=0.0)
    rows = training_rows(table, {task.key: task for task in tasks})
    factor = np.log([slower(name) for name in rows.accelerator.tolist()])[rows.lane]
    latencies = rows.residual[:, :LATENCIES] - factor[:, None]
    assert np.nanmedian(np.abs(latencies)) < 0.01
    assert np.nanquantile(np.abs(latencies), 0.98) < 0.09  # what the coarser grid is off by near the capacity
    np.testing.assert_allclose(rows.residual[:, CAPACITY][np.isnan(rows.load)], -factor[np.isnan(rows.load)], atol=0.02)
    task = next(task for task in tasks if task.kind is TrafficKind.BATCH)
    makespan = PREDICTOR.predict([Question(replica_of(task, portfolio()[0]), task.traffic)]).makespan_s[0]
    lane = rows.key.index((task.key, "default"))
    row = int(np.flatnonzero(rows.lane == lane)[0])
    assert np.exp(rows.truth[row, MAKESPAN] - rows.residual[row, MAKESPAN]) == pytest.approx(makespan, rel=0.01)


def test_each_kind_of_row_teaches_its_own_targets(rows: TrainingRows) -> None:
    taught = ~np.isnan(rows.residual)
    saturated = np.isnan(rows.load)
    assert taught[saturated, CAPACITY].all()
    assert taught[saturated].sum(axis=1).max() == 1
    is_open = ~np.isnan(rows.utilization)
    assert taught[is_open, :LATENCIES].all()
    assert not taught[is_open][:, [CAPACITY, THROUGHPUT, MAKESPAN]].any()
    batch = taught[:, MAKESPAN]
    assert not taught[batch, THROUGHPUT].any()
    closed = ~saturated & ~is_open & ~batch
    assert taught[closed, THROUGHPUT].all()


def test_clients_deliver_by_littles_law(rows: TrainingRows) -> None:
    closed = ~np.isnan(rows.truth[:, THROUGHPUT])
    mean_e2e = rows.truth[closed, TARGETS.index("e2e_mean")]
    np.testing.assert_allclose(rows.truth[closed, THROUGHPUT] + mean_e2e, np.log(rows.load[closed]))


def test_loads_lie_between_the_knots(rows: TrainingRows) -> None:
    assert (rows.coordinate >= 0).all()
    assert (rows.coordinate <= KNOTS - 1).all()
    order = np.argsort(rows.utilization)
    is_open = ~np.isnan(rows.utilization[order])
    assert (np.diff(rows.coordinate[order][is_open]) >= -1e-9).all()


def test_many_probes_of_one_lane_do_not_count_for_many(rows: TrainingRows) -> None:
    open_lane = rows.lane[~np.isnan(rows.utilization)][0]
    own = (rows.lane == open_lane) & ~np.isnan(rows.load)
    assert rows.weight[own].sum() == pytest.approx(np.sqrt(own.sum()))


def later(rows: TrainingRows, which: np.ndarray) -> TrainingRows:
    """The rows with some of them much slower in truth."""
    more = 3.0 * which[:, None]
    return replace(rows, truth=rows.truth + more, residual=rows.residual + more)


def without_groups(rows: TrainingRows, groups: np.ndarray, most_folds: int = 20) -> HeldOut:
    found = held_out(rows, factor_slopes(rows), groups, SMALL, seed=0, most_folds=most_folds)
    assert found is not None
    return found


def test_a_held_out_group_is_never_learnt_from(rows: TrainingRows) -> None:
    groups = groups_of(rows)[1]
    name = groups[0]
    bent = later(rows, (groups == name)[rows.lane])
    one, other = (without_groups(each, groups) for each in (rows, bent))
    inside = groups == name
    np.testing.assert_array_equal(one.said[:, inside], other.said[:, inside])
    np.testing.assert_array_equal(one.rows.inputs[inside], other.rows.inputs[inside])
    assert not np.array_equal(one.said[:, ~inside], other.said[:, ~inside])
    assert not np.array_equal(one.rows.inputs[~inside], other.rows.inputs[~inside])
    assert held_out(rows, factor_slopes(rows), np.full(len(groups), "all"), SMALL, seed=0, most_folds=5) is None


def test_lanes_are_described_once_and_picked_as_if_they_were_asked_about_anew(rows: TrainingRows) -> None:
    lanes = np.array([7, 2, 7, 40])
    picked, numbers = inputs_of(rows, lanes)
    fresh = lane_inputs(QuestionFeatures(), [rows.questions[lane] for lane in lanes.tolist()])
    assert numbers.tolist() == [2, 7, 40]
    assert lanes[picked.first].tolist() == numbers.tolist()
    answers = []
    for each in (picked, fresh):
        capacity = each.capacity[each.lanes.of]
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            answers.append(base_answers(each.lanes, np.full(4, 1.0), capacity))
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(picked.rows[picked.lanes.of], fresh.rows[fresh.lanes.of], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(picked.lanes.lanes, fresh.lanes.lanes)


def test_twins_of_what_is_held_out_are_not_learnt_from_either(rows: TrainingRows) -> None:
    devices = groups_of(rows)[1]
    held, twin = (int(rows.lane[devices[rows.lane] == name][0]) for name in ("Hopper HBM", "Ampere HBM"))
    numbers = np.full(len(rows.twins), ALONE)
    numbers[[held, twin]] = 0
    bent = later(rows, rows.lane == twin)
    one, other = (without_groups(replace(each, twins=numbers), devices) for each in (rows, bent))
    hopper = devices == devices[held]
    others = ~hopper & (devices != devices[twin])
    np.testing.assert_array_equal(one.said[:, hopper], other.said[:, hopper])
    assert not np.array_equal(one.said[:, others], other.said[:, others])


@pytest.mark.parametrize(
    ("factor", "share"),
    [
        pytest.param(1.0, 1.0, id="as it turned out"),
        pytest.param(2.0, 0.5, id="twice as much"),
        pytest.param(0.5, 1.0, id="half of it"),
        pytest.param(-1.0, 0.0, id="the contrary"),
        pytest.param(0.0, 0.0, id="nothing"),
    ],
)
def test_trusts_as_much_as_held_out_groups_bear_out(rows: TrainingRows, factor: float, share: float) -> None:
    groups = groups_of(rows)[0]
    truth = np.zeros((len(groups), KNOTS, len(TARGETS)))
    truth[:, :, CAPACITY] = 0.1 + np.arange(len(groups))[:, None] / len(groups)
    exact = replace(rows, residual=truth[rows.lane, 0])
    for stage in range(STAGES):
        said = np.zeros((STAGES, *truth.shape))
        said[stage] = factor * truth
        found = trusted(HeldOut(groups, exact, said, np.zeros((len(groups), 5))))
        assert found[stage, CAPACITY] == pytest.approx(share)
        assert found[1 - stage, CAPACITY] == 0.0


def test_a_methods_own_part_is_trusted_by_differences_within_tasks_alone(rows: TrainingRows) -> None:
    groups = groups_of(rows)[0]
    own = np.array([sum(map(ord, method)) % 7 / 7.0 for _, method in rows.key])
    truth = np.zeros((len(groups), KNOTS, len(TARGETS)))
    truth[:, :, CAPACITY] = own[:, None]
    of_task = np.array([sum(map(ord, task)) % 11 for task, _ in rows.key], dtype=np.float64)
    said = np.stack([np.zeros_like(truth), truth + of_task[:, None, None]])  # however wrong of a task as a whole
    exact = replace(rows, residual=truth[rows.lane, 0])
    found = trusted(HeldOut(groups, exact, said, np.zeros((len(groups), len(GROUPS)))))
    assert found[1, CAPACITY] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "most_rows", [pytest.param(200_000, id="by half of the rows"), pytest.param(900, id="by some of very many rows")]
)
def test_trees_find_what_is_there_and_leave_out_what_is_missing(most_rows: int) -> None:
    draw = np.random.default_rng(0)
    inputs, load = draw.normal(size=(3000, 6)), draw.uniform(0, KNOTS - 1, size=3000)
    truth = np.stack([np.sign(inputs[:, 1]) + 0.5 * load, *(inputs[:, 2],) * (len(TARGETS) - 1)], axis=1)
    truth[draw.random(3000) < 0.5, 0] = np.nan
    truth[:, MAKESPAN] = np.nan
    growth = Growth(trees=80, learning_rate=0.2, column_share=1.0, most_rows=most_rows)
    trees = grown(inputs, load, truth, np.ones(3000), growth, seed=0)
    found = trees.at_knots(inputs[:200])
    for knot in range(KNOTS):
        expected = np.sign(inputs[:200, 1]) + 0.5 * np.clip(knot, 0.2, KNOTS - 1.2)
        assert np.median(np.abs(found[:, knot, 0] - expected)) < 0.15
    assert np.median(np.abs(found[:, 0, 1] - inputs[:200, 2])) < 0.15
    assert (found[:, :, MAKESPAN] == 0).all()


def test_what_methods_share_is_said_of_all_of_them_alike_and_the_rest_of_each_by_itself() -> None:
    draw = np.random.default_rng(0)
    tasks, methods, load = 400, 5, np.full(2000, 1.0)
    task, method = np.repeat(np.arange(tasks), methods), np.tile(np.arange(methods), tasks)
    inputs = draw.normal(size=(tasks, len(INPUTS)))[task]
    settings = INPUTS.index("set_budget")
    assert settings not in SHARED
    inputs[:, settings] = method
    shared, own = 2.0 * np.sign(inputs[:, SHARED[0]]), 0.1 * (method == 3)
    noise = draw.normal(size=tasks)[task]  # what nobody knows of a task, all of its methods have
    truth = np.repeat((shared + own + noise)[:, None], len(TARGETS), axis=1)
    growth = Growth(trees=60, learning_rate=0.2)
    staged = grown_in_stages(inputs, task, load, truth, np.ones(2000), growth, seed=0, lane=np.arange(2000))
    common, rest = (each[:, 1, CAPACITY].reshape(tasks, methods) for each in staged.at_knots(inputs))
    assert np.ptp(common, axis=1).max() == 0.0
    assert np.corrcoef(common[:, 0], shared[::methods])[0, 1] > 0.9
    np.testing.assert_allclose(rest.mean(axis=0), 0.1 * (np.arange(methods) == 3) - 0.02, atol=0.01)
    assert rest.std(axis=0).max() < 0.02, "the noise of tasks is not told of methods"
    trust = np.array([[1.0], [0.5]]) * np.ones(len(TARGETS))
    np.testing.assert_allclose(
        staged.trusted(trust).at_knots(inputs)[:, 1, CAPACITY], (common + 0.5 * rest).ravel(), atol=1e-5
    )


def test_how_methods_differ_is_learnt_in_full_from_tasks_that_have_two_of_them() -> None:
    draw = np.random.default_rng(0)
    tasks = 800
    task = np.repeat(np.arange(tasks), 2)
    method = np.stack([np.zeros(tasks, dtype=int), draw.integers(1, 5, size=tasks)], axis=1).ravel()
    inputs = draw.normal(size=(tasks, len(INPUTS)))[task]
    inputs[:, INPUTS.index("set_budget")] = method
    truth = np.repeat((0.1 * method + draw.normal(size=tasks)[task])[:, None], len(TARGETS), axis=1)
    growth, ones = Growth(trees=200, learning_rate=0.2), np.ones(len(task))
    staged = grown_in_stages(inputs, task, ones, truth, ones, growth, seed=0, lane=np.arange(len(task)))
    rest = staged.own.at_knots(inputs)[:, 1, CAPACITY]
    means = np.array([rest[method == each].mean() for each in range(5)])
    # Taken once from the mean of both, a method would seem to differ by half of what it does.
    np.testing.assert_allclose(means - means[0], 0.1 * np.arange(5), atol=0.02)


def test_rows_of_one_lane_need_its_inputs_only_once() -> None:
    draw = np.random.default_rng(0)
    lanes, lane = draw.integers(0, 5, size=(30, 4)).astype(np.float64), np.repeat(np.arange(30), 10)
    load, truth = draw.uniform(0, KNOTS - 1, size=300), draw.normal(size=(300, len(TARGETS)))
    for coordinate in (load, None):
        once = grown(lanes, coordinate, truth, np.ones(300), SMALL, seed=0, lane=lane)
        repeated = grown(lanes[lane], coordinate, truth, np.ones(300), SMALL, seed=0)
        np.testing.assert_array_equal(once.at_knots(lanes), repeated.at_knots(lanes))
        assert once.at_knots(lanes).shape == (30, 1 if coordinate is None else KNOTS, len(TARGETS))


def test_a_single_row_is_learnt_from_without_a_question() -> None:
    truth = np.full((1, len(TARGETS)), 0.3)
    found = grown(np.zeros((1, 6)), np.zeros(1), truth, np.ones(1), Growth(trees=20), seed=0).at_knots(np.zeros((1, 6)))
    assert (found >= 0.0).all() and (found <= 0.3 + 1e-6).all()


def test_intervals_hold_nine_in_ten_of_what_was_held_out() -> None:
    report = trained()[1]
    for split in ("model", "accelerator"):
        coverage = [figures["coverage"] for figures in report.intervals[split].values()]
        assert 0.83 <= np.mean(coverage) <= 0.95


def test_what_was_learnt_holds_for_models_and_generations_that_were_left_out() -> None:
    report = trained()[1]
    for target in ("ttft_p95", "tpot_mean", "e2e_mean", "capacity"):
        assert report.errors["model"][target]["trained"] < 0.5 * report.errors["model"][target]["analytical"]
        assert report.errors["accelerator"][target]["trained"] < report.errors["accelerator"][target]["analytical"]


def test_few_groups_promise_nothing() -> None:
    report = trained()[1]
    assert report.groups["model"] < 9
    assert report.guaranteed is None
    assert set(report.decisions["model"]) == set(KINDS)  # the closed loops promise nothing, but have a budget
    assert report.decisions["model"]["rate"]["guaranteedConfidence"] is None
    assert tuple(report.caution) == CATEGORIES
    for split, kinds in zip(("model", "accelerator"), report.caution.values(), strict=True):
        assert tuple(kinds) == KINDS
        told = {kind: each["caution"] for kind, each in report.decisions[split].items()}
        assert {kind: kinds[kind] for kind in told} == told, "each kind has its own"
        assert all(1.0 <= each <= CAUTIONS[1] for each in kinds.values())


def test_what_nobody_knows_of_a_kind_of_traffic_is_as_careful_as_any() -> None:
    table, tasks = corpus(2)
    some = table.filter([kind != "concurrency" for kind in table.column("kind").to_pylist()])
    report = train(some, tasks, replace(PLAN, growth=SMALL, most_folds=2))[1]
    for split, kinds in zip(("model", "accelerator"), report.caution.values(), strict=True):
        told = {kind: each["caution"] for kind, each in report.decisions[split].items()}
        assert set(told) == {"rate", "batch"}
        assert kinds["concurrency"] == max(1.0, *told.values())


def test_choices_are_judged_where_all_methods_were_measured_and_errors_everywhere() -> None:
    table, tasks = corpus(2)
    small = replace(PLAN, growth=SMALL, most_folds=2)
    half = [task.key for task in tasks if int(task.draws_key, 16) % 2]
    assert 0 < len(half) < len(tasks)
    every, some = (train(table, tasks, small, whole=whole)[1] for whole in (None, half))
    assert some.errors == every.errors
    assert some.intervals == every.intervals
    for split, kinds in every.decisions.items():
        for kind, found in kinds.items():
            assert some.decisions[split][kind]["cases"] < found["cases"]


@pytest.mark.parametrize("kind", TrafficKind)
def test_a_budget_binds_for_some_candidates_and_is_one_for_each_choice(
    rows: TrainingRows, twins: tuple[TrainingRows, pa.Table, dict[str, Task]], kind: TrafficKind
) -> None:
    table, tasks = corpus()
    alone = pairs_of(table, {task.key: task for task in tasks}, rows, kind, None)
    together = pairs_of(twins[1], twins[2], twins[0], kind, groups_of(twins[0])[0])
    for pairs in (alone, together):
        known = np.isfinite(pairs.budget_usd)  # not where the default carries the load under no number of replicas
        assert known.mean() > 0.8 and (known.all() or kind is TrafficKind.RATE)
        over = pairs.usd > pairs.budget_usd[:, None]
        assert over.any() and not over.all()
        assert not pairs.kept[over].any()
        for case in np.unique(pairs.case).tolist():
            assert len(np.unique(pairs.budget_usd[pairs.case == case])) == 1


def test_the_budget_of_clients_is_held_against_what_their_tokens_are_predicted_to_cost(rows: TrainingRows) -> None:
    table, tasks = corpus()
    by_key, found = {task.key: task for task in tasks}, analytical_only(len(rows.questions))
    kind, groups = TrafficKind.CONCURRENCY, groups_of(rows)[0]
    pairs = pairs_of(table, by_key, rows, kind, None)
    case = decision_cases(table, by_key, rows, found, sure_spreads, groups=groups, kind=kind)
    assert case is not None
    questions = [rows.questions[lane] for lane in pairs.lane.tolist()]
    tokens = AnalyticalPredictor().predict(questions).output_tokens_per_second
    room = np.log(pairs.budget_usd / (pairs.usd_per_hour / 3600.0 / tokens * 1e6))
    place = [int((pairs.case[:row] == own).sum()) for row, own in enumerate(pairs.case.tolist())]
    margin = case.margin[pairs.case, place] * 0.1 * NormalDist().inv_cdf(CONFIDENCE)  # the budget is the only limit
    assert np.median(np.abs(margin - room)) < 0.05
    clear = np.abs(room) > 0.2
    assert (np.sign(margin) == np.sign(room))[clear].all()


@pytest.fixture(scope="module")
def scored(rows: TrainingRows) -> Scored:
    """Errors of the analytical model alone, by model families, without drafts."""
    found = Scored.of(rows, analytical_only(len(rows.questions)), groups_of(rows)[0])
    return replace(found, drafting=np.zeros(len(rows)))


def with_errors(scored: Scored, change: Callable[[np.ndarray], np.ndarray]) -> Scored:
    pure, whole = (replace(each, error=change(each.error)) for each in (scored.pure, scored.whole))
    return replace(scored, pure=pure, whole=whole)


def spread_of(scored: Scored) -> np.ndarray:
    return fit_spread(scored, shape_of(scored)).log_sd


def test_a_wider_error_gives_a_wider_spread(scored: Scored) -> None:
    near, far = spread_of(scored), spread_of(with_errors(scored, lambda error: 2.0 * error))
    assert (far[..., CAPACITY] > 1.8 * near[..., CAPACITY]).all()
    assert (far >= near).all()


def test_a_kind_of_traffic_that_is_hard_to_predict_does_not_widen_the_others(scored: Scored) -> None:
    near_all = replace(scored, distance=np.zeros(len(scored.distance)))  # how spreads grow with it is common to kinds
    wider = np.where(scored.kind == CONCURRENCY, 2.0, 1.0)[:, None]
    near, far = spread_of(near_all), spread_of(with_errors(near_all, lambda error: wider * error))
    tpot = TARGETS.index("tpot_p50")
    assert (far[CONCURRENCY, :, tpot] > 1.8 * near[CONCURRENCY, :, tpot]).all()
    others = np.ix_([RATE, BATCH], range(KNOTS), range(LATENCIES))
    np.testing.assert_array_equal(far[others], near[others])


def test_what_drafts_add_is_no_part_of_the_spread_of_others(rows: TrainingRows, scored: Scored) -> None:
    draw = np.random.default_rng(0)
    drafting = np.where(draw.random(len(rows.questions)) < 0.4, SPECULATION_LOG_SD, 0.0)[rows.lane]
    shift = (drafting * draw.normal(size=len(rows)))[:, None]
    bent = with_errors(scored, lambda error: error + shift)
    plain, told, untold = (spread_of(each)[..., CAPACITY] for each in (scored, replace(bent, drafting=drafting), bent))
    assert (np.abs(np.log(told / plain)) < 0.5 * np.abs(np.log(untold / plain))).all()


def test_latencies_are_scaled_beside_the_capacity_as_it_is_scaled_itself(scored: Scored) -> None:
    is_capacity = np.arange(len(TARGETS)) == CAPACITY
    every_fourth = np.cumsum(~np.isnan(scored.whole.error[:, CAPACITY])) % 4 == 0
    rare = np.where(every_fourth, 1.0, 0.02)[:, None]
    bent = with_errors(scored, lambda error: np.where(is_capacity & ~np.isnan(error), rare, error))
    shape = shape_of(bent)
    own, fitted = own_widths(bent, shape), fit_spread(bent, shape)
    assert (fitted.scale[:, CAPACITY] > 1.05).all()
    sd = own * fitted.scale[bent.kind]
    near = near_full(sd[:, CAPACITY], np.minimum(bent.whole.utilization, 1.0))
    sd[:, :LATENCIES] = np.hypot(sd[:, :LATENCIES], near)
    for target in range(LATENCIES):
        for kind in (RATE, CONCURRENCY, BATCH):
            known = ~np.isnan(bent.whole.error[:, target]) & (bent.kind == kind)
            inside = (np.abs(bent.whole.error[known, target]) <= 1.6448536 * sd[known, target]).astype(np.float64)
            weight = bent.balance(known)[known] / bent.balance(known).sum()
            share = float(inside @ weight)
            assert share >= 0.9 - 1e-6
            # Where the capacity alone explains more than nine in ten errors, the least scale is left.
            assert share <= 0.95 + weight.max() or fitted.scale[kind, target] == pytest.approx(0.1)


def hard_lanes(rows: TrainingRows) -> np.ndarray:
    """Those with the longest prompts, which every model and every accelerator has."""
    return np.array([each.traffic.input_tokens.mean_tokens > 2000.0 for each in rows.questions], dtype=np.bool_)


def test_lanes_that_are_hard_to_predict_get_wider_intervals_than_others(rows: TrainingRows) -> None:
    hard = hard_lanes(rows)
    draw = np.random.default_rng(0)
    noise = np.where(hard, 0.8, 0.1)[rows.lane][:, None] * draw.normal(size=rows.truth.shape)
    bent = replace(rows, truth=rows.truth - rows.residual + noise)
    models, devices = groups_of(rows)
    plain = analytical_only(len(rows.questions))
    answers = {"model": SplitAnswers(models, bent, plain), "accelerator": SplitAnswers(devices, bent, plain)}
    found = fitted_spreads(bent, answers, seed=0, most_folds=4)
    assert found.trees is not None
    place = TARGETS.index("tpot_mean")
    assert "tpot_mean" in found.by_features
    final = width_factors(found.trees, rows.inputs)[:, place]
    assert np.median(final[hard]) > 2.0 * np.median(final[~hard])
    for split in found.splits.values():
        factor = split.factor[:, place]
        assert np.median(factor[hard]) > 2.0 * np.median(factor[~hard]), "also by trees that did not see the group"
        without = held_out_reach(split.scored, own_widths(split.scored, shape_of(split.scored)))[:, place]
        easy = ~np.isnan(split.scored.whole.error[:, place]) & ~hard[rows.lane]
        assert np.mean(split.reach[easy, place]) < 0.7 * np.mean(without[easy])
    first, last = (split.spread.log_sd for split in found.splits.values())
    assert (last >= first).all(), "what was never seen is not surer than what was"


@pytest.mark.parametrize(
    ("figures", "better"),
    [
        pytest.param((0.8, 1.2, 0.9), True, id="narrower at the same coverage"),
        pytest.param((0.8, 1.2, 0.895), True, id="and by chance a little less"),
        pytest.param((0.8, 1.2, 0.85), False, id="narrower and covering less"),
        pytest.param((0.8, 1.5, 0.9), False, id="narrower where it should not be"),
        pytest.param((1.0, 1.4, 0.9), False, id="the same"),
        pytest.param((1.2, 1.2, 0.95), False, id="wider"),
        pytest.param((np.nan, np.nan, np.nan), False, id="nothing known"),
    ],
)
def test_widths_by_features_are_kept_where_they_are_narrower(figures: tuple[float, ...], better: bool) -> None:
    assert narrower(np.array([figures]), np.array([(1.0, 1.4, 0.9)])).tolist() == [better]


@pytest.fixture(scope="module")
def twins() -> tuple[TrainingRows, pa.Table, dict[str, Task]]:
    table, tasks = corpus(2, twins=True)
    by_key = {task.key: task for task in tasks}
    return training_rows(table, by_key), table, by_key


def sure_spreads(answer: Responses, distance: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    return np.full((len(lanes), len(TARGETS)), 0.1)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=str(kind)) for kind in (TrafficKind.RATE, TrafficKind.BATCH)])
def test_a_workload_on_several_places_is_one_choice(
    twins: tuple[TrainingRows, pa.Table, dict[str, Task]], kind: TrafficKind
) -> None:
    rows, table, tasks = twins
    models, devices = groups_of(rows)
    found = analytical_only(len(rows.questions))
    asked = [task for task in tasks.values() if task.kind is kind]
    alone, places, near = (
        decision_cases(table, tasks, rows, found, sure_spreads, groups=groups, kind=kind, twins=several)
        for groups, several in ((models, False), (models, True), (devices, True))
    )
    assert len(alone.groups) == len(asked)
    assert len(places.groups) == len({task.model for task in asked})
    candidates = [case.margin.shape[1] for case in (alone, places, near)]
    assert candidates[1] > 4 * candidates[0]
    assert candidates[0] < candidates[2] < candidates[1], "places of one generation"
    assert set(near.groups) < set(devices)  # of generations with several places


def test_the_cheapest_place_is_the_cheapest_for_the_work(twins: tuple[TrainingRows, pa.Table, dict[str, Task]]) -> None:
    rows, table, tasks = twins
    found, groups = analytical_only(len(rows.questions)), groups_of(rows)[0]
    case = decision_cases(table, tasks, rows, found, sure_spreads, groups=groups, kind=TrafficKind.BATCH, twins=True)
    assert case is not None
    predictor = AnalyticalPredictor()
    model = next(task.model for task in tasks.values() if task.kind is TrafficKind.BATCH)
    costs = []
    for task in tasks.values():
        if (task.model, task.kind) == (model, TrafficKind.BATCH):
            usd = assumed_usd_per_hour(task.accelerator) * task.layout.accelerators
            for method in portfolio()[:2]:
                replica = replica_of(task, method)
                if not isinstance(replica, Infeasible):
                    makespan_s = predictor.predict([Question(replica, task.traffic)]).makespan_s[0]
                    costs.append(np.log(usd * makespan_s))
    (row,) = np.flatnonzero(case.groups == dict(zip(rows.model.tolist(), groups.tolist(), strict=True))[model])[:1]
    assert np.sort(case.cost[row][np.isfinite(case.cost[row])]) == pytest.approx(np.sort(costs), abs=0.05)


def test_cases_are_of_every_kind_of_choice(twins: tuple[TrainingRows, pa.Table, dict[str, Task]]) -> None:
    rows, table, tasks = twins
    found, groups = analytical_only(len(rows.questions)), groups_of(rows)[0]
    each = {kind: every_case(table, tasks, rows, found, sure_spreads, groups=groups, kind=kind) for kind in TrafficKind}
    assert [len(each[kind]) for kind in TrafficKind] == [2, 2, 2], "on its own and among places"
    timid = [replace(case, kept=np.ones_like(case.kept)) for case in each[TrafficKind.RATE]]
    caution, inflation = caution_of(timid)
    assert inflation.value == 1.0 == caution, "few groups bear nothing out below"
    assert decided(timid, 1.0).false_refusals < decided(timid, 40.0).false_refusals
    assert decided(timid, 1.0).violations == 0.0


def test_kinds_of_traffic_are_those_of_the_corpus() -> None:
    assert tuple(kind.value for kind in TrafficKind) == KINDS


def far_ones(rows: TrainingRows) -> np.ndarray:
    return np.full(len(rows.questions), 1.5)


def test_where_the_analytical_model_has_a_part_nothing_nearer_than_its_own_spread_is_chosen(
    twins: tuple[TrainingRows, pa.Table, dict[str, Task]],
) -> None:
    rows, table, tasks = twins
    groups = groups_of(rows)[0]
    near = analytical_only(len(rows.questions))
    far = replace(near, distance=far_ones(rows))
    one, other = (
        decision_cases(table, tasks, rows, found, sure_spreads, groups=groups, kind=TrafficKind.RATE)
        for found in (near, far)
    )
    assert one is not None and other is not None
    assert (np.isfinite(one.margin) & (one.margin < 1.0)).any()
    np.testing.assert_array_equal(other.margin, np.where(one.margin < 1.0, -np.inf, one.margin))


def calibration_case(groups: int, broken_below: float) -> CalibrationCase:
    """In each group 100 tasks with one candidate each, from 0.05 to 5 away from its limit; nearer ones break it."""
    margin = np.tile(np.linspace(0.05, 5.0, 100), groups)[:, None]
    names = np.repeat([f"group {number}" for number in range(groups)], 100)
    return CalibrationCase(margin, margin >= broken_below, np.zeros_like(margin), names)


@pytest.mark.parametrize(
    ("groups", "broken_below", "least", "most"),
    [
        pytest.param(20, 0.9, 0.7, 0.9, id="limits that break together -> below 1"),
        pytest.param(20, 0.3, 0.7, 0.7, id="nothing that limits could explain -> the least"),
        pytest.param(20, 3.0, 2.7, 3.0, id="spreads too narrow for the chosen -> wider"),
        pytest.param(20, np.inf, 4.0, 4.0, id="nothing keeps its limits -> the most"),
        pytest.param(5, 0.3, 1.0, 1.0, id="few groups -> not below 1"),
        pytest.param(5, 3.0, 2.7, 3.0, id="few groups -> wider all the same"),
    ],
)
def test_a_caution_is_what_keeps_the_promise_and_below_one_where_that_is_sure(
    groups: int, broken_below: float, least: float, most: float
) -> None:
    case = calibration_case(groups, broken_below)
    caution, inflation = caution_of([case])
    assert least <= caution <= most
    if np.isfinite(inflation.value):
        assert decided([case], caution).violations <= 0.1


def test_groups_that_refuse_everything_are_no_reason_for_less_caution() -> None:
    case = calibration_case(20, 0.8)
    margin = np.where((case.groups == "group 0")[:, None], case.margin, -np.inf)
    kept = np.arange(len(margin))[:, None] % 2 == 0
    caution, inflation = caution_of([replace(case, margin=margin, kept=kept)])
    assert inflation.value == np.inf
    assert caution == CAUTIONS[1]


TRAINED_ALONE = """
import sys
from pathlib import Path

from distorted_corpus import corpus
from metainf.training.boosting import Growth
from metainf.training.train import TrainingPlan, train, write_artifact

file, seed = Path(sys.argv[1]), int(sys.argv[2])
growth = Growth(trees=15, learning_rate=0.3, depth=4)
model, report = train(*corpus(), TrainingPlan(seed=seed, growth=growth, most_folds=2))
write_artifact(model, report, file, corpus_digest="sha256:0", world="own", seed=seed)
"""


def trained_alone(file: Path, *, seed: int, hash_seed: int) -> bytes:
    """The artifact that a process of its own trains on one thread, with its own order of sets and of hashes."""
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    own = {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", TRAINED_ALONE, str(file), str(seed)],
        env={**os.environ, **one_thread, **own},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return file.read_bytes()


def test_equal_corpus_and_seed_give_equal_bytes_in_processes_of_their_own(tmp_path: Path) -> None:
    first = trained_alone(tmp_path / "first", seed=0, hash_seed=1)
    assert trained_alone(tmp_path / "second", seed=0, hash_seed=2) == first
    assert trained_alone(tmp_path / "other seed", seed=1, hash_seed=1) != first


def test_too_many_lanes_leave_out_whole_tasks() -> None:
    table, tasks = corpus()
    _, report = train(table, tasks, replace(PLAN, growth=SMALL, most_folds=2, most_lanes=100))
    assert report.tasks < len(tasks)
    assert report.lanes < 200


def test_twins_are_left_out_together(twins: tuple[TrainingRows, pa.Table, dict[str, Task]]) -> None:
    _, table, tasks = twins
    kept = set(thinned(table, tasks, 40).column("task").to_pylist())
    assert 0 < len(kept) < len(tasks) / 2
    for group in twin_groups(list(tasks.values())):
        assert len({task.key for task in group} & kept) in (0, len(group))


def test_where_all_tasks_are_twins_no_place_can_be_held_out(
    rows: TrainingRows, twins: tuple[TrainingRows, pa.Table, dict[str, Task]]
) -> None:
    together, _, tasks = twins
    assert (rows.twins == ALONE).all()
    numbers = {task: int(number) for (task, _), number in zip(together.key, together.twins, strict=True)}
    for group in twin_groups(list(tasks.values())):
        known = {numbers[task.key] for task in group if task.key in numbers}
        assert len(known) == 1
        assert ALONE not in known
    models, devices = groups_of(together)
    slopes = factor_slopes(together)
    assert held_out(together, slopes, devices, SMALL, seed=0, most_folds=5) is None
    assert held_out(together, slopes, models, SMALL, seed=0, most_folds=2) is not None


def test_nothing_to_learn_from_is_said() -> None:
    table, tasks = corpus()
    with pytest.raises(InvalidWorkloadError, match="there are none"):
        train(table.slice(0, 0), tasks, PLAN)
    with pytest.raises(InvalidWorkloadError, match="there are none"):
        train(table, (), PLAN)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        pytest.param("H100-SXM-80GB", "accelerator", id="an accelerator"),
        pytest.param("Hopper HBM", "accelerator", id="a generation"),
        pytest.param("openai/gpt-oss-20b", "model", id="a model"),
        pytest.param("qwen/qwen3", "model", id="a family"),
    ],
)
def test_held_out_names_leave_their_rows_out(name: str, column: str) -> None:
    table, _ = corpus()
    left = without(table, [name])
    assert 0 < left.num_rows < table.num_rows
    before, after = (set(each.column(column).to_pylist()) for each in (table, left))
    assert {each for each in before - after if name.split("-")[0].lower() in each.lower()} or name == "Hopper HBM"
    with pytest.raises(InvalidWorkloadError, match="no row is about"):
        without(table, ["nothing"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus's folder as the builder leaves it."""
    table, tasks = corpus()
    plan = '{"tasks": 1, "seed": 0, "worlds": ["distorted@1"]}'
    (tmp_path / MANIFEST).write_text(f'{{"schema": 5, "plan": {plan}, "made_by": []}}')
    write_tasks(tasks, tmp_path / TASKS)
    write_measurements(table, tmp_path / "rows-distorted-000000.parquet")
    return tmp_path


def test_the_command_writes_a_file_that_the_others_take(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "predictor.metainf"
    command = ["train", "--corpus", str(folder), "--out", str(out), "--trees", "15", "--folds", "2"]
    assert main([*command, "--held-out", "L4-PCIe-24GB", "--world", "distorted"]) == 0
    assert read_manifest(out).provenance.world == "distorted"
    printed = capsys.readouterr()
    assert "unseen model" in printed.out
    assert "FALSELY" in printed.out
    assert "widths by features: " in printed.out
    assert "sha256:" in printed.out
    assert "fitting all rows" in printed.err
    question = [
        *("predict", "--model", "meta-llama/Llama-3.1-8B-Instruct", "--accelerator", "H100-SXM-80GB", "--count", "1"),
        *("--concurrency", "8", "--input-tokens", "500", "--output-tokens", "100"),
    ]
    answers = []
    for predictor in ("analytical", str(out)):
        assert main([*question, "--predictor", predictor]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] != answers[1]
    out.write_bytes(b"nonsense")
    assert main([*question, "--predictor", str(out)]) == 2
    assert "install the shipped file again" in capsys.readouterr().err


def test_the_command_learns_what_servers_take_beside_their_kernels(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [replace(GPUSTACK_ROW, accelerator=name) for name in ("H100-SXM-80GB", "A100-SXM-80GB")]
    (file,) = write_measured(table_of(rows), folder / "measured")
    out, measured = folder / "predictor.metainf", folder / "measured" / file.file_name
    command = ["train", "--corpus", str(folder), "--out", str(out), "--trees", "15", "--folds", "2"]
    assert main([*command, "--measured", str(measured)]) == 0
    printed = capsys.readouterr()
    assert "GENERATION OUT" in printed.out
    assert "fitting what servers take" in printed.err
    figures = read_manifest(out).provenance.metrics["servers"]["figures"]
    assert figures["gpustack"]["throughput"]["rows"] == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        pytest.param(["--measured", "nothing.csv"], "--measured nothing.csv: there is no such file", id="no rows"),
        pytest.param(["--folds", "1"], "--folds 1", id="one fold"),
        pytest.param(["--trees", "0"], "--trees 0", id="no trees"),
        pytest.param(["--most-lanes", "0"], "--most-lanes 0", id="nothing to learn from"),
        pytest.param(["--held-out", "nothing"], "no row is about", id="an unknown name"),
        pytest.param(["--world", "nothing"], "the corpus has own, distorted", id="an unknown world"),
    ],
)
def test_the_command_refuses(folder: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--corpus", str(folder), "--out", str(folder / "x"), *more]) == 2
    assert says in capsys.readouterr().err


def test_the_command_needs_a_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--corpus", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_damaged_default_is_said_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "predictor.metainf"
    damaged.write_bytes(b"nonsense")
    monkeypatch.setattr("metainf.predictors.default.SHIPPED", damaged)
    question = [
        *("predict", "--model", "meta-llama/Llama-3.1-8B-Instruct", "--accelerator", "H100-SXM-80GB", "--count", "1"),
        *("--concurrency", "8", "--input-tokens", "500", "--output-tokens", "100"),
    ]
    assert main(question) == 0
    assert "predicting analytically instead" in capsys.readouterr().err
