"""The load generator: vLLM's own `vllm bench serve`, kept in one process that is asked run after run.

Separate from servers: one generator loads them all, one after another.
"""

import json
import queue
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metainf.bench.design import BenchLoad
from metainf.bench.processes import PROGRAMS, EngineError, start, stop
from metainf.bench.traffics import CHUNK_TOKENS, BenchTraffic
from metainf.corpus.task import TrafficKind

__all__ = ["LoadError", "LoadGenerator", "LoadTimeoutError", "Target", "serve_arguments"]

_READY_S = 300.0


class LoadError(EngineError):
    """The load generator said that it could not do a run, or ended."""


class LoadTimeoutError(LoadError):
    """A run did not end in time."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is loaded: a server, the name it serves under, and where the tokeniser is."""

    url: str
    served_name: str
    tokenizer: str


def serve_arguments(target: Target, traffic: BenchTraffic, load: BenchLoad, trace: Path, seed: int) -> list[str]:
    """The arguments of `vllm bench serve` for one run.

    No seed goes into the requests: one with a seed and a prompt in chunks ends the CPU engine (vLLM 0.32.0). `--seed`
    is that of the generator's own draws.
    """
    arguments = [
        *("--backend", "openai", "--endpoint", "/v1/completions", "--base-url", target.url),
        *("--model", target.tokenizer, "--served-model-name", target.served_name),
        *("--dataset-name", "timed_trace", "--dataset-path", str(trace), "--no-self-timed"),
        *("--timed-trace-chunk-hash-size", str(CHUNK_TOKENS)),
        *("--num-prompts", str(load.requests), "--temperature", f"{traffic.temperature:g}"),
        *("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,95,99"),
        *("--disable-tqdm", "--seed", str(seed)),
    ]
    if load.kind is TrafficKind.CONCURRENCY:
        arguments += ["--max-concurrency", str(int(load.size))]
    if load.kind is TrafficKind.RATE:
        arguments += ["--request-rate", f"{load.size:g}"]
    return arguments


class LoadGenerator:
    """A process of the engine's interpreter that runs loads; started when first asked, and again after it failed."""

    def __init__(self, python: str, log: Path) -> None:
        self.python = python
        self.log = log
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def begin(self) -> None:
        """Start importing, while servers do."""
        if self._process is None:
            self._answers = queue.SimpleQueue()
            self._process = start([self.python, str(PROGRAMS / "load.py")], log=self.log, piped=True)
            threading.Thread(target=_read, args=(self._process, self._answers), daemon=True).start()
            self._ready = False

    def run(self, arguments: list[str], *, most_s: float) -> Mapping[str, Any]:
        """The result of one `vllm bench serve`.

        Raises
        ------
        LoadTimeoutError
            It did not end in time; the generator was ended.
        LoadError
            It failed.
        """
        self.begin()
        if not self._ready:
            self._answer(_READY_S)
            self._ready = True
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(arguments) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            self.end()
            raise LoadError(f"asking the load generator: {error}") from error
        answer = self._answer(most_s)
        if "result" not in answer:
            raise LoadError(f"the load generator failed: {answer.get('error')}")
        result: Mapping[str, Any] = answer["result"]
        return result

    def end(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            stop(self._process, grace_s=2.0)
            self._process = None

    def _answer(self, most_s: float) -> Mapping[str, Any]:
        try:
            line = self._answers.get(timeout=most_s)
        except queue.Empty:
            self.end()
            raise LoadTimeoutError(f"the load did not end within {most_s:g} s") from None
        if line is None:
            self.end()
            raise LoadError(f"the load generator ended: see {self.log}")
        answer: Mapping[str, Any] = json.loads(line)
        return answer


def _read(process: "subprocess.Popen[str]", answers: "queue.SimpleQueue[str | None]") -> None:
    """Hand over each line, and None when there are no more."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            answers.put(line)
    except ValueError:  # closed under us by `end`
        pass
    answers.put(None)
