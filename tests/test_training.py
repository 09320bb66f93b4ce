"""From the rows of a corpus to a predictor: what rows teach, what is held out, how sure it is, and the same bytes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distorted_corpus import PREDICTOR, corpus, slower
from metainf.cli import main
from metainf.corpus.build import MANIFEST, TASKS
from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import Task, TrafficKind, twin_groups
from metainf.corpus.task_store import write_tasks
from metainf.errors import InvalidWorkloadError
from metainf.evaluation.calibration import Guarantee
from metainf.evaluation.prices import assumed_usd_per_hour
from metainf.measurements import write_measurements
from metainf.methods import portfolio
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.base_answers import CAPACITY, KNOTS, LATENCIES, MAKESPAN, TARGETS, THROUGHPUT
from metainf.predictors.contract import Question
from metainf.predictors.corrections import Responses
from metainf.predictors.spread import SPECULATION_LOG_SD
from metainf.training.boosting import Growth, grown
from metainf.training.corpus import without
from metainf.training.decisions import CAUTIONS, caution_of, decision_cases, every_case, false_refusals
from metainf.training.held_out import HeldOut, analytical_only, errors, groups_of, held_out, trusted
from metainf.training.rows import TrainingRows, training_rows
from metainf.training.spreads import fit_spread
from metainf.training.train import TrainingPlan, thinned, train, write_artifact
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


def test_a_held_out_group_is_never_learnt_from(rows: TrainingRows) -> None:
    groups = groups_of(rows)[1]
    name = groups[0]
    bent = replace(rows, residual=np.where((groups == name)[rows.lane][:, None], rows.residual + 3.0, rows.residual))
    one, other = (held_out(each, groups, SMALL, seed=0, most_folds=20) for each in (rows, bent))
    inside = groups == name
    np.testing.assert_array_equal(one.residual[inside], other.residual[inside])
    assert not np.array_equal(one.residual[~inside], other.residual[~inside])
    assert held_out(rows, np.full(len(groups), "all"), SMALL, seed=0, most_folds=5) is None


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
    found = trusted(exact, HeldOut(groups, factor * truth, np.zeros((len(groups), 5))))
    assert found[CAPACITY] == pytest.approx(share)


def test_trees_find_what_is_there_and_leave_out_what_is_missing() -> None:
    draw = np.random.default_rng(0)
    inputs, load = draw.normal(size=(3000, 6)), draw.uniform(0, KNOTS - 1, size=3000)
    truth = np.stack([np.sign(inputs[:, 1]) + 0.5 * load, *(inputs[:, 2],) * (len(TARGETS) - 1)], axis=1)
    truth[draw.random(3000) < 0.5, 0] = np.nan
    truth[:, MAKESPAN] = np.nan
    trees = grown(inputs, load, truth, np.ones(3000), Growth(trees=80, learning_rate=0.2, column_share=1.0), seed=0)
    found = trees.at_knots(inputs[:200])
    for knot in range(KNOTS):
        expected = np.sign(inputs[:200, 1]) + 0.5 * np.clip(knot, 0.2, KNOTS - 1.2)
        assert np.median(np.abs(found[:, knot, 0] - expected)) < 0.15
    assert np.median(np.abs(found[:, 0, 1] - inputs[:200, 2])) < 0.15
    assert (found[:, :, MAKESPAN] == 0).all()


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
    assert report.guarantee == Guarantee.NOT_GUARANTEED.value
    assert set(report.decisions["model"]) == {"rate", "batch"}  # the closed loops of this corpus promise nothing
    assert report.decisions["model"]["rate"]["guarantee"] == Guarantee.NOT_GUARANTEED.value
    assert CAUTIONS[0] <= report.caution <= CAUTIONS[1]


def test_a_wider_error_gives_a_wider_spread(rows: TrainingRows) -> None:
    groups = groups_of(rows)[0][rows.lane]
    found = analytical_only(len(rows.questions))
    pure, whole = (errors(rows, found, at_true_utilization=each) for each in (True, False))
    nothing = np.zeros(len(rows))
    near = fit_spread(pure, whole, nothing, groups, nothing)
    doubled = [replace(each, error=2.0 * each.error) for each in (pure, whole)]
    far = fit_spread(*doubled, nothing, groups, nothing)
    assert (far.log_sd[:, CAPACITY] > 1.8 * near.log_sd[:, CAPACITY]).all()
    assert (far.log_sd >= near.log_sd).all()


def test_what_drafts_add_is_no_part_of_the_spread_of_others(rows: TrainingRows) -> None:
    groups = groups_of(rows)[0][rows.lane]
    found = analytical_only(len(rows.questions))
    pure, whole = (errors(rows, found, at_true_utilization=each) for each in (True, False))
    nothing = np.zeros(len(rows))
    draw = np.random.default_rng(0)
    drafting = np.where(draw.random(len(rows.questions)) < 0.4, SPECULATION_LOG_SD, 0.0)[rows.lane]
    shift = (drafting * draw.normal(size=len(rows)))[:, None]
    bent = [replace(each, error=each.error + shift) for each in (pure, whole)]
    plain = fit_spread(pure, whole, nothing, groups, nothing).log_sd[:, CAPACITY]
    told = fit_spread(*bent, nothing, groups, drafting).log_sd[:, CAPACITY]
    untold = fit_spread(*bent, nothing, groups, nothing).log_sd[:, CAPACITY]
    assert (np.abs(np.log(told / plain)) < 0.5 * np.abs(np.log(untold / plain))).all()


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


def test_a_caution_is_of_every_kind_of_choice_and_never_below_one(
    twins: tuple[TrainingRows, pa.Table, dict[str, Task]],
) -> None:
    rows, table, tasks = twins
    found, groups = analytical_only(len(rows.questions)), groups_of(rows)[0]
    each = {kind: every_case(table, tasks, rows, found, sure_spreads, groups=groups, kind=kind) for kind in TrafficKind}
    assert [len(each[kind]) for kind in TrafficKind] == [2, 0, 2], "on its own and among places, where there are limits"
    cases = each[TrafficKind.RATE]
    timid = [replace(case, kept=np.ones_like(case.kept)) for case in cases]
    caution, inflation = caution_of(timid)
    assert inflation.value < 1.0
    assert caution == CAUTIONS[0] == 1.0
    assert false_refusals(timid, 1.0) < false_refusals(timid, 40.0)


def test_equal_corpus_and_seed_give_equal_bytes(tmp_path: Path) -> None:
    table, tasks = corpus()
    plan = TrainingPlan(growth=SMALL, most_folds=2)
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        model, report = train(table, tasks, replace(plan, seed=seed))
        write_artifact(model, report, file, corpus_digest="sha256:0", seed=seed)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != files[2].read_bytes()


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
    (tmp_path / MANIFEST).write_text(f'{{"schema": 4, "plan": {plan}, "made_by": []}}')
    write_tasks(tasks, tmp_path / TASKS)
    write_measurements(table, tmp_path / "rows-distorted-000000.parquet")
    return tmp_path


def test_the_command_writes_a_file_that_the_others_take(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "predictor.metainf"
    command = ["train", "--corpus", str(folder), "--out", str(out), "--trees", "15", "--folds", "2"]
    assert main([*command, "--held-out", "L4-PCIe-24GB"]) == 0
    printed = capsys.readouterr()
    assert "unseen model" in printed.out
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
    assert main([*question, "--predictor", str(out)]) == 1
    assert "install the shipped file again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        pytest.param(["--folds", "1"], "--folds 1", id="one fold"),
        pytest.param(["--trees", "0"], "--trees 0", id="no trees"),
        pytest.param(["--held-out", "nothing"], "no row is about", id="an unknown name"),
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
