"""What every predictor must hold, as one function that each of them is put through."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from metainf import accelerators
from metainf.engine_defaults import effective_settings
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.predictors import LATENCY_METRICS, STATISTICS, Predictions, Predictor, Question, ReplicaSpec
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.settings import EngineSettings
from metainf.workload import BatchLoad, ConcurrencyLoad, RateLoad, TokenLengths, Traffic

PREDICTORS: dict[str, Callable[[], Predictor]] = {"analytical": AnalyticalPredictor}


def spec(model: str, gpu: str, tensor_parallel: int = 1) -> ReplicaSpec:
    architecture, accelerator = known_model(model), accelerators.get(gpu)
    assert architecture is not None
    assert accelerator is not None
    layout = Layout(tensor_parallel=tensor_parallel)
    resolved = effective_settings(
        EngineSettings(max_model_len=8192), architecture=architecture, accelerator=accelerator, layout=layout
    )
    return ReplicaSpec(architecture, accelerator, layout, resolved)


def questions() -> list[Question]:
    replicas = [
        spec("meta-llama/Llama-3.1-8B-Instruct", "H100-SXM-80GB"),
        spec("meta-llama/Llama-3.1-70B-Instruct", "A100-SXM-80GB", 4),
        spec("Qwen/Qwen3-30B-A3B", "MI300X-OAM-192GB"),
        spec("meta-llama/Llama-3.1-70B-Instruct", "L4-PCIe-24GB"),  # does not fit
    ]
    loads = [RateLoad(0.5), RateLoad(1000.0), ConcurrencyLoad(1), ConcurrencyLoad(100), BatchLoad(300, 600.0)]
    lengths = TokenLengths(800, 2000), TokenLengths(200, 500)
    return [Question(r, Traffic(load, *lengths), n) for r in replicas for load in loads for n in (1, 3)]


def check_predictor(make: Callable[[], Predictor]) -> None:
    """Fail where the predictor breaks the contract."""
    asked = questions()
    predictor = make()
    found = predictor.predict(asked)
    _check_shapes(found, len(asked))
    _check_values(found, asked)
    _check_intervals(found)
    _check_repeatable(predictor, make(), asked, found)


def _check_shapes(found: Predictions, count: int) -> None:
    table = (count, len(LATENCY_METRICS), len(STATISTICS))
    assert found.latency_s.shape == found.latency_log_sd.shape == table
    for name in (
        "output_tokens_per_second",
        "requests_per_second",
        "throughput_log_sd",
        "capacity_log_sd",
        "capacity_requests_per_second",
        "makespan_s",
        "utilization",
        "out_of_distribution",
    ):
        assert getattr(found, name).shape == (count,), name
    assert found.out_of_distribution.dtype == np.bool_


def _check_values(found: Predictions, asked: list[Question]) -> None:
    assert not np.isnan(found.latency_s).any()
    assert (found.latency_s > 0).all()
    p50, p95, p99 = (found.latency_s[:, :, place] for place in (1, 2, 3))
    assert (p50 <= p95).all()
    assert (p95 <= p99).all()
    assert (found.requests_per_second <= found.capacity_requests_per_second * (1 + 1e-6)).all()
    assert (found.output_tokens_per_second >= 0).all()
    for row, question in enumerate(asked):
        load = question.traffic.load
        assert math.isnan(found.makespan_s[row]) != isinstance(load, BatchLoad)
        if isinstance(load, RateLoad):
            overloaded = load.requests_per_second >= found.capacity_requests_per_second[row]
            assert np.isinf(found.latency_s[row]).all() == overloaded
            assert (found.utilization[row] >= 1) == overloaded


def _check_intervals(found: Predictions) -> None:
    assert np.isfinite(found.latency_log_sd).all()
    assert (found.latency_log_sd > 0).all()
    assert (found.throughput_log_sd > 0).all()
    assert (found.capacity_log_sd > 0).all()
    finite = np.isfinite(found.latency_s)
    assert (found.latency_at(-1.6)[finite] < found.latency_s[finite]).all()
    assert (found.latency_at(1.6)[finite] > found.latency_s[finite]).all()


def _check_repeatable(predictor: Predictor, other: Predictor, asked: list[Question], found: Predictions) -> None:
    assert predictor.identity == other.identity
    assert predictor.identity.name
    assert predictor.identity.digest.startswith("sha256:")
    backwards = other.predict(asked[::-1])
    np.testing.assert_allclose(backwards.latency_s[::-1], found.latency_s, rtol=1e-12)
    for row in (0, len(asked) // 2):
        alone = predictor.predict([asked[row]])
        np.testing.assert_allclose(alone.latency_s[0], found.latency_s[row], rtol=1e-9)
    assert predictor.predict([]).latency_s.shape == (0, len(LATENCY_METRICS), len(STATISTICS))


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in PREDICTORS.items()])
def test_keeps_the_contract(make: Callable[[], Predictor]) -> None:
    check_predictor(make)
