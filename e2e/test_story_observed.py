"""What engines were seen to do: a pod that cannot be read is said so, and real traffic through real vLLM is told.

The first story's pods are fake, so that nobody answers at their addresses. The others are one, told in its order, of a
real engine on a real node (see test_real_engine.py for what that needs); the operator looks every three seconds, over
a minute, so that a story need not wait for the usual five.
"""

import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import apply_crds, running_cluster, the_node, why_no_real_node
from e2e.cluster.engine import ENGINE_VERSION, build_engine, why_no_engine
from e2e.cluster.engine_image import engine_image
from e2e.cluster.engine_model import engine_model
from e2e.cluster.lifecycle import choose
from e2e.cluster.model import Kind
from e2e.cluster.progress import Progress
from e2e.conftest import Given
from e2e.engine_site import EngineClient, engine_workload, furnish
from e2e.kube import ROOT, Kube, Object
from e2e.operator_process import Operators, install_account
from e2e.story import Story, workload
from e2e.waiting import eventually
from metainf.bench.small_models import small_model

pytestmark = pytest.mark.e2e

_TEAM = "team-o"
_NAME = "seen"
_START_S = 420.0
_NOTICE_S = 150.0
_CLIENTS = 3
_AGAIN = 40
"""Twice as many requests as figures have to rest on."""
_PATIENT = {
    "METAINF_LEASE_DURATION_S": "60",
    "METAINF_LEASE_RENEW_DEADLINE_S": "45",
    "METAINF_LEASE_RETRY_PERIOD_S": "5",
}
"""A real engine and its clients leave an operator on the same cores little: it is not to end for a late renewal."""
_QUICK = {"METAINF_OBSERVE_INTERVAL_S": "3", "METAINF_OBSERVE_WINDOW_S": "60"}


def test_a_pod_that_cannot_be_read_is_said_so_and_serves_on(place: Story, operators: Operators) -> None:
    operators.rest()
    try:
        place.operator = operators.another("operator-observing", **_QUICK).start_leading()
        place.node("l4", "3.40")
        place.apply(workload(slo={"ttft": {"p95": "20s"}}))
        place.ready("chat")
        told = place.says("chat", "SLOMet", "Unknown", "MetricsUnreadable", within_s=_NOTICE_S)
        (pod,) = place.pods("chat")
        assert pod["metadata"]["name"] in told["message"]
        assert place.status("chat")["observed"]["unreadablePods"] == 1
        assert place.condition("chat", "Ready")["status"] == "True"
        eventually(functools.partial(_assert_told, place, "chat", "MetricsUnreadable"))
    finally:
        operators.end_others()


def _assert_told(story: Story, name: str, reason: str) -> None:
    reasons = [event["reason"] for event in story.events(name)]
    assert reasons.count(reason) == 1, f"events about {name}: {reasons}"


def _why_not() -> str | None:
    if (kind := choose()) is not Kind.BUILT:
        return f"the cluster of this run is {kind}, and only a built one gets a real node: METAINF_E2E_CLUSTER=built"
    return why_no_real_node() or why_no_engine()


_REASON = _why_not()
_real = pytest.mark.skipif(bool(_REASON), reason=_REASON or "")


@dataclass(frozen=True)
class Watched:
    """A real engine that an operator looks at often, and a client."""

    story: Story
    client: EngineClient

    def observed(self) -> dict[str, Any]:
        return dict(self.story.status(_NAME).get("observed") or {})

    def explained(self) -> str:
        """What `kubectl metainf explain` prints."""
        cluster = self.story.cluster
        program = str(Path(sys.executable).parent / "kubectl-metainf")
        command = [program, "explain", _NAME, "-n", _TEAM, "--kubeconfig", str(cluster.kubeconfig)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=cluster.environment(), timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    engine = build_engine(ENGINE_VERSION, Progress())
    image = engine_image(Progress())
    made = engine_model(small_model("dense-53m"), engine, Progress())
    with running_cluster(with_node=True) as found:
        apply_crds(found, ROOT / "crds")
        node = the_node(found)
        node.import_image(image)
        furnish(node, _TEAM, engine, made)
        cluster = Given(**{name: getattr(found, name) for name in found.__dataclass_fields__})
        kube = Kube(cluster.kubeconfig)
        operators = Operators(cluster, kube, install_account(cluster, kube))
        operator = operators.another("operator-observing", **_QUICK, **_PATIENT).start_leading()
        story = Story(cluster, kube.within(_TEAM), operator, "seen")

        try:
            yield Watched(story, EngineClient(engine, cluster, _TEAM, _NAME))
            assert operator.running, operator.tail()
            operator.assert_sane(0)
        finally:
            operators.end_others()
            kube.close()


@pytest.fixture(scope="module")
def traffic(watched: Watched) -> Iterator["list[subprocess.Popen[str]]"]:
    """Clients that ask without a pause, from the first of these tests that wants them to the one that ends them."""
    watched.story.apply(
        engine_workload(_NAME, slo={"ttft": {"p95": "640s"}}, policy={"cooldown": "0s", "traffic": "Observed"})
    )
    watched.story.ready(_NAME, _START_S)
    started = [watched.client.start("steady") for _ in range(_CLIENTS)]
    yield started
    for each in started:
        if each.poll() is None:
            each.kill()
            each.wait()


def _assert_seen(watched: Watched) -> dict[str, Any]:
    observed = watched.observed()
    assert observed.get("requests", 0) >= 20, observed
    return observed


@_real
def test_real_traffic_is_told_beside_what_was_predicted(
    watched: Watched, traffic: "list[subprocess.Popen[str]]"
) -> None:
    observed = eventually(functools.partial(_assert_seen, watched), _NOTICE_S)
    assert observed["pods"] == 1
    assert "unreadablePods" not in observed
    tokens, requests = float(observed["throughput"].split()[0]), float(observed["requestsPerSecond"])
    assert tokens / requests == pytest.approx(16, rel=0.3)  # what each request of this client asks for
    assert observed["ttft"].startswith("p95 ")
    assert observed["tpot"].startswith("p95 ")
    assert Decimal(observed["costPerMillionTokens"].split()[0]) > 0
    assert observed["prefixHitRatio"] == "0.00"  # none of these prompts fills a block of the cache
    assert watched.story.says(_NAME, "SLOMet", "True", "WithinSLO")["message"].endswith("of 10m40s")
    recorded = watched.story.decision(_NAME)
    seen = recorded["status"]["observed"]
    assert seen["requests"] >= 20
    assert Decimal(seen["outputTokensPerSecond"]) > 0
    assert Decimal(seen["ttft"]["p95"]) > 0
    explained = watched.explained()
    (heading,) = [line for line in explained.splitlines() if "Predicted" in line]
    assert "Observed" in heading
    assert "Observed: " in explained


@_real
def test_what_is_seen_is_decided_by_and_the_record_says_so(
    watched: Watched, traffic: "list[subprocess.Popen[str]]"
) -> None:
    """Recommended, so that no engine has to start for it: another repetitiveness is another choice."""
    watched.story.change(_NAME, traffic={"repetitiveness": "High"}, policy={"mode": "Recommend"})
    proposed = eventually(functools.partial(_assert_proposed, watched), 2 * _NOTICE_S)
    inputs = proposed["spec"]["inputs"]
    assert inputs["observed"]["requests"] >= 100
    assert inputs["traffic"]["outputTokens"]["mean"] == 16
    assert 10 <= inputs["traffic"]["inputTokens"]["mean"] <= 20
    assert inputs["traffic"]["repetitiveness"] == "High"
    # Requests under way at the server: between two of its requests a client does not load it.
    assert 1 <= inputs["traffic"]["concurrency"] <= _CLIENTS
    assert proposed["spec"]["chosen"]["method"] == "ngram"


def _assert_proposed(watched: Watched) -> Object:
    """Assert that there is a proposal that rests on what was seen: there is one as soon as enough is."""
    proposed = watched.story.decisions(_NAME, "Proposed")
    found = [each for each in proposed if "observed" in each["spec"]["inputs"]]
    assert found, [each["spec"]["inputs"]["traffic"] for each in proposed]
    return dict(found[-1])


@_real
def test_a_promise_that_real_requests_break_is_told(watched: Watched, traffic: "list[subprocess.Popen[str]]") -> None:
    watched.story.change(_NAME, slo={"ttft": {"p95": "1ms"}})
    told = watched.story.says(_NAME, "SLOMet", "False", "SLOMissed", within_s=_NOTICE_S)
    assert told["message"].endswith("; the SLO allows 1ms")
    eventually(functools.partial(_assert_told, watched.story, _NAME, "SLOMissed"))


@_real
def test_when_traffic_ends_the_promise_is_not_known_and_the_record_keeps_what_was_seen(
    watched: Watched, traffic: "list[subprocess.Popen[str]]"
) -> None:
    assert [watched.client.end(each)["failures"] for each in traffic] == [[]] * _CLIENTS
    watched.story.says(_NAME, "SLOMet", "Unknown", "NoTraffic", within_s=_NOTICE_S)
    assert "requests" not in watched.observed()
    assert watched.story.decision(_NAME)["status"]["observed"]["requests"] >= 20


@_real
def test_what_the_prefix_cache_had_is_told(watched: Watched, traffic: "list[subprocess.Popen[str]]") -> None:
    """Asked where nothing else is in the window any more: a prompt of two whole blocks, again and again."""
    watched.client.ask("again", _AGAIN)
    observed = eventually(functools.partial(_assert_seen, watched), _NOTICE_S)
    assert float(observed["prefixHitRatio"]) > 0.5
