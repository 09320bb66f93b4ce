"""Replays public traces of real traffic as they are, beside what predictors say of a description of the same traffic.

Who applies a workload describes its traffic by a few numbers: rate, mean and p95 of lengths, burstiness, what prefixes
are shared. Here these are counted from a trace, and predicted latencies stand beside those of the trace itself, request
by request with its own times, lengths and shared blocks, simulated over the roofline. The analytical predictor has the
same steps, so what is between them is the description and the queueing model.

    python -m benchmarks.trace_replay --traces FOLDER [--model NAME] [--accelerator NAME]

FOLDER has the files of Azure (2023, CC-BY-4.0) and Mooncake (Apache-2.0), which are not part of the project.

Results, predicted over replayed, Llama-3.1-8B with vLLM's defaults on the fewest H100 of 1, 2, 4 and 8, under tensor
parallelism, that carry a trace at less than 90 % of what they can:

- Azure, conversation (19,366 requests in an hour, 1 H100, 37 % full): TTFT p50 1.42, p95 1.32, TPOT mean 0.97, p95
  0.91, E2E p95 0.95.
- Azure, code (8,819, 1 H100, 21 % full): 6.4, 1.97, 2.16, 1.08, 2.13. Pauses of minutes between its arrivals make
  their coefficient of variation 13, which the model takes for bursts.
- Mooncake, conversation (12,031 of 12,035 tokens, 4 H100, 89 % full, 9 % of prompts from the cache): 1.59, 1.83, 1.16,
  0.77, 1.17.
- Mooncake, synthetic (3,993 of 15,325 tokens, 8 H100, 54 % full, 39 % from the cache): 0.69, 1.60, 0.94, 0.44, 1.36.
  The slowest TPOT is that of answers of a few tokens, which one step with a long prompt stretches.

So a description by these few numbers is on the safe side in the tail of TTFT, by a third to twice, and not in that of
TPOT where prompts are long. A whole trace takes 0.01 to 0.5 s to replay.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metainf.accelerators import get
from metainf.efficiencies import GENERIC
from metainf.errors import InvalidWorkloadError
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.meta_features.observed import TrafficObservation, with_observed
from metainf.methods import effective_settings
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, Question, ReplicaSpec
from metainf.settings import EngineSettings
from metainf.simulator import Requests, SimulationResult, simulate
from metainf.simulator.builder import engine_model
from metainf.step_times.roofline import roofline_step_times
from metainf.traces import TraceName, load_trace
from metainf.workload import LatencyMetric, RateLoad, Statistic, TokenLengths, Traffic

_SHOWN = (
    (LatencyMetric.TTFT, Statistic.P50),
    (LatencyMetric.TTFT, Statistic.P95),
    (LatencyMetric.TPOT, Statistic.MEAN),
    (LatencyMetric.TPOT, Statistic.P95),
    (LatencyMetric.E2E, Statistic.P95),
)
_MOST_UTILIZATION = 0.9
_SIZES = (1, 2, 4, 8)


def described(requests: Requests, hit_ratio: float) -> Traffic:
    """The traffic of a trace in the words of a workload."""
    between = np.diff(requests.arrival_s)
    seen = TrafficObservation(
        requests_per_second=len(between) / float(requests.arrival_s[-1] - requests.arrival_s[0]),
        input_tokens_mean=float(requests.input_tokens.mean()),
        input_tokens_p95=float(np.percentile(requests.input_tokens, 95)),
        output_tokens_mean=float(requests.output_tokens.mean()),
        output_tokens_p95=float(np.percentile(requests.output_tokens, 95)),
        prefix_hit_ratio=hit_ratio,
        arrival_cv=float(between.std() / between.mean()),
    )
    return with_observed(Traffic(RateLoad(1.0), TokenLengths(1.0), TokenLengths(1.0)), seen)


def replica_of(model: str, accelerator: str, tensor_parallel: int) -> ReplicaSpec:
    """A replica with the default settings of vLLM on so many accelerators, with the model's own context."""
    architecture, device = known_model(model), get(accelerator)
    if architecture is None or device is None:
        raise InvalidWorkloadError(f"{model} on {accelerator}: one of the two is not in the catalogue")
    layout = Layout(tensor_parallel=tensor_parallel)
    settings = effective_settings(
        EngineSettings(),
        architecture=architecture,
        accelerator=device,
        layout=layout,
        max_model_len=architecture.max_context_tokens,
    )
    return ReplicaSpec(architecture, device, layout, settings)


def replayed(requests: Requests, replica: ReplicaSpec) -> tuple[SimulationResult, float]:
    """The trace on one replica, and the seconds that the simulation took."""
    engine, steps = engine_model(replica), roofline_step_times(replica, GENERIC)
    began = time.process_time()
    return simulate(engine, steps, requests), time.process_time() - began


def latencies(result: SimulationResult, requests: Requests) -> dict[LatencyMetric, np.ndarray]:
    """Of each request, seconds; NaN where the engine refuses its length."""
    return {
        LatencyMetric.TTFT: result.ttft_s,
        LatencyMetric.TPOT: result.tpot_s(requests.output_tokens),
        LatencyMetric.E2E: result.e2e_s,
    }


def statistic(values: np.ndarray, which: Statistic) -> float:
    """Of what is finite."""
    if which is Statistic.MEAN:
        return float(np.nanmean(values))
    return float(np.nanpercentile(values, float(which.value[1:])))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table: two lines for each trace, replayed and predicted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--model", default="meta-llama/Llama-3.1-8B-Instruct")
    parser.add_argument("--accelerator", default="H100-SXM-80GB")
    asked = parser.parse_args(arguments)
    predictor = AnalyticalPredictor(GENERIC)
    print("seconds; " + ", ".join(f"{metric} {which}" for metric, which in _SHOWN))
    for name in TraceName:
        requests = load_trace(name, asked.traces)
        for size in _SIZES:
            replica = replica_of(asked.model, asked.accelerator, size)
            result, taken_s = replayed(requests, replica)
            hits = float(result.cached_tokens.sum() / requests.input_tokens.sum())
            traffic = described(requests, hits)
            answer = predictor.predict([Question(replica, traffic)])
            if answer.utilization[0] <= _MOST_UTILIZATION:
                break
        rate = traffic.load.requests_per_second if isinstance(traffic.load, RateLoad) else np.nan
        print(
            f"{name}: {len(requests.arrival_s):,} requests, {rate:.2f} a second at a coefficient of variation of "
            f"{traffic.burstiness:.2f}, {traffic.input_tokens.mean_tokens:,.0f} tokens of prompt and "
            f"{traffic.output_tokens.mean_tokens:,.0f} of answer, on {size} x {asked.accelerator}, "
            f"{answer.utilization[0]:.0%} full; {hits:.0%} of prompts from the cache; replayed in {taken_s:.2f} s"
        )
        seen = latencies(result, requests)
        true = np.array([statistic(seen[metric], which) for metric, which in _SHOWN])
        said = np.array([answer.latency_s[0, LATENCY_METRICS.index(m), STATISTICS.index(s)] for m, s in _SHOWN])
        for title, row in (("replayed", true), ("predicted", said), ("ratio", said / true)):
            print(f"  {title:<10}" + "".join(f"{value:10.3f}" for value in row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
