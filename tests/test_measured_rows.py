"""Rows of real servers beside a corpus: a file for each source, with its digest, never among simulated rows."""

import hashlib
import json
from dataclasses import replace

import pytest

from corpus_stub import built
from metainf.cli import main
from metainf.corpus.build import corpus_digest
from metainf.corpus.measured_rows import MEASURED, measured_digest, measured_files, write_measured
from metainf.corpus.tables import load_rows
from metainf.errors import InvalidWorkloadError
from metainf.measurements import MeasurementError, Source, read_measurements, table_of
from test_public_rows import DUMP, FOLDER, argonne, needs_data, silicon

BATCH = "Nvidia H100 GPU,2,vLLM,Qwen/Qwen2-72B,128,16,4.0,1024"
LOOP = f"{DUMP},vllm,0.19.0,openai/gpt-oss-120b,h100_sxm,fp4,agg,1000,100,1,4,1,4,190,10.0"


@pytest.fixture
def rows(tmp_path):
    sets = tmp_path / "sets"
    sets.mkdir()
    return [*argonne(sets, BATCH), *silicon(sets, LOOP)]


def test_each_source_has_a_file_with_its_version_and_digest(rows, tmp_path):
    files = write_measured(table_of(rows), tmp_path)
    assert [(each.source, each.versions, each.rows) for each in files] == [
        ("argonne", ("4211f5d4",), 1),
        ("silicon", ("aiconfigurator-core 0.12.0",), 1),
    ]
    for each in files:
        path = tmp_path / each.file_name
        assert each.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        assert read_measurements(path).column("source").unique().to_pylist() == [each.source]
    assert measured_files(tmp_path) == files
    assert not list(tmp_path.glob(".*"))


def test_equal_rows_give_equal_bytes_and_another_source_leaves_the_first(rows, tmp_path):
    both = write_measured(table_of(rows), tmp_path / "both")
    write_measured(table_of(rows[:1]), tmp_path / "one by one")
    assert write_measured(table_of(rows[1:]), tmp_path / "one by one") == both
    assert measured_digest(both[:1]) != measured_digest(both)


def test_a_source_is_replaced_as_a_whole(rows, tmp_path):
    write_measured(table_of(rows), tmp_path)
    files = write_measured(table_of([replace(rows[0], makespan_s=5.0), replace(rows[0], batch_requests=32)]), tmp_path)
    assert [each.rows for each in files] == [2, 1]
    assert read_measurements(tmp_path / files[0].file_name).column("makespan_s").to_pylist() == [5.0, 4.0]


def test_simulated_rows_and_none_are_refused(rows, tmp_path):
    simulated = replace(rows[0], source=Source.SIMULATION, world="roofline", task="a")
    with pytest.raises(InvalidWorkloadError, match="simulated ones are among them"):
        write_measured(table_of([rows[0], simulated]), tmp_path / "out")
    with pytest.raises(InvalidWorkloadError, match="there are none"):
        write_measured(table_of([]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_file_that_is_not_what_was_written_is_named_and_can_be_written_again(damage, rows, tmp_path):
    files = write_measured(table_of(rows), tmp_path)
    path = tmp_path / files[0].file_name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(MeasurementError, match=r"measured-argonne\.parquet is not what measured\.json says"):
        measured_files(tmp_path)
    write_measured(table_of(rows[:1]), tmp_path)
    assert measured_files(tmp_path) == files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "is no manifest", id="no JSON"),
        pytest.param('{"schema": 9}', "is of schema 9, not 1", id="another schema"),
        pytest.param('{"schema": 1, "files": [{"source": "../x"}]}', "is no manifest", id="no source"),
    ],
)
def test_a_damaged_manifest_says_so(text, message, tmp_path):
    (tmp_path / MEASURED).write_text(text)
    with pytest.raises(MeasurementError, match=message):
        measured_files(tmp_path)


def test_a_folder_without_measured_rows_has_none(tmp_path):
    assert measured_files(tmp_path) == ()


def test_measured_rows_never_stand_among_simulated_ones(rows, tmp_path, capsys):
    built(tmp_path)
    before, digest = load_rows(tmp_path), corpus_digest(tmp_path)
    write_measured(table_of(rows), tmp_path)
    assert load_rows(tmp_path).equals(before)
    assert corpus_digest(tmp_path) == digest
    assert main(["corpus", "show", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "measured rows" in shown
    assert "argonne 1, silicon 1" in shown
    assert measured_digest(measured_files(tmp_path)) in shown


def test_the_command_keeps_what_it_reads(rows, tmp_path, capsys):
    sets, out = tmp_path / "sets", tmp_path / "out"
    given = [str(sets / name) for name in ("llm_inference_bench_all.csv", "silicon_sample.csv")]
    assert main(["corpus", "measured", *given, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "measured-argonne.parquet: 1 rows of 4211f5d4, sha256:" in printed
    assert f"{out}: {measured_digest(measured_files(out))}" in printed
    assert len(json.loads((out / MEASURED).read_text())["files"]) == 2
    assert main(["corpus", "measured", str(tmp_path / "absent.csv"), "--out", str(out)]) == 2
    assert "there is no such file" in capsys.readouterr().err


@needs_data
def test_the_public_sets_are_kept(tmp_path):
    given = [str(FOLDER / name) for name in ("llm_inference_bench_all.csv", "gpustack_perflab.csv")]
    assert main(["corpus", "measured", *given, "--out", str(tmp_path)]) == 0
    assert {each.source: each.rows > 150 for each in measured_files(tmp_path)} == {"argonne": True, "gpustack": True}
