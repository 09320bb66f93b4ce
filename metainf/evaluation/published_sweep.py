"""The papers' figure, simulated: their four methods for Llama-3.1-8B at batches from 1 to 1,024, on one place.

Separate from the corpus, whose Llama tasks differ from size to size in device, layout and lengths, so that a line
through them would show these and not the batch: here the batch alone differs. The world is one of the corpus's truths,
and nothing is drawn but what is latent in the traffic, once: equal arguments give equal points.

The place and the traffic are ours, since the papers do not say theirs: one H100, prompts and answers as of a chat with
documents, and half of the requests with one of eight shared prefixes, without which a prefix cache could not win.
"""

from collections.abc import Iterator

from metainf.corpus.measuring import measured_task
from metainf.corpus.task import Task, TrafficKind
from metainf.corpus.worlds import StepOracle
from metainf.evaluation.published import PublishedPoint, PublishedSweep
from metainf.layouts import Layout
from metainf.measurements import Purpose
from metainf.methods import Method, Reading, published
from metainf.workload import BatchLoad, ConcurrencyLoad, Load, SharedPrefix, TokenLengths, Traffic

__all__ = ["published_sweep"]

_MODEL = "meta-llama/Llama-3.1-8B-Instruct"
_ACCELERATOR = "H100-SXM-80GB"
_INPUT, _OUTPUT = TokenLengths(1000.0, 2000.0), TokenLengths(200.0, 400.0)
_PREFIX = SharedPrefix(tokens=512, ratio=0.5, distinct=8)
_ANY_DEADLINE_S = 1e6
_ABOUT = (
    f"{_MODEL} on one {_ACCELERATOR}, simulated in {{world}}: prompts of {_INPUT.mean_tokens:,.0f} tokens in the mean "
    f"(p95 {_INPUT.p95_tokens:,.0f}), answers of {_OUTPUT.mean_tokens:,.0f} (p95 {_OUTPUT.p95_tokens:,.0f}), "
    f"{_PREFIX.ratio:.0%} of the requests with one of {_PREFIX.distinct} prefixes of {_PREFIX.tokens} tokens. Nothing "
    "but the number of requests at once differs along a line. Place and traffic are ours: the papers do not say theirs."
)


def published_sweep(oracle: StepOracle, kind: TrafficKind, *, most: int) -> PublishedSweep | None:
    """The papers' rows at 1, 2, 4 ... requests at once, up to `most`, under both readings.

    None for rates, which have no batch, and where the world knows nothing of the place. A reading of which a row cannot
    run at some size is left out there.
    """
    if kind is TrafficKind.RATE:
        return None
    points: list[PublishedPoint] = []
    requests = 1
    while requests <= most:
        points += _at(oracle, kind, requests)
        requests *= 2
    return PublishedSweep(_ABOUT.format(world=oracle.name), tuple(points)) if points else None


def _at(oracle: StepOracle, kind: TrafficKind, requests: int) -> Iterator[PublishedPoint]:
    """All points of one size."""
    load: Load = BatchLoad(requests, _ANY_DEADLINE_S) if kind is TrafficKind.BATCH else ConcurrencyLoad(requests)
    task = Task(_MODEL, _ACCELERATOR, Layout(), Traffic(load, _INPUT, _OUTPUT, shared_prefix=_PREFIX))
    rows = measured_task(task, oracle, repeats=(0,), methods=_methods())
    performance = {row.method: row.performance or 0.0 for row in rows if row.purpose == Purpose.SCORE}
    for reading in Reading:
        mine = [(each.row, performance.get(each.method.name, 0.0)) for each in published(reading)]
        if all(value > 0.0 for _, value in mine):
            for row, value in mine:
                yield PublishedPoint(reading, row, float(requests), value)


def _methods() -> tuple[Method, ...]:
    """The papers' methods under both readings, each once."""
    named = {each.method.name: each.method for reading in Reading for each in published(reading)}
    return tuple(named.values())
