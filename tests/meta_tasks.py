"""Varied tasks for the tests of meta-features and embeddings."""

import itertools
from collections.abc import Iterator

from metainf import accelerators
from metainf.corpus.task import Task, TrafficKind
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.methods import layouts_for
from metainf.workload import (
    BatchLoad,
    ConcurrencyLoad,
    LatencyMetric,
    Load,
    RateLoad,
    Repetitiveness,
    SharedPrefix,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
)

MODELS = (
    "Qwen/Qwen2.5-7B-Instruct",
    "meta-llama/Llama-3.1-70B-Instruct",
    "deepseek-ai/DeepSeek-V3.2",
    "deepseek-ai/DeepSeek-V2-Lite-Chat",
    "openai/gpt-oss-20b",
    "Qwen/Qwen3.5-27B",
    "google/gemma-3-27b-it",
)
ACCELERATORS = (
    "H100-SXM-80GB",
    "B200-SXM-180GB",
    "L40S-PCIe-48GB",
    "A100-SXM-80GB",
    "MI300X-OAM-192GB",
    "Xeon-Sapphire-Rapids",
)
_SLOS = (
    Slo(),
    Slo((SloBound(LatencyMetric.TTFT, Statistic.P95, 2.0), SloBound(LatencyMetric.TPOT, Statistic.P95, 0.08))),
    Slo((SloBound(LatencyMetric.E2E, Statistic.P99, 60.0),)),
)
_SHAPES = (
    (TokenLengths(1000, 2500), TokenLengths(200, 500), SharedPrefix(512, 0.7, 20)),
    (TokenLengths(300), TokenLengths(900, 1500), None),
    (TokenLengths(4000, 6000), TokenLengths(60), SharedPrefix(3000)),
)
_LOADS: dict[TrafficKind, tuple[Load, ...]] = {
    TrafficKind.RATE: (RateLoad(0.5), RateLoad(6.0)),
    TrafficKind.CONCURRENCY: (ConcurrencyLoad(4), ConcurrencyLoad(128)),
    TrafficKind.BATCH: (BatchLoad(200, 3600.0), BatchLoad(3000, 7200.0)),
}


def task(kind: TrafficKind = TrafficKind.RATE, **changes: object) -> Task:
    """One plain task: a 7B model on one H100."""
    lengths, answers, prefix = _SHAPES[0]
    values: dict[str, object] = {
        "model": MODELS[0],
        "accelerator": ACCELERATORS[0],
        "layout": Layout(),
        "traffic": Traffic(_LOADS[kind][0], lengths, answers, prefix),
        "max_model_len": 8192,
    }
    return Task(**(values | changes))  # type: ignore[arg-type]


def tasks(kind: TrafficKind) -> list[Task]:
    """Tasks of one kind that differ in everything."""
    return list(_varied(kind))


def _varied(kind: TrafficKind) -> Iterator[Task]:
    bursts, repetition = itertools.cycle((1.0, 0.5, 2.0)), itertools.cycle(Repetitiveness)
    loads, shapes, slos = itertools.cycle(_LOADS[kind]), itertools.cycle(_SHAPES), itertools.cycle(_SLOS)
    for name, device in itertools.product(MODELS, ACCELERATORS):
        architecture, accelerator = known_model(name), accelerators.get(device)
        assert architecture is not None and accelerator is not None
        for layout in layouts_for(architecture, accelerator, 8)[::2]:
            lengths, answers, prefix = next(shapes)
            traffic = Traffic(next(loads), lengths, answers, prefix, next(repetition), next(bursts))
            slo = Slo() if kind is TrafficKind.BATCH else next(slos)
            yield Task(name, device, layout, traffic, slo, max_model_len=8192)
