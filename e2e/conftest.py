"""What every story starts from: one cluster for all, a place in it for each, and an operator at work.

Separate from the stories, which say nothing of how they are set up. METAINF_E2E_STATE_DIR=FOLDER keeps the cluster of
that folder between two runs; without it, the cluster is this run's own and goes with it. METAINF_E2E_ALL=1 lets
nothing be skipped: see skips.py.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.cluster import Cluster, apply_crds, mark, requests, running_cluster, up
from e2e.cluster.processes import known_processes, stop_process
from e2e.kube import ROOT, Kube, KubeError
from e2e.operator_process import OperatorProcess, Operators, install_account
from e2e.skips import counted
from e2e.story import Story, workload
from e2e.waiting import eventually


@dataclass(frozen=True)
class Given(Cluster):
    """The cluster, and where its kubectl is."""

    @property
    def kubectl(self) -> Path:
        """The program of the cluster's own version."""
        return self.bin_dir / "kubectl"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Given]:
    """The cluster of this run, with the definitions of this tree."""
    kept = os.environ.get("METAINF_E2E_STATE_DIR")
    with contextlib.nullcontext(up(Path(kept))) if kept else running_cluster() as found:
        apply_crds(found, ROOT / "crds")
        yield Given(**{name: getattr(found, name) for name in found.__dataclass_fields__})


@pytest.fixture(scope="session")
def administrator(cluster: Given) -> Iterator[Kube]:
    """The API server, as its administrator sees it."""
    kube = Kube(cluster.kubeconfig, proxy=cluster.kind == "given")
    yield kube
    kube.close()


@pytest.fixture(scope="session")
def operators(cluster: Given, administrator: Kube) -> Iterator[Operators]:
    """Operators under the chart's roles; all ended with the run."""
    processes = cluster.state_dir / "processes"
    for name in known_processes(processes):
        if name.startswith("operator"):
            stop_process(processes, name, grace_s=0)  # of a run that was killed
    found = Operators(cluster, administrator, install_account(cluster, administrator))
    await_garbage_collection(administrator)
    yield found
    found.end_others()
    found.rest()


def await_garbage_collection(kube: Kube) -> None:
    """Wait until what a deleted workload owns goes with it: of a kind that is new the collector learns within 30 s."""
    body = kube.apply(workload("collected", suspend=True))
    owner = {key: body[key] for key in ("apiVersion", "kind")} | {"name": "collected", "uid": body["metadata"]["uid"]}
    metadata = {"name": "collected", "ownerReferences": [owner]}
    kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    kube.delete("InferenceWorkload", "collected")

    def assert_collected() -> None:
        assert kube.find("ConfigMap", "collected") is None, "the garbage collector does not know of workloads yet"

    eventually(assert_collected, within_s=90)


@pytest.fixture
def place(request: pytest.FixtureRequest, cluster: Given, administrator: Kube) -> Iterator[Story]:
    """A namespace and a name for nodes, of this story alone, and no operator."""
    short = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:28].strip("-")
    tag = secrets.token_hex(3)
    kube = administrator.within(f"{short}-{tag}")
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kube.namespace}})
    story = Story(cluster, kube, None, f"n{tag}")
    yield story
    story.clear()


@pytest.fixture
def story(operators: Operators, place: Story) -> Iterator[Story]:
    """A place with the shared operator at work; whatever the story tells, it must not crash nor lack a right."""
    operator = place.operator = operators.usual()
    eventually(lambda: assert_up_to_date(operator, place.kube))
    since = operator.mark()
    with watching_rights(operators, place):
        yield place
    operator.assert_sane(since)


def assert_up_to_date(operator: OperatorProcess, kube: Kube) -> None:
    """Assert that the operator knows the nodes that stand and no others: pools are what decisions are made from."""
    standing = len(kube.list("Node"))
    assert operator.known("nodes") == standing, f"{operator.name} knows {operator.known('nodes')} of {standing} nodes"


@contextlib.contextmanager
def watching_rights(operators: Operators, story: Story) -> Iterator[None]:
    """Assert at the end that the API server turned the operator away from nothing for want of a right."""
    since = mark(story.cluster) if story.cluster.audit_log else None
    yield
    if since is None:
        return
    refused = [r for r in requests(story.cluster, since, operators.account.user) if r.code == 403]
    # A namespace on its way out takes nothing new and says so with the same code.
    standing = {
        space["metadata"]["name"]
        for space in story.kube.list("Namespace")
        if space["status"].get("phase") != "Terminating"
    }
    lacking = {(r.verb, r.resource, r.namespace) for r in refused if not r.namespace or r.namespace in standing}
    assert not lacking, f"the chart's roles lack: {sorted(lacking)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what stood in the cluster and what the operators said; a skip may count as one."""
    report = yield
    report = counted(report)
    arguments = getattr(item, "funcargs", {})
    place, operators = arguments.get("place"), arguments.get("operators")
    if report.failed and isinstance(place, Story):
        with contextlib.suppress(OSError, KubeError):  # no failure to show one may hide it
            report.sections.append(("the cluster", place.facts()))
    if report.failed and isinstance(operators, Operators):
        for each in filter(None, (operators.shared, *operators.others)):
            report.sections.append((f"the log of {each.name}", each.tail(40)))
    return report
