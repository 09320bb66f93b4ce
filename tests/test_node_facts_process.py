"""The process of one node as it runs: signals, settings, memory, and what it sends to an API server."""

import http.server
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fake_nvml import L4, NO_COMPILER, FakeDriver, gpu_lines
from labelled_node import LabelledNode
from metainf_operator.api_errors import ConflictError, ForbiddenError, NotFoundError, UnreachableError
from metainf_operator.node_facts.door import Door, in_pod
from metainf_operator.node_facts.labels import MigStrategy
from metainf_operator.node_facts.settings import settings_from
from metainf_operator.settings import SettingsError

needs_compiler = pytest.mark.skipif(bool(NO_COMPILER), reason=NO_COMPILER)

_RESIDENT_MIB = 60


class _Server(http.server.ThreadingHTTPServer):
    """The two requests that the process sends, answered from a node in memory."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.node = LabelledNode({"kubernetes.io/hostname": "node-1"})
        self.asked: list[tuple[str, str, dict[str, str], dict[str, list[str]]]] = []
        self.refusal: tuple[int, dict[str, Any]] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        headers = {name: self.headers[name] or "" for name in ("Authorization", "Accept", "Content-Type")}
        self.server.asked.append((self.command, parts.path, headers, parse_qs(parts.query)))
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        code, answer = 200, {"kind": "PartialObjectMetadata", "metadata": self.server.node.body()}
        if self.server.refusal is not None:
            code, answer = self.server.refusal
        elif parts.path != "/api/v1/nodes/node-1":
            code, answer = 404, {"kind": "Status", "code": 404, "message": "not found"}
        elif body:
            sent = json.loads(body)
            assert set(sent) == {"apiVersion", "kind", "metadata"}
            assert set(sent["metadata"]) == {"name", "labels"}
            self.server.node.apply_labels("node-1", sent["metadata"]["labels"])
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PATCH = _answer  # noqa: N815


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("first\n")
    return file


@pytest.fixture
def driver(tmp_path: Path) -> FakeDriver:
    return FakeDriver(tmp_path / "driver")


class _Process:
    """`python -m metainf_operator.node_facts`."""

    def __init__(self, server: _Server, token: Path, driver: FakeDriver, log: Path) -> None:
        options = {
            "node-name": "node-1",
            "interval-s": "0.2",
            "api-server": server.url,
            "token-file": str(token),
            "driver-root": str(driver.root),
        }
        command = [sys.executable, "-m", "metainf_operator.node_facts", *(f"--{k}={v}" for k, v in options.items())]
        self._log = log
        with log.open("w") as stderr:
            self.run = subprocess.Popen(command, stderr=stderr)

    def messages(self) -> list[str]:
        return [str(json.loads(line)["message"]) for line in self._log.read_text().splitlines()]

    def await_message(self, text: str, within_s: float = 30) -> None:
        until_s = time.monotonic() + within_s
        while text not in self.messages():
            assert self.run.poll() is None, self._log.read_text()
            assert time.monotonic() < until_s, self._log.read_text()
            time.sleep(0.05)

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.run.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


@pytest.fixture
def process(server: _Server, token: Path, driver: FakeDriver, tmp_path: Path) -> Iterator[_Process]:
    driver.folder.mkdir(parents=True)
    made = _Process(server, token, driver, tmp_path / "log")
    yield made
    if made.run.poll() is None:
        made.run.kill()
        made.run.wait()


@needs_compiler
def test_waits_without_a_driver_labels_when_it_comes_and_ends_at_once_when_told(
    process: _Process, server: _Server, driver: FakeDriver
) -> None:
    process.await_message("no NVIDIA driver: waiting for one")
    time.sleep(2)  # several looks, and no word more
    assert process.messages() == ["started", "no NVIDIA driver: waiting for one"]
    assert server.node.writes == 0

    driver.install().says(gpu_lines(0, L4), gpu_lines(1, L4))
    process.await_message("the node is labelled")
    assert server.node.labels["nvidia.com/gpu.product"] == "NVIDIA-L4"
    assert server.node.labels["nvidia.com/gpu.count"] == "2"

    driver.remove()
    until_s = time.monotonic() + 30
    while server.node.mine:
        assert time.monotonic() < until_s, process.messages()
        time.sleep(0.05)
    assert server.node.labels == {"kubernetes.io/hostname": "node-1"}

    assert process.resident_mib() < _RESIDENT_MIB
    began_s = time.monotonic()
    process.run.send_signal(signal.SIGTERM)
    assert process.run.wait(10) == 0
    assert time.monotonic() - began_s < 2
    assert process.messages()[-1] == "stopping; labels stay"


@needs_compiler
def test_ends_at_once_while_the_driver_hangs(process: _Process, driver: FakeDriver) -> None:
    process.await_message("no NVIDIA driver: waiting for one")
    driver.install().says("hang 1")
    time.sleep(1.5)
    began_s = time.monotonic()
    process.run.send_signal(signal.SIGTERM)
    assert process.run.wait(10) == 0
    assert time.monotonic() - began_s < 3


def test_sends_server_side_applies_of_labels_under_its_own_name_and_asks_for_metadata_only(
    server: _Server, token: Path
) -> None:
    door = Door(server.url, token)
    assert door.metadata("node-1")["labels"] == {"kubernetes.io/hostname": "node-1"}
    token.write_text("second\n")  # the kubelet replaces it
    door.apply_labels("node-1", {"metainf.dev/gpu.products": "1"})
    (read, _, read_headers, _), (write, path, headers, query) = server.asked
    assert (read, write, path) == ("GET", "PATCH", "/api/v1/nodes/node-1")
    assert (read_headers["Authorization"], headers["Authorization"]) == ("Bearer first", "Bearer second")
    assert "as=PartialObjectMetadata" in read_headers["Accept"]
    assert "as=PartialObjectMetadata" in headers["Accept"]
    assert headers["Content-Type"] == "application/apply-patch+yaml"
    assert query == {"fieldManager": ["metainf-node-facts"], "force": ["false"], "fieldValidation": ["Strict"]}


@pytest.mark.parametrize(
    ("code", "error"),
    [(403, ForbiddenError), (401, ForbiddenError), (409, ConflictError), (404, NotFoundError), (503, UnreachableError)],
)
def test_answers_become_the_errors_of_the_operators_own_door(
    server: _Server, token: Path, code: int, error: type[Exception]
) -> None:
    server.refusal = code, {"kind": "Status", "code": code, "message": "no"}
    with pytest.raises(error, match="getting Node node-1: no"):
        Door(server.url, token).metadata("node-1")


def test_no_answer_no_token_and_no_certificate_are_errors_with_a_sentence(token: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="getting Node n: "):
        Door("http://127.0.0.1:9", token).metadata("n")
    with pytest.raises(ForbiddenError, match="reading the service account's token"):
        Door("http://127.0.0.1:9", tmp_path / "none").metadata("n")
    with pytest.raises(ForbiddenError, match="reading the cluster's certificate"):
        Door("https://127.0.0.1:9", token, tmp_path / "none").metadata("n")


@pytest.mark.parametrize(
    ("host", "url"),
    [("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443")],
)
def test_in_a_pod_the_door_is_that_of_its_service_account(host: str, url: str) -> None:
    door = in_pod({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"})
    assert door is not None
    assert door.server == url
    assert str(door.token_file) == "/var/run/secrets/kubernetes.io/serviceaccount/token"
    assert in_pod({}) is None


_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "METAINF_NODE_FACTS_NODE_NAME": "node-1"}


def test_a_flag_wins_over_its_variable_and_defaults_fill_the_rest() -> None:
    settings = settings_from(["--interval-s=5"], {**_POD, "METAINF_NODE_FACTS_INTERVAL_S": "7"})
    assert (settings.node_name, settings.interval_s, settings.resync_s) == ("node-1", 5.0, 300.0)
    assert settings.mig_strategy is MigStrategy.NONE
    assert settings.driver_root is None


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        pytest.param([], {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "--node-name", id="of which node?"),
        pytest.param([], {"METAINF_NODE_FACTS_NODE_NAME": "node-1"}, "this is no pod", id="of which cluster?"),
        pytest.param(["--api-server=http://x"], _POD, "both are needed", id="a server without a token"),
        pytest.param(["--interval-s=0"], _POD, "above 0", id="no pause"),
        pytest.param(["--interval-s=soon"], _POD, "it is 'soon'", id="a word for a number"),
        pytest.param(["--mig-strategy=all"], _POD, "none, single or mixed", id="an unknown strategy"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments: list[str], environment: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        settings_from(arguments, environment)


def test_a_wrong_setting_ends_the_process_with_a_sentence_and_exit_code_2() -> None:
    command = [sys.executable, "-m", "metainf_operator.node_facts", "--node-name="]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("metainf_operator.node_facts: reading --node-name")


def test_it_loads_neither_a_client_library_nor_what_decides() -> None:
    heavy = ("kubernetes", "kopf", "aiohttp", "numpy", "pynvml", "metainf", "yaml")
    program = f"import sys, metainf_operator.node_facts.__main__; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
