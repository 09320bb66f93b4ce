"""The custom resources on a real API server: what it takes, what it refuses and in which words.

Separate from tests/test_crds.py because CEL rules, their cost limits, defaults and subresources are the server's:
nothing but a server can say whether they work. Almost all is a dry run, of which a running operator sees nothing.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

pytestmark = pytest.mark.e2e

_ROOT = Path(__file__).resolve().parent.parent
_CRDS = sorted((_ROOT / "crds").glob("metainf.dev_*.yaml"))
_GOOD = _ROOT / "e2e/manifests/good"
_BAD = yaml.safe_load((_ROOT / "e2e/manifests/bad.yaml").read_text())
_NAMESPACE = f"metainf-crds-{os.getpid()}"  # of this run alone: the last one's may still be going
_SERVED_WITHIN_S = 30.0
# The server adds this line beside a fault that kept it from running the CEL rules.
_REMARK = "some validation rules were not checked because the object was invalid"


class _Cluster(Protocol):
    @property
    def kubeconfig(self) -> Path: ...

    @property
    def kubectl(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class _Kubectl:
    """Runs kubectl against one cluster, in one namespace."""

    program: Path
    kubeconfig: Path

    def run(self, *arguments: str, stdin: Any = None) -> subprocess.CompletedProcess[str]:
        """Run it; `stdin` is written as JSON."""
        command = [str(self.program), "--kubeconfig", str(self.kubeconfig), "--namespace", _NAMESPACE, *arguments]
        text = None if stdin is None else json.dumps(stdin)
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)

    def ok(self, *arguments: str, stdin: Any = None) -> str:
        """Run it, expect success and give what it printed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def dry_run(self, manifest: Any) -> subprocess.CompletedProcess[str]:
        """Have the server check a manifest and keep nothing."""
        return self.run("create", "--dry-run=server", "--output=json", "--filename=-", stdin=manifest)


@pytest.fixture(scope="module")
def kubectl(cluster: _Cluster) -> Iterator[_Kubectl]:
    tool = _Kubectl(cluster.kubectl, cluster.kubeconfig)
    for crd in _CRDS:
        tool.ok("apply", "--server-side", "--force-conflicts", f"--filename={crd}")
    names = [f"crd/{yaml.safe_load(crd.read_text())['metadata']['name']}" for crd in _CRDS]
    tool.ok("wait", "--for=condition=Established", "--timeout=30s", *names)
    tool.ok("create", "namespace", _NAMESPACE)
    _await_served(tool)
    yield tool
    tool.ok("delete", "namespace", _NAMESPACE, "--wait=false")


def _await_served(tool: _Kubectl) -> None:
    # A definition is Established a moment before its objects are taken.
    deadline = time.monotonic() + _SERVED_WITHIN_S
    for kind in ("minimal-workload", "minimal-pool", "decision-chosen"):
        while (done := tool.dry_run(_good(kind))).returncode:
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.2)


def _good(stem: str) -> Any:
    return yaml.safe_load((_GOOD / f"{stem}.yaml").read_text())


def _good_manifests() -> Iterator[Any]:
    for folder in (_ROOT / "crds/examples", _GOOD):
        for path in sorted(folder.glob("*.yaml")):
            for manifest in yaml.safe_load_all(path.read_text()):
                yield pytest.param(manifest, id=f"{path.stem}-{manifest['metadata']['name']}")


def _merged(target: Any, patch: Any) -> Any:
    # A JSON merge patch (RFC 7396).
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _faults(stderr: str) -> list[str]:
    listed = [line for line in stderr.splitlines() if line.startswith("* ")]
    return [line for line in listed if _REMARK not in line] or [stderr]


@pytest.mark.parametrize("manifest", list(_good_manifests()))
def test_the_server_takes_each_good_manifest_without_a_warning(kubectl: _Kubectl, manifest: Any) -> None:
    done = kubectl.dry_run(manifest)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in _BAD])
def test_the_server_refuses_each_bad_manifest_for_one_reason_in_plain_words(kubectl: _Kubectl, case: Any) -> None:
    done = kubectl.dry_run(_merged(_good(case["base"]), case["patch"]))
    assert done.returncode != 0
    assert case["message"] in done.stderr
    assert len(_faults(done.stderr)) == 1


def test_what_a_workload_leaves_out_gets_the_documented_default(kubectl: _Kubectl) -> None:
    stored = json.loads(kubectl.dry_run(_good("minimal-workload")).stdout)
    defaults = {
        "objective": "MinimizeCost",
        "methods": {"lossy": "Never"},
        "placement": {"spot": "Never"},
        "scaling": {"minReplicas": 1},
        "policy": {
            "mode": "Auto",
            "minimumGain": "0.1",
            "cooldown": "30m",
            "confidence": "0.9",
            "onViolation": "Keep",
            "traffic": "Declared",
        },
        "suspend": False,
        "traffic": {"repetitiveness": "Unknown", "burstiness": "1"},
        "budget": {"currency": "USD"},
    }
    assert stored["spec"] == _merged(_good("minimal-workload")["spec"], defaults)


def test_nothing_of_a_manifest_that_uses_every_field_is_dropped(kubectl: _Kubectl) -> None:
    manifest = _good("everything")
    stored = json.loads(kubectl.dry_run(manifest).stdout)
    # A toleration without an operator gets the default one; all else comes back as written.
    manifest["spec"]["placement"]["tolerations"][1]["operator"] = "Equal"
    assert stored["spec"] == manifest["spec"]


@pytest.fixture
def workload(kubectl: _Kubectl) -> Iterator[str]:
    name = "crd-story"
    manifest = _merged(_good("minimal-workload"), {"metadata": {"name": name}, "spec": {"suspend": True}})
    kubectl.ok("create", "--filename=-", stdin=manifest)
    yield name
    kubectl.ok("delete", "miw", name)


def _scale(workload: str) -> str:
    return f"/apis/metainf.dev/v1alpha1/namespaces/{_NAMESPACE}/inferenceworkloads/{workload}/scale"


def _set_replicas(kubectl: _Kubectl, workload: str) -> None:
    kubectl.ok("patch", "miw", workload, "--type=merge", '--patch={"spec":{"scaling":{"replicas":1}}}')


def test_no_autoscaler_starts_while_the_operator_sizes(kubectl: _Kubectl, workload: str) -> None:
    done = kubectl.run("get", "--raw", _scale(workload))
    assert 'the spec replicas field ".spec.scaling.replicas" does not exist' in done.stderr


def test_replicas_go_through_the_scale_subresource(kubectl: _Kubectl, workload: str) -> None:
    _set_replicas(kubectl, workload)
    kubectl.ok("scale", "miw", workload, "--replicas=3")
    assert json.loads(kubectl.ok("get", "--raw", _scale(workload)))["spec"] == {"replicas": 3}
    assert kubectl.ok("get", "miw", workload, "--output=jsonpath={.spec.scaling.replicas}") == "3"


def test_an_autoscaler_reads_replicas_and_selector_from_the_status(kubectl: _Kubectl, workload: str) -> None:
    _set_replicas(kubectl, workload)
    status = '--patch={"status":{"replicas":2,"selector":"a=b"}}'
    kubectl.ok("patch", "miw", workload, "--type=merge", "--subresource=status", status)
    assert json.loads(kubectl.ok("get", "--raw", _scale(workload)))["status"] == {"replicas": 2, "selector": "a=b"}


def test_a_status_in_a_users_manifest_is_not_taken(kubectl: _Kubectl) -> None:
    manifest = _merged(_good("minimal-workload"), {"status": {"method": "mine", "replicas": 5}})
    assert "status" not in json.loads(kubectl.dry_run(manifest).stdout)


def test_two_conditions_of_one_type_are_refused(kubectl: _Kubectl, workload: str) -> None:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-01T00:00:00Z", "reason": "A"}
    patch = json.dumps({"status": {"conditions": [{**ready, "message": "a"}, {**ready, "message": "b"}]}})
    done = kubectl.run("patch", "miw", workload, "--type=merge", "--subresource=status", f"--patch={patch}")
    assert 'status.conditions[1]: Duplicate value: {"type":"Ready"}' in done.stderr


def test_get_shows_the_columns_that_answer_is_it_well_and_what_does_it_cost(kubectl: _Kubectl, workload: str) -> None:
    usual = ["NAME", "READY", "REASON", "METHOD", "POOL", "ACCELERATOR", "COST/H", "AGE"]
    wide = [*usual, "BUDGET", "CONFIDENCE", "TTFT", "TOKENS", "DECISION", "URL"]
    assert kubectl.ok("get", "miw", workload).splitlines()[0].split() == usual
    assert kubectl.ok("get", "miw", workload, "--output=wide").splitlines()[0].split() == wide


def test_the_three_kinds_are_found_by_their_category(kubectl: _Kubectl) -> None:
    names = kubectl.ok("api-resources", "--categories=metainf", "--output=name").split()
    assert sorted(names) == [
        "acceleratorpools.metainf.dev",
        "inferencedecisions.metainf.dev",
        "inferenceworkloads.metainf.dev",
    ]


@pytest.fixture
def decision(kubectl: _Kubectl) -> Iterator[str]:
    manifest = _good("decision-chosen")
    kubectl.ok("create", "--filename=-", stdin=manifest)
    yield manifest["metadata"]["name"]
    kubectl.ok("delete", "mid", manifest["metadata"]["name"])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"confidence": "0.8"}, id="another value"),
        pytest.param({"alternatives": None}, id="a part removed"),
        pytest.param({"chosen": {"costTotal": "1"}}, id="a part added"),
        pytest.param({"chosen": {"argv": ["serve"]}}, id="a shorter list"),
    ],
)
def test_a_decision_cannot_be_rewritten(kubectl: _Kubectl, decision: str, change: Any) -> None:
    done = kubectl.run("patch", "mid", decision, "--type=merge", f"--patch={json.dumps({'spec': change})}")
    assert done.returncode != 0
    assert "a decision is a record and never changes" in done.stderr


def test_what_became_of_a_decision_is_written_to_its_status(kubectl: _Kubectl, decision: str) -> None:
    status = {"phase": "Active", "observed": {"ttft": {"p95": "0.31"}, "requests": 5000000000}}
    patch = f"--patch={json.dumps({'status': status})}"
    kubectl.ok("patch", "mid", decision, "--type=merge", "--subresource=status", patch)
    row = kubectl.ok("get", "mid", decision, "--no-headers").split()
    assert row[:8] == [decision, "chat", "Active", "Chosen", "prefix-caching", "TP1", "l40s", "2"]


def test_decisions_are_found_by_their_workload(kubectl: _Kubectl, decision: str) -> None:
    def found(workload: str) -> str:
        selector = f"--field-selector=spec.workloadRef.name={workload}"
        return kubectl.ok("get", "mid", selector, "--output=name").strip()

    assert found("chat") == f"inferencedecision.metainf.dev/{decision}"
    assert found("other") == ""
