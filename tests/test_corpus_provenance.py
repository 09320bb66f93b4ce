"""What decides a corpus's rows: nothing that makes them is forgotten, and what only reads them does not count."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import metainf
from metainf.corpus.provenance import Provenance, provenance_of, source_files
from metainf.corpus.worlds import RooflineWorld
from metainf.step_times import oracle
from metainf.step_times.store import TableStore
from metainf.step_times.worlds import TableWorld

ROOT = Path(metainf.__file__).parents[1]

MEASURES = """
import sys
from metainf.corpus import build
from metainf.corpus.measuring import measured_task
from metainf.corpus.task import Task
from metainf.layouts import Layout
from metainf.step_times.worlds import HiddenWorld
from metainf.workload import BatchLoad, TokenLengths, Traffic

traffic = Traffic(BatchLoad(4, 60.0), TokenLengths(100.0), TokenLengths(10.0))
task = Task("Qwen/Qwen3-8B", "H100-SXM-80GB", Layout(), traffic)
assert measured_task(task, HiddenWorld(0), repeats=[0])
files = (getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("metainf"))
print(*sorted(filter(None, files)), sep="\\n")
"""


@pytest.fixture(scope="module")
def names():
    return {path.relative_to(ROOT).as_posix() for path in source_files()}


def test_every_module_that_measuring_a_task_loads_is_among_the_sources(names):
    found = subprocess.run([sys.executable, "-c", MEASURES], capture_output=True, text=True, check=True)
    loaded = {Path(line).relative_to(ROOT).as_posix() for line in found.stdout.splitlines()}
    assert len(loaded) > 50
    assert loaded <= names


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("metainf/corpus/measuring.py", True),
        ("metainf/corpus/design.py", True),
        ("metainf/simulator/engine.py", True),
        ("metainf/step_times/worlds.py", True),
        ("metainf/memory.py", True),
        ("metainf/weights.py", True),
        ("metainf/activations.py", True),
        ("metainf/data/accelerators.json", True),
        ("metainf/data/models/qwen.json", True),
        ("metainf/data/flags/0.32.0.json", True),
        ("metainf/corpus/tables.py", False),
        ("metainf/selectors/ensemble.py", False),
        ("metainf/evaluation/metrics.py", False),
        ("metainf/data/prices.json", False),
    ],
)
def test_what_decides_rows_counts_and_what_reads_them_does_not(names, name, counts):
    assert (ROOT / name).is_file()
    assert (name in names) is counts


def copied(tmp_path):
    for path in source_files():
        to = tmp_path / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    return tmp_path


def test_equal_sources_have_equal_digests_wherever_they_lie(tmp_path):
    assert provenance_of([], copied(tmp_path)) == provenance_of([])
    assert provenance_of([]).differences(provenance_of([])) == ""
    assert provenance_of([]).changed_files() == ()


def test_a_changed_source_is_named(tmp_path):
    before = provenance_of([], copied(tmp_path))
    name = "metainf/speculation.py"
    (tmp_path / name).write_text((tmp_path / name).read_text() + "\n# Faster.\n")
    assert before.changed_files(tmp_path) == (name,)
    assert before.differences(provenance_of([], tmp_path)) == name
    (tmp_path / name).unlink()
    assert before.changed_files(tmp_path) == (name,)


def test_a_module_that_is_imported_anew_counts(tmp_path):
    before = provenance_of([], copied(tmp_path))
    shutil.copyfile(ROOT / "metainf/prices.py", tmp_path / "metainf/prices.py")
    assert provenance_of([], tmp_path) == before
    name = "metainf/speculation.py"
    (tmp_path / name).write_text("from metainf import prices\n" + (tmp_path / name).read_text())
    assert before.differences(provenance_of([], tmp_path)) == f"metainf/prices.py, {name}"


def test_more_differences_than_a_message_takes_are_counted():
    before = Provenance({"a": "1", "b": "1"}, {"numpy": "1"}, {"table:x": "1"})
    after = Provenance({"a": "2", "b": "2"}, {"numpy": "2"}, {})
    assert before.differences(after) == "a, b, numpy and 1 more"


def test_it_comes_back_from_a_manifest_as_it_was():
    made = provenance_of([])
    assert Provenance.from_json(made.to_json()) == made


@pytest.fixture
def without_library(monkeypatch):
    monkeypatch.setattr(oracle, "installed", lambda: False)


def test_a_store_of_tables_counts_with_all_its_files(tmp_path, without_library):
    world = TableWorld(TableStore(tmp_path))
    digests = []
    for name, content in (("a.npz", b"1"), ("b.npz", b"1"), ("b.npz", b"2"), ("c.npz", b"2")):
        (tmp_path / name).write_bytes(content)
        digests.append(provenance_of([RooflineWorld(), world]).stores)
    assert all(set(each) == {world.name} for each in digests)
    assert len({each[world.name] for each in digests}) == 4
    (tmp_path / "d.npz.7.partial").write_bytes(b"half")
    assert provenance_of([world]).stores == digests[-1]


def test_a_store_that_grows_by_what_is_sampled_counts_by_what_samples_it(tmp_path, monkeypatch):
    monkeypatch.setattr(oracle, "installed", lambda: True)
    monkeypatch.setattr("metainf.corpus.provenance.version", lambda name: f"0 of {name}")
    world = TableWorld(TableStore(tmp_path))
    before = provenance_of([world]).stores
    (tmp_path / "a.npz").write_bytes(b"1")
    assert provenance_of([world]).stores == before
    assert before == {world.name: "sampled by aiconfigurator-core 0 of aiconfigurator-core"}
