"""Nodes of a real API server are labelled with what a driver says, and the chart's policy refuses everything else.

Separate because only a server keeps field managers, checks tokens and evaluates the policy's expressions. The chart's
DaemonSet puts a pod on each fake node; the process runs on this machine with that pod's own token, as the kubelet would
ask for it, and with a libnvidia-ml that is compiled here.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import Cluster, KubectlError, kubectl
from e2e.cluster.fake_nodes import cpu_node
from e2e.cluster.processes import is_running, process_id, start_process, wait_for_end
from e2e.kube import ROOT, Kube, KubeError, Object
from e2e.story import Story, workload
from e2e.waiting import always, eventually
from fake_nvml import H100, L4, MIG_1G, MIG_3G, NO_COMPILER, UNLISTED, FakeDriver, gpu_lines
from metainf_operator.api_errors import ClusterError, ForbiddenError
from metainf_operator.node_facts.door import Door
from metainf_operator.node_facts.ownership import FIELD_MANAGER

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(NO_COMPILER), reason=NO_COMPILER)]

_RUN = os.getpid()
_SPACE = f"metainf-facts-{_RUN}"
_SELECTED = "e2e.metainf.dev/node-facts"
_CHART = ROOT / "charts/metainf"
_TEMPLATES = ("templates/node-facts.yaml", "templates/node-facts-policy.yaml")
_ACCOUNT = "metainf-node-facts"


@dataclass(frozen=True, slots=True)
class Installed:
    """The chart's DaemonSet with its account, role and policy."""

    cluster: Cluster
    kube: Kube
    files: Path

    def pod_on(self, node: str) -> Object:
        """The pod that the DaemonSet put on a node."""

        def found() -> Object:
            pods = [pod for pod in self.kube.list("Pod") if pod["spec"].get("nodeName") == node]
            assert pods, f"no pod of the DaemonSet on {node} yet"
            return pods[0]

        return eventually(found)

    def door(self, node: str | None) -> Door:
        """The API server as the pod on that node meets it; without a node, as the account of no pod."""
        command = ["create", "token", _ACCOUNT, "-n", _SPACE, "--duration=1h"]
        if node is not None:
            pod = self.pod_on(node)["metadata"]
            command += ["--bound-object-kind=Pod", f"--bound-object-name={pod['name']}"]
            command += [f"--bound-object-uid={pod['uid']}"]
        token = self.files / f"token-{node or 'account'}"
        token.write_text(kubectl(self.cluster, *command))
        view = json.loads(kubectl(self.cluster, "config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        authority = self.files / "ca.crt"
        authority.write_bytes(base64.b64decode(view["clusters"][0]["cluster"]["certificate-authority-data"]))
        return Door(view["clusters"][0]["cluster"]["server"], token, authority)


@pytest.fixture(scope="module")
def installed(cluster: Cluster, administrator: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    only = [option for template in _TEMPLATES for option in ("--show-only", template)]
    selected = f"nodeFacts.nodeSelector.{_SELECTED.replace('.', chr(92) + '.')}=yes"
    values = ["--set", "nodeFacts.enabled=true", "--set", "nodeFacts.runtimeClassName=", "--set-string", selected]
    command = [str(cluster.bin_dir / "helm"), "template", "metainf", str(_CHART), "--namespace", _SPACE]
    done = subprocess.run(
        [*command, *only, *values], capture_output=True, text=True, env=cluster.environment(), timeout=60, check=True
    )
    rendered = done.stdout
    kinds = [document["kind"] for document in yaml.safe_load_all(rendered) if document]
    assert kinds.count("ValidatingAdmissionPolicy") == 1
    kubectl(cluster, "create", "namespace", _SPACE)
    kubectl(cluster, "label", "namespace", _SPACE, "pod-security.kubernetes.io/enforce=restricted")
    kubectl(cluster, "apply", "-f", "-", stdin=rendered)
    eventually(lambda: _assert_served(administrator, "InferenceWorkload"))
    _await_the_policy(cluster)
    yield Installed(cluster, administrator.within(_SPACE), tmp_path_factory.mktemp("facts"))
    kubectl(cluster, "delete", "--wait=false", "-f", "-", stdin=rendered)
    kubectl(cluster, "delete", "namespace", _SPACE, "--wait=false")


def _await_the_policy(cluster: Cluster) -> None:
    """Wait until the server holds requests to the policy: what was applied is read and compiled a moment later."""
    node = f"metainf-facts-{_RUN}-probe"
    kubectl(cluster, "create", "-f", "-", stdin=json.dumps(_bare_node(node)))
    account = f"--as=system:serviceaccount:{_SPACE}:{_ACCOUNT}"

    def assert_denied() -> None:
        try:
            kubectl(cluster, "label", "node", node, "example.com/probe=x", account, "--dry-run=server")
        except KubectlError as error:
            assert "denied request" in str(error)
        else:
            raise AssertionError("a label that the policy knows nothing of was let pass")

    try:
        eventually(assert_denied)
    finally:
        kubectl(cluster, "delete", "node", node)


def _assert_served(kube: Kube, kind: str) -> None:
    """Assert that objects of a new kind can be listed: a server needs a moment to set up their storage."""
    try:
        kube.list(kind)
    except KubeError as error:
        raise AssertionError(f"listing {kind}: {error}") from error


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    return FakeDriver(tmp_path_factory.mktemp("driver")).install()


def _bare_node(name: str, gpus: int = 4, cost: str | None = None, **labels: str) -> Object:
    """A node whose accelerators nobody describes: a device plugin runs there, and no discovery."""
    selected = {_SELECTED: "yes", "example.com/team": "a", **labels}
    manifest = cpu_node(name, cpu="96", memory="1000Gi", labels=selected, cost_per_hour=cost)
    for amounts in (manifest["status"]["capacity"], manifest["status"]["allocatable"]):
        amounts["nvidia.com/gpu"] = str(gpus)
    return manifest


class Agent:
    """The process of one node, with the token of its pod."""

    def __init__(self, installed: Installed, node: str, driver: FakeDriver, *options: str) -> None:
        self.node = node
        self._installed = installed
        self._folder = installed.cluster.state_dir / "processes"
        self._name = f"node-facts-{node}"
        self._log = installed.cluster.log_dir / f"{self._name}.log"
        door = installed.door(node)
        arguments = {
            "node-name": node,
            "interval-s": "0.5",
            "resync-s": "1",
            "driver-root": str(driver.root),
            "api-server": door.server,
            "token-file": str(door.token_file),
            "ca-file": str(door.ca_file),
        }
        flags = [f"--{key}={value}" for key, value in arguments.items()]
        command = [sys.executable, "-m", "metainf_operator.node_facts", *flags, *options]
        start_process(self._folder, self._name, command, self._log, {"PATH": os.environ["PATH"]})

    def messages(self) -> list[str]:
        """What it has said."""
        return [str(json.loads(line)["message"]) for line in self._log.read_text().splitlines()]

    def labels(self) -> Mapping[str, str]:
        """The labels of its node."""
        found: Mapping[str, str] = self._installed.kube.get("Node", self.node)["metadata"]["labels"]
        return found

    def await_label(self, key: str, value: str | None) -> None:
        """Wait until a label has a value, or is gone."""

        def check() -> None:
            assert self.labels().get(key) == value, f"{self.labels()}\n{self._log.read_text()[-2000:]}"

        eventually(check)

    def stop(self) -> None:
        """End it as the kubelet does."""
        pid = process_id(self._folder, self._name)
        if pid is not None and is_running(self._folder, self._name):
            os.kill(pid, 15)
            wait_for_end(pid, 0.1)


@pytest.fixture
def start(installed: Installed) -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def started(node: str, driver: FakeDriver, *options: str) -> Agent:
        agents.append(Agent(installed, node, driver, *options))
        return agents[-1]

    yield started
    for agent in agents:
        agent.stop()


def _entries(node: Object) -> list[Object]:
    """What the server says that our field manager wrote."""
    return [entry for entry in node["metadata"]["managedFields"] if entry["manager"] == FIELD_MANAGER]


def _ours(node: Object) -> dict[str, str]:
    """Labels that the server has under our field manager."""
    keys = [key[2:] for entry in _entries(node) for key in entry["fieldsV1"]["f:metadata"]["f:labels"] if key != "."]
    return {key: node["metadata"]["labels"][key] for key in keys}


def test_labels_appear_and_nothing_else_changes(place: Story, built: FakeDriver, start: Callable[..., Agent]) -> None:
    node = place.node(_bare_node(f"{place.prefix}-bare"))
    before = place.kube.get("Node", node)
    built.says(*(gpu_lines(i, H100) for i in range(4)))
    agent = start(node, built)
    agent.await_label("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3")
    after = place.kube.get("Node", node)
    ours = _ours(after)
    assert ours["metainf.dev/gpu.memory-bandwidth-gb-per-s"] == "3352"
    assert ours["metainf.dev/gpu.nvlink-group"] == "4"
    assert len(ours) > 30
    assert before["metadata"]["labels"].items() <= after["metadata"]["labels"].items()
    assert not before["metadata"]["labels"].keys() & ours.keys()
    (entry,) = _entries(after)
    assert entry["operation"] == "Apply"
    assert set(entry["fieldsV1"]) == {"f:metadata"}
    assert set(entry["fieldsV1"]["f:metadata"]) == {"f:labels"}

    # A look that finds nothing new writes nothing: the entry's time is that of the write.
    def written() -> str:
        (entry,) = _entries(place.kube.get("Node", node))
        return str(entry["time"])

    once = written()
    always(lambda: _assert_equal(written(), once), for_s=3)
    assert agent.messages().count("the node is labelled") == 1


def _assert_equal(left: object, right: object) -> None:
    assert left == right


def test_labels_follow_the_driver_and_go_with_the_last_gpu(
    place: Story, built: FakeDriver, start: Callable[..., Agent]
) -> None:
    node = place.node(_bare_node(f"{place.prefix}-mig"))
    built.says(gpu_lines(0, H100, [MIG_3G, MIG_1G]), gpu_lines(1, H100, [MIG_3G]))
    agent = start(node, built, "--mig-strategy=mixed")
    agent.await_label("nvidia.com/mig-3g.40gb.count", "2")
    agent.await_label("nvidia.com/mig-1g.10gb.product", "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb")
    built.says(gpu_lines(0, H100, [MIG_3G]))
    agent.await_label("nvidia.com/mig-1g.10gb.product", None)
    agent.await_label("nvidia.com/mig-3g.40gb.count", "1")
    built.says("error.nvmlInitWithFlags 18")
    always(lambda: agent.await_label("nvidia.com/mig-3g.40gb.count", "1"), for_s=3)
    built.says("driver 580.65.06")
    agent.await_label("nvidia.com/gpu.product", None)
    labels = place.kube.get("Node", node)["metadata"]["labels"]
    assert not [key for key in labels if key.startswith(("nvidia.com/", "metainf.dev/gpu."))]
    assert labels["example.com/team"] == "a"


def test_labels_that_gpu_feature_discovery_wrote_are_left_alone(
    place: Story, built: FakeDriver, start: Callable[..., Agent]
) -> None:
    node = place.node(_bare_node(f"{place.prefix}-gfd"))
    theirs = {"nvidia.com/gpu.product": "NVIDIA-L4-SHARED", "nvidia.com/gpu.count": "4", "nvidia.com/gpu.replicas": "2"}
    built.says(*(gpu_lines(i, L4) for i in range(4)))
    agent = start(node, built)
    agent.await_label("nvidia.com/gpu.product", "NVIDIA-L4")
    # It comes later, and takes over what it has another value for.
    place.kube.patch("Node", node, {"metadata": {"labels": theirs}})
    place.kube.patch(
        "Node", node, {"metadata": {"annotations": {"nfd.node.kubernetes.io/feature-labels": ",".join(theirs)}}}
    )

    def assert_left() -> None:
        body = place.kube.get("Node", node)
        assert theirs.items() <= body["metadata"]["labels"].items()
        assert "nvidia.com/gpu.product" not in _ours(body)
        assert "labels of others are left alone" in agent.messages()

    eventually(assert_left)
    always(assert_left, for_s=3)
    assert agent.messages().count("labels of others are left alone") == 1


def _refusal(door: Door, node: str, labels: Mapping[str, str]) -> str:
    with pytest.raises(ForbiddenError) as caught:
        door.apply_labels(node, labels)
    return str(caught.value)


def test_the_policy_holds_a_pod_to_the_labels_of_its_own_node(place: Story, installed: Installed) -> None:
    own, other = (place.node(_bare_node(f"{place.prefix}-{name}")) for name in ("own", "other"))
    door = installed.door(own)
    fine = {"nvidia.com/gpu.product": "NVIDIA-L4", "metainf.dev/gpu.products": "1"}
    door.apply_labels(own, fine)
    assert _ours(place.kube.get("Node", own)) == fine
    assert f"and this is {other}" in _refusal(door, other, fine)
    assert f"and this is {own}" in _refusal(installed.door(None), own, {"nvidia.com/gpu.count": "1"})
    for key in ("nvidia.com/gpu.deploy.driver", "nvidia.com/gfd.timestamp", "metainf.dev/accelerator", "example.com/x"):
        assert f"no other labels than their own: {key}" in _refusal(door, own, {**fine, key: "x"})
    assert _ours(place.kube.get("Node", own)) == fine


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        pytest.param({"spec": {"unschedulable": True}}, "nothing of the spec", id="a cordon"),
        pytest.param({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}, "nothing of the spec", id="a taint"),
        pytest.param(
            {"metadata": {"annotations": {"metainf.dev/cost-per-hour": "0.01"}}}, "other metadata", id="a price"
        ),
        pytest.param({"metadata": {"labels": {"example.com/team": None}}}, "example.com/team", id="a label's removal"),
        pytest.param({"metadata": {"labels": {"kubernetes.io/arch": "arm64"}}}, "io/arch", id="a label of others"),
        pytest.param({"metadata": {"finalizers": ["example.com/stay"]}}, "other metadata", id="a finalizer"),
    ],
)
def test_the_policy_lets_nothing_change_but_labels(
    place: Story, installed: Installed, patch: Mapping[str, Any], says: str
) -> None:
    node = place.node(_bare_node(f"{place.prefix}-held"))
    done = _as_account(installed, node, "patch", "node", node, "--type=merge", "-p", json.dumps(patch))
    assert done.returncode != 0
    assert "denied request" in done.stderr
    assert says in done.stderr


def _as_account(installed: Installed, node: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run kubectl with the token of a node's pod."""
    door = installed.door(node)
    program = str(installed.cluster.bin_dir / "kubectl")
    options = [f"--server={door.server}", f"--certificate-authority={door.ca_file}"]
    options += [f"--token={door.token_file.read_text().strip()}", f"--kubeconfig={os.devnull}"]
    command = [program, *options, *arguments]
    environment = installed.cluster.environment()
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_the_account_may_do_nothing_else(place: Story, installed: Installed) -> None:
    node = place.node(_bare_node(f"{place.prefix}-only"))
    for arguments in (
        ("get", "nodes"),
        ("get", "pods", "-A"),
        ("get", "secrets", "-n", _SPACE),
        ("delete", "node", node),
        ("label", "node", node, "example.com/team=b", "--subresource=status"),
    ):
        done = _as_account(installed, node, *arguments)
        assert done.returncode != 0, arguments
        assert "orbidden" in done.stderr or "unknown flag" in done.stderr, done.stderr
    assert _as_account(installed, node, "get", "node", node).returncode == 0


def test_others_are_not_held_by_the_policy(place: Story, installed: Installed) -> None:
    node = place.node(_bare_node(f"{place.prefix}-free"))
    place.kube.patch("Node", node, {"spec": {"unschedulable": True}})
    place.kube.patch("Node", node, {"metadata": {"labels": {"nvidia.com/gpu.deploy.driver": "true"}}})


def test_labels_outlive_the_process_and_go_by_the_command_of_the_readme(
    place: Story, built: FakeDriver, start: Callable[..., Agent], installed: Installed
) -> None:
    node = place.node(_bare_node(f"{place.prefix}-left"))
    built.says(gpu_lines(0, L4))
    agent = start(node, built)
    agent.await_label("nvidia.com/gpu.product", "NVIDIA-L4")
    agent.stop()
    assert agent.messages()[-1] == "stopping; labels stay"
    assert agent.labels()["nvidia.com/gpu.product"] == "NVIDIA-L4"
    manifest = f"{{apiVersion: v1, kind: Node, metadata: {{name: {node}}}}}"
    apply = ["apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "-f", "-"]
    assert " ".join(apply) in (_CHART / "README.md").read_text()
    kubectl(installed.cluster, *apply, stdin=manifest)
    assert not [key for key in agent.labels() if key.startswith(("nvidia.com/", "metainf.dev/gpu."))]
    assert agent.labels()["example.com/team"] == "a"


def test_a_gpu_that_no_catalogue_has_is_used_by_the_facts_of_its_driver(
    story: Story, built: FakeDriver, start: Callable[..., Agent]
) -> None:
    node = story.node(_bare_node(f"{story.prefix}-unlisted", cost="4.00"))
    story.apply(workload())
    story.says("chat", "Feasible", "False")  # nobody knows yet what these accelerators are
    built.says(*(gpu_lines(i, UNLISTED) for i in range(4)))
    start(node, built)
    status = story.ready("chat", within_s=60)
    assert status["accelerator"] == "NVIDIA-Example-X1-Rev.-B-64GB"
    assert {pod["spec"]["nodeName"] for pod in story.pods("chat")} == {node}


def test_helm_on_a_cluster_that_serves_the_policy_makes_it(cluster: Cluster, installed: Installed) -> None:
    helm = [str(cluster.bin_dir / "helm"), "install", "again", str(_CHART), "--namespace", _SPACE, "--dry-run=server"]
    options = ["--set", "crds.install=false", "--set", "nodeFacts.enabled=true"]
    environment = cluster.environment()
    for more, made in (([], True), (["--set", "nodeFacts.admissionPolicy=false"], False)):
        done = subprocess.run(
            [*helm, *options, *more], capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert ("kind: ValidatingAdmissionPolicy\n" in done.stdout) == made
        assert "logs daemonset/again-metainf-node-facts" in done.stdout
        assert "serves no ValidatingAdmissionPolicy" not in done.stdout


def test_a_door_without_rights_says_so(place: Story, installed: Installed) -> None:
    door = installed.door(None)
    door.token_file.write_text("not-a-token")
    with pytest.raises(ClusterError, match="getting Node n: "):
        door.metadata("n")
