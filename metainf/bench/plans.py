"""The project's own plans: the study of the published methods on small models, and a short form of it for tests.

Separate from the design, which makes any plan: these are the ones whose results are kept.

The study. Four models, five traffics, eight loads (1, 4, 16 and 64 clients; batches of the same sizes), eleven methods:
the papers' rows in both readings, which come to six, and what is chosen around vLLM's default on a CPU: n-gram
speculation, smaller and larger token budgets, limits on sequences and on long prompts. One request at a time without
any of them is left out: prompts fit one step here, so chunked prefill alone is the same. Of the 160 tasks a balanced
part is taken, and all methods run on each.
"""

from metainf.bench.design import BenchPlan, balanced, crossed
from metainf.bench.small_models import SMALL_MODELS
from metainf.bench.traffics import STUDY_TRAFFICS
from metainf.methods import Reading, published

__all__ = ["SHORT_PLAN", "STUDY_LOADS", "STUDY_METHODS", "STUDY_SERVER_ARGUMENTS", "study_plan"]

STUDY_LOADS = ("c1", "c4", "c16", "c64", "b1", "b4", "b16", "b64")
STUDY_SERVER_ARGUMENTS = (
    *("--enforce-eager", "--max-model-len", "2048", "--kv-cache-memory-bytes", "256M"),
    "--disable-uvicorn-access-log",
)
"""Eager, since compiling takes a minute or two a server and won 0.7 to 1.1x; 256 MiB hold 23,000 to 65,000 tokens."""

_PUBLISHED = dict.fromkeys(row.method.name for reading in Reading for row in published(reading))
STUDY_METHODS = (
    *sorted(_PUBLISHED, key=lambda name: name != "default"),
    *("ngram", "small-token-budget", "performance-throughput", "few-sequences", "long-prefill-threshold"),
)
_PER_MODEL = 8
_LEAST_SECONDS = 4.0
"""The shorter the noisier: three repeats of runs under 2 s had a standard deviation of 28 % in the median, of 2 to 4 s
19 %, of 4 to 8 s 16 %, beyond 10 % (160 pairs of method and task on 2 cores, idle engines polling beside, other work at
times)."""


def study_plan(per_model: int = _PER_MODEL, seed: int = 0) -> BenchPlan:
    """The study, with so many tasks of each model."""
    models = [model.name for model in SMALL_MODELS]
    tasks = crossed(models, [traffic.name for traffic in STUDY_TRAFFICS], STUDY_LOADS)
    return BenchPlan(
        balanced(tasks, per_model, seed),
        STUDY_METHODS,
        repeats=3,
        seed=seed,
        server_arguments=STUDY_SERVER_ARGUMENTS,
        least_seconds=_LEAST_SECONDS,
    )


SHORT_PLAN = BenchPlan(
    crossed([SMALL_MODELS[0].name], ["shared"], ["c4", "b16"]),
    ("default", "no-prefix-caching"),
    repeats=2,
    server_arguments=STUDY_SERVER_ARGUMENTS,
)
"""One small model, two methods, two loads: what a test can wait for."""
