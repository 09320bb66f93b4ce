"""The judge of a study, on tables that a made-up machine measured: they say nothing about vLLM."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metainf.bench.design import BenchLoad, BenchPlan, crossed
from metainf.bench.ledger import opened
from metainf.bench.rows import write_tables
from metainf.corpus.task import TrafficKind
from metainf.efficiencies import efficiency_of
from metainf.evaluation import metrics
from metainf.predictors.analytical import AnalyticalPredictor
from test_bench_report import figures, record
from test_bench_running import MACHINE

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
    import cpu_study_rows

    yield argparse.Namespace(study=cpu_study, guesses=cpu_study_guesses, rows=cpu_study_rows)
    sys.path.pop(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """No prefix cache takes twice as long where prefixes are shared, one request at a time three times."""
    out = tmp_path_factory.mktemp("bench")
    with opened(out, PLAN, MACHINE) as ledger:
        for run in PLAN.runs:
            slow = 3.0 if run.method.startswith("static") else 1.0
            if run.method == "no-prefix-caching" and run.task.traffic == "shared":
                slow = 2.0
            requests = BenchLoad.parse(run.task.load).requests
            seconds = 0.1 * requests * slow * (1.0 + 0.001 * run.repeat)
            ledger.add(replace(record(run, seconds), figures=figures(seconds, requests)))
        write_tables(ledger, out / "tables")
    return out / "tables"


def test_reads_what_was_measured_as_questions_with_their_truth(judge, folder):
    study = judge.rows.read_study(folder)
    truth = study.truths[TrafficKind.CONCURRENCY]
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


def test_picks_are_judged_by_what_they_lose(judge, folder):
    truth = judge.rows.read_study(folder).truths[TrafficKind.CONCURRENCY]
    table = truth.table()
    static = np.full(len(table), table.tasks.methods.index("static-prefix-caching"), dtype=np.intp)
    best, worst = (judge.study._line("x", "-", table, chosen) for chosen in (metrics.virtual_best(table), static))

    assert (best.accuracy, best.regret_mean) == (1.0, 0.0)
    assert worst.accuracy == 0.0
    assert worst.regret_mean == pytest.approx(2 / 3, rel=1e-4)
    assert worst.acceleration == pytest.approx(1 / 3, rel=1e-4)
