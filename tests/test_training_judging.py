"""Both predictors judged on rows whose truth is known: slower accelerators, which only the trained one can learn."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from distorted_corpus import corpus
from metainf.cli import main
from metainf.corpus import build
from metainf.corpus.build import MANIFEST, TASKS
from metainf.corpus.task import TrafficKind
from metainf.corpus.task_store import write_tasks
from metainf.errors import InvalidWorkloadError
from metainf.measurements import write_measurements
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.training.boosting import Growth
from metainf.training.held_out_predictors import HeldOutPredictors
from metainf.training.judgement_text import judgement_sections
from metainf.training.judging import ANALYTICAL, TRAINED, JudgedIntervals, Judgement, judge
from metainf.training.train import TrainingPlan

SMALL = Growth(trees=15, learning_rate=0.3, depth=4)


@pytest.fixture(scope="module")
def judgement() -> Judgement:
    return judge(*corpus(2), TrainingPlan(growth=SMALL, most_folds=3))


def intervals(judgement: Judgement, kind: TrafficKind, split: str, target: str) -> dict[str, JudgedIntervals]:
    return {
        each.predictor: each
        for each in judgement.intervals
        if (each.kind, each.split, each.target) == (kind, split, target)
    }


def test_what_was_learnt_is_closer_on_models_that_were_held_out(judgement: Judgement) -> None:
    for kind, target in ((TrafficKind.RATE, "capacity"), (TrafficKind.CONCURRENCY, "tpot_mean")):
        found = intervals(judgement, kind, "leave-model-out", target)
        assert found[TRAINED].median_error < 0.6 * found[ANALYTICAL].median_error
        assert found[TRAINED].figures.interval_score < found[ANALYTICAL].figures.interval_score


def test_intervals_of_every_kind_and_split_hold_about_what_they_say(judgement: Judgement) -> None:
    assert {(each.kind, each.split) for each in judgement.intervals} == {
        (kind, split) for kind in TrafficKind for split in ("leave-model-out", "leave-accelerator-out")
    }
    covered = [each.figures.coverage for each in judgement.intervals if each.predictor == TRAINED]
    assert 0.8 < sum(covered) / len(covered) <= 1.0
    assert not intervals(judgement, TrafficKind.CONCURRENCY, "leave-model-out", "makespan")


def test_decisions_are_judged_where_there_are_limits(judgement: Judgement) -> None:
    # The closed loops of this corpus promise nothing, but a budget is a limit too.
    assert {each.kind for each in judgement.decisions} == set(TrafficKind)
    for each in judgement.decisions:
        assert each.figures.groups >= 2
        if each.predictor == TRAINED:
            assert each.figures.groups_with_picks > 0
            assert each.figures.violation_rate <= 0.1


def test_every_kind_has_its_sections(judgement: Judgement) -> None:
    titles = [section.splitlines()[0] for section in judgement_sections(judgement)]
    assert titles == [f"## {what}: {kind}" for kind in TrafficKind for what in ("Intervals", "Calibrated decision")]


def test_the_report_of_the_command_holds_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, tasks = corpus()
    plan = '{"tasks": 1, "seed": 0, "worlds": ["distorted@1"]}'
    (tmp_path / MANIFEST).write_text(f'{{"schema": {build._SCHEMA}, "plan": {plan}, "versions": {{}}}}')
    write_tasks(tasks, tmp_path / TASKS)
    write_measurements(table, tmp_path / "rows-distorted-000000.parquet")
    asked = ["evaluate", "--corpus", str(tmp_path), "--out", str(tmp_path / "out"), "--quick", "--kind", "rate"]
    assert main([*asked, "--selectors", "vllm-default", "--operator-workloads", "1"]) == 0
    assert "the operator's own choice is left out: distorted needs --table-store" in capsys.readouterr().err
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Intervals: rate" in text and "## Calibrated decision: rate" in text
    assert "## Intervals: batch" not in text
    assert "Predictors and the operator's choice took" in text


def test_the_operators_choice_is_simulated_in_each_tasks_own_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, tasks = corpus(2)
    plan = '{"tasks": 1, "seed": 0, "worlds": ["world:0@1", "distorted@1"]}'
    (tmp_path / MANIFEST).write_text(f'{{"schema": {build._SCHEMA}, "plan": {plan}, "versions": {{}}}}')
    write_tasks(tasks, tmp_path / TASKS)
    hidden = {task.key for task in tasks[::2]}
    own = pa.array([key in hidden for key in table.column("task").to_pylist()])
    there = table.filter(own)
    there = there.set_column(there.schema.get_field_index("world"), "world", pa.array(["world:0"] * there.num_rows))
    write_measurements(there.cast(table.schema), tmp_path / "rows-world-0-000000.parquet")
    write_measurements(table.filter(pc.invert(own)), tmp_path / "rows-distorted-000000.parquet")
    asked = ["evaluate", "--corpus", str(tmp_path), "--out", str(tmp_path / "out"), "--quick", "--kind", "batch"]
    asked += ["--kind", "concurrency", "--selectors", "vllm-default", "--world", "own", "--operator-workloads", "1"]
    assert main(asked) == 0
    assert "own choice for some tasks is left out: distorted needs --table-store" in capsys.readouterr().err
    assert "## The operator's own choice" in (tmp_path / "out" / "report.md").read_text()


def test_nothing_to_judge_is_said() -> None:
    table, tasks = corpus(2)
    with pytest.raises(InvalidWorkloadError, match="judging predictors needs simulated rows"):
        judge(table.slice(0, 0), tasks, TrainingPlan(growth=SMALL))


def test_a_predictor_is_trained_without_the_model_that_it_is_asked_about() -> None:
    said: list[str] = []
    table, tasks = corpus(1)
    plan = TrainingPlan(growth=SMALL, most_folds=2)
    found = HeldOutPredictors(table, tasks, plan, folds=2, report=said.append)
    model = tasks[0].model
    first = found(model)
    assert list(first) == [ANALYTICAL, f"{TRAINED}, model held out"]
    assert isinstance(first[ANALYTICAL], AnalyticalPredictor)
    assert len(said) == 1 and said[0].startswith("training without ")
    assert found(model)[f"{TRAINED}, model held out"] is first[f"{TRAINED}, model held out"]
    others = {id(found(task.model)[f"{TRAINED}, model held out"]) for task in tasks}
    assert len(others) == len(said) == 2


def test_one_model_alone_cannot_be_held_out() -> None:
    table, tasks = corpus(1)
    one = [task for task in tasks if task.model == tasks[0].model]
    kept = table.filter([name == tasks[0].model for name in table.column("model").to_pylist()])
    assert list(HeldOutPredictors(kept, one, TrainingPlan(growth=SMALL), folds=2)(one[0].model)) == [ANALYTICAL]


def test_choices_are_judged_on_the_tasks_that_all_methods_were_measured_on() -> None:
    table, tasks = corpus(2)
    plan = TrainingPlan(growth=SMALL, most_folds=2)
    found = judge(table, tasks, plan, whole=())
    assert found.decisions == ()
    assert found.intervals
