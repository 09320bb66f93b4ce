"""Whether a corpus is the same by any backend: one small design in joblib's own processes and on Dask's local cluster.

Separate from the tests, whose rows are made up: here the simulator makes them, so that seeds, step times and compiled
code go through either backend. Needs the extra `dask`. Prints a digest and the seconds of each, and ends with 1 where
digests differ. The first one compiles what is not kept compiled yet.

    python -m benchmarks.corpus_backends [--tasks 48] [--jobs 2] [--out FOLDER]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from metainf.corpus.backends import Backend, workers
from metainf.corpus.build import CorpusPlan, build, corpus_digest
from metainf.step_times.worlds import HiddenWorld


def built(backend: Backend, folder: Path, tasks: int, jobs: int) -> str:
    """The digest of a whole corpus that this backend has built."""
    world = HiddenWorld(0)
    plan = CorpusPlan(
        tasks=tasks,
        seed=0,
        worlds=(f"{world.name}@{world.version}",),
        repeats=2,
        shard_tasks=max(1, tasks // (4 * jobs)),  # several for each process, so that they end in another order
    )
    begun_s = time.perf_counter()
    with workers(backend, jobs):
        progress = build(folder, plan, [world], clock=time.monotonic, n_jobs=jobs)
    digest = corpus_digest(folder)
    shards = f"{progress.done} of {progress.total} shards"
    print(f"{backend}: {digest}, {shards}, {time.perf_counter() - begun_s:.1f} s", flush=True)
    return digest


def main() -> int:
    """Build with each backend and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=48)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the corpora here; it must not hold any")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = chosen.out or Path(temporary)
        digests = {built(backend, root / backend, chosen.tasks, chosen.jobs) for backend in Backend}
    print("the same corpus" if len(digests) == 1 else "other corpora", flush=True)
    return 0 if len(digests) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
