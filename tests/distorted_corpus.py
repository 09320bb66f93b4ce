"""A corpus whose truth is known: the analytical predictor with other constants, slower on some generations.

Rows have the form that the simulator's have and cost milliseconds; what is learnt from them can be held against what
was put in.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pyarrow as pa

from metainf.corpus.measuring import UTILIZATIONS
from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import Task
from metainf.layouts import Layout
from metainf.measurements import Measurement, Purpose, Source, table_of
from metainf.meta_features.answers import slo_bounds
from metainf.methods import Method, portfolio
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, Predictions, Question
from metainf.workload import (
    BatchLoad,
    ConcurrencyLoad,
    LatencyMetric,
    Load,
    RateLoad,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
)

MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-70B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen3-30B-A3B",
    "openai/gpt-oss-20b",
    "mistralai/Mistral-7B-Instruct-v0.3",
    "google/gemma-2-9b-it",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
)
ACCELERATORS = (
    *("A100-SXM-80GB", "H100-SXM-80GB", "H200-SXM-141GB", "L40S-PCIe-48GB", "B200-SXM-180GB"),
    *("MI300X-OAM-192GB", "L4-PCIe-24GB", "A10G-PCIe-24GB"),
)
PREDICTOR = AnalyticalPredictor()
SLOWER = 1.35


def slower(accelerator: str) -> float:
    """How much slower than predicted this accelerator truly is: between 1 and SLOWER, by its name."""
    return 1.0 + (SLOWER - 1.0) * (zlib.crc32(accelerator.encode()) % 100) / 100.0


@cache
def corpus(methods: int = 3, *, noise: float = 0.02, twins: bool = False) -> tuple[pa.Table, tuple[Task, ...]]:
    """Rows about every model on every accelerator under the first methods of the portfolio, and the tasks.

    With `twins` every model has one workload, which is put on all of the accelerators.
    """
    tasks = tuple(_tasks(twins))
    draw = np.random.default_rng(0)
    rows = [row for task in tasks for method in portfolio()[:methods] for row in _rows(task, method, draw, noise)]
    return table_of(rows), tasks


def _tasks(twins: bool) -> Iterator[Task]:
    """A kind of traffic, lengths and a load each, in turns that go round differently."""
    inputs = (TokenLengths(300.0), TokenLengths(900.0, 1800.0), TokenLengths(2500.0, 5000.0))
    outputs = (TokenLengths(60.0), TokenLengths(180.0, 400.0), TokenLengths(350.0, 900.0), TokenLengths(120.0))
    loads = (RateLoad(2.0), ConcurrencyLoad(24), RateLoad(0.5), BatchLoad(200, 900.0), ConcurrencyLoad(3))
    for place, (model, accelerator) in enumerate(product(MODELS, ACCELERATORS)):
        turn = MODELS.index(model) if twins else place
        traffic = Traffic(loads[turn % 5], inputs[turn % 3], outputs[turn % 4], burstiness=(1.0, 2.0)[turn % 2])
        bounds = (SloBound(LatencyMetric.TTFT, Statistic.P95, 2.0), SloBound(LatencyMetric.TPOT, Statistic.P95, 0.2))
        for ranks in (1, 2, 4, 8):
            slo = Slo(bounds if isinstance(traffic.load, RateLoad) else ())
            task = Task(model, accelerator, Layout(tensor_parallel=ranks), traffic, slo, max_model_len=16384)
            if not isinstance(replica_of(task, portfolio()[0]), Infeasible):
                yield task
                break


def _rows(task: Task, method: Method, draw: np.random.Generator, noise: float) -> Iterator[Measurement]:
    replica = replica_of(task, method)
    if isinstance(replica, Infeasible):
        return
    factor = slower(task.accelerator)

    def ask(load: Load) -> Predictions:
        return PREDICTOR.predict([Question(replica, replace(task.traffic, load=load))])

    def row(purpose: Purpose, found: Predictions, scale: float, **more: float | int | bool | None) -> Measurement:
        latency = found.latency_s[0] * scale * np.exp(noise * draw.normal(size=found.latency_s[0].shape))
        values = {f"{m}_{s}_s": latency[i, j] for i, m in enumerate(LATENCY_METRICS) for j, s in enumerate(STATISTICS)}
        return replace(_blank(task, method, purpose), **values, **more)

    load = task.traffic.load
    if isinstance(load, ConcurrencyLoad):
        found = ask(load)
        rate = float(found.output_tokens_per_second[0]) / factor
        yield row(
            Purpose.SCORE, found, factor, clients=load.concurrency, output_tokens_per_second=rate, performance=rate
        )
    elif isinstance(load, BatchLoad):
        found = ask(load)
        makespan = float(found.makespan_s[0]) * factor
        if np.isfinite(makespan):
            more = {"batch_requests": load.requests, "makespan_s": makespan, "performance": 1.0 / makespan}
            yield row(Purpose.SCORE, found, factor, **more)
    else:
        yield row(Purpose.IDLE, ask(ConcurrencyLoad(1)), factor, clients=1)
        capacity = float(ask(RateLoad(1.0)).capacity_requests_per_second[0])
        true = capacity / factor
        yield row(Purpose.CAPACITY, ask(RateLoad(1.0)), np.inf, stable=False, requests_per_second=true)
        tables = []
        for utilization in UTILIZATIONS:
            found = ask(RateLoad(utilization * capacity))
            tables.append(found.latency_s[0] * factor)
            more = {"offered_requests_per_second": utilization * true, "utilization": utilization}
            yield row(Purpose.LOAD, found, factor, **more)
        best = _best_rate(task, tables, true)
        yield row(Purpose.SCORE, found, factor, performance=best / task.layout.accelerators)


def _best_rate(task: Task, tables: Sequence[np.ndarray], capacity: float) -> float:
    bounds = slo_bounds([task.slo])[0]
    kept = [u * capacity for u, table in zip(UTILIZATIONS, tables, strict=True) if (table <= bounds).all()]
    return max(kept, default=0.0)


def _blank(task: Task, method: Method, purpose: Purpose) -> Measurement:
    return Measurement(
        source=Source.SIMULATION,
        source_version="test",
        world="distorted",
        engine_version=task.engine_version,
        task=task.key,
        kind=task.kind.value,
        model=task.model,
        accelerator=task.accelerator,
        tensor_parallel=task.layout.tensor_parallel,
        pipeline_parallel=task.layout.pipeline_parallel,
        data_parallel=task.layout.data_parallel,
        expert_parallel=task.layout.expert_parallel,
        method=method.name,
        seed=0,
        purpose=purpose,
        requests=1000,
    )
