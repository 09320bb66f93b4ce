"""Real vLLM in real pods under the operator: what it writes is run, answers, is switched, dies and is healed.

Separate from the other stories, whose pods are fake, on a cluster of its own with a real node. Needs root and Debian's
packages, and installs vLLM for CPUs once; skips with the reason elsewhere. One workload is told of in all of it, since
an engine takes its time to start: each test starts where that serves, and leaves it serving.
"""

import functools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.cluster import Node, apply_crds, kubectl, running_cluster, the_node, why_no_real_node
from e2e.cluster.engine import ENGINE_VERSION, build_engine, why_no_engine
from e2e.cluster.engine_image import engine_image
from e2e.cluster.engine_model import engine_model
from e2e.cluster.lifecycle import choose
from e2e.cluster.model import Kind
from e2e.cluster.progress import Progress
from e2e.conftest import Given
from e2e.engine_site import POOL, EngineClient, engine_workload, furnish, log_arguments
from e2e.kube import ROOT, Kube, Object
from e2e.operator_process import OperatorProcess, Operators, install_account
from e2e.story import Story
from e2e.waiting import eventually
from metainf.bench.small_models import small_model


def _why_not() -> str | None:
    if (kind := choose()) is not Kind.BUILT:
        return f"the cluster of this run is {kind}, and only a built one gets a real node: METAINF_E2E_CLUSTER=built"
    return why_no_real_node() or why_no_engine()


_REASON = _why_not()
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(_REASON), reason=_REASON or "")]

_TEAM = "team-a"
_NAME = "small"
_START_S = 600.0
"""An engine starts in 36 s on two quiet cores, and in several minutes on busy ones."""
_NOTICE_S = 120.0
_FASTER = 1.3
"""Speculation was seen to give 1.9 to 2.1 times the throughput; beside other work on the machine it may be less."""
_PATIENT = {
    "METAINF_LEASE_DURATION_S": "60",
    "METAINF_LEASE_RENEW_DEADLINE_S": "40",
    "METAINF_LEASE_RETRY_PERIOD_S": "2",
}
"""Engines that start leave an operator beside them little of two cores, and nobody else waits for its Lease."""
_MOST_RETRIES = 2
"""Of a client that keeps its connection: one request may come by it while its engine shuts down, and be tried twice."""
_SETTLE_S = 10.0
"""So long a stopped pod waits before its engine hears of it: a stream that is over by then shows nothing."""
_STREAM_S = 40.0
"""Four times that, a third of what the engine then lets streams run: other work may come and go meanwhile."""
_MOST_TOKENS = 3900
"""What the model's context leaves for an answer."""


@dataclass(frozen=True)
class Site:
    """A cluster whose one node runs vLLM."""

    node: Node
    cluster: Given
    client: EngineClient


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The environment, the image and the model, made or found; a node that has them; a namespace, restricted."""
    engine = build_engine(ENGINE_VERSION, Progress())
    image = engine_image(Progress())
    made = engine_model(small_model("dense-53m"), engine, Progress())
    with running_cluster(with_node=True) as found:
        apply_crds(found, ROOT / "crds")
        node = the_node(found)
        node.import_image(image)
        furnish(node, _TEAM, engine, made)
        cluster = Given(**{name: getattr(found, name) for name in found.__dataclass_fields__})
        yield Site(node, cluster, EngineClient(engine, cluster, _TEAM, _NAME))


@pytest.fixture(scope="module")
def operators(site: Site) -> Iterator[Operators]:
    """The operator as a process of this machine, with the chart's rights, on this cluster."""
    kube = Kube(site.cluster.kubeconfig)
    found = Operators(site.cluster, kube, install_account(site.cluster, kube))
    found.shared = OperatorProcess(site.cluster, found.account, settings=_PATIENT).start_leading()
    yield found
    found.rest()
    kube.close()


@pytest.fixture(scope="module")
def place(site: Site, operators: Operators) -> Story:
    """The one namespace of all these tests, for the whole of the module."""
    return Story(site.cluster, operators.kube.within(_TEAM), None, "engine")


@pytest.fixture(scope="module")
def ready_after_s(operators: Operators, place: Story) -> float:
    """The workload that most of this is told of, served; how long that took from its `kubectl apply`."""
    operators.usual()
    began_s = time.monotonic()
    place.apply(engine_workload(_NAME))
    place.ready(_NAME, _START_S)
    return time.monotonic() - began_s


@pytest.fixture
def served(ready_after_s: float, story: Story) -> Story:
    """A story that starts where the workload serves, whatever the one before did to it."""
    story.ready(_NAME, _START_S)
    eventually(functools.partial(_assert_answers, story), _START_S)
    return story


def _assert_answers(story: Story) -> None:
    """Assert that the one pod is ready: a status may be older than what befell it."""
    ready = [_container(pod)["ready"] for pod in story.pods(_NAME)]
    assert ready == [True], f"pods of {_NAME} are ready: {ready}"


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print figures although the test passes."""

    def shown(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", flush=True)

    return shown


def _pod(story: Story) -> Object:
    """The one pod that serves, and is not on its way out."""
    (pod,) = story.pods(_NAME)
    return dict(pod)


def _container(pod: Object) -> Object:
    (status,) = pod["status"]["containerStatuses"]
    return dict(status)


def _log(site: Site, pod: Object) -> str:
    return kubectl(site.cluster, "-n", _TEAM, "logs", pod["metadata"]["name"])


def _assert_told(story: Story, name: str, reason: str, says: str = "") -> None:
    """Assert that an event of this reason about the workload says this; there may be others, of what came before."""
    told = [(event["reason"], event["note"]) for event in story.events(name)]
    assert any(of == reason and says in note for of, note in told), f"no event {reason} ({says!r}) about {name}: {told}"


def test_a_real_engine_becomes_ready_unprivileged(
    ready_after_s: float, story: Story, say: Callable[[str], None]
) -> None:
    say(f"Ready {ready_after_s:.0f} s after kubectl apply")
    status = story.status(_NAME)
    assert status["url"] == f"http://{_NAME}.{_TEAM}.svc:8000/v1"
    assert (status["method"], status["pool"], status["replicas"]) == ("default", POOL, 1)
    pod = _pod(story)
    assert _container(pod)["user"]["linux"]["uid"] == 1000
    assert pod["spec"]["automountServiceAccountToken"] is False
    security = pod["spec"]["containers"][0]["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    _assert_told(story, _NAME, "Available")


def test_the_engine_was_told_what_the_decision_says(site: Site, served: Story) -> None:
    argv = served.decision(_NAME)["spec"]["chosen"]["argv"]
    pod = _pod(served)
    assert pod["spec"]["containers"][0]["args"] == argv
    told = _told_by(argv)
    said = dict(log_arguments(_log(site, pod)))
    assert said.pop("model_tag") == said.pop("model") == argv[0]
    defaults = {"port": 8000}  # what equals a default of its own, the engine does not repeat
    assert {**defaults, **said} == told


def _told_by(argv: list[str]) -> dict[str, Any]:
    """The same as argparse names it: the model left out, a flag without a value true."""
    told: dict[str, Any] = {}
    for place, word in enumerate(argv[1:], start=1):
        if word.startswith("--"):
            value = argv[place + 1] if place + 1 < len(argv) and not argv[place + 1].startswith("--") else "true"
            read = value if word == "--served-model-name" else json.loads(value)
            told[word[2:].replace("-", "_")] = [read] if word == "--served-model-name" else read
    return told


def test_the_service_answers_the_openai_client_that_has_the_key(site: Site, served: Story) -> None:
    answers = site.client.ask("answers")
    assert answers["model"] == "example/dense-53m"
    assert answers["completion_tokens"] == 8
    assert len(answers["completion"].split()) == 8
    assert answers["chat_role"] == "assistant"
    assert answers["chat"].strip()
    assert site.client.ask("refused", key="another-key") == {"status": 401}


def test_repetitive_text_moves_it_to_speculation_without_a_dropped_request_and_it_is_faster(
    site: Site, served: Story, say: Callable[[str], None]
) -> None:
    plain = _speed(site)
    began_s = time.monotonic()
    with site.client.start("steady", 0) as steady, site.client.start("steady", 1) as usual:
        served.change(_NAME, traffic={"repetitiveness": "High"})
        served.says(_NAME, "Available", "True", "Switching")
        eventually(functools.partial(_assert_method, served, "ngram"), _NOTICE_S)
        served.ready(_NAME, _START_S)
        eventually(functools.partial(_assert_one_pod, served), _NOTICE_S)
        switched_s = time.monotonic() - began_s
        loads = [site.client.end(each) for each in (steady, usual)]
    requests, longest_s = [load["requests"] for load in loads], max(load["longest_s"] for load in loads)
    retries = [load["retries"] for load in loads]
    say(f"switched in {switched_s:.0f} s; {requests} requests of two clients meanwhile, the longest {longest_s:.1f} s")
    say(f"the client that keeps its connection had to try again {retries[1]} times")
    assert [load["failures"] for load in loads] == [[], []]
    assert min(requests) > 10
    assert retries[0] == 0
    assert retries[1] <= _MOST_RETRIES

    told = log_arguments(_log(site, _pod(served)))
    assert told["speculative_config"]["method"] == "ngram"
    _assert_told(served, _NAME, "SwitchStarted")
    _assert_told(served, _NAME, "SwitchFinished")
    fast = _speed(site)
    if fast / plain < _FASTER:  # what else runs on the machine comes and goes
        fast = max(fast, _speed(site))
    say(f"{plain:.0f} tok/s before, {fast:.0f} tok/s after: {fast / plain:.1f} times")
    assert fast / plain >= _FASTER


def _speed(site: Site, requests: int = 4) -> float:
    """The best of some requests of one client, output tokens per second: what else runs only ever slows it."""
    rates: list[float] = site.client.ask("speed", requests, within_s=_START_S)["tokens_per_s"]
    return max(rates)


def _assert_method(story: Story, method: str) -> None:
    assert story.status(_NAME).get("method") == method


def _assert_one_pod(story: Story) -> None:
    labels = f"metainf.dev/workload={_NAME}"
    assert len(story.kube.list("Pod", labels)) == 1


def test_a_pod_that_is_stopped_finishes_its_streams(site: Site, served: Story, say: Callable[[str], None]) -> None:
    pace = site.client.ask("pace", 800, within_s=_START_S)["tokens_per_s"]
    went_on_s = _stopped_while_it_streams(site, served, max(200, min(_MOST_TOKENS, round(_STREAM_S * pace))), say)
    if went_on_s <= _SETTLE_S:  # what else ran on the machine while its pace was taken has ended since
        went_on_s = _stopped_while_it_streams(site, served, _MOST_TOKENS, say)
    assert went_on_s > _SETTLE_S


def _stopped_while_it_streams(site: Site, served: Story, tokens: int, say: Callable[[str], None]) -> float:
    """Stop the pod of a stream that has begun: for how long that goes on, to its end; another pod serves then."""
    stopped = _pod(served)
    with site.client.start("stream", tokens) as stream:
        assert stream.stderr is not None
        assert stream.stderr.readline() == "began\n"
        served.kube.delete("Pod", stopped["metadata"]["name"])
        began_s = time.monotonic()
        answer = site.client.end(stream)
    went_on_s = time.monotonic() - began_s
    say(f"a stream of {tokens} tokens went on for {went_on_s:.0f} s after its pod was stopped")
    assert answer == {"tokens": tokens, "finish_reason": "length"}
    served.ready(_NAME, _START_S)
    assert _pod(served)["metadata"]["uid"] != stopped["metadata"]["uid"]
    return went_on_s


def test_an_engine_that_dies_is_told_and_healed(site: Site, served: Story, say: Callable[[str], None]) -> None:
    restarts = _container(_pod(served))["restartCount"]
    died = site.client.start("crash")
    message = served.says(_NAME, "Ready", "False", "EngineCrashed", within_s=_NOTICE_S)["message"]
    began_s = time.monotonic()
    assert "0 of 1 replicas are ready" in message
    assert "exit code 0" in message
    assert site.client.end(died)["failed"] is not None
    eventually(functools.partial(_assert_told, served, _NAME, "EngineCrashed", "ended by itself"))
    served.ready(_NAME, _START_S)
    say(f"healed {time.monotonic() - began_s:.0f} s after it was told: {message}")
    assert _container(_pod(served))["restartCount"] == restarts + 1
    assert site.client.ask("answers")["completion_tokens"] == 8


def test_a_pod_killed_for_memory_is_told_with_what_it_had(
    site: Site, served: Story, say: Callable[[str], None]
) -> None:
    pod = _pod(served)
    grow = "import time; held = [bytearray(1 << 26) for _ in range(64)]; time.sleep(60)"
    command = ["-n", _TEAM, "exec", pod["metadata"]["name"], "--", "/usr/bin/python3", "-c", grow]
    program = str(site.cluster.bin_dir / "kubectl")
    growing = subprocess.Popen(
        [program, *command], env=site.cluster.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with growing:
        message = served.says(_NAME, "Ready", "False", "OutOfMemory", within_s=_NOTICE_S)["message"]
        growing.kill()
    say(message)
    resources = pod["spec"]["containers"][0]["resources"]
    limit_mib, planned_mib = (int(resources[kind]["memory"].removesuffix("Mi")) for kind in ("limits", "requests"))
    assert f"more than its limit of {limit_mib:,} MiB; the plan expected {planned_mib:,} MiB, of which" in message
    assert "--kv-cache-memory-bytes asks for" in message
    eventually(functools.partial(_assert_told, served, _NAME, "OutOfMemory"))
    served.ready(_NAME, _START_S)


@pytest.mark.parametrize(
    ("spec", "reason", "says"),
    [
        pytest.param(
            {"engine": {"image": "docker.io/library/nothing:1"}},
            "ImageMissing",
            "no image docker.io/library/nothing:1",
            id="no image",
        ),
        pytest.param(
            {"model": {"source": {"pvc": {"claimName": "nothing"}}}},
            "ModelMissing",
            "volume claim nothing not found",
            id="no claim with the model",
        ),
        pytest.param(
            {"model": {"source": {"pvc": {"path": "nothing"}}}}, "ModelMissing", "/models/nothing", id="no model in it"
        ),
        pytest.param(
            {"engine": {"apiKeySecretRef": {"name": "nothing", "key": "key"}}},
            "CannotStart",
            'secret "nothing" not found',
            id="no secret with the key",
        ),
    ],
)
def test_what_is_not_there_is_told_as_that(story: Story, spec: dict[str, Any], reason: str, says: str) -> None:
    story.apply(engine_workload("lacking", **spec))
    message = story.says("lacking", "Ready", "False", reason, within_s=_START_S)["message"]
    assert says in message
    assert story.condition("lacking", "Available")["status"] == "False"
    eventually(functools.partial(_assert_told, story, "lacking", reason))
    story.kube.delete("InferenceWorkload", "lacking")
    eventually(functools.partial(_assert_gone, story, "lacking"), _NOTICE_S)


def _assert_gone(story: Story, name: str) -> None:
    for pod in story.kube.list("Pod", f"metainf.dev/workload={name}"):
        story.kube.delete("Pod", pod["metadata"]["name"], grace_s=1)
    assert story.kube.find("InferenceWorkload", name) is None
    assert not story.kube.list("Pod", f"metainf.dev/workload={name}")
