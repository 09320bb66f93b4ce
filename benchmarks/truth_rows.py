"""Measurements as what a simulation needs: requests of each row's load, and whole measured steps.

Separate from `open_measurements`, whose rows predictors are judged on as declared traffic: here lengths and clients
are drawn one by one, and recipes that the sets do not state are assumed in one place.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from open_measurements import Row, accelerator, read_model

from metainf.dtypes import DType
from metainf.engine_defaults import effective_settings
from metainf.layouts import Layout
from metainf.predictors.contract import FloatArray, ReplicaSpec
from metainf.settings import EngineSettings
from metainf.simulator.contract import IntArray, Requests
from metainf.workload import BatchLoad, ConcurrencyLoad, TokenLengths

__all__ = ["MeasuredSteps", "config_of", "fpm_steps", "requests_of"]

_SHORTEST = 0.8
"""Lengths of closed loops lie evenly between this share of the nominal one and all of it.

Source: InferenceX benchmarks (random-range-ratio 0.8), whose dumps most rows of silicon_sample.csv are.
"""
_SHORTEST_INTERNAL = 0.9
_INTERNAL_MODELS = frozenset({"Qwen--Qwen3-32B"})
"""Runs of the tables' makers with vLLM 0.12.0, recipe not stated. Their lengths are taken as narrower by judgement: at
0.8 mean TTFT comes out a seventh too low, and equal lengths, with which all clients finish together, give 1.7 times
the measured one."""
_PER_CLIENT = 10
"""Requests of a closed loop for each client. Source: InferenceX, num_prompts = 10 x max_concurrency."""
_FPM_SETS = {
    "h200_sxm": ("H200-SXM-141GB", "MiniMaxAI--MiniMax-M2.7"),
    "b200_sxm": ("B200-SXM-180GB", "nvidia--GLM-5.2-NVFP4"),
}


def requests_of(row: Row, seed: int) -> Requests:
    """The requests of one row: a closed loop of random lengths, or a batch sent at once."""
    traffic = row.question.traffic
    draw = np.random.default_rng(seed)
    load = traffic.load
    if isinstance(load, BatchLoad):
        count = load.requests
        inputs, outputs = (_spread(draw, each, count) for each in (traffic.input_tokens, traffic.output_tokens))
        return Requests(np.zeros(count), inputs, outputs)
    assert isinstance(load, ConcurrencyLoad), "open measurements are closed loops or batches"
    count = max(20, _PER_CLIENT * load.concurrency)
    shortest = _SHORTEST_INTERNAL if row.model in _INTERNAL_MODELS else _SHORTEST
    nominal = (_nominal(each.mean_tokens) for each in (traffic.input_tokens, traffic.output_tokens))
    inputs, outputs = (_ranged(draw, each, shortest, count) for each in nominal)
    return Requests(np.zeros(count), inputs, outputs, clients=load.concurrency)


def _nominal(mean_tokens: float) -> float:
    """The nominal length: `open_measurements` gives 0.9 of it for some public dumps, and all are powers of two."""
    nominal = round(mean_tokens / 0.9)
    return float(nominal) if nominal & (nominal - 1) == 0 and not math.log2(mean_tokens).is_integer() else mean_tokens


def _ranged(draw: np.random.Generator, nominal: float, shortest: float, count: int) -> IntArray:
    return draw.integers(int(nominal * shortest), int(nominal) + 1, count)


def _spread(draw: np.random.Generator, lengths: TokenLengths, count: int) -> IntArray:
    """Lognormal lengths of the declared mean and p95, the same where no p95 is given."""
    sd = lengths.log_sd
    values = lengths.mean_tokens * np.exp(sd * draw.standard_normal(count) - sd**2 / 2.0)
    return np.maximum(1, np.rint(values)).astype(np.int64)


def config_of(wheel: Path, config: str) -> tuple[Mapping[str, object], Mapping[str, object] | None]:
    """config.json and hf_quant_config.json of a name that `open_measurements` uses."""
    name, _, quantised_as = config.partition("+")
    folder = wheel / "model_configs"
    side = folder / f"{quantised_as or name}_hf_quant_config.json"
    body = json.loads((folder / f"{name}_config.json").read_text())
    return body, json.loads(side.read_text()) if side.exists() else None


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredSteps:
    """Whole forward passes of one deployment; arrays of shape (n,)."""

    config: str
    replica: ReplicaSpec
    decoding: FloatArray
    """Decoding sequences; 0 where the step is of prompts."""
    chunks: FloatArray
    """Prompts in the step."""
    chunk_tokens: FloatArray
    """New tokens of each prompt."""
    context_tokens: FloatArray
    """Cached tokens of each sequence or before each chunk."""
    time_s: FloatArray


def fpm_steps(simulator_wheel: Path, wheel: Path) -> Sequence[MeasuredSteps]:
    """The forward passes in the wheel aisimulate 0.12.0.dev1: vLLM 0.25.1, one sample each, 8-bit cache.

    `simulator_wheel` is its folder aiconfigurator_core; configs come from the installed aiconfigurator_core.
    """
    found = []
    for system, (gpu, config) in _FPM_SETS.items():
        path = simulator_wheel / "systems" / "data" / system / "vllm" / "0.25.1" / "fpm_forward_perf.parquet"
        table = pq.read_table(path).to_pydict()
        columns = {name: np.array(table[name]) for name in ("tp", "dp", "moe_ep", "workload_kind")}
        numbers = {
            name: np.array(table[name], dtype=np.float64)
            for name in ("batch_size", "total_prefill_tokens", "total_kv_read_tokens", "latency_ms")
        }
        model, device = read_model(wheel / "model_configs", config), accelerator(gpu)
        layouts = sorted(
            set(zip(columns["tp"].tolist(), columns["dp"].tolist(), columns["moe_ep"].tolist(), strict=True))
        )
        for tp, dp, ep in layouts:
            layout = Layout(tp, data_parallel=dp, expert_parallel=ep > 1)
            asked = EngineSettings(max_model_len=16384, kv_cache_dtype=DType.FP8)
            settings = effective_settings(asked, architecture=model, accelerator=device, layout=layout)
            rows = (columns["tp"] == tp) & (columns["dp"] == dp) & (columns["moe_ep"] == ep)
            is_decode = columns["workload_kind"][rows] == "decode"
            count, fresh, read, time_ms = (values[rows] for values in numbers.values())
            found.append(
                MeasuredSteps(
                    config=config,
                    replica=ReplicaSpec(model, device, layout, settings),
                    decoding=np.where(is_decode, count, 0.0),
                    chunks=np.where(is_decode, 0.0, count),
                    chunk_tokens=np.where(is_decode, 0.0, fresh / count),
                    context_tokens=read / count,
                    time_s=time_ms / 1e3,
                )
            )
    return found
