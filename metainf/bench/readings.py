"""What servers and the load generator say, read into values: metrics, configuration, log, results.

Separate from the asking, so that every reading is tested against recorded answers. Names are those of vLLM 0.28 to
0.32; what a server does not say is None, never a guess from what it was told.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from metainf.bench.records import EngineFigures, LoadFigures, RecordError, ServerFacts
from metainf.settings import EngineSettings

__all__ = [
    "Metrics",
    "differences",
    "engine_figures",
    "facts_of",
    "last_lines",
    "load_figures",
    "outstanding",
    "parse_json",
    "parse_metrics",
    "together",
]

Metrics = Mapping[str, float]
"""Sums over labels, by name."""

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_CORES = re.compile(r"core ids=\[([^\]]*)\]")
_MILLISECONDS = 1e-3
_SUMS = ("completed", "failed", "input_tokens", "output_tokens")
_STATISTICS = {"mean": "mean", "p50": "median", "p95": "p95", "p99": "p99"}


def parse_metrics(text: str) -> tuple[Metrics, Mapping[str, str]]:
    """The samples of /metrics, and the labels of vllm:cache_config_info, in which the engine says its cache."""
    sums: dict[str, float] = {}
    cache: dict[str, str] = {}
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None:
            continue
        name = sample["name"]
        sums[name] = sums.get(name, 0.0) + float(sample["value"])
        if name == "vllm:cache_config_info":
            cache = dict(_LABEL.findall(sample["labels"] or ""))
    return sums, cache


def outstanding(metrics: Metrics) -> float:
    """Requests that run or wait."""
    return metrics.get("vllm:num_requests_running", 0.0) + metrics.get("vllm:num_requests_waiting", 0.0)


def engine_figures(before: Metrics, after: Metrics) -> EngineFigures:
    """What the engine counted between two readings."""

    def counted(name: str) -> float:
        return after.get(f"vllm:{name}_total", 0.0) - before.get(f"vllm:{name}_total", 0.0)

    return EngineFigures(
        prompt_tokens=counted("prompt_tokens"),
        cached_tokens=counted("prefix_cache_hits"),
        preemptions=counted("num_preemptions"),
        draft_tokens=counted("spec_decode_num_draft_tokens"),
        accepted_tokens=counted("spec_decode_num_accepted_tokens"),
    )


def facts_of(
    *, version: str | None, info: Mapping[str, Any] | None, cache: Mapping[str, str], log: str = ""
) -> ServerFacts:
    """What a server runs with.

    Parameters
    ----------
    version : of /version
    info : of /server_info, which servers have in development mode alone
    cache : labels of vllm:cache_config_info
    log : of the server, where there is one
    """
    config: Mapping[str, Any] = (info or {}).get("vllm_config") or {}
    of_cache, scheduler, model = (config.get(f"{name}_config") or {} for name in ("cache", "scheduler", "model"))
    speculation = config.get("speculative_config") or ({"method": "none"} if config else {})
    cores = _CORES.search(log)
    return ServerFacts(
        version=version,
        block_tokens=of_cache.get("block_size") or _number(cache.get("block_size")),
        kv_cache_tokens=of_cache.get("kv_cache_size_tokens") or _number(cache.get("kv_cache_size_tokens")),
        kv_cache_dtype=of_cache.get("cache_dtype") or cache.get("cache_dtype"),
        dtype=None if model.get("dtype") is None else str(model["dtype"]).removeprefix("torch."),
        prefix_caching=_flag(of_cache.get("enable_prefix_caching", cache.get("enable_prefix_caching"))),
        chunked_prefill=_flag(scheduler.get("enable_chunked_prefill", _logged(log, "enable_chunked_prefill"))),
        max_num_batched_tokens=scheduler.get("max_num_batched_tokens"),
        max_num_seqs=scheduler.get("max_num_seqs"),
        long_prefill_token_threshold=scheduler.get("long_prefill_token_threshold"),
        max_model_len=model.get("max_model_len"),
        speculation=speculation.get("method"),
        speculative_tokens=speculation.get("num_speculative_tokens"),
        performance_mode=config.get("performance_mode"),
        asynchronous_scheduling=scheduler.get("async_scheduling"),
        stream_interval=scheduler.get("stream_interval"),
        eager=model.get("enforce_eager"),
        compute_cores=None if cores is None else len([c for c in cores[1].split(",") if c.strip()]),
    )


def differences(settings: EngineSettings, facts: ServerFacts) -> tuple[str, ...]:
    """What a method asks for and the server, by its own words, does not do; what it does not say is no difference."""
    asked: dict[str, object] = {
        name: getattr(settings, name)
        for name in (
            *("prefix_caching", "chunked_prefill", "max_num_batched_tokens", "max_num_seqs"),
            *("long_prefill_token_threshold", "max_model_len", "stream_interval"),
        )
    }
    asked["performance_mode"] = None if settings.performance_mode is None else settings.performance_mode.value
    if settings.speculation is not None:
        asked |= {"speculation": settings.speculation.kind.value, "speculative_tokens": settings.speculation.tokens}
    else:
        asked["speculation"] = "none"
    return tuple(
        f"{name} is {getattr(facts, name)}, not {value}"
        for name, value in asked.items()
        if value is not None and getattr(facts, name) is not None and getattr(facts, name) != value
    )


def load_figures(result: Mapping[str, Any]) -> LoadFigures:
    """The figures of a result of `vllm bench serve`.

    Raises
    ------
    RecordError
        It is no such result.
    """
    try:
        latencies = {
            f"{metric}_{ours}_s": result[f"{theirs}_{name}_ms"] * _MILLISECONDS
            for metric, name in (("ttft", "ttft"), ("tpot", "tpot"), ("e2e", "e2el"))
            for ours, theirs in _STATISTICS.items()
        }
        values: dict[str, Any] = {
            "completed": result["completed"],
            "failed": result["failed"],
            "duration_s": result["duration"],
            "input_tokens": result["total_input_tokens"],
            "output_tokens": result["total_output_tokens"],
            "requests_per_second": result["request_throughput"],
            "output_tokens_per_second": result["output_throughput"],
            "itl_p99_s": result["p99_itl_ms"] * _MILLISECONDS,
            **latencies,
        }
    except (KeyError, TypeError) as error:
        raise RecordError(f"reading a result of vllm bench serve: {error!r}") from error
    assert set(values) == {field.name for field in fields(LoadFigures)} - {"rounds"}
    return LoadFigures(**values)


def together(rounds: Sequence[LoadFigures]) -> LoadFigures:
    """The figures of a run that sent its load several times, as `LoadFigures` says."""
    first = rounds[0]
    if len(rounds) == 1:
        return first
    summed = {name: sum(getattr(each, name) for each in rounds) for name in _SUMS}
    seconds = sum(each.duration_s for each in rounds)
    means = {
        field.name: sum(getattr(each, field.name) for each in rounds) / len(rounds)
        for field in fields(LoadFigures)
        if field.name.endswith("_s")
    }
    return replace(
        first,
        **summed,
        **means,
        requests_per_second=summed["completed"] / seconds,
        output_tokens_per_second=summed["output_tokens"] / seconds,
        rounds=len(rounds),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _logged(log: str, name: str) -> str | None:
    """What the engine logs of its configuration when it starts: `name=value`."""
    found = re.search(rf"Initializing a V1 LLM engine.*\b{name}=(\w+)", log)
    return None if found is None else found[1]


def _flag(value: object) -> bool | None:
    return {"True": True, "False": False}.get(str(value))


def parse_json(text: str) -> Mapping[str, Any]:
    """A JSON object.

    Raises
    ------
    RecordError
        It is none.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RecordError(f"reading JSON: {error}") from error
    if not isinstance(value, dict):
        raise RecordError(f"reading JSON: a {type(value).__name__}, not an object")
    return value


def last_lines(log: str, count: int, patterns: Sequence[str] = ("Error", "error:", "Exception")) -> str:
    """The lines of a log that say what went wrong, or its last ones."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if any(pattern in line for pattern in patterns)]
    return " | ".join((telling or lines)[-count:])[:600]
