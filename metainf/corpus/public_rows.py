"""Measurements that others published, as rows of the measurement table: what real servers of vLLM did.

Separate from the simulated rows of a corpus, which they never stand among unmarked: each names its source and that
source's version, and none belongs to a task. Rows that do not say what was run are left out; a malformed one is an
error that names its line. `method` names what was told to the server in the words of the source, and `default` where
nothing was told that changes speed.

LLM-Inference-Bench (argonne-lcf, BSD-3): offline batches of equal prompts and answers, vLLM of 2024. GPUStack
Performance Lab (gpustack, Apache-2.0): requests sent as fast as the server takes them, so TTFT is queueing there, and
below capacity at a given rate every option delivers the rate, so such rows are left out; its pages on Qwen3.5 and
GLM-5.2 report no usable TPOT; the model is that of the page, and another checkpoint of it is an option. Silicon sample
(aiconfigurator-core, Apache-2.0): closed loops, whose tokens per second follow from the two latencies by Little's law;
`method` is the precision. Llama-3.1-8B-FP8 and Qwen3-235B-FP8 are left out of it: their stated concurrency and layout
contradict themselves (more prompt FLOP/s than the peak; 235 GB of weights on one 141 GB device).
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from metainf.corpus.task import TrafficKind
from metainf.errors import InvalidWorkloadError
from metainf.measurements import Measurement, Purpose, Source

__all__ = [
    "ARGONNE_ACCELERATORS",
    "ARGONNE_MODELS",
    "GPUSTACK_ACCELERATORS",
    "PLAIN",
    "argonne_measurements",
    "gpustack_measurements",
    "silicon_measurements",
]

PLAIN = "default"
"""No flag that changes speed."""

_ARGONNE_VERSION = "4211f5d4"
ARGONNE_ACCELERATORS = {
    "Nvidia A100 GPU": "A100-SXM-40GB",
    "Nvidia H100 GPU": "H100-SXM-80GB",
    "Nvidia GH200 GPU": "GH200-96GB",
    "AMD MI300X GPU": "MI300X-OAM-192GB",
    "AMD MI250 GPU": "MI250-OAM-64GB",
    "Intel Max 1550": "Max-1550-OAM-128GB",
}
ARGONNE_MODELS = {
    "meta-llama/Llama-2-7b-hf": "meta-llama/Llama-2-7b-hf",
    "meta-llama/Meta-Llama-3-8B": "meta-llama/Llama-3.1-8B",
    "mistralai/Mistral-7B-v0.1": "mistralai/Mistral-7B-v0.1",
    "Qwen/Qwen2-7B": "Qwen/Qwen2.5-7B-Instruct",
    "mistralai/Mixtral-8x7B-v0.1": "mistralai/Mixtral-8x7B-v0.1",
    "meta-llama/Llama-2-70b-hf": "meta-llama/Llama-2-70b-hf",
    "meta-llama/Meta-Llama-3-70B": "meta-llama/Llama-3.1-70B",
    "Qwen/Qwen2-72B": "Qwen/Qwen2.5-72B-Instruct",
}
"""Models of equal shape where the bundled list has another version."""

_GPUSTACK_VERSION = "47277d79"
GPUSTACK_ACCELERATORS = {"a100": "A100-SXM-80GB", "h100": "H100-SXM-80GB", "h200": "H200-SXM-141GB"}
_GPUSTACK_NO_TPOT = re.compile(r"qwen3\.5|glm-5\.2")
_NO_OPTION = frozenset(
    {
        "async-scheduling-off",
        "disable-log-requests",
        "enable-auto-tool-choice",
        "host",
        "language-model-only",
        "max-model-len",
        "model",
        "port",
        "reasoning-parser",
        "served-model-name",
        "tokenizer-mode",
        "tool-call-parser",
        "trust-remote-code",
    }
)
"""Flags that do not change how fast a request is served."""
_LAYOUT_FLAGS = {
    "tp": "tensor_parallel",
    "tensor-parallel-size": "tensor_parallel",
    "pp": "pipeline_parallel",
    "pipeline-parallel-size": "pipeline_parallel",
    "dp": "data_parallel",
    "data-parallel-size": "data_parallel",
}
"""Each multiplies the GPUs."""
_FLAG = re.compile(r"(?<!\S)-{1,2}([a-z][\w-]*)(?:[= ]+((?!-)\S+))?")
_QUANTISED = re.compile(r"-(FP8|AWQ|NVFP4|FP4|GPTQ|INT4)\b", re.IGNORECASE)
_ENVIRONMENT = re.compile(r"export ([A-Z_]+=\S+)")
_VERSION = re.compile(r"(?:vLLM:? )?v([0-9][0-9.]*\S*)")

_SILICON_VERSION = "aiconfigurator-core 0.12.0"
_SILICON_ACCELERATORS = {
    "h100_sxm": "H100-SXM-80GB",
    "h200_sxm": "H200-SXM-141GB",
    "b200_sxm": "B200-SXM-180GB",
    "b300_sxm": "B300-SXM-288GB",
}
_SILICON_CONTRADICTORY = frozenset({"nvidia/Llama-3.1-8B-Instruct-FP8", "Qwen/Qwen3-235B-A22B-FP8"})
_DUMP_LENGTH_RATIO = 0.9
"""Mean over nominal length. Source: InferenceX, random-range-ratio 0.8, whose dumps most rows are."""

Fields = Mapping[str, str]


def argonne_measurements(path: Path) -> list[Measurement]:
    """The rows of vLLM in LLM-Inference-Bench's llm_inference_bench_all.csv.

    Raises
    ------
    InvalidWorkloadError
        The file is missing or a line of it is malformed.
    """
    return list(_read(path, _argonne_row))


def gpustack_measurements(path: Path) -> list[Measurement]:
    """The rows of vLLM in GPUStack's gpustack_perflab.csv; each block once, since pages repeat their baseline's.

    Raises
    ------
    InvalidWorkloadError
        The file is missing or a line of it is malformed.
    """
    return list(dict.fromkeys(_read(path, _gpustack_row)))


def silicon_measurements(path: Path) -> list[Measurement]:
    """The aggregated rows of vLLM in aiconfigurator-core's silicon_sample.csv; what two dumps share to 4 digits once.

    Raises
    ------
    InvalidWorkloadError
        The file is missing or a line of it is malformed.
    """
    found: dict[tuple[object, ...], Measurement] = {}
    for row in _read(path, _silicon_row):
        layout = row.tensor_parallel, row.pipeline_parallel, row.expert_parallel
        load = row.input_tokens, row.output_tokens, row.clients
        times = f"{row.ttft_mean_s:.4g}", f"{row.tpot_mean_s:.4g}"
        found.setdefault((row.model, row.accelerator, row.method, row.engine_version, layout, load, times), row)
    return list(found.values())


def _read(path: Path, row_of: Callable[[Fields], Measurement | None]) -> Iterator[Measurement]:
    if not path.is_file():
        raise InvalidWorkloadError(f"there are no measurements at {path}")
    with path.open(encoding="utf-8", newline="") as text:
        rows = csv.DictReader(text)
        for fields in rows:
            try:
                row = row_of(fields)
            except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
                raise InvalidWorkloadError(f"{path}, line {rows.line_num}: {type(error).__name__} {error}") from error
            if row is not None:
                yield row


def _argonne_row(fields: Fields) -> Measurement | None:
    model = ARGONNE_MODELS.get(fields["Model"])
    accelerator = ARGONNE_ACCELERATORS.get(fields["Hardware"])
    makespan_s = float(fields["Latency"])
    if fields["Framework"] != "vLLM" or model is None or accelerator is None or not makespan_s > 0.0:
        return None
    length, requests = int(fields["Input Output Length"]), int(fields["Batch Size"])
    return Measurement(
        source=Source.ARGONNE,
        source_version=_ARGONNE_VERSION,
        world="",
        engine_version="",
        task="",
        kind=TrafficKind.BATCH,
        model=model,
        accelerator=accelerator,
        tensor_parallel=int(fields["Num of Hardware"]),
        pipeline_parallel=1,
        data_parallel=1,
        expert_parallel=False,
        method=PLAIN,
        seed=0,
        purpose=Purpose.LOAD,
        batch_requests=requests,
        requests=requests,
        input_tokens=float(length),
        output_tokens=float(length),
        requests_per_second=requests / makespan_s,
        output_tokens_per_second=requests * length / makespan_s,
        makespan_s=makespan_s,
    )


def _gpustack_row(fields: Fields) -> Measurement | None:
    limited = "RPS" in fields["profile"] or "Rate" in fields["sub"]
    if fields["engine"] != "vllm" or limited or not fields["out_tps"] or not fields["ok"]:
        return None
    layout = {"tensor_parallel": 1, "pipeline_parallel": 1, "data_parallel": 1}
    for name, value in _FLAG.findall(fields["script"]):
        if name in _LAYOUT_FLAGS and value.isdigit():
            layout[_LAYOUT_FLAGS[name]] = int(value)
    version = _VERSION.match(fields["versions"])
    requests = int(float(fields["ok"]))
    clients = int(float(fields["max_conc"])) if fields["max_conc"] else None
    tpot: dict[str, Any] = {} if _GPUSTACK_NO_TPOT.search(fields["model_page"]) else _milliseconds(fields, "tpot")
    return Measurement(
        source=Source.GPUSTACK,
        source_version=f"{_GPUSTACK_VERSION}, {fields['load_gen']}",
        world="",
        engine_version=version[1] if version else fields["versions"],
        task="",
        kind=TrafficKind.BATCH if clients is None else TrafficKind.CONCURRENCY,
        model=fields["model_page"],
        accelerator=GPUSTACK_ACCELERATORS.get(fields["gpu"], fields["gpu"]),
        tensor_parallel=layout["tensor_parallel"],
        pipeline_parallel=layout["pipeline_parallel"],
        data_parallel=layout["data_parallel"],
        expert_parallel="enable-expert-parallel" in fields["script"],
        method=_gpustack_option(fields["script"], fields["tag"]),
        seed=0,
        purpose=Purpose.LOAD,
        batch_requests=requests if clients is None else None,
        clients=clients,
        requests=requests,
        input_tokens=float(fields["in_tok"]) / requests,
        output_tokens=float(fields["out_tok"]) / requests,
        requests_per_second=requests / float(fields["dur_s"]),
        output_tokens_per_second=float(fields["out_tps"]),
        makespan_s=float(fields["dur_s"]),
        **_milliseconds(fields, "ttft"),
        **tpot,
    )


def _gpustack_option(script: str, tag: str) -> str:
    """The flags that change speed, sorted: a name for what the server was told."""
    found = {name: value or "" for name, value in _FLAG.findall(script)}
    # A block's heading names the flag that it varies; its script was copied from the first of them.
    found |= {name: value or "" for name, value in _FLAG.findall(tag)}
    told = found.keys() - _NO_OPTION - _LAYOUT_FLAGS.keys()
    parts = [f"{name}={value}" if value else name for name, value in found.items() if name in told]
    parts += _ENVIRONMENT.findall(script)
    quantised = _QUANTISED.search(script)
    if quantised:
        parts.append(f"{quantised[1].upper()} checkpoint")
    return " ".join(sorted(parts)) or PLAIN


def _silicon_row(fields: Fields) -> Measurement | None:
    accelerator = _SILICON_ACCELERATORS.get(fields["system"])
    if fields["backend"] != "vllm" or fields["mode"] != "agg" or accelerator is None:
        return None
    if fields["model_path"] in _SILICON_CONTRADICTORY:
        return None
    stated = re.search(r"silicon_concurrency=(\d+)", fields["silicon_data_source"])
    clients = int(stated[1]) if stated else int(float(fields["batch_size"]))
    ratio = _DUMP_LENGTH_RATIO if "db-dump" in fields["silicon_data_source"] else 1.0
    inputs, outputs = int(fields["isl"]) * ratio, int(fields["osl"]) * ratio
    ttft_s, tpot_s = float(fields["silicon_ttft_ms"]) / 1e3, float(fields["silicon_tpot_ms"]) / 1e3
    rate = clients / (ttft_s + tpot_s * (outputs - 1.0))
    return Measurement(
        source=Source.SILICON,
        source_version=_SILICON_VERSION,
        world="",
        engine_version=fields["backend_version"],
        task="",
        kind=TrafficKind.CONCURRENCY,
        model=fields["model_path"],
        accelerator=accelerator,
        tensor_parallel=int(float(fields["tp_size"])),
        pipeline_parallel=int(float(fields["pp_size"] or 1)),
        data_parallel=1,  # rows that differ in attention_dp_size alone have equal times at equal concurrency
        expert_parallel=float(fields["moe_ep_size"] or 1) > 1,
        method=fields["precision"] or "bf16",
        seed=0,
        purpose=Purpose.LOAD,
        clients=clients,
        input_tokens=inputs,
        output_tokens=outputs,
        ttft_mean_s=ttft_s,
        tpot_mean_s=tpot_s,
        requests_per_second=rate,
        output_tokens_per_second=rate * outputs,
    )


def _milliseconds(fields: Fields, metric: str) -> dict[str, Any]:
    """The statistics of a latency that the row has, in seconds."""
    names = ("mean", "p50", "p99")
    return {f"{metric}_{n}_s": float(fields[f"{metric}_{n}"]) / 1e3 for n in names if fields[f"{metric}_{n}"]}
