"""Measurements that others published, as rows of the measurement table: what real servers of vLLM did.

Separate from the simulated rows of a corpus, which they never stand among unmarked: each names its source and that
source's version, and none belongs to a task. Rows that do not say what was run are left out; a malformed one is an
error that names its line.

LLM-Inference-Bench (argonne-lcf, BSD-3): offline batches of equal prompts and answers, vLLM of 2024. GPUStack
Performance Lab (gpustack, Apache-2.0): requests sent as fast as the server takes them, so TTFT is queueing there; plain
deployments alone, since most flags have no method of ours. Its pages on Qwen3.5 and GLM-5.2 report no usable TPOT.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from metainf.corpus.task import TrafficKind
from metainf.errors import InvalidWorkloadError
from metainf.known_models import known_model
from metainf.measurements import Measurement, Purpose, Source

__all__ = [
    "ARGONNE_ACCELERATORS",
    "ARGONNE_MODELS",
    "GPUSTACK_ACCELERATORS",
    "argonne_measurements",
    "gpustack_measurements",
]

_ARGONNE_VERSION = "4211f5d4"
_ARGONNE_FILE = "llm_inference_bench_all.csv"
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
_GPUSTACK_FILE = "gpustack_perflab.csv"
GPUSTACK_ACCELERATORS = {"a100": "A100-SXM-80GB", "h100": "H100-SXM-80GB", "h200": "H200-SXM-141GB"}
_GPUSTACK_NO_TPOT = re.compile(r"qwen3\.5|glm-5\.2")
_PLAIN = {"m_spec": "False", "m_kv_fp8": "False", "m_prefix_flag": "False", "m_async": "False"}
_EMPTY = ("m_dp", "m_mnbt", "m_perfmode", "m_quant", "max_conc")

Fields = Mapping[str, str]


def argonne_measurements(folder: Path) -> list[Measurement]:
    """The rows of vLLM in LLM-Inference-Bench, whose file lies in `folder`.

    Raises
    ------
    InvalidWorkloadError
        The file is missing or a line of it is malformed.
    """
    return list(_read(folder / _ARGONNE_FILE, _argonne_row))


def gpustack_measurements(folder: Path) -> list[Measurement]:
    """The rows of plain vLLM in GPUStack's Performance Lab, whose file lies in `folder`; each block once.

    Raises
    ------
    InvalidWorkloadError
        The file is missing or a line of it is malformed.
    """
    return list(dict.fromkeys(_read(folder / _GPUSTACK_FILE, _gpustack_row)))


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
        method="default",
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
    served = re.search(r"vllm serve (\S+)", fields["script"])
    accelerator = GPUSTACK_ACCELERATORS.get(fields["gpu"])
    plain = all(fields[name] == value for name, value in _PLAIN.items()) and not any(fields[name] for name in _EMPTY)
    if fields["engine"] != "vllm" or served is None or accelerator is None or not plain:
        return None
    model = known_model(served[1].replace("-Instruct-2507", ""))
    if model is None:
        return None
    version = re.search(r"vLLM:? v([0-9.]+)", fields["versions"])
    requests = int(fields["ok"])
    tpot: dict[str, Any] = {} if _GPUSTACK_NO_TPOT.search(fields["model_page"]) else _milliseconds(fields, "tpot")
    return Measurement(
        source=Source.GPUSTACK,
        source_version=_GPUSTACK_VERSION,
        world="",
        engine_version=version[1] if version else "",
        task="",
        kind=TrafficKind.BATCH,
        model=model.name,
        accelerator=accelerator,
        tensor_parallel=int(float(fields["m_tp"] or 1)),
        pipeline_parallel=1,
        data_parallel=1,
        expert_parallel=fields["m_ep"] == "True",
        method="default",
        seed=0,
        purpose=Purpose.LOAD,
        batch_requests=requests,
        requests=requests,
        input_tokens=float(fields["in_tok"]) / requests,
        output_tokens=float(fields["out_tok"]) / requests,
        requests_per_second=requests / float(fields["dur_s"]),
        output_tokens_per_second=float(fields["out_tps"]),
        makespan_s=float(fields["dur_s"]),
        **_milliseconds(fields, "ttft"),
        **tpot,
    )


def _milliseconds(fields: Fields, metric: str) -> dict[str, Any]:
    """The statistics of a latency that the row has, in seconds."""
    names = ("mean", "p50", "p99")
    return {f"{metric}_{n}_s": float(fields[f"{metric}_{n}"]) / 1e3 for n in names if fields[f"{metric}_{n}"]}
