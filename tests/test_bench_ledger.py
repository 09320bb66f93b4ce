import json

import pytest

from metainf.bench.design import BenchPlan, crossed
from metainf.bench.ledger import opened, read_ledger
from metainf.errors import InvalidWorkloadError
from test_bench_report import record
from test_bench_running import MACHINE

PLAN = BenchPlan(crossed(["m"], ["decode"], ["c4", "b4"]), ("default", "ngram"), 2)


@pytest.fixture
def folder(tmp_path):
    """A bench by a version that did not write down what measured, with a line that a kill tore."""
    out = tmp_path / "out"
    with opened(out, PLAN, MACHINE) as ledger:
        for run in PLAN.runs[:3]:
            ledger.add(record(run, 1.0))
    manifest = json.loads((out / "bench.json").read_text())
    del manifest["measured_by"]
    (out / "bench.json").write_text(json.dumps(manifest))
    with (out / "ledger.jsonl").open("a") as lines:
        lines.write('{"record": "run", "mod')
    return out


def test_says_what_measured_part_after_part(tmp_path):
    for code in ("commit 1", "commit 1", "commit 2", "commit 1"):
        with opened(tmp_path, PLAN, MACHINE, code) as ledger:
            assert code in ledger.measured_by

    assert read_ledger(tmp_path).measured_by == ("commit 1", "commit 2")


def test_what_an_earlier_version_measured_is_not_called_by_a_later_one(folder):
    with opened(folder, PLAN, MACHINE, "commit 2") as ledger:
        assert ledger.measured_by == ("a version that is not recorded", "commit 2")


def test_one_may_say_what_measured_only_where_the_folder_does_not(folder):
    assert read_ledger(folder).measured_by == ()
    assert read_ledger(folder, code="commit 1").measured_by == ("commit 1",)

    with opened(folder, PLAN, MACHINE, "commit 2"):
        pass
    with pytest.raises(InvalidWorkloadError, match="not by commit 1"):
        read_ledger(folder, code="commit 1")


def test_whoever_only_reads_changes_nothing(folder):
    """A bench may be writing that very line."""
    before = (folder / "ledger.jsonl").read_bytes()

    assert len(read_ledger(folder).runs) == 3
    assert (folder / "ledger.jsonl").read_bytes() == before


def test_is_kept_whole_in_another_folder(folder, tmp_path):
    ledger = read_ledger(folder, code="commit 1")
    kept = ledger.copied(tmp_path / "kept")

    assert [path.name for path in kept] == ["bench.json", "ledger.jsonl"]
    found = read_ledger(tmp_path / "kept")
    assert (found.plan, found.machine, found.measured_by) == (PLAN, MACHINE, ("commit 1",))
    assert found.runs == ledger.runs
    assert found.copied(tmp_path / "kept") == kept


def test_is_not_written_over_another_bench(folder, tmp_path):
    with (
        opened(tmp_path / "other", PLAN, MACHINE),
        pytest.raises(InvalidWorkloadError, match="where another bench measures"),
    ):
        read_ledger(folder).copied(tmp_path / "other")
