"""Building a corpus: the same files whatever happened on the way, and never half a file."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np
import pytest

from corpus_stub import PLAN, built, slow_rows, stub_rows
from metainf import corpus
from metainf.cli import main
from metainf.cli.corpus import _reporting
from metainf.corpus.backends import Backend, workers
from metainf.corpus.build import (
    CorpusPlan,
    Progress,
    build,
    corpus_digest,
    missing_shards,
    read_made_by,
    read_plan,
    shards_of,
)
from metainf.corpus.design import designed_tasks
from metainf.corpus.measuring import is_known
from metainf.corpus.provenance import Provenance
from metainf.corpus.tables import load_rows, load_tables
from metainf.corpus.task import TrafficKind, twin_groups
from metainf.corpus.task_store import read_tasks, read_worlds, write_tasks
from metainf.corpus.worlds import RooflineWorld
from metainf.errors import InvalidWorkloadError
from metainf.measurements import MeasurementError, Purpose
from metainf.step_times import oracle


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    built(folder)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_corpus_holds_every_task_once_with_its_repeats(whole):
    rows = load_rows(whole).to_pylist()
    tasks = read_tasks(whole / "tasks.parquet")
    assert tasks == designed_tasks(10, seed=0)
    found = {(row["task"], row["method"], row["seed"]) for row in rows}
    expected = {(t.key, m, s) for t in tasks for m in ("default", "latency") for s in PLAN.repeats_of(t)}
    assert found == expected
    assert len(rows) == len(found)


@dataclass(frozen=True)
class HalfWorld(RooflineWorld):
    """Knows half of all tasks."""

    def times(self, replica, seed):
        return super().times(replica, seed) if len(replica.architecture.name) % 2 else None


def test_a_task_is_measured_in_the_first_world_that_knows_it_and_a_compared_one_in_all(tmp_path):
    plan = replace(PLAN, worlds=("half@1", "whole@1"), tasks=20, compared_every=2)
    build(tmp_path, plan, [HalfWorld("half"), RooflineWorld("whole")], clock=time.monotonic, measure=known_rows)
    rows = load_rows(tmp_path).to_pylist()
    found = {(row["task"], row["world"], row["seed"]) for row in rows}
    expected = set()
    for each in read_tasks(tmp_path / "tasks.parquet"):
        known = is_known(each, HalfWorld("half"))
        expected |= {(each.key, "half" if known else "whole", seed) for seed in plan.repeats_of(each)}
        expected |= {(each.key, "whole", 0)} if known and plan.is_compared(each) else set()
    assert found == expected
    assert len({world for _, world, _ in found}) == 2
    assert {"half", "whole"} in [{w for t, w, _ in found if t == task} for task, _, _ in found]


def known_rows(task, oracle, *, repeats, most_methods):
    return stub_rows(task, oracle, repeats=repeats) if is_known(task, oracle) else []


def test_some_tasks_are_whole_and_the_others_have_few_methods_and_stay_out_of_tables(tmp_path):
    plan = replace(PLAN, tasks=20, whole_every=2, repeated_every=1, few_methods=1)
    build(tmp_path, plan, [RooflineWorld()], clock=time.monotonic, measure=stub_rows)
    tasks = read_tasks(tmp_path / "tasks.parquet")
    found = {(row["task"], row["method"], row["seed"]) for row in load_rows(tmp_path).to_pylist()}
    whole = {task.key for task in tasks if plan.is_whole(task)}
    assert 0 < len(whole) < len(tasks)
    assert found == {
        (task.key, method, seed)
        for task in tasks
        for method, seed in ([("default", 0), ("default", 1), ("latency", 0), ("latency", 1)])
        if task.key in whole or (method, seed) == ("default", 0)
    }
    in_tables = [task for table in load_tables(tmp_path).values() for task in range(len(table))]
    assert len(in_tables) == len(whole)


def test_which_worlds_measure_a_task_is_settled_when_a_corpus_is_begun(tmp_path):
    plan = replace(PLAN, worlds=("half@1", "whole@1"))
    build(tmp_path, plan, [HalfWorld("half"), RooflineWorld("whole")], clock=time.monotonic, measure=known_rows)
    before, settled = contents(tmp_path), read_worlds(tmp_path / "tasks.parquet")
    assert {worlds[0] for worlds in settled.values()} == {"half", "whole"}
    for shard in shards_of(plan):
        (tmp_path / shard.file_name).unlink()
    grown = [RooflineWorld("half"), RooflineWorld("whole")]  # as a store of tables that has more of them by now
    build(tmp_path, plan, grown, clock=time.monotonic, measure=known_rows)
    assert contents(tmp_path) == before


def test_a_task_that_no_world_knows_has_no_rows(tmp_path):
    plan = replace(PLAN, worlds=("half@1",))
    build(tmp_path, plan, [HalfWorld("half")], clock=time.monotonic, measure=stub_rows)
    tasks = read_tasks(tmp_path / "tasks.parquet")
    known = {task.key for task in tasks if is_known(task, HalfWorld("half"))}
    assert 0 < len(known) < len(tasks)
    assert set(load_rows(tmp_path).column("task").to_pylist()) == known
    assert {key for key, worlds in read_worlds(tmp_path / "tasks.parquet").items() if worlds} == known


def test_twins_are_repeated_and_compared_together():
    groups = twin_groups(designed_tasks(340, seed=0))
    assert len(groups) > 2
    for group in groups:
        plan = replace(PLAN, whole_every=2)
        assert len({(plan.is_whole(task), plan.repeats_of(task), plan.is_compared(task)) for task in group}) == 1


def test_only_whole_tasks_are_repeated_or_compared():
    plan = replace(PLAN, whole_every=3, repeated_every=2, compared_every=2)
    tasks = designed_tasks(120, seed=0)
    others = [task for task in tasks if not plan.is_whole(task)]
    assert not any(plan.is_compared(task) or len(plan.repeats_of(task)) > 1 for task in others)
    whole = [task for task in tasks if plan.is_whole(task)]
    assert {(plan.is_compared(task), len(plan.repeats_of(task))) for task in whole} == {
        (compared, seeds) for compared in (False, True) for seeds in (1, 2)
    }


def test_two_processes_write_the_same_bytes_as_one(whole, tmp_path):
    built(tmp_path, n_jobs=2)
    assert contents(tmp_path) == contents(whole)
    assert corpus_digest(tmp_path) == corpus_digest(whole)


def test_a_build_that_was_killed_goes_on_and_ends_the_same(whole, tmp_path):
    script = Path(__file__).with_name("corpus_stub.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment) as process:
        deadline = time.monotonic() + 60.0
        while not list(tmp_path.glob("rows-*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = len(missing_shards(tmp_path, PLAN))
    assert 0 < left < len(shards_of(PLAN))
    progress = built(tmp_path)
    assert (progress.done, progress.here) == (5, left)
    assert contents(tmp_path) == contents(whole)


def test_half_a_file_left_by_a_kill_is_never_read(whole, tmp_path):
    built(tmp_path, seconds=0.0)
    (tmp_path / ".rows-roofline-000000.parquet.part").write_bytes(b"PAR1 half")
    built(tmp_path)
    assert contents(tmp_path) == contents(whole)
    assert not list(tmp_path.glob(".*.part"))


def test_nothing_is_begun_that_would_end_after_the_time(tmp_path):
    ticks = itertools.count()
    progress = build(
        tmp_path, PLAN, [RooflineWorld()], clock=lambda: 10.0 * next(ticks), seconds=145.0, measure=stub_rows
    )
    assert 1 <= progress.done < 5
    assert built(tmp_path).done == 5


def test_worlds_that_are_not_settled_in_time_are_settled_the_next_time(tmp_path):
    ticks = itertools.count()
    progress = build(
        tmp_path, PLAN, [RooflineWorld()], clock=lambda: 10.0 * next(ticks), seconds=25.0, measure=stub_rows
    )
    assert (progress.done, progress.total) == (0, 5)
    assert not (tmp_path / "tasks.parquet").exists()
    assert built(tmp_path).done == 5


def test_progress_says_how_long_the_rest_takes():
    assert Progress(done=6, total=10, here=2, elapsed_s=30.0).left_s == pytest.approx(60.0)
    assert Progress(done=4, total=10, here=0, elapsed_s=1.0).left_s is None


def test_every_shard_is_reported(tmp_path):
    seen = []
    built(tmp_path, report=seen.append)
    assert [progress.done for progress in seen] == [0, 1, 2, 3, 4, 5]
    assert seen[-1].total == 5


@pytest.mark.parametrize("change", [{"seed": 1}, {"tasks": 9}, {"worlds": ("roofline@2",)}])
def test_a_folder_with_another_corpus_is_left_alone(whole, change):
    before = contents(whole)
    with pytest.raises(InvalidWorkloadError, match=f"holds a corpus with {next(iter(change))}"):
        build(whole, replace(PLAN, **change), [RooflineWorld()], clock=time.monotonic, measure=stub_rows)
    assert contents(whole) == before


def begun_by_other(folder, part, name):
    """A corpus in that folder without rows yet, as if other code or other tables had begun it."""
    built(folder, seconds=0.0)
    path = folder / "corpus.json"
    document = json.loads(path.read_text())
    document["made_by"][0][part][name] = "another"
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        pytest.param("files", "metainf/simulator/engine.py", id="a source"),
        pytest.param("versions", "numba", id="a library"),
        pytest.param("stores", "table:x/0", id="a store of tables"),
    ],
)
def test_a_corpus_that_other_code_began_is_not_gone_on_with_unless_that_is_allowed(part, name, tmp_path):
    begun_by_other(tmp_path, part, name)
    before = contents(tmp_path)
    with pytest.raises(InvalidWorkloadError, match=f"other code or tables began, by {name}: check out the commit"):
        built(tmp_path)
    assert contents(tmp_path) == before
    assert built(tmp_path, allow_changed_code=True).done == 5
    first, second = read_made_by(tmp_path)
    assert first.differences(second) == name
    assert built(tmp_path).done == 5, "what is recorded is allowed"
    assert len(read_made_by(tmp_path)) == 2


def test_a_complete_corpus_is_complete_whatever_the_code_is_now(tmp_path):
    built(tmp_path)
    path = tmp_path / "corpus.json"
    path.write_text(path.read_text().replace(read_made_by(tmp_path)[0].files["metainf/memory.py"], "another"))
    before = contents(tmp_path)
    assert built(tmp_path).done == 5
    assert contents(tmp_path) == before


def test_a_build_stops_when_its_sources_change(tmp_path, monkeypatch):
    monkeypatch.setattr(Provenance, "changed_files", lambda self: ("metainf/memory.py",))
    with pytest.raises(InvalidWorkloadError, match=r"metainf/memory\.py changed while .* was being built"):
        built(tmp_path)
    assert len(missing_shards(tmp_path, PLAN)) == 5
    monkeypatch.undo()
    assert built(tmp_path).done == 5


def test_two_builds_in_one_folder_do_not_meet(tmp_path):
    def second(progress):
        if progress.done == 1:
            with pytest.raises(InvalidWorkloadError, match="another build is at work"):
                built(tmp_path)

    built(tmp_path, report=second)


def test_another_joblib_backend_writes_the_same(whole, tmp_path):
    with joblib.parallel_config(backend="threading"):
        built(tmp_path, n_jobs=2, measure=slow_rows)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.skipif(find_spec("distributed") is None, reason="needs the extra `dask`")
@pytest.mark.filterwarnings("ignore")  # of a cluster that comes and goes
def test_a_local_cluster_of_dask_writes_the_same(whole, tmp_path):
    with workers(Backend.DASK, 2):
        built(tmp_path, n_jobs=2)
    assert contents(tmp_path) == contents(whole)
    assert corpus_digest(tmp_path) == corpus_digest(whole)


def test_tasks_come_back_as_they_were_written(tmp_path):
    tasks = designed_tasks(30, seed=0)
    worlds = [("a", "b")[: number % 3] for number in range(30)]
    write_tasks(tasks, tmp_path / "tasks.parquet", worlds)
    assert read_tasks(tmp_path / "tasks.parquet") == tasks
    assert read_worlds(tmp_path / "tasks.parquet") == dict(zip((task.key for task in tasks), worlds, strict=True))


def test_tasks_of_real_servers_are_of_no_world(tmp_path):
    write_tasks(designed_tasks(3, seed=0), tmp_path / "tasks.parquet")
    with pytest.raises(MeasurementError, match="in which worlds"):
        read_worlds(tmp_path / "tasks.parquet")


def test_a_file_without_tasks_is_refused(tmp_path, whole):
    with pytest.raises(MeasurementError, match="holds no tasks"):
        read_tasks(next(whole.glob("rows-*.parquet")))
    (tmp_path / "tasks.parquet").write_bytes(b"no")
    with pytest.raises(MeasurementError, match="reading tasks"):
        read_tasks(tmp_path / "tasks.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, "holds no corpus", id="no manifest"),
        pytest.param("{", "is no manifest", id="no JSON"),
        pytest.param('{"schema": 9}', "is of schema 9, not 5", id="another schema"),
        pytest.param('{"schema": 5, "plan": {"worlds": [], "moods": 1}}', "is no manifest", id="unknown fields"),
    ],
)
def test_a_folder_that_is_no_corpus_says_so(tmp_path, text, message):
    if text is not None:
        (tmp_path / "corpus.json").write_text(text)
    with pytest.raises(InvalidWorkloadError, match=message):
        read_plan(tmp_path)


def test_tables_join_the_rows_with_the_features_of_their_tasks(whole):
    tables = load_tables(whole)
    tasks = read_tasks(whole / "tasks.parquet")
    assert set(tables) == {task.kind for task in tasks}
    for kind, table in tables.items():
        own = [task for task in tasks if task.kind is kind]
        assert len(table) == len(table.tasks) == len(own)
        column = table.tasks.methods.index("default")
        base = np.array([int(task.key[:4], 16) + 1.0 for task in own])
        repeated = np.array([len(PLAN.repeats_of(task)) == 2 for task in own])
        expected = base * np.where(repeated, np.sqrt(1.1), 1.0)
        assert table.performance[:, column] == pytest.approx(expected, rel=1e-5)  # rows keep five digits
        # Both methods gain 10 % with the second seed: nothing that a comparison of them would meet.
        assert (table.tolerance == 0.02).all()
        assert np.isnan(table.performance[:, table.tasks.methods.index("fp8-kv")]).all()
    if TrafficKind.RATE in tables:
        assert "static" not in tables[TrafficKind.RATE].tasks.methods


def test_rows_of_one_purpose_alone_can_be_read(whole):
    assert load_rows(whole, purpose=Purpose.IDLE).num_rows == 0
    assert load_rows(whole, world="roofline", purpose=Purpose.SCORE).num_rows == load_rows(whole).num_rows


def test_a_world_that_is_not_there_is_named(whole):
    with pytest.raises(InvalidWorkloadError, match="the worlds roofline, not of mars"):
        load_tables(whole, world="mars")


def test_the_manifest_says_what_was_asked_for(whole):
    assert read_plan(whole) == PLAN
    assert shards_of(CorpusPlan(3, 0, ("a@1", "b/c:1@2"), shard_tasks=2))[1].file_name == "rows-b-c-1-000000.parquet"


def test_the_command_shows_what_is_in_a_corpus(whole, capsys):
    assert main(["corpus", "show", str(whole)]) == 0
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    shown = {name.strip(): value.strip() for name, value in shown.items()}
    assert shown["tasks"] == "10, seed 0"
    assert shown["shards"] == "5 of 5"
    assert shown["worlds"] == "roofline"
    assert shown["made by"] == "one state of the code"
    assert shown["twins"].endswith("groups")
    assert shown["tasks without a winner"].startswith("0 of those measured")
    assert shown["digest"] == corpus_digest(whole)


def hopeless_rows(task, oracle, *, repeats, most_methods):
    rows = stub_rows(task, oracle, repeats=repeats)
    return [replace(row, performance=0.0) for row in rows] if task.kind is TrafficKind.RATE else rows


def test_tasks_whose_promises_nothing_keeps_are_counted_and_left_out_of_tables(tmp_path, capsys):
    built(tmp_path, measure=hopeless_rows)
    hopeless = sum(task.kind is TrafficKind.RATE for task in read_tasks(tmp_path / "tasks.parquet"))
    assert hopeless > 0
    assert main(["corpus", "show", str(tmp_path)]) == 0
    assert f"tasks without a winner  {hopeless} of those measured" in capsys.readouterr().out
    assert TrafficKind.RATE not in load_tables(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["show", "nowhere"], "holds no corpus", id="nothing to show"),
        pytest.param(["build", "--out", "x", "--tasks", "0"], "--tasks must be at least 1", id="no tasks"),
        pytest.param(["build", "--out", "x", "--jobs", "0"], "--jobs must not be 0", id="no process"),
        pytest.param(["build", "--out", "x", "--minutes", "0"], "--minutes must be above 0", id="no time"),
        pytest.param(["build", "--out", "x", "--backend", "dask"], "install the extra `dask`", id="no Dask"),
        pytest.param(["build", "--out", "x", "--worlds", "mars"], "there is no world 'mars'", id="unknown world"),
        pytest.param(["build", "--out", "x", "--worlds", "table:none"], "none holds no tables", id="no tables"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(oracle, "installed", lambda: False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["corpus", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tasks_and_replicas_bring_neither_pyarrow_nor_the_simulator():
    code = "import sys, metainf.corpus.replicas; print(sorted({'pyarrow', 'numba', 'scipy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_package_gives_load_tables(whole):
    assert set(corpus.load_tables(whole)) == set(load_tables(whole))
    with pytest.raises(AttributeError, match="nothing"):
        _ = corpus.nothing


def test_progress_is_a_line_where_there_is_no_terminal(capsys):
    with _reporting(terminal=False) as report:
        for done, elapsed_s in ((0, 0.0), (1, 30.0), (2, 61.0), (4, 100.0)):
            report(Progress(done, 4, done, elapsed_s))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "0/4 shards, time left not known yet",
        "2/4 shards, 0 h 01 min left",
        "4/4 shards, 0 h 00 min left",
    ]


def test_progress_is_a_bar_on_a_terminal(capsys):
    with _reporting(terminal=True) as report:
        report(Progress(1, 4, 1, 3600.0))
    assert "1/4 3 h 00 min left" in capsys.readouterr().err
