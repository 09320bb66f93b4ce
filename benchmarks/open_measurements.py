"""Open measurements of real vLLM servers as questions with their answers.

Separate from the calibration: the trained predictors are judged on the same rows. What each set is, where it comes
from and under which licence is said in `calibrate_analytical`.
"""

import csv
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from metainf import accelerators
from metainf.accelerators import Accelerator
from metainf.architecture import ModelArchitecture
from metainf.corpus.public_rows import ARGONNE_ACCELERATORS, ARGONNE_MODELS, GPUSTACK_ACCELERATORS
from metainf.engine_defaults import effective_settings
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.predictors.contract import Question, ReplicaSpec
from metainf.settings import EngineSettings
from metainf.workload import BatchLoad, ConcurrencyLoad, TokenLengths, Traffic

__all__ = ["Row", "Specs", "argonne_rows", "family_of", "gpustack_rows", "silicon_rows"]

_SILICON_GPUS = {
    "h100_sxm": "H100-SXM-80GB",
    "h200_sxm": "H200-SXM-141GB",
    "b200_sxm": "B200-SXM-180GB",
    "b300_sxm": "B300-SXM-288GB",
}
_SILICON_CONFIGS = {
    ("MiniMaxAI/MiniMax-M2.5", "fp8"): "MiniMaxAI--MiniMax-M2.5",
    ("MiniMaxAI/MiniMax-M2.5", "fp4"): "nvidia--MiniMax-M2.5-NVFP4",
    ("Qwen/Qwen3-32B", ""): "Qwen--Qwen3-32B",
    ("meta-llama/Llama-3.1-70B", "fp8"): "nvidia--Llama-3.1-70B-Instruct-FP8",
    ("meta-llama/Llama-3.1-70B", "fp4"): "meta-llama--Meta-Llama-3.1-70B+nvidia--Qwen3-235B-A22B-NVFP4",
    ("moonshotai/Kimi-K2.5", "fp4"): "nvidia--Kimi-K2.5-NVFP4",
    ("moonshotai/Kimi-K2.5", "int4"): "moonshotai--Kimi-K2.5",
    ("openai/gpt-oss-120b", "fp4"): "openai--gpt-oss-120b",
}
"""Not used: Llama-3.1-8B-FP8 and Qwen3-235B-FP8 on H200, whose stated concurrency and layout contradict themselves
(more prompt FLOP/s than the peak; 235 GB of weights on one 141 GB device).

The config, and after a + the model whose hf_quant_config.json stands in where the wheel has none of its own."""


@dataclass(frozen=True)
class Row:
    """One measurement: what was asked, what came out."""

    source: str
    model: str
    family: str
    question: Question
    ttft_s: float = math.nan
    tpot_s: float = math.nan
    tokens_per_second: float = math.nan
    derived: bool = False
    """The throughput follows from the two latencies by Little's law: judged, not fitted."""


class Specs:
    """One ReplicaSpec per distinct deployment, so that work is counted once."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], ReplicaSpec] = {}

    def of(
        self, model: ModelArchitecture, accelerator: Accelerator, layout: Layout, length: int, *, new: bool = True
    ) -> ReplicaSpec:
        """The spec of a deployment; `new` False for engines without asynchronous scheduling."""
        key = (id(model), accelerator.name, layout, length, new)
        if key not in self._made:
            settings = effective_settings(
                EngineSettings(max_model_len=length, prefix_caching=False),
                architecture=model,
                accelerator=accelerator,
                layout=layout,
            )
            settings = replace(settings, asynchronous_scheduling=new and settings.asynchronous_scheduling)
            self._made[key] = ReplicaSpec(model, accelerator, layout, settings)
        return self._made[key]


def accelerator(name: str) -> Accelerator:
    """The catalogue's entry."""
    found = accelerators.get(name)
    if found is None:
        raise SystemExit(f"{name} is not in the catalogue")
    return found


def family_of(found: Accelerator) -> str:
    """What is left out together: silicon of one generation."""
    return found.generation


def silicon_rows(wheel: Path, specs: Specs) -> list[Row]:
    """TTFT and TPOT in closed loops.

    Lengths of the public dumps are drawn between 0.8 and 1 of the nominal one (InferenceX, random-range-ratio 0.8).
    Its attention_dp_size is not used: rows that differ in it alone have equal times at equal concurrency, so these
    are tensor parallel with experts spread.
    """
    models: dict[str, ModelArchitecture] = {}
    rows, seen = [], set()
    with (wheel / "systems" / "silicon_sample.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    for r in table:
        config = _SILICON_CONFIGS.get((r["model_path"], r["precision"]))
        if r["backend"] != "vllm" or r["mode"] != "agg" or r["system"] not in _SILICON_GPUS or config is None:
            continue
        if config not in models:
            models[config] = read_model(wheel / "model_configs", config)
        stated = re.search(r"silicon_concurrency=(\d+)", r["silicon_data_source"])
        clients = int(stated[1]) if stated else int(float(r["batch_size"]))
        ratio = 0.9 if "db-dump" in r["silicon_data_source"] else 1.0
        isl, osl = int(r["isl"]), int(r["osl"])
        expert = float(r["moe_ep_size"] or 1) > 1
        layout = Layout(tensor_parallel=int(float(r["tp_size"])), expert_parallel=expert)
        gpu = accelerator(_SILICON_GPUS[r["system"]])
        truth = (float(r["silicon_ttft_ms"]) / 1e3, float(r["silicon_tpot_ms"]) / 1e3)
        key = (config, gpu.name, layout, isl, osl, clients, f"{truth[0]:.4g}", f"{truth[1]:.4g}")
        if key in seen:
            continue
        seen.add(key)
        spec = specs.of(models[config], gpu, layout, isl + osl + 256)
        traffic = Traffic(ConcurrencyLoad(clients), TokenLengths(isl * ratio), TokenLengths(osl * ratio))
        tokens = osl * ratio
        rate = clients * tokens / (truth[0] + truth[1] * (tokens - 1.0))
        rows.append(Row("silicon", config, family_of(gpu), Question(spec, traffic), *truth, rate, derived=True))
    return rows


def read_model(folder: Path, config: str) -> ModelArchitecture:
    """An architecture of the wheel's configs."""
    name, _, quantised_as = config.partition("+")
    body = json.loads((folder / f"{name}_config.json").read_text())
    side = folder / f"{quantised_as or name}_hf_quant_config.json"
    return ModelArchitecture.from_config(
        body, name=config, hf_quant_config=json.loads(side.read_text()) if side.exists() else None
    )


def argonne_rows(measured: Path, specs: Specs) -> list[Row]:
    """Time of offline batches: prompts and answers of equal length."""
    rows = []
    with (measured / "llm_inference_bench_all.csv").open(newline="") as stream:
        for r in csv.DictReader(stream):
            model = known_model(ARGONNE_MODELS.get(r["Model"], ""))
            if r["Framework"] != "vLLM" or r["Hardware"] not in ARGONNE_ACCELERATORS or model is None:
                continue
            gpu = accelerator(ARGONNE_ACCELERATORS[r["Hardware"]])
            length, requests, latency = int(r["Input Output Length"]), int(r["Batch Size"]), float(r["Latency"])
            if not latency > 0:
                continue
            layout = Layout(tensor_parallel=int(r["Num of Hardware"]))
            spec = specs.of(model, gpu, layout, 4096, new=False)
            traffic = Traffic(BatchLoad(requests, 1e6), TokenLengths(length), TokenLengths(length))
            rate = requests * length / latency
            rows.append(Row("argonne", r["Model"], family_of(gpu), Question(spec, traffic), tokens_per_second=rate))
    return rows


def gpustack_rows(measured: Path, specs: Specs) -> list[Row]:
    """Output tokens per second of requests sent at once, without speculation, data parallelism or extra flags."""
    rows, seen = [], set()
    with (measured / "gpustack_perflab.csv").open(newline="") as stream:
        for r in csv.DictReader(stream):
            name = re.search(r"vllm serve (\S+)", r["script"])
            plain = r["engine"] == "vllm" and r["m_spec"] == "False" and not r["m_dp"] and not r["max_conc"]
            if not plain or name is None or r["gpu"] not in GPUSTACK_ACCELERATORS:
                continue
            model = known_model(name[1].replace("-Instruct-2507", ""))
            key = (r["gpu"], name[1], r["m_tp"], r["in_tok"], r["out_tok"], r["dur_s"])
            if key in seen or model is None:
                continue
            seen.add(key)
            gpu = accelerator(GPUSTACK_ACCELERATORS[r["gpu"]])
            layout = Layout(tensor_parallel=int(float(r["m_tp"] or 1)), expert_parallel=r["m_ep"] == "True")
            count = int(r["ok"])
            inputs, outputs = float(r["in_tok"]) / count, float(r["out_tok"]) / count
            spread = 3.0 if inputs < 300 and outputs > 50 else None  # ShareGPT, the others are of constant length
            traffic = Traffic(
                BatchLoad(count, 1e6),
                TokenLengths(inputs, spread and inputs * spread),
                TokenLengths(outputs, spread and outputs * spread),
            )
            spec = specs.of(model, gpu, layout, min(40960, model.max_context_tokens))
            rate = float(r["out_tps"])
            rows.append(Row("gpustack", name[1], family_of(gpu), Question(spec, traffic), tokens_per_second=rate))
    return rows
