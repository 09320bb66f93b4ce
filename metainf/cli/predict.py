"""`metainf predict`: latency and throughput of one replica, one question by flags or many as JSON lines.

Separate from the predictors, which answer about values: this reads names, flags and traffic as people write them, and
keeps one bad line from harming the others.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import NormalDist
from typing import Any

from metainf.cli.predictors import add_predictor_option, chosen_predictor
from metainf.cli.questions import QuestionReader
from metainf.engine_versions import DEFAULT_ENGINE_VERSION
from metainf.errors import InvalidWorkloadError, MetaInfError
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, Predictions, Predictor, Question
from metainf.workload import Repetitiveness

__all__ = ["add_parser", "answers", "run"]

_BATCH_LINES = 4096  # lines that are predicted together: bounds the memory of endless input
_EPILOG = """\
examples:
  metainf predict --model Qwen/Qwen2.5-7B-Instruct --accelerator NVIDIA-H100-80GB-HBM3 \\
      --requests-per-second 4 --input-tokens 1200 --input-tokens-p95 3000 --output-tokens 250
  metainf predict --model ./my-model --accelerator NVIDIA-L4 --count 4 --concurrency 64 \\
      --input-tokens 500 --output-tokens 100 --flag max-num-seqs=128 --flag kv-cache-dtype=fp8
  metainf predict --model Qwen/Qwen2.5-0.5B-Instruct --accelerator CPU-x86-64 --cpu-cores 8 --memory-gib 16 \\
      --concurrency 4 --input-tokens 300 --output-tokens 80
  metainf predict --batch questions.jsonl > answers.jsonl

a line of --batch; the fields of traffic are those of an InferenceWorkload, numbers instead of strings:
  {"model": "Qwen/Qwen2.5-7B-Instruct", "accelerator": "NVIDIA-L4", "count": 4, "engineVersion": "0.32.0",
   "flags": {"max-num-seqs": 128}, "traffic": {"requestsPerSecond": 4, "inputTokens": {"mean": 1200, "p95": 3000},
   "outputTokens": {"mean": 250}, "sharedPrefix": {"tokens": 800, "ratio": 0.9, "distinct": 4},
   "repetitiveness": "Low", "burstiness": 1.0}}

Latencies are null where the load exceeds the capacity. Without a parallel size in the flags the model is cut over all
accelerators of --count (tensor parallelism); without max-model-len the engine is told the context that its cache has
room for, as by the operator. What the operator would not run for want of memory is an error.

A CPU is the whole one of the catalogue unless cpuCores says how much `cpu`, as Kubernetes counts it, one replica has,
and memoryGib how much memory. Of a node the operator gives a replica 85 % of the cores, rounded down to whole ones.

exit code: 0 answered (also where lines of --batch were bad), 2 bad input, 1 a fault"""
_DEFAULT_CONFIDENCE = 0.9
_NEEDED = ("model", "accelerator", "input_tokens", "output_tokens")
_OF_ONE_QUESTION = (
    "model",
    "accelerator",
    "count",
    "cpu_cores",
    "memory_gib",
    "engine_version",
    "flag",
    "concurrency",
    "requests_per_second",
    "input_tokens",
    "input_tokens_p95",
    "output_tokens",
    "output_tokens_p95",
    "shared_prefix_tokens",
    "shared_prefix_ratio",
    "shared_prefix_distinct",
    "repetitiveness",
    "burstiness",
)


def add_parser(subparsers: Any) -> None:
    """Add `predict` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "predict",
        help="predict latency and throughput of one replica, or of many from JSON lines",
        description="Predicts TTFT, TPOT and E2E (seconds: mean, p50, p95, p99), tokens and requests per second of\n"
        "one replica of vLLM under a load, each with an interval, as JSON. With --batch each line is a question and\n"
        'is answered by one line in the same order; a bad line by {"error": "..."}.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", metavar="FILE", help="questions as JSON lines; - reads standard input")
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="SHARE",
        default=_DEFAULT_CONFIDENCE,
        help=f"of the two-sided intervals, between 0 and 1 (default: {_DEFAULT_CONFIDENCE:g})",
    )
    add_predictor_option(parser)
    _add_server(parser.add_argument_group("one question: the replica"))
    _add_traffic(parser.add_argument_group("one question: its traffic"))


def _add_server(one: Any) -> None:
    one.add_argument("--model", metavar="MODEL", help="a config.json, its folder, or an id of the hub")
    one.add_argument(
        "--accelerator",
        metavar="NAME",
        help="the product as nodes are labelled with it, or a name of metainf/data/accelerators.json",
    )
    one.add_argument("--count", type=int, metavar="N", help="accelerators of the replica (default: 1, or by the flags)")
    one.add_argument("--cpu-cores", type=float, metavar="N", help="`cpu` of the replica, on a CPU (default: all of it)")
    one.add_argument(
        "--memory-gib", type=float, metavar="GIB", help="memory of these cores (default: as much as comes with them)"
    )
    one.add_argument("--engine-version", metavar="VERSION", help=f"version of vLLM (default: {DEFAULT_ENGINE_VERSION})")
    one.add_argument(
        "--flag",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a flag of vllm serve, a switch without a value; may be given more than once",
    )


def _add_traffic(one: Any) -> None:
    one.add_argument("--concurrency", type=int, metavar="N", help="clients that each wait for their answer; or:")
    one.add_argument("--requests-per-second", type=float, metavar="RATE", help="requests that arrive by themselves")
    one.add_argument("--input-tokens", type=float, metavar="TOKENS", help="mean length of a prompt")
    one.add_argument(
        "--input-tokens-p95", type=float, metavar="TOKENS", help="lengths are lognormal; without it all are equal"
    )
    one.add_argument("--output-tokens", type=float, metavar="TOKENS", help="mean length of an answer")
    one.add_argument("--output-tokens-p95", type=float, metavar="TOKENS", help="as of prompts")
    one.add_argument("--shared-prefix-tokens", type=int, metavar="TOKENS", help="how prompts begin alike (default: 0)")
    one.add_argument(
        "--shared-prefix-ratio", type=float, metavar="SHARE", help="of the requests that begin so (default: 1)"
    )
    one.add_argument("--shared-prefix-distinct", type=int, metavar="N", help="different such prefixes (default: 1)")
    one.add_argument(
        "--repetitiveness",
        choices=[r.value for r in Repetitiveness],
        help="how much answers repeat the prompt or themselves, for n-gram speculation (default: Unknown)",
    )
    one.add_argument(
        "--burstiness",
        type=float,
        metavar="CV",
        help="coefficient of variation of the time between arrivals; 1 is Poisson (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Answer one question, or every line of a batch; 0 also where lines were bad."""
    if not 0.0 < args.confidence < 1.0:
        raise InvalidWorkloadError(f"--confidence must be above 0 and below 1, got {args.confidence:g}")
    reader = QuestionReader()
    predictor = chosen_predictor(args.predictor)
    if args.batch is None:
        question = reader.question(_document(args))
        answer = _answers([question], predictor, args.confidence)[0]
        print(json.dumps(answer, indent=2 if sys.stdout.isatty() else None))
        return 0
    given = [name for name in _OF_ONE_QUESTION if getattr(args, name) not in (None, [])]
    if given:
        raise InvalidWorkloadError(f"--batch takes every question from its lines: leave out {_option(given[0])}")
    if args.batch == "-":
        _write(answers(sys.stdin, predictor, args.confidence, reader))
    else:
        with Path(args.batch).open(encoding="utf-8", errors="replace") as lines:
            _write(answers(lines, predictor, args.confidence, reader))
    return 0


def answers(
    lines: Iterable[str], predictor: Predictor, confidence: float, reader: QuestionReader | None = None
) -> Iterator[dict[str, Any]]:
    """One answer for each line that is not blank, in order."""
    reader = reader or QuestionReader()
    wanted = iter(line for line in lines if line.strip())
    while batch := list(islice(wanted, _BATCH_LINES)):
        read = [_read(reader, line) for line in batch]
        good = iter(_answers([q for q in read if isinstance(q, Question)], predictor, confidence))
        yield from (next(good) if isinstance(q, Question) else {"error": q} for q in read)


def _write(found: Iterator[dict[str, Any]]) -> None:
    for answer in found:
        sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _read(reader: QuestionReader, line: str) -> Question | str:
    """The question of a line, or what is wrong with it."""
    try:
        return reader.question(json.loads(line, parse_constant=_no_constant))
    except json.JSONDecodeError as error:
        return f"the line is not valid JSON: {error}"
    except (MetaInfError, OSError) as error:
        return str(error)
    except (RecursionError, OverflowError, ValueError) as error:
        return f"the line cannot be read: {error}"


def _no_constant(name: str) -> float:
    raise InvalidWorkloadError(f"{name} is no number that JSON has")


def _document(args: argparse.Namespace) -> dict[str, Any]:
    """The one question of the command line, as a line of a batch would have it; what it lacks is told by options."""
    lacking = [_option(name) for name in _NEEDED if getattr(args, name) is None]
    if lacking:
        raise InvalidWorkloadError(f"give {', '.join(lacking)}, or --batch: metainf predict --help has examples")
    if (args.concurrency is None) == (args.requests_per_second is None):
        raise InvalidWorkloadError("give either --concurrency or --requests-per-second")
    for name in ("shared_prefix_ratio", "shared_prefix_distinct"):
        if getattr(args, name) is not None and args.shared_prefix_tokens is None:
            raise InvalidWorkloadError(f"{_option(name)} says something of --shared-prefix-tokens: give that too")
    traffic: dict[str, Any] = {
        "concurrency": args.concurrency,
        "requestsPerSecond": args.requests_per_second,
        "inputTokens": {"mean": args.input_tokens, "p95": args.input_tokens_p95},
        "outputTokens": {"mean": args.output_tokens, "p95": args.output_tokens_p95},
        "repetitiveness": args.repetitiveness,
        "burstiness": args.burstiness,
    }
    if args.shared_prefix_tokens is not None:
        traffic["sharedPrefix"] = {
            "tokens": args.shared_prefix_tokens,
            "ratio": args.shared_prefix_ratio,
            "distinct": args.shared_prefix_distinct,
        }
    return {
        "model": args.model,
        "accelerator": args.accelerator,
        "count": args.count,
        "cpuCores": args.cpu_cores,
        "memoryGib": args.memory_gib,
        "engineVersion": args.engine_version,
        "flags": dict(_flag(given) for given in args.flag),
        "traffic": _without_none(traffic),
    }


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _without_none(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in document.items()
        if value is not None
    }


def _flag(given: str) -> tuple[str, object]:
    """A flag as `name=value`, or a switch as `name`; values are JSON where they read as such."""
    name, equals, value = given.partition("=")
    if not equals:
        return name, True
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _answers(questions: list[Question], predictor: Predictor, confidence: float) -> list[dict[str, Any]]:
    """The answers as the command writes them, one for each question."""
    if not questions:
        return []
    found = predictor.predict(questions)
    z = NormalDist().inv_cdf((1.0 + confidence) / 2.0)
    identity = predictor.identity
    named = {"name": identity.name, "digest": identity.digest}
    return [
        {
            **_latencies(found, row),
            "outputTokensPerSecond": _figure(found.output_tokens_per_second[row]),
            "requestsPerSecond": _figure(found.requests_per_second[row]),
            "interval": _interval(found, row, z, confidence),
            "outOfDistribution": bool(found.out_of_distribution[row]),
            "predictor": named,
        }
        for row in range(len(questions))
    ]


def _latencies(found: Predictions, row: int) -> dict[str, Any]:
    return {
        metric.value: {
            statistic.value: _figure(value)
            for statistic, value in zip(STATISTICS, found.latency_s[row, place], strict=True)
        }
        for place, metric in enumerate(LATENCY_METRICS)
    }


def _interval(found: Predictions, row: int, z: float, confidence: float) -> dict[str, Any]:
    result: dict[str, Any] = {"confidence": confidence}
    for place, metric in enumerate(LATENCY_METRICS):
        pairs = zip(STATISTICS, found.latency_s[row, place], found.latency_log_sd[row, place], strict=True)
        result[metric.value] = {statistic.value: _around(value, sd * z) for statistic, value, sd in pairs}
    log_sd = found.throughput_log_sd[row] * z
    result["outputTokensPerSecond"] = _around(found.output_tokens_per_second[row], log_sd)
    result["requestsPerSecond"] = _around(found.requests_per_second[row], log_sd)
    return result


def _around(value: float, reach: float) -> list[float | None]:
    return [_figure(value * math.exp(-reach)), _figure(value * math.exp(reach))]


def _figure(value: float) -> float | None:
    """Six significant digits; null where there is no finite value."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
