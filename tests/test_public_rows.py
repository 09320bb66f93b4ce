"""Published measurements as rows of the table: with their source, and complaining about bad lines."""

import os
from pathlib import Path

import pytest

from metainf.corpus.public_rows import argonne_measurements, gpustack_measurements, silicon_measurements
from metainf.errors import InvalidWorkloadError
from metainf.measurements import checked, table_of

FOLDER = Path(os.environ.get("METAINF_DATA", Path(__file__).parents[2] / "shared" / "data")) / "measured"
HEADER = "Hardware,Num of Hardware,Framework,Model,Input Output Length,Batch Size,Latency,Throughput\n"
SILICON = (
    "silicon_data_source,backend,backend_version,model_path,system,precision,mode,isl,osl,batch_size,tp_size,pp_size,"
    "moe_ep_size,silicon_ttft_ms,silicon_tpot_ms\n"
)
DUMP = "db-dump/2026-04-27; silicon_concurrency=64"

needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no measured sets at {FOLDER}: set METAINF_DATA")


def argonne(folder, *lines):
    path = folder / "llm_inference_bench_all.csv"
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return argonne_measurements(path)


def silicon(folder, *lines):
    path = folder / "silicon_sample.csv"
    path.write_text(SILICON + "".join(f"{line}\n" for line in lines))
    return silicon_measurements(path)


def test_an_offline_batch_has_its_makespan_and_the_tokens_that_follow(tmp_path):
    (row,) = argonne(tmp_path, "Nvidia H100 GPU,2,vLLM,Qwen/Qwen2-72B,128,16,4.0,1024")
    assert (row.model, row.accelerator, row.tensor_parallel) == ("Qwen/Qwen2.5-72B-Instruct", "H100-SXM-80GB", 2)
    assert row.makespan_s == 4.0
    assert row.output_tokens_per_second == pytest.approx(512.0)
    assert (row.source, row.source_version, row.task, row.world) == ("argonne", "4211f5d4", "", "")


def test_a_closed_loop_has_the_tokens_of_littles_law_and_counts_once(tmp_path):
    line = f"{DUMP},vllm,0.19.0,openai/gpt-oss-120b,h100_sxm,fp4,agg,1000,100,1,4,1,4,190,10.0"
    rows = silicon(tmp_path, line, line.replace(",190,", ",190.001,"), line.replace(",190,", ",200,"))
    assert len(rows) == 2
    row = rows[0]
    assert (row.clients, row.input_tokens, row.output_tokens, row.method) == (64, 900.0, 90.0, "fp4")
    assert (row.tensor_parallel, row.expert_parallel) == (4, True)
    assert row.requests_per_second == pytest.approx(64 / (0.19 + 0.01 * 89))
    assert (row.source, row.engine_version) == ("silicon", "0.19.0")


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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("vllm", "sglang", id="another engine"),
        pytest.param("agg", "disagg", id="prompts and answers apart"),
        pytest.param("h100_sxm", "gb200", id="an accelerator that is not read"),
        pytest.param("openai/gpt-oss-120b", "Qwen/Qwen3-235B-A22B-FP8", id="rows that contradict themselves"),
    ],
)
def test_silicon_rows_that_say_nothing_to_us_are_left_out(tmp_path, old, new):
    line = f"{DUMP},vllm,0.19.0,openai/gpt-oss-120b,h100_sxm,fp4,agg,1000,100,1,4,1,4,190,10.0"
    assert silicon(tmp_path, line.replace(old, new)) == []


def test_a_malformed_line_is_named(tmp_path):
    with pytest.raises(InvalidWorkloadError, match=r"llm_inference_bench_all\.csv, line 3: ValueError"):
        argonne(
            tmp_path,
            "Nvidia H100 GPU,1,vLLM,Qwen/Qwen2-7B,128,1,1.0,1",
            "Nvidia H100 GPU,1,vLLM,Qwen/Qwen2-7B,many,1,1.0,1",
        )


@pytest.mark.parametrize("read", [argonne_measurements, gpustack_measurements, silicon_measurements])
def test_a_missing_file_says_so(tmp_path, read):
    with pytest.raises(InvalidWorkloadError, match="no measurements at"):
        read(tmp_path / "absent.csv")


@needs_data
@pytest.mark.parametrize(
    ("read", "file", "least"),
    [
        pytest.param(argonne_measurements, "llm_inference_bench_all.csv", 1700, id="argonne"),
        pytest.param(gpustack_measurements, "gpustack_perflab.csv", 150, id="gpustack"),
    ],
)
def test_the_public_sets_are_valid_tables(read, file, least):
    rows = read(FOLDER / file)
    assert len(rows) >= least
    assert checked(table_of(rows)).num_rows == len(rows)
    assert all(row.performance is None and row.purpose == "load" for row in rows)
