"""How long a trained predictor takes: to load in a process of its own, and for 1,000 questions on one core.

Separate from the tests, which hold loose bounds on busy machines; run it where nothing else does:

    OMP_NUM_THREADS=1 python benchmarks/trained_predictor_speed.py [predictor.metainf]

The questions are those of one decision: one model and one traffic, each on a replica of its own. The trained predictor
keeps what it knows of replicas, and of a lane for other loads, so it is timed three times: where nobody asked it about
these replicas before, where each traffic is of a kind that it was not asked about (each burstier than the last), and
where each has another rate. Times are wall-clock and of the processor alone; on a shared machine only the second says
something.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TypeVar

from metainf.artifact import load_predictor
from metainf.corpus.places import places_of
from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import Task
from metainf.methods import portfolio
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Question
from metainf.predictors.default import SHIPPED
from metainf.workload import RateLoad, TokenLengths, Traffic

T = TypeVar("T")

_QUESTIONS = 1000
_REPEATS = 30
_LOADED = 5
_MODEL = "meta-llama/Llama-3.1-8B-Instruct"
_LOAD = (
    "import sys, time; began = time.perf_counter();"
    "from pathlib import Path; from metainf.artifact import load_predictor; load_predictor(Path(sys.argv[1]));"
    "print(time.perf_counter() - began)"
)


_TRAFFIC = Traffic(RateLoad(3.0), TokenLengths(1000.0, 3000.0), TokenLengths(200.0, 500.0))


def questions(most: int = _QUESTIONS) -> list[Question]:
    """So many questions about different replicas of one model under one traffic."""
    asked = (
        replica_of(Task(_MODEL, place.accelerator, place.layout, _TRAFFIC), method)
        for place in places_of(_MODEL)
        for method in portfolio()
    )
    replicas = [replica for replica in asked if not isinstance(replica, Infeasible)]
    return [Question(replica, _TRAFFIC) for replica in replicas[:: max(1, len(replicas) // most)][:most]]


def timed(work: Callable[[T], object], batches: Iterable[T]) -> tuple[float, float]:
    """Milliseconds by the wall and of the processor, medians over some batches."""
    walls, processors = [], []
    for batch, _ in zip(batches, range(_REPEATS), strict=False):
        wall, processor = time.perf_counter(), time.process_time()
        work(batch)
        walls.append((time.perf_counter() - wall) * 1000)
        processors.append((time.process_time() - processor) * 1000)
    return statistics.median(walls), statistics.median(processors)


def _of(asked: Sequence[Question], traffic: Traffic) -> list[Question]:
    return [Question(question.replica, traffic) for question in asked]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", nargs="?", type=Path, default=SHIPPED)
    path = parser.parse_args(arguments).artifact
    asked = questions()
    trained, analytical = load_predictor(path), AnalyticalPredictor()
    loads = [
        float(subprocess.run([sys.executable, "-c", _LOAD, str(path)], check=True, capture_output=True).stdout)
        for _ in range(3)
    ]
    print(f"load with imports: {min(loads) * 1000:.0f} ms; {path.stat().st_size / 1e6:.2f} MB")
    fresh = (load_predictor(path) for _ in range(_LOADED))
    wall, processor = timed(lambda each: each.predict(asked), fresh)
    print(f"trained, of new replicas: {len(asked)} questions in {wall:.1f} ms, {processor:.1f} ms of the processor")
    share = float(trained.predict(asked).out_of_distribution.mean())
    analytical.predict(asked)
    kinds = (_of(asked, replace(_TRAFFIC, burstiness=1.0 + 0.001 * number)) for number in count(1))
    rates = (_of(asked, replace(_TRAFFIC, load=RateLoad(3.0 + 0.001 * number))) for number in count(1))
    for name, predict, batches in (
        ("analytical", analytical.predict, rates),
        ("trained, of a new kind of traffic", trained.predict, kinds),
        ("trained, of another rate", trained.predict, rates),
    ):
        wall, processor = timed(predict, batches)
        print(f"{name}: {len(asked)} questions in {wall:.1f} ms, {processor:.1f} ms of the processor")
    print(f"out of distribution: {share:.0%} of them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
