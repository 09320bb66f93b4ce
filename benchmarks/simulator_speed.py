"""How fast the simulator is: 320 requests of 1,000/250 tokens, beside AISimulate, and up to a million requests.

Separate from the tests, which ask whether it is right. Times are the process's own on the CPU, the least of several
runs, since other work on the machine only ever adds. Llama-3.1-8B on one H100 by the roofline.

    python -m benchmarks.simulator_speed [--aisimulate PYTHON] [--largest 1000000]

PYTHON is the interpreter of an environment with aisimulate (tried with 0.12.0.dev1 from PyPI). There the same requests
are simulated, warm, in one process: only `runner.run` is timed, with its tables loaded by a run before.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable

import numpy as np

from metainf.accelerators import get
from metainf.efficiencies import GENERIC
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.methods import effective_settings
from metainf.predictors.contract import ReplicaSpec
from metainf.settings import EngineSettings
from metainf.simulator import EngineModel, Requests, SimulationResult, StepTimes, simulate
from metainf.simulator.builder import engine_model
from metainf.step_times.roofline import roofline_step_times

_REQUESTS, _INPUT, _OUTPUT = 320, 1000, 250
_CLIENTS = 64
_REPEATS = 1000
"""A quarter of a second: one that is over in a hundredth may lie whole within what other work does to the core."""
_PEER = """
import json, sys, time
from aisimulate.compiler import prediction_to_replay_spec
from aisimulate.config import CorePredictionConfig
from aisimulate.runner import EngineReplayRunnerFactory
from aisimulate.sweeper import ReplayOutputRequirements
n, tokens_in, tokens_out, clients = map(int, sys.argv[1:])
config = CorePredictionConfig.model_validate({
    "traffic": {
        "source": {"type": "synthetic", "input_tokens": tokens_in, "output_tokens": tokens_out},
        "load": {"type": "concurrency", "concurrency": clients},
        "stop": {"requests": n},
    },
    "engine": {
        "mode": "aggregated", "model": "meta-llama/Meta-Llama-3.1-8B", "hardware": "h100_sxm", "backend": "vllm",
        "backend_version": "0.24.0",
        "workers": {"aggregated": {"parallelism": {"tensor": 1, "replicas": 1}}},
    },
})
runner = EngineReplayRunnerFactory().create(0)
spec = prediction_to_replay_spec(config, adapter_specs={})
times = []
for _ in range(6):
    begin = time.process_time()
    report = runner.run(spec, output_requirements=ReplayOutputRequirements(include_raw_report=True))
    times.append(time.process_time() - begin)
summary = report.metadata["native_report"].get("summary", report.metadata["native_report"])
print(json.dumps({"s": min(times[1:]), "rps": summary["request_throughput_rps"]}))
"""


def question() -> tuple[EngineModel, StepTimes]:
    """The engine and its step times."""
    architecture, accelerator = known_model("meta-llama/Llama-3.1-8B-Instruct"), get("H100-SXM-80GB")
    assert architecture is not None and accelerator is not None
    settings = effective_settings(
        EngineSettings(), architecture=architecture, accelerator=accelerator, layout=Layout(), max_model_len=8192
    )
    replica = ReplicaSpec(architecture, accelerator, Layout(), settings)
    return engine_model(replica), roofline_step_times(replica, GENERIC)


def constant_requests(n: int, clients: int = 0) -> Requests:
    """Equal requests, all at once or from so many clients."""
    return Requests(np.zeros(n), np.full(n, _INPUT), np.full(n, _OUTPUT), clients=clients)


def spread_requests(n: int, requests_per_second: float, seed: int = 0) -> Requests:
    """Random arrivals and lengths of the same means, half of the prompts with one of 20 prefixes."""
    draw = np.random.default_rng(seed)
    arrival_s = np.cumsum(draw.exponential(1.0 / requests_per_second, n))
    inputs = np.clip(draw.lognormal(np.log(_INPUT) - 0.32, 0.8, n).astype(np.int64), 1, 6000)
    outputs = np.clip(draw.lognormal(np.log(_OUTPUT) - 0.18, 0.6, n).astype(np.int64), 1, 2000)
    prefixed = draw.random(n) < 0.5
    prefix_blocks = 32
    offsets = np.concatenate([[0], np.cumsum(np.where(prefixed, prefix_blocks, 0))])
    which = draw.integers(0, 20, int(prefixed.sum()))
    hashes = (which[:, None] * prefix_blocks + np.arange(prefix_blocks)).ravel()
    return Requests(arrival_s, inputs, outputs, hashes, offsets)


def least_s(function: Callable[[], SimulationResult], repeats: int) -> float:
    """Least CPU time of several calls, seconds."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return min(times)


def peer_s(python: str) -> tuple[float, float]:
    """AISimulate's time for the closed loop, seconds, and its answer, requests per second."""
    counts = [str(count) for count in (_REQUESTS, _INPUT, _OUTPUT, _CLIENTS)]
    found = subprocess.run([python, "-c", _PEER, *counts], check=True, capture_output=True, text=True)
    answer = json.loads(found.stdout.strip().splitlines()[-1])
    return float(answer["s"]), float(answer["rps"])


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--aisimulate", metavar="PYTHON", help="interpreter of an environment with aisimulate")
    parser.add_argument("--largest", type=int, default=1_000_000)
    chosen = parser.parse_args()
    engine, steps = question()
    begin = time.process_time()
    simulate(engine, steps, constant_requests(1))
    print(f"first call, compiled or loaded: {time.process_time() - begin:.1f} s")
    for name, requests in (
        ("batch", constant_requests(_REQUESTS)),
        (f"closed loop of {_CLIENTS}", constant_requests(_REQUESTS, _CLIENTS)),
    ):
        result = simulate(engine, steps, requests)
        taken = least_s(lambda requests=requests: simulate(engine, steps, requests), _REPEATS)  # type: ignore[misc]
        rate = _REQUESTS / result.makespan_s
        print(f"{_REQUESTS} x {_INPUT}/{_OUTPUT}, {name}: {1e3 * taken:.2f} ms, {result.steps} steps, {rate:.2f} req/s")
    if chosen.aisimulate:
        theirs, rate = peer_s(chosen.aisimulate)
        print(f"AISimulate, the same: {1e3 * theirs:.0f} ms, {theirs / taken:.0f} times as long, {rate:.2f} req/s")
    print(f"{'requests':>10} {'ms':>10} {'us each':>9} {'steps':>10} {'preempted':>10}")
    size = 1000
    while size <= chosen.largest:
        requests = spread_requests(size, 10.0)
        result = simulate(engine, steps, requests)
        taken = least_s(lambda requests=requests: simulate(engine, steps, requests), 3)  # type: ignore[misc]
        each, preempted = 1e6 * taken / size, int(result.preemptions.sum())
        print(f"{size:>10} {1e3 * taken:>10.1f} {each:>9.2f} {result.steps:>10} {preempted:>10}")
        size *= 10


if __name__ == "__main__":
    main()
