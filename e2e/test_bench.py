"""`metainf bench` with real vLLM: this machine calibrated, a server measured that runs already, and the short plan.

The short plan is killed, gone on with, a server crashed under it, and reported.
"""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pytest

from e2e.cluster.engine import ENGINE_VERSION, Engine, build_engine, why_no_engine
from e2e.cluster.engine_model import engine_model
from e2e.cluster.progress import Progress
from e2e.waiting import eventually
from metainf.accelerators import catalogue
from metainf.bench.calibration import read_calibration
from metainf.bench.endpoint import Endpoint
from metainf.bench.ledger import Ledger, read_ledger
from metainf.bench.plans import STUDY_SERVER_ARGUMENTS
from metainf.bench.processes import free_port, start, stop
from metainf.bench.records import Outcome
from metainf.bench.rows import MEASUREMENTS
from metainf.bench.small_models import small_model
from metainf.measurements import read_measurements

pytestmark = pytest.mark.e2e

_CRASHING_TOKENS = 1500
_CRASHING_REQUESTS = 3
"""So many prompts are more than a step takes, so that one is cut into chunks: with a seed that ends the CPU engine."""


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Real vLLM."""
    if reason := why_no_engine():
        pytest.skip(reason)
    return build_engine(ENGINE_VERSION, Progress())


@pytest.fixture(scope="module")
def python(engine: Engine) -> Path:
    """The interpreter that has vLLM."""
    return engine.python


def run_bench(*arguments: str | Path) -> str:
    """The command to its end; what it prints."""
    command = [sys.executable, "-m", "metainf", "bench", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def bench(python: Path, out: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command at work; ended at the end, whatever happened."""
    report = ["--report", str(out / "report")]
    command = [sys.executable, "-m", "metainf", "bench", "--plan", "short", "--python", str(python), "--out", str(out)]
    with (out / "said").open("a") as said:
        process = subprocess.Popen(
            [*command, "--resident", "2", *report], stdout=said, stderr=said, text=True, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def known(out: Path) -> Ledger:
    """What is written so far."""
    assert (out / "bench.json").exists(), "nothing is written yet"
    return read_ledger(out)


def crash(url: str, model: str) -> None:
    """End the engine behind this URL, as a request with a seed and a prompt in chunks does in vLLM 0.32.0 on CPUs."""

    def ask(word: int) -> None:
        body = {"model": model, "prompt": [word] * _CRASHING_TOKENS, "max_tokens": 4, "seed": 7}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(request, timeout=60).close()

    threads = [threading.Thread(target=ask, args=(word,)) for word in range(5, 5 + _CRASHING_REQUESTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_this_machine_becomes_an_entry_of_the_catalogue(python: Path, tmp_path: Path) -> None:
    said = run_bench("--calibrate", "--python", python, "--out", tmp_path)

    found = read_calibration(tmp_path / "accelerator.json")
    entry, samples = found.accelerator, found.samples
    assert f"{entry.name}: {samples.threads} threads" in said
    assert "an entry of the accelerator catalogue" in said
    assert entry.family in {each.family for each in catalogue()}
    assert [size / 2**20 for size, _ in samples.reads] == [4, 64, 512]
    assert {dtype.value for dtype in entry.flops} == {"fp32", "bf16", "fp16"}
    assert {product.rows for product in samples.products} >= {1, 1024}
    assert min(product.seconds for product in samples.products) > 0
    assert 1e9 < entry.memory_bandwidth_bytes_per_s < 1e12  # a whole socket has some hundreds of 1e9
    assert all(1e9 < flops < 1e15 for flops in entry.flops.values())
    assert 0 < found.efficiency.layer_s < 0.1


@dataclass(frozen=True)
class Running:
    """A server that the bench did not start."""

    url: str
    model: Path


@pytest.fixture
def running(engine: Engine, tmp_path: Path) -> Iterator[Running]:
    """vLLM as its users start it: under a name of their own, and not in development mode."""
    model = engine_model(small_model("dense-53m"), engine, Progress())
    port, log = free_port(), tmp_path / "server.log"
    served = ("--model", str(model), "--served-model-name", "somebody/small", "--host", "127.0.0.1")
    program = ("/usr/bin/env", "--unset=VLLM_SERVER_DEV_MODE", str(engine.python))
    entry = ("-m", "vllm.entrypoints.openai.api_server")
    process = start([*program, *entry, *served, "--port", str(port), *STUDY_SERVER_ARGUMENTS], log=log)
    found = Running(f"http://127.0.0.1:{port}", model)

    def assert_answers() -> None:
        assert process.poll() is None, log.read_text()[-2000:]
        assert Endpoint(found.url).is_healthy(), "the server does not answer yet"

    try:
        eventually(assert_answers, within_s=300)
        yield found
    finally:
        stop(process)


def test_a_server_that_runs_already_is_measured_and_left_running(
    python: Path, running: Running, tmp_path: Path
) -> None:
    """Under two methods, one of which it does not run: what it says of itself is told beside what was asked."""
    out = tmp_path / "out"
    urls = ("--url", f"default={running.url}", f"no-prefix-caching={running.url}")
    model = ("--served-model", "small", "--models", running.model)
    what = ("--traffics", "unique", "--loads", "c1", "--repeats", "1")
    said = run_bench(*urls, *model, *what, "--python", python, "--out", out)

    assert "2 of 2 runs (completed 2); all runs are there" in said
    ledger = known(out)
    asked, other = ledger.servers
    kept = "the prefix cache cannot be emptied: it runs without VLLM_SERVER_DEV_MODE=1"
    assert (asked.method, asked.differences) == ("default", (kept,))
    assert (other.method, other.differences) == ("no-prefix-caching", ("prefix_caching is True, not False", kept))
    assert (asked.facts.version, asked.facts.prefix_caching) == (ENGINE_VERSION, True)
    assert [(record.model, record.outcome) for record in ledger.latest()] == [("small", Outcome.COMPLETED)] * 2
    for row in read_measurements(out / MEASUREMENTS).to_pylist():
        assert (row["requests"], row["input_tokens"], row["output_tokens"]) == (6, 448, 24)
        assert 0 < row["ttft_p50_s"] < row["e2e_p50_s"]
        assert row["output_tokens_per_second"] > 0
    assert Endpoint(running.url).is_healthy()


def test_a_bench_outlives_a_kill_and_a_crashed_server(python: Path, tmp_path: Path) -> None:
    with bench(python, tmp_path) as process:

        def assert_some_done() -> None:
            assert process.poll() is None, (tmp_path / "said").read_text()
            assert known(tmp_path).runs, "no run is done yet"

        eventually(assert_some_done, within_s=600)
        process.kill()
        process.wait()
    kept = known(tmp_path).runs
    served = [server.url for server in known(tmp_path).servers]

    def assert_servers_are_gone() -> None:
        for url in served:
            assert not Endpoint(url).is_healthy(), f"{url} still answers"

    eventually(assert_servers_are_gone, within_s=60)

    with bench(python, tmp_path) as process:

        def assert_servers_again() -> None:
            assert process.poll() is None, (tmp_path / "said").read_text()
            assert len(known(tmp_path).servers) >= len(served) + 2, "no server is up again yet"

        eventually(assert_servers_again, within_s=600)
        victim = next(s for s in known(tmp_path).servers[len(served) :] if s.method == "default")
        crash(victim.url, victim.model)
        assert process.wait(timeout=900) == 0, (tmp_path / "said").read_text()

    ledger = known(tmp_path)
    assert ledger.runs[: len(kept)] == kept
    assert [record.run for record in ledger.latest()] == list(ledger.plan.runs)
    crashed = [record for record in ledger.latest() if record.outcome is Outcome.CRASHED]
    assert [record.method for record in crashed] == ["default"]
    assert all(r.outcome is Outcome.COMPLETED for r in ledger.latest() if r not in crashed)
    assert all(server.differences == () for server in ledger.servers)

    rows = read_measurements(tmp_path / "report" / MEASUREMENTS)
    ran = rows.filter(pc.greater(rows.column("requests"), 0)).to_pylist()
    assert {row["cached_ratio"] > 0.1 for row in ran if row["method"] == "default"} == {True}
    assert {row["cached_ratio"] for row in ran if row["method"] == "no-prefix-caching"} == {0.0}
    assert (tmp_path / "report" / "ratios-clients.png").stat().st_size > 1000
