"""A task's rows without a simulation, for tests of files and processes: performance from the task's key alone."""

import sys
import time
from pathlib import Path

from metainf.corpus.build import CorpusPlan, build
from metainf.corpus.worlds import RooflineWorld
from metainf.measurements import Measurement, Purpose, Source

PLAN = CorpusPlan(tasks=10, seed=0, worlds=("roofline@1",), repeats=2, repeated_every=2, shard_tasks=2)


def stub_rows(task, oracle, *, repeats, most_methods=None):
    return [
        Measurement(
            source=Source.SIMULATION,
            source_version="1",
            world=oracle.name,
            engine_version=task.engine_version,
            task=task.key,
            kind=task.kind.value,
            model=task.model,
            accelerator=task.accelerator,
            tensor_parallel=task.layout.tensor_parallel,
            pipeline_parallel=task.layout.pipeline_parallel,
            data_parallel=task.layout.data_parallel,
            expert_parallel=task.layout.expert_parallel,
            method=method,
            seed=seed,
            purpose=Purpose.SCORE,
            performance=(int(task.key[:4], 16) + 1.0) * (1.0 + 0.1 * seed),
        )
        for seed in repeats
        for method in ("default", "latency")[:most_methods]
    ]


def slow_rows(task, oracle, *, repeats, most_methods):
    time.sleep(0.1)
    return stub_rows(task, oracle, repeats=repeats, most_methods=most_methods)


def built(folder, *, measure=stub_rows, **options):
    return build(Path(folder), PLAN, [RooflineWorld()], clock=time.monotonic, measure=measure, **options)


if __name__ == "__main__":
    built(sys.argv[1], measure=slow_rows)
