"""Measured rows as questions, and what predictors pick among their options."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from measured_row import GPUSTACK_ROW as BASE
from metainf.architecture import ModelArchitecture
from metainf.corpus.public_rows import PLAIN
from metainf.dtypes import DType
from metainf.evaluation.measured import best_options, read_measured
from metainf.evaluation.measured_picks import asked_groups, measured_picks
from metainf.evaluation.measured_questions import question_of
from metainf.evaluation.report_sections import measured_section
from metainf.measurements import Measurement, Source, table_of
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import FloatArray, Predictions, PredictorIdentity, Question
from metainf.settings import EffectiveSettings, PerformanceMode
from metainf.workload import BatchLoad, ConcurrencyLoad

DATA = Path(os.environ.get("METAINF_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
MODELS = ("qwen3-8b", "qwen3-14b", "qwen3-32b")
SILICON = replace(BASE, source=Source.SILICON, kind="concurrency", batch_requests=None, clients=64)


def as_row(measurement: Measurement) -> Mapping[str, Any]:
    (row,) = table_of([measurement]).to_pylist()
    return dict(row)


class Stub:
    """Expects of a replica what a function of it says."""

    identity = PredictorIdentity("stub", "sha256:0")

    def __init__(self, rate: Callable[[Question], float]) -> None:
        self.rate = rate

    def predict(self, questions: Sequence[Question]) -> Predictions:
        rates: FloatArray = np.array([self.rate(question) for question in questions])
        return replace(AnalyticalPredictor().predict(questions), output_tokens_per_second=rates)


@pytest.mark.parametrize(
    ("option", "holds"),
    [
        pytest.param(PLAIN, lambda s: not s.asynchronous_scheduling and s.weight_dtype is None, id="no flags"),
        pytest.param("async-scheduling", lambda s: s.asynchronous_scheduling, id="a switch"),
        pytest.param("max-num-batched-tokens=4096", lambda s: s.max_num_batched_tokens == 4096, id="a number"),
        pytest.param(
            "max-num-seqs=16 performance-mode=throughput",
            lambda s: s.max_num_seqs == 16 and s.performance_mode is PerformanceMode.THROUGHPUT,
            id="several flags",
        ),
        pytest.param("kv-cache-dtype=fp8", lambda s: s.kv_cache_dtype is DType.FP8, id="a format of the cache"),
        pytest.param("FP8 checkpoint max-num-seqs=512", lambda s: s.max_num_seqs == 512, id="another checkpoint"),
    ],
)
def test_an_option_is_asked_about_by_its_settings(option: str, holds: Callable[[EffectiveSettings], bool]) -> None:
    question = question_of(as_row(replace(BASE, method=option)))
    assert question is not None
    assert holds(question.replica.settings)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"method": "VLLM_USE_DEEP_GEMM=0"}, id="a variable that no setting stands for"),
        pytest.param({"method": "AWQ checkpoint"}, id="a format that is not simulated"),
        pytest.param(
            {"method": 'speculative-config={"method":"mtp","num_speculative_tokens":1}'}, id="a head that it lacks"
        ),
        pytest.param({"model": "glm-4.x"}, id="a model that is not bundled"),
        pytest.param({"accelerator": "910b"}, id="a device that is not in the catalogue"),
        pytest.param({"input_tokens": None}, id="no lengths"),
        pytest.param({"batch_requests": None}, id="no load"),
    ],
)
def test_what_cannot_be_said_is_not_asked(change: dict[str, Any]) -> None:
    assert question_of(as_row(replace(BASE, **change))) is None


def test_scheduling_is_asynchronous_by_default_since_0_14() -> None:
    versions = {"0.11.0": False, "0.13.0": False, "0.14.0": True, "0.17.1": True, "": False}
    for version, expected in versions.items():
        question = question_of(as_row(replace(BASE, engine_version=version)))
        assert question is not None
        assert question.replica.settings.asynchronous_scheduling is expected


def test_the_silicon_samples_servers_were_told_to_schedule_asynchronously() -> None:
    question = question_of(as_row(replace(SILICON, model="Qwen/Qwen3-32B", method="bf16", engine_version="0.12.0")))
    assert question is not None
    assert question.replica.settings.asynchronous_scheduling
    assert question.traffic.load == ConcurrencyLoad(64)


@pytest.mark.parametrize(
    ("row", "model", "precision", "holds"),
    [
        pytest.param(SILICON, "Qwen/Qwen3-32B", "bf16", lambda a: a.quantization is None, id="as the checkpoint is"),
        pytest.param(SILICON, "openai/gpt-oss-120b", "fp4", lambda a: a.quantization == "mxfp4", id="quantised itself"),
        pytest.param(
            SILICON,
            "meta-llama/Llama-3.1-70B",
            "fp8",
            lambda a: (a.storage.weight_dtype, a.storage.block_in, a.kv_cache_dtype) == (DType.FP8, 1, DType.FP8),
            id="NVIDIA's FP8",
        ),
        pytest.param(
            SILICON,
            "MiniMaxAI/MiniMax-M2.5",
            "fp4",
            lambda a: linear_formats(a) == {"self_attn.q_proj": DType.BF16, "block_sparse_moe.experts.0.w1": DType.FP4},
            id="NVIDIA's NVFP4, which spares the attention of experts' models",
        ),
        pytest.param(
            BASE,
            "qwen3-32b",
            "FP8 checkpoint",
            lambda a: (a.storage.weight_dtype, a.storage.block_in, a.kv_cache_dtype) == (DType.FP8, 128, None),
            id="Qwen's FP8, in blocks",
        ),
    ],
)
def test_a_checkpoint_in_another_precision_is_quantised_as_its_maker_does(
    row: Measurement, model: str, precision: str, holds: Callable[[ModelArchitecture], bool]
) -> None:
    question = question_of(as_row(replace(row, model=model, method=precision)))
    assert question is not None
    assert holds(question.replica.architecture)
    assert question.replica.settings.weight_dtype is None


def linear_formats(architecture: ModelArchitecture) -> Mapping[str, DType]:
    linears = {each.name: each for group in architecture.layer_groups for each in group.layer.linears}
    return {
        name: linears[name].storage.weight_dtype
        for name in linears
        if name.endswith(("self_attn.q_proj", "experts.0.w1"))
    }


def test_lengths_are_sharegpts_where_prompts_are_short_and_constant_otherwise() -> None:
    short, long = (question_of(as_row(replace(BASE, input_tokens=tokens))) for tokens in (221.0, 2000.0))
    assert short is not None and long is not None
    assert short.traffic.input_tokens.p95_tokens == pytest.approx(663.0)
    assert long.traffic.input_tokens.p95_tokens is None
    assert short.traffic.load == BatchLoad(1000, 1e6)


def test_picks_are_worth_what_was_measured() -> None:
    rows = [replace(BASE, model=model) for model in MODELS]
    rows += [replace(row, method="max-num-seqs=1", output_tokens_per_second=100.0) for row in rows]
    stub = Stub(lambda question: 1.0 / question.replica.settings.max_num_seqs)
    found = measured_picks(asked_groups(table_of(rows)), {"analytical": AnalyticalPredictor(), "contrary": stub})
    assert found is not None
    assert (found.groups, found.indifferent, found.unasked) == (3, 0, 0)
    analytical, contrary = found.figures["analytical"], found.figures["contrary"]
    assert (analytical.right.value, analytical.of_best.value, analytical.over_plain.value) == (1.0, 1.0, 1.0)
    assert contrary.right.value == 0.0
    assert contrary.of_best.value == contrary.over_plain.value == pytest.approx(0.1)
    assert contrary.of_best.low == pytest.approx(0.1) and contrary.of_best.groups == 3
    any_of_them = found.figures["any of them, on average"]
    assert any_of_them.right.value == 0.5
    assert any_of_them.of_best.value == pytest.approx(0.1**0.5)
    assert found.figures["the fewest accelerators, without flags"].right.value == 1.0


def test_only_groups_with_a_choice_count() -> None:
    equal = [BASE, replace(BASE, method="max-num-seqs=512", output_tokens_per_second=1005.0)]
    unknown = [replace(row, model="qwen3-14b") for row in (BASE, replace(BASE, method="VLLM_USE_DEEP_GEMM=0"))]
    assert measured_picks(asked_groups(table_of([*equal, *unknown])), {}) is None
    chosen = [replace(row, model="qwen3-32b") for row in (BASE, replace(BASE, method="max-num-seqs=1"))]
    chosen[1] = replace(chosen[1], output_tokens_per_second=100.0)
    found = measured_picks(asked_groups(table_of([*equal, *unknown, *chosen])), {})
    assert found is not None
    assert (found.groups, found.indifferent, found.unasked) == (1, 1, 1)


def test_who_expects_no_difference_picks_no_flags() -> None:
    rows = [BASE, replace(BASE, method="async-scheduling", output_tokens_per_second=2000.0)]
    found = measured_picks(asked_groups(table_of(rows)), {"indifferent": Stub(lambda question: 7.0)})
    assert found is not None
    assert found.figures["indifferent"].over_plain.value == 1.0
    assert found.figures["indifferent"].right.value == 0.0


def test_expectations_are_of_one_accelerator_as_what_was_measured_is() -> None:
    # Two accelerators answer more than one, and less than twice as much.
    one = replace(BASE, source=Source.ARGONNE, model="Qwen/Qwen2.5-7B-Instruct")
    rows = [one, replace(one, tensor_parallel=2, output_tokens_per_second=1500.0)]
    stub = Stub(lambda question: 1000.0 * question.replica.layout.accelerators**0.5)
    found = measured_picks(asked_groups(table_of(rows)), {"stub": stub})
    assert found is not None
    assert found.figures["stub"].right.value == 1.0
    assert np.isnan(found.figures["stub"].over_plain.value)


def test_all_options_of_a_group_are_asked_about_under_one_traffic() -> None:
    rows = [BASE, replace(BASE, method="async-scheduling", input_tokens=224.0)]
    (group,) = asked_groups(table_of(rows))
    assert len({question.traffic for question in group.questions.values()}) == 1


def test_a_section_says_who_picks_well_and_what_was_left_out() -> None:
    rows = [BASE, replace(BASE, method="max-num-seqs=1", output_tokens_per_second=100.0)]
    asked = asked_groups(table_of(rows))
    groups = [each.group for each in asked]
    picks = measured_picks(asked, {"analytical": AnalyticalPredictor()})
    text = measured_section(groups, best_options(groups), source="gpustack", picks=picks)
    assert "over the 1 groups in which the pick matters" in text
    assert "| analytical | 1.000 | 1.000 | 1.000 |" in text
    assert "picked by" not in measured_section(groups, best_options(groups), source="gpustack")


@pytest.mark.parametrize("file", ["gpustack_perflab.csv", "llm_inference_bench_all.csv"])
def test_public_rows_are_picked_better_than_by_chance(file: str) -> None:
    path = DATA / "measured" / file
    if not path.is_file():
        pytest.skip(f"METAINF_DATA has no measured/{file}")
    found = measured_picks(asked_groups(read_measured(path)), {"analytical": AnalyticalPredictor()})
    assert found is not None and found.groups >= 5
    analytical, by_chance = found.figures["analytical"], found.figures["any of them, on average"]
    assert by_chance.of_best.value < analytical.of_best.value <= 1.0
