"""The tasks of the corpus: spread as the design says, possible as manifests, and fitted to the traces."""

import os
from collections import Counter
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from choices import pool
from metainf.accelerators import Vendor, get
from metainf.candidates import enumerate_candidates
from metainf.corpus.design import designed_tasks
from metainf.corpus.fitted import FITTED, fit_traffic
from metainf.corpus.places import MEASURED_ACCELERATORS, distinct_models, places_of
from metainf.corpus.replicas import Infeasible, replica_of, shared_context_tokens
from metainf.corpus.task import TrafficKind, twin_groups
from metainf.corpus.workloads import GRID
from metainf.known_models import known_model
from metainf.layers import AttentionKind
from metainf.manifests import parse_pool, parse_workload, standing_pool
from metainf.manifests.traffic import slo_fields, traffic_fields
from metainf.memory import memory_plan
from metainf.methods import portfolio
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, Question
from metainf.traces import TraceName, load_trace
from metainf.workload import (
    Budget,
    BudgetKind,
    LossyPolicy,
    MethodLimits,
    RateLoad,
    TokenLengths,
    Workload,
    longest_tokens,
)

FOLDER = Path(os.environ.get("METAINF_DATA", Path(__file__).parents[2] / "shared" / "data")) / "traces"


@pytest.fixture(scope="module")
def tasks():
    return designed_tasks(340, seed=0)


def test_equal_seeds_give_equal_tasks_and_a_longer_design_begins_with_a_shorter(tasks):
    assert designed_tasks(40, seed=0) == tasks[:40]
    assert designed_tasks(40, seed=1) != tasks[:40]


def test_no_task_stands_there_twice(tasks):
    assert len(tasks) == len({task.key for task in tasks}) == 340


@pytest.fixture(scope="module")
def workloads(tasks):
    """The tasks without the twins of those before them: one for each point of the design."""
    twins = {twin.key for group in twin_groups(tasks) for twin in group[1:]}
    return [task for task in tasks if task.key not in twins]


def test_models_accelerators_and_kinds_are_spread(tasks, workloads):
    assert len({task.model for task in tasks}) == len(distinct_models())
    assert len({task.accelerator for task in tasks}) > 40
    kinds = Counter(task.kind for task in workloads)
    assert kinds[TrafficKind.RATE] / len(workloads) == pytest.approx(0.30, abs=0.03)
    assert kinds[TrafficKind.CONCURRENCY] / len(workloads) == pytest.approx(0.40, abs=0.03)
    origins = Counter(task.origin for task in workloads)
    assert origins[GRID] / len(workloads) == pytest.approx(0.6, abs=0.03)
    assert set(origins) == {GRID, *(name.value for name in TraceName)}
    assert sum(task.draft_model for task in workloads) / len(workloads) == pytest.approx(0.25, abs=0.03)
    measured = sum(task.accelerator in MEASURED_ACCELERATORS for task in tasks)
    assert 0.4 < measured / len(tasks) < 0.65


def test_no_task_stands_on_a_cpu(tasks):
    assert not any(get(task.accelerator).vendor is Vendor.CPU for task in tasks)


def test_about_a_tenth_of_the_tasks_are_twins_that_stand_side_by_side(tasks):
    groups = twin_groups(tasks)
    assert 0.05 < sum(map(len, groups)) / len(tasks) < 0.17
    sizes = [len(group) for group in groups]
    assert max(sizes) <= 8
    assert np.median(sizes) >= 4
    for group in groups:
        assert len({(task.accelerator, task.layout) for task in group}) == len(group)
        assert len({task.accelerator for task in group}) > 1
        assert len({(task.draws_key, task.slo, task.traffic.load) for task in group}) == 1
        first = tasks.index(group[0])
        assert tasks[first : first + len(group)] == group


def test_a_design_that_ends_within_a_group_is_the_beginning_of_a_longer_one(tasks):
    group = twin_groups(tasks)[0]
    cut = tasks.index(group[1])
    assert designed_tasks(cut, seed=0) == tasks[:cut]


def test_there_are_sixty_architectures_of_every_sort_from_half_a_billion_to_seven_hundred():
    models = [known_model(model) for model in distinct_models()]
    shapes = {repr((m.layer_groups, m.vocab_size, m.hidden_size)) for m in models}
    assert len(shapes) >= 60
    assert min(m.parameters for m in models) < 0.6e9
    assert max(m.parameters for m in models) > 650e9
    assert sum(m.is_moe for m in models) >= 10
    assert sum(m.window_tokens() is not None for m in models) >= 5
    mixers = {group.layer.mixer.attention_kind for m in models for group in m.layer_groups if group.layer.mixer}
    assert AttentionKind.MLA in mixers


def test_there_are_more_than_twenty_accelerators_in_layouts():
    assert len({(p.accelerator, p.layout) for model in distinct_models()[:10] for p in places_of(model)}) > 20


def test_the_default_runs_every_task(tasks):
    assert not any(isinstance(replica_of(task, portfolio()[0]), Infeasible) for task in tasks)


def test_every_rate_has_a_promise(tasks):
    assert all(task.slo.bounds for task in tasks if task.kind is TrafficKind.RATE)


def test_some_promises_are_tighter_than_what_the_default_is_predicted_to_reach_idle(workloads):
    predictor, default = AnalyticalPredictor(), portfolio()[0]
    tightest = []
    for task in (task for task in workloads if task.kind is TrafficKind.RATE):
        replica = replica_of(task, default)
        low = replace(task.traffic, load=RateLoad(1e-4))
        idle = predictor.predict([Question(replica, low)]).latency_s[0]
        tightest.append(
            min(
                bound.bound_s / idle[LATENCY_METRICS.index(bound.metric), STATISTICS.index(bound.statistic)]
                for bound in task.slo.bounds
            )
        )
    assert 0.1 < np.mean(np.array(tightest) < 1.0) < 0.55
    assert np.quantile(tightest, 0.05) < 0.8
    assert max(tightest) > 3.0


def test_some_deadlines_are_shorter_than_what_the_default_is_predicted_to_need(workloads):
    predictor, default, ratios = AnalyticalPredictor(), portfolio()[0], []
    for task in (task for task in workloads if task.kind is TrafficKind.BATCH):
        makespan_s = predictor.predict([Question(replica_of(task, default), task.traffic)]).makespan_s[0]
        if task.traffic.load.deadline_s > 1.0:  # the least that is asked for
            ratios.append(task.traffic.load.deadline_s / makespan_s)
    assert 0.1 < np.mean(np.array(ratios) < 1.0) < 0.4
    assert 0.55 < min(ratios) < 0.75
    assert 4.0 < max(ratios) < 5.1


def replicas_of(task):
    """What the corpus has of each method, and what the operator has of it on a pool of the same accelerators."""
    methods = portfolio(task.engine_version)
    asked = Workload(
        traffic=task.traffic,
        budget=Budget(BudgetKind.PER_HOUR, Decimal(1000)),
        methods=MethodLimits(frozenset(method.name for method in methods), lossy=LossyPolicy.ALLOW),
        draft_model=task.draft_model,
    )
    found = enumerate_candidates(
        asked, known_model(task.model), [pool(accelerator=task.accelerator)], engine_version=task.engine_version
    )
    options = [sized.option for sized in found.options if sized.option.layout == task.layout]
    ours = {method.name: replica_of(task, method) for method in methods}
    ours = {name: replica.settings for name, replica in ours.items() if not isinstance(replica, Infeasible)}
    return ours, {option.method.name: option.replica.settings for option in options}


def test_the_corpus_and_the_operator_have_the_same_replicas(tasks):
    shortened = 0
    for task in tasks[::4]:
        ours, theirs = replicas_of(task)
        assert ours == theirs, task
        shortened += len({settings.max_model_len for settings in ours.values()}) > 1
    assert shortened > 0, "methods of a task differ in the context that they have room for"


def test_every_replica_starts_and_holds_the_longest_request(tasks):
    for task in tasks[::4]:
        longest = longest_tokens(task.traffic.input_tokens, task.traffic.output_tokens)
        assert longest <= shared_context_tokens(task)
        for method in portfolio():
            replica = replica_of(task, method)
            if not isinstance(replica, Infeasible):
                assert memory_plan(replica).missing_bytes(replica.settings.max_model_len) == 0
                assert shared_context_tokens(task) <= replica.settings.max_model_len


def test_requests_beyond_the_models_own_context_fit_no_method(tasks):
    traffic = replace(tasks[0].traffic, input_tokens=TokenLengths(9e6))
    found = replica_of(replace(tasks[0], traffic=traffic), portfolio()[0])
    assert isinstance(found, Infeasible)
    assert found.reason == "ContextTooLong"


def manifests_of(task):
    """The workload and the pool that a user would write for a task."""
    spec = {
        "model": {"id": task.model} | ({"draftModel": {"id": "example/head"}} if task.draft_model else {}),
        "traffic": traffic_fields(task.traffic),
        "budget": {"perHour": "1000"},
        "methods": {"lossy": "Allow"},
        "engine": {"version": task.engine_version},
    }
    if task.slo.bounds:
        spec["slo"] = slo_fields(task.slo)
    nodes = {
        "nodeSelector": {"pool": "p"},
        "accelerator": {"product": task.accelerator, "count": 8},
        "price": {"perHour": "10"},
        "nodes": {"max": 4},
    }
    head = {"apiVersion": "metainf.dev/v1alpha1"}
    return (
        {**head, "kind": "InferenceWorkload", "metadata": {"name": "task", "namespace": "default"}, "spec": spec},
        {**head, "kind": "AcceleratorPool", "metadata": {"name": "pool"}, "spec": nodes},
    )


def test_every_task_is_a_valid_workload_on_a_pool_and_reads_back_the_same(tasks):
    for task in tasks:
        workload, nodes = manifests_of(task)
        parsed = parse_workload(workload)
        assert parsed.model.id == task.model
        assert parsed.workload.traffic == task.traffic, task
        assert [(b.metric, b.statistic) for b in parsed.workload.slo.bounds] == [
            (b.metric, b.statistic) for b in task.slo.bounds
        ]
        assert [b.bound_s for b in parsed.workload.slo.bounds] == pytest.approx([b.bound_s for b in task.slo.bounds])
        assert parsed.workload.budget.amount == Decimal(1000)
        node_pool = standing_pool(parse_pool(nodes))
        assert node_pool.accelerator.family == get(task.accelerator).family


def test_an_infeasible_method_says_why(tasks):
    eagle = next(method for method in portfolio() if method.name == "eagle")
    task = next(task for task in tasks if not task.draft_model and task.layout.pipeline_parallel == 1)
    found = replica_of(task, eagle)
    assert isinstance(found, Infeasible)
    assert "draft" in found.detail


def test_a_head_that_drafts_makes_speculation_with_it_feasible(tasks):
    eagle = next(method for method in portfolio() if method.name == "eagle")
    found = [replica_of(task, eagle) for task in tasks if task.draft_model]
    feasible = [replica for replica in found if not isinstance(replica, Infeasible)]
    assert len(feasible) / len(found) > 0.5
    assert all(replica.settings.speculation == eagle.settings.speculation for replica in feasible)


def test_equal_questions_get_the_same_replica(tasks):
    assert replica_of(tasks[0], portfolio()[0]) is replica_of(tasks[0], portfolio()[0])


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no traces at {FOLDER}: set METAINF_DATA")
@pytest.mark.parametrize("name", [pytest.param(name, id=name.value) for name in TraceName])
def test_the_fitted_figures_are_those_of_the_trace(name):
    found, stated = fit_traffic(load_trace(name, FOLDER)), FITTED[name]
    for field in fields(stated):
        spread = getattr(found, field.name)
        expected = getattr(stated, field.name)
        if expected is None:
            assert spread is None
            continue
        assert spread.middle == pytest.approx(expected.middle, rel=0.006), field.name
        assert spread.log_sd == pytest.approx(expected.log_sd, abs=0.002), field.name


def is_roomy(task):
    """Whether neither cache nor context shorten what a trace asks for."""
    context = known_model(task.model).max_context_tokens
    return replica_of(task, portfolio()[0]).settings.max_model_len == context >= 65_536


@pytest.mark.parametrize("name", list(TraceName))
def test_tasks_of_a_trace_have_its_lengths_where_there_is_room(tasks, name):
    means = [t.traffic.input_tokens.mean_tokens for t in tasks if t.origin == name.value and is_roomy(t)]
    assert np.median(means) == pytest.approx(FITTED[name].input_tokens.middle, rel=0.15)
