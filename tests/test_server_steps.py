"""What rows of real servers teach a trained predictor: which rows count, and that what was put in comes out."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from measured_row import GPUSTACK_ROW
from metainf.errors import InvalidWorkloadError
from metainf.evaluation.measured_questions import question_of
from metainf.measurements import Measurement, Source, table_of
from metainf.predictors.base_answers import MAKESPAN
from metainf.predictors.contract import Question
from metainf.predictors.step_factors import PARTS
from metainf.predictors.trained import TrainedPredictor
from metainf.training.server_steps import SERVER_PARTS, ServerSteps, fitted_servers, server_rows
from trained_models import trained

SILICON_ROW = replace(
    GPUSTACK_ROW,
    source=Source.SILICON,
    kind="concurrency",
    model="Qwen/Qwen3-8B",
    method="bf16",
    engine_version="0.14.0",
    batch_requests=None,
    output_tokens_per_second=None,
    clients=8,
    ttft_mean_s=0.1,
    tpot_mean_s=0.01,
)
MODELS = ("Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct", "mistralai/Mistral-7B-v0.1", "microsoft/phi-4")
ACCELERATORS = ("A100-SXM-80GB", "H100-SXM-80GB", "B200-SXM-180GB")


def loops() -> Iterator[Measurement]:
    for model, accelerator, clients in product(MODELS, ACCELERATORS, (1, 4, 16, 64)):
        yield replace(SILICON_ROW, model=model, accelerator=accelerator, clients=clients)


def served(rows: list[Measurement], *, noise: float = 0.0, **logs: float) -> pa.Table:
    """The rows with what the trained model says of servers whose parts take longer by these logarithms."""
    asked = [question_of(row) for row in table_of(rows).to_pylist()]
    questions: list[Question] = [each for each in asked if each is not None]
    assert len(questions) == len(rows)
    log = np.array([logs.get(part, 0.0) for part in PARTS])
    found = TrainedPredictor(ServerSteps(log, 1.0, {}, "").applied(trained()[0]), "").predict(questions)
    rng = np.random.default_rng(5)
    told = []
    for number, row in enumerate(rows):
        ttft, tpot = found.latency_s[number, :2, 0] * np.exp(rng.normal(0.0, noise, 2))
        if row.batch_requests is None:
            told.append(replace(row, ttft_mean_s=float(ttft), tpot_mean_s=float(tpot)))
        else:
            tokens = found.output_tokens_per_second[number] * np.exp(rng.normal(0.0, noise))
            told.append(replace(row, output_tokens_per_second=float(tokens)))
    return table_of(told)


def test_what_servers_take_longer_comes_out_for_unseen_generations_and_models() -> None:
    steps = fitted_servers(trained()[0], server_rows(served(list(loops()), noise=0.02, plain_dense_token=0.5)))
    assert steps.log[PARTS.index("plain_dense_token")] == pytest.approx(0.5, abs=0.1)
    for figure in ("ttft_mean", "tpot_mean"):
        told = steps.figures["silicon"][figure]
        assert told.rows == len(MODELS) * len(ACCELERATORS) * 4
        assert max(told.generation_out, told.model_out) < 0.05
        assert told.coverage > 0.9
    assert steps.figures["silicon"]["ttft_mean"].kernels > 0.1


def test_servers_that_do_as_predicted_teach_nothing() -> None:
    steps = fitted_servers(trained()[0], server_rows(served(list(loops()))))
    assert steps.log == pytest.approx(np.zeros(len(PARTS)), abs=1e-6)
    assert steps.batch_inflation == 1.0


def test_only_what_is_a_servers_own_is_learnt() -> None:
    steps = fitted_servers(trained()[0], server_rows(served(list(loops()), dense_read=0.5)))
    others = [part for part in PARTS if part not in SERVER_PARTS]
    assert "dense_read" in others
    assert not steps.log[[PARTS.index(part) for part in others]].any()


def test_spreads_of_batches_are_widened_until_they_hold_nine_in_ten() -> None:
    batches = [
        replace(GPUSTACK_ROW, model=model, accelerator=accelerator, input_tokens=tokens, output_tokens=100.0)
        for model, accelerator, tokens in product(("qwen3-8b", "qwen3-14b"), ACCELERATORS, (200.0, 1000.0, 4000.0))
    ]
    model = trained()[0]
    steps = fitted_servers(model, server_rows(served(batches, noise=1.5)))
    assert steps.batch_inflation > 1.2
    widened = steps.applied(model).log_sd
    assert widened[..., MAKESPAN] == pytest.approx(model.log_sd[..., MAKESPAN] * steps.batch_inflation)
    rest = np.delete(np.arange(widened.shape[-1]), MAKESPAN)
    assert (widened[..., rest] == model.log_sd[..., rest]).all()


def test_what_has_no_answer_is_told_as_none_and_never_as_a_number() -> None:
    # 600 GB of weights on one accelerator: every predictor says that this cannot be.
    row = replace(SILICON_ROW, model="deepseek-ai/DeepSeek-V3", method="fp8")
    table = table_of([row, *loops()])
    told = fitted_servers(trained()[0], server_rows(table)).metrics
    assert told["figures"]["silicon"]["ttft_mean"]["rows"] == len(list(loops()))
    alone = fitted_servers(trained()[0], server_rows(table_of([row]))).metrics
    assert alone["figures"] == {}
    assert json.loads(json.dumps(alone, allow_nan=False)) == alone


def test_many_rows_of_one_place_do_not_rule() -> None:
    rows = list(loops())
    often = [row for row in rows if row.model == MODELS[0]] * 20
    few, many = (
        fitted_servers(trained()[0], server_rows(pa.concat_tables([served(rows), served(told, plain_dense_token=1.0)])))
        for told in (often[: len(often) // 20], often)
    )
    place = PARTS.index("plain_dense_token")
    assert 0.0 < few.log[place] < many.log[place] < 0.7


@pytest.mark.parametrize(
    ("row", "counts"),
    [
        pytest.param(SILICON_ROW, (True, True, False), id="a closed loop: its latencies"),
        pytest.param(replace(SILICON_ROW, engine_version=""), (True, True, False), id="silicon without a version"),
        pytest.param(replace(SILICON_ROW, ttft_mean_s=None), (False, True, False), id="without TTFT"),
        pytest.param(replace(SILICON_ROW, tpot_mean_s=None), None, id="TTFT of who could not measure TPOT"),
        pytest.param(GPUSTACK_ROW, (False, False, True), id="a batch: its throughput"),
        pytest.param(
            replace(GPUSTACK_ROW, ttft_mean_s=9.0, tpot_mean_s=0.1), (False, False, True), id="a batch with latencies"
        ),
        pytest.param(replace(GPUSTACK_ROW, engine_version="0.9.2"), None, id="an engine before 0.10"),
        pytest.param(replace(GPUSTACK_ROW, engine_version="latest"), None, id="an engine of no known version"),
        pytest.param(replace(GPUSTACK_ROW, model="glm-4.x"), None, id="a model that nobody knows"),
        pytest.param(replace(GPUSTACK_ROW, method="enforce-eager"), None, id="a flag that stands for no setting"),
    ],
)
def test_which_figures_count(row: Measurement, counts: tuple[bool, ...] | None) -> None:
    if counts is None:
        with pytest.raises(InvalidWorkloadError, match=r"known models on vLLM 0\.10\.0 or later"):
            server_rows(table_of([row]))
    else:
        assert tuple(np.isfinite(server_rows(table_of([row])).truth[0]).tolist()) == counts


@pytest.mark.parametrize("name", [MODELS[0], "qwen/qwen3", "H100-SXM-80GB", "Hopper HBM"])
def test_what_is_held_out_teaches_nothing_here_either(name: str) -> None:
    table = table_of(list(loops()))
    left = server_rows(table, [name])
    gone = MODELS if "H" in name else ACCELERATORS
    assert len(left) == len(server_rows(table)) - len(gone) * 4
