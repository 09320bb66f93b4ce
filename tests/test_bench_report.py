import csv
import math
from dataclasses import replace

import numpy as np
import pytest

from metainf.bench.comparison import compared, latency_ratios, published_ratios
from metainf.bench.design import BenchPlan, Run, crossed
from metainf.bench.ledger import Ledger, opened
from metainf.bench.records import EngineFigures, LoadFigures, Outcome, RunRecord, ServerFacts, ServerRecord
from metainf.bench.report import report_text, write_report
from metainf.bench.rows import MEASUREMENTS, RUNS, TASKS, measurement_of
from metainf.corpus.task import TrafficKind
from metainf.corpus.task_store import read_tasks
from metainf.measurements import Purpose, Source, read_measurements
from metainf.methods import Reading, published
from test_bench_running import MACHINE

METHODS = tuple(dict.fromkeys(row.method.name for reading in Reading for row in published(reading)))
PLAN = BenchPlan(crossed(["dense-7m"], ["shared", "unique"], ["c4", "b1", "b16"]), METHODS, 3)


def figures(seconds: float, requests: int = 16) -> LoadFigures:
    latencies = {
        f"{metric}_{statistic}_s": seconds / 10
        for metric in ("ttft", "tpot", "e2e")
        for statistic in ("mean", "p50", "p95", "p99")
    }
    return LoadFigures(
        completed=requests,
        failed=0,
        duration_s=seconds,
        input_tokens=requests * 576,
        output_tokens=requests * 32,
        requests_per_second=requests / seconds,
        output_tokens_per_second=requests * 32 / seconds,
        itl_p99_s=0.1,
        **latencies,
    )


def record(run: Run, seconds: float, outcome: Outcome = Outcome.COMPLETED) -> RunRecord:
    return RunRecord(
        *(run.task.model, run.task.traffic, run.task.load, run.method, run.repeat),
        outcome=outcome,
        detail="" if outcome is Outcome.COMPLETED else "exit code 0",
        server=0,
        started="2026-11-26T10:00:00+00:00",
        wall_s=seconds,
        machine_load=1.0,
        figures=figures(seconds) if outcome is Outcome.COMPLETED else None,
        engine=EngineFigures(9216.0, 4608.0, 8.0, 0.0, 0.0),
    )


def seconds_of(run: Run) -> float:
    """Without the prefix cache twice as long where a prefix is shared; half a per cent of noise."""
    slow = run.task.traffic == "shared" and run.method in ("batching-chunked-prefill", "no-prefix-caching")
    return (2.0 if slow else 1.0) * (1.0 + 0.005 * run.repeat * (len(run.method) % 3))


@pytest.fixture
def ledger(tmp_path):
    with opened(tmp_path / "bench", PLAN, MACHINE) as found:
        found.add(ServerRecord(0, "dense-7m", "default", ("--port", "1"), "http://x", "", 20.0, ServerFacts("0.32.0")))
        for run in PLAN.runs:
            found.add(record(run, seconds_of(run)))
        yield found


def test_a_run_is_a_row_of_the_measurement_table(ledger, tmp_path):
    write_report(ledger, tmp_path / "report")
    table = read_measurements(tmp_path / "report" / MEASUREMENTS)

    assert table.num_rows == len(PLAN.runs)
    assert set(table.column("source").to_pylist()) == {Source.CPU.value}
    assert set(table.column("purpose").to_pylist()) == {Purpose.SCORE.value}
    keys = {task.key for task in read_tasks(tmp_path / "report" / TASKS)}
    assert set(table.column("task").to_pylist()) == keys and len(keys) == len(PLAN.tasks)


@pytest.mark.parametrize(
    ("load", "kind", "performance"),
    [
        pytest.param("c4", TrafficKind.CONCURRENCY, 16 * 32 / 2.0, id="clients -> tokens per second"),
        pytest.param("b16", TrafficKind.BATCH, 1 / 2.0, id="a batch -> 1 / makespan"),
        pytest.param("r2", TrafficKind.RATE, None, id="a rate that is only offered has none"),
    ],
)
def test_performance_goes_by_the_kind_of_load(ledger, load, kind, performance):
    run = replace(PLAN.runs[0], task=replace(PLAN.runs[0].task, load=load))
    row = measurement_of(ledger, record(run, 2.0))

    assert (row.kind, row.performance) == (kind, performance)
    assert (row.cached_ratio, row.preemptions_per_request) == (0.5, 0.5)
    assert row.input_tokens == 576


def test_a_crash_is_a_row_without_figures(ledger):
    row = measurement_of(ledger, record(PLAN.runs[0], 1.0, Outcome.CRASHED))

    assert (row.purpose, row.requests, row.performance, row.ttft_mean_s) == (Purpose.LOAD, 0, None, None)


def test_a_gpu_is_another_source(ledger):
    ledger.machine = replace(MACHINE, accelerator="H100-SXM-80GB")

    assert measurement_of(ledger, record(PLAN.runs[0], 1.0)).source == Source.BENCH


def test_ratios_are_taken_within_blocks(tmp_path):
    """A machine that gets slower from repeat to repeat slows all methods alike, and no ratio."""
    plan = BenchPlan(crossed(["m"], ["shared"], ["c4"]), ("default", "no-prefix-caching"), 3)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            found.add(record(run, (1.0 + run.repeat) * (2.0 if run.method == "no-prefix-caching" else 1.0)))
    comparison = compared(found)[TrafficKind.CONCURRENCY]

    assert comparison.ratio[0].tolist() == pytest.approx([1.0, 0.5])
    assert comparison.interval[0].tolist() == pytest.approx([0.0, 0.0])
    assert comparison.tolerance[0] == 0.02


@pytest.mark.parametrize(
    ("seconds", "winner", "decisive"),
    [
        pytest.param({"default": 1.0, "ngram": 1.0}, "default", False, id="equal -> the simpler"),
        pytest.param({"default": 1.0, "ngram": 0.99}, "default", False, id="within the tolerance -> the simpler"),
        pytest.param({"default": 1.0, "ngram": 0.97}, "ngram", False, id="better, by less than twice the tolerance"),
        pytest.param({"default": 1.0, "ngram": 0.5}, "ngram", True, id="twice as fast"),
        pytest.param({"default": 1.0, "ngram": None}, "default", False, id="a crash never wins"),
    ],
)
def test_the_winner_is_the_simplest_within_the_tolerance(tmp_path, seconds, winner, decisive):
    plan = BenchPlan(crossed(["m"], ["decode"], ["c4"]), tuple(seconds), 2)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            took = seconds[run.method]
            found.add(record(run, took or 1.0, Outcome.COMPLETED if took else Outcome.CRASHED))
    comparison = compared(found)[TrafficKind.CONCURRENCY]

    (place,) = comparison.winners()
    assert place is not None and comparison.methods[place] == winner
    assert comparison.decisive() == (decisive,)


def test_noise_widens_the_tolerance(tmp_path):
    plan = BenchPlan(crossed(["m"], ["decode"], ["c4"]), ("default", "ngram"), 3)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            found.add(record(run, 1.0 if run.method == "default" else (0.8, 1.0, 1.25)[run.repeat]))
    comparison = compared(found)[TrafficKind.CONCURRENCY]

    spread = float(np.std(np.log([0.8, 1.0, 1.25]), ddof=1))
    assert comparison.tolerance[0] == pytest.approx(2 * spread)
    assert comparison.interval[0, 1] == pytest.approx(4.303 * spread / math.sqrt(3))
    assert comparison.winners() == (0,)


def test_a_method_that_ran_once_is_compared_with_the_default_of_that_block(tmp_path):
    plan = BenchPlan(crossed(["m"], ["decode"], ["b64"]), ("default", "static"), 3)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            found.add(record(run, (1.0 + run.repeat) * (4.0 if run.method == "static" else 1.0)))
    comparison = compared(found)[TrafficKind.BATCH]

    assert len([run for run in plan.runs if run.method == "static"]) == 1
    assert comparison.ratio[0].tolist() == pytest.approx([1.0, 0.25])
    assert math.isnan(comparison.interval[0, 1])


def test_the_papers_rows_are_compared_over_the_batches(ledger):
    ratios = published_ratios(compared(ledger)[TrafficKind.BATCH])

    assert {each.size for each in ratios} == {1.0, 16.0}
    assert {each.reading for each in ratios} == set(Reading)
    assert len(ratios) == 2 * 2 * 4
    assert all(each.ratio == 1.0 for each in ratios if each.row == "all combined")
    on_batching = [each for each in ratios if each.reading is Reading.ON_BATCHING and each.row == "chunked prefill"]
    # Twice as long on one of two traffics: the geometric mean of 1/2 and 1.
    assert [each.ratio for each in on_batching] == pytest.approx([0.5**0.5] * 2, rel=0.02)
    assert all(each.interval < 0.05 for each in on_batching)


def test_latencies_are_compared_within_blocks(tmp_path):
    plan = BenchPlan(crossed(["m"], ["decode"], ["c4"]), ("default", "ngram", "static"), 3)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            slow = {"default": 1.0, "ngram": (0.9, 1.0, 1.1)[run.repeat], "static": 3.0}[run.method]
            found.add(record(run, (1.0 + run.repeat) * slow))
    by_method = {each.method: each for each in latency_ratios(found, "ttft_p50_s")}

    assert set(by_method) == {"ngram", "static"}
    assert by_method["static"].ratio == pytest.approx(3.0) and by_method["static"].differs
    assert by_method["ngram"].blocks == 3 and not by_method["ngram"].differs


def test_writes_page_tables_and_pictures(ledger, tmp_path):
    paths = write_report(ledger, tmp_path / "report")

    assert all(path.stat().st_size > 0 for path in paths)
    assert {"README.md", "ratios-clients.png", "ratios-batches.png", "noise.png", "published.png"} <= {
        path.name for path in paths
    }
    page = paths[0].read_text()
    assert "108 completed" in page or f"{len(PLAN.runs)} completed" in page
    assert "dense-7m/shared/c4" in page and "0.50" in page
    assert "| no-prefix-caching | 0 | 1 | 1 | 0 |" in page  # of the clients' two tasks it is worse on one
    with (tmp_path / "report" / RUNS).open() as text:
        assert len(list(csv.DictReader(text))) == len(PLAN.runs)


def test_a_report_of_the_same_records_is_the_same_to_the_byte(ledger, tmp_path):
    first, second = (write_report(ledger, tmp_path / name) for name in ("a", "b"))

    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_page_can_be_written_before_anything_ran(tmp_path):
    with opened(tmp_path, PLAN, MACHINE) as found:
        empty: Ledger = found

    assert "Nothing is measured yet" in report_text(empty, compared(empty), [])
