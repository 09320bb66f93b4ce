"""Published measurements as rows of the table: with their source, and complaining about bad lines."""

import os
from pathlib import Path

import pytest

from metainf.corpus.public_rows import argonne_measurements, gpustack_measurements
from metainf.errors import InvalidWorkloadError
from metainf.measurements import checked, table_of

FOLDER = Path(os.environ.get("METAINF_DATA", Path(__file__).parents[2] / "shared" / "data")) / "measured"
HEADER = "Hardware,Num of Hardware,Framework,Model,Input Output Length,Batch Size,Latency,Throughput\n"

needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no measured sets at {FOLDER}: set METAINF_DATA")


def argonne(folder, *lines):
    (folder / "llm_inference_bench_all.csv").write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return argonne_measurements(folder)


def test_an_offline_batch_has_its_makespan_and_the_tokens_that_follow(tmp_path):
    (row,) = argonne(tmp_path, "Nvidia H100 GPU,2,vLLM,Qwen/Qwen2-72B,128,16,4.0,1024")
    assert (row.model, row.accelerator, row.tensor_parallel) == ("Qwen/Qwen2.5-72B-Instruct", "H100-SXM-80GB", 2)
    assert row.makespan_s == 4.0
    assert row.output_tokens_per_second == pytest.approx(512.0)
    assert (row.source, row.source_version, row.task, row.world) == ("argonne", "4211f5d4", "", "")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("Nvidia H100 GPU,1,TensorRT-LLM,Qwen/Qwen2-7B,128,1,1.0,1", id="another engine"),
        pytest.param("SambaNova,1,vLLM,Qwen/Qwen2-7B,128,1,1.0,1", id="an accelerator that is not in the catalogue"),
        pytest.param("Nvidia H100 GPU,1,vLLM,nobody/nothing,128,1,1.0,1", id="a model that is not bundled"),
        pytest.param("Nvidia H100 GPU,1,vLLM,Qwen/Qwen2-7B,128,1,0.0,0", id="a run that failed"),
    ],
)
def test_rows_that_are_not_of_ours_are_left_out(tmp_path, line):
    assert argonne(tmp_path, line) == []


def test_a_malformed_line_is_named(tmp_path):
    with pytest.raises(InvalidWorkloadError, match=r"llm_inference_bench_all\.csv, line 3: ValueError"):
        argonne(
            tmp_path,
            "Nvidia H100 GPU,1,vLLM,Qwen/Qwen2-7B,128,1,1.0,1",
            "Nvidia H100 GPU,1,vLLM,Qwen/Qwen2-7B,many,1,1.0,1",
        )


@pytest.mark.parametrize("read", [argonne_measurements, gpustack_measurements])
def test_a_missing_file_says_so(tmp_path, read):
    with pytest.raises(InvalidWorkloadError, match="no measurements at"):
        read(tmp_path)


@needs_data
@pytest.mark.parametrize(
    ("read", "least"), [pytest.param(argonne_measurements, 1700, id="argonne"), (gpustack_measurements, 20)]
)
def test_the_public_sets_are_valid_tables(read, least):
    rows = read(FOLDER)
    assert len(rows) >= least
    assert checked(table_of(rows)).num_rows == len(rows)
    assert all(row.performance is None and row.purpose == "load" for row in rows)
