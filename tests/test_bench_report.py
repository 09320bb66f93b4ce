import csv
import math
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from scipy.stats import t as student

from metainf.bench.calibration import calibrated_from, write_calibration
from metainf.bench.comparison import ALL_TRAFFICS, compared, latencies_compared, published_ratios
from metainf.bench.design import BenchPlan, BenchTask, Run, crossed
from metainf.bench.ledger import Ledger, opened, read_ledger
from metainf.bench.records import EngineFigures, LoadFigures, Outcome, RunRecord, ServerFacts, ServerRecord
from metainf.bench.report import report_text, write_report
from metainf.bench.rows import MEASUREMENTS, RUNS, TASKS, measurement_of
from metainf.corpus.task import TrafficKind
from metainf.corpus.task_store import read_tasks
from metainf.measurements import Purpose, Source, read_measurements
from metainf.methods import Reading, published
from test_bench_calibration import exact
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
    effect = comparison.by_task()["m/shared/c4", "no-prefix-caching"]

    assert comparison.ratio[0].tolist() == pytest.approx([1.0, 0.5])
    assert (effect.low, effect.high) == pytest.approx((0.5 / 1.02, 0.5 * 1.02))  # no narrower than what counts as equal
    assert effect.below and effect.blocks == 3
    assert comparison.tolerance[0] == 0.02


@pytest.mark.parametrize(
    ("seconds", "faster", "decisive"),
    [
        pytest.param({"default": 1.0, "ngram": 1.0}, False, False, id="equal"),
        pytest.param({"default": 1.0, "ngram": 0.99}, False, False, id="better by less than what counts as equal"),
        pytest.param({"default": 1.0, "ngram": 0.97}, True, False, id="better, by less than twice the tolerance"),
        pytest.param({"default": 1.0, "ngram": 0.5}, True, True, id="twice as fast"),
        pytest.param({"default": 1.0, "ngram": None}, None, False, id="a crash is not compared"),
    ],
)
def test_a_method_wins_where_it_is_shown_to_be_faster_than_the_default(tmp_path, seconds, faster, decisive):
    plan = BenchPlan(crossed(["m"], ["decode"], ["c4"]), tuple(seconds), 2)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            took = seconds[run.method]
            found.add(record(run, took or 1.0, Outcome.COMPLETED if took else Outcome.CRASHED))
    comparison = compared(found)[TrafficKind.CONCURRENCY]

    effect = comparison.by_task().get(("m/decode/c4", "ngram"))
    assert (None if effect is None else effect.above) == faster
    assert comparison.decisive() == (decisive,)


def test_what_lies_within_the_noise_is_not_claimed(tmp_path):
    plan = BenchPlan(crossed(["m"], ["decode"], ["c4"]), ("default", "ngram"), 3)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            found.add(record(run, 1.0 if run.method == "default" else (0.6, 0.8, 0.9)[run.repeat]))
    comparison = compared(found)[TrafficKind.CONCURRENCY]
    effect = comparison.by_task()["m/decode/c4", "ngram"]

    spread = float(np.std(np.log([0.6, 0.8, 0.9]), ddof=1))
    assert comparison.tolerance[0] == pytest.approx(2 * spread)
    assert math.log(effect.high / effect.ratio) == pytest.approx(4.303 * spread / math.sqrt(3), rel=1e-3)
    assert effect.ratio > 1.3 and not effect.shown


def test_the_more_is_compared_the_more_it_takes_to_be_shown(tmp_path):
    """One of many comparisons is far from 1 by chance: all intervals of a table hold at once."""
    widths = []
    for loads in (["c4"], ["c4", "c16", "c64"]):
        plan = BenchPlan(crossed(["m"], ["decode"], loads), ("default", "no-prefix-caching"), 3)
        with opened(tmp_path / str(len(loads)), plan, MACHINE) as found:
            for run in plan.runs:
                found.add(record(run, 1.0 if run.method == "default" else (0.9, 1.0, 1.1)[run.repeat]))
        effect = compared(found)[TrafficKind.CONCURRENCY].by_task()["m/decode/c4", "no-prefix-caching"]
        widths.append(math.log(effect.high / effect.ratio))

    spread = float(np.std(np.log([0.9, 1.0, 1.1]), ddof=1)) / math.sqrt(3)
    expected = [student.ppf(1 - 0.025, 2) * spread, student.ppf(1 - 0.025 / 3, 6) * spread]
    assert widths == pytest.approx(expected)


def test_a_method_that_ran_once_is_held_to_the_noise_of_its_task(tmp_path):
    plan = BenchPlan(crossed(["m"], ["decode"], ["b64"]), ("default", "static", "ngram"), 3)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            slow = {"default": 1.0, "static": 4.0, "ngram": (0.9, 1.0, 1.1)[run.repeat]}[run.method]
            found.add(record(run, (1.0 + run.repeat) * slow))
    effect = compared(found)[TrafficKind.BATCH].by_task()["m/decode/b64", "static"]

    assert len([run for run in plan.runs if run.method == "static"]) == 1
    assert effect.ratio == pytest.approx(0.25) and effect.single
    spread = float(np.std(np.log([0.9, 1.0, 1.1]), ddof=1))
    assert math.log(effect.high / effect.ratio) == pytest.approx(student.ppf(1 - 0.0125, 2) * spread)


def test_without_any_repeats_nothing_is_claimed(tmp_path):
    plan = BenchPlan(crossed(["m"], ["decode"], ["c4"]), ("default", "ngram"), 1)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            found.add(record(run, 1.0 if run.method == "default" else 0.1))
    effect = compared(found)[TrafficKind.CONCURRENCY].by_task()["m/decode/c4", "ngram"]

    assert effect.ratio == pytest.approx(10.0)
    assert math.isnan(effect.low) and math.isnan(effect.high) and not effect.shown
    assert write_report(found, tmp_path / "report")[0].exists()


def test_tasks_of_a_traffic_count_alike_however_often_they_ran(tmp_path):
    plan = BenchPlan(crossed(["m"], ["decode"], ["b4", "b64"]), ("default", "static"), 3)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            slow = 4.0 if run.task.load == "b64" else 2.0
            found.add(record(run, slow if run.method == "static" else 1.0))
    effect = compared(found)[TrafficKind.BATCH].by_traffic()["decode", "static"]

    assert (effect.tasks, effect.blocks, effect.single) == (2, 4, False)
    assert effect.ratio == pytest.approx(math.sqrt(0.5 * 0.25))


def test_a_mean_over_all_traffics_stands_beside_those_of_each(ledger):
    effects = compared(ledger)[TrafficKind.CONCURRENCY].by_traffic()
    ratios = [effects[row, "no-prefix-caching"].ratio for row in ("shared", "unique", ALL_TRAFFICS)]

    assert ratios[2] == pytest.approx(math.sqrt(ratios[0] * ratios[1]))


def test_the_papers_rows_are_compared_over_the_batches(ledger):
    ratios = published_ratios(compared(ledger)[TrafficKind.BATCH])

    assert {each.size for each in ratios} == {1.0, 16.0}
    assert {each.reading for each in ratios} == set(Reading)
    assert len(ratios) == 2 * 2 * 3  # all combined is what they are compared with
    assert {each.tasks for each in ratios if each.size == 16.0} == {
        (BenchTask("dense-7m", "shared", "b16"), BenchTask("dense-7m", "unique", "b16"))
    }
    on_batching = [each for each in ratios if each.reading is Reading.ON_BATCHING and each.row == "chunked prefill"]
    # Twice as long on one of two traffics: the geometric mean of 1/2 and 1.
    assert [each.effect.ratio for each in on_batching] == pytest.approx([0.5**0.5] * 2, rel=0.02)
    assert all(each.effect.below for each in on_batching)
    alone = {each.size: each.effect for each in ratios if (each.reading, each.row) == (Reading.ALONE, "prefix caching")}
    assert (alone[1.0].single, alone[16.0].single) == (False, True)
    assert not alone[1.0].shown and not alone[16.0].shown


def test_latencies_are_compared_within_blocks(tmp_path):
    plan = BenchPlan(crossed(["m"], ["decode"], ["c4"]), ("default", "ngram", "static"), 3)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            slow = {"default": 1.0, "ngram": (0.9, 1.0, 1.1)[run.repeat], "static": 3.0}[run.method]
            found.add(record(run, (1.0 + run.repeat) * slow))
    comparison = latencies_compared(found, "ttft_p50_s")
    assert comparison is not None
    effects = comparison.by_traffic()

    assert set(effects) == {("decode", "ngram"), ("decode", "static")}
    assert effects["decode", "static"].ratio == pytest.approx(3.0) and effects["decode", "static"].above
    assert effects["decode", "ngram"].blocks == 3 and not effects["decode", "ngram"].shown


def test_the_page_begins_with_latencies_that_are_shown_to_differ_too(tmp_path):
    plan = BenchPlan(crossed(["m"], ["decode"], ["c4"]), ("default", "ngram", "few-sequences", "small-token-budget"), 3)
    with opened(tmp_path, plan, MACHINE) as found:
        for run in plan.runs:
            slow = {"ngram": 0.5, "few-sequences": 3.0}.get(run.method, 1.0) * (1.0, 1.01, 1.02)[run.repeat]
            found.add(record(run, slow))
        shown = report_text(found, compared(found), []).partition("## Conditions")[0]

    assert "shown to be shorter than the default's: TTFT p50 of decode with ngram (0.50)" in shown
    assert "; 2 are shown to be longer" in shown and "small-token-budget" not in shown


def test_writes_page_tables_and_pictures(ledger, tmp_path):
    paths = write_report(ledger, tmp_path / "report")

    assert all(path.stat().st_size > 0 for path in paths)
    loads = ("clients", "batches")
    pictures = {f"{what}-{load}.png" for what in ("traffics", "ratios", "published") for load in loads}
    assert {"README.md", "ledger.jsonl", "noise.png", *pictures} <= {path.name for path in paths}
    page = paths[0].read_text()
    assert f"{len(PLAN.runs)} completed" in page
    assert all(f"]({name})" in page for name in pictures)
    assert "dense-7m/shared/c4" in page and "0.50" in page
    assert "| no-prefix-caching | 0 | 1 | 1 | 0 |" in page  # of the clients' two tasks it is worse on one
    assert "1.00 (0.98 to 1.02; one run)" in page  # one request at a time, 16 at once
    assert "faster: none; shown to be slower: chunked prefill at 4 clients" in page  # reading B: without the cache
    with (tmp_path / "report" / RUNS).open() as text:
        assert len(list(csv.DictReader(text))) == len(PLAN.runs)


def test_what_is_published_says_nothing_of_where_it_was_made(ledger, tmp_path):
    model = str(ledger.folder / "models" / "dense-7m")
    ledger.add(ServerRecord(1, "dense-7m", "ngram", ("--model", model), "http://x", "", 20.0, ServerFacts("0.32.0")))
    paths = write_report(ledger, tmp_path / "report")

    assert not [path.name for path in paths if str(tmp_path).encode() in path.read_bytes()]
    assert read_ledger(tmp_path / "report").servers[-1].arguments == ("--model", "models/dense-7m")


def test_what_is_published_draws_itself_again_to_the_byte(ledger, tmp_path):
    first = write_report(ledger, tmp_path / "a")
    again = write_report(read_ledger(tmp_path / "a"), tmp_path / "b")

    assert [path.name for path in first] == [path.name for path in again]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_the_page_says_by_which_calibration_and_what_else_lies_beside_it(ledger, tmp_path):
    measured = calibrated_from(exact(20e9, 900e9), MACHINE, captured=date(2026, 11, 26))
    write_calibration(measured, ledger.folder / "accelerator.json")
    report = tmp_path / "report"
    report.mkdir()
    (report / "predictors.md").write_text("Judged.")
    page = write_report(ledger, report)[0].read_text()

    assert "Calibration of 2026-11-26 (`accelerator.json`): Xeon-Emerald-Rapids-2-cores-measured" in page
    assert (report / "accelerator.json").exists()
    assert "[predictors.md](predictors.md)" in page


def test_the_page_says_what_measured(tmp_path):
    plan = BenchPlan(crossed(["m"], ["decode"], ["c4"]), ("default", "ngram"), 1)
    for code in ("commit 1", "commit 2"):
        with opened(tmp_path, plan, MACHINE, code) as found:
            found.add(record(plan.runs[0], 1.0))

    assert "Measured by metainf, commit 1, then commit 2." in report_text(found, compared(found), [])


def test_the_page_says_what_stands_for_the_base_of_the_papers_first_reading(tmp_path):
    facts = ServerFacts(max_num_batched_tokens=2048)
    with opened(tmp_path, PLAN, MACHINE) as found:
        found.add(ServerRecord(0, "dense-7m", "static-chunked-prefill", (), "http://x", "", 20.0, facts))
        for run in PLAN.runs:
            found.add(record(run, seconds_of(run)))

    page = report_text(found, compared(found), [])
    assert "prompts have at most 576 tokens and a step takes 2,048" in page
    assert "`static-chunked-prefill` cuts none of them and stands for it" in page


def test_a_report_of_the_same_records_is_the_same_to_the_byte(ledger, tmp_path):
    first, second = (write_report(ledger, tmp_path / name) for name in ("a", "b"))

    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_page_can_be_written_before_anything_ran(tmp_path):
    with opened(tmp_path, PLAN, MACHINE) as found:
        empty: Ledger = found

    assert "Nothing is measured yet" in report_text(empty, compared(empty), [])
