"""What ships, as a selector: trained on the train tasks' rows alone, written, loaded, and asked what operators ask."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from choices import GIB, pool
from distorted_corpus import corpus
from metainf.assessment import Assessment, assess
from metainf.candidates import Candidate, Option
from metainf.cli import main
from metainf.corpus import build
from metainf.corpus.budget_kinds import budget_kind
from metainf.corpus.build import MANIFEST, TASKS
from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import Task
from metainf.corpus.task_store import write_tasks
from metainf.layouts import Layout
from metainf.measurements import write_measurements
from metainf.methods import portfolio
from metainf.placement import ReplicaRequest, room_for
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Predictor, Question, ReplicaSpec
from metainf.predictors.trained import TrainedPredictor
from metainf.selectors.operator_ranking import operator_scores
from metainf.selectors.shipped import Lessons, Shipped
from metainf.workload import (
    BatchLoad,
    Budget,
    ConcurrencyLoad,
    LatencyMetric,
    Load,
    RateLoad,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
    Workload,
)
from selector_problems import halves, lessons, named, problem, shuffled, small
from trained_models import predictor as trained_predictor

METHODS = {method.name: method for method in portfolio()}
CONFIDENCE = 0.9
MISSED = -500.0
"""Below it are the scores of what breaks a limit."""


def promised(ttft_s: float, tpot_s: float) -> Slo:
    bounds = ((LatencyMetric.TTFT, ttft_s), (LatencyMetric.TPOT, tpot_s))
    return Slo(tuple(SloBound(metric, Statistic.P95, bound_s) for metric, bound_s in bounds))


def asked(load: Load, slo: Slo | None = None) -> Task:
    traffic = Traffic(load, TokenLengths(900.0, 1800.0), TokenLengths(180.0, 400.0))
    return Task("meta-llama/Llama-3.1-8B-Instruct", "H100-SXM-80GB", Layout(), traffic, slo or Slo())


def servable(task: Task) -> list[str]:
    return [name for name, method in METHODS.items() if not isinstance(replica_of(task, method), Infeasible)]


def scored(predictor: Predictor, task: Task) -> tuple[list[str], np.ndarray]:
    names = servable(task)
    feasible = np.ones((1, len(names)), dtype=np.bool_)
    return names, operator_scores(predictor, [task], names, feasible, confidence=CONFIDENCE)[0]


def assessed(predictor: Predictor, task: Task, names: Sequence[str], load: Load | None = None) -> Assessment:
    """One replica of each method as the operator's candidates on the task's place, whatever they may cost."""
    site = pool("site", task.accelerator)
    request = ReplicaRequest(task.layout.accelerators, 8.0, 64 * GIB)
    room = room_for(site, request)
    candidates = []
    for name in names:
        replica = replica_of(task, METHODS[name])
        assert not isinstance(replica, Infeasible)
        option = Option(site, METHODS[name], task.layout, replica, request, room)
        candidates.append(Candidate(option, 1, room.cost_per_hour(1)))
    traffic = task.traffic if load is None else replace(task.traffic, load=load)
    budget = Budget(budget_kind(task.kind), Decimal(1_000_000))
    return assess(Workload(traffic, budget, task.slo, confidence=CONFIDENCE), candidates, predictor)


@pytest.mark.parametrize(
    "make", [pytest.param(AnalyticalPredictor, id="analytical"), pytest.param(trained_predictor, id="trained")]
)
@pytest.mark.parametrize(
    "task",
    [
        pytest.param(asked(ConcurrencyLoad(32)), id="clients without promises"),
        pytest.param(asked(ConcurrencyLoad(64), promised(1.0, 0.03)), id="clients with promises"),
        pytest.param(asked(ConcurrencyLoad(64), promised(1e-5, 1e-5)), id="clients with promises that nothing keeps"),
        pytest.param(asked(BatchLoad(400, 3600.0)), id="a batch in good time"),
        pytest.param(asked(BatchLoad(400, 1.0)), id="a batch that nothing ends in time"),
    ],
)
def test_methods_are_ranked_as_the_operator_ranks_its_candidates(make: Callable[[], Predictor], task: Task) -> None:
    names, scores = scored(make(), task)
    found = assessed(make(), task, names)
    keeps = found.performs
    value = np.where(keeps, found.objective, found.performance_ratio)
    order = np.argsort(-scores, kind="stable")
    assert np.array_equal(scores > MISSED, keeps)
    assert not np.any(np.diff(keeps[order].astype(int)) > 0), "what keeps all limits goes first"
    for kept in (True, False):
        own = value[order][keeps[order] == kept]
        np.testing.assert_allclose(own, np.sort(own), rtol=1e-9)


def test_a_rate_is_the_highest_that_the_operator_leaves_to_one_replica() -> None:
    task, predictor = asked(RateLoad(2.0), promised(1.0, 0.03)), AnalyticalPredictor()
    names, scores = scored(predictor, task)
    kept = [(name, float(np.exp(score))) for name, score in zip(names, scores.tolist(), strict=True) if score > MISSED]
    assert len(kept) > 3
    assert len({round(rate, 2) for _, rate in kept}) > 3, "methods differ"
    for name, rate in kept:
        assert assessed(predictor, task, [name], RateLoad(rate * 0.999)).performs.all()
        assert not assessed(predictor, task, [name], RateLoad(rate * 1.01)).performs.any()


def test_the_declared_rate_does_not_matter() -> None:
    one, other = (scored(AnalyticalPredictor(), asked(RateLoad(rate), promised(1.0, 0.03)))[1] for rate in (0.1, 9.0))
    np.testing.assert_allclose(one, other)


def test_where_no_rate_keeps_the_promises_the_nearest_goes_first() -> None:
    task, predictor = asked(RateLoad(2.0), promised(1e-5, 1e-5)), AnalyticalPredictor()
    names, scores = scored(predictor, task)
    assert np.isfinite(scores).all() and (scores < MISSED).all()
    idle = assessed(predictor, task, names, RateLoad(1e-3)).performance_ratio
    best = int(np.argmax(scores))
    assert idle[best] == pytest.approx(idle.min(), rel=0.02)


def test_at_the_medians_the_best_is_what_does_most_of_what_is_predicted_to_keep_its_promise() -> None:
    task, predictor = asked(ConcurrencyLoad(64)), AnalyticalPredictor()
    names = servable(task)
    feasible = np.ones((1, len(names)), dtype=np.bool_)
    replicas = [replica_of(task, METHODS[name]) for name in names]
    answers = predictor.predict([Question(each, task.traffic) for each in replicas if isinstance(each, ReplicaSpec)])
    tpot_s = answers.latency_s[:, 1, 2]
    bound_s = float(np.median(tpot_s)) * 1.001
    task = replace(task, slo=Slo((SloBound(LatencyMetric.TPOT, Statistic.P95, bound_s),)))
    scores = operator_scores(predictor, [task], names, feasible)[0]
    keeps = tpot_s <= bound_s
    assert np.array_equal(scores > MISSED, keeps)
    np.testing.assert_allclose(scores[keeps], np.log(answers.output_tokens_per_second[keeps]))
    sure = operator_scores(predictor, [task], names, feasible, confidence=CONFIDENCE)[0] > MISSED
    assert set(np.flatnonzero(sure)) < set(np.flatnonzero(keeps)), "to be sure takes more"


def test_what_facts_rule_out_or_nobody_asks_about_has_no_score() -> None:
    task = asked(ConcurrencyLoad(8))
    names = [*METHODS, "unheard-of"]
    feasible = np.ones((1, len(names)), dtype=np.bool_)
    feasible[0, 0] = False
    scores = operator_scores(AnalyticalPredictor(), [task], names, feasible, confidence=CONFIDENCE)[0]
    known = set(servable(task)) - {names[0]}
    assert {name for name, each in zip(names, scores.tolist(), strict=True) if np.isfinite(each)} == known
    none = operator_scores(AnalyticalPredictor(), [], names, feasible[:0], confidence=CONFIDENCE)
    assert none.shape == (0, len(names))


TRAIN, TEST = halves(named(problem(len(lessons().tasks))))  # each name once


def digest(selector: object) -> str:
    found = selector.fit(TRAIN).predictor_  # type: ignore[attr-defined]
    assert isinstance(found, TrainedPredictor)
    return found.identity.digest


def test_what_is_asked_was_read_from_a_file_and_equal_lessons_give_equal_bytes() -> None:
    one = digest(small("metainf"))
    assert one.startswith("sha256:") and len(one) == len("sha256:") + 64
    assert digest(small("metainf")) == one
    assert digest(small("metainf", 1)) != one


def test_rows_of_other_tasks_than_those_fitted_on_teach_nothing() -> None:
    whole = lessons()
    assert TRAIN.tasks.keys is not None and TEST.tasks.keys is not None
    assert not set(TRAIN.tasks.keys.tolist()) & set(TEST.tasks.keys.tolist())
    mine = pc.is_in(whole.rows.column("task"), value_set=pa.array(TRAIN.tasks.keys.tolist(), pa.string()))
    assert digest(small("metainf", corpus=Lessons(whole.rows.filter(mine), whole.tasks))) == digest(small("metainf"))


def test_what_a_table_says_of_performance_does_not_matter_to_it() -> None:
    spoilt = small("metainf").fit(shuffled(TRAIN))
    assert isinstance(spoilt, Shipped)
    assert spoilt.predictor_.identity.digest == digest(small("metainf"))


def test_tasks_of_few_methods_are_learnt_from_where_nothing_of_them_is_held_out() -> None:
    every = lessons()
    keys = list(every.tasks)
    first = every.tasks[keys[0]]
    alike = replace(first, layout=Layout(2))
    others = [
        replace(first, model="Qwen/Qwen3-8B"),
        replace(first, accelerator="L4-PCIe-24GB"),
        replace(first, traffic=replace(first.traffic, output_tokens=TokenLengths(4000.0))),
        replace(first, traffic=replace(first.traffic, load=BatchLoad(7, None))),
    ]
    assert first.kind.value != "batch"
    few = {task.key: task for task in (alike, *others)}
    more = Lessons(every.rows, {**every.tasks, **few}, frozenset(keys))
    assert more.like(keys[:1]) == [alike.key]
    assert every.like(keys) == []


def test_rows_of_few_methods_are_among_what_is_learnt() -> None:
    every = lessons()
    assert TRAIN.tasks.keys is not None
    first = every.tasks[TRAIN.tasks.keys[0]]
    alike = replace(first, layout=Layout(2))
    own = every.rows.filter(pc.equal(every.rows.column("task"), first.key))
    place = own.column_names.index("task")
    own = own.set_column(place, own.field(place), pa.array([alike.key] * own.num_rows))
    rows = pa.concat_tables([every.rows, own])
    corpora = [
        Lessons(rows, {**every.tasks, alike.key: alike}, whole)
        for whole in (None, frozenset(every.tasks), frozenset([*every.tasks, alike.key]))
    ]
    alone, beside, as_whole = (digest(small("metainf", corpus=each)) for each in corpora)
    assert alone == as_whole == digest(small("metainf")), "a whole task that is in no table is none to learn from"
    assert beside != alone


def test_tasks_are_found_by_their_names_and_scored_by_what_they_are() -> None:
    selector = small("metainf").fit(TRAIN)
    assert TEST.tasks.keys is not None
    swapped = replace(TEST.tasks, keys=TEST.tasks.keys[::-1].copy())
    found, other = selector.scores(TEST.tasks), selector.scores(swapped)
    np.testing.assert_allclose(found, other[::-1], rtol=1e-9)


def test_a_corpus_and_its_names_are_needed() -> None:
    with pytest.raises(ValueError, match="needs the rows of a corpus"):
        Shipped().fit(TRAIN)
    nameless = replace(TRAIN, tasks=replace(TRAIN.tasks, keys=None))
    with pytest.raises(ValueError, match="needs their keys"):
        small("metainf").fit(nameless)
    strange = replace(TRAIN.tasks, keys=np.full(len(TRAIN), "nobody's"))
    with pytest.raises(ValueError, match="nobody's, which its corpus has not"):
        small("metainf").fit(replace(TRAIN, tasks=strange))


def test_the_headline_of_a_report_is_what_ships(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, tasks = corpus(2)
    plan = '{"tasks": 1, "seed": 0, "worlds": ["distorted@1"]}'
    (tmp_path / MANIFEST).write_text(f'{{"schema": {build._SCHEMA}, "plan": {plan}, "versions": {{}}}}')
    write_tasks(tasks, tmp_path / TASKS)
    write_measurements(table, tmp_path / "rows-distorted-000000.parquet")
    command = ["evaluate", "--corpus", str(tmp_path), "--out", str(tmp_path / "out"), "--quick"]
    command += ["--kind", "concurrency", "--predictor-lanes", "0"]
    assert main([*command, "--selectors", "vllm-default,roofline-only,metainf"]) == 0
    assert "concurrency, leave-model-out: metainf on" in capsys.readouterr().out
    text = (tmp_path / "out" / "report.md").read_text()
    for split in ("leave-model-out", "leave-accelerator-out"):
        about = "what ships, exported and reloaded; at most 6,000 pairs, 2 folds"
        assert f"| {split} | **metainf** ({about}) |" in text
    assert "Without figures" not in text
