"""The truth about a task: rows of every method, the same whenever they are measured."""

from dataclasses import replace

import numpy as np
import pytest

from metainf.corpus import measuring
from metainf.corpus.measuring import UTILIZATIONS, measured_task, methods_of
from metainf.corpus.rate_search import Bracket
from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.runs import _steady_rate, task_seed
from metainf.corpus.task import Task, TrafficKind
from metainf.corpus.worlds import RooflineWorld
from metainf.layouts import Layout
from metainf.measurements import Purpose, as_written, checked, read_measurements, table_of, write_measurements
from metainf.methods import method
from metainf.workload import (
    BatchLoad,
    ConcurrencyLoad,
    LatencyMetric,
    RateLoad,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
)

TTFT = SloBound(LatencyMetric.TTFT, Statistic.P95, 0.3)
OTHER = "Qwen/Qwen3-14B"
METHODS = tuple(method(name) for name in ("default", "no-prefix-caching", "few-sequences"))


def task(load, *bounds, **changes):
    traffic = Traffic(load, TokenLengths(600.0, 1200.0), TokenLengths(12.0, 24.0))
    given = {"model": "Qwen/Qwen3-8B", "accelerator": "H100-SXM-80GB", "layout": Layout(), **changes}
    return Task(traffic=traffic, slo=Slo(bounds), **given)


@pytest.fixture(scope="module")
def rate_rows():
    return measured_task(task(RateLoad(10.0), TTFT), RooflineWorld(), repeats=[0], methods=METHODS)


def of(rows, name, purpose):
    return [row for row in rows if row.method == name and row.purpose == purpose]


def test_a_rate_is_found_just_where_the_promise_holds(rate_rows):
    for name in ("default", "no-prefix-caching"):
        (score,) = of(rate_rows, name, Purpose.SCORE)
        assert score.ttft_p95_s == pytest.approx(0.3, rel=0.12)
        assert score.performance > 0.0
        assert score.requests >= 3000
    (default,) = of(rate_rows, "default", Purpose.SCORE)
    assert default.interval_ratio <= 0.05 or default.requests >= 24_000


def test_the_default_has_latencies_over_the_whole_range_of_loads(rate_rows):
    (capacity,) = of(rate_rows, "default", Purpose.CAPACITY)
    assert capacity.ttft_p95_s == np.inf
    assert not capacity.stable
    loads = of(rate_rows, "default", Purpose.LOAD)
    shares = [row.utilization for row in loads]
    assert shares == sorted(shares)
    assert max(shares) <= 1.0
    for share in UTILIZATIONS:
        assert min(abs(share - found) for found in shares) < 1e-5  # as far as rows can say a rate
    (idle,) = of(rate_rows, "default", Purpose.IDLE)
    assert idle.ttft_mean_s <= min(row.ttft_mean_s for row in loads)


def test_methods_that_do_the_same_reach_the_same(rate_rows):
    first, second = (of(rate_rows, name, Purpose.SCORE)[0] for name in ("default", "no-prefix-caching"))
    # Nothing is shared in this traffic: with common random numbers the two rates differ by the search alone.
    assert first.performance == pytest.approx(second.performance, rel=0.02)


def test_the_rows_are_a_valid_table_and_come_again_the_same(rate_rows):
    again = measured_task(task(RateLoad(10.0), TTFT), RooflineWorld(), repeats=[0], methods=METHODS)
    assert again == rate_rows
    assert checked(table_of(rate_rows)).num_rows == len(rate_rows)
    rates = [row.offered_requests_per_second for row in rate_rows if row.purpose == Purpose.LOAD]
    assert rates == [as_written(rate) for rate in rates]


def test_a_promise_that_not_even_an_idle_replica_keeps_scores_zero():
    impossible = task(RateLoad(10.0), replace(TTFT, bound_s=1e-3))
    rows = measured_task(impossible, RooflineWorld(), repeats=[0], methods=METHODS[:1])
    assert of(rows, "default", Purpose.SCORE)[0].performance == 0.0


def test_the_declared_rate_changes_nothing_that_is_searched_for():
    first, second = (
        measured_task(task(RateLoad(rate), TTFT), RooflineWorld(), repeats=[0], methods=METHODS[:1])[-1].performance
        for rate in (1.0, 50.0)
    )
    assert first == second


def test_a_closed_loop_scores_tokens_and_with_promises_those_that_keep_them():
    plain, strict = (
        measured_task(task(ConcurrencyLoad(32), *bounds), RooflineWorld(), repeats=[0, 1], methods=METHODS)
        for bounds in ((), (replace(TTFT, bound_s=0.08),))
    )
    assert [row.seed for row in plain] == [0, 0, 0, 1, 1, 1]
    assert {row.purpose for row in plain} == {Purpose.SCORE}
    assert all(row.performance > 0.0 and row.clients == 32 for row in plain)
    assert all(a.performance < b.performance for a, b in zip(strict, plain, strict=True))


def test_a_batch_scores_the_inverse_of_its_makespan():
    rows = measured_task(task(BatchLoad(64, 60.0)), RooflineWorld(), repeats=[0], methods=METHODS)
    assert all(row.performance == pytest.approx(1.0 / row.makespan_s) for row in rows)
    assert {row.batch_requests for row in rows} == {64}


def test_methods_that_cannot_run_have_no_rows():
    names = {row.method for row in measured_task(task(BatchLoad(4, 60.0)), RooflineWorld(), repeats=[0])}
    own = task(BatchLoad(4, 60.0))
    assert names == {m.name for m in methods_of(own) if not isinstance(replica_of(own, m), Infeasible)}
    assert {"default", "static"} <= names
    assert "eagle" not in names


def test_few_methods_are_the_default_and_others_that_a_task_draws():
    drawn = set()
    for tokens in range(20, 28):
        own = task(BatchLoad(20, None))
        own = replace(own, traffic=replace(own.traffic, output_tokens=TokenLengths(float(tokens))))
        names = [row.method for row in measured_task(own, RooflineWorld(), repeats=(0,), most_methods=3)]
        assert len(names) == 3
        assert names[0] == "default"
        again = [row.method for row in measured_task(own, RooflineWorld(), repeats=(0,), most_methods=2)]
        assert again == names[:2]
        drawn |= set(names[1:])
    assert len(drawn) > 4


def test_runs_of_few_methods_are_as_long_as_those_of_all(rate_rows):
    rows = measured_task(task(RateLoad(10.0), TTFT), RooflineWorld(), repeats=(0,), methods=METHODS, most_methods=2)
    names = {row.method for row in rows}
    assert len(names) == 2
    assert "default" in names
    assert rows == [row for row in rate_rows if row.method in names]


def test_one_request_at_a_time_is_not_searched_a_rate():
    assert "static" not in {m.name for m in methods_of(task(RateLoad(1.0), TTFT))}
    assert task(RateLoad(1.0), TTFT).kind is TrafficKind.RATE


def test_a_world_that_knows_nothing_of_the_replica_gives_no_rows():
    class Silent:
        name, version, predicts = "silent", "1", False

        def times(self, replica, seed):
            return None

    assert measured_task(task(BatchLoad(4, 60.0)), Silent(), repeats=[0]) == []


@pytest.mark.parametrize("side", [-1e-7, 1e-7])
def test_a_search_that_comes_back_to_within_a_hair_of_a_load_keeps_one_row_of_it(monkeypatch, tmp_path, side):
    def beside(margin, capacity, *, near=None):
        low, high = 0.5 * capacity, 0.52 * capacity
        found = Bracket(low, margin(low), high, margin(high), capacity)
        return replace(found, low_margin=side * found.slope)  # so the rate lies next to the lower end

    monkeypatch.setattr(measuring, "bracketed_rate", beside)
    monkeypatch.setattr(measuring, "MOST_INTERVAL_RATIO", 0.0)  # so long runs follow
    rows = measured_task(task(RateLoad(10.0), TTFT), RooflineWorld(), repeats=[0], methods=METHODS[:1])
    write_measurements(table_of(rows), tmp_path / "rows.parquet")
    assert read_measurements(tmp_path / "rows.parquet").num_rows == len(rows)


def test_rows_say_whose_measurements_a_world_has_of_the_replica():
    class Tables(RooflineWorld):
        def source(self, replica):
            return f"library 1.2 ({replica.accelerator.name})"

    of_tables, calculated = (
        measured_task(task(BatchLoad(4, 60.0)), oracle, repeats=[0], methods=METHODS[:1])[0].source_version
        for oracle in (Tables(name="tables", version="7", predicts=False), RooflineWorld())
    )
    assert of_tables.endswith("+7, library 1.2 (H100-SXM-80GB)")
    assert calculated.endswith(f"+{RooflineWorld().version}")


def test_seeds_hang_on_the_workload_and_the_repeat_alone():
    first = task(BatchLoad(4, 60.0))
    assert task_seed(first, 0) != task_seed(first, 0, predicted=True)
    elsewhere = (
        task(BatchLoad(5, 60.0)),
        task(RateLoad(3.0), TTFT),
        task(BatchLoad(4, 60.0), accelerator="L40S-PCIe-48GB"),
        task(BatchLoad(4, 60.0), layout=Layout(tensor_parallel=2)),
    )
    assert {task_seed(other, 0) for other in elsewhere} == {task_seed(first, 0)}
    assert len({task_seed(first, 0), task_seed(first, 1), task_seed(task(BatchLoad(4, 60.0), model=OTHER), 0)}) == 3


def test_the_rate_of_equal_requests_that_finish_together_is_cut_between_turns():
    clients, turns = 8, 20
    last_s = np.repeat(np.arange(1.0, turns + 1.0), clients)
    rate, interval = _steady_rate(last_s, np.full(clients * turns, 10.0), clients)
    assert rate == pytest.approx(80.0)
    assert interval >= 0.0
