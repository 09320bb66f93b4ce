"""What a task may cost: drawn from its key, in the unit of its traffic, and held against what methods truly cost."""

import math
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from metainf.corpus.budget_kinds import budget_kind
from metainf.corpus.task import Task, TrafficKind
from metainf.evaluation.budgets import (
    FACTORS,
    budget_factor,
    expected_costs,
    task_budgets,
    usd_of,
)
from metainf.evaluation.outcomes import CEILING, Evidence, LimitCounts, ceiling_outcome
from metainf.evaluation.prices import assumed_usd_per_hour
from metainf.evaluation.promises import headroom, keeps_promises
from metainf.evaluation.report_text import markdown
from metainf.evaluation.report_values import Evaluation, KindReport
from metainf.evaluation.splits import SplitKind, split
from metainf.evaluation.within_limits import usd_table, with_limits
from metainf.layouts import Layout
from metainf.measurements import Measurement, Purpose, Source, table_of
from metainf.workload import (
    BatchLoad,
    BudgetKind,
    ConcurrencyLoad,
    LatencyMetric,
    Load,
    RateLoad,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
)
from selection_tables import method_table

PLACE = "L4-PCIe-24GB"
HOUR = assumed_usd_per_hour(PLACE)


def task(load: Load, *, ranks: int = 1, accelerator: str = PLACE) -> Task:
    traffic = Traffic(load, TokenLengths(400.0), TokenLengths(100.0))
    return Task("Qwen/Qwen2.5-7B-Instruct", accelerator, Layout(tensor_parallel=ranks), traffic)


def score(of: Task, method: str, seed: int = 0, **known: float | None) -> Measurement:
    blank = Measurement(
        source=Source.SIMULATION,
        source_version="test",
        world="world:0",
        engine_version=of.engine_version,
        task=of.key,
        kind=of.kind.value,
        model=of.model,
        accelerator=of.accelerator,
        tensor_parallel=of.layout.tensor_parallel,
        pipeline_parallel=1,
        data_parallel=1,
        expert_parallel=False,
        method=method,
        seed=seed,
        purpose=Purpose.SCORE,
        performance=1.0,
    )
    return replace(blank, **known)


def batch_with(least: float, most: float, *, but: int = 0) -> Task:
    """A batch of more than `but` requests whose budget is so many times what is expected."""
    every = (task(BatchLoad(requests, 900.0)) for requests in range(but + 1, 10_000))
    return next(each for each in every if least <= budget_factor(each) <= most)


def test_a_budget_is_drawn_from_the_workload_and_is_the_same_on_every_place() -> None:
    one = task(ConcurrencyLoad(8))
    assert budget_factor(one) == budget_factor(task(ConcurrencyLoad(8)))
    assert budget_factor(one) == budget_factor(task(ConcurrencyLoad(8), ranks=2, accelerator="H100-SXM-80GB"))
    assert budget_factor(one) != budget_factor(task(ConcurrencyLoad(9)))


def test_factors_are_log_uniform_and_a_fifth_is_below_what_the_default_costs() -> None:
    low, high = FACTORS
    found = np.array([budget_factor(task(ConcurrencyLoad(clients))) for clients in range(1, 2001)])
    assert low <= found.min() and found.max() <= high
    ranks = np.sort(np.log(found / low) / np.log(high / low))
    assert np.abs(ranks - np.linspace(0.0, 1.0, len(ranks))).max() < 0.05
    assert np.mean(found < 1.0) == pytest.approx(0.196, abs=0.03)


@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        pytest.param(TrafficKind.RATE, BudgetKind.PER_HOUR, id="a rate -> per hour"),
        pytest.param(TrafficKind.CONCURRENCY, BudgetKind.PER_MILLION_TOKENS, id="clients -> per million tokens"),
        pytest.param(TrafficKind.BATCH, BudgetKind.TOTAL, id="a batch -> in total"),
    ],
)
def test_each_kind_of_traffic_has_its_kind_of_budget(kind: TrafficKind, unit: BudgetKind) -> None:
    assert budget_kind(kind) is unit


CLIENTS, RATE, BATCH = ConcurrencyLoad(10), RateLoad(9.0), BatchLoad(50, 900.0)


@pytest.mark.parametrize(
    ("load", "ranks", "known", "asked", "hours"),
    [
        pytest.param(BATCH, 1, {"makespan_s": 1800.0}, None, 0.5, id="a batch of half an hour"),
        pytest.param(BATCH, 4, {"makespan_s": 1800.0}, None, 2.0, id="on four accelerators"),
        pytest.param(BATCH, 1, {"makespan_s": 0.0}, None, math.inf, id="a batch with a refused request"),
        pytest.param(
            CLIENTS, 1, {"e2e_mean_s": 2.0, "output_tokens": 125.0}, None, 1e6 / 625.0 / 3600.0, id="625 tokens/s"
        ),
        pytest.param(CLIENTS, 1, {"e2e_mean_s": 2.0}, None, 1e6 / 500.0 / 3600.0, id="tokens as declared"),
        pytest.param(CLIENTS, 1, {}, None, math.inf, id="clients that nobody answers"),
        pytest.param(RATE, 2, {"performance": 2.0}, None, 2.0 / 4.0, id="a rate: for each request per second"),
        pytest.param(RATE, 2, {"performance": 2.0}, 9.0, 2.0 * 3.0, id="a rate that three whole replicas carry"),
        pytest.param(RATE, 2, {"performance": 2.25}, 9.0, 2.0 * 2.0, id="a rate that two carry exactly"),
        pytest.param(RATE, 2, {"performance": 0.0}, 9.0, math.inf, id="no load keeps the promises"),
    ],
)
def test_a_cost_is_hours_of_a_replica(
    load: Load, ranks: int, known: Mapping[str, float], asked: float | None, hours: float
) -> None:
    of = task(load, ranks=ranks)
    (row,) = table_of([score(of, "default", **known)]).to_pylist()
    assert usd_of(of, row, requests_per_second=asked) == pytest.approx(HOUR * hours)


def test_what_is_expected_is_what_the_default_costs_or_the_median_of_those_that_work() -> None:
    found = expected_costs(
        [
            *(("plain", "default", 2.0), ("plain", "default", 8.0), ("plain", "latency", 1.0)),
            *(("broken", "default", math.inf), ("broken", "a", 1.0), ("broken", "b", 3.0), ("broken", "c", math.inf)),
            *(("once", "default", 2.0), ("once", "default", math.inf), ("once", "a", 5.0)),
            ("never", "default", math.inf),
        ]
    )
    assert found == pytest.approx({"plain": 4.0, "broken": 2.0, "once": 5.0})


def test_tasks_have_budgets_for_the_declared_load() -> None:
    tasks = [task(RATE), task(CLIENTS), task(BATCH), task(BatchLoad(7, 900.0))]
    rows = [
        score(tasks[0], "default", performance=4.0),
        score(tasks[1], "default", e2e_mean_s=2.0),
        score(tasks[2], "default", makespan_s=1800.0),
        replace(score(tasks[2], "default", makespan_s=9e9), purpose=Purpose.LOAD),
    ]
    found = task_budgets(table_of(rows), tasks)
    hours = [3.0, 1e6 / 500.0 / 3600.0, 0.5]
    for each, expected in zip(tasks, hours, strict=False):
        budget = found[each.key]
        assert budget.kind is budget_kind(each.kind)
        assert float(budget.amount) == pytest.approx(budget_factor(each) * expected * HOUR, abs=1e-6)
        assert budget.amount == round(budget.amount, 6) and isinstance(budget.amount, Decimal)
    assert tasks[3].key not in found, "of which nothing is known"


def test_costs_over_repeats_are_means_as_those_of_performance_are() -> None:
    of = task(BATCH)
    rows = [
        score(of, "default", 0, makespan_s=3600.0),
        score(of, "default", 1, makespan_s=14400.0),
        score(of, "latency", 0, makespan_s=3600.0),
        score(of, "latency", 1, makespan_s=0.0),
    ]
    found = usd_table([of], ["default", "latency", "ngram"], table_of(rows))
    np.testing.assert_allclose(found, [[2.0 * HOUR, np.inf, np.nan]])


def test_what_is_over_the_budget_is_broken_and_tasks_that_nothing_serves_are_left_out() -> None:
    generous = batch_with(1.5, 1.6)
    tight = batch_with(0.85, 0.9)
    hopeless = batch_with(0.85, 0.9, but=tight.traffic.load.requests)  # type: ignore[union-attr]
    tasks, methods = [generous, tight, hopeless], ["default", "method-1", "method-2"]
    makespans = np.array([[100.0, 140.0, 200.0], [100.0, 80.0, 99.0], [100.0, 95.0, 200.0]])
    rows = [
        score(each, method, makespan_s=makespan)
        for each, own in zip(tasks, makespans.tolist(), strict=True)
        for method, makespan in zip(methods, own, strict=True)
    ]
    evidence = Evidence(method_table(1.0 / makespans), price_usd_per_hour=np.array([1.0, 2.0, 3.0]))
    found = with_limits(evidence, tasks, table_of(rows))
    assert found.broken is not None
    assert found.broken.tolist() == [[False, False, True], [True, False, True]]
    assert found.price_usd_per_hour is not None and found.price_usd_per_hour.tolist() == [1.0, 2.0]
    np.testing.assert_array_equal(found.table.performance, 1.0 / makespans[:2])


def test_what_cannot_be_told_from_the_best_is_never_forbidden_beside_it() -> None:
    tight = batch_with(0.85, 0.9)
    most = 100.0 * budget_factor(tight)
    makespans = [[100.0, most, most * 1.019]]
    rows = [score(tight, f"method-{a}" if a else "default", makespan_s=s) for a, s in enumerate(makespans[0])]
    found = with_limits(Evidence(method_table(1.0 / np.array(makespans))), [tight], table_of(rows))
    assert found.broken is not None and found.broken.tolist() == [[True, False, False]]


TTFT = Slo((SloBound(LatencyMetric.TTFT, Statistic.P95, 2.0), SloBound(LatencyMetric.TPOT, Statistic.MEAN, 0.1)))


@pytest.mark.parametrize(
    ("load", "known", "expected"),
    [
        pytest.param(CLIENTS, {"ttft_p95_s": 1.0, "tpot_mean_s": 0.08}, 1.25, id="the bound that is nearest"),
        pytest.param(CLIENTS, {"ttft_p95_s": 4.0, "tpot_mean_s": 0.08}, 0.5, id="a statistic that is missed"),
        pytest.param(CLIENTS, {"ttft_p95_s": 1.0}, 0.0, id="a statistic that nobody knows"),
        pytest.param(BATCH, {"makespan_s": 450.0}, 2.0, id="half of the time until the deadline"),
        pytest.param(BATCH, {"makespan_s": 0.0}, 0.0, id="a batch with a refused request"),
        pytest.param(RATE, {"performance": 0.0}, math.inf, id="a rate keeps its SLO by what it is"),
    ],
)
def test_promises_are_statistics_and_deadlines(load: Load, known: Mapping[str, float], expected: float) -> None:
    of = replace(task(load), slo=TTFT if load is CLIENTS else Slo())
    (row,) = table_of([score(of, "default", **known)]).to_pylist()
    assert headroom(of, row) == pytest.approx(expected)
    assert keeps_promises(of, row) is (expected >= 1.0)


def test_a_closed_loop_that_misses_a_statistic_is_broken_however_much_it_delivers() -> None:
    generous = next(
        each
        for each in (replace(task(ConcurrencyLoad(clients)), slo=TTFT) for clients in range(1, 5000))
        if budget_factor(each) > 1.5
    )
    late = {"default": 1.0, "method-1": 2.1, "method-2": 1.9}
    rows = [score(generous, name, e2e_mean_s=2.0, ttft_p95_s=s, tpot_mean_s=0.05) for name, s in late.items()]
    found = with_limits(Evidence(method_table([[1.0, 9.0, 2.0]])), [generous], table_of(rows))
    assert found.broken is not None and found.broken.tolist() == [[False, True, False]]


def test_a_batch_past_its_deadline_is_broken_and_without_another_method_left_out() -> None:
    generous = batch_with(1.5, 1.6)
    makespans = [[800.0, 901.0]]
    rows = [score(generous, f"method-{a}" if a else "default", makespan_s=s) for a, s in enumerate(makespans[0])]
    evidence = Evidence(method_table(1.0 / np.array(makespans)))
    found = with_limits(evidence, [generous], table_of(rows))
    assert found.broken is not None and found.broken.tolist() == [[False, True]]
    late = [replace(row, makespan_s=1000.0) for row in rows]
    nothing = with_limits(evidence, [generous], table_of(late))
    assert len(nothing) == 0
    assert nothing.limits == LimitCounts(tasks=1, left_out=1, best_over_budget=0, decisive_share=0.0)


def test_tasks_whose_best_closed_loop_is_over_budget_are_counted() -> None:
    # All tokens count for the budget, and only those in time for performance: the best is slower in all of them.
    every = (task(ConcurrencyLoad(clients)) for clients in range(1, 5000))
    tight = next(each for each in every if 1.0 < budget_factor(each) < 1.1)
    rows = [score(tight, "default", e2e_mean_s=2.0), score(tight, "method-1", e2e_mean_s=3.0)]
    found = with_limits(Evidence(method_table([[1.0, 2.0]])), [tight], table_of(rows))
    assert found.broken is not None and found.broken.tolist() == [[False, True]]
    assert found.limits == LimitCounts(tasks=1, left_out=0, best_over_budget=1, decisive_share=1.0)
    report = KindReport(TrafficKind.CONCURRENCY, 1, 0.5, 2, (), {}, limits=found.limits)
    assert "of 1 tasks of the corpus 0 are left out" in markdown(Evaluation("default-only", (report,), 0.0))


def test_the_ceiling_chooses_by_the_limits_of_its_own_half_of_the_seeds() -> None:
    # By the first seed both methods keep the deadline; by the second the faster one misses it, by both together too.
    generous = [batch_with(1.5, 1.6), batch_with(1.6, 1.7)]
    seconds = np.array([[[880.0, 600.0], [880.0, 600.0]], [[850.0, 1600.0], [850.0, 1600.0]]])  # seed, task, method
    rows = [
        score(each, method, seed, makespan_s=seconds[seed, row, column])
        for seed in (0, 1)
        for row, each in enumerate(generous)
        for column, method in enumerate(("default", "method-1"))
    ]
    by_seed = 1.0 / np.moveaxis(seconds, 0, 2)
    table = method_table(np.exp(np.log(by_seed).mean(axis=2)))
    evidence = with_limits(Evidence(table, performance_by_seed=by_seed), generous, table_of(rows))
    assert evidence.broken is not None and evidence.broken[:, 1].all()
    found = ceiling_outcome(evidence, split(evidence.table.tasks, SplitKind.MODEL, most_folds=2))
    assert found is not None
    rest, outcome = found
    assert outcome.selector == CEILING and (outcome.chosen == 1).all()
    assert rest.broken is not None and rest.broken[:, 1].all() and not rest.broken[:, 0].any()
