import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from choices import GIB, VERSION, architecture, device, pool, workload
from metainf.candidates import CandidateName, enumerate_candidates
from metainf.cli import main
from metainf.cli.predict import answers
from metainf.known_models import known_model_config
from metainf.pools import NodeCapacity, NodeShape
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Question
from metainf.rejections import RejectionReason
from metainf.workload import ConcurrencyLoad

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
QUESTION: dict[str, Any] = {
    "model": LLAMA,
    "accelerator": "NVIDIA-H100-80GB-HBM3",
    "count": 1,
    "traffic": {"concurrency": 64, "inputTokens": {"mean": 1024}, "outputTokens": {"mean": 1024}},
}


def asked(**changes: Any) -> dict[str, Any]:
    return QUESTION | changes


def traffic(**changes: Any) -> dict[str, Any]:
    found = QUESTION["traffic"] | changes
    return {key: value for key, value in found.items() if value is not ...}


def answer(*documents: object) -> list[dict[str, Any]]:
    lines = [d if isinstance(d, str) else json.dumps(d) for d in documents]
    return list(answers(lines, AnalyticalPredictor(), 0.9))


def test_answers_with_every_figure_and_its_interval() -> None:
    (found,) = answer(asked())
    assert list(found) == [
        "ttft",
        "tpot",
        "e2e",
        "outputTokensPerSecond",
        "requestsPerSecond",
        "interval",
        "outOfDistribution",
        "predictor",
    ]
    assert set(found["ttft"]) == set(found["tpot"]) == set(found["e2e"]) == {"mean", "p50", "p95", "p99"}
    assert found["interval"]["confidence"] == 0.9
    for metric in ("ttft", "tpot", "e2e"):
        for statistic, value in found[metric].items():
            low, high = found["interval"][metric][statistic]
            assert low < value < high
            assert math.sqrt(low * high) == pytest.approx(value, rel=1e-4)
    low, high = found["interval"]["outputTokensPerSecond"]
    assert low < found["outputTokensPerSecond"] < high
    assert found["outputTokensPerSecond"] == pytest.approx(1024 * found["requestsPerSecond"], rel=1e-4)
    assert found["predictor"]["name"] == "analytical"
    assert found["predictor"]["digest"].startswith("sha256:")
    assert found["outOfDistribution"] is False


def test_clients_times_requests_obey_littles_law() -> None:
    (found,) = answer(asked())
    assert found["requestsPerSecond"] * found["e2e"]["mean"] == pytest.approx(64, rel=0.05)


def test_flags_change_the_answer() -> None:
    plain, narrow, two = answer(
        asked(), asked(flags={"max-num-seqs": 4}), asked(count=2, flags={"tensor-parallel-size": 2})
    )
    assert narrow["requestsPerSecond"] < plain["requestsPerSecond"]
    assert two["tpot"]["mean"] < plain["tpot"]["mean"]


def test_without_a_parallel_size_the_model_is_cut_over_all_accelerators() -> None:
    by_count, by_flag = answer(asked(count=2), asked(count=2, flags={"tensor_parallel_size": 2}))
    assert by_count == by_flag


def test_an_overload_has_no_latency_and_the_most_that_can_be_delivered() -> None:
    (found,) = answer(asked(traffic=traffic(concurrency=..., requestsPerSecond=1000)))
    assert found["ttft"] == {"mean": None, "p50": None, "p95": None, "p99": None}
    assert found["interval"]["ttft"]["mean"] == [None, None]
    assert 0 < found["requestsPerSecond"] < 1000


def test_shared_prefixes_and_repetition_are_read() -> None:
    prefix = {"tokens": 960, "ratio": 0.9, "distinct": 4}
    plain, shared = answer(asked(), asked(traffic=traffic(sharedPrefix=prefix, repetitiveness="High", burstiness=1.0)))
    assert shared["ttft"]["mean"] < plain["ttft"]["mean"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param("not json", "not valid JSON", id="no JSON"),
        pytest.param("[1]", "the question must be an object", id="an array"),
        pytest.param("[" * 100_000, "cannot be read", id="deeply nested"),
        pytest.param('{"model": "m", "count": NaN}', "NaN is no number", id="NaN"),
        pytest.param(asked(model=7), "model must be a string", id="the model is a number"),
        pytest.param(asked(model="/nowhere/config.json"), "config.json", id="no such file"),
        pytest.param(
            asked(accelerator="Quantum-1"), "'Quantum-1' is not in the catalogue", id="an unknown accelerator"
        ),
        pytest.param(asked(accelerator="A100"), "name one of these", id="an ambiguous accelerator"),
        pytest.param(asked(count=0), "count", id="count 0"),
        pytest.param(asked(count=1.5), "whole number", id="a broken count"),
        pytest.param(asked(count=True), "count must be a number", id="a boolean count"),
        pytest.param(asked(count=3), "heads do not divide over 3", id="heads do not divide"),
        pytest.param(asked(cpuCores=8), "say something of a CPU, H100-SXM-80GB is none", id="cores of a GPU"),
        pytest.param(asked(accelerator="CPU-x86-64", memoryGib=8), "give that too", id="memory of no cores"),
        pytest.param(asked(accelerator="CPU-x86-64", cpuCores=0), "cpuCores must be above 0", id="no cores"),
        pytest.param(asked(count=4, flags={"tensor-parallel-size": 2}), "count is 4", id="layout and count differ"),
        pytest.param(asked(flags={"max-num-sequences": 4}), "max-num-seq", id="an unknown flag"),
        pytest.param(asked(flags=[1]), "flags must be an object", id="flags are a list"),
        pytest.param(asked(engineVersion="0.1"), "0.1", id="an unknown version"),
        pytest.param(asked(colour="red"), "colour is not a known field", id="an unknown field"),
        pytest.param(asked(traffic=None), "traffic is missing", id="no traffic"),
        pytest.param(asked(traffic=traffic(concurrency=...)), "either concurrency or", id="no load"),
        pytest.param(asked(traffic=traffic(requestsPerSecond=1)), "either concurrency or", id="two loads"),
        pytest.param(asked(traffic=traffic(concurrency=2.5)), "whole number", id="half a client"),
        pytest.param(asked(traffic=traffic(concurrency=10**400)), "cannot be read|at most", id="a huge number"),
        pytest.param(asked(traffic=traffic(inputTokens={"mean": -1})), "inputTokens.mean", id="a negative length"),
        pytest.param(asked(traffic=traffic(inputTokens={"mean": 9, "p95": 2})), "below the mean", id="p95 under mean"),
        pytest.param(asked(traffic=traffic(inputTokens=5)), "must be an object", id="a bare length"),
        pytest.param(asked(traffic=traffic(sharedPrefix={})), "tokens is missing", id="an empty prefix"),
        pytest.param(asked(traffic=traffic(repetitiveness="Some")), "must be one of", id="unknown repetitiveness"),
        pytest.param(asked(traffic=traffic(inputTokens={"mean": 200_000})), "max-model-len", id="too long"),
        pytest.param(asked(model="meta-llama/Llama-3.1-70B-Instruct"), "exceeds the usable", id="does not fit"),
    ],
)
def test_a_bad_line_is_answered_by_an_error_and_harms_no_other(document: object, message: str) -> None:
    before, found, after = answer(asked(), document, asked())
    assert list(found) == ["error"]
    assert re.search(message, found["error"])
    assert before == after
    assert "error" not in before


@pytest.mark.parametrize(
    ("prompt_tokens", "fits"),
    [
        pytest.param(20_000, True, id="with room to spare"),
        pytest.param(26_000, True, id="with the margin beside it"),
        pytest.param(28_000, False, id="the margin is too small"),
        pytest.param(40_000, False, id="the cache is too small"),
    ],
)
def test_what_the_plan_has_no_memory_for_is_not_predicted_either(prompt_tokens: int, fits: bool) -> None:
    lengths = traffic(inputTokens={"mean": prompt_tokens}, outputTokens={"mean": 1000})
    (found,) = answer(asked(accelerator="L4-PCIe-24GB", traffic=lengths))
    possible = enumerate_candidates(
        workload(lengths=(prompt_tokens, 1000)),
        architecture(LLAMA),
        (pool("l4", "L4-PCIe-24GB", per_node=1),),
        engine_version=VERSION,
        only=CandidateName("l4", "default", "TP1", 1),
    )
    assert ("error" not in found) is bool(possible.candidates) is fits
    if not fits:
        (rejection,) = possible.rejections
        assert rejection.reason is RejectionReason.MEMORY_TOO_SMALL
        assert rejection.detail.endswith(found["error"])


def test_long_requests_count_with_their_spread_as_in_a_plan() -> None:
    constant, spread = (
        answer(asked(accelerator="L4-PCIe-24GB", traffic=traffic(inputTokens=lengths)))[0]
        for lengths in ({"mean": 14_000}, {"mean": 14_000, "p95": 30_000})
    )
    assert "error" not in constant
    assert "exceeds the usable" in spread["error"]


def test_a_context_that_the_cache_does_not_hold_is_refused_where_it_is_asked_for() -> None:
    free, small, large = answer(
        asked(accelerator="L4-PCIe-24GB"),
        asked(accelerator="L4-PCIe-24GB", flags={"max-model-len": 8192}),
        asked(accelerator="L4-PCIe-24GB", flags={"max-model-len": 131072}),
    )
    assert "error" not in free
    assert "error" not in small
    assert large["error"].startswith("vLLM does not start with max-model-len 131072: each accelerator needs")


def test_a_cache_that_is_told_to_be_too_small_is_named_as_that() -> None:
    (found,) = answer(asked(flags={"kv-cache-memory-bytes": 1 << 20, "max-model-len": 8192}))
    assert found["error"].endswith("needs 0.25 GiB on each accelerator, kv-cache-memory-bytes allows 0.00")


def test_answers_come_in_the_order_of_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clients = [1, 512, 8, 64]
    file = tmp_path / "questions.jsonl"
    lines = [json.dumps(asked(traffic=traffic(concurrency=c))) for c in clients]
    file.write_text("\n".join([lines[0], "broken", "", *lines[1:]]) + "\n")
    assert main(["predict", "--batch", str(file), "--confidence", "0.8"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in f for f in found] == [False, True, False, False, False]
    rates = [f["requestsPerSecond"] for f in found if "error" not in f]
    assert [rates.index(r) for r in sorted(rates)] == [0, 2, 3, 1]
    assert found[0]["interval"]["confidence"] == 0.8


def test_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(QUESTION)))
    assert main(["predict", "--batch", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["tpot"]["mean"] > 0


def test_one_question_by_flags_is_answered_as_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", LLAMA, "--accelerator", "NVIDIA-H100-80GB-HBM3", "--count", "1", "--concurrency", "64"]
    flags += ["--input-tokens", "1024", "--output-tokens", "1024", "--flag", "max-num-seqs=32"]
    assert main(["predict", *flags, "--predictor", "analytical"]) == 0
    assert json.loads(capsys.readouterr().out) == answer(asked(flags={"max-num-seqs": 32}))[0]


WHOLE = ["--model", LLAMA, "--accelerator", "L4-PCIe-24GB", "--input-tokens", "9", "--output-tokens", "9"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        pytest.param(["--model", LLAMA], "give --accelerator, --input-tokens, --output-tokens", id="half a question"),
        pytest.param(WHOLE, "either --concurrency or --requests-per-second", id="no load"),
        pytest.param(
            [*WHOLE, "--concurrency", "1", "--requests-per-second", "1"],
            "either --concurrency or --requests-per-second",
            id="two loads",
        ),
        pytest.param(
            [*WHOLE, "--concurrency", "1", "--shared-prefix-ratio", "0.5"],
            "--shared-prefix-ratio says something of --shared-prefix-tokens",
            id="a share of no prefix",
        ),
        pytest.param(["--batch", "-", "--model", LLAMA], "leave out --model", id="lines and a model"),
        pytest.param(["--batch", "-", "--input-tokens", "9"], "leave out --input-tokens", id="lines and traffic"),
        pytest.param(["--batch", "-", "--confidence", "1"], "--confidence must be above 0 and below 1", id="certainty"),
    ],
)
def test_a_bad_command_line_is_exit_code_2(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("metainf: ")
    assert says in said


def test_a_missing_file_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--batch", "/nowhere/at/all.jsonl"]) == 1
    assert capsys.readouterr().err == "metainf: /nowhere/at/all.jsonl: No such file or directory\n"


def test_a_model_may_be_a_folder(tmp_path: Path) -> None:
    config = known_model_config(LLAMA)
    assert config is not None
    (tmp_path / "config.json").write_text(json.dumps(dict(config)))
    by_folder, by_id = answer(asked(model=str(tmp_path)), asked())
    assert by_folder["tpot"] == by_id["tpot"]


# Shares of a CPU


ON_CPU: dict[str, Any] = {
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "accelerator": "Xeon-Granite-Rapids",
    "traffic": {"concurrency": 4, "inputTokens": {"mean": 500}, "outputTokens": {"mean": 100}},
}


def test_a_share_of_a_cpu_is_answered_as_the_replica_of_a_plan_is_assessed() -> None:
    nodes = (NodeCapacity("c0", 0, 64.0, 256 * GIB),)
    share = device("Xeon-Granite-Rapids").cpu_share(64.0, 256 * GIB)
    shape = NodeShape(0, 64.0, 256 * GIB)
    where = replace(pool("cpu", price="4"), accelerator=share, resource_name=None, shape=shape, nodes=nodes)
    wish = workload(load=ConcurrencyLoad(4))
    (candidate,) = enumerate_candidates(wish, architecture(), [where], engine_version=VERSION).candidates
    replica = candidate.option.replica
    assert replica.cpu_cores == 54.0
    expected = AnalyticalPredictor().predict([Question(replica, wish.traffic)])
    (found,) = answer(ON_CPU | {"cpuCores": 54, "memoryGib": 216})
    assert found["ttft"]["mean"] == pytest.approx(expected.latency_s[0, 0, 0], rel=1e-5)
    assert found["tpot"]["mean"] == pytest.approx(expected.latency_s[0, 1, 0], rel=1e-5)
    assert found["outputTokensPerSecond"] == pytest.approx(expected.output_tokens_per_second[0], rel=1e-5)


def test_more_cores_of_a_cpu_answer_faster_and_none_given_are_all_of_them() -> None:
    few, more, whole = answer(*(ON_CPU | ({} if cores is None else {"cpuCores": cores}) for cores in (16, 32, None)))
    assert few["ttft"]["mean"] > more["ttft"]["mean"] > whole["ttft"]["mean"]
    assert few["tpot"]["mean"] > more["tpot"]["mean"] > whole["tpot"]["mean"]


def test_cores_bring_their_part_of_the_memory_unless_it_is_said() -> None:
    (short,) = answer(ON_CPU | {"cpuCores": 16, "memoryGib": 8})
    assert "error" in short
    (found,) = answer(ON_CPU | {"cpuCores": 16, "memoryGib": 64})
    assert "error" not in found


def test_a_share_of_a_cpu_may_be_asked_about_by_flags(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", ON_CPU["model"], "--accelerator", ON_CPU["accelerator"], "--cpu-cores", "16"]
    flags += ["--memory-gib", "64", "--concurrency", "4", "--input-tokens", "500", "--output-tokens", "100"]
    assert main(["predict", "--predictor", "analytical", *flags]) == 0
    (expected,) = answer(ON_CPU | {"cpuCores": 16, "memoryGib": 64})
    assert json.loads(capsys.readouterr().out) == expected
