"""The tasks of the corpus: spread as the design says, possible as manifests, and fitted to the traces."""

import os
from collections import Counter
from dataclasses import fields
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from metainf.accelerators import Vendor, get
from metainf.corpus.design import designed_tasks
from metainf.corpus.fitted import FITTED, fit_traffic
from metainf.corpus.places import MEASURED_ACCELERATORS, distinct_models, places_of
from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import TrafficKind
from metainf.corpus.workloads import GRID
from metainf.known_models import known_model
from metainf.layers import AttentionKind
from metainf.manifests import parse_pool, parse_workload, standing_pool
from metainf.manifests.traffic import slo_fields, traffic_fields
from metainf.methods import portfolio
from metainf.traces import TraceName, load_trace

FOLDER = Path(os.environ.get("METAINF_DATA", Path(__file__).parents[2] / "shared" / "data")) / "traces"


@pytest.fixture(scope="module")
def tasks():
    return designed_tasks(340, seed=0)


def test_equal_seeds_give_equal_tasks_and_a_longer_design_begins_with_a_shorter(tasks):
    assert designed_tasks(40, seed=0) == tasks[:40]
    assert designed_tasks(40, seed=1) != tasks[:40]


def test_no_task_stands_there_twice(tasks):
    assert len(tasks) == len({task.key for task in tasks}) == 340


def test_models_accelerators_and_kinds_are_spread(tasks):
    assert len({task.model for task in tasks}) == len(distinct_models())
    assert len({task.accelerator for task in tasks}) > 40
    kinds = Counter(task.kind for task in tasks)
    assert kinds[TrafficKind.RATE] / len(tasks) == pytest.approx(0.30, abs=0.03)
    assert kinds[TrafficKind.CONCURRENCY] / len(tasks) == pytest.approx(0.40, abs=0.03)
    origins = Counter(task.origin for task in tasks)
    assert origins[GRID] / len(tasks) == pytest.approx(0.6, abs=0.03)
    assert set(origins) == {GRID, *(name.value for name in TraceName)}
    assert sum(task.draft_model for task in tasks) / len(tasks) == pytest.approx(0.25, abs=0.03)
    measured = sum(task.accelerator in MEASURED_ACCELERATORS for task in tasks)
    assert 0.4 < measured / len(tasks) < 0.65


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


def manifests_of(task):
    """The workload and the pool that a user would write for a task."""
    device = get(task.accelerator)
    is_cpu = device.vendor is Vendor.CPU
    spec = {
        "model": {"id": task.model} | ({"draftModel": {"id": "example/head"}} if task.draft_model else {}),
        "traffic": traffic_fields(task.traffic),
        "budget": {"perHour": "1000"},
        "methods": {"lossy": "Allow"},
        "engine": {"version": task.engine_version},
    }
    if task.slo.bounds:
        spec["slo"] = slo_fields(task.slo)
    pool = {
        "nodeSelector": {"pool": "p"},
        "accelerator": {"product": task.accelerator, "count": 0 if is_cpu else 8},
        "price": {"perHour": "10"},
        "nodes": {"max": 4},
    }
    if is_cpu:
        pool["nodeResources"] = {"cpu": str(int(device.cpu.cores)), "memory": f"{device.memory_bytes >> 30}Gi"}
    head = {"apiVersion": "metainf.dev/v1alpha1"}
    return (
        {**head, "kind": "InferenceWorkload", "metadata": {"name": "task", "namespace": "default"}, "spec": spec},
        {**head, "kind": "AcceleratorPool", "metadata": {"name": "pool"}, "spec": pool},
    )


def test_every_task_is_a_valid_workload_on_a_pool_and_reads_back_the_same(tasks):
    for task in tasks:
        workload, pool = manifests_of(task)
        parsed = parse_workload(workload)
        assert parsed.model.id == task.model
        assert parsed.workload.traffic == task.traffic, task
        assert [(b.metric, b.statistic) for b in parsed.workload.slo.bounds] == [
            (b.metric, b.statistic) for b in task.slo.bounds
        ]
        assert [b.bound_s for b in parsed.workload.slo.bounds] == pytest.approx([b.bound_s for b in task.slo.bounds])
        assert parsed.workload.budget.amount == Decimal(1000)
        node_pool = standing_pool(parse_pool(pool))
        assert node_pool.accelerator.family == get(task.accelerator).family


def test_an_infeasible_method_says_why(tasks):
    eagle = next(method for method in portfolio() if method.name == "eagle")
    task = next(task for task in tasks if not task.draft_model)
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
    return task.max_model_len is None and known_model(task.model).max_context_tokens >= 65_536


@pytest.mark.parametrize("name", list(TraceName))
def test_tasks_of_a_trace_have_its_lengths_where_there_is_room(tasks, name):
    means = [t.traffic.input_tokens.mean_tokens for t in tasks if t.origin == name.value and is_roomy(t)]
    assert np.median(means) == pytest.approx(FITTED[name].input_tokens.middle, rel=0.15)
