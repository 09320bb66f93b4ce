"""The chart with the operator's own image in a pod of a real node: install, `helm test`, decide, upgrade, uninstall.

Separate from the other stories, whose operator is a process of this machine and whose pods are fake: what only a pod
shows (the image, its user, its service account, probes, Services, pod security) is told here, on a cluster of its own.
Needs root and Debian's packages; skips with the reason elsewhere.
"""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import Cluster, Kind, Node, apply, delete, get, kubectl, running_cluster, the_node, why_no_real_node
from e2e.cluster.fake_nodes import COST_ANNOTATION, gfd_labels
from e2e.cluster.images import BUSYBOX_IMAGE, OperatorImage, operator_image
from e2e.cluster.lifecycle import choose
from e2e.cluster.node_config import CGROUP, LINK, PLACES, TUNABLES
from e2e.cluster.node_packages import install_missing
from e2e.cluster.progress import Progress
from e2e.story import workload
from e2e.waiting import eventually


def _why_not() -> str | None:
    if (kind := choose()) is not Kind.BUILT:
        return f"the cluster of this run is {kind}, and only a built one gets a real node: METAINF_E2E_CLUSTER=built"
    return why_no_real_node()


_REASON = _why_not()
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(_REASON), reason=_REASON or "")]

_ROOT = Path(__file__).resolve().parent.parent
_CHART = _ROOT / "charts/metainf"
_SPACE = "metainf"
_TEAM = "team-a"
_SMALL_MB = 400
_IMPORT_S = 2.0
_IDLE_MIB = 150.0
_CRDS = {f"{plural}.metainf.dev" for plural in ("acceleratorpools", "inferencedecisions", "inferenceworkloads")}
_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def _machine() -> dict[str, object]:
    """What a node could leave behind on this machine."""

    def printed(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    rules = [line for line in printed("iptables-save").splitlines() if line.startswith("-A")]
    marks = ("containerd", "kubelet", "netns", "metainf-node")
    commands = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    return {
        "links": {link["ifname"] for link in json.loads(printed("ip", "-json", "link"))},
        "routes": printed("ip", "route"),
        "rules": rules,
        "mounts": {line for line in Path("/proc/mounts").read_text().splitlines() if any(m in line for m in marks)},
        "cgroups": {str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{CGROUP}")},
        "folders": {place for place in (*PLACES, "/run/containerd") if Path(place).exists()},
        "settings": {name: Path("/proc/sys", name).read_text() for name in (*TUNABLES, "net/ipv4/ip_forward")},
        "processes": sum(b"node_init.py" in command or b"bin/containerd" in command for command in commands),
    }


def test_nothing_is_left_of_a_node_whose_run_was_killed() -> None:
    install_missing(Progress())
    before = _machine()
    program = (
        "import time; from e2e.cluster import running_cluster\n"
        "with running_cluster(with_node=True) as cluster: print('up', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=_ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        assert LINK in _machine()["links"]  # type: ignore[operator]
        run.send_signal(signal.SIGKILL)

    def gone() -> None:
        assert _machine() == before

    eventually(gone, within_s=60, every_s=1)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A cluster with a real node, and the machine as it was when that is gone."""
    install_missing(Progress())
    before = _machine()
    with running_cluster(with_node=True) as cluster:
        yield the_node(cluster)

    def gone() -> None:
        assert _machine() == before

    eventually(gone, within_s=10)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print figures although the test passes."""

    def shown(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", flush=True)

    return shown


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": _RESTRICTED}}


_WEB_SERVER = """
echo started as $(id -u)
mkdir /tmp/web; echo hello from $(hostname) > /tmp/web/index.html
exec httpd -f -p 8000 -h /tmp/web
"""


def _web(namespace: str) -> list[dict[str, Any]]:
    """A Deployment of two under the restricted standard, behind a readiness probe, and its Service."""
    labels = {"app": "web"}
    container = {
        "name": "web",
        "image": BUSYBOX_IMAGE,
        "command": ["sh", "-c", _WEB_SERVER],
        "readinessProbe": {"httpGet": {"path": "/index.html", "port": 8000}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {"containers": [container], "securityContext": security, "terminationGracePeriodSeconds": 1}
    template = {"metadata": {"labels": labels}, "spec": pod}
    metadata = {"name": "web", "namespace": namespace}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    ports = [{"port": 8000}]
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": labels, "ports": ports}},
    ]


def test_pods_have_a_network_probes_a_service_logs_and_exec(node: Node) -> None:
    cluster, space = node.cluster, "web"
    apply(cluster, [_namespace(space)])
    apply(cluster, _web(space))
    kubectl(cluster, "-n", space, "rollout", "status", "deployment/web", "--timeout=60s", timeout_s=70)
    pods = [item["metadata"]["name"] for item in get(cluster, "pods", "-n", space)["items"]]
    address = get(cluster, "service", "web", "-n", space)["spec"]["clusterIP"]

    assert kubectl(cluster, "-n", space, "logs", pods[0]).strip() == "started as 1000"
    assert kubectl(cluster, "-n", space, "exec", pods[0], "--", "id", "-u").strip() == "1000"
    asked = f"printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | busybox nc {address} 8000"
    from_a_pod = [kubectl(cluster, "-n", space, "exec", pods[0], "--", "sh", "-c", asked) for _ in range(12)]
    from_here = [_fetch(f"http://{address}:8000/index.html") for _ in range(12)]
    for answers in (from_a_pod, from_here):
        answering = {found for answer in answers for found in re.findall(r"hello from (\S+)", answer)}
        assert answering == set(pods)  # itself through its own Service as well
    delete(cluster, [_namespace(space)], wait=False)


def _fetch(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


@dataclass(frozen=True, slots=True)
class Release:
    """The chart, installed with the image of this tree."""

    node: Node
    image: OperatorImage
    notes: str
    installed_in_s: float

    @property
    def cluster(self) -> Cluster:
        """Where."""
        return self.node.cluster

    def helm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run helm as the cluster's administrator."""
        return _helm(self.cluster, *arguments)

    def pod(self) -> dict[str, Any]:
        """The one pod of the operator that is not on its way out."""
        labels = "app.kubernetes.io/component=operator"
        pods = get(self.cluster, "pods", "-n", _SPACE, "-l", labels)["items"]
        living = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        assert len(living) == 1, [pod["metadata"]["name"] for pod in living]
        return dict(living[0])

    def inside(self, *command: str) -> str:
        """Run a program in the operator's container."""
        return kubectl(self.cluster, "-n", _SPACE, "exec", self.pod()["metadata"]["name"], "--", *command)

    def metric(self, name: str) -> float:
        """One number of the operator's metrics, through its Service."""
        text = kubectl(self.cluster, "get", "--raw", f"/api/v1/namespaces/{_SPACE}/services/metainf:9090/proxy/metrics")
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert found is not None, name
        return float(found[1])


def _helm(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(cluster.bin_dir / "helm"), *arguments, "--namespace", _SPACE]
    return subprocess.run(command, capture_output=True, text=True, env=cluster.environment(), timeout=300, check=False)


@pytest.fixture(scope="module")
def release(node: Node) -> Release:
    """Installed as a user would, into a namespace that enforces the restricted standard."""
    image = operator_image(Progress())
    node.import_image(image.archive)
    apply(node.cluster, [_namespace(_SPACE), _namespace(_TEAM)])
    started_s = time.monotonic()
    options = ["--set", f"image.repository={image.repository}", "--set", f"image.tag={image.tag}"]
    done = _helm(node.cluster, "install", "metainf", str(_CHART), *options, "--wait", "--timeout", "120s")
    assert done.returncode == 0, done.stderr
    return Release(node, image, done.stdout.partition("NOTES:")[2], time.monotonic() - started_s)


def _ready_after_s(pod: dict[str, Any]) -> float:
    """From the start of the container to Ready, in whole seconds, as the kubelet has it."""
    started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    (ready,) = (c["lastTransitionTime"] for c in pod["status"]["conditions"] if c["type"] == "Ready")
    read = [time.mktime(time.strptime(moment, "%Y-%m-%dT%H:%M:%SZ")) for moment in (started, ready)]
    return read[1] - read[0]


def test_the_installed_operator_is_ready_and_the_notes_say_what_is_next(
    release: Release, say: Callable[[str], None]
) -> None:
    pod = release.pod()
    (status,) = pod["status"]["containerStatuses"]
    assert status["ready"]
    assert pod["spec"]["nodeName"] == release.node.name
    assert f"helm test metainf -n {_SPACE}" in release.notes
    say(f"installed in {release.installed_in_s:.1f} s; Ready {_ready_after_s(pod):.0f} s after the container's start")

    def leads() -> None:
        holder = get(release.cluster, "lease", "metainf-operator", "-n", _SPACE)["spec"]["holderIdentity"]
        assert holder.startswith(release.pod()["metadata"]["name"])
        assert release.metric("metainf_leader") == 1

    eventually(leads)


def test_the_image_is_small_and_what_it_runs_is_imported_quickly(release: Release, say: Callable[[str], None]) -> None:
    # Two folders of root's, with next to nothing in them, are not to be read.
    measure = "du --one-file-system --summarize --bytes / 2>/dev/null || true"
    size_mb = int(release.inside("sh", "-c", measure).split()[0]) / 1e6
    program = (
        "import time; began, cpu = time.perf_counter(), time.process_time(); import metainf_operator.__main__; "
        "print(time.perf_counter() - began, time.process_time() - cpu)"
    )
    runs = [[float(part) for part in release.inside("python3", "-c", program).split()] for _ in range(3)]
    walls_s, cpu_s = ", ".join(f"{wall:.2f}" for wall, _ in runs), min(cpu for _, cpu in runs)
    say(f"{size_mb:.0f} MB unpacked; import in {walls_s} s by the clock, {cpu_s:.2f} s of a core")
    assert size_mb < _SMALL_MB
    assert cpu_s < _IMPORT_S  # of a core: the clock also counts what else runs on this machine


def test_the_operator_needs_little_memory(release: Release, say: Callable[[str], None]) -> None:
    idle_mib = release.metric("process_resident_memory_bytes") / 2**20
    text = release.inside("cat", "/proc/1/status")
    peak_mib = int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0]) / 2**10
    say(f"idle with {idle_mib:.0f} MiB, {peak_mib:.0f} MiB at most since its start")
    assert idle_mib < _IDLE_MIB


def test_helm_test_passes(release: Release, say: Callable[[str], None]) -> None:
    began_s = time.monotonic()
    done = release.helm("test", "metainf", "--timeout", "60s", "--logs")
    assert done.returncode == 0, done.stderr + done.stdout
    assert re.search(r"Phase:\s+Succeeded", done.stdout)
    assert "the operator is ready, and the API server serves what it needs" in done.stdout
    say(f"helm test passed in {time.monotonic() - began_s:.1f} s")


def _offer_accelerators(node: Node) -> None:
    labels = gfd_labels("NVIDIA-L40S", 46068, 4, family="ada-lovelace", compute="8.9")
    metadata = {"name": node.name, "labels": labels, "annotations": {COST_ANNOTATION: "7.20"}}
    apply(node.cluster, [{"apiVersion": "v1", "kind": "Node", "metadata": metadata}])
    node.offer("nvidia.com/gpu", 4)


def _deployments(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(cluster, "deployments", "-n", _TEAM)["items"]
    return found


def test_the_operator_in_the_pod_decides_and_makes_the_deployment(release: Release, say: Callable[[str], None]) -> None:
    _offer_accelerators(release.node)
    manifest = workload()
    manifest["metadata"]["namespace"] = _TEAM
    began_s = time.monotonic()
    apply(release.cluster, [manifest])

    def made() -> dict[str, Any]:
        assert _deployments(release.cluster), get(release.cluster, "miw", "chat", "-n", _TEAM).get("status")
        return _deployments(release.cluster)[0]

    deployment = eventually(made)
    say(f"a Deployment {time.monotonic() - began_s:.1f} s after kubectl apply")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"

    def recorded() -> None:
        status = get(release.cluster, "miw", "chat", "-n", _TEAM)["status"]
        assert status["costPerHour"].startswith("1.8")  # one of the four accelerators of a node for 7.20
        decision = get(release.cluster, "inferencedecision", status["decisionRef"]["name"], "-n", _TEAM)
        assert decision["spec"]["chosen"]["argv"][-len(container["args"]) :] == container["args"]
        pods = get(release.cluster, "pods", "-n", _TEAM)["items"]  # vLLM's image cannot be had here
        assert [pod["spec"].get("nodeName") for pod in pods] == [release.node.name]

    eventually(recorded)
    assert release.pod()["status"]["containerStatuses"][0]["restartCount"] == 0


def test_an_upgrade_replaces_the_pod_and_leaves_what_runs(release: Release) -> None:
    before, running = release.pod()["metadata"]["name"], [d["metadata"]["uid"] for d in _deployments(release.cluster)]
    options = ["--reuse-values", "--set", "operator.logLevel=debug", "--wait", "--timeout", "120s"]
    done = release.helm("upgrade", "metainf", str(_CHART), *options)
    assert done.returncode == 0, done.stderr

    def replaced() -> None:
        pod = release.pod()["metadata"]["name"]
        assert pod != before
        holder = get(release.cluster, "lease", "metainf-operator", "-n", _SPACE)["spec"]["holderIdentity"]
        assert holder.startswith(pod)

    eventually(replaced, within_s=40)
    assert [d["metadata"]["uid"] for d in _deployments(release.cluster)] == running
    assert release.helm("test", "metainf", "--timeout", "60s").returncode == 0


def test_helm_test_fails_where_no_operator_runs(release: Release) -> None:
    scale = ["-n", _SPACE, "scale", "deployment/metainf"]
    kubectl(release.cluster, *scale, "--replicas=0")
    labels = "app.kubernetes.io/component=operator"
    kubectl(release.cluster, "-n", _SPACE, "wait", "pod", "-l", labels, "--for=delete", "--timeout=40s")
    done = release.helm("test", "metainf", "--timeout", "10s")
    said = kubectl(release.cluster, "-n", _SPACE, "logs", "metainf-test")
    kubectl(release.cluster, *scale, "--replicas=1")
    assert done.returncode != 0
    assert ":8080/readyz" in said
    assert "Connection refused" in said
    kubectl(release.cluster, "-n", _SPACE, "rollout", "status", "deployment/metainf", "--timeout=60s", timeout_s=70)


def _left_in(cluster: Cluster, namespace: str) -> set[str]:
    kinds = kubectl(cluster, "api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith(("events", "endpoints", "endpointslices", "pods.metrics"))]
    found = kubectl(cluster, "get", ",".join(kinds), "-n", namespace, "-o", "name", "--ignore-not-found").split()
    # The Lease is no part of the release: the operator makes it, and runs on for a moment when the release is gone.
    of_others = {"configmap/kube-root-ca.crt", "serviceaccount/default", "lease.coordination.k8s.io/metainf-operator"}
    return set(found) - of_others


def test_uninstalling_leaves_nothing_but_the_definitions(release: Release) -> None:
    delete(release.cluster, [{**workload(), "metadata": {"name": "chat", "namespace": _TEAM}}])
    done = release.helm("uninstall", "metainf", "--wait", "--timeout", "60s")
    assert done.returncode == 0, done.stderr
    kubectl(release.cluster, "-n", _SPACE, "delete", "pod", "metainf-test", "--ignore-not-found", "--now")

    def clear() -> None:
        assert _left_in(release.cluster, _SPACE) == set()
        assert _left_in(release.cluster, _TEAM) == set()
        kinds = "clusterroles,clusterrolebindings"
        named = kubectl(release.cluster, "get", kinds, "-l", "app.kubernetes.io/instance=metainf", "-o", "name")
        assert named.split() == []

    eventually(clear)
    crds = {item["metadata"]["name"] for item in get(release.cluster, "crds")["items"]}
    assert crds == _CRDS
