import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import metainf.corpus.tables
import metainf.evaluation.report_files
from measured_row import GPUSTACK_ROW
from metainf.cli import main
from metainf.cli.evaluate import _SPLITS, _learner
from metainf.corpus.tables import Truth
from metainf.corpus.task import TrafficKind
from metainf.errors import InvalidWorkloadError
from metainf.evaluation.report_files import write_figures
from metainf.evaluation.report_values import Evaluation
from metainf.evaluation.splits import SplitKind
from metainf.measurements import table_of, write_measurements
from metainf.selectors.contract import MethodTable
from selection_tables import learnable_table

TABLE = learnable_table(120)
# Another world, which knows nothing of every third task and names the worst method the best.
OTHER = replace(
    TABLE, performance=np.where(np.arange(len(TABLE))[:, None] % 3 == 0, np.nan, TABLE.performance[:, ::-1])
)
# A simulation that is right, of every other task.
SIMULATED = replace(TABLE, performance=np.where(np.arange(len(TABLE))[:, None] % 2 == 0, TABLE.performance, np.nan))


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def load_truth(
        folder: Path,
        *,
        world: str | None,
        beside: Sequence[str],
        also_in: Sequence[str],
        most_tasks: int | None,
    ) -> dict[TrafficKind, Truth]:
        assert folder == tmp_path
        known: dict[str, MethodTable] = {"other": OTHER, "roofline": SIMULATED}
        if not set(beside) <= set(known):
            raise InvalidWorkloadError("there is no such world")
        table = known.get(world or "", TABLE)
        kept = np.arange(most_tasks or len(TABLE))
        for each in (table, *(known[name] for name in also_in)):
            kept = kept[np.isfinite(each.performance[kept]).any(axis=1)]
        seeds = table.performance[kept, :, None] * np.ones(2)
        return {TrafficKind.BATCH: Truth(table.rows(kept), seeds, {name: known[name].rows(kept) for name in beside})}

    monkeypatch.setattr(metainf.corpus.tables, "load_truth", load_truth)
    return tmp_path


def asked(corpus: Path, *more: str) -> int:
    left_out = ("--predictor-lanes", "0", "--published-most", "0")
    return main(["evaluate", "--corpus", str(corpus), "--out", str(corpus / "out"), *left_out, *more])


def test_writes_the_report_and_says_how_the_focus_did(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(corpus, "--selectors", "nearest-neighbour,vllm-default", "--quick") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("batch, leave-model-out: nearest-neighbour on")
    assert {line.partition(":")[0] for line in lines[2:-1]} == {"nearest-neighbour", "vllm-default", "studies"}
    assert lines[-1].startswith(str(corpus / "out" / "report.md"))
    assert "metainf: batch, leave-accelerator-out: vllm-default" in err
    text = (corpus / "out" / "report.md").read_text()
    assert "80 tasks" in text
    assert "| leave-model-out | ceiling |" in text
    for kind in ("leave-model-out", "leave-accelerator-out"):
        assert f"| {kind} | shuffled labels are no better than what can run and is best on average | " in text


def test_only_the_splits_and_folds_that_are_asked_for(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(corpus, "--selectors", "single-best", "--split", "random", "--most-folds", "2") == 0
    assert set(_SPLITS) == {str(kind) for kind in SplitKind}
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("batch")] == [
        next(line for line in out.splitlines() if line.startswith("batch, random: single-best on"))
    ]
    assert "leave-model-out" not in err


def test_learns_from_one_world_and_is_judged_by_another(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worlds = ("--world", "this", "--train-world", "other")
    assert asked(corpus, "--selectors", "nearest-neighbour", "--split", "leave-model-out", *worlds) == 0
    assert "batch, leave-model-out, trained on other: nearest-neighbour on" in capsys.readouterr().out
    text = (corpus / "out" / "report.md").read_text()
    assert "120 tasks, " in text
    assert "Another world is learnt from: 80 of its tasks" in text
    assert "| leave-model-out, trained on other | **nearest-neighbour** |" in text


@pytest.mark.parametrize("left_out", [pytest.param(True, id="left out"), pytest.param(False, id="as usual")])
def test_curves_and_importances_can_be_left_out(corpus: Path, left_out: bool) -> None:
    more = ["--selectors", "nearest-neighbour", "--split", "leave-model-out", "--most-folds", "2"]
    assert asked(corpus, *more, *(["--no-studies"] if left_out else [])) == 0
    text = (corpus / "out" / "report.md").read_text()
    assert ("### Learning curve" in text) is not left_out
    assert ("### What matters to" in text) is not left_out


def test_what_another_world_knows_is_thinned_as_what_is_judged_is(corpus: Path) -> None:
    more = ("--selectors", "nearest-neighbour", "--split", "leave-model-out", "--quick", "--compared-tasks", "50")
    assert asked(corpus, *more, "--most-tasks", "100", "--world", "this", "--train-world", "other") == 0
    text = (corpus / "out" / "report.md").read_text()
    assert "50 tasks, " in text and "learnt from: 50 of its tasks" in text
    assert '"All tasks" are 100' in text


def test_simulations_are_told_of_what_is_learnt_from_too(corpus: Path) -> None:
    worlds = ("--world", "this", "--train-world", "other", "--simulated-by", "roofline")
    more = ("--selectors", "nearest-neighbour", "--split", "leave-model-out", "--quick")
    assert asked(corpus, *more, *worlds) == 0
    rows = list(csv.DictReader((corpus / "out" / "figures.csv").read_text().splitlines()))
    split = "leave-model-out, trained on other, simulated by roofline"
    found = {row["selector"]: row for row in rows if (row["split"], row["figure"]) == (split, "tolerant_accuracy")}
    assert float(found["simulator-only"]["value"]) == 1.0
    assert {row["tasks"] for row in found.values() if row["scope"] == "all"} == {"40"}


def test_simulations_of_another_world_are_a_selector_on_the_tasks_that_have_them(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--simulated-by", "roofline", "--split", "leave-model-out")
    assert asked(corpus, "--selectors", "vllm-default,nearest-neighbour", "--quick", *more) == 0
    assert "batch: 40 tasks were simulated by roofline" in capsys.readouterr().err
    rows = list(csv.DictReader((corpus / "out" / "figures.csv").read_text().splitlines()))
    told = [row for row in rows if (row["scope"], row["figure"]) == ("all", "tolerant_accuracy")]
    named = {(row["split"], row["selector"]): row for row in told}
    simulated = "leave-model-out, simulated by roofline"
    assert float(named[simulated, "simulator-only"]["value"]) == 1.0
    assert ("leave-model-out", "simulator-only") not in named
    for name in ("vllm-default", "nearest-neighbour", "single-best", "virtual-best"):
        assert (named["leave-model-out", name]["tasks"], named[simulated, name]["tasks"]) == ("80", "40")
    # A selector that looks at no pairs is worth the same whether it is told or not.
    untold = named[simulated, "nearest-neighbour, not told"]
    assert untold["value"] == named[simulated, "nearest-neighbour"]["value"]
    assert ("leave-model-out", "nearest-neighbour, not told") not in named
    text = (corpus / "out" / "report.md").read_text()
    assert "Simulated by roofline: 40 of these tasks" in text
    assert "Single best, of the train halves: leave-model-out: " in text


def test_few_selectors_are_judged_on_all_tasks_and_all_on_some(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--selectors", "roofline-only,nearest-neighbour", "--focus", "roofline-only", "--quick")
    splits = ("--split", "leave-model-out", "--split", "random", "--split", "leave-workload-out")
    assert asked(corpus, *more, "--most-tasks", "100", "--compared-tasks", "40", *splits) == 0
    out, err = capsys.readouterr()
    assert "batch, leave-model-out, all tasks: roofline-only on" in out
    assert "metainf: all tasks: batch, leave-model-out: roofline-only" in err
    rows = list(csv.DictReader((corpus / "out" / "figures.csv").read_text().splitlines()))
    tasks = {(row["split"], row["selector"]): row["tasks"] for row in rows if row["scope"] == "all"}
    assert tasks["leave-model-out", "roofline-only"] == tasks["leave-model-out", "nearest-neighbour"] == "40"
    assert tasks["leave-model-out, all tasks", "roofline-only"] == "100"
    assert ("leave-model-out, all tasks", "nearest-neighbour") not in tasks
    assert not {split for split, _ in tasks} & {"random, all tasks", "leave-workload-out, all tasks"}
    assert '"All tasks" are 100' in (corpus / "out" / "report.md").read_text()


def test_figures_are_written_after_every_split(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def written(evaluation: Evaluation, folder: Path) -> tuple[Path, Path]:
        found = write_figures(evaluation, folder)
        seen.append({row["split"] for row in csv.DictReader(found[0].read_text().splitlines())})
        return found

    monkeypatch.setattr(metainf.evaluation.report_files, "write_figures", written)
    assert asked(corpus, "--selectors", "vllm-default", "--quick", "--compared-tasks", "40", "--most-tasks", "50") == 0
    first, second = "leave-model-out", "leave-accelerator-out"
    whole = {first, second, f"{first}, all tasks"}
    assert seen[:4] == [{first}, {first, second}, whole, whole | {f"{second}, all tasks"}]


def test_the_same_command_takes_what_is_fitted_and_writes_the_same_figures(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--selectors", "nearest-neighbour,roofline-only", "--quick", "--simulated-by", "roofline")
    assert asked(corpus, *more) == 0
    assert "taken from" not in capsys.readouterr().err
    first = (corpus / "out" / "figures.csv").read_bytes()
    assert asked(corpus, *more) == 0
    assert (corpus / "out" / "figures.csv").read_bytes() == first
    lines = capsys.readouterr().err.splitlines()
    taken = f": 2 of 2 folds taken from {corpus / 'out' / 'outcomes'}"
    for split in ("leave-model-out", "leave-accelerator-out"):
        for name in ("nearest-neighbour", "roofline-only", "leak checks"):
            assert f"metainf: batch, {split}: {name}{taken}" in lines
        for name in ("roofline-only", "nearest-neighbour, not told", "simulator-only"):
            assert f"metainf: simulated by roofline: batch, {split}: {name}{taken}" in lines


def test_another_seed_or_another_folder_takes_nothing(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--selectors", "random", "--split", "leave-model-out", "--quick")
    for others in ((), ("--seed", "1"), ("--keep", str(corpus / "elsewhere"))):
        assert asked(corpus, *more, *others) == 0
        assert "taken from" not in capsys.readouterr().err
    kept = [len(list(folder.glob("*.npz"))) for folder in (corpus / "out" / "outcomes", corpus / "elsewhere")]
    assert kept[0] == 2 * kept[1] > 0


def test_what_there_is_no_time_for_is_said_and_the_same_command_goes_on(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--selectors", "vllm-default", "--split", "leave-model-out", "--quick")
    assert asked(corpus, *more, "--minutes", "1e-9") == 0
    assert capsys.readouterr().out.endswith("; the time was up before 1 of its parts: run the same command again\n")
    assert "**Not finished: batch, leave-model-out.**" in (corpus / "out" / "report.md").read_text()
    for minutes in ("60", "1e-9"):
        assert asked(corpus, *more, "--minutes", minutes) == 0
        assert "again" not in capsys.readouterr().out
        assert "Not finished" not in (corpus / "out" / "report.md").read_text()


def test_no_more_tasks_are_taken_than_are_asked_for(corpus: Path) -> None:
    more = ("--selectors", "vllm-default", "--split", "leave-model-out", "--quick", "--most-tasks", "50")
    assert asked(corpus, *more) == 0
    assert "50 tasks" in (corpus / "out" / "report.md").read_text()


def test_the_papers_figure_is_simulated_in_the_world_that_is_judged_by(corpus: Path) -> None:
    more = ("--selectors", "vllm-default", "--split", "leave-model-out", "--quick", "--world", "world:1")
    assert asked(corpus, *more, "--published-most", "4") == 0
    text = (corpus / "out" / "report.md").read_text()
    assert "simulated in world:1" in text
    assert "](published-figure-batch.png)" in text
    assert "\n| 4 | " in text and "\n| 8 | " not in text


def test_measured_rows_say_what_the_analytical_predictor_picks(corpus: Path) -> None:
    path = corpus / "rows.parquet"
    row = replace(GPUSTACK_ROW, input_tokens=200.0, output_tokens=100.0)
    slow = replace(row, method="max-num-seqs=1", output_tokens_per_second=10.0)
    write_measurements(table_of([row, slow]), path)
    more = ("--selectors", "vllm-default", "--split", "leave-model-out", "--quick", "--measured", str(path))
    assert asked(corpus, *more) == 0
    text = (corpus / "out" / "report.md").read_text()
    assert "## Measured rows alone: gpustack" in text
    assert "| analytical | 1.000 | 1.000 | 1.000 |" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(["--selectors", "nearest"], "'nearest' is none of random", id="an unknown selector"),
        pytest.param(["--selectors", ","], "an empty list", id="no selector"),
        pytest.param(
            ["--selectors", "random", "--focus", "isac"], "--focus isac: it must be", id="a focus not among them"
        ),
        pytest.param(["--measured", "absent.csv"], "there is no such file", id="measured rows that are not there"),
        pytest.param(
            ["--measured-predictor", "absent.metainf"], "there is no such file", id="a predictor that is not there"
        ),
        pytest.param(["--selectors", "random", "--kind", "rate"], "no tasks of rate", id="a kind that is not there"),
        pytest.param(["--selectors", "random", "--most-folds", "1"], "--most-folds must be at least 2", id="one fold"),
        pytest.param(["--most-tasks", "1"], "--most-tasks must be at least 2", id="one task"),
        pytest.param(["--jobs", "0"], "--jobs must be at least 1", id="no process"),
        pytest.param(["--minutes", "0"], "--minutes must be above 0, got 0", id="no time"),
        pytest.param(["--compared-tasks", "0"], "--compared-tasks must be at least 2", id="nothing to compare"),
        pytest.param(["--most-lanes", "0"], "--most-lanes must be at least 1", id="nothing to train on"),
        pytest.param(["--all-tasks-lanes", "-1"], "--all-tasks-lanes must be at least 0", id="less than nothing"),
        pytest.param(["--operator-workloads", "-1"], "--operator-workloads must be at least 0", id="too few"),
        pytest.param(["--published-most", "-1"], "--published-most must be at least 0", id="less than no batch"),
        pytest.param(["--table-store", "absent"], "--table-store absent: there is no such folder", id="no store"),
        pytest.param(["--simulated-by", "mars"], "there is no such world", id="a world that is not there"),
        pytest.param(
            ["--world", "other", "--train-world", "other"], "it must be another than --world", id="one world twice"
        ),
        pytest.param(
            ["--world", "own", "--train-world", "other"], "own takes tasks of every world", id="a world within another"
        ),
    ],
)
def test_bad_input_is_a_sentence_and_2(
    corpus: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert asked(corpus, *more) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("focus", "names", "learner"),
    [
        pytest.param("isac", ["isac", "metainf-ensemble", "metainf"], "isac", id="the focus learns from tables"),
        pytest.param("metainf", ["isac", "metainf-ensemble", "metainf"], "metainf-ensemble", id="what ships does not"),
        pytest.param("metainf", ["metainf"], "", id="nobody does"),
    ],
)
def test_leaks_are_looked_for_in_what_learns_from_tables(focus: str, names: list[str], learner: str) -> None:
    assert _learner(focus, names) == learner


def test_a_folder_that_is_not_there_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(tmp_path / "absent") == 2
    assert "there is no such folder" in capsys.readouterr().err
