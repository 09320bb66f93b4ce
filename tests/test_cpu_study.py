"""The judge of a study, on tables that a made-up machine measured: they say nothing about vLLM."""

import argparse
import re
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from corpus_stub import built
from metainf.bench.calibration import calibrated_from, write_calibration
from metainf.bench.design import BenchLoad, BenchPlan, BenchTask, crossed
from metainf.bench.ledger import opened
from metainf.bench.records import Outcome
from metainf.bench.rows import write_tables
from metainf.corpus.task import TrafficKind
from metainf.efficiencies import efficiency_of
from metainf.evaluation import metrics
from metainf.evaluation.groups import accelerator_group
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.selectors.catalogue import SELECTORS
from metainf.simulator import simulate
from metainf.simulator.builder import engine_model
from metainf.step_times.roofline import roofline_step_times
from test_bench_calibration import exact
from test_bench_report import figures, record
from test_bench_running import MACHINE

NAN = np.nan
METHODS = ("default", "no-prefix-caching", "static-prefix-caching", "ngram")
PLAN = BenchPlan(
    crossed(["dense-7m", "dense-53m", "latent-57m"], ["shared", "decode"], ["c4", "b16"]),
    METHODS,
    3,
    server_arguments=("--max-model-len", "2048", "--kv-cache-memory-bytes", "256M"),
)


@pytest.fixture(scope="module")
def judge():
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    import cpu_study
    import cpu_study_guesses
    import cpu_study_learners
    import cpu_study_loads
    import cpu_study_picks
    import cpu_study_rows

    yield argparse.Namespace(
        study=cpu_study,
        guesses=cpu_study_guesses,
        learners=cpu_study_learners,
        loads=cpu_study_loads,
        picks=cpu_study_picks,
        rows=cpu_study_rows,
    )
    sys.path.pop(0)


def measured(out, crashes=lambda run: False):
    """No prefix cache takes twice as long where prefixes are shared, one request at a time three times."""
    with opened(out, PLAN, MACHINE) as ledger:
        for run in PLAN.runs:
            if crashes(run):
                ledger.add(record(run, 1.0, Outcome.CRASHED))
                continue
            slow = 3.0 if run.method.startswith("static") else 1.0
            if run.method == "no-prefix-caching" and run.task.traffic == "shared":
                slow = 2.0
            requests = BenchLoad.parse(run.task.load).requests
            seconds = 0.1 * requests * slow * (1.0 + 0.001 * run.repeat)
            ledger.add(replace(record(run, seconds), figures=figures(seconds, requests)))
        write_tables(ledger, out / "tables")
    return out / "tables"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def truth(judge, folder):
    return judge.rows.read_study(folder).truths[TrafficKind.CONCURRENCY]


def test_reads_what_was_measured_as_questions_with_their_truth(truth):
    names = [method.name for method in truth.methods]

    assert len(truth.tasks) == 6
    assert {names[column] for _, column in truth.questions} == set(METHODS)
    ratio = truth.performance[:, names.index("no-prefix-caching")] / truth.performance[:, names.index("default")]
    shared = np.array([task.traffic.shared_prefix is not None for task in truth.tasks])
    assert ratio[shared] == pytest.approx(0.5) and ratio[~shared] == pytest.approx(1.0)
    replica = truth.questions[0, names.index("default")].replica
    assert (replica.settings.max_model_len, replica.settings.kv_cache_memory_bytes) == (2048, 256 << 20)
    assert replica.accelerator.cpu.cores == 2


def test_the_judged_table_is_one_that_selectors_take(judge, folder):
    table = judge.rows.read_study(folder).truths[TrafficKind.BATCH].table()

    assert np.isfinite(table.tasks.features).all()
    assert table.tasks.feasible.sum() == 6 * len(METHODS)
    assert np.isfinite(table.tasks.analytical[table.tasks.feasible]).all()
    assert metrics.regret(table, metrics.virtual_best(table)).mean == 0.0


def test_constants_that_are_fitted_come_nearer_to_a_model_that_they_have_not_seen(judge, folder):
    """The truth is the predictor's own under other constants: what could be found is known."""
    study = judge.rows.read_study(folder)
    usual = efficiency_of(study.accelerator.generation, cpu=True)
    secret = replace(usual, host_s=3.0 * usual.host_s, layer_s=2.0 * usual.layer_s, matrix=0.5 * usual.matrix)
    truths = [
        replace(truth, figures=judge.guesses.predicted(truth, AnalyticalPredictor(secret))[1])
        for truth in study.truths.values()
    ]
    found = judge.guesses.fitted(truths, usual, without="dense-53m")

    def error(efficiency):
        guess = judge.guesses.predicted(truths[0], AnalyticalPredictor(efficiency))[1]
        logs = np.log(guess / truths[0].figures)[truths[0].model == "dense-53m"]
        return np.nanmedian(np.abs(logs))

    assert error(secret) == 0.0
    assert error(found) < 0.3 * error(usual)


def test_picks_are_judged_by_what_they_lose(judge, truth):
    table = truth.table()
    static = np.full(len(table), table.tasks.methods.index("static-prefix-caching"), dtype=np.intp)
    best, worst = (judge.picks.line("x", "-", table, chosen) for chosen in (metrics.virtual_best(table), static))

    assert (best.right.count, best.right.of, best.regret.value) == (6, 6, 0.0)
    assert (best.right.interval.low, best.right.interval.high) == (1.0, 1.0)
    assert (worst.right.count, worst.right.of, worst.decisive.of) == (0, 6, 0)
    assert worst.regret.value == pytest.approx(2 / 3, rel=1e-4)
    assert worst.acceleration == pytest.approx(1 / 3, rel=1e-4)


@pytest.mark.parametrize(
    ("predicted", "picked"),
    [
        pytest.param({"default": 1.0, "ngram": 1.015}, "default", id="within 2 % -> the simpler"),
        pytest.param({"default": 1.0, "ngram": 1.05}, "ngram", id="beyond -> the better"),
        pytest.param({"no-prefix-caching": 1.1, "ngram": 1.1}, "ngram", id="equally simple -> by name"),
        pytest.param({"default": 1.0, "static-prefix-caching": 9.0}, "default", id="experimental -> not considered"),
        pytest.param({"default": 1.0, "ngram": NAN}, "default", id="nothing predicted -> not picked"),
        pytest.param({}, None, id="nothing at all"),
    ],
)
def test_picks_as_the_operator_ranks(judge, truth, predicted, picked):
    table = judge.picks.considered(truth.table(), truth.methods)
    performance = np.full(table.performance.shape, NAN)
    for name, value in predicted.items():
        performance[:, table.tasks.methods.index(name)] = value
    chosen = judge.picks.operator_choice(table.tasks, performance, is_batch=False)

    assert {None if column < 0 else table.tasks.methods[column] for column in chosen.tolist()} == {picked}


def test_a_method_that_crashed_once_does_not_win_and_costs_who_picks_it(judge, tmp_path):
    folder = measured(
        tmp_path, lambda run: run.method == "ngram" and run.repeat == 1 and run.task.key == "dense-53m/decode/c4"
    )
    truth = judge.rows.read_study(folder).truths[TrafficKind.CONCURRENCY]
    table = truth.table()
    ngram = table.tasks.methods.index("ngram")
    crashed = table.performance[:, ngram] == 0.0
    line = judge.picks.line("x", "-", table.rows(crashed), np.array([ngram], dtype=np.intp))

    assert truth.unfinished == ("dense-53m/decode/c4 ngram",)
    assert crashed.tolist() == [task.key == "dense-53m/decode/c4" for task in truth.sent]
    assert table.tasks.feasible[crashed, ngram].all()  # nobody knew before
    assert (line.right.count, line.right.of) == (0, 1)
    assert line.regret.value == pytest.approx(0.9, rel=1e-3)
    assert line.acceleration == pytest.approx(0.1, rel=1e-3)


def test_a_task_without_its_default_is_left_out_by_name(judge, tmp_path):
    folder = measured(tmp_path, lambda run: run.method == "default" and run.task.key == "dense-7m/shared/b16")
    study = judge.rows.read_study(folder)

    assert study.left_out == ("dense-7m/shared/b16",)
    assert {kind: len(truth.tasks) for kind, truth in study.truths.items()} == {
        TrafficKind.CONCURRENCY: 6,
        TrafficKind.BATCH: 5,
    }


@pytest.mark.parametrize(
    ("load", "clients", "hits"),
    [
        pytest.param("c1", 1, 2, id="six in turn over four prefixes"),
        pytest.param("b4", 0, 0, id="four of a batch, each with its own"),
        pytest.param("b16", 0, 12, id="sixteen of a batch"),
    ],
)
def test_the_simulator_meets_what_a_bench_sends(judge, truth, load, clients, hits):
    replica = truth.questions[0, truth.default].replica
    requests = judge.loads.sent_requests(BenchTask("dense-7m", "shared", load), 7)
    steps = roofline_step_times(replica, efficiency_of("Emerald Rapids", cpu=True))
    result = simulate(engine_model(replica), steps, requests)

    assert (len(requests.arrival_s), requests.clients) == (BenchLoad.parse(load).requests, clients)
    assert set(requests.input_tokens.tolist()) == {576} and set(requests.output_tokens.tolist()) == {24}
    assert result.cached_tokens.sum() == hits * 512


def test_the_simulator_answers_every_question_and_sees_what_the_prefix_cache_saves(judge, truth):
    usual = efficiency_of("Emerald Rapids", cpu=True)
    performance, found = judge.guesses.simulated(truth, lambda model: usual)
    asked = np.zeros(performance.shape, dtype=np.bool_)
    asked[tuple(zip(*truth.questions, strict=True))] = True

    assert (np.isfinite(performance) == asked).all() and (np.isfinite(found).all(axis=2) == asked).all()
    shared = np.array([task.traffic == "shared" for task in truth.sent])
    names = [method.name for method in truth.methods]
    ratio = performance[:, names.index("no-prefix-caching")] / performance[:, names.index("default")]
    assert (ratio[shared] < 1.0).all() and ratio[~shared] == pytest.approx(1.0)


def test_selectors_learn_from_other_models_and_from_a_corpus(judge, truth):
    table = truth.table()
    one = table.tasks.model == "dense-7m"
    found = list(judge.learners.learners(table.rows(one), ["nearest-neighbour"], table.rows(~one)))

    assert [(each.name, each.rows) for each in found] == [
        ("nearest-neighbour", "left out"),
        ("nearest-neighbour", "in"),
    ]
    picked = [each.picks(table.tasks.rows(one)) for each in found]
    assert all(table.tasks.feasible[one][np.arange(2), columns].all() for columns in picked)
    assert picked[0].tolist() == picked[1].tolist()  # no rows of other models came with these


def test_a_selector_without_rows_of_other_models_says_so(judge, truth):
    table = truth.table()
    (found,) = judge.learners.learners(table.rows(table.tasks.model == "dense-7m"), ["metainf-ensemble"], None)

    assert not found.by_model and "needs a task" in found.why_not


def test_a_corpus_comes_with_the_columns_of_the_study_and_without_cpus(judge, folder, tmp_path):
    built(tmp_path)
    like = {kind: truth.table().tasks for kind, truth in judge.rows.read_study(folder).truths.items()}
    found = judge.learners.corpus_tables(tmp_path, like, world=None, most_tasks=None)

    assert found and set(found) <= set(like)
    for kind, table in found.items():
        assert table.tasks.methods == like[kind].methods
        assert table.tasks.feature_names == like[kind].feature_names
        assert "CPU" not in {accelerator_group(name) for name in table.tasks.accelerator.tolist()}


ADDED = ("isac", "random-forest-classifier", "gradient-boosting-classifier", "metainf-ensemble")


@pytest.fixture(scope="module")
def page(judge, folder, tmp_path_factory):
    """What the judge writes with a calibration, and with neither corpus nor trained predictor."""
    out = tmp_path_factory.mktemp("judged")
    calibration = calibrated_from(exact(20e9, 900e9), MACHINE, captured=date(2026, 11, 26))
    written = write_calibration(calibration, out / "accelerator.json")
    judge.study.main(
        [str(folder), "--calibration", str(written), "--learners", *ADDED, "--out", str(out / "predictors.md")]
    )
    return (out / "predictors.md").read_text()


def test_the_page_says_how_often_each_is_right_and_how_far_off(page):
    picks, errors = 2, 2  # tables of each kind of load
    assert page.count("| vLLM's default | - | 6/6 (1.00 to 1.00) |") == 2 * picks
    for name in ADDED:
        assert len(re.findall(rf"\| {name} \| in \| \d/6 \(", page)) == 2 * picks
    for who in ("analytical", "simulator"):
        for constants, rows in (("datasheet", "left out"), ("calibrated", "left out"), ("fitted", "in")):
            assert page.count(f"| {who}, {constants} | {rows} | ") == 2 * (picks + errors)
    assert len(re.findall(r"\| 12 \| \d+% \| [+-]\d+% \|", page)) == 2 * errors * 6  # pairs of three tasks
    assert not re.search(r"\b(nan|inf)\b", page)


def test_the_page_says_what_cannot_be_had(page):
    assert f"No corpus was given (`--corpus`), so what selectors that learn ({', '.join(ADDED)})" in page
    assert "No trained predictor was given" in page
    assert "isac, gradient-boosting-classifier: their clusters or leaves hold at least 20 tasks" in page


def test_the_selectors_that_are_judged_by_default_are_of_the_catalogue(judge):
    assert set(ADDED) <= set(judge.learners.LEARNERS) <= set(SELECTORS)
