"""Node facts in a pod of a real node: the image, its libraries, the kubelet's token, and the operator that reads on.

Separate from e2e/test_node_facts.py, whose processes stand in for pods: what only a kubelet gives (the driver mounted
into the pod, a projected token that names the node, limits, an end by signal) is told here, on a cluster of its own.
Needs root and Debian's packages, as e2e/test_real_node.py does; skips with the reason elsewhere.
"""

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import Cluster, Kind, Node, apply, get, kubectl, running_cluster, the_node, why_no_real_node
from e2e.cluster.fake_nodes import COST_ANNOTATION
from e2e.cluster.images import operator_image
from e2e.cluster.lifecycle import choose
from e2e.cluster.node_packages import install_missing
from e2e.cluster.progress import Progress
from e2e.kube import ROOT
from e2e.story import workload
from e2e.waiting import eventually
from fake_nvml import L4, NO_COMPILER, FakeDriver, gpu_lines
from metainf_operator.node_facts.ownership import FIELD_MANAGER


def _why_not() -> str | None:
    if (kind := choose()) is not Kind.BUILT:
        return f"the cluster of this run is {kind}, and only a built one gets a real node: METAINF_E2E_CLUSTER=built"
    return NO_COMPILER or why_no_real_node()


_REASON = _why_not()
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(_REASON), reason=_REASON or "")]

_SPACE = "metainf-facts"
_TEAM = "team-a"
_PODS = "app.kubernetes.io/component=node-facts"
_RESIDENT_MIB = 60
# The fake driver needs no device, so its pod needs none of what a real one mounted by its files does.
_RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True, slots=True)
class Release:
    """The chart with node facts on, and the driver that the node has."""

    node: Node
    driver: FakeDriver

    @property
    def cluster(self) -> Cluster:
        """Where."""
        return self.node.cluster

    def pod(self) -> dict[str, Any]:
        """The one pod of the DaemonSet that is not on its way out."""
        pods = get(self.cluster, "pods", "-n", _SPACE, "-l", _PODS)["items"]
        living = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        assert len(living) == 1, [pod["metadata"]["name"] for pod in living]
        return dict(living[0])

    def labels(self) -> dict[str, str]:
        """The node's labels."""
        return dict(get(self.cluster, "node", self.node.name)["metadata"]["labels"])

    def messages(self) -> list[str]:
        """What the pod has said."""
        text = kubectl(self.cluster, "-n", _SPACE, "logs", self.pod()["metadata"]["name"])
        return [json.loads(line)["message"] for line in text.splitlines()]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Installed by helm on a node without a driver."""
    install_missing(Progress())
    image = operator_image(Progress())
    # Not below pytest's own folders, which are root's alone: the pod is not root.
    with tempfile.TemporaryDirectory(prefix="metainf-driver-") as folder, running_cluster(with_node=True) as cluster:
        root = Path(folder)
        root.chmod(0o755)
        driver = FakeDriver(root)
        driver.folder.mkdir(parents=True)
        node = the_node(cluster)
        node.import_image(image.archive)
        for name in (_SPACE, _TEAM):
            apply(cluster, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
        values = {
            "image": {"repository": image.repository, "tag": image.tag},
            "nodeFacts": {
                "enabled": True,
                "driverRoot": str(root),
                "intervalSeconds": 1,
                "resyncSeconds": 5,
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "securityContext": _RESTRICTED,
            },
        }
        file = tmp_path_factory.mktemp("values") / "values.json"
        file.write_text(json.dumps(values))
        command = [str(cluster.bin_dir / "helm"), "install", "metainf", str(ROOT / "charts/metainf")]
        command += ["--namespace", _SPACE, "--values", str(file), "--wait", "--timeout", "120s"]
        environment = cluster.environment()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        assert "serves no ValidatingAdmissionPolicy" not in done.stdout
        yield Release(node, driver)


def test_a_node_without_a_driver_has_a_quiet_pod(release: Release) -> None:
    def waiting() -> None:
        assert release.messages() == ["started", "no NVIDIA driver: waiting for one"]

    eventually(waiting)
    (status,) = release.pod()["status"]["containerStatuses"]
    assert (status["ready"], status["restartCount"]) == (True, 0)
    assert not [key for key in release.labels() if key.startswith(("nvidia.com/", "metainf.dev/"))]
    kinds = get(release.cluster, "validatingadmissionpolicies")["items"]
    assert [kind["metadata"]["name"] for kind in kinds] == [f"{_SPACE}-metainf-node-facts"]
    assert not kinds[0].get("status", {}).get("typeChecking", {}).get("expressionWarnings")


def test_the_driver_comes_and_the_operator_buys_what_it_describes(release: Release) -> None:
    release.driver.install().says(*(gpu_lines(i, L4) for i in range(2)))

    def labelled() -> None:
        assert release.labels().get("nvidia.com/gpu.product") == "NVIDIA-L4", release.messages()

    eventually(labelled)
    body = get(release.cluster, "node", release.node.name, "--show-managed-fields")
    assert [e["operation"] for e in body["metadata"]["managedFields"] if e["manager"] == FIELD_MANAGER] == ["Apply"]
    annotated = {"name": release.node.name, "annotations": {COST_ANNOTATION: "1.40"}}
    apply(release.cluster, [{"apiVersion": "v1", "kind": "Node", "metadata": annotated}])
    release.node.offer("nvidia.com/gpu", 2)
    manifest = workload()
    manifest["metadata"]["namespace"] = _TEAM
    apply(release.cluster, [manifest])

    def decided() -> None:
        status = get(release.cluster, "miw", "chat", "-n", _TEAM).get("status") or {}
        assert str(status.get("accelerator")).startswith("L4-PCIe-24GB"), status

    eventually(decided, within_s=60)
    kubectl(release.cluster, "-n", _TEAM, "delete", "miw", "chat")


def test_the_pod_needs_little_memory_and_ends_at_once(release: Release, capsys: pytest.CaptureFixture[str]) -> None:
    pod = release.pod()["metadata"]["name"]
    status = kubectl(release.cluster, "-n", _SPACE, "exec", pod, "--", "cat", "/proc/1/status")
    peak_mib = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
    assert peak_mib < _RESIDENT_MIB
    assert re.findall(r"CapEff:\s+(\S+)", status) == ["0000000000000000"]
    began_s = time.monotonic()
    kubectl(release.cluster, "-n", _SPACE, "delete", "pod", pod, "--wait=true", "--timeout=30s")
    took_s = time.monotonic() - began_s
    with capsys.disabled():
        print(f"\n  node facts: {peak_mib:.0f} MiB at most; gone {took_s:.1f} s after its deletion")
    assert took_s < 5
    assert release.labels()["nvidia.com/gpu.product"] == "NVIDIA-L4"  # a rollout takes no node out of use


def test_the_next_pod_finds_all_as_it_should_be(release: Release) -> None:
    def settled() -> None:
        assert release.messages()[:2] == ["started", "the driver answers"]

    eventually(settled, within_s=60)
    time.sleep(3)
    assert "the node is labelled" not in release.messages()


def test_labels_go_with_the_driver(release: Release) -> None:
    release.driver.remove()

    def gone() -> None:
        assert not [key for key in release.labels() if key.startswith(("nvidia.com/", "metainf.dev/gpu."))]

    eventually(gone)
    assert release.pod()["status"]["containerStatuses"][0]["restartCount"] == 0


def test_the_folder_of_the_driver_is_the_one_of_the_values(release: Release) -> None:
    (volume,) = [v for v in release.pod()["spec"]["volumes"] if v["name"] == "driver-root"]
    assert Path(volume["hostPath"]["path"]) == release.driver.root
